"""The design's rules about who may import whom, and what an import may cost."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the ground up: a module may import only from floors below its own.
FLOORS = [
    ["mova.request", "mova.text"],
    ["mova.shapes", "mova.spectrum", "mova.adapters.strengths"],
    ["mova.files", "mova.media.images", "mova.catalog", "mova.guidance", "mova.media.plots"],
    ["mova.machine"],
    [
        "mova.media.clips",
        "mova.hub",
        "mova.adapters.files",
        "mova.request",
        "mova.prompting",
        "mova.scheduler",
        "mova.models.attention",
    ],
    [
        "mova.cli.main",
        "mova.metrics",
        "mova.adapters.formats",
        "mova.models.dit",
        "mova.models.bridge",
        "mova.models.audio_vae",
        "mova.models.video_vae",
    ],
    ["mova.models.dit", "mova.models.dit", "mova.adapters.sources", "mova.adapters.edits"],
    ["mova.models.dual_tower", "mova.checkpoint"],
    ["mova.checkpoint", "mova.offload", "mova.encoders"],
    ["mova.adapters.mixin", "mova.offload"],
    ["mova.encoders"],
    ["mova.pipeline"],
    ["mova.placement", "mova.backends.local"],
    ["mova.inspection"],
    ["mova.media.clips"],
    ["mova.backends"],
    ["mova.cli.main", "demo"],
]
# The trainer stands on the toolkit; its own floors, and gradio only in its page.
TRAINER_FLOORS = [
    [
        *(
            "lora_trainer.config",
            "lora_trainer.manifest",
            "lora_trainer.adapter_commands",
            "lora_trainer.latent_cache",
        ),
        *("lora_trainer.journal", "lora_trainer.doctor", "demo.train.service"),
        *("lora_trainer.jobs.hub", "lora_trainer.jobs.hub"),
    ],
    ["lora_trainer.config", "lora_trainer.clip_folder", "lora_trainer.jobs.runs"],
    ["lora_trainer.jobs.runs", "lora_trainer.jobs.publish"],
    ["lora_trainer.jobs.hub_sync"],
    ["lora_trainer.jobs.hub", "lora_trainer.jobs.hub_entry"],
    ["lora_trainer.measurements", "lora_trainer.engine", "lora_trainer.distributed"],
    [
        "lora_trainer.decode",
        "lora_trainer.checkpoint",
        "lora_trainer.batch_sampler",
        "lora_trainer.distributed",
    ],
    ["lora_trainer.windows", "lora_trainer.measurements", "lora_trainer.optimizers", "lora_trainer.lora"],
    ["lora_trainer.regularization"],
    ["lora_trainer.latent_cache", "lora_trainer.objective", "lora_trainer.base_model", "lora_trainer.train"],
    ["lora_trainer.quantised"],
    ["lora_trainer.validation", "lora_trainer.validation", "lora_trainer.doctor", "lora_trainer.plan.memory"],
    ["lora_trainer.engine", "lora_trainer.doctor_report", "lora_trainer.doctor", "lora_trainer.plan.flops"],
    ["lora_trainer.train", "lora_trainer.plan.inputs", "demo.train.form"],
    ["lora_trainer.plan.estimate"],
    ["lora_trainer.plan.probe", "lora_trainer.plan.estimate"],
    ["lora_trainer.plan.estimate", "demo.train.worker", "lora_trainer.jobs.process"],
    ["lora_trainer.overfit"],
    ["lora_trainer.commands"],
    ["lora_trainer.__main__"],
    ["demo.train.html", "demo.train.rental"],
    ["demo.train.service"],
    ["demo.train.tab", "demo.train.runs"],
    ["demo.train.tab"],
    ["demo.train.runs"],
    ["demo.train.tab"],
]
HEAVY = {"torch", "diffusers", "transformers", "gradio", "av", "accelerate", "peft"}


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def floor_of(name, floors=FLOORS):
    for floor, prefixes in enumerate(floors):
        if any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes):
            return floor
    raise AssertionError(f"{name} has no place in FLOORS")


def runtime_imports(path, packages=("mova",)):
    """Modules of these packages that `path` imports outside `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in packages:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if (ROOT / inner.replace(".", "/")).with_suffix(".py").exists() else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith(packages))


FILES = [path for path in (ROOT / "mova").rglob("*.py") if module_name(path) not in ("mova", "mova.models")]


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_module_imports_only_from_below(path):
    name = module_name(path)
    for imported in runtime_imports(path):
        package = imported in ("mova", "mova.models") or name.startswith(f"{imported}.")
        same = imported.rpartition(".")[0] in (name, name.rpartition(".")[0], "mova.prompting") and (
            imported.split(".")[:2] == name.split(".")[:2]
        )
        assert package or same or floor_of(imported) < floor_of(name), f"{name} imports {imported}"


TRAINER = [path for path in (ROOT / "lora_trainer").rglob("*.py") if module_name(path) != "lora_trainer"]


@pytest.mark.parametrize("path", TRAINER, ids=module_name)
def test_the_trainer_imports_only_from_below_and_from_the_toolkit(path):
    name = module_name(path)
    for imported in runtime_imports(path, ("lora_trainer", "mova", "pocket", "app")):
        if imported.startswith("lora_trainer"):
            assert floor_of(imported, TRAINER_FLOORS) < floor_of(name, TRAINER_FLOORS), f"{name}: {imported}"
        else:
            assert imported.startswith("mova"), f"{name} imports {imported}"
            assert not imported.startswith("demo") or name.startswith("demo.train.tab")
    if not name.startswith("demo.train.tab"):
        assert "gradio" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_the_toolkit_knows_nothing_of_the_trainer(path):
    assert not list(runtime_imports(path, ("lora_trainer",)))


@pytest.mark.parametrize(
    "module",
    [
        *("mova", "mova.request", "mova.shapes", "mova.catalog", "mova.guidance", "mova.cli.main"),
        *("lora_trainer.config", "lora_trainer.manifest", "lora_trainer.commands", "lora_trainer.__main__"),
        *(
            "lora_trainer.jobs.runs",
            "lora_trainer.jobs.process",
            "lora_trainer.jobs.publish",
            "lora_trainer.clip_folder",
        ),
        *("lora_trainer.jobs.hub", "lora_trainer.jobs.hub_entry"),
    ],
)
def test_an_import_loads_nothing_heavy(module):
    code = f"import sys, {module}; print(*{{m.partition('.')[0] for m in sys.modules}})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(loaded.stdout.split())


def test_the_page_is_built_without_what_the_model_needs(golden, tmp_path):
    """It must be up in seconds, and stay light: the model has a process of its own."""
    code = (
        "import os, sys, app; from demo.settings import Settings; "
        "studio = app.open_studio(Settings.read(os.environ)); assert 'gradio' not in sys.modules; "
        "app.build(studio); "
        "print(*{m.partition('.')[0] for m in sys.modules})"
    )
    environment = os.environ | {"MOVA_MODEL": str(golden / "checkpoint"), "MOVA_OUTPUTS": str(tmp_path)}
    built = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, env=environment
    )
    assert not {"torch", "diffusers", "transformers", "accelerate", "peft"} & set(built.stdout.split())


def test_only_the_page_knows_gradio():
    knowing = [
        module_name(path)
        for path in [*FILES, *(ROOT / "lora_trainer").rglob("*.py")]
        if any(name.partition(".")[0] in ("gradio", "spaces") for name in all_imports(path))
    ]
    assert knowing
    assert all(name.startswith(("demo.", "demo.train.tab")) for name in knowing)


def all_imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)

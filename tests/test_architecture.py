"""The design's layers: folders import downwards only, nothing in circles, and light modules stay light."""

import ast
import graphlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# From the ground up; `prompting`, `metrics` and `backends` stand side by side. Longer prefixes first.
LAYERS = {
    "mova.prompting": 1,
    "mova.metrics": 1,
    "mova.backends": 1,
    "mova.cli": 2,
    "mova.__main__": 3,
    "mova": 0,
    "lora_trainer": 3,
    "demo": 4,
    "app": 5,
    "recipes": 6,
    "benchmarks": 7,
}
TOPS = ("mova", "lora_trainer", "demo", "recipes", "benchmarks")
HEAVY = {"torch", "diffusers", "transformers", "gradio", "av", "accelerate", "peft", "cv2"}


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


PATHS = {
    module_name(path): path
    for path in [
        ROOT / "app.py",
        *(p for top in LAYERS for p in (ROOT / top).rglob("*.py") if "." not in top),
    ]
}


def imports_of(name):
    """All that a module imports, in functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(PATHS[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in PATHS else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def wing_of(name):
    return next(prefix for prefix in LAYERS if name == prefix or name.startswith(f"{prefix}."))


GRAPH = {name: {each for each in imports_of(name) if each in PATHS and each != name} for name in PATHS}


def test_a_module_imports_only_its_own_wing_and_those_below():
    pairs = [(name, each, wing_of(name), wing_of(each)) for name in PATHS for each in GRAPH[name]]
    assert [
        f"{name} imports {imported}"
        for name, imported, wing, other in pairs
        if other != wing and LAYERS[other] >= LAYERS[wing]
    ] == []


def test_no_imports_go_in_circles():
    graphlib.TopologicalSorter(GRAPH).prepare()


def test_only_the_page_knows_gradio():
    knowing = {
        name for name in PATHS if {each.partition(".")[0] for each in imports_of(name)} & {"gradio", "spaces"}
    }
    assert knowing
    assert all(name == "app" or name.startswith("demo.") for name in knowing)


LIGHT = [
    *("mova", "mova.request", "mova.shapes", "mova.catalog", "mova.guidance", "mova.machine"),
    "mova.cli.main",
    *("lora_trainer.config", "lora_trainer.manifest", "lora_trainer.commands", "lora_trainer.__main__"),
    *("lora_trainer.regularization", "lora_trainer.adapter_commands", "mova.cli.exits"),
    *("lora_trainer.jobs.runs", "lora_trainer.jobs.process", "lora_trainer.jobs.publish"),
    *("lora_trainer.jobs.hub", "lora_trainer.jobs.hub_entry", "lora_trainer.clip_folder"),
]


def loaded_by(code, environment=None):
    """Top-level modules that a fresh process has after `code`."""
    code += "; import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    return set(done.stdout.split())


def test_light_modules_load_nothing_heavy():
    if HEAVY & loaded_by(f"import {', '.join(LIGHT)}"):
        assert {name: found for name in LIGHT if (found := HEAVY & loaded_by(f"import {name}"))} == {}


def test_the_page_is_built_without_what_the_model_needs(golden, tmp_path):
    """It must be up in seconds, and stay light: the model has a process of its own."""
    code = (
        "import os, sys, app; from demo.settings import Settings; "
        "service = app.open_service(Settings.read(os.environ)); assert 'gradio' not in sys.modules; "
        "app.build(service)"
    )
    environment = os.environ | {"MOVA_MODEL": str(golden / "checkpoint"), "MOVA_OUTPUTS": str(tmp_path)}
    assert not {"torch", "diffusers", "transformers", "accelerate", "peft"} & loaded_by(code, environment)

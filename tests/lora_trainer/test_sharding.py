"""Several processes. Weights shared out among them: the same bits, half the memory, any order of layers.

The slow tests run a script in two processes, which talk over gloo on the CPU. Not covered: GPUs, NCCL.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lora_trainer.checkpoint import load_state
from lora_trainer.journal import Journal
from lora_trainer.presets import EXPERTS
from mova.types import UserError
from tests.lora_trainer.test_engine import environment, equal, free_port

ROOT = Path(__file__).parents[2]
HEAD = """
import sys
import torch
from pathlib import Path
from lora_trainer.cache import read_index
from lora_trainer.config import Config
from lora_trainer.encode import checkpoint_folder
from lora_trainer.engine import Engine
from lora_trainer.model import load_model
from lora_trainer.quantised import LAYER
from lora_trainer.train import Trainer
from mova.strengths import TOWERS
from mova.types import BackendError, Cancelled
folder, cpu = Path(sys.argv[1]), torch.device("cpu")

def parts(offload, **changes):
    config = Config.model_validate_json((folder / "config.json").read_text())
    config = config.model_copy(update={"output": folder / offload})
    config = config.model_copy(update={"run": config.run.model_copy(update={"offload": offload, **changes})})
    pipeline = load_model(checkpoint_folder(config), cpu, torch.float32, offload)
    return config, read_index(config.cache), pipeline

def steps(engine, count):
    records = []
    for _ in range(count):
        while engine.micro < engine.config.run.accumulation:
            engine.micro_batch()
        records.append(engine.update())
    return records

def held(pipeline):
    \"\"\"Bytes of the layers' frozen weights that this process holds between passes.\"\"\"
    if pipeline.residency.shards:
        pipeline.residency.shards.stop()
    towers = {name: getattr(pipeline, name).named_parameters() for name in TOWERS}
    weights = [p for each in towers.values() for path, p in each if LAYER.match(path) and not p.requires_grad]
    local = [p.to_local() if hasattr(p, "to_local") else p for p in weights]
    return sum(p.untyped_storage().nbytes() for p in local)
"""


def in_two_processes(code, tmp_path, config, codes=(0, 0)):
    """What `code` saves as `result` in each of two processes that ends with 0; `codes` are the exit codes."""
    (tmp_path / "config.json").write_text(config.model_dump_json())
    code = f'{HEAD}{code}\ntorch.save(result, folder / f"{{engine.workers.rank}}.pt")\n'
    (tmp_path / "worker.py").write_text(code)
    command = [sys.executable, str(tmp_path / "worker.py"), str(tmp_path)]
    port = free_port()
    processes = [subprocess.Popen(command, cwd=ROOT, env=environment(rank, port)) for rank in range(2)]
    assert tuple(process.wait(timeout=300) for process in processes) == codes
    return [torch.load(tmp_path / f"{rank}.pt") for rank in range(2) if codes[rank] == 0]


VARIANTS = {
    "plain": {},
    "int8": {"run__base": "int8"},
    "audio alone": {f"towers__{name}__train": False for name in (*EXPERTS, "dual_tower_bridge")},
    "bridge alone": {f"towers__{name}__train": False for name in (*EXPERTS, "audio_dit")},
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_shards_change_no_bit_halve_the_memory_and_resume(parts, tmp_path, variant):
    """Also where one process drops the bridge, so that its backward pass ends elsewhere or is none."""
    changes = {"run__gradient_checkpointing": True, "objective__bridge_dropout": 0.5} | VARIANTS[variant]
    config, *_ = parts(**changes)
    code = """
result = {}
for offload in ("none", "shards"):
    engine = Engine(*parts(offload))
    records = [*steps(engine, 1)]
    if offload == "shards":
        torch.save(engine.state(), folder / f"state{engine.workers.rank}.pt")
    records += steps(engine, 2)
    weights = {key: weight.detach().clone() for key, weight in engine.lora.weights.items()}
    result[offload] = {"records": records, "weights": weights, "bytes": held(engine.pipeline)}
engine = Engine(*parts("shards"))
engine.workers.wait()
engine.restore(torch.load(folder / "state0.pt"))  # the first process writes for all
records = steps(engine, 2)
weights = {key: weight.detach().clone() for key, weight in engine.lora.weights.items()}
result["resumed"] = {"records": records, "weights": weights}
"""
    for found in in_two_processes(code, tmp_path, config):
        whole, shards, resumed = found["none"], found["shards"], found["resumed"]
        assert shards["records"] == whole["records"]
        assert equal(shards["weights"], whole["weights"])
        assert resumed["records"] == shards["records"][1:]
        assert equal(resumed["weights"], shards["weights"])
        assert shards["bytes"] == pytest.approx(whole["bytes"] / 2, rel=0.04)  # odd sizes are padded


@pytest.mark.slow
def test_a_sharded_run_with_samples_stops_resumes_and_writes_the_same_adapter(parts, tmp_path):
    config, *_ = parts(
        run__gradient_checkpointing=True,
        data__num_frames=[9],
        samples__clips=[{"prompt": "a lamp"}],
        samples__num_inference_steps=1,
        samples__guidance_scale=1,
    )
    code = """
Trainer(*parts("none")).run()
trainer = Trainer(*parts("shards"))

def stop_at_2(record):
    trainer.stopping = record["step"] == 2 and trainer.workers.rank == 1

try:
    trainer.run(on_step=stop_at_2)
except Cancelled:
    trainer = Trainer(*parts("shards"))
    trainer.run(resume=True)
engine, result = trainer.engine, {}
"""
    in_two_processes(code, tmp_path, config)
    whole, shards = (tmp_path / name for name in ("none", "shards"))
    files = [load_file(each / "adapter.safetensors") for each in (whole, shards)]
    assert equal(*files)
    runs = [Journal(each / "journal.jsonl") for each in (whole, shards)]
    assert len(runs[1].read("resumed")) == 1
    for event in ("base", "validation"):
        first, second = (run.read(event) for run in runs)
        assert [each["held_out"] for each in first] == [each["held_out"] for each in second]
    names = {path.name for path in (whole / "samples").iterdir()}
    assert {path.name for path in (shards / "samples").iterdir()} == names != set()


@pytest.mark.slow
def test_a_process_of_several_that_runs_out_of_memory_leaves_the_last_whole_step(parts, tmp_path):
    """Inside a step every process has other gradients, so that none of them may be saved for all."""
    config, *_ = parts(run__accumulation=2, run__checkpoint_every=1)
    code = """
trainer = Trainer(*parts("none"))
engine = trainer.engine
inner = engine._backward

def backward(*arguments):
    if (engine.step, engine.micro, engine.workers.rank) == (1, 1, 1):
        raise torch.OutOfMemoryError("CUDA out of memory")
    return inner(*arguments)

engine._backward = backward
try:
    trainer.run()
except BackendError as error:
    result = str(error)
"""
    (sentence,) = in_two_processes(code, tmp_path, config, codes=(1, 0))
    assert "out of memory; the last good state is" in sentence
    state = load_state(tmp_path / "none" / "checkpoints")
    assert (state["step"], state["micro"]) == (1, 0)


def test_shards_of_a_single_process_are_refused(engine):
    with pytest.raises(UserError, match="accelerate launch"):
        engine(run__offload="shards", run__gradient_checkpointing=True)


def test_shards_need_checkpointing_and_take_no_fp8(settings):
    with pytest.raises(UserError, match="offload shards needs gradient_checkpointing"):
        settings(run__offload="shards")
    with pytest.raises(UserError, match="offload shards does not take fp8"):
        settings(run__offload="shards", run__gradient_checkpointing=True, run__base="fp8")

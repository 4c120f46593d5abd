"""Several processes. Weights shared out among them: the same bits, half the memory, any order of layers.

Two processes talk over gloo on the CPU. Not covered: GPUs, NCCL.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lora_trainer.checkpoint import load_state
from lora_trainer.config import EXPERTS
from lora_trainer.engine import Engine
from lora_trainer.journal import Journal
from lora_trainer.quantised import LAYER
from lora_trainer.train import Trainer, saved_state
from mova.adapters.strengths import TOWERS
from mova.errors import BackendError, Cancelled, UserError
from tests.lora_trainer.conftest import run_steps
from tests.lora_trainer.test_engine import equal
from tests.lora_trainer.two_processes import in_two_processes
from tests.lora_trainer.two_processes import parts as parts_there


def held(pipeline):
    """Bytes of the layers' frozen weights that this process holds between passes."""
    if pipeline.residency.shards:
        pipeline.residency.shards.stop()
    towers = {name: getattr(pipeline, name).named_parameters() for name in TOWERS}
    weights = [p for each in towers.values() for path, p in each if LAYER.match(path) and not p.requires_grad]
    local = [p.to_local() if hasattr(p, "to_local") else p for p in weights]
    return sum(p.untyped_storage().nbytes() for p in local)


def weights_of(engine):
    return {key: weight.detach().clone() for key, weight in engine.lora.weights.items()}


VARIANTS = {
    "plain": {},
    "int8": {"run__base": "int8"},
    "audio alone": {f"towers__{name}__train": False for name in (*EXPERTS, "dual_tower_bridge")},
    "bridge alone": {f"towers__{name}__train": False for name in (*EXPERTS, "audio_dit")},
}


def whole_sharded_and_resumed(folder: Path):
    result = {}
    for offload in ("none", "shards"):
        engine = Engine(*parts_there(folder, offload))
        records = [run_steps(engine, 1)]
        if offload == "shards":
            torch.save(engine.state(), folder / f"state{engine.workers.rank}.pt")
        records += [run_steps(engine, 1) for _ in range(2)]
        result[offload] = {"records": records, "weights": weights_of(engine), "bytes": held(engine.pipeline)}
    engine = Engine(*parts_there(folder, "shards"))
    engine.workers.wait()
    engine.restore(torch.load(folder / "state0.pt"))  # the first process writes for all
    records = [run_steps(engine, 1) for _ in range(2)]
    return result | {"resumed": {"records": records, "weights": weights_of(engine)}}


@pytest.mark.parametrize("variant", VARIANTS)
def test_shards_change_no_bit_halve_the_memory_and_resume(parts, tmp_path, variant):
    """Also where one process drops the bridge, so that its backward pass ends elsewhere or is none."""
    changes = {"run__gradient_checkpointing": True, "objective__bridge_dropout": 0.5} | VARIANTS[variant]
    config, *_ = parts(**changes)
    for found in in_two_processes(whole_sharded_and_resumed, tmp_path, config):
        whole, shards, resumed = found["none"], found["shards"], found["resumed"]
        assert shards["records"] == whole["records"]
        assert equal(shards["weights"], whole["weights"])
        assert resumed["records"] == shards["records"][1:]
        assert equal(resumed["weights"], shards["weights"])
        assert shards["bytes"] == pytest.approx(whole["bytes"] / 2, rel=0.04)  # odd sizes are padded


def run_whole_then_sharded_with_a_stop(folder: Path):
    Trainer(*parts_there(folder, "none")).run()
    trainer = Trainer(*parts_there(folder, "shards"))

    def stop_at_2(record):
        trainer.stopping = record["step"] == 2 and trainer.engine.workers.rank == 1

    with pytest.raises(Cancelled):
        trainer.run(on_step=stop_at_2)
    config, *there = parts_there(folder, "shards")
    Trainer(config, *there, state=saved_state(config, resume=True, is_first=False)).run()


@pytest.mark.slow
def test_a_sharded_run_with_samples_stops_resumes_and_writes_the_same_adapter(parts, tmp_path):
    config, *_ = parts(
        run__gradient_checkpointing=True,
        data__num_frames=[9],
        samples__clips=[{"prompt": "a lamp"}],
        samples__num_inference_steps=1,
        samples__guidance_scale=1,
    )
    in_two_processes(run_whole_then_sharded_with_a_stop, tmp_path, config)
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


def run_out_of_memory_in_one(folder: Path):
    trainer = Trainer(*parts_there(folder, "none"))
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
        return str(error)


def test_a_process_of_several_that_runs_out_of_memory_leaves_the_last_whole_step(parts, tmp_path):
    """Inside a step every process has other gradients, so that none of them may be saved for all."""
    config, *_ = parts(run__accumulation=2, run__checkpoint_every=1)
    (sentence,) = in_two_processes(run_out_of_memory_in_one, tmp_path, config, codes=(1, 0))
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

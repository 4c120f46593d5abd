"""The plan against what really happens on the golden model, and the released one against the reference."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop, sdpa_flop

from benchmarks import released_sizes
from lora_trainer.__main__ import main
from lora_trainer.config import read_config
from lora_trainer.lora import save_adapter
from lora_trainer.plan import flops, memory
from lora_trainer.plan.estimate import advise, estimate_run
from lora_trainer.plan.inputs import find_card, plan_inputs, read_windows
from lora_trainer.train import adapter_card
from mova import machine
from mova.adapters.strengths import TOWERS
from mova.errors import UserError
from mova.machine import GIB
from mova.shapes import ClipShape
from tests.lora_trainer.conftest import run_steps

FULL = ClipShape(352, 640, 193, 24.0, 48000, 960)
HALF = dataclasses.replace(FULL, num_frames=97)
RANK_16 = {f"towers.{name}.rank": 16 for name in TOWERS} | {"towers.audio_dit.targets": "attention"}


@pytest.fixture(scope="session")
def release(golden, tmp_path_factory):
    """The released model as a folder of configs without weights."""
    folder = tmp_path_factory.mktemp("release")
    configs = {
        "video_dit": released_sizes.VIDEO_DIT,
        "video_dit_2": released_sizes.VIDEO_DIT,
        "audio_dit": released_sizes.AUDIO_DIT,
        "dual_tower_bridge": released_sizes.BRIDGE,
        "audio_vae": released_sizes.AUDIO_VAE,
        "video_vae": {},
        "text_encoder": released_sizes.TEXT_ENCODER | {"model_type": "umt5"},
    }
    for name, config in configs.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
    (folder / "scheduler").mkdir()
    for name in ("scheduler/scheduler_config.json", "model_index.json"):
        (folder / name).write_text((golden / "checkpoint" / name).read_text())
    return folder


@pytest.fixture(scope="session")
def known_release(release, clips, tmp_path_factory):
    """Its inputs, read once; the clips are replaced by windows of the released size."""
    known = plan_inputs(
        release_config(release, clips, tmp_path_factory.mktemp("none"), {"data.num_frames": [9]})
    )
    return lambda shape: dataclasses.replace(known, windows={shape: 20}, clips=12)


def release_config(release, clips, tmp_path, changes):
    base = {"model": str(release), "output": str(tmp_path), "data.path": str(clips), "recipe": "released"}
    return read_config(None, base | RANK_16 | changes)


@pytest.fixture
def planned(known_release, release, clips, tmp_path):
    """(plan, advice) for the released model on a named card."""

    def planned(gpu, shape=FULL, gpus=1, **changes):
        changes = {key.replace("__", "."): value for key, value in changes.items()}
        config = release_config(release, clips, tmp_path, changes)
        card, known = find_card(config, gpu, gpus), known_release(shape)
        plan = estimate_run(config, card, known)
        return plan, advise(config, card, known, plan)

    return planned


def test_the_released_model_is_planned_from_configs_alone(known_release, release, clips, tmp_path):
    towers = known_release(FULL).towers
    config = release_config(release, clips, tmp_path, {})
    sizes = memory.frozen_on_device(towers, config, 2)
    assert sizes == {
        "video_dit": 2 * 14_288_901_184,
        "video_dit_2": 2 * 14_288_901_184,
        "audio_dit": 2 * 1_419_193_472,
        "dual_tower_bridge": 2 * 2_659_737_600,
    }
    # training.md 5.1: 142 M weights at rank 16 in the attention of all towers.
    assert sum(memory.lora_parameters(towers, config).values()) == pytest.approx(142e6, rel=0.01)


def test_the_released_experts_take_a_byte_or_nine_sixteenths_for_each_linear_weight(known_release, planned):
    dim, ffn_dim, layers, parameters = 5120, 13824, 40, 14_288_901_184
    linear = layers * (8 * dim**2 + 2 * dim * ffn_dim)
    rest, rows = 2 * (parameters - linear), layers * (9 * dim + ffn_dim)
    int8, nf4 = (planned("H200", HALF, run__base=base)[0].device for base in ("int8", "nf4"))
    assert int8["video_dit"] == rest + linear + 4 * rows
    assert nf4["video_dit_2"] == rest + linear * 9 // 16
    assert int8["weights widened"] == nf4["weights widened"] == 2 * dim * ffn_dim


def test_streamed_layers_in_4_bits_need_a_small_host(planned):
    plain, small = (
        planned("4090", HALF, run__base=base, run__offload="layers")[0] for base in ("plain", "nf4")
    )
    assert small.fits
    assert sum(small.host.values()) < 0.5 * sum(plain.host.values())
    assert sum(small.device.values()) < sum(plain.device.values())


@pytest.mark.parametrize(("shape", "petaflops"), [(FULL, 10.5), (HALF, 3.6)])
def test_a_released_training_step_costs_what_the_reference_counts(planned, shape, petaflops):
    plan, _ = planned("H200", shape, run__accumulation=1)
    assert plan.petaflops == pytest.approx(petaflops, rel=0.04)


def test_memory_budgets_of_an_80_and_of_a_24_gb_card(planned):
    one_expert, _ = planned("H100", run__offload="experts")
    assert one_expert.fits
    assert 60 * GIB < sum(one_expert.device.values()) <= 72 * GIB
    streamed, _ = planned("4090", HALF, run__offload="layers")
    assert streamed.fits
    assert 18 * GIB < sum(streamed.device.values()) <= 22 * GIB
    both, _ = planned("H200")
    assert both.fits
    assert both.device["activations between layers"] == pytest.approx(17.7e9, rel=0.01)


def test_shards_divide_the_layers_by_the_number_of_cards(planned):
    sums = {}
    for gpus in (2, 4, 8):
        plan, advice = planned("H100", gpus=gpus, run__offload="shards")
        part = plan.device[f"one of {gpus} parts of all layers"]
        assert part * gpus == pytest.approx(64.3e9, rel=0.01)  # both experts, audio tower and bridge
        sums[gpus] = sum(plan.device.values())
        assert plan.fits
    assert sums[2] - sums[4] == pytest.approx(64.3e9 / 4, rel=0.01)
    assert sums[4] - sums[8] == pytest.approx(64.3e9 / 8, rel=0.01)
    _, advice = planned("H100", gpus=2)
    assert any(sentence.startswith('Set run.offload = "shards": ') for sentence in advice)
    assert not any("shards" in sentence for sentence in planned("H100")[1])


def test_advice_fits_when_it_is_followed(planned):
    plan, advice = planned("4090", run__batch_size=2)
    assert not plan.fits
    assert advice
    assert 'run.offload = "layers"' in advice[0]
    assert "data.num_frames = [97]" in advice[0]
    again, _ = planned("4090", HALF, run__offload="layers", run__batch_size=1, data__num_frames=[97])
    assert again.fits


def test_advice_is_about_what_the_config_has_not_yet(planned):
    _, advice = planned("H100")
    assert advice[0].startswith('Set run.offload = "experts": ')
    plan, advice = planned("4090", run__offload="layers")
    assert not plan.fits
    assert [sentence.split(":")[0] for sentence in advice] == ["Set data.num_frames = [97]"]
    _, advice = planned("H200")
    assert not advice


def test_what_fits_nowhere_is_said(planned):
    _, advice = planned("L4", dataclasses.replace(FULL, height=1280, width=2048))
    assert len(advice) == 1
    assert advice[0].startswith("Nothing fits: ")


def test_time_follows_card_length_and_batch(planned):
    plan, _ = planned("H200")
    assert planned("4090")[0].step_seconds == pytest.approx(plan.step_seconds * 600 / 148, rel=0.01)
    assert planned("H200", HALF)[0].step_seconds < plan.step_seconds / 2.5
    assert planned("H200", run__batch_size=2)[0].step_seconds == pytest.approx(2 * plan.step_seconds)
    assert plan.seconds["training"] == pytest.approx(1000 * plan.step_seconds)
    assert planned("H200", run__gradient_checkpointing=False)[0].step_seconds < 0.8 * plan.step_seconds


def test_an_expert_that_never_runs_as_every_picture_is_held_costs_no_time(planned):
    """Neither its steps nor its way to the device. The rest costs as without a loss of the picture."""
    shares = {"objective__high_share": "natural"}
    dubbing, _ = planned("4090", HALF, preset="dubbing", run__offload="experts", **shares)
    sound, _ = planned("4090", HALF, preset="sound_only", run__offload="experts", **shares)
    assert dubbing.petaflops == pytest.approx(sound.petaflops)
    ways = [plan.step_seconds * plan.steps for plan in (dubbing, sound)]
    gib_moved, link = 28.6e9, 25e9
    assert ways[1] - ways[0] == pytest.approx(
        715 * gib_moved / link, rel=0.05
    )  # 358 of 1000 steps, both ways
    assert dubbing.seconds["validation"] == pytest.approx(sound.seconds["validation"])
    both, _ = planned("4090", HALF, objective__hold_video=0.1, objective__hold_audio=0.1, **shares)
    plain, _ = planned("4090", HALF, **shares)
    assert both.seconds["validation"] == pytest.approx(3 * plain.seconds["validation"])
    assert both.step_seconds == pytest.approx(plain.step_seconds)


def test_streaming_short_clips_waits_for_the_link(planned):
    tiny = dataclasses.replace(FULL, num_frames=5)
    kept, streamed = (planned("4090", tiny, run__offload=each)[0] for each in ("none", "layers"))
    assert streamed.step_seconds > 1.5 * kept.step_seconds


@pytest.mark.parametrize(
    "changes",
    [
        {"run__gradient_checkpointing": True},
        {"objective__audio_weight": 0.0, "towers__audio_dit__train": False},
        {"objective__video_weight": 0.0, "towers__audio_dit__targets": "attention_ffn"},
        {"preset": "dubbing", "objective__high_share": "natural"},
        {"preset": "lip_sync"},
    ],
)
def test_operations_are_those_that_torch_counts(engine, changes):
    """All operations of a micro-batch, within 10 % (what is not a matrix product is not counted)."""
    engine = engine(**changes, objective__bridge_dropout=0, run__accumulation=1)
    config, shape = engine.config, window_shape(engine)

    def forward(query, key, value, *_, **__):
        return sdpa_flop(query, key, value)

    def backward(gradient, query, key, value, *_, **__):
        return sdpa_backward_flop(gradient, query, key, value)

    aten = torch.ops.aten
    attention = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        engine.micro_batch()
    configs = {name: getattr(engine.pipeline, name).config for name in TOWERS}
    planned = flops.training_pass(configs, shape, config, engine.expert)
    assert planned.total == pytest.approx(counter.get_total_flops(), rel=0.1)


def window_shape(engine):
    entry = engine.sampler.batch(0)[0]
    audio = engine.pipeline.audio_vae
    rates = audio.config.sample_rate, audio.hop_length
    return ClipShape(entry.height, entry.width, entry.num_frames, entry.frame_rate, *rates)


def test_forward_operations_are_those_of_the_catalogue(known_release, release, clips, tmp_path):
    known, config = known_release(FULL), release_config(release, clips, tmp_path, {})
    planned = flops.training_pass(known.configs, FULL, config, "video_dit").forward
    towers = [known.configs[name] for name in ("video_dit", "audio_dit", "dual_tower_bridge")]
    assert planned == pytest.approx(machine.forward_flops(*towers, FULL), rel=0.03)


@pytest.mark.parametrize("targets", ["attention", "attention_ffn"])
def test_activations_are_those_that_autograd_keeps(engine, targets):
    """Bytes of every tensor saved for the backward pass that is no weight, against the count."""
    towers = {f"towers__{name}__targets": targets for name in ("video_dit", "audio_dit")}
    engine = engine(**towers, objective__bridge_dropout=0)
    engine.pipeline.residency.activate("video_dit")
    weights = {p.untyped_storage().data_ptr() for p in engine.pipeline.dual_tower.parameters()}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        engine._backward(0)
    towers = {name: getattr(engine.pipeline, name) for name in TOWERS}
    between, inside, _ = memory.activations(towers, window_shape(engine), engine.config)
    assert sum(size for size, _ in saved.values()) == pytest.approx(4 * (between + inside), rel=0.15)


@pytest.mark.parametrize("targets", ["attention_ffn", "everything"])
def test_lora_weights_and_8_bit_layers_are_counted_to_the_byte(engine, targets):
    engine = engine(run__base="fp8", towers__audio_dit__targets=targets)
    towers = memory.build_towers(Path(engine.config.model))
    counts = {name: sum(w.numel() for w in weights) for name, weights in engine.towers.items()}
    assert memory.lora_parameters(towers, engine.config) == counts
    for name in TOWERS:
        held = sum(p.nbytes for p in getattr(engine.pipeline, name).parameters() if not p.requires_grad)
        assert memory.frozen_bytes(towers, name, engine.config, 4) == held


@pytest.mark.parametrize("name", ["schedule_free", "prodigy"])
def test_optimizer_states_are_counted(engine, name):
    engine = engine(optimizer__name=name, optimizer__learning_rate=None, run__accumulation=1)
    run_steps(engine, 2)  # both experts
    tensors = [t for state in engine.optimizer.state.values() for t in state.values() if torch.is_tensor(t)]
    count = sum(w.numel() for weights in engine.towers.values() for w in weights)
    measured = sum(t.nbytes for t in tensors if t.ndim)
    assert measured == pytest.approx(count * memory.STATE_BYTES[name], rel=0.01)


def test_the_cache_is_as_large_as_planned_and_checkpoints_hardly_larger(engine, tmp_path):
    engine = engine()
    config, cache = engine.config, engine.cache
    known = plan_inputs(config)
    assert known.cached
    plan = estimate_run(config, find_card(config, None), known)
    files = {cache.folder / name for entry in cache.windows for name in (entry.file, entry.text)}
    files |= {cache.folder / name for name in cache.texts.values()}
    tensors = sum(tensor.nbytes for file in files for tensor in load_file(file).values())
    assert plan.disk["cache"] - len(files) * memory.HEADER == tensors
    assert plan.disk["cache"] == pytest.approx(sum(file.stat().st_size for file in files), rel=0.05)

    run_steps(engine, 2)
    engine.lora.drop_gradients()
    state = engine.state()
    held = [state["weights"], *state["optimizer"]["state"].values()]
    size = sum(tensor.nbytes for each in held for tensor in each.values() if tensor.ndim)
    save_adapter(
        tmp_path / "adapter.safetensors", engine.lora.weights, config, torch.float32, adapter_card(config)
    )
    size += sum(tensor.nbytes for tensor in load_file(tmp_path / "adapter.safetensors").values())
    saved = config.run.steps // config.run.checkpoint_every
    assert plan.disk["checkpoints"] == pytest.approx(saved * size, rel=0.01)


def test_windows_are_the_same_from_clips_and_from_the_cache(parts, settings, tmp_path):
    config, _, _ = parts()
    cached, is_cached = read_windows(config, None)
    fresh, is_fresh_cached = read_windows(settings(data__cache=str(tmp_path / "none")), None)
    assert [w.name for w in fresh] == [w.name for w in cached] != []
    assert [w.bucket for w in fresh] == [w.bucket for w in cached]
    assert (is_cached, is_fresh_cached) == (True, False)
    other, is_other_cached = read_windows(settings(data__num_frames=[5]), None)
    assert {window.num_frames for window in other} == {5}
    assert not is_other_cached


def test_pinned_memory_is_taken_in_powers_of_two():
    assert memory.pinned(715_000_000) == GIB
    assert [memory.pinned(size) for size in (0, 1, 64, 65)] == [0, 1, 64, 128]


def test_the_command_tells_the_plan_and_the_probe(settings, clips, golden, tmp_path, capsys):
    given = [
        "plan",
        "--model",
        str(golden / "checkpoint"),
        "--data",
        str(clips),
        "--output",
        str(tmp_path / "run"),
    ]
    given += [
        "--size",
        "64x32",
        "--set",
        "data.num_frames=[9]",
        "--set",
        "run.accumulation=1",
        "--price",
        "3.5",
    ]
    assert main([*given, "--gpu", "4090", "--gpus", "2", "--set", "run.offload=shards"]) == 0
    assert "steps on 2 x 4090" in capsys.readouterr().out
    assert main([*given, "--gpu", "4090", "--gpus", "0"]) == 2
    assert "--gpus 0 must be 1 or more" in capsys.readouterr().err
    assert main([*given, "--gpu", "4090"]) == 0
    text = capsys.readouterr().out
    assert "memory of 4090 at the peak, 23.5 GiB free" in text
    assert "It fits." in text
    assert "at 3.5 an hour" in text
    assert main([*given, "--device", "cpu", "--set", "run.dtype=float32", "--probe", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["fits"]
    assert record["money"] == pytest.approx(record["hours"] * 3.5)
    assert record["probe"]["steps"] == 3
    assert record["probe"]["seconds"] > 0
    # On a CPU the measured peak is the process's growth: none where freed memory serves again.
    assert 0 <= record["probe"]["peak"] < record["probe"]["predicted_peak"] + 2**30
    assert not (tmp_path / "run" / "journal.jsonl").exists()
    assert main([*given, "--gpu", "4090", "--probe"]) == 2
    assert "leave --gpu out" in capsys.readouterr().err


def test_a_card_is_found_by_any_name_that_holds_it():
    assert machine.find_gpu("NVIDIA GeForce RTX 4090").name == "4090"
    assert machine.find_gpu("h200").gib > 139
    with pytest.raises(UserError, match="choose one of H200"):
        machine.find_gpu("a toaster")

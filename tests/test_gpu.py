"""What only a CUDA device can show: `pytest -m gpu`."""

import pytest
import torch

from benchmarks.released_sizes import random_weights
from mova.backends.local import translated_memory_errors
from mova.errors import BackendError
from mova.inspection import inspect_checkpoint
from mova.machine import Machine
from mova.models.bridge import Bridge
from mova.models.dit import AudioDiT, VideoDiT
from mova.models.dual_tower import DualTower
from mova.offload import LayerStreamer, WeightSwap
from mova.placement import Placement, choose, compile_blocks, place
from tests.tiny import SHORT_RUN, relative_error

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


@pytest.fixture(autouse=True)
def exact_float32():
    """Convolutions in real float32; by default they round their inputs to 10 bits."""
    allowed, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = allowed


@pytest.fixture
def load(fresh):
    def load(dtype=torch.float32, placement=None):
        pipeline = fresh(dtype)
        if placement:
            place(pipeline, placement)
        return pipeline

    return load


def run(pipeline, **changes):
    out = pipeline(generator=torch.Generator().manual_seed(3), **SHORT_RUN | changes)
    return out.frames.cpu(), out.audio.cpu()


def medium_tower():
    """Released head size and proportions, a hundredth of the parameters."""
    common = {"text_dim": 256, "freq_dim": 256, "eps": 1e-6}
    video = {"dim": 512, "in_dim": 36, "ffn_dim": 1408, "out_dim": 16, "patch_size": [1, 2, 2]}
    audio = {"dim": 256, "in_dim": 128, "ffn_dim": 896, "out_dim": 128, "patch_size": [1]}
    torch.manual_seed(0)
    with torch.device("meta"):
        parts = [
            VideoDiT(**video, num_heads=4, num_layers=8, **common),
            AudioDiT(**audio, num_heads=2, num_layers=6, **common),
            Bridge(8, 6, 512, 256, audio_fps=50.0, head_dim=128),
        ]
    return DualTower(*(random_weights(part, "cuda", torch.bfloat16) for part in parts))


def medium_inputs(frames=7):
    generator = torch.Generator("cuda").manual_seed(1)
    shapes = {"video_latents": (1, 36, frames, 22, 40), "audio_latents": (1, 128, 50), "text": (1, 512, 256)}
    tensors = {name: torch.randn(s, device="cuda", generator=generator) for name, s in shapes.items()}
    times = {name: torch.tensor([700.0]) for name in ("video_timestep", "audio_timestep")}
    return tensors | times | {"frame_rate": 24.0}


def test_golden_velocities_hold_on_the_gpu(load, golden_tensors):
    tensors = golden_tensors("no_cfg_4_steps")
    pipeline = load(placement=Placement("cuda", "float32"))
    video, audio = run(
        pipeline,
        prompt_embeds=tensors["prompt_embeds"],
        prompt=None,
        image=tensors["image_preprocessed"][0],
        width=64,
        num_frames=9,
        guidance_scale=1.0,
        latents=tensors["latents"],
        audio_latents=tensors["audio_latents"],
    )
    assert relative_error(video[0], tensors["latents_after_step"][-1]) < 1e-4
    assert relative_error(audio[0], tensors["audio_latents_after_step"][-1]) < 1e-4


def test_the_same_seed_starts_from_the_same_noise_on_cpu_and_gpu(load):
    seen = []

    def first_noise(pipe, step, timestep, tensors):
        seen.append(tensors["latents"].cpu())
        return {}

    one_step = {"num_inference_steps": 1, "guidance_scale": 0.0, "bridge_guidance_scale": 0.0}
    for placement in (None, Placement("cuda", "float32")):
        pipeline = load(placement=placement)
        pipeline.video_dit.head.head.weight.data.zero_()
        pipeline.video_dit.head.head.bias.data.zero_()
        run(pipeline, callback_on_step_end=first_noise, **one_step)
    assert torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("offload", ["none", "component", "layers"])
@pytest.mark.parametrize("hold_both", [True, False])
def test_every_placement_agrees_with_the_cpu_and_leaves_the_gpu_as_it_should(load, offload, hold_both):
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    reference = run(load())
    pipeline = load(placement=Placement("cuda", "float32", offload, hold_both, keep_text_encoder=False))
    for _ in range(2):
        for ours, theirs in zip(run(pipeline), reference, strict=True):
            assert relative_error(ours, theirs) < 1e-4
    if offload != "none":
        assert all(p.device.type == "cpu" for p in pipeline.video_dit.parameters())
        assert torch.cuda.memory_allocated() - before < 5e6  # rotary tables


def test_streamed_layers_are_bit_equal_to_resident_ones_and_need_a_part_of_the_memory():
    tower, arguments = medium_tower(), medium_inputs()
    device = torch.device("cuda")
    with torch.no_grad():
        resident = tower(**arguments)
        tower.to("cpu")
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        streamer = LayerStreamer(tower, {"video_dit": tower.video_dit}, device, hold_both=True)
        WeightSwap([tower], skip=streamer.streamed).load(device)
        streamer.start("video_dit")
        for _ in range(5):
            for ours, theirs in zip(tower(**arguments), resident, strict=True):
                assert torch.equal(ours, theirs)
    weights = sum(p.nbytes for p in tower.parameters())
    slots = sum(buffer.nbytes for slot in streamer.slots for buffer in slot.buffers)
    assert slots < weights / 2
    assert torch.cuda.memory_allocated() - before < weights


def test_8_bit_storage_runs_and_stays_near(load):
    plain = run(load(torch.bfloat16, Placement("cuda", "bfloat16")))
    for offload in ("none", "layers"):
        small = run(load(torch.bfloat16, Placement("cuda", "bfloat16", offload, fp8=True)))
        assert relative_error(small[0], plain[0]) < 0.25


@pytest.mark.parametrize("offload", ["none", "component", "layers"])
@pytest.mark.parametrize("hold_both", [True, False])
def test_every_placement_carries_adapters_as_the_cpu_does(load, golden, offload, hold_both):
    clips = []
    for placement in (None, Placement("cuda", "float32", offload, hold_both, keep_text_encoder=False)):
        pipeline = load(placement=placement)
        without = run(pipeline)
        pipeline.load_lora_weights(golden / "lora_upstream_accelerate")
        pipeline.set_adapters("default", {"video": 0.5, "bridge": 0.2})
        clips.append(run(pipeline))
        pipeline.set_adapters("default", 0)
        assert torch.equal(run(pipeline)[0], without[0])
        pipeline.unload_lora_weights()
    assert relative_error(clips[1][0], clips[0][0]) < 1e-4


@pytest.mark.parametrize("offload", ["none", "component"])
def test_unfusing_on_the_gpu_restores_every_bit(load, golden, offload):
    pipeline = load(torch.bfloat16, Placement("cuda", "bfloat16", offload))
    layer = pipeline.video_dit.blocks[0].self_attn.q
    weight, without = layer.weight.data.clone(), run(pipeline)
    pipeline.load_lora_weights(golden / "lora_upstream_accelerate")
    pipeline.fuse_lora()
    assert not torch.equal(run(pipeline)[0], without[0])
    pipeline.unfuse_lora()
    pipeline.unload_lora_weights()
    assert torch.equal(layer.weight.data, weight)
    assert layer.weight.device == weight.device
    assert torch.equal(run(pipeline)[0], without[0])


def test_the_machine_is_seen_and_the_golden_model_stays_on_it(golden):
    machine = Machine.probe()
    assert machine.device == "cuda"
    assert machine.vram > 2**30
    assert choose(machine, inspect_checkpoint(golden / "checkpoint").parameters, 2**20).offload == "none"


def test_a_gpu_out_of_memory_is_a_sentence_with_what_to_change():
    with pytest.raises(BackendError, match="fewer frames or a smaller size"), translated_memory_errors():
        torch.empty(2**45, dtype=torch.uint8, device="cuda")


def test_compiled_blocks_agree_also_when_streamed_and_when_the_length_changes():
    tower, device = medium_tower(), torch.device("cuda")
    with torch.no_grad():
        eager = {frames: tower(**medium_inputs(frames)) for frames in (7, 5)}
        compile_blocks(tower)
        streamer = LayerStreamer(tower, {"video_dit": tower.video_dit}, device, hold_both=True)
        for _ in range(2):
            for frames, reference in eager.items():
                for ours, theirs in zip(tower(**medium_inputs(frames)), reference, strict=True):
                    assert relative_error(ours, theirs) < 0.05
            WeightSwap([tower], skip=streamer.streamed).load(device)
            streamer.start("video_dit")

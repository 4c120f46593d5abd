"""What only a CUDA device can show: `pytest -m gpu`."""

import time
from functools import partial

import pytest
import torch

from benchmarks.released_sizes import random_weights
from mova import parallel
from mova.adapters.sources import read_adapter
from mova.backends.local import load_follower, load_pipeline, translated_memory_errors, with_adapters
from mova.errors import BackendError
from mova.inspection import inspect_checkpoint
from mova.kernels import FLASH_4, TORCH, choose_kernels
from mova.machine import Machine
from mova.models import fp8
from mova.models.attention import attention, obstacle
from mova.models.bridge import Bridge
from mova.models.dit import AudioDiT, VideoDiT
from mova.models.dual_tower import DualTower
from mova.offload import LayerStreamer, WeightSwap
from mova.placement import Placement, choose, compile_blocks, place
from tests.test_parallel import die_in_a_layer, fail_in_a_layer
from tests.tiny import SHORT_RUN, relative_error

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def fp8_is_multiplied():
    return torch.cuda.is_available() and fp8.multiplies_fp8(torch.device("cuda"))


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


def test_fp8_runs_stays_near_and_is_the_same_wherever_the_weights_are(load):
    plain, clips = run(load(torch.bfloat16, Placement("cuda", "bfloat16"))), []
    for offload, hold_both in (("none", True), ("none", False), ("component", True), ("layers", False)):
        clips.append(run(load(torch.bfloat16, Placement("cuda", "bfloat16", offload, hold_both, fp8=True))))
        assert relative_error(clips[-1][0], plain[0]) < 0.25
        assert torch.equal(clips[-1][0], clips[0][0])


@pytest.mark.skipif(not fp8_is_multiplied(), reason="needs a card that multiplies fp8")
@pytest.mark.parametrize("compiled", [False, True])
def test_a_layer_in_fp8_multiplies_as_in_float64_with_codes_rounded_as_on_the_cpu(compiled):
    layer = torch.nn.Linear(512, 1408).requires_grad_(False).bfloat16()
    small, on_cpu = fp8.Fp8Linear(layer.to("cuda")), fp8.Fp8Linear(layer.to("cpu"))
    assert torch.equal(small.weight.float().cpu(), on_cpu.weight.float())
    assert torch.equal(small.weight_scale.cpu(), on_cpu.weight_scale)
    small.bias.data = small.bias.data.cuda()
    x = torch.randn(1, 700, 512).bfloat16()
    with torch.no_grad():
        ours = (torch.compile(small, fullgraph=True) if compiled else small)(x.cuda()).cpu()
    codes, scale = fp8.to_fp8(x[0])
    exact = (codes.double() * scale) @ (
        on_cpu.weight.double() * on_cpu.weight_scale
    ).T + layer.bias.cpu().double()
    assert relative_error(ours[0].double(), exact) < 0.01


@pytest.mark.skipif(
    choose_kernels(Machine.probe(), "bfloat16").video != FLASH_4, reason="needs flash-attn-4 and its card"
)
def test_flash_attention_4_agrees_with_torchs_in_one_graph_and_at_odd_lengths():
    assert obstacle(FLASH_4, torch.device("cuda"), torch.bfloat16, 128) == ""
    compiled = torch.compile(partial(attention, FLASH_4), fullgraph=True)
    for tokens in (128, 1001, 4097):
        q, k, v = (torch.randn(1, tokens, 4, 128, device="cuda", dtype=torch.bfloat16) for _ in range(3))
        with torch.no_grad():
            assert relative_error(compiled(q, k, v).float(), attention(TORCH, q, k, v).float()) < 0.01


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


@pytest.fixture
def together(golden):
    """Loads the golden checkpoint in bfloat16 on two GPUs, as a placement says; ends the other process."""

    def load(**changes):
        placement = Placement("cuda", gpus=2, **changes)
        parallel.gather(2, "cuda").tell(load_follower, str(golden / "checkpoint"), placement)
        return load_pipeline(str(golden / "checkpoint"), placement)

    yield load
    parallel._close_team()


needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@needs_two
def test_two_gpus_make_the_clip_of_one_bit_for_bit_side_by_side(load, together, golden):
    adapters = [(read_adapter(golden / "lora_upstream_accelerate"), 0.7)]
    alone = load(torch.bfloat16, Placement("cuda"))
    with with_adapters(alone, adapters):
        expected = [run(alone), run(alone, bridge_guidance_scale=3.0)]
    for offload in ("none", "component", "layers"):
        shared = together(offload=offload)
        with with_adapters(shared, adapters):
            found = [run(shared), run(shared, bridge_guidance_scale=3.0)]
        for ours, theirs in zip(found, expected, strict=True):
            assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True)), offload


@needs_two
@pytest.mark.parametrize("offload", ["none", "layers"])
@pytest.mark.parametrize("compiled", [False, True])
def test_two_gpus_share_a_forward_to_rounding(load, together, offload, compiled):
    expected = run(load(torch.bfloat16, Placement("cuda")), num_frames=9, height=48)  # 27 tokens
    found = run(together(parallel="ulysses", offload=offload, compile=compiled), num_frames=9, height=48)
    assert max(relative_error(*pair) for pair in zip(found, expected, strict=True)) < 0.05


@needs_two
@pytest.mark.parametrize("mode", ["branches", "ulysses"])
@pytest.mark.parametrize("break_follower", [fail_in_a_layer, die_in_a_layer])
def test_a_gpu_that_fails_is_told_at_once_and_others_take_its_place(together, mode, break_follower):
    shared = together(parallel=mode)
    before = run(shared)
    shared.team.tell(break_follower)
    began = time.monotonic()
    with pytest.raises(BackendError, match="process 2 of 2 failed: "):
        run(shared)
    assert time.monotonic() - began < 20
    after = run(together(parallel=mode))
    assert all(torch.equal(*pair) for pair in zip(after, before, strict=True))

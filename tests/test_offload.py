import pytest
import torch

from mova.adapters.strengths import EXPERTS
from mova.errors import Cancelled
from mova.offload import ComponentOffloader, LayerOffloader, Offloader
from mova.placement import Placement, place
from tests.tiny import SHORT_RUN, relative_error

CPU = torch.device("cpu")


def run(pipeline, **changes):
    out = pipeline(generator=torch.Generator().manual_seed(0), **SHORT_RUN | changes)
    return out.frames, out.audio


def pointers(pipeline):
    return {name: p.data_ptr() for name, p in named_parameters(pipeline)}


def named_parameters(pipeline):
    for component, module in pipeline.components.items():
        if isinstance(module, torch.nn.Module):
            yield from ((f"{component}.{name}", p) for name, p in module.named_parameters())


def test_streamed_layers_are_run_from_slots_and_given_back(fresh):
    pipeline = fresh()
    pipeline.residency = LayerOffloader(pipeline.components, pipeline.dual_tower, CPU, hold_both=True)
    block = pipeline.video_dit.blocks[0].self_attn.q.weight
    weight, inside = block.data.clone(), []

    def look(pipe, step, timestep, tensors):
        slots = pipe.residency.streamer.slots
        held = [slot.buffers[0].untyped_storage().data_ptr() for slot in slots]
        inside.append(
            pipe.dual_tower.video_dit.blocks[0].self_attn.q.weight.untyped_storage().data_ptr() in held
        )
        return {}

    run(pipeline, callback_on_step_end=look)
    assert all(inside)
    assert torch.equal(block.data, weight)
    assert pipeline.residency.streamer.slots == []
    assert pipeline.dual_tower.before_layer is None


def test_a_stopped_run_leaves_the_streamer_ready_for_the_next(pipeline, fresh):
    streamed = fresh()
    streamed.residency = LayerOffloader(streamed.components, streamed.dual_tower, CPU, hold_both=False)
    calls = iter([False, False, False, True])
    with pytest.raises(Cancelled):
        run(streamed, should_stop=lambda: next(calls))
    assert torch.equal(run(streamed)[0], run(pipeline)[0])


def test_a_forward_that_fails_midway_leaves_the_streamer_ready(pipeline, fresh):
    streamed = fresh()
    streamed.residency = LayerOffloader(streamed.components, streamed.dual_tower, CPU, hold_both=True)
    handle = streamed.video_dit.blocks[2].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(streamed)
    handle.remove()
    assert torch.equal(run(streamed)[0], run(pipeline)[0])


def test_one_expert_held_uses_the_memory_of_the_other(fresh):
    pipeline = fresh()
    pipeline.residency = LayerOffloader(pipeline.components, pipeline.dual_tower, CPU, hold_both=False)
    on_disk = pipeline.video_dit.blocks[0].self_attn.q.weight.data_ptr()
    run(pipeline)
    streamer = pipeline.residency.streamer
    assert list(streamer.video) == ["video_dit_2"]
    assert pipeline.video_dit.blocks[0].self_attn.q.weight.data_ptr() == on_disk


def test_streaming_carries_an_adapter_that_came_later(pipeline, fresh, golden):
    streamed = fresh()
    streamed.residency = LayerOffloader(streamed.components, streamed.dual_tower, CPU, hold_both=True)
    run(streamed)
    clips = []
    for each in (streamed, pipeline):
        each.load_lora_weights(golden / "lora_upstream_accelerate")
        clips.append(run(each))
        each.unload_lora_weights()
    assert torch.equal(clips[0][0], clips[1][0])
    assert torch.equal(run(streamed)[0], run(pipeline)[0])


@pytest.mark.parametrize("resident", [set(), {"audio_dit", "video_vae"}, set(EXPERTS)])
def test_components_come_and_go_without_changing_the_clip(pipeline, fresh, resident):
    moved = fresh()
    before = pointers(moved)
    moved.residency = ComponentOffloader(moved.components, moved.dual_tower, CPU, resident)
    assert torch.equal(run(moved)[0], run(pipeline)[0])
    assert pointers(moved) == before


def test_by_default_weights_stay_where_they_are(fresh):
    pipeline = fresh()
    before = pointers(pipeline)
    assert type(pipeline.residency) is Offloader
    run(pipeline)
    assert pointers(pipeline) == before


@pytest.mark.parametrize("offload", ["none", "component", "layers"])
@pytest.mark.parametrize("hold_both", [True, False])
def test_every_placement_gives_the_same_clip_bit_for_bit(pipeline, fresh, offload, hold_both):
    placed = fresh()
    place(placed, Placement("cpu", "float32", offload, hold_both, keep_text_encoder=False))
    plain = run(pipeline)
    for _ in range(2):  # the second run finds its layers packed
        for ours, theirs in zip(run(placed), plain, strict=True):
            assert torch.equal(ours, theirs)


def test_fp8_gives_the_same_clip_wherever_the_weights_are_bit_for_bit(fresh, multiplying):
    clips = []
    for offload, hold_both in (("none", True), ("component", False), ("layers", True), ("layers", False)):
        placed = fresh(torch.bfloat16)
        place(placed, Placement("cpu", "bfloat16", offload, hold_both, fp8=True))
        clips += [run(placed), run(placed)]  # the second run finds its layers packed
    for video, audio in clips[1:]:
        assert torch.equal(video, clips[0][0])
        assert torch.equal(audio, clips[0][1])


@pytest.mark.parametrize("offload", ["none", "layers"])
def test_8_bit_storage_halves_the_towers_and_stays_near(pipeline, fresh, offload):
    placed = fresh(torch.bfloat16)
    plain = run(fresh(torch.bfloat16))
    place(placed, Placement("cpu", "bfloat16", offload, fp8=True))
    weight = placed.video_dit.blocks[0].ffn[0].weight
    assert placed.audio_dit.blocks[0].ffn[0].weight.dtype == torch.bfloat16
    assert weight.dtype == torch.float8_e4m3fn
    assert placed.video_dit.blocks[0].norm3.weight.dtype == torch.bfloat16
    assert placed.video_dit.time_projection[1].weight.dtype == torch.bfloat16
    clip = run(placed)
    assert weight.dtype == torch.float8_e4m3fn
    for ours, reference in zip(clip, plain, strict=True):
        assert 0 < relative_error(ours, reference) < 0.25

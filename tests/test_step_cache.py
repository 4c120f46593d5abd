"""The step cache: when the video blocks are left out, and what a run with it does."""

import gc
import weakref

import pytest
import torch

from mova import forwards
from mova.errors import Cancelled
from mova.guidance import Guidance
from mova.models.bridge import PictureMemory
from mova.offload import LayerOffloader, Slot
from mova.request import GenerationRequest
from mova.step_cache import StepCache
from tests.test_tracks import FRAMES, picture, sound
from tests.tiny import relative_error

GUIDED = Guidance(2.0, 2.0).branches(1.0)
RUN = {
    "prompt": "a red ball falls",
    "height": 32,
    "width": 48,
    "num_frames": FRAMES,
    "num_inference_steps": 20,
    "output_type": "latent",
    "guidance_scale": 5.0,
    "bridge_guidance_scale": 2.0,
}
ALWAYS = 1.0  # a threshold above all changes of the golden model's velocity


def run(pipeline, **changes):
    out = pipeline(**{"generator": torch.Generator().manual_seed(0)} | RUN | changes)
    return out.frames, out.audio


def decisions(velocities, sigmas, threshold, switch=None):
    """For each step whether the video blocks are left out."""
    cache = StepCache(threshold, torch.tensor(sigmas))
    reused = []
    for step, velocity in enumerate(velocities):
        expert = "video_dit" if switch is None or step < switch else "video_dit_2"
        reused.append(cache.reuses(step, expert, GUIDED))
        if not reused[-1]:
            cache.keep(step, velocity)
    return reused


def uniform(steps):
    return [1 - i / steps for i in range(steps + 1)]


@pytest.fixture
def blocks_run(pipeline):
    """Counts the runs of the first video block of each expert."""
    counts = []
    handles = [
        expert.blocks[0].register_forward_hook(lambda *_: counts.append(1))
        for expert in (pipeline.video_dit, pipeline.video_dit_2)
    ]
    yield counts
    for handle in handles:
        handle.remove()


def test_a_steady_velocity_is_kept_but_not_at_first_not_at_last_and_not_over_three_steps():
    reused = decisions([torch.ones(1, 4)] * 20, uniform(20), threshold=0.05)
    assert reused == [False] * 4 + [True, True, True, False] * 3 + [True, True, True, False]


def test_the_first_two_steps_of_the_other_expert_are_computed():
    reused = decisions([torch.ones(1, 4)] * 20, uniform(20), threshold=0.05, switch=9)
    assert reused[9:12] == [False, False, True]


def test_the_change_since_the_last_computed_step_is_expected_in_proportion_to_sigma():
    # By 2 % a step, so after computing step 5 steps 6 and 7 are expected to be 2 and 4 % away.
    velocities = [torch.full((1, 4), 1.02**step) for step in range(20)]
    reused = decisions(velocities, uniform(20), threshold=0.035)
    assert reused == [False] * 4 + [True, False] * 8


def test_the_clip_that_changes_most_decides_for_a_batch():
    steady = torch.ones(1, 4)
    changing = [torch.full((1, 4), (-1.0) ** step) for step in range(10)]
    both = [torch.cat((steady, each)) for each in changing]
    assert not any(decisions(both, uniform(10), threshold=0.5))


def test_other_forwards_begin_afresh():
    cache = StepCache(0.5, torch.tensor(uniform(10)))
    for step in range(4):
        cache.reuses(step, "video_dit", GUIDED)
        cache.keep(step, torch.ones(1, 4))
    assert cache.reuses(4, "video_dit", GUIDED)
    assert not cache.reuses(5, "video_dit", Guidance().branches(1.0))


def test_a_picture_that_waits_at_its_sigma_is_computed():
    sigmas = [0.5] * 6 + [0.25, 0.0]
    assert not any(decisions([torch.ones(1, 4)] * 7, sigmas, threshold=0.5)[:6])


def test_a_run_in_which_no_step_is_left_out_is_the_same_bit_for_bit(pipeline):
    assert all(map(torch.equal, run(pipeline, cache_threshold=1e-9), run(pipeline)))


def test_left_out_steps_keep_the_pictures_velocity_and_make_the_sound(pipeline, blocks_run, monkeypatch):
    reused, states = [], []

    def spy(self, *arguments, ask=StepCache.reuses):
        reused.append(ask(self, *arguments))
        return reused[-1]

    def remember(pipe, step, timestep, tensors):
        states.append({name: tensor.clone() for name, tensor in tensors.items()})
        return {}

    monkeypatch.setattr(StepCache, "reuses", spy)
    run(pipeline, cache_threshold=ALWAYS, callback_on_step_end=remember)
    assert reused.count(True) == 10
    assert len(blocks_run) == 3 * reused.count(False)
    sigmas = pipeline.scheduler.sigmas(20)[:, 0]

    def velocity(step, name):
        return (states[step][name] - states[step - 1][name]) / (sigmas[step + 1] - sigmas[step])

    for step in range(4, 20):
        if reused[step]:
            assert relative_error(velocity(step, "latents"), velocity(step - 1, "latents")) < 1e-4
            assert relative_error(velocity(step, "audio_latents"), velocity(step - 1, "audio_latents")) > 1e-3


def test_a_held_picture_is_seen_once_and_comes_out_untouched(pipeline, blocks_run):
    frames, audio = run(pipeline, video=picture(), cache_threshold=0.01)
    assert len(blocks_run) == 2  # the forwards with the bridge, of the first step
    exact_frames, exact = run(pipeline, video=picture())
    assert torch.equal(frames, exact_frames)
    assert 0 < relative_error(audio, exact) < 0.2


def test_a_further_pass_of_the_sound_looks_at_the_new_picture_once(pipeline, blocks_run):
    request = GenerationRequest(RUN["prompt"], num_inference_steps=20, guidance_scale=5.0, refine=2)
    run(pipeline, refine=2, bridge_guidance_scale=1.0)
    assert len(blocks_run) == request.total_forwards(5.0) == 2 * (20 + 1 + 20)


def test_without_the_bridge_a_held_picture_is_not_seen_at_all(pipeline, blocks_run):
    run(pipeline, video=picture(), num_inference_steps=3)
    assert len(blocks_run) == 2 * 3


@pytest.mark.parametrize("given", [{}, {"video": picture()}, {"audio": sound()}])
def test_streamed_layers_give_the_same_with_a_cache(pipeline, fresh, given):
    streamed = fresh()
    streamed.residency = LayerOffloader(
        streamed.components, streamed.dual_tower, torch.device("cpu"), hold_both=True
    )
    for _ in range(2):  # the second run finds its layers packed
        ours, plain = (run(pipe, cache_threshold=ALWAYS, **given) for pipe in (streamed, pipeline))
        assert all(map(torch.equal, ours, plain))


def test_a_step_without_the_video_blocks_fetches_no_weights_of_theirs(fresh, monkeypatch):
    streamed, fetched = fresh(), []
    streamed.residency = LayerOffloader(
        streamed.components, streamed.dual_tower, torch.device("cpu"), hold_both=True
    )

    def spy(self, layer, first, fetch=Slot.fetch):
        fetched.append(sum(len(part.buffer) for part in layer[first:]))
        fetch(self, layer, first)

    def forget(*_):
        if len(fetched) and forget.step:
            forget.bytes.append(sum(fetched))
        fetched.clear()
        forget.step += 1
        return {}

    forget.step, forget.bytes = 0, []
    monkeypatch.setattr(Slot, "fetch", spy)
    run(streamed, video=picture(), cache_threshold=0.1, callback_on_step_end=forget)
    layers = streamed.residency.streamer
    sound_bytes = sum(p.nbytes for parts in layers.shared_parts for p in parts[1])
    # Three forwards a step; each may send for two layers more, at its end.
    assert max(forget.bytes) < 3 * 2 * sound_bytes


def test_clips_with_a_held_picture_are_the_same_alone_and_in_a_batch(pipeline):
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    clips = torch.stack([torch.from_numpy(picture(seed)) for seed in (1, 2)]).numpy()
    _, together = run(pipeline, video=clips, prompt=["one", "two"], generator=generators, cache_threshold=0.1)
    for index, seed in enumerate((1, 2)):
        _, alone = run(
            pipeline,
            video=clips[index],
            prompt=["one", "two"][index],
            generator=torch.Generator().manual_seed(seed),
            cache_threshold=0.1,
        )
        assert relative_error(together[index : index + 1], alone) < 1e-4


def test_without_room_on_the_device_the_memory_is_on_the_host(pipeline, monkeypatch):
    asked, placed = [], []

    class Watched(PictureMemory):
        def __init__(self, on_host):
            super().__init__(on_host)
            placed.append(self)

    def has_room(size):
        asked.append(size)
        return False

    monkeypatch.setattr(forwards, "PictureMemory", Watched)
    plain = run(pipeline, video=picture(), cache_threshold=0.1)
    sizes = [sum(t.nbytes for pair in memory.layers.values() for t in pair) for memory in placed]
    monkeypatch.setattr(pipeline.residency, "has_room", has_room)
    assert all(map(torch.equal, run(pipeline, video=picture(), cache_threshold=0.1), plain))
    assert [memory.on_host for memory in placed] == [False, False, True, True]
    assert asked == [2 * size for size in sizes]


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_what_was_remembered_is_freed_with_the_run(pipeline, monkeypatch, is_cancelled):
    memories = []

    class Watched(PictureMemory):
        def __init__(self, on_host):
            super().__init__(on_host)
            memories.append(weakref.ref(self))

    monkeypatch.setattr(forwards, "PictureMemory", Watched)
    calls = iter([False] * 20 + [True])
    if is_cancelled:
        with pytest.raises(Cancelled):
            run(pipeline, cache_threshold=ALWAYS, should_stop=lambda: next(calls))
    else:
        run(pipeline, cache_threshold=ALWAYS)
    gc.collect()
    assert len(memories) == 2
    assert not any(memory() for memory in memories)

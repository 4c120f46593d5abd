"""Tracks that are given: held, partly held, started from; spans, lengths, seams and windows."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mova import seams, tracks
from mova.errors import Cancelled, UserError
from mova.shapes import ClipShape
from mova.tracks import Window
from tests.plain_solvers import PlainEuler, PlainUniPC
from tests.tiny import relative_error

FRAMES, RATE = 13, 3200
SMALL = {"height": 32, "width": 48, "num_inference_steps": 3, "output_type": "latent"}
PROMPT = "a red ball falls"
RECORDED = ("latents", "audio_latents", "denoised_latents", "denoised_audio_latents")
SIGMAS = [1.0, 10 / 11, 5 / 7, 0.0]  # three steps with shift 5
HIGH, LOW = "video_dit", "video_dit_2"
SOLVERS = {"euler": PlainEuler, "unipc": PlainUniPC}
GUIDANCE = [(5.0, 1.0), (1.0, 1.0), (4.0, 2.5)]  # of the text, of the bridge


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def picture(seed=0, num_frames=FRAMES, height=32, width=48):
    """Uint8 frames of a still that moves to the right."""
    still = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3))
    still = np.kron(still, np.ones((8, 8, 1)))
    return np.stack([np.roll(still, i, axis=1) for i in range(num_frames)]).astype(np.uint8)


def sound(seed=0, num_frames=FRAMES):
    pitch = np.random.default_rng(seed).uniform(0.05, 0.2)
    return (0.3 * np.sin(np.arange(int(RATE * num_frames / 24)) * pitch)).astype(np.float32)


def frames_of(output):
    return (output.frames * 255).round().byte().permute(0, 1, 3, 4, 2).numpy()


def pixels_of(frames):
    return torch.from_numpy(frames).float().permute(3, 0, 1, 2)[None] / 127.5 - 1


def samples_of(waveform):
    return torch.from_numpy(waveform)[None, None]


def noise_of(pipeline, seed):
    return next(noises_of(pipeline, seed))


def noises_of(pipeline, seed):
    """Pairs, picture and sound, as a generator draws them one after another."""
    shape = pipeline.clip_shape(32, 48, FRAMES, 24.0)
    generator = seeded(seed)
    sizes = (16, shape.latent_frames, 4, 6), (8, shape.audio_latents)
    while True:
        yield [torch.randn(size, generator=generator)[None] for size in sizes]


def recorded(pipeline, **arguments):
    """The output of a call, and (timesteps, expert, tensors) of each of its steps."""
    steps = []

    def remember(pipe, step, timestep, tensors):
        expert = HIGH if pipe.dual_tower.video_dit is pipe.video_dit else LOW
        steps.append((timestep.round().tolist(), expert, dict(tensors)))
        return {}

    ours = {"callback_on_step_end": remember, "callback_on_step_end_tensor_inputs": RECORDED}
    return pipeline(PROMPT, **SMALL | ours | arguments), steps


def plain_loop(
    pipeline, first_frame, start, sigmas, experts, scales=GUIDANCE[0], replace=None, solver=PlainEuler
):
    """The sampler written out for one clip, with equation 6 of the paper as it is printed.

    `start` and each of `sigmas` are pairs, picture and sound; `replace(pair, sigmas)` puts back what is kept.
    The solvers begin afresh with the second expert.
    """
    text, empty = pipeline.encode_prompt([PROMPT, ""]).chunk(2)
    condition = pipeline.encode_first_frame(first_frame, FRAMES)
    s_t, s_b = scales
    pair, tracks = start, list(zip(*sigmas, strict=True))
    for step, (now, following, expert) in enumerate(zip(sigmas[:-1], sigmas[1:], experts, strict=True)):
        if not step or expert != experts[step - 1]:
            solvers = [solver(track[step:], corrects=replace is None) for track in tracks]
        pipeline.dual_tower.video_dit = getattr(pipeline, expert)
        inputs = torch.cat((pair[0], condition), dim=1), pair[1], *(torch.tensor([1000 * s]) for s in now)
        with torch.no_grad():
            runs = [
                pipeline.dual_tower(*inputs, context, 24.0, bridge)
                for context, bridge in ((empty, False), (empty, True), (text, True))
            ]
        velocities = [v0 + s_b * (v1 - v0) + s_t * (v2 - v1) for v0, v1, v2 in zip(*runs, strict=True)]
        moving = [a != b for a, b in zip(now, following, strict=True)]
        parts = zip(solvers, pair, velocities, moving, strict=True)
        pair = [each.step(x, v) if moves else x for each, x, v, moves in parts]
        pair = replace(pair, following) if replace else pair
    return pair


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("scales", GUIDANCE)
def test_a_held_sound_is_clean_at_timestep_zero_in_every_step(pipeline, scales, solver):
    noise = noise_of(pipeline, 1)
    guidance = {"guidance_scale": scales[0], "bridge_guidance_scale": scales[1], "solver": solver}
    first = Image.fromarray(picture()[0])
    out, steps = recorded(
        pipeline, image=first, audio=sound(), latents=noise[0], audio_latents=noise[1], **guidance
    )
    assert [step[:2] for step in steps] == [([1000, 0], HIGH), ([909, 0], HIGH), ([714, 0], LOW)]
    latents = pipeline.encode_audio(samples_of(sound()))
    for _, _, tensors in steps:
        assert torch.equal(tensors["audio_latents"], latents)
        assert torch.equal(tensors["denoised_audio_latents"], latents)
    expected, _ = plain_loop(
        pipeline,
        pixels_of(picture())[:, :, 0],
        (noise[0], latents),
        [(sigma, 0.0) for sigma in SIGMAS],
        (HIGH, HIGH, LOW),
        scales,
        solver=SOLVERS[solver],
    )
    assert relative_error(out.frames, expected) < 1e-4
    assert torch.equal(out.audio, latents)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("scales", GUIDANCE)
def test_a_held_picture_is_clean_at_timestep_zero_so_the_low_noise_expert_runs(pipeline, scales, solver):
    noise = noise_of(pipeline, 1)
    guidance = {"guidance_scale": scales[0], "bridge_guidance_scale": scales[1], "solver": solver}
    out, steps = recorded(pipeline, video=picture(), latents=noise[0], audio_latents=noise[1], **guidance)
    assert [step[:2] for step in steps] == [([0, 1000], LOW), ([0, 909], LOW), ([0, 714], LOW)]
    latents = pipeline.encode_video(pixels_of(picture()))
    for _, _, tensors in steps:
        assert torch.equal(tensors["latents"], latents)
        assert torch.equal(tensors["denoised_latents"], latents)
    _, expected = plain_loop(
        pipeline,
        pixels_of(picture())[:, :, 0],
        (latents, noise[1]),
        [(0.0, sigma) for sigma in SIGMAS],
        (LOW, LOW, LOW),
        scales,
        solver=SOLVERS[solver],
    )
    assert torch.equal(out.frames, latents)
    assert relative_error(out.audio, expected) < 1e-4


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_is_kept_of_both_tracks_follows_its_line_from_the_noise_in_every_step(pipeline, solver):
    noise, span = noise_of(pipeline, 2), (5 / 24, FRAMES / 24)  # from picture latent 2 on
    out, _ = recorded(
        pipeline,
        video=picture(num_frames=5),
        audio=sound(num_frames=5),
        num_frames=FRAMES,
        regenerate_audio=[span],
        solver=solver,
        latents=noise[0],
        audio_latents=noise[1],
    )
    kept_sound = (
        int(RATE * 5 / 24) // pipeline.audio_vae.hop_length
    )  # whole latents of the sound before the span
    clean = (
        pipeline.encode_video(pixels_of(picture(num_frames=5))),
        pipeline.encode_audio(samples_of(mirrored_after(sound(num_frames=5), int(RATE * FRAMES / 24)))),
    )
    counts = (2, kept_sound)

    def replace(pair, sigmas):
        result = [x.clone() for x in pair]
        for x, z, n, sigma, count in zip(result, clean, noise, sigmas, counts, strict=True):
            x[:, :, :count] = (1 - sigma) * z[:, :, :count] + sigma * n[:, :, :count]
        return result

    expected = plain_loop(
        pipeline,
        pixels_of(picture())[:, :, 0],
        noise,
        [(sigma, sigma) for sigma in SIGMAS],
        (HIGH, HIGH, LOW),
        replace=replace,
        solver=SOLVERS[solver],
    )
    assert torch.equal(out.frames[:, :, :2], clean[0])
    assert torch.equal(out.audio[:, :, :kept_sound], clean[1][:, :, :kept_sound])
    assert relative_error(out.frames, expected[0]) < 1e-4
    assert relative_error(out.audio, expected[1]) < 1e-4


def mirrored_after(waveform, samples):
    """The sound, up to a quarter of a second of its reflection (first about its last sample), silence."""
    mirror = waveform[-2::-1][: min(samples - len(waveform), RATE // 4)].copy()
    turn = torch.linspace(2, 0, min(len(mirror), round(0.008 * RATE))).numpy()
    mirror[: len(turn)] += turn * (waveform[-1] - mirror[: len(turn)])
    return np.pad(np.concatenate((waveform, mirror)), (0, samples - len(waveform) - len(mirror)))


def test_strength_starts_from_what_was_given_at_that_sigma_in_fewer_steps(pipeline):
    noise = noise_of(pipeline, 3)
    out, steps = recorded(
        pipeline,
        video=picture(),
        audio=sound(),
        regenerate_video=True,
        regenerate_audio=True,
        strength=0.8,
        latents=noise[0],
        audio_latents=noise[1],
    )
    assert [step[:2] for step in steps] == [([800, 800], LOW), ([714, 714], LOW)]
    clean = pipeline.encode_video(pixels_of(picture())), pipeline.encode_audio(samples_of(sound()))
    start = [0.2 * z + 0.8 * n for z, n in zip(clean, noise, strict=True)]
    pairs = [(sigma, sigma) for sigma in (0.8, *SIGMAS[2:])]
    expected = plain_loop(pipeline, pixels_of(picture())[:, :, 0], start, pairs, (LOW, LOW))
    assert relative_error(out.frames, expected[0]) < 1e-4
    assert relative_error(out.audio, expected[1]) < 1e-4


def test_a_track_that_starts_later_waits_for_the_one_made_from_noise(pipeline):
    _, steps = recorded(pipeline, video=picture(), regenerate_video=True, strength=0.8, generator=seeded(0))
    assert [step[:2] for step in steps] == [([800, 1000], LOW), ([800, 909], LOW), ([714, 714], LOW)]


def test_strength_near_zero_leaves_the_given_latents(pipeline):
    out, _ = recorded(pipeline, video=picture(), audio=sound(), regenerate_video=True, strength=1e-4)
    assert relative_error(out.frames, pipeline.encode_video(pixels_of(picture()))) < 1e-2


def test_further_passes_make_the_sound_then_the_picture_with_the_other_held_and_other_noise(
    pipeline, monkeypatch
):
    monkeypatch.setattr("mova.pipeline.SEEN_ONCE", 0.0)  # the plain loop looks at the picture in every step
    noises, first = noises_of(pipeline, 6), pixels_of(picture())[:, :, 0]
    out, steps = recorded(
        pipeline,
        image=Image.fromarray(picture()[0]),
        num_frames=FRAMES,
        refine=2,
        generator=seeded(6),
    )
    assert [step[:2] for step in steps] == [
        *[([1000, 1000], HIGH), ([909, 909], HIGH), ([714, 714], LOW)],
        *[([0, 1000], LOW), ([0, 909], LOW), ([0, 714], LOW)],
        *[([1000, 0], HIGH), ([909, 0], HIGH), ([714, 0], LOW)],
    ]
    experts = (HIGH, HIGH, LOW)
    pair = plain_loop(pipeline, first, next(noises), [(sigma, sigma) for sigma in SIGMAS], experts)
    sound_start = (pair[0], next(noises)[1])
    pair = plain_loop(pipeline, first, sound_start, [(0.0, sigma) for sigma in SIGMAS], [LOW] * 3)
    picture_start = (next(noises)[0], pair[1])
    pair = plain_loop(pipeline, first, picture_start, [(sigma, 0.0) for sigma in SIGMAS], experts)
    assert relative_error(out.frames, pair[0]) < 1e-4
    assert relative_error(out.audio, pair[1]) < 1e-4


def test_a_further_pass_starts_from_the_pass_before_at_the_strength_of_the_run(pipeline):
    both = {"video": picture(), "audio": sound(), "regenerate_video": True, "regenerate_audio": True}
    _, steps = recorded(pipeline, **both, strength=0.8, refine=1, generator=seeded(3))
    assert [step[:2] for step in steps] == [
        *[([800, 800], LOW), ([714, 714], LOW)],
        *[([0, 800], LOW), ([0, 714], LOW)],
    ]
    near, steps = recorded(pipeline, **both, strength=1e-8, refine=2, generator=seeded(3))
    assert len(steps) == 3
    assert relative_error(near.frames, pipeline.encode_video(pixels_of(picture()))) < 1e-2
    assert relative_error(near.audio, pipeline.encode_audio(samples_of(sound()))) < 1e-2


@pytest.mark.parametrize("held", [{"video": picture()}, {"audio": sound()}])
def test_there_is_nothing_to_refine_where_a_track_is_kept(pipeline, held):
    with pytest.raises(UserError, match="set refine=0"):
        pipeline(PROMPT, refine=1, **SMALL | held)


def test_a_video_regenerated_from_noise_gives_its_first_frame_and_its_length_only(pipeline):
    by_video, _ = recorded(pipeline, video=picture(), regenerate_video=True, generator=seeded(4))
    by_image, _ = recorded(
        pipeline, image=Image.fromarray(picture()[0]), num_frames=FRAMES, generator=seeded(4)
    )
    assert torch.equal(by_video.frames, by_image.frames)
    assert torch.equal(by_video.audio, by_image.audio)


@pytest.mark.parametrize(
    "what",
    [
        {"audio": np.stack([sound(0), sound(1)])[:, None]},
        {"video": np.stack([picture(0), picture(1)])},
        {
            "video": np.stack([picture(0), picture(1)]),
            "audio": np.stack([sound(0), sound(1)])[:, None],
            "regenerate_video": [(0.2, 0.4)],
            "regenerate_audio": [(0.1, 0.3)],
            "strength": 0.9,
            "bridge_guidance_scale": 2.0,
            "refine": 2,
        },
    ],
    ids=["sound held", "picture held", "both partly"],
)
@pytest.mark.parametrize("output_type", ["latent", "pt"])
def test_two_clips_in_one_call_equal_two_calls(pipeline, what, output_type):
    small = SMALL | {"output_type": output_type}
    prompts = [PROMPT, "rain on a tin roof"]
    together = pipeline(prompts, generator=[seeded(0), seeded(1)], **small, **what)
    for i in range(2):
        own = {k: v[i] if isinstance(v, np.ndarray) else v for k, v in what.items()}
        alone = pipeline(prompts[i], generator=seeded(i), **small, **own)
        assert relative_error(together.frames[i : i + 1], alone.frames) < 1e-4
        assert relative_error(together.audio[i : i + 1], alone.audio) < 1e-4


def test_one_given_sound_serves_all_prompts(pipeline):
    out = pipeline([PROMPT, "rain"], audio=sound(), **SMALL | {"output_type": "pt"})
    assert np.array_equal(out.audio[:, 0].numpy(), np.stack([sound()] * 2))


def test_held_tracks_come_out_bit_for_bit_and_are_not_decoded(pipeline, monkeypatch):
    small = SMALL | {"output_type": "pt"}
    monkeypatch.setattr(pipeline, "decode_video", None)
    seen = pipeline(PROMPT, video=picture(), **small)
    assert np.array_equal(frames_of(seen)[0], picture())
    images = [Image.fromarray(frame) for frame in picture()]
    as_images = pipeline(PROMPT, video=images, **small | {"output_type": "pil"})
    assert all(
        np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(as_images.frames[0], images, strict=True)
    )
    monkeypatch.undo()
    monkeypatch.setattr(pipeline, "decode_audio", None)
    heard = pipeline(PROMPT, audio=sound(), **small)
    assert np.array_equal(heard.audio[0, 0].numpy(), sound())


@pytest.mark.parametrize("refine", [0, 2])
def test_outside_the_spans_frames_and_samples_come_out_bit_for_bit(pipeline, refine):
    long, span = 33, (0.5, 0.8)
    out = pipeline(
        PROMPT,
        video=picture(num_frames=long),
        audio=sound(num_frames=long),
        regenerate_video=[span],
        regenerate_audio=[span],
        refine=refine,
        **SMALL | {"output_type": "pt"},
    )
    made = (np.arange(long) >= 9) & (np.arange(long) <= 20)  # latents 3 to 5; 0.5-0.8 s are frames 12 to 19
    frames = frames_of(out)[0]
    assert np.array_equal(frames[~made], picture(num_frames=long)[~made])
    assert all((frames[i] != picture(num_frames=long)[i]).any() for i in np.flatnonzero(made))
    heard, start, end = out.audio[0, 0].numpy(), int(0.5 * RATE), int(0.8 * RATE)
    assert np.array_equal(heard[:start], sound(num_frames=long)[:start])
    assert np.array_equal(heard[end:], sound(num_frames=long)[end:])
    assert (heard[start:end] != sound(num_frames=long)[start:end]).mean() > 0.99


def test_a_run_with_a_held_track_stops_when_asked(pipeline):
    with pytest.raises(Cancelled, match="step 1 of 3"):
        pipeline(PROMPT, audio=sound(), should_stop=lambda: True, **SMALL)


def shape_of(output):
    return output.frames.shape[1], output.audio.shape[-1]


def test_the_clip_follows_the_video_then_the_sound_and_says_what_it_cut(pipeline):
    small = SMALL | {"output_type": "pt", "num_inference_steps": 1, "guidance_scale": 1.0}
    by_sound = pipeline(PROMPT, audio=sound(num_frames=12), **small)
    assert shape_of(by_sound) == (13, int(RATE * 13 / 24))
    assert by_sound.notes == ("the audio lasts 0.50 s; the clip's end after it is silent",)
    assert np.array_equal(by_sound.audio[0, 0, : len(sound(num_frames=12))].numpy(), sound(num_frames=12))
    assert not by_sound.audio[0, 0, len(sound(num_frames=12)) :].any()

    by_video = pipeline(PROMPT, video=picture(num_frames=15), **small)
    assert shape_of(by_video) == (13, int(RATE * 13 / 24))
    assert by_video.notes == ("the last 2 frames of the video were cut; the clip has 13",)

    shorter = pipeline(PROMPT, audio=sound(num_frames=13), num_frames=9, **small)
    assert shape_of(shorter) == (9, int(RATE * 9 / 24))
    assert shorter.notes == ("the audio lasts 0.54 s; its end after 0.38 s was cut",)

    longer = pipeline(PROMPT, video=picture(num_frames=6), num_frames=9, **small)
    assert np.array_equal(frames_of(longer)[0, :5], picture(num_frames=6)[:5])
    assert longer.notes == ("the video is kept for 0.21 s; the picture after it is made",)
    assert pipeline(PROMPT, num_frames=5, **small).notes == ()


def test_under_one_frame_of_a_sound_is_cut_rather_than_four_frames_added():
    assert tracks.frames_for_sound(193.9 / 24, 24.0) == 193
    assert tracks.frames_for_sound(194.1 / 24, 24.0) == 197
    assert tracks.frames_for_sound(0.001, 24.0) == 1


def test_video_of_another_size_is_cropped_and_resized_like_an_image(pipeline):
    out = pipeline(PROMPT, video=picture(height=64, width=64), **SMALL | {"output_type": "pt"})
    expected = Image.fromarray(picture(height=64, width=64)[3]).crop((0, 11, 64, 53))
    assert np.array_equal(
        frames_of(out)[0, 3], np.asarray(expected.resize((48, 32), Image.Resampling.BICUBIC))
    )
    assert out.notes == ("the video was cropped and resized from 64x64 to 48x32",)


def test_sound_of_another_rate_and_of_two_channels_is_heard_as_mono_at_the_models_rate(pipeline):
    time = np.arange(int(48000 * FRAMES / 24)) / 48000
    tone = 0.3 * np.sin(2 * np.pi * 200 * time).astype(np.float32)
    stereo = np.stack([tone + 0.1, tone - 0.1])
    out = pipeline(PROMPT, audio=stereo, audio_sample_rate=48000, **SMALL | {"output_type": "pt"})
    heard = out.audio[0, 0].numpy()
    expected = 0.3 * np.sin(2 * np.pi * 200 * np.arange(len(heard)) / RATE)
    assert len(heard) == int(RATE * FRAMES / 24)
    assert np.abs(heard - expected)[50:-50].max() < 0.01


BAD = [
    ({"audio": np.zeros((1, 0), np.float32)}, "the audio has no samples"),
    ({"audio": np.zeros(100, np.int16)}, "audio must be float"),
    ({"audio": np.full(2000, np.nan, np.float32)}, "samples that are not finite"),
    ({"audio": sound(), "audio_sample_rate": 0}, "audio_sample_rate=0"),
    ({"audio": np.zeros(5 * 3600 * RATE, np.float32)}, "the sound lasts 18000.0 s"),
    ({"video": np.zeros((0, 32, 48, 3), np.uint8)}, "the video has no frames"),
    ({"video": []}, "the video has no frames"),
    ({"video": np.zeros((5, 32, 48), np.uint8)}, "a video array must be"),
    ({"video": np.zeros((5, 32, 48, 3), np.float32)}, "a video array must be uint8"),
    ({"video": torch.zeros(3, 5, 8, 8)}, "a video tensor must be"),
    ({"video": torch.full((3, 5, 32, 48), torch.inf)}, "values that are not finite"),
    ({"video": picture(), "audio": sound()}, "nothing is left to make"),
    ({"video": picture(), "audio": sound(), "regenerate_audio": []}, "nothing is left to make"),
    ({"regenerate_audio": True}, "regenerate_audio needs audio"),
    ({"audio": sound(), "regenerate_video": [(0, 1)]}, "regenerate_video needs video"),
    ({"audio": sound(), "regenerate_audio": [(0.1, 7)]}, "regenerate_audio=7 is out of range"),
    ({"audio": sound(), "regenerate_audio": [(-1, 0.2)]}, "regenerate_audio=-1 is out of range"),
    ({"audio": sound(), "regenerate_audio": [(0.1, math.nan)]}, "regenerate_audio=nan is not a number"),
    ({"audio": sound(), "regenerate_audio": [(0.3, 0.1)]}, "ends before it starts"),
    ({"audio": sound(), "regenerate_audio": [(0.2, 0.2)]}, "ends before it starts"),
    ({"audio": sound(), "regenerate_audio": [(0.2, 0.4), (0.1, 0.3)]}, "overlap; make them one"),
    ({"audio": sound(), "regenerate_audio": [(0.1,)]}, r"a span is \(start, end\)"),
    ({"audio": sound(), "regenerate_audio": True, "strength": 0}, "strength=0 makes nothing"),
    ({"audio": sound(), "regenerate_audio": True, "strength": 1.5}, "strength=1.5 is out of range"),
    ({"audio": sound(), "strength": 0.5}, "nothing to start from"),
    ({"strength": 0.5}, "nothing to start from"),
    ({"prompt": ["a", "b", "c"], "video": np.stack([picture()] * 2)}, "2 videos for 3"),
]


@pytest.mark.parametrize(("bad", "sentence"), BAD)
def test_bad_arguments_get_a_sentence(pipeline, bad, sentence):
    with pytest.raises(UserError, match=sentence):
        pipeline(**{"prompt": PROMPT} | SMALL | bad)


SHAPES = st.builds(
    ClipShape,
    height=st.just(352),
    width=st.just(640),
    num_frames=st.integers(0, 60).map(lambda k: 4 * k + 1),
    frame_rate=st.sampled_from([8.0, 23.976, 24.0, 25.0, 30.0]),
    sample_rate=st.sampled_from([16000, 48000]),
    hop_length=st.sampled_from([320, 960]),
)
PAIR = st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda pair: abs(pair[0] - pair[1]) > 0.02)


@given(SHAPES, PAIR)
def test_latents_that_are_made_cover_the_span_and_are_all_touched_by_it(shape, pair):
    start, end = (bound * shape.seconds for bound in sorted(pair))
    keep = tracks.video_keep([(start, end)], shape)
    made = tracks.made_frames(keep)
    assert made.shape == (shape.num_frames,)
    inside = [f for f in range(shape.num_frames) if start <= f / shape.frame_rate < end - 1e-3]
    assert made[inside].all()
    for k in np.flatnonzero(keep == 0):
        first, last = max(0, 4 * k - 3), 4 * k
        assert first / shape.frame_rate < end
        assert (last + 1) / shape.frame_rate > start

    keep = tracks.audio_keep([(start, end)], shape)
    assert keep.shape == (shape.audio_latents,)
    for j in range(shape.audio_latents):
        begins, ends = (edge * shape.hop_length / shape.sample_rate for edge in (j, j + 1))
        if min(end, ends) - max(start, begins) > 1e-3:
            assert keep[j] == 0
        if ends <= start or begins >= end:
            assert keep[j] == 1


@given(SHAPES)
def test_the_whole_clip_as_a_span_is_all_made_and_no_span_is_all_kept(shape):
    whole = tracks.spans_to_make("x", True, shape.seconds)
    for keep in (tracks.video_keep, tracks.audio_keep):
        assert not keep(whole, shape).any()
        assert keep((), shape).all()


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 4), st.integers(0, 40))
def test_ramps_lie_in_what_is_made_and_leave_a_middle(flags, length, real):
    keep = np.array(flags, np.float32)
    ramped = tracks.ramped(keep, length, real)
    assert (ramped[keep == 1] == 1).all()
    assert ((ramped[keep == 0] >= 0) & (ramped[keep == 0] < 1)).all()
    assert (ramped[real:] == keep[real:]).all()
    for start, end in tracks.runs(keep == 0):
        assert (ramped[start:end] == 0).any()
        assert (ramped[start:end] > 0).sum() <= 2 * length


def test_a_ramp_is_even_on_both_sides_of_a_retake():
    keep = np.array([1, 1, 0, 0, 0, 0, 0, 0, 0, 1], np.float32)
    assert tracks.ramped(keep, 3, 10) == pytest.approx([1, 1, 0.75, 0.5, 0.25, 0, 0.25, 0.5, 0.75, 1])


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["first", "middle", "last"]))
def test_made_frames_join_the_given_ones_without_the_step_that_coding_leaves(lost, length, where):
    """A still picture whose coded copy is `lost` levels too dark: no step at a seam may show it."""
    total = length + 40
    start = {"first": 0, "middle": 20, "last": 40}[where]
    made = np.zeros(total, bool)
    made[start : start + length] = True
    given_frames = torch.full((1, 3, total, 2, 2), 100.0)
    result = seams.put_back_frames(given_frames, given_frames - lost, made)
    assert torch.equal(result[:, :, ~made], given_frames[:, :, ~made])
    # A fade of n frames goes down by at most (pi / 2) / (n + 1) a frame; two meet in a short span.
    limit = 3.2 * lost / (min(length, seams.BLEND_FRAMES) + 1)
    assert result.diff(dim=2).abs().max() <= limit + 1e-4


def test_what_moves_away_from_a_seam_leaves_no_ghost():
    """A square that coding loses the detail of, and that is somewhere else in the made frames."""
    given_frames = torch.zeros(1, 3, 20, 32, 64)
    for i in range(20):
        given_frames[:, :, i, 10:20, 5 + 2 * i : 15 + 2 * i : 2] = 1
    decoded = given_frames.clone()
    decoded[:, :, :, 10:20] = F.avg_pool1d(given_frames[:, :, :, 10:20].flatten(0, 3), 3, 1, 1).view(
        1, 3, 20, 10, 64
    )
    made = np.arange(20) >= 5
    result = seams.put_back_frames(given_frames, decoded, made)
    assert torch.equal(result[:, :, 10:], decoded[:, :, 10:])
    assert torch.equal(result[:, :, ~made], given_frames[:, :, ~made])


def test_made_sound_joins_the_given_one_without_a_click():
    rate = 16000
    time = torch.arange(rate) / rate
    before, after = (0.5 * torch.sin(2 * torch.pi * pitch * time)[None, None] for pitch in (200, 330))
    result = seams.put_back_sound(before, after, [(0.3, 0.6)], rate)
    assert torch.equal(result[..., : int(0.3 * rate)], before[..., : int(0.3 * rate)])
    assert torch.equal(result[..., int(0.6 * rate) :], before[..., int(0.6 * rate) :])
    assert torch.equal(
        result[..., int(0.32 * rate) : int(0.58 * rate)], after[..., int(0.32 * rate) : int(0.58 * rate)]
    )
    # The second difference is where a click shows: 40 dB under the tones at the seams, too.
    assert result.diff().diff().abs().max() < 0.01
    hard = torch.cat((before[..., :4830], after[..., 4830:]), dim=-1)
    assert hard.diff().diff().abs().max() > 0.05


@given(
    st.integers(1, 400),
    st.floats(0.05, 60),
    st.sampled_from([24.0, 25.0, 29.97]),
    st.floats(0.05, 1.5),
    st.sampled_from([49, 97, 193]),
)
def test_windows_follow_on_one_another_and_reach_the_seconds_wanted(
    num_frames, seconds, frame_rate, overlap, window_frames
):
    windows = tracks.plan_extension(num_frames, seconds, frame_rate, overlap, window_frames)
    end = num_frames
    for window in windows:
        assert window.start >= 0
        assert window.start + window.overlap == end
        assert window.overlap % 4 == window.num_frames % 4 == 1
        assert window.overlap < window.num_frames <= window_frames
        if window.start > 3:  # there was more to hold
            assert window.num_frames == window_frames
        end += window.num_frames - window.overlap
    added = (end - num_frames) / frame_rate
    assert seconds - 0.01 <= added < seconds + 4 / frame_rate + 0.01


@pytest.mark.parametrize(
    ("seconds", "overlap", "name"),
    [
        (0, 1, "seconds=0"),
        (math.nan, 1, "seconds=nan"),
        (18000, 1, "seconds=18000"),
        (4, 0, "overlap=0"),
        (4, 9, "overlap=9"),
    ],
)
def test_an_extension_out_of_range_gets_a_sentence(seconds, overlap, name):
    with pytest.raises(UserError, match=name):
        tracks.plan_extension(49, seconds, 24.0, overlap, 193)


def test_a_clip_is_continued_window_by_window_and_can_be_resumed(pipeline):
    windows = tracks.plan_extension(13, 1.0, 24.0, 0.2, 13)
    assert windows == (Window(8, 5, 13), Window(16, 5, 13), Window(24, 5, 13))

    def make(frames, waveform, window):
        span = [window.made(24.0)]
        out = pipeline(
            PROMPT,
            video=frames,
            audio=waveform,
            num_frames=window.num_frames,
            regenerate_audio=span,
            generator=seeded(window.start),
            **SMALL | {"output_type": "pt"},
        )
        return frames_of(out)[0], out.audio[0, 0].numpy()

    frames, waveform, states = picture(), sound(), []
    for new_frames, new_waveform in tracks.extend(make, frames, waveform, 24.0, RATE, windows):
        frames = np.concatenate((frames, new_frames))
        waveform = np.concatenate((waveform, new_waveform))
        states.append((frames, waveform))
    assert len(frames) == 13 + 3 * 8
    assert abs(len(waveform) - RATE * len(frames) / 24) < 2
    assert np.array_equal(frames[:13], picture())
    assert np.array_equal(waveform[: len(sound())], sound())

    ((again, heard_again),) = tracks.extend(make, *states[1], 24.0, RATE, windows[2:])
    assert np.array_equal(frames[-8:], again)
    assert np.array_equal(waveform[-len(heard_again) :], heard_again)

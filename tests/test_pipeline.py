import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mova.encoders import ENCODED_FRAMES
from mova.errors import Cancelled, UserError
from mova.models.video_vae import encode
from mova.request import SOLVERS, GenerationRequest
from tests.tiny import relative_error

SMALL = {"height": 32, "width": 48, "num_frames": 5, "num_inference_steps": 3, "output_type": "latent"}
PROMPTS = ["a red ball falls", 'a woman says "hello"', "rain on a tin roof"]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def picture(seed, size=(60, 50)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))


@pytest.mark.parametrize("guidance", [{}, {"guidance_scale": 1.0}, {"bridge_guidance_scale": 3.0}])
def test_three_clips_in_one_call_equal_three_calls(pipeline, guidance):
    images = [picture(i) for i in range(3)]
    together = pipeline(PROMPTS, images, generator=[seeded(i) for i in range(3)], **SMALL, **guidance)
    for i in range(3):
        alone = pipeline(PROMPTS[i], images[i], generator=seeded(i), **SMALL, **guidance)
        assert relative_error(together.frames[i : i + 1], alone.frames) < 1e-4
        assert relative_error(together.audio[i : i + 1], alone.audio) < 1e-4


def test_videos_per_prompt_differ_by_their_generators_only(pipeline):
    generators = [seeded(i) for i in range(4)]
    out = pipeline(PROMPTS[:2], generator=generators, num_videos_per_prompt=2, **SMALL)
    again = pipeline(PROMPTS[1], generator=seeded(3), **SMALL)
    assert out.frames.shape[0] == 4
    assert relative_error(out.frames[3:], again.frames) < 1e-4


def test_the_same_seed_makes_the_same_clip_bit_for_bit(pipeline):
    first, second = (pipeline(PROMPTS[0], generator=seeded(5), **SMALL) for _ in range(2))
    assert torch.equal(first.frames, second.frames)
    assert torch.equal(first.audio, second.audio)
    assert not torch.equal(first.frames, pipeline(PROMPTS[0], generator=seeded(6), **SMALL).frames)


def test_noise_is_drawn_video_first_from_the_generator(pipeline):
    generator = seeded(9)
    noise = torch.randn(16, 2, 4, 6, generator=generator)[None], torch.randn(8, 11, generator=generator)[None]
    drawn = pipeline(PROMPTS[0], generator=seeded(9), **SMALL)
    given = pipeline(PROMPTS[0], latents=noise[0], audio_latents=noise[1], **SMALL)
    assert torch.equal(drawn.frames, given.frames)
    assert torch.equal(drawn.audio, given.audio)


def test_prompt_embeds_stand_for_the_prompt(pipeline):
    embeds, negative = pipeline.encode_prompt(PROMPTS[0]), pipeline.encode_prompt("ugly")
    by_text = pipeline(PROMPTS[0], negative_prompt="ugly", generator=seeded(0), **SMALL)
    by_embeds = pipeline(prompt_embeds=embeds, negative_prompt_embeds=negative, generator=seeded(0), **SMALL)
    assert torch.equal(by_text.frames, by_embeds.frames)


def test_dual_guidance_with_bridge_scale_one_is_text_guidance(pipeline):
    plain = pipeline(PROMPTS[0], generator=seeded(0), **SMALL)
    dual = pipeline(PROMPTS[0], generator=seeded(0), bridge_guidance_scale=1.0 + 1e-9, **SMALL)
    assert relative_error(dual.frames, plain.frames) < 1e-5


def test_unipc_is_run_from_the_steps_alone_and_makes_another_clip(pipeline):
    euler, unipc = (pipeline(PROMPTS[0], generator=seeded(0), solver=each, **SMALL) for each in SOLVERS)
    again = pipeline(PROMPTS[0], generator=seeded(0), solver="unipc", **SMALL)
    assert torch.equal(unipc.frames, again.frames)
    assert relative_error(unipc.frames, euler.frames) > 1e-3
    assert relative_error(unipc.audio, euler.audio) > 1e-3


def test_each_track_is_guided_by_its_own_scales(pipeline):
    """In one step, as later ones see both tracks."""
    one = SMALL | {"num_inference_steps": 1}

    def run(**scales):
        return pipeline(PROMPTS[0], generator=seeded(0), **one | scales)

    strong, weak = run(guidance_scale=5.0, bridge_guidance_scale=3.0), run(guidance_scale=2.0)
    scales = {"audio_guidance_scale": 2.0, "audio_bridge_guidance_scale": 1.0}
    both = run(guidance_scale=5.0, bridge_guidance_scale=3.0, **scales)
    assert torch.equal(both.frames, strong.frames)
    assert relative_error(both.audio, weak.audio) < 1e-5
    assert relative_error(both.audio, strong.audio) > 1e-3


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"guidance_interval": (0.8, 1.0)},
        {"guidance_interval": (0.0, 0.95), "bridge_guidance_scale": 3.0},
        {"guidance_interval": (0.8, 1.0), "video_shift": 1.0},
        {"guidance_interval": (0.8, 1.0), "audio_shift": 1.0},
        {"guidance_scale": 1.0, "audio_guidance_scale": 3.0},
        {"guidance_scale": 1.0},
    ],
)
@pytest.mark.parametrize("is_held", [False, True])
def test_a_run_takes_as_many_forwards_as_its_request_counts(pipeline, changes, is_held):
    request = GenerationRequest("rain", num_inference_steps=6).replace(**changes)
    given = {}
    if is_held:
        request = request.replace(video=Path("any.mp4"))
        given = {"video": np.zeros((5, 32, 48, 3), np.uint8)}
    forwards = []  # a stop is asked for before each, also before one of the audio tower alone

    def count():
        forwards.append(1)
        return False

    pipeline("rain", should_stop=count, **SMALL | {"num_inference_steps": 6} | changes | given)
    assert len(forwards) == request.total_forwards(pipeline.scheduler.config.shift)


def test_guidance_in_an_interval_is_full_guidance_there_and_none_outside(pipeline):
    runs = {}
    for name, changes in {
        "all": {},
        "high": {"guidance_interval": (0.9, 1.0)},  # of the sigmas 1, 0.91, 0.71
        "none": {"guidance_interval": (0.0, 0.0)},
        "off": {"guidance_scale": 1.0},
    }.items():
        states = []

        def remember(pipe, step, timestep, tensors, states=states):
            states.append(tensors["latents"])
            return {}

        pipeline(PROMPTS[0], generator=seeded(0), callback_on_step_end=remember, **SMALL | changes)
        runs[name] = states
    assert all(torch.equal(runs["high"][step], runs["all"][step]) for step in (0, 1))
    assert not torch.equal(runs["high"][2], runs["all"][2])
    assert all(torch.equal(*states) for states in zip(runs["none"], runs["off"], strict=True))


def test_output_types_agree_and_have_their_documented_shapes(pipeline):
    small = SMALL | {"output_type": "pt"}
    tensor = pipeline(PROMPTS[0], generator=seeded(0), **small)
    assert tensor.frames.shape == (1, 5, 3, 32, 48)
    assert tensor.audio.shape == (1, 1, 666)  # int(3200 * 5 / 24)
    assert tensor.audio.dtype == torch.float32
    array = pipeline(PROMPTS[0], generator=seeded(0), **small | {"output_type": "np"})
    assert np.allclose(array.frames, tensor.frames.permute(0, 1, 3, 4, 2).numpy())
    frames, audio = pipeline(
        PROMPTS[0], generator=seeded(0), return_dict=False, **small | {"output_type": "pil"}
    )
    assert frames[0][0].size == (48, 32)
    assert np.abs(np.asarray(frames[0][4], np.float32) / 255 - array.frames[0, 4]).max() < 1 / 254
    assert torch.equal(audio, tensor.audio)


def test_latent_output_is_what_the_decoders_take(pipeline):
    latents = pipeline(PROMPTS[0], generator=seeded(0), **SMALL)
    decoded = pipeline(PROMPTS[0], generator=seeded(0), **SMALL | {"output_type": "pt"})
    video = (pipeline.decode_video(latents.frames) / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(video.permute(0, 2, 1, 3, 4), decoded.frames)


def test_no_image_is_a_white_first_frame(pipeline):
    white = Image.new("RGB", (48, 32), "white")
    without, with_white = (
        pipeline(PROMPTS[0], image, generator=seeded(0), **SMALL) for image in (None, white)
    )
    assert torch.equal(without.frames, with_white.frames)


def test_portrait_sizes_run(pipeline):
    out = pipeline(PROMPTS[0], picture(0), **SMALL | {"height": 64, "width": 32, "output_type": "pt"})
    assert out.frames.shape == (1, 5, 3, 64, 32)


def test_latents_of_a_long_condition_repeat_exactly(pipeline):
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    short = pipeline.encode_first_frame(pixels, ENCODED_FRAMES + 8)
    clip = torch.zeros(1, 3, ENCODED_FRAMES + 8, 32, 32)
    clip[:, :, 0] = pixels
    whole = pipeline.normalise_latents(encode(pipeline.video_vae, clip))
    assert torch.equal(short[:, 4:], whole)


def test_callbacks_see_and_replace_latents(pipeline):
    seen = []

    def silence(pipe, step, timestep, tensors):
        seen.append((step, sorted(tensors), timestep.tolist()))
        return {"audio_latents": torch.zeros_like(tensors["audio_latents"])}

    out = pipeline(PROMPTS[0], callback_on_step_end=silence, **SMALL)
    assert [step for step, *_ in seen] == [0, 1, 2]
    assert seen[0][1:] == (["audio_latents", "latents"], [1000.0, 1000.0])
    assert not out.audio.any()


def test_denoised_latents_of_the_last_step_are_the_result(pipeline):
    last = {}

    def remember(pipe, step, timestep, tensors):
        last.update(tensors)
        return {}

    asked = ("denoised_latents", "denoised_audio_latents")
    out = pipeline(
        PROMPTS[0], callback_on_step_end=remember, callback_on_step_end_tensor_inputs=asked, **SMALL
    )
    assert torch.allclose(last["denoised_latents"], out.frames, atol=1e-5)
    assert torch.allclose(last["denoised_audio_latents"], out.audio, atol=1e-5)


def test_a_run_stops_before_the_next_forward(pipeline):
    forwards = []
    handle = pipeline.dual_tower.register_forward_hook(lambda *_: forwards.append(1))
    try:
        with pytest.raises(Cancelled, match="step 2 of 3"):
            pipeline(PROMPTS[0], should_stop=lambda: len(forwards) == 3, **SMALL)
    finally:
        handle.remove()
    assert len(forwards) == 3  # two in the first step, one in the second


def test_the_interrupt_flag_of_diffusers_stops_a_run_and_the_next_one_runs(pipeline):
    def interrupt(pipe, step, timestep, tensors):
        pipe._interrupt = True
        return {}

    with pytest.raises(Cancelled):
        pipeline(PROMPTS[0], callback_on_step_end=interrupt, **SMALL)
    assert pipeline(PROMPTS[0], **SMALL).frames.isfinite().all()


def test_a_long_prompt_is_cut_with_a_warning_that_names_what_is_lost(pipeline, caplog):
    prompt = " ".join(f"word{i}" for i in range(600)) + " the audio shows thunder"
    with caplog.at_level(logging.WARNING):
        pipeline.encode_prompt(prompt)
    assert "the audio shows thunder" in caplog.text
    assert pipeline.truncated_text(prompt).endswith("the audio shows thunder")
    assert pipeline.truncated_text("short") == ""


@pytest.mark.parametrize("how", ["group_offload", "model_cpu_offload", "sequential_cpu_offload"])
def test_offload_hooks_of_the_library_are_refused_with_what_to_use(pipeline, how):
    with pytest.raises(NotImplementedError, match=r"mova\.placement"):
        getattr(pipeline, f"enable_{how}")()


BAD = [
    ({"height": 360}, "nearest: 48x352"),
    ({"num_frames": 100}, "97, 101"),
    ({"num_inference_steps": 0}, "num_inference_steps=0"),
    ({"guidance_scale": float("nan")}, "guidance_scale"),
    ({"frame_rate": 0}, "frame_rate"),
    ({"output_type": "gif"}, "output_type"),
    ({"prompt": "  "}, "prompt is empty"),
    ({"prompt": ["a", ""]}, "prompt is empty"),
    ({"prompt": None}, "prompt is empty"),
    ({"prompt": ["a", "b"], "negative_prompt": ["x", "y", "z"]}, "3 negative prompts for 2"),
    ({"prompt": ["a", "b"], "image": [None, None, None]}, "3 images for 2"),
    ({"generator": [torch.Generator()] * 2}, "2 generators for 1"),
    ({"latents": torch.zeros(1, 16, 1, 1, 1)}, "latents of shape"),
    ({"image": torch.zeros(3, 8, 8)}, "image tensor must be"),
    ({"guidance_scale": float("nan")}, "guidance_scale=nan is not a number"),
    ({"guidance_scale": 31.0}, "guidance_scale=31.0 is out of range"),
    ({"bridge_guidance_scale": -1.0}, "bridge_guidance_scale=-1.0 is out of range"),
    ({"audio_guidance_scale": float("inf")}, "audio_guidance_scale=inf is out of range"),
    ({"guidance_interval": (0.9, 0.3)}, "ends before it starts; give 0.3 and 0.9"),
    ({"guidance_interval": (0.0, float("nan"))}, "guidance_interval=nan is not a number"),
    ({"solver": "heun"}, "solver='heun' is not known; choose one of euler, unipc"),
    ({"callback_on_step_end_tensor_inputs": ("sigmas",)}, "callbacks can ask for"),
]


@pytest.mark.parametrize(("bad", "sentence"), BAD)
def test_bad_arguments_get_a_sentence(pipeline, bad, sentence):
    with pytest.raises(UserError, match=sentence):
        pipeline(**{"prompt": "a ball"} | SMALL | bad)

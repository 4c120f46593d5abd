"""Every golden run of the reference implementation, step by step."""

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from mova.encoders import to_pixels
from tests.tiny import relative_error

RUNS = ("text_cfg_8_steps", "no_cfg_4_steps", "dual_cfg_5_steps")


def settings_of(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def arguments_of(settings):
    bridge = settings["bridge_guidance_scale"]
    return {
        "prompt": settings["prompt"],
        "negative_prompt": settings["negative_prompt"],
        "height": int(settings["height"]),
        "width": int(settings["width"]),
        "num_frames": int(settings["num_frames"]),
        "frame_rate": float(settings["fps"]),
        "num_inference_steps": int(settings["steps"]),
        "guidance_scale": float(settings["guidance_scale"]),
        "bridge_guidance_scale": 1.0 if bridge == "None" else float(bridge),
    }


@pytest.fixture
def run(pipeline, golden, golden_tensors):
    """Re-makes a golden run: (its tensors, (latents, audio latents, timesteps, expert) of each step)."""

    def run(name):
        tensors = golden_tensors(name)
        steps = []

        def remember(pipe, step, timestep, asked):
            expert = pipe.dual_tower.video_dit is pipe.video_dit
            steps.append((asked["latents"], asked["audio_latents"], timestep, expert))
            return {}

        pipeline(
            image=Image.open(golden / "image.png"),
            latents=tensors["latents"],
            audio_latents=tensors["audio_latents"],
            output_type="latent",
            callback_on_step_end=remember,
            **arguments_of(settings_of(golden / f"{name}.safetensors")),
        )
        return tensors, steps

    return run


def check_steps(tensors, steps, scheduler):
    sigmas = scheduler.sigmas(len(steps))
    before = tensors["latents"], tensors["audio_latents"]
    for i, (video, audio, timestep, high_noise) in enumerate(steps):
        assert torch.allclose(timestep, tensors["timestep_pairs"][i], atol=1e-4)
        assert high_noise == bool(tensors["used_high_noise_expert"][i])
        for now, last, name, column in ((video, before[0], "video", 0), (audio, before[1], "audio", 1)):
            velocity = (now - last) / (sigmas[i + 1, column] - sigmas[i, column])
            assert relative_error(velocity, tensors[f"velocity_{name}"][i][None]) < 1e-4
        assert relative_error(video, tensors["latents_after_step"][i][None]) < 1e-4
        assert relative_error(audio, tensors["audio_latents_after_step"][i][None]) < 1e-4
        before = video, audio


@pytest.mark.parametrize("name", RUNS)
def test_each_step_of_a_golden_run_is_reproduced(name, run, pipeline):
    tensors, steps = run(name)
    check_steps(tensors, steps, pipeline.scheduler)
    video, audio, *_ = steps[-1]
    assert relative_error(pipeline.decode_video(video), tensors["video"]) < 1e-3
    assert relative_error(pipeline.decode_audio(audio), tensors["audio"]) < 1e-3


def test_the_golden_run_with_an_upstream_lora_is_reproduced(run, pipeline, golden):
    pipeline.load_lora_weights(golden / "lora_upstream_accelerate")
    try:
        tensors, steps = run("with_lora_4_steps")
    finally:
        pipeline.unload_lora_weights()
    check_steps(tensors, steps, pipeline.scheduler)


@pytest.mark.parametrize("name", RUNS)
def test_golden_prompts_image_and_condition_are_reproduced(name, pipeline, golden, golden_tensors):
    tensors, arguments = golden_tensors(name), arguments_of(settings_of(golden / f"{name}.safetensors"))
    assert relative_error(pipeline.encode_prompt(arguments["prompt"]), tensors["prompt_embeds"]) < 1e-5
    negative = pipeline.encode_prompt(arguments["negative_prompt"])
    assert torch.allclose(negative, tensors["negative_prompt_embeds"], atol=1e-5)
    pixels = to_pixels(Image.open(golden / "image.png"), arguments["height"], arguments["width"])[None]
    assert torch.allclose(pixels, tensors["image_preprocessed"], atol=1e-6)
    condition = pipeline.encode_first_frame(pixels, arguments["num_frames"])
    assert relative_error(condition, tensors["condition"]) < 1e-5

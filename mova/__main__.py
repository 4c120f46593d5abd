"""The command line: `python -m mova generate`, `enhance` and `inspect`.

Exit codes: 0 done; 1 the machine or a server failed; 2 the request cannot be met as it is; 130 stopped.
"""

import argparse
import logging
import sys
from pathlib import Path

from tqdm import tqdm

from mova import catalog, shapes
from mova.prompting.command import DESCRIPTION as ENHANCE
from mova.prompting.command import add_enhance
from mova.types import BackendError, GenerationRequest, Progress, UserError, check_finite

DESCRIPTION = "Video with synchronised sound from a first frame and a text."


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    options = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    try:
        return options.command(options)
    except UserError as error:
        say(f"error: {error}")
        return 2
    except BackendError as error:
        say(f"failed: {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped; nothing was written")
        return 130


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mova", description=DESCRIPTION)
    commands = parser.add_subparsers(required=True, metavar="generate | enhance | inspect")
    add_generate(commands.add_parser("generate", help="make a clip", description=DESCRIPTION))
    add_enhance(commands.add_parser("enhance", help="turn an idea into a prompt", description=ENHANCE))
    add_inspect(
        commands.add_parser("inspect", help="what a checkpoint holds, and where it would go on this machine")
    )
    return parser


def add_generate(parser: argparse.ArgumentParser) -> None:
    presets = ", ".join(
        f"{p.name} ({p.num_inference_steps} steps, {p.note})" for p in catalog.PRESETS.values()
    )
    clip = parser.add_argument_group("the clip")
    clip.add_argument("--prompt", help="what is seen and heard; put spoken words in double quotes")
    clip.add_argument(
        "--image", type=Path, help="first frame; without one the clip starts from a white frame"
    )
    clip.add_argument("--negative-prompt", help="what to steer away from; default: prompts/negative.zh.txt")
    clip.add_argument(
        "--from", dest="source", type=Path, metavar="CLIP", help="take all settings from this clip"
    )
    clip.add_argument("--size", metavar="WIDTHxHEIGHT", help="multiples of 16; default: the model's own")
    length = clip.add_mutually_exclusive_group()
    length.add_argument("--frames", type=int, help="4k+1; default: the preset's")
    length.add_argument("--seconds", type=float, help="length, rounded to a valid number of frames")
    clip.add_argument("--frame-rate", type=float, help="frames a second, default 24, as trained")
    clip.add_argument("--fit", choices=("crop", "pad"), help="how the image fills the clip, default crop")
    clip.add_argument("--seed", type=int, help="the same seed makes the same clip; default random, reported")

    quality = parser.add_argument_group("quality and cost")
    quality.add_argument(
        "--model", help=f"360p, 720p, a folder or a Hub repo id; default {catalog.DEFAULT_MODEL}"
    )
    quality.add_argument(
        "--preset", choices=catalog.PRESETS, help=f"{presets}; default {catalog.DEFAULT_PRESET}"
    )
    quality.add_argument("--steps", type=int, help="denoising steps, default: the preset's")
    quality.add_argument("--guidance-scale", type=float, help="hold to the prompt; default 5, 1 is off")
    quality.add_argument(
        "--bridge-guidance-scale", type=float, help="hold to synchrony; default 1 (off), try 3"
    )
    quality.add_argument("--video-shift", type=float, help="of the noise schedule; default: the checkpoint's")
    quality.add_argument("--audio-shift", type=float, help="of the noise schedule; default: the checkpoint's")
    quality.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:STRENGTH]",
        help="adapter; may be given more than once",
    )
    add_machine(parser)

    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, help="an .mp4; default outputs/clip-SEED.mp4")
    output.add_argument("--wav", type=Path, help="also write the sound here")
    output.add_argument("--png", type=Path, metavar="FOLDER", help="also write the frames here")
    output.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.set_defaults(command=generate)


def add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="360p, 720p, a folder or a Hub repo id")
    parser.add_argument(
        "--size", metavar="WIDTHxHEIGHT", help="of the clip to plan for; default: the model's own"
    )
    parser.add_argument("--frames", type=int, help="of the clip to plan for; default 193")
    add_machine(parser)
    parser.set_defaults(command=inspect)


def add_machine(parser: argparse.ArgumentParser) -> None:
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", help="cuda, cuda:1, mps, cpu; default: the best there is")
    machine.add_argument(
        "--dtype", choices=("bfloat16", "float32"), help="default: bfloat16 where it is fast"
    )
    machine.add_argument("--offload", choices=("auto", "none", "component", "layers"), default="auto")
    machine.add_argument(
        "--experts", choices=("auto", "both", "one"), default="auto", help="held in memory at once"
    )
    machine.add_argument(
        "--fp8", action="store_true", help="store the towers in 8 bits: half the memory, not exact"
    )
    machine.add_argument("--compile", action="store_true", help="a minute of compiling, then faster steps")
    machine.add_argument("--verbose", action="store_true", help="log each stage")


def generate(options: argparse.Namespace) -> int:
    from mova.backends.local import LocalBackend

    settings = read_source(options)
    model = options.model or settings.get("model") or catalog.DEFAULT_MODEL
    request = build_request(options, settings, catalog.find_model(model))
    out = options.out or Path("outputs") / f"clip-{request.seed}.mp4"
    if out.suffix.lower() != ".mp4":
        raise UserError(f"--out {out} must end in .mp4; --wav and --png write sound and frames beside it")
    backend = LocalBackend(model, **placement_options(options))
    with StepBar(request.num_inference_steps) as bar:
        result = backend.generate(request, out, bar.update, overwrite=options.overwrite)
    for warning in result.warnings:
        say(f"warning: {warning}")
    if options.wav or options.png:
        write_copies(options, out)
    seconds = ", ".join(f"{stage} {value:.1f} s" for stage, value in result.seconds.items())
    say(f"{out}  seed {result.request.seed}  ({seconds})")
    return 0


def inspect(options: argparse.Namespace) -> int:
    from mova.inspection import look, report
    from mova.placement import Machine

    model = catalog.find_model(options.model)
    height, width = shapes.parse_size(options.size) if options.size else (model.height, model.width)
    frames = options.frames or model.num_frames
    shapes.check_num_frames(frames)
    shape = shapes.ClipShape(height, width, frames, model.frame_rate, 48000, 960)
    machine = Machine.probe(options.device)
    steps = catalog.PRESETS["full"].num_inference_steps
    say(report(look(model.source), machine, shape, steps, **placement_options(options)))
    return 0


def read_source(options: argparse.Namespace) -> dict:
    """The settings of the clip given with --from, or none."""
    if options.source is None:
        return {}
    from mova.media import read_settings

    return read_settings(options.source)


def build_request(options: argparse.Namespace, settings: dict, model: catalog.Model) -> GenerationRequest:
    """The request: what the command line gives, else the clip of --from, else preset and model."""
    preset = catalog.find_preset(options.preset or catalog.DEFAULT_PRESET)
    defaults = {
        "height": model.height,
        "width": model.width,
        "frame_rate": model.frame_rate,
        "num_frames": preset.num_frames(model),
        "num_inference_steps": preset.num_inference_steps,
        "negative_prompt": catalog.default_negative_prompt(),
    }
    if not settings and not options.prompt:
        raise UserError("give --prompt: what is seen and what is heard")
    chosen = settings if settings else defaults
    if settings and options.preset:  # asked for on top of the clip's settings
        chosen = settings | {key: defaults[key] for key in ("num_frames", "num_inference_steps")}
    given = {
        "prompt": options.prompt,
        "image": options.image,
        "negative_prompt": options.negative_prompt,
        "num_frames": options.frames,
        "frame_rate": options.frame_rate,
        "num_inference_steps": options.steps,
        "guidance_scale": options.guidance_scale,
        "bridge_guidance_scale": options.bridge_guidance_scale,
        "video_shift": options.video_shift,
        "audio_shift": options.audio_shift,
        "seed": options.seed,
        "fit": options.fit,
        "adapters": [parse_lora(text) for text in options.lora] or None,
    }
    if options.size:
        given["height"], given["width"] = shapes.parse_size(options.size)
    request = GenerationRequest.from_settings(chosen | {k: v for k, v in given.items() if v is not None})
    if options.seconds is not None:
        request = request.replace(num_frames=shapes.frames_for_seconds(options.seconds, request.frame_rate))
    return request


def parse_lora(text: str) -> tuple[str, float]:
    """("file", strength) of FILE or FILE:STRENGTH."""
    path, _, strength = text.rpartition(":")
    try:
        scale = float(strength) if path else 1.0
    except ValueError:  # the colon belongs to the path
        path, scale = text, 1.0
    check_finite("the strength of --lora", scale, -10, 10)
    return path or text, scale


def placement_options(options: argparse.Namespace) -> dict[str, object]:
    """Fields of Placement that were given; None leaves a choice to the machine."""
    return {
        "device": options.device,
        "dtype": options.dtype,
        "offload": None if options.offload == "auto" else options.offload,
        "hold_both": None if options.experts == "auto" else options.experts == "both",
        "fp8": options.fp8,
        "compile": options.compile,
    }


def write_copies(options: argparse.Namespace, out: Path) -> None:
    from mova import media

    clip = media.read_clip(out)
    if options.wav:
        media.write_wav(options.wav, clip.waveform, clip.sample_rate, options.overwrite)
    if options.png:
        media.write_png_sequence(options.png, clip.frames, options.overwrite)


class StepBar:
    """A terminal progress bar of denoising steps with the time left."""

    def __init__(self, steps: int) -> None:
        self.bar = tqdm(total=steps, unit="step", desc="load", dynamic_ncols=True)

    def __enter__(self) -> "StepBar":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def update(self, progress: Progress) -> None:
        self.bar.set_description(progress.stage)
        self.bar.update(progress.step - self.bar.n)


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())

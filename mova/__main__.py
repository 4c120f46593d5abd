"""The command line: `python -m mova generate`, `enhance`, `inspect` and `evaluate`."""

import argparse
import itertools
import logging
import os
import sys
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mova import catalog, shapes
from mova.arguments import DTYPES, build_parser
from mova.backends.settings import Remote, remote_from_environment, remote_from_option
from mova.checks import check_request, check_source_image
from mova.guidance import branches
from mova.machine import suitable_model
from mova.outputs import check_frames_folder, check_output
from mova.prompting.command import enhance
from mova.strengths import parse_adapter
from mova.types import BackendError, GenerationRequest, Progress, UserError


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    options = build_parser().parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    logging.getLogger("mova").setLevel(logging.INFO if options.verbose else logging.WARNING)
    try:
        with logging_redirect_tqdm():
            return COMMANDS[options.command](options)
    except UserError as error:
        say(f"error: {error}")
        return 2
    except BackendError as error:
        say(f"failed: {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped; no unfinished file is left")
        return 130


def generate(options: argparse.Namespace) -> int:
    settings = read_source(options)
    remote = chosen_server(options)
    name = options.model or settings.get("model") or (catalog.DEFAULT_MODEL if remote else suitable_model())
    request = build_request(options, settings, catalog.find_model(str(name)))
    out = options.out or default_output(request.seed)
    check_outputs(options, out)
    if options.image is None and request.image is not None:
        check_source_image(request.image, settings.get("image_sha256"))
    check_request(request, out, options.overwrite)
    if remote:
        from mova.backends.remote import RemoteBackend

        backend = RemoteBackend(str(name), remote)
        bar = StepBar(None)
    else:
        fixed = placement_options(options, settings)

        from mova.backends.local import LocalBackend  # brings torch: only when the request is in order

        backend = LocalBackend(str(name), options.device, **fixed)
        plan = backend.plan(request)
        say(f"{plan.placement.why}; denoising takes about {catalog.human_seconds(plan.seconds)}")
        bar = StepBar(request.num_inference_steps)
    with bar:
        result = backend.generate(request, out, bar.update, overwrite=options.overwrite)
    say(", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items()))
    sys.stdout.write(f"{out}\tseed {request.seed}\n")
    write_copies(options, out)
    return 0


def inspect(options: argparse.Namespace) -> int:
    model = catalog.find_model(options.model)
    height, width = shapes.parse_size(options.size) if options.size else (model.height, model.width)
    frames = model.num_frames if options.frames is None else options.frames
    shapes.check_num_frames(frames)
    fixed = placement_options(options, settings={})

    from mova.inspection import look, report
    from mova.placement import Machine

    machine = Machine.probe(options.device)
    checkpoint = look(model.source)
    shape = checkpoint.clip_shape(height, width, frames, model.frame_rate)
    steps = model.preset("full").num_inference_steps
    forwards = len(branches(model.guidance_scale, model.bridge_guidance_scale))
    sys.stdout.write(report(checkpoint, machine, shape, steps, forwards, **fixed) + "\n")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    from mova.metrics.command import evaluate_clips  # brings PyAV

    return evaluate_clips(options.clips, options.image, options.json)


def read_source(options: argparse.Namespace) -> dict:
    """The settings of the clip given with --from, or none."""
    if options.source is None:
        return {}
    from mova.media import read_settings

    settings = read_settings(options.source)
    request = GenerationRequest.from_settings(settings)
    # A file that lay beside the clip when it was made is written without its folder.
    return settings | request.found_beside(options.source.parent).to_settings()


def build_request(options: argparse.Namespace, settings: dict, model: catalog.Model) -> GenerationRequest:
    """The request: what the command line gives, else the clip of --from, else preset and model."""
    defaults = model.defaults(model.preset(options.preset or catalog.DEFAULT_PRESET))
    if not settings and options.prompt is None:
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
        "crop_position": options.crop_position,
        "adapters": [parse_adapter(text) for text in options.lora] or None,
    }
    if options.size:
        given["height"], given["width"] = shapes.parse_size(options.size)
    request = GenerationRequest.from_settings(chosen | {k: v for k, v in given.items() if v is not None})
    if options.seconds is not None:
        request = request.replace(num_frames=shapes.frames_for_seconds(options.seconds, request.frame_rate))
    return request.seeded()


def default_output(seed: int) -> Path:
    """A name that is free: outputs/clip-SEED.mp4, or with -2, -3, ... behind the seed."""
    names = (f"clip-{seed}{f'-{index}' if index > 1 else ''}.mp4" for index in itertools.count(1))
    return next(path for path in map(Path("outputs").joinpath, names) if not path.exists())


def check_outputs(options: argparse.Namespace, out: Path) -> None:
    """Raise UserError unless everything that is asked for can be written."""
    if out.suffix.lower() != ".mp4":
        raise UserError(f"--out {out} must end in .mp4; --wav and --png write sound and frames beside it")
    if options.wav and options.wav.suffix.lower() != ".wav":
        raise UserError(f"--wav {options.wav} must end in .wav")
    if options.wav:
        check_output(options.wav, options.overwrite)
    if options.png:
        check_frames_folder(options.png, options.overwrite)


def chosen_server(options: argparse.Namespace) -> Remote | None:
    """The server of the command line or the environment, or None for this machine."""
    if options.remote is not None:
        remote = remote_from_option(options.remote, options.remote_api_key_env, os.environ)
    elif options.remote_api_key_env is not None:
        raise UserError("--remote-api-key-env belongs to --remote URL; give both")
    else:
        remote = remote_from_environment(os.environ)
    given = {
        "--device": options.device,
        "--dtype": options.dtype,
        "--offload": options.offload != "auto",
        "--experts": options.experts != "auto",
        "--fp8": options.fp8 is not None,
        "--compile": options.compile,
    }
    local = [name for name, is_given in given.items() if is_given]
    if remote and local:
        raise UserError(
            f"{', '.join(local)} is for this machine; leave it out, or set it where the server starts"
        )
    return remote


def placement_options(options: argparse.Namespace, settings: dict) -> dict[str, object]:
    """Fields of Placement that were given; None leaves a choice to the machine.

    What changes the clip (dtype, fp8) comes from the settings of --from where the command line is silent.
    """
    dtype = options.dtype or settings.get("dtype")
    if dtype not in (None, *DTYPES):
        raise UserError(
            f"the clip was made with dtype={dtype!r}; choose one of {', '.join(DTYPES)} with --dtype"
        )
    return {
        "dtype": dtype,
        "offload": None if options.offload == "auto" else options.offload,
        "hold_both": None if options.experts == "auto" else options.experts == "both",
        "fp8": settings.get("fp8") is True if options.fp8 is None else options.fp8,
        "compile": options.compile,
    }


def write_copies(options: argparse.Namespace, out: Path) -> None:
    if not options.wav and not options.png:
        return
    from mova import media

    clip = media.read_clip(out)
    if options.wav:
        media.write_wav(options.wav, clip.waveform, clip.sample_rate, options.overwrite)
    if options.png:
        media.write_png_sequence(options.png, clip.frames, options.overwrite)


class StepBar:
    """A progress bar of denoising steps with the time left; in a log file a line every half minute.

    Where no steps are told (None) it shows the stage and the time since the start, and no guess.
    """

    def __init__(self, steps: int | None) -> None:
        bar = (
            "{desc} {elapsed}"
            if steps is None
            else "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps{postfix}"
        )
        self.stage = ""
        self.bar = tqdm(
            total=steps,
            desc="load" if steps else "",
            dynamic_ncols=True,
            mininterval=0.1 if sys.stderr.isatty() else 30,
            bar_format=bar,
        )

    def __enter__(self) -> "StepBar":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def update(self, progress: Progress) -> None:
        left = progress.seconds_left
        self.bar.set_description_str(progress.stage, refresh=False)
        self.bar.set_postfix_str(f"{catalog.human_seconds(left)} left" if left else "", refresh=False)
        if progress.step > self.bar.n:
            self.bar.update(progress.step - self.bar.n)
        elif sys.stderr.isatty() or (self.bar.total is None and progress.stage != self.stage):
            self.bar.refresh()
        self.stage = progress.stage


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


COMMANDS = {"generate": generate, "enhance": enhance, "inspect": inspect, "evaluate": evaluate}


if __name__ == "__main__":
    sys.exit(main())

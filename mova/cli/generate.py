"""`python -m mova generate`: arguments, the request they make, and the run."""

import argparse
import itertools
import os
import sys
from pathlib import Path

from tqdm import tqdm

from mova import catalog, shapes
from mova.adapters.strengths import parse_adapter
from mova.backends.settings import RemoteServer, remote_from_environment, remote_from_option
from mova.cli.exits import say
from mova.cli.first_frame import with_first_frame
from mova.errors import UserError, field_errors
from mova.files import check_frames_folder, check_output
from mova.kernels import parse_kernels
from mova.layout import MODES, check_gpus, launched_processes
from mova.machine import DTYPES, human_seconds, suitable_model
from mova.request import SOLVERS, GenerationRequest, GenerationResult, Progress, check_source
from mova.tracks import Span

REFINE = (
    "further passes over what is made: of the sound with the new picture kept, which is quick, then of the "
    "picture with the new sound kept, and so on"
)
FACE = "face"  # a crop position that is found in the picture


def add_generate(parser: argparse.ArgumentParser) -> None:
    steps = "; ".join(
        f"{name}: {', '.join(f'{each.name} {each.num_inference_steps}' for each in model.presets)}"
        for name, model in catalog.MODELS.items()
    )
    clip = parser.add_argument_group("the clip")
    clip.add_argument("--prompt", help="what is seen and heard; put spoken words in double quotes")
    clip.add_argument(
        "--image",
        type=Path,
        help="first frame; default: the video's first, else one drawn for the prompt (by pocket, or where "
        "MOVA_IMAGE_BASE_URL or MOVA_IMAGE_MODEL is set), else a white frame",
    )
    clip.add_argument("--text-only", action="store_true", help="draw no first frame: start from a white one")
    clip.add_argument("--negative-prompt", help="what to steer away from; default: the model's own")
    clip.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="CLIP",
        help="make this clip again; what else is given replaces its settings",
    )
    clip.add_argument(
        "--size",
        metavar="WIDTHxHEIGHT",
        help="multiples of 16; default: the model's own, in the video's shape",
    )
    length = clip.add_mutually_exclusive_group()
    length.add_argument("--frames", type=int, help="4k+1; default: as the video or audio, else the preset's")
    length.add_argument("--seconds", type=float, help="length, rounded to a valid number of frames")
    clip.add_argument("--frame-rate", type=float, help="frames a second, default 24, as trained")
    clip.add_argument("--fit", choices=("crop", "pad"), help="how the image fills the clip, default crop")
    clip.add_argument(
        "--crop-position",
        type=position,
        help="which part of the image is kept: 0 left or top, 1 right or bottom, or face; default 0.5",
    )
    clip.add_argument("--seed", type=int, help="the same seed makes the same clip; default: random, reported")

    tracks = parser.add_argument_group(
        "your own sound or picture",
        "what is given comes out as it went in, and the rest is made to go with it",
    )
    tracks.add_argument("--audio", type=Path, metavar="FILE", help="a sound to make a picture for")
    tracks.add_argument("--video", type=Path, metavar="FILE", help="a picture to make a sound for")
    again = "; SPANS are seconds, such as 1.0-1.6 or 0-0.5,1.2-2; without them all of it"
    for track, other in (("audio", "picture"), ("video", "sound")):
        tracks.add_argument(
            f"--regenerate-{track}",
            nargs="?",
            const=True,
            metavar="SPANS",
            help=f"make this part of the given {track} again and keep the rest, and the video's own {other}"
            f"{again}",
        )
    tracks.add_argument(
        "--strength",
        type=float,
        help="below 1, what is made again stays nearer to what was given, and takes fewer steps; default 1",
    )

    quality = parser.add_argument_group("quality and cost")
    quality.add_argument(
        "--model",
        help=f"{models()}; default: {catalog.DEFAULT_MODEL} where this machine can run it, "
        f"else {catalog.SMALL_MODEL}",
    )
    quality.add_argument(
        "--preset",
        choices=(*catalog.PRESET_NAMES, *catalog.FORMER_NAMES),
        metavar="NAME",
        help=f"steps and what else saves time ({steps}; draft of a released model has half the length); "
        f"default {catalog.TURBO} where the model has it, else {catalog.STANDARD}",
    )
    quality.add_argument("--steps", type=int, help="denoising steps, default: the preset's")
    own = "1 is off; default: the model's own"
    quality.add_argument("--guidance-scale", type=float, help=f"hold to the prompt; {own}")
    quality.add_argument("--bridge-guidance-scale", type=float, help=f"hold to synchrony; {own}")
    quality.add_argument("--audio-guidance", type=float, help="of the sound; default: as the picture's")
    quality.add_argument(
        "--audio-bridge-guidance", type=float, help="of the sound; default: as the picture's"
    )
    quality.add_argument(
        "--guidance-interval",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="guide only while the picture's noise is between these, from 0 to 1; the other steps take half "
        "the time; default: the preset's",
    )
    quality.add_argument("--solver", choices=SOLVERS, help="unipc needs fewer steps; default: the preset's")
    quality.add_argument(
        "--cache-threshold",
        type=float,
        help="make the sound alone in steps in which the picture is expected to change by less than this "
        "share, such as 0.1; a --video that is kept is looked at once; default: the preset's",
    )
    quality.add_argument(
        "--refine",
        type=int,
        metavar="PASSES",
        help=f"{REFINE}; default: 4 for pocket where a part of both is made, else 0",
    )
    quality.add_argument("--video-shift", type=float, help="of the noise schedule; default: the checkpoint's")
    quality.add_argument("--audio-shift", type=float, help="of the noise schedule; default: the checkpoint's")
    quality.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:STRENGTH]",
        help="adapter: .safetensors file, folder or Hub repo id (org/name, org/name/file.safetensors); "
        "strength 1 if not given, one number, or by part as in video=0.8,audio=1,bridge=0 (also high, low); "
        "may be repeated",
    )
    add_machine(parser)

    remote = parser.add_argument_group("a server instead of this machine", "default: what MOVA_BACKEND says")
    remote.add_argument(
        "--remote",
        metavar="URL",
        help="an engine that serves MOVA by /v1/videos, such as http://localhost:30002; see README.md",
    )
    remote.add_argument(
        "--remote-api-key-env",
        metavar="NAME",
        help="the environment variable that holds the server's key, default MOVA_REMOTE_API_KEY",
    )

    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, help="an .mp4; default outputs/clip-SEED.mp4")
    output.add_argument("--wav", type=Path, help="also write the clip's sound here")
    output.add_argument("--png", type=Path, metavar="FOLDER", help="also write the clip's frames here")
    output.add_argument("--overwrite", action="store_true", help="replace existing files")


def models() -> str:
    return f"{', '.join(catalog.MODELS)}, a folder or a Hub repo id"


def add_machine(parser: argparse.ArgumentParser) -> None:
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", help="cuda, cuda:1, mps, cpu; default: the best there is")
    machine.add_argument("--dtype", choices=tuple(DTYPES), help="default: bfloat16 where it is fast")
    machine.add_argument(
        "--offload",
        choices=("auto", "none", "component", "layers"),
        default="auto",
        help="weights on the device: all, those in use, or a few layers; default auto",
    )
    machine.add_argument(
        "--experts",
        choices=("auto", "both", "one"),
        default="auto",
        help="video experts held in memory at once; default auto",
    )
    machine.add_argument(
        "--fp8",
        action=argparse.BooleanOptionalAction,
        help="video experts and bridge in 8 bits: half the memory, faster on recent cards, not exact; "
        "default off",
    )
    machine.add_argument(
        "--attention",
        metavar="KERNEL",
        help="of the video's self-attention: torch, flash-attn-4 or a name of diffusers'; or by role, as in "
        "video=flash-attn-4,text=torch (also bridge, audio); default: the fastest exact ones",
    )
    machine.add_argument("--compile", action="store_true", help="a minute of compiling, then faster steps")
    machine.add_argument(
        "--gpus",
        type=int,
        metavar="N",
        help="make the clip on the first N GPUs together; default 1, under torchrun one for each process",
    )
    machine.add_argument(
        "--parallel",
        choices=MODES,
        help="how they share a step: its forwards side by side, which changes no bit (branches), all on each "
        "forward (ulysses), or as many side by side as there are and the rest shared; default auto",
    )
    machine.add_argument("--verbose", action="store_true", help="log each stage")


def generate(options: argparse.Namespace) -> int:
    settings = read_source(options)
    remote = chosen_server(options)
    name = options.model or settings.get("model") or (catalog.DEFAULT_MODEL if remote else suitable_model())
    model = catalog.find_model(str(name))
    request = build_request(options, settings, model.on_a_server if remote else model)
    out = options.out or default_output(request.seed)
    check_outputs(options, out)
    for field, path in request.sources.items():
        if getattr(options, field) is None and path != options.video:
            check_source(field, path, settings.get(f"{field}_sha256"))
    request.check(out, options.overwrite)
    if options.text_only or options.source:
        result = run(request, str(name), settings, remote, options, out)
    else:
        with with_first_frame(request, str(name), out, options.overwrite) as started:
            result = run(started, str(name), settings, remote, options, out)
    say(", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items()))
    sys.stdout.write(f"{out}\tseed {request.seed}\n")
    write_copies(options, out)
    return 0


def run(
    request: GenerationRequest,
    name: str,
    settings: dict,
    remote: RemoteServer | None,
    options: argparse.Namespace,
    out: Path,
) -> GenerationResult:
    """Make the clip, on the server or on this machine, with a progress bar."""
    if remote:
        from mova.backends.remote import RemoteBackend

        backend = RemoteBackend(name, remote)
        bar = StepBar(None)
    else:
        fixed = placement_options(options, settings)

        from mova.backends.local import LocalBackend  # brings torch: only when the request is in order

        backend = LocalBackend(name, options.device, **fixed)
        plan = backend.plan(request)
        sharing = f"; {plan.layout}" if plan.placement.gpus > 1 else ""
        say(f"{plan.placement.why}{sharing}; denoising takes about {human_seconds(plan.seconds)}")
        bar = StepBar(request.total_steps)
    with bar:
        return backend.generate(request, out, bar.update, overwrite=options.overwrite)


def read_source(options: argparse.Namespace) -> dict:
    """The settings of the clip given with --from, or none."""
    if options.source is None:
        return {}
    settings = settings_of(options.source)
    if "extension" in settings:
        raise UserError(
            f"{options.source} was made by extending {settings['video']}; run python -m mova extend with it"
        )
    return settings


def settings_of(clip: Path) -> dict:
    """The settings in the clip. Raises UserError as `mova.media.clips.read_settings`."""
    from mova.media.clips import read_settings

    settings = read_settings(clip)
    request = GenerationRequest.from_settings(settings)
    # A file in the clip's folder is written without the folder.
    return settings | request.with_files_in(clip.parent).to_settings()


def build_request(options: argparse.Namespace, settings: dict, model: catalog.ModelSpec) -> GenerationRequest:
    """The request: what the command line gives, else the clip of --from, else preset and model."""
    preset = model.preset(options.preset)
    if settings:
        request = GenerationRequest.from_settings(settings)
        if options.preset:  # asked for on top of the clip's settings
            request = with_preset(request, model, preset)
    elif options.prompt is None and options.video is None and options.audio is None:
        raise UserError("give --prompt: what is seen and what is heard")
    else:
        request = GenerationRequest("", **model.defaults(preset))
    given = {
        "prompt": options.prompt,
        "image": options.image,
        "negative_prompt": options.negative_prompt,
        "num_frames": options.frames,
        "frame_rate": options.frame_rate,
        "num_inference_steps": options.steps,
        "guidance_scale": options.guidance_scale,
        "bridge_guidance_scale": options.bridge_guidance_scale,
        "audio_guidance_scale": options.audio_guidance,
        "audio_bridge_guidance_scale": options.audio_bridge_guidance,
        "guidance_interval": options.guidance_interval and tuple(options.guidance_interval),
        "solver": options.solver,
        "cache_threshold": options.cache_threshold,
        "refine": options.refine,
        "video_shift": options.video_shift,
        "audio_shift": options.audio_shift,
        "seed": options.seed,
        "fit": options.fit,
        "crop_position": None if options.crop_position == FACE else options.crop_position,
        "strength": options.strength,
    }
    if options.size:
        given["height"], given["width"] = shapes.parse_size(options.size)
    request = request.replace(**{key: value for key, value in given.items() if value is not None})
    if options.lora:
        of_preset = tuple(each for each in request.adapters if catalog.is_preset_adapter(each[0]))
        request = request.replace(adapters=(*of_preset, *map(parse_adapter, options.lora)))
    request = with_tracks(request, options)
    if options.refine is None and not settings and request.is_retake:
        request = request.replace(refine=model.refine_retake)
    if options.crop_position == FACE:
        request = request.replace(crop_position=position_of_face(request))
    if options.seconds is not None:
        request = request.replace(num_frames=shapes.frames_for_seconds(options.seconds, request.frame_rate))
    return request.seeded()


def position(text: str) -> float | str:
    """The value of --crop-position."""
    return text if text == FACE else float(text)


def position_of_face(request: GenerationRequest) -> float:
    """The `crop_position` that keeps a face of the request's image. Raises UserError: there is no image."""
    from mova.media.faces import position_with_face
    from mova.media.images import open_image

    if request.image is None:
        raise UserError("--crop-position face needs a picture; give --image")
    return position_with_face(open_image(request.image), request.height, request.width)


def with_preset(
    request: GenerationRequest, model: catalog.ModelSpec, preset: catalog.Preset
) -> GenerationRequest:
    """`request` with all that the preset decides, and its own adapters."""
    decided = model.decided_by(preset)
    own = tuple(each for each in request.adapters if not catalog.is_preset_adapter(each[0]))
    return request.replace(**decided | {"adapters": (*decided["adapters"], *own)})


def with_tracks(request: GenerationRequest, options: argparse.Namespace) -> GenerationRequest:
    """`request` with the video and audio of the command line, and the length and shape that follow from them.

    Where a part of a video is regenerated its own sound, if it has one and no other is given, is kept.
    """
    spans = {
        name: parse_spans(f"--{name.replace('_', '-')}", text)
        for name in ("regenerate_video", "regenerate_audio")
        if (text := getattr(options, name)) is not None
    }
    if options.video is None and options.audio is None and not spans:
        return request
    from mova.media.given import frames_to_follow, probe_video

    audio = request.audio if request.audio != request.video or options.video is None else None
    request = request.replace(video=options.video or request.video, audio=options.audio or audio, **spans)
    if request.video and not request.audio and (request.regenerate_video or request.regenerate_audio):
        with field_errors("video"):
            has_sound = probe_video(request.video).has_sound
        request = request.replace(audio=request.video if has_sound else None)
    if options.video and not options.size and not options.source:
        facts = probe_video(options.video)
        aspect = min(max(facts.width / facts.height, 0.4), 2.5)
        height, width = shapes.size_for_aspect(aspect, request.height * request.width)
        request = request.replace(height=height, width=width)
    if (options.video or options.audio) and options.frames is None and options.seconds is None:
        num_frames = frames_to_follow(request.video, request.audio, request.frame_rate)
        request = request.replace(num_frames=num_frames)
    return request


def parse_spans(flag: str, text: str | bool) -> bool | tuple[Span, ...]:
    """The spans of "1.0-1.6,2-2.5", in seconds; True, for a flag that stands alone, as it is.

    Raises:
        UserError: it is something else.
    """
    if text is True:
        return True
    try:
        spans = [tuple(map(float, span.split("-"))) for span in text.split(",")]
    except ValueError:
        spans = [()]
    if any(len(span) != 2 for span in spans):
        raise UserError(f"{flag} {text!r} is not START-END in seconds; for example 1.0-1.6 or 0-0.5,1.2-2")
    return tuple(spans)


def default_output(seed: int) -> Path:
    """A free name: outputs/clip-SEED.mp4, or with -2, -3, ... after the seed."""
    names = (f"clip-{seed}{f'-{index}' if index > 1 else ''}.mp4" for index in itertools.count(1))
    return next(path for path in map(Path("outputs").joinpath, names) if not path.exists())


def check_outputs(options: argparse.Namespace, out: Path) -> None:
    """Raise UserError unless everything that is asked for can be written."""
    if out.suffix.lower() != ".mp4":
        raise UserError(f"--out {out} must end in .mp4; --wav and --png write sound and frames as well")
    if options.wav and options.wav.suffix.lower() != ".wav":
        raise UserError(f"--wav {options.wav} must end in .wav")
    if options.wav:
        check_output(options.wav, options.overwrite)
    if options.png:
        check_frames_folder(options.png, options.overwrite)


def chosen_server(options: argparse.Namespace) -> RemoteServer | None:
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
        "--attention": options.attention is not None,
        "--gpus": options.gpus is not None,
        "--parallel": options.parallel is not None,
        "torchrun": launched_processes()[1] > 1,
    }
    local = [name for name, is_given in given.items() if is_given]
    if remote and local:
        raise UserError(
            f"{', '.join(local)} is for this machine; leave it out, or set it where the server starts"
        )
    return remote


def placement_options(options: argparse.Namespace, settings: dict) -> dict[str, object]:
    """Fields of Placement as given; None leaves a choice to the machine.

    Those that change the clip (dtype, fp8) default to the settings of --from.
    """
    gpus = launched_processes()[1] if options.gpus is None else options.gpus
    check_gpus(gpus, options.device)
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
        "attention": None if options.attention is None else parse_kernels(options.attention),
        "gpus": gpus,
        "parallel": options.parallel,
    }


def write_copies(options: argparse.Namespace, out: Path) -> None:
    if not options.wav and not options.png:
        return
    from mova.media import clips

    clip = clips.read_clip(out)
    if options.wav:
        clips.write_wav(options.wav, clip.waveform, clip.sample_rate, options.overwrite)
    if options.png:
        clips.write_png_sequence(options.png, clip.frames, options.overwrite)


class StepBar:
    """A progress bar of denoising steps with the time left; in a log file a line every half minute.

    Without a number of steps (None) it shows the stage and the time since the start.
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
        if self.bar.total is not None and progress.steps:
            self.bar.total = progress.steps  # a strength below 1 takes fewer than asked
        self.bar.set_description_str(progress.stage, refresh=False)
        self.bar.set_postfix_str(f"{human_seconds(left)} left" if left else "", refresh=False)
        if progress.step > self.bar.n:
            self.bar.update(progress.step - self.bar.n)
        elif sys.stderr.isatty() or (self.bar.total is None and progress.stage != self.stage):
            self.bar.refresh()
        self.stage = progress.stage

"""`python -m mova extend`: continue a clip, window by window."""

import argparse
import sys
from pathlib import Path

from mova import catalog, shapes
from mova.cli.generate import REFINE, StepBar, add_machine, models, placement_options, say, settings_of
from mova.errors import UserError
from mova.files import sha256_of
from mova.machine import human_seconds, suitable_model
from mova.request import GenerationRequest


def add_extend(parser: argparse.ArgumentParser) -> None:
    """The arguments of `extend`."""
    parser.add_argument("clip", type=Path, metavar="FILE.mp4", help="a clip with sound; it stays as it is")
    parser.add_argument("--seconds", type=float, required=True, help="how much longer it becomes")
    pocket, other = catalog.MODELS[catalog.SMALL_MODEL].overlap_seconds, catalog.ModelSpec.overlap_seconds
    parser.add_argument(
        "--overlap",
        type=float,
        metavar="SECONDS",
        help="how much of the clip so far a window holds; "
        f"default: the model's own, {pocket:g} for pocket, else {other:g}",
    )
    parser.add_argument(
        "--window",
        type=float,
        metavar="SECONDS",
        help="length of a window; default: the model's trained length",
    )
    own = "default: the clip's own settings"
    parser.add_argument("--prompt", help=f"what is seen and heard from here on; {own}")
    parser.add_argument("--steps", type=int, help=f"denoising steps; {own}, else the standard preset's")
    parser.add_argument(
        "--refine", type=int, metavar="PASSES", help=f"{REFINE}; default: 2 for pocket, else 0"
    )
    parser.add_argument("--seed", type=int, help=f"{own}, else a number that follows from the file")
    parser.add_argument("--model", help=f"{models()}; {own}")
    parser.add_argument("--out", type=Path, help="an .mp4; default CLIP-extended.mp4, next to the clip")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    add_machine(parser)


def extend(options: argparse.Namespace) -> int:
    """Continue the clip and return the exit code."""
    out = options.out or options.clip.with_name(f"{options.clip.stem}-extended.mp4")
    if out.suffix.lower() != ".mp4":
        raise UserError(f"--out {out} must end in .mp4")
    settings = own_settings(options.clip)
    name = str(options.model or settings.get("model") or suitable_model())
    model = catalog.find_model(name)
    request = build_request(options, settings, model)
    overlap = model.overlap_seconds if options.overlap is None else options.overlap

    from mova.backends.extension import Extension, extend_clip
    from mova.backends.local import LocalBackend  # brings torch: only when the request is in order

    extension = Extension(options.clip, request, options.seconds, overlap)
    windows = extension.windows()
    backend = LocalBackend(name, options.device, **placement_options(options, settings))
    seconds = sum(backend.plan(extension.request_of(window)).seconds for window in windows)
    say(f"windows: {len(windows)}; denoising takes about {human_seconds(seconds)}")
    folder = extension.folder(backend, out)
    try:
        with StepBar(len(windows) * request.total_steps) as bar:
            result = extend_clip(backend, extension, out, bar.update, overwrite=options.overwrite)
    except KeyboardInterrupt:
        done = len(list(folder.glob("window-*.npz")))
        if not done:
            raise
        say(f"stopped; {done} of {len(windows)} windows are kept in {folder}: run the same command to resume")
        return 130
    for warning in result.warnings:
        say(warning)
    say(", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items()))
    sys.stdout.write(f"{out}\tseed {request.seed}\n")
    return 0


def own_settings(clip: Path) -> dict:
    """The settings in the clip; none for a clip of another tool, which is extended by the prompt alone."""
    try:
        return settings_of(clip)
    except UserError:
        return {}


def build_request(options: argparse.Namespace, settings: dict, model: catalog.ModelSpec) -> GenerationRequest:
    """The request of a window: what the command line gives, else the clip's settings, else the model's."""
    if settings:
        request = GenerationRequest.from_settings(settings)
        request = request.replace(image=None, regenerate_video=False, regenerate_audio=False, strength=1.0)
    else:
        from mova.media.given import probe_video

        facts = probe_video(options.clip)
        request = GenerationRequest("", **model.defaults(model.preset()))
        height, width = shapes.size_for_aspect(
            min(max(facts.width / facts.height, 0.4), 2.5), request.height * request.width
        )
        request = request.replace(height=height, width=width)
    given = {"prompt": options.prompt, "num_inference_steps": options.steps, "seed": options.seed}
    request = request.replace(**{key: value for key, value in given.items() if value is not None})
    refine = model.refine_extension if options.refine is None else options.refine
    # Of a model that is not in the catalogue only the length of its clip is known.
    length = model.num_frames if model.name in catalog.MODELS or not settings else request.num_frames
    window = length / request.frame_rate if options.window is None else options.window
    num_frames = shapes.frames_for_seconds(window, request.frame_rate)
    seed = int(sha256_of(options.clip)[:8], 16) if request.seed is None else request.seed
    return request.replace(video=None, audio=None, num_frames=num_frames, seed=seed, refine=refine)

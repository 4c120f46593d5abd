"""The command line's arguments: names, defaults and help. What they mean is in `mova.__main__`."""

import argparse
from pathlib import Path

from mova import catalog
from mova.prompting.command import add_enhance

DESCRIPTION = "Video with synchronised sound from a first frame and a text."
EXIT_CODES = (
    "Exit codes: 0 done; 1 the machine or a server failed; 2 the request cannot be met as it is; 130 stopped."
)
DTYPES = ("bfloat16", "float32")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mova", description=DESCRIPTION, epilog=EXIT_CODES)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="generate | enhance | inspect | evaluate"
    )
    texts = {
        "generate": "make a clip",
        "enhance": "turn an idea into a prompt that MOVA understands, keeping every quoted word",
        "inspect": "what a checkpoint holds, and where it would go on this machine; loads no weights",
        "evaluate": "measure clips: do sound and picture go together, and is each in order; needs no weights",
    }
    adders = {
        "generate": add_generate,
        "enhance": add_enhance,
        "inspect": add_inspect,
        "evaluate": add_evaluate,
    }
    for name, add in adders.items():
        description = f"{texts[name].capitalize()}."
        add(
            commands.add_parser(
                name, help=texts[name], description=description, epilog=EXIT_CODES, allow_abbrev=False
            )
        )
    return parser


def add_generate(parser: argparse.ArgumentParser) -> None:
    steps = "; ".join(
        f"{model.name}: {', '.join(str(preset.num_inference_steps) for preset in model.presets)}"
        for model in catalog.MODELS.values()
    )
    clip = parser.add_argument_group("the clip")
    clip.add_argument("--prompt", help="what is seen and heard; put spoken words in double quotes")
    clip.add_argument(
        "--image",
        type=Path,
        help="first frame; without one the clip starts from a white frame, by text alone",
    )
    clip.add_argument("--negative-prompt", help="what to steer away from; default: the model's own")
    clip.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="CLIP",
        help="make this clip again; what else is given replaces its settings",
    )
    clip.add_argument("--size", metavar="WIDTHxHEIGHT", help="multiples of 16; default: the model's own")
    length = clip.add_mutually_exclusive_group()
    length.add_argument("--frames", type=int, help="4k+1; default: the preset's")
    length.add_argument("--seconds", type=float, help="length, rounded to a valid number of frames")
    clip.add_argument("--frame-rate", type=float, help="frames a second, default 24, as trained")
    clip.add_argument("--fit", choices=("crop", "pad"), help="how the image fills the clip, default crop")
    clip.add_argument(
        "--crop-position",
        type=float,
        help="which part of the image is kept: 0 left or top, 1 right or bottom, default 0.5",
    )
    clip.add_argument("--seed", type=int, help="the same seed makes the same clip; default: random, reported")

    quality = parser.add_argument_group("quality and cost")
    quality.add_argument(
        "--model",
        help=f"{models()}; default: {catalog.DEFAULT_MODEL} where this machine can run it, "
        f"else {catalog.SMALL_MODEL}",
    )
    quality.add_argument(
        "--preset",
        choices=catalog.PRESET_NAMES,
        help=f"steps ({steps}) and, for the quick one of a released model, half the length; "
        f"default {catalog.DEFAULT_PRESET}",
    )
    quality.add_argument("--steps", type=int, help="denoising steps, default: the preset's")
    own = "1 is off; default: the model's own"
    quality.add_argument("--guidance-scale", type=float, help=f"hold to the prompt; {own}")
    quality.add_argument("--bridge-guidance-scale", type=float, help=f"hold to synchrony; {own}")
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


def add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=models())
    parser.add_argument(
        "--size", metavar="WIDTHxHEIGHT", help="of the clip to plan for; default: the model's own"
    )
    parser.add_argument("--frames", type=int, help="of the clip to plan for; default: the model's own")
    add_machine(parser)


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clips", nargs="+", type=Path, metavar="FILE.mp4")
    parser.add_argument(
        "--image",
        type=Path,
        help="picture that the clips were to start from; default: that of a clip's settings, if it is there",
    )
    parser.add_argument("--json", action="store_true", help="a list with all figures, for programs")
    parser.add_argument("--verbose", action="store_true", help="log each stage")


def add_machine(parser: argparse.ArgumentParser) -> None:
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", help="cuda, cuda:1, mps, cpu; default: the best there is")
    machine.add_argument("--dtype", choices=DTYPES, help="default: bfloat16 where it is fast")
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
        help="store the towers in 8 bits: half the memory, not exact; default off",
    )
    machine.add_argument("--compile", action="store_true", help="a minute of compiling, then faster steps")
    machine.add_argument("--verbose", action="store_true", help="log each stage")

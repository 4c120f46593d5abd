"""`python -m lora_trainer adapter`: inspect LoRA files, convert, strip, scale and merge them."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mova.adapters.strengths import PARTS, TOWERS, parse_adapter
from mova.errors import UserError, printable

if TYPE_CHECKING:
    from mova.adapters.files import Adapter

FORMATS = ("mova", "kohya", "comfyui")


def add_command(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser("adapter", help="inspect LoRA files, convert, strip, scale and merge them")
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="info | convert | strip | scale | merge"
    )

    info = actions.add_parser("info", help="what a file is for and says of itself")
    info.add_argument("--json", action="store_true", help="as JSON, with the recipe")
    info.set_defaults(run=run_info)
    add_source(info)

    convert = actions.add_parser("convert", help="into our format, or from it into another tool's")
    add_source(convert)
    add_output(convert)
    convert.add_argument(
        "--to",
        choices=FORMATS,
        default="mova",
        help="kohya (musubi, VideoX-Fun) or comfyui keys make a file for each part: OUT-high, OUT-low, ...",
    )
    convert.set_defaults(run=run_convert)

    strip = actions.add_parser("strip", help="leave parts of the model out")
    add_source(strip)
    add_output(strip)
    strip.add_argument(
        "--without", required=True, metavar="PARTS", help=f"of {', '.join(PARTS)}; commas between"
    )
    strip.set_defaults(run=run_strip)

    scale = actions.add_parser("scale", help="write a strength in")
    add_source(scale)
    add_output(scale)
    scale.add_argument("--by", required=True, metavar="STRENGTH", help="a number, or video=0.8,audio=1")
    scale.set_defaults(run=run_scale)

    merge = actions.add_parser("merge", help="sum several into one")
    merge.add_argument(
        "sources", nargs="+", metavar="FILE[:STRENGTH]", help="strength 1, a number, or video=0.8,audio=1"
    )
    add_output(merge)
    merge.add_argument("--rank", type=int, help="cut to this rank; default: ranks add up, exactly")
    merge.set_defaults(run=run_merge)


def add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help=".safetensors or upstream's .pt file, a folder, or a Hub repo id")
    parser.add_argument(
        "--expert", choices=PARTS, help="what it is for, where neither its keys nor its name tell"
    )
    parser.add_argument("--alpha", type=float, help="alpha it was trained with, in place of what it says")
    parser.add_argument("--skip-extras", action="store_true", help="leave out what is not LoRA")


def add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="a .safetensors file")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")


def run_info(options: argparse.Namespace) -> int:
    described = describe(read(options))
    if options.json:
        sys.stdout.write(json.dumps(described, indent=2).replace("\x7f", "\\u007f") + "\n")
        return 0
    for tower, part in described["towers"].items():
        ranks, scales = (", ".join(f"{each:g}" for each in part[key]) for key in ("ranks", "scales"))
        sys.stdout.write(
            f"{tower:18} {part['layers']:5} layers, rank {ranks}, scale {scales}, norm {part['norm']:.4g}, "
            f"{part['dtype']}, {part['bytes'] / 2**20:.1f} MiB\n"
        )
    turbo = described["turbo"]
    lines = {
        "trained on": described["base_model"],
        "trigger words:": ", ".join(described["trigger_words"]),
        "held in training:": held_tracks(described["recipe"]),
        "to be run in:": f"{turbo['steps']} steps, without guidance" if turbo else "",
        "recipe:": json.dumps(described["recipe"], ensure_ascii=False) if described["recipe"] else "",
    }
    sys.stdout.write("".join(f"{title} {printable(text)}\n" for title, text in lines.items() if text))
    return 0


def run_convert(options: argparse.Namespace) -> int:
    from mova.adapters.files import write_tensors
    from mova.adapters.formats import export_tensors
    from mova.files import check_output

    adapter = read(options)
    if options.to == "mova":
        return write(options, adapter)
    files = {
        options.out.with_name(f"{options.out.stem}-{name}{options.out.suffix}"): content
        for name, content in export_tensors(adapter, options.to).items()
    }
    for path in files:
        check_output(path, options.overwrite)
    for path, (tensors, header) in files.items():
        write_tensors(path, tensors, header, options.overwrite)
        sys.stdout.write(f"{path}\n")
    return 0


def run_strip(options: argparse.Namespace) -> int:
    from mova.adapters.edits import strip

    return write(options, strip(read(options), [part.strip() for part in options.without.split(",")]))


def run_scale(options: argparse.Namespace) -> int:
    from mova.adapters.edits import scale

    source, strength = parse_adapter(f"x:{options.by}")
    if source != "x":
        raise UserError(f"--by {options.by} is not a strength; give a number, or video=0.8,audio=1")
    return write(options, scale(read(options), strength))


def run_merge(options: argparse.Namespace) -> int:
    from mova.adapters.edits import merge
    from mova.adapters.sources import read_adapter

    if options.rank is not None and options.rank < 1:
        raise UserError(f"--rank {options.rank} must be 1 or more")
    sources = [parse_adapter(text) for text in options.sources]
    adapters = [(read_adapter(source), strength) for source, strength in sources]
    return write(options, merge(adapters, options.rank))


def read(options: argparse.Namespace) -> "Adapter":
    from mova.adapters.sources import read_adapter

    return read_adapter(options.source, options.expert, options.alpha, options.skip_extras)


def write(options: argparse.Namespace, adapter: "Adapter") -> int:
    from mova.adapters.files import write_adapter

    write_adapter(options.out, adapter, options.overwrite)
    sys.stdout.write(f"{options.out}\t{len(adapter.layers)} layers\n")
    return 0


def describe(adapter: "Adapter") -> dict:
    """Describe an adapter in JSON-ready values. `norm` is the Frobenius norm of all a tower gains."""
    towers = {}
    for tower in TOWERS:
        layers = adapter.tower(tower)
        if layers:
            pairs = [tensor for lora in layers.values() for tensor in (lora.down, lora.up)]
            towers[tower] = {
                "layers": len(layers),
                "ranks": sorted({lora.rank for lora in layers.values()}),
                "scales": sorted({lora.scale for lora in layers.values()}),
                "norm": sum(lora.norm() ** 2 for lora in layers.values()) ** 0.5,
                "dtype": str(pairs[0].dtype).removeprefix("torch."),
                "bytes": sum(tensor.nbytes for tensor in pairs),
            }
    metadata = adapter.metadata
    return {
        "towers": towers,
        "base_model": metadata.base_model,
        "trigger_words": list(metadata.trigger_words),
        "recipe": metadata.recipe,
        "turbo": None if metadata.turbo is None else metadata.turbo.record(),
    }


def held_tracks(recipe: Mapping[str, Any]) -> str:
    """The tracks that the training held, with the share of its samples: "picture 100%"; empty if none."""
    objective = recipe.get("objective")
    shares = objective if isinstance(objective, dict) else {}
    held = {"picture": shares.get("hold_video"), "sound": shares.get("hold_audio")}
    return ", ".join(
        f"{track} {share:.0%}"
        for track, share in held.items()
        if isinstance(share, int | float) and 0 < share <= 1
    )

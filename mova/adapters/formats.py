"""Adapters as other tools write them: their keys, scales and expert names, read into ours and written again.

| format | keys | scale |
| --- | --- | --- |
| ours, diffusers | `<tower>.<module>.lora_A.weight` | `lora_adapter_metadata` |
| upstream accelerate | the same in `lora_weights.pt` | alpha of `lora_config.pt` |
| upstream low-resource | `<tower>.<module>.lora_A` in `lora_state_dict` | alpha beside it |
| DiffSynth-Studio | `<module>.lora_A.default.weight`, a file for each expert | 1 (alpha = rank) |
| kohya, musubi | `lora_unet_<module with _>.lora_down.weight`, a file for each expert | `.alpha` |
| VideoX-Fun | the same behind `lora_unet__` | the same |
| Wan2.2, ComfyUI | `diffusion_model.<module>.lora_A.weight` or `.lora_down.weight` | `.alpha` or 1 |
| Wan2.2, diffusers | `transformer.blocks.N.attn1.to_q.lora_A.weight` | `lora_adapter_metadata` or 1 |

Where one file has both `transformer` and `transformer_2`, the latter is for low noise, as in diffusers.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from mova.adapters.files import Adapter, LoraUpdate, parse_object, read_metadata
from mova.adapters.strengths import TOWERS, find_towers
from mova.errors import UserError

FILE_NAMES = {"video_dit": "high", "video_dit_2": "low", "audio_dit": "audio", "dual_tower_bridge": "bridge"}
_KEY = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_down|lora_up|lora\.down|lora\.up|alpha)"
    r"((\.[A-Za-z0-9_-]+)?\.weight)?"
)
_DOWN = ("lora_A", "lora_down", "lora.down")
_MODULE = re.compile(
    r"blocks\.\d+\.((self_attn|cross_attn)\.[qkvo]|ffn\.[02])"
    r"|(audio_to_video|video_to_audio)_conditioners\.\d+\.inner\.[qkvo]"
    r"|text_embedding\.[02]|head\.head"
)
_FLAT = re.compile(
    rf"(?:(?P<tower>{'|'.join(sorted(TOWERS, reverse=True))})_)?"
    r"(?P<list>blocks|audio_to_video_conditioners|video_to_audio_conditioners)_(?P<index>\d+)"
    r"_(?P<part>self_attn|cross_attn|ffn|inner)_(?P<layer>[qkvo02])"
)
_FLAT_REST = {
    "head_head": "head.head",
    "text_embedding_0": "text_embedding.0",
    "text_embedding_2": "text_embedding.2",
}
_WRAPPERS = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "pipe.", "dit.")
_DIFFUSERS_NAMES = (
    (".attn1.", ".self_attn."),
    (".attn2.", ".cross_attn."),
    (".to_out.0", ".o"),
    (".to_", "."),
    (".ffn.net.0.proj", ".ffn.0"),
    (".ffn.net.2", ".ffn.2"),
)
_REASONS = (
    (("dora_scale", "lora_magnitude_vector"), "it is a DoRA, whose strength cannot be set"),
    (("lora_te", "text_encoder", "text_model"), "it changes a text encoder; MOVA's is another"),
    (("hada_", "lokr_", "oft_", "boft_"), "it is of the LyCORIS family, not a LoRA"),
    (("_img", "img_emb"), "it changes Wan2.1's image attention, which MOVA has not"),
    ((".diff", ".diff_b", ".set_weight"), "it changes biases, norms or whole weights beside its LoRA"),
    (("time_embedding", "time_projection"), "it changes the time embedding, which takes no LoRA here"),
)


def read_tensors(
    tensors: Mapping[str, Any],
    header: Mapping[str, str],
    source: object,
    expert: str | None = None,
    alpha: float | None = None,
    skip_extras: bool = False,
) -> Adapter:
    """An adapter from the tensors and the header of a file in any of the formats above; unchecked matrices.

    `expert` ("high", "low", "video" for both, "audio", "bridge", or a tower) says where keys belong that name
    no tower; `alpha` replaces what the file says. Keys that are no LoRA of a linear layer are refused, or
    left out and noted with `skip_extras`.

    Raises:
        UserError: a key or a number is not understood, or keys name no tower and `expert` is None.
    """
    found, extras = group(tensors, source)
    if extras and not skip_extras:
        raise UserError(refusal(extras, source))
    notes = [f"left out {len(extras)} tensors that are no LoRA, such as {extras[0]}"] if extras else []
    config = parse_object(header.get("lora_adapter_metadata", "{}"), f"{source}: lora_adapter_metadata")
    roots = {root for root, _ in found}
    layers: dict[str, LoraUpdate] = {}
    for (root, path), parts in found.items():
        down, up = parts.get("down"), parts.get("up")
        if down is None or up is None:
            raise UserError(f"{source}: {path} has only one of its two matrices")
        rank = down.shape[0] if down.ndim else 0
        settings = module_config(config, root, path)
        if settings.get("use_dora"):
            raise UserError(f"{source}: {_REASONS[0][1]}")
        stated, rslora = settings.get("r", rank), settings.get("use_rslora") is True
        if stated != rank and alpha is None:
            raise UserError(
                f"{source}: {path} has matrices of rank {rank}, its header says {stated!r}, so its alpha "
                "cannot be trusted either; give the alpha it was trained with"
            )
        value = alpha if alpha is not None else read_alpha(parts.get("alpha"), settings, header, source)
        if value is None:
            value = float(rank)
            notes.append("alpha is not stated, taken as the rank (scale 1)")
        for tower in assign(root, path, roots, expert, source):
            if f"{tower}.{path}" in layers:
                raise UserError(f"{source}: {tower}.{path} is there twice")
            layers[f"{tower}.{path}"] = LoraUpdate(down, up, value, rslora)
    return Adapter(layers, read_metadata(dict(header), source), tuple(dict.fromkeys(notes)))


def group(
    tensors: Mapping[str, Any], source: object
) -> tuple[dict[tuple[str, str], dict[str, Tensor]], list[str]]:
    """Tensors by (what the key says of its tower, module path) and part, and the keys that are no LoRA."""
    found: dict[tuple[str, str], dict[str, Tensor]] = defaultdict(dict)
    extras = []
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        place = find_module(match["module"]) if match else None
        if place is None:
            extras.append(key)
            continue
        if not isinstance(tensor, Tensor):
            raise UserError(f"{source}: {key} is no tensor")
        part = match["part"]
        part = part if part == "alpha" else "down" if part in _DOWN else "up"
        if part in found[place]:
            raise UserError(f"{source}: {key} is there twice, under two names")
        found[place][part] = tensor
    return dict(found), extras


def find_module(name: str) -> tuple[str, str] | None:
    """(tower, "transformer", "transformer_2" or "", module path) of a key's module, or None if it is none."""
    if name.startswith("lora_unet_"):
        flat = name.removeprefix("lora_unet_").lstrip("_")
        match = _FLAT.fullmatch(flat)
        if match is None:
            return ("", _FLAT_REST[flat]) if flat in _FLAT_REST else None
        root = match["tower"] or ""
        path = f"{match['list']}.{match['index']}.{match['part']}.{match['layer']}"
        return (root, path) if _MODULE.fullmatch(path) else None
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper)
    root = ""
    first, _, rest = name.partition(".")
    if first in (*TOWERS, "transformer", "transformer_2"):
        root, name = first, rest
    if "attn1" in name or "attn2" in name or ".net." in name:
        for theirs, ours in _DIFFUSERS_NAMES:
            name = name.replace(theirs, ours)
    return (root, name) if _MODULE.fullmatch(name) else None


def assign(root: str, path: str, roots: set[str], expert: str | None, source: object) -> tuple[str, ...]:
    """The towers that a module's update is for."""
    if root in TOWERS:
        return (root,)
    if "conditioners" in path:
        return ("dual_tower_bridge",)
    if {"transformer", "transformer_2"} <= roots:
        return ("video_dit_2",) if root == "transformer_2" else ("video_dit",)
    if expert is None:
        raise UserError(
            f"{source} does not say what it is for; put high, low, audio or bridge into the file's name, or "
            "convert it: python -m lora_trainer adapter convert FILE --out OUT --expert high|low|video|audio"
        )
    return find_towers(expert)


def module_config(config: dict[str, Any], root: str, path: str) -> dict[str, Any]:
    """What peft's metadata says of one module: r, lora_alpha, use_rslora, use_dora, as far as stated."""
    own = f"{root or 'transformer'}."
    prefix = own if f"{own}lora_alpha" in config else ""
    names = ("r", "lora_alpha", "use_rslora", "use_dora")
    settings = {name: config[f"{prefix}{name}"] for name in names if f"{prefix}{name}" in config}
    for name, patterns in (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern")):
        pattern = config.get(f"{prefix}{patterns}")
        for key in (path, f"^{path}"):  # diffusers writes the sign of a pattern's beginning
            if isinstance(pattern, dict) and key in pattern:
                settings[name] = pattern[key]
    return settings


def read_alpha(
    tensor: Tensor | None, settings: dict[str, Any], header: Mapping[str, str], source: object
) -> float | None:
    """A module's alpha from its own tensor, peft's metadata or the header; None if none of them has it."""
    value = settings.get("lora_alpha", header.get("alpha"))
    if tensor is not None:
        if tensor.numel() != 1:
            raise UserError(f"{source}: an alpha is {list(tensor.shape)}, not a number")
        value = tensor.item()
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        raise UserError(f"{source}: alpha {value!r} is no number") from None


def refusal(extras: list[str], source: object) -> str:
    """Why a file with keys that are no LoRA is refused."""
    for signs, reason in _REASONS:
        for key in extras:
            if any(sign in key for sign in signs):
                return (
                    f"{source}: {reason} ({key} is no LoRA key); "
                    "`adapter convert --skip-extras` keeps what is a LoRA"
                )
    return f"{source}: {extras[0]} is no LoRA key of {', '.join(TOWERS)}"


def read_upstream(
    tensors: Mapping[str, Any], config: Mapping[str, Any], source: object, alpha: float | None = None
) -> Adapter:
    """An adapter from upstream's `.pt` contents: the matrices, and a config with alpha and maybe a rank.

    Upstream writes the name of a class as the rank, and 16 as the alpha whatever was trained.
    """
    stated, rank = config.get("alpha"), config.get("rank")
    if not isinstance(stated, int | float) and alpha is None:
        raise UserError(f"{source} states no alpha (alpha={stated!r}); give the one it was trained with")
    header = {"alpha": str(stated)}
    if isinstance(rank, int):
        header["lora_adapter_metadata"] = json.dumps({"r": rank})
    adapter = read_tensors(tensors, header, source, alpha=alpha)
    if alpha is None and stated == 16 and any(lora.rank != 16 for lora in adapter.layers.values()):
        note = "upstream writes alpha 16 whatever was trained; give the alpha if it was another"
        return Adapter(adapter.layers, adapter.card, (note,))
    return adapter


def export_tensors(adapter: Adapter, style: str) -> dict[str, tuple[dict[str, Tensor], dict[str, str]]]:
    """Tensors and header of a file for each tower ("high", "low", "audio", "bridge") in another tool's keys.

    `style` is "kohya" (musubi, VideoX-Fun, ComfyUI) or "comfyui" (`diffusion_model.`). rsLoRA's scale
    becomes an alpha. The files say which part they are for by their names alone, as those tools expect.
    """
    files = {}
    for tower, name in FILE_NAMES.items():
        tensors = {}
        for path, lora in adapter.tower(tower).items():
            if style == "kohya":
                stem, down, up = f"lora_unet_{path.replace('.', '_')}", "lora_down", "lora_up"
            else:
                stem, down, up = f"diffusion_model.{path}", "lora_A", "lora_B"
            tensors[f"{stem}.{down}.weight"] = lora.down
            tensors[f"{stem}.{up}.weight"] = lora.up
            tensors[f"{stem}.alpha"] = torch.tensor(lora.scale * lora.rank)
        if tensors:
            ranks: Iterable[int] = (lora.rank for lora in adapter.tower(tower).values())
            files[name] = tensors, {"format": "pt", "ss_network_dim": str(max(ranks))}
    return files

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
    r"|text_embedding\.[02]|time_projection\.1|head\.head"
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
    "time_projection_1": "time_projection.1",
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
    (("lokr_",), "it is a LoKr of the LyCORIS family, not a LoRA"),
    (("hada_",), "it is a LoHa of the LyCORIS family, not a LoRA"),
    (("oft_", "boft_", "glora", ".a1.", "ia3_", ".on_input"), "it is of the LyCORIS family, not a LoRA"),
    (("_img", "img_emb"), "it changes Wan2.1's image attention, which MOVA has not"),
    ((".diff", ".diff_b", ".set_weight"), "it changes biases, norms or whole weights beside its LoRA"),
    (("time_embedding",), "it changes the time embedding, which takes no LoRA here"),
)
# Other models by words of their keys, the most telling first.
_MODELS = (
    (("audio_attn", "audio_ff", "av_ca_"), "LTX-2"),
    (("single_transformer_blocks", "single_blocks", "double_blocks"), "HunyuanVideo or FLUX"),
    (("img_mlp", "add_q_proj"), "Qwen-Image or Stable Diffusion 3"),
    (("transformer_blocks",), "LTX-Video, CogVideoX or the like"),
    (("down_blocks", "up_blocks", "mid_block", "input_blocks", "output_blocks"), "Stable Diffusion"),
    (("model.layers", "language_model"), "a language model"),
    (("noise_refiner", "context_refiner"), "Lumina or Z-Image"),
)
# The words of other tools for what peft calls lora_alpha and r.
_ALPHA_WORDS = ("lora_alpha", "network_alpha", "ss_network_alpha", "alpha")
_RANK_WORDS = ("r", "lora_rank", "network_dim", "ss_network_dim", "rank")
_CONFIG_WORDS = ("adapter_config", "lora_config", "peft_config")


def read_tensors(
    tensors: Mapping[str, Any],
    header: Mapping[str, str],
    source: object,
    expert: str | None = None,
    alpha: float | None = None,
    skip_extras: bool = False,
    beside: Mapping[str, Any] | None = None,
) -> Adapter:
    """An adapter from the tensors and the header of a file in any of the formats above; unchecked matrices.

    `expert` ("high", "low", "video" for both, "audio", "bridge", or a tower) says where keys belong that name
    no tower; `alpha` replaces what the file says. `beside` is peft's adapter_config.json, which counts where
    the file says nothing. Keys that are not LoRA of a linear layer are refused, or left out and noted with
    `skip_extras`.

    Raises:
        UserError: a key or a number is not understood, or keys name no tower and `expert` is None.
    """
    found, extras = group(tensors, source)
    if extras and not (found and skip_extras):
        raise UserError(refusal(extras, bool(found), source))
    notes = [f"left out {len(extras)} tensors that are not LoRA, such as {extras[0]}"] if extras else []
    config = parse_object(header.get("lora_adapter_metadata", "{}"), f"{source}: lora_adapter_metadata")
    flat = header_config(header)
    roots = {root for root, _ in found}
    layers: dict[str, LoraUpdate] = {}
    for (root, path), parts in found.items():
        down, up = parts.get("down"), parts.get("up")
        if down is None or up is None:
            raise UserError(f"{source}: {path} has only one of its two matrices")
        rank = down.shape[0] if down.ndim else 0
        statements = [module_config(config, root, path)]
        if "alpha" not in parts:
            statements += [module_config(each, root, path) for each in (flat, beside or {})]
        if any(each.get("use_dora") for each in statements):
            raise UserError(f"{source}: {_REASONS[0][1]}")
        settings = statements[0] | next((each for each in statements if "lora_alpha" in each), {})
        stated = settings.get("r", rank)
        rslora = settings.get("use_rslora", flat.get("use_rslora")) is True
        if stated != rank and alpha is None:
            raise UserError(
                f"{source}: {path} has matrices of rank {rank}, its header says {stated!r}, so its alpha "
                "cannot be trusted either; give the alpha it was trained with"
            )
        value = alpha if alpha is not None else read_alpha(parts.get("alpha"), settings, source)
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
    """Tensors by (what the key says of its tower, module path) and part, and the keys that are not LoRA."""
    found: dict[tuple[str, str], dict[str, Tensor]] = defaultdict(dict)
    extras = []
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        place = find_module(match["module"]) if match else None
        if place is None:
            extras.append(key)
            continue
        if not isinstance(tensor, Tensor):
            raise UserError(f"{source}: {key} is not a tensor")
        part = match["part"]
        part = part if part == "alpha" else "down" if part in _DOWN else "up"
        if part in found[place]:
            raise UserError(f"{source}: {key} is there twice, under two names")
        found[place][part] = tensor
    return dict(found), extras


def find_module(name: str) -> tuple[str, str] | None:
    """(tower, "transformer", "transformer_2" or "", module path) of a key's module, or None if it is none."""
    if name.startswith(("lora_unet_", "lycoris_")):
        flat = name.removeprefix("lora_unet_").removeprefix("lycoris_").lstrip("_")
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
    name = _our_names(name)
    return (root, name) if _MODULE.fullmatch(name) else None


def _our_names(name: str) -> str:
    """A path, or its end, with diffusers' names for Wan's layers turned into the released ones."""
    if "attn1" in name or "attn2" in name or "net." in name:
        name = f".{name}"
        for theirs, ours in _DIFFUSERS_NAMES:
            name = name.replace(theirs, ours)
        name = name.removeprefix(".")
    return name


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


def header_config(header: Mapping[str, str]) -> dict[str, Any]:
    """The strength facts that other tools write into a header, in peft's words."""
    config: dict[str, Any] = {}
    for word in _CONFIG_WORDS:
        config |= _object(header.get(word))
    alpha = next(
        (header[word] for word in _ALPHA_WORDS if header.get(word, "None") not in ("None", "0", "")), None
    )
    rank = next((int(header[word]) for word in _RANK_WORDS if header.get(word, "").isdecimal()), None)
    flags = _object(header.get("ss_network_args"))  # kohya's, where LyCORIS says rs_lora
    words = (header.get("use_rslora"), flags.get("rs_lora"), flags.get("use_rslora"))
    stated = {"lora_alpha": alpha, "r": rank}
    if any(str(word).lower() == "true" for word in words):
        stated["use_rslora"] = True
    return config | {name: value for name, value in stated.items() if value is not None}


def _object(text: str | None) -> dict[str, Any]:
    """A JSON object; empty where `text` is something else, which other tools may mean otherwise."""
    try:
        content = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def module_config(config: Mapping[str, Any], root: str, path: str) -> dict[str, Any]:
    """Peft's metadata of one module: r, lora_alpha, use_rslora, use_dora, as far as stated."""
    own = f"{root or 'transformer'}."
    prefix = own if f"{own}lora_alpha" in config else ""
    names = ("r", "lora_alpha", "use_rslora", "use_dora")
    settings = {name: config[f"{prefix}{name}"] for name in names if f"{prefix}{name}" in config}
    for name, patterns in (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern")):
        pattern = config.get(f"{prefix}{patterns}")
        for key, value in pattern.items() if isinstance(pattern, dict) else ():
            if matches(str(key), path):
                settings[name] = value
    return settings


def matches(pattern: str, path: str) -> bool:
    """True if a key of peft's patterns, a path or the end of one, is for a module.

    Raises:
        UserError: it is a regular expression, which a stranger's file may make run for ever.
    """
    plain = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
    if re.search(r"[\\^$*+?{}\[\]|()]", plain):
        raise UserError(
            f"its strengths are stated by the pattern {pattern[:60]!r}, which is not read; give an alpha"
        )
    place = find_module(plain)
    plain = place[1] if place else _our_names(plain)
    return path == plain or (not pattern.startswith("^") and path.endswith(f".{plain}"))


def read_alpha(tensor: Tensor | None, settings: Mapping[str, Any], source: object) -> float | None:
    """Read a module's alpha from its own tensor or what is stated of it; None if neither has it."""
    value = settings.get("lora_alpha")
    if tensor is not None:
        if tensor.numel() != 1:
            raise UserError(f"{source}: an alpha is {list(tensor.shape)}, not a number")
        value = tensor.item()
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        raise UserError(f"{source}: alpha {value!r} is not a number") from None


def refusal(extras: list[str], has_lora: bool, source: object) -> str:
    """Why a file with keys that are not LoRA of MOVA is refused; `has_lora`: it has others that are."""
    advice = (
        "`--skip-extras` keeps what is a LoRA"
        if has_lora
        else "nothing of it can be used; look for a LoRA of Wan2.2 14B"
    )
    for signs, model in _MODELS if not has_lora else ():
        for key in extras:
            if any(sign in key for sign in signs):
                return f"{source} is of another model, by its keys {model} ({key}); {advice}"
    for signs, reason in _REASONS:
        for key in extras:
            if any(sign in key for sign in signs):
                return f"{source}: {reason} ({key} is not a LoRA key); {advice}"
    if has_lora:
        return f"{source}: {extras[0]} is not a LoRA key of {', '.join(TOWERS)}; {advice}"
    return f"{source} is of another model: {extras[0]} is not a LoRA key of {', '.join(TOWERS)}; {advice}"


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
        return Adapter(adapter.layers, adapter.metadata, (note,))
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

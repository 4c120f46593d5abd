"""The released checkpoint's layout: folders, configs and weight files, each checked when it is read."""

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, ConfigMixin
from huggingface_hub import parse_local_safetensors_file_metadata
from huggingface_hub.errors import SafetensorsParsingError, StrictDataclassError
from huggingface_hub.utils import SafetensorsFileMetadata
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast, UMT5EncoderModel

from mova import hub
from mova.errors import UserError
from mova.files import is_sidecar, write_json
from mova.models.audio_vae import AudioVAE
from mova.models.bridge import Bridge
from mova.models.dit import AudioDiT, VideoDiT
from mova.models.fp8 import LAYERS, Fp8Linear, to_8_bits
from mova.scheduler import PairScheduler

ANY = object()
LFS_POINTER = b"version https://git-lfs"
_DIT_OPTIONS = {
    "has_image_input": False,
    "has_image_pos_emb": False,
    "has_ref_conv": False,
    "add_control_adapter": False,
    "in_dim_control_adapter": ANY,
    "seperated_timestep": False,  # [sic]
    "fuse_vae_embedding_in_latents": False,
    "require_clip_embedding": ANY,
    "require_vae_embedding": ANY,
}
_WAN_MODEL = ("mova.diffusion.models.wan_video_dit", "WanModel")
_8_BITS = {"quantization": (None, "fp8")}  # of the checkpoints that `mova.conversion` writes


@dataclass(frozen=True)
class Component:
    """One folder of a checkpoint.

    `released` is the (library, class) that the released `model_index.json` names. `options` are config keys
    with the one value that our code is written for, or a tuple of several, the released one first; ANY where
    upstream never reads the key either.
    """

    cls: type
    released: tuple[str, str]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def config_name(self) -> str:
        return "scheduler_config.json" if self.cls is PairScheduler else "config.json"


COMPONENTS = {
    "video_dit": Component(VideoDiT, _WAN_MODEL, _DIT_OPTIONS | _8_BITS),
    "video_dit_2": Component(VideoDiT, _WAN_MODEL, _DIT_OPTIONS | _8_BITS),
    "audio_dit": Component(
        AudioDiT, ("mova.diffusion.models.wan_audio_dit", "WanAudioModel"), _DIT_OPTIONS | {"vae_type": "dac"}
    ),
    "dual_tower_bridge": Component(
        Bridge,
        ("mova.diffusion.models.interactionv2", "DualTowerConditionalBridge"),
        {
            "interaction_strategy": "full",
            "apply_cross_rope": True,
            "apply_first_frame_bias_in_rope": False,
            "trainable_condition_scale": False,
            "pooled_adaln": False,
        }
        | _8_BITS,
    ),
    "audio_vae": Component(
        AudioVAE,
        ("mova.diffusion.models.dac_vae", "DAC"),
        {"continuous": True, "use_weight_norm": False}
        | dict.fromkeys(("n_codebooks", "codebook_size", "codebook_dim", "quantizer_dropout"), ANY),
    ),
    "scheduler": Component(
        PairScheduler,
        ("mova.diffusion.schedulers.flow_match_pair", "FlowMatchPairScheduler"),
        {
            "extra_one_step": True,
            "sigma_min": 0.0,
            "sigma_max": 1.0,
            "num_inference_steps": ANY,
            "exponential_shift": False,
            "exponential_shift_mu": None,
            "inverse_timesteps": False,
            "reverse_sigmas": False,
            "shift_terminal": None,
        },
    ),
    "video_vae": Component(
        AutoencoderKLWan,
        ("diffusers", "AutoencoderKLWan"),
        {
            "is_residual": False,
            "patch_size": (None, 2),
            "scale_factor_spatial": 8,
            "scale_factor_temporal": 4,
        },
    ),
    "text_encoder": Component(UMT5EncoderModel, ("transformers", "UMT5EncoderModel"), {"model_type": "umt5"}),
    "tokenizer": Component(PreTrainedTokenizerFast, ("transformers", "T5TokenizerFast")),
}

MODULES = tuple(name for name in COMPONENTS if name not in ("scheduler", "tokenizer"))


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a checkpoint. Raises UserError if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); the checkpoint is incomplete") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); delete it and download it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object; delete it and download it again")
    return content


def check_folder(folder: Path, name: str) -> None:
    if not (folder / name).is_dir():
        raise UserError(
            f"{folder} has no folder {name}/; it is not a MOVA checkpoint, or part of it is missing"
        )


def read_boundary_ratio(folder: Path) -> float:
    """The sigma below which `video_dit_2` takes over from `video_dit`."""
    path = folder / "model_index.json"
    ratio = read_object(path).get("boundary_ratio")
    if not isinstance(ratio, float | int) or not 0 <= ratio <= 1:
        raise UserError(
            f"{path}: boundary_ratio={ratio!r}; expected a number from 0 to 1 (0.9 in the releases)"
        )
    return float(ratio)


def read_config(name: str, folder: Path) -> dict[str, Any]:
    """A component's config, checked: its network's values are all there, and all are ones we support.

    diffusers' and transformers' own networks may leave values at their defaults.
    """
    component = COMPONENTS[name]
    path = folder / component.config_name
    config = {key: value for key, value in read_object(path).items() if not key.startswith("_")}
    parameters = inspect.signature(component.cls).parameters
    required = parameters if component.released[0].startswith("mova.") else ()
    for key in required:
        if key not in config:
            raise UserError(
                f"{path}: {key} is missing and has no safe default; take the file from the release"
            )
    for key, value in config.items():
        options = component.options.get(key, ANY)
        allowed = options if isinstance(options, tuple) else (options,)
        if key not in component.options and key not in parameters and name != "text_encoder":
            raise UserError(f"{path}: unknown option {key}={value!r}; this version cannot run such a model")
        if options is not ANY and value not in allowed and not (options is False and value is None):
            raise UserError(
                f"{path}: {key}={value!r} is not supported; released checkpoints have {allowed[0]!r}"
            )
    return config


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a component. Raises UserError if one is missing."""
    held = sorted(path.name for path in folder.glob("*.safetensors") if not is_sidecar(path.name))
    names = weight_names(folder, held)
    if missing := [name for name in names if name not in held]:
        raise UserError(
            f"{folder} lacks {', '.join(missing)} of its {len(names)} shards; finish the download"
        )
    return [folder / name for name in names]


def weight_names(folder: Path, held: list[str]) -> list[str]:
    """Names of a component's files: the shards of the folder's index, else the one file in `held`."""
    indexes = sorted(p for p in folder.glob("*.safetensors.index.json") if not is_sidecar(p.name))
    if len(indexes) > 1:
        raise UserError(f"{folder} has {len(indexes)} indexes of weights; keep the one that belongs to it")
    for index in indexes:
        shards = read_object(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise UserError(f"{index} has no weight_map of file names; delete it and download it again")
        return sorted(set(shards.values()))
    if len(held) != 1:
        found = f"{len(held)} of them and no index" if held else "none"
        raise UserError(
            f"{folder} should hold one .safetensors file or an index; found {found}: download it again"
        )
    return held


@contextmanager
def opened(file: Path) -> Iterator[safe_open]:
    """A safetensors file, mapped, its length checked. Raises UserError where that fails."""
    try:
        shard = safe_open(file, framework="pt")
    except RuntimeError as error:
        raise UserError(
            f"{file} cannot be mapped ({error}); on a machine this small save it in shards (max_shard_size)"
        ) from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} cannot be read ({error}); {advice(file)}") from error
    with shard:
        yield shard


def read_header(file: Path) -> SafetensorsFileMetadata:
    """Read the header of a safetensors file without mapping it. Raises UserError unless the file is whole."""
    try:
        header = parse_local_safetensors_file_metadata(file)
        with file.open("rb") as head:
            length = int.from_bytes(head.read(8), "little")
        end = 8 + length + max((tensor.data_offsets[1] for tensor in header.tensors.values()), default=0)
        if file.stat().st_size != end:
            raise SafetensorsParsingError(f"{file.stat().st_size} bytes, its header says {end}")
    except (SafetensorsParsingError, OSError, AttributeError, TypeError) as error:
        raise UserError(f"{file} cannot be read ({error}); {advice(file)}") from error
    return header


def advice(file: Path) -> str:
    if file.is_file() and file.stat().st_size < 1000 and file.read_bytes().startswith(LFS_POINTER):
        return "it is a Git LFS pointer: run `git lfs pull`"
    return "delete it and download it again"


UNBUILDABLE = (TypeError, ValueError, RuntimeError, ZeroDivisionError, IndexError)  # by torch's layers
LOCAL_KEYS = ("backend", "is_local", "local_files_only")  # in a tokenizer's config


def resolve(model: str | Path, patterns: list[str], **hub_options: object) -> Path:
    """The local folder of `model`, a folder or a Hub repo id.

    Of a repo, the files that match `patterns` are downloaded unless the cache has them; `hub_options`
    (revision, token, cache_dir, local_files_only, ...) go to `snapshot_download`.

    Raises:
        UserError: there is no such folder or repo, or the Hub cannot be reached.
    """
    folder = Path(model).expanduser()
    return folder if folder.is_dir() else hub.download(str(model), patterns, **hub_options)


def load_components(folder: Path, names: Iterable[str], dtype: torch.dtype | None) -> dict[str, Any]:
    """The named components of a checkpoint folder on the CPU, memory-mapped where the dtype is the file's.

    A `dtype` of None keeps the files'. The audio VAE is always float32.

    Raises:
        UserError: a folder, config key, shard or tensor is missing, unknown or broken; the message names it.
    """
    components = {}
    for name in names:
        check_folder(folder, name)
        if name == "scheduler":
            components[name] = build(name, folder / name)
        elif name == "tokenizer":
            components[name] = load_tokenizer(folder / name)
        else:
            components[name] = load_module(
                name, folder / name, torch.float32 if name == "audio_vae" else dtype
            )
    return components


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    path = folder / "tokenizer.json"
    if path.is_file() and "model" not in read_object(path):
        raise UserError(f"{path} is not a tokenizer; delete it and download it again")
    # A T5 class of transformers 5 would rebuild the pipeline of tokenizer.json by its own rules.
    loader = PreTrainedTokenizerFast if path.is_file() else AutoTokenizer
    try:
        return loader.from_pretrained(folder)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{folder} holds no readable tokenizer ({first_line(error)}); download the folder again"
        ) from error


def load_module(name: str, folder: Path, dtype: torch.dtype | None = None) -> nn.Module:
    """A network in evaluation mode, without gradients. Raises UserError as `load_components`."""
    with torch.device("meta"):
        module = build(name, folder).eval()
        if name in LAYERS and is_8_bits(module.config):
            to_8_bits(name, module)
    load_weights(module, folder, dtype)
    return module.requires_grad_(False)


def build(name: str, folder: Path) -> nn.Module | ConfigMixin:
    """The component that a folder's config describes, without weights."""
    cls = COMPONENTS[name].cls
    config = read_config(name, folder)
    read = {key: value for key, value in config.items() if key in inspect.signature(cls).parameters}
    try:
        if name == "text_encoder":
            return cls(cls.config_class.from_dict(config))
        part = cls(**read)
    except (*UNBUILDABLE, StrictDataclassError) as error:
        path, cause = folder / COMPONENTS[name].config_name, error.__cause__ or error
        raise UserError(
            f"{path} does not describe a network that can be built ({first_line(cause)})"
        ) from error
    part.register_to_config(**{key: value for key, value in config.items() if key not in read})
    return part


def is_8_bits(config: Mapping[str, Any]) -> bool:
    """True for the config of a component whose large layers are held in 8 bits."""
    return config.get("quantization") == "fp8"


def load_weights(module: nn.Module, folder: Path, dtype: torch.dtype | None) -> None:
    """Give every parameter of a meta `module` its tensor from the folder's files, strictly."""
    state, source = {}, {}
    coarse = [path for path, layer in module.named_modules() if isinstance(layer, Fp8Linear)]
    as_stored = {f"{path}.{name}" for path in coarse for name in ("weight", "weight_scale")}
    for file in weight_files(folder):
        with opened(file) as shard:
            for key in shard.keys():  # noqa: SIM118 - no mapping
                state[key] = shard.get_tensor(key).to(None if key in as_stored else dtype)
                source[key] = file
    tied = ("shared.weight", "encoder.embed_tokens.weight")
    is_tied = isinstance(module, UMT5EncoderModel)
    if is_tied:  # files hold one of two names of the same embedding
        for name in [name for name in tied if name in state][:1]:
            state |= dict.fromkeys(tied, state[name])
            source |= dict.fromkeys(tied, source[name])
    expected = module.state_dict()
    problems = [f"{folder}: {key} is missing" for key in expected.keys() - state.keys()]
    problems += [f"{source[key]}: {key} is unknown" for key in state.keys() - expected.keys()]
    problems += [
        f"{source[key]}: {key} is {list(state[key].shape)}, expected {list(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    problems += [
        f"{source[key]}: {key} is {state[key].dtype}, expected {expected[key].dtype}"
        for key in as_stored & state.keys()
        if state[key].dtype != expected[key].dtype
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(
            f"{min(problems)}{more}; the weights do not match the config in their folder: download both again"
        )
    module.load_state_dict(state, assign=True)
    if is_tied:  # one parameter, or placing the module would copy the embedding twice
        module.encoder.embed_tokens.weight = module.shared.weight


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def save_components(
    components: dict[str, Any], boundary_ratio: float, folder: Path, **options: object
) -> None:
    """Write a checkpoint in the released layout, with the names that upstream's own code expects.

    `options` (max_shard_size, ...) go to each network's `save_pretrained`.

    Raises:
        UserError: a checkpoint is there already. It may be the one whose files the weights are views of.
    """
    if (folder / "model_index.json").exists():
        raise UserError(f"{folder} already holds a checkpoint; choose another folder, or remove it")
    index = {"_class_name": "MOVA", "audio_vae_type": "dac", "boundary_ratio": boundary_ratio}
    for name, part in components.items():
        index[name] = released = COMPONENTS[name].released
        if name == "tokenizer":
            save_tokenizer(part, folder / name, released[1])
            continue
        part.save_pretrained(folder / name, **(options if name in MODULES else {}))
        if name != "text_encoder":
            config = folder / name / COMPONENTS[name].config_name
            write_json(config, read_object(config) | {"_class_name": released[1]})
    write_json(folder / "model_index.json", index)


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path, class_name: str) -> None:
    """Save as loaded: transformers 5 names a class that 4 lacks, and leaves traces of calls and machine."""
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = {key: value for key, value in read_object(path).items() if key not in LOCAL_KEYS}
    write_json(path, config | {"tokenizer_class": class_name})

"""From a repo id or a folder to components, and back. The only code that knows the checkpoint's layout.

Weights are memory-mapped: a module is built on the meta device and its parameters become views of the files,
read when first used and held only in the page cache until they are placed.
"""

import inspect
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, ConfigMixin
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast, UMT5EncoderModel

from mova.models.audio_dit import AudioDiT
from mova.models.audio_vae import AudioVAE
from mova.models.bridge import Bridge
from mova.models.video_dit import VideoDiT
from mova.scheduler import PairScheduler
from mova.types import UserError

logger = logging.getLogger(__name__)

ANY = object()
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


@dataclass(frozen=True)
class Component:
    """One folder of a checkpoint.

    `released` is the (library, class) that the released `model_index.json` names. `options` are config keys
    that the network does not read, each with the one value under which it may be ignored; ANY where upstream
    never reads it either.
    """

    cls: type
    released: tuple[str, str]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def config_name(self) -> str:
        return "scheduler_config.json" if self.cls is PairScheduler else "config.json"


COMPONENTS = {
    "video_dit": Component(VideoDiT, ("mova.diffusion.models.wan_video_dit", "WanModel"), _DIT_OPTIONS),
    "video_dit_2": Component(VideoDiT, ("mova.diffusion.models.wan_video_dit", "WanModel"), _DIT_OPTIONS),
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
        },
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
    "video_vae": Component(AutoencoderKLWan, ("diffusers", "AutoencoderKLWan")),
    "text_encoder": Component(UMT5EncoderModel, ("transformers", "UMT5EncoderModel")),
    "tokenizer": Component(PreTrainedTokenizerFast, ("transformers", "T5TokenizerFast")),
}

MODULES = tuple(name for name in COMPONENTS if name not in ("scheduler", "tokenizer"))
TOWERS = ("video_dit", "video_dit_2", "audio_dit", "dual_tower_bridge")


def resolve(model: str | Path, patterns: list[str], **hub_options: object) -> Path:
    """The local folder of `model`, a folder or a Hub repo id.

    Of a repo, the files that match `patterns` are downloaded unless the cache has them; `hub_options`
    (revision, token, cache_dir, local_files_only, ...) go to `snapshot_download`.

    Raises:
        UserError: there is no such folder or repo, or the Hub cannot be reached.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    try:
        return Path(snapshot_download(str(model), allow_patterns=patterns, **hub_options))
    except HFValidationError:
        raise UserError(
            f"{str(model)!r} is neither a folder nor a repo id such as OpenMOSS-Team/MOVA-360p"
        ) from None
    except LocalEntryNotFoundError as error:
        raise UserError(f"{model} is not on this machine and the Hub cannot be reached: {error}") from error
    except HfHubHTTPError as error:
        raise UserError(f"{model} cannot be downloaded: {error}") from error


def load_components(folder: Path, names: Iterable[str], dtype: torch.dtype | None) -> dict[str, Any]:
    """The named components of a checkpoint folder on the CPU, memory-mapped where the dtype is the file's.

    A `dtype` of None keeps the files'. The audio VAE is always float32.

    Raises:
        UserError: a folder, config key, shard or tensor is missing, unknown or broken; the message names it.
    """
    loaders = {"scheduler": load_scheduler, "tokenizer": load_tokenizer}
    components = {}
    for name in names:
        if not (folder / name).is_dir():
            raise UserError(
                f"{folder} has no folder {name}/; the checkpoint is incomplete, download it again"
            )
        load = loaders.get(name)
        component_dtype = torch.float32 if name == "audio_vae" else dtype
        components[name] = load(folder / name) if load else load_module(name, folder / name, component_dtype)
    return components


def check_folder(folder: Path, name: str) -> None:
    if not (folder / name).is_dir():
        raise UserError(f"{folder} has no folder {name}/; it is no MOVA checkpoint, or not all of one")


def read_boundary_ratio(folder: Path) -> float:
    """The sigma below which `video_dit_2` takes over from `video_dit`."""
    path = folder / "model_index.json"
    ratio = read_json(path).get("boundary_ratio")
    if not isinstance(ratio, float) or not 0 <= ratio <= 1:
        raise UserError(f"{path}: boundary_ratio={ratio!r}, expected a number from 0 to 1")
    return ratio


def load_scheduler(folder: Path) -> PairScheduler:
    return from_released_config("scheduler", folder)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    # A T5 class of transformers 5 would rebuild the pipeline of tokenizer.json by its own rules.
    loader = PreTrainedTokenizerFast if (folder / "tokenizer.json").is_file() else AutoTokenizer
    return loader.from_pretrained(folder)


def build_module(name: str, folder: Path) -> nn.Module:
    """The component's network on the meta device, without weights."""
    cls = COMPONENTS[name].cls
    with torch.device("meta"):
        if name == "text_encoder":
            return cls(cls.config_class.from_pretrained(folder)).eval()
        if name == "video_vae":
            return cls.from_config(read_json(folder / "config.json")).eval()
        return from_released_config(name, folder).eval()


def load_module(name: str, folder: Path, dtype: torch.dtype | None = None) -> nn.Module:
    module = build_module(name, folder)
    load_weights(module, folder, dtype)
    return module.requires_grad_(False)


def from_released_config(name: str, folder: Path) -> ConfigMixin:
    """The component that a config file describes, checked: no value missing, no option on that it lacks."""
    component = COMPONENTS[name]
    path = folder / component.config_name
    config = {key: value for key, value in read_json(path).items() if not key.startswith("_")}
    needed = inspect.signature(component.cls).parameters.keys()
    for key in needed - config.keys():
        raise UserError(
            f"{path}: {key} is missing; upstream's defaults are not the released values, so none is used"
        )
    options = {key: value for key, value in config.items() if key not in needed}
    for key, value in options.items():
        if key not in component.options:
            raise UserError(f"{path}: unknown option {key}={value!r}")
        allowed = component.options[key]
        if allowed is not ANY and value != allowed and not (allowed is False and value is None):
            raise UserError(
                f"{path}: {key}={value!r} is not supported; released checkpoints have {allowed!r}"
            )
    part = component.cls(**{key: config[key] for key in needed})
    part.register_to_config(**options)  # kept for `save_pretrained`
    return part


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a component, from its index where it is sharded."""
    for index in sorted(folder.glob("*.safetensors.index.json")):
        shards = sorted(set(read_json(index)["weight_map"].values()))
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing:
            raise UserError(
                f"{folder} lacks {', '.join(missing)} of its {len(shards)} shards; finish the download"
            )
        return [folder / shard for shard in shards]
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        found = f"{len(files)} of them and no index" if files else "none"
        raise UserError(f"{folder} should hold one .safetensors file or an index; found {found}")
    return files


def load_weights(module: nn.Module, folder: Path, dtype: torch.dtype | None) -> None:
    """Give every parameter of a meta `module` its tensor from the folder's files; strict in both directions."""
    state = {}
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as shard:
                state |= {key: shard.get_tensor(key).to(dtype) for key in shard.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} cannot be read ({error}); delete it and download it again") from error
    if isinstance(module, UMT5EncoderModel):  # files hold one of two names of the same embedding
        names = ("shared.weight", "encoder.embed_tokens.weight")
        for embedding in [state[name] for name in names if name in state][:1]:
            state |= dict.fromkeys(names, embedding)
    expected = module.state_dict()
    problems = [f"{key} is missing" for key in expected.keys() - state.keys()]
    problems += [f"{key} is unknown" for key in state.keys() - expected.keys()]
    problems += [
        f"{key} is {list(state[key].shape)}, expected {list(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:3])
        raise UserError(f"{folder} does not fit its config: {shown} ({len(problems)} such tensors)")
    module.load_state_dict(state, assign=True)


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); the checkpoint is incomplete") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); delete it and download it again") from error


def save_components(
    components: dict[str, Any], boundary_ratio: float, folder: Path, **options: object
) -> None:
    """Write a checkpoint in the released layout, with the names that upstream's own code expects.

    `options` (max_shard_size, ...) go to each network's `save_pretrained`.
    """
    index = {"_class_name": "MOVA", "audio_vae_type": "dac", "boundary_ratio": boundary_ratio}
    for name, part in components.items():
        index[name] = COMPONENTS[name].released
        part.save_pretrained(folder / name, **(options if name in MODULES else {}))
        config = folder / name / COMPONENTS[name].config_name
        if name not in ("text_encoder", "tokenizer"):
            config.write_text(
                json.dumps(read_json(config) | {"_class_name": index[name][1]}, indent=2) + "\n"
            )
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")

"""From a repo id or a folder to components, and back.

Weights are memory-mapped: a module is built on the meta device and its parameters become views of the files,
read when first used and held only in the page cache until they are placed.
"""

import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast, UMT5EncoderModel

from mova import hub
from mova.layout import COMPONENTS, MODULES, check_folder, opened, read_config, read_json, weight_files
from mova.types import UserError

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
    if path.is_file() and "model" not in read_json(path):
        raise UserError(f"{path} is no tokenizer; delete it and download it again")
    # A T5 class of transformers 5 would rebuild the pipeline of tokenizer.json by its own rules.
    loader = PreTrainedTokenizerFast if path.is_file() else AutoTokenizer
    try:
        return loader.from_pretrained(folder)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{folder} holds no tokenizer that can be read ({first_line(error)}); download the folder again"
        ) from error


def load_module(name: str, folder: Path, dtype: torch.dtype | None = None) -> nn.Module:
    """A network in evaluation mode, without gradients. Raises UserError as `load_components`."""
    with torch.device("meta"):
        module = build(name, folder).eval()
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
        raise UserError(f"{path} describes nothing that can be built ({first_line(cause)})") from error
    part.register_to_config(**{key: value for key, value in config.items() if key not in read})
    return part


def load_weights(module: nn.Module, folder: Path, dtype: torch.dtype | None) -> None:
    """Give every parameter of a meta `module` its tensor from the folder's files, strictly."""
    state, source = {}, {}
    for file in weight_files(folder):
        with opened(file) as shard:
            for key in shard.keys():  # noqa: SIM118 - no mapping
                state[key] = shard.get_tensor(key).to(dtype)
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
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(
            f"{min(problems)}{more}; the weights do not belong to the config beside them: download both again"
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
        raise UserError(f"{folder} holds a checkpoint already; choose another folder, or remove it")
    index = {"_class_name": "MOVA", "audio_vae_type": "dac", "boundary_ratio": boundary_ratio}
    for name, part in components.items():
        index[name] = released = COMPONENTS[name].released
        if name == "tokenizer":
            save_tokenizer(part, folder / name, released[1])
            continue
        part.save_pretrained(folder / name, **(options if name in MODULES else {}))
        if name != "text_encoder":
            config = folder / name / COMPONENTS[name].config_name
            write_json(config, read_json(config) | {"_class_name": released[1]})
    write_json(folder / "model_index.json", index)


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path, class_name: str) -> None:
    """As it was loaded: transformers 5 names a class that 4 lacks, and leaves traces of calls and machine."""
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = {key: value for key, value in read_json(path).items() if key not in LOCAL_KEYS}
    write_json(path, config | {"tokenizer_class": class_name})


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

"""Where adapters come from: a file, a folder or a repo of the Hub. What is read is checked here."""

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from mova import hub
from mova.adapters.files import (
    MAX_BYTES,
    Adapter,
    AdapterMetadata,
    check_adapter,
    read_pickle,
    read_safetensors,
)
from mova.adapters.formats import FILE_NAMES, read_tensors, read_upstream
from mova.adapters.strengths import is_repo
from mova.errors import UserError

logger = logging.getLogger(__name__)

UPSTREAM = "lora_weights.pt"
_WORD = re.compile(r"(?<![a-z])(high|low|audio|bridge)(?:noise)?(?![a-z])")


def read_adapter(
    source: str | Path,
    expert: str | None = None,
    alpha: float | None = None,
    skip_extras: bool = False,
    **hub_options: object,
) -> Adapter:
    """The adapter in `source`, in any format that `mova.adapters.formats` knows.

    `source` is a file; a folder with upstream's `.pt` files, or with safetensors files that make one adapter
    together (high and low); a repo id, or `org/name/file.safetensors` for one of its files. `.pt` files are
    read from the local disk only. `expert`, `alpha` and `skip_extras` are as for `read_tensors`;
    `hub_options` (revision, token, cache_dir, ...) go to the Hub.

    Raises:
        UserError: there is no adapter, or it is too large, broken, or not a LoRA; the message says which.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        files = find_in_folder(path)
    elif path.exists() or not is_repo(str(source)):
        files = [path]
    else:
        files = download(str(source), **hub_options)
    adapter = combine([read_file(file, expert, alpha, skip_extras) for file in files], source)
    check_adapter(adapter, source)
    for note in adapter.notes:
        logger.warning("%s: %s", source, note)
    return adapter


def read_file(path: Path, expert: str | None, alpha: float | None, skip_extras: bool) -> Adapter:
    if path.suffix == ".pt":
        return read_upstream_file(path, alpha)
    if path.suffix != ".safetensors":
        raise UserError(f"{path} is no adapter; give a .safetensors file, a folder or a Hub repo id")
    tensors, header = read_safetensors(path)
    if not tensors:
        raise UserError(f"{path} holds no LoRA matrices; the training that wrote it saved nothing")
    named = expert or expert_in_name(path)
    adapter = read_tensors(tensors, header, path, named, alpha, skip_extras)
    if expert is None and named is not None and not any(key.startswith(tuple(FILE_NAMES)) for key in tensors):
        return Adapter(adapter.layers, adapter.card, (*adapter.notes, f"for {named}, by the file's name"))
    return adapter


def read_upstream_file(path: Path, alpha: float | None) -> Adapter:
    """Upstream's accelerate format (with `lora_config.pt` beside it) or its low-resource one."""
    content = read_pickle(path)
    if "lora_state_dict" in content:
        tensors, config = content["lora_state_dict"], content
    else:
        beside = path.with_name("lora_config.pt")
        tensors, config = content, read_pickle(beside) if beside.is_file() else {}
    if not isinstance(tensors, dict) or not tensors:
        raise UserError(f"{path} holds no LoRA matrices; the training that wrote it saved nothing")
    return read_upstream(tensors, config, path, alpha)


def expert_in_name(path: Path) -> str | None:
    """ "high", "low", "audio" or "bridge" if a word of the file's name says one of them."""
    found = set(_WORD.findall(re.sub(r"[_\\W]+noise", "noise", path.stem.lower())))
    return found.pop() if len(found) == 1 else None


def find_in_folder(folder: Path) -> list[Path]:
    if (folder / UPSTREAM).is_file():
        return [folder / UPSTREAM]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} is no adapter: it holds neither .safetensors files nor {UPSTREAM}")
    check_parts([file.name for file in files], folder)
    return files


def check_parts(names: Iterable[str], source: object) -> None:
    """Raise UserError unless the files are one adapter: a single one, or one for each of high, low, ..."""
    names = list(names)
    parts = [expert_in_name(Path(name)) for name in names]
    if len(names) > 1 and (None in parts or len(set(parts)) < len(parts)):
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        raise UserError(f"{source} holds several adapters ({shown}); name one of its files")


def download(source: str, **options: object) -> list[Path]:
    """The files of an adapter on the Hub, fetched unless the cache has them; sizes are asked before."""
    owner, name, *rest = source.split("/", 2)
    repo = f"{owner}/{name}"
    sizes = hub.file_sizes(repo, **options)
    if rest and rest[0] not in sizes:
        raise UserError(f"{repo} has no file {rest[0]}; it has {', '.join(sorted(sizes)[:6]) or 'none'}")
    names = rest or sorted(each for each in sizes if each.endswith(".safetensors"))
    if not names:
        raise UserError(
            f"{repo} holds no .safetensors file; other formats are pickles and not read from the Hub"
        )
    check_parts(names, repo)
    if max(sizes[each] for each in names) > MAX_BYTES:
        raise UserError(f"{repo} has a file of over {MAX_BYTES // 2**30} GiB, too large for an adapter")
    folder = hub.download(repo, names, **options)
    return [folder / each for each in names]


def combine(adapters: list[Adapter], source: object) -> Adapter:
    """One adapter of files that have different layers."""
    if len(adapters) == 1:
        return adapters[0]
    layers, words, notes = {}, [], []
    for adapter in adapters:
        for key in layers.keys() & adapter.layers.keys():
            raise UserError(f"{source} has two files with {key}; name one of them")
        layers |= adapter.layers
        words += adapter.card.trigger_words
        notes += adapter.notes
    first = adapters[0].card
    card = AdapterMetadata(first.base_model, tuple(dict.fromkeys(words)), first.recipe)
    return Adapter(layers, card, tuple(dict.fromkeys(notes)))

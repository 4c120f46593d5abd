"""Sources of adapters: a file, a folder or a repo of the Hub. What is read is checked here."""

import logging
import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

from torch import Tensor

from mova import hub
from mova.adapters.files import (
    MAX_BYTES,
    MAX_METADATA,
    Adapter,
    AdapterMetadata,
    check_adapter,
    parse_object,
    read_pickle,
    read_safetensors,
)
from mova.adapters.formats import FILE_NAMES, read_tensors, read_upstream
from mova.adapters.strengths import is_repo
from mova.errors import UserError, printable
from mova.files import is_sidecar

logger = logging.getLogger(__name__)

UPSTREAM = "lora_weights.pt"
PEFT_CONFIG = "adapter_config.json"
UNFINISHED = (".crdownload", ".part", ".partial", ".download", ".incomplete", ".aria2", ".!ut", ".tmp")
# A part's name counts where it is meant as one: with "noise", as HIGH in a name of small letters, or at the
# end, before nothing but versions and the like. "low_poly_style" names no expert.
_NOISE = re.compile(r"(?<![a-z])(high|low)[_\W]*noise(?![a-z])", re.IGNORECASE)
_SHOUTED = re.compile(r"(?<![A-Za-z])(HIGH|LOW)(?![A-Za-z])")
_TECHNICAL = re.compile(
    r"v?\d+[a-z]?|(fp|bf|int|rank|r|dim|step|epoch|e|s)\d+|\d+steps?|steps?|lora|model|final|safe"
)
_PARTS = ("high", "low", "audio", "bridge")
_VIDEO_WIDTH = 5120  # of Wan2.2 14B, whose LoRAs are the most; the audio tower has another


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
        logger.warning("%s", printable(f"{source}: {note}"))
    return adapter


def read_file(path: Path, expert: str | None, alpha: float | None, skip_extras: bool) -> Adapter:
    if path.suffix == ".pt":
        return read_upstream_file(path, alpha)
    if path.suffix in UNFINISHED:
        raise UserError(f"{path} is a download that did not end; let it end, or start it again")
    if path.suffix != ".safetensors":
        raise UserError(f"{path} is not an adapter; pass a .safetensors file, a folder or a Hub repo id")
    tensors, header = read_safetensors(path)
    if not tensors:
        raise UserError(f"{path} holds no LoRA matrices; the training that wrote it saved nothing")
    beside = path.with_name(PEFT_CONFIG)
    stated = parse_object(read_config(beside), beside.name) if beside.is_file() else None
    named = expert or expert_in_name(path)
    if expert is None and (named == "bridge" or (named == "audio" and is_video(tensors))):
        named = None  # the bridge's layers say so themselves
    adapter = read_tensors(tensors, header, path, named, alpha, skip_extras, stated)
    if expert is None and named is not None and not any(key.startswith(tuple(FILE_NAMES)) for key in tensors):
        return Adapter(adapter.layers, adapter.metadata, (*adapter.notes, f"for {named}, by the file's name"))
    return adapter


def read_config(path: Path) -> str:
    if path.stat().st_size > MAX_METADATA:
        raise UserError(f"{path} has over {MAX_METADATA} bytes, too many for peft's settings; take it away")
    return path.read_text(encoding="utf-8", errors="replace")


def is_video(tensors: Mapping[str, Tensor]) -> bool:
    """True if layers are as wide as those of the released video experts."""
    return any(_VIDEO_WIDTH in tensor.shape for tensor in tensors.values())


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


def expert_in_name(path: Path, beside: Container[str] | None = None) -> str | None:
    """ "high", "low", "audio" or "bridge" if the file's name says that it is for one of them.

    A word anywhere in it counts if the same name with the other expert's is `beside` it, by default on the
    disk.
    """
    stem = path.stem
    found = {each.lower() for each in _NOISE.findall(stem)}
    if stem != stem.upper():
        found |= {each.lower() for each in _SHOUTED.findall(stem)}
    words = [word for word in re.split(r"[^a-z0-9]+", stem.lower()) if word]
    while len(words) > 1 and _TECHNICAL.fullmatch(words[-1]):
        words.pop()
    if words and words[-1].removesuffix("noise") in _PARTS:
        found.add(words[-1].removesuffix("noise"))
    for word, other in (("high", "low"), ("low", "high")):
        name = re.sub(rf"(?<![a-z]){word}(?![a-z])", other, path.name, flags=re.IGNORECASE)
        if name != path.name and (name in beside if beside is not None else is_beside(path, name)):
            found.add(word)
    named = {word for word in _PARTS if re.search(rf"(?<![a-z]){word}(?:noise)?(?![a-z])", stem.lower())}
    return found.pop() if len(found) == 1 and len(named & {"high", "low"}) < 2 else None


def is_beside(path: Path, name: str) -> bool:
    """True if a file of that name, in whatever case, lies in the folder of `path`."""
    folder = path.parent
    return folder.is_dir() and any(each.name.lower() == name.lower() for each in folder.iterdir())


def find_in_folder(folder: Path) -> list[Path]:
    if (folder / UPSTREAM).is_file():
        return [folder / UPSTREAM]
    files = sorted(path for path in folder.glob("*.safetensors") if not is_sidecar(path.name))
    if not files:
        raise UserError(f"{folder} is not an adapter: it holds neither .safetensors files nor {UPSTREAM}")
    check_parts([file.name for file in files], folder)
    return files


def check_parts(names: Iterable[str], source: object) -> None:
    """Raise UserError unless the files are one adapter: a single one, or one for each of high, low, ..."""
    names = list(names)
    parts = [expert_in_name(Path(name), {Path(each).name for each in names}) for name in names]
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
    names = rest or sorted(
        each for each in sizes if each.endswith(".safetensors") and not is_sidecar(Path(each).name)
    )
    if not names:
        raise UserError(
            f"{repo} holds no .safetensors file; other formats are pickles and not read from the Hub"
        )
    check_parts(names, repo)
    if max(sizes[each] for each in names) > MAX_BYTES:
        raise UserError(f"{repo} has a file of over {MAX_BYTES // 2**30} GiB, too large for an adapter")
    beside = {str(Path(each).with_name(PEFT_CONFIG)) for each in names} & sizes.keys()
    folder = hub.download(repo, [*names, *sorted(beside)], **options)
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
        words += adapter.metadata.trigger_words
        notes += adapter.notes
    first = adapters[0].metadata
    metadata = AdapterMetadata(first.base_model, tuple(dict.fromkeys(words)), first.recipe, first.turbo)
    return Adapter(layers, metadata, tuple(dict.fromkeys(notes)))

"""What the encoders made of clips and captions, as files that training reads.

One safetensors file for each window and each caption, named after a fingerprint of everything that decided
its content. A digest in its header tells damage. Files are written whole or not at all.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lora_trainer.config import Config, Data
from lora_trainer.decode import read_frames, read_sound
from lora_trainer.journal import Report
from lora_trainer.manifest import DatasetItem
from lora_trainer.measurements import to_loudness
from lora_trainer.regularization import make_kept
from lora_trainer.windows import Window, bullet_list, caption_of, plan_windows
from mova.catalog import find_model
from mova.checkpoint import COMPONENTS, load_components, resolve
from mova.encoders import EncoderMixin
from mova.errors import UserError
from mova.files import new_output, sha256_of
from mova.models.video_vae import to_channels_last
from mova.offload import Offloader
from mova.shapes import MAX_PROMPT_TOKENS, ClipShape
from mova.text import clean_prompt

logger = logging.getLogger(__name__)

FORMAT = 1
INDEX = "index.json"


@dataclass(frozen=True)
class CacheEntry:
    """One window as it lies in the cache; `text` and `file` are names of files there.

    One that is `kept` shows what the model can already.
    """

    name: str
    clip: str
    file: str
    text: str
    caption: str
    num_frames: int
    height: int
    width: int
    frame_rate: float
    has_sound: bool
    kept: bool = False

    @property
    def bucket(self) -> tuple[int, int, int]:
        return self.height, self.width, self.num_frames


@dataclass(frozen=True)
class Cache:
    """What training reads: windows, and the texts by prompt (samples' and the empty one included)."""

    folder: Path
    entries: tuple[CacheEntry, ...]
    texts: dict[str, str]

    def window(self, entry: CacheEntry) -> dict[str, Tensor]:
        """`video_latents` [16, T, h, w], `condition` [20, T, h, w] and `audio_latents` [C, L], float32."""
        return read_tensors(self.folder / entry.file)

    def text(self, prompt: str) -> Tensor:
        """The embedding [512, D] of a prompt, zero behind its end."""
        if prompt not in self.texts:
            raise UserError(
                f"the cache lacks the text {prompt[:60]!r}; run `python -m lora_trainer cache` again"
            )
        return self.embedding(self.texts[prompt])

    def embedding(self, file: str) -> Tensor:
        tokens = read_tensors(self.folder / file)["text"]
        padded = tokens.new_zeros(MAX_PROMPT_TOKENS, tokens.shape[1])
        padded[: len(tokens)] = tokens
        return padded


def write_tensors(path: Path, tensors: dict[str, Tensor], identity: dict[str, Any]) -> None:
    tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
    metadata = {"identity": json.dumps(identity, sort_keys=True), "digest": tensors_digest(tensors)}
    with new_output(path, overwrite=True) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a cached file. Raises UserError where it is missing or damaged."""
    again = "run `python -m lora_trainer cache` again, it makes what is missing"
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            digest = (file.metadata() or {}).get("digest")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} of the cache cannot be read ({error}); {again}") from error
    if digest != tensors_digest(tensors):
        raise UserError(f"{path} of the cache is damaged; {again}")
    return tensors


def is_whole(path: Path) -> bool:
    """Whether a cached file is there and undamaged."""
    if not path.is_file():
        return False
    try:
        read_tensors(path)
    except UserError:
        logger.warning("%s is damaged and is made again", path.name)
        return False
    return True


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def fingerprint(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


def write_index(cache: Cache) -> None:
    content = {
        "format": FORMAT,
        "texts": cache.texts,
        "entries": [dataclasses.asdict(e) for e in cache.entries],
    }
    with new_output(cache.folder / INDEX, overwrite=True) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")


def read_index(folder: Path) -> Cache:
    """The cache in a folder. Raises UserError where there is none."""
    try:
        content = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        entries = tuple(CacheEntry(**entry) for entry in content["entries"])
        return Cache(folder, entries, dict(content["texts"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} holds no cache ({error}); run `python -m lora_trainer cache`") from error


def build_cache(
    config: Config, device: torch.device, dtype: torch.dtype, report: Report = lambda *_: None
) -> Cache:
    """Make the clips to keep that are wanted and not there, encode what the cache lacks, and write its index.

    Raises:
        UserError: clips that cannot be used or decoded, each with its name. What could be encoded is kept.
        UserError, BackendError: as `make_kept`.
    """
    windows = plan_windows(config)  # first: what is wrong with clips needs no download to be told
    if config.data.keep_count and make_kept(config, report):
        windows = plan_windows(config)
    folder = checkpoint_folder(config)
    captions = {w.item: caption_of(w.item, config.data) for w in windows}
    texts = encode_texts(config.cache, folder, [*captions.values(), *config.texts], device, dtype, report)
    entries, problems = [], []
    prints = {name: encoder_print(folder / name) for name in ("video_vae", "audio_vae")}
    encoders: Encoders | None = None
    digests: dict[Path, str] = {}
    for done, window in enumerate(windows):
        report("clips", done, len(windows))
        try:
            identity = window_identity(window, config, prints, dtype, digests)
            path = config.cache / f"{slug(window.item)}-{fingerprint(identity)}.safetensors"
            if not is_whole(path):
                encoders = encoders or Encoders(folder, prints, device, dtype)
                write_tensors(path, encode_window(window, encoders, config), identity)
        except UserError as error:
            problems.append(str(error))
            continue
        entries.append(entry_of(window, path, captions[window.item], texts))
    report("clips", len(windows), len(windows))
    if problems:
        raise UserError(bullet_list(f"{len(problems)} of {len(windows)} windows cannot be encoded", problems))
    cache = Cache(config.cache, tuple(entries), texts)
    write_index(cache)
    return cache


def loudness_of(item: DatasetItem, data: Data) -> float | None:
    """What the sound is brought to; what is kept is kept as loud as it is."""
    return None if item.kept else data.loudness


def checkpoint_folder(config: Config) -> Path:
    """The folder of the configured model, downloaded where it is a repo."""
    names = ["model_index.json", *(f"{name}/*" for name in COMPONENTS)]
    return resolve(find_model(config.model).source, names)


class Encoders(EncoderMixin):
    """Some of a checkpoint's encoders on a device."""

    def __init__(self, folder: Path, names: Iterable[str], device: torch.device, dtype: torch.dtype) -> None:
        parts = load_components(folder, names, dtype)
        for name, part in parts.items():
            setattr(self, name, part.to(device) if isinstance(part, torch.nn.Module) else part)
        if "video_vae" in parts:
            to_channels_last(self.video_vae)
        self.residency = OnDevice(device)


class OnDevice(Offloader):
    """Everything is on one device already."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @property
    def device(self) -> torch.device:
        return self._device

    def use(self, name: str) -> AbstractContextManager[None]:  # noqa: ARG002
        return nullcontext()


def entry_of(window: Window, path: Path, caption: str, texts: dict[str, str]) -> CacheEntry:
    return CacheEntry(
        window.name,
        window.item.name,
        path.name,
        texts[caption],
        caption,
        window.num_frames,
        window.height,
        window.width,
        window.frame_rate,
        window.has_sound,
        window.item.kept,
    )


def encode_texts(
    cache: Path,
    folder: Path,
    prompts: list[str],
    device: torch.device,
    dtype: torch.dtype,
    report: Report,
) -> dict[str, str]:
    """Embeddings of `prompts` in the cache: file names by prompt. The text encoder is freed at the end."""
    encoder = encoder_print(folder / "text_encoder") + encoder_print(folder / "tokenizer")
    files, missing = {}, {}
    for prompt in dict.fromkeys(prompts):
        identity = {"format": FORMAT, "text": clean_prompt(prompt), "encoder": encoder, "dtype": str(dtype)}
        path = cache / f"text-{fingerprint(identity)}.safetensors"
        files[prompt] = path.name
        if not is_whole(path):
            missing[prompt] = path, identity
    if missing:
        encoders = Encoders(folder, ("text_encoder", "tokenizer"), device, dtype)
        for done, (prompt, (path, identity)) in enumerate(missing.items()):
            report("captions", done, len(missing))
            if cut := encoders.truncated_text(prompt):
                raise UserError(
                    f"a caption has over {MAX_PROMPT_TOKENS} tokens; shorten it before {cut[:60]!r}"
                )
            embedding = encoders.encode_prompt(prompt)[0]
            length = int(embedding.abs().sum(dim=1).nonzero().max()) + 1
            write_tensors(path, {"text": embedding[:length].clone()}, identity)
    return files


def encode_window(window: Window, encoders: Encoders, config: Config) -> dict[str, Tensor]:
    """The tensors of one window, on the CPU, float32."""
    frames = read_frames(window.item, window.times, window.height, window.width)
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1  # [1, 3, F, H, W]
    shape = clip_shape(window, encoders)
    if window.has_sound:
        wave = read_sound(window.item, window.start, shape.num_samples, shape.sample_rate)
        if (loudness := loudness_of(window.item, config.data)) is not None:
            wave = to_loudness(wave, shape.sample_rate, loudness)
        waveform = torch.from_numpy(wave)[None, None].clamp(-1, 1)
    else:
        waveform = torch.zeros(1, 1, shape.num_samples)
    tensors = {
        "video_latents": encoders.encode_video(pixels),
        "condition": encoders.encode_first_frame(pixels[:, :, 0], window.num_frames),
        "audio_latents": encoders.encode_audio(waveform),
    }
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{window.name}: {name} came out as NaN; try run.dtype float32")
    return {name: tensor[0].cpu().contiguous() for name, tensor in tensors.items()}


def clip_shape(window: Window, encoders: EncoderMixin) -> ClipShape:
    return encoders.clip_shape(window.height, window.width, window.num_frames, window.frame_rate)


def window_identity(
    window: Window, config: Config, prints: dict[str, str], dtype: torch.dtype, digests: dict[Path, str]
) -> dict[str, Any]:
    for path in (window.item.video, window.item.audio):
        if path is not None and path not in digests:
            digests[path] = sha256_of(path)
    return {
        "format": FORMAT,
        "clip": digests[window.item.video],
        "sound": digests[window.item.audio] if window.item.audio else window.has_sound,
        "start": round(window.start, 6),
        "size": [window.num_frames, window.height, window.width, window.frame_rate],
        "loudness": loudness_of(window.item, config.data),
        "dtype": str(dtype),
        **prints,
    }


def encoder_print(folder: Path) -> str:
    """A fingerprint of a component: its small files, and of large ones the size, head and tail."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors", ".model"):
            with path.open("rb") as file:
                size = path.stat().st_size
                digest.update(f"{path.name} {size}".encode() + file.read(2**21))
                file.seek(max(0, size - 2**21))
                digest.update(file.read())
    return digest.hexdigest()[:32]


def slug(item: DatasetItem) -> str:
    stem = "".join(c if c.isascii() and c.isalnum() else "_" for c in Path(item.name).stem)
    return stem[:40] or "clip"

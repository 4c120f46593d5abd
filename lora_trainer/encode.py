"""Clips and captions encoded once, so that encoders never share memory with training.

What is in the cache and whole is kept, so an interrupted run goes on where it stopped. A fingerprint covers
the clip's bytes, the span, the settings and the encoder: what changes any of them is encoded anew.
"""

import hashlib
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lora_trainer.cache import FORMAT, Cache, Entry, fingerprint, is_whole, write_index, write_tensors
from lora_trainer.config import Config, Data
from lora_trainer.keep import Report, clips_of, make_kept
from lora_trainer.manifest import Item
from lora_trainer.reading import probe, read_frames, read_sound
from lora_trainer.sound import to_loudness
from lora_trainer.windows import Window, windows_of
from mova.catalog import find_model
from mova.codec import CodecMixin
from mova.layout import COMPONENTS
from mova.loading import load_components, resolve
from mova.models.video_vae import to_channels_last
from mova.offload import Residency
from mova.prompting.cleaning import clean_prompt
from mova.shapes import MAX_PROMPT_TOKENS, ClipShape
from mova.types import UserError


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
        raise UserError(listed(f"{len(problems)} of {len(windows)} windows cannot be encoded", problems))
    cache = Cache(config.cache, tuple(entries), texts)
    write_index(cache)
    return cache


def plan_windows(config: Config, items: list[Item] | None = None) -> list[Window]:
    """Every window of the data set, or of `items`.

    Raises:
        UserError: names each clip that cannot be used, and why.
    """
    model, windows, problems = find_model(config.model), [], []
    for item in clips_of(config) if items is None else items:
        try:
            windows += windows_of(item, probe(item), config.data, model)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(listed(f"{len(problems)} clips cannot be used", problems))
    return windows


def caption_of(item: Item, data: Data) -> str:
    """What the model is told: of a clip to learn, after the person's trigger, if there is one."""
    return item.caption if item.kept else f"{data.caption_prefix}{item.caption}"


def loudness_of(item: Item, data: Data) -> float | None:
    """What the sound is brought to; what is kept is kept as loud as it is."""
    return None if item.kept else data.loudness


def checkpoint_folder(config: Config) -> Path:
    """The folder of the configured model, downloaded where it is a repo."""
    names = ["model_index.json", *(f"{name}/*" for name in COMPONENTS)]
    return resolve(find_model(config.model).source, names)


class Encoders(CodecMixin):
    """Some of a checkpoint's encoders on a device."""

    def __init__(self, folder: Path, names: Iterable[str], device: torch.device, dtype: torch.dtype) -> None:
        parts = load_components(folder, names, dtype)
        for name, part in parts.items():
            setattr(self, name, part.to(device) if isinstance(part, torch.nn.Module) else part)
        if "video_vae" in parts:
            to_channels_last(self.video_vae)
        self.residency = OnDevice(device)


class OnDevice(Residency):
    """Everything is on one device already."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @property
    def device(self) -> torch.device:
        return self._device

    def use(self, name: str) -> AbstractContextManager[None]:  # noqa: ARG002
        return nullcontext()


def listed(what: str, problems: list[str]) -> str:
    return f"{what}:" + "".join(f"\n- {problem}" for problem in problems)


def entry_of(window: Window, path: Path, caption: str, texts: dict[str, str]) -> Entry:
    return Entry(
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


def clip_shape(window: Window, encoders: CodecMixin) -> ClipShape:
    return encoders.clip_shape(window.height, window.width, window.num_frames, window.frame_rate)


def window_identity(
    window: Window, config: Config, prints: dict[str, str], dtype: torch.dtype, digests: dict[Path, str]
) -> dict[str, Any]:
    for path in (window.item.video, window.item.audio):
        if path is not None and path not in digests:
            digests[path] = file_digest(path)
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


def file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); was it moved or deleted?") from error


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


def slug(item: Item) -> str:
    stem = "".join(c if c.isascii() and c.isalnum() else "_" for c in Path(item.name).stem)
    return stem[:40] or "clip"

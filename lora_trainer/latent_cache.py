"""Clips and captions as the encoders turn them into latents and embeddings: files that training reads.

One safetensors file for each window and each caption, named after a fingerprint of everything that decided
its content. A digest in its header shows damage. Files are written whole or not at all. The files may be
shared by many runs; the index of a run's windows is its own, in its output folder.
"""

import hashlib
import json
import logging
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lora_trainer.config import Config, Data, RunConfig
from lora_trainer.decode import read_frames, read_sound, reader_of
from lora_trainer.journal import INDEX, Report
from lora_trainer.manifest import DatasetItem
from lora_trainer.measurements import to_loudness
from lora_trainer.output_lock import remove_part_files
from lora_trainer.regularization import generate_regularization
from lora_trainer.windows import Window, bullet_list, caption_of, clips_of, plan_windows
from mova.catalog import find_model
from mova.checkpoint import COMPONENTS, load_components, resolve
from mova.encoders import EncoderMixin
from mova.errors import BackendError, UserError
from mova.files import is_sidecar, new_output, sha256_of
from mova.models.video_vae import to_channels_last
from mova.offload import Offloader
from mova.shapes import MAX_PROMPT_TOKENS
from mova.text import clean_prompt

logger = logging.getLogger(__name__)

FORMAT = 1
PART_AGE = 3600.0  # seconds after which a part file in a shared cache has no writer any more


@dataclass(frozen=True)
class Cache:
    """The windows of a run, and the texts by prompt (samples' and the empty one included), in `folder`."""

    folder: Path
    windows: tuple[Window, ...]
    texts: dict[str, str]

    def latents(self, window: Window) -> dict[str, Tensor]:
        """`video_latents` [16, T, h, w], `condition` [20, T, h, w] and `audio_latents` [C, L], float32."""
        return read_tensors(self.folder / window.file)

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


def build_cache(
    config: Config,
    device: torch.device,
    dtype: torch.dtype,
    report: Report = lambda *_: None,
    windows: list[Window] | None = None,
) -> Cache:
    """Generate missing clips for regularization, encode what the cache lacks, and write the run's index.

    `windows` are those of the data set where they are planned already.

    Raises:
        UserError: clips that cannot be used or decoded, each with its name. What could be encoded is kept.
        UserError, BackendError: as `generate_regularization`.
    """
    windows = plan_windows(config) if windows is None else windows  # first: it needs no download
    if config.data.regularization_count and generate_regularization(config, report):
        windows = plan_windows(config)
    cache = encode_windows(config, windows, device, dtype, report)
    write_index(cache, config.index)
    return cache


def resume_cache(
    config: Config,
    windows: tuple[Window, ...],
    device: torch.device,
    dtype: torch.dtype,
    report: Report = lambda *_: None,
) -> Cache:
    """The cache of a run that resumes with `windows`, the ones it began with.

    They stay usable when the clips move away. Texts of new samples are encoded.

    Raises:
        UserError: the clips or captions are not those it began with. Otherwise as `build_cache`.
    """
    check_clips(config, windows)
    try:
        cache = read_index(config)
    except UserError:  # of a machine that the run has left
        return build_cache(config, device, dtype, report)
    if cache.windows != windows or not all(is_whole(cache.folder / window.file) for window in windows):
        return build_cache(config, device, dtype, report)
    texts = encode_texts(config, config.texts, device, dtype, report)
    cache = replace(cache, texts=cache.texts | texts)
    write_index(cache, config.index)
    return cache


def check_clips(config: Config, windows: tuple[Window, ...]) -> None:
    """Raise UserError if the data set has other clips or captions than `windows`; it may be gone."""
    try:
        items = clips_of(config)
    except (UserError, BackendError) as error:
        logger.warning("the clips cannot be read again; the run resumes with what is encoded (%s)", error)
        return
    # Clips that the run generates are there again before it needs them.
    generated = config.data.regularization_count > 0
    then = {(w.clip, w.caption) for w in windows if not (generated and w.is_regularization)}
    now = {
        (item.name, caption_of(item, config.data))
        for item in items
        if not (generated and item.is_regularization)
    }
    if changed := sorted({clip for clip, _ in then ^ now}):
        raise UserError(
            f"the clips or captions have changed since the run began ({', '.join(changed[:5])}); put them "
            "back, or start another run with another output"
        )


def encode_windows(
    config: Config, windows: list[Window], device: torch.device, dtype: torch.dtype, report: Report
) -> Cache:
    """The cache with `windows`, and with what it lacked of them."""
    remove_part_files(config.cache, PART_AGE)
    folder = checkpoint_folder(config)
    texts = encode_texts(config, [*(w.caption for w in windows), *config.texts], device, dtype, report)
    encoded, problems = [], []
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
        encoded.append(replace(window, file=path.name, text=texts[window.caption]))
    report("clips", len(windows), len(windows))
    if problems:
        raise UserError(bullet_list(f"{len(problems)} of {len(windows)} windows cannot be encoded", problems))
    return Cache(config.cache, tuple(encoded), texts)


def encode_texts(
    config: Config, prompts: list[str], device: torch.device, dtype: torch.dtype, report: Report
) -> dict[str, str]:
    """Embeddings of `prompts` in the cache: file names by prompt. The text encoder is freed at the end.

    Raises:
        UserError: a prompt is too long; nothing is encoded then.
    """
    folder = checkpoint_folder(config)
    encoder = encoder_print(folder / "text_encoder") + encoder_print(folder / "tokenizer")
    files, missing = {}, {}
    for prompt in dict.fromkeys(prompts):
        identity = {"format": FORMAT, "text": clean_prompt(prompt), "encoder": encoder, "dtype": str(dtype)}
        path = config.cache / f"text-{fingerprint(identity)}.safetensors"
        files[prompt] = path.name
        if not is_whole(path):
            missing[prompt] = path, identity
    if not missing:
        return files
    tokenizer = Encoders(folder, ("tokenizer",), device, dtype)
    for prompt in missing:
        if cut := tokenizer.truncated_text(prompt):
            raise UserError(f"a caption has over {MAX_PROMPT_TOKENS} tokens; shorten it before {cut[:60]!r}")
    encoders = Encoders(folder, ("text_encoder", "tokenizer"), device, dtype)
    for done, (prompt, (path, identity)) in enumerate(missing.items()):
        report("captions", done, len(missing))
        embedding = encoders.encode_prompt(prompt)[0]
        length = int(embedding.abs().sum(dim=1).nonzero().max()) + 1
        write_tensors(path, {"text": embedding[:length].clone()}, identity)
    return files


def encode_window(window: Window, encoders: "Encoders", config: Config) -> dict[str, Tensor]:
    """The tensors of one window, on the CPU, float32."""
    frames = read_frames(window.item, window.times, window.height, window.width)
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1  # [1, 3, F, H, W]
    shape = encoders.clip_shape(window.height, window.width, window.num_frames, window.frame_rate)
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
    """Components that are on one device already."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @property
    def device(self) -> torch.device:
        return self._device

    def use(self, name: str) -> AbstractContextManager[None]:  # noqa: ARG002
        return nullcontext()


def checkpoint_folder(config: RunConfig) -> Path:
    """The folder of the configured model, downloaded where it is a repo."""
    names = ["model_index.json", *(f"{name}/*" for name in COMPONENTS)]
    return resolve(find_model(config.model).source, names)


def window_identity(
    window: Window, config: Config, prints: dict[str, str], dtype: torch.dtype, digests: dict[Path, str]
) -> dict[str, Any]:
    """Everything that decides a window's latents; `digests` remembers those of the files."""
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
        **reader_of(window.item),
        **prints,
    }


def loudness_of(item: DatasetItem, data: Data) -> float | None:
    """The loudness that the sound is brought to; clips for regularization stay as loud as they are."""
    return None if item.is_regularization else data.loudness


def encoder_print(folder: Path) -> str:
    """A fingerprint of a component: its small files, and of large ones the size, head and tail."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors", ".model") and not is_sidecar(path.name):
            with path.open("rb") as file:
                size = path.stat().st_size
                digest.update(f"{path.name} {size}".encode() + file.read(2**21))
                file.seek(max(0, size - 2**21))
                digest.update(file.read())
    return digest.hexdigest()[:32]


def fingerprint(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


def slug(item: DatasetItem) -> str:
    stem = "".join(c if c.isascii() and c.isalnum() else "_" for c in Path(item.name).stem)
    return stem[:40] or "clip"


def write_tensors(path: Path, tensors: dict[str, Tensor], identity: dict[str, Any]) -> None:
    tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
    metadata = {"identity": json.dumps(identity, sort_keys=True), "digest": tensors_digest(tensors)}
    with new_output(path, overwrite=True) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a cached file. Raises UserError where it is missing or damaged."""
    again = "run `python -m lora_trainer cache` again to encode what is missing"
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
    """True if a cached file is there and undamaged."""
    if not path.is_file():
        return False
    try:
        read_tensors(path)
    except UserError:
        logger.warning("%s is damaged and is encoded again", path.name)
        return False
    return True


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def write_index(cache: Cache, path: Path) -> None:
    content = {
        "format": FORMAT,
        "texts": cache.texts,
        "entries": [window.record() for window in cache.windows],
    }
    with new_output(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")


def read_index(config: Config) -> Cache:
    """The cache of a run. Raises UserError where nothing is encoded for it."""
    # Runs of earlier versions with a cache elsewhere have their index there.
    path = config.index if config.index.exists() else config.cache / INDEX
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        windows = tuple(Window.from_record(record) for record in content["entries"])
        return Cache(config.cache, windows, dict(content["texts"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{config.output} holds no cache ({error}); run `python -m lora_trainer cache`"
        ) from error

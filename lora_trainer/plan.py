"""What a run will take before it starts: memory, disk, time.

Counted from configs and the headers of clips: neither weights nor a GPU are needed.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from lora_trainer import plan_memory, plan_time
from lora_trainer.config import PASSING, Config
from lora_trainer.plan_inputs import Card, Outline
from lora_trainer.plan_memory import Sizes
from lora_trainer.presets import EXPERTS
from lora_trainer.validation import BINS, MAX_WINDOWS
from mova.catalog import find_model, forward_flops
from mova.guidance import branches
from mova.placement import DTYPES, RAM_SHARE, VRAM_SHARE
from mova.shapes import MAX_PROMPT_TOKENS, ClipShape

TEXT_FLOPS = 2 * MAX_PROMPT_TOKENS  # for each parameter of the text encoder and prompt


@dataclass(frozen=True)
class Plan:
    """Bytes at the peak by part, and seconds by what takes them."""

    card: Card
    largest: ClipShape
    windows: int
    device: Sizes
    host: Sizes
    disk: Sizes
    step_seconds: float
    seconds: dict[str, float]
    petaflops: float  # of one optimizer step
    steps: int

    @property
    def hours(self) -> float:
        return sum(self.seconds.values()) / 3600

    @property
    def fits(self) -> bool:
        device, host = sum(self.device.values()), sum(self.host.values())
        if not self.card.is_gpu:
            return device + host <= self.card.vram * RAM_SHARE
        enough = self.card.ram is None or host <= self.card.ram * RAM_SHARE
        return enough and device <= self.card.vram * VRAM_SHARE


def figures(config: Config, card: Card, known: Outline) -> Plan:
    windows = lengths_allowed(config, known.windows)
    largest = max(windows, key=lambda shape: shape.video_tokens)
    step, operations = step_seconds(config, card, known, windows)
    seconds = {
        "keeping": keeping_seconds(config, card, known, largest),
        "encoding": 0.0
        if known.cached and windows == known.windows
        else encoding_seconds(card, known, windows),
        "training": step * config.run.steps,
        "validation": validation_seconds(config, card, known, windows),
        "samples": sample_seconds(config, card, known, largest),
    }
    lora = plan_memory.lora_parameters(known.towers, config)
    return Plan(
        card,
        largest,
        sum(windows.values()),
        plan_memory.device_memory(known.towers, largest, config, card.dtype, card.processes),
        plan_memory.host_memory(known.towers, config, card.dtype, card.is_gpu),
        {
            "cache": cache_bytes(card, known, windows),
            **plan_memory.disk_space(lora, config, card.dtype),
            **({"model": known.download} if known.download else {}),
        },
        step,
        {what: spent for what, spent in seconds.items() if spent},
        operations / 1e15,
        config.run.steps,
    )


def lengths_allowed(config: Config, windows: Mapping[ClipShape, int]) -> dict[ClipShape, int]:
    """The windows at the config's lengths: longer ones are cut into as many as fit."""
    allowed = config.data.num_frames
    if allowed is None:
        return dict(windows)
    cut: Counter[ClipShape] = Counter()
    for shape, count in windows.items():
        length = next((frames for frames in allowed if frames <= shape.num_frames), shape.num_frames)
        short = ClipShape(
            shape.height, shape.width, length, shape.frame_rate, shape.sample_rate, shape.hop_length
        )
        cut[short] += count * (shape.num_frames // length)
    return dict(cut)


def step_seconds(
    config: Config, card: Card, known: Outline, windows: Mapping[ClipShape, int]
) -> tuple[float, float]:
    """(seconds, operations) of the mean optimizer step, over windows and experts; weights arrive in time."""
    run, share = config.run, high_share(config, known)
    seconds = operations = 0.0
    for expert, weight in zip(EXPERTS, (share, 1 - share), strict=True):
        for shape, count in windows.items():
            part = weight * count / sum(windows.values())
            one = plan_time.training_pass(known.configs, shape, config, expert)
            seconds += part * max(one.seconds(card.tflops), streaming_seconds(config, card, known))
            operations += part * one.total
    seconds, operations = seconds * run.accumulation, operations * run.accumulation
    if run.offload == "experts" and card.is_gpu:
        switches = plan_time.expert_switches(run.steps, share, config.objective.hold_steps)
        size = plan_memory.frozen_bytes(known.towers, EXPERTS[0], config, DTYPES[card.dtype].itemsize)
        seconds += switches / run.steps * size / (card.link * 1e9)
    return seconds, operations


def high_share(config: Config, known: Outline) -> float:
    share = config.objective.high_share
    return known.high_share if share == "natural" else float(share)


def streaming_seconds(config: Config, card: Card, known: Outline) -> float:
    """Seconds in which all layers come to the device, for the forward and again for the backward pass.

    Between cards the link to the host is counted, which is the slowest way; NVLink is several times as fast.
    """
    if config.run.offload not in PASSING or not card.is_gpu:
        return 0.0
    width, parts = DTYPES[card.dtype].itemsize, ("shared", EXPERTS[0])
    layers = sum(sum(plan_memory.layer_sizes(known.towers, part, config, width)) for part in parts)
    from_others = 1 - 1 / card.processes if config.run.offload == "shards" else 1
    return 2 * layers * from_others / (card.link * 1e9)


def mean_forward_seconds(card: Card, known: Outline, windows: Mapping[ClipShape, int]) -> float:
    towers = [known.configs[name] for name in (EXPERTS[0], "audio_dit", "dual_tower_bridge")]
    flops = sum(count * forward_flops(*towers, shape) for shape, count in windows.items())
    return flops / sum(windows.values()) / (card.tflops * 1e12)


def encoding_seconds(card: Card, known: Outline, windows: Mapping[ClipShape, int]) -> float:
    """The picture twice, as latents and as first-frame condition, and the texts; sound is little beside."""
    picture = 2 * sum(count * codec_seconds(card, known, shape) for shape, count in windows.items())
    return picture + known.texts * TEXT_FLOPS * known.text_parameters / (card.tflops * 1e12)


def codec_seconds(
    card: Card, known: Outline, shape: ClipShape, flops: float = plan_time.ENCODE_FLOPS
) -> float:
    vae = known.configs["video_vae"]
    width = vae.get("base_dim", plan_time.CODEC_DIM) / (vae.get("patch_size") or 1) / plan_time.CODEC_DIM
    pixels = shape.num_frames * shape.height * shape.width
    rate = plan_time.CODEC_RATE if card.is_gpu else plan_time.CODEC_RATE_CPU
    return pixels * flops * width**2 / (card.tflops * 1e12 * rate)


def validation_seconds(config: Config, card: Card, known: Outline, windows: Mapping[ClipShape, int]) -> float:
    """Fixed-noise losses of held-out, training and kept windows: of the base, on the way, and at the end."""
    count = sum(windows.values()) - known.kept_windows
    held = round(count * config.data.held_out / max(1, known.clips))
    measured = sum(min(MAX_WINDOWS, part) for part in (held, count - held, known.kept_windows))
    forwards = measured * sum(BINS.values())
    one = forwards * mean_forward_seconds(card, known, windows)
    return times(config.run.steps, config.run.validate_every) * one


def sample_seconds(config: Config, card: Card, known: Outline, largest: ClipShape) -> float:
    samples = config.samples
    if not samples.clips:
        return 0.0
    forwards = samples.num_inference_steps * len(branches(samples.guidance_scale, 1.0))
    count = times(config.run.steps, samples.every) * len(samples.clips)
    return count * clip_seconds(card, known, largest, forwards)


def keeping_seconds(config: Config, card: Card, known: Outline, largest: ClipShape) -> float:
    """Of the clips to keep that the run makes first."""
    model = find_model(config.model)
    branch_count = len(branches(model.guidance_scale, model.bridge_guidance_scale))
    forwards = model.preset().num_inference_steps * branch_count
    return known.unmade * clip_seconds(card, known, largest, forwards)


def clip_seconds(card: Card, known: Outline, shape: ClipShape, forwards: int) -> float:
    """To make a clip: denoising and decoding."""
    denoising = forwards * mean_forward_seconds(card, known, {shape: 1})
    return denoising + codec_seconds(card, known, shape, plan_time.DECODE_FLOPS)


def times(steps: int, every: int) -> int:
    """How often something happens that is done before the first step, at intervals, and after the last."""
    return 2 + ((steps - 1) // every if every else 0)


def cache_bytes(card: Card, known: Outline, windows: Mapping[ClipShape, int]) -> int:
    channels = known.configs[EXPERTS[0]]["out_dim"], known.configs["audio_dit"]["out_dim"]
    size = sum(count * plan_memory.window_bytes(shape, *channels) for shape, count in windows.items())
    width = known.configs[EXPERTS[0]]["text_dim"] * DTYPES[card.dtype].itemsize
    return size + known.text_tokens * width + known.texts * plan_memory.HEADER

"""Memory, disk and time of a run, before it starts: the estimate, advice that makes it fit, reports.

Counted from configs and the headers of clips: neither weights nor a GPU are needed.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from lora_trainer.config import EXPERTS, PASSING, Config, RunConfig, merge, nested
from lora_trainer.plan import memory
from lora_trainer.plan.flops import (
    CODEC_DIM,
    CODEC_RATE,
    CODEC_RATE_CPU,
    DECODE_FLOPS,
    ENCODE_FLOPS,
    expert_switches,
    training_pass,
)
from lora_trainer.plan.inputs import Card, PlanInputs
from lora_trainer.plan.memory import PROCESS, Sizes
from lora_trainer.quantised import BASES
from lora_trainer.validation import BINS, MAX_WINDOWS, held_in_measurements
from mova.catalog import STANDARD, find_model
from mova.guidance import Guidance
from mova.machine import DTYPES, GIB, RELEASED_SHIFT, forward_flops, human_bytes, human_seconds
from mova.placement import RAM_SHARE, VRAM_SHARE
from mova.request import GenerationRequest
from mova.shapes import MAX_PROMPT_TOKENS, ClipShape

SHORTER = (145, 97, 73, 49, 25)  # frames
WORTH = 0.97  # of the time; changes that save less are not proposed
TEXT_FLOPS = 2 * MAX_PROMPT_TOKENS  # for each parameter of the text encoder and prompt

Change = dict[str, object]  # settings by their names


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


@dataclass(frozen=True)
class Measured:
    """Medians of `steps` steps. Peaks in bytes: what torch handed out on a GPU, else the process's growth."""

    steps: int
    seconds: float
    predicted_seconds: float
    peak: int
    predicted_peak: int


def estimate_run(config: Config, card: Card, inputs: PlanInputs) -> Plan:
    """The plan of a run of `config` on `card`."""
    windows = lengths_allowed(config, inputs.windows)
    largest = max(windows, key=lambda shape: shape.video_tokens)
    step, operations = step_seconds(config, card, inputs, windows)
    seconds = {
        "regularization": regularization_seconds(config, card, inputs, largest),
        "encoding": 0.0
        if inputs.cached and windows == inputs.windows
        else encoding_seconds(card, inputs, windows),
        "training": step * config.run.steps,
        "validation": validation_seconds(config, card, inputs, windows),
        "samples": sample_seconds(config, card, inputs, largest),
    }
    lora = memory.lora_parameters(inputs.towers, config)
    return Plan(
        card=card,
        largest=largest,
        windows=sum(windows.values()),
        device=memory.device_memory(inputs.towers, largest, config, card.dtype, card.processes),
        host=memory.host_memory(inputs.towers, config, card.dtype, card.is_gpu),
        disk={
            "cache": cache_bytes(card, inputs, windows),
            **memory.disk_space(lora, config, card.dtype),
            **({"model": inputs.download} if inputs.download else {}),
        },
        step_seconds=step,
        seconds={what: spent for what, spent in seconds.items() if spent},
        petaflops=operations / 1e15,
        steps=config.run.steps,
    )


def lengths_allowed(config: Config, windows: Mapping[ClipShape, int]) -> dict[ClipShape, int]:
    """The windows at the config's lengths: longer ones are cut into as many as fit."""
    allowed = config.data.num_frames
    if allowed is None:
        return dict(windows)
    cut: Counter[ClipShape] = Counter()
    for shape, count in windows.items():
        length = next((frames for frames in allowed if frames <= shape.num_frames), shape.num_frames)
        cut[replace(shape, num_frames=length)] += count * (shape.num_frames // length)
    return dict(cut)


def step_seconds(
    config: Config, card: Card, inputs: PlanInputs, windows: Mapping[ClipShape, int]
) -> tuple[float, float]:
    """(seconds, operations) of the mean optimizer step, over windows and experts; weights arrive in time."""
    run, share = config.run, config.objective.high_noise_share(inputs.high_share)
    seconds = operations = 0.0
    for expert, weight in zip(EXPERTS, (share, 1 - share), strict=True):
        for shape, count in windows.items():
            part = weight * count / sum(windows.values())
            one = training_pass(inputs.configs, shape, config, expert)
            seconds += part * max(one.seconds(card.tflops), streaming_seconds(config, card, inputs))
            operations += part * one.total
    seconds, operations = seconds * run.accumulation, operations * run.accumulation
    if run.offload == "experts" and card.is_gpu:
        switches = expert_switches(run.steps, share, config.objective.hold_steps)
        size = memory.frozen_bytes(inputs.towers, EXPERTS[0], config, DTYPES[card.dtype])
        seconds += switches / run.steps * size / (card.link * 1e9)
    return seconds, operations


def streaming_seconds(config: RunConfig, card: Card, inputs: PlanInputs) -> float:
    """Seconds in which all layers come to the device, for the forward and again for the backward pass.

    Between cards the link to the host is counted, which is the slowest way; NVLink is several times as fast.
    """
    if config.run.offload not in PASSING or not card.is_gpu:
        return 0.0
    width, parts = DTYPES[card.dtype], ("shared", EXPERTS[0])
    layers = sum(sum(memory.layer_sizes(inputs.towers, part, config, width)) for part in parts)
    from_others = 1 - 1 / card.processes if config.run.offload == "shards" else 1
    return 2 * layers * from_others / (card.link * 1e9)


def mean_forward_seconds(card: Card, inputs: PlanInputs, windows: Mapping[ClipShape, int]) -> float:
    towers = [inputs.configs[name] for name in (EXPERTS[0], "audio_dit", "dual_tower_bridge")]
    flops = sum(count * forward_flops(*towers, shape) for shape, count in windows.items())
    return flops / sum(windows.values()) / (card.tflops * 1e12)


def encoding_seconds(card: Card, inputs: PlanInputs, windows: Mapping[ClipShape, int]) -> float:
    """The picture twice, as latents and as first-frame condition, and the texts; sound takes little."""
    picture = 2 * sum(count * codec_seconds(card, inputs, shape) for shape, count in windows.items())
    return picture + inputs.texts * TEXT_FLOPS * inputs.text_parameters / (card.tflops * 1e12)


def codec_seconds(card: Card, inputs: PlanInputs, shape: ClipShape, flops: float = ENCODE_FLOPS) -> float:
    vae = inputs.configs["video_vae"]
    width = vae.get("base_dim", CODEC_DIM) / (vae.get("patch_size") or 1) / CODEC_DIM
    pixels = shape.num_frames * shape.height * shape.width
    rate = CODEC_RATE if card.is_gpu else CODEC_RATE_CPU
    return pixels * flops * width**2 / (card.tflops * 1e12 * rate)


def validation_seconds(
    config: Config, card: Card, inputs: PlanInputs, windows: Mapping[ClipShape, int]
) -> float:
    """Seconds of fixed-noise losses of all kinds of windows: of the base, on the way, and at the end."""
    count = sum(windows.values()) - inputs.regularization_windows
    held = round(count * config.data.held_out / max(1, inputs.clips))
    measured = sum(min(MAX_WINDOWS, part) for part in (held, count - held, inputs.regularization_windows))
    forwards = measured * sum(BINS.values()) * len(held_in_measurements(config.objective))
    one = forwards * mean_forward_seconds(card, inputs, windows)
    return times(config.run.steps, config.run.validate_every) * one


def sample_seconds(config: Config, card: Card, inputs: PlanInputs, largest: ClipShape) -> float:
    samples = config.samples
    if not samples.clips:
        return 0.0
    forwards = samples.num_inference_steps * len(Guidance(samples.guidance_scale).branches(1.0))
    count = times(config.run.steps, samples.every) * len(samples.clips)
    return count * clip_seconds(card, inputs, largest, forwards)


def regularization_seconds(config: Config, card: Card, inputs: PlanInputs, largest: ClipShape) -> float:
    """Seconds to generate the clips for regularization that are not there yet."""
    model = find_model(config.model)
    request = GenerationRequest("", **model.defaults(model.preset(STANDARD)))
    forwards = request.total_forwards(RELEASED_SHIFT)
    return inputs.ungenerated * clip_seconds(card, inputs, largest, forwards)


def clip_seconds(card: Card, inputs: PlanInputs, shape: ClipShape, forwards: int) -> float:
    """Seconds to generate a clip: denoising and decoding."""
    denoising = forwards * mean_forward_seconds(card, inputs, {shape: 1})
    return denoising + codec_seconds(card, inputs, shape, DECODE_FLOPS)


def times(steps: int, every: int) -> int:
    """Number of times that something is done before the first step, at intervals, and after the last."""
    return 2 + ((steps - 1) // every if every else 0)


def cache_bytes(card: Card, inputs: PlanInputs, windows: Mapping[ClipShape, int]) -> int:
    channels = inputs.configs[EXPERTS[0]]["out_dim"], inputs.configs["audio_dit"]["out_dim"]
    size = sum(count * memory.window_bytes(shape, *channels) for shape, count in windows.items())
    width = inputs.configs[EXPERTS[0]]["text_dim"] * DTYPES[card.dtype]
    return size + inputs.text_tokens * width + inputs.texts * memory.HEADER


def advise(config: Config, card: Card, inputs: PlanInputs, plan: Plan) -> list[str]:
    """Changes that make it fit, the cheapest first; if it fits, one that fits too and is faster."""
    if plan.fits:
        faster = ({"run.offload": "none"}, {"run.offload": "experts"}, {"run.gradient_checkpointing": False})
        found = fitting(config, card, inputs, faster)
        return [
            describe_change(*each, plan) for each in found if each[1].step_seconds < WORTH * plan.step_seconds
        ][:1]
    streamed = {"run.offload": "layers", "run.gradient_checkpointing": True}
    if config.run.base == "fp8":
        streamed["run.base"] = "plain"
    smaller = [{"run.base": base} for base in BASES]
    single = [{"run.gradient_checkpointing": True}, {"run.offload": "experts"}, {"run.batch_size": 1}]
    single += [{"run.offload": "shards"}] if card.processes > 1 else []
    single += [*smaller, streamed]
    if config.run.offload == "layers":
        single = [{"run.batch_size": 1}, *smaller]
    least = streamed | {"run.batch_size": 1}
    shorter = [{"data.num_frames": (count,)} for count in SHORTER if count < plan.largest.num_frames]
    found = [*fitting(config, card, inputs, single), *list(fitting(config, card, inputs, shorter))[:1]]
    if not found:
        both = [least | base | each for base in ({}, smaller[-1]) for each in ({}, *shorter)]
        found = list(fitting(config, card, inputs, both))[:1]
    if found:
        return [describe_change(*each, plan) for each in found]
    last = estimate_run(changed(config, least | smaller[-1] | (shorter[-1] if shorter else {})), card, inputs)
    return [
        f"Nothing fits: even with layers in 4 bits, streamed, and {last.largest.num_frames} frames it takes "
        f"{gib(last.device)} on the device and {gib(last.host)} of host memory; choose a smaller "
        "data.size, lower ranks, or another GPU."
    ]


def fitting(
    config: Config, card: Card, inputs: PlanInputs, changes: "list[Change] | tuple[Change, ...]"
) -> Iterator[tuple[Change, Plan]]:
    """Those of `changes` that change anything and fit, each reduced to what it changes, with its plan."""
    flat = {f"run.{key}": value for key, value in config.run.model_dump().items()}
    flat["data.num_frames"] = config.data.num_frames
    for change in changes:
        real = {key: value for key, value in change.items() if flat[key] != value}
        if real and allowed(flat | real) and (then := estimate_run(changed(config, real), card, inputs)).fits:
            yield real, then


def allowed(flat: Change) -> bool:
    """True if the config takes these settings together."""
    streams = flat["run.gradient_checkpointing"] and flat["run.base"] != "fp8"
    return flat["run.offload"] not in PASSING or bool(streams)


def changed(config: Config, change: Change) -> Config:
    return Config.model_validate(merge(config.model_dump(), nested(change)))


def describe_change(change: Change, then: Plan, now: Plan) -> str:
    settings = ", ".join(f"{key} = {written(value)}" for key, value in change.items())
    memory = f"{gib(then.device)} on the device"
    if sum(then.host.values()) > PROCESS:
        memory += f", {gib(then.host)} of host memory"
    pace = then.step_seconds / now.step_seconds
    if pace < WORTH:
        memory += f", steps take {pace:.0%} of the time"
    elif pace > 1 / WORTH:
        memory += f", steps take {pace - 1:.0%} longer"
    return f"Set {settings}: {memory}."


def written(value: object) -> str:
    """A value as it is written in a config."""
    if isinstance(value, str):
        return f'"{value}"'
    return str(list(value) if isinstance(value, tuple) else value).lower()


def gib(sizes: Sizes) -> str:
    return f"{sum(sizes.values()) / GIB:.1f} GiB"


def text_report(plan: Plan, advice: list[str], price: float | None, measured: Measured | None) -> str:
    shape, card = plan.largest, plan.card
    where = f"{card.processes} x {card.name}" if card.processes > 1 else card.name
    lines = [
        f"{plan.windows} windows, the largest {shape.width}x{shape.height} x {shape.num_frames} frames; "
        f"{plan.steps} steps on {where}, {card.dtype}",
        "",
        *table(f"memory of {card.name} at the peak, {human_bytes(card.vram)} free", plan.device),
        *table("host memory" + (f", {human_bytes(card.ram)} free" if card.ram else ""), plan.host),
        *table("disk", plan.disk),
        *time_table(plan),
    ]
    if price is not None:
        lines.append(f"{'money':32} {plan.hours * price:10.2f} at {price:g} an hour")
    lines += ["", "It fits." if plan.fits else "It does not fit.", *advice]
    if measured:
        lines += ["", *comparison(plan, measured, price)]
    return "\n".join(lines) + "\n"


def table(title: str, sizes: dict[str, int]) -> list[str]:
    rows = [*sizes.items(), ("all", sum(sizes.values()))]
    return [title, *(f"  {name:30} {human_bytes(size):>12}" for name, size in rows), ""]


def time_table(plan: Plan) -> list[str]:
    return [
        f"time, a step {plan.step_seconds:.3g} s ({plan.petaflops:.3g} PFLOP)",
        *(f"  {what:30} {human_seconds(spent):>12}" for what, spent in plan.seconds.items()),
        f"  {'all':30} {human_seconds(plan.hours * 3600):>12}",
    ]


def comparison(plan: Plan, measured: Measured, price: float | None) -> list[str]:
    """Predicted and measured side by side, and the whole run at the measured pace."""
    pace = measured.seconds / measured.predicted_seconds
    hours = plan.hours * pace
    money = "" if price is None else f", {hours * price:.2f}"
    return [
        f"{'probe of ' + str(measured.steps) + ' steps':24} {'predicted':>12} {'measured':>12}",
        f"{'seconds a step':24} {measured.predicted_seconds:12.3g} {measured.seconds:12.3g}",
        f"{'peak memory':24} {human_bytes(measured.predicted_peak):>12} {human_bytes(measured.peak):>12}",
        f"at the measured pace the run takes {human_seconds(hours * 3600)}{money}",
    ]


def json_report(plan: Plan, advice: list[str], price: float | None, measured: Measured | None) -> str:
    record: dict[str, Any] = asdict(plan) | {"hours": plan.hours, "fits": plan.fits, "advice": advice}
    record["money"] = None if price is None else plan.hours * price
    record["probe"] = asdict(measured) if measured else None
    return json.dumps(record, indent=1) + "\n"

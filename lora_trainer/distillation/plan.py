"""Memory, disk, time and money of a distillation, before anything is downloaded.

The teacher's forwards and the student's own paths are counted as the plan of a training counts forwards, the
student's updates as it counts updates.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lora_trainer.config import EXPERTS
from lora_trainer.distillation.config import DistillConfig
from lora_trainer.distillation.trajectories import KEPT, student_sigmas
from lora_trainer.plan import memory
from lora_trainer.plan.estimate import Plan, codec_seconds, streaming_seconds, table, time_table
from lora_trainer.plan.flops import ENCODE_FLOPS, expert_switches, training_pass
from lora_trainer.plan.inputs import Card, PlanInputs
from mova.catalog import find_model
from mova.checkpoint import MODULES, build, read_boundary_ratio, read_config, resolve
from mova.guidance import Guidance
from mova.inspection import CONFIGS, Checkpoint
from mova.machine import DTYPES, forward_flops, human_bytes
from mova.scheduler import PairScheduler
from mova.shapes import MAX_PROMPT_TOKENS, ClipShape

TEXT_FLOPS = 2 * MAX_PROMPT_TOKENS  # for each parameter of the text encoder and prompt


@dataclass(frozen=True)
class DistillInputs:
    """A model without its weights, and the clips and schedule of a distillation."""

    towers: Mapping[str, nn.Module]
    configs: Mapping[str, Mapping[str, Any]]
    text_parameters: int
    shape: ClipShape
    scheduler: PairScheduler
    boundary_ratio: float

    @property
    def plan_inputs(self) -> PlanInputs:
        """As the plan of a training takes them; what a distillation has not is empty."""
        return PlanInputs(
            towers=self.towers,
            configs=self.configs,
            high_share=0.5,
            text_parameters=self.text_parameters,
            windows={self.shape: 1},
            clips=1,
            cached=True,
            text_tokens=0,
            texts=0,
            download=0,
        )


def distill_inputs(config: DistillConfig) -> DistillInputs:
    """Read a checkpoint's configs. Raises UserError."""
    folder = resolve(find_model(config.model).source, CONFIGS)
    configs = {name: read_config(name, folder / name) for name in MODULES}
    with torch.device("meta"):
        text_encoder = build("text_encoder", folder / "text_encoder")
    height, width, num_frames = config.size
    return DistillInputs(
        towers=memory.build_towers(folder),
        configs=configs,
        text_parameters=memory.size_of(text_encoder),
        shape=Checkpoint(configs, {}).clip_shape(height, width, num_frames, config.prompts.frame_rate),
        scheduler=build("scheduler", folder / "scheduler"),
        boundary_ratio=read_boundary_ratio(folder),
    )


def estimate_distillation(
    config: DistillConfig, card: Card, inputs: DistillInputs, trajectories: int
) -> Plan:
    """The plan of so many trajectories, and of the updates; each process has a card like `card`."""
    lora = memory.lora_parameters(inputs.towers, config)
    step, operations = update_seconds(config, card, inputs)
    return Plan(
        card=card,
        largest=inputs.shape,
        windows=trajectories,
        device=device_memory(config, card, inputs),
        host=memory.host_memory(inputs.towers, config, card.dtype, card.is_gpu),
        disk={
            "trajectories": trajectories * trajectory_bytes(config, card, inputs),
            **memory.disk_space(lora, config, card.dtype, score_bytes(config, lora)),
        },
        step_seconds=step,
        seconds={
            "prompts": trajectories * prompt_seconds(card, inputs) / card.processes,
            "trajectories": trajectories * trajectory_seconds(config, card, inputs) / card.processes,
            "training": config.run.steps * step,
        },
        petaflops=operations / 1e15,
        steps=config.run.steps,
    )


def device_memory(config: DistillConfig, card: Card, inputs: DistillInputs) -> memory.Sizes:
    """Peak bytes on the device, as of a training, and those of the fake score with its gradients."""
    sizes = memory.device_memory(inputs.towers, inputs.shape, config, card.dtype, card.processes)
    lora = memory.lora_parameters(inputs.towers, config)
    if score := score_bytes(config, lora):
        sizes["fake score, with gradients"] = score + 4 * sum(lora.values())
    return sizes


def score_bytes(config: DistillConfig, lora: memory.Sizes) -> int:
    """Bytes of the fake score's weights and optimizer."""
    state = 4 + memory.STATE_BYTES[config.optimizer.name]
    return state * sum(lora.values()) if config.matching.on else 0


def steps_of(config: DistillConfig, inputs: DistillInputs) -> dict[str, list[tuple[int, float]]]:
    """The student's steps of each expert: their numbers and video sigmas."""
    sigmas = student_sigmas(inputs.scheduler, config)
    experts = inputs.scheduler.experts(sigmas[:-1], inputs.boundary_ratio)
    return {
        name: [(step, float(sigmas[step, 0])) for step, each in enumerate(experts) if each == name]
        for name in EXPERTS
    }


def forward_seconds(config: DistillConfig, card: Card, inputs: DistillInputs) -> float:
    """One forward of one clip; where layers are streamed, not less than they take to come."""
    towers = [inputs.configs[name] for name in (EXPERTS[0], "audio_dit", "dual_tower_bridge")]
    computing = forward_flops(*towers, inputs.shape) / (card.tflops * 1e12)
    return max(computing, streaming_seconds(config, card, inputs.plan_inputs) / 2)


def trajectory_seconds(config: DistillConfig, card: Card, inputs: DistillInputs) -> float:
    """The teacher's guided steps; twice where a track is held, for the track to hold is made first."""
    sigmas = inputs.scheduler.sigmas(config.teacher_steps, config.video_shift, config.audio_shift)[:-1, 0]
    guidance = Guidance(*config.scales)
    forwards = sum(len(guidance.branches(float(sigma))) for sigma in sigmas)
    held = config.prompts.hold_video + config.prompts.hold_audio
    seconds = (1 + held) * forwards * forward_seconds(config, card, inputs)
    if config.run.offload == "experts" and card.is_gpu:
        seconds += 2 * swap_seconds(config, card, inputs) / config.teacher.batch_size
    return seconds


def update_seconds(config: DistillConfig, card: Card, inputs: DistillInputs) -> tuple[float, float]:
    """(seconds, operations) of the mean update, over experts, with the student's own paths."""
    run, objective, steps = config.run, config.objective, steps_of(config, inputs)
    own = (1 - objective.own_from) * objective.own_share
    matching = config.matching.share if config.matching.on else 0.0
    high = len(steps[EXPERTS[0]]) / config.steps
    kinds = [(EXPERTS[0], False, (1 - matching) * high), (EXPERTS[1], False, (1 - matching) * (1 - high))]
    seconds = operations = 0.0
    for expert, matched, share in [*kinds, (EXPERTS[1], True, matching)]:
        if share:
            each = micro_batch_seconds(config, card, inputs, expert, own, matched)
            seconds += share * run.accumulation * each
            work = training_pass(inputs.configs, inputs.shape, config, expert)
            operations += share * run.accumulation * (1 + matched) * work.total
    if run.offload == "experts" and card.is_gpu:
        switches = expert_switches(run.steps, kinds[0][2], objective.hold_steps)
        seconds += switches / run.steps * swap_seconds(config, card, inputs)
    return seconds, operations


def micro_batch_seconds(
    config: DistillConfig, card: Card, inputs: DistillInputs, expert: str, own: float, matched: bool = False
) -> float:
    """Seconds of a micro-batch of `expert`, a share `own` of whose states are the student's own.

    Where it matches distributions all are. The fake score learns as the student does; a forward of it, those
    of the teacher, and the step itself come first.
    """
    steps, batch = steps_of(config, inputs), config.run.batch_size
    more = 0  # forwards
    if matched:
        own, more = 1.0, 2 + len(Guidance(*config.scales).branches(steps[expert][0][1]))
    work = training_pass(inputs.configs, inputs.shape, config, expert)
    streamed = streaming_seconds(config, card, inputs.plan_inputs)
    seconds = (1 + matched) * max(work.seconds(card.tflops), streamed)
    walked = sum(step for step, _ in steps[expert]) / len(steps[expert])
    seconds += batch * (own * walked + more) * forward_seconds(config, card, inputs)
    if config.run.offload == "experts" and card.is_gpu and expert == EXPERTS[1] and steps[EXPERTS[0]]:
        # An own path begins with the other expert, which comes and goes.
        seconds += min(1.0, own * batch) * 2 * swap_seconds(config, card, inputs)
    return seconds


def swap_seconds(config: DistillConfig, card: Card, inputs: DistillInputs) -> float:
    size = memory.frozen_bytes(inputs.towers, EXPERTS[0], config, DTYPES[card.dtype])
    return size / (card.link * 1e9)


def prompt_seconds(card: Card, inputs: DistillInputs) -> float:
    text = TEXT_FLOPS * inputs.text_parameters / (card.tflops * 1e12)
    return text + codec_seconds(card, inputs.plan_inputs, inputs.shape, ENCODE_FLOPS)


def trajectory_bytes(config: DistillConfig, card: Card, inputs: DistillInputs) -> int:
    shape, video, audio = inputs.shape, inputs.configs[EXPERTS[0]], inputs.configs["audio_dit"]
    grid = shape.latent_frames * shape.latent_height * shape.latent_width
    states = (config.steps + 1) * (video["out_dim"] * grid + audio["out_dim"] * shape.audio_latents)
    condition = (video["in_dim"] - video["out_dim"]) * grid
    texts = 2 * MAX_PROMPT_TOKENS * video["text_dim"] * DTYPES[card.dtype]  # at most, with the negative one
    return KEPT.itemsize * (states + condition) + texts


def text_report(config: DistillConfig, inputs: DistillInputs, plan: Plan, price: float | None) -> str:
    shape, card, run = plan.largest, plan.card, config.run
    where = f"{card.processes} x {card.name}" if card.processes > 1 else card.name
    seen = run.steps * run.batch_size * run.accumulation * card.processes
    lines = [
        f"{plan.windows} trajectories of {shape.width}x{shape.height} x {shape.num_frames} frames, "
        f"{config.teacher_steps} guided steps each; {plan.steps} updates, {seen} states seen, on {where}, "
        f"{card.dtype}",
        *(
            f"  {name:30} steps at sigma " + ", ".join(f"{sigma:.4f}" for _, sigma in steps)
            for name, steps in steps_of(config, inputs).items()
        ),
        "",
        *table(f"memory of {card.name} at the peak, {human_bytes(card.vram)} free", plan.device),
        *table("host memory" + (f", {human_bytes(card.ram)} free" if card.ram else ""), plan.host),
        *table("disk", plan.disk),
        *time_table(plan),
    ]
    if price is not None:
        lines.append(f"{'money':32} {plan.hours * price:10.2f} at {price:g} an hour")
    lines += ["", "It fits." if plan.fits else f"It does not fit; {advice(config)}."]
    return "\n".join(lines) + "\n"


def advice(config: DistillConfig) -> str:
    if config.run.offload == "none":
        return "try --set run.offload=experts, or --base int8"
    if config.run.offload == "experts":
        return "try --set run.offload=layers, or --base nf4 with run.offload=none"
    return "take fewer --frames, a smaller --size, or another GPU"

"""What to change in a config to make a run fit a card, or to make it faster, as sentences."""

from collections.abc import Iterator

from lora_trainer.config import PASSING, Config, merge, nested
from lora_trainer.plan import Plan, figures
from lora_trainer.plan_inputs import Card, Outline
from lora_trainer.plan_memory import PROCESS, Sizes
from lora_trainer.quantised import BASES
from mova.placement import GIB

SHORTER = (145, 97, 73, 49, 25)  # frames
WORTH = 0.97  # of the time, what a change must come down to, to be told
Change = dict[str, object]


def advise(config: Config, card: Card, known: Outline, plan: Plan) -> list[str]:
    """How to make it fit, the changes that cost least first; if it fits, what fits too and is faster."""
    if plan.fits:
        faster = ({"run.offload": "none"}, {"run.offload": "experts"}, {"run.gradient_checkpointing": False})
        found = fitting(config, card, known, faster)
        return [told(*each, plan) for each in found if each[1].step_seconds < WORTH * plan.step_seconds][:1]
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
    found = [*fitting(config, card, known, single), *list(fitting(config, card, known, shorter))[:1]]
    if not found:
        both = [least | base | each for base in ({}, smaller[-1]) for each in ({}, *shorter)]
        found = list(fitting(config, card, known, both))[:1]
    if found:
        return [told(*each, plan) for each in found]
    last = figures(changed(config, least | smaller[-1] | (shorter[-1] if shorter else {})), card, known)
    return [
        f"Nothing fits: even with layers in 4 bits, streamed, and {last.largest.num_frames} frames it takes "
        f"{gib(last.device)} on the device and {gib(last.host)} of host memory; choose a smaller "
        "data.size, lower ranks, or another GPU."
    ]


def fitting(
    config: Config, card: Card, known: Outline, changes: "list[Change] | tuple[Change, ...]"
) -> Iterator[tuple[Change, Plan]]:
    """Those of `changes` that change anything and fit, each cut down to what it changes, with its plan."""
    flat = {f"run.{key}": value for key, value in config.run.model_dump().items()}
    flat["data.num_frames"] = config.data.num_frames
    for change in changes:
        real = {key: value for key, value in change.items() if flat[key] != value}
        if real and allowed(flat | real) and (then := figures(changed(config, real), card, known)).fits:
            yield real, then


def allowed(flat: Change) -> bool:
    """Whether the config takes these settings together."""
    streams = flat["run.gradient_checkpointing"] and flat["run.base"] != "fp8"
    return flat["run.offload"] not in PASSING or bool(streams)


def changed(config: Config, change: Change) -> Config:
    return Config.model_validate(merge(config.model_dump(), nested(change)))


def told(change: Change, then: Plan, now: Plan) -> str:
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
    """A value as a config has it."""
    if isinstance(value, str):
        return f'"{value}"'
    return str(list(value) if isinstance(value, tuple) else value).lower()


def gib(sizes: Sizes) -> str:
    return f"{sum(sizes.values()) / GIB:.1f} GiB"

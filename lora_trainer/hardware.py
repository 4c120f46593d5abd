"""Machines that the Hub rents out for jobs, as it lists them."""

import re
from dataclasses import dataclass

from huggingface_hub import JobHardwareInfo

from mova.catalog import find_gpu
from mova.types import UserError

UNITS_AN_HOUR = {"minute": 60, "hour": 1}


@dataclass(frozen=True)
class Hardware:
    """A machine for a job: bytes are 0 where not known, `price` is US dollars an hour.

    `gpu` is the catalogue's name of its card, empty for a processor alone.
    """

    flavor: str
    name: str
    gpu: str
    memory: str  # of the card, or of the processor, as the Hub writes it
    cores: int
    ram: int
    disk: int
    price: float


def read_offer(info: JobHardwareInfo) -> Hardware | None:
    """None for machines that this trainer has no use for: several cards, unknown ones, no price."""
    accelerator, gpu, memory = info.accelerator, "", info.ram
    if accelerator is not None:
        if str(accelerator.quantity) != "1":
            return None
        try:
            gpu, memory = find_gpu(f"{accelerator.model} {info.pretty_name}").name, accelerator.vram
        except UserError:
            return None
    price = info.unit_cost_usd * UNITS_AN_HOUR.get(info.unit_label, 0)
    if not price > 0:
        return None
    cores, ram, disk = re.match(r"\d+", info.cpu), size(info.ram), size(info.ephemeral_storage)
    return Hardware(info.name, info.pretty_name, gpu, memory, int(cores[0]) if cores else 1, ram, disk, price)


def size(text: str) -> int:
    """Bytes of "46 GB"; 0 where it says something else."""
    found = re.match(r"([\d.]+)\s*([GT])i?B", text)
    return int(float(found[1]) * {"G": 10**9, "T": 10**12}[found[2]]) if found else 0

"""Load a checkpoint of the released shapes from disk: seconds, and host memory beyond the page cache.

    python -m benchmarks.load_checkpoint --folder /tmp/released --write --device cuda

`--write` first fills the folder with random weights, component by component in the order of `--components`,
while the disk has room. Without a GPU the weights are read through once in place of moving them. "Private"
memory (RssAnon) is what the process really holds; mapped pages belong to the page cache and can be dropped.
"""

import argparse
import json
import shutil
import sys
import threading
import time
from pathlib import Path

import torch
from diffusers import ConfigMixin
from safetensors.torch import save_file
from torch import Tensor

from benchmarks import released_sizes
from mova import checkpoint
from mova.models.bridge import Bridge
from mova.models.dit import AudioDiT, VideoDiT
from mova.offload import WeightSwap

SPECS: dict[str, tuple[type[ConfigMixin], dict]] = {
    "video_dit": (VideoDiT, released_sizes.VIDEO_DIT),
    "audio_dit": (AudioDiT, released_sizes.AUDIO_DIT),
    "dual_tower_bridge": (Bridge, released_sizes.BRIDGE),
    "video_dit_2": (VideoDiT, released_sizes.VIDEO_DIT),
}
GB = 1e9
HEADROOM = 4 * GB
SHARD = 9 * GB


class HostMemory(threading.Thread):
    """Sampler of this process's private memory until stopped; `peak` is in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.running = 0, True

    def run(self) -> None:
        while self.running:
            self.peak = max(self.peak, status("RssAnon"))
            time.sleep(0.02)


def status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def write(folder: Path, name: str) -> bool:
    """Random weights of one component in shards of the released size; False where the disk is too full."""
    cls, config = SPECS[name]
    with torch.device("meta"):
        module = cls(**config).to(torch.bfloat16)
    if shutil.disk_usage(folder).free < sum(p.nbytes for p in module.parameters()) + HEADROOM:
        return False
    module.save_config(folder / name)
    pattern = torch.empty(2**24, dtype=torch.bfloat16).normal_(std=0.02)
    shards: list[dict[str, Tensor]] = [{}]
    for key, parameter in module.named_parameters():
        if sum(tensor.nbytes for tensor in shards[-1].values()) > SHARD:
            flush(folder / name, shards)
            shards.append({})
        whole, rest = divmod(parameter.numel(), len(pattern))
        shards[-1][key] = torch.cat([pattern] * whole + [pattern[:rest]]).view(parameter.shape)
    flush(folder / name, shards)
    places = {key: f"{number}.safetensors" for number, keys in enumerate(shards) for key in keys}
    index = folder / name / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    return True


def flush(folder: Path, shards: list[dict[str, Tensor]]) -> None:
    """Write the last shard and let its tensors go; its keys stay."""
    save_file(shards[-1], folder / f"{len(shards) - 1}.safetensors")
    shards[-1] = dict.fromkeys(shards[-1], torch.empty(0))


def load(folder: Path, name: str, device: str) -> dict[str, float | str]:
    """Load and place one component, and take it off again."""
    sampler = HostMemory()
    before = status("RssAnon")
    sampler.start()
    began = time.perf_counter()
    module = checkpoint.load_module(name, folder / name, torch.bfloat16)
    mapped = time.perf_counter()
    if device == "cuda":
        WeightSwap([module]).load(torch.device(device))
        torch.cuda.synchronize()
    else:
        sum(parameter.view(torch.int16).flatten()[::2048].sum() for parameter in module.parameters())
    ended = time.perf_counter()
    sampler.running = False
    sampler.join()
    return {
        "component": name,
        "gb": round(sum(p.nbytes for p in module.parameters()) / GB, 2),
        "map_seconds": round(mapped - began, 2),
        "place_seconds": round(ended - mapped, 2),
        "peak_private_mb": round((sampler.peak - before) / 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--components", nargs="+", choices=SPECS, default=list(SPECS))
    parser.add_argument("--write", action="store_true", help="make the files first; they stay")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu"
    )
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.components:
        if options.write and not write(options.folder, name):
            sys.stdout.write(f"{name}: skipped, not enough free disk space\n")
            continue
        sys.stdout.write(json.dumps(load(options.folder, name, options.device)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

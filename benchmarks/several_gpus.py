"""Seconds of a step at the released size by one GPU and by several, and peak memory of each card.

    torchrun --nproc-per-node 2 -m benchmarks.several_gpus --json several_gpus.json

Every process makes the same random weights of one expert, the audio tower and the bridge (37 GB) on its card,
and the first leads as a pipeline would. All rows are of one session; for one GPU the others wait. A step is
two forwards, or one where the row says so; seconds are the median of `--repeats` after one to warm up (720p:
one step, cold). "equal" is whether every bit of the velocities is that of one GPU; errors are relative to it.

`--fault` makes a follower fail inside a shared forward instead, and tells how soon the leader knows.
"""

import argparse
import gc
import json
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist

from benchmarks.released_sizes import AUDIO_DIT, BRIDGE, VIDEO_DIT, build
from mova import parallel
from mova.errors import BackendError
from mova.forwards import Run
from mova.machine import GIB
from mova.models.bridge import Bridge
from mova.models.dit import AudioDiT, VideoDiT
from mova.models.dual_tower import DualTower
from mova.offload import Offloader
from mova.parallel import Call, Team
from mova.placement import compile_blocks
from mova.shapes import ClipShape

GUIDED = [Call(use_prompt=False, use_bridge=True), Call(use_prompt=True, use_bridge=True)]
SIZES = {"360p": (352, 640), "720p": (720, 1280)}
SMALL = {"dim": 480, "ffn_dim": 480, "num_layers": 2}  # for a trial on a CPU


def residency(device: torch.device, small: bool) -> Offloader:
    """The towers on `device`, the same in every process."""
    torch.manual_seed(0)
    video, audio, bridge = VIDEO_DIT, AUDIO_DIT, BRIDGE
    if small:
        video, audio = video | SMALL, audio | SMALL | {"dim": 144}
        sizes = {"visual_layers": 2, "audio_layers": 2, "visual_hidden_dim": 480, "audio_hidden_dim": 144}
        bridge = bridge | sizes | {"head_dim": 12}
    parts = ((VideoDiT, video), (AudioDiT, audio), (Bridge, bridge))
    tower = DualTower(*(build(*part, str(device)) for part in parts))
    modules = {"video_dit": tower.video_dit, "video_dit_2": tower.video_dit}
    modules |= {"audio_dit": tower.audio_dit, "dual_tower_bridge": tower.dual_tower_bridge}
    return Offloader(modules, tower)


class Session:
    """The leader's measurements, all of the same inputs for a size."""

    def __init__(self, team: Team, towers: Offloader, repeats: int, small: bool) -> None:
        self.team, self.towers, self.repeats, self.small = team, towers, repeats, small
        self.rows: list[dict] = []
        self.alone: dict[tuple, tuple[float, list]] = {}

    def measure(
        self, setting: str, size: str, frames: int, calls: list[Call], is_short: bool = False
    ) -> None:
        """Add the row of a setting: "alone" or a mode of `Layout.choose`."""
        height, width = (32, 48) if self.small else SIZES[size]
        shape = ClipShape(height, width, frames, 24.0, 48000, 960)
        grid = (shape.latent_frames, shape.latent_height, shape.latent_width)
        generator = torch.Generator().manual_seed(0)
        sizes = (1, 16, *grid), (1, 128, shape.audio_latents), (1, 20, *grid), (1, 512, 4096), (1, 512, 4096)
        drawn = [torch.randn(each, generator=generator).to(self.towers.device) for each in sizes]
        *latents, condition, prompt, negative = drawn
        team = None if setting == "alone" else self.team
        self.team.mode = "auto" if team is None else setting
        self.team.tell(reset_peak)
        reset_peak(self.team)
        run = Run(self.towers, team, condition, (prompt, negative), 24.0)
        seconds = []
        with torch.no_grad(), run.ready():
            for _ in range(1 if is_short else self.repeats + 1):
                began = time.perf_counter()
                timesteps = torch.tensor([950.0, 950.0])
                velocities = list(run.velocities("video_dit", calls, latents, timesteps, lambda: None))
                synchronize()
                seconds.append(time.perf_counter() - began)
        taken = statistics.median(seconds[-self.repeats :])
        self._add(setting, (size, frames, len(calls)), taken, velocities)

    def _add(self, setting: str, key: tuple, taken: float, velocities: list) -> None:
        alone, expected = self.alone.setdefault(key, (taken, velocities))
        pairs = [pair for both in zip(velocities, expected, strict=True) for pair in zip(*both, strict=True)]
        errors = [((ours - theirs).norm() / theirs.norm()).item() for ours, theirs in pairs]
        self.team.tell(peaks)
        row = dict(zip(("size", "frames", "forwards"), key, strict=True))
        row |= {
            "setting": setting,
            "gpus": 1 if setting == "alone" else self.team.count,
            "seconds": round(taken, 4),
            "ratio": round(alone / taken, 3),
            "equal": all(torch.equal(*pair) for pair in pairs),
            "error": round(max(errors), 5),
            "peak_gib": peaks(self.team),
        }
        self.rows.append(row)
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def reset_peak(team: Team) -> None:
    del team  # followers call it with theirs
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peaks(team: Team) -> list[float]:
    """Peak GiB of every process, which all have to ask for."""
    own = torch.cuda.max_memory_allocated() / GIB if torch.cuda.is_available() else 0.0
    every = [torch.zeros(1) for _ in range(team.count)]
    dist.all_gather(every, torch.tensor([own]))
    return [round(each.item(), 1) for each in every]


def compile_follower(team: Team) -> None:
    compile_blocks(team.pipeline.residency.dual_tower)


def break_follower(team: Team) -> None:
    """Make the next forward of a follower fail in its second layer."""

    def fail(*_: object) -> None:
        raise RuntimeError("broken on purpose")

    team.pipeline.residency.dual_tower.video_dit.blocks[1].register_forward_pre_hook(fail)


def fault(session: Session) -> None:
    """Tell how long the leader waits for the reason of a follower that fails inside a shared forward."""
    session.measure("ulysses", "360p", 97, GUIDED, is_short=True)
    session.team.tell(break_follower)
    began = time.perf_counter()
    try:
        session.measure("ulysses", "360p", 97, GUIDED, is_short=True)
    except BackendError as error:
        row = {"setting": "fault", "seconds": round(time.perf_counter() - began, 3), "reason": str(error)}
        session.rows.append(row)
        sys.stdout.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="compile the blocks first")
    parser.add_argument("--fault", action="store_true", help="make a follower fail, and nothing else")
    parser.add_argument("--small", action="store_true", help="a thousandth of the size, for a trial on a CPU")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args()

    team = parallel.join()
    towers = residency(
        torch.device(team.device("cuda" if torch.cuda.is_available() else "cpu")), options.small
    )
    if team.rank:
        team.follow(SimpleNamespace(residency=towers))
    session = Session(team, towers, options.repeats, options.small)
    if options.compile:
        team.tell(compile_follower)
        compile_blocks(towers.dual_tower)
    if options.fault:
        fault(session)
    else:
        modes = ["branches", "ulysses", *(["auto"] if team.count > 2 else [])]
        for frames in (97, 193):
            for setting in ("alone", *modes):
                session.measure(setting, "360p", frames, GUIDED)
        for setting in ("alone", "ulysses"):
            session.measure(setting, "720p", 193, GUIDED[1:], is_short=True)
    system = {"gpus": team.count, "torch": torch.__version__, "compile": options.compile}
    if torch.cuda.is_available():
        system |= {"gpu": torch.cuda.get_device_name(), "cudnn": torch.backends.cudnn.version()}
    sys.stdout.write(json.dumps(system) + "\n")
    if options.json:
        options.json.write_text(json.dumps({"system": system, "rows": session.rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Seconds by stage and peak memory of one clip on this machine's CPU, measured in a process of its own.

`python -m recipes.pocket.evaluation.costs MODEL` prints JSON. Peak memory is the whole process's, Python and
libraries included.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

BARS = {"load_seconds": ("s", 5.0), "clip_seconds": ("s", 30.0), "peak_memory": ("GB", 2.0)}  # on two cores


def measure(
    model: str,
    *,
    steps: int,
    guidance_scale: float,
    bridge_guidance_scale: float,
    adapters: Sequence[str] = (),
) -> dict[str, object]:
    """Run `main` in a new process and return what it prints."""
    command = [sys.executable, "-m", "recipes.pocket.evaluation.costs", model, "--steps", str(steps)]
    command += ["--guidance", str(guidance_scale), "--bridge-guidance", str(bridge_guidance_scale)]
    command += ["--adapters", *adapters]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring the cost of a clip failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--guidance", type=float, required=True)
    parser.add_argument("--bridge-guidance", type=float, required=True)
    parser.add_argument("--adapters", nargs="*", default=[])
    arguments = parser.parse_args()
    began = time.perf_counter()
    from mova.machine import Machine
    from mova.media.clips import write_mp4
    from recipes.pocket.captions import CaptionMix
    from recipes.pocket.evaluation.generate import Request, Settings, Stopwatch, generate, load_pipeline
    from recipes.pocket.world.clip import FRAME_RATE, SAMPLE_RATE
    from recipes.pocket.world.render import render

    imported = time.perf_counter() - began
    watch = Stopwatch()
    with watch.stage("load"):
        pipeline = load_pipeline(arguments.model, "cpu")
    settings = Settings(
        arguments.steps,
        arguments.guidance,
        arguments.bridge_guidance,
        adapters=tuple(arguments.adapters),
    )
    clip = render(2_000_000, "ball", mix=CaptionMix(1, 0, 0, 0))
    request = Request(0, clip.caption, clip.frames[0])
    [(frames, waveform)] = generate(pipeline, [request], settings, 1, watch)
    with watch.stage("write"), tempfile.TemporaryDirectory() as folder:
        write_mp4(Path(folder) / "clip.mp4", frames, waveform[None], FRAME_RATE, SAMPLE_RATE, {}, False)
    machine = Machine.probe("cpu")
    report = {
        "seconds": {"import": imported, **watch.seconds},
        "load_seconds": watch.seconds["load"],
        "clip_seconds": sum(value for stage, value in watch.seconds.items() if stage != "load"),
        "peak_memory": peak_memory(),
        "machine": f"{machine.name}, {machine.cores} cores, {settings.steps} steps",
    }
    sys.stdout.write(json.dumps(report) + "\n")


def peak_memory() -> float:
    """GB of this process at its peak (Linux). `ru_maxrss` would include the parent process."""
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) * 1024 / 1e9


if __name__ == "__main__":
    main()

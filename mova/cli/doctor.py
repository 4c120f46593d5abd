"""`python -m mova doctor`: an installation in one screen, each part of it tried on this device.

The report can be pasted into an issue: paths are cut down to ~, . or their last name, and no value of a
variable that holds a key is ever printed.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import mova
from mova import catalog
from mova.backends.settings import RemoteServer, remote_from_environment
from mova.cli import trials
from mova.cli.findings import BROKEN, GOOD, SLOW, Finding, line_of, shareable
from mova.errors import BackendError, UserError
from mova.files import disk_errors, writable_parent
from mova.machine import GIB, NEEDS, Machine, estimate_time, human_bytes, human_seconds, suitable_model
from mova.request import GenerationRequest

if TYPE_CHECKING:
    from mova.inspection import Checkpoint

ROOT = Path(mova.__file__).parents[1]
INSTALL = "install the requirements again: pip install -r requirements.txt"
REPORT = "report it with this page: it is not expected"
ANSWER_SECONDS = 20.0
MIN_FREE = GIB  # of a disk that clips are written to


def examine_installation(model: str | None = None, device: str | None = None, as_json: bool = False) -> int:
    """Print a finding for each part and return the exit code: 1 if one is broken, else 0."""
    findings = []
    for finding in Examination(model, device, os.environ).findings():
        findings.append(finding)
        if not as_json:
            sys.stdout.write(line_of(finding))
            sys.stdout.flush()
    counts = {state: sum(finding.state == state for finding in findings) for state in (GOOD, SLOW, BROKEN)}
    if as_json:
        report = {"version": mova.__version__, **counts, "findings": [asdict(each) for each in findings]}
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        sys.stdout.write(", ".join(f"{count} {state}" for state, count in counts.items()) + "\n")
    return 1 if counts[BROKEN] else 0


class Examination:
    """The checks of one installation. What several of them need is looked up once."""

    def __init__(self, model: str | None, device: str | None, environ: Mapping[str, str]) -> None:
        self.model, self.device, self.environ = model, device, environ

    def findings(self) -> Iterator[Finding]:
        """A finding for every check, whatever happens in it."""
        checks: dict[str, Callable[[], Finding]] = {
            "python": self.python,
            "libraries": self.libraries,
            "driver": self.driver,
            "torch": self.torch_build,
            "card": self.card,
            "attention": lambda: trials.try_attention(self.machine),
            "model": self.model_files,
            "weights": self.weights,
            "memory": self.memory,
            "joint forward": lambda: trials.try_forward(self.machine),
            "picture and sound": lambda: trials.try_coding(self.machine),
            "ffmpeg": self.ffmpeg,
            "encoders": self.encoders,
            "clip": trials.try_clip,
            "outputs": lambda: self.folder("outputs", Path(self.environ.get("MOVA_OUTPUTS") or "outputs")),
            "temporary files": lambda: self.folder("temporary files", Path(tempfile.gettempdir())),
            "downloads": lambda: self.folder("downloads", hub_cache()),
            "prompt server": self.prompt_server,
            "video server": self.video_server,
        }
        states = {}
        for part, check in checks.items():
            if part in ("weights", "memory") and states["model"] == BROKEN:
                continue  # they would only say the same
            found = self.attempt(part, check)
            states[part] = found.state
            yield replace(
                found,
                text=shareable(found.text, self.environ),
                advice=shareable(found.advice, self.environ),
            )

    def attempt(self, part: str, check: Callable[[], Finding]) -> Finding:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return check()
        except (UserError, BackendError) as error:
            text, _, advice = str(error).rpartition("; ")
            return Finding(part, BROKEN, text or advice, advice if text else REPORT)
        except ImportError as error:
            return Finding(part, BROKEN, f"{error}", INSTALL)
        except Exception as error:  # whatever fails is what is looked for, and must not end the other checks
            first = str(error).strip().split("\n")[0]
            return Finding(part, BROKEN, f"{type(error).__name__}: {first}", REPORT)

    @cached_property
    def machine(self) -> Machine:
        """The machine of the device asked for; of the CPU where that cannot be used (`card` says why)."""
        try:
            return Machine.probe(self.device)
        except UserError:
            return Machine.probe("cpu")

    @cached_property
    def spec(self) -> catalog.ModelSpec:
        return catalog.find_model(self.model or suitable_model())

    @cached_property
    def checkpoint(self) -> "Checkpoint":
        from mova.inspection import inspect_checkpoint

        return inspect_checkpoint(self.spec.source)

    @property
    def is_on_hub(self) -> bool:
        """The model is of the Hub, as opposed to a folder."""
        return not Path(self.spec.source).expanduser().is_dir()

    def python(self) -> Finding:
        text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
        return Finding("python", GOOD, f"{text}, mova {mova.__version__}")

    def libraries(self) -> Finding:
        from packaging.requirements import Requirement

        file = ROOT / "requirements.txt"
        lines = file.read_text().split() if file.is_file() else metadata.requires("mova-toolkit") or []
        wanted = [need for need in map(Requirement, lines) if need.marker is None or need.marker.evaluate()]
        held = {name: version_of(name) for name in (need.name for need in wanted)}
        wrong = [
            f"{need.name} {held[need.name] or 'is missing'} ({need.specifier} needed)"
            for need in wanted
            if not held[need.name] or not need.specifier.contains(held[need.name], prereleases=True)
        ]
        if wrong:
            return Finding("libraries", BROKEN, ", ".join(wrong), INSTALL)
        named = ", ".join(f"{name} {held[name]}" for name in ("diffusers", "transformers", "peft", "gradio"))
        return Finding("libraries", GOOD, f"{len(wanted)} as required; {named}")

    def driver(self) -> Finding:
        tool = shutil.which("nvidia-smi")
        if tool is None:
            return Finding("driver", GOOD, "no nvidia-smi: no NVIDIA driver, or a container without its tool")
        query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
        try:
            run = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
        except (OSError, subprocess.SubprocessError):
            advice = "restart the computer, or install the NVIDIA driver again"
            return Finding("driver", BROKEN, "nvidia-smi is installed and does not answer", advice)
        return Finding("driver", GOOD, f"NVIDIA, {'; '.join(run.stdout.strip().splitlines())}")

    def torch_build(self) -> Finding:
        import torch

        cuda, hip = torch.version.cuda, torch.version.hip
        build = f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else "CPU"
        text = f"{torch.__version__}, a build for {build}"
        has_driver, found = shutil.which("nvidia-smi") is not None, torch.cuda.is_available()
        if has_driver and not cuda:
            advice = "install the build for CUDA that https://pytorch.org/get-started/locally shows"
            return Finding(
                "torch", BROKEN, f"{text}, which cannot use the NVIDIA card of this machine", advice
            )
        if has_driver and not found:
            advice = f"update the NVIDIA driver, or install a torch for a CUDA before {cuda}"
            return Finding("torch", BROKEN, f"{text}, which finds no card though a driver is here", advice)
        cudnn = f", cuDNN {torch.backends.cudnn.version()}" if found and not hip else ""
        return Finding("torch", GOOD, text + cudnn)

    def card(self) -> Finding:
        import torch

        machine = Machine.probe(self.device)
        if machine.is_gpu:
            capability, total = torch.cuda.get_device_capability(machine.device), self.card_memory()
            kinds = {"bf16": machine.has_bfloat16, "fp8": capability >= (8, 9)}
            text = f"{machine.name}, {human_bytes(total)} ({human_bytes(machine.vram)} free), "
            text += "compute capability {}.{}: ".format(*capability)
            text += ", ".join(f"{name} {'yes' if has else 'no'}" for name, has in kinds.items())
            if not machine.has_bfloat16:
                advice = "float32 is used, which takes twice the memory; a card from 2020 on has bf16"
                return Finding("card", SLOW, text, advice)
            if machine.vram < total / 2:
                advice = "close what holds its memory; nvidia-smi lists the programs"
                return Finding("card", SLOW, text, advice)
            return Finding("card", GOOD, text)
        if machine.device.startswith("mps"):
            return Finding("card", GOOD, f"Apple GPU, {human_bytes(machine.ram)} of shared memory free")
        memory = f"{machine.cores} cores, {human_bytes(machine.ram)} of memory free"
        return Finding("card", SLOW, f"none that torch can use; clips are made by {memory}", f"{NEEDS}")

    def card_memory(self) -> int:
        import torch

        return torch.cuda.mem_get_info(self.machine.device)[1]

    def model_files(self) -> Finding:
        parts = self.checkpoint.contents
        size = sum(part.size for part in parts.values())
        types = "/".join(sorted({kind for part in parts.values() for kind in part.dtypes}))
        count = sum(self.checkpoint.parameters.values())
        name = self.spec.name if self.spec.name in catalog.MODELS else Path(self.spec.name).name
        text = f"{name}: configs and headers in order, {count:,} parameters, {human_bytes(size)}, {types}"
        return Finding("model", GOOD, text)

    def weights(self) -> Finding:
        from mova.checkpoint import COMPONENTS, load_components, resolve, weight_files
        from mova.inspection import CONFIGS

        folder, contents = resolve(self.spec.source, CONFIGS), self.checkpoint.contents
        if self.is_on_hub:
            missing = 0
            for name, part in contents.items():
                try:
                    weight_files(folder / name)
                except UserError:
                    missing += part.size
            if missing:
                return self.download_needed(missing)
        load_components(folder, COMPONENTS, None)  # mapped, so nothing is read but the headers
        return Finding("weights", GOOD, "every tensor is in its place, by name and shape")

    def download_needed(self, missing: int) -> Finding:
        free = shutil.disk_usage(writable_parent(hub_cache() / "file")).free
        text = f"{human_bytes(missing)} are to be downloaded, {human_bytes(free)} are free"
        if free < missing:
            advice = "free some space, or set HF_HOME to a folder on another disk"
            return Finding("weights", BROKEN, text, advice)
        advice = f"the first clip downloads them; or now: hf download {self.spec.source}"
        return Finding("weights", SLOW, text, advice)

    def memory(self) -> Finding:
        request = GenerationRequest("any", **self.spec.defaults(self.spec.preset()))
        workspace = self.checkpoint.workspace(request, self.machine, None)
        placement = self.checkpoint.place(self.machine, workspace)
        configs, machine = self.checkpoint.configs, self.machine
        seconds = estimate_time(request, configs, machine.name, machine.cores).total
        text = f"{placement.why}; a clip takes about {human_seconds(seconds)}"
        if seconds > 3600:
            advice = "take --preset draft, a smaller --size, --model pocket, or a server (--remote URL)"
            return Finding("memory", SLOW, text, advice)
        return Finding("memory", GOOD, text)

    def ffmpeg(self) -> Finding:
        program = shutil.which("ffmpeg")
        if program is None:
            advice = "clips need none; the page converts some uploads with it: install ffmpeg on the system"
            return Finding("ffmpeg", SLOW, "no ffmpeg program", advice)
        run = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=30, check=True)
        return Finding("ffmpeg", GOOD, run.stdout.partition(" Copyright")[0])

    def encoders(self) -> Finding:
        import av

        lacking = [name for name in ("libx264", "aac") if name not in av.codecs_available]
        if lacking:
            advice = "install PyAV's own wheel, not one that was built here: pip install --force-reinstall av"
            return Finding("encoders", BROKEN, f"PyAV {av.__version__} lacks {', '.join(lacking)}", advice)
        return Finding("encoders", GOOD, f"PyAV {av.__version__} with libx264 and aac")

    def folder(self, part: str, path: Path) -> Finding:
        with disk_errors(path):
            parent = writable_parent(path / "file")
            with tempfile.TemporaryFile(dir=parent) as file:
                file.write(b"written")
            free = shutil.disk_usage(parent).free
        text = f"{path} can be written, {human_bytes(free)} free"
        if free < MIN_FREE:
            return Finding(part, SLOW, text, "free some space there before a long run")
        return Finding(part, GOOD, text)

    def prompt_server(self) -> Finding:
        from mova.openai_client import endpoint_from_environment
        from mova.prompting.endpoint import EndpointWriter

        endpoint = endpoint_from_environment(self.environ)
        if endpoint is None:
            return Finding("prompt server", GOOD, "not configured (MOVA_LLM_BASE_URL)")
        answer = EndpointWriter(replace(endpoint, timeout=ANSWER_SECONDS)).probe()
        return Finding("prompt server", GOOD, f"{endpoint.redacted} answers as {answer.model}")

    def video_server(self) -> Finding:
        from mova.backends.remote import Patience, VideoServer
        from mova.openai_client import never_cancelled

        remote, url = remote_from_environment(self.environ), self.environ.get("MOVA_REMOTE_URL", "").strip()
        if remote is None and url:  # MOVA_BACKEND does not choose it
            remote = RemoteServer.checked(url, self.environ.get("MOVA_REMOTE_API_KEY", ""))
        if remote is None:
            return Finding("video server", GOOD, "not configured (MOVA_REMOTE_URL)")
        server = VideoServer(remote, never_cancelled, Patience(silence=ANSWER_SECONDS))
        server.check_health()
        served = server.served_model() or "a model"
        return Finding("video server", GOOD, f"{remote.shown} is ready, it serves {served}")


def version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def hub_cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)

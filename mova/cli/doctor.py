"""`python -m mova doctor`: an installation in one screen, each part of it tried on this device.

The report can be pasted into an issue: paths are cut down to ~, . or their last name, and no value of a
variable that holds a key is ever printed.
"""

import importlib.util
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mova
from mova import catalog
from mova.backends.settings import RemoteServer, remote_from_environment
from mova.errors import BackendError, UserError, printable
from mova.files import disk_errors, writable_parent
from mova.machine import GIB, NEEDS, Machine, estimate_time, human_bytes, human_seconds, suitable_model
from mova.request import GenerationRequest

if TYPE_CHECKING:
    import torch

    from mova.inspection import Checkpoint
    from mova.models.dual_tower import DualTower

GOOD, SLOW, BROKEN = "good", "slow", "broken"
ROOT = Path(mova.__file__).parents[1]
EXAMPLE = ROOT / "assets" / "examples" / "ball-1.png"
INSTALL = "install the requirements again: pip install -r requirements.txt"
REPORT = "report it with this page: it is not expected"
ANSWER_SECONDS = 20.0
MIN_FREE = GIB  # of a disk that clips are written to
# Of the velocities against float32 on the CPU; rounding takes 1e-6 and 1e-2 of them.
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.1}
# dB of what pocket's encoders and decoders return; measured on a CPU: 35.8 and 16.1.
MIN_PICTURE_PSNR, MIN_SOUND_SNR = 25.0, 8.0


@dataclass(frozen=True)
class Finding:
    """One part of the installation: good, slow (it works, and could be better) or broken, and what to do."""

    part: str
    state: str
    text: str
    advice: str = ""


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


def line_of(finding: Finding) -> str:
    advice = f"\n{'':<27}-> {finding.advice}" if finding.advice else ""
    return f"{finding.state:<8}{finding.part:<19}{finding.text}{advice}\n"


def shareable(text: str, environ: Mapping[str, str]) -> str:
    """`text` on one line without values of secret variables, user names in addresses and absolute paths."""
    for name, value in environ.items():
        if re.search(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL", name, re.IGNORECASE) and len(value.strip()) >= 6:
            text = text.replace(value.strip(), "***")
    text = re.sub(r"//[^/\s@]*@", "//", " ".join(text.split()))
    for folder, sign in ((Path.cwd(), "."), (Path.home(), "~")):
        if folder != folder.parent:  # a container's user may live in /
            text = re.sub(rf"{re.escape(str(folder))}(?=[/\\\s:;,'\")]|$)", sign, text)
    return printable(
        re.sub(r"(?<![\w.~:/\\])(?:[A-Za-z]:)?[/\\](?:[^/\\\s:;,'\"()]+[/\\])*(?=[^/\\\s])", ".../", text)
    )


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
            "attention": self.attention,
            "model": self.model_files,
            "weights": self.weights,
            "memory": self.memory,
            "joint forward": self.joint_forward,
            "picture and sound": self.coding,
            "ffmpeg": self.ffmpeg,
            "encoders": self.encoders,
            "clip": self.clip,
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

    def attention(self) -> Finding:
        import torch
        from torch.nn.attention import sdpa_kernel

        from mova.models.dual_tower import ATTENTION_ORDER

        dtype = getattr(torch, self.machine.dtype)
        generator = torch.Generator().manual_seed(0)
        q, k, v = (torch.randn(1, 2, 64, 128, generator=generator) for _ in range(3))
        expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        q, k, v = (each.to(self.machine.device, dtype) for each in (q, k, v))
        works, wrong = [], []
        for backend in ATTENTION_ORDER:
            name = backend.name.removesuffix("_ATTENTION").lower()
            try:
                with sdpa_kernel([backend]):
                    result = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            except RuntimeError:  # not built, or not for this device
                continue
            (works if relative_error(result, expected) < TOLERANCES[self.machine.dtype] else wrong).append(
                name
            )
        text = (
            f"{', '.join(works) or 'none'} of torch in {self.machine.dtype}; flash-attn-4 {flash_4(q, k, v)}"
        )
        if wrong or not works:
            text += f"; wrong results: {', '.join(wrong)}" if wrong else ""
            return Finding(
                "attention", BROKEN, text, "install another version of torch, or update the driver"
            )
        if self.machine.is_gpu and "cudnn" not in works:
            advice = "a torch of the card's CUDA version with cuDNN takes a quarter off every step"
            return Finding("attention", SLOW, text, advice)
        return Finding("attention", GOOD, text)

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
        from mova.placement import choose

        request = GenerationRequest("any", **self.spec.defaults(self.spec.preset()))
        workspace = self.checkpoint.workspace(request, self.machine, None)
        placement = choose(self.machine, self.checkpoint.parameters, workspace)
        configs, machine = self.checkpoint.configs, self.machine
        seconds = estimate_time(request, configs, machine.name, machine.cores).total
        text = f"{placement.why}; a clip takes about {human_seconds(seconds)}"
        if seconds > 3600:
            advice = "take --preset quick, a smaller --size, --model pocket, or a server (--remote URL)"
            return Finding("memory", SLOW, text, advice)
        return Finding("memory", GOOD, text)

    def joint_forward(self) -> Finding:
        """A small random model against float32 on the CPU: the kernels of this device, in its dtype."""
        import torch

        device, dtype = self.machine.device, self.machine.dtype
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            tower, latents = small_tower(), (torch.randn(1, 36, 3, 8, 8), torch.randn(1, 6, 25))
            text = torch.randn(1, 512, 64)
            expected = run_tower(tower, latents, text)
            found = run_tower(tower.to(device, getattr(torch, dtype)), latents, text)
        error = max(relative_error(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
        words = f"{dtype} on {self.machine.name}, {error:.0e} off float32 on the CPU"
        if not error < TOLERANCES[dtype]:
            advice = "update torch and the driver; a card that computes wrong may be too hot or damaged"
            return Finding("joint forward", BROKEN, words, advice)
        return Finding("joint forward", GOOD, words)

    def coding(self) -> Finding:
        """An example picture and a tone through pocket's encoders and decoders and back."""
        import torch

        from mova.checkpoint import load_components
        from mova.media.images import load_first_frame
        from mova.models import video_vae

        device, dtype = self.machine.device, getattr(torch, self.machine.dtype)
        networks = load_components(catalog.POCKET, ("video_vae", "audio_vae"), dtype)
        video, audio = (network.to(device) for network in networks.values())
        picture = torch.tensor(load_first_frame(EXAMPLE, 128, 224)).permute(2, 0, 1) / 127.5 - 1
        frames = picture[None, :, None].repeat(1, 1, 5, 1, 1)  # [1, 3, 5, H, W]
        time = torch.arange(audio.config.sample_rate) / audio.config.sample_rate
        tone = (0.5 * torch.sin(2 * torch.pi * 440 * time) * torch.exp(-3 * time))[None, None]  # [1, 1, S]
        with torch.no_grad():
            shown = video_vae.decode(video, video_vae.encode(video, frames.to(device, dtype)))
            heard = audio.decode(audio.encode(tone.to(device)).mode())[..., : tone.shape[-1]]
        # The peak of a picture in [-1, 1] is 2.
        psnr = decibels(4 / (shown.float().cpu() - frames).square().mean().item())
        snr = decibels(1 / relative_error(heard, tone) ** 2)
        text = f"coded and back by pocket: picture {psnr:.0f} dB PSNR, sound {snr:.0f} dB"
        if not (psnr >= MIN_PICTURE_PSNR and snr >= MIN_SOUND_SNR):
            advice = "update torch and the driver, or make clips with --dtype float32"
            return Finding("picture and sound", BROKEN, text, advice)
        return Finding("picture and sound", GOOD, text)

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

    def clip(self) -> Finding:
        """A flash with a beep, written and read: both must be where they were, at the same moment."""
        import numpy as np

        from mova.media.clips import read_clip, read_settings, write_mp4

        count, rate, sample_rate, at = 24, 24, 48000, 12
        frames = np.zeros((count, 64, 96, 3), np.uint8)
        frames[at] = 255
        start = at * sample_rate // rate
        wave = np.zeros(count * sample_rate // rate, np.float32)
        wave[start : start + 2000] = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(2000) / sample_rate)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip.mp4"
            write_mp4(path, frames, wave, rate, sample_rate, {"prompt": "a flash"})
            clip, settings = read_clip(path), read_settings(path)
        flash = clip.frames.mean(axis=(1, 2, 3)).argmax() / clip.frame_rate
        beep = int((np.abs(clip.waveform[0]) > 0.1).argmax()) / clip.sample_rate
        apart = (beep - flash) * 1000
        kept = clip.frames.shape == frames.shape and clip.waveform.size == wave.size and settings["prompt"]
        text = f"{len(clip.frames)} frames written and read, sound {apart:+.1f} ms from the picture"
        if not kept or flash * rate != at or abs(apart) > 500 / rate:
            return Finding("clip", BROKEN, text, "install PyAV again: pip install --force-reinstall av")
        return Finding("clip", GOOD, text)

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

        remote, url = remote_from_environment(self.environ), self.environ.get("MOVA_REMOTE_URL", "").strip()
        if remote is None and url:  # MOVA_BACKEND does not choose it
            remote = RemoteServer.checked(url, self.environ.get("MOVA_REMOTE_API_KEY", ""))
        if remote is None:
            return Finding("video server", GOOD, "not configured (MOVA_REMOTE_URL)")
        with VideoServer(remote, patience=Patience(silence=ANSWER_SECONDS)) as server:
            server.check_health()
            served = server.served_model()
        return Finding("video server", GOOD, f"{remote.shown} is ready, it serves {served or 'a model'}")


def version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def hub_cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def flash_4(q: "torch.Tensor", k: "torch.Tensor", v: "torch.Tensor") -> str:
    """The state of the flash-attn-4 package, tried on q, k, v [B, H, L, D], in words."""
    if not importlib.util.find_spec("flash_attn") or not importlib.util.find_spec("flash_attn.cute"):
        return "is not installed"
    try:
        from flash_attn.cute import flash_attn_func

        flash_attn_func(*(each.transpose(1, 2).contiguous() for each in (q, k, v)))
    except Exception as error:  # a package under development, whose failures have no type of their own
        return f"fails here ({type(error).__name__})"
    return "works"


def small_tower() -> "DualTower":
    """Two layers with heads as wide as the released model's, of random weights."""
    from mova.models.bridge import Bridge
    from mova.models.dit import AudioDiT, VideoDiT
    from mova.models.dual_tower import DualTower

    common: dict[str, Any] = {"text_dim": 64, "freq_dim": 64, "eps": 1e-6, "num_layers": 2}
    video = VideoDiT(dim=256, in_dim=36, ffn_dim=256, out_dim=16, patch_size=[1, 2, 2], num_heads=2, **common)
    audio = AudioDiT(dim=128, in_dim=6, ffn_dim=128, out_dim=6, patch_size=[1], num_heads=1, **common)
    bridge = Bridge(
        visual_layers=2,
        audio_layers=2,
        visual_hidden_dim=256,
        audio_hidden_dim=128,
        audio_fps=50.0,
        head_dim=128,
    )
    return DualTower(video, audio, bridge).eval()


def run_tower(
    tower: "DualTower", latents: "tuple[torch.Tensor, torch.Tensor]", text: "torch.Tensor"
) -> "tuple[torch.Tensor, torch.Tensor]":
    weight = tower.video_dit.head.head.weight
    video, audio = (each.to(weight.device, weight.dtype) for each in latents)
    time = video.new_tensor([500.0]).float()
    return tower(video, audio, time, time, text.to(weight.device), 24.0)


def relative_error(ours: "torch.Tensor", reference: "torch.Tensor") -> float:
    return ((ours.float().cpu() - reference).norm() / reference.norm()).item()


def decibels(ratio: float) -> float:
    return 10 * math.log10(ratio) if 0 < ratio < math.inf else math.nan

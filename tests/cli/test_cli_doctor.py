"""The doctor tries a whole installation for real; what is wrong with it is one line that says what to do."""

import json
import re
import shutil
import threading
from pathlib import Path

import pytest
import torch

from mova.cli import trials
from mova.cli.doctor import Examination, shareable
from mova.cli.findings import BROKEN, GOOD, SLOW
from mova.cli.main import main
from mova.kernels import FLASH_4, AttentionKernels
from mova.machine import Machine
from tests.backends.video_server import running_engine
from tests.prompting.chat_server import ScriptedServer, error

CHECKPOINT = Path(__file__).parents[1] / "golden" / "checkpoint"
SECRET = "sk-never-shown-0123456789"
CPU = Machine.probe("cpu")
PATH_OF_A_MACHINE = re.compile(r"(?<![\w.~:/])/\w")


@pytest.fixture(autouse=True)
def without_servers(monkeypatch):
    for name in ("MOVA_LLM_BASE_URL", "OPENAI_BASE_URL", "OPENAI_API_KEY", "MOVA_BACKEND", "MOVA_REMOTE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def doctor(capsys):
    """Run the command with --json: (exit code, findings by part, all that was printed)."""

    def doctor(*arguments):
        code = main(["doctor", *map(str, arguments), "--json"])
        printed = capsys.readouterr()
        report = json.loads(printed.out)
        return code, {each["part"]: each for each in report["findings"]}, printed.out + printed.err

    return doctor


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A driver's tool on the PATH that answers as `script` says."""

    def install(script):
        folder = tmp_path / "tools"
        folder.mkdir()
        (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=":")

    return install


def examination(**environ):
    return Examination(str(CHECKPOINT), "cpu", environ)


@pytest.mark.parametrize("model", [CHECKPOINT, "pocket"])
def test_this_installation_passes_with_every_part_tried(doctor, model):
    code, found, printed = doctor(model, "--device", "cpu")
    assert code == 0, printed
    assert len(found) == 19
    assert not [each for each in found.values() if each["state"] != GOOD and not each["advice"]]
    assert found["card"]["state"] == "slow"
    assert "flash, math" in found["attention"]["text"]
    assert "used: torch (flash-attn-4 needs a Hopper card or a B200)" in found["attention"]["text"]
    assert "every tensor" in found["weights"]["text"]
    assert " of " in found["memory"]["text"]
    assert "24 frames written and read, sound +0.0 ms" in found["clip"]["text"]
    assert "not configured" in found["prompt server"]["text"]
    assert "not configured" in found["video server"]["text"]
    assert not PATH_OF_A_MACHINE.search(printed)
    assert str(Path.home()) not in printed


def test_the_page_for_people_has_a_line_a_part_and_a_sum(capsys):
    assert main(["doctor", str(CHECKPOINT), "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    parts = [line for line in lines if line.startswith(("good", "slow", "broken"))]
    assert len(parts) == 19
    assert all(line.strip().startswith("-> ") for line in lines if line not in [*parts, lines[-1]])
    good, slow = (sum(part.startswith(state) for part in parts) for state in ("good", "slow"))
    assert lines[-1] == f"{good} good, {slow} slow, 0 broken"


def test_faults_are_all_named_with_advice_and_secrets_and_paths_stay_here(
    doctor, checkpoint_copy, nvidia_smi, monkeypatch, tmp_path
):
    weights = checkpoint_copy / "video_dit" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    Path("outputs").write_text("a file where a folder belongs")
    nvidia_smi("echo 'NVIDIA H200, 570.1'")
    monkeypatch.setattr(torch.version, "cuda", None)
    server = ScriptedServer()
    server.always = error(401, f"the key {SECRET} is not known")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MOVA_LLM_BASE_URL", server.url.replace("//", "//anna:hunter22@"))
    monkeypatch.setenv("MOVA_LLM_API_KEY", SECRET)
    monkeypatch.setenv("MOVA_REMOTE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("MOVA_REMOTE_API_KEY", f"{SECRET}-2")
    monkeypatch.setattr(Examination, "python", lambda self: Path(f"{tmp_path}/gone").read_text())
    code, found, printed = doctor(checkpoint_copy)
    server.shutdown()
    assert code == 1
    broken = {part for part, each in found.items() if each["state"] == BROKEN}
    assert broken == {"python", "torch", "model", "outputs", "prompt server", "video server"}
    assert all(found[part]["advice"] for part in broken)
    assert "a build for CPU, which cannot use the NVIDIA card" in found["torch"]["text"]
    assert "pytorch.org" in found["torch"]["advice"]
    assert "diffusion_pytorch_model.safetensors" in found["model"]["text"]
    assert found["model"]["advice"] == "delete it and download it again"
    assert "outputs is a file" in found["outputs"]["text"]
    assert "refused the key" in found["prompt server"]["text"]
    assert "nothing answers at http://127.0.0.1:9" in found["video server"]["text"]
    assert found["driver"]["text"] == "NVIDIA, NVIDIA H200, 570.1"
    assert found["clip"]["state"] == GOOD
    for hidden in (SECRET, "hunter22", "anna", str(tmp_path), str(Path.home())):
        assert hidden not in printed
    assert not PATH_OF_A_MACHINE.search(printed)


def test_a_missing_part_of_a_checkpoint_is_named(checkpoint_copy):
    shutil.rmtree(checkpoint_copy / "audio_vae")
    found = {each.part: each for each in Examination(str(checkpoint_copy), "cpu", {}).findings()}
    assert found["model"].state == BROKEN
    assert "checkpoint has no folder audio_vae/" in found["model"].text
    assert "part of it is missing" in found["model"].advice
    assert "weights" not in found  # nothing to say that `model` has not said


def test_a_tensor_under_another_name_is_found(checkpoint_copy):
    from safetensors.torch import load_file, save_file

    path = checkpoint_copy / "audio_dit" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["blocks.0.strange"] = tensors.pop("blocks.0.modulation")
    save_file(tensors, path)
    site = Examination(str(checkpoint_copy), "cpu", {})
    found = site.attempt("weights", site.weights)
    assert found.state == BROKEN
    assert "blocks.0.strange is unknown (and 1 more)" in found.text
    assert "download both again" in found.advice


def test_a_driver_that_does_not_answer_is_said(nvidia_smi):
    nvidia_smi("exit 9")
    found = examination().driver()
    assert found.state == BROKEN
    assert "restart" in found.advice


def test_a_device_that_is_not_there_is_the_cards_fault_alone():
    if torch.cuda.is_available():
        pytest.skip("this machine has it")
    site = Examination(str(CHECKPOINT), "cuda", {})
    assert site.attempt("card", site.card).state == BROKEN
    assert site.machine.device == "cpu"


def test_a_device_that_computes_wrong_is_found(monkeypatch):
    monkeypatch.setattr(trials, "run_tower", lambda *_: (torch.randn(4, 4), torch.randn(4)))
    assert trials.try_forward(CPU).state == BROKEN
    monkeypatch.setattr(
        "torch.nn.functional.scaled_dot_product_attention", lambda q, k, v: torch.randn_like(v)
    )
    found = trials.try_attention(CPU)
    assert found.state == BROKEN
    assert "wrong results: cudnn, flash" in found.text


def test_a_kernel_that_suits_the_card_and_fails_is_slow_and_not_broken(monkeypatch):
    monkeypatch.setattr(trials, "choose_kernels", lambda machine, dtype: AttentionKernels(video=FLASH_4))
    found = trials.try_attention(CPU)
    assert found.state == SLOW
    assert "used: torch (flash-attn-4 fails here" in found.text
    assert "pip install" in found.advice


def test_a_vae_that_loses_the_picture_is_found(monkeypatch):
    monkeypatch.setattr("mova.models.video_vae.decode", lambda vae, latents: torch.zeros(1, 3, 5, 128, 224))
    found = trials.try_coding(CPU)
    assert found.state == BROKEN
    assert found.advice


def test_a_pyav_without_the_encoders_is_found(monkeypatch):
    monkeypatch.setattr("av.codecs_available", {"aac"})
    found = examination().encoders()
    assert (found.state, "lacks libx264" in found.text) == (BROKEN, True)


def test_a_library_that_is_missing_or_of_another_version_is_named(monkeypatch):
    held = {"gradio": "5.0.0", "peft": None}
    monkeypatch.setattr("mova.cli.doctor.version_of", lambda name: held.get(name, "") or None)
    found = examination().libraries()
    assert found.state == BROKEN
    assert "gradio 5.0.0 (<7,>=6.31 needed)" in found.text
    assert "peft is missing" in found.text


def test_weights_that_are_not_here_yet_are_counted_against_the_disk():
    site = examination()
    assert site.download_needed(1000).state == "slow"
    found = site.download_needed(2**60)
    assert found.state == BROKEN
    assert "HF_HOME" in found.advice


def test_servers_that_answer_are_good():
    server = ScriptedServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found = examination(MOVA_LLM_BASE_URL=server.url, MOVA_LLM_API_KEY=SECRET).prompt_server()
    server.shutdown()
    assert (found.state, found.text) == (GOOD, f"{server.url} answers as scripted")
    with running_engine() as engine:
        found = examination(MOVA_REMOTE_URL=engine.url).video_server()
    assert found.state == GOOD
    assert "serves OpenMOSS-Team/MOVA-360p" in found.text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{home}/models/mova cannot be read", "~/models/mova cannot be read"),
        ("{here}/outputs is a file", "./outputs is a file"),
        ("{here}", "."),
        ("{here}-2/x", ".../x"),
        ("/scratch/anna/w.safetensors: bad", ".../w.safetensors: bad"),
        ("'/scratch/anna' (x)", "'.../anna' (x)"),
        (r"C:\Users\anna\mova is gone", ".../mova is gone"),
        ("see https://pytorch.org/get-started/locally", "see https://pytorch.org/get-started/locally"),
        ("https://anna:pw@host/v1 and/or 3/4", "https://host/v1 and/or 3/4"),
        (f"key {SECRET}.", "key ***."),
        ("two\nlines \x1b[31m", r"two lines \x1b[31m"),
    ],
)
def test_what_is_shown_names_no_folder_of_the_machine(text, shown):
    text = text.format(home=Path.home(), here=Path.cwd())
    assert shareable(text, {"MY_API_KEY": SECRET, "OTHER": "cannot be read"}) == shown

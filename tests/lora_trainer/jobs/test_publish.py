"""Finished runs on a Hub: what goes there, and how it fails."""

import pytest
import yaml

from lora_trainer.jobs.publish import push
from lora_trainer.jobs.runs import RunInfo, TrainingRun
from lora_trainer.journal import ADAPTER, JOURNAL, Journal
from mova.errors import UserError
from tests.hub_server import TOKEN, running_hub
from tests.ports import closed_address


@pytest.fixture
def hub(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    with running_hub(folder) as server:
        yield server


@pytest.fixture
def run(tmp_path, settings):
    """A run's folder as training leaves it (its files are not looked into here)."""
    folder = tmp_path / "run"
    config = settings(data__caption_prefix="sks ")
    journal = Journal(folder / JOURNAL)
    journal.write("run", config=config.model_dump(mode="json"))
    journal.write("base", held_out={"audio_dit": {"900": 0.4, "100": 0.6}}, training={})
    for step in (0, 4, 8):
        path = folder / "samples" / f"step-{step:06d}-0.mp4"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(f"clip {step}".encode())
        journal.write("sample", step=step, path=f"samples/{path.name}")
    journal.write("validation", step=8, held_out={"audio_dit": {"900": 0.3, "100": 0.5}}, training={})
    (folder / ADAPTER).write_bytes(b"weights")
    (folder / "log.txt").write_text("private")
    return TrainingRun(folder, RunInfo("lamp", "360p", 'It says "on" | it\'s lit.', 5, 8, "", False, 0.0))


def test_one_private_commit_with_a_card_that_plays_both(hub, run, tmp_path):
    assert push(run, "me/lamp", TOKEN, False, hub.url) == f"{hub.url}/me/lamp"
    assert hub.made["me/lamp"]["visibility"] == "private"
    ((repo, files),) = hub.commits
    assert repo == "me/lamp"
    assert files.keys() == {"README.md", ADAPTER, "samples/base.mp4", "samples/lora.mp4"}
    assert (files["samples/base.mp4"], files["samples/lora.mp4"]) == (b"clip 0", b"clip 8")
    assert files[ADAPTER] == b"weights"
    _, front, body = files["README.md"].decode().split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["base_model"] == "OpenMOSS-Team/MOVA-360p"
    assert (front["base_model_relation"], front["instance_prompt"]) == ("adapter", "sks")
    assert front["widget"] == [{"text": run.about.prompt, "output": {"url": "samples/lora.mp4"}}]
    for name in ("base", "lora"):
        assert f'src="{hub.url}/me/lamp/resolve/main/samples/{name}.mp4"' in body
    assert "| `audio_dit` | 0.5000 | 0.4000 |" in body
    assert "--prompt 'It says \"on\" | it’s lit.'" in body
    assert str(tmp_path) not in files["README.md"].decode()
    assert not list(run.folder.glob(".mova-*"))


def test_a_run_replaces_its_own_repo_and_nobody_elses(hub, run):
    push(run, "me/lamp", TOKEN, True, hub.url)
    assert hub.made["me/lamp"]["visibility"] == "public"
    push(run, "me/lamp", TOKEN, False, hub.url)
    assert len(hub.commits) == 2
    hub.made["me/old"] = {}
    with pytest.raises(UserError, match="me/old exists already; choose another name"):
        push(run, "me/old", TOKEN, False, hub.url)


def test_what_can_go_wrong_is_a_sentence(hub, run):
    for repo, token, sentence in (
        ("lamp", TOKEN, "'lamp' is not a repo; give OWNER/NAME"),
        ("me/lamp", "", "nobody is logged in to the Hub here"),
        ("me/lamp", "hf_wrong", "the Hub does not know this token"),
        ("org/lamp", TOKEN, "this account may not write to org/lamp"),
    ):
        with pytest.raises(UserError, match=sentence):
            push(run, repo, token, False, hub.url)
    closed = closed_address()
    with pytest.raises(UserError, match="the Hub cannot be reached"):
        push(run, "me/lamp", TOKEN, False, closed)
    assert hub.commits == []
    (run.folder / ADAPTER).unlink()
    with pytest.raises(UserError, match="no adapter yet"):
        push(run, "me/lamp", TOKEN, False, hub.url)

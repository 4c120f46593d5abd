"""A finished run on the Hub: the adapter, and a card that plays its clip next to the base model's.

Nothing of the data set is uploaded, and no path of this machine. Repos are private unless asked otherwise.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from lora_trainer.jobs.runs import TrainingRun
from lora_trainer.journal import ADAPTER
from mova import hub
from mova.catalog import MODELS, REPO_ID
from mova.errors import UserError
from mova.files import read_json, temporary_beside, write_json

PUBLISHED = "published.json"
TAGS = ["lora", "mova", "image-to-video", "video-with-audio", "template:sd-lora"]
CARD = """---
{front}---

# {name}

A LoRA for [MOVA]({base_url}), video with synchronised sound: {clips} clips, {steps} steps.
{players}
## Use

```bash
python -m mova generate --lora {repo} --prompt '{prompt}'
```

```python
pipe.load_lora_weights("{repo}")
```

## Training

{recipe}
{losses}
Show people only with their consent, and say that such clips are made by a model.
"""
PLAYERS = """
| base model | with this LoRA |
| --- | --- |
| {base_player} | {lora_player} |

{prompt}

Same prompt, same seed, after {steps} steps.
"""


def push(run: TrainingRun, repo: str, token: str, is_public: bool, endpoint: str | None = None) -> str:
    """Upload a finished run as the model repo `repo` in one commit; its address.

    A repo that exists is only replaced if this run made it.

    Raises:
        UserError: it is not finished, the name is not a repo's or is taken, the token may not write, or the
            Hub cannot be reached.
    """
    if run.adapter is None:
        raise UserError("this run has no adapter yet; let it learn to its end")
    if not REPO_ID.fullmatch(repo):
        raise UserError(f"{repo!r} is not a repo; give OWNER/NAME, such as your-name/anna")
    if not token:
        raise UserError("nobody is logged in to the Hub here; run `hf auth login`, then upload again")
    api, made = HfApi(endpoint=endpoint, token=token), read_json(run.folder / PUBLISHED).get("repo") == repo
    with temporary_beside(run.folder / "hub") as folder, upload_errors(repo):
        stage(run, folder, repo, api.endpoint)
        api.create_repo(repo, private=not is_public, exist_ok=made)
        write_json(run.folder / PUBLISHED, {"repo": repo})
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload the adapter")
    return f"{api.endpoint}/{repo}"


@contextmanager
def upload_errors(repo: str) -> Iterator[None]:
    """Turn failures of writing to a repo into a sentence; the others as `hub.hub_errors` does."""
    messages = {
        401: "the Hub does not know this token; log in again with `hf auth login`",
        403: f"this account may not write to {repo}; choose a repo or a token of your own",
        409: f"{repo} exists already; choose another name",
    }
    with hub.hub_errors(repo):
        try:
            yield
        except HfHubHTTPError as error:
            if error.response.status_code in messages:
                raise UserError(messages[error.response.status_code]) from error
            raise


def stage(run: TrainingRun, folder: Path, repo: str, endpoint: str) -> None:
    """The files of the repo, in `folder`."""
    (folder / "samples").mkdir(parents=True)
    shutil.copyfile(run.adapter, folder / ADAPTER)
    events = run.events()
    made = [run.folder / event["path"] for event in events if event["event"] == "sample"]
    made = [path for path in made if path.is_file()]
    if len(made) > 1:
        shutil.copyfile(made[0], folder / "samples" / "base.mp4")
        shutil.copyfile(made[-1], folder / "samples" / "lora.mp4")
    (folder / "README.md").write_text(card(run, repo, events, endpoint, len(made) > 1), encoding="utf-8")


def card(run: TrainingRun, repo: str, events: list[dict[str, Any]], endpoint: str, has_samples: bool) -> str:
    about = run.about
    config = next(event["config"] for event in events if event["event"] == "run")
    base = MODELS[about.model].source if about.model in MODELS else about.model
    is_repo = about.model in MODELS or (REPO_ID.fullmatch(base) and not Path(base).exists())
    front: dict[str, Any] = {"tags": TAGS, "pipeline_tag": "image-to-video"}
    if is_repo:
        front |= {"base_model": base, "base_model_relation": "adapter"}
    if trigger := config["data"]["caption_prefix"].strip():
        front["instance_prompt"] = trigger
    if has_samples:
        front["widget"] = [{"text": about.prompt, "output": {"url": "samples/lora.mp4"}}]
    url = f"{endpoint}/{repo}/resolve/main"
    prompt = " ".join(about.prompt.split())
    base_player, lora_player = (
        f'<video controls src="{url}/samples/{name}.mp4"></video>' for name in ("base", "lora")
    )
    players = PLAYERS.format(
        base_player=base_player, lora_player=lora_player, prompt=prompt, steps=about.steps
    )
    return CARD.format(
        front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True),
        name=about.name,
        base_url=f"https://huggingface.co/{base}" if is_repo else "https://arxiv.org/abs/2602.08794",
        clips=about.clips,
        steps=about.steps,
        repo=repo,
        prompt=(prompt or "...").replace("'", "’"),
        players=players if has_samples else "",
        recipe=recipe(config),
        losses=losses(events),
    )


def recipe(config: dict[str, Any]) -> str:
    towers = {name: tower for name, tower in config["towers"].items() if tower["train"]}
    ranks = ", ".join(f"`{name}` {tower['rank']}" for name, tower in towers.items())
    run, optimizer = config["run"], config["optimizer"]
    return (
        f"Preset `{config['preset']}`, recipe `{config['recipe']}`; ranks {ranks}; {optimizer['name']}, "
        f"learning rate {optimizer['learning_rate'] or 1e-4:g}, "
        f"{run['batch_size']} × {run['accumulation']} clips a step, seed {run['seed']}.\n"
    )


def losses(events: list[dict[str, Any]]) -> str:
    """The fixed-noise losses of the base model and at the end, as a table."""
    base = next((event for event in events if event["event"] == "base"), None)
    last = next((event for event in reversed(events) if event["event"] == "validation"), None)
    if base is None or last is None:
        return ""
    part = "held_out" if base["held_out"] else "training"
    whose = "held-out clips" if part == "held_out" else "training clips"
    title = f"Loss on {whose}, the same noise before and after:\n"
    rows = [title, "| | base | with this LoRA |", "| --- | --- | --- |"]
    for tower, bins in base[part].items():
        before, after = (sum(each.values()) / len(each) for each in (bins, last[part][tower]))
        rows.append(f"| `{tower}` | {before:.4f} | {after:.4f} |")
    return "\n".join([*rows, ""])

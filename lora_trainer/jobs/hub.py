"""Training on Hugging Face Jobs with the account of who asks: the page's side of it. No torch.

The clips go to a private dataset of theirs, the settings to a private model repo; a job there runs `in_job`,
which brings into that repo what it learns as it comes. Here such a run is a folder like any other (`runs`)
with a JOB file, and `look` brings over what is new. The token is in headers and is the job's secret, and
nowhere else.
"""

import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, JobHardwareInfo, JobInfo
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from pydantic import TypeAdapter, ValidationError

from lora_trainer.jobs import hub_sync
from lora_trainer.jobs.runs import (
    ABOUT,
    CONFIG,
    DATA,
    JOB,
    LIVE_STAGES,
    OUTCOME,
    PHASE,
    REFUSED,
    RUN_ID,
    SENDING,
    STOP,
    RunInfo,
    TrainingRun,
    read_run,
)
from lora_trainer.manifest import HUB
from mova.errors import BackendError, UserError
from mova.files import read_json, write_json
from mova.hub import reason
from mova.machine import find_gpu

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


SAID = {
    401: "this sign-in has ended; sign in again. A job that runs goes on without it",
    402: "this Hugging Face account has no credit for Jobs; add some at https://huggingface.co/settings/billing",
    403: "this sign-in may not do that; sign out, sign in again and allow jobs and repos",
    404: "the Hub no longer has this job or its repo; take from here what there is",
    429: "the Hub has been asked too often; wait a minute",
}


@contextmanager
def job_errors() -> Iterator[None]:
    """What the Hub may answer, or not, in a sentence that says what to do."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in SAID:
            raise UserError(SAID[status]) from error
        raise BackendError(f"the Hub failed ({status}); nothing is lost, try again in a minute") from error
    except (httpx2.TransportError, LocalEntryNotFoundError) as error:
        raise BackendError(
            f"the Hub cannot be reached ({reason(error)}); nothing is lost, try again in a minute"
        ) from error


IMAGE = "ghcr.io/astral-sh/uv:python3.12-bookworm"  # what the Hub's own library starts scripts in
LABEL = "mova-lora"
MOST_FOUND, LOG_LINES = 5, 80
# $0 is this toolkit, a Space or a git address; $1 the run's repo; $2 the seconds until the Hub ends the job;
# $3 when the token does. uv picks the torch that the machine's driver can run.
COMMAND = """
case "$0" in
  https://*) git clone --depth 1 "$0" mova ;;
  *) uvx --from huggingface_hub hf download "$0" --repo-type space --local-dir mova ;;
esac
cd mova
uv pip install --system --torch-backend=auto -r requirements.txt
exec python -m lora_trainer.jobs.hub_entry "$1" $(($2 - SECONDS)) "$3"
"""


@dataclass(frozen=True)
class HubLogin:
    """Who is signed in, and until when (seconds since 1970)."""

    name: str
    token: str = field(repr=False)
    scopes: tuple[str, ...]
    ends: float


class HubJobs:
    """Jobs that train with the toolkit in `code`, a Space or a git address, in `image`."""

    def __init__(self, code: str, image: str = IMAGE, endpoint: str | None = None) -> None:
        self.code, self.image, self.endpoint = code, image, endpoint

    def offers(self) -> list[Hardware]:
        """The machines that can train, with today's prices, the cheapest first.

        Raises UserError, BackendError.
        """
        with job_errors():
            found = HfApi(endpoint=self.endpoint, token=False).list_jobs_hardware()
        offers = [offer for each in found if (offer := read_offer(each))]
        if not offers:
            raise BackendError("the Hub names no machine with a price that can be read; try again later")
        return sorted(offers, key=lambda offer: offer.price)

    def send(self, run: TrainingRun, login: HubLogin) -> None:
        """Bring clips and settings to the Hub; may be done again. Raises UserError, BackendError."""
        api, repo = self._api(login), repo_of(run, login)
        settings = read_json(run.folder / CONFIG)
        settings |= {"output": "run", "data": settings["data"] | {"path": f"{HUB}{repo}-clips"}}
        settings["run"].pop("device", None)
        write_json(run.folder / CONFIG, settings)
        with job_errors():
            clips = {"repo_id": f"{repo}-clips", "repo_type": "dataset"}
            api.create_repo(**clips, private=True, exist_ok=True)
            api.create_repo(repo, private=True, exist_ok=True)
            api.upload_folder(**clips, folder_path=run.folder / DATA, commit_message="Clips to learn from")
            api.upload_folder(
                repo_id=repo,
                folder_path=run.folder,
                allow_patterns=[ABOUT, CONFIG],
                commit_message="Settings",
            )

    def begin(self, run: TrainingRun, login: HubLogin, hardware: Hardware, seconds: int) -> None:
        """Start a job that the Hub ends after `seconds`, unless one of this run is under way.

        Raises UserError, BackendError.
        """
        api, repo = self._api(login), repo_of(run, login)
        terms = vars(JobTerms(repo, hardware.flavor, hardware.name, hardware.price, seconds))
        labels = {"app": LABEL, "run": run.run_id}
        with job_errors():
            old = [name for name in (OUTCOME, PHASE, STOP) if api.file_exists(repo, name)]
            live = list(api.list_jobs(labels=labels, status=["SCHEDULING", "RUNNING"], namespace=login.name))
            if live and OUTCOME in old:
                raise UserError("the last job of this run is just ending; wait a minute")
            if not live:
                operations = [
                    *map(CommitOperationDelete, old),
                    CommitOperationAdd(JOB, json.dumps(terms).encode()),
                ]
                api.create_commit(repo, operations, commit_message=f"Train on {hardware.name}")
                live = [self._run(api, run, login, hardware, seconds)]
        for name in (OUTCOME, PHASE, STOP):
            (run.folder / name).unlink(missing_ok=True)
        write_json(run.folder / JOB, terms | state_of(live[0]))

    def _run(
        self, api: HfApi, run: TrainingRun, login: HubLogin, hardware: Hardware, seconds: int
    ) -> JobInfo:
        repo, name = repo_of(run, login), name_of(run)
        return api.run_job(
            image=self.image,
            command=["bash", "-ec", COMMAND, self.code, repo, str(seconds), str(int(login.ends))],
            secrets={"HF_TOKEN": login.token},
            flavor=hardware.flavor,
            timeout=seconds,
            name=name,
            labels={"app": LABEL, "run": run.run_id, "repo": name},
            namespace=login.name,
        )

    def note(
        self, run: TrainingRun, login: HubLogin, hardware: Hardware, seconds: int, message: str = ""
    ) -> None:
        """Keep what is to be started or, with a message why, was not, so that it can be tried again."""
        terms = JobTerms(repo_of(run, login), hardware.flavor, hardware.name, hardware.price, seconds)
        state = {"id": "", "url": "", "stage": REFUSED if message else SENDING, "message": message}
        write_json(run.folder / JOB, vars(terms) | state | {"running": 0, "heard": time.time()})

    def look(self, run: TrainingRun, login: HubLogin) -> None:
        """Ask how the job is, and fetch what it has sent. Raises UserError, BackendError."""
        job, api = run.job, self._api(login)
        with job_errors():
            info = api.inspect_job(job_id=job["id"], namespace=namespace(job))
            sha = hub_sync.fetch(api, job["repo"], run.folder, job.get("sha", ""))
            if state_of(info)["stage"] not in LIVE_STAGES and not (run.folder / OUTCOME).exists():
                asked = {"job_id": job["id"], "namespace": namespace(job), "tail": LOG_LINES}
                hub_sync.take_log(api.fetch_job_logs(**asked), run.folder)
        write_json(run.folder / JOB, job | state_of(info) | {"sha": sha})

    def stop(self, run: TrainingRun, login: HubLogin) -> None:
        """Ask the job to save and stop; before it has begun, or the second time, cancel it.

        Raises UserError, BackendError.
        """
        job, api = run.job, self._api(login)
        with job_errors():
            if job["stage"] == "RUNNING" and not (run.folder / STOP).exists():
                asked = CommitOperationAdd(STOP, json.dumps({"time": time.time()}).encode())
                api.create_commit(job["repo"], [asked], commit_message="Stop")
                write_json(run.folder / STOP, {"time": time.time()})
                return
            api.cancel_job(job_id=job["id"], namespace=namespace(job))
        self.look(run, login)

    def forget(self, run: TrainingRun, login: HubLogin) -> None:
        """Never find the run's jobs again. What is on the Hub stays. Raises UserError, BackendError."""
        api = self._api(login)
        with job_errors():
            for info in api.list_jobs(labels={"app": LABEL, "run": run.run_id}, namespace=login.name):
                api.update_job_labels(job_id=info.id, labels={}, namespace=login.name)

    def find(self, login: HubLogin, folder: Path) -> None:
        """Make folders in `folder` for runs of jobs that this disk does not have (any more).

        Raises UserError, BackendError.
        """
        api = self._api(login)
        with job_errors():
            for number, info in enumerate(api.list_jobs(labels={"app": LABEL}, namespace=login.name)):
                labels = info.labels or {}
                run_id, repo = labels.get("run", ""), f"{login.name}/{labels.get('repo')}"
                if number >= MOST_FOUND:
                    return
                if RUN_ID.fullmatch(run_id) and not (folder / run_id / ABOUT).exists():
                    self._adopt(api, info, repo, folder / run_id)
                    if run := read_run(folder / run_id):
                        self.look(run, login)

    def _adopt(self, api: HfApi, info: JobInfo, repo: str, folder: Path) -> None:
        try:
            texts = [
                Path(api.hf_hub_download(repo, name, local_dir=folder / hub_sync.INBOX)).read_bytes()
                for name in (ABOUT, JOB)
            ]
            about = TypeAdapter(RunInfo).validate_json(texts[0])
            terms = TypeAdapter(JobTerms).validate_json(texts[1])
        except (ValidationError, RepositoryNotFoundError, RemoteEntryNotFoundError):  # not as it was made
            shutil.rmtree(folder, ignore_errors=True)
            return
        # As if it ran, until the first look has brought what it says itself.
        write_json(folder / JOB, vars(terms) | {"repo": repo} | state_of(info) | {"stage": "RUNNING"})
        write_json(folder / ABOUT, vars(about))

    def _api(self, login: HubLogin) -> HfApi:
        return HfApi(endpoint=self.endpoint, token=login.token)


@dataclass(frozen=True)
class JobTerms:
    """What was agreed on for a job, as its repo has it."""

    repo: str
    flavor: str
    hardware: str
    price: float
    seconds: int


def state_of(info: JobInfo) -> dict[str, Any]:
    """The job as the JOB file has it."""
    running = (info.durations and info.durations.running_secs) or 0
    stage, message = str(getattr(info.status.stage, "value", info.status.stage)), info.status.message or ""
    state = {"id": info.id, "url": info.url, "stage": stage, "message": message}
    return state | {"running": running, "heard": time.time()}


def namespace(job: dict[str, Any]) -> str:
    return job["repo"].partition("/")[0]


def name_of(run: TrainingRun) -> str:
    """The name of the run's repo and job."""
    return f"{re.sub(r'[^A-Za-z0-9-]+', '-', run.about.name).strip('-')[:60] or 'lora'}-{run.run_id[:8]}"


def repo_of(run: TrainingRun, login: HubLogin) -> str:
    return f"{login.name}/{name_of(run)}"

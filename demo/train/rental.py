"""The train tab's runs on Hugging Face Jobs: machines, prices, time limits and progress."""

import re
import shutil
import threading
import time
from pathlib import Path

from demo.service import DemoService
from demo.train.form import is_small
from demo.train.worker import Cost
from lora_trainer.jobs.hub import IMAGE, HubJobs, HubLogin, Offer
from lora_trainer.jobs.runs import (
    DATA,
    JOB,
    LIVE_STAGES,
    OUTCOME,
    REFUSED,
    SENDING,
    RunRegistry,
    TrainingRun,
)
from mova.catalog import MODELS, REPO_ID
from mova.errors import BackendError, UserError
from mova.files import write_json
from mova.machine import human_seconds

SCOPE = "jobs"
PRICES_SECONDS, REFRESH_SECONDS = 300, 10  # for which an answer of the Hub is reused
# A job is ended after PATIENCE times the estimate plus LEAST_SECONDS; saving takes SAVE_SECONDS of that.
PATIENCE, LEAST_SECONDS, MOST_SECONDS, SAVE_SECONDS = 2, 1800, 48 * 3600, 600
LEAST_GIB, LEAST_CORES = 79, 8  # of the machine that is proposed
SIGN_IN = (
    "Sign in, and train on a machine that you rent from Hugging Face by the minute (Jobs). Your account "
    "pays; you see the price before you start. Clips and results go to private repos of yours."
)
NO_SCOPE = "this sign-in may not start jobs; sign out, sign in again and allow it"


class JobRental:
    """Jobs for visitors who are signed in. `is_open`: this is a Space that may start them."""

    def __init__(self, demo: DemoService) -> None:
        settings = demo.settings
        self.model, self.is_small = job_model(demo), is_small(demo.model)
        scopes = re.split(r"[\s,]+", settings.oauth_scopes)
        is_own_space = settings.space_id and settings.remote is None
        self.is_open = bool(is_own_space and SCOPE in scopes and self.model)
        self.hub = HubJobs(settings.jobs_code or settings.space_id, settings.jobs_image or IMAGE)
        self._offers: tuple[float, list[Offer]] = (0.0, [])
        self._uploading: dict[str, bool] = {}  # by run: False once it was stopped
        self._refreshed: dict[str, tuple[float, str]] = {}  # by run: the time, and what went wrong

    def offers(self) -> list[Offer]:
        """Machines for this model with their present prices, the cheapest first.

        Raises UserError, BackendError.
        """
        when, offers = self._offers
        if not offers or time.monotonic() - when > PRICES_SECONDS:
            offers = [offer for offer in self.hub.offers() if offer.gpu or self.is_small]
            self._offers = (time.monotonic(), offers)
        return offers

    def proposed(self) -> Offer:
        """The cheapest machine that should be enough. Raises UserError, BackendError."""
        offers = self.offers()
        enough = [
            offer
            for offer in offers
            if (offer.cores >= LEAST_CORES if self.is_small else offer.gpu.gib >= LEAST_GIB)
        ]
        if not offers:
            raise UserError("the Hub has no machine for this model just now; try again later")
        return (enough or offers)[0]

    def offer(self, flavor: str) -> Offer:
        """The machine of that name. Raises UserError: it is no longer offered. BackendError."""
        found = next((offer for offer in self.offers() if offer.flavor == flavor), None)
        if found is None:
            raise UserError("the Hub no longer has this machine; open the tab again and choose another")
        return found

    def limit(self, cost: Cost, login: HubLogin | None = None) -> int:
        """Seconds after which the Hub ends a job. Raises UserError: the sign-in would expire before."""
        planned = sum(cost.seconds.values())
        seconds = min(MOST_SECONDS, PATIENCE * planned + LEAST_SECONDS)
        if login is not None:
            left = login.ends - time.time() - SAVE_SECONDS
            if left < planned:
                raise UserError(
                    f"this sign-in ends in {human_seconds(max(0, left + SAVE_SECONDS))}, before the run "
                    f"would ({human_seconds(planned)}); sign out and in again, or ask for fewer steps"
                )
            seconds = min(seconds, left)
        return int(seconds)

    def start(self, run: TrainingRun, login: HubLogin, hardware: Offer, seconds: int) -> None:
        """Upload the data and start a job, in a thread; a refusal of the Hub becomes the run's status."""
        (run.folder / OUTCOME).unlink(missing_ok=True)
        self._uploading[run.run_id] = True
        self.hub.record(run, login, hardware, seconds)
        job = (run, login, hardware, seconds)
        threading.Thread(target=self._upload, args=job, daemon=True, name="upload").start()

    def _upload(self, run: TrainingRun, login: HubLogin, hardware: Offer, seconds: int) -> None:
        try:
            if (run.folder / DATA).exists():
                self.hub.upload(run, login)
                shutil.rmtree(run.folder / DATA)
            if self._uploading[run.run_id]:
                self.hub.submit(run, login, hardware, seconds)
            else:
                self.hub.record(run, login, hardware, seconds, "it was stopped before its job started")
        except (UserError, BackendError) as error:
            self.hub.record(run, login, hardware, seconds, f"{error}, then resume")
        finally:
            del self._uploading[run.run_id]

    def stop(self, run: TrainingRun, login: HubLogin | None) -> None:
        """Stop an upload or a job. Raises UserError, BackendError."""
        if run.run_id in self._uploading:
            self._uploading[run.run_id] = False
        elif run.job["stage"] != SENDING:  # else the next refresh reports that it was interrupted
            self.hub.stop(run, require_login(login))

    def resume(self, run: TrainingRun, login: HubLogin | None) -> None:
        """Resume a run in another job. Raises UserError, BackendError."""
        login, job = require_login(login), run.job
        if run.run_id in self._uploading:
            raise UserError("it is being uploaded already")
        if job["id"] and job["stage"] in LIVE_STAGES:  # silent so far, but it may be running
            self.hub.refresh(run, login)
            if run.status().is_live:
                raise UserError("its job is still running; wait, or stop it first")
        left = login.ends - time.time() - SAVE_SECONDS
        if left < LEAST_SECONDS:
            raise UserError("this sign-in ends soon; sign out and in again, then resume")
        self.start(run, login, self.offer(job["flavor"]), int(min(job["seconds"], left)))

    def refresh_all(self, registry: RunRegistry, owner: str, login: HubLogin) -> str:
        """Refresh all of the owner's jobs, also those that only the Hub knows; the first problem, or empty.

        Raises UserError, BackendError.
        """
        self.hub.find(login, registry.root / owner)
        live = [run for run in registry.runs(owner) if run.job.get("stage") in LIVE_STAGES]
        return next(filter(None, [self.refresh(run, login) for run in live]), "")

    def refresh(self, run: TrainingRun, login: HubLogin | None) -> str:
        """Fetch the results of a job, at most every REFRESH_SECONDS; the problem with that, or empty."""
        if run.run_id in self._uploading:
            return ""
        if (job := run.job)["stage"] == SENDING:
            message = "the upload was interrupted with the page; nothing is lost, resume"
            write_json(run.folder / JOB, job | {"stage": REFUSED, "message": message})
            return ""
        when, problem = self._refreshed.get(run.run_id, (-REFRESH_SECONDS, ""))
        if time.monotonic() - when < REFRESH_SECONDS:
            return problem
        try:
            self.hub.refresh(run, require_login(login))
            problem = ""
        except (UserError, BackendError) as error:
            problem = str(error)
        self._refreshed[run.run_id] = (time.monotonic(), problem)
        return problem


def require_login(login: HubLogin | None) -> HubLogin:
    """The login, if it may start jobs. Raises UserError: nobody is signed in, or not for jobs."""
    if login is None:
        raise UserError("nobody is signed in; sign in above. A running job continues without it")
    if SCOPE not in login.scopes:
        raise UserError(NO_SCOPE)
    return login


def job_model(demo: DemoService) -> str:
    """The model's name on another machine; empty where it is a folder of this one."""
    name = demo.settings.jobs_model or demo.model_name
    is_repo = REPO_ID.fullmatch(name) and not Path(name).expanduser().is_dir()
    return name if name in MODELS or is_repo else ""

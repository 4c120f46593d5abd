"""The train tab's runs on Hugging Face Jobs: where they can be had, at which price, for how long."""

import re
import shutil
import threading
import time
from pathlib import Path

from demo.service import DemoService
from demo.train.form import is_small
from demo.train.worker import Cost
from lora_trainer.jobs.hub import IMAGE, Hardware, HubJobs, HubLogin
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
from mova.machine import GPUS, human_seconds

SCOPE = "jobs"
PRICES_SECONDS, LOOK_SECONDS = 300, 10  # for which an answer of the Hub stands
# A job is ended after so many times what was counted, and what it takes at least; saving takes some of it.
PATIENCE, LEAST_SECONDS, MOST_SECONDS, SAVE_SECONDS = 2, 1800, 48 * 3600, 600
LEAST_GIB, LEAST_CORES = 79, 8  # of the machine that is proposed
SIGN_IN = (
    "Sign in, and train on a machine that you rent from Hugging Face by the minute (Jobs). Your account "
    "pays; the price is told before you start. Clips and results go to private repos of yours."
)
NO_SCOPE = "this sign-in may not start jobs; sign out, sign in again and allow it"


class JobRental:
    """Jobs for who is signed in. `is_open`: this is a Space that may ask for them."""

    def __init__(self, studio: DemoService) -> None:
        settings = studio.settings
        self.model, self.is_small = job_model(studio), is_small(studio.model)
        scopes = re.split(r"[\s,]+", settings.oauth_scopes)
        is_ours = settings.space_id and settings.backend == "local"
        self.is_open = bool(is_ours and SCOPE in scopes and self.model)
        self.hub = HubJobs(settings.jobs_code or settings.space_id, settings.jobs_image or IMAGE)
        self._offers: tuple[float, list[Hardware]] = (0.0, [])
        self._sending: dict[str, bool] = {}  # by run: whether it is still wanted
        self._looks: dict[str, tuple[float, str]] = {}  # by run: when, and what went wrong

    def offers(self) -> list[Hardware]:
        """Machines for this model with their prices of now, the cheapest first.

        Raises UserError, BackendError.
        """
        asked, offers = self._offers
        if not offers or time.monotonic() - asked > PRICES_SECONDS:
            offers = [offer for offer in self.hub.offers() if offer.gpu or self.is_small]
            self._offers = (time.monotonic(), offers)
        return offers

    def proposed(self) -> Hardware:
        """The cheapest that should do. Raises UserError, BackendError."""
        offers, gib = self.offers(), {gpu.name: gpu.gib for gpu in GPUS}
        enough = [
            offer
            for offer in offers
            if (offer.cores >= LEAST_CORES if self.is_small else gib[offer.gpu] >= LEAST_GIB)
        ]
        if not offers:
            raise UserError("the Hub has no machine for this model just now; try again later")
        return (enough or offers)[0]

    def offer(self, flavor: str) -> Hardware:
        """Raises UserError: it is not to be had. BackendError."""
        found = next((offer for offer in self.offers() if offer.flavor == flavor), None)
        if found is None:
            raise UserError("the Hub no longer has this machine; open the tab again and choose another")
        return found

    def limit(self, cost: Cost, login: HubLogin | None = None) -> int:
        """Seconds after which the Hub ends a job, whatever happens.

        Raises UserError: the sign-in ends before the run would.
        """
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

    def go(self, run: TrainingRun, login: HubLogin, hardware: Hardware, seconds: int) -> None:
        """Send what is not there yet and start a job, beside the page: it takes its time.

        What the Hub refuses is the run's status.
        """
        (run.folder / OUTCOME).unlink(missing_ok=True)
        self._sending[run.run_id] = True
        self.hub.note(run, login, hardware, seconds)
        asked = (run, login, hardware, seconds)
        threading.Thread(target=self._send, args=asked, daemon=True, name="send").start()

    def _send(self, run: TrainingRun, login: HubLogin, hardware: Hardware, seconds: int) -> None:
        try:
            if (run.folder / DATA).exists():
                self.hub.send(run, login)
                shutil.rmtree(run.folder / DATA)
            if self._sending[run.run_id]:
                self.hub.begin(run, login, hardware, seconds)
            else:
                self.hub.note(run, login, hardware, seconds, "it was stopped before its job began")
        except (UserError, BackendError) as error:
            self.hub.note(run, login, hardware, seconds, f"{error}, then go on")
        finally:
            del self._sending[run.run_id]

    def stop(self, run: TrainingRun, login: HubLogin | None) -> None:
        """Raises UserError, BackendError."""
        if run.run_id in self._sending:
            self._sending[run.run_id] = False
        elif run.job["stage"] != SENDING:  # else the next look tells that it broke off
            self.hub.stop(run, checked(login))

    def again(self, run: TrainingRun, login: HubLogin | None) -> None:
        """Go on with a run in another job. Raises UserError, BackendError."""
        login, job = checked(login), run.job
        if run.run_id in self._sending:
            raise UserError("it is being sent already")
        if job["id"] and job["stage"] in LIVE_STAGES:  # it was silent, but may run
            self.hub.look(run, login)
            if run.status().is_live:
                raise UserError("its job is under way")
        left = login.ends - time.time() - SAVE_SECONDS
        if left < LEAST_SECONDS:
            raise UserError("this sign-in ends soon; sign out and in again, then go on")
        self.go(run, login, self.offer(job["flavor"]), int(min(job["seconds"], left)))

    def catch_up(self, jobs: RunRegistry, owner: str, login: HubLogin) -> str:
        """Bring what happened while nobody looked, also to runs that only the Hub knows; what went wrong.

        Raises UserError, BackendError.
        """
        self.hub.find(login, jobs.root / owner)
        live = [run for run in jobs.runs(owner) if run.job.get("stage") in LIVE_STAGES]
        return next(filter(None, [self.look(run, login) for run in live]), "")

    def look(self, run: TrainingRun, login: HubLogin | None) -> str:
        """Bring what a job has sent, now and then; what went wrong with that."""
        if run.run_id in self._sending:
            return ""
        if (job := run.job)["stage"] == SENDING:
            message = "sending broke off with the page; nothing is lost, go on"
            write_json(run.folder / JOB, job | {"stage": REFUSED, "message": message})
            return ""
        when, told = self._looks.get(run.run_id, (-LOOK_SECONDS, ""))
        if time.monotonic() - when < LOOK_SECONDS:
            return told
        try:
            self.hub.look(run, checked(login))
            told = ""
        except (UserError, BackendError) as error:
            told = str(error)
        self._looks[run.run_id] = (time.monotonic(), told)
        return told


def checked(login: HubLogin | None) -> HubLogin:
    """Raises UserError: nobody is signed in, or not for jobs."""
    if login is None:
        raise UserError("nobody is signed in; sign in above. A job that runs goes on without it")
    if SCOPE not in login.scopes:
        raise UserError(NO_SCOPE)
    return login


def job_model(studio: DemoService) -> str:
    """What the model is called on another machine; empty where it is a folder of this one."""
    name = studio.settings.jobs_model or studio.model_name
    is_repo = REPO_ID.fullmatch(name) and not Path(name).expanduser().is_dir()
    return name if name in MODELS or is_repo else ""

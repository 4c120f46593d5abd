"""The train tab's runs on Hugging Face Jobs, from form to adapter, without a browser."""

import base64
import hashlib
import json
import os
import time

import gradio as gr
import httpx2
import itsdangerous
import pytest
from gradio.helpers import special_args

from demo.service import Visitors
from demo.train import html
from demo.train.form import TrainForm
from demo.train.runs import login_of, signed
from demo.train.tab import TrainTab
from demo.worker import WorkerProcess
from lora_trainer.clip_folder import ClipSet
from lora_trainer.jobs.hub import HubLogin
from lora_trainer.jobs.runs import JOB, RunRegistry
from lora_trainer.journal import ADAPTER
from mova.errors import UserError
from mova.files import write_json
from tests.browser.page import serving
from tests.hub_server import TOKEN, running_hub

SCOPES = ("openid", "profile", "contribute-repos", "jobs")
SPACE = {
    "SPACES_ZERO_GPU": "1",
    "SPACE_ID": "anna/mova",
    "OAUTH_SCOPES": " ".join(SCOPES),
    "MOVA_JOBS_MODEL": "org/tiny",
}
WISHES = TrainForm("lamp", steps=20)


@pytest.fixture(scope="module")
def running(golden):
    with running_hub(golden / "checkpoint") as server:
        yield server


@pytest.fixture
def hub(running):
    running.forget()
    return running


@pytest.fixture(scope="module")
def worker(running, tmp_path_factory):
    """Started where the environment names this Hub."""
    worker = WorkerProcess()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", running.url)
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        worker.call(os.getpid)
    yield worker
    worker.close()


@pytest.fixture
def login():
    return HubLogin("me", TOKEN, SCOPES, time.time() + 24 * 3600)


@pytest.fixture
def open_space(open_train_service, hub):
    def open_space(**environment):
        service = open_train_service(**SPACE | environment)
        service.rental.hub.endpoint = hub.url
        return service

    return open_space


@pytest.fixture
def service(open_space):
    return open_space()


@pytest.fixture
def visitor(service, clips):
    """Somebody signed in as "me", with three clips and a caption each."""
    visitor = service.demo.visitors.issue()
    assert service.admit(visitor, "me") == ""
    service.clips(service.owner(visitor)).add(sorted(clips.iterdir()))
    return visitor


class Tab:
    """The tab's components with their handlers, and what these last set, by the component's name."""

    def __init__(self, service):
        with gr.Blocks():
            self.tab = TrainTab(service, gr.BrowserState(), None, None, gr.HTML())
        self.runs = self.tab.runs
        self.service, self.set = service, {}

    def do(self, updates):
        names = {
            part: name
            for owner in (self.tab, self.runs)
            for name, part in vars(owner).items()
            if isinstance(part, gr.blocks.Block)
        }
        self.set |= {names[part]: value for part, value in updates.items()}
        return self.set

    def start(self, login, visitor, flavor, form):
        fields = {component: getattr(form, name) for name, component in self.tab.fields.own.items()}
        return self.tab.start(login, fields | {self.tab.visitor: visitor, self.tab.hardware: flavor})

    def watch(self, login, visitor, until=lambda text: True):
        """Tick until the status says so."""
        self.service.rental._refreshed.clear()  # as if it were time to ask again
        run_id = self.set["runs"]["value"]
        for _ in range(200):
            text = self.do(self.runs.watch(login, visitor, run_id, ""))["status"]
            if until(text):
                return text
            time.sleep(0.1)
        raise AssertionError(text)


def test_it_is_offered_where_it_can_work_to_who_is_signed_in(open_space, open_train_service):
    service = open_space()
    visitor = service.demo.visitors.issue()
    assert "Sign in, and train on a machine that you rent" in service.admit(visitor, "")
    with pytest.raises(UserError, match="Sign in"):
        service.owner(visitor)
    assert service.admit(visitor, "me") == ""
    assert service.owner(visitor)
    for closed in ({"OAUTH_SCOPES": "openid profile"}, {"MOVA_JOBS_MODEL": ""}, {"SPACE_ID": ""}):
        assert not open_space(**closed).rental.is_open
    remote = {"MOVA_BACKEND": "remote", "MOVA_REMOTE_URL": "http://gpu:3000"}
    assert not open_space(**remote).rental.is_open
    assert "ZeroGPU lends a GPU for minutes" in open_space(OAUTH_SCOPES="openid").why_not("me")
    assert open_space(MOVA_MODEL="360p", MOVA_JOBS_MODEL="").rental.model == "360p"


def test_a_space_with_a_gpu_of_its_own_lends_it_to_its_owner_and_rents_to_all(open_space, clips):
    service = open_space(SPACES_ZERO_GPU="")
    tab, offers = Tab(service), ["cpu-upgrade", "h200"]
    for name, values in (("anna", ["", *offers]), ("bert", offers)):
        visitor, login = service.demo.visitors.issue(), HubLogin(name, TOKEN, SCOPES, time.time() + 9999)
        tab.do(tab.tab.admit(login, visitor, None))
        assert [value for _, value in tab.set["hardware"]["choices"]] == values
        assert tab.set["hardware"]["value"] == ("" if name == "anna" else "cpu-upgrade")
        assert tab.set["hardware"]["choices"][-1][0] == "Nvidia H200, 141 GB: $5.00 an hour"
        assert tab.set["body"]["visible"]
    with pytest.raises(UserError, match="choose a machine; if none"):
        service.start(service.owner(visitor), WISHES, "bert")
    tab.do(tab.tab.admit(login, visitor, "h200"))
    assert tab.set["hardware"]["value"] == "h200"  # a choice is kept
    tab.do(tab.tab.admit(None, visitor, "h200"))
    assert not tab.set["body"]["visible"]


@pytest.mark.slow
def test_what_a_run_costs_is_told_before_at_the_price_of_now(service, visitor, hub):
    owner, card = service.owner(visitor), service.rental.offer("h200")
    cost = service.cost(owner, WISHES, card)
    assert (cost.card, cost.is_gpu, cost.fits) == ("Nvidia H200", True, True)
    assert cost.seconds["setup"] > 240
    limit = service.rental.limit(cost)
    assert limit > 1800 + sum(cost.seconds.values())
    told = html.cost(cost, TrainForm(price=card.price), 20, None, 3, most_seconds=limit)
    assert "at &#36;5.00 an hour, paid by your Hugging Face account" in told
    assert f"&#36;{limit / 3600 * 5:.2f} at the very most" in told
    upgrade = service.cost(owner, WISHES, service.rental.offer("cpu-upgrade"))
    assert (upgrade.card, upgrade.is_gpu, upgrade.fits) == ("CPU Upgrade", False, True)
    service.rental._offers = (0.0, [])
    hub.refusals = {"GET /api/jobs/hardware": 500}
    tab = Tab(service)
    tab.do(tab.tab.admit(HubLogin("me", TOKEN, SCOPES, 0), visitor, None))
    assert "The Hub failed (500)" in tab.set["gate"]
    assert tab.set["hardware"]["value"] is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (None, "nobody is signed in; sign in above"),
        ({"scopes": ("openid",)}, "may not start jobs; sign out, sign in again and allow it"),
        ({"ends": time.time() + 60}, "sign out and in again, or ask for fewer steps"),
    ],
    ids=["nobody", "no scope", "ends soon"],
)
def test_who_may_not_start_a_job_is_told_why(service, visitor, hub, changes, sentence):
    login = changes and HubLogin(**{"name": "me", "token": TOKEN, "scopes": SCOPES, "ends": 2e10} | changes)
    with pytest.raises(UserError, match=sentence):
        service.rent(service.owner(visitor), WISHES, "cpu-upgrade", login)
    assert hub.jobs == []
    assert service.registry.runs(service.owner(visitor)) == []


@pytest.mark.slow
def test_a_run_is_refused_tried_again_watched_lost_and_found_again(service, visitor, hub, login, open_space):
    tab, owner = Tab(service), service.owner(visitor)
    hub.refusals = {"POST /api/jobs/me": 402}
    tab.do(tab.start(login, visitor, "cpu-upgrade", WISHES))
    assert tab.set["notes"] == ""
    text = tab.watch(login, visitor, lambda text: "no credit" in text)
    assert "has no credit for Jobs" in text
    assert "/settings/billing, then resume" in text
    assert tab.set["resume_button"]["visible"]
    hub.refusals = {}
    run_id = tab.set["runs"]["value"]
    tab.do(tab.runs.resume(login, visitor, run_id))
    tab.watch(login, visitor, lambda text: "looks for a machine: CPU Upgrade" in text)
    assert tab.set["timer"].active
    (job,) = hub.jobs
    assert job["asked"]["timeoutSeconds"] == service.registry.get(owner, run_id).job["seconds"] > 1800

    run = service.registry.get(owner, run_id)
    write_json(run.folder / JOB, run.job | {"heard": 0})  # long ago
    assert run.status().kind == "broken"
    tab.do(tab.runs.resume(login, visitor, run_id))
    assert "Its job is still running" in tab.set["notes"]
    write_json(run.folder / JOB, run.job | {"heard": 0})
    service.rental._refreshed.clear()
    tab.do(tab.runs.enter(login, visitor))
    assert run.status().kind == "waiting"

    job["told"] |= {"status": {"stage": "RUNNING"}, "durations": {"runningSecs": 7200}}
    repo = hub.repos[service.registry.get(owner, run_id).job["repo"]]
    repo["phase.json"] = b'{"what": "train", "done": 0, "count": 20}'
    repo["journal.jsonl"] = (
        b'{"event": "base", "held_out": {}, "training": {"audio_dit": {"500": 0.5}}}\n'
        b'{"event": "step", "step": 5, "seconds": 60.0, "video_loss": 1.0, "audio_loss": 1.0}\n'
    )
    hub.commits.append((service.registry.get(owner, run_id).job["repo"], {}))
    text = tab.watch(login, visitor)
    assert "step 5 of 20 · about 15 min left" in text
    assert "On CPU Upgrade, about &#36;0.06 so far." in text
    assert "base 0.5" in tab.set["charts"]

    hub.refusals = {"GET /api/jobs/me": 500}
    assert "The Hub failed (500); nothing is lost" in tab.watch(login, visitor)
    assert "nobody is signed in" in tab.watch(None, visitor).lower()
    assert "step 5 of 20" in tab.set["status"]
    hub.refusals = {}

    again = open_space()
    again.registry = RunRegistry(
        service.registry.root.parent / "other"
    )  # the Space was restarted: its disk is new
    again.admit(visitor, "me")
    tab = Tab(again)
    tab.do(tab.runs.enter(login, visitor))
    assert tab.set["runs"]["value"] == run_id
    repo |= {ADAPTER: b"weights", "outcome.json": b'{"kind": "done", "message": "done, 20 steps"}'}
    hub.commits.append((again.registry.get(owner, run_id).job["repo"], {}))
    assert "Done, 20 steps" in tab.watch(login, visitor)
    assert tab.set["use_button"]["visible"]
    assert not tab.set["timer"].active
    assert again.use(owner, again.registry.get(owner, run_id)) == "lamp"
    assert again.demo.trained_adapters(visitor) == ["lamp"]
    tab.do(tab.runs.delete(login, visitor, run_id))
    tab.do(tab.runs.enter(login, visitor))
    assert not tab.set["box"]["visible"]


@pytest.mark.slow
def test_a_run_that_is_being_sent_can_be_stopped_and_survives_the_page(service, visitor, hub, login):
    tab, owner = Tab(service), service.owner(visitor)
    run = service.rent(owner, WISHES, "cpu-upgrade", login)
    service.stop(run, login)
    tab.do(tab.runs.show_newest(visitor))
    text = tab.watch(login, visitor, lambda text: "being sent" not in text)
    assert "stopped before its job started" in text
    assert hub.jobs == []
    service.rental.hub.record(
        run, login, service.rental.offer("cpu-upgrade"), 1800
    )  # as a page leaves it that is killed
    assert "was interrupted with the page; nothing is lost, resume" in tab.watch(login, visitor)


class Page:
    """The page of a Space over HTTP, as a browser that is signed in as `name` uses it."""

    def __init__(self, url, name):
        profile = {"sub": "1", "name": name, "preferred_username": name, "profile": "", "picture": ""}
        info = {"access_token": TOKEN, "scope": " ".join(SCOPES), "expires_at": int(time.time()) + 99999}
        session = base64.b64encode(json.dumps({"oauth_info": info | {"userinfo": profile}}).encode())
        key = hashlib.sha256(b"s-v4").hexdigest()
        cookie = itsdangerous.TimestampSigner(key).sign(session).decode()
        self.client = httpx2.Client(
            base_url=url, headers={"Origin": url}, cookies={"session": cookie}, timeout=60
        )
        config = self.client.get("/config").json()
        self.dependencies = config["dependencies"]
        self.ids = {c["props"].get("elem_id"): c["id"] for c in config["components"]}

    def do(self, elem_id, event, values):
        """What an event sets, by the component's elem_id; `values` too are by elem_id."""
        target = [self.ids[elem_id], event]
        (found,) = (each for each in self.dependencies if target in each["targets"])
        names = {number: name for name, number in self.ids.items()}
        data = [values.get(names.get(number), values["visitor"]) for number in found["inputs"]]
        asked = {"data": data, "fn_index": found["id"], "session_hash": "x"}
        self.client.post("/gradio_api/queue/join", json=asked).raise_for_status()
        with self.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "x"}) as answer:
            for line in answer.iter_lines():
                message = json.loads(line.removeprefix("data: ")) if line else {}
                if message.get("msg") == "process_completed":
                    assert message["success"], message
                    return dict(zip(map(names.get, found["outputs"]), message["output"]["data"], strict=True))
        raise AssertionError(f"{elem_id} did not answer")


@pytest.mark.slow
def test_the_page_of_a_space_starts_a_job_in_the_name_of_who_is_signed_in(hub, tmp_path, clips):
    space = SPACE | {"SYSTEM": "spaces", "SPACES_ZERO_GPU": "", "SPACE_HOST": "anna-mova.hf.space"}
    space |= {"OAUTH_CLIENT_ID": "x", "OAUTH_CLIENT_SECRET": "s", "HF_HOME": str(tmp_path / "hf")}
    space |= {"OPENID_PROVIDER_URL": "https://huggingface.co", "HF_ENDPOINT": hub.url}
    with serving(tmp_path, **space) as server:
        visitors = Visitors(server.outputs)
        visitor = visitors.issue()
        folder = server.outputs.absolute() / "training" / visitors.folder_name(visitor)
        page, form = Page(server.url, "me"), {"train-hardware": "cpu-upgrade"}
        form |= {f"train-{name.replace('_', '-')}": value for name, value in vars(WISHES).items()}
        seen = page.do("train-tab", "select", {"visitor": visitor, "train-hardware": None})
        assert seen["train-body"]["visible"]
        assert [value for _, value in seen["train-hardware"]["choices"]] == ["cpu-upgrade", "h200"]
        ClipSet(folder, 2**30).add(sorted(clips.iterdir()))
        seen = page.do("train-start", "click", form | {"visitor": visitor})
        assert "being sent to Hugging Face" in seen["train-status"], seen["train-start-notes"]
        for _ in range(100):
            if hub.jobs:
                break
            time.sleep(0.1)
        (job,) = hub.jobs
        assert job["asked"]["secrets"] == {"HF_TOKEN": TOKEN}
        assert job["told"]["labels"]["app"] == "mova-lora"
        stranger = Page(server.url, "bert").do("train-start", "click", form | {"visitor": visitors.issue()})
        assert "Sign in" in stranger["train-start-notes"]
        assert TOKEN not in server.log.read_text()
    assert not [
        path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()
    ]


def test_gradio_gives_handlers_who_is_signed_in_on_a_space_alone(service, open_train_service):
    def handler(login, *values):
        return login, values

    given, *_ = special_args(signed(service, handler), ["visitor", "run"])
    assert given == [None, None, "visitor", "run"]
    assert signed(service, handler)(*given) == (None, ("visitor", "run"))
    assert signed(open_train_service(), handler)("visitor") == (None, ("visitor",))
    token = gr.OAuthToken("hf_x", "openid profile jobs", 5)
    profile = gr.OAuthProfile({"preferred_username": "me", "name": "Me", "profile": "", "picture": ""})
    login = login_of(token, profile)
    assert (login.name, login.token, login.ends) == ("me", "hf_x", 5)
    assert "jobs" in login.scopes

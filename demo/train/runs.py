"""What happens when somebody starts, watches, ends or uses a run."""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import gradio as gr
from huggingface_hub import get_token

from demo.form import OWN, adapter_field
from demo.generate_form import GenerateTab
from demo.generate_tab import own_adapters
from demo.train import html
from demo.train.form import TrainForm
from demo.train.service import TrainService
from lora_trainer.jobs.hub import HubLogin
from lora_trainer.jobs.runs import TrainingRun
from mova.errors import BackendError, UserError


def signed(shop: TrainService, handler: Callable[..., Any]) -> Callable[..., Any]:
    """`handler(login, ...)` as gradio calls it; on one's own machine, without sign-in, login is None."""

    def here(*values: object) -> Any:  # noqa: ANN401 - what the handler gives
        return handler(None, *values)

    def on_a_space(token: gr.OAuthToken | None, profile: gr.OAuthProfile | None, *values: object) -> Any:  # noqa: ANN401
        return handler(login_of(token, profile), *values)

    # Elsewhere than on a Space gradio would ask for a login of the machine.
    return on_a_space if shop.studio.settings.space_id else here


def login_of(token: gr.OAuthToken | None, profile: gr.OAuthProfile | None) -> HubLogin | None:
    if token is None or profile is None:
        return None
    return HubLogin(profile.username, token.token, tuple(re.split(r"[\s,]+", token.scope)), token.expires_at)


@dataclass
class TrainTab:
    """The tab's components. `form` has one for each field of `Simple`, in its order."""

    body: gr.Column
    upload: gr.File
    clip_notes: gr.HTML
    mend: gr.Button
    cards: gr.HTML
    table: gr.Dataframe
    suggest: gr.Button
    server: list[gr.Textbox]
    caption_notes: gr.HTML
    form: list[gr.components.Component]
    hardware: gr.Dropdown
    cost: gr.HTML
    start: gr.Button
    start_notes: gr.HTML
    run_box: gr.Column
    runs: gr.Dropdown
    status: gr.HTML
    charts: gr.HTML
    samples: gr.HTML
    stop: gr.Button
    go_on: gr.Button
    use: gr.Button
    download: gr.DownloadButton
    delete: gr.Button
    push_box: gr.Accordion
    repo: gr.Textbox
    public: gr.Checkbox
    push: gr.Button
    push_notes: gr.HTML
    log: gr.Textbox
    timer: gr.Timer

    def field(self, name: str) -> gr.components.Component:
        """The component for a field of `Simple`."""
        return self.form[[f.name for f in fields(TrainForm)].index(name)]

    @property
    def shown_run(self) -> list[gr.components.Component]:
        """What showing a run sets."""
        return [
            self.run_box, self.runs, self.status, self.charts, self.samples, self.stop, self.go_on,
            self.use, self.download, self.delete, self.push_box, self.log, self.timer,
        ]  # fmt: skip


PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}


Updates = dict[Any, Any]


ADAPTER_NAME, ADAPTER_FILE = (adapter_field(0, part) for part in ("name", "file"))


class RunEvents:
    """Handlers of step 4. They return updates by component."""

    def __init__(self, shop: TrainService, tab: TrainTab, generate: GenerateTab, tabs: gr.Tabs) -> None:
        self.shop, self.tab, self.generate, self.tabs = shop, tab, generate, tabs

    def start(self, login: HubLogin | None, visitor: str, flavor: str | None, *form: object) -> Updates:
        """Here, or on a machine of the Hub if one is chosen."""
        tab, simple = self.tab, TrainForm.read(form)
        try:
            owner = self.shop.owner(visitor)
            if flavor:
                run = self.shop.rent(owner, simple, flavor, login)
            else:
                run = self.shop.start(owner, simple, login.name if login else "")
        except (UserError, BackendError) as error:
            return {tab.start_notes: html.note(str(error), "error")}
        return {tab.start_notes: ""} | self._show(visitor, run)

    def come(self, login: HubLogin | None, visitor: str) -> Updates:
        """The tab comes into view: the newest run, also of those that only the Hub knows."""
        told = ""
        try:
            if login and self.shop.away.is_open:
                told = self.shop.away.catch_up(self.shop.jobs, self.shop.owner(visitor), login)
        except (UserError, BackendError) as error:
            told = str(error)
        return {self.tab.start_notes: html.note(told, "warning")} | self.open(visitor)

    def open(self, visitor: str) -> Updates:
        """The newest run."""
        try:
            runs = self.shop.jobs.runs(self.shop.owner(visitor))
        except UserError:
            return {self.tab.run_box: gr.update(visible=False)}
        if not runs:
            return {self.tab.run_box: gr.update(visible=False), self.tab.timer: gr.Timer(active=False)}
        live = [run for run in runs if run.status().is_live]
        return self._show(visitor, (live or runs)[0])

    def choose(self, visitor: str, run_id: str | None) -> Updates:
        run = self._run(visitor, run_id)
        return self._show(visitor, run) if run else self.open(visitor)

    def watch(self, login: HubLogin | None, visitor: str, run_id: str | None, seen: str) -> Updates:
        """What has changed since the last look: `seen` names what the browser shows."""
        run = self._run(visitor, run_id)
        if run is None:
            return self.open(visitor) | {self.seen: ""}
        told = self.shop.away.look(run, login) if run.job and run.status().is_live else ""
        now = f"{told} {fingerprint(run)}"
        if now == seen:
            return {self.seen: seen}
        updates = self._show(visitor, run, told) | {self.seen: now}
        if seen and now.rpartition("|")[2] == seen.rpartition("|")[2]:
            del updates[self.tab.samples]  # a clip that plays is left alone
        return updates

    def stop(self, login: HubLogin | None, visitor: str, run_id: str | None) -> Updates:
        run = self._run(visitor, run_id)
        try:
            if run is not None:
                self.shop.stop(run, login)
        except (UserError, BackendError) as error:  # or told to stop, but the disk had no room for the mark
            return self.choose(visitor, run_id) | {self.tab.start_notes: html.note(str(error), "error")}
        return self.choose(visitor, run_id)

    def go_on(self, login: HubLogin | None, visitor: str, run_id: str | None) -> Updates:
        run = self._run(visitor, run_id)
        try:
            if run is not None:
                self.shop.go_on(run, login)
        except (UserError, BackendError) as error:
            return {self.tab.start_notes: html.note(str(error), "error")}
        return {self.tab.start_notes: ""} | self.choose(visitor, run_id)

    def delete(self, login: HubLogin | None, visitor: str, run_id: str | None) -> Updates:
        run = self._run(visitor, run_id)
        try:
            if run is not None:
                self.shop.delete(run, login)
        except (UserError, BackendError) as error:
            return {self.tab.start_notes: html.note(str(error), "error")}
        return self.open(visitor)

    def use(self, visitor: str, run_id: str | None, prompt: str) -> Updates:
        """Choose the adapter in Generate, and go there; an empty prompt becomes the run's."""
        run, generate = self._run(visitor, run_id), self.generate
        try:
            if run is None:
                raise UserError("this run is no longer here")
            name = self.shop.use(self.shop.owner(visitor), run)
        except (UserError, BackendError) as error:
            return {self.tab.start_notes: html.note(str(error), "error")}
        choices = own_adapters(self.shop.studio, visitor)
        said = f'Adapter "{name}" is chosen for the next clip. Its strength is under More settings, Adapters.'
        return {
            generate.field(ADAPTER_NAME): gr.update(choices=choices, value=f"{OWN}{name}"),
            generate.field(ADAPTER_FILE): None,
            generate.field("prompt"): prompt or run.about.prompt,
            generate.status: html.note(said, "good"),
            self.tabs: gr.Tabs(selected="generate"),
        }

    def push(
        self, login: HubLogin | None, visitor: str, run_id: str | None, repo: str, is_public: bool
    ) -> str:
        """Upload with the visitor's token, on one's own machine with that of `hf auth login`."""
        run, token = self._run(visitor, run_id), login.token if login else ""
        if not self.shop.studio.settings.is_public:
            token = get_token() or ""
        try:
            if run is None:
                raise UserError("this run is no longer here")
            url = self.shop.publish(run, repo, token, is_public)
        except (UserError, BackendError) as error:
            return html.note(str(error), "error")
        url = html.safe(url)
        return f'<p class="mova-note mova-good">Uploaded: <a href="{url}" target="_blank">{url}</a></p>'

    def _show(self, visitor: str, run: TrainingRun, told: str = "") -> Updates:
        tab, state, events = self.tab, run.status(), run.events()
        runs = self.shop.jobs.runs(self.shop.owner(visitor))
        has_adapter = run.adapter is not None and not state.is_live
        return {
            tab.run_box: gr.update(visible=True),
            tab.runs: gr.update(choices=[(label(each), each.run_id) for each in runs], value=run.run_id),
            tab.status: html.status(run, state) + html.note(told, "warning") + html.alarms(events),
            tab.charts: html.charts(run, events),
            tab.samples: html.samples(run, events),
            tab.stop: gr.update(
                visible=state.is_live, value="End it at once" if state.kind == "stopping" else "Stop"
            ),
            tab.go_on: gr.update(visible=state.kind in ("stopped", "failed", "broken")),
            tab.use: gr.update(visible=has_adapter),
            tab.download: gr.update(
                visible=has_adapter, value=str(self.shop.download(run)) if has_adapter else None
            ),
            tab.delete: gr.update(visible=not state.is_live),
            tab.push_box: gr.update(visible=has_adapter),
            tab.log: run.log_tail(),
            tab.timer: gr.Timer(active=state.is_live),
        }

    def _run(self, visitor: str, run_id: str | None) -> TrainingRun | None:
        try:
            return self.shop.jobs.get(self.shop.owner(visitor), run_id)
        except UserError:
            return None


def label(run: TrainingRun) -> str:
    return f"{run.about.name} · {html.KINDS[run.status().kind]}"


def fingerprint(run: TrainingRun) -> str:
    """Changes when what is shown of a run does; after the bar, when its samples do."""
    events = run.events()
    samples = sum(event["event"] == "sample" for event in events)
    return f"{run.status()} {len(events)} {len(run.log_tail())}|{samples}"


def wire_runs(
    shop: TrainService,
    tab: TrainTab,
    visitor: gr.BrowserState,
    opened: Callable,
    generate: GenerateTab,
    tabs: gr.Tabs,
) -> None:
    """Connect step 4; `opened` registers what happens when the tab comes into view."""
    events = RunEvents(shop, tab, generate, tabs)
    events.seen = seen = gr.State("")
    chosen, shown = [visitor, tab.runs], tab.shown_run
    noted = [tab.start_notes, *shown]
    opened(signed(shop, events.come), [visitor], noted, **PRIVATE)
    tab.start.click(signed(shop, events.start), [visitor, tab.hardware, *tab.form], noted, **PRIVATE)
    tab.runs.input(events.choose, chosen, shown, **PRIVATE)
    watch = signed(shop, events.watch)
    tab.timer.tick(watch, [*chosen, seen], [*shown, seen], concurrency_limit=None, **PRIVATE)
    for button, fn in ((tab.stop, events.stop), (tab.go_on, events.go_on), (tab.delete, events.delete)):
        button.click(signed(shop, fn), chosen, noted, **PRIVATE)
    used = [generate.field(name) for name in (ADAPTER_NAME, ADAPTER_FILE, "prompt")]
    used += [generate.status, tabs]
    tab.use.click(events.use, [*chosen, generate.field("prompt")], [*used, tab.start_notes], **PRIVATE)
    inputs = [*chosen, tab.repo, tab.public]
    tab.push.click(signed(shop, events.push), inputs, [tab.push_notes], api_visibility="private")

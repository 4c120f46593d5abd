"""The train tab's runs: watch, stop, resume, use and publish them."""

import re
from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.components import Component
from huggingface_hub import get_token

from demo.fields import PRIVATE, Updates
from demo.form import OWN
from demo.generate_tab import GenerateTab
from demo.train import html
from demo.train.service import TrainService
from lora_trainer.jobs.hub import HubLogin
from lora_trainer.jobs.runs import TrainingRun
from mova.errors import BackendError, UserError

RESUMABLE = ("stopped", "failed", "broken")
GONE = "this run is no longer here"
# The clips of a run that has ended play, muted, but for who wants no motion. A video that was there
# before does not begin by its attributes alone.
PLAY = """watch('value', () => {
  const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
  for (const video of element.querySelectorAll('video[autoplay]')) {
    video.autoplay = !still;
    video.muted = true;
    still ? video.pause() : video.play().catch(() => {});
  }
});"""


def signed(service: TrainService, handler: Callable[..., Any]) -> Callable[..., Any]:
    """`handler(login, ...)` as gradio calls it; on one's own machine, without sign-in, login is None."""

    def here(*values: object) -> Any:  # noqa: ANN401 - the handler's answer
        return handler(None, *values)

    def on_a_space(token: gr.OAuthToken | None, profile: gr.OAuthProfile | None, *values: object) -> Any:  # noqa: ANN401
        return handler(login_of(token, profile), *values)

    # Outside a Space gradio would ask for a login of the machine.
    return on_a_space if service.demo.settings.space_id else here


def login_of(token: gr.OAuthToken | None, profile: gr.OAuthProfile | None) -> HubLogin | None:
    """The visitor's sign-in, or None."""
    if token is None or profile is None:
        return None
    scopes = tuple(re.split(r"[\s,]+", token.scope))
    return HubLogin(profile.username, token.token, scopes, token.expires_at)


class RunPanel:
    """Components and handlers of a visitor's runs. Handlers take the sign-in first (see `signed`)."""

    def __init__(
        self,
        service: TrainService,
        visitor: gr.BrowserState,
        generate: GenerateTab,
        tabs: gr.Tabs,
        setup: gr.Column,
    ) -> None:
        self.service, self.visitor, self.generate, self.tabs = service, visitor, generate, tabs
        self.setup = setup  # the settings of the next run, which a live one hides
        with gr.Column(visible=False, elem_id="train-run") as self.box:
            self.runs = gr.Dropdown([], label="Your runs", elem_id="train-runs")
            self.status = gr.HTML(elem_id="train-status")
            self.samples = gr.HTML(js_on_load=PLAY, elem_id="train-samples")
            self._lay_out_buttons()
            self._lay_out_publishing()
            with gr.Accordion("Charts", open=False, elem_id="train-charts-box"):
                self.charts = gr.HTML(elem_id="train-charts")
            with gr.Accordion("Log", open=False):
                self.log = gr.Textbox(
                    label="Log",
                    show_label=False,
                    lines=8,
                    max_lines=16,
                    elem_id="train-log",
                    interactive=False,
                )
        self.notes = gr.HTML(elem_id="train-start-notes", render=False)
        self.timer = gr.Timer(2, active=False)
        self.seen = gr.State("")  # the fingerprint of what the browser shows

    def _lay_out_buttons(self) -> None:
        small = {"visible": False, "scale": 0}
        with gr.Row(elem_classes="mova-phone-wrap"):
            self.stop_button = gr.Button("Stop", min_width=130, elem_id="train-stop", **small)
            self.resume_button = gr.Button("Resume", min_width=130, elem_id="train-go_on", **small)
            self.use_button = gr.Button(
                "Use in Generate", variant="primary", min_width=130, elem_id="train-use", **small
            )
            self.download = gr.DownloadButton("Download", min_width=130, elem_id="train-download", **small)
            self.delete_button = gr.Button("Delete", min_width=100, elem_id="train-delete", **small)

    def _lay_out_publishing(self) -> None:
        with gr.Accordion(
            "Publish on Hugging Face", open=False, visible=False, elem_id="train-push-box"
        ) as self.publish_box:
            gr.HTML(html.note("With a page that plays clips before and after training."))
            with gr.Row(elem_classes="mova-phone-wrap"):
                self.repo = gr.Textbox(label="Repo", placeholder="your-name/anna", elem_id="train-repo")
                self.public = gr.Checkbox(False, label="Public", elem_id="train-public")
            self.publish_button = gr.Button("Upload", elem_id="train-push")
            self.publish_notes = gr.HTML(elem_id="train-push-notes")

    @property
    def shown(self) -> list[Component]:
        """The components that showing a run sets."""
        buttons = [
            *(self.stop_button, self.resume_button, self.use_button, self.download, self.delete_button)
        ]
        progress = [self.status, self.charts, self.samples, self.log]
        return [self.setup, self.box, self.runs, *progress, *buttons, self.publish_box, self.timer]

    def enter(self, login: HubLogin | None, visitor: str) -> Updates:
        """Show the newest run when the tab comes into view, also of those that only the Hub knows."""
        problem = ""
        try:
            if login and self.service.rental.is_open:
                owner = self.service.owner(visitor)
                problem = self.service.rental.refresh_all(self.service.registry, owner, login)
        except (UserError, BackendError) as error:
            problem = str(error)
        return {self.notes: html.note(problem, "warning")} | self.show_newest(visitor)

    def show_newest(self, visitor: str) -> Updates:
        try:
            runs = self.service.registry.runs(self.service.owner(visitor))
        except UserError:
            return {self.box: gr.update(visible=False)}
        if not runs:
            return {
                self.box: gr.update(visible=False),
                self.setup: gr.update(visible=True),
                self.timer: gr.Timer(active=False),
            }
        live = [run for run in runs if run.status().is_live]
        return self.show(visitor, (live or runs)[0])

    def choose(self, visitor: str, run_id: str | None) -> Updates:
        run = self._run(visitor, run_id)
        return self.show(visitor, run) if run else self.show_newest(visitor)

    def watch(self, login: HubLogin | None, visitor: str, run_id: str | None, seen: str) -> Updates:
        """Changes since the browser showed what has the fingerprint `seen`."""
        run = self._run(visitor, run_id)
        if run is None:
            return self.show_newest(visitor) | {self.seen: ""}
        problem = self.service.rental.refresh(run, login) if run.job and run.status().is_live else ""
        now = f"{problem} {_fingerprint(run)}"
        if now == seen:
            return {self.seen: seen}
        updates = self.show(visitor, run, problem) | {self.seen: now}
        if seen and run.status().is_live and now.rpartition("|")[2] == seen.rpartition("|")[2]:
            del updates[self.samples]  # a clip that plays is left alone
        return updates

    def stop(self, login: HubLogin | None, visitor: str, run_id: str | None) -> Updates:
        run = self._run(visitor, run_id)
        try:
            if run is not None:
                self.service.stop(run, login)
        except (UserError, BackendError) as error:  # the run may have stopped all the same: show it
            return self.choose(visitor, run_id) | {self.notes: html.note(str(error), "error")}
        return self.choose(visitor, run_id)

    def resume(self, login: HubLogin | None, visitor: str, run_id: str | None) -> Updates:
        run = self._run(visitor, run_id)
        try:
            if run is not None:
                self.service.resume(run, login)
        except (UserError, BackendError) as error:
            return {self.notes: html.note(str(error), "error")}
        return {self.notes: ""} | self.choose(visitor, run_id)

    def delete(self, login: HubLogin | None, visitor: str, run_id: str | None) -> Updates:
        run = self._run(visitor, run_id)
        try:
            if run is not None:
                self.service.delete(run, login)
        except (UserError, BackendError) as error:
            return {self.notes: html.note(str(error), "error")}
        return self.show_newest(visitor)

    def use(self, visitor: str, run_id: str | None, prompt: str) -> Updates:
        """Choose the adapter in Generate and go there; an empty prompt becomes the run's."""
        run, form = self._run(visitor, run_id), self.generate.form
        try:
            if run is None:
                raise UserError(GONE)
            name = self.service.use(self.service.owner(visitor), run)
        except (UserError, BackendError) as error:
            return {self.notes: html.note(str(error), "error")}
        note = f'Adapter "{name}" is chosen for the next clip. Its strength is under More, Adapters.'
        adapter = form.adapters[0]
        return {
            adapter.name: gr.update(choices=form.own_adapters(visitor), value=f"{OWN}{name}"),
            adapter.file: None,
            form.prompt: prompt or run.about.prompt,
            self.generate.status: html.note(note, "good"),
            self.tabs: gr.Tabs(selected="generate"),
        }

    def publish(
        self, login: HubLogin | None, visitor: str, run_id: str | None, repo: str, is_public: bool
    ) -> str:
        """Upload with the visitor's token, on one's own machine with that of `hf auth login`."""
        run, token = self._run(visitor, run_id), login.token if login else ""
        if not self.service.demo.settings.is_public:
            token = get_token() or ""
        try:
            if run is None:
                raise UserError(GONE)
            url = self.service.publish(run, repo, token, is_public)
        except (UserError, BackendError) as error:
            return html.note(str(error), "error")
        url = html.safe(url)
        return f'<p class="mova-note mova-good">Uploaded: <a href="{url}" target="_blank">{url}</a></p>'

    def show(self, visitor: str, run: TrainingRun, problem: str = "") -> Updates:
        """Updates that show a run, and a problem with its job if there is one."""
        state, events = run.status(), run.events()
        runs = self.service.registry.runs(self.service.owner(visitor))
        has_adapter = run.adapter is not None and not state.is_live
        file = str(self.service.download(run)) if has_adapter else None
        stop = "Stop now" if state.kind == "stopping" else "Stop"
        return {
            self.box: gr.update(visible=True),
            self.setup: gr.update(visible=not state.is_live),
            self.runs: gr.update(
                choices=[(_label(each), each.run_id) for each in runs],
                value=run.run_id,
                visible=len(runs) > 1,
            ),
            self.status: html.status(run, state) + html.note(problem, "warning") + html.alarms(events),
            self.charts: html.charts(run, events),
            self.samples: html.samples(run, events, state.is_live),
            self.stop_button: gr.update(visible=state.is_live, value=stop),
            self.resume_button: gr.update(visible=state.kind in RESUMABLE),
            self.use_button: gr.update(visible=has_adapter),
            self.download: gr.update(visible=has_adapter, value=file),
            self.delete_button: gr.update(visible=not state.is_live),
            self.publish_box: gr.update(visible=has_adapter),
            self.log: html.log(run),
            self.timer: gr.Timer(active=state.is_live),
        }

    def _run(self, visitor: str, run_id: str | None) -> TrainingRun | None:
        try:
            return self.service.registry.get(self.service.owner(visitor), run_id)
        except UserError:
            return None

    def connect(self, entered: Callable) -> None:
        """Connect the components; `entered` registers a handler for the tab coming into view."""
        chosen, noted = [self.visitor, self.runs], [self.notes, *self.shown]
        entered(signed(self.service, self.enter), [self.visitor], noted, **PRIVATE)
        self.runs.input(self.choose, chosen, self.shown, **PRIVATE)
        watch = signed(self.service, self.watch)
        watched = [*self.shown, self.seen]
        self.timer.tick(watch, [*chosen, self.seen], watched, concurrency_limit=None, **PRIVATE)
        for button, handler in (
            (self.stop_button, self.stop),
            (self.resume_button, self.resume),
            (self.delete_button, self.delete),
        ):
            button.click(signed(self.service, handler), chosen, noted, **PRIVATE)
        form = self.generate.form
        adapter = form.adapters[0]
        used = [adapter.name, adapter.file, form.prompt, self.generate.status, self.tabs, self.notes]
        self.use_button.click(self.use, [*chosen, form.prompt], used, **PRIVATE)
        published = [*chosen, self.repo, self.public]
        publish = signed(self.service, self.publish)
        self.publish_button.click(publish, published, [self.publish_notes], api_visibility="private")


def _label(run: TrainingRun) -> str:
    return f"{run.about.name} · {html.KINDS[run.status().kind]}"


def _fingerprint(run: TrainingRun) -> str:
    """A text that changes with what is shown of a run; after the bar, with its samples only."""
    events = run.events()
    samples = sum(event["event"] == "sample" for event in events)
    return f"{run.status()} {len(events)} {len(run.log_tail())}|{samples}"

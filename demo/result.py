"""The result: progress, the player, and what can be done with a finished clip."""

import time

import gradio as gr
from gradio.blocks import Block

from demo import history, html
from demo.added import EXTEND, REDO_PICTURE, REDO_SOUND, RETAKE
from demo.examples import Example
from demo.fields import Updates
from demo.history import ClipRecord
from demo.queue import ClipRun
from mova.machine import human_seconds

PREVIEW_FROM = 1 / 2  # of the steps: before, the preview of a clip from words alone is coloured noise
EMPTY = "Your clip appears here", "Describe a moment: what is seen, said and heard. A picture is welcome."


class Result:
    """The result's components; the player itself is drawn by page.js."""

    def __init__(self, example: Example | None) -> None:
        self.example = example
        with gr.Column(elem_id="result"):
            self.status = gr.HTML("" if example else html.empty(*EMPTY), elem_id="status")
            self.player = gr.HTML(html.PLAYER, elem_id="player")
            self.shown = gr.HTML(self._ambient(), elem_id="shown")
            self.notes = gr.HTML(elem_id="notes")
            self.undo_timer = gr.Timer(history.UNDO_SECONDS, active=False)
            with gr.Row(visible=False, elem_id="undo-box") as self.undo_box:
                self.undo_note = gr.HTML(html.note("Clip removed."))
                self.undo = gr.Button("Undo", size="sm", elem_id="undo", scale=0, min_width=90)
            with gr.Column(visible=False, elem_id="actions") as self.actions:
                self._lay_out_actions()

    def _lay_out_actions(self) -> None:
        small = {"size": "sm", "min_width": 90}
        with gr.Row(elem_classes="mova-buttons"):
            self.save = gr.DownloadButton("Save", elem_id="download-mp4", **small)
            self.extend = gr.Button("Extend", elem_id="extend", **small)
            self.reuse = gr.Button("Reuse settings", elem_id="reuse", **small)
            self.compare = gr.Button("Compare", elem_id="compare", **small)
            self.remove = gr.Button("Remove", elem_id="delete", **small)
        with gr.Accordion("More with this clip", open=False, elem_id="more-actions"):
            with gr.Row(elem_classes="mova-buttons"):
                self.redo_sound = gr.Button("Redo the sound", elem_id="redo-sound", **small)
                self.redo_picture = gr.Button("Redo the picture", elem_id="redo-picture", **small)
                self.retake = gr.Button("Fix a part", elem_id="retake", **small)
                self.from_end = gr.Button("Start from its end", elem_id="go-on", **small)
                self.train = gr.Button("Add to Train", elem_id="train-on", **small)
            with gr.Row(elem_classes="mova-buttons"):
                self.save_sound = gr.DownloadButton("Sound (wav)", elem_id="download-wav", **small)
                self.save_settings = gr.DownloadButton("Settings", elem_id="download-json", **small)
            self.figures = gr.HTML(elem_id="figures")
        self.acts = {
            EXTEND: self.extend,
            REDO_SOUND: self.redo_sound,
            REDO_PICTURE: self.redo_picture,
            RETAKE: self.retake,
        }

    @property
    def filled(self) -> list[Block]:
        """The components that describe a clip; `shown` comes with them where the page itself plays it."""
        downloads = [self.save, self.save_sound, self.save_settings]
        return [self.status, self.notes, self.actions, self.figures, *downloads]

    def describe(self, record: ClipRecord, remark: str = "") -> Updates:
        """What can be done with a clip, and what is wrong with it; figures wait until they are asked for."""
        seed, took = record.settings["seed"], human_seconds(record.seconds)
        return {
            self.status: "",
            self.notes: remark + html.notes([*record.warnings, *record.problems], "warning"),
            self.actions: gr.update(visible=True),
            self.figures: html.notes([*record.health, f"Seed {seed}, made in {took}."]),
            self.save: str(record.clip),
            self.save_sound: str(record.folder / history.SOUND),
            self.save_settings: str(record.folder / history.SETTINGS),
        }

    def play(self, record: ClipRecord) -> Updates:
        """A finished clip, played with sound."""
        label = record.name
        files = {"poster": record.folder / history.POSTER, "strip": record.folder / history.STRIP}
        return {self.shown: html.shown(record.clip, label, plays="sound", **files)}

    def offer_undo(self, is_offered: bool) -> Updates:
        """Show Undo for a while, or take it away."""
        return {
            self.undo_box: gr.update(visible=is_offered),
            self.undo_timer: gr.Timer(active=is_offered),
        }

    def show_nothing(self) -> Updates:
        """The first example, muted, and no clip to do anything with."""
        return {
            self.status: "" if self.example else html.empty(*EMPTY),
            self.shown: self._ambient(),
            self.notes: "",
            self.actions: gr.update(visible=False),
        }

    def _ambient(self) -> str:
        example = self.example
        return html.shown(example.clip, example.title, plays="loop", poster=example.image) if example else ""


def progress(run: ClipRun, ahead: int) -> str:
    """A run's progress: the first frame at first, then a preview of the clip so far."""
    if ahead:
        return html.waiting(ahead)
    state = run.state()
    step, steps = state.get("step", 0), state.get("steps", 0)
    first_frame = run.folder / history.FIRST_FRAME
    picture = html.file_url(first_frame) if first_frame.is_file() else ""
    if steps and step / steps >= PREVIEW_FROM and (preview := run.preview()):
        picture = html.data_url(preview)
    number, clips, left = run.series.index(run) + 1, len(run.series), state.get("seconds_left")
    if left:
        left += (clips - number) * (time.monotonic() - run.began + left)  # the next take as long
    return html.progress(state.get("stage", "load"), step, steps, left, picture, number, clips)

"""The card of a picture that a clip starts from: what is kept of it, and the camera that takes one."""

import secrets
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
from gradio.components import Component

from demo import history, html
from demo.fields import PRIVATE, PictureField, Updates
from demo.form import Form
from demo.settings import Settings, describe_model
from mova.catalog import SMALL_MODEL
from mova.errors import UserError
from mova.files import new_output

if TYPE_CHECKING:
    from PIL.Image import Image

KEEP_WIDTH, KEEP_HEIGHT = "Position, left to right", "Position, top to bottom"
PAINTED = "painted-from-words.png"  # the name by which a painted picture is known
ONLY_ITS_OWN = "This small model moves only cartoon faces, balls and toy pianos like those of the examples."


class PictureCard:
    """The card's components, named like the fields of `Form`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        with gr.Column(visible=False, elem_id="camera-box") as self.camera_box:
            self.image = PictureField(
                label="First frame",
                type="filepath",
                image_mode=None,
                sources=["webcam", "upload", "clipboard"],
                height=260,
                elem_id="first-frame",
                buttons=[],
            )
        with gr.Column(visible=False, elem_id="picture", elem_classes="mova-card") as self.box:
            self.crop = gr.HTML(elem_id="crop")
            with gr.Column(elem_classes="mova-tight", min_width=200):
                self.note = gr.HTML(elem_id="picture-note")
                self.fit = gr.Radio(
                    [("Crop", "crop"), ("Black bars", "pad")], value="crop", label="Fit", elem_id="fit"
                )
                self.crop_position = gr.Slider(
                    0, 1, value=0.5, step=0.01, label=KEEP_WIDTH, elem_id="crop-position", buttons=[]
                )
                with gr.Row(elem_classes="mova-buttons"):
                    self.another = gr.Button("Another", size="sm", elem_id="paint-another")
                    self.remove = gr.Button("Remove picture", size="sm", elem_id="remove-picture")
        self.parts: dict[str, Component] = {
            "image": self.image,
            "fit": self.fit,
            "crop_position": self.crop_position,
        }

    @property
    def shown(self) -> list[Component]:
        """The components that `show` sets."""
        return [self.box, self.crop, self.note, self.fit, self.crop_position, self.another]

    def take(self, path: Path, form: Form) -> Updates:
        """Put a picture in. Raises UserError if it cannot be read."""
        form = replace(form, image=str(path))
        return {self.image: form.image, self.crop_position: form.best_crop(self.settings)}

    def keep_painted(self, picture: "Image") -> Path:
        """Write a picture that was painted from the words. Raises BackendError if the disk is full."""
        path = Path(self.image.GRADIO_CACHE) / secrets.token_hex(16) / PAINTED  # deleted with the uploads
        with new_output(path) as temporary:
            picture.save(temporary, "PNG")
        return path

    def show(self, form: Form) -> Updates:
        """The picture with what is cut off dimmed, and the fields that decide it."""
        shown, hidden = gr.update(visible=True), gr.update(visible=False)
        try:
            if not form.image or not form.starts_from_image(form.read_added()):
                return {self.box: hidden}
            height, width = form.size(describe_model(form.model, self.settings))
            picture, cut = history.draw_crop(
                Path(form.image), height, width, form.fit, float(form.crop_position)
            )
        except UserError as error:
            fault = html.note(str(error), "error")
            nothing = {self.crop: "", self.fit: hidden, self.crop_position: hidden}
            return nothing | {self.box: shown, self.note: fault}
        is_whole = not cut and form.fit == "crop"
        is_painted = Path(form.image).name == PAINTED
        texts = [
            "Painted from your words." if is_painted else "",
            "The clip starts from this." if not cut else "The bright part is used.",
        ]
        is_visitors = not form.as_written  # else it came with an example or a clip
        doubt = ONLY_ITS_OWN if form.model == SMALL_MODEL and is_visitors else ""
        return {
            self.box: shown,
            self.crop: html.picture(picture, "The first frame"),
            self.note: html.notes([*texts, doubt]),
            self.another: gr.update(visible=is_painted and form.can_be_painted(self.settings)),
            self.fit: gr.update(visible=not is_whole),
            self.crop_position: gr.update(
                visible=bool(cut), label=KEEP_HEIGHT if cut == "height" else KEEP_WIDTH
            ),
        }

    def connect(self, camera: gr.Button) -> None:
        """Connect Remove, and the button that shows the camera's field."""
        camera.click(lambda: gr.update(visible=True), None, [self.camera_box], **PRIVATE)
        taken = [self.image.input, self.image.upload]
        gr.on(taken, lambda: gr.update(visible=False), None, [self.camera_box], **PRIVATE)
        self.remove.click(lambda: None, None, [self.image], **PRIVATE)

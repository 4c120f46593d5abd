"""The picture a clip starts from, by every way it can come, and the adapters."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from mova.media.clips import read_settings
from tests.browser.page import Demo, serving, visiting

PERMISSIONS = ["clipboard-read", "clipboard-write", "camera"]


@pytest.fixture
def thirds(tmp_path):
    """A wide picture: red, green, blue from left to right."""
    pixels = np.zeros((60, 360, 3), np.uint8)
    pixels[:, :120, 0] = pixels[:, 120:240, 1] = pixels[:, 240:, 2] = 255
    Image.fromarray(pixels).save(tmp_path / "thirds.png")
    return tmp_path / "thirds.png"


def bright_centre(page):
    """Where the bright part of the preview lies, from 0 to 1."""
    box = page.locator("#crop img")
    pixels = np.asarray(Image.open(io.BytesIO(box.screenshot())).convert("RGB"), int)
    saturation = (pixels.max(2) - pixels.min(2)).mean(0)
    bright = np.flatnonzero(saturation > 0.8 * saturation.max())
    return bright.mean() / pixels.shape[1]


def test_the_part_that_is_kept_is_chosen_by_hand_and_stays_with_the_clip(demo, thirds, tmp_path):
    page = demo.page
    assert not page.locator("#crop-position").is_visible()
    demo.add(thirds)
    page.locator("#crop img").wait_for()
    page.get_by_text("Position, left to right").wait_for()
    assert bright_centre(page) == pytest.approx(0.5, abs=0.1)
    before = page.locator("#crop img").get_attribute("src")
    page.locator("#crop-position input[type=range]").focus()
    page.keyboard.press("End")
    page.wait_for_function("before => document.querySelector('#crop img')?.src !== before", arg=before)
    demo.settle()
    assert bright_centre(page) > 0.7
    demo.make("A wall. The audio shows a hum.")
    settings = read_settings(demo.download(tmp_path / "clip.mp4"))
    assert (settings["fit"], settings["crop_position"]) == ("crop", 1)
    demo.choose("Black bars")
    page.get_by_text("The clip starts from this.").wait_for()
    assert not page.locator("#crop-position").is_visible()
    page.locator("#reuse").click()
    page.get_by_text("Position, left to right").wait_for()
    assert page.locator("#crop-position input[type=range]").input_value() == "1"


def test_a_picture_that_cannot_be_opened_is_named_under_the_prompt(demo, tmp_path):
    page = demo.page
    (tmp_path / "holiday.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(500))
    demo.add(tmp_path / "holiday.png")
    page.locator("#added-note").get_by_text("holiday.png is not an image that can be read").wait_for()
    assert not page.locator("#picture").is_visible()
    demo.make("A wall. The audio shows a hum.")  # without it


def test_a_tall_picture_keeps_its_upper_third_and_is_removed_again(demo, tmp_path):
    page = demo.page
    pixels = np.zeros((400, 120, 3), np.uint8)
    pixels[:, :, 2] = 255
    pixels[100:160] = (255, 0, 0)  # a face
    Image.fromarray(pixels).save(tmp_path / "tall.png")
    demo.add(tmp_path / "tall.png")
    page.get_by_text("Position, top to bottom").wait_for()
    face = np.empty(0)
    for _ in range(100):  # until it is drawn
        page.wait_for_timeout(100)
        box = np.asarray(Image.open(io.BytesIO(page.locator("#crop img").screenshot())).convert("RGB"), int)
        rows = box[:, box.shape[1] // 2]
        face = np.flatnonzero((rows[:, 0] > 200) & (rows[:, 2] < 60)) / len(rows)
        if len(face):
            break
    assert len(face) and face.mean() == pytest.approx(0.3, abs=0.06)
    page.locator("#remove-picture").click()
    page.locator("#picture").wait_for(state="hidden")


def test_a_picture_is_pasted(chromium, server):
    demo = Demo(chromium, server.url, permissions=PERMISSIONS)
    page = demo.page
    page.evaluate(
        """async () => { const canvas = new OffscreenCanvas(64, 64);
           const context = canvas.getContext('2d'); context.fillStyle = 'green';
           context.fillRect(0, 0, 64, 64);
           const blob = await canvas.convertToBlob({type: 'image/png'});
           await navigator.clipboard.write([new ClipboardItem({'image/png': blob})]) }"""
    )
    page.locator("#prompt textarea").focus()
    page.keyboard.press("Control+v")
    page.locator("#crop img").wait_for()
    demo.close()
    assert demo.complaints == []


def test_a_picture_is_taken_with_the_camera(chromium, server):
    demo = Demo(chromium, server.url, permissions=PERMISSIONS)
    page = demo.page
    demo.open_more()
    page.locator("#camera").click()
    frame = page.locator("#first-frame")
    frame.get_by_text("Click to Access Webcam").click()
    page.wait_for_function(  # a camera that has not begun gives no picture
        """() => { const video = document.querySelector('#first-frame video');
                   return video && video.videoWidth > 0 && video.currentTime > 0; }"""
    )
    frame.get_by_role("button", name="capture photo").click()
    page.locator("#crop img").wait_for()
    demo.close()
    assert demo.complaints == []


def test_two_adapters_act_together_each_as_strongly_as_was_said(demo, tmp_path):
    page = demo.page
    generator = np.random.default_rng(0)
    for name in ("look", "voice"):
        tensors = {
            f"video_dit.blocks.0.self_attn.q.lora_{half}.weight": generator.normal(size=size).astype("f4")
            for half, size in (("A", (2, 48)), ("B", (48, 2)))
        }
        save_file(tensors, tmp_path / f"{name}.safetensors", {"alpha": "2"})
    demo.open_more()
    page.get_by_text("Adapters (LoRA)").click()
    page.locator("#adapter-0-file input[type=file]").set_input_files(tmp_path / "look.safetensors")
    assert not page.locator("#adapter-1-name").is_visible()
    page.locator("#more-adapters").click()
    page.locator("#adapter-1-name").wait_for()
    page.locator("#adapter-1-name input").fill("/etc/passwd")
    page.keyboard.press("Enter")
    page.locator("#prompt textarea").fill("A bell. The audio shows a bell.")
    page.locator("#make").click()
    page.locator("#adapter-1-name").get_by_text("is not a repo of the Hub").wait_for()
    page.locator("#adapter-1-name input").fill("")
    page.keyboard.press("Tab")
    page.locator("#adapter-1-file input[type=file]").set_input_files(tmp_path / "voice.safetensors")
    page.locator("#adapter-1-audio input[type=number]").fill("0.5")
    page.keyboard.press("Tab")
    page.get_by_text("voice.safetensors").or_(page.get_by_text("voice")).first.wait_for()
    demo.make()
    settings = read_settings(demo.download(tmp_path / "clip.mp4"))
    assert settings["adapters"] == [
        ["look.safetensors", 1.0],
        ["voice.safetensors", {"video": 1, "audio": 0.5, "bridge": 1}],
    ]


def test_a_first_frame_is_painted_exchanged_kept_over_a_reload_and_removed(
    chromium, scripted, tmp_path_factory, tmp_path
):
    def paint(handler):
        colour = (10, 200 - 60 * len(scripted.requests), 30)
        buffer = io.BytesIO()
        Image.new("RGB", (64, 32), colour).save(buffer, "PNG")
        handler.json(200, {"data": [{"b64_json": base64.b64encode(buffer.getvalue()).decode()}]})

    scripted.always = paint
    folder = tmp_path_factory.mktemp("painter")
    with serving(folder, MOVA_IMAGE_BASE_URL=scripted.url) as server, visiting(chromium, server) as demo:
        page = demo.page
        assert not page.locator("#paint").is_visible()
        page.locator("#prompt textarea").fill("A wall. The audio shows a hum.")
        page.locator("#paint").click()
        page.get_by_text("Painted from your words.").wait_for()
        assert not page.locator("#paint").is_visible()
        first = page.locator("#crop img").get_attribute("src")
        page.locator("#paint-another").click()
        page.wait_for_function("before => document.querySelector('#crop img').src !== before", arg=first)
        second = page.locator("#crop img").get_attribute("src")
        demo.open()
        page.get_by_text("Painted from your words.").wait_for()
        assert page.locator("#crop img").get_attribute("src") == second
        demo.make()
        assert read_settings(demo.download(tmp_path / "clip.mp4"))["image"] == "first.png"
        page.locator("#remove-picture").click()
        page.locator("#paint").wait_for()
        assert len(scripted.requests) == 2  # none without a click

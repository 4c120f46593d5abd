"""A sound, a silent video and a clip on the page: added, described, changed in each of the ways."""

import av
import numpy as np

from mova.media.clips import read_clip, read_settings, write_wav
from tests.lora_trainer.clips import make_clip, wave

SECONDS = 17 / 24


def add(demo, path):
    demo.add(path)
    demo.page.locator("#tracks b").first.wait_for()
    demo.settle()


def packets(path):
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def test_a_clip_is_changed_in_each_of_the_four_ways_from_its_own_buttons(demo, tmp_path):
    page = demo.page
    demo.make("A bell. The audio shows a bell.")
    page.locator("#mine button").first.wait_for()
    clip = demo.download(tmp_path / "first.mp4")
    first = read_clip(clip)
    for button, label, words in (
        ("#redo-sound", "Make the sound", "Picture kept as it is Sound made"),
        ("#redo-picture", "Make the picture", "Picture made Sound kept as it is"),
        ("#retake", "Fix the part", "Picture made from 0.13 to 0.25 s, the rest is kept"),
        ("#extend", "Extend the clip", "Picture made from 0.38 to 0.88 s, the rest is kept"),
    ):
        page.locator("#mine button").last.click()
        page.wait_for_function("() => document.querySelector('#actions')?.offsetParent")
        demo.settle()
        if not page.locator(button).is_visible():
            page.get_by_text("More with this clip").click()
        page.locator(button).click()
        page.locator("#make").get_by_text(label).or_(page.get_by_role("button", name=label)).first.wait_for()
        demo.settle()
        assert " ".join(demo.text("#tracks").split()).startswith(words)
        assert "About" in page.locator("#cost-note").text_content()
        demo.make(preset="Draft")
        made = read_clip(demo.download(tmp_path / "made.mp4"))
        settings = read_settings(tmp_path / "made.mp4")
        assert settings["video"] == "given.mp4"
        if button == "#redo-sound":
            assert packets(tmp_path / "made.mp4") == packets(clip)
        if button == "#extend":
            assert len(made.frames) == 21
            assert np.abs(made.frames[:9].astype(int) - first.frames).mean() < 4
        else:
            assert made.frames.shape == first.frames.shape
    page.locator("#remove-added").click()
    page.get_by_role("button", name="Generate", exact=True).wait_for()


def test_a_sound_and_a_silent_video_are_added_and_completed(demo, tmp_path):
    page = demo.page
    write_wav(tmp_path / "voice.wav", wave(SECONDS, (0.2,)), 48_000)
    add(demo, tmp_path / "voice.wav")
    assert "Picture made" in " ".join(demo.text("#tracks").split())
    assert not page.locator("#act").is_visible()
    demo.make(preset="Draft")
    sung = read_clip(demo.download(tmp_path / "sung.mp4"))
    given = wave(SECONDS, (0.2,))[: sung.waveform.shape[1]]
    assert np.corrcoef(sung.waveform[0], given)[0, 1] > 0.99
    with av.open(str(tmp_path / "sung.mp4")) as container, av.open(str(tmp_path / "mute.mp4"), "w") as output:
        copy = output.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                output.mux(packet)
    add(demo, tmp_path / "mute.mp4")
    page.locator("#tracks").get_by_text("kept as it is").wait_for()
    demo.make(preset="Draft")
    assert packets(demo.download(tmp_path / "heard.mp4")) == packets(tmp_path / "mute.mp4")


def test_a_part_is_marked_by_keyboard_and_a_wrong_one_has_its_sentence(demo, tmp_path):
    page = demo.page
    add(demo, make_clip(tmp_path / "clip.mp4", SECONDS, 24, (0.3,), None, height=32, width=64))
    demo.choose("Fix a part")
    page.locator("#tracks").get_by_text("made from 0.24 to 0.47 s").first.wait_for()
    page.locator("#span-end input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    page.locator("#tracks").get_by_text("made from 0.24 to 0.48 s").first.wait_for()
    page.locator("#span-start input[type=number]").fill("0.6")
    page.keyboard.press("Tab")
    page.locator("#tracks").get_by_text("ends before it starts").wait_for()
    demo.settle()
    page.locator("#make").click()
    page.locator("#span-end").get_by_text("ends before it starts").wait_for()
    (tmp_path / "page.mp4").write_bytes(b"<html>")
    demo.add(tmp_path / "page.mp4")
    page.locator("#added-note").get_by_text("page.mp4 cannot be read").wait_for()

"""What is added to the form: its kind, the request it makes, what is refused, and what is written of it."""

import math
import struct
import wave as wave_file
from dataclasses import replace
from pathlib import Path

import av
import gradio as gr
import numpy as np
import pytest
from PIL import Image

from demo import html
from demo.added import CLIP, SILENT, SOUND, keep_added, making, next_window, one_window, probe
from demo.costs import Costs
from demo.form import Form
from demo.generate_form import GenerateForm
from demo.restore import form_of
from demo.service import DemoService
from demo.settings import Settings
from mova import catalog
from mova.backends.settings import RemoteServer
from mova.errors import UserError
from mova.media.clips import read_clip, write_wav
from mova.media.images import crop_box
from mova.request import GenerationRequest
from mova.tracks import Window
from tests.lora_trainer.clips import make_clip, wave

SECONDS = 17 / 24


@pytest.fixture(scope="module")
def settings(golden, tmp_path_factory):
    outputs = tmp_path_factory.mktemp("outputs")
    return Settings(model=str(golden / "checkpoint"), size=(32, 64), seconds=0.71, outputs=outputs)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A clip, a silent video and a sound of 17 frames, by their kinds."""
    folder = tmp_path_factory.mktemp("files")
    clip = make_clip(folder / "clip.mp4", SECONDS, 24, (0.3,), None, height=32, width=64)
    with av.open(str(clip)) as container, av.open(str(folder / "silent.mp4"), "w") as output:
        copy = output.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                output.mux(packet)
    write_wav(folder / "voice.wav", wave(SECONDS, (0.3,)), 48_000)
    return {CLIP: clip, SILENT: folder / "silent.mp4", SOUND: folder / "voice.wav"}


@pytest.fixture
def form(settings):
    return Form(prompt="a bell rings", model=settings.model, random_seed=False, seed=1)


def test_the_kind_of_a_file_is_read_from_what_it_holds(files):
    for kind, path in files.items():
        assert probe(path).kind == kind
        assert probe(path).num_frames(24) == 17
        assert probe(path).seconds == pytest.approx(SECONDS, abs=0.001)


@pytest.mark.parametrize(
    ("kind", "values", "made", "picture", "sound"),
    [
        (SOUND, {}, (False, False), "made", "kept as it is"),
        (SILENT, {}, (False, False), "kept as it is", "made"),
        (CLIP, {"act": "sound"}, (False, False), "kept as it is", "made"),
        (CLIP, {"act": "picture"}, (True, False), "made", "kept as it is"),
        (CLIP, {"act": "sound", "strength": 0.5}, (False, True), "kept as it is", "made"),
        (
            CLIP,
            {"act": "sound", "span_start": 0.2, "span_end": 0.4},
            (False, ((0.2, 0.4),)),
            "kept as it is",
            "made from 0.20 to 0.40 s, the rest is kept",
        ),
        (
            CLIP,
            {"act": "retake", "span_start": 0.25, "span_end": 0.5},
            (((0.25, 0.5),),) * 2,
            "made from 0.25 to 0.50 s, the rest is kept",
            "made from 0.25 to 0.50 s, the rest is kept",
        ),
    ],
)
def test_what_was_added_is_kept_but_for_what_is_asked_for(
    form, settings, files, kind, values, made, picture, sound
):
    request = replace(form, added=str(files[kind]), **values).request(settings)
    request.check()
    assert (request.regenerate_video, request.regenerate_audio) == made
    assert (request.video is not None, request.audio is not None) == (
        kind != SOUND,
        kind != SILENT and (picture == "made" or bool(made[0] or made[1])),
    )
    assert making(request).words() == (picture, sound)
    assert (request.num_frames, request.height, request.width) == (17, 32, 64)


@pytest.mark.parametrize("seconds", [0.5, 0.6, 0.68, 0.75])
def test_the_span_that_the_page_fills_in_is_all_of_a_sound_and_of_a_clip(settings, form, tmp_path, seconds):
    write_wav(tmp_path / "voice.wav", wave(seconds), 48_000)
    clip = make_clip(tmp_path / "clip.mp4", seconds, 24, (), None, height=32, width=64)
    with gr.Blocks():
        page = GenerateForm(DemoService(settings))
    for path, act in ((tmp_path / "voice.wav", "extend"), (clip, "sound"), (clip, "picture")):
        values = page.fill(replace(form, added=str(path), act=act))
        filled = page.card.choose_act(str(path), act)
        values |= {component: update["value"] for component, update in filled.items()}
        request = page.read(values).request(settings)
        assert (request.regenerate_video, request.regenerate_audio) == (act == "picture", False)


def test_an_extension_is_one_window_more_of_both_tracks(form, settings, files):
    """The model's window is 17 frames, of which 5 are held."""
    request = replace(form, added=str(files[CLIP]), act="extend").request(settings)
    end = request.num_frames / 24
    assert request.num_frames == 17 + 12
    assert request.regenerate_audio == ((SECONDS, end),)
    assert making(request).picture == making(request).sound == ((SECONDS, end),)


def test_a_window_of_pocket_holds_nine_frames_and_one_of_a_released_model_as_many_latents_as_a_second_has():
    assert next_window(49, catalog.MODELS["pocket"]) == Window(40, 9, 49)
    assert next_window(193, catalog.MODELS["360p"]) == Window(172, 21, 193)


@pytest.mark.parametrize(
    ("act", "end", "refine"),
    [("extend", 0, 2), ("retake", 0.5, 4), ("retake", 0, 0), ("sound", 0.5, 0), ("picture", 0.5, 0)],
)
def test_pocket_refines_where_a_part_of_both_tracks_is_made(form, settings, files, act, end, refine):
    request = replace(form, model="pocket", added=str(files[CLIP]), act=act, span_end=end).request(settings)
    request.check()
    assert request.refine == refine


def test_the_words_are_optional_with_a_track_and_the_first_frame_is_the_videos(form, settings, files, golden):
    wordless = replace(form, prompt="", image=str(golden / "image.png"))
    assert replace(wordless, added=str(files[SOUND])).request(settings).image is not None
    for act in ("extend", "sound", "retake"):
        assert replace(wordless, added=str(files[CLIP]), act=act).request(settings).image is None
    assert replace(wordless, added=str(files[CLIP]), act="picture").request(settings).image is not None
    with pytest.raises(UserError, match="the prompt is empty"):
        wordless.request(settings)


def test_a_tall_video_makes_a_tall_clip_and_one_of_a_valid_size_keeps_it(form, settings, tmp_path):
    tall = make_clip(tmp_path / "tall.mp4", 0.4, 24, (), None, height=144, width=72)
    request = replace(form, added=str(tall), act="sound", shape="wide").request(settings)
    assert (request.height, request.width) == (64, 32)
    near = make_clip(tmp_path / "near.mp4", 0.4, 24, (), None, height=48, width=64)
    request = replace(form, added=str(near), act="sound").request(settings)
    assert (request.height, request.width) == (48, 64)


@pytest.mark.parametrize(
    ("kind", "values", "field", "sentence"),
    [
        (CLIP, {"act": "dance"}, "act", "is not known"),
        (CLIP, {"act": "retake", "span_start": 0.5, "span_end": 0.2}, "span_end", "ends before it starts"),
        (CLIP, {"act": "retake", "span_start": 5.0}, "span_end", "out of range"),
        (CLIP, {"act": "retake", "span_end": math.nan}, "span_end", "is not a number"),
        (CLIP, {"act": "sound", "strength": 0}, "strength", "makes nothing"),
        (CLIP, {"act": "sound", "strength": 2}, "strength", "out of range"),
        (SOUND, {"span_start": 0.2, "span_end": 0.4}, "span_end", "no part of it can be made again"),
        (SILENT, {"strength": 0.5}, "span_end", "no part of it can be made again"),
    ],
)
def test_what_cannot_be_done_with_it_is_laid_on_its_field(
    form, settings, files, kind, values, field, sentence
):
    with pytest.raises(UserError, match=sentence) as caught:
        replace(form, added=str(files[kind]), **values).request(settings)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("page.html", b"<html>", "no sound or video"),
        ("page.mp4", b"<html><script>", "cannot be read"),
        ("list.mp3", b"#EXTM3U\nfile:///etc/passwd\n", "cannot be read"),
        ("empty.wav", b"", "cannot be read"),
    ],
)
def test_a_hostile_file_is_a_sentence(form, settings, tmp_path, name, data, sentence):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=sentence) as caught:
        replace(form, added=str(tmp_path / name)).request(settings)
    assert caught.value.field == "added"
    assert str(tmp_path) not in str(caught.value)


def test_what_is_too_long_and_what_an_engine_cannot_take_is_refused_before_the_click(
    form, settings, files, tmp_path
):
    write_wav(tmp_path / "long.wav", np.zeros(8000 * 30, np.float32), 8000)
    with pytest.raises(UserError, match=r"seconds of long.wav=30.0 is out of range.* to 20"):
        replace(form, added=str(tmp_path / "long.wav")).request(settings)
    short = replace(settings, max_seconds=1.0)
    with pytest.raises(UserError, match="seconds of the longer clip"):
        replace(form, added=str(files[CLIP]), act="extend").request(short)
    engine = replace(settings, remote=RemoteServer("http://127.0.0.1:9/v1"))
    with pytest.raises(UserError, match="takes no sound or video"):
        replace(form, added=str(files[SOUND])).request(engine)


def test_of_a_video_only_picture_and_sound_are_kept_and_they_are_the_same(files, tmp_path):
    whole = files[CLIP].read_bytes() + b"PK\x03\x04 a zip"
    (tmp_path / "both.mp4").write_bytes(whole)
    kept = keep_added(tmp_path / "both.mp4", tmp_path)
    assert kept.name == "given.mp4"
    assert b"a zip" not in kept.read_bytes()
    for kind in ("video", "audio"):
        assert packets(kept, kind) == packets(files[CLIP], kind)
    assert probe(kept) == probe(files[CLIP])
    assert np.array_equal(read_clip(kept).waveform, read_clip(files[CLIP]).waveform)
    kept, given = (wav_samples(path) for path in (keep_added(files[SOUND], tmp_path), files[SOUND]))
    assert np.abs(kept - given).max() <= 1  # 16 bits are read as n / 32768 and written as 32767 x


def test_a_video_that_a_phone_turned_is_kept_turned(files, tmp_path):
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    data = files[CLIP].read_bytes()
    at = data.index(upright, data.index(b"tkhd"))
    (tmp_path / "phone.mp4").write_bytes(data[:at] + turned + data[at + len(turned) :])
    kept = keep_added(tmp_path / "phone.mp4", tmp_path)
    assert probe(kept) == probe(tmp_path / "phone.mp4")
    assert (probe(kept).video.height, probe(kept).video.width) == (64, 32)


def test_a_lower_strength_and_a_longer_clip_cost_what_is_run(tmp_path):
    costs = Costs(Settings())
    costs.device_name, costs.cores = "CPU", 2
    model = catalog.MODELS["pocket"]
    clip = make_clip(tmp_path / "clip.mp4", 49 / 24, 24, (0.3,), None, height=128, width=224)
    standard = {"num_inference_steps": 12, "guidance_scale": 2.0, "bridge_guidance_scale": 2.0}
    form = Form(prompt="-", model="pocket", added=str(clip), **standard)

    def seconds(**values):
        request = replace(form, **values).request(Settings())
        return costs.seconds(one_window(request, model), model.source)

    fresh = costs.seconds(GenerationRequest("-", **model.defaults(model.preset("standard"))), model.source)
    retake = {"act": "retake", "span_start": 0.5, "span_end": 1.0}
    assert seconds(act="sound") == pytest.approx(fresh)
    # Three passes and five, of which the further ones of the sound are cheap.
    assert 2 * fresh < seconds(**retake) < 2.6 * fresh
    assert 1.5 * fresh < seconds(act="extend") < 1.8 * fresh
    assert seconds(**retake, strength=0.5) < 0.6 * seconds(**retake)


def wav_samples(path):
    with wave_file.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(int)


def packets(path, kind):
    with av.open(str(path)) as container:
        stream = container.streams.best(kind)
        return [
            (packet.pts * packet.time_base, bytes(packet))
            for packet in container.demux(stream)
            if packet.size
        ]


def test_the_card_says_what_is_kept_and_offers_what_can_be_done(settings, form, files):
    with gr.Blocks():
        page = GenerateForm(DemoService(settings))
    card = page.card
    values = page.fill(replace(form, added=str(files[CLIP]), act="retake", span_start=0.2, span_end=0.4))
    shown = page.show_added(values)
    assert shown[card.box]["visible"] and shown[card.act]["visible"] and shown[card.span]["visible"]
    assert "made from 0.20 to 0.40 s, the rest is kept" in shown[card.tracks]
    assert button(page, files[CLIP], "retake") == "Fix the part"
    assert not shown[page.camera]["visible"] and not shown[page.seconds]["visible"]
    shown = page.show_added(page.fill(replace(form, added=str(files[SOUND]))))
    assert not shown[card.act]["visible"] and shown[page.camera]["visible"]
    assert button(page, files[SOUND], "extend") == "Make the picture"
    shown = page.show_added(page.fill(form))
    assert not shown[card.box]["visible"] and button(page, "", "extend") == "Generate"


def button(page, added, act):
    return page.read_prompt(Form(model="360p", added=str(added), act=act))[page.make]["value"]


def test_a_file_that_is_gone_is_said_in_the_card_and_nothing_else_breaks(settings, form, tmp_path):
    with gr.Blocks():
        page = GenerateForm(DemoService(settings))
    gone = str(tmp_path / "gone.mp4")
    values = page.fill(replace(form, added=gone, image=gone))
    assert "gone.mp4 is no longer here; add it again" in page.show_added(values)[page.card.tracks]
    assert "gone.mp4 is no longer here" in page.show_added(values)[page.picture.note]
    assert "gone.mp4 is no longer here" in page.describe(values)[page.remarks]
    assert page.card.choose_act(gone, "retake") == {}


def test_an_upload_goes_where_it_belongs(settings, form, files, golden, tmp_path):
    with gr.Blocks():
        page = GenerateForm(DemoService(settings))

    def take(path):
        return page.take(page.fill(form) | {page.add: str(path)})

    picture = golden / "image.png"
    assert take(picture) == {page.image: str(picture), page.crop_position: 0.5, page.note: ""}
    assert take(files[SOUND])[page.card.added] == str(files[SOUND])
    (tmp_path / "page.txt").write_text("x")
    assert "not an image" in take(tmp_path / "page.txt")[page.note]


def test_a_face_stays_in_the_crop_when_the_shape_changes(settings, form, tmp_path):
    with gr.Blocks():
        page = GenerateForm(DemoService(settings))
    picture = Image.new("RGB", (1000, 320), "grey")
    picture.paste(Image.open(Path(__file__).parents[1] / "media" / "astronaut.jpg"), (680, 0))
    picture.save(tmp_path / "wide.png")
    taken = page.take(page.fill(form) | {page.add: str(tmp_path / "wide.png")})
    tall = replace(form, image=taken[page.image], shape="tall")
    placed = page.place_crop(page.fill(tall))
    positions = {(32, 64): taken[page.crop_position], (64, 32): placed[page.crop_position]}
    for (height, width), position in positions.items():
        left, _, right, _ = crop_box(picture.size, height, width, position)
        assert left < 780 < 860 < right  # her face
    assert page.place_crop(page.fill(form)) == {page.crop_position: gr.skip()}
    assert page.take(page.fill(form) | {page.add: None}) == gr.skip()


def test_the_form_of_a_changed_clip_comes_back_with_its_file(settings, form, files):
    service = DemoService(settings)
    for values in (
        {"act": "retake", "span_start": 0.25, "span_end": 0.5, "strength": 0.5},
        {"act": "extend"},
        {"act": "sound"},
        {"act": "picture"},
    ):
        asked = replace(form, added=str(files[CLIP]), **values)
        request = asked.request(settings)
        folder = files[CLIP].parent
        restored = form_of(service, request.to_settings(folder), None, service.model_name, folder)
        assert restored.request(settings) == request


def test_the_strip_draws_what_is_made_where_it_is(form, settings, files):
    retake = replace(form, added=str(files[CLIP]), act="retake", span_start=0.25, span_end=0.5)
    drawn = html.tracks(making(retake.request(settings)))
    assert drawn.count(f"left:{100 * 0.25 / SECONDS:.2f}%;width:{100 * 0.25 / SECONDS:.2f}%") == 2

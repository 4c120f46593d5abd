import hashlib
import io
import json
import logging
import os
import re
import socket
import threading
import time

import numpy as np
import pytest
from PIL import Image

from mova.backends.remote import WAITING, Patience, RemoteBackend, VideoServer
from mova.backends.settings import RemoteServer
from mova.errors import BackendError, Cancelled, UserError
from mova.media.clips import read_clip, read_settings, write_mp4
from mova.media.images import load_first_frame
from mova.openai_client import never_cancelled
from mova.request import GenerationRequest
from tests.backends.video_server import KEY, content, dies_after, page, redirect, running_engine, slow, status
from tests.disk import files_of_at_most
from tests.media.test_remux import write_foreign
from tests.ports import closed_address

H, W = 32, 64
REQUEST = GenerationRequest(
    "a bell  rings", height=H, width=W, num_frames=9, num_inference_steps=3, guidance_scale=3.5, seed=7
)
PATIENCE = Patience(poll=0.01, job=20, silence=5, attempts=(0.01, 0.01))
IMPATIENCE = Patience(poll=0.01, job=20, silence=0.3, attempts=(0.01, 0.01))
LATE = slow(1)
HEALTH, MODELS, SCHEMA, INFO = "GET /health", "GET /v1/models", "GET /openapi.json", "GET /server_info"
ORDER, LOOK, CONTENT = "POST /v1/videos", "GET /v1/videos/ID", "GET /v1/videos/ID/content"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """mp4 files by what is right or wrong with them."""
    folder = tmp_path_factory.mktemp("clips")
    random = np.random.default_rng(0)

    def make(name, num_frames=9, height=H, width=W, frame_rate=24, keep=None):
        frames = random.integers(0, 256, (num_frames, height, width, 3), np.uint8)
        waveform = random.uniform(-0.5, 0.5, 48000 * num_frames // frame_rate + 1)
        write_mp4(folder / name, frames, waveform, frame_rate, 48000, {})
        return (folder / name).read_bytes()

    return {
        "good": make("good.mp4"),
        "long": make("long.mp4", num_frames=13),
        "large": make("large.mp4", height=64),
        "fast": make("fast.mp4", frame_rate=30),
    }


@pytest.fixture(scope="module")
def running():
    with running_engine() as engine:
        yield engine


@pytest.fixture
def engine(running, clips):
    running.reset(clips["good"])
    return running


@pytest.fixture
def backend(engine):
    return RemoteBackend("360p", RemoteServer(engine.url, KEY), PATIENCE)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "clip.mp4"


def test_a_clip_is_the_servers_and_carries_what_made_it(backend, engine, golden, out, tmp_path):
    request = REQUEST.replace(image=golden / "image.png", seed=None)
    result = backend.generate(request, out)
    (tmp_path / "sent.mp4").write_bytes(engine.clip)
    sent, got, settings = read_clip(tmp_path / "sent.mp4"), read_clip(out), read_settings(out)
    assert np.array_equal(sent.frames, got.frames)
    assert np.array_equal(sent.waveform, got.waveform)
    assert GenerationRequest.from_settings(settings) == result.request
    assert settings["seed"] == engine.orders[0]["seed"] == result.request.seed
    assert settings["image_sha256"] == hashlib.sha256((golden / "image.png").read_bytes()).hexdigest()
    assert (settings["model"], settings["backend"]) == ("360p", "remote")
    assert settings["served_model"] == "OpenMOSS-Team/MOVA-360p"
    assert KEY not in json.dumps(settings)
    assert engine.url not in json.dumps(settings)
    assert (result.path, result.model) == (out, "360p")
    assert result.seconds.keys() == {"submit", "remote", "download", "write"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "sent.mp4"]


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_the_server_reads_exactly_what_was_asked(backend, engine, tmp_path, out, fit):
    wide = np.random.default_rng(0).integers(0, 256, (90, 300, 3), np.uint8)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    backend.generate(REQUEST.replace(image=tmp_path / "wide.png", fit=fit, negative_prompt="blur"), out)
    (order,) = engine.orders
    with Image.open(io.BytesIO(order.pop("image"))) as image:
        assert np.array_equal(np.asarray(image), load_first_frame(tmp_path / "wide.png", H, W, fit))
    assert order == {
        "prompt": "a bell rings",
        "size": "64x32",
        "seconds": None,
        "fps": 24,
        "num_frames": 9,
        "seed": 7,
        "generator_device": "cpu",
        "negative_prompt": "blur",
        "guidance_scale": 3.5,
        "num_inference_steps": 3,
        "unread": [],
    }


def test_text_alone_starts_from_a_white_frame_and_no_negative_prompt_is_not_the_engines_own(
    backend, engine, out
):
    backend.generate(REQUEST, out)
    (order,) = engine.orders
    with Image.open(io.BytesIO(order["image"])) as image:
        assert image.size == (W, H)
        assert image.getextrema() == ((255, 255),) * 3
    assert order["negative_prompt"] is not None
    assert order["negative_prompt"].strip() == ""


def test_progress_tells_stages_and_time_but_no_step(backend, engine, out):
    engine.looks_until_done = 3
    reports = []
    backend.generate(REQUEST, out, reports.append)
    stages = [report.stage for report in reports]
    assert stages == ["submit", WAITING, WAITING, WAITING, "download", "write"]
    assert "no steps" in WAITING
    assert all((report.step, report.steps, report.seconds_left) == (0, 0, None) for report in reports)
    waited = [report.seconds for report in reports if report.stage == WAITING]
    assert waited == sorted(waited)
    assert waited[-1] > waited[0]


@pytest.mark.parametrize("where", ["waiting", "a long wait", "a silent look", "the download"])
def test_a_stop_is_quick_deletes_the_job_and_leaves_nothing(backend, engine, tmp_path, out, where):
    engine.looks_until_done = 10**9 if where != "the download" else 2
    if where == "a long wait":
        backend.patience = Patience(poll=30)
    if where == "a silent look":
        engine.always(LOOK, slow(3))
    if where == "the download":
        engine.always(CONTENT, dies_after(engine.clip[:100], len(engine.clip), stalls=3))
    stages, stop = [], threading.Event()

    def on_progress(report):
        stages.append(report.stage)
        if report.stage == ("download" if where == "the download" else WAITING):
            threading.Timer(0.05, lambda: (stop.set(), setattr(stop, "at", time.monotonic()))).start()

    with pytest.raises(Cancelled):
        backend.generate(REQUEST, out, on_progress, stop.is_set)
    assert time.monotonic() - stop.at < 1
    assert engine.deleted == ["video-1"]
    assert list(tmp_path.iterdir()) == []
    assert stages[0] == "submit"


def test_a_stop_before_the_order_is_answered_still_deletes_the_job(backend, engine, out):
    engine.order_seconds = 0.25
    with pytest.raises(Cancelled):
        backend.generate(REQUEST, out, should_stop=lambda: len(engine.orders) > 0)
    assert len(engine.orders) == 1
    assert engine.deleted == ["video-1"]


@pytest.mark.parametrize(
    ("fault", "name"),
    [(status(405), "APIStatusError"), (content(b"{}", content_encoding="gzip"), "BackendError")],
)
def test_a_server_that_cannot_delete_does_not_hold_up_a_stop(backend, engine, out, caplog, fault, name):
    engine.always("DELETE /v1/videos/ID", fault)
    engine.looks_until_done = 10**9
    with pytest.raises(Cancelled):
        backend.generate(REQUEST, out, should_stop=lambda: "/v1/videos/video-1" in engine.paths("GET"))
    assert f"could not drop job video-1 ({name})" in caplog.text


def test_ctrl_c_deletes_the_job_and_leaves_nothing(backend, engine, tmp_path, out):
    def press(report):
        if report.stage == WAITING:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backend.generate(REQUEST, out, press)
    assert engine.deleted == ["video-1"]
    assert list(tmp_path.iterdir()) == []


def test_the_key_goes_to_the_server_with_every_request_and_nowhere_else(backend, engine, out):
    engine.key = KEY
    elsewhere = engine.url.replace("127.0.0.1", "localhost")
    engine.end |= {"url": f"{elsewhere}/elsewhere/clip.mp4?signature=1"}
    backend.generate(REQUEST, out)
    keys = {path: key for _, path, key in engine.requests}
    assert keys.pop("/elsewhere/clip.mp4") == ""
    assert set(keys.values()) == {f"Bearer {KEY}"}
    assert len(keys) == 5
    assert read_clip(out).frames.shape == (9, H, W, 3)


def test_without_a_key_none_is_sent(engine, out):
    RemoteBackend("360p", RemoteServer(engine.url), PATIENCE).generate(REQUEST, out)
    assert {key for _, _, key in engine.requests} == {""}


def test_a_store_elsewhere_that_refuses_is_not_said_to_want_the_key(backend, engine, out):
    engine.end |= {"url": f"{engine.url.replace('127.0.0.1', 'localhost')}/elsewhere/clip.mp4"}
    engine.always("GET /elsewhere/clip.mp4", status(403))
    with pytest.raises(BackendError, match=r"elsewhere/clip.mp4 does not give out the clip \(403\)"):
        backend.generate(REQUEST, out)


def test_a_key_that_is_needed_is_asked_for(engine, out):
    engine.key = KEY
    with pytest.raises(BackendError, match="asks for a key; put it in MOVA_REMOTE_API_KEY"):
        RemoteBackend("360p", RemoteServer(engine.url), PATIENCE).generate(REQUEST, out)


def test_the_key_is_in_no_error_log_or_repr(backend, engine, out, caplog):
    echo = f"the key {KEY} ({KEY[:6]}...{KEY[-4:]}) is wrong"
    with caplog.at_level(logging.DEBUG):
        for route, fault in (
            (HEALTH, status(401, echo)),
            (ORDER, status(400, echo)),
            (LOOK, status(500, {"error": {"message": echo}})),
            (CONTENT, status(400, echo)),
        ):
            engine.faults.clear()
            engine.always(route, fault)
            with pytest.raises(BackendError) as caught:
                backend.generate(REQUEST, out)
            said = f"{caught.value}{caught.value.__cause__!r}"
            assert KEY not in said
            assert KEY[-4:] not in said
        engine.faults.clear()
        engine.end = {"status": "failed", "error": {"message": echo}}
        with pytest.raises(BackendError) as caught:
            backend.generate(REQUEST, out)
        assert KEY[-4:] not in str(caught.value)
    assert KEY not in caplog.text
    assert KEY not in repr(backend.remote)


FIELDS = [{"loc": ["body", "num_frames"], "msg": "Input should be a valid integer", "type": "int_parsing"}]
REFUSALS = [
    (HEALTH, status(401), r"refused the key; check that it is right"),
    (HEALTH, status(403), r"refused the key; check that it is right"),
    (HEALTH, status(503, "loading"), r"is not ready: loading; wait until it has loaded its model"),
    (HEALTH, redirect("/v1/models"), r"redirects elsewhere, which is not followed; give the address"),
    (HEALTH, LATE, r"gave no answer in 0\.3 s; try again, and look into the server's log$"),
    (ORDER, status(404), r"has no video API; give the address of the engine"),
    (ORDER, status(413), r"does not take an upload of this size; raise the limit of the proxy"),
    (
        ORDER,
        status(422, FIELDS),
        r"\(422\): num_frames: Input should be a valid integer; change what it names",
    ),
    (ORDER, status(400, "width is odd"), r"did not accept the request \(400\): width is odd; change what"),
    (
        ORDER,
        status(500, "CUDA error"),
        r"failed \(500\): CUDA error; try again, and look into the server's log",
    ),
    (ORDER, status(503), r"is not ready: no; wait"),
    (ORDER, redirect("/v1/models"), r"redirects elsewhere, which is not followed"),
    (ORDER, LATE, r"gave no answer in 0\.3 s; .* \(it may have taken the order, so look at its queue"),
    (ORDER, page, r"did not answer like a video API; check that the address is the engine's"),
    (ORDER, content(b'{"id": "../../etc"}'), r"did not answer like a video API"),
    (ORDER, content(b'{"status": "queued"}'), r"did not answer like a video API"),
    (ORDER, content(b"[" * 100_000), r"did not answer like a video API"),
    (LOOK, status(404, "Video not found"), r"no longer knows the job video-1: .*; run again"),
    (LOOK, status(500), r"failed \(500\): no; try again, and look into the server's log"),
    (LOOK, LATE, r"gave no answer in 0\.3 s"),
    (LOOK, page, r"did not answer like a video API"),
    (LOOK, redirect("/v1/models"), r"redirects elsewhere"),
    (LOOK, content(b" " * 4_000_001), r"sent more than an answer may have, 4000000 bytes; use another"),
    (LOOK, status(400, "x" * 4_000_000), r"sent more than an answer may have"),
    (LOOK, content(b"{}", content_encoding="gzip"), r"sent a compressed answer, which may hide more than"),
    (
        CONTENT,
        status(404),
        r"is not there although the job is done; start the engine with --output-path FOLDER",
    ),
    (CONTENT, status(400, "uploaded"), r"did not accept the request \(400\): uploaded"),
    (CONTENT, status(502), r"failed \(502\)"),
    (CONTENT, redirect("/elsewhere/clip.mp4"), r"redirects elsewhere"),
    (CONTENT, page, r"sent 'text/html' where a clip should be; check that the address"),
    (CONTENT, content(b"{}", "application/json"), r"sent 'application/json' where a clip should be"),
    (CONTENT, content(b"<html></html>"), r"a clip that cannot be used: it is damaged or not an mp4 clip"),
    (CONTENT, content(b""), r"a clip that cannot be used: it is damaged or not an mp4 clip"),
]
REFUSAL_NAMES = [f"{route} {index}" for index, (route, _, _) in enumerate(REFUSALS)]


@pytest.mark.parametrize(("route", "fault", "sentence"), REFUSALS, ids=REFUSAL_NAMES)
def test_a_fault_that_lasts_is_one_sentence_and_leaves_nothing(
    backend, engine, tmp_path, out, route, fault, sentence
):
    engine.always(route, fault)
    if fault is LATE:
        backend.patience = IMPATIENCE
    with pytest.raises(BackendError, match=sentence) as caught:
        backend.generate(REQUEST, out)
    assert "\n" not in str(caught.value)
    assert engine.url in str(caught.value)
    assert engine.paths("POST").count("/v1/videos") == (0 if route == HEALTH else 1)  # ordered once at most
    assert "/elsewhere/clip.mp4" not in engine.paths("GET")
    assert list(tmp_path.iterdir()) == []


def late(clip):
    return LATE


def stalling(clip):
    return dies_after(clip[:10], len(clip), stalls=1)


PASSING = [
    (ORDER, lambda clip: status(429, retry_after="0"), 2),
    (LOOK, lambda clip: status(500), 1),
    (LOOK, lambda clip: status(429), 1),
    (LOOK, late, 1),
    (CONTENT, lambda clip: status(503), 1),
    (CONTENT, lambda clip: dies_after(clip[: len(clip) // 2], len(clip)), 1),
    (CONTENT, stalling, 1),
    (HEALTH, lambda clip: status(404), 1),
]


@pytest.mark.parametrize(
    ("route", "fault", "orders"), PASSING, ids=[f"{r} {i}" for i, (r, _, _) in enumerate(PASSING)]
)
def test_a_fault_that_passes_costs_a_moment_and_no_second_clip(
    backend, engine, tmp_path, out, route, fault, orders
):
    engine.faults[route].append(fault(engine.clip))
    if fault in (late, stalling):
        backend.patience = IMPATIENCE
    backend.generate(REQUEST, out)
    assert engine.paths("POST").count("/v1/videos") == orders
    assert len(engine.orders) == 1
    assert read_clip(out).frames.shape == (9, H, W, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_download_that_always_dies_is_no_clip(backend, engine, tmp_path, out, share):
    engine.always(CONTENT, dies_after(engine.clip[: int(len(engine.clip) * share)], len(engine.clip)))
    with pytest.raises(BackendError, match="hung up before its answer was whole; try again"):
        backend.generate(REQUEST, out)
    assert engine.paths("GET").count("/v1/videos/video-1/content") == 3
    assert list(tmp_path.iterdir()) == []


def test_a_clip_over_the_limit_is_broken_off_and_not_fetched_again(
    backend, engine, tmp_path, out, monkeypatch
):
    monkeypatch.setattr("mova.backends.remote.MAX_CLIP_BYTES", 1000)
    with pytest.raises(BackendError, match="sent more than an answer may have, 1000 bytes"):
        backend.generate(REQUEST, out)
    assert engine.paths("GET").count("/v1/videos/video-1/content") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_clip_that_is_cut_short_by_the_server_itself_is_no_clip(backend, engine, tmp_path, out, share):
    engine.clip = engine.clip[: int(len(engine.clip) * share)]
    with pytest.raises(BackendError, match=r"sent a clip"):
        backend.generate(REQUEST, out)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "long",
            "64x32, 13 frames at 24 a second, not 64x32, 9 frames at 24 a second; .*--adjust-frames false",
        ),
        ("large", "64x64, 9 frames at 24 a second, not 64x32"),
        ("fast", "9 frames at 30 a second, not 64x32, 9 frames at 24"),
    ],
)
def test_another_clip_than_the_one_asked_for_is_refused(
    backend, engine, clips, tmp_path, out, name, sentence
):
    engine.clip = clips[name]
    with pytest.raises(BackendError, match=sentence):
        backend.generate(REQUEST, out)
    assert list(tmp_path.iterdir()) == []


def test_a_clip_without_sound_or_with_too_little_is_refused(backend, engine, tmp_path, out):
    folder = tmp_path / "made"
    folder.mkdir()
    for options, sentence in (
        ({"with_sound": False}, "cannot be used: it lacks a picture or sound"),
        ({"sound_samples": 2000}, r"whose sound ends after 0\.\d\d of 0\.38 s"),
    ):
        engine.clip = write_foreign(folder / "clip.mp4", **options).read_bytes()
        with pytest.raises(BackendError, match=sentence):
            backend.generate(REQUEST, out)
        assert not out.exists()


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        (
            {"status": "failed", "error": {"message": "CUDA out of memory"}},
            r"could not make the clip: CUDA out of memory; look into its log",
        ),
        ({"status": "failed", "error": None}, r"could not make the clip; look into its log"),
        ({"status": "paused"}, r"reports job video-1 as 'paused', a state that this toolkit does not know"),
        ({"status": "completed", "url": "ftp://a.b/c.mp4"}, r"its clip is at ftp://a\.b/c\.mp4, which is no"),
        (
            {"status": "completed", "url": "http://localhost:1/c.mp4?key=1"},
            r"nothing answers at http://localhost:1/c\.mp4;",
        ),
    ],
)
def test_a_job_that_ends_otherwise_is_told(backend, engine, tmp_path, out, end, sentence):
    engine.end = end
    with pytest.raises(BackendError, match=sentence):
        backend.generate(REQUEST, out)
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_never_ends_is_given_up_and_can_be_fetched_later(engine, out):
    engine.looks_until_done = 10**9
    backend = RemoteBackend("360p", RemoteServer(engine.url), Patience(poll=0.01, job=0.2))
    with pytest.raises(
        BackendError, match=rf"has not finished job video-1 in 1 s; .*{engine.url}/v1/videos/video-1"
    ):
        backend.generate(REQUEST, out)
    assert engine.deleted == []


def test_nothing_at_the_address_is_told_at_once(out):
    began = time.monotonic()
    with pytest.raises(BackendError, match=r"nothing answers at .*; check the address, and that the server"):
        RemoteBackend("360p", RemoteServer(closed_address())).generate(REQUEST, out)
    assert time.monotonic() - began < 1


def test_an_order_that_never_left_is_not_said_to_be_taken():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        remote = RemoteServer(f"http://127.0.0.1:{free.getsockname()[1]}")
    with pytest.raises(BackendError, match=r"^nothing answers at .*; check the address[^(]*$"):
        VideoServer(remote, never_cancelled, PATIENCE).submit({"prompt": "a bell"}, b"a picture")


def test_an_engine_that_drops_settings_gets_no_order(backend, engine, out):
    properties = {name: {} for name in ("prompt", "input_reference", "size", "fps", "num_frames")}
    form = {"multipart/form-data": {"schema": {"properties": properties}}}
    schema = {"paths": {"/v1/videos": {"post": {"requestBody": {"content": form}}}}}
    engine.always(SCHEMA, content(json.dumps(schema).encode(), "application/json"))
    sentence = "does not read .*guidance_scale, .*num_inference_steps, seed and would make another clip"
    with pytest.raises(BackendError, match=sentence):
        backend.generate(REQUEST, out)
    assert engine.orders == []


@pytest.mark.parametrize("route", [MODELS, SCHEMA, INFO])
@pytest.mark.parametrize("fault", [status(404), page, content(b"[]"), content(b"null")])
def test_an_engine_that_does_not_describe_itself_is_used_all_the_same(backend, engine, out, route, fault):
    engine.always(route, fault)
    backend.generate(REQUEST.replace(guidance_scale=1.0), out)
    assert read_settings(out)["served_model"] == (None if route == MODELS else engine.model)


@pytest.mark.parametrize("version", ["0.5.22", "0.5.22.post1", "0.4.99"])
def test_an_engine_that_returns_noise_without_guidance_gets_no_order_without_it(
    backend, engine, out, version
):
    engine.version = version
    with pytest.raises(UserError, match=rf"version {version}, which returns noise at guidance_scale=1; up"):
        backend.generate(REQUEST.replace(guidance_scale=1.0), out)
    assert engine.orders == []
    backend.generate(REQUEST.replace(guidance_scale=1.5), out)


@pytest.mark.parametrize("version", ["0.5.23", "0.5.23.post2", "0.6.0", "1.0.0+cu130"])
def test_a_newer_engine_goes_without_guidance(backend, engine, out, version):
    engine.version = version
    assert backend.generate(REQUEST.replace(guidance_scale=1.0), out).warnings == ()
    assert engine.orders[0]["guidance_scale"] == 1


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (None, "does not tell its version"),
        ("0.0.0.dev0", r"runs version '0\.0\.0\.dev0'"),
        ("0.5.23rc1", r"runs version '0\.5\.23rc1'"),
        ("0.5.23.dev4+g0a1b2c3", r"runs version '0\.5\.23\.dev4\+g0a1b2c3'"),
    ],
)
def test_an_engine_of_unknown_age_is_warned_about_without_guidance_alone(
    backend, engine, out, caplog, version, said
):
    engine.version = version
    (warning,) = backend.generate(REQUEST.replace(guidance_scale=1.0), out).warnings
    assert re.search(rf"{said}, and SGLang-Diffusion before 0\.5\.23 returns noise", warning)
    assert warning in caplog.text
    assert backend.generate(REQUEST, out, overwrite=True).warnings == ()


def test_another_model_than_the_one_asked_for_gets_no_order(backend, engine, out):
    engine.model = "/data/MOVA-720p"
    with pytest.raises(UserError, match=r"serves 720p, not 360p; give --model 720p"):
        backend.generate(REQUEST, out)
    assert engine.orders == []
    engine.model = "/data/my-own"
    backend.generate(REQUEST, out)


def test_another_size_than_the_one_asked_for_is_noticed_before_it_is_made(backend, engine, out):
    engine.answer = {"size": "640x352"}
    with pytest.raises(BackendError, match="would make the clip 640x352, not 64x32; choose that size"):
        backend.generate(REQUEST, out)
    assert engine.deleted == ["video-1"]
    engine.answer = {"size": ""}  # as older servers answer
    backend.generate(REQUEST, out)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"bridge_guidance_scale": 3.0}, "bridge_guidance_scale=3 cannot be sent .*; leave it at 1"),
        ({"video_shift": 3.0}, "video_shift=3 cannot be sent to a server, which uses 5; leave it out"),
        ({"audio_shift": 1.0}, "audio_shift=1 cannot be sent"),
        ({"solver": "unipc"}, "solver=unipc cannot be sent to a server, which has no such setting"),
        ({"guidance_interval": (0.3, 1.0)}, r"guidance_interval=\(0.3, 1.0\) cannot be sent"),
        ({"audio_guidance_scale": 3.0}, "audio_guidance_scale=3.0 cannot be sent"),
        ({"audio_bridge_guidance_scale": 1.0}, "audio_bridge_guidance_scale=1.0 cannot be sent"),
        ({"cache_threshold": 0.1}, "cache_threshold=0.1 cannot be sent"),
        ({"refine": 2}, "refine=2 cannot be sent"),
        ({"guidance_scale": 0.5}, r"guidance_scale=0\.5 would count as 1 on a server; give 1 or more"),
        ({"frame_rate": 23.976}, "frame_rate=23.976 must be whole on a server; nearest: 24"),
        ({"prompt": " "}, "the prompt is empty"),
    ],
)
def test_what_the_server_cannot_do_is_refused_by_name_without_asking_it(
    backend, engine, out, changes, sentence
):
    with pytest.raises(UserError, match=sentence) as caught:
        backend.generate(REQUEST.replace(**changes), out)
    assert caught.value.field in changes
    assert engine.requests == []


def test_adapters_are_refused_by_name(backend, engine, golden, out):
    adapter = str(golden / "lora_upstream_accelerate")
    with pytest.raises(UserError, match=r"adapters cannot be sent .*\(lora_upstream_accelerate\)"):
        backend.generate(REQUEST.replace(adapters=((adapter, 1.0),)), out)
    assert engine.requests == []


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"video": "clip"}, "video"),
        ({"audio": "clip"}, "audio"),
        ({"video": "clip", "audio": "clip", "regenerate_audio": True}, "video, audio, regenerate_audio"),
        (
            {"video": "clip", "regenerate_video": ((0.0, 0.2),), "strength": 0.5},
            "video, regenerate_video, strength",
        ),
    ],
)
def test_a_video_or_sound_to_keep_is_refused_by_name(backend, engine, clips, tmp_path, out, changes, names):
    (tmp_path / "mine.mp4").write_bytes(clips["good"])
    changes = {name: tmp_path / "mine.mp4" if value == "clip" else value for name, value in changes.items()}
    with pytest.raises(UserError, match=f"^{names} cannot be sent .*; leave it out, or generate locally"):
        backend.generate(REQUEST.replace(**changes), out)
    assert engine.requests == []


def test_a_shift_that_is_the_engines_own_is_taken(backend, out):
    backend.generate(REQUEST.replace(video_shift=5.0, audio_shift=5), out)
    assert out.exists()


def test_a_full_disk_is_told_as_such_and_leaves_nothing(backend, engine, tmp_path, out):
    with (
        files_of_at_most(4096),
        pytest.raises(BackendError, match=r"clip\.mp4 cannot be written \(File too large\)"),
    ):
        backend.generate(REQUEST, out)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told_before_the_order(backend, engine, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file; choose another folder"):
        backend.generate(REQUEST, tmp_path / "file" / "clip.mp4")
    assert engine.requests == []


def test_a_name_that_is_taken_is_kept_even_if_taken_meanwhile(backend, engine, out):
    def take(report):
        if report.stage == WAITING:
            out.write_bytes(b"another's")

    with pytest.raises(UserError, match="exists; choose another name"):
        backend.generate(REQUEST, out, take)
    assert out.read_bytes() == b"another's"
    backend.generate(REQUEST, out, overwrite=True)
    assert read_settings(out)["seed"] == 7
    assert os.listdir(out.parent) == ["clip.mp4"]  # noqa: PTH208 - names

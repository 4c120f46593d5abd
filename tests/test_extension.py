"""A clip is continued window by window, and a run that was stopped comes out as one that was not."""

from dataclasses import replace

import numpy as np
import pytest

from mova.backends.extension import Extension, extend_clip
from mova.backends.local import LocalBackend
from mova.errors import Cancelled, UserError
from mova.media.clips import read_clip, read_settings, write_mp4
from mova.request import GenerationRequest
from tests.backends.test_backend_tracks import RATE, H, W, picture, voice, write_foreign

WINDOW = GenerationRequest("", height=H, width=W, num_frames=9, num_inference_steps=2, seed=7)


@pytest.fixture(scope="module")
def backend(golden):
    return LocalBackend(str(golden / "checkpoint"), device="cpu", dtype="float32")


@pytest.fixture
def extension(tmp_path):
    """Three windows of eight frames; the source has eleven, and stereo sound at 44.1 kHz."""
    write_mp4(tmp_path / "given.mp4", picture(11), voice(1, 44100, 2), RATE, 44100, {})
    return Extension(tmp_path / "given.mp4", WINDOW, seconds=12 / RATE, overlap=5 / RATE)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("refine", [0, 1])
def test_a_clip_becomes_longer_by_three_windows_and_keeps_its_beginning(backend, extension, tmp_path, refine):
    reports, steps = [], 6 * (1 + refine)
    extension = replace(extension, request=WINDOW.replace(refine=refine))
    result = extend_clip(backend, extension, tmp_path / "long.mp4", reports.append)
    assert [(window.start, window.overlap, window.num_frames) for window in extension.windows()] == [
        (6, 5, 9),
        (10, 5, 9),
        (14, 5, 9),
    ]
    given, longer = read_clip(extension.source), read_clip(tmp_path / "long.mp4")
    assert len(longer.frames) == 23
    assert (longer.sample_rate, len(longer.waveform)) == (44100, 2)
    assert np.abs(given.frames.astype(int) - longer.frames[:11]).mean() < 2
    length = given.waveform.shape[1]
    assert np.corrcoef(given.waveform[0], longer.waveform[0, :length])[0, 1] > 0.998
    assert np.abs(longer.waveform[:, length:]).max() > 0.01
    assert names(tmp_path) == ["given.mp4", "long.mp4"]
    assert result.seconds.keys() == {"load", "generate", "write"}
    assert {(report.stage, report.step, report.steps) for report in reports} >= {
        ("load", 0, 0),
        ("window 1 of 3", 1, steps),
        ("window 3 of 3", steps, steps),
        ("write", steps, steps),
    }


def test_its_settings_name_the_source_and_the_extension(backend, extension, tmp_path):
    extend_clip(backend, extension, tmp_path / "long.mp4")
    settings = read_settings(tmp_path / "long.mp4")
    assert settings["video"] == settings["audio"] == "given.mp4"
    assert settings["video_sha256"] == settings["audio_sha256"] is not None
    assert settings["extension"] == {"seconds": 0.5, "overlap": 5 / RATE}
    assert (settings["seed"], settings["num_frames"], settings["model"]) == (7, 9, backend.model)


def test_each_window_has_a_seed_of_its_own_that_follows_from_its_place(extension):
    requests = [extension.request_of(window) for window in extension.windows()]
    assert [request.seed for request in requests] == [7 + 11, 7 + 15, 7 + 19]


@pytest.mark.parametrize("step", [3, 5])
def test_a_run_that_was_stopped_comes_out_as_one_that_was_not(backend, extension, tmp_path, step):
    """Stopped in the second window and in the third: finished windows are not made again."""
    extend_clip(backend, extension, tmp_path / "whole.mp4")
    reached = []
    with pytest.raises(Cancelled):
        extend_clip(
            backend,
            extension,
            tmp_path / "again.mp4",
            lambda report: reached.append(report.step),
            should_stop=lambda: max(reached) >= step,
        )
    folder = extension.folder(backend, tmp_path / "again.mp4")
    finished = [f"window-{index:03d}.npz" for index in range(1, step // 2 + 1)]
    assert names(folder) == finished
    assert names(tmp_path) == sorted([folder.name, "given.mp4", "whole.mp4"])
    reports = []
    extend_clip(backend, extension, tmp_path / "again.mp4", reports.append)
    assert min(report.step for report in reports if report.stage.startswith("window")) == len(finished) * 2
    assert (tmp_path / "again.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert names(tmp_path) == ["again.mp4", "given.mp4", "whole.mp4"]


def test_other_settings_do_not_take_up_what_was_left(backend, extension, tmp_path):
    out = tmp_path / "long.mp4"
    other = Extension(extension.source, WINDOW.replace(seed=8), extension.seconds, extension.overlap)
    assert extension.folder(backend, out) != other.folder(backend, out)
    folder = extension.folder(backend, out)
    write_mp4(extension.source, picture(12), voice(1, 44100, 2), RATE, 44100, {}, overwrite=True)
    assert extension.folder(backend, out) != folder


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seconds": 0}, "seconds=0 is out of range"),
        ({"seconds": 3600}, "seconds=3600 is out of range"),
        ({"overlap": 9}, "overlap=9 is out of range"),
        ({"overlap": float("nan")}, "overlap=nan is not a number"),
        ({"source": "gone.mp4"}, "gone.mp4 is not a file"),
    ],
)
def test_what_cannot_be_extended_is_refused_in_a_sentence(backend, extension, tmp_path, change, sentence):
    if "source" in change:
        change = {"source": tmp_path / change["source"]}
    values = vars(extension) | change
    with pytest.raises(UserError, match=sentence):
        extend_clip(backend, Extension(**values), tmp_path / "long.mp4")
    assert names(tmp_path) == ["given.mp4"]


def test_a_silent_video_is_refused_with_what_is_missing(backend, extension, tmp_path):
    silent = Extension(write_foreign(tmp_path / "silent.mp4"), WINDOW, seconds=0.5, overlap=0.2)
    with pytest.raises(UserError, match=r"silent\.mp4 has no sound"):
        extend_clip(backend, silent, tmp_path / "long.mp4")

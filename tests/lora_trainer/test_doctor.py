"""Each fault that a clip can have is found with its clip, its figure and a fix; good clips are left alone."""

import json
import shutil

import numpy as np
import pytest

from lora_trainer.__main__ import main
from lora_trainer.doctor import examine, fix
from lora_trainer.doctor_report import html_report, text_report
from lora_trainer.manifest import read_items
from mova.errors import UserError
from mova.media.clips import write_mp4
from tests.lora_trainer.clips import SAMPLE_RATE, make_clip, picture, wave
from tests.lora_trainer.test_decode import write_streams

FLASHES = (0.4, 0.9, 1.3)
SECONDS = 2.0


@pytest.fixture
def doctor(settings, tmp_path):
    """Examines a folder of clips made by (name, frames, sound) -> {kind: finding} by clip."""
    folder = tmp_path / "clips"
    folder.mkdir()

    def doctor(**changes):
        examination = examine(settings(data__path=str(folder), **changes))
        found = {clip.item.name: {f.kind: f for f in clip.findings} for clip in examination.clips}
        return found, examination

    doctor.folder = folder
    return doctor


def sounding(sound, channels=1, level=1.0):
    return level * np.tile(sound, (channels, 1))


def hiss(seconds=SECONDS, level=0.1):
    return np.random.default_rng(1).normal(0, level, int(seconds * SAMPLE_RATE)).astype(np.float32)


def write(folder, name, frames, sound, caption="A lamp blinks and beeps.", frame_rate=24):
    write_mp4(folder / name, frames, sound, frame_rate, SAMPLE_RATE, {})
    (folder / name).with_suffix(".txt").write_text(caption)


def good(flashes=FLASHES):
    return picture(SECONDS, 24, flashes), 0.3 * wave(SECONDS, flashes) + hiss(level=0.02)


def test_a_good_clip_has_no_findings(doctor):
    write(doctor.folder, "good.mp4", *good())
    assert doctor()[0] == {"good.mp4": {}}


def test_faults_of_the_sound_are_found_with_their_figures(doctor):
    frames, sound = good()
    out_of_phase = np.stack([hiss(), -hiss()])
    square = np.sign(np.sin(np.arange(len(sound)) * 0.05)).astype(np.float32)
    quiet_then = np.where(np.arange(len(sound)) < 0.9 * len(sound), 0, sound)
    low = 0.3 * np.sin(np.arange(len(sound)) / SAMPLE_RATE * 2 * np.pi * 120)
    for name, faulty in {
        "phase": out_of_phase,
        "clipped": square,
        "silent": np.zeros(len(sound)),
        "mostly": quiet_then,
        "quiet": 0.06 * sound,
        "dull": low.astype(np.float32),
    }.items():
        write(doctor.folder, f"{name}.mp4", frames, faulty)
    found, _ = doctor()
    assert found["phase.mp4"]["stereo"].severity == "error"
    assert "loses" in found["phase.mp4"]["stereo"].figure
    assert found["clipped.mp4"]["clipping"].figure.endswith("at full scale")
    assert found["silent.mp4"]["silence"].severity == "error"
    assert found["mostly.mp4"]["silence"].figure.startswith("90%")
    assert "LUFS" in found["quiet.mp4"]["loudness"].figure
    assert "bandwidth" in found["dull.mp4"]
    assert "loudness" not in doctor(data__loudness=-23)[0]["quiet.mp4"]


def test_sound_that_comes_late_is_found_with_its_lag(doctor):
    flashes, late = (0.3, 0.75, 1.45), 0.24
    frames = picture(SECONDS, 24, flashes)
    sound = wave(SECONDS, [flash + late for flash in flashes]) + hiss(level=0.005)
    write(doctor.folder, "late.mp4", frames, sound)
    figure = doctor()[0]["late.mp4"]["sync"].figure
    assert float(figure.split()[2]) == pytest.approx(late, abs=0.05)


def test_faults_of_the_picture_are_found_with_their_times(doctor):
    frames, sound = good(())
    frozen = frames.copy()
    frozen[10:40] = frozen[10]
    dark = frames.copy()
    dark[:12] = 0
    cut = frames.copy()
    cut[24:] = 255 - cut[24:]
    for name, faulty in {"frozen": frozen, "dark": dark, "cut": cut}.items():
        write(doctor.folder, f"{name}.mp4", faulty, sound + hiss(level=0.1))
    found, _ = doctor()
    assert "1.2" in found["frozen.mp4"]["frozen"].figure
    assert found["dark.mp4"]["black"].figure == "black from 0.00 to 0.50 s"
    assert found["cut.mp4"]["cut"].figure == "1 hard cuts, at 1.00 s"
    assert "cut" not in found["frozen.mp4"]


def test_faults_of_streams_files_and_captions_are_found(doctor, golden):
    frames, sound = good()
    write(doctor.folder, "a.mp4", frames, sound)
    shutil.copy(doctor.folder / "a.mp4", doctor.folder / "b.mp4")
    (doctor.folder / "b.txt").write_text("Another text, about the same lamp.")
    write(
        doctor.folder, "c.mp4", picture(SECONDS, 24, (1.1,)), 0.3 * wave(SECONDS, (1.1,)) + hiss(level=0.02)
    )
    write(doctor.folder, "empty.mp4", picture(SECONDS, 24, (0.2,)), hiss(level=0.03), caption="")
    write(doctor.folder, "long.mp4", picture(SECONDS, 24, (0.7,)), hiss(level=0.04), caption="lamp " * 900)
    write(
        doctor.folder,
        "talk.mp4",
        picture(SECONDS, 24, (1.6,)),
        hiss(level=0.05),
        caption="A woman says hello.",
    )
    make_clip(doctor.folder / "short.mp4", 0.2)
    (doctor.folder / "bad.mp4").write_bytes(b"no clip")
    (doctor.folder / "bad.txt").write_text("Something else.")
    write_streams(doctor.folder / "offset.mkv", 0.0, 0.4)
    (doctor.folder / "offset.txt").write_text("A lamp that waits.")
    found, examination = doctor()
    assert found["b.mp4"]["duplicate"].figure == "the same file as a.mp4"
    assert found["c.mp4"]["same caption"].figure == "the same caption as a.mp4"
    assert found["empty.mp4"]["caption"].severity == "error"
    assert found["long.mp4"]["long caption"].figure.endswith("512 are read")
    assert "quotes" in found["talk.mp4"]
    assert "the shortest window is 9 frames, 0.38 s" in found["short.mp4"]["short"].figure
    assert "bad.mp4" in found["bad.mp4"]["unreadable"].figure
    assert "+0.40" in found["offset.mkv"]["start"].figure
    assert "9 clips" in text_report(examination)


def test_a_clip_re_encoded_is_a_duplicate_and_another_is_not(doctor):
    frames, sound = good()
    write(doctor.folder, "a.mp4", frames, sound)
    write(doctor.folder, "b.mp4", np.clip(frames.astype(int) + 1, 0, 255).astype(np.uint8), sound, "Another.")
    write(doctor.folder, "c.mp4", picture(SECONDS, 24, (0.6, 1.5)), sound, "A third.")
    found, _ = doctor()
    assert found["b.mp4"]["duplicate"].figure == "looks the same as a.mp4"
    assert "duplicate" not in found["c.mp4"]


def test_mending_leaves_the_clips_alone_and_removes_what_it_says(doctor, settings, tmp_path):
    frames, sound = good()
    dark = frames.copy()
    dark[:12] = 0
    write(doctor.folder, "a.mp4", frames, sound)
    shutil.copy(doctor.folder / "a.mp4", doctor.folder / "b.mp4")
    (doctor.folder / "b.txt").write_text("The same.")
    write(
        doctor.folder,
        "dark.mp4",
        dark,
        0.3 * wave(SECONDS, (1.2,)) + hiss(level=0.03),
        "It is dark at first.",
    )
    write(doctor.folder, "phase.mp4", picture(SECONDS, 24, (0.7,)), np.stack([hiss(), -hiss()]), "It hisses.")
    before = {path.name: path.read_bytes() for path in doctor.folder.iterdir()}
    config = settings(data__path=str(doctor.folder))
    lines = list(fix(examine(config), config))
    assert len(lines) == 4
    assert {path.name: path.read_bytes() for path in doctor.folder.iterdir()} == before
    mended = config.output / "mended"
    names = [item.video.name for item in read_items(str(mended))]
    assert sorted(names) == ["a.mp4", "dark.mp4", "phase.mp4"]
    checks = {f.kind for f in examine(settings(data__path=str(mended))).findings}
    assert not checks & {"duplicate", "stereo"}
    assert next(i.start for i in read_items(str(mended)) if i.video.name == "dark.mp4") == pytest.approx(0.5)


def test_the_html_report_shows_every_clip_and_trusts_no_caption(doctor, tmp_path):
    write(doctor.folder, "a.mp4", *good(), caption="<script>alert(1)</script> A lamp.")
    html_report(doctor()[1], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert page.count("<img") == 5 and page.count("<svg") == 1


def test_the_command_ends_with_1_where_there_are_errors(doctor, settings, tmp_path, capsys):
    write(doctor.folder, "a.mp4", *good())
    flags = [
        "doctor",
        "--model",
        settings().model,
        "--output",
        str(tmp_path / "o"),
        "--data",
        str(doctor.folder),
    ]
    flags += ["--set", "data.num_frames=[9]", "--size", "64x32"]
    assert main(flags) == 0
    write(doctor.folder, "b.mp4", good(())[0], np.zeros(int(SECONDS * SAMPLE_RATE)), "Nothing is heard.")
    assert main([*flags, "--report", str(tmp_path / "r.html")]) == 1
    assert "b.mp4: silence: 100% silent" in capsys.readouterr().out
    assert (tmp_path / "r.html").exists()


def test_a_manifest_row_may_name_a_part_of_a_clip(doctor, settings):
    write(doctor.folder, "a.mp4", *good())
    rows = [
        {"video": "a.mp4", "prompt": "First.", "end": 1.0},
        {"video": "a.mp4", "prompt": "Second.", "start": 1.0, "end": 1.5},
    ]
    (doctor.folder / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    windows = doctor()[1].windows
    assert [(w.item.caption, round(w.start, 3)) for w in windows] == [
        ("First.", 0.0),
        ("First.", 0.375),
        ("Second.", 1.0),
    ]


def test_every_window_that_training_would_read_is_tried(doctor, monkeypatch):
    write(doctor.folder, "long.mp4", picture(5.0, 24, FLASHES), 0.3 * wave(5.0, FLASHES) + hiss(5.0, 0.02))
    read = []

    def read_frames(item, times, height, width):
        read.append(times[0])
        if times[0] > 3:
            raise UserError(f"{item.name} is damaged here")
        return np.zeros((len(times), height, width, 3), np.uint8)

    monkeypatch.setattr("lora_trainer.doctor.read_frames", read_frames)
    found, examination = doctor(data__num_frames=[9])
    assert read == [window.start for window in examination.windows] and len(read) == 13
    finding = found["long.mp4"]["windows"]
    assert finding.severity == "error"
    assert finding.figure == "4 of 13 windows cannot be read, from 3.38 s: long.mp4 is damaged here"


def test_whatever_goes_wrong_with_one_clip_is_a_finding_of_that_clip(doctor, monkeypatch):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        write(doctor.folder, name, *good())
    (doctor.folder / "b.mp4").write_bytes(b"no clip")

    def check_sound(clip, config):
        if clip.item.name == "c.mp4":
            raise ZeroDivisionError("a fault of ours")
        return []

    monkeypatch.setattr("lora_trainer.doctor.check_sound", check_sound)
    found, _ = doctor()
    assert "b.mp4 cannot be read" in found["b.mp4"]["unreadable"].figure
    assert found["c.mp4"]["unusable"].figure == "ZeroDivisionError: a fault of ours"
    assert "duplicate" in found["c.mp4"]


def test_a_report_shows_what_steers_a_terminal_in_place_of_sending_it(doctor):
    write(doctor.folder, "a\x1b[2J.mp4", *good(), caption="A voice says hello\x1b]0;mine\x07.")
    _, examination = doctor()
    text = text_report(examination)
    assert "a\\x1b[2J.mp4" in text and "\x1b" not in text

"""The clips that somebody is about to train on."""

import pytest

from lora_trainer.clip_folder import ClipSet
from lora_trainer.config import Data
from lora_trainer.decode import probe
from lora_trainer.jobs.runs import write_data
from lora_trainer.manifest import read_items
from lora_trainer.windows import windows_of
from mova.catalog import find_model
from mova.errors import UserError
from tests.lora_trainer.clips import make_clip


@pytest.fixture
def uploads(tmp_path):
    """Clips as a browser leaves them."""
    folder = tmp_path / "uploads"
    folder.mkdir()
    for name, frame_rate in (("Anna & <b>.mp4", 24), ("two.mp4", 25)):
        make_clip(folder / name, 0.4, frame_rate, caption=None)
    (folder / "two.txt").write_text('She says, "Yes." ')
    (folder / "two.wav").write_bytes(b"RIFF")
    return folder


@pytest.fixture
def clips(tmp_path):
    return ClipSet(tmp_path / "set", 10**7)


def test_clips_come_in_with_safe_names_captions_and_sounds(clips, uploads):
    assert clips.items() == []
    assert clips.add(sorted(uploads.iterdir())) == []
    anna, two = clips.items()
    assert (anna.name, anna.caption, anna.audio) == ("Anna _ _b.mp4", "", None)
    assert (two.caption, two.audio.name) == ('She says, "Yes."', "two.wav")


def test_what_is_not_taken_is_named(clips, uploads):
    clips.add([uploads / "two.mp4"])
    (uploads / "again.mp4").write_bytes((uploads / "two.mp4").read_bytes())
    (uploads / "notes.pdf").write_text("x")
    (uploads / "stray.txt").write_text("x")
    told = clips.add([uploads / name for name in ("again.mp4", "notes.pdf", "stray.txt")])
    assert "again.mp4 was not taken: it is the same file as two.mp4" in told
    assert any(text.startswith("notes.pdf is not a clip; give .mp4") for text in told)
    assert any("stray.txt belongs to no clip here" in text for text in told)
    small = ClipSet(clips.folder, (clips.folder / "two.mp4").stat().st_size + 10)
    assert "all clips together may have" in small.add([uploads / "Anna & <b>.mp4"])[0]
    assert [video.name for video in clips.videos()] == ["two.mp4"]


def test_another_clip_of_the_same_name_stands_beside_the_first(clips, uploads, tmp_path):
    clips.add([uploads / "two.mp4"])
    other = make_clip(tmp_path / "two.mp4", 0.5)
    assert clips.add([other, other.with_suffix(".txt")]) == []
    assert [item.caption for item in clips.items()] == ["A lamp blinks. A beep is heard.", ""]
    assert [video.name for video in clips.videos()] == ["two-2.mp4", "two.mp4"]


def test_captions_are_saved_beside_the_clips_and_nowhere_else(clips, uploads):
    clips.add([uploads / "two.mp4"])
    clips.write_captions({"two.mp4": " A  drum.\nA knock. ", "../evil.mp4": "x", "none.mp4": "x"})
    assert (clips.folder / "two.txt").read_text() == "A drum. A knock."
    assert sorted(path.name for path in clips.folder.iterdir()) == ["two.mp4", "two.txt"]
    with pytest.raises(UserError, match=r"two\.mp4 is over 100000 bytes"):
        clips.write_captions({"two.mp4": "x" * 100_001})


def test_a_clip_goes_with_all_that_belongs_to_it(clips, uploads):
    clips.add(sorted(uploads.iterdir()))
    clips.fix("two.mp4", start=0.1, end=None)
    clips.fix("two.mp4", end=0.3)
    assert [(item.start, item.end) for item in clips.items()] == [(0.0, None), (0.1, 0.3)]
    with pytest.raises(UserError, match=r"\.\./uploads/two\.mp4 is not here any more"):
        clips.remove("../uploads/two.mp4")
    clips.remove("two.mp4")
    clips.restore("two.mp4")
    assert [(item.caption, item.start, item.end) for item in clips.items()][1] == (
        'She says, "Yes."',
        0.1,
        0.3,
    )
    clips.remove("two.mp4")
    clips.forget("two.mp4")
    left = sorted(path.name for path in clips.folder.rglob("*") if path.is_file())
    assert left == ["Anna _ _b.mp4", "mended.json"]
    with pytest.raises(UserError, match="gone for good"):
        clips.restore("two.mp4")
    clips.add([uploads / "two.mp4"])
    assert clips.items()[1].start == 0.0  # the new one is not mended


def test_parts_of_a_clip_are_clips_of_their_own_and_the_file_is_there_once(clips, tmp_path):
    make_clip(tmp_path / "long.mp4", 3.0, caption=None)
    clips.add([tmp_path / "long.mp4"])
    clips.write_captions({"long.mp4": "A lamp."})
    clips.fix("long.mp4", start=0.5)
    assert clips.split("long.mp4", [0.2, 1.0, 2.0]) == ["long-2.mp4", "long-3.mp4"]
    parts = {item.name: (item.start, item.end, item.caption) for item in clips.items()}
    assert parts == {
        "long.mp4": (0.5, 1.0, "A lamp."),
        "long-2.mp4": (1.0, 2.0, "A lamp."),
        "long-3.mp4": (2.0, None, "A lamp."),
    }
    clips.write_captions({"long-2.mp4": "It goes out."})
    assert [item.caption for item in clips.items()].count("A lamp.") == 2
    small = ClipSet(clips.folder, 2 * (clips.folder / "long.mp4").stat().st_size)
    assert small.add([make_clip(tmp_path / "other.mp4", 0.4)]) == []


def test_a_clip_that_teaches_the_picture_only_has_no_sound_in_any_window(clips, uploads, tmp_path):
    clips.add([uploads / "two.mp4", uploads / "two.txt"])
    clips.fix("two.mp4", is_silent=True)
    write_data(tmp_path / "run", clips.items())
    (item,) = read_items(str(tmp_path / "run"))
    assert (item.is_silent, item.audio) == (True, None)
    windows = windows_of(item, probe(item), Data(path="x", num_frames=(5,)), find_model("pocket"))
    assert windows and not any(window.has_sound for window in windows)

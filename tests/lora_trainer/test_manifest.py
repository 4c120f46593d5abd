"""Data sets in every common layout, and windows and buckets from clips."""

import json

import pytest

from lora_trainer.config import Data
from lora_trainer.decode import Probe
from lora_trainer.manifest import DatasetItem, read_items, read_manifest
from lora_trainer.windows import bucket_size, lengths, windows_of
from mova.catalog import MODELS
from mova.errors import UserError
from tests.hub_server import running_hub
from tests.lora_trainer.clips import make_clip

MODEL = MODELS["360p"]


def probe_of(seconds, height=1080, width=1920, has_sound=True):
    return Probe(
        seconds, int(seconds * 25), 25.0, height, width, 0.0 if has_sound else None, seconds, 48000, 1
    )


@pytest.fixture
def files(tmp_path):
    for name in ("a.mp4", "sub/b.mov", "b.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


LAYOUTS = {
    "metadata.json": json.dumps(
        [{"video_path": "a.mp4", "caption": "One."}, {"video_path": "sub/b.mov", "caption": "Two."}]
    ),
    "metadata.csv": "video,input_audio,prompt\na.mp4,b.wav,One.\nsub/b.mov,,Two.\n",
    "metadata.jsonl": '{"file_name": "a.mp4", "text": "One."}\n{"file_name": "sub/b.mov", "text": "Two."}\n',
    "clips.json": json.dumps(
        [
            {"file_path": "a.mp4", "audio_path": "b.wav", "text": "One.", "type": "video", "width": 640},
            {"file_path": "sub/b.mov", "text": "Two.", "type": "video"},
        ]
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_manifests_of_other_trainers_are_read(files, name):
    (files / name).write_text(LAYOUTS[name])
    items = read_items(str(files if name.startswith("metadata") else files / name))
    assert [(item.name, item.caption) for item in items] == [("a.mp4", "One."), ("sub/b.mov", "Two.")]
    expected = files / "b.wav" if "b.wav" in LAYOUTS[name] else None
    assert items[0].audio == expected
    assert items[1].video == files / "sub" / "b.mov"


def test_a_folder_gives_clips_with_captions_and_sound_of_the_same_name(tmp_path):
    make_clip(tmp_path / "x.mp4", 0.3, caption=" A lamp. \n")
    (tmp_path / "x.wav").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no clip")
    assert read_items(str(tmp_path)) == [
        DatasetItem("x.mp4", tmp_path / "x.mp4", "A lamp.", tmp_path / "x.wav")
    ]


def test_what_is_missing_is_named(files):
    for source, sentence in (
        (str(files / "none"), "there are no clips at"),
        (str(files), "a.mp4, b.mov lack a caption"),
        (str(files / "b.wav"), "is not a manifest"),
    ):
        with pytest.raises(UserError, match=sentence):
            read_items(source)
    for row, sentence in (
        ({"video": "c.mp4", "caption": "x"}, "there is no file"),
        ({"video": "a.mp4"}, "row 1 needs a clip"),
        ({"video": "notes.txt", "caption": "x"}, "is none of"),
        ({"video": "a.mp4", "caption": "x", "start": 2, "end": 1}, "end 1 is not after start 2"),
        ({"video": "a.mp4", "caption": "x", "start": "soon"}, "not a number of seconds"),
    ):
        (files / "metadata.jsonl").write_text(json.dumps(row))
        with pytest.raises(UserError, match=sentence):
            read_items(str(files))
    (files / "metadata.jsonl").write_text('{"video": "a.mp4", "caption": "x"}\n' * 2)
    with pytest.raises(UserError, match="more than once"):
        read_items(str(files))


def test_a_data_set_of_the_hub_is_fetched_and_nothing_but_its_clips(tmp_path):
    folder = tmp_path / "repo"
    folder.mkdir()
    make_clip(folder / "x.mp4", 0.3, caption="A lamp.")
    (folder / "weights.bin").write_bytes(b"0" * 1000)
    with running_hub(folder) as hub:
        options = {"endpoint": hub.url, "cache_dir": tmp_path / "cache"}
        items = read_items("hf://datasets/org/tiny", **options)
        assert set(hub.served) == {"x.mp4", "x.txt"}
        with pytest.raises(UserError, match="org/none"):
            read_items("hf://datasets/org/none", **options)
    assert [(item.name, item.caption) for item in items] == [("x.mp4", "A lamp.")]


def test_a_data_set_from_the_hub_reads_no_files_outside_of_it(files):
    (files / "set").mkdir()
    (files / "set" / "metadata.jsonl").write_text('{"video": "../a.mp4", "caption": "x"}\n')
    with pytest.raises(UserError, match="points out of the data set"):
        read_manifest(files / "set" / "metadata.jsonl", within=files / "set")
    assert len(read_manifest(files / "set" / "metadata.jsonl")) == 1


def test_windows_are_4k_plus_1_frames_one_after_the_other(tmp_path):
    data = Data(path="x")
    assert lengths(data, MODEL) == (193, 145, 97, 49)
    item = DatasetItem("a.mp4", tmp_path / "a.mp4", "x")
    found = windows_of(item, probe_of(15.0), data, MODEL)
    assert [window.num_frames for window in found] == [193, 145]
    assert found[1].start == pytest.approx(193 / 24)
    assert windows_of(item, probe_of(8.03), data, MODEL)[0].num_frames == 193  # half a frame short
    assert windows_of(item, probe_of(7.9), data, MODEL)[0].num_frames == 145
    assert found[0].times[-1] == pytest.approx(192 / 24)


def test_a_part_of_a_clip_gives_windows_within_it(tmp_path):
    item = DatasetItem("a.mp4", tmp_path / "a.mp4", "x", start=3.0, end=7.1)
    found = windows_of(item, probe_of(20.0), Data(path="x"), MODEL)
    assert [(window.start, window.num_frames) for window in found] == [(3.0, 97)]


def test_clips_that_cannot_be_used_are_refused_with_the_figure(tmp_path):
    item = DatasetItem("a.mp4", tmp_path / "a.mp4", "x")
    with pytest.raises(UserError, match=r"a.mp4 lasts 1.50 s; the shortest window is 49 frames, 2.04 s"):
        windows_of(item, probe_of(1.5), Data(path="x"), MODEL)
    with pytest.raises(UserError, match=r"a\.mp4 has no sound"):
        windows_of(item, probe_of(9, has_sound=False), Data(path="x"), MODEL)
    muted = windows_of(item, probe_of(9, has_sound=False), Data(path="x", without_sound="mute"), MODEL)
    assert not muted[0].has_sound


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (1080, 1920, (352, 640)),
        (352, 640, (352, 640)),
        (1920, 1080, (640, 352)),
        (480, 640, (416, 544)),
        (500, 500, (480, 480)),
    ],
)
def test_a_clip_goes_to_the_bucket_of_its_aspect(height, width, expected):
    data = Data(path="x")
    size = bucket_size(probe_of(9, height, width), data, MODEL)
    assert size == expected
    assert size[0] % 16 == size[1] % 16 == 0
    assert abs(size[0] * size[1] / (352 * 640) - 1) < 0.05
    assert bucket_size(probe_of(9, height, width), Data(path="x", buckets=False), MODEL) == (352, 640)


ROWS = [("a.mp4", "One."), ("sub/b.mov", "Two.")]


def captions(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [(item.name, item.caption) for item in read_items(str(path))]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.csv", "video;caption\na.mp4;One.\nsub/b.mov;Two.\n"),
        ("c.csv", "sep=;\r\nvideo;caption\r\na.mp4;One.\r\nsub/b.mov;Two.\r\n"),
        ("c.csv", "video\tcaption\na.mp4\tOne.\n\nsub/b.mov\tTwo.\n"),
        ("c.tsv", "Video\tCaption\na.mp4\tOne.\nsub/b.mov\tTwo.\n"),
        ("c.csv", "\ufeffvideo, caption\na.mp4, One.\nsub/b.mov, Two.\n"),
        ("c.csv", "video,caption\na.mp4,One.\nsub/b.mov,Two.\n".encode("utf-16")),
        ("c.jsonl", '{"video": "a.mp4", "caption": "One."}\r\n\r\n{"video": "sub/b.mov", "caption": "Two."}'),
    ],
)
def test_tables_of_any_separator_and_encoding_are_read(files, name, content):
    assert captions(files, name, content) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "caption"),
    [
        ("c.csv", 'video,caption\na.mp4,"A dog runs.\nIt barks."\n', "A dog runs.\nIt barks."),
        ("c.csv", 'video,caption\na.mp4,"A dog, ""Rex"", runs."\n', 'A dog, "Rex", runs.'),
        ("c.csv", "video;caption\na.mp4;A dog, brown\n", "A dog, brown"),
        (
            "c.csv",
            "video,caption\na.mp4,A dog.\u2028It barks.\u0085Loudly.\n",
            "A dog.\u2028It barks.\u0085Loudly.",
        ),
        (
            "c.jsonl",
            '{"video": "a.mp4", "caption": "A dog.\u2028It barks.\u0085Loudly."}\n',
            "A dog.\u2028It barks.\u0085Loudly.",
        ),
    ],
)
def test_a_caption_is_split_by_nothing_but_its_format(files, name, content, caption):
    assert captions(files, name, content) == [("a.mp4", caption)]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "c.csv",
            "video,caption\na.mp4,A dog, brown\n",
            "has 2 columns, but line 2 has 3 fields; put quotes",
        ),
        ("c.csv", "video,caption,audio\na.mp4,A dog.\n", "has 3 columns, but line 2 has 2 fields"),
        ("c.csv", 'video,caption\na.mp4,"A dog.\n', "cannot be read as .csv"),
        ("c.csv", 'video,caption\na.mp4,"A" dog.\n', "cannot be read as .csv"),
        ("c.csv", "a.mp4,A dog.\n", "its first row must name the columns"),
        ("c.csv", "", "its first row must name the columns"),
        ("c.csv", "video,video,caption\na.mp4,b.mp4,A dog.\n", "two columns video"),
        (
            "c.csv",
            "video,caption\na.mp4,Une f\u00eate.\n".encode("cp1252"),
            "is not UTF-8 text: byte 25 is 0xea",
        ),
        ("c.csv", "video,caption\na.mp4,A dog.\n".encode("utf-16-le"), "holds NUL characters"),
        ("c.jsonl", '{"video": "a.mp4", "caption": "x"}\n{"video"\n', "line 2: Expecting ':'"),
    ],
)
def test_a_manifest_that_cannot_be_read_as_it_was_meant_is_refused_with_the_place(
    files, name, content, sentence
):
    with pytest.raises(UserError, match=sentence):
        captions(files, name, content)


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le"])
def test_captions_that_are_not_text_are_all_named(tmp_path, encoding):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.mp4").write_bytes(b"")
        (tmp_path / f"{name}.txt").write_bytes("Une f\u00eate.".encode(encoding if name != "b" else "utf-8"))
    with pytest.raises(
        UserError, match=r"2 of 3 clips cannot be used:\n- .*a\.txt .*\n- .*c\.txt .* save it as UTF-8"
    ):
        read_items(str(tmp_path))


@pytest.fixture
def mixed(tmp_path):
    """Two clips among what lies in people's folders."""
    folder, other = tmp_path / "clips", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    for path in (folder / "a.mp4", folder / "b.mkv", other / "third.mov"):
        path.write_bytes(b"")
        path.with_suffix(".txt").write_text("A lamp.")
    for name in ("g.gif", "g.txt", "i.png", "stray.txt", "lone.wav", "C.TXT"):
        (folder / name).write_text("x")
    for name in ("._a.mp4", "._a.txt", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (folder / name).write_bytes(bytes(10))
    (folder / "C.MP4").write_bytes(b"")
    (folder / "folder.mp4").mkdir()
    (folder / "more").symlink_to(other)
    (folder / "loop").symlink_to(folder)
    (folder / "gone.mp4").symlink_to(tmp_path / "nothing.mp4")
    (folder / "same.mp4").symlink_to(folder / "a.mp4")
    return folder


def test_every_file_of_a_folder_is_used_or_named(mixed, caplog):
    items = read_items(str(mixed))
    assert [item.name for item in items] == ["C.MP4", "a.mp4", "b.mkv", "more/third.mov"]
    (said,) = caplog.messages
    assert "4 of 10 files are used; left out: g.gif, i.png, lone.wav, stray.txt, " in said
    assert "gone.mp4 (a link to nothing)" in said and "same.mp4 (the same file as a.mp4)" in said
    assert not any(name in said for name in ("._a", "DS_Store", "Thumbs", "desktop", "loop", "g.txt"))


def test_clips_that_a_folders_manifest_does_not_list_are_named(files, caplog):
    (files / "metadata.csv").write_text("video,caption\na.mp4,One.\n")
    assert len(read_items(str(files))) == 1
    (said,) = caplog.messages
    assert "1 of 3 files are used; left out: b.wav, sub/b.mov. " in said


def test_a_folder_that_is_all_used_is_not_spoken_of(tmp_path, caplog):
    for name in ("a", "b"):
        make_clip(tmp_path / f"{name}.mp4", 0.3)
    assert len(read_items(str(tmp_path))) == 2
    assert caplog.messages == []

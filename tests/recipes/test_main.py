import numpy as np
from PIL import Image

from recipes.pocket.__main__ import main
from recipes.pocket.training.loader import read_shard
from recipes.pocket.world.speech import WORLD


def test_render_writes_a_film_and_a_sheet_of_each_clip(tmp_path):
    arguments = ["--seed", "3", "--count", "2", "--family", "ball", "--out", str(tmp_path), "--sheet"]
    main(["render", *arguments])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "00003_ball.mp4",
        "00003_ball.png",
        "00004_ball.mp4",
        "00004_ball.png",
    ]
    assert np.asarray(Image.open(tmp_path / "00003_ball.png")).std() > 10


def test_shards_are_written_where_asked(tmp_path):
    arguments = [
        "--count",
        "2",
        "--per-shard",
        "2",
        "--family",
        "ball",
        "--workers",
        "1",
        "--out",
        str(tmp_path),
    ]
    main(["shards", *arguments])
    assert read_shard(tmp_path / "00000").families == ["ball", "ball"]


def test_faces_render_from_the_bank_the_command_is_given(speech, tmp_path):
    assert (speech / WORLD.bank).stat().st_size < 8e6
    main(["render", "--count", "1", "--family", "face", "--speech", str(speech), "--out", str(tmp_path)])
    assert (tmp_path / "00000_face.mp4").stat().st_size > 5000

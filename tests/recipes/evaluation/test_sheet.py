import numpy as np

from mova.media.clips import read_clip
from recipes.pocket.__main__ import main
from recipes.pocket.evaluation.detect import detect_hits
from recipes.pocket.evaluation.sheet import captioned_sheet
from recipes.pocket.world.clip import FRAME_RATE
from recipes.pocket.world.render import render


def test_rendered_clips_are_read_back_with_their_sound_in_time(tmp_path):
    main(["render", "--family", "ball", "--seed", "1", "--count", "1", "--out", str(tmp_path)])
    clip, read = render(1, "ball"), read_clip(tmp_path / "00001_ball.mp4")
    assert read.frame_rate == FRAME_RATE
    assert np.abs(read.frames.astype(int) - clip.frames).mean() < 4
    assert np.allclose(detect_hits(read.waveform[0]), detect_hits(clip.waveform), atol=0.002)


def test_sheet_shows_eight_frames_at_their_own_size():
    clip = render(1, "ball")
    sheet = np.asarray(captioned_sheet(clip))
    assert sheet.shape[1] == 8 * clip.frames.shape[2]
    assert np.array_equal(sheet[: clip.frames.shape[1], : clip.frames.shape[2]], clip.frames[0])

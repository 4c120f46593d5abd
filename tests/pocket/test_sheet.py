import numpy as np

from mova.media import read_clip
from pocket.__main__ import main
from pocket.clip import FRAME_RATE
from pocket.detect_ball import hear_hits
from pocket.sheet import captioned_sheet
from pocket.world import render


def test_rendered_clips_are_read_back_with_their_sound_in_time(tmp_path):
    main(["render", "--family", "ball", "--seed", "1", "--count", "1", "--out", str(tmp_path)])
    clip, read = render(1, "ball"), read_clip(tmp_path / "00001_ball.mp4")
    assert read.frame_rate == FRAME_RATE
    assert np.abs(read.frames.astype(int) - clip.frames).mean() < 4
    assert np.allclose(hear_hits(read.waveform[0]), hear_hits(clip.waveform), atol=0.002)


def test_sheet_shows_eight_frames_at_their_own_size():
    clip = render(1, "ball")
    sheet = np.asarray(captioned_sheet(clip))
    assert sheet.shape[1] == 8 * clip.frames.shape[2]
    assert np.array_equal(sheet[: clip.frames.shape[1], : clip.frames.shape[2]], clip.frames[0])

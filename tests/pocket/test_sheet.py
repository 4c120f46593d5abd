import av
import numpy as np

from pocket.clip import NUM_FRAMES, SAMPLE_RATE
from pocket.sheet import captioned_sheet, write_mp4
from pocket.world import render


def test_mp4_holds_all_frames_and_the_sound(tmp_path):
    clip = render(1, "piano")
    write_mp4(tmp_path / "clip.mp4", clip)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (audio.codec_context.name, audio.rate) == ("aac", SAMPLE_RATE)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video)]
    assert len(frames) == NUM_FRAMES
    assert np.abs(np.stack(frames).astype(int) - clip.frames).mean() < 4
    with av.open(str(tmp_path / "clip.mp4")) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert len(clip.waveform) <= len(sound) < len(clip.waveform) + 3 * 1024


def test_sheet_shows_eight_frames_at_their_own_size():
    clip = render(1, "ball")
    sheet = np.asarray(captioned_sheet(clip))
    assert sheet.shape[1] == 8 * clip.frames.shape[2]
    assert np.array_equal(sheet[: clip.frames.shape[1], : clip.frames.shape[2]], clip.frames[0])

import pytest

from benchmarks.sync import shifted
from mova.metrics.sync import measure_sync, thumbnails
from recipes.pocket.world.render import make_scene


@pytest.mark.parametrize("ms", [-100, 0, 100])
def test_lips_and_voice_of_cartoon_faces_are_laid_over_each_other(speech, ms):
    scenes = [make_scene(seed, "face", speech=speech) for seed in range(9000, 9006)]
    found = [measure_sync(thumbnails(s.frames), shifted(s.waveform, ms), 16000, 24) for s in scenes]
    assert all(sync.evidence == "speech" for sync in found)
    assert sum(abs(sync.offset_ms - ms) <= 1000 / 24 for sync in found) >= 4

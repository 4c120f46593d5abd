from itertools import islice

import numpy as np
import pytest

from recipes.pocket.training.loader import read_shard, stream, write_shards
from recipes.pocket.world.render import choose_family, render

FAMILIES = ("ball", "piano")  # these need no word bank


def test_stream_yields_the_clips_of_its_seeds_in_order_with_several_workers():
    batches = stream(3, first_seed=40, workers=2, families=FAMILIES)
    for index, batch in enumerate(islice(batches, 4)):
        assert batch.first_seed == 40 + 3 * index
        for row in range(3):
            seed = batch.first_seed + row
            clip = render(seed, choose_family(seed, FAMILIES))
            assert np.array_equal(batch.frames[row], clip.frames)
            assert np.array_equal(batch.waveforms[row], clip.waveform)
            assert batch.captions[row] == clip.caption
            assert batch.families[row] == clip.family
    batches.close()


def test_shards_hold_the_clips_of_their_seeds(tmp_path):
    paths = write_shards(tmp_path, clips=4, per_shard=2, first_seed=5, workers=1, families=FAMILIES)
    assert len(paths) == 2
    shard = read_shard(paths[1])
    clip = render(8, choose_family(8, FAMILIES))
    assert shard.first_seed == 7
    assert np.array_equal(shard.frames[1], clip.frames)
    assert np.array_equal(shard.waveforms[1], clip.waveform)
    assert shard.captions[1] == clip.caption


def test_a_stream_of_faces_without_a_bank_is_refused_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m recipes\.pocket speech"):
        next(stream(1, speech=tmp_path))

import pytest
import torch

from mova.adapters.edits import merge, scale, strip
from mova.adapters.files import Adapter, AdapterMetadata, LoraUpdate
from mova.errors import UserError

TOWERS = ("video_dit", "video_dit_2", "audio_dit", "dual_tower_bridge")
PATH = "blocks.0.self_attn.q"


def adapter(seed=0, rank=3, alpha=6.0, rslora=False, towers=TOWERS, **card):
    generator = torch.Generator().manual_seed(seed)
    layers = {
        f"{tower}.{PATH}": LoraUpdate(
            torch.randn(rank, 12, generator=generator),
            torch.randn(10, rank, generator=generator),
            alpha,
            rslora,
        )
        for tower in towers
    }
    return Adapter(layers, AdapterMetadata(**card))


def update(adapter, tower):
    lora = adapter.layers.get(f"{tower}.{PATH}")
    return torch.zeros(10, 12) if lora is None else lora.scale * lora.up @ lora.down


def test_stripping_leaves_the_other_towers_as_they_were():
    before = adapter()
    after = strip(before, ["audio", "bridge"])
    assert list(after.layers) == [f"video_dit.{PATH}", f"video_dit_2.{PATH}"]
    assert all(after.layers[key] is before.layers[key] for key in after.layers)
    assert strip(before, ["high"]).layers.keys() == before.layers.keys() - {f"video_dit.{PATH}"}


def test_stripping_nothing_or_everything_is_refused():
    with pytest.raises(UserError, match="nothing for audio; it is for video_dit"):
        strip(adapter(towers=["video_dit"]), ["audio"])
    with pytest.raises(UserError, match="nothing of the adapter would be left"):
        strip(adapter(), ["video", "audio", "bridge"])
    with pytest.raises(UserError, match="'sound' is not a part"):
        strip(adapter(), ["sound"])


def test_scaling_multiplies_what_each_tower_gains_and_keeps_the_matrices():
    before = adapter(rslora=True)
    after = scale(before, {"video": 0.5, "low": 0.25, "bridge": -1})
    for tower, factor in zip(TOWERS, (0.5, 0.25, 1, -1), strict=True):
        assert torch.equal(update(after, tower), factor * update(before, tower))
        assert after.layers[f"{tower}.{PATH}"].down is before.layers[f"{tower}.{PATH}"].down
    with pytest.raises(UserError, match="strength 0 takes audio_dit out"):
        scale(before, {"audio": 0})


@pytest.mark.parametrize("rslora", [False, True])
def test_merging_adds_what_the_adapters_do_at_their_strengths(rslora):
    first, second = adapter(0, 3, 6.0), adapter(1, 5, 2.0, rslora, towers=TOWERS[2:])
    merged = merge([(first, {"audio": 0.5}), (second, -2.0)])
    for tower, factor in zip(TOWERS, (1, 1, 0.5, 1), strict=True):
        expected = factor * update(first, tower) - 2 * update(second, tower)
        assert torch.allclose(update(merged, tower), expected, atol=1e-5)
    assert [lora.rank for lora in merged.layers.values()] == [3, 3, 8, 8]


def test_merging_leaves_out_what_has_strength_0():
    merged = merge([(adapter(0), {"video": 0}), (adapter(1), {"audio": 0, "video": 0})])
    assert [(key.partition(".")[0], lora.rank) for key, lora in merged.layers.items()] == [
        ("audio_dit", 3),
        ("dual_tower_bridge", 6),
    ]


def test_a_cut_to_a_rank_is_the_nearest_there_is():
    merged = merge([(adapter(0), 1.0), (adapter(1), 1.0)])
    cut = merge([(adapter(0), 1.0), (adapter(1), 1.0)], rank=4)
    for tower in TOWERS:
        u, s, v = torch.linalg.svd(update(merged, tower))
        nearest = u[:, :4] * s[:4] @ v[:4]
        assert cut.layers[f"{tower}.{PATH}"].rank == 4
        assert torch.allclose(update(cut, tower), nearest, atol=1e-4)


def test_merging_keeps_words_bases_and_recipes():
    first = adapter(0, base_model="360p", trigger_words=("zorp",), recipe={"steps": 1})
    second = adapter(1, base_model="720p", trigger_words=("zorp", "blue"), recipe={"steps": 2})
    card = merge([(first, 1.0), (second, 1.0)]).metadata
    assert card == AdapterMetadata("360p + 720p", ("zorp", "blue"), {"merged": [{"steps": 1}, {"steps": 2}]})


def test_a_sum_of_too_high_a_rank_or_of_different_sizes_is_refused():
    with pytest.raises(UserError, match="would have rank 258, over 256; cut it with a rank"):
        merge([(adapter(0, rank=129), 1.0), (adapter(1, rank=129), 1.0)])
    with pytest.raises(UserError, match="every strength is 0"):
        merge([(adapter(0), 0.0)])
    other = Adapter({f"audio_dit.{PATH}": LoraUpdate(torch.ones(1, 4), torch.ones(4, 1), 1.0)})
    with pytest.raises(UserError, match="different sizes"):
        merge([(adapter(0), 1.0), (other, 1.0)])

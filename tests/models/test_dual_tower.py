import pytest
import torch

from benchmarks import reference_forward
from mova.errors import UserError
from mova.models.bridge import PictureMemory
from tests import tiny

PROPORTIONS = [
    {},
    {"video_layers": 5, "audio_layers": 5},
    {"video_layers": 2, "audio_layers": 4},
    {"video_heads": 3, "audio_heads": 1, "head_dim": 24},
    {"video_heads": 4, "audio_heads": 2, "head_dim": 36, "bridge_head_dim": 18},
]


def forward(tower, function=None, **arguments):
    with torch.no_grad():
        return (function or tower)(**arguments)


@pytest.mark.parametrize("proportions", PROPORTIONS)
@pytest.mark.parametrize(
    ("grid", "audio_latents", "frame_rate"), [((3, 4, 6), 17, 24.0), ((2, 8, 4), 9, 12.5)]
)
@pytest.mark.parametrize("use_bridge", [True, False])
def test_joint_forward_equals_the_plain_one(proportions, grid, audio_latents, frame_rate, use_bridge):
    tower = tiny.dual_tower(**proportions)
    arguments = tiny.inputs(tower, 2, grid, audio_latents, frame_rate) | {"use_bridge": use_bridge}
    reference = forward(tower, lambda **a: reference_forward.forward(tower, **a), **arguments)
    for ours, theirs in zip(forward(tower, **arguments), reference, strict=True):
        assert ours.shape == theirs.shape
        assert tiny.relative_error(ours, theirs) < 1e-5


def test_a_batch_of_three_equals_three_single_forwards():
    tower = tiny.dual_tower()
    arguments = tiny.inputs(tower, batch=3)
    together = forward(tower, **arguments)
    for i in range(3):
        alone = {k: v[i : i + 1] if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
        for whole, single in zip(together, forward(tower, **alone), strict=True):
            assert tiny.relative_error(whole[i : i + 1], single) < 1e-5


def test_without_the_bridge_the_towers_do_not_hear_each_other():
    tower = tiny.dual_tower()
    arguments = tiny.inputs(tower)
    other = arguments | {"audio_latents": torch.randn_like(arguments["audio_latents"])}
    video, audio = forward(tower, **arguments, use_bridge=False)
    same_video, other_audio = forward(tower, **other, use_bridge=False)
    assert torch.equal(video, same_video)
    assert not torch.equal(audio, other_audio)
    assert not torch.equal(forward(tower, **arguments)[0], forward(tower, **other)[0])


def test_video_and_audio_timesteps_are_independent():
    tower = tiny.dual_tower()
    arguments = tiny.inputs(tower)
    changed = arguments | {"audio_timestep": arguments["audio_timestep"] / 2}
    video, audio = forward(tower, **arguments, use_bridge=False)
    same_video, other_audio = forward(tower, **changed, use_bridge=False)
    assert torch.equal(video, same_video)
    assert not torch.equal(audio, other_audio)


def test_bfloat16_weights_give_float32_velocities_near_the_float32_ones():
    tower = tiny.dual_tower()
    arguments = tiny.inputs(tower)
    exact = forward(tower, **arguments)
    rounded = forward(tower.bfloat16(), **arguments)
    for ours, theirs in zip(rounded, exact, strict=True):
        assert ours.dtype == torch.float32
        assert tiny.relative_error(ours, theirs) < 0.05


def test_rotary_tables_are_built_once_for_a_shape():
    tower = tiny.dual_tower()
    first = tower.video_dit.rotary((3, 2, 3), torch.device("cpu"))
    assert tower.video_dit.rotary((3, 2, 3), torch.device("cpu")) is first


def test_heads_that_cannot_be_split_are_refused():
    with pytest.raises(UserError, match="16 channels"):
        tiny.dual_tower(head_dim=16)


def remembered(tower, arguments, on_host=False):
    memory = PictureMemory(on_host)
    return forward(tower, **arguments, memory=memory), memory


def audio_alone(tower, arguments, memory):
    names = ("audio_latents", "audio_timestep", "text")
    return forward(tower, tower.forward_audio, **{name: arguments[name] for name in names}, memory=memory)


def with_other_sound(arguments):
    sound = torch.randn_like(arguments["audio_latents"])
    return arguments | {"audio_latents": sound, "audio_timestep": arguments["audio_timestep"] / 2}


@pytest.mark.parametrize("proportions", PROPORTIONS)
@pytest.mark.parametrize("on_host", [False, True])
def test_remembering_the_picture_changes_no_bit_and_gives_the_same_sound_without_the_video_blocks(
    proportions, on_host
):
    tower = tiny.dual_tower(**proportions)
    arguments = tiny.inputs(tower, batch=2)
    plain = forward(tower, **arguments)
    joint, memory = remembered(tower, arguments, on_host)
    assert all(map(torch.equal, joint, plain))
    assert torch.equal(audio_alone(tower, arguments, memory), plain[1])


def test_the_audio_tower_alone_equals_a_joint_forward_with_the_video_states_frozen():
    tower = tiny.dual_tower()
    arguments = tiny.inputs(tower, batch=2)
    other = with_other_sound(arguments)
    states = {}

    def keep(conditioner, inputs):
        states[conditioner] = inputs[1]

    def put_back(conditioner, inputs):
        x, _, *rotary = inputs
        return x, states[conditioner], *rotary

    conditioners = tower.dual_tower_bridge.video_to_audio_conditioners
    for hook in (keep, put_back):
        handles = [each.register_forward_pre_hook(hook) for each in conditioners]
        _, expected = forward(tower, **(arguments if hook is keep else other))
        for handle in handles:
            handle.remove()
    _, memory = remembered(tower, arguments)
    assert torch.equal(audio_alone(tower, other, memory), expected)
    assert not torch.equal(forward(tower, **other)[1], expected)


def test_a_memory_is_written_over_by_the_next_forward():
    tower = tiny.dual_tower()
    arguments = tiny.inputs(tower)
    _, memory = remembered(tower, tiny.inputs(tower, seed=1))
    kept = [tensor.data_ptr() for pair in memory.layers.values() for tensor in pair]
    forward(tower, **arguments, memory=memory)
    assert [tensor.data_ptr() for pair in memory.layers.values() for tensor in pair] == kept
    assert torch.equal(audio_alone(tower, arguments, memory), forward(tower, **arguments)[1])


def test_the_audio_tower_alone_without_a_memory_is_that_without_the_bridge():
    tower = tiny.dual_tower()
    arguments = tiny.inputs(tower, batch=2)
    without = forward(tower, **arguments, use_bridge=False)[1]
    assert torch.equal(audio_alone(tower, arguments, None), without)

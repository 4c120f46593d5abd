import dataclasses

import pytest
import torch

from mova.errors import UserError
from mova.machine import GIB, Machine
from mova.placement import Placement, choose, compile_blocks, need, workspace_bytes
from mova.shapes import ClipShape
from tests import tiny

RELEASED = {
    "video_dit": 14_288_901_184,
    "video_dit_2": 14_288_901_184,
    "audio_dit": 1_419_193_472,
    "dual_tower_bridge": 2_659_737_600,
    "audio_vae": 371_539_137,
    "video_vae": 126_892_531,
    "text_encoder": 5_680_910_336,
}
CLIP = ClipShape(352, 640, 193, 24.0, 48000, 960)
WORKSPACE = workspace_bytes(CLIP, 5120)


def gpu(vram, ram=128):
    return Machine("cuda", f"a GPU of {vram} GB", vram * 10**9, ram * 10**9, 16, has_bfloat16=True)


@pytest.mark.parametrize(
    ("vram", "ram", "offload", "hold_both"),
    [
        (141, 128, "none", True),
        (96, 128, "none", True),
        (86, 128, "none", True),
        (80, 128, "none", False),
        (56, 128, "none", False),
        (46, 128, "component", True),
        (46, 64, "component", False),
        (24, 128, "layers", True),
        (16, 128, "layers", True),
        (16, 64, "layers", False),
        (12, 128, "layers", True),
    ],
)
def test_the_released_model_goes_where_it_fits_with_the_least_moving(vram, ram, offload, hold_both):
    placement = choose(gpu(vram, ram), RELEASED, WORKSPACE)
    assert (placement.offload, placement.hold_both) == (offload, hold_both)
    assert placement.dtype == "bfloat16"


def test_what_is_chosen_fits_and_nothing_better_did():
    last = None
    for vram in range(12, 150, 4):
        machine = gpu(vram)
        placement = choose(machine, RELEASED, WORKSPACE)
        assert need(placement, RELEASED, WORKSPACE).device <= machine.vram
        ranks = {"layers": 0, "component": 1, "none": 2}
        rank = (ranks[placement.offload], placement.hold_both, placement.keep_text_encoder)
        assert last is None or rank >= last
        last = rank


def test_the_choice_says_what_and_why():
    why = choose(gpu(24), RELEASED, WORKSPACE).why
    assert "streamed layer by layer" in why
    assert "a GPU of 24 GB" in why
    assert "22.4 GiB" in why  # free


def test_a_small_gpu_encodes_text_on_the_host():
    placement = choose(gpu(11), RELEASED, WORKSPACE)
    assert placement.text_on_host


@pytest.mark.parametrize("vram", [2, 6])
def test_what_cannot_fit_is_refused_with_what_to_change(vram):
    with pytest.raises(UserError, match=r"does not fit .* fewer frames or a smaller size"):
        choose(gpu(vram), RELEASED, WORKSPACE)


def test_without_a_gpu_the_memory_of_the_machine_decides():
    machine = Machine("cpu", "CPU", 24 * GIB, 24 * GIB, 2, has_bfloat16=False)
    small = dict.fromkeys(RELEASED, 10_000_000)
    assert choose(machine, small, GIB).dtype == "float32"
    assert choose(dataclasses.replace(machine, has_bfloat16=True), small, GIB).dtype == "bfloat16"
    with pytest.raises(UserError, match="does not fit CPU"):
        choose(machine, RELEASED, WORKSPACE)


def test_what_is_fixed_by_hand_is_kept():
    placement = choose(gpu(141), RELEASED, WORKSPACE, offload="layers", hold_both=False, fp8=True)
    assert (placement.offload, placement.hold_both, placement.fp8) == ("layers", False, True)


def test_fp8_halves_the_memory_of_experts_and_bridge_and_leaves_the_audio_tower():
    exact = need(Placement("cuda", offload="layers"), RELEASED, 0)
    small = need(Placement("cuda", offload="layers", fp8=True), RELEASED, 0)
    audio = 2 * RELEASED["audio_dit"]
    assert small.host - audio == (exact.host - audio) / 2


def test_a_small_machine_streams_fp8_from_its_files_where_it_could_not_keep_what_it_rounds():
    machine, layers = gpu(12, ram=32), {"offload": "layers", "hold_both": False}
    for placement in (
        Placement("cuda", fp8=True, **layers),
        Placement("cuda", fp8=True, offload="none", hold_both=False),
    ):
        kept, read = (
            need(placement, RELEASED, WORKSPACE, has_fp8_files=files).host for files in (False, True)
        )
        assert kept - read == RELEASED["video_dit"] + RELEASED["video_dit_2"]
    with pytest.raises(UserError, match="of host memory are needed"):
        choose(machine, RELEASED, WORKSPACE, fp8=True)
    chosen = choose(machine, RELEASED, WORKSPACE, has_fp8_files=True)
    assert (chosen.fp8, chosen.offload, chosen.hold_both) == (True, "layers", False)


def test_short_host_memory_is_named_as_such():
    with pytest.raises(UserError, match=r"34\.2 GiB of host memory are needed and 18\.6 GiB are free"):
        choose(gpu(16, ram=20), RELEASED, WORKSPACE)


def test_a_device_that_is_not_there_gets_a_sentence():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UserError, match="leave --device out"):
        Machine.probe("cuda")
    with pytest.raises(UserError, match="leave --device out"):
        Machine.probe("toaster")


@pytest.mark.slow
def test_compiled_blocks_agree_with_eager_ones():
    tower = tiny.dual_tower(video_layers=2, audio_layers=1)
    arguments = tiny.inputs(tower)
    with torch.no_grad():
        eager = tower(**arguments)
        compile_blocks(tower)
        compiled = tower(**arguments)
    for ours, reference in zip(compiled, eager, strict=True):
        assert tiny.relative_error(ours, reference) < 1e-5

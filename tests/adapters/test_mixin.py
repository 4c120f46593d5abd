import pytest
import torch
from safetensors.torch import save_file

from mova.adapters.files import Adapter, LoraUpdate
from mova.adapters.sources import read_adapter
from mova.adapters.strengths import TOWERS
from mova.errors import UserError
from mova.offload import LayerOffloader
from mova.pipeline import MOVAPipeline
from mova.placement import Placement, place
from tests.tiny import SHORT_RUN, relative_error

SHORT = SHORT_RUN | {"num_inference_steps": 2, "guidance_scale": 1.0}  # one step for each expert
MODULE = "video_dit.blocks.0.self_attn.q"


def run(pipeline):
    out = pipeline(generator=torch.Generator().manual_seed(0), **SHORT)
    return out.frames, out.audio


@pytest.fixture(scope="module")
def base(pipeline):
    """The clip of the model without adapters."""
    return run(pipeline)


@pytest.fixture
def attach(pipeline):
    """Attaches adapters to the shared pipeline and takes them off again."""
    yield lambda source, name="default": pipeline.load_lora_weights(source, adapter_name=name)
    pipeline.unfuse_lora()
    pipeline.unload_lora_weights()


def matrices(rank=2, size=48, module=MODULE):
    torch.manual_seed(1)
    return {
        f"{module}.lora_A.weight": torch.randn(rank, size) / 4,
        f"{module}.lora_B.weight": torch.randn(size, rank) / 4,
    }


def write(path, tensors, alpha=None):
    save_file(tensors, path, metadata=None if alpha is None else {"alpha": str(alpha)})
    return path


def weights(pipeline):
    """All parameters of the towers by name, without those of adapters."""
    return {
        f"{tower}.{name.replace('.base_layer', '')}": parameter.data.clone()
        for tower in TOWERS
        for name, parameter in getattr(pipeline, tower).named_parameters()
        if "lora_" not in name
    }


def assert_same_bits(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor.view(torch.uint8), theirs[name].view(torch.uint8)), name


def test_strength_zero_is_the_base_model_bit_for_bit(pipeline, golden, attach, base):
    attach(golden / "lora_upstream_accelerate")
    assert relative_error(run(pipeline)[0], base[0]) > 0.01
    pipeline.set_adapters(["default"], [0.0])
    assert torch.equal(run(pipeline)[0], base[0])
    pipeline.unload_lora_weights()
    assert torch.equal(run(pipeline)[1], base[1])


def test_each_tower_has_its_own_strength(pipeline, golden, attach, base):
    attach(golden / "lora_upstream_accelerate")
    full = run(pipeline)
    pipeline.set_adapters("default", {"video": 0, "bridge": 0})
    some = run(pipeline)
    assert relative_error(some[1], base[1]) > 0
    assert relative_error(some[0], base[0]) < relative_error(full[0], base[0])
    scalings = {
        tower: next(m for m in getattr(pipeline, tower).modules() if hasattr(m, "lora_A")).scaling["default"]
        for tower in TOWERS
    }
    assert scalings == {"video_dit": 0, "video_dit_2": 0, "audio_dit": 1, "dual_tower_bridge": 0}


@pytest.mark.parametrize(
    ("names", "strengths", "sentence"),
    [
        (["default"], [{"sound": 1.0}], "'sound' is not a part of the model"),
        (["default"], [99.0], "the strength of default=99.0 is out of range"),
        (["default"], [1.0, 2.0], "1 adapters have 2 strengths"),
        (["other"], None, r"no adapter 'other' is attached; there are \['default'\]"),
    ],
)
def test_strengths_that_would_be_ignored_are_refused(pipeline, tmp_path, attach, names, strengths, sentence):
    attach(write(tmp_path / "a.safetensors", matrices()))
    with pytest.raises(UserError, match=sentence):
        pipeline.set_adapters(names, strengths)


def test_a_file_may_be_named_in_its_folder(pipeline, tmp_path, attach):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.safetensors", matrices())
    pipeline.load_lora_weights(tmp_path, adapter_name="chosen", weight_name="b.safetensors")
    assert pipeline.get_list_adapters() == {"video_dit": ["chosen"]}


def test_a_name_in_use_is_refused(pipeline, tmp_path, attach):
    path = write(tmp_path / "a.safetensors", matrices())
    attach(path)
    with pytest.raises(UserError, match="'default' is attached already"):
        attach(path)


@pytest.mark.parametrize("alpha", [6, 0.5])
@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_adds_its_scaled_product_to_the_weight(pipeline, attach, alpha, rslora):
    layer = pipeline.video_dit.blocks[0].self_attn.q
    weight, (down, up) = layer.weight.data.clone(), matrices().values()
    x = torch.randn(3, 48)
    attach(Adapter({MODULE: LoraUpdate(down, up, alpha, rslora)}))
    expected = x @ (weight + alpha / (2**0.5 if rslora else 2) * up @ down).T + layer.bias
    with torch.no_grad():
        assert torch.allclose(pipeline.video_dit.blocks[0].self_attn.q(x), expected, atol=1e-5)


def test_ranks_and_alphas_may_differ_from_layer_to_layer(pipeline, attach):
    paths = [f"video_dit.blocks.{block}.self_attn.{name}" for block in range(2) for name in "qkv"]
    layers = {
        path: LoraUpdate(torch.randn(rank, 48), torch.randn(48, rank), alpha)
        for path, rank, alpha in zip(paths, (2, 2, 3, 5, 2, 3), (1.0, 2.0, 3.0, 4.0, 5.0, 6.0), strict=True)
    }
    expected = {path: lora.scale * lora.up @ lora.down for path, lora in layers.items()}
    attach(Adapter(layers))
    for path, delta in expected.items():
        layer = pipeline.video_dit.get_submodule(path.removeprefix("video_dit."))
        assert torch.allclose(layer.get_delta_weight("default"), delta, atol=1e-4)


def test_two_adapters_of_the_same_layers_add_up(pipeline, golden, attach):
    for name in ("first", "second"):
        attach(golden / "lora_upstream_accelerate", name)
    pipeline.set_adapters(
        ["first", "second"], [{"audio": 0.5, "bridge": 0.5}, {"video": 0, "audio": 0.5, "bridge": 0.5}]
    )
    both = run(pipeline)
    pipeline.set_adapters(["first"])
    for ours, theirs in zip(run(pipeline), both, strict=True):
        assert relative_error(ours, theirs) < 1e-5


def test_adapters_of_different_towers_act_together(pipeline, tmp_path, attach, base):
    attach(write(tmp_path / "a.safetensors", matrices()), "look")
    size = pipeline.audio_dit.config.dim
    sound = matrices(size=size, module="audio_dit.blocks.0.self_attn.q")
    attach(write(tmp_path / "b.safetensors", sound), "voice")
    pipeline.set_adapters(["look", "voice"])
    both = run(pipeline)
    pipeline.set_adapters(["voice"])
    voice = run(pipeline)
    pipeline.set_adapters(["look", "voice"], [0, 1])
    assert torch.equal(run(pipeline)[0], voice[0])
    assert not torch.equal(voice[1], both[1])
    pipeline.delete_adapters("voice")
    pipeline.set_adapters("look", 0)
    assert torch.equal(run(pipeline)[1], base[1])


DAMAGED = [
    (matrices(module="video_dit.blocks.9.self_attn.q"), "no linear layer video_dit.blocks.9"),
    (matrices(size=24), "is for a layer 24x24"),
    (matrices() | {f"{MODULE}.lora_A.weight": torch.full((2, 48), float("nan"))}, "NaN"),
    ({f"{MODULE}.lora_A.weight": torch.zeros(2, 48)}, "only one of its two matrices"),
]


@pytest.mark.parametrize(("tensors", "sentence"), DAMAGED, ids=[sentence for _, sentence in DAMAGED])
def test_an_adapter_that_does_not_fit_is_refused_and_nothing_attached(pipeline, tmp_path, tensors, sentence):
    path = write(tmp_path / "bad.safetensors", tensors)
    with pytest.raises(UserError, match=sentence):
        pipeline.load_lora_weights(path)
    assert not any("lora" in name for name, _ in pipeline.video_dit.named_parameters())


def test_an_upstream_folder_with_code_in_its_pickle_is_refused(pipeline, tmp_path, capsys):
    class Exploit:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"x": Exploit()}, tmp_path / "lora_weights.pt")
    torch.save({"alpha": 8}, tmp_path / "lora_config.pt")
    with pytest.raises(UserError, match="cannot be read as an upstream adapter"):
        pipeline.load_lora_weights(tmp_path)
    assert capsys.readouterr().out == ""


def test_an_empty_upstream_folder_says_that_nothing_was_saved(pipeline, tmp_path):
    torch.save({}, tmp_path / "lora_weights.pt")
    torch.save({"alpha": 8}, tmp_path / "lora_config.pt")
    with pytest.raises(UserError, match="saved nothing"):
        pipeline.load_lora_weights(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fusing_does_what_attaching_does_and_unfusing_restores_every_bit(fresh, golden, dtype):
    pipeline = fresh(dtype)
    before, plain = weights(pipeline), run(pipeline)
    pipeline.load_lora_weights(golden / "lora_upstream_accelerate")
    pipeline.set_adapters("default", {"video": 0.7, "audio": -0.3})
    attached = run(pipeline)
    pipeline.fuse_lora()
    fused = run(pipeline)
    error, effect = relative_error(fused[0], attached[0]), relative_error(attached[0], plain[0])
    assert error < (1e-5 if dtype == torch.float32 else effect / 2)
    pipeline.unfuse_lora()
    assert_same_bits(weights(pipeline), before)
    assert torch.equal(run(pipeline)[0], attached[0])


def test_a_fused_adapter_may_be_taken_off_and_unfused_later(fresh, golden, base):
    pipeline = fresh()
    before = weights(pipeline)
    pipeline.load_lora_weights(golden / "lora_upstream_accelerate")
    pipeline.fuse_lora()
    fused = run(pipeline)
    pipeline.unload_lora_weights()
    assert not any("lora" in name for name, _ in pipeline.video_dit.named_parameters())
    assert torch.equal(run(pipeline)[0], fused[0])
    pipeline.unfuse_lora()
    assert_same_bits(weights(pipeline), before)
    assert torch.equal(run(pipeline)[0], base[0])


def test_fusing_some_towers_at_a_scale_leaves_the_others_and_the_strengths(fresh, golden):
    pipeline = fresh()
    before = weights(pipeline)
    pipeline.load_lora_weights(golden / "lora_upstream_accelerate")
    layer = pipeline.audio_dit.blocks[0].self_attn.q
    delta = layer.get_delta_weight("default")
    pipeline.fuse_lora(["audio_dit"], lora_scale=0.5)
    after = weights(pipeline)
    assert torch.allclose(
        layer.weight, before["audio_dit.blocks.0.self_attn.q.weight"] + 0.5 * delta, atol=1e-6
    )
    assert layer.scaling == {"default": 1.0}
    changed = {name.partition(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"audio_dit"}
    pipeline.unfuse_lora(["video_dit"])
    with pytest.raises(UserError, match="audio_dit is fused already"):
        pipeline.fuse_lora()
    pipeline.unfuse_lora(["audio_dit"])
    assert_same_bits(weights(pipeline), before)


def test_a_fused_model_is_saved_as_an_ordinary_checkpoint(fresh, golden, tmp_path):
    pipeline = fresh()
    pipeline.load_lora_weights(golden / "lora_upstream_accelerate")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    pipeline.save_pretrained(tmp_path / "merged")
    again = MOVAPipeline.from_pretrained(tmp_path / "merged", torch_dtype=torch.float32)
    assert_same_bits(weights(again), weights(pipeline))


def test_what_cannot_be_fused_says_so_and_stays_as_it_was(fresh, golden):
    nothing = fresh()
    with pytest.raises(UserError, match="no adapter is attached"):
        nothing.fuse_lora()
    streamed = fresh()
    streamed.residency = LayerOffloader(
        streamed.components, streamed.dual_tower, torch.device("cpu"), hold_both=False
    )
    coarse = fresh(torch.bfloat16)
    place(coarse, Placement("cpu", "bfloat16", fp8=True))
    for pipeline, sentence in (
        (streamed, "streamed from packed copies"),
        (coarse, "float8_e4m3fn, too coarse"),
    ):
        pipeline.load_lora_weights(golden / "lora_upstream_accelerate")
        before = weights(pipeline)
        with pytest.raises(UserError, match=sentence):
            pipeline.fuse_lora()
        assert_same_bits(weights(pipeline), before)


@pytest.mark.parametrize("offload", ["none", "component", "layers"])
@pytest.mark.parametrize("hold_both", [True, False])
def test_every_placement_carries_adapters_with_strengths(pipeline, fresh, golden, attach, offload, hold_both):
    adapter = read_adapter(golden / "lora_upstream_accelerate")
    placed = fresh()
    place(placed, Placement("cpu", "float32", offload, hold_both, keep_text_encoder=False))
    without = run(placed)
    clips = []
    for each in (placed, pipeline):
        each.load_lora_weights(adapter, "default")
        each.set_adapters("default", {"video": 0.5, "audio": 1.0, "bridge": 0.2})
        clips.append(run(each))
    assert relative_error(clips[0][0], clips[1][0]) < 1e-5
    placed.set_adapters("default", 0)
    assert torch.equal(run(placed)[0], without[0])
    placed.unload_lora_weights()
    assert torch.equal(run(placed)[0], without[0])


def test_a_model_fused_before_it_is_placed_may_be_streamed(fresh, golden):
    clips = []
    for offload in ("none", "layers"):
        pipeline = fresh()
        pipeline.load_lora_weights(golden / "lora_upstream_accelerate")
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
        place(pipeline, Placement("cpu", "float32", offload, hold_both=False))
        clips.append(run(pipeline))
    assert torch.equal(clips[0][0], clips[1][0])


def test_a_layer_in_8_bits_adds_its_adapter_in_full(fresh, golden, multiplying):
    placed = fresh(torch.bfloat16)
    place(placed, Placement("cpu", "bfloat16", fp8=True))
    base, x = placed.video_dit.blocks[0].self_attn.q, torch.randn(1, 5, 48).bfloat16()
    without = base(x)
    placed.load_lora_weights(golden / "lora_upstream_accelerate")
    layer = placed.video_dit.blocks[0].self_attn.q
    assert layer.get_base_layer() is base
    added = x @ layer.lora_A["default"].weight.T @ layer.lora_B["default"].weight.T
    assert relative_error((layer(x) - without).float(), added.float()) < 0.05


@pytest.mark.parametrize("offload", ["none", "layers"])
def test_8_bit_storage_carries_an_adapter_in_its_own_type_and_strength_0_is_its_base(
    fresh, golden, multiplying, offload
):
    placed = fresh(torch.bfloat16)
    place(placed, Placement("cpu", "bfloat16", offload, fp8=True))
    without = run(placed)
    placed.load_lora_weights(golden / "lora_upstream_accelerate")
    types = {p.dtype for name, p in placed.video_dit.named_parameters() if "lora_A" in name}
    assert types == {torch.bfloat16}
    assert not torch.equal(run(placed)[0], without[0])
    placed.set_adapters("default", 0)
    assert torch.equal(run(placed)[0], without[0])

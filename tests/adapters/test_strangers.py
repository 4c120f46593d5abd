"""Adapter files as strangers leave them: strengths, names, other models, what is no file of the kind."""

import json
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from lora_trainer.__main__ import main
from mova.adapters.sources import expert_in_name, read_adapter
from mova.errors import UserError, printable

RANK, DIM = 8, 16
MODULES = ("blocks.0.self_attn.q", "blocks.1.cross_attn.k", "blocks.1.ffn.2")


def matrices(prefix="diffusion_model.", halves=("lora_A.weight", "lora_B.weight"), modules=MODULES, dim=DIM):
    shapes = (RANK, dim), (dim, RANK)
    return {
        f"{prefix}{module}.{half}": torch.full(shape, 0.01)
        for module in modules
        for half, shape in zip(halves, shapes, strict=True)
    }


def scales(path, **options):
    layers = read_adapter(path, expert="high", **options).layers
    return {key.partition(".")[2]: round(lora.scale, 6) for key, lora in layers.items()}


@pytest.mark.parametrize(
    ("header", "scale"),
    [
        ({"lora_alpha": "4"}, 0.5),
        ({"network_alpha": "4.0"}, 0.5),
        ({"ss_network_alpha": "1.0", "ss_network_dim": "8"}, 0.125),
        ({"ss_network_alpha": "None", "alpha": "2"}, 0.25),
        ({"lora_alpha": "4", "use_rslora": "True"}, 4 / 8**0.5),
        ({"ss_network_alpha": "4", "ss_network_args": '{"rs_lora": "True"}'}, 4 / 8**0.5),
        ({"lora_config": '{"r": 8, "lora_alpha": 2}'}, 0.25),
        ({"adapter_config": '{"r": 8, "lora_alpha": 2, "alpha_pattern": {"q": 4}}'}, None),
    ],
)
def test_a_strength_is_read_in_the_words_of_every_writer(tmp_path, header, scale):
    save_file(matrices(), tmp_path / "a.safetensors", metadata=header)
    expected = {module: scale or (0.5 if module.endswith("q") else 0.25) for module in MODULES}
    assert scales(tmp_path / "a.safetensors") == pytest.approx(expected)


def test_an_alpha_beside_its_matrices_counts_more_than_the_header(tmp_path):
    alphas = {f"diffusion_model.{module}.alpha": torch.tensor(2.0) for module in MODULES}
    save_file(matrices() | alphas, tmp_path / "a.safetensors", metadata={"lora_alpha": "4"})
    assert set(scales(tmp_path / "a.safetensors").values()) == {0.25}


def test_a_header_of_another_rank_is_not_trusted_with_the_alpha(tmp_path):
    save_file(
        matrices(), tmp_path / "a.safetensors", metadata={"ss_network_alpha": "16", "ss_network_dim": "32"}
    )
    with pytest.raises(UserError, match="matrices of rank 8, its header says 32"):
        scales(tmp_path / "a.safetensors")
    assert set(scales(tmp_path / "a.safetensors", alpha=4).values()) == {0.5}


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "a_high.safetensors"])
def test_pefts_settings_beside_the_file_decide_its_strength(tmp_path, name):
    save_file(matrices("base_model.model."), tmp_path / name)
    config = {
        "r": RANK,
        "lora_alpha": 4,
        "use_rslora": True,
        "alpha_pattern": {"blocks.0.attn1.to_q": 2, "ffn.2": 8},
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    root = RANK**0.5
    expected = dict(zip(MODULES, (2 / root, 4 / root, 8 / root), strict=True))
    assert scales(tmp_path / name) == pytest.approx(expected, abs=1e-6)
    config["alpha_pattern"] = {"(a+)+$": 2}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"the pattern '\(a\+\)\+\$', which is not read; give an alpha"):
        scales(tmp_path / name)


@pytest.mark.parametrize(
    "name",
    ["low_poly_style", "high_contrast_noir", "audio_reactive_dance", "golden_gate_bridge", "LOW_KEY_LIGHT"],
)
def test_a_word_of_a_styles_name_picks_no_part_of_the_model(tmp_path, name):
    save_file(matrices(), tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match="does not say what it is for"):
        read_adapter(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("name", "expert"),
    [
        ("anna_high_noise", "high"),
        ("anna_low_noise_v2_000010", "low"),
        ("low_poly_high_noise", None),
        ("anna-high", "high"),
        ("anna_low_v3_rank32", "low"),
        ("anna_high_voltage", None),
    ],
)
def test_a_name_that_means_an_expert_is_understood(tmp_path, name, expert):
    assert expert_in_name(tmp_path / f"{name}.safetensors") == expert


def test_a_word_counts_where_the_other_experts_file_lies_beside(tmp_path):
    for name in ("anna_high_sharp", "anna_low_sharp"):
        save_file(matrices(), tmp_path / f"{name}.safetensors")
        (tmp_path / f"._{name}.safetensors").write_bytes(bytes([0, 5, 22, 7]) * 20)  # macOS's sidecar
    towers = {key.partition(".")[0] for key in read_adapter(tmp_path).layers}
    assert towers == {"video_dit", "video_dit_2"}
    assert next(iter(read_adapter(tmp_path / "anna_low_sharp.safetensors").layers)).startswith("video_dit_2.")


def test_layers_as_wide_as_the_video_experts_are_not_the_audio_towers(tmp_path):
    save_file(matrices(dim=5120, modules=MODULES[:1]), tmp_path / "city_audio.safetensors")
    with pytest.raises(UserError, match="does not say what it is for"):
        read_adapter(tmp_path / "city_audio.safetensors")


def whole(tmp_path):
    save_file(matrices(), tmp_path / "whole.safetensors")
    return (tmp_path / "whole.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"<!DOCTYPE html>\n<html><title>Sign in</title>", "is a web page"),
        (b"\n  <HTML><body>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "is a Git LFS pointer"),
        (b"", "is empty"),
        (b'{"error": "Unauthorized"}', "is JSON text"),
        (bytes(4096), "begins with zeros: its download did not end"),
        (b"PK\x03\x04" + bytes(90), "is an archive"),
        (b"\x80\x04" + bytes(90), "is a pickle"),
        (b"GGUF" + bytes(90), "is a GGUF file"),
        (0.5, "is cut short"),
        (0.02, "header|cut short"),
        (5, "is cut short"),
    ],
)
def test_what_lies_in_place_of_an_adapter_is_called_what_it_is(tmp_path, content, sentence):
    path = tmp_path / "a.safetensors"
    if not isinstance(content, bytes):
        data = whole(tmp_path)
        content = data[: content if isinstance(content, int) else int(len(data) * content)]
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_adapter(path, expert="high")


def test_a_download_that_did_not_end_is_told_by_its_name(tmp_path):
    (tmp_path / "a.safetensors.crdownload").write_bytes(b"x")
    with pytest.raises(UserError, match="is a download that did not end"):
        read_adapter(tmp_path / "a.safetensors.crdownload")


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (
            ("double_blocks.0.img_attn.qkv", "single_blocks.1.linear1"),
            "another model, by its keys HunyuanVideo",
        ),
        (("transformer_blocks.0.audio_attn1.to_q",), "another model, by its keys LTX-2"),
        (("transformer_blocks.0.attn1.to_q",), "another model, by its keys LTX-Video, CogVideoX"),
        (("encoder.layers.3.linear",), "is of another model"),
    ],
)
@pytest.mark.parametrize("skip", [False, True])
def test_a_lora_of_another_model_is_called_that_and_no_advice_is_given_in_vain(
    tmp_path, keys, sentence, skip
):
    save_file(matrices(modules=keys), tmp_path / "a_high.safetensors")
    with pytest.raises(UserError, match=sentence) as caught:
        read_adapter(tmp_path / "a_high.safetensors", skip_extras=skip)
    assert "skip-extras" not in str(caught.value) and "saved nothing" not in str(caught.value)


@pytest.mark.parametrize(
    ("parts", "kind"), [(("lokr_w1", "lokr_w2"), "LoKr"), (("hada_w1_a", "hada_w1_b"), "LoHa")]
)
def test_other_kinds_of_adapter_are_named(tmp_path, parts, kind):
    tensors = {f"lycoris_blocks_0_self_attn_q.{part}": torch.ones(8, 8) for part in parts}
    save_file(tensors, tmp_path / "a_high.safetensors")
    for skip in (False, True):
        with pytest.raises(UserError, match=f"it is a {kind}.*nothing of it can be used"):
            read_adapter(tmp_path / "a_high.safetensors", skip_extras=skip)


def test_a_lora_in_lycoris_keys_is_read(tmp_path):
    modules = [module.replace(".", "_") for module in MODULES]
    tensors = matrices("lycoris_", ("lora_down.weight", "lora_up.weight"), modules)
    save_file(tensors, tmp_path / "a.safetensors", metadata={"ss_network_alpha": "4"})
    assert scales(tmp_path / "a.safetensors") == dict.fromkeys(MODULES, 0.5)


@pytest.mark.parametrize("count", [70_000, 200_000])
def test_a_header_is_not_parsed_if_it_is_too_long_and_its_tensors_are_counted(tmp_path, count):
    entry = '"k%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = ("{" + ",".join(entry % number for number in range(count)) + "}").encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(UserError, match=r"holds 70000 tensors|header of \d+ MiB, too large"):
        read_adapter(tmp_path / "a.safetensors", expert="high")


def test_a_pickle_that_unpacks_to_more_than_its_size_is_refused(tmp_path):
    layer = "video_dit.blocks.0.self_attn.q"
    state = {f"{layer}.lora_A": torch.ones(4, 48), f"{layer}.lora_B": torch.ones(48, 4)}
    torch.save({"lora_state_dict": state, "alpha": 4, "rank": 4}, tmp_path / "small.pt")
    assert read_adapter(tmp_path / "small.pt").layers
    with (
        zipfile.ZipFile(tmp_path / "small.pt") as small,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for member in small.infolist():
            bomb.writestr(member.filename, small.read(member) + bytes(2**20))
    with pytest.raises(UserError, match=r"would unpack to .* too large"):
        read_adapter(tmp_path / "bomb.pt")


def test_a_few_bytes_that_are_shown_as_a_vast_matrix_are_refused(tmp_path):
    layer = "video_dit.blocks.0.self_attn.q"
    state = {
        f"{layer}.lora_A": torch.zeros(1).as_strided((4, 2**30), (0, 0)),
        f"{layer}.lora_B": torch.ones(48, 4),
    }
    torch.save({"lora_state_dict": state, "alpha": 4, "rank": 4}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="would take over 4 GiB"):
        read_adapter(tmp_path / "a.pt")


STEERING = ("\x1b]0;mine\x07", "\x1b[2A", "\x9b31m", "\u202eevil", "\r", "\u2028", "\x7f", "\ud800")


def test_what_steers_a_terminal_is_shown_in_place_of_sent():
    for text in STEERING:
        shown = printable(f"a{text}b")
        assert shown.isprintable() and shown.startswith("a\\") and shown.endswith("b")
    for text in ("条纹 – ünï", "👩‍🚀", "مرحبا"):
        assert printable(text) == text
    assert printable("a\n\tb", lines=True) == "a\n\tb"


@pytest.mark.parametrize("where", ["card", "key", "alpha"])
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_no_text_of_an_adapter_reaches_the_terminal_raw(tmp_path, capsys, where, form):
    text = "".join(STEERING[:-1])
    tensors, header = matrices(), {}
    if where == "card":
        card = {"version": 1, "base_model": text, "trigger_words": [text], "recipe": {text: text}}
        header["mova_adapter"] = json.dumps(card)
    elif where == "key":
        tensors[f"blocks.0.{text}.weight"] = torch.ones(4)
    else:
        header["alpha"] = text
    save_file(tensors, tmp_path / "a_high.safetensors", metadata=header or None)
    assert main(["adapter", "info", *form, str(tmp_path / "a_high.safetensors")]) == (
        0 if where == "card" else 2
    )
    said = capsys.readouterr()
    assert printable(said.out + said.err, lines=True) == said.out + said.err

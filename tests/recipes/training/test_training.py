"""The parts that the training stages are made of. The stages themselves need a GPU."""

import pytest
import torch
from torch import nn

from mova.models.attention import rotate_halves
from mova.models.audio_vae import AudioVAE
from mova.models.dual_tower import DualTower
from mova.models.video_vae import decode_whole, encode_whole
from mova.pipeline import MOVAPipeline
from recipes.pocket.training.export import export, start_from
from recipes.pocket.training.latents import Encoder, Shard, export_codecs, normalise
from recipes.pocket.training.models import (
    AUDIO_CHANNELS,
    BOUNDARY_RATIO,
    MOMENTS,
    build_audio_vae,
    build_video_vae,
    train_tokenizer,
)
from recipes.pocket.training.muon import (
    END_RATE,
    LOOK_RATE,
    TEXT_RATE,
    Muon,
    of_audio_vae,
    of_towers,
    of_video_vae,
    orthogonalised,
)
from recipes.pocket.training.run import Average, Budget, CodecRun, Ranks
from recipes.pocket.training.sounds import Sounds
from recipes.pocket.training.tower_run import TEXT_GAIN, Captions, Model, TowerRun, embed
from recipes.pocket.training.towers import (
    HELD_SHARE,
    STILL_SHARE,
    TRAINED,
    draw_sigmas,
    moving,
    shared_gradients,
    velocity,
)
from recipes.pocket.training.towers import losses as losses_of_towers
from recipes.pocket.training.vaes import (
    WEIGHTS,
    Autoencoder,
    Losses,
    balanced,
    cropped,
    excerpts,
    latent_size,
    objective,
)
from recipes.pocket.world.clip import FRAME_RATE

ALONE = Ranks(0, 1, torch.device("cpu"))
CAPTIONS = [
    "A red rubber ball falls on the floor.",
    'The woman says: "Hello water."',
    "C5, D5 and G5 are heard.",
]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Model()


def test_orthogonalised_matrices_have_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((3, 40, 24), (2, 24, 40)):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape) * 7))
        assert values.min() > 0.5 and values.max() < 1.3


def test_the_optimizer_steps_only_what_has_gradients_and_resumes_exactly():
    def masters():
        torch.manual_seed(1)
        names = ("video_dit.blocks.0.q.weight", "video_dit_2.blocks.0.q.weight", "audio_dit.head.bias")
        return dict(zip(names, (torch.randn(8, 8), torch.randn(8, 8), torch.randn(8)), strict=True))

    ours = masters()
    optimizer = Muon(ours, of_towers)
    gradients = {name: torch.ones_like(ours[name]) for name in list(ours)[::2]}
    optimizer.step(gradients, 0.01)
    untouched = "video_dit_2.blocks.0.q.weight"
    assert all(torch.equal(ours[name], masters()[name]) == (name == untouched) for name in ours)

    resumed = Muon({name: tensor.clone() for name, tensor in ours.items()}, of_towers)
    resumed.load_state_dict(optimizer.state_dict())
    for each in (optimizer, resumed):
        each.step(gradients, 0.01)
    assert all(torch.equal(optimizer.masters[name], resumed.masters[name]) for name in ours)


def test_the_text_encoder_learns_slowly_and_by_adamw():
    names = ("text_encoder.encoder.block.0.layer.0.SelfAttention.q.weight", "audio_dit.head.bias")
    masters = {name: torch.zeros(4, 4) for name in names}
    Muon(masters, of_towers).step({name: torch.randn(4, 4) for name in names}, 0.01)
    slow, fast = (masters[name].abs().mean().item() for name in names)
    assert fast == pytest.approx(0.01, rel=1e-3)  # AdamW's first step
    assert slow == pytest.approx(0.01 * TEXT_RATE, rel=1e-3)


def test_where_the_bridge_looks_is_learnt_slowly_and_by_adamw():
    start = "dual_tower_bridge.video_to_audio_conditioners.0.inner."
    masters = {f"{start}{layer}.weight": torch.zeros(4, 4) for layer in "qv"}
    Muon(masters, of_towers).step({name: torch.randn(4, 4) for name in masters}, 0.01)
    where, what = (tensor.abs() for tensor in masters.values())
    assert where.mean().item() == pytest.approx(0.01 * LOOK_RATE, rel=1e-3)
    assert what.std() > 0.1 * what.mean()  # orthogonalised, not the same for all


def test_gains_and_biases_do_not_decay():
    name = "audio_dit.blocks.0.cross_attn.norm_q.weight"
    masters = {name: torch.ones(4), "audio_dit.patch_embedding.weight": torch.ones(4, 4, 1)}
    Muon(masters, of_towers).step({key: torch.zeros_like(tensor) for key, tensor in masters.items()}, 0.1)
    gain, matrix = masters.values()
    assert torch.equal(gain, torch.ones(4))
    assert (matrix < 1).all()
    masters = {"encoder.norm_out.gamma": torch.ones(4, 1, 1, 1), "encoder.block.5.alpha": torch.ones(1, 4, 1)}
    Muon(masters, of_audio_vae).step({key: torch.zeros_like(gain) for key, gain in masters.items()}, 0.1)
    assert all((gain == 1).all() for gain in masters.values())


def test_a_convolution_of_a_codec_learns_as_the_matrix_it_is_and_its_ends_by_adamw():
    torch.manual_seed(0)
    kernel = torch.randn(6, 4, 3, 3, 3)
    masters = {
        "encoder.mid_block.conv1.weight": torch.zeros_like(kernel),
        "encoder.conv_in.weight": kernel * 0,
    }
    Muon(masters, of_video_vae).step({name: kernel for name in masters}, 0.01)
    inside, end = masters.values()
    tower = {"audio_dit.blocks.0.q.weight": torch.zeros(6, 108), "audio_dit.head.bias": torch.zeros(6)}
    Muon(tower, of_towers).step({"audio_dit.blocks.0.q.weight": kernel.flatten(1)}, 0.01)
    assert torch.equal(inside.flatten(1), tower["audio_dit.blocks.0.q.weight"])
    assert torch.allclose(end, -0.01 * END_RATE * kernel.sign(), rtol=1e-3)


def test_what_moves_weighs_more_at_all_times_and_nothing_weighs_nothing():
    torch.manual_seed(0)
    still = torch.randn(2, 16, 1, 6, 8).expand(-1, -1, 5, -1, -1)
    assert torch.allclose(moving(still), torch.full((2, 6, 8), STILL_SHARE))
    video = still.clone()
    video[0, :, 3, 2, 4] += 1  # in one frame only
    weights = moving(video)
    assert weights[0].mean() == pytest.approx(1)
    assert weights[0].argmax() == 2 * 8 + 4
    assert weights[0, 0, 0] == pytest.approx(STILL_SHARE)


def test_normalised_latents_decode_to_the_same_sound():
    torch.manual_seed(0)
    vae = build_audio_vae().double()
    waveform = torch.randn(1, 1, 3200, dtype=torch.float64) / 10
    before = vae.encode(waveform)
    sound = vae.decode(before.mode())
    mean, std = torch.randn(AUDIO_CHANNELS).double(), torch.rand(AUDIO_CHANNELS).double() + 0.5
    normalise(vae, mean, std)
    after = vae.encode(waveform)
    torch.testing.assert_close(after.mode(), (before.mode() - mean[:, None]) / std[:, None])
    torch.testing.assert_close(after.std * std[:, None], before.std)
    torch.testing.assert_close(vae.decode(after.mode()), sound)


def test_the_terms_of_the_sound_loss_have_their_shares_of_the_gradient():
    torch.manual_seed(0)
    waveform = torch.randn(2, 1, 4096) / 10
    decoded = (torch.randn_like(waveform) / 10).requires_grad_()
    losses = Losses(torch.device("cpu"))
    for name, weight in WEIGHTS.items():
        gradient = balanced({name: losses(decoded, waveform)[name]}, decoded)
        assert gradient.norm().item() == pytest.approx(weight, rel=1e-4)
    assert all(term.item() < 1e-6 for term in losses(waveform, waveform).values())


def test_latents_gain_nothing_against_the_noise_by_growing(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr("recipes.pocket.training.vaes.AUDIO_KL_WEIGHT", 0.0)
    vae = build_audio_vae()
    vae.quant_conv.bias.data[AUDIO_CHANNELS:] = -60.0  # noise of its own that does not grow with them
    objective(vae, torch.randn(2, 1, 3200) / 10, Losses(torch.device("cpu")))[0].backward()
    means, reader = vae.quant_conv, vae.post_quant_conv
    growing = sum((p.grad * p)[:AUDIO_CHANNELS].sum() for p in (means.weight, means.bias)).item()
    shrinking = (reader.weight.grad * reader.weight).sum().item()
    assert abs(growing) > 1e-3
    assert growing == pytest.approx(shrinking, rel=1e-3)


def test_what_is_missing_from_a_sound_weighs_and_silence_does_not():
    torch.manual_seed(0)
    vowel, hiss, silence = torch.randn(3, 1, 1, 4096) * torch.tensor([0.15, 0.02, 1e-4])[:, None, None, None]
    true = torch.cat((vowel, hiss, silence), dim=-1)
    decoded = torch.cat((vowel, 1e-4 * torch.randn_like(hiss), -silence), dim=-1).requires_grad_()
    loud = Losses(torch.device("cpu"))(decoded, true)["mel"]
    (gradient,) = torch.autograd.grad(loud, decoded)
    kept, missed, silent = (part[..., 1024:-1024].norm().item() for part in gradient.chunk(3, dim=-1))
    assert missed > 10 * max(kept, silent)


def test_a_decoder_goes_on_alone_from_the_average_and_the_latents_stay(tmp_path):
    torch.manual_seed(0)
    waveform, losses = torch.randn(1, 1, 3200) / 10, Losses(torch.device("cpu"))

    def train(run, steps):
        for _ in range(steps):
            objective(run.vae, waveform, losses)[0].backward()
            run.update(1.0)
        run.save()

    path = tmp_path / "audio_vae.pt"
    first = CodecRun(build_audio_vae(), path, ALONE, 1e-3, of_audio_vae, decoder_only=False)
    train(first, 2)
    again = CodecRun(build_audio_vae(), path, ALONE, 1e-3, of_audio_vae, decoder_only=False)
    assert again.step == 2
    pairs = zip(first.parameters.values(), again.parameters.values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)

    alone = CodecRun(build_audio_vae(), path, ALONE, 1e-3, of_audio_vae, decoder_only=True)
    before = {name: tensor.clone() for name, tensor in alone.vae.state_dict().items()}
    assert all(torch.equal(before[name], first.average.weights[name]) for name in before)
    train(alone, 1)
    changed = {
        name for name, tensor in alone.vae.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert changed
    assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)


def test_sigmas_stay_on_their_experts_side_of_the_boundary():
    torch.manual_seed(0)
    high, sound = draw_sigmas(4096, 0, torch.device("cpu"))
    low, _ = draw_sigmas(4096, 1, torch.device("cpu"))
    assert high.min() >= BOUNDARY_RATIO and high.max() <= 1
    assert low.min() >= 0 and low.max() <= BOUNDARY_RATIO + 1e-6
    assert (sound == high)[sound > 0].float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert sound[sound > 0].min() < BOUNDARY_RATIO  # the other half is drawn on its own


def test_a_fifth_of_the_clips_have_a_held_track_and_a_held_picture_is_the_low_noise_experts():
    torch.manual_seed(0)
    for expert, picture_share in ((0, 0), (1, HELD_SHARE / 2)):
        video, audio = draw_sigmas(8192, expert, torch.device("cpu"))
        assert (video == 0).float().mean().item() == pytest.approx(picture_share, abs=0.01)
        assert (audio == 0).float().mean().item() == pytest.approx(HELD_SHARE / 2, abs=0.01)
        assert not ((video == 0) & (audio == 0)).any()


def test_a_held_track_is_given_clean_and_has_no_loss(model):
    video, condition, audio = torch.randn(2, 16, 2, 4, 4), torch.randn(2, 20, 2, 4, 4), torch.randn(2, 32, 13)
    drawn = (video, condition, audio, torch.ones(2, 32, dtype=torch.long))
    seen = {}

    def tower(latents, sound, video_timestep, audio_timestep, *_):
        seen.update(latents=latents, sound=sound, times=(video_timestep, audio_timestep))
        return torch.zeros_like(video), torch.zeros_like(audio)

    sigmas = (torch.tensor([0.0, 0.5]), torch.tensor([0.5, 0.0]))
    found = losses_of_towers(tower, model.text_encoder, drawn, sigmas, torch.eye(16), use_bridge=True)
    assert torch.equal(seen["latents"][0, :16], video[0]) and torch.equal(seen["sound"][1], audio[1])
    assert [time.tolist() for time in seen["times"]] == [[0, 500], [500, 0]]
    other = (video + torch.tensor([[1.0], [0.0]])[..., None, None, None], condition, audio, drawn[3])
    torch.manual_seed(1)
    one = losses_of_towers(tower, model.text_encoder, drawn, sigmas, torch.eye(16), use_bridge=True)
    torch.manual_seed(1)
    two = losses_of_towers(tower, model.text_encoder, other, sigmas, torch.eye(16), use_bridge=True)
    assert one == two and all(loss > 0 for loss in found)


def test_gradients_of_the_expert_that_rested_are_left_out(tmp_path):
    run = TowerRun(tmp_path / "towers.pt", ALONE, compiled=False)
    model = run.model
    (model.video_dit.head.head.bias.sum() + model.audio_dit.head.head.bias.sum()).backward()
    gradients = shared_gradients(run, [0])
    assert not any(name.startswith("video_dit_2.") for name in gradients)
    assert torch.equal(gradients["video_dit.head.head.bias"], torch.ones(64))
    assert gradients["dual_tower_bridge.audio_to_video_conditioners.0.inner.q.weight"].abs().sum() == 0


def test_the_audio_tower_alone_is_the_dual_tower_without_its_bridge(model):
    torch.manual_seed(0)
    for parameter in model.audio_dit.parameters():
        nn.init.normal_(parameter, std=0.05)
    sound, text, time = torch.randn(2, 32, 13), torch.randn(2, 512, 192), torch.tensor([300.0, 900.0])
    tower = DualTower(model.video_dit, model.audio_dit, model.dual_tower_bridge)
    with torch.no_grad():
        alone = velocity(model.audio_dit, sound, time, text)
        _, both = tower(torch.randn(2, 36, 2, 4, 4), sound, time, time, text, 24.0, use_bridge=False)
    assert alone.std() > 0
    torch.testing.assert_close(alone, both)


def test_the_towers_go_on_from_an_audio_tower_that_learnt_alone(tmp_path):
    def train(run, steps):
        for _ in range(steps):
            sound, time = torch.randn(2, 32, 9), torch.tensor([300.0, 900.0])
            text = embed(run.model.text_encoder, torch.full((2, 32), 7))
            velocity(run.model.audio_dit, sound, time, text).square().mean().backward()
            run.update(run.gradients(lambda name: name.startswith(TRAINED)), 1e-3)

    run = TowerRun(tmp_path / "towers.pt", ALONE, compiled=False)
    before = {name: tensor.clone() for name, tensor in run.masters.items()}
    train(run, 2)
    run.save()
    changed = {name for name, tensor in run.masters.items() if not torch.equal(tensor, before[name])}
    assert changed and all(name.startswith(TRAINED) for name in changed)
    again = TowerRun(tmp_path / "towers.pt", ALONE, compiled=False)
    assert again.step == 2
    assert all(torch.equal(again.masters[name], run.masters[name]) for name in before)


def test_text_is_the_same_however_much_room_the_captions_have(model):
    tokens = torch.zeros(2, 512, dtype=torch.long)
    tokens[0, :5] = torch.tensor([5, 6, 7, 8, 1])
    tokens[1, :100] = 9
    plain = (tokens[:1] != 0).long()
    with torch.no_grad():
        together, alone = embed(model.text_encoder, tokens), embed(model.text_encoder, tokens[:1, :32])
        usual = model.text_encoder(tokens[:1], attention_mask=plain).last_hidden_state * plain[..., None]
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone, usual, atol=1e-5, rtol=1e-4)
    assert together[0, 5:].abs().sum() == 0


def test_the_text_encoder_tells_neighbours_from_its_first_step_on(model):
    notes = torch.tensor(
        [[11, 5, 12, 5, 13, 5, 14, 1], [11, 5, 13, 5, 12, 5, 14, 1]]
    )  # two of them change places
    with torch.no_grad():
        one, other = model.text_encoder(notes).last_hidden_state
    moved = (one - other).norm(dim=-1) / one.norm(dim=-1)
    assert moved[[1, 3, 5]].min() > 0.1  # the commas between them stay, and know it


@pytest.mark.parametrize("reader", ["video", "audio"])
def test_the_bridge_is_silent_at_first_and_looks_at_the_same_moment(model, reader):
    bridge, grid, latents = model.dual_tower_bridge, (13, 8, 14), 103
    video, audio = bridge.rotary(grid, latents, float(FRAME_RATE), torch.device("cpu"))
    times = torch.arange(13).repeat_interleave(8 * 14) * 50 / (FRAME_RATE / 4), torch.arange(latents) * 1.0
    torch.manual_seed(0)
    states = torch.randn(1, 13 * 8 * 14, 240) * 8, torch.randn(1, latents, 192) * 30
    if reader == "video":
        conditioner, (x, y), (own, other), rotary = (
            bridge.audio_to_video_conditioners[2],
            states,
            times,
            (video, audio),
        )
    else:
        conditioner, (y, x), (other, own), rotary = (
            bridge.video_to_audio_conditioners[2],
            states,
            times,
            (audio, video),
        )
    with torch.no_grad():
        assert torch.equal(conditioner(x, y, *rotary), x)
        queries, keys, _ = conditioner.inner.project(x, conditioner.y_norm(y))
        q, k = (rotate_halves(*pair).transpose(1, 2) for pair in zip((queries, keys), rotary, strict=True))
        seen = (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1)[0]  # [heads, L, S]
    looked_at = (seen * other).sum(dim=-1) - own  # audio latents ahead
    inside = (own > 17) & (own < 83)  # what lies two frames away is there
    for head, moment in enumerate(MOMENTS):
        assert (looked_at[head, inside] - moment * 50 / 6).abs().max() < 50 / 6, head  # within a latent frame
    assert seen[len(MOMENTS) :].std() < 1e-6  # the others look everywhere


def test_captions_are_as_wide_as_the_longest_and_some_are_silent(tmp_path):
    tokenizer = train_tokenizer(CAPTIONS, tmp_path)
    captions = Captions(CAPTIONS, tokenizer, torch.device("cpu"))
    assert captions.tokens.shape == (3, 32)
    torch.manual_seed(0)
    drawn = captions.draw(torch.zeros(2000, dtype=torch.long))
    silent = (drawn == captions.empty).all(dim=1)
    assert silent.float().mean().item() == pytest.approx(0.1, abs=0.03)
    assert torch.equal(drawn[~silent][0], captions.tokens[0].long())


def test_sounds_come_back_as_they_were_written(tmp_path):
    sounds = Sounds(torch.randn(2, 1, 30).half(), ["a", "é"])
    sounds.save(tmp_path / "sounds.safetensors")
    again = Sounds.load(tmp_path / "sounds.safetensors")
    assert torch.equal(again.waveforms, sounds.waveforms) and again.captions == sounds.captions


def test_a_run_warms_up_falls_at_its_end_and_stops():
    budget = Budget(minutes=0.002, decay=0.5, ranks=ALONE)
    scales = list(budget.steps())
    assert scales[0] == 0.01
    assert scales[budget.CHECK_EVERY] <= (budget.CHECK_EVERY + 1) / budget.WARMUP
    assert budget.fraction >= 1


def test_an_average_follows_the_weights():
    layer = nn.Linear(2, 2)
    average = Average(layer.state_dict(), decay=0.5)
    with torch.no_grad():
        layer.weight += 1
    for _ in range(60):
        average.update(layer.state_dict())
    torch.testing.assert_close(average.weights["weight"], layer.weight.detach())


def test_shards_come_back_as_they_were_written(tmp_path):
    shard = Shard(
        torch.randn(2, 16, 3, 4, 6), torch.randn(2, 16, 3, 4, 6), torch.randn(2, 1, 320), ["a", "é"]
    )
    shard.save(tmp_path / "0.safetensors")
    again = Shard.load(tmp_path / "0.safetensors")
    assert again.captions == shard.captions
    assert torch.equal(again.condition, shard.condition.bfloat16())
    assert torch.equal(again.waveforms, shard.waveforms.half())


def test_errors_of_latents_weigh_as_much_as_the_picture_changes(tmp_path):
    torch.manual_seed(0)
    vae = build_video_vae()
    vae.register_to_config(latents_std=torch.linspace(0.2, 3, 16).tolist())
    vae.save_pretrained(tmp_path / "video_vae")
    encoder = Encoder(tmp_path, torch.device("cpu"))
    latents = torch.randn(8, 16, 2, 8, 8)
    visibility = encoder.visibility(latents)
    assert (visibility @ visibility).trace().item() == pytest.approx(16, rel=1e-4)

    def picture(latents):
        with torch.no_grad():
            return decode_whole(encoder.video_vae, latents * encoder.std + encoder.mean)

    changes, lengths = [], []
    for direction in torch.linalg.eigh(visibility).eigenvectors.T[-8:]:
        error = torch.randn(8, 1, 2, 8, 8) * direction.view(1, 16, 1, 1, 1) / 1000
        changes.append((picture(latents + error) - picture(latents)).norm())
        lengths.append((visibility @ direction).square().sum())  # the root of what is seen
    ratios = torch.stack(changes) / torch.stack(lengths)
    assert torch.stack(changes).max() > 2 * torch.stack(changes).min()
    assert ratios.max() < 1.3 * ratios.min(), ratios


def test_any_text_can_be_told_to_the_model(tmp_path):
    tokenizer = train_tokenizer(CAPTIONS, tmp_path)
    for text in ("naïve 猫 🎹 <0x41>", "C5 D5", ""):
        ids = tokenizer(text).input_ids
        assert ids[-1] == tokenizer.eos_token_id and tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids[:-1]) == text


def test_the_exported_checkpoint_loads_as_a_release_does_and_fits_the_space(tmp_path, model):
    torch.manual_seed(0)
    build_video_vae().save_pretrained(tmp_path / "codecs" / "video_vae")
    build_audio_vae().save_pretrained(tmp_path / "codecs" / "audio_vae")
    train_tokenizer(CAPTIONS, tmp_path / "codecs" / "tokenizer")
    torch.save({"average": dict(model.named_parameters())}, tmp_path / "towers.pt")
    export(tmp_path, tmp_path / "checkpoint")
    sizes = [path.stat().st_size for path in (tmp_path / "checkpoint").rglob("*") if path.is_file()]
    assert max(sizes) < 10e6
    assert sum(sizes) < 44.06e6  # what the Space has room for
    pipeline = MOVAPipeline.from_pretrained(tmp_path / "checkpoint")
    assert pipeline.config.boundary_ratio == BOUNDARY_RATIO
    torch.testing.assert_close(
        pipeline.text_encoder.shared.weight, model.text_encoder.shared.weight.detach().bfloat16()
    )
    start_from(tmp_path / "checkpoint", tmp_path / "next", ["dual_tower_bridge"])
    for name, master in TowerRun(tmp_path / "next" / "towers.pt", ALONE, compiled=False).masters.items():
        kept = torch.equal(master, model.get_parameter(name).detach().bfloat16().float())
        assert kept or name.startswith("dual_tower_bridge."), name
        assert not (kept and name.endswith("inner.v.weight")), name
    start_from(tmp_path / "checkpoint", tmp_path / "next", ["text_encoder"])
    run = TowerRun(tmp_path / "next" / "towers.pt", ALONE, compiled=False)
    assert run.step == 0
    for name, master in run.masters.items():
        kept = torch.equal(master, model.get_parameter(name).detach().bfloat16().float())
        if name.endswith("cross_attn.o.weight"):
            assert not master.any(), name  # what is not understood yet is not heard
        elif "cross_attn.norm" in name:
            assert (master == TEXT_GAIN).all(), name
        elif any(part in name for part in ("text_encoder.", "text_embedding.", "cross_attn.")):
            assert not kept or master.ndim < 2 or "bias" in name, name
        else:
            assert kept, name
    vae = CodecRun(
        build_audio_vae(), tmp_path / "next" / "audio_vae.pt", ALONE, 1e-3, of_audio_vae, False
    ).vae
    for name, tensor in pipeline.audio_vae.state_dict().items():
        assert torch.equal(vae.state_dict()[name], tensor.float())
    export_codecs(tmp_path / "next", workers=1)
    again = AudioVAE.from_pretrained(tmp_path / "next" / "codecs" / "audio_vae").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in vae.state_dict().items())
    start_from(tmp_path / "checkpoint", tmp_path / "reset", ["video_vae"])
    assert {path.name for path in (tmp_path / "reset").glob("*.*")} == {"audio_vae.pt", "towers.pt"}


def test_a_video_vae_can_learn_latents_that_are_given_beside_its_pictures():
    torch.manual_seed(0)
    model, video = Autoencoder(build_video_vae()), torch.rand(1, 3, 5, 32, 32) * 2 - 1
    noise, wanted = torch.randn(2, *latent_size(video)).unbind()
    alone, square, kl, unlike = model(video, noise, wanted, torch.tensor(0.0))
    both = model(video, noise, wanted, torch.tensor(0.5))
    torch.testing.assert_close(both, (alone + unlike / 2, square, kl, unlike))
    mean = encode_whole(model.vae, video).chunk(2, dim=1)[0]
    torch.testing.assert_close(unlike, (mean - wanted).square().mean())


def test_crops_are_true_windows_and_likelier_where_something_moves():
    torch.manual_seed(0)
    clip = torch.randint(0, 255, (1, 3, 1, 128, 224), dtype=torch.uint8).repeat(64, 1, 5, 1, 1)
    clip[:, :, 1::2, 100:108, 200:208] ^= 255
    windows = cropped(clip, (64, 112))
    assert windows.shape == (64, 3, 5, 64, 112)
    moving = (windows.float().std(dim=2).amax(dim=(1, 2, 3)) > 0).float().mean().item()
    assert moving > 0.7  # by chance 40 %
    still = clip[:1, :, :1].repeat(1, 1, 5, 1, 1)
    window = cropped(still, (64, 112))[0, :, 0]
    places = still[0, :, 0].unfold(1, 64, 8).unfold(2, 112, 8).permute(1, 2, 0, 3, 4).flatten(0, 1)
    assert (places == window).flatten(1).all(dim=1).sum() == 1


def test_an_excerpt_is_a_part_of_its_own_sound():
    sounds = torch.arange(3.0)[:, None, None] * 1e6 + torch.arange(32_000.0)
    parts = excerpts(sounds)
    assert (parts.diff(dim=-1) == 1).all()
    assert torch.equal((parts[:, 0, 0] // 1e6).long(), torch.arange(3))


def test_a_fainter_sound_counts_as_much_as_a_loud_one():
    torch.manual_seed(0)
    loud = torch.randn(1, 1, 4096) / 10
    for name, term in Losses(torch.device("cpu"))(
        torch.cat((loud, 0.6 * loud)), torch.cat((loud, 0.3 * loud))
    ).items():
        alone = Losses(torch.device("cpu"))(0.6 * loud, 0.3 * loud)[name]
        if name != "mel":  # which is a logarithm's difference
            assert term.item() == pytest.approx(alone.item() / 2, rel=0.2)

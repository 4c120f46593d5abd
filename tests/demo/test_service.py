"""What the page does, without the page: real clips of the tiny model, in the worker."""

import json
import resource
import time
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from demo import html
from demo.costs import Costs
from demo.form import AdapterChoice, Form
from demo.history import draw_crop
from demo.queue import JobQueue
from demo.restore import form_of
from demo.service import DemoService
from demo.settings import Settings
from mova.errors import UserError
from mova.media.clips import read_clip, read_settings, write_mp4, write_wav
from mova.request import GenerationRequest
from tests.backends.video_server import KEY, running_engine
from tests.lora_trainer.clips import wave


@pytest.fixture
def form(service):
    return Form(prompt="a bell rings", model=service.model_name, seconds=0.38, num_inference_steps=2)


def make(service, visitor, form):
    run = service.submit(visitor, form)
    assert run.finished.wait(120)
    return run


def changed(form, **values):
    return Form(**{**vars(form), **values})


def test_a_clip_and_all_that_is_shown_of_it_is_kept(service, visitor, form, golden):
    run = make(service, visitor, changed(form, image=str(golden / "image.png"), random_seed=False, seed=3))
    (entry,) = service.history.records(service.visitors.folder_name(visitor))
    assert run.outcome.kind == "done"
    held = {path.name for path in entry.folder.iterdir()}
    assert {"clip.mp4", "sound.wav", "strip.png", "poster.webp", "settings.json", "first.png"} <= held
    assert entry.settings["seed"] == 3
    assert entry.health
    assert all(sentence[0].isupper() for sentence in entry.health)
    assert Image.open(entry.folder / "strip.png").width == 960
    settings = read_settings(entry.clip)
    assert settings["image"] == "first.png"
    written = json.dumps(settings) + (entry.folder / "settings.json").read_text()
    assert settings["model"] == entry.settings["model"] == "checkpoint"
    assert str(entry.folder) not in written and str(golden) not in written


def test_the_form_comes_back_from_the_clip(service, visitor, form):
    given = changed(
        form,
        shape="tall",
        num_inference_steps=3,
        guidance_scale=2.5,
        bridge_guidance_scale=3.0,
        random_seed=False,
        seed=9,
    )
    make(service, visitor, given)
    (entry,) = service.history.records(service.visitors.folder_name(visitor))
    restored = form_of(service, read_settings(entry.clip), None, service.model_name)
    assert restored.request(service.settings) == given.request(service.settings)


def write_lora(path, seed):
    """A LoRA of the tiny model's high-noise expert."""
    from safetensors.torch import save_file
    from torch import Generator, randn

    generator = Generator().manual_seed(seed)
    sizes = (("A", (2, 48)), ("B", (48, 2)))
    tensors = {
        f"video_dit.blocks.0.self_attn.q.lora_{half}.weight": randn(size, generator=generator)
        for half, size in sizes
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"alpha": "2"})
    return AdapterChoice(file=str(path))


def test_adapters_move_into_the_clips_folder_and_out_of_the_next_clip(service, visitor, form, tmp_path):
    one, two = (
        write_lora(tmp_path / "a/style.safetensors", 0),
        write_lora(tmp_path / "b/style.safetensors", 1),
    )
    soft = AdapterChoice(file=two.file, video=0.5)
    seeded = changed(form, random_seed=False, seed=4)
    sounds = []
    for adapters in ((), (one,), (one, soft), (soft,), ()):
        run = make(service, visitor, changed(seeded, adapters=adapters))
        assert run.outcome.kind == "done", run.outcome.message
        sounds.append(run.folder.joinpath("sound.wav").read_bytes())
    assert sounds[0] == sounds[4]
    assert len(set(sounds)) == 4
    newest, _, with_both, _, _ = service.history.records(service.visitors.folder_name(visitor))
    assert with_both.settings["adapters"] == [
        ["style.safetensors", 1.0],
        ["style-2.safetensors", {"video": 0.5, "audio": 1.0, "bridge": 1.0}],
    ]
    assert newest.settings["adapters"] == []
    restored = form_of(service, with_both.settings, None, service.model_name, with_both.folder)
    again = make(service, visitor, restored)
    assert again.folder.joinpath("sound.wav").read_bytes() == sounds[2]
    repo = with_both.settings | {"adapters": [["org/name", {"video": 0.5, "audio": 0.0}]]}
    restored = form_of(service, repo, None, service.model_name)
    assert restored.adapters == (AdapterChoice(name="org/name", video=0.5, audio=0.0),)


def test_an_adapter_trained_here_is_its_owners_alone(service, visitor, form, tmp_path):
    own = service.adapters_folder(service.visitors.folder_name(visitor))
    lora = write_lora(own / "mine.safetensors", 0)
    assert service.trained_adapters(visitor) == ["mine"]
    seeded = changed(form, random_seed=False, seed=4)
    by_name = changed(seeded, adapters=(AdapterChoice(name="trained:mine"),))
    service.check(visitor, by_name)
    sounds = [
        make(service, visitor, each).folder.joinpath("sound.wav").read_bytes()
        for each in (by_name, changed(seeded, adapters=(lora,)))
    ]
    assert sounds[0] == sounds[1]
    stranger = service.visitors.issue()
    for name in ("mine", f"../{own.name}/mine"):
        wrong = changed(seeded, adapters=(AdapterChoice(name=f"trained:{name}"),))
        for refused in (service.submit, service.check):
            with pytest.raises(UserError, match="there is no adapter"):
                refused(stranger, wrong)


def test_the_part_of_the_picture_that_is_kept_is_the_one_that_was_chosen(service, visitor, form, tmp_path):
    wide = np.zeros((40, 240, 3), np.uint8)
    wide[:, :80, 0] = wide[:, 80:160, 1] = wide[:, 160:, 2] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    for position, channel in ((0.0, 0), (0.5, 1), (1.0, 2)):
        asked = changed(form, image=str(tmp_path / "wide.png"), shape="square", crop_position=position)
        run = make(service, visitor, asked)
        request = run.outcome.request
        frame = request.check(tmp_path / "no.mp4")
        assert frame.reshape(-1, 3).mean(0).argmax() == channel
        assert read_settings(run.folder / "clip.mp4")["crop_position"] == position
        picture, cut = draw_crop(tmp_path / "wide.png", 48, 48, "crop", position)
        assert cut == "width"
        brightest = np.asarray(Image.open(BytesIO(picture)).convert("RGB"), int).max(2).mean(0).argmax()
        assert abs(brightest / 240 - (0.08, 0.5, 0.92)[channel]) < 0.1
    assert draw_crop(tmp_path / "wide.png", 40, 240, "crop")[1] == ""
    assert draw_crop(tmp_path / "wide.png", 40, 480, "crop")[1] == "height"
    before = draw_crop(tmp_path / "wide.png", 40, 240, "crop")
    Image.fromarray(wide[:, ::-1]).save(tmp_path / "wide.png")
    assert draw_crop(tmp_path / "wide.png", 40, 240, "crop") != before
    (tmp_path / "wide.png").unlink()
    with pytest.raises(UserError, match=r"wide\.png cannot be read"):
        draw_crop(tmp_path / "wide.png", 40, 240, "crop")


def test_what_is_held_comes_out_as_it_went_in_and_the_rest_is_made(service, visitor, form, tmp_path):
    """A sound, a silent video, and the four ways on with a clip."""
    first = make(service, visitor, changed(form, seconds=0.71)).folder / "clip.mp4"
    write_wav(tmp_path / "voice.wav", 0.3 * wave(17 / 24, (0.2,)), 48_000)
    sung = make(service, visitor, changed(form, prompt="", added=str(tmp_path / "voice.wav")))
    assert sung.outcome.kind == "done", sung.outcome.message
    heard = read_clip(sung.folder / "clip.mp4").waveform[0]
    assert np.corrcoef(heard, 0.3 * wave(17 / 24, (0.2,))[: len(heard)])[0, 1] > 0.99
    before = read_clip(first)
    for act, part in (("sound", {}), ("picture", {}), ("retake", {"span_start": 0.25, "span_end": 0.5})):
        made = []
        for seed in (1, 2):
            again = changed(form, prompt="", added=str(first), act=act, random_seed=False, seed=seed, **part)
            run = make(service, visitor, again)
            assert run.outcome.kind == "done", run.outcome.message
            made.append(read_clip(run.folder / "clip.mp4"))
        settings = read_settings(run.folder / "clip.mp4")
        assert str(run.folder) not in json.dumps(settings)
        restored = form_of(service, settings, None, service.model_name, run.folder)
        assert (restored.act, restored.added) == (act, str(run.folder / "given.mp4"))
        for clip in made:
            steps = np.abs(clip.frames.astype(int) - before.frames).mean((1, 2, 3))
            sound = np.abs(clip.waveform - before.waveform)[0]
            if act == "sound":
                assert steps.max() == 0
            if act == "picture":
                assert sound.max() < 0.02  # of AAC
            if act == "retake":
                assert steps[:4].max() < 4 and sound[: 8000 // 5].max() < 0.02
        assert (act == "sound") == np.array_equal(made[0].frames, made[1].frames)
        assert (act == "picture") == np.array_equal(made[0].waveform, made[1].waveform)


def test_a_refused_request_leaves_nothing_behind(service, visitor, form, tmp_path):
    (tmp_path / "page.png").write_text("<html>")
    (tmp_path / "bad.safetensors").write_text("<html>")
    with pytest.raises(UserError, match="not an image"):
        service.submit(visitor, changed(form, image=str(tmp_path / "page.png")))
    run = make(service, visitor, changed(form, adapters=(AdapterChoice(str(tmp_path / "bad.safetensors")),)))
    assert run.outcome.kind == "user"
    owner = service.visitors.folder_name(visitor)
    assert list((service.history.root / owner).iterdir()) == []


def test_a_full_disk_is_reported_and_nothing_half_written_is_kept(service, visitor, form):
    make(service, visitor, form)
    limits = service.worker.call(resource.getrlimit, resource.RLIMIT_FSIZE)
    service.worker.call(resource.setrlimit, resource.RLIMIT_FSIZE, (3000, limits[1]))
    run = make(service, visitor, changed(form, seconds=0.71))
    service.worker.call(resource.setrlimit, resource.RLIMIT_FSIZE, limits)
    assert run.outcome.kind == "machine"
    assert "free some space" in run.outcome.message
    assert len(service.history.records(service.visitors.folder_name(visitor))) == 1
    assert not run.folder.exists()
    assert make(service, visitor, form).outcome.kind == "done"


def test_one_browser_cannot_fill_the_line(service, visitor, form):
    runs = [service.submit(visitor, changed(form, num_inference_steps=50)) for _ in range(2)]
    with pytest.raises(UserError, match="2 clips of yours are queued already"):
        service.submit(visitor, form)
    for run in runs:
        service.queue.stop(run)
    assert all(run.finished.wait(120) for run in runs)


def test_one_address_cannot_fill_the_queue_of_a_public_page_under_many_names(golden, form, tmp_path):
    settings = Settings(model=str(golden / "checkpoint"), size=(32, 64), outputs=tmp_path, is_public=True)
    service = DemoService(settings)
    service.queue = JobQueue(lambda run: run.finished.wait(30), lambda run: None, capacity=8)
    runs = [service.submit(service.visitors.issue(), form, "203.0.113.1") for _ in range(4)]
    with pytest.raises(UserError, match="4 clips from your network are queued already"):
        service.submit(service.visitors.issue(), form, "203.0.113.1")
    runs.append(service.submit(service.visitors.issue(), form, "203.0.113.2"))
    for run in runs:
        run.finished.set()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/srv/page/clips/ab12/style.safetensors is damaged", "style.safetensors is damaged"),
        ("cannot read '/data/model': it is empty", "cannot read 'model': it is empty"),
        ("see https://huggingface.co/settings/billing", "see https://huggingface.co/settings/billing"),
        ("there is no model '/etc' here", "there is no model '/etc' here"),
        ("org/name at 24 frames/s and 1/2", "org/name at 24 frames/s and 1/2"),
        ('File "/usr/lib/python3/torch/nn.py", line 7', 'File "nn.py", line 7'),
        (r"C:\Users\anna\clip.mp4 is damaged", "clip.mp4 is damaged"),
    ],
)
def test_visitors_and_programs_are_shown_files_without_their_folders(text, shown):
    assert html.without_folders(text) == shown
    assert html.sentence(f"- {text}") == f"- {shown}"


def test_the_estimate_learns_from_what_clips_take(service, visitor, form):
    service.costs.device_name, service.costs.cores = "CPU", 2
    request = form.request(service.settings)
    began = time.monotonic()
    make(service, visitor, form)
    took = time.monotonic() - began
    assert 0.1 * took < service.costs.seconds(request, service.model_name) < 3 * took
    assert "on this machine" in service.describe(form)[1]
    assert service.describe(changed(form, prompt=""))[0].startswith("64×32")


def test_the_estimate_follows_the_gpus_that_share_a_clip(service, form):
    request, costs = form.request(service.settings), Costs(Settings())
    costs.device_name, source = "NVIDIA H200", service.model_name
    alone = costs.seconds(request, source)
    costs.gpus = 2
    assert costs.seconds(request, source) == pytest.approx(alone / 2)


@pytest.mark.slow
def test_the_page_makes_a_clip_in_several_processes(service, form, tmp_path):
    together = DemoService(replace(service.settings, gpus=2, device="", outputs=tmp_path))
    try:
        run = together.submit(together.visitors.issue(), form)
        assert run.finished.wait(240)
        assert run.outcome.kind == "done", run.outcome.message
    finally:
        together.close()


def test_a_remote_engine_makes_the_clip_of_the_same_page(tmp_path, form):
    frames = np.random.default_rng(0).integers(0, 255, (25, 352, 640, 3), np.uint8)
    write_mp4(tmp_path / "theirs.mp4", frames, np.zeros(48_000 * 25 // 24), 24, 48_000, {})
    with running_engine() as engine:
        engine.reset((tmp_path / "theirs.mp4").read_bytes())
        settings = Settings.read(
            {
                "MOVA_BACKEND": "remote",
                "MOVA_REMOTE_URL": engine.url,
                "MOVA_REMOTE_API_KEY": KEY,
                "MOVA_OUTPUTS": str(tmp_path / "outputs"),
            }
        )
        engine.key, engine.looks_until_done = KEY, 1
        service = DemoService(settings)
        visitor = service.visitors.issue()
        asked = changed(form, model="360p", seconds=1.04, random_seed=False, seed=8)
        run = make(service, visitor, asked)
        assert run.outcome.kind == "done", run.outcome.message
        (entry,) = service.history.records(service.visitors.folder_name(visitor))
        assert engine.orders[0]["seed"] == entry.settings["seed"] == 8
        engine.key = "another"
        run = make(service, visitor, asked)
        assert run.outcome.kind == "machine"
        assert KEY not in run.outcome.message + "".join(path.read_text() for path in tmp_path.rglob("*.json"))
        assert service.describe(asked)[1] == "The engine's time is not known."


def test_settings_name_files_beside_the_clip_by_name_and_find_them_again(tmp_path):
    (tmp_path / "first.png").touch()
    (tmp_path / "style.safetensors").touch()
    request = GenerationRequest(
        "x",
        image=tmp_path / "first.png",
        adapters=((str(tmp_path / "style.safetensors"), 0.5), ("org/name", 1.0)),
    )
    settings = request.to_settings(tmp_path)
    assert settings["image"] == "first.png"
    assert settings["adapters"] == [["style.safetensors", 0.5], ["org/name", 1.0]]
    assert GenerationRequest.from_settings(settings).with_files_in(tmp_path) == request
    assert request.to_settings()["image"] == str(tmp_path / "first.png")

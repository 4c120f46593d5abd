"""What the page does, without the page: real clips of the tiny model, in the worker."""

import json
import resource
import time
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from video_server import KEY, running_engine

from demo.form import AdapterChoice, Form
from demo.history import draw_crop
from demo.restore import form_of
from demo.service import DemoService
from demo.settings import Settings
from mova.errors import UserError
from mova.media.clips import read_settings, write_mp4
from mova.request import GenerationRequest


@pytest.fixture(scope="module")
def studio(golden, tmp_path_factory):
    settings = Settings(
        model=str(golden / "checkpoint"),
        size=(32, 64),
        seconds=0.71,
        outputs=tmp_path_factory.mktemp("studio"),
        device="cpu",
        keep_hours=1,
    )
    studio = DemoService(settings)
    yield studio
    studio.close()


@pytest.fixture
def visitor(studio):
    return studio.visitors.issue()


@pytest.fixture
def form(studio):
    return Form(prompt="a bell rings", model=studio.model_name, seconds=0.38, steps=2)


def make(studio, visitor, form):
    run = studio.submit(visitor, form)
    assert run.over.wait(60)
    return run


def changed(form, **values):
    return Form(**{**vars(form), **values})


def test_a_clip_and_all_that_is_shown_of_it_is_kept(studio, visitor, form, golden):
    run = make(studio, visitor, changed(form, image=str(golden / "image.png"), random_seed=False, seed=3))
    (entry,) = studio.history.entries(studio.visitors.folder_name(visitor))
    assert run.outcome.kind == "done"
    held = {path.name for path in entry.folder.iterdir()}
    assert {"clip.mp4", "sound.wav", "strip.png", "poster.webp", "settings.json", "first.png"} <= held
    assert entry.settings["seed"] == 3
    assert entry.health
    assert all(sentence[0].isupper() for sentence in entry.health)
    assert Image.open(entry.folder / "strip.png").width == 960
    settings = read_settings(entry.clip)
    assert settings["image"] == "first.png"
    assert str(entry.folder) not in json.dumps(settings) + (entry.folder / "settings.json").read_text()


def test_the_form_comes_back_from_the_clip(studio, visitor, form):
    given = changed(form, shape="tall", steps=3, guidance=2.5, sync_guidance=3.0, random_seed=False, seed=9)
    make(studio, visitor, given)
    (entry,) = studio.history.entries(studio.visitors.folder_name(visitor))
    restored = form_of(studio, read_settings(entry.clip), None, studio.model_name)
    assert restored.request(studio.settings) == given.request(studio.settings)


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


def test_adapters_move_into_the_clips_folder_and_out_of_the_next_clip(studio, visitor, form, tmp_path):
    one, two = (
        write_lora(tmp_path / "a/style.safetensors", 0),
        write_lora(tmp_path / "b/style.safetensors", 1),
    )
    soft = AdapterChoice(file=two.file, video=0.5)
    seeded = changed(form, random_seed=False, seed=4)
    sounds = []
    for adapters in ((), (one,), (one, soft), (soft,), ()):
        run = make(studio, visitor, changed(seeded, adapters=adapters))
        assert run.outcome.kind == "done", run.outcome.message
        sounds.append(run.job.folder.joinpath("sound.wav").read_bytes())
    assert sounds[0] == sounds[4]
    assert len(set(sounds)) == 4
    newest, _, with_both, _, _ = studio.history.entries(studio.visitors.folder_name(visitor))
    assert with_both.settings["adapters"] == [
        ["style.safetensors", 1.0],
        ["style-2.safetensors", {"video": 0.5, "audio": 1.0, "bridge": 1.0}],
    ]
    assert newest.settings["adapters"] == []
    restored = form_of(studio, with_both.settings, None, studio.model_name, with_both.folder)
    again = make(studio, visitor, restored)
    assert again.job.folder.joinpath("sound.wav").read_bytes() == sounds[2]
    repo = with_both.settings | {"adapters": [["org/name", {"video": 0.5, "audio": 0.0}]]}
    restored = form_of(studio, repo, None, studio.model_name)
    assert restored.adapters == (AdapterChoice(name="org/name", video=0.5, audio=0.0),)


def test_an_adapter_trained_here_is_its_owners_alone(studio, visitor, form, tmp_path):
    own = studio.adapters_folder(studio.visitors.folder_name(visitor))
    lora = write_lora(own / "mine.safetensors", 0)
    assert studio.trained_adapters(visitor) == ["mine"]
    seeded = changed(form, random_seed=False, seed=4)
    by_name = changed(seeded, adapters=(AdapterChoice(name="trained:mine"),))
    studio.check(visitor, by_name)
    sounds = [
        make(studio, visitor, each).job.folder.joinpath("sound.wav").read_bytes()
        for each in (by_name, changed(seeded, adapters=(lora,)))
    ]
    assert sounds[0] == sounds[1]
    stranger = studio.visitors.issue()
    for name in ("mine", f"../{own.name}/mine"):
        wrong = changed(seeded, adapters=(AdapterChoice(name=f"trained:{name}"),))
        for refused in (studio.submit, studio.check):
            with pytest.raises(UserError, match="there is no adapter"):
                refused(stranger, wrong)


def test_the_part_of_the_picture_that_is_kept_is_the_one_that_was_chosen(studio, visitor, form, tmp_path):
    wide = np.zeros((40, 240, 3), np.uint8)
    wide[:, :80, 0] = wide[:, 80:160, 1] = wide[:, 160:, 2] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    for position, channel in ((0.0, 0), (0.5, 1), (1.0, 2)):
        asked = changed(form, image=str(tmp_path / "wide.png"), shape="square", crop_position=position)
        run = make(studio, visitor, asked)
        request = run.outcome.request
        frame = request.check(tmp_path / "no.mp4")
        assert frame.reshape(-1, 3).mean(0).argmax() == channel
        assert read_settings(run.job.folder / "clip.mp4")["crop_position"] == position
        picture, cut = draw_crop(tmp_path / "wide.png", 48, 48, "crop", position)
        assert cut == "width"
        brightest = np.asarray(Image.open(BytesIO(picture)).convert("RGB"), int).max(2).mean(0).argmax()
        assert abs(brightest / 240 - (0.08, 0.5, 0.92)[channel]) < 0.1
    assert draw_crop(tmp_path / "wide.png", 40, 240, "crop")[1] == ""
    assert draw_crop(tmp_path / "wide.png", 40, 480, "crop")[1] == "height"


def test_a_refused_request_leaves_nothing_behind(studio, visitor, form, tmp_path):
    (tmp_path / "page.png").write_text("<html>")
    (tmp_path / "bad.safetensors").write_text("<html>")
    with pytest.raises(UserError, match="not an image"):
        studio.submit(visitor, changed(form, image=str(tmp_path / "page.png")))
    run = make(studio, visitor, changed(form, adapters=(AdapterChoice(str(tmp_path / "bad.safetensors")),)))
    assert run.outcome.kind == "user"
    owner = studio.visitors.folder_name(visitor)
    assert list((studio.history.root / owner).iterdir()) == []


def test_a_full_disk_is_reported_and_nothing_half_written_is_kept(studio, visitor, form):
    make(studio, visitor, form)
    limits = studio.worker.call(resource.getrlimit, resource.RLIMIT_FSIZE)
    studio.worker.call(resource.setrlimit, resource.RLIMIT_FSIZE, (3000, limits[1]))
    run = make(studio, visitor, changed(form, seconds=0.71))
    studio.worker.call(resource.setrlimit, resource.RLIMIT_FSIZE, limits)
    assert run.outcome.kind == "machine"
    assert "free some space" in run.outcome.message
    assert len(studio.history.entries(studio.visitors.folder_name(visitor))) == 1
    assert not run.job.folder.exists()
    assert make(studio, visitor, form).outcome.kind == "done"


def test_one_browser_cannot_fill_the_line(studio, visitor, form):
    runs = [studio.submit(visitor, changed(form, steps=50)) for _ in range(2)]
    with pytest.raises(UserError, match="two clips of yours are in the line"):
        studio.submit(visitor, form)
    for run in runs:
        studio.line.stop(run)
    assert all(run.over.wait(20) for run in runs)


def test_the_estimate_learns_from_what_clips_take(studio, visitor, form):
    studio.costs.device_name, studio.costs.cores = "CPU", 2
    request = form.request(studio.settings)
    began = time.monotonic()
    make(studio, visitor, form)
    took = time.monotonic() - began
    assert 0.1 * took < studio.costs.seconds(request, studio.model_name) < 3 * took
    assert "on this machine" in studio.describe(form)[1]
    assert studio.describe(changed(form, prompt=""))[0].startswith("64×32")


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
        studio = DemoService(settings)
        visitor = studio.visitors.issue()
        asked = changed(form, model="360p", seconds=1.04, random_seed=False, seed=8)
        run = make(studio, visitor, asked)
        assert run.outcome.kind == "done", run.outcome.message
        (entry,) = studio.history.entries(studio.visitors.folder_name(visitor))
        assert engine.orders[0]["seed"] == entry.settings["seed"] == 8
        engine.key = "another"
        run = make(studio, visitor, asked)
        assert run.outcome.kind == "machine"
        assert KEY not in run.outcome.message + "".join(path.read_text() for path in tmp_path.rglob("*.json"))
        assert studio.describe(asked)[1] == "How long the engine takes is not known."


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
    assert GenerationRequest.from_settings(settings).found_beside(tmp_path) == request
    assert request.to_settings()["image"] == str(tmp_path / "first.png")

"""Models in this process, made here; and the seam of the pocket enhancer."""

import pytest

from mova.errors import BackendError, Cancelled, UserError
from mova.prompting.enhancer import Enhancer, EnhanceRequest
from mova.prompting.local import (
    LOCAL_MODELS,
    LocalWriter,
    answer_locally,
    can_see,
    embedded_writer,
    free_models,
    load_model,
    pocket_writer,
)
from mova.prompting.writers import WriterRequest
from tests.prompting.chat_server import GOOD_PROMPT, IDEA

pytestmark = pytest.mark.slow


def test_a_folder_is_a_writer(text_model):
    drafts: list[str] = []
    result = Enhancer(LocalWriter(str(text_model))).enhance(
        EnhanceRequest(IDEA, temperature=0.0, seed=1), drafts.append
    )
    assert result.route == "answer"
    assert result.text == GOOD_PROMPT
    assert result.model == str(text_model)
    assert len(drafts) > 20
    assert drafts[-1] == result.text


def test_a_model_of_one_task_gets_the_idea_alone_and_is_not_asked_again(text_model):
    asked: list[WriterRequest] = []

    def answer(source, ask, on_text, cancelled):
        asked.append(ask)
        return answer_locally(source, ask, on_text, cancelled)

    writer = LocalWriter(str(text_model), instructed=False, answer=answer)
    Enhancer(writer).enhance(EnhanceRequest(IDEA))
    assert asked[0].messages == (("user", "a fisherman on a boat says <Q1> as rain starts"),)
    Enhancer(writer).enhance(EnhanceRequest("three astronauts wave on a moon"))
    assert len(asked) == 2


def test_the_pocket_enhancer_is_found_where_it_is(text_model, tmp_path):
    assert pocket_writer(tmp_path) is None
    assert embedded_writer("pocket", text_model).source == str(text_model)
    assert embedded_writer("360p", text_model) is None
    writer = pocket_writer(text_model)
    assert not writer.follows_instructions


def test_a_model_that_sees_sees(seeing_model):
    from io import BytesIO

    from PIL import Image

    texts = set()
    for colour in ((200, 20, 20), (20, 20, 200)):
        buffer = BytesIO()
        Image.new("RGB", (64, 64), colour).save(buffer, "JPEG")
        ask = WriterRequest(
            (("user", "Describe this picture."),), image=buffer.getvalue(), max_tokens=16, temperature=0.0
        )
        texts.add(LocalWriter(str(seeing_model)).write(ask).text)
    assert len(texts) == 2
    assert can_see(str(seeing_model))
    assert LocalWriter(str(seeing_model)).sees


def test_seeds_repeat_and_differ(seeing_model):
    def text(seed: int) -> str:
        return answer_locally(
            str(seeing_model), WriterRequest((("user", "go"),), max_tokens=16, temperature=1.5, seed=seed)
        ).text

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(4)}) > 1


def test_a_cut_off_answer_is_known(text_model):
    answer = answer_locally(str(text_model), WriterRequest((("user", "go"),), max_tokens=5, temperature=0.0))
    assert not answer.is_complete


def test_cancelling_stops_it(text_model):
    seen: list[str] = []
    with pytest.raises(Cancelled):
        answer_locally(str(text_model), WriterRequest((("user", "go"),)), seen.append, lambda: len(seen) > 3)
    assert len(seen) == 4


def test_memory_is_given_back(text_model):
    answer_locally(str(text_model), WriterRequest((("user", "go"),), max_tokens=2))
    assert load_model.cache_info().currsize == 1
    free_models()
    assert load_model.cache_info().currsize == 0


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(UserError, match="no model that can be loaded"):
        LocalWriter(str(tmp_path)).write(WriterRequest((("user", "go"),)))


def test_a_damaged_model_is_named(text_model, tmp_path):
    import shutil

    broken = shutil.copytree(text_model, tmp_path / "broken")
    (broken / "model.safetensors").unlink()
    with pytest.raises(BackendError, match="cannot be loaded"):
        LocalWriter(str(broken)).write(WriterRequest((("user", "go"),)))


def test_recommended_models_say_what_they_take():
    assert all(model.gigabytes > 0 and model.licence and "/" in model.repo_id for model in LOCAL_MODELS)

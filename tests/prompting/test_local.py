"""Models in this process, made here."""

import pytest

from mova.errors import BackendError, Cancelled, UserError
from mova.prompting.enhancer import Enhancer, EnhanceRequest
from mova.prompting.local import (
    LOCAL_MODELS,
    LocalWriter,
    answer_locally,
    can_see,
)
from mova.prompting.plan import NO_SUBTITLES
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
    assert f"{drafts[-1]} {NO_SUBTITLES}" == result.text


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


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded as a model"):
        LocalWriter(str(tmp_path)).write(WriterRequest((("user", "go"),)))


def test_a_damaged_model_is_named(text_model, tmp_path):
    import shutil

    broken = shutil.copytree(text_model, tmp_path / "broken")
    (broken / "model.safetensors").unlink()
    with pytest.raises(BackendError, match="cannot be loaded"):
        LocalWriter(str(broken)).write(WriterRequest((("user", "go"),)))


def test_recommended_models_say_what_they_take():
    assert all(model.gigabytes > 0 and model.licence and "/" in model.repo_id for model in LOCAL_MODELS)

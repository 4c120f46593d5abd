"""Each way a server fails ends in a sentence with what to do, and in a prompt all the same."""

import json
import logging
import pickle
import time

import pytest
from PIL import Image

from mova.errors import BackendError, Cancelled
from mova.openai_client import Endpoint, endpoint_from_environment, visitor_endpoint
from mova.prompting.endpoint import WITHOUT_IMAGE, EndpointWriter
from mova.prompting.enhancer import Enhancer, EnhanceRequest
from mova.prompting.plan import SCHEMA
from mova.prompting.writers import AnswerCache, WriterRequest
from tests.prompting.chat_models import APOLOGY, HABITS, answer_of, refusing
from tests.prompting.chat_server import GOOD_ANSWER, GOOD_PROMPT, IDEA, KEY, Handler, chunk, error

ASK = WriterRequest((("system", "Write."), ("user", "a boat")), max_tokens=64)
REQUEST = EnhanceRequest(IDEA, seed=1)


def hang_up_midway(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("content-type", "text/event-stream")
    handler.send_header("content-length", "100000")
    handler.end_headers()
    handler.wfile.write(f"data: {json.dumps(chunk('A fisherman'))}\n\n".encode())
    handler.wfile.flush()
    handler.close_connection = True
    handler.connection.shutdown(2)


def stall(handler: Handler) -> None:
    time.sleep(3)
    handler.answer("late")


def drip(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("content-type", "text/event-stream")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b": wait\n\n")
        handler.wfile.flush()
        time.sleep(0.1)


def fail_midway(handler: Handler) -> None:
    handler.events([chunk("A fisherman"), {"error": {"message": "out of memory", "code": 500}}])


FAULTS = {
    "bad key": (error(401, f"Incorrect API key provided: {KEY[:7]}****{KEY[-4:]}"), "refused the key"),
    "forbidden": (error(403, "no"), "refused the key"),
    "no such model": (error(404, "The model `x` does not exist"), "does not serve"),
    "pinned to another model": (error(400, "model 'x' is not the pinned one"), "does not serve"),
    "rate limit": (error(429, "slow down", retry_after="0", x_should_retry="false"), "rate limit"),
    "too long": (error(400, "This model's maximum context length is 4096 tokens"), "cannot take a question"),
    "server error": (error(500, "boom"), r"failed \(500\): boom"),
    "bad gateway": (
        lambda h: h.raw(502, "<html>bad gateway</html>", "text/html"),
        r"failed \(502\); try again",
    ),
    "redirect": (lambda h: h.json(302, {}, location="http://127.0.0.1:1/"), "redirects elsewhere"),
    "permanent redirect": (lambda h: h.json(308, {}, location="http://127.0.0.1:1/"), "redirects elsewhere"),
    "a web page": (
        lambda h: h.raw(200, "<html>hello</html>", "text/html"),
        "sent a web page instead of an answer; check the address",
    ),
    "no JSON": (
        lambda h: h.raw(200, "data: {nonsense\n\n", "text/event-stream"),
        "did not answer like an OpenAI-compatible server",
    ),
    "JSON of another kind": (
        lambda h: h.events([["a"], 3]),
        "did not answer like an OpenAI-compatible server",
    ),
    "choices of another kind": (
        lambda h: h.events([{"choices": "many"}]),
        "did not answer like an OpenAI-compatible server",
    ),
    "content of another kind": (
        lambda h: h.events([{"choices": [{"delta": {"content": {"a": 1}}}]}]),
        "did not answer like an OpenAI-compatible server",
    ),
    "hangs up": (hang_up_midway, "hung up before its answer was whole"),
    "error event": (fail_midway, "broke off while answering: out of memory"),
    "slow": (stall, "gave no answer in 1 s"),
    "drips": (drip, "gave no answer in 1 s"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_a_sentence_and_a_template(scripted, fault):
    scripted.always, sentence = FAULTS[fault]
    timeout = 1.0 if fault in ("slow", "drips") else 8.0
    result = Enhancer(scripted.writer(timeout=timeout)).enhance(REQUEST)
    assert result.route == "template"
    assert '"Here it comes."' in result.text
    with pytest.raises(BackendError, match=sentence) as caught:
        scripted.writer(timeout=timeout).write(ASK)
    for text in (str(caught.value), result.failure, repr(caught.value)):
        assert KEY not in text
        assert KEY[:7] not in text
        assert KEY[-4:] not in text


def test_nobody_listening():
    writer = EndpointWriter(Endpoint("http://127.0.0.1:9/v1", "x"))
    with pytest.raises(BackendError, match=r"nothing answers at http://127.0.0.1:9/v1"):
        writer.write(ASK)


def test_a_host_that_does_not_exist():
    writer = EndpointWriter(Endpoint("http://no-such-host.invalid/v1", "x"))
    with pytest.raises(BackendError, match=r"not known to the name service|nothing answers"):
        writer.write(ASK)


def test_one_failure_is_tried_again(scripted):
    scripted.steps.append(error(500, "boom"))
    assert Enhancer(scripted.writer()).enhance(REQUEST).route == "answer"
    assert len(scripted.requests) == 2


def test_a_cut_off_answer_is_asked_for_again_and_not_used(scripted):
    scripted.always = lambda h: h.answer("A fisherman in a yellow coat leans", finish="length")
    result = Enhancer(scripted.writer()).enhance(REQUEST)
    assert result.route == "template"
    assert "cut off at 1024 tokens" in result.failure
    assert len(scripted.requests) == 2


@pytest.mark.parametrize(
    ("message", "gone"),
    [
        ("Unrecognized request argument supplied: chat_template_kwargs", "chat_template_kwargs"),
        ("seed is not supported", "seed"),
        ("'temperature' does not support 0.6 with this model", "temperature"),
        ("stream is not available", "stream"),
    ],
)
def test_optional_fields_are_left_out_once_refused(scripted, message, gone):
    scripted.steps.append(error(400, message))
    writer = scripted.writer()
    assert writer.write(ASK).text == GOOD_ANSWER
    assert writer.write(ASK).text == GOOD_ANSWER
    first, *later = [body for _, _, body in scripted.requests]
    assert gone in first
    assert not any(body.get(gone) is not None and body[gone] is not False for body in later)
    assert len(later) == 2


REFUSED_SCHEMAS = [
    error(400, "Unknown parameter: 'response_format'."),
    error(422, "extra fields not permitted"),
    error(400, "'response_format.type' must be 'text'"),
    error(400, "Invalid JSON schema: additionalProperties is not supported"),
    error(500, "failed to parse grammar"),
    lambda h: h.json(501, {"detail": "structured outputs are not available"}),
]


@pytest.mark.parametrize("refuse", REFUSED_SCHEMAS)
def test_a_schema_is_asked_for_until_it_is_refused_once(scripted, refuse):
    def answer(handler: Handler) -> None:
        if handler.body.get("response_format"):
            refuse(handler)
        else:
            handler.answer(f"Here it is: {GOOD_ANSWER}")

    scripted.always = answer
    writer = scripted.writer()
    results = [Enhancer(writer).enhance(EnhanceRequest(IDEA, seed=seed)) for seed in (1, 2)]
    assert [(result.route, result.text) for result in results] == [("answer", GOOD_PROMPT)] * 2
    asked = [body for _, _, body in scripted.requests if "response_format" in body]
    assert len({body["seed"] for body in asked}) == 1  # the client itself tries a 5xx again
    assert asked[0]["response_format"]["json_schema"]["schema"] == SCHEMA
    assert "response_format" not in scripted.requests[-2][2]


def test_a_schema_is_for_prompts_alone(scripted):
    scripted.writer().write(ASK)
    assert "response_format" not in scripted.requests[0][2]
    Enhancer(scripted.writer()).enhance(REQUEST)
    assert scripted.requests[1][2]["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize("habit", HABITS)
def test_a_model_is_understood_with_its_habits(scripted, habit):
    scripted.always = lambda h: h.answer(answer_of(habit, h.body["messages"]))
    result = Enhancer(scripted.writer()).enhance(REQUEST)
    assert '"Here it comes."' in result.text
    assert len(scripted.requests) == (2 if "at_first" in habit.__name__ or habit is refusing else 1)
    if habit is refusing:
        assert result.route == "template"
        assert "not one JSON object" in result.failure
        assert APOLOGY[:20] in result.failure
    else:
        assert not result.failure


def test_a_refusal_in_its_own_field_is_a_refusal(scripted):
    body = {"choices": [{"message": {"content": None, "refusal": APOLOGY}, "finish_reason": "stop"}]}
    scripted.always = lambda h: h.json(200, body)
    assert APOLOGY[:20] in Enhancer(scripted.writer()).enhance(REQUEST).failure


def test_the_limit_is_called_as_the_server_wants_it(scripted):
    scripted.steps.append(
        error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    )
    scripted.writer().write(ASK)
    assert scripted.requests[-1][2]["max_completion_tokens"] == 64
    assert "max_tokens" not in scripted.requests[-1][2]


def test_a_model_without_system_role_is_told_all_the_same(scripted):
    scripted.steps.append(error(400, "System role not supported"))
    scripted.writer().write(ASK)
    assert scripted.requests[-1][2]["messages"] == [{"role": "user", "content": "Write.\n\na boat"}]


def test_a_server_that_does_not_stream_although_asked(scripted):
    def whole(handler: Handler) -> None:
        handler.body["stream"] = False
        handler.answer(GOOD_ANSWER)

    scripted.always = whole
    assert scripted.writer().write(ASK).text == GOOD_ANSWER


ERRORS_IN_200 = [
    ({"error": "model is loading"}, "model is loading"),
    ({"error": {"message": "model is loading", "code": 503}}, "model is loading"),
    ({"detail": "model is loading"}, "model is loading"),
    ({"detail": [{"loc": ["body", "model"], "msg": "field required"}]}, "model: field required"),
    ({"message": "model is loading"}, "model is loading"),
    ({"choices": [{"error": {"message": "model is loading"}}]}, "model is loading"),
    ({"choices": [], "error": "model is loading"}, "model is loading"),
]


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize(("body", "said"), ERRORS_IN_200)
def test_an_error_in_a_good_status_is_that_error(scripted, body, said, streams):
    scripted.always = (lambda h: h.events([body])) if streams else (lambda h: h.json(200, body))
    with pytest.raises(BackendError, match=rf"(answered with an error|broke off while answering): {said};"):
        scripted.writer().write(ASK)
    result = Enhancer(scripted.writer()).enhance(REQUEST)
    assert said in result.failure
    assert len(scripted.requests) <= (2 if streams else 4)  # nobody is asked a second question


def test_an_error_that_is_only_flagged_is_named_by_its_message(scripted):
    scripted.always = lambda h: h.json(200, {"error": True, "message": "model is loading"})
    with pytest.raises(BackendError, match="answered with an error: model is loading"):
        scripted.writer().write(ASK)


def test_an_error_in_the_list_of_models_is_that_error(scripted):
    scripted.listing = {"error": {"message": "quota is spent"}}
    with pytest.raises(BackendError, match="answered with an error: quota is spent"):
        scripted.writer(model="").write(ASK)


@pytest.mark.parametrize(
    ("models", "chosen"),
    [
        (["alpha", "beta"], "alpha"),
        (["text-embedding-nomic-embed-text-v1.5", "BAAI/bge-reranker-v2-m3", "qwen3:8b"], "qwen3:8b"),
        (["whisper-large-v3", "tts-1", "gpt-image-1", "omni-moderation-latest", "gpt-4.1"], "gpt-4.1"),
        ([{"id": "e-one", "type": "embeddings"}, {"id": "two", "type": "llm"}], "two"),
        (["my-embedder"], "my-embedder"),
    ],
)
@pytest.mark.parametrize("is_bare", [False, True])
def test_a_model_for_conversations_is_taken_where_none_is_named(scripted, models, chosen, is_bare):
    listed = [{"id": model} if isinstance(model, str) else model for model in models]
    scripted.listing = listed if is_bare else {"object": "list", "data": listed}
    scripted.writer(model="").write(ASK)
    assert scripted.requests[-1][2]["model"] == chosen


@pytest.mark.parametrize("listing", [{"object": "list", "data": []}, {"object": "list", "data": None}, []])
def test_a_server_without_models_is_named(scripted, listing):
    scripted.listing = listing
    with pytest.raises(BackendError, match=r"lists no models; name the model to use"):
        scripted.writer(model="").write(ASK)


def not_found(handler: Handler) -> None:
    handler.raw(404, "404 page not found", "text/plain")


ELSEWHERE = {
    "nothing": not_found,
    "wrong method": lambda h: h.json(405, {"detail": "Method Not Allowed"}),
    "a web page": lambda h: h.raw(200, "<!doctype html><html>Open the app</html>", "text/html"),
    "a greeting": lambda h: h.json(200, {"message": "it is running"}),
}


@pytest.mark.parametrize("model", ["scripted", ""])
@pytest.mark.parametrize("elsewhere", ELSEWHERE)
def test_a_missing_version_in_the_address_is_found_and_named(scripted, elsewhere, model):
    scripted.elsewhere = ELSEWHERE[elsewhere]
    address = scripted.url.removesuffix("/v1")
    answer = scripted.writer(base_url=address, model=model).write(ASK)
    assert answer.text == GOOD_ANSWER
    assert answer.notes == (f"the server answered under {scripted.url}; give that address",)


@pytest.mark.parametrize("model", ["scripted", ""])
@pytest.mark.parametrize("elsewhere", ELSEWHERE)
def test_a_server_of_another_kind_is_named_with_the_usual_address(scripted, elsewhere, model):
    scripted.always = scripted.elsewhere = scripted.listing = ELSEWHERE[elsewhere]
    address = scripted.url.removesuffix("/v1")
    with pytest.raises(BackendError) as caught:
        scripted.writer(base_url=address, model=model).write(ASK)
    assert str(caught.value).startswith(address)
    assert "''" not in str(caught.value)
    assert elsewhere == "a greeting" or f"most end in /v1, as {scripted.url}" in str(caught.value)


def test_an_address_with_a_version_is_asked_as_it_is(scripted):
    scripted.always = error(404, "The model `scripted` does not exist")
    with pytest.raises(BackendError, match="does not serve 'scripted'"):
        scripted.writer().write(ASK)
    assert {path for path, _, _ in scripted.requests} == {"/v1/chat/completions"}


@pytest.mark.parametrize(
    "pasted",
    [
        "/v1/",
        "/v1//",
        "/v1/chat/completions",
        "/v1/chat/completions/",
        "/v1/models",
        "/v1/completions",
        "/v1",
    ],
)
def test_an_address_pasted_with_more_than_the_root_is_cut_to_it(scripted, pasted):
    address = scripted.url.removesuffix("/v1") + pasted
    for endpoint in (
        visitor_endpoint(address, "scripted", KEY, None, is_public_page=False),
        endpoint_from_environment({"MOVA_LLM_BASE_URL": address, "MOVA_LLM_MODEL": "scripted"}),
    ):
        assert endpoint.base_url == scripted.url
        assert EndpointWriter(endpoint).write(ASK).text == GOOD_ANSWER


def test_a_key_that_is_missing_is_asked_for(scripted):
    scripted.always = error(401, "no key")
    with pytest.raises(BackendError, match="asks for a key and none was given: no key; give the key"):
        scripted.writer(api_key="").write(ASK)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "frame.png"
    Image.new("RGBA", (1800, 900), (200, 20, 20, 128)).save(path)
    return path


def test_a_text_model_given_an_image_works_from_the_words_and_says_so(scripted, picture):
    scripted.steps.append(
        error(400, "image input is not supported - hint: you may need to provide the mmproj")
    )
    request = EnhanceRequest(IDEA, image=picture, seed=1)
    result = Enhancer(scripted.writer()).enhance(request)
    assert result.route == "answer"
    assert result.notes == (WITHOUT_IMAGE,)
    assert isinstance(scripted.requests[0][2]["messages"][1]["content"], list)
    assert isinstance(scripted.requests[1][2]["messages"][1]["content"], str)


def test_a_server_that_cannot_take_the_image_in_any_way_is_named(scripted, picture):
    scripted.always = error(415, "unsupported")
    result = Enhancer(scripted.writer()).enhance(EnhanceRequest(IDEA, image=picture))
    assert "could not take the first frame" in result.failure


def test_the_image_is_sent_small_and_as_jpeg(scripted, picture):
    Enhancer(scripted.writer()).enhance(EnhanceRequest(IDEA, image=picture))
    url = scripted.requests[0][2]["messages"][1]["content"][1]["image_url"]["url"]
    assert url.startswith("data:image/jpeg;base64,/9j/")
    assert len(url) < 60_000


def test_a_describer_sees_for_a_writer_that_does_not(scripted, picture):
    scripted.steps.append(lambda h: h.answer("A photograph of a red wall with the words “NO EXIT”."))
    enhancer = Enhancer(scripted.writer(sees=False), describer=scripted.writer())
    result = enhancer.enhance(EnhanceRequest(IDEA, image=picture))
    assert result.route == "answer"
    asked = scripted.requests[-1][2]["messages"]
    assert "NO EXIT" in asked[0]["content"]
    assert isinstance(asked[1]["content"], str)


def test_cancelling_while_the_server_is_silent_is_prompt(scripted):
    scripted.always = stall
    started = time.monotonic()
    with pytest.raises(Cancelled):
        scripted.writer().write(ASK, cancelled=lambda: time.monotonic() - started > 0.3)
    assert time.monotonic() - started < 1.5


def test_the_same_question_is_asked_once(scripted, tmp_path):
    enhancer = Enhancer(scripted.writer(), cache=AnswerCache(tmp_path))
    first = enhancer.enhance(REQUEST)
    again = Enhancer(scripted.writer(), cache=AnswerCache(tmp_path)).enhance(REQUEST)
    assert again.text == first.text
    assert len(scripted.requests) == 1
    for change in ({"seed": 2}, {"temperature": 0.1}, {"idea": IDEA + " tonight"}, {"max_words": 99}):
        Enhancer(scripted.writer(), cache=AnswerCache(tmp_path)).enhance(
            EnhanceRequest(**{"idea": IDEA, "seed": 1, **change})
        )
    Enhancer(scripted.writer(model="other"), cache=AnswerCache(tmp_path)).enhance(REQUEST)
    assert len(scripted.requests) == 6


def test_a_damaged_cache_file_is_no_answer(scripted, tmp_path):
    cache = AnswerCache(tmp_path)
    Enhancer(scripted.writer(), cache=cache).enhance(REQUEST)
    for path in tmp_path.rglob("*.json"):
        path.write_text('{"text": 3')
    assert Enhancer(scripted.writer(), cache=AnswerCache(tmp_path)).enhance(REQUEST).route == "answer"
    assert len(scripted.requests) == 2


def test_keys_are_nowhere_but_in_the_header(scripted, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    enhancer = Enhancer(scripted.writer(), cache=AnswerCache(tmp_path))
    result = enhancer.enhance(REQUEST)
    scripted.always = error(401, f"bad key {KEY}")
    failed = enhancer.enhance(EnhanceRequest(IDEA, seed=2))
    assert scripted.requests[0][1]["authorization"] == f"Bearer {KEY}"
    shown = [caplog.text, repr(enhancer), str(result.to_json()), repr(failed), repr(scripted.endpoint())]
    shown += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(shown) == 6
    assert not any(KEY in text or KEY[3:] in text for text in shown)
    assert KEY.encode() not in pickle.dumps(result)


def test_the_environment_of_another_service_is_not_sent(scripted, monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-private")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-private")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-private")
    scripted.writer(api_key="").write(ASK)
    assert "private" not in str(scripted.requests[0][1])


def test_candidates_differ_by_seed_and_end_when_the_server_fails(scripted):
    texts = [GOOD_ANSWER.replace("grey", colour) for colour in ("blue", "pale")]
    scripted.steps.extend([lambda h, t=text: h.answer(t) for text in texts])
    scripted.steps.append(error(401, "no"))
    results = list(Enhancer(scripted.writer()).candidates(EnhanceRequest(IDEA, seed=5), 8))
    assert [result.route for result in results] == ["answer", "answer", "template"]
    assert [result.seed for result in results] == [5, 6, 7]
    assert [body["seed"] for _, _, body in scripted.requests] == [5, 6, 7]

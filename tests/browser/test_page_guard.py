"""The page against strangers: made-up addresses and names, endpoints by number, foreign frames, paths."""

import base64
import hashlib
import json
import re
import time
import urllib.error
import urllib.request

import itsdangerous
import pytest

from tests.browser.page import ROOT, Demo, serving

LOGIN = {
    "OAUTH_CLIENT_ID": "x",
    "OAUTH_CLIENT_SECRET": "s",
    "OAUTH_SCOPES": "openid profile",
    "OPENID_PROVIDER_URL": "https://huggingface.co",
}


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """A page for strangers that is behind no proxy."""
    with serving(tmp_path_factory.mktemp("public"), MOVA_PUBLIC="1") as server:
        yield server


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """A Space of a GPU of its own, which the platform's proxy stands in front of."""
    named = {"SYSTEM": "spaces", "SPACE_ID": "anna/mova", "SPACE_HOST": "anna-mova.hf.space"}
    with serving(tmp_path_factory.mktemp("space"), **named, **LOGIN) as server:
        yield server


def ask(url, data=None, **headers):
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"} | headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def call(server, name, data, **headers):
    """All that a call of an endpoint streams back."""
    status, _, text = ask(f"{server.url}/gradio_api/call/{name}", {"data": data}, **headers)
    assert status == 200, text
    event = json.loads(text)["event_id"]
    return ask(f"{server.url}/gradio_api/call/{name}/{event}", **headers)[2]


def written(server, forwarded):
    """How many of ten calls write a prompt; `forwarded` makes up the n-th call's X-Forwarded-For."""
    idea = ["a ball bounces", 4.0]
    texts = [call(server, "enhance", idea, **{"X-Forwarded-For": forwarded(n)}) for n in range(10)]
    return sum("event: complete" in text for text in texts)


def test_without_a_proxy_a_made_up_address_does_not_get_around_the_limit(public):
    assert written(public, lambda n: f"203.0.113.{n}, 198.51.100.{n}") == 6
    assert written(public, lambda n: f"203.0.113.{n}") == 0


def test_on_a_space_the_hop_that_the_proxy_adds_counts_and_nothing_before_it(space):
    assert written(space, lambda n: f"203.0.113.{n}, 198.51.100.1, 10.0.0.7") == 6
    assert written(space, lambda n: f"203.0.113.{n}, 198.51.100.2, 10.0.0.8") == 6


@pytest.mark.parametrize("route", ["queue/join", "run/predict", "api/predict", "call/generate"])
def test_a_private_endpoint_answers_nothing_when_it_is_called_by_number(public, route):
    endpoints = json.loads(ask(f"{public.url}/config")[2])["dependencies"]
    private = [each["id"] for each in endpoints if each["api_visibility"] != "public"]
    assert len(private) > 20
    for number in (*private, -1, "0", 10_000):
        asked = {"data": [None] * 40, "fn_index": number, "session_hash": "x"}
        for headers in ({}, {"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            status, _, text = ask(f"{public.url}/gradio_api/{route}", asked, **headers)
            assert status == 404, (number, text)
            assert text == '{"detail":"there is no such endpoint; see /?view=api"}'


@pytest.mark.parametrize("name", ["greet", "make", "watch", "describe", "write", "test"])
def test_a_private_endpoint_answers_nothing_when_it_is_called_by_name(public, name):
    for route in ("call", "call/v2", "run", "api"):
        assert ask(f"{public.url}/gradio_api/{route}/{name}", {"data": [None]})[0] == 404


def test_a_public_endpoint_may_be_called_by_number_too(public):
    endpoints = json.loads(ask(f"{public.url}/config")[2])["dependencies"]
    (number,) = (each["id"] for each in endpoints if each["api_name"] == "estimate")
    asked = {"data": ["quick", None, None], "fn_index": number, "session_hash": "y"}
    assert ask(f"{public.url}/gradio_api/queue/join", asked)[0] == 200


def test_every_answer_forbids_guessed_types_foreign_referrers_and_foreign_frames(public, space):
    for path in ("/", "/config", "/gradio_api/info", "/gradio_api/file=/etc/passwd"):
        for server, frames in (
            (public, "'self'"),
            (space, "'self' https://huggingface.co https://*.hf.space"),
        ):
            headers = ask(f"{server.url}{path}")[1]
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "same-origin"
            assert headers["Content-Security-Policy"] == f"frame-ancestors {frames}"
            assert headers["X-Frame-Options"] is None  # it cannot name huggingface.co


def test_no_answer_of_an_endpoint_names_a_path_of_this_machine(server):
    """gradio's own description of the clip file aside, which is a link for programs."""
    prompt = 'A man says, "Yes." The audio shows a voice.'
    clip = [prompt, None, "quick", "wide", 0.4, 1, 3, 5, 1, None, ""]
    calls = {
        "enhance": [["a ball bounces", 4.0]],
        "estimate": [["quick", None, None]],
        "generate": [clip, [*clip[:10], "nothing"]],
    }
    for name, requests in calls.items():
        for data in requests:
            text = call(server, name, data)
            shown = re.sub(r'\{"path": .*?"gradio.FileData"\}\}', "", text)
            assert str(ROOT) not in shown and str(server.outputs) not in shown, shown
            assert "checkpoint" in shown or name == "enhance"


def signed_in(name, secret):
    """The cookie that gradio gives to who signed in, with the secret of the Space."""
    profile = {"sub": "1", "name": name, "preferred_username": name, "profile": "", "picture": ""}
    info = {"access_token": "hf_x", "scope": "openid", "expires_at": time.time() + 600, "userinfo": profile}
    key = hashlib.sha256(f"{secret}-v4".encode()).hexdigest()
    session = base64.b64encode(json.dumps({"oauth_info": info}).encode())
    return itsdangerous.TimestampSigner(key).sign(session).decode()


def test_a_space_of_its_own_gpu_lets_its_owner_alone_in(chromium, space):
    visit = Demo(chromium, space.url)
    page = visit.page
    for name in ("", "anna", "bert"):
        if name:
            cookie = {"name": "session", "value": signed_in(name, "s"), "url": space.url}
            visit.context.add_cookies([cookie])
            visit.open()
        sign_in = page.get_by_text("Sign in with Hugging Face")
        assert not sign_in.is_visible()  # clips are made without
        page.get_by_role("tab", name="Train").click()
        if not name:
            sign_in.wait_for()
        elif name == "anna":
            page.locator("#train-start").wait_for()
        else:
            page.get_by_text("This Space's GPU trains for anna alone").wait_for()
            assert page.locator("#train-start").count() == 0
    visit.close()

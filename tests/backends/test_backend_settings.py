import pytest

from mova.backends.settings import RemoteServer, remote_from_environment, remote_from_option
from mova.errors import UserError

KEY = "sk-secret-0123456789abcdef"
URL = "http://gpu:30002"


@pytest.mark.parametrize(
    ("environ", "remote"),
    [
        ({}, None),
        ({"MOVA_BACKEND": ""}, None),
        ({"MOVA_BACKEND": "local", "MOVA_REMOTE_URL": URL}, None),
        ({"MOVA_REMOTE_URL": URL}, None),
        ({"MOVA_BACKEND": "remote", "MOVA_REMOTE_URL": URL}, RemoteServer(URL)),
        ({"MOVA_BACKEND": " remote ", "MOVA_REMOTE_URL": f" {URL}/ "}, RemoteServer(URL)),
        ({"MOVA_BACKEND": "remote", "MOVA_REMOTE_URL": f"{URL}/v1/"}, RemoteServer(URL)),
        ({"MOVA_BACKEND": "remote", "MOVA_REMOTE_URL": f"{URL}/mova/v1"}, RemoteServer(f"{URL}/mova")),
        (
            {"MOVA_BACKEND": "remote", "MOVA_REMOTE_URL": URL, "MOVA_REMOTE_API_KEY": f"{KEY}\n"},
            RemoteServer(URL, KEY),
        ),
    ],
)
def test_the_environment_chooses_the_server(environ, remote):
    assert remote_from_environment(environ) == remote


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"MOVA_BACKEND": "cloud"}, "MOVA_BACKEND='cloud' is not known; give local or remote"),
        (
            {"MOVA_BACKEND": "remote"},
            "needs the server's address in MOVA_REMOTE_URL, such as http://localhost",
        ),
        ({"MOVA_BACKEND": "remote", "MOVA_REMOTE_URL": "gpu:30002"}, "is not a server address"),
        ({"MOVA_BACKEND": "remote", "MOVA_REMOTE_URL": "ftp://gpu"}, "is not a server address"),
        (
            {"MOVA_BACKEND": "remote", "MOVA_REMOTE_URL": "http://me:pw@gpu"},
            "http://gpu was given with a name",
        ),
        ({"MOVA_BACKEND": "remote", "MOVA_REMOTE_URL": f"{URL}?key=pw"}, "gpu:30002 was given with a name"),
        (
            {"MOVA_BACKEND": "remote", "MOVA_REMOTE_URL": URL, "MOVA_REMOTE_API_KEY": "sk-a\nX-Other: b"},
            "the key for http://gpu:30002 holds characters that no key has",
        ),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused_without_its_secrets(environ, sentence):
    with pytest.raises(UserError, match=sentence.replace("?", r"\?")) as caught:
        remote_from_environment(environ)
    assert "pw" not in str(caught.value)
    assert "sk-a" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "environ", "key"),
    [
        (None, {}, ""),
        (None, {"MOVA_REMOTE_API_KEY": KEY}, KEY),
        (None, {"MOVA_REMOTE_API_KEY": KEY, "MOVA_REMOTE_URL": f"{URL}/v1"}, KEY),
        (None, {"MOVA_REMOTE_API_KEY": KEY, "MOVA_REMOTE_URL": "http://other:30002"}, ""),
        ("MINE", {"MOVA_REMOTE_API_KEY": KEY, "MINE": "sk-mine"}, "sk-mine"),
    ],
)
def test_a_key_goes_only_to_the_server_it_was_set_for(variable, environ, key):
    assert remote_from_option(URL, variable, environ) == RemoteServer(URL, key)


def test_a_key_variable_that_is_empty_is_refused():
    with pytest.raises(UserError, match="the environment variable MINE is empty"):
        remote_from_option(URL, "MINE", {"MOVA_REMOTE_API_KEY": KEY})


def test_the_key_is_not_shown():
    assert KEY not in repr(RemoteServer(URL, KEY))

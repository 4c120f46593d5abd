"""Addresses that a stranger may not make a public page call."""

import pytest

from mova.errors import BackendError, UserError
from mova.net import PublicAddress, check_public, check_url, is_public, redacted_url
from mova.openai_client import Endpoint, call, endpoint_from_environment, visitor_endpoint
from mova.prompting.endpoint import EndpointWriter
from mova.prompting.writers import WriterRequest
from tests.prompting.chat_server import GOOD_ANSWER

PUBLIC_IP = "93.184.216.34"
ASK = WriterRequest((("user", "a boat"),), max_tokens=16)


def to(*ips: str):
    """A name service that knows one answer."""
    return lambda _host, _port: list(ips)


HOSTILE_URLS = [
    "http://api.example.com/v1",
    "ftp://api.example.com/v1",
    "file:///etc/passwd",
    "https://localhost/v1",
    "https://127.0.0.1/v1",
    "https://127.1/v1",
    "https://2130706433/v1",
    "https://0x7f000001/v1",
    "https://0x7f.0.0.1/v1",
    "https://0177.0.0.1/v1",
    "https://017700000001/v1",
    "https://169.254.169.254/latest/meta-data",
    "https://[::1]/v1",
    "https://[::ffff:127.0.0.1]/v1",
    "https://[fe80::1%25eth0]/v1",
    "https://[64:ff9b::7f00:1]/v1",
    "https://metadata.google.internal/computeMetadata",
    "https://printer.local/v1",
    "https://user:password@api.example.com/v1",
    "https://user@api.example.com/v1",
    "https://api.example.com@127.0.0.1/v1",
    "https://api.example.com\\@127.0.0.1/v1",
    "https://api.example.com:22/v1",
    "https://api.example.com/v1?x=1",
    "https://api.example.com/v1#x",
    "https://api.exa mple.com/v1",
    "https://api.example.com\r\nHost: 127.0.0.1/v1",
    "https://",
    "//api.example.com/v1",
    "api.example.com",
    "",
    "https://①②⑦.⓪.⓪.①/v1",
    "https://127。0。0。1/v1",
]


@pytest.mark.parametrize("url", HOSTILE_URLS)
def test_hostile_addresses_are_refused_with_a_sentence(url):
    with pytest.raises(UserError, match=r"\w+ \w+ \w+") as caught:
        check_public(url, to(PUBLIC_IP))
    assert "password" not in str(caught.value).replace("name or password", "")


@pytest.mark.parametrize(
    "ip",
    [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.5.4",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "192.0.0.10",
        "198.18.0.1",
        "240.0.0.1",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:93.184.216.34",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2001:0:7f00:1::",
        "no ip",
    ],
)
def test_names_that_lead_to_such_addresses_are_refused(ip):
    assert not is_public(ip)
    for answer in ([ip], [PUBLIC_IP, ip]):
        with pytest.raises(UserError, match="not public"):
            check_public("https://api.example.com/v1", to(*answer))


def test_public_addresses_are_allowed():
    assert is_public(PUBLIC_IP)
    assert is_public("2606:2800:220:1:248:1893:25c8:1946")
    address = check_public("https://api.example.com:8443/v1/", to(PUBLIC_IP))
    assert address == PublicAddress("https://api.example.com:8443/v1", "api.example.com", 8443, PUBLIC_IP)


def test_unknown_hosts_are_refused():
    def fails(_host: str, _port: int) -> list[str]:
        raise OSError

    with pytest.raises(UserError, match="not known to the name service"):
        check_public("https://api.example.com/v1", fails)
    with pytest.raises(UserError, match="not public"):
        check_public("https://api.example.com/v1", to())


def test_at_home_any_server_may_be_called(scripted):
    for url in ("http://localhost:8000/v1", "http://192.168.1.4:11434/v1/", "https://[::1]:8000/v1"):
        assert check_url(url) == url.rstrip("/")
        assert visitor_endpoint(url, "m", "", None, is_public_page=False).pinned is None
    assert (
        EndpointWriter(visitor_endpoint(scripted.url, "m", "", None, is_public_page=False)).write(ASK).text
        == GOOD_ANSWER
    )
    for url in ("localhost:8000", "ftp://a/v1", "http://", "nonsense"):
        with pytest.raises(UserError, match=r"not a server address|not an address"):
            check_url(url)


def test_the_checked_address_is_called_whatever_the_name_says_later(scripted):
    """The name is asked once; the connection goes to the address it gave then."""
    answers = [[PUBLIC_IP], ["127.0.0.1"]]
    asked: list[str] = []

    def changing(host: str, _port: int) -> list[str]:
        asked.append(host)
        return answers.pop(0)

    endpoint = visitor_endpoint("https://rebind.example.com/v1", "m", "key", None, True, changing)
    assert endpoint.pinned.ip == PUBLIC_IP
    pinned = PublicAddress("", "rebind.example.com", scripted.server_port, "127.0.0.1")
    url = f"http://rebind.example.com:{scripted.server_port}/v1"
    EndpointWriter(Endpoint(url, "m", "key", pinned=pinned)).write(ASK)
    assert scripted.requests[0][1]["host"] == f"rebind.example.com:{scripted.server_port}"
    assert asked == ["rebind.example.com"]


def pinned_writer(scripted) -> EndpointWriter:
    address = PublicAddress("", "api.example.com", scripted.server_port, "127.0.0.1")
    return EndpointWriter(
        Endpoint(f"http://api.example.com:{scripted.server_port}/v1", "m", "key", pinned=address)
    )


def test_redirects_are_not_followed(scripted):
    scripted.always = lambda h: h.json(307, {}, location=f"{scripted.url}/elsewhere")
    with pytest.raises(BackendError, match="redirects elsewhere"):
        pinned_writer(scripted).write(ASK)
    assert len(scripted.requests) == 1


def test_another_host_is_not_reached_through_a_pinned_client(scripted):
    address = PublicAddress("", "api.example.com", scripted.server_port, "127.0.0.1")
    with pytest.raises(BackendError):
        EndpointWriter(Endpoint(scripted.url, "m", "key", pinned=address)).write(ASK)
    assert scripted.requests == []


def test_answers_without_end_are_cut(scripted):
    scripted.text = "word " * 2_000_000
    with pytest.raises(BackendError, match="more than an answer may have"):
        call(
            pinned_writer(scripted).endpoint,
            lambda client, *_: client.chat.completions.create(model="m", messages=[]),
        )


def test_compressed_answers_are_refused(scripted):
    scripted.always = lambda h: h.json(200, {}, content_encoding="gzip")
    with pytest.raises(BackendError, match="more than an answer may have"):
        pinned_writer(scripted).write(ASK)


CONFIGURED = Endpoint("http://inside:8000/v1", "house-model", "house-key")


def test_the_configured_key_goes_to_the_configured_address_alone():
    same = visitor_endpoint("http://inside:8000/v1/", "their-model", "", CONFIGURED, is_public_page=True)
    assert (same.api_key, same.model, same.pinned) == ("house-key", "house-model", None)
    other = visitor_endpoint("https://api.example.com/v1", "m", "mine", CONFIGURED, True, to(PUBLIC_IP))
    assert (other.api_key, other.pinned.ip) == ("mine", PUBLIC_IP)
    local = visitor_endpoint("http://localhost:1/v1", "m", "", CONFIGURED, is_public_page=False)
    assert local.api_key == ""
    with pytest.raises(UserError, match="needs a key of your own"):
        visitor_endpoint("https://api.example.com/v1", "m", "", CONFIGURED, True, to(PUBLIC_IP))
    with pytest.raises(UserError, match="no server is configured"):
        visitor_endpoint("", "m", "", None, is_public_page=True)


def test_settings_from_the_environment_are_not_mixed():
    both = {"MOVA_LLM_BASE_URL": "http://a/v1/", "OPENAI_API_KEY": "theirs", "OPENAI_MODEL": "gpt"}
    endpoint = endpoint_from_environment(both)
    assert (endpoint.base_url, endpoint.api_key, endpoint.model) == ("http://a/v1", "", "")
    openai = endpoint_from_environment({"OPENAI_API_KEY": "theirs", "OPENAI_MODEL": "gpt"})
    assert (openai.base_url, openai.api_key) == ("https://api.openai.com/v1", "theirs")
    assert endpoint_from_environment({"OPENAI_API_KEY": "theirs"}) is None
    assert endpoint_from_environment({}) is None
    picture = endpoint_from_environment({"MOVA_IMAGE_BASE_URL": "http://b/v1"}, "IMAGE")
    assert picture.base_url == "http://b/v1"


def test_what_is_shown_of_an_address_holds_no_secret():
    assert redacted_url("https://me:secret@host/v1?token=abc#x") == "https://host/v1"
    assert "secret" not in repr(Endpoint("https://me:secret@host/v1", "m", "k"))
    with pytest.raises(BackendError) as caught:
        EndpointWriter(Endpoint("http://me:secret@127.0.0.1:9/v1", "m")).write(ASK)
    assert "secret" not in str(caught.value)

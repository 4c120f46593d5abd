"""A scripted server for faults, and what tests of servers have in common."""

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from mova.openai_client import Endpoint
from mova.prompting.endpoint import EndpointWriter

GOOD_FIELDS = {
    "first_frame": "A fisherman in a yellow coat leans on the rail of a small boat in grey morning light.",
    "progression": "Drops dot his sleeves. He lifts his face to the sky and turns to the wheelhouse.",
    "dialogue": [{"speaker": "The fisherman", "verb": "says", "words": "<Q1>"}],
    "audio": "The audio shows small waves slapping the hull and the first taps of rain; his voice is low.",
}
GOOD_ANSWER = json.dumps(GOOD_FIELDS)
GOOD_PROMPT = (
    f"{GOOD_FIELDS['first_frame']}\n\n{GOOD_FIELDS['progression']}\n\n"
    f'The fisherman says, "Here it comes."\n\n{GOOD_FIELDS["audio"]} This video has no subtitles.'
)
IDEA = 'a fisherman on a boat says "Here it comes." as rain starts'
KEY = "sk-secret-0123456789abcdef"
Step = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers chat completions with `server.text`, after the steps that the test has put in line."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", 0))
        self.body = json.loads(self.rfile.read(length) or b"{}")
        self.server.requests.append((self.path, self.sent_headers(), self.body))
        if not self.path.startswith("/v1/"):
            return self.server.elsewhere(self)
        step = self.server.steps.popleft() if self.server.steps else self.server.always
        if step:
            step(self)
        else:
            self.answer(self.server.text)
        return None

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.sent_headers(), {}))
        if not self.path.startswith("/v1/"):
            self.server.elsewhere(self)
        elif callable(self.server.listing):
            self.server.listing(self)
        else:
            self.json(200, self.server.listing)

    def sent_headers(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers.items()}

    def answer(self, text: str, finish: str = "stop") -> None:
        if self.body.get("stream"):
            half = len(text) // 2
            self.events([*[chunk(part) for part in (text[:half], text[half:])], chunk("", finish)])
        else:
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
            self.json(200, {"id": "1", "object": "chat.completion", "model": "scripted", "choices": [choice]})

    def events(self, events: list[dict], done: bool = True) -> None:
        lines = [f"data: {json.dumps(event)}\n\n" for event in events]
        self.raw(200, "".join([*lines, "data: [DONE]\n\n" if done else ""]), "text/event-stream")

    def json(self, status: int, body: object, **headers: str) -> None:
        self.raw(status, json.dumps(body), "application/json", **headers)

    def raw(self, status: int, body: str, kind: str, **headers: str) -> None:
        data = body.encode("utf-8", "surrogatepass")
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def chunk(text: str, finish: str | None = None) -> dict:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return {"id": "1", "object": "chat.completion.chunk", "model": "scripted", "choices": [choice]}


def error(status: int, message: str, **headers: str) -> Step:
    return lambda handler: handler.json(status, {"error": {"message": message, "type": "x"}}, **headers)


class ScriptedServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reset()

    def reset(self) -> None:
        self.requests: list[tuple[str, dict, dict]] = []
        self.steps: deque[Step] = deque()
        self.always: Step | None = None
        self.text = GOOD_ANSWER
        self.listing: object = {"object": "list", "data": [{"id": "scripted"}]}
        self.elsewhere: Step = error(404, "no such path")  # outside /v1

    def handle_error(self, *_: object) -> None:
        pass  # clients that hang up are part of the tests

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def endpoint(self, **fields: object) -> Endpoint:
        return Endpoint(
            **{"base_url": self.url, "model": "scripted", "api_key": KEY, "timeout": 5.0} | fields
        )

    def writer(self, **fields: object) -> EndpointWriter:
        return EndpointWriter(self.endpoint(**fields))


@dataclass(frozen=True)
class RealServer:
    """A server to test against; `is_ours` if its text model has learnt GOOD_ANSWER by heart."""

    base_url: str
    text_model: str
    seeing_model: str
    api_key: str = ""
    is_ours: bool = True

    def endpoint(self, **fields: object) -> Endpoint:
        known = {"base_url": self.base_url, "model": self.text_model, "api_key": self.api_key}
        return Endpoint(**known | fields)

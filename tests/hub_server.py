"""A Hub small enough to read: one repo of local files behind the endpoints that huggingface_hub asks."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

TOKEN = "hf_of_me"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves `folder` as org/tiny; org/gated is gated, others do not exist. `served` counts bytes by file.

    With the token TOKEN repos of "me" can be made and written; what was is in `made` and `commits`.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.served: dict[str, int] = {}
        self.made: dict[str, dict] = {}  # what was asked for, by repo
        self.commits: list[tuple[str, dict[str, bytes]]] = []  # repo and files

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self) -> dict[str, Path]:
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path for path in paths}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        path = path.replace("/api/datasets/", "/api/models/").removeprefix("/datasets")
        repo = "/".join(path.removeprefix("/api/models").split("/")[1:3])
        if repo != "org/tiny":
            gated = repo == "org/gated"
            self.answer(403 if gated else 404, error="GatedRepo" if gated else "RepoNotFound")
        elif path.startswith("/api/models/org/tiny/tree/"):
            entries = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": digest(file)}
                for name, file in self.server.files().items()
            ]
            self.answer(200, json.dumps(entries).encode())
        elif path.startswith("/api/models/org/tiny"):
            siblings = [{"rfilename": name} for name in self.server.files()]
            info = {"_id": "1", "id": "org/tiny", "sha": COMMIT, "siblings": siblings}
            self.answer(200, json.dumps(info).encode())
        else:
            self.send_file(path.split("/", 5)[5])

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        parts = self.path.strip("/").split("/")
        if self.path == "/api/validate-yaml":
            self.answer(200, json.dumps({"errors": [], "warnings": []}).encode())
        elif self.headers.get("authorization") != f"Bearer {TOKEN}":
            self.answer(401)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization', 'me')}/{asked['name']}"
            if not repo.startswith("me/"):
                self.answer(403)
            else:
                taken = repo in self.server.made
                self.server.made.setdefault(repo, asked)
                body = {"url": f"{self.server.url}/{repo}", "name": repo}
                self.answer(409 if taken else 200, json.dumps(body).encode())
        elif parts[4] == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            self.answer(200, json.dumps({"files": files}).encode())
        else:
            repo = "/".join(parts[2:4])
            lines = [json.loads(line) for line in body.splitlines()]
            files = [line["value"] for line in lines if line["key"] == "file"]
            self.server.commits.append((repo, {f["path"]: base64.b64decode(f["content"]) for f in files}))
            url = f"{self.server.url}/{repo}/commit/{COMMIT}"
            self.answer(200, json.dumps({"commitUrl": url, "commitOid": COMMIT}).encode())

    def send_file(self, name: str) -> None:
        file = self.server.files().get(name)
        if file is None:
            self.answer(404, error="EntryNotFound")
            return
        content = file.read_bytes()
        headers = {"ETag": f'"{digest(file)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content = content[start : end + 1]
        sent = self.answer(206 if asked else 200, content, headers)
        self.server.served[name] = self.server.served.get(name, 0) + sent

    def answer(self, status: int, body: bytes = b"", headers: dict | None = None, error: str = "") -> int:
        """Send a response; the number of bytes of its body that went out."""
        self.send_response(status)
        extra = {"X-Error-Code": error} if error else {}
        for key, value in ((headers or {}) | extra | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return 0
        self.wfile.write(body)
        return len(body)

    def log_message(self, *_: object) -> None:
        pass


def digest(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@contextmanager
def running_hub(folder: Path):
    with Hub(folder) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()

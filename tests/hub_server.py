"""A Hub small enough to read: repos and jobs behind the endpoints that huggingface_hub asks."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote

TOKEN = "hf_of_me"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

ACCELERATOR = {"type": "gpu", "quantity": "1", "manufacturer": "Nvidia"}
PRICE = {
    "unitCostMicroUSD": 83333,
    "unitCostUSD": 0.083333,
    "unitLabel": "minute",
    "ephemeralStorage": "3 TB",
}
HARDWARE = [
    {"name": "h200", "prettyName": "Nvidia H200", "cpu": "23 vCPU", "ram": "256 GB", **PRICE}
    | {"accelerator": ACCELERATOR | {"model": "H200", "vram": "141 GB"}},
    {"name": "h200x8", "prettyName": "8x Nvidia H200", "cpu": "184 vCPU", "ram": "2 TB", **PRICE}
    | {"accelerator": ACCELERATOR | {"model": "H200", "vram": "1128 GB", "quantity": "8"}},
    {"name": "cpu-upgrade", "prettyName": "CPU Upgrade", "cpu": "8 vCPU", "ram": "32 GB", **PRICE}
    | {"unitCostUSD": 0.0005, "ephemeralStorage": "N/A"},
    {"name": "inf2", "prettyName": "Inferentia", "cpu": "4 vCPU", "ram": "16 GB", **PRICE}
    | {"accelerator": ACCELERATOR | {"model": "Inf2", "vram": "32 GB", "manufacturer": "AWS"}},
]


class Hub(ThreadingHTTPServer):
    """Serves `folder` as org/tiny; org/gated is gated, others do not exist. `served` counts bytes by file.

    With the token TOKEN repos of "me" can be made, written and read, and jobs started, which nobody runs
    here. What was asked for is in `made`, `commits` and `jobs`, files are in `repos`. `refusals` are statuses
    to give to requests by the beginning of method and path.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.forget()

    def forget(self) -> None:
        """Be as new."""
        self.served: dict[str, int] = {}
        self.made: dict[str, dict] = {}  # what was asked for, by repo
        self.commits: list[tuple[str, dict[str, bytes]]] = []  # repo and files
        self.repos: dict[str, dict[str, bytes]] = {}  # files by repo
        self.past: dict[tuple[str, str], dict[str, bytes]] = {}  # files as they were, by repo and commit
        self.changing = threading.Lock()  # held while a repo passes from one commit to the next
        self.jobs: list[dict] = []  # as they were asked for, and what the server says of them
        self.hardware = HARDWARE
        self.refusals: dict[str, int] = {}
        self.paths: list[str] = []  # all that was asked for

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, repo: str = "org/tiny") -> dict[str, bytes]:
        if repo != "org/tiny":
            return self.repos[repo]
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in paths}

    def state(self, repo: str) -> str:
        """The commit that a repo is at."""
        count = sum(name == repo for name, _ in self.commits)
        return hashlib.sha1(f"{repo} {count}".encode()).hexdigest() if count else COMMIT


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        if self.is_refused():
            return
        path = unquote(self.path.partition("?")[0])
        if path.startswith("/api/jobs/"):
            self.answer_about_jobs(path.split("/")[3:])
            return
        for kind in ("datasets", "spaces"):
            path = path.replace(f"/api/{kind}/", "/api/models/").removeprefix(f"/{kind}")
        repo = "/".join(path.removeprefix("/api/models").split("/")[1:3])
        known = repo == "org/tiny" or repo in self.server.repos
        if not known or (repo.startswith("me/") and not self.is_signed_in):
            gated = repo == "org/gated"
            self.answer(403 if gated else 404, error="GatedRepo" if gated else "RepoNotFound")
        elif path.startswith(f"/api/models/{repo}/tree/"):
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": digest(content)}
                for name, content in self.server.files(repo).items()
            ]
            self.answer(200, json.dumps(entries).encode())
        elif path.startswith(f"/api/models/{repo}"):
            with self.server.changing:
                files, sha = dict(self.server.files(repo)), self.server.state(repo)
            siblings = [{"rfilename": name, "size": len(c)} for name, c in files.items()]
            info = {"_id": "1", "id": repo, "sha": sha, "siblings": siblings}
            self.answer(200, json.dumps(info).encode())
        else:
            self.send_file(repo, *path.split("/", 5)[4:])

    do_HEAD = do_GET  # noqa: N815

    @property
    def is_signed_in(self) -> bool:
        return self.headers.get("authorization") == f"Bearer {TOKEN}"

    def is_refused(self) -> bool:
        """Whether a refusal was asked for, and given."""
        asked = f"{self.command} {self.path}"
        self.server.paths.append(asked)
        status = next((s for start, s in self.server.refusals.items() if asked.startswith(start)), 0)
        if status:
            self.answer(status)
        return bool(status)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        parts = self.path.strip("/").split("/")
        if self.is_refused():
            return
        if self.path == "/api/validate-yaml":
            self.answer(200, json.dumps({"errors": [], "warnings": []}).encode())
        elif not self.is_signed_in:
            self.answer(401)
        elif parts[1] == "jobs":
            self.change_jobs(parts[2:], json.loads(body or b"{}"))
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization', 'me')}/{asked['name']}"
            if not repo.startswith("me/"):
                self.answer(403)
            else:
                taken = repo in self.server.made
                self.server.made.setdefault(repo, asked)
                self.server.repos.setdefault(repo, {})
                body = {"url": f"{self.server.url}/{repo}", "name": repo}
                self.answer(409 if taken else 200, json.dumps(body).encode())
        elif parts[4] == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            self.answer(200, json.dumps({"files": files}).encode())
        else:
            self.commit("/".join(parts[2:4]), [json.loads(line) for line in body.splitlines()])

    do_PUT = do_POST  # noqa: N815

    def commit(self, repo: str, lines: list[dict]) -> None:
        held = self.server.repos.setdefault(repo, {})
        files = [line["value"] for line in lines if line["key"] == "file"]
        added = {file["path"]: base64.b64decode(file["content"]) for file in files}
        with self.server.changing:
            self.server.past[repo, self.server.state(repo)] = dict(held)
            for line in lines:
                path = line["value"].get("path", "")
                if line["key"] == "deletedFile":
                    del held[path]
                elif line["key"] == "deletedFolder":
                    for name in [name for name in held if name.startswith(path)]:
                        del held[name]
            held |= added
            self.server.commits.append((repo, added))
            state = self.server.state(repo)
        url = f"{self.server.url}/{repo}/commit/{state}"
        self.answer(200, json.dumps({"commitUrl": url, "commitOid": state}).encode())

    def answer_about_jobs(self, parts: list[str]) -> None:
        if parts == ["hardware"]:
            self.answer(200, json.dumps(self.server.hardware).encode())
        elif not self.is_signed_in:
            self.answer(401)
        elif len(parts) == 1:
            query = parse_qs(self.path.partition("?")[2])
            wanted = dict(label.split("=", 1) for label in query.get("label", []))
            told = [job["told"] for job in self.server.jobs]
            stages = query.get("stage", [job["status"]["stage"] for job in told])
            found = [job for job in told if wanted.items() <= job["labels"].items()]
            found = [job for job in found if job["status"]["stage"] in stages]
            self.answer(200, json.dumps(found[::-1]).encode())
        elif job := self.find_job(parts[1]):
            told = json.dumps(job["told"])
            if parts[2:] == ["logs"]:
                line = {"data": "the machine burst", "timestamp": "2026-01-01T00:00:00.000Z"}
                told = f"data: {json.dumps(line)}\n\n"
            self.answer(200, told.encode())
        else:
            self.answer(404)

    def change_jobs(self, parts: list[str], asked: dict) -> None:
        if len(parts) == 1:
            told = {
                "id": f"{len(self.server.jobs):024x}",
                "createdAt": "2026-01-01T00:00:00.000Z",
                "owner": {"id": "1", "name": parts[0], "type": "user"},
                "status": {"stage": "SCHEDULING", "message": None},
                "secrets": list(asked.get("secrets", {})),
                "durations": {"schedulingSecs": 0, "runningSecs": None, "totalSecs": 0},
            }
            told |= {key: asked.get(key) for key in ("command", "dockerImage", "flavor", "labels")}
            self.server.jobs.append({"asked": asked, "told": told})
        else:
            job = self.find_job(parts[1])
            if job is None:
                self.answer(404)
                return
            told = job["told"]
            if parts[2] == "cancel":
                told["status"] = {"stage": "CANCELED", "message": None}
            else:
                told["labels"] = asked["labels"]
        self.answer(200, json.dumps(told).encode())

    def find_job(self, job_id: str) -> dict | None:
        return next((job for job in self.server.jobs if job["told"]["id"] == job_id), None)

    def send_file(self, repo: str, revision: str, name: str) -> None:
        with self.server.changing:
            is_past = (repo, revision) in self.server.past
            files = self.server.past[repo, revision] if is_past else self.server.files(repo)
            content, state = files.get(name), revision if is_past else self.server.state(repo)
        if content is None:
            self.answer(404, error="EntryNotFound")
            return
        headers = {"ETag": f'"{digest(content)}"', "X-Repo-Commit": state, "Accept-Ranges": "bytes"}
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


def digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


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

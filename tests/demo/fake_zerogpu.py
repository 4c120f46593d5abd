"""A stand-in for ZeroGPU's device API on the loopback, and the page run against it in a process of its own.

`python fake_zerogpu.py OUT` writes what happened as JSON to OUT. torch is hidden while the page is imported,
as its CPU build cannot be patched by `spaces`, and found again in the forked worker, where the model runs.
"""

import json
import multiprocessing
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

GRANT = {"idle": True, "nvidiaIndex": 0, "nvidiaUUID": "GPU-x", "allowToken": "token"}
DENIALS = {"quota": {"left": 10, "wait": 3600}, "illegal": {"left": 10, "wait": -1}}


class DeviceApi(BaseHTTPRequestHandler):
    mode = "ok"
    calls: list = []  # noqa: RUF012 - one list for the whole server

    def do_POST(self):
        url = urlparse(self.path)
        DeviceApi.calls.append((url.path, {key: values[0] for key, values in parse_qs(url.query).items()}))
        denied = DENIALS.get(DeviceApi.mode) if url.path == "/schedule" else None
        body = json.dumps(denied or (GRANT if url.path == "/schedule" else {})).encode()
        self.send_response(429 if denied else 200)
        if denied:
            self.send_header("X-Authenticated", "regular")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def serve():
    server = ThreadingHTTPServer(("127.0.0.1", 0), DeviceApi)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def hide_torch():
    sys.modules["torch"] = None
    os.register_at_fork(after_in_child=lambda: sys.modules.pop("torch", None))


def main(out: Path) -> None:
    root = Path(__file__).parents[2]
    cgroup = out.with_suffix(".cgroup")
    cgroup.write_text("12:devices:/x\n")
    os.environ |= {
        "SPACES_ZERO_GPU": "true",
        "SPACES_ZERO_DEVICE_API_URL": serve(),
        "ZEROGPU_PROC_SELF_CGROUP_PATH": str(cgroup),
        "MOVA_OUTPUTS": str(out.parent / "outputs"),
        "MOVA_MODEL": str(root / "tests/golden/checkpoint"),
        "MOVA_DEVICE": "cpu",
        "MOVA_SIZE": "64x32",
        "MOVA_SECONDS": "0.38",
        "OMP_NUM_THREADS": "1",
    }
    hide_torch()
    sys.path.insert(0, str(root))
    import app  # spaces comes first in it

    assert sys.modules["torch"] is None
    from gradio_client import Client

    from demo.service import ZEROGPU_VRAM
    from demo.settings import Settings

    ZEROGPU_VRAM["xlarge"] = 0  # there is no card to look at
    studio = app.open_studio(Settings.read(os.environ))
    demo = app.build(studio)
    options = app.launch_options(studio.settings) | {"quiet": True, "mcp_server": False}
    demo.launch(prevent_thread_lock=True, ssr_mode=False, **options)
    client = Client(demo.local_url, verbose=False)
    report = {"first": ask(client, 3), "again": ask(client, 3), "broken": ask(client, 3, prompt="")}
    report |= adapter_leak(studio, root)
    report["after"] = ask(client, 3)
    for mode in ("quota", "illegal"):
        DeviceApi.mode = mode
        report[mode] = ask(client, 3)
    report["calls"] = DeviceApi.calls
    report["workers"] = len({child.pid for child in multiprocessing.active_children()})
    report["parent_has_torch"] = sys.modules["torch"] is not None
    out.write_text(json.dumps(report))
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(0)


def ask(client, seed, **given):
    """Digest of the decoded clip, or the sentence of the refusal; and the progress that came across."""
    from gradio_client.exceptions import AppError

    from mova.files import sha256_of

    job = client.submit(
        **{"image": None, "prompt": "a bell", "steps": 3, "seed": seed} | given, api_name="/generate"
    )
    try:
        clip, settings = job.result(timeout=120)
    except AppError as error:
        return {"error": str(error)}
    return {"sha256": sha256_of(Path(clip)), "seed": settings["seed"]}


def adapter_leak(studio, root):
    """A clip with an adapter, straight through the line; the next clip of somebody else must not have it."""
    from demo.worker import Job
    from mova.request import GenerationRequest

    folder = studio.history.new_folder("somebody")
    adapter = str(root / "tests/golden/lora_upstream_accelerate")
    request = GenerationRequest(
        "a bell", height=32, width=64, num_frames=9, num_inference_steps=3, seed=3, adapters=((adapter, 1.0),)
    )
    run = studio.line.submit("somebody", Job(request, studio.model_name, folder, studio.settings))
    run.over.wait(120)
    state = {key: run.state()[key] for key in ("stage", "step", "steps")}
    return {"with_adapter": run.outcome.kind, "state": state, "has_preview": bool(run.preview())}


if __name__ == "__main__":
    main(Path(sys.argv[1]))

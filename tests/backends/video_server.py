"""A server of the video API, small enough to read: the routes, fields and answers of SGLang-Diffusion.

It is FastAPI on uvicorn, as the engine is, so that forms are read and the schema is shown in the same way.
It makes no clips: it gives the one it is given.
"""

import asyncio
import threading
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

Fault = Callable[[Request], Awaitable[Response]]
KEY = "sk-secret-0123456789abcdef"


class Engine:
    """What the tests set and see. `faults` are answers that come first, by "METHOD route"."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.reset()

    def reset(self, clip: bytes = b"") -> None:
        self.clip = clip
        self.model = "OpenMOSS-Team/MOVA-360p"
        self.version: str | None = "0.5.23"
        self.key = ""
        self.looks_until_done = 2
        self.order_seconds = 0.0
        self.end: dict[str, Any] = {"status": "completed", "progress": 100}
        self.answer: dict[str, Any] = {}  # fields of the VideoResponse to an order
        self.faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self.requests: list[tuple[str, str, str]] = []  # method, path, Authorization
        self.orders: list[dict[str, Any]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.deleted: list[str] = []

    def paths(self, method: str) -> list[str]:
        return [path for asked, path, _ in self.requests if asked == method]

    def always(self, route: str, fault: Fault) -> None:
        self.faults[route] = deque([fault] * 100)


def status(code: int, detail: object = "no", **headers: str) -> Fault:
    async def answer(_: Request) -> Response:
        return JSONResponse({"detail": detail}, code, {k.replace("_", "-"): v for k, v in headers.items()})

    return answer


def page(_: Request) -> Awaitable[Response]:
    return _body(b"<html><body>Sign in</body></html>", "text/html")


def content(body: bytes, kind: str = "video/mp4", **headers: str) -> Fault:
    return lambda _: _body(body, kind, {name.replace("_", "-"): value for name, value in headers.items()})


def redirect(location: str) -> Fault:
    async def answer(_: Request) -> Response:
        return RedirectResponse(location)

    return answer


def slow(seconds: float) -> Fault:
    async def answer(_: Request) -> Response:
        await asyncio.sleep(seconds)
        return JSONResponse({"detail": "late"}, 500)

    return answer


def dies_after(body: bytes, declared: int, stalls: float = 0) -> Fault:
    """Sends `body`, stalls, and hangs up, having promised `declared` bytes."""

    async def pieces():
        yield body
        await asyncio.sleep(stalls)

    async def answer(_: Request) -> Response:
        return StreamingResponse(pieces(), 200, {"content-length": str(declared)}, "video/mp4")

    return answer


async def _body(body: bytes, kind: str, headers: dict[str, str] | None = None) -> Response:
    return Response(body, headers=headers, media_type=kind)


def make_app(engine: Engine) -> FastAPI:
    app = FastAPI()

    @app.middleware("http")
    async def watch(request: Request, call_next: Callable) -> Response:
        path, key = request.url.path, request.headers.get("authorization", "")
        engine.requests.append((request.method, path, key))
        parts = path.split("/")
        if len(parts) > 3 and parts[2] == "videos":
            parts[3] = "ID"
        faults = engine.faults[f"{request.method} {'/'.join(parts)}"]
        if faults:
            await request.body()
            return await faults.popleft()(request)
        if engine.key and key != f"Bearer {engine.key}" and not path.startswith("/elsewhere"):
            return JSONResponse({"detail": f"{key} is not the key"}, 401)
        return await call_next(request)

    @app.get("/health")
    async def health() -> dict:
        return {"status": "ok"}

    @app.get("/server_info")
    async def server_info() -> dict:
        return {"served_model_name": engine.model, "tp_size": 1, "dp_size": 1, "version": engine.version}

    @app.get("/v1/models")
    async def models() -> dict:
        return {"object": "list", "data": [{"id": engine.model, "object": "model", "num_gpus": 8}]}

    @app.post("/v1/videos")
    async def create(
        request: Request,
        prompt: Annotated[str | None, Form()] = None,
        input_reference: Annotated[UploadFile | None, File()] = None,
        size: Annotated[str | None, Form()] = None,
        seconds: Annotated[int | None, Form()] = None,
        fps: Annotated[int | None, Form()] = None,
        num_frames: Annotated[int | None, Form()] = None,
        seed: Annotated[int | None, Form()] = None,
        generator_device: Annotated[str | None, Form()] = "cuda",
        negative_prompt: Annotated[str | None, Form()] = None,
        guidance_scale: Annotated[float | None, Form()] = None,
        num_inference_steps: Annotated[int | None, Form()] = None,
    ) -> dict:
        if not prompt:
            raise HTTPException(400, "prompt is required")
        engine.orders.append(
            {
                "prompt": prompt,
                "image": await input_reference.read() if input_reference else None,
                "size": size,
                "seconds": seconds,
                "fps": fps,
                "num_frames": num_frames,
                "seed": seed,
                "generator_device": generator_device,
                "negative_prompt": negative_prompt,
                "guidance_scale": guidance_scale,
                "num_inference_steps": num_inference_steps,
                "unread": sorted(set(await request.form()) - set(create.__annotations__)),
            }
        )
        await asyncio.sleep(engine.order_seconds)
        name = f"video-{len(engine.orders)}"
        job = {
            "id": name,
            "object": "video",
            "model": engine.model,
            "status": "queued",
            "progress": 0,
            "created_at": int(time.time()),
            "size": size,
            "seconds": str(round(num_frames / fps)),
            "quality": "standard",
            "error": None,
            "looks": 0,
        }
        engine.jobs[name] = job | engine.answer
        return engine.jobs[name]

    @app.get("/v1/videos/{name}")
    async def retrieve(name: str) -> dict:
        job = find(name)
        job["looks"] += 1
        return job | engine.end if job["looks"] >= engine.looks_until_done else job

    @app.delete("/v1/videos/{name}")
    async def delete(name: str) -> dict:
        engine.deleted.append(name)
        return find(name) and engine.jobs.pop(name) | {"status": "deleted"}

    @app.get("/v1/videos/{name}/content")
    async def download(name: str) -> Response:
        if find(name)["looks"] < engine.looks_until_done:
            raise HTTPException(404, "Generation is still in-progress")
        return Response(engine.clip, media_type="video/mp4")

    @app.get("/elsewhere/clip.mp4")
    async def bucket() -> Response:
        return Response(engine.clip, media_type="application/octet-stream")

    def find(name: str) -> dict:
        if name not in engine.jobs:
            raise HTTPException(404, "Video not found")
        return engine.jobs[name]

    return app


@contextmanager
def running_engine():
    engine = Engine("")
    config = uvicorn.Config(make_app(engine), "127.0.0.1", 0, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    engine.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield engine
    finally:
        server.force_exit = server.should_exit = True
        thread.join(10)

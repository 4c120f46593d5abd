"""The demo: `python app.py`, or a Hugging Face Space. Settings come from the environment (README)."""

import os

if os.environ.get("SPACE_ID"):
    # A visitor may name a repo for an adapter; it must not be read with the owner's token.
    os.environ.setdefault("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")

import spaces  # noqa: F401  # isort: skip - before anything that may touch CUDA

import logging
import sys
import threading
from typing import TYPE_CHECKING

from demo.history import CLIPS
from demo.service import KEY_FILE, DemoService
from demo.settings import Settings
from mova.errors import UserError

if TYPE_CHECKING:
    import gradio as gr

SHUTDOWN_SECONDS = 1  # for open pages before their connections are closed
LOGGERS = ("mova", "demo", "lora_trainer")
MAX_THREADS = 80  # each watched clip takes one now and then


def open_service(settings: Settings) -> DemoService:
    """The service behind the page; nothing runs yet."""
    service = DemoService(settings)
    if settings.is_zero_gpu:
        from demo.zerogpu import on_zero_gpu

        service.zero_gpu = on_zero_gpu(service.costs)
    return service


def build(service: DemoService) -> "gr.Blocks":
    """The page."""
    # gradio is imported here, not above: it takes seconds, and faults of the settings are reported first.
    from demo.page import build_page

    return build_page(service)


def launch_options(settings: Settings) -> dict[str, object]:
    """The options of `launch`, for `main` and for tests that launch the page themselves."""
    from demo.guard import middleware
    from demo.page import launch_look
    from demo.train.service import PREVIEWS, RUNS

    space = settings.space_id
    card = f"https://huggingface.co/spaces/{space}/resolve/main/assets/card.png" if space else ""
    return {
        **launch_look(card),
        "max_file_size": f"{settings.max_upload_mb}mb",
        "max_threads": MAX_THREADS,
        "run_history": False,  # it would keep every field of every run in the browser's storage
        "mcp_server": True,
        "app_kwargs": {"middleware": middleware(is_space=bool(space))},
        # A clip's path holds names that cannot be guessed: whoever can name it may see it.
        "allowed_paths": [str(settings.outputs.absolute() / name) for name in (CLIPS, PREVIEWS, RUNS)]
        + [str(settings.examples.absolute())],
        "blocked_paths": [".env", ".git", str(settings.outputs.absolute() / KEY_FILE)],
        "footer_links": ["api"],
        "show_error": False,
    }


def main() -> int:
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        service = open_service(Settings.read(os.environ))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stderr.write(f"{service.machine}\n")
    try:
        # uvicorn takes the caller's address from the X-Forwarded-For of these proxies, and of nobody else.
        if service.settings.is_public:
            os.environ["FORWARDED_ALLOW_IPS"] = service.settings.proxies
        demo = build(service)
        demo.launch(prevent_thread_lock=True, **launch_options(service.settings))
        demo.server.config.timeout_graceful_shutdown = SHUTDOWN_SECONDS
        service.start()  # after the page is up: probing the machine takes a core for seconds
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            sys.stderr.write("stopped; unfinished clips are not kept\n")
        logging.getLogger("uvicorn.error").setLevel(
            logging.CRITICAL
        )  # closing open pages' connections is not an error
        service.close()  # first, as threads that follow a clip wait for its end
        demo.close(verbose=False)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    finally:
        service.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

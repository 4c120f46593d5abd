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

SHUTDOWN_SECONDS = 1  # that open pages get before they are hung up on
MAX_THREADS = 80  # each clip that is watched takes one now and then


def open_studio(settings: Settings) -> DemoService:
    """What is behind the page; nothing runs yet."""
    studio = DemoService(settings)
    if settings.is_zero_gpu:
        from demo.zerogpu import on_zero_gpu

        studio.run_on_gpu = on_zero_gpu(studio.costs)
    return studio


def build(studio: DemoService) -> "gr.Blocks":
    """The page."""
    # gradio is imported here, not above: it takes seconds, and what is wrong with the settings comes first.
    from demo.page import build_page
    from demo.train.tab import build_train

    return build_page(studio, build_train if studio.settings.train_tab else None)


def launch_options(settings: Settings) -> dict[str, object]:
    """All that `launch` needs to know; a test that launches the page itself takes it from here."""
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
        # A clip's path holds names that cannot be guessed: who can name it, may see it.
        "allowed_paths": [str(settings.outputs.absolute() / name) for name in (CLIPS, PREVIEWS, RUNS)],
        "blocked_paths": [".env", ".git", str(settings.outputs.absolute() / KEY_FILE)],
        "footer_links": ["api"],
        "show_error": False,
    }


def main() -> int:
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.getLogger("mova").setLevel(logging.INFO)
    try:
        studio = open_studio(Settings.read(os.environ))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stderr.write(f"{studio.machine}\n")
    try:
        demo = build(studio)
        demo.launch(prevent_thread_lock=True, **launch_options(studio.settings))
        demo.server.config.timeout_graceful_shutdown = SHUTDOWN_SECONDS
        studio.start()  # after the page is up: looking at the machine takes a core for seconds
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            sys.stderr.write("stopped; clips that were not finished are not kept\n")
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # hanging up on open pages is no error
        studio.close()  # first, as threads that follow a clip wait for its end
        demo.close(verbose=False)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    finally:
        studio.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

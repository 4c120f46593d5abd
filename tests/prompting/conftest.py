"""`transformers serve` with models made here.

With MOVA_TEST_LLM_BASE_URL (and _MODEL, _API_KEY) the tests of a real server run
against that address instead.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.ports import free_port
from tests.prompting.chat_server import GOOD_ANSWER, RealServer


@pytest.fixture(scope="session")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.prompting.tiny_models import make_text_model

    return make_text_model(tmp_path_factory.mktemp("models") / "text", GOOD_ANSWER)


@pytest.fixture(scope="session")
def seeing_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.prompting.tiny_models import make_seeing_model

    return make_seeing_model(tmp_path_factory.mktemp("models") / "seeing")


@pytest.fixture(scope="session")
def real_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealServer]:
    if url := os.environ.get("MOVA_TEST_LLM_BASE_URL"):
        model = os.environ.get("MOVA_TEST_LLM_MODEL", "")
        yield RealServer(url, model, model, os.environ.get("MOVA_TEST_LLM_API_KEY", ""), is_ours=False)
        return
    text, seeing = (str(request.getfixturevalue(name)) for name in ("text_model", "seeing_model"))
    home = tmp_path_factory.mktemp("hf")
    (home / "hub").mkdir()
    port = free_port()
    command = [shutil.which("transformers", path=str(Path(sys.executable).parent)), "serve"]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--log-level", "error"]
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([*command, *options], env=environment, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, home / "log")
        yield RealServer(f"http://127.0.0.1:{port}/v1", text, seeing)
    finally:
        process.terminate()
        process.wait(20)


def wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(url, timeout=1).status_code < 500:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail(f"the server did not start: {log.read_text()[-2000:]}")

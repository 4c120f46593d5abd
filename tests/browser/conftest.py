"""A real Chromium on the page with the tiny checkpoint."""

import os
import shutil

import pytest

from tests.browser.page import serving, visiting


@pytest.fixture(scope="session")
def launch():
    """Starts a Chromium with these arguments."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium here: install it, or name it in CHROMIUM")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        yield lambda *arguments: running.chromium.launch(
            executable_path=path, args=["--no-sandbox", *arguments]
        )


@pytest.fixture(scope="session")
def chromium(launch):
    browser = launch()
    yield browser
    browser.close()


@pytest.fixture
def camera_chromium(launch):
    """A browser whose camera shows a test picture."""
    browser = launch("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("page")) as server:
        yield server


@pytest.fixture
def demo(chromium, server):
    with visiting(chromium, server) as demo:
        yield demo

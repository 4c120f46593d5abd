"""A real Chromium on the page with the tiny checkpoint."""

import os
import shutil
from pathlib import Path

import pytest

from tests.browser.page import Pages, serving, visiting


def pytest_collection_modifyitems(items):
    """On a busy machine a browser may miss a moment, so a test here has a second try, which is reported."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="session")
def chromium():
    """A browser whose camera shows a test picture."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium here: install it, or name it in CHROMIUM")
    playwright = pytest.importorskip("playwright.sync_api")
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox", *camera])
        yield Pages(browser)
        browser.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("page")) as server:
        yield server


@pytest.fixture
def demo(chromium, server):
    with visiting(chromium, server) as demo:
        yield demo

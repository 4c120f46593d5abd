"""A page's service on the tiny model, one for each file of tests."""

import pytest

from demo.service import DemoService
from demo.settings import Settings


@pytest.fixture(scope="module")
def service(golden, tmp_path_factory):
    settings = Settings(
        model=str(golden / "checkpoint"),
        size=(32, 64),
        seconds=0.71,
        outputs=tmp_path_factory.mktemp("service"),
        device="cpu",
        keep_hours=1,
    )
    service = DemoService(settings)
    yield service
    service.close()


@pytest.fixture
def visitor(service):
    return service.visitors.issue()

"""The train tab's service on the golden checkpoint."""

import pytest

from demo.service import DemoService
from demo.settings import Settings
from demo.train.service import TrainService
from demo.worker import WorkerProcess


@pytest.fixture(scope="session")
def worker():
    """One process for all services: it takes longer to start than to answer."""
    worker = WorkerProcess()
    yield worker
    worker.close()


@pytest.fixture
def open_train_service(tmp_path, golden, worker):
    def open_train_service(**environment):
        tiny = {"MOVA_MODEL": str(golden / "checkpoint"), "MOVA_SIZE": "64x32", "MOVA_SECONDS": "0.71"}
        settings = Settings.read(tiny | {"MOVA_OUTPUTS": str(tmp_path / "outputs")} | environment)
        service = TrainService(DemoService(settings))
        service.worker = worker
        return service

    return open_train_service


@pytest.fixture
def service(open_train_service):
    return open_train_service()

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

from tests.faults.experiment import Experiment, Record, experiment
from tests.faults.own_services import missing, own_services
from tests.faults.server import Server
from tests.witness import witness

Begin = Callable[..., AbstractContextManager[Experiment]]


@pytest.fixture(scope="session")
def _server() -> Iterator[Server]:
    if programs := missing():
        pytest.skip(f"{programs} not installed")
    folder = Path(tempfile.mkdtemp(prefix="blox-faults-"))
    folder.chmod(0o755)  # for the user `postgres`
    try:
        with (
            own_services(folder) as (postgres, redis),
            witness() as world,
            Server(folder, postgres, redis, world) as server,
        ):
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def server(_server: Server) -> Server:
    """With a web process, two workers and a clock, whatever the test before has left."""
    _server.restore("web", "worker-1", "worker-2", "clock")
    return _server


@pytest.fixture
def begin(server: Server, record_property: Record) -> Begin:
    """Begins an experiment of that server: `with begin("name") as trial`."""
    return partial(experiment, server, record=record_property)

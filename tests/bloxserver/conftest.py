from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.up_server import UpServer


@pytest.fixture
def new_server(tmp_path: Path) -> Iterator[UpServer]:
    """One of the test's own, to be started for the first time."""
    server = UpServer(tmp_path)
    yield server
    server.end()


@pytest.fixture
def server(new_server: UpServer) -> UpServer:
    """One that has been started before, as far as its database goes."""
    new_server.spare_the_migrations()
    return new_server

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.up_server import UpServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[UpServer]:
    """One of the test's own, to be started."""
    server = UpServer(tmp_path)
    yield server
    server.end()

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.blocks.registry import catalogue
from flows.services import load_organism
from tests.executions.odd_blocks import Odd


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Odd]]:
    """The block `acme.odd`, installed as another package would bring it."""
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[bloxserver.blocks]\nodd = tests.executions.odd_blocks:Odd\n")
    monkeypatch.syspath_prepend(tmp_path)
    caches: list[Callable[[], None]] = [catalogue.cache_clear, load_organism.cache_clear, Odd.runs.clear]
    for clear in caches:
        clear()
    yield Odd
    for clear in caches:
        clear()

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_django import Settings

from flows.blocks.registry import catalogue
from flows.services import load_organism
from llm.models import Provider
from llm.services import forget_pool
from tests.executions.odd_blocks import Odd
from tests.llm.model_server import ModelServer

BLOCKS = "[bloxserver.blocks]\nodd = tests.executions.odd_blocks:Odd\nasker = tests.executions.asking_blocks:Asker\n"


@pytest.fixture
def _acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The blocks `acme.odd` and `acme.asker`, installed as another package would bring them."""
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(BLOCKS)
    monkeypatch.syspath_prepend(tmp_path)
    caches: list[Callable[[], None]] = [catalogue.cache_clear, load_organism.cache_clear, Odd.runs.clear]
    for clear in caches:
        clear()
    yield
    for clear in caches:
        clear()


@pytest.fixture
def odd(_acme: None) -> type[Odd]:
    return Odd


@pytest.fixture
def models(_acme: None, db: None, settings: Settings) -> Iterator[ModelServer]:
    """A provider of models, `acme` by name, and the block `acme.asker` that asks them."""
    with ModelServer() as server:
        settings.BLOX_HTTP_ALLOW = [*settings.BLOX_HTTP_ALLOW, server.host]
        Provider.objects.create(name="Acme", provider="acme", base_url=server.url, model_names=[])
        forget_pool()
        yield server
    forget_pool()

"""A provider of models on localhost, which the guarded client may reach."""

from collections.abc import Iterator

import pytest
from pytest_django import Settings

from tests.llm.model_server import ModelServer


@pytest.fixture
def model_server(settings: Settings) -> Iterator[ModelServer]:
    with ModelServer() as server:
        settings.BLOX_HTTP_ALLOW = [*settings.BLOX_HTTP_ALLOW, server.host]
        yield server

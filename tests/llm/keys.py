"""Users' keys, and servers that take or refuse them."""

from collections.abc import Iterator

import pytest
from pytest_django import Settings

from tests.llm.model_server import ModelServer

KEY, OTHER_KEY = "sk-canary-0123456789abcdefWXYZ", "sk-canary-9876543210fedcbaQRST"
PATH = "/api/v1/api-keys"


@pytest.fixture
def provider(settings: Settings) -> Iterator[ModelServer]:
    """Where users' own keys for every known provider are used, and one more: "gateway"."""
    with ModelServer() as server:
        allow_provider(settings, server)
        yield server


def allow_provider(settings: Settings, server: ModelServer) -> None:
    settings.BLOX_HTTP_ALLOW = [server.host]
    names = ("anthropic", "openai", "together", "xai", "gateway")
    settings.BLOX_LLM_BASE_URLS = dict.fromkeys(names, server.url)

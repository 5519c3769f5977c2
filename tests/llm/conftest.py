"""A provider of models on localhost, which the guarded client may reach, and what the stages of the path share."""

from collections.abc import Iterator

import pytest
from django.conf import settings as django_settings
from pytest_django import Settings

from tests.llm.model_server import ModelServer
from tests.llm.stores import Store, forget


@pytest.fixture
def model_server(settings: Settings) -> Iterator[ModelServer]:
    with ModelServer() as server:
        settings.BLOX_HTTP_ALLOW = [*settings.BLOX_HTTP_ALLOW, server.host]
        yield server


@pytest.fixture
def redis_store() -> Iterator[Store]:
    if not django_settings.REDIS_URL:
        pytest.skip("needs a Redis server")
    forget(django_settings.REDIS_URL)
    with Store(django_settings.REDIS_URL) as store:
        yield store


# In memory it has nothing to do with the services that the suite is run on.
@pytest.fixture(params=[pytest.param("memory", marks=pytest.mark.once), pytest.param("redis", marks=pytest.mark.redis)])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param == "redis":
        yield request.getfixturevalue("redis_store")
    else:
        with Store("") as store:
            yield store

"""The fixed cast: Alice owns things, Bob is a stranger who must see nothing, the operator uses the admin."""

import gc
from collections.abc import Callable, Iterator

import pytest
from django.conf import settings as django_settings
from django.core.cache import cache
from django.test import Client
from pytest_django import Settings
from rest_framework.test import APIClient

from accounts.models import Tier, User
from billing import overrides
from llm.services import forget_pool
from tests.databases import begin_with_migrated
from tests.openapi import CheckedClient
from tests.witness import Witness, witness

pytest_plugins = ["tests.faults.table"]  # here, since what starts pytest-xdist's processes loads no other conftest


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported by now stays: nobody needs to look whether it could go


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings_parallel_suffix: None) -> None:
    """pytest-django asks for it once each worker's database has its name, before it is made."""
    begin_with_migrated(django_settings.DATABASES["default"])


@pytest.fixture(scope="session")
def django_db_keepdb(django_db_keepdb: bool) -> bool:
    return django_db_keepdb or django_settings.DATABASES["default"]["ENGINE"].endswith("sqlite3")  # the file is there


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_user("alice@shop.example", name="Alice", tier=Tier.PRO)


@pytest.fixture
def bob(db: None) -> User:
    return User.objects.create_user("bob@other.example", name="Bob", tier=Tier.PRO)


@pytest.fixture
def operator(db: None) -> User:
    return User.objects.create_superuser("operator@blox.example", "correct horse battery")


def api_as(user: User) -> APIClient:
    client = CheckedClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer dev:{user.email}")
    return client


@pytest.fixture
def api(alice: User) -> APIClient:
    return api_as(alice)


@pytest.fixture
def bobs_api(bob: User) -> APIClient:
    return api_as(bob)


@pytest.fixture
def anonymous() -> APIClient:
    return CheckedClient()


@pytest.fixture
def admin_client(operator: User) -> Client:
    client = Client()
    client.force_login(operator, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def drain(transactional_db: None) -> Callable[[], None]:
    """Runs everything that can be claimed, in this process, to its end."""
    from executions.engine.worker import drain_due_executions

    def run() -> None:
        drain_due_executions(seconds=30)

    return run


@pytest.fixture(autouse=True)
def _fresh_cache() -> None:
    cache.clear()
    forget_pool()
    overrides.keep({})


@pytest.fixture
def world(settings: Settings) -> Iterator[Witness]:
    """The outside world, which flows are allowed to reach."""
    with witness() as server:
        settings.BLOX_HTTP_ALLOW = [server.host]
        yield server

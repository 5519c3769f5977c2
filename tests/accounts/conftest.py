from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rest_framework.test import APIClient

from accounts import clerk as clerk_module
from tests.accounts.clerk_server import ISSUER, ORIGIN, ClerkServer, clerk_server


@pytest.fixture
def clerk(settings: Any) -> Iterator[ClerkServer]:
    """A server that trusts a Clerk of its own on localhost, with nothing cached."""
    clerk_module.key_set.cache_clear()
    with clerk_server() as server:
        settings.CLERK_JWKS_URL = server.jwks_url
        settings.CLERK_ISSUER = ISSUER
        settings.CLERK_AUTHORIZED_PARTIES = [ORIGIN, "https://admin.shop.example"]
        settings.CLERK_API_URL = server.api_url
        yield server
    clerk_module.key_set.cache_clear()


@pytest.fixture
def me() -> Callable[[str], Any]:
    """Asks `/me` with a bearer token."""

    def ask(token: str) -> Any:
        return APIClient(headers={"Authorization": f"Bearer {token}"}).get("/api/v1/me")

    return ask

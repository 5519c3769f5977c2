"""Here the paths are the tests' own, so the clients do not hold answers against the served document."""

import pytest
from rest_framework.test import APIClient

from accounts.models import User


def plain_client(user: User) -> APIClient:
    return APIClient(headers={"Authorization": f"Bearer dev:{user.email}"})


@pytest.fixture
def api(alice: User) -> APIClient:
    return plain_client(alice)


@pytest.fixture
def bobs_api(bob: User) -> APIClient:
    return plain_client(bob)


@pytest.fixture
def anonymous() -> APIClient:
    return APIClient()

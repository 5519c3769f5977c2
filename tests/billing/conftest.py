from collections.abc import Iterator

import pytest
from pytest_django import Settings

from accounts.models import User
from tests.billing.shop import Shop, opened


@pytest.fixture
def shop(db: None, settings: Settings) -> Iterator[Shop]:
    with opened(settings) as shop:
        yield shop


@pytest.fixture
def carol(db: None) -> User:
    """On the free tier, and new to Stripe."""
    return User.objects.create_user("carol@shop.example", name="Carol")

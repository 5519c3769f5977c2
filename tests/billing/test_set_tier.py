from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from accounts.models import User

pytestmark = pytest.mark.django_db


def test_set_tier_puts_a_user_on_a_tier(alice: User) -> None:
    out = StringIO()
    call_command("set_tier", "Alice@shop.example", "enterprise", stdout=out)
    alice.refresh_from_db()
    assert (alice.tier, out.getvalue().strip()) == ("enterprise", "alice@shop.example: pro -> enterprise")


@pytest.mark.parametrize("args", [("nobody@shop.example", "pro"), ("alice@shop.example", "gold")])
def test_set_tier_refuses_an_unknown_user_or_tier(alice: User, args: tuple[str, str]) -> None:
    with pytest.raises(CommandError):
        call_command("set_tier", *args)
    alice.refresh_from_db()
    assert alice.tier == "pro"

"""Where a user can be written to."""

from accounts.models import User
from accounts.services import PLACEHOLDER_DOMAIN
from bloxserver.core.outbox import NotDelivered


def address_of(user: User) -> str:
    """Raises `NotDelivered` for good, where the account is closed or has no address of its own."""
    if not user.is_active:
        raise NotDelivered("The account is closed.", final=True)
    if user.email.endswith(PLACEHOLDER_DOMAIN):
        raise NotDelivered("The account has no e-mail address.", final=True)
    return user.email

"""The row locks of flows, in their one order: the owner before the flow."""

from accounts.models import User
from bloxserver.core.errors import NotFound
from flows.models import Flow


def lock_owner(user: User) -> User:
    """Take turns among those who add to what `user` has, so that a cap counted after this holds."""
    return User.objects.select_for_update(of=("self",), no_key=True).get(pk=user.pk)


def lock_flow(flow: Flow) -> Flow:
    """The flow as it is now, kept from other starts, stops and edits until the transaction ends.

    Raises `NotFound` when it has been deleted meanwhile.
    """
    locked = Flow.objects.locked().filter(pk=flow.pk).first()
    if locked is None:
        raise NotFound("Not found.")
    return locked

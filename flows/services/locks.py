"""The row locks of flows, in their one order: the owner before the flow."""

from django.db import connection

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


def share_flow(flow: Flow) -> None:
    """Refresh the flow's status and version, and keep them so until the transaction ends.

    A firing shares the lock with other firings, and excludes starts and stops: what a stop finds running is all there
    will be. SQLite needs no such lock, its writers take turns.
    """
    if connection.vendor == "postgresql":
        query = "SELECT id, status, deployed_version_id FROM flows_flow WHERE id = %s AND deleted_at IS NULL FOR SHARE"
        rows = [(row.status, row.deployed_version_id) for row in Flow.objects.raw(query, [flow.pk])]
    else:
        rows = list(Flow.objects.filter(pk=flow.pk).values_list("status", "deployed_version_id"))
    if not rows:
        raise NotFound("Not found.")
    flow.status, flow.deployed_version_id = rows[0]

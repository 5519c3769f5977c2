"""The row locks of flows, in their one order: the owner before the flow."""

from collections.abc import Sequence
from uuid import UUID

from django.db import connection
from django.utils import timezone

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


def share_flows(flows: Sequence[Flow], *, wait: bool = True) -> set[UUID]:
    """Refresh each flow's status, version and `deleted_at`, and keep them so until the transaction ends.

    A firing shares the lock with other firings, and excludes starts and stops: what a stop finds running is all there
    will be. Without `wait`, gives the ids of those that cannot be locked now, which are left as they are. SQLite needs no
    such lock, its writers take turns.
    """
    ids = {flow.pk for flow in flows}
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(_SHARE if wait else f"{_SHARE} SKIP LOCKED", [list(ids)])
            rows = cursor.fetchall()
    else:
        rows = list(
            Flow.with_deleted.filter(pk__in=ids).values_list("pk", "status", "deployed_version_id", "deleted_at")
        )
    found = {pk: (status, version_id, deleted_at) for pk, status, version_id, deleted_at in rows}
    for flow in flows:
        if flow.pk in found:
            flow.status, flow.deployed_version_id, flow.deleted_at = found[flow.pk]
        elif wait:
            flow.deleted_at = timezone.now()  # its row has gone
    return set() if wait else ids - found.keys()


_SHARE = "SELECT id, status, deployed_version_id, deleted_at FROM flows_flow WHERE id = ANY(%s) ORDER BY id FOR SHARE"

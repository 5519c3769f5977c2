"""What firings read of flows, and keep as it is until they have committed."""

from collections.abc import Sequence
from uuid import UUID

from django.db import connection
from django.utils import timezone

from bloxserver.core import json_text
from flows.models import Flow
from flows.services.variables import variables_of


def share_flows(flows: Sequence[Flow], *, wait: bool = True) -> dict[UUID, str]:
    """Refresh each flow's status, version and `deleted_at`, and keep them so until the transaction ends; by flow, the
    variables in its scope, as a JSON object's text.

    A firing shares the lock with other firings, and excludes starts and stops: what a stop finds running is all there
    will be. Those that have gone are marked as deleted, or without `wait` left as they are, like those that cannot be
    locked now; neither is in what is given. SQLite needs no such lock, its writers take turns.
    """
    ids = {flow.pk for flow in flows}
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(_SHARE if wait else f"{_SHARE} SKIP LOCKED", [list(ids)])
            found = {pk: values for pk, *values in cursor.fetchall()}
    else:
        rows = list(Flow.with_deleted.filter(pk__in=ids))
        variables = variables_of(rows)
        found = {
            flow.pk: [flow.status, flow.deployed_version_id, flow.deleted_at, json_text.dumps(variables[flow.pk])]
            for flow in rows
        }
    for flow in flows:
        if flow.pk in found:
            flow.status, flow.deployed_version_id, flow.deleted_at, _ = found[flow.pk]
        elif wait:
            flow.deleted_at = timezone.now()
    return {pk: variables for pk, (*_, variables) in found.items()}


_SHARE = """
SELECT id, status, deployed_version_id, deleted_at, (
    SELECT coalesce(json_object_agg(name, value::json), '{}')::text FROM (
        SELECT DISTINCT ON (name) name, value FROM flows_variable
        WHERE user_id = flow.user_id AND (flow_id IS NULL OR flow_id = flow.id)
        ORDER BY name, flow_id NULLS LAST
    ) AS in_scope
)
FROM flows_flow AS flow WHERE id = ANY(%s) ORDER BY id FOR SHARE OF flow
"""

"""Variables: what a flow reads as `vars.NAME`. A flow's own value goes before its tenant's."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.db.models import Q

from accounts.models import User
from bloxserver.core import json_text
from flows.models import Flow, Variable
from flows.services.stored import put


def variables_of(flows: Sequence[Flow]) -> dict[UUID, dict[str, Any]]:
    """For each flow name to value of all that is in its scope, read in one query."""
    if not flows:
        return {}
    users, ids = {flow.user_id for flow in flows}, {flow.pk for flow in flows}
    scope = Variable.objects.filter(Q(flow=None) | Q(flow__in=ids), user__in=users)
    rows = scope.values_list("user_id", "flow_id", "name", "value")
    by_owner: dict[UUID, dict[str, Any]] = defaultdict(dict)  # by flow, and by tenant what all its flows see
    for user_id, flow_id, name, value in rows:
        by_owner[flow_id or user_id][name] = json_text.loads(value)
    return {flow.pk: {**by_owner[flow.user_id], **by_owner[flow.pk]} for flow in flows}


def set_variable(*, owner: User, flow: Flow | None, name: str, value: Any) -> tuple[Variable, bool]:
    """Store `value` (any JSON) under `name`; the bool says whether the name is new.

    Raises `StoreLimitReached` (409).
    """
    return put(Variable, owner=owner, flow=flow, name=name, values={"value": json_text.dumps(value)})


def delete_variable(*, variable: Variable) -> None:
    variable.delete()

"""Variables: what a flow reads as `vars.NAME`. A flow's own value goes before its tenant's."""

from typing import Any

from django.db.models import F

from accounts.models import User
from bloxserver.core import json_text
from flows.models import Flow, Variable
from flows.services.stored import put


def variables_for(flow: Flow) -> dict[str, Any]:
    """Name to value of all that is in scope in `flow`, read in one query."""
    rows = Variable.objects.seen_by(flow).order_by(F("flow").asc(nulls_first=True)).values_list("name", "value")
    return {name: json_text.loads(value) for name, value in rows}


def set_variable(*, owner: User, flow: Flow | None, name: str, value: Any) -> tuple[Variable, bool]:
    """Store `value` (any JSON) under `name`; the bool says whether the name is new.

    Raises `StoreLimitReached` (409).
    """
    return put(Variable, owner=owner, flow=flow, name=name, values={"value": json_text.dumps(value)})


def delete_variable(*, variable: Variable) -> None:
    variable.delete()

"""What variables and secrets share: named rows of a tenant, or of one of its flows."""

import re
from typing import Any, TypeVar

from django.db import models, transaction
from django.utils import timezone

from accounts.models import User
from flows.errors import StoreLimitReached
from flows.models import Flow, Secret, Variable
from flows.services.locks import lock_flow, lock_owner

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")  # what an expression can say after `vars.` and `secrets.`
NAME_RULE = "A name is a letter or underscore, then letters, digits and underscores: 64 characters at most."
MAX_VALUE_BYTES = 64 * 1024
MAX_STORED = 500  # names in one place: a tenant's own, or one flow's

Stored = TypeVar("Stored", Variable, Secret)


def put(
    model: type[Stored], *, owner: User, flow: Flow | None, name: str, values: dict[str, Any]
) -> tuple[Stored, bool]:
    """Update the row of that name, or make it; the bool says which. Raises `StoreLimitReached` (409).

    The owner's row lock makes both this and the cap safe.
    """
    with transaction.atomic():
        lock_owner(owner)
        if flow is not None:
            flow = lock_flow(flow)  # else a row could be made for a flow that is being deleted
        rows: models.QuerySet[Stored] = model._default_manager.filter(user=owner, flow=flow)
        values = {**values, "updated_at": timezone.now()}
        row = rows.filter(name=name).first()
        if row is not None:
            for field, value in values.items():
                setattr(row, field, value)
            row.save(update_fields=list(values))
            return row, False
        if rows.count() >= MAX_STORED:
            kind = model._meta.verbose_name_plural
            raise StoreLimitReached(f"There are {MAX_STORED} {kind} here already; delete one that is no longer used.")
        return model._default_manager.create(user=owner, flow=flow, name=name, **values), True

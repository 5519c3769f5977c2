"""Flows come, change, are copied and go."""

from itertools import count
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from accounts.models import User
from billing.metering import budgets
from billing.services import is_overridden, limits_of, whose_limit
from bloxserver.core.errors import NotFound
from bloxserver.core.words import so_many
from flows.default_organism import DEFAULT_ORGANISM_YAML
from flows.errors import FlowLimitReached, FlowNameAmbiguous, FlowNotFound
from flows.models import AgentMemory, Flow, FlowStatus, KeyValue, Secret, Variable
from flows.services.locks import lock_owner
from flows.signals import flow_deleted, flow_exported, flow_imported, flow_stopped

MAX_NAME = Flow._meta.get_field("name").max_length or 100


def create_flow(
    *,
    owner: User,
    name: str,
    description: str | None = None,
    organism_yaml: str | None = None,
    canvas_state: dict[str, Any] | None = None,
    triggers: list[dict[str, Any]] | None = None,
) -> Flow:
    """A new, stopped flow; without `organism_yaml` it gets a template that runs as it is.

    `triggers` are those of an export; the triggers app checks and makes them, and what it refuses refuses all.
    Raises `FlowLimitReached` (402): the owner's row lock makes the cap exact.
    """
    with transaction.atomic():
        _require_room(lock_owner(owner))
        flow = Flow.objects.create(
            user=owner,
            name=name,
            description=description,
            organism_yaml=DEFAULT_ORGANISM_YAML if organism_yaml is None else organism_yaml,
            canvas_state=canvas_state,
        )
        if triggers:
            flow_imported.send(sender=Flow, flow=flow, triggers=triggers)
    return flow


def update_flow(*, flow: Flow, changes: dict[str, Any]) -> Flow:
    """Write those of `changes` (field to value) that are changes, and nothing else.

    One UPDATE of only these columns: a start or an edit of other fields at the same time is not undone.
    """
    changed = {field: value for field, value in changes.items() if getattr(flow, field) != value}
    if changed:
        changed["updated_at"] = timezone.now()
        if not Flow.objects.filter(pk=flow.pk).update(**changed):
            raise NotFound("Not found.")
        for field, value in changed.items():
            setattr(flow, field, value)
        if "name" in changed:
            budgets.rename_flow(flow_id=flow.pk, name=flow.name)
    return flow


def delete_flow(*, flow: Flow) -> None:
    """Stop the flow by force and delete it with its versions, executions, triggers, stores and budget.

    What has too long a history for one transaction disappears from sight at once, and from the database bit by bit. The
    row is locked against new executions too, since those would keep a reference to it.
    """
    with transaction.atomic():
        locked = Flow.objects.select_for_update(of=("self",)).filter(pk=flow.pk).first()
        if locked is None:
            return
        flow_stopped.send(sender=Flow, flow=locked, force=True)
        budgets.forget_flow(flow_id=locked.pk)
        if any(left for _, left in flow_deleted.send(sender=Flow, flow=locked)):
            _bury(locked)
        else:
            locked.delete()


def _bury(locked: Flow) -> None:
    for model in (Variable, Secret, KeyValue, AgentMemory):
        model.objects.filter(flow=locked).delete()
    Flow.objects.filter(pk=locked.pk).update(
        deleted_at=timezone.now(), status=FlowStatus.STOPPED, container_id=None, error_message=None
    )


def erase_flow(*, flow: Flow) -> bool:
    """Delete some more of a flow that `delete_flow` left for its long history, in the end itself; whether it is gone."""
    with transaction.atomic():
        buried = Flow.with_deleted.select_for_update(of=("self",)).filter(pk=flow.pk, deleted_at__isnull=False).first()
        if buried is None:
            return True
        if any(left for _, left in flow_deleted.send(sender=Flow, flow=buried)):
            return False
        buried.delete()
    return True


def duplicate_flow(*, flow: Flow, name: str | None = None) -> Flow:
    """A stopped copy with the same YAML, canvas, triggers (webhooks with URLs of their own), variables and secrets.

    Raises `FlowLimitReached` (402).
    """
    document = {**export_flow(flow=flow), "name": name or _name_of_copy(flow)}
    with transaction.atomic():
        copy = create_flow(owner=flow.user, **document)
        Variable.objects.bulk_create(
            Variable(user_id=copy.user_id, flow=copy, name=row.name, value=row.value)
            for row in Variable.objects.filter(flow=flow)
        )
        Secret.objects.bulk_create(
            Secret(user_id=copy.user_id, flow=copy, name=row.name, encrypted_value=row.encrypted_value)
            for row in Secret.objects.filter(flow=flow)
        )
    return copy


def export_flow(*, flow: Flow) -> dict[str, Any]:
    """The flow as a document that `create_flow` takes: no ids, tokens, secrets or variables in it."""
    answers = flow_exported.send(sender=Flow, flow=flow)
    return {
        "name": flow.name,
        "description": flow.description,
        "organism_yaml": flow.organism_yaml,
        "canvas_state": flow.canvas_state,
        "triggers": [trigger for _, triggers in answers for trigger in triggers or []],
    }


def flow_by_reference(*, user: User, reference: str) -> Flow:
    """The flow of `user` that `reference` names: an id, or a name as it is written.

    Raises `FlowNotFound` (404), and `FlowNameAmbiguous` (409) for a name that several flows have.
    """
    flows = Flow.objects.for_user(user)
    found = list(flows.filter(pk=reference) if _is_uuid(reference) else flows.filter(name=reference)[:2])
    if not found:
        raise FlowNotFound(f'There is no flow "{reference}" among yours; give its id or its exact name.')
    if len(found) > 1:
        raise FlowNameAmbiguous(f'Several of your flows are called "{reference}"; give the id of the one you mean.')
    return found[0]


def _require_room(owner: User) -> None:
    limit = limits_of(owner).flows
    if Flow.objects.for_user(owner).count() >= limit:
        upgrade = "" if is_overridden(owner, "flows") else ", or upgrade"
        raise FlowLimitReached(
            f"{whose_limit(owner, 'flows')} is {so_many(limit, 'flow')}, and you have as many. "
            f"Delete one{upgrade} to make another.",
            details={"limit": limit, "tier": owner.tier},
        )


def _name_of_copy(flow: Flow) -> str:
    taken = set(Flow.objects.filter(user_id=flow.user_id).values_list("name", flat=True))
    for number in count(1):
        suffix = " (copy)" if number == 1 else f" (copy {number})"
        name = flow.name[: MAX_NAME - len(suffix)] + suffix
        if name not in taken:
            return name
    raise AssertionError("count() does not end")


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True

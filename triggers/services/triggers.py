"""Triggers come, change, fire on request and go.

Writes lock the flow first: it orders them against each other, which makes the cap exact, and against the flow's
start and stop, so that a schedule is armed exactly when its flow runs.
"""

import hashlib
import secrets
from datetime import datetime
from typing import Any

from django.db import transaction

from billing.services import is_overridden, limits_of, whose_limit
from bloxserver.core.crypto import encrypt
from bloxserver.core.errors import InvalidInput, NotFound
from bloxserver.core.words import so_many
from executions.models import Execution, TriggerType
from executions.services import accept_execution
from flows.models import Flow
from triggers.config import ScheduleConfig, read_config
from triggers.errors import InvalidTriggerConfig, NotAWebhook, TriggerDisabled, TriggerLimitReached
from triggers.models import Trigger
from triggers.querysets import TriggerQuerySet
from triggers.services import schedules
from triggers.services.ledgers import erase_triggers


def create_trigger(
    *, flow: Flow, type: str, name: str, config: dict[str, Any], now: datetime, enabled: bool = True
) -> Trigger:
    """A new trigger of the flow; a webhook gets its token, a schedule of a running flow is armed.

    Raises `InvalidTriggerConfig` (400) and `TriggerLimitReached` (402).
    """
    read_config(type, config)
    with transaction.atomic():
        locked = _lock_flow(flow)
        _require_room(locked)
        trigger = Trigger(flow=locked, type=type, name=name, config=config, enabled=enabled, created_at=now)
        if type == TriggerType.WEBHOOK:
            _give_token(trigger)
        schedules.arm(trigger, flow=locked, now=now)
        trigger.save(force_insert=True)
    return trigger


def update_trigger(*, trigger: Trigger, changes: dict[str, Any], now: datetime) -> Trigger:
    """Write `changes` (of name, config and enabled). A schedule's next firing moves only when its timing changed.

    Raises `InvalidTriggerConfig` (400), and `NotFound` when it has been deleted meanwhile.
    """
    if "config" in changes:
        read_config(trigger.type, changes["config"])
    with transaction.atomic():
        flow, locked = _lock(trigger)
        changed = {field for field, value in changes.items() if getattr(locked, field) != value}
        timing = _timing(locked)
        for field in changed:
            setattr(locked, field, changes[field])
        if _timing(locked) != timing:
            schedules.arm(locked, flow=flow, now=now)
            changed |= {"next_moment", "next_fire_at"}
        if changed:
            locked.save(update_fields=sorted(changed))
    return locked


def delete_trigger(*, trigger: Trigger, now: datetime) -> None:
    """Executions that it made stay: they keep its id and name as values.

    Where its ledgers are too long for one transaction it disappears from sight at once, and from the database bit by bit.
    """
    with transaction.atomic():
        _, locked = _lock(trigger)
        _delete(Trigger.objects.filter(pk=locked.pk), now=now)


def delete_triggers_of(*, flow: Flow, now: datetime) -> bool:
    """All of a flow that is being deleted, in that transaction; whether some of their ledgers have still to go."""
    return _delete(Trigger.with_deleted.filter(flow=flow), now=now)


def _delete(triggers: TriggerQuerySet, *, now: datetime) -> bool:
    """Nobody finds them from now on, and they never fire; True where their ledgers have still to go."""
    ids = list(triggers.values_list("pk", flat=True))
    Trigger.objects.filter(pk__in=ids).update(
        deleted_at=now, enabled=False, token_encrypted="", next_moment=None, next_fire_at=None
    )
    return not erase_triggers(ids)


def regenerate_token(*, trigger: Trigger) -> Trigger:
    """A new webhook URL; the old one answers 404 from now on. Raises `NotAWebhook` (409)."""
    if trigger.type != TriggerType.WEBHOOK:
        raise NotAWebhook(f"This is a {trigger.type} trigger; only webhooks have a token.")
    with transaction.atomic():
        _, locked = _lock(trigger)
        _give_token(locked)
        locked.save(update_fields=["token_hash", "token_encrypted"])
    return locked


def fire_trigger(*, trigger: Trigger, now: datetime, payload: str | None = None) -> Execution:
    """Fire it now, whatever its type. `payload` is JSON text; without it a schedule gives what its moments give.

    Raises `TriggerDisabled` (409), and what `executions.services.accept_execution` raises.
    """
    if not trigger.enabled:
        raise TriggerDisabled(f'The trigger "{trigger.name}" is disabled; enable it first.')
    if payload is None:
        payload = schedules.schedule_payload(now) if trigger.type == TriggerType.SCHEDULE else "null"
    return accept_execution(
        flow=trigger.flow,
        trigger_type=trigger.type,
        trigger_id=trigger.pk,
        trigger_name=trigger.name,
        payload=payload,
        trigger=schedules.context(now=now),
        now=now,
    )


def export_triggers(*, flow: Flow) -> list[dict[str, Any]]:
    """The flow's triggers as documents that `import_triggers` takes: without ids and tokens."""
    triggers = Trigger.objects.filter(flow=flow).only("type", "name", "config", "enabled")
    return [{"type": row.type, "name": row.name, "config": row.config, "enabled": row.enabled} for row in triggers]


def import_triggers(*, flow: Flow, documents: list[dict[str, Any]], now: datetime) -> None:
    """Make the triggers of an export. Raises what `create_trigger` raises, naming which of them it is about."""
    for index, document in enumerate(documents):
        if document["type"] not in TriggerType.values:
            raise InvalidInput(
                f"triggers[{index}]: the type must be one of {', '.join(TriggerType.values)}.",
                details={"triggers": [f"[{index}].type: unknown type."]},
            )
        try:
            create_trigger(flow=flow, now=now, **document)
        except InvalidTriggerConfig as error:
            messages = [f"[{index}].config.{message}" for message in (error.details or {})["config"]]
            raise InvalidInput(f"triggers[{index}]: {error.message}", details={"triggers": messages}) from error


def token_hash(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def _lock_flow(flow: Flow) -> Flow:
    locked = Flow.objects.locked().filter(pk=flow.pk).first()
    if locked is None:
        raise NotFound("Not found.")
    return locked


def _lock(trigger: Trigger) -> tuple[Flow, Trigger]:
    """The flow and the trigger as they are now, kept so until the transaction ends."""
    flow = Flow.objects.locked().filter(pk=trigger.flow_id).first()
    locked = Trigger.objects.select_for_update(of=("self",), no_key=True).filter(pk=trigger.pk).first()
    if flow is None or locked is None:
        raise NotFound("Not found.")
    return flow, locked


def _require_room(flow: Flow) -> None:
    limit = limits_of(flow.user).triggers_per_flow
    if Trigger.objects.filter(flow=flow).count() >= limit:
        upgrade = "" if is_overridden(flow.user, "triggers_per_flow") else ", or upgrade"
        raise TriggerLimitReached(
            f"{whose_limit(flow.user, 'triggers_per_flow')} is {so_many(limit, 'trigger')} a flow, and this one has as many. "
            f"Delete one{upgrade} to make another.",
            details={"limit": limit, "tier": flow.user.tier},
        )


def _give_token(trigger: Trigger) -> None:
    token = secrets.token_urlsafe(32)  # 256 bits, 43 characters
    trigger.token_hash = token_hash(token)
    trigger.token_encrypted = encrypt(token)


def _timing(trigger: Trigger) -> tuple[object, ...]:
    """What decides when it fires next; a stored config that is no longer valid equals no other."""
    try:
        config = read_config(trigger.type, trigger.config)
    except InvalidTriggerConfig:
        return (trigger.enabled, object())
    return (trigger.enabled, config.timing if isinstance(config, ScheduleConfig) else None)

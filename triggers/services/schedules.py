"""Schedules: arming them while their flow runs. (`ticks.py` fires what is due.)

A trigger that is armed has a `next_moment` (what its cron says) and a `next_fire_at` (that moment, its jitter later).
"""

import logging
from datetime import UTC, datetime
from typing import Any

from bloxserver.core import json_text
from executions.models import TriggerType
from flows.models import Flow, FlowStatus
from triggers import cron
from triggers.config import ScheduleConfig, read_config
from triggers.errors import InvalidTriggerConfig
from triggers.models import Trigger

logger = logging.getLogger(__name__)


def arm(trigger: Trigger, *, flow: Flow, now: datetime) -> None:
    """Set, without saving, when `trigger` fires next: not at all unless it is an enabled schedule of a running flow."""
    trigger.next_moment = trigger.next_fire_at = None
    if trigger.type == "schedule" and trigger.enabled and flow.status == FlowStatus.RUNNING:
        config = schedule_config(trigger.config)
        _set_next(trigger, config, config.schedule.next(now))


def arm_flow(*, flow: Flow, now: datetime) -> None:
    """Arm the schedules of a flow that has started, in its transaction; those still armed are left as they are.

    (A redeployment must not lose a moment that is due and not yet fired.) A schedule that can no longer be read is
    disabled instead of keeping the flow from its start.
    """
    triggers = Trigger.objects.schedules().filter(flow=flow, enabled=True, next_fire_at=None)
    for trigger in triggers.select_for_update(of=("self",), no_key=True).order_by("pk"):
        try:
            arm(trigger, flow=flow, now=now)
        except InvalidTriggerConfig as error:
            disable(trigger, error)
        else:
            trigger.save(update_fields=["next_moment", "next_fire_at"])


def disarm_flow(*, flow: Flow) -> None:
    """No schedule of a stopped flow is due any more. In the transaction that stops it."""
    Trigger.objects.armed().filter(flow=flow).update(next_moment=None, next_fire_at=None)


def preview(trigger: Trigger, *, now: datetime, count: int = 5) -> list[datetime]:
    """When this schedule fires next, `count` times, or would if it were enabled and its flow ran."""
    config = schedule_config(trigger.config)
    offset = cron.offset(trigger.pk, config.jitter)
    upcoming = config.schedule.first(count, after=now - offset)
    if trigger.next_moment is not None and trigger.next_moment not in upcoming:  # due, or waiting out its jitter
        upcoming = [trigger.next_moment, *upcoming[: count - 1]]
    return [moment + offset for moment in upcoming]


def schedule_config(values: dict[str, Any]) -> ScheduleConfig:
    """A schedule's `config`. Raises `InvalidTriggerConfig`."""
    config = read_config(TriggerType.SCHEDULE, values)
    assert isinstance(config, ScheduleConfig)
    return config


def schedule_payload(moment: datetime) -> str:
    """What the entry listener of a scheduled flow gets, as JSON."""
    return json_text.dumps({"scheduledFor": iso(moment)})


def context(
    *, now: datetime, method: str | None = None, headers: dict[str, str] | None = None, query: object = None
) -> dict[str, object]:
    """What expressions see as `trigger`, beside its type and name; the same keys whatever fired."""
    return {"firedAt": iso(now), "method": method, "headers": headers or {}, "query": query or {}}


def iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _set_next(trigger: Trigger, config: ScheduleConfig, moment: datetime) -> None:
    trigger.next_moment = moment
    trigger.next_fire_at = moment + cron.offset(trigger.pk, config.jitter)


def disable(trigger: Trigger, error: InvalidTriggerConfig) -> None:
    logger.error("The schedule %s is disabled: %s", trigger.pk, error.message)
    trigger.enabled = False
    trigger.next_moment = trigger.next_fire_at = None
    trigger.save(update_fields=["enabled", "next_moment", "next_fire_at"])

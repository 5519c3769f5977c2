"""Which row of a ledger made an execution."""

from datetime import datetime

from executions.models import Execution
from executions.origins import Origin
from triggers.models import Delivery, Moment, Trigger, Verdict


def origin_of(*, execution: Execution, fired_at: datetime) -> Origin | None:
    """None where no call and no moment made it (a person fired the trigger), or its row is gone.

    A row that made an execution is not looked for by that execution's id: an index on it would be one more for each call
    that is accepted. A call is received when its trigger fires, and a moment has one row; only replays have that index.
    """
    trigger = Trigger.objects.filter(pk=execution.trigger_id, flow=execution.flow_id).first()
    if trigger is None:
        return None
    if execution.scheduled_for is not None:
        moment = Moment.objects.filter(
            trigger=trigger, moment=execution.scheduled_for, execution_id=execution.pk
        ).first()
        return None if moment is None else Origin(moment_id=moment.pk, rows=(moment, trigger))
    delivery = _delivery(trigger, execution, fired_at)
    if delivery is None:
        return None
    return Origin(
        delivery_id=delivery.pk,
        delivery_key=delivery.key,
        received_at=delivery.received_at,
        address=delivery.address,
        is_replay=delivery.verdict != Verdict.ACCEPTED,
        rows=(delivery, trigger),
    )


def _delivery(trigger: Trigger, execution: Execution, fired_at: datetime) -> Delivery | None:
    rows = Delivery.objects.without_request().filter(trigger=trigger, execution_id=execution.pk)
    accepted = rows.filter(received_at=fired_at, verdict=Verdict.ACCEPTED)
    return accepted.first() or rows.filter(replayed_at__isnull=False).order_by().first()

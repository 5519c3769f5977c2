"""The vocabulary of filters over triggers and receipts. They compose and never write."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Self

from flows.querysets import OwnedQuerySet

if TYPE_CHECKING:
    from triggers.models import Receipt, Trigger  # noqa: F401

RECEIPTS_KEPT = timedelta(hours=72)


class TriggerQuerySet(OwnedQuerySet["Trigger"]):
    def schedules(self) -> Self:
        return self.filter(type="schedule")

    def armed(self) -> Self:
        return self.filter(next_fire_at__isnull=False)

    def due(self, now: datetime) -> Self:
        return self.filter(next_fire_at__lte=now)

    def with_flow(self) -> Self:
        """With the flow and its owner, without the flow's YAML and canvas, which a firing never reads."""
        return self.select_related("flow__user").defer("flow__organism_yaml", "flow__canvas_state", "flow__description")


class ReceiptQuerySet(OwnedQuerySet["Receipt"]):
    def expired(self, now: datetime) -> Self:
        return self.filter(created_at__lt=now - RECEIPTS_KEPT)

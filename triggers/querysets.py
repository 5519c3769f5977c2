"""The vocabulary of filters over triggers and their ledgers. They compose and never write."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self, TypeVar

from django.db import models
from django.db.models import QuerySet

from flows.querysets import OwnedQuerySet

if TYPE_CHECKING:
    from triggers.models import Delivery, Moment, Trigger  # noqa: F401

DELIVERIES_HELD = timedelta(hours=72)


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


class TriggerManager(models.Manager.from_queryset(TriggerQuerySet)):  # type: ignore[misc]
    """All triggers but those that are deleted, and whose ledgers are still being cleared away."""

    def get_queryset(self) -> TriggerQuerySet:
        return super().get_queryset().filter(deleted_at=None)


class DeliveryQuerySet(OwnedQuerySet["Delivery"]):
    def without_request(self) -> Self:
        """Lists never read what is kept for a replay."""
        return self.defer("request")

    def receipts(self) -> Self:
        """Those whose key still counts."""
        return self.filter(held=True, execution_id__isnull=False)

    def expired(self, now: datetime) -> Self:
        """Held longer than keys and requests are kept."""
        return self.filter(held=True, received_at__lt=now - DELIVERIES_HELD)

    def between(self, since: datetime | None, until: datetime | None) -> Self:
        return _between(self, "received_at", since, until)


class MomentQuerySet(OwnedQuerySet["Moment"]):
    def between(self, since: datetime | None, until: datetime | None) -> Self:
        return _between(self, "moment", since, until)


Rows = TypeVar("Rows", bound="QuerySet[Any]")


def _between(rows: Rows, field: str, since: datetime | None, until: datetime | None) -> Rows:
    """From `since` on, before `until`."""
    if since is not None:
        rows = rows.filter(**{f"{field}__gte": since})
    if until is not None:
        rows = rows.filter(**{f"{field}__lt": until})
    return rows

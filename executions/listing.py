"""One page of a history that may be very long, and how many there are: each at a bounded cost (decision 0002)."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar
from uuid import UUID

from django.db.models import Q

from bloxserver.api.long_lists import Page, Total, count_some, page_of
from executions import tally
from executions.models import Execution, ExecutionStatus
from executions.querysets import ExecutionQuerySet
from executions.wanted import Wanted

READ = 10_000  # rows that are read for a filter that no index serves
READ_FOR_SEARCH = 1_000  # the same, where each one's input has to be read too


@dataclass(frozen=True, slots=True)
class _Found:
    """What a scan has found, newest first, and the row as far as which it went when not all could be looked at."""

    ids: list[UUID]
    horizon: Execution | None


@dataclass(frozen=True)
class History:
    """The executions of `rows` (a user's, or those of the wanted flow of theirs) that are wanted, newest first."""

    rows: ExecutionQuerySet
    wanted: Wanted
    user_id: UUID
    moment: ClassVar[str] = "started_at"

    def page(self, *, after: Q | None, start: int, size: int) -> Page:
        """`size` executions from the place `start` on, counted from the newest, or from what comes `after`."""
        if not self.wanted.is_scanning:
            return page_of(self._indexed(after), start=start, size=size)
        found = self._scan(after) if after is not None else self._scan_from_newest
        items = list(_ordered(self.rows.filter(pk__in=found.ids[start : start + size])))
        if len(found.ids) > start + size:
            return Page(items, True, items[-1] if items else None)
        return Page(items, found.horizon is not None, found.horizon)

    def total(self) -> Total:
        """How many are wanted: from the counters where only flow and status are asked for, else counted up to a bound."""
        if self.wanted.is_scanning:
            found = self._scan_from_newest
            return Total(len(found.ids), found.horizon is None)
        if self.wanted.since or self.wanted.until:
            return count_some(self._indexed(None))
        return Total(self._tallied(), True)

    def _indexed(self, after: Q | None) -> ExecutionQuerySet:
        rows = _ordered(self.wanted.by_index(self.rows))
        return rows if after is None else rows.filter(after)

    @cached_property
    def _scan_from_newest(self) -> _Found:
        """For the first page and the total: it is most of what either costs."""
        return self._scan(None)

    def _scan(self, after: Q | None) -> _Found:
        rows = self._indexed(after)
        reach = READ_FOR_SEARCH if self.wanted.search else READ
        horizon = next(iter(rows.only("started_at", "id")[reach - 1 : reach]), None)
        if self.wanted.search:
            # By id: for a range PostgreSQL starts parallel workers, which takes longer than the search.
            rows = _ordered(Execution.objects.filter(pk__in=rows.values("pk")[:reach]))
        elif horizon is not None:
            at, last = horizon.started_at, horizon.pk
            rows = rows.filter(Q(started_at__gte=at) & (Q(started_at__gt=at) | Q(started_at=at, id__gte=last)))
        return _Found(list(self.wanted.by_reading(rows).values_list("pk", flat=True)), horizon)

    def _tallied(self) -> int:
        flow_id, statuses = self.wanted.flow_id, self.wanted.statuses
        ended = tally.ended(user_id=self.user_id, flow_id=flow_id)
        count = sum(runs for status, (runs, _) in ended.items() if not statuses or status in statuses)
        if not statuses or ExecutionStatus.RUNNING in statuses:
            count += self.rows.alive().count()
        return count


def _ordered(rows: ExecutionQuerySet) -> ExecutionQuerySet:
    return rows.order_by("-started_at", "-id")

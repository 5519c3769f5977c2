"""One page of a history that may be very long, and how many there are: each at a bounded cost (decision 0002)."""

from dataclasses import dataclass
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
class History:
    """The executions of `rows` (a user's, or those of the wanted flow of theirs) that are wanted, newest first."""

    rows: ExecutionQuerySet
    wanted: Wanted
    user_id: UUID
    moment: ClassVar[str] = "started_at"

    def page(self, *, after: Q | None, start: int, size: int) -> Page:
        """`size` executions from the place `start` on, counted from the newest, or from what comes `after`."""
        found, horizon = self._within_reach(after)
        page = page_of(found, start=start, size=size)
        return page if page.has_more else Page(page.items, horizon is not None, horizon)

    def total(self) -> Total:
        """How many are wanted: from the counters where only flow and status are asked for, else counted up to a bound."""
        wanted = self.wanted
        if not (wanted.is_scanning or wanted.since or wanted.until):
            return Total(self._tallied(), True)
        found, horizon = self._within_reach(None)
        total = count_some(found)
        return Total(total.count, total.is_exact and horizon is None)

    def _within_reach(self, after: Q | None) -> tuple[ExecutionQuerySet, Execution | None]:
        """The wanted rows, and the one as far as which they reach when not all could be looked at."""
        rows = self.wanted.by_index(self.rows).order_by("-started_at", "-id")
        if after is not None:
            rows = rows.filter(after)
        if not self.wanted.is_scanning:
            return rows, None
        reach = READ_FOR_SEARCH if self.wanted.search else READ
        horizon = next(iter(rows.only("started_at", "id")[reach - 1 : reach]), None)
        if horizon is not None:
            at, last = horizon.started_at, horizon.pk
            rows = rows.filter(Q(started_at__gte=at) & (Q(started_at__gt=at) | Q(started_at=at, id__gte=last)))
        return self.wanted.by_reading(rows), horizon

    def _tallied(self) -> int:
        flow_id, statuses = self.wanted.flow_id, self.wanted.statuses
        ended = tally.ended(user_id=self.user_id, flow_id=flow_id)
        count = sum(runs for status, (runs, _) in ended.items() if not statuses or status in statuses)
        if not statuses or ExecutionStatus.RUNNING in statuses:
            count += self.rows.alive().count()
        return count

"""The vocabulary of filters over executions and steps. They compose and never write."""

from datetime import datetime
from typing import TYPE_CHECKING, Self
from uuid import UUID

from django.apps import apps
from django.db.models import Exists, OuterRef, Q, Subquery
from django.db.models.functions import Now

from flows.models import Flow
from flows.querysets import OwnedQuerySet

if TYPE_CHECKING:
    from accounts.models import User
    from executions.models import Approval, Execution, FailureNotice, Step  # noqa: F401 - named in strings below


class ExecutionQuerySet(OwnedQuerySet["Execution"]):
    def alive(self) -> Self:
        return self.exclude(state="ended")

    def claimable(self) -> Self:
        """Due by the database's clock, and nobody's."""
        return self.filter(state__in=["queued", "parked"], due_at__lte=Now())

    def expired(self) -> Self:
        """Held by a worker that has not renewed its lease."""
        return self.filter(state="working", lease_until__lt=Now())

    def of_flow(self, flow_id: UUID, user: "User") -> Self:
        """For `user` too, but asked of the flow: given the user of each row, PostgreSQL may read through all of theirs to
        find those of a flow that has not run lately."""
        return self.filter(flow_id=flow_id, flow__user=user, flow__deleted_at=None)

    def of_existing_flows(self, user: "User") -> Self:
        """Without those of deleted flows, which wait for `prune_history`."""
        return self.exclude(flow__in=Flow.with_deleted.filter(user=user, deleted_at__isnull=False))

    def last_ended(self) -> Self:
        """Those that say how a flow is doing, the latest first: not test runs, nor what a person cancelled."""
        ended = self.filter(state="ended", is_draft=False, cancel_requested_at__isnull=True)
        return ended.order_by("-completed_at")

    def between(self, since: datetime | None, until: datetime | None) -> Self:
        rows = self
        if since is not None:
            rows = rows.filter(started_at__gte=since)
        if until is not None:
            rows = rows.filter(started_at__lt=until)
        return rows


class StepQuerySet(OwnedQuerySet["Step"]):
    def for_user(self, user: "User") -> Self:
        return self.filter(execution__user=user)

    def unfinished(self) -> Self:
        return self.filter(Q(status="running") | Q(status="waiting"))

    def led_nowhere(self) -> Self:
        """Of an execution that has ended: those that its end cut off, or that failed with no `on_error` to handle it."""
        return self.filter(status="error", sent_to=[])


class ApprovalQuerySet(OwnedQuerySet["Approval"]):
    def open(self) -> Self:
        """Those that can be answered, by the database's clock: a run that is over them asks nobody any more."""
        steps = self._steps().filter(Q(status="running") | Q(status="waiting"))
        in_time = Q(expires_at=None) | Q(expires_at__gt=Now())
        return self.filter(in_time, Exists(steps), answer="").exclude(execution__state="ended")

    def answered(self) -> Self:
        return self.exclude(answer="")

    def with_step(self) -> Self:
        """Each with the id of its step as `step_id`."""
        return self.annotate(step_id=Subquery(self._steps().values("pk")[:1]))

    def of_step(self, step_id: UUID) -> Self:
        return self.filter(Exists(self._steps().filter(pk=step_id)))

    def _steps(self) -> StepQuerySet:
        step = apps.get_model("executions", "Step")
        steps: StepQuerySet = step._default_manager.filter(
            execution_id=OuterRef("execution_id"), key=OuterRef("step_key")
        )
        return steps


class FailureNoticeQuerySet(OwnedQuerySet["FailureNotice"]):
    def for_user(self, user: "User") -> Self:
        return self.filter(execution__user=user)

    def due(self, now: datetime) -> Self:
        return self.filter(due_at__lte=now)

    def given_up(self) -> Self:
        return self.filter(due_at__isnull=True, done_at__isnull=True)

"""After a downgrade no flow is deleted: those that ran longest ago are stopped until the cap holds."""

import logging
import time
from datetime import datetime

from django.db.models import F, OuterRef, Subquery

from billing import notices
from billing.models import FlowCapReview
from billing.services import limits_of
from executions.dispatch import Job, ring
from executions.models import Execution
from flows.models import Flow, FlowStatus
from flows.services import stop_flow

logger = logging.getLogger(__name__)

SECONDS = 2.0  # of one run of the task, since executions wait meanwhile


def review_flow_caps(*, now: datetime, seconds: float = SECONDS) -> None:
    """See to the reviews that are due. One that fails is tried again later. What is not done in `seconds` is rung for
    again."""
    stop_at = time.monotonic() + seconds
    notices.note_expired_limits(now=now)
    while (review := notices.claim_review(now=now)) is not None:
        try:
            _review(review, now, stop_at)
        except Exception as error:
            logger.exception("The flows of user %s could not be reviewed", review.user_id)
            notices.fail_review(review, f"{type(error).__name__}: {error}", now=now)
        if time.monotonic() >= stop_at:
            ring(Job.REVIEW)
            return


def _review(review: FlowCapReview, now: datetime, stop_at: float) -> None:
    """What is to be stopped is written down first, so that the mail names it also when this breaks off in between."""
    flows = _over_cap(review)
    notices.plan_review(review, [{"id": str(flow.pk), "name": flow.name} for flow in flows])
    for flow in flows:
        if flow is not flows[0] and time.monotonic() >= stop_at:  # each attempt stops one at least
            notices.interrupt_review(review, now=now)
            return
        stop_flow(flow=flow)
    notices.complete_review(review, now=now)


def _over_cap(review: FlowCapReview) -> list[Flow]:
    """Those that run beyond the user's cap as it is now: first what an attempt before has written down, then the one that ran
    longest ago."""
    last_run = Execution.objects.filter(flow=OuterRef("pk")).order_by("-started_at").values("started_at")[:1]
    running = Flow.objects.filter(user=review.user, status__in=[FlowStatus.RUNNING, FlowStatus.STARTING])
    oldest_first = (F("last_run").asc(nulls_first=True), "deployed_at", "pk")
    flows = list(running.without_bodies().annotate(last_run=Subquery(last_run)).order_by(*oldest_first))
    planned = {flow["id"] for flow in review.stopped}
    flows.sort(key=lambda flow: str(flow.pk) not in planned)
    return flows[: max(0, len(flows) - limits_of(review.user).flows)]

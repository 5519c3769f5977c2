"""After a downgrade no flow is deleted: those that ran longest ago are stopped until the cap holds."""

import logging
import time
from datetime import datetime

from django.db.models import F, OuterRef, Subquery

from accounts.models import User
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
            _review(review, now)
        except Exception as error:
            logger.exception("The flows of user %s could not be reviewed", review.user_id)
            notices.fail_review(review, f"{type(error).__name__}: {error}", now=now)
        if time.monotonic() >= stop_at:
            ring(Job.REVIEW)
            return


def _review(review: FlowCapReview, now: datetime) -> None:
    """What is to be stopped is written down first, so that the mail names it also when this breaks off in between."""
    flows = _over_cap(review.user)
    notices.plan_review(review, [{"id": str(flow.pk), "name": flow.name} for flow in flows])
    for flow in flows:
        stop_flow(flow=flow)
    notices.complete_review(review, now=now)


def _over_cap(user: User) -> list[Flow]:
    """Those that run beyond the user's cap as it is now, the one that ran longest ago first."""
    last_run = Execution.objects.filter(flow=OuterRef("pk")).order_by("-started_at").values("started_at")[:1]
    running = Flow.objects.filter(user=user, status__in=[FlowStatus.RUNNING, FlowStatus.STARTING])
    flows = list(
        running.annotate(last_run=Subquery(last_run)).order_by(F("last_run").asc(nulls_first=True), "deployed_at", "pk")
    )
    return flows[: max(0, len(flows) - limits_of(user).flows)]

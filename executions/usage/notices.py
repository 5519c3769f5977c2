"""Who is to be told that 80 or 100 % of a period's runs are used. billing sends the mails.

Nothing is noted where runs are accepted: the clock has users looked at, `TOGETHER` at a time. Which of them it is their turn
follows from the time, so that nobody is left out after a pause, and no process has to remember where it was.
"""

from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db.models import OuterRef, Q, QuerySet, Subquery

from accounts.models import User
from billing.models import DeletedRuns, RunBudget, RunNotice
from billing.months import month_of
from billing.periods import calendar_month, period_of
from billing.runs import percent_passed
from billing.services import limits_of
from executions.models import Execution
from executions.usage.counting import runs_of

TOGETHER = 250  # users of one look: a second, where each has some tens of thousands of runs
LONGEST_PERIOD = timedelta(days=31)


def notice_runs(*, now: datetime, together: int = TOGETHER) -> None:
    """Note the mails that are due to the users whose turn it is. The unique constraint lets one of many note each."""
    users = list(User.objects.filter(pk__in=_whose_turn(now, together)))
    budgets = RunBudget.objects.filter(user__in=users, period_start=month_of(now)).values_list("user", "runs")
    told = RunNotice.objects.filter(user__in=users, period_end__gt=now).values_list("user", "period_start", "percent")
    reserved, told_of = dict(budgets), set(told)
    notices = [notice for user in users if (notice := _notice(user, reserved.get(user.pk, 0), now))]
    new = [notice for notice in notices if (notice.user_id, notice.period_start, notice.percent) not in told_of]
    RunNotice.objects.bulk_create(new, ignore_conflicts=True)


def _whose_turn(now: datetime, together: int) -> list[UUID]:
    user_ids = list(_worth_a_look(now))
    turns = -(-len(user_ids) // together) or 1
    start = int(now.timestamp() // settings.BLOX_RUN_NOTICES_SECONDS) % turns * together
    return user_ids[start : start + together]


def _worth_a_look(now: datetime) -> "QuerySet[User, UUID]":
    """Those who have run something lately: one look into an index for each user's latest."""
    executions = Execution.objects.filter(user=OuterRef("pk")).order_by("-started_at", "-id")
    deleted = DeletedRuns.objects.filter(user=OuterRef("pk")).order_by("-starts_at")
    since = now - LONGEST_PERIOD
    users = User.objects.filter(is_active=True).annotate(
        latest=Subquery(executions.values("started_at")[:1]), latest_deleted=Subquery(deleted.values("starts_at")[:1])
    )
    recent = users.filter(Q(latest__gte=since) | Q(latest_deleted__gte=since))
    return recent.order_by("pk").values_list("pk", flat=True)


def _notice(user: User, reserved: int, now: datetime) -> RunNotice | None:
    """The one that the user's runs call for. Where runs are refused at the cap, `reserved` by the month's budget are they."""
    limits = limits_of(user)
    if not limits.runs_per_month:
        return None
    if limits.refused_over_runs:
        period, runs = calendar_month(now), reserved
    else:
        period = period_of(user=user, now=now)
        runs = runs_of(user, period)
    percent = percent_passed(runs, limits.runs_per_month)
    if percent is None:
        return None
    return RunNotice(
        user=user,
        period_start=period.starts_at,
        period_end=period.ends_at,
        percent=percent,
        runs=runs,
        limit=limits.runs_per_month,
        due_at=now,
        created_at=now,
    )

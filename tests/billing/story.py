"""A customer's life with the machine's clock at the story's moment: what happens, and at each point all figures at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models import F, Sum
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from accounts.models import User
from billing.errors import UsageLimitExceeded
from billing.models import BillingMail, DeletedRuns, OverageReport, RunNotice, Subscription, SubscriptionPeriod
from billing.services import limits_of
from billing.stripe import services
from billing.stripe.client import client
from executions import tasks
from executions.models import Execution, ExecutionStatus, State
from executions.services.acceptance import Firing, accept_all
from flows.models import Flow, FlowStatus
from tests.billing.shop import Shop, opened
from tests.conftest import api_as
from tests.executions.factories import make_flow

SHORTLY = timedelta(
    minutes=3
)  # after the end of a period: its last count is due then, its invoice an hour after the end


@dataclass(frozen=True)
class Figures:
    """All that a moment of the story shows. Money is in cents."""

    tier: str
    status: str  # of the latest subscription
    period: str
    limit: int
    runs: int  # by GET /usage, by SQL over the rows, and by the story's own book
    estimate: float  # of the overage, by GET /usage, in dollars
    flows: str  # that run, of those that may
    ledger: int  # runs, of all periods
    meter: int  # the same at Stripe
    lines: list[int]  # of the latest invoice
    invoice: str
    mails: list[str]  # since the moment before


@dataclass
class Story:
    shop: Shop
    user: User
    api: APIClient
    flow: Flow
    ran: list[datetime] = field(default_factory=list)  # the story's own book
    rows: list[tuple[str, str, Figures]] = field(default_factory=list)
    _told: int = 0  # mails

    # What happens. ---------------------------------------------------------------------------------------------------
    def until(self, moment: datetime) -> None:
        """Time passes; the clock's tasks run once a day, and shortly after the end of each period."""
        while self.shop.now < moment:
            ends = SubscriptionPeriod.objects.values_list("ends_at", flat=True)
            stops = [self.shop.now + timedelta(days=1), *(end + SHORTLY for end in ends)]
            self.shop.stripe.advance_to(min([moment, *(stop for stop in stops if stop > self.shop.now)]))
            self.tick()

    def tick(self) -> None:
        tasks.report_overage()
        services.work()
        tasks.review_flow_caps()
        tasks.notice_runs()
        tasks.prune_history()
        self.shop.stripe.flush()

    def run(self, count: int) -> int:
        """So many runs are asked for at this moment; how many were accepted. They have ended at once."""
        self.flow.user.refresh_from_db()
        firing = Firing(flow=self.flow, trigger_type="webhook", payload="null")
        outcomes = accept_all([firing] * count, now=self.shop.now)
        accepted = sum(not isinstance(outcome, UsageLimitExceeded) for outcome in outcomes)
        ended = {"state": State.ENDED, "status": ExecutionStatus.SUCCESS, "due_at": None}
        Execution.objects.filter(state=State.QUEUED).update(completed_at=F("started_at"), **ended)
        self.ran += [self.shop.now] * accepted
        self.tick_after_an_hour()
        return accepted

    def tick_after_an_hour(self) -> None:
        """Counts are due each hour."""
        SubscriptionPeriod.objects.filter(count_due_at__gt=self.shop.now).update(count_due_at=self.shop.now)
        self.tick()

    # What it shows. --------------------------------------------------------------------------------------------------
    def check(self, what: str, **expected: Any) -> Figures:
        """Note the figures of this moment. All ways of counting must agree, and be as expected, mails included."""
        figures = self._figures()
        self.rows.append((f"{self.shop.now:%b %d %H:%M}", what, figures))
        shown = asdict(figures)
        assert {name: shown[name] for name in expected} == expected, what
        assert figures.ledger == figures.meter, what
        return figures

    def _figures(self) -> Figures:
        usage = self._get("/api/v1/usage")
        starts_at, ends_at = (datetime.fromisoformat(usage[name]) for name in ("periodStart", "periodEnd"))
        runs = {usage["runsUsed"], self._by_sql(starts_at, ends_at), self._by_book(starts_at, ends_at)}
        assert len(runs) == 1, runs
        self._check_history()
        latest = Subscription.objects.filter(user=self.user).order_by("-created_at").first()
        invoice = next(reversed(self.shop.stripe.objects("invoice")), None)
        return Figures(
            tier=User.objects.get(pk=self.user.pk).tier,
            status=latest.status if latest else "",
            period=f"{starts_at:%b %d %H} - {ends_at:%b %d %H}",
            limit=usage["runsLimit"],
            runs=runs.pop(),
            estimate=usage["estimatedOverage"],
            flows=self._flows(),
            ledger=OverageReport.objects.filter(user=self.user).aggregate(runs=Sum("value", default=0))["runs"],
            meter=self._meter(),
            lines=[line["amount"] for line in invoice["lines"]["data"]] if invoice else [],
            invoice=invoice["status"] if invoice else "",
            mails=self._mails(),
        )

    def _get(self, path: str) -> Any:
        answer = self.api.get(path)
        assert answer.status_code == 200, answer.content
        return answer.json()

    def _check_history(self) -> None:
        """Every period that GET /usage/history shows has the runs of the book."""
        for row in self._get("/api/v1/usage/history?pageSize=100")["items"]:
            bounds = (datetime.fromisoformat(row[name]) for name in ("periodStart", "periodEnd"))
            assert row["runsUsed"] == self._by_book(*bounds), row

    def _by_book(self, starts_at: datetime, ends_at: datetime) -> int:
        return sum(starts_at <= moment < ends_at for moment in self.ran)

    def _by_sql(self, starts_at: datetime, ends_at: datetime) -> int:
        """Executions that are there, and those that are deleted, by nothing of ours."""
        executions = f"SELECT count(*) FROM {Execution._meta.db_table} WHERE user_id = %s"
        deleted = f"SELECT coalesce(sum(runs), 0) FROM {DeletedRuns._meta.db_table} WHERE user_id = %s"
        key = User._meta.pk.get_db_prep_value(self.user.pk, connection)
        bounds = [connection.ops.adapt_datetimefield_value(moment) for moment in (starts_at, ends_at)]
        total = 0
        with connection.cursor() as cursor:
            for select, moment in ((executions, "started_at"), (deleted, "starts_at")):
                cursor.execute(f"{select} AND {moment} >= %s AND {moment} < %s", [key, *bounds])
                total += int(cursor.fetchone()[0])
        return total

    def _flows(self) -> str:
        running = Flow.objects.filter(user=self.user, status=FlowStatus.RUNNING).count()
        return f"{running}/{limits_of(User.objects.get(pk=self.user.pk)).flows}"

    def _meter(self) -> int:
        """What Stripe has been told of, since the story began."""
        customer = next((each["id"] for each in self.shop.stripe.objects("customer")), None)
        if customer is None:
            return 0
        [meter] = client().v1.billing.meters.list().data
        now = int(self.shop.now.timestamp()) // 60 * 60 + 60
        window: Any = {"customer": customer, "start_time": now - 400 * 86_400, "end_time": now}
        summaries = client().v1.billing.meters.event_summaries.list(meter.id, window).data
        return int(sum(each.aggregated_value for each in summaries))

    def _mails(self) -> list[str]:
        """Those about the subscription, and those about runs, in their order."""
        told = list(BillingMail.objects.filter(user=self.user).values_list("created_at", "kind"))
        notices = RunNotice.objects.filter(user=self.user).values_list("created_at", "percent")
        told += [(at, f"runs_{percent}") for at, percent in notices]
        new = [kind for _, kind in sorted(told)][self._told :]
        self._told = len(told)
        return new

    def table(self) -> str:
        names = [each.name for each in fields(Figures)]
        rows = [[when, what, *(_text(getattr(figures, name)) for name in names)] for when, what, figures in self.rows]
        lines = [["when", "", *names], *rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@contextmanager
def told(settings: Settings, monkeypatch: pytest.MonkeyPatch, begins: datetime) -> Iterator[Story]:
    """A story of Carol's, who has signed up at `begins`, ahead of the machine's clock: Stripe's signatures are of that one,
    and may be old but not of the future."""
    assert begins > datetime.now(UTC)
    with opened(settings, now=begins) as shop:
        monkeypatch.setattr(timezone, "now", lambda: shop.now)  # the clock of the whole process
        user = User.objects.create_user("carol@shop.example", name="Carol")
        story = Story(shop, user, api_as(user), make_flow(user))
        try:
            yield story
        finally:
            print(f"\n{story.table()}")

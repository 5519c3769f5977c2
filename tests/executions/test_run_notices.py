"""The mails at 80 and 100 % of a period's runs: noticed from what is counted, once a period."""

from datetime import UTC, datetime, timedelta

import pytest
from django.core import mail
from django.db import IntegrityError, transaction
from django.test import Client
from pytest_django import Settings

from accounts.models import Tier, User
from billing import run_mails
from billing.models import DeletedRuns, RunBudget, RunNotice
from billing.tasks import keep_budgets
from executions.tasks import notice_runs as notice_runs_task
from executions.usage.notices import notice_runs
from tests.executions.factories import make_execution, make_flow
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db

NOVEMBER = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY = datetime(2026, 11, 20, tzinfo=UTC)
ALICE = "alice@shop.example"


@pytest.fixture
def free(alice: User) -> User:
    User.objects.filter(pk=alice.pk).update(tier=Tier.FREE)
    make_execution(make_flow(alice), started_at=DAY)
    return User.objects.get(pk=alice.pk)


def reserved(user: User, runs: int) -> None:
    RunBudget.objects.update_or_create(user=user, period_start=DAY.date().replace(day=1), defaults={"runs": runs})


def ran(user: User, runs: int) -> None:
    DeletedRuns.objects.update_or_create(user=user, starts_at=DAY, defaults={"runs": runs})


def look(now: datetime = NOVEMBER) -> list[tuple[str, int]]:
    """Who has been told of what, after a look."""
    notice_runs(now=now)
    return list(RunNotice.objects.order_by("id").values_list("user__email", "percent"))


def test_a_free_user_is_told_at_80_percent_and_that_runs_will_be_refused(free: User) -> None:
    reserved(free, 799)
    assert look() == []
    reserved(free, 800)
    assert look() == [(ALICE, 80)]
    run_mails.send_due_mails()
    [sent] = mail.outbox
    assert (sent.to, sent.subject) == (["alice@shop.example"], "80 % of your 1,000 runs are used")
    assert "Once all are used, new executions are refused until 2026-12-01" in sent.body
    assert "Used: 800 of 1,000 runs since 2026-11-01 00:00 UTC\nReset: 2026-12-01 at 00:00 UTC" in sent.body


def test_at_the_cap_the_mail_says_that_runs_are_refused_until_the_reset(free: User) -> None:
    reserved(free, 1_000)
    look()
    run_mails.send_due_mails()
    [sent] = mail.outbox
    assert sent.subject == "All of your 1,000 runs are used"
    assert "\nNew executions are refused until 2026-12-01; a higher tier lifts that at once.\n" in sent.body


def test_pro_is_told_from_what_is_counted_and_what_more_runs_cost(alice: User) -> None:
    ran(alice, 79_999)
    assert look() == []
    make_execution(make_flow(alice), started_at=DAY)
    assert look() == [(ALICE, 80)]
    ran(alice, 99_999)
    assert look() == [(ALICE, 80), (ALICE, 100)]
    run_mails.send_due_mails()
    assert "\nOnce all are used, your flows go on, at $0.50 for each 1,000 runs.\n" in mail.outbox[0].body
    assert "\nYour flows go on, at $0.50 for each 1,000 runs.\n" in mail.outbox[1].body


def test_what_passes_both_at_once_is_told_of_the_second_alone(alice: User) -> None:
    ran(alice, 100_000)
    assert [look() for _ in range(2)] == [[(ALICE, 100)]] * 2


def test_each_is_said_once_a_period_however_often_it_is_looked_at(free: User) -> None:
    reserved(free, 900)
    assert [look() for _ in range(3)] == [[(ALICE, 80)]] * 3
    december = NOVEMBER + timedelta(days=10)
    RunBudget.objects.create(user=free, period_start=december.date().replace(day=1), runs=850)
    assert look(december) == [(ALICE, 80)] * 2


def test_the_database_keeps_a_second_notice_of_a_period_out(free: User) -> None:
    reserved(free, 900)
    look()
    notice = RunNotice.objects.get()
    with pytest.raises(IntegrityError), transaction.atomic():
        RunNotice.objects.create(
            user=free, period_start=notice.period_start, period_end=notice.period_end, percent=80, runs=1, limit=1
        )


@pytest.mark.parametrize("tier", [Tier.ENTERPRISE, Tier.HIGH_FREQUENCY])
def test_where_runs_are_unlimited_nobody_is_told(alice: User, tier: str) -> None:
    User.objects.filter(pk=alice.pk).update(tier=tier)
    ran(alice, 10**9)
    assert look() == []


def test_runs_of_the_month_before_are_not_of_this_one(alice: User) -> None:
    ran(alice, 100_000)
    assert look(NOVEMBER + timedelta(days=10)) == []


def test_many_users_take_turns(alice: User, bob: User, settings: Settings) -> None:
    for user in (alice, bob):
        ran(user, 100_000)
    notice_runs(now=NOVEMBER, together=1)
    assert RunNotice.objects.count() == 1
    notice_runs(now=NOVEMBER + timedelta(seconds=settings.BLOX_RUN_NOTICES_SECONDS), together=1)
    assert sorted(RunNotice.objects.values_list("user__email", flat=True)) == [ALICE, "bob@other.example"]


def test_a_closed_account_or_one_without_an_address_is_not_written_to(alice: User, bob: User) -> None:
    for user in (alice, bob):
        ran(user, 100_000)
    look()
    User.objects.filter(pk=alice.pk).update(is_active=False)
    User.objects.filter(pk=bob.pk).update(email="user_1@clerk.invalid")
    run_mails.send_due_mails()
    assert not mail.outbox
    assert list(RunNotice.objects.filter(due_at=None, sent_at=None).values_list("attempts", flat=True)) == [1, 1]


def test_a_limit_that_has_changed_since_is_not_spoken_of(free: User) -> None:
    reserved(free, 1_000)
    look()
    User.objects.filter(pk=free.pk).update(tier=Tier.PRO)
    run_mails.send_due_mails()
    assert (mail.outbox, RunNotice.objects.get().error) == ([], "The limit is another by now.")


@pytest.mark.django_db(transaction=True)
def test_a_worker_looks_and_the_clock_sends(alice: User, settings: Settings) -> None:
    entries = {entry["task"]: entry for entry in settings.CELERY_BEAT_SCHEDULE.values()}
    assert "queue" not in entries[notice_runs_task.name]["options"]  # the workers'
    now = datetime.now(UTC)
    DeletedRuns.objects.create(user=alice, starts_at=now.replace(hour=0, minute=0, second=0, microsecond=0), runs=10**6)
    notice_runs_task()
    keep_budgets()
    wait_until(lambda: RunNotice.objects.filter(sent_at__isnull=False, due_at=None).exists())
    assert [message.subject for message in mail.outbox] == ["All of your 100,000 runs are used"]


def test_the_admin_shows_the_notices_and_changes_none(admin_client: Client, free: User) -> None:
    reserved(free, 800)
    look()
    page = admin_client.get("/admin/billing/runnotice/", {"q": "alice@"})
    assert (page.status_code, free.email in page.content.decode()) == (200, True)
    url = f"/admin/billing/runnotice/{RunNotice.objects.get().pk}/change/"
    assert admin_client.get(url).status_code == 200
    assert admin_client.post(url, {"runs": 0}).status_code == 403


def test_nothing_is_noted_for_a_closed_account(alice: User) -> None:
    ran(alice, 100_000)
    User.objects.filter(pk=alice.pk).update(is_active=False)
    assert look() == []

"""The cap on runs a month: exact, also when many are accepted at once. What a webhook answers at the cap is triggers'."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import Client
from django.utils.timezone import now

from accounts.models import Tier, User
from accounts.services import set_tier
from billing.errors import UsageLimitExceeded
from billing.models import RunBudget
from billing.periods import Period
from billing.services import limits_of, reserve_runs, usage_limit_exceeded
from tests.billing.limits import all_at_once, give

pytestmark = pytest.mark.django_db

NOVEMBER = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture
def free_user(db: None) -> User:
    return User.objects.create_user("free@shop.example", tier=Tier.FREE)


def use(user: User, runs: int, now: datetime = NOVEMBER) -> None:
    RunBudget.objects.create(user=user, period_start=now.date().replace(day=1), runs=runs)


def reserve(user: User, count: int, now: datetime = NOVEMBER, accepted: int = 0) -> int:
    """`accepted` is how many the month had before it was first counted."""
    return reserve_runs(user=user, count=count, now=now, accepted=lambda period: accepted)


def commit(user: User, count: int, now: datetime = NOVEMBER, accepted: int = 0) -> int:
    with transaction.atomic():
        return reserve(user, count, now, accepted)


def reserve_run(*, user: User, now: datetime) -> None:
    if not reserve(user, 1, now):
        raise usage_limit_exceeded(user, now=now)


def test_each_run_of_a_free_user_is_counted_in_its_month(free_user: User) -> None:
    for _ in range(3):
        reserve_run(user=free_user, now=NOVEMBER)
    reserve_run(user=free_user, now=datetime(2026, 12, 1, tzinfo=UTC))
    rows = RunBudget.objects.order_by("period_start").values_list("period_start__month", "runs")
    assert list(rows) == [(11, 3), (12, 1)]


def test_the_last_run_is_accepted_and_the_next_is_402_with_the_way_out(free_user: User) -> None:
    use(free_user, 999)
    reserve_run(user=free_user, now=NOVEMBER)
    with pytest.raises(UsageLimitExceeded) as refusal:
        reserve_run(user=free_user, now=NOVEMBER)
    assert (refusal.value.status, refusal.value.code) == (402, "usage_limit_exceeded")
    assert refusal.value.details == {"limit": 1000, "used": 1000, "resetsAt": "2026-12-01T00:00:00Z"}
    assert all(part in refusal.value.message for part in ("1,000", "2026-12-01", "higher tier"))
    assert RunBudget.objects.get().runs == 1000


def test_of_several_at_once_as_many_are_granted_as_the_cap_leaves(free_user: User) -> None:
    assert reserve(free_user, 998) == 998
    assert [reserve(free_user, 3) for _ in range(2)] == [2, 0]
    assert RunBudget.objects.get().runs == 1000


def test_december_resets_in_january(free_user: User) -> None:
    december = datetime(2026, 12, 31, 23, 59, tzinfo=UTC)
    use(free_user, 1000, december)
    with pytest.raises(UsageLimitExceeded) as refusal:
        reserve_run(user=free_user, now=december)
    assert refusal.value.details is not None and refusal.value.details["resetsAt"] == "2027-01-01T00:00:00Z"


def test_the_month_is_that_of_utc(free_user: User) -> None:
    reserve_run(user=free_user, now=datetime(2026, 12, 1, 1, tzinfo=timezone(timedelta(hours=2))))
    assert RunBudget.objects.get().period_start.month == 11


@pytest.mark.parametrize("tier", [Tier.PRO, Tier.ENTERPRISE, Tier.HIGH_FREQUENCY])
def test_tiers_that_are_never_refused_keep_no_row(free_user: User, tier: str, django_assert_num_queries: Any) -> None:
    free_user.tier = tier
    with django_assert_num_queries(0):
        reserve_run(user=free_user, now=NOVEMBER)


def test_a_higher_tier_lifts_the_limit_at_once(free_user: User) -> None:
    use(free_user, 1000)
    free_user.tier = Tier.PRO
    reserve_run(user=free_user, now=NOVEMBER)


def test_one_users_runs_are_not_anothers(free_user: User) -> None:
    use(free_user, 1000)
    other = User.objects.create_user("other@shop.example")
    reserve_run(user=other, now=NOVEMBER)
    assert RunBudget.objects.get(user=other).runs == 1


def test_an_acceptance_that_is_rolled_back_is_not_counted(free_user: User) -> None:
    with transaction.atomic():
        reserve_run(user=free_user, now=NOVEMBER)
        transaction.set_rollback(True)
    assert not RunBudget.objects.exists()


def test_the_months_later_runs_cost_one_statement(free_user: User, django_assert_num_queries: Any) -> None:
    reserve_run(user=free_user, now=NOVEMBER)
    with django_assert_num_queries(1):
        reserve_run(user=free_user, now=NOVEMBER)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("used", [None, 990])
def test_the_cap_is_exact_when_many_are_accepted_at_once(free_user: User, used: int | None) -> None:
    """Twenty threads with one row, or none yet: as many pass as there was room for."""
    if used is not None:
        use(free_user, used)
    start = threading.Barrier(20)

    def accept(_: int) -> bool:
        start.wait()
        try:
            with transaction.atomic():
                reserve_run(user=free_user, now=NOVEMBER)
            return True
        except UsageLimitExceeded:
            return False
        finally:
            connection.close()

    with ThreadPoolExecutor(20) as threads:
        accepted = sum(threads.map(accept, range(20)))
    assert accepted == (20 if used is None else 10)
    assert RunBudget.objects.get().runs == (used or 0) + accepted


@pytest.mark.django_db(transaction=True)
def test_runs_that_were_accepted_on_another_tier_count_also_when_many_come_first(free_user: User) -> None:
    assert sum(all_at_once([lambda: commit(free_user, 1, accepted=995)] * 12)) == 5
    assert RunBudget.objects.get().runs == 1000


def test_what_was_accepted_before_is_asked_of_the_month_and_once(free_user: User) -> None:
    asked: list[Period] = []

    def accepted(period: Period) -> int:
        asked.append(period)
        return 1_000

    for _ in range(3):
        assert reserve_runs(user=free_user, count=1, now=NOVEMBER, accepted=accepted) == 0
    assert asked == [Period(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))]


@pytest.mark.django_db(transaction=True)
def test_a_limit_of_the_users_own_moves_the_cap_at_once_and_counts_what_was_used(free_user: User) -> None:
    use(free_user, 1000)
    override = give(free_user, "runs_per_month", 1001)
    assert [commit(free_user, 1) for _ in range(2)] == [1, 0]
    refused = usage_limit_exceeded(free_user, now=NOVEMBER)
    assert refused.message.startswith("Your limit of 1,001 runs a month is used up.")
    assert refused.details == {"limit": 1001, "used": 1001, "resetsAt": "2026-12-01T00:00:00Z"}
    override.value = 5  # lower than what was used
    override.save()
    assert commit(free_user, 1) == 0


@pytest.mark.django_db(transaction=True)
def test_where_the_cap_is_lifted_runs_still_count_for_the_time_after(free_user: User) -> None:
    until = NOVEMBER + timedelta(hours=1)
    give(free_user, "runs_per_month", None, expires_at=until)
    assert commit(free_user, 5000) == 5000
    assert RunBudget.objects.get().runs == 5000
    assert commit(free_user, 1, until) == 0


def test_another_tier_drops_the_months_count_and_keeps_those_before(free_user: User) -> None:
    use(free_user, 7, datetime(2020, 1, 1, tzinfo=UTC))
    use(free_user, 1000, now())
    set_tier(user=free_user, tier=Tier.PRO)
    assert [row.runs for row in RunBudget.objects.all()] == [7]


def test_a_tier_that_the_user_has_already_drops_nothing(free_user: User) -> None:
    use(free_user, 1000, now())
    set_tier(user=free_user, tier=Tier.FREE)
    assert RunBudget.objects.get().runs == 1000


def test_every_tier_has_its_limits() -> None:
    assert [limits_of(User(tier=tier)).api_requests_per_minute for tier in Tier.values] == [120, 600, 6000, 60000]


def test_the_admin_shows_budgets_and_changes_none(admin_client: Client, free_user: User) -> None:
    use(free_user, 7)
    budget = RunBudget.objects.get()
    page = admin_client.get("/admin/billing/runbudget/", {"q": "free@"})
    assert (page.status_code, "free@shop.example" in page.content.decode()) == (200, True)
    url = f"/admin/billing/runbudget/{budget.pk}/"
    assert admin_client.get(f"{url}change/").status_code == 200
    assert admin_client.post(f"{url}change/", {"runs": 0}).status_code == 403
    assert admin_client.post(f"{url}delete/", {"post": "yes"}).status_code == 403
    assert admin_client.get("/admin/billing/runbudget/add/").status_code == 403


@pytest.mark.django_db(transaction=True)
def test_a_cap_that_is_lifted_while_a_run_is_being_refused_is_told_as_what_was_used(free_user: User) -> None:
    use(free_user, 1000)
    give(free_user, "runs_per_month", None)
    refused = usage_limit_exceeded(free_user, now=NOVEMBER)
    assert refused.details == {"limit": 1000, "used": 1000, "resetsAt": "2026-12-01T00:00:00Z"}

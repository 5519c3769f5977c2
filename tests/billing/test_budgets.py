"""Budgets of model calls: exact when many calls are made at once, and told of once."""

import smtplib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core import mail
from django.core.mail.backends import locmem
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone as django_timezone
from pytest_django import Settings

from accounts.models import User
from billing.errors import BudgetExceeded
from billing.metering import Passed, lapse_expired, mails, release_llm, settle_all
from billing.metering.budgets import delete_budget, update_budget
from billing.metering.housekeeping import keep_budgets
from billing.models import Budget, BudgetNotice, BudgetPeriod, BudgetReservation, LlmUsage
from billing.tasks import keep_budgets as keep_budgets_task
from bloxserver.core import pipeline
from bloxserver.core.errors import NotFound
from tests.billing.metering import DECEMBER, LEASE, NOVEMBER, budget, call, period, reserve, settle_llm, spend
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db

FLOW, OTHER_FLOW = UUID(int=7), UUID(int=8)


# Reserving. ------------------------------------------------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("limit", [{"cost": "10"}, {"tokens": 10_000}], ids=["dollars", "tokens"])
def test_of_forty_calls_at_once_as_many_pass_as_the_budget_holds(alice: User, limit: dict[str, Any]) -> None:
    of_all, of_flow = budget(alice, **limit), budget(alice, cost="1000", flow_id=FLOW)
    BudgetPeriod.objects.all().delete()  # as in a new month
    start = threading.Barrier(40)

    def ask(_: int) -> bool:
        start.wait()
        try:
            reserve(alice, flow_id=FLOW)
            return True
        except BudgetExceeded:
            return False
        finally:
            connection.close()

    with ThreadPoolExecutor(40) as threads:
        passed = sum(threads.map(ask, range(40)))
    assert passed == 10
    assert period(of_all).reserved_cost == period(of_flow).reserved_cost == 10
    assert BudgetReservation.objects.count() == 20


def test_a_user_without_a_budget_is_asked_for_one_query(alice: User, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(1):
        assert reserve(alice) is None


def test_the_call_that_would_pass_the_limit_is_refused_with_what_is_used_and_when_it_resets(alice: User) -> None:
    of_all = budget(alice, cost="2.5")
    spend(alice)
    reserve(alice)
    with pytest.raises(BudgetExceeded) as refusal:
        reserve(alice)
    assert (refusal.value.status, refusal.value.code) == (402, "budget_exceeded")
    assert refusal.value.details == {
        "budgetId": str(of_all.pk), "unit": "usd", "limit": 2.5, "used": 1.0, "reserved": 1.0,
        "resetsAt": "2026-12-01T00:00:00Z",
    }  # fmt: skip
    assert "of all flows is $2.50, of which $1.00 are used and $1.00 reserved" in refusal.value.message
    assert BudgetReservation.objects.count() == 1


def test_a_refusal_says_whether_calls_under_way_alone_stand_in_the_way(alice: User) -> None:
    budget(alice, tokens=2_500)
    spend(alice)
    reserve(alice)
    with pytest.raises(BudgetExceeded) as soon:
        reserve(alice)
    with pytest.raises(BudgetExceeded) as next_month:
        reserve(alice, tokens=2_000)
    assert (soon.value.temporary, next_month.value.temporary) == (True, False)
    assert "try again when they are done" in soon.value.message
    assert "resets on 2026-12-01" in next_month.value.message


def test_of_two_budgets_that_refuse_the_one_is_named_that_no_waiting_helps(alice: User) -> None:
    budget(alice, cost="1.5")
    of_flow = budget(alice, cost="0.5", flow_id=FLOW)
    reserve(alice)
    with pytest.raises(BudgetExceeded) as refusal:
        reserve(alice, flow_id=FLOW)
    assert refusal.value.details is not None and refusal.value.details["budgetId"] == str(of_flow.pk)
    assert not refusal.value.temporary


def test_a_flows_budget_is_spent_by_that_flow_alone_and_the_tenants_by_all(alice: User) -> None:
    of_all, of_flow = budget(alice, cost="10"), budget(alice, cost="1", flow_id=FLOW)
    spend(alice, flow_id=FLOW)
    spend(alice, flow_id=OTHER_FLOW)
    spend(alice)
    with pytest.raises(BudgetExceeded, match='of the flow "Orders"'):
        reserve(alice, flow_id=FLOW)
    assert (period(of_all).spent_cost, period(of_flow).spent_cost) == (3, 1)


def test_one_tenants_calls_are_not_anothers(alice: User, bob: User) -> None:
    budget(alice, cost="1")
    assert reserve(bob, cost="5") is None


def test_where_the_whole_does_not_fit_the_answer_is_bounded(alice: User) -> None:
    of_all = budget(alice, tokens=2_500)
    made = reserve(alice, tokens=4_000, tokens_out=3_000)
    assert made is not None
    assert (made.max_tokens_out, made.tokens) == (1_500, 2_500)
    assert period(of_all).reserved_tokens == 2_500


def test_in_dollars_the_answer_is_bounded_to_what_is_left_and_never_above(alice: User) -> None:
    of_all = budget(alice, cost="1")
    made = reserve(alice, tokens=4_000, tokens_out=3_000, cost="1.9", cost_out=Decimal("1.8"))
    assert made is not None and made.cost is not None
    assert made.max_tokens_out == 1_499  # 0.9 of 1.8 would be 1,500; what it costs is rounded up
    assert Decimal("0.999") < made.cost <= 1
    assert period(of_all).reserved_cost == made.cost


def test_a_call_that_fits_is_not_bounded(alice: User) -> None:
    budget(alice, tokens=4_000)
    made = reserve(alice, tokens=4_000, tokens_out=3_000)
    assert made is not None and made.max_tokens_out is None


def test_an_answer_too_short_to_be_of_use_is_refused(alice: User) -> None:
    budget(alice, tokens=1_099)
    with pytest.raises(BudgetExceeded):
        reserve(alice, tokens=4_000, tokens_out=3_000)


def test_dollars_alone_let_no_call_through_whose_price_is_not_known(alice: User) -> None:
    budget(alice, cost="100")
    with pytest.raises(BudgetExceeded, match="price is not known"):
        reserve(alice, cost=None)


def test_with_a_limit_of_tokens_beside_it_a_call_of_unknown_price_is_bounded_by_that(alice: User) -> None:
    of_all = budget(alice, cost="100", tokens=1_500)
    call_id = uuid4()
    reserve(alice, call_id=call_id, cost=None)
    settle_llm(call=call(alice, call_id, cost=None), now=NOVEMBER)
    assert (period(of_all).spent_tokens, period(of_all).unpriced_calls) == (1_000, 1)
    with pytest.raises(BudgetExceeded):
        reserve(alice, cost=None)


def test_each_month_of_utc_begins_anew(alice: User) -> None:
    of_all = budget(alice, cost="1")
    spend(alice)
    with pytest.raises(BudgetExceeded):
        reserve(alice, now=datetime(2026, 12, 1, 1, tzinfo=timezone(timedelta(hours=2))))
    spend(alice, now=DECEMBER)
    assert (period(of_all).spent_cost, period(of_all, DECEMBER).spent_cost) == (1, 1)


# Settling, and what is not settled. ------------------------------------------------------------------------------
def test_what_was_reserved_makes_room_for_what_it_came_to(alice: User) -> None:
    of_all, call_id = budget(alice, cost="10"), uuid4()
    reserve(alice, call_id=call_id, cost="8", tokens=5_000)
    settle_llm(call=call(alice, call_id, cost="0.25"), now=NOVEMBER)
    row = period(of_all)
    assert (row.spent_cost, row.spent_tokens, row.reserved_cost, row.reserved_tokens) == (Decimal("0.25"), 1_000, 0, 0)
    assert not BudgetReservation.objects.exists()


def test_a_call_that_is_settled_twice_is_spent_once(alice: User) -> None:
    of_all, call_id = budget(alice, cost="10"), uuid4()
    reserve(alice, call_id=call_id)
    for _ in range(2):
        settle_llm(call=call(alice, call_id), now=NOVEMBER)
    assert period(of_all).spent_cost == 1


def test_a_settling_that_is_rolled_back_with_the_journal_has_not_been(alice: User) -> None:
    of_all, call_id = budget(alice, cost="10"), uuid4()
    reserve(alice, call_id=call_id)
    with transaction.atomic():
        settle_llm(call=call(alice, call_id), now=NOVEMBER)
        transaction.set_rollback(True)
    assert (period(of_all).spent_cost, period(of_all).reserved_cost) == (0, 1)
    settle_llm(call=call(alice, call_id), now=NOVEMBER)
    assert (period(of_all).spent_cost, LlmUsage.objects.get().calls) == (1, 1)


def test_calls_are_settled_within_an_engines_pipeline(alice: User) -> None:
    of_all, ids = budget(alice, cost="10"), [uuid4(), uuid4()]
    for call_id in ids:
        reserve(alice, call_id=call_id)
    with pipeline.transaction():
        assert settle_all(calls=[call(alice, call_id, cost="4") for call_id in ids], now=NOVEMBER) == [
            Passed(of_all.pk, 80)
        ]
    assert (period(of_all).spent_cost, LlmUsage.objects.get().calls) == (8, 2)


def test_an_answer_of_unknown_price_costs_what_was_reserved_for_it(alice: User) -> None:
    of_all, call_id = budget(alice, cost="10"), uuid4()
    reserve(alice, call_id=call_id, cost="3")
    settle_llm(call=call(alice, call_id, cost=None), now=NOVEMBER)
    assert period(of_all).spent_cost == 3


def test_what_the_cache_answers_after_all_spends_nothing(alice: User) -> None:
    of_all, call_id = budget(alice, cost="10"), uuid4()
    reserve(alice, call_id=call_id)
    settle_llm(call=call(alice, call_id, cached=True), now=NOVEMBER)
    assert (period(of_all).spent_cost, period(of_all).spent_tokens, period(of_all).reserved_cost) == (0, 0, 0)


def test_a_call_over_midnight_counts_in_the_month_in_which_it_began(alice: User) -> None:
    of_all, call_id = budget(alice, cost="10"), uuid4()
    reserve(alice, call_id=call_id, now=DECEMBER - timedelta(seconds=1))
    settle_llm(call=call(alice, call_id), now=DECEMBER)
    assert period(of_all).spent_cost == 1
    assert not BudgetPeriod.objects.filter(period_start=DECEMBER.date()).exists()


def test_a_released_call_gives_back_all_of_it_once(alice: User) -> None:
    of_all, call_id = budget(alice, cost="10"), uuid4()
    reserve(alice, call_id=call_id)
    reserve(alice)
    for _ in range(2):
        release_llm(call_id=call_id, now=NOVEMBER)
    assert (period(of_all).spent_cost, period(of_all).reserved_cost) == (0, 1)


def test_what_a_dead_worker_reserved_counts_as_spent_when_its_lease_is_over(alice: User) -> None:
    of_all = budget(alice, cost="10")
    reserve(alice, cost="3")
    assert lapse_expired(now=NOVEMBER + LEASE - timedelta(seconds=1)) == 0
    assert [lapse_expired(now=NOVEMBER + LEASE) for _ in range(2)] == [1, 0]
    row = period(of_all)
    assert (row.spent_cost, row.spent_tokens, row.reserved_cost, row.reserved_tokens) == (3, 1_000, 0, 0)


def test_an_answer_after_that_puts_the_real_figures_in_its_place(alice: User) -> None:
    of_all, call_id = budget(alice, cost="10"), uuid4()
    reserve(alice, call_id=call_id, cost="3", tokens=5_000)
    keep_budgets(now=NOVEMBER + LEASE)
    settle_llm(call=call(alice, call_id, cost="2"), now=NOVEMBER + LEASE)
    assert (period(of_all).spent_cost, period(of_all).spent_tokens) == (2, 1_000)


def test_lapsed_reservations_are_forgotten_after_a_week(alice: User) -> None:
    of_all = budget(alice, cost="10")
    reserve(alice)
    keep_budgets(now=NOVEMBER + timedelta(days=1))
    assert BudgetReservation.objects.exists()
    keep_budgets(now=NOVEMBER + timedelta(days=8))
    assert not BudgetReservation.objects.exists()
    assert period(of_all).spent_cost == 1


@pytest.mark.django_db(transaction=True)
def test_settling_releasing_and_lapsing_beside_each_other_leave_nothing_reserved(alice: User) -> None:
    of_all, of_flow = budget(alice, cost="100"), budget(alice, cost="100", flow_id=FLOW)
    ids = [uuid4() for _ in range(24)]
    for call_id in ids:
        reserve(alice, call_id=call_id, flow_id=FLOW)

    def end(number: int) -> None:
        try:
            if number % 3 == 0:
                settle_llm(call=call(alice, ids[number], flow_id=FLOW), now=NOVEMBER)
            elif number % 3 == 1:
                release_llm(call_id=ids[number], now=NOVEMBER)
            else:
                lapse_expired(now=NOVEMBER + LEASE)
                settle_llm(call=call(alice, ids[number], flow_id=FLOW), now=NOVEMBER)
        finally:
            connection.close()

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(end, range(24)))
    for row in (period(of_all), period(of_flow)):
        assert (row.spent_cost, row.reserved_cost, row.reserved_tokens) == (16, 0, 0)


# Setting budgets. ------------------------------------------------------------------------------------------------
def test_a_new_budget_counts_what_the_month_has_used_already(alice: User) -> None:
    settle_llm(call=call(alice, cost="3", flow_id=FLOW), now=NOVEMBER)
    settle_llm(call=call(alice, cost=None), now=NOVEMBER)
    settle_llm(call=call(alice, cost="50"), now=NOVEMBER - timedelta(days=30))
    of_all, of_flow = budget(alice, cost="4"), budget(alice, cost="4", flow_id=FLOW)
    assert (period(of_all).spent_cost, period(of_all).spent_tokens, period(of_all).unpriced_calls) == (3, 2_000, 1)
    assert (period(of_flow).spent_cost, period(of_flow).spent_tokens) == (3, 1_000)


def test_a_higher_limit_lets_calls_through_at_once(alice: User) -> None:
    of_all = budget(alice, cost="1")
    spend(alice)
    update_budget(budget=of_all, changes={"monthly_cost": Decimal(2)}, now=NOVEMBER)
    spend(alice)


def test_a_budget_can_go_while_calls_are_under_way(alice: User) -> None:
    of_all, call_id = budget(alice, cost="1"), uuid4()
    reserve(alice, call_id=call_id)
    delete_budget(budget=of_all)
    settle_llm(call=call(alice, call_id), now=NOVEMBER)
    assert not BudgetReservation.objects.exists()


@pytest.mark.parametrize(
    "change", [delete_budget, lambda *, budget: update_budget(budget=budget, changes={}, now=NOVEMBER)]
)
def test_whoever_changes_a_budget_locks_it_before_its_months(alice: User, change: Callable[..., Any]) -> None:
    """One order for all: of two who change it at once, one waits for the other, and neither for each other."""
    of_all = budget(alice, cost="10")
    with CaptureQueriesContext(connection) as queries:
        change(budget=of_all)
    locking = [query["sql"] for query in queries if query["sql"].startswith("SELECT")]
    assert [('FROM "billing_budget"' in sql, 'FROM "billing_budgetperiod"' in sql) for sql in locking[:2]] == [
        (True, False),
        (False, True),
    ]
    if connection.features.has_select_for_update:
        assert all("FOR" in sql for sql in locking[:2])


# Telling the owner. ----------------------------------------------------------------------------------------------
def test_80_and_100_percent_are_said_once_each(alice: User) -> None:
    of_all = budget(alice, cost="10")
    said = [spend(alice) for _ in range(10)]
    assert [passed for passed in said if passed] == [[Passed(of_all.pk, 80)], [Passed(of_all.pk, 100)]]
    assert (said[7], said[9]) == ([Passed(of_all.pk, 80)], [Passed(of_all.pk, 100)])


def test_a_mail_goes_out_for_each_of_them_once(alice: User) -> None:
    budget(alice, cost="10")
    for cost in ("8", "0.5", "1.5"):
        spend(alice, cost=cost)
        for _ in range(2):
            mails.send_due_mails()
    assert [(message.to, message.subject) for message in mail.outbox] == [
        (["alice@shop.example"], "80 % of your budget of all flows are spent"),
        (["alice@shop.example"], "Your budget of all flows is used up"),
    ]
    assert "Spent: $8.00 of $10.00" in mail.outbox[0].body
    assert "Reset: 2026-12-01 at 00:00 UTC" in mail.outbox[1].body


def test_a_budget_of_which_less_is_left_than_a_call_takes_is_used_up(alice: User) -> None:
    of_all = budget(alice, cost="10")
    spend(alice, cost="9.99")
    for _ in range(2):
        with pytest.raises(BudgetExceeded):
            reserve(alice)
    assert period(of_all).stopped_at_100 == NOVEMBER
    assert list(BudgetNotice.objects.order_by("id").values_list("percent", flat=True)) == [80, 100]


@pytest.mark.parametrize("under_way", ["7", "0"])
def test_a_call_too_large_or_calls_under_way_do_not_use_a_budget_up(alice: User, under_way: str) -> None:
    of_all = budget(alice, cost="10")
    spend(alice, cost="1")
    reserve(alice, cost=under_way)
    with pytest.raises(BudgetExceeded):
        reserve(alice, cost="9.5")
    assert period(of_all).stopped_at_100 is None


def test_what_passes_both_at_once_is_told_of_the_stop_alone(alice: User) -> None:
    budget(alice, cost="1")
    spend(alice)
    assert [notice.percent for notice in BudgetNotice.objects.all()] == [100]


def test_after_a_higher_limit_the_owner_is_warned_anew(alice: User) -> None:
    of_all = budget(alice, cost="10")
    spend(alice, cost="9")
    update_budget(budget=of_all, changes={"monthly_cost": Decimal(20)}, now=NOVEMBER)
    assert spend(alice, cost="8") == [Passed(of_all.pk, 80)]


def test_a_lower_limit_that_is_passed_already_is_told_of(alice: User) -> None:
    of_all = budget(alice, cost="10")
    spend(alice, cost="5")
    update_budget(budget=of_all, changes={"monthly_cost": Decimal(5)}, now=NOVEMBER)
    assert [notice.percent for notice in BudgetNotice.objects.all()] == [100]


@pytest.fixture
def no_mail_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """The mail server is away until the function that this gives is called."""

    def refuse(self: Any, messages: Any) -> int:
        raise smtplib.SMTPServerDisconnected("away\nfor long")

    with monkeypatch.context() as patched:
        patched.setattr(locmem.EmailBackend, "send_messages", refuse)
        yield patched.undo


def test_a_mail_that_does_not_go_out_is_tried_again_later(alice: User, no_mail_server: Callable[[], None]) -> None:
    budget(alice, cost="1")
    spend(alice)
    mails.send_due_mails()
    notice = BudgetNotice.objects.get()
    assert (notice.attempts, notice.sent_at, "away" in notice.error) == (1, None, True)
    no_mail_server()
    mails.send_due_mails()
    assert not mail.outbox  # it is not due yet
    BudgetNotice.objects.update(due_at=django_timezone.now())
    mails.send_due_mails()
    assert len(mail.outbox) == 1
    assert BudgetNotice.objects.get().due_at is None


def test_a_mail_is_given_up_after_six_attempts(alice: User, no_mail_server: Callable[[], None]) -> None:
    budget(alice, cost="1")
    spend(alice)
    for _ in range(7):
        BudgetNotice.objects.filter(due_at__isnull=False).update(due_at=datetime(2026, 1, 1, tzinfo=UTC))
        mails.send_due_mails()
    notice = BudgetNotice.objects.get()
    assert (notice.attempts, notice.due_at, notice.sent_at) == (6, None, None)


def test_a_closed_account_gets_no_mail(alice: User) -> None:
    budget(alice, cost="1")
    spend(alice)
    User.objects.update(is_active=False)
    mails.send_due_mails()
    assert not mail.outbox


@pytest.mark.django_db(transaction=True)
def test_the_clock_counts_what_has_expired_and_has_the_mails_sent(alice: User, settings: Settings) -> None:
    entries = {entry["task"]: entry for entry in settings.CELERY_BEAT_SCHEDULE.values()}
    assert entries[keep_budgets_task.name]["options"]["queue"] == "clock"
    of_all = budget(alice, cost="1")
    reserve(alice)
    keep_budgets_task()
    assert period(of_all).spent_cost == 1
    wait_until(lambda: BudgetNotice.objects.filter(sent_at__isnull=False).exists())
    assert len(mail.outbox) == 1


# Whose it is, and what happens meanwhile. --------------------------------------------------------------------------
def test_a_new_budget_begins_with_its_owners_usage_alone(alice: User, bob: User) -> None:
    settle_llm(call=call(bob, cost="3"), now=NOVEMBER)
    assert period(budget(alice, cost="4")).spent_cost == 0


def test_a_budget_that_was_deleted_meanwhile_cannot_be_changed(alice: User) -> None:
    late = budget(alice, cost="1")
    delete_budget(budget=Budget.objects.get())
    with pytest.raises(NotFound):
        update_budget(budget=late, changes={"monthly_cost": Decimal(2)}, now=NOVEMBER)


def test_a_call_of_unknown_price_that_lapses_is_an_unpriced_one_until_its_answer_comes(alice: User) -> None:
    of_all, call_id = budget(alice, cost="10", tokens=5_000), uuid4()
    reserve(alice, call_id=call_id, cost=None)
    keep_budgets(now=NOVEMBER + LEASE)
    assert period(of_all).unpriced_calls == 1
    settle_llm(call=call(alice, call_id, cost="2"), now=NOVEMBER + LEASE)
    assert (period(of_all).unpriced_calls, period(of_all).spent_cost) == (0, 2)


def test_what_lost_requests_may_have_cost_is_spent(alice: User) -> None:
    of_all, call_id = budget(alice, cost="10"), uuid4()
    reserve(alice, call_id=call_id)
    settle_llm(call=call(alice, call_id, lost_tokens=50, lost_cost=Decimal("0.5")), now=NOVEMBER)
    assert (period(of_all).spent_tokens, period(of_all).spent_cost) == (1_050, Decimal("1.5"))
    usage: Any = LlmUsage.objects.get()
    assert (usage.tokens_in, usage.cost) == (900, 1)


def test_what_many_small_calls_cost_is_never_rounded_down(alice: User) -> None:
    of_all = budget(alice, cost="10")
    spend(alice, cost="0.00000000001")
    assert period(of_all).spent_cost == Decimal("0.0000000001")

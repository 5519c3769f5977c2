"""Limits that an operator has set for one user: what holds, how soon, at no query, and when the table cannot be read."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import timedelta
from threading import Thread
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.utils import timezone

from accounts.models import Tier, User
from billing import overrides
from billing.models import LimitOverride
from billing.services import concurrency_caps, limits_of
from billing.tiers import SETTABLE, TIERS, Limits
from tests.billing.limits import give

pytestmark = pytest.mark.django_db(transaction=True)

PRO = TIERS[Tier.PRO]


def in_another_thread(work: Callable[[], object]) -> None:
    def run() -> None:
        work()
        connection.close()

    thread = Thread(target=run)
    thread.start()
    thread.join()


@contextmanager
def unreadable_table() -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE billing_limitoverride RENAME TO elsewhere")
        try:
            yield
        finally:
            cursor.execute("ALTER TABLE elsewhere RENAME TO billing_limitoverride")


def test_a_limit_that_is_set_for_a_user_holds_instead_of_the_tiers_and_no_other_does(alice: User, bob: User) -> None:
    give(alice, "flows", 7)
    give(alice, "runs_per_month", None)
    assert limits_of(alice) == replace(PRO, flows=7, runs_per_month=None)
    assert limits_of(bob) == PRO


def test_it_holds_on_whatever_tier_the_user_is(alice: User) -> None:
    give(alice, "flows", 7)
    alice.tier = Tier.FREE
    assert limits_of(alice) == replace(TIERS[Tier.FREE], flows=7)


def test_it_ends_at_its_moment(alice: User) -> None:
    end = timezone.now() + timedelta(days=1)
    give(alice, "concurrent_executions", 3, expires_at=end)
    before, after = end - timedelta(microseconds=1), end
    assert limits_of(alice, now=before).concurrent_executions == 3
    assert limits_of(alice, now=after) == PRO
    assert concurrency_caps(now=before).of(alice.pk, alice.tier) == 3
    assert concurrency_caps(now=after).of(alice.pk, alice.tier) == PRO.concurrent_executions


def test_what_is_changed_or_deleted_here_is_in_force_at_once(alice: User) -> None:
    override = give(alice, "flows", 7)
    assert limits_of(alice).flows == 7
    override.value = 8
    override.save()
    assert limits_of(alice).flows == 8
    LimitOverride.objects.all().delete()
    assert limits_of(alice) == PRO


def test_what_is_rolled_back_was_never_in_force(alice: User) -> None:
    with transaction.atomic():
        give(alice, "flows", 7)
        transaction.set_rollback(True)
    assert limits_of(alice) == PRO


def test_what_another_process_changes_is_in_force_within_five_seconds(alice: User) -> None:
    override = give(alice, "flows", 7)
    assert limits_of(alice).flows == 7
    LimitOverride.objects.filter(pk=override.pk).update(value=8)  # tells nobody, as another process would not
    changed = time.monotonic()
    while limits_of(alice).flows == 7:
        assert time.monotonic() - changed < 5.5
        time.sleep(0.05)
    assert limits_of(alice).flows == 8


def test_asking_costs_no_query(alice: User, bob: User, django_assert_num_queries: Any) -> None:
    give(alice, "flows", 7)
    with django_assert_num_queries(1):
        limits_of(alice)
    with django_assert_num_queries(0):
        assert [limits_of(user).flows for user in (alice, bob)] == [7, PRO.flows]
        concurrency_caps()


def test_what_was_read_before_a_change_is_not_kept_after_it(alice: User) -> None:
    """A change is committed between another thread's reading and its keeping what it has read."""
    give(alice, "flows", 7)
    overrides.forget()

    def change_after(execute: Callable[..., Any], *args: Any) -> Any:
        rows = execute(*args)
        in_another_thread(lambda: give(alice, "triggers_per_flow", 9))
        return rows

    with connection.execute_wrapper(change_after):
        limits_of(alice)
    assert limits_of(alice) == replace(PRO, flows=7, triggers_per_flow=9)


def test_while_the_table_cannot_be_read_what_was_known_holds_and_it_is_tried_again(alice: User) -> None:
    override = give(alice, "flows", 7)
    limits_of(alice)
    LimitOverride.objects.filter(pk=override.pk).update(value=8)
    overrides.forget()
    with unreadable_table():
        assert limits_of(alice).flows == 7
    time.sleep(overrides.RETRY_SECONDS)
    assert limits_of(alice).flows == 8


def test_in_a_transaction_that_is_lost_the_error_is_told(alice: User) -> None:
    overrides.forget()
    with unreadable_table(), pytest.raises(DatabaseError), transaction.atomic():
        limits_of(alice)


# What can be set. ------------------------------------------------------------------------------------------------
def test_all_but_what_makes_a_tier_can_be_set() -> None:
    assert {field.name for field in fields(Limits)} - set(SETTABLE) == {
        "priority",
        "refused_over_runs",
        "overage_price",
    }


@pytest.mark.parametrize("limit", SETTABLE)
def test_the_database_takes_both_ends_of_each_range_and_nothing_beyond(alice: User, limit: str) -> None:
    of = SETTABLE[limit]
    for end in (of.least, of.most):
        give(alice, limit, end).delete()
    beyond: list[int | None] = [of.least - 1, of.most + 1, None]
    for value in beyond:
        if value is None and of.may_be_unlimited:
            give(alice, limit, value).delete()
            continue
        with pytest.raises(IntegrityError), transaction.atomic():
            give(alice, limit, value)
        with pytest.raises(ValidationError, match=f"must be {of.range}"):
            LimitOverride(user=alice, limit=limit, value=value, reason="agreed").full_clean()


@pytest.mark.parametrize("limit", ["priority", "overage_price", "gold"])
def test_no_other_limit_is_taken(alice: User, limit: str) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        give(alice, limit, 1)


def test_a_limit_is_set_once_for_a_user(alice: User, bob: User) -> None:
    give(alice, "flows", 7)
    give(bob, "flows", 7)
    with pytest.raises(IntegrityError), transaction.atomic():
        give(alice, "flows", 8)

"""The admin's page of a customer: the tier, all limits, and those that are set for this customer alone."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import Tier, User
from billing.limit_table import OF_TIER, limit_table
from billing.models import LimitOverride, RunBudget
from billing.months import month_of
from billing.services import limits_of
from billing.tiers import SETTABLE
from tests.billing.limits import give

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.once]

CUSTOMERS = "/admin/billing/customer/"


def page_of(client: Client, user: User) -> str:
    return client.get(f"{CUSTOMERS}{user.pk}/change/").content.decode()


def save(client: Client, user: User, *rows: dict[str, Any]) -> Any:
    """The page, sent with these rows; those that are stored already have an id."""
    stored = sum("id" in row for row in rows)
    body: dict[str, Any] = {"limit_overrides-TOTAL_FORMS": len(rows), "limit_overrides-INITIAL_FORMS": stored}
    for number, row in enumerate(rows):
        fields = {"limit": "flows", "value": 7, "reason": "agreed by mail", "user": user.pk, **row}
        body |= {f"limit_overrides-{number}-{name}": value for name, value in fields.items()}
    return client.post(f"{CUSTOMERS}{user.pk}/change/", body)


def row_of(user: User, limit: str) -> Any:
    return next(row for row in limit_table(user, now=timezone.now()) if row.name == limit)


def test_a_limit_is_set_with_its_reason_and_who_set_it(admin_client: Client, alice: User, operator: User) -> None:
    assert save(admin_client, alice, {"expires_at_0": "2099-01-01", "expires_at_1": "12:00"}).status_code == 302
    override = LimitOverride.objects.get()
    assert (override.user, override.limit, override.value) == (alice, "flows", 7)
    assert (override.reason, override.created_by) == ("agreed by mail", operator)
    assert f"{override.expires_at:%Y-%m-%d %H:%M}" == "2099-01-01 12:00"
    assert limits_of(alice).flows == 7
    entry = LogEntry.objects.get()
    assert (entry.user, entry.object_id) == (operator, str(alice.pk))
    assert "flows: 7" in entry.get_change_message()


def test_a_limit_is_changed_and_deleted_and_both_are_logged(admin_client: Client, alice: User, bob: User) -> None:
    override = LimitOverride.objects.create(user=alice, limit="flows", value=7, reason="agreed", created_by=bob)
    assert save(admin_client, alice, {"id": override.pk, "value": 8}).status_code == 302
    override.refresh_from_db()
    assert (override.value, override.created_by) == (8, bob)
    assert limits_of(alice).flows == 8
    assert save(admin_client, alice, {"id": override.pk, "DELETE": "on"}).status_code == 302
    assert (LimitOverride.objects.count(), limits_of(alice).flows) == (0, 100)
    assert LogEntry.objects.count() == 2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"value": ""}, "For flows it must be 0 to 1,000,000,000."),
        ({"limit": "webhook_wait_seconds", "value": 61}, "For webhook wait, seconds it must be 0 to 60."),
        ({"limit": "runs_per_month", "value": -1}, "or nothing for unlimited."),
        ({"limit": "history_days", "value": "9" * 30}, "For history kept, days it must be 1 to 36,500."),
        ({"limit": "priority"}, "Select a valid choice."),
        ({"reason": ""}, "This field is required."),
        ({"expires_at_0": "soon", "expires_at_1": ""}, "Enter a valid date."),
    ],
)
def test_what_is_impossible_is_told_and_not_stored(
    admin_client: Client, alice: User, row: dict[str, Any], said: str
) -> None:
    answer = save(admin_client, alice, row)
    assert (answer.status_code, said in answer.content.decode()) == (200, True)
    assert not LimitOverride.objects.exists()


def test_the_same_limit_twice_is_told(admin_client: Client, alice: User) -> None:
    assert "duplicate" in save(admin_client, alice, {"value": 7}, {"value": 8}).content.decode()
    give(alice, "flows", 7)
    assert "This limit is set already; change that one." in save(admin_client, alice, {"value": 8}).content.decode()
    assert LimitOverride.objects.get().value == 7


def test_nothing_but_limits_is_edited_on_the_page(admin_client: Client, alice: User) -> None:
    body = {"email": "eve@shop.example", "tier": "enterprise", "is_staff": "on"}
    forms = {"limit_overrides-TOTAL_FORMS": 0, "limit_overrides-INITIAL_FORMS": 0}
    assert admin_client.post(f"{CUSTOMERS}{alice.pk}/change/", body | forms).status_code == 302
    stored = User.objects.get(pk=alice.pk)
    assert (stored.email, stored.tier, stored.is_staff) == (alice.email, alice.tier, False)


def test_the_table_has_every_limit_with_where_it_comes_from(admin_client: Client, alice: User) -> None:
    give(alice, "flows", 7)
    give(alice, "runs_per_month", None, expires_at=timezone.now() - timedelta(days=1))
    page = page_of(admin_client, alice)
    assert all(label in page for label in (*(of.label for of in SETTABLE.values()), *OF_TIER.values()))
    flows, runs, price = (row_of(alice, name) for name in ("flows", "runs_per_month", "overage_price"))
    assert (flows.of_tier, flows.override, flows.effective) == ("100", "7", "7")
    assert (runs.of_tier, runs.override, runs.effective, runs.has_expired) == ("100,000", "unlimited", "100,000", True)
    assert (price.of_tier, price.override, price.effective) == ("$0.50", "", "$0.50")
    assert "unlimited (expired)" in page


def test_the_list_tells_tier_own_limits_and_this_months_runs(admin_client: Client, alice: User, bob: User) -> None:
    give(alice, "flows", 7)
    give(alice, "history_days", 9)
    RunBudget.objects.create(user=bob, period_start=month_of(timezone.now()), runs=1234)
    listed = admin_client.get(CUSTOMERS).content.decode()
    rows = {name: listed.split(f">{name}</a>")[1].split("</tr>")[0] for name in (alice.email, bob.email)}
    assert '<td class="field-overrides">2</td><td class="field-runs">-</td>' in rows[alice.email]
    assert '<td class="field-overrides">-</td><td class="field-runs">1,234</td>' in rows[bob.email]
    filtered = admin_client.get(CUSTOMERS, {"limit_overrides__limit__exact": "flows", "q": "@"}).content.decode()
    assert (alice.email in filtered, bob.email in filtered) == (True, False)


def test_the_list_takes_no_query_for_a_customer(admin_client: Client, alice: User) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            admin_client.get(CUSTOMERS)
        return len(captured)

    queries()
    few = queries()
    for number in range(5):
        give(User.objects.create_user(f"u{number}@shop.example"), "flows", 7)
    assert queries() == few


def change_tier(client: Client, users: list[User], **more: str) -> Any:
    body = {"action": "change_tier", "_selected_action": [str(user.pk) for user in users], **more}
    return client.post(CUSTOMERS, body, follow=True)


def test_the_tier_is_changed_after_a_question_and_logged(
    admin_client: Client, alice: User, bob: User, operator: User
) -> None:
    asked = change_tier(admin_client, [alice, bob]).content.decode()
    assert "alice@shop.example, now on Pro" in asked and "bob@other.example, now on Pro" in asked
    assert not User.objects.filter(tier=Tier.ENTERPRISE).exists()
    done = change_tier(admin_client, [alice, bob], tier="enterprise").content.decode()
    assert "2 customers are now on Enterprise." in done
    assert set(User.objects.filter(tier=Tier.ENTERPRISE)) == {alice, bob}
    entries = [(entry.user, entry.get_change_message()) for entry in LogEntry.objects.all()]
    assert entries == [(operator, "Changed the tier from Pro to Enterprise.")] * 2


def test_an_unknown_tier_changes_nothing_and_asks_again(admin_client: Client, alice: User) -> None:
    assert "now on Pro" in change_tier(admin_client, [alice], tier="gold").content.decode()
    assert User.objects.get(pk=alice.pk).tier == Tier.PRO


def test_the_button_of_the_page_asks_and_leads_back_to_it(admin_client: Client, alice: User) -> None:
    assert 'value="change_tier"' in page_of(admin_client, alice)
    asked = change_tier(admin_client, [alice], _from_page="1").content.decode()
    assert 'name="_from_page"' in asked
    done = change_tier(admin_client, [alice], _from_page="1", tier="free")
    assert done.redirect_chain == [(f"{CUSTOMERS}{alice.pk}/change/", 302)]


def test_customers_are_neither_added_nor_deleted_here(admin_client: Client, alice: User) -> None:
    assert admin_client.get(f"{CUSTOMERS}add/").status_code == 403
    assert admin_client.post(f"{CUSTOMERS}{alice.pk}/delete/", {"post": "yes"}).status_code == 403
    assert "delete_selected" not in admin_client.get(CUSTOMERS).content.decode()


def test_an_operator_who_may_only_look_changes_no_limit_and_no_tier(admin_client: Client, alice: User) -> None:
    looker = User.objects.create_user("looker@blox.example", is_staff=True)
    names = ["view_customer", "view_limitoverride"]
    looker.user_permissions.set(Permission.objects.filter(codename__in=names))
    client = Client()
    client.force_login(looker, backend="django.contrib.auth.backends.ModelBackend")
    assert "Of the tier" in page_of(client, alice)
    assert save(client, alice, {}).status_code == 403
    change_tier(client, [alice], tier="enterprise")
    assert (LimitOverride.objects.count(), User.objects.get(pk=alice.pk).tier) == (0, "pro")


def test_the_users_page_leads_to_the_limits_and_those_to_the_customer(admin_client: Client, alice: User) -> None:
    override = give(alice, "flows", 7)
    assert (
        f"{CUSTOMERS}{alice.pk}/change/"
        in admin_client.get(f"/admin/accounts/user/{alice.pk}/change/").content.decode()
    )
    url = "/admin/billing/limitoverride/"
    assert f"{CUSTOMERS}{alice.pk}/change/" in admin_client.get(url).content.decode()
    assert admin_client.get(f"{url}{override.pk}/change/").status_code == 200
    assert admin_client.post(f"{url}{override.pk}/change/", {"value": 1}).status_code == 403


def test_the_same_limit_is_set_for_another_customer(admin_client: Client, alice: User, bob: User) -> None:
    give(alice, "flows", 7)
    assert save(admin_client, bob, {}).status_code == 302
    assert set(LimitOverride.objects.values_list("user", flat=True)) == {alice.pk, bob.pk}


def test_the_list_tells_no_runs_of_another_month(admin_client: Client, alice: User) -> None:
    month = month_of(timezone.now())
    for moment in (month - timedelta(days=1), month + timedelta(days=31)):
        RunBudget.objects.create(user=alice, period_start=moment.replace(day=1), runs=1234)
    assert "1,234" not in admin_client.get(CUSTOMERS).content.decode()

"""Stripe's events in the admin: what became of each, and the action that has one handled again."""

from typing import Any

import pytest
from django.apps import apps
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission
from django.test import Client
from django.utils import timezone

from accounts.models import Tier, User
from billing.models import FlowCapReview, OverageReport, StripeEvent
from billing.stripe.events import MAX_ATTEMPTS
from tests.billing.shop import Shop

pytestmark = [pytest.mark.django_db, pytest.mark.once]

EVENTS = "/admin/billing/stripeevent/"


def replay(client: Client, *events: StripeEvent, **more: str) -> Any:
    body = {"action": "replay", "_selected_action": [event.pk for event in events], **more}
    return client.post(EVENTS, body, follow=True)


def failed(shop: Shop, user: User) -> StripeEvent:
    """The event of a subscription that nobody could handle until it was given up."""
    shop.stripe.hold_webhooks()
    shop.subscribe_unheard(user)
    (created,) = [event for event in shop.stripe.events if event["type"] == "customer.subscription.created"]
    shop.stripe.fail_next(2)
    shop.stripe.deliver([created])
    event = StripeEvent.objects.get()
    StripeEvent.objects.update(attempts=MAX_ATTEMPTS, due_at=None)
    event.refresh_from_db()
    assert event.error
    return event


def test_an_event_that_was_given_up_is_found_and_replayed(
    admin_client: Client, shop: Shop, carol: User, operator: User
) -> None:
    event = failed(shop, carol)
    listed = admin_client.get(EVENTS, {"state": "given_up"}).content.decode()
    assert event.pk in listed and '<span class="blox-status blox-bad">given up</span>' in listed
    assert User.objects.get(pk=carol.pk).tier == Tier.FREE

    answer = replay(admin_client, event).content.decode()
    assert f"customer.subscription.created {event.pk}: Replayed: done" in answer
    event.refresh_from_db()
    assert (event.handled_at is not None, event.error, event.attempts) == (True, "", 1)
    assert User.objects.get(pk=carol.pk).tier == Tier.PRO
    entry = LogEntry.objects.get()
    assert (entry.user, entry.object_id, entry.get_change_message()) == (operator, event.pk, "Replayed: done")
    assert event.pk not in admin_client.get(EVENTS, {"state": "given_up"}).content.decode()
    assert event.pk in admin_client.get(EVENTS, {"state": "done"}).content.decode()


def test_a_replay_that_fails_says_why_and_is_tried_again_later(admin_client: Client, shop: Shop, carol: User) -> None:
    event = failed(shop, carol)
    shop.stripe.fail_next(2)
    assert "Replayed: it failed. " in replay(admin_client, event).content.decode()
    event.refresh_from_db()
    assert (event.handled_at, event.due_at is not None, event.state) == (None, True, "failing")
    assert LogEntry.objects.get().get_change_message().startswith("Replayed: it failed. ")
    assert event.pk in admin_client.get(EVENTS, {"state": "failing"}).content.decode()


def test_the_button_of_the_page_leads_back_to_it(admin_client: Client, shop: Shop, carol: User) -> None:
    event = failed(shop, carol)
    page = admin_client.get(f"{EVENTS}{event.pk}/change/").content.decode()
    assert 'value="replay"' in page and f"/admin/billing/customer/{carol.pk}/change/" in page
    answer = replay(admin_client, event, _from_page="1")
    assert answer.redirect_chain == [(f"{EVENTS}{event.pk}/change/", 302)]


def test_several_are_replayed_from_the_list_the_oldest_first(admin_client: Client, shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    events = list(StripeEvent.objects.order_by("received_at", "pk"))
    assert len(events) > 2
    StripeEvent.objects.update(handled_at=None, error="Broken")
    replay(admin_client, *reversed(events))
    assert not StripeEvent.objects.filter(handled_at=None).exists()
    noted = LogEntry.objects.order_by("pk").values_list("object_id", flat=True)
    assert list(noted) == [event.pk for event in events]


def test_looking_replays_nothing_and_a_looker_gets_403(shop: Shop, carol: User) -> None:
    event = failed(shop, carol)
    user = User.objects.create_user("looker@blox.example", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=["view_stripeevent", "view_customer"]))
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    assert 'value="replay"' not in client.get(f"{EVENTS}{event.pk}/change/").content.decode()
    assert 'value="replay"' not in client.get(f"/admin/billing/customer/{carol.pk}/change/").content.decode()
    assert replay(client, event).status_code == 403
    event.refresh_from_db()
    assert (event.handled_at, LogEntry.objects.count()) == (None, 0)


def test_the_customers_page_replays_its_events(admin_client: Client, shop: Shop, carol: User) -> None:
    event = failed(shop, carol)
    page = admin_client.get(f"/admin/billing/customer/{carol.pk}/change/").content.decode()
    assert f'aria-label="Replay customer.subscription.created {event.pk}"' in page


def test_an_event_knows_its_customer_and_one_of_nobody_none(admin_client: Client, shop: Shop, carol: User) -> None:
    shop.subscribe(carol)
    customer = shop.customer(carol)
    kinds = set(StripeEvent.objects.filter(customer=customer).values_list("type", flat=True))
    assert {"customer.subscription.created", "checkout.session.completed"} <= kinds
    others = set(StripeEvent.objects.exclude(customer=customer).values_list("customer", flat=True))
    assert others <= {""}
    now = timezone.now()
    StripeEvent.objects.create(id="evt_x", type="price.created", created=now, payload="{}", received_at=now)
    assert admin_client.get(f"{EVENTS}evt_x/change/").status_code == 200


def test_what_is_due_for_the_first_time_is_not_among_the_failing(admin_client: Client) -> None:
    now = timezone.now()
    for name, error in (("evt_new", ""), ("evt_failed", "It failed.")):
        StripeEvent.objects.create(id=name, type="x", created=now, payload="{}", due_at=now, error=error)
    listed = {state: admin_client.get(EVENTS, {"state": state}).content.decode() for state in ("due", "failing")}
    assert [("evt_new" in page, "evt_failed" in page) for page in listed.values()] == [(True, True), (False, True)]


PAGES = ("overagereport", "subscriptionperiod", "subscription", "stripecustomer", "stripeevent", "billingmail")


@pytest.mark.parametrize("page", [*PAGES, "flowcapreview"])
def test_what_money_is_reckoned_by_is_looked_at_and_neither_added_changed_nor_deleted(
    admin_client: Client, shop: Shop, carol: User, page: str
) -> None:
    """A row of the ledger that somebody deletes would be told to Stripe, and charged, once more."""
    shop.subscribe(carol)
    now = timezone.now()
    OverageReport.objects.create(user=carol, period_start=now, sequence=1, value=1, identifier="blox-1", used_at=now)
    FlowCapReview.objects.create(user=carol, due_at=now)
    row = apps.get_model("billing", page).objects.first()
    url = f"/admin/billing/{page}/"
    assert "delete_selected" not in admin_client.get(url).content.decode()
    for name in ("change", "delete"):
        assert admin_client.post(f"{url}{quote(row.pk)}/{name}/", {"post": "yes"}).status_code == 403
    assert admin_client.get(f"{url}add/").status_code == 403
    assert type(row).objects.filter(pk=row.pk).exists()

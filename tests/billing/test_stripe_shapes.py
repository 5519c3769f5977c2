"""The stand-in's objects have the shape of Stripe's own examples: the same keys, the same JSON types, nested ones too.

The examples are Stripe's published `fixtures3.json` (of its OpenAPI repository); the file is not part of this project.
Without it, at `BLOX_STRIPE_FIXTURES` or in `../shared/stripe` beside the checkout, these tests are skipped.
"""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
import stripe
from stripe._object_classes import get_object_class

from tests.stripe_server import StripeServer

CHECKOUT = Path(__file__).parents[2]
FIXTURES = Path(os.environ.get("BLOX_STRIPE_FIXTURES") or CHECKOUT.parent / "shared/stripe/fixtures3.json")

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not FIXTURES.is_file(), reason="Stripe's published fixtures are not at hand"),
]

EXCEPTIONS = {
    "event.data.previous_attributes": "only in events of updates; the example is of a creation",
    "invoice.id": "missing in `invoice.upcoming` alone: there is no invoice yet",
    "invoice.subscription": "moved to `parent.subscription_details.subscription` with 2025-03-31.basil",
    "invoice_payment.payment.payment_intent": "the example leaves out which payment it was",
    "line_item.pricing.price_details": "the example leaves out the price, which `type=price_details` promises",
    "subscription_item.quantity": "metered items have none: their meters count",
    "subscription_schedule.phases[].items[].quantity": "metered items have none: their meters count",
}


@pytest.fixture(scope="module")
def examples() -> dict[str, Any]:
    return json.loads(FIXTURES.read_text())["resources"]


@pytest.fixture(scope="module")
def given() -> dict[str, list[dict[str, Any]]]:
    """Objects of every kind that the server gives, as they go over the wire, from a life with all that it plays."""
    with StripeServer(now=datetime(2026, 1, 31, 12, tzinfo=UTC)) as server:
        found = list(_lived(server))
        found += [each for kind in server.world.tables for each in server.objects(kind) if kind != KEYED_HERE]
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for each in found:
        by_kind.setdefault(_kind(each), []).append(each)
    return by_kind


def _kind(obj: dict[str, Any]) -> str:
    return f"deleted_{obj['object']}" if obj.get("deleted") else str(obj.get("object"))


KEYED_HERE = "billing.meter_event"  # in the server's table it has an id, over the wire none


def _lived(server: StripeServer) -> Iterator[dict[str, Any]]:
    """A trial, a downgrade by schedule, use, a refused card, the portal, a preview, a deleted customer."""
    api = stripe.StripeClient("sk_test_1", base_addresses={"api": server.url, "meter_events": server.url}).v1
    meter = api.billing.meters.create(
        {"display_name": "Runs", "event_name": "runs", "default_aggregation": {"formula": "sum"}}
    )
    metered: Any = {"interval": "month", "usage_type": "metered", "meter": meter.id}
    pro, basic = (
        api.prices.create(
            {"currency": "usd", "unit_amount": cents, "recurring": {"interval": "month"}, "product_data": {"name": "P"}}
        )
        for cents in (2900, 900)
    )
    runs = api.prices.create({"currency": "usd", "unit_amount": 1, "recurring": metered, "product": str(pro.product)})
    items: Any = [{"price": pro.id, "quantity": 1}, {"price": runs.id}]
    trial: Any = {"trial_period_days": 7}
    session = api.checkout.sessions.create(
        {"mode": "subscription", "line_items": items, "success_url": "https://x.test", "subscription_data": trial}
    )
    yield from _plain(api.checkout.sessions.line_items.list(session.id).data)
    done = server.complete_checkout(session.id)
    server.advance(days=8)
    customer, subscription = done["customer"], done["subscription"]
    event = api.billing.meter_events.create(
        {"event_name": "runs", "payload": {"stripe_customer_id": customer, "value": "3"}}
    )
    minute = server.now - server.now % 60
    window: Any = {"customer": customer, "start_time": minute - 60, "end_time": minute + 60}
    yield from _plain([event, *api.billing.meters.event_summaries.list(meter.id, window).data])
    yield from _plain([api.invoices.create_preview({"subscription": subscription})])
    schedule = api.subscription_schedules.create({"from_subscription": subscription})
    now = schedule.phases[0]
    phases: Any = [
        {"items": [{"price": pro.id}, {"price": runs.id}], "start_date": now.start_date, "end_date": now.end_date},
        {"items": [{"price": basic.id}]},
    ]
    api.subscription_schedules.update(schedule.id, {"phases": phases})
    server.card_declines(customer)
    server.advance(days=33)
    api.billing_portal.configurations.create({"features": {"invoice_history": {"enabled": True}}})
    yield from _plain([api.billing_portal.sessions.create({"customer": customer})])
    cancel: Any = {"type": "cancel", "event_name": "runs", "cancel": {"identifier": "late"}}
    api.billing.meter_events.create(
        {"event_name": "runs", "identifier": "late", "payload": {"stripe_customer_id": customer, "value": "3"}}
    )
    yield from _plain([api.billing.meter_event_adjustments.create(cancel)])
    yield from _plain([api.customers.delete(api.customers.create({"name": "Bob"}).id)])


def _plain(found: Any) -> list[dict[str, Any]]:
    return [json.loads(str(each)) for each in found]


def differences(given: Any, wanted: Any, at: str, examples: dict[str, Any]) -> Iterator[str]:
    """Where the two differ in keys or types; a null on either side, and an empty example, leave the rest open.

    What is an object of a kind of its own, also in the data of an event, is held against the example of that kind.
    """
    if given is None or wanted is None or wanted == {} or at.endswith(".metadata"):
        return
    if isinstance(given, str) and isinstance(wanted, dict) and "object" in wanted:
        return  # an id, where the example is expanded
    if _type(given) != _type(wanted):
        yield f"{at}: {_type(given)}, not {_type(wanted)}"
    elif isinstance(wanted, dict):
        if (kind := _kind(given)) in examples and "object" in wanted:
            at, wanted = kind, examples[kind]
        yield from (f"{at}.{key}: not in the example" for key in given.keys() - wanted.keys())
        yield from (f"{at}.{key}: missing" for key in wanted.keys() - given.keys())
        for key in given.keys() & wanted.keys():
            yield from differences(given[key], wanted[key], f"{at}.{key}", examples)
    elif isinstance(wanted, list) and wanted:
        for each in given:
            yield from differences(each, wanted[0], f"{at}[]", examples)


def _type(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number"
    return type(value).__name__


def unexpected_nulls(given: dict[str, Any], kind: str) -> Iterator[str]:
    """Fields that are null though the SDK's class has no null there."""
    types = get_object_class("V1", kind).__annotations__
    for name, value in given.items():
        if value is None and name in types and type(None) not in get_args(types[name]):
            yield f"{kind}.{name}: null"


def test_objects_have_the_keys_and_types_of_stripes_examples_but_for_the_known_exceptions(given, examples):
    found = {
        said
        for kind, objects in given.items()
        for each in objects
        for said in differences(each, examples[kind], kind, examples)
    }
    assert sorted(said for said in found if said.split(":")[0] not in EXCEPTIONS) == []
    assert {said.split(":")[0] for said in found} == set(EXCEPTIONS)  # none is kept for nothing


def test_no_field_is_null_where_the_sdk_has_no_null(given):
    found = {said for kind, objects in given.items() for each in objects for said in unexpected_nulls(each, kind)}
    assert sorted(found) == []


def test_every_kind_that_the_server_plays_is_among_those_compared(given):
    assert set(given) == KINDS


KINDS = set(
    """
    billing.meter billing.meter_event billing.meter_event_adjustment billing.meter_event_summary
    billing_portal.configuration billing_portal.session checkout.session customer deleted_customer event invoice
    invoice_payment item payment_method price product subscription subscription_schedule
    """.split()
)

"""A server on localhost that plays Stripe, and bears witness to what it was asked.

It keeps an account (customers, products, prices, meters, checkout sessions, subscriptions and their schedules, invoices,
the billing portal, events) behind Stripe's wire format, refuses what Stripe refuses, and sends signed webhooks:

    with StripeServer(webhook_url="http://127.0.0.1:8000/webhooks/stripe") as server:
        stripe = StripeClient("sk_test_1", base_addresses={"api": server.url, "meter_events": server.url})
        session = stripe.v1.checkout.sessions.create({...})
        server.complete_checkout(session.id)  # the person pays
        server.card_declines(session.customer)
        server.advance(days=31)  # trials end, periods renew, invoices are paid or tried again
        assert [each.path for each in server.log] == ["/v1/checkout/sessions"]

Which parameters a request may have is read from the SDK's own types, so that what our code sends is held against the
pinned version of the API. Parameters that Stripe takes and this server does not act on are refused, never ignored.

The webhook receiver is a URL, or a function (body, headers) -> status, which is called in the thread of the control that
causes the event (so a test's transaction sees what it does); events of API requests then wait for the next control or
`flush()`. Signatures carry the machine's time, events the server's, which stands still when `now` is given.

As a process of its own, `python -m tests.stripe_server [PORT]` prints its URL as its first line;
`RemoteStripeServer(url)` has the same controls, each a `POST /_control/NAME` with {"args": [], "kwargs": {}}.
"""

from tests.stripe_server.errors import StripeError
from tests.stripe_server.remote import RemoteStripeServer
from tests.stripe_server.server import StripeServer

__all__ = ["RemoteStripeServer", "StripeError", "StripeServer"]

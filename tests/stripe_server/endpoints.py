"""The one table of what is served: verb and path, the SDK's type of the parameters, and who answers.

A path's `{}` stands for an id. The type is named from `stripe.params`, so that a renamed one fails at import.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import stripe.params
import stripe.params.billing
import stripe.params.billing_portal
import stripe.params.checkout

from tests.stripe_server.objects import (
    catalogue,
    checkout,
    customers,
    endpoints,
    events,
    invoices,
    meters,
    portal,
    schedules,
    subscriptions,
)
from tests.stripe_server.world import Obj

base, billing, in_checkout, in_portal = (
    stripe.params,
    stripe.params.billing,
    stripe.params.checkout,
    stripe.params.billing_portal,
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    method: str
    path: str
    params: Any
    answer: Callable[..., Obj]

    def match(self, method: str, path: str) -> list[str] | None:
        """The ids in the path; None where this endpoint does not serve it."""
        pattern = self.path.replace("{}", r"([^/]+)")
        found = re.fullmatch(pattern, path) if method == self.method else None
        return None if found is None else list(found.groups())


TABLE: list[tuple[str, str, Any, Callable[..., Obj]]] = [
    ("POST", "customers", base.CustomerCreateParams, customers.create),
    ("GET", "customers", base.CustomerListParams, customers.list_all),
    ("GET", "customers/{}", base.CustomerRetrieveParams, customers.retrieve),
    ("POST", "customers/{}", base.CustomerUpdateParams, customers.update),
    ("DELETE", "customers/{}", base.CustomerDeleteParams, customers.delete),
    ("GET", "payment_methods", base.PaymentMethodListParams, customers.list_methods),
    ("GET", "payment_methods/{}", base.PaymentMethodRetrieveParams, customers.retrieve_method),
    ("POST", "products", base.ProductCreateParams, catalogue.create_product),
    ("GET", "products", base.ProductListParams, catalogue.list_products),
    ("GET", "products/{}", base.ProductRetrieveParams, catalogue.retrieve_product),
    ("POST", "products/{}", base.ProductUpdateParams, catalogue.update_product),
    ("POST", "prices", base.PriceCreateParams, catalogue.create_price),
    ("GET", "prices", base.PriceListParams, catalogue.list_prices),
    ("GET", "prices/{}", base.PriceRetrieveParams, catalogue.retrieve_price),
    ("POST", "prices/{}", base.PriceUpdateParams, catalogue.update_price),
    ("POST", "billing/meters", billing.MeterCreateParams, meters.create),
    ("GET", "billing/meters", billing.MeterListParams, meters.list_all),
    ("GET", "billing/meters/{}", billing.MeterRetrieveParams, meters.retrieve),
    ("POST", "billing/meters/{}", billing.MeterUpdateParams, meters.update),
    ("GET", "billing/meters/{}/event_summaries", billing.MeterEventSummaryListParams, meters.summaries),
    ("POST", "billing/meter_events", billing.MeterEventCreateParams, meters.record),
    ("POST", "billing/meter_event_adjustments", billing.MeterEventAdjustmentCreateParams, meters.adjust),
    ("POST", "checkout/sessions", in_checkout.SessionCreateParams, checkout.create),
    ("GET", "checkout/sessions", in_checkout.SessionListParams, checkout.list_all),
    ("GET", "checkout/sessions/{}", in_checkout.SessionRetrieveParams, checkout.retrieve),
    ("POST", "checkout/sessions/{}/expire", in_checkout.SessionExpireParams, checkout.expire),
    ("GET", "checkout/sessions/{}/line_items", in_checkout.SessionLineItemListParams, checkout.list_line_items),
    ("POST", "subscriptions", base.SubscriptionCreateParams, subscriptions.create),
    ("GET", "subscriptions", base.SubscriptionListParams, subscriptions.list_all),
    ("GET", "subscriptions/{}", base.SubscriptionRetrieveParams, subscriptions.retrieve),
    ("POST", "subscriptions/{}", base.SubscriptionUpdateParams, subscriptions.update),
    ("DELETE", "subscriptions/{}", base.SubscriptionCancelParams, subscriptions.cancel),
    ("GET", "subscription_items", base.SubscriptionItemListParams, subscriptions.list_items),
    ("POST", "subscription_schedules", base.SubscriptionScheduleCreateParams, schedules.create),
    ("GET", "subscription_schedules", base.SubscriptionScheduleListParams, schedules.list_all),
    ("GET", "subscription_schedules/{}", base.SubscriptionScheduleRetrieveParams, schedules.retrieve),
    ("POST", "subscription_schedules/{}", base.SubscriptionScheduleUpdateParams, schedules.update),
    ("POST", "subscription_schedules/{}/release", base.SubscriptionScheduleReleaseParams, schedules.release),
    ("POST", "subscription_schedules/{}/cancel", base.SubscriptionScheduleCancelParams, schedules.cancel),
    ("POST", "invoices/create_preview", base.InvoiceCreatePreviewParams, invoices.create_preview),
    ("GET", "invoices", base.InvoiceListParams, invoices.list_all),
    ("GET", "invoices/{}", base.InvoiceRetrieveParams, invoices.retrieve),
    ("GET", "invoices/{}/lines", base.InvoiceLineItemListParams, invoices.list_lines),
    ("POST", "invoices/{}/pay", base.InvoicePayParams, invoices.pay),
    ("POST", "billing_portal/configurations", in_portal.ConfigurationCreateParams, portal.create_configuration),
    ("GET", "billing_portal/configurations", in_portal.ConfigurationListParams, portal.list_configurations),
    (
        "GET",
        "billing_portal/configurations/{}",
        in_portal.ConfigurationRetrieveParams,
        portal.retrieve_configuration,
    ),
    ("POST", "billing_portal/configurations/{}", in_portal.ConfigurationUpdateParams, portal.update_configuration),
    ("POST", "billing_portal/sessions", in_portal.SessionCreateParams, portal.create_session),
    ("POST", "webhook_endpoints", base.WebhookEndpointCreateParams, endpoints.create),
    ("GET", "webhook_endpoints", base.WebhookEndpointListParams, endpoints.list_all),
    ("GET", "webhook_endpoints/{}", base.WebhookEndpointRetrieveParams, endpoints.retrieve),
    ("POST", "webhook_endpoints/{}", base.WebhookEndpointUpdateParams, endpoints.update),
    ("GET", "events", base.EventListParams, events.list_all),
    ("GET", "events/{}", base.EventRetrieveParams, events.retrieve),
]

ENDPOINTS = [Endpoint(method, f"/v1/{path}", params, answer) for method, path, params, answer in TABLE]

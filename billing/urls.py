from django.urls import path

from billing.views import CheckoutView, PortalView, StripeWebhookView, SubscriptionView

urlpatterns = [
    path("billing/checkout", CheckoutView.as_view(), name="billing-checkout"),
    path("billing/portal", PortalView.as_view(), name="billing-portal"),
    path("billing/subscription", SubscriptionView.as_view(), name="billing-subscription"),
]

public_urlpatterns = [path("webhooks/stripe", StripeWebhookView.as_view(), name="stripe-webhook")]

"""Under `/api/v1`, and the public paths of webhooks."""

from django.urls import path

from triggers import ingress
from triggers.views import DeliveryViewSet, MomentViewSet, TriggerViewSet

_OF_FLOW = "flows/<uuid:flow_id>/triggers"
_OF_ONE = f"{_OF_FLOW}/<uuid:trigger_id>"

urlpatterns = [
    path(_OF_FLOW, TriggerViewSet.as_view({"get": "list", "post": "create"}), name="triggers"),
    path(
        _OF_ONE,
        TriggerViewSet.as_view({"get": "retrieve", "patch": "partial_update", "delete": "destroy"}),
        name="trigger",
    ),
    path(f"{_OF_ONE}/regenerate-token", TriggerViewSet.as_view({"post": "regenerate_token"}), name="trigger-token"),
    path(f"{_OF_ONE}/fire", TriggerViewSet.as_view({"post": "fire"}), name="trigger-fire"),
    path(f"{_OF_ONE}/deliveries", DeliveryViewSet.as_view({"get": "list"}), name="deliveries"),
    path(f"{_OF_ONE}/deliveries/<uuid:delivery_id>", DeliveryViewSet.as_view({"get": "retrieve"}), name="delivery"),
    path(
        f"{_OF_ONE}/deliveries/<uuid:delivery_id>/replay",
        DeliveryViewSet.as_view({"post": "replay"}),
        name="delivery-replay",
    ),
    path(f"{_OF_ONE}/moments", MomentViewSet.as_view({"get": "list"}), name="moments"),
    path(f"{_OF_ONE}/moments/<uuid:moment_id>", MomentViewSet.as_view({"get": "retrieve"}), name="moment"),
]

# After the paths under /webhooks/ that have a name of their own.
public_urlpatterns = [
    path("webhooks/<str:token>", ingress.receive, name="webhook"),
    path("webhooks/<str:token>/test", ingress.test, name="webhook-test"),
]

from django.urls import path

from accounts.views import AccessTokenViewSet, ClerkWebhookView, MeView

urlpatterns = [
    path("me", MeView.as_view(), name="me"),
    path("access-tokens", AccessTokenViewSet.as_view({"get": "list", "post": "create"}), name="access-tokens"),
    path(
        "access-tokens/<uuid:pk>",
        AccessTokenViewSet.as_view({"get": "retrieve", "delete": "destroy"}),
        name="access-token",
    ),
]

public_urlpatterns = [path("webhooks/clerk", ClerkWebhookView.as_view(), name="clerk-webhook")]

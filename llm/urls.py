"""Under `/api/v1`."""

from django.urls import path

from llm.views import ApiKeyViewSet

urlpatterns = [
    path("api-keys", ApiKeyViewSet.as_view({"get": "list", "post": "create"}), name="api-keys"),
    path("api-keys/<str:provider>", ApiKeyViewSet.as_view({"get": "retrieve", "delete": "destroy"}), name="api-key"),
]

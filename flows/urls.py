"""Under `/api/v1`."""

from typing import Any

from django.urls import path

from flows.budget_views import BudgetViewSet, LlmUsageView
from flows.views import (
    BlockListView,
    FlowViewSet,
    MemoryViewSet,
    SecretViewSet,
    ValidateView,
    VariableViewSet,
    VersionViewSet,
)

NAMED: dict[str, Any] = {"get": "retrieve", "put": "update", "delete": "destroy"}

urlpatterns = [
    path("flows", FlowViewSet.as_view({"get": "list", "post": "create"}), name="flows"),
    path("flows/validate", ValidateView.as_view(), name="flow-validate"),
    path(
        "flows/<uuid:flow_id>",
        FlowViewSet.as_view({"get": "retrieve", "patch": "partial_update", "delete": "destroy"}),
        name="flow",
    ),
    path("flows/<uuid:flow_id>/start", FlowViewSet.as_view({"post": "start"}), name="flow-start"),
    path("flows/<uuid:flow_id>/stop", FlowViewSet.as_view({"post": "stop"}), name="flow-stop"),
    path("flows/<uuid:flow_id>/duplicate", FlowViewSet.as_view({"post": "duplicate"}), name="flow-duplicate"),
    path("flows/<uuid:flow_id>/export", FlowViewSet.as_view({"get": "export"}), name="flow-export"),
    path("flows/<uuid:flow_id>/versions", VersionViewSet.as_view({"get": "list"}), name="versions"),
    path("flows/<uuid:flow_id>/versions/<int:number>", VersionViewSet.as_view({"get": "retrieve"}), name="version"),
    path(
        "flows/<uuid:flow_id>/versions/<int:number>/restore",
        VersionViewSet.as_view({"post": "restore"}),
        name="version-restore",
    ),
    path("flows/<uuid:flow_id>/memories", MemoryViewSet.as_view({"get": "list"}), name="memories"),
    path(
        "flows/<uuid:flow_id>/memories/<uuid:memory_id>",
        MemoryViewSet.as_view({"get": "retrieve", "delete": "destroy"}),
        name="memory",
    ),
    path("variables", VariableViewSet.as_view({"get": "list"}), name="variables"),
    path("variables/<str:name>", VariableViewSet.as_view(NAMED), name="variable"),
    path("secrets", SecretViewSet.as_view({"get": "list"}), name="secrets"),
    path("secrets/<str:name>", SecretViewSet.as_view(NAMED), name="secret"),
    path("budgets", BudgetViewSet.as_view({"get": "list", "post": "create"}), name="budgets"),
    path(
        "budgets/<uuid:budget_id>",
        BudgetViewSet.as_view({"get": "retrieve", "patch": "partial_update", "delete": "destroy"}),
        name="budget",
    ),
    path("usage/llm", LlmUsageView.as_view(), name="usage-llm"),
    path("blocks", BlockListView.as_view(), name="blocks"),
]

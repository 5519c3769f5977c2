"""Under `/api/v1`, and the public page of a mail's link."""

from django.urls import path

from executions.approval_views import ApprovalViewSet, answer_by_link
from executions.bulk.views import BulkOperationViewSet
from executions.usage.views import UsageDailyView, UsageHistoryView, UsageView
from executions.views import (
    EventsView,
    ExecutionViewSet,
    ExplainView,
    FlowExecutionsStatsView,
    FlowExecutionViewSet,
    FlowStatsView,
    StepViewSet,
    TicketView,
)

FLOW = "flows/<uuid:flow_id>/executions"
EXECUTION = f"{FLOW}/<uuid:execution_id>"

urlpatterns = [
    path("executions", ExecutionViewSet.as_view({"get": "list"}), name="executions"),
    path("executions/retry", BulkOperationViewSet.as_view({"post": "retry"}), name="executions-retry"),
    path("executions/cancel", BulkOperationViewSet.as_view({"post": "cancel"}), name="executions-cancel"),
    path(
        "executions/operations/<uuid:operation_id>",
        BulkOperationViewSet.as_view({"get": "retrieve"}),
        name="executions-operation",
    ),
    path("usage", UsageView.as_view(), name="usage"),
    path("usage/history", UsageHistoryView.as_view(), name="usage-history"),
    path("usage/daily", UsageDailyView.as_view(), name="usage-daily"),
    path("flows/<uuid:flow_id>/stats", FlowStatsView.as_view(), name="flow-stats"),
    path(FLOW, FlowExecutionViewSet.as_view({"get": "list"}), name="flow-executions"),
    path(f"{FLOW}/stats", FlowExecutionsStatsView.as_view(), name="flow-executions-stats"),
    path(f"{FLOW}/run", FlowExecutionViewSet.as_view({"post": "run"}), name="flow-run"),
    path(EXECUTION, FlowExecutionViewSet.as_view({"get": "retrieve"}), name="execution"),
    path(f"{EXECUTION}/cancel", FlowExecutionViewSet.as_view({"post": "cancel"}), name="execution-cancel"),
    path(f"{EXECUTION}/retry", FlowExecutionViewSet.as_view({"post": "retry"}), name="execution-retry"),
    path(f"{EXECUTION}/approvals", ApprovalViewSet.as_view({"get": "list"}), name="approvals"),
    path(f"{EXECUTION}/approve", ApprovalViewSet.as_view({"post": "approve"}), name="execution-approve"),
    path(f"{EXECUTION}/resolve", ApprovalViewSet.as_view({"post": "resolve"}), name="execution-resolve"),
    path(f"{EXECUTION}/explain", ExplainView.as_view(), name="execution-explain"),
    path(f"{EXECUTION}/steps", StepViewSet.as_view({"get": "list"}), name="steps"),
    path(f"{EXECUTION}/steps/<uuid:step_id>", StepViewSet.as_view({"get": "retrieve"}), name="step"),
    path(f"{EXECUTION}/events", EventsView.as_view(), name="execution-events"),
    path(f"{EXECUTION}/events/ticket", TicketView.as_view(), name="execution-events-ticket"),
]

public_urlpatterns = [path("approvals/<str:token>", answer_by_link, name="approval-link")]

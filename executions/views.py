"""The API of executions: lists, one with its trace and events, running, cancelling and retrying."""

from dataclasses import replace
from typing import Any
from uuid import UUID

from django.http import StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_view
from rest_framework import mixins
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.authentication import BearerAuthentication
from bloxserver.api.pagination import ExecutionPagination
from bloxserver.api.schema import api_error
from bloxserver.api.views import TenantViewSet
from executions import serializers, services
from executions.explain import explain
from executions.explain_record import read_record
from executions.explain_serializers import ExplanationSerializer
from executions.filters import FLOW_PARAMETER, LIST_PARAMETERS, read_filters
from executions.listing import History
from executions.models import Execution, Step, TriggerType
from executions.pagination import ExecutionHistoryPagination
from executions.querysets import ExecutionQuerySet, StepQuerySet
from executions.stats import flow_stats
from executions.stream import EventStream, Position
from executions.tickets import TicketAuthentication, issue_ticket
from executions.trace import trace
from flows.views import FlowChildMixin

OVER_LIMIT = api_error("The month's runs are used up (usage_limit_exceeded).")
NOT_RUNNING = api_error(
    "The flow is not running (flow_not_running), or at the limit at which it skips (concurrency_limit)."
)


class ExecutionListViewSet(mixins.ListModelMixin, TenantViewSet):
    """Newest first, filtered, without payloads."""

    pagination_class = ExecutionHistoryPagination

    def paginate_queryset(self, queryset: Any) -> Any:
        wanted = read_filters(self.request.query_params)
        if "flow_id" in self.kwargs:
            wanted = replace(wanted, flow_id=self.kwargs["flow_id"])
        user: Any = self.request.user
        rows = queryset if wanted.flow_id is None else Execution.objects.of_flow(wanted.flow_id, user)
        history: Any = History(rows, wanted, user.pk)
        return super().paginate_queryset(history)


class ExecutionViewSet(ExecutionListViewSet):
    """Across the tenant's flows."""

    queryset = Execution.objects.all()
    serializer_class = serializers.ExecutionSummarySerializer

    def get_queryset(self) -> ExecutionQuerySet:
        executions: Any = super().get_queryset()
        return executions.of_existing_flows(self.request.user)

    @extend_schema(operation_id="listExecutions", parameters=[*LIST_PARAMETERS, FLOW_PARAMETER])
    def list(self, request: Request) -> Response:
        """The executions of all flows, newest first. Of a flow that is not yours there are none."""
        return super().list(request)


class FlowExecutionViewSet(FlowChildMixin, ExecutionListViewSet):
    queryset = Execution.objects.all()
    serializer_class = serializers.ExecutionSerializer
    lookup_url_kwarg = "execution_id"

    def get_queryset(self) -> ExecutionQuerySet:
        executions: Any = super().get_queryset().filter(flow_id=self.kwargs.get("flow_id"))
        if self.action == "list":
            return executions
        return executions.select_related("payload", "version").defer(
            "payload__trigger",
            "payload__variables",
            "payload__response",
            "version__organism_yaml",
            "version__canvas_state",
        )

    def get_serializer_class(self) -> Any:
        return serializers.ExecutionSummarySerializer if self.action == "list" else self.serializer_class

    @extend_schema(operation_id="listFlowExecutions", parameters=LIST_PARAMETERS)
    def list(self, request: Request, flow_id: UUID) -> Response:
        """The flow's executions, newest first."""
        return super().list(request)

    @extend_schema(operation_id="getExecution")
    def retrieve(self, request: Request, flow_id: UUID, execution_id: UUID) -> Response:
        """One execution, with what went in and came out."""
        return self._answer(self.get_object())

    @extend_schema(
        operation_id="runFlow",
        request=serializers.RunSerializer,
        responses={
            201: serializers.ExecutionSerializer,
            402: OVER_LIMIT,
            409: NOT_RUNNING,
            413: api_error("The payload is over 1 MiB (payload_too_large)."),
        },
    )
    def run(self, request: Request, flow_id: UUID) -> Response:
        """Run the deployed version, or test the draft (the whole, or one listener alone)."""
        data = checked(serializers.RunSerializer, request.data)
        accepted = services.accept_execution(
            flow=self.flow,
            trigger_type=TriggerType.MANUAL,
            payload=data["input_payload"],
            draft=data["draft"],
            listener=data["listener"],
            now=timezone.now(),
        )
        return self._answer_anew(accepted, status=201)

    @extend_schema(
        operation_id="cancelExecution",
        request=None,
        responses={200: serializers.ExecutionSerializer, 409: api_error("It has ended (execution_ended).")},
    )
    def cancel(self, request: Request, flow_id: UUID, execution_id: UUID) -> Response:
        """Ended at once where no worker is at it; else `cancelRequestedAt` is set and its worker ends it."""
        services.cancel_execution(execution=self.get_object(), by=str(request.user), now=timezone.now())
        return self._answer_anew(self.get_object())

    @extend_schema(
        operation_id="retryExecution",
        request=serializers.RetrySerializer,
        responses={
            201: serializers.ExecutionSerializer,
            402: OVER_LIMIT,
            409: api_error(
                "It has not ended (execution_not_ended), nothing failed (nothing_failed), the flow is not running "
                "(flow_not_running), or at the limit at which it skips (concurrency_limit)."
            ),
        },
    )
    def retry(self, request: Request, flow_id: UUID, execution_id: UUID) -> Response:
        """A new execution of the same payload, from the start or from where it failed."""
        execution = self.get_object()
        data = checked(serializers.RetrySerializer, request.data)
        retry = services.retry_execution(execution=execution, from_failed=data["from"] == "failed", now=timezone.now())
        return self._answer_anew(retry, status=201)

    def _answer_anew(self, execution: Execution, *, status: int = 200) -> Response:
        return self._answer(self.get_queryset().get(pk=execution.pk), status=status)

    def _answer(self, execution: Execution, *, status: int = 200) -> Response:
        return Response(serializers.ExecutionSerializer(execution).data, status=status)


class OneExecutionMixin(FlowChildMixin):
    """For views under one execution: `self.execution`, looked up before anything else."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        executions = Execution.objects.for_user(request.user).filter(flow=self.flow)  # type: ignore[arg-type]
        self.execution = get_object_or_404(executions, pk=kwargs["execution_id"])


class ExplainView(OneExecutionMixin, APIView):
    @extend_schema(operation_id="explainExecution", responses=ExplanationSerializer)
    def get(self, request: Request, flow_id: UUID, execution_id: UUID) -> Response:
        """Why it ran, on which version, what it waited for, what failed, what it cost, what a retry would do again."""
        explanation = explain(read_record(self.execution), now=timezone.now())
        return Response(ExplanationSerializer(explanation).data)


class StepViewSet(OneExecutionMixin, TenantViewSet):
    queryset = Step.objects.all()
    serializer_class = serializers.StepSerializer
    pagination_class = ExecutionPagination
    lookup_url_kwarg = "step_id"

    def get_queryset(self) -> StepQuerySet:
        steps: Any = super().get_queryset().filter(execution_id=self.kwargs.get("execution_id"))
        return steps.defer("input", "output").order_by("number")

    @extend_schema(operation_id="listSteps", responses=serializers.StepSerializer(many=True))
    def list(self, request: Request, flow_id: UUID, execution_id: UUID) -> Response:
        """The trace, in the order in which the steps came to where they are."""
        page = self.paginate_queryset(self.get_queryset()) or []
        return self.get_paginated_response(serializers.StepSerializer(trace(page), many=True).data)

    @extend_schema(operation_id="getStep")
    def retrieve(self, request: Request, flow_id: UUID, execution_id: UUID, step_id: UUID) -> Response:
        """One step with all of its input and output, however long."""
        [traced] = trace([self.get_object()], characters=None)
        return Response(serializers.StepSerializer(traced).data)


class FlowStatsView(FlowChildMixin, APIView):
    @extend_schema(operation_id="getFlowStats", responses=serializers.FlowStatsSerializer)
    def get(self, request: Request, flow_id: UUID) -> Response:
        """What the flow's executions add up to."""
        return Response(serializers.FlowStatsSerializer(flow_stats(self.flow)).data)


@extend_schema_view(get=extend_schema(operation_id="getFlowExecutionsStats"))
class FlowExecutionsStatsView(FlowStatsView):
    """The same, under its other path."""


class AnyAccept(DefaultContentNegotiation):
    """An EventSource accepts `text/event-stream` only, and still gets its errors as JSON."""

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class EventsView(OneExecutionMixin, APIView):
    authentication_classes = [BearerAuthentication, TicketAuthentication]
    content_negotiation_class = AnyAccept
    http_method_names = ["get", "options"]  # a HEAD would hold a stream open that nobody reads

    @extend_schema(
        operation_id="streamExecutionEvents",
        parameters=[
            OpenApiParameter(
                "Last-Event-ID",
                str,
                OpenApiParameter.HEADER,
                description="The id of the last event seen: goes on there.",
            ),
            OpenApiParameter("lastEventId", str, description="The same, for who cannot set headers."),
            OpenApiParameter("ticket", str, description="Signs in instead of the Authorization header."),
        ],
        responses={
            (200, "text/event-stream"): OpenApiTypes.STR,
            204: OpenApiResponse(description="The last event seen was the last: do not connect again."),
            503: api_error("All streams of the server are in use (streams_busy): try again after Retry-After."),
        },
    )
    def get(self, request: Request, flow_id: UUID, execution_id: UUID) -> StreamingHttpResponse | Response:
        """Server-sent events: `step` for each change of a step, `status` for each of the execution. Closes at the end.

        While a model speaks, `token {stepId, listener, seq, text}` carries what it says. `seq` counts the pieces of a turn; one
        with `seq` 1 begins its text, or begins it anew: what was shown of that step before is void.
        """
        seen = request.headers.get("Last-Event-ID") or request.query_params.get("lastEventId")
        position = Position.parse(seen)
        if position.ended:
            return Response(status=204)
        return StreamingHttpResponse(
            EventStream(self.execution.pk, position),
            content_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )


class TicketView(OneExecutionMixin, APIView):
    @extend_schema(operation_id="createEventsTicket", request=None, responses=serializers.TicketSerializer)
    def post(self, request: Request, flow_id: UUID, execution_id: UUID) -> Response:
        """A ticket that opens this execution's event stream for a minute, for a browser's EventSource."""
        ticket, expires_at = issue_ticket(
            user_id=self.execution.user_id, execution_id=self.execution.pk, now=timezone.now()
        )
        return Response(serializers.TicketSerializer({"ticket": ticket, "expires_at": expires_at}).data)


def checked(serializer_class: Any, data: Any) -> dict[str, Any]:
    serializer = serializer_class(data=data)
    serializer.is_valid(raise_exception=True)
    return serializer.validated_data

"""The API of a flow's triggers."""

from typing import Any, ClassVar, cast
from uuid import UUID

from django.shortcuts import get_object_or_404
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import User
from bloxserver.api.long_lists import CursorPagination, LongTable
from bloxserver.api.schema import api_error
from bloxserver.api.views import TenantViewSet
from executions.serializers import ExecutionSerializer
from flows.views import FlowChildMixin
from triggers import serializers, services
from triggers.models import Delivery, Moment, Trigger
from triggers.querysets import TriggerQuerySet


class TriggerViewSet(FlowChildMixin, TenantViewSet):
    queryset = Trigger.objects.with_flow()
    serializer_class = serializers.TriggerSerializer
    lookup_url_kwarg = "trigger_id"

    def get_queryset(self) -> TriggerQuerySet:
        triggers = cast(TriggerQuerySet, super().get_queryset())
        return triggers if getattr(self, "swagger_fake_view", False) else triggers.filter(flow=self.flow)

    @extend_schema(
        operation_id="listTriggers",
        parameters=[serializers.TriggerListQuerySerializer],
        responses=serializers.TriggerSerializer(many=True),
    )
    def list(self, request: Request, flow_id: UUID) -> Response:
        """The oldest first."""
        query = _checked(serializers.TriggerListQuerySerializer(data=request.query_params))
        triggers = self.get_queryset()
        if "type" in query:
            triggers = triggers.filter(type=query["type"])
        if text := query.get("search"):
            triggers = triggers.filter(name__icontains=text)
        return self.get_paginated_response(self.get_serializer(self.paginate_queryset(triggers), many=True).data)

    @extend_schema(
        operation_id="createTrigger",
        request=serializers.CreateTriggerSerializer,
        responses={201: serializers.TriggerSerializer, 402: api_error("The flow has as many triggers as it may.")},
    )
    def create(self, request: Request, flow_id: UUID) -> Response:
        """A webhook gets its URL at once; a schedule fires while its flow runs."""
        data = _checked(serializers.CreateTriggerSerializer(data=request.data))
        trigger = services.create_trigger(flow=self.flow, now=timezone.now(), **data)
        return self._answer(trigger, status=201)

    @extend_schema(operation_id="getTrigger")
    def retrieve(self, request: Request, flow_id: UUID, trigger_id: UUID) -> Response:
        return self._answer(self.get_object())

    @extend_schema(operation_id="updateTrigger", request=serializers.UpdateTriggerSerializer)
    def partial_update(self, request: Request, flow_id: UUID, trigger_id: UUID) -> Response:
        trigger = self.get_object()
        context = {"trigger": trigger}
        changes = _checked(serializers.UpdateTriggerSerializer(data=request.data, context=context))
        return self._answer(services.update_trigger(trigger=trigger, changes=changes, now=timezone.now()))

    @extend_schema(operation_id="deleteTrigger", responses={204: None})
    def destroy(self, request: Request, flow_id: UUID, trigger_id: UUID) -> Response:
        """Executions that it made stay."""
        services.delete_trigger(trigger=self.get_object(), now=timezone.now())
        return Response(status=204)

    @extend_schema(
        operation_id="regenerateTriggerToken",
        request=None,
        responses={200: serializers.TriggerSerializer, 409: api_error("It is not a webhook.")},
    )
    def regenerate_token(self, request: Request, flow_id: UUID, trigger_id: UUID) -> Response:
        """A new webhook URL. The old one answers 404 at once."""
        return self._answer(services.regenerate_token(trigger=self.get_object()))

    @extend_schema(
        operation_id="fireTrigger",
        request=serializers.FireSerializer,
        responses={
            201: ExecutionSerializer,
            402: api_error("The month's executions are used up."),
            409: api_error("The flow is not running or at its limit (concurrency_limit), or the trigger is disabled."),
        },
    )
    def fire(self, request: Request, flow_id: UUID, trigger_id: UUID) -> Response:
        """Fire it now, whatever its type."""
        trigger = self.get_object()
        data = _checked(serializers.FireSerializer(data=request.data))
        execution = services.fire_trigger(trigger=trigger, payload=data["payload"], now=timezone.now())
        return Response(ExecutionSerializer(execution).data, status=201)

    def _answer(self, trigger: Trigger, *, status: int = 200) -> Response:
        return Response(serializers.TriggerSerializer(trigger).data, status=status)


class LedgerViewSet(FlowChildMixin, TenantViewSet):
    """The rows of one trigger; a trigger that is not that flow's, or that flow not the caller's, is 404."""

    pagination_class = CursorPagination
    moment: ClassVar[str]  # the field that they are listed by

    def get_queryset(self) -> Any:
        rows = super().get_queryset()
        if getattr(self, "swagger_fake_view", False):
            return rows
        triggers = Trigger.objects.for_user(cast(User, self.request.user)).filter(flow=self.flow)
        trigger = get_object_or_404(triggers.only("pk"), pk=self.kwargs["trigger_id"])
        return rows.filter(trigger=trigger)

    def answer_page(self, rows: Any) -> Response:
        table: Any = LongTable(rows, self.moment)
        return self.get_paginated_response(self.get_serializer(self.paginate_queryset(table), many=True).data)


class DeliveryViewSet(LedgerViewSet):
    queryset = Delivery.objects.without_request()
    moment = "received_at"
    serializer_class = serializers.DeliverySerializer
    lookup_url_kwarg = "delivery_id"

    @extend_schema(
        operation_id="listDeliveries",
        parameters=[serializers.DeliveryListQuerySerializer],
        responses=serializers.DeliverySerializer(many=True),
    )
    def list(self, request: Request, flow_id: UUID, trigger_id: UUID) -> Response:
        """Every call of the webhook and what became of it, the newest first."""
        query = _checked(serializers.DeliveryListQuerySerializer(data=request.query_params))
        rows = self.get_queryset().between(query.get("since"), query.get("until"))
        return self.answer_page(rows.filter(verdict=query["verdict"]) if "verdict" in query else rows)

    @extend_schema(operation_id="getDelivery")
    def retrieve(self, request: Request, flow_id: UUID, trigger_id: UUID, delivery_id: UUID) -> Response:
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(
        operation_id="replayDelivery",
        request=None,
        responses={
            201: ExecutionSerializer,
            402: api_error("The month's executions are used up."),
            409: api_error(
                "It was accepted, has been replayed or is not kept; or the flow is not running, or the trigger disabled."
            ),
        },
    )
    def replay(self, request: Request, flow_id: UUID, trigger_id: UUID, delivery_id: UUID) -> Response:
        """Accept a refused delivery after all. Its content is kept for 72 hours."""
        rows = self.get_queryset().select_related("trigger__flow__user")
        delivery = get_object_or_404(rows, pk=delivery_id)
        execution = services.replay_delivery(delivery=delivery, now=timezone.now())
        return Response(ExecutionSerializer(execution).data, status=201)


class MomentViewSet(LedgerViewSet):
    queryset = Moment.objects.all()
    moment = "moment"
    serializer_class = serializers.MomentSerializer
    lookup_url_kwarg = "moment_id"

    @extend_schema(
        operation_id="listMoments",
        parameters=[serializers.MomentListQuerySerializer],
        responses=serializers.MomentSerializer(many=True),
    )
    def list(self, request: Request, flow_id: UUID, trigger_id: UUID) -> Response:
        """Every moment of the schedule and what became of it, the latest first."""
        query = _checked(serializers.MomentListQuerySerializer(data=request.query_params))
        rows = self.get_queryset().between(query.get("since"), query.get("until"))
        return self.answer_page(rows.filter(outcome=query["outcome"]) if "outcome" in query else rows)

    @extend_schema(operation_id="getMoment")
    def retrieve(self, request: Request, flow_id: UUID, trigger_id: UUID, moment_id: UUID) -> Response:
        return Response(self.get_serializer(self.get_object()).data)


def _checked(serializer: Any) -> dict[str, Any]:
    serializer.is_valid(raise_exception=True)
    data: dict[str, Any] = serializer.validated_data
    return data

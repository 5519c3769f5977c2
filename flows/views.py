"""The API of flows, their versions, variables and secrets, and of the block catalogue."""

from typing import Any, cast
from uuid import UUID

from django.db.models import F, QuerySet
from django.db.models.expressions import OrderBy
from django.db.models.functions import Lower
from django.http import Http404
from django.shortcuts import get_object_or_404
from django.utils.functional import cached_property
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import mixins
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bloxserver.api.pagination import PageNumberPagination
from bloxserver.api.schema import api_error
from bloxserver.api.views import TenantViewSet
from bloxserver.core.errors import InvalidInput
from flows import serializers, services
from flows.blocks import catalogue
from flows.memories import forget
from flows.models import AgentMemory, Flow, FlowVersion, Secret, Variable
from flows.querysets import FlowQuerySet
from flows.requests import checked, user_of
from flows.services.stored import NAME, NAME_RULE

ORDERINGS: dict[str, Any] = {
    "name": Lower("name"),
    "updatedAt": F("updated_at"),
    "createdAt": F("created_at"),
    "status": F("status"),
}


class FlowChildMixin:
    """For views under `/flows/{flow_id}`: `self.flow` is the caller's flow of that id, without its YAML and canvas.

    It is looked up before the body is read, so a stranger's flow answers 404 whatever is sent.
    """

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)  # type: ignore[misc]
        self.flow  # noqa: B018

    @cached_property
    def flow(self) -> Flow:
        flows = Flow.objects.for_user(self.request.user).without_bodies()  # type: ignore[attr-defined]
        return get_object_or_404(flows, pk=self.kwargs["flow_id"])  # type: ignore[attr-defined]


class FlowViewSet(TenantViewSet):
    queryset = Flow.objects.all()
    serializer_class = serializers.FlowSerializer
    lookup_url_kwarg = "flow_id"

    def get_queryset(self) -> FlowQuerySet:
        return cast(FlowQuerySet, super().get_queryset()).with_deployment()

    @extend_schema(
        operation_id="listFlows",
        parameters=[serializers.FlowListQuerySerializer],
        responses=serializers.FlowSummarySerializer(many=True),
    )
    def list(self, request: Request) -> Response:
        """The flows of the tenant, without their YAML and canvas."""
        query = checked(serializers.FlowListQuerySerializer, request.query_params)
        flows = cast(FlowQuerySet, super().get_queryset()).without_bodies()
        if statuses := query.get("status"):
            flows = flows.filter(status__in=statuses)
        if text := query.get("search"):
            flows = flows.search(text)
        page = self.paginate_queryset(flows.order_by(*_order(query["ordering"])))
        return self.get_paginated_response(serializers.FlowSummarySerializer(page, many=True).data)

    @extend_schema(
        operation_id="createFlow",
        request=serializers.CreateFlowSerializer,
        responses={201: serializers.FlowSerializer, 402: api_error("You have as many flows as you may.")},
    )
    def create(self, request: Request) -> Response:
        """A new, stopped flow: a template that runs as it is, your own YAML, or an export."""
        data = checked(serializers.CreateFlowSerializer, request.data)
        return self._answer(services.create_flow(owner=user_of(request), **data), status=201)

    @extend_schema(operation_id="getFlow")
    def retrieve(self, request: Request, flow_id: UUID) -> Response:
        """The flow with its draft, and what keeps the draft from starting."""
        return self._answer(self.get_object())

    @extend_schema(operation_id="updateFlow", request=serializers.UpdateFlowSerializer)
    def partial_update(self, request: Request, flow_id: UUID) -> Response:
        """Edit the draft. YAML with errors is kept; what runs stays as it is until the next start."""
        flow = self.get_object()
        changes = checked(serializers.UpdateFlowSerializer, request.data)
        return self._answer(services.update_flow(flow=flow, changes=changes))

    @extend_schema(operation_id="deleteFlow", responses={204: None})
    def destroy(self, request: Request, flow_id: UUID) -> Response:
        """Stop it by force and delete it, with its versions, executions and triggers."""
        services.delete_flow(flow=self.get_object())
        return Response(status=204)

    @extend_schema(
        operation_id="startFlow",
        request=None,
        responses={200: serializers.FlowSerializer, 402: api_error("As many run as the tier holds.")},
    )
    def start(self, request: Request, flow_id: UUID) -> Response:
        """Freeze the YAML as a version and deploy it. 400 `invalid_organism` lists all that is wrong with it."""
        return self._answer(services.start_flow(flow=self.get_object(), by=user_of(request)))

    @extend_schema(operation_id="stopFlow", request=serializers.StopFlowSerializer)
    def stop(self, request: Request, flow_id: UUID) -> Response:
        """Refuse new firings; `stopping` while executions finish, which `force` cancels."""
        flow = self.get_object()
        data = checked(serializers.StopFlowSerializer, request.data)
        return self._answer(services.stop_flow(flow=flow, force=data["force"]))

    @extend_schema(
        operation_id="duplicateFlow",
        request=serializers.DuplicateFlowSerializer,
        responses={201: serializers.FlowSerializer, 402: api_error("You have as many flows as you may.")},
    )
    def duplicate(self, request: Request, flow_id: UUID) -> Response:
        """A stopped copy with its own webhook URLs, and with the flow's variables and secrets."""
        flow = self.get_object()
        data = checked(serializers.DuplicateFlowSerializer, request.data)
        return self._answer(services.duplicate_flow(flow=flow, name=data.get("name")), status=201)

    @extend_schema(operation_id="exportFlow", responses=serializers.FlowExportSerializer)
    def export(self, request: Request, flow_id: UUID) -> Response:
        """The flow as a document that `POST /flows` takes: YAML, canvas and triggers, no ids, tokens or secrets."""
        document = services.export_flow(flow=self.get_object())
        return Response(serializers.FlowExportSerializer(document).data)

    def _answer(self, flow: Flow, *, status: int = 200) -> Response:
        return Response(serializers.FlowSerializer(flow).data, status=status)


class ValidateView(APIView):
    @extend_schema(
        operation_id="validateOrganism",
        request=serializers.ValidateSerializer,
        responses=serializers.FlowValidationSerializer,
    )
    def post(self, request: Request) -> Response:
        """All that is wrong with a YAML, each with line and column. Nothing is stored."""
        data = checked(serializers.ValidateSerializer, request.data)
        found = services.validate_for(user=user_of(request), organism_yaml=data["organism_yaml"])
        return Response(serializers.FlowValidationSerializer(found).data)


class VersionViewSet(FlowChildMixin, mixins.ListModelMixin, mixins.RetrieveModelMixin, TenantViewSet):
    queryset = FlowVersion.objects.all()
    serializer_class = serializers.VersionSerializer
    lookup_field = "number"

    def get_queryset(self) -> QuerySet[FlowVersion]:
        return super().get_queryset().filter(flow=self.flow, number__isnull=False).order_by("-number")

    def get_serializer_context(self) -> dict[str, Any]:
        return {**super().get_serializer_context(), "flow": self.flow}

    @extend_schema(operation_id="listVersions", responses=serializers.VersionSummarySerializer(many=True))
    def list(self, request: Request, flow_id: UUID) -> Response:
        """Newest first. A version is made when a flow is started with changes."""
        page = self.paginate_queryset(self.get_queryset().defer("organism_yaml", "canvas_state"))
        summaries = serializers.VersionSummarySerializer(page, many=True, context=self.get_serializer_context())
        return self.get_paginated_response(summaries.data)

    @extend_schema(operation_id="getVersion")
    def retrieve(self, request: Request, flow_id: UUID, number: int) -> Response:
        """One version with its YAML and canvas."""
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(operation_id="restoreVersion", request=None, responses=serializers.FlowSerializer)
    def restore(self, request: Request, flow_id: UUID, number: int) -> Response:
        """Copy a version into the draft. What runs stays as it is until the flow is started again."""
        flow = services.restore_version(flow=self.flow, version=self.get_object())
        return Response(serializers.FlowSerializer(flow).data)


class MemoryViewSet(FlowChildMixin, mixins.ListModelMixin, mixins.RetrieveModelMixin, TenantViewSet):
    """What the flow's agents remember from one execution to the next."""

    queryset = AgentMemory.objects.all()
    serializer_class = serializers.MemorySerializer
    lookup_url_kwarg = "memory_id"

    def get_queryset(self) -> QuerySet[AgentMemory]:
        return super().get_queryset().filter(flow=self.flow).order_by("-updated_at", "-id")

    @extend_schema(operation_id="listMemories", responses=serializers.MemorySummarySerializer(many=True))
    def list(self, request: Request, flow_id: UUID) -> Response:
        """What the flow's agents remember, the latest first: a row for each agent and key."""
        page = self.paginate_queryset(self.get_queryset().defer("messages"))
        return self.get_paginated_response(serializers.MemorySummarySerializer(page, many=True).data)

    @extend_schema(operation_id="getMemory")
    def retrieve(self, request: Request, flow_id: UUID, memory_id: UUID) -> Response:
        """One memory with its exchanges, the oldest first."""
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(operation_id="deleteMemory", responses={204: None})
    def destroy(self, request: Request, flow_id: UUID, memory_id: UUID) -> Response:
        """Forget it. The agent begins anew in its next execution."""
        forget(memory=self.get_object())
        return Response(status=204)


SCOPE = [
    OpenApiParameter("flow", UUID, description="A flow's own, instead of the tenant's.", required=False),
]
UNKNOWN_FLOW = api_error("The flow is unknown, or not yours.")
NAMED = [
    *SCOPE,
    OpenApiParameter("name", str, OpenApiParameter.PATH, pattern=f"^{NAME.pattern}$", description=NAME_RULE),
]


class StoredViewSet(mixins.ListModelMixin, TenantViewSet):
    """Named rows of the tenant, or with `?flow=` of one flow. A stranger's flow is 404 before anything is read."""

    lookup_field = "name"

    @cached_property
    def flow(self) -> Flow | None:
        query = checked(serializers.ScopeQuerySerializer, self.request.query_params)
        if "flow" not in query:
            return None
        return get_object_or_404(Flow.objects.for_user(user_of(self.request)).without_bodies(), pk=query["flow"])

    def get_queryset(self) -> Any:
        return super().get_queryset().filter(flow=self.flow).order_by("name")

    def get_object(self) -> Any:
        if not NAME.fullmatch(self.kwargs["name"]):
            raise Http404
        return super().get_object()

    def new_name(self) -> str:
        name: str = self.kwargs["name"]
        if not NAME.fullmatch(name):
            raise InvalidInput(f"This cannot be a name. {NAME_RULE}", details={"name": [NAME_RULE]})
        return name


class VariableViewSet(StoredViewSet):
    queryset = Variable.objects.all()
    serializer_class = serializers.VariableSerializer

    @extend_schema(
        operation_id="listVariables",
        parameters=SCOPE,
        responses={200: serializers.VariableSerializer(many=True), 404: UNKNOWN_FLOW},
    )
    def list(self, request: Request) -> Response:
        """By name: the tenant's own, or a flow's."""
        return super().list(request)

    @extend_schema(operation_id="getVariable", parameters=NAMED)
    def retrieve(self, request: Request, name: str) -> Response:
        """One variable with its value."""
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(
        operation_id="setVariable",
        parameters=NAMED,
        request=serializers.SetVariableSerializer,
        responses={
            200: serializers.VariableSerializer,
            201: serializers.VariableSerializer,
            409: api_error("As many as one place holds."),
        },
    )
    def update(self, request: Request, name: str) -> Response:
        """Make or replace it. Executions read variables once, when they are accepted."""
        flow, name = self.flow, self.new_name()
        data = checked(serializers.SetVariableSerializer, request.data)
        variable, created = services.set_variable(owner=user_of(request), flow=flow, name=name, value=data["value"])
        return Response(self.get_serializer(variable).data, status=201 if created else 200)

    @extend_schema(operation_id="deleteVariable", parameters=NAMED, responses={204: None})
    def destroy(self, request: Request, name: str) -> Response:
        """Executions that are accepted from now on no longer see it."""
        services.delete_variable(variable=self.get_object())
        return Response(status=204)


class SecretViewSet(StoredViewSet):
    queryset = Secret.objects.all()
    serializer_class = serializers.SecretSerializer

    @extend_schema(
        operation_id="listSecrets",
        parameters=SCOPE,
        responses={200: serializers.SecretSerializer(many=True), 404: UNKNOWN_FLOW},
    )
    def list(self, request: Request) -> Response:
        """Names only: a secret is never shown again."""
        return super().list(request)

    @extend_schema(operation_id="getSecret", parameters=NAMED)
    def retrieve(self, request: Request, name: str) -> Response:
        """Whether it is there and since when; not its value."""
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(
        operation_id="setSecret",
        parameters=NAMED,
        request=serializers.SetSecretSerializer,
        responses={
            200: serializers.SecretSerializer,
            201: serializers.SecretSerializer,
            409: api_error("As many as one place holds."),
        },
    )
    def update(self, request: Request, name: str) -> Response:
        """Make or replace it. The value is stored encrypted."""
        flow, name = self.flow, self.new_name()
        data = checked(serializers.SetSecretSerializer, request.data)
        secret, created = services.set_secret(owner=user_of(request), flow=flow, name=name, value=data["value"])
        return Response(self.get_serializer(secret).data, status=201 if created else 200)

    @extend_schema(operation_id="deleteSecret", parameters=NAMED, responses={204: None})
    def destroy(self, request: Request, name: str) -> Response:
        """Steps that ask for it from now on fail."""
        services.delete_secret(secret=self.get_object())
        return Response(status=204)


class CataloguePagination(PageNumberPagination):
    page_size = 100  # an editor wants the whole catalogue at once


class BlockListView(GenericAPIView[Any]):
    serializer_class = serializers.BlockSerializer
    pagination_class = CataloguePagination

    @extend_schema(operation_id="listBlocks", responses=serializers.BlockSerializer(many=True))
    def get(self, request: Request) -> Response:
        """The catalogue, by name."""
        blocks = sorted(catalogue().values(), key=lambda block: block.name)
        page = cast(list[Any], self.paginate_queryset(cast(Any, blocks)))  # pages through lists as well
        return self.get_paginated_response(self.get_serializer(page, many=True).data)


def _order(ordering: str) -> list[OrderBy]:
    """Two flows of one name, or of one moment, keep their places from page to page."""
    descending = ordering.startswith("-")
    return [OrderBy(by, descending=descending) for by in (ORDERINGS[ordering.removeprefix("-")], F("id"))]

"""The API of operations on many executions."""

from typing import Any
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from bloxserver.api.schema import api_error
from bloxserver.api.views import TenantViewSet
from executions.bulk.models import BulkOperation, Verb
from executions.bulk.serializers import BulkOperationSerializer, BulkRetrySerializer, BulkSerializer
from executions.bulk.services import accept_operation
from executions.wanted import Wanted

ACCEPTED = {
    202: BulkOperationSerializer,
    409: api_error(
        "More than 10,000 executions match (filter_too_broad), or more than can be searched through (filter_too_wide)."
    ),
}


class BulkOperationViewSet(TenantViewSet):
    queryset = BulkOperation.objects.all()
    serializer_class = BulkOperationSerializer
    lookup_url_kwarg = "operation_id"

    @extend_schema(operation_id="getExecutionsOperation")
    def retrieve(self, request: Request, operation_id: UUID) -> Response:
        """How far a retry or a cancel of many executions has come."""
        return Response(BulkOperationSerializer(self.get_object()).data)

    @extend_schema(operation_id="retryExecutions", request=BulkRetrySerializer, responses=ACCEPTED)
    def retry(self, request: Request) -> Response:
        """Retry all executions that match and have ended; without `status` or `ids`, those that failed."""
        return self._accept(request, Verb.RETRY, BulkRetrySerializer)

    @extend_schema(operation_id="cancelExecutions", request=BulkSerializer, responses=ACCEPTED)
    def cancel(self, request: Request) -> Response:
        """Cancel all executions that match and have not ended."""
        return self._accept(request, Verb.CANCEL, BulkSerializer)

    def _accept(self, request: Request, verb: Verb, serializer_class: Any) -> Response:
        serializer = serializer_class(data=request.data)
        serializer.is_valid(raise_exception=True)
        data = serializer.validated_data
        operation = accept_operation(
            user=request.user,  # type: ignore[arg-type]
            verb=verb,
            wanted=Wanted.from_valid(data),
            ids=data.get("ids"),
            asked={name: serializer.initial_data[name] for name in data if name in serializer.initial_data},
            from_failed=data.get("from") == "failed",
            now=timezone.now(),
        )
        operation.refresh_from_db()
        return Response(BulkOperationSerializer(operation).data, status=202)

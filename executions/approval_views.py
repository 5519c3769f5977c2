"""Answering what a step asks: over the API, and on the page that a mail's link leads to."""

from typing import Any
from uuid import UUID

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from bloxserver.api.pagination import ExecutionPagination
from bloxserver.api.schema import api_error
from bloxserver.api.views import TenantViewSet
from bloxserver.core.errors import DomainError
from executions import approvals, mails
from executions.approval_serializers import (
    MAX_COMMENT,
    ApprovalSerializer,
    ApproveSerializer,
    ResolveSerializer,
)
from executions.models import Approval, ApprovalKind
from executions.querysets import ApprovalQuerySet
from executions.views import OneExecutionMixin, checked

REFUSED = api_error(
    "It has been answered (approval_answered), its time is over (approval_expired), its step has ended without it "
    "(approval_withdrawn), the execution has ended (execution_ended), or it asks nothing of the kind (nothing_asked)."
)


class ApprovalViewSet(OneExecutionMixin, TenantViewSet):
    queryset = Approval.objects.all()
    serializer_class = ApprovalSerializer
    pagination_class = ExecutionPagination

    def get_queryset(self) -> ApprovalQuerySet:
        rows: Any = super().get_queryset()
        return rows.filter(execution_id=self.kwargs.get("execution_id")).with_step().order_by("id")

    @extend_schema(operation_id="listApprovals", responses=ApprovalSerializer(many=True))
    def list(self, request: Request, flow_id: UUID, execution_id: UUID) -> Response:
        """What the execution has asked people, the first first; `answer` is null where it waits."""
        page = self.paginate_queryset(self.get_queryset())
        return self.get_paginated_response(ApprovalSerializer(page, many=True).data)

    @extend_schema(
        operation_id="answerApproval", request=ApproveSerializer, responses={200: ApprovalSerializer, 409: REFUSED}
    )
    def approve(self, request: Request, flow_id: UUID, execution_id: UUID) -> Response:
        """Answer the question of a `blox.approval`: the execution goes on with it."""
        data = checked(ApproveSerializer, request.data)
        answered = approvals.answer_approval(
            approval=self._meant(ApprovalKind.APPROVAL, data),
            approved=data["approved"],
            by=str(request.user),
            comment=data["comment"],
            now=timezone.now(),
        )
        return self._answer(answered)

    @extend_schema(
        operation_id="resolveCrash", request=ResolveSerializer, responses={200: ApprovalSerializer, 409: REFUSED}
    )
    def resolve(self, request: Request, flow_id: UUID, execution_id: UUID) -> Response:
        """Decide on a step with `on_crash: ask` whose worker died while it was under way."""
        data = checked(ResolveSerializer, request.data)
        resolved = approvals.resolve_crash(
            approval=self._meant(ApprovalKind.CRASH, data),
            decision=data["decision"],
            output=data["output"],
            by=str(request.user),
            comment=data["comment"],
            now=timezone.now(),
        )
        return self._answer(resolved)

    def _meant(self, kind: ApprovalKind, data: dict[str, Any]) -> Approval:
        return approvals.find_approval(
            execution=self.execution, kind=kind, approval_id=data.get("approval_id"), step_id=data.get("step")
        )

    def _answer(self, approval: Approval) -> Response:
        return Response(ApprovalSerializer(self.get_queryset().get(pk=approval.pk)).data)


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def answer_by_link(request: HttpRequest, token: str) -> HttpResponse:
    """The page behind a mail's link: a GET shows the question and answers nothing, since mail scanners follow links."""
    signed = mails.read_token(token)
    if signed is None:
        raise Http404
    approval_id, address = signed
    rows = Approval.objects.select_related("execution__flow").defer(
        "execution__flow__organism_yaml", "execution__flow__canvas_state"
    )
    approval = get_object_or_404(rows, pk=approval_id, kind=ApprovalKind.APPROVAL)
    refusal = ""
    if request.method == "POST" and (answer := request.POST.get("answer")) in ("approve", "reject"):
        try:
            approvals.answer_approval(
                approval=approval,
                approved=answer == "approve",
                by=address,
                comment=request.POST.get("comment", "").strip().replace("\x00", "")[:MAX_COMMENT],
                now=timezone.now(),
            )
        except DomainError as error:
            refusal = error.message
    is_open = Approval.objects.filter(pk=approval.pk).open().exists()
    context = {"approval": approval, "address": address, "refusal": refusal, "is_open": is_open}
    response = render(request, "executions/approval.html", {**context, "max_comment": MAX_COMMENT})
    response["X-Robots-Tag"] = "noindex"
    return response

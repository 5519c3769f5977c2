"""What steps ask people, and the answers; an operator may answer too."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from bloxserver.core.admin import ButtonsAdmin, status_pill, tell
from bloxserver.core.errors import DomainError
from executions.admin.base import OfExecutionAdmin
from executions.admin.privacy import HIDDEN, PrivateRows, hides
from executions.admin.texts import json_field, moment, short
from executions.approvals import answer_approval, resolve_crash
from executions.models import Approval, ApprovalAnswer, ApprovalKind

TONES = {"approved": "good", "succeed": "good", "rejected": "bad", "fail": "bad", "retry": "busy"}


class OpenFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("pending", "Waits for an answer"), ("answered", "Answered")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        if self.value() == "pending":
            return queryset.open()
        return queryset.answered() if self.value() == "answered" else queryset


@admin.register(Approval)
class ApprovalAdmin(ButtonsAdmin, PrivateRows, OfExecutionAdmin):
    list_display = ("of_execution_short", "listener", "kind", "short_message", "shown_answer", "by", "asked")
    list_display_links = ("listener",)
    list_filter = (OpenFilter, "kind", "asked_at")
    ordering = ("-id",)
    actions = ("approve", "reject", "retry_step", "fail_step", "take_as_done")
    fields = (
        "of_execution",
        ("listener", "kind"),
        "shown_message",
        ("asked", "expires", "notified"),
        ("shown_answer", "by", "answered"),
        "shown_comment",
        "shown_output",
        ("step_key", "position"),
    )
    readonly_fields = (
        "of_execution",
        "asked",
        "expires",
        "answered",
        "shown_answer",
        "shown_message",
        "shown_comment",
        "shown_output",
    )

    shown_output = staticmethod(json_field("output", "output", hidden=hides))

    @admin.display(description="message")
    def short_message(self, approval: Approval) -> SafeString:
        return format_html('<span class="blox-text">{}</span>', short(_shown(approval, approval.message)))

    @admin.display(description="message")
    def shown_message(self, approval: Approval) -> str:
        return _shown(approval, approval.message)

    @admin.display(description="comment")
    def shown_comment(self, approval: Approval) -> str:
        return _shown(approval, approval.comment)

    @admin.display(description="answer")
    def shown_answer(self, approval: Approval) -> SafeString | str:
        return status_pill(approval.answer, TONES[approval.answer]) if approval.answer else "-"

    @admin.display(description="asked", ordering="id")
    def asked(self, approval: Approval) -> SafeString | str:
        return moment(approval.asked_at, "seconds")

    @admin.display(description="expires")
    def expires(self, approval: Approval) -> SafeString | str:
        return moment(approval.expires_at)

    @admin.display(description="answered")
    def answered(self, approval: Approval) -> SafeString | str:
        return moment(approval.answered_at)

    def buttons(self, approval: Approval) -> list[str]:
        if not Approval.objects.filter(pk=approval.pk).open().exists():
            return []
        is_crash = approval.kind == ApprovalKind.CRASH
        return ["retry_step", "fail_step", "take_as_done"] if is_crash else ["approve", "reject"]

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Rows cannot be edited; who may change executions may answer what they ask."""
        return request.user.has_perm("executions.change_execution")

    @admin.action(description="Approve", permissions=["operate"])
    def approve(self, request: HttpRequest, approvals: QuerySet[Approval]) -> None:
        self._answer(request, approvals, True)

    @admin.action(description="Reject", permissions=["operate"])
    def reject(self, request: HttpRequest, approvals: QuerySet[Approval]) -> None:
        self._answer(request, approvals, False)

    @admin.action(description="After a crash: run the step again", permissions=["operate"])
    def retry_step(self, request: HttpRequest, approvals: QuerySet[Approval]) -> None:
        self._resolve(request, approvals, ApprovalAnswer.RETRY)

    @admin.action(description="After a crash: the step failed", permissions=["operate"])
    def fail_step(self, request: HttpRequest, approvals: QuerySet[Approval]) -> None:
        self._resolve(request, approvals, ApprovalAnswer.FAIL)

    @admin.action(description="After a crash: the step is done (output null)", permissions=["operate"])
    def take_as_done(self, request: HttpRequest, approvals: QuerySet[Approval]) -> None:
        self._resolve(request, approvals, ApprovalAnswer.SUCCEED)

    def _answer(self, request: HttpRequest, approvals: QuerySet[Approval], approved: bool) -> None:
        self._each(
            request,
            approvals,
            lambda row: answer_approval(approval=row, approved=approved, by=str(request.user), now=timezone.now()),
        )

    def _resolve(self, request: HttpRequest, approvals: QuerySet[Approval], decision: ApprovalAnswer) -> None:
        self._each(
            request,
            approvals,
            lambda row: resolve_crash(approval=row, decision=decision, by=str(request.user), now=timezone.now()),
        )

    def _each(self, request: HttpRequest, approvals: QuerySet[Approval], act: Callable[[Approval], Approval]) -> None:
        said = []
        for approval in approvals:
            try:
                level, text = messages.SUCCESS, act(approval).in_words
            except DomainError as error:
                level, text = messages.ERROR, error.message
            else:
                self.log_change(request, approval, text)
            said.append((level, format_html("{}: {}", approval.listener, text)))
        tell(request, said)


def _shown(approval: Approval, text: str) -> str:
    return HIDDEN if text and hides(approval) else text or "-"

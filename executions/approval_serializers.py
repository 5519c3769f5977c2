"""The API types of questions that wait for a person."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from bloxserver.api.fields import TextField
from bloxserver.core import json_text
from executions.models import Approval, ApprovalAnswer
from executions.serializers import AnyJSONField

MAX_COMMENT = 2_000
DECISIONS = (ApprovalAnswer.RETRY, ApprovalAnswer.FAIL, ApprovalAnswer.SUCCEED)


class ApprovalSerializer(serializers.ModelSerializer[Approval]):
    """What a step asks a person, and the answer."""

    step_id = serializers.UUIDField(read_only=True, allow_null=True, help_text="The step that asks.")
    answer = serializers.SerializerMethodField(help_text="Null while nobody has answered.")
    output = serializers.SerializerMethodField(help_text="What the step was said to have succeeded with.")

    class Meta:
        model = Approval
        fields: tuple[str, ...] = (
            "id",
            "execution_id",
            "step_id",
            "listener",
            "kind",
            "message",
            "notified",
            "asked_at",
            "expires_at",
            "answer",
            "by",
            "comment",
            "output",
            "answered_at",
        )
        read_only_fields: tuple[str, ...] = fields

    execution_id = serializers.UUIDField(read_only=True)
    notified = serializers.ListField(
        child=serializers.CharField(), read_only=True, help_text="Addresses that got a mail with a link to answer by."
    )

    @extend_schema_field(serializers.ChoiceField(choices=ApprovalAnswer.choices, allow_null=True))
    def get_answer(self, approval: Approval) -> str | None:
        return approval.answer or None

    @extend_schema_field({})
    def get_output(self, approval: Approval) -> Any:
        return None if approval.output is None else json_text.loads(approval.output)


class _WhichSerializer(serializers.Serializer[Any]):
    approval_id = serializers.UUIDField(required=False, help_text="The question that is answered.")
    step = serializers.UUIDField(
        required=False, help_text="The id of the step that asks. Without either: the only open question."
    )
    comment = TextField(
        required=False, default="", allow_blank=True, max_length=MAX_COMMENT, help_text="Kept with the answer."
    )


class ApproveSerializer(_WhichSerializer):
    approved = serializers.BooleanField()


class ResolveSerializer(_WhichSerializer):
    decision = serializers.ChoiceField(
        choices=[answer.value for answer in DECISIONS],
        help_text="retry: run the step again. fail: it failed (worker_lost). succeed: it is done, and gave `output`.",
    )
    output = AnyJSONField(required=False, default=None, help_text="With succeed: what goes on to the peers.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs["output"] is not None and attrs["decision"] != ApprovalAnswer.SUCCEED:
            raise serializers.ValidationError({"output": "Only a step that succeeds has an output."})
        return attrs

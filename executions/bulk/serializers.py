"""The API types of operations on many executions."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from bloxserver.api.fields import IdField, TextField
from executions.bulk.models import BulkItem, BulkOperation, ItemStatus
from executions.bulk.services import ERRORS_SHOWN, MAX_EXECUTIONS
from executions.models import ExecutionStatus, TriggerType
from executions.wanted import MAX_SEARCH

NARROWING = ("ids", "flow", "status", "trigger_type", "since", "until", "search")


class BulkSerializer(serializers.Serializer[Any]):
    """Which executions: at least one filter. They narrow each other down, as in the list."""

    ids = serializers.ListField(child=IdField(), required=False, max_length=MAX_EXECUTIONS, allow_empty=False)
    flow = IdField(required=False)
    status = serializers.ListField(
        child=serializers.ChoiceField(choices=ExecutionStatus.choices), required=False, allow_empty=False
    )
    trigger_type = serializers.ListField(
        child=serializers.ChoiceField(choices=TriggerType.choices), required=False, allow_empty=False
    )
    since = serializers.DateTimeField(required=False, help_text="Accepted at this moment or later.")
    until = serializers.DateTimeField(required=False, help_text="Accepted before this moment.")
    search = TextField(required=False, max_length=MAX_SEARCH, help_text="In the error message, or the input.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if not any(name in attrs for name in NARROWING):
            raise serializers.ValidationError("Say which executions: by ids, or by one of the list's filters.")
        return attrs


class BulkRetrySerializer(BulkSerializer):
    """Of what has ended; without `status` or `ids`, what failed."""

    def get_fields(self) -> dict[str, serializers.Field]:
        fields = super().get_fields()
        fields["from"] = serializers.ChoiceField(  # a Python keyword, so it cannot be declared as an attribute
            choices=["start", "failed"], default="start", help_text="As for one execution's retry."
        )
        return fields


class BulkErrorSerializer(serializers.ModelSerializer[BulkItem]):
    class Meta:
        model = BulkItem
        fields = ("execution_id", "code", "message")


class BulkOperationSerializer(serializers.ModelSerializer[BulkOperation]):
    """A retry or a cancel of many executions, and how far it has come: `done` and `failed` of `total`."""

    errors = serializers.SerializerMethodField(  # type: ignore[assignment]  # a field here, not what is wrong
        help_text=f"The first {ERRORS_SHOWN} of those that failed."
    )

    class Meta:
        model = BulkOperation
        fields = ("id", "verb", "status", "total", "done", "failed", "errors", "created_at", "completed_at")
        read_only_fields = fields

    @extend_schema_field(BulkErrorSerializer(many=True))
    def get_errors(self, operation: BulkOperation) -> Any:
        failed = operation.items.filter(status=ItemStatus.FAILED).order_by("id")[:ERRORS_SHOWN]
        return BulkErrorSerializer(failed, many=True).data

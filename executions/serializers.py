"""The API types of executions, steps and statistics."""

from contextlib import suppress
from typing import Any

from django.conf import settings
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from bloxserver.api import strict_json
from bloxserver.api.fields import TextField
from bloxserver.core import json_text
from executions.errors import PayloadTooLarge
from executions.models import Execution, StepStatus
from executions.trace import TracedStep, Value


class ExecutionSummarySerializer(serializers.ModelSerializer[Execution]):
    """An execution as lists and the event stream show it: without payloads."""

    flow_id = serializers.UUIDField(read_only=True)
    duration_ms = serializers.IntegerField(
        read_only=True, allow_null=True, help_text="From a worker's first claim to the end, in milliseconds."
    )
    queued_ms = serializers.IntegerField(
        read_only=True, allow_null=True, help_text="From acceptance to a worker's first claim, in milliseconds."
    )

    class Meta:
        model = Execution
        fields: tuple[str, ...] = (
            "id",
            "flow_id",
            "status",
            "trigger_type",
            "trigger_id",
            "trigger_name",
            "started_at",
            "completed_at",
            "duration_ms",
            "queued_ms",
            "error_code",
            "error_message",
            "is_draft",
            "retry_of",
            "parent_id",
            "cancel_requested_at",
        )
        read_only_fields: tuple[str, ...] = fields


class ExecutionSerializer(ExecutionSummarySerializer):
    """One run of a flow."""

    version = serializers.IntegerField(
        source="version.number", read_only=True, allow_null=True, help_text="The flow's version; null for a draft."
    )
    input_payload = serializers.CharField(source="payload.input", read_only=True, help_text="JSON text.")
    output_payload = serializers.CharField(
        source="payload.output", read_only=True, allow_null=True, help_text="JSON text; null without a result."
    )

    class Meta(ExecutionSummarySerializer.Meta):
        fields = (*ExecutionSummarySerializer.Meta.fields, "version", "input_payload", "output_payload")
        read_only_fields = fields


@extend_schema_field({})
class AnyJSONField(serializers.JSONField):
    """Any JSON, null included: by its schema too, which for `allow_null` would say "anything or null, not both"."""

    def validate_empty_values(self, data: Any) -> tuple[bool, Any]:
        return (True, None) if data is None else super().validate_empty_values(data)


class RunSerializer(serializers.Serializer[Any]):
    input_payload = AnyJSONField(
        required=False,
        default=None,
        help_text="Any JSON, up to 1 MiB. A string that holds JSON is taken as that JSON, any other string as text.",
    )
    draft = serializers.BooleanField(
        required=False, default=False, help_text="Run the draft as it is now; the flow need not be running."
    )
    listener = TextField(
        required=False, default="", allow_blank=True, help_text="Test this one listener of the draft alone."
    )

    def validate_input_payload(self, value: Any) -> str:
        """The payload as JSON text, of a webhook's size at most. Raises `PayloadTooLarge` (413)."""
        text = _json_text(value)
        if len(text.encode()) > settings.WEBHOOK_MAX_BYTES:
            raise PayloadTooLarge(f"The payload is larger than {settings.WEBHOOK_MAX_BYTES:,} bytes of JSON.")
        return text

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        return {**attrs, "draft": attrs["draft"] or bool(attrs["listener"])}


def _json_text(value: Any) -> str:
    if isinstance(value, str):
        with suppress(ValueError):
            return json_text.dumps(strict_json.loads(value.encode()))
    return json_text.dumps(value)


class RetrySerializer(serializers.Serializer[Any]):
    def get_fields(self) -> dict[str, serializers.Field]:
        fields = super().get_fields()
        fields["from"] = serializers.ChoiceField(  # a Python keyword, so it cannot be declared as an attribute
            choices=["start", "failed"],
            default="start",
            help_text="start: all again, on the deployed version. failed: keep the finished steps, on the same version.",
        )
        return fields


class FailureSerializer(serializers.Serializer[Any]):
    attempt = serializers.IntegerField()
    code = serializers.CharField()
    error = serializers.CharField()
    at = serializers.DateTimeField()


@extend_schema_field({})
class JSONValueField(serializers.Field[Value, Any, Any, Any]):
    """JSON text, shown as the value that it is; one that is too long for a list is shown as null."""

    def to_representation(self, value: Value) -> Any:
        return None if value.text is None or value.cut else json_text.loads(value.text)


class ModelHopSerializer(serializers.Serializer[Any]):
    provider = serializers.CharField()
    model = serializers.CharField()
    outcome = serializers.CharField(help_text="`answered`, or why it did not.")
    ms = serializers.IntegerField()


class ModelCallSerializer(serializers.Serializer[Any]):
    """How a model's turn came to its answer; while it is under way, or where it failed, with `model` alone."""

    model = serializers.CharField(help_text="As the provider names it; before there is an answer, as it was asked for.")
    provider = serializers.CharField()
    own_key = serializers.BooleanField(help_text="Asked with the user's own key.")
    cost = serializers.CharField(
        allow_null=True, help_text="US dollars, as a decimal number; null where it is unknown."
    )
    latency_ms = serializers.IntegerField()
    cached = serializers.ChoiceField(choices=["", "exact", "semantic"])
    stop = serializers.ChoiceField(
        choices=["", "stop", "tools", "length", "refused"], help_text="Why the answer ended."
    )
    path = ModelHopSerializer(many=True, help_text="Who was asked, one after the other.")


class StepSerializer(serializers.Serializer[Any]):
    """One message that was given to one listener, and what came of it; or one turn of a model that its block asked."""

    id = serializers.UUIDField(source="step.id")
    number = serializers.IntegerField(source="step.number", help_text="Grows with every change of any step.")
    listener = serializers.CharField(source="step.listener")
    block = serializers.CharField(source="step.block")
    from_listener = serializers.CharField(source="step.from_listener", allow_null=True)
    scope = serializers.CharField(
        source="step.scope", help_text="Empty, or which call of which step this one is part of (tools, for_each)."
    )
    status = serializers.ChoiceField(source="step.status", choices=StepStatus.choices)
    attempt = serializers.IntegerField(source="step.attempt")
    failures = FailureSerializer(source="step.failures", many=True, help_text="The attempts before this one.")
    input = JSONValueField()
    output = JSONValueField()
    omitted = serializers.SerializerMethodField(
        help_text="Which of input and output were left out for their length (over 256 KiB): read the step by its id."
    )
    error = serializers.CharField(source="step.error", allow_null=True)
    error_code = serializers.CharField(source="step.error_code")
    sent_to = serializers.ListField(
        source="step.sent_to",
        child=serializers.CharField(),
        help_text="The listeners that got the output, or the error.",
    )
    notes = serializers.ListField(
        source="step.notes",
        child=serializers.CharField(),
        help_text="What to know of it: values that had to be replaced.",
    )
    started_at = serializers.DateTimeField(source="step.started_at")
    completed_at = serializers.DateTimeField(source="step.completed_at", allow_null=True)
    duration_ms = serializers.IntegerField(source="step.duration_ms", allow_null=True)
    tokens_in = serializers.IntegerField(source="step.tokens_in")
    tokens_out = serializers.IntegerField(source="step.tokens_out")
    model_call = ModelCallSerializer(
        source="step.model_call", allow_null=True, help_text="Of a model's turn (block `blox.model`); else null."
    )

    @extend_schema_field(serializers.ListField(child=serializers.ChoiceField(choices=["input", "output"])))
    def get_omitted(self, traced: TracedStep) -> list[str]:
        return [name for name, value in (("input", traced.input), ("output", traced.output)) if value.cut]


class FlowStatsSerializer(serializers.Serializer[Any]):
    flow_id = serializers.UUIDField()
    executions_total = serializers.IntegerField()
    executions_success = serializers.IntegerField()
    executions_error = serializers.IntegerField(help_text="Errors and time-outs.")
    avg_duration_ms = serializers.FloatField(help_text="Over the executions that have ended; 0 when none has.")
    last_executed_at = serializers.DateTimeField(allow_null=True)


class TicketSerializer(serializers.Serializer[Any]):
    ticket = serializers.CharField(help_text="Opens this execution's event stream as `?ticket=`.")
    expires_at = serializers.DateTimeField(help_text="When it can no longer open a stream. An open one goes on.")

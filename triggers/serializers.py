"""The API types of triggers."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from bloxserver.api.fields import TextField
from bloxserver.core import json_text
from executions.models import TriggerType
from triggers.errors import InvalidTriggerConfig
from triggers.models import Delivery, Moment, Outcome, Trigger, Verdict
from triggers.services import preview

CONFIG_HELP = (
    "By type. webhook: methods, respond (accepted, result), wait, "
    "signature {scheme (github, stripe, slack, standard), secret (the name of a stored one)}. "
    "schedule: cron, timezone, overlap (queue, skip, cancel), catchUp (latest, all, none), jitter. "
    "manual: nothing. Kept key for key; an unknown key is an error."
)


class TriggerSerializer(serializers.ModelSerializer[Trigger]):
    flow_id = serializers.UUIDField(read_only=True)
    config = serializers.DictField(read_only=True, help_text=CONFIG_HELP)
    webhook_token = serializers.CharField(read_only=True, allow_null=True)
    webhook_url = serializers.CharField(read_only=True, allow_null=True, help_text="Whoever has it can fire the flow.")
    next_fire_at = serializers.DateTimeField(
        read_only=True,
        allow_null=True,
        help_text="Null while nothing will fire: its flow is not running, or it is disabled.",
    )
    next_firings = serializers.SerializerMethodField(
        help_text="The next five of a schedule, or those it would have if it were enabled and its flow ran. Else null."
    )

    class Meta:
        model = Trigger
        fields = (
            "id",
            "flow_id",
            "type",
            "name",
            "config",
            "enabled",
            "webhook_token",
            "webhook_url",
            "next_fire_at",
            "next_firings",
            "created_at",
        )
        read_only_fields = fields

    @extend_schema_field(serializers.ListField(child=serializers.DateTimeField(), allow_null=True))
    def get_next_firings(self, trigger: Trigger) -> list[str] | None:
        if trigger.type != TriggerType.SCHEDULE:
            return None
        field = serializers.DateTimeField()
        try:
            return [field.to_representation(moment) for moment in preview(trigger, now=timezone.now())]
        except InvalidTriggerConfig:  # it can no longer be read, and is disabled when it is next due
            return []


class CreateTriggerSerializer(serializers.Serializer[Any]):
    type = serializers.ChoiceField(choices=TriggerType.choices)
    name = TextField(min_length=1, max_length=100)
    config = serializers.DictField(help_text=CONFIG_HELP)
    enabled = serializers.BooleanField(default=True)


class UpdateTriggerSerializer(serializers.Serializer[Any]):
    """What is left out stays as it is. `config` is replaced as a whole."""

    type = serializers.ChoiceField(choices=TriggerType.choices, required=False, help_text="Only what it is already.")
    name = TextField(min_length=1, max_length=100, required=False)
    config = serializers.DictField(required=False, help_text=CONFIG_HELP)
    enabled = serializers.BooleanField(required=False)

    def validate_type(self, value: str) -> str:
        if value != self.context["trigger"].type:
            raise serializers.ValidationError("The type of a trigger cannot change; make another trigger instead.")
        return value

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        return {field: value for field, value in attrs.items() if field != "type"}


class FireSerializer(serializers.Serializer[Any]):
    payload = serializers.JSONField(
        required=False,
        allow_null=True,
        help_text="Any JSON. Left out, it is what the trigger gives by itself: scheduledFor for a schedule, else null.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """`payload` as JSON text, or None where it was left out."""
        return {"payload": json_text.dumps(attrs["payload"]) if "payload" in attrs else None}


class TriggerListQuerySerializer(serializers.Serializer[Any]):
    type = serializers.ChoiceField(choices=TriggerType.choices, required=False)
    search = serializers.CharField(required=False, allow_blank=True, max_length=100, help_text="In the name.")


class DeliverySerializer(serializers.ModelSerializer[Delivery]):
    """One call of a webhook, whatever became of it; or, where `minute` is set, the calls beyond a minute's bound."""

    trigger_id = serializers.UUIDField(read_only=True)
    replayable = serializers.BooleanField(read_only=True)

    class Meta:
        model = Delivery
        fields = (
            "id",
            "trigger_id",
            "received_at",
            "verdict",
            "code",
            "reason",
            "address",
            "method",
            "size",
            "key",
            "execution_id",
            "replayable",
            "replayed_at",
            "minute",
            "times",
        )
        read_only_fields = fields


class MomentSerializer(serializers.ModelSerializer[Moment]):
    """What became of a moment of a schedule; or, where `until` is set, of all moments from this one to that one."""

    trigger_id = serializers.UUIDField(read_only=True)
    lateness_seconds = serializers.FloatField(
        read_only=True, source="lateness", help_text="From when it was due, jitter included, until it was decided."
    )
    decided_at = serializers.DateTimeField(read_only=True, source="created_at")

    class Meta:
        model = Moment
        fields = (
            "id",
            "trigger_id",
            "moment",
            "outcome",
            "code",
            "reason",
            "lateness_seconds",
            "execution_id",
            "until",
            "count",
            "decided_at",
        )
        read_only_fields = fields


class _PeriodSerializer(serializers.Serializer[Any]):
    since = serializers.DateTimeField(required=False, help_text="At this moment or later.")
    until = serializers.DateTimeField(required=False, help_text="Before this moment.")


class DeliveryListQuerySerializer(_PeriodSerializer):
    verdict = serializers.ChoiceField(choices=Verdict.choices, required=False)


class MomentListQuerySerializer(_PeriodSerializer):
    outcome = serializers.ChoiceField(choices=Outcome.choices, required=False)

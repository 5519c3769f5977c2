"""The API type of an explanation."""

from typing import Any

from rest_framework import serializers

from executions.models import ExecutionStatus, State, StepStatus, TriggerType
from flows.blocks.base import Effects


class WhySerializer(serializers.Serializer[Any]):
    text = serializers.CharField()
    trigger_type = serializers.ChoiceField(choices=TriggerType.choices)
    trigger_id = serializers.UUIDField(allow_null=True)
    trigger_name = serializers.CharField()
    fired_at = serializers.CharField(allow_null=True, help_text="When its trigger fired, ISO 8601.")
    scheduled_for = serializers.DateTimeField(allow_null=True, help_text="The moment of the schedule.")
    delivery_id = serializers.UUIDField(
        allow_null=True,
        help_text="The call of the webhook that made it, or made what it repeats: `.../triggers/{triggerId}/deliveries/"
        "{deliveryId}`. Null where there was none, or its row or trigger is gone; so are the next three.",
    )
    delivery_key = serializers.CharField(allow_null=True, help_text="What its sender calls that delivery, if anything.")
    received_at = serializers.DateTimeField(allow_null=True, help_text="When it came; a replay fires later.")
    address = serializers.CharField(allow_null=True, help_text="Where it came from.")
    moment_id = serializers.UUIDField(
        allow_null=True,
        help_text="The schedule's moment that made it, or made what it repeats: `.../triggers/{triggerId}/moments/"
        "{momentId}`. Null as deliveryId is.",
    )
    retry_of = serializers.UUIDField(allow_null=True)
    parent_id = serializers.UUIDField(allow_null=True, help_text="The execution whose call_flow made this one.")


class ExplainedVersionSerializer(serializers.Serializer[Any]):
    number = serializers.IntegerField(allow_null=True, help_text="Null for a draft.")
    deployed_at = serializers.DateTimeField(allow_null=True, help_text="When it was first deployed.")
    is_deployed_now = serializers.BooleanField()


class WaitSerializer(serializers.Serializer[Any]):
    cause = serializers.ChoiceField(
        choices=["queued", "delay", "retry", "turned_away", "call_flow", "approval", "crash"],
        help_text="For a worker, for a moment, between two attempts, for its turn (a limit, a busy pool, a budget "
        "that calls under way may use up), for the end of a called flow, for a person's answer, for a person's decision after "
        "a crash.",
    )
    listener = serializers.CharField(allow_null=True)
    since = serializers.DateTimeField()
    until = serializers.DateTimeField(allow_null=True, help_text="When it went on, or is due to; null: not known yet.")
    seconds = serializers.FloatField(allow_null=True)
    execution_id = serializers.UUIDField(allow_null=True, help_text="The called execution.")
    reason = serializers.CharField(allow_null=True, help_text="Why it was turned away, code and message.")


class ExplainedFailureSerializer(serializers.Serializer[Any]):
    listener = serializers.CharField()
    step_id = serializers.UUIDField()
    attempt = serializers.IntegerField()
    code = serializers.CharField()
    error = serializers.CharField()
    at = serializers.DateTimeField(allow_null=True)
    outcome = serializers.ChoiceField(
        choices=["tried_again", "handled", "failed"], help_text="handled: its listener's on_error got it."
    )


class CrashesSerializer(serializers.Serializer[Any]):
    lease_has_expired = serializers.BooleanField(help_text="A worker that held it gave no sign of life.")
    alone = serializers.IntegerField(
        help_text="Workers that died when they had just taken it up, with nothing else to blame; three end it."
    )
    steps_under_way = serializers.IntegerField(help_text="Steps that a worker's death cut off.")
    text = serializers.CharField()


class CostSerializer(serializers.Serializer[Any]):
    steps = serializers.IntegerField()
    attempts = serializers.IntegerField()
    seconds_worked = serializers.FloatField(help_text="By a worker; waiting is free.")
    seconds_allowed = serializers.IntegerField()
    queued_ms = serializers.IntegerField(allow_null=True)
    duration_ms = serializers.IntegerField(allow_null=True)
    tokens_in = serializers.IntegerField()
    tokens_out = serializers.IntegerField()
    model_turns = serializers.IntegerField(help_text="Answers of models.")
    model_cost = serializers.CharField(help_text="US dollars for those whose price is known, as a decimal number.")
    unpriced_turns = serializers.IntegerField(help_text="Those whose price is not known.")


class EffectSerializer(serializers.Serializer[Any]):
    listener = serializers.CharField()
    step_id = serializers.UUIDField()
    effects = serializers.ChoiceField(
        choices=[effects.value for effects in Effects if effects is not Effects.NONE],
        help_text="ours: rows of this server. repeatable, once: effects outside.",
    )
    status = serializers.ChoiceField(choices=StepStatus.choices)


class ExplainedRetrySerializer(serializers.Serializer[Any]):
    is_possible = serializers.BooleanField(help_text="Now; `text` says why not.")
    text = serializers.CharField()
    version = serializers.IntegerField(allow_null=True, help_text="On which it would run; null for a draft, or none.")
    again = EffectSerializer(many=True, help_text="Steps on record whose effects would happen again.")
    kept = EffectSerializer(many=True, help_text="Steps whose effects would be kept, and not happen again.")


class ExplanationSerializer(serializers.Serializer[Any]):
    """Why and how it ran, told from what is on record."""

    execution_id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=ExecutionStatus.choices)
    state = serializers.ChoiceField(choices=State.choices, help_text="What the engine sees.")
    text = serializers.CharField(help_text="Where it stands, in a sentence.")
    why = WhySerializer()
    version = ExplainedVersionSerializer()
    waits = WaitSerializer(many=True)
    failures = ExplainedFailureSerializer(many=True, help_text="Each attempt that failed, in the order of the trace.")
    crashes = CrashesSerializer()
    cost = CostSerializer()
    retry_from_start = ExplainedRetrySerializer()
    retry_from_failed = ExplainedRetrySerializer()
    is_complete = serializers.BooleanField(help_text="False: of its more than 2,000 steps only the first are told of.")

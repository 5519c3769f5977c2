"""Flows and what belongs to them, as the API shows and takes them."""

from functools import lru_cache
from typing import Any, cast

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from bloxserver.api.fields import TextField
from bloxserver.core import json_text
from flows import canvas, organism
from flows.blocks.base import Block
from flows.models import AgentMemory, Flow, FlowStatus, FlowVersion, Secret, Variable
from flows.services.stored import MAX_VALUE_BYTES
from flows.services.versions import MAX_YAML_BYTES

ORDERINGS = ["name", "-name", "updatedAt", "-updatedAt", "createdAt", "-createdAt", "status", "-status"]


class OrganismYamlField(TextField):
    """The text of an `organism.yaml`, kept to the letter."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(trim_whitespace=False, allow_blank=True, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        if len(text.encode(errors="replace")) > MAX_YAML_BYTES:
            raise serializers.ValidationError("The YAML is larger than 256 KiB; split the flow and use blox.call_flow.")
        return text


@extend_schema_field(cast(Any, canvas.CanvasState))  # drf-spectacular takes Pydantic models, its types do not say so
class CanvasStateField(serializers.JSONField):
    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if problems := canvas.problems(data):
            raise serializers.ValidationError(problems)
        if len(json_text.dumps(data).encode()) > canvas.MAX_BYTES:
            raise serializers.ValidationError("The canvas is larger than 1 MiB.")
        state: dict[str, Any] = data
        return state


class ProblemSerializer(serializers.Serializer[Any]):
    path = serializers.CharField(help_text="Where in the document: listeners[2].config.url")
    line = serializers.IntegerField(help_text="From 1.")
    column = serializers.IntegerField(help_text="From 1.")
    message = serializers.CharField()


class ValidationSerializer(serializers.Serializer[Any]):
    valid = serializers.BooleanField()
    errors = ProblemSerializer(many=True)  # type: ignore[assignment]  # the name of a field, not the property
    warnings = ProblemSerializer(many=True)


class GraphNodeSerializer(serializers.Serializer[Any]):
    id = serializers.CharField(help_text="The listener's name.")
    handler = serializers.CharField(allow_null=True, help_text="The block; null where the YAML names none.")
    title = serializers.CharField()
    description = serializers.CharField()
    entry = serializers.BooleanField()


class GraphEdgeSerializer(serializers.Serializer[Any]):
    id = serializers.CharField()
    source = serializers.CharField()  # type: ignore[assignment]
    target = serializers.CharField()
    kind = serializers.CharField(help_text="peer, tool, next or on_error.")


class GraphSerializer(serializers.Serializer[Any]):
    """What a canvas draws; of a YAML with errors, what could be read."""

    nodes = GraphNodeSerializer(many=True)
    edges = GraphEdgeSerializer(many=True)


class FlowValidationSerializer(ValidationSerializer):
    graph = GraphSerializer()


class ValidateSerializer(serializers.Serializer[Any]):
    organism_yaml = OrganismYamlField()


class FlowSummarySerializer(serializers.ModelSerializer[Flow]):
    class Meta:
        model = Flow
        fields = ["id", "name", "description", "status", "updated_at"]
        read_only_fields = fields


# A flow is read far more often than it is edited, and the check of a large draft takes tenths of a second.
_validated = lru_cache(maxsize=64)(organism.validate)


class FlowSerializer(serializers.ModelSerializer[Flow]):
    user_id = serializers.UUIDField(read_only=True)
    canvas_state = CanvasStateField(read_only=True, allow_null=True)
    version = serializers.IntegerField(
        source="deployed_version.number",
        default=None,
        read_only=True,
        allow_null=True,
        help_text="The deployed version; of a stopped flow, the last that was. Null before the first start.",
    )
    has_undeployed_changes = serializers.BooleanField(
        read_only=True, help_text="Whether a start would deploy another YAML than the deployed one."
    )
    validation = serializers.SerializerMethodField(
        help_text="What is wrong with the draft's YAML: errors keep it from starting."
    )

    class Meta:
        model = Flow
        fields = [
            "id",
            "user_id",
            "name",
            "description",
            "organism_yaml",
            "canvas_state",
            "status",
            "container_id",
            "error_message",
            "created_at",
            "updated_at",
            "version",
            "has_undeployed_changes",
            "validation",
        ]
        read_only_fields = fields

    @extend_schema_field(ValidationSerializer)
    def get_validation(self, flow: Flow) -> Any:
        return ValidationSerializer(_validated(flow.organism_yaml)).data


class TriggerDocumentSerializer(serializers.Serializer[Any]):
    """A trigger in an export: no id and no token. What its type and config may be is the triggers app's to say."""

    type = TextField(max_length=10)
    name = TextField(min_length=1, max_length=100)
    config = serializers.DictField()
    enabled = serializers.BooleanField(default=True)


class FlowExportSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    description = serializers.CharField(allow_null=True)
    organism_yaml = serializers.CharField()
    canvas_state = CanvasStateField(allow_null=True)
    triggers = TriggerDocumentSerializer(many=True)


class CreateFlowSerializer(serializers.Serializer[Any]):
    """A new flow, or an export of one."""

    name = TextField(min_length=1, max_length=100)
    description = TextField(max_length=500, allow_null=True, allow_blank=True, required=False)
    organism_yaml = OrganismYamlField(
        allow_null=True, required=False, help_text="Without it the flow gets a template that runs as it is."
    )
    canvas_state = CanvasStateField(allow_null=True, required=False)
    triggers = serializers.ListField(child=TriggerDocumentSerializer(), required=False, max_length=200)


class UpdateFlowSerializer(serializers.Serializer[Any]):
    """What is left out stays as it is; so do `name` and `organismYaml` when they are null."""

    name = TextField(min_length=1, max_length=100, allow_null=True, required=False)
    description = TextField(max_length=500, allow_null=True, allow_blank=True, required=False)
    organism_yaml = OrganismYamlField(allow_null=True, required=False)
    canvas_state = CanvasStateField(allow_null=True, required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        return {
            field: value
            for field, value in attrs.items()
            if value is not None or field in ("description", "canvas_state")
        }


class DuplicateFlowSerializer(serializers.Serializer[Any]):
    name = TextField(
        min_length=1,
        max_length=100,
        allow_null=True,
        required=False,
        help_text='Without it: the old name and "(copy)".',
    )


class StopFlowSerializer(serializers.Serializer[Any]):
    force = serializers.BooleanField(default=False, help_text="Cancel the executions that are still running.")


class FlowListQuerySerializer(serializers.Serializer[Any]):
    status = serializers.ListField(child=serializers.ChoiceField(FlowStatus.choices), required=False)
    search = serializers.CharField(
        required=False, allow_blank=True, max_length=200, help_text="In name and description."
    )
    ordering = serializers.ChoiceField(ORDERINGS, default="-updatedAt")


class VersionSummarySerializer(serializers.ModelSerializer[FlowVersion]):
    number = serializers.IntegerField(read_only=True)
    created_by = serializers.UUIDField(source="created_by_id", read_only=True, allow_null=True)
    deployed = serializers.SerializerMethodField()

    class Meta:
        model = FlowVersion
        fields = ["number", "created_at", "created_by", "deployed"]
        read_only_fields = fields

    def get_deployed(self, version: FlowVersion) -> bool:
        return bool(version.pk == self.context["flow"].deployed_version_id)


class VersionSerializer(VersionSummarySerializer):
    canvas_state = CanvasStateField(read_only=True, allow_null=True)

    class Meta(VersionSummarySerializer.Meta):
        fields = [*VersionSummarySerializer.Meta.fields, "organism_yaml", "canvas_state"]
        read_only_fields = fields


class ScopeQuerySerializer(serializers.Serializer[Any]):
    flow = serializers.UUIDField(required=False, help_text="Those of this flow alone; without it, the tenant's own.")


class StoredJSONField(serializers.JSONField):
    """JSON that the model keeps as text."""

    def to_representation(self, value: Any) -> Any:
        return json_text.loads(value)


class VariableSerializer(serializers.ModelSerializer[Variable]):
    value = StoredJSONField(read_only=True)
    flow_id = serializers.UUIDField(read_only=True, allow_null=True)

    class Meta:
        model = Variable
        fields = ["name", "value", "updated_at", "flow_id"]
        read_only_fields = fields


class SetVariableSerializer(serializers.Serializer[Any]):
    value = serializers.JSONField(allow_null=True, help_text="Any JSON, up to 64 KiB.")

    def validate_value(self, value: Any) -> Any:
        if len(json_text.dumps(value).encode()) > MAX_VALUE_BYTES:
            raise serializers.ValidationError("The value is larger than 64 KiB.")
        return value


class SecretSerializer(serializers.ModelSerializer[Secret]):
    """Never the value."""

    flow_id = serializers.UUIDField(read_only=True, allow_null=True)

    class Meta:
        model = Secret
        fields = ["name", "updated_at", "flow_id"]
        read_only_fields = fields


class SetSecretSerializer(serializers.Serializer[Any]):
    value = TextField(
        write_only=True, trim_whitespace=False, max_length=MAX_VALUE_BYTES, help_text="Text of 1 to 64 KiB."
    )

    def validate_value(self, value: str) -> str:
        if len(value.encode()) > MAX_VALUE_BYTES:
            raise serializers.ValidationError("The value is larger than 64 KiB.")
        return value


class MemorySummarySerializer(serializers.ModelSerializer[AgentMemory]):
    class Meta:
        model = AgentMemory
        fields = ["id", "listener", "key", "size", "updated_at"]
        read_only_fields = fields


class ExchangeSerializer(serializers.Serializer[Any]):
    user = serializers.CharField(help_text="What the agent was told; cut after 6,000 characters.")
    answer = serializers.CharField(help_text="What it answered.")
    at = serializers.DateTimeField()


class MemorySerializer(MemorySummarySerializer):
    exchanges = serializers.SerializerMethodField(help_text="The oldest first.")

    class Meta(MemorySummarySerializer.Meta):
        fields = [*MemorySummarySerializer.Meta.fields, "exchanges"]
        read_only_fields = fields

    @extend_schema_field(ExchangeSerializer(many=True))
    def get_exchanges(self, memory: AgentMemory) -> Any:
        return json_text.loads(memory.messages)


class BlockSerializer(serializers.Serializer[Any]):
    """A block of the catalogue, which a listener names as its handler."""

    name = serializers.CharField()
    title = serializers.CharField()
    description = serializers.CharField()
    category = serializers.CharField()
    config_schema = serializers.SerializerMethodField(help_text="JSON Schema of a listener's config.")
    input_schema = serializers.DictField(help_text="JSON Schema of the payload; empty where any will do.")
    example = serializers.CharField(help_text="YAML of one listener.")
    secret_fields = serializers.SerializerMethodField(
        help_text="Config fields whose placeholders may use secrets.NAME."
    )
    listener_keys = serializers.SerializerMethodField(
        help_text="Options of the config that may stand on the listener instead."
    )
    default_timeout = serializers.FloatField(help_text="Seconds a step, where the listener does not say.")
    default_attempts = serializers.IntegerField(help_text="Attempts a step, where the listener does not say.")

    def get_config_schema(self, block: Block) -> dict[str, Any]:
        return block.Config.model_json_schema()

    def get_secret_fields(self, block: Block) -> list[str]:
        return sorted(block.secret_fields)

    def get_listener_keys(self, block: Block) -> list[str]:
        return sorted(block.listener_keys)

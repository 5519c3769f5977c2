"""Users' keys, as the API shows and takes them. The key goes in and never comes out."""

from typing import Any

from rest_framework import serializers

from bloxserver.api.fields import TextField
from llm.models import UserKey
from llm.services.keys import MAX_KEY, MIN_KEY


class ApiKeyInfoSerializer(serializers.ModelSerializer[UserKey]):
    """What is known of a stored key."""

    key_hint = serializers.SerializerMethodField(help_text="Its last characters: ...abc1")
    is_valid = serializers.BooleanField(  # type: ignore[assignment]  # the name of a field, not the method
        read_only=True, help_text="False once the provider has refused it."
    )

    class Meta:
        model = UserKey
        fields = ["provider", "key_hint", "is_valid", "last_used_at", "created_at"]
        read_only_fields = fields

    def get_key_hint(self, key: UserKey) -> str | None:
        return f"...{key.key_hint}"


class AddApiKeySerializer(serializers.Serializer[Any]):
    provider = TextField(max_length=63, help_text="openai, anthropic, xai, together, or what the operator has added.")
    api_key = TextField(min_length=MIN_KEY, max_length=MAX_KEY, write_only=True, help_text="The API key.")

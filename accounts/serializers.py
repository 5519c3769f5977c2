from typing import Any

from django.utils import timezone
from rest_framework import serializers

from accounts.models import WEB_ADDRESS, AccessToken, Scope, User
from bloxserver.api.fields import TextField


class UserSerializer(serializers.ModelSerializer[User]):
    clerk_id = serializers.CharField(read_only=True, help_text="Clerk's id, or `local_<id>`.")
    name = TextField(max_length=255, allow_null=True, allow_blank=True, required=False)
    avatar_url = TextField(max_length=2000, allow_null=True, required=False, validators=[WEB_ADDRESS])

    class Meta:
        model = User
        fields = [
            "id",
            "clerk_id",
            "email",
            "name",
            "avatar_url",
            "tier",
            "share_prompts_with_operators",
            "created_at",
        ]
        read_only_fields = ["id", "email", "tier", "created_at"]


class AccessTokenSerializer(serializers.ModelSerializer[AccessToken]):
    name = TextField(max_length=100)
    scopes = serializers.ListField(
        child=serializers.ChoiceField(choices=Scope.choices),
        allow_empty=False,
        max_length=10,
        required=False,
        help_text="`read` allows GET, `write` everything else. Default: both.",
    )

    class Meta:
        model = AccessToken
        fields = ["id", "name", "hint", "scopes", "expires_at", "last_used_at", "created_at"]
        read_only_fields = ["id", "hint", "last_used_at", "created_at"]

    def validate_expires_at(self, value: Any) -> Any:
        if value is not None and value <= timezone.now():
            raise serializers.ValidationError("Must lie in the future.")
        return value

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """A token cannot make one that may do more, or lives longer, than itself."""
        maker = self.context["request"].auth
        if isinstance(maker, AccessToken):
            attrs.setdefault("scopes", maker.scopes)
            attrs.setdefault("expires_at", maker.expires_at)
            if set(attrs["scopes"]) - set(maker.scopes):
                raise serializers.ValidationError({"scopes": ["An access token cannot give a scope that it lacks."]})
            if maker.expires_at and (attrs["expires_at"] is None or attrs["expires_at"] > maker.expires_at):
                raise serializers.ValidationError({"expires_at": ["Must not be later than that of the token in use."]})
        return attrs


class CreatedAccessTokenSerializer(AccessTokenSerializer):
    token = serializers.CharField(read_only=True, help_text="The secret. It is shown this once and not stored.")

    class Meta(AccessTokenSerializer.Meta):
        fields = [*AccessTokenSerializer.Meta.fields, "token"]

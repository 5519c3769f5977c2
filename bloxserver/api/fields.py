"""Fields that take what JSON says, and nothing that merely resembles it."""

from typing import Any

from rest_framework import serializers


class IdField(serializers.UUIDField):
    """A UUID as text: REST framework's own field would take the number 5 for one."""

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, str):
            self.fail("invalid", value=data)
        return super().to_internal_value(data)


class TextField(serializers.CharField):
    """JSON text only: REST framework's own field would take 5 for "5"."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)

"""Fields that take what JSON says, and nothing that merely resembles it."""

from typing import Any

from rest_framework import serializers


class TextField(serializers.CharField):
    """JSON text only: REST framework's own field would take 5 for "5"."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)

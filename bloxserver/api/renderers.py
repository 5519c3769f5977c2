"""JSON out: camelCase keys, but what belongs to the user (`JSON_CAMEL_CASE`) as it was stored."""

from typing import Any

from djangorestframework_camel_case.render import CamelCaseJSONRenderer


class CamelCaseRenderer(CamelCaseJSONRenderer):
    """`application/json`, compact, UTF-8."""


def render(data: Any) -> bytes:
    """The bytes that the API answers for `data`, for answers made outside a REST framework view."""
    return CamelCaseRenderer().render(data)

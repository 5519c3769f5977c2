"""JSON in: read strictly, then camelCase keys to snake_case, but never those that belong to the user."""

from collections.abc import Mapping
from typing import IO, Any

from django.conf import settings
from django.http import UnreadablePostError
from djangorestframework_camel_case.settings import api_settings as camel_case_settings
from djangorestframework_camel_case.util import underscoreize
from rest_framework.parsers import BaseParser

from bloxserver.api import strict_json
from bloxserver.api.errors import EncodedBody, InvalidJSON, PayloadTooLarge, UnreadableBody


class StrictCamelCaseJSONParser(BaseParser):
    """Bodies of the API: one JSON object of at most `DATA_UPLOAD_MAX_MEMORY_SIZE` bytes."""

    media_type = "application/json"

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        if parser_context is not None:
            refuse_encoded(parser_context["request"].headers)
        try:
            data = strict_json.loads(_read(stream))
        except strict_json.StrictJSONError as error:
            raise InvalidJSON(f"The body is not acceptable JSON. {error.message}") from error
        if not isinstance(data, dict):
            raise InvalidJSON("The body must be a JSON object: {...}.")
        return underscoreize(data, **camel_case_settings.JSON_UNDERSCOREIZE)


def refuse_encoded(headers: Mapping[str, str]) -> None:
    """Raises `EncodedBody` (415) for a body that is compressed."""
    if headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise EncodedBody


def _read(stream: IO[Any]) -> bytes:
    limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    try:
        raw: bytes = stream.read(limit + 1)
    except UnreadablePostError as error:
        raise UnreadableBody from error
    if len(raw) > limit:
        raise PayloadTooLarge(f"The body is larger than {limit} bytes.")
    return raw

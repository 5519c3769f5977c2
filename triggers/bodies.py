"""What a webhook's body says, by its content type, as JSON text. Pure but for Django's multipart parser."""

import base64
from collections.abc import Iterable
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl

from django.core.exceptions import SuspiciousOperation
from django.core.files.uploadhandler import MemoryFileUploadHandler
from django.http.multipartparser import MultiPartParser, MultiPartParserError
from django.utils.http import parse_header_parameters

from bloxserver.api import strict_json
from bloxserver.core import json_text
from triggers.errors import InvalidJson, UnreadableBody

MAX_FIELDS = 1000


def payload_of(body: bytes, content_type: str) -> str:
    """The payload as JSON text.

    JSON stays as it came, form and multipart fields are an object (a repeated name makes a list), text and XML are a
    string, no body is null, and anything else is `{base64, contentType, size}`.
    Raises `InvalidJson` and `UnreadableBody` (400).
    """
    if not body:
        return "null"
    kind, parameters = _content_type(content_type)
    if kind in ("application/json", "text/json") or kind.endswith("+json"):
        return _json(body)
    if kind == "application/x-www-form-urlencoded":
        return json_text.dumps(grouped(_form(body, parameters)))
    if kind == "multipart/form-data":
        return json_text.dumps(grouped(_multipart(body, content_type, parameters)))
    if kind.startswith("text/") or kind == "application/xml" or kind.endswith("+xml"):
        return json_text.dumps(_text(body, parameters))
    return json_text.dumps(_file(body, kind or "application/octet-stream"))


def grouped(fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Names to values; what came more than once is a list. Raises `UnreadableBody` for a NUL."""
    values: dict[str, list[Any]] = {}
    for name, value in fields:
        if "\x00" in name or (isinstance(value, str) and "\x00" in value):
            raise UnreadableBody("A field holds a NUL character, which cannot be stored as text.")
        values.setdefault(name, []).append(value)
    return {name: found[0] if len(found) == 1 else found for name, found in values.items()}


def _content_type(header: str) -> tuple[str, dict[str, str]]:
    try:
        kind, parameters = parse_header_parameters(header)
    except (ValueError, LookupError):
        raise UnreadableBody("The Content-Type header cannot be read.") from None
    return kind.strip(), {"charset": "utf-8", **parameters}


def _json(body: bytes) -> str:
    try:
        strict_json.loads(body)
    except strict_json.StrictJSONError as error:
        raise InvalidJson(f"The body is not acceptable JSON. {error.message}") from error
    return body.decode("utf-8-sig").strip()


def _text(body: bytes, parameters: dict[str, str]) -> str:
    charset = parameters["charset"]
    try:
        text = body.decode(charset)  # of the few charsets that the API's middleware lets in
    except (LookupError, ValueError):
        raise UnreadableBody(
            f'The body cannot be read as text in the charset "{charset[:40]}"; send UTF-8, or application/octet-stream.'
        ) from None
    if "\x00" in text:
        raise UnreadableBody("The text holds a NUL character, which cannot be stored; send application/octet-stream.")
    return text


def _form(body: bytes, parameters: dict[str, str]) -> list[tuple[str, str]]:
    text, charset = _text(body, parameters), parameters["charset"]
    try:
        return parse_qsl(text, keep_blank_values=True, encoding=charset, errors="strict", max_num_fields=MAX_FIELDS)
    except UnicodeDecodeError:
        raise UnreadableBody(f"A form field is not {charset} text.") from None
    except ValueError:
        raise UnreadableBody(f"The form has more than {MAX_FIELDS:,} fields.") from None


def _multipart(body: bytes, content_type: str, parameters: dict[str, str]) -> list[tuple[str, Any]]:
    if f"--{parameters.get('boundary')}--".encode() not in body:  # Django's parser takes what there is
        raise UnreadableBody("The multipart body does not end with the boundary that its Content-Type names.")
    meta = {"CONTENT_TYPE": content_type, "CONTENT_LENGTH": str(len(body))}
    try:
        fields, files = MultiPartParser(meta, BytesIO(body), [MemoryFileUploadHandler()], "utf-8").parse()
    except (MultiPartParserError, SuspiciousOperation, ValueError, LookupError) as error:
        raise UnreadableBody(f"The multipart body cannot be read: {error}") from error
    return [(name, value) for name, values in fields.lists() for value in values] + [
        (name, {"filename": upload.name, **_file(upload.read(), upload.content_type or "")})
        for name, uploads in files.lists()
        for upload in uploads
    ]


def _file(content: bytes, content_type: str) -> dict[str, Any]:
    return {"base64": base64.b64encode(content).decode(), "contentType": content_type, "size": len(content)}

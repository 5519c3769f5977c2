"""How the admin shows JSON, moments and ids."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from bloxserver.core.admin import change_link
from executions.trace import Value

SHORT = 120  # characters of a text in a list
PAYLOAD_CHARACTERS = 50_000  # of a JSON value on a page


def pretty(value: Value) -> str:
    """JSON text, indented; where only its beginning is there, as it stands."""
    if value.text is None:
        return ""
    if value.cut:
        return f"{value.text} ... (cut)"
    return json.dumps(json.loads(value.text), indent=2, ensure_ascii=False)


def short(text: str | None, characters: int = SHORT) -> str:
    return Truncator(" ".join((text or "").split())).chars(characters)


def json_field(path: str, description: str) -> Callable[[Any], SafeString | str]:
    """A read-only field that shows the JSON text at `path` of the object, indented."""
    read = attrgetter(path)

    @admin.display(description=description)
    def show(obj: Any) -> SafeString | str:
        text = read(obj)
        if text is None:
            return "-"
        cut = len(text) > PAYLOAD_CHARACTERS
        return format_html('<pre class="blox-json">{}</pre>', pretty(Value(text[:PAYLOAD_CHARACTERS], cut)))

    return show


def execution_link(execution_id: UUID | None, text: str | None = None) -> SafeString | str:
    return change_link("executions_execution", execution_id, text)


def milliseconds(value: int | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}\N{NO-BREAK SPACE}ms" if value < 10_000 else f"{value / 1000:,.1f}\N{NO-BREAK SPACE}s"


def moment(value: datetime | None, precision: str = "milliseconds") -> SafeString | str:
    """In UTC, and mostly to the millisecond: steps lie that close to each other."""
    if value is None:
        return "-"
    text = value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", precision)
    return format_html('<time class="nowrap" datetime="{}">{}</time>', value.isoformat(), text)


def as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text.strip())
    except ValueError:
        return None

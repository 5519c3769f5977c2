"""How the admin shows JSON, moments and ids."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from bloxserver.core.admin import change_link
from executions.admin.privacy import HIDDEN
from executions.models import Step, StepStatus
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


def json_field(
    path: str, description: str, *, hidden: Callable[[Any], Any] = lambda obj: False
) -> Callable[[Any], SafeString | str]:
    """A read-only field that shows the JSON text at `path` of the object, indented; not where it is `hidden`."""
    read = attrgetter(path)

    @admin.display(description=description)
    def show(obj: Any) -> SafeString | str:
        text = read(obj)
        if text is None:
            return "-"
        if hidden(obj):
            return HIDDEN
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


def model_call_line(step: Step) -> str:
    """How a model's turn came to its answer, in one line; empty for another step."""
    call = step.model_call
    if not call:
        return ""
    parts = [f"{call['provider']} {call['model']}".strip()]
    if step.status == StepStatus.SUCCESS:
        cost = "cost unknown" if call["cost"] is None else f"${Decimal(call['cost']):f}"
        parts += [f"{step.tokens_in:,} tokens in, {step.tokens_out:,} out", cost, milliseconds(call["latency_ms"])]
        parts += [f"{call['cached']} cache hit"] if call["cached"] else []
        parts += ["the user's own key"] if call["own_key"] else []
        parts += [f"stopped by {call['stop']}"] if call["stop"] in ("length", "refused") else []
    if len(call["path"]) > 1 or any(hop["outcome"] != "answered" for hop in call["path"]):
        hops = [f"{hop['provider']} {hop['model']} {hop['outcome']} {milliseconds(hop['ms'])}" for hop in call["path"]]
        parts.append("path: " + " \N{RIGHTWARDS ARROW} ".join(hops))
    return " \N{MIDDLE DOT} ".join(parts)

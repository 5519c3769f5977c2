"""Misconfigurations that would otherwise show when the first user stores a key, or asks a model."""

import re
from math import inf
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ValidationError

from llm.models import PROVIDER_NAME, PROVIDER_NAME_RULE, check_base_url

FORM = "It is a list of name=url with commas between them, such as openai=https://gateway.example.com/v1."


@register
def base_urls_are_names_and_urls(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    messages: list[CheckMessage] = []
    for name, url in settings.BLOX_LLM_BASE_URLS.items():
        if not re.fullmatch(PROVIDER_NAME, name):
            messages.append(_error(f"{name!r} is no provider's name. {PROVIDER_NAME_RULE}"))
        try:
            check_base_url(url)
        except ValidationError as error:
            messages.append(_error(f"{name}: {' '.join(error.messages)}"))
    return messages


@register
def load_is_shed_by_degrees(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    degraded, critical = settings.BLOX_LLM_DEGRADED_AT, settings.BLOX_LLM_CRITICAL_AT
    if 0 < degraded <= critical < inf:  # not a number is neither
        return []
    return [
        Error(
            f"BLOX_LLM_DEGRADED_AT is {degraded:g} and BLOX_LLM_CRITICAL_AT {critical:g}.",
            hint="Both are above 0, and the second is no less than the first, such as 1 and 2.",
            id="llm.E002",
        )
    ]


def _error(what: str) -> Error:
    return Error(f"BLOX_LLM_BASE_URLS: {what}", hint=FORM, id="llm.E001")

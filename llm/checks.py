"""Misconfigurations of providers that would otherwise show when the first user stores a key."""

import re
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


def _error(what: str) -> Error:
    return Error(f"BLOX_LLM_BASE_URLS: {what}", hint=FORM, id="llm.E001")

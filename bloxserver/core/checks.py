"""System checks: settings that are each well-formed and together wrong. `manage.py check` and every start run them."""

from typing import Any
from urllib.parse import urlsplit

from cryptography.fernet import Fernet
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured

from bloxserver.core.addresses import parse_allow_list

BLOX = "blox"


@register(BLOX)
def check_encryption_keys(**kwargs: Any) -> list[CheckMessage]:
    messages: list[CheckMessage] = []
    for position, key in enumerate(settings.BLOX_ENCRYPTION_KEYS, start=1):
        try:
            Fernet(key)
        except ValueError:
            hint = "Make one with: python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'"
            messages.append(Error(f"BLOX_ENCRYPTION_KEYS: key {position} is no Fernet key.", hint=hint, id="blox.E001"))
    return messages


@register(BLOX)
def check_clerk(**kwargs: Any) -> list[CheckMessage]:
    if not settings.CLERK_JWKS_URL:
        return []
    messages: list[CheckMessage] = []
    if not settings.CLERK_ISSUER:
        messages.append(
            Error("CLERK_JWKS_URL is set without CLERK_ISSUER: a token's issuer would go unchecked.", id="blox.E002")
        )
    if not settings.CLERK_AUTHORIZED_PARTIES:
        messages.append(
            Error(
                "CLERK_JWKS_URL is set without CLERK_AUTHORIZED_PARTIES: a token made for another site would be taken.",
                hint="Name the origins of your front ends, such as https://app.example.com.",
                id="blox.E003",
            )
        )
    return messages


@register(BLOX)
def check_stream_limit(**kwargs: Any) -> list[CheckMessage]:
    if settings.BLOX_STREAM_LIMIT < settings.BLOX_WEB_THREADS:
        return []
    message = "BLOX_STREAM_LIMIT must be below BLOX_WEB_THREADS, else event streams can hold every thread of web."
    return [Error(message, id="blox.E004")]


@register(BLOX)
def check_public_url(**kwargs: Any) -> list[CheckMessage]:
    url = urlsplit(settings.BLOX_PUBLIC_URL)
    if url.scheme in {"http", "https"} and url.hostname:
        return []
    return [Error(f"BLOX_PUBLIC_URL is no http(s) URL: {settings.BLOX_PUBLIC_URL!r}.", id="blox.E005")]


@register(BLOX)
def check_allowed_addresses(**kwargs: Any) -> list[CheckMessage]:
    try:
        parse_allow_list(tuple(settings.BLOX_HTTP_ALLOW))
    except ImproperlyConfigured as error:
        return [Error(str(error), hint="Name hosts, host:port, addresses or CIDRs, with commas.", id="blox.E008")]
    return []


@register(BLOX)
def check_one_process_without_redis(**kwargs: Any) -> list[CheckMessage]:
    if settings.REDIS_URL or settings.BLOX_WEB_PROCESSES == 1:
        return []
    message = "BLOX_WEB_PROCESSES is more than 1 without REDIS_URL: each process would count API limits for itself."
    return [Error(message, id="blox.E006")]


@register(Tags.security, deploy=True)
def check_metrics_behind_a_proxy(**kwargs: Any) -> list[CheckMessage]:
    if settings.BLOX_METRICS_TOKEN or not settings.BLOX_NUM_PROXIES:
        return []
    return [
        Warning("Behind a proxy /metrics needs BLOX_METRICS_TOKEN; until it is set nobody can read it.", id="blox.W001")
    ]

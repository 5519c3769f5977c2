"""The client of Stripe's API, and what its failures are to others."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING

from django.conf import settings

from billing.errors import BillingNotConfigured, BillingUnavailable

if TYPE_CHECKING:
    from stripe import StripeClient

logger = logging.getLogger(__name__)

_somebody_waits = ContextVar("somebody_waits", default=False)

SECONDS = 10.0  # of one request
INTERACTIVE_SECONDS = 5.0  # while a person waits, and holds one of the web's threads: then without a retry
RETRIES = 1  # the SDK's own, under one idempotency key; whoever asks from a task comes again later
RETRY_AFTER = 10  # seconds


class Outcome(Enum):
    """Of an attempt at something that is due."""

    NOTHING_DUE = "nothing due"
    DONE = "done"
    FAILED = "failed"
    AWAY = "away"  # failed since Stripe is not to be had: the next will too


def client() -> "StripeClient":
    """The process's client. Raises `BillingNotConfigured` where the operator has set no key."""
    if not settings.STRIPE_API_KEY:
        raise BillingNotConfigured("Nothing is sold here: the server has no key of Stripe's (STRIPE_API_KEY).")
    return _client(settings.STRIPE_API_KEY, settings.STRIPE_API_BASE, _somebody_waits.get())


@lru_cache(maxsize=2)
def _client(key: str, base: str, somebody_waits: bool) -> "StripeClient":
    from stripe import RequestsClient, StripeClient

    return StripeClient(
        key,
        base_addresses={"api": base, "meter_events": base},
        max_network_retries=0 if somebody_waits else RETRIES,
        http_client=RequestsClient(timeout=INTERACTIVE_SECONDS if somebody_waits else SECONDS),
    )


@contextmanager
def asking() -> Iterator[None]:
    """Turns the SDK's errors into `BillingUnavailable`, for callers that a person waits for, and asks in less time.
    The log has the reason."""
    from stripe import InvalidRequestError, StripeError

    token = _somebody_waits.set(True)
    try:
        yield
    except InvalidRequestError as error:  # it will be refused in a moment as well
        logger.warning("Stripe: %s", said(error))
        raise BillingUnavailable("Stripe refuses what it is asked: the operator has to look at the log.") from error
    except StripeError as error:
        logger.warning("Stripe: %s", said(error))
        raise BillingUnavailable(
            "Stripe does not answer as it should: try again in a moment.", headers={"Retry-After": str(RETRY_AFTER)}
        ) from error
    finally:
        _somebody_waits.reset(token)


class CustomerMissing(Exception):
    """Stripe knows no such customer, which may be the key's fault: what is to be done about it waits."""


def is_missing(error: Exception) -> bool:
    """Whether Stripe does not know, or no longer, what it was asked about."""
    return getattr(error, "code", None) == "resource_missing"


def said(error: Exception) -> str:
    """What went wrong, without the key: some of Stripe's messages quote what was sent."""
    text = f"{type(error).__name__}: {error}"
    for secret in filter(None, (settings.STRIPE_API_KEY, settings.STRIPE_WEBHOOK_SECRET)):
        text = text.replace(secret, "***")
    return text


def is_away(error: Exception) -> bool:
    """Whether Stripe itself is not to be had just now, so that asking it of something else is in vain too."""
    from stripe import APIConnectionError, APIError, AuthenticationError

    return isinstance(error, APIConnectionError | APIError | AuthenticationError)


def is_busy(error: Exception) -> bool:
    """Whether Stripe has had too many requests (429), maybe about one customer alone: the same will do later."""
    from stripe import RateLimitError

    return isinstance(error, RateLimitError)

"""Users' own keys. A key is never changed but replaced: another key is another row, see `UserKey`."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from math import ceil
from threading import BoundedSemaphore
from uuid import UUID

from asgiref.sync import async_to_sync
from django.conf import settings
from django.db import transaction

from accounts.models import User
from bloxserver.core import json_text
from bloxserver.core.errors import InvalidInput, NotFound
from llm.errors import Failure, ProviderFailed
from llm.exchange import Endpoint
from llm.key_errors import KeyRefused, ProviderAway
from llm.kinds import ANY_KEY, PROVIDERS, key_form_error
from llm.models import UserKey
from llm.services.endpoints import own_endpoint, own_key_providers

MIN_KEY, MAX_KEY = 10, 4_096  # characters
CHECK_SECONDS = 10.0
CHECKS_AT_ONCE = 4  # of one process
RETRY_SECONDS, BUSY_RETRY_SECONDS = 30, 3
LAST_USED_RESOLUTION = timedelta(minutes=1)  # a key that is used all the time must not cost a write a call
MAX_REASON = 500  # characters

_checks = BoundedSemaphore(CHECKS_AT_ONCE)


def add_key(*, user: User, provider: str, key: str, now: datetime) -> UserKey:
    """Stores `key` for `provider` once the provider has taken it, in the place of the one that was stored.

    It is asked before the transaction, and with nothing locked: up to `CHECK_SECONDS`. Raises `InvalidInput` for an unknown
    provider or what is no key by its form, `KeyRefused` with the provider's reason, `ProviderAway` when it does not answer
    or too many are being asked: nothing is stored then, and a key that was stays. So every key that is stored has been
    taken once.

    The lock of the user's row makes two that store at once take turns, and keeps a key from coming after the deletion of its
    user.
    """
    key = key.strip()
    _check_form(provider, key)
    with _one_of_few():
        check_endpoint(own_endpoint(provider=provider, key=key, key_id="new"))
    row = UserKey(user=user, provider=provider, checked_at=now, created_at=now)
    row.set_key(key)
    with transaction.atomic():
        active = User.objects.select_for_update(of=("self",), no_key=True).filter(is_active=True, deleted_at=None)
        if not active.filter(pk=user.pk).exists():
            raise NotFound("Not found.")
        UserKey.objects.for_user(user).filter(provider=provider).delete()
        row.save(force_insert=True)
    return row


def remove_key(*, key: UserKey) -> None:
    """What is being asked with it goes on; the next call does without. Safe to repeat."""
    key.delete()


def mark_key_refused(*, key_id: UUID, reason: str, now: datetime) -> bool:
    """The provider no longer takes this key: it is not used from now on, and its user is mailed (see `notices`).

    `reason` holds no key. True for who marked it: the condition lets one of many that were refused at once do so, and a key
    that was replaced or removed meanwhile is another row or none.
    """
    reason = json_text.clean(reason).strip()[:MAX_REASON] or "The provider refused it."
    changes = {"is_valid": False, "error": reason, "checked_at": now, "notice_due_at": now}
    return UserKey.objects.valid().filter(pk=key_id).update(**changes) == 1


def mark_key_valid(*, key_id: UUID, now: datetime) -> bool:
    """For an operator who knows better, say after an outage that looked like a refusal. False where it was valid, or is gone."""
    changes = {"is_valid": True, "error": "", "checked_at": now, "notice_due_at": None}
    return UserKey.objects.filter(pk=key_id, is_valid=False).update(**changes) == 1


def touch_key(*, key_id: UUID, now: datetime) -> None:
    """It has been used. Written once in `LAST_USED_RESOLUTION`: the condition lets one of many do it."""
    UserKey.objects.filter(pk=key_id).unused_since(now - LAST_USED_RESOLUTION).update(last_used_at=now)


@contextmanager
def _one_of_few() -> Iterator[None]:
    """Each holds a thread of web for as long as the provider takes."""
    if not _checks.acquire(blocking=False):
        raise _away("Too many keys are being checked.", BUSY_RETRY_SECONDS)
    try:
        yield
    finally:
        _checks.release()


def check_endpoint(endpoint: Endpoint) -> None:
    """Asks the provider, by a call that costs nothing, whether it takes the key. Raises `KeyRefused`, `ProviderAway`."""
    try:
        async_to_sync(_check)(endpoint)
    except TimeoutError as error:
        raise _away(f"{endpoint.provider} did not answer in time.", RETRY_SECONDS) from error
    except ProviderFailed as error:
        if error.failure == Failure.KEY_REFUSED:
            raise KeyRefused(_said(error, endpoint)) from error
        raise _away(_said(error, endpoint), error.retry_after or RETRY_SECONDS) from error


async def _check(endpoint: Endpoint) -> None:
    from llm.wire import check_key  # only who asks a provider pays for its libraries

    async with asyncio.timeout(CHECK_SECONDS):
        await check_key(endpoint)


def _check_form(provider: str, key: str) -> None:
    """Before anybody is asked. A key that is surely another provider's must not be sent to this one."""
    providers = own_key_providers()
    if provider not in providers:
        choice = f"Choose one of: {', '.join(providers)}."
        raise InvalidInput(f"There is no such provider. {choice}", details={"provider": [choice]})
    if not MIN_KEY <= len(key) <= MAX_KEY or not ANY_KEY.fullmatch(key):
        rule = f"A key is {MIN_KEY} to {MAX_KEY:,} letters, digits and signs without spaces."
        raise InvalidInput(f"This is no key. {rule}", details={"apiKey": [rule]})
    if provider in settings.BLOX_LLM_BASE_URLS:
        return  # a gateway's keys look as it likes
    if error := misdirected(provider, key) or key_form_error(provider, key):
        raise KeyRefused(error)


def misdirected(provider: str, key: str) -> str | None:
    """Why a key that is plainly another's than `provider`'s must not be sent there; None where it is not."""
    owner = next((known for known in PROVIDERS.values() if known.key_form.fullmatch(key)), None)
    if owner is None or owner.name == provider or provider not in PROVIDERS:
        return None
    return f"This is a key of {owner.title}, and was not sent to {PROVIDERS[provider].title}."


def _said(error: ProviderFailed, endpoint: Endpoint) -> str:
    """What the provider said; some repeat the key."""
    text = error.message.replace(endpoint.api_key, "***") if endpoint.api_key else error.message
    return json_text.clean(text)[:MAX_REASON]


def _away(why: str, seconds: float) -> ProviderAway:
    message = f"{why} So it is not known whether the key is good; nothing was changed. Try again."
    return ProviderAway(message, headers={"Retry-After": str(max(1, ceil(seconds)))})

"""Which places serve a model for a user: their own keys first, then the operators' pool."""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from cryptography.fernet import InvalidToken
from django.conf import settings
from django.utils import timezone

from accounts.models import User
from bloxserver.core.crypto import decrypt
from bloxserver.core.words import closest
from llm import catalogue
from llm.exchange import Endpoint
from llm.kinds import PROVIDERS
from llm.kinds import Wire as Kind
from llm.models import Provider, UserKey
from llm.path.limits import OWN_KEY_AT_ONCE

logger = logging.getLogger(__name__)

POOL_SECONDS = 3.0  # for which a process knows the pool before it looks again


@dataclass(frozen=True, slots=True)
class _Member:
    """A row of the pool. `endpoint` lacks the model; it is None where the row is off or its key cannot be read."""

    provider: str
    models: frozenset[str]  # empty: all of the provider's
    endpoint: Endpoint | None


@dataclass(frozen=True, slots=True)
class _Wanted:
    """`provider:model`, or with None for the provider a model that is looked for by its name alone."""

    provider: str | None
    model: str

    def is_served_by(self, member: _Member) -> bool:
        if not self.model:
            return False
        if self.provider is not None:
            return member.provider == self.provider and (not member.models or self.model in member.models)
        return self.model in member.models or (not member.models and member.provider == usual_provider(self.model))


class _Pool:
    """The operators' rows, read again when they are `POOL_SECONDS` old. Two threads that find them old both read: no harm."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._read: tuple[float, tuple[_Member, ...]] = (float("-inf"), ())

    def members(self) -> tuple[_Member, ...]:
        read_at, members = self._read
        if time.monotonic() - read_at < POOL_SECONDS:
            return members
        members = tuple(map(_member, Provider.objects.order_by("priority", "name")))
        self._read = (time.monotonic(), members)
        return members


_pool = _Pool()
forget_pool = _pool.forget  # this process reads it at the next call: for who has changed it


def endpoints_for(*, model: str, user: User) -> list[Endpoint]:
    """Where `model` can be asked for `user`, in order: their own key, then what is on in the pool, by priority.

    `model` is `provider:model`, or a bare model: then of each provider whose members name it, or whose model it usually is.
    One query, and one more every `POOL_SECONDS`. Empty where nobody serves it: `unknown_model_reason` says why.
    """
    members = _pool.members()
    wanted = _wanted(model, members)
    serving = [member for member in members if wanted.is_served_by(member)]
    own = _own_endpoints(user, wanted, serving)
    return own + [replace(member.endpoint, model=wanted.model) for member in serving if member.endpoint is not None]


def unknown_model_reason(model: str, user: User) -> str | None:
    """Why nobody serves `model` for `user`, and what to do; None where somebody does."""
    if endpoints_for(model=model, user=user):
        return None
    members = _pool.members()
    wanted = _wanted(model, members)
    if wanted.provider is None and (usual := usual_provider(model)):
        wanted = _Wanted(usual, model)
    if wanted.provider is None:
        return _reason_of_unknown(model, members)
    if not wanted.model:
        return f'"{model}" names no model: write {wanted.provider}:MODEL.'
    if key := UserKey.objects.for_user(user).filter(provider=wanted.provider, is_valid=False).first():
        return (
            f"Your key for {key.provider} was refused ({key.error}), and no other serves {model}: "
            "store another one with POST /api/v1/api-keys."
        )
    return _reason_of_provider(wanted, members)


def own_key_providers() -> list[str]:
    """For which providers a user can store a key: those that are known, and those of `BLOX_LLM_BASE_URLS`.

    Not an operator's own: one that takes any key would be a way round the limits.
    """
    return sorted(PROVIDERS.keys() | settings.BLOX_LLM_BASE_URLS.keys())


def own_endpoint(*, provider: str, key: str, key_id: str, model: str = "") -> Endpoint:
    """Where a user's own `key` for `provider` is used."""
    known = PROVIDERS.get(provider)
    return Endpoint(
        id=f"own:{key_id}",
        provider=provider,
        kind=known.wire if known else "openai",
        model=model,
        base_url=settings.BLOX_LLM_BASE_URLS.get(provider, ""),
        api_key=key,
        concurrency=OWN_KEY_AT_ONCE,
        own_key=True,
    )


def pool_endpoint(row: Provider) -> Endpoint:
    """It as it is asked, for no model yet. Raises `InvalidToken` where the row's key is under none of our encryption keys."""
    return Endpoint(
        id=str(row.pk),
        provider=row.provider,
        kind=cast(Kind, row.kind),
        model="",
        base_url=row.base_url,
        api_key=decrypt(row.encrypted_key) if row.encrypted_key else "",
        priority=row.priority,
        weight=row.weight,
        concurrency=row.concurrency,
    )


def usual_provider(model: str) -> str | None:
    """Whose model a bare name is; None where that is not known."""
    found = catalogue.find(model, at=timezone.now())
    return None if found is None else found.provider


def _member(row: Provider) -> _Member:
    return _Member(row.provider, frozenset(row.model_names), _endpoint_if_on(row))


def _endpoint_if_on(row: Provider) -> Endpoint | None:
    if not row.is_on:
        return None
    try:
        return pool_endpoint(row)
    except InvalidToken:
        logger.error("The key of provider %s is under none of BLOX_ENCRYPTION_KEYS: it is not asked.", row.pk)
        return None


def _wanted(model: str, members: Iterable[_Member]) -> _Wanted:
    """What stands before a colon is a provider if it is one here: models' own names may have colons (llama3.2:3b)."""
    provider, colon, name = model.partition(":")
    if colon and (provider in own_key_providers() or any(member.provider == provider for member in members)):
        return _Wanted(provider, name)
    return _Wanted(None, model)


def _own_endpoints(user: User, wanted: _Wanted, serving: Sequence[_Member]) -> list[Endpoint]:
    providers = {wanted.provider} if wanted.provider else {usual_provider(wanted.model), *(m.provider for m in serving)}
    if not wanted.model or not (providers := providers & set(own_key_providers())):
        return []
    keys = UserKey.objects.for_user(user).valid().filter(provider__in=providers).order_by("provider")
    found = []
    for key in keys:
        try:
            plain = decrypt(key.encrypted_key)
        except InvalidToken:
            logger.error("The user's key %s is under none of BLOX_ENCRYPTION_KEYS: it is not used.", key.pk)
            continue
        found.append(own_endpoint(provider=key.provider, key=plain, key_id=str(key.pk), model=wanted.model))
    return found


def _reason_of_provider(wanted: _Wanted, members: Sequence[_Member]) -> str:
    """Of a provider that is known here."""
    name = f"{wanted.provider}:{wanted.model}"
    rows = [member for member in members if member.provider == wanted.provider]
    can_have_own = wanted.provider in own_key_providers()
    own = f", or store your own key for {wanted.provider} with POST /api/v1/api-keys" if can_have_own else ""
    if any(wanted.is_served_by(member) for member in rows):
        return f"The provider of {name} is switched off here: choose another model{own}."
    if not rows:
        return f"This server has no key for {wanted.provider}: choose another model{own}."
    served = [model for member in rows for model in sorted(member.models)]
    return f"This server does not serve {name}.{_meant(wanted.model, served)} Choose another model{own}."


def _reason_of_unknown(model: str, members: Sequence[_Member]) -> str:
    """Of a model whose provider is not known."""
    providers = sorted({*own_key_providers(), *(member.provider for member in members)})
    provider, colon, _ = model.partition(":")
    if colon:
        return (
            f'There is no provider "{provider}" here.{_meant(provider, providers)} There are: {", ".join(providers)}.'
        )
    meant = catalogue.nearest(model)
    return (
        f'No provider here serves "{model}".{f" Did you mean {meant}?" if meant else ""} '
        f"Write it as provider:model, with one of {', '.join(providers)}."
    )


def _meant(name: str, known: Iterable[str]) -> str:
    meant = closest(name, known)
    return f" Did you mean {meant}?" if meant else ""

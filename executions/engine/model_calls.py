"""How the engine reaches a model: who serves it, what the call may come to, and what it came to.

What touches the database is for the store's thread; nothing here is called in a transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from accounts.models import User
from billing.errors import BudgetExceeded
from billing.metering import MeteredCall, reserve_llm
from bloxserver.core.ids import new_id
from executions.engine.leases import Claimed
from llm import catalogue
from llm.errors import ModelError
from llm.exchange import Answer, Caller, Endpoint, Request
from llm.services import endpoints_for, touch_key, unknown_model_reason

ANSWER_TOKENS = 8_192  # of an answer that the request sets no bound to, where a budget needs one
RESERVED_LONGER = timedelta(minutes=5)  # than the call may take: for a database that is away when it is settled


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One attempt at asking, ready to be made. `id` is what it is metered under."""

    id: UUID
    caller: Caller
    request: Request
    endpoints: Sequence[Sequence[Endpoint]]  # those of the request's model, then one sequence for each fallback


def prepare(claimed: Claimed, listener: str, request: Request, *, seconds: float, now: datetime) -> ModelCall:
    """Look up who serves the request, and reserve what it may come to within `seconds`.

    Raises `ModelError` where nobody serves it, or a budget does not allow it. Whoever calls this again makes another
    call of it: a reservation whose commit got no answer lapses.
    """
    user = User.objects.get(pk=claimed.user_id)
    endpoints = [endpoints_for(model=model, user=user) for model in (request.model, *request.fallback)]
    if not any(endpoints):
        reason = unknown_model_reason(request.model, user) or f"Nobody serves {request.model} at the moment."
        raise ModelError(reason, code="no_provider", retryable=False)
    for key_id in {own_key_id(endpoint) for served in endpoints for endpoint in served if endpoint.own_key}:
        touch_key(key_id=key_id, now=now)
    caller = Caller(user.pk, user.tier, claimed.flow_id, claimed.pk, listener)
    call = ModelCall(new_id(), caller, request, endpoints)
    return _reserved(call, lease=timedelta(seconds=seconds) + RESERVED_LONGER, now=now)


def metered(call: ModelCall, answer: Answer) -> MeteredCall:
    """What an answer came to, for usage and budgets."""
    return MeteredCall(
        call_id=call.id,
        user_id=call.caller.user_id,
        flow_id=call.caller.flow_id,
        model=answer.model,
        provider=answer.provider,
        tokens_in=answer.usage.tokens_in,
        tokens_out=answer.usage.tokens_out,
        cost=answer.cost,
        own_key=answer.own_key,
        cached=bool(answer.cached),
    )


def own_key_id(endpoint: Endpoint) -> UUID:
    """The user's key that an endpoint is asked with."""
    return UUID(endpoint.id.removeprefix("own:"))


def _reserved(call: ModelCall, *, lease: timedelta, now: datetime) -> ModelCall:
    """The call, its answer bounded to what a budget leaves room for."""
    request = call.request
    tokens_in, tokens_out = catalogue.estimate_tokens(request), request.max_tokens or ANSWER_TOKENS
    try:
        reservation = reserve_llm(
            call_id=call.id,
            user_id=call.caller.user_id,
            flow_id=call.caller.flow_id,
            tokens=tokens_in + tokens_out,
            cost=_dearest(call, tokens_in, tokens_out, now),
            tokens_out=tokens_out,
            cost_out=_dearest(call, 0, tokens_out, now) or Decimal(0),
            now=now,
            lease=lease,
        )
    except BudgetExceeded as error:
        raise ModelError(error.message, code=error.code, retryable=error.temporary) from error
    if reservation is None:
        return call
    return replace(call, request=replace(request, max_tokens=reservation.max_tokens_out or tokens_out))


def _dearest(call: ModelCall, tokens_in: int, tokens_out: int, now: datetime) -> Decimal | None:
    """What the call costs at most, whoever answers it; None where some price is not known."""
    served = {(endpoint.provider, endpoint.model) for endpoints in call.endpoints for endpoint in endpoints}
    costs = [
        catalogue.upper_cost(provider, model, tokens_in=tokens_in, max_tokens=tokens_out, at=now)
        for provider, model in served
    ]
    known = [cost for cost in costs if cost is not None]
    return max(known) if len(known) == len(costs) else None

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
from billing.metering.reservations import LEAST_ANSWER_TOKENS
from executions.engine.leases import Claimed
from llm import catalogue
from llm.errors import ModelError
from llm.exchange import Answer, Caller, Endpoint, Request
from llm.services import allowance_of, endpoints_for, touch_key, unknown_model_reason

ANSWER_TOKENS = 8_192  # are reserved for an answer that the request sets no bound to
BUDGET_SECONDS = 10.0  # until calls under way may have left room on a budget
RESERVED_LONGER = timedelta(minutes=5)  # than the call may take: for a database that is away when it is settled


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One attempt at asking, ready to be made. `id` is what it is metered under."""

    id: UUID
    caller: Caller
    request: Request
    endpoints: Sequence[Sequence[Endpoint]]  # those of the request's model, then one sequence for each fallback
    tokens: int = 0  # in and out, that it may come to; 0 where no budget counts it
    tokens_out: int = 0  # of them


def prepare(
    claimed: Claimed, listener: str, request: Request, *, call_id: UUID, seconds: float, now: datetime
) -> ModelCall:
    """Look up who serves the request, and reserve under `call_id` what it may come to within `seconds`.

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
    caller = Caller(user.pk, user.tier, allowance_of(user), claimed.flow_id, claimed.pk, listener)
    call = ModelCall(call_id, caller, request, endpoints)
    return _reserved(call, lease=timedelta(seconds=seconds) + RESERVED_LONGER, now=now)


def metered(call: ModelCall, answer: Answer, *, now: datetime) -> MeteredCall:
    """What an answer came to, for usage and budgets, and on budgets also what was lost on the way to it."""
    lost = [hop for hop in answer.path if hop.may_be_charged]
    costs = [_upper_cost(hop.provider, hop.model, call, now) for hop in lost]
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
        lost_tokens=len(lost) * call.tokens,
        lost_cost=sum(costs, Decimal(0)),
    )


def _upper_cost(provider: str, model: str, call: ModelCall, now: datetime) -> Decimal:
    """Of one that may have worked on an answer that never came; nothing where its price is not known."""
    cost = catalogue.upper_cost(
        provider, model, tokens_in=call.tokens - call.tokens_out, max_tokens=call.tokens_out, at=now
    )
    return cost or Decimal(0)


def own_key_id(endpoint: Endpoint) -> UUID:
    """The user's key that an endpoint is asked with."""
    return UUID(endpoint.id.removeprefix("own:"))


def _reserved(call: ModelCall, *, lease: timedelta, now: datetime) -> ModelCall:
    """The call, its answer bounded where a budget leaves no room for one of any length."""
    request = call.request
    tokens_in = catalogue.estimate_tokens(request)
    tokens_out = request.max_tokens or _longest_answer(call, tokens_in)
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
        wait = BUDGET_SECONDS if error.temporary else None
        raise ModelError(error.message, code=error.code, retryable=error.temporary, retry_after=wait) from error
    if reservation is None:
        return call
    # Only where it must be: some models refuse a bound that is more than they can say.
    if (bound := reservation.max_tokens_out) is not None:
        request, tokens_out = replace(request, bound=bound), bound
    return replace(call, request=request, tokens=tokens_in + tokens_out, tokens_out=tokens_out)


def _longest_answer(call: ModelCall, tokens_in: int) -> int:
    """Of an answer without a bound, in tokens: what is assumed of it, as far as the models' contexts leave room."""
    infos = (
        catalogue.find(f"{endpoint.provider}:{endpoint.model}") for served in call.endpoints for endpoint in served
    )
    contexts = [info.context_tokens for info in infos if info is not None and info.context_tokens]
    return max(LEAST_ANSWER_TOKENS, min([ANSWER_TOKENS, *(context - tokens_in for context in contexts)]))


def _dearest(call: ModelCall, tokens_in: int, tokens_out: int, now: datetime) -> Decimal | None:
    """What the call costs at most, whoever answers it; None where some price is not known."""
    served = {(endpoint.provider, endpoint.model) for endpoints in call.endpoints for endpoint in endpoints}
    costs = [
        catalogue.upper_cost(provider, model, tokens_in=tokens_in, max_tokens=tokens_out, at=now)
        for provider, model in served
    ]
    known = [cost for cost in costs if cost is not None]
    return max(known) if len(known) == len(costs) else None

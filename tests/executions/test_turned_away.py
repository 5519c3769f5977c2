"""What nobody was asked for, since it was not its turn yet, is waited for: no attempt is used up, and no worker is held."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from accounts.models import Tier, User
from billing.metering import release_llm, reserve_llm
from billing.models import BudgetPeriod
from bloxserver.core.ids import new_id
from executions.engine.retries import LONGEST_TURNED_AWAY_SECONDS, may_wait, retry_delay, turn_delay
from executions.models import Execution, State
from flows.blocks.base import BlockError, Effects
from flows.organism.spec import RetryPolicy
from flows.services import set_budget
from tests.executions.flows import result, run, start, trace, wake
from tests.llm.model_server import ModelServer, calls, last_user, slow, text, tool_results

pytestmark = pytest.mark.django_db(transaction=True)
Drain = Callable[[], None]

EACH = """\
  - name: each
    handler: blox.for_each
    config: {items: "{{ payload }}", each: ask, max_parallel: 10}
    peers: [ask, done]
  - {name: ask, handler: blox.llm, config: {model: "acme:gpt-5", prompt: "{{ payload }}", cache: "off"}}
  - {name: done, handler: blox.output}
"""
AGENT = """\
  - {name: chief, handler: blox.agent, model: "acme:gpt-5", prompt: Lead, cache: "off", peers: [ask]}
  - {name: ask, handler: blox.llm, description: Knows, config: {model: "acme:gpt-5", cache: "off"}}
"""
ASK = """\
  - name: ask
    handler: blox.llm
    retry: {max_attempts: 1}
    config: {model: "acme:gpt-5", prompt: "x", max_tokens: 200, cache: "off"}
"""
ASKED = 9  # tokens of that prompt, as they are reckoned
WHOLE = ASKED + 200


@pytest.fixture
def free(alice: User) -> User:
    """Two calls of models at once, ten a minute."""
    alice.tier = Tier.FREE
    alice.save()
    return alice


def to_its_end(execution: Execution, drain: Drain) -> Any:
    """Let the time pass whenever it is parked."""
    for _ in range(30):
        drain()
        execution.refresh_from_db()
        if execution.state == State.ENDED:
            return result(execution)
        assert (execution.state, execution.lease_owner) == (State.PARKED, "")
        wake(execution)
    raise AssertionError("it does not end")


def explained(api: APIClient, execution: Execution) -> dict[str, Any]:
    told: dict[str, Any] = api.get(f"/api/v1/flows/{execution.flow_id}/executions/{execution.pk}/explain").json()
    return told


def under_way(alice: User, tokens: int) -> Any:
    """A call of another execution, which has reserved so much."""
    call = new_id()
    reserve_llm(
        call_id=call,
        user_id=alice.pk,
        flow_id=None,
        tokens=tokens,
        cost=None,
        now=timezone.now(),
        lease=timedelta(hours=1),
    )
    return call


def test_a_list_gets_through_a_tier_that_lets_two_ask_at_once(
    api: APIClient, drain: Drain, models: ModelServer, free: User
) -> None:
    models.answer_with(lambda body: slow(0.1, text(f"about {last_user(body)}")))
    execution = run(api, start(api, EACH), list(range(10)))
    assert to_its_end(execution, drain) == ("success", [f"about {number}" for number in range(10)])
    assert (len(models.log), models.peak) == (10, 2)
    asking = [step for step in trace(api, execution)["ask"] if step["block"] == "blox.llm"]
    assert [(step["attempt"], step["failures"]) for step in asking] == [(1, [])] * 10
    waits = [wait for wait in explained(api, execution)["waits"] if wait["cause"] == "turned_away"]
    assert waits and all(wait["reason"].startswith("llm_rate_limited: ") for wait in waits)


def test_tools_that_ask_models_wait_for_their_turn_too(
    api: APIClient, drain: Drain, models: ModelServer, free: User
) -> None:
    def play(body: dict[str, Any]) -> Any:
        if "tools" not in body:
            return slow(0.1, text(f"about {last_user(body)}"))
        return text("done") if tool_results(body) else calls([("ask", {"prompt": name}) for name in "abcd"])

    models.answer_with(play)
    execution = run(api, start(api, AGENT), "go")
    assert to_its_end(execution, drain) == ("success", "done")
    assert tool_results(models.log[-1].body) == [f"about {name}" for name in "abcd"]


def test_while_it_waits_the_trace_says_why(api: APIClient, drain: Drain, models: ModelServer, alice: User) -> None:
    set_budget(owner=alice, flow_id=None, monthly_cost=None, monthly_tokens=WHOLE, now=timezone.now())
    call = under_way(alice, WHOLE)
    execution = run(api, start(api, ASK))
    drain()
    asking, turn = sorted(trace(api, execution)["ask"], key=lambda step: step["block"])
    assert (asking["status"], asking["attempt"], asking["failures"]) == ("waiting", 1, [])
    assert (turn["status"], turn["attempt"], turn["errorCode"]) == ("waiting", 1, "budget_exceeded")
    [_, wait] = explained(api, execution)["waits"]
    assert (wait["cause"], wait["listener"]) == ("turned_away", "ask")
    assert wait["reason"] == f"budget_exceeded: {turn['error']}"
    assert 10 <= wait["seconds"] <= 12.5
    assert models.log == []
    release_llm(call_id=call, now=timezone.now())
    assert to_its_end(execution, drain) == ("success", "x")
    assert [step["attempt"] for step in trace(api, execution)["ask"]] == [1, 1]


def test_what_waits_in_vain_fails_after_an_hour_in_all(
    api: APIClient, drain: Drain, models: ModelServer, alice: User
) -> None:
    set_budget(owner=alice, flow_id=None, monthly_cost=None, monthly_tokens=WHOLE, now=timezone.now())
    under_way(alice, WHOLE)
    execution = run(api, start(api, ASK))
    drain()
    execution.journal.filter(kind="turned_away").update(
        value=f'{{"until": "2026-01-01T00:00:00+00:00", "seconds": {LONGEST_TURNED_AWAY_SECONDS}, "code": "", "reason": ""}}'
    )
    wake(execution)
    drain()
    assert result(execution) == ("error", "budget_exceeded")
    asking, turn = sorted(trace(api, execution)["ask"], key=lambda step: step["block"])
    assert "had waited for its turn 1 times, 3600 s in all" in asking["error"]
    assert (turn["status"], turn["errorCode"]) == ("error", "budget_exceeded")
    assert models.log == []


def test_exactly_as_many_of_many_pass_a_budget_as_it_has_room_for(
    api: APIClient, drain: Drain, models: ModelServer, alice: User
) -> None:
    set_budget(owner=alice, flow_id=None, monthly_cost=None, monthly_tokens=3 * WHOLE, now=timezone.now())
    models.answer_with(lambda body: slow(0.2, text("said", tokens_in=ASKED, tokens_out=200)))
    flow = start(api, ASK)
    executions = [run(api, flow) for _ in range(6)]
    outcomes = sorted(to_its_end(execution, drain) for execution in executions)
    assert outcomes == [("error", "budget_exceeded")] * 3 + [("success", "said")] * 3
    assert len(models.log) == 3
    period = BudgetPeriod.objects.get()
    assert (period.spent_tokens, period.reserved_tokens, period.spent_cost) == (3 * WHOLE, 0, Decimal(0))


# The rules. ------------------------------------------------------------------------------------------------------
AWAY = BlockError("Later", code="llm_rate_limited", retry_after=20, counts=False)


@pytest.mark.once
def test_nobody_comes_back_before_they_may_and_not_all_at_once() -> None:
    policy = RetryPolicy()
    turns = [turn_delay(AWAY, waits=0, random=Random(seed)) for seed in range(50)]
    retries = [retry_delay(policy, AWAY, attempt=1, random=Random(seed)) for seed in range(50)]
    for delays in (turns, retries):
        assert all(20 <= delay <= 25 for delay in delays)
        assert max(delays) - min(delays) > 3


@pytest.mark.once
def test_waits_grow_where_little_is_said() -> None:
    away = BlockError("Later", retry_after=3, counts=False)
    delays = [turn_delay(away, waits=waits, random=Random(1)) for waits in (0, 3, 8)]
    assert delays[0] < 4 < 8 <= delays[1] <= 10 < 30 <= delays[2] <= 37.5


@pytest.mark.once
@pytest.mark.parametrize(
    ("error", "effects", "waited", "waits"),
    [
        (AWAY, Effects.REPEATABLE, 0.0, True),
        (AWAY, Effects.REPEATABLE, LONGEST_TURNED_AWAY_SECONDS, False),
        (AWAY, Effects.ONCE, 0.0, False),
        (BlockError("No"), Effects.REPEATABLE, 0.0, False),
        (BlockError("No", retryable=False, counts=False), Effects.REPEATABLE, 0.0, False),
    ],
)
def test_only_what_asked_nobody_and_may_be_repeated_waits(
    error: BlockError, effects: Effects, waited: float, waits: bool
) -> None:
    assert may_wait(RetryPolicy(), error, waited=waited, seconds=20, effects=effects) is waits

"""Answers that were given before: exactly the same request, or nearly, of the same tenant. In memory and on Redis."""

import asyncio
from dataclasses import replace
from decimal import Decimal
from uuid import UUID, uuid4

import pytest

from llm.exchange import Answer, AssistantMessage, Request, Stop, Tool, ToolCall, ToolResult, Usage, UserMessage
from llm.path import cache, semantic
from llm.path.cache import DAY
from tests.llm.stores import Store, question

ALICE, BOB = uuid4(), uuid4()
PARIS = Answer(
    "Paris", usage=Usage(10, 2), model="gpt-4o-mini", provider="openai", cost=Decimal("0.01"), latency_ms=900
)
COLD = question(temperature=0)


async def keep(store: Store, request: Request, answer: Answer = PARIS, user_id: UUID = ALICE) -> None:
    digest, seconds = cache.digest(request, user_id), cache.seconds_to_live(request)
    storing = cache.storing(user_id, digest, answer, seconds)
    calls = [] if storing is None else [storing]
    if (text := semantic.question(request)) is not None and (vector := await semantic.embed(text)) is not None:
        partition = semantic.partition(request, user_id)
        calls.append(semantic.remembering(user_id, partition, digest, vector, seconds))
    await store.shared.run(*calls)


async def find(store: Store, request: Request, user_id: UUID = ALICE) -> Answer | None:
    [found] = await store.shared.run(cache.looking_up(user_id, cache.digest(request, user_id)))
    return cache.found(found, "exact")


async def find_near(store: Store, request: Request, user_id: UUID = ALICE) -> Answer | None:
    vector = await semantic.embed(semantic.question(request) or "")
    [neighbours] = await store.shared.run(semantic.looking_around(semantic.partition(request, user_id)))
    nearest = semantic.nearest(neighbours, vector, request.cache_threshold) if vector is not None else None
    if nearest is None:
        return None
    [found] = await store.shared.run(cache.looking_up(user_id, nearest))
    return cache.found(found, "semantic")


# How long. --------------------------------------------------------------------------------------------------------
@pytest.mark.once
@pytest.mark.parametrize(
    ("temperature", "mode", "seconds"),
    [
        (0, "exact", 86_400),
        (0.2, "exact", 3_600),
        (0.3, "exact", 300),
        (0.69, "exact", 300),
        (0.7, "exact", 0),
        (None, "exact", 0),
        (None, "semantic", 3_600),
        (0.9, "semantic", 0),
        (0, "off", 0),
    ],
)
def test_how_long_an_answer_is_kept_goes_by_temperature(temperature: float | None, mode: str, seconds: int) -> None:
    assert cache.seconds_to_live(question(temperature=temperature, cache=mode)) == seconds


@pytest.mark.once
def test_cut_and_refused_answers_are_not_kept() -> None:
    stops: tuple[Stop, ...] = ("stop", "tools", "length", "refused")
    assert [cache.is_kept(replace(PARIS, stop=stop), COLD) for stop in stops] == [True, True, False, False]
    assert not cache.is_kept(replace(PARIS, cached="exact"), COLD)


@pytest.mark.once
def test_an_answer_that_is_of_no_use_to_who_asked_is_not_kept() -> None:
    garbled = replace(PARIS, calls=(ToolCall("1", "search", "{q: x"),), stop="tools")
    assert not cache.is_kept(garbled, COLD)
    wanted = replace(COLD, fits=lambda text: text == "Rome")
    assert not cache.is_kept(PARIS, wanted) and cache.is_kept(replace(PARIS, text="Rome"), wanted)
    called = replace(PARIS, text="", calls=(ToolCall("1", "search", {"q": "x"}),), stop="tools")
    assert cache.is_kept(called, wanted)  # what is to fit comes later


def test_an_answer_is_forgotten_when_its_time_is_over(store: Store) -> None:
    store.run(keep(store, COLD))
    if store.redis_url:  # whose own clock does not follow ours
        lives = [life for key, life in store.lives().items() if "cache:" in key]
        assert len(lives) == 1 and DAY - 5 <= lives[0] <= DAY
    else:
        store.now += DAY
        assert store.run(find(store, COLD)) is None


# What is the same. ------------------------------------------------------------------------------------------------
def test_a_hit_says_so_and_costs_nothing(store: Store) -> None:
    calls = (ToolCall("call-1", "search", {"q": "x"}),)
    store.run(keep(store, COLD, replace(PARIS, calls=calls, stop="tools")))
    hit = store.run(find(store, COLD))
    assert hit == Answer(
        "Paris", calls, Usage(), "gpt-4o-mini", "openai", cost=Decimal(0), cached="exact", stop="tools"
    )


@pytest.mark.parametrize(
    "other",
    [
        {"messages": (UserMessage("What else?"),)},
        {"model": "gpt-5"},
        {"system": "Be brief."},
        {"tools": (Tool("search", "", {"type": "object"}),)},
        {"schema": {"type": "object"}},
        {"max_tokens": 5},
        {"temperature": 0.1},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_request_is_not_the_same(store: Store, other: dict) -> None:
    store.run(keep(store, COLD))
    assert store.run(find(store, replace(COLD, **other))) is None


@pytest.mark.once
def test_what_a_model_does_not_see_makes_no_difference() -> None:
    same = replace(COLD, fallback=("gpt-5",), cache="semantic", cache_threshold=0.5, temperature=0.0)
    assert cache.digest(same, ALICE) == cache.digest(COLD, ALICE)


def conversation(first: str, second: str) -> Request:
    call, other = ToolCall(first, "search", {"q": "x"}), ToolCall(second, "search", {"q": "y"})
    given = (ToolResult(first, "search", "1"), ToolResult(second, "search", "2"))
    return Request("m", (UserMessage("Go"), AssistantMessage("", (call, other)), *given), temperature=0)


@pytest.mark.once
def test_the_ids_that_a_provider_draws_for_calls_make_no_difference_but_which_is_which_does() -> None:
    one = conversation("call-a", "call-b")
    assert cache.digest(one, ALICE) == cache.digest(conversation("call-x", "call-y"), ALICE)
    first, second = ToolResult("call-b", "search", "1"), ToolResult("call-a", "search", "2")
    swapped = replace(one, messages=(*one.messages[:2], first, second))
    assert cache.digest(one, ALICE) != cache.digest(swapped, ALICE)


# Whose. -----------------------------------------------------------------------------------------------------------
def test_no_tenant_is_answered_with_what_another_left(store: Store) -> None:
    poisoned = replace(PARIS, text="Send your password to eve@x.example")
    near = replace(COLD, cache="semantic")
    store.run(keep(store, near, poisoned, user_id=BOB))
    assert store.run(find(store, near)) is None
    assert store.run(find_near(store, near)) is None

    # Each of the two keys is the tenant's by itself.
    assert cache.digest(near, ALICE) != cache.digest(near, BOB)
    assert semantic.partition(near, ALICE) != semantic.partition(near, BOB)

    # Nor by a digest that was learnt: the key is the tenant's as well.
    [found] = store.run(store.shared.run(cache.looking_up(ALICE, cache.digest(near, BOB))))
    assert found is None
    assert store.run(find(store, near, BOB)) is not None


def test_clearing_forgets_one_tenants_answers_alone(store: Store) -> None:
    near = replace(COLD, cache="semantic")
    store.run(keep(store, near))
    store.run(keep(store, near, user_id=BOB))
    assert store.run(cache.clear(store.shared, ALICE)) == 2  # the answer, and what makes it findable
    assert store.run(find(store, near)) is None and store.run(find_near(store, near)) is None
    assert store.run(find(store, near, BOB)) is not None
    if store.redis_url:
        assert not [key for key in store.lives() if str(ALICE) in key]


# How much. --------------------------------------------------------------------------------------------------------
def test_a_large_answer_is_not_kept(store: Store) -> None:
    store.run(keep(store, COLD, replace(PARIS, text="x" * cache.MOST_BYTES)))
    assert store.run(find(store, COLD)) is None


def test_a_tenants_share_is_bounded_and_the_first_to_run_out_goes_first(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MOST_ENTRIES", 3)
    store.run(keep(store, COLD, user_id=BOB))
    for number in range(5):
        store.now += 1
        store.run(keep(store, question(str(number), temperature=0)))
    kept = [number for number in range(5) if store.run(find(store, question(str(number), temperature=0)))]
    assert kept == [2, 3, 4]
    assert store.run(find(store, COLD, BOB)) is not None


@pytest.mark.once
def test_what_another_release_stored_is_no_answer() -> None:
    assert [cache.found(text, "exact") for text in (b"{", b"[]", b'{"text": "x"}', None)] == [None] * 4


# Near matches. ----------------------------------------------------------------------------------------------------
def near(text: str, **other: object) -> Request:
    return question(text, cache="semantic", **other)


async def is_found(store: Store, kept: Request, asked: Request) -> bool:
    await keep(store, kept)
    return await find_near(store, asked) is not None


def test_nearly_the_same_question_gets_the_same_answer(store: Store) -> None:
    kept, asked = near("How do I reset my password?"), near("How can I reset my password?")
    assert store.run(is_found(store, kept, asked))
    hit = store.run(find_near(store, asked))
    assert hit is not None and (hit.cached, hit.cost, hit.usage) == ("semantic", Decimal(0), Usage())
    assert store.run(find_near(store, replace(asked, cache_threshold=0.999))) is None


@pytest.mark.parametrize(
    ("kept", "asked"),
    [
        ("What is the capital of France?", "What is the capital of Germany?"),
        ("Cancel order 123", "Cancel order 124"),
        ("Cancel order 12 3", "Cancel order 1 23"),
        ("Should I approve this?", "Should I not approve this?"),
        ("Ship it", "Don't ship it"),
    ],
)
def test_a_question_that_is_another_is_not_near(store: Store, kept: str, asked: str) -> None:
    assert not store.run(is_found(store, near(kept), near(asked)))


@pytest.mark.once
@pytest.mark.parametrize(
    "other",
    [
        {"model": "gpt-5"},
        {"system": "Be brief."},
        {"tools": (Tool("search", "", {"type": "object"}),)},
        {"schema": {"type": "object"}},
        {"messages": (UserMessage("Hello"), AssistantMessage("Hi"), *near("How do I reset my password?").messages)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_all_but_the_question_must_be_the_same(other: dict) -> None:
    kept = near("How do I reset my password?")
    with Store("") as store:
        assert not store.run(is_found(store, kept, replace(kept, **other)))


@pytest.mark.once
def test_what_is_long_or_no_question_or_did_not_ask_for_it_is_not_matched() -> None:
    asked = [near("x" * 1_001), near("  "), question("Hi"), replace(conversation("a", "b"), cache="semantic")]
    assert [semantic.question(request) for request in asked] == [None] * 4


@pytest.mark.once
def test_half_a_character_in_a_question_is_no_fault() -> None:
    text = semantic.question(near("Half a face: \ud83d"))
    assert text is not None and asyncio.run(semantic.embed(text)) is not None


@pytest.mark.once
def test_a_text_without_a_known_word_has_no_direction() -> None:
    assert asyncio.run(semantic.embed("")) is None


def test_a_partition_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic, "MOST_NEIGHBOURS", 2)
    for word in ("apples", "bridges", "clouds"):
        store.now += 1
        store.run(keep(store, near(word)))
    found = [word for word in ("apples", "bridges", "clouds") if store.run(find_near(store, near(word)))]
    assert found == ["bridges", "clouds"]

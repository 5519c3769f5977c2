"""The key_value block on the real database."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from accounts.models import User
from flows import key_values
from flows.blocks.base import BlockError, Effects
from flows.blocks.key_value import KeyValueBlock
from flows.models import Flow, KeyValue
from tests.flows.fakes import FakeContext, run_block

Use = Callable[..., Any]


@pytest.fixture
def flow(alice: User) -> Flow:
    return Flow.objects.create(user=alice, name="counter", organism_yaml="")


@pytest.fixture
def use(flow: Flow) -> Use:
    def run(op: str, key: str = "k", **config: Any) -> Any:
        return run_block(KeyValueBlock(), {"op": op, "key": key, **config}, None, FakeContext(flow_id=flow.pk))

    return run


def expire(flow: Flow, key: str = "k") -> None:
    KeyValue.objects.filter(flow=flow, key=key).update(expires_at=timezone.now() - timedelta(seconds=1))


@pytest.mark.parametrize("value", [None, False, 0, "", "é\0\ud800", [1, {"userID": 1.5}], {"": None}])
def test_a_value_comes_back_as_it_was_set(use: Use, value: Any) -> None:
    assert use("set", value=value) == value
    assert use("get") == value


def test_a_key_that_is_not_there_is_null(use: Use) -> None:
    assert use("get") is None
    assert use("delete") is None


def test_the_last_value_counts_and_its_time_to_live_with_it(use: Use, flow: Flow) -> None:
    use("set", value=1, ttl=60)
    use("set", value=2)
    [row] = KeyValue.objects.filter(flow=flow)
    assert (row.value, row.expires_at) == ("2", None)


def test_delete_gives_what_was_there(use: Use, flow: Flow) -> None:
    use("set", value={"a": 1})
    assert use("delete") == {"a": 1}
    assert use("delete") is None
    assert not KeyValue.objects.filter(flow=flow).exists()


def test_what_has_expired_is_not_there(use: Use, flow: Flow) -> None:
    use("set", value=5, ttl=60)
    assert use("get") == 5
    expire(flow)
    assert use("get") is None
    assert use("list") == []
    assert use("delete") is None
    assert use("increment") == 1


def test_increment_counts_from_zero_and_by_what_it_is_told(use: Use) -> None:
    assert [use("increment"), use("increment", value=5), use("increment", value=-2.5)] == [1, 6, 3.5]


def test_the_time_to_live_of_a_counter_runs_from_its_first_increment(use: Use, flow: Flow) -> None:
    use("increment", ttl=60)
    first = KeyValue.objects.get(flow=flow).expires_at
    use("increment", ttl=6000)
    assert KeyValue.objects.get(flow=flow).expires_at == first
    expire(flow)
    assert use("increment", ttl=60) == 1
    assert KeyValue.objects.filter(flow=flow, expires_at__gt=timezone.now()).exists()


@pytest.mark.parametrize("value", ["5", None, [1], True, {"a": 1}])
def test_what_is_no_number_is_not_incremented(use: Use, value: Any) -> None:
    use("set", value=value)
    with pytest.raises(BlockError, match="not a number") as caught:
        use("increment")
    assert (caught.value.code, caught.value.retryable) == ("key_value_refused", False)
    assert use("get") == value


@pytest.mark.parametrize("by", ["1", True, None, 2**70, 1.5e308 * 10])
def test_an_increment_that_is_no_number_of_ours_changes_nothing(use: Use, by: Any) -> None:
    use("set", value=1)
    with pytest.raises(BlockError):
        use("increment", value=by)
    assert use("get") == 1


def test_list_gives_keys_and_values_by_prefix_in_order(use: Use) -> None:
    for key in ("visits/b", "visits/a", "Visits/c", "visits%", "other"):
        use("set", key, value=key.upper())
    assert use("list", "visits/") == [
        {"key": "visits/a", "value": "VISITS/A"},
        {"key": "visits/b", "value": "VISITS/B"},
    ]
    assert [entry["key"] for entry in use("list", "visits%")] == ["visits%"]
    assert len(use("list", "")) == 5


def test_a_list_that_is_too_long_is_refused_rather_than_cut(use: Use, flow: Flow) -> None:
    KeyValue.objects.bulk_create([KeyValue(flow=flow, key=f"n/{n}", value="1") for n in range(1001)])
    with pytest.raises(BlockError, match="1,001 keys start with 'n/'"):
        use("list", "n/")
    assert len(use("list", "n/1")) == 112  # 1, 1x, 1xx, 1000


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"op": "set", "key": "k", "value": "x" * 70_000}, "takes 70,002 bytes as JSON; at most 65,536"),
        ({"op": "set", "key": "a\0b", "value": 1}, "NUL"),
        ({"op": "get", "key": ""}, "1 to 255 characters"),
        ({"op": "set", "key": "k", "value": 1, "ttl": 1e12}, "ttl is in seconds"),
        ({"op": "set", "key": "k", "value": float("nan")}, "not JSON"),
    ],
)
def test_what_can_not_be_kept_is_refused_with_the_reason(flow: Flow, config: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BlockError, match=complaint):
        run_block(KeyValueBlock(), config, None, FakeContext(flow_id=flow.pk))
    assert not KeyValue.objects.exists()


def test_a_flow_keeps_so_many_keys_and_what_has_expired_makes_room(use: Use, flow: Flow) -> None:
    KeyValue.objects.bulk_create([KeyValue(flow=flow, key=str(n), value="1") for n in range(key_values.MAX_KEYS)])
    assert use("set", "7", value=2) == 2
    with pytest.raises(BlockError, match="keeps 10,000 keys already"):
        use("set", "one more", value=1)
    expire(flow, "5")
    assert use("increment", "one more") == 1


def test_a_flow_sees_nothing_of_another(use: Use, alice: User) -> None:
    use("set", value=1)
    other = FakeContext(flow_id=Flow.objects.create(user=alice, name="other", organism_yaml="").pk)
    assert run_block(KeyValueBlock(), {"op": "get", "key": "k"}, None, other) is None
    assert run_block(KeyValueBlock(), {"op": "list"}, None, other) == []


def test_an_increment_is_made_once_when_the_block_runs_again(flow: Flow) -> None:
    journal: dict[str, Any] = {}
    config = {"op": "increment", "key": "k"}
    for _ in range(2):
        assert run_block(KeyValueBlock(), config, None, FakeContext(flow_id=flow.pk, journal=journal)) == 1
    assert KeyValueBlock().effects({"op": "increment"}) is Effects.OURS


@pytest.mark.django_db(transaction=True)
def test_no_increment_is_lost_among_many_at_once(flow: Flow) -> None:
    def count() -> None:
        try:
            for _ in range(10):
                key_values.kv_increment(flow_id=flow.pk, key="k", now=timezone.now())
        finally:
            connection.close()

    threads = [threading.Thread(target=count) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert key_values.kv_get(flow_id=flow.pk, key="k", now=timezone.now()) == 50


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"op": "get"}, "op get needs a key"),
        ({"op": "set", "key": "k"}, "op set needs a value"),
        ({"op": "get", "key": "k", "value": 1}, "takes neither value nor ttl"),
        ({"op": "list", "ttl": 5}, "takes neither value nor ttl"),
        ({"op": "drop", "key": "k"}, "Input should be 'get'"),
        ({"op": "set", "key": "k", "value": 1, "ttl": 0}, "greater than 0"),
        ({"op": "set", "key": "k" * 256, "value": 1}, "at most 255"),
        ({"key": "k"}, "op"),
    ],
)
def test_a_config_that_does_not_hold_says_why(config: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        KeyValueBlock.Config.model_validate(config)

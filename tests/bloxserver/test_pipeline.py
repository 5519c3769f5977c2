"""A transaction whose statements are sent together is a transaction like any other."""

import os
import uuid

import pytest
from django.db import IntegrityError, connection, transaction

from accounts.models import User
from bloxserver.core import bulk, pipeline
from flows.models import Flow, Variable
from flows.services import create_flow

pytestmark = pytest.mark.django_db(transaction=True)


def row(flow: Flow, name: str, value: str = "1") -> bulk.Row:
    return bulk.new(Variable, user_id=flow.user_id, flow_id=flow.pk, name=name, value=value)


def names() -> list[str]:
    return list(Variable.objects.order_by("name").values_list("name", flat=True))


@pytest.fixture
def flow(alice: User) -> Flow:
    return create_flow(owner=alice, name="Orders")


def test_what_was_written_is_committed_before_the_hooks_run(flow: Flow) -> None:
    seen: list[list[str]] = []
    with pipeline.transaction():
        bulk.insert_rows(Variable, [row(flow, "a")])
        transaction.on_commit(lambda: seen.append(names()))
        bulk.insert_rows(Variable, [row(flow, "b")])
    assert seen == [["a", "b"]] and names() == ["a", "b"]
    assert connection.get_autocommit()


def test_an_error_of_the_database_leaves_nothing_written_and_runs_no_hook(
    flow: Flow, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[bool] = []

    def write() -> None:
        with pipeline.transaction():
            transaction.on_commit(lambda: called.append(True))
            for name in ("a", "a", "b"):
                bulk.insert_rows(Variable, [row(flow, name)])

    with pytest.raises(IntegrityError):
        write()
    assert names() == [] and called == [] and caplog.records == []
    bulk.insert_rows(Variable, [row(flow, "b")])
    assert names() == ["b"]


def test_an_error_that_only_the_commit_finds_is_raised(flow: Flow) -> None:
    with pytest.raises(IntegrityError), pipeline.transaction():
        bulk.insert_rows(Variable, [row(flow, "a") | {"flow_id": uuid.uuid4()}])
    assert names() == []


def test_an_exception_of_the_callers_own_leaves_nothing_written(flow: Flow) -> None:
    def write() -> None:
        with pipeline.transaction():
            bulk.insert_rows(Variable, [row(flow, "a")])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert names() == []


def test_an_update_knows_how_many_rows_it_has_changed(flow: Flow) -> None:
    with pipeline.transaction():
        bulk.insert_rows(Variable, [row(flow, "a"), row(flow, "b")])
        assert Variable.objects.filter(name__in=["a", "b", "c"]).update(value="2") == 2
        assert Variable.objects.filter(name="b").delete()[0] == 1
    assert names() == ["a"]


def test_a_savepoint_within_is_rolled_back_alone(flow: Flow) -> None:
    def write_and_read(*new: str) -> None:
        with transaction.atomic():
            for name in new:
                bulk.insert_rows(Variable, [row(flow, name)])
            names()

    with pipeline.transaction():
        bulk.insert_rows(Variable, [row(flow, "a")])
        with pytest.raises(IntegrityError), transaction.atomic():
            bulk.insert_rows(Variable, [row(flow, "a")])
        with pytest.raises(IntegrityError):
            write_and_read("b", "a", "d")
        bulk.insert_rows(Variable, [row(flow, "c")])
        assert names() == ["a", "c"]
    assert names() == ["a", "c"]


def test_within_another_transaction_it_commits_nothing_by_itself(flow: Flow) -> None:
    def write() -> None:
        with transaction.atomic():
            with pipeline.transaction():
                bulk.insert_rows(Variable, [row(flow, "a")])
            with pytest.raises(IntegrityError), pipeline.transaction():
                bulk.insert_rows(Variable, [row(flow, "a")])
            assert names() == ["a"]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert names() == []


def test_statements_larger_than_what_the_connection_holds_are_written_whole(flow: Flow) -> None:
    large = os.urandom(10_000_000).hex()
    with pipeline.transaction():
        for name in ("a", "b"):
            bulk.insert_rows(Variable, [row(flow, name, f'"{large}"')])
    assert [len(variable.value) for variable in Variable.objects.all()] == [len(large) + 2] * 2

"""Rows written in bulk are the rows that Django would have written one by one."""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import DataError, IntegrityError, connection, transaction
from django.forms.models import model_to_dict
from django.test.utils import CaptureQueriesContext

from accounts.models import User
from bloxserver.core import bulk
from executions.models import Execution, Step, StepStatus
from flows.models import Flow
from flows.services import create_flow, start_flow

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)
ODD_TEXT = 'a "quote", a \\ and a\nline, ünï, 😀, \t, </script>, \x7f'


@pytest.fixture
def flow(alice: User) -> Flow:
    return start_flow(flow=create_flow(owner=alice, name="Orders"), by=alice)


def execution(flow: Flow, **fields: Any) -> Execution:
    version = flow.deployed_version_id
    assert version is not None
    return Execution(
        user_id=flow.user_id, flow=flow, version_id=version, trigger_type="manual", started_at=NOW, **fields
    )


def step(execution: Execution, key: str, **fields: Any) -> Step:
    kept = {
        "number": 1,
        "listener": "one",
        "block": "blox.log",
        "status": StepStatus.SUCCESS,
        "started_at": NOW,
        **fields,
    }
    return Step(execution=execution, key=key, **kept)


def test_inserted_rows_come_back_as_they_were(flow: Flow) -> None:
    elsewhere = NOW.astimezone(ZoneInfo("Asia/Kathmandu"))
    whole = execution(
        flow, trigger_name=ODD_TEXT, seconds_worked=0.1, scheduled_for=elsewhere, due_at=NOW, flow_limit=3
    )
    bare = execution(flow, due_at=None)
    bulk.insert([whole, bare])
    for row in (whole, bare):
        assert model_to_dict(Execution.objects.get(pk=row.pk)) == model_to_dict(row)
        assert Execution.objects.get(pk=row.pk).started_at == NOW


def test_lists_and_objects_in_json_columns_come_back_as_they_were(flow: Flow) -> None:
    made = execution(flow)
    bulk.insert([made])
    failures = [{"attempt": 1, "error": ODD_TEXT, "at": NOW.isoformat(), "none": None, "number": 1.5}]
    bulk.insert([step(made, "a", failures=failures, sent_to=["x", "y"], output=ODD_TEXT), step(made, "b")])
    first, second = Step.objects.order_by("key")
    assert (first.failures, first.sent_to, first.output) == (failures, ["x", "y"], ODD_TEXT)
    assert (second.failures, second.sent_to, second.output) == ([], [], None)


def test_an_upsert_replaces_all_but_the_id(flow: Flow) -> None:
    made = execution(flow)
    bulk.insert([made])
    before = step(made, "a", status=StepStatus.RUNNING)
    bulk.upsert([before], unique=("execution", "key"))
    bulk.upsert([step(made, "a", number=2, output="1"), step(made, "b")], unique=("execution", "key"))
    after = Step.objects.get(key="a")
    assert (after.pk, after.status, after.number, after.output) == (before.pk, "success", 2, "1")
    assert Step.objects.count() == 2


def test_an_upsert_adds_to_what_it_is_told_to_add_to(flow: Flow) -> None:
    made = execution(flow)
    bulk.insert([made])
    for number in (2, 5):
        bulk.upsert([step(made, "a", number=number, output=str(number))], unique=("execution", "key"), add=("number",))
    after = Step.objects.get(key="a")
    assert (after.number, after.output) == (7, "5")


def test_an_update_changes_only_the_rows_whose_conditions_hold(flow: Flow) -> None:
    rows = [execution(flow, fence=fence) for fence in (1, 2)]
    bulk.insert(rows)
    changes = [(rows[0].pk, 1, "kept", None), (rows[1].pk, 1, "lost", NOW)]
    bulk.update(Execution, changes, where=("id", "fence"), set=("trigger_name", "due_at"))
    assert [Execution.objects.get(pk=row.pk).trigger_name for row in rows] == ["kept", ""]
    assert Execution.objects.get(pk=rows[0].pk).due_at is None


def test_rows_that_are_too_many_for_one_statement_are_all_written(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [execution(flow) for _ in range(5)]
    monkeypatch.setattr(bulk, "MAX_BYTES", 1000)  # which two rows exceed
    with CaptureQueriesContext(connection) as queries:
        bulk.insert(rows)
    assert connection.vendor != "postgresql" or len(queries) == 3
    assert {row.pk for row in Execution.objects.all()} == {row.pk for row in rows}
    monkeypatch.setattr(bulk, "MAX_BYTES", 1)
    changes = [(row.pk, f"name {number}") for number, row in enumerate(rows)]
    bulk.update(Execution, changes, where=("id",), set=("trigger_name",))
    assert [Execution.objects.get(pk=row.pk).trigger_name for row in rows] == [name for _, name in changes]


@pytest.mark.parametrize("values", [("kept",), ("kept", None, None)])
def test_a_row_with_another_number_of_values_than_there_are_columns_is_an_error(
    flow: Flow, values: tuple[str | None, ...]
) -> None:
    made = execution(flow)
    bulk.insert([made])
    with pytest.raises(ValueError):
        bulk.update(Execution, [(made.pk, *values)], where=("id",), set=("trigger_name", "due_at"))
    assert Execution.objects.get().trigger_name == ""


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="Django prepares the values for SQLite")
def test_a_value_that_json_has_no_form_for_is_an_error_and_not_guessed_at(flow: Flow) -> None:
    with pytest.raises(ValueError):
        bulk.insert([execution(flow, trigger_name=object())])


def test_a_conflict_is_an_error_unless_it_is_to_be_ignored(flow: Flow) -> None:
    made = execution(flow)
    bulk.insert([made])
    with pytest.raises(IntegrityError), transaction.atomic():
        bulk.insert([made, execution(flow)])
    bulk.insert([made, execution(flow)], ignore_conflicts=True)
    assert Execution.objects.count() == 2


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="SQLite knows no lengths")
def test_a_text_that_is_too_long_is_an_error_and_not_cut_off(flow: Flow) -> None:
    assert connection.vendor == "postgresql"
    with pytest.raises(DataError), transaction.atomic():
        bulk.insert([execution(flow, trigger_name="x" * 101)])


def test_nothing_to_write_is_no_statement(django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        bulk.insert([])
        bulk.upsert([], unique=("execution", "key"))
        bulk.update(Execution, [], where=("id",), set=("due_at",))

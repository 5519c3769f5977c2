"""House-keeping: what outlives its tier's days, flows with a long history, tested drafts; and the counters' truth."""

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.db.models import Sum
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from accounts.models import Tier, User
from executions import history, tally, tasks
from executions.models import Execution, ExecutionTally, JournalEntry, LargeOutput, Step
from flows.models import Flow, FlowVersion, KeyValue
from tests.executions.factories import make_execution, make_flow, make_step
from triggers.models import Trigger

NOW = timezone.now()


def aged(flow: Flow, days: float, **fields: object) -> Execution:
    return make_execution(flow, started_at=NOW - timedelta(days=days), **fields)  # type: ignore[arg-type]


def counted(flow: Flow) -> dict[str, int]:
    rows = ExecutionTally.objects.filter(flow=flow).values_list("status").annotate(Sum("runs"))
    return {status: runs for status, runs in rows if runs}


def test_history_goes_when_its_owners_tier_no_longer_keeps_it(alice: User, bob: User) -> None:
    User.objects.filter(pk=bob.pk).update(tier=Tier.FREE)
    of_pro, of_free = make_flow(alice), make_flow(bob)
    kept = [aged(of_pro, 29), aged(of_free, 6)]
    aged(of_pro, 31)
    aged(of_free, 8)

    tasks.prune_history()

    assert {row.pk for row in Execution.objects.all()} == {row.pk for row in kept}


def test_all_that_belongs_to_an_execution_goes_with_it_and_nothing_else(alice: User) -> None:
    flow = make_flow(alice)
    for days in (40, 1):
        execution = aged(flow, days)
        step = make_step(execution, 1, "greet", is_output_apart=True)
        LargeOutput.objects.create(step=step, text="1")
        JournalEntry.objects.create(execution=execution, step_key="key-1", position="1", kind="record", value="1")

    history.prune_history(now=NOW)

    for rows in (Execution, Step, LargeOutput, JournalEntry):
        assert rows.objects.count() == 1, rows
    assert counted(flow) == {"success": 1}


def test_what_has_not_ended_or_ended_lately_is_kept(alice: User) -> None:
    flow = make_flow(alice)
    aged(flow, 90, status="running")
    aged(flow, 90, queued_ms=1000, ms=89 * 24 * 3600 * 1000)

    history.prune_history(now=NOW)

    assert Execution.objects.count() == 2


def test_one_run_stops_when_its_time_is_up_and_the_command_does_all(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "BATCH", 2)
    flow = make_flow(alice)
    for _ in range(5):
        aged(flow, 31)

    assert history.prune_history(now=NOW, seconds=0.0).is_done is False
    assert Execution.objects.count() == 5

    said = StringIO()
    call_command("prune_history", stdout=said)
    assert Execution.objects.count() == 0
    assert said.getvalue().startswith("Deleted 5 executions, ")


def test_the_clock_has_users_looked_at_in_turns_and_the_command_looks_at_all(
    alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "TOGETHER", 1)
    flows = [make_flow(alice), make_flow(bob)]
    for flow in flows:
        aged(flow, 31)
    left = []
    for turn in range(2):
        history.prune_history(now=NOW + turn * timedelta(seconds=history.TURN_SECONDS), turns=1)
        left.append(Execution.objects.count())
    assert left == [1, 0]

    for flow in flows:
        aged(flow, 31)
    call_command("prune_history", stdout=StringIO())
    assert Execution.objects.count() == 0


def test_a_draft_that_was_tested_goes_with_its_last_test_run(alice: User) -> None:
    flow = make_flow(alice)
    old = {"created_at": NOW - timedelta(days=40), "organism_yaml": "x"}
    unused = FlowVersion.objects.create(flow=flow, number=None, digest="a", **old)
    used = FlowVersion.objects.create(flow=flow, number=None, digest="b", **old)
    fresh = FlowVersion.objects.create(flow=flow, number=None, digest="c", organism_yaml="x")
    aged(flow, 1, version=used, is_draft=True)
    aged(flow, 31, version=unused, is_draft=True)

    history.prune_history(now=NOW)

    assert set(flow.versions.filter(number=None)) == {used, fresh}
    assert flow.versions.filter(number=1).exists()


# Deleting a flow. ------------------------------------------------------------------------------------------------
def test_a_flow_with_a_short_history_is_deleted_at_once(api: APIClient, alice: User) -> None:
    flow = make_flow(alice)
    make_execution(flow)
    assert api.delete(f"/api/v1/flows/{flow.pk}").status_code == 204
    assert not Flow.with_deleted.exists()
    assert not ExecutionTally.objects.exists()


def test_a_flow_with_a_long_history_is_gone_at_once_and_cleared_away_later(
    api: APIClient, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "BATCH", 2)
    flow, other = make_flow(alice), make_flow(alice, name="Other")
    for _ in range(5):
        make_step(make_execution(flow, trigger_type="webhook"), 1, "greet")
    make_execution(other)
    Trigger.objects.create(flow=flow, type="webhook", name="w", token_hash="h", token_encrypted="")
    KeyValue.objects.create(flow=flow, key="k", value="1")

    assert api.delete(f"/api/v1/flows/{flow.pk}").status_code == 204

    assert Execution.objects.filter(flow=flow).count() == 3  # a batch went, the rest waits
    assert api.get(f"/api/v1/flows/{flow.pk}").status_code == 404
    assert api.get(f"/api/v1/flows/{flow.pk}/executions").status_code == 404
    assert [item["name"] for item in api.get("/api/v1/flows").json()["items"]] == ["Other"]
    listed = api.get("/api/v1/executions").json()
    assert (listed["total"], [item["flowId"] for item in listed["items"]]) == (1, [str(other.pk)])
    assert api.post(f"/api/v1/flows/{flow.pk}/start").status_code == 404
    assert not Trigger.objects.exists() and not KeyValue.objects.exists()

    history.prune_history(now=NOW)

    assert set(Flow.with_deleted.all()) == {other}
    assert Step.objects.count() == 0
    assert not ExecutionTally.objects.filter(flow_id=flow.pk).exists()


# The counters. ---------------------------------------------------------------------------------------------------
def test_the_database_counts_each_end_once_whoever_writes_it(alice: User) -> None:
    flow = make_flow(alice)
    rows = [make_execution(flow, status="running") for _ in range(3)]
    make_execution(flow, status="error")
    ended = {"state": "ended", "status": "timeout", "completed_at": NOW, "due_at": None}
    Execution.objects.filter(pk__in=[row.pk for row in rows[:2]]).update(**ended)
    Execution.objects.filter(state="ended").update(error_message="Changed later.")

    assert counted(flow) == {"error": 1, "timeout": 2}


def test_folding_changes_no_sum(alice: User, bob: User) -> None:
    flow, other = make_flow(alice), make_flow(bob)
    for number in range(tally.CROWD + 1):
        make_execution(flow, status="error" if number % 3 else "success", ms=number)
    make_execution(other)
    before = tally.ended(user_id=alice.pk, flow_id=flow.pk)

    tasks.fold_tallies()

    assert tally.ended(user_id=alice.pk, flow_id=flow.pk) == before
    assert ExecutionTally.objects.filter(flow=flow).count() == 2
    assert counted(other) == {"success": 1}


def test_lost_triggers_come_back_with_migrate_and_all_is_counted_anew(alice: User) -> None:
    from django.db import connection

    flow = make_flow(alice)
    make_execution(flow, ms=7)
    with connection.cursor() as cursor:
        on = " ON executions_execution" if connection.vendor == "postgresql" else ""
        cursor.execute(f"DROP TRIGGER {tally.NAME}{on}")
        cursor.execute(f"DROP TRIGGER {tally.NAME}_at_once{on}")
    make_execution(flow, ms=5)
    assert counted(flow) == {"success": 1}

    tally.install()
    make_execution(flow, ms=1)

    assert tally.ended(user_id=alice.pk, flow_id=flow.pk) == {"success": (3, 13)}


def test_the_clock_has_workers_keep_house(settings: Settings) -> None:
    entries = {entry["task"]: entry for entry in settings.CELERY_BEAT_SCHEDULE.values()}
    for name in ("executions.prune_history", "executions.fold_tallies"):
        assert "queue" not in entries[name]["options"], "the clock would miss ticks"

"""Schedules, and clocks whose time the test sets."""

import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.faults.fake_time import told
from tests.faults.own_services import Postgres
from tests.faults.server import Flow, Server
from tests.triggers.debian_cron import MINUTE, runs
from tests.waiting import wait_until

FIRED = ("fired", "caught_up")
Key = tuple[str, datetime]  # trigger, moment


class FakeTime:
    """The time of those clocks; it may be set while they run."""

    def __init__(self, server: Server) -> None:
        self.file = server.folder / "time"

    def set(self, moment: datetime, *, rate: float) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(f"{time.time()} {moment.timestamp()} {rate}")
        os.replace(new, self.file)

    def now(self) -> datetime:
        return told(self.file)


@contextmanager
def clocks(server: Server, number: int, start: datetime) -> Iterator[FakeTime]:
    """In place of the server's clock `number` clocks with a time of their own, which stands still at `start`.

    At the end of the block it stands still again: the clocks go on sweeping, and fire no more.
    """
    fake = FakeTime(server)
    fake.set(start, rate=0)
    server.drop("clock")
    for index in range(number):
        program = [sys.executable, "-m", "tests.faults.fake_time"]
        server.start(f"clock-{index + 1}", program=program, BLOX_FAULTS_TIME=str(fake.file))
    try:
        server.ready()
        yield fake
    finally:
        fake.set(fake.now(), rate=0)


@dataclass(slots=True)
class Schedules:
    """`until` is as far as their moments are to be on record: after `since`, and up to it, both full minutes."""

    configs: dict[str, dict[str, Any]]  # by the trigger's id
    since: datetime
    until: datetime
    fire_all: bool = True  # False: some may be on record as missed

    def are_due(self, postgres: Postgres) -> bool:
        """Whether one has still to fire what was due by `until`."""
        [(due,)] = postgres.query(
            "SELECT count(*) FROM triggers_trigger WHERE id::text = ANY(%s) AND next_moment <= %s",
            list(self.configs),
            self.until,
        )
        return bool(due)

    def wait(self, postgres: Postgres, *, seconds: float) -> None:
        wait_until(lambda: not self.are_due(postgres), seconds=seconds)

    def expected(self) -> set[Key]:
        return {
            (trigger, moment)
            for trigger, config in self.configs.items()
            for moment in runs(config["cron"], config.get("timezone", "UTC"), self.since + MINUTE, self.until + MINUTE)
        }

    def judge(self, postgres: Postgres) -> "Verdict":
        """What is on record, against what cron would have done."""
        ledger = postgres.query(
            "SELECT trigger_id::text, moment, coalesce(until, moment), outcome, execution_id::text FROM triggers_moment"
            " WHERE trigger_id::text = ANY(%s) AND moment > %s AND moment <= %s",
            *(list(self.configs), self.since, self.until),
        )
        executions = postgres.query(
            "SELECT trigger_id::text, scheduled_for, id::text FROM executions_execution"
            " WHERE trigger_id::text = ANY(%s) AND scheduled_for > %s AND scheduled_for <= %s",
            *(list(self.configs), self.since, self.until),
        )
        expected = self.expected()
        on_record = Counter(self._moments_of(ledger, expected))
        made = Counter((trigger, moment) for trigger, moment, _ in executions)
        fired = {(row[0], row[1], row[4]) for row in ledger if row[3] in FIRED}
        violations = [
            *_told("is not on record", expected - set(on_record)),
            *_told("is on record and no moment of its schedule", set(on_record) - expected),
            *_told("is on record twice", {key for key, times in on_record.items() if times > 1}),
            *_told("made two executions", {key for key, times in made.items() if times > 1}),
            *_told("is not the execution's in the ledger", {key[:2] for key in fired ^ set(executions)}),
        ]
        if self.fire_all:
            violations += _told("did not fire", expected - set(made))
        lost = len(expected - (set(made) if self.fire_all else set(on_record)))
        repeated = sum(times - 1 for times in (made + Counter()).values()) + len(set(on_record) - expected)
        return Verdict(len(expected), lost, repeated, violations)

    @staticmethod
    def _moments_of(ledger: Sequence[tuple[Any, ...]], expected: set[Key]) -> Iterator[Key]:
        """A row may stand for many."""
        by_trigger = defaultdict(list)
        for trigger, moment in expected:
            by_trigger[trigger].append(moment)
        for trigger, first, last, *_ in ledger:
            if first == last:
                yield trigger, first
            else:
                yield from ((trigger, moment) for moment in by_trigger[trigger] if first <= moment <= last)


@dataclass(frozen=True, slots=True)
class Verdict:
    moments: int
    lost: int
    repeated: int
    violations: list[str]


def _told(what: str, keys: set[Key]) -> list[str]:
    return [f"the moment {moment:%Y-%m-%d %H:%M}Z of {trigger} {what}" for trigger, moment in sorted(keys)]


def make_schedules(
    server: Server,
    flows: Sequence[Flow],
    configs: Sequence[dict[str, Any]],
    *,
    since: datetime,
    until: datetime,
    fire_all: bool = True,
) -> Schedules:
    """One of each config for each flow, armed as they would have been at `since`."""
    document = {"flows": [flow.id for flow in flows], "configs": configs, "now": since.isoformat()}
    made = json.loads(server.run("-m", "tests.faults.make_schedules", json.dumps(document)))
    return Schedules(made, since, until, fire_all)

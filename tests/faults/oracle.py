"""What must hold after every experiment, whatever was done to the server: one list for all of them.

I1  each acknowledged webhook has one execution, and nothing else made any
I2  every execution has ended
I3  no effect began after its step was on record as finished
I4  a step's effect happened again only if a fault lay between: it was under way when its worker or the database went.
    A POST never did: no flow of the experiments consents to that
I5  each moment of a schedule is on record once, and no other is
I6  nothing was held as being worked on without a lease that lives, but while no sweep could come
I7  no answer 5xx, and none missing, but in a declared stop; no traceback in a log that the fault does not explain
I8  no writer was heard whose lease was gone: fences grow, what has ended or finished does not change
"""

import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread

import psycopg

from tests.faults.load import Answer, Load
from tests.faults.own_services import Postgres
from tests.faults.schedules import Verdict
from tests.witness import Call

# What PostgreSQL says and what the witness says comes from one clock; a call may wait a moment in the witness's queue.
CLOCK_SECONDS = 0.25
COMMIT_SECONDS = 2.0  # from the answer of an effect to its step's commit, on a busy machine
RECOVERY_SECONDS = 8.0  # of what was stopped: until its clients have noticed that it is back
OVERDUE_SECONDS = 6.0  # that a lease may have run out before a sweeper has seen it: it looks each second


@dataclass(frozen=True, slots=True)
class Fault:
    """What was done, to what (`web`, `worker`, `redis`, `database`), and how long it lasted."""

    target: str
    text: str
    began: float
    ended: float

    def hits(self, began: float, ended: float) -> bool:
        return self.began <= ended and began <= self.ended + RECOVERY_SECONDS


@dataclass(slots=True)
class Figures:
    """A row of the table."""

    accepted: int = 0
    finished: int = 0
    lost: int = 0
    repeated: int = 0  # effects of a step that was on record as finished
    in_flight: int = 0  # effects that were under way at a fault, and happened again
    stuck: int = 0
    seconds: float = 0.0
    faults: int = 0


@dataclass(slots=True)
class Evidence:
    loads: Sequence[Load]
    faults: Sequence[Fault]
    calls: Sequence[Call]
    logs: Sequence[str]
    explained: str  # a pattern of exceptions that the faults explain
    overdue: Sequence[tuple[float, str]]  # when a lease was seen that had run out long ago, and whose
    moments: Sequence[Verdict] = ()  # of each set of schedules
    violations: list[str] = field(default_factory=list)
    figures: Figures = field(default_factory=Figures)


@dataclass(frozen=True, slots=True)
class Records:
    """What the database holds of an experiment's executions."""

    executions: list[tuple[str, bool, str]]  # id, whether a call made it (no schedule, no other execution), state
    steps: dict[str, tuple[str, float | None]]  # by idempotency key: status, when it was completed
    audit: list[str] = field(default_factory=list)


def records_of(postgres: Postgres, flows: Sequence[str]) -> Records:
    executions = postgres.query(
        "SELECT id::text, parent_id IS NULL AND scheduled_for IS NULL, state FROM executions_execution"
        " WHERE flow_id::text = ANY(%s)",
        list(flows),
    )
    steps = postgres.query(
        "SELECT s.execution_id::text || ':' || s.key, s.status, extract(epoch FROM s.completed_at)::float"
        " FROM executions_step s JOIN executions_execution e ON e.id = s.execution_id WHERE e.flow_id::text = ANY(%s)",
        list(flows),
    )
    audit = postgres.query(
        "SELECT a.execution_id::text || ': ' || a.what FROM audit a JOIN executions_execution e ON e.id = a.execution_id"
        " WHERE e.flow_id::text = ANY(%s)",
        list(flows),
    )
    return Records(
        executions=[(id, is_first, state) for id, is_first, state in executions],
        steps={key: (status, completed) for key, status, completed in steps},
        audit=[text for (text,) in audit],
    )


def judge(evidence: Evidence, records: Records) -> None:
    """Adds figures and violations to `evidence`."""
    evidence.figures.faults = len(evidence.faults)
    _acknowledged_have_one(evidence, {id for id, is_first, _ in records.executions if is_first})
    _all_have_ended(evidence, records.executions)
    _effects_once(evidence, records.steps, {id for id, *_ in records.executions})
    _moments_once(evidence)
    unswept = [fault for fault in evidence.faults if fault.target in ("database", "redis", "clock")]
    _say(evidence, "I6", [text for at, text in evidence.overdue if not any(fault.hits(at, at) for fault in unswept)])
    _answers_are_good(evidence)
    _say(evidence, "I7", unexplained_tracebacks(evidence.logs, evidence.explained))
    _say(evidence, "I8", records.audit)


def _say(evidence: Evidence, name: str, texts: Iterable[str]) -> None:
    evidence.violations += [f"{name}: {text}" for text in texts]


def _acknowledged_have_one(evidence: Evidence, found: set[str]) -> None:
    by_key: dict[str, set[str]] = {}
    for load in evidence.loads:
        by_key |= load.accepted()
    given = Counter(execution for executions in by_key.values() for execution in executions)
    lost = set(given) - found
    unasked = found - set(given)
    unacknowledged = sum(len(load.keys) for load in evidence.loads) - len(by_key)
    evidence.figures.accepted, evidence.figures.lost = len(by_key), len(lost)
    _say(evidence, "I1", [f"{execution} was acknowledged and is not there" for execution in lost])
    _say(evidence, "I1", [f"{key} made {ids}" for key, ids in by_key.items() if len(ids) != 1])
    _say(evidence, "I1", [f"{execution} was given for {n} keys" for execution, n in given.items() if n > 1])
    if len(unasked) > unacknowledged:
        _say(evidence, "I1", [f"{len(unasked)} executions that no caller knows of, for {unacknowledged} open calls"])


def _all_have_ended(evidence: Evidence, rows: list[tuple[str, bool, str]]) -> None:
    stuck = [(id, state) for id, _, state in rows if state != "ended"]
    evidence.figures.finished, evidence.figures.stuck = len(rows) - len(stuck), len(stuck)
    _say(evidence, "I2", [f"{id} is {state}" for id, state in stuck])


def _effects_once(evidence: Evidence, steps: dict[str, tuple[str, float | None]], executions: set[str]) -> None:
    by_key: dict[str, list[Call]] = defaultdict(list)
    for call in evidence.calls:
        if call.key.partition(":")[0] in executions and call.status < 500:  # a refusal is no effect
            by_key[call.key].append(call)
    for key, calls in by_key.items():
        status, completed = steps.get(key, ("", None))
        for call in calls:
            if status == "success" and completed and call.began > completed + CLOCK_SECONDS:
                if _was_thawed(call, completed, evidence.faults):
                    continue
                evidence.figures.repeated += 1
                _say(evidence, "I3", [f"{key} was called {call.began - completed:.2f} s after it had finished"])
        for first, second in pairwise(calls):
            evidence.figures.in_flight += 1
            if second.method == "POST":
                _say(evidence, "I4", [f"{key} ({first.path}) is a POST and was called again"])
            if not any(_lies_between(fault, first, second) for fault in evidence.faults):
                gap = second.began - (first.ended or first.began)
                _say(evidence, "I4", [f"{key} ({first.path}) was called again after {gap:.2f} s and no fault"])
    evidence.figures.in_flight -= evidence.figures.repeated


def _moments_once(evidence: Evidence) -> None:
    for verdict in evidence.moments:
        evidence.figures.accepted += verdict.moments
        evidence.figures.lost += verdict.lost
        evidence.figures.repeated += verdict.repeated
        _say(evidence, "I5", verdict.violations)


def _was_thawed(call: Call, completed: float, faults: Sequence[Fault]) -> bool:
    """A worker frozen on the way from its record to its call makes the call when it thaws; nobody can hold it back."""
    return any(
        fault.target == "worker" and fault.began < completed and fault.ended - CLOCK_SECONDS < call.began
        for fault in faults
        if fault.ended > fault.began
    )


def _lies_between(fault: Fault, first: Call, second: Call) -> bool:
    if fault.target not in ("worker", "database"):
        return False
    was_under_way = fault.began <= (first.ended or second.began) + COMMIT_SECONDS
    return fault.began <= second.began and was_under_way and first.began <= fault.ended + CLOCK_SECONDS


def _answers_are_good(evidence: Evidence) -> None:
    bad: Counter[str] = Counter()
    for load in evidence.loads:
        for answer in load.answers:
            if not _is_good(answer, evidence.faults):
                bad[f"{answer.status} {answer.text}"] += 1
    _say(evidence, "I7", [f"{number} answers {text}" for text, number in bad.items()])


def _is_good(answer: Answer, faults: Sequence[Fault]) -> bool:
    if 200 <= answer.status < 300:
        return True
    hits = {fault.target for fault in faults if fault.hits(answer.began, answer.ended)}
    if answer.status == 0:
        return "web" in hits
    return answer.status == 503 and bool(answer.retry_after) and "database" in hits


RECORD = re.compile(
    r"^(?=\d{4}-\d\d-\d\d \d\d:)", re.MULTILINE
)  # where a line of the log begins that is no continuation


def unexplained_tracebacks(logs: Sequence[str], explained: str) -> list[str]:
    """The records with a traceback where the pattern `explained` is neither in its message nor in its exception."""
    found = []
    for record in (record for log in logs for record in RECORD.split(log) if "Traceback (most recent" in record):
        lines = [line for line in record.splitlines() if line[:1].strip()]
        telling = f"{lines[0]}\n{lines[-1]}"
        if not explained or not re.search(explained, telling):
            found.append(f"{telling}\n{record[:3000]}")
    return found


class LeaseWatch(Thread):
    """Looks twice a second for executions that are worked on with a lease that has run out."""

    def __init__(self, postgres: Postgres) -> None:
        super().__init__(daemon=True)
        self.overdue: list[tuple[float, str]] = []
        self._postgres, self._over = postgres, Event()

    def run(self) -> None:
        seen: dict[tuple[str, int], int] = {}
        while not self._over.wait(0.5):
            try:
                rows = self._postgres.query(
                    "SELECT id::text, fence, extract(epoch FROM now() - lease_until)::float FROM executions_execution"
                    " WHERE state = 'working' AND lease_until < now()"
                )
            except psycopg.Error:
                seen = {}  # while the database is away nobody can sweep
                continue
            seen = {(id, fence): seen.get((id, fence), 0) + 1 for id, fence, _ in rows}
            for id, fence, seconds in rows:
                if seen[id, fence] > 2 * OVERDUE_SECONDS:
                    self.overdue.append((time.time(), f"{id} is worked on, and its lease ran out {seconds:.1f} s ago"))

    def close(self) -> list[tuple[float, str]]:
        self._over.set()
        self.join()
        return self.overdue


def log_offsets(logs: Iterable[Path]) -> dict[Path, int]:
    return {log: log.stat().st_size for log in logs}


def log_texts(logs: Iterable[Path], offsets: dict[Path, int]) -> list[str]:
    """What has been added since."""
    return [log.read_bytes()[offsets.get(log, 0) :].decode(errors="replace") for log in logs]

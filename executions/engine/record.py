"""What is on record of one execution, and what is to be written of it with the next flush."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.utils import timezone

from billing.metering import MeteredCall
from executions.endings import WORKER_LOST
from executions.engine.leases import Claimed
from executions.engine.store import Change
from executions.models import JournalEntry, Step, StepStatus

UNDER_WAY = (StepStatus.RUNNING, StepStatus.WAITING)
DROPPED = "Dropped, since what ran beside it failed."


class Record:
    """Of one run. All of it in the event loop: nothing here waits, or touches the database."""

    def __init__(self, claimed: Claimed) -> None:
        self._claimed = claimed
        self.steps = {step.key: step for step in claimed.steps}
        self.journal = {(entry.step_key, entry.position): entry for entry in claimed.journal}
        self.response: str | None = None  # what a respond block said, until it is written
        self._number = max((step.number for step in claimed.steps), default=0)
        self._begun: dict[str, Step] = {}  # in this run, and not ended
        # Not ended, and not begun in this run: a worker has left it, by its death or by a park.
        self._left = {step.key: step for step in claimed.steps if step.status in UNDER_WAY}
        self._unsaved_steps: dict[str, Step] = {}
        self._unsaved_journal: list[JournalEntry] = []
        self._unsaved_calls: list[MeteredCall] = []
        self._forget_earlier_failures()

    # Steps. -------------------------------------------------------------------------------------------------------

    def start(self, step: Step) -> None:
        self._left.pop(step.key, None)
        self._begun[step.key] = step

    def step_at(self, key: str) -> Step | None:
        """What is on record of it, or under way here."""
        return self.steps.get(key) or self._begun.get(key)

    def put(self, step: Step) -> None:
        """Write the step as it is, with the next flush."""
        self._number += 1
        step.number = self._number
        self._unsaved_steps[step.key] = step

    def finish(self, step: Step) -> None:
        """Take the ended step into the record; it is written with the next flush."""
        self._left.pop(step.key, None)
        self._begun.pop(step.key, None)
        self.steps[step.key] = step
        self.put(step)

    def has_ended(self, key: str) -> bool:
        step = self.steps.get(key)
        return step is not None and step.status in (StepStatus.SUCCESS, StepStatus.ERROR)

    def order(self, key: str) -> int:
        """By which steps from the record are followed in the order in which they had ended."""
        step = self.steps.get(key)
        return step.number if step else self._number + 1

    # What has not ended. ------------------------------------------------------------------------------------------

    @property
    def begun(self) -> Iterable[Step]:
        """Begun in this run, and not ended."""
        return self._begun.values()

    def unfinished_at(self, key: str) -> list[Step]:
        """The step of that key and those in the scopes that it called, as far as they have not ended."""
        known = self._left | self._begun
        return [*self.unfinished_below(key), *([known[key]] if key in known else [])]

    def unfinished_below(self, key: str) -> list[Step]:
        inner = [step.key for step in (self._left | self._begun).values() if step.scope.startswith(f"{key}:")]
        return [step for each in inner for step in self.unfinished_at(each)]

    def drop(self, steps: Iterable[Step]) -> None:
        """End them: nothing will deliver them again. One that says why it waited goes on saying so."""
        for step in steps:
            step.status, step.due_at, step.completed_at = StepStatus.ERROR, None, timezone.now()
            if not step.error:
                step.error, step.error_code = DROPPED, "dropped"
            self.finish(step)

    def end_all(self, error: str, code: str) -> None:
        """End what the execution's end leaves unfinished."""
        for step in (self._left | self._begun).values():
            step.status, step.due_at, step.completed_at = StepStatus.ERROR, None, timezone.now()
            step.error, step.error_code = error, code
            self.put(step)

    # Failures. ----------------------------------------------------------------------------------------------------

    def forget_failures_below(self, key: str, *, until: datetime | None = None) -> None:
        """Before a block's next attempt: what failed in the scopes it called (until then) is to be tried again."""
        for step in [step for step in self.steps.values() if step.scope.startswith(f"{key}:")]:
            self.forget_failures_below(step.key, until=until)
            is_late = until is not None and step.completed_at is not None and step.completed_at > until
            if step.status == StepStatus.ERROR and not step.sent_to and not is_late:
                # A new step in the same row. Its attempts are counted on, since what it called is known by them.
                self.steps[step.key] = Step(
                    id=step.id,
                    status=StepStatus.WAITING,
                    attempt=step.attempt + 1,
                    started_at=timezone.now(),
                    **_origin(step),
                )

    def _forget_earlier_failures(self) -> None:
        """Forgetting writes nothing, so a run that parked, or died, before the next attempt has left the failures on record."""
        for step in self._claimed.steps:
            failures = [entry["at"] for entry in step.failures if entry["code"] != WORKER_LOST]
            if failures and step.completed_at is None:
                self.forget_failures_below(step.key, until=datetime.fromisoformat(failures[-1]))

    # The journal, and what is to be written. ----------------------------------------------------------------------

    def write_down(self, entry: JournalEntry) -> None:
        self.journal[entry.step_key, entry.position] = entry
        self._unsaved_journal.append(entry)

    def meter(self, call: MeteredCall) -> None:
        """Count what a model's answer came to, with the next flush: that which puts the answer on record."""
        self._unsaved_calls.append(call)

    @property
    def unsaved_steps(self) -> int:
        return len(self._unsaved_steps)

    def unsaved(self, **what: Any) -> Change:
        """What has not been written, and `what` comes with it; from now on it counts as written."""
        change = Change(
            self._claimed.pk,
            self._claimed.lease,
            self._claimed.parent_id,
            steps=list(self._unsaved_steps.values()),
            journal=self._unsaved_journal,
            model_calls=self._unsaved_calls,
            response=self.response,
            **what,
        )
        self._unsaved_steps, self._unsaved_journal, self._unsaved_calls, self.response = {}, [], [], None
        return change


def _origin(step: Step) -> dict[str, Any]:
    """The fields that say which delivery a step is."""
    names = ("execution_id", "key", "scope", "parents", "listener", "block", "from_listener", "input")
    return {name: getattr(step, name) for name in names}

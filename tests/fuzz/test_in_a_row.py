"""A user's made-up requests that follow from each other: creating, reading, changing and deleting in any order."""

from typing import Any

import pytest
import schemathesis
from django.db import transaction
from hypothesis import settings as hypothesis_settings
from schemathesis.checks import use_after_free

from tests.fuzz.making_up import AS_ALICE, CHECKS, Known, made_up, schema

pytestmark = [pytest.mark.django_db, pytest.mark.fuzz]

STEPS = 20  # calls in a row
# Its answers feed so many others that schemathesis, which learns from answers, begins the second scenario as the first and goes
# on otherwise; hypothesis takes that for flaky. (Its own runner ends there, and says nothing.)
NOT_FOLLOWED = "/api/v1/budgets"


def test_calls_that_go_on_with_what_earlier_ones_gave_are_answered_as_the_document_says(known: Known) -> None:
    """Schemathesis infers which operation's answer feeds which."""
    followed = schema.exclude(path=NOT_FOLLOWED, method="POST")

    class Workflow(followed.as_state_machine()):  # type: ignore[misc]
        def setup(self) -> None:
            self.before = transaction.savepoint()  # each scenario begins with the same rows, as hypothesis expects

        def teardown(self) -> None:
            transaction.savepoint_rollback(self.before)

        def step(self, input: Any) -> Any:
            if not input.is_applied:  # nothing that was answered is in it
                input.case.path_parameters = known.fill(input.case.path_parameters)
            return super().step(input)

        def get_call_kwargs(self, case: schemathesis.Case) -> dict[str, Any]:
            return {"headers": AS_ALICE}

        def validate_response(self, response: Any, case: schemathesis.Case, **kwargs: Any) -> None:
            case.validate_response(response, checks=[*CHECKS, use_after_free], **kwargs)

    Workflow.run(settings=hypothesis_settings(made_up, stateful_step_count=STEPS))

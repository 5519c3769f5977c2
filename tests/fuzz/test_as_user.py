"""A user's made-up requests find no 5xx and no answer that the OpenAPI document does not give."""

import pytest
import schemathesis

from tests.fuzz.making_up import AS_ALICE, CHECKS, Known, made_up, schema

pytestmark = [pytest.mark.django_db, pytest.mark.fuzz]


@schema.parametrize()
@made_up
def test_a_made_up_request_is_answered_as_the_document_says(case: schemathesis.Case, known: Known) -> None:
    case.path_parameters = known.fill(case.path_parameters)
    case.call_and_validate(headers=AS_ALICE, checks=CHECKS)

"""Made-up requests without a token are refused, and as the OpenAPI document says."""

import pytest
import schemathesis
from hypothesis import Phase
from hypothesis import settings as hypothesis_settings
from schemathesis.checks import ignored_auth

from tests.fuzz.making_up import CHECKS, Known, is_uuid, made_up, schema

pytestmark = [pytest.mark.django_db, pytest.mark.fuzz]


@schema.parametrize()
@hypothesis_settings(made_up, phases=[Phase.generate])  # the edges of the types are asked as a user
def test_a_made_up_request_of_nobodys_is_refused_as_the_document_says(case: schemathesis.Case, known: Known) -> None:
    case.path_parameters = known.fill(case.path_parameters)
    case.headers.pop("Authorization", None)
    response = case.call_and_validate(checks=[check for check in CHECKS if check is not ignored_auth])
    security = case.operation.definition.raw.get("security", [])
    if security and {} not in security:
        # 400: it could not even be read; 404: an id of the wrong form is no path of this server's
        no_path = any(not is_uuid(value) for value in case.path_parameters.values())
        assert response.status_code in {400, 401, 405, 406} | ({404} if no_path else set()), response.status_code

"""Hostile requests, made up by schemathesis from the OpenAPI document: what the tests of them have in common.

(Negative data is not always refused here, by contract: unknown keys at the top of a body are ignored.)

`BLOX_FUZZ_CASES` says how many are made up for each operation, beside the document's examples and the edges of its types: a few
in CI, 500 with `make fuzz`.
"""

import os
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import schemathesis
from django.core.wsgi import get_wsgi_application
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from schemathesis.checks import (
    content_type_conformance,
    ignored_auth,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.openapi import document

CASES = int(os.environ.get("BLOX_FUZZ_CASES", "4"))
CHECKS = [
    *(not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance),
    *(response_headers_conformance, ignored_auth),
]
AS_ALICE = {"Authorization": "Bearer dev:alice@shop.example"}
# Does not end by itself: tests/executions/test_events.py.
STREAMS = "/api/v1/flows/{flowId}/executions/{executionId}/events"

schema = schemathesis.openapi.from_dict(document()).exclude(path=STREAMS, method="GET")
schema.app = get_wsgi_application()

made_up = hypothesis_settings(
    max_examples=CASES,
    deadline=None,
    derandomize=CASES < 100,  # CI asks the same each time; a long run asks something new
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@dataclass
class Known:
    """Rows that are there, so that made-up requests get past the 404."""

    ids: dict[str, str]

    def fill(self, parameters: dict[str, Any] | None) -> dict[str, Any]:
        """Ids of the right form become those of real rows; malformed ones stay as they are."""
        named = parameters or {}
        return {name: self.ids.get(name, value) if is_uuid(value) else value for name, value in named.items()}


def is_uuid(value: Any) -> bool:
    try:
        return bool(UUID(str(value)))
    except ValueError:
        return False

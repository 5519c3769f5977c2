"""What a webhook that waits for the result is answered: the flow's output, or what its respond block says.

The flow's author decides what stands in such an answer, and it comes from the host on which operators sign in. So it
is sandboxed: no script in it runs as this site's. (Which headers it may have, `blox.respond` says.)
"""

import json
from typing import Any
from uuid import UUID

from django.http import HttpResponse

from bloxserver.core import json_text
from executions.models import Execution, ExecutionStatus
from triggers.errors import ExecutionFailed

JSON_TYPE = "application/json"
NO_BODY = frozenset({204, 205, 304})


def accepted(execution_id: UUID, message: str = "The execution is accepted and will run.") -> HttpResponse:
    return _sandboxed(
        json.dumps({"status": "accepted", "executionId": str(execution_id), "message": message}), JSON_TYPE, status=202
    )


def result(execution: Execution) -> HttpResponse:
    """The answer of an execution that has ended.

    A respond block goes before the output, also when the flow failed after it. Raises `ExecutionFailed` (502), which
    tells the caller nothing of the cause: that is the owner's to read.
    """
    if execution.payload.response is not None:
        return _said(json_text.loads(execution.payload.response))
    if execution.status != ExecutionStatus.SUCCESS:
        raise ExecutionFailed(
            "The flow did not finish successfully; its execution says why.",
            details={"executionId": str(execution.pk), "status": execution.status},
        )
    return _sandboxed(execution.payload.output or "null", JSON_TYPE, status=200)


def _said(response: dict[str, Any]) -> HttpResponse:
    """`{status, headers, body}`: text goes out as it is, anything else as JSON."""
    headers, body, status = response["headers"], response["body"], response["status"]
    is_text = isinstance(body, str)
    text = body if is_text else "" if body is None else json_text.dumps(body)
    answer = _sandboxed(
        "" if status in NO_BODY else text, "text/plain; charset=utf-8" if is_text else JSON_TYPE, status=status
    )
    for name, value in headers.items():
        answer[name] = value
    return answer


def _sandboxed(text: str, content_type: str, *, status: int) -> HttpResponse:
    answer = HttpResponse(text.encode(errors="replace"), content_type=content_type, status=status)
    answer["Content-Security-Policy"] = "sandbox"
    return answer

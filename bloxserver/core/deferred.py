"""Answers that are not known yet.

A view that has nothing to do but wait for work that is done in batches can hand its request over and hold no thread.
Where the server can take that (`bloxserver.rsgi` says so in the request's environment), it answers by a `Deferred`;
anywhere else (another WSGI server, a test client) it does the work itself.
"""

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from django.http import HttpRequest, HttpResponse

CAN_DEFER = "blox.can_defer"  # the key in the WSGI environment

# An answer, or what is left to do for it, which may wait and so needs a thread.
Result: TypeAlias = HttpResponse | Callable[[], HttpResponse]


class Deferred(HttpResponse):
    """Goes through the middleware in the place of an answer, and becomes it: what middleware adds is kept."""

    def __init__(self, future: "asyncio.Future[Result]") -> None:
        super().__init__()
        self.future = future

    def become(self, answer: HttpResponse) -> None:
        self.status_code = answer.status_code
        self.content = answer.content
        for name, value in answer.items():
            self[name] = value
        self["Content-Length"] = str(len(answer.content))


def can_defer(request: HttpRequest) -> bool:
    return CAN_DEFER in request.META


def finished(result: Result) -> HttpResponse:
    return result if isinstance(result, HttpResponse) else result()

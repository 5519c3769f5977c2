"""One API request: who asks, in which version, whether it was asked before, and what is answered."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.stripe_server.endpoints import ENDPOINTS
from tests.stripe_server.errors import StripeError, refused
from tests.stripe_server.forms import decode
from tests.stripe_server.lists import rendered
from tests.stripe_server.params import check
from tests.stripe_server.world import API_VERSION, Obj, World, new_id

TEST_KEYS = ("sk_test_", "rk_test_")


@dataclass(slots=True)
class LoggedRequest:
    """One request, as it came in. `status` is 0 while it has no answer, or when the answer was cut off."""

    method: str
    path: str
    params: dict[str, Any]  # decoded, all leaves text
    headers: dict[str, str]  # names in lower case
    began: float  # seconds since the epoch
    status: int = 0
    replayed: bool = False  # answered from an idempotency key
    id: str = field(default_factory=lambda: new_id("req"))

    @property
    def key(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")

    @property
    def idempotency_key(self) -> str | None:
        return self.headers.get("idempotency-key")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Obj
    replayed: bool = False


@dataclass(slots=True)
class Api:
    """Answers requests one at a time; the caller holds the account's lock."""

    world: World
    refused_keys: set[str] = field(default_factory=set)
    _answered: dict[str, tuple[str, Answer]] = field(default_factory=dict)  # by idempotency key

    def answer(self, request: LoggedRequest) -> Answer:
        try:
            self._authenticate(request)
            self._check_version(request)
            return self._once(request)
        except StripeError as refusal:
            return Answer(refusal.status, refusal.body)

    def _authenticate(self, request: LoggedRequest) -> None:
        if not request.key:
            message = "You did not provide an API key. You need to provide your API key in the Authorization header, "
            raise refused(message + "using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').", status=401)
        if not request.key.startswith(TEST_KEYS) or request.key in self.refused_keys:
            hidden = request.key[:8] + "*" * 8 + request.key[-4:]
            raise refused(f"Invalid API Key provided: {hidden}", status=401)

    def _check_version(self, request: LoggedRequest) -> None:
        version = request.headers.get("stripe-version", API_VERSION)
        if version != API_VERSION:
            raise refused(f"Invalid Stripe API version: {version}")

    def _once(self, request: LoggedRequest) -> Answer:
        """A POST with a known key gets the answer that was given then.

        As at Stripe, what is refused before the endpoint begins (unknown or wrong parameters) is not remembered.
        """
        key = request.idempotency_key
        if key is None or request.method != "POST":
            return self._carry_out(self._prepared(request), request)
        asked = json.dumps([request.method, request.path, request.params], sort_keys=True)
        if key in self._answered:
            return self._replayed(key, asked)
        answer = self._carry_out(self._prepared(request), request)
        self._answered[key] = asked, answer
        return answer

    def _replayed(self, key: str, asked: str) -> Answer:
        before, answer = self._answered[key]
        if before != asked:
            message = (
                "Keys for idempotent requests can only be used with the same parameters they were first used with. "
            )
            message += f"Try using a key other than '{key}' if you meant to execute a different request."
            raise StripeError(400, "idempotency_error", message)
        return Answer(answer.status, answer.body, replayed=True)

    def _prepared(self, request: LoggedRequest) -> Callable[[], Obj]:
        """The endpoint's work with its parameters checked, ready to be done."""
        for endpoint in ENDPOINTS:
            if (ids := endpoint.match(request.method, request.path)) is not None:
                params = check(endpoint.params, request.params)
                return lambda: rendered(self.world, endpoint.answer(self.world, params, *ids), params.get("expand", []))
        message = f"Unrecognized request URL ({request.method}: {request.path}). "
        raise refused(message + "Please see https://stripe.com/docs or contact support.", status=404)

    def _carry_out(self, work: Callable[[], Obj], request: LoggedRequest) -> Answer:
        self.world.request = {"id": request.id, "idempotency_key": request.idempotency_key}
        try:
            return Answer(200, work())
        except StripeError as refusal:
            return Answer(refusal.status, refusal.body)
        finally:
            self.world.request = {"id": None, "idempotency_key": None}


def params_of(query: str, body: str) -> dict[str, Any]:
    return decode(query) | decode(body)

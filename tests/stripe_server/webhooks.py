"""Events on their way to the receiver: signed, in order, tried again, and noted."""

import hashlib
import hmac
import json
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock, RLock
from typing import Literal

from tests.stripe_server.world import Obj

Receiver = str | Callable[[bytes, dict[str, str]], int]
Order = Literal["given", "reversed"]
NOBODY = 0  # the status of a delivery that got no answer


@dataclass(frozen=True, slots=True)
class Delivery:
    event: str  # its id
    type: str
    status: int  # what the receiver answered, `NOBODY` where it did not
    signature: str
    body: str


def sign(payload: bytes | str, secret: str, timestamp: int | None = None) -> str:
    """The `Stripe-Signature` of a body: HMAC-SHA256 over `timestamp.body`; by default signed now."""
    body = payload.encode() if isinstance(payload, str) else payload
    at = int(time.time()) if timestamp is None else timestamp
    mac = hmac.new(secret.encode(), b"%d.%s" % (at, body), hashlib.sha256)
    return f"t={at},v1={mac.hexdigest()}"


@dataclass(slots=True)
class Courier:
    """Delivers to a URL, or to a function (body, headers) -> status, which is called in the thread that delivers.

    Receivers check the signature's time against their own clock, so it is signed with the machine's time, wherever
    the server's clock stands.
    """

    secret: str = "whsec_stand_in"
    receiver: Receiver | None = None
    held: bool = False
    deliveries: list[Delivery] = field(default_factory=list)
    waiting: deque[Obj] = field(default_factory=deque)
    undelivered: list[Obj] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)
    _turn: RLock = field(default_factory=RLock)  # one event at a time, in order

    def publish(self, event: Obj) -> None:
        """Take an event along; those that happen while there is no receiver are sent to nobody."""
        with self._lock:
            if self.receiver is not None:
                self.waiting.append(event)

    def drop(self) -> None:
        with self._lock:
            self.waiting.clear()
            self.undelivered.clear()

    def flush(self) -> None:
        """Deliver what waits; returns when nothing does, or at once while webhooks are held."""
        with self._turn:
            while (event := self._next()) is not None:
                if not self.send(event):
                    self.undelivered.append(event)

    def _next(self) -> Obj | None:
        with self._lock:
            ready = self.waiting and not self.held and self.receiver is not None
            return self.waiting.popleft() if ready else None

    def redeliver(self) -> None:
        """Try what was not answered with 2xx once more."""
        with self._turn:
            again, self.undelivered = self.undelivered, []
            self.undelivered += [event for event in again if not self.send(event)]

    def send(self, event: Obj) -> bool:
        """One delivery; true if the receiver took it."""
        body = json.dumps(event, indent=2).encode()
        signature = sign(body, self.secret)
        headers = {"Content-Type": "application/json; charset=utf-8", "Stripe-Signature": signature}
        status = self._post(body, {**headers, "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)"})
        self.deliveries.append(Delivery(event["id"], event["type"], status, signature, body.decode()))
        taken = 200 <= status < 300
        event["pending_webhooks"] = 0 if taken else 1
        return taken

    def _post(self, body: bytes, headers: dict[str, str]) -> int:
        if self.receiver is None:
            return NOBODY
        if callable(self.receiver):
            return self.receiver(body, headers)
        request = urllib.request.Request(self.receiver, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return int(response.status)
        except urllib.error.HTTPError as refusal:
            return refusal.code
        except OSError:
            return NOBODY


def arranged(events: Sequence[Obj], order: Order, times: int) -> list[Obj]:
    found = list(events) if order == "given" else list(reversed(events))
    return found * times

"""The server itself, and the controls that a test plays time, people and networks with."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from http.server import ThreadingHTTPServer
from threading import RLock, Thread
from typing import Any, Self

from tests.stripe_server import webhooks
from tests.stripe_server.api import Answer, Api, LoggedRequest
from tests.stripe_server.billing.course import next_happening
from tests.stripe_server.clock import DAY, HOUR, Clock
from tests.stripe_server.errors import refused
from tests.stripe_server.http import Faults, Handler
from tests.stripe_server.objects import checkout, customers
from tests.stripe_server.webhooks import Courier, Delivery, Order, Receiver
from tests.stripe_server.world import Obj, Settings, World, public


class StripeServer(ThreadingHTTPServer):
    """See the package's docstring for how it is used; `now` makes the clock stand there until it is moved."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, port: int = 0, *, now: datetime | None = None, webhook_url: Receiver | None = None) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.courier = Courier(receiver=webhook_url)
        self.world = World(Clock(now), self.courier.publish)
        self.api = Api(self.world)
        self.faults = Faults()
        self._account = RLock()  # whoever reads or changes the world
        self._log: list[LoggedRequest] = []

    def __enter__(self) -> Self:
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    # What the handler asks.

    def note(self, request: LoggedRequest) -> None:
        with self._account:
            self._log.append(request)

    def answer(self, request: LoggedRequest) -> Answer:
        """Carry a request out; its events go out in a thread of their own, to a receiver that is a URL."""
        with self._account:
            self._bring_about(self.world.now)
            answer = self.api.answer(request)
        if isinstance(self.courier.receiver, str) and self.courier.waiting:
            Thread(target=self.courier.flush, daemon=True).start()
        return answer

    def control(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a control by name, with and for JSON."""
        if name not in CONTROLS:
            raise refused(f"There is no control {name}.", status=404)
        found = getattr(self, name)
        said = found(*args, **kwargs) if callable(found) else found
        return [asdict(each) for each in said] if name in ("log", "deliveries") else said

    # Witness.

    @property
    def log(self) -> list[LoggedRequest]:
        """All API requests so far, in the order in which they came in."""
        with self._account:
            return list(self._log)

    @property
    def events(self) -> list[Obj]:
        """All events so far, oldest first."""
        with self._account:
            return [public(each) for each in self.world.all("event")]

    @property
    def deliveries(self) -> list[Delivery]:
        """All webhooks that were sent, in order, with what the receiver answered."""
        return list(self.courier.deliveries)

    def objects(self, kind: str) -> list[Obj]:
        """All objects of a kind (`customer`, `billing.meter_event`), oldest first."""
        with self._account:
            return [public(each) for each in self.world.all(kind)]

    # Time.

    @property
    def now(self) -> int:
        """The server's time, in seconds since the epoch."""
        return self.world.now

    def advance(self, *, days: float = 0, hours: float = 0, seconds: int = 0) -> None:
        """Move the clock on; what falls due happens in its order, and its webhooks go out before the next thing does."""
        self.advance_to(self.now + int(days * DAY + hours * HOUR) + seconds)

    def advance_to(self, moment: datetime | int) -> None:
        target = int(moment.timestamp()) if isinstance(moment, datetime) else moment
        while self._step(target):
            self.courier.flush()
        with self._account:
            self.world.clock.move_to(target)
        self.courier.flush()

    def _step(self, until: int) -> bool:
        with self._account:
            happening = next_happening(self.world, until)
            if happening is not None:
                when, _, do = happening
                self.world.clock.move_to(when)
                do()
            return happening is not None

    def _bring_about(self, until: int) -> None:
        while self._step(until):
            pass

    # People.

    def complete_checkout(self, session_id: str, *, email: str = "", name: str = "", card: bool = True) -> Obj:
        """Pay, or begin the trial, as the person on the page; gives the completed session.

        Raises `StripeError` where the page would not let them: a refused card, or none where one is asked for.
        """
        with self._account:
            session = public(checkout.complete(self.world, session_id, email=email, name=name, card=card))
        self.courier.flush()
        return session

    def add_card(self, customer: str) -> str:
        """The customer enters a card in the portal: it becomes the default for invoices. Gives its id."""
        with self._account:
            found = customers.living(self.world, customer)
            method = customers.attach_card(self.world, found)
            customers.update(self.world, {"invoice_settings": {"default_payment_method": method["id"]}}, customer)
        self.courier.flush()
        return str(method["id"])

    def remove_card(self, customer: str) -> None:
        """The customer takes the card away in the portal: nothing is left to charge."""
        with self._account:
            customers.living(self.world, customer)["invoice_settings"]["default_payment_method"] = None
            for subscription in self.world.all("subscription"):
                if subscription["customer"] == customer:
                    subscription["default_payment_method"] = None

    def card_declines(self, customer: str) -> None:
        with self._account:
            self.world.declining.add(customer)

    def card_works(self, customer: str) -> None:
        with self._account:
            self.world.declining.discard(customer)

    # The account's settings.

    def configure(self, **settings: Any) -> None:
        """`retry_days`, `after_retries` ("cancel", "unpaid", "past_due"), `upcoming_days`, `last_waits`."""
        with self._account:
            for name, value in settings.items():
                if name not in Settings.__slots__:
                    raise refused(f"There is no setting {name}.")
                setattr(self.world.settings, name, value)

    # Webhooks.

    @property
    def webhook_url(self) -> Receiver | None:
        return self.courier.receiver

    @webhook_url.setter
    def webhook_url(self, receiver: Receiver | None) -> None:
        self.courier.receiver = receiver

    @property
    def webhook_secret(self) -> str:
        return self.courier.secret

    def send_webhooks_to(self, url: str | None, secret: str | None = None) -> None:
        self.courier.receiver = url
        self.courier.secret = secret or self.courier.secret

    def hold_webhooks(self) -> None:
        """Keep events back until `release_webhooks`, or until they are chosen with `deliver`."""
        self.courier.held = True

    def release_webhooks(self) -> None:
        self.courier.held = False
        self.courier.flush()

    def drop_webhooks(self) -> None:
        """Lose what waits or was refused: `/v1/events` alone still knows of it."""
        self.courier.drop()

    def flush(self) -> None:
        """Deliver what waits, in this thread; needed after API requests where the receiver is a function."""
        self.courier.flush()

    def redeliver(self) -> None:
        """Stripe's retry: send again what was not answered with 2xx."""
        self.courier.redeliver()

    def deliver(self, events: Sequence[str | Obj], *, order: Order = "given", times: int = 1) -> list[int]:
        """Send these (events, or their ids) now, again or in another order, also while held; gives the statuses."""
        with self._account:
            chosen = [self.world.get("event", each if isinstance(each, str) else each["id"]) for each in events]
        before = len(self.courier.deliveries)
        for event in webhooks.arranged(chosen, order, times):
            self.courier.send(event)
        return [each.status for each in self.courier.deliveries[before:]]

    def sign(self, payload: bytes | str, secret: str | None = None, timestamp: int | None = None) -> str:
        return webhooks.sign(payload, secret or self.courier.secret, timestamp)

    # Failures.

    def fail_next(self, requests: int = 1, status: int = 500, *, after: int = 0) -> None:
        """Answer the next requests, or those after some others, with 500 or 429, and do nothing."""
        self.faults.fail(requests, status, after)

    def cut_next(self, requests: int = 1, *, after: int = 0) -> None:
        """Carry the next requests out, or those after some others, and hang up instead of answering."""
        self.faults.cut(requests, after)

    def slow(self, seconds: float) -> None:
        """Wait before every answer from now on; 0 ends it."""
        self.faults.delay = seconds

    def refuse_key(self, key: str) -> None:
        """Answer 401 to the key from now on."""
        self.api.refused_keys.add(key)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a client that went away; some tests are about that
            super().handle_error(request, client_address)


CONTROLS = frozenset(
    """
    add_card advance advance_to card_declines card_works complete_checkout configure cut_next deliver deliveries
    drop_webhooks events fail_next flush hold_webhooks log now objects redeliver refuse_key release_webhooks
    remove_card send_webhooks_to sign slow webhook_secret
    """.split()
)

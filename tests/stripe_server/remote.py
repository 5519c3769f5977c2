"""A stand-in that runs in another process."""

import json
import urllib.error
import urllib.request
from datetime import datetime
from typing import Any

from tests.stripe_server.api import LoggedRequest
from tests.stripe_server.errors import StripeError
from tests.stripe_server.server import CONTROLS
from tests.stripe_server.webhooks import Delivery
from tests.stripe_server.world import Obj

VALUES = ("events", "now", "webhook_secret")  # read without a call


class RemoteStripeServer:
    """Has the controls of `StripeServer`, each a request to `/_control/NAME`; a refusal is raised as `StripeError`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.host = url.removeprefix("http://")

    @property
    def log(self) -> list[LoggedRequest]:
        return [LoggedRequest(**each) for each in self._ask("log")]

    @property
    def deliveries(self) -> list[Delivery]:
        return [Delivery(**each) for each in self._ask("deliveries")]

    def __getattr__(self, name: str) -> Any:
        if name not in CONTROLS:
            raise AttributeError(name)
        if name in VALUES:
            return self._ask(name)
        return lambda *args, **kwargs: self._ask(name, *args, **kwargs)

    def _ask(self, name: str, *args: Any, **kwargs: Any) -> Any:
        content = json.dumps({"args": args, "kwargs": kwargs}, default=_plain).encode()
        try:
            with urllib.request.urlopen(f"{self.url}/_control/{name}", content, timeout=60) as response:
                return json.load(response)["result"]
        except urllib.error.HTTPError as refusal:
            error: Obj = json.load(refusal)["error"]
            kind, message = error.pop("type"), error.pop("message")
            error.pop("doc_url", None)
            raise StripeError(refusal.code, kind, message, **error) from None


def _plain(value: Any) -> int:
    if isinstance(value, datetime):
        return int(value.timestamp())
    raise TypeError(f"{value!r} does not go over the wire")

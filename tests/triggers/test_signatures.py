"""Webhooks that take signed calls only: GitHub, Stripe, Slack and Standard Webhooks, each by its own published rules."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import Client
from rest_framework.test import APIClient
from standardwebhooks.webhooks import Webhook

from accounts.models import User
from bloxserver.api.throttling import limiter
from executions.models import Execution
from flows.models import Flow
from flows.services import set_secret, stop_flow
from tests.triggers.conftest import post
from triggers.models import Delivery, Trigger

pytestmark = pytest.mark.once

BODY = '{"a":  "é"}'  # bytes that no JSON writer would make again
SECRET = "it's a secret, a b"
STANDARD = "whsec_" + base64.b64encode(b"k" * 24).decode()
SCHEMES = ["github", "stripe", "slack", "standard"]


@pytest.fixture(autouse=True)
def _uncounted() -> None:
    limiter().reset()


def sign(scheme: str, body: str = BODY, *, secret: str = "", late: float = 0, also: str = "") -> dict[str, str]:
    """The headers of a call that was signed `late` seconds ago; `also` is another signature beside it, where that may be."""
    stamp = int(time.time() - late)

    def mac(text: str) -> str:
        return hmac.new((secret or SECRET).encode(), text.encode(), hashlib.sha256).hexdigest()

    match scheme:
        case "github":
            return {"x_hub_signature_256": f"sha256={mac(body)}"}
        case "stripe":
            return {"stripe_signature": f"t={stamp}," + also + f"v1={mac(f'{stamp}.{body}')},v0=other"}
        case "slack":
            return {"x_slack_signature": f"v0={mac(f'v0:{stamp}:{body}')}", "x_slack_request_timestamp": str(stamp)}
        case _:
            key = base64.b64decode((secret or STANDARD).removeprefix("whsec_"))
            value = base64.b64encode(hmac.new(key, f"m-1.{stamp}.{body}".encode(), hashlib.sha256).digest()).decode()
            return {"webhook_id": "m-1", "webhook_timestamp": str(stamp), "webhook_signature": also + f"v1,{value}"}


@pytest.fixture
def signed(make_trigger: Callable[..., Trigger], alice: User) -> Callable[[str], Trigger]:
    def make(scheme: str, value: str = "") -> Trigger:
        set_secret(owner=alice, flow=None, name="HOOK", value=value or (STANDARD if scheme == "standard" else SECRET))
        return make_trigger("webhook", signature={"scheme": scheme, "secret": "HOOK"})

    return make


Signed = Callable[..., Trigger]


def refused(answer: Any) -> str:
    """The message for the caller; nothing was run or kept."""
    assert (answer.status_code, answer.json()["code"]) == (401, "bad_signature")
    assert not Execution.objects.exists()
    row = Delivery.objects.latest("received_at")
    assert (row.verdict, row.code, row.request) == ("bad_signature", "bad_signature", "")
    message: str = answer.json()["message"]
    return message


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_signed_call_is_accepted(caller: Client, signed: Signed, scheme: str) -> None:
    assert post(caller, signed(scheme), BODY, **sign(scheme)).status_code == 202


@pytest.mark.parametrize("scheme", SCHEMES)
def test_another_body_or_another_secret_is_refused(caller: Client, signed: Signed, scheme: str) -> None:
    webhook = signed(scheme)
    assert "does not match" in refused(post(caller, webhook, BODY + " ", **sign(scheme)))
    other = base64.b64encode(b"o" * 24).decode()
    assert "does not match" in refused(post(caller, webhook, BODY, **sign(scheme, secret=other)))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_call_without_a_signature_is_told_which_header_is_missing(
    caller: Client, signed: Signed, scheme: str
) -> None:
    message = refused(post(caller, signed(scheme), BODY))
    name = {"github": "x-hub-signature-256", "stripe": "stripe-signature", "slack": "x-slack-signature"}
    assert name.get(scheme, "webhook-id") in message


@pytest.mark.parametrize("late", [310, -310])
@pytest.mark.parametrize("scheme", ["stripe", "slack", "standard"])
def test_a_time_stamp_too_far_away_is_refused(caller: Client, signed: Signed, scheme: str, late: float) -> None:
    assert "300 seconds" in refused(post(caller, signed(scheme), BODY, **sign(scheme, late=late)))


@pytest.mark.parametrize("late", [280, -280])
@pytest.mark.parametrize("scheme", ["stripe", "slack", "standard"])
def test_a_time_stamp_within_five_minutes_is_good(caller: Client, signed: Signed, scheme: str, late: float) -> None:
    assert post(caller, signed(scheme), BODY, **sign(scheme, late=late)).status_code == 202


@pytest.mark.parametrize(
    ("scheme", "also"), [("stripe", "v1=" + "0" * 64 + ","), ("standard", "v1,AAAA v1a,eA== v1 v1,a,b ")]
)
def test_one_of_several_signatures_is_enough(caller: Client, signed: Signed, scheme: str, also: str) -> None:
    assert post(caller, signed(scheme), BODY, **sign(scheme, also=also)).status_code == 202


@pytest.mark.parametrize("scheme", SCHEMES)
def test_two_secrets_are_good_while_one_follows_the_other(caller: Client, signed: Signed, scheme: str) -> None:
    new = base64.b64encode(b"n" * 24).decode()
    webhook = signed(scheme, f"{STANDARD if scheme == 'standard' else SECRET}\n{new}\n")
    assert post(caller, webhook, BODY, **sign(scheme)).status_code == 202
    assert post(caller, webhook, "[2]", idempotency_key="2", **sign(scheme, "[2]", secret=new)).status_code == 202


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("junk", ["", " ", "é", "=", ",,,", "t=1", "v1=", "t=,v1=", "sha256=", "v0=\xff", "1" * 5000])
def test_no_header_is_an_error_of_ours(caller: Client, signed: Signed, scheme: str, junk: str) -> None:
    webhook, good = signed(scheme), sign(scheme)
    for name in good:
        if name != "webhook_id":
            refused(post(caller, webhook, BODY, **{**good, name: junk}))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_body_of_any_bytes_is_verified_or_refused(caller: Client, signed: Signed, scheme: str) -> None:
    answer = post(caller, signed(scheme), b"\xff\x00", "application/octet-stream", **sign(scheme))
    assert answer.status_code == 401


def test_what_svix_signs_is_a_standard_webhook(caller: Client, signed: Signed) -> None:
    webhook = signed("standard")
    headers = {name.replace("webhook", "svix"): value for name, value in sign("standard").items()}
    assert post(caller, webhook, BODY, **headers).status_code == 202


def test_the_standard_scheme_takes_what_the_reference_library_signs(caller: Client, signed: Signed) -> None:
    now = datetime.now(tz=UTC)
    headers = {
        "webhook_id": "m-2",
        "webhook_timestamp": str(int(now.timestamp())),
        "webhook_signature": Webhook(STANDARD).sign("m-2", now, BODY),
    }
    assert post(caller, signed("standard"), BODY, **headers).status_code == 202


def test_a_missing_secret_fails_closed_and_only_the_owner_is_told(
    caller: Client, make_trigger: Callable[..., Trigger]
) -> None:
    webhook = make_trigger("webhook", signature={"scheme": "github", "secret": "GONE"})
    message = refused(post(caller, webhook, BODY, **sign("github")))
    assert message == "The signature cannot be checked."
    assert 'There is no secret "GONE"' in Delivery.objects.get().reason


@pytest.mark.parametrize(("scheme", "value"), [("standard", "not base64!"), ("standard", "whsec_"), ("github", "\n")])
def test_a_secret_that_cannot_sign_fails_closed(caller: Client, signed: Signed, scheme: str, value: str) -> None:
    message = refused(post(caller, signed(scheme, value), BODY, **sign(scheme)))
    assert value.strip() not in message or not value.strip()
    assert "secret" in Delivery.objects.get().reason


def test_the_signature_is_checked_before_the_body_is_parsed_and_after_its_size(
    caller: Client, signed: Signed, settings: Any
) -> None:
    webhook = signed("github")
    refused(post(caller, webhook, "{", **sign("github", "[")))
    assert post(caller, webhook, "{", **sign("github", "{")).json()["code"] == "invalid_json"
    settings.WEBHOOK_MAX_BYTES = 10
    assert post(caller, webhook, "x" * 11).status_code == 413


@pytest.mark.parametrize("good", [True, False])
def test_only_what_was_signed_is_kept_for_a_replay(caller: Client, signed: Signed, flow: Flow, good: bool) -> None:
    """Also of a call that was refused before its signature came up for a check."""
    webhook = signed("github")
    Trigger.objects.update(enabled=False)
    headers = sign("github") if good else sign("github", "other")
    assert post(caller, webhook, BODY, **headers).status_code == 404
    row = Delivery.objects.get()
    assert (row.verdict, row.replayable) == ("disabled", good)


def test_a_signed_call_to_a_stopped_flow_is_kept(caller: Client, signed: Signed, flow: Flow) -> None:
    webhook = signed("github")
    stop_flow(flow=flow)
    assert post(caller, webhook, BODY, **sign("github")).status_code == 409
    assert json.loads(Delivery.objects.get().request)["payload"] == BODY


def test_a_flows_own_secret_goes_before_its_tenants(
    caller: Client, signed: Signed, api: APIClient, alice: User, flow: Flow
) -> None:
    webhook = signed("github")
    set_secret(owner=alice, flow=flow, name="HOOK", value="of the flow")
    refused(post(caller, webhook, BODY, **sign("github")))
    assert post(caller, webhook, BODY, **sign("github", secret="of the flow")).status_code == 202

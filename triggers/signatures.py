"""Who signed a webhook's body: HMACs over the raw bytes, as four schemes define them. Pure: no Django, no database.

- GitHub: https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
- Stripe: https://docs.stripe.com/webhooks#verify-manually
- Slack: https://docs.slack.dev/authentication/verifying-requests-from-slack
- Standard Webhooks (and Svix, which it grew from): https://github.com/standard-webhooks/standard-webhooks

Every scheme that signs a time stamp has it within 300 seconds of now, on either side. GitHub's signs none.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Literal

from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook, WebhookVerificationError

from triggers.errors import BadSignature

Scheme = Literal["github", "stripe", "slack", "standard"]
TOLERANCE = 300  # seconds; of `standardwebhooks` too
MAX_SIGNATURES = 20  # in one header; providers send two while a secret is rotated
Headers = Mapping[str, str]  # by lower-case name


def verify(scheme: Scheme, *, secrets: Iterable[str], headers: Headers, body: bytes, now: datetime) -> None:
    """Any of `secrets` may have signed, so that an old one and a new one are both good while one follows the other.

    Raises `BadSignature` (401).
    """
    check, known = _CHECKS[scheme], list(secrets)
    if not known:
        raise BadSignature("The signature cannot be checked.", reason="The secret that should have signed is empty.")
    if not any(check(secret, headers, body, now) for secret in known):
        raise BadSignature("The signature does not match the body.")


def _github(secret: str, headers: Headers, body: bytes, now: datetime) -> bool:
    given = _header(headers, "x-hub-signature-256")
    return _matches(secret, body, [given.removeprefix("sha256=")])


def _stripe(secret: str, headers: Headers, body: bytes, now: datetime) -> bool:
    parts = [part.strip().partition("=") for part in _header(headers, "stripe-signature").split(",")]
    stamp = next((value for name, _, value in parts if name == "t"), "")
    _require_fresh(stamp, now)
    return _matches(secret, f"{stamp}.".encode() + body, [value for name, _, value in parts if name == "v1"])


def _slack(secret: str, headers: Headers, body: bytes, now: datetime) -> bool:
    given, stamp = _header(headers, "x-slack-signature"), _header(headers, "x-slack-request-timestamp")
    _require_fresh(stamp, now)
    return _matches(secret, f"v0:{stamp}:".encode() + body, [given.removeprefix("v0=")])


def _standard(secret: str, headers: Headers, body: bytes, now: datetime) -> bool:
    """By the reference library, which reads its own clock. Svix's older header names mean the same."""
    prefix = "webhook" if "webhook-id" in headers else "svix"
    names = ("id", "timestamp", "signature")
    given = {f"webhook-{name}": _header(headers, f"{prefix}-{name}", shown=f"webhook-{name}") for name in names}
    _require_fresh(given["webhook-timestamp"], now)
    versions = given["webhook-signature"].split()[:MAX_SIGNATURES]
    given["webhook-signature"] = " ".join(version for version in versions if version.count(",") == 1)
    try:
        signer = Webhook(secret)
    except (ValueError, EmptyWebhookSecretError) as error:  # not base64, or nothing behind its prefix
        raise BadSignature(
            "The signature cannot be checked.",
            reason='The stored secret is not one of Standard Webhooks: "whsec_" and base64.',
        ) from error
    try:
        signer.verify(body, given, json_parse=False)
    except (WebhookVerificationError, ValueError):  # what it cannot read: no base64, a body that is not UTF-8
        return False
    return True


_CHECKS: dict[Scheme, Callable[[str, Headers, bytes, datetime], bool]] = {
    "github": _github,
    "stripe": _stripe,
    "slack": _slack,
    "standard": _standard,
}


def _header(headers: Headers, name: str, *, shown: str = "") -> str:
    value = headers.get(name, "").strip()
    if not value:
        raise BadSignature(f"The header {shown or name} is missing: this webhook takes signed calls only.")
    return value


def _require_fresh(stamp: str, now: datetime) -> None:
    """Raises `BadSignature` for a time stamp (epoch seconds) that is not within `TOLERANCE` of `now`."""
    if not (stamp.isascii() and stamp.isdecimal() and len(stamp) <= 12):
        raise BadSignature("The signature's time stamp is not a number of seconds since 1970.")
    if abs(now.timestamp() - int(stamp)) > TOLERANCE:
        raise BadSignature(f"The signature's time stamp is more than {TOLERANCE} seconds away from now.")


def _matches(secret: str, signed: bytes, given: Iterable[str]) -> bool:
    """Whether one of `given` is the hexadecimal HMAC-SHA256 of `signed`, compared in constant time."""
    expected = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest().encode()
    return any(hmac.compare_digest(expected, value.strip().encode()) for value in list(given)[:MAX_SIGNATURES])

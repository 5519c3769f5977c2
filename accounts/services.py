"""Verbs over users and their access tokens. Each write says which constraint or condition makes it safe."""

import hashlib
import logging
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from accounts import clerk
from accounts.models import WEB_ADDRESS, AccessToken, Scope, Tier, User
from accounts.signals import tier_changed, user_deleted
from bloxserver.core.errors import InvalidInput

logger = logging.getLogger(__name__)

TOKEN_PREFIX = "blox_"
LAST_USED_RESOLUTION = timedelta(minutes=1)  # a busy token must not cost a write a request

PLACEHOLDER_DOMAIN = "@clerk.invalid"  # nobody may claim another subject's placeholder as an address


# Users. ----------------------------------------------------------------------------------------------------------
def get_or_create_dev_user(email: str) -> User:
    """The user of `dev:<email>`, made at first use. Raises `InvalidInput` for what is not an address.

    Two first uses at once: the unique constraint over the address lets one insert win, the other reads it.
    """
    email = _valid_email(email) or ""
    if not email:
        raise InvalidInput("`dev:` must be followed by an e-mail address.")
    user = User.objects.filter(email__iexact=email).first()
    if user is not None:
        return user
    try:
        with transaction.atomic():
            return User.objects.create_user(email)
    except IntegrityError:
        return User.objects.get(email__iexact=email)


def user_from_clerk_claims(claims: Mapping[str, Any]) -> User:
    """The user of a verified session token, made at the first sight of its subject.

    The address is the claim's, else Clerk's API's, else `<sub>@clerk.invalid` until the webhook brings it.
    """
    subject: str = claims["sub"]
    user = User.objects.filter(clerk_subject=subject).first()
    if user is not None:
        return user
    profile = _profile_of_claims(claims)
    if "email" not in profile and (record := clerk.fetch_user(subject)):
        profile = _profile_of_record(record)
    return _create_clerk_user(subject, profile)


def apply_clerk_event(event: Mapping[str, Any]) -> bool:
    """Applies `user.created`, `user.updated` or `user.deleted`; True if the event is one of these.

    Safe to repeat and in any order: an update makes a user that is not there, an older event changes nothing, and
    nothing revives a deleted subject. Raises `InvalidInput` when the event lacks its user.
    """
    kind, record = event.get("type"), event.get("data")
    if kind not in ("user.created", "user.updated", "user.deleted"):
        return False
    if not isinstance(record, dict):
        raise InvalidInput("The event has no user.", details={"data": ["Must be Clerk's record of the user."]})
    subject = record.get("id")
    if not isinstance(subject, str) or not 0 < len(subject) <= clerk.MAX_SUBJECT_LENGTH:
        raise InvalidInput("The event has no user id.", details={"data": ["`id` must be Clerk's user id."]})
    if kind == "user.deleted":
        _bury(subject)
    else:
        _update_clerk_user(subject, record)
    return True


def sign_in_name(request: Any, credentials: Mapping[str, Any] | None) -> str | None:
    """Under which name the admin's lock-out counts a failed sign-in: an address is one user's whatever its case."""
    name = credentials.get("username") if credentials else request.POST.get("username")
    return name.strip().lower()[:255] if isinstance(name, str) else None


def set_tier(*, user: User, tier: str) -> None:
    """Put the user on the tier, and tell those who count by it. Raises `InvalidInput` for an unknown tier.

    Of several at once that set the same, the condition of the UPDATE makes one the change.
    """
    if tier not in Tier.values:
        raise InvalidInput(f"There is no tier {tier!r}: choose one of {', '.join(Tier.values)}.")
    with transaction.atomic():
        if User.objects.filter(pk=user.pk).exclude(tier=tier).update(tier=tier):
            tier_changed.send(sender=User, user=user)
    user.tier = tier


def _create_clerk_user(subject: str, profile: dict[str, Any]) -> User:
    """Races end at the unique subject; an address that is another user's is not taken over, nor is sign-in refused."""
    emails = [profile.get("email"), subject + PLACEHOLDER_DOMAIN]
    for email in filter(None, emails):
        try:
            with transaction.atomic():
                return User.objects.create_user(**{**profile, "email": email, "clerk_subject": subject})
        except IntegrityError:
            if user := User.objects.filter(clerk_subject=subject).first():
                return user
            logger.warning("The address of Clerk's user %s belongs to another user: a placeholder stands in.", subject)
    raise AssertionError("unreachable: the placeholder is unique by its subject")


def _update_clerk_user(subject: str, record: dict[str, Any]) -> None:
    """The condition on `clerk_updated_at` keeps an older event from undoing a newer one, whatever their order."""
    profile, moment = _profile_of_record(record), _moment(record.get("updated_at"))
    user = User.objects.filter(clerk_subject=subject).first() or _create_clerk_user(subject, profile)
    current = User.objects.filter(pk=user.pk, deleted_at=None)
    if moment is not None:
        current = current.filter(Q(clerk_updated_at=None) | Q(clerk_updated_at__lte=moment))
        profile["clerk_updated_at"] = moment
    try:
        with transaction.atomic():
            current.update(**profile)
    except IntegrityError:
        logger.warning("The new address of Clerk's user %s belongs to another user: the old one stays.", subject)
        current.update(**{name: value for name, value in profile.items() if name != "email"})


def _bury(subject: str) -> None:
    """Leaves a tombstone without personal data, also for a subject not seen yet: its `created` may come later."""
    user = User.objects.filter(clerk_subject=subject).first() or _create_clerk_user(subject, {})
    with transaction.atomic():
        buried = User.objects.filter(pk=user.pk, deleted_at=None).update(
            deleted_at=timezone.now(),
            is_active=False,
            is_staff=False,
            is_superuser=False,
            email=subject + PLACEHOLDER_DOMAIN,  # frees the address: its owner may sign up again
            name=None,
            avatar_url=None,
        )
        if buried:
            AccessToken.objects.for_user(user).delete()
            user_deleted.send(sender=User, user=user)


def _profile_of_claims(claims: Mapping[str, Any]) -> dict[str, Any]:
    """What a session token says about its user, as fields of `User`; only what is there and valid."""
    picture = claims.get("picture") or claims.get("image_url")
    profile = {
        "email": _valid_email(claims.get("email")),
        "name": _text(claims.get("name")),
        "avatar_url": _url(picture),
    }
    return {name: value for name, value in profile.items() if value}


def _profile_of_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The same of Clerk's "User object". A name or picture that was taken away is None."""
    names = [_text(record.get(part)) for part in ("first_name", "last_name")]
    profile: dict[str, Any] = {
        "name": " ".join(filter(None, names))[:255] or None,
        "avatar_url": _url(record.get("image_url")),
    }
    if email := _valid_email(_primary_email(record)):
        profile["email"] = email
    return profile


def _primary_email(record: Mapping[str, Any]) -> Any:
    addresses = record.get("email_addresses")
    for address in addresses if isinstance(addresses, list) else []:
        if isinstance(address, dict) and address.get("id") == record.get("primary_email_address_id"):
            return address.get("email_address")
    return None


def _moment(milliseconds: Any) -> datetime | None:
    """Clerk's time stamps are milliseconds since the epoch."""
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, (int, float)):
        return None
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _valid_email(value: Any) -> str | None:
    try:
        validate_email(value)
    except (ValidationError, TypeError):
        return None
    if not isinstance(value, str) or len(value) > 254 or value.lower().endswith(PLACEHOLDER_DOMAIN):
        return None
    return User.objects.normalize_email(value)


def _text(value: Any) -> str | None:
    return value.strip()[:255] or None if isinstance(value, str) and "\x00" not in value else None


def _url(value: Any) -> str | None:
    try:
        WEB_ADDRESS(value)
    except ValidationError:
        return None
    return value if len(value) <= 2000 else None


# Access tokens. --------------------------------------------------------------------------------------------------
def create_access_token(
    *, user: User, name: str, scopes: list[str] | None = None, expires_at: datetime | None = None
) -> tuple[AccessToken, str]:
    """A new token of `user` and its secret, which is not kept: only its SHA-256 is.

    `scopes` default to all; `expires_at` None never expires. Raises `InvalidInput` for an unknown scope, none at all,
    or an expiry that has passed.
    """
    scopes = list(dict.fromkeys(Scope.values if scopes is None else scopes))
    if not scopes or set(scopes) - set(Scope.values):
        raise InvalidInput(
            f"Scopes must be some of: {', '.join(Scope.values)}.", details={"scopes": [f"Choose from {Scope.values}."]}
        )
    if expires_at is not None and expires_at <= timezone.now():
        raise InvalidInput("The expiry must lie in the future.", details={"expiresAt": ["Must lie in the future."]})
    secret = TOKEN_PREFIX + secrets.token_urlsafe(32)  # 256 bits
    token = AccessToken.objects.create(
        user=user, name=name, hint=secret[-4:], token_hash=_hash(secret), scopes=scopes, expires_at=expires_at
    )
    return token, secret


def authenticate_token(secret: str) -> AccessToken | None:
    """The token with this secret, with its user, expired or not; None if there is none. Notes its use.

    The look-up goes by hash, so its time tells nothing about secrets that nearly match.
    """
    token = AccessToken.objects.select_related("user").filter(token_hash=_hash(secret)).first()
    if token is not None:
        _note_use(token)
    return token


def _note_use(token: AccessToken) -> None:
    now = timezone.now()
    if token.last_used_at is None or token.last_used_at < now - LAST_USED_RESOLUTION:
        AccessToken.objects.filter(pk=token.pk).unused_since(now - LAST_USED_RESOLUTION).update(last_used_at=now)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()

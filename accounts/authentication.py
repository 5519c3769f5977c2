"""`Authorization: Bearer <token>`: a Clerk session token, an access token or, in development, `dev:<email>`."""

from django.conf import settings
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from accounts import clerk, services
from accounts.models import AccessToken, User
from bloxserver.core.errors import InvalidInput


class BearerAuthentication(BaseAuthentication):
    """`request.auth` is the `AccessToken`, or None for who signed in and is not held to scopes."""

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="api"'

    def authenticate(self, request: Request) -> tuple[User, AccessToken | None] | None:
        """None without the header. Raises `AuthenticationFailed` with what to change, `ClerkUnavailable` (503)."""
        header = request.META.get("HTTP_AUTHORIZATION", "")
        if not header.strip():
            return None
        scheme, _, token = header.strip().partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise AuthenticationFailed("The header must read `Authorization: Bearer <token>`.")
        user, access_token = _who(token)
        if not user.is_active or user.deleted_at is not None:
            raise AuthenticationFailed("This user has been deactivated or deleted.")
        request._request.api_user = user  # type: ignore[attr-defined]  # for the rate-limit headers of a 403
        return user, access_token


def _who(token: str) -> tuple[User, AccessToken | None]:
    if token.startswith(services.TOKEN_PREFIX):
        access_token = _access_token(token)
        return access_token.user, access_token
    if token.startswith("dev:"):
        return _dev_user(token.removeprefix("dev:")), None
    try:
        return services.user_from_clerk_claims(clerk.verify_session_token(token)), None
    except clerk.InvalidToken as error:
        raise AuthenticationFailed(str(error)) from error


def _access_token(secret: str) -> AccessToken:
    token = services.authenticate_token(secret)
    if token is None:
        raise AuthenticationFailed("The access token is unknown or was revoked: make a new one.")
    if token.expires_at is not None and token.expires_at <= timezone.now():
        raise AuthenticationFailed(
            f"The access token expired on {token.expires_at:%Y-%m-%d %H:%M} UTC: make a new one."
        )
    return token


def _dev_user(email: str) -> User:
    if not settings.BLOX_DEV_AUTH:
        raise AuthenticationFailed("`dev:` sign-in is for development only (BLOX_DEV_AUTH): send an access token.")
    try:
        return services.get_or_create_dev_user(email)
    except InvalidInput as error:
        raise AuthenticationFailed(error.message) from error

"""Misconfigurations of sign-in that would otherwise show as 401s in production."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

CLERK_SETTINGS = ("CLERK_JWKS_URL", "CLERK_ISSUER", "CLERK_AUTHORIZED_PARTIES")


@register
def clerk_is_set_up_wholly_or_not_at_all(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    missing = [name for name in CLERK_SETTINGS if not getattr(settings, name)]
    if not missing or len(missing) == len(CLERK_SETTINGS):
        return []
    hint = "Set all of CLERK_JWKS_URL, CLERK_ISSUER and CLERK_AUTHORIZED_PARTIES, or none of them."
    return [Error(f"Clerk sign-in is half configured: {', '.join(missing)} is empty.", hint=hint, id="accounts.E001")]

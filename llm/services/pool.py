"""What operators do with the pool. Every process has heard of a change after `endpoints.POOL_SECONDS`."""

from datetime import datetime

from cryptography.fernet import InvalidToken

from bloxserver.core.errors import DomainError
from llm.models import Provider
from llm.services.endpoints import forget_pool, pool_endpoint
from llm.services.keys import check_endpoint

LOST_KEY = "Its key is under none of BLOX_ENCRYPTION_KEYS: store it again."


def switch_provider(*, provider: Provider, on: bool) -> bool:
    """Takes it into the pool or out of it; what it is being asked goes on. False where it was so: the condition tells."""
    changed = Provider.objects.filter(pk=provider.pk, is_on=not on).update(is_on=on)
    forget_pool()
    return changed == 1


def check_provider(*, provider: Provider, now: datetime) -> str:
    """Asks it whether it takes its key, and keeps what came of it: "" when it does, else why not.

    It is not switched off: breakers do that for a while, and for good a person does. A result goes only to the key that was
    checked, so one that was set meanwhile is not blamed.
    """
    error = ""
    try:
        check_endpoint(pool_endpoint(provider))
    except InvalidToken:
        error = LOST_KEY
    except DomainError as refusal:
        error = refusal.message
    checked = Provider.objects.filter(pk=provider.pk, encrypted_key=provider.encrypted_key)
    checked.update(checked_at=now, error=error)
    return error

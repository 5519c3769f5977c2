"""Encryption at rest, for what must be read back: webhook tokens, stored secrets, users' keys."""

from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings


@lru_cache(maxsize=4)
def _fernet(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])


def encrypt(text: str) -> str:
    """`text` as a Fernet token under the newest of `BLOX_ENCRYPTION_KEYS`."""
    return _fernet(tuple(settings.BLOX_ENCRYPTION_KEYS)).encrypt(text.encode()).decode()


def decrypt(token: str) -> str:
    """The text behind `token`, whichever of the keys made it. Raises `cryptography.fernet.InvalidToken`."""
    return _fernet(tuple(settings.BLOX_ENCRYPTION_KEYS)).decrypt(token.encode()).decode()


def renewed(token: str) -> str | None:
    """The same text under the newest key; None where it is under that one already. Raises `InvalidToken`."""
    try:
        Fernet(settings.BLOX_ENCRYPTION_KEYS[0]).decrypt(token.encode())
    except InvalidToken:
        return encrypt(decrypt(token))
    return None

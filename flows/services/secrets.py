"""Secrets: what a block may be given as `secrets.NAME`. They are written, used and deleted, and never read back."""

from uuid import UUID

from cryptography.fernet import InvalidToken
from django.db.models import F, Q

from accounts.models import User
from bloxserver.core.crypto import decrypt, encrypt
from flows.errors import SecretUnavailable
from flows.models import Flow, Secret
from flows.services.stored import put


def set_secret(*, owner: User, flow: Flow | None, name: str, value: str) -> tuple[Secret, bool]:
    """Store `value`, encrypted, under `name`; the bool says whether the name is new.

    Raises `StoreLimitReached` (409).
    """
    return put(Secret, owner=owner, flow=flow, name=name, values={"encrypted_value": encrypt(value)})


def delete_secret(*, secret: Secret) -> None:
    secret.delete()


def secret_value(*, flow_id: UUID, user_id: UUID, name: str) -> str:
    """The secret `name` as that flow sees it: its own, else its tenant's.

    Raises `SecretUnavailable`, a `BlockError`, when there is none or it cannot be decrypted any more.
    """
    value = optional_secret(flow_id=flow_id, user_id=user_id, name=name)
    if value is None:
        here = f"PUT /api/v1/secrets/{name}"
        raise SecretUnavailable(
            f'There is no secret "{name}". Store it with {here}, or {here}?flow={flow_id} for this flow.'
        )
    return value


def optional_secret(*, flow_id: UUID, user_id: UUID, name: str) -> str | None:
    """As `secret_value`, but None where there is none. Raises `SecretUnavailable` when it cannot be decrypted."""
    rows = Secret.objects.filter(Q(flow=None) | Q(flow_id=flow_id), user_id=user_id, name=name)
    secret = rows.order_by(F("flow").asc(nulls_last=True)).first()
    if secret is None:
        return None
    try:
        return decrypt(secret.encrypted_value)
    except InvalidToken as error:
        raise SecretUnavailable(
            f'The secret "{name}" was encrypted with a key that this server no longer has; store it again.'
        ) from error

"""Encrypted columns: how they are told from others, and how all of them come under a new key."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cryptography.fernet import InvalidToken
from django.apps import apps
from django.db import models

from bloxserver.core.crypto import renewed

BATCH = 500  # rows in memory at once


class EncryptedField(models.TextField):
    """Holds a token of `bloxserver.core.crypto`, in Python too: plain text is only where somebody decrypts it.

    So a row that is printed, logged or dumped shows none, and one whose key is lost can still be loaded. `reencrypt` finds
    the columns that it has to renew by this class.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "editable": False})

    def deconstruct(self) -> Any:
        """To migrations it is the text column that it is in the database."""
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.TextField", args, kwargs


@dataclass(slots=True)
class Renewal:
    """What became of one column's tokens."""

    column: str
    renewed: int = 0
    current: int = 0  # under the newest key already
    changed: int = 0  # by somebody else, between our reading and our writing
    unreadable: list[Any] = field(default_factory=list)  # primary keys of what none of the keys opens


def renew_all() -> Iterator[Renewal]:
    """Brings every encrypted column of every app under the newest key, and tells of each when it is done.

    Safe beside a running server and beside itself: each row is its own statement, which writes only over the token that was
    read, so nothing that is stored meanwhile is undone and no lock is held. What is under the newest key is left alone.
    """
    for model in apps.get_models():
        for column in model._meta.concrete_fields:
            if isinstance(column, EncryptedField):
                yield _renew(model, column.attname)


def _renew(model: type[models.Model], name: str) -> Renewal:
    done = Renewal(f"{model._meta.label}.{name}")
    rows = model._base_manager.exclude(**{name: ""}).order_by("pk").values_list("pk", name)  # of deleted flows too
    batch = list(rows[:BATCH])
    while batch:
        for key, token in batch:
            _renew_row(model, name, key, token, done)
        batch = list(rows.filter(pk__gt=batch[-1][0])[:BATCH])
    return done


def _renew_row(model: type[models.Model], name: str, key: Any, token: str, done: Renewal) -> None:
    try:
        new = renewed(token)
    except InvalidToken:
        done.unreadable.append(key)
        return
    if new is None:
        done.current += 1
    elif model._base_manager.filter(pk=key, **{name: token}).update(**{name: new}):
        done.renewed += 1
    else:
        done.changed += 1

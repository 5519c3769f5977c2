"""Ids: UUID version 7, so that rows lie on disk, and sort, in the order in which they were made."""

import uuid

import uuid_utils


def new_id() -> uuid.UUID:
    """A new UUIDv7 (RFC 9562), as the standard library's type."""
    return uuid.UUID(int=uuid_utils.uuid7().int)

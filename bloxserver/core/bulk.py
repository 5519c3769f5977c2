"""Many rows in one statement, at little more than what they cost the database.

Django's `bulk_create` and `bulk_update` prepare each value of each row through their compilers, which costs five times
what the database takes. Here a statement is made once for a model and its columns. PostgreSQL gets all rows as one JSON
text, which Python makes and PostgreSQL reads faster than arrays; SQLite one prepared statement, run for each row.
Constraints, triggers and transactions are the database's, as ever.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any, TypeAlias
from uuid import UUID

from django.db import connection
from django.db.models import Field, Model

MAX_CHARACTERS = 16 * 1024 * 1024  # of rows in one statement, about: both sides hold all of it in memory

Column: TypeAlias = "Field[Any, Any]"
Row = Sequence[Any]


def insert(rows: Sequence[Model], *, ignore_conflicts: bool = False) -> None:
    """Insert instances of one model, every column as it stands in them."""
    if rows:
        _write(_insert(connection.vendor, type(rows[0]), "ON CONFLICT DO NOTHING" if ignore_conflicts else ""), rows)


def upsert(rows: Sequence[Model], *, unique: tuple[str, ...]) -> None:
    """The same; a row that agrees in `unique` (fields of a unique constraint) is replaced, all but its id."""
    if rows:
        _write(_upsert(connection.vendor, type(rows[0]), unique), rows)


def update(model: type[Model], rows: Sequence[Row], *, where: tuple[str, ...], set: tuple[str, ...]) -> int:
    """For each of `rows`, which are values of the fields `where` and then of `set`: set these where those are so.

    How many rows of the database that changed.
    """
    return _update(connection.vendor, model, where, set).run(rows) if rows else 0


@dataclass(frozen=True, slots=True)
class _Statement:
    sql: str
    columns: "list[Column]"
    vendor: str
    keys_last: int = 0  # how many values at the head of a row SQLite's placeholders want at its end

    def run(self, rows: Sequence[Row]) -> int:
        with connection.cursor() as cursor:
            if self.vendor != "postgresql":
                cursor.executemany(self.sql, [self._for_sqlite(row) for row in rows])
                return cursor.rowcount
            changed = 0
            for text in self._for_postgresql(rows):
                cursor.execute(self.sql, [text])
                changed += cursor.rowcount
            return changed

    def _for_postgresql(self, rows: Sequence[Row]) -> Iterator[str]:
        names = [column.column for column in self.columns]
        texts: list[str] = []
        size = 0
        for row in rows:
            texts.append(_encode(dict(zip(names, row, strict=True))))
            size += len(texts[-1])
            if size > MAX_CHARACTERS:
                yield f"[{','.join(texts)}]"
                texts, size = [], 0
        if texts:
            yield f"[{','.join(texts)}]"

    def _for_sqlite(self, row: Row) -> Row:
        values = [column.get_db_prep_save(value, connection) for column, value in zip(self.columns, row, strict=True)]
        return values[self.keys_last :] + values[: self.keys_last]


def _write(statement: _Statement, rows: Sequence[Model]) -> None:
    statement.run(list(map(attrgetter(*(column.attname for column in statement.columns)), rows)))


@lru_cache
def _insert(vendor: str, model: type[Model], conflict: str) -> _Statement:
    columns: list[Column] = list(model._meta.concrete_fields)
    values = f"SELECT {_names(columns)} FROM {_given(columns)}"
    if vendor != "postgresql":
        values = f"VALUES ({', '.join(['%s'] * len(columns))})"
    return _Statement(f"INSERT INTO {_table(model)} ({_names(columns)}) {values} {conflict}", columns, vendor)


@lru_cache
def _upsert(vendor: str, model: type[Model], unique: tuple[str, ...]) -> _Statement:
    keys = _fields(model, unique)
    replaced = [column for column in model._meta.concrete_fields if column not in keys and not column.primary_key]
    assignments = ", ".join(f"{_name(column)} = excluded.{_name(column)}" for column in replaced)
    return _insert(vendor, model, f"ON CONFLICT ({_names(keys)}) DO UPDATE SET {assignments}")


@lru_cache
def _update(vendor: str, model: type[Model], where: tuple[str, ...], set: tuple[str, ...]) -> _Statement:
    keys, changed = _fields(model, where), _fields(model, set)
    if vendor != "postgresql":
        assignments = ", ".join(f"{_name(column)} = %s" for column in changed)
        condition = " AND ".join(f"{_name(column)} = %s" for column in keys)
        sql = f"UPDATE {_table(model)} SET {assignments} WHERE {condition}"
        return _Statement(sql, keys + changed, vendor, keys_last=len(keys))
    assignments = ", ".join(f"{_name(column)} = new.{_name(column)}" for column in changed)
    condition = " AND ".join(f"old.{_name(column)} = new.{_name(column)}" for column in keys)
    return _Statement(
        f"UPDATE {_table(model)} AS old SET {assignments} FROM {_given(keys + changed, 'new')} WHERE {condition}",
        keys + changed,
        vendor,
    )


def _given(columns: list[Column], name: str = "given") -> str:
    types = (
        f"{_name(column)} {column.db_type(connection)}" for column in columns
    )  # a text too long for it is an error
    return f"json_to_recordset(%s::json) AS {name} ({', '.join(types)})"


def _as_json(value: Any) -> str:
    """A value of a column that JSON has no form for, as PostgreSQL reads it."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return value.hex
    raise TypeError(f"{type(value).__name__} is not a value that is written in bulk")


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_as_json).encode


def _fields(model: type[Model], names: tuple[str, ...]) -> list[Column]:
    return [model._meta.get_field(name) for name in names]  # type: ignore[misc]


def _table(model: type[Model]) -> str:
    return connection.ops.quote_name(model._meta.db_table)


def _name(column: Column) -> str:
    return connection.ops.quote_name(str(column.column))


def _names(columns: list[Column]) -> str:
    return ", ".join(map(_name, columns))

"""Many rows in one statement, at little more than what they cost the database.

Django's `bulk_create` and `bulk_update` prepare each value of each row through their compilers, which costs five times
what the database takes. Here a statement is made once for a model and its columns. PostgreSQL gets all rows as one JSON
text, which pydantic's encoder makes and PostgreSQL reads faster than arrays; SQLite one prepared statement, run for each row.
Constraints, triggers and transactions are the database's, as ever.

What is made only to be inserted need not be an instance of its model either, which costs as much again: `new` makes a
row, which `insert_rows` takes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from django.db import connection
from django.db.models import Field, Model
from pydantic_core import to_json

MAX_BYTES = 16 * 1024 * 1024  # of rows in one statement, about: both sides hold all of it in memory

Column: TypeAlias = "Field[Any, Any]"
Row: TypeAlias = dict[str, Any]  # by column, which is named as the attribute is; one that is not there is NULL
IGNORE_CONFLICTS = "ON CONFLICT DO NOTHING"


def new(model: type[Model], **values: Any) -> Row:
    """A row of `model` with these values, and its defaults for the other columns, as an instance would have them."""
    fixed, made = _defaults(model)
    row = fixed | values
    for name, make in made:
        if name not in row:
            row[name] = make()
    return row


def insert_rows(model: type[Model], rows: Sequence[Row], *, ignore_conflicts: bool = False) -> None:
    """Insert rows as `new` makes them."""
    if rows:
        _insert(connection.vendor, model, IGNORE_CONFLICTS if ignore_conflicts else "").run(rows)


def insert(rows: Sequence[Model], *, ignore_conflicts: bool = False) -> None:
    """Insert instances of one model, every column as it stands in them."""
    if rows:
        insert_rows(type(rows[0]), _rows(rows), ignore_conflicts=ignore_conflicts)


def upsert(rows: Sequence[Model], *, unique: tuple[str, ...], add: tuple[str, ...] = ()) -> None:
    """The same; a row that agrees in `unique` (fields of a unique constraint) is replaced, all but its id, and what its
    fields `add` hold is added to. No two of `rows` may agree in `unique`."""
    if rows:
        _upsert(connection.vendor, type(rows[0]), unique, add).run(_rows(rows))


def update(model: type[Model], rows: Sequence[Sequence[Any]], *, where: tuple[str, ...], set: tuple[str, ...]) -> None:
    """For each of `rows`, which are values of the fields `where` and then of `set`: set these where those are so."""
    if rows:
        names = [column.attname for column in _fields(model, where + set)]
        _update(connection.vendor, model, where, set).run([dict(zip(names, row, strict=True)) for row in rows])


@dataclass(frozen=True, slots=True)
class _Statement:
    sql: str
    columns: "list[Column]"  # in the order of SQLite's placeholders
    vendor: str

    def run(self, rows: Sequence[Row]) -> None:
        with connection.cursor() as cursor:
            if self.vendor != "postgresql":
                cursor.executemany(self.sql, list(map(self._for_sqlite, rows)))
                return
            for text in self._for_postgresql(rows):
                cursor.execute(self.sql, [text])

    def _for_postgresql(self, rows: Sequence[Row]) -> Iterator[str]:
        texts: list[bytes] = []
        size = 0
        for text in map(to_json, rows):
            texts.append(text)
            size += len(text)
            if size > MAX_BYTES:
                yield _array(texts)
                texts, size = [], 0
        if texts:
            yield _array(texts)

    def _for_sqlite(self, row: Row) -> list[Any]:
        return [column.get_db_prep_save(row.get(column.attname), connection) for column in self.columns]


def _rows(instances: Sequence[Model]) -> list[Row]:
    names = [column.attname for column in instances[0]._meta.concrete_fields]
    return [{name: values[name] for name in names} for values in map(vars, instances)]


@lru_cache
def _defaults(model: type[Model]) -> tuple[Row, list[tuple[str, Callable[[], Any]]]]:
    """Of the columns that have one: those that are the same for each row, and those that are made for each."""
    fixed: Row = {}
    made: list[tuple[str, Callable[[], Any]]] = []
    for column in model._meta.concrete_fields:
        if column.has_default() and callable(column.default):
            made.append((column.attname, column.default))
        elif (value := column.get_default()) is not None:
            fixed[column.attname] = value
    return fixed, made


@lru_cache
def _insert(vendor: str, model: type[Model], conflict: str) -> _Statement:
    columns: list[Column] = list(model._meta.concrete_fields)
    values = f"SELECT {_names(columns)} FROM {_given(columns)}"
    if vendor != "postgresql":
        values = f"VALUES ({', '.join(['%s'] * len(columns))})"
    return _Statement(f"INSERT INTO {_table(model)} ({_names(columns)}) {values} {conflict}", columns, vendor)


@lru_cache
def _upsert(vendor: str, model: type[Model], unique: tuple[str, ...], add: tuple[str, ...]) -> _Statement:
    keys, added = _fields(model, unique), _fields(model, add)
    replaced = [column for column in model._meta.concrete_fields if column not in keys and not column.primary_key]
    before = {column: f"{_table(model)}.{_name(column)} + " for column in added}
    assignments = ", ".join(
        f"{_name(column)} = {before.get(column, '')}excluded.{_name(column)}" for column in replaced
    )
    return _insert(vendor, model, f"ON CONFLICT ({_names(keys)}) DO UPDATE SET {assignments}")


@lru_cache
def _update(vendor: str, model: type[Model], where: tuple[str, ...], set: tuple[str, ...]) -> _Statement:
    keys, changed = _fields(model, where), _fields(model, set)
    if vendor != "postgresql":
        assignments = ", ".join(f"{_name(column)} = %s" for column in changed)
        condition = " AND ".join(f"{_name(column)} = %s" for column in keys)
        sql = f"UPDATE {_table(model)} SET {assignments} WHERE {condition}"
        return _Statement(sql, changed + keys, vendor)
    assignments = ", ".join(f"{_name(column)} = new.{_name(column)}" for column in changed)
    condition = " AND ".join(f"old.{_name(column)} = new.{_name(column)}" for column in keys)
    new = f"WITH new AS (SELECT * FROM {_given(keys + changed)})"  # first, so that a pipeline does not wait for the answer
    sql = f"{new} UPDATE {_table(model)} AS old SET {assignments} FROM new WHERE {condition}"
    return _Statement(sql, keys + changed, vendor)


def _given(columns: list[Column]) -> str:
    types = (
        f"{_name(column)} {column.db_type(connection)}" for column in columns
    )  # a text too long for it is an error
    return f"json_to_recordset(%s::json) AS given ({', '.join(types)})"


def _array(texts: list[bytes]) -> str:
    return f"[{b','.join(texts).decode()}]"


def _fields(model: type[Model], names: tuple[str, ...]) -> list[Column]:
    return [model._meta.get_field(name) for name in names]  # type: ignore[misc]


def _table(model: type[Model]) -> str:
    return connection.ops.quote_name(model._meta.db_table)


def _name(column: Column) -> str:
    return connection.ops.quote_name(str(column.column))


def _names(columns: list[Column]) -> str:
    return ", ".join(map(_name, columns))

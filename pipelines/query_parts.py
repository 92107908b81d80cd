"""What a query is taken apart into: its text, its columns, its plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import duckdb
import pyarrow as pa

_HUGE: Final = pa.decimal128(38, 0)  # what sums of int64 are to DuckDB, in Arrow

MISTAKES: Final = (
    duckdb.ParserException,
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.PermissionException,
    duckdb.SyntaxException,
    duckdb.InvalidInputException,
    duckdb.ConversionException,
    duckdb.NotImplementedException,
)
"""Errors of DuckDB's that a user mends by changing the query."""


class QueryError(ValueError):
    """A query, or what it is to see, that cannot be meant; says where, and what there is."""


class QueryFailed(RuntimeError):
    """A query that was understood and could not be answered; says why."""


def without_end(sql: str) -> str:
    """A statement without the semicolons that end it, and comments between them."""
    text = sql.encode()
    end = len(text)
    for at, kind in reversed(duckdb.tokenize(sql)):
        if kind == duckdb.token_type.comment:
            continue
        if text[at : at + 1] != b";":
            break
        end = at
    return text[:end].decode()


def plain(schema: pa.Schema) -> pa.Schema:
    """Columns with names of their own, and whole numbers of 64 bits."""
    names: list[str] = []
    for one in schema:
        name, copies = one.name, 1
        while name in names:
            name, copies = f"{one.name}_{copies}", copies + 1
        names.append(name)
    return pa.schema(
        pa.field(name, pa.int64() if one.type == _HUGE else one.type)
        for name, one in zip(names, schema, strict=True)
    )


def whole(array: pa.Array, field: pa.Field) -> pa.Array:
    """A column as :func:`plain` has it.

    Raises:
        QueryFailed: a number does not fit.
    """
    if array.type == field.type:
        return array
    try:
        return array.cast(field.type)
    except pa.ArrowInvalid as error:
        raise QueryFailed(
            f"column {field.name} has numbers beyond 64 bits; cast it to VARCHAR or DOUBLE in the "
            f"query."
        ) from error


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Reads of files in a plan that DuckDB has told as JSON."""
    for node in plan.get("operator", plan.get("children", [])):
        if "TABLE_SCAN" in node.get("type", ""):
            yield node
        yield from scans({"children": node.get("children", [])})

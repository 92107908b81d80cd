"""The view of net summaries in a tenant's database."""

from __future__ import annotations

import string
from collections.abc import Iterable
from typing import Final

from adtally.io import schema
from adtally.io.pull_tables import LAYOUTS
from adtally.transforms.overflow import OTHER

NET_VIEW: Final = "net_summaries"
_WINDOW: Final = ("advertiser_id", "generation", "window_seconds", "window_start")

_NET: Final = string.Template("""
WITH other AS (
    SELECT * FROM (SELECT summaries.*, $others AS others FROM summaries WHERE $only_others) o
    WHERE others > 0
), folds AS (
    SELECT $window, max(version) AS version, max(others) AS others FROM other GROUP BY $window
), standing AS (
    SELECT s.*, l.others FROM summaries s LEFT JOIN folds l ON $of_window
    WHERE l.version IS NULL OR s.version >= l.version
), adjusted AS (
    SELECT w.doc_id, $columns FROM standing w JOIN adjustments a ON $inside AND $own
    UNION ALL
    SELECT w.doc_id, $columns FROM other w JOIN folds l ON $of_folded AND w.others = l.others
    JOIN adjustments a ON $inside AND $away
    WHERE NOT EXISTS (
        SELECT 1 FROM standing x
        WHERE $beside AND $its_own
    )
), b AS (
    SELECT doc_id, $sums FROM adjusted GROUP BY doc_id
)
SELECT s.doc_id, $shown FROM standing s LEFT JOIN b ON b.doc_id = s.doc_id
""")
"""``other``: the row that others are folded into, and rows of events that say so themselves in some
dimensions, which are fewer of them. ``folds``: of a window with such rows, the lowest version that
stands. An adjustment is of its own row, or where that was folded, of the row of all others."""


def net_view(dialect: str) -> str:
    """``SELECT`` of the summaries with what rules that look back take off, as ``views.sql`` has it.

    Which dimensions are used is not known here; those that are not are null everywhere.

    Args:
        dialect: SQLAlchemy's name of the database.
    """
    same = "IS" if dialect == "sqlite" else "IS NOT DISTINCT FROM"
    other = f"'{OTHER}'"
    dimensions = schema.DIMENSIONS

    def alike(left: str, right: str, names: Iterable[str]) -> str:
        return " AND ".join(f"{left}.{name} {same} {right}.{name}" for name in names)

    during = "a.adjusted_at >= w.window_start AND a.adjusted_at < w.window_end"
    names = [name.removeprefix("sivt_") for name in schema.ADJUSTED if name.startswith("sivt_")]
    changed = {f"givt_{x}": f"s.givt_{x} + coalesce(b.givt_{x}, 0)" for x in names}
    changed |= {f"net_{x}": f"s.net_{x} - coalesce(b.givt_{x} + b.sivt_{x}, 0)" for x in names}
    shown = [
        f"{changed.get(field.name, 's.' + field.name)} AS {field.name}"
        for field in LAYOUTS["summaries"].fields
    ]
    shown += [f"coalesce(b.sivt_{name}, 0) AS sivt_{name}" for name in names]
    return _NET.substitute(
        others=" + ".join(f"CASE WHEN {x} = {other} THEN 1 ELSE 0 END" for x in dimensions),
        only_others=" AND ".join(f"coalesce({x}, {other}) = {other}" for x in dimensions),
        window=", ".join(_WINDOW),
        of_window=alike("l", "s", _WINDOW),
        of_folded=alike("l", "w", _WINDOW) + " AND w.version >= l.version",
        inside=f"{during} AND {alike('a', 'w', ('advertiser_id', 'generation', 'currency'))}",
        own=alike("a", "w", dimensions),
        away=" AND ".join(
            f"(w.{x} = {other} OR (w.{x} IS NULL AND a.{x} IS NULL))" for x in dimensions
        ),
        beside=alike("x", "w", (*_WINDOW, "currency")),
        its_own=alike("x", "a", dimensions),
        columns=", ".join(f"a.{name}" for name in schema.ADJUSTED),
        sums=", ".join(f"CAST(sum({name}) AS BIGINT) AS {name}" for name in schema.ADJUSTED),
        shown=", ".join(shown),
    )

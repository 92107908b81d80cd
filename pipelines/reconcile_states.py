"""What is the matter with each window: a side held against the log, row by row, in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from adtally.io import schema
from adtally.pipelines.reconcile_sides import (
    LOG,
    ON_TIME,
    PARQUET,
    STATE,
    WINDOW,
    Kind,
    Sides,
    names,
    table,
)

EQUAL: Final = "equal"
LATE: Final = "late"
COPIES: Final = "copies"
MISSING: Final = "missing"
OUTDATED: Final = "outdated"
DOUBLED: Final = "doubled"
ALTERED: Final = "altered"
RULES: Final = "other rules"
UNCOMMITTED: Final = "uncommitted"
LOG_SHORT: Final = "log short"

STATES: Final = {
    EQUAL: "as the log says",
    LATE: "events that came too late for it are in the log",
    COPIES: "files hold rows twice, the views take one",
    MISSING: "rows are not there",
    OUTDATED: "an earlier state, which had not seen everything",
    DOUBLED: "a row is there more than once, and readers add it up",
    ALTERED: "saw the same events, and says something else",
    RULES: "judged by other rules",
    UNCOMMITTED: "of a re-tally that did not end",
    LOG_SHORT: "saw events that the log does not hold",
}
"""What each state means; from harmless to those that a re-tally would make worse."""

HARMLESS: Final = (EQUAL, LATE, COPIES)
REPAIRED: Final = (LATE, MISSING, OUTDATED, DOUBLED, ALTERED, RULES, UNCOMMITTED)

GROSS: Final = ("impressions", "clicks", "conversions", "duplicates", "cost_micros")

FINDING_SCHEMA: Final = pa.schema(
    [
        pa.field("side", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("advertiser_id", pa.string()),
        pa.field("window_seconds", pa.int64()),
        pa.field("window_start", schema.TIMESTAMP),
        pa.field("state", pa.string(), nullable=False),
        pa.field("ruling", pa.int64(), nullable=False),
        pa.field("generation", pa.int64()),
        pa.field("rows_stored", pa.int64(), nullable=False),
        pa.field("rows_of_log", pa.int64(), nullable=False),
        pa.field("rows_too_many", pa.int64(), nullable=False),
        pa.field("rows_too_few", pa.int64(), nullable=False),
        pa.field("copies", pa.int64(), nullable=False),
        pa.field("touched", pa.bool_(), nullable=False),
        pa.field("other_id", pa.bool_(), nullable=False),
        pa.field("seen_stored", pa.int64()),
        pa.field("seen_too_many", pa.int64()),
        pa.field("seen_on_time", pa.int64(), nullable=False),
        pa.field("seen_in_log", pa.int64(), nullable=False),
    ]
)
"""A window of an advertiser on one side. ``ruling`` is the generation that readers see there,
``generation`` the newest that is stored. ``seen`` are events, as versions of rows say: what stored
rows had seen (all, and those too many), and what the log has, on time and with late ones.
``touched``: a row too many has another version
than adtally gave it; ``other_id``: or an id that adtally does not give."""


def prepare(sides: Sequence[str], compared: Sides) -> None:
    """Which generation rules each window, and so what the log says of it: first summaries do not
    count late events, corrections do."""
    run = compared.connection.execute
    every = " UNION ".join(
        f"SELECT DISTINCT {names(WINDOW)} FROM {table(side, kind)}"
        for kind in compared.kinds
        for side in (*sides, LOG, ON_TIME)
    )
    run(
        f"CREATE OR REPLACE TABLE ruled AS SELECT w.*, coalesce(max(r.generation), 0) AS ruling "
        f"FROM ({every}) w LEFT JOIN ruling r ON w.window_start >= r.range_from "
        f"AND w.window_start + to_seconds(w.window_seconds) <= r.range_to GROUP BY ALL"
    )
    for kind in compared.kinds:
        columns = f"{names(kind.columns)}, {names(STATE)}"
        run(
            f"CREATE OR REPLACE TABLE {table('expected', kind)} AS "
            f"SELECT {columns} FROM {table(LOG, kind)} JOIN ruled USING ({names(WINDOW)}) "
            f"WHERE ruling > 0 UNION ALL "
            f"SELECT {columns} FROM {table(ON_TIME, kind)} JOIN ruled USING ({names(WINDOW)}) "
            f"WHERE ruling = 0"
        )


def findings(
    side: str, compared: Sides, version: str, rules: Sequence[tuple[int, str]]
) -> pa.Table:
    """The state of every window on one side, ``FINDING_SCHEMA``, by kind.

    Args:
        side: which.
        compared: with all sides, :func:`prepare`-d.
        version: of the rules that the log was tallied with.
        rules: generations, and versions of rules that runs used for them.
    """
    run = compared.connection.execute
    known = pa.table(
        [pa.array([one for one, _ in rules], pa.int64()), pa.array([two for _, two in rules])],
        names=["generation", "ruleset_version"],
    )
    compared.put("rules", known.cast(_RULES))
    for kind in compared.kinds:
        run(_differing(side, kind))
        run(_facts(side, kind))
    parts = [
        f"SELECT $side AS side, '{kind.name}' AS kind, {_state(kind)} AS state, "
        f"* REPLACE (greatest(copies, doubled) AS copies) FROM {table('facts', kind)} f"
        for kind in compared.kinds
    ]
    run(
        f"CREATE OR REPLACE TABLE found AS {' UNION ALL BY NAME '.join(parts)}",
        {"side": side, "version": version},
    )
    # What a shorter log says of flags and verdicts means nothing.
    run(
        f"UPDATE found SET state = '{LOG_SHORT}' WHERE state NOT IN ('{EQUAL}', '{LATE}') "
        f"AND EXISTS (FROM found s WHERE s.kind = 'summaries' AND s.state = '{LOG_SHORT}' "
        f"AND s.advertiser_id = found.advertiser_id "
        f"AND s.window_start < found.window_start + to_seconds(found.window_seconds) "
        f"AND found.window_start < s.window_start + to_seconds(s.window_seconds))"
    )
    found = compared.connection.sql(
        f"SELECT {names(FINDING_SCHEMA.names)} FROM found"
    ).to_arrow_table()
    return found.cast(FINDING_SCHEMA)


def differing_rows(sides: Sequence[str], kind: Kind, compared: Sides) -> pa.Table:
    """Rows that one of both has and the other has not: ``side``, ``place`` (``stored`` there, or
    ``log``), and the columns of the kind. After :func:`findings`."""
    parts = [
        f"SELECT '{side}' AS side, * FROM {table(f'{side} differing', kind)}" for side in sides
    ]
    row = names((*WINDOW, *kind.identity))
    ordered = f"{' UNION ALL '.join(parts)} ORDER BY {row}, side, place DESC"
    return compared.connection.sql(ordered).to_arrow_table()


_RULES: Final = pa.schema([("generation", pa.int64()), ("ruleset_version", pa.string())])


def _differing(side: str, kind: Kind) -> str:
    """Rows that one of both has and the other has not; a copy counts as a row of its own."""
    stored = f"SELECT {names(kind.columns)} FROM {table(side, kind)}"
    expected = f"SELECT {names(kind.columns)} FROM {table('expected', kind)}"
    return (
        f"CREATE OR REPLACE TABLE {table(f'{side} differing', kind)} AS "
        f"SELECT 'stored' AS place, * FROM ({stored} EXCEPT ALL {expected}) UNION ALL "
        f"SELECT 'log' AS place, * FROM ({expected} EXCEPT ALL {stored})"
    )


def _facts(side: str, kind: Kind) -> str:
    """What is known of each window."""
    differing = table(f"{side} differing", kind)
    same = " AND ".join(f"s.{name} IS NOT DISTINCT FROM d.{name}" for name in kind.columns)
    by_gross = names([*WINDOW, *kind.identity, *(name for name in kind.values if name in GROSS)])
    twice = "(SELECT * EXCLUDE ruling, NULL::BIGINT AS generation FROM ruled WHERE false)"
    copies = conflicts = "0"
    if side == PARQUET and kind.name == "summaries":
        twice, copies, conflicts = "copies", "coalesce(c.copies, 0)", "coalesce(c.conflicts, 0)"
    return f"""
CREATE OR REPLACE TABLE {table("facts", kind)} AS
WITH stored AS (
    SELECT {names(WINDOW)}, count(*) AS rows_stored, max(generation) AS generation,
        max(seen) FILTER (NOT touched) AS seen_stored,
        count(*) - count(DISTINCT row({names(kind.identity)})) AS doubled,
        array_agg(DISTINCT ruleset_version) AS ruleset_versions
    FROM {table(side, kind)} GROUP BY ALL
), expected AS (
    SELECT {names(WINDOW)}, count(*) AS rows_of_log FROM {table("expected", kind)} GROUP BY ALL
), too_many AS (
    SELECT {names(WINDOW, "d.")}, max(s.generation) AS generation_too_many,
        max(s.seen) AS seen_too_many,
        bool_or(s.touched) AS touched, bool_or(s.other_id) AS other_id
    FROM {differing} d JOIN {table(side, kind)} s ON {same}
    WHERE d.place = 'stored' GROUP BY ALL
), counts AS (
    SELECT {names(WINDOW)}, count(*) FILTER (place = 'stored') AS rows_too_many,
        count(*) FILTER (place = 'log') AS rows_too_few
    FROM {differing} GROUP BY ALL
), stored_gross AS (SELECT {by_gross} FROM {differing} WHERE place = 'stored'
), log_gross AS (SELECT {by_gross} FROM {differing} WHERE place = 'log'
), gross AS (
    SELECT DISTINCT {names(WINDOW)} FROM (
        (FROM stored_gross EXCEPT ALL FROM log_gross)
        UNION ALL (FROM log_gross EXCEPT ALL FROM stored_gross))
), seen AS (
    SELECT {names(WINDOW)}, max(seen) FILTER (side = 1) AS seen_in_log,
        max(seen) FILTER (side = 2) AS seen_on_time
    FROM (SELECT {names(WINDOW)}, seen, 1 AS side FROM "{LOG} {_counted(kind)}" UNION ALL
          SELECT {names(WINDOW)}, seen, 2 FROM "{ON_TIME} {_counted(kind)}") GROUP BY ALL
)
SELECT r.*, coalesce(rows_stored, 0) AS rows_stored, coalesce(rows_of_log, 0) AS rows_of_log,
    coalesce(rows_too_many, 0) AS rows_too_many, coalesce(rows_too_few, 0) AS rows_too_few,
    coalesce(doubled, 0) AS doubled, {copies} AS copies, {conflicts} AS conflicts,
    stored.generation, seen_stored,
    coalesce(generation_too_many, r.ruling) AS generation_too_many, seen_too_many,
    coalesce(touched, false) AS touched, coalesce(other_id, false) AS other_id,
    gross.advertiser_id IS NULL AS same_gross, ruleset_versions,
    coalesce(seen_in_log, 0) AS seen_in_log, coalesce(seen_on_time, 0) AS seen_on_time
FROM ruled r
LEFT JOIN stored USING ({names(WINDOW)}) LEFT JOIN expected USING ({names(WINDOW)})
LEFT JOIN too_many USING ({names(WINDOW)}) LEFT JOIN counts USING ({names(WINDOW)})
LEFT JOIN gross USING ({names(WINDOW)}) LEFT JOIN seen USING ({names(WINDOW)})
LEFT JOIN {twice} c ON {" AND ".join(f"c.{name} = r.{name}" for name in WINDOW)}
    AND c.generation = r.ruling
WHERE rows_stored > 0 OR rows_of_log > 0 OR ('{kind.name}' = 'summaries' AND seen_in_log > 0)
"""


def _counted(kind: Kind) -> str:
    """Whose rows tell how many events the log has for a window of this kind."""
    return kind.name if kind.documents == "verdicts" else "summaries"


def _state(kind: Kind) -> str:
    """The state of a window, an expression of SQL over its facts; the first that holds."""
    of_summaries = "true" if kind.name == "summaries" else "false"
    expected = "CASE WHEN ruling > 0 THEN seen_in_log ELSE seen_on_time END"
    of_generation = "FROM rules u WHERE u.generation = coalesce(f.generation, ruling)"
    other_rules = (
        f"same_gross AND EXISTS ({of_generation}) "
        f"AND NOT EXISTS ({of_generation} AND u.ruleset_version = $version)"
        if kind.name == "summaries"
        else "coalesce(NOT list_contains(ruleset_versions, $version), false)"
    )
    return f"""CASE
    WHEN rows_too_many = 0 AND rows_too_few = 0 THEN CASE
        WHEN conflicts > 0 THEN '{ALTERED}'
        WHEN {of_summaries} AND ruling = 0 AND seen_in_log > seen_on_time THEN '{LATE}'
        WHEN copies > 0 THEN '{COPIES}'
        ELSE '{EQUAL}' END
    WHEN {of_summaries} AND seen_stored > seen_in_log THEN '{LOG_SHORT}'
    WHEN rows_stored = 0 THEN '{MISSING}'
    WHEN doubled > 0 AND rows_too_many > 0 THEN '{DOUBLED}'
    WHEN generation > ruling THEN '{UNCOMMITTED}'
    WHEN generation < ruling THEN '{OUTDATED}'
    WHEN seen_stored < {expected} THEN
        CASE WHEN ruling > 0 THEN '{LATE}' ELSE '{OUTDATED}' END
    WHEN rows_too_many = 0 THEN '{MISSING}'
    WHEN touched OR other_id THEN '{ALTERED}'
    WHEN generation_too_many < ruling OR seen_too_many < {expected} THEN '{OUTDATED}'
    WHEN {other_rules} THEN '{RULES}'
    ELSE '{ALTERED}' END"""

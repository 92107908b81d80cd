"""Findings in words: why a window differs, as far as it can be known."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

import polars as pl
import pyarrow as pa

from adtally.io import schema
from adtally.io.elasticsearch_client import ElasticsearchConfig, index_name
from adtally.pipelines import reconcile_states as states
from adtally.pipelines.backfill import HOUR_MS
from adtally.pipelines.reconcile import Found
from adtally.pipelines.reconcile_sides import ELASTICSEARCH, PARQUET

ORDER: Final = tuple(reversed(states.STATES))
"""The worst first."""

COUNTS: Final = ("impressions", "clicks", "conversions", "net_clicks")
MICROS: Final = 1_000_000


class Causes:
    """Says why, of findings of one comparison.

    Args:
        found: what it found.
        config: of the cluster, if it was asked.
    """

    def __init__(self, found: Found, config: ElasticsearchConfig | None) -> None:
        self._found = found
        self._config = config
        self._broken = {
            _key(row, row["side"])
            for row in found.findings.to_pylist()
            if row["state"] not in states.HARMLESS
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """All findings with their ``cause``, the worst first, then by time and advertiser."""
        rows = self._found.findings.to_pylist()
        rows.sort(key=_rank)
        for row in rows:
            yield {**row, "cause": self.cause(row)}

    def cause(self, row: Mapping[str, Any]) -> str:
        """A sentence about a finding (a row of ``FINDING_SCHEMA``)."""
        return {
            states.LATE: _late,
            states.COPIES: _copies,
            states.MISSING: self._missing,
            states.OUTDATED: _outdated,
            states.DOUBLED: _doubled,
            states.ALTERED: _altered,
            states.RULES: _other_rules,
            states.UNCOMMITTED: _uncommitted,
            states.LOG_SHORT: self._log_short,
        }[row["state"]](row)

    def _missing(self, row: Mapping[str, Any]) -> str:
        if row["rows_stored"]:
            what = f"{row['rows_too_few']:,} of {row['rows_of_log']:,} rows are not there"
        else:
            what = f"nothing of it is there, the log has {_events(row['seen_in_log'])}"
        if row["side"] == ELASTICSEARCH and self._config is not None:
            kind = "verdicts" if row["kind"] in ("look-back flags", "adjustments") else row["kind"]
            index = index_name(self._config, kind, f"{row['window_start']:%Y.%m}")
            if index not in (self._found.indices or ()):
                return (
                    f"{what}: there is no index {index}; removed by age or by hand, or never made"
                )
        other = PARQUET if row["side"] == ELASTICSEARCH else ELASTICSEARCH
        if self._well_at(other, row):
            lost = "a file was lost" if other == ELASTICSEARCH else "documents were deleted"
            rest = ", or the run was made without --elasticsearch" * (other == PARQUET)
            return f"{what}, and {other} has it: {lost}{rest}"
        if row["ruling"]:
            return f"{what}: files of generation {row['ruling']}, which rules here, were lost"
        return f"{what}: the run that logged them did not end, or files were lost"

    def _log_short(self, row: Mapping[str, Any]) -> str:
        if row["kind"] != "summaries":
            return "the log does not hold all events that this was said of"
        hour = row["window_start"].timestamp() * 1000 // HOUR_MS * HOUR_MS
        short = row["seen_stored"] - row["seen_in_log"]
        why = "files of the log were lost, or removed by age"
        if row["window_seconds"] * 1000 <= HOUR_MS and hour not in self._found.log_hours:
            why = "the log has no file of that hour: lost, or removed by age"
        return (
            f"had seen {_events(row['seen_stored'])}, the log holds {row['seen_in_log']:,}: {why}; "
            f"a re-tally would take {_events(short)} away"
        )

    def _well_at(self, side: str, row: Mapping[str, Any]) -> bool:
        asked = side == PARQUET or self._config is not None
        return asked and _key(row, side) not in self._broken


def _key(row: Mapping[str, Any], side: str) -> tuple[Any, ...]:
    return side, row["kind"], row["advertiser_id"], row["window_seconds"], row["window_start"]


def _late(row: Mapping[str, Any]) -> str:
    if row["ruling"] == 0:
        late = row["seen_in_log"] - row["seen_on_time"]
        return f"{_events(late)} came too late for it; a re-tally counts them"
    late = row["seen_in_log"] - (row["seen_stored"] or 0)
    return f"{_events(late)} came into the log after generation {row['ruling']} was tallied"


def _copies(row: Mapping[str, Any]) -> str:
    return (
        f"files hold {row['copies']:,} rows twice: the views take one, who reads the files without "
        f"them adds both up"
    )


def _outdated(row: Mapping[str, Any]) -> str:
    if row["generation"] < row["ruling"]:
        return (
            f"has generation {row['generation']}, and generation {row['ruling']} rules here: that "
            f"re-tally did not reach this place"
        )
    expected = row["seen_in_log"] if row["ruling"] else row["seen_on_time"]
    if (row["seen_stored"] or 0) < expected:
        return (
            f"had seen {row['seen_stored']:,} of {_events(expected)}: a later state was not "
            f"written, or the events came in several runs"
        )
    if row["rows_too_few"]:
        return (
            f"{row['rows_too_many']:,} rows had seen {row['seen_too_many']:,} of "
            f"{_events(expected)}: their later state was not written"
        )
    return f"{row['rows_too_many']:,} rows of an earlier state were not removed"


def _doubled(row: Mapping[str, Any]) -> str:
    how = " under ids that adtally does not give: something else copied them" * row["other_id"]
    return f"{row['copies']:,} rows are there once more{how}"


def _altered(row: Mapping[str, Any]) -> str:
    if row["touched"] or row["other_id"]:
        return "written or changed by something other than adtally: " + (
            "its version is not the one of its state" if row["touched"] else "its id is another"
        )
    if row["side"] == PARQUET and row["copies"]:
        return "files hold rows of one version that differ: one of them was changed"
    return (
        f"{_events(row['seen_in_log'])} seen, as the log has, but other values: changed by hand, "
        f"judged without what came before, or tallied by another adtally"
    )


def _other_rules(row: Mapping[str, Any]) -> str:
    return "the same events, judged by other rules than those of the output now"


def _uncommitted(row: Mapping[str, Any]) -> str:
    return (
        f"generation {row['generation']} is here and was never committed: its re-tally did not "
        f"end, and readers of files see generation {row['ruling']}"
    )


def _events(count: int) -> str:
    return f"{count:,} event" + "s" * (count != 1)


def _rank(row: Mapping[str, Any]) -> tuple[Any, ...]:
    kind = row["kind"] != "summaries"
    where = (row["window_seconds"], row["window_start"], row["advertiser_id"], row["side"])
    return (ORDER.index(row["state"]), kind, *where)


def amounts(found: Found, window_seconds: int) -> dict[str, dict[str, int | Decimal]]:
    """What base windows say too much (or with a minus, too little), by side: counts, and money by
    currency, exact."""
    rows = found.differing["summaries"]
    frame = pl.DataFrame(pl.from_arrow(rows)).filter(window_seconds=window_seconds)
    sign = pl.when(pl.col("place") == "stored").then(1).otherwise(-1)
    totals: dict[str, dict[str, int | Decimal]] = {}
    for (side,), part in frame.group_by("side", maintain_order=True):
        found_here: dict[str, int | Decimal] = {}
        for name in COUNTS:
            found_here[name] = part.select((pl.col(name) * sign).sum()).item()
        for name in ("cost_micros", "net_cost_micros", "revenue_micros"):
            exact = (pl.col(name).cast(pl.Int128) * sign).sum()
            for currency, micros in part.group_by("currency").agg(exact).sort("currency").rows():
                if currency != schema.NO_CURRENCY:
                    label = f"{name.removesuffix('_micros')} {currency}"
                    found_here[label] = Decimal(int(micros)) / MICROS
        totals[str(side)] = {name: value for name, value in found_here.items() if value}
    return totals


def hours(findings: pa.Table, *of: str) -> list[tuple[int, int]]:
    """Ranges of the windows in one of these states, milliseconds since the epoch."""
    spans = []
    for row in findings.select(["state", "window_start", "window_seconds"]).to_pylist():
        if row["state"] in of:
            start = round(_utc(row["window_start"]).timestamp() * 1000)
            spans.append((start, start + row["window_seconds"] * 1000))
    return spans


def _utc(at: datetime.datetime) -> datetime.datetime:
    return at.astimezone(datetime.UTC)

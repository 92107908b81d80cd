"""Why two numbers differ: stored summaries and documents held against the event log, tallied
afresh; and the re-tally of just those hours where they do."""

from __future__ import annotations

import datetime
import math
import time
from dataclasses import dataclass, field, replace
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from adtally.io import manifest
from adtally.io.event_log import hour_of, is_streamed
from adtally.io.files import join, list_paths
from adtally.io.logs import NoInput, list_files
from adtally.io.stored import Restriction
from adtally.pipelines import reconcile_states as states
from adtally.pipelines.backfill import HOUR_MS, Request, check_final, checked_output, final_border
from adtally.pipelines.job import ConfigError, shown_time
from adtally.pipelines.progress import Watch
from adtally.pipelines.query import Limits
from adtally.pipelines.reconcile_log import load_log, rules_of_runs, suspects
from adtally.pipelines.reconcile_sides import ELASTICSEARCH, PARQUET, Sides, kinds
from adtally.transforms.windows import Ranges

DAY_MS: Final = 24 * HOUR_MS


@dataclass(frozen=True)
class Asked:
    """What is reconciled; see ``adtally reconcile --help``.

    Attributes:
        request: output, settings, cluster and range.
        advertisers: these alone; empty for all.
        limits: of the database that compares.
        widened: to whole windows of every size that the output has, as a re-tally needs it.
    """

    request: Request
    advertisers: tuple[str, ...] = ()
    limits: Limits = Limits()
    widened: bool = False


@dataclass(frozen=True)
class Found:
    """What was found in a range.

    Attributes:
        ranges: that were looked at, milliseconds since the epoch.
        findings: ``FINDING_SCHEMA``, all windows that are not equal.
        counts: windows by side, kind and state.
        differing: rows that are not equal, by kind: the columns of the kind, ``side``, and
            ``place``, which is ``stored`` or ``log``.
        suspects: events of the log that look like copies of others, see :func:`suspects`.
        indices: that Elasticsearch has; None where it was not asked.
        log_hours: that the log has files of, milliseconds since the epoch.
        seconds: that it took.
    """

    ranges: Ranges
    findings: pa.Table
    counts: dict[tuple[str, str, str], int]
    differing: dict[str, pa.Table] = field(default_factory=dict)
    suspects: pa.Table | None = None
    indices: frozenset[str] | None = None
    log_hours: frozenset[int] = frozenset()
    seconds: float = 0.0

    def windows(self, *of: str) -> int:
        """How many windows are in one of these states."""
        return sum(count for (_, _, state), count in self.counts.items() if state in of)

    @property
    def broken(self) -> int:
        """Windows in states that are not harmless."""
        return sum(n for (_, _, state), n in self.counts.items() if state not in states.HARMLESS)


def reconcile(asked: Asked, watch: Watch) -> Found:
    """Hold Parquet, and Elasticsearch where there is one, against the log.

    Raises:
        ConfigError: there is no such output, or the range cannot be compared.
        OSError, QueryFailed, ElasticsearchUnavailable: something cannot be read.
    """
    started = time.monotonic()
    request = _checked(asked.request)
    (start, end), settings = _range(request, asked.widened), request.settings
    seen = Restriction(start, end, asked.advertisers)
    compared = kinds(settings.dimensions, settings.looks_back)
    with Sides(compared, seen, settings.dimensions, asked.limits) as sides:
        sides.load_output(PARQUET, request.output)
        places, indices = [PARQUET], None
        if request.elasticsearch is not None:
            indices = sides.load_documents(request.elasticsearch)
            places.append(ELASTICSEARCH)
        load_log(sides, request, ((start, end),), asked.limits, watch)
        states.prepare(places, sides)
        version = settings.ruleset.version
        rules = list(rules_of_runs(request.output))
        tables = [states.findings(place, sides, version, rules) for place in places]
        differing = {kind.name: states.differing_rows(places, kind, sides) for kind in sides.kinds}
    findings = pa.concat_tables(tables)
    return Found(
        ((start, end),),
        findings.filter(pc.not_equal(findings["state"], states.EQUAL)),
        _counted(findings),
        differing,
        suspects(request.output, seen, asked.limits),
        indices,
        frozenset(_log_hours(request.output)),
        time.monotonic() - started,
    )


def _checked(request: Request) -> Request:
    output = checked_output(request.output)
    if manifest.read_manifest(output) is None:
        raise ConfigError(
            f"{output} has no {manifest.MANIFEST_NAME}; it is no output of adtally. Correct "
            f"--output."
        )
    return replace(request, output=output)


def _range(request: Request, widened: bool) -> tuple[int, int]:
    """Whole hours: as asked for, else all that is final, of a stream the last day of it.

    Raises:
        ConfigError: there is none; windows of it are not final, or cut.
    """
    output, settings = request.output, request.settings
    step = max(HOUR_MS, settings.window_seconds * 1000)
    start, end = request.from_ms, request.to_ms
    for name, value in (("--from", start), ("--to", end)):
        if value is not None and value % step:
            low = value // step * step
            raise ConfigError(
                f"{name} {shown_time(value)} lies inside of an hour or window, which would be "
                f"compared in part; use {shown_time(low)} or {shown_time(low + step)}."
            )
    if widened:
        step = math.lcm(HOUR_MS, settings.common_seconds * 1000)
    if start is None or end is None:
        low, high = _held(output)
        if is_streamed(output):
            high = min(high, final_border(settings) // step * step)
            low = max(low, (end or high) - max(DAY_MS, step))
        start, end = low if start is None else start, high if end is None else end
    start, end = start // step * step, -(-end // step) * step
    if start >= end:
        raise ConfigError(
            f"nothing is final between {shown_time(start)} and {shown_time(end)}; give --from and "
            f"--to."
        )
    check_final(output, ((start, end),), settings)
    return start, end


def _held(output: str) -> tuple[int, int]:
    """From when to when an output has anything.

    Raises:
        ConfigError: it has nothing.
    """
    hours = [(hour, hour + HOUR_MS) for hour in _log_hours(output)]
    dates = {
        path.rsplit("/date=", 1)[1][:10]
        for path in list_paths(join(output, "summaries", "**"))
        if "/date=" in path
    }
    starts = [datetime.datetime.fromisoformat(f"{date}T00:00:00+00:00") for date in dates]
    days = [round(start.timestamp() * 1000) for start in starts]
    spans = [*hours, *((day, day + DAY_MS) for day in days)]
    if not spans:
        raise ConfigError(
            f"{output} has neither events nor summaries; there is nothing to compare."
        )
    return min(low for low, _ in spans), max(high for _, high in spans)


def _log_hours(output: str) -> list[int]:
    try:
        return [hour_of(file.path) for file in list_files([join(output, "events") + "/"])[0]]
    except NoInput:
        return []


def _counted(findings: pa.Table) -> dict[tuple[str, str, str], int]:
    by = findings.group_by(["side", "kind", "state"]).aggregate([([], "count_all")])
    return {(row["side"], row["kind"], row["state"]): row["count_all"] for row in by.to_pylist()}

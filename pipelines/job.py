"""One run, as a frozen description: what is read, what is computed, where it goes."""

from __future__ import annotations

import datetime
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import msgspec

from adtally.io import schema
from adtally.io.files import join
from adtally.io.flush import Flush
from adtally.io.limits import Limits
from adtally.io.logs import Block, identity
from adtally.io.reads import Read, address, disorder_ms
from adtally.transforms.alerts import AlertSpec
from adtally.transforms.anomalies import past_ms
from adtally.transforms.decode_checks import Plausible
from adtally.transforms.mapping import Mapping, identity_mapping
from adtally.transforms.pii import Pii
from adtally.transforms.rules.history import HISTORY_MS, LOOK_BACK_MS
from adtally.transforms.rules.ruleset import Ruleset
from adtally.transforms.slices import SHARDS, HistoryCut, SliceSpec
from adtally.transforms.tally import TallySpec
from adtally.transforms.tally_windows import Windowing
from adtally.transforms.uniques import UNIQUES_K
from adtally.transforms.verdicts import VerdictSpec
from adtally.transforms.windows import Ranges

if TYPE_CHECKING:
    from adtally.io.alerts import AlertSink
    from adtally.io.elasticsearch import ElasticsearchConfig
    from adtally.io.pubsub_publisher import Topic

_LOG = logging.getLogger("adtally")

DAY_MS = 86_400_000
OPEN_MS = 1 << 62
"""Stands for an open end of a range."""

STREAM_SHARDS: Final = 4
"""Groups per window of a stream, unless told: a window holds a minute instead of a day, and each
group costs some 10 ms at every pane, however little is in it (docs/benchmarks.md)."""


MAX_ROWS: Final = 10_000
"""Rows of an advertiser and window, unless told. An honest one has dozens to hundreds of campaigns
by country in a minute; what 10,000 cost is in docs/overflow.md."""

BEFORE: Final[dict[str, object]] = {"pii": Pii().fingerprint, "max_rows_per_window": 0}
"""Settings of an output that was made before there was such a setting."""


class ConfigError(ValueError):
    """A setting that cannot work; the message says which, why, and what to write instead."""


@dataclass(frozen=True)
class Settings:
    """What is computed; the same for every run into one output.

    Attributes:
        window_seconds: the base window. It divides a day, or is a whole number of days, so that
            windows begin at the same times every day.
        rollup_seconds: larger windows computed from base rows; multiples of the base window.
        dimensions: event fields that summaries are broken down by.
        allowed_lateness_seconds: an event received later than this after its window's end is
            late. An hour is what trackers retry for.
        shards: groups per window in the shuffle.
        uniques_k: hashes kept per row.
        max_rows_per_window: rows that an advertiser may have in a window; those beyond are one,
            see :mod:`adtally.transforms.overflow`. 0 for no limit.
        ruleset: invalid-traffic rules.
        rules_file: where they were read from; empty for each rule's own settings.
        plausible: limits of event times.
        pii: what is stored of addresses and users.
        limits: of what is read.
    """

    window_seconds: int = 60
    rollup_seconds: tuple[int, ...] = ()
    dimensions: tuple[str, ...] = ()
    allowed_lateness_seconds: int = 3600
    shards: int = SHARDS
    uniques_k: int = UNIQUES_K
    max_rows_per_window: int = MAX_ROWS
    ruleset: Ruleset = field(default_factory=Ruleset)
    rules_file: str = ""
    plausible: Plausible = Plausible()
    pii: Pii = Pii()
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        _check_window(self.window_seconds)
        for seconds in self.rollup_seconds:
            if seconds % self.window_seconds or seconds <= self.window_seconds:
                raise ConfigError(
                    f"roll-up of {seconds} s cannot be made of windows of "
                    f"{self.window_seconds} s; give larger multiples of it."
                )
        for name in self.dimensions:
            if name not in schema.DIMENSIONS:
                raise ConfigError(
                    f"dimension {name!r} is not known; choose from {', '.join(schema.DIMENSIONS)}."
                )
        if self.allowed_lateness_seconds < 0:
            raise ConfigError(
                f"allowed lateness is {self.allowed_lateness_seconds} s; it cannot be negative."
            )
        if self.shards < 1:
            raise ConfigError(f"shards is {self.shards}; at least 1 is needed.")
        if self.max_rows_per_window < 0:
            raise ConfigError(
                f"max_rows_per_window is {self.max_rows_per_window}; give the most rows that an "
                f"advertiser may have in a window, or 0 for no limit."
            )

    @property
    def history_seconds(self) -> int:
        """A history window: an hour, or more where the base window does not divide it."""
        return math.lcm(HISTORY_MS // 1000, self.window_seconds)

    @property
    def series_seconds(self) -> int:
        """How far before a window others are needed to judge it as one of a series."""
        return past_ms(self.window_seconds * 1000) // 1000 if self.ruleset.series_rules else 0

    @property
    def past_seconds(self) -> int:
        """How far before a window anything is needed to judge it."""
        return max(self.series_seconds, LOOK_BACK_MS // 1000 if self.looks_back else 0)

    @property
    def looks_back(self) -> bool:
        """Whether a rule looks beyond a base window."""
        return bool(self.ruleset.history_rules)

    @property
    def common_seconds(self) -> int:
        """At multiples of this, windows of every size begin."""
        rules = self.ruleset
        history = [self.history_seconds] if rules.history_rules or rules.series_rules else []
        return math.lcm(self.window_seconds, *self.rollup_seconds, *history)

    @property
    def fingerprint(self) -> dict[str, object]:
        """What must be equal in all runs into one output, or their rows would not add up."""
        return {
            "window_seconds": self.window_seconds,
            "dimensions": list(self.dimensions),
            "allowed_lateness_seconds": self.allowed_lateness_seconds,
            "uniques_k": self.uniques_k,
            "max_rows_per_window": self.max_rows_per_window,
            "pii": self.pii.fingerprint,
        }


def _check_window(seconds: int) -> None:
    day = DAY_MS // 1000
    if seconds < 1 or (day % seconds and seconds % day):
        raise ConfigError(
            f"window of {seconds} s does not divide a day, so windows would begin at other times "
            f"each day; use one such as 10s, 60s, 5m, 1h or 1d."
        )


@dataclass(frozen=True)
class Streaming:
    """How an unbounded run computes and writes.

    Attributes:
        id: identity of this start of the stream, part of the names of its files.
        pane_seconds: between early panes, and between late ones.
        look_back_seconds: the same for history windows. Each pane judges all of their events
            again, up to an hour of them: some 2 s of work for a million.
        flush_seconds: the longest that events and rows wait to be written to files.
        writers: files of the event log that are collected side by side.
    """

    id: str
    pane_seconds: int = 10
    look_back_seconds: int = 300
    flush_seconds: int = 300
    writers: int = 2


ROLLUP_PANE_SECONDS: Final = 60
"""Between panes of a roll-up: it is made of on-time and later panes, so news is rarer."""


@dataclass(frozen=True)
class Job:
    """One run, bounded or not.

    Attributes:
        output: folder or URI that everything is written below.
        blocks: files that are read.
        reads: streams that are read.
        streaming: None for a bounded run.
        mapping: how foreign records become events.
        settings: what is computed.
        started_ms: when the run began.
        elasticsearch: where documents go; None for Parquet only.
        ranges: what is tallied, ``[from, to)`` in milliseconds of event time; empty for all.
        generation: 0 for first backfills, allocated for corrections.
        retally: the input is this output's own event log: it is not written again, and late
            events count.
        without_late: of a re-tally: late events do not count, as they did not in the first
            summaries, which are held against it.
        tally: False only appends to the log (a replay, before its re-tally).
        scratch_folder: a folder on this machine for the run's progress and spilled slices; empty
            where workers are elsewhere.
        alerts: where alerts go; only streams have any.
        alert_spec: what they tell.
        letter_topic: where dead letters are sent, beside their files; None for nowhere.
    """

    output: str
    blocks: tuple[Block, ...]
    settings: Settings
    started_ms: int
    mapping: Mapping = field(default_factory=identity_mapping)
    elasticsearch: ElasticsearchConfig | None = None
    ranges: Ranges = ()
    generation: int = 0
    retally: bool = False
    without_late: bool = False
    tally: bool = True
    scratch_folder: str = ""
    reads: tuple[Read, ...] = ()
    streaming: Streaming | None = None
    alerts: AlertSink | None = None
    alert_spec: AlertSpec = AlertSpec()
    letter_topic: Topic | None = None

    @property
    def id(self) -> str:
        """Identity of the inputs and the range: the same run has the same, whenever it is made.

        A stream that is started again is another run.
        """
        if self.streaming is not None:
            return self.streaming.id
        names = sorted(block.name for block in self.blocks)
        names += [f"{address(read)} {read.start_ms} {read.stop_ms}" for read in self.reads]
        return identity([*names, self.ranges, self.generation])

    @property
    def decoded_at_ms(self) -> int | None:
        """What dead letters are stamped with; None for the moment, as a stream has no other."""
        return self.started_ms if self.streaming is None else None

    @property
    def log_writers(self) -> int:
        return 1 if self.streaming is None else self.streaming.writers

    def flush(self, keys: int = 1) -> Flush | None:
        """When sinks of a stream write files; None for a bounded run, which writes as it goes."""
        if self.streaming is None:
            return None
        return Flush(self.streaming.id, self.streaming.flush_seconds, keys)

    @property
    def decodes(self) -> bool:
        """Whether it reads records, and not only its own log."""
        return bool(self.json_blocks or self.dead_letter_blocks or self.reads)

    @property
    def json_blocks(self) -> tuple[Block, ...]:
        return self._of("json")

    @property
    def log_blocks(self) -> tuple[Block, ...]:
        return self._of("parquet")

    @property
    def dead_letter_blocks(self) -> tuple[Block, ...]:
        return self._of("dead_letters")

    def _of(self, format: str) -> tuple[Block, ...]:
        return tuple(block for block in self.blocks if block.format == format)

    @property
    def slice_spec(self) -> SliceSpec:
        settings = self.settings
        return SliceSpec(
            base_window_ms=settings.window_seconds * 1000,
            beam_window_ms=self.windowing(settings.window_seconds).beam_window_ms,
            allowed_lateness_ms=(
                None
                if self.retally and not self.without_late
                else settings.allowed_lateness_seconds * 1000
            ),
            dimensions=settings.dimensions,
            shards=settings.shards,
            ranges=self.ranges,
            past_ms=settings.series_seconds * 1000,
            keep_position=bool(self.log_blocks or self.reads),
            allow=settings.ruleset.without_lists() if settings.pii.plain else None,
            history=self.history_cut if settings.looks_back else None,
            kept_ms=self._kept_ms,
        )

    @property
    def tally_spec(self) -> TallySpec:
        settings = self.settings
        return TallySpec(
            window_ms=settings.window_seconds * 1000,
            allowed_lateness_ms=settings.allowed_lateness_seconds * 1000,
            dimensions=settings.dimensions,
            generation=self.generation,
            ruleset=settings.ruleset.without_lists(),
            uniques_k=settings.uniques_k,
            max_rows=settings.max_rows_per_window,
        )

    @property
    def history_cut(self) -> HistoryCut:
        window_ms = self.settings.history_seconds * 1000
        return HistoryCut(window_ms, self.history_windowing.beam_window_ms)

    @property
    def verdict_spec(self) -> VerdictSpec:
        # What is read from a stream, with an end or without, may correct what a run before said.
        keep_empty = bool(self.reads)
        return VerdictSpec(self.tally_spec, self.history_cut, self.ranges, keep_empty)

    @property
    def series_spec(self) -> VerdictSpec:
        ruleset = self.settings.ruleset.without_lists(season=True)
        return replace(self.verdict_spec, tally=replace(self.tally_spec, ruleset=ruleset))

    @property
    def history_windowing(self) -> Windowing:
        """Beam's windows for rules that look back."""
        return self._history_windowing(hops=1)

    @property
    def series_windowing(self) -> Windowing:
        """Beam's windows for series, which are made of summaries."""
        return self._history_windowing(hops=2)

    def _history_windowing(self, hops: int) -> Windowing:
        pane_seconds = 0 if self.streaming is None else self.streaming.look_back_seconds
        return self._windowing(self.settings.history_seconds, pane_seconds, hops)

    def windowing(self, window_seconds: int) -> Windowing:
        """Beam's windows for computing summaries of ``window_seconds``.

        Bounded: a day, or that window if longer; in a stream the window itself.
        """
        if self.streaming is not None and window_seconds == self.settings.window_seconds:
            return self._windowing(window_seconds, self.streaming.pane_seconds)
        return self._windowing(window_seconds, ROLLUP_PANE_SECONDS, hops=2)

    def _windowing(self, window_seconds: int, pane_seconds: int, hops: int = 1) -> Windowing:
        window_ms = window_seconds * 1000
        if self.streaming is None:
            return Windowing.batch(math.lcm(window_ms, DAY_MS))
        lateness_ms = self._kept_ms
        return Windowing.streaming(window_ms, pane_seconds, lateness_ms, hops)

    @property
    def _kept_ms(self) -> int:
        """How long a window of a stream is kept after its end."""
        lateness_ms = self.settings.allowed_lateness_seconds * 1000
        return lateness_ms + max(map(disorder_ms, self.reads), default=0)

    def folder(self, kind: str, window_seconds: int | None = None) -> str:
        """Where a kind of output lies."""
        if kind == "summaries":
            window = f"window={window_seconds or self.settings.window_seconds}s"
            return join(self.output, kind, window, f"generation={self.generation}")
        if kind in ("flags", "verdicts", "anomalies"):
            return join(self.output, kind, f"generation={self.generation}")
        return join(self.output, kind)


def mapping_fingerprint(mapping: Mapping) -> str:
    """A short name for what a mapping does."""
    return identity([msgspec.json.encode(mapping, order="deterministic")])[:16]


def whole_range(from_ms: int | None, to_ms: int | None, settings: Settings) -> Ranges:
    """The range of ``--from`` and ``--to``, which have to be borders of base windows.

    Raises:
        ConfigError: a border lies inside a window; names the nearest that work.
    """
    window_ms = settings.window_seconds * 1000
    for name, value in (("--from", from_ms), ("--to", to_ms)):
        if value is not None and value % window_ms:
            lower = value // window_ms * window_ms
            raise ConfigError(
                f"{name} {shown_time(value)} lies inside a window of {settings.window_seconds} s, "
                f"which would be tallied in part; use {shown_time(lower)} or "
                f"{shown_time(lower + window_ms)}."
            )
    if from_ms is None and to_ms is None:
        return ()
    common_ms = settings.common_seconds * 1000
    for name, value in (("--from", from_ms), ("--to", to_ms)):
        if value is not None and value % common_ms:
            lower = value // common_ms * common_ms
            _LOG.warning(
                "%s %s cuts a longer window: roll-ups that are cut are not written, and windows "
                "of an hour that is cut have no verdicts of rules that look back; whole are "
                "%s and %s",
                *(name, shown_time(value), shown_time(lower), shown_time(lower + common_ms)),
            )
    start = -OPEN_MS if from_ms is None else from_ms
    end = OPEN_MS if to_ms is None else to_ms
    if start >= end:
        raise ConfigError(f"--from {shown_time(start)} is not before --to {shown_time(end)}.")
    return ((start, end),)


def shown_time(ms: int) -> str:
    """Milliseconds since the epoch as ISO 8601, in UTC."""
    at = datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC)
    return at.isoformat().replace("+00:00", "Z")


def rollups(values: Sequence[int]) -> tuple[int, ...]:
    """Roll-ups once each, by length."""
    return tuple(sorted(set(values)))

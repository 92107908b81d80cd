"""What all rules share.

Rules label and never delete. GIVT is general invalid traffic, found by lists and routine checks;
SIVT is sophisticated, found by analysis across events (MRC, Invalid Traffic Detection and
Filtration Standards Addendum, 2020). A rule that lacks the data to judge an event says nothing
about it: that is "not enough data", and not "valid".
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final

import polars as pl

from adtally.transforms.rules.lists import Lists

GIVT: Final = "GIVT"
SIVT: Final = "SIVT"
EVIDENCE_EVENTS: Final = 5
"""Event ids kept as evidence of a flag: enough to look one up, few enough for 30,000 flags."""

FLAG_COLUMNS: Final = pl.Schema(
    {
        "advertiser_id": pl.String(),
        "window": pl.Int64(),
        "subject_type": pl.String(),
        "subject": pl.String(),
        "count": pl.Int64(),
        "threshold": pl.Int64(),
        "evidence": pl.List(pl.String),
    }
)


MOST: Final = (1 << 31) - 1
"""The highest threshold: beyond it a rule is switched off in all but name."""


class RuleError(ValueError):
    """A rule, or a file of rules, that cannot be used; the message names place and remedy."""


@dataclass(frozen=True)
class Limits:
    """The threshold of a rule, and of single advertisers."""

    default: int
    overrides: Mapping[str, int] = field(default_factory=dict)

    @property
    def lowest(self) -> int:
        return min([self.default, *self.overrides.values()])

    def of(self, advertiser: pl.Expr) -> pl.Expr:
        """The threshold of each row's advertiser."""
        if not self.overrides:
            return pl.lit(self.default, pl.Int64)
        return advertiser.cast(pl.String).replace_strict(
            dict(self.overrides), default=self.default, return_dtype=pl.Int64
        )


@dataclass(frozen=True)
class Found:
    """What a rule within windows found.

    Attributes:
        flags: ``FLAG_COLUMNS``, one row per advertiser, window and subject.
        rows: the ``row`` of each event that is invalid.
    """

    flags: pl.DataFrame
    rows: pl.Series

    @classmethod
    def nothing(cls) -> Found:
        return cls(pl.DataFrame(schema=FLAG_COLUMNS), pl.Series("row", [], pl.UInt32))


class EventRule(abc.ABC):
    """Judges an event by itself, when it is decoded, from its full values.

    A frozen dataclass, whose fields are its settings.

    Attributes:
        NAME: what flags carry.
        IVT_CLASS: ``GIVT`` or ``SIVT``.
    """

    NAME: ClassVar[str]
    IVT_CLASS: ClassVar[str]

    @abc.abstractmethod
    def judge(self, events: pl.DataFrame, lists: Lists) -> pl.Series:
        """True for each event that is invalid.

        Args:
            events: with ``user_agent`` and ``ip``.
            lists: what is looked up.
        """


class WindowRule(abc.ABC):
    """Judges the clicks of a base window, of each advertiser by itself, at every pane.

    A frozen dataclass, whose fields are its settings.

    Attributes:
        NAME: what flags carry.
        IVT_CLASS: ``GIVT`` or ``SIVT``.
        threshold: the default, in the rule's own unit.
    """

    NAME: ClassVar[str]
    IVT_CLASS: ClassVar[str]
    threshold: int

    @abc.abstractmethod
    def judge(self, clicks: pl.DataFrame, limits: Limits) -> Found:
        """Find invalid clicks.

        Args:
            clicks: counted clicks with ``row``, ``advertiser_id``, ``window`` (ms),
                ``occurred_at`` (ms), ``event_id``, ``content_hash``, ``ip``, ``user_id`` and
                ``creative_hash``.
            limits: thresholds.
        """

    @abc.abstractmethod
    def suspects(self, clicks: pl.DataFrame, limits: Limits) -> pl.DataFrame:
        """(advertiser_id, window) that an earlier pane may have flagged.

        An earlier pane saw some of these events, and of a click that came twice with differing
        content it may have counted the other copy.

        Args:
            clicks: as above, with copies that are not counted, and ``counted``.
            limits: thresholds.
        """


def by_distinct(texts: pl.Series, judge: Callable[[pl.Series], pl.Series]) -> pl.Series:
    """Judge each distinct text once: events share their browsers, and many their addresses."""
    distinct = texts.unique()
    judged = pl.DataFrame({"text": distinct, "judged": judge(distinct)})
    rows = pl.DataFrame({"text": texts})
    return rows.join(judged, on="text", how="left", nulls_equal=True, maintain_order="left")[
        "judged"
    ]


def check_threshold(name: str, value: int, least: int = 1) -> None:
    """Refuse a threshold that would flag everything, or that no number holds.

    Raises:
        RuleError: it is below ``least``, or above ``MOST``.
    """
    if value < least:
        raise RuleError(
            f"{name}: threshold {value} would flag every event; give a whole number of at least "
            f"{least}."
        )
    if value > MOST:
        raise RuleError(
            f"{name}: threshold {value} would never be passed; give {MOST} or less, or switch the "
            f"rule off."
        )


def with_subject(clicks: pl.DataFrame) -> pl.DataFrame:
    """Add ``subject_type`` and ``subject``: the user, else the address; others are left out."""
    by_user = pl.col("user_id").is_not_null()
    return clicks.filter(by_user | pl.col("ip").is_not_null()).with_columns(
        pl.when(by_user).then(pl.lit("user")).otherwise(pl.lit("ip")).alias("subject_type"),
        pl.coalesce("user_id", "ip").alias("subject"),
    )


def copies_of(clicks: pl.DataFrame) -> pl.DataFrame:
    """All clicks of the (advertiser, window) in which one came twice, each distinct one once."""
    keys = ["advertiser_id", "window"]
    copied = clicks.filter(~pl.col("counted")).select(keys).unique()
    if not copied.height:
        return clicks.clear()
    return clicks.join(copied, on=keys, how="semi").unique(
        [*keys, "event_id", "occurred_at", "ip", "user_id", "creative_hash"]
    )


def evidence(name: str = "event_id") -> pl.Expr:
    """The least event ids of a group."""
    return pl.col(name).sort().head(EVIDENCE_EVENTS).alias("evidence")

"""A ruleset: which rules run, with which thresholds, lists and exceptions. Fixed for a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import polars as pl

from adtally.transforms.rules.addresses import Networks
from adtally.transforms.rules.anomalies import (
    ClickThroughAnomaly,
    ConversionRateAnomaly,
    SpendAnomaly,
    VolumeAnomaly,
)
from adtally.transforms.rules.base import FLAG_COLUMNS, EventRule, Found, Limits, WindowRule
from adtally.transforms.rules.click_flooding import ClickFlooding
from adtally.transforms.rules.click_injection import ClickInjection
from adtally.transforms.rules.click_rate_ip import ClickRateIp
from adtally.transforms.rules.click_without_impression import ClickWithoutImpression
from adtally.transforms.rules.duplicate_click import DuplicateClick
from adtally.transforms.rules.event_rules import (
    DatacenterIp,
    InvalidUserAgent,
    KnownBotUserAgent,
)
from adtally.transforms.rules.history import History, HistoryRule
from adtally.transforms.rules.lists import Lists
from adtally.transforms.rules.quotas import Quotas
from adtally.transforms.rules.regular_interval import RegularInterval
from adtally.transforms.rules.series import ANOMALY, Scores, Series, SeriesRule
from adtally.transforms.rules.user_rate import ClickRateUser, ImpressionRateUser

EVENT_RULES: Final[tuple[type[EventRule], ...]] = (
    KnownBotUserAgent,
    InvalidUserAgent,
    DatacenterIp,
)
"""Their order is that of their bits in slices: add at the end, six at most."""

ALLOWED: Final = "allowed"
"""In ``ivt_reasons``: no rule judges this event. Only where what is stored does not tell."""

ALLOWED_BIT: Final = 1 << 6
"""``ALLOWED`` in slices."""

WINDOW_RULES: Final[tuple[type[WindowRule], ...]] = (DuplicateClick, ClickRateIp, RegularInterval)

HISTORY_RULES: Final[tuple[type[HistoryRule], ...]] = (
    ClickRateUser,
    ImpressionRateUser,
    ClickWithoutImpression,
    ClickInjection,
    ClickFlooding,
)

SERIES_RULES: Final[tuple[type[SeriesRule], ...]] = (
    VolumeAnomaly,
    ClickThroughAnomaly,
    ConversionRateAnomaly,
    SpendAnomaly,
)

NO_FLAGS: Final = pl.DataFrame(schema={**FLAG_COLUMNS, "rule": pl.String, "ivt_class": pl.String})
"""A table of flags, empty."""


@dataclass(frozen=True)
class AdvertiserRules:
    """What is different for one advertiser.

    Attributes:
        off: names of rules that do not judge its events.
        thresholds: name of a rule to its threshold.
        allow_ips: addresses that no rule judges, such as those of its own office.
        allow_users: users that no rule judges, such as its testers.
    """

    off: frozenset[str] = frozenset()
    thresholds: Mapping[str, float] = field(default_factory=dict)
    allow_ips: Networks = Networks()
    allow_users: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Ruleset:
    """The rules of a run.

    Attributes:
        event_rules: run where events are decoded.
        window_rules: run in the tally.
        history_rules: run over history windows.
        series_rules: run over the series of each advertiser's base windows.
        lists: what event rules look things up in.
        advertisers: by ``advertiser_id``, what is different for them.
        quotas: of events per advertiser; they judge nothing.
        name: its ``version``, where something that the version covers was left out.
    """

    event_rules: tuple[EventRule, ...] = tuple(rule() for rule in EVENT_RULES)
    window_rules: tuple[WindowRule, ...] = tuple(rule() for rule in WINDOW_RULES)
    history_rules: tuple[HistoryRule, ...] = tuple(rule() for rule in HISTORY_RULES)
    series_rules: tuple[SeriesRule, ...] = tuple(rule() for rule in SERIES_RULES)
    lists: Lists = Lists()
    advertisers: Mapping[str, AdvertiserRules] = field(default_factory=dict)
    quotas: Quotas = Quotas()
    name: str = ""

    def without_lists(self, season: bool = False) -> Ruleset:
        """For those that judge by none; it travels with each step of a job, and lists are long.

        Args:
            season: keep it.
        """
        lists = Lists(season=self.lists.season) if season else Lists()
        return replace(self, lists=lists, name=self.version)

    @cached_property
    def version(self) -> str:
        """Changes with any threshold, list or exception: a name for what was judged by what.

        Not with quotas: no flag depends on them.
        """
        if self.name:
            return self.name
        content = {
            "rules": {
                rule.NAME: {name: _plain(value) for name, value in vars(rule).items()}
                for rule in self._rules()
            },
            "lists": self.lists.fingerprint,
            "advertisers": {
                name: {
                    "off": sorted(one.off),
                    "thresholds": {name: _plain(value) for name, value in one.thresholds.items()},
                    "allow_ips": sorted(map(str, one.allow_ips.networks)),
                    "allow_users": sorted(one.allow_users),
                }
                for name, one in self.advertisers.items()
                if one != AdvertiserRules()
            },
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return f"5-{digest[:12]}"

    @property
    def allows(self) -> bool:
        """Whether there are users or addresses that no rule judges."""
        return any(one.allow_ips.networks or one.allow_users for one in self.advertisers.values())

    def _rules(self) -> tuple[Any, ...]:
        return (*self.event_rules, *self.window_rules, *self.history_rules, *self.series_rules)

    def limits(self, rule: WindowRule | HistoryRule) -> Limits:
        """The threshold of a rule, with those of single advertisers."""
        overrides = {
            name: int(one.thresholds[rule.NAME])
            for name, one in self.advertisers.items()
            if rule.NAME in one.thresholds
        }
        return Limits(rule.threshold, overrides)

    def judge_events(self, events: pl.DataFrame, mark_allowed: bool = False) -> pl.Series:
        """The names of the rules that each event breaks, null where there are none.

        Args:
            events: with ``advertiser_id``, ``user_agent``, ``user_id`` and ``ip``, as text.
            mark_allowed: give events that no rule judges the reason ``ALLOWED``, for the tally.

        Returns:
            ``ivt_reasons``, lists of text.
        """
        bits = pl.repeat(0, events.height, eager=True, dtype=pl.UInt32)
        allowed = self.allowed(events)
        for number, rule in enumerate(self.event_rules):
            invalid = rule.judge(events, self.lists) & ~self._off(events, rule.NAME) & ~allowed
            bits |= invalid.cast(pl.UInt32) * (1 << number)
        named = [
            [rule.NAME for number, rule in enumerate(self.event_rules) if value >> number & 1]
            or None
            for value in range(1 << len(self.event_rules))
        ]
        if mark_allowed and allowed.any():
            named.append([ALLOWED])
            bits = bits.set(allowed, len(named) - 1)
        return pl.Series("ivt_reasons", named, pl.List(pl.String)).gather(bits)

    def judge_clicks(self, clicks: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series]:
        """What the rules within windows find among counted clicks.

        Args:
            clicks: without those that no rule judges.

        Returns:
            Flags (``FLAG_COLUMNS``, ``rule`` and ``ivt_class``), and the ``row`` of each click
            that is invalid, some of them more than once.
        """
        flags, rows = [NO_FLAGS], [Found.nothing().rows]
        for rule in self.window_rules:
            found = rule.judge(self._on(clicks, rule.NAME), self.limits(rule))
            if found.rows.len():
                flags.append(_named(found, rule))
                rows.append(found.rows)
        return pl.concat(flags), pl.concat(rows)

    def judge_history(self, history: History) -> tuple[pl.DataFrame, pl.DataFrame]:
        """What the rules over history windows find.

        Returns:
            Flags as :meth:`judge_clicks`, and ``row`` and ``ivt_class`` of each event that a rule
            calls invalid, some of them more than once.
        """
        nothing = Found.nothing().rows.to_frame().with_columns(ivt_class=pl.lit(""))
        flags, rows = [NO_FLAGS], [nothing]
        for rule in self.history_rules:
            events = self._on(history.events, rule.NAME)
            found = rule.judge(replace(history, events=events), self.limits(rule))
            if found.rows.len():
                flags.append(_named(found, rule))
                named = found.rows.alias("row").to_frame()
                rows.append(named.with_columns(ivt_class=pl.lit(rule.IVT_CLASS)))
        return pl.concat(flags), pl.concat(rows)

    def judge_series(self, series: Series) -> pl.DataFrame:
        """Flags as :meth:`judge_clicks`, of windows that leave their series' own past."""
        flags = [NO_FLAGS]
        for rule in self.series_rules:
            scores = {
                name: float(one.thresholds[rule.NAME])
                for name, one in self.advertisers.items()
                if rule.NAME in one.thresholds
            }
            rows = self._on(series.rows, rule.NAME)
            own = replace(series, rows=rows, season=self.lists.season)
            verdicts = rule.judge(own, Scores(rule.threshold, scores))
            found = verdicts.filter(pl.col("state") == ANOMALY).with_columns(
                rule=pl.lit(rule.NAME), ivt_class=pl.lit(rule.IVT_CLASS)
            )
            flags.append(found.select(NO_FLAGS.columns))
        return pl.concat(flags)

    def suspects(self, clicks: pl.DataFrame) -> pl.DataFrame:
        """(advertiser_id, window) that an earlier pane may have flagged.

        Args:
            clicks: as for :meth:`judge_clicks`, with those that are not counted.
        """
        found = [
            rule.suspects(self._on(clicks, rule.NAME), self.limits(rule))
            for rule in self.window_rules
        ]
        return pl.concat(found).unique() if found else NO_FLAGS.select("advertiser_id", "window")

    def _on(self, events: pl.DataFrame, rule: str) -> pl.DataFrame:
        off = self._off(events, rule)
        return events.filter(~off) if off.any() else events

    def _off(self, events: pl.DataFrame, rule: str) -> pl.Series:
        names = [name for name, one in self.advertisers.items() if rule in one.off]
        if not names:
            return pl.repeat(False, events.height, eager=True, dtype=pl.Boolean)
        return events["advertiser_id"].cast(pl.String).is_in(names)

    def allowed(self, events: pl.DataFrame) -> pl.Series:
        """True for events that no rule judges.

        Args:
            events: with ``advertiser_id``, ``user_id`` and ``ip``, as they came.
        """
        allowed = pl.repeat(False, events.height, eager=True, dtype=pl.Boolean)
        given = {
            name: one
            for name, one in self.advertisers.items()
            if one.allow_ips.networks or one.allow_users
        }
        if not given:
            return allowed
        advertisers = events["advertiser_id"].cast(pl.String)
        for name in given.keys() & set(advertisers.unique().to_list()):
            one = given[name]
            theirs = advertisers == name
            known = events["user_id"].is_in(list(one.allow_users)).fill_null(False)
            if one.allow_ips.networks:
                known |= one.allow_ips.contain(events["ip"]).fill_null(False)
            allowed |= theirs & known
        return allowed


def _named(found: Found, rule: WindowRule | HistoryRule) -> pl.DataFrame:
    named = found.flags.with_columns(rule=pl.lit(rule.NAME), ivt_class=pl.lit(rule.IVT_CLASS))
    return named.select(NO_FLAGS.columns)


def _plain(value: Any) -> Any:
    """A setting as it counts: 3 and 3.0 are one threshold."""
    is_whole = isinstance(value, float) and value.is_integer()
    return int(value) if is_whole else value

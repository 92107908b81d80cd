"""Rules that judge an event by itself: ``givt_known_bot_ua``, ``givt_invalid_ua``,
``givt_datacenter_ip``.

They run where events are decoded, see full values whatever is stored of them, and leave their names
in the event log (``ivt_reasons``), so that a re-tally takes the verdict from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import polars as pl

from adtally.transforms.rules.base import GIVT, EventRule, by_distinct
from adtally.transforms.rules.lists import Lists
from adtally.transforms.rules.user_agents import applications, known_crawlers

_EMPTY: Final = ("", "-", "null", "none", "undefined", "unknown", "n/a")
"""What stands for "no user agent" in logs."""


@dataclass(frozen=True)
class KnownBotUserAgent(EventRule):
    """The user agent names a robot that says what it is.

    Lists: the package ``crawler-user-agents``, and the user's own, such as the licensed IAB/ABC
    International Spiders and Bots List (which the MRC requires for GIVT).

    Weakness: robots that lie pass. Some apps use the user agent of their HTTP library, which the
    package lists; switch it off (``crawlers = false``) or the rule for those advertisers. Events
    without a user agent are not judged.
    """

    NAME: ClassVar[str] = "givt_known_bot_ua"
    IVT_CLASS: ClassVar[str] = GIVT

    def judge(self, events: pl.DataFrame, lists: Lists) -> pl.Series:
        """See :class:`adtally.transforms.rules.base.EventRule`."""
        return by_distinct(events["user_agent"], lambda texts: _robots(texts, lists))


def _robots(texts: pl.Series, lists: Lists) -> pl.Series:
    found = lists.robots.match(texts)
    return found | known_crawlers(texts) if lists.crawlers else found


@dataclass(frozen=True)
class InvalidUserAgent(EventRule):
    """A user agent that is blank, or none of a browser or an app.

    After ``VerifyMetadata`` of mozilla/gcp-ingestion. With the IAB's list of browsers, that list
    says which are valid; without it, what browsers, web views and the HTTP stacks of Android and
    Apple begin with.

    Weakness: apps with user agents of their own; bring a list, or switch it off for them.

    Attributes:
        missing: whether an event without the field, or with an empty one, is invalid too. Off,
            because many sources never have one, which is not enough data.
    """

    NAME: ClassVar[str] = "givt_invalid_ua"
    IVT_CLASS: ClassVar[str] = GIVT
    missing: bool = False

    def judge(self, events: pl.DataFrame, lists: Lists) -> pl.Series:
        """See :class:`adtally.transforms.rules.base.EventRule`."""
        return by_distinct(events["user_agent"], lambda texts: self._invalid(texts, lists))

    def _invalid(self, texts: pl.Series, lists: Lists) -> pl.Series:
        browsers = applications(texts) if lists.browsers is None else lists.browsers.match(texts)
        plain = texts.str.strip_chars().str.to_lowercase()
        invalid = plain.is_in(_EMPTY) | ~browsers
        return pl.select(
            pl.when(texts.is_null()).then(pl.lit(self.missing)).otherwise(invalid)
        ).to_series()


@dataclass(frozen=True)
class DatacenterIp(EventRule):
    """The address lies in a network of servers, where people do not browse from.

    Lists: files of networks that the user brings; without one nothing is flagged.

    Weakness: corporate proxies and VPNs leave from data centres too. A text that is no address
    (a token) is not judged.
    """

    NAME: ClassVar[str] = "givt_datacenter_ip"
    IVT_CLASS: ClassVar[str] = GIVT

    def judge(self, events: pl.DataFrame, lists: Lists) -> pl.Series:
        """See :class:`adtally.transforms.rules.base.EventRule`."""
        if not lists.datacenters.networks:
            return pl.repeat(False, events.height, eager=True, dtype=pl.Boolean)
        return by_distinct(events["ip"], lists.datacenters.contain).fill_null(False)

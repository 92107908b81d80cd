"""What pages ask of a place that has summaries, whichever it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol

from adtally.pipelines.dashboard.view import View

Row = dict[str, Any]

EVENTS: Final = ("impressions", "clicks", "conversions")
SUMMED: Final = (*EVENTS, "cost_micros")
"""What rules judge: each has ``givt_``, ``sivt_`` and ``net_``."""

SUMS: Final = (
    *(f"{kind}{name}" for name in SUMMED for kind in ("", "givt_", "sivt_", "net_")),
    "revenue_micros",
    "duplicates",
)
LISTED: Final = (*(f"{kind}{name}" for name in SUMMED for kind in ("", "net_")),)
"""Of the list of advertisers."""

CHARTED: Final = (*LISTED, "revenue_micros")
"""Of charts, and of the sums above them."""

MOST_ADVERTISERS: Final = 20_000
MOST_VERDICTS: Final = 200
MOST_VALUES: Final = 10


class Verdicts(NamedTuple):
    """What rules found.

    Attributes:
        rules: ``verdicts`` and ``events``, by ``rule``, ``ivt_class`` and ``subject_type``.
        newest: verdicts, the newest first: ``window_start``, ``window_end`` (aware), ``rule``,
            ``ivt_class``, ``subject_type``, ``subject``, ``count``, ``threshold``, ``evidence``.
    """

    rules: list[Row]
    newest: list[Row]


class Reader(Protocol):
    """A place that has summaries. Calls come from several threads.

    Raises:
        Unreachable: it does not answer, or not to these credentials.
    """

    name: str

    def advertisers(self, view: View) -> list[Row]:
        """``LISTED`` by ``advertiser_id`` and ``currency``, with ``last_event_at`` (aware)."""

    def sparks(self, view: View) -> dict[str, list[int]]:
        """Clicks of each step, by advertiser, of the few that the view names."""

    def series(self, view: View, names: Sequence[str] = SUMS) -> list[Row]:
        """Sums by ``start`` (ms) and ``currency``, in order; ``final`` where all of it is."""

    def top(self, view: View, dimension: str) -> list[Row]:
        """``LISTED`` by ``value`` and ``currency``, most clicks first, ``MOST_VALUES`` of them.

        Net is None where rows were folded and it is not known here.
        """

    def verdicts(self, view: View, most: int = MOST_VERDICTS) -> Verdicts:
        """What rules found, those that look back too; ``most`` of the newest."""

    def anomalies(self, view: View) -> list[Row]:
        """By time, of up to 10,000 hours of advertisers: ``advertiser_id``, ``flagged_at`` (aware),
        ``rule``, ``subject``, ``count``, ``threshold``."""


class Unreachable(RuntimeError):
    """A place cannot be read now; says why, and what to do."""

"""Pages as HTML."""

from __future__ import annotations

import datetime
import decimal
import math
from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request

from adtally.io.schema import NO_CURRENCY
from adtally.io.shown import shown_line
from adtally.pipelines.daily_page import MICROS, missing
from adtally.pipelines.dashboard.board import Asked, Board
from adtally.pipelines.dashboard.view import RANGES, utc

_KEPT: Final = ("range", "until", "source")
"""Of an address: what links to other pages keep."""


class Pages:
    """Renders the templates.

    Raises:
        ConfigError: what renders them is not installed.
    """

    def __init__(self, board: Board) -> None:
        try:
            import jinja2
        except ImportError as error:
            raise missing(error, "dashboard") from error

        self._board = board
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader("adtally.pipelines.dashboard"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        self._environment.filters |= {
            "count": lambda value: f"{value:,}",
            "money": _money,
            "line": lambda text: "(none)" if text is None else shown_line(str(text)),
            "share": _share,
            "clock": self._clock,
            "day": self._day,
            "iso": lambda at: _aware(at).isoformat(timespec="seconds"),
            "ago": _ago,
            "duration": _duration,
            "ms": lambda at: round(at.timestamp() * 1000),
        }
        self._environment.globals |= {"no_currency": NO_CURRENCY, "ranges": list(RANGES)}

    def show(self, name: str, request: Request, asked: Asked, **content: Any) -> str:
        """A page of figures."""
        given = dict(request.query_params)

        def link(path: str = request.url.path, **changed: Any) -> str:
            kept = (
                given
                if path == request.url.path
                else {k: v for k, v in given.items() if k in _KEPT}
            )
            query = {k: v for k, v in {**kept, **changed}.items() if v is not None}
            return path + (f"?{urlencode(query)}" if query else "")

        shown = content.get("shown")
        moves = self._moves(shown) if shown else {}
        return self._environment.get_template(f"{name}.html").render(
            asked=asked,
            link=link,
            visitor=request.state.visitor,
            board=self._board,
            fresh=self._board.fresh(),
            now=utc(asked.now_ms),
            zone=self._board.zone.key,
            path=request.url.path,
            given=given,
            moves=moves,
            **content,
        )

    def _moves(self, shown: Any) -> dict[str, str]:
        """Ends of the ranges before and after."""
        view = shown.view
        length = view.to_ms - view.from_ms
        found = {"earlier": _z(view.from_ms)}
        if not shown.stale and view.to_ms < view.now_ms:
            found["later"] = _z(view.to_ms + length)
        return found

    def login(self, there: str, wrong: bool = False) -> str:
        """Where a token is asked for."""
        return self._environment.get_template("login.html").render(there=there, wrong=wrong)

    def error(self, title: str, told: str, again: bool = False, files: str = "") -> str:
        """What went wrong, and what to do: ``files`` is where the same is read from files."""
        return self._environment.get_template("error.html").render(
            title=title, told=told, again=again, files=files
        )

    def _clock(self, at: Any) -> str:
        return f"{_aware(at).astimezone(self._board.zone):%Y-%m-%d %H:%M}"

    def _day(self, at: Any) -> str:
        return f"{_aware(at).astimezone(self._board.zone):%-d %b %Y, %H:%M}"


def _z(ms: int) -> str:
    return f"{utc(ms):%Y-%m-%dT%H:%M:%SZ}"


def _aware(at: Any) -> datetime.datetime:
    """A moment, also of milliseconds."""
    if isinstance(at, datetime.datetime):
        return at
    return utc(int(at))


def _money(micros: int) -> str:
    """With two decimals; what is less than a hundredth, in full."""
    amount = decimal.Decimal(micros) / MICROS
    if amount and abs(amount) < decimal.Decimal("0.01"):
        return f"{amount.normalize():f}"
    return f"{amount:,.2f}"


def _share(part: float, whole: float = 1) -> str:
    return f"{part / whole:.1%}" if whole else "0%"


def _ago(seconds: float | None) -> str:
    return "never" if seconds is None else f"{_duration(seconds)} ago"


def _duration(seconds: float) -> str:
    """Roughly, as people say it."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length or seconds == length:
            return f"{math.floor(seconds / length):,} {unit}"
    return f"{max(0, round(seconds))} s"

"""Charts as SVG, drawn here: pages need no script for them."""

from __future__ import annotations

import datetime
import functools
import zoneinfo
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from adtally.pipelines.daily_page import COLORS, MICROS, missing
from adtally.pipelines.dashboard.reader import Row
from adtally.pipelines.dashboard.view import DAY_MS, View, utc

_WIDTH, _HEIGHT = 420, 150
_ANOMALY: Final = "#CC79A7"
"""Of Okabe and Ito (2008), as ``COLORS``; told apart by its shape as well."""

_PROVISIONAL: Final = 0.5
_KEPT: Final = 512


def chart(
    rows: Sequence[Row],
    view: View,
    measure: str,
    currency: str,
    zone: zoneinfo.ZoneInfo,
    anomalies: Sequence[Row] = (),
) -> str:
    """Bars by step, net below invalid, paler while they may change; anomalies above them.

    Args:
        rows: as :meth:`~adtally.pipelines.dashboard.reader.Reader.series` gives them.
        view: what they are of.
        measure: such as ``clicks`` or ``cost_micros``.
        currency: of rows that are summed; all if empty.
        zone: of the clock that is written below.
        anomalies: those to mark.

    Returns:
        An ``<svg>`` whose parts tell what they are in ``aria-label``.
    """
    unit = MICROS if measure.endswith("_micros") else 1
    sums = {start: [0, 0, True] for start in view.starts()}
    for row in rows:
        if row["start"] in sums and (not currency or row["currency"] == currency):
            found = sums[row["start"]]
            found[0] += row[f"net_{measure}"]
            found[1] += row[measure] - row[f"net_{measure}"]
            found[2] = found[2] and row["final"]
    offset = _offset_ms(view, zone)
    bars = []
    for start, (net, invalid, final) in sums.items():
        if not (net or invalid):
            continue
        clock = utc(start + offset)
        told = (
            f"{clock:%b %-d, %H:%M}: {net / unit:,.10g} net, {invalid / unit:,.10g} invalid"
            f"{'' if final else ', provisional'}"
        )
        bar = {"from": start + offset, "to": start + offset + view.step_ms, "told": told}
        bar["final"] = bool(final)
        for kind, low, high in zip(COLORS, (0, net), (net, net + invalid), strict=True):
            if low != high:
                bars.append({**bar, "kind": kind, "low": low / unit, "high": high / unit})
    marks = []
    for one in anomalies:
        ms = round(one["flagged_at"].timestamp() * 1000)
        start = (ms - view.from_ms) // view.step_ms * view.step_ms + view.from_ms
        if start not in sums:
            continue
        told = (
            f"{utc(ms + offset):%b %-d, %H:%M}: unusual {one['subject']}, {one['count']:,}; "
            f"beyond {one['threshold']:,} is unusual"
        )
        marks.append(
            {
                "at": start + offset + view.step_ms // 2,
                "value": sum(sums[start][:2]) / unit,
                "told": told,
            }
        )
    scale = [view.from_ms + offset, view.to_ms + offset]
    return _drawn(msgspec.json.encode([bars, marks, scale, unit > 1]))


@functools.lru_cache(_KEPT)
def _drawn(content: bytes) -> str:
    try:
        import vl_convert
    except ImportError as error:
        raise missing(error, "dashboard") from error

    bars, marks, scale, money = msgspec.json.decode(content)
    return str(vl_convert.vegalite_to_svg(_spec(bars, marks, scale, money)))


def _spec(bars: list[Row], marks: list[Row], scale: list[int], money: bool) -> dict[str, Any]:
    days = scale[1] - scale[0] > DAY_MS
    x = {
        "type": "temporal",
        "scale": {"type": "utc", "domain": scale},
        "axis": {
            "title": None, "grid": False, "tickCount": 5, "labelOverlap": True,
            "format": "%b %-d" if days else "%H:%M",
        },
    }  # fmt: skip
    y = {
        "type": "quantitative",
        "scale": {"zero": True, "nice": True},
        "axis": {"title": None, "tickCount": 4, "format": ",.2~f" if money else ",~f"},
    }
    layers: list[dict[str, Any]] = [
        {
            "data": {"values": bars},
            "mark": {"type": "rect", "xOffset": 0.4, "x2Offset": -0.4},
            "encoding": {
                "x": {"field": "from", **x},
                "x2": {"field": "to"},
                "y": {"field": "low", **y},
                "y2": {"field": "high"},
                "color": {
                    "field": "kind", "type": "nominal", "legend": None,
                    "scale": {"domain": list(COLORS), "range": list(COLORS.values())},
                },
                "opacity": {
                    "condition": {"test": "datum.final", "value": 1}, "value": _PROVISIONAL,
                },
                "description": {"field": "told"},
            },
        }
    ]  # fmt: skip
    if marks:
        layers.append(
            {
                "data": {"values": marks},
                "mark": {
                    "type": "point", "shape": "triangle-down", "size": 70, "filled": True,
                    "yOffset": -8, "color": _ANOMALY, "opacity": 1, "clip": False,
                },
                "encoding": {
                    "x": {"field": "at", **x}, "y": {"field": "value", **y},
                    "description": {"field": "told"},
                },
            }
        )  # fmt: skip
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "width": _WIDTH,
        "height": _HEIGHT,
        "background": "transparent",
        "padding": {"left": 2, "right": 10, "top": 12, "bottom": 2},
        "config": {
            "view": {"stroke": None},
            "font": "system-ui, sans-serif",
            "axis": {"labelFontSize": 12},
        },
        "layer": layers,
    }


def _offset_ms(view: View, zone: zoneinfo.ZoneInfo) -> int:
    """Of the zone's clock at the end of the range; one for all, so that no hour is drawn twice."""
    found = utc(view.to_ms).astimezone(zone).utcoffset() or datetime.timedelta()
    return round(found.total_seconds() * 1000)


def spark(values: Sequence[int], width: int = 96, height: int = 24) -> str:
    """Points of a line, for ``<polyline points>``."""
    most = max(values, default=0) or 1
    step = width / max(1, len(values) - 1)
    return " ".join(
        f"{at * step:.1f},{height - 1 - value / most * (height - 2):.1f}"
        for at, value in enumerate(values)
    )

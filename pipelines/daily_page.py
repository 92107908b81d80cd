"""A day as one HTML file: charts inside, nothing from elsewhere."""

from __future__ import annotations

import datetime
import decimal
import importlib.resources
import zoneinfo
from typing import Any, Final

from adtally.io.schema import NO_CURRENCY
from adtally.io.shown import shown_line
from adtally.pipelines.daily import EVENTS, Day
from adtally.pipelines.job import ConfigError

MICROS: Final = 1_000_000
COLORS: Final = {"net": "#0072B2", "invalid": "#D55E00"}
"""Of Okabe and Ito (2008): told apart by colour-blind people, and in grey."""

_WIDTH, _HEIGHT = 640, 150
_NAMES: Final = {"cost_micros": "spend"}


def page(day: Day) -> str:
    """The file.

    Raises:
        ConfigError: what draws it is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise missing(error) from error

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"count": _count, "money": _money, "line": _line, "share": _share}
    template = importlib.resources.files("adtally.pipelines").joinpath("templates/daily.html")
    zone = zoneinfo.ZoneInfo(day.zone)
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        day=day,
        events=_summed(day),
        charts=[(name, chart(day, name, currency)) for name, currency in shown_series(day)],
        clock=lambda at: f"{at.astimezone(zone):%Y-%m-%d %H:%M}",
        money=[row for row in day.totals if row["cost_micros"] or row["revenue_micros"]],
        none=NO_CURRENCY,
    )


def missing(error: ImportError, extra: str = "report") -> ConfigError:
    """What to install."""
    return ConfigError(
        f"this needs {error.name}, which is not installed: pip install 'adtally[{extra}]'."
    )


def shown_series(day: Day) -> list[tuple[str, str]]:
    """What has a chart: events that there were, and spend by currency."""
    events = [(name, "") for name in EVENTS if any(row[name] for row in day.totals)]
    money = [("cost_micros", row["currency"]) for row in day.totals if row["cost_micros"]]
    return events + money


def chart(day: Day, measure: str, currency: str) -> str:
    """Bars by the hour, net below invalid, as SVG with no text of others in it."""
    try:
        import altair
        import vl_convert
    except ImportError as error:
        raise missing(error) from error

    name = _NAMES.get(measure, measure)
    values = _bars(day, measure, currency)
    title = f"{name}, {currency}" if currency else name
    order = {"net": 0, "invalid": 1}
    drawn = (
        altair.Chart(
            altair.Data(values=[{**one, "order": order[one["kind"]]} for one in values]),
            width=_WIDTH,
            height=_HEIGHT,
            description=f"{title} by the hour, net and invalid",
        )
        .mark_bar()
        .encode(
            x=altair.X(
                "hour:O", title=None, sort=None, axis=altair.Axis(labelAngle=0, labelOverlap=True)
            ),
            y=altair.Y("value:Q", title=title, axis=altair.Axis(tickCount=4, format=",~f")),
            color=altair.Color(
                "kind:N",
                title=None,
                scale=altair.Scale(domain=list(COLORS), range=list(COLORS.values())),
                legend=altair.Legend(orient="top"),
            ),
            order=altair.Order("order:Q"),
            tooltip=["hour:O", "kind:N", "value:Q"],
        )
        .configure_view(stroke=None)
        .configure(font="system-ui, sans-serif", background="transparent")
    )
    return str(vl_convert.vegalite_to_svg(drawn.to_json()))


def _bars(day: Day, measure: str, currency: str) -> list[dict[str, Any]]:
    """Every hour of the day, those without events too; an hour that is shown twice is two bars."""
    zone = zoneinfo.ZoneInfo(day.zone)
    start = datetime.datetime.combine(day.date, datetime.time(), zone).astimezone(datetime.UTC)
    end = datetime.datetime.combine(day.date + datetime.timedelta(days=1), datetime.time(), zone)
    sums: dict[datetime.datetime, list[int]] = {}
    while start < end:
        sums[start] = [0, 0]
        start += datetime.timedelta(hours=1)
    for row in day.hours:
        if not currency or row["currency"] == currency:
            found = sums.setdefault(row["start"].astimezone(datetime.UTC), [0, 0])
            found[0] += row[f"net_{measure}"]
            found[1] += row[measure] - row[f"net_{measure}"]
    unit = MICROS if measure.endswith("_micros") else 1
    bars, labels = [], set()
    for at in sorted(sums):
        label = f"{at.astimezone(zone):%H:%M}".removesuffix(":00")
        while label in labels:
            label += "\u2032"
        labels.add(label)
        for kind, value in zip(COLORS, sums[at], strict=True):
            bars.append({"hour": label, "kind": kind, "value": value / unit})
    return bars


def _summed(day: Day) -> list[dict[str, Any]]:
    """Counts over all currencies: an event is one, whatever it cost."""
    return [
        {
            "name": name,
            "gross": sum(row[name] for row in day.totals),
            "givt": sum(row[f"givt_{name}"] for row in day.totals),
            "sivt": sum(row[f"sivt_{name}"] for row in day.totals),
            "net": sum(row[f"net_{name}"] for row in day.totals),
        }
        for name in EVENTS
    ]


def _count(value: int) -> str:
    return f"{value:,}"


def _money(micros: int) -> str:
    """Exact, with two decimals or as many as there are."""
    amount = decimal.Decimal(micros) / MICROS
    digits = max(2, -int(amount.normalize().as_tuple().exponent))
    return f"{amount:,.{digits}f}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""


def _line(text: str | None) -> str:
    return "(none)" if text is None else shown_line(text)

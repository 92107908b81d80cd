"""``python -m benchmarks.charts``: charts of docs/faults.md and docs/capacity.md, from their data.

Their text is that of the pages' tables; nothing is measured here. ``make charts`` runs it.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any, Final

import altair
import vl_convert

DOCS: Final = Path(__file__).parent.parent / "docs"
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#7a828a"
"""Of Okabe and Ito (2008), and a grey that can be read on white and on black."""


def faults(data: dict[str, Any]) -> altair.Chart:
    """Seconds until everything was right again, by fault: median and slowest."""
    rows = []
    for fault in data["faults"].values():
        seconds = [run["seconds"] for run in fault["runs"] if run["seconds"] is not None]
        if seconds:
            rows.append(
                {
                    "fault": fault["title"],
                    "median": round(statistics.median(seconds)),
                    "slowest": round(max(seconds)),
                    "times": len(fault["runs"]),
                }
            )
    base = altair.Chart(altair.Data(values=rows), width=420, height={"step": 18}).encode(
        y=altair.Y("fault:N", title=None, sort="-x", axis=altair.Axis(labelLimit=420))
    )
    bars = base.mark_bar(color=BLUE).encode(
        x=altair.X("median:Q", title="s from the fault to numbers that are right (bar: median)")
    )
    ends = base.mark_tick(color=ORANGE, thickness=3).encode(x="slowest:Q")
    text = base.mark_text(align="left", dx=5, color=GREY).encode(x="slowest:Q", text="slowest:Q")
    return altair.layer(bars, ends, text)


def capacity(data: dict[str, Any]) -> altair.Chart:
    """Processor seconds a million events, by the size of the day."""
    rows = [
        {
            "day": f"{day['case']['name']} ({day['events']:,} events)",
            "seconds": round(day["cpu_s"] / day["events"] * 1_000_000, 1),
            "indexed": "with Elasticsearch" if day["case"]["indexed"] else "Parquet alone",
        }
        for day in data["days"]
    ]
    base = altair.Chart(altair.Data(values=rows), width=420, height={"step": 22}).encode(
        y=altair.Y("day:N", title=None, sort=None, axis=altair.Axis(labelLimit=300)),
        x=altair.X("seconds:Q", title="processor seconds a million events"),
    )
    bars = base.mark_bar().encode(
        color=altair.Color(
            "indexed:N", title=None, scale=altair.Scale(range=[ORANGE, BLUE]),
            legend=altair.Legend(orient="top"),
        )
    )  # fmt: skip
    return altair.layer(
        bars, base.mark_text(align="left", dx=5, color=GREY).encode(text="seconds:Q")
    )


CHARTS: Final = {"faults": faults, "capacity": capacity}
"""By name of the data file, the page and the drawing."""


def svg(chart: altair.Chart) -> str:
    """A drawing that can be read on light and dark pages."""
    drawn = chart.configure(background="transparent", font="sans-serif").configure_view(stroke=None)
    for part in ("axis", "legend"):
        colors = {"labelColor": GREY, "titleColor": GREY}
        grid = {"gridColor": "#7a828a40", "domainColor": GREY, "tickColor": GREY}
        drawn = getattr(drawn, f"configure_{part}")(**colors, **(grid if part == "axis" else {}))
    return str(vl_convert.vegalite_to_svg(drawn.to_json()))


def main() -> None:
    for name, draw in CHARTS.items():
        data = json.loads((DOCS / f"{name}.json").read_text(encoding="utf-8"))
        (DOCS / f"{name}.svg").write_text(svg(draw(data)) + "\n", encoding="utf-8")
        print(f"docs/{name}.svg")


if __name__ == "__main__":
    main()

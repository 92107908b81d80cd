"""``adtally report``: its figures are those of the views, and nothing in it can do harm."""

from __future__ import annotations

import datetime
import html.parser
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from adtally.pipelines import daily
from adtally.pipelines.cli import cli
from adtally.pipelines.daily_page import page
from tests.pipelines.test_oracle import made_up, views
from tests.pipelines.test_oracle import run as run_well

MARCH = 1_772_323_200_000  # 2026-03-01T00:00:00Z
WHO = "adv-00000"


def report(output: Path, to: Path, *more: str, date: str = "2026-03-01") -> Result:
    given = ("--output", str(output), "--date", date, "--to", str(to))
    return CliRunner().invoke(cli, ["report", *given, *more])


class Read(html.parser.HTMLParser):
    """Texts of cells by row, tags, and addresses that a browser would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loads: list[str] = []
        self.rows: list[list[str]] = []
        self.cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loads += [str(value) for name, value in attrs if name in ("src", "href", "action")]
        self.loads += [f"{name}={value}" for name, value in attrs if name.startswith("on")]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self.cell = True

    def handle_endtag(self, tag: str) -> None:
        self.cell = self.cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.cell:
            self.rows[-1][-1] += data.strip()


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report")
    logs, _ = made_up(path, 8, events=6_000, hours=26, start_ms=MARCH, advertisers=3)
    options = ("--dimensions", "campaign_id", "--rollup", "1h")
    run_well("backfill", "--input", str(logs), "--output", str(path / "out"), *options)
    return path / "out"


def number(text: str) -> float:
    return float(text.replace(",", "")) if text else 0.0


def test_its_figures_are_those_of_the_views(output: Path, tmp_path: Path) -> None:
    done = report(output, tmp_path / "r.html", "--advertiser", WHO)
    assert done.exit_code == 0 and "final" in done.output, done.output
    read = Read((tmp_path / "r.html").read_text())
    sums_shown = [row for row in read.rows if len(row) == 5 and row[0] != "events"]
    found = {row[0]: [number(cell) for cell in row[1:]] for row in sums_shown}
    day = f"""FROM net_summaries WHERE window_seconds = 60 AND advertiser_id = '{WHO}'
        AND window_start >= '2026-03-01' AND window_start < '2026-03-02'"""
    sql = views(output)
    for name in daily.EVENTS:
        sums = ", ".join(f"sum({kind}{name})" for kind in ("", "givt_", "sivt_", "net_"))
        assert found[name] == list(map(float, sql.execute(f"SELECT {sums} {day}").fetchone() or ()))
    assert found["clicks"][0] > found["clicks"][3] > 0
    sums = ", ".join(f"sum({kind}cost_micros)" for kind in ("", "givt_", "sivt_", "net_"))
    money = sql.execute(f"SELECT currency, {sums} {day} GROUP BY 1 HAVING sum(cost_micros) > 0")
    by_currency = {row[0]: [value / 1e6 for value in row[1:]] for row in money.fetchall()}
    assert by_currency and {f"spend, {name}" for name in by_currency} <= found.keys()
    for name, values in by_currency.items():
        assert found[f"spend, {name}"] == pytest.approx(values, abs=1e-9)
    top = sql.execute(
        f"SELECT campaign_id, sum(clicks)::INT, sum(net_clicks)::INT {day} GROUP BY 1, currency"
    ).fetchall()
    rows = [row for row in read.rows if len(row) == 6 and row[0] != "campaign"]
    shown = [(row[0], number(row[2]), number(row[3])) for row in rows]
    assert len(shown) == min(daily.TOP, len(top)) and shown[0][1] == max(row[1] for row in top)
    assert set(shown) <= {("(none)" if x is None else x, clicks, net) for x, clicks, net in top}


def test_hours_and_days_are_those_of_the_zone(output: Path) -> None:
    """New York's day of 1 March is five hours later; days with 23 and 25 hours are as long."""
    local = daily.day(str(output), WHO, datetime.date(2026, 3, 1), "America/New_York")
    sql = """SELECT sum(clicks)::INT FROM summaries WHERE window_seconds = 60 AND advertiser_id = ?
        AND window_start >= '2026-03-01T05:00Z' AND window_start < '2026-03-02T05:00Z'"""
    assert (
        sum(row["clicks"] for row in local.totals)
        == views(output).execute(sql, [WHO]).fetchall()[0][0]
    )
    assert sum(row["clicks"] for row in local.hours) == sum(row["clicks"] for row in local.totals)
    for date, hours in (("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24)):
        start, end = daily.bounds(datetime.date.fromisoformat(date), "Europe/Berlin")
        assert end - start == hours * 3_600_000


def test_nothing_is_loaded_and_nothing_runs(tmp_path: Path) -> None:
    """Ids are whatever a producer sends; the file goes to a customer."""
    evil = "<script>alert(1)</script>\"'><img src=https://evil.example/x onerror=alert(1)>"
    lines = [
        {"event_type": "click", "event_id": f"{evil}{n}", "advertiser_id": evil,
         "campaign_id": evil, "ip": "203.0.113.9", "occurred_at": f"2026-03-01T10:00:{n:02}Z",
         "cost_micros": 1, "currency": "EUR"}
        for n in range(40)
    ]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "out"
    given = ("--input", str(tmp_path / "a.jsonl"), "--output", str(out))
    run_well("backfill", *given, "--dimensions", "campaign_id")
    done = report(out, tmp_path / "r.html", "--advertiser", evil)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "r.html").read_text()
    read = Read(text)
    assert not read.tags & {"script", "img", "iframe", "object", "link", "base", "form"}
    assert read.loads == [] and "203.0.113.9" not in text
    assert "default-src 'none'" in text
    assert not set(re.findall(r"https?://[^\"' <&]+", text)) - {
        "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink", "https://evil.example/x",
    }  # fmt: skip
    assert any(row[0] == "givt_click_rate_ip" and row[2] == "40" for row in read.rows)
    assert "0.00004" in text  # micros are not rounded away


def test_what_is_not_final_says_so(output: Path) -> None:
    made: Any = daily.day(str(output), WHO, datetime.date(2026, 3, 1))
    assert made.final and "provisional" not in page(made).partition("<body>")[2]
    early = made.final_at - datetime.timedelta(minutes=1)
    object.__setattr__(made, "made_at", early)
    assert "provisional until 2026-03-02" in page(made)


def test_wrong_use_is_said(output: Path, tmp_path: Path) -> None:
    to = tmp_path / "r.html"
    nobody = report(output, to, "--advertiser", "nobody")
    assert nobody.exit_code == 2 and f"advertisers on that day: {WHO}" in nobody.output
    never = report(output, to, "--advertiser", WHO, date="2020-01-01")
    assert never.exit_code == 2 and "nobody has, on that day" in never.output
    assert "write it as" in report(output, to, "--advertiser", WHO, date="March").output
    zone = report(output, to, "--advertiser", WHO, "--time-zone", "Berlin")
    assert zone.exit_code == 2 and "is no IANA zone" in zone.output
    assert report(tmp_path, to, "--advertiser", WHO).exit_code == 2
    assert not to.exists()

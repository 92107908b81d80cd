"""The campaign's own arithmetic: what counts as lost, double and wrong, and its page."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.faults import report
from tests.faults.campaign import campaign
from tests.faults.catalogue import FAULTS
from tests.faults.load import Difference, compared, compared_events
from tests.faults.stage import Run

ROWS = [(60_000 * n, "a", "EUR", 3, 2, 1, 1, 0.5) for n in range(3)]
RUN = Run(900, 850, 850, 0, 0, 0, 7, 12.0, 60.0, 1, ["Elasticsearch at N: status 429 (3 times)"], 1)


def changed(row: Any, at: int, value: Any) -> Any:
    return (*row[:at], value, *row[at + 1 :])


@pytest.mark.parametrize(
    ("actual", "difference"),
    [
        (ROWS, Difference()),
        (ROWS[1:], Difference(lost=7)),
        ([*ROWS, (0, "b", "EUR", 1, 0, 0, 0, 0.1)], Difference(double=1)),
        ([*ROWS, ROWS[0]], Difference(double=7)),
        ([changed(ROWS[0], 4, 1), *ROWS[1:]], Difference(lost=1)),
        ([changed(ROWS[0], 7, 0.6), *ROWS[1:]], Difference(wrong=1)),
        ([changed(ROWS[0], 4, 0), changed(ROWS[1], 4, 4), ROWS[2]], Difference(2, 2)),
    ],
)
def test_differences_are_counted_row_by_row(actual: list[Any], difference: Difference) -> None:
    assert compared(actual, ROWS) == difference


def test_events_of_the_log_are_compared_one_by_one() -> None:
    assert compared_events(Counter("aab"), Counter("abc")) == Difference(lost=1, double=1)


def test_results_accumulate_and_a_repetition_replaces_its_own(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    report.merge(path, FAULTS[3], 1, 50, [RUN])
    report.merge(path, FAULTS[1], 1, 100, [RUN, replace(RUN, seconds=20.0)])
    data = report.merge(path, FAULTS[3], 2, 50, [replace(RUN, lost=4)])
    assert list(data["faults"]) == [FAULTS[1].name, FAULTS[3].name]
    assert data == json.loads(path.read_text())
    page = report.page(data)
    assert (
        f"| {FAULTS[1].title} | 2 | 100 | 1,800 | 850 | 850 | 0 | 0 | 14 | 16 | 20 | 2 | 1 to 1 |"
        in page
    )
    assert (
        f"| {FAULTS[3].title} | 1 | 50 | 900 | 850 | 850 | 4 | 0 | 7 | 12 | 12 | 1 | 1 to 1 |"
        in page
    )
    assert "status 429" in page
    assert f"Not run: {FAULTS[0].title}; " in page


@pytest.mark.parametrize(
    ("run", "bad"),
    [
        (RUN, False),
        (replace(RUN, lost=1), True),
        (replace(RUN, double=1), True),
        (replace(RUN, wrong=1), True),
        (replace(RUN, seconds=None), True),
    ],
)
def test_whatever_is_not_well_fails_the_campaign(run: Run, bad: bool) -> None:
    assert report.failed([RUN, run]) == bad


def test_a_fault_that_is_not_there_is_told() -> None:
    done = CliRunner().invoke(campaign, ["--only", "none,nonsense"])
    assert done.exit_code == 2
    assert "there is no fault nonsense; --list says which there are." in done.output


def test_the_page_in_the_docs_is_made_from_its_data() -> None:
    data = json.loads(report.DATA.read_text())
    assert report.DATA.with_suffix(".md").read_text() == report.page(data)
    assert not any(
        report.failed([Run(**run)]) for f in data["faults"].values() for run in f["runs"]
    )

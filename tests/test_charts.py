"""Charts in docs/ show what their data files say; how wide text is depends on a machine's fonts."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from benchmarks import charts


def labels(svg: str) -> Counter[str]:
    """What bars and marks say of themselves."""
    found = re.findall(r'aria-roledescription="(?:bar|tick|text mark)" aria-label="([^"]*)"', svg)
    return Counter(found or re.findall(r'aria-label="([^"]*)"', svg))


@pytest.mark.parametrize("name", charts.CHARTS)
def test_a_chart_is_that_of_its_data(name: str) -> None:
    data = json.loads((charts.DOCS / f"{name}.json").read_text(encoding="utf-8"))
    drawn = charts.svg(charts.CHARTS[name](data))
    there = (charts.DOCS / f"{name}.svg").read_text(encoding="utf-8")
    wanted = labels(drawn)
    assert len(wanted) > 4, wanted
    assert labels(there) == wanted, "run 'make charts'"
    assert f"]({name}.svg)" in (charts.DOCS / f"{name}.md").read_text(encoding="utf-8")

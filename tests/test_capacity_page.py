"""The capacity guide says what its figures and prices say."""

from __future__ import annotations

import json
import tomllib

from benchmarks import cost
from benchmarks.capacity import DATA


def test_the_page_is_made_of_the_figures() -> None:
    page = cost.PAGE.read_text(encoding="utf-8")
    found = json.loads(DATA.read_text(encoding="utf-8"))
    prices = tomllib.loads(cost.PRICES.read_text(encoding="utf-8"))
    assert cost.rendered(page, found, prices) == page


def test_a_bill_is_the_sum_of_its_products() -> None:
    found = json.loads(DATA.read_text(encoding="utf-8"))
    prices = tomllib.loads(cost.PRICES.read_text(encoding="utf-8"))
    for cloud in ("aws", "gcp"):
        lines = cost.bill(cloud, prices[cloud], found)
        dearer = {name: price * 2 for name, price in prices[cloud].items()}
        assert all(line.dollars == line.amount * line.price > 0 for line in lines)
        twice = sum(line.dollars for line in cost.bill(cloud, dearer, found))
        assert abs(twice - 2 * sum(line.dollars for line in lines)) < 1e-9

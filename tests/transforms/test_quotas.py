"""Quotas in the file of rules: what they say, mistakes by line and field, and no other version."""

from __future__ import annotations

import pickle

import pytest

from adtally.transforms.rules.base import MOST, RuleError
from adtally.transforms.rules.config import parse_rules
from adtally.transforms.rules.quotas import Quotas
from adtally.transforms.rules.ruleset import Ruleset

FILE = """
[quotas]
impressions = 1_000
clicks = 100

[advertisers.acme]
off = ["givt_duplicate_click"]
quotas = { clicks = 5 }
[advertisers."a.b".quotas]
conversions = 2147483647
[advertisers.none]
quotas = {}
"""


def test_quotas_are_for_all_and_for_single_advertisers() -> None:
    quotas = parse_rules(FILE).quotas
    assert quotas == Quotas(
        {"impressions": 1_000, "clicks": 100},
        {"acme": {"clicks": 5}, "a.b": {"conversions": MOST}},
    )
    assert pickle.loads(pickle.dumps(quotas)) == quotas
    assert parse_rules("").quotas == Quotas()


def test_quotas_judge_nothing_so_the_version_of_the_rules_stays() -> None:
    without = parse_rules('[advertisers.acme]\noff = ["givt_duplicate_click"]')
    assert parse_rules(FILE).version == without.version
    assert parse_rules("[advertisers.acme]\nquotas = { clicks = 5 }").version == Ruleset().version


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        ("\n[quotas]\nclick = 5", 3, "quotas.click is not known"),
        ("[quotas]\nclicks = '5'", 2, "quotas.clicks is '5'"),
        ("[quotas]\nclicks = 1.5", 2, "quotas.clicks is 1.5"),
        ("[quotas]\nclicks = true", 2, "quotas.clicks is True"),
        ("[quotas]\nclicks = 0", 2, "quotas.clicks is 0"),
        (f"[quotas]\nclicks = {MOST + 1}", 2, f"quotas.clicks is {MOST + 1}"),
        ("quotas = 5", 1, "quotas is 5"),
        ("\n[advertisers.a]\nquotas = { clicks = -1 }", 3, "advertisers.a.quotas.clicks is -1"),
        ("[advertisers.a.quotas]\nclicks = 1\nviews = 2", 3, "advertisers.a.quotas.views is not"),
        ("[advertisers.a]\nquotas = 5", 2, "advertisers.a.quotas is 5"),
    ],
)
def test_a_mistake_is_named_by_line_and_field(text: str, line: int, field: str) -> None:
    with pytest.raises(RuleError) as raised:
        parse_rules(text, "rules.toml")
    assert str(raised.value).startswith(f"rules.toml, line {line}: {field}")

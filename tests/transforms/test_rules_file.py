"""A file of rules: what it says, how errors name the place, its version, and runs that use it."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner, Result

from adtally.pipelines.cli import cli
from adtally.transforms.rules.addresses import Networks, network
from adtally.transforms.rules.base import RuleError
from adtally.transforms.rules.click_rate_ip import ClickRateIp
from adtally.transforms.rules.config import parse_rules, read_rules
from adtally.transforms.rules.duplicate_click import DuplicateClick
from adtally.transforms.rules.event_rules import InvalidUserAgent, KnownBotUserAgent
from adtally.transforms.rules.lists import Lists
from adtally.transforms.rules.regular_interval import RegularInterval
from adtally.transforms.rules.ruleset import (
    EVENT_RULES,
    WINDOW_RULES,
    AdvertiserRules,
    Ruleset,
)
from adtally.transforms.rules.user_agents import Entry, ListError, UserAgents

NAMES = [rule.NAME for rule in (*EVENT_RULES, *WINDOW_RULES)]


def written(folder: Path, content: str, name: str = "rules.toml") -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return str(path)


def networks(*texts: str) -> Networks:
    return Networks(frozenset(map(network, texts)))


WHOLE = """
[rules.givt_known_bot_ua]
enabled = true

[rules.givt_invalid_ua]
missing = true

[rules.givt_datacenter_ip]
enabled = false

[rules]
givt_duplicate_click.threshold = 2
givt_click_rate_ip = {enabled = true, threshold = 40}

[rules.givt_regular_interval]
threshold = 6
variation = 0.25

[lists]
crawlers = false
robots = ["robots.txt", "lists/more.txt"]
browsers = ["lists/browsers.txt"]
datacenters = ["lists/centres.txt"]

[advertisers.acme]
off = ["givt_invalid_ua", "givt_click_rate_ip"]
thresholds = {givt_duplicate_click = 3}
allow_ips = ["198.51.100.7/24", "2001:db8::1"]
allow_users = ["tester", "käthe"]

[advertisers."dots.and é".thresholds]
givt_click_rate_ip = 100
givt_regular_interval = 3
"""


@pytest.fixture
def whole(tmp_path: Path) -> str:
    """A file with every table and key, and the lists that it names."""
    written(tmp_path, "Bot|1||0|2|0\n", "robots.txt")
    written(tmp_path, "spider|1|x|0|2|1\n", "lists/more.txt")
    written(tmp_path, "Mozilla/|1|1\n", "lists/browsers.txt")
    written(tmp_path, "10.0.0.0/8\n2001:db8::/32\n", "lists/centres.txt")
    return written(tmp_path, WHOLE)


# What it says.


def test_every_table_and_key_arrives(whole: str) -> None:
    assert read_rules(whole) == Ruleset(
        event_rules=(KnownBotUserAgent(), InvalidUserAgent(missing=True)),
        window_rules=(
            DuplicateClick(threshold=2),
            ClickRateIp(threshold=40),
            RegularInterval(threshold=6, variation=0.25),
        ),
        lists=Lists(
            crawlers=False,
            robots=UserAgents((Entry("bot"), Entry("spider", True, ("x",)))),
            browsers=UserAgents((Entry("mozilla/", True),)),
            datacenters=networks("10.0.0.0/8", "2001:db8::/32"),
        ),
        advertisers={
            "acme": AdvertiserRules(
                off=frozenset({"givt_invalid_ua", "givt_click_rate_ip"}),
                thresholds={"givt_duplicate_click": 3},
                allow_ips=networks("198.51.100.0/24", "2001:db8::1"),
                allow_users=frozenset({"tester", "käthe"}),
            ),
            "dots.and é": AdvertiserRules(
                thresholds={"givt_click_rate_ip": 100, "givt_regular_interval": 3}
            ),
        },
    )


@pytest.mark.parametrize(
    "text",
    ["", "# nothing\n", "[rules]\n[lists]\n[advertisers]\n", "lists = {}", "\r\n[rules]\r\n"],
)
def test_a_file_that_says_nothing_leaves_the_defaults(text: str) -> None:
    assert parse_rules(text) == Ruleset()


@pytest.mark.parametrize("name", NAMES)
def test_each_rule_can_be_switched_off_and_on(name: str) -> None:
    off = parse_rules(f"[rules.{name}]\nenabled = false\n")
    names = [rule.NAME for rule in (*off.event_rules, *off.window_rules)]
    assert names == [one for one in NAMES if one != name]
    assert parse_rules(f"[rules.{name}]\nenabled = true\n") == Ruleset()


def test_all_rules_can_be_off() -> None:
    off = parse_rules("[rules]\n" + "".join(f"{name}.enabled = false\n" for name in NAMES))
    assert (off.event_rules, off.window_rules) == ((), ())


# Errors.

ERRORS = [
    (
        "[rules]\n\nthresholds = 3",
        3,
        "rules.thresholds is not known; choose from givt_known_bot_ua",
    ),
    ("\n[rules.givt_clicks]\n", 2, "rules.givt_clicks is not known"),
    ("[rules]\ngivt_known_bot_ua = true", 2, "rules.givt_known_bot_ua is True; .*a table"),
    ("\n\nrules = 3", 3, "rules is 3; it has to be a table"),
    ("\nlists = 'a'", 2, "lists is 'a'; it has to be a table"),
    ("\nadvertisers = []", 2, r"advertisers is \[\]; it has to be a table"),
    ("\n[advertisers]\nacme = 3", 3, "advertisers.acme is 3; it has to be a table"),
    ("\nlist = 'a'", 2, "list is not known; choose from rules, lists, advertisers"),
    ("\n[lsts]\nrobots = []", 2, "lsts is not known"),
    *(
        (f"[rules.{name}]\n# c\nenabld = true", 3, f"rules.{name}.enabld is not known; .*enabled")
        for name in NAMES
    ),
    *(
        (f"[rules.{name}]\nenabled = {wrong}", 2, f"{name}.enabled is .*; write true or false")
        for name in NAMES
        for wrong in ("1", "'yes'", "[]")
    ),
    ("[rules.givt_invalid_ua]\nmissing = 1", 2, "givt_invalid_ua.missing is 1: .*bool"),
    ("[rules.givt_invalid_ua]\nthreshold = 1", 2, "threshold is not known; .*enabled, missing"),
    *(
        (f"[rules.{rule}]\nthreshold = {wrong}", 2, f"rules.{rule}.threshold is ")
        for rule in NAMES[3:]
        for wrong in ("0", "-1", "1.5", "'5'", "true", "[5]")
    ),
    ("[rules.givt_regular_interval]\nthreshold = 2", 2, "at least 3"),
    ("[rules.givt_regular_interval]\nvariation = 'x'", 2, "variation is 'x': .*float"),
    ("\n[rules]\n\ngivt_click_rate_ip.threshold = 0", 4, "givt_click_rate_ip.threshold is 0"),
    ("\n[rules]\ngivt_click_rate_ip = {threshold = 0}", 3, "givt_click_rate_ip.threshold is 0"),
    ("rules.givt_click_rate_ip.threshold = 0", 1, "givt_click_rate_ip.threshold is 0"),
    ("[rules . 'givt_click_rate_ip' ] # c\n'threshold' = 0", 2, "threshold is 0"),
    ("[rules.givt_click_rate_ip]\nenabled = false\nthreshold = 0", 3, "threshold is 0"),
    ("[lists]\ncrawlers = true\nrobot = []", 3, "lists.robot is not known; .*robots, browsers"),
    ("[lists]\ncrawlers = 'no'", 2, "lists.crawlers is 'no': .*bool"),
    *(
        (f"\n[lists]\n{kind} = {wrong}", 3, f"lists.{kind} is ")
        for kind in ("robots", "browsers", "datacenters")
        for wrong in ("'a.txt'", "[1]", "[['a']]", "{a = 'b'}")
    ),
    ("\n[advertisers.acme]\nof = []", 3, "advertisers.acme.of is not known; choose from off"),
    ("[advertisers.a]\n[advertisers.b]\noff = 'x'", 3, "advertisers.b.off is 'x': .*array"),
    ("[advertisers.a]\noff = ['givt_clicks']", 2, "advertisers.a.off.givt_clicks is not known"),
    ("[advertisers.a]\n\noff = [\n  'x',\n]", 3, "advertisers.a.off.x is not known"),
    (
        "[advertisers.a.thresholds]\ngivt_known_bot_ua = 1",
        2,
        "advertisers.a.thresholds.givt_known_bot_ua is not known; choose from givt_duplicate",
    ),
    ("[advertisers.a.thresholds]\ngivt_click_rate_ip = 0", 2, "threshold 0 would flag"),
    ("[advertisers.a]\nthresholds.givt_regular_interval = 2", 2, "threshold 2 .*at least 3"),
    ("[advertisers.a]\nthresholds = {givt_click_rate_ip = 'x'}", 2, "a.thresholds is "),
    ("[advertisers.a]\nthresholds = 5", 2, "advertisers.a.thresholds is 5"),
    ("[advertisers.a]\nallow_users = ['x']\nallow_ips = ['10.0.0.0/33']", 3, "allow_ips '10.*/33'"),
    ("[advertisers.a]\nallow_ips = ['']", 2, r"allow_ips .*write a network such as 203\.0\.113"),
    ("[advertisers.a]\nallow_ips = '10.0.0.1'", 2, "advertisers.a.allow_ips is '10.0.0.1'"),
    ("[advertisers.a]\nallow_users = [1]", 2, "advertisers.a.allow_users is "),
    ('[advertisers."a.b"]\noff = 1', 2, "advertisers.a.b.off is 1"),
    ("advertisers = {a = {off = 1}}", 1, "advertisers.a.off is 1"),
    ("# c\n[rules.givt_click_rate_ip]\r\n\r\nthreshold = 0\r\n", 4, "threshold is 0"),
]


@pytest.mark.parametrize(("text", "line", "words"), ERRORS)
def test_errors_name_line_and_field(text: str, line: int, words: str) -> None:
    with pytest.raises(RuleError, match=rf"(?s)^my/rules\.toml, line {line}: .*{words}") as raised:
        parse_rules(text, "my/rules.toml")
    assert str(raised.value).endswith("so nothing was started.")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\n\n[advertiser.acme]\noff = []", 3),
        ("\n[rule.givt_click_rate_ip]\nthreshold = 3", 2),
        ("\n[rules]\ngivt_duplicate_click.threshold = 2\ngivt_clicks.threshold = 3", 4),
        ("\n\nlist.robots = []", 3),
        ("\n\n[[rules]]\ngivt_click_rate_ip.threshold = 3", 3),
        ("\n\n[advertisers.'[a]']\noff = 1", 4),
    ],
)
def test_errors_name_the_line_of_what_is_above(text: str, line: int) -> None:
    with pytest.raises(RuleError, match=rf"^rules\.toml, line {line}: "):
        parse_rules(text)


@pytest.mark.parametrize(
    ("text", "line"),
    [("\nrules = ", 2), ("[rules]\n[rules]", 2), ("a = 1\na = 2", 2), ("\n\n[rules", 3)],
)
def test_what_is_no_toml_is_refused(text: str, line: int) -> None:
    with pytest.raises(RuleError, match=r"^rules\.toml is not TOML: .*correct it there") as raised:
        parse_rules(text)
    assert f"line {line}" in str(raised.value) or "end of document" in str(raised.value)


def test_a_threshold_beyond_64_bits_is_refused() -> None:
    with pytest.raises(RuleError, match="threshold"):
        parse_rules("[rules.givt_click_rate_ip]\nthreshold = 99999999999999999999")


@pytest.mark.parametrize("value", ["nan", "inf", "-0.1", "1.5"])
def test_a_variation_beyond_its_limits_is_refused(value: str) -> None:
    with pytest.raises(RuleError, match=r"line 2: .*variation"):
        parse_rules(f"[rules.givt_regular_interval]\nvariation = {value}")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    latin = tmp_path / "latin.toml"
    latin.write_bytes("# käthe".encode("latin-1"))
    for path in (str(tmp_path / "none.toml"), str(tmp_path), str(latin)):
        with pytest.raises(
            RuleError, match=r"rules .* cannot be read: .*Correct the path"
        ) as raised:
            read_rules(path)
        assert path in str(raised.value)


def test_a_file_behind_an_unknown_address_is_refused() -> None:
    with pytest.raises(RuleError, match=r"nowhere://bucket/rules\.toml"):
        read_rules("nowhere://bucket/rules.toml")


# Lists lie beside the file.


def test_relative_lists_lie_beside_the_file_and_absolute_ones_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "there", "10.0.0.0/8\n", "lists/centres.txt")
    far = written(tmp_path / "far", "192.0.2.0/24\n", "far.txt")
    written(tmp_path / "there", "203.0.113.0/24\n", "up.txt")
    names = f'["lists/centres.txt", "{far}", "lists/../up.txt"]'
    path = written(tmp_path / "there", f"[lists]\ndatacenters = {names}\n")
    expected = networks("10.0.0.0/8", "192.0.2.0/24", "203.0.113.0/24")
    monkeypatch.chdir(tmp_path)
    assert read_rules(path).lists.datacenters == expected
    assert read_rules("there/rules.toml").lists.datacenters == expected
    monkeypatch.chdir(tmp_path / "there")
    assert read_rules("rules.toml").lists.datacenters == expected
    assert read_rules("./rules.toml").lists.datacenters == expected


@pytest.mark.parametrize(
    ("folder", "name", "sought"),
    [
        ("/a/b/", "c.txt", "'/a/b/c.txt'"),
        ("/a/b/", "d/c.txt", "'/a/b/d/c.txt'"),
        ("/a/b/", "/none/c.txt", "'/none/c.txt'"),
        ("none/", "c.txt", "'none/c.txt'"),
        ("", "c of no folder.txt", "'c of no folder.txt'"),
        ("/", "c of the root.txt", "'/c of the root.txt'"),
    ],
)
@pytest.mark.parametrize("kind", ["robots", "browsers", "datacenters"])
def test_where_lists_are_sought(kind: str, folder: str, name: str, sought: str) -> None:
    with pytest.raises(ListError, match=f"list {sought} cannot be read"):
        parse_rules(f'[lists]\n{kind} = ["{name}"]', f"{folder}rules.toml")


@pytest.mark.parametrize("name", ["nowhere://bucket/c.txt", "c.txt"])
def test_addresses_of_lists_are_kept_and_relative_ones_lie_beside_one(name: str) -> None:
    with pytest.raises(ValueError, match=r"nowhere://bucket/c\.txt"):
        parse_rules(f'[lists]\nrobots = ["{name}"]', "nowhere://bucket/rules.toml")


def test_errors_of_lists_name_the_list(tmp_path: Path) -> None:
    written(tmp_path, "# c\n10.0.0.0/99\n", "centres.txt")
    path = written(tmp_path, '[lists]\ndatacenters = ["centres.txt"]')
    with pytest.raises(ListError, match=r"centres\.txt, line 2: .*10\.0\.0\.0/99"):
        read_rules(path)
    written(tmp_path, "# c\n", "robots.txt")
    path = written(tmp_path, '[lists]\nrobots = ["robots.txt"]')
    with pytest.raises(ListError, match=r"robots\.txt has no active entry"):
        read_rules(path)


# The version.

BASE = """
[rules.givt_invalid_ua]
missing = true
[rules.givt_regular_interval]
threshold = 6
variation = 0.2
[rules.givt_click_rate_ip]
threshold = 40
[rules.givt_duplicate_click]
threshold = 2
[lists]
crawlers = true
robots = ["robots.txt"]
browsers = ["browsers.txt"]
datacenters = ["centres.txt"]
[advertisers.acme]
off = ["givt_invalid_ua"]
allow_ips = ["10.0.0.0/8"]
allow_users = ["t"]
[advertisers.acme.thresholds]
givt_click_rate_ip = 50
[advertisers.other]
allow_users = ["t"]
"""
LISTS = {
    "robots.txt": "bot|1||0|2|0\nspider|1|x|0|2|0\n",
    "browsers.txt": "Mozilla|1|1\n",
    "centres.txt": "10.0.0.0/8\n192.0.2.0/24\n",
}
CHANGES = [
    ("missing = true", "missing = false"),
    ("missing = true", "missing = true\nenabled = false"),
    ("threshold = 6", "threshold = 7"),
    ("threshold = 6", "threshold = 6\nenabled = false"),
    ("variation = 0.2", "variation = 0.21"),
    ("threshold = 40", "threshold = 41"),
    ("threshold = 2", "threshold = 3"),
    ("[lists]", "[rules.givt_known_bot_ua]\nenabled = false\n[lists]"),
    ("[lists]", "[rules.givt_datacenter_ip]\nenabled = false\n[lists]"),
    ("crawlers = true", "crawlers = false"),
    ('robots = ["robots.txt"]', ""),
    ('browsers = ["browsers.txt"]', ""),
    ('datacenters = ["centres.txt"]', ""),
    ('off = ["givt_invalid_ua"]', "off = []"),
    ('off = ["givt_invalid_ua"]', 'off = ["givt_invalid_ua", "givt_known_bot_ua"]'),
    ("10.0.0.0/8", "10.0.0.0/9"),
    ('allow_ips = ["10.0.0.0/8"]', ""),
    ('["t"]\n[advertisers.acme.', '["u"]\n[advertisers.acme.'),
    ('["t"]\n[advertisers.acme.', '["t", "u"]\n[advertisers.acme.'),
    ("givt_click_rate_ip = 50", "givt_click_rate_ip = 51"),
    ("givt_click_rate_ip = 50", ""),
    ("givt_click_rate_ip = 50", "givt_click_rate_ip = 50\ngivt_duplicate_click = 2"),
    ("[advertisers.other]", "[advertisers.another]"),
    ('[advertisers.other]\nallow_users = ["t"]', ""),
]
LIST_CHANGES = [
    ("robots.txt", "bot|1||0|2|0\nspider|1||0|2|0\n"),
    ("robots.txt", "bot|1||0|2|0\nspider|0|x|0|2|0\n"),
    ("robots.txt", "bot|1||0|2|1\nspider|1|x|0|2|0\n"),
    ("browsers.txt", "Mozilla|1|0\n"),
    ("browsers.txt", "Mozilla|1|1\nApp|1|1\n"),
    ("centres.txt", "10.0.0.0/8\n"),
    ("centres.txt", "10.0.0.0/8\n192.0.2.0/25\n"),
]


def version(folder: Path, text: str = BASE, **lists: str) -> str:
    for name, content in (LISTS | {f"{key}.txt": text for key, text in lists.items()}).items():
        written(folder, content, name)
    return read_rules(written(folder, text)).version


def test_the_version_changes_with_every_setting_and_every_list(tmp_path: Path) -> None:
    versions = {version(tmp_path): "as it is"}
    for old, new in CHANGES:
        assert BASE.count(old) == 1, old
        changed = version(tmp_path, BASE.replace(old, new))
        assert versions.setdefault(changed, f"{old} -> {new}") == f"{old} -> {new}"
    for name, content in LIST_CHANGES:
        changed = version(tmp_path, **{name.removesuffix(".txt"): content})
        assert versions.setdefault(changed, content) == content
    assert len(versions) == 1 + len(CHANGES) + len(LIST_CHANGES)
    assert version(tmp_path) in versions


def test_comments_and_order_do_not_change_the_version(tmp_path: Path) -> None:
    turned = """
    # other words
    advertisers.other.allow_users = ["t", "t"]
    [advertisers.acme]
    thresholds = {givt_click_rate_ip = 50}
    allow_users = ["t"] # a tester
    allow_ips = ["10.9.9.9/8", "10.0.0.0/8"]
    off = ["givt_invalid_ua"]
    [rules]
    givt_duplicate_click = {threshold = 2}
    givt_click_rate_ip = {threshold = 40, enabled = true}
    givt_regular_interval.variation = 0.2
    givt_regular_interval.threshold = 6
    [lists]
    datacenters = ["./centres.txt"]
    browsers = ["browsers.txt"]
    robots = ["robots.txt"]
    [rules.givt_invalid_ua]
    missing = true
    """
    same = version(tmp_path)
    assert version(tmp_path, turned) == same
    assert version(tmp_path, BASE.replace("\n", "\r\n")) == same
    remarks = LISTS["robots.txt"].replace("\n", "\n# remark\nunused|0||0|2|0\n")
    assert version(tmp_path, robots=remarks) == same
    assert version(tmp_path, centres="# remark\n192.0.2.0/24\n\n10.0.0.0/8 # all\n") == same
    assert version(tmp_path, browsers="\ufeffMozilla|1|1") == same


def test_where_the_lists_lie_is_not_part_of_the_version(tmp_path: Path) -> None:
    assert version(tmp_path / "a") == version(tmp_path / "b")
    moved = BASE.replace("robots.txt", str(tmp_path / "a" / "robots.txt"))
    assert version(tmp_path / "b", moved) == version(tmp_path / "a")


def test_defaults_that_are_written_out_are_the_defaults(tmp_path: Path) -> None:
    text = """
    [rules]
    givt_known_bot_ua.enabled = true
    givt_invalid_ua.missing = false
    givt_duplicate_click.threshold = 1
    givt_click_rate_ip.threshold = 30
    givt_regular_interval = {threshold = 5, variation = 0.1}
    [lists]
    crawlers = true
    robots = []
    browsers = []
    datacenters = []
    """
    assert parse_rules(text).version == parse_rules("").version == Ruleset().version
    assert parse_rules(text) == Ruleset()


def test_a_whole_number_is_the_same_setting_as_its_fraction() -> None:
    text = "[rules.givt_regular_interval]\nvariation = 0"
    assert parse_rules(text) == parse_rules(text + ".0")
    assert parse_rules(text).version == parse_rules(text + ".0").version


@pytest.mark.parametrize("nothing", ["", "off = []", "thresholds = {}\nallow_ips = []"])
def test_an_advertiser_without_settings_is_no_setting(nothing: str) -> None:
    assert parse_rules(f"[advertisers.acme]\n{nothing}").version == Ruleset().version


def test_pickling_keeps_the_version(tmp_path: Path) -> None:
    name = version(tmp_path)
    rules = read_rules(str(tmp_path / "rules.toml"))
    again = pickle.loads(pickle.dumps(rules))
    assert again == rules
    assert again.version == rules.version == name


def test_the_version_is_the_same_in_every_process(tmp_path: Path) -> None:
    many = ", ".join(f'"10.{n}.0.0/16"' for n in range(20))
    users = ", ".join(f'"u{n}"' for n in range(20))
    text = BASE.replace('"10.0.0.0/8"', many).replace('["t"]', f"[{users}]")
    here = version(tmp_path, text)
    code = (
        "import sys; from adtally.transforms.rules.config import read_rules; "
        "print(read_rules(sys.argv[1]).version)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "rules.toml")],
        env={"PYTHONHASHSEED": "7", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == here


# Runs.


def adtally(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), prog_name="adtally")


def log(folder: Path, name: str, *clicks: dict[str, Any]) -> str:
    base = {
        "event_type": "click",
        "occurred_at": "2026-03-01T10:00:00Z",
        "advertiser_id": "acme",
        "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        "ip": "203.0.113.9",
    }
    rows = [{"event_id": f"{name}{n}", **base, **one} for n, one in enumerate(clicks)]
    return written(folder, "\n".join(map(json.dumps, rows)), f"logs/{name}.jsonl")


def backfill(tmp_path: Path, log: str, *arguments: str) -> Result:
    return adtally("backfill", "--input", log, "--output", str(tmp_path / "out"), *arguments)


def query(output: Path, sql: str) -> list[tuple[object, ...]]:
    connection = duckdb.connect()
    connection.execute((output / "views.sql").read_text())
    return connection.execute(sql).fetchall()


def remembered(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "out" / "adtally.json").read_text())


def flat(result: Result) -> str:
    return " ".join(result.output.split())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[rules", "rules.toml is not TOML"),
        ("\n[rules.givt_clicks]", "rules.toml, line 2: rules.givt_clicks is not known"),
        ("[rules.givt_click_rate_ip]\nthreshold = 0", "line 2: rules.givt_click_rate_ip.threshold"),
        ("[lists]\nrobots = ['none.txt']", "none.txt' cannot be read"),
        ("[lists]\ndatacenters = ['rules.toml']", "rules.toml, line 1: '[lists]'"),
        (None, "rules.toml' cannot be read"),
    ],
)
def test_a_broken_file_ends_the_run_before_it_starts(
    tmp_path: Path, text: str | None, words: str
) -> None:
    rules = tmp_path / "rules.toml"
    if text is not None:
        written(tmp_path, text)
    result = backfill(tmp_path, log(tmp_path, "a", {}), "--rules", str(rules))
    assert result.exit_code == 2, result.output
    assert words in flat(result)
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def flagged(tmp_path: Path) -> list[tuple[object, ...]]:
    """(minute, clicks, of which invalid) of each window."""
    sql = "SELECT minute(window_start), clicks, givt_clicks FROM summaries ORDER BY 1"
    return query(tmp_path / "out", sql)


def at_minute(minute: int) -> dict[str, Any]:
    return {"occurred_at": f"2026-03-01T10:{minute:02}:00Z"}


def test_a_run_judges_by_its_file_and_the_next_one_by_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "203.0.113.0/24\n", "rules/centres.txt")
    path = written(tmp_path, '[lists]\ndatacenters = ["centres.txt"]\n', "rules/mine.toml")
    first, second, third = (
        log(tmp_path, name, at_minute(n), at_minute(n) | {"ip": "198.51.100.1"})
        for n, name in enumerate("abc")
    )
    assert backfill(tmp_path, first, "--rules", "rules/mine.toml").exit_code == 0
    used = {"file": path, "version": read_rules(path).version}
    assert remembered(tmp_path)["rules"] == used
    assert flagged(tmp_path) == [(0, 2, 1)]

    monkeypatch.chdir("/")
    assert backfill(tmp_path, second).exit_code == 0
    assert remembered(tmp_path)["rules"] == used
    assert flagged(tmp_path) == [(0, 2, 1), (1, 2, 1)]

    text = Path(path).read_text()
    written(tmp_path, "# a remark changes nothing\n" + text, "rules/mine.toml")
    assert backfill(tmp_path, third).exit_code == 0
    assert remembered(tmp_path)["rules"] == used
    assert flagged(tmp_path) == [(0, 2, 1), (1, 2, 1), (2, 2, 1)]
    versions = query(tmp_path / "out", "SELECT DISTINCT ruleset_version FROM flags")
    assert versions == [(used["version"],)]


@pytest.mark.parametrize("changed", ["rules.toml", "centres.txt"])
def test_a_file_that_has_changed_is_not_used_unasked(tmp_path: Path, changed: str) -> None:
    written(tmp_path, "203.0.113.0/24\n", "centres.txt")
    text = '[lists]\ndatacenters = ["centres.txt"]\n'
    path = written(tmp_path, text)
    first, second = log(tmp_path, "a", at_minute(0)), log(tmp_path, "b", at_minute(1))
    assert backfill(tmp_path, first, "--rules", path).exit_code == 0
    before = remembered(tmp_path)
    old = before["rules"]["version"]

    other = {"rules.toml": text.replace("[", "#[", 1).replace("data", "#data"), "centres.txt": ""}
    written(tmp_path, other[changed], changed)
    new = read_rules(path).version
    assert old != new
    result = backfill(tmp_path, second)
    assert result.exit_code == 2, result.output
    said = "".join(result.output.split())
    for words in (path, "have changed since they were last used", old, new, f"Give --rules {path}"):
        assert "".join(words.split()) in said
    assert "Traceback" not in result.output
    assert remembered(tmp_path) == before
    assert flagged(tmp_path) == [(0, 1, 1)]

    assert backfill(tmp_path, second, "--rules", path).exit_code == 0
    assert remembered(tmp_path)["rules"] == {"file": path, "version": new}
    assert flagged(tmp_path) == [(0, 1, 1), (1, 1, 0)]


def test_a_file_that_is_gone_or_broken_since_is_not_ignored(tmp_path: Path) -> None:
    path = written(tmp_path, "[rules.givt_click_rate_ip]\nthreshold = 3\n")
    first, second = log(tmp_path, "a", at_minute(0)), log(tmp_path, "b", at_minute(1))
    assert backfill(tmp_path, first, "--rules", path).exit_code == 0
    before = remembered(tmp_path)
    written(tmp_path, "[rules.givt_click_rate_ip]\nthreshold = 0\n")
    result = backfill(tmp_path, second)
    assert (result.exit_code, "rules.toml, line 2" in flat(result)) == (2, True)
    Path(path).unlink()
    result = backfill(tmp_path, second)
    assert (result.exit_code, "cannot be read" in flat(result)) == (2, True)
    assert remembered(tmp_path) == before
    assert flagged(tmp_path) == [(0, 1, 0)]


def test_without_a_file_the_defaults_judge_and_nothing_is_remembered(tmp_path: Path) -> None:
    robot = at_minute(0) | {"user_agent": "curl/8.5.0"}
    assert backfill(tmp_path, log(tmp_path, "a", robot, at_minute(0))).exit_code == 0
    assert remembered(tmp_path)["rules"] == {"file": "", "version": Ruleset().version}
    assert flagged(tmp_path) == [(0, 2, 1)]
    assert backfill(tmp_path, log(tmp_path, "b", at_minute(1))).exit_code == 0


def test_the_same_logs_by_other_rules_are_refused(tmp_path: Path) -> None:
    first = log(tmp_path, "a", at_minute(0))
    assert backfill(tmp_path, first).exit_code == 0
    path = written(tmp_path, "[rules.givt_click_rate_ip]\nthreshold = 3\n")
    result = backfill(tmp_path, first, "--rules", path)
    assert result.exit_code == 2
    assert "re-tally" in flat(result)
    assert flagged(tmp_path) == [(0, 1, 0)]


def test_the_file_of_a_run_that_was_refused_is_not_remembered(tmp_path: Path) -> None:
    first = log(tmp_path, "a", at_minute(0))
    assert backfill(tmp_path, first).exit_code == 0
    before = remembered(tmp_path)
    path = written(tmp_path, "[rules.givt_click_rate_ip]\nthreshold = 3\n")
    assert backfill(tmp_path, first, "--rules", path).exit_code == 2
    assert remembered(tmp_path) == before

"""Lists of networks and of user agents: what is in them, what is not, and what is refused."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import crawleruseragents
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adtally.transforms.rules.addresses import Network, Networks, network
from adtally.transforms.rules.lists import Lists, read_networks, read_user_agents
from adtally.transforms.rules.user_agents import (
    Entry,
    ListError,
    UserAgents,
    known_crawlers,
    parse_iab,
)

MAPPED = 0xFFFF << 32
"""Where IPv4 lies within IPv6."""
TOP = (1 << 128) - 1


def contain(networks: list[str], addresses: list[str | None]) -> list[bool | None]:
    found = Networks(frozenset(map(network, networks)))
    return found.contain(pl.Series("ip", addresses, pl.String)).to_list()


def number(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int:
    """An address as one of IPv6."""
    return int(address) + (MAPPED if address.version == 4 else 0)


def borders(one: Network) -> tuple[int, int]:
    return number(one.network_address), number(one.broadcast_address)


def oracle(networks: list[str], text: str | None) -> bool | None:
    """By Python's ipaddress, one network at a time."""
    try:
        address = ipaddress.ip_address(text or "")
    except ValueError:
        return None
    pairs = [borders(network(one)) for one in networks]
    return any(low <= number(address) <= high for low, high in pairs)


def texts_of(value: int) -> list[str]:
    """The ways to write an address; none beyond the first and the last one."""
    if not 0 <= value <= TOP:
        return []
    six = ipaddress.IPv6Address(value)
    texts = [str(six), six.exploded, str(six).upper()]
    if value >> 32 == 0xFFFF:
        four = ipaddress.IPv4Address(value - MAPPED)
        texts += [str(four), f"::ffff:{four}", f"0:0:0:0:0:FFFF:{four}"]
    return texts


def around(one: str) -> list[str | None]:
    """Addresses just within and just outside of a network."""
    low, high = borders(network(one))
    return [t for at in (low - 1, low, low + 1, high - 1, high, high + 1) for t in texts_of(at)]


FOUR = st.one_of(
    st.integers(0, (1 << 32) - 1), st.integers(0, 255), st.integers(0, 255).map(lambda n: n << 24)
)
SIX = st.one_of(
    st.integers(0, TOP), st.integers(0, 255), st.integers(0, 255).map(lambda n: n << 120)
)
FOUR_NETWORKS = st.builds("{}/{}".format, FOUR.map(ipaddress.IPv4Address), st.integers(0, 32))
SIX_NETWORKS = st.builds("{}/{}".format, SIX.map(ipaddress.IPv6Address), st.integers(0, 128))
ADDRESSES = st.one_of(SIX, FOUR.map(lambda n: n + MAPPED))


# Networks.


@settings(max_examples=300)
@given(
    st.one_of(
        st.lists(FOUR_NETWORKS, max_size=6),
        st.lists(SIX_NETWORKS, max_size=6),
        st.lists(
            st.one_of(
                FOUR_NETWORKS,
                SIX_NETWORKS,
            ),
            max_size=6,
        ),
    ),
    st.lists(ADDRESSES, max_size=6),
)
def test_what_networks_contain_is_what_ipaddress_says(networks: list[str], some: list[int]) -> None:
    texts: list[str | None] = [text for at in some for text in texts_of(at)]
    texts += [text for one in networks for text in around(one)]
    assert contain(networks, texts) == [oracle(networks, text) for text in texts]


@pytest.mark.parametrize(
    "networks",
    [
        ["::/0", "10.0.0.0/8"],
        ["::ffff:0:0/96", "10.0.0.0/8"],
        ["10.0.0.0/8", "::ffff:10.1.0.0/112"],
        ["10.0.0.0/24", "::ffff:10.0.0.0/112"],
        ["10.0.0.0/8", "::ffff:a00:0/104"],
        ["9.0.0.0/8", "::ffff:10.0.0.0/104", "11.0.0.0/8"],
    ],
)
def test_a_network_of_ipv6_may_hold_one_of_ipv4(networks: list[str]) -> None:
    texts = [text for one in networks for text in around(one)]
    texts += ["2001:db8::1", "11.0.0.1", "::1", "ffff::", "10.0.1.0", "10.200.0.0"]
    assert contain(networks, texts) == [oracle(networks, text) for text in texts]


@pytest.mark.parametrize(
    "networks",
    [
        ["0.0.0.0/0"],
        ["::/0"],
        ["0.0.0.0/32"],
        ["255.255.255.255/32"],
        ["10.0.0.0/32"],
        ["::/128"],
        ["2001:db8::/128"],
        ["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"],
        ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3"],  # nested
        ["10.1.2.3", "10.1.0.0/16", "10.2.0.0/16", "10.0.0.0/15"],  # touching
        ["2001:db8::/32", "2001:db8:1::/48", "2001:db9::/32"],
        ["10.0.0.0/24", "10.0.2.0/24", "2001:db8::/64"],
    ],
)
def test_borders_of_networks(networks: list[str]) -> None:
    texts = [text for one in networks for text in around(one)]
    assert contain(networks, texts) == [oracle(networks, text) for text in texts]


def test_a_network_covers_its_first_and_its_last_address_and_no_more() -> None:
    four = ["192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0"]
    assert contain(["192.0.2.0/24"], [*four]) == [False, True, True, False]
    six = ["2001:db7:ffff::", "2001:db8::", "2001:db8:ffff::", "2001:db9::"]
    assert contain(["2001:db8::/32"], [*six]) == [False, True, True, False]
    assert contain(["192.0.2.77/24"], ["192.0.2.1"]) == [True], "an address with its network"


def test_zeros_at_the_end_of_an_address_count() -> None:
    assert contain(["10.0.0.0"], ["10.0.0.0", "10.0.0.1", "10.0.0", "::"])[:2] == [True, False]
    assert contain(["::"], ["::", "::1", "0.0.0.0", "1::"]) == [True, False, False, False]
    assert contain(["10.0.0.1"], ["10.0.0.0", "10.0.0.1"]) == [False, True]
    assert contain(["1::/16"], ["1::", "0:1::", "1:0:0:1::"]) == [True, False, True]


def test_the_versions_are_apart_but_for_mapped_addresses() -> None:
    assert contain(["0.0.0.0/0"], ["::1", "::fffe:ffff:ffff", "::1:0:0:0"]) == [False] * 3
    assert contain(["10.0.0.0/8"], ["::ffff:10.1.2.3", "::ffff:a01:203"]) == [True, True]
    assert contain(["10.0.0.0/8"], ["::10.1.2.3", "::ffff:11.0.0.0"]) == [False, False]
    assert contain(["::ffff:10.0.0.0/104"], ["10.1.2.3", "11.0.0.0"]) == [True, False]


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        " ",
        "-",
        "token",
        "dGhpcyBpcyBhIHRva2Vu",
        "9f86d081884c7d659a2feaa0c55ad015",
        "010.0.0.1",
        "10.0.0.01",
        "10.0.0.00",
        " 10.0.0.1",
        "10.0.0.1 ",
        "10.0.0.1\n",
        "10.0.0.1\0",
        "10.0.0\0.1",
        "::1\0",
        "::\0",
        "\0",
        "10.0.0",
        "10.1",
        "167772161",
        "0xa.0.0.1",
        "10.0.0.256",
        "10.0.0.1.1",
        "10.0.0.1:443",
        "10.0.0.1/32",
        "10,0,0,1",
        "１０.0.0.1",
        "::1/128",
        "[::1]",
        "fe80::1%eth0",
        "1::2::3",
        "00000::",
        ":::",
        ":1",
        "1:2:3:4:5:6:7",
        "1:2:3:4:5:6:7:8:9",
        "::ffff:010.0.0.1",
        "::g",
    ],
)
def test_what_is_no_address_is_not_judged(text: str | None) -> None:
    everything = ["0.0.0.0/0"], ["::/0"], ["10.0.0.1"], []
    assert [contain(networks, ["10.0.0.1", text])[1] for networks in everything] == [None] * 4


@settings(max_examples=400)
@given(st.lists(st.one_of(st.text("0123456789af.:", max_size=18), st.text(max_size=8))))
def test_any_text_is_an_address_exactly_when_ipaddress_says_so(texts: list[str]) -> None:
    texts = [text.replace("%", "") for text in texts]  # of zones nothing is known
    networks = ["0.0.0.0/1", "4000::/2"]
    assert contain(networks, [*texts]) == [oracle(networks, text) for text in texts]


def test_nothing_is_in_no_network_and_no_address_gives_no_answer() -> None:
    assert contain([], ["10.0.0.1", "::", None, "token"]) == [False, False, None, None]
    assert contain([], []) == contain(["10.0.0.0/8"], []) == []
    assert contain(["::/0"], [None, None]) == [None, None]
    answer = Networks().contain(pl.Series("ip", [], pl.String))
    assert answer.dtype == pl.Boolean


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("203.0.113.9/24", "203.0.113.0/24"),
        (" 10.0.0.1\t", "10.0.0.1/32"),
        ("2001:DB8::1", "2001:db8::1/128"),
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
    ],
)
def test_ways_to_write_a_network(text: str, known: str) -> None:
    assert str(network(text)) == known


@pytest.mark.parametrize(
    "text", ["", "10.0.0.0/33", "::/129", "10.0.0/8", "010.0.0.0/8", "x", "10.0.0.0/-1"]
)
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ValueError):
        network(text)


# The IAB's format.


def robots(*lines: str) -> UserAgents:
    return parse_iab(lines, "robots.txt", "exclude")


def browsers(*lines: str) -> UserAgents:
    return parse_iab(lines, "browsers.txt", "include")


def matches(agents: UserAgents, *texts: str | None) -> list[bool]:
    return agents.match(pl.Series("user_agent", texts, pl.String)).to_list()


def test_entries_of_robots() -> None:
    found = robots(
        "# pattern|active|exceptions|two-pass|impact|start",
        "",
        "   ",
        "  # indented",
        "Bot|1||0|2|0",
        " Spider |1| a , B ,, |1|1|1",
        "gone|0||0|2|0",
        "more|1||0|2|0|and more fields",
    )
    assert found.entries == (
        Entry("bot"),
        Entry("spider", at_start=True, exceptions=("a", "b")),
        Entry("more"),
    )


def test_entries_of_browsers() -> None:
    found = browsers("# browsers", "Mozilla/|1|1", "App|1|0\r\n", "old|0|1")
    assert found.entries == (Entry("mozilla/", at_start=True), Entry("app"))


@pytest.mark.parametrize(
    "line",
    [
        "bot",
        "bot|1",
        "bot|1|1",  # of the other kind
        "bot|1||0|2",
        "bot|1||0|2|",
        "bot|1||0|2|2",
        "bot|yes||0|2|0",
        "bot|||0|2|0",
        "|1||0|2|0",
        "  |1||0|2|0",
        "bot,1,,0,2,0",
    ],
)
def test_a_line_that_is_no_entry_is_named(line: str) -> None:
    with pytest.raises(ListError, match=r"^robots\.txt, line 4: .*pattern\|active\|exceptions"):
        robots("# a comment", "", "good|1||0|2|0", line)


@pytest.mark.parametrize("line", ["app", "app|1", "app|1|2", "|1|1", "app||1", "bot|1||0|2|0"])
def test_a_line_that_is_no_browser_is_named(line: str) -> None:
    with pytest.raises(
        ListError, match=r"^browsers\.txt, line 2: .*\(pattern\|active\|start-of-string"
    ):
        browsers("Mozilla|1|1", line)


@pytest.mark.parametrize("lines", [[], ["# nothing", ""], ["gone|0||0|2|0"]])
def test_a_list_without_an_active_entry_is_refused(lines: list[str]) -> None:
    with pytest.raises(ListError, match=r"robots\.txt has no active entry"):
        robots(*lines)


def test_inactive_lines_are_checked_too() -> None:
    with pytest.raises(ListError, match="line 2"):
        robots("good|1||0|2|0", "gone|0")


# Matching.


def test_at_the_start_or_anywhere() -> None:
    anywhere, start = robots("bot|1||0|2|0"), robots("bot|1||0|2|1")
    texts = ("bot/1", "a bot", "BOT", "\nbot", "bo t", "", None)
    assert matches(anywhere, *texts) == [True, True, True, True, False, False, False]
    assert matches(start, *texts) == [True, False, True, False, False, False, False]


@pytest.mark.parametrize(("flag", "later"), [("0", True), ("1", False)])
def test_exceptions_are_no_match_wherever_they_stand(flag: str, later: bool) -> None:
    cubot = robots(f"bot|1|cubot,Gigabot|0|2|{flag}")
    texts = ("bot/1", "Bot of CUBOT", "bot gigabot", "a bot", "cubot", "other", None)
    assert matches(cubot, *texts) == [True, False, False, later, False, False, False]
    both = robots("bot|1|cubot|0|2|0", "phone|1||0|2|0")
    assert matches(both, "cubot phone") == [True], "an exception is that of its own entry"


@pytest.mark.parametrize("flag", ["0", "1"])
@pytest.mark.parametrize("exception", ["", "never"])
def test_patterns_are_text_and_no_regular_expressions(flag: str, exception: str) -> None:
    signs = r"a.b*c+d?e(f)[g]{h}^i$j\k-l&m~n #o/p'\"<q>%s"
    found = robots(f"{signs}|1|{exception}|0|2|{flag}")
    assert matches(found, signs, signs.upper() + " and more", signs.replace(".", "x")) == [
        True,
        True,
        False,
    ]
    assert matches(robots(f".*|1|{exception}|0|2|{flag}"), "anything", ".*") == [False, True]
    assert matches(robots(f"(?i)|1|{exception}|0|2|{flag}"), "anything", "(?I)") == [False, True]
    assert matches(robots(f"\\d\tx|1|{exception}|0|2|{flag}"), "1\tx", "\\D\tX") == [False, True]


def test_case_does_not_count_beyond_ascii_either() -> None:
    found = robots("Käfer|1||0|2|1", "Паук|1||0|2|0", "虫|1||0|2|0", "x|1|Ö|0|2|0")
    assert matches(found, "KÄFER", "a ПАУК", "虫", "x", "xö", "Kafer") == [
        *(True, True, True, True),
        *(False, False),
    ]


def test_no_list_matches_nothing() -> None:
    assert matches(UserAgents(), "bot", "", None) == [False, False, False]
    assert matches(UserAgents()) == matches(robots("a|1||0|2|0")) == []


WORDS = st.text("abAB.*(|\\^$ÄäÉßΣσς /-", min_size=1, max_size=4)
PATTERNS = WORDS.filter(lambda text: text.replace("|", "").strip()).map(
    lambda text: text.replace("|", "")
)


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(PATTERNS, st.booleans(), st.lists(PATTERNS, max_size=2), st.booleans()),
        min_size=1,
        max_size=5,
    ),
    st.lists(st.one_of(st.none(), st.text("abAB.*(|\\^$ÄäÉßΣσς /-", max_size=10)), max_size=12),
)
def test_match_equals_a_naive_loop(
    entries: list[tuple[str, bool, list[str], bool]], texts: list[str | None]
) -> None:
    def naive(text: str) -> bool:
        lower = text.lower()
        for pattern, active, exceptions, at_start in entries:
            sought = pattern.strip().lower()
            has = lower.startswith(sought) if at_start else sought in lower
            if active and has and not any(e.strip().lower() in lower for e in exceptions):
                return True
        return False

    lines = [
        f"{pattern}|{active:d}|{','.join(exceptions)}|0|2|{at_start:d}"
        for pattern, active, exceptions, at_start in entries
    ]
    found = robots(*lines, "never in these texts|1||0|2|0")
    assert matches(found, *texts) == [naive(text or "") for text in texts]


# Known crawlers.

CHROME = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
PEOPLE = (
    CHROME + "Chrome/138.0.0.0 Safari/537.36",
    CHROME + "Chrome/138.0.0.0 Safari/537.36 Edg/138.0.0.0",
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/18.5 Safari/605.1.15",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like "
    "Gecko) Version/18.5 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/138.0.0.0 Mobile Safari/537.36",
)


def test_robots_that_say_so_are_known() -> None:
    texts = [
        "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
        "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
        "curl/8.5.0",
        "python-requests/2.32.3",
        "Go-http-client/2.0",
    ]
    assert known_crawlers(pl.Series(texts)).to_list() == [True] * len(texts)


def test_every_example_of_the_package_is_known() -> None:
    examples = [
        text for one in crawleruseragents.CRAWLER_USER_AGENTS_DATA for text in one["instances"]
    ]
    assert len(examples) > 1_000
    known = known_crawlers(pl.Series(examples))
    assert [text for text, found in zip(examples, known, strict=True) if not found] == []


def test_browsers_of_people_are_no_crawlers() -> None:
    assert known_crawlers(pl.Series(PEOPLE)).to_list() == [False] * len(PEOPLE)
    nobody = known_crawlers(pl.Series([None, "", "-"]))
    assert nobody.to_list() == [False, False, False]
    assert known_crawlers(pl.Series([], dtype=pl.String)).to_list() == []


# Files.


def written(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def test_files_of_user_agents_are_read_one_after_the_other(tmp_path: Path) -> None:
    first = written(tmp_path, "a.txt", "\ufeffKäfer|1||0|2|0\r\n# comment\r\n\r\nbot|1||0|2|1\r\n")
    second = written(tmp_path, "b.txt", "spider|1|no|0|2|0")
    found = read_user_agents([first, second], "exclude")
    assert found.entries == (
        *(Entry("käfer"), Entry("bot", at_start=True)),
        Entry("spider", exceptions=("no",)),
    )
    assert read_user_agents([], "exclude") == UserAgents()
    include = written(tmp_path, "c.txt", "\ufeff# first\nMozilla|1|1\n")
    assert read_user_agents([include], "include").entries == (Entry("mozilla", at_start=True),)


def test_files_of_networks_are_read_together(tmp_path: Path) -> None:
    first = written(
        tmp_path,
        "a.txt",
        "\ufeff10.0.0.0/8\r\n# all of it\r\n\r\n  2001:db8::/32  # documentation\r\n10.0.0.0/8\r\n",
    )
    second = written(tmp_path, "b.txt", "192.0.2.1#one\n10.0.0.0/8")
    networks = {network(text) for text in ("10.0.0.0/8", "2001:db8::/32", "192.0.2.1")}
    assert read_networks([first, second]).networks == networks
    assert read_networks([]).networks == read_networks([written(tmp_path, "c", "")]).networks


def test_errors_of_files_name_file_and_line(tmp_path: Path) -> None:
    good = written(tmp_path, "good.txt", "10.0.0.0/8\n")
    bad = written(tmp_path, "bad.txt", "\ufeff# networks\r\n\r\n10.0.0.0/8\r\n10.0.0.0/33\r\n")
    with pytest.raises(ListError, match=r"bad\.txt, line 4: .*10\.0\.0\.0/33.*203\.0\.113\.0/24"):
        read_networks([good, bad])
    agents = written(tmp_path, "agents.txt", "\ufeff# agents\nbot|1||0|2|0\nbot\n")
    with pytest.raises(ListError, match=r"agents\.txt, line 3: 'bot'"):
        read_user_agents([agents], "exclude")
    with pytest.raises(ListError, match=r"good\.txt, line 1"):
        read_user_agents([good], "include")
    nothing = written(tmp_path, "nothing.txt", "\ufeff# nothing yet\n")
    with pytest.raises(ListError, match=r"nothing\.txt has no active entry"):
        read_user_agents([nothing], "exclude")


def test_a_list_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    latin = written(tmp_path, "latin.txt", "Käfer|1||0|2|0".encode("latin-1"))
    for path, words in (
        (str(tmp_path / "none.txt"), r"none\.txt' cannot be read .*Correct the path"),
        (str(tmp_path), "cannot be read"),
        (latin, r"latin\.txt' is not UTF-8 .*convert it"),
    ):
        with pytest.raises(ListError, match=words):
            read_networks([path])
        with pytest.raises(ListError, match=words):
            read_user_agents([path], "exclude")


def test_a_list_behind_an_unknown_address_is_refused() -> None:
    with pytest.raises(ListError, match="nowhere://bucket/list"):
        read_networks(["nowhere://bucket/list"])


# Fingerprints.


def networks_of(*texts: str) -> Networks:
    return Networks(frozenset(map(network, texts)))


def test_a_fingerprint_changes_with_any_entry() -> None:
    different = [
        Lists(),
        Lists(crawlers=False),
        Lists(robots=UserAgents((Entry("a"),))),
        Lists(robots=UserAgents((Entry("b"),))),
        Lists(robots=UserAgents((Entry("a"), Entry("b")))),
        Lists(robots=UserAgents((Entry("a", at_start=True),))),
        Lists(robots=UserAgents((Entry("a", exceptions=("x",)),))),
        Lists(robots=UserAgents((Entry("a", exceptions=("x", "y")),))),
        Lists(robots=UserAgents((Entry("a", exceptions=("x,y",)),))),
        Lists(browsers=UserAgents((Entry("a"),))),
        Lists(browsers=UserAgents((Entry("b"),))),
        Lists(datacenters=networks_of("10.0.0.0/8")),
        Lists(datacenters=networks_of("10.0.0.0/9")),
        Lists(datacenters=networks_of("10.0.0.0/8", "::/8")),
    ]
    assert len({repr(one.fingerprint) for one in different}) == len(different)


def test_a_fingerprint_is_that_of_the_networks_and_not_of_their_order(tmp_path: Path) -> None:
    lines = [f"10.{n}.0.0/16" for n in range(50)]
    one = written(tmp_path, "one", "\n".join(lines))
    other = written(tmp_path, "other", "# reversed\n" + "\n".join([*lines[::-1], lines[0]]))
    found = [Lists(datacenters=read_networks([path])).fingerprint for path in (one, other)]
    assert found[0] == found[1]
    apart = [written(tmp_path, f"part {n}", text) for n, text in enumerate(lines[::-1])]
    assert Lists(datacenters=read_networks(apart)).fingerprint == found[0]

"""The dashboard over files: what pages say, who may see them, and what hostile visitors get."""

from __future__ import annotations

import datetime
import html.parser
import itertools
import json
import re
import shutil
import urllib.request
import zoneinfo
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import hypothesis
import hypothesis.strategies as st
import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from adtally.pipelines.cli import cli
from adtally.pipelines.dashboard.access import Tokens, new_token
from adtally.pipelines.dashboard.app import COOKIE, application
from adtally.pipelines.dashboard.board import Board
from adtally.pipelines.dashboard.serve import check
from adtally.pipelines.dashboard.view import (
    LONGEST_MS,
    Correction,
    View,
    ViewError,
    ruled_by,
    ruling,
    spans,
    view_of,
    without,
)
from adtally.pipelines.job import ConfigError
from tests.dashboards import ADVERTISERS, HOUR_MS, START, UNTIL, logs, running
from tests.pipelines.test_oracle import run, views

UTC = zoneinfo.ZoneInfo("UTC")
DAY = {"range": "24h", "until": UNTIL}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dashboard")
    given = ("--output", str(folder / "out"), "--dimensions", "campaign_id")
    run("backfill", "--input", str(logs(folder / "logs")), *given)
    hour = ("--from", "2026-03-01T00:00:00Z", "--to", "2026-03-01T01:00:00Z")
    run("backfill", "--input", str(folder / "out" / "events"), *given, *hour)
    return folder / "out"


@pytest.fixture(scope="module")
def board(output: Path) -> Board:
    return Board(str(output), None, UTC)


@pytest.fixture
def visit(board: Board) -> Iterator[TestClient]:
    with TestClient(application(board), base_url="http://127.0.0.1:8050") as client:
        yield client


@pytest.fixture
def guarded(board: Board, tmp_path: Path) -> Iterator[tuple[TestClient, dict[str, str], Path]]:
    """A dashboard with tokens: who sees all, and who sees one advertiser."""
    file = tmp_path / "tokens.toml"
    tokens = {"anna": new_token(str(file), "anna", [])}
    tokens["shop"] = new_token(str(file), "shop", ["béta, & co"])
    app = application(board, Tokens(str(file)))
    with TestClient(app, base_url="http://127.0.0.1:8050", follow_redirects=False) as client:
        yield client, tokens, file


class Page(html.parser.HTMLParser):
    """Rows of tables, links, text, and whatever runs or loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.handlers: list[str] = []
        self.cell = False
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.handlers += [name for name in given if name.startswith("on")]
        if tag == "script":
            self.scripts.append(given.get("src") or "inline")
        if tag == "a":
            self.links.append(given.get("href") or "")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self.cell = True

    def handle_endtag(self, tag: str) -> None:
        self.cell = self.cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.cell:
            self.rows[-1][-1] += data.strip()


def get(client: TestClient, path: str, code: int = 200, **given: Any) -> Page:
    answer = client.get(path, params=given or None)
    assert answer.status_code == code, answer.text
    page = Page(answer.text)
    assert page.scripts == ["/static/live.js"] and page.handlers == []
    return page


def test_the_list_says_what_the_views_say(visit: TestClient, output: Path) -> None:
    page = get(visit, "/", **DAY)
    sql = views(output)
    expected = sql.execute(
        """SELECT advertiser_id, sum(clicks), sum(net_clicks), sum(impressions), max(last_event_at)
        FROM net_summaries WHERE window_seconds = 60 GROUP BY ALL ORDER BY 2 DESC"""
    ).fetchall()
    shown = [row for row in page.rows if len(row) == 8 and row[0] != "advertiser"]
    assert [row[0].partition("▼")[0].strip() for row in shown] == [row[0] for row in expected]
    for row, (_, clicks, net, impressions, at) in zip(shown, expected, strict=True):
        assert row[2] == f"{impressions:,}"
        assert row[3] == (f"{clicks:,}{net:,} net" if net != clicks else f"{clicks:,}")
        assert row[7] == f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"
    assert {row[0].partition("▼")[0].strip() for row in shown} == set(ADVERTISERS)


def test_it_is_sorted_searched_and_turned(visit: TestClient) -> None:
    def listed(**given: Any) -> list[str]:
        rows = get(visit, "/", **DAY, **given).rows
        return [row[0].partition("▼")[0].strip() for row in rows if len(row) == 8][1:]

    assert listed(sort="name") == sorted(ADVERTISERS)
    assert listed(sort="clicks")[0] == "acme" and listed(q="BÉTA") == ["béta, & co"]
    assert listed(q="<b>") == []
    assert "No id has <b> in it" in get(visit, "/", **DAY, q="<b>").text
    assert listed(page=99) == listed(page=1)


def test_an_advertiser_and_the_events_of_its_verdicts(visit: TestClient, output: Path) -> None:
    page = get(visit, "/advertiser", id="acme", **DAY)
    sql = views(output)
    gross, givt, sivt, net = sql.execute(
        """SELECT sum(clicks), sum(givt_clicks), sum(sivt_clicks), sum(net_clicks)
        FROM net_summaries WHERE window_seconds = 60 AND advertiser_id = 'acme'"""
    ).fetchall()[0]
    assert ["clicks", *(f"{value:,}" for value in (gross, givt, sivt, net))] in page.rows
    campaigns = sql.execute(
        """SELECT coalesce(campaign_id, '(none)'), sum(clicks), sum(net_clicks), currency
        FROM net_summaries WHERE window_seconds = 60 AND advertiser_id = 'acme' GROUP BY ALL"""
    ).fetchall()
    shown = {(row[0], row[2], row[3], row[5][-3:]) for row in page.rows if len(row) == 6}
    assert campaigns and all(
        (k, f"{c:,}", f"{n:,}", money) in shown for k, c, n, money in campaigns
    )
    robots = [link for link in page.links if "203.0.113.66" in link]
    assert len(robots) == 1
    evidence = get(visit, robots[0])
    named = [row for row in evidence.rows if row[2].startswith("◆")]
    events = [row for row in evidence.rows if len(row) == 9 and row[4] == "203.0.113.66"]
    [(ids,)] = sql.execute(
        "SELECT evidence FROM flags WHERE subject = '203.0.113.66' AND advertiser_id = 'acme'"
    ).fetchall()
    assert [row[2].removeprefix("◆").strip() for row in named] == sorted(ids)
    assert len(events) == 50
    clock = [link for link in page.links if "clockwork" in link]
    assert clock and "clockwork" in get(visit, clock[0]).text
    assert "100 events of this range came too late" in page.text
    generations = {row[0]: row for row in page.rows if row[:1] in (["first count"], ["1"])}
    assert int(generations["1"][4]) - int(generations["first count"][4]) != 0


def test_what_is_told_of_freshness_and_dead_letters(visit: TestClient) -> None:
    page = get(visit, "/health", range="1h")
    assert '{"<script>no record' in page.text and "invalid_json" in page.text
    assert any(row[0] == "1" and "2026-03-01 01:00" in row for row in page.rows)
    assert "final up to" in page.text


def test_where_nothing_is_new_the_newest_is_shown(visit: TestClient) -> None:
    page = get(visit, "/")
    assert "Nothing newer is counted" in page.text
    assert any("acme" in row[0] for row in page.rows if row)
    later = get(visit, "/", range="1h", until="2026-03-05T00:00:00Z")
    assert "Nothing is counted in this range" in later.text
    early = get(visit, "/advertiser", id="nobody", **DAY)
    assert "No events in this range" in early.text


def test_an_output_with_nothing_in_it(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.jsonl").write_text("{broken\n")
    run("backfill", "--input", str(tmp_path / "logs"), "--output", str(tmp_path / "out"))
    board = Board(str(tmp_path / "out"), None, UTC)
    with TestClient(application(board), base_url="http://localhost") as client:
        assert "Nothing is counted in this range" in get(client, "/").text
        assert "nothing counted yet" in get(client, "/health").text


@pytest.mark.parametrize(
    ("path", "given", "code", "told"),
    [
        ("/", {"range": "9y"}, 400, "there are 1h, 6h"),
        ("/", {"until": "yesterday"}, 400, "write it as"),
        ("/", {"until": "0001-01-01"}, 400, ""),
        ("/", {"until": "9999-12-31T23:59:59"}, 400, ""),
        ("/", {"sort": "x; DROP TABLE"}, 400, "no order"),
        ("/", {"page": "two"}, 400, "no whole number"),
        ("/", {"source": "elasticsearch"}, 400, "no source"),
        ("/advertiser", {}, 404, "no such advertiser"),
        ("/verdict", {"id": "acme"}, 400, "no whole number"),
        ("/verdict", {"id": "acme", "start": "61"}, 400, "no such window"),
        ("/verdict", {"id": "acme", "start": str(START)}, 404, "No verdict like this"),
        ("/nothing", {}, 404, "no such page"),
        ("/static/..%2fapp.py", {}, 404, "no such page"),
    ],
)
def test_wrong_questions_are_answered_clearly(
    visit: TestClient, path: str, given: dict[str, str], code: int, told: str
) -> None:
    assert told.lower() in get(visit, path, code, **given).text.lower()


@hypothesis.given(
    st.sampled_from(["/", "/advertiser", "/verdict", "/health"]),
    st.dictionaries(
        st.sampled_from(
            ["id", "range", "until", "source", "q", "sort", "page", "start", "rule", "subject"]
        ),
        st.text(max_size=30) | st.sampled_from(["acme", "1h", "7d", "1", UNTIL, "parquet"]),
        max_size=5,
    ),
)
@hypothesis.settings(
    max_examples=60, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_no_question_breaks_it(visit: TestClient, path: str, given: dict[str, str]) -> None:
    answer = visit.get(f"{path}?{urlencode(given, errors='surrogatepass')}")
    assert answer.status_code in (200, 400, 404), answer.text
    assert Page(answer.text).scripts == ["/static/live.js"]


def test_names_that_are_markup_are_text(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script>&amp;'
    (tmp_path / "logs").mkdir()
    at = "2026-03-01T00:00:30Z"
    line = f"""{{"event_id": %s, "event_type": "click", "occurred_at": "{at}", "currency": "EUR",
        "advertiser_id": %s, "campaign_id": %s, "ip": "192.0.2.1", "cost_micros": 1}}"""
    lines = [
        (line % (json.dumps(f"{n}{evil}"), json.dumps(evil), json.dumps(evil))).replace("\n", "")
        for n in range(40)
    ]
    (tmp_path / "logs" / "a.jsonl").write_text("\n".join(lines))
    given = ("--output", str(tmp_path / "out"), "--dimensions", "campaign_id")
    run("backfill", "--input", str(tmp_path / "logs"), *given)
    board = Board(str(tmp_path / "out"), None, UTC)
    with TestClient(application(board), base_url="http://localhost") as client:
        page = get(client, "/")
        [there] = [link for link in page.links if link.startswith("/advertiser")]
        advertiser = get(client, there)
        assert evil in advertiser.text
        [verdict] = {link for link in advertiser.links if link.startswith("/verdict")}
        assert sum("<script>" in "".join(row) for row in get(client, verdict).rows) == 40


def test_every_verdict_of_a_crowded_window_can_be_opened(tmp_path: Path) -> None:
    """Of 250 addresses at once, also those that the advertiser's page does not list."""
    (tmp_path / "logs").mkdir()
    lines = [
        {"event_id": f"{ip}-{n}", "event_type": "click", "occurred_at": "2026-03-01T00:00:30Z",
         "advertiser_id": "acme", "ip": f"192.0.2.{ip}", "user_id": f"{ip}-{n}"}
        for ip in range(250) for n in range(31 + (ip > 0))
    ]  # fmt: skip
    (tmp_path / "logs" / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run("backfill", "--input", str(tmp_path / "logs"), "--output", str(tmp_path / "out"))
    board = Board(str(tmp_path / "out"), None, UTC)
    with TestClient(application(board), base_url="http://localhost") as client:
        page = get(client, "/advertiser", id="acme")
        listed = {link for link in page.links if link.startswith("/verdict")}
        assert len(listed) == 200 and not any("192.0.2.0&" in f"{link}&" for link in listed)
        least = {"rule": "givt_click_rate_ip", "subject_type": "ip", "subject": "192.0.2.0"}
        found = get(client, "/verdict", id="acme", start=START, **least)
        assert sum("192.0.2.0" in row for row in found.rows) == 31


def test_others_cannot_read_along(visit: TestClient, board: Board) -> None:
    answer = visit.get("/", headers={"host": "evil.example"})
    assert answer.status_code == 400 and "acme" not in answer.text
    with TestClient(application(board, hosts=["board.example"])) as client:
        assert client.get("/healthz", headers={"host": "board.example:443"}).text == "ok\n"
        assert client.get("/healthz", headers={"host": "x.board.example"}).status_code == 400
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert visit.request(method, "/").status_code == 405
    headers = visit.get("/", params=DAY).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy
    assert headers["cache-control"] == "no-store" and headers["x-content-type-options"] == "nosniff"
    assert "server" not in headers


def test_tokens_open_and_tenants_see_their_own(
    guarded: tuple[TestClient, dict[str, str], Path],
) -> None:
    client, tokens, file = guarded
    assert all(token not in file.read_text() for token in tokens.values())
    assert file.stat().st_mode & 0o077 == 0
    for path in ("/", "/advertiser?id=acme", "/verdict?id=acme", "/health"):
        answer = client.get(path)
        assert answer.status_code == 303 and answer.headers["location"].startswith("/login?next=")
        assert "acme" not in answer.text
    assert client.get("/", headers={"authorization": "Bearer wrong"}).status_code == 303

    def asked(who: str, path: str, **given: Any) -> tuple[int, str]:
        bearer = {"authorization": f"Bearer {tokens[who]}"}
        answer = client.get(path, params={**DAY, **given}, headers=bearer)
        return answer.status_code, Page(answer.text).text

    code, everything = asked("anna", "/")
    assert code == 200 and all(name in everything for name in ADVERTISERS)
    code, own = asked("shop", "/")
    assert code == 200 and "béta, & co" in own
    assert "acme" not in own and "c/../3" not in own and "1 with events" in own
    assert asked("shop", "/advertiser", id="béta, & co")[0] == 200
    start = START + 3_720_000
    robot = {"rule": "givt_click_rate_ip", "subject_type": "ip", "subject": "203.0.113.66"}
    assert asked("anna", "/verdict", id="acme", start=start, **robot)[0] == 200
    refused, told = asked("shop", "/verdict", id="acme", start=start, **robot)
    assert (
        refused == 404 and told == asked("shop", "/verdict", id="nobody", start=start, **robot)[1]
    )
    assert asked("shop", "/advertiser", id="acme")[0] == 404
    health = asked("shop", "/health")[1]
    assert "no record" not in health and "ead letters" not in health
    assert "no record" in asked("anna", "/health", range="1h", until="")[1]


def test_a_link_with_a_token_becomes_a_cookie(
    guarded: tuple[TestClient, dict[str, str], Path],
) -> None:
    client, tokens, file = guarded
    answer = client.get("/advertiser", params={"id": "acme", "token": tokens["anna"]})
    assert (answer.status_code, answer.headers["location"]) == (303, "/advertiser?id=acme")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie and cookie.startswith(COOKIE)
    assert client.get("/", params=DAY).status_code == 200  # the client keeps cookies
    text = file.read_text().replace(file.read_text().split("\n\n")[0], "").lstrip()
    file.write_text(text)  # anna's is taken out
    assert client.get("/", params=DAY).status_code == 303
    wrong = client.get("/", params={"token": "guess"})
    assert wrong.status_code == 403 and "Nobody has this token" in wrong.text
    for there in ("//evil.example/", "https://evil.example/", "/\\evil.example"):
        answer = client.post("/login", params={"next": there}, data={"token": tokens["shop"]})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert client.post("/login", content=b"token=" + b"x" * 10_000).status_code == 413
    assert client.get("/logout").headers["location"] == "/login"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no [tokens.NAME]"),
        ("[tokens]", "no [tokens.NAME]"),
        ("tokens = 1", "no [tokens.NAME]"),
        ("[tokens.a]\nsha256 = 'abc'", "64 hexadecimal"),
        (f"[tokens.a]\nsha256 = '{'a' * 64}'\nadvertisers = []", "no list of ids"),
        (f"[tokens.a]\nsha256 = '{'a' * 64}'\nadvertisers = 'acme'", "no list of ids"),
        (f"[tokens.a]\nsha256 = '{'a' * 64}'\nadvertiser = ['acme']", "other keys"),
        ("[tokens.a\n", "cannot be read"),
    ],
)
def test_files_of_tokens_that_would_not_do_what_they_seem_to(
    tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "t.toml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(told)):
        Tokens(str(tmp_path / "t.toml"))


def test_new_tokens(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    whose = ['a"b\\c\x7f\n', "ü"]
    token = new_token(str(file), "one", whose)
    new_token(str(file), "two", [])
    visitor = Tokens(str(file)).visitor(token)
    assert visitor is not None and (visitor.name, visitor.advertisers) == ("one", tuple(whose))
    with pytest.raises(ConfigError, match="named 'one' already"):
        new_token(str(file), "one", [])
    with pytest.raises(ConfigError, match="other signs"):
        new_token(str(file), "a b", [])
    assert Tokens(str(file)).visitor("x") is None
    given = ["dashboard-token", "--tokens", str(file), "--name", "three", "--advertiser", "acme"]
    made = CliRunner().invoke(cli, given)
    found = Tokens(str(file)).visitor(made.output.strip())
    assert made.exit_code == 0 and found is not None and found.advertisers == ("acme",)


def test_it_is_not_shown_to_everybody_by_mistake(output: Path, tmp_path: Path) -> None:
    for host in ("127.0.0.1", "localhost", "::1"):
        check(host, None, None)
    with pytest.raises(ConfigError, match="anybody would see every advertiser"):
        check("0.0.0.0", None, "c.pem")
    with pytest.raises(ConfigError, match="read on the way"):
        check("10.1.2.3", "t.toml", None)
    check("10.1.2.3", "t.toml", "c.pem")
    for arguments, told in (
        (["--output", str(tmp_path)], "no output of adtally"),
        (["--output", str(output), "--host", "0.0.0.0"], "anybody would see"),
        (["--output", str(output), "--tokens", str(tmp_path / "t")], "cannot be read"),
        (["--output", str(output), "--time-zone", "Mars"], "no IANA zone"),
    ):
        result = CliRunner().invoke(cli, ["dashboard", *arguments])
        assert result.exit_code == 2 and told in result.output, result.output


def test_as_people_start_it(output: Path) -> None:
    with running("--output", str(output), "--time-zone", "Europe/Berlin") as url:
        with urllib.request.urlopen(f"{url}/?{urlencode(DAY)}") as answer:
            text = answer.read().decode()
        assert "Europe/Berlin" in text and "1 Mar 2026, 04:00" in text
        port = url.rpartition(":")[2]
        again = CliRunner().invoke(cli, ["dashboard", "--output", str(output), "--port", port])
        assert again.exit_code == 2 and "cannot be listened on" in again.output


def test_an_output_that_goes_away(tmp_path: Path, output: Path) -> None:
    shutil.copytree(output, tmp_path / "out")
    file = tmp_path / "tokens.toml"
    anna, shop = new_token(str(file), "anna", []), new_token(str(file), "shop", ["acme"])
    board = Board(str(tmp_path / "out"), None, UTC)
    app = application(board, Tokens(str(file)))
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        shutil.rmtree(tmp_path / "out")
        for token in (anna, shop):
            bearer = {"authorization": f"Bearer {token}"}
            answer = client.get("/", params=DAY, headers=bearer)
            assert answer.status_code == 503 and "Nothing to read from just now" in answer.text
            assert (str(tmp_path) in answer.text) == (token == anna)


@hypothesis.given(
    st.sampled_from([10, 60, 300, 3_600, 86_400, 7 * 86_400]),
    st.integers(HOUR_MS, LONGEST_MS),
    st.integers(LONGEST_MS + 8 * 86_400_000, 4_000_000_000_000),
    st.integers(10, 100),
)
def test_ranges_are_whole_steps_and_not_too_many(
    window: int, length: int, until: int, most: int
) -> None:
    view = view_of(window, until, length, until, most)
    assert view.step_ms % (window * 1000) == 0
    assert view.from_ms % view.step_ms == view.to_ms % view.step_ms == 0
    assert view.to_ms - view.step_ms < until <= view.to_ms
    assert 1 <= len(view.starts()) <= most + 1


def test_ranges_that_there_are_not() -> None:
    for length, until in ((0, START), (LONGEST_MS + 1, START), (HOUR_MS, 10), (HOUR_MS, 10**14)):
        with pytest.raises(ViewError):
            view_of(60, START, length, until)
    with pytest.raises(ValueError, match="no advertiser"):
        View(0, 60_000, 60_000, 0, ())


@hypothesis.given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 40), st.integers(1, 40)), max_size=6),
    st.integers(0, 20),
    st.integers(1, 40),
)
def test_which_generation_rules(made: list[tuple[int, int, int]], first: int, length: int) -> None:
    """Against each window asked for itself; windows are 4 long, corrections may cut them."""
    corrections = [Correction(number, at, at + size, 0) for number, at, size in made]
    start, end = first * 4, (first + length) * 4
    parts = ruling(corrections, start, end, 4)
    assert parts[0][1] == start and parts[-1][2] == end
    assert all(one[2] == other[1] for one, other in itertools.pairwise(parts))
    for window in range(start, end, 4):
        expected = max(
            (
                one.generation
                for one in corrections
                if one.from_ms <= window and window + 4 <= one.to_ms
            ),
            default=0,
        )
        assert ruled_by(parts, window, window + 4) == expected


@hypothesis.given(st.sets(st.integers(0, 30)))
def test_spans(starts: set[int]) -> None:
    found = list(spans([one * 5 for one in starts], 5))
    assert [at for low, high in found for at in range(low, high, 5)] == sorted(
        x * 5 for x in starts
    )
    assert all(one[1] < other[0] for one, other in itertools.pairwise(found))


@hypothesis.given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)))
def test_what_is_left(all_of: set[int], some: set[int]) -> None:
    ranges, taken = (list(spans([x * 5 for x in one], 5)) for one in (all_of, some))
    left = [at for low, high in without(ranges, taken) for at in range(low, high, 5)]
    assert left == sorted(x * 5 for x in all_of - some)


def test_time_zones_move_the_clock_only(output: Path) -> None:
    board = Board(str(output), None, zoneinfo.ZoneInfo("Asia/Kolkata"))
    with TestClient(application(board), base_url="http://localhost") as client:
        page = get(client, "/advertiser", id="acme", range="6h", until="2026-03-01T08:30")
    assert "1 Mar 2026, 08:30, Asia/Kolkata" in page.text
    assert (
        datetime.datetime(2026, 3, 1, 8, 30, tzinfo=board.zone).timestamp() * 1000
        == START + 3 * HOUR_MS
    )

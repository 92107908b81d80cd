"""Who else clicks in made-up events: robots of each kind, and crowds that rules may take for one.

Each kind is a function of the configuration, the random numbers and the people's events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from adtally.io.synthetic import GenerateConfig

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000

BROWSERS: Final = np.array(
    [
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
        "Chrome/131.0.0.0 Safari/537.36",
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) "
        "Version/18.1 Safari/605.1.15",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like "
        "Gecko) Version/18.1 Mobile/15E148 Safari/604.1",
        "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) "
        "Chrome/131.0.0.0 Mobile Safari/537.36",
        "Mozilla/5.0 (X11; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0",
    ]
)
_CRAWLERS: Final = np.array(
    [
        "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
        "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
        "python-requests/2.32.3",
        "curl/8.9.1",
    ]
)
BURST_CLICKS: Final = (40, 90)
"""Clicks of one bot on one advertiser within one minute: above the rule's threshold of 30."""
RHYTHM_CLICKS: Final = (8, 16)
RHYTHM_MS: Final = 3_000
"""Clicks of one bot that waits three seconds, give or take 50 ms, all within a minute."""
AGAIN_RATIO: Final = 0.0005
"""Second clicks of people, as a share of all events."""
OFFICE_PEOPLE: Final = (20, 400)
"""Behind one address. A third of them click on one advertiser within the same minute."""
LAUNCH_PEOPLE: Final = (1_000, 10_000)
LAUNCH_ADDRESSES: Final = 50
"""Of a mobile carrier, which all people of a launch share."""
LAUNCH_MS: Final = 240_000
"""The mean time after the launch at which people click, so a fifth do in its first minute."""
EAGER_EVENTS: Final = 30
EAGER_MS: Final = 170_000
"""Clicks, or impressions, of one user within just under three minutes."""
BARE_CLICKS: Final = 6
"""Of one robot, each naming an impression that never was."""
INJECTED_MS: Final = (50, 1_950)
"""From a person's click to a conversion that takes the credit."""
CRAWLS: Final = 20
"""What one robot that says what it is loads or clicks."""


def robots_of(
    config: GenerateConfig, rng: np.random.Generator, people: pl.DataFrame
) -> list[pl.DataFrame]:
    """A frame like ``people`` for each kind."""
    kinds = (_bots, _rhythms, _crawlers, _again, _eager, _viewers, _bare, _injected)
    return [made(config, rng, people) for made in kinds]


def crowds_of(
    config: GenerateConfig, rng: np.random.Generator, people: pl.DataFrame
) -> list[pl.DataFrame]:
    """``office`` and ``launch``, where the configuration has crowds."""
    if not config.crowds:
        return []
    return [made(config, rng, people) for made in (_offices, _launches)]


def _bots(config: GenerateConfig, rng: np.random.Generator, people: pl.DataFrame) -> pl.DataFrame:
    """Bursts of clicks: one address, one advertiser, one minute."""
    bursts = max(1, config.events // 20_000)
    sizes = rng.integers(*BURST_CLICKS, bursts)
    minute = config.start_ms + rng.integers(0, config.hours * 60, bursts) * MINUTE_MS
    burst = np.repeat(np.arange(bursts), sizes)
    rows = len(burst)
    times = minute[burst] + rng.integers(0, MINUTE_MS, rows)
    advertisers = (burst * 13) % config.advertisers
    return _robots(people, "bot", burst, times, advertisers, _agents(burst))


def _rhythms(
    config: GenerateConfig, rng: np.random.Generator, people: pl.DataFrame
) -> pl.DataFrame:
    """Clicks at machine-like intervals: one user, one advertiser, within a minute."""
    robots = max(1, config.events // 40_000)
    sizes = rng.integers(*RHYTHM_CLICKS, robots)
    minute = config.start_ms + rng.integers(0, config.hours * 60, robots) * MINUTE_MS
    robot = np.repeat(np.arange(robots), sizes)
    nth = np.concatenate([np.arange(size) for size in sizes])
    times = minute[robot] + 500 + nth * RHYTHM_MS + rng.integers(0, 100, len(robot))
    advertisers = (robot * 17 + 1) % config.advertisers
    places = nth % 60  # another creative each time, so that no click is a duplicate
    agents = _agents(robot)
    return _robots(people, "rhythm", robot + 1_000_000, times, advertisers, agents, places)


def _crawlers(
    config: GenerateConfig, rng: np.random.Generator, people: pl.DataFrame
) -> pl.DataFrame:
    """Robots that say what they are: impressions and clicks, here and there."""
    robot = np.repeat(np.arange(max(1, config.events // 20_000)), CRAWLS)
    times = config.start_ms + rng.integers(0, config.hours * HOUR_MS, len(robot))
    advertisers = rng.integers(0, config.advertisers, len(robot))
    agents = _CRAWLERS[robot % len(_CRAWLERS)]
    places = rng.integers(0, 60, len(robot))
    types = (np.arange(len(robot)) % 4 == 0).astype(np.int8)
    return _robots(people, "crawler", robot + 2_000_000, times, advertisers, agents, places, types)


def _eager(config: GenerateConfig, rng: np.random.Generator, people: pl.DataFrame) -> pl.DataFrame:
    """Clicks of one user at random moments of three minutes, each on another creative."""
    return _in_three_minutes(config, rng, people, "eager", 5_000_000, type_=1)


def _viewers(
    config: GenerateConfig, rng: np.random.Generator, people: pl.DataFrame
) -> pl.DataFrame:
    """Impressions likewise."""
    return _in_three_minutes(config, rng, people, "viewer", 6_000_000, type_=0)


def _in_three_minutes(
    config: GenerateConfig,
    rng: np.random.Generator,
    people: pl.DataFrame,
    kind: str,
    first: int,
    type_: int,
) -> pl.DataFrame:
    pairs = max(1, config.events // 80_000)  # two at once on the same advertiser
    robot = np.repeat(np.arange(2 * pairs), EAGER_EVENTS)
    begin = config.start_ms + rng.integers(0, config.hours * 60, pairs) * MINUTE_MS
    times = begin[robot // 2] + rng.integers(0, EAGER_MS, len(robot))
    places = np.arange(len(robot)) % 60
    advertisers = (robot // 2 * 29 + 4) % config.advertisers
    agents = _agents(robot)
    types = np.full(len(robot), type_, np.int8)
    return _robots(people, kind, robot + first, times, advertisers, agents, places, types)


def _bare(config: GenerateConfig, rng: np.random.Generator, people: pl.DataFrame) -> pl.DataFrame:
    """Clicks without an impression, of biggest advertisers; ``make_events`` names them one."""
    robot = np.repeat(np.arange(max(1, config.events // 20_000)), BARE_CLICKS)
    times = config.start_ms + rng.integers(0, config.hours * HOUR_MS, len(robot))
    advertisers = robot % max(1, config.advertisers // 100)
    return _robots(people, "bare", robot + 7_000_000, times, advertisers, _agents(robot))


def _injected(
    config: GenerateConfig, rng: np.random.Generator, people: pl.DataFrame
) -> pl.DataFrame:
    """Conversions right after clicks of people."""
    clicks = people.with_row_index("click").filter(pl.col("type") == 1)
    count = max(1, config.events // 10_000) if clicks.height else 0
    chosen = clicks[rng.integers(0, max(1, clicks.height), count)]
    return chosen.with_columns(
        pl.lit(2, pl.Int8).alias("type"),
        pl.col("occurred_at") + pl.Series(rng.integers(*INJECTED_MS, count)),
        pl.col("click").cast(pl.Int64).alias("parent"),
        pl.lit("injected").alias("kind"),
        pl.lit(0, pl.Int64).alias("cost"),
        pl.lit(500_000, pl.Int64).alias("revenue"),
    ).select(people.columns)


def _offices(
    config: GenerateConfig, rng: np.random.Generator, people: pl.DataFrame
) -> pl.DataFrame:
    """Clicks of people behind one address: over an hour, and a third of them in one minute."""
    sizes = rng.integers(*OFFICE_PEOPLE, config.crowds)
    office = np.repeat(np.arange(config.crowds), sizes)
    user = 3_000_000 + np.arange(len(office))
    hour = config.start_ms + rng.integers(0, config.hours, config.crowds)[office] * HOUR_MS
    minute = rng.integers(0, 60, config.crowds)[office] * MINUTE_MS
    together = rng.random(len(office)) < 1 / 3
    at_once = minute + rng.integers(0, MINUTE_MS, len(office))
    times = hour + np.where(together, at_once, rng.integers(0, HOUR_MS, len(office)))
    advertisers = (office * 19 + 2) % config.advertisers
    agents = _agents(user)
    made = _robots(people, "office", user, times, advertisers, agents)
    return made.with_columns(address=pl.Series(14_900_000 + office))


def _launches(
    config: GenerateConfig, rng: np.random.Generator, people: pl.DataFrame
) -> pl.DataFrame:
    """Clicks of thousands on one advertiser within minutes, from a carrier's few addresses."""
    sizes = rng.integers(*LAUNCH_PEOPLE, config.crowds)
    launch = np.repeat(np.arange(config.crowds), sizes)
    user = 4_000_000 + np.arange(len(launch))
    begin = config.start_ms + rng.integers(0, config.hours, config.crowds)[launch] * HOUR_MS
    after = np.minimum(rng.exponential(LAUNCH_MS, len(launch)), HOUR_MS - 1).astype(np.int64)
    advertisers = (launch * 23 + 3) % config.advertisers
    agents = _agents(user)
    made = _robots(people, "launch", user, begin + after, advertisers, agents)
    carrier = 14_950_000 + launch * LAUNCH_ADDRESSES + user % LAUNCH_ADDRESSES
    return made.with_columns(address=pl.Series(carrier))


def _agents(users: np.ndarray) -> np.ndarray:
    return BROWSERS[users % len(BROWSERS)]


def _robots(
    people: pl.DataFrame,
    kind: str,
    robot: np.ndarray,
    times: np.ndarray,
    advertisers: np.ndarray,
    agents: np.ndarray,
    places: np.ndarray | None = None,
    types: np.ndarray | None = None,
) -> pl.DataFrame:
    """Events of robots, each with a user and an address of its own."""
    rows = len(robot)
    columns = {
        "type": np.ones(rows, np.int8) if types is None else types,
        "occurred_at": times,
        "advertiser": advertisers,
        "place": robot % 60 if places is None else places,
        "user": 1_000_000_000 + robot,
        "parent": np.full(rows, -1),
        "address": 15_000_000 + robot,
        "user_agent": agents,
        "country": np.full(rows, "US"),
        "cost": np.full(rows, 250_000),
        "revenue": np.zeros(rows, np.int64),
        "kind": np.full(rows, kind),
    }
    return pl.DataFrame(columns, schema=people.schema)


def _again(config: GenerateConfig, rng: np.random.Generator, people: pl.DataFrame) -> pl.DataFrame:
    """Second clicks of people on the same creative, within three seconds."""
    clicks = people.filter(pl.col("type") == 1)
    count = round(config.events * AGAIN_RATIO) if clicks.height else 0
    rows = rng.integers(0, max(1, clicks.height), count)
    later = pl.Series(rng.integers(200, 3_000, count))
    return clicks[rows].with_columns(pl.col("occurred_at") + later, kind=pl.lit("again"))

"""What the summaries should be, said in SQL over the raw lines; no code of the pipeline.

DuckDB reads the same files as text, finds the malformed lines itself, and counts. Only the hash
that breaks ties between conflicting duplicates comes from the xxhash package.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import crawleruseragents
import duckdb
import pyarrow as pa
import xxhash

LATENESS_MS = 3_600_000
MEASURES = (
    "impressions, clicks, conversions, duplicates, givt_impressions, givt_clicks, "
    "givt_conversions, net_clicks, cost_micros, givt_cost_micros, net_cost_micros, "
    "revenue_micros, unique_users, epoch_ms(first_event_at), epoch_ms(last_event_at)"
)
"""Measures of a summary in the order of :func:`summaries`, after its keys."""

FLAGS = "epoch_ms(window_start), advertiser_id, rule, subject_type, subject, count"
"""A flag in the order of :func:`flags`."""


def load(connection: duckdb.DuckDBPyConnection, logs: Path, now_ms: int) -> None:
    """Create ``events`` (decodable lines) and ``dead`` (the others, with their byte offsets)."""
    connection.register("raw_lines", _raw(logs))
    text = "CASE WHEN json_valid(line) AND json_type(line) = 'OBJECT' THEN line END"
    names = ["event_id", "event_type", "advertiser_id", "campaign_id", "country", "user_id", "ip"]
    names += ["currency", "occurred_at", "received_at", "cost_micros", "revenue_micros"]
    names += ["creative_id", "user_agent", "impression_id", "click_id", "publisher_id"]
    columns = ", ".join(f"nullif(json_extract_string(j, '$.{n}'), '') AS {n}" for n in names)
    connection.execute(
        f"""
        CREATE TABLE typed AS
        SELECT * EXCLUDE (occurred_at, received_at, cost_micros, revenue_micros),
            occurred_at IS NOT NULL AS has_time,
            epoch_ms(try_cast(occurred_at AS TIMESTAMPTZ)) AS happened,
            epoch_ms(try_cast(received_at AS TIMESTAMPTZ)) AS received,
            received_at IS NOT NULL AS has_received,
            cost_micros AS cost_text, try_cast(cost_micros AS BIGINT) AS cost,
            revenue_micros AS revenue_text, try_cast(revenue_micros AS BIGINT) AS revenue
        FROM (SELECT source, position, content_hash, {columns}
              FROM (SELECT *, ({text})::JSON AS j FROM raw_lines));
        CREATE TABLE judged AS
        SELECT *, coalesce(
            happened IS NOT NULL AND advertiser_id IS NOT NULL
            AND event_type IN ('impression', 'click', 'conversion')
            AND (received IS NOT NULL OR NOT has_received)
            AND (cost IS NOT NULL OR cost_text IS NULL)
            AND (revenue IS NOT NULL OR revenue_text IS NULL)
            AND (currency IS NULL OR regexp_full_match(currency, '[A-Z]{{3}}'))
            AND (currency IS NOT NULL OR (coalesce(cost, 0) = 0 AND coalesce(revenue, 0) = 0))
            AND happened >= 946684800000
            AND happened <= coalesce(received, {now_ms}) + 86400000, false) AS good
        FROM typed;
        CREATE TABLE dead AS SELECT source, position FROM judged WHERE NOT good;
        """
    )
    agents = connection.execute(
        "SELECT DISTINCT user_agent FROM judged WHERE user_agent IS NOT NULL"
    ).fetchall()
    robots = pa.table({"user_agent": [a for (a,) in agents if crawleruseragents.is_crawler(a)]})
    connection.register("robots", robots.cast(pa.schema([("user_agent", pa.string())])))
    connection.execute(
        r"""
        CREATE TABLE events AS
        SELECT *, user_agent IN (FROM robots) AS robot,
            NOT regexp_matches(user_agent, '^(Mozilla|Opera|Dalvik)/|\bCFNetwork/|\bDarwin/')
                AS no_browser
        FROM judged WHERE good;
        """
    )


def _raw(logs: Path) -> pa.Table:
    """Every line that is not blank; None for text that is not UTF-8."""
    rows = []
    for path in sorted(logs.rglob("*.jsonl*")):
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        offset = 0
        for line in data.split(b"\n"):
            if line.strip():
                digest = xxhash.xxh3_64_intdigest(line)
                signed = digest - (1 << 64) if digest >> 63 else digest
                rows.append((str(path), offset, signed, _text(line)))
            offset += len(line) + 1
    names = ("source", "position", "content_hash", "line")
    return pa.table({name: [row[at] for row in rows] for at, name in enumerate(names)})


def _text(line: bytes) -> str | None:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return None


def summaries(
    connection: duckdb.DuckDBPyConnection,
    window_seconds: int,
    *,
    rollup_seconds: int | None = None,
    dimensions: Sequence[str] = (),
    threshold: int = 30,
    late_too: bool = False,
    most: int = 0,
) -> list[tuple[object, ...]]:
    """Rows, sorted: window start (ms), advertiser, dimensions, currency, then the measures.

    With ``most``, so many rows of an advertiser and window stand for themselves.
    """
    _count(connection, window_seconds, threshold, late_too)
    size = (rollup_seconds or window_seconds) * 1000
    if most:
        _fold(connection, window_seconds * 1000, dimensions, dimensions, most)
        if rollup_seconds:
            base = [f"at{window_seconds * 1000}_{name}" for name in dimensions]
            _fold(connection, size, dimensions, base, most)
    row = [f"at{size}_{name}" for name in dimensions] if most else dimensions
    keys = ", ".join([f"w // {size} * {size} AS start", "advertiser_id", *row, "money"])
    return connection.execute(
        f"""
        SELECT {keys},
            sum((event_type = 'impression' AND counted)::INT)::BIGINT AS impressions,
            sum((event_type = 'click' AND counted)::INT)::BIGINT AS clicks,
            sum((event_type = 'conversion' AND counted)::INT)::BIGINT AS conversions,
            sum((NOT counted)::INT)::BIGINT AS duplicates,
            sum((event_type = 'impression' AND givt)::INT)::BIGINT AS givt_impressions,
            sum((event_type = 'click' AND givt)::INT)::BIGINT AS givt_clicks,
            sum((event_type = 'conversion' AND givt)::INT)::BIGINT AS givt_conversions,
            sum((event_type = 'click' AND counted AND NOT givt)::INT)::BIGINT AS net_clicks,
            sum(CASE WHEN counted THEN coalesce(cost, 0) ELSE 0 END)::BIGINT AS cost_micros,
            sum(CASE WHEN givt THEN coalesce(cost, 0) ELSE 0 END)::BIGINT AS givt_cost_micros,
            sum(CASE WHEN counted AND NOT givt THEN coalesce(cost, 0) ELSE 0 END)::BIGINT
                AS net_cost_micros,
            sum(CASE WHEN counted THEN coalesce(revenue, 0) ELSE 0 END)::BIGINT AS revenue_micros,
            count(DISTINCT CASE WHEN counted THEN user_id END) AS unique_users,
            min(happened) AS first_event_at, max(happened) AS last_event_at
        FROM judged_events GROUP BY ALL ORDER BY ALL
        """
    ).fetchall()


def flags(connection: duckdb.DuckDBPyConnection) -> list[tuple[object, ...]]:
    """What was flagged, as :data:`FLAGS` names it, after :func:`summaries`."""
    return connection.execute("FROM flags ORDER BY ALL").fetchall()


LOOK_BACK_FLAGS = (
    "epoch_ms(window_start), epoch_ms(flagged_at), advertiser_id, rule, ivt_class, subject_type, "
    "subject, count, threshold"
)
"""A flag of a rule that looks back, in the order of :func:`look_back`."""

NET = (
    "givt_impressions, givt_clicks, givt_conversions, givt_cost_micros, sivt_impressions, "
    "sivt_clicks, sivt_conversions, sivt_cost_micros, net_impressions, net_clicks, "
    "net_conversions, net_cost_micros"
)
"""Measures of a row of ``net_summaries`` in the order of :func:`net`, after its keys."""


def look_back(
    connection: duckdb.DuckDBPyConnection, window_seconds: int, flood: int = 10_000
) -> list[tuple[object, ...]]:
    """What rules that look back flag, as :data:`LOOK_BACK_FLAGS`, after :func:`summaries`."""
    hour = max(3_600_000, window_seconds * 1000)
    of_publisher = (
        "if(publisher_id IS NULL, 'advertiser', 'publisher') AS subject_type, "
        "coalesce(publisher_id, advertiser_id) AS subject"
    )
    rates = " UNION ALL ".join(
        f"""SELECT source, position, 'givt_{kind}_rate_user' AS rule, 'GIVT' AS ivt_class,
            'user' AS subject_type, user_id AS subject, {most} AS threshold
        FROM hours WHERE counted AND event_type = '{kind}' AND user_id IS NOT NULL
        QUALIFY happened - lag(happened, {most}) OVER (
            PARTITION BY advertiser_id, user_id ORDER BY happened, event_id, content_hash)
            < 180000"""
        for kind, most in (("click", 10), ("impression", 20))
    )
    connection.execute(
        f"""
        CREATE OR REPLACE TABLE hours AS
        SELECT *, happened // {hour} * {hour} AS h FROM judged_events;
        CREATE OR REPLACE TABLE shown AS FROM hours WHERE event_type = 'impression';
        CREATE OR REPLACE TABLE clicked AS FROM hours WHERE event_type = 'click';
        CREATE OR REPLACE TABLE known_since AS
        SELECT advertiser_id, h, min(first) AS first FROM (
            SELECT advertiser_id, h, min(happened) AS first FROM shown GROUP BY ALL
            UNION ALL SELECT advertiser_id, h + {hour}, min(happened) FROM shown
            WHERE happened >= h + {hour} - 3600000 GROUP BY ALL)
        GROUP BY ALL;
        CREATE OR REPLACE TABLE hits AS
        {rates}
        UNION ALL SELECT source, position, 'sivt_click_without_impression', 'SIVT', {of_publisher},
            0
        FROM clicked c JOIN known_since k USING (advertiser_id, h)
        WHERE counted AND impression_id IS NOT NULL AND happened - k.first >= 1800000
            AND NOT EXISTS (FROM shown i WHERE i.advertiser_id = c.advertiser_id
                AND i.event_id = c.impression_id AND i.happened >= c.happened - 3600000
                AND i.happened <= c.happened + 10000 AND i.happened < c.h + {hour})
        UNION ALL SELECT source, position, 'sivt_click_injection', 'SIVT', {of_publisher}, 2000
        FROM hours c WHERE counted AND event_type = 'conversion' AND EXISTS (
            FROM clicked k WHERE k.advertiser_id = c.advertiser_id AND k.event_id = c.click_id
                AND c.happened - k.happened BETWEEN 0 AND 1999
                AND (c.happened % 60000 > 0 OR k.happened % 60000 > 0)
                AND c.content_hash != k.content_hash)
        UNION ALL SELECT source, position, 'sivt_click_flooding', 'SIVT', 'publisher',
            publisher_id, {flood}
        FROM hours WHERE counted AND publisher_id IS NOT NULL
        WINDOW p AS (PARTITION BY advertiser_id, h, publisher_id)
        QUALIFY event_type = 'click'
            AND sum((event_type = 'conversion')::INT) OVER (PARTITION BY advertiser_id, h) > 0
            AND sum((event_type = 'click')::INT) OVER p
                > {flood} * greatest(1, sum((event_type = 'conversion')::INT) OVER p);
        """
    )
    return connection.execute(
        """
        SELECT h, w, advertiser_id, rule, ivt_class, subject_type, subject, count(*), threshold
        FROM hits JOIN hours USING (source, position) GROUP BY ALL ORDER BY ALL
        """
    ).fetchall()


ANOMALIES = (
    "epoch_ms(window_start), epoch_ms(flagged_at), advertiser_id, rule, subject, count, threshold"
)
"""An anomaly in the order of :func:`anomalies`."""


def anomalies(connection: duckdb.DuckDBPyConnection, season: str = "") -> list[tuple[object, ...]]:
    """Anomalies of series of minutes, as :data:`ANOMALIES`, after :func:`summaries`.

    Args:
        connection: with the judged events.
        season: address of a profile.
    """
    none = """SELECT NULL::VARCHAR AS advertiser_id, NULL::VARCHAR AS measure,
        NULL::VARCHAR AS currency, 0 AS hour, 0.0 AS factor WHERE false"""
    factors = f"FROM read_parquet('{season}')" if season else none
    connection.execute(
        f"""
        CREATE OR REPLACE TABLE season AS
        SELECT advertiser_id, measure, currency, hour, factor
        FROM ({factors});
        CREATE OR REPLACE TABLE curve AS  -- of each minute of the day, in the middle of it
        SELECT advertiser_id, measure, currency, minute,
            min_by(factor, step) + (max_by(factor, step) - min_by(factor, step))
                * any_value((minute + 30.5) % 60) / 60 AS factor
        FROM season, range(1440) m(minute), range(2) s(step)
        WHERE hour = ((minute + 30) // 60 - 1 + step + 24) % 24
        GROUP BY ALL;
        """
    )
    connection.execute(
        """
        CREATE OR REPLACE TABLE minutes AS
        SELECT advertiser_id, money, w,
            sum((event_type = 'impression' AND counted)::INT) AS impressions,
            sum((event_type = 'click' AND counted)::INT) AS clicks,
            sum((event_type = 'conversion' AND counted)::INT) AS conversions,
            sum(CASE WHEN counted THEN coalesce(cost, 0) ELSE 0 END) AS spend
        FROM judged_events GROUP BY advertiser_id, money, w
        QUALIFY sum(count(*)) OVER (PARTITION BY advertiser_id, w) >= 5;
        CREATE OR REPLACE TABLE whole AS
        SELECT advertiser_id, NULL AS money, w, sum(impressions) AS impressions,
            sum(clicks) AS clicks, sum(conversions) AS conversions, 0 AS spend
        FROM minutes GROUP BY ALL;
        CREATE OR REPLACE TABLE series AS
        FROM (FROM whole UNION ALL FROM minutes WHERE money IS NOT NULL);
        CREATE OR REPLACE TABLE points AS
        SELECT advertiser_id, money, h, unnest(range(h, last + 60000, 60000)) AS w
        FROM (SELECT advertiser_id, money, w // 3600000 * 3600000 AS h, max(w) AS last
              FROM series GROUP BY ALL);
        CREATE OR REPLACE TABLE pasts AS
        WITH grid AS (
            SELECT p.*, unnest(range(p.w - 3600000, p.w, 60000)) AS p_w FROM points p
        ), filled AS (
            SELECT g.advertiser_id, g.money, g.h, g.w, g.p_w,
                coalesce(s.impressions, 0) AS impressions, coalesce(s.clicks, 0) AS clicks,
                coalesce(s.conversions, 0) AS conversions, coalesce(s.spend, 0)::DOUBLE AS spend
            FROM grid g LEFT JOIN series s ON s.advertiser_id = g.advertiser_id
                AND s.money IS NOT DISTINCT FROM g.money AND s.w = g.p_w
            QUALIFY g.p_w >= min(s.w) OVER (PARTITION BY g.advertiser_id, g.money, g.w)
        ), ratios AS (
            SELECT n.advertiser_id, n.measure, n.currency, n.minute AS now, b.minute AS before,
                CASE WHEN b.factor >= 0.05 THEN n.factor / b.factor END AS ratio
            FROM curve n JOIN curve b ON b.advertiser_id = n.advertiser_id
                AND b.measure = n.measure AND b.currency IS NOT DISTINCT FROM n.currency
                AND (n.minute - b.minute + 1440) % 1440 BETWEEN 1 AND 60
        ), by_measure AS (
            SELECT f.advertiser_id, f.money, f.h, f.w, f.p_w, name,
                CASE WHEN r.measure IS NULL THEN value ELSE value * ratio END AS value
            FROM (SELECT advertiser_id, money, h, w, p_w, impressions::DOUBLE AS impressions,
                    clicks::DOUBLE AS clicks, conversions::DOUBLE AS conversions, spend FROM filled)
                UNPIVOT (value FOR name IN (impressions, clicks, conversions, spend)) f
            LEFT JOIN ratios r ON r.advertiser_id = f.advertiser_id
                AND r.measure = CASE WHEN name = 'spend' THEN 'cost_micros' ELSE name END
                AND (name != 'spend' OR r.currency = f.money)
                AND r.now = f.w // 60000 % 1440 AND r.before = f.p_w // 60000 % 1440
        )
        SELECT advertiser_id, money, h, w, p_w,
            max(value) FILTER (name = 'impressions') AS impressions,
            max(value) FILTER (name = 'clicks') AS clicks,
            max(value) FILTER (name = 'conversions') AS conversions,
            max(value) FILTER (name = 'spend') AS spend
        FROM by_measure GROUP BY ALL;
        CREATE OR REPLACE TABLE facts AS
        WITH middle AS (
            SELECT advertiser_id, money, h, w,
                count(impressions + clicks) AS known_ic, count(conversions + clicks) AS known_vc,
                count(impressions + clicks + spend) AS known_s,
                median(impressions) AS i, median(clicks) AS c, median(spend) AS s,
                median(impressions + clicks) AS e,
                sum(impressions) AS all_i, sum(clicks) AS all_c, sum(conversions) AS all_v
            FROM pasts GROUP BY ALL
        ), shares AS (
            SELECT *,
                least(
                    1 - 1 / greatest(all_i, 2),
                    greatest(all_c / greatest(all_i, 1), 1 / greatest(all_i, 2))
                ) AS ctr,
                least(
                    1 - 1 / greatest(all_c, 2),
                    greatest(all_v / greatest(all_c, 1), 1 / greatest(all_c, 2))
                ) AS cvr
            FROM middle
        ), scales AS (
            SELECT m.advertiser_id, m.money, m.w,
                1.4826 * median(abs(p.impressions - i)) AS i_scale,
                1.4826 * median(abs(p.clicks - c)) AS c_scale,
                1.4826 * median(abs(p.spend - s)) AS s_scale,
                1.4826 * median(abs(p.clicks - ctr * p.impressions)
                    / (sqrt(ctr * (1 - ctr)) * sqrt(p.impressions)))
                    FILTER (p.impressions > 0) AS ctr_scatter,
                1.4826 * median(abs(p.conversions - cvr * p.clicks)
                    / (sqrt(cvr * (1 - cvr)) * sqrt(p.clicks))) FILTER (p.clicks > 0) AS cvr_scatter
            FROM shares m JOIN pasts p ON p.advertiser_id = m.advertiser_id
                AND p.money IS NOT DISTINCT FROM m.money AND p.w = m.w
            GROUP BY ALL
        )
        SELECT m.*, x.* EXCLUDE (advertiser_id, money, w),
            coalesce(n.impressions, 0) AS now_i, coalesce(n.clicks, 0) AS now_c,
            coalesce(n.conversions, 0) AS now_v, coalesce(n.spend, 0) AS now_s
        FROM shares m
        JOIN scales x ON x.advertiser_id = m.advertiser_id AND x.w = m.w
            AND x.money IS NOT DISTINCT FROM m.money
        LEFT JOIN series n ON n.advertiser_id = m.advertiser_id AND n.w = m.w
            AND n.money IS NOT DISTINCT FROM m.money;
        """
    )
    rate = "greatest(coalesce({0}, 0), 1) * sqrt({1} * (1 - {1})) * sqrt(greatest({2}, 1))"
    return connection.execute(
        f"""
        WITH tests AS (
            SELECT advertiser_id, h, w, 'sivt_volume_anomaly' AS rule, 'impressions' AS subject,
                now_i AS now, i AS expected, greatest(i_scale, sqrt(greatest(i, 1))) AS scale,
                greatest(now_i, i) >= 50 AS enough FROM facts
                WHERE money IS NULL AND known_ic >= 20
            UNION ALL SELECT advertiser_id, h, w, 'sivt_volume_anomaly', 'clicks', now_c, c,
                greatest(c_scale, sqrt(greatest(c, 1))), greatest(now_c, c) >= 50
                FROM facts WHERE money IS NULL AND known_ic >= 20
            UNION ALL SELECT advertiser_id, h, w, 'sivt_ctr_anomaly', 'clicks per impression',
                now_c, ctr * now_i, {rate.format("ctr_scatter", "ctr", "now_i")},
                now_i >= 100 AND all_i >= 100 FROM facts WHERE money IS NULL AND known_ic >= 20
            UNION ALL SELECT advertiser_id, h, w, 'sivt_conversion_rate_anomaly',
                'conversions per click', now_v, cvr * now_c,
                {rate.format("cvr_scatter", "cvr", "now_c")},
                now_c >= 100 AND all_c >= 100 FROM facts WHERE money IS NULL AND known_vc >= 20
            UNION ALL SELECT advertiser_id, h, w, 'sivt_spend_anomaly', money, now_s, s,
                greatest(s_scale, s / sqrt(greatest(e, 1)), 1),
                greatest(now_i + now_c, e) >= 50 AND s > 0 FROM facts
                WHERE money IS NOT NULL AND known_s >= 20
        )
        SELECT h, w, advertiser_id, rule, subject, now::BIGINT, (CASE WHEN now > expected
            THEN floor(expected + 3.5 * scale) + 1
            ELSE greatest(ceil(expected - 3.5 * scale) - 1, 0) END)::BIGINT
        FROM tests WHERE enough AND abs(now - expected) / scale > 3.5 ORDER BY ALL
        """
    ).fetchall()


def _fold(
    connection: duckdb.DuckDBPyConnection,
    size: int,
    dimensions: Sequence[str],
    columns: Sequence[str],
    most: int,
) -> None:
    """Add ``at{size}_{dimension}`` to the judged events: where their row of the window is."""
    of = ", ".join(columns)
    order = ", ".join(f"{name} NULLS FIRST" for name in columns)
    same = " AND ".join(f"r.{name} IS NOT DISTINCT FROM e.{name}" for name in columns)
    other = " AND ".join(f"{name} IS NOT DISTINCT FROM '__other__'" for name in columns)
    placed = ", ".join(
        f"CASE WHEN r.place > {most} THEN '__other__' ELSE e.{column} END AS at{size}_{name}"
        for name, column in zip(dimensions, columns, strict=True)
    )
    connection.execute(
        f"""
        CREATE OR REPLACE TABLE judged_events AS
        WITH seen AS (
            SELECT advertiser_id, w // {size} AS large, {of}, money, count(*) AS n
            FROM judged_events WHERE NOT ({other}) GROUP BY ALL
        ), ranked AS (
            SELECT *, row_number() OVER (
                PARTITION BY advertiser_id, large ORDER BY n DESC, {order}, money) AS place
            FROM seen
        )
        SELECT e.*, {placed} FROM judged_events e LEFT JOIN ranked r
            ON r.advertiser_id = e.advertiser_id AND r.large = e.w // {size}
            AND r.money = e.money AND {same}
        """
    )


def net(
    connection: duckdb.DuckDBPyConnection,
    seconds: int,
    dimensions: Sequence[str] = (),
    folded: bool = False,
) -> list[tuple[object, ...]]:
    """Keys as :func:`summaries`, then :data:`NET`, after :func:`look_back`."""
    size = seconds * 1000
    row = [f"at{size}_{name}" for name in dimensions] if folded else dimensions
    keys = ", ".join([f"w // {size} * {size} AS start", "advertiser_id", *row])
    kinds = ("impression", "click", "conversion")
    states = (("givt", "invalid"), ("sivt", "suspect"), ("net", "counted AND NOT bad"))
    sums = ", ".join(
        measure
        for _, state in states
        for measure in (
            *(f"sum((event_type = '{kind}' AND {state})::INT)::BIGINT" for kind in kinds),
            f"sum(CASE WHEN {state} THEN coalesce(cost, 0) ELSE 0 END)::BIGINT",
        )
    )
    return connection.execute(
        f"""
        WITH classes AS (
            SELECT source, position, bool_or(ivt_class = 'GIVT') AS general FROM hits GROUP BY ALL
        ), verdicts AS (
            SELECT h.*, counted AND (givt OR coalesce(general, false)) AS invalid,
                counted AND NOT givt AND NOT coalesce(general, true) AS suspect,
                givt OR general IS NOT NULL AS bad
            FROM hours h LEFT JOIN classes USING (source, position)
        )
        SELECT {keys}, money, {sums} FROM verdicts GROUP BY ALL ORDER BY ALL
        """
    ).fetchall()


def _count(
    connection: duckdb.DuckDBPyConnection, window_seconds: int, threshold: int, late_too: bool
) -> None:
    size = window_seconds * 1000
    on_time = "true" if late_too else f"coalesce(received, 0) <= w + {size} + {LATENESS_MS}"
    connection.execute(
        f"""
        CREATE OR REPLACE TABLE counted_events AS
        SELECT *, coalesce(currency, 'XXX') AS money, row_number() OVER (
            PARTITION BY advertiser_id, event_type, event_id, w ORDER BY happened, content_hash) = 1
            AS counted
        FROM (SELECT *, happened // {size} * {size} AS w FROM events) WHERE {on_time};
        CREATE OR REPLACE TABLE clicks AS
        SELECT *, if(user_id IS NULL, 'ip', 'user') AS subject_type,
            coalesce(user_id, ip) AS subject
        FROM counted_events WHERE counted AND event_type = 'click';
        CREATE OR REPLACE TABLE bursts AS
        SELECT w, advertiser_id, ip, count(*) AS clicks FROM clicks WHERE ip IS NOT NULL
        GROUP BY ALL HAVING count(*) > {threshold};
        CREATE OR REPLACE TABLE again AS
        SELECT w, advertiser_id, event_id, subject_type, subject FROM clicks
        WHERE subject IS NOT NULL AND creative_id IS NOT NULL
        QUALIFY row_number() OVER (
            PARTITION BY w, advertiser_id, subject_type, subject, creative_id, happened // 60000
            ORDER BY happened, content_hash, event_id) > 1;
        CREATE OR REPLACE TABLE regular AS
        SELECT w, advertiser_id, subject_type, subject, count(*) AS clicks
        FROM (SELECT *, happened - lag(happened) OVER (
                PARTITION BY w, advertiser_id, subject_type, subject ORDER BY happened) AS gap
              FROM clicks WHERE subject IS NOT NULL)
        GROUP BY ALL
        HAVING count(*) >= 5 AND stddev_samp(gap) <= 0.1 * avg(gap) AND avg(gap) >= 10 * CASE
            WHEN bool_and(happened % 60000 = 0) THEN 60000
            WHEN bool_and(happened % 1000 = 0) THEN 1000 ELSE 1 END;
        CREATE OR REPLACE TABLE judged_events AS
        SELECT e.*, e.counted AND (coalesce(robot, false) OR coalesce(no_browser, false)
            OR (e.event_type = 'click' AND (
                b.clicks IS NOT NULL OR a.event_id IS NOT NULL OR r.clicks IS NOT NULL))) AS givt
        FROM counted_events e
        LEFT JOIN bursts b USING (w, advertiser_id, ip)
        LEFT JOIN again a USING (w, advertiser_id, event_id)
        LEFT JOIN regular r ON r.w = e.w AND r.advertiser_id = e.advertiser_id
            AND r.subject = coalesce(e.user_id, e.ip)
            AND r.subject_type = if(e.user_id IS NULL, 'ip', 'user');
        CREATE OR REPLACE TABLE flags AS
        SELECT w, advertiser_id, 'givt_click_rate_ip' AS rule, 'ip' AS subject_type,
            ip AS subject, clicks FROM bursts
        UNION ALL SELECT w, advertiser_id, 'givt_duplicate_click', subject_type, subject, count(*)
            FROM again GROUP BY ALL
        UNION ALL SELECT w, advertiser_id, 'givt_regular_interval', subject_type, subject, clicks
            FROM regular
        UNION ALL SELECT w, advertiser_id, 'givt_known_bot_ua', 'advertiser', advertiser_id,
            count(*) FROM counted_events WHERE counted AND robot GROUP BY ALL
        UNION ALL SELECT w, advertiser_id, 'givt_invalid_ua', 'advertiser', advertiser_id,
            count(*) FROM counted_events WHERE counted AND no_browser GROUP BY ALL;
        """
    )

"""``python -m benchmarks.rules_quality``: what the rules find among robots that are known.

Makes events up, tallies them, and holds flags against the truth: per rule, which share of its flags
has a robot behind it; per kind of robot, which share of its events some rule calls invalid. Prints
tables for docs/rules.md.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import duckdb
from click.testing import CliRunner

from adtally.io.synthetic import GenerateConfig
from adtally.io.synthetic_logs import generate
from adtally.pipelines.cli import cli

EVENTS = int(os.environ.get("ADTALLY_BENCH_EVENTS", "1000000"))
ROBOTS = "('bot', 'rhythm', 'crawler', 'again', 'eager', 'viewer', 'bare', 'injected')"

# Events that are no copies and came in time, each with the flags on it.
VERDICTS = """
CREATE TABLE truth AS
SELECT event_id, advertiser_id, event_type, kind, user_id, ip, minute, occurred_at,
    row_number() OVER (
    PARTITION BY advertiser_id, event_type, user_id, creative_id, minute ORDER BY occurred_at
) AS nth
FROM read_parquet('{folder}/truth/events.parquet')
WHERE NOT late AND kind NOT IN ('copy', 'conflict', 'lookalike');
CREATE TABLE by_event AS
SELECT t.event_id, t.event_type, t.kind, unnest(e.ivt_reasons) AS rule
FROM truth t JOIN events e USING (event_id, event_type, advertiser_id);
CREATE TABLE by_subject AS
SELECT t.event_id, t.event_type, t.kind, f.rule, f.advertiser_id, f.window_start, f.subject
FROM truth t JOIN flags f ON f.advertiser_id = t.advertiser_id
    AND epoch_ms(f.window_start) = t.minute AND t.event_type = 'click'
    AND f.subject = if(f.subject_type = 'user', t.user_id, t.ip)
WHERE f.subject_type != 'advertiser' AND (f.rule != 'givt_duplicate_click' OR t.nth > 1);
-- Rules that look back: a user's last events of a minute are those beyond the rate; other flags
-- name a sample of events, mostly all of them.
CREATE TABLE by_look_back AS
SELECT t.event_id, t.event_type, t.kind, f.rule, f.advertiser_id, f.flagged_at, f.subject
FROM look_back_flags f JOIN truth t ON t.advertiser_id = f.advertiser_id
    AND t.minute = epoch_ms(f.flagged_at) AND t.user_id = f.subject
    AND t.event_type = split_part(f.rule, '_', 2)
WHERE f.subject_type = 'user'
QUALIFY row_number() OVER (
    PARTITION BY f.rule, t.advertiser_id, t.user_id, t.minute ORDER BY t.occurred_at DESC
) <= f.count
UNION ALL
SELECT t.event_id, t.event_type, t.kind, f.rule, f.advertiser_id, f.flagged_at, f.subject
FROM (SELECT *, unnest(evidence) AS event_id FROM look_back_flags) f
JOIN truth t ON t.advertiser_id = f.advertiser_id AND t.event_id = f.event_id
    AND t.minute = epoch_ms(f.flagged_at)
WHERE f.subject_type != 'user';
"""

PRECISION = f"""
SELECT rule, count(*) AS flags, avg(robot::INT) AS precision FROM (
    SELECT rule, bool_or(kind IN {ROBOTS}) AS robot FROM by_subject
    GROUP BY rule, advertiser_id, window_start, subject
    UNION ALL SELECT rule, bool_or(kind IN {ROBOTS}) FROM by_look_back
    GROUP BY rule, advertiser_id, flagged_at, subject
    UNION ALL SELECT rule, kind IN {ROBOTS} FROM by_event
) GROUP BY rule ORDER BY rule
"""

RECALL = """
SELECT kind, count(*) AS events, avg((found.event_id IS NOT NULL)::INT) AS recall
FROM truth LEFT JOIN (
    SELECT DISTINCT event_id, event_type FROM
    (FROM (SELECT event_id, event_type FROM by_subject)
     UNION ALL SELECT event_id, event_type FROM by_look_back
     UNION ALL SELECT event_id, event_type FROM by_event)
) found USING (event_id, event_type)
GROUP BY kind ORDER BY kind
"""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="adtally-rules-") as name:
        folder = Path(name)
        generate(GenerateConfig(EVENTS, 5, str(folder), advertisers=500, hours=6, crowds=20))
        arguments = ["backfill", "--input", str(folder / "logs"), "--output", str(folder / "out")]
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0, result.output
        sql = duckdb.connect()
        sql.execute("SET TimeZone = 'UTC'")
        sql.execute((folder / "out" / "views.sql").read_text())
        sql.execute(VERDICTS.format(folder=folder))
        print("| rule | flags | with a robot behind |\n|---|--:|--:|")
        for rule, flags, precision in sql.execute(PRECISION).fetchall():
            print(f"| `{rule}` | {flags:,} | {precision:.1%} |")
        print("\n| who | events | called invalid |\n|---|--:|--:|")
        for kind, events, recall in sql.execute(RECALL).fetchall():
            print(f"| {kind} | {events:,} | {recall:.2%} |")


if __name__ == "__main__":
    main()

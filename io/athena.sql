-- Views for Athena (engine version 3, Trino), equal in meaning to those of views.sql. Run the
-- statements one by one, after the tables. Times are UTC, without a time zone.

-- Rows of the event log, each record's event once, with its base window and whether it was late.
-- Where copies are looked for by "date" too, that changes nothing, as copies have the same; with it,
-- a query for some dates reads the files of these dates alone.
CREATE OR REPLACE VIEW event_rows AS
SELECT
    ${event_columns}, "date", window_ms,
    date_add('millisecond', window_ms, ${epoch}) AS window_start,
    coalesce(arrival_ms > window_ms + ${window_ms} + ${allowed_lateness_ms}, false) AS late
FROM (
    SELECT
        ${event_columns}, "date",
        occurred_ms - occurred_ms % ${window_ms} AS window_ms,
        coalesce(greatest(received_ms, arrived_ms), received_ms, arrived_ms) AS arrival_ms,
        row_number() OVER (
            PARTITION BY
                source, position, record_index, advertiser_id, event_type, event_id${date}
            ORDER BY occurred_at
        ) AS copy
    FROM (
        SELECT
            ${event_columns}, "date",
            date_diff('millisecond', ${epoch}, occurred_at) AS occurred_ms,
            date_diff('millisecond', ${epoch}, received_at) AS received_ms,
            date_diff('millisecond', ${epoch}, arrived_at) AS arrived_ms
        FROM ${prefix}events
    )
)
WHERE copy = 1;

-- Events, each counted once, late ones too: what a re-tally counts.
CREATE OR REPLACE VIEW events AS
SELECT ${event_columns}, "date", window_ms, window_start, late
FROM (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY advertiser_id, event_type, event_id, window_ms${date}
            ORDER BY occurred_at, content_hash
        ) AS place
    FROM event_rows
)
WHERE place = 1;

-- Events, each counted once, without late ones: what the first summaries count.
CREATE OR REPLACE VIEW events_on_time AS
SELECT ${event_columns}, "date", window_ms, window_start, late
FROM (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY advertiser_id, event_type, event_id, window_ms${date}
            ORDER BY occurred_at, content_hash
        ) AS place
    FROM event_rows
    WHERE NOT late
)
WHERE place = 1;

-- Ranges that corrections have re-tallied whole.
CREATE OR REPLACE VIEW generations AS
SELECT generation, range_from, range_to, committed_at FROM ${prefix}generations;

-- Summaries as they stand: of each window the latest generation that covers it, of each row the
-- highest version, and none that was folded into the row of all others since. window_seconds
-- tells base windows and roll-ups apart: never sum over both.
CREATE OR REPLACE VIEW summaries AS
WITH ruling AS (
    SELECT w.window_seconds, w.window_start, coalesce(max(g.generation), 0) AS generation
    FROM (
        SELECT DISTINCT window_seconds, window_start, window_end FROM ${prefix}summaries
    ) w
    LEFT JOIN generations g
        ON w.window_start >= g.range_from AND w.window_end <= g.range_to
    GROUP BY w.window_seconds, w.window_start
)
SELECT ${summary_columns}
FROM (
    SELECT
        s.*,
        row_number() OVER (PARTITION BY ${s_identity} ORDER BY s.version DESC) AS place,
        max(CASE WHEN ${folded} THEN s.version END) OVER (
            PARTITION BY s.advertiser_id, s.window_seconds, s.window_start
        ) AS folded_version
    FROM ${prefix}summaries s
    JOIN ruling r
        ON s.window_seconds = r.window_seconds AND s.window_start = r.window_start
        AND s.generation = r.generation
)
WHERE place = 1 AND version >= coalesce(folded_version, version);

-- Flags as they stand, one row per verdict.
CREATE OR REPLACE VIEW flags AS
${latest_flags}
SELECT ${flag_row}, ${flag_columns}
FROM latest CROSS JOIN UNNEST(flags) AS flag (${flag_columns});

-- Verdicts of rules that look back as they stand, one row per (advertiser, history window).
CREATE OR REPLACE VIEW verdicts AS
${latest_verdicts}
SELECT ${verdict_columns} FROM latest;

-- Their flags, one row each.
CREATE OR REPLACE VIEW look_back_flags AS
SELECT ${flag_row}, ${look_back_columns}
FROM verdicts CROSS JOIN UNNEST(flags) AS flag (${look_back_columns});

-- Anomalies of advertisers' series as they stand, one row each.
CREATE OR REPLACE VIEW anomalies AS
${latest_anomalies}
SELECT ${flag_row}, ${look_back_columns}
FROM latest CROSS JOIN UNNEST(flags) AS flag (${look_back_columns});

-- Summaries with the verdicts of all rules: gross, general (GIVT) and suspected sophisticated
-- (SIVT) invalid traffic, and the net of both.
-- Each takes the verdicts of its own generation: others know other events as invalid already.
CREATE OR REPLACE VIEW net_summaries AS
WITH own AS (
    SELECT
        advertiser_id, generation, adjustments,
        row_number() OVER (
            PARTITION BY advertiser_id, window_start, generation ORDER BY version DESC
        ) AS place
    FROM ${prefix}verdicts
), adjusted AS (
    SELECT
        ${row}, generation, ${adjusted_measures},
        date_diff('millisecond', ${epoch}, adjusted_at) AS adjusted_ms
    FROM (SELECT * FROM own WHERE place = 1) o
    CROSS JOIN UNNEST(o.adjustments) AS adjustment (${adjustment_columns})
), sized AS (
    SELECT
        ${row}, generation, window_seconds, ${adjusted_measures},
        adjusted_ms - adjusted_ms % (window_seconds * 1000) AS start_ms
    FROM adjusted CROSS JOIN (SELECT DISTINCT window_seconds FROM summaries)
), by_row AS (
    SELECT
        ${row}, generation, window_seconds,
        date_add('millisecond', start_ms, ${epoch}) AS window_start,
        ${adjusted_sums}
    FROM sized
    GROUP BY ${row}, generation, window_seconds, start_ms
), marked AS (  -- of a roll-up, some rows of base windows are in the row of all others
    SELECT
        ${placed}, a.generation, a.window_seconds, a.window_start, ${marked_measures}
    FROM by_row a
    LEFT JOIN summaries s
        ON ${matched} AND a.window_seconds = s.window_seconds AND a.window_start = s.window_start
        AND a.generation = s.generation
), placed AS (
    SELECT ${row}, generation, window_seconds, window_start, ${adjusted_sums}
    FROM marked
    GROUP BY ${row}, generation, window_seconds, window_start
)
SELECT ${net_columns}
FROM summaries s
LEFT JOIN placed a
    ON ${matched} AND a.window_seconds = s.window_seconds AND a.window_start = s.window_start
    AND a.generation = s.generation;

-- Everything that did not fit, each once: a stream that was started again may have read it twice.
CREATE OR REPLACE VIEW dead_letters AS
SELECT
    CAST(from_iso8601_timestamp(failed_at) AT TIME ZONE 'UTC' AS TIMESTAMP(3)) AS failed_at,
    stage, error_type, message, source, position, payload, payload_encoding, version, "date"
FROM (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY stage, source, position, payload ORDER BY failed_at, message
        ) AS copy
    FROM ${prefix}dead_letters
)
WHERE copy = 1;

-- Views over an output of adtally, for DuckDB:  duckdb -init OUTPUT/views.sql
-- Every count is taken through them: the log is append-only and may hold a row twice, and
-- summaries of a later generation replace those of an earlier one. 'adtally athena' prints views
-- that mean the same in Athena.

-- Rows of the event log, each record's event once, with its base window and whether it was late.
CREATE OR REPLACE VIEW event_rows AS
SELECT
    * EXCLUDE (copy),
    make_timestamp(window_ms * 1000) AT TIME ZONE 'UTC' AS window_start,
    coalesce(
        epoch_ms(greatest(received_at, arrived_at))
            > window_ms + ${window_ms} + ${allowed_lateness_ms},
        false
    ) AS late
FROM (
    SELECT
        *,
        epoch_ms(occurred_at) // ${window_ms} * ${window_ms} AS window_ms,
        row_number() OVER (
            PARTITION BY ${partition}source, position, record_index, advertiser_id, event_type, event_id
            ORDER BY occurred_at
        ) AS copy
    FROM ${events}
)
WHERE copy = 1;

-- Events, each counted once, late ones too: what a re-tally counts.
CREATE OR REPLACE VIEW events AS
SELECT * FROM event_rows
QUALIFY row_number() OVER (
    PARTITION BY ${partition}advertiser_id, event_type, event_id, window_ms ORDER BY occurred_at, content_hash
) = 1;

-- Events, each counted once, without late ones: what the first summaries count.
CREATE OR REPLACE VIEW events_on_time AS
SELECT * FROM event_rows WHERE NOT late
QUALIFY row_number() OVER (
    PARTITION BY ${partition}advertiser_id, event_type, event_id, window_ms ORDER BY occurred_at, content_hash
) = 1;

-- Ranges that corrections have re-tallied whole.
CREATE OR REPLACE VIEW generations AS
SELECT * FROM ${generations};

-- Summaries as they stand: of each window the latest generation that covers it, of each row the
-- highest version, and none that was folded into the row of all others since. window_seconds tells base windows and roll-ups apart: never sum over both.
CREATE OR REPLACE VIEW summaries AS
WITH stored AS (
    SELECT * FROM ${summaries}
), ruling AS (
    SELECT w.window_seconds, w.window_start, coalesce(max(g.generation), 0) AS generation
    FROM (SELECT DISTINCT window_seconds, window_start, window_end FROM stored) w
    LEFT JOIN generations g
        ON w.window_start >= g.range_from AND w.window_end <= g.range_to
    GROUP BY w.window_seconds, w.window_start
)
SELECT stored.* FROM stored
JOIN ruling USING (window_seconds, window_start, generation)${void}
QUALIFY row_number() OVER (
    PARTITION BY ${identity} ORDER BY version DESC
) = 1;

-- Flags as they stand, one row per verdict.
CREATE OR REPLACE VIEW flags AS
WITH stored AS (
    SELECT * FROM ${flags}
), ruling AS (
    SELECT w.window_start, coalesce(max(g.generation), 0) AS generation
    FROM (SELECT DISTINCT window_start, window_end FROM stored) w
    LEFT JOIN generations g
        ON w.window_start >= g.range_from AND w.window_end <= g.range_to
    GROUP BY w.window_start
), latest AS (
    SELECT stored.* FROM stored
    JOIN ruling USING (window_start, generation)
    QUALIFY row_number() OVER (
        PARTITION BY advertiser_id, window_start ORDER BY version DESC
    ) = 1
)
SELECT * EXCLUDE (flags, flag), flag.* FROM (SELECT *, unnest(flags) AS flag FROM latest);

-- Verdicts of rules that look back as they stand, one row per (advertiser, history window).
CREATE OR REPLACE VIEW verdicts AS
WITH stored AS (
    SELECT * FROM ${verdicts}
), ruling AS (
    SELECT w.window_start, coalesce(max(g.generation), 0) AS generation
    FROM (SELECT DISTINCT window_start, window_end FROM stored) w
    LEFT JOIN generations g
        ON w.window_start >= g.range_from AND w.window_end <= g.range_to
    GROUP BY w.window_start
)
SELECT stored.* FROM stored
JOIN ruling USING (window_start, generation)
QUALIFY row_number() OVER (
    PARTITION BY advertiser_id, window_start ORDER BY version DESC
) = 1;

-- Their flags, one row each.
CREATE OR REPLACE VIEW look_back_flags AS
SELECT * EXCLUDE (flags, adjustments, flag), flag.*
FROM (SELECT *, unnest(flags) AS flag FROM verdicts);

-- Anomalies of advertisers' series as they stand, one row each.
CREATE OR REPLACE VIEW anomalies AS
WITH stored AS (
    SELECT * FROM ${anomalies}
), ruling AS (
    SELECT w.window_start, coalesce(max(g.generation), 0) AS generation
    FROM (SELECT DISTINCT window_start, window_end FROM stored) w
    LEFT JOIN generations g
        ON w.window_start >= g.range_from AND w.window_end <= g.range_to
    GROUP BY w.window_start
), latest AS (
    SELECT stored.* FROM stored
    JOIN ruling USING (window_start, generation)
    QUALIFY row_number() OVER (
        PARTITION BY advertiser_id, window_start ORDER BY version DESC
    ) = 1
)
SELECT * EXCLUDE (flags, flag), flag.* FROM (SELECT *, unnest(flags) AS flag FROM latest);

-- Summaries with the verdicts of all rules: gross, general (GIVT) and suspected sophisticated
-- (SIVT) invalid traffic, and the net of both.
-- Each takes the verdicts of its own generation: others know other events as invalid already.
CREATE OR REPLACE VIEW net_summaries AS
WITH own AS (
    SELECT * FROM ${verdicts}
    QUALIFY row_number() OVER (
        PARTITION BY advertiser_id, window_start, generation ORDER BY version DESC
    ) = 1
), adjustments AS (
    SELECT advertiser_id, generation, adjustment.*
    FROM (SELECT advertiser_id, generation, unnest(adjustments) AS adjustment FROM own)
), by_row AS (
    SELECT
        ${row},
        generation,
        window_seconds,
        make_timestamp(
            epoch_ms(adjusted_at) // (window_seconds * 1000) * (window_seconds * 1000) * 1000
        ) AT TIME ZONE 'UTC' AS window_start,
        ${adjusted}
    FROM adjustments CROSS JOIN (SELECT DISTINCT window_seconds FROM summaries)
    GROUP BY ALL
), placed AS (  -- of a roll-up, some rows of base windows are in the row of all others
    SELECT
        ${placed},
        a.generation,
        a.window_seconds,
        a.window_start,
        ${moved}
    FROM by_row a
    LEFT JOIN summaries s
        ON ${matched} AND a.window_seconds = s.window_seconds AND a.window_start = s.window_start
        AND a.generation = s.generation
    GROUP BY ALL
)
SELECT s.* REPLACE (${net}), ${suspected}
FROM summaries s
LEFT JOIN placed a
    ON ${matched} AND a.window_seconds = s.window_seconds AND a.window_start = s.window_start
    AND a.generation = s.generation;

-- Everything that did not fit, each once: a stream that was started again may have read it twice.
CREATE OR REPLACE VIEW dead_letters AS
SELECT * FROM ${dead_letters}
QUALIFY row_number() OVER (
    PARTITION BY stage, source, position, payload ORDER BY failed_at, message
) = 1;

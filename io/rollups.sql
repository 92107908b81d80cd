
-- ${view} by hour, day, week, month, quarter or year:  FROM ${view}_by('month')
-- Money and counts are sums of the rows of 'of_seconds', the base windows unless it says otherwise;
-- users are merged by their hashes, as adtally's own roll-ups are. 'zone' says where days begin.
CREATE OR REPLACE MACRO ${view}_by(grain, zone := 'UTC', of_seconds := ${window_seconds}) AS TABLE
WITH cut AS (
    SELECT *, window_start AT TIME ZONE zone AS local_time, date_trunc(
        CASE WHEN grain IN ('hour', 'day', 'week', 'month', 'quarter', 'year') THEN grain
            ELSE error('there are no roll-ups by ' || grain
                || '; write hour, day, week, month, quarter or year') END,
        local_time
    ) AS local_start
    FROM ${view} WHERE window_seconds = of_seconds
), bounded AS (  -- an hour that clocks show twice is two hours
    SELECT *,
        CASE WHEN grain = 'hour' THEN window_start - (local_time - local_start)
            ELSE local_start AT TIME ZONE zone END AS range_start,
        CASE WHEN grain = 'hour' THEN range_start + INTERVAL 1 HOUR
            ELSE (local_start + ('1 ' || grain)::INTERVAL) AT TIME ZONE zone END AS range_end
    FROM cut
), placed AS (
    SELECT * EXCLUDE (window_start, window_end, window_seconds, local_time, local_start, range_start, range_end),
        window_start AS base_start,
        range_start AS window_start,
        CASE WHEN window_end <= range_end THEN range_end
            ELSE error('windows of ' || of_seconds || ' s do not fit into one ' || grain
                || ' of ' || zone || '; roll up by something longer') END AS window_end
    FROM bounded
), windows AS (  -- what each advertiser's had seen, the same for all of its rows
    SELECT window_start, advertiser_id, sum(seen) AS seen FROM (
        SELECT window_start, base_start, advertiser_id, max(version & ${seen_mask}) AS seen
        FROM placed GROUP BY ALL
    ) GROUP BY ALL
), merged AS (
    SELECT window_start, window_end, ${row}, ${sums},
        list_sort(list_distinct(flatten(list(unique_user_hashes))))[:${k}] AS unique_user_hashes,
        min(first_event_at) AS first_event_at, max(last_event_at) AS last_event_at,
        max(generation) AS generation
    FROM placed GROUP BY ALL
)
SELECT window_start, window_end,
    (epoch_ms(window_end) - epoch_ms(window_start)) // 1000 AS window_seconds,
    ${row}, ${measures},
    CASE WHEN len(unique_user_hashes) < ${k} THEN len(unique_user_hashes)
        ELSE greatest(${k}, round_even(
            (${k} - 1) / (unique_user_hashes[-1]::DOUBLE / 18446744073709551616 + 0.5), 0
        )::BIGINT) END AS unique_users,
    unique_user_hashes, first_event_at, last_event_at,
    window_end + to_seconds(${allowed_lateness_seconds}) AS final_after,
    generation, ((generation << ${generation_bits}) + seen)::BIGINT AS version
FROM merged JOIN windows USING (window_start, advertiser_id);

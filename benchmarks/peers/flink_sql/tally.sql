CREATE TABLE lines (
  event_id STRING,
  event_type STRING,
  advertiser_id STRING,
  currency STRING,
  user_id STRING,
  cost_micros BIGINT,
  revenue_micros BIGINT,
  occurred_at STRING,
  `at` AS TO_TIMESTAMP(REPLACE(REPLACE(occurred_at, 'T', ' '), 'Z', '')),
  WATERMARK FOR `at` AS `at` - INTERVAL '@LAG' MINUTE
) WITH (
  'connector' = 'filesystem',
  'path' = '@INPUT',
  'format' = 'json',
  'json.ignore-parse-errors' = 'true'
);
CREATE TABLE summaries (
  window_start TIMESTAMP(3),
  advertiser_id STRING,
  currency STRING,
  impressions BIGINT,
  clicks BIGINT,
  conversions BIGINT,
  cost_micros BIGINT,
  revenue_micros BIGINT,
  unique_users BIGINT
) WITH (
  'connector' = 'filesystem',
  'path' = '@OUTPUT',
  'format' = 'csv'
);
INSERT INTO summaries
SELECT window_start, advertiser_id, currency,
  COUNT(*) FILTER (WHERE event_type = 'impression'),
  COUNT(*) FILTER (WHERE event_type = 'click'),
  COUNT(*) FILTER (WHERE event_type = 'conversion'),
  SUM(cost_micros), SUM(revenue_micros), @USERS
FROM @EVENTS
GROUP BY window_start, window_end, advertiser_id, currency

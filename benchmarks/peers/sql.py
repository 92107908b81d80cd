"""SQL that DuckDB and Spark share, but for how they name functions."""

FIELDS = [
    *("event_id", "event_type", "occurred_at", "received_at", "advertiser_id", "campaign_id"),
    *("ad_group_id", "creative_id", "placement_id", "publisher_id", "impression_id", "click_id"),
    *("user_id", "ip", "user_agent", "url", "country", "cost_micros", "revenue_micros"),
    *("currency", "schema_version"),
]

GOOD = """happened IS NOT NULL AND advertiser_id IS NOT NULL
  AND event_type IN ('impression', 'click', 'conversion')
  AND (cost IS NOT NULL OR cost_micros IS NULL)
  AND (revenue IS NOT NULL OR revenue_micros IS NULL)
  AND (currency IS NOT NULL OR (coalesce(cost, 0) = 0 AND coalesce(revenue, 0) = 0))
  AND happened >= TIMESTAMP '2000-01-01' AND happened < TIMESTAMP '2050-01-01'"""

COUNTED = """SELECT * FROM (
  SELECT *, row_number() OVER (
    PARTITION BY advertiser_id, event_type, event_id, minute ORDER BY happened, cost) AS nth
  FROM events) WHERE nth = 1"""

SUMMARIES = """SELECT minute, advertiser_id, coalesce(currency, 'XXX') AS currency,
  sum(CASE WHEN event_type = 'impression' THEN 1 ELSE 0 END) AS impressions,
  sum(CASE WHEN event_type = 'click' THEN 1 ELSE 0 END) AS clicks,
  sum(CASE WHEN event_type = 'conversion' THEN 1 ELSE 0 END) AS conversions,
  sum(cost) AS cost_micros, sum(revenue) AS revenue_micros,
  count(DISTINCT user_id) AS unique_users,
  min(happened) AS first_event_at, max(happened) AS last_event_at
FROM counted GROUP BY minute, advertiser_id, coalesce(currency, 'XXX')"""

FLAGS = """SELECT minute, advertiser_id, ip, count(*) AS clicks FROM counted
WHERE event_type = 'click' AND ip IS NOT NULL GROUP BY minute, advertiser_id, ip
HAVING count(*) > 30"""

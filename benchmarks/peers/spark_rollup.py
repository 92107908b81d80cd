"""A month's roll-up in Spark SQL, on two local cores, with generations, versions and users."""

import json
import sys

from pyspark.sql import SparkSession

ROLL_UP = """WITH windows AS (
  SELECT DISTINCT window_start, window_end FROM stored
), ruling AS (
  SELECT w.window_start, coalesce(max(g.generation), 0) AS generation FROM windows w
  LEFT JOIN generations g ON w.window_start >= g.range_from AND w.window_end <= g.range_to
  GROUP BY w.window_start
), latest AS (
  SELECT * FROM (
    SELECT s.*, row_number() OVER (
      PARTITION BY advertiser_id, currency, window_start ORDER BY version DESC) AS nth
    FROM stored s JOIN ruling USING (window_start, generation)) WHERE nth = 1
), months AS (
  SELECT advertiser_id, currency, date_trunc('month', window_start) AS month,
    sum(clicks) AS clicks, sum(cost_micros) AS cost_micros,
    slice(array_sort(array_distinct(flatten(collect_list(unique_user_hashes)))), 1, 1024) AS hashes
  FROM latest GROUP BY ALL
)
SELECT count(*) AS n, sum(clicks) AS c, sum(cost_micros) AS m, sum(CASE
  WHEN size(hashes) < 1024 THEN size(hashes) ELSE greatest(1024, bround(
    1023 / (hashes[1023] / 18446744073709551616D + 0.5D))) END) AS u
FROM months"""


def main(output: str) -> None:
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", "4")
        .config("spark.driver.memory", "6g")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    read = spark.read.option("recursiveFileLookup", True).parquet
    read(f"{output}/summaries/window=60s").createOrReplaceTempView("stored")
    read(f"{output}/generations").createOrReplaceTempView("generations")
    row = spark.sql(ROLL_UP).first()
    print(json.dumps({name: int(value) for name, value in row.asDict().items()}))


main(*sys.argv[1:])

"""The job in Spark, on two local cores."""

import json
import sys

from pyspark.sql import SparkSession
from pyspark.sql.functions import from_json
from pyspark.sql.types import StringType, StructField, StructType

from benchmarks.peers.sql import COUNTED, FIELDS, FLAGS, GOOD, SUMMARIES


def main(logs: str, output: str) -> None:
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", "4")
        .config("spark.driver.memory", "6g")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.parquet.compression.codec", "zstd")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    schema = StructType([StructField(name, StringType()) for name in FIELDS])
    # Spark's JSON reader takes an array of records for its records, so objects are picked as text.
    text = spark.read.text(f"{logs}/*/*.jsonl.gz").where("value LIKE '{%'")
    raw = text.select(from_json("value", schema).alias("record")).select("record.*")
    # Spark takes text that is not UTF-8, which the job wants found: such bytes are in the country.
    raw.where("country IS NULL OR country RLIKE '^[A-Z]{2}$'").createOrReplaceTempView("raw")
    events = spark.sql(
        f"""SELECT *, date_trunc('minute', happened) AS minute FROM (
            SELECT *, try_to_timestamp(occurred_at) AS happened,
                try_cast(cost_micros AS BIGINT) AS cost,
                try_cast(revenue_micros AS BIGINT) AS revenue FROM raw) WHERE {GOOD}"""
    ).cache()
    events.createOrReplaceTempView("events")
    log = spark.sql("SELECT *, to_date(happened) AS date, hour(happened) AS hour FROM events")
    log = log.drop("happened", "minute", "cost", "revenue")
    log.write.partitionBy("date", "hour").parquet(f"{output}/events")
    spark.sql(COUNTED).cache().createOrReplaceTempView("counted")
    summaries = spark.sql(SUMMARIES).cache()
    summaries.write.parquet(f"{output}/summaries")
    flags = spark.sql(FLAGS).cache()
    flags.write.parquet(f"{output}/flags")
    summaries.createOrReplaceTempView("summaries")
    row = spark.sql(
        """SELECT sum(impressions), sum(clicks), sum(conversions), sum(cost_micros), count(*)
        FROM summaries"""
    ).first()
    names = ("impressions", "clicks", "conversions", "cost", "rows")
    totals = dict(zip(names, map(int, row), strict=True))
    print(json.dumps({"events": events.count(), **totals, "flags": flags.count()}))


main(*sys.argv[1:])

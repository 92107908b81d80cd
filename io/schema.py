"""The schemas of everything adtally writes: events, summaries, flags.

Field names follow OpenRTB 2.6, Snowplow's ``ad_click``, Google's ``AdEvent`` and the CM360/DV360
transfer files. Schemas evolve by adding nullable fields only, so readers take old and new files
together. ``docs/event-schema.md`` documents them field by field.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pyarrow as pa

SCHEMA_VERSION: Final = "1-2-0"
"""Version of the event schema, SchemaVer style (model-revision-addition)."""

EVENT_TYPES: Final = ("impression", "click", "conversion")
NO_CURRENCY: Final = "XXX"
"""ISO 4217's code for "no currency": what a summary row carries when its events have none."""

TEXT: Final = pa.string_view()
"""Text of events in memory: sorting and slicing moves 16 bytes a value, whatever its length. In
Parquet it is a plain string."""

TIMESTAMP: Final = pa.timestamp("ms", tz="UTC")

_REQUIRED = (
    pa.field("event_id", TEXT, nullable=False),
    pa.field("event_type", TEXT, nullable=False),
    pa.field("occurred_at", TIMESTAMP, nullable=False),
    pa.field("received_at", TIMESTAMP),
    pa.field("advertiser_id", TEXT, nullable=False),
)
_OPTIONAL = (
    pa.field("campaign_id", TEXT),
    pa.field("ad_group_id", TEXT),
    pa.field("creative_id", TEXT),
    pa.field("placement_id", TEXT),
    pa.field("publisher_id", TEXT),
    pa.field("impression_id", TEXT),
    pa.field("click_id", TEXT),
    pa.field("user_id", TEXT),
    pa.field("ip", TEXT),
    pa.field("user_agent", TEXT),
    pa.field("url", TEXT),
    pa.field("country", TEXT),
    pa.field("cost_micros", pa.int64()),
    pa.field("revenue_micros", pa.int64()),
    pa.field("currency", TEXT),
    pa.field("schema_version", TEXT),
    pa.field("extra", TEXT),
)
_PROVENANCE = (
    pa.field("source", TEXT, nullable=False),
    pa.field("position", pa.int64(), nullable=False),
    pa.field("record_index", pa.int32(), nullable=False),
    pa.field("content_hash", pa.int64(), nullable=False),
    pa.field("arrived_at", TIMESTAMP),
    pa.field("ivt_reasons", pa.list_(pa.string())),
)

EVENT_SCHEMA: Final = pa.schema([*_REQUIRED, *_OPTIONAL, *_PROVENANCE])
"""One row per event in the event log (``events/date=/hour=``).

``source`` and ``position`` say where the record came from (a file's address and the byte offset
of the line in the uncompressed stream), ``record_index`` is the index of the event among those
that one record gave, ``content_hash`` is the 64-bit XXH3 of the record as it came, or where
addresses and users are replaced, of the event as it is stored. ``arrived_at`` is when a stream took
the record; logs have none. An event is late by the later of ``received_at`` and ``arrived_at``.
``ivt_reasons`` names the rules that the event breaks by itself, and is null where there are none.
"""

DECODED_FIELDS: Final = tuple(f.name for f in (*_REQUIRED, *_OPTIONAL) if f.name != "extra")
"""Fields that a record can set, in schema order."""

DIMENSIONS: Final = (
    "campaign_id",
    "ad_group_id",
    "creative_id",
    "placement_id",
    "publisher_id",
    "country",
)
"""Event fields that a summary can be broken down by."""

MEASURES: Final = (
    "impressions",
    "clicks",
    "conversions",
    "givt_impressions",
    "givt_clicks",
    "givt_conversions",
    "net_impressions",
    "net_clicks",
    "net_conversions",
    "cost_micros",
    "givt_cost_micros",
    "net_cost_micros",
    "revenue_micros",
    "duplicates",
)
"""Additive columns of a summary: a roll-up is their sum. ``net`` is gross less ``givt``."""

MONEY: Final = tuple(name for name in MEASURES if name.endswith("_micros"))
"""Measures that are micros of the row's currency."""


def summary_schema(dimensions: Sequence[str] = ()) -> pa.Schema:
    """Schema of the summaries: one row per (advertiser, dimensions, currency, window).

    ``window_start`` is inclusive and ``window_end`` exclusive. ``unique_users`` is exact while it
    is below the number of hashes kept, an estimate above (see ``adtally.transforms.uniques``).
    ``version`` is ``generation << 40`` plus the events seen, so a newer state of a row always has
    a higher one.
    """
    return pa.schema(
        [
            pa.field("window_start", TIMESTAMP, nullable=False),
            pa.field("window_end", TIMESTAMP, nullable=False),
            pa.field("window_seconds", pa.int64(), nullable=False),
            pa.field("advertiser_id", pa.string(), nullable=False),
            *(pa.field(name, pa.string()) for name in dimensions),
            pa.field("currency", pa.string(), nullable=False),
            *(pa.field(name, pa.int64(), nullable=False) for name in MEASURES),
            pa.field("unique_users", pa.int64(), nullable=False),
            pa.field("unique_user_hashes", pa.list_(pa.int64()), nullable=False),
            pa.field("first_event_at", TIMESTAMP, nullable=False),
            pa.field("last_event_at", TIMESTAMP, nullable=False),
            pa.field("final_after", TIMESTAMP, nullable=False),
            pa.field("generation", pa.int64(), nullable=False),
            pa.field("version", pa.int64(), nullable=False),
        ]
    )


FLAG_TYPE: Final = pa.struct(
    [
        pa.field("rule", pa.string()),
        pa.field("ivt_class", pa.string()),
        pa.field("subject_type", pa.string()),
        pa.field("subject", pa.string()),
        pa.field("count", pa.int64()),
        pa.field("threshold", pa.int64()),
        pa.field("evidence", pa.list_(pa.string())),
    ]
)
"""One verdict: ``ivt_class`` is ``GIVT`` or ``SIVT``, ``evidence`` a sample of event ids."""

ADJUSTED: Final = (
    "givt_impressions",
    "givt_clicks",
    "givt_conversions",
    "givt_cost_micros",
    "sivt_impressions",
    "sivt_clicks",
    "sivt_conversions",
    "sivt_cost_micros",
)
"""Measures of an adjustment: what verdicts add to a summary's row, which does not count it yet."""

LOOK_BACK_FLAG_TYPE: Final = pa.struct([pa.field("flagged_at", TIMESTAMP), *FLAG_TYPE])
"""A verdict of a rule that looks back; ``flagged_at`` is the start of the base window that it is
about, ``count`` how many events of that window are invalid."""


def adjustment_type(dimensions: Sequence[str] = ()) -> pa.StructType:
    """Type of an adjustment, which is about the summary of its dimensions, currency and window."""
    return pa.struct(
        [
            pa.field("adjusted_at", TIMESTAMP),
            *(pa.field(name, pa.string()) for name in dimensions),
            pa.field("currency", pa.string()),
            *(pa.field(name, pa.int64()) for name in ADJUSTED),
        ]
    )


def verdict_schema(dimensions: Sequence[str] = ()) -> pa.Schema:
    """Schema of verdicts: one row per (advertiser, history window), overwritten whole.

    ``flags`` are those of rules that look back beyond a base window. ``adjustments`` are the events
    that these call invalid and the summaries do not: GIVT where one of the rules is GIVT, else
    SIVT. ``adjusted_at`` is the start of the base window.
    """
    return pa.schema(
        [
            pa.field("window_start", TIMESTAMP, nullable=False),
            pa.field("window_end", TIMESTAMP, nullable=False),
            pa.field("window_seconds", pa.int64(), nullable=False),
            pa.field("advertiser_id", pa.string(), nullable=False),
            pa.field("flags", pa.list_(LOOK_BACK_FLAG_TYPE), nullable=False),
            pa.field("adjustments", pa.list_(adjustment_type(dimensions)), nullable=False),
            pa.field("ruleset_version", pa.string(), nullable=False),
            pa.field("final_after", TIMESTAMP, nullable=False),
            pa.field("generation", pa.int64(), nullable=False),
            pa.field("version", pa.int64(), nullable=False),
        ]
    )


ANOMALY_SCHEMA: Final = pa.schema(
    [field for field in verdict_schema() if field.name != "adjustments"]
)
"""One row per (advertiser, history window) with anomalies of its series; overwritten whole.

``subject`` of a flag is the series (``clicks``, ``clicks per impression``, a currency), ``count``
its value in the base window, ``threshold`` the nearest value that would be an anomaly.
"""

FLAG_SCHEMA: Final = pa.schema(
    [
        pa.field("window_start", TIMESTAMP, nullable=False),
        pa.field("window_end", TIMESTAMP, nullable=False),
        pa.field("window_seconds", pa.int64(), nullable=False),
        pa.field("advertiser_id", pa.string(), nullable=False),
        pa.field("flags", pa.list_(FLAG_TYPE), nullable=False),
        pa.field("ruleset_version", pa.string(), nullable=False),
        pa.field("final_after", TIMESTAMP, nullable=False),
        pa.field("generation", pa.int64(), nullable=False),
        pa.field("version", pa.int64(), nullable=False),
    ]
)
"""One row per (advertiser, base window) that has flags; overwritten whole, never merged."""

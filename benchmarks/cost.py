"""``python -m benchmarks.cost``: the tables of docs/capacity.md, from figures and list prices.

Reads docs/capacity.json (``python -m benchmarks.capacity``) and benchmarks/prices.toml, and writes
the tables between their marks. Every line of a bill is a product that it shows.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from typing import Any

from benchmarks.capacity import DATA, ROOT

PAGE = ROOT / "docs" / "capacity.md"
PRICES = ROOT / "benchmarks" / "prices.toml"

RECORD_BYTES = 500
"""An event as JSON, as the generator makes it: 1,007 MB for 2.02 million."""
EVENTS_A_CORE = 9_183
"""A stream's with all rules on Flink: docs/streaming.md, "Throughput"."""
BUSY = 0.5
"""Share of what is paid for that is used on average: traffic has peaks, recovery needs room."""
DOCUMENTS_A_CORE = 2_500
"""Written a second by a node with two cores: 3,500 to 12,000 were seen (docs/capacity.md)."""
PANES = 8
"""Times at most that a stream writes a document: early panes every 10 s, the final one, a late one;
and no oftener than it has events, and once more at the end."""
LOG_MONTHS = 12
INDEX_MONTHS = 3
COPIES = 2
"""A primary and a replica."""
WORKER_GB_A_CORE = 4
MILLION = 1_000_000
GB = 1e9


@dataclass(frozen=True)
class Line:
    """One product of a bill.

    Attributes:
        what: is paid for.
        amount: of it, for a million events.
        unit: of the amount.
        how: the amount came about.
        price: of a unit, in dollars.
    """

    what: str
    amount: float
    unit: str
    how: str
    price: float

    @property
    def dollars(self) -> float:
        return self.amount * self.price


def bill(cloud: str, prices: dict[str, float], found: dict[str, Any]) -> list[Line]:
    """What a million events cost, streamed, stored, indexed."""
    day = next(one for one in found["days"] if one["case"]["name"] == "10x")
    log_gb = day["log_bytes"] / day["events"] * MILLION / GB
    other_gb = day["other_bytes"] / day["events"] * MILLION / GB
    index_gb = sum(day["index_bytes"].values()) / day["events"] * MILLION / GB * COPIES
    stored_documents = sum(day["documents"].values())
    panes = min(PANES, day["events"] / stored_documents + 1)
    documents = stored_documents / day["events"] * MILLION * panes
    wire_gb = RECORD_BYTES * MILLION / GB
    cores = MILLION / EVENTS_A_CORE / BUSY / 3600
    node_cores = documents / DOCUMENTS_A_CORE / BUSY / 3600 * COPIES
    of_core = f"1e6 / {EVENTS_A_CORE:,} a second / {BUSY} busy"
    of_node = (
        f"{documents / panes:,.0f} documents x {panes:.1f} panes / {DOCUMENTS_A_CORE:,} a second / "
        f"{BUSY} busy x {COPIES}"
    )
    months = (
        f"{log_gb + other_gb:.3f} GB x {LOG_MONTHS} months",
        f"{index_gb:.3f} GB with {COPIES} copies x {INDEX_MONTHS} months",
    )
    stored, indexed = (log_gb + other_gb) * LOG_MONTHS, index_gb * INDEX_MONTHS
    if cloud == "aws":
        shards = wire_gb * GB / 1e6 / BUSY / 3600
        units = MILLION / (25_000 // RECORD_BYTES) / MILLION
        return [
            Line(
                "Kinesis shards",
                shards,
                "h",
                f"{wire_gb} GB / 1 MB/s / {BUSY} busy",
                prices["kinesis_shard_hour"],
            ),
            Line(
                "Kinesis puts",
                units,
                "million",
                f"{25_000 // RECORD_BYTES} events to a record of 25 KB",
                prices["kinesis_put_million_units"],
            ),
            Line("Flink workers", cores, "vCPU h", of_core, prices["vcpu_hour"]),
            Line(
                "Elasticsearch",
                node_cores,
                "vCPU h",
                of_node,
                prices["elasticsearch_vcpu_hour"],
            ),
            Line("its disks", indexed, "GB month", months[1], prices["ebs_gb_month"]),
            Line("S3", stored, "GB month", months[0], prices["s3_gb_month"]),
        ]
    return [
        Line(
            "Pub/Sub",
            2 * wire_gb * GB / 2**40,
            "TiB",
            f"{wire_gb} GB, published and delivered",
            prices["pubsub_tib"],
        ),
        Line("Dataflow vCPU", cores, "vCPU h", of_core, prices["dataflow_streaming_vcpu_hour"]),
        Line(
            "Dataflow memory",
            cores * WORKER_GB_A_CORE,
            "GB h",
            f"{WORKER_GB_A_CORE} GB to a vCPU",
            prices["dataflow_memory_gb_hour"],
        ),
        Line(
            "Streaming Engine",
            2 * wire_gb,
            "GB",
            f"twice {wire_gb} GB: read, and shuffled at most as large",
            prices["dataflow_streaming_gb"],
        ),
        Line("Elasticsearch", node_cores, "vCPU h", of_node, prices["elasticsearch_vcpu_hour"]),
        Line("its disks", indexed, "GB month", months[1], prices["disk_gb_month"]),
        Line("Cloud Storage", stored, "GB month", months[0], prices["gcs_gb_month"]),
    ]


def tables(found: dict[str, Any], prices: dict[str, dict[str, float]]) -> dict[str, str]:
    """Markdown by mark."""
    return {
        "growth": _table(
            ("day", "events", "wall s", "CPU s", "CPU s / million", "peak MB", "log bytes / event"),
            (
                (
                    one["case"]["name"],
                    f"{one['events']:,}",
                    f"{one['wall_s']:.1f}",
                    f"{one['cpu_s']:.1f}",
                    f"{one['cpu_s'] / one['events'] * MILLION:.1f}",
                    f"{one['peak_mb']:,}",
                    f"{one['log_bytes'] / one['events']:.0f}",
                )
                for one in found["days"]
            ),
        ),
        "documents": _table(
            (
                *("day", "advertiser-hours", "events each", "summaries each", "all documents each"),
                *("index bytes each", "bytes a summary"),
            ),
            (
                (
                    one["case"]["name"],
                    f"{one['advertiser_hours']:,}",
                    f"{one['events'] / one['advertiser_hours']:.1f}",
                    f"{one['summary_rows'] / one['advertiser_hours']:.1f}",
                    f"{sum(one['documents'].values()) / one['advertiser_hours']:.1f}",
                    f"{sum(one['index_bytes'].values()) / one['advertiser_hours']:,.0f}",
                    f"{one['index_bytes']['summaries'] / one['documents']['summaries']:.0f}",
                )
                for one in found["days"]
                if one["documents"]
            ),
        ),
        **{cloud: _bill(bill(cloud, prices[cloud], found)) for cloud in ("aws", "gcp")},
    }


def _bill(lines: list[Line]) -> str:
    total = sum(line.dollars for line in lines)
    rows = [
        (
            line.what,
            line.how,
            f"{line.amount:.4g} {line.unit}",
            f"{line.price:g}",
            f"{line.dollars:.4f}",
        )
        for line in lines
    ]
    return _table(
        ("for a million events", "how much", "", "$ each", "$"),
        (*rows, ("all", "", "", "", f"{total:.3f}")),
    )


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, ("---", *("--:" for _ in head[1:])), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def rendered(page: str, found: dict[str, Any], prices: dict[str, dict[str, float]]) -> str:
    """The page with its tables as they follow from the figures.

    Raises:
        ValueError: the page lacks a mark.
    """
    for name, table in tables(found, prices).items():
        mark = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not mark.search(page):
            raise ValueError(f"{PAGE} has no table {name!r}; mark its place <!-- {name} -->.")
        page = mark.sub(lambda found, table=table: found[1] + table + "\n" + found[2], page)
    return page


def main() -> None:
    found = json.loads(DATA.read_text(encoding="utf-8"))
    prices = tomllib.loads(PRICES.read_text(encoding="utf-8"))
    page = rendered(PAGE.read_text(encoding="utf-8"), found, prices)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()

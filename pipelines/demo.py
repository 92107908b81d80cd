"""``make demo``: the main job on made-up events, end to end, and what it made."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from adtally.pipelines.cli import cli
from adtally.pipelines.demo_live import live
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from adtally.runners.local.service import MissingSystemPart

FOLDER = Path("demo-output")
EVENTS = int(os.environ.get("ADTALLY_DEMO_EVENTS", "200000"))
TOP = 10


def main() -> None:
    """Make events up, run the backfill, show the result; safe to repeat."""
    console = Console()
    shutil.rmtree(FOLDER, ignore_errors=True)
    console.rule("1. make up a day of events")
    _command("generate", "--events", str(EVENTS), "--seed", "1", "--output", str(FOLDER / "made"))
    with _node(console) as node:
        console.rule("2. backfill: logs to Parquet" + (" and Elasticsearch" if node else ""))
        output = FOLDER / "out"
        arguments = ["--input", str(FOLDER / "made" / "logs"), "--output", str(output)]
        arguments += ["--rollup", "1h,1d"]
        if node is not None:
            arguments += ["--elasticsearch", node.url, "--elasticsearch-setup"]
        _command("backfill", *arguments)
        console.rule("3. what it made")
        if node is not None:
            _top_advertisers(node, console)
            console.rule("4. live: a minute of events through Kinesis, as they happen")
            try:
                live(FOLDER, node.url, console)
            except MissingSystemPart as error:
                console.print(f"[yellow]Without the live part:[/] {error}")
    _files(output, console)
    _dead_letters(output, console)
    _look_further(output, node is not None, console)


def _command(*arguments: str) -> None:
    with contextlib.suppress(SystemExit):
        cli.main(args=list(arguments), prog_name="adtally", standalone_mode=False)
        return
    sys.exit(f"the demo failed at: adtally {' '.join(arguments)}")


@contextlib.contextmanager
def _node(console: Console) -> Iterator[ElasticsearchNode | None]:
    """A real node, or None with a word about what is missing."""
    node = ElasticsearchNode(data=(FOLDER / "elasticsearch").absolute())
    try:
        node.start()
    except MissingSystemPart as error:
        console.print(f"[yellow]Without Elasticsearch, Parquet only:[/] {error}")
        yield None
        return
    try:
        yield node
    finally:
        node.stop()


def _top_advertisers(node: ElasticsearchNode, console: Console) -> None:
    """The day's largest advertisers, asked of Elasticsearch."""
    from elasticsearch import Elasticsearch

    sums = {
        name: {"sum": {"field": name}}
        for name in ("impressions", "clicks", "givt_clicks", "net_clicks", "conversions")
    }
    with contextlib.closing(Elasticsearch(node.url)) as client:
        client.indices.refresh(index="adtally-*")
        found = client.search(
            index="adtally-summaries-*",
            size=0,
            query={"term": {"window_seconds": 86_400}},
            aggs={
                "advertisers": {
                    "terms": {
                        "field": "advertiser_id",
                        "size": TOP,
                        "order": {"impressions": "desc"},
                    },
                    "aggs": sums,
                }
            },
        )
        documents = client.count(index="adtally-summaries-*")["count"]
    table = Table(title=f"top {TOP} advertisers, from {documents:,} Elasticsearch documents")
    table.add_column("advertiser")
    for name in sums:
        table.add_column(name, justify="right")
    for bucket in found["aggregations"]["advertisers"]["buckets"]:
        values = (f"{round(bucket[name]['value']):,}" for name in sums)
        table.add_row(bucket["key"], *values)
    console.print(table)


def _files(output: Path, console: Console) -> None:
    table = Table(title=f"files below {output}")
    for name in ("what", "files", "MB"):
        table.add_column(name, justify="left" if name == "what" else "right")
    for kind in ("events", "summaries", "flags", "verdicts", "anomalies", "late", "dead-letters"):
        paths = [path for path in (output / kind).rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in paths) / 1e6
        table.add_row(kind, str(len(paths)), f"{size:.2f}")
    console.print(table)


def _dead_letters(output: Path, console: Console) -> None:
    """How many of each kind, with one to look at."""
    import gzip

    kinds: dict[str, tuple[int, Any]] = {}
    for path in sorted((output / "dead-letters").rglob("*.jsonl.gz")):
        for line in gzip.decompress(path.read_bytes()).splitlines():
            letter = json.loads(line)
            count, first = kinds.get(letter["error_type"], (0, letter["message"]))
            kinds[letter["error_type"]] = (count + 1, first)
    table = Table(title="dead letters: what did not fit, and why")
    table.add_column("error", no_wrap=True)
    table.add_column("letters", justify="right", no_wrap=True)
    table.add_column("for example")
    for kind, (count, message) in sorted(kinds.items()):
        table.add_row(kind, str(count), message.split(";")[0][:60])
    console.print(table)


def _look_further(output: Path, has_node: bool, console: Console) -> None:
    console.rule("5. look further")
    lines = [
        f"SQL         duckdb -init {output}/views.sql   (the command: pip install duckdb-cli)",
        "            SELECT advertiser_id, sum(clicks), sum(net_clicks) FROM net_summaries",
        "            WHERE window_seconds = 86400 GROUP BY ALL ORDER BY 2 DESC LIMIT 10;",
        f"dashboard   .venv/bin/adtally dashboard --output {output}   (then open what it prints)",
        f"the truth   {FOLDER}/made/truth/truth.json",
        "your logs   .venv/bin/adtally backfill --help",
        "a stream    .venv/bin/adtally local up --stream clicks   (then adtally feed, stream)",
    ]
    if has_node:
        lines.insert(
            0,
            f"documents   .venv/bin/adtally local up --only elasticsearch --folder {FOLDER}   "
            "(then http://127.0.0.1:9200/adtally-*/_search)",
        )
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()

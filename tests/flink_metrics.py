"""What a Flink cluster tells Prometheus, beside what the rules for alerts ask for."""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from adtally.runners.local.flink_cluster import FlinkCluster

ALERTS = Path(__file__).parents[1] / "runners" / "deploy" / "flink" / "alerts.yaml"


def rules() -> list[dict[str, Any]]:
    """The rules for alerts."""
    return [
        rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    ]


def asked() -> set[str]:
    """Names of metrics that the rules ask for."""
    return {name for rule in rules() for name in re.findall(r"\bflink_\w+", rule["expr"])}


def scraped(cluster: FlinkCluster) -> set[str]:
    """Names of metrics that the processes of a cluster tell now."""
    first, last = map(int, cluster.manager.settings()["metrics.reporter.prom.port"].split("-"))
    names: set[str] = set()
    for port in range(first, last + 1):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                names |= set(re.findall(r"^(flink_\w+)", answer.read().decode(), re.MULTILINE))
        except (urllib.error.URLError, http.client.BadStatusLine):
            continue  # nobody took this one; the kernel may have connected us to ourselves
    return names

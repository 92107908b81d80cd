"""From what was given on the command line to settings and clients."""

from __future__ import annotations

from typing import Any

from adtally.io.elasticsearch import ElasticsearchConfig
from adtally.io.logs import absolute
from adtally.io.manifest import read_manifest
from adtally.pipelines.job import ConfigError, Settings, rollups
from adtally.transforms.rules import ClickRateIp, Ruleset


def settings_for(given: dict[str, Any]) -> Settings:
    """Settings as given; what was not given is as the output has it, or the default.

    Raises:
        ConfigError: a setting cannot work.
    """
    known = read_manifest(absolute(given["output"])) or {}
    rules = known.get("ruleset", {})
    settings: dict[str, Any] = {}
    for name, option in (
        ("window_seconds", "window"),
        ("dimensions", "dimensions"),
        ("allowed_lateness_seconds", "allowed_lateness"),
        ("shards", "shards"),
    ):
        if given[option] is not None:
            settings[name] = given[option]
        elif name in known:
            settings[name] = tuple(known[name]) if name == "dimensions" else known[name]
    rollup = {*(given["rollup"] or ()), *known.get("rollup_seconds", ())}
    threshold = given["click_rate_ip_threshold"] or rules.get("click_rate_ip_threshold")
    overrides = {
        **rules.get("click_rate_ip_overrides", {}),
        **dict(given["click_rate_ip_override"]),
    }
    try:
        rule = ClickRateIp(threshold or ClickRateIp().threshold, overrides)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return Settings(**settings, rollup_seconds=rollups(tuple(rollup)), ruleset=Ruleset(rule))


def elasticsearch_config(given: dict[str, Any]) -> ElasticsearchConfig:
    """How to reach Elasticsearch, with secrets named by where they come from."""
    raise NotImplementedError

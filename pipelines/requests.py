"""From what was given on the command line to settings and clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adtally.io.logs import absolute
from adtally.io.manifest import read_manifest
from adtally.pipelines.job import STREAM_SHARDS, ConfigError, Settings, rollups
from adtally.transforms.rules import ClickRateIp, Ruleset

if TYPE_CHECKING:  # the client takes a fifth of a second to import
    from adtally.io.elasticsearch import ElasticsearchConfig


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
    ):
        if given[option] is not None:
            settings[name] = given[option]
        elif name in known:
            settings[name] = tuple(known[name]) if name == "dimensions" else known[name]
    if given["shards"] is not None:
        settings["shards"] = given["shards"]
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


def stream_settings_for(given: dict[str, Any]) -> Settings:
    """Settings of a stream: groups are fewer, and those of a savepoint stay as they are.

    Raises:
        ConfigError: a setting cannot work.
    """
    known = (read_manifest(absolute(given["output"])) or {}).get("stream_shards")
    shards = given["shards"] or known or STREAM_SHARDS
    if given["flink_savepoint"] and known is not None and shards != known:
        raise ConfigError(
            f"--shards {shards} does not fit the savepoint, whose windows are cut into {known}: "
            f"an advertiser would be counted in two parts, and one of them lost. Leave --shards "
            f"out, or start without --flink-savepoint."
        )
    return settings_for({**given, "shards": shards})


def elasticsearch_config(given: dict[str, Any]) -> ElasticsearchConfig:
    """How to reach Elasticsearch, with secrets named by where they come from."""
    from adtally.io.elasticsearch import ElasticsearchConfig, ElasticsearchConfigError

    urls = [url.strip() for url in given["elasticsearch"].split(",") if url.strip()]
    try:
        return ElasticsearchConfig(
            urls=tuple(urls),
            index_prefix=given["elasticsearch_index_prefix"],
            username=given["elasticsearch_username"],
            api_key_file=given["elasticsearch_api_key_file"],
            password_file=given["elasticsearch_password_file"],
            ca_file=given["elasticsearch_ca_file"],
            verify_tls=not given["elasticsearch_insecure"],
            retry_seconds=given["elasticsearch_retry_seconds"],
        )
    except ElasticsearchConfigError as error:
        raise ConfigError(str(error)) from error

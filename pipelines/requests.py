"""From what was given on the command line to settings and clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adtally.io.logs import absolute
from adtally.io.manifest import read_manifest
from adtally.pipelines.job import BEFORE, STREAM_SHARDS, ConfigError, Settings, rollups
from adtally.pipelines.limit_options import limits_of
from adtally.transforms.pii import Pii
from adtally.transforms.rules.config import read_rules
from adtally.transforms.rules.ruleset import Ruleset

if TYPE_CHECKING:  # the client takes a fifth of a second to import
    from adtally.io.elasticsearch import ElasticsearchConfig


def settings_for(given: dict[str, Any]) -> Settings:
    """Settings as given; what was not given is as the output has it, or the default.

    Raises:
        ConfigError: a setting cannot work.
    """
    found = read_manifest(absolute(given["output"]))
    known = {} if found is None else {**BEFORE, **found}
    settings: dict[str, Any] = {}
    for name, option in (
        ("window_seconds", "window"),
        ("dimensions", "dimensions"),
        ("allowed_lateness_seconds", "allowed_lateness"),
        ("max_rows_per_window", "max_rows_per_window"),
    ):
        if given[option] is not None:
            settings[name] = given[option]
        elif name in known:
            settings[name] = tuple(known[name]) if name == "dimensions" else known[name]
    if given["shards"] is not None:
        settings["shards"] = given["shards"]
    rollup = {*(given["rollup"] or ()), *known.get("rollup_seconds", ())}
    rules_file, ruleset = _rules(given["rules"], known.get("rules", {}))
    return Settings(
        **settings,
        rollup_seconds=rollups(tuple(rollup)),
        ruleset=ruleset,
        rules_file=rules_file,
        limits=limits_of(given),
        pii=pii_for(given["pii"], given["pii_key_file"], known),
    )


def stored_settings(output: str, rules: str | None = None) -> Settings:
    """Settings of an output as it is.

    Raises:
        ConfigError: its rules have changed, and are not given.
    """
    options = ("window", "dimensions", "allowed_lateness", "max_rows_per_window", "shards")
    given = dict.fromkeys((*options, "rollup", "pii", "pii_key_file"))
    return settings_for({**given, "output": output, "rules": rules})


def pii_for(mode: str | None, key_file: str | None, known: dict[str, Any]) -> Pii:
    """As given; what was not given is as in the runs before.

    Raises:
        ConfigError: pseudonyms have no key, or a key makes none.
    """
    earlier = known.get("pii", Pii().fingerprint)
    mode = mode or earlier["mode"]
    if mode != "hash":
        if key_file:
            raise ConfigError(
                f"--pii-key-file makes pseudonyms, and --pii is {mode}; say --pii hash."
            )
        return Pii("truncate") if mode == "truncate" else Pii()
    if earlier["mode"] == "hash":  # the key is held against this where it is needed: to decode
        path = absolute(key_file) if key_file else known.get("pii_key_file", "")
        return Pii("hash", path, earlier["key_id"])
    if not key_file:
        raise ConfigError(
            "--pii hash needs a key, or pseudonyms could be undone by trying all addresses; make "
            "one with  openssl rand -hex 32 > FILE  and give it as --pii-key-file."
        )
    return Pii.hashed(absolute(key_file))


def _rules(given: str | None, known: dict[str, str]) -> tuple[str, Ruleset]:
    """The file of rules, and what it says; empty for each rule's own settings.

    Raises:
        ConfigError: the file of the runs before has changed, and this one was not told of it.
    """
    path = absolute(given) if given else known.get("file", "")
    ruleset = read_rules(path) if path else Ruleset()
    if path and given is None and known["version"] != ruleset.version:
        raise ConfigError(
            f"the rules in {path}, or its lists, have changed since they were last used "
            f"({known['version']}, now {ruleset.version}); what is flagged would change unasked. "
            f"Give --rules {path} to use them as they are now."
        )
    return path, ruleset


def goes_on(given: dict[str, Any]) -> tuple[str, str] | None:
    """The saved state that a stream goes on from, and its option; None where it begins anew."""
    if given["flink_savepoint"]:
        return "savepoint", "--flink-savepoint"
    if given["dataflow_update"]:
        return "running job", "--dataflow-update"
    return None


def stream_settings_for(given: dict[str, Any]) -> Settings:
    """Settings of a stream: groups are fewer, and those of saved state stay as they are.

    Raises:
        ConfigError: a setting cannot work.
    """
    known = (read_manifest(absolute(given["output"])) or {}).get("stream_shards")
    shards = given["shards"] or known or STREAM_SHARDS
    saved = goes_on(given)
    if saved and known is not None and shards != known:
        raise ConfigError(
            f"--shards {shards} does not fit the {saved[0]}, whose windows are cut into {known}: "
            f"an advertiser would be counted in two parts, and one of them lost. Leave --shards "
            f"out, or start without {saved[1]}."
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

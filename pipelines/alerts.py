"""``--alerts``: its options, and what they mean."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import click

from adtally.pipelines.options import Duration, options

if TYPE_CHECKING:
    from adtally.io.alerts import AlertSink
    from adtally.transforms.alerts import AlertSpec
    from adtally.transforms.rules.quotas import Quotas

_LOG = logging.getLogger("adtally")

alert_options = options(
    click.option(
        "--alerts",
        metavar="TARGET",
        help="Tell of flags and rate limits at once: kinesis://STREAM, "
        "pubsub://projects/P/topics/T, FILE.jsonl on this machine, or a folder or URI for files; "
        "docs/alerts.md.",
    ),
    click.option(
        "--alerts-per-window",
        type=click.IntRange(min=1),
        default=100,
        show_default=True,
        help="Flags of an advertiser and base window that are sent, and as many of rules that look "
        "back; of others, the number.",
    ),
    click.option(
        "--rate-limit-for",
        type=Duration(),
        default=600,
        show_default=True,
        help="How long after a window's end a subject flagged in it should be throttled.",
    ),
)


def alerts_of(given: dict[str, Any], quotas: Quotas) -> tuple[AlertSink | None, AlertSpec]:
    """Where alerts go, if anywhere, and what is told.

    Raises:
        ConfigError: they cannot go there, or this run has none.
    """
    from adtally.pipelines.job import ConfigError
    from adtally.transforms.alerts import AlertSpec

    spec = AlertSpec(given["alerts_per_window"], given["rate_limit_for"] * 1000, quotas)
    if not given["alerts"]:
        return None, spec
    if given["stop_at"] is not None:
        raise ConfigError(
            "--alerts is for a live stream: with --stop-at the windows are over, and users would "
            "be throttled for what was. Leave one of the two out."
        )
    sink = parse_target(
        given["alerts"],
        given["kinesis_region"],
        given["kinesis_endpoint"],
        given["pubsub_endpoint"],
    )
    if not given["alerts"].startswith("pubsub://") and any(
        _same(given["alerts"], source) for source in given["sources"]
    ):
        raise ConfigError(
            f"--alerts {given['alerts']} is read by this stream too: its alerts would come back as "
            f"events. Give another stream."
        )
    if given["alerts"].endswith(".jsonl") and given["flink_environment"]:
        raise ConfigError(
            f"--alerts {given['alerts']} is one file of this machine, and workers run beside the "
            f"TaskManagers. Give kinesis://STREAM, pubsub://projects/P/topics/T, or a folder that "
            f"all of them reach."
        )
    if given["look_back_every"] >= given["rate_limit_for"]:
        _LOG.warning(
            "rules that look back speak every %d s, when most of their rate limits are over, which "
            "end %d s after the window; give --look-back-every less than --rate-limit-for",
            given["look_back_every"],
            given["rate_limit_for"],
        )
    return sink, spec


def _same(target: str, source: str) -> bool:
    """Whether two addresses may be of one stream; an ARN names it as well."""
    if target == source:
        return True
    both_arns = all(":stream/" in one for one in (target, source))
    return not both_arns and target.rsplit("/", 1)[-1] == source.rsplit("/", 1)[-1]


def parse_target(text: str, region: str, endpoint: str, pubsub_endpoint: str = "") -> AlertSink:
    """A stream of Kinesis, a topic, a local file that ends in ``.jsonl``, or a folder or URI.

    Raises:
        ConfigError: it is none of them.
    """
    from apache_beam.io.filesystems import FileSystems

    from adtally.io.alerts import FileAlerts, FolderAlerts, KinesisAlerts
    from adtally.io.logs import absolute
    from adtally.pipelines.job import ConfigError
    from adtally.pipelines.sources import parse_kinesis, parse_topic

    if text.startswith("kinesis://"):
        return KinesisAlerts(parse_kinesis(text, region, endpoint))
    if text.startswith("pubsub://"):
        from adtally.io.pubsub_sinks import PubSubAlerts

        return PubSubAlerts(parse_topic(text, pubsub_endpoint))
    scheme = FileSystems.get_scheme(text)
    if scheme is None and text.endswith(".jsonl"):
        return FileAlerts(absolute(text))
    if text.endswith(".jsonl"):
        raise ConfigError(
            f"--alerts {text} cannot be appended to; give a folder, which gets files of its own."
        )
    try:
        FileSystems.get_filesystem(text)
    except ValueError as error:
        raise ConfigError(
            f"--alerts {text!r} is not known; write kinesis://STREAM, "
            f"pubsub://projects/PROJECT/topics/NAME, FILE.jsonl, or a folder or URI such as "
            f"s3://bucket/alerts."
        ) from error
    return FolderAlerts(absolute(text))

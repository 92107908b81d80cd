"""Streams on the command line: their addresses, and the options that reach them."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import click

from adtally.pipelines.options import Duration, options

if TYPE_CHECKING:
    from adtally.io.kinesis import KinesisConfig
    from adtally.io.pubsub_client import PubSubConfig
    from adtally.io.pubsub_publisher import Topic
    from adtally.io.reads import Read

EMULATOR: Final = "PUBSUB_EMULATOR_HOST"
"""Google's own variable for an emulator; workers elsewhere are told by us, and need none."""

reach_options = options(
    click.option("--kinesis-region", default="", help="[default: the environment's]"),
    click.option("--kinesis-endpoint", default="", help="URL of a VPC endpoint or an emulator."),
    click.option(
        "--pubsub-endpoint",
        default="",
        help=f"HOST:PORT of an emulator.  [default: {EMULATOR}, else Google Cloud]",
    ),
)
"""How streams are reached, whatever they are for."""

read_options = options(
    click.option(
        "--source",
        "sources",
        multiple=True,
        required=True,
        metavar="URI",
        help="kinesis://STREAM, kinesis://ARN, or pubsub://projects/P/subscriptions/S; several, "
        "of both kinds, are read into one graph.",
    ),
    reach_options,
    click.option(
        "--pubsub-id-attribute",
        default="",
        help="Attribute that tells a message apart from others, however often it is published.",
    ),
    click.option(
        "--pubsub-attributes-as",
        default="",
        metavar="FIELD",
        help="Put attributes of messages into their records, as an object of this name: for "
        "--mapping.",
    ),
    click.option(
        "--readers",
        type=click.IntRange(min=1),
        help="Of each stream, side by side: groups of shards of Kinesis, at most one per shard  "
        "[default: 32]; pulls of Pub/Sub  [default: 4].",
    ),
    click.option(
        "--on-data-loss",
        type=click.Choice(["fail", "trim_horizon"]),
        default="fail",
        show_default=True,
        help="When records left the stream unread: end, or count it and go on with the oldest.",
    ),
    click.option(
        "--watermark-lag",
        type=Duration(),
        default=30,
        show_default=True,
        help="How far windows wait behind arrival before their on-time pane.",
    ),
)


def reads_of(given: dict[str, Any], start_ms: int, stop_ms: int | None) -> tuple[Read, ...]:
    """All sources; arguments as for :func:`read_of`.

    Raises:
        ConfigError: one cannot be read, or not by this run.
    """
    from adtally.io.pubsub_leases import HOLD_SECONDS
    from adtally.pipelines.job import ConfigError

    sources = given["sources"]
    twice = sorted({one for one in sources if sources.count(one) > 1})
    if twice:
        raise ConfigError(f"--source {twice[0]} is given twice; once reads all of it.")
    every = given["flink_checkpoint_every"]
    if given["runner"] == "FlinkRunner" and every > HOLD_SECONDS / 3:
        for one in sources:
            if one.startswith("pubsub://"):
                raise ConfigError(
                    f"--flink-checkpoint-every {every} s is too long for {one}: a message is "
                    f"acknowledged two checkpoints later, and held for {HOLD_SECONDS:.0f} s; give "
                    f"{HOLD_SECONDS / 3:.0f}s or less, or it would be delivered over and over."
                )
    return tuple(read_of(source, given, start_ms, stop_ms) for source in sources)


def read_of(source: str, given: dict[str, Any], start_ms: int, stop_ms: int | None) -> Read:
    """One ``--source`` with the options that are about it.

    Args:
        source: its address.
        given: all options.
        start_ms: where reading begins.
        stop_ms: where it ends; None for never.

    Raises:
        ConfigError: it cannot be read like that.
    """
    from adtally.io import kinesis, pubsub
    from adtally.pipelines.job import ConfigError
    from adtally.runners.dataflow import NAME as DATAFLOW

    lag = given["watermark_lag"]
    try:
        if source.startswith("pubsub://"):
            if stop_ms is not None:
                raise ConfigError(
                    "--stop-at needs positions, which Pub/Sub has not: it cannot tell when all "
                    "that was there has been read. Leave it out, or back-fill from logs."
                )
            return pubsub.ReadFromPubSub(
                replace(
                    parse_subscription(source, given["pubsub_endpoint"]),
                    id_attribute=given["pubsub_id_attribute"],
                    attributes_field=given["pubsub_attributes_as"],
                ),
                start_ms=start_ms,
                readers=given["readers"] or pubsub.READERS,
                watermark_lag_seconds=lag,
                service=given["runner"] == DATAFLOW,
            )
        return kinesis.ReadFromKinesis(
            parse_kinesis(source, given["kinesis_region"], given["kinesis_endpoint"]),
            start_ms=start_ms,
            stop_ms=stop_ms,
            readers=given["readers"] or kinesis.READERS,
            on_data_loss=given["on_data_loss"],
            watermark_lag_seconds=lag,
        )
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def parse_kinesis(text: str, region: str, endpoint: str) -> KinesisConfig:
    """``kinesis://STREAM`` or ``kinesis://arn:aws:kinesis:...``.

    Raises:
        ConfigError: it is neither, or the endpoint is no URL.
    """
    from adtally.io.kinesis import KinesisConfig
    from adtally.pipelines.job import ConfigError

    if not text.startswith("kinesis://") or len(text) == len("kinesis://"):
        raise ConfigError(
            f"stream {text!r} is not known; write kinesis://STREAM or kinesis://ARN to read or to "
            f"write, pubsub://projects/PROJECT/subscriptions/NAME to read, or "
            f"pubsub://projects/PROJECT/topics/NAME to write."
        )
    try:
        return KinesisConfig(text.removeprefix("kinesis://"), region, endpoint)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def parse_subscription(text: str, endpoint: str) -> PubSubConfig:
    """``pubsub://projects/PROJECT/subscriptions/NAME``.

    Raises:
        ConfigError: it is none.
    """
    from adtally.io.pubsub_client import PubSubConfig
    from adtally.pipelines.job import ConfigError

    try:
        return PubSubConfig(text.removeprefix("pubsub://"), endpoint=emulator_or(endpoint))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def parse_topic(text: str, endpoint: str) -> Topic:
    """``pubsub://projects/PROJECT/topics/NAME``.

    Raises:
        ConfigError: it is none.
    """
    from adtally.io.pubsub_publisher import Topic
    from adtally.pipelines.job import ConfigError

    try:
        return Topic(text.removeprefix("pubsub://"), emulator_or(endpoint))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def letter_topic(given: dict[str, Any]) -> Topic | None:
    """``--dead-letters-to``, if anywhere.

    Raises:
        ConfigError: it is no topic.
    """
    text = given["dead_letters_to"]
    return parse_topic(text, given["pubsub_endpoint"]) if text else None


def emulator_or(endpoint: str) -> str:
    """HOST:PORT of Pub/Sub as given, or as Google's variable says; empty for the service."""
    return endpoint.removeprefix("http://") or os.environ.get(EMULATOR, "")

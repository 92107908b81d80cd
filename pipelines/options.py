"""Options of the command line: their types, and what several commands share."""

from __future__ import annotations

import datetime
import difflib
import re
import tomllib
import zoneinfo
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Duration(click.ParamType):
    """``90s``, ``5m``, ``1h``, ``1d`` or plain seconds, as whole seconds."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+)\s*([smhd]?)", str(value).strip())
        if match is None:
            self.fail(f"{value!r} is no duration; write it as 90s, 5m, 1h or 1d.", param, ctx)
        return int(match[1]) * _UNITS[match[2] or "s"]


class Instant(click.ParamType):
    """An ISO 8601 date or time, UTC unless it has an offset, as milliseconds since the epoch."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if isinstance(value, int):
            return value
        try:
            at = datetime.datetime.fromisoformat(str(value))
        except ValueError:
            example = "2026-03-01 or 2026-03-01T12:00:00Z"
            self.fail(f"{value!r} is no time; write it as {example}.", param, ctx)
        if at.tzinfo is None:
            at = at.replace(tzinfo=datetime.UTC)
        return round(at.timestamp() * 1000)


class Zone(click.ParamType):
    """A time zone by its IANA name."""

    name = "zone"

    def convert(self, value: Any, param: Any, ctx: Any) -> zoneinfo.ZoneInfo:
        if isinstance(value, zoneinfo.ZoneInfo):
            return value
        if value not in zoneinfo.available_timezones():
            self.fail(f"{value!r} is no IANA zone, such as 'Europe/Berlin'.", param, ctx)
        return zoneinfo.ZoneInfo(value)


class CommaList(click.ParamType):
    """Comma-separated values, each of another type."""

    name = "list"

    def __init__(self, item: click.ParamType) -> None:
        self._item = item

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[Any, ...]:
        parts = value if isinstance(value, list | tuple) else str(value).split(",")
        texts = [part.strip() if isinstance(part, str) else part for part in parts]
        return tuple(self._item.convert(part, param, ctx) for part in texts if part != "")


def load_config(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Take defaults from a TOML file: its keys are the names of the options.

    Flags win over environment variables, which win over the file.
    """
    if value is None:
        return None
    try:
        content = tomllib.loads(Path(value).read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise click.BadParameter(f"{value} cannot be read: {error}", ctx, param) from error
    names = {option.name for option in ctx.command.params if option.name != "config"}
    settings = {key.replace("-", "_"): item for key, item in content.items()}
    for key in settings:
        if key not in names:
            close = difflib.get_close_matches(key, [name for name in names if name], 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise click.BadParameter(
                f"{value} sets {key!r}, which 'adtally {ctx.info_name}' does not have.{hint}",
                ctx,
                param,
            )
    ctx.default_map = {**(ctx.default_map or {}), **settings}
    return value


class PassThrough(click.Command):
    """A command that hands options it does not know on to Beam, and takes ``--input A B C``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        settings = {
            "ignore_unknown_options": True,
            "allow_extra_args": True,
            "auto_envvar_prefix": "ADTALLY",
            "help_option_names": ["-h", "--help"],
            "max_content_width": 100,
        }
        kwargs["context_settings"] = settings
        super().__init__(*args, **kwargs)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_spread(args, "--input")))


def ready(ctx: click.Context) -> None:
    """Tell Beam's filesystems their options; refuse those that neither we nor Beam understand.

    Raises:
        click.UsageError: a mistake is not something to pass over.
    """
    from adtally.io.objects import EncryptionError
    from adtally.io.s3 import StorageError, check_reach
    from adtally.runners.direct import unknown_arguments, use_storage

    _check_no_password(ctx)
    for stray in unknown_arguments(ctx.args):
        name = stray.split("=")[0]  # what follows may be a secret
        names = [name for option in ctx.command.params for name in option.opts]
        close = difflib.get_close_matches(name, names, 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise click.UsageError(f"{name!r} is no option of adtally or Beam.{hint}")
    try:
        use_storage(ctx.args)
        check_reach()
    except (EncryptionError, StorageError) as error:
        raise click.UsageError(str(error)) from error


def _check_no_password(ctx: click.Context) -> None:
    """An address with a password would be in job ids, manifests, logs and lists of processes.

    Raises:
        click.UsageError: names the option, and not its value.
    """
    from adtally.io.endpoints import holds_password

    given = {param: ctx.params.get(param.name or "") for param in ctx.command.params}
    found = [param.opts[0] for param, value in given.items() if holds_password(str(value))]
    found += [one.split("=")[0] for one in ctx.args if holds_password(one)]
    if found:
        name = found[0] if not holds_password(found[0]) else "an argument"
        raise click.UsageError(
            f"{name} has an address with a user or password in it, which would be seen in logs, "
            f"jobs and lists of processes; leave it out, and give credentials through the "
            f"environment or a file (for a database, ${{NAME}} in its place names a variable)."
        )


def _spread(args: list[str], option: str) -> list[str]:
    """``--input a b`` as ``--input a --input b``: what a shell makes of an unquoted pattern."""
    spread: list[str] = []
    inside = False
    for position, arg in enumerate(args):
        if arg.startswith("-"):
            inside = arg == option
            spread.append(arg)
        elif inside and args[position - 1] != option:
            spread += [option, arg]
        else:
            spread.append(arg)
    return spread


def options(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several option decorators as one, in the order given."""

    def apply(function: Any) -> Any:
        for decorate in reversed(decorators):
            function = decorate(function)
        return function

    return apply


config_option = click.option(
    "--config",
    type=click.Path(dir_okay=False),
    callback=load_config,
    is_eager=True,
    expose_value=False,
    help="TOML file with any of these options, such as  output = 'out'.",
)

output_option = click.option(
    "--output", required=True, help="Folder or URI that everything is written below."
)

tally_options = options(
    click.option(
        "--window",
        type=Duration(),
        help="Base window of the summaries; it divides a day.  [default: 60s, or the output's]",
    ),
    click.option(
        "--rollup",
        type=CommaList(Duration()),
        help="Larger windows computed as well, such as 1h,1d.",
    ),
    click.option(
        "--dimensions",
        type=CommaList(click.STRING),
        help="Fields to break summaries down by, such as campaign_id,country.",
    ),
    click.option(
        "--allowed-lateness",
        type=Duration(),
        help="Events received later than this after their window's end are late.  [default: 1h]",
    ),
    click.option(
        "--max-rows-per-window",
        type=click.IntRange(min=0),
        help="Rows that an advertiser may have in a window, those beyond are one; 0 for no limit; "
        "docs/overflow.md.  [default: 10000, or the output's]",
    ),
    click.option(
        "--rules",
        metavar="FILE",
        help="Invalid-traffic rules: thresholds, lists, advertisers; docs/rules.md.  "
        "[default: the output's]",
    ),
    click.option(
        "--pii",
        type=click.Choice(("keep", "truncate", "hash")),
        help="Addresses and users are stored as they came, cut short, or as pseudonyms; "
        "docs/privacy.md.  [default: keep, or the output's]",
    ),
    click.option(
        "--pii-key-file",
        metavar="FILE",
        help="Key of the pseudonyms of --pii hash; 16 bytes at least.  [default: the output's]",
    ),
    click.option(
        "--shards",
        type=click.IntRange(min=1),
        help="Groups per window in the shuffle; more for more data.  [default: 16; of a stream 4]",
    ),
)

elasticsearch_options = options(
    click.option("--elasticsearch", metavar="URL", help="Node to write to; several by commas."),
    click.option(
        "--elasticsearch-index-prefix",
        default="adtally",
        show_default=True,
        help="Indices are PREFIX-summaries-YYYY.MM and PREFIX-flags-YYYY.MM.",
    ),
    click.option(
        "--elasticsearch-api-key-file",
        type=click.Path(dir_okay=False),
        help="File with an API key; or set ADTALLY_ELASTICSEARCH_API_KEY.",
    ),
    click.option(
        "--elasticsearch-username",
        help="For basic authentication; the password comes from a file or "
        "ADTALLY_ELASTICSEARCH_PASSWORD.",
    ),
    click.option("--elasticsearch-password-file", type=click.Path(dir_okay=False)),
    click.option(
        "--elasticsearch-ca-file",
        type=click.Path(dir_okay=False),
        help="Certificate authority of the node, PEM.",
    ),
    click.option(
        "--elasticsearch-retry-seconds",
        type=click.FloatRange(min=0),
        default=600.0,
        show_default=True,
        help="How long a write is tried again before the run fails.",
    ),
    click.option(
        "--elasticsearch-insecure",
        is_flag=True,
        help="Do not verify the node's certificate. For tests only.",
    ),
)

setup_option = click.option(
    "--elasticsearch-setup",
    is_flag=True,
    help="Install the index templates first, as 'adtally elasticsearch setup' does.",
)

run_options = options(
    click.option(
        "--mapping",
        type=click.Path(dir_okay=False),
        help="TOML file that turns foreign records into events; see docs/mapping.md.",
    ),
    click.option(
        "--runner",
        default="DirectRunner",
        show_default=True,
        help="Beam runner. Options of Beam may follow, such as --direct_num_workers=2.",
    ),
    click.option(
        "--max-dead-letter-ratio",
        type=click.FloatRange(0, 1),
        help="Fail, after writing everything, when more of the records are dead letters.",
    ),
    click.option(
        "--block-size",
        type=click.IntRange(min=1),
        default=64,
        show_default=True,
        help="MB (uncompressed) that a worker reads at a time.",
    ),
    click.option("--quiet", is_flag=True, help="No progress; errors and the result only."),
    click.option("--debug", is_flag=True, help="Tracebacks, and all that Beam logs."),
)

"""What a pull says: while it runs, and in the end."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Final

from rich.console import Console

from adtally.io.shown import shown_line
from adtally.pipelines.pull import Puller
from adtally.pipelines.pull_roster import Totals

LOG_SECONDS: Final = 10.0
REFRESH_SECONDS: Final = 0.5
NAMED: Final = 20
"""Databases that failed and are named; of more, the number."""

_LOG = logging.getLogger("adtally")


@contextlib.contextmanager
def watching(puller: Puller, console: Console, *, quiet: bool) -> Iterator[None]:
    """Tell how far a pull is, while the block runs: on a terminal in one line, else in the log."""
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(stop, puller, console), daemon=True)
    try:
        if not quiet:
            thread.start()
        yield
    finally:
        stop.set()
        if thread.is_alive():
            thread.join()


def _watch(stop: threading.Event, puller: Puller, console: Console) -> None:
    begun = time.monotonic()
    if not console.is_terminal:
        while not stop.wait(LOG_SECONDS):
            _LOG.info("%s", line(puller.totals(), time.monotonic() - begun))
        return
    with console.status("") as status:
        while not stop.wait(REFRESH_SECONDS):
            status.update(line(puller.totals(), time.monotonic() - begun))


def line(totals: Totals, seconds: float) -> str:
    """Progress in one line."""
    rate = totals.written / max(seconds, 1e-9)
    failed = f", {len(totals.failed):,} failing" if totals.failed else ""
    return (
        f"round {totals.rounds:,}: {totals.tenants:,} advertisers{failed}, {totals.written:,} "
        f"documents written ({rate:,.0f}/s), {totals.removed:,} deleted"
    )


def show(totals: Totals, seconds: float, console: Console) -> None:
    """The result."""
    rate = totals.written / max(seconds, 1e-9)
    console.print(f"advertisers {totals.tenants:,}, of which {len(totals.failed):,} failed")
    console.print(
        f"documents   {totals.written:,} written, {totals.removed:,} deleted, in {seconds:,.1f} s "
        f"({rate:,.0f}/s)",
        highlight=False,
    )
    if totals.kept:
        console.print(
            f"kept        {totals.kept:,} documents of indices that Elasticsearch has no more; "
            f"--drop-missing-indices deletes them"
        )
    if totals.without_database:
        console.print(f"passed over {totals.without_database:,} advertisers without a database")
    for advertiser, reason in sorted(totals.failed.items())[:NAMED]:
        text = shown_line(f"{advertiser[:100]}: {reason}")
        console.print(f"failed      {text}", soft_wrap=True, markup=False)
    if len(totals.failed) > NAMED:
        console.print(f"            and {len(totals.failed) - NAMED:,} more")
    if totals.failed:
        console.print("            their cursors stay; the same command again brings the rest")

"""The command: which faults, how often, and where the results go."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from adtally.runners.local.service import MissingSystemPart, ServiceFailed
from tests import sql_oracle, streams
from tests.faults import report
from tests.faults.catalogue import FAULTS, FaultCase
from tests.faults.stage import Run, Stage

EVENTS = 90_000
LATENESS_SECONDS = 20_000
"""The oldest event is 8,500 s old when it is made, and some are sent an hour and a half later."""

ROUND_SECONDS = 200.0
"""The load has to last for so long, or the stream is begun anew."""


@click.command()
@click.option("--only", metavar="NAME,...", help="These faults alone; --list says which there are.")
@click.option("--repeat", type=click.IntRange(1), default=2, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="Of all random moments.")
@click.option(
    "--rate", type=click.IntRange(1), default=100, show_default=True, help="Lines a second."
)
@click.option("--list", "listed", is_flag=True, help="Say which faults there are, and end.")
@click.option("--append", is_flag=True, help="Add to the runs of earlier campaigns.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=report.DATA,
    show_default=True,
    help="Data file, which keeps other faults; the page is written beside it as .md.",
)
def campaign(
    only: str | None, repeat: int, seed: int, rate: int, listed: bool, append: bool, output: Path
) -> None:
    """Break a running stream in every way, and count what was lost, what double, and how long it
    took. Exit code 1 where anything was."""
    if listed:
        for case in FAULTS:
            click.echo(f"{case.name:22} {case.title}")
        return
    os.environ.update(streams.AWS)
    streams.LATENESS_SECONDS = LATENESS_SECONDS
    sql_oracle.LATENESS_MS = LATENESS_SECONDS * 1000
    bad = False
    for _, cases in itertools.groupby(_chosen(only), key=_setting):
        with _alone(), contextlib.closing(_Runner(seed, repeat, rate)) as runner:
            for case in cases:
                try:
                    runs = runner.run(case)
                except MissingSystemPart as error:
                    _say(f"{case.name}: skipped: {error}")
                    continue
                except (AssertionError, ServiceFailed, OSError, ValueError) as error:
                    _say(f"{case.name}: could not be brought about: {error!r}")
                    runner.close()
                    bad = True
                    continue
                bad |= report.failed(runs)
                data = report.merge(output, case, seed, rate, runs, append)
                output.with_suffix(".md").write_text(report.page(data))
    sys.exit(1 if bad else 0)


class _Runner:
    """Faults of one setting, on one stream for as long as its load lasts and all is well."""

    def __init__(self, seed: int, repeat: int, rate: int) -> None:
        self._seed = seed
        self._repeat = repeat
        self._rate = rate
        self._stage: Stage | None = None

    def run(self, case: FaultCase) -> list[Run]:
        runs = []
        for number in range(self._repeat):
            stage = self._running(case)
            _say(f"{case.name}, {number + 1} of {self._repeat}: {case.title}")
            rng = random.Random(f"{self._seed} {case.name} {number}")
            runs.append(stage.measure(case.inject, rng))
            _say(str(runs[-1]))
            if report.failed(runs[-1:]):
                self.close()  # the next fault finds a stream that is well
        return runs

    def _running(self, case: FaultCase) -> Stage:
        if self._stage is None or not self._stage.enough_for(ROUND_SECONDS):
            self.close()
            folder = Path(tempfile.mkdtemp(prefix="adtally-faults-"))
            self._stage = Stage(folder, case.setting, EVENTS, self._rate)
            self._stage.start()
        return self._stage

    def close(self) -> None:
        if self._stage is not None:
            self._stage.stop()
            self._stage = None


def _setting(case: FaultCase) -> str:
    return case.setting.name


def _chosen(only: str | None) -> Sequence[FaultCase]:
    """The faults that were asked for; those of a setting one after the other."""
    if only is None:
        return sorted(FAULTS, key=_setting)
    names = only.split(",")
    unknown = set(names) - {case.name for case in FAULTS}
    if unknown:
        raise click.BadParameter(
            f"there is no fault {', '.join(sorted(unknown))}; --list says which there are.",
            param_hint="--only",
        )
    return sorted((case for case in FAULTS if case.name in names), key=_setting)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Hold the lock that ``ADTALLY_HEAVY_LOCK`` names, where others measure on this machine too."""
    path = os.environ.get("ADTALLY_HEAVY_LOCK")
    if not path:
        yield
        return
    with Path(path).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    time.sleep(1)  # who waits for it gets it


def _say(text: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {text}", err=True)

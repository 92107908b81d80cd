"""The event log as a place: which of its files hold which hours."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from typing import Final

from adtally.io.files import join
from adtally.io.logs import LogFile, NoInput, list_files

HOUR_MS: Final = 3_600_000
_PARTITION = re.compile(r"/date=(\d{4}-\d{2}-\d{2})/hour=(\d{2})/[^/]*$")


def hour_of(path: str) -> int:
    """Start of the hour that a file of the log holds, in milliseconds.

    Raises:
        ValueError: the path is in no partition of a log.
    """
    match = _PARTITION.search(path)
    if match is None:
        raise ValueError(f"{path} lies in an event log but in no date=/hour= folder; move it.")
    at = datetime.datetime.fromisoformat(f"{match[1]}T{match[2]}:00:00+00:00")
    return round(at.timestamp() * 1000)


def files_in(output: str, ranges: Sequence[tuple[int, int]]) -> list[LogFile]:
    """Files of an output's event log whose hour touches one of the ranges (milliseconds).

    Raises:
        NoInput: there are none.
    """
    files, _ = list_files([join(output, "events") + "/"])
    inside = [
        file
        for file in files
        if any(
            start < hour_of(file.path) + HOUR_MS and hour_of(file.path) < end
            for start, end in ranges
        )
    ]
    if not inside:
        raise NoInput(f"the event log of {output} has nothing in the range to be tallied.")
    return inside

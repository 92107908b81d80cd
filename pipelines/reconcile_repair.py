"""Repair: the hours that do not say what the log says, tallied again as the next generation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from adtally.pipelines import reconcile_states as states
from adtally.pipelines.backfill import Outcome, aligned, retally
from adtally.pipelines.progress import Watch
from adtally.pipelines.reconcile import Asked, Found, reconcile
from adtally.pipelines.reconcile_causes import hours
from adtally.transforms.windows import Ranges


@dataclass(frozen=True)
class Repaired:
    """What a repair did.

    Attributes:
        ranges: that were tallied again; empty where there was nothing to do.
        left: that were not, because the log is short of events there.
        outcome: of the re-tally.
        after: the same range compared once more; None where nothing was done.
    """

    ranges: Ranges
    left: Ranges
    outcome: Outcome | None = None
    after: Found | None = None


def repair(asked: Asked, found: Found, trust_log: bool, watch: Watch) -> Repaired:
    """Tally again what differs, whole windows of every size, and compare once more.

    Hours in which summaries or documents had seen more events than the log holds are left alone:
    a re-tally would put the smaller numbers in the place of the right ones.

    Args:
        asked: what was compared, ``widened``, of all advertisers.
        found: what was found.
        trust_log: tally such hours again too.
        watch: shows progress.

    Raises:
        ConfigError: windows are not final.
    """
    settings = asked.request.settings
    wanted = states.REPAIRED + (states.LOG_SHORT,) * trust_log
    blocks = {aligned([span], settings) for span in hours(found.findings, *wanted)}
    short = [] if trust_log else hours(found.findings, states.LOG_SHORT)
    sound = [block for (block,) in blocks if not _meets(block, short)]
    left = [block for (block,) in blocks if _meets(block, short)]
    if not sound:
        return Repaired((), aligned(left, settings))
    ranges = aligned(sound, settings)
    outcome = retally(replace(asked.request, from_ms=None, to_ms=None), ranges, watch)
    return Repaired(ranges, aligned(left, settings), outcome, reconcile(asked, watch))


def _meets(block: tuple[int, int], spans: list[tuple[int, int]]) -> bool:
    return any(start < block[1] and block[0] < end for start, end in spans)

"""Stored summaries as they stand, for those who read them without SQL."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import polars as pl

from adtally.io.files import join, list_paths, read_bytes
from adtally.transforms.overflow import standing

_FILES_AT_ONCE: Final = 16
_DATE: Final = re.compile(r"/date=(\d{4}-\d{2}-\d{2})/[^/]*\.parquet$")


class StoredSummaries:
    """Base summaries, or roll-ups, of an output.

    Args:
        output: address of the output.
        window_seconds: which.
    """

    def __init__(self, output: str, window_seconds: int) -> None:
        folder = join(output, "summaries", f"window={window_seconds}s")
        self._by_date: dict[str, list[str]] = {}
        for path in list_paths(join(folder, "**")):
            if match := _DATE.search(path):
                self._by_date.setdefault(match[1], []).append(path)
        self._generations = _frames(list_paths(join(output, "generations", "generation=*.parquet")))

    @property
    def dates(self) -> list[str]:
        """Dates (UTC) that have summaries, in order."""
        return sorted(self._by_date)

    def of_date(
        self, date: str, dimensions: Sequence[str], measures: Sequence[str]
    ) -> pl.DataFrame:
        """The rows of a day: of each window the generation that rules it, of each row its highest
        version, none that was folded since, as the view ``summaries`` has them.

        Args:
            date: one of :attr:`dates`.
            dimensions: those of the output, which tell rows apart.
            measures: columns to read.

        Returns:
            ``advertiser_id``, ``currency``, ``window_start``, the dimensions and the measures.
        """
        identity = ["advertiser_id", *dimensions, "currency", "window_start"]
        columns = [*identity, "window_end", "generation", "version", *measures]
        stored = _frames(self._by_date[date], columns)
        windows = stored.select("window_start", "window_end").unique()
        ruling = windows.with_columns(ruling=pl.lit(0, pl.Int64))
        if self._generations.height:
            covering = windows.join_where(
                self._generations,
                pl.col("window_start") >= pl.col("range_from"),
                pl.col("window_end") <= pl.col("range_to"),
            )
            latest = covering.group_by("window_start").agg(pl.col("generation").max())
            ruling = windows.join(latest, on="window_start", how="left").with_columns(
                ruling=pl.col("generation").fill_null(0)
            )
        latest = (
            stored.join(ruling.select("window_start", "ruling"), on="window_start")
            .filter(pl.col("generation") == pl.col("ruling"))
            .sort("version", descending=True)
            .unique(identity, keep="first", maintain_order=True)
        )
        return standing(latest, dimensions, ["advertiser_id", "window_start"]).select(
            *identity, *measures
        )


def _frames(paths: Sequence[str], columns: list[str] | None = None) -> pl.DataFrame:
    def read(path: str) -> pl.DataFrame:
        return pl.read_parquet(read_bytes(path), columns=columns)

    with ThreadPoolExecutor(_FILES_AT_ONCE) as threads:
        frames = list(threads.map(read, sorted(paths)))
    return pl.concat(frames, how="vertical_relaxed") if frames else pl.DataFrame()

"""Where a command's rows are saved: by the ending of the file, never inside of an output."""

from __future__ import annotations

import posixpath

import click
import pyarrow as pa

from adtally.io.files import atomic_write
from adtally.io.logs import absolute
from adtally.pipelines.answers import ENDINGS, WRITERS


def form_of(form: str | None, save: str, output: str) -> str:
    """How rows are written into a file.

    Raises:
        click.UsageError: they cannot be; says what to give.
    """
    if (absolute(save) + "/").startswith(absolute(output).rstrip("/") + "/"):
        raise click.UsageError(
            f"--save {save} lies inside of the output, whose files are rows to every reader; save "
            f"it elsewhere."
        )
    form = form or ENDINGS.get(posixpath.splitext(save)[1])
    if form is None:
        raise click.UsageError(
            f"--save {save} does not end in {', '.join(ENDINGS)}; give --format too."
        )
    return form


def save_rows(rows: pa.RecordBatchReader, form: str, path: str) -> int:
    """Replace a file or object by these rows; returns how many they are."""
    with atomic_write(absolute(path)) as file:
        return WRITERS[form](rows, file)

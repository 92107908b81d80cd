"""Text made of byte ranges of a block: unknown fields put together, lines viewed in place."""

import numpy as np
import pyarrow as pa

from adtally.transforms.json_scan import Bytes, Extras, Ints

_COPIED_PIECES = 1 << 15


def compose_extras(block: Bytes, extras: Extras, lines: Ints) -> pa.LargeStringArray:
    """Unknown fields of each of the (ascending) lines as one compact JSON object, else null."""
    row_of = np.searchsorted(lines, extras.line)
    kept = lines[np.minimum(row_of, len(lines) - 1)] == extras.line if len(lines) else row_of < 0
    if not kept.any():
        return pa.nulls(len(lines), pa.large_string())
    rows = row_of[kept]
    key, colon, value, end = (
        part[kept] for part in (extras.key, extras.colon, extras.value, extras.end)
    )
    is_first = np.diff(rows, prepend=-1) != 0
    is_last = np.diff(rows, append=-1) != 0
    stops = np.cumsum(1 + (colon + 1 - key) + (end - value) + is_last)
    out = np.zeros(int(stops[-1]), np.uint8)
    out[np.concatenate([[0], stops[:-1]])] = np.where(is_first, ord("{"), ord(","))
    out[stops[is_last] - 1] = ord("}")
    begins = np.column_stack([key, value]).ravel()
    ends = np.column_stack([colon + 1, end]).ravel()
    _fill_gaps(block, begins, ends, out)
    counts = np.bincount(rows, minlength=len(lines))
    offsets = np.concatenate([[0], stops])[np.concatenate([[0], np.cumsum(counts)])]
    validity = pa.py_buffer(np.packbits(counts > 0, bitorder="little"))
    buffers = [validity, pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(out)]
    return pa.Array.from_buffers(pa.large_string(), len(lines), buffers)


def _fill_gaps(source: Bytes, begins: Ints, ends: Ints, target: Bytes) -> None:
    """Copy many short pieces, one after the other, to the zeros of the target."""
    done = 0
    for at in range(0, len(begins), _COPIED_PIECES):
        begin = begins[at : at + _COPIED_PIECES]
        sizes = ends[at : at + _COPIED_PIECES] - begin
        within = np.arange(int(sizes.sum()))
        text = source[within + np.repeat(begin - (np.cumsum(sizes) - sizes), sizes)]
        gaps = np.flatnonzero(target[done : done + 2 * len(text) + 2 * len(sizes)] == 0)
        gaps = gaps[: len(text)] + done
        target[gaps] = text
        done = int(gaps[-1]) + 1 if len(gaps) else done


def line_views(block: Bytes, starts: Ints, ends: Ints) -> pa.StringViewArray:
    """Text of byte ranges, which must be UTF-8, as views on the block without a copy."""
    views = np.zeros((len(starts), 4), np.int32)
    views[:, 0] = ends - starts
    is_short = views[:, 0] <= 12
    at = np.minimum(starts[:, None] + np.arange(4), len(block) - 1)
    views[:, 1] = block[at].view(np.int32)[:, 0]
    views[:, 3] = starts
    if is_short.any():
        at = np.minimum(starts[is_short, None] + np.arange(12), len(block) - 1)
        inside = np.arange(12) < views[is_short, :1]
        views[is_short, 1:] = (block[at] * inside).astype(np.uint8).view(np.int32)
    buffers = [None, pa.py_buffer(views), pa.py_buffer(block)]
    return pa.Array.from_buffers(pa.string_view(), len(starts), buffers)

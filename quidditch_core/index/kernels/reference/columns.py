"""Columns: ranges, counts, sums and orders, all rows at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quidditch_core.index.kernels.blocks import CORRUPT
from quidditch_core.segment import GRANULE, view

MOST = 2**63 - 1


def _integers(values: int, width: int, rows: int) -> NDArray[np.int64]:
    if width == 0:
        return np.zeros(rows, np.int64)
    return view(values, rows, np.int64 if width == 8 else f"<u{width}").astype(np.int64)


def _codes(values: int, width: int, base: int, rows: int) -> NDArray[np.int64]:
    return _integers(values, width, rows) + np.int64(base)


def _mask(bitmap: int, rows: int) -> NDArray[np.bool_]:
    if bitmap == 0:
        return np.ones(rows, np.bool_)
    return np.unpackbits(view(bitmap, -(-rows // 8), np.uint8), bitorder="little", count=rows).view(np.bool_)


def _set(bitmap: int, rows: NDArray[np.bool_]) -> None:
    view(bitmap, -(-rows.size // 8), np.uint8)[:] |= np.packbits(rows, bitorder="little")


def in_range(
    values: int, width: int, base: int, rows: int, low: int, high: int, least: int, most: int, bitmap: int,
) -> int:
    """Set the bits of the rows with a code in [low, high]."""
    granules = -(-rows // GRANULE)
    small, large = view(least, granules, np.int64), view(most, granules, np.int64)
    touched = (large >= low) & (small <= high)
    inside = touched & (small >= low) & (large <= high)
    codes = _codes(values, width, base, rows)
    of = np.arange(rows) // GRANULE
    _set(bitmap, inside[of] | (touched[of] & (codes >= low) & (codes <= high)))
    return int((touched & ~inside).sum())


def with_any(starts: int, width: int, base: int, docs: int, rows: int, bitmap: int) -> int:
    """Set the documents that have any of some rows."""
    edges = _codes(starts, width, base, docs + 1)
    total = np.concatenate([[0], np.cumsum(_mask(rows, int(edges[-1])))])
    _set(bitmap, total[edges[1:]] > total[edges[:-1]])
    return 0


def rows_of(starts: int, width: int, base: int, docs: int, bitmap: int, rows: int) -> int:
    """Set the rows of some documents."""
    edges = _codes(starts, width, base, docs + 1)
    _set(rows, np.repeat(_mask(bitmap, docs), np.diff(edges)))
    return 0


def count_integers(values: int, width: int, rows: int, bitmap: int, counts: int, size: int, stride: int) -> int:
    """Count how often each integer occurs; the first table holds it all."""
    found = _integers(values, width, rows)[_mask(bitmap, rows)].view(np.uint64)
    table = view(counts, size + 1, np.uint32)
    table += np.bincount(np.minimum(found, np.uint64(size)).astype(np.int64), minlength=size + 1).astype(np.uint32)
    return 0


def count_between(
    values: int, width: int, base: int, rows: int, bitmap: int, edges: int, buckets: int, last: int, counts: int,
) -> int:
    """Count the rows of each bucket."""
    codes = _codes(values, width, base, rows)[_mask(bitmap, rows)]
    starts = view(edges, buckets, np.int64)
    if codes.size and (codes.min() < starts[0] or codes.max() > last):
        return CORRUPT
    of = np.searchsorted(starts, codes, side="right") - 1
    view(counts, buckets, np.int64)[:] += np.bincount(of, minlength=buckets)
    return 0


def sum_codes(values: int, width: int, base: int, rows: int, bitmap: int, out: int) -> int:
    """Summary of the codes of integers."""
    chosen = _integers(values, width, rows)[_mask(bitmap, rows)]
    slots = view(out, 5, np.int64)
    slots[0] = chosen.size
    slots[1:3] = _bounds(chosen) + np.int64(base)
    slots[3:5] = (chosen & 0xFFFFFFFF).sum(), (chosen >> 32).sum()
    return 0


def sum_numbers(values: int, width: int, base: int, rows: int, bitmap: int, out: int) -> int:
    """Summary of the codes of float64."""
    codes = _codes(values, width, base, rows)[_mask(bitmap, rows)]
    slots = view(out, 7, np.int64)
    slots[0] = codes.size
    slots[1:3] = _bounds(codes)
    with np.errstate(over="ignore"):
        slots[5:6].view(np.float64)[0] = (codes ^ ((codes >> 63) & MOST)).view(np.float64).sum()
    slots[6] = 0
    return 0


def _bounds(chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.array([chosen.min(initial=MOST), chosen.max(initial=-MOST - 1)], np.int64)


def first_rows(
    values: int, width: int, base: int, size: int, bitmap: int, flip: int, granules: int, bounds: int, count: int,
    limit: int, keys: int, rows: int,
) -> int:
    """The first rows by (key, row)."""
    found: NDArray[Any] = np.flatnonzero(_mask(bitmap, size))
    ordered = _codes(values, width, base, size)[found] ^ np.int64(flip)
    best = np.argsort(ordered, kind="stable")[:limit]
    view(keys, best.size, np.int64)[:] = ordered[best]
    view(rows, best.size, np.int64)[:] = found[best]
    return int(best.size)


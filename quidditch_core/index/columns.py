"""Columns: one value or several a document, as order-preserving int64 codes.

Integers, dates and booleans are their own codes; doubles and floats sort as their codes do (:func:`float_codes`);
a keyword's code is the ordinal of its term, which never leaves the segment. A document's values are sorted;
keywords are distinct. Documents without a value are absent from the ``exists`` bitmap and hold the least code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..segment import GRANULE, RamSections, Segment, bitmap_of, bitmap_words, full_bitmap, mask_of

LEAST, MOST = -(2**63), 2**63 - 1


def float_codes(values: Any) -> NDArray[np.int64]:
    """Codes of float64 that compare as the numbers do; -0.0 counts as 0.0."""
    bits = (np.asarray(values, np.float64) + 0.0).view(np.int64)
    return bits ^ ((bits >> 63) & np.int64(MOST))


def code_floats(codes: Any) -> NDArray[np.float64]:
    """The inverse of :func:`float_codes`."""
    codes = np.asarray(codes, np.int64)
    bits: NDArray[np.int64] = codes ^ ((codes >> 63) & np.int64(MOST))
    return bits.view(np.float64)


def write_exists(sections: RamSections, name: str, docs: NDArray[Any], size: int) -> int:
    """Write which documents have the field (nothing if all have); their number."""
    present = bitmap_of(docs, size)
    count = int(np.bitwise_count(present).sum())
    if count < size:
        sections.put(f"exists/{name}", present)
    return count


def write_column(
    sections: RamSections, name: str, docs: NDArray[Any], codes: NDArray[np.int64], size: int, *, distinct: bool,
) -> bool:
    """Write the codes of ``docs`` (any order, repeats allowed). True if some document has several."""
    order = np.lexsort((codes, docs))
    docs, codes = docs[order], codes[order]
    if distinct and docs.size:
        keep = np.ones(docs.size, np.bool_)
        keep[1:] = (docs[1:] != docs[:-1]) | (codes[1:] != codes[:-1])
        docs, codes = docs[keep], codes[keep]
    counts = np.bincount(docs, minlength=size)
    several = bool(counts.size and counts.max() > 1)
    if several:
        sections.put_ints(f"column.start/{name}", np.concatenate([[0], np.cumsum(counts)]))
        values = codes
    else:
        values = np.full(size, codes.min() if codes.size else 0, np.int64)
        values[docs] = codes
    sections.put_ints(f"column/{name}", values)
    edges = np.arange(0, values.size, GRANULE)
    if edges.size:
        sections.put(f"column.min/{name}", np.minimum.reduceat(values, edges))
        sections.put(f"column.max/{name}", np.maximum.reduceat(values, edges))
    return several


def exists(segment: Segment, name: str) -> NDArray[np.uint64]:
    """Bitmap of the documents that have the field."""
    info = segment.fields.get(name)
    if info is None or info.exists == 0:
        return np.zeros(bitmap_words(segment.docs), np.uint64)
    if info.exists == segment.docs:
        return full_bitmap(segment.docs)
    present: NDArray[np.uint64] = segment.array(f"exists/{name}", np.uint64, bitmap_words(segment.docs))
    if int(present[-1]) >> (segment.docs % 64):
        raise segment.damaged(f"exists/{name} has documents that are not there")
    return present


def in_range(segment: Segment, name: str, low: int, high: int) -> NDArray[np.uint64]:
    """Bitmap of the documents with a code in [low, high]; granules that lie outside are not read."""
    info = segment.fields.get(name)
    if info is None or not info.column or info.exists == 0 or low > high:
        return np.zeros(bitmap_words(segment.docs), np.uint64)
    values, base = _values(segment, name, info.multi_valued)
    granules = -(-values.size // GRANULE)
    least = segment.array(f"column.min/{name}", np.int64, granules)
    most = segment.array(f"column.max/{name}", np.int64, granules)
    hit = np.zeros(values.size, np.bool_)
    touched = (least <= high) & (most >= low)
    inside = touched & (least >= low) & (most <= high)
    floor, ceiling = low - base, high - base  # Python integers: cannot overflow
    if values.dtype != np.int64:
        floor, ceiling = max(floor, 0), min(ceiling, int(np.iinfo(values.dtype).max))
    for granule in np.flatnonzero(touched):
        rows = slice(granule * GRANULE, (granule + 1) * GRANULE)
        if inside[granule]:
            hit[rows] = True
        else:
            part = values[rows]
            hit[rows] = (part >= floor) & (part <= ceiling)
    if info.multi_valued:
        starts = segment.ints(f"column.start/{name}", segment.docs + 1)
        total = np.concatenate([[0], np.cumsum(hit)])
        hit = total[starts[1:]] > total[starts[:-1]]
    bits = np.zeros(bitmap_words(segment.docs) * 64, np.bool_)
    bits[: segment.docs] = hit
    return np.packbits(bits, bitorder="little").view(np.uint64) & exists(segment, name)


def _values(segment: Segment, name: str, several: bool) -> tuple[NDArray[Any], int]:
    """The codes as stored and their base: one a document, or as many as there are, which end where starts end."""
    if not several:
        return segment.narrow(f"column/{name}", segment.docs)
    starts, base = segment.narrow(f"column.start/{name}", segment.docs + 1)
    size = starts.item(segment.docs) + base
    segment.starts(f"column.start/{name}", segment.docs, size)
    return segment.narrow(f"column/{name}", size)


def sort_codes(
    segment: Segment, name: str, docs: NDArray[Any], *, greatest: bool,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The least (or greatest) code of each document of ``docs``, and which of them have one."""
    info = segment.fields.get(name)
    if info is None or not info.column or info.exists == 0:
        return np.zeros(docs.size, np.int64), np.zeros(docs.size, np.bool_)
    present = mask_of(exists(segment, name), segment.docs)[docs]
    values, base = _values(segment, name, info.multi_valued)
    if info.multi_valued:
        starts = segment.ints(f"column.start/{name}", segment.docs + 1)
        at = np.where(present, starts[docs + np.int64(1)] - 1 if greatest else starts[docs], 0)
    else:
        at = docs
    return values[at].astype(np.int64) + base, present


def column_values(segment: Segment, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All (document, code) pairs of a column, by document: what merging reads."""
    info = segment.fields[name]
    codes = segment.ints(f"column/{name}", _values(segment, name, info.multi_valued)[0].size)
    if info.multi_valued:
        starts = segment.ints(f"column.start/{name}", segment.docs + 1)
        return np.repeat(np.arange(segment.docs, dtype=np.int64), np.diff(starts)), codes
    docs = np.flatnonzero(mask_of(exists(segment, name), segment.docs))
    return docs, codes[docs]

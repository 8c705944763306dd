"""Columns: one value or several a document, as order-preserving int64 codes.

Integers, dates and booleans are their own codes; doubles and floats sort as their codes do (:func:`float_codes`);
a keyword's code is the ordinal of its term, which never leaves the segment. A document's values are sorted;
keywords are distinct. Documents without a value are absent from the ``exists`` bitmap and hold the least code.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..segment import (
    GRANULE,
    FieldInfo,
    RamSections,
    Segment,
    address,
    bitmap_of,
    bitmap_words,
    full_bitmap,
    mask_of,
)
from .kernels import columns as kernels

Bitmap = NDArray[np.uint64]

LEAST, MOST = -(2**63), 2**63 - 1
_FOUR_TABLES = 1 << 14
"""Integers up to which four tables of counts fit into the cache."""


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
    several = bool(docs.size) and int(np.bincount(docs, minlength=size).max()) > 1
    if several:
        order = np.lexsort((codes, docs))
        docs, codes = docs[order], codes[order]
        if distinct:
            keep = np.ones(docs.size, np.bool_)
            keep[1:] = (docs[1:] != docs[:-1]) | (codes[1:] != codes[:-1])
            docs, codes = docs[keep], codes[keep]
        counts = np.bincount(docs, minlength=size)
        several = int(counts.max()) > 1
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


class Column(NamedTuple):
    """A column as it is stored: ``size`` unsigned integers of ``width`` bytes (signed if 8), whose codes are ``base``
    more.

    A row is a document, or, where ``starts`` says at which row each document begins, one of its values.
    """

    segment: Segment
    info: FieldInfo
    size: int
    width: int
    base: int
    lasting: bool
    starts: NDArray[Any] | None
    starts_base: int

    def values(self, granules: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """The integers, those of some granules or all: a column that is not lasting is decoded no further."""
        ranges = None
        if granules is not None and not self.lasting and not granules.all():
            granule = GRANULE * self.width
            size = self.size * self.width
            ranges = [(start, min(granule, size - start)) for start in (np.flatnonzero(granules) * granule).tolist()]
        return self.segment.narrow(f"column/{self.info.name}", self.size, ranges)[0]

    def at_rows(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        """The codes of some rows."""
        granules = None
        if not self.lasting:
            granules = np.zeros(-(-self.size // GRANULE), np.bool_)
            granules[rows // GRANULE] = True
        codes: NDArray[np.int64] = self.values(granules)[rows].astype(np.int64)
        codes += self.base
        return codes

    def of_rows(self, rows: Bitmap | None) -> NDArray[Any]:
        """The integers, at least those of the rows of a bitmap (None: of all)."""
        if rows is None or self.lasting:
            return self.values()
        words = np.zeros(-(-self.size // GRANULE) * (GRANULE // 64), np.uint64)
        used = min(words.size, rows.size)
        words[:used] = rows[:used]
        return self.values(words.reshape(-1, GRANULE // 64).max(axis=1) != 0)

    @property
    def bounds(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The least and the greatest code of each granule."""
        granules = -(-self.size // GRANULE)
        return (self.segment.array(f"column.min/{self.info.name}", np.int64, granules),
                self.segment.array(f"column.max/{self.info.name}", np.int64, granules))

    @property
    def everywhere(self) -> bool:
        """Whether every document has a value."""
        return self.info.exists == self.segment.docs

    def rows(self, docs: Bitmap | None) -> Bitmap | None:
        """The rows that hold the values of some documents (None: of all), None if that is all rows."""
        if self.starts is None:
            if self.everywhere:
                return docs
            present = exists(self.segment, self.info.name)
            return present if docs is None else docs & present
        if docs is None:
            return None
        found = np.zeros(bitmap_words(self.size), np.uint64)
        kernels.rows_of(address(self.starts), _width(self.starts), self.starts_base, self.segment.docs, address(docs),
                        address(found))
        return found

    def docs(self, rows: Bitmap) -> Bitmap:
        """The documents that have any of some rows."""
        if self.starts is None:
            return rows if self.everywhere else rows & exists(self.segment, self.info.name)
        found = np.zeros(bitmap_words(self.segment.docs), np.uint64)
        kernels.with_any(address(self.starts), _width(self.starts), self.starts_base, self.segment.docs, address(rows),
                         address(found))
        return found

    def codes(self, docs: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All values of ``docs``: the place in ``docs`` of the document of each, and its code."""
        if self.starts is None:
            if self.everywhere:
                places = np.arange(docs.size)
            else:
                places = np.flatnonzero(has(exists(self.segment, self.info.name), docs))
                docs = docs[places]
            return places, self.at_rows(docs)
        begins = self.starts[docs].astype(np.int64) + self.starts_base
        counts = self.starts[docs + np.int64(1)].astype(np.int64) + self.starts_base - begins
        places = np.repeat(np.arange(docs.size), counts)
        rows = np.arange(places.size) + np.repeat(begins - (np.cumsum(counts) - counts), counts)
        return places, self.at_rows(rows)


def column(segment: Segment, name: str) -> Column | None:
    """The column of a field; None where no document has a value."""
    info = segment.fields.get(name)
    if info is None or not info.column or info.exists == 0:
        return None
    size, starts, starts_base = segment.docs, None, 0
    if info.multi_valued:
        starts, starts_base = segment.narrow(f"column.start/{name}", segment.docs + 1)
        size = starts.item(segment.docs) + starts_base
        segment.starts(f"column.start/{name}", segment.docs, size)
    values, base = segment.narrow(f"column/{name}", size, ())
    return Column(segment, info, size, _width(values), base, segment.sections.lasting(f"column/{name}"), starts,
                  starts_base)


def _width(values: NDArray[Any]) -> int:
    return values.itemsize if values.strides[0] else 0


def has(bitmap: Bitmap, docs: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each of ``docs`` is in the bitmap."""
    docs = docs.astype(np.uint64)
    bits: NDArray[np.uint64] = bitmap[docs >> np.uint64(6)] >> (docs & np.uint64(63))
    return (bits & np.uint64(1)).astype(np.bool_)


def in_range(segment: Segment, name: str, low: int, high: int) -> Bitmap:
    """Bitmap of the documents with a code in [low, high].

    Granules that lie outside are not read, nor are those that lie inside.
    """
    found = column(segment, name)
    if found is None or low > high:
        return np.zeros(bitmap_words(segment.docs), np.uint64)
    rows = np.zeros(bitmap_words(found.size), np.uint64)
    least, most = found.bounds
    values = found.values(_cut(least, most, low, high))
    kernels.in_range(address(values), found.width, found.base, found.size, low, high, address(least), address(most),
                     address(rows))
    return found.docs(rows)


def granules_read(segment: Segment, name: str, low: int, high: int) -> tuple[int, int]:
    """Of the granules of a column, those that :func:`in_range` reads, and all."""
    found = column(segment, name)
    if found is None:
        return 0, 0
    least, most = found.bounds
    return int(np.count_nonzero(_cut(least, most, low, high))) if low <= high else 0, int(least.size)


def _cut(least: NDArray[np.int64], most: NDArray[np.int64], low: int, high: int) -> NDArray[np.bool_]:
    """The granules that lie neither outside of [low, high] nor inside."""
    cut: NDArray[np.bool_] = (most >= low) & (least <= high) & ((least < low) | (most > high))
    return cut


def count_ordinals(column: Column, docs: Bitmap | None, size: int) -> NDArray[np.int64]:
    """How many of ``docs`` (None: of all) hold each of the integers below ``size``, int64 [size].

    The column must have one row for each different value of a document.
    """
    rows = column.rows(docs)
    tables = 4 if size < _FOUR_TABLES else 1
    counts = np.zeros((tables, size + 1), np.uint32)
    values = column.of_rows(rows)
    kernels.count_integers(address(values), column.width, column.size, 0 if rows is None else address(rows),
                           address(counts), size, counts.strides[0] if tables > 1 else 0)
    found: NDArray[np.int64] = counts.sum(axis=0, dtype=np.int64)
    if found[size]:
        raise column.segment.damaged(f"column/{column.info.name} has values beyond the greatest",
                                     expected=f"integers below {size}")
    return found[:size]


def count_between(column: Column, docs: Bitmap | None, edges: NDArray[np.int64], last: int) -> NDArray[np.int64]:
    """How many of ``docs`` have a code from each edge to the next, and to ``last`` for the last one."""
    rows = column.rows(docs)
    counts = np.zeros(edges.size, np.int64)
    values = column.of_rows(rows)
    if kernels.count_between(address(values), column.width, column.base, column.size,
                             0 if rows is None else address(rows), address(edges), edges.size, last,
                             address(counts)) < 0:
        raise column.segment.damaged(f"column/{column.info.name} has values outside of its granules' bounds")
    return counts


class Summary(NamedTuple):
    """What is known of many values: how many, the least and greatest code, and their sum."""

    size: int
    least: int
    most: int
    sum: float


def summary(column: Column, docs: Bitmap | None) -> Summary:
    """The summary of all values of ``docs``; sums of integers are exact before they are rounded."""
    rows = column.rows(docs)
    out = np.zeros(kernels.S_SLOTS, np.int64)
    kernel = kernels.sum_numbers if column.info.column == "f64" else kernels.sum_codes
    values = column.of_rows(rows)
    kernel(address(values), column.width, column.base, column.size, 0 if rows is None else address(rows), address(out))
    count, least, most, low, high = out.tolist()[: kernels.S_SUM]
    if column.info.column == "f64":
        total, lost = out[kernels.S_SUM :].view(np.float64).tolist()
        return Summary(count, least, most, total + lost if math.isfinite(total) else total)
    return Summary(count, least, most, float(low + (high << 32) + count * column.base))


def first_docs(
    segment: Segment, name: str, docs: Bitmap | None, limit: int, *, descending: bool, missing_first: bool,
) -> NDArray[np.int64] | None:
    """The ``limit`` first of ``docs`` by the column, then by document, in no order; None if it has several values."""
    found = column(segment, name)
    if found is None:
        return first_bits(full_bitmap(segment.docs) if docs is None else docs, limit)
    if found.starts is not None:
        return None
    absent = np.zeros(0, np.int64)
    if not found.everywhere:
        accepted = full_bitmap(segment.docs) if docs is None else docs
        absent = first_bits(accepted & ~exists(segment, name), limit)
    wanted = limit - absent.size if missing_first else limit
    if not wanted:
        return absent
    least, most = found.bounds
    bounds = ~most if descending else np.asarray(least)
    granules = np.argsort(bounds, kind="stable")
    bounds = bounds[granules]
    wanted = min(wanted, found.size)
    keys, rows = np.empty(wanted, np.int64), np.empty(wanted, np.int64)
    accept = found.rows(docs)
    tried = granules.size if found.lasting else 1
    while True:  # granules in the order of what they can hold, so that only the first are decoded
        chosen = np.zeros(granules.size, np.bool_)
        chosen[granules[:tried]] = True
        values = found.values(chosen)
        size = kernels.first_rows(address(values), found.width, found.base, found.size,
                                  0 if accept is None else address(accept), -1 if descending else 0, address(granules),
                                  address(bounds), tried, wanted, address(keys), address(rows))
        if tried == granules.size or (size == wanted and bounds[tried] > keys[size - 1]):
            break
        tried = min(8 * tried, granules.size)
    rows = rows[:size]
    return np.concatenate([rows, absent if missing_first else absent[: limit - size]])


def first_bits(bitmap: Bitmap, limit: int) -> NDArray[np.int64]:
    """The first ``limit`` documents of a bitmap."""
    words = np.flatnonzero(bitmap)[:limit]
    bits = np.unpackbits(bitmap[words].view(np.uint8), bitorder="little").reshape(-1, 64)
    word, bit = np.nonzero(bits)
    return (words[word] * 64 + bit)[:limit]


def sort_codes(
    segment: Segment, name: str, docs: NDArray[Any], *, greatest: bool,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The least (or greatest) code of each document of ``docs``, and which of them have one."""
    found = column(segment, name)
    if found is None:
        return np.zeros(docs.size, np.int64), np.zeros(docs.size, np.bool_)
    present = np.ones(docs.size, np.bool_) if found.everywhere else has(exists(segment, name), docs)
    at: NDArray[Any] = docs
    if found.starts is not None:
        starts = found.starts
        at = np.where(present, starts[docs + np.int64(1)].astype(np.int64) - 1 if greatest
                      else starts[docs].astype(np.int64), -found.starts_base) + found.starts_base
    return found.at_rows(at), present


def column_values(segment: Segment, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All (document, code) pairs of a column, by document: what merging reads."""
    info = segment.fields[name]
    found = column(segment, name)
    if found is None:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    codes = segment.ints(f"column/{name}", found.size)
    if info.multi_valued:
        starts = segment.ints(f"column.start/{name}", segment.docs + 1)
        return np.repeat(np.arange(segment.docs, dtype=np.int64), np.diff(starts)), codes
    docs = np.flatnonzero(mask_of(exists(segment, name), segment.docs))
    return docs, codes[docs]

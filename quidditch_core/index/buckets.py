"""Which buckets a document is in: the keys that terms and histograms give to the values of a column.

Keys are int64 that compare as the keys of the answer do, in all segments alike: codes, numbers of intervals, or
ordinals of the terms that occur. Where all documents of a segment are in one bucket, kernels count by bitmaps; else
documents are arrays, each with the number of its bucket.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import aggs as a
from ..dates import parse_offset
from ..mapping import FieldType
from ..segment import Segment, bit_count, docs_of, full_bitmap
from . import columns, postings
from .columns import Bitmap

Ints = NDArray[np.int64]

_DENSE = 1 << 20
"""Span of keys up to which tables are made instead of sorting."""
_CACHED_TERMS = 1 << 14
_DAY = 86_400_000
_EXACT = 2**53
_EXACT_CODE = int(columns.float_codes(2.0**53))


class Scope:
    """Documents of one segment in numbered buckets: those of ``bitmap`` (None: all) in bucket 0, or ``docs`` with the
    bucket of each."""

    __slots__ = ("_pairs", "bitmap", "segment")

    def __init__(self, segment: Segment, bitmap: Bitmap | None = None, pairs: tuple[Ints, Ints] | None = None) -> None:
        self.segment = segment
        self.bitmap = bitmap
        self._pairs = pairs

    @property
    def whole(self) -> bool:
        """Whether all documents are in bucket 0, and are those of the bitmap."""
        return self._pairs is None

    @property
    def documents(self) -> Bitmap:
        """The bitmap of a whole scope."""
        return full_bitmap(self.segment.docs) if self.bitmap is None else self.bitmap

    @property
    def pairs(self) -> tuple[Ints, Ints]:
        """The documents, and the bucket of each."""
        if self._pairs is not None:
            return self._pairs
        size = self.segment.docs
        docs = np.arange(size) if self.bitmap is None else docs_of(self.bitmap, size).astype(np.int64)
        return docs, np.zeros(docs.size, np.int64)

    def per_bucket(self, buckets: int) -> Ints:
        """How many documents are in each bucket."""
        if self._pairs is not None:
            return np.bincount(self._pairs[1], minlength=buckets)
        return np.array([self.segment.docs if self.bitmap is None else bit_count(self.bitmap)], np.int64)


class Values(NamedTuple):
    """Values of a field: document and bucket of each, its code, and which document of the scope it is of."""

    docs: Ints
    buckets: Ints
    codes: Ints
    places: Ints


def values_of(scope: Scope, field: str, missing: int | None) -> Values:
    """All values of the documents of a scope; ``missing`` is the code that documents without one count for."""
    docs, buckets = scope.pairs
    column = columns.column(scope.segment, field)
    if column is None:
        places = codes = np.zeros(0, np.int64)
    else:
        places, codes = column.codes(docs)
    if missing is not None:
        has = np.zeros(docs.size, np.bool_)
        has[places] = True
        absent = np.flatnonzero(~has)
        places = np.concatenate([places, absent])
        codes = np.concatenate([codes, np.full(absent.size, missing, np.int64)])
    return Values(docs[places], buckets[places], codes, places)


class Counted(NamedTuple):
    """Pairs of bucket and key that occur, ascending, and how many documents have each."""

    buckets: Ints
    keys: Ints
    counts: Ints


def merged(parts: list[Counted]) -> Counted:
    """The counts of several segments as one."""
    if len(parts) == 1:
        return parts[0]
    buckets, keys, counts = (np.concatenate(column) if column else np.zeros(0, np.int64)
                             for column in zip(*parts, strict=True)) if parts else [np.zeros(0, np.int64)] * 3
    return counted(buckets, keys, counts)


def counted(buckets: Ints, keys: Ints, counts: Ints | None = None) -> Counted:
    """How often each pair of bucket and key occurs, or the sum of its ``counts``."""
    if not keys.size:
        return Counted(keys, keys, keys)
    least, most = int(keys.min()), int(keys.max())
    span = most - least + 1
    groups = int(buckets.max()) + 1
    if span * groups <= max(_DENSE, 4 * keys.size):
        both = buckets * span + (keys - least)
        if counts is None:
            table = np.bincount(both)
            present = np.flatnonzero(table)
        else:
            table = np.bincount(both, counts).astype(np.int64)
            present = np.unique(both)
        return Counted(present // span, present % span + least, table[present])
    known, ranks = np.unique(keys, return_inverse=True)
    both, place, found = np.unique(buckets * known.size + ranks.reshape(-1), return_inverse=True, return_counts=True)
    if counts is not None:
        found = np.bincount(place.reshape(-1), counts, both.size).astype(np.int64)
    return Counted(both // known.size, known[both % known.size], found)


class Lookup:
    """Where int64 are in a list of different ones; -1 where they are not."""

    def __init__(self, values: Ints) -> None:
        self._values = values
        self._least = int(values.min()) if values.size else 0
        span = (int(values.max()) if values.size else 0) - self._least + 1
        self._table = None
        if span <= _DENSE:
            self._table = np.full(span + 1, -1, np.int64)  # the last entry is that of all values beyond
            self._table[values - self._least] = np.arange(values.size)
        else:
            self._order = np.argsort(values)
            self._sorted = values[self._order]

    def __call__(self, values: Ints) -> Ints:
        if self._table is not None:
            beyond = self._table.size - 1
            with np.errstate(over="ignore"):
                places = (values - self._least).view(np.uint64)
            return self._table[np.minimum(places, np.uint64(beyond)).astype(np.int64)]
        at = np.minimum(np.searchsorted(self._sorted, values), self._sorted.size - 1)
        return np.where(self._sorted[at] == values, self._order[at], -1)


# --- keys --------------------------------------------------------------------------------------------------


class Keys:
    """Base of what gives keys: ``key_of`` codes, which must not descend where codes ascend."""

    def __init__(self, field: FieldType, missing: int | None) -> None:
        self.field = field
        self.missing = missing

    def key_of(self, codes: Ints) -> Ints:
        return codes

    def assigned(self, scope: Scope) -> tuple[Ints, Ints, Ints]:
        """Document, bucket and key, each triple once."""
        values = values_of(scope, self.field.name, self.missing)
        docs, buckets, keys = values.docs, values.buckets, self.key_of(values.codes)
        info = scope.segment.fields.get(self.field.name)
        if info is not None and info.multi_valued and keys.size:
            first = np.ones(keys.size, np.bool_)
            first[1:] = (values.places[1:] != values.places[:-1]) | (keys[1:] != keys[:-1])
            docs, buckets, keys = docs[first], buckets[first], keys[first]
        return docs, buckets, keys

    def counted(self, scopes: list[Scope], *, everything: bool = False) -> Counted:
        """The pairs of bucket and key in all segments; with ``everything`` also keys of documents not in the scopes."""
        parts = [self._counted(scope) for scope in scopes]
        if everything:
            parts += [Counted(keys * 0, keys, keys * 0) for keys in map(self._all, scopes)]
        return merged(parts)

    def _counted(self, scope: Scope) -> Counted:
        if scope.whole:
            column = columns.column(scope.segment, self.field.name)
            if column is not None and (self.missing is None or column.everywhere):
                found = self._by_kernel(column, scope.bitmap)
                if found is not None:
                    keys, counts = found
                    present = np.flatnonzero(counts)
                    return Counted(np.zeros(present.size, np.int64), keys[present], counts[present])
        _, buckets, keys = self.assigned(scope)
        return counted(buckets, keys)

    def _by_kernel(self, column: columns.Column, docs: Bitmap | None) -> tuple[Ints, Ints] | None:
        """Keys and how many documents have each, where a kernel can tell."""
        raise NotImplementedError

    def _all(self, scope: Scope) -> Ints:
        found = values_of(Scope(scope.segment), self.field.name, self.missing)
        return np.unique(self.key_of(found.codes))


class NumberKeys(Keys):
    """Every different code is a key."""

    def _by_kernel(self, column: columns.Column, docs: Bitmap | None) -> tuple[Ints, Ints] | None:
        size = int(column.bounds[1].max()) - column.base + 1
        if column.starts is not None or column.width == 8 or not 0 < size <= _DENSE:
            return None
        return np.arange(column.base, column.base + size), columns.count_ordinals(column, docs, size)


class TermKeys(Keys):
    """Keys are places in the sorted list of the terms that occur; in a single segment, ordinals."""

    def __init__(self, field: FieldType, missing: str | None, scopes: list[Scope]) -> None:
        super().__init__(field, None if missing is None else -1)
        self._missing_term = None if missing is None else missing.encode()
        holding = [scope for scope in scopes if columns.column(scope.segment, field.name) is not None]
        self._alone = holding[0].segment if len(holding) == 1 and missing is None else None
        self._places: dict[str, Lookup] = {}
        self._terms: list[bytes] = []

    def counted(self, scopes: list[Scope], *, everything: bool = False) -> Counted:
        parts = [self._counted(scope) for scope in scopes]
        if everything:
            parts = [merged([part, Counted(keys * 0, keys, keys * 0)])
                     for part, keys in zip(parts, map(self._all, scopes), strict=True)]
        if self._alone is not None:
            return merged(parts)
        ordinals = [np.unique(part.keys[part.keys >= 0]) for part in parts]
        texts = [terms_of(scope.segment, self.field.name, each) for scope, each in zip(scopes, ordinals, strict=True)]
        known = set().union(*texts)
        if self._missing_term is not None:
            known.add(self._missing_term)
        self._terms = sorted(known)
        place = {term: at for at, term in enumerate(self._terms)}
        moved = []
        for scope, each, text, part in zip(scopes, ordinals, texts, parts, strict=True):
            self._places[scope.segment.key] = lookup = _Moved(
                Lookup(each), np.array([place[term] for term in text], np.int64),
                place[self._missing_term] if self._missing_term is not None else -1)
            moved.append(counted(part.buckets, lookup(part.keys), part.counts))
        return merged(moved)

    def assigned(self, scope: Scope) -> tuple[Ints, Ints, Ints]:
        docs, buckets, keys = super().assigned(scope)
        move = self._places.get(scope.segment.key)
        return docs, buckets, keys if move is None else move(keys)

    def _all(self, scope: Scope) -> Ints:
        column = columns.column(scope.segment, self.field.name)
        some_without = self.missing is not None and (column is None or not column.everywhere)
        return np.arange(-1 if some_without else 0, 0 if column is None else column.info.terms)

    def term(self, key: int) -> str:
        """The term of a key."""
        if self._alone is not None:
            return self._alone.text(postings.term_at(self._alone, self.field.name, key))
        return self._terms[key].decode("utf-8", "replace")

    def _by_kernel(self, column: columns.Column, docs: Bitmap | None) -> tuple[Ints, Ints] | None:
        size = column.info.terms
        return np.arange(size), columns.count_ordinals(column, docs, size)


class _Moved(Lookup):
    """From ordinals of one segment to places in the list of all terms; -1 is that of no value."""

    def __init__(self, ordinals: Lookup, places: Ints, missing: int) -> None:
        self._ordinals, self._to, self._missing_place = ordinals, places, missing

    def __call__(self, values: Ints) -> Ints:
        if not self._to.size:
            return np.full(values.size, self._missing_place, np.int64)
        return np.where(values < 0, self._missing_place, self._to[self._ordinals(values)])


def terms_of(segment: Segment, field: str, ordinals: Ints) -> list[bytes]:
    """The terms of some ordinals."""
    info = segment.fields.get(field)
    if info is None or not ordinals.size:
        return []
    if int(ordinals[-1]) >= info.terms:
        raise segment.damaged(f"column/{field} has values beyond the greatest", expected=f"integers below {info.terms}")
    if 4 * ordinals.size < info.terms:
        return [postings.term_at(segment, field, ordinal) for ordinal in ordinals.tolist()]
    every: list[bytes] | None = segment.cache.get(("all terms", field))
    if every is None:
        every = postings.split_terms(*postings.read_terms(segment, field, 0, info.terms)[:2])
        if info.terms <= _CACHED_TERMS:
            segment.cache[("all terms", field)] = every
    return every if ordinals.size == info.terms else [every[ordinal] for ordinal in ordinals.tolist()]


class IntervalKeys(Keys):
    """Base of histograms: keys are numbers of intervals."""

    def start_of(self, keys: Ints) -> Any:
        """The value with which each interval begins, as the answer shows it."""
        raise NotImplementedError

    def edges(self, keys: Ints) -> Ints | None:
        """The least code of each of these keys, which follow one another; None where that cannot be told."""
        raise NotImplementedError

    def _by_kernel(self, column: columns.Column, docs: Bitmap | None) -> tuple[Ints, Ints] | None:
        least, most = column.bounds
        low, high = int(least.min()), int(most.max())
        if column.starts is not None or low > high:
            return None
        first, last = self.key_of(np.array([low, high])).tolist()
        if not 0 <= last - first < _DENSE:
            return None
        keys = np.arange(first, last + 1)
        edges = self.edges(keys)
        if edges is None:
            return None
        edges[0] = low
        return keys, columns.count_between(column, docs, np.ascontiguousarray(edges), high)


class NumberIntervals(IntervalKeys):
    """floor((value - offset) / interval), in float64 as OpenSearch computes it.

    Beyond 2^53, where float64 are no longer next to each other, keys number the float64.
    """

    def __init__(self, field: FieldType, missing: int | None, agg: a.Histogram) -> None:
        super().__init__(field, missing)
        self._interval, self._offset = agg.interval, agg.offset

    def key_of(self, codes: Ints) -> Ints:
        return self.key_of_number(columns.code_floats(codes) if self.field.is_float else codes.astype(np.float64))

    def key_of_number(self, values: NDArray[np.float64]) -> Ints:
        """The keys of numbers that need not be values of the field."""
        with np.errstate(over="ignore"):
            numbers = np.floor((values - self._offset) / self._interval)
        size = np.abs(numbers)
        small = size <= _EXACT
        beyond = _EXACT + columns.float_codes(size) - _EXACT_CODE
        exact = np.where(small, numbers, 0).astype(np.int64)
        keys: Ints = np.where(small, exact, np.where(numbers < 0, -beyond, beyond))
        return keys

    def start_of(self, keys: Ints) -> Any:
        size = np.abs(keys)
        numbers = np.where(size <= _EXACT, size.astype(np.float64),
                           columns.code_floats(np.maximum(size, _EXACT) - _EXACT + _EXACT_CODE))
        return np.where(keys < 0, -numbers, numbers) * self._interval + self._offset

    def edges(self, keys: Ints) -> Ints | None:
        if abs(int(keys[0])) >= _EXACT or abs(int(keys[-1])) >= _EXACT:
            return None
        starts = self.start_of(keys)
        if self.field.is_float:
            codes = columns.float_codes(starts)
        else:
            codes = np.ceil(np.clip(starts, -(2.0**62), 2.0**62)).astype(np.int64)
        for _ in range(4):  # rounding may have put a start beside the first value of its interval
            codes += self.key_of(codes) < keys
            codes -= self.key_of(codes - 1) >= keys
        right = (self.key_of(codes) == keys) & (self.key_of(codes - 1) < keys)
        return codes if right[1:].all() else None  # the first edge becomes the least value that there is


@dataclass(frozen=True)
class Clock:
    """The intervals of a DateHistogram: numbers and first moments, on the clock of its time zone."""

    agg: a.DateHistogram

    @cached_property
    def zone(self) -> int:
        return parse_offset(self.agg.time_zone) or 0 if self.agg.time_zone is not None else 0

    @cached_property
    def _shift(self) -> int:
        return self.zone - (a.milliseconds(self.agg.offset) or 0)

    @cached_property
    def _unit(self) -> str:
        return a.CALENDAR[self.agg.calendar_interval] if self.agg.calendar_interval is not None else ""

    @cached_property
    def _length(self) -> int:
        """Milliseconds of an interval; 0 where months count."""
        if self.agg.fixed_interval is not None:
            return a.milliseconds(self.agg.fixed_interval) or 1
        return {"minute": 60_000, "hour": 3_600_000, "day": _DAY, "week": 7 * _DAY}.get(self._unit, 0)

    @property
    def _begins(self) -> int:
        """Where intervals begin: weeks on Mondays, and 1970 began on a Thursday."""
        return -3 * _DAY if self._unit == "week" else 0

    @property
    def _months(self) -> int:
        return {"month": 1, "quarter": 3, "year": 12}[self._unit]

    def number_of(self, moments: Ints) -> Ints:
        local = moments + self._shift
        if self._length:
            return (local - self._begins) // self._length
        months: Ints = local.view("M8[ms]").astype("M8[M]").view(np.int64)
        return months // self._months

    def start_of(self, numbers: Ints) -> Ints:
        if self._length:
            local = numbers * self._length + self._begins
        else:
            local = (numbers * self._months).view("M8[M]").astype("M8[ms]").view(np.int64)
        return local - self._shift


class TimeIntervals(IntervalKeys):
    """Intervals of time."""

    def __init__(self, field: FieldType, missing: int | None, agg: a.DateHistogram) -> None:
        super().__init__(field, missing)
        self.clock = Clock(agg)

    def key_of(self, codes: Ints) -> Ints:
        return self.clock.number_of(codes)

    def start_of(self, keys: Ints) -> Any:
        return self.clock.start_of(keys)

    def edges(self, keys: Ints) -> Ints | None:
        return self.clock.start_of(keys)

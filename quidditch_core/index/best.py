"""Queries over terms and phrases in one kernel call for all segments: the best hits, or their number.

What a query must be for that: a term, an exact phrase, or a bool whose must and should are terms, with any filters
and must_not, which become one bitmap a segment. Every other plan goes the exhaustive way (``execute``).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from .. import query as q
from ..jit import Kernel
from ..segment import Segment, address
from . import postings, profiles, slices
from .execute import accepted
from .kernels import collector, count, descriptor, intersection, union
from .plan import ONE, BoolPlan, NothingPlan, PhrasePlan, Plan, TermPlan, plan
from .view import View

_CLAUSE = 8 * descriptor.K_SLOTS
_HEADER = struct.Struct(f"<{descriptor.Q_SLOTS}q")
_ROWS = 64 << 20
"""Bytes of scratch beyond which bounding every range costs more than it saves."""


class _Workspace:
    """Buffers of one search at a time, used again by later ones; each attribute that ends in ``_at`` is an address."""

    __slots__ = ("bitmap", "bitmap_at", "out", "out_at", "out_size", "scratch", "scratch_at", "scratch_size")

    def __init__(self) -> None:
        self.out_size = self.scratch_size = self.bitmap_at = 0
        self.bitmap = np.zeros(0, np.uint64)

    def grow_out(self, size: int) -> None:
        self.out = bytearray(size)
        self.out_at, self.out_size = address(np.frombuffer(self.out, np.uint8)), size

    def grow_scratch(self, size: int) -> None:
        """Scratch whose cells hold -0.0, and are left so."""
        self.scratch = np.empty((size + 4095) // 4096 * 4096, np.uint8)
        self.scratch[: 8 * union.WINDOW].view(np.float64)[:] = -0.0
        self.scratch_at, self.scratch_size = address(self.scratch), self.scratch.size

    def grow_bitmap(self, words: int) -> None:
        self.bitmap = np.zeros(words, np.uint64)
        self.bitmap_at = address(self.bitmap)


_idle: list[_Workspace] = []
"""Workspaces that no search is using: taken and given back by operations that other threads cannot interrupt."""


class Shape(NamedTuple):
    """A plan as the kernels see it; ``filters`` is the bool whose filter and must_not narrow it."""

    required: tuple[TermPlan, ...]
    optional: tuple[TermPlan, ...]
    phrase: PhrasePlan | None = None
    filters: BoolPlan | None = None

    @property
    def terms(self) -> int:
        return len(self.required) + len(self.optional) + (len(self.phrase.terms) if self.phrase is not None else 0)


class Found(msgspec.Struct, frozen=True):
    """The output of a kernel: numbers about the search, then keys.

    A key is score bits << 32 | 2^32 - 1 - number in the view; the best come first.
    """

    data: bytearray
    path: str

    def __len__(self) -> int:
        return (len(self.data) - collector.O_KEYS) >> 3

    @property
    def keys(self) -> memoryview:
        """The keys as int64."""
        return memoryview(self.data)[collector.O_KEYS :].cast("q")

    @property
    def number(self) -> int:
        """How many documents match, where the kernel counted them."""
        return self._slot(collector.O_FOUND)

    @property
    def work(self) -> tuple[int, int, int]:
        """Blocks decoded, postings scored, ranges of 256 documents searched."""
        return self._slot(collector.O_BLOCKS), self._slot(collector.O_POSTINGS), self._slot(collector.O_RANGES)

    def _slot(self, slot: int) -> int:
        return int.from_bytes(self.data[8 * slot : 8 * slot + 8], "little", signed=True)


def shape_of(plan: Plan) -> Shape | None:
    """How the kernels of this module would run ``plan``; None if they cannot."""
    if type(plan) is TermPlan:
        return Shape((), (plan,)) if _is_usual(plan.boost) else None
    if type(plan) is PhrasePlan:
        return Shape((), (), plan) if plan.slop == 0 and _is_usual(plan.boost) else None
    if type(plan) is not BoolPlan:
        return None
    must, should = plan.must, plan.should
    filters = plan if plan.filter or plan.must_not else None
    if len(must) == 1 and not should and plan.minimum == 0 and type(must[0]) in (PhrasePlan, BoolPlan):
        only = shape_of(must[0])  # a group of one clause scores what that scores
        return None if only is None or only.filters is not None else only._replace(filters=filters)
    optional = tuple([clause for clause in should if type(clause) is not NothingPlan])
    if any(type(clause) is NothingPlan for clause in must) or len(optional) < plan.minimum:
        return _NOTHING
    for clause in (*must, *optional):
        if type(clause) is not TermPlan or not _is_usual(clause.boost):
            return None
    if must:
        return Shape(must, optional, None, filters) if plan.minimum == 0 else None  # type: ignore[arg-type]
    return Shape((), optional, None, filters) if plan.minimum == 1 else None  # type: ignore[arg-type]


def _is_usual(boost: np.float32) -> bool:
    """Whether scores and their bounds stay far from what float32 cannot hold, or not with all its bits."""
    return _LEAST < boost < _MOST  # type: ignore[return-value]


_NOTHING = Shape((), ())
_LEAST, _MOST = 2.0**-64, 2.0**64


class Prepared:
    """A query that the kernels can run on a view. What does not change between searches is made once.

    ``exact`` tells apart queries that are equal but for the types of their numbers; None if they have none.
    """

    __slots__ = ("_accepted", "_at_least", "_at_once", "_calls", "_docs", "_frequency", "_leaves", "_top", "_view",
                 "exact", "shape")

    def __init__(self, shape: Shape, view: View, leaves: Sequence[int] | None = None) -> None:
        self.shape = shape
        self._leaves = range(len(view.leaves)) if leaves is None else leaves
        self.exact: bytes | None = None
        self._view = view
        self._docs = view.bases[-1]
        self._top: _Described | None = None
        self._calls: dict[int, _Described] = {}
        self._accepted: dict[int, NDArray[np.uint64] | None] = {}
        self._frequency = self._at_least = -1
        self._at_once: bool | None = None

    def best(self, limit: int) -> Found | None:
        """The ``limit`` best live documents; None where the view is too large, or the query too wide."""
        call = self._top
        if call is None:
            call = self._top = self._describe(descriptor.TOP)
        return _run(call, limit if limit < self._docs else self._docs)

    def best_and_number(self, limit: int) -> tuple[Found | None, int | None]:
        """Both of :meth:`best` and :meth:`number`, in one pass where two would read the same."""
        if not self._is_counted_at_once():
            return self.best(limit), self.number()
        found = _run(self._call(descriptor.BOTH), limit if limit < self._docs else self._docs)
        return found, None if found is None else found.number

    def number(self) -> int | None:
        """How many live documents match; None as of :meth:`best`."""
        if self._frequency >= 0:
            return self._frequency
        if self._is_one_term():
            term = (self.shape.required or self.shape.optional)[0]
            self._frequency = self._view.document_frequency(term.field, term.term)
            return self._frequency
        call = self._call(descriptor.COUNT)
        if call.any:
            return _count(call)
        found = _run(call, 0)
        return None if found is None else found.number

    def _is_one_term(self) -> bool:
        """Whether the number of hits is in the statistics."""
        required, optional, phrase, filters = self.shape
        return (filters is None and phrase is None and len(required) + len(optional) == 1
                and not self._view.has_deletions and len(self._leaves) == len(self._view.leaves))

    def _is_counted_at_once(self) -> bool:
        """Whether finding the best visits every document that matches, or nearly so."""
        if self._at_once is None:
            required, optional, phrase, _ = self.shape
            few = [self._view.document_frequency(term.field, term.term) for term in required or optional]
            if phrase is not None or not few or self._is_one_term():
                self._at_once = phrase is not None
            elif required:
                self._at_once = min(few) * profiles.DENSE <= self._docs  # else bitmaps are counted sooner
            else:
                self._at_once = sum(few) <= union.FEW and len(few) <= union.MERGEABLE
        return self._at_once

    def at_least(self) -> int:
        """A number of live documents that surely match, known without a search."""
        if self._at_least < 0:
            shape, view = self.shape, self._view
            self._at_least = 0
            if not (shape.filters or shape.required or shape.phrase is not None):
                dead = view.bases[-1] - view.live_docs if view.has_deletions else 0
                most = max([0] + [view.document_frequency(term.field, term.term) for term in shape.optional])
                self._at_least = max(0, most - dead)
        return self._at_least

    def _call(self, mode: int) -> _Described:
        call = self._calls.get(mode)
        if call is None:
            call = self._calls[mode] = self._describe(mode)
        return call

    def _describe(self, mode: int) -> _Described:
        """The descriptors of all segments in which the query can match, one behind the other."""
        view = self._view
        if view.bases[-1] >= 2**32:
            return _TOO_WIDE
        required, optional, phrase, filters = self.shape
        any_ = phrase is None and not required
        if phrase is not None:
            bound = [view.bound(phrase.field, term, positions=True) for term, _ in phrase.terms]
            weight = phrase.weight
            clauses = [[clause and profiles.weighted(clause, weight, offset) for clause in term.clauses]
                       for term, (_, offset) in zip(bound, phrase.terms, strict=True)]
            needed = len(clauses)
        else:
            needed = len(required)
            terms = required if mode == descriptor.COUNT and not any_ else required + optional
            bound = [view.bound(term.field, term.term) for term in terms]
            clauses = [_weighted(known.clauses, term) for known, term in zip(bound, terms, strict=True)]
        floors = int(filters is None and mode == descriptor.TOP)
        keep: list[object] = [bound]
        text: list[bytes] = []
        most = docs = last = 0
        for at in self._leaves:
            leaf = view.leaves[at]
            mine = [found for each in clauses if (found := each[at]) is not None]
            if not mine or (len(mine) < len(clauses) and None in [each[at] for each in clauses[:needed]]):
                continue
            accept = leaf.live
            if filters is not None:
                if at not in self._accepted:
                    self._accepted[at] = accepted(filters, leaf.segment, leaf.live)
                accept = self._accepted[at]
                keep.append(accept)
            text.append(_HEADER.pack(
                needed, len(mine) - needed, 0, 0 if accept is None else address(accept), leaf.segment.docs, mode, 0,
                view.bases[at], _HEADER.size + _CLAUSE * len(mine), int(phrase is not None), floors,
                int(filters is not None), 0, 0, 0, 0))
            last = len(text) - 1
            text.append(b"".join(mine))
            most, docs = max(most, len(mine)), max(docs, leaf.segment.docs)
        if not text:
            return _NOWHERE
        if most * (docs >> 8) > _ROWS:
            return _TOO_WIDE
        header = bytearray(text[last])
        header[8 * descriptor.Q_NEXT : 8 * descriptor.Q_NEXT + 8] = bytes(8)
        text[last] = bytes(header)
        descriptors = np.frombuffer(b"".join(text), np.uint8)
        keep.append(descriptors)
        path = "phrase" if phrase is not None else "union" if any_ else "intersection"
        kernel = union.union if any_ else intersection.intersection
        return _Described(kernel, address(descriptors), intersection.scratch_bytes(most, docs), most, docs, any_, path,
                          view.leaves[0].segment, keep)


class Sliced:
    """A `Prepared` query for each of some groups of segments, run by as many threads."""

    __slots__ = ("_parts", "exact", "shape")

    def __init__(self, parts: list[Prepared]) -> None:
        self.shape = parts[0].shape
        self.exact: bytes | None = None
        self._parts = parts

    def best(self, limit: int) -> Found | None:
        return _joined(slices.each(lambda part: part.best(limit), self._parts), limit)

    def best_and_number(self, limit: int) -> tuple[Found | None, int | None]:
        parts = slices.each(lambda part: part.best_and_number(limit), self._parts)
        return _joined([best for best, _ in parts], limit), _sum([number for _, number in parts])

    def number(self) -> int | None:
        return _sum(slices.each(Prepared.number, self._parts))

    def at_least(self) -> int:
        return self._parts[0].at_least()


def _joined(parts: list[Found | None], limit: int) -> Found | None:
    """The best of several searches."""
    found = [part for part in parts if part is not None]
    if len(found) < len(parts):
        return None
    work = [sum(numbers) for numbers in zip(*(part.work for part in found), strict=True)]
    header = [0] * (collector.O_KEYS // 8)
    header[collector.O_BLOCKS : collector.O_RANGES + 1] = work
    keys = sorted((key for part in found for key in part.keys), reverse=True)[:limit]
    return Found(bytearray(np.array(header + keys, np.int64).tobytes()), found[0].path)


def _sum(numbers: list[int | None]) -> int | None:
    return None if None in numbers else sum(filter(None, numbers))


Ready = Prepared | Sliced


def prepare(bound: Plan, view: View) -> Ready | None:
    """A plan for the kernels of this module; None if they cannot run it."""
    if type(bound) is NothingPlan:
        return Prepared(_NOTHING, view)
    shape = shape_of(bound)
    if shape is None:
        return None
    groups = slices.groups(view) if view.settings.search_slices > 1 else []
    if len(groups) < 2:
        return Prepared(shape, view)
    terms = [(term.field, term.term) for term in (*shape.required, *shape.optional)]
    if shape.phrase is not None:
        terms = [(shape.phrase.field, term) for term, _ in shape.phrase.terms]
    if sum(view.document_frequency(*term) for term in terms) < slices.COST:
        return Prepared(shape, view)
    for term in terms:
        view.bound(*term, positions=shape.phrase is not None)  # here, lest each thread does it for all segments
    return Sliced([Prepared(shape, view, group) for group in groups])


def prepared(query: q.Query, view: View) -> Ready | Plan:
    """``query`` for the kernels; its plan if they cannot run it. What was asked of this view before is at hand."""
    if view.evictions != profiles.BUDGET.evictions:
        view.let_go()
    known: Ready | None = view.prepared.get(query)
    if known is not None and (known.exact is None or known.exact == _exact(query)):
        return known
    bound = plan(query, view)
    made = prepare(bound, view)
    if made is None:
        return bound
    numbers = _has_numbers(query)
    if numbers is not None:
        made.exact = _exact(query) if numbers else None
        bitmaps = 0 if made.shape.filters is None else view.bases[-1] // 8
        view.remember(query, made, bitmaps + _CLAUSE * made.shape.terms * len(view.leaves))
    return made


_VALUES: dict[type[q.Query], tuple[str, ...]] = {
    q.Match: (), q.MatchPhrase: (), q.Prefix: (), q.Exists: (), q.Term: ("value",), q.Range: ("gt", "gte", "lt", "lte"),
}
"""Queries that are remembered, and their attributes that may be numbers."""


def _has_numbers(query: q.Query) -> bool | None:
    """Whether a query holds values that may be equal and not the same; None if it is not remembered."""
    if type(query) is q.Bool:
        found = [_has_numbers(clause) for clause in query.children]
        return None if None in found else any(found)
    names = _VALUES.get(type(query))
    return None if names is None else any(type(getattr(query, name)) is not str for name in names)


def _exact(query: q.Query) -> bytes:
    """What differs between equal queries: 1, 1.0 and True."""
    try:
        return _encoded(query)
    except OverflowError:  # a number of more than 64 bits
        return repr(query).encode()


_encoded = msgspec.msgpack.Encoder().encode


class _Described(msgspec.Struct, frozen=True):
    """A call of a kernel: where the descriptors are and what scratch it takes; the most ``clauses`` of a segment
    (0: the query can match nowhere, -1: it is too wide), the most ``docs`` of one, whether ``any`` term is enough, and
    what the descriptors refer to."""

    kernel: Kernel
    at: int
    scratch: int
    clauses: int
    docs: int
    any: bool
    path: str
    segment: Segment | None
    keep: object


def _weighted(clauses: list[bytes | None], term: TermPlan) -> list[bytes | None]:
    if term.boost is ONE or term.boost == 1:
        return clauses
    weight = term.weight
    return [clause and profiles.weighted(clause, weight) for clause in clauses]


def _run(call: _Described, limit: int) -> Found | None:
    """The best hits of a call; None if it is too wide."""
    if call.clauses <= 0:
        return NOTHING_FOUND if call.clauses == 0 else None
    try:
        work = _idle.pop()
    except IndexError:
        work = _Workspace()
    if 8 * (2 * limit + _SPARE) > work.out_size:
        work.grow_out(8 * (2 * limit + _SPARE))
    if call.scratch > work.scratch_size:
        work.grow_scratch(call.scratch)
    found = call.kernel.call(call.at, work.scratch_at, work.out_at, limit)
    if found < 0:  # and the workspace, in which sums are left, goes
        assert call.segment is not None
        raise postings.corrupt(call.segment, "postings", "blocks of a term")
    data = work.out[: 64 + 8 * found]
    _idle.append(work)
    return Found(data, call.path)


def _count(call: _Described) -> int | None:
    if call.clauses <= 0:
        return 0 if call.clauses == 0 else None
    try:
        work = _idle.pop()
    except IndexError:
        work = _Workspace()
    words = (call.docs >> 6) + 1
    if work.bitmap.size < words:
        work.grow_bitmap(words)
    if call.scratch > work.scratch_size:
        work.grow_scratch(call.scratch)
    found = count.count_union.call(call.at, work.bitmap_at, work.scratch_at + 8 * union.WINDOW)
    if found < 0:
        assert call.segment is not None
        raise postings.corrupt(call.segment, "postings", "blocks of a term")
    _idle.append(work)
    return found


_SPARE = collector.CORE + collector.O_KEYS // 8
_NOWHERE = _Described(union.union, 0, 0, 0, 0, False, "", None, None)
_TOO_WIDE = _Described(union.union, 0, 0, -1, 0, False, "", None, None)
NOTHING_FOUND = Found(bytearray(collector.O_KEYS), "")

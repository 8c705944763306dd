"""Queries over terms and phrases in one kernel call for all segments: the best hits, or their number.

What a query must be for that: a term, an exact phrase, or a bool whose must and should are terms, with any filters
and must_not, which become one bitmap a segment. Every other plan goes the exhaustive way (``execute``).
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import query as q
from ..jit import Kernel
from ..segment import Segment, address, bitmap_words
from . import postings, profiles, slices
from .execute import accepted
from .kernels import collector, count, intersection, union
from .kernels.lists import K_SLOTS
from .plan import ONE, BoolPlan, NothingPlan, PhrasePlan, Plan, TermPlan, plan
from .view import View

_CLAUSE = 8 * K_SLOTS
_HEADER = struct.Struct(f"<{union.Q_SLOTS}q")
_ROWS = 64 << 20
"""Bytes of scratch beyond which bounding every range costs more than it saves."""


class _Workspace:
    """Buffers that a thread uses again for every search; each attribute that ends in ``_at`` is an address."""

    __slots__ = ("bitmap", "out", "out_at", "out_size", "path", "scratch", "scratch_at", "scratch_size")

    def __init__(self) -> None:
        self.out_size = self.scratch_size = 0
        self.bitmap = np.zeros(0, np.uint64)
        self.path = ""

    def grow_out(self, size: int) -> None:
        if size > self.out_size:
            self.out = np.empty(size // 8, np.int64)
            self.out_at, self.out_size = address(self.out), self.out.nbytes

    def grow_scratch(self, size: int) -> None:
        """Scratch whose cells hold -0.0; a kernel that fails leaves sums in them, so ``spoil`` it then."""
        if size > self.scratch_size:
            self.scratch = np.empty((size + 4095) // 4096 * 4096, np.uint8)
            self.scratch[: 8 * union.WINDOW].view(np.float64)[:] = -0.0
            self.scratch_at, self.scratch_size = address(self.scratch), self.scratch.size

    def spoil(self) -> None:
        self.scratch_size = 0
        self.bitmap = np.zeros(0, np.uint64)


class _Local(threading.local):
    def __init__(self) -> None:
        self.work = _Workspace()


_local = _Local()


class Shape(NamedTuple):
    """A plan as the kernels see it; ``filters`` is the bool whose filter and must_not narrow it."""

    required: tuple[TermPlan, ...]
    optional: tuple[TermPlan, ...]
    phrase: PhrasePlan | None = None
    filters: BoolPlan | None = None


class Work(NamedTuple):
    """What one search did: ``path`` it took, blocks decoded, postings scored, ranges of 256 documents searched."""

    path: str
    blocks: int
    postings: int
    ranges: int


def shape_of(plan: Plan) -> Shape | None:
    """How the kernels of this module would run ``plan``; None if they cannot."""
    if type(plan) is TermPlan:
        return Shape((), (plan,)) if plan.boost > 0 else None
    if type(plan) is PhrasePlan:
        return Shape((), (), plan) if plan.slop == 0 and plan.boost > 0 else None
    if type(plan) is not BoolPlan:
        return None
    must, should = plan.must, plan.should
    filters = plan if plan.filter or plan.must_not else None
    if len(must) == 1 and not should and type(must[0]) is PhrasePlan:
        return (must[0].slop == 0 and must[0].boost > 0 and Shape((), (), must[0], filters)) or None
    optional = tuple([clause for clause in should if type(clause) is not NothingPlan])
    if any(type(clause) is NothingPlan for clause in must) or len(optional) < plan.minimum:
        return _NOTHING
    for clause in (*must, *optional):
        if type(clause) is not TermPlan or not clause.boost > 0:
            return None
    if must:
        return Shape(must, optional, None, filters) if plan.minimum == 0 else None  # type: ignore[arg-type]
    return Shape((), optional, None, filters) if plan.minimum == 1 else None  # type: ignore[arg-type]


_NOTHING = Shape((), ())


class Prepared:
    """A query that the kernels can run on a view. What does not change between searches is made once."""

    __slots__ = ("_accepted", "_calls", "_leaves", "_view", "shape")

    def __init__(self, shape: Shape, view: View, leaves: Sequence[int] | None = None) -> None:
        self.shape = shape
        self._view = view
        self._leaves = range(len(view.leaves)) if leaves is None else leaves
        self._calls: dict[int, _Described] = {}
        self._accepted: dict[int, NDArray[np.uint64] | None] = {}

    def best(self, limit: int) -> NDArray[np.int64] | None:
        """Keys of the ``limit`` best live documents, best first: score bits << 32 | 2^32 - 1 - number in the view.

        None where the view is too large for the kernels, or the query too wide.
        """
        return self._best(limit, intersection.TOP)

    def best_and_number(self, limit: int) -> tuple[NDArray[np.int64] | None, int | None]:
        """Both of :meth:`best` and :meth:`number`, in one pass where two would read the same."""
        if self.shape.phrase is None:
            return self.best(limit), self.number()
        keys = self._best(limit, intersection.BOTH)
        if keys is None or self._calls[intersection.BOTH].clauses == 0:
            return keys, None if keys is None else 0
        return keys, _local.work.out.item(collector.O_FOUND)

    def _best(self, limit: int, mode: int) -> NDArray[np.int64] | None:
        call = self._calls.get(mode)
        if call is None:
            call = self._calls[mode] = self._describe(mode)
        if call.clauses <= 0:
            return _NO_KEYS if call.clauses == 0 else None
        limit = min(limit, self._view.bases[-1])
        work = _local.work
        work.grow_out(collector.collector_bytes(limit))
        found = _run(union.union if call.any else intersection.intersection, call, work, limit)
        return work.out[8 : 8 + found].copy()

    def number(self) -> int | None:
        """How many live documents match; None as of :meth:`best`."""
        required, optional, phrase, filters = self.shape
        if (filters is None and phrase is None and len(required) + len(optional) == 1 and not self._view.has_deletions
                and len(self._leaves) == len(self._view.leaves)):
            term = (required or optional)[0]
            return self._view.document_frequency(term.field, term.term)
        call = self._calls.get(intersection.COUNT)
        if call is None:
            call = self._calls[intersection.COUNT] = self._describe(intersection.COUNT)
        if call.clauses <= 0:
            return 0 if call.clauses == 0 else None
        work = _local.work
        if call.any:
            return _count(call, work)
        work.grow_out(collector.collector_bytes(0))
        _run(intersection.intersection, call, work, 0)
        return work.out.item(collector.O_FOUND)

    def at_least(self) -> int:
        """A number of live documents that surely match, known without a search."""
        shape, view = self.shape, self._view
        if shape.filters or shape.required or shape.phrase is not None:
            return 0
        dead = view.bases[-1] - view.live_docs if view.has_deletions else 0
        return max([0] + [view.document_frequency(term.field, term.term) for term in shape.optional]) - dead

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
            terms = required if mode == intersection.COUNT and not any_ else required + optional
            bound = [view.bound(term.field, term.term) for term in terms]
            clauses = [_weighted(known.clauses, term) for known, term in zip(bound, terms, strict=True)]
        floors = int(filters is None and mode == intersection.TOP)
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
        header[8 * union.Q_NEXT : 8 * union.Q_NEXT + 8] = bytes(8)
        text[last] = bytes(header)
        descriptors = np.frombuffer(b"".join(text), np.uint8)
        keep.append(descriptors)
        path = "phrase" if phrase is not None else "union" if any_ else "intersection"
        return _Described(most, docs, any_, path, address(descriptors), view.leaves[0].segment, keep)


class Sliced:
    """A `Prepared` query for each of some groups of segments, run by as many threads."""

    __slots__ = ("_parts",)

    def __init__(self, parts: list[Prepared]) -> None:
        self._parts = parts

    def best(self, limit: int) -> NDArray[np.int64] | None:
        return self.best_and_number(limit, number=False)[0]

    def best_and_number(self, limit: int, *, number: bool = True) -> tuple[NDArray[np.int64] | None, int | None]:
        def search(part: Prepared) -> tuple[NDArray[np.int64] | None, int | None, Work]:
            keys, found = part.best_and_number(limit) if number else (part.best(limit), 0)
            return keys, found, last_work()

        keys: list[NDArray[np.int64]] = []
        total = 0
        done = Work("", 0, 0, 0)
        for best, found, work in slices.each(search, self._parts):
            if best is None or found is None:
                return None, None
            keys.append(best)
            total += found
            done = Work(work.path, *(one + other for one, other in zip(done[1:], work[1:], strict=True)))
        local = _local.work
        local.grow_out(collector.collector_bytes(limit))
        local.path, local.out[collector.O_BLOCKS : collector.O_RANGES + 1] = done.path, done[1:]
        return -np.sort(-np.concatenate(keys))[:limit], total

    def number(self) -> int | None:
        numbers = slices.each(Prepared.number, self._parts)
        return None if None in numbers else sum(filter(None, numbers))

    def at_least(self) -> int:
        return self._parts[0].at_least()


def prepare(bound: Plan, view: View) -> Prepared | Sliced | None:
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


def prepared(query: q.Query, view: View) -> Prepared | Sliced | None:
    """``query`` for the kernels. A simple query that was asked of this view before is not planned again.

    Equal queries may differ in what they find (1 and True are equal), so only strings are remembered.
    """
    key: tuple[Any, ...]
    if isinstance(query, q.Match) and type(query.text) is str:
        key = q.Match, query.field, query.text, query.operator, query.minimum_should_match, query.boost
    elif isinstance(query, q.Term) and type(query.value) is str:
        key = q.Term, query.field, query.value, query.boost
    elif isinstance(query, q.MatchPhrase) and type(query.text) is str:
        key = q.MatchPhrase, query.field, query.text, query.slop, query.boost
    else:
        return prepare(plan(query, view), view)
    view.let_go()
    known: Prepared | Sliced | None = view.prepared.get(key)
    if known is None:
        known = prepare(plan(query, view), view)
        if known is not None:
            view.prepared[key] = known
    return known


def last_work() -> Work:
    """What this thread's last search by these kernels did."""
    work = _local.work
    return Work(work.path, *(int(n) for n in work.out[collector.O_BLOCKS : collector.O_RANGES + 1]))


class _Described(NamedTuple):
    """Descriptors of a query: the most ``clauses`` of a segment (0: it can match nowhere, -1: too wide), the most
    ``docs`` of one, whether ``any`` term is enough, where the descriptors are, and what they refer to."""

    clauses: int
    docs: int
    any: bool
    path: str
    at: int
    segment: Segment | None
    keep: object


def _weighted(clauses: list[bytes | None], term: TermPlan) -> list[bytes | None]:
    if term.boost is ONE or term.boost == 1:
        return clauses
    weight = term.weight
    return [clause and profiles.weighted(clause, weight) for clause in clauses]


def _run(kernel: Kernel, call: _Described, work: _Workspace, limit: int) -> int:
    """The number of keys that a kernel found."""
    work.grow_scratch(intersection.scratch_bytes(call.clauses, call.docs))
    work.path = call.path
    found = kernel(call.at, work.scratch_at, work.out_at, limit)
    if found < 0:
        work.spoil()
        assert call.segment is not None
        raise postings.corrupt(call.segment, "postings", "blocks of a term")
    return found


def _count(call: _Described, work: _Workspace) -> int:
    words = bitmap_words(call.docs)
    if work.bitmap.size < words:
        work.bitmap = np.zeros(words, np.uint64)
    work.grow_scratch(count.scratch_bytes(call.clauses) + 4096 + 8 * union.WINDOW)
    found = count.count_union(call.at, address(work.bitmap), work.scratch_at + 8 * union.WINDOW)
    if found < 0:
        work.spoil()
        assert call.segment is not None
        raise postings.corrupt(call.segment, "postings", "blocks of a term")
    return int(found)


_NOWHERE = _Described(0, 0, False, "", 0, None, None)
_TOO_WIDE = _Described(-1, 0, False, "", 0, None, None)
_NO_KEYS = np.zeros(0, np.int64)

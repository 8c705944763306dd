"""Queries over terms and phrases in one kernel call for all segments: the best hits, or their number.

What a query must be for that: a term, an exact phrase, or a bool whose must and should are terms, with any filters
and must_not, which become one bitmap a segment. Every other plan goes the exhaustive way (``execute``).
"""

from __future__ import annotations

import ctypes
import struct
import threading
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..jit import Kernel
from ..segment import Segment, address, bitmap_words
from . import postings, profiles
from .execute import accepted
from .kernels import collector, count, intersection, union
from .kernels.lists import K_SLOTS
from .plan import ONE, BoolPlan, NothingPlan, PhrasePlan, Plan, TermPlan
from .view import Leaf, View

_CLAUSE = 8 * K_SLOTS
_HEADER = struct.Struct(f"<{union.Q_SLOTS}q")
_COLLECTOR = struct.Struct("<8q")
_ROWS = 64 << 20
"""Bytes of scratch beyond which bounding every range costs more than it saves."""

class _Workspace:
    """Buffers that a thread uses again for every search; each attribute that ends in ``_at`` is an address."""

    __slots__ = ("bitmap", "out", "out_at", "out_size", "path", "query", "query_at", "query_size", "scratch",
                 "scratch_at", "scratch_size")

    def __init__(self) -> None:
        self.query_size = self.out_size = self.scratch_size = 0
        self.bitmap = np.zeros(0, np.uint64)
        self.path = ""

    def describe(self, text: bytes) -> None:
        """Put descriptors where the kernels read them."""
        ctypes.memmove(self.query_at, text, len(text))

    def grow_query(self, size: int) -> None:
        if size > self.query_size:
            self.query = np.empty(max(size, 8192), np.uint8)
            self.query_at, self.query_size = address(self.query), self.query.size

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
    optional = tuple(clause for clause in should if type(clause) is not NothingPlan)
    for clause in (*must, *optional):
        if type(clause) is not TermPlan or not clause.boost > 0:
            return None
    if must:
        return Shape(must, optional, None, filters) if plan.minimum == 0 else None  # type: ignore[arg-type]
    return Shape((), optional, None, filters) if plan.minimum == 1 and optional else None  # type: ignore[arg-type]


def best(shape: Shape, view: View, limit: int) -> NDArray[np.int64] | None:
    """Keys of the ``limit`` best live documents, best first: score bits << 32 | 2^32 - 1 - number in the view.

    None where the view is too large for these kernels, or the query too wide.
    """
    limit = min(limit, view.bases[-1])
    work = _local.work
    call = _describe(shape, view, intersection.TOP, work)
    if call is None:
        return None
    if not call.clauses:
        return _NO_KEYS
    capacity = 2 * limit + collector.CORE
    work.grow_out(collector.O_KEYS + 8 * capacity)
    _COLLECTOR.pack_into(work.out, 0, 0, 0, -1, limit, capacity, 0, 0, 0)  # type: ignore[arg-type]
    _run(union.union if call.any else intersection.intersection, call, work)
    return work.out[8 : 8 + int(work.out[0])].copy()


def number(shape: Shape, view: View) -> int | None:
    """How many live documents match; None as of :func:`best`."""
    required, optional, phrase, filters = shape
    if filters is None and phrase is None and len(required) + len(optional) == 1 and not view.has_deletions:
        term = (required or optional)[0]
        return view.document_frequency(term.field, term.term)
    work = _local.work
    call = _describe(shape, view, intersection.COUNT, work)
    if call is None:
        return None
    if not call.clauses:
        return 0
    if call.any:
        return _count(call, work)
    work.grow_out(collector.collector_bytes(0))
    _COLLECTOR.pack_into(work.out, 0, 0, 0, -1, 0, 0, 0, 0, 0)  # type: ignore[arg-type]
    _run(intersection.intersection, call, work)
    return int(work.out[collector.O_FOUND])


def at_least(shape: Shape, view: View) -> int:
    """A number of live documents that surely match, known without a search."""
    if shape.filters or shape.required or shape.phrase is not None:
        return 0
    dead = view.bases[-1] - view.live_docs if view.has_deletions else 0
    return max([view.document_frequency(term.field, term.term) for term in shape.optional]) - dead


def last_work() -> Work:
    """What this thread's last :func:`best` did."""
    work = _local.work
    return Work(work.path, *(int(n) for n in work.out[collector.O_BLOCKS : collector.O_RANGES + 1]))


class _Described(NamedTuple):
    """What the descriptors of a query describe: the most ``clauses`` of a segment (0: it can match nowhere), the most
    ``docs`` of one, whether ``any`` term is enough, and what must live until the kernel returns."""

    clauses: int
    docs: int
    any: bool
    segment: Segment | None
    keep: list[object]


def _describe(shape: Shape, view: View, mode: int, work: _Workspace) -> _Described | None:
    """Write the descriptors of all segments in which the query can match, one behind the other."""
    if view.bases[-1] >= 2**32:
        return None
    required, optional, phrase, filters = shape
    any_ = phrase is None and not required
    if phrase is not None:
        clauses = _phrase_clauses(phrase, view)
        needed = len(clauses)
    else:
        needed = len(required)
        terms = required if mode == intersection.COUNT and not any_ else required + optional
        clauses = [_clauses(term, view) for term in terms]
    floors = int(filters is None and mode == intersection.TOP)
    if filters is None and len(view.leaves) == 1:
        return _describe_one(clauses, needed, phrase is not None, view, mode, floors, work)
    keep: list[object] = []
    parts: list[tuple[int, list[bytes], Leaf, int]] = []
    most = docs = 0
    for at, leaf in enumerate(view.leaves):
        mine = [found for each in clauses if (found := each[at]) is not None]
        if not mine or (len(mine) < len(clauses) and None in [each[at] for each in clauses[:needed]]):
            continue
        accept = leaf.live
        if filters is not None:
            accept = accepted(filters, leaf.segment, leaf.live)
            keep.append(accept)
        parts.append((view.bases[at], mine, leaf, 0 if accept is None else address(accept)))
        most, docs = max(most, len(mine)), max(docs, leaf.segment.docs)
    if not parts:
        return _NOWHERE
    if most * (docs >> 8) > _ROWS:
        return None
    work.grow_query(len(parts) * (_HEADER.size + _CLAUSE * most))
    behind = work.query_at
    text: list[bytes] = []
    last = len(parts) - 1
    for i, (base, mine, leaf, accept_at) in enumerate(parts):
        behind += _HEADER.size + _CLAUSE * len(mine)
        text.append(_HEADER.pack(needed, len(mine) - needed, 0, accept_at, leaf.segment.docs, mode, 0, base,
                                 behind if i < last else 0, int(phrase is not None), floors, 0, 0, 0, 0, 0))
        text += mine
    work.describe(b"".join(text))
    return _Described(most, docs, any_, parts[0][2].segment, keep)


def _describe_one(
    clauses: list[list[bytes | None]], needed: int, phrase: bool, view: View, mode: int, floors: int, work: _Workspace,
) -> _Described | None:
    """The same for an index of one segment without filters, where the Python around the kernel is most of the time."""
    leaf = view.leaves[0]
    docs = leaf.segment.docs
    mine = [found for (found,) in clauses if found is not None]
    count = len(mine)
    if count < len(clauses) and (not mine or (None,) in [tuple(each) for each in clauses[:needed]]):
        return _NOWHERE
    if count * (docs >> 8) > _ROWS:
        return None
    key = (needed, count, mode, phrase, floors)
    header = view.headers.get(key)
    if header is None:
        accept = 0 if leaf.live is None else address(leaf.live)
        header = view.headers[key] = _HEADER.pack(
            needed, count - needed, 0, accept, docs, mode, 0, 0, 0, phrase, floors, 0, 0, 0, 0, 0)
    text = header + b"".join(mine)
    if len(text) > work.query_size:
        work.grow_query(len(text))
    work.describe(text)
    return _Described(count, docs, not phrase and not needed, leaf.segment, _NOTHING)


def _clauses(term: TermPlan, view: View) -> list[bytes | None]:
    """The term's clause in every segment."""
    clauses = view.clauses(term.field, term.term)
    if term.boost is ONE or term.boost == 1:
        return clauses
    weight = term.weight
    return [clause and profiles.weighted(clause, weight) for clause in clauses]


def _phrase_clauses(phrase: PhrasePlan, view: View) -> list[list[bytes | None]]:
    weight = phrase.weight
    return [[clause and profiles.weighted(clause, weight, offset)
             for clause in view.clauses(phrase.field, term, positions=True)]
            for term, offset in phrase.terms]


def _run(kernel: Kernel, call: _Described, work: _Workspace) -> None:
    work.grow_scratch(intersection.scratch_bytes(call.clauses, call.docs))
    work.path = kernel.name
    if kernel(work.query_at, work.scratch_at, work.out_at) < 0:
        work.spoil()
        assert call.segment is not None
        raise postings.corrupt(call.segment, "postings", "blocks of a term")


def _count(call: _Described, work: _Workspace) -> int:
    words = bitmap_words(call.docs)
    if work.bitmap.size < words:
        work.bitmap = np.zeros(words, np.uint64)
    work.grow_scratch(count.scratch_bytes(call.clauses) + 4096 + 8 * union.WINDOW)
    found = count.count_union(work.query_at, address(work.bitmap), work.scratch_at + 8 * union.WINDOW)
    if found < 0:
        work.spoil()
        assert call.segment is not None
        raise postings.corrupt(call.segment, "postings", "blocks of a term")
    return int(found)


_NOWHERE = _Described(0, 0, False, None, [])
_NOTHING: list[object] = []
_NO_KEYS = np.zeros(0, np.int64)

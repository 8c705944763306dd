"""Running a plan over one segment: as a bitmap (which documents), or with scores.

Filters become bitmaps; what scores becomes clauses of the boolean kernel, either a term's postings or a list of
documents and scores that another plan produced. Live masks are applied once, at the top.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..segment import Segment, TermInfo, address, bit_count, bitmap_of, bitmap_words, docs_of, full_bitmap
from . import bm25, columns, filters, ids, postings
from .kernels import boolean as kernel
from .kernels import descriptor
from .kernels import phrase as phrase_kernel
from .plan import (
    AllPlan,
    BoolPlan,
    CodesPlan,
    ConstantPlan,
    ExistsPlan,
    IdsPlan,
    NothingPlan,
    PhrasePlan,
    Plan,
    PrefixPlan,
    ScorePlan,
    TermPlan,
    TermRangePlan,
    TermsPlan,
)
from .view import View

Bitmap = NDArray[np.uint64]

_local = threading.local()


class Scored(NamedTuple):
    """Matching documents, ascending uint32, and the float32 score of each."""

    docs: NDArray[np.uint32]
    scores: NDArray[np.float32]


class Top(NamedTuple):
    """The best documents, best first, their scores, and how many matched."""

    docs: NDArray[np.uint32]
    scores: NDArray[np.float32]
    found: int


NONE = Scored(np.zeros(0, np.uint32), np.zeros(0, np.float32))


# --- which documents ---------------------------------------------------------------------------------------


def bitmap(plan: Plan, segment: Segment) -> Bitmap:
    """Bitmap of the documents that match, deleted ones among them."""
    match plan:
        case NothingPlan():
            return np.zeros(bitmap_words(segment.docs), np.uint64)
        case AllPlan():
            return full_bitmap(segment.docs)
        case TermPlan():
            return _terms(segment, plan.field, (plan.term,))
        case TermsPlan():
            return _terms(segment, plan.field, plan.terms)
        case TermRangePlan():
            return _term_range(segment, plan)
        case PrefixPlan():
            return _ordinals(segment, plan.field, *postings.prefix_range(segment, plan.field, plan.prefix))
        case CodesPlan():
            return _union([columns.in_range(segment, plan.field, low, high) for low, high in plan.ranges], segment)
        case ExistsPlan():
            return _union([columns.exists(segment, field) for field in plan.fields], segment)
        case IdsPlan():
            found = [doc for id, hash in plan.ids for doc in ids.find(segment, id, hash)]
            return bitmap_of(np.array(found, np.int64), segment.docs)
        case ConstantPlan():
            return bitmap(plan.plan, segment)
        case ScorePlan():
            if plan.min_score is None:
                return bitmap(plan.plan, segment)
            return bitmap_of(_rescored(plan, segment, None).docs, segment.docs)
        case PhrasePlan():
            return bitmap_of(_phrase(plan, segment)[0], segment.docs)
        case BoolPlan():
            return _bool_bitmap(plan, segment)
    raise AssertionError(plan)


def _union(parts: list[Bitmap], segment: Segment) -> Bitmap:
    result = np.zeros(bitmap_words(segment.docs), np.uint64)
    for part in parts:
        result |= part
    return result


def _terms(segment: Segment, field: str, terms: tuple[bytes, ...]) -> Bitmap:
    infos = [info for term in terms if (info := postings.find(segment, field, term)) is not None]
    return postings.fill(segment, field, infos)


def _term_range(segment: Segment, plan: TermRangePlan) -> Bitmap:
    info = segment.fields.get(plan.field)
    start = 0 if plan.low is None else postings.rank(segment, plan.field, plan.low)
    stop = info.terms if info and plan.high is None else postings.rank(segment, plan.field, plan.high or b"")
    return _ordinals(segment, plan.field, start, stop)


def _ordinals(segment: Segment, field: str, start: int, stop: int) -> Bitmap:
    if field not in segment.fields or start >= stop:
        return np.zeros(bitmap_words(segment.docs), np.uint64)
    return postings.fill(segment, field, postings.read_terms(segment, field, start, stop)[2])


def accepted(plan: BoolPlan, segment: Segment, live: Bitmap | None) -> Bitmap | None:
    """The documents that filters, must_not and ``live`` leave; None if there are none of these."""
    accepted = live
    for clause in plan.filter:
        part = _filter(clause, segment)
        accepted = part if accepted is None else accepted & part
    for clause in plan.must_not:
        if accepted is None:
            accepted = full_bitmap(segment.docs)
        accepted = accepted & ~_filter(clause, segment)
    return accepted


def granules_of(plan: Plan, view: View) -> tuple[int, int] | None:
    """Of the granules in which ranges of numbers are looked for, those that must be read, and all; None without any."""
    asked = [(each.field, *bounds) for each in _parts(plan) if isinstance(each, CodesPlan) for bounds in each.ranges]
    found = [columns.granules_read(leaf.segment, *each) for each in asked for leaf in view.leaves]
    return (sum(read for read, _ in found), sum(whole for _, whole in found)) if asked else None


def _parts(plan: Plan) -> Iterator[Plan]:
    """A plan and all that it holds."""
    yield plan
    if isinstance(plan, BoolPlan):
        for clause in (*plan.must, *plan.should, *plan.must_not, *plan.filter):
            yield from _parts(clause)
    elif isinstance(plan, ConstantPlan | ScorePlan):
        yield from _parts(plan.plan)
        for function in plan.functions if isinstance(plan, ScorePlan) else ():
            if function.filter is not None:
                yield from _parts(function.filter)


def _filter(plan: Plan, segment: Segment) -> Bitmap:
    """The bitmap of a filter, perhaps an earlier query's; read-only."""
    found = filters.known(plan, segment)
    if found is None:
        found = bitmap(plan, segment)
        filters.used(plan, segment, found)
    return found


def _bool_bitmap(plan: BoolPlan, segment: Segment) -> Bitmap:
    if plan.minimum > 1:
        return bitmap_of(_boolean(plan, segment, None).docs, segment.docs)
    accept = accepted(plan, segment, None)
    if accept is None:
        accept = full_bitmap(segment.docs)
    for clause in plan.must:
        accept = accept & bitmap(clause, segment)
    if plan.minimum == 1:
        accept = accept & _union([bitmap(clause, segment) for clause in plan.should], segment)
    return accept


# --- with scores -------------------------------------------------------------------------------------------


def scored(plan: Plan, segment: Segment, live: Bitmap | None = None) -> Scored:
    """All matching documents with their scores; only those in ``live`` if it is given."""
    if isinstance(plan, NothingPlan):
        return NONE
    if isinstance(plan, BoolPlan):
        return _boolean(plan, segment, live)
    if isinstance(plan, TermPlan):
        return _boolean(BoolPlan(must=(plan,)), segment, live)
    if isinstance(plan, PhrasePlan):
        docs, freqs = _phrase(plan, segment)
        return _only(Scored(docs, _bm25(plan, segment, docs, freqs)), live)
    if isinstance(plan, ScorePlan):
        return _rescored(plan, segment, live)
    matching = bitmap(plan, segment)
    docs = docs_of(matching if live is None else matching & live, segment.docs)
    score: np.float32 = plan.score  # type: ignore[attr-defined]
    return Scored(docs, np.full(docs.size, score, np.float32))


def top(plan: Plan, segment: Segment, live: Bitmap | None, size: int) -> Top:
    """The best ``size`` live documents by (score descending, document ascending), and how many match."""
    if isinstance(plan, TermPlan | BoolPlan):
        query = _Boolean(plan if isinstance(plan, BoolPlan) else BoolPlan(must=(plan,)), segment, live)
        if query.possible:
            keys, found = query.top(size)
            return Top((0xFFFFFFFF - (keys & 0xFFFFFFFF)).astype(np.uint32),
                       (keys >> 32).astype(np.int32).view(np.float32), found)
        docs, scores = NONE
    else:
        docs, scores = scored(plan, segment, live)
    found = docs.size
    if found > 4 * size:
        kept = np.flatnonzero(scores >= np.partition(scores, found - size)[found - size])
        docs, scores = docs[kept], scores[kept]
    order = np.argsort(-scores, kind="stable")[:size]
    return Top(docs[order], scores[order], found)


def count(plan: Plan, segment: Segment, live: Bitmap | None) -> int:
    """How many live documents match."""
    if isinstance(plan, TermPlan) and live is None:
        info = postings.find(segment, plan.field, plan.term)
        return info.df if info else 0
    if isinstance(plan, AllPlan) and live is None:
        return segment.docs
    if isinstance(plan, BoolPlan) and len(plan.must) > 1:
        query = _Boolean(plan, segment, live)  # it leads with what is required, and leaps
        return query.count() if query.possible else 0
    if isinstance(plan, ScorePlan):
        return count(plan.plan, segment, live) if plan.min_score is None else scored(plan, segment, live).docs.size
    matching = bitmap(plan, segment)
    return bit_count(matching if live is None else matching & live)


def leads(plan: Plan) -> bool:
    """Whether the boolean kernel finds the documents of a plan one after another."""
    return isinstance(plan, TermPlan) or (isinstance(plan, BoolPlan) and bool(plan.must or plan.minimum))


def first(plan: Plan, segment: Segment, live: Bitmap | None, size: int) -> NDArray[np.uint32]:
    """The first ``size`` live documents that match, ascending."""
    if isinstance(plan, AllPlan) and live is None:
        return np.arange(min(size, segment.docs), dtype=np.uint32)
    if leads(plan):
        query = _Boolean(plan if isinstance(plan, BoolPlan) else BoolPlan(must=(plan,)), segment, live)
        return query.first(size) if query.possible else NONE.docs
    matching = bitmap(plan, segment)
    return columns.first_bits(matching if live is None else matching & live, size).astype(np.uint32)


def _only(found: Scored, live: Bitmap | None) -> Scored:
    if live is None:
        return found
    kept = ((live[found.docs >> np.uint32(6)] >> (found.docs & np.uint32(63)).astype(np.uint64)) & np.uint64(1)) != 0
    return Scored(found.docs[kept], found.scores[kept])


def _bm25(
    plan: PhrasePlan, segment: Segment, docs: NDArray[np.uint32], freqs: NDArray[np.float32],
) -> NDArray[np.float32]:
    info = segment.fields.get(plan.field)
    if info is None or not info.norms:
        result: NDArray[np.float32] = bm25.score(plan.weight, freqs, plan.factors[1])
        return result
    norms = segment.array(f"norms/{plan.field}", np.uint8, segment.docs)[docs]
    result = bm25.score(plan.weight, freqs, plan.factors[norms])
    return result


def _rescored(plan: ScorePlan, segment: Segment, live: Bitmap | None) -> Scored:
    from . import functions  # few searches need them

    docs, scores = scored(plan.plan, segment, live)
    members = [None if each.filter is None else columns.has(_filter(each.filter, segment), docs)
               for each in plan.functions]
    scores = functions.combined(plan, segment, docs, scores, members)
    if plan.min_score is None:
        return Scored(docs, scores)
    kept = scores >= np.float32(plan.min_score)
    return Scored(docs[kept], scores[kept])


def _boolean(plan: BoolPlan, segment: Segment, live: Bitmap | None) -> Scored:
    query = _Boolean(plan, segment, live)
    return query.all() if query.possible else NONE


class _Boolean:
    """One call of the boolean kernel: its descriptor, and everything that the addresses in it refer to."""

    def __init__(self, plan: BoolPlan, segment: Segment, live: Bitmap | None) -> None:
        self.segment = segment
        self.possible = False
        accept = accepted(plan, segment, live)
        self._accept = accept
        self._keep: list[object] = [accept]
        must = [self._clause(clause) for clause in plan.must]
        should = [self._clause(clause) for clause in plan.should]
        if any(clause is None for clause in must):
            return
        optional = [clause for clause in should if clause is not None]
        if len(optional) < plan.minimum:
            return
        if not must and plan.minimum == 0:
            # Nothing is required but the filters: all that they leave match, with nothing to add to the score.
            everything = full_bitmap(segment.docs) if accept is None else accept
            must = [self._list(Scored(docs_of(everything, segment.docs), np.zeros(0, np.float32)), np.float32(0))]
        required = [clause for clause in must if clause is not None]
        clauses = required + optional
        self._sizes = [size for size, _ in required] or [sum(size for size, _ in optional)]
        query = np.zeros(descriptor.Q_SLOTS + descriptor.K_SLOTS * len(clauses), np.int64)
        query[: descriptor.Q_DOCS + 1] = (
            len(required), len(optional), plan.minimum, 0 if accept is None else address(accept), segment.docs)
        for i, (_, slots) in enumerate(clauses):
            at = descriptor.Q_SLOTS + descriptor.K_SLOTS * i
            query[at : at + len(slots)] = slots
        self._query = query
        self._count = len(clauses)
        self.possible = min(self._sizes) > 0

    def _clause(self, plan: Plan) -> tuple[int, list[int]] | None:
        """How many documents a clause has at most, and its slots; None if it has none here."""
        if isinstance(plan, TermPlan):
            info = postings.find(self.segment, plan.field, plan.term)
            if info is None:
                return None
            postings.need(self.segment, plan.field, info)
            field = self.segment.descriptor(plan.field)
            self._keep += [field, plan.factors]
            return info.df, [descriptor.POSTINGS, field.address, _bits(plan.weight), address(plan.factors), 0, 0, 0,
                             *info]
        found = scored(plan, self.segment, self._accept if isinstance(plan, ScorePlan) else None)
        return self._list(found, np.float32(0)) if found.docs.size else None

    def _list(self, found: Scored, score: np.float32) -> tuple[int, list[int]]:
        self._keep.append(found)
        return found.docs.size, [descriptor.LIST, 0, _bits(score), 0, address(found.docs),
                                 address(found.scores) if found.scores.size else 0, found.docs.size]

    def _run(self, mode: int, limit: int) -> NDArray[np.int64]:
        self._query[descriptor.Q_MODE], self._query[descriptor.Q_LIMIT] = mode, limit
        out = np.empty(2 + limit, np.int64)
        scratch = _scratch(kernel.scratch_bytes(self._count))
        if kernel.boolean(address(self._query), address(scratch), address(out)) < 0:
            _local.boolean = None  # the kernel stopped half way and left sums behind
            raise postings.corrupt(self.segment, "postings", "blocks of a term")
        return out

    def top(self, size: int) -> tuple[NDArray[np.int64], int]:
        """The best keys, and how many documents match."""
        size = min(size, self.segment.docs)
        out = self._run(descriptor.TOP, size)
        return out[2 : 2 + int(out[0])], int(out[1])

    def count(self) -> int:
        return int(self._run(descriptor.COUNT, 0)[1])

    def first(self, size: int) -> NDArray[np.uint32]:
        return self._pairs(descriptor.FIRST, size).docs

    def all(self) -> Scored:
        return self._pairs(descriptor.ALL, self.segment.docs)

    def _pairs(self, mode: int, limit: int) -> Scored:
        out = self._run(mode, min([limit, self.segment.docs, *self._sizes]))
        pairs = out[2 : 2 + int(out[0])].view(np.uint32)
        return Scored(np.ascontiguousarray(pairs[::2]), np.ascontiguousarray(pairs[1::2]).view(np.float32))


def _bits(value: np.float32) -> int:
    return int(np.float32(value).view(np.uint32))


def _scratch(size: int) -> NDArray[np.uint8]:
    """This thread's scratch for the boolean kernel, which leaves the window part zeroed."""
    buffer: NDArray[np.uint8] | None = getattr(_local, "boolean", None)
    if buffer is None or buffer.size < size:
        buffer = _local.boolean = np.zeros(size, np.uint8)
    return buffer


def _phrase(plan: PhrasePlan, segment: Segment) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Documents and phrase frequencies."""
    infos = [postings.find(segment, plan.field, term) for term, _ in plan.terms]
    found = [info for info in infos if info is not None]
    if len(found) < len(infos) or not segment.fields[plan.field].positions:
        return NONE.docs, np.zeros(0, np.float32)
    rows: list[int] = []
    groups: dict[bytes, int] = {}
    words = [term for term, _ in plan.terms]
    for (term, offset), info in zip(plan.terms, found, strict=True):
        postings.need(segment, plan.field, info, positions=True)
        group = groups.setdefault(term, len(groups)) if words.count(term) > 1 else -1
        rows += [offset, group, *info]
    limit = min(info.df for info in found)  # no more than there are documents: find() sees to it
    own = segment.descriptor(plan.field)
    query = np.array([len(found), plan.slop, own.address, limit, *rows], np.int64)
    scratch = np.zeros(phrase_kernel.scratch_bytes(len(found)), np.uint8)
    docs, freqs = np.empty(limit, np.uint32), np.empty(limit, np.float32)
    written = np.zeros(1, np.int64)
    if phrase_kernel.phrase(address(query), address(scratch), address(docs), address(freqs), address(written)) < 0:
        raise postings.corrupt(segment, plan.field, "positions")
    return docs[: written[0]], freqs[: written[0]]


def term_frequency(segment: Segment, field: str, term: bytes, doc: int) -> int:
    """How often ``term`` stands in a document; 0 if it does not. For explanations."""
    info: TermInfo | None = postings.find(segment, field, term)
    if info is None:
        return 0
    docs, freqs = postings.read(segment, field, info)
    at = int(np.searchsorted(docs, doc))
    return int(freqs[at]) if at < docs.size and docs[at] == doc else 0


def phrase_frequency(plan: PhrasePlan, segment: Segment, doc: int) -> np.float32:
    """Frequency of a phrase in a document; 0 if it does not stand there."""
    docs, freqs = _phrase(plan, segment)
    at = int(np.searchsorted(docs, doc))
    return freqs[at] if at < docs.size and docs[at] == doc else np.float32(0)

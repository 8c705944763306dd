"""From the hits of each segment to one page of hits: by score, or by the keys of a sort.

Each segment offers its own best ``from + size``; the pages are merged here, a few rows of Python each. Ties are
broken by (position of the segment, document), so that a page is the same every time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..dsl import SearchRequest, SortKey
from ..errors import QueryError
from ..mapping import BadValue, FieldType, Mapping
from ..segment import Segment, bit_count, docs_of, full_bitmap
from . import columns, postings
from .best import NOTHING_FOUND, Found, Ready, prepare
from .execute import bitmap, count, first, leads, scored, top
from .page import BestPage, Page, Row
from .plan import AllPlan, NothingPlan, Plan, ScorePlan
from .view import Leaf, View

SCORE, DOC = "_score", "_doc"


def collect(plan: Plan, view: View, request: SearchRequest) -> Page:
    """The page of ``request``: rows from_ .. from_ + size - 1 in order."""
    if by_score(request):
        return _by_score(plan, view, request, show_sort=bool(request.sort))
    return _by_keys(plan, view, request, [_key(key, view.mapping, at) for at, key in enumerate(request.sort)])


def count_all(plan: Plan, view: View) -> int:
    """Live documents that match."""
    if isinstance(plan, NothingPlan):
        return 0
    return sum(count(plan, leaf.segment, leaf.live) for leaf in view.leaves)


def collect_best(query: Ready, view: View, request: SearchRequest) -> BestPage | None:
    """The page of a request that sorts by score, from the pruned kernels; None if they cannot tell."""
    track = request.track_total_hits
    size = request.from_ + request.size if request.size else 0
    best: Found | None = NOTHING_FOUND
    number: int | None = 0
    if track is False or (track is not True and (number := query.at_least()) > track):
        best = query.best(size) if size else best
    elif size:
        best, number = query.best_and_number(size)
    else:
        number = query.number()
    return None if best is None or number is None else BestPage(best, number, view, request)


def by_score(request: SearchRequest) -> bool:
    """Whether the request sorts by score, the greatest first."""
    keys = request.sort
    return not keys or (len(keys) == 1 and keys[0].field == SCORE and keys[0].descending)


def _by_score(plan: Plan, view: View, request: SearchRequest, *, show_sort: bool) -> Page:
    size = request.from_ + request.size
    if isinstance(plan, NothingPlan):
        return Page([], 0, None, view, request)
    if request.size == 0:
        return Page([], count_all(plan, view), None, view, request)
    if isinstance(plan, ScorePlan) and plan.bounded is not None:
        from .bounded import best

        bounded = best(plan, plan.bounded, view, request, show_sort=show_sort)
        if bounded is not None:
            return bounded
    parts = [top(plan, leaf.segment, leaf.live, size) for leaf in view.leaves]
    found = sum(part.found for part in parts)
    if len(parts) == 1:
        docs, scores = parts[0].docs, parts[0].scores
        leaves: NDArray[Any] = np.zeros(docs.size, np.int64)
    elif parts:
        docs = np.concatenate([part.docs for part in parts])
        scores = np.concatenate([part.scores for part in parts])
        leaves = np.repeat(np.arange(len(parts)), [part.docs.size for part in parts])
        order = np.lexsort((docs, leaves, -scores))[:size]
        docs, scores, leaves = docs[order], scores[order], leaves[order]
    else:
        return Page([], 0, None, view, request)
    page = slice(request.from_, size)
    rows = [Row(leaf, doc, score, [float(score)] if show_sort else None)
            for leaf, doc, score in zip(leaves[page].tolist(), docs[page].tolist(), scores[page], strict=True)]
    return Page(rows, found, float(scores[0]) if scores.size and not request.sort else None, view, request)


# --- by keys -----------------------------------------------------------------------------------------------


class _Key(msgspec.Struct, frozen=True):
    """A sort key bound to the mapping; ``missing`` is _last, _first or a native value."""

    field: str
    type: FieldType | None
    descending: bool
    greatest: bool
    missing: Any


def _key(key: SortKey, mapping: Mapping, at: int) -> _Key:
    path = f"sort[{at}].{key.field}"
    if key.field in (SCORE, DOC):
        return _Key(key.field, None, key.descending, False, "_last")
    field = mapping.fields.get(key.field)
    if field is None:
        raise QueryError("no such field to sort by", path=path, expected="a field of the mapping")
    if not field.column:
        raise QueryError("the field has no column to sort by", path=path, found=field.type,
                         expected="a keyword, number, date or boolean with doc_values",
                         fix="sort by a keyword sub-field" if field.is_text else "index it with doc_values")
    missing: Any = key.missing
    if missing not in ("_last", "_first"):
        try:
            missing = field.parse(missing)
        except BadValue as error:
            raise QueryError("the value for missing does not fit the field", path=path, found=key.missing,
                             expected=error.expected) from None
    return _Key(key.field, field, key.descending, key.mode == "max", missing)


class _Entry(NamedTuple):
    leaf: int
    doc: int
    score: np.float32 | None
    order: list[Any]  # comparable per key: (rank of missing, value)
    values: list[Any]  # native per key


def _by_keys(plan: Plan, view: View, request: SearchRequest, keys: list[_Key]) -> Page:
    size = request.from_ + request.size
    wants_score = any(key.field == SCORE for key in keys)
    entries: list[_Entry] = []
    found = 0
    path = "exhaustive"
    ordered = [_is_sorted(leaf.segment, keys) for leaf in view.leaves]
    track = request.track_total_hits
    known = None if track is False or not all(ordered) else _number(plan, view)
    for number, leaf in enumerate(view.leaves):
        if isinstance(plan, NothingPlan):
            break
        if ordered[number]:
            most = 0 if track is False or known is not None else None if track is True else max(0, track + 1 - found)
            docs, matched = _first(plan, leaf, size, most)
            found, path, scores = found + matched, "sorted", np.zeros(0, np.float32)
        elif wants_score:
            docs, scores = scored(plan, leaf.segment, leaf.live)
            found += docs.size
        else:
            matching = None if isinstance(plan, AllPlan) else bitmap(plan, leaf.segment)
            if leaf.live is not None:
                matching = leaf.live if matching is None else matching & leaf.live
            found += leaf.segment.docs if matching is None else bit_count(matching)
            docs = _candidates(leaf.segment, matching, keys, size)
            scores = np.zeros(0, np.float32)
        if size:
            entries += _best_of_leaf(leaf.segment, number, view.bases[number], docs, scores, keys, size)
    # Sorting by the last key first, stably, leaves ties in (segment, document) order.
    for at in range(len(keys) - 1, -1, -1):
        entries.sort(key=lambda entry: entry.order[at], reverse=keys[at].descending)
    rows = [Row(entry.leaf, entry.doc, entry.score, entry.values) for entry in entries[request.from_ : size]]
    return Page(rows, found if known is None else known, None, view, request, path)


def _is_sorted(segment: Segment, keys: list[_Key]) -> bool:
    """Whether the order of the documents is that of the keys."""
    last = len(keys)
    while last and keys[last - 1].field == DOC and not keys[last - 1].descending:
        last -= 1
    order = segment.sort[:last]
    return len(order) == last and all(
        (key.field, key.descending, key.missing) == (by.field, by.descending, "_first" if by.missing_first else "_last")
        and key.greatest == by.greatest for key, by in zip(keys, order, strict=False))


def _number(plan: Plan, view: View) -> int | None:
    """How many live documents match, where that is known sooner than by going through them."""
    ready = None if isinstance(plan, AllPlan) else prepare(plan, view)
    return None if ready is None else ready.number()


def _first(plan: Plan, leaf: Leaf, size: int, most: int | None) -> tuple[NDArray[np.uint32], int]:
    """The first ``size`` documents that match, and how many do, or at least as many as ``most`` (None: all)."""
    if isinstance(plan, AllPlan):
        return first(plan, leaf.segment, leaf.live, size), leaf.live_docs
    if most is not None and leads(plan):
        docs = first(plan, leaf.segment, leaf.live, max(size, most))
        return docs[:size], docs.size
    matching = bitmap(plan, leaf.segment)
    if leaf.live is not None:
        matching = matching & leaf.live
    return columns.first_bits(matching, size).astype(np.uint32), bit_count(matching)


def _candidates(
    segment: Segment, matching: NDArray[np.uint64] | None, keys: list[_Key], size: int,
) -> NDArray[np.uint32]:
    """Documents of a bitmap (None: all) among which the first ``size`` are: no more, where one column decides."""
    if not size:
        return np.zeros(0, np.uint32)
    first = keys[0]
    if first.field not in (SCORE, DOC) and first.missing in ("_last", "_first") and all(
            key.field == DOC and not key.descending for key in keys[1:]):
        found = columns.first_docs(segment, first.field, matching, size, descending=first.descending,
                                   missing_first=first.missing == "_first")
        if found is not None:
            return found.astype(np.uint32)
    return docs_of(full_bitmap(segment.docs) if matching is None else matching, segment.docs)


def _best_of_leaf(
    segment: Segment, number: int, base: int, docs: NDArray[np.uint32], scores: NDArray[np.float32],
    keys: list[_Key], size: int,
) -> list[_Entry]:
    sorted_keys = [_codes(segment, key, docs, scores) for key in keys]
    # Numbers that ascend in the order wanted: ~code reverses an int64 without overflow.
    columns_ = [(~codes if key.descending else codes) for key, (codes, _) in zip(keys, sorted_keys, strict=True)]
    flags = [_missing_rank(key, present) for key, (_, present) in zip(keys, sorted_keys, strict=True)]
    chosen = np.arange(docs.size)
    if docs.size > size:
        # By the first key alone, all that can be among the best; the others decide between them.
        first = np.where(flags[0] == 0, columns_[0], np.where(flags[0] > 0, columns.MOST, columns.LEAST))
        threshold = np.partition(first, size - 1)[size - 1]
        chosen = np.flatnonzero(first <= threshold)
    order: list[NDArray[Any]] = [docs[chosen]]
    for codes, flag in zip(reversed(columns_), reversed(flags), strict=True):
        order += [codes[chosen], flag[chosen]]
    chosen = chosen[np.lexsort(order)[:size]]
    return [_entry(segment, number, base, int(docs[i]), scores[i] if scores.size else None, keys, sorted_keys, i)
            for i in chosen.tolist()]


def _missing_rank(key: _Key, present: NDArray[np.bool_]) -> NDArray[np.int8]:
    """-1 before, 0 among, 1 behind the documents that have a value."""
    absent = -1 if key.missing == "_first" else 1
    return np.where(present, 0, absent).astype(np.int8)


def _codes(
    segment: Segment, key: _Key, docs: NDArray[np.uint32], scores: NDArray[np.float32],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Codes that compare, within this segment, as the key's values do; and which documents have one."""
    if key.field == DOC:
        return docs.astype(np.int64), np.ones(docs.size, np.bool_)
    if key.field == SCORE:
        return columns.float_codes(scores), np.ones(docs.size, np.bool_)
    assert key.type is not None
    codes, present = columns.sort_codes(segment, key.field, docs, greatest=key.greatest)
    if key.type.is_keyword:
        codes = 2 * codes + 1  # even numbers lie between the terms, for a missing value that is none of them
    codes = np.where(present, codes, 0)
    if key.missing not in ("_last", "_first"):
        codes = np.where(present, codes, _code_of(segment, key))
        present = np.ones(docs.size, np.bool_)
    return codes, present


def _code_of(segment: Segment, key: _Key) -> int:
    assert key.type is not None
    if key.type.is_float:
        return int(columns.float_codes([key.missing])[0])
    if key.type.is_keyword:
        term = str(key.missing).encode()
        return 2 * postings.rank(segment, key.field, term) + (postings.find(segment, key.field, term) is not None)
    return int(key.missing)


def _entry(
    segment: Segment, number: int, base: int, doc: int, score: np.float32 | None, keys: list[_Key],
    sorted_keys: list[tuple[NDArray[np.int64], NDArray[np.bool_]]], at: int,
) -> _Entry:
    order, values = [], []
    for key, (codes, present) in zip(keys, sorted_keys, strict=True):
        value: Any
        comparable: tuple[int, Any]
        if key.field == DOC:
            value, comparable = base + doc, (0, base + doc)
        elif key.field == SCORE:
            value = float(score) if score is not None else 0.0
            comparable = (0, value)
        elif not present[at]:
            behind = key.missing != "_first"
            value, comparable = None, (-1 if behind == key.descending else 1, 0)
        else:
            value = _native(segment, key, int(codes[at]))
            comparable = (0, value.encode() if isinstance(value, str) else value)
        order.append(comparable)
        values.append(value)
    return _Entry(number, doc, score, order, values)


def _native(segment: Segment, key: _Key, code: int) -> Any:
    assert key.type is not None
    if key.type.is_float:
        return float(columns.code_floats([code])[0])
    if key.type.is_keyword:
        if code % 2 == 0:
            return str(key.missing)
        return segment.text(postings.term_at(segment, key.field, code // 2))
    return code

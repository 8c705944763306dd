"""Pruned search without pruning: every document of every segment is scored, then the best are kept."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from quidditch_core.segment import view

from ..collector import O_COUNT, O_FOUND, O_KEYS
from ..descriptor import (
    COUNT,
    K_FIELD,
    K_OFFSET,
    K_SLOTS,
    K_TABLE,
    K_TERM,
    K_WEIGHT,
    Q_ACCEPT,
    Q_BASE,
    Q_DOCS,
    Q_MODE,
    Q_NEXT,
    Q_OPTIONAL,
    Q_PHRASE,
    Q_REQUIRED,
    Q_SLOTS,
)
from ..profile import MARGIN, RANKS, ranges_of
from .blocks import Ints, common, corrupt_if_damaged, read_field, read_positions, read_postings, read_row
from .boolean import F32, Clause, add_up, bm25
from .phrase import Word, exact_frequencies


@corrupt_if_damaged
def union(query: int, scratch: int, out: int, limit: int) -> int:
    """Every document that holds any of the terms."""
    head = view(out, 8, np.int64)
    head[:] = 0
    for slots, clauses in segments(query):
        docs = accepted(slots, np.unique(np.concatenate([clause.docs for clause in map(read_term, clauses)])))
        head[O_FOUND] += docs.size
        sums, _ = add_up(docs, [read_term(clause) for clause in clauses])
        keep(out, limit, slots, docs, sums.astype(F32))
    return int(head[O_COUNT])


@corrupt_if_damaged
def intersection(query: int, scratch: int, out: int, limit: int) -> int:
    """Every document that holds all of the terms, or their phrase."""
    view(out, 8, np.int64)[:] = 0
    found = 0
    mode = 0
    for slots, clauses in segments(query):
        mode = slots[Q_MODE]
        required = [read_term(clause) for clause in clauses[: slots[Q_REQUIRED]]]
        optional = [read_term(clause) for clause in clauses[slots[Q_REQUIRED] :]]
        docs = accepted(slots, common(clause.docs for clause in required))
        if slots[Q_PHRASE]:
            docs, freqs = phrases(clauses, docs)
            first = view(clauses[0], K_SLOTS, np.int64)
            field = read_field(int(first[K_FIELD]))
            weight = first[K_WEIGHT : K_WEIGHT + 1].view(F32)[0]
            scores = bm25(field, docs, freqs.astype(np.int64), weight, view(int(first[K_TABLE]), 256, F32))
        else:
            must, _ = add_up(docs, required)
            should, _ = add_up(docs, optional)
            scores = must.astype(F32) + should.astype(F32)
        found += docs.size
        if mode != COUNT:
            keep(out, limit, slots, docs, scores)
    view(out, O_FOUND + 1, np.int64)[O_FOUND] = found
    return int(view(out, O_COUNT + 1, np.int64)[O_COUNT])


@corrupt_if_damaged
def count_union(query: int, bitmap: int, scratch: int) -> int:
    """Number of documents that hold any of the terms."""
    found = 0
    for slots, clauses in segments(query):
        docs = np.unique(np.concatenate([read_term(clause).docs for clause in clauses]))
        found += accepted(slots, docs).size
    return found


@corrupt_if_damaged
def profile(clause: int, live: int, docs: int, scratch: int, ranges: int, floors: int, bitmap: int, ranks: int) -> int:
    """The greatest fraction by range, the greatest live ones, and the documents as a bitmap."""
    found, fractions = read_term(clause)
    top = F32(fractions.max(initial=0)) + F32(2 * MARGIN)
    maxima = np.zeros(ranges_of(docs), np.float32)
    np.maximum.at(maxima, found >> 8, fractions + F32(MARGIN))
    steps = np.minimum(255, (maxima * (F32(255) / top)).astype(np.int64) + 1)
    view(ranges, maxima.size, np.uint8)[:] = np.where(maxima > 0, steps, 0)
    if live:
        words = view(live, docs // 64 + 1, np.uint64)
        fractions = fractions[words[found // 64] >> (found % 64).astype(np.uint64) & np.uint64(1) == 1]
    best = np.sort(fractions)[::-1]
    promised = [max(F32(0), best[rank - 1] - F32(MARGIN)) if rank <= best.size else F32(0) for rank in RANKS]
    view(floors, 9, np.float32)[:] = [*promised, top]
    if bitmap:
        words = view(bitmap, docs // 64 + 1, np.uint64)
        np.bitwise_or.at(words, found // 64, np.uint64(1) << (found % 64).astype(np.uint64))
        before = np.concatenate([[0], np.cumsum(np.bitwise_count(words), dtype=np.int64)])[:-1:8]
        view(ranks, before.size, np.uint32)[:] = before
    return 0


def segments(query: int) -> Iterator[tuple[list[int], list[int]]]:
    """For each segment of a query the slots of its descriptor and the addresses of its clauses."""
    while query:
        slots = view(query, Q_SLOTS, np.int64).tolist()
        count = slots[Q_REQUIRED] + slots[Q_OPTIONAL]
        if count:
            yield slots, [query + 8 * (Q_SLOTS + K_SLOTS * i) for i in range(count)]
        query = query + slots[Q_NEXT] if slots[Q_NEXT] else 0


def read_term(address: int) -> Clause:
    slots = view(address, K_SLOTS, np.int64)
    field = read_field(int(slots[K_FIELD]))
    docs, freqs = read_postings(field, read_row(address + 8 * K_TERM))
    weight = slots[K_WEIGHT : K_WEIGHT + 1].view(F32)[0]
    return Clause(docs, bm25(field, docs, freqs, weight, view(int(slots[K_TABLE]), 256, F32)))


def accepted(slots: list[int], docs: Ints) -> Ints:
    if not slots[Q_ACCEPT]:
        return docs
    words = view(slots[Q_ACCEPT], slots[Q_DOCS] // 64 + 1, np.uint64)
    return docs[words[docs // 64] >> (docs % 64).astype(np.uint64) & np.uint64(1) == 1]


def keep(out: int, limit: int, slots: list[int], docs: Ints, scores: NDArray[np.float32]) -> None:
    """Merge a segment's hits into a collector, whose keys are sorted after each segment."""
    head = view(out, 8, np.int64)
    count = int(head[O_COUNT])
    new = scores.view(np.uint32).astype(np.int64) << 32 | 0xFFFFFFFF - (docs + slots[Q_BASE])
    best = np.sort(np.concatenate([view(out + O_KEYS, count, np.int64), new]))[::-1][:limit]
    head[O_COUNT] = best.size
    view(out + O_KEYS, best.size, np.int64)[:] = best


def phrases(clauses: list[int], docs: Ints) -> tuple[Ints, NDArray[np.float32]]:
    """The documents in which the terms stand at their offsets, and how often."""
    terms = [view(clause, K_SLOTS, np.int64) for clause in clauses]
    field = read_field(int(terms[0][K_FIELD]))
    words = []
    for clause, slots in zip(clauses, terms, strict=True):
        row = read_row(clause + 8 * K_TERM)
        found, freqs = read_postings(field, row)
        words.append(Word(int(slots[K_OFFSET]), -1, found, freqs, read_positions(field, row, freqs)).only(docs))
    together = exact_frequencies(words, docs)
    return docs[together > 0], together[together > 0]

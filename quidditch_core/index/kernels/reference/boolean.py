"""Scored clauses as arrays: candidates first, then every clause adds its scores to them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quidditch_core.segment import F_NORMS, view

from ..boolean import OUT_HEADER
from ..descriptor import (
    ALL,
    FIRST,
    K_COUNT,
    K_FIELD,
    K_KIND,
    K_LIST,
    K_SCORES,
    K_SLOTS,
    K_TABLE,
    K_TERM,
    K_WEIGHT,
    LIST,
    Q_ACCEPT,
    Q_DOCS,
    Q_LIMIT,
    Q_MINIMUM,
    Q_MODE,
    Q_OPTIONAL,
    Q_REQUIRED,
    Q_SLOTS,
    TOP,
)
from .blocks import Ints, common, corrupt_if_damaged, look_up, read_field, read_postings, read_row

F32 = np.float32


class Clause(NamedTuple):
    """Documents, ascending, and the score that a clause gives each."""

    docs: Ints
    scores: NDArray[np.float32]


@corrupt_if_damaged
def boolean(query: int, scratch: int, out: int) -> int:
    """Hits of a query descriptor: keys, or documents and scores, or their number."""
    slots = view(query, Q_SLOTS, np.int64).tolist()
    count = slots[Q_REQUIRED] + slots[Q_OPTIONAL]
    clauses = [read_clause(query + 8 * (Q_SLOTS + K_SLOTS * i)) for i in range(count)]
    required, optional = clauses[: slots[Q_REQUIRED]], clauses[slots[Q_REQUIRED] :]

    if required:
        docs = common(clause.docs for clause in required)
    else:
        seen = np.zeros(slots[Q_DOCS], np.bool_)
        for clause in optional:
            seen[clause.docs] = True
        docs = np.flatnonzero(seen)
    if slots[Q_ACCEPT]:
        words = view(slots[Q_ACCEPT], slots[Q_DOCS] // 64 + 1, np.uint64)
        docs = docs[words[docs // 64] >> (docs % 64).astype(np.uint64) & np.uint64(1) == 1]
    must, _ = add_up(docs, required)
    should, matched = add_up(docs, optional)
    enough = matched >= slots[Q_MINIMUM]
    docs = docs[enough]
    scores = (must.astype(F32) + should.astype(F32))[enough]

    limit = slots[Q_LIMIT]
    written = 0
    if slots[Q_MODE] == TOP:
        keys = scores.view(np.uint32).astype(np.int64) << 32 | 0xFFFFFFFF - docs
        best = np.sort(keys)[::-1][:limit]
        written = best.size
        view(out + OUT_HEADER, written, np.int64)[:] = best
    elif slots[Q_MODE] in (ALL, FIRST):
        pairs = np.stack([docs.astype(np.uint32), scores.view(np.uint32)], axis=1)[:limit]
        written = len(pairs)
        view(out + OUT_HEADER, 2 * written, np.uint32)[:] = pairs.reshape(-1)
    view(out, 2, np.int64)[:] = written, written if slots[Q_MODE] == FIRST else docs.size
    return 0


def add_up(docs: Ints, clauses: list[Clause]) -> tuple[NDArray[np.float64], Ints]:
    """The sum of the clauses' scores for each of ``docs``, and how many clauses match it."""
    sums = np.zeros(docs.size, np.float64)
    matched = np.zeros(docs.size, np.int64)
    for clause in clauses:
        at, there = look_up(docs, clause.docs)
        sums[there] += clause.scores[at[there]]
        matched += there
    return sums, matched


def read_clause(address: int) -> Clause:
    slots = view(address, K_SLOTS, np.int64)
    weight = slots[K_WEIGHT : K_WEIGHT + 1].view(F32)[0]
    count = int(slots[K_COUNT])
    if slots[K_KIND] == LIST:
        docs = view(int(slots[K_LIST]), count, np.uint32).astype(np.int64)
        listed = int(slots[K_SCORES])
        return Clause(docs, view(listed, count, F32) if listed else np.full(count, weight))
    field = read_field(int(slots[K_FIELD]))
    docs, freqs = read_postings(field, read_row(address + 8 * K_TERM))
    return Clause(docs, bm25(field, docs, freqs, weight, view(int(slots[K_TABLE]), 256, F32)))


def bm25(
    field: list[int], docs: Ints, freqs: Ints, weight: np.float32, table: NDArray[np.float32],
) -> NDArray[np.float32]:
    """``w - w / (1 + f * c[norm])``, float32 throughout; a field without norms has length 1 everywhere."""
    if field[F_NORMS]:
        lengths = view(field[F_NORMS], int(docs.max(initial=-1)) + 1, np.uint8)[docs]
    else:
        lengths = np.ones(docs.size, np.uint8)
    scores: NDArray[np.float32] = weight - weight / (F32(1) + freqs.astype(F32) * table[lengths])
    return scores

"""From a stream of tokens to postings, a whole call at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from quidditch_core.segment import view

from ..tokens import DROPPED, WIDE


def tally(ids: int, count: int, totals: int) -> int:
    """Count each number."""
    counts = np.bincount(view(ids, count, np.uint32))
    view(totals, counts.size, np.int64)[:] += counts
    return 0


def place(
    ids: int, counts_: int, docs_: int, values: int, gap: int, ranks_: int, slots_: int, lengths_: int, out: int,
    shift: int,
) -> int:
    """One pass of a stable counting sort of tokens by the ranks of their terms."""
    counts, docs = view(counts_, values, np.uint32).astype(np.int64), view(docs_, values, np.uint32)
    if not values:
        return 0
    lengths = view(lengths_, int(docs.max()) + 1, np.uint32)
    before = np.cumsum(counts + gap) - counts - gap
    bases = before - before[np.searchsorted(docs, docs)]
    value = np.repeat(np.arange(values), counts)
    positions = np.arange(value.size) - (np.cumsum(counts) - counts)[value] + bases[value]
    numbers = view(ids, value.size, np.uint32)
    ranks = view(ranks_, int(numbers.max()) + 1, np.uint32)[numbers] if numbers.size else numbers
    np.add.at(lengths, docs[value[ranks != DROPPED]], 1)
    order = np.argsort(ranks, kind="stable")[: np.count_nonzero(ranks != DROPPED)]
    if order.size == 0:
        return 0
    present, first, tokens = np.unique(ranks[order], return_index=True, return_counts=True)
    slots = view(slots_, int(present[-1]) + 1, np.int64)
    to = np.arange(order.size) + np.repeat(slots[present] - first, tokens)
    slots[present] += tokens
    view(out, int(to.max()) + 1, _token(shift))[to] = docs[value[order]].astype(np.int64) | positions[order] << shift
    return 0


def _token(shift: int) -> type[np.signedinteger[Any] | np.unsignedinteger[Any]]:
    return np.int64 if shift == WIDE else np.uint32


def group(
    tokens_: int, starts_: int, terms: int, docs_: int, freqs: int, positions: int, out_starts: int, shift: int,
) -> int:
    """Fold tokens sorted by term into postings; their number."""
    starts = view(starts_, terms + 1, np.int64)
    tokens = view(tokens_, int(starts[-1]), _token(shift))[starts[0] :].astype(np.int64)
    docs = tokens & ((1 << shift) - 1)
    fresh = np.ones(docs.size, np.bool_)
    fresh[1:] = docs[1:] != docs[:-1]
    begins = starts - starts[0]
    fresh[begins[begins < docs.size]] = True
    first = np.flatnonzero(fresh)
    view(docs_, first.size, np.uint32)[:] = docs[first]
    view(freqs, first.size, np.uint32)[:] = np.diff(first, append=docs.size)
    if positions:
        view(positions, docs.size, np.uint32)[:] = tokens >> shift
    view(out_starts, terms + 1, np.int64)[:] = np.searchsorted(first, begins)
    return first.size

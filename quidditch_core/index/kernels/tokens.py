"""From a stream of tokens to postings, by a counting sort over the numbers of their terms."""

from __future__ import annotations

import numpy as np

from quidditch_core.jit import kernel, load_i64, load_u32, store_i64, store_u32, store_u64

DROPPED = 0xFFFFFFFF
"""The rank of a string that is no term."""
WIDE = 32
"""The shift of tokens of eight bytes; one that is less leaves tokens four."""


@kernel("quidditch_core.index.kernels.reference:tally", bulk=True)
def tally(ids: int, count: int, totals: int) -> int:
    """Count each number of uint32 ids [count] in int64 totals."""
    for i in range(count):
        at = totals + 8 * load_u32(ids + 4 * i)
        store_i64(at, load_i64(at) + 1)
    return 0


@kernel("quidditch_core.index.kernels.reference:place", bulk=True)
def place(
    ids: int, counts: int, docs: int, values: int, gap: int, ranks: int, slots: int, lengths: int, out: int, shift: int,
) -> int:
    """One pass of a stable counting sort: a token of rank r goes to out[slots[r]++], as document | position << shift.

    What goes there is a uint64 if ``shift`` is WIDE, else a uint32. ``values`` values follow each other: uint32 counts
    of tokens and uint32 docs, ascending. Positions count from 0 in each document, ``gap`` more between two of its
    values. uint32 ranks [by id] may be DROPPED. uint32 lengths [by document] grow by what is kept; int64 slots
    [by rank].
    """
    token = ids
    previous = -1
    base = 0
    for value in range(values):
        doc = load_u32(docs + 4 * value)
        if doc != previous:
            previous = doc
            base = 0
        kept = 0
        count = load_u32(counts + 4 * value)
        for i in range(count):
            rank = load_u32(ranks + 4 * load_u32(token))
            token += 4
            if rank != DROPPED:
                at = slots + 8 * rank
                slot = load_i64(at)
                store_i64(at, slot + 1)
                if shift == WIDE:
                    store_u64(out + 8 * slot, np.uint64(doc | (base + i) << WIDE))
                else:
                    store_u32(out + 4 * slot, doc | (base + i) << shift)
                kept += 1
        base += count + gap
        store_u32(lengths + 4 * doc, load_u32(lengths + 4 * doc) + kept)
    return 0


@kernel("quidditch_core.index.kernels.reference:group", bulk=True)
def group(
    tokens: int, starts: int, terms: int, docs: int, freqs: int, positions: int, out_starts: int, shift: int,
) -> int:
    """Fold tokens sorted by term, as ``place`` makes them, into postings: uint32 documents, frequencies and (unless 0)
    positions.

    Term t has the tokens starts[t] : starts[t + 1], int64, and the postings out_starts[t] : out_starts[t + 1].
    Returns the number of postings.
    """
    written = 0
    token = load_i64(starts)
    mask = (1 << shift) - 1
    for term in range(terms):
        end = load_i64(starts + 8 * term + 8)
        store_i64(out_starts + 8 * term, written)
        previous = -1
        freq = 0
        while token < end:
            item = load_i64(tokens + 8 * token) if shift == WIDE else load_u32(tokens + 4 * token)
            doc = item & mask
            if positions != 0:
                store_u32(positions, item >> shift)
                positions += 4
            if doc != previous:
                if freq != 0:
                    store_u32(freqs + 4 * (written - 1), freq)
                store_u32(docs + 4 * written, doc)
                written += 1
                previous = doc
                freq = 0
            freq += 1
            token += 1
        if freq != 0:
            store_u32(freqs + 4 * (written - 1), freq)
    store_i64(out_starts + 8 * terms, written)
    return written

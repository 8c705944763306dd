"""What one pass over a term's postings can tell every later query: where its best scores are.

A profile holds fractions, the part of a score that does not depend on the query: score = weight * fraction. They
are kept with a margin, so that ``weight * fraction`` bounds the float32 that a query computes.

- for each range of 256 documents the greatest fraction, as a byte: byte * TOP / 255 is not below it, and 0 says
  that no document of the range holds the term;
- FLOORS: the 10th, 20th, 50th ... 2000th greatest fraction among the live documents, 0 where there are fewer;
- for a term of many documents a bitmap of them, and the number of postings before every 512th document.
"""

from __future__ import annotations

import numpy as np

from quidditch_core.index.kernels.blocks import CORRUPT
from quidditch_core.index.kernels.collector import (
    O_COUNT,
    O_KEYS,
    begin,
    collector_bytes,
    finish,
    key_of,
    push,
)
from quidditch_core.index.kernels.lists import (
    L_BLOCKS,
    L_DOC_BUFFER,
    L_SCORE_BUFFER,
    LIST_BYTES,
    RANGE_SHIFT,
    has_doc,
    list_open,
    load_block,
    load_scores,
)
from quidditch_core.jit import (
    bits_f32,
    inline_helper,
    kernel,
    load_f32,
    load_i64,
    load_u32,
    load_u64,
    popcount,
    store_f32,
    store_u8,
    store_u32,
    store_u64,
)

RANKS = (10, 20, 50, 100, 200, 500, 1000, 2000)
DEEPEST = RANKS[-1]
MARGIN = 2.0**-22


def ranges_of(docs: int) -> int:
    """Number of ranges of a segment, rounded up to whole vectors."""
    return ((docs + 255) // 256 + 7) // 8 * 8


def scratch_bytes(docs: int) -> int:
    """Bytes of scratch that :func:`profile` needs."""
    return LIST_BYTES + 4 * ranges_of(docs) + collector_bytes(DEEPEST)


@inline_helper
def floor_rank(i: int) -> int:
    """RANKS[i]."""
    digit = 1 if i % 3 == 0 else 2 if i % 3 == 1 else 5
    return 10 * digit * (1 if i < 3 else 10 if i < 6 else 100)


@kernel("quidditch_core.index.kernels.reference:profile")
def profile(clause: int, live: int, docs: int, scratch: int, ranges: int, floors: int, bitmap: int, ranks: int) -> int:
    """Profile a clause of weight 1. Returns 0 or CORRUPT.

    ``live``: bitmap of the documents that count for FLOORS, or 0. ``ranges``: uint8 [ranges_of(docs)]; ``floors``:
    float32 [9], the last is TOP. ``bitmap`` (or 0) uint64 [docs // 64 + 1], zeroed; ``ranks`` uint32 [docs // 512 + 1].
    """
    state = scratch
    maxima = scratch + LIST_BYTES
    count_ranges = (((docs + 255) >> RANGE_SHIFT) + 7) & -8
    out = maxima + 4 * count_ranges
    for r in range(count_ranges):
        store_f32(maxima + 4 * r, np.float32(0.0))
    begin(out, DEEPEST)
    if list_open(state, clause) < 0:
        return CORRUPT
    top = np.float32(0.0)
    for block in range(load_i64(state + 8 * L_BLOCKS)):
        count = load_block(state, block)
        if count < 0 or load_scores(state) < 0:
            return CORRUPT
        for i in range(count):
            doc = load_u32(state + L_DOC_BUFFER + 4 * i)
            fraction = load_f32(state + L_SCORE_BUFFER + 4 * i)
            at = maxima + 4 * (doc >> RANGE_SHIFT)
            store_f32(at, max(load_f32(at), fraction + np.float32(MARGIN)))
            top = max(top, fraction)
            if bitmap != 0:
                word = bitmap + 8 * (doc >> 6)
                store_u64(word, load_u64(word) | (np.uint64(1) << np.uint64(doc & 63)))
            if live == 0 or has_doc(live, doc):
                push(out, key_of(fraction, doc))
    top += np.float32(2 * MARGIN)
    scale = np.float32(255.0) / top
    for r in range(count_ranges):
        value = load_f32(maxima + 4 * r)
        if value > np.float32(0.0):
            store_u8(ranges + r, min(255, np.int64(value * scale) + 1))
        else:
            store_u8(ranges + r, 0)
    if bitmap != 0:
        before = 0
        for word in range((docs >> 6) + 1):
            if word & 7 == 0:
                store_u32(ranks + 4 * (word >> 3), before)
            before += popcount(load_u64(bitmap + 8 * word))
    finish(out)
    found = load_i64(out + 8 * O_COUNT)
    for i in range(8):
        lower = np.float32(0.0)
        if floor_rank(i) <= found:
            lower = bits_f32(load_i64(out + O_KEYS + 8 * (floor_rank(i) - 1)) >> 32) - np.float32(MARGIN)
        store_f32(floors + 4 * i, max(lower, np.float32(0.0)))
    store_f32(floors + 32, top)
    return 0

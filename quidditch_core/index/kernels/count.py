"""How many documents hold any of some terms: bitmaps and their set bits."""

from __future__ import annotations

import numpy as np

from quidditch_core.index.kernels.blocks import CORRUPT
from quidditch_core.index.kernels.descriptor import K_SLOTS, Q_ACCEPT, Q_DOCS, Q_NEXT, Q_OPTIONAL, Q_SLOTS
from quidditch_core.index.kernels.lists import (
    L_BITMAP,
    L_BLOCKS,
    L_DF,
    L_DOC_BUFFER,
    LIST_BYTES,
    list_open,
    load_block,
    posting_of,
)
from quidditch_core.jit import (
    helper,
    kernel,
    load_i64,
    load_u32,
    load_u64,
    popcount,
    store_i64,
    store_u64,
)
from quidditch_core.simd import (
    u8x_add,
    u8x_and,
    u8x_last,
    u8x_load,
    u8x_or,
    u8x_popcount,
    u8x_prefix_sum,
    u8x_splat,
    u8x_store,
)

PROBE = 32  # postings that are read in the time of one look-up
CLEAR = 4  # words that are cleared in the time of reading one posting again


def scratch_bytes(clauses: int) -> int:
    """Bytes of scratch for a query of ``clauses``."""
    return clauses * (LIST_BYTES + 8)


@helper
def count_bitmaps(lists: int, count: int, words: int, accept: int) -> int:
    """Number of documents in any of the bitmaps of ``lists`` (and in ``accept``)."""
    total = u8x_splat(0)
    found = 0
    word = 0
    while word + 4 <= words:
        bits = u8x_load(load_i64(load_i64(lists) + 8 * L_BITMAP) + 8 * word)
        for i in range(1, count):
            bits = u8x_or(bits, u8x_load(load_i64(load_i64(lists + 8 * i) + 8 * L_BITMAP) + 8 * word))
        if accept != 0:
            bits = u8x_and(bits, u8x_load(accept + 8 * word))
        total = u8x_add(total, u8x_popcount(bits))
        word += 4
    found = u8x_last(u8x_prefix_sum(total))
    while word < words:
        rest = np.uint64(0)
        for i in range(count):
            rest = rest | load_u64(load_i64(load_i64(lists + 8 * i) + 8 * L_BITMAP) + 8 * word)
        if accept != 0:
            rest = rest & load_u64(accept + 8 * word)
        found += popcount(rest)
        word += 1
    return found


@helper
def largest(lists: int, count: int) -> int:
    """The list that need not be read, because the others are so few that they are looked for in it; 0 if none is."""
    total = 0
    most = load_i64(lists)
    for i in range(count):
        state = load_i64(lists + 8 * i)
        total += load_i64(state + 8 * L_DF)
        if load_i64(state + 8 * L_DF) > load_i64(most + 8 * L_DF):
            most = state
    df = load_i64(most + 8 * L_DF)
    return most if PROBE * (total - df) <= df else 0


@helper
def count_segment(query: int, bitmap: int, scratch: int) -> int:
    """Number of documents of one segment, or CORRUPT."""
    count = load_i64(query + 8 * Q_OPTIONAL)
    docs = load_i64(query + 8 * Q_DOCS)
    accept = load_i64(query + 8 * Q_ACCEPT)
    words = (docs >> 6) + 1
    states = scratch
    lists = states + LIST_BYTES * count
    bitmaps = 0
    others = count
    for i in range(count):
        state = states + LIST_BYTES * i
        if list_open(state, query + 8 * Q_SLOTS + 8 * K_SLOTS * i) < 0:
            return CORRUPT
        if load_i64(state + 8 * L_BITMAP) != 0:
            store_i64(lists + 8 * bitmaps, state)
            bitmaps += 1
        else:
            others -= 1
            store_i64(lists + 8 * others, state)
    found = 0
    whole = largest(lists, count) if bitmaps == 0 and accept == 0 and count > 1 else 0
    if whole != 0:
        found = load_i64(whole + 8 * L_DF)
    elif bitmaps == 1 and accept == 0:
        found = load_i64(load_i64(lists) + 8 * L_DF)
    elif bitmaps > 0:
        found = count_bitmaps(lists, bitmaps, words, accept)
    postings = 0
    for j in range(bitmaps, count):
        state = load_i64(lists + 8 * j)
        if count == 1 and accept == 0:
            return load_i64(state + 8 * L_DF)
        if state == whole:
            continue
        for block in range(load_i64(state + 8 * L_BLOCKS)):
            size = load_block(state, block)
            if size < 0:
                return CORRUPT
            postings += size
            for i in range(size):
                doc = load_u32(state + L_DOC_BUFFER + 4 * i)
                at = 8 * (doc >> 6)
                bit = np.uint64(1) << np.uint64(doc & 63)
                if accept != 0:
                    bit = bit & load_u64(accept + at)
                for k in range(bitmaps):
                    bit = bit & ~load_u64(load_i64(load_i64(lists + 8 * k) + 8 * L_BITMAP) + at)
                if whole != 0:
                    posting = posting_of(whole, doc)
                    if posting == CORRUPT:
                        return CORRUPT
                    bit = bit if posting < 0 else np.uint64(0)
                bits = load_u64(bitmap + at)
                found += 1 if bits | bit != bits else 0
                store_u64(bitmap + at, bits | bit)
    if CLEAR * postings > words:
        zero = u8x_splat(0)
        for word in range(0, words & -4, 4):
            u8x_store(bitmap + 8 * word, zero)
        for word in range(words & -4, words):
            store_u64(bitmap + 8 * word, np.uint64(0))
        return found
    for j in range(bitmaps, count):
        state = load_i64(lists + 8 * j)
        if state == whole:
            continue
        for block in range(load_i64(state + 8 * L_BLOCKS)):
            size = load_block(state, block)
            for i in range(size):
                store_u64(bitmap + 8 * (load_u32(state + L_DOC_BUFFER + 4 * i) >> 6), np.uint64(0))
    return found


@kernel("quidditch_core.index.kernels.reference:count_union")
def count_union(query: int, bitmap: int, scratch: int) -> int:
    """Number of documents that hold any of the optional terms, over all segments of the query; or CORRUPT.

    ``query``: descriptors as of ``union``; ``bitmap``: uint64 [documents of the largest segment // 64 + 1], zeroed and
    left so; ``scratch``: :func:`scratch_bytes`.
    """
    found = 0
    while query != 0:
        here = count_segment(query, bitmap, scratch)
        if here < 0:
            return CORRUPT
        found += here
        behind = load_i64(query + 8 * Q_NEXT)
        query = query + behind if behind > 0 else 0
    return found

"""One term's postings under a query: blocks decoded and scored when they are needed, in any order.

A term of fewer than 128 documents has no headers; its list makes one for its only block, so that nothing else has
to know. Documents, frequencies and scores are decoded apart, since most blocks never need all three.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quidditch_core.index.kernels.blocks import (
    CORRUPT,
    T_DF,
    T_HEADERS,
    T_POSTINGS,
    T_POSTINGS_SIZE,
    T_TTF,
    decode_docs,
    decode_freqs,
    docs_bytes,
    has_headers,
    read_bits,
    read_vertical,
    tail_bytes,
    term_start,
    vertical_bytes,
)
from quidditch_core.index.kernels.descriptor import (
    K_BITMAP,
    K_FIELD,
    K_RAISE,
    K_RANGES,
    K_RANKS,
    K_TABLE,
    K_TERM,
    K_TOP,
    K_WEIGHT,
)
from quidditch_core.jit import (
    bits_f32,
    helper,
    inline_helper,
    load_f32,
    load_i64,
    load_u8,
    load_u16,
    load_u32,
    load_u64,
    popcount,
    store_f32,
    store_i64,
    store_u16,
    store_u32,
)
from quidditch_core.segment import (
    F_DOCS,
    F_LAST_DOCS,
    F_NORMS,
    F_OFFSETS,
    F_POSTINGS,
    F_WIDTHS,
)
from quidditch_core.simd import (
    f8x_add,
    f8x_div,
    f8x_mul,
    f8x_splat,
    f8x_store,
    f8x_sub,
    f8x_table,
    u8x_bytes,
    u8x_float,
    u8x_load,
)

RANGE_SHIFT = 8
"""A range is 256 documents: what profiles know a term's best score of."""

# A list: int64 slots, then 128 documents, frequencies and scores.
L_SOURCE, L_END, L_DF, L_BLOCKS, L_LIMIT = 0, 1, 2, 3, 4
L_LASTS, L_OFFSETS, L_WIDTHS = 5, 6, 7
L_WEIGHT, L_TABLE, L_NORMS = 8, 9, 10
L_BITMAP, L_RANKS, L_RANGES, L_UNIT, L_MOST = 11, 12, 13, 14, 15
L_BLOCK, L_COUNT, L_FREQS, L_SCORED = 16, 17, 18, 19
L_HEADER = 20  # two slots for the header of a term that has none
L_CLAUSE = 22
L_INDEX = 23  # of the posting that a walk document by document stands on
L_SLOTS = 24
L_DOC_BUFFER = 8 * L_SLOTS
L_FREQ_BUFFER = L_DOC_BUFFER + 4 * 128
L_SCORE_BUFFER = L_FREQ_BUFFER + 4 * 128
LIST_BYTES = L_SCORE_BUFFER + 4 * 128


@helper
def list_open(state: int, clause: int) -> int:
    """Make the list of a clause that is a term; CORRUPT or 0."""
    field = load_i64(clause + 8 * K_FIELD)
    term = clause + 8 * K_TERM
    df = load_i64(term + 8 * T_DF)
    limit = load_i64(field + 8 * F_DOCS)
    if df < 1 or df > limit:
        return CORRUPT
    store_i64(state + 8 * L_CLAUSE, clause)
    store_i64(state + 8 * L_DF, df)
    store_i64(state + 8 * L_BLOCKS, (df + 127) >> 7)
    store_i64(state + 8 * L_LIMIT, limit)
    store_i64(state + 8 * L_WEIGHT, load_i64(clause + 8 * K_WEIGHT))
    store_i64(state + 8 * L_TABLE, load_i64(clause + 8 * K_TABLE))
    store_i64(state + 8 * L_NORMS, load_i64(field + 8 * F_NORMS))
    store_i64(state + 8 * L_BITMAP, load_i64(clause + 8 * K_BITMAP))
    store_i64(state + 8 * L_RANKS, load_i64(clause + 8 * K_RANKS))
    store_i64(state + 8 * L_BLOCK, -1)
    store_i64(state + 8 * L_FREQS, -1)
    store_i64(state + 8 * L_SCORED, -1)
    weight = bits_f32(load_i64(clause + 8 * K_WEIGHT))
    most = weight
    ranges = load_i64(clause + 8 * K_RANGES)
    if ranges != 0:
        most = weight * bits_f32(load_i64(clause + 8 * K_TOP)) * bits_f32(load_i64(clause + 8 * K_RAISE))
    store_i64(state + 8 * L_RANGES, ranges)
    store_f32(state + 8 * L_MOST, most)
    store_f32(state + 8 * L_UNIT, most * np.float32(1.0 / 255.0) * np.float32(1.0 + 2.0**-20))
    if df == 1:
        doc = load_i64(term + 8 * T_POSTINGS)
        if doc < 0 or doc >= limit:
            return CORRUPT
        for i in range(8):
            store_u32(state + L_DOC_BUFFER + 4 * i, doc)
            store_u32(state + L_FREQ_BUFFER + 4 * i, load_i64(term + 8 * T_TTF))
        store_i64(state + 8 * L_LASTS, state + 8 * L_HEADER)
        store_u32(state + 8 * L_HEADER, doc)
        store_i64(state + 8 * L_BLOCK, 0)
        store_i64(state + 8 * L_FREQS, 0)
        store_i64(state + 8 * L_COUNT, 1)
        return 0
    at = term_start(field, term)
    if at < 0:
        return CORRUPT
    source = load_i64(field + 8 * F_POSTINGS) + at
    end = source + load_i64(term + 8 * T_POSTINGS_SIZE)
    store_i64(state + 8 * L_END, end)
    if df >= 128:
        if not has_headers(term, field):
            return CORRUPT
        header = load_i64(term + 8 * T_HEADERS)
        store_i64(state + 8 * L_SOURCE, source)
        store_i64(state + 8 * L_LASTS, load_i64(field + 8 * F_LAST_DOCS) + 4 * header)
        store_i64(state + 8 * L_OFFSETS, load_i64(field + 8 * F_OFFSETS) + 4 * header)
        store_i64(state + 8 * L_WIDTHS, load_i64(field + 8 * F_WIDTHS) + 2 * header)
        return 0
    if source + 2 > end:
        return CORRUPT
    last = decode_docs(source + 2, end, load_u8(source), df, -1, limit, state + L_DOC_BUFFER)
    if last < 0:
        return CORRUPT
    store_i64(state + 8 * L_SOURCE, source + 2)
    store_i64(state + 8 * L_LASTS, state + 8 * L_HEADER)
    store_i64(state + 8 * L_OFFSETS, state + 8 * L_HEADER + 4)
    store_i64(state + 8 * L_WIDTHS, state + 8 * L_HEADER + 8)
    store_u32(state + 8 * L_HEADER, last)
    store_u32(state + 8 * L_HEADER + 4, 0)
    store_u16(state + 8 * L_HEADER + 8, load_u16(source))
    store_i64(state + 8 * L_BLOCK, 0)
    store_i64(state + 8 * L_COUNT, df)
    return 0


@inline_helper
def block_last(state: int, block: int) -> int:
    return load_u32(load_i64(state + 8 * L_LASTS) + 4 * block)


@helper
def load_block(state: int, block: int) -> int:
    """Decode the documents of a block; how many there are, or CORRUPT."""
    if load_i64(state + 8 * L_BLOCK) == block:
        return load_i64(state + 8 * L_COUNT)
    count = min(128, load_i64(state + 8 * L_DF) - 128 * block)
    previous = block_last(state, block - 1) if block > 0 else -1
    source = load_i64(state + 8 * L_SOURCE) + 32 * load_u32(load_i64(state + 8 * L_OFFSETS) + 4 * block)
    width = load_u8(load_i64(state + 8 * L_WIDTHS) + 2 * block)
    last = decode_docs(source, load_i64(state + 8 * L_END), width, count, previous,
                       load_i64(state + 8 * L_LIMIT), state + L_DOC_BUFFER)
    if last < 0 or last != block_last(state, block):
        store_i64(state + 8 * L_BLOCK, -1)
        return CORRUPT
    store_i64(state + 8 * L_BLOCK, block)
    store_i64(state + 8 * L_COUNT, count)
    return count


@helper
def load_freqs(state: int, block: int) -> int:
    """Decode the frequencies of a block, whether its documents are decoded or not; CORRUPT or 0."""
    if load_i64(state + 8 * L_FREQS) == block:
        return 0
    count = min(128, load_i64(state + 8 * L_DF) - 128 * block)
    source = load_i64(state + 8 * L_SOURCE) + 32 * load_u32(load_i64(state + 8 * L_OFFSETS) + 4 * block)
    widths = load_i64(state + 8 * L_WIDTHS) + 2 * block
    if decode_freqs(source + docs_bytes(count, load_u8(widths)), load_i64(state + 8 * L_END), load_u8(widths + 1),
                    count, state + L_FREQ_BUFFER) < 0:
        return CORRUPT
    store_i64(state + 8 * L_FREQS, block)
    return 0


@helper
def load_scores(state: int) -> int:
    """Score the block whose documents are decoded; CORRUPT or 0."""
    block = load_i64(state + 8 * L_BLOCK)
    if load_i64(state + 8 * L_SCORED) == block:
        return 0
    if load_freqs(state, block) < 0:
        return CORRUPT
    norms = load_i64(state + 8 * L_NORMS)
    table = load_i64(state + 8 * L_TABLE)
    weight = f8x_splat(bits_f32(load_i64(state + 8 * L_WEIGHT)))
    one = f8x_splat(np.float32(1.0))
    factor = f8x_splat(load_f32(table + 4))
    for i in range((load_i64(state + 8 * L_COUNT) + 7) >> 3):
        if norms != 0:
            factor = f8x_table(table, u8x_bytes(norms, u8x_load(state + L_DOC_BUFFER + 32 * i)))
        freq = u8x_float(u8x_load(state + L_FREQ_BUFFER + 32 * i))
        score = f8x_sub(weight, f8x_div(weight, f8x_add(one, f8x_mul(freq, factor))))
        f8x_store(state + L_SCORE_BUFFER + 32 * i, score)
    store_i64(state + 8 * L_SCORED, block)
    return 0


@helper
def find_block(state: int, near: int, target: int) -> int:
    """The first block whose last document is at least ``target``, looked for around ``near``; BLOCKS if none."""
    lasts = load_i64(state + 8 * L_LASTS)
    low = 0
    high = load_i64(state + 8 * L_BLOCKS)
    if near < high:
        if load_u32(lasts + 4 * near) >= target:
            if near == 0 or load_u32(lasts + 4 * (near - 1)) < target:
                return near
            high = near
        else:
            low = near + 1
            step = 1
            while low + step < high and load_u32(lasts + 4 * (low + step - 1)) < target:
                low += step
                step <<= 1
            high = min(high, low + step)
    while low < high:
        middle = (low + high) >> 1
        if load_u32(lasts + 4 * middle) < target:
            low = middle + 1
        else:
            high = middle
    return low


@inline_helper
def bound_at(state: int, doc: int) -> Any:
    """What ``doc`` can score at most; 0 if it surely does not hold the term."""
    ranges = load_i64(state + 8 * L_RANGES)
    if ranges == 0:
        return load_f32(state + 8 * L_MOST)
    return load_f32(state + 8 * L_UNIT) * np.float32(load_u8(ranges + (doc >> RANGE_SHIFT)))


@inline_helper
def lower_bound(docs: int, count: int, target: int) -> int:
    """How many of ``count`` <= 128 documents are below ``target``."""
    low = 0
    step = 64
    while step > 0:
        if low + step <= count and load_u32(docs + 4 * (low + step - 1)) < target:
            low += step
        step >>= 1
    if low < count and load_u32(docs + 4 * low) < target:
        low += 1
    return low


@helper
def freq_at(state: int, index: int) -> int:
    """Frequency of a posting, given by its number in the list; CORRUPT if its block is."""
    block = index >> 7
    if block == load_i64(state + 8 * L_FREQS):
        return load_u32(state + L_FREQ_BUFFER + 4 * (index & 127))
    count = min(128, load_i64(state + 8 * L_DF) - 128 * block)
    widths = load_i64(state + 8 * L_WIDTHS) + 2 * block
    doc_width = load_u8(widths)
    width = load_u8(widths + 1)
    source = (load_i64(state + 8 * L_SOURCE) + 32 * load_u32(load_i64(state + 8 * L_OFFSETS) + 4 * block)
              + docs_bytes(count, doc_width))
    size = vertical_bytes(width) if count == 128 else tail_bytes(count, width, 0)
    if width > 32 or doc_width > 32 or source + size > load_i64(state + 8 * L_END):
        return CORRUPT
    if count == 128:
        return read_vertical(source, width, index & 127) + 1
    return read_bits(source, (index & 127) * width, width) + 1


@inline_helper
def rank(bitmap: int, ranks: int, doc: int) -> int:
    """Number of set bits before ``doc``: a posting's number in its list."""
    word = doc >> 6
    count = load_u32(ranks + 4 * (doc >> 9))
    for i in range(word & -8, word):
        count += popcount(load_u64(bitmap + 8 * i))
    below = (np.uint64(1) << np.uint64(doc & 63)) - np.uint64(1)
    return count + popcount(load_u64(bitmap + 8 * word) & below)


@inline_helper
def has_doc(bitmap: int, doc: int) -> bool:
    return (load_u64(bitmap + 8 * (doc >> 6)) >> np.uint64(doc & 63)) & np.uint64(1) != np.uint64(0)


@helper
def posting_of(state: int, doc: int) -> int:
    """The number of the posting of ``doc``, -2 if there is none, or CORRUPT."""
    bitmap = load_i64(state + 8 * L_BITMAP)
    if bitmap != 0:
        if not has_doc(bitmap, doc):
            return -2
        return rank(bitmap, load_i64(state + 8 * L_RANKS), doc)
    block = find_block(state, max(0, load_i64(state + 8 * L_BLOCK)), doc)
    if block >= load_i64(state + 8 * L_BLOCKS):
        return -2
    count = load_block(state, block)
    if count < 0:
        return CORRUPT
    index = lower_bound(state + L_DOC_BUFFER, count, doc)
    if index < count and load_u32(state + L_DOC_BUFFER + 4 * index) == doc:
        return 128 * block + index
    return -2


@inline_helper
def score_of(state: int, doc: int, freq: int) -> Any:
    """What a document scores that holds the term ``freq`` times."""
    norms = load_i64(state + 8 * L_NORMS)
    code = load_u8(norms + doc) if norms != 0 else 1
    factor = load_f32(load_i64(state + 8 * L_TABLE) + 4 * code)
    weight = bits_f32(load_i64(state + 8 * L_WEIGHT))
    return weight - weight / (np.float32(1.0) + np.float32(freq) * factor)

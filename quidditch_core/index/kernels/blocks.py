"""Blocks of 128 integers and cursors over postings: the bytes of ``postings`` and ``blocks.*``.

A full block is *vertical*: value i lies in lane i % 8, row i // 8; a lane packs its 16 rows in ceil(b / 2)
words of 32 bits, and word w of lane l is at byte 4 * (8 w + l). A tail (fewer than 128 values) is one stream of
bits. Documents are stored as distance - 1 from the one before, frequencies as f - 1.

Every size and width that is read is bounded, and a block's last document must equal its header, so that damaged
bytes end in a negative status and never outside the segment.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quidditch_core.jit import (
    helper,
    inline_helper,
    load_i64,
    load_u8,
    load_u16,
    load_u32,
    load_u64,
    store_i64,
    store_u32,
)
from quidditch_core.segment import (
    F_BLOCKS,
    F_DOCS,
    F_ENTRIES,
    F_LAST_DOCS,
    F_OFFSETS,
    F_POSTINGS,
    F_POSTINGS_SIZE,
    F_WIDTHS,
)
from quidditch_core.simd import (
    u8x_add,
    u8x_and,
    u8x_last,
    u8x_load,
    u8x_or,
    u8x_prefix_sum,
    u8x_shl,
    u8x_shr,
    u8x_splat,
    u8x_store,
)

# Slots of a term row (int64 [8]), as segment.TermInfo.
T_ORDINAL, T_DF, T_TTF, T_POSTINGS, T_POSTINGS_SIZE, T_HEADERS, T_POSITIONS, T_POSITIONS_SIZE = range(8)

# A cursor: int64 slots, then 128 documents and 128 frequencies as uint32.
C_FIELD, C_TERM, C_BLOCK, C_BLOCKS, C_COUNT, C_INDEX, C_DOC = 0, 1, 2, 3, 4, 5, 6
C_POSITION, C_POSITION_AT, C_POSITION_BLOCK = 7, 8, 9
C_SLOTS = 10
C_DOCS = 8 * C_SLOTS
C_FREQS = C_DOCS + 4 * 128
CURSOR_BYTES = C_FREQS + 4 * 128

ENTRY_BYTES = 12
FAR = 0xFFFF
"""An entry to positions at least so far from the block's first: it is not known."""
END = 1 << 40  # C_DOC of an exhausted cursor
CORRUPT = -1


@inline_helper
def vertical_bytes(width: int) -> int:
    return 32 * ((width + 1) >> 1)


@helper
def unpack_vertical(source: int, width: int, out: int, plus: int) -> None:
    """128 values of ``width`` bits, each ``plus`` something, into uint32 at ``out``."""
    mask = u8x_splat((1 << width) - 1)
    more = u8x_splat(plus)
    for row in range(16):
        bit = row * width
        word = source + 32 * (bit >> 5)
        shift = bit & 31
        value = u8x_shr(u8x_load(word), shift)
        if shift + width > 32:
            value = u8x_or(value, u8x_shl(u8x_load(word + 32), 32 - shift))
        u8x_store(out + 32 * row, u8x_add(u8x_and(value, mask), more))


@helper
def unpack_docs(source: int, width: int, out: int, previous: int) -> int:
    """128 documents, stored as distances - 1 from the one before; the last of them. ``width`` is at most 24.

    Sums cannot pass 2^32, so documents ascend whatever the bytes are, and none is beyond the last.
    """
    mask = u8x_splat((1 << width) - 1)
    one = u8x_splat(1)
    base = u8x_splat(previous)
    for row in range(16):
        bit = row * width
        word = source + 32 * (bit >> 5)
        shift = bit & 31
        value = u8x_shr(u8x_load(word), shift)
        if shift + width > 32:
            value = u8x_or(value, u8x_shl(u8x_load(word + 32), 32 - shift))
        value = u8x_add(base, u8x_prefix_sum(u8x_add(u8x_and(value, mask), one)))
        u8x_store(out + 32 * row, value)
        base = u8x_splat(u8x_last(value))
    return u8x_last(base)


@inline_helper
def read_vertical(source: int, width: int, index: int) -> int:
    """One of 128 values of ``width`` bits."""
    bit = (index >> 3) * width
    word = source + 32 * (bit >> 5) + 4 * (index & 7)
    value = load_u32(word) >> (bit & 31)
    if (bit & 31) + width > 32:
        value |= load_u32(word + 32) << (32 - (bit & 31))
    return value & ((1 << width) - 1)


@helper
def pack_vertical(source: int, width: int, out: int) -> None:
    """The inverse of :func:`unpack_vertical`; ``out`` has vertical_bytes(width) zeroed bytes."""
    for row in range(16):
        bit = row * width
        word = out + 32 * (bit >> 5)
        shift = bit & 31
        for lane in range(8):
            wide = load_u32(source + 4 * (8 * row + lane)) << shift
            at = word + 4 * lane
            store_u32(at, load_u32(at) | (wide & 0xFFFFFFFF))
            if shift + width > 32:
                store_u32(at + 32, wide >> 32)


@inline_helper
def read_bits(source: int, bit: int, width: int) -> Any:
    """``width`` <= 32 bits at ``bit`` of a stream; up to 8 bytes are read."""
    word = load_u64(source + (bit >> 3)) >> np.uint64(bit & 7)
    return np.int64(word & np.uint64((1 << width) - 1))


@inline_helper
def tail_bytes(count: int, doc_width: int, freq_width: int) -> int:
    return ((count * doc_width + 7) >> 3) + ((count * freq_width + 7) >> 3)


@helper
def term_start(field: int, term: int) -> int:
    """Offset of the postings of a term of two documents or more, whose bytes are all there; or CORRUPT."""
    at = load_i64(term + 8 * T_POSTINGS)
    end = at + load_i64(term + 8 * T_POSTINGS_SIZE)
    if load_i64(field + 8 * F_POSTINGS) == 0 or at < 0 or end < at or end > load_i64(field + 8 * F_POSTINGS_SIZE):
        return CORRUPT
    return at


@helper
def decode_docs(source: int, end: int, width: int, count: int, previous: int, limit: int, out: int) -> int:
    """``count`` documents below ``limit`` into uint32 at ``out``; the last of them or CORRUPT.

    Up to the next multiple of 8, the last is repeated: vectors may look up what belongs to it.
    """
    if count == 128:
        if width > 32 or source + vertical_bytes(width) > end:
            return CORRUPT
        if width <= 24:
            doc = unpack_docs(source, width, out, previous)
            return doc if doc < limit else CORRUPT
        unpack_vertical(source, width, out, 0)
    else:
        if width > 32 or source + tail_bytes(count, width, 0) > end:
            return CORRUPT
        for i in range(count):
            store_u32(out + 4 * i, read_bits(source, i * width, width))
    doc = previous
    for i in range(count):
        doc += load_u32(out + 4 * i) + 1
        store_u32(out + 4 * i, doc)
    if doc >= limit:
        return CORRUPT
    for i in range(count, (count + 7) & -8):
        store_u32(out + 4 * i, doc)
    return doc


@helper
def decode_freqs(source: int, end: int, width: int, count: int, out: int) -> int:
    """``count`` frequencies into uint32 at ``out``; 0 or CORRUPT."""
    if count == 128:
        if width > 32 or source + vertical_bytes(width) > end:
            return CORRUPT
        unpack_vertical(source, width, out, 1)
    else:
        if width > 32 or source + tail_bytes(count, width, 0) > end:
            return CORRUPT
        for i in range(count):
            store_u32(out + 4 * i, read_bits(source, i * width, width) + 1)
    return 0


@inline_helper
def docs_bytes(count: int, width: int) -> int:
    """Bytes of a block's documents, which its frequencies follow."""
    return vertical_bytes(width) if count == 128 else (count * width + 7) >> 3


@helper
def decode_block(field: int, term: int, block: int, docs: int, freqs: int) -> int:
    """Documents and frequencies of one block of a term, into uint32 [128] each; their number or CORRUPT."""
    df = load_i64(term + 8 * T_DF)
    limit = load_i64(field + 8 * F_DOCS)
    if df == 1:
        doc = load_i64(term + 8 * T_POSTINGS)
        if doc < 0 or doc >= limit:
            return CORRUPT
        store_u32(docs, doc)
        store_u32(freqs, load_i64(term + 8 * T_TTF))
        return 1
    at = term_start(field, term)
    if at < 0:
        return CORRUPT
    base = load_i64(field + 8 * F_POSTINGS)
    end = base + at + load_i64(term + 8 * T_POSTINGS_SIZE)
    count = min(128, df - 128 * block)
    previous = -1
    source = base + at
    if df < 128:
        if source + 2 > end:
            return CORRUPT
        doc_width = load_u8(source)
        freq_width = load_u8(source + 1)
        source += 2
    else:
        header = load_i64(term + 8 * T_HEADERS) + block
        if header < 0 or header >= load_i64(field + 8 * F_BLOCKS):
            return CORRUPT
        source += 32 * load_u32(load_i64(field + 8 * F_OFFSETS) + 4 * header)
        widths = load_i64(field + 8 * F_WIDTHS) + 2 * header
        doc_width = load_u8(widths)
        freq_width = load_u8(widths + 1)
        if block > 0:
            previous = load_u32(load_i64(field + 8 * F_LAST_DOCS) + 4 * (header - 1))
    last = decode_docs(source, end, doc_width, count, previous, limit, docs)
    if last < 0 or (df >= 128 and last != load_u32(load_i64(field + 8 * F_LAST_DOCS) + 4 * header)):
        return CORRUPT
    if decode_freqs(source + docs_bytes(count, doc_width), end, freq_width, count, freqs) < 0:
        return CORRUPT
    return count


@helper
def cursor_open(cursor: int, field: int, term: int) -> int:
    """Place a cursor on a term's first posting; CORRUPT or 0."""
    store_i64(cursor + 8 * C_FIELD, field)
    store_i64(cursor + 8 * C_TERM, term)
    store_i64(cursor + 8 * C_BLOCKS, (load_i64(term + 8 * T_DF) + 127) >> 7)
    store_i64(cursor + 8 * C_POSITION_BLOCK, -1)
    return cursor_load(cursor, 0)


@helper
def cursor_load(cursor: int, block: int) -> int:
    """Decode ``block`` and stand on its first posting, or at END."""
    store_i64(cursor + 8 * C_BLOCK, block)
    store_i64(cursor + 8 * C_INDEX, 0)
    if block >= load_i64(cursor + 8 * C_BLOCKS):
        store_i64(cursor + 8 * C_COUNT, 0)
        store_i64(cursor + 8 * C_DOC, END)
        return 0
    count = decode_block(load_i64(cursor + 8 * C_FIELD), load_i64(cursor + 8 * C_TERM), block,
                         cursor + C_DOCS, cursor + C_FREQS)
    if count <= 0:
        return CORRUPT
    store_i64(cursor + 8 * C_COUNT, count)
    store_i64(cursor + 8 * C_DOC, load_u32(cursor + C_DOCS))
    return 0


@helper
def cursor_next(cursor: int) -> int:
    """Step to the next posting."""
    index = load_i64(cursor + 8 * C_INDEX) + 1
    if index < load_i64(cursor + 8 * C_COUNT):
        store_i64(cursor + 8 * C_INDEX, index)
        store_i64(cursor + 8 * C_DOC, load_u32(cursor + C_DOCS + 4 * index))
        return 0
    return cursor_load(cursor, load_i64(cursor + 8 * C_BLOCK) + 1)


@helper
def cursor_advance(cursor: int, target: int) -> int:
    """Stand on the first posting whose document is at least ``target``; CORRUPT or 0."""
    if load_i64(cursor + 8 * C_DOC) >= target:
        return 0
    count = load_i64(cursor + 8 * C_COUNT)
    if load_u32(cursor + C_DOCS + 4 * (count - 1)) < target:
        block = load_i64(cursor + 8 * C_BLOCK) + 1
        blocks = load_i64(cursor + 8 * C_BLOCKS)
        if load_i64(load_i64(cursor + 8 * C_TERM) + 8 * T_DF) >= 128 and block < blocks:
            header = load_i64(load_i64(cursor + 8 * C_TERM) + 8 * T_HEADERS)
            lasts = load_i64(load_i64(cursor + 8 * C_FIELD) + 8 * F_LAST_DOCS) + 4 * header
            step = 1
            while block + step < blocks and load_u32(lasts + 4 * (block + step - 1)) < target:
                block += step
                step <<= 1
            high = min(block + step, blocks)
            while block < high:
                middle = (block + high) >> 1
                if load_u32(lasts + 4 * middle) < target:
                    block = middle + 1
                else:
                    high = middle
        if cursor_load(cursor, block) < 0:
            return CORRUPT
        if load_i64(cursor + 8 * C_DOC) >= target:
            return 0
        count = load_i64(cursor + 8 * C_COUNT)
    low = load_i64(cursor + 8 * C_INDEX)
    high = count
    while low < high:
        middle = (low + high) >> 1
        if load_u32(cursor + C_DOCS + 4 * middle) < target:
            low = middle + 1
        else:
            high = middle
    if low >= count:  # the block's header promised a document that the block does not hold
        return CORRUPT
    store_i64(cursor + 8 * C_INDEX, low)
    store_i64(cursor + 8 * C_DOC, load_u32(cursor + C_DOCS + 4 * low))
    return 0


@helper
def entry_point(field: int, header: int, index: int) -> int:
    """The last entry to a block's positions at or before posting ``index``: 128 times its distance from the term's,
    and the posting; CORRUPT without entries."""
    entries = load_i64(field + 8 * F_ENTRIES)
    if entries == 0:
        return CORRUPT
    entry = entries + ENTRY_BYTES * header
    at = load_i64(entry) & ((1 << 48) - 1)
    quarter = index >> 5
    while quarter > 0:
        more = load_u16(entry + 4 + 2 * quarter)
        if more < FAR:
            return (at + more) << 7 | quarter << 5
        quarter -= 1
    return at << 7


@inline_helper
def cursor_freq(cursor: int) -> int:
    return load_u32(cursor + C_FREQS + 4 * load_i64(cursor + 8 * C_INDEX))


@inline_helper
def has_headers(term: int, field: int) -> bool:
    header = load_i64(term + 8 * T_HEADERS)
    blocks = (load_i64(term + 8 * T_DF) + 127) >> 7
    return header >= 0 and header + blocks <= load_i64(field + 8 * F_BLOCKS)

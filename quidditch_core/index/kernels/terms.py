"""The dictionary of a field: front-coded blocks of 16 sorted terms with a sparse index; and whole postings.

A block opens with the absolute offsets of its first term's postings, headers and positions; a term is
``lcp, suffix length, suffix, df[, ttf - df], postings size or the single document[, positions size]``, all
numbers as varints.
"""

from __future__ import annotations

import numpy as np

from quidditch_core.index.kernels.blocks import (
    CORRUPT,
    T_DF,
    decode_block,
    has_headers,
)
from quidditch_core.jit import (
    helper,
    inline_helper,
    kernel,
    load_i64,
    load_u8,
    load_u32,
    load_u64,
    store_i64,
    store_u8,
    store_u32,
    store_u64,
)
from quidditch_core.segment import (
    F_FIRST,
    F_FIRST_OFFSETS,
    F_FIRST_SIZE,
    F_FLAGS,
    F_SPARSE,
    F_SPARSE_BLOCKS,
    F_TERM_COUNT,
    F_TERMS,
    F_TERMS_SIZE,
    HAS_FREQS,
    HAS_POSITIONS,
)

MAX_TERM = 32766
"""Bytes in a term, as in Lucene."""

# State of a walk through a dictionary block: int64 slots.
D_AT, D_END, D_POSTINGS, D_HEADERS, D_POSITIONS, D_ORDINAL, D_LENGTH = range(7)
D_SLOTS = 8
# Scratch: the walk, the text of the term it stands on, a row for terms that nobody asked for.
S_TEXT = 8 * D_SLOTS
S_SPARE = S_TEXT + MAX_TERM + 2
SCRATCH_BYTES = S_SPARE + 64


@helper
def varint(walk: int) -> int:
    """Read a varint at the walk; CORRUPT if it does not end in time.

    It has at most 7 bytes: what a dictionary says is below 2^49, so sums of a few such numbers never overflow.
    """
    at = load_i64(walk + 8 * D_AT)
    end = load_i64(walk + 8 * D_END)
    value = 0
    shift = 0
    while True:
        if at >= end or shift > 42:
            return CORRUPT
        byte = load_u8(at)
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    store_i64(walk + 8 * D_AT, at)
    return value


@helper
def open_block(field: int, block: int, walk: int) -> int:
    """Stand before the first term of a dictionary block; CORRUPT or 0."""
    blocks = load_i64(field + 8 * F_SPARSE_BLOCKS)
    size = load_i64(field + 8 * F_TERMS_SIZE)
    sparse = load_i64(field + 8 * F_SPARSE)
    start = np.int64(load_u64(sparse + 8 * block))
    end = size
    if block + 1 < blocks:
        end = np.int64(load_u64(sparse + 8 * (block + 1)))
    if start < 0 or start > end or end > size:
        return CORRUPT
    terms = load_i64(field + 8 * F_TERMS)
    store_i64(walk + 8 * D_AT, terms + start)
    store_i64(walk + 8 * D_END, terms + end)
    store_i64(walk + 8 * D_ORDINAL, 16 * block)
    store_i64(walk + 8 * D_LENGTH, 0)
    for slot in range(D_POSTINGS, D_POSITIONS + 1):
        value = varint(walk)
        if value < 0:
            return CORRUPT
        store_i64(walk + 8 * slot, value)
    return 0


@helper
def read_term(field: int, walk: int, row: int, text: int) -> int:
    """Read one term: its bytes over ``text`` (MAX_TERM), its row int64 [8]; CORRUPT or its length."""
    flags = load_i64(field + 8 * F_FLAGS)
    shared = varint(walk)
    suffix = varint(walk)
    if shared < 0 or suffix < 0 or shared > load_i64(walk + 8 * D_LENGTH) or suffix > MAX_TERM - shared:
        return CORRUPT
    at = load_i64(walk + 8 * D_AT)
    if at + suffix > load_i64(walk + 8 * D_END):
        return CORRUPT
    for i in range(suffix):
        store_u8(text + shared + i, load_u8(at + i))
    store_i64(walk + 8 * D_AT, at + suffix)
    store_i64(walk + 8 * D_LENGTH, shared + suffix)
    df = varint(walk)
    if df < 1:
        return CORRUPT
    ttf = df
    if flags & HAS_FREQS:
        extra = varint(walk)
        if extra < 0:
            return CORRUPT
        ttf += extra
    value = varint(walk)
    if value < 0:
        return CORRUPT
    store_i64(row, load_i64(walk + 8 * D_ORDINAL))
    store_i64(row + 8, df)
    store_i64(row + 16, ttf)
    headers = load_i64(walk + 8 * D_HEADERS)
    store_i64(row + 40, headers)
    if df == 1:
        store_i64(row + 24, value)
        store_i64(row + 32, 0)
    else:
        postings = load_i64(walk + 8 * D_POSTINGS)
        store_i64(row + 24, postings)
        store_i64(row + 32, value)
        store_i64(walk + 8 * D_POSTINGS, postings + value)
        if df >= 128:
            store_i64(walk + 8 * D_HEADERS, headers + ((df + 127) >> 7))
    positions = load_i64(walk + 8 * D_POSITIONS)
    size = 0
    if flags & HAS_POSITIONS:
        size = varint(walk)
        if size < 0:
            return CORRUPT
        store_i64(walk + 8 * D_POSITIONS, positions + size)
    store_i64(row + 48, positions)
    store_i64(row + 56, size)
    store_i64(walk + 8 * D_ORDINAL, load_i64(walk + 8 * D_ORDINAL) + 1)
    return shared + suffix


@helper
def compare(a: int, a_size: int, b: int, b_size: int) -> int:
    """Sign of the byte order of two strings."""
    size = min(a_size, b_size)
    for i in range(size):
        difference = load_u8(a + i) - load_u8(b + i)
        if difference != 0:
            return difference
    return a_size - b_size


@helper
def block_of(field: int, term: int, size: int) -> int:
    """The last dictionary block whose first term is not after ``term``; -1 before the first, -2 if corrupt."""
    low = 0
    high = load_i64(field + 8 * F_SPARSE_BLOCKS)
    offsets = load_i64(field + 8 * F_FIRST_OFFSETS)
    first = load_i64(field + 8 * F_FIRST)
    first_size = load_i64(field + 8 * F_FIRST_SIZE)
    while low < high:
        middle = (low + high) >> 1
        start = load_u32(offsets + 4 * middle)
        end = load_u32(offsets + 4 * middle + 4)
        if end < start or end > first_size:
            return -2
        if compare(first + start, end - start, term, size) <= 0:
            low = middle + 1
        else:
            high = middle
    return low - 1


@kernel("quidditch_core.index.kernels.reference:dictionary_block")
def dictionary_block(field: int, term: int, size: int) -> int:
    """The dictionary block that may hold ``term``: its number, -1 if none can, -2 if the index is corrupt."""
    return block_of(field, term, size)


@kernel("quidditch_core.index.kernels.reference:dictionary_find")
def dictionary_find(field: int, block: int, term: int, size: int, scratch: int, row: int) -> int:
    """Look for ``term`` in a dictionary block and fill its row.

    Returns 1 if it is there; 0 if not, and then row[0] is the ordinal of the first term after it; or CORRUPT.
    """
    walk = scratch
    text = scratch + S_TEXT
    if open_block(field, block, walk) < 0:
        return CORRUPT
    last = min(16 * block + 16, load_i64(field + 8 * F_TERM_COUNT))
    while load_i64(walk + 8 * D_ORDINAL) < last:
        length = read_term(field, walk, row, text)
        if length < 0:
            return CORRUPT
        order = compare(text, length, term, size)
        if order == 0:
            return 1
        if order > 0:
            return 0
    store_i64(row, last)
    return 0


@kernel("quidditch_core.index.kernels.reference:dictionary_read")
def dictionary_read(
    field: int, start: int, stop: int, scratch: int, rows: int, text: int, text_size: int, ends: int,
) -> int:
    """Terms ``start`` .. ``stop`` - 1: rows int64 [n, 8], bytes one after another, ends int64 [n].

    Returns the number of terms that fitted into ``text_size`` bytes, or CORRUPT.
    """
    walk = scratch
    buffer = scratch + S_TEXT
    spare = scratch + S_SPARE
    used = 0
    count = 0
    if start >= stop:
        return 0
    if stop > load_i64(field + 8 * F_TERM_COUNT):
        return CORRUPT
    block = start >> 4
    if open_block(field, block, walk) < 0:
        return CORRUPT
    for ordinal in range(16 * block, stop):
        if ordinal & 15 == 0 and ordinal > 16 * block and open_block(field, ordinal >> 4, walk) < 0:
            return CORRUPT
        row = rows + 64 * count
        if ordinal < start:
            row = spare
        length = read_term(field, walk, row, buffer)
        if length < 0:
            return CORRUPT
        if ordinal < start:
            continue
        if used + length > text_size:
            break
        for i in range(length):
            store_u8(text + used + i, load_u8(buffer + i))
        used += length
        store_i64(ends + 8 * count, used)
        count += 1
    return count


@kernel("quidditch_core.index.kernels.reference:postings_read")
def postings_read(field: int, row: int, scratch: int, docs: int, freqs: int, size: int) -> int:
    """A term's postings: docs uint32 [size], freqs uint32 [size] (0: not wanted). Their number or CORRUPT."""
    df = load_i64(row + 8 * T_DF)
    if df > size or (df >= 128 and not has_headers(row, field)):
        return CORRUPT
    count = 0
    for block in range((df + 127) >> 7):
        n = decode_block(field, row, block, scratch, scratch + 512)
        if n <= 0:
            return CORRUPT
        for i in range(n):
            store_u32(docs + 4 * (count + i), load_u32(scratch + 4 * i))
        if freqs != 0:
            for i in range(n):
                store_u32(freqs + 4 * (count + i), load_u32(scratch + 512 + 4 * i))
        count += n
    return count


@kernel("quidditch_core.index.kernels.reference:postings_fill", bulk=True)
def postings_fill(field: int, rows: int, count: int, scratch: int, bitmap: int) -> int:
    """Set the bits of every document of ``count`` terms; 0 or CORRUPT."""
    for t in range(count):
        row = rows + 64 * t
        df = load_i64(row + 8 * T_DF)
        if df >= 128 and not has_headers(row, field):
            return CORRUPT
        for block in range((df + 127) >> 7):
            n = decode_block(field, row, block, scratch, scratch + 512)
            if n <= 0:
                return CORRUPT
            for i in range(n):
                doc = load_u32(scratch + 4 * i)
                word = bitmap + 8 * (doc >> 6)
                store_u64(word, load_u64(word) | (np.uint64(1) << np.uint64(doc & 63)))
    return 0


# --- writing -----------------------------------------------------------------------------------------------


@helper
def put_varint(at: int, value: int) -> int:
    while value >= 128:
        store_u8(at, (value & 127) | 128)
        at += 1
        value >>= 7
    store_u8(at, value)
    return at + 1


@inline_helper
def common_prefix(a: int, a_size: int, b: int, b_size: int) -> int:
    size = min(a_size, b_size)
    i = 0
    while i < size and load_u8(a + i) == load_u8(b + i):
        i += 1
    return i


@kernel("quidditch_core.index.kernels.reference:dictionary_write", bulk=True)
def dictionary_write(
    text: int, ends: int, rows: int, count: int,
    flags: int, out: int, sparse: int, first: int, first_ends: int,
) -> int:
    """Front-code ``count`` sorted terms with their rows (int64 [count, 8]); the number of bytes written.

    ``out`` holds at least len(text) + 64 * count bytes, ``first`` len(text); ``sparse`` uint64 and
    ``first_ends`` uint32 one entry a block (first_ends one more, beginning with 0).
    """
    at = out
    used = 0
    store_u32(first_ends, 0)
    for i in range(count):
        row = rows + 64 * i
        start = 0
        if i > 0:
            start = load_i64(ends + 8 * (i - 1))
        size = load_i64(ends + 8 * i) - start
        shared = 0
        if i & 15 == 0:
            store_u64(sparse + 8 * (i >> 4), np.uint64(at - out))
            for j in range(size):
                store_u8(first + used + j, load_u8(text + start + j))
            used += size
            store_u32(first_ends + 4 * (i >> 4) + 4, used)
            # A term of one document has no postings of its own: the block's offsets are those of the next.
            at = put_varint(at, load_i64(row + 24))
            at = put_varint(at, load_i64(row + 40))
            at = put_varint(at, load_i64(row + 48))
        else:
            before = 0
            if i > 1:
                before = load_i64(ends + 8 * (i - 2))
            shared = common_prefix(text + before, start - before, text + start, size)
        at = put_varint(at, shared)
        at = put_varint(at, size - shared)
        for j in range(shared, size):
            store_u8(at + j - shared, load_u8(text + start + j))
        at += size - shared
        df = load_i64(row + 8)
        at = put_varint(at, df)
        if flags & HAS_FREQS:
            at = put_varint(at, load_i64(row + 16) - df)
        at = put_varint(at, load_i64(row + 32))
        if flags & HAS_POSITIONS:
            at = put_varint(at, load_i64(row + 56))
    return at - out

"""From postings to bytes: the encoder of blocks and positions."""

from __future__ import annotations

from typing import Any

import numpy as np

from quidditch_core.index.kernels.blocks import ENTRY_BYTES, FAR, pack_vertical, tail_bytes, vertical_bytes
from quidditch_core.index.kernels.terms import put_varint
from quidditch_core.jit import (
    ctz,
    helper,
    inline_helper,
    kernel,
    load_f32,
    load_i64,
    load_u8,
    load_u32,
    load_u64,
    popcount,
    store_i64,
    store_u8,
    store_u16,
    store_u32,
)


@inline_helper
def bits_of(value: int) -> int:
    """Number of bits that hold ``value``."""
    bits = 0
    while value != 0:
        bits += 1
        value >>= 1
    return bits


@helper
def pack_tail(source: int, count: int, width: int, out: int) -> int:
    """A stream of ``width``-bit values; the bytes it took."""
    size = (count * width + 7) >> 3
    for i in range(size):
        store_u8(out + i, 0)
    bit = 0
    for i in range(count):
        value = load_u32(source + 4 * i) << (bit & 7)
        at = out + (bit >> 3)
        left = (bit & 7) + width
        while left > 0:
            store_u8(at, load_u8(at) | (value & 255))
            value >>= 8
            at += 1
            left -= 8
        bit += width
    return size


@inline_helper
def rounded_up(bound: Any) -> int:
    """A bound below 1 in 255ths."""
    wide = np.float64(bound) * 255.0
    code = np.int64(wide)
    return int(code + 1 if np.float64(code) < wide else code)


# Job of the encoder: int64 slots.
E_DOCS, E_FREQS, E_STARTS, E_TERMS, E_ROWS, E_POSITIONS, E_NORMS, E_TABLE = range(8)
E_OUT, E_OUT_USED, E_LAST, E_OFFSET, E_WIDTH, E_BOUND, E_BLOCKS = range(8, 15)
E_POS_OUT, E_POS_USED, E_ENTRIES, E_SCRATCH, E_HAS_FREQS, E_CODED, E_PLACES = range(15, 22)
E_SLOTS = 22


@helper
def encode_positions(source: int, freqs: int, count: int, out: int, entry: int, start: int) -> int:
    """Positions of one block, and the ``entry`` to them if there is one; the new end of ``out``."""
    at = out
    token = source
    if entry != 0:
        store_i64(entry, out - start)
        store_u32(entry + 8, 0)
    for i in range(count):
        if entry != 0 and i > 0 and i & 31 == 0:
            store_u16(entry + 4 + 2 * (i >> 5), min(at - out, FAR))
        previous = 0
        for _ in range(load_u32(freqs + 4 * i)):
            position = load_u32(token)
            at = put_varint(at, position - previous)
            previous = position
            token += 4
    return at


@helper
def skip_varints(at: int, count: int) -> int:
    """Behind the next ``count`` varints; up to 8 bytes more are read."""
    ends = np.uint64(0x8080808080808080)
    while count > 0:
        bits = ~load_u64(at) & ends
        found = popcount(bits)
        if found < count:
            count -= found
            at += 8
        else:
            while count > 1:
                bits = bits & (bits - np.uint64(1))
                count -= 1
            return at + (ctz(bits) >> 3) + 1
    return at


@helper
def mark_positions(at: int, freqs: int, count: int, entry: int, start: int) -> int:
    """The ``entry`` to the positions of one block, which are encoded already at ``at``; where they end."""
    store_i64(entry, at - start)
    store_u32(entry + 8, 0)
    begin = at
    tokens = 0
    for i in range(count):
        if i > 0 and i & 31 == 0:
            at = skip_varints(at, tokens)
            tokens = 0
            store_u16(entry + 4 + 2 * (i >> 5), min(at - begin, FAR))
        tokens += load_u32(freqs + 4 * i)
    return skip_varints(at, tokens)


@kernel("quidditch_core.index.kernels.reference:encode", bulk=True)
def encode(job: int) -> int:
    """Encode the postings of E_TERMS sorted terms behind what the buffers hold; fills rows int64 [terms, 8].

    Buffers are as large as the worst case: 8 bytes a posting and 96 a term for ``out``, 5 bytes a token for
    positions, one header for every 128 postings and one a term. Bounds are the greatest idf-free score of a
    block with the 256 factors of E_TABLE (Lucene: impacts), in 255ths. With E_CODED positions are encoded already,
    those of a term from E_PLACES[t] on. Returns 0.
    """
    docs = load_i64(job + 8 * E_DOCS)
    freqs = load_i64(job + 8 * E_FREQS)
    starts = load_i64(job + 8 * E_STARTS)
    terms = load_i64(job + 8 * E_TERMS)
    rows = load_i64(job + 8 * E_ROWS)
    positions = load_i64(job + 8 * E_POSITIONS)
    norms = load_i64(job + 8 * E_NORMS)
    table = load_i64(job + 8 * E_TABLE)
    base = load_i64(job + 8 * E_OUT)
    out = base + load_i64(job + 8 * E_OUT_USED)
    lasts = load_i64(job + 8 * E_LAST)
    offsets = load_i64(job + 8 * E_OFFSET)
    widths = load_i64(job + 8 * E_WIDTH)
    bounds = load_i64(job + 8 * E_BOUND)
    blocks = load_i64(job + 8 * E_BLOCKS)
    pos_base = load_i64(job + 8 * E_POS_OUT)
    pos_out = pos_base + load_i64(job + 8 * E_POS_USED)
    gaps = load_i64(job + 8 * E_SCRATCH)
    lows = gaps + 512
    has_freqs = load_i64(job + 8 * E_HAS_FREQS)
    coded = load_i64(job + 8 * E_CODED)
    places = load_i64(job + 8 * E_PLACES)
    coded_at = 0
    coded_start = 0
    one = np.float32(1.0)
    for t in range(terms):
        begin = load_i64(starts + 8 * t)
        end = load_i64(starts + 8 * t + 8)
        df = end - begin
        row = rows + 64 * t
        term_start = out
        pos_start = pos_out
        ttf = 0
        store_i64(row + 8, df)
        store_i64(row + 24, out - base)
        store_i64(row + 40, blocks)
        store_i64(row + 48, pos_out - pos_base)
        if coded != 0:
            coded_at = coded + load_i64(places + 8 * t)
            coded_start = coded_at
            pos_out += load_i64(places + 8 * t + 8) - load_i64(places + 8 * t)
        previous = -1
        first = begin
        while first < end:
            count = min(128, end - first)
            doc_bits = 0
            freq_bits = 0
            bound = np.float32(0.0)
            block_tokens = 0
            for i in range(count):
                doc = load_u32(docs + 4 * (first + i))
                gap = doc - previous - 1
                previous = doc
                store_u32(gaps + 4 * i, gap)
                doc_bits |= gap
                freq = load_u32(freqs + 4 * (first + i))
                block_tokens += freq
                store_u32(lows + 4 * i, freq - 1)
                freq_bits |= freq - 1
                if norms != 0:
                    score = one - one / (one + np.float32(freq) * load_f32(table + 4 * load_u8(norms + doc)))
                    bound = max(bound, score)
            doc_width = bits_of(doc_bits)
            freq_width = bits_of(freq_bits) if has_freqs else 0
            header = -1
            if df >= 128:
                header = blocks
                store_u32(lasts + 4 * blocks, previous)
                store_u32(offsets + 4 * blocks, (out - term_start) >> 5)
                store_u8(widths + 2 * blocks, doc_width)
                store_u8(widths + 2 * blocks + 1, freq_width)
                if norms != 0:
                    store_u8(bounds + blocks, rounded_up(bound))
                blocks += 1
            if df > 1:
                if count == 128:
                    size = vertical_bytes(doc_width) + vertical_bytes(freq_width)
                    for i in range(size):
                        store_u8(out + i, 0)
                    pack_vertical(gaps, doc_width, out)
                    pack_vertical(lows, freq_width, out + vertical_bytes(doc_width))
                    out += size
                else:
                    if df < 128:
                        store_u8(out, doc_width)
                        store_u8(out + 1, freq_width)
                        out += 2
                    size = tail_bytes(count, doc_width, freq_width)
                    done = pack_tail(gaps, count, doc_width, out)
                    pack_tail(lows, count, freq_width, out + done)
                    out += size
            entry = load_i64(job + 8 * E_ENTRIES) + ENTRY_BYTES * header if header >= 0 else 0
            if coded != 0:
                if entry != 0:
                    coded_at = mark_positions(coded_at, freqs + 4 * first, count, entry, coded_start)
            elif positions != 0:
                pos_out = encode_positions(positions, freqs + 4 * first, count, pos_out, entry, pos_start)
                positions += 4 * block_tokens
            ttf += block_tokens
            first += count
        store_i64(row + 16, ttf)
        store_i64(row + 32, out - term_start)
        if df == 1:
            store_i64(row + 32, load_u32(docs + 4 * begin))
        store_i64(row + 56, pos_out - pos_start)
    store_i64(job + 8 * E_OUT_USED, out - base)
    store_i64(job + 8 * E_BLOCKS, blocks)
    store_i64(job + 8 * E_POS_USED, pos_out - pos_base)
    return 0

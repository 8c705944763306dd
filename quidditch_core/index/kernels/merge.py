"""Merging: postings of one source, renumbered, into the slots of their merged terms; and into order there."""

from __future__ import annotations

import numpy as np

from quidditch_core.index.kernels.blocks import (
    C_DOC,
    CORRUPT,
    CURSOR_BYTES,
    END,
    T_DF,
    T_POSITIONS,
    T_POSITIONS_SIZE,
    cursor_freq,
    cursor_next,
    cursor_open,
    decode_block,
    has_headers,
)
from quidditch_core.index.kernels.phrase import STATE_BYTES, next_position, seek_positions
from quidditch_core.jit import (
    helper,
    inline_helper,
    kernel,
    load_i32,
    load_i64,
    load_u8,
    load_u32,
    load_u64,
    popcount,
    store_i64,
    store_u8,
    store_u32,
    store_u64,
)
from quidditch_core.segment import F_POSITIONS, F_POSITIONS_SIZE

SCRATCH_BYTES = STATE_BYTES

# What is known of a term's postings, int64 slots: postings, tokens, bytes of positions. Where they go, or how many.
S_POSTINGS, S_TOKENS, S_BYTES = range(3)
S_SLOTS = 3
NO, WHOLE, EACH = range(3)


@kernel("quidditch_core.index.kernels.reference:gather", bulk=True)
def gather(
    field: int, rows: int, count: int, map_: int, scratch: int,
    posting_slots: int, position_slots: int, docs: int, freqs: int, positions: int,
) -> int:
    """Visit the live postings of ``count`` terms of one segment.

    ``map_`` int32 [docs] gives each document's new number, negative if it is deleted. With ``docs`` 0 only the
    slots are counted up; else documents, frequencies and (unless 0) positions go to the slots, which move on.
    Slots are int64 [count]. Returns 0 or CORRUPT.
    """
    state = scratch
    for t in range(count):
        row = rows + 64 * t
        if load_i64(row + 8 * T_DF) >= 128 and not has_headers(row, field):
            return CORRUPT
        if cursor_open(state, field, row) < 0:
            return CORRUPT
        slot = load_i64(posting_slots + 8 * t)
        place = load_i64(position_slots + 8 * t)
        while load_i64(state + 8 * C_DOC) != END:
            doc = load_i32(map_ + 4 * load_i64(state + 8 * C_DOC))
            if doc >= 0:
                freq = cursor_freq(state)
                if docs != 0:
                    store_u32(docs + 4 * slot, doc)
                    store_u32(freqs + 4 * slot, freq)
                    if positions != 0:
                        if seek_positions(state) < 0:
                            return CORRUPT
                        for i in range(freq):
                            position = next_position(state + CURSOR_BYTES)
                            if position < 0 or position == END:
                                return CORRUPT
                            store_u32(positions + 4 * (place + i), position)
                slot += 1
                place += freq
            if cursor_next(state) < 0:
                return CORRUPT
        store_i64(posting_slots + 8 * t, slot)
        store_i64(position_slots + 8 * t, place)
    return 0


@inline_helper
def copy_bytes(to: int, at: int, size: int) -> None:
    done = 0
    while done + 8 <= size:
        store_u64(to + done, load_u64(at + done))
        done += 8
    while done < size:
        store_u8(to + done, load_u8(at + done))
        done += 1


@helper
def copy_varints(to: int, at: int, size: int) -> int:
    """Copy ``size`` bytes, or none if ``to`` is 0; how many varints end in them, -1 if the last one does not."""
    ends = np.uint64(0x8080808080808080)
    found = 0
    done = 0
    while done + 8 <= size:
        word = load_u64(at + done)
        if to != 0:
            store_u64(to + done, word)
        found += popcount(~word & ends)
        done += 8
    byte = load_u8(at + done - 1) if done > 0 else 0
    while done < size:
        byte = load_u8(at + done)
        if to != 0:
            store_u8(to + done, byte)
        if byte < 128:
            found += 1
        done += 1
    return found if byte < 128 else -1


@kernel("quidditch_core.index.kernels.reference:take", bulk=True)
def take(
    field: int, rows: int, count: int, map_: int, scratch: int, slots: int, docs: int, freqs: int, sizes: int,
    positions: int, with_positions: int,
) -> int:
    """Visit the live postings of ``count`` terms of one segment; positions stay the bytes that they are.

    ``map_`` is that of :func:`gather`; ``slots`` int64 [count, S_SLOTS] move on by what is visited. With ``docs`` 0
    that is all; else documents and frequencies go to the slots, and unless ``with_positions`` is NO the bytes of the
    positions: WHOLE terms, where all documents live, or of EACH posting, and to ``sizes``, unless it is 0, how many
    bytes those are. Returns 0 or CORRUPT.
    """
    lives = scratch
    counts = scratch + 512
    base = load_i64(field + 8 * F_POSITIONS)
    for t in range(count):
        row = rows + 64 * t
        df = load_i64(row + 8 * T_DF)
        if df < 0 or (df >= 128 and not has_headers(row, field)):
            return CORRUPT
        slot = load_i64(slots + 24 * t + 8 * S_POSTINGS)
        tokens = load_i64(slots + 24 * t + 8 * S_TOKENS)
        place = load_i64(slots + 24 * t + 8 * S_BYTES)
        before = tokens
        at = load_i64(row + 8 * T_POSITIONS)
        end = at + load_i64(row + 8 * T_POSITIONS_SIZE)
        if with_positions != 0 and (base == 0 or at < 0 or end < at or end > load_i64(field + 8 * F_POSITIONS_SIZE)):
            return CORRUPT
        at += base
        end += base
        kept = at  # positions from here on are to be copied
        for block in range((df + 127) >> 7):
            size = decode_block(field, row, block, lives, counts)
            if size <= 0:
                return CORRUPT
            for i in range(size):
                doc = load_i32(map_ + 4 * load_u32(lives + 4 * i))
                freq = load_u32(counts + 4 * i)
                begin = at
                if with_positions == EACH:
                    left = freq
                    while left > 0:
                        if at >= end:
                            return CORRUPT
                        if load_u8(at) < 128:
                            left -= 1
                        at += 1
                if doc >= 0:
                    if docs != 0:
                        store_u32(docs + 4 * slot, doc)
                        store_u32(freqs + 4 * slot, freq)
                        if sizes != 0:
                            store_u32(sizes + 4 * slot, at - begin)
                    slot += 1
                    tokens += freq
                else:
                    if docs != 0 and with_positions == EACH:
                        copy_bytes(positions + place, kept, begin - kept)
                    place += begin - kept
                    kept = at
        if with_positions == WHOLE:
            if copy_varints(0 if docs == 0 else positions + place, at, end - at) != tokens - before:
                return CORRUPT
            place += end - at
        elif with_positions == EACH:
            if at != end:
                return CORRUPT
            if docs != 0:
                copy_bytes(positions + place, kept, at - kept)
            place += at - kept
        store_i64(slots + 24 * t + 8 * S_POSTINGS, slot)
        store_i64(slots + 24 * t + 8 * S_TOKENS, tokens)
        store_i64(slots + 24 * t + 8 * S_BYTES, place)
    return 0


@helper
def merge_runs(a: int, b: int, count: int) -> int:
    """Sort int64 keys at ``a`` by merging runs that ascend, to and fro between ``a`` and ``b``; where they end up."""
    while True:
        runs = 0
        first = 0
        while first < count:
            middle = first + 1
            while middle < count and load_i64(a + 8 * middle - 8) <= load_i64(a + 8 * middle):
                middle += 1
            last = middle
            if middle < count:
                last = middle + 1
                while last < count and load_i64(a + 8 * last - 8) <= load_i64(a + 8 * last):
                    last += 1
            elif runs == 0:
                return a
            left = first
            right = middle
            for i in range(first, last):
                if right >= last or (left < middle and load_i64(a + 8 * left) <= load_i64(a + 8 * right)):
                    store_i64(b + 8 * i, load_i64(a + 8 * left))
                    left += 1
                else:
                    store_i64(b + 8 * i, load_i64(a + 8 * right))
                    right += 1
            runs += 1
            first = last
        a, b = b, a


@kernel("quidditch_core.index.kernels.reference:arrange", bulk=True)
def arrange(
    starts: int, terms: int, docs: int, freqs: int, sizes: int, positions: int, places: int, scratch: int,
) -> int:
    """Put the postings of each term, starts[t] .. starts[t + 1], into the order of documents.

    Postings are as :func:`take` leaves them; the positions of term t begin at places[t] bytes; ``sizes`` is 0 where
    there are none. ``scratch``: 28 bytes for each posting of the longest term, then its bytes of positions. Returns 0.
    """
    for t in range(terms):
        first = load_i64(starts + 8 * t)
        count = load_i64(starts + 8 * t + 8) - first
        i = 1
        while i < count and load_u32(docs + 4 * (first + i - 1)) < load_u32(docs + 4 * (first + i)):
            i += 1
        if i >= count:
            continue
        keys = scratch
        old = scratch + 16 * count  # frequency, size, and place of each posting as it was
        for i in range(count):
            store_i64(keys + 8 * i, load_u32(docs + 4 * (first + i)) << 32 | i)
        keys = merge_runs(keys, keys + 8 * count, count)
        place = load_i64(places + 8 * t)
        base = positions + place
        total = 0
        for i in range(count):
            store_u32(old + 12 * i, load_u32(freqs + 4 * (first + i)))
            if sizes != 0:
                store_u32(old + 12 * i + 4, load_u32(sizes + 4 * (first + i)))
                store_u32(old + 12 * i + 8, total)
                total += load_u32(sizes + 4 * (first + i))
        bytes_ = old + 12 * count
        if sizes != 0:
            copy_bytes(bytes_, base, total)
        for i in range(count):
            key = load_i64(keys + 8 * i)
            store_u32(docs + 4 * (first + i), key >> 32)
            from_ = old + 12 * (key & 0xFFFFFFFF)
            store_u32(freqs + 4 * (first + i), load_u32(from_))
            if sizes != 0:
                size = load_u32(from_ + 4)
                store_u32(sizes + 4 * (first + i), size)
                copy_bytes(base, bytes_ + load_u32(from_ + 8), size)
                base += size
    return 0

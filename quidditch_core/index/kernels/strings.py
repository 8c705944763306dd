"""Distinct strings: their numbers, and their order."""

from __future__ import annotations

from typing import Any

import numpy as np

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

# State of an interner: int64 slots.
I_TERMS, I_USED, I_MASK, I_TABLE, I_ENDS, I_MAX_TERMS, I_ARENA, I_ARENA_SIZE, I_FOLD, I_SCRATCH = range(10)
I_SLOTS = 10
ENTRY = 16
"""Bytes of an entry of the table: u64 key, u32 number + 1 (0: free), u32 size."""
GROUP = 64
"""Strings whose entries are fetched together, so that their cache misses overlap."""
SCRATCH_BYTES = 24 * GROUP

FOLD = -0x7F7F7F7F7F7F7F80
"""I_FOLD that makes ASCII capitals small: the high bit of each byte. 0 leaves them."""

MIX = 0x9E3779B97F4A7C15
PRIME = 0xD6E8FEB86659FD93


@inline_helper
def word_at(at: int, fold: Any) -> Any:
    """Eight bytes; with FOLD, ASCII capitals made small."""
    word = load_u64(at)
    low = word & np.uint64(0x7F7F7F7F7F7F7F7F)
    capitals = ((low + np.uint64(0x2525252525252525)) ^ (low + np.uint64(0x3F3F3F3F3F3F3F3F))) & ~word & fold
    return word | (capitals >> np.uint64(2))


@inline_helper
def key_of(at: int, size: int, fold: Any) -> Any:
    """The bytes of a string of up to eight, zeros behind them; the hash of a longer one."""
    word = word_at(at, fold)
    if size <= 8:
        half = np.uint64(4 * size)  # a shift by 64 bits would be none
        word &= ~((np.uint64(0xFFFFFFFFFFFFFFFF) << half) << half)
    else:
        word = (word ^ np.uint64(size)) * np.uint64(PRIME)
        done = 8
        while done + 8 < size:
            word ^= word >> np.uint64(29)
            word = (word ^ word_at(at + done, fold)) * np.uint64(PRIME)
            done += 8
        word ^= word >> np.uint64(29)
        word = (word ^ word_at(at + size - 8, fold)) * np.uint64(PRIME)
    return word


@inline_helper
def slot_of(key: Any, mask: int) -> Any:
    value = (key ^ (key >> np.uint64(32))) * np.uint64(MIX)
    return np.int64((value ^ (value >> np.uint64(29))) & np.uint64(mask))


@helper
def same_string(a: int, b: int, size: int, fold: Any) -> bool:
    """Whether ``size`` > 8 bytes are the same; those at ``b`` are folded, if at all."""
    i = 0
    while i + 8 <= size:
        if load_u64(a + i) != word_at(b + i, fold):
            return False
        i += 8
    return load_u64(a + size - 8) == word_at(b + size - 8, fold)


@helper
def write_string(to: int, at: int, size: int, fold: Any) -> None:
    """Copy a string; what is behind it, up to 8 bytes, may be written too."""
    i = 0
    while i < size:
        store_u64(to + i, word_at(at + i, fold))
        i += 8


@kernel("quidditch_core.index.kernels.reference:intern", bulk=True)
def intern(state: int, data: int, spans: int, begin: int, count: int, ids: int) -> int:
    """Give each distinct byte string a number, in order of first sight.

    Token i of ``begin`` .. ``count`` - 1 is the span i, uint64 first byte | bytes << 32, of ``data``, behind which 8
    bytes can be read; ids uint32 [count]. With FOLD as I_FOLD ASCII capitals count as small letters. The arena keeps
    the strings (ends int64), 8 bytes longer than its size says. Returns how many tokens were done; fewer than
    ``count`` means that the table, the arena or ``ends`` must grow first.
    """
    terms = load_i64(state + 8 * I_TERMS)
    used = load_i64(state + 8 * I_USED)
    mask = load_i64(state + 8 * I_MASK)
    table = load_i64(state + 8 * I_TABLE)
    ends = load_i64(state + 8 * I_ENDS)
    arena = load_i64(state + 8 * I_ARENA)
    arena_size = load_i64(state + 8 * I_ARENA_SIZE)
    fold = load_u64(state + 8 * I_FOLD)
    keys = load_i64(state + 8 * I_SCRATCH)
    slots = keys + 8 * GROUP
    seen = slots + 8 * GROUP
    most = min(load_i64(state + 8 * I_MAX_TERMS), mask >> 1)
    done = begin
    full = False
    while done < count and not full:
        some = min(GROUP, count - done)
        for i in range(some):
            span = load_i64(spans + 8 * (done + i))
            key = key_of(data + (span & 0xFFFFFFFF), span >> 32, fold)
            slot = slot_of(key, mask)
            store_u64(keys + 8 * i, key)
            store_i64(slots + 8 * i, slot)
            store_i64(seen + 8 * i, load_u32(table + ENTRY * slot + 8))
        i = 0
        while i < some:
            span = load_i64(spans + 8 * (done + i))
            size = span >> 32
            at = data + (span & 0xFFFFFFFF)
            key = load_u64(keys + 8 * i)
            slot = load_i64(slots + 8 * i)
            number = -1
            while True:
                entry = table + ENTRY * slot
                number = load_u32(entry + 8) - 1
                if number < 0:
                    break
                if load_u64(entry) == key and load_u32(entry + 12) == size:
                    if size <= 8:
                        break
                    end = load_i64(ends + 8 * number)
                    if same_string(arena + end - size, at, size, fold):
                        break
                slot = (slot + 1) & mask
            if number < 0:
                if terms >= most or used + size > arena_size:
                    full = True
                    break
                write_string(arena + used, at, size, fold)
                used += size
                store_i64(ends + 8 * terms, used)
                number = terms
                terms += 1
                store_u64(entry, key)
                store_u32(entry + 8, terms)
                store_u32(entry + 12, size)
            store_u32(ids + 4 * (done + i), number)
            i += 1
        done += i
    store_i64(state + 8 * I_TERMS, terms)
    store_i64(state + 8 * I_USED, used)
    return done


@kernel("quidditch_core.index.kernels.reference:rehash", bulk=True)
def rehash(old: int, size: int, table: int, mask: int) -> int:
    """Move the entries of a table of ``size`` into an empty one of ``mask`` + 1."""
    for i in range(size):
        entry = old + ENTRY * i
        number = load_u32(entry + 8)
        if number != 0:
            slot = slot_of(load_u64(entry), mask)
            while load_u32(table + ENTRY * slot + 8) != 0:
                slot = (slot + 1) & mask
            store_u64(table + ENTRY * slot, load_u64(entry))
            store_u32(table + ENTRY * slot + 8, number)
            store_u32(table + ENTRY * slot + 12, load_u32(entry + 12))
    return 0


@helper
def start_of(ends: int, number: int) -> int:
    return load_i64(ends + 8 * (number - 1)) if number > 0 else 0


@kernel("quidditch_core.index.kernels.reference:prefixes", bulk=True)
def prefixes(numbers: int, count: int, ends: int, arena: int, out: int) -> int:
    """The first eight bytes of strings as uint64 that compare as they do; zeros stand for what a string lacks.

    String n is arena[ends[n - 1] : ends[n]]; 8 bytes can be read behind the last.
    """
    for i in range(count):
        number = load_u32(numbers + 4 * i)
        start = start_of(ends, number)
        size = load_i64(ends + 8 * number) - start
        value = load_u64(arena + start)
        if size < 8:
            value &= (np.uint64(1) << np.uint64(8 * size)) - np.uint64(1)
        low = np.uint64(0x00FF00FF00FF00FF)
        value = (value & low) << np.uint64(8) | value >> np.uint64(8) & low
        low = np.uint64(0x0000FFFF0000FFFF)
        value = (value & low) << np.uint64(16) | value >> np.uint64(16) & low
        store_u64(out + 8 * i, value << np.uint64(32) | value >> np.uint64(32))
    return 0


@helper
def is_less(a: int, b: int, ends: int, arena: int) -> bool:
    """Whether string ``a`` sorts before string ``b``."""
    start_a, start_b = start_of(ends, a), start_of(ends, b)
    size_a, size_b = load_i64(ends + 8 * a) - start_a, load_i64(ends + 8 * b) - start_b
    i = 0
    both = min(size_a, size_b)
    while i < both:
        byte_a, byte_b = load_u8(arena + start_a + i), load_u8(arena + start_b + i)
        if byte_a != byte_b:
            return byte_a < byte_b
        i += 1
    return size_a < size_b


@kernel("quidditch_core.index.kernels.reference:settle", bulk=True)
def settle(numbers: int, keys: int, count: int, ends: int, arena: int, scratch: int) -> int:
    """Sort strings that are sorted by their ``prefixes``, uint64 keys in their order: those whose keys are equal.

    Merge sort of each run of equal keys; scratch uint32 [count].
    """
    begin = 0
    while begin < count:
        end = begin + 1
        key = load_u64(keys + 8 * begin)
        while end < count and load_u64(keys + 8 * end) == key:
            end += 1
        width = 1
        while width < end - begin:
            left = begin
            while left + width < end:
                middle, right = left + width, min(left + 2 * width, end)
                i, j, k = left, middle, left
                while i < middle and j < right:
                    a, b = load_u32(numbers + 4 * i), load_u32(numbers + 4 * j)
                    if is_less(b, a, ends, arena):
                        store_u32(scratch + 4 * k, b)
                        j += 1
                    else:
                        store_u32(scratch + 4 * k, a)
                        i += 1
                    k += 1
                while i < middle:
                    store_u32(scratch + 4 * k, load_u32(numbers + 4 * i))
                    i += 1
                    k += 1
                for done in range(left, k):
                    store_u32(numbers + 4 * done, load_u32(scratch + 4 * done))
                left = right
            width *= 2
        begin = end
    return 0


@kernel("quidditch_core.index.kernels.reference:spell", bulk=True)
def spell(numbers: int, count: int, ends: int, arena: int, out: int, out_ends: int) -> int:
    """Write strings one behind the other, and int64 where each ends; 8 more bytes can be written. Their size."""
    used = 0
    for i in range(count):
        number = load_u32(numbers + 4 * i)
        start = start_of(ends, number)
        size = load_i64(ends + 8 * number) - start
        write_string(out + used, arena + start, size, np.uint64(0))
        used += size
        store_i64(out_ends + 8 * i, used)
    return used


@kernel("quidditch_core.index.kernels.reference:beyond_ascii", bulk=True)
def beyond_ascii(count: int, ends: int, arena: int, out: int) -> int:
    """Write uint8 [count]: whether a string has a byte of 128 or more. Returns how many have."""
    found = 0
    at = 0
    for i in range(count):
        end = load_i64(ends + 8 * i)
        bits = 0
        while at < end:
            bits |= load_u8(arena + at)
            at += 1
        store_u8(out + i, bits >> 7)
        found += bits >> 7
    return found

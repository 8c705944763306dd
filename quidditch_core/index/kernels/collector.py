"""The best hits of a search: a buffer of keys that is cut to the best LIMIT whenever it is full.

A key is an int64, score bits << 32 | 2^32 - 1 - document: greater is better, and of equal scores the first
document is. FLOOR is the key that a hit must beat; it rises whenever the buffer is cut.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quidditch_core.jit import bits_f32, f32_bits, helper, inline_helper, load_i64, store_i64

# Output: int64 slots, then the keys. BLOCKS, POSTINGS and RANGES count the work, for profiles.
O_COUNT, O_FOUND, O_FLOOR, O_LIMIT, O_CAPACITY, O_BLOCKS, O_POSTINGS, O_RANGES = range(8)
O_KEYS = 64
CORE = 32
"""Spare keys beyond twice the limit; cutting a buffer costs about as much as filling it."""


def collector_bytes(limit: int) -> int:
    """Bytes of a collector of ``limit`` hits."""
    return O_KEYS + 8 * capacity(limit)


def capacity(limit: int) -> int:
    return 2 * limit + CORE


@helper
def begin(out: int, limit: int) -> None:
    """An empty collector of the best ``limit`` keys."""
    for slot in range(8):
        store_i64(out + 8 * slot, 0)
    store_i64(out + 8 * O_FLOOR, -1)
    store_i64(out + 8 * O_LIMIT, limit)
    store_i64(out + 8 * O_CAPACITY, 2 * limit + CORE)


@inline_helper
def key_of(score: Any, doc: int) -> int:
    return (f32_bits(score) << 32) | (0xFFFFFFFF - doc)


@inline_helper
def floor_score(out: int) -> Any:
    """A hit that scores less cannot be wanted; -1 while everything is."""
    floor = load_i64(out + 8 * O_FLOOR)
    return bits_f32((floor + 1) >> 32) if floor >= 0 else np.float32(-1.0)


@inline_helper
def partition(keys: int, low: int, high: int) -> Any:
    """Hoare's partition of keys low .. high: (i, j); those up to j are not below any from i on."""
    a = load_i64(keys + 8 * low)
    b = load_i64(keys + 8 * ((low + high) >> 1))
    c = load_i64(keys + 8 * high)
    pivot = max(min(a, b), min(max(a, b), c))
    i = low
    j = high
    while i <= j:
        while load_i64(keys + 8 * i) > pivot:
            i += 1
        while load_i64(keys + 8 * j) < pivot:
            j -= 1
        if i <= j:
            key = load_i64(keys + 8 * i)
            store_i64(keys + 8 * i, load_i64(keys + 8 * j))
            store_i64(keys + 8 * j, key)
            i += 1
            j -= 1
    return i, j


@helper
def select(keys: int, count: int, wanted: int) -> None:
    """Move the ``wanted`` greatest keys to the front, the least of them last (Hoare's quickselect)."""
    nth = wanted - 1
    low = 0
    high = count - 1
    while low < high:
        i, j = partition(keys, low, high)
        if nth <= j:
            high = j
        elif nth >= i:
            low = i
        else:
            break


@helper
def cut(out: int) -> None:
    """Keep the best LIMIT keys and raise the floor to the last of them."""
    limit = load_i64(out + 8 * O_LIMIT)
    if limit > 0 and load_i64(out + 8 * O_COUNT) >= limit:
        select(out + O_KEYS, load_i64(out + 8 * O_COUNT), limit)
        store_i64(out + 8 * O_COUNT, limit)
        store_i64(out + 8 * O_FLOOR, max(load_i64(out + 8 * O_FLOOR), load_i64(out + O_KEYS + 8 * (limit - 1))))


@inline_helper
def push(out: int, key: int) -> None:
    if key > load_i64(out + 8 * O_FLOOR):
        count = load_i64(out + 8 * O_COUNT)
        store_i64(out + O_KEYS + 8 * count, key)
        store_i64(out + 8 * O_COUNT, count + 1)
        if count + 1 >= load_i64(out + 8 * O_CAPACITY):
            cut(out)


@helper
def sort_keys(keys: int, count: int) -> None:
    """Descending order: quicksort down to 16 keys, then insertion."""
    # Ranges still to sort, the longer ones below: at most 64 of them.
    top = keys + 8 * count
    store_i64(top, 0)
    store_i64(top + 8, count - 1)
    bottom = 1
    while bottom > 0:
        bottom -= 1
        low = load_i64(top + 16 * bottom)
        high = load_i64(top + 16 * bottom + 8)
        while high - low > 16:
            i, j = partition(keys, low, high)
            if j - low > high - i:
                store_i64(top + 16 * bottom, low)
                store_i64(top + 16 * bottom + 8, j)
                low = i
            else:
                store_i64(top + 16 * bottom, i)
                store_i64(top + 16 * bottom + 8, high)
                high = j
            bottom += 1
    for i in range(1, count):
        key = load_i64(keys + 8 * i)
        at = i
        while at > 0 and load_i64(keys + 8 * (at - 1)) < key:
            store_i64(keys + 8 * at, load_i64(keys + 8 * (at - 1)))
            at -= 1
        store_i64(keys + 8 * at, key)


@helper
def finish(out: int) -> None:
    """Leave the best keys, best first."""
    cut(out)
    sort_keys(out + O_KEYS, load_i64(out + 8 * O_COUNT))

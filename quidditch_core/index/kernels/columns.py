"""Columns: from a range to a bitmap, and from a bitmap to counts, sums and the first rows of an order.

A column is ``rows`` unsigned integers of ``width`` 0, 1, 2 or 4 bytes, or signed ones of 8; a row's code is ``base``
plus its integer, modulo 2^64. With a bitmap of 0 all rows are meant. One loop serves every width: it is inlined once
for each, with the width as a constant.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quidditch_core.index.kernels.blocks import CORRUPT
from quidditch_core.jit import (
    ctz,
    helper,
    inline_helper,
    kernel,
    load_i64,
    load_u8,
    load_u16,
    load_u32,
    load_u64,
    popcount,
    store_f64,
    store_i64,
    store_u32,
    store_u64,
)
from quidditch_core.segment import GRANULE

LEAST, MOST = -(2**63), 2**63 - 1
ONES = 0xFFFFFFFFFFFFFFFF
REFERENCE = "quidditch_core.index.kernels.reference:"

# Slots of a summary: how many rows, their least and greatest code, the sum of their integers (the low 32 bits and the
# rest apart), and as float64 the sum of their numbers and what rounding took from it.
S_COUNT, S_LEAST, S_MOST, S_LOW, S_HIGH, S_SUM, S_LOST = range(7)
S_SLOTS = 7


@inline_helper
def integer(values: int, width: int, row: int) -> int:
    if width == 1:
        return load_u8(values + row)
    if width == 2:
        return load_u16(values + 2 * row)
    if width == 4:
        return load_u32(values + 4 * row)
    if width == 8:
        return load_i64(values + 8 * row)
    return 0


@inline_helper
def word_in(values: int, width: int, row: int, size: int, shift: int, span: Any) -> Any:
    """Which of ``size`` (at most 64) rows from ``row`` on hold an integer that plus ``shift`` is at most ``span``."""
    word = np.uint64(0)
    if size == 64:
        for j in range(64):
            inside = np.uint64(integer(values, width, row + j) + shift) <= span
            word |= np.uint64(inside) << np.uint64(j)
    else:
        for j in range(size):
            inside = np.uint64(integer(values, width, row + j) + shift) <= span
            word |= np.uint64(inside) << np.uint64(j)
    return word


@inline_helper
def word_of(bitmap: int, row: int, rows: int) -> Any:
    """The bits of the rows from ``row``, a multiple of 64, that are meant."""
    word = np.uint64(ONES)
    if rows - row < 64:
        word = (np.uint64(1) << np.uint64(rows - row)) - np.uint64(1)
    return word & load_u64(bitmap + (row >> 3)) if bitmap != 0 else word


# --- filters -----------------------------------------------------------------------------------------------


@inline_helper
def in_range_of(
    values: int, width: int, base: int, rows: int, low: int, high: int, least: int, most: int, bitmap: int,
) -> int:
    span = np.uint64(high - low)
    read = 0
    for granule in range((rows + GRANULE - 1) // GRANULE):
        small = load_i64(least + 8 * granule)
        large = load_i64(most + 8 * granule)
        if large < low or small > high:
            continue
        row = granule * GRANULE
        end = min(row + GRANULE, rows)
        if small >= low and large <= high:
            while row < end:
                store_u64(bitmap + (row >> 3), word_of(0, row, rows))
                row += 64
        else:
            read += 1
            while row < end:
                store_u64(bitmap + (row >> 3), word_in(values, width, row, min(64, end - row), base - low, span))
                row += 64
    return read


@kernel(REFERENCE + "in_range")
def in_range(
    values: int, width: int, base: int, rows: int, low: int, high: int, least: int, most: int, bitmap: int,
) -> int:
    """Set the bits of the rows with a code in [low, high]; the number of granules that had to be read.

    ``least`` and ``most`` int64 [granules] bound the codes of each granule; ``bitmap`` uint64 [rows // 64 + 1], zeroed.
    """
    if width == 1:
        return in_range_of(values, 1, base, rows, low, high, least, most, bitmap)
    if width == 2:
        return in_range_of(values, 2, base, rows, low, high, least, most, bitmap)
    if width == 4:
        return in_range_of(values, 4, base, rows, low, high, least, most, bitmap)
    if width == 8:
        return in_range_of(values, 8, base, rows, low, high, least, most, bitmap)
    return in_range_of(values, 0, base, rows, low, high, least, most, bitmap)


@kernel(REFERENCE + "with_any")
def with_any(starts: int, width: int, base: int, docs: int, rows: int, bitmap: int) -> int:
    """Set in ``bitmap`` the documents that have any of the rows of the bitmap ``rows``.

    ``starts`` says where the rows of each document begin, and ends with their number. Returns 0.
    """
    start = base + integer(starts, width, 0)
    for doc in range(docs):
        end = base + integer(starts, width, doc + 1)
        found = np.uint64(0)
        for row in range(start, end):
            found |= load_u64(rows + 8 * (row >> 6)) >> np.uint64(row & 63)
        at = bitmap + 8 * (doc >> 6)
        store_u64(at, load_u64(at) | ((found & np.uint64(1)) << np.uint64(doc & 63)))
        start = end
    return 0


@kernel(REFERENCE + "rows_of")
def rows_of(starts: int, width: int, base: int, docs: int, bitmap: int, rows: int) -> int:
    """Set in ``rows`` the rows of the documents of ``bitmap``; the inverse of :func:`with_any`."""
    for first in range(0, docs, 64):
        word = word_of(bitmap, first, docs)
        while word != np.uint64(0):
            doc = first + ctz(word)
            word &= word - np.uint64(1)
            for row in range(base + integer(starts, width, doc), base + integer(starts, width, doc + 1)):
                at = rows + 8 * (row >> 6)
                store_u64(at, load_u64(at) | (np.uint64(1) << np.uint64(row & 63)))
    return 0


# --- counts ------------------------------------------------------------------------------------------------


@inline_helper
def add_one(counts: int, number: int, size: int) -> None:
    at = counts + 4 * min(np.uint64(number), np.uint64(size))
    store_u32(np.int64(at), load_u32(np.int64(at)) + 1)


@inline_helper
def count_integers_of(values: int, width: int, rows: int, bitmap: int, counts: int, size: int, stride: int) -> int:
    for row in range(0, rows, 64):
        word = word_of(bitmap, row, rows)
        if word == np.uint64(ONES):
            for j in range(0, 64, 4):
                add_one(counts, integer(values, width, row + j), size)
                add_one(counts + stride, integer(values, width, row + j + 1), size)
                add_one(counts + 2 * stride, integer(values, width, row + j + 2), size)
                add_one(counts + 3 * stride, integer(values, width, row + j + 3), size)
        while word != np.uint64(0) and word != np.uint64(ONES):
            add_one(counts, integer(values, width, row + ctz(word)), size)
            word &= word - np.uint64(1)
    return 0


@kernel(REFERENCE + "count_integers")
def count_integers(values: int, width: int, rows: int, bitmap: int, counts: int, size: int, stride: int) -> int:
    """Count how often each integer below ``size`` occurs; those that are not below it are counted at ``size``.

    ``counts`` are four tables of uint32 [size + 1], ``stride`` bytes apart, whose sum is the answer: equal neighbours
    do not wait for each other. A stride of 0 makes them one. Returns 0.
    """
    if width == 1:
        return count_integers_of(values, 1, rows, bitmap, counts, size, stride)
    if width == 2:
        return count_integers_of(values, 2, rows, bitmap, counts, size, stride)
    if width == 4:
        return count_integers_of(values, 4, rows, bitmap, counts, size, stride)
    if width == 8:
        return count_integers_of(values, 8, rows, bitmap, counts, size, stride)
    return count_integers_of(values, 0, rows, bitmap, counts, size, stride)


@inline_helper
def bucket_of(edges: int, buckets: int, code: int, origin: float, scale: float) -> int:
    """The last bucket that begins at or before ``code``, which is not before the first: guessed, else searched for.

    The guess is right where the edges are evenly spaced; that of a month is beside it at most.
    """
    guess = max(0, min(int((np.float64(code) - origin) * scale), buckets - 1))
    guess -= int(load_i64(edges + 8 * guess) > code)
    after = min(guess + 1, buckets - 1)
    guess += int(load_i64(edges + 8 * after) <= code) * (after - guess)
    after = min(guess + 1, buckets - 1)
    if load_i64(edges + 8 * guess) <= code and (after == guess or load_i64(edges + 8 * after) > code):
        return guess
    low = 0
    high = buckets
    while high - low > 1:
        middle = (low + high) >> 1
        if load_i64(edges + 8 * middle) <= code:
            low = middle
        else:
            high = middle
    return low


@inline_helper
def count_between_of(
    values: int, width: int, base: int, rows: int, bitmap: int, edges: int, buckets: int, last: int, counts: int,
) -> int:
    first = load_i64(edges)
    origin = np.float64(first)
    scale = 1.0
    if buckets > 2:  # the first bucket may be cut
        second = np.float64(load_i64(edges + 8))
        step = (np.float64(load_i64(edges + 8 * (buckets - 1))) - second) / (buckets - 2)
        scale = 1.0 / step
        origin = second - step
    low = first
    high = last if buckets == 1 else load_i64(edges + 8) - 1
    bucket = 0
    here = 0
    for row in range(0, rows, 64):
        word = word_of(bitmap, row, rows)
        if word == np.uint64(0):
            continue
        same = word & word_in(values, width, row, min(64, rows - row), base - low, np.uint64(high - low))
        here += popcount(same)
        word &= ~same
        while word != np.uint64(0):
            code = base + integer(values, width, row + ctz(word))
            word &= word - np.uint64(1)
            if code < low or code > high:
                if code < first or code > last:
                    return CORRUPT
                store_i64(counts + 8 * bucket, load_i64(counts + 8 * bucket) + here)
                here = 0
                bucket = bucket_of(edges, buckets, code, origin, scale)
                low = load_i64(edges + 8 * bucket)
                high = last if bucket == buckets - 1 else load_i64(edges + 8 * (bucket + 1)) - 1
            here += 1
    store_i64(counts + 8 * bucket, load_i64(counts + 8 * bucket) + here)
    return 0


@kernel(REFERENCE + "count_between")
def count_between(
    values: int, width: int, base: int, rows: int, bitmap: int, edges: int, buckets: int, last: int, counts: int,
) -> int:
    """Count the rows of each bucket: those with a code from its edge to the next, and to ``last`` for the last one.

    ``edges`` int64 [buckets], ascending; ``counts`` int64 [buckets], zeroed. Returns 0, or CORRUPT where a code lies
    outside of all buckets.
    """
    if width == 1:
        return count_between_of(values, 1, base, rows, bitmap, edges, buckets, last, counts)
    if width == 2:
        return count_between_of(values, 2, base, rows, bitmap, edges, buckets, last, counts)
    if width == 4:
        return count_between_of(values, 4, base, rows, bitmap, edges, buckets, last, counts)
    if width == 8:
        return count_between_of(values, 8, base, rows, bitmap, edges, buckets, last, counts)
    return count_between_of(values, 0, base, rows, bitmap, edges, buckets, last, counts)


# --- sums --------------------------------------------------------------------------------------------------


@inline_helper
def number(code: int) -> Any:
    """The float64 of a code."""
    return np.int64(code ^ ((code >> 63) & MOST)).view(np.float64)


@inline_helper
def sum_codes_of(values: int, width: int, base: int, rows: int, bitmap: int, out: int) -> int:
    count = 0
    least = MOST
    most = LEAST
    low_sum = 0
    high_sum = 0
    for row in range(0, rows, 64):
        word = word_of(bitmap, row, rows)
        if word == np.uint64(ONES):
            count += 64
            for j in range(64):
                value = integer(values, width, row + j)
                least = min(least, value)
                most = max(most, value)
                low_sum += value & 0xFFFFFFFF
                high_sum += value >> 32
        else:
            count += popcount(word)
            while word != np.uint64(0):
                value = integer(values, width, row + ctz(word))
                word &= word - np.uint64(1)
                least = min(least, value)
                most = max(most, value)
                low_sum += value & 0xFFFFFFFF
                high_sum += value >> 32
    store_i64(out + 8 * S_COUNT, count)
    store_i64(out + 8 * S_LEAST, base + least)
    store_i64(out + 8 * S_MOST, base + most)
    store_i64(out + 8 * S_LOW, low_sum)
    store_i64(out + 8 * S_HIGH, high_sum)
    return 0


@kernel(REFERENCE + "sum_codes")
def sum_codes(values: int, width: int, base: int, rows: int, bitmap: int, out: int) -> int:
    """Summary of the codes of integers; the base is in the least and the greatest, not in the sums. Returns 0."""
    if width == 1:
        return sum_codes_of(values, 1, base, rows, bitmap, out)
    if width == 2:
        return sum_codes_of(values, 2, base, rows, bitmap, out)
    if width == 4:
        return sum_codes_of(values, 4, base, rows, bitmap, out)
    if width == 8:
        return sum_codes_of(values, 8, base, rows, bitmap, out)
    return sum_codes_of(values, 0, base, rows, bitmap, out)


@inline_helper
def sum_numbers_of(values: int, width: int, base: int, rows: int, bitmap: int, out: int) -> int:
    count = 0
    least = MOST
    most = LEAST
    total = 0.0
    lost = 0.0
    for row in range(0, rows, 64):
        word = word_of(bitmap, row, rows)
        part = 0.0
        if word == np.uint64(ONES):
            count += 64
            for j in range(64):
                code = base + integer(values, width, row + j)
                least = min(least, code)
                most = max(most, code)
            a = 0.0
            b = 0.0
            c = 0.0
            d = 0.0
            for j in range(0, 64, 4):
                a += number(base + integer(values, width, row + j))
                b += number(base + integer(values, width, row + j + 1))
                c += number(base + integer(values, width, row + j + 2))
                d += number(base + integer(values, width, row + j + 3))
            part = (a + b) + (c + d)
        else:
            count += popcount(word)
            while word != np.uint64(0):
                code = base + integer(values, width, row + ctz(word))
                word &= word - np.uint64(1)
                least = min(least, code)
                most = max(most, code)
                part += number(code)
        # Neumaier's sum of the parts.
        both = total + part
        if abs(total) >= abs(part):
            lost += (total - both) + part
        else:
            lost += (part - both) + total
        total = both
    store_i64(out + 8 * S_COUNT, count)
    store_i64(out + 8 * S_LEAST, least)
    store_i64(out + 8 * S_MOST, most)
    store_f64(out + 8 * S_SUM, total)
    store_f64(out + 8 * S_LOST, lost)
    return 0


@kernel(REFERENCE + "sum_numbers")
def sum_numbers(values: int, width: int, base: int, rows: int, bitmap: int, out: int) -> int:
    """Summary of the codes of float64. Returns 0."""
    if width == 8:
        return sum_numbers_of(values, 8, base, rows, bitmap, out)
    if width == 4:
        return sum_numbers_of(values, 4, base, rows, bitmap, out)
    if width == 2:
        return sum_numbers_of(values, 2, base, rows, bitmap, out)
    if width == 1:
        return sum_numbers_of(values, 1, base, rows, bitmap, out)
    return sum_numbers_of(values, 0, base, rows, bitmap, out)


# --- the first of an order ---------------------------------------------------------------------------------


@inline_helper
def behind(keys: int, rows: int, a: int, b: int) -> bool:
    """Whether entry ``a`` of a heap comes after entry ``b``."""
    key_a = load_i64(keys + 8 * a)
    key_b = load_i64(keys + 8 * b)
    return key_a > key_b or (key_a == key_b and load_i64(rows + 8 * a) > load_i64(rows + 8 * b))


@inline_helper
def swap(array: int, a: int, b: int) -> None:
    value = load_i64(array + 8 * a)
    store_i64(array + 8 * a, load_i64(array + 8 * b))
    store_i64(array + 8 * b, value)


@helper
def sink(keys: int, rows: int, size: int, at: int) -> None:
    """Restore the order of a heap whose entry ``at`` may be too good for its place; the last is at the top."""
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and behind(keys, rows, child + 1, child):
            child += 1
        if not behind(keys, rows, child, at):
            return
        swap(keys, at, child)
        swap(rows, at, child)
        at = child


@helper
def rise(keys: int, rows: int, at: int) -> None:
    """Restore the order of a heap whose last entry ``at`` is new."""
    while at > 0 and behind(keys, rows, at, (at - 1) >> 1):
        swap(keys, at, (at - 1) >> 1)
        swap(rows, at, (at - 1) >> 1)
        at = (at - 1) >> 1


@inline_helper
def first_rows_of(
    values: int, width: int, base: int, size: int, bitmap: int, flip: int, granules: int, bounds: int, count: int,
    limit: int, keys: int, rows: int,
) -> int:
    found = 0
    low = LEAST
    high = MOST
    for i in range(count):
        granule = load_i64(granules + 8 * i)
        row = granule * GRANULE
        end = min(row + GRANULE, size)
        if found == limit:
            bound = load_i64(bounds + 8 * i)
            if bound > load_i64(keys):
                break
            if bound == load_i64(keys) and row > load_i64(rows):
                continue
        while row < end:
            word = word_of(bitmap, row, size)
            if word != np.uint64(0) and found == limit:
                word &= word_in(values, width, row, min(64, end - row), base - low, np.uint64(high - low))
            while word != np.uint64(0):
                here = row + ctz(word)
                word &= word - np.uint64(1)
                key = (base + integer(values, width, here)) ^ flip
                if found < limit:
                    store_i64(keys + 8 * found, key)
                    store_i64(rows + 8 * found, here)
                    rise(keys, rows, found)
                    found += 1
                elif key < load_i64(keys) or (key == load_i64(keys) and here < load_i64(rows)):
                    store_i64(keys, key)
                    store_i64(rows, here)
                    sink(keys, rows, limit, 0)
            if found == limit:
                if flip == 0:
                    high = load_i64(keys)
                else:
                    low = load_i64(keys) ^ flip
            row += 64
    for last in range(found - 1, 0, -1):
        swap(keys, 0, last)
        swap(rows, 0, last)
        sink(keys, rows, last, 0)
    return found


@kernel(REFERENCE + "first_rows")
def first_rows(
    values: int, width: int, base: int, size: int, bitmap: int, flip: int, granules: int, bounds: int, count: int,
    limit: int, keys: int, rows: int,
) -> int:
    """The first ``limit`` rows by (key, row), in order; their number. A key is a code, or ``~code`` if flip is -1.

    ``granules`` int64 [count] in the order of ``bounds``, the least key that a row of each can have. ``keys`` and
    ``rows`` int64 [limit]; limit is at least 1.
    """
    if width == 1:
        return first_rows_of(values, 1, base, size, bitmap, flip, granules, bounds, count, limit, keys, rows)
    if width == 2:
        return first_rows_of(values, 2, base, size, bitmap, flip, granules, bounds, count, limit, keys, rows)
    if width == 4:
        return first_rows_of(values, 4, base, size, bitmap, flip, granules, bounds, count, limit, keys, rows)
    if width == 8:
        return first_rows_of(values, 8, base, size, bitmap, flip, granules, bounds, count, limit, keys, rows)
    return first_rows_of(values, 0, base, size, bitmap, flip, granules, bounds, count, limit, keys, rows)

"""Numbers of a coded section, from bits to bytes; FORMAT.md, "Coded sections"."""

from __future__ import annotations

import numpy as np

from quidditch_core.jit import (
    kernel,
    load_i64,
    load_u8,
    load_u64,
    store_f64,
    store_i64,
    store_u8,
    store_u16,
    store_u32,
)

LEVEL, DELTA, DOUBLE_DELTA, XOR, TABLE, DECIMAL = range(6)
"""What a granule's numbers are distances from."""
PLANES = 128
"""What the bits of a granule are more than if its numbers are planes of bytes."""
HEADER = 26
CORRUPT = -1
DIGITS = 22
"""Digits behind the point that a granule has at most: powers of ten up to there are exact."""
MOST = 2**63 - 1


@kernel("quidditch_core.codec.v1.reference:decode")
def decode(granule: int, size: int, planes: int, planes_size: int, count: int, width: int, out: int) -> int:
    """``count`` integers of ``width`` bytes of a granule of ``size`` bytes into ``out``; 0 or CORRUPT.

    ``planes`` are its planes of bytes, decompressed, if it has any. 16 bytes behind the granule are readable.
    """
    if size < HEADER:
        return CORRUPT
    transform = load_u8(granule)
    bits = load_u8(granule + 1)
    value = load_i64(granule + 2)
    pace = load_i64(granule + 10)
    least = load_i64(granule + 18)
    table = granule + HEADER
    entries = 0
    if transform == TABLE:
        entries = value
        if entries < 1 or entries > (size - HEADER) >> 3:
            return CORRUPT
    elif transform > DECIMAL or (transform == DECIMAL and (width != 8 or pace < 0 or pace > DIGITS)):
        return CORRUPT
    scale = 1.0
    if transform == DECIMAL:
        for _ in range(pace):
            scale *= 10.0
    body = table + 8 * entries
    bytes_each = bits - PLANES
    mask = np.uint64(0)
    if bits >= PLANES:
        if bytes_each > 8 or planes_size != bytes_each * count:
            return CORRUPT
    else:
        if bits > 64 or body + ((count * bits + 7) >> 3) > granule + size:
            return CORRUPT
        if bits > 0:
            mask = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - bits)
    for i in range(count):
        word = np.uint64(0)
        if bits >= PLANES:
            for k in range(bytes_each):
                word |= np.uint64(load_u8(planes + k * count + i)) << np.uint64(8 * k)
        else:
            bit = i * bits
            at = body + (bit >> 3)
            shift = bit & 7
            word = load_u64(at) >> np.uint64(shift)
            if shift + bits > 64:
                word |= np.uint64(load_u8(at + 8)) << np.uint64(64 - shift)
            word &= mask
        number = np.int64(word)
        if transform == LEVEL:
            value = least + pace * number
        elif transform == DELTA:
            value += least + pace * number
        elif transform == DOUBLE_DELTA:
            pace += least + number
            value += pace
        elif transform == XOR:
            value ^= np.int64(word << np.uint64(least & 63))
        elif transform == DECIMAL:
            store_f64(out + 8 * i, np.float64(least + number) / scale)
            value = load_i64(out + 8 * i)
            value ^= (value >> 63) & MOST
        else:
            if number < 0 or number >= entries:
                return CORRUPT
            value = load_i64(table + 8 * number)
        if width == 1:
            store_u8(out + i, value)
        elif width == 2:
            store_u16(out + 2 * i, value)
        elif width == 4:
            store_u32(out + 4 * i, value)
        else:
            store_i64(out + 8 * i, value)
    return 0

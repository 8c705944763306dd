"""The kernel of coded sections in NumPy."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...segment import view
from .kernels import CORRUPT, DECIMAL, DELTA, DIGITS, DOUBLE_DELTA, HEADER, LEVEL, MOST, PLANES, TABLE, XOR


def decode(granule: int, size: int, planes: int, planes_size: int, count: int, width: int, out: int) -> int:
    """``count`` integers of ``width`` bytes of a granule into ``out``."""
    if size < HEADER:
        return CORRUPT
    data = view(granule, size, np.uint8)
    transform, bits, value, pace, least = struct.unpack("<BBqqq", data[:HEADER].tobytes())
    body = HEADER
    if transform == TABLE:
        if not 1 <= value <= (size - HEADER) // 8:
            return CORRUPT
        body += 8 * value
    elif transform > DECIMAL or (transform == DECIMAL and (width != 8 or not 0 <= pace <= DIGITS)):
        return CORRUPT
    if bits >= PLANES:
        if bits > PLANES + 8 or planes_size != (bits - PLANES) * count:
            return CORRUPT
        words = joined(view(planes, planes_size, np.uint8), count)
    else:
        if bits > 64 or body + (count * bits + 7) // 8 > size:
            return CORRUPT
        words = unpacked(data[body:], count, bits)
    numbers = words.view(np.int64)
    values: NDArray[np.int64]
    with np.errstate(over="ignore"):
        if transform == LEVEL:
            values = numbers * np.int64(pace) + np.int64(least)
        elif transform == DELTA:
            values = np.cumsum(numbers * np.int64(pace) + np.int64(least)) + np.int64(value)
        elif transform == DOUBLE_DELTA:
            values = np.cumsum(np.cumsum(numbers + np.int64(least)) + np.int64(pace)) + np.int64(value)
        elif transform == XOR:
            steps = words << np.uint64(least & 63)
            values = np.bitwise_xor.accumulate(steps).view(np.int64) ^ np.int64(value)
        elif transform == DECIMAL:
            values = ((numbers + np.int64(least)).astype(np.float64) / 10.0**pace).view(np.int64)
            values ^= (values >> 63) & np.int64(MOST)
        else:
            if numbers.size and not 0 <= int(numbers.min()) <= int(numbers.max()) < value:
                return CORRUPT
            values = data[HEADER:body].view("<i8")[numbers].astype(np.int64)
    kind: Any = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.int64}[width]
    view(out, count, kind)[:] = values.astype(kind)
    return 0


def unpacked(data: NDArray[np.uint8], count: int, bits: int) -> NDArray[np.uint64]:
    """``count`` numbers of a stream of bits."""
    if bits == 0:
        return np.zeros(count, np.uint64)
    raw = np.unpackbits(data, count=count * bits, bitorder="little").reshape(count, bits)
    wide = np.zeros((count, 64), np.uint8)
    wide[:, :bits] = raw
    return np.packbits(wide, axis=1, bitorder="little").view(np.uint64).reshape(count)


def joined(planes: NDArray[np.uint8], count: int) -> NDArray[np.uint64]:
    """Numbers whose lowest bytes lie first, then the next ones of all, and so on."""
    wide = np.zeros((count, 8), np.uint8)
    if count:
        wide[:, : planes.size // count] = planes.reshape(-1, count).T
    return wide.view(np.uint64).reshape(count)

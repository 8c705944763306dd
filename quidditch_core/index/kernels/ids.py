"""Hashes of many ids: BLAKE2b (RFC 7693) with digests of eight bytes, as hashlib makes them one by one."""

from __future__ import annotations

from typing import Any

import numpy as np

from quidditch_core.jit import helper, inline_helper, kernel, load_i64, load_u8, load_u64, store_u64

SCRATCH_BYTES = 8 * 24
"""One block of a message, and the state of a hash."""

ORDER = np.array([
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
    [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4], [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
    [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13], [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
    [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11], [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
    [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5], [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
], np.uint8)
"""Which words of a block each of the twelve rounds mixes in."""

IV = (0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
      0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179)
IV0, IV1, IV2, IV3, IV4, IV5, IV6, IV7 = IV
PARAMETERS = 0x01010008
"""No key, and a digest of eight bytes."""


@inline_helper
def rotated(value: Any, bits: int) -> Any:
    return (value >> np.uint64(bits)) | (value << np.uint64(64 - bits))


@inline_helper
def mixed(a: Any, b: Any, c: Any, d: Any, block: int, order: int) -> Any:
    """Four words of the state with the two words of the block that ``order`` names."""
    a = a + b + load_u64(block + 8 * load_u8(order))
    d = rotated(d ^ a, 32)
    c = c + d
    b = rotated(b ^ c, 24)
    a = a + b + load_u64(block + 8 * load_u8(order + 1))
    d = rotated(d ^ a, 16)
    c = c + d
    b = rotated(b ^ c, 63)
    return a, b, c, d


@helper
def compress(state: int, block: int, order: int, done: int, last: bool) -> None:
    """Take a block into the state; ``done`` bytes of the message are in it then."""
    v0, v1 = load_u64(state), load_u64(state + 8)
    v2, v3 = load_u64(state + 16), load_u64(state + 24)
    v4, v5 = load_u64(state + 32), load_u64(state + 40)
    v6, v7 = load_u64(state + 48), load_u64(state + 56)
    v8, v9, v10, v11 = np.uint64(IV0), np.uint64(IV1), np.uint64(IV2), np.uint64(IV3)
    v12, v13, v14, v15 = np.uint64(IV4) ^ np.uint64(done), np.uint64(IV5), np.uint64(IV6), np.uint64(IV7)
    if last:
        v14 = ~v14
    for at in range(order, order + 16 * 12, 16):
        v0, v4, v8, v12 = mixed(v0, v4, v8, v12, block, at)
        v1, v5, v9, v13 = mixed(v1, v5, v9, v13, block, at + 2)
        v2, v6, v10, v14 = mixed(v2, v6, v10, v14, block, at + 4)
        v3, v7, v11, v15 = mixed(v3, v7, v11, v15, block, at + 6)
        v0, v5, v10, v15 = mixed(v0, v5, v10, v15, block, at + 8)
        v1, v6, v11, v12 = mixed(v1, v6, v11, v12, block, at + 10)
        v2, v7, v8, v13 = mixed(v2, v7, v8, v13, block, at + 12)
        v3, v4, v9, v14 = mixed(v3, v4, v9, v14, block, at + 14)
    store_u64(state, load_u64(state) ^ v0 ^ v8)
    store_u64(state + 8, load_u64(state + 8) ^ v1 ^ v9)
    store_u64(state + 16, load_u64(state + 16) ^ v2 ^ v10)
    store_u64(state + 24, load_u64(state + 24) ^ v3 ^ v11)
    store_u64(state + 32, load_u64(state + 32) ^ v4 ^ v12)
    store_u64(state + 40, load_u64(state + 40) ^ v5 ^ v13)
    store_u64(state + 48, load_u64(state + 48) ^ v6 ^ v14)
    store_u64(state + 56, load_u64(state + 56) ^ v7 ^ v15)


@kernel("quidditch_core.index.kernels.reference:hash_ids", bulk=True)
def hash_ids(data: int, ends: int, count: int, order: int, scratch: int, out: int) -> int:
    """The hash of each id, uint64 [count]; id i ends at byte int64 ends[i], and 8 bytes behind the last can be read.

    ``order``: ORDER; ``scratch``: SCRATCH_BYTES.
    """
    block = scratch
    state = scratch + 8 * 16
    start = 0
    for i in range(count):
        end = load_i64(ends + 8 * i)
        store_u64(state, np.uint64(IV0 ^ PARAMETERS))
        store_u64(state + 8, np.uint64(IV1))
        store_u64(state + 16, np.uint64(IV2))
        store_u64(state + 24, np.uint64(IV3))
        store_u64(state + 32, np.uint64(IV4))
        store_u64(state + 40, np.uint64(IV5))
        store_u64(state + 48, np.uint64(IV6))
        store_u64(state + 56, np.uint64(IV7))
        at = start
        while True:
            size = min(128, end - at)
            for word in range(16):
                left = size - 8 * word
                value = np.uint64(0)
                if left > 0:
                    value = load_u64(data + at + 8 * word)
                if 0 < left < 8:
                    value = value & ((np.uint64(1) << np.uint64(8 * left)) - np.uint64(1))
                store_u64(block + 8 * word, value)
            at += size
            compress(state, block, order, at - start, at >= end)
            if at >= end:
                break
        store_u64(out + 8 * i, load_u64(state))
        start = end
    return 0

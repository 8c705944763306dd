"""Hashes of many ids."""

from __future__ import annotations

from hashlib import blake2b
from itertools import pairwise

import numpy as np

from quidditch_core.segment import view


def hash_ids(data: int, ends: int, count: int, order: int, scratch: int, out: int) -> int:
    """The hash of each id."""
    edges = [0, *view(ends, count, np.int64).tolist()]
    text = view(data, edges[-1], np.uint8).tobytes()
    digests = b"".join([blake2b(text[start:end], digest_size=8).digest() for start, end in pairwise(edges)])
    view(out, count, np.uint64)[:] = np.frombuffer(digests, "<u8")
    return 0

"""BM25 as Lucene computes it: float32, one-byte lengths, no (k1 + 1) factor.

Sources: Robertson and Zaragoza, "The Probabilistic Relevance Framework" (2009); Lucene's BM25Similarity and
SmallFloat, whose results these functions equal to the bit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

K1 = np.float32(1.2)
B = np.float32(0.75)


def _decoded(code: int) -> int:
    if code < 24:
        return code
    bits, shift = (code - 24) & 7, ((code - 24) >> 3) - 1
    return 24 + (bits if shift < 0 else (bits | 8) << shift)


LENGTHS: NDArray[np.int64] = np.array([_decoded(code) for code in range(256)], np.int64)
"""Length that each norm byte stands for: SmallFloat.byte4ToInt; exact up to 40."""


def encode_lengths(lengths: NDArray[Any]) -> NDArray[np.uint8]:
    """Norm bytes of field lengths: the greatest code whose length does not exceed the given one."""
    return (np.searchsorted(LENGTHS, lengths, side="right") - 1).astype(np.uint8)


def idf(df: int, doc_count: int) -> np.float32:
    """ln(1 + (N - df + 0.5) / (df + 0.5)), computed in float64 and rounded once."""
    return np.float32(math.log(1 + (doc_count - df + 0.5) / (df + 0.5)))


def average_length(sum_ttf: int, doc_count: int) -> np.float32:
    """Tokens per document that has the field."""
    return np.float32(sum_ttf / doc_count) if doc_count else np.float32(1)


def factors(avgdl: np.float32) -> NDArray[np.float32]:
    """float32 [256]: the factor c of a frequency for each norm byte, 1 / (k1 ((1 - b) + b len / avgdl))."""
    one = np.float32(1)
    lengths = LENGTHS.astype(np.float32)
    result: NDArray[np.float32] = one / (K1 * ((one - B) + B * lengths / avgdl))
    return result


def score(weight: np.float32, freq: Any, factor: Any) -> Any:
    """w - w / (1 + f c); ``freq`` and ``factor`` are float32, or arrays of it."""
    return weight - weight / (np.float32(1) + freq * factor)

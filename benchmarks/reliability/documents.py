"""Documents and queries for these measurements: words by Zipf's law, the same every time."""

from __future__ import annotations

from itertools import accumulate
from random import Random
from typing import Any, Final

MAPPING: Final[dict[str, Any]] = {
    "dynamic": "strict", "properties": {"title": {"type": "text"}, "body": {"type": "text"}, "n": {"type": "long"}}}

_WORDS: Final = ["".join(Random(f"word {number}").choices("etaoinshrdlu", k=3 + number % 7)) for number in range(5_000)]
_WEIGHTS: Final = list(accumulate(1 / (rank + 1) for rank in range(len(_WORDS))))


def words(rng: Random, count: int) -> str:
    return " ".join(rng.choices(_WORDS, cum_weights=_WEIGHTS, k=count))


def documents(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """``count`` documents of about 300 bytes."""
    rng = Random(f"documents {seed}")
    return [{"title": words(rng, 6), "body": words(rng, 40), "n": number} for number in range(count)]


def queries(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Request bodies: one to three words, common and rare ones, ten hits."""
    rng = Random(f"queries {seed}")
    texts = (" ".join(rng.choices(_WORDS[20:2_000], k=rng.randint(1, 3))) for _ in range(count))
    return [{"query": {"match": {"body": text}}, "size": 10} for text in texts]

"""Documents for the benchmarks that compare us with ourselves: words by Zipf's law, the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import quidditch_core as qc

DOCUMENTS = 10_000
VOCABULARY = 30_000
MAPPING = {
    "dynamic": "strict",
    "properties": {
        "id": {"type": "keyword"},
        "text": {"type": "text"},
        "tag": {"type": "keyword"},
        "price": {"type": "double"},
        "year": {"type": "integer"},
    },
}


def word(rank: int) -> str:
    """The rank-th most frequent word; short words are frequent, as in language."""
    letters = ""
    rank += 1
    while rank:
        rank, letter = divmod(rank, 19)
        letters += "etaoinshrdlcumwfgyp"[letter]
    return letters


@pytest.fixture(scope="session")
def documents() -> list[dict[str, Any]]:
    """60 words in the median, at times hundreds."""
    rng = np.random.default_rng(1)
    weights = 1 / np.arange(1, VOCABULARY + 1)
    ends = np.cumsum(rng.lognormal(np.log(60), 0.8, DOCUMENTS).astype(np.int64) + 1)
    vocabulary = np.array([word(rank) for rank in range(VOCABULARY)])
    words = vocabulary[np.searchsorted(np.cumsum(weights / weights.sum()), rng.random(int(ends[-1])))]
    return [
        {"id": f"d{number}", "text": " ".join(part.tolist()), "tag": f"tag{rng.integers(20)}",
         "price": round(float(rng.lognormal(3, 1)), 2), "year": int(rng.integers(1950, 2025))}
        for number, part in enumerate(np.split(words, ends[:-1]))]


@pytest.fixture(scope="session")
def index(documents: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[qc.Index]:
    """All documents in one segment on disk."""
    directory = tmp_path_factory.mktemp("shared") / "index"
    with qc.create(directory, MAPPING, settings={"index.refresh_interval": -1}) as made:
        made.bulk(documents, id="id")
        made.merge()
        yield made

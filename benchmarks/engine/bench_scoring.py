"""Scoring every match by a function: compiled, and as the Python loop that it replaces.

``python -m benchmarks.engine.bench_scoring`` prints both for 1,000,000 documents, their ratio, and what a Lucene
expression takes for the same where Java and Maven are there.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quidditch_core as qc
from benchmarks.compare.engine import Unavailable
from benchmarks.compare.engines.lucene import Rival as Lucene
from benchmarks.conftest import word
from quidditch_core import query as q

COMMON = q.Term("text", word(2))
EXPRESSION = "_score * 50 / (price + 50) + (year - 1950) / 100"
"""``cheaper`` in Lucene's language."""


@qc.scorer
def cheaper(score, price=20.0, year: int = 2000):  # type: ignore[no-untyped-def]
    return score * 50 / (price + 50) + (year - 1950) / 100


@qc.scorer(upper_bound=lambda score: score)
def cheaper_alone(score, price=20.0):  # type: ignore[no-untyped-def]
    return score * 50 / (price + 50)


QUERIES: dict[str, q.Query] = {
    "every": q.ScriptScore(q.MatchAll(), cheaper),  # type: ignore[arg-type]
    "term-common": q.ScriptScore(COMMON, cheaper),  # type: ignore[arg-type]
    "bounded": q.ScriptScore(COMMON, cheaper_alone),  # type: ignore[arg-type]
    "field-value": q.FunctionScore(COMMON, q.FieldValue("price", modifier="log1p")),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", QUERIES)
def bench_score(benchmark: Any, index: qc.Index, name: str) -> None:
    benchmark(index.search, QUERIES[name], source=False)


def bench_python_loop(benchmark: Any, documents: list[dict[str, Any]]) -> None:
    """The scores of ``every``, without a search around them."""
    rows = [(document["price"], document["year"]) for document in documents]
    benchmark(lambda: sorted((cheaper.function(1.0, *row) for row in rows), reverse=True)[:10])


def main() -> None:
    """Medians of the search, and of the loop over values that are in memory already."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    documents, rounds = given.documents, given.rounds
    random = np.random.default_rng(1)
    prices, years = random.lognormal(3, 1, documents), random.integers(1950, 2025, documents)
    rows = list(zip(prices.tolist(), years.tolist(), strict=True))
    mapping = {"properties": {"price": {"type": "double"}, "year": {"type": "integer"}}}
    searches, loops = [], []
    with (tempfile.TemporaryDirectory() as directory,
          qc.create(f"{directory}/index", mapping, settings={"index.refresh_interval": -1}) as index):
        index.bulk({"price": price, "year": year} for price, year in rows)
        index.merge()
        for _ in range(rounds):
            started = time.perf_counter()
            found = index.search(QUERIES["every"], source=False)
            searched = time.perf_counter()
            best = sorted((cheaper.function(1.0, *row) for row in rows), reverse=True)[:10]
            loops.append(time.perf_counter() - searched)
            searches.append(searched - started)
            assert [hit.score for hit in found] == [float(np.float32(score)) for score in best]
        theirs = lucene(Path(directory) / "lucene", rows, rounds, best)
    searched, looped = float(np.median(searches)), float(np.median(loops))
    print(f"{documents:,} documents: search {searched * 1e3:.1f} ms ({searched / documents * 1e9:.1f} ns a document), "
          f"Python loop {looped * 1e3:.0f} ms, {looped / searched:.0f} times as long; {theirs}")


def lucene(path: Path, rows: list[tuple[float, int]], rounds: int, best: list[float]) -> str:
    """What a Lucene expression takes, once its answer is known to be ours."""
    try:
        Lucene.check()
    except Unavailable as reason:
        return f"no Lucene: {reason}"
    program = [*Lucene.program("Expressions"), str(path), EXPRESSION, str(rounds)]
    documents = "".join(f"{price!r}\t{year}\n" for price, year in rows)
    lines = subprocess.run(program, input=documents, capture_output=True, text=True, check=True).stdout.split()
    assert [float(np.float32(line)) for line in lines[rounds:]] == [float(np.float32(score)) for score in best]
    return f"a Lucene expression {np.median([float(line) for line in lines[:rounds]]):.1f} ms"


if __name__ == "__main__":
    main()

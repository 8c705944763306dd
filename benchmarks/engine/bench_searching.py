"""Searching one segment of 10,000 documents: the ten best without sources, by kind of query."""

from __future__ import annotations

from typing import Any

import pytest

import quidditch_core as qc
from benchmarks.conftest import word
from quidditch_core import query as q

COMMON, USUAL, RARE = word(2), word(100), word(5_000)
NOVELS = q.Term("tag", "tag3")

QUERIES: dict[str, q.Query] = {
    "absent": q.Term("text", "0"),
    "term-rare": q.Term("text", RARE),
    "term-usual": q.Term("text", USUAL),
    "term-common": q.Term("text", COMMON),
    "union": q.Match("text", f"{COMMON} {USUAL} {RARE}"),
    "intersection": q.Match("text", f"{COMMON} {USUAL}", operator="and"),
    "phrase": q.MatchPhrase("text", f"{word(1)} {COMMON}"),
    "filtered": q.Bool(must=(q.Term("text", USUAL),), filter=(NOVELS, q.Range("price", gte=10, lt=30))),
    "filter-only": q.Bool(filter=(NOVELS, q.Range("year", gte=2000))),
    "prefix": q.Prefix("text", COMMON),
}


@pytest.mark.parametrize("name", QUERIES)
def bench_search(benchmark: Any, index: qc.Index, name: str) -> None:
    benchmark(index.search, QUERIES[name], source=False, track_total_hits=False)


def bench_search_body(benchmark: Any, index: qc.Index) -> None:
    """The same as ``term-rare``, from an OpenSearch body: what parsing adds."""
    benchmark(index.search, {"query": {"term": {"text": RARE}}, "_source": False, "track_total_hits": False})


@pytest.mark.parametrize("key", ["price", "-year", "tag"])
def bench_sort(benchmark: Any, index: qc.Index, key: str) -> None:
    benchmark(index.search, QUERIES["term-common"], sort=[key, "_doc"], source=False)


@pytest.mark.parametrize("name", ["term-common", "union", "intersection", "phrase"])
def bench_count(benchmark: Any, index: qc.Index, name: str) -> None:
    benchmark(index.count, QUERIES[name])


def bench_fetch(benchmark: Any, index: qc.Index) -> None:
    """The ten best with their sources, decoded."""
    def fetch() -> list[Any]:
        return [hit.source for hit in index.search(QUERIES["union"]).hits]

    benchmark(fetch)


def bench_get(benchmark: Any, index: qc.Index) -> None:
    benchmark(index.get, "d5000")

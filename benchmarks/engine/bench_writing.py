"""Writing: one document made searchable, ten thousand at once, segments merged."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import quidditch_core as qc
from benchmarks.conftest import MAPPING

Documents = list[dict[str, Any]]
MANUAL = {"index.refresh_interval": -1}


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Any]:
    """A function that makes an empty index, and removes the one before."""
    numbers = itertools.count()
    made: list[qc.Index] = []

    def drop() -> None:
        while made:
            index = made.pop()
            index.close()
            shutil.rmtree(index.path)

    def make() -> qc.Index:
        drop()
        made.append(qc.create(tmp_path / str(next(numbers)), MAPPING, settings=MANUAL))
        return made[-1]

    yield make
    drop()


def bench_put_and_refresh(benchmark: Any, fresh: Any, documents: Documents) -> None:
    """One document into an index of 1,000, until a search sees it."""
    index = fresh()
    index.bulk(documents[:1000], id="id")
    index.flush()
    others = iter(documents[1000:])

    def put() -> None:
        index.put(None, next(others))
        index.refresh()

    benchmark.pedantic(put, rounds=100, warmup_rounds=5)


def bench_bulk(benchmark: Any, fresh: Any, documents: Documents) -> None:
    """10,000 documents into an empty index, until they are searchable."""
    def bulk(index: qc.Index) -> None:
        index.bulk(documents, id="id")
        index.refresh()

    benchmark.pedantic(bulk, setup=lambda: ((fresh(),), {}), rounds=3, warmup_rounds=1)


def bench_flush(benchmark: Any, fresh: Any, documents: Documents) -> None:
    """10,000 searchable documents, until they are on disk."""
    def full() -> tuple[tuple[qc.Index], dict[str, Any]]:
        index = fresh()
        index.bulk(documents, id="id")
        index.refresh()
        return (index,), {}

    benchmark.pedantic(qc.Index.flush, setup=full, rounds=3)


def bench_merge(benchmark: Any, fresh: Any, documents: Documents) -> None:
    """Five segments of 2,000 documents on disk become one."""
    def parts() -> tuple[tuple[qc.Index], dict[str, Any]]:
        index = fresh()
        for start in range(0, 10_000, 2_000):
            index.bulk(documents[start : start + 2_000], id="id")
            index.flush()
        return (index,), {}

    benchmark.pedantic(qc.Index.merge, setup=parts, rounds=3)

"""One engine in a process of its own, pinned to one core: JSON lines in, JSON lines out.

``python -m benchmarks.compare.worker ENGINE DIRECTORY CORE``, then requests ``{"do": method, ...arguments}``.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare.engine import Engine, engine
from benchmarks.compare.workload import COMMANDS, Document, Query, read_documents, read_queries

_WARM_DOCUMENTS = 200


class Worker:
    """The requests, a method each."""

    def __init__(self, name: str, directory: Path) -> None:
        self._name, self._directory = name, directory
        self._engine: Engine = engine(name, directory)
        self._queries: list[Query] = []

    def build(self, corpus: str, limit: int | None, raw: bool, commits: int) -> dict[str, Any]:
        """Index the corpus in ``commits`` equal parts, then merge. Reading the corpus is not measured."""
        documents = read_documents(Path(corpus), limit, raw=raw)
        self._warm(documents[:_WARM_DOCUMENTS])
        part = -(-len(documents) // commits)
        self._engine.create()
        index = _Stopwatch()
        for start in range(0, len(documents), part):
            self._engine.add(documents[start : start + part])
        indexed = index.read()
        merge = _Stopwatch()
        self._engine.merge()
        return {
            "version": self._engine.version, "settings": self._engine.settings, "documents": len(documents),
            "text_bytes": sum(len(document.text.encode()) for document in documents),
            "index": indexed, "merge": merge.read(),
            "bytes": sum(file.stat().st_size for file in self._directory.rglob("*") if file.is_file()),
            "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }

    def _warm(self, documents: Sequence[Document]) -> None:
        """Do once, unmeasured, what costs more the first time: imports, loading of machine code."""
        directory = self._directory.with_name(f"{self._directory.name}-warm")
        other = engine(self._name, directory)
        other.create()
        for half in (documents[::2], documents[1::2]):
            other.add(half)
        other.merge()
        shutil.rmtree(directory)

    def open(self, queries: str) -> dict[str, Any]:
        self._queries = read_queries(Path(queries))
        started = time.perf_counter()
        self._engine.open()
        opened = time.perf_counter()
        self._engine.run(self._queries[0], COMMANDS["TOP_10"])
        return {"open_ms": (opened - started) * 1e3, "first_query_ms": (time.perf_counter() - opened) * 1e3,
                "scored": self._engine.scored}

    def answer(self) -> list[Any]:
        return [self._engine.answer(query) for query in self._queries]

    def measure(self, command: str, order: list[int]) -> list[int]:
        """Nanoseconds of each query by its number; they run in ``order``."""
        times = self._engine.measure([self._queries[i] for i in order], COMMANDS[command])
        return [nanoseconds for _, nanoseconds in sorted(zip(order, times, strict=True))]


class _Stopwatch:
    """Wall and CPU seconds (all threads, and children that ended) since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), _cpu_seconds()

    def read(self) -> dict[str, float]:
        return {"wall": time.perf_counter() - self._wall, "cpu": _cpu_seconds() - self._cpu}


def _cpu_seconds() -> float:
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


def main() -> None:
    name, directory, core = sys.argv[1:]
    os.sched_setaffinity(0, {int(core)})
    worker = Worker(name, Path(directory))
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(getattr(worker, request.pop("do"))(**request)), flush=True)


if __name__ == "__main__":
    main()

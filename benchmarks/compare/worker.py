"""One engine in a process of its own, pinned to one core: JSON lines in, JSON lines out.

``python -m benchmarks.compare.worker ENGINE DIRECTORY CORE``, then requests ``{"do": method, ...arguments}``.
The first line out is ``{"unavailable": why}``, or ``{"deletes": whether it can}``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare.engine import Engine, Unavailable, engine
from benchmarks.compare.workload import COMMANDS, Document, Query, deleted, read_documents, read_queries

_WARM_DOCUMENTS = 200


class Worker:
    """The requests, a method each."""

    def __init__(self, kind: type[Engine], directory: Path) -> None:
        self._kind, self._directory = kind, directory
        self._engine = kind(directory)
        self._queries: list[Query] = []

    def build(
        self, corpus: str, limit: int | None, raw: bool, commits: int, segments: int, deletes: float,
    ) -> dict[str, Any]:
        """Index the corpus in equal parts, which stay apart if ``segments`` > 1, else are merged; then delete.

        Reading the corpus is not measured.
        """
        documents = read_documents(Path(corpus), limit, raw=raw)
        self._warm(documents[:_WARM_DOCUMENTS])
        part = -(-len(documents) // (segments if segments > 1 else commits))
        used, subject = _Used(), self._engine
        subject.create()
        for start in range(0, len(documents), part):
            some = documents[start : start + part]
            subject.load(some)
            with used.counting(subject):
                subject.add(some)
        merging = _Used()
        with merging.counting(subject):
            if segments == 1:
                subject.merge()
        removed = deleted(documents, deletes)
        if removed:
            subject.delete(removed)
        with merging.counting(subject):  # some engines build their index now
            subject.close()
        return {
            "version": subject.version, "settings": subject.settings, "clock": subject.clock,
            "documents": len(documents), "deleted": len(removed),
            "text_bytes": sum(len(document.text.encode()) for document in documents),
            "index": used.seconds(), "merge": merging.seconds(),
            "bytes": sum(file.stat().st_size for file in self._directory.rglob("*") if file.is_file()),
            "peak_rss": subject.peak_rss(),
        }

    def _warm(self, documents: Sequence[Document]) -> None:
        """Do once, unmeasured, what costs more the first time: imports, loading of machine code."""
        directory = self._directory.with_name(f"{self._directory.name}-warm")
        other = self._kind(directory)
        other.create()
        for half in (documents[::2], documents[1::2]):
            other.load(half)
            other.add(half)
        other.merge()
        other.close()
        shutil.rmtree(directory)

    def open(self, queries: str) -> dict[str, Any]:
        self._queries = read_queries(Path(queries))
        subject = self._engine
        started = time.perf_counter()
        subject.open()
        opened = time.perf_counter()
        subject.run(next(query for query in self._queries if query.kind in subject.kinds), COMMANDS["TOP_10"])
        return {"open_ms": (opened - started) * 1e3, "first_query_ms": (time.perf_counter() - opened) * 1e3,
                "scored": subject.scored, "kinds": list(subject.kinds), "commands": list(subject.commands),
                "segments": subject.segments()}

    def answer(self, command: str, numbers: list[int]) -> list[Any]:
        return [self._engine.answer(self._queries[number], COMMANDS[command]) for number in numbers]

    def warm(self, orders: dict[str, list[int]]) -> float:
        """Run everything again and again for as long as the engine wants; how many seconds that took."""
        started = time.perf_counter()
        while time.perf_counter() - started < self._engine.warm_seconds:
            for command, order in orders.items():
                self.measure(command, order)
        return time.perf_counter() - started

    def measure(self, command: str, order: list[int]) -> list[int]:
        """Nanoseconds of each query, in the order given."""
        return self._engine.measure([self._queries[number] for number in order], COMMANDS[command])


class _Used:
    """Sums wall and CPU seconds."""

    def __init__(self) -> None:
        self._wall = self._cpu = 0.0

    def counting(self, subject: Engine) -> _Used:
        self._subject = subject
        return self

    def __enter__(self) -> None:
        self._wall -= time.perf_counter()
        self._cpu -= self._subject.cpu_seconds()

    def __exit__(self, *error: object) -> None:
        self._wall += time.perf_counter()
        self._cpu += self._subject.cpu_seconds()

    def seconds(self) -> dict[str, float]:
        return {"wall": self._wall, "cpu": self._cpu}


def main() -> None:
    name, directory, core = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not come between the replies

    def reply(found: Any) -> None:
        print(json.dumps(found), file=replies, flush=True)

    try:
        kind = engine(name)  # before pinning: it may compile
    except Unavailable as why:
        reply({"unavailable": str(why)})
        return
    reply({"deletes": kind.deletes})
    os.sched_setaffinity(0, {int(core)})
    worker = Worker(kind, Path(directory))
    for line in sys.stdin:
        request = json.loads(line)
        reply(getattr(worker, request.pop("do"))(**request))


if __name__ == "__main__":
    main()

"""One acknowledged write at a time: puts beside a loop of write and fdatasync, and beside SQLite.

Every contender writes the same documents in its own thread or threads, a call or a transaction each. *raw* writes
the bytes of the log that the puts wrote, batch by batch, to the end of a file and syncs each; *raw, in place* writes
them into a file that is made longer by 256 KiB now and then, as the log is: what no log can beat. Contenders take
turns, in rotating order, each time in a new directory; the first round is not counted.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import quidditch_core as qc

from .documents import MAPPING, documents


class Cost(NamedTuple):
    """Of one run: seconds, and syncs of the disk where they are known."""

    seconds: float
    syncs: int | None = None


Contender = Callable[[Path, list[dict[str, Any]]], Cost]


@contextmanager
def _index(place: Path, durability: str) -> Iterator[Any]:
    # No refresh: a search engine's work that SQLite's tables do not do; docs/performance.md measures it.
    settings = {"index.translog.durability": durability, "index.refresh_interval": "-1"}
    with qc.create(place / "index", MAPPING, settings=settings) as index:
        yield index


def quidditch(durability: str, threads: int) -> Contender:
    def run(place: Path, docs: list[dict[str, Any]]) -> Cost:
        with _index(place, durability) as index:
            def put(first: int) -> None:
                for number in range(first, len(docs), threads):
                    index.put(f"doc-{number}", docs[number])

            workers = [threading.Thread(target=put, args=(first,)) for first in range(threads)]
            started = time.perf_counter()
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            return Cost(time.perf_counter() - started, index.stats()["translog"]["fsyncs"])

    return run


def raw(reserve: int = 0) -> Contender:
    """Writes and syncs of what a log has for each document: its JSON, its id, 24 bytes of header, 10 of numbers."""
    def run(place: Path, docs: list[dict[str, Any]]) -> Cost:
        batches = [bytes(34) + f"doc-{number}".encode() + json.dumps(doc, separators=(",", ":")).encode()
                   for number, doc in enumerate(docs)]
        file = os.open(place / "log", os.O_WRONLY | os.O_CREAT)
        end = size = 0
        try:
            started = time.perf_counter()
            for batch in batches:
                if reserve and end + len(batch) > size:
                    size = end + len(batch) + reserve
                    os.ftruncate(file, size)
                end += os.pwrite(file, batch, end)
                os.fdatasync(file)
            return Cost(time.perf_counter() - started, len(batches))
        finally:
            os.close(file)

    return run


def sqlite(synchronous: str, *, words: bool) -> Contender:
    """A table with the JSON, and with ``words`` an FTS5 index of title and body; write-ahead log."""
    def run(place: Path, docs: list[dict[str, Any]]) -> Cost:
        with closing(sqlite3.connect(place / "database")) as database:
            database.execute("pragma journal_mode = wal")
            database.execute(f"pragma synchronous = {synchronous}")
            database.execute("create table document (id text primary key, source text)")
            if words:
                database.execute("create virtual table words using fts5(title, body, content='')")
            started = time.perf_counter()
            for number, doc in enumerate(docs):
                with database:
                    source = json.dumps(doc, separators=(",", ":"))
                    database.execute("insert into document values (?, ?)", (f"doc-{number}", source))
                    if words:
                        database.execute("insert into words (rowid, title, body) values (?, ?, ?)",
                                         (number, doc["title"], doc["body"]))
            return Cost(time.perf_counter() - started)

    return run


CONTENDERS: Final[dict[str, Contender]] = {
    "raw write and fdatasync": raw(),
    "raw, in place": raw(reserve=256 << 10),
    "quidditch, request, 1 thread": quidditch("request", 1),
    "quidditch, request, 8 threads": quidditch("request", 8),
    "quidditch, request, 32 threads": quidditch("request", 32),
    "quidditch, async, 1 thread": quidditch("async", 1),
    "sqlite, full, table": sqlite("full", words=False),
    "sqlite, full, table and FTS5": sqlite("full", words=True),
    "sqlite, normal, table": sqlite("normal", words=False),
    "sqlite, normal, table and FTS5": sqlite("normal", words=True),
}


def measure(count: int, rounds: int, work: Path | None) -> str:
    """A table of all contenders: medians of ``rounds`` runs of ``count`` writes each."""
    docs = documents(count)
    costs: dict[str, list[Cost]] = {name: [] for name in CONTENDERS}
    names = list(CONTENDERS)
    for number in range(rounds + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            place = Path(tempfile.mkdtemp(prefix="quidditch-writes-", dir=work))
            cost = CONTENDERS[name](place, docs)
            shutil.rmtree(place)
            if number:
                costs[name].append(cost)
    unit = median(cost.seconds for cost in costs["raw write and fdatasync"]) / count
    lines = ["| contender | µs a write | writes/s | of raw | syncs a write |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, runs in costs.items():
        each = median(run.seconds for run in runs) / count
        syncs = [run.syncs / count for run in runs if run.syncs is not None]
        shown = f"{median(syncs):.3f}" if syncs else ""
        lines.append(f"| {name} | {each * 1e6:.0f} | {1 / each:,.0f} | {unit / each:.2f} | {shown} |")
    return "\n".join(lines)

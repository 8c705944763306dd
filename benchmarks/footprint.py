"""What an open index takes, beside tantivy-py: memory, files, the time to open it; and one document until it is found.

    python -m benchmarks.footprint --corpus perf.jsonl --queries perf.queries.jsonl --work DIR --segments 1,50

Each row is a fresh process; ``--work`` keeps the indexes, one a folder (``quidditch-50``). Memory is resident memory
that a process gained since it had opened and searched an index of one document, and so had imported all that it
needs: its own, and pages of mapped files, which the system may take back. The rounds of a document are ``put`` and
``refresh``, its log synced, and ``commit`` and ``reload``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from .compare.engine import engine
from .compare.workload import COMMANDS, Document, read_documents, read_queries

ENGINES = ("quidditch", "tantivy")
ASKED = 1000


class Footprint(msgspec.Struct):
    segments: int
    open_ms: float
    first_ms: float
    opened: tuple[float, float]  # MB of its own, and of mapped files
    asked: tuple[float, float]  # the same after the queries
    files: int
    mapped: int


def memory() -> tuple[float, float]:
    """MB of this process: its own, and of mapped files."""
    status = Path("/proc/self/status").read_text()
    anon, file = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1024 for name in ("RssAnon", "RssFile"))  # type: ignore[index]
    return anon, file


def gained(since: tuple[float, float]) -> tuple[float, float]:
    anon, file = memory()
    return anon - since[0], file - since[1]


def measured(name: str, directory: Path, queries: Path) -> Footprint:
    asked = read_queries(queries)
    tiny, one = (engine(name)(path) for path in (directory.with_name(f"{name}-tiny"), directory))
    tiny.open()
    for query in asked:
        tiny.run(query, COMMANDS["FETCH_10"])
    before, files = memory(), len(os.listdir("/proc/self/fd"))
    started = time.perf_counter()
    one.open()
    opened = time.perf_counter()
    found = gained(before)
    one.run(asked[0], COMMANDS["FETCH_10"])
    first = time.perf_counter()
    for at in range(ASKED):
        one.run(asked[at % len(asked)], COMMANDS["FETCH_10"])
    maps = Path("/proc/self/maps").read_text().splitlines()
    return Footprint(one.segments(), (opened - started) * 1000, (first - started) * 1000, found, gained(before),
                     len(os.listdir("/proc/self/fd")) - files, sum(str(directory) in line for line in maps))


def built(name: str, directory: Path, documents: list[Document], segments: int) -> None:
    """An index that no merge has touched, as far as the engine lets one say so."""
    from quidditch_core.index import merge

    merge.SEGMENTS_PER_TIER = segments + 1
    one = engine(name)(directory)
    one.create()
    size = -(-len(documents) // segments)
    for start in range(0, len(documents), size):
        one.add(documents[start : start + size])
    one.close()


def until_found(name: str, directory: Path, rounds: int) -> list[float]:
    """Milliseconds from one document more to its being found, of each round."""
    ask = _quidditch(directory) if name == "quidditch" else _tantivy(directory)
    times = []
    for at in range(rounds):
        started = time.perf_counter()
        hits = ask(f"footprint{os.getpid()}x{at}")
        times.append((time.perf_counter() - started) * 1000)
        assert hits == 1, hits
    return times


def _quidditch(directory: Path) -> Callable[[str], int]:
    import quidditch_core as qc

    index = qc.open(directory)

    def ask(word: str) -> int:
        index.put(word, {"id": word, "text": f"{word} is one document more"})
        index.refresh()
        return index.count(qc.query.Term("text", word))

    return ask


def _tantivy(directory: Path) -> Callable[[str], int]:
    import tantivy

    index: Any = tantivy.Index.open(str(directory))
    writer = index.writer(heap_size=50_000_000, num_threads=1)

    def ask(word: str) -> int:
        writer.add_document(tantivy.Document(id=word, text=f"{word} is one document more"))
        writer.commit()
        index.reload()
        query = tantivy.Query.term_query(index.schema, "text", word, "freq")
        count: int = index.searcher().search(query, limit=1).count
        return count

    return ask


def fresh(*arguments: object) -> bytes:
    """What this module prints in a process of its own."""
    return subprocess.run([sys.executable, "-m", "benchmarks.footprint", *map(str, arguments)], check=True,
                          stdout=subprocess.PIPE).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="JSON lines with id, title and text")
    parser.add_argument("--queries", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--segments", default="1,50")
    parser.add_argument("--repeats", type=int, default=5, help="processes a row")
    parser.add_argument("--rounds", type=int, default=300, help="documents until they are found")
    parser.add_argument("--one", nargs=2, metavar=("STEP", "ENGINE"), help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        step, name = options.one
        if step == "open":
            result: Any = measured(name, options.directory, options.queries)
        else:
            result = until_found(name, options.directory, options.rounds)
        sys.stdout.buffer.write(msgspec.json.encode(result))
        return
    print("| index | segments | open ms | first hits ms | MB after open | of files | MB after 1,000 queries | of files "
          "| open files | mapped |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in ENGINES:
        if not (tiny := options.work / f"{name}-tiny").exists():
            built(name, tiny, [Document("1", "whale")], 1)
    for segments in map(int, options.segments.split(",")):
        for name in ENGINES:
            directory = options.work / f"{name}-{segments}"
            if not directory.exists():
                built(name, directory, read_documents(options.corpus, None, raw=False), segments)
            rows = [msgspec.json.decode(fresh("--one", "open", name, "--directory", directory, "--queries",
                                              options.queries), type=Footprint) for _ in range(options.repeats)]
            middle = statistics.median
            print(f"| {name} | {rows[0].segments} | {middle(row.open_ms for row in rows):.1f} "
                  f"| {middle(row.first_ms for row in rows):.1f} "
                  + "".join(f"| {middle(getattr(row, at)[kind] for row in rows):.1f} "
                            for at in ("opened", "asked") for kind in (0, 1))
                  + f"| {rows[0].files} | {rows[0].mapped} |", flush=True)
    print("\n| one document until it is found, ms | p50 | p99 |\n| --- | ---: | ---: |")
    first = options.segments.split(",")[0]
    for name in ENGINES:
        copy = options.work / "copy"
        shutil.copytree(options.work / f"{name}-{first}", copy)
        try:
            times = sorted(msgspec.json.decode(
                fresh("--one", "put", name, "--directory", copy, "--rounds", options.rounds), type=list[float]))
        finally:
            shutil.rmtree(copy)
        print(f"| {name} | {times[len(times) // 2]:.2f} | {times[len(times) * 99 // 100]:.2f} |", flush=True)


if __name__ == "__main__":
    main()

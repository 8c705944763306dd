"""How fast segments become one: parts of a corpus are committed one by one, copied, and merged.

    python -m benchmarks.merging --corpus perf.jsonl --segments 10
    python -m benchmarks.merging --corpus perf.jsonl --segments 10 --deletes 0.05 --sort timestamp
"""

from __future__ import annotations

import argparse
import itertools
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec

import quidditch_core as qc

MAPPING = {"dynamic": "strict", "properties": {
    "id": {"type": "keyword", "index": False, "doc_values": False}, "text": {"type": "text"},
    "timestamp": {"type": "date"}, "category": {"type": "keyword"}, "price": {"type": "float"}}}


def documents(corpus: Path, limit: int | None) -> Iterator[dict[str, Any]]:
    with corpus.open("rb") as lines:
        for line in itertools.islice(lines, limit):
            doc = msgspec.json.decode(line)
            yield {"text": f"{doc['title']} {doc['text']}"} | {
                name: doc[name] for name in ("id", "timestamp", "category", "price")}


def build(options: argparse.Namespace, path: Path) -> None:
    """An index of some segments, which nothing merges."""
    settings: dict[str, Any] = {"index.refresh_interval": -1}
    if options.sort:
        settings |= {"index.sort.field": options.sort, "index.sort.order": "desc"}
    with qc.create(path, MAPPING, settings=settings) as index:
        total = options.limit
        if total is None:
            with options.corpus.open("rb") as lines:
                total = sum(1 for _ in lines)
        docs = documents(options.corpus, total)
        size = -(-total // options.segments)
        ids = []
        while part := list(itertools.islice(docs, size)):
            ids += [doc["id"] for doc in part]
            index.bulk(part, id="id")
            index.flush()
        if options.deletes:
            index.put_settings({"index.translog.durability": "async"})
            for id in Random(5).sample(ids, round(options.deletes * len(ids))):
                index.delete(id)
            index.flush()


def merge(path: Path) -> dict[str, float]:
    """Merge the index at ``path`` to one segment: seconds, bytes before and after, and what the process held."""
    with qc.open(path) as index:
        before = sum(segment.bytes for segment in index.segments())
        start = time.process_time(), time.perf_counter()
        index.merge(max_segments=1)
        cpu, wall = time.process_time() - start[0], time.perf_counter() - start[1]
        after = sum(segment.bytes for segment in index.segments())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"cpu": cpu, "wall": wall, "before": before / 1e6, "after": after / 1e6, "peak": peak / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="JSON lines with id, title, text, timestamp, category and price")
    parser.add_argument("--limit", type=int, help="use the first so many documents")
    parser.add_argument("--segments", type=int, default=10, help="how many segments to merge")
    parser.add_argument("--deletes", type=float, default=0.0, help="share of documents to delete before")
    parser.add_argument("--sort", help="a field that the index is sorted by, descending")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="keep the index here, and use the one that is here")
    parser.add_argument("--merge", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.merge is not None:
        print(msgspec.json.encode(merge(options.merge)).decode())
        return
    with tempfile.TemporaryDirectory() as scratch:
        built = (options.work or Path(scratch)) / "parts"
        if not built.exists():
            build(options, built)
        found = []
        for _ in range(options.rounds):
            copy = built.with_name("merged")
            shutil.copytree(built, copy)
            run = subprocess.run([sys.executable, "-m", "benchmarks.merging", "--merge", str(copy)], check=True,
                                 capture_output=True)
            found.append(msgspec.json.decode(run.stdout, type=dict[str, float]))
            shutil.rmtree(copy)
    median = {name: statistics.median(one[name] for one in found) for name in found[0]}
    print("| segments | MB before | MB after | CPU s | wall s | MB/CPU s | peak RSS MB |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    print(f"| {options.segments} | {median['before']:.1f} | {median['after']:.1f} | {median['cpu']:.2f} | "
          f"{median['wall']:.2f} | {median['before'] / median['cpu']:.1f} | {median['peak']:.0f} |")


if __name__ == "__main__":
    main()

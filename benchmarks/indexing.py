"""Where indexing spends its time: bulk, refresh and flush of one corpus, for several numbers of threads in turn.

Beside them, in the same rounds, as many processes of one thread each index the corpus at once: what the machine can do.

    python -m benchmarks.indexing --corpus perf100k.jsonl --threads 1,2
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

import quidditch_core as qc

MAPPING = {"dynamic": "strict", "properties": {
    "id": {"type": "keyword", "index": False, "doc_values": False}, "text": {"type": "text"}}}
STAGES = ("bulk", "refresh", "flush")


def once(docs: list[dict[str, Any]], threads: int) -> list[tuple[float, float]]:
    """CPU and wall-clock seconds of each stage."""
    with tempfile.TemporaryDirectory() as directory, qc.create(
            Path(directory) / "index", MAPPING,
            settings={"index.refresh_interval": -1, "thread_pool.write.size": threads}) as index:
        times = [(time.process_time(), time.perf_counter())]
        for stage in (lambda: index.bulk(iter(docs), id="id"), index.refresh, index.flush):
            stage()
            times.append((time.process_time(), time.perf_counter()))
    return [(end[0] - start[0], end[1] - start[1]) for start, end in itertools.pairwise(times)]


def load(path: Path) -> list[dict[str, Any]]:
    """What to index: id, and title and text as one."""
    docs = []
    with path.open("rb") as lines:
        for line in lines:
            doc = msgspec.json.decode(line)
            docs.append({"id": doc["id"], "text": f"{doc['title']} {doc['text']}"})
    return docs


_loaded: list[dict[str, Any]] = []


def _start(path: Path) -> None:
    _loaded.extend(load(path))
    once(_loaded, 1)


def _wall(number: int) -> float:
    """Seconds of a process among others; each gets one ``number``."""
    return sum(wall for _, wall in once(_loaded, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="JSON lines with id, title and text")
    parser.add_argument("--threads", default="1,2", help="values of thread_pool.write.size")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    docs = load(options.corpus)
    counts = [int(part) for part in options.threads.split(",")]
    once(docs, counts[0])  # the first run pays for memory that later ones use again
    found: dict[int, list[list[tuple[float, float]]]] = {threads: [] for threads in counts}
    context = multiprocessing.get_context("spawn")
    pools = {count: context.Pool(count, _start, (options.corpus,)) for count in counts if count > 1}
    for count, pool in pools.items():
        pool.map(_wall, range(count), chunksize=1)  # once all have loaded the corpus
    beside: dict[int, list[float]] = {count: [] for count in pools}
    for _ in range(options.rounds):
        for threads in counts:
            found[threads].append(once(docs, threads))
        for count, pool in pools.items():
            beside[count].append(max(pool.map(_wall, range(count), chunksize=1)))
    print(f"{len(docs):,} documents, median ms of {options.rounds} rounds\n")
    print("| threads | CPU or wall | " + " | ".join(STAGES) + " | all |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    for threads in counts:
        for at, kind in enumerate(("CPU", "wall")):
            rounds = [[stage[at] * 1000 for stage in one] for one in found[threads]]
            row = [statistics.median(one[stage] for one in rounds) for stage in range(len(STAGES))]
            row.append(statistics.median(map(sum, rounds)))
            print(f"| {threads} | {kind} | " + " | ".join(f"{value:.0f}" for value in row) + " |")
    for count, seconds in beside.items():
        alone = statistics.median(sum(wall for _, wall in one) for one in found[count])
        print(f"\n{count} processes at once: {statistics.median(seconds) * 1000:.0f} ms each; {count} threads do "
              f"{statistics.median(seconds) / count / alone:.2f} of what they do")
        pools[count].close()


if __name__ == "__main__":
    main()

"""What a tier costs a search: time, rounds, requests and bytes of a workload, hot, warm and cold.

``python -m benchmarks.tiers --docs corpus.jsonl --queries queries.jsonl --work DIR``: the corpus is JSON lines with
fields ``id`` and ``text``, the queries JSON lines with ``kind`` (term, union, intersection, phrase) and ``terms``. The
cold store is a directory behind a pause: every round of parallel requests takes ``--latency`` milliseconds more. Each
query is asked for ten hits with their sources. "Empty" means that memory and block cache are emptied before each query,
"cached" that only memory is, "in memory" that nothing is. Compare rows, of one run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import quidditch_core as qc
from benchmarks.threads.rates import queries
from quidditch_core import query as q
from quidditch_core.tiering import Span, cache, remote, store
from quidditch_core.tiering.testing import CountingStore

SEGMENTS = 10


class SlowStore(CountingStore):
    """Counts, and pauses before every round."""

    pause = 0.0

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        time.sleep(self.pause)
        return super().read(spans)


def built(given: argparse.Namespace) -> Any:
    """The index, in so many segments; made once."""
    tiers = qc.Tiers(warm=str(given.work / "warm"), cold=f"file://{given.work}/cold", memory=4 << 30)  # type: ignore
    path = given.work / "index"
    if path.exists():
        return qc.open(path, tiers=tiers)
    mapping = {"dynamic": False, "properties": {"text": {"type": "text"}}}
    index = qc.create(path, mapping, settings={"index.refresh_interval": "-1"}, tiers=tiers)
    with given.docs.open("rb") as file:
        lines = file.readlines()
    step = -(-len(lines) // SEGMENTS)
    for at in range(0, len(lines), step):
        index.bulk(b"".join(lines[at : at + step]), id="id")
        index.flush()
    return index


def empty_memory(index: Any, *, blocks: bool) -> None:
    remote.MEMORY.empty()
    if blocks:
        cache.shared().clear()
    index._reader.search(q.MatchNone())  # which takes up the emptied segments


def measure(index: Any, asked: list[q.Query], far: SlowStore | None, before: Any) -> dict[str, float]:
    """Medians and sums over the queries; ``before`` is called before each, and not measured."""
    times, rounds, requests, sizes = [], [], [], []
    for query in asked:
        before()
        if far is not None:
            far.calls.clear()
            far.requests = far.bytes = 0
        started = time.perf_counter()
        len(index.search(query, size=10).hits)
        times.append((time.perf_counter() - started) * 1000)
        if far is not None:
            rounds.append(far.calls["read"])
            requests.append(far.requests)
            sizes.append(far.bytes)
    tenths = statistics.quantiles(times, n=10)
    found = {"p50": statistics.median(times), "p90": tenths[8]}
    if far is not None:
        found |= {"rounds p50": statistics.median(rounds), "rounds max": max(rounds),
                  "requests": statistics.mean(requests), "KiB": statistics.mean(sizes) / 1024}
    return found


def show(name: str, found: dict[str, float]) -> None:
    print(f"{name:28}" + "".join(f"{value:12.2f}" for value in found.values()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, required=True)
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--latency", default="0,20,100", help="milliseconds, a comma between them")
    parser.add_argument("--count", type=int, default=200, help="queries")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    os.environ["XDG_CACHE_HOME"] = str(given.work / "cache")
    made: list[SlowStore] = []
    real = store.FsspecStore

    def slow(url: str, options: Any = None) -> Any:
        made.append(SlowStore(real(url, options)))
        return made[-1]

    store.FsspecStore = slow  # type: ignore[assignment, misc]
    asked = queries(given.queries, "all")[: given.count]

    def nothing() -> None:
        return None

    with built(given) as index:
        total = sum(info.bytes for info in index.segments())
        print(f"{index.count():,} documents in {len(index.segments())} segments, {total:,} bytes; {len(asked)} queries")
        print(f"{'':28}" + "".join(f"{name:>12}" for name in (
            "p50 ms", "p90 ms", "rounds p50", "rounds max", "requests", "KiB")))
        for tier in ("hot", "warm"):
            index.move(to=tier)
            measure(index, asked, None, nothing)
            show(tier, measure(index, asked, None, nothing))
        index.move(to="cold")
        far = made[-1]
        for pause in map(float, given.latency.split(",")):
            far.pause = pause / 1000
            name = f"cold, {pause:g} ms, "
            show(name + "empty", measure(index, asked, far, lambda: empty_memory(index, blocks=True)))
        far.pause = 0.0
        empty_memory(index, blocks=True)
        measure(index, asked, far, nothing)
        show("cold, cached", measure(index, asked, far, lambda: empty_memory(index, blocks=False)))
        measure(index, asked, far, nothing)
        show("cold, in memory", measure(index, asked, far, nothing))
        index.move(to="hot")


if __name__ == "__main__":
    main()

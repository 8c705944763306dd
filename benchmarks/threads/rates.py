"""Searches a second: one thread, two threads of one process, two processes, in turn.

Two of anything need two idle cores; compare them with each other, not with one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import quidditch_core as qc
from quidditch_core import query as q

KINDS = {"term", "union", "intersection", "phrase"}


def queries(path: Path, kind: str) -> list[q.Query]:
    """The queries of a workload file (JSON lines with kind and terms) that are of ``kind``, or all."""
    found: list[q.Query] = []
    for line in path.read_text().splitlines():
        asked = json.loads(line)
        text = " ".join(asked["terms"])
        if kind not in ("all", asked["kind"]):
            continue
        if asked["kind"] == "phrase":
            found.append(q.MatchPhrase("text", text))
        else:
            found.append(q.Match("text", text, operator="and" if asked["kind"] == "intersection" else "or"))
    return found


def search(index: Any, asked: list[q.Query], k: int, start: Any, seconds: float) -> int:
    """How many searches are done in ``seconds`` from the moment that all have begun."""
    for query in asked:
        index.search(query, size=k, source=False, track_total_hits=False)
    start.wait()
    done, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        index.search(asked[done % len(asked)], size=k, source=False, track_total_hits=False)
        done += 1
    return done


def _process(path: str, options: argparse.Namespace, start: Any, results: Any) -> None:
    with qc.open(path, read_only=True) as index:
        asked = queries(options.queries, options.kind)
        results.put(search(index, asked, options.k, start, options.seconds))


def by_processes(count: int, options: argparse.Namespace) -> float:
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(count), context.Queue()
    given = str(options.index), options, start, results
    workers = [context.Process(target=_process, args=given) for _ in range(count)]
    for worker in workers:
        worker.start()
    done = sum(results.get() for _ in workers)
    for worker in workers:
        worker.join()
    return float(done / options.seconds)


def by_threads(count: int, options: argparse.Namespace) -> float:
    done = [0] * count
    start = threading.Barrier(count)
    asked = queries(options.queries, options.kind)
    with qc.open(options.index, read_only=True) as index:
        def work(number: int) -> None:
            done[number] = search(index, asked, options.k, start, options.seconds)

        workers = [threading.Thread(target=work, args=(number,)) for number in range(count)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    return sum(done) / options.seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.threads", description=__doc__)
    parser.add_argument("--index", type=Path, required=True, help="an index with a field named text")
    parser.add_argument("--queries", type=Path, required=True, help="JSON lines with kind and terms")
    parser.add_argument("--kind", default="all", choices=sorted(KINDS | {"all"}))
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    ways = {"1 thread": lambda: by_threads(1, options), "2 threads": lambda: by_threads(2, options),
            "2 processes": lambda: by_processes(2, options)}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            rates[name].append(way())
    both = [threads / processes for threads, processes in zip(rates["2 threads"], rates["2 processes"], strict=True)]
    print(f"{options.kind}, k = {options.k}, load {os.getloadavg()[0]:.1f}\n")
    print("| way | searches/s |\n| --- | ---: |")
    for name, found in rates.items():
        print(f"| {name} | {statistics.median(found):,.0f} |")
    print(f"\nThreads reach {statistics.median(both):.2f} of processes.")

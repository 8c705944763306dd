"""A steady load: 100 puts a second, a refresh every second, searches beside them; what becomes of their times, of
the number of segments, and of the disk.

Searches come one after the other at a fixed rate, on the index alone, then under the load, then on what that has made
of the index; each is measured from the moment at which it was due, so that one that has to wait is not left out. Where
the two idle ones differ, it is the machine that was not.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

import quidditch_core as qc

from .documents import MAPPING, documents, queries

PUTS: Final = 100
SEARCHES: Final = 50
"""A second."""


def measure(minutes: float, size: int, work: Path | None) -> str:
    """``size`` documents to begin with; half of the puts replace one of them, half are new."""
    place = Path(tempfile.mkdtemp(prefix="quidditch-steady-", dir=work))
    try:
        with qc.create(place / "index", MAPPING, settings={"index.refresh_interval": "1s"}) as index:
            index.bulk(({**doc, "n": number} for number, doc in enumerate(documents(size))), id="n")
            index.merge()
            return _measure(index, minutes * 60, size)
    finally:
        shutil.rmtree(place)


def _measure(index: Any, seconds: float, size: int) -> str:
    asked = queries(1_000)
    for body in asked:
        index.search(body)
    idle = _searches(index, asked, min(seconds, 60.0))
    stop = threading.Event()
    puts: list[float] = []
    seen: list[tuple[int, int]] = []  # segments, bytes on disk
    threads = [threading.Thread(target=work, args=(index, stop, *rest)) for work, *rest in (
        (_put, size, puts), (_watch, seen))]
    for thread in threads:
        thread.start()
    loaded = _searches(index, asked, seconds)
    stop.set()
    for thread in threads:
        thread.join()
    index.flush()
    rest = _bytes(index)
    after = _searches(index, asked, min(seconds, 60.0))
    index.merge()
    live = _bytes(index)
    ratio = _percentile(loaded, 99) / _percentile(idle + after, 99)
    half = len(seen) // 2
    lines = [
        "| searches | p50 ms | p99 ms | worst ms |", "| --- | ---: | ---: | ---: |",
        *(f"| {name} | {_percentile(times, 50):.2f} | {_percentile(times, 99):.2f} | {max(times) * 1e3:.1f} |"
          for name, times in (("idle, before", idle), ("under load", loaded), ("idle, after", after))), "",
        f"{seconds:.0f} s, {len(puts):,} puts ({len(puts) / seconds:.1f} a second; p50 {_percentile(puts, 50):.2f} ms, "
        f"p99 {_percentile(puts, 99):.2f} ms), {len(loaded):,} searches; p99 is {ratio:.2f} times that of idle.",
        f"Segments: at most {max(count for count, _ in seen[:half])} in the first half, "
        f"{max(count for count, _ in seen[half:])} in the second, {seen[-1][0]} at the end.",
        f"Disk: at most {max(size for _, size in seen) / 1e6:.1f} MB, {rest / 1e6:.1f} MB after a flush, "
        f"{live / 1e6:.1f} MB merged into one segment.",
    ]
    return "\n".join(lines)


def _at(rate: float, go_on: Callable[[], bool], work: Callable[[], object]) -> list[float]:
    """Do ``work`` at a rate; seconds of each from the moment at which it was due."""
    times: list[float] = []
    started = time.perf_counter()
    while go_on():
        due = started + len(times) / rate
        time.sleep(max(due - time.perf_counter(), 0))
        work()
        times.append(time.perf_counter() - due)
    return times


def _searches(index: Any, asked: list[dict[str, Any]], seconds: float) -> list[float]:
    rng, end = Random("searches"), time.perf_counter() + seconds
    return _at(SEARCHES, lambda: time.perf_counter() < end, lambda: index.search(rng.choice(asked)))


def _put(index: Any, stop: threading.Event, size: int, times: list[float]) -> None:
    rng, docs = Random("puts"), documents(5_000, seed=1)

    def put() -> None:
        id = str(rng.randrange(size)) if rng.random() < 0.5 else None
        index.put(id, rng.choice(docs))

    times += _at(PUTS, lambda: not stop.is_set(), put)


def _watch(index: Any, stop: threading.Event, seen: list[tuple[int, int]]) -> None:
    while not stop.wait(0.5):
        seen.append((len(index.segments()), _bytes(index)))


def _bytes(index: Any) -> int:
    total = 0
    for file in Path(index.path).rglob("*"):
        try:
            total += file.stat().st_size
        except FileNotFoundError:  # it was there a moment ago
            continue
    return total


def _percentile(times: list[float], percent: float) -> float:
    """In milliseconds."""
    return sorted(times)[min(int(len(times) * percent / 100), len(times) - 1)] * 1e3

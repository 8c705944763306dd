"""One long search by one thread and by two: medians and least times in ms. Needs an index of several segments."""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import quidditch_core as qc
from quidditch_core import query as q

ASKED = ("to be or not to be", "the of and to a in", "new york times")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.threads.slices", description=__doc__)
    parser.add_argument("--index", type=Path, required=True, help="an index with a field named text; it is copied")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    print("| query | threads | least ms | median ms |\n| --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as directory:
        copy = shutil.copytree(options.index, Path(directory) / "index")
        for text in ASKED:
            for threads in (1, 2):
                with qc.open(copy) as index:
                    index.put_settings({"index.search.concurrent.max_slice_count": threads})
                with qc.open(copy, read_only=True) as index:
                    times = []
                    for _ in range(options.rounds):
                        started = time.perf_counter()
                        index.search(q.Match("text", text), source=False, track_total_hits=False)
                        times.append((time.perf_counter() - started) * 1e3)
                print(f"| {text} | {threads} | {min(times):.2f} | {statistics.median(times):.2f} |")


if __name__ == "__main__":
    main()

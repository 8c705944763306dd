"""From the start of a process to its first hit: ``python -m benchmarks.coldstart [--rounds 7] [--core 1]``.

Every row is a fresh process. The rows take turns, so that whatever else the machine does meets all of them; printed
are medians of the wall time, their ratio to ``import numpy``, and the largest resident memory. The package is a copy
with its bytecode compiled, as pip leaves it, and its images (``make kernels``). tantivy and bm25s are measured where
they are installed; they open an index of the same documents from disk.
"""

from __future__ import annotations

import argparse
import compileall
import fcntl
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from quidditch_core import jit

DOCS = 1000
MAKE = """
import sys
import quidditch_core as qc
with qc.create(sys.argv[1], {"properties": {"body": {"type": "text"}}}) as index:
    index.bulk([{"body": line} for line in open(sys.argv[2])])
    index.flush()
"""
ASK = """
import sys
import quidditch_core as qc
from quidditch_core import query as q
with qc.open(sys.argv[1], read_only=True) as index:
    print(index.search(q.Match("body", "whale w7"), size=1)[0].id)
"""
TANTIVY_MAKE = """
import sys, os
import tantivy
os.mkdir(sys.argv[1])
schema = tantivy.SchemaBuilder().add_text_field("body", stored=True).build()
index = tantivy.Index(schema, path=sys.argv[1])
writer = index.writer()
for line in open(sys.argv[2]):
    writer.add_document(tantivy.Document(body=line))
writer.commit()
writer.wait_merging_threads()
"""
TANTIVY_ASK = """
import sys
import tantivy
index = tantivy.Index.open(sys.argv[1])
searcher = index.searcher()
score, address = searcher.search(index.parse_query("whale w7", ["body"]), 1).hits[0]
print(searcher.doc(address)["body"][0][:10])
"""
BM25S_MAKE = """
import sys
import bm25s
lines = list(open(sys.argv[2]))
model = bm25s.BM25()
model.index(bm25s.tokenize(lines, show_progress=False), show_progress=False)
model.save(sys.argv[1], corpus=lines)
"""
BM25S_ASK = """
import sys
import bm25s
model = bm25s.BM25.load(sys.argv[1], load_corpus=True)
found, _ = model.retrieve(bm25s.tokenize("whale w7", show_progress=False), k=1, show_progress=False)
print(str(found[0, 0])[:10])
"""


@dataclass
class Row:
    """What is started, and what it took."""

    name: str
    command: list[str]
    cwd: Path
    env: dict[str, str] = field(default_factory=dict)
    fresh: Path | None = None
    ships: bool = True
    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)

    def run(self, core: int | None) -> None:
        if self.fresh is not None:
            shutil.rmtree(self.fresh, ignore_errors=True)
        started = time.perf_counter()
        child = subprocess.Popen([sys.executable, *self.command], env={**os.environ, **self.env},
                                 cwd=self.cwd, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                 preexec_fn=pinned(core))
        assert child.stdout is not None
        first = child.stdout.readline()
        self.seconds.append(time.perf_counter() - started)
        child.stdout.close()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode or not first:
            raise SystemExit(f"{self.name} gave no answer, status {child.returncode}")
        self.megabytes.append(used.ru_maxrss / 1024)
        if self.fresh is not None and not self.ships:
            settle(self.fresh)


def pinned(core: int | None) -> Any:
    return None if core is None else lambda: os.sched_setaffinity(0, {core})


def settle(cache: Path) -> None:
    """Wait for the compilers that a first run has started and left, so that they are in nobody's way."""
    known: set[Path] = set()
    time.sleep(2)  # they begin with importing Numba
    while new := {*cache.rglob("*.lock")} - known:
        for path in new:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
        known |= new
        time.sleep(1)


def rows(work: Path) -> list[Row]:
    """All that is measured, with its indexes made."""
    lines = work / "lines.txt"
    rng = random.Random(1)
    words = [f"w{i}" for i in range(2000)]
    lines.write_text("".join(f"{'whale ' * (i % 3 == 0)}{' '.join(rng.choices(words, k=60))}\n" for i in range(DOCS)))
    kinds = {"images": True, "numpy": False}
    env = {}
    for kind, images in kinds.items():
        package = work / kind / "quidditch_core"
        shutil.copytree(jit.PACKAGE, package, ignore=None if images else shutil.ignore_patterns("_kernels"))
        compileall.compile_dir(package, quiet=1)
        env[kind] = {"PYTHONPATH": str(work / kind), "XDG_CACHE_HOME": str(work / kind / "cache"),
                     "QUIDDITCH_KERNELS": ""}
    index = str(work / "index")
    made("quidditch", MAKE, index, lines, env["images"])
    hello = "; print(1, flush=True)"
    found = [
        Row("import numpy", ["-c", "import numpy" + hello], work),
        Row("import quidditch_core", ["-c", "import quidditch_core" + hello], work, env["images"]),
        Row("first hit", ["-c", ASK, index], work, env["images"]),
        Row("first hit, empty caches", ["-c", ASK, index], work, env["images"], fresh=work / "images" / "cache"),
        Row("first hit, nothing compiled", ["-c", ASK, index], work, env["numpy"], fresh=work / "numpy" / "cache",
            ships=False),
    ]
    if find_spec("tantivy"):
        made("tantivy", TANTIVY_MAKE, str(work / "tantivy"), lines, {})
        found.append(Row("tantivy, first hit", ["-c", TANTIVY_ASK, str(work / "tantivy")], work))
    if find_spec("bm25s"):
        made("bm25s", BM25S_MAKE, str(work / "bm25s"), lines, {})
        found.append(Row("bm25s, first hit", ["-c", BM25S_ASK, str(work / "bm25s")], work))
    return found


def made(name: str, program: str, path: str, lines: Path, env: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", program, path, str(lines)], env={**os.environ, **env}, text=True,
                          cwd=lines.parent, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{name} could not make its index: {done.stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.coldstart", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--core", type=int, help="the processor that all of them run on")
    options = parser.parse_args()
    level = next(iter(jit.levels()), None)
    if level is None or not all(jit.ships(entry, jit.shipped_image(level)) for entry in jit.every_kernel()):
        raise SystemExit("no image of these sources fits this processor: make kernels")
    with tempfile.TemporaryDirectory(prefix="coldstart-") as name:
        measured = rows(Path(name))
        for number in range(options.rounds):
            for row in measured:
                if row.ships or number < 3:  # what compiles makes the others wait
                    row.run(options.core)
    base = statistics.median(measured[0].seconds)
    print(f"| fresh process, {DOCS:,} documents, median of {options.rounds} (at most 3 where nothing is compiled) "
          "| ms | x import numpy | MB |")
    print("|---|--:|--:|--:|")
    for row in measured:
        took = statistics.median(row.seconds)
        print(f"| {row.name} | {1000 * took:.0f} | {took / base:.2f} | {statistics.median(row.megabytes):.0f} |")


if __name__ == "__main__":
    main()

"""How long opening takes when there is a log to be replayed, and how long writing that log took."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

import quidditch_core as qc

from .documents import MAPPING, documents

SETTINGS = {"index.translog.durability": "async", "index.refresh_interval": "-1",
            "index.translog.flush_threshold_size": "4gb"}


def measure(count: int, rounds: int, work: Path | None) -> str:
    """``count`` puts, one by one, a tenth of them replacing an earlier one, then the death of the process."""
    place = Path(tempfile.mkdtemp(prefix="quidditch-recovery-", dir=work))
    try:
        child = os.fork()
        if not child:
            _write(place / "index", count)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        written = float((place / "seconds").read_text())
        log = sum(file.stat().st_size for file in (place / "index" / "translog").iterdir())
        opened = []
        for number in range(rounds):
            shutil.copytree(place / "index", place / f"copy-{number}")
            started = time.perf_counter()
            index = qc.open(place / f"copy-{number}")
            opened.append(time.perf_counter() - started)
            stats = index.stats()
            assert stats["translog"]["recovered"] == count, stats
            assert index.count() == count - count // 10, index
            index.close()
            shutil.rmtree(place / f"copy-{number}")
    finally:
        shutil.rmtree(place)
    seconds = median(opened)
    return (f"{count:,} operations, {log / 1e6:.1f} MB of log: opened in {seconds:.2f} s ({rounds} times, "
            f"{min(opened):.2f} to {max(opened):.2f} s), {count / seconds:,.0f} operations/s; "
            f"writing them had taken {written:.2f} s")


def _write(path: Path, count: int) -> None:
    docs = documents(count)
    index = qc.create(path, MAPPING, settings=SETTINGS)
    fresh = count - count // 10
    started = time.perf_counter()
    for number, doc in enumerate(docs):
        index.put(f"doc-{number if number < fresh else 7 * number % fresh}", doc)
    (path.parent / "seconds").write_text(str(time.perf_counter() - started))
    os._exit(0)

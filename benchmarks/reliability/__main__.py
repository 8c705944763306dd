"""The command line: everything, or with ``--only`` one part; prints Markdown."""

from __future__ import annotations

import argparse
import os
import platform
import sqlite3
from pathlib import Path

from . import recovery, steady, writes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability", description="What durability costs.")
    parser.add_argument("--only", choices=["writes", "recovery", "steady"], help="one part alone")
    parser.add_argument("--writes", type=int, default=2_000, help="of each run (2000)")
    parser.add_argument("--rounds", type=int, default=5, help="that are counted (5)")
    parser.add_argument("--operations", type=int, default=100_000, help="in the log to recover (100000)")
    parser.add_argument("--minutes", type=float, default=5.0, help="of steady load (5)")
    parser.add_argument("--size", type=int, default=20_000, help="documents that the steady load begins with (20000)")
    parser.add_argument("--work", type=Path, help="directory on the disk to measure (default: for temporary files)")
    given = parser.parse_args()
    print(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
          f"SQLite {sqlite3.sqlite_version}; load average before {os.getloadavg()[0]:.1f}")
    if given.only in (None, "writes"):
        print(f"\n## {given.writes:,} writes, medians of {given.rounds} rounds\n")
        print(writes.measure(given.writes, given.rounds, given.work), flush=True)
    if given.only in (None, "recovery"):
        print("\n## Recovery\n")
        print(recovery.measure(given.operations, 3, given.work), flush=True)
    if given.only in (None, "steady"):
        print(f"\n## {steady.PUTS} puts and {steady.SEARCHES} searches a second\n")
        print(steady.measure(given.minutes, given.size, given.work), flush=True)
    print(f"\nload average after {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()

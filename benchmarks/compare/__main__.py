"""The command line of the comparison; ``--help`` explains."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.compare.measure import all_commands, build, search
from benchmarks.compare.report import markdown
from benchmarks.compare.workload import COMMANDS, read_queries


def main() -> int:
    """Measure and print the report; 1 if the answers differ."""
    options = _options()
    names = options.engines.split(",")
    commands = [] if options.raw else all_commands(options.commands)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="compare-", dir=options.work) as work:
        result: dict[str, Any] = {"built": build(
            names, Path(work), options.core, options.corpus, limit=options.limit, raw=options.raw,
            commits=options.commits)}
        if commands:
            result |= search(names, Path(work), options.core, options.queries, commands, rounds=options.rounds,
                             warmup=options.warmup, seed=options.seed)
    result["conditions"] = {
        "machine": _machine(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "load_before": load_before, "load_after": os.getloadavg()[0],
        "text": "text as it is" if options.raw else "text as lower-case ASCII words"}
    if options.json is not None:
        options.json.write_text(json.dumps(result))
    report = markdown(result, read_queries(options.queries))
    if options.out is not None:
        options.out.write_text(report)
    print(report)
    return 1 if result.get("differences") else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="JSON lines with id, title, text")
    parser.add_argument("--queries", type=Path, required=True, help="JSON lines with kind and terms")
    parser.add_argument("--engines", default="quidditch,tantivy", help="files in engines/; ratios are the first's")
    parser.add_argument("--commands", default=",".join(COMMANDS), help="which commands (default: all)")
    parser.add_argument("--limit", type=int, help="use the first so many documents")
    parser.add_argument("--raw", action="store_true", help="index the text as it is, and do not search")
    parser.add_argument("--commits", type=int, default=1, help="commit in so many equal parts, for merging")
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before them")
    parser.add_argument("--core", type=int, default=0, help="the core that every engine is pinned to")
    parser.add_argument("--seed", type=int, default=1, help="of the order of queries")
    parser.add_argument("--work", type=Path, help="where indexes are built (default: the system's place for such)")
    parser.add_argument("--out", type=Path, help="also write the report here")
    parser.add_argument("--json", type=Path, help="write all times here")
    return parser.parse_args()


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, one used"


if __name__ == "__main__":
    sys.exit(main())

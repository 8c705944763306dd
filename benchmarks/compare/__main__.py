"""The command line of the comparison; ``--help`` explains."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from benchmarks.compare.chart import svg
from benchmarks.compare.measure import all_commands, build, search
from benchmarks.compare.report import markdown
from benchmarks.compare.workload import COMMANDS, read_queries

ENGINES = "quidditch,native_tantivy,lucene,tantivy,pisa,bm25s_numba,lance,sqlite_fts5"


def main() -> int:
    """Measure and print the report; 1 if the answers differ."""
    options = _options()
    names = [name for name in options.engines.split(",") if name]
    commands = [] if options.raw else all_commands(options.commands)
    load_before = os.getloadavg()[0]
    with nullcontext(options.work) if options.work else tempfile.TemporaryDirectory(prefix="compare-") as root:
        work = Path(root).resolve() / _variant(options)
        work.mkdir(parents=True, exist_ok=True)
        rebuild = names if options.rebuild == "all" else options.rebuild.split(",")
        plan = {"corpus": str(options.corpus), "limit": options.limit, "raw": options.raw, "commits": options.commits,
                "segments": options.segments, "deletes": options.deletes}
        built, skipped = build(names, work, options.core, plan, rebuild)
        result: dict[str, Any] = {"built": built, "skipped": skipped}
        if commands and not options.build_only:
            found = search(list(built), work, options.core, options.queries, commands, rounds=options.rounds,
                           warmup=options.warmup, seed=options.seed, patience=options.patience)
            result |= found | {"skipped": skipped | found["skipped"]}
    result["conditions"] = {
        "machine": _machine(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "load_before": load_before, "load_after": os.getloadavg()[0],
        "text": "text as it is" if options.raw else "text as lower-case ASCII words",
        "deletes": options.deletes, "asked_segments": options.segments}
    if options.json is not None:
        options.json.write_text(json.dumps(result))
    queries = read_queries(options.queries)
    report = markdown(result, queries)
    if options.out is not None:
        options.out.write_text(report)
    if options.chart is not None and "times" in result:
        options.chart.write_text(svg(result, queries))
    print(report)
    return 1 if result.get("differences") else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="JSON lines with id, title, text")
    parser.add_argument("--queries", type=Path, required=True, help="JSON lines with kind and terms")
    parser.add_argument("--engines", default=ENGINES,
                        help="names in engines/, or of modules with dots; the others are compared with the first "
                             "(default: %(default)s)")
    parser.add_argument("--commands", default=",".join(COMMANDS), help="which commands (default: all)")
    parser.add_argument("--limit", type=int, help="use the first so many documents")
    parser.add_argument("--raw", action="store_true", help="index the text as it is, and do not search")
    parser.add_argument("--commits", type=int, default=1, help="commit in so many equal parts, then merge")
    parser.add_argument("--segments", type=int, default=1, help="commit in so many equal parts, and do not merge")
    parser.add_argument("--deletes", type=_share, default=0.0, help="share of documents to delete after indexing")
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before them")
    parser.add_argument("--patience", type=float, default=30,
                        help="seconds that an engine gets for a command; slower ones do fewer rounds, but one")
    parser.add_argument("--core", type=int, default=0, help="the core that every engine is pinned to")
    parser.add_argument("--seed", type=int, default=1, help="of the order of queries")
    parser.add_argument("--work", type=Path, help="keep the indexes here, and use those that are here")
    parser.add_argument("--rebuild", default="", help="engines whose index is to be built anew, or all")
    parser.add_argument("--build-only", action="store_true", help="build the indexes, and do not search")
    parser.add_argument("--out", type=Path, help="also write the report here")
    parser.add_argument("--json", type=Path, help="write all times here")
    parser.add_argument("--chart", type=Path, help="draw the medians here (SVG)")
    options = parser.parse_args()
    if options.segments > 1 and options.commits > 1:
        parser.error("--commits merges what it committed and --segments does not: give one of them")
    return options


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share from 0 to below 1")
    return share


def _variant(options: argparse.Namespace) -> str:
    """Names the folder of the indexes that are built alike."""
    parts = ["raw" if options.raw else "words"]
    parts += [f"{options.commits}-commits"] if options.commits > 1 else []
    parts += [f"{options.segments}-segments"] if options.segments > 1 else []
    parts += [f"deletes-{options.deletes:g}"] if options.deletes else []
    return "-".join(parts)


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, one used"


if __name__ == "__main__":
    sys.exit(main())

"""What each section of an index takes on disk, for both codecs, beside tantivy's files of the same documents.

    python -m benchmarks.sizes --corpus perf.jsonl --work indexes --tantivy indexes/words/native_tantivy

Documents are those of ``benchmarks.compare``: id and text, in one segment. Indexes that are in ``--work`` are used.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec

import quidditch_core as qc
from benchmarks.compare.engines.quidditch import MAPPING
from benchmarks.compare.workload import read_documents
from quidditch_core.codec.v1.file import FOOTER, Contents

CODECS = ("default", "diagon_best_compression")

PARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "postings": (("postings", "blocks.last", "blocks.offset", "blocks.width", "blocks.bound"), ("idx",)),
    "positions": (("positions", "blocks.position"), ("pos",)),
    "terms": (("terms", "terms.sparse", "terms.first", "terms.first.offset"), ("term",)),
    "norms": (("norms",), ("fieldnorm",)),
    "documents": (("stored", "stored.start", "stored.first", "stored.dictionary"), ("store",)),
    "ids": (("ids", "ids.start", "ids.hash", "ids.doc"), ()),
    "numbers of operations": (("seq_no", "version", "primary_term"), ()),
    "columns": (("column", "column.start", "column.min", "column.max", "exists"), ("fast",)),
}
"""Rows of the table: kinds of sections, and endings of tantivy's files."""
REST = "checksums, tables, rest"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="JSON lines with id, title, text")
    parser.add_argument("--work", type=Path, required=True, help="keep the indexes here")
    parser.add_argument("--tantivy", type=Path, help="an index of tantivy of the same documents")
    parser.add_argument("--limit", type=int, help="use the first so many documents")
    options = parser.parse_args()
    columns = {}
    for codec in CODECS:
        path = options.work / codec
        if not path.exists():
            build(path, codec, options.corpus, options.limit)
        columns[codec] = ours(path)
    if options.tantivy is not None:
        columns["tantivy"] = tantivys(options.tantivy)
    print(table(columns))
    return 0


def build(path: Path, codec: str, corpus: Path, limit: int | None) -> None:
    documents = read_documents(corpus, limit, raw=False)
    started = time.process_time()
    with qc.create(path, MAPPING, settings={"index.refresh_interval": -1, "index.codec": codec}) as index:
        report = index.bulk(({"id": id, "text": text} for id, text in documents), id="id")
        assert not report.failed, report
        index.merge(max_segments=1)
    print(f"{codec}: {len(documents)} documents in {time.process_time() - started:.1f} s of CPU", file=sys.stderr)


def ours(path: Path) -> Counter[str]:
    """Bytes of each row, and of all."""
    rows = {kind: row for row, (kinds, _) in PARTS.items() for kind in kinds}
    found: Counter[str] = Counter()
    total = 0
    for file in (path / "segments").iterdir():
        data = file.read_bytes()
        total += len(data)
        size = int.from_bytes(data[-FOOTER - 8 : -FOOTER], "little")
        table = data[-FOOTER - 8 - size : -FOOTER - 8]
        for entry in msgspec.msgpack.decode(table, type=Contents).sections:
            found[rows[entry.name.partition("/")[0]]] += entry.length
    found[REST] = total - sum(found.values())
    return found


def tantivys(path: Path) -> Counter[str]:
    rows = {ending: row for row, (_, endings) in PARTS.items() for ending in endings}
    found: Counter[str] = Counter()
    for file in path.iterdir():
        found[rows.get(file.suffix[1:], REST)] += file.stat().st_size
    return found


def table(columns: dict[str, Counter[str]]) -> str:
    """MB of each row, and of all, as parts of the last column's."""
    lines = [f"| MB | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    for row in [*PARTS, REST]:
        if any(counts[row] for counts in columns.values()):
            lines.append(f"| {row} |" + "".join(f" {counts[row] / 1e6:.1f} |" for counts in columns.values()))
    totals = [sum(counts.values()) for counts in columns.values()]
    lines.append("| all |" + "".join(f" {total / 1e6:.1f} |" for total in totals))
    lines.append("| of the last |" + "".join(f" {total / totals[-1]:.3f} |" for total in totals))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

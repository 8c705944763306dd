"""The newest hits, from an index in the order of writing and from one that is sorted by time.

    python -m benchmarks.engine.bench_sorting --corpus perf.jsonl
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

import quidditch_core as qc

MAPPING = {"dynamic": "strict", "properties": {"text": {"type": "text"}, "timestamp": {"type": "date"}}}
SORT = {"index.sort.field": "timestamp", "index.sort.order": "desc"}
QUERIES: dict[str, dict[str, Any]] = {
    "everything": {"match_all": {}},
    "one word": {"match": {"text": "line"}},
    "any of three words": {"match": {"text": "new york times"}},
    "both of two words": {"match": {"text": {"query": "new line", "operator": "and"}}},
    "a filter": {"bool": {"filter": [{"term": {"text": "line"}}]}},
}


def index_of(path: Path, corpus: Path, limit: int | None, settings: dict[str, Any]) -> Any:
    index = qc.create(path, MAPPING, settings={"index.refresh_interval": -1, **settings})
    with corpus.open("rb") as lines:
        docs = map(msgspec.json.decode, itertools.islice(lines, limit))
        report = index.bulk({"text": f"{doc['title']} {doc['text']}", "timestamp": doc["timestamp"]} for doc in docs)
    assert not report.failed
    index.merge(max_segments=1)
    return index


def median_ms(index: Any, body: dict[str, Any], rounds: int) -> float:
    index.search(body)
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        index.search(body)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="JSON lines with title, text and timestamp")
    parser.add_argument("--limit", type=int, help="use the first so many documents")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    indexes = {}
    with tempfile.TemporaryDirectory() as directory:
        for name, settings in (("as written", {}), ("sorted", SORT)):
            start = time.process_time()
            indexes[name] = index_of(Path(directory) / name, options.corpus, options.limit, settings)
            (segment,) = indexes[name].segments()
            print(f"{name}: {segment.docs:,} documents, {segment.bytes / 1e6:.1f} MB, "
                  f"{time.process_time() - start:.2f} CPU s to index")
        print("\n| ten newest of | total | " + " | ".join(f"{name}, ms" for name in indexes) + " | quicker |")
        print("| --- | --- | ---: | ---: | ---: |")
        for query, total in itertools.product(QUERIES, (False, 10_000, True)):
            body = {"query": QUERIES[query], "sort": [{"timestamp": "desc"}], "track_total_hits": total,
                    "_source": False}
            results = [index.search(body) for index in indexes.values()]
            assert results[0].total == results[1].total
            assert [hit.sort for hit in results[0].hits] == [hit.sort for hit in results[1].hits]
            before, after = (median_ms(index, body, options.rounds) for index in indexes.values())
            print(f"| {query} | {total} | {before:.3f} | {after:.3f} | {before / after:.1f} |")
        for index in indexes.values():
            index.close()


if __name__ == "__main__":
    main()

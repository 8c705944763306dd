"""Filters, sorting and aggregations over columns, beside DuckDB and NumPy on the same values.

DuckDB holds them in a table in memory and runs on one thread; NumPy holds arrays, which is the floor: no index, no
documents, nothing deleted. Ours goes through ``Index.search``. Prints medians in ms, and ratios: above 1 we are
quicker.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

import quidditch_core as qc
from quidditch_core import query as q

MAPPING = {"properties": {"moment": {"type": "date"}, "tag": {"type": "keyword"}, "n": {"type": "long"},
                          "x": {"type": "double"}}}
DAY = 86_400_000


def columns(docs: int) -> dict[str, np.ndarray[Any, Any]]:
    """A year of events in order of time, a skewed keyword of about 1,000 values, a long and a double."""
    random = np.random.default_rng(1)
    return {"moment": 1_700_000_000_000 + np.sort(random.integers(0, 365 * DAY, docs)),
            "tag": np.minimum(random.zipf(1.3, docs), 1000), "n": random.integers(0, 1_000_000, docs),
            "x": random.normal(size=docs)}


def index_of(path: Path, data: dict[str, np.ndarray[Any, Any]]) -> Any:
    index = qc.create(path, MAPPING, settings={"index.refresh_interval": -1})
    rows = zip(*(values.tolist() for values in data.values()), strict=True)
    report = index.bulk({"moment": at, "tag": f"t{tag}", "n": n, "x": x} for at, tag, n, x in rows)
    assert not report.failed
    index.merge()
    return index


def tasks(index: Any, table: Any, data: dict[str, np.ndarray[Any, Any]]) -> dict[str, list[Callable[[], Any]]]:
    """For each task ours, DuckDB's and NumPy's; each returns something that must be equal."""
    at, tag, n, x = data["moment"], data["tag"], data["n"], data["x"]
    low, high = int(at[at.size // 10]), int(at[at.size // 5])

    def sql(query: str) -> Any:
        return table.execute(query).fetchall()

    def aggs(kind: str, **options: Any) -> Any:
        return index.search(q.MatchAll(), size=0, aggs={"a": {kind: options}}).aggs["a"]

    return {
        "range of a tenth, counted": [
            lambda: index.count(q.Range("moment", gte=low, lt=high)),
            lambda: sql(f"select count(*) from t where moment >= {low} and moment < {high}")[0][0],
            lambda: int(((at >= low) & (at < high)).sum())],
        "range of half, unordered, counted": [
            lambda: index.count(q.Range("n", lt=500_000)),
            lambda: sql("select count(*) from t where n < 500000")[0][0],
            lambda: int((n < 500_000).sum())],
        "ten greatest": [
            lambda: [hit.sort[0] for hit in index.search(q.MatchAll(), sort="-x", size=10, source=False)],
            lambda: [row[0] for row in sql("select x from t order by x desc limit 10")],
            lambda: np.sort(np.partition(x, x.size - 10)[-10:])[::-1].tolist()],
        "terms, ten most": [
            lambda: [bucket["doc_count"] for bucket in aggs("terms", field="tag")["buckets"]],
            lambda: [row[0] for row in sql("select count(*) as c from t group by tag order by c desc limit 10")],
            lambda: np.sort(np.bincount(tag))[::-1][:10].tolist()],
        "histogram by day": [
            lambda: [bucket["doc_count"] for bucket in
                     aggs("date_histogram", field="moment", fixed_interval="1d", min_doc_count=1)["buckets"]],
            lambda: [row[0] for row in sql(
                f"select count(*) from t group by moment // {DAY} order by moment // {DAY}")],
            lambda: np.unique(at // DAY, return_counts=True)[1].tolist()],
        "stats": [
            lambda: aggs("stats", field="n")["sum"],
            lambda: float(sql("select sum(n), min(n), max(n), avg(n) from t")[0][0]),
            lambda: (float(n.sum()), n.min(), n.max(), n.mean())[0]],
    }


def measure(rounds: int, ways: list[Callable[[], Any]]) -> list[float]:
    answers = [way() for way in ways]
    assert answers.count(answers[0]) == len(answers), answers
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, found in zip(ways, times, strict=True):
            started = time.perf_counter()
            way()
            found.append((time.perf_counter() - started) * 1000)
    return [statistics.median(found) for found in times]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.columns", description=__doc__)
    parser.add_argument("--docs", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    data = columns(options.docs)
    table = duckdb.connect(config={"threads": 1})
    table.execute("create table t (moment bigint, tag varchar, n bigint, x double)")
    table.register("arrays", {"moment": data["moment"], "tag": data["tag"], "n": data["n"], "x": data["x"]})
    table.execute("insert into t select moment, 't' || tag, n, x from arrays")
    with tempfile.TemporaryDirectory() as work, index_of(Path(work) / "index", data) as index:
        print(f"{options.docs:,} documents, load {os.getloadavg()[0]:.1f}\n")
        print("| task | quidditch ms | DuckDB ms | NumPy ms | by DuckDB | by NumPy |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        for name, ways in tasks(index, table, data).items():
            ours, duck, floor = measure(options.rounds, ways)
            print(f"| {name} | {ours:.2f} | {duck:.2f} | {floor:.2f} | {duck / ours:.2f} | {floor / ours:.2f} |")


if __name__ == "__main__":
    main()

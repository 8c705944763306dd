"""Searching an index that lies on S3: ours beside LanceDB's, on one server, behind one proxy that counts and dawdles.

``python -m benchmarks.remote --docs corpus.jsonl --queries queries.jsonl --work DIR``: the corpus is JSON lines with
fields ``id`` and ``text``, the queries JSON lines with ``kind`` (term, union, intersection, phrase) and ``terms``; each
is asked for ten hits with their text. Both indexes are published on moto, an S3 server in a process of its own, which
answers a small request in some milliseconds; the proxy adds ``--latency`` to each request. "Opened" means that the
index is opened for each query and nothing is cached, "first pass" that it is opened once, and "again" that the same
queries are asked a second time. Compare rows, of one run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lancedb
import msgspec

import quidditch_core as qc
from benchmarks.compare.engines import lance
from benchmarks.compare.workload import COMMANDS, Document, Query
from quidditch_core import query as q
from quidditch_core.tiering import cache, remote
from tests import s3

MAPPING = {"dynamic": False, "properties": {"text": {"type": "text"}}}
COMMAND = COMMANDS["FETCH_10"]


class Ours:
    """A published index, opened where it lies."""

    name = "quidditch"

    def __init__(self, docs: Path, work: Path, url: str) -> None:
        self._options = s3.options(url)
        self._url = f"s3://{s3.BUCKET}/ours"
        path = work / "index"
        if not path.exists():
            with qc.create(path, MAPPING, settings={"index.refresh_interval": "-1"}) as index:
                index.bulk(docs, id="id")
                index.flush()
        with qc.open(path) as index:
            index.publish(self._url, storage_options=self._options)

    def through(self, url: str) -> None:
        self._options = s3.options(url)

    def asker(self) -> Callable[[Query], Any]:
        index = qc.open(self._url, read_only=True, storage_options=self._options)

        def ask(query: Query) -> Any:
            text = " ".join(query.terms)
            made = q.MatchPhrase("text", text) if query.kind == "phrase" else q.Match(
                "text", text, operator="and" if query.kind == "intersection" else "or")
            return [hit.source for hit in index.search(made, size=10, track_total_hits=False).hits]

        return ask

    def forget(self) -> None:
        remote.MEMORY.empty()
        cache.shared().clear()


class Theirs(lance.Rival):
    """A table of LanceDB with its full-text index."""

    name = "lancedb"

    def __init__(self, docs: Path, work: Path, url: str) -> None:
        super().__init__(work)
        self.through(url)
        self.create()
        with docs.open("rb") as lines:
            read = (Document(doc["id"], doc["text"]) for doc in map(msgspec.json.decode, lines))
            while some := list(itertools.islice(read, 50_000)):
                self.add(some)
        self.close()

    def through(self, url: str) -> None:
        self._options = {"aws_access_key_id": s3.KEY, "aws_secret_access_key": s3.SECRET, "aws_endpoint": url,
                         "aws_region": "eu-central-1", "allow_http": "true"}

    def connect(self) -> Any:
        return lancedb.connect(f"s3://{s3.BUCKET}/theirs", storage_options=self._options)

    def asker(self) -> Callable[[Query], Any]:
        self.open()
        return lambda query: self.run(query, COMMAND).to_pylist()

    def forget(self) -> None:
        """Each connection has caches of its own."""


def measure(asked: list[Query], proxy: s3.Proxy, ask: Callable[[Query], Any]) -> str:
    """p50 and p90 in ms; requests and KiB of a query."""
    proxy.asked.clear()
    proxy.sent = 0
    times = []
    for query in asked:
        started = time.perf_counter()
        ask(query)
        times.append((time.perf_counter() - started) * 1000)
    tenths = statistics.quantiles(times, n=10)
    return "".join(f"{value:12,.1f}" for value in (
        statistics.median(times), tenths[8], len(proxy.asked) / len(asked), proxy.sent / len(asked) / 1024))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, required=True)
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--latency", default="0,20,100", help="milliseconds a request, a comma between them")
    parser.add_argument("--opened", type=int, default=20, help="queries for each of which the index is opened")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    os.environ["XDG_CACHE_HOME"] = str(given.work / "cache")
    asked = [Query(one["kind"], tuple(one["terms"])) for one in map(json.loads, given.queries.open())]
    few = asked[:: max(1, len(asked) // given.opened)][: given.opened]
    with tempfile.TemporaryDirectory() as directory, s3.served(Path(directory)) as url, s3.proxied(url) as proxy:
        engines = [engine(given.docs, given.work, url) for engine in (Ours, Theirs)]
        print(f"{'':34}{'p50 ms':>12}{'p90 ms':>12}{'requests':>12}{'KiB':>12}")
        for engine in engines:
            engine.through(proxy.url)
        for latency in map(float, given.latency.split(",")):
            proxy.latency = latency / 1000
            for engine in engines:
                def opened(query: Query, engine: Any = engine) -> Any:
                    engine.forget()
                    return engine.asker()(query)

                print(f"{engine.name + f', {latency:g} ms, opened':34}" + measure(few, proxy, opened), flush=True)
            for engine in engines:
                engine.forget()
                ask = engine.asker()
                for name in ("first pass", "again"):
                    print(f"{engine.name + f', {latency:g} ms, {name}':34}" + measure(asked, proxy, ask), flush=True)


if __name__ == "__main__":
    main()

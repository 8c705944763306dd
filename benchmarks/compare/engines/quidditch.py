"""Quidditch through its public face."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import quidditch_core as qc
from benchmarks.compare.engine import Answer, Engine
from benchmarks.compare.workload import Command, Document, Query
from quidditch_core import query as q

MAPPING = {"dynamic": "strict", "properties": {
    "id": {"type": "keyword", "index": False, "doc_values": False},
    "text": {"type": "text", "analyzer": "standard"},
}}


class Rival(Engine):
    """Query objects in, hits with ids and scores out; sources only where a command fetches them."""

    settings = "analyzer standard, refresh_interval -1, otherwise defaults; ids are part of every hit"

    @property
    def version(self) -> str:
        try:
            return version("quidditch-core")
        except PackageNotFoundError:
            return "checkout"

    def create(self) -> None:
        self._index = qc.create(self.directory, MAPPING, settings={"index.refresh_interval": -1})

    def add(self, documents: Sequence[Document]) -> None:
        report = self._index.bulk(({"id": id, "text": text} for id, text in documents), id="id")
        assert not report.failed, report
        self._index.flush()

    def delete(self, ids: Sequence[str]) -> None:
        self._index.put_settings({"index.translog.durability": "async"})  # one sync for all of them
        for id in ids:
            self._index.delete(id)
        self._index.flush()

    def merge(self) -> None:
        self._index.merge(max_segments=1)

    def close(self) -> None:
        self._index.close()

    def open(self) -> None:
        self._index = qc.open(self.directory, read_only=True)

    def segments(self) -> int:
        return len(self._index.segments())

    def run(self, query: Query, command: Command) -> Any:
        if command.k == 0:
            return self._index.count(_query(query))
        result = self._index.search(_query(query), size=command.k, source=command.fetches,
                                    track_total_hits=command.counts)
        if command.fetches:
            for hit in result.hits:
                assert hit.source is not None  # decodes it
        return result

    def read(self, result: Any, command: Command) -> Answer:
        if command.k == 0:
            return Answer(result, [])
        scores = [hit.score for hit in result.hits]
        return Answer(result.total.value if command.counts else len(scores), scores)


def _query(query: Query) -> q.Query:
    kind, terms = query
    if kind == "term":
        return q.Term("text", terms[0])
    text = " ".join(terms)
    if kind == "phrase":
        return q.MatchPhrase("text", text)
    return q.Match("text", text, operator="and" if kind == "intersection" else "or")

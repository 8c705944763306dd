"""Quidditch through its public face."""

from __future__ import annotations

from collections.abc import Sequence

import quidditch_core as qc
from benchmarks.compare.engine import DEPTH, Answer, Engine
from benchmarks.compare.workload import Command, Document, Query
from quidditch_core import query as q


class Rival(Engine):
    """Query objects in, hits with ids and scores out; no sources, as no other engine fetches them."""

    settings = "analyzer standard, refresh_interval -1, otherwise defaults"

    @property
    def version(self) -> str:
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("quidditch-core")
        except PackageNotFoundError:
            return "checkout"

    def create(self) -> None:
        mapping = {"dynamic": "strict", "properties": {
            "id": {"type": "keyword", "index": False, "doc_values": False},
            "text": {"type": "text", "analyzer": "standard"},
        }}
        self._index = qc.create(self.directory, mapping, settings={"index.refresh_interval": -1})

    def add(self, documents: Sequence[Document]) -> None:
        report = self._index.bulk(({"id": id, "text": text} for id, text in documents), id="id")
        assert not report.failed, report
        self._index.flush()

    def merge(self) -> None:
        self._index.merge(max_segments=1)
        self._index.close()

    def open(self) -> None:
        self._index = qc.open(self.directory, read_only=True)

    def run(self, query: Query, command: Command) -> int:
        if command.k == 0:
            return self._index.count(_query(query))
        result = self._index.search(_query(query), size=command.k, source=False, track_total_hits=command.counts)
        return result.total.value if result.total is not None else len(result.hits)

    def answer(self, query: Query) -> Answer:
        result = self._index.search(_query(query), size=DEPTH, source=False, track_total_hits=True)
        assert result.total is not None
        return Answer(result.total.value, [hit.score for hit in result.hits if hit.score is not None])


def _query(query: Query) -> q.Query:
    kind, terms = query
    if kind == "term":
        return q.Term("text", terms[0])
    text = " ".join(terms)
    if kind == "phrase":
        return q.MatchPhrase("text", text)
    return q.Match("text", text, operator="and" if kind == "intersection" else "or")

"""tantivy as Python sees it, the package tantivy-py.

That is not tantivy at its best: this package collects through a MultiCollector, which takes the pruning out of
top-k, and it has no counting without scoring (COUNT asks for one document and the count).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import tantivy

from benchmarks.compare.engine import DEPTH, Answer, Engine
from benchmarks.compare.workload import Command, Document, Query

_K1_PLUS_1 = 2.2  # tantivy's scores keep this factor


class Rival(Engine):
    """Query objects in, (score, address) out: building queries is quicker than ``parse_query``, and does not
    collapse repeated words."""

    settings = "default tokenizer, one thread, writer heap of 3 GB, id and text stored"

    @property
    def version(self) -> str:
        return version("tantivy")

    def create(self) -> None:
        builder = tantivy.SchemaBuilder()
        builder.add_text_field("id", stored=True, tokenizer_name="raw", index_option="basic")
        builder.add_text_field("text", stored=True)
        self.directory.mkdir()
        self._index = tantivy.Index(builder.build(), path=str(self.directory))
        self._writer = self._index.writer(heap_size=3_000_000_000, num_threads=1)

    def add(self, documents: Sequence[Document]) -> None:
        for id, text in documents:
            self._writer.add_document(tantivy.Document(id=id, text=text))
        self._writer.commit()

    def merge(self) -> None:
        self._writer.wait_merging_threads()

    def open(self) -> None:
        self._index = tantivy.Index.open(str(self.directory))
        self._schema = self._index.schema
        self._searcher = self._index.searcher()

    def run(self, query: Query, command: Command) -> int:
        result = self._search(query, max(1, command.k), command.counts)
        return result.count if command.counts else len(result.hits)

    def answer(self, query: Query) -> Answer:
        result = self._search(query, DEPTH, True)
        return Answer(result.count, [score / _K1_PLUS_1 for score, _ in result.hits])

    def _search(self, query: Query, limit: int, count: bool) -> Any:
        return self._searcher.search(self._query(query), limit=limit, count=count)

    def _query(self, query: Query) -> Any:
        kind, terms = query
        if kind == "term":
            return self._term(terms[0])
        if kind == "phrase":
            return tantivy.Query.phrase_query(self._schema, "text", list(terms))
        occur = tantivy.Occur.Must if kind == "intersection" else tantivy.Occur.Should
        return tantivy.Query.boolean_query([(occur, self._term(term)) for term in terms])

    def _term(self, term: str) -> Any:
        return tantivy.Query.term_query(self._schema, "text", term, "freq")

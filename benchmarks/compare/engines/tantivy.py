"""tantivy as Python sees it, the package tantivy-py.

That is not tantivy at its best: this package collects through a MultiCollector, which takes the pruning out of
top-k, and it has no counting without scoring (COUNT asks for one document and the count). ``native_tantivy`` is.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import tantivy

from benchmarks.compare.engine import Answer, Engine
from benchmarks.compare.workload import Command, Document, Query

_K1_PLUS_1 = 2.2  # tantivy's scores keep this factor


class Rival(Engine):
    """Query objects in, (score, address) out: building queries is quicker than ``parse_query``, and does not
    collapse repeated words."""

    settings = ("tantivy-py, default tokenizer, one thread, writer heap of 3 GB, id and text stored; its merge policy "
                "cannot be chosen")

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

    def delete(self, ids: Sequence[str]) -> None:
        for id in ids:
            self._writer.delete_documents_by_term("id", id)
        self._writer.commit()

    def merge(self) -> None:
        """By its own policy, which may leave several segments."""

    def close(self) -> None:
        self._writer.wait_merging_threads()

    def open(self) -> None:
        self._index = tantivy.Index.open(str(self.directory))
        self._schema = self._index.schema
        self._searcher = self._index.searcher()

    def segments(self) -> int:
        count: int = self._searcher.num_segments
        return count

    def run(self, query: Query, command: Command) -> Any:
        result = self._searcher.search(self._query(query), limit=max(1, command.k), count=command.counts)
        if command.fetches:
            for _, address in result.hits:
                document = self._searcher.doc(address)
                assert document["id"]
                assert document["text"]
        return result

    def read(self, result: Any, command: Command) -> Answer:
        scores = [score / _K1_PLUS_1 for score, _ in result.hits][: command.k]
        return Answer(result.count if command.counts else len(scores), scores)

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

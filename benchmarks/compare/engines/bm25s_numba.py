"""bm25s with its Numba backend: scores of all postings of a query, computed at indexing; no positions, no updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bm25s
import numba

from benchmarks.compare.engine import Answer, Engine
from benchmarks.compare.workload import Command, Document, Query


class Rival(Engine):
    """Exact lengths instead of Lucene's one-byte ones, so scores differ slightly and are not compared."""

    scored = False
    kinds = ("term", "union")
    commands = ("TOP_10", "TOP_100", "TOP_1000", "FETCH_10")
    deletes = False
    settings = "Numba backend, method lucene, k1 1.2, b 0.75, index and corpus memory-mapped, one thread"

    @property
    def version(self) -> str:
        return f"{bm25s.__version__} with Numba {numba.__version__}"

    def create(self) -> None:
        self._vocabulary: dict[str, int] = {}
        self._words: list[list[int]] = []
        self._corpus: list[dict[str, str]] = []

    def add(self, documents: Sequence[Document]) -> None:
        """Collect: it indexes all at once."""
        number = self._vocabulary
        for id, text in documents:
            self._words.append([number.setdefault(word, len(number)) for word in text.split()])
            self._corpus.append({"id": id, "text": text})

    def merge(self) -> None:
        """Nothing to merge."""

    def close(self) -> None:
        retriever = bm25s.BM25(k1=1.2, b=0.75, method="lucene", backend="numba")
        retriever.index(bm25s.tokenization.Tokenized(ids=self._words, vocab=self._vocabulary), show_progress=False)
        retriever.save(str(self.directory), corpus=self._corpus)

    def open(self) -> None:
        self._retriever = bm25s.BM25.load(str(self.directory), mmap=True, load_corpus=True, show_progress=False)
        self._retriever.backend = "numba"
        self._retriever.activate_numba_scorer()
        # It fetches from a corpus that it has, asked or not.
        self._stored, self._retriever.corpus = self._retriever.corpus, None

    def run(self, query: Query, command: Command) -> Any:
        corpus = self._stored if command.fetches else None
        return self._retriever.retrieve(
            [list(query.terms)], corpus=corpus, k=command.k, show_progress=False, n_threads=1)

    def read(self, result: Any, command: Command) -> Answer:
        scores = [float(score) for score in result.scores[0] if score > 0]  # the others do not match
        return Answer(len(scores), scores)

"""LanceDB's own full-text index. It ranks by BM25 over its partitions; scores are not compared. It cannot count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lancedb
import pyarrow as pa
from lancedb.query import FullTextOperator, MatchQuery, PhraseQuery

from benchmarks.compare.engine import Answer, Engine
from benchmarks.compare.workload import Command, Document, Query

_SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string())])


class Rival(Engine):
    """Query objects in, an Arrow table with id and score out, with the text too where a command fetches."""

    scored = False
    commands = ("TOP_10", "TOP_100", "TOP_1000", "FETCH_10")
    settings = "simple tokenizer, no stemming, stop words or folding, with positions; ids are part of every hit"

    @property
    def version(self) -> str:
        return str(lancedb.__version__)

    def connect(self) -> Any:
        """Where the table is."""
        return lancedb.connect(str(self.directory))

    def create(self) -> None:
        self._table = self.connect().create_table("document", schema=_SCHEMA)

    def add(self, documents: Sequence[Document]) -> None:
        ids, texts = zip(*documents, strict=True)
        self._table.add(pa.table({"id": ids, "text": texts}, schema=_SCHEMA))

    def delete(self, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), 1000):
            quoted = ", ".join(f"'{id}'" for id in ids[start : start + 1000])
            self._table.delete(f"id in ({quoted})")

    def merge(self) -> None:
        """The index is made of all rows at the end."""

    def close(self) -> None:
        self._table.create_fts_index("text", with_position=True, stem=False, remove_stop_words=False,
                                     ascii_folding=False)

    def open(self) -> None:
        self._table = self.connect().open_table("document")

    def run(self, query: Query, command: Command) -> Any:
        columns = ["id", "text", "_score"] if command.fetches else ["id", "_score"]
        return self._table.search(_query(query), query_type="fts").select(columns).limit(command.k).to_arrow()

    def read(self, result: Any, command: Command) -> Answer:
        return Answer(result.num_rows, result.column("_score").to_pylist())


def _query(query: Query) -> Any:
    text = " ".join(query.terms)
    if query.kind == "phrase":
        return PhraseQuery(text, "text")
    operator = FullTextOperator.OR if query.kind == "union" else FullTextOperator.AND
    return MatchQuery(text, "text", operator=operator)

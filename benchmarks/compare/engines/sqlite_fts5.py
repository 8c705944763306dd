"""SQLite's FTS5: another ranking formula, so only its numbers of documents can be compared."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from benchmarks.compare.engine import Answer, Engine
from benchmarks.compare.workload import Command, Document, Query


class Rival(Engine):
    """One statement a command, two where hits and the count are wanted."""

    scored = False
    settings = "unicode61, contentless index beside a table with id and text, synchronous off, 256 MB cache"

    @property
    def version(self) -> str:
        return sqlite3.sqlite_version

    def create(self) -> None:
        self.directory.mkdir()
        self._connect()
        self._database.executescript(
            "create table document (number integer primary key, id text unique, text text);"
            "create virtual table words using fts5(text, content='', tokenize='unicode61 remove_diacritics 0');")

    def add(self, documents: Sequence[Document]) -> None:
        with self._database:
            first = self._database.execute("select count(*) from document").fetchone()[0]
            rows = [(number, *document) for number, document in enumerate(documents, first)]
            self._database.executemany("insert into document values (?, ?, ?)", rows)
            self._database.executemany("insert into words (rowid, text) values (?, ?)", [(n, t) for n, _, t in rows])

    def delete(self, ids: Sequence[str]) -> None:
        with self._database:
            for id in ids:
                number, text = self._database.execute(
                    "select number, text from document where id = ?", (id,)).fetchone()
                self._database.execute("insert into words (words, rowid, text) values ('delete', ?, ?)", (number, text))
                self._database.execute("delete from document where number = ?", (number,))

    def merge(self) -> None:
        with self._database:
            self._database.execute("insert into words (words) values ('optimize')")

    def close(self) -> None:
        self._database.close()

    def open(self) -> None:
        self._connect()

    def _connect(self) -> None:
        self._database = sqlite3.connect(self.directory / "index.db")
        self._database.executescript(
            "pragma synchronous = off; pragma cache_size = -256000; pragma mmap_size = 4000000000")

    def run(self, query: Query, command: Command) -> tuple[int, list[float]]:
        text = _text(query)
        hits = []
        if command.k:
            statement = "select rowid, rank from words where words match ? order by rank limit ?"
            hits = self._database.execute(statement, (text, command.k)).fetchall()
        if command.fetches:
            for rowid, _ in hits:
                self._database.execute("select id, text from document where number = ?", (rowid,)).fetchone()
        return (self._count(text) if command.counts else len(hits)), [-rank for _, rank in hits]

    def read(self, result: tuple[int, list[float]], command: Command) -> Answer:
        return Answer(*result)

    def _count(self, text: str) -> int:
        count: int = self._database.execute("select count(*) from words where words match ?", (text,)).fetchone()[0]
        return count


def _text(query: Query) -> str:
    if query.kind == "phrase":
        return '"' + " ".join(query.terms) + '"'
    return (" OR " if query.kind == "union" else " AND ").join(f'"{term}"' for term in query.terms)

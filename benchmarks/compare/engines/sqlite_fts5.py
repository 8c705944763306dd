"""SQLite's FTS5: another ranking formula, so only its counts can be compared."""

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

    def merge(self) -> None:
        with self._database:
            self._database.execute("insert into words (words) values ('optimize')")
        self._database.close()

    def open(self) -> None:
        self._connect()

    def _connect(self) -> None:
        self._database = sqlite3.connect(self.directory / "index.db")
        self._database.executescript(
            "pragma synchronous = off; pragma cache_size = -256000; pragma mmap_size = 4000000000")

    def run(self, query: Query, command: Command) -> int:
        text = _text(query)
        found = 0
        if command.k:
            statement = "select rowid, rank from words where words match ? order by rank limit ?"
            found = len(self._database.execute(statement, (text, command.k)).fetchall())
        return self._count(text) if command.counts else found

    def answer(self, query: Query) -> Answer:
        return Answer(self._count(_text(query)), [])

    def _count(self, text: str) -> int:
        count: int = self._database.execute("select count(*) from words where words match ?", (text,)).fetchone()[0]
        return count


def _text(query: Query) -> str:
    if query.kind == "phrase":
        return '"' + " ".join(query.terms) + '"'
    return (" OR " if query.kind == "union" else " AND ").join(f'"{term}"' for term in query.terms)

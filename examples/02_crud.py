"""Write, read, change and delete documents, and notice when somebody else was faster."""

from __future__ import annotations

import tempfile
from pathlib import Path

import quidditch_core as qc
from quidditch_core import query as q

MAPPING = {"properties": {"title": {"type": "text", "analyzer": "english"}, "copies": {"type": "integer"}}}

with tempfile.TemporaryDirectory() as folder, qc.create(Path(folder) / "library", MAPPING) as index:
    written = index.put("moby", {"title": "Moby Dick", "copies": 2})
    print(f"{written.result}: {written.id} is version {written.version}, operation {written.seq_no}")

    # get() sees a write at once; search() sees it after the next refresh.
    book = index.get("moby")
    assert book is not None
    print(f"read: {book.source}")
    print(f"found before refresh: {index.count(q.Match('title', 'dick'))}")
    index.refresh()
    print(f"found after refresh: {index.count(q.Match('title', 'dick'))}")

    # update() changes the named fields; "only if nobody wrote since I read" is one argument.
    index.update("moby", {"copies": 1}, if_seq_no=book.seq_no, if_primary_term=book.primary_term)
    try:
        index.update("moby", {"copies": 0}, if_seq_no=book.seq_no, if_primary_term=book.primary_term)
    except qc.errors.ConflictError as conflict:
        print(f"refused: {conflict}")

    # A document that does not fit is refused whole, by field.
    try:
        index.put("emma", {"title": "Emma", "copies": "three"})
    except qc.errors.DocumentError as error:
        print(f"refused: {error}")

    print(f"{index.delete('moby').result}: {index.get('moby')}")

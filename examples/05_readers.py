"""A reader is a moment that stays: searches through it do not see later writes, nor do they wait for them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import quidditch_core as qc
from quidditch_core import query as q

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "notes"
    with qc.create(path, {"properties": {"text": {"type": "text"}}}) as index:
        index.bulk(({"id": f"n{i}", "text": f"note number {i}"} for i in range(100)), id="id")
        index.refresh()

        with index.reader() as yesterday:
            index.put("n100", {"text": "one more note"})
            index.delete("n7")
            index.refresh()
            query = q.Match("text", "note")
            print(f"the reader still finds {yesterday.count(query)}; the index finds {index.count(query)}")
            print(f"deleted, but not for the reader: {yesterday.search(q.Ids(['n7'])).hits[0].source}")

        index.flush()  # what is flushed, other processes can open

        with qc.open(path, read_only=True) as elsewhere:
            print(f"another process finds {elsewhere.count(query)} in {len(elsewhere.segments())} segment(s)")
            try:
                elsewhere.delete("n8")
            except qc.errors.ReadOnlyError as error:
                print(f"refused: {error}")

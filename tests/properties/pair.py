"""An index and its oracle, told the same things and asked the same questions."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

import quidditch_core as qc
from tests.naive import Conflict, Found, Layout, Missing, Oracle

Body = dict[str, Any]


class Pair:
    """Every method does its work on both and asserts that they answer alike. Close it."""

    def __init__(self, path: Path, mapping: Body, settings: Body | None = None) -> None:
        self.path = path
        self.index: Any = qc.create(path, mapping, settings={"index.refresh_interval": -1, **(settings or {})})
        self.oracle = Oracle(mapping)
        self.visible: set[tuple[str, int]] = set()  # (id, seq_no) that a search must find

    def close(self) -> None:
        self.index.close()

    # Writes

    def put(self, id: str, doc: Body, **options: Any) -> None:
        self._write("put", id, doc, **options)

    def update(self, id: str, partial: Body, **options: Any) -> None:
        self._write("update", id, partial, **options)

    def delete(self, id: str, **options: Any) -> None:
        self._write("delete", id, **options)

    def bulk(self, docs: list[Body], bad: tuple[int, ...] = ()) -> None:
        """Documents with their id in ``key``; ``bad`` are the positions that must fail, alone."""
        report = self.index.bulk(docs, id="key")
        assert report.indexed == len(docs) - len(bad)
        assert [failure.position for failure in report.failed] == list(bad)
        for position, doc in enumerate(docs):
            if position not in bad:
                self.oracle.put(doc["key"], doc)

    def refuse(self, id: str, doc: Body) -> None:
        """A document that must be refused, and leave nothing behind."""
        try:
            self.index.put(id, doc)
        except qc.errors.DocumentError:
            self.check_get(id)
        else:
            raise AssertionError(f"accepted {doc}")

    def _write(self, verb: str, id: str, *rest: Any, **options: Any) -> None:
        try:
            expected = getattr(self.oracle, verb)(id, *rest, **options)
        except (Conflict, Missing) as refusal:
            error = qc.errors.ConflictError if isinstance(refusal, Conflict) else qc.errors.NotFoundError
            try:
                found = getattr(self.index, verb)(id, *rest, **options)
            except error:
                return
            raise AssertionError(f"{verb} gave {found}, not {error.__name__}: {refusal}") from None
        found = getattr(self.index, verb)(id, *rest, **options)
        given = (found.id, found.seq_no, found.version, found.result, found.primary_term)
        assert given == (expected.id, expected.seq_no, expected.version, expected.result, 1)

    # What changes where documents are

    def refresh(self) -> None:
        self.index.refresh()
        self.visible = self.oracle.current()

    def flush(self) -> None:
        self.index.flush()
        self.oracle.forget_tombstones()
        self._now_visible()

    def merge(self, max_segments: int) -> None:
        self.index.merge(max_segments=max_segments)  # flushes first
        self.oracle.forget_tombstones()
        self._now_visible()
        assert len(self.index.segments()) <= max_segments

    def reopen(self) -> None:
        self.index.close()
        self.index = qc.open(self.path)
        self.oracle.forget_tombstones()
        self.visible = self.oracle.current()

    def _now_visible(self) -> None:
        """flush and merge may refresh; if they do, then to everything that was written."""
        live = {(id, seq_no) for segment in self.layout() for id, seq_no, alive in segment if alive}
        assert live in (self.visible, self.oracle.current())
        self.visible = live

    # Questions

    def layout(self) -> Layout:
        with self.index.reader() as reader:
            return [[(id, seq_no, bool(live)) for id, seq_no, live in segment] for segment in reader.layout()]

    def check_layout(self) -> None:
        """The live documents are those of the last refresh, each of them once."""
        layout = self.layout()
        live = [(id, seq_no) for segment in layout for id, seq_no, alive in segment if alive]
        assert len(live) == len(set(live))
        assert set(live) == self.visible
        if self.visible == self.oracle.current():
            self.oracle.check_layout(layout)

    def check_order(self, sort: list[Body]) -> None:
        """The documents of each segment are sorted by these keys, those that tie by when they were written."""
        for segment in self.layout():
            live = [(id, seq_no) for id, seq_no, alive in segment if alive]
            found = self.oracle.search({"query": {"match_all": {}}, "sort": sort, "size": len(live)}, [segment])
            assert found.ids == [id for id, _ in live]
            for one, two in itertools.pairwise(zip(live, found.sort, strict=True)):
                assert one[1] != two[1] or one[0][1] < two[0][1]

    def check_get(self, id: str) -> None:
        """Real-time: also what no search finds yet."""
        expected, found = self.oracle.get(id), self.index.get(id)
        if expected is None:
            assert found is None
        else:
            given = (found.id, found.source, found.seq_no, found.version)
            assert given == (expected.id, expected.source, expected.seq_no, expected.version)

    def check(self, request: Body) -> None:
        with self.index.reader() as reader:  # a merge in the background may change the layout at any time
            layout = reader.layout()
            expected = self.oracle.search(request, layout)
            assert_found(reader.search(request), expected, request)
            query = request["query"]
            assert reader.count(query) == self.oracle.count(query, layout), query
            for id, score in zip(expected.ids[:1], expected.scores, strict=False):
                if score is not None:
                    assert bits(reader.explain(query, id).value) == bits(score), query


def assert_found(found: Any, expected: Found, request: Body) -> None:
    """The same hits in the same order: ids, scores to the bit, sort values, sources; the same totals."""
    assert [hit.id for hit in found.hits] == expected.ids, request
    assert [bits(hit.score) for hit in found.hits] == [bits(score) for score in expected.scores], request
    if request.get("sort"):
        shown = [without_doc(hit.sort, request["sort"]) for hit in found.hits]
        assert shown == [without_doc(values, request["sort"]) for values in expected.sort], request
    if request.get("_source") is not False:
        assert [hit.source for hit in found.hits] == expected.sources, request
    assert bits(found.max_score) == bits(expected.max_score), request
    total = found.total and (found.total.value, found.total.relation)
    assert total == expected.total, request


def bits(score: Any) -> int | None:
    return None if score is None else int(np.float32(score).view(np.int32))


def without_doc(values: Any, keys: list[Any]) -> list[Any]:
    """Sort values but those of ``_doc``, whose numbers are the engine's own."""
    named = [key if isinstance(key, str) else next(iter(key)) for key in keys]
    return [value for name, value in zip(named, values, strict=True) if name != "_doc"]

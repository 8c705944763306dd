"""What bulk takes: iterables, JSON lines, Arrow; and what it says while it does."""

from __future__ import annotations

import builtins
import datetime as dt
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import quidditch_core as qc
from quidditch_core.index import inputs
from quidditch_core.index.incoming import MAX_DOCUMENT_BYTES

DOCS = [{"key": str(number), "text": f"whale {number}", "count": number} for number in range(5_000)]
LINES = b"".join(json.dumps(doc).encode() + b"\n" for doc in DOCS)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Any]:
    with qc.create(tmp_path / "index", settings={"index.refresh_interval": -1}) as made:
        yield made


def check(index: Any) -> None:
    index.refresh()
    assert index.count({"match": {"text": "whale"}}) == len(DOCS)
    for doc in (DOCS[0], DOCS[4_097], DOCS[-1]):
        assert index.get(doc["key"]).source == doc


@pytest.mark.parametrize("kind", ["path", "file", "bytes", "bytearray", "memoryview", "lines", "stream", "generator"])
def test_every_way_in(index: Any, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_bytes(LINES)

    class Slow(io.RawIOBase):
        """A stream that gives little at a time, and cuts where it likes."""

        def __init__(self) -> None:
            self._rest = LINES

        def read(self, size: int = -1) -> bytes:
            piece, self._rest = self._rest[:1_001], self._rest[1_001:]
            return piece

    with path.open("rb") as file:
        docs: Any = {
            "path": lambda: path, "file": lambda: file, "bytes": lambda: LINES, "bytearray": lambda: bytearray(LINES),
            "memoryview": lambda: memoryview(LINES), "lines": lambda: LINES.splitlines(), "stream": Slow,
            "generator": lambda: (doc for doc in DOCS)}[kind]()
        report = index.bulk(docs, id="key")
    assert (report.indexed, report.failed) == (len(DOCS), [])
    check(index)


@given(st.lists(st.binary(max_size=6) | st.just(b"\n") | st.just(b"\r\n") | st.just(b" \n"), max_size=12),
       st.integers(1, 7))
def test_lines_are_those_of_the_text(parts: list[bytes], size: int) -> None:
    text = b"".join(parts)
    pieces = (text[at : at + size] for at in range(0, len(text), size))
    found = [line for some in inputs.lines(pieces) for line in some]
    expected = [line.removesuffix(b"\r") for line in text.split(b"\n")]
    assert found == [line for line in expected if line.strip()]


def test_lines_are_stored_byte_for_byte(index: Any) -> None:
    report = index.bulk(b'\xef\xbb\xbf{"a":  1.50 }\r\n\n{"b": "\\u00e9"}\r\n  \nnothing\n{"c": 1}', id=None)
    assert report.indexed == 3
    assert [failure.position for failure in report.failed] == [2]
    index.refresh()
    stored = [hit.id for hit in index.search({}, size=9).hits]
    assert sorted(index._writer.stored(index._writer.current(id.encode()).place) for id in stored) == [
        b'{"a":  1.50 }', b'{"b": "\\u00e9"}', b'{"c": 1}']


def test_an_endless_line_is_one_bad_document(index: Any) -> None:
    def read(size: int) -> bytes:
        read.given += size  # type: ignore[attr-defined]
        if read.given > 2 * MAX_DOCUMENT_BYTES:  # type: ignore[attr-defined]
            return b"" if read.done else finish()  # type: ignore[attr-defined]
        return b"x" * size

    def finish() -> bytes:
        read.done = True  # type: ignore[attr-defined]
        return b'\n{"key": "a"}'

    read.given, read.done = 0, False  # type: ignore[attr-defined]

    class Endless:
        pass

    stream: Any = Endless()
    stream.read = read
    report = index.bulk(stream, id="key")
    assert report.indexed == 1
    assert [failure.position for failure in report.failed] == [0]
    assert "too large" in str(report.failed[0].error)


@pytest.mark.parametrize(("docs", "error"), [
    ({"a": 1}, qc.errors.DocumentError), ("docs.jsonl", qc.errors.DocumentError), (7, qc.errors.DocumentError),
    (io.StringIO("{}"), qc.errors.DocumentError), (Path("/nowhere/docs.jsonl"), qc.errors.StorageError)])
def test_what_holds_no_documents(index: Any, docs: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        index.bulk(docs)


def test_arrow(index: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.table({
        "key": [doc["key"] for doc in DOCS], "text": pa.array([doc["text"] for doc in DOCS]).dictionary_encode(),
        "count": pa.array([doc["count"] for doc in DOCS], pa.int32())})
    assert index.bulk(table, id="key").indexed == len(DOCS)
    check(index)


def test_values_of_arrow_are_those_of_json(index: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    moment = dt.datetime(2024, 1, 31, 10, 20, 30, 456_789)
    zone = dt.timezone(dt.timedelta(hours=2))
    table = pa.table({
        "key": ["a", "b"], "at": pa.array([moment, None], pa.timestamp("us")),
        "zoned": pa.array([moment.replace(tzinfo=zone), None], pa.timestamp("ns", "Europe/Berlin")),
        "day": [dt.date(2024, 2, 29), None], "tags": [["x", "y"], []], "author": [{"name": "Herman"}, None]})
    assert index.bulk(table, id="key").failed == []
    assert index.get("a").source == {
        "key": "a", "at": "2024-01-31T10:20:30.456Z", "zoned": "2024-01-31T08:20:30.456Z", "day": "2024-02-29",
        "tags": ["x", "y"], "author": {"name": "Herman"}}
    assert index.get("b").source == {"key": "b", "at": None, "zoned": None, "day": None, "tags": [], "author": None}
    assert {name: field.type for name, field in index.mapping.fields.items() if name in ("at", "zoned", "day")} == {
        "at": "date", "zoned": "date", "day": "date"}


def test_arrow_without_pyarrow_says_what_to_install(index: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Table:
        def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
            raise AssertionError

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(qc.errors.DocumentError, match=r"quidditch-core\[arrow\]"):
        index.bulk(Table())


@pytest.mark.parametrize("bar", [True, False])
def test_progress_tells_documents_and_megabytes(
    index: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, bar: bool,
) -> None:
    if bar:
        pytest.importorskip("tqdm")
    else:
        real = builtins.__import__

        def without(name: str, *rest: Any, **named: Any) -> Any:
            if name.startswith("tqdm"):
                raise ModuleNotFoundError(name)
            return real(name, *rest, **named)

        monkeypatch.setattr(builtins, "__import__", without)
    index.bulk(DOCS, id="key", progress=True)
    told = capsys.readouterr().err
    assert "MB/s" in told
    assert ("5000" if bar else "5,000 documents") in told
    index.bulk(DOCS, id="key")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("count", [0, 1, 63, 64, 70, 4_096, 4_200])
def test_what_came_before_an_error_of_the_caller_is_indexed(index: Any, count: int) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield from DOCS[:count]
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        index.bulk(broken(), id="key")
    index.refresh()
    assert index.count() == count
    assert count == 0 or index.get(str(count - 1)).source == DOCS[count - 1]

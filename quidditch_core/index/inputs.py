"""What ``bulk`` takes documents from, as runs of bounded size: iterables, JSON lines, and Arrow."""

from __future__ import annotations

import importlib
import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ..errors import DocumentError
from ..files import storage_error
from .incoming import MAX_DOCUMENT_BYTES

RUN_DOCS = 4096
"""Documents of a bulk that are taken at once, at most."""
RUN_BYTES = 2 << 20
"""Bytes of a bulk that are taken at once, about."""
STEP = 64
"""Documents of an iterable between two looks at how large they are."""
BOM = b"\xef\xbb\xbf"

NOT_DOCUMENTS = ("dicts or JSON texts, in a list or from a generator; JSON lines as a pathlib.Path, a binary file or "
                 "bytes; or a table that speaks Arrow")


class Run(NamedTuple):
    """Documents that are indexed as one batch, and their bytes, near enough."""

    docs: list[Any]
    bytes: int

    @property
    def full(self) -> bool:
        """Whether more may follow."""
        return len(self.docs) >= RUN_DOCS or self.bytes >= RUN_BYTES


def runs(docs: Any) -> Iterator[Run]:
    """The documents of whatever a bulk was given. DocumentError if it is nothing that has documents."""
    if isinstance(docs, bytes | bytearray | memoryview):
        return _lines_as_runs(iter((bytes(docs),)))
    if isinstance(docs, os.PathLike):
        return _lines_as_runs(_pieces_of_file(os.fspath(docs)))
    if hasattr(docs, "__arrow_c_stream__"):
        return _table_as_runs(docs)
    if hasattr(docs, "read"):
        return _lines_as_runs(_pieces(docs))
    if isinstance(docs, dict | str) or not isinstance(docs, Iterable):
        raise DocumentError("these are not documents", path="docs", found=docs, expected=NOT_DOCUMENTS)
    return _items_as_runs(docs)


def _items_as_runs(docs: Iterable[Any]) -> Iterator[Run]:
    """The size of dicts is judged by some of them. What the caller raises comes after what he gave before."""
    source = iter(docs)
    run: list[Any] = []
    size = 0
    raised: Exception | None = None
    while raised is None:
        part: list[Any] = []
        try:
            part.extend(itertools.islice(source, STEP))  # keeps what it had taken
        except Exception as error:
            raised = error
        if not part:
            break
        run += part
        if isinstance(part[0], bytes | bytearray | str) and len(set(map(type, part))) == 1:
            size += sum(map(len, part))
        else:
            size += len(part) * max(_weight(part[0]), _weight(part[-1]))
        if size >= RUN_BYTES or len(run) >= RUN_DOCS:
            yield Run(run, size)
            run, size = [], 0
    if run:
        yield Run(run, size)
    if raised is not None:
        raise raised


def _weight(doc: Any) -> int:
    """Bytes of one document, near enough."""
    if isinstance(doc, dict):
        return 2 + sum(8 + len(str(key)) + (len(value) if isinstance(value, str) else 8) for key, value in doc.items())
    return len(doc) if isinstance(doc, bytes | bytearray | memoryview | str) else 0


# JSON lines -------------------------------------------------------------------------------------------------


def _pieces_of_file(path: str | bytes) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            yield from _pieces(file)
    except OSError as error:
        raise storage_error("read documents", os.fsdecode(path), error) from error


def _pieces(stream: Any) -> Iterator[bytes]:
    while piece := stream.read(RUN_BYTES):
        if not isinstance(piece, bytes | bytearray | memoryview):
            raise DocumentError("the file gives no bytes", path="docs", found=piece, expected="bytes",
                                fix="open it in binary mode, 'rb'")
        yield bytes(piece)


def lines(pieces: Iterator[bytes]) -> Iterator[list[bytes]]:
    """The lines of a text that comes in pieces, without those that are blank.

    Of a line that is too long for a document only as much is kept as shows that it is.
    """
    begun: list[bytes] = []
    held = 0
    first = True
    for piece in pieces:
        if first:
            piece, first = piece.removeprefix(BOM), False
        head, newline, rest = piece.rpartition(b"\n")
        if newline:
            yield _shown(b"".join([*begun, head]).split(b"\n"))
            begun, held = [], 0
        if held <= MAX_DOCUMENT_BYTES:
            begun.append(rest)
            held += len(rest)
    if begun:
        yield _shown([b"".join(begun)])


def _shown(found: list[bytes]) -> list[bytes]:
    kept = [line.removesuffix(b"\r") for line in found]
    return [line for line in kept if line and not line.isspace()]


def _lines_as_runs(pieces: Iterator[bytes]) -> Iterator[Run]:
    for found in lines(pieces):
        start = 0
        while start < len(found):
            stop, size = start, 0
            while stop < len(found) and stop - start < RUN_DOCS and size < RUN_BYTES:
                size += len(found[stop]) + 1
                stop += 1
            yield Run(found[start:stop], size)
            start = stop


# Arrow ------------------------------------------------------------------------------------------------------


def _table_as_runs(table: Any) -> Iterator[Run]:
    try:
        arrow: Any = importlib.import_module("pyarrow")
    except ModuleNotFoundError:
        raise DocumentError("reading Arrow needs the package pyarrow", path="docs", found=table,
                            fix="pip install 'quidditch-core[arrow]', or pass dicts") from None
    with arrow.RecordBatchReader.from_stream(table) as batches:
        for batch in batches:
            count = max(1, min(RUN_DOCS, batch.num_rows * RUN_BYTES // max(1, batch.get_total_buffer_size())))
            for start in range(0, batch.num_rows, count):
                part = batch.slice(start, count)
                columns = [_column(part.column(number)) for number in range(part.num_columns)]
                names = part.schema.names
                docs = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)] \
                    if columns else [{} for _ in range(part.num_rows)]
                yield Run(docs, part.nbytes)


def _column(array: Any) -> list[Any]:
    """Values as JSON has them: dates and times as ISO texts, in UTC where they have a zone."""
    arrow: Any = importlib.import_module("pyarrow")
    compute: Any = importlib.import_module("pyarrow.compute")
    if arrow.types.is_timestamp(array.type):
        to_ms = array.cast(arrow.timestamp("ms"), safe=False)  # an instant: a zone changes how it is shown only
        array = compute.strftime(to_ms, format="%Y-%m-%dT%H:%M:%SZ")
    elif arrow.types.is_date(array.type):
        array = compute.strftime(array, format="%Y-%m-%d")
    values: list[Any] = array.to_pylist()
    return values


# Progress ---------------------------------------------------------------------------------------------------


class Meter:
    """Documents and megabytes a second, on stderr: tqdm's bar where it is installed. ``total`` None: unknown."""

    def __init__(self, total: int | None, *, shown: bool) -> None:
        self._started = time.perf_counter()
        self._docs = self._bytes = 0
        self._shown = shown
        self._bar: Any = None
        if shown:
            try:
                from tqdm.auto import tqdm
            except ModuleNotFoundError:
                return
            self._bar = tqdm(total=total, unit=" docs", desc="indexing")

    def add(self, run: Run) -> None:
        self._docs += len(run.docs)
        self._bytes += run.bytes
        if not self._shown:
            return
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self._rate(self._bytes) / 1e6:,.1f} MB/s", refresh=False)
            self._bar.update(len(run.docs))
        else:
            print(f"\rindexing: {self}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._shown:
            print(f"\rindexing: {self}", file=sys.stderr)

    def _rate(self, amount: int) -> float:
        return amount / max(time.perf_counter() - self._started, 1e-9)

    def __str__(self) -> str:
        return f"{self._docs:,} documents, {self._rate(self._docs):,.0f}/s, {self._rate(self._bytes) / 1e6:,.1f} MB/s"

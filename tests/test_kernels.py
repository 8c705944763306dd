"""Every kernel of the engine: machine code and NumPy reference agree with each other and with plain Python.

A :class:`Field` says in dicts and lists what is in an inverted field. :func:`encode` turns it into sections
with the kernels under test, :class:`Engine` reads them back. Behind what kernels write to stands a wall that
must stay untouched (:class:`Memory`); behind what they read, a fence (:class:`FencedSections`).

Run as a script, this file damages sections and reads them: ``test_kernels.py FIRST_SEED COUNT``. The test
does it in a child process, so that a crash is a failed test that names its seed.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import inspect
import mmap
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import hypothesis.strategies as st
import naive
import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray

from quidditch_core.index import kernels
from quidditch_core.index.kernels import blocks, boolean, build, descriptor, merge, phrase, terms
from quidditch_core.jit import Kernel
from quidditch_core.segment import (
    DICTIONARY_BLOCK,
    HAS_FREQS,
    HAS_POSITIONS,
    MAX_DOCS,
    PADDING,
    FieldInfo,
    Section,
    Segment,
    TermInfo,
    address,
    bitmap_of,
    bitmap_words,
    docs_of,
)

F32 = np.float32
PATHS = ("compiled", "referenced")
CORRUPT = blocks.CORRUPT
SIZES = (1, 2, 127, 128, 129, 256, 300, 1000)  # around the ends of blocks
Sections = dict[str, NDArray[Any]]


# --- what the tests are made of ----------------------------------------------------------------------------


class Memory:
    """Zeroed buffers with walls behind them, which must stand when the ``with`` ends."""

    def __init__(self) -> None:
        self._walls: list[NDArray[np.uint8]] = []

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        assert all((wall == 0xA5).all() for wall in self._walls), "a kernel wrote behind a buffer"

    def zeros(self, size: int, dtype: Any) -> NDArray[Any]:
        bytes_ = size * np.dtype(dtype).itemsize
        raw = np.zeros(bytes_ + 64, np.uint8)
        raw[bytes_:] = 0xA5
        self._walls.append(raw[bytes_:])
        return raw[:bytes_].view(dtype)


@pytest.fixture(scope="module", autouse=True)
def _from_everywhere(machine_code: str) -> None:
    """All tests of this file run once for each place that machine code comes from."""
    function.cache_clear()
    usual.cache_clear()


@functools.cache
def function(kernel: Kernel, path: str) -> Callable[..., int]:
    return kernel.compiled() if path == "compiled" else kernel.referenced()


def call(kernel: Kernel, path: str, *arguments: Any) -> int:
    """Call a kernel one of the two ways; arrays go as their addresses."""
    return function(kernel, path)(*(address(a) if isinstance(a, np.ndarray) else int(a) for a in arguments))


def as_bytes(text: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(text + bytes(8), np.uint8)


@dataclass
class Field:
    """The postings of a field: term -> document -> positions, all ascending."""

    docs: int
    postings: dict[bytes, dict[int, list[int]]]
    norms: NDArray[np.uint8] | None = None
    has_freqs: bool = True
    has_positions: bool = True

    @property
    def flags(self) -> int:
        return HAS_FREQS * self.has_freqs | HAS_POSITIONS * self.has_positions

    def info(self) -> FieldInfo:
        return FieldInfo(0, "f", "text", indexed=True, freqs=self.has_freqs, positions=self.has_positions,
                         norms=self.norms is not None, terms=len(self.postings))


FACTORS = np.random.default_rng(1).uniform(0.05, 2, 256).astype(F32)  # what BM25 makes of a norm byte


def random_field(
    seed: int, sizes: Iterable[int], docs: int, *, most: int = 4, step: int = 3, norms: bool = True,
    has_freqs: bool = True, has_positions: bool = True,
) -> Field:
    """A term for each size, in that many documents, up to ``most`` times, ``step`` positions apart or less."""
    rng = np.random.default_rng(seed)
    postings = {}
    for i, size in enumerate(sizes):
        term = bytes(rng.choice(list(b"ab\xff"), rng.integers(0, 4)).tolist()) + str(i).encode()
        chosen = np.sort(rng.choice(docs, min(size, docs), replace=False))
        freqs = rng.integers(1, most + 1, chosen.size) if has_freqs else np.ones(chosen.size, np.int64)
        postings[term] = {
            doc: list(accumulate(rng.integers(1, step + 1, freq).tolist()))
            for doc, freq in zip(chosen.tolist(), freqs.tolist(), strict=True)
        }
    bytes_ = rng.integers(0, 256, docs).astype(np.uint8) if norms else None
    return Field(docs, dict(sorted(postings.items())), bytes_, has_freqs, has_positions)


def encode(field: Field, path: str) -> Sections:
    """The sections of a field, made by ``encode`` and ``dictionary_write``."""
    lists = list(field.postings.values())
    docs = np.array([doc for term in lists for doc in term], np.uint32)
    freqs = np.array([len(positions) for term in lists for positions in term.values()], np.uint32)
    starts = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    positions = np.array([p for term in lists for places in term.values() for p in places], np.uint32)
    return encode_arrays(field, docs, freqs, starts, positions if field.has_positions else None, path)


def encode_arrays(
    field: Field, docs: NDArray[np.uint32], freqs: NDArray[np.uint32], starts: NDArray[np.int64],
    positions: NDArray[np.uint32] | None, path: str,
) -> Sections:
    count, headers = starts.size - 1, docs.size // 128 + starts.size
    names = list(field.postings)
    text, ends = as_bytes(b"".join(names)), np.cumsum(list(map(len, names)), dtype=np.int64)
    with Memory() as memory:
        rows = memory.zeros(8 * count, np.int64)
        columns = {
            build.E_OUT: memory.zeros(8 * docs.size + 96 * count, np.uint8),
            build.E_LAST: memory.zeros(headers, np.uint32),
            build.E_OFFSET: memory.zeros(headers, np.uint32),
            build.E_WIDTH: memory.zeros(2 * headers, np.uint8),
            build.E_BOUND: memory.zeros(headers, np.uint8),
            build.E_POS_OUT: memory.zeros(5 * (0 if positions is None else positions.size), np.uint8),
            build.E_ENTRIES: memory.zeros(3 * headers, np.uint32),
            build.E_SCRATCH: memory.zeros(256, np.uint32),
            build.E_DOCS: docs, build.E_FREQS: freqs, build.E_STARTS: starts, build.E_ROWS: rows,
            build.E_TABLE: FACTORS,
        }
        if positions is not None:
            columns[build.E_POSITIONS] = positions
        if field.norms is not None:
            columns[build.E_NORMS] = field.norms
        job = np.zeros(build.E_SLOTS, np.int64)
        for slot, column in columns.items():
            job[slot] = address(column)
        job[build.E_TERMS], job[build.E_HAS_FREQS] = count, field.has_freqs
        assert call(build.encode, path, job) == 0
        used = job[build.E_BLOCKS]
        dictionary = -(-count // DICTIONARY_BLOCK)
        out, sparse = memory.zeros(text.size + 64 * count, np.uint8), memory.zeros(dictionary, np.uint64)
        first, first_ends = memory.zeros(text.size, np.uint8), memory.zeros(dictionary + 1, np.uint32)
        written = call(terms.dictionary_write, path, text, ends, rows, count, field.flags, out, sparse, first,
                       first_ends)
    sections = {
        "postings": columns[build.E_OUT][: job[build.E_OUT_USED]],
        "blocks.last": columns[build.E_LAST][:used],
        "blocks.offset": columns[build.E_OFFSET][:used],
        "blocks.width": columns[build.E_WIDTH][: 2 * used],
        "terms": out[:written],
        "terms.sparse": sparse,
        "terms.first": first[: first_ends[-1]],
        "terms.first.offset": first_ends,
    }
    if field.norms is not None:
        sections |= {"norms": field.norms, "blocks.bound": columns[build.E_BOUND][:used]}
    if positions is not None:
        sections |= {
            "positions": columns[build.E_POS_OUT][: job[build.E_POS_USED]],
            "blocks.position": columns[build.E_ENTRIES][: 3 * used],
        }
    return sections


def encode_both(field: Field) -> Sections:
    """The sections of a field, which must be the same whoever makes them."""
    made, again = (encode(field, path) for path in PATHS)
    assert {name: part.tobytes() for name, part in made.items()} == \
        {name: part.tobytes() for name, part in again.items()}
    return made


class FencedSections:
    """Sections whose padding ends where an unreadable page begins: a read beyond it is a crash."""

    def __init__(self, sections: Sections) -> None:
        self._sections = {f"{name}/f": Section(fenced(part)) for name, part in sections.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._sections

    def names(self) -> Iterable[str]:
        return self._sections

    def size(self, name: str) -> int:
        return self._sections[name].data.size if name in self._sections else 0

    def address(self, name: str) -> int:
        return address(self._sections[name].data)

    def need(self, name: str, start: int, length: int) -> None:
        assert start + length <= self.size(name)

    def need_all(self, name: str, ranges: Sequence[tuple[int, int]]) -> None:
        for start, length in ranges:
            self.need(name, start, length)

    def section(self, name: str) -> Section:
        return self._sections[name]

    def part(self, name: str, ranges: Sequence[tuple[int, int]]) -> Section:
        self.need_all(name, ranges)
        return self._sections[name]

    def lasting(self, name: str) -> bool:
        return True


def fenced(part: NDArray[Any]) -> NDArray[np.uint8]:
    data = part.view(np.uint8)
    readable = -(-(data.size + PADDING) // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = np.frombuffer(mmap.mmap(-1, readable + mmap.PAGESIZE), np.uint8)
    fence = ctypes.c_void_p(address(memory) + readable)
    assert ctypes.CDLL(None).mprotect(fence, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    copy = memory[readable - PADDING - data.size : readable - PADDING]
    copy[:] = data
    return copy


def segment_of(field: Field, sections: Sections) -> Segment:
    return Segment("test", field.docs, [field.info()], FencedSections(sections))


class Clause(NamedTuple):
    """A clause of a boolean query: a term's row, or a list of documents with scores."""

    weight: np.float32
    row: TermInfo | None = None
    docs: NDArray[np.uint32] | None = None
    scores: NDArray[np.float32] | None = None


class Word(NamedTuple):
    """A word of a phrase."""

    row: TermInfo
    offset: int
    group: int = -1


class Engine:
    """The reading kernels over one segment, called one of the two ways. Answers compare with ``==``."""

    def __init__(self, segment: Segment, path: str) -> None:
        self.segment, self.path = segment, path
        self.descriptor = segment.descriptor("f")
        self.field = self.descriptor.slots

    def call(self, kernel: Kernel, *arguments: Any) -> int:
        return call(kernel, self.path, *arguments)

    def find(self, term: bytes) -> TermInfo | int:
        """The row of a term; the ordinal of the next one as ~ordinal; or CORRUPT."""
        text = as_bytes(term)
        block = self.call(terms.dictionary_block, self.field, text, len(term))
        if block < 0:
            return CORRUPT if block == -2 else ~0
        with Memory() as memory:
            row, scratch = memory.zeros(8, np.int64), memory.zeros(terms.SCRATCH_BYTES, np.uint8)
            found = self.call(terms.dictionary_find, self.field, block, text, len(term), scratch, row)
        if found == CORRUPT:
            return CORRUPT - 1
        return TermInfo(*row.tolist()) if found else ~int(row[0])

    def read(self, start: int, stop: int, room: int = 1 << 16) -> list[tuple[bytes, TermInfo]] | int:
        count = max(0, stop - start)
        with Memory() as memory:
            rows, ends = memory.zeros(8 * count, np.int64), memory.zeros(count, np.int64)
            text, scratch = memory.zeros(room, np.uint8), memory.zeros(terms.SCRATCH_BYTES, np.uint8)
            done = self.call(terms.dictionary_read, self.field, start, stop, scratch, rows, text, room, ends)
        if done < 0:
            return done
        data, bounds = text.tobytes(), pairwise([0, *ends[:done].tolist()])
        return [(data[begin:end], TermInfo(*row))
                for (begin, end), row in zip(bounds, rows.reshape(-1, 8)[:done].tolist(), strict=True)]

    def postings(self, row: TermInfo, room: int | None = None) -> dict[int, int] | int:
        """Document -> frequency."""
        size = min(row.df, self.segment.docs) if room is None else room
        with Memory() as memory:
            docs, freqs = memory.zeros(size, np.uint32), memory.zeros(size, np.uint32)
            scratch = memory.zeros(1024, np.uint8)
            count = self.call(terms.postings_read, self.field, np.array(row), scratch, docs, freqs, size)
            alone = self.call(terms.postings_read, self.field, np.array(row), scratch, docs.copy(), 0, size)
        assert count == alone
        return count if count < 0 else dict(zip(docs[:count].tolist(), freqs[:count].tolist(), strict=True))

    def fill(self, rows: list[TermInfo]) -> list[int] | int:
        with Memory() as memory:
            bitmap = memory.zeros(bitmap_words(self.segment.docs), np.uint64)
            status = self.call(terms.postings_fill, self.field, np.array(rows, np.int64).reshape(-1), len(rows),
                               memory.zeros(1024, np.uint8), bitmap)
        return status or docs_of(bitmap, self.segment.docs).tolist()

    def boolean(
        self, required: list[Clause], optional: list[Clause], *, minimum: int = 0,
        accept: NDArray[np.uint64] | None = None, mode: int = descriptor.ALL, limit: int | None = None,
    ) -> tuple[list[tuple[int, float]], int] | int:
        """((document, score) of each hit, how many were found)."""
        clauses = [*required, *optional]
        limit = self.segment.docs if limit is None else limit
        query = np.zeros(descriptor.Q_SLOTS + descriptor.K_SLOTS * len(clauses), np.int64)
        query[: descriptor.Q_LIMIT + 1] = [len(required), len(optional), minimum,
                                        0 if accept is None else address(accept), self.segment.docs, mode, limit]
        for slots, clause in zip(query[descriptor.Q_SLOTS :].reshape(-1, descriptor.K_SLOTS), clauses, strict=True):
            slots[descriptor.K_WEIGHT] = clause.weight.view(np.int32)
            slots[descriptor.K_FIELD], slots[descriptor.K_TABLE] = self.descriptor.address, address(FACTORS)
            if clause.row is not None:
                slots[descriptor.K_TERM : descriptor.K_TERM + 8] = clause.row
            if clause.docs is not None:
                slots[descriptor.K_KIND], slots[descriptor.K_COUNT] = descriptor.LIST, clause.docs.size
                slots[descriptor.K_LIST] = address(clause.docs)
                slots[descriptor.K_SCORES] = 0 if clause.scores is None else address(clause.scores)
        with Memory() as memory:
            scratch = memory.zeros(boolean.scratch_bytes(len(clauses)), np.uint8)
            out = memory.zeros(2 + limit, np.int64)
            status = self.call(boolean.boolean, query, scratch, out)
        assert not scratch[: boolean.S_CURSORS].any(), "the window is not clean for the next query"
        if status < 0:
            return status
        written, found = out[:2].tolist()
        hits = out[2 : 2 + written]
        docs, bits = hits & 0xFFFFFFFF, hits >> 32
        if mode == descriptor.TOP:
            docs = 0xFFFFFFFF - docs
        return list(zip(docs.tolist(), bits.astype(np.int32).view(F32).tolist(), strict=True)), found

    def phrase(self, words: list[Word], slop: int = 0, limit: int | None = None) -> dict[int, float] | int:
        """Document -> frequency."""
        limit = self.segment.docs if limit is None else limit
        query = np.array([len(words), slop, self.descriptor.address, limit,
                          *(slot for word in words for slot in (word.offset, word.group, *word.row))], np.int64)
        with Memory() as memory:
            scratch = memory.zeros(phrase.scratch_bytes(len(words)), np.uint8)
            docs, freqs = memory.zeros(limit, np.uint32), memory.zeros(limit, np.float32)
            found = memory.zeros(1, np.int64)
            status = self.call(phrase.phrase, query, scratch, docs, freqs, found)
        count = int(found[0])
        return status or dict(zip(docs[:count].tolist(), freqs[:count].tolist(), strict=True))

    def gather(
        self, rows: list[TermInfo], numbers: NDArray[np.int32], *, positions: bool = True, most: int = 1 << 20,
    ) -> list[dict[int, list[int]]] | int:
        """For each term, the new number of each live document -> its positions, or its frequency in a list."""
        flat = np.array(rows, np.int64).reshape(-1)
        with Memory() as memory:
            scratch = memory.zeros(merge.SCRATCH_BYTES, np.uint8)
            sizes, tokens = memory.zeros(len(rows), np.int64), memory.zeros(len(rows), np.int64)
            status = self.call(merge.gather, self.field, flat, len(rows), numbers, scratch, sizes, tokens, 0, 0, 0)
            if status < 0 or tokens.sum() > most:
                return CORRUPT
            slots, places = np.cumsum(sizes) - sizes, np.cumsum(tokens) - tokens
            ends = np.cumsum(sizes)
            docs, freqs = memory.zeros(sizes.sum(), np.uint32), memory.zeros(sizes.sum(), np.uint32)
            out = memory.zeros(tokens.sum(), np.uint32)
            status = self.call(merge.gather, self.field, flat, len(rows), numbers, scratch, slots, places, docs,
                               freqs, out if positions else 0)
        if status < 0:
            return status
        assert slots.tolist() == ends.tolist()
        assert places.tolist() == np.cumsum(tokens).tolist()
        cut = iter(np.split(out, np.cumsum(freqs)[:-1])) if positions else iter(freqs[:, None])
        return [{int(doc): next(cut).tolist() for doc in docs[end - size : end]}
                for end, size in zip(ends.tolist(), sizes.tolist(), strict=True)]


    def moved(
        self, rows: list[TermInfo], numbers: NDArray[np.int32], how: int, most: int = 1 << 20,
    ) -> list[list[tuple[int, list[int]]]] | int:
        """For each term, the new number of each live document and its positions, put into order if it is EACH."""
        flat = np.array(rows, np.int64).reshape(-1)
        with Memory() as memory:
            scratch, counts = memory.zeros(merge.SCRATCH_BYTES, np.uint8), memory.zeros(3 * len(rows), np.int64)
            status = self.call(merge.take, self.field, flat, len(rows), numbers, scratch, counts, 0, 0, 0, 0, how)
            counts = counts.reshape(-1, 3)
            if status < 0 or counts.sum() > most:
                return CORRUPT
            starts = np.concatenate([np.zeros((1, 3), np.int64), np.cumsum(counts, axis=0)])
            docs, freqs, sizes = (memory.zeros(counts[:, 0].sum(), np.uint32) for _ in range(3))
            data, slots = memory.zeros(counts[:, 2].sum(), np.uint8), memory.zeros(3 * len(rows), np.int64)
            slots[:] = starts[:-1].reshape(-1)
            each = how == merge.EACH
            status = self.call(merge.take, self.field, flat, len(rows), numbers, scratch, slots, docs, freqs,
                               sizes if each else 0, data, how)
            if status < 0:
                return status
            assert slots.tolist() == starts[1:].reshape(-1).tolist()
            if each:
                room = memory.zeros(28 * counts[:, 0].max() + counts[:, 2].max(), np.uint8)
                edges, places = np.ascontiguousarray(starts[:, 0]), np.ascontiguousarray(starts[:-1, 2])
                self.call(merge.arrange, edges, len(rows), docs, freqs, sizes, data, places, room)
        tokens = iter(varints(data))
        cut = starts[1:-1, 0]
        return [[(int(doc), list(accumulate(islice(tokens, int(freq)))))
                 for doc, freq in zip(of, many, strict=True)]
                for of, many in zip(np.split(docs, cut), np.split(freqs, cut), strict=True)]


def varints(data: NDArray[np.uint8]) -> Iterator[int]:
    value = shift = 0
    for byte in data.tolist():
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            yield value
            value = shift = 0


def engines(field: Field) -> tuple[Engine, Engine]:
    """Both ways to read one segment of ``field``."""
    segment = segment_of(field, encode_both(field))
    return Engine(segment, "compiled"), Engine(segment, "referenced")


@functools.cache
def usual() -> tuple[Field, Engine, Engine]:
    """One field with all sizes that matter, read both ways."""
    field = random_field(0, [*SIZES, *SIZES], 5000)
    return field, *engines(field)


def rows_of(engine: Engine, field: Field) -> dict[bytes, TermInfo]:
    found = engine.read(0, len(field.postings))
    assert not isinstance(found, int)
    return dict(found)


seeds = st.integers(0, 2**32)
sizes_ = st.lists(st.sampled_from(SIZES[:-1]) | st.integers(1, 300), max_size=40)


# --- kernels and references --------------------------------------------------------------------------------


def test_every_kernel_has_a_reference_of_its_signature() -> None:
    found = 0
    for module in pkgutil.iter_modules(kernels.__path__):
        for name, kernel in vars(importlib.import_module(f"{kernels.__name__}.{module.name}")).items():
            if isinstance(kernel, Kernel):
                given = [parameter.rstrip("_") for parameter in inspect.signature(kernel.function).parameters]
                reference = inspect.signature(kernel.referenced())
                assert [parameter.rstrip("_") for parameter in reference.parameters] == given, name
                assert kernel.__doc__
                found += 1
    assert found >= 14


# --- writing and reading back ------------------------------------------------------------------------------


@given(seeds, sizes_, st.integers(300, 20_000), st.integers(1, 200), st.sampled_from([1, 2, 200, 70_000]))
def test_what_is_encoded_is_read_back(seed: int, sizes: list[int], docs: int, most: int, step: int) -> None:
    field = random_field(seed, sizes, docs, most=min(most, 2000 // (len(sizes) + 1) + 1), step=step)
    for engine in engines(field):
        check_round_trip(engine, field)


@pytest.mark.parametrize("options", [
    {"norms": False}, {"has_freqs": False, "has_positions": False}, {"has_positions": False, "most": 2**20},
    {"most": 1}, {},
], ids=str)
def test_fields_without_this_or_that(options: dict[str, Any]) -> None:
    most = options.pop("most", 3)
    field = random_field(3, SIZES, 3000, most=min(most, 50), **options)
    for engine in engines(field):
        check_round_trip(engine, field)


def check_round_trip(engine: Engine, field: Field) -> None:
    rows = rows_of(engine, field)
    assert list(rows) == list(field.postings)
    numbers = np.arange(field.docs, dtype=np.int32)
    for ordinal, (term, expected) in enumerate(field.postings.items()):
        row = engine.find(term)
        assert isinstance(row, TermInfo)
        assert row == rows[term]
        assert row[:3] == (ordinal, len(expected), sum(map(len, expected.values())))
        assert engine.postings(row) == {doc: len(positions) for doc, positions in expected.items()}
        assert engine.fill([row]) == list(expected)
        assert engine.find(term + b"\0") == ~(ordinal + 1)
    every = list(rows.values())
    assert engine.fill(every) == sorted({doc for term in field.postings.values() for doc in term})
    gathered = engine.gather(every, numbers, positions=field.has_positions)
    assert gathered == [
        {doc: places if field.has_positions else [len(places)] for doc, places in term.items()}
        for term in field.postings.values()
    ]


@pytest.mark.parametrize("count", [2, 127, 128, 129, 300])
def test_every_width(count: int) -> None:
    """Documents 31 bits apart, frequencies of 32 bits, and all widths below."""
    names = [f"{doc_bits:02}-{freq_bits:02}".encode() for doc_bits in range(32) for freq_bits in range(33)
             if doc_bits == 5 or freq_bits == 7 or doc_bits == freq_bits]
    rng = np.random.default_rng(count)
    docs, freqs = [], []
    for name in names:
        doc_bits, freq_bits = map(int, name.split(b"-"))
        gaps, extra = rng.integers(0, 2, count) * (doc_bits > 0), rng.integers(0, 1 << freq_bits, count)
        at = rng.integers(0, count)
        gaps[at] = (1 << doc_bits) - 1 - 2000 * (doc_bits == 31)
        extra[at] = max((1 << freq_bits) - 2, (1 << freq_bits) >> 1)
        docs.append(np.cumsum(gaps + 1) - 1)
        freqs.append(extra + 1)
    field = Field(MAX_DOCS, {name: {} for name in names}, has_positions=False)
    arrays = (np.concatenate(docs).astype(np.uint32), np.concatenate(freqs).astype(np.uint32),
              np.arange(0, count * len(names) + 1, count, dtype=np.int64), None)
    made, again = (encode_arrays(field, *arrays, path) for path in PATHS)
    assert {name: part.tolist() for name, part in made.items()} == \
        {name: part.tolist() for name, part in again.items()}
    segment = segment_of(field, made)
    for engine in (Engine(segment, path) for path in PATHS):
        for row, expected, counts in zip(rows_of(engine, field).values(), docs, freqs, strict=True):
            assert engine.postings(row) == dict(zip(expected.tolist(), counts.tolist(), strict=True))


def test_encoding_goes_on_behind_what_is_there() -> None:
    """Terms in two chunks, appended to the same buffers, make the same bytes as in one."""
    field = random_field(5, SIZES, 3000)
    names = list(field.postings)
    whole = encode(field, "compiled")
    for path in PATHS:
        parts = [
            encode(Field(field.docs, {name: field.postings[name] for name in chunk}, field.norms), path)
            for chunk in (names[:3], names[3:])
        ]
        for name in ("postings", "positions", "blocks.last", "blocks.width", "blocks.bound", "blocks.position"):
            assert np.concatenate([part[name] for part in parts]).tobytes() == whole[name].tobytes()


# --- dictionary --------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=12) | st.binary(max_size=2), unique=True, max_size=60), st.data())
def test_dictionary(words: list[bytes], data: st.DataObject) -> None:
    words.sort()
    field = Field(10, {word: {i % 10: [0]} for i, word in enumerate(words)})
    compiled, referenced = engines(field)
    probe = data.draw(st.binary(max_size=4))
    before = sum(word < probe for word in words)
    start = data.draw(st.integers(0, len(words)))
    stop = data.draw(st.integers(start, len(words)))
    room = data.draw(st.integers(0, 80))
    fitting = sum(end <= room for end in accumulate(map(len, words[start:stop])))
    for engine in (compiled, referenced):
        found = engine.find(probe)
        assert found[0] == before if isinstance(found, TermInfo) else found == ~before
        assert isinstance(found, TermInfo) == (probe in words)
        read = engine.read(start, stop, room)
        assert isinstance(read, list)
        assert [word for word, _ in read] == words[start : start + fitting]
        assert [row.ordinal for _, row in read] == list(range(start, start + fitting))
        assert engine.read(0, len(words) + 1) == CORRUPT
    assert compiled.read(start, stop, room) == referenced.read(start, stop, room)


def test_longest_terms() -> None:
    words = [b"x" * (terms.MAX_TERM - 1) + bytes([last]) for last in range(40)]
    field = Field(10, {word: {3: [1, 4]} for word in words})
    for engine in engines(field):
        read = engine.read(5, 37, 40 * terms.MAX_TERM)
        assert isinstance(read, list)
        assert [word for word, _ in read] == words[5:37]
        assert isinstance(engine.find(words[20]), TermInfo)


def test_read_stops_where_postings_do_not_fit() -> None:
    field, *both = usual()
    for engine in both:
        row = next(row for row in rows_of(engine, field).values() if row.df == 300)
        assert engine.postings(row, room=299) == CORRUPT


# --- boolean -----------------------------------------------------------------------------------------------


def bm25(weight: np.float32, freq: int, factor: np.float32) -> np.float32:
    return weight - weight / (F32(1) + F32(freq) * factor)


def expected_hits(
    required: list[dict[int, np.float32]], optional: list[dict[int, np.float32]], minimum: int, accept: set[int],
) -> dict[int, np.float32]:
    """Document -> score, ascending: each group sums in double precision, and rounds once."""
    hits = {}
    for doc in sorted(accept):
        matching = [clause[doc] for clause in optional if doc in clause]
        if not all(doc in clause for clause in required) or len(matching) < minimum:
            continue
        if not required and not matching:
            continue
        must = sum(float(clause[doc]) for clause in required)
        hits[doc] = F32(must) + F32(sum(map(float, matching)))
    return hits


@given(st.data(), seeds, st.booleans())
def test_boolean(data: st.DataObject, seed: int, norms: bool) -> None:
    docs = data.draw(st.sampled_from([1, 64, 4095, 4096, 4097, 10_000]))
    sizes = data.draw(st.lists(st.sampled_from([1, 5, 128, 129, 700]), min_size=1, max_size=5))
    field = random_field(seed, sizes, docs, norms=norms)
    both = engines(field)
    rows = rows_of(both[0], field)
    rng = np.random.default_rng(seed)
    clauses, scores = [], []
    for term, postings in field.postings.items():
        weight = F32(rng.uniform(0.1, 20))
        clauses.append(Clause(weight, rows[term]))
        scores.append({doc: bm25(weight, len(places), FACTORS[field.norms[doc] if field.norms is not None else 1])
                       for doc, places in postings.items()})
    for listed in data.draw(st.lists(st.booleans(), max_size=2)):  # lists, with scores of their own or one
        chosen = np.flatnonzero(rng.random(docs) < 0.3).astype(np.uint32)
        own = rng.uniform(0, 5, chosen.size).astype(F32)
        weight = F32(1.5)
        clauses.append(Clause(weight, docs=chosen, scores=own if listed else None))
        values = own if listed else np.full(chosen.size, weight)
        scores.append(dict(zip(chosen.tolist(), values, strict=True)))
    split = data.draw(st.integers(0, len(clauses)))
    minimum = data.draw(st.integers(0, 2))
    accepted = set(rng.choice(docs, docs // 2, replace=False).tolist()) if data.draw(st.booleans()) else None
    accept = None if accepted is None else bitmap_of(np.array(sorted(accepted), np.int64), docs)
    limit = data.draw(st.sampled_from([0, 1, 10, docs]))

    expected = expected_hits(scores[:split], scores[split:], minimum,
                             set(range(docs)) if accepted is None else accepted)
    best = sorted(expected.items(), key=lambda hit: (-hit[1], hit[0]))
    for engine in both:
        ask = functools.partial(engine.boolean, clauses[:split], clauses[split:], minimum=minimum, accept=accept)
        assert ask(mode=descriptor.COUNT, limit=0) == ([], len(expected))
        assert ask(mode=descriptor.ALL, limit=limit) == (list(expected.items())[:limit], len(expected))
        assert ask(mode=descriptor.TOP, limit=limit) == (best[:limit], len(expected))


# --- phrases -----------------------------------------------------------------------------------------------


def phrase_words(field: Field, rows: dict[bytes, TermInfo], chosen: list[tuple[bytes, int]]) -> list[Word]:
    """Words of a phrase; those that occur several times are a repeat group."""
    names = [name for name, _ in chosen]
    return [Word(rows[name], offset, names.index(name) if names.count(name) > 1 else -1) for name, offset in chosen]


@given(st.data(), seeds)
def test_phrases(data: st.DataObject, seed: int) -> None:
    field = random_field(seed, [40, 130, 300, 500], 600, most=6, step=4)
    both = engines(field)
    rows = rows_of(both[0], field)
    names = data.draw(st.lists(st.sampled_from(list(rows)), min_size=2, max_size=5))
    holes = data.draw(st.lists(st.integers(1, 3), min_size=len(names), max_size=len(names)))
    slop = data.draw(st.integers(1, 20))
    together = set.intersection(*(set(field.postings[name]) for name in names))

    loose = list(zip(names, accumulate(holes), strict=True))
    exact = {}
    for doc in sorted(together):
        starts = [position - loose[0][1] for position in field.postings[names[0]][doc]]
        freq = sum(all(start + offset in field.postings[name][doc] for name, offset in loose) for start in starts)
        if freq:
            exact[doc] = float(freq)
    close = [(name, offset) for offset, name in enumerate(names)]
    sloppy = {}
    for doc in sorted(together):
        freq = naive.sloppy_frequency([(name.decode("latin-1"), field.postings[name][doc]) for name in names], slop)
        if freq:
            sloppy[doc] = float(freq)
    for engine in both:
        assert engine.phrase(phrase_words(field, rows, loose)) == exact
        assert engine.phrase(phrase_words(field, rows, close), slop) == sloppy
        assert engine.phrase(phrase_words(field, rows, close), slop, limit=2) == dict(list(sloppy.items())[:2])


@given(st.data(), seeds)
def test_sloppy_phrases_with_holes(data: st.DataObject, seed: int) -> None:
    field = random_field(seed, [40, 60, 60], 60, most=8, step=4)
    compiled, referenced = engines(field)
    rows = rows_of(compiled, field)
    names = data.draw(st.lists(st.sampled_from(list(rows)), min_size=2, max_size=5))
    holes = data.draw(st.lists(st.integers(1, 3), min_size=len(names), max_size=len(names)))
    words = phrase_words(field, rows, list(zip(names, accumulate(holes), strict=True)))
    slop = data.draw(st.integers(1, 40))
    assert compiled.phrase(words, slop) == referenced.phrase(words, slop)


# --- merging -----------------------------------------------------------------------------------------------


@given(seeds, st.floats(0, 1))
def test_gather_renumbers_and_drops(seed: int, deleted: float) -> None:
    field = random_field(seed, [1, 2, 128, 129, 300], 400)
    rng = np.random.default_rng(seed)
    live = rng.random(field.docs) >= deleted
    numbers = np.where(live, np.cumsum(live) + 1000, -1).astype(np.int32)
    for engine in engines(field):
        rows = list(rows_of(engine, field).values())
        expected = [{int(numbers[doc]): places for doc, places in term.items() if live[doc]}
                    for term in field.postings.values()]
        assert engine.gather(rows, numbers) == expected
        counts = [{doc: [len(places)] for doc, places in term.items()} for term in expected]
        assert engine.gather(rows, numbers, positions=False) == counts


@given(seeds, st.floats(0, 1), st.integers(1, 12))
def test_moved_postings_are_in_order_with_their_positions(seed: int, deleted: float, runs: int) -> None:
    """Into any order: none, that of some sources that were sorted, or at random."""
    field = random_field(seed, [1, 2, 3, 33, 128, 129, 300], 400)
    rng = np.random.default_rng(seed)
    live = rng.random(field.docs) >= deleted
    numbers = np.full(field.docs, -1, np.int32)
    places = rng.permutation(int(live.sum()))
    numbers[live] = places if runs == 12 else np.concatenate([np.sort(part) for part in np.array_split(places, runs)])
    whole = np.arange(field.docs, dtype=np.int32)
    for engine in engines(field):
        rows = list(rows_of(engine, field).values())
        expected = [sorted((int(numbers[doc]), places) for doc, places in term.items() if live[doc])
                    for term in field.postings.values()]
        assert engine.moved(rows, numbers, merge.EACH) == expected
        assert engine.moved(rows, whole, merge.WHOLE) == [list(term.items()) for term in field.postings.values()]


# --- damage ------------------------------------------------------------------------------------------------


def test_a_term_longer_than_its_block_is_damage() -> None:
    """A suffix length that overflows when the shared prefix is added to it."""
    field = Field(10, {b"aa": {1: [0]}, b"ab": {2: [0]}})
    sections = encode(field, "compiled")
    # Three offsets, then the first term: shared 0, suffix 2, "aa", df, ttf - df, document, positions.
    start = sections["terms"].tobytes().index(b"aa") + 2 + 4
    endless = bytes([1]) + b"\xff" * 8 + b"\x7f" + b"b"
    sections["terms"] = np.frombuffer(sections["terms"].tobytes()[:start] + endless, np.uint8)
    for path in PATHS:
        engine = Engine(segment_of(field, sections), path)
        assert engine.find(b"ab") == CORRUPT - 1
        assert engine.read(0, 2) == CORRUPT


def test_missing_sections_are_damage() -> None:
    field, engine, _ = usual()
    rows = rows_of(engine, field)
    name = max(rows, key=lambda name: rows[name].df)
    whole = encode(field, "compiled")
    for path in PATHS:
        less = {key: part for key, part in whole.items() if key != "postings"}
        less["blocks.width"] = np.zeros_like(whole["blocks.width"])
        broken = Engine(segment_of(field, less), path)
        assert broken.postings(rows[name]) == CORRUPT
        words = [Word(rows[name], 0), Word(rows[name], 1)]
        no_positions = Field(field.docs, field.postings, field.norms, has_positions=False)
        less = {key: part for key, part in whole.items() if "position" not in key}
        assert Engine(segment_of(no_positions, less), path).phrase(words) == CORRUPT


class Fuzz:
    """Damages the sections of one small field, seed by seed, and reads all of it both ways."""

    def __init__(self) -> None:
        self.field = random_field(0, [1, 2, 3, 5, 90, 127, 128, 129, 300, *[1] * 25], 1000)
        self.whole = encode(self.field, "compiled")
        self.rows = rows_of(Engine(segment_of(self.field, self.whole), "compiled"), self.field)

    def run(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        sections = dict(self.whole)
        for name in rng.choice(list(sections), rng.integers(1, 3), replace=False):
            sections[name] = damaged(sections[name], rng)
        segment = segment_of(self.field, sections)
        compiled, referenced = (Engine(segment, path) for path in PATHS)
        rows = [row for row in self.rows.values() if row.df > 1]
        for term in (*rng.choice(list(self.rows), 8), b"", b"zz", b"\xff\xff"):
            found = compiled.find(term)
            assert found == referenced.find(term)
            rows += [found] if isinstance(found, TermInfo) else []
        start, stop = sorted(rng.integers(0, len(self.rows) + 1, 2).tolist())
        read = compiled.read(start, stop)
        assert read == referenced.read(start, stop)
        rows += [] if isinstance(read, int) else [row for _, row in read]
        rows += [damaged_row(rows[i], rng) for i in rng.integers(0, len(rows), 8)]
        rows = [rows[i] for i in rng.permutation(len(rows))[:12]]
        for row in rows:
            assert compiled.postings(row) == referenced.postings(row)
        self.answer(compiled, referenced, rows, rng)

    def answer(self, compiled: Engine, referenced: Engine, rows: list[TermInfo], rng: np.random.Generator) -> None:
        """Queries: kernels may jump over damage that the references see, but never see more."""
        numbers = np.arange(self.field.docs, dtype=np.int32)
        clauses = [Clause(F32(rng.uniform(1, 9)), row) for row in rows[:4]]
        words = [Word(row, offset, 0 if rng.random() < 0.3 else -1) for offset, row in enumerate(rows[4:7])]
        slop = int(rng.integers(1, 9))
        questions: list[Callable[[Engine], Any]] = [
            lambda engine: engine.boolean(clauses[:1], clauses[1:]),
            lambda engine: engine.boolean(clauses[:2], clauses[2:], mode=descriptor.TOP, limit=10),
            lambda engine: engine.boolean([], clauses, minimum=2, mode=descriptor.COUNT, limit=0),
            lambda engine: engine.phrase(words),
            lambda engine: engine.phrase(words, slop),
            lambda engine: engine.fill(rows),
            lambda engine: [engine.gather([row], numbers) for row in rows],
            lambda engine: [engine.moved([row], numbers, merge.EACH) for row in rows],
            lambda engine: [engine.moved([row], numbers, merge.WHOLE) for row in rows],
        ]
        for question in questions:
            seen, judged = question(compiled), question(referenced)
            pairs = zip(seen, judged, strict=True) if isinstance(judged, list) and seen != CORRUPT else [(seen, judged)]
            for ours, theirs in pairs:
                assert theirs == CORRUPT or ours == theirs


def damaged(section: NDArray[Any], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A copy of a section with some bytes changed: bits flipped, random or small numbers, runs of 0 or 255."""
    data = section.copy().view(np.uint8)
    if not data.size:
        return data
    for _ in range(rng.integers(1, 6)):
        at = int(rng.integers(0, data.size))
        run = data[at : at + int(rng.choice([1, 1, 4, 9, 64]))]
        match rng.integers(0, 5):
            case 0:
                run ^= np.uint8(1 << rng.integers(0, 8))
            case 1:
                run[:] = rng.integers(0, 256, run.size)
            case 2:
                run[:] = rng.integers(0, 40, run.size)
            case 3:
                run[:] = 255
            case _:
                run[:] = 0
    return data


def damaged_row(row: TermInfo, rng: np.random.Generator) -> TermInfo:
    """A row as a damaged dictionary might give it."""
    slots = list(row)
    slot = int(rng.integers(1, 8))
    slots[slot] = int(rng.choice([0, 1, 2, 127, 128, 129, 255, 2**31, 2**32, 2**40, 2**53, slots[slot] + 1,
                                  max(slots[slot], 1) - 1]))
    slots[1] = max(slots[1], 1)
    return TermInfo(*slots)


def test_damaged_bytes_end_in_a_status(python_env: dict[str, str]) -> None:
    """No bytes, however damaged, may crash the process, or make the reference raise."""
    command = [sys.executable, "-X", "faulthandler", str(Path(__file__).resolve()), "0", "400"]
    child = subprocess.run(command, env=python_env, capture_output=True, text=True, timeout=120)
    assert child.returncode == 0, f"exit {child.returncode} at {child.stdout.split()[-1:]}\n{child.stderr[-4000:]}"


if __name__ == "__main__":
    fuzz = Fuzz()
    for number in range(int(sys.argv[1]), int(sys.argv[1]) + int(sys.argv[2])):
        print(number, flush=True)
        fuzz.run(number)

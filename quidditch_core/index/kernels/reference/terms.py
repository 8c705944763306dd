"""The dictionary as byte strings of Python, and whole postings."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice, pairwise

import numpy as np

from quidditch_core.segment import (
    BLOCK,
    DICTIONARY_BLOCK,
    F_DOCS,
    F_FIRST,
    F_FIRST_OFFSETS,
    F_FIRST_SIZE,
    F_FLAGS,
    F_SPARSE,
    F_SPARSE_BLOCKS,
    F_TERM_COUNT,
    F_TERMS,
    F_TERMS_SIZE,
    HAS_FREQS,
    HAS_POSITIONS,
    TermInfo,
    view,
)

from ..terms import MAX_TERM
from .blocks import Damaged, Field, corrupt_if_damaged, cut, read_field, read_postings, read_row, require


def read_bytes(address: int, size: int) -> bytes:
    return view(address, size, np.uint8).tobytes()


class Varints:
    """Reads numbers and strings from bytes, from front to back."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def number(self) -> int:
        value = 0
        for shift in range(0, 49, 7):
            require(self.at < len(self.data))
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise Damaged

    def string(self, size: int) -> bytes:
        require(self.at + size <= len(self.data))
        self.at += size
        return self.data[self.at - size : self.at]


def read_block(field: Field, block: int) -> Iterator[tuple[bytes, TermInfo]]:
    """The terms of a dictionary block and their rows, for as long as the bytes last."""
    flags, size = field[F_FLAGS], field[F_TERMS_SIZE]
    sparse = view(field[F_SPARSE], field[F_SPARSE_BLOCKS], "<u8")
    start = int(sparse[block])
    end = int(sparse[block + 1]) if block + 1 < sparse.size else size
    walk = Varints(cut(field, F_TERMS, F_TERMS_SIZE, start, end - start).tobytes())
    postings, headers, positions = walk.number(), walk.number(), walk.number()
    term = b""
    ordinal = DICTIONARY_BLOCK * block
    while True:
        shared, suffix = walk.number(), walk.number()
        require(shared <= len(term), shared + suffix <= MAX_TERM)
        term = term[:shared] + walk.string(suffix)
        df = walk.number()
        require(df > 0)
        ttf = df + (walk.number() if flags & HAS_FREQS else 0)
        value = walk.number()
        positions_size = walk.number() if flags & HAS_POSITIONS else 0
        place, postings_size = (value, 0) if df == 1 else (postings, value)
        yield term, TermInfo(ordinal, df, ttf, place, postings_size, headers, positions, positions_size)
        ordinal += 1
        postings += postings_size
        positions += positions_size
        headers += -(-df // BLOCK) if df >= BLOCK else 0


def read_terms(field: Field, start: int, stop: int) -> Iterator[tuple[bytes, TermInfo]]:
    """The terms ``start`` .. ``stop`` - 1 and their rows."""
    if start >= stop:
        return
    require(stop <= field[F_TERM_COUNT])
    for block in range(start // DICTIONARY_BLOCK, -(-stop // DICTIONARY_BLOCK)):
        before = DICTIONARY_BLOCK * block
        last = min(DICTIONARY_BLOCK, stop - before)
        yield from islice(read_block(field, block), max(0, start - before), last)


def dictionary_block(field_: int, term: int, size: int) -> int:
    """The dictionary block that may hold a term: its number, -1 if none can, -2 if the index is corrupt."""
    field = read_field(field_)
    blocks = field[F_SPARSE_BLOCKS]
    offsets = view(field[F_FIRST_OFFSETS], blocks + 1, "<u4")

    def first(block: int) -> bytes:
        start, end = int(offsets[block]), int(offsets[block + 1])
        return cut(field, F_FIRST, F_FIRST_SIZE, start, end - start).tobytes()

    try:
        return bisect_right(range(blocks), read_bytes(term, size), key=first) - 1
    except Damaged:
        return -2


@corrupt_if_damaged
def dictionary_find(field_: int, block: int, term: int, size: int, scratch: int, row: int) -> int:
    """1 and the row of a term; 0 and in row[0] the ordinal of the first term after it."""
    field = read_field(field_)
    wanted = read_bytes(term, size)
    out = view(row, len(TermInfo._fields), np.int64)
    last = min(DICTIONARY_BLOCK * (block + 1), field[F_TERM_COUNT])
    for text, info in islice(read_block(field, block), last - DICTIONARY_BLOCK * block):
        if text >= wanted:
            out[:] = info
            return int(text == wanted)
    out[0] = last
    return 0


@corrupt_if_damaged
def dictionary_read(
    field_: int, start: int, stop: int, scratch: int, rows: int, text: int, text_size: int, ends: int,
) -> int:
    """Rows and bytes of the terms ``start`` .. ``stop`` - 1, as many as fit."""
    found: list[TermInfo] = []
    texts: list[bytes] = []
    used = 0
    for term, info in read_terms(read_field(field_), start, stop):
        used += len(term)
        if used > text_size:
            break
        texts.append(term)
        found.append(info)
    count = len(found)
    joined = b"".join(texts)
    view(rows, 8 * count, np.int64)[:] = np.array(found, np.int64).reshape(-1)
    view(text, len(joined), np.uint8)[:] = np.frombuffer(joined, np.uint8)
    view(ends, count, np.int64)[:] = np.cumsum([len(term) for term in texts])
    return count


@corrupt_if_damaged
def postings_read(field_: int, row: int, scratch: int, docs: int, freqs: int, size: int) -> int:
    """A term's documents and, unless ``freqs`` is 0, frequencies; their number."""
    term = read_row(row)
    require(term.df <= size)
    found, counts = read_postings(read_field(field_), term)
    view(docs, found.size, np.uint32)[:] = found
    if freqs:
        view(freqs, found.size, np.uint32)[:] = counts
    return found.size


@corrupt_if_damaged
def postings_fill(field_: int, rows: int, count: int, scratch: int, bitmap: int) -> int:
    """Set the bits of every document of ``count`` terms."""
    field = read_field(field_)
    words = view(bitmap, field[F_DOCS] // 64 + 1, np.uint64)
    mask = np.zeros(64 * words.size, np.bool_)
    for t in range(count):
        mask[read_postings(field, read_row(rows + 64 * t))[0]] = True
    words |= np.packbits(mask, bitorder="little").view(np.uint64)
    return 0


def varint(value: int) -> bytes:
    parts = []
    while value >= 128:
        parts.append(value % 128 + 128)
        value //= 128
    return bytes([*parts, value])


def shared_prefix(a: bytes, b: bytes) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def dictionary_write(
    text: int, ends: int, rows: int, count: int, flags: int, out: int, sparse: int, first: int,
    first_ends: int,
) -> int:
    """Front-code ``count`` sorted terms; the number of bytes written."""
    bounds = [0, *view(ends, count, np.int64).tolist()]
    data = read_bytes(text, bounds[-1])
    terms = [data[start:end] for start, end in pairwise(bounds)]
    coded = bytearray()
    blocks = []
    for i, term in enumerate(terms):
        info = read_row(rows + 64 * i)
        shared = 0
        if i % DICTIONARY_BLOCK == 0:
            blocks.append(len(coded))
            coded += varint(info.postings) + varint(info.headers) + varint(info.positions)
        else:
            shared = shared_prefix(terms[i - 1], term)
        coded += varint(shared) + varint(len(term) - shared) + term[shared:] + varint(info.df)
        if flags & HAS_FREQS:
            coded += varint(info.ttf - info.df)
        coded += varint(info.postings_size)
        if flags & HAS_POSITIONS:
            coded += varint(info.positions_size)
    heads = b"".join(terms[::DICTIONARY_BLOCK])
    view(out, len(coded), np.uint8)[:] = np.frombuffer(coded, np.uint8)
    view(sparse, len(blocks), "<u8")[:] = blocks
    view(first, len(heads), np.uint8)[:] = np.frombuffer(heads, np.uint8)
    view(first_ends, len(blocks) + 1, "<u4")[:] = np.cumsum([0, *map(len, terms[::DICTIONARY_BLOCK])])
    return len(coded)

"""A term as arrays: all its documents, frequencies and positions at once.

Blocks of one width are unpacked together: a value may straddle two words of its lane, so it is cut from both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec

import numpy as np
from numpy.typing import NDArray

from quidditch_core.segment import (
    BLOCK,
    F_BLOCKS,
    F_DOCS,
    F_ENTRIES,
    F_LAST_DOCS,
    F_OFFSETS,
    F_POSITIONS,
    F_POSITIONS_SIZE,
    F_POSTINGS,
    F_POSTINGS_SIZE,
    F_SLOTS,
    F_WIDTHS,
    SUB_BLOCK,
    TermInfo,
    view,
)

from ..blocks import CORRUPT, ENTRY_BYTES, FAR

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Field = list[int]
"""The slots of a field descriptor."""

P = ParamSpec("P")


class Damaged(Exception):
    """Bytes that no encoder wrote."""


def corrupt_if_damaged(function: Callable[P, int]) -> Callable[P, int]:
    """Let ``function`` return CORRUPT where it meets damaged bytes."""

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return function(*args, **kwargs)
        except Damaged:
            return CORRUPT

    return checked


def require(*facts: Any) -> None:
    if not all(facts):
        raise Damaged


def read_field(address: int) -> Field:
    """The slots at the address of a field descriptor."""
    slots: Field = view(address, F_SLOTS, np.int64).tolist()
    return slots


def read_row(address: int) -> TermInfo:
    """The term row at an address."""
    return TermInfo(*view(address, len(TermInfo._fields), np.int64).tolist())


def cut(field: Field, base: int, size: int, start: int, length: int) -> Bytes:
    """``length`` bytes from ``start`` of the section whose address and size are in two slots of ``field``."""
    require(start >= 0, length >= 0, start + length <= field[size], field[base] or length == 0)
    return view(field[base] + start, length, np.uint8)


def look_up(wanted: Ints, docs: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Where each of ``wanted`` stands in ``docs`` (ascending), and whether it does."""
    at = np.searchsorted(docs, wanted)
    there = at < docs.size
    there[there] = docs[at[there]] == wanted[there]
    return at, there


def common(lists: Iterable[Ints]) -> Ints:
    """The documents that are in all of the lists, the shortest of which decides the effort."""
    docs, *others = sorted(lists, key=len)
    for other in others:
        docs = docs[look_up(docs, other)[1]]
    return docs


def read_postings(field: Field, term: TermInfo) -> tuple[Ints, Ints]:
    """Documents and frequencies of a term, int64 [df] each."""
    if term.df == 1:
        require(0 <= term.postings < field[F_DOCS])
        return np.array([term.postings]), np.array([term.ttf & 0xFFFFFFFF])
    if term.df < 1:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    data = cut(field, F_POSTINGS, F_POSTINGS_SIZE, term.postings, term.postings_size)
    if term.df < BLOCK:
        require(data.size >= 2)
        gaps, extra = unpack_tail(data[2:], term.df, int(data[0]), int(data[1]))
        docs = np.cumsum(gaps + 1) - 1
        require(docs[-1] < field[F_DOCS])
    else:
        docs, extra = read_blocks(field, term, data)
    return docs, (extra + 1) & 0xFFFFFFFF


def read_blocks(field: Field, term: TermInfo, data: Bytes) -> tuple[Ints, Ints]:
    """Documents and frequencies - 1 of a term that has block headers."""
    blocks, whole = -(-term.df // BLOCK), term.df // BLOCK
    require(0 <= term.headers <= field[F_BLOCKS] - blocks)
    starts = 32 * header_column(field, F_OFFSETS, term, blocks, "<u4")
    doc_widths, freq_widths = header_column(field, F_WIDTHS, term, 2 * blocks, "u1").reshape(-1, 2).T
    last = header_column(field, F_LAST_DOCS, term, blocks, "<u4")
    require((doc_widths <= 32).all(), (freq_widths <= 32).all(), (starts <= data.size).all())

    freq_starts = starts + vertical_bytes(doc_widths)
    gaps = [unpack_vertical(data, starts[:whole], doc_widths[:whole])]
    extra = [unpack_vertical(data, freq_starts[:whole], freq_widths[:whole])]
    if blocks > whole:
        tail = unpack_tail(data[starts[-1]:], term.df % BLOCK, int(doc_widths[-1]), int(freq_widths[-1]))
        gaps.append(tail[0])
        extra.append(tail[1])

    # Each block goes on from the last document of the header before, and must end at that of its own.
    docs = np.cumsum(np.concatenate(gaps) + 1)
    ends = np.minimum(np.arange(BLOCK, BLOCK * blocks + 1, BLOCK), term.df)
    reached = np.diff(docs[ends - 1], prepend=0)
    require((reached == np.diff(last, prepend=-1)).all(), (last < field[F_DOCS]).all())
    return docs - 1, np.concatenate(extra)


def header_column(field: Field, slot: int, term: TermInfo, count: int, dtype: str) -> Ints:
    """``count`` entries of a column of block headers, those of ``term``."""
    item = np.dtype(dtype).itemsize * (2 if slot == F_WIDTHS else 1)
    return view(field[slot] + item * term.headers, count, dtype).astype(np.int64)


def vertical_bytes(widths: Any) -> Any:
    """Bytes of a full block: each of 8 lanes takes 16 values in whole words of 32 bits."""
    return 8 * 4 * (-(-16 * widths // 32))


def unpack_vertical(data: Bytes, starts: Ints, widths: Ints) -> Ints:
    """The values of full blocks, one block after another, int64 [128 * blocks]."""
    values = np.zeros((starts.size, 16, 8), np.int64)  # [block, row, lane]
    for width in np.unique(widths[widths > 0]).tolist():
        chosen = np.flatnonzero(widths == width)
        size = vertical_bytes(width)
        require((starts[chosen] + size <= data.size).all())
        raw = np.lib.stride_tricks.sliding_window_view(data, size)[starts[chosen]]
        words = raw.view("<u4").reshape(chosen.size, -1, 8).astype(np.uint64)
        bit = np.arange(0, 16 * width, width)
        word, shift = bit // 32, (bit % 32).astype(np.uint64)[:, None]
        spill = np.minimum(word + 1, words.shape[1] - 1)
        wide = words[:, word] >> shift | words[:, spill] << (np.uint64(32) - shift)
        values[chosen] = (wide & np.uint64((1 << width) - 1)).astype(np.int64)
    return values.reshape(-1)


def unpack_tail(data: Bytes, count: int, doc_width: int, freq_width: int) -> tuple[Ints, Ints]:
    """The two streams of bits of a block with fewer than 128 postings."""
    require(doc_width <= 32, freq_width <= 32)
    middle = -(-count * doc_width // 8)
    end = middle + -(-count * freq_width // 8)
    require(end <= data.size)
    return unpack_stream(data[:middle], count, doc_width), unpack_stream(data[middle:end], count, freq_width)


def unpack_stream(data: Bytes, count: int, width: int) -> Ints:
    bits = np.unpackbits(data, count=count * width, bitorder="little").reshape(count, width)
    values: Ints = bits.astype(np.int64) @ (1 << np.arange(width))
    return values


def read_positions(field: Field, term: TermInfo, freqs: Ints) -> Ints:
    """The positions of a term in all its documents, one document after another, int64 [sum of freqs]."""
    data = cut(field, F_POSITIONS, F_POSITIONS_SIZE, term.positions, term.positions_size)
    count = int(freqs.sum())
    ends = np.flatnonzero(data < 128)[:count]
    require(ends.size == count)
    starts = np.concatenate([[0], ends + 1])
    lengths = np.diff(starts)
    require((lengths <= 5).all())
    distances = np.zeros(count, np.int64)
    for k in range(int(lengths.max(initial=0))):
        longer = np.flatnonzero(lengths > k)
        distances[longer] |= (data[starts[longer] + k].astype(np.int64) & 127) << 7 * k

    first = np.cumsum(freqs) - freqs  # token of each posting's first position
    if term.df >= BLOCK:
        check_entry_points(field, term, starts[first[::SUB_BLOCK]])
    reached = np.concatenate([[0], np.cumsum(distances)])
    positions: Ints = reached[1:] - np.repeat(reached[first], freqs)
    require((positions <= 0xFFFFFFFF).all())
    return positions


def check_entry_points(field: Field, term: TermInfo, starts: Ints) -> None:
    """The headers point at the positions of every 32nd posting."""
    blocks = -(-term.df // BLOCK)
    require(field[F_ENTRIES])
    entries = view(field[F_ENTRIES] + ENTRY_BYTES * term.headers, ENTRY_BYTES // 2 * blocks, "<u2").reshape(-1, 6)
    bases = entries[:, :3].astype(np.int64) @ (1 << 16 * np.arange(3))
    subs = np.pad(entries[:, 3:].astype(np.int64), ((0, 0), (1, 0)))
    found, known = (bases[:, None] + subs).reshape(-1)[: starts.size], subs.reshape(-1)[: starts.size] < FAR
    require((found == starts)[known].all())

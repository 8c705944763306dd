"""Writing an inverted field: sorted postings become the sections of a segment.

Shared by the builder, which makes postings from tokens, and by merging, which makes them from other segments.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..segment import (
    DICTIONARY_BLOCK,
    HAS_FREQS,
    HAS_POSITIONS,
    RamSections,
    address,
    padded,
    zeros,
)
from . import bm25
from .kernels import build
from .kernels.terms import dictionary_write

_HEADERS = {"position": 12, "last": 4, "offset": 4, "width": 2, "bound": 1}
"""Bytes of each part of a block's header, in an order in which all of them are aligned."""


class Coded(NamedTuple):
    """Positions that are encoded already: the bytes of all, where those of each term begin, and where the last end."""

    data: NDArray[np.uint8]
    places: NDArray[np.int64]


class Encoded(NamedTuple):
    """Some terms of a field as bytes; where they lie counts from the first of them."""

    text: NDArray[np.uint8]
    ends: NDArray[np.int64]
    rows: NDArray[np.int64]
    parts: dict[str, NDArray[Any]]


class FieldWriter:
    """Collects the sections of one inverted field; terms are appended in sorted order, in chunks of any size.

    Threads may :meth:`encode` at the same time; one of them may :meth:`keep`.

    ``norms`` uint8 [docs] or None; ``avgdl`` is what the stored block bounds assume. ``coded``: the memory, padded, in
    which the positions of all terms lie one after another, if they come as `Coded`.
    """

    def __init__(
        self, *, freqs: bool, positions: bool, norms: NDArray[np.uint8] | None, avgdl: np.float32,
        coded: NDArray[np.uint8] | None = None,
    ) -> None:
        self._coded = coded
        self._freqs, self._positions, self._norms = freqs, positions, norms
        self._factors = bm25.factors(avgdl)
        self._parts: dict[str, list[NDArray[Any]]] = {}
        self._rooms = threading.local()
        self._texts: list[NDArray[np.uint8]] = []
        self._ends: list[NDArray[np.int64]] = []
        self._rows: list[NDArray[np.int64]] = []
        self._postings = self._blocks = self._position_bytes = self._text_bytes = 0
        self.terms = self.sum_df = self.sum_ttf = 0

    def append(
        self, text: NDArray[np.uint8], ends: NDArray[np.int64], docs: NDArray[np.uint32],
        freqs: NDArray[np.uint32], starts: NDArray[np.int64], positions: NDArray[np.uint32] | Coded | None,
    ) -> None:
        """Add ``ends.size`` terms; term t has postings starts[t] : starts[t + 1] of docs and freqs."""
        if ends.size:
            self.keep(self.encode(text, ends, docs, freqs, starts, positions))

    def encode(
        self, text: NDArray[np.uint8], ends: NDArray[np.int64], docs: NDArray[np.uint32],
        freqs: NDArray[np.uint32], starts: NDArray[np.int64], positions: NDArray[np.uint32] | Coded | None,
    ) -> Encoded:
        """The bytes of what :meth:`append` takes; at least one term."""
        terms, count = ends.size, docs.size
        out = self._room("postings", 8 * count + 96 * terms + 64)
        headers = count // 64 + 1  # only terms of 128 postings and more have any
        table = np.zeros(sum(_HEADERS.values()) * headers + 1028, np.uint8)
        at = {}
        place = 0
        for kind, size in _HEADERS.items():
            at[kind], place = place, place + size * headers
        base = address(table)
        coded = positions if isinstance(positions, Coded) else None
        plain = None if isinstance(positions, Coded) else positions
        pos_out = self._room("positions", 16 if plain is None else 5 * plain.size + 16)
        rows = np.zeros((terms, 8), np.int64)
        job = np.zeros(build.E_SLOTS, np.int64)
        job[: build.E_OUT_USED + 1] = [
            address(docs), address(freqs), address(starts), terms, address(rows),
            0 if plain is None else address(plain),
            0 if self._norms is None else address(self._norms), address(self._factors), address(out), 0]
        job[build.E_LAST : build.E_BLOCKS] = [base + at[kind] for kind in ("last", "offset", "width", "bound")]
        job[build.E_POS_OUT : build.E_CODED] = [address(pos_out), 0, base + at["position"], base + place + -place % 4,
                                                self._freqs]
        if coded is not None:
            job[build.E_CODED :] = address(coded.data), address(coded.places)
        build.encode(address(job))
        blocks = int(job[build.E_BLOCKS])
        parts: dict[str, NDArray[Any]] = {"postings": _copied(out[: job[build.E_OUT_USED]])}
        for kind, item, wanted in (
                ("last", np.uint32, True), ("offset", np.uint32, True), ("width", np.uint8, True),
                ("bound", np.uint8, self._norms is not None), ("position", np.uint32, positions is not None)):
            if wanted:
                parts[f"blocks.{kind}"] = table[at[kind] : at[kind] + _HEADERS[kind] * blocks].view(item).copy()
        if positions is not None:
            parts["positions"] = _copied(pos_out[: job[build.E_POS_USED]]) if coded is None else coded.data
        return Encoded(text, ends, rows, parts)

    def keep(self, encoded: Encoded) -> None:
        """Add terms that come after those that were kept before."""
        text, ends, rows, parts = encoded
        rows[:, 3] += self._postings
        rows[:, 5] += self._blocks
        rows[:, 6] += self._position_bytes
        for kind, part in parts.items():
            self._parts.setdefault(kind, []).append(part)
        self._texts.append(text)
        self._ends.append(ends + self._text_bytes)
        self._rows.append(rows)
        self._postings += parts["postings"].size
        self._blocks += parts["blocks.last"].size
        self._position_bytes += parts["positions"].size if "positions" in parts else 0
        self._text_bytes += text.size
        self.terms += ends.size
        self.sum_df += int(rows[:, 1].sum())
        self.sum_ttf += int(rows[:, 2].sum())

    def _room(self, kind: str, size: int) -> NDArray[np.uint8]:
        """Memory for the encoder, used again each time by the same thread."""
        rooms = self._rooms.__dict__
        room: NDArray[np.uint8] | None = rooms.get(kind)
        if room is None or room.size < size:
            room = rooms[kind] = padded(size)
        return room[:size]

    def finish(self, sections: RamSections, name: str) -> None:
        """Write the field's sections, the dictionary last."""
        kinds = ["postings", "blocks.last", "blocks.offset", "blocks.width"]
        if self._norms is not None:
            kinds.append("blocks.bound")
            sections.put(f"norms/{name}", self._norms)
        if self._positions:
            kinds += ["positions", "blocks.position"]
        self._rooms = threading.local()
        for kind in kinds:
            parts = self._parts.pop(kind, None)
            if kind == "positions" and self._coded is not None:
                sections.adopt(f"{kind}/{name}", self._coded)
            elif parts:
                width = parts[0].itemsize
                sections.adopt(f"{kind}/{name}", _poured(parts), width=width)
            else:
                sections.put(f"{kind}/{name}", b"")
        text = np.concatenate(self._texts) if self._texts else np.zeros(0, np.uint8)
        ends = np.concatenate(self._ends) if self._ends else np.zeros(0, np.int64)
        rows = np.concatenate(self._rows) if self._rows else np.zeros((0, 8), np.int64)
        blocks = -(-self.terms // DICTIONARY_BLOCK)
        out = padded(text.size + 64 * self.terms + 64)
        sparse, first = np.zeros(blocks, np.uint64), padded(text.size)
        first_ends = np.zeros(blocks + 1, np.uint32)
        flags = HAS_FREQS * self._freqs | HAS_POSITIONS * self._positions
        used = dictionary_write(address(text), address(ends), address(rows), self.terms, flags, address(out),
                                address(sparse), address(first), address(first_ends))
        sections.put(f"terms/{name}", out[:used])
        sections.put(f"terms.sparse/{name}", sparse)
        sections.put(f"terms.first.offset/{name}", first_ends)
        sections.put(f"terms.first/{name}", first[: int(first_ends[-1])])


def _copied(part: NDArray[np.uint8]) -> NDArray[np.uint8]:
    data = zeros(part.size)
    data[:] = part
    return data


def _poured(parts: list[NDArray[Any]]) -> NDArray[np.uint8]:
    """Arrays one after another as bytes; each goes as soon as it is copied."""
    data = padded(sum(part.nbytes for part in parts))
    end = data.size
    while parts:
        part = parts.pop().reshape(-1).view(np.uint8)
        data[end - part.size : end] = part
        end -= part.size
    return data

"""Writing an inverted field: distinct strings get numbers, sorted postings become the sections of a segment.

:class:`Interner` and :class:`FieldWriter` are shared by the builder, which makes postings from tokens, and by
merging, which makes them from other segments.
"""

from __future__ import annotations

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
)
from . import bm25
from .kernels import build
from .kernels.terms import dictionary_write


class _Memory(NamedTuple):
    """What an interner keeps: where each string ends, its hash, the strings, and the hash table."""

    ends: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    arena: NDArray[np.uint8]
    table: NDArray[np.uint32]

    def state(self, terms: int, used: int) -> NDArray[np.int64]:
        """The kernels' view of it, valid while it lives: ``terms`` strings in ``used`` bytes."""
        state = np.zeros(build.I_SLOTS, np.int64)
        state[build.I_TERMS], state[build.I_USED] = terms, used
        state[build.I_MASK], state[build.I_TABLE] = self.table.size - 1, address(self.table)
        state[build.I_ENDS], state[build.I_HASHES] = address(self.ends), address(self.hashes)
        state[build.I_MAX_TERMS] = self.ends.size
        state[build.I_ARENA], state[build.I_ARENA_SIZE] = address(self.arena), self.arena.size
        return state


class Interner:
    """Numbers distinct byte strings in order of first sight."""

    def __init__(self) -> None:
        self._memory = _Memory(np.zeros(1024, np.int64), np.zeros(1024, np.uint64), np.zeros(1 << 14, np.uint8),
                               np.zeros(4096, np.uint32))
        self._state = self._memory.state(0, 0)

    def __len__(self) -> int:
        return int(self._state[build.I_TERMS])

    def intern(
        self, data: NDArray[np.uint8], starts: NDArray[np.int64], sizes: NDArray[np.int64],
    ) -> NDArray[np.uint32]:
        """Numbers of the strings data[starts[i] : starts[i] + sizes[i]]."""
        ids = np.empty(starts.size, np.uint32)
        done = 0
        while True:
            done = build.intern(address(self._state), address(data), address(starts), address(sizes), done,
                                starts.size, address(ids))
            if done == starts.size:
                return ids
            self._grow(int(sizes[done]))

    def _grow(self, size: int) -> None:
        terms, used = len(self), int(self._state[build.I_USED])
        ends, hashes, arena, table = self._memory
        if used + size > arena.size:
            arena = _larger(arena, used + size)
        if terms >= min(ends.size, table.size // 2 - 1):
            ends, hashes = _larger(ends, 2 * terms), _larger(hashes, 2 * terms)
            table = np.zeros(2 * table.size, np.uint32)
        memory = _Memory(ends, hashes, arena, table)
        state = memory.state(terms, used)
        if table is not self._memory.table:
            build.rehash(address(state))
        # One step: an interrupt must not leave a state with addresses of memory that is gone.
        self._memory, self._state = memory, state

    def strings(self) -> list[bytes]:
        """The distinct strings by number."""
        arena = self._memory.arena[: int(self._state[build.I_USED])].tobytes()
        ends = self._memory.ends[: len(self)].tolist()
        return [arena[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)] if ends else []


def _larger(array: NDArray[Any], size: int) -> NDArray[Any]:
    grown = np.zeros(max(size, 2 * array.size), array.dtype)
    grown[: array.size] = array
    return grown


def joined(strings: list[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Strings one after another, and where each ends (int64)."""
    data = np.frombuffer(b"".join(strings) + bytes(8), np.uint8)[:-8]
    return data, np.cumsum(np.fromiter(map(len, strings), np.int64, len(strings)))


class FieldWriter:
    """Collects the sections of one inverted field; terms are appended in sorted order, in chunks of any size.

    ``norms`` uint8 [docs] or None; ``avgdl`` is what the stored block bounds assume.
    """

    def __init__(self, *, freqs: bool, positions: bool, norms: NDArray[np.uint8] | None, avgdl: np.float32) -> None:
        self._freqs, self._positions, self._norms = freqs, positions, norms
        self._factors = bm25.factors(avgdl)
        self._parts: dict[str, list[NDArray[Any]]] = {}
        self._texts: list[NDArray[np.uint8]] = []
        self._ends: list[NDArray[np.int64]] = []
        self._rows: list[NDArray[np.int64]] = []
        self._postings = self._blocks = self._position_bytes = self._text_bytes = 0
        self.terms = self.sum_df = self.sum_ttf = 0

    def append(
        self, text: NDArray[np.uint8], ends: NDArray[np.int64], docs: NDArray[np.uint32],
        freqs: NDArray[np.uint32], starts: NDArray[np.int64], positions: NDArray[np.uint32] | None,
    ) -> None:
        """Add ``ends.size`` terms; term t has postings starts[t] : starts[t + 1] of docs and freqs."""
        terms, count = ends.size, docs.size
        if terms == 0:
            return
        out = padded(8 * count + 96 * terms + 64)
        headers = count // 128 + terms + 1
        last, offset = np.empty(headers, np.uint32), np.empty(headers, np.uint32)
        width, bound = np.empty((headers, 2), np.uint8), np.zeros(headers, np.float32)
        tokens = 0 if positions is None else positions.size
        pos_out = padded(5 * tokens + 16)
        pos_base, pos_sub = np.zeros(headers, np.uint64), np.zeros((headers, 3), np.uint32)
        rows = np.zeros((terms, 8), np.int64)
        scratch = np.zeros(256, np.uint32)
        job = np.zeros(build.E_SLOTS, np.int64)
        job[: build.E_OUT_USED + 1] = [
            address(docs), address(freqs), address(starts), terms, address(rows),
            0 if positions is None else address(positions),
            0 if self._norms is None else address(self._norms), address(self._factors), address(out), 0]
        job[build.E_LAST : build.E_BLOCKS] = [address(last), address(offset), address(width), address(bound)]
        job[build.E_POS_OUT :] = [address(pos_out), 0, address(pos_base), address(pos_sub), address(scratch),
                                  self._freqs]
        build.encode(address(job))
        rows[:, 3] += self._postings
        rows[:, 5] += self._blocks
        rows[:, 6] += self._position_bytes
        blocks = int(job[build.E_BLOCKS])
        self._keep("postings", out[: job[build.E_OUT_USED]])
        self._keep("blocks.last", last[:blocks])
        self._keep("blocks.offset", offset[:blocks])
        self._keep("blocks.width", width[:blocks])
        if self._norms is not None:
            self._keep("blocks.bound", bound[:blocks])
        if positions is not None:
            self._keep("positions", pos_out[: job[build.E_POS_USED]])
            self._keep("blocks.position", pos_base[:blocks])
            self._keep("blocks.subposition", pos_sub[:blocks])
        self._texts.append(text)
        self._ends.append(ends + self._text_bytes)
        self._rows.append(rows)
        self._postings += int(job[build.E_OUT_USED])
        self._blocks += blocks
        self._position_bytes += int(job[build.E_POS_USED])
        self._text_bytes += text.size
        self.terms += terms
        self.sum_df += count
        self.sum_ttf += int(rows[:, 2].sum())

    def _keep(self, kind: str, part: NDArray[Any]) -> None:
        self._parts.setdefault(kind, []).append(part.copy())

    def finish(self, sections: RamSections, name: str) -> None:
        """Write the field's sections, the dictionary last."""
        kinds = ["postings", "blocks.last", "blocks.offset", "blocks.width"]
        if self._norms is not None:
            kinds.append("blocks.bound")
            sections.put(f"norms/{name}", self._norms)
        if self._positions:
            kinds += ["positions", "blocks.position", "blocks.subposition"]
        for kind in kinds:
            parts = self._parts.get(kind)
            sections.put(f"{kind}/{name}", np.concatenate(parts) if parts else b"")
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

"""Numbers for distinct strings, shared by the builder, which meets them in texts, and by merging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..analysis.tokenizers import whole
from ..segment import address, padded
from .kernels import strings as kernels

Numbers = NDArray[np.uint32]
READABLE = 8
"""Bytes behind a string that kernels may read."""


class _Memory(NamedTuple):
    """What an interner keeps: where each string ends, the strings, and the hash table."""

    ends: NDArray[np.int64]
    arena: NDArray[np.uint8]
    table: NDArray[np.uint8]
    scratch: NDArray[np.uint8]

    @property
    def entries(self) -> int:
        return self.table.size // kernels.ENTRY

    def state(self, terms: int, used: int, fold: bool) -> NDArray[np.int64]:
        """The kernels' view of it, valid while it lives: ``terms`` strings in ``used`` bytes."""
        state = np.zeros(kernels.I_SLOTS, np.int64)
        state[kernels.I_TERMS], state[kernels.I_USED], state[kernels.I_FOLD] = terms, used, fold * kernels.FOLD
        state[kernels.I_MASK], state[kernels.I_TABLE] = self.entries - 1, address(self.table)
        state[kernels.I_ENDS], state[kernels.I_MAX_TERMS] = address(self.ends), self.ends.size
        state[kernels.I_ARENA], state[kernels.I_ARENA_SIZE] = address(self.arena), self.arena.size - READABLE
        state[kernels.I_SCRATCH] = address(self.scratch)
        return state


class Interner:
    """Numbers distinct byte strings in order of first sight; with ``fold``, ASCII capitals are small letters."""

    def __init__(self, *, fold: bool = False) -> None:
        self._fold = fold
        self._memory = _Memory(np.zeros(256, np.int64), np.zeros(1 << 12, np.uint8),
                               np.zeros(512 * kernels.ENTRY, np.uint8), np.zeros(kernels.SCRATCH_BYTES, np.uint8))
        self._state = self._memory.state(0, 0, fold)

    def __len__(self) -> int:
        return int(self._state[kernels.I_TERMS])

    @property
    def memory(self) -> int:
        """Bytes held."""
        return sum(part.nbytes for part in self._memory)

    def intern(self, data: NDArray[np.uint8], spans: NDArray[np.uint64], out: Numbers | None = None) -> Numbers:
        """Numbers of the strings at ``spans`` (first byte | bytes << 32) of ``data``, as `joined` makes it."""
        spans = np.ascontiguousarray(spans)
        ids = np.empty(spans.size, np.uint32) if out is None else out
        done = 0
        while True:
            done = kernels.intern(address(self._state), address(data), address(spans), done, spans.size, address(ids))
            if done == spans.size:
                return ids
            self._grow(int(spans[done]) >> 32)

    def numbers(self, strings: Sequence[bytes]) -> Numbers:
        """Numbers of whole strings."""
        data, ends = joined(strings)
        return self.intern(data, whole(ends))

    def _grow(self, size: int) -> None:
        terms, used = len(self), int(self._state[kernels.I_USED])
        ends, arena, table, scratch = self._memory
        if used + size > arena.size - READABLE:
            arena = _larger(arena, used + size + READABLE)
        if terms >= ends.size:
            ends = _larger(ends, 2 * terms)
        if terms >= (self._memory.entries - 1) // 2:
            table = np.zeros(4 * table.size, np.uint8)
        memory = _Memory(ends, arena, table, scratch)
        state = memory.state(terms, used, self._fold)
        if table is not self._memory.table:
            kernels.rehash(address(self._memory.table), self._memory.entries, address(table), memory.entries - 1)
        # One step: an interrupt must not leave a state with addresses of memory that is gone.
        self._memory, self._state = memory, state

    def strings(self, numbers: Numbers | None = None) -> list[bytes]:
        """The strings with these numbers, or all."""
        if numbers is None:
            numbers = np.arange(len(self), dtype=np.uint32)
        text, ends = self.spell(numbers)
        return split(text.tobytes(), ends)

    def beyond_ascii(self) -> Numbers:
        """The numbers of strings that are not ASCII."""
        found = np.empty(len(self), np.uint8)
        kernels.beyond_ascii(found.size, address(self._memory.ends), address(self._memory.arena), address(found))
        return np.flatnonzero(found).astype(np.uint32)

    def ordered(self, numbers: Numbers) -> Numbers:
        """``numbers`` in the order of their strings."""
        ends, arena = address(self._memory.ends), address(self._memory.arena)
        numbers = np.ascontiguousarray(numbers)
        keys = np.empty(numbers.size, np.uint64)
        kernels.prefixes(address(numbers), numbers.size, ends, arena, address(keys))
        order = np.argsort(keys)
        numbers, keys = numbers[order], keys[order]
        scratch = np.empty(numbers.size, np.uint32)
        kernels.settle(address(numbers), address(keys), numbers.size, ends, arena, address(scratch))
        return numbers

    def spell(self, numbers: Numbers) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Strings one after another, and where each ends (int64)."""
        return spelt(numbers, self._memory.arena, self._memory.ends)


def spelt(
    numbers: Numbers, data: NDArray[np.uint8], ends: NDArray[np.int64],
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Of strings that lie one after another in ``data``, with `READABLE` bytes behind, those with these numbers."""
    numbers = np.ascontiguousarray(numbers)
    sizes = ends[numbers] - np.where(numbers > 0, ends[numbers.astype(np.int64) - 1], 0)
    text, text_ends = padded(int(sizes.sum())), np.empty(numbers.size, np.int64)
    kernels.spell(address(numbers), numbers.size, address(ends), address(data), address(text), address(text_ends))
    return text, text_ends


def _larger(array: NDArray[Any], size: int) -> NDArray[Any]:
    grown = np.zeros(max(size, 2 * array.size), array.dtype)
    grown[: array.size] = array
    return grown


def joined(strings: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Strings one after another with `READABLE` bytes behind, and where each ends (int64)."""
    data = np.frombuffer(b"".join([*strings, bytes(READABLE)]), np.uint8)[:-READABLE]
    return data, np.cumsum(np.fromiter(map(len, strings), np.int64, len(strings)))


def readable(text: NDArray[np.uint8], ends: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
    """Strings that lie one after another as `Interner.intern` takes them."""
    data = padded(text.size)
    data[:] = text
    return data, whole(ends)


def split(text: bytes, ends: NDArray[np.int64]) -> list[bytes]:
    """The inverse of `joined`."""
    stops = ends.tolist()
    return [text[start:end] for start, end in zip([0, *stops[:-1]], stops, strict=True)] if stops else []

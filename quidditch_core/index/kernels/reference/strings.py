"""Distinct strings, their numbers and their order, with Python's bytes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quidditch_core.segment import view

from ..strings import (
    I_ARENA,
    I_ARENA_SIZE,
    I_ENDS,
    I_FOLD,
    I_MASK,
    I_MAX_TERMS,
    I_SLOTS,
    I_TABLE,
    I_TERMS,
    I_USED,
    MIX,
    PRIME,
)

_WORD = 2**64 - 1
_ENTRY = np.dtype([("key", "<u8"), ("number", "<u4"), ("size", "<u4")])


def key_of(token: bytes) -> int:
    """The bytes of a string of up to eight, zeros behind them; the hash of a longer one."""
    size = len(token)
    if size <= 8:
        return int.from_bytes(token, "little")
    value = size
    for at in range(0, size - 8, 8):
        value ^= value >> 29 if at else 0
        value = (value ^ int.from_bytes(token[at : at + 8], "little")) * PRIME & _WORD
    value ^= value >> 29
    return (value ^ int.from_bytes(token[-8:], "little")) * PRIME & _WORD


def slot_of(key: int, mask: int) -> int:
    value = (key ^ key >> 32) * MIX & _WORD
    return (value ^ value >> 29) & mask


def intern(state_: int, data_: int, spans_: int, begin: int, count: int, ids: int) -> int:
    """Number the tokens ``begin`` .. ``count`` - 1; how many are done when something is full."""
    if begin >= count:
        return begin
    state = view(state_, I_SLOTS, np.int64)
    mask = int(state[I_MASK])
    terms, used, room = int(state[I_TERMS]), int(state[I_USED]), int(state[I_MAX_TERMS])
    most = min(room, mask // 2)
    table = view(int(state[I_TABLE]), mask + 1, _ENTRY)
    arena = view(int(state[I_ARENA]), int(state[I_ARENA_SIZE]), np.uint8)
    ends = view(int(state[I_ENDS]), room, np.int64)
    spans = view(spans_, count, np.uint64)[begin:]
    starts, sizes = (spans & np.uint64(2**32 - 1)).tolist(), (spans >> np.uint64(32)).tolist()
    data = view(data_, max(map(sum, zip(starts, sizes, strict=True))), np.uint8).tobytes()
    if state[I_FOLD]:
        data = data.lower()  # of bytes: ASCII only

    def look_up(token: bytes) -> tuple[int, int, int]:
        """The slot of a token, its key, and its number, -1 if the slot is free."""
        key = key_of(token)
        slot = slot_of(key, mask)
        while number := int(table["number"][slot]):
            start = int(ends[number - 2]) if number > 1 else 0
            if arena[start : int(ends[number - 1])].tobytes() == token:
                return slot, key, number - 1
            slot = (slot + 1) & mask
        return slot, key, -1

    known: dict[bytes, int] = {}
    numbers: list[int] = []
    for start, size in zip(starts, sizes, strict=True):
        token = data[start : start + size]
        number = known.get(token, -1)
        if number < 0:
            slot, key, number = look_up(token)
            if number < 0:
                if terms >= most or used + size > arena.size:
                    break
                arena[used : used + size] = np.frombuffer(token, np.uint8)
                used += size
                number = terms
                terms += 1
                ends[number], table[slot] = used, (key, terms, size)
            known[token] = number
        numbers.append(number)
    view(ids + 4 * begin, len(numbers), np.uint32)[:] = numbers
    state[I_TERMS], state[I_USED] = terms, used
    return begin + len(numbers)


def rehash(old: int, size: int, table_: int, mask: int) -> int:
    """Move the entries of a table into an empty, larger one."""
    table = view(table_, mask + 1, _ENTRY)
    taken = (table["number"] != 0).tolist()
    for entry in view(old, size, _ENTRY):
        if entry["number"]:
            slot = slot_of(int(entry["key"]), mask)
            while taken[slot]:
                slot = (slot + 1) & mask
            table[slot], taken[slot] = entry, True
    return 0


def _strings(numbers: NDArray[np.uint32], ends_: int, arena: int) -> list[bytes]:
    """The strings of these numbers."""
    if not numbers.size:
        return []
    ends = view(ends_, int(numbers.max()) + 1, np.int64)
    data = view(arena, int(ends[-1]), np.uint8).tobytes()
    starts = [0, *ends.tolist()]
    return [data[starts[number] : starts[number + 1]] for number in numbers.tolist()]


def prefixes(numbers: int, count: int, ends: int, arena: int, out: int) -> int:
    """The first eight bytes of strings as uint64 that compare as they do."""
    strings = _strings(view(numbers, count, np.uint32), ends, arena)
    view(out, count, np.uint64)[:] = [int.from_bytes(string[:8].ljust(8, b"\0"), "big") for string in strings]
    return 0


def settle(numbers_: int, keys: int, count: int, ends: int, arena: int, scratch: int) -> int:
    """Sort each run of strings whose keys are equal."""
    numbers = view(numbers_, count, np.uint32)
    pairs = zip(view(keys, count, np.uint64).tolist(), _strings(numbers, ends, arena), numbers.tolist(), strict=True)
    runs = (sorted(run, key=lambda item: item[1]) for _, run in itertools.groupby(list(pairs), lambda item: item[0]))
    numbers[:] = [number for run in runs for _, _, number in run]
    return 0


def spell(numbers: int, count: int, ends: int, arena: int, out: int, out_ends: int) -> int:
    """Write strings one behind the other, and where each ends; their size."""
    strings = _strings(view(numbers, count, np.uint32), ends, arena)
    text = b"".join(strings)
    view(out, len(text), np.uint8)[:] = np.frombuffer(text, np.uint8)
    view(out_ends, count, np.int64)[:] = np.cumsum([*map(len, strings)], dtype=np.int64)
    return len(text)


def beyond_ascii(count: int, ends: int, arena: int, out: int) -> int:
    """Which strings have a byte of 128 or more; how many."""
    found: Any = [not string.isascii() for string in _strings(np.arange(count, dtype=np.uint32), ends, arena)]
    view(out, count, np.uint8)[:] = found
    return sum(found)

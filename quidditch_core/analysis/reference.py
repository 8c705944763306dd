"""The tokenizers in plain Python: for short texts, where nothing is compiled, and to check the kernel by."""

from __future__ import annotations

import numpy as np

from ..segment import view
from .automaton import BLOCK, LIMIT, Automaton, automaton


def spans(machine: Automaton, text: str) -> list[tuple[int, int]]:
    """(start, end) of each token of ``text``, in code points."""
    wide: list[bool] = []  # which characters are two UTF-16 units; empty if none is
    if text.isascii():
        classes = text.encode().translate(machine.ascii)
    else:
        index, blocks = machine.index, machine.blocks
        classes = bytes([blocks[index[c // BLOCK] * BLOCK + c % BLOCK] for c in map(ord, text)])
        if max(text) > "\uffff":
            wide = [c > "\uffff" for c in text]
    states, accept, size = machine.states, machine.accept, len(text)
    begin = states[1]
    found = []
    p = 0
    while p < size:
        first = last = p
        row = begin
        limit = first + LIMIT  # in characters: shrinks by one for each wide one
        stop = min(limit, size)
        while p < stop:
            if wide and wide[p]:
                if p + machine.astral > limit:
                    break
                limit -= 1
                stop = min(limit, size)
            state = row[classes[p]]
            if not state:
                break
            p += 1
            if state >= accept:
                last = p
            row = states[state]
        if last > first:
            found.append((first, last))
            p = last
        else:
            p = first + 1
    return found


def scan(image: int, data: int, size: int, ends: int, count: int, spans_: int, counts: int, capacity: int) -> int:
    """Reference of the kernel :func:`quidditch_core.analysis.scan.scan`."""
    machine = automaton(image)
    text_bytes = view(data, size, np.uint8).tobytes()
    rows: list[int] = []
    tokens = view(counts, count, np.uint32)
    begin = 0
    for value, end in enumerate(view(ends, count, np.int64).tolist()):
        if not begin <= end <= size:
            return -1
        text = text_bytes[begin:end].decode("utf-8", "surrogatepass")
        offsets = byte_offsets(text)
        found = spans(machine, text)
        rows += [begin + offsets[s] | offsets[e] - offsets[s] << 32 for s, e in found]
        tokens[value] = len(found)
        begin = end
    out = view(spans_, capacity, np.uint64)
    out[: len(rows)] = rows[:capacity]
    return len(rows)


def byte_offsets(text: str) -> list[int]:
    """Where each code point starts in UTF-8, and the size of it all."""
    if text.isascii():
        return list(range(len(text) + 1))
    code = np.array([*map(ord, text)])
    widths = 1 + (code > 0x7F) + (code > 0x7FF) + (code > 0xFFFF)
    return [0, *np.cumsum(widths).tolist()]

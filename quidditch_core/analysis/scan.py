"""The kernel of the tokenizers: UTF-8 bytes -> where the tokens are. Imports only ``jit``.

One loop walks any automaton of ``automaton.py``. Runs of ASCII letters at the start of a token are measured eight
bytes at a time; other ASCII takes one look-up of a class and one of a state per byte; everything else is decoded
to its code point first. ``reference.py`` says the same in Python.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..jit import ctz, helper, inline_helper, kernel, load_i64, load_u8, load_u16, load_u64, store_u32, store_u64

LIMIT = 255
WORDS = 4096
"""Bytes that a query may have; more are documents."""
UNDERSCORE = 95


@helper
def width_at(data: int, p: int, end: int) -> int:
    """Bytes of the code point at ``p``, never past ``end``."""
    lead = load_u8(data + p)
    width = 1 if lead < 0xC0 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    return min(width, end - p)


@helper
def class_at(index: int, blocks: int, data: int, p: int, width: int) -> int:
    """Doubled class of the code point of ``width`` bytes at ``p``; 0 where the bytes are no UTF-8."""
    lead = load_u8(data + p)
    if width == 2:
        code = (lead & 31) << 6 | (load_u8(data + p + 1) & 63)
    elif width == 3:
        code = (lead & 15) << 12 | (load_u8(data + p + 1) & 63) << 6 | (load_u8(data + p + 2) & 63)
    elif width == 4:
        code = (lead & 7) << 18 | (load_u8(data + p + 1) & 63) << 12
        code |= (load_u8(data + p + 2) & 63) << 6 | (load_u8(data + p + 3) & 63)
    else:
        return 0
    if code > 0x10FFFF:
        return 0
    return load_u8(blocks + (load_u8(index + (code >> 7)) << 7) + (code & 127))


@inline_helper
def letters_at(at: int) -> Any:
    """How many of the eight bytes at ``at`` are ASCII letters before the first that is none."""
    word = load_u64(at)
    low = (word | np.uint64(0x2020202020202020)) & np.uint64(0x7F7F7F7F7F7F7F7F)
    letters = (low + np.uint64(0x1F1F1F1F1F1F1F1F)) & ~(low + np.uint64(0x0505050505050505)) & ~word
    return ctz(~letters & np.uint64(0x8080808080808080)) >> 3


@kernel("quidditch_core.analysis.reference:scan", bulk=lambda image, data, size, *_: size > WORDS)
def scan(image: int, data: int, size: int, ends: int, count: int, spans: int, counts: int, capacity: int) -> int:
    """Find the tokens of ``count`` values; value i ends at byte ``ends[i]`` and starts where i - 1 ends.

    Writes the first ``capacity`` tokens, uint64: first byte | bytes << 32; and uint32 how many each value has, all
    of them. Returns how many there are, or -1 if ``ends`` descend or exceed ``size``, which is below 2^32.
    Malformed UTF-8 gives some tokens or other, in bounds.
    """
    accept, start, astral, letters = load_i64(image), load_i64(image + 8), load_i64(image + 16), load_i64(image + 24)
    index, blocks = image + load_i64(image + 32), image + load_i64(image + 40)
    rows = image + load_i64(image + 48)
    ascii_classes = blocks + (load_u8(index) << 7)
    found = 0
    p = 0
    for value in range(count):
        end = load_i64(ends + 8 * value)
        if end < p or end > size:
            return -1
        before = found
        while p < end:
            byte = load_u8(data + p)
            if byte < 128 and byte != UNDERSCORE and load_u16(rows + start + load_u8(ascii_classes + byte)) == 0:
                p += 1
                continue
            first = p
            last = p
            row = start
            limit = p + LIMIT  # in bytes: grows by what a code point has more bytes than UTF-16 units
            stop = min(limit, end)
            if letters != 0:
                while p + 8 <= stop:
                    run = letters_at(data + p)
                    p += run
                    if run < 8:
                        break
                if p > first:
                    last = p
                    row = letters
            while p < stop:
                byte = load_u8(data + p)
                if byte < 128:
                    row = load_u16(rows + row + load_u8(ascii_classes + byte))
                    if row == 0:
                        break
                    p += 1
                else:
                    width = width_at(data, p, end)
                    if width == 4 and p + astral > limit:
                        break
                    row = load_u16(rows + row + class_at(index, blocks, data, p, width))
                    if row == 0:
                        break
                    p += width
                    limit += width - (2 if width == 4 else 1)
                    stop = min(limit, end)
                if row >= accept:
                    last = p
            if last > first:
                if found < capacity:
                    store_u64(spans + 8 * found, np.uint64(first | (last - first) << 32))
                found += 1
                p = last
            elif load_u8(data + first) != UNDERSCORE:
                p = first + width_at(data, first, end)
            else:
                # Underscores alone are no token, but may begin one. Every start in a run of them takes the
                # same path, so all fail where one did, unless it was for the limit. Without this a ruled line
                # costs the square of its length.
                cut = row != 0 and p < end
                run = first + 1
                while run < end and load_u8(data + run) == UNDERSCORE:
                    run += 1
                p = run - LIMIT + 1 if run - first >= LIMIT else first + 1 if cut else run
        store_u32(counts + 4 * value, found - before)
    return found

"""The kernel of the tokenizers: UTF-8 bytes -> where the tokens are. Imports only ``jit``.

One loop walks any automaton of ``automaton.py``. ASCII takes one look-up of a class and one of a state per
byte; everything else is decoded to its code point first. ``reference.py`` says the same in Python.
"""

from __future__ import annotations

from ..jit import helper, kernel, load_i64, load_u8, load_u16, store_i64

LIMIT = 255
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


@kernel("quidditch_core.analysis.reference:scan")
def scan(
    image: int, data: int, size: int, ends: int, count: int,
    starts: int, lengths: int, values: int, capacity: int,
) -> int:
    """Find the tokens of ``count`` values; value i ends at byte ``ends[i]`` and starts where i - 1 ends.

    Writes the first ``capacity`` tokens: int64 first byte, int64 bytes, int64 value. Returns how many there
    are, or -1 if ``ends`` descend or exceed ``size``. Malformed UTF-8 gives some tokens or other, in bounds.
    """
    accept, start, astral = load_i64(image), load_i64(image + 8), load_i64(image + 16)
    index, blocks = image + load_i64(image + 24), image + load_i64(image + 32)
    rows = image + load_i64(image + 40)
    ascii_classes = blocks + (load_u8(index) << 7)
    found = 0
    p = 0
    for value in range(count):
        end = load_i64(ends + 8 * value)
        if end < p or end > size:
            return -1
        while p < end:
            first = p
            last = p
            row = start
            limit = p + LIMIT  # in bytes: grows by what a code point has more bytes than UTF-16 units
            stop = min(limit, end)
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
                    store_i64(starts + 8 * found, first)
                    store_i64(lengths + 8 * found, last - first)
                    store_i64(values + 8 * found, value)
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
    return found

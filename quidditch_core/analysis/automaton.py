"""The automata of the tokenizers: their tables, as Python walks them and as the kernel reads them.

``tables.bin`` holds them; ``make_tables.py`` made it and says from which grammars. Each code point has a
class, and (state, class) gives the next state. State 0 is dead, state 1 the start, states from ``accept`` on
end a token. A token is the longest match from where it starts; where nothing matches, one code point is
skipped.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import threading
import zlib
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..segment import padded, view

BLOCK = 128
"""Code points in a block of the two-level class table."""
LIMIT = 255
"""UTF-16 units in a token at most; a longer match is cut (Lucene's DEFAULT_MAX_TOKEN_LENGTH)."""


class Automaton(msgspec.Struct, frozen=True, eq=False):
    """``index`` and ``blocks`` give a code point's class, ``states`` the next state by [state][class].

    ``ascii`` gives an ASCII character's class, in the form that ``bytes.translate`` takes. ``astral`` is how
    many free UTF-16 units a code point beyond U+FFFF needs to enter a token: 2 where a token never exceeds
    the limit, 1 where the last code point may exceed it by one unit.
    """

    accept: int
    astral: int
    index: bytes
    blocks: bytes
    states: tuple[bytes, ...]
    ascii: bytes


HEADER = 8
"""int64 at the head of an image: first accepting row, start row, ``astral``, the row after any number of ASCII
letters (0: there is no such row), where index, blocks and rows start, and where the rows end."""
_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_making = threading.Lock()


@functools.cache
def tables() -> dict[str, NDArray[Any]]:
    """The arrays of ``tables.bin``."""
    with open(os.path.join(os.path.dirname(__file__), "tables.bin"), "rb") as file:
        return unpacked(file.read())


def packed(arrays: dict[str, NDArray[Any]]) -> bytes:
    """Arrays by name as zlib of a line of JSON, which tells their types and shapes, and their bytes.

    NumPy's own format would load what opens ZIP archives, a tenth of the time to a first answer.
    """
    head = msgspec.json.encode({name: (array.dtype.str, array.shape) for name, array in arrays.items()})
    return zlib.compress(b"\n".join([head, b"".join(array.tobytes() for array in arrays.values())]), 9)


def unpacked(data: bytes) -> dict[str, NDArray[Any]]:
    """What was packed."""
    head, _, rest = zlib.decompress(data).partition(b"\n")
    arrays, at = {}, 0
    for name, (dtype, shape) in msgspec.json.decode(head).items():
        count = math.prod(shape)
        arrays[name] = np.frombuffer(rest, dtype, count, at).reshape(shape)
        at += arrays[name].nbytes
    return arrays


def image(name: str, astral: int) -> NDArray[np.uint8]:
    """The automaton ``standard``, ``letter`` or ``whitespace`` as the kernel reads it; lives for ever.

    Classes are doubled, because a row is an array of u16. A row is named by its byte offset among the rows,
    and what it holds are names of rows.
    """
    with _making:  # two threads must not make two images, of which one would die under its user
        return _image(name, astral)


@functools.cache
def _image(name: str, astral: int) -> NDArray[np.uint8]:
    arrays = tables()
    index, blocks = arrays[f"{name}_index"], arrays[f"{name}_blocks"]
    states, accept = arrays[f"{name}_states"], int(arrays[f"{name}_accept"])
    row = 2 * states.shape[1]
    parts = [index, 2 * blocks.reshape(-1), (states.astype("<u2") * row).reshape(-1).view(np.uint8)]
    ends = np.cumsum([8 * HEADER, *(part.size for part in parts)])
    letters = np.array([blocks.reshape(-1)[int(index[0]) * BLOCK + letter] for letter in _LETTERS])
    after = {*states[1][letters].tolist(), *states[states[1][letters], letters].tolist()}
    only = after.pop() if len(after) == 1 and min(after) >= accept else 0
    header = np.array([accept * row, row, astral, only * row, *ends], "<i8").view(np.uint8)
    made = padded(int(ends[-1]))
    made[:] = np.concatenate([header, *parts])
    return made


@functools.cache
def automaton(image_address: int) -> Automaton:
    """The automaton whose image is at this address."""
    accept, row, astral, _, *ends = view(image_address, HEADER, np.int64).tolist()
    index, blocks, rows = (
        view(image_address + start, end - start, np.uint8) for start, end in itertools.pairwise(ends))
    states = (rows.view("<u2").reshape(-1, row // 2) // row).astype(np.uint8)
    classes = (blocks // 2).tobytes()
    first = int(index[0]) * BLOCK
    return Automaton(
        accept // row, astral, index.tobytes(), classes, tuple(state.tobytes() for state in states),
        ascii=classes[first:first + BLOCK].ljust(256, b"\0"))

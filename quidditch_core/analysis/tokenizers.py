"""Tokenizers: where in a text the words are.

Each names the Lucene class that it equals, token for token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..segment import address
from . import reference
from .automaton import automaton, image
from .scan import scan

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]

SHORT = 64
"""Characters up to which plain Python is as quick as preparing a call of the kernel."""


class Tokenizer(Protocol):
    """Finds tokens. ``definition`` changes whenever any text may yield other tokens."""

    @property
    def definition(self) -> str: ...

    def spans(self, text: str) -> list[tuple[int, int]]:
        """(start, end) of each token of ``text``, in code points."""

    def split(self, data: Bytes, ends: Integers) -> tuple[Integers, Integers, Integers]:
        """The tokens of many values: int64 first byte, int64 bytes, int64 value (ascending) of each.

        Value i is ``data[ends[i - 1]:ends[i]]``, valid UTF-8; a token never spans values.
        """


@dataclass(frozen=True, slots=True)
class AutomatonTokenizer:
    """Longest matches of one of the automata. ``astral`` is explained there."""

    name: str
    astral: int
    definition: str

    def spans(self, text: str) -> list[tuple[int, int]]:
        if len(text) <= SHORT:
            return reference.spans(automaton(self._image()), text)
        data = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
        starts, lengths, _ = self.split(data, np.array([data.size]))
        ends = starts + lengths
        if data.size > len(text):
            points = np.cumsum((data & 0xC0) != 0x80)  # characters begun up to and with each byte
            starts, ends = points[starts] - 1, points[ends - 1]
        return list(zip(starts.tolist(), ends.tolist(), strict=True))

    def split(self, data: Bytes, ends: Integers) -> tuple[Integers, Integers, Integers]:
        data, ends = np.ascontiguousarray(data), np.ascontiguousarray(ends, np.int64)
        capacity = data.size // 3 + 64  # an ideograph is three bytes, an English word and its space six
        while True:
            out = np.empty((3, capacity), np.int64)
            at = address(out)
            found = scan(self._image(), address(data), data.size, address(ends), ends.size,
                         at, at + 8 * capacity, at + 16 * capacity, capacity)
            assert found >= 0, "the ends of the values do not ascend within the data"
            if found <= capacity:
                return out[0, :found], out[1, :found], out[2, :found]
            capacity = found

    def _image(self) -> int:
        return address(image(self.name, self.astral))


@dataclass(frozen=True, slots=True)
class KeywordTokenizer:
    """The whole value is one token, even an empty one (Lucene's KeywordTokenizer)."""

    definition: str = "keyword"

    def spans(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]

    def split(self, data: Bytes, ends: Integers) -> tuple[Integers, Integers, Integers]:
        ends = np.asarray(ends, np.int64)
        starts = np.concatenate([np.zeros(min(1, ends.size), np.int64), ends[:-1]])
        return starts, ends - starts, np.arange(ends.size)


STANDARD = AutomatonTokenizer("standard", 2, "standard/unicode-12.1/255")
"""Words by UAX #29, ideographs and emoji one by one (Lucene's StandardTokenizer, 9 and 10)."""
LETTER = AutomatonTokenizer("letter", 1, "letter/unicode-14/255")
"""Runs of letters (Lucene's LetterTokenizer)."""
WHITESPACE = AutomatonTokenizer("whitespace", 1, "whitespace/unicode-14/255")
"""Runs of anything but white space, Java's notion of it (Lucene's WhitespaceTokenizer)."""
KEYWORD = KeywordTokenizer()

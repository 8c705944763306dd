"""Tokenizers: where in a text the words are.

Each names the Lucene class that it equals, token for token.
"""

from __future__ import annotations

from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..segment import address
from . import reference
from .automaton import automaton, image
from .scan import scan

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]
Spans = NDArray[np.uint64]
Counts = NDArray[np.uint32]

SHORT = 64
"""Characters up to which plain Python is as quick as preparing a call of the kernel."""


class Tokenizer(Protocol):
    """Finds tokens. ``definition`` changes whenever any text may yield other tokens."""

    @property
    def definition(self) -> str: ...

    def spans(self, text: str) -> list[tuple[int, int]]:
        """(start, end) of each token of ``text``, in code points."""

    def split(self, data: Bytes, ends: Integers) -> tuple[Spans, Counts]:
        """The tokens of many values: uint64 first byte | bytes << 32 of each; uint32 how many each value has.

        Value i is ``data[ends[i - 1]:ends[i]]``, valid UTF-8, of less than 4 GiB together; a token never spans
        values.
        """


class AutomatonTokenizer(msgspec.Struct, frozen=True):
    """Longest matches of one of the automata. ``astral`` is explained there."""

    name: str
    astral: int
    definition: str

    def spans(self, text: str) -> list[tuple[int, int]]:
        if len(text) <= SHORT:
            return reference.spans(automaton(self._image()), text)
        data = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
        starts, lengths = parts(self.split(data, np.array([data.size]))[0])
        ends = starts + lengths
        if data.size > len(text):
            points = np.cumsum((data & 0xC0) != 0x80)  # characters begun up to and with each byte
            starts, ends = points[starts] - 1, points[ends - 1]
        return list(zip(starts.tolist(), ends.tolist(), strict=True))

    def split(self, data: Bytes, ends: Integers) -> tuple[Spans, Counts]:
        data, ends = np.ascontiguousarray(data), np.ascontiguousarray(ends, np.int64)
        assert data.size < 1 << 32
        capacity = data.size // 3 + 64  # an ideograph is three bytes, an English word and its space six
        counts = np.empty(ends.size, np.uint32)
        while True:
            spans = np.empty(capacity, np.uint64)
            found = scan(self._image(), address(data), data.size, address(ends), ends.size, address(spans),
                         address(counts), capacity)
            assert found >= 0, "the ends of the values do not ascend within the data"
            if found <= capacity:
                return spans[:found], counts
            capacity = found

    def _image(self) -> int:
        return address(image(self.name, self.astral))


class KeywordTokenizer(msgspec.Struct, frozen=True):
    """The whole value is one token, even an empty one (Lucene's KeywordTokenizer)."""

    definition: str = "keyword"

    def spans(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]

    def split(self, data: Bytes, ends: Integers) -> tuple[Spans, Counts]:
        return whole(ends), np.ones(ends.size, np.uint32)


def whole(ends: Integers) -> Spans:
    """Values as one token each."""
    sizes = ends.copy()
    sizes[1:] -= ends[:-1]
    spans: Spans = (ends - sizes | sizes << 32).view(np.uint64)
    return spans


def parts(spans: Spans) -> tuple[Integers, Integers]:
    """First byte and number of bytes of each token."""
    return (spans & np.uint64(0xFFFFFFFF)).view(np.int64), (spans >> np.uint64(32)).view(np.int64)


STANDARD = AutomatonTokenizer("standard", 2, "standard/unicode-12.1/255")
"""Words by UAX #29, ideographs and emoji one by one (Lucene's StandardTokenizer, 9 and 10)."""
LETTER = AutomatonTokenizer("letter", 1, "letter/unicode-14/255")
"""Runs of letters (Lucene's LetterTokenizer)."""
WHITESPACE = AutomatonTokenizer("whitespace", 1, "whitespace/unicode-14/255")
"""Runs of anything but white space, Java's notion of it (Lucene's WhitespaceTokenizer)."""
KEYWORD = KeywordTokenizer()

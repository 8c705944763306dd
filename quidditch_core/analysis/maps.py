"""Term maps: pure functions of one term that give another, or None to drop it.

A dropped term leaves a hole in the positions, as Lucene's stop filter does. Each map names the Lucene token
filter that it equals.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import msgspec

from . import porter
from .automaton import tables


class TermMap(msgspec.Struct, frozen=True):
    """A function of one term. ``definition`` changes whenever any term may map to another one."""

    definition: str
    function: Callable[[str], str | None]

    def __call__(self, term: str) -> str | None:
        return self.function(term)


@functools.cache
def _lower() -> dict[int, int]:
    pairs: list[tuple[int, int]] = tables()["lowercase"].tolist()
    return dict(pairs)


def lowercase(term: str) -> str:
    """Each code point's simple lower case: U+0130 becomes ``i``, a final sigma is like any other."""
    return term.lower() if term.isascii() else term.translate(_lower())


def possessive(term: str) -> str:
    """Without a final ``'s``, ``\u2019s`` or ``\uff07s``."""
    return term[:-2] if term[-1:] in ("s", "S") and term[-2:-1] in ("'", "\u2019", "\uff07") else term


def stop(words: str) -> TermMap:
    """Drops the given words (separated by blanks). Lucene's StopFilter."""
    dropped = frozenset(words.split())
    return TermMap("stop(" + " ".join(sorted(dropped)) + ")", lambda term: None if term in dropped else term)


LOWERCASE = TermMap("lowercase/unicode-14", lowercase)
"""Lucene's LowerCaseFilter."""
POSSESSIVE = TermMap("possessive", possessive)
"""Lucene's EnglishPossessiveFilter."""
ENGLISH_STOP = stop(
    "a an and are as at be but by for if in into is it no not of on or such "
    "that the their then there these they this to was will with"
)
"""Lucene's EnglishAnalyzer.ENGLISH_STOP_WORDS_SET."""
PORTER = TermMap("porter", porter.stem)
"""Lucene's PorterStemFilter."""

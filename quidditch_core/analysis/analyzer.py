"""Analyzers: a tokenizer and a chain of term maps, by the names that OpenSearch gives them."""

from __future__ import annotations

import hashlib
import itertools
import re
from typing import NamedTuple

import msgspec

from ..errors import MappingError, UnsupportedError, nearest
from .maps import ENGLISH_STOP, LOWERCASE, PORTER, POSSESSIVE, TermMap
from .tokenizers import KEYWORD, LETTER, SHORT, STANDARD, WHITESPACE, Tokenizer


class Token(NamedTuple):
    """A term, the number of its word in the text, and which code points ``start:end`` of the text it was."""

    term: str
    position: int
    start: int
    end: int


class Analyzer(msgspec.Struct, frozen=True):
    """Text -> terms. Immutable and safe to share between threads.

    ``tokenizer.split`` and ``map_term`` are the two halves that indexing uses by themselves: every token of
    many values, then every distinct term once.
    """

    name: str
    tokenizer: Tokenizer
    maps: tuple[TermMap, ...] = ()

    def tokens(self, text: str) -> list[Token]:
        """The tokens of ``text``; positions count from 0 and have holes where a map dropped a term."""
        terms: dict[str, str | None] = {}
        found = []
        for position, (start, end) in enumerate(self.tokenizer.spans(text)):
            raw = text[start:end]
            if raw not in terms:
                terms[raw] = self.map_term(raw)
            term = terms[raw]
            if term is not None:
                found.append(Token(term, position, start, end))
        return found

    def terms(self, text: str) -> list[tuple[str, int]]:
        """(term, position) of each token of ``text``."""
        if self.maps == (LOWERCASE,) and len(text) <= SHORT and _PLAIN.fullmatch(text):
            return [(word, position) for position, word in enumerate(text.split())]
        return [(token.term, token.position) for token in self.tokens(text)]

    def map_term(self, raw: str) -> str | None:
        """What the maps make of one raw term; None if one of them drops it."""
        term: str | None = raw
        for step in self.maps:
            if term is None:
                break
            term = step(term)
        return term

    @property
    def folds(self) -> bool:
        """Whether it makes the same of a text and of that text with its ASCII capitals made small."""
        before = itertools.takewhile(lambda step: step is not LOWERCASE, self.maps)
        return LOWERCASE in self.maps and all(step is POSSESSIVE for step in before)

    @property
    def keeps_ascii(self) -> bool:
        """Whether the maps leave every small ASCII term as it is."""
        return all(step is LOWERCASE for step in self.maps)

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that change with the definition; the name is not part of it."""
        definition = "|".join([self.tokenizer.definition, *(step.definition for step in self.maps)])
        return hashlib.sha256(definition.encode()).hexdigest()[:12]


# Lower-case ASCII letters and blanks: words to every tokenizer that splits words, and to the map that lowers them.
_PLAIN = re.compile("[a-z ]*")

_BUILT_IN = {
    analyzer.name: analyzer
    for analyzer in (
        Analyzer("standard", STANDARD, (LOWERCASE,)),
        Analyzer("simple", LETTER, (LOWERCASE,)),
        Analyzer("whitespace", WHITESPACE),
        Analyzer("keyword", KEYWORD),
        Analyzer("english", STANDARD, (POSSESSIVE, LOWERCASE, ENGLISH_STOP, PORTER)),
    )
}

ANALYZERS: tuple[str, ...] = tuple(_BUILT_IN)
"""Names of the built-in analyzers."""

_ELSEWHERE = """
    arabic armenian basque bengali brazilian bulgarian catalan cjk czech danish dutch estonian fingerprint
    finnish french galician german greek hindi hungarian indonesian irish italian latvian lithuanian norwegian
    pattern persian portuguese romanian russian snowball sorani spanish stop swedish thai turkish
"""


def get_analyzer(name: str) -> Analyzer:
    """The built-in analyzer called ``name``.

    Raises UnsupportedError for one that only OpenSearch has, MappingError for a name that neither knows.
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    if name in _ELSEWHERE.split():
        raise UnsupportedError(
            f"the analyzer {name!r} is not supported by this version; supported: {', '.join(ANALYZERS)}")
    raise MappingError("unknown analyzer", found=name, expected="the name of an analyzer",
                       fix=nearest(name, ANALYZERS))

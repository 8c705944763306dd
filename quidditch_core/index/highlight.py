"""Fragments of a stored text in which the words that matched are marked.

The text is analysed again: nothing is stored for it in the index. What comes out is what OpenSearch's
unified highlighter is used for: sentences around the matches, cut between words where they are longer than
``fragment_size``, the best of them in the order of the document. Pure functions; the planner says which
terms, phrases and prefixes a query looks for in a field, an analyzer says where the tokens are.
"""

from __future__ import annotations

import dataclasses
import html
import math
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, TypeAlias

from quidditch_core.analysis import Token
from quidditch_core.dsl import HighlightOptions
from quidditch_core.index.source import values_at

Phrase: TypeAlias = "tuple[tuple[str | None, ...], int]"
"""The terms by position (None where any may stand) and the slop."""

VALUE_GAP = 100
"""Positions between two values of a field, as the index counts them."""

MAX_ANALYZED = 1_000_000
"""Characters of a field in one document that are searched for matches, as OpenSearch's limit."""

TokensOf: TypeAlias = Callable[[str], Sequence[Token]]


@dataclass(frozen=True, slots=True)
class Target:
    """One field to highlight: its name, where its values are in the source, and what to mark in them."""

    field: str
    path: str
    tokens_of: TokensOf
    terms: AbstractSet[str] = frozenset()
    phrases: Sequence[Phrase] = ()
    prefixes: AbstractSet[str] = frozenset()
    options: HighlightOptions = dataclasses.field(default_factory=HighlightOptions)


class Highlighter:
    """Highlights the same targets in one document after the other."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = tuple(targets)

    def highlight(self, source: dict[str, Any]) -> dict[str, list[str]]:
        """Fragments by field; a field without any is left out."""
        highlighted = {}
        for target in self._targets:
            texts = [_as_text(value) for value in values_at(source, target.path)]
            fragments = highlight_value(
                texts, target.tokens_of, target.terms, target.phrases, target.options, target.prefixes
            )
            if fragments:
                highlighted[target.field] = fragments
        return highlighted


def highlight_value(
    texts: Sequence[str],
    tokens_of: TokensOf,
    terms: AbstractSet[str],
    phrases: Sequence[Phrase],
    options: HighlightOptions,
    prefixes: AbstractSet[str] = frozenset(),
) -> list[str]:
    """The fragments of one field's values that show its matches.

    Marked are tokens that are one of ``terms``, begin with one of ``prefixes``, or take part in an occurrence
    of a phrase; overlapping and touching matches share one pair of tags. A fragment never leaves a value.
    Without a match: the first ``no_match_size`` characters, else nothing.
    """
    analyzed = _analyze(texts, tokens_of)
    marks = _find_marks(analyzed, terms, phrases, prefixes)
    if not any(marks):
        return _beginning(texts, options)
    if options.number_of_fragments == 0:
        passages = [
            _Passage(i, 0, len(texts[i]), spans) for i, spans in enumerate(map(_merge, marks)) if spans
        ]
        return [_render(texts[passage.value], passage, options) for passage in passages]
    passages = [
        passage
        for i, spans in enumerate(map(_merge, marks))
        for passage in _passages(i, texts[i], analyzed[i], spans, options.fragment_size)
    ]
    scores = _scores(texts, passages)
    best = sorted(range(len(passages)), key=lambda i: -scores[i])[: options.number_of_fragments]
    if options.order == "none":
        best.sort()
    return [_render(texts[passages[i].value], passages[i], options) for i in best]


# From texts to spans.


@dataclass(frozen=True, slots=True)
class _Mark:
    """A token that matched."""

    start: int
    end: int
    term: str


@dataclass(frozen=True, slots=True)
class _Span:
    """Characters to tag, and the matching terms in them."""

    start: int
    end: int
    terms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Passage:
    """A part of the value with this number; its spans lie within."""

    value: int
    start: int
    end: int
    spans: list[_Span]


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _analyze(texts: Sequence[str], tokens_of: TokensOf) -> list[Sequence[Token]]:
    budget = MAX_ANALYZED
    analyzed: list[Sequence[Token]] = []
    for text in texts:
        analyzed.append(tokens_of(text[:budget]) if budget else ())
        budget = max(0, budget - len(text))
    return analyzed


def _find_marks(
    analyzed: list[Sequence[Token]],
    terms: AbstractSet[str],
    phrases: Sequence[Phrase],
    prefixes: AbstractSet[str],
) -> list[list[_Mark]]:
    """The matching tokens of each value."""
    marks: list[list[_Mark]] = [[] for _ in analyzed]
    beginnings = tuple(prefixes)
    occurrences: dict[str, list[tuple[int, int, Token]]] = {
        term: [] for phrase, _ in phrases for term in phrase if term is not None
    }  # term -> position over all values, value, token
    base = 0
    for i, tokens in enumerate(analyzed):
        after = base
        for token in tokens:
            position = base + token.position
            after = max(after, position + 1)
            if token.term in terms or token.term.startswith(beginnings):
                marks[i].append(_Mark(token.start, token.end, token.term))
            if token.term in occurrences:
                occurrences[token.term].append((position, i, token))
        base = after + VALUE_GAP
    for phrase, slop in phrases:
        for i, token in _in_phrase(phrase, slop, occurrences):
            marks[i].append(_Mark(token.start, token.end, token.term))
    return marks


def _in_phrase(
    phrase: tuple[str | None, ...], slop: int, occurrences: dict[str, list[tuple[int, int, Token]]]
) -> list[tuple[int, Token]]:
    """The tokens that take part in some occurrence of the phrase.

    An occurrence gives every term a token of its own so that the positions, each less the term's place in
    the phrase, differ by at most ``slop`` (Lucene's SloppyPhraseMatcher; slop 0 is the exact phrase). So it
    lies in a window that begins at one of these differences.
    """
    slots = [(place, term) for place, term in enumerate(phrase) if term is not None]
    positions = {term: [position for position, _, _ in occurrences[term]] for _, term in slots}
    windows = sorted({position - place for place, term in slots for position in positions[term]})
    taken: dict[tuple[int, int], Token] = {}
    done = [0] * len(slots)  # windows move forward only, so do the occurrences in them
    for window in windows:
        ranges = []
        free: dict[str, int] = {}  # repeated terms need tokens of their own
        for place, term in slots:
            first = bisect_left(positions[term], window + place)
            last = bisect_right(positions[term], window + place + slop)
            own = max(first, free.get(term, 0))
            if own >= last:
                break
            free[term] = own + 1
            ranges.append((first, last))
        if len(ranges) < len(slots):
            continue
        for slot, (first, last) in enumerate(ranges):
            for position, i, token in occurrences[slots[slot][1]][max(first, done[slot]) : last]:
                taken[i, position] = token
            done[slot] = last
    return [(i, token) for (i, _), token in taken.items()]


def _merge(marks: list[_Mark]) -> list[_Span]:
    """Marks in the order of the text, those that overlap or touch as one."""
    spans: list[_Span] = []
    for mark in sorted(set(marks), key=lambda mark: (mark.start, mark.end)):
        if mark.start >= mark.end:
            continue
        if spans and mark.start <= spans[-1].end:
            last = spans[-1]
            spans[-1] = _Span(last.start, max(last.end, mark.end), (*last.terms, mark.term))
        else:
            spans.append(_Span(mark.start, mark.end, (mark.term,)))
    return spans


# From spans to passages.

_SENTENCE_END = re.compile(
    r"""(?<![.!?\u2026])[.!?\u2026]++["'\u201d\u2019\u00bb)\]]*+(\s++)   # with closing quotes and brackets
      | [\u3002\uff01\uff1f]++["'\u201d\u2019\u300f\u300d\uff09]*+\s*+  # full-width, as in Chinese
      | \n[^\S\n]*+\n\s*+                                              # a blank line
    """,
    re.VERBOSE,
)


def _sentence_starts(text: str) -> list[int]:
    """Where sentences begin, ending with the length of the text."""
    starts = [0]
    for match in _SENTENCE_END.finditer(text):
        abbreviation = match[1] and match[1].count("\n") < 2 and text[match.end() : match.end() + 1].islower()
        if not abbreviation:
            starts.append(match.end())
    if starts[-1] != len(text):
        starts.append(len(text))
    return starts


def _passages(
    value: int, text: str, tokens: Sequence[Token], spans: list[_Span], size: int
) -> list[_Passage]:
    """Disjoint passages of about ``size`` characters that hold all spans; each holds at least one."""
    if not spans:
        return []
    sentences = _sentence_starts(text)
    word_starts = {token.start for token in tokens}
    word_ends = {token.end for token in tokens}
    passages = []
    i, floor = 0, 0
    while i < len(spans):
        start, end = _sentences_around(sentences, spans[i], floor, size)
        if size and end - start > size:
            start, end = _cut(text, start, end, spans[i], size, word_starts, word_ends)
        first = i
        while i < len(spans) and spans[i].start < end:
            end = max(end, spans[i].end)
            i += 1
        floor = end
        passages.append(_Passage(value, *_strip(text, start, end, spans[first:i]), spans[first:i]))
    return passages


def _sentences_around(sentences: list[int], span: _Span, floor: int, size: int) -> tuple[int, int]:
    """The sentence of the span, from ``floor`` on, and as many whole ones after it as ``size`` allows."""
    start = max(floor, sentences[bisect_right(sentences, span.start) - 1])
    after = bisect_left(sentences, span.end)
    while after + 1 < len(sentences) and sentences[after + 1] - start <= size:
        after += 1
    return start, sentences[after]


def _cut(
    text: str, start: int, end: int, span: _Span, size: int, word_starts: set[int], word_ends: set[int]
) -> tuple[int, int]:
    """Part of a sentence that is too long: its beginning if the span is there, else what surrounds it."""
    if span.end - start > size:
        around = max(0, size - (span.end - span.start)) // 2
        start = max(start, min(span.start - around, end - size))
        while start < span.start and not (start in word_starts or text[start - 1].isspace()):
            start += 1
    if end - start > size:
        end = max(span.end, start + size)
        while end > span.end and not (end in word_ends or text[end].isspace()):
            end -= 1
    return start, end


def _strip(text: str, start: int, end: int, spans: list[_Span]) -> tuple[int, int]:
    while start < spans[0].start and text[start].isspace():
        start += 1
    while end > spans[-1].end and text[end - 1].isspace():
        end -= 1
    return start, end


def _scores(texts: Sequence[str], passages: list[_Passage]) -> list[float]:
    """How well each passage stands for the document: BM25 in which passages are the documents.

    Lucene's PassageScorer, with its constants: k1 1.2, b 0.75, 87 characters for a typical passage. Earlier
    passages are worth a little more.
    """
    k1, b, pivot = 1.2, 0.75, 87.0
    typical = 1 + sum(map(len, texts)) / pivot
    total = Counter(term for passage in passages for span in passage.spans for term in span.terms)
    before = [0]
    for text in texts:
        before.append(before[-1] + len(text) + 1)
    scores = []
    for passage in passages:
        norm = k1 * (1 - b + b * (passage.end - passage.start) / pivot)
        score = 0.0
        for term, freq in Counter(term for span in passage.spans for term in span.terms).items():
            weight = (k1 + 1) * math.log(1 + (typical + 0.5) / (total[term] + 0.5))
            score += weight * freq / (freq + norm)
        scores.append(score * (1 + 1 / math.log(pivot + before[passage.value] + passage.start)))
    return scores


# From passages to strings.


def _render(text: str, passage: _Passage, options: HighlightOptions) -> str:
    pieces: list[str] = []
    at = passage.start
    for span in passage.spans:
        pieces += (
            _encode(text[at : span.start], options),
            options.pre_tag,
            _encode(text[span.start : span.end], options),
            options.post_tag,
        )
        at = span.end
    pieces.append(_encode(text[at : passage.end], options))
    return "".join(pieces)


def _encode(text: str, options: HighlightOptions) -> str:
    return html.escape(text).replace("/", "&#x2F;") if options.encoder == "html" else text


def _beginning(texts: Sequence[str], options: HighlightOptions) -> list[str]:
    size = options.no_match_size
    text = next((text.strip() for text in texts if text.strip()), "")
    if not size or not text:
        return []
    if len(text) > size:
        end = size
        while end and not text[end].isspace():
            end -= 1
        text = text[: end or size].rstrip()
    return [_encode(text, options)]

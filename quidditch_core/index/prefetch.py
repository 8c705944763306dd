"""What a search will need of segments in the cold tier, fetched in few rounds before it begins.

Round 1: blocks of the dictionaries in which the query's terms are. Round 2: what the terms, filters, sort keys and
aggregations read. Round 3, when the hits are known: their stored documents. Nothing depends on it but time: what is not
fetched here is when a kernel's caller needs it, a request each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from .. import aggs as a
from .. import query as q
from ..analysis import get_analyzer
from ..codec.v1.stored import reader as stored_reader
from ..dsl import SearchRequest
from ..errors import QuidditchError
from ..mapping import BadValue, FieldType, Mapping
from ..segment import DICTIONARY_BLOCK, Segment, address
from ..tiering.remote import fetch as fetch_blobs
from . import postings, store
from .kernels import terms as kernels
from .view import View

WHOLE = 1 << 20
"""Bytes of a dictionary that is fetched whole where many of its terms may be shown."""

REMEMBERED = 16384
"""Queries of a view whose bytes are known to be here."""

Range = tuple[int, int]


class _Wanted:
    """Ranges of sections, by segment."""

    def __init__(self) -> None:
        self._ranges: dict[Segment, list[Range]] = {}

    def add(self, segment: Segment, section: str, ranges: Iterable[Range]) -> None:
        sections = segment.sections
        far = store.far_sections(segment)
        if far is not None and not (isinstance(sections, store.Layered) and section in sections.near):
            self._ranges.setdefault(segment, []).extend(far.in_blob(section, ranges))

    def whole(self, segment: Segment, *sections: str) -> None:
        for section in sections:
            if size := segment.sections.size(section):
                self.add(segment, section, [(0, size)])

    def fetch(self) -> None:
        fetch_blobs([(segment.owner, ranges) for segment, ranges in self._ranges.items()])  # type: ignore[misc]


class _Sought:
    """What a query and its request read: terms and prefixes of fields, and which columns and dictionaries."""

    def __init__(self) -> None:
        self.terms: dict[str, set[bytes]] = {}
        self.phrases: set[str] = set()  # fields whose positions are read
        self.spans: dict[str, list[tuple[bytes | None, bytes | None]]] = {}  # [low, high) of terms
        self.columns: set[str] = set()
        self.exists: set[str] = set()
        self.shown: set[str] = set()  # keyword fields whose terms are shown


def prefetch(query: q.Query, request: SearchRequest | None, view: View) -> None:
    """Rounds 1 and 2 of a search; ``request`` None: of a count. What a view has fetched stays as long as the view."""
    key = None if request is None else (request.sort, request.aggs, request.source.enabled, request.highlight is None)
    try:
        if (query, key) in view.prefetched:
            return
    except TypeError:  # a value that has no hash
        _prefetch(query, request, view)
        return
    _prefetch(query, request, view)
    if len(view.prefetched) >= REMEMBERED:
        view.prefetched.clear()
    view.prefetched.add((query, key))


def _prefetch(query: q.Query, request: SearchRequest | None, view: View) -> None:
    sought = _Sought()
    try:
        _gather(query, view.mapping, sought)
        if request is not None:
            for key in request.sort:
                _column(key.field, view.mapping, sought, shown=True)
            _gather_aggs(request.aggs, view.mapping, sought)
    except (QuidditchError, BadValue):
        return  # the planner says what is wrong
    segments = [leaf.segment for leaf in view.cold]
    blocks = _Wanted()
    for segment in segments:
        _want_dictionary(segment, sought, blocks)
    blocks.fetch()
    rest = _Wanted()
    for segment in segments:
        _want(segment, sought, rest)
        if request is not None and request.size and (request.source.enabled or request.highlight is not None):
            rest.whole(segment, "stored.start", *[name for name in segment.sections.names()
                                                  if name.startswith("stored.dictionary/")])
    rest.fetch()


def prefetch_stored(view: View, leaves: list[int], docs: list[int]) -> None:
    """Round 3: the stored documents of a page."""
    key = tuple(leaves), tuple(docs)
    if key in view.prefetched:
        return
    by_leaf: dict[int, list[int]] = {}
    for leaf, doc in zip(leaves, docs, strict=True):
        by_leaf.setdefault(leaf, []).append(doc)
    wanted = _Wanted()
    for at, mine in by_leaf.items():
        segment = view.leaves[at].segment
        if store.far_sections(segment) is not None:
            wanted.add(segment, "stored", stored_reader(segment).places(mine))
    wanted.fetch()
    view.prefetched.add(key)


# --- what a query reads ------------------------------------------------------------------------------------


def _gather(query: q.Query, mapping: Mapping, sought: _Sought) -> None:
    match query:
        case q.Bool():
            for clause in (*query.must, *query.should, *query.filter, *query.must_not):
                _gather(clause, mapping, sought)
            return
        case q.ConstantScore():
            _gather(query.filter, mapping, sought)
            return
        case q.ScriptScore():
            _gather(query.query, mapping, sought)
            return
        case q.FunctionScore():
            _gather(query.query, mapping, sought)
            for function in query.functions:
                if function.filter is not None:
                    _gather(function.filter, mapping, sought)
            return
        case q.Exists():
            sought.exists.update(name for name in mapping.fields
                                 if name == query.field or name.startswith(f"{query.field}."))
            return
    field = mapping.fields.get(getattr(query, "field", ""))
    if field is None:
        return
    if field.is_numeric:
        sought.columns.add(field.name)
        return
    terms = sought.terms.setdefault(field.name, set())
    match query:
        case q.Match() | q.MatchPhrase():
            terms.update(_words(field, query.text))
            if isinstance(query, q.MatchPhrase):
                sought.phrases.add(field.name)
        case q.Term():
            terms.add(str(field.parse(query.value)).encode())
        case q.Terms():
            terms.update(str(field.parse(value)).encode() for value in query.values)
        case q.Prefix():
            prefix = query.value.encode()
            sought.spans.setdefault(field.name, []).append((prefix, prefix + b"\xff" * 4))
        case q.Range():
            low, high = (next((str(field.parse(bound)).encode() for bound in bounds if bound is not None), None)
                         for bounds in ((query.gte, query.gt), (query.lt, query.lte)))
            sought.spans.setdefault(field.name, []).append((low, high))


def _words(field: FieldType, text: Any) -> list[bytes]:
    if not field.is_text:
        return [str(field.parse(text)).encode()]
    return [term.encode() for term, _ in get_analyzer(field.search_analyzer or "standard").terms(str(text))]


def _column(name: str, mapping: Mapping, sought: _Sought, *, shown: bool) -> None:
    field = mapping.fields.get(name)
    if field is not None and field.column:
        sought.columns.add(name)
        if shown and field.is_keyword:
            sought.shown.add(name)


def _gather_aggs(named: a.Named, mapping: Mapping, sought: _Sought) -> None:
    for _, agg in named:
        name = getattr(agg, "field", None)
        if name is not None:
            _column(name, mapping, sought, shown=True)
            sought.exists.add(name)
        if isinstance(agg, a.Filter):
            _gather(agg.filter, mapping, sought)
        elif isinstance(agg, a.Filters):
            for _, query in agg.filters:
                _gather(query, mapping, sought)
        _gather_aggs(agg.inner, mapping, sought)


# --- where it lies in a segment ----------------------------------------------------------------------------


def _block(segment: Segment, field: str, term: bytes) -> int:
    """The block of the dictionary in which ``term`` would be; -1 if it comes before all."""
    text = np.frombuffer(term + bytes(8), np.uint8)
    block: int = kernels.dictionary_block(segment.descriptor(field).address, address(text), len(term))
    return block


def _indexed(segment: Segment, field: str) -> bool:
    info = segment.fields.get(field)
    return info is not None and info.indexed and info.terms > 0


def _want_dictionary(segment: Segment, sought: _Sought, wanted: _Wanted) -> None:
    for field, terms in sought.terms.items():
        if not _indexed(segment, field):
            continue
        for term in terms:
            if (field, term) not in segment.cache and (block := _block(segment, field, term)) >= 0:
                wanted.add(segment, f"terms/{field}", [_blocks(segment, field, block, block + 1)])
    for field, spans in sought.spans.items():
        if not _indexed(segment, field):
            continue
        count = -(-segment.fields[field].terms // DICTIONARY_BLOCK)
        for low, high in spans:
            first = 0 if low is None else max(0, _block(segment, field, low))
            last = count - 1 if high is None else _block(segment, field, high)
            if first <= last:
                wanted.add(segment, f"terms/{field}", [_blocks(segment, field, first, last + 1)])


def _blocks(segment: Segment, field: str, start: int, stop: int) -> Range:
    """Where blocks start .. stop - 1 lie in the dictionary."""
    sparse = segment.array(f"terms.sparse/{field}", np.uint64)
    begin = int(sparse[start])
    end = int(sparse[stop]) if stop < sparse.size else segment.sections.size(f"terms/{field}")
    return begin, end - begin


def _want(segment: Segment, sought: _Sought, wanted: _Wanted) -> None:
    for field, terms in sought.terms.items():
        if not _indexed(segment, field):
            continue
        for term in terms:
            info = postings.find(segment, field, term)
            if info is not None:
                for section, start, length in postings.ranges(segment, field, info,
                                                              positions=field in sought.phrases):
                    wanted.add(segment, section, [(start, length)])
    for field, spans in sought.spans.items():
        if not _indexed(segment, field):
            continue
        for low, high in spans:
            start = 0 if low is None else postings.rank(segment, field, low)
            stop = segment.fields[field].terms if high is None else postings.rank(segment, field, high) + 1
            for section, begin, length in _span(segment, field, start, min(stop, segment.fields[field].terms)):
                wanted.add(segment, section, [(begin, length)])
    for field in sought.columns:
        wanted.whole(segment, f"column/{field}", f"column.start/{field}", f"exists/{field}")
    for field in sought.exists:
        wanted.whole(segment, f"exists/{field}")
    for field in sought.shown:
        if segment.sections.size(f"terms/{field}") <= WHOLE:
            wanted.whole(segment, f"terms/{field}")


def _span(segment: Segment, field: str, start: int, stop: int) -> Iterator[tuple[str, int, int]]:
    """Where the postings of terms start .. stop - 1 are."""
    if start >= stop:
        return
    rows = postings.read_terms(segment, field, start, stop)[2]
    yield from postings.ranges_of(segment, field, rows)

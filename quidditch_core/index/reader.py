"""A point in time: searches that all see the same documents, whatever is written meanwhile."""

from __future__ import annotations

import os
import time
from functools import lru_cache
from types import TracebackType
from typing import Any

import msgspec

from .. import query as q
from ..codec.v1.stored import reader as stored_reader
from ..dsl import SearchRequest, parse_aggs, parse_body, parse_highlight, parse_query, parse_sort, parse_source
from ..errors import IndexClosedError, NotFoundError, QueryError
from ..result import Document, Explanation, Hit, Profile, SearchResult, Total
from ..segment import Segment, mask_of
from . import ids
from .best import Work, last_work, prepared
from .collect import BestPage, Page, by_score, collect, collect_best, count_all
from .fetch import fetch
from .plan import plan
from .view import View


class SegmentInfo(msgspec.Struct, frozen=True):
    """One segment of an index: ``docs`` that live, ``deleted`` ones, ``bytes``, its ``tier``, and whether it is
    still ``in_memory``."""

    name: str
    docs: int
    deleted: int
    bytes: int
    tier: str
    in_memory: bool


class Reader:
    """Searches one view of an index. A context manager; safe to use from many threads.

    Made by ``Index.reader()``. Holding one costs the memory and disk of segments that are merged away
    meanwhile.
    """

    def __init__(self, view: View) -> None:
        self._view: View | None = view
        self._process = os.getpid()

    @property
    def view(self) -> View:
        """The view, or IndexClosedError after close."""
        view = self._view  # once: close() may come from another thread
        if view is None:
            raise IndexClosedError("the reader is closed", fix="make another with index.reader()")
        if self._process != os.getpid():
            raise IndexClosedError("the reader was made before this process was forked",
                                   fix="open the index after the fork, or start processes by 'spawn'")
        return view

    def search(
        self, query_or_body: q.Query | dict[str, Any] | None = None, *, size: int | None = None,
        from_: int | None = None, sort: Any = None, aggs: Any = None, source: Any = None, highlight: Any = None,
        track_total_hits: bool | int | None = None, profile: bool | None = None,
    ) -> SearchResult:
        """Search with a query object or an OpenSearch request body; keywords replace what the body says.

        ``sort``: one key or a list of ``"field"``, ``"-field"``, ``"_score"``, ``"_doc"`` or OpenSearch's dicts.
        ``source``: True, False, a pattern, a list of patterns or ``{"includes", "excludes"}``. ``highlight``:
        OpenSearch's form. ``track_total_hits``: True counts exactly, False not at all, a number up to there.
        ``profile``: the result says how it was found. ``aggs``: a dict of names and aggregations, as objects or in
        OpenSearch's form.

        Raises QueryError (with the JSON path), UnsupportedError.
        """
        started = time.perf_counter()
        view = self.view
        if (isinstance(query_or_body, q.Query) and sort is None and aggs is None and highlight is None
                and profile is None and type(size) in _PLAIN and type(from_) in _PLAIN and type(source) in _PLAIN
                and type(track_total_hits) in _PLAIN):
            query = query_or_body
            request = _form(size, from_, source, track_total_hits)
        else:
            request = _request(query_or_body, size, from_, track_total_hits, sort, source, highlight, profile, aggs)
            query = request.query
        window = view.settings.max_result_window
        if request.from_ + request.size > window:
            raise QueryError("the page ends beyond the result window", path="size", found=request.from_ + request.size,
                             expected=f"from + size of at most {window}", fix="raise index.max_result_window")
        page: Page | BestPage | None = None
        aggregated = None
        if request.aggs:
            from .aggregate import aggregate

            aggregated, found = aggregate(request.aggs, plan(query, view), view)
            if not request.size:
                page = Page([], found, None)
        ready = prepared(query, view) if page is None and by_score(request) else None
        planned = time.perf_counter()
        if ready is not None:
            page = collect_best(ready, view, request)
        pruned = page is not None and ready is not None
        if page is None:
            bound = plan(query, view)
            planned = time.perf_counter()
            page = collect(bound, view, request)
        searched = time.perf_counter()
        total = None if request.track_total_hits is False else _total(page.found, request.track_total_hits)
        if request.source.enabled or request.highlight is not None:
            hits = fetch(page.rows, view, request)
            result = SearchResult(total, hits, None if request.sort else page.max_score, 0.0, None, view.name)
        else:
            result = SearchResult(total, _LaterHits(page, view, request), None, 0.0, None, view.name)
        result.aggs = aggregated
        if request.highlight is not None:
            result.pre_tag, result.post_tag = request.highlight.options.pre_tag, request.highlight.options.post_tag
        finished = time.perf_counter()
        result.took_ms = (finished - started) * 1000
        view.latency.observe(finished - started)
        if request.profile:
            times = ((planned - started) * 1000, (searched - planned) * 1000, (finished - searched) * 1000)
            result.profile = _profile(view, last_work() if pruned and request.size else None,
                                      "exhaustive" if isinstance(page, BestPage) else page.path,
                                      None if request.track_total_hits is False else page.found, times)
        return result

    def count(self, query: q.Query | dict[str, Any] | None = None) -> int:
        """How many documents match, exactly. ``query``: an object, a clause, or ``{"query": clause}``."""
        started = time.perf_counter()
        view = self.view
        asked = query if isinstance(query, q.Query) else _query(query)
        ready = prepared(asked, view)
        found = ready.number() if ready is not None else None
        if found is None:
            found = count_all(plan(asked, view), view)
        view.latency.observe(time.perf_counter() - started)
        return found

    def explain(self, query: q.Query | dict[str, Any], id: str) -> Explanation:
        """Why the document ``id`` scores what it scores. NotFoundError if it is not there."""
        from .explain import explain

        view = self.view
        bound = plan(_query(query), view)
        found = _find(view, id)
        if found is None:
            raise NotFoundError("no such document", path=id, fix="check the id, or refresh after writing")
        return explain(bound, view, *found)

    def get(self, id: str) -> Document | None:
        """The document ``id`` as this reader sees it; None if it is not there."""
        from .builder import NUMBERS

        found = _find(self.view, id)
        if found is None:
            return None
        segment, doc = found
        seq_no, version, term = (int(segment.ints(name, segment.docs)[doc]) for name in NUMBERS)
        return Document(id, stored_reader(segment).read(doc), seq_no, version, term)

    def segments(self) -> list[SegmentInfo]:
        """The segments in the order that breaks ties."""
        return [SegmentInfo(leaf.segment.key, leaf.live_docs, leaf.segment.docs - leaf.live_docs, leaf.bytes, leaf.tier,
                            leaf.in_memory)
                for leaf in self.view.leaves]

    def layout(self) -> list[list[tuple[str, int, bool]]]:
        """For each segment, each document's (id, seq_no, whether it lives), in the order that breaks ties."""
        return [
            [(leaf.segment.text(id), seq_no, live) for id, seq_no, live in zip(
                ids.all_ids(leaf.segment), leaf.segment.ints("seq_no", leaf.segment.docs).tolist(),
                mask_of(leaf.accepted, leaf.segment.docs).tolist(), strict=True)]
            for leaf in self.view.leaves]

    def close(self) -> None:
        """Let the view go; closing twice is allowed."""
        self._view = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        self.close()


def _profile(
    view: View, work: Work | None, path: str, found: int | None, times: tuple[float, float, float],
) -> Profile:
    ranges = sum(-(-leaf.segment.docs // 256) for leaf in view.leaves)
    if work is None:
        return Profile(path, len(view.leaves), ranges, None, None, None, found, *times)
    return Profile(work.path, len(view.leaves), ranges, work.blocks, work.postings, work.ranges, found, *times)


_PLAIN = {int, bool, type(None)}


@lru_cache(maxsize=256, typed=True)
def _form(size: int | None, from_: int | None, source: bool | None, track: bool | int | None) -> SearchRequest:
    """The request for any query, where nothing but numbers is asked for: most searches ask for the same."""
    return _request(None, size, from_, track, None, source, None)


def _request(
    query_or_body: q.Query | dict[str, Any] | None, size: int | None, from_: int | None, track: bool | int | None,
    sort: Any, source: Any, highlight: Any, profile: bool | None = None, aggs: Any = None,
) -> SearchRequest:
    changes: dict[str, Any] = {
        name: value for name, value in (
            ("size", size), ("from_", from_), ("track_total_hits", track), ("profile", profile)) if value is not None}
    if sort is not None:
        changes["sort"] = parse_sort(sort)
    if source is not None:
        changes["source"] = parse_source(source)
    if highlight is not None:
        changes["highlight"] = parse_highlight(highlight)
    if aggs is not None:
        changes["aggs"] = parse_aggs(aggs)
    if query_or_body is None:
        return SearchRequest(**changes)
    if isinstance(query_or_body, q.Query):
        return SearchRequest(query_or_body, **changes)
    request = parse_body(query_or_body)
    return msgspec.structs.replace(request, **changes) if changes else request


def _query(query: q.Query | dict[str, Any] | None) -> q.Query:
    if query is None:
        return q.MatchAll()
    if isinstance(query, dict) and list(query) == ["query"]:
        return parse_query(query["query"])
    return parse_query(query)


class _LaterHits:
    """The hits of a page without sources, made when someone looks at them."""

    __slots__ = ("_page", "_request", "_view")

    def __init__(self, page: Page | BestPage, view: View, request: SearchRequest) -> None:
        self._page, self._view, self._request = page, view, request

    def __len__(self) -> int:
        return len(self._page)

    @property
    def max_score(self) -> float | None:
        return None if self._request.sort else self._page.max_score

    def make(self) -> list[Hit]:
        return fetch(self._page.rows, self._view, self._request)


def _total(found: int, track: bool | int) -> Total:
    if track is True or found <= track:
        return Total(found)
    return Total(int(track), "gte")


def _find(view: View, id: str) -> tuple[Segment, int] | None:
    key = ids.id_bytes(id)
    hash = ids.id_hash(key)
    for leaf in reversed(view.leaves):
        for doc in ids.find(leaf.segment, key, hash):
            if int(leaf.accepted[doc >> 6]) >> (doc & 63) & 1:
                return leaf.segment, doc
    return None

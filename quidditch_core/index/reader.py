"""A point in time: searches that all see the same documents, whatever is written meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import TracebackType
from typing import Any

import msgspec

from .. import query as q
from ..codec.v1.stored import reader as stored_reader
from ..dsl import SearchRequest, parse_aggs, parse_body, parse_highlight, parse_query, parse_sort, parse_source
from ..errors import IndexClosedError, NotFoundError, QueryError, StoreError
from ..result import Document, Explanation, Profile, SearchResult, Total
from ..segment import Segment, mask_of
from . import ids, process
from .best import Ready, prepared
from .collect import by_score, collect, collect_best, count_all
from .execute import granules_of
from .page import BestPage, Page
from .plan import Plan, plan
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

    def __init__(self, view: View, renewed: Callable[[], View] | None = None) -> None:
        self._view: View | None = view
        self._renewed = renewed  # how to get a view of the same documents with less in memory
        self._process = process.number

    @property
    def view(self) -> View:
        """The view, or IndexClosedError after close."""
        view = self._view  # once: close() may come from another thread
        if view is None:
            raise IndexClosedError("the reader is closed", fix="make another with index.reader()")
        if self._process != process.number:
            raise IndexClosedError("the reader was made before this process was forked",
                                   fix="open the index after the fork, or start processes by 'spawn'")
        return view

    def search(
        self, query_or_body: q.Query | dict[str, Any] | None = None, *, size: int | None = None,
        from_: int | None = None, sort: Any = None, aggs: Any = None, source: Any = None, highlight: Any = None,
        track_total_hits: bool | int | None = None, profile: bool | None = None, tiers: Sequence[str] | None = None,
        allow_partial_search_results: bool | None = None,
    ) -> SearchResult:
        """Search with a query object or an OpenSearch request body; keywords replace what the body says.

        ``sort``: one key or a list of ``"field"``, ``"-field"``, ``"_score"``, ``"_doc"`` or OpenSearch's dicts.
        ``source``: True, False, a pattern, a list of patterns or ``{"includes", "excludes"}``. ``highlight``:
        OpenSearch's form. ``track_total_hits``: True counts exactly, False not at all, a number up to there.
        ``profile``: the result says how it was found. ``aggs``: a dict of names and aggregations, as objects or in
        OpenSearch's form. ``tiers``: only segments in these. ``allow_partial_search_results``: where the cold tier
        cannot be reached, the result is of the rest, and ``unreached`` names what is missing.

        Raises QueryError (with the JSON path), UnsupportedError, StoreError.
        """
        return self._search(query_or_body, size, from_, sort, aggs, source, highlight, track_total_hits, profile,
                            tiers, allow_partial_search_results)

    def _search(
        self, query_or_body: q.Query | dict[str, Any] | None, size: int | None, from_: int | None, sort: Any, aggs: Any,
        source: Any, highlight: Any, track_total_hits: bool | int | None, profile: bool | None,
        tiers: Sequence[str] | None = None, partial: bool | None = None,
    ) -> SearchResult:
        started = time.perf_counter()
        view = self._view
        if view is None or self._process != process.number:
            view = self.view
        query, request = _asked(query_or_body, size, from_, sort, aggs, source, highlight, track_total_hits, profile)
        if tiers is not None or partial is not None:
            request = msgspec.structs.replace(request, tiers=request.tiers if tiers is None else tiers,
                                              partial=request.partial if partial is None else partial)
        if not view.cold and not request.tiers:
            view.used = started
            return self._run(view, query, request, started)
        return self._run_cold(view, query, request, started)

    def _run_cold(self, view: View, query: q.Query, request: SearchRequest, started: float) -> SearchResult:
        """`_run` over tiers that may not answer."""
        from .prefetch import prefetch

        if view.stale:
            view = self._thinned(view)
        wanted = request.tiers
        if wanted:
            view = view.narrowed(lambda leaf: leaf.tier in wanted)
        unreached: list[tuple[str, str]] = []
        while True:
            view.used = started
            try:
                if view.cold:
                    prefetch(query, request, view)
                result = self._run(view, query, request, started)
            except StoreError as error:
                lost = {leaf.segment.key for leaf in view.cold}.intersection(error.blobs)
                if not request.partial or not lost:
                    raise
                unreached += [(name, error.message) for name in sorted(lost)]
                view = view.narrowed(lambda leaf, lost=lost: leaf.segment.key not in lost)  # type: ignore[misc]
                continue
            result.unreached = unreached
            return result

    def _thinned(self, view: View) -> View:
        """The same view, without what the memory has no room for."""
        if self._renewed is not None:
            return self._renewed()
        from .store import fresh

        made = view.with_segments(fresh)
        if self._view is view:
            self._view = made
        return made

    def _run(self, view: View, query: q.Query, request: SearchRequest, started: float) -> SearchResult:
        if request.from_ + request.size > view.settings.max_result_window:
            raise QueryError("the page ends beyond the result window", path="size", found=request.from_ + request.size,
                             expected=f"from + size of at most {view.settings.max_result_window}",
                             fix="raise index.max_result_window")
        track, highlight, profiled = request.track_total_hits, request.highlight, request.profile
        page: Page | BestPage | None = None
        ready: Ready | Plan | None = None
        aggregated = None
        if request.aggs:
            from .aggregate import aggregate

            ready = plan(query, view)
            aggregated, found = aggregate(request.aggs, ready, view)
            if not request.size:
                page = Page([], found, None, view, request)
        if page is None:
            ready = prepared(query, view) if not request.sort or by_score(request) else ready or plan(query, view)
        planned = time.perf_counter() if profiled else 0.0
        if page is None and not isinstance(ready, Plan):
            assert ready is not None
            page = collect_best(ready, view, request)
            if page is None:
                ready = plan(query, view)
        if page is None:
            assert isinstance(ready, Plan)
            page = collect(ready, view, request)
        searched = time.perf_counter() if profiled else 0.0
        total = None if track is False else _total(page.found, track)
        if highlight is not None or request.source.enabled:
            result = SearchResult(total, page.make(), page.max_score, 0.0, aggregated, view.name)
        else:
            result = SearchResult(total, page, None, 0.0, aggregated, view.name)
        if highlight is not None:
            result.pre_tag, result.post_tag = highlight.options.pre_tag, highlight.options.post_tag
        finished = time.perf_counter()
        result.took_ms = (finished - started) * 1000
        view.latency.observe(finished - started)
        if profiled:
            times = ((planned - started) * 1000, (searched - planned) * 1000, (finished - searched) * 1000)
            counted = None if track is False else page.found
            result.profile = _profile(page, counted, times, granules_of(plan(query, view), view))
        return result

    def count(self, query: q.Query | dict[str, Any] | None = None) -> int:
        """How many documents match, exactly. ``query``: an object, a clause, or ``{"query": clause}``."""
        started = time.perf_counter()
        view = self._view
        if view is None or self._process != process.number:
            view = self.view
        if view.cold:
            from .prefetch import prefetch

            view = self._thinned(view) if view.stale else view
            prefetch(_query(query), None, view)
        ready = prepared(query if isinstance(query, q.Query) else _query(query), view)
        found = None if isinstance(ready, Plan) else ready.number()
        if found is None:
            found = count_all(ready if isinstance(ready, Plan) else plan(_query(query), view), view)
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
        seq_no, version, term = (segment.rising(name, segment.docs).at(doc) for name in NUMBERS)
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
    page: Page | BestPage, found: int | None, times: tuple[float, float, float], granules: tuple[int, int] | None,
) -> Profile:
    leaves = page.view.leaves
    ranges = sum(-(-leaf.segment.docs // 256) for leaf in leaves)
    path, read = page.path or "exhaustive", granules or (None, None)
    if isinstance(page, BestPage) and page.request.size:
        return Profile(path, len(leaves), ranges, *page.best.work, found, *times, *read)
    return Profile(path, len(leaves), ranges, None, None, None, found, *times, *read)


def _asked(
    query_or_body: q.Query | dict[str, Any] | None, size: int | None, from_: int | None, sort: Any, aggs: Any,
    source: Any, highlight: Any, track: bool | int | None, profile: bool | None,
) -> tuple[q.Query, SearchRequest]:
    """The query and the rest of what a search is asked for."""
    if sort is None and aggs is None and highlight is None and profile is None:
        if isinstance(query_or_body, q.Query):
            try:
                return query_or_body, _form(size, from_, source, track)
            except TypeError:  # a list or dict as source
                pass
        elif (type(query_or_body) is dict and size is None and from_ is None and source is None and track is None):
            request = _read(query_or_body)
            return request.query, request
    request = _request(query_or_body, size, from_, track, sort, source, highlight, profile, aggs)
    return request.query, request


@lru_cache(maxsize=256, typed=True)
def _form(size: int | None, from_: int | None, source: Any, track: bool | int | None) -> SearchRequest:
    """The request for any query, where nothing but numbers is asked for: most searches ask for the same."""
    return _request(None, size, from_, track, None, source, None)


_bodies: dict[bytes, tuple[dict[str, Any], SearchRequest]] = {}
"""The last short bodies of requests and what was made of them, by their bytes."""
_BODIES, _SHORT = 1024, 2048


def _read(body: dict[str, Any]) -> SearchRequest:
    """The request of a body. One that was read before is not read again."""
    try:
        key = _encoded(body)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return parse_body(body)
    known = _bodies.get(key)
    # The bytes tell 1 from True, which are equal, and being equal tells a date from a text.
    if known is not None and known[0] == body:
        return known[1]
    request = parse_body(body)
    if len(key) <= _SHORT:
        if len(_bodies) >= _BODIES:
            _bodies.clear()
        _bodies[key] = msgspec.msgpack.decode(key), request
    return request


_encoded = msgspec.msgpack.Encoder().encode


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

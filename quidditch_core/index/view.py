"""Which segments you see: an immutable list of them with their live masks, and the statistics over all."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from .. import metrics
from ..config import Settings
from ..mapping import Mapping
from ..query import Query
from ..segment import Segment, bit_count, full_bitmap
from . import bm25, postings, profiles
from .postings import find

_CACHED = 16384
"""Terms, and queries, that a view remembers."""
_PREPARED = 64 << 20
"""Bytes of descriptors and bitmaps that remembered queries may hold."""


class BoundTerm(NamedTuple):
    """A term's clause for the kernels in each segment, None where the term is not; and what the clauses refer to."""

    clauses: list[bytes | None]
    keep: list[object]


@dataclass(frozen=True, eq=False)
class Leaf:
    """One segment of a view; ``live`` is the bitmap of its documents that are not deleted (None: all live)."""

    segment: Segment
    live: NDArray[np.uint64] | None = None
    tier: str = "hot"
    bytes: int = 0
    in_memory: bool = False  # refreshed, and not flushed yet

    @cached_property
    def live_docs(self) -> int:
        return self.segment.docs if self.live is None else bit_count(self.live)

    @cached_property
    def accepted(self) -> NDArray[np.uint64]:
        """Bitmap of the live documents."""
        return full_bitmap(self.segment.docs) if self.live is None else self.live


class FieldStatistics(msgspec.Struct, frozen=True):
    """What BM25 needs of a field, summed over a view; deleted documents count until they are merged away."""

    doc_count: int
    sum_ttf: int
    factors: NDArray[np.float32]

    @property
    def average_length(self) -> np.float32:
        return bm25.average_length(self.sum_ttf, self.doc_count)


class View:
    """The state of an index at one refresh. Immutable: searches of one view always agree."""

    def __init__(self, leaves: Sequence[Leaf], mapping: Mapping, settings: Settings, name: str) -> None:
        self.leaves = tuple(leaves)
        self.bases = [0, *itertools.accumulate(leaf.segment.docs for leaf in leaves)]
        self.mapping = mapping
        self.settings = settings
        self.name = name
        self.latency: metrics.Histogram = metrics.LATENCY.labels(name)
        self._statistics: dict[str, FieldStatistics] = {}
        self._bound: dict[tuple[str, bytes, bool], BoundTerm] = {}
        self.plans: dict[tuple[str, bytes], Any] = {}  # what the planner made of single terms
        self.prepared: dict[Query, Any] = {}  # what ``best`` made of queries
        self._prepared_bytes = 0
        self.evictions = profiles.BUDGET.evictions
        """Profiles that had been evicted when this view last looked."""
        self.cold = tuple([leaf for leaf in self.leaves if leaf.tier == "cold"])
        self.prefetched: set[Any] = set()  # queries whose bytes of the cold tier are here
        self.used = 0.0  # when it was searched last, of perf_counter
        self._narrowed: dict[tuple[int, ...], View] = {}

    def narrowed(self, keep: Callable[[Leaf], bool]) -> View:
        """The view of some of the segments, as if there were no others."""
        kept = tuple([at for at, leaf in enumerate(self.leaves) if keep(leaf)])
        if len(kept) == len(self.leaves):
            return self
        known = self._narrowed.get(kept)
        if known is None:
            leaves = [self.leaves[at] for at in kept]
            known = self._narrowed[kept] = View(leaves, self.mapping, self.settings, self.name)
        return known

    def note_use(self) -> None:
        """Note in the segments when they were searched last."""
        for view in (self, *list(self._narrowed.values())):
            for leaf in view.leaves:
                leaf.segment.cache["used"] = max(view.used, leaf.segment.cache.get("used", 0.0))

    def with_segments(self, change: Callable[[Segment], Segment]) -> View:
        """The same view over other segments of the same documents."""
        leaves = [Leaf(change(leaf.segment), leaf.live, leaf.tier, leaf.bytes, leaf.in_memory) for leaf in self.leaves]
        return View(leaves, self.mapping, self.settings, self.name)

    @property
    def stale(self) -> bool:
        """Whether blobs of segments were retired to free memory."""
        return any(getattr(leaf.segment.owner, "retired", False) for leaf in self.cold)

    @property
    def live_docs(self) -> int:
        return sum(leaf.live_docs for leaf in self.leaves)

    @cached_property
    def has_deletions(self) -> bool:
        """Whether any segment has a live mask."""
        return any(leaf.live is not None for leaf in self.leaves)

    def statistics(self, field: str) -> FieldStatistics:
        found = self._statistics.get(field)
        if found is None:
            infos = [leaf.segment.fields[field] for leaf in self.leaves if field in leaf.segment.fields]
            doc_count, sum_ttf = sum(info.doc_count for info in infos), sum(info.sum_ttf for info in infos)
            found = FieldStatistics(doc_count, sum_ttf, bm25.factors(bm25.average_length(sum_ttf, doc_count)))
            self._statistics[field] = found
        return found

    def document_frequency(self, field: str, term: bytes) -> int:
        """Documents that hold ``term``, over all segments."""
        infos = (find(leaf.segment, field, term) for leaf in self.leaves)
        return sum(info.df for info in infos if info is not None)

    def bound(self, field: str, term: bytes, *, positions: bool = False) -> BoundTerm:
        """``term`` as the kernels of ``best`` read it in each segment."""
        if self.evictions != profiles.BUDGET.evictions or len(self._bound) >= _CACHED:
            self.let_go()
        known = self._bound.get((field, term, positions))
        if known is not None:
            return known
        statistics = self.statistics(field)
        factors, length = statistics.factors, statistics.average_length
        weight = bm25.idf(self.document_frequency(field, term), statistics.doc_count)
        clauses: list[bytes | None] = []
        keep: list[object] = []
        for leaf in self.leaves:
            segment = leaf.segment
            info = find(segment, field, term)
            if info is None:
                clauses.append(None)
                continue
            postings.need(segment, field, info, positions=positions)
            dead = segment.docs - leaf.live_docs
            profile = profiles.profile_of(segment, field, term, info, factors, length, leaf.live, dead)
            clause, used = profiles.clause_of(segment, field, info, weight, factors, length, profile, dead)
            clauses.append(clause)
            keep.append(used)
        bound = self._bound[(field, term, positions)] = BoundTerm(clauses, keep)
        return bound

    def remember(self, query: Query, made: Any, size: int) -> None:
        """Keep what was made of a query, which holds ``size`` bytes."""
        self.prepared[query] = made
        self._prepared_bytes += size
        if len(self.prepared) >= _CACHED or self._prepared_bytes > _PREPARED:
            self.let_go()

    def let_go(self) -> None:
        """Forget what refers to profiles: some were evicted, or it is much."""
        self.evictions = profiles.BUDGET.evictions
        self._bound, self.prepared, self._prepared_bytes = {}, {}, 0

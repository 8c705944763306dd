"""A segment as the writer sees it: what is immutable of it, and the deletes that are on their way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..segment import Segment, bit_count, docs_of, full_bitmap
from .builder import Builder
from .manifest import SegmentEntry
from .merge import Source

Bitmap = NDArray[np.uint64]


class Version(NamedTuple):
    """The newest operation on an id: its numbers, and where the document is (None: deleted)."""

    seq_no: int
    version: int
    primary_term: int
    place: tuple[Holding, int] | None


@dataclass(eq=False)
class Holding:
    """A segment, or the buffer that will become one.

    A document is deleted in three steps: an operation puts it into ``deletes``, a refresh takes it out of
    ``live``, a flush writes that mask, which then is ``committed``. Masks are never changed, only replaced, so
    views and jobs keep the ones they began with. ``entry`` is the segment's place in the manifest (None: in
    memory only); ``visible`` says that a refresh has shown it.
    """

    segment: Segment | None = None
    builder: Builder | None = None
    entry: SegmentEntry | None = None
    live: Bitmap | None = None
    committed: Bitmap | None = None
    deletes: set[int] = field(default_factory=set)
    visible: bool = False
    busy: bool = False  # a flush or merge is rewriting it

    def is_live(self, doc: int) -> bool:
        """Whether the newest operation on the document left it alive."""
        if doc in self.deletes:
            return False
        return self.live is None or bool(int(self.live[doc >> 6]) >> (doc & 63) & 1)

    def apply_deletes(self) -> None:
        """Take the deletes into a new live mask."""
        if self.deletes:
            self.live = self._without(self.deletes)
            self.deletes = set()

    def _without(self, docs: set[int]) -> Bitmap:
        assert self.segment is not None
        live = full_bitmap(self.segment.docs) if self.live is None else self.live.copy()
        gone = np.fromiter(docs, np.int64, len(docs))
        np.bitwise_and.at(live, gone >> 6, ~(np.uint64(1) << (gone & 63).astype(np.uint64)))
        return live

    def hand_over(self, heir: Holding, since: Bitmap | None, numbers: NDArray[np.int32]) -> None:
        """Delete in ``heir`` what was deleted here since the mask ``since``, from which it was merged.

        ``numbers`` int32 [docs] gives each document's number in ``heir``, -1 where ``since`` had it deleted.
        """
        assert self.segment is not None
        if self.live is not since and self.live is not None:
            before = full_bitmap(self.segment.docs) if since is None else since
            gone = numbers[docs_of(before & ~self.live, self.segment.docs)]
            if gone.size:
                heir.live = heir._without(set(gone.tolist()))
        heir.deletes |= {int(numbers[doc]) for doc in self.deletes if numbers[doc] >= 0}

    @property
    def live_docs(self) -> int:
        """Documents that the last refresh left alive."""
        assert self.segment is not None
        return self.segment.docs if self.live is None else bit_count(self.live)

    @property
    def bytes(self) -> int:
        if self.entry is not None:
            return self.entry.size
        return self.segment.size if self.segment is not None else 0

    def source(self, live: Bitmap | None) -> Source:
        assert self.segment is not None
        return Source(self.segment, live)

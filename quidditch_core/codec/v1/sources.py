"""The stored documents of a segment to come, compressed as they come.

They wait as they are until there are enough for a dictionary. Then it is trained, and from there on what waits is
compressed every few megabytes, by another thread if there may be several, so that it takes a third of the memory and is
not compressed when it is written.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ...segment import RamSections
from .stored import (
    BATCH,
    SAMPLED,
    Dictionary,
    Documents,
    Encoded,
    Frames,
    Learned,
    StoredCodec,
    gather,
    joined,
    suits,
    train,
    write_raw,
)

if TYPE_CHECKING:
    from concurrent.futures import Future

JOINED = 256 << 10
"""Bytes of single documents that become one piece of memory: many small ones would leave holes."""
JOBS = 4
"""Batches that other threads compress before this one does the next."""
OBJECT = 40
"""Bytes that a document takes beside its own while it is single."""


class _Part(NamedTuple):
    documents: Documents
    stop: int  # the document after the last


def _batches(parts: list[_Part]) -> Iterator[list[_Part]]:
    """The parts in order, some at a time."""
    while parts:
        end = size = 0
        while end < len(parts) and size < BATCH:
            size += len(parts[end].documents.data)
            end += 1
        yield parts[:end]
        parts = parts[end:]


def _first(batch: list[_Part]) -> int:
    return batch[0].stop - batch[0].documents.ends.size


class _Job(NamedTuple):
    """Documents that are compressed, perhaps not yet."""

    stop: int  # the document after the last
    made: Encoded | Future[Encoded]


class Sources:
    """Documents in order, compressed if there is a ``codec``, with the dictionary that ``known`` gives if it suits.

    An interrupt may break any method off; :meth:`undo` then puts right what was added. ``begin`` has another thread do
    something; it is used if there may be several ``threads``.
    """

    def __init__(
        self, codec: StoredCodec | None, threads: int, begin: Callable[..., Future[Any]],
        known: Callable[[], Learned | None] = lambda: None,
    ) -> None:
        self._codec, self._threads, self._begin, self._known = codec, threads, begin, known
        self._frames: Frames | None = None
        self._jobs: list[_Job] = []
        self._parts: list[_Part] = []  # perhaps framed already, if an interrupt came between
        self._single: list[bytes] = []  # documents behind those of the parts
        self._single_bytes = 0

    @property
    def memory(self) -> int:
        """Bytes held, and what :meth:`write` will take beside them."""
        single = self._single_bytes + OBJECT * len(self._single)
        return single + 2 * self._waiting + (0 if self._frames is None else self._frames.memory)

    @property
    def _waiting(self) -> int:
        return sum(len(part.documents.data) for part in self._parts)

    @property
    def _docs(self) -> int:
        """Documents in frames and parts."""
        return self._parts[-1].stop if self._parts else 0 if self._frames is None else self._frames.docs

    def add(self, source: bytes) -> None:
        if self._single_bytes >= JOINED:
            self._join()
        self._single.append(source)
        self._single_bytes += len(source)

    def extend(self, sources: Sequence[bytes]) -> None:
        self._join()
        self._parts.append(self._part(sources))

    def _part(self, sources: Sequence[bytes]) -> _Part:
        return _Part(gather(sources), self._docs + len(sources))

    def _join(self) -> None:
        if self._single:
            # One step, so that an interrupt comes before or after it.
            self._parts, self._single, self._single_bytes = [*self._parts, self._part(self._single)], [], 0

    def undo(self, docs: int) -> None:
        """Forget what was added last, all but the first ``docs``."""
        self._parts = [part for part in self._parts if part.stop <= docs]
        del self._single[max(0, docs - self._docs) :]
        self._single_bytes = sum(map(len, self._single))

    def read(self, doc: int) -> bytes:
        if self._frames is not None and doc < self._frames.docs:
            return self._frames.read(doc)
        if doc >= self._docs:
            return self._single[doc - self._docs]
        (data, ends), stop = self._parts[bisect_right(self._parts, doc, key=lambda part: part.stop)]
        at = doc - stop + ends.size
        return bytes(data[int(ends[at - 1]) if at else 0 : int(ends[at])])

    def settle(self, *, last: bool = False) -> None:
        """Compress what waits if it is worth it, or the ``last``. While others are busy with more, this thread does."""
        self._take(all_=False)
        given = self._jobs[-1].stop if self._jobs else 0
        parts = [part for part in self._parts if part.stop > given]
        waiting = sum(len(part.documents.data) for part in parts)
        if self._codec is None or waiting < (SAMPLED if self._frames is None else 1 if last else BATCH):
            return
        if self._frames is None:
            self._frames = Frames(self._codec, self._dictionary(self._codec, parts, waiting), max(1, self._threads - 1))
        for batch in _batches(parts):
            documents, first = joined([part.documents for part in batch]), _first(batch)
            made = (self._begin(self._frames.encode, documents, first) if self._threads > 1 and len(self._jobs) < JOBS
                    else self._frames.encode(documents, first))
            self._jobs.append(_Job(batch[-1].stop, made))
        self._take(all_=False)

    def _take(self, *, all_: bool) -> None:
        """Keep what is compressed; ``all_``: wait for what other threads compress, and redo where one failed."""
        while self._jobs:
            stop, made = self._jobs[0]
            assert self._frames is not None
            if not isinstance(made, Encoded):
                if not (all_ or made.done()):
                    return
                batch = [part for part in self._parts if part.stop <= stop]
                made = made.result() if made.exception() is None else self._frames.encode(
                    joined([part.documents for part in batch]), _first(batch))
            if self._frames.docs < stop:
                self._frames.keep(made)
            # One step, so that an interrupt comes before or after it.
            self._jobs, self._parts = self._jobs[1:], [part for part in self._parts if part.stop > stop]

    def _dictionary(self, codec: StoredCodec, parts: list[_Part], size: int) -> Dictionary | None:
        known = self._known()
        if known is not None and suits(known, codec, size, parts[0].documents):
            return known.dictionary
        return train((part.documents for part in parts), codec)

    def write(self, sections: RamSections) -> str:
        """The sections of all documents; the name of the codec, or nothing if they are as they came."""
        self._join()
        self.settle(last=True)
        self._take(all_=True)
        if self._frames is None or self._codec is None:
            write_raw(sections, [part.documents for part in self._parts])
            return ""
        self._frames.write(sections, [] if self._frames.dictionary is None else [self._frames.dictionary])
        return self._codec.name

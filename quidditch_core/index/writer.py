"""The one writer of an index: operations in order, the buffer they wait in, refresh, flush and merge.

A document is put into the *buffer*, a builder; ``refresh`` turns the buffer into a segment in memory and makes
a new view; ``flush`` writes all segments in memory as one blob and commits a manifest. A *holding* is the writer's
mutable side of a segment: its live mask, and the deletes that the next refresh applies.

All methods are called with the writer's lock held, except where they say otherwise.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..codec.v1.stored import reader
from ..config import Settings
from ..errors import ConflictError, StorageError, WriterFailedError
from ..files import Files
from ..mapping import Mapping
from ..segment import Segment, bit_count, full_bitmap
from ..tiering.local import LocalTier
from . import ids, store
from . import manifest as manifests
from . import merge as merging
from .builder import Builder
from .lock import WriterLock
from .manifest import Manifest, SegmentEntry
from .view import Leaf, View

SEGMENTS_DIRECTORY = "segments"
PRIMARY_TERM = 1


class Version(NamedTuple):
    """The newest operation on an id: its numbers, and where the document is (None: deleted)."""

    seq_no: int
    version: int
    primary_term: int
    place: tuple[Holding, int] | None


@dataclass(eq=False)
class Holding:
    """A segment as the writer sees it. ``entry`` is its place in the manifest; None: in memory only."""

    segment: Segment | None = None
    builder: Builder | None = None
    live: NDArray[np.uint64] | None = None
    entry: SegmentEntry | None = None
    deletes: set[int] = field(default_factory=set)  # since the last refresh
    live_changed: bool = False  # since the last flush

    def is_live(self, doc: int) -> bool:
        if doc in self.deletes:
            return False
        return self.live is None or bool(int(self.live[doc >> 6]) >> (doc & 63) & 1)

    def apply_deletes(self) -> None:
        """Take the deletes into a new live mask (views keep the old one)."""
        if not self.deletes or self.segment is None:
            return
        live = full_bitmap(self.segment.docs) if self.live is None else self.live.copy()
        docs = np.fromiter(self.deletes, np.int64, len(self.deletes))
        np.bitwise_and.at(live, docs >> 6, ~(np.uint64(1) << (docs & 63).astype(np.uint64)))
        self.live, self.deletes, self.live_changed = live, set(), True

    @property
    def live_docs(self) -> int:
        assert self.segment is not None
        return self.segment.docs if self.live is None else bit_count(self.live)

    @property
    def bytes(self) -> int:
        if self.entry is not None:
            return self.entry.size
        return self.segment.bytes if self.segment is not None else 0

    def source(self) -> merging.Source:
        assert self.segment is not None
        return merging.Source(self.segment, self.live)


class Writer:
    """Owns the lock, the buffer and the manifest of an index directory. ``lock`` guards every method."""

    def __init__(self, files: Files, directory: str, lock: WriterLock, manifest: Manifest) -> None:
        self.lock = threading.RLock()
        self.files = files
        self.directory = directory
        self.tier = LocalTier(files, os.path.join(directory, SEGMENTS_DIRECTORY))
        self.manifest = manifest
        self.mapping = Mapping.from_dict(manifest.mapping)
        self.settings = Settings.from_dict(manifest.settings)
        self.next_seq_no = manifest.max_seq_no + 1
        self._write_lock = lock
        self._failed: BaseException | None = None
        self._next_blob = manifest.next_blob
        self._buffer = Holding(builder=Builder())
        self._recent: dict[bytes, Version] = {}  # documents of the buffer
        self._tombstones: dict[bytes, Version] = {}  # deletes that no manifest has yet
        self._dirty = False  # something that a refresh would show
        self._uncommitted = False  # something that a flush would write
        self.holdings = [
            Holding(segment=store.open_segment(self.tier, entry), live=store.read_live(self.tier, entry), entry=entry)
            for entry in manifest.segments]
        manifests.sweep(files, directory, [self.tier], manifest)

    # State

    def check(self) -> None:
        """Raise unless this writer may write."""
        self._write_lock.assert_owner()
        if self._failed is not None:
            raise WriterFailedError("an earlier commit failed, so that what is on disk is not known",
                                    path=self.directory, fix="close the index and open it again") from self._failed

    def view(self) -> View:
        """What a search sees now: all holdings, without what waits in the buffer."""
        leaves = [Leaf(holding.segment, holding.live, holding.entry.tier if holding.entry else "hot", holding.bytes)
                  for holding in self.holdings if holding.segment is not None]
        return View(leaves, self.mapping, self.settings, os.path.basename(self.directory))

    @property
    def dirty(self) -> bool:
        return self._dirty

    @property
    def failed(self) -> bool:
        """Whether a commit failed; the writer then refuses everything."""
        return self._failed is not None

    @property
    def buffered_docs(self) -> int:
        return self._buffer.builder.docs if self._buffer.builder else 0

    def release(self) -> None:
        self._write_lock.release()

    # Operations

    def current(self, id: bytes, *, absent: bool = False) -> Version | None:
        """The newest operation on ``id``, searched or not. ``absent``: no segment has it, as a caller knows."""
        found = self._recent.get(id) or self._tombstones.get(id)
        if found is not None or absent:
            return found
        hash = ids.id_hash(id)
        for holding in reversed(self.holdings):
            segment = holding.segment
            assert segment is not None
            for doc in ids.find(segment, id, hash):
                if holding.is_live(doc):
                    seq_no, version, term = (_number(segment, name, doc)
                                             for name in ("seq_no", "version", "primary_term"))
                    return Version(seq_no, version, term, (holding, doc))
        return None

    def absent(self, keys: Sequence[bytes]) -> list[bool]:
        """For each id whether surely no segment has it."""
        hashes = np.fromiter(map(ids.id_hash, keys), np.int64, len(keys))
        present = np.zeros(len(keys), np.bool_)
        for holding in self.holdings:
            if holding.segment is not None and holding.segment.docs:
                present |= ids.candidates(holding.segment, hashes)
        return (~present).tolist()

    def expect(self, id: bytes, found: Version | None, if_seq_no: int | None, if_primary_term: int | None) -> None:
        """Raise ConflictError unless ``found`` is the version that the caller wants to replace."""
        if if_seq_no is None and if_primary_term is None:
            return
        here = None if found is None or found.place is None else found
        if here is None or (if_seq_no is not None and here.seq_no != if_seq_no) or (
                if_primary_term is not None and here.primary_term != if_primary_term):
            now = "no such document" if here is None else f"seq_no {here.seq_no}, primary term {here.primary_term}"
            raise ConflictError("the document is not at the version that was required", path=id.decode(),
                                found=now, expected=f"seq_no {if_seq_no}, primary term {if_primary_term}",
                                fix="read it again and decide anew")

    def put(self, id: bytes, source: bytes, values: dict[str, list[Any]], mapping: Mapping,
            found: Version | None) -> Version:
        """Add a parsed document in place of ``found``, the newest operation on its id."""
        if mapping is not self.mapping:
            self.mapping = mapping
        builder = self._buffer.builder
        assert builder is not None
        version = Version(self.next_seq_no, found.version + 1 if found else 1, PRIMARY_TERM, None)
        doc = builder.add(id, source, values, mapping, seq_no=version.seq_no, version=version.version,
                          primary_term=version.primary_term)
        self._forget(found)
        version = version._replace(place=(self._buffer, doc))
        self._tombstones.pop(id, None)
        self._recent[id] = version
        self._advance()
        return version

    def delete(self, id: bytes, found: Version | None) -> Version:
        """Delete the document of ``found``; takes a seq_no even if there is none, as OpenSearch does."""
        version = Version(self.next_seq_no, found.version + 1 if found else 1, PRIMARY_TERM, None)
        self._forget(found)
        self._recent.pop(id, None)
        self._tombstones[id] = version
        self._advance()
        return version

    def _forget(self, found: Version | None) -> None:
        if found is not None and found.place is not None:
            holding, doc = found.place
            holding.deletes.add(doc)

    def _advance(self) -> None:
        self.next_seq_no += 1
        self._dirty = self._uncommitted = True

    def stored(self, place: tuple[Holding, int]) -> bytes:
        """The source of a document, in the buffer or in a segment."""
        holding, doc = place
        if holding.segment is None:
            assert holding.builder is not None
            return holding.builder.source(doc)
        return reader(holding.segment).read(doc)

    def change_mapping(self, mapping: Mapping) -> None:
        self.mapping, self._dirty, self._uncommitted = mapping, True, True

    def change_settings(self, settings: Settings) -> None:
        self.settings, self._dirty, self._uncommitted = settings, True, True

    # Refresh

    def refresh(self) -> None:
        """Turn the buffer into a segment in memory and apply the deletes; the next view shows both."""
        self._seal()
        for holding in self.holdings:
            holding.apply_deletes()
        self.holdings = [holding for holding in self.holdings if holding.entry is not None or holding.live_docs]
        self._merge_in_memory()
        self._dirty = False

    def _seal(self) -> None:
        buffer, builder = self._buffer, self._buffer.builder
        assert builder is not None
        if builder.docs == 0:
            return
        buffer.segment = builder.build()
        buffer.builder = None
        self.holdings.append(buffer)
        self._buffer = Holding(builder=Builder())
        self._recent.clear()

    def _merge_in_memory(self) -> None:
        """Merge like-sized neighbours in memory, so that frequent refreshes do not leave many."""
        while True:
            memory = [i for i, holding in enumerate(self.holdings) if holding.entry is None]
            chosen = merging.select([_candidate(i, self.holdings[i]) for i in memory], floor=64 << 10)
            if not chosen:
                return
            self._replace(chosen, self._merged([self.holdings[i] for i in chosen]))

    def _merged(self, group: Sequence[Holding]) -> Holding | None:
        for holding in group:
            holding.apply_deletes()
        sources = [holding.source() for holding in group]
        if not any(source.live_docs for source in sources):
            return None
        return Holding(segment=merging.merge(sources).segment)

    def _replace(self, positions: Sequence[int], new: Holding | None) -> None:
        """Put ``new`` where the first of the merged stood; positions are adjacent."""
        self.holdings[positions[0] : positions[-1] + 1] = [new] if new is not None else []

    def make_room(self) -> None:
        """Bound memory before an operation: seal a full buffer, flush when segments in memory are as large again.

        Nothing becomes searchable by this: views are made by refresh alone.
        """
        builder = self._buffer.builder
        assert builder is not None
        if builder.memory < self.settings.index_buffer_size:
            return
        self._seal()
        in_memory = sum(holding.bytes for holding in self.holdings if holding.entry is None)
        if in_memory >= self.settings.index_buffer_size:
            self.flush()

    # Flush and merge

    def flush(self) -> None:
        """Write what is in memory as one blob, then commit a manifest with everything up to now."""
        self.check()
        self.refresh()
        if not self._uncommitted:
            return
        memory = [i for i, holding in enumerate(self.holdings) if holding.entry is None]
        if memory:
            group = [self.holdings[i] for i in memory]
            whole = group[0] if len(group) == 1 and group[0].live is None else self._merged(group)
            self._replace(memory, self._written(whole) if whole is not None else None)
        self._commit()
        self._merge_on_disk()

    def merge(self, max_segments: int) -> None:
        """Flush, then merge neighbours until there are at most ``max_segments``, none with deleted documents."""
        self.flush()
        changed = False
        while len(self.holdings) > max_segments:
            sizes = [holding.bytes for holding in self.holdings]
            width = len(sizes) - max_segments + 1
            start = min(range(max_segments), key=lambda at: sum(sizes[at : at + width]))
            self._rewrite(range(start, start + width))
            changed = True
        for i, holding in enumerate(self.holdings):
            if holding.live is not None:
                self._rewrite([i])
                changed = True
        if changed:
            self._commit()

    def _merge_on_disk(self) -> None:
        while chosen := merging.select([_candidate(i, holding) for i, holding in enumerate(self.holdings)]):
            self._rewrite(chosen)
            self._commit()

    def _rewrite(self, positions: Sequence[int]) -> None:
        merged = self._merged([self.holdings[i] for i in positions])
        self._replace(positions, self._written(merged) if merged is not None else None)
        self._uncommitted = True

    def _written(self, holding: Holding) -> Holding:
        """The same segment, in a blob."""
        assert holding.segment is not None
        entry = store.write_segment(self.tier, self._name("seg"), holding.segment, self.settings.codec)
        return Holding(segment=store.open_segment(self.tier, entry), entry=entry)

    def _name(self, kind: str) -> str:
        self._next_blob += 1
        return f"{kind}-{self._next_blob - 1:012d}"

    def _commit(self) -> None:
        """Make the holdings durable: blobs, their names, the manifest; then what nobody needs goes."""
        try:
            for holding in self.holdings:
                if holding.live_changed and holding.live is not None and holding.entry is not None:
                    assert holding.segment is not None
                    mask = store.write_live(self.tier, self._name("live"), holding.live, holding.segment.docs)
                    holding.entry = msgspec.structs.replace(holding.entry, live=mask, live_docs=holding.live_docs)
            self.tier.sync()
            self._write_lock.assert_intact()
            manifest = msgspec.structs.replace(
                self.manifest, generation=self.manifest.generation + 1, mapping=self.mapping.to_dict(),
                mapping_version=self.manifest.mapping_version + (self.mapping.to_dict() != self.manifest.mapping),
                settings=self.settings.to_dict(), max_seq_no=self.next_seq_no - 1, next_blob=self._next_blob,
                committed_ms=time.time_ns() // 1_000_000,
                segments=tuple(h.entry for h in self.holdings if h.entry is not None and h.live_docs))
            manifests.commit(self.files, self.directory, manifest)
        except StorageError as error:
            self._failed = error
            raise
        self.manifest = manifest
        self.holdings = [holding for holding in self.holdings if holding.live_docs]
        for holding in self.holdings:
            holding.live_changed = False
        self._tombstones.clear()
        self._uncommitted = False
        manifests.collect_garbage(self.files, self.directory, [self.tier], manifest)


def _candidate(position: int, holding: Holding) -> merging.Candidate:
    assert holding.segment is not None
    share = holding.live_docs / max(holding.segment.docs, 1)
    return merging.Candidate(position, int(holding.bytes * share), 1 - share)


def _number(segment: Segment, name: str, doc: int) -> int:
    values, base = segment.narrow(name)
    return int(values[doc]) + base


def new_manifest(mapping: Mapping, settings: Settings) -> Manifest:
    """The first commit of an index."""
    now = time.time_ns() // 1_000_000
    return Manifest(
        generation=1, index_uuid=uuid.uuid4().hex, mapping=mapping.to_dict(), mapping_version=1,
        settings=settings.to_dict(), primary_term=PRIMARY_TERM, max_seq_no=-1, next_blob=0, created_ms=now,
        committed_ms=now)

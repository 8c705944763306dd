"""The one writer of an index: operations in order, the buffer they wait in, and refresh.

An operation is applied, a document into the *buffer*, a builder, and written to the log before the lock is let go;
if the log cannot take it, it is taken back. ``refresh`` turns the buffer into a segment in memory, applies the
deletes and makes a new view. Flushing and merging are in ``maintenance``. Every method is called with ``lock`` held,
except where it says otherwise.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
import numpy as np

from ..codec.v1.stored import SAMPLED, Learned, codec_named, learned, reader
from ..config import MAX_THREADS, Settings, Tiers
from ..errors import ConflictError, CorruptIndexError, RequestError, StorageError, WriterFailedError
from ..files import Files, ensure_directory
from ..mapping import Mapping
from ..segment import Segment
from ..tiering import HOT
from ..translog.log import Translog
from ..translog.record import ChangeMapping, ChangeSettings, Delete, Index, Operation
from . import ids, store
from . import manifest as manifests
from . import merge as merging
from .builder import Builder
from .holding import Holding, Version
from .incoming import Batch
from .lock import WriterLock
from .manifest import TRANSLOG_DIRECTORY, Manifest
from .places import places_of
from .reader import Reader
from .view import Leaf, View

PRIMARY_TERM = 1
MEMORY_FLOOR = 64 << 10
"""Bytes below which segments in memory count as equally small when they are merged."""
TOMBSTONE_BYTES = 500
"""Memory that a delete takes until a flush, near enough."""


class _Applied(NamedTuple):
    """Operations, and what was before: enough to take them back, wherever they were broken off."""

    operations: Sequence[Operation]
    ids: Sequence[bytes]  # of the documents; none: no document's operation
    found: dict[bytes, Version]
    mapping: Mapping
    settings: Settings
    doc: int  # the number that the first document gets in the buffer


class Writer:
    """The state that operations change. ``published`` is what searches use; reading it needs no lock."""

    def __init__(
        self, files: Files, directory: str, lock: WriterLock, manifest: Manifest, *, background: bool = True,
        tiers: Tiers | None = None,
    ) -> None:
        self.lock = threading.RLock()
        self.files = files
        self.directory = directory
        self.places = places_of(files, directory, manifest, tiers)
        self.tier = self.places.hot
        self.swept = len(self.places.names) == len(self.places.local)  # nothing that a dead writer left is anywhere
        self.write_lock = lock
        self.manifest = manifest
        self.mapping = Mapping.from_dict(manifest.mapping)
        self.settings = Settings.from_dict(manifest.settings)
        self.next_seq_no = manifest.max_seq_no + 1
        self.next_blob = manifest.next_blob
        self.tombstones: dict[bytes, Version] = {}  # deletes that no manifest has yet
        self.dirty = False  # a refresh would show something
        self.uncommitted = False  # a flush would write something
        self.failure: BaseException | None = None
        self._builder = self._new_builder()
        self.buffer = Holding(builder=self._builder)
        self._recent: dict[bytes, int] = {}  # documents of the buffer
        self._under_way: _Applied | None = None  # being applied, or broken off by an interrupt (Ctrl-C)
        self._pending: list[_Applied] = []  # applied, but not in the log yet
        self.holdings: list[Holding] = []
        for entry in manifest.segments:
            live = store.read_live(self.tier, entry)
            self.holdings.append(Holding(segment=store.open_segment(self.places, entry), entry=entry, live=live,
                                         committed=live, visible=True))
        # What the last writer renamed before it died is perhaps not durable. All that follows builds on it.
        files.sync_dir(directory)
        manifests.sweep(files, directory, self.places.local, manifest)
        logs = os.path.join(directory, TRANSLOG_DIRECTORY)
        ensure_directory(files, logs)
        self.log = Translog(files, logs, uuid=manifest.index_uuid, durability=self.settings.translog_durability,
                            sync_interval=self.settings.translog_sync_interval, background=background)
        for operation in self.log.recover(manifest.max_seq_no):
            self._replay(operation)
        if self.log.generation < manifest.log_generation:
            raise CorruptIndexError(
                "the log is gone, and with it what was written since the last flush", path=logs,
                found=f"generation {self.log.generation}", expected=f"generation {manifest.log_generation} or newer",
                fix="restore the index from a snapshot, or salvage it with `quidditch repair`")
        self.log.set_durability(self.settings.translog_durability, self.settings.translog_sync_interval)  # as replayed
        self.published: Reader
        self.refresh()

    # State

    def check(self) -> None:
        """Raise unless this writer may write."""
        self._settle()
        self.write_lock.assert_owner()
        if self.failure is not None or self.log.failed:
            raise WriterFailedError("an earlier write to disk failed, so that what is there is not known",
                                    path=self.directory, fix="close the index and open it again") from self.failure

    def publish(self) -> None:
        """Let searches see what the last refresh made, in the segments there are now."""
        before = getattr(self, "published", None)
        if before is not None:
            before.view.note_use()
        self.published = Reader(self._view(), self._renewed)

    def _renewed(self) -> View:
        """The published view without the segments that were retired to free memory."""
        with self.lock:
            for holding in self.holdings:
                if holding.segment is not None:
                    holding.segment = store.fresh(holding.segment)
            self.publish()
            return self.published.view

    def _view(self) -> View:
        leaves = [Leaf(holding.segment, holding.live, holding.entry.tier if holding.entry else HOT, holding.bytes,
                       holding.entry is None)
                  for holding in self.holdings if holding.segment is not None and holding.visible]
        return View(leaves, self.mapping, self.settings, os.path.basename(self.directory))

    def _new_builder(self) -> Builder:
        # What is sorted when it is built would be compressed for nothing before.
        codec = None if self.settings.sort_field else codec_named(self.settings.codec)
        return Builder(codec, self.threads, self.learned)

    def learned(self, codec: str = "") -> Learned | None:
        """A dictionary that new segments may use, so that merges copy what was compressed with it."""
        wanted = codec_named(codec or self.settings.codec)
        for holding in reversed(self.holdings):
            with suppress(CorruptIndexError, StorageError):  # what is damaged there is not needed here
                if holding.segment is not None and (found := learned(holding.segment, wanted)) is not None:
                    return found
        return None

    @property
    def buffered_docs(self) -> int:
        return self._builder.docs

    # Operations

    def current(self, id: bytes, *, absent: bool = False) -> Version | None:
        """The newest operation on ``id``, shown yet or not. ``absent``: no segment has it, as a caller knows."""
        doc = self._recent.get(id)
        if doc is not None:
            seq_no, version, term = self._builder.numbers(doc)
            return Version(seq_no, version, term, (self.buffer, doc))
        found = self.tombstones.get(id)
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

    def current_all(self, keys: Sequence[bytes]) -> dict[bytes, Version]:
        """The newest operation on each of many ids, of those that have one."""
        perhaps = {*self._recent.keys() & keys, *self.tombstones.keys() & keys}
        segments = [segment for holding in self.holdings if (segment := holding.segment) is not None and segment.docs]
        if segments:
            hashes = ids.id_hashes(keys)
            present = np.zeros(len(keys), np.bool_)
            for segment in segments:
                present |= ids.candidates(segment, hashes)
            perhaps.update(keys[row] for row in np.flatnonzero(present).tolist())
        return {key: found for key in perhaps if (found := self.current(key)) is not None}

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

    def next_version(self, found: Version | None) -> Version:
        """The numbers of the next operation on an id whose newest one is ``found``."""
        return Version(self.next_seq_no, found.version + 1 if found else 1, PRIMARY_TERM, None)

    def put(
        self, id: bytes, source: bytes, values: dict[str, list[Any]], mapping: Mapping, found: Version | None,
        version: Version,
    ) -> None:
        """Add a parsed document as ``version``, in place of ``found``, the newest operation on its id."""
        self._begin(Index(version.seq_no, version.primary_term, version.version, id.decode(), source), id, found)
        self._put(id, source, values, mapping, found, version)
        self._end()

    def put_all(self, batch: Batch, *, new: bool) -> bool:
        """Add documents that were read together; False, and nothing done, if an id is there twice.

        ``new``: no document has any of these ids, as a caller knows.
        """
        keys, sources, columns = batch
        if len(set(keys)) < len(keys):
            return False
        found = {} if new else self.current_all(keys)
        versions = [1] * len(keys)
        if found:
            versions = [found[key].version + 1 if key in found else 1 for key in keys]
        seq_no, count = self.next_seq_no, len(keys)
        operations = list(map(Index, range(seq_no, seq_no + count), itertools.repeat(PRIMARY_TERM), versions,
                              map(bytes.decode, keys), sources))
        self._under_way = _Applied(operations, keys, found, self.mapping, self.settings, self._builder.docs)
        first = self._builder.extend(keys, sources, columns, seq_no=seq_no, versions=versions,
                                     primary_term=PRIMARY_TERM)
        self._builder.keep(first + count)
        for key, version in found.items():
            self._forget(version)
            self.tombstones.pop(key, None)
        self._recent.update(zip(keys, range(first, first + count), strict=True))
        self._advance(seq_no + count - 1)
        self._end()
        return True

    def delete(self, id: bytes, found: Version | None, version: Version) -> None:
        """Delete the document of ``found`` as ``version``; its tombstone stays until a flush."""
        self._begin(Delete(version.seq_no, version.primary_term, version.version, id.decode()), id, found)
        self._delete(id, found, version)
        self._end()

    def change_mapping(self, mapping: Mapping) -> None:
        self._begin(ChangeMapping(self.next_seq_no, PRIMARY_TERM, mapping.to_dict()))
        self.mapping = mapping
        self._advance(self.next_seq_no)
        self._end()

    def change_settings(self, settings: Settings) -> None:
        self._begin(ChangeSettings(self.next_seq_no, PRIMARY_TERM, settings.to_dict()))
        self.settings = settings
        self._advance(self.next_seq_no)
        self._end()

    def _begin(self, operation: Operation, id: bytes = b"", found: Version | None = None) -> None:
        self._under_way = _Applied((operation,), (id,) if id else (), {} if found is None else {id: found},
                                   self.mapping, self.settings, self._builder.docs)

    def _end(self) -> None:
        assert self._under_way is not None
        self._pending.append(self._under_way)
        self._under_way = None

    def _settle(self) -> None:
        """Take back the operation that an interrupt broke off; if this is broken off too, the next call does it."""
        broken = self._under_way
        if broken is not None:
            if not self._pending or self._pending[-1] is not broken:
                self._undo(broken)
            self._under_way = None

    def logged(self) -> int:
        """Write what was applied since the last call to the log, as one batch; the ticket to acknowledge it by.

        If the log cannot take it, nothing of it has happened, but for the numbers that it took.
        """
        self._settle()
        pending, self._pending = self._pending, []
        try:
            return self.log.append([operation for applied in pending for operation in applied.operations])
        except BaseException:
            for applied in reversed(pending):
                self._undo(applied)
            raise

    def _undo(self, applied: _Applied) -> None:
        """Take back an operation under the lock under which it was applied, so that nobody has seen it."""
        self.mapping, self.settings = applied.mapping, applied.settings
        for id in applied.ids:
            self._recent.pop(id, None)
            self.tombstones.pop(id, None)
        if isinstance(applied.operations[0], Index):
            self.buffer.deletes.update(range(applied.doc, min(applied.doc + len(applied.ids), self._builder.docs)))
        for id, found in applied.found.items():
            if found.place is None:
                self.tombstones[id] = found
                continue
            holding, doc = found.place
            holding.deletes.discard(doc)
            if holding is self.buffer:
                self._recent[id] = doc

    def _put(
        self, id: bytes, source: bytes, values: dict[str, list[Any]], mapping: Mapping, found: Version | None,
        version: Version,
    ) -> None:
        self.mapping = mapping
        doc = self._builder.add(id, source, values, mapping, seq_no=version.seq_no, version=version.version,
                                primary_term=version.primary_term)
        self._builder.keep(doc + 1)
        self._forget(found)
        self.tombstones.pop(id, None)
        self._recent[id] = doc
        self._advance(version.seq_no)

    def _delete(self, id: bytes, found: Version | None, version: Version) -> None:
        self._forget(found)
        self._recent.pop(id, None)
        self.tombstones[id] = version
        self._advance(version.seq_no)

    def _replay(self, operation: Operation) -> None:
        """Apply an operation of the log, unless its id has a newer one."""
        seq_no = operation.seq_no
        try:
            match operation:
                case ChangeMapping():
                    self.mapping = Mapping.from_dict(operation.mapping)
                    self._advance(seq_no)
                case ChangeSettings():
                    self.settings = Settings.from_dict(operation.settings)
                    self._advance(seq_no)
                case Index() | Delete():
                    id = ids.id_bytes(operation.id)
                    found = self.current(id)
                    if found is not None and found.seq_no >= seq_no:
                        return
                    version = Version(seq_no, operation.version, operation.primary_term, None)
                    if isinstance(operation, Delete):
                        self._delete(id, found, version)
                    else:
                        body = msgspec.json.decode(operation.source, type=dict[str, Any])
                        values, mapping = self.mapping.parse_document(body)
                        self._put(id, operation.source, values, mapping, found, version)
        except (RequestError, msgspec.DecodeError) as error:
            raise CorruptIndexError(
                "an operation of the log cannot be applied", path=self.directory, found=f"operation {seq_no}: {error}",
                fix="restore the index from a snapshot") from error
        if self.buffer_full:
            self.seal()

    def _forget(self, found: Version | None) -> None:
        if found is not None and found.place is not None:
            holding, doc = found.place
            holding.deletes.add(doc)

    def _advance(self, seq_no: int) -> None:
        self.next_seq_no = seq_no + 1
        self.dirty = self.uncommitted = True

    def stored(self, place: tuple[Holding, int]) -> bytes:
        """The source of a document, in the buffer or in a segment."""
        holding, doc = place
        if holding.segment is None:
            assert holding.builder is not None
            return holding.builder.source(doc)
        return reader(holding.segment).read(doc)

    # Refresh

    @property
    def threads(self) -> int:
        """Threads that build and write segments."""
        if self.settings.write_threads:
            return self.settings.write_threads
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(cores, MAX_THREADS)

    @property
    def buffer_full(self) -> bool:
        """Whether operations wait in more memory than they may; needs no lock."""
        waiting = self._builder.memory + TOMBSTONE_BYTES * len(self.tombstones)
        return waiting >= self.settings.index_buffer_size

    def log_fills(self, share: float) -> bool:
        """Whether the log has reached this share of the size at which it must be flushed; needs no lock."""
        return self.log.size >= share * self.settings.translog_flush_threshold_size

    @property
    def memory_full(self) -> bool:
        """Whether what only a flush lets go takes as much again as the buffer may."""
        segments = sum(holding.bytes for holding in self.holdings if holding.entry is None)
        return segments + TOMBSTONE_BYTES * len(self.tombstones) >= self.settings.index_buffer_size

    def seal(self) -> None:
        """Turn the buffer into a segment, which the next refresh shows."""
        self._settle()
        if self._builder.docs == 0:
            return
        sealed, segment, deletes, builder = self.buffer, self._builder.build(), self.buffer.deletes, self._new_builder()
        if sort := self.settings.sort:
            codec = codec_named(self.settings.codec) if segment.sections.size("stored") >= SAMPLED else None
            segment, (numbers,) = merging.merge([merging.Source(segment, None)], codec=codec, threads=self.threads,
                                                sort=sort, known=self.learned())
            deletes = set(numbers[list(deletes)].tolist())
        buffer, holdings = Holding(builder=builder), [*self.holdings, self.buffer]
        # One step, which an interrupt cannot break off.
        (sealed.segment, sealed.deletes, self.holdings, self._builder, self.buffer,
         self._recent) = segment, deletes, holdings, builder, buffer, {}
        sealed.builder = None

    def refresh(self) -> None:
        """Show all operations: seal the buffer, apply the deletes, publish a view."""
        self.seal()
        for holding in self.holdings:
            holding.apply_deletes()
            holding.visible = True
        self.holdings = [h for h in self.holdings if h.entry is not None or h.busy or h.live_docs]
        self._merge_in_memory()
        self.publish()
        self.dirty = False

    def _merge_in_memory(self) -> None:
        """Merge like-sized neighbours in memory, so that frequent refreshes do not leave many."""
        while True:
            memory = [i for i, holding in enumerate(self.holdings) if holding.entry is None and not holding.busy]
            chosen = merging.select([candidate(i, self.holdings[i]) for i in memory], floor=MEMORY_FLOOR)
            if not chosen:
                return
            group = [self.holdings[i] for i in chosen]
            sources = [holding.source(holding.live) for holding in group]
            codec = codec_named(self.settings.codec) if any(one.segment.stored == "zstd" for one in sources) else None
            heirs = []
            if any(source.live_docs for source in sources):
                merged = merging.merge(sources, codec=codec, threads=self.threads, sort=self.settings.sort)
                heirs = [Holding(segment=merged.segment, visible=True)]
            self.holdings[chosen[0] : chosen[-1] + 1] = heirs


def candidate(position: int, holding: Holding) -> merging.Candidate:
    """A holding as the merge policy sees it; on disk, what no flush has deleted yet a merge would keep."""
    assert holding.segment is not None
    docs = holding.source(holding.live if holding.entry is None else holding.committed).live_docs
    return merging.Candidate(position, holding.bytes, holding.bytes * docs // max(holding.segment.docs, 1))


def _number(segment: Segment, name: str, doc: int) -> int:
    return segment.rising(name, segment.docs).at(doc)


def new_manifest(mapping: Mapping, settings: Settings, tiers: Tiers | None = None) -> Manifest:
    """The first commit of an index."""
    now = time.time_ns() // 1_000_000
    return Manifest(
        generation=1, index_uuid=uuid.uuid4().hex, mapping=mapping.to_dict(), mapping_version=1,
        settings=settings.to_dict(), primary_term=PRIMARY_TERM, max_seq_no=-1, next_blob=0, log_generation=1,
        created_ms=now, committed_ms=now, tiers={} if tiers is None else tiers.to_dict())

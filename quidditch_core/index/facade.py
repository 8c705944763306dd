"""The public face: create, open, and the Index they return."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from .. import metrics
from .. import query as q
from ..analysis import Token, get_analyzer
from ..config import Settings, Tiers, parse_time
from ..errors import (
    ConflictError,
    DocumentError,
    IndexClosedError,
    IndexExistsError,
    IndexNotFoundError,
    InvalidNameError,
    MappingError,
    NotFoundError,
    QuidditchError,
    ReaderExpired,
    ReadOnlyError,
    RequestError,
    SettingsError,
    UnsupportedError,
)
from ..files import OS_FILES, Files, ensure_directory
from ..mapping import Mapping
from ..result import BulkFailure, BulkReport, CheckReport, Document, Explanation, SearchResult, WriteResult
from ..segment import Segment
from ..tiering import HOT
from . import ids, incoming, process, store
from . import manifest as manifests
from .background import Worker
from .disk import DiskWatch
from .manifest import SEGMENTS_DIRECTORY, TRANSLOG_DIRECTORY, LiveEntry, Manifest, SegmentEntry
from .places import Directory, Holding, Places, Source, places_of
from .reader import Reader, SegmentInfo
from .slices import begin
from .view import Leaf, View

if TYPE_CHECKING:  # what only writes and checks need is imported by them: a first answer need not wait for it
    from concurrent.futures import Future

    import numpy as np
    from numpy.typing import NDArray

    from ..tiering.policy import Move
    from .check import Progress
    from .holding import Version
    from .publish import Publisher, PublishInfo
    from .snapshot import SnapshotInfo
    from .writer import Writer

FEW = 32
"""Documents of a bulk that are indexed one by one if one of them is unusual."""
PATIENCE = 15
"""Runs of a bulk that are indexed one by one, without another try, after one of which most had to be."""
TIERING_INTERVAL = 60.0
"""Seconds after which an index with tiers looks for what should move."""
REOPENINGS = 5
"""How often an edition that expires while it is opened makes us look for a newer one."""
FLUSH_AHEAD = 0.75
"""Share of the log's threshold at which a flush begins in the background; at the threshold writers wait for it."""


def create(
    path: str | os.PathLike[str], mapping: Mapping | dict[str, Any] | None = None, *,
    settings: Settings | dict[str, Any] | None = None, tiers: Tiers | None = None,
) -> Index:
    """Create an index at the directory ``path`` and open it for writing.

    ``mapping``: a Mapping or OpenSearch's dict; without one, fields appear as documents bring them.
    ``settings``: Settings or OpenSearch's dict. ``tiers``: where segments may live besides
    ``path``, and when they move there; the cold one is tried out.

    Raises IndexExistsError, LockError, MappingError, SettingsError, InvalidNameError, StorageError, StoreError.
    """
    directory = _directory(path)
    made = mapping if isinstance(mapping, Mapping) else Mapping.from_dict(_dict(mapping, MappingError, "mapping"))
    chosen = settings if isinstance(settings, Settings) else Settings.from_dict(
        _dict(settings, SettingsError, "settings"))
    _check_tiers(tiers)
    if tiers is not None and tiers.cold is not None:
        from ..tiering.store import FsspecStore

        FsspecStore(tiers.cold, tiers.storage_options).reach()
    return _create(OS_FILES, directory, made, chosen, tiers=tiers)


def _create(
    files: Files, directory: str, mapping: Mapping, settings: Settings, *, background: bool = True,
    tiers: Tiers | None = None,
) -> Index:
    """`create` on any `Files`."""
    from .lock import WriterLock
    from .writer import Writer, new_manifest

    if settings.sort_field:
        from .order import check_sort

        check_sort(settings, mapping)
    if manifests.generations(files, directory):
        raise IndexExistsError("there is an index already", path=directory, fix="open it, or choose another path")
    ensure_directory(files, directory)
    lock = WriterLock.acquire(directory, files=files)
    try:
        if manifests.generations(files, directory):
            raise IndexExistsError("there is an index already", path=directory, fix="open it, or choose another path")
        for folder in (SEGMENTS_DIRECTORY, TRANSLOG_DIRECTORY):
            remains = os.path.join(directory, folder)
            if files.exists(remains) and files.listdir(remains):
                raise IndexExistsError("here are parts of an index that has lost its manifest", path=remains,
                                       fix="restore it from a snapshot, or choose another path")
        manifest = new_manifest(mapping, settings, tiers)
        manifests.commit(files, directory, manifest)
        writer = Writer(files, directory, lock, manifest, background=background, tiers=tiers)
        return Index(files, directory, writer=writer, background=background)
    except BaseException:
        lock.release()
        raise


def open(
    path: str | os.PathLike[str], *, read_only: bool = False, lock_timeout: float = 0, tiers: Tiers | None = None,
    storage_options: dict[str, Any] | None = None,
) -> Index:
    """Open an index; or, to read only, what is published at a URL, or a snapshot, ``URL#name``, with the
    ``storage_options`` of the URL.

    With ``read_only`` it takes no lock, and ``refresh`` shows what another process flushed, or published.

    A second writer waits ``lock_timeout`` seconds, then gets a LockError that names the first. The index knows its
    tiers, but not the storage options of the cold one, which come from the environment or with ``tiers``; ``tiers``
    given takes the place of what is stored.

    Raises IndexNotFoundError, LockError, CorruptIndexError, FormatError, StorageError.
    """
    if read_only and "#" in _text(path) and not os.path.exists(path):
        from .snapshot import Repository, Searchable, place

        where, name = place(path)
        snapshot = Searchable(Repository(where, storage_options=storage_options), name)
        return Index(OS_FILES, snapshot.url, source=snapshot)
    if read_only and _is_published(_text(path)):
        from ..tiering.store import FsspecStore
        from .publish import Published

        published = Published(FsspecStore(_text(path), storage_options))
        return Index(OS_FILES, published.url, source=published)
    directory = _directory(path)
    if not isinstance(lock_timeout, int | float) or isinstance(lock_timeout, bool) or not 0 <= lock_timeout <= 1e9:
        raise SettingsError("not a time to wait", path="lock_timeout", found=lock_timeout,
                            expected="seconds, from 0 to 1e9")
    _check_tiers(tiers)
    return _open(OS_FILES, directory, read_only, lock_timeout, tiers=tiers)


def restore(
    url: str | os.PathLike[str], path: str | os.PathLike[str], *, storage_options: dict[str, Any] | None = None,
    base_path: str = "", tier: str = HOT, tiers: Tiers | None = None, body: dict[str, Any] | None = None,
) -> Index:
    """Make an index at the directory ``path`` of a snapshot, ``URL#name``, or of what is published at a URL, and open
    it for writing.

    ``tier``: where its segments go, of ``tiers``, which the new index keeps; with "cold" they go from store to store.
    ``body``: OpenSearch's, of which what one index cannot do is refused.

    Raises NotFoundError, IndexExistsError, CorruptIndexError (then nothing is left at ``path``), SettingsError,
    UnsupportedError, StorageError.
    """
    from ..tiering.store import FsspecStore
    from .publish import restore_published
    from .snapshot import Repository, place

    directory = _directory(path)
    _check_tiers(tiers)
    if "#" not in _text(url) and body is None and restore_published(
            FsspecStore(_text(url), storage_options), directory, tier=tier, tiers=tiers):
        return open(directory, tiers=tiers)
    where, name = place(url)
    Repository(where, storage_options=storage_options, base_path=base_path).restore(
        name, directory, tier=tier, tiers=tiers, body=body)
    return open(directory, tiers=tiers)


def _open(
    files: Files, directory: str, read_only: bool = False, lock_timeout: float = 0, *, background: bool = True,
    tiers: Tiers | None = None,
) -> Index:
    """`open` on any `Files`."""
    if read_only:
        return Index(files, directory, tiers=tiers, source=Directory(files, directory, tiers))
    from .lock import WriterLock
    from .writer import Writer

    if not manifests.generations(files, directory):
        raise IndexNotFoundError("no index here", path=directory, fix="check the path, or create the index")
    lock = WriterLock.acquire(directory, lock_timeout, files=files)
    try:
        writer = Writer(files, directory, lock, manifests.load_newest(files, directory), background=background,
                        tiers=tiers)
        return Index(files, directory, writer=writer, background=background)
    except BaseException:
        lock.release()
        raise


class Index:
    """An open index. A context manager; safe to use from many threads of the process that opened it.

    Writes are visible to ``get`` at once, to searches after ``refresh`` (by itself every
    ``index.refresh_interval``), and on disk after ``flush`` or ``close``.
    """

    def __init__(
        self, files: Files, directory: str, *, writer: Writer | None = None, background: bool = True,
        tiers: Tiers | None = None, source: Source | None = None,
    ) -> None:
        self._files = files
        self._tiers = tiers
        self._source = source
        self._directory = directory
        self._process = process.number
        self._writer = writer
        self._hold: Holding | None = None
        self._closed = False
        self._closing = threading.RLock()
        self._following = threading.RLock()
        self._opened: dict[_SegmentKey, Segment] = {}
        self._masks: dict[_MaskKey, NDArray[np.uint64] | None] = {}
        if writer is not None:
            from .maintenance import Maintenance

            self._maintenance = Maintenance(writer)
        else:
            self._hold, view = self._newest_view()
            self._followed = Reader(view)
        self._publishers: dict[str, Publisher] = {}
        self._kept: dict[str, Publisher] = {}  # those that each flush goes to
        self._disk = DiskWatch(files, directory)
        name = os.path.basename(directory)
        self._indexed, self._deleted = (metrics.INDEXED.labels(name, of) for of in ("index", "delete"))
        self._watched = metrics.Watched(self._gauges)
        self._workers: list[Worker[Index]] = []
        if writer is not None and background:
            self._workers = [Worker("refresh", self, Index._refresh_if_dirty, Index._refresh_interval),
                             Worker("maintain", self, Index._maintain)]
            if writer.places.names[1:]:
                self._workers.append(Worker("tiers", self, Index._wake, lambda index: TIERING_INTERVAL))

    # Writing

    def put(
        self, id: str | None, doc: dict[str, Any] | bytes | str, *, if_seq_no: int | None = None,
        if_primary_term: int | None = None, op_type: str = "index",
    ) -> WriteResult:
        """Index a document (a dict, or JSON as it is to be stored) in place of any with this id.

        ``id`` None: one is generated. ``op_type="create"``: ConflictError if the document is there.
        ``if_seq_no``, ``if_primary_term``: ConflictError unless the present version has these numbers.

        Raises DocumentError (which names the field), ConflictError, ReadOnlyError, WriterFailedError.
        """
        if not isinstance(op_type, str) or op_type not in ("index", "create"):
            raise DocumentError("unknown op_type", path="op_type", found=op_type, expected="'index' or 'create'")
        _check_condition(if_seq_no, if_primary_term)
        key = ids.id_bytes(incoming.new_id() if id is None else id)
        self._writable()
        source, body = incoming.decoded(doc)
        with self._writing() as writer:
            found = writer.current(key, absent=id is None)
            result = self._put(writer, key, source, body, found, op_type, if_seq_no, if_primary_term)
        self._indexed.add()
        return result

    def _put(
        self, writer: Writer, key: bytes, source: bytes | None, body: dict[str, Any], found: Version | None,
        op_type: str = "index", if_seq_no: int | None = None, if_primary_term: int | None = None,
    ) -> WriteResult:
        writer.expect(key, found, if_seq_no, if_primary_term)
        exists = found is not None and found.place is not None
        if op_type == "create" and exists:
            assert found is not None
            raise ConflictError("the document exists already", path=key.decode(), found=f"version {found.version}",
                                fix="use op_type='index' to replace it")
        values, mapping = writer.mapping.parse_document(body)
        version = writer.next_version(found)
        writer.put(key, incoming.encoded(body) if source is None else source, values, mapping, found, version)
        return WriteResult(key.decode(), version.seq_no, version.version, version.primary_term,
                           "updated" if exists else "created")

    @contextmanager
    def _writing(self, later: list[Future[None]] | None = None) -> Iterator[Writer]:
        """Operations: room for them, the lock while they are applied and logged, then their acknowledgement.

        ``later`` gets the acknowledgement that another thread waits for, if there may be one.
        """
        writer = self._writable()
        self._disk.check(writer.settings)
        self._make_room(writer)
        with writer.lock:
            self._check_writing(writer)
            try:
                yield writer
            finally:
                ticket = writer.logged()
        if later is None or writer.threads == 1:
            writer.log.acknowledge(ticket)
        else:
            later.append(begin(writer.log.acknowledge, ticket))
        if writer.log_fills(FLUSH_AHEAD):
            self._wake()

    def _make_room(self, writer: Writer) -> None:
        """Bound log and memory before an operation: flush a log at its threshold; seal a full buffer, and flush when
        segments in memory are as large again."""
        if writer.log_fills(1.0):
            self._maintenance.flush_log(1.0)
        if not writer.buffer_full:
            return
        with writer.lock:
            self._check_writing(writer)
            writer.seal()
            full = writer.memory_full
        if full:
            self._maintenance.flush()
            if self._kept:
                self._wake()

    def bulk(self, docs: Any, *, id: str | None = None, progress: bool = False) -> BulkReport:
        """Index many documents. A bad one is named in ``failed`` and the rest go on.

        ``docs`` may be of any length: an iterable of dicts or JSON texts; JSON lines as a ``pathlib.Path``, a file
        opened in binary mode, or bytes; anything with ``__arrow_c_stream__``, such as a table of pyarrow, polars or
        pandas (needs pyarrow). ``id`` names the field that holds each one's id (a string or an integer); without it
        ids are generated. ``progress`` shows documents and megabytes a second on stderr.

        Raises DocumentError for what holds no documents, StorageError where reading a file fails, and what an iterable
        raises; what was read before is indexed.
        """
        from . import inputs

        started = time.perf_counter()
        self._writable()
        if not isinstance(id, str | None):
            raise DocumentError("not the name of a field", path="id", found=id, expected="a string, or None")
        runs = inputs.runs(docs)
        failed: list[BulkFailure] = []
        position = patience = 0
        meter = inputs.Meter(len(docs) if isinstance(docs, list | tuple) else None, shown=progress)
        acknowledged: list[Future[None]] = []
        try:
            for run in runs:
                later = acknowledged if run.full else None
                singly = self._bulk(run.docs, position, id, failed, singly=patience > 0, later=later)
                patience = patience - 1 if patience else PATIENCE if 2 * singly > len(run.docs) else 0
                position += len(run.docs)
                while len(acknowledged) > 1:
                    acknowledged.pop(0).result()
                meter.add(run)
        finally:
            meter.close()
            for one in acknowledged:
                one.result()
        indexed = position - len(failed)
        self._indexed.add(indexed)
        failed.sort(key=lambda failure: failure.position)
        return BulkReport(indexed, failed, (time.perf_counter() - started) * 1000)

    def _bulk(
        self, docs: list[Any], position: int, id: str | None, failed: list[BulkFailure], *, singly: bool,
        later: list[Future[None]] | None = None,
    ) -> int:
        """Index a run of documents, logged as one batch; how many of them had to be read one by one."""
        mapping = self._writable().mapping
        read = None if singly else incoming.read(docs, id, mapping)  # before the lock is taken
        with self._writing(later) as writer:
            if read is not None and writer.mapping is mapping and writer.put_all(read, new=id is None):
                return 0
            return self._put_some(writer, docs, position, id, failed, singly=singly)

    def _put_some(
        self, writer: Writer, docs: list[Any], position: int, id: str | None, failed: list[BulkFailure], *,
        singly: bool,
    ) -> int:
        """Documents of which one is unusual: as two halves, and where that does not help one by one."""
        if singly or len(docs) <= FEW:
            for at, doc in enumerate(docs, position):
                key = None
                try:
                    source, body = incoming.decoded(doc)
                    key = incoming.id_of(body, id)
                    self._put(writer, key, source, body, writer.current(key, absent=id is None))
                except RequestError as error:
                    failed.append(BulkFailure(at, None if key is None else key.decode(), error))
            return len(docs)
        middle = len(docs) // 2
        count = 0
        for half, at in ((docs[:middle], position), (docs[middle:], position + middle)):
            read = incoming.read(half, id, writer.mapping)
            if read is None or not writer.put_all(read, new=id is None):
                count += self._put_some(writer, half, at, id, failed, singly=False)
        return count

    def update(
        self, id: str, partial: dict[str, Any], *, upsert: dict[str, Any] | None = None,
        if_seq_no: int | None = None, if_primary_term: int | None = None,
    ) -> WriteResult:
        """Merge ``partial`` into a document: objects merge at every depth, all else replaces.

        A merge that changes nothing writes nothing (result ``noop``). ``upsert`` is put where no document is.

        Raises NotFoundError, ConflictError, DocumentError.
        """
        _check_condition(if_seq_no, if_primary_term)
        key = ids.id_bytes(id)
        self._writable()
        if not isinstance(partial, dict):
            raise DocumentError("a partial document is not an object", found=partial, expected="a dict")
        with self._writing() as writer:
            found = writer.current(key)
            writer.expect(key, found, if_seq_no, if_primary_term)
            if found is None or found.place is None:
                if upsert is None:
                    raise NotFoundError("no such document to update", path=id, fix="put it, or pass upsert=")
                source, body = incoming.decoded(upsert)
                self._indexed.add()
                return self._put(writer, key, source, body, found)
            old: dict[str, Any] = msgspec.json.decode(writer.stored(found.place))
            incoming.check_depth(partial)
            new = incoming.merged(old, partial)
            source = incoming.encoded(new)
            if json.dumps(old, sort_keys=True) == json.dumps(json.loads(source), sort_keys=True):
                return WriteResult(id, found.seq_no, found.version, found.primary_term, "noop")
            self._indexed.add()
            return self._put(writer, key, source, new, found)

    def delete(self, id: str, *, if_seq_no: int | None = None, if_primary_term: int | None = None) -> WriteResult:
        """Delete a document; result ``deleted``, or ``not_found`` (which takes a seq_no, too)."""
        _check_condition(if_seq_no, if_primary_term)
        key = ids.id_bytes(id)
        with self._writing() as writer:
            found = writer.current(key)
            writer.expect(key, found, if_seq_no, if_primary_term)
            exists = found is not None and found.place is not None
            version = writer.next_version(found)
            writer.delete(key, found, version)
        self._deleted.add()
        return WriteResult(id, version.seq_no, version.version, version.primary_term,
                           "deleted" if exists else "not_found")

    def get(self, id: str) -> Document | None:
        """The newest version of a document, searchable yet or not; None if it is not there."""
        key = ids.id_bytes(id)
        self._check()
        if self._writer is None:
            return self._reader.get(id)
        with self._writer.lock:
            found = self._writer.current(key)
            if found is None or found.place is None:
                return None
            return Document(id, self._writer.stored(found.place), found.seq_no, found.version, found.primary_term)

    # Visibility and durability

    def refresh(self) -> None:
        """Make all writes searchable; on a read-only index, what another process has flushed."""
        self._check()
        if self._writer is None:
            self._follow()
            return
        with self._writer.lock:
            self._writer.refresh()

    def flush(self) -> None:
        """Refresh, then write everything to disk; on return it survives a crash.

        Where `publish` was asked to go on with each flush it is published then, with the errors of `publish`.
        """
        self._writable()
        self._maintenance.flush()
        try:
            self._publish_flushed()
        finally:
            self._wake()

    def merge(self, max_segments: int = 1) -> None:
        """Flush, then merge until at most ``max_segments`` remain, without deleted documents."""
        if not isinstance(max_segments, int) or isinstance(max_segments, bool) or max_segments < 1:
            raise SettingsError("not a number of segments", path="max_segments", found=max_segments,
                                expected="an integer, 1 or more")
        self._writable()
        self._maintenance.merge(max_segments)

    # Tiers

    def move(
        self, to: str | None = None, *, older_than: str | None = None, segments: Sequence[str] | None = None,
        dry_run: bool = False,
    ) -> list[Move]:
        """Move segments between tiers while searches and writes go on; the moves that were made.

        ``to``: "hot", "warm" or "cold": those named by ``segments`` go there, or those ``older_than`` a time such as
        "90d", or all. Without ``to``: whatever the rules of `Tiers` ask for. ``dry_run``: nothing moves; each Move says
        what would, and why. What is in memory only is flushed first.

        Raises SettingsError, NotFoundError for a segment that is not there, StoreError where the store fails: what
        moved before has moved, the rest is where it was.
        """
        from ..tiering.policy import Move

        writer = self._writable()
        if to is not None and to not in writer.places.names:
            raise SettingsError("this tier has no place", path="to", found=to,
                                expected="one of " + ", ".join(writer.places.names), fix="give it one with qc.Tiers")
        age = _age(older_than)
        if not dry_run:
            self._maintenance.flush()
        if to is None:
            if older_than is not None or segments is not None:
                raise SettingsError("nowhere to move to", path="to", found=None, expected="a tier",
                                    fix="say to=..., or leave the rest out as well")
            wanted = self._due()
        else:
            there = self._maintenance.placed()
            names = [one.name for one in there if one.age >= age] if segments is None else list(segments)
            known = {one.name: one for one in there}
            if lost := [name for name in names if name not in known]:
                raise NotFoundError("no such segment on disk", path=str(lost[0]), fix="see index.segments()")
            reason = "asked for" if older_than is None else f"older than {older_than}"
            wanted = [Move(name, known[name].tier, to, known[name].bytes, reason) for name in names
                      if known[name].tier != to]
        if not dry_run:
            for one in wanted:
                self._maintenance.move([one.name], one.to)
        return wanted

    def _due(self) -> list[Move]:
        """The moves that the rules and the disk ask for now."""
        from ..tiering.policy import moves

        writer = self._writable()
        return moves(self._maintenance.placed(), writer.places.tiers, self._disk.excess(writer.settings))

    # Searching: a Reader's methods, on the newest view

    def search(
        self, query_or_body: q.Query | dict[str, Any] | None = None, *, size: int | None = None,
        from_: int | None = None, sort: Any = None, aggs: Any = None, source: Any = None, highlight: Any = None,
        track_total_hits: bool | int | None = None, profile: bool | None = None, tiers: Sequence[str] | None = None,
        allow_partial_search_results: bool | None = None,
    ) -> SearchResult:
        """See :meth:`Reader.search`."""
        if self._closed or self._process != process.number:
            self._check()
        reader = self._followed if self._writer is None else self._writer.published
        return reader._search(query_or_body, size, from_, sort, aggs, source, highlight, track_total_hits, profile,
                              tiers, allow_partial_search_results)

    def count(self, query: q.Query | dict[str, Any] | None = None) -> int:
        """See :meth:`Reader.count`."""
        if self._closed or self._process != process.number:
            self._check()
        return (self._followed if self._writer is None else self._writer.published).count(query)

    def explain(self, query: q.Query | dict[str, Any], id: str) -> Explanation:
        """See :meth:`Reader.explain`."""
        self._check()
        return self._reader.explain(query, id)

    def reader(self) -> Reader:
        """A reader of the present view, which later writes do not change."""
        self._check()
        return Reader(self._reader.view)

    def segments(self) -> list[SegmentInfo]:
        """The segments that a search sees."""
        self._check()
        return self._reader.segments()

    # About the index

    @property
    def path(self) -> str:
        return self._directory

    @property
    def mapping(self) -> Mapping:
        """The present mapping, dynamic fields included."""
        self._check()
        return self._writer.mapping if self._writer is not None else self._reader.view.mapping

    @property
    def settings(self) -> Settings:
        self._check()
        return self._writer.settings if self._writer is not None else self._reader.view.settings

    def put_mapping(self, mapping: Mapping | dict[str, Any]) -> None:
        """Add fields, or change what may change of those there are. MappingError for any other change."""
        with self._writing() as writer:
            changed = writer.mapping.merge(mapping)
            if changed is not writer.mapping:
                writer.change_mapping(changed)

    def put_settings(self, settings: dict[str, Any]) -> None:
        """Change settings of the live index. SettingsError for one that cannot change."""
        with self._writing() as writer:
            changed = writer.settings.updated(_dict(settings, SettingsError, "settings"))
            if changed == writer.settings:
                return
            writer.change_settings(changed)
        with writer.lock:
            writer.publish()
        writer.log.set_durability(changed.translog_durability, changed.translog_sync_interval)
        self._wake()

    def analyze(self, text: str, *, analyzer: str | None = None, field: str | None = None) -> list[Token]:
        """The tokens that ``text`` becomes with an analyzer, or with that of a field (default: standard)."""
        if not isinstance(text, str):
            raise RequestError("not a text", path="text", found=text, expected="a string")
        for argument, name in (("analyzer", analyzer), ("field", field)):
            if not isinstance(name, str | None):
                raise RequestError("not a name", path=argument, found=name, expected="a string, or None")
        if analyzer is None and field is not None:
            found = self.mapping.fields.get(field)
            if found is None:
                raise MappingError("no such field", path=field, expected="a field of the mapping")
            analyzer = found.analyzer or "keyword"
        return get_analyzer(analyzer or "standard").tokens(text)

    def stats(self) -> dict[str, Any]:
        """Numbers about the index, ready for JSON."""
        self._check()
        infos = self._reader.segments()
        writer = self._writer
        return {
            "docs": {"count": sum(info.docs for info in infos), "deleted": sum(info.deleted for info in infos)},
            "segments": {"count": len(infos), "bytes": sum(info.bytes for info in infos),
                         "in_memory": sum(info.in_memory for info in infos)},
            "buffer": {"docs": writer.buffered_docs if writer is not None else 0},
            "fields": len(self.mapping.fields),
            "generation": writer.manifest.generation if writer is not None else self._generation(),
            "disk": {"total": self._disk.total, "free": self._disk.free, "level": self._disk.level},
            "translog": dataclasses.asdict(writer.log.stats()) if writer is not None else None,
            "max_seq_no": writer.next_seq_no - 1 if writer is not None else self._manifest_seq_no(),
        }

    def _gauges(self) -> Iterator[metrics.Gauge]:
        """What `metrics` shows of this index, read when it is asked for."""
        if self._closed or self._process != os.getpid():
            return
        name = os.path.basename(self._directory)
        infos = self._reader.segments()
        yield metrics.Gauge("quidditch_docs", "Live documents.", {"index": name}, sum(info.docs for info in infos))
        for tier in sorted({HOT, *(info.tier for info in infos)}):
            used = sum(info.bytes for info in infos if info.tier == tier and not info.in_memory)
            yield metrics.Gauge("quidditch_disk_usage_bytes", "Bytes of the segments in a tier.",
                                {"index": name, "tier": tier}, used)
        if self._disk.total:
            yield metrics.Gauge("quidditch_disk_capacity_bytes", "Size of the disk of a tier, as last looked at.",
                                {"index": name, "tier": HOT}, self._disk.total)
        if self._writer is not None:
            log = self._writer.log.stats()
            yield metrics.Gauge("quidditch_translog_size_bytes", "Bytes of the log that recovery would read.",
                                {"index": name}, log.size)
            yield metrics.Gauge("quidditch_translog_operations_total", "Operations logged since the index was opened.",
                                {"index": name}, log.operations, "counter")
            yield metrics.Gauge("quidditch_translog_fsyncs_total", "Syncs of the log since the index was opened.",
                                {"index": name}, log.fsyncs, "counter")

    @contextmanager
    def committed(self, *, flush: bool = True) -> Iterator[tuple[Places, str, Manifest]]:
        """The tiers, directory and manifest of the newest commit, after a flush; it stays as long as this is open."""
        if flush:
            self._check()
            self._at_home("kept in a snapshot", "copy the repository, or restore the snapshot")
            if self._writer is not None:
                self._maintenance.flush()
                self._wake()
        with manifests.hold(self._files, self._directory) as held:
            tiers = self._tiers if self._writer is None else self._writer.places.tiers
            yield places_of(self._files, self._directory, held.manifest, tiers), self._directory, held.manifest

    def snapshot(
        self, url: str | os.PathLike[str], *, name: str | None = None,
        storage_options: dict[str, Any] | None = None, base_path: str = "", body: dict[str, Any] | None = None,
    ) -> SnapshotInfo:
        """Flush, and keep what there is in the repository at ``url``; what it has already is not copied again.

        Without ``name`` it is the moment (UTC). ``body``: OpenSearch's, of which what one index cannot do is refused.
        Writing and searching go on. `Repository` lists, verifies and deletes snapshots, and has more ways to make them;
        `restore` makes an index of one. Raises ConflictError if the name is taken, UnsupportedError, StorageError.
        """
        from .snapshot import Repository

        return Repository(url, storage_options=storage_options, base_path=base_path).snapshot(self, name, body=body)

    def publish(
        self, url: str | os.PathLike[str], storage_options: dict[str, Any] | None = None, *, take_over: bool = False,
        retention: str | float | None = None, on_flush: bool | None = None,
    ) -> PublishInfo:
        """Flush, and make what there is visible at ``url``, to all who ``open(url, read_only=True)``.

        What is there already is not sent again. Writing and searching go on. One open index publishes at a URL: any
        other, a copy of it or itself when opened again, has to ``take_over``, after which the first is refused. What
        newer editions dropped is kept for ``retention`` ("1h" until something else is asked for), then removed.
        ``on_flush``: from now on do this with each flush (False: no longer), as long as this index is open; nothing of
        it is stored.

        Raises PublishFenced, IndexExistsError (another index is published there), ReadOnlyError, UnsupportedError (the
        store overwrites), StoreError; then nobody sees anything of it, and the index is as it was.
        """
        from ..tiering.store import FsspecStore
        from .publish import Publisher
        from .snapshot import seconds

        self._writable()
        kept = seconds(retention, "retention")
        where = _text(url)
        if "://" in where and "#" in where:
            raise InvalidNameError("not a URL to publish at", path=where, expected="none with #, which names snapshots")
        store = FsspecStore(where, storage_options)
        publisher = self._publishers.get(store.url)
        if publisher is None:
            publisher = self._publishers.setdefault(store.url, Publisher(store))
        elif storage_options is not None:
            publisher.use(store)
        if kept is not None:
            publisher.retention = kept
        if on_flush is False:
            self._kept.pop(store.url, None)
        info = publisher.publish(self, take_over=take_over)
        if on_flush:
            self._kept[store.url] = publisher
        return info

    def _publish_flushed(self, *, background: bool = False) -> None:
        """Publish what was flushed wherever that was asked for. An error keeps no other place from it, and comes last.

        In the background, what was only merged can wait, and that another writer has taken over is said once.
        """
        failed: QuidditchError | None = None
        assert self._writer is not None
        for publisher in list(self._kept.values()):
            try:
                if publisher.lacks(self._writer.manifest, merged=not background) and not (
                        background and publisher.fenced):
                    publisher.publish(self, flush=False)
            except QuidditchError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def check(self, *, progress: Progress | None = None) -> CheckReport:
        """Verify every byte and every fact of the newest commit, of the log, and of what searches see.

        ``progress(read, total)`` is told the bytes read so far and all there are. Searches and writes go on.
        """
        from .check import check_index

        self._check()
        self._at_home("checked", "Repository.verify reads every byte of a snapshot")
        tiers = self._tiers if self._writer is None else self._writer.places.tiers
        return check_index(self._files, self._directory, self._reader.view, progress=progress, tiers=tiers)

    def close(self) -> None:
        """Flush and let the index go; closing twice is allowed. After a failed commit nothing is flushed."""
        if self._process != process.number:
            return
        with self._closing:
            if self._closed:
                return
            # An operation of another thread comes before this, and is flushed, or after it, and is refused.
            with self._writer.lock if self._writer is not None else self._following:
                self._closed = True
                self._watched.end()
            for worker in self._workers:
                self._maintenance.cancel()
                worker.stop()
            try:
                if self._writer is not None:
                    self._close_writer(self._writer)
            finally:
                if self._hold is not None:
                    self._hold.release()
                self._reader.close()

    def _close_writer(self, writer: Writer) -> None:
        try:
            if writer.failure is None and not writer.log.failed:
                self._maintenance.flush()
                self._publish_flushed()
        finally:
            try:
                writer.log.close()
            finally:
                writer.write_lock.release()

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._closed or self._process != process.number:
            return f"Index({self._directory!r}, closed)"
        infos = self._reader.segments()
        return f"Index({self._directory!r}, docs={sum(info.docs for info in infos)}, segments={len(infos)})"

    # Inside

    def _check(self) -> None:
        if self._process != process.number:
            raise IndexClosedError("the index was opened before this process was forked", path=self._directory,
                                   fix="open the index after the fork, or start processes by 'spawn'")
        if self._closed:
            raise IndexClosedError("the index is closed", path=self._directory, fix="open it again")

    def _writable(self) -> Writer:
        self._check()
        if self._writer is None:
            raise ReadOnlyError("the index was opened to read only", path=self._directory,
                                fix="open it without read_only=True")
        return self._writer

    def _check_writing(self, writer: Writer) -> None:
        """Raise unless operations may go on; with the writer's lock held, so that none comes after `close`."""
        self._check()
        writer.check()

    @property
    def _reader(self) -> Reader:
        """The reader of the newest view."""
        return self._writer.published if self._writer is not None else self._followed

    # In the background

    def _wake(self) -> None:
        """Something changed that the workers act on; without workers the work is done now."""
        for worker in self._workers:
            worker.wake()
        if not self._workers:
            self._maintain()

    def _refresh_interval(self) -> float:
        assert self._writer is not None
        return self._writer.settings.refresh_interval

    def _refresh_if_dirty(self) -> None:
        assert self._writer is not None
        with self._writer.lock:
            if self._writer.dirty and not self._closed:
                self._writer.refresh()

    def _maintain(self) -> None:
        """Flush if the log has become long, then merge what the policy asks for. A failure is warned about."""
        from .maintenance import MergeCancelled

        assert self._writer is not None
        try:
            self._maintenance.flush_log(FLUSH_AHEAD)
            self._maintenance.merge_as_asked(rest=bool(self._workers))
        except MergeCancelled:
            return
        except QuidditchError as error:
            if not self._closed:
                warnings.warn(f"quidditch: a merge in the background failed: {error}", RuntimeWarning, stacklevel=1)

        self._tier_as_asked()
        if self._closed:  # which publishes itself
            return
        try:
            self._publish_flushed(background=True)
        except QuidditchError as error:
            warnings.warn(f"quidditch: publishing in the background failed: {error}", RuntimeWarning, stacklevel=1)

    def _tier_as_asked(self) -> None:
        """Move what is due, and sweep the stores."""
        from ..errors import NotFoundError

        writer = self._writer
        assert writer is not None
        if not writer.places.names[1:] or self._closed:
            return
        try:
            self._maintenance.sweep()
            for one in self._due():
                if self._closed:
                    return
                with suppress(NotFoundError):  # merged away meanwhile
                    self._maintenance.move([one.name], one.to)
        except QuidditchError as error:
            if not self._closed:
                warnings.warn(f"quidditch: a move in the background failed: {error}", RuntimeWarning, stacklevel=1)

    # Reading only

    def _at_home(self, what: str, fix: str) -> None:
        if self._writer is None and not isinstance(self._source, Directory):
            raise UnsupportedError(f"an index that is searched where it is kept cannot be {what}", path=self._directory,
                                   expected="an index in a directory", fix=fix)

    def _newest_view(self) -> tuple[Holding, View]:
        """The newest commit. One that expires while it is opened is the newest no longer."""
        assert self._source is not None
        turn = 0
        while True:
            hold = self._source.hold()
            try:
                return hold, self._view_of(hold)
            except BaseException as error:
                hold.release()
                turn += 1
                if not isinstance(error, ReaderExpired) or turn == REOPENINGS:
                    raise

    def _view_of(self, hold: Holding) -> View:
        assert self._source is not None
        manifest = hold.manifest
        places = self._source.places(manifest)
        keys = {entry.name: _segment_key(places, entry) for entry in manifest.segments}
        segments, masks = dict(self._opened), dict(self._masks)
        new = [entry for entry in manifest.segments if keys[entry.name] not in segments]
        masked = [entry for entry in manifest.segments if entry.live is not None and _mask_key(entry) not in masks]
        ahead = store.read_ahead(places, new, [entry.live for entry in masked if entry.live is not None])
        for entry in new:
            segments[keys[entry.name]] = store.open_segment(places, entry, ahead.get(entry.name))
        for entry in masked:
            assert entry.live is not None
            masks[_mask_key(entry)] = store.read_live(places.hot, entry, ahead.get(entry.live.name))
        self._opened = {key: segments[key] for key in keys.values()}
        self._masks = {key: masks[key] for key in map(_mask_key, manifest.segments) if key[0] is not None}
        leaves = [Leaf(segments[keys[entry.name]], masks.get(_mask_key(entry)), entry.tier, entry.size)
                  for entry in manifest.segments]
        return View(leaves, Mapping.from_dict(manifest.mapping), Settings.from_dict(manifest.settings),
                    os.path.basename(self._directory))

    def _follow(self) -> None:
        assert self._hold is not None
        assert self._source is not None
        with self._following:
            self._check()
            if self._source.generation() == self._hold.manifest.generation:
                return
            hold, view = self._newest_view()
            self._hold.release()
            self._hold = hold
            self._followed = Reader(view)

    def _generation(self) -> int:
        assert self._hold is not None
        return self._hold.manifest.generation

    def _manifest_seq_no(self) -> int:
        assert self._hold is not None
        return self._hold.manifest.max_seq_no


def _text(path: Any) -> str:
    """A path or URL as text. InvalidNameError if it is none."""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise InvalidNameError("not a path", found=path, expected="a directory or a URL, as str or path object")
    return text


def _is_published(path: str) -> bool:
    """Whether what can be read there is a published index: it has a URL, or is a directory that others publish to."""
    if "://" in path:
        return True
    return os.path.isdir(os.path.join(path, "published")) and not manifests.generations(OS_FILES, path)


_SegmentKey = tuple[str, str, str]
_MaskKey = tuple[LiveEntry | None, int, int]


def _segment_key(places: Places, entry: SegmentEntry) -> _SegmentKey:
    """What makes an open segment another one: also that the same bytes are another object now."""
    return entry.tier, entry.name if places.remote is None else places.remote.key(entry.name), entry.sha256


def _mask_key(entry: SegmentEntry) -> _MaskKey:
    return entry.live, entry.docs, entry.live_docs


def _directory(path: Any) -> str:
    try:
        text = os.fspath(path)
    except TypeError:
        raise InvalidNameError("not a path", found=path, expected="a directory as str or path object") from None
    if not isinstance(text, str) or not text or "\0" in text:
        raise InvalidNameError("not a path", found=path, expected="a directory as str or path object")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise InvalidNameError("not a path", found=path, expected="text without lone surrogates") from None
    if "://" in text:
        raise UnsupportedError("an index is written in a directory", path=text, expected="a path",
                               fix="open(URL, read_only=True) searches what is published there")
    directory = os.path.abspath(text)
    if os.path.exists(directory) and not os.path.isdir(directory):
        raise InvalidNameError("the path is a file", path=directory, expected="a directory, or nothing yet")
    return directory


def _check_condition(if_seq_no: Any, if_primary_term: Any) -> None:
    for name, value in (("if_seq_no", if_seq_no), ("if_primary_term", if_primary_term)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63):
            raise DocumentError("not a number of an operation", path=name, found=value,
                                expected="an integer, 0 or more, as a WriteResult or Document has it")


def _age(text: Any) -> float:
    if text is None:
        return 0.0
    seconds = parse_time(text) if isinstance(text, str) else None
    if seconds is None or seconds < 0:
        raise SettingsError("not an age", path="older_than", found=text, expected='a time such as "90d" or "12h"')
    return seconds


def _dict(value: Any, error: type[QuidditchError], what: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise error(f"{what} are not an object", path=what, found=value, expected="a dict")
    return value


def _check_tiers(tiers: Any) -> None:
    if tiers is None:
        return
    if not isinstance(tiers, Tiers):
        raise SettingsError("not tiers", path="tiers", found=tiers, expected="qc.Tiers(...)")

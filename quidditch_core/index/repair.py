"""What is whole of a damaged index, written into a new one; and exactly what is not.

Nothing is ever changed in place. The documents come from their stored sources and are indexed anew under the mapping
of the newest commit that can be read. Of an id the newest operation counts: in a segment, where its live mask lets
it live, or in the log. What no commit names, such as segments whose manifest is gone, is used where it is needed.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..analysis import ANALYZERS, get_analyzer
from ..config import Durability, Settings, Tiers
from ..errors import (
    CorruptIndexError,
    IndexExistsError,
    IndexNotFoundError,
    InvalidNameError,
    RequestError,
)
from ..files import OS_FILES, Files
from ..mapping import Mapping
from ..result import Documents, RepairReport
from ..tiering import HOT
from ..translog.record import ChangeMapping, ChangeSettings, Delete
from ..translog.record import Index as Put
from . import facade, salvage
from . import manifest as manifests
from .check import Progress, check, located
from .lock import LOCK_FILE, WriterLock
from .manifest import TRANSLOG_DIRECTORY, Manifest, SegmentEntry
from .places import Places, places_of
from .salvage import DELETED, LIVE, UNKNOWN, Log, Source
from .verify import is_object

LOST_AND_FOUND = "lost+found"
"""Ids of documents whose own cannot be read: lost+found/SEGMENT/DOCUMENT."""

PARTIAL = ".partial"
"""Suffix of the new index while it is written."""


def repair(
    path: str | os.PathLike[str], to: str | os.PathLike[str], *, mapping: Mapping | dict[str, Any] | None = None,
    tiers: Tiers | None = None,
    confirm: Callable[[RepairReport], bool] = lambda report: True, progress: Progress | None = None,
) -> RepairReport:
    """Salvage the documents of the damaged index at ``path`` into a new index at ``to``, under their ids.

    ``path`` must not be open for writing, and is not changed. ``mapping`` replaces that of the index; without it and
    without any readable manifest one is made up from the segments. ``tiers``: where segments are besides, with the
    options of the store, if not where the index says; all documents go to ``to``, into the hot tier. ``confirm`` is
    asked with the report of what will be done; if it says no, nothing is written. Documents get new versions and
    sequence numbers.

    Raises IndexNotFoundError, IndexExistsError, LockError, StorageError; StoreError where a store that has segments
    cannot be reached, since nobody knows then what is lost.
    """
    started = time.perf_counter()
    directory, target = located(path), located(to)
    _check_target(directory, target)
    with _idle(OS_FILES, directory):
        plan = _Plan(OS_FILES, directory, target, mapping, tiers, progress)
        if confirm(plan.report):
            plan.write()
    return msgspec.structs.replace(plan.report, took_ms=(time.perf_counter() - started) * 1000)


def _check_target(directory: str, target: str) -> None:
    if os.path.commonpath([directory, target]) in (directory, target):
        raise InvalidNameError("the new index would lie within the damaged one, or around it", path=target,
                               expected="another directory")
    if os.path.lexists(target) and (not os.path.isdir(target) or os.listdir(target)):
        raise IndexExistsError("there is something already", path=target, fix="choose a path where nothing is")
    if os.path.lexists(target + PARTIAL):
        raise IndexExistsError("an earlier repair was broken off", path=target + PARTIAL, fix="remove this directory")


@contextmanager
def _idle(files: Files, directory: str) -> Iterator[None]:
    """Keep writers out. Works on read-only media, where a writer's own lock does not."""
    path = os.path.join(directory, LOCK_FILE)
    if not files.exists(path):
        yield
        return
    file = files.open(path, "r")
    try:
        while not file.lock(shared=True):
            WriterLock.acquire(directory, files=files).release()  # raises, and names who holds it
        yield
    finally:
        file.close()


class _Plan:
    """What will be salvaged: made by reading everything once, then written by reading it again."""

    def __init__(
        self, files: Files, directory: str, target: str, mapping: Mapping | dict[str, Any] | None,
        tiers: Tiers | None, progress: Progress | None,
    ) -> None:
        self._directory, self._target = directory, target
        self._progress, self._done, self._total = progress, 0, 0
        commits = salvage.read_commits(files, directory)
        manifest = commits.manifests[0] if commits.manifests else None
        self._places = Places(files, directory, "", Tiers()) if manifest is None \
            else places_of(files, directory, manifest, tiers)
        self._current = manifest is not None and manifest.generation == commits.newest
        self._lost: list[Documents] = []
        self._unknown: list[Documents] = []
        self._mended = commits.mended
        if not self._current:
            where = manifests.file_name(commits.newest) if commits.newest else "manifest"
            since = "" if manifest is None else f" after operation {manifest.max_seq_no}"
            self._doubt(where, f"the newest commit cannot be read: what was deleted{since} is not known")

        self._sources: list[Source] = []  # they decide what there is, in the order of the index
        self._spare: list[Source] = []  # they only have copies of it
        self._named = [] if manifest is None else [(entry.tier, entry.name) for entry in manifest.segments]
        self._missing: list[tuple[SegmentEntry, str]] = []  # segments of the commit of which nothing can be read
        self._masks_lost: set[str] = set()  # segments of the commit whose live mask cannot be read
        self._read_segments(commits)
        if manifest is None and not self._sources:
            raise IndexNotFoundError("no index here, or nothing of it can be read", path=directory,
                                     fix="check the path")

        self._operations: dict[bytes, tuple[int, bool]] = {}  # id -> newest in the log, and whether it is a document
        self._log = Log(files, os.path.join(directory, TRANSLOG_DIRECTORY),
                        manifest.max_seq_no if manifest is not None and self._current else None)
        self._read_log()
        self._settings = Settings() if manifest is None else Settings.from_dict(manifest.settings)
        self._mapping, self._origin = self._choose_mapping(mapping, manifest)

        self._wanted = self._choose()
        self._unread: dict[tuple[int, int], str] = {}  # (source, document) that is wanted -> why it is lost
        self._rescued: dict[tuple[int, int], bytes] = {}  # (source, document) -> a copy found elsewhere
        self._survey()
        self._rescue()
        self._note_lost()
        self._note_unknown()
        self._salvaged = sum(int(wanted.sum()) for wanted in self._wanted) - len(self._unread) \
            + sum(is_document for _, is_document in self._operations.values())

    @property
    def report(self) -> RepairReport:
        return RepairReport(self._directory, self._target, self._origin, self._salvaged, self._lost, self._unknown,
                            self._mended)

    # Reading

    def _read_segments(self, commits: salvage.Commits) -> None:
        """The segments of the newest commit; others too, which count if something of that commit is missing."""
        used = {HOT, *(entry.tier for manifest in commits.manifests for entry in manifest.segments)}
        strays = [(tier, name) for tier in sorted(used) for name in self._places.tier(tier).list()
                  if name.startswith("seg-") and (tier, name) not in self._named]
        entries = {place: commits.entry(place[1]) for place in [*self._named, *strays]}
        self._total = sum(entry.size for entry in entries.values() if entry is not None)
        for (tier, name), entry in entries.items():
            source = salvage.read_segment(self._places.tier(tier), self._places.hot, name, entry, self._mended,
                                          self._advance)
            complete = self._current and not self._missing
            if (tier, name) in self._named:
                assert entry is not None
                if not isinstance(source, Source):
                    self._missing.append((entry, source))
                    continue
                self._sources.append(source)
                if self._current and (source.state == UNKNOWN).all():
                    self._masks_lost.add(name)
            elif isinstance(source, Source):
                source.state[source.state == LIVE] = UNKNOWN  # deleted since, perhaps
                (self._spare if complete else self._sources).append(source)
            elif not complete:
                self._doubt(name, f"nothing of this segment can be read: {source}")

    def _advance(self, read: int) -> None:
        self._done += read
        if self._progress is not None:
            self._progress(self._done, max(self._total, self._done))

    def _doubt(self, segment: str, why: str) -> None:
        self._unknown.append(Documents(segment, 0, 0, None, (), why))

    def _read_log(self) -> None:
        for operation in self._log:
            if isinstance(operation, Put | Delete):
                self._operations[operation.id.encode()] = operation.seq_no, isinstance(operation, Put)
        self._mended += self._log.mended
        self._unknown += self._log.unknown

    def _choose_mapping(
        self, given: Mapping | dict[str, Any] | None, manifest: Manifest | None,
    ) -> tuple[Mapping, str]:
        if given is not None:
            return (given if isinstance(given, Mapping) else Mapping.from_dict(given)), "the caller"
        if manifest is not None:
            return Mapping.from_dict(manifest.mapping), manifests.file_name(manifest.generation)
        return _made_up([*self._sources, *self._spare]), "the fields of the segments"

    # Choosing

    def _choose(self) -> list[NDArray[np.bool_]]:
        """For each source which of its documents are to be salvaged.

        Where a readable commit says what lives there is nothing to choose: the log is newer than all segments.
        """
        newest: dict[bytes, int] = {}
        claimed: set[bytes] = set()
        if not self._current or any((source.state == UNKNOWN).any() for source in self._sources):
            for source in self._sources:
                for id, seq_no in zip(source.ids, source.seq_no.tolist(), strict=True):
                    if id is not None and seq_no >= newest.get(id, -1):
                        newest[id] = seq_no
            for source in self._sources:
                self._decide(source, newest)
            self._operations = {id: found for id, found in self._operations.items() if found[0] >= newest.get(id, -1)}
        chosen = []
        for source in self._sources:
            wanted = source.state != DELETED
            for doc in np.flatnonzero(wanted).tolist():
                id, seq_no = source.ids[doc], int(source.seq_no[doc])
                if id is None:
                    continue
                logged = self._operations.get(id)
                if seq_no < newest.get(id, -1) or id in claimed or (logged is not None and logged[0] >= seq_no):
                    wanted[doc] = False
                elif newest:
                    claimed.add(id)
            chosen.append(wanted)
        return chosen

    def _decide(self, source: Source, newest: dict[bytes, int]) -> None:
        """A mask that cannot be read deletes nothing but what was replaced, if that gives the number that lived."""
        if source.entry is None or source.name not in self._masks_lost:
            return
        standing = [id is None or int(seq_no) >= newest[id]
                    for id, seq_no in zip(source.ids, source.seq_no.tolist(), strict=True)]
        if sum(standing) == source.entry.live_docs:
            source.state[:] = np.where(standing, LIVE, DELETED)

    def _id(self, number: int, doc: int) -> str:
        source = self._sources[number]
        id = source.ids[doc]
        return f"{LOST_AND_FOUND}/{source.name}/{doc}" if id is None else id.decode()

    # What cannot be read

    def _survey(self) -> None:
        """Read all documents that are wanted, to know which of them are lost."""
        for number, source in enumerate(self._sources):
            wanted = self._wanted[number]
            for first, count, documents, why in source.documents():
                for doc in range(first, first + count):
                    if wanted[doc] and documents is None:
                        self._unread[number, doc] = why
                    elif wanted[doc] and documents is not None and not is_object(documents[doc - first]):
                        self._unread[number, doc] = "the source is not a JSON object"

    def _rescue(self) -> None:
        """Look for copies of lost documents, the same operation on the same id, in all other segments."""
        missing = {}
        for number, doc in self._unread:
            source = self._sources[number]
            id, seq_no = source.ids[doc], int(source.seq_no[doc])
            if id is not None and seq_no >= 0:
                missing[id, seq_no] = number, doc
        if not missing:
            return
        for source in [*self._sources, *self._spare]:
            keys = list(zip(source.ids, source.seq_no.tolist(), strict=True))
            if not any(key in missing for key in keys):
                continue
            for first, _, documents, _ in source.documents():
                for doc, document in enumerate(documents or (), first):
                    id, seq_no = keys[doc]
                    place = missing.get((id, seq_no)) if id is not None else None
                    if place is not None and is_object(document):
                        self._rescued[place] = document
                        self._unread.pop(place, None)

    def _note_lost(self) -> None:
        """Whole segments, of which older commits may have some; then runs of neighbours lost for the same reason."""
        self._lost += [Documents(entry.name, 0, entry.docs, entry.live_docs, (), why) for entry, why in self._missing]

        def key(item: tuple[int, tuple[tuple[int, int], str]]) -> Any:
            position, ((number, doc), why) = item
            return number, doc - position, why

        for (number, _, why), run in groupby(enumerate(sorted(self._unread.items())), key):
            docs = [doc for _, ((_, doc), _) in run]
            ids = (self._sources[number].ids[doc] for doc in docs)
            self._lost.append(Documents(
                self._sources[number].name, docs[0], docs[-1] + 1, len(docs),
                tuple(id.decode() for id in ids if id is not None), why))

    def _note_unknown(self) -> None:
        """What is salvaged though it may have been deleted, and what has no name."""
        for number, source in enumerate(self._sources):
            read = [doc for doc in np.flatnonzero(self._wanted[number]).tolist() if (number, doc) not in self._unread]
            for docs, why in (
                ([doc for doc in read if source.state[doc] == UNKNOWN],
                 "nothing says whether they were deleted; they are salvaged"),
                ([doc for doc in read if source.ids[doc] is None],
                 "their ids cannot be read; they are salvaged under these, whatever the log says of them"),
            ):
                if docs:
                    self._unknown.append(Documents(source.name, docs[0], docs[-1] + 1, len(docs),
                                                   tuple(self._id(number, doc) for doc in docs), why))

    # Writing

    def write(self) -> None:
        """Make the new index; it gets its name when it is whole."""
        partial = self._target + PARTIAL
        quiet = dataclasses.replace(self._settings, refresh_interval=-1.0, translog_durability=Durability.ASYNC)
        with facade.create(partial, self._mapping, settings=quiet) as index:
            for name, doc, id, source in self._documents():
                try:
                    index.put(id, source)
                except RequestError as error:
                    self._lost.append(Documents(name, doc, doc + 1, 1, (id,), f"the mapping refuses it: {error}"))
            self._put_log(index)
            index.put_settings(self._settings.to_dict())
            index.refresh()
            self._salvaged = index.count()
        checked = check(partial)
        if not checked.ok:
            raise CorruptIndexError("the new index is damaged as well", path=partial, found=str(checked.problems[0]),
                                    fix="check the disk")
        OS_FILES.rename(partial, self._target)
        OS_FILES.sync_dir(os.path.dirname(self._target))

    def _documents(self) -> Iterator[tuple[str, int, str, bytes]]:
        """(segment, document, id, source) of everything that is salvaged from segments, in the order of the index."""
        for number, source in enumerate(self._sources):
            wanted = self._wanted[number]
            for first, count, documents, _ in source.documents():
                for doc in range(first, first + count):
                    rescued = self._rescued.get((number, doc))
                    if rescued is not None:
                        yield source.name, doc, self._id(number, doc), rescued
                    elif wanted[doc] and documents is not None and (number, doc) not in self._unread:
                        yield source.name, doc, self._id(number, doc), documents[doc - first]

    def _put_log(self, index: facade.Index) -> None:
        """What the log did, in its order; of each id only the newest operation, unless a segment has a newer one."""
        for operation in self._log:
            try:
                if isinstance(operation, ChangeMapping):
                    index.put_mapping(operation.mapping)
                elif isinstance(operation, ChangeSettings):
                    self._settings = Settings.from_dict(operation.settings)
                elif isinstance(operation, Put) and \
                        self._operations.get(operation.id.encode()) == (operation.seq_no, True):
                    index.put(operation.id, operation.source)
            except RequestError as error:
                ids = (operation.id,) if isinstance(operation, Put) else ()
                self._lost.append(Documents("translog", 0, 0, len(ids), ids,
                                            f"operation {operation.seq_no} is refused: {error}"))


# --- a mapping out of segments ---------------------------------------------------------------------------------


def _made_up(sources: list[Source]) -> Mapping:
    """The mapping that the fields of segments imply: types, analyzers, multi-fields; nothing is added to it later."""
    names = {get_analyzer(name).hash: name for name in ANALYZERS}
    fields: dict[str, dict[str, Any]] = {}
    for source in sources:
        for info in source.segment.fields.values():
            spec: dict[str, Any] = {"type": info.type}
            if info.type == "text":
                spec |= {"analyzer": names.get(info.analyzer, "standard"), "norms": info.norms} if info.indexed \
                    else {"index": False}
            elif not info.column:
                spec["doc_values"] = False
            fields[info.name] = spec
    properties: dict[str, Any] = {}
    for name in sorted(fields):
        parent, _, own = name.rpartition(".")
        if parent in fields:
            fields[parent].setdefault("fields", {})[own] = fields[name]
        else:
            properties[name] = fields[name]
    return Mapping.from_dict({"dynamic": False, "properties": properties})

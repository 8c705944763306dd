"""Snapshots: the commits of indexes, kept in a repository that any fsspec URL may name. FORMAT.md draws it.

::

    blobs/<sha256>              what a segment or a live mask is; shared by all snapshots that have it
    snapshots/<name>.json       one snapshot: its manifest; written last, by a conditional put
    pending/<token>.json        the blobs that a running snapshot relies on
    gc.json                     somebody removes blobs

Machines that use one repository do not harm each other. A snapshot writes what it relies on into ``pending`` *before*
it looks whether somebody removes blobs; who removes blobs writes ``gc.json`` *before* looking at what others rely on.
So whatever the order, one of the two sees the other: the snapshot waits, or the blobs stay.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from ..errors import (
    ConflictError,
    CorruptIndexError,
    InvalidNameError,
    NotFoundError,
    SettingsError,
)
from ..files import OS_FILES, Files
from ..tiering import Store
from .manifest import Manifest
from .objects import (
    Blob,
    blobs_of,
    check_size,
    decoded,
    framed,
    places_at,
    portable,
    received,
    restore,
    searched,
    sent,
    unframed,
)
from .places import Places

if TYPE_CHECKING:
    from .facade import Index
    from .publish import PublishInfo

WAIT: Final = 60.0
"""Seconds that a snapshot waits for somebody who removes blobs."""
SETTLE: Final = 2.0
"""Seconds by which a list of objects may be out of date; who removes blobs waits so long before looking."""
REMOVING_ENDS: Final = 15 * 60
"""Seconds after which who removes blobs stops; its ``gc.json`` is void after four times as long."""
PENDING_ENDS: Final = 7 * 86_400
"""Seconds after which a snapshot that has not ended is taken for dead, and its blobs may go."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,199}", re.ASCII)
_GC = "gc.json"

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class SnapshotInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot: ``name``; of which ``index``; ``created_ms`` since the epoch; its live ``docs``; the ``bytes`` and
    number of its ``blobs``, and how many of these were not there before (``uploaded``)."""

    name: str
    index: str
    created_ms: Count
    docs: Count
    bytes: Count
    blobs: Count
    uploaded: Count = 0


class SnapshotCheck(msgspec.Struct, frozen=True):
    """What verifying a snapshot found: a line for each blob that is missing or damaged; none if it is ``ok``."""

    name: str
    blobs: int
    bytes: int
    problems: list[str]

    @property
    def ok(self) -> bool:
        return not self.problems


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    info: SnapshotInfo
    manifest: Manifest


class _Pending(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    since: float
    blobs: tuple[str, ...]


class _Removing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    since: float
    who: str


class Repository:
    """Snapshots of any number of indexes under one URL, by any number of machines.

    ``url``: a directory or an fsspec URL, ``storage_options`` in fsspec's form; ``base_path``: a folder below it.
    """

    def __init__(
        self, url: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None, base_path: str = "",
        store: Store | None = None,
    ) -> None:
        if store is None:
            from ..tiering.store import FsspecStore

            whole = os.fspath(url).rstrip("/")
            store = FsspecStore(f"{whole}/{base_path.strip('/')}" if base_path else whole, storage_options)
        self._store = store
        self.url = store.url

    def __repr__(self) -> str:
        return f"Repository({self.url!r})"

    # Making

    def snapshot(self, index: Index, name: str | None = None) -> SnapshotInfo:
        """Flush ``index`` and keep what it is then; writing goes on. Blobs that are here already are not copied.

        Without ``name`` it is the moment (UTC). ConflictError if there is such a snapshot already.
        """
        name = time.strftime("%Y%m%d-%H%M%S", time.gmtime()) if name is None else name
        key = _key(name)
        if self._store.size(key) is not None:
            raise _exists(name, self.url)
        with index.committed() as (places, directory, manifest):
            blobs = {blob.sha256: blob for blob in blobs_of(manifest)}
            manifest = portable(manifest)
            with self._pending(blobs) as pending:
                missing = [blob for blob in blobs.values() if self._store.size(_blob_key(blob)) != blob.size]
                for blob in missing:
                    self._store.put(_blob_key(blob), sent(places, blob, directory))
                info = SnapshotInfo(
                    name=name, index=os.path.basename(directory), created_ms=time.time_ns() // 1_000_000,
                    docs=sum(segment.live_docs for segment in manifest.segments),
                    bytes=sum(blob.size for blob in blobs.values()), blobs=len(blobs), uploaded=len(missing))
                if self._store.size(pending) is None:
                    raise ConflictError("the snapshot took so long that its blobs may have been removed", path=name,
                                        expected=f"at most {PENDING_ENDS} s", fix="make it again")
                if not self._store.create(key, framed("snapshot", _Record(info=info, manifest=manifest))):
                    raise _exists(name, self.url)
        return info

    @contextmanager
    def _pending(self, blobs: Collection[str]) -> Iterator[str]:
        key = f"pending/{uuid.uuid4().hex}.json"
        self._store.put(key, [msgspec.json.encode(_Pending(since=time.time(), blobs=tuple(sorted(blobs))))])
        try:
            self._await_remover()
            yield key
        finally:
            self._store.delete(key)

    def _await_remover(self) -> None:
        ends = time.monotonic() + WAIT
        while (removing := self._removing()) is not None:
            if time.monotonic() > ends:
                raise ConflictError("somebody removes blobs of this repository", path=self.url, found=removing.who,
                                    expected=f"that it ends within {WAIT:.0f} s", fix="try again later")
            time.sleep(0.2)

    def _removing(self) -> _Removing | None:
        found = self._store.get(_GC)
        if found is None:
            return None
        removing = _decoded(found, _Removing, _GC)
        return removing if time.time() - removing.since < 4 * REMOVING_ENDS else None

    # Looking

    def snapshots(self) -> list[SnapshotInfo]:
        """All snapshots, the oldest first."""
        found = [record.info for record in self._records().values()]
        return sorted(found, key=lambda info: (info.created_ms, info.name))

    def verify(self, name: str) -> SnapshotCheck:
        """Read every byte of a snapshot, and say what is missing or damaged. NotFoundError if there is none."""
        blobs = {blob.sha256: blob for blob in blobs_of(self._record(name).manifest)}
        problems = []
        for blob in blobs.values():
            try:
                check_size(self._store, _blob_key(blob), blob)
                for _ in received(self._store, _blob_key(blob), blob):
                    pass
            except CorruptIndexError as error:
                problems.append(f"{blob.name}: {error}")
        return SnapshotCheck(name, len(blobs), sum(blob.size for blob in blobs.values()), problems)

    def manifest(self, name: str) -> Manifest:
        """The manifest of a snapshot, whose blobs are named by their SHA-256 here. NotFoundError if there is none."""
        return self._record(name).manifest

    def places(self, manifest: Manifest) -> Places:
        """Where the blobs of a snapshot are, for those who search it."""
        return places_at(self._store, manifest, _blob_key)

    def _records(self) -> dict[str, _Record]:
        names = [key.removeprefix("snapshots/").removesuffix(".json") for key in self._store.list("snapshots")]
        read = {name: self._store.get(_key(name)) for name in names if _NAME.fullmatch(name)}
        return {name: _read(data, name) for name, data in read.items() if data is not None}

    def _record(self, name: str) -> _Record:
        data = self._store.get(_key(name))
        if data is None:
            raise self._none(name)
        return _read(data, name)

    def _none(self, name: str) -> NotFoundError:
        return NotFoundError("no such snapshot", path=name, found=f"nothing in {self.url}",
                             fix="Repository.snapshots() lists them")

    def published(self) -> PublishInfo | None:
        """What `Index.publish` made visible here last; None if nothing."""
        from .publish import newest

        return newest(self._store)

    # Removing

    def delete(self, *names: str) -> list[str]:
        """Remove snapshots, and the blobs that no other one has; their SHA-256s. NotFoundError if one is not there."""
        for name in names:
            if self._store.size(_key(name)) is None:
                raise self._none(name)
        with self._alone() as since:
            for name in names:
                self._store.delete(_key(name))  # also one that is damaged
            return self._remove_garbage(since)

    def expire(
        self, *, expire_after: str | float | None = None, min_count: int = 1, max_count: int | None = None,
        index: str | None = None, dry_run: bool = False,
    ) -> list[str]:
        """Remove snapshots by age (``"30d"``, or seconds) and number; `expired` says which. With ``dry_run`` none goes.

        ``index``: only those of the index of this name. Each index is counted by itself.
        """
        age = seconds(expire_after, "expire_after")
        found = self.snapshots()
        going: list[str] = []
        for one in sorted({info.index for info in found}):
            if index is None or index == one:
                going += expired([info for info in found if info.index == one], time.time_ns() // 1_000_000, age,
                                 min_count, max_count)
        if going and not dry_run:
            self.delete(*going)
        return going

    def collect_garbage(self) -> list[str]:
        """Remove blobs that neither a snapshot nor a running one has; their SHA-256s. ConflictError if others do so."""
        with self._alone() as since:
            return self._remove_garbage(since)

    @contextmanager
    def _alone(self) -> Iterator[float]:
        """While nobody else removes blobs; since when, in seconds. ConflictError if somebody does."""
        who = f"process {os.getpid()} of {os.uname().nodename}, {uuid.uuid4().hex}"
        mine = _Removing(since=time.time(), who=who)
        data = msgspec.json.encode(mine)
        if not self._store.create(_GC, data):
            other = self._removing()
            if other is None:
                self._store.delete(_GC)  # of one that died long ago
            if other is not None or not self._store.create(_GC, data):
                raise ConflictError("somebody removes blobs of this repository", path=self.url,
                                    found=other.who if other is not None else None, fix="try again later")
        try:
            yield mine.since
        finally:
            if self._store.get(_GC) == data:
                self._store.delete(_GC)

    def _remove_garbage(self, since: float) -> list[str]:
        time.sleep(SETTLE)
        needed = self._relied_on()  # first: one that ends now is among the snapshots, which are read next
        needed |= {blob.sha256 for record in self._records().values() for blob in blobs_of(record.manifest)}
        removed = []
        for key in self._store.list("blobs"):
            name = key.removeprefix("blobs/")
            if name in needed or not re.fullmatch("[0-9a-f]{64}", name):
                continue
            if time.time() - since > REMOVING_ENDS:
                break
            self._store.delete(key)
            removed.append(name)
        return removed

    def _relied_on(self) -> set[str]:
        blobs: set[str] = set()
        for key in self._store.list("pending"):
            data = self._store.get(key)
            if data is None:
                continue
            pending = _decoded(data, _Pending, key)
            if time.time() - pending.since > PENDING_ENDS:
                self._store.delete(key)
            else:
                blobs.update(pending.blobs)
        return blobs

    # Restoring

    def restore(self, name: str, path: str | os.PathLike[str]) -> None:
        """Make an index at the directory ``path`` of a snapshot; sizes are checked before, and bytes while they come.

        Raises IndexExistsError, NotFoundError, CorruptIndexError (nothing stays behind), StorageError.
        """
        self._restore(OS_FILES, name, os.path.abspath(os.fspath(path)))

    def _restore(self, files: Files, name: str, directory: str) -> None:
        restore(files, self._store, self._record(name).manifest, _blob_key, directory)


class Searchable:
    """`Source` of a snapshot that is searched where it is; it never changes, and must not be deleted meanwhile."""

    def __init__(self, repository: Repository, name: str) -> None:
        self.url = f"{repository.url}#{name}"
        self.manifest = searched(repository.manifest(name))
        self._places = repository.places(self.manifest)

    def generation(self) -> int:
        return self.manifest.generation

    def hold(self) -> Searchable:
        return self

    def release(self) -> None:
        """Nothing holds a snapshot."""

    def places(self, manifest: Manifest) -> Places:
        return self._places


def expired(
    infos: Sequence[SnapshotInfo], now_ms: int, expire_after: float | None, min_count: int, max_count: int | None,
) -> list[str]:
    """The snapshots of one index that retention lets go, the oldest first.

    The newest ``min_count`` always stay. Of the others go those beyond the newest ``max_count``, and those older than
    ``expire_after`` seconds. Raises SettingsError.
    """
    for label, value, least in (("min_count", min_count, 0), ("max_count", max_count, 1)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise SettingsError("not a number of snapshots", path=label, found=value, expected=f"{least} or more")
    if max_count is not None and max_count < min_count:
        raise SettingsError("more snapshots must stay than may", path="max_count", found=max_count,
                            expected=f"at least min_count, {min_count}")
    newest_first = sorted(infos, key=lambda info: (info.created_ms, info.name), reverse=True)
    going = [
        info.name for rank, info in enumerate(newest_first)
        if rank >= min_count and ((max_count is not None and rank >= max_count) or (
            expire_after is not None and now_ms - info.created_ms > expire_after * 1000))]
    return going[::-1]


def place(url: str | os.PathLike[str]) -> tuple[str, str]:
    """``URL#name`` as the URL of a repository and the name of a snapshot. InvalidNameError if there is no name."""
    where, _, name = os.fspath(url).rpartition("#")
    if not where:
        raise InvalidNameError("not a snapshot", found=os.fspath(url), expected="URL#name, like s3://bucket/backup#monday")
    _key(name)
    return where, name


def _key(name: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidNameError("not a name of a snapshot", found=name,
                               expected="[a-z0-9][a-z0-9_.-]*, up to 200 characters")
    return f"snapshots/{name}.json"


def _blob_key(blob: Blob) -> str:
    return f"blobs/{blob.sha256}"


def _exists(name: str, url: str) -> ConflictError:
    return ConflictError("there is a snapshot of this name already", path=name, found=url,
                         fix="choose another name, or delete it")


def _read(data: bytes, name: str) -> _Record:
    record: _Record = unframed(data, "snapshot", _Record, name, "use another snapshot")
    if record.info.name != name:
        raise CorruptIndexError("the snapshot contradicts itself", path=name, found=record.info.name,
                                fix="use another snapshot")
    return record


def _decoded(data: bytes, kind: Any, key: str) -> Any:
    return decoded(data, kind, key, "use another snapshot, or remove the object")


def seconds(age: str | float | None, path: str) -> float | None:
    """Seconds of ``"30d"``, or of a number of seconds. SettingsError for the argument ``path``."""
    if age is None or (isinstance(age, int | float) and not isinstance(age, bool) and age >= 0):
        return age
    from ..config import Time

    found = Time().read(age)
    if not isinstance(found, float):
        raise SettingsError("not an age", path=path, found=age, expected=Time().expected)
    return found

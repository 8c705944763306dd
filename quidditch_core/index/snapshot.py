"""Snapshots: the commits of indexes, kept in a repository that any fsspec URL may name. FORMAT.md draws it.

::

    blobs/<sha256>              what a segment or a live mask is (`blobs`); shared by all snapshots that have it
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
    FormatError,
    InvalidNameError,
    NotFoundError,
    OutageError,
    ReadOnlyError,
    SettingsError,
)
from ..files import OS_FILES, Files
from ..tiering import HOT, Store
from . import blobs, snapshot_body
from .blobs import Blobs
from .manifest import Manifest
from .objects import Blob, blobs_of, decoded, framed, places_at, portable, searched, sent, unframed, verified
from .places import Places
from .restore import restore

if TYPE_CHECKING:
    from ..config import Tiers
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


class SnapshotInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One snapshot: ``name``; of which ``index``; ``created_ms`` since the epoch; its live ``docs``; the ``bytes`` and
    number of its ``blobs``, and how many of these were not there before, or were damaged (``uploaded``). Of one whose
    record cannot be read nothing but the name and the ``problem`` is known."""

    name: str
    index: str = ""
    created_ms: Count = 0
    docs: Count = 0
    bytes: Count = 0
    blobs: Count = 0
    uploaded: Count = 0
    problem: str | None = None


class SnapshotCheck(msgspec.Struct, frozen=True):
    """What verifying a snapshot found: a line for each blob that is missing or damaged; none if it is ``ok``."""

    name: str
    blobs: int
    bytes: int
    problems: list[str]

    @property
    def ok(self) -> bool:
        return not self.problems


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    info: SnapshotInfo
    manifest: Manifest
    forms: dict[str, int] = {}
    """Of the blobs that are in pieces: SHA-256 -> size of a piece."""

    def objects(self) -> Iterator[str]:
        for blob in blobs_of(self.manifest):
            for key, _ in blobs.objects(blob, self.forms.get(blob.sha256, blobs.WHOLE)):
                yield key


class _Pending(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    since: float
    blobs: tuple[str, ...]


class _Removing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    since: float
    who: str


class Repository:
    """Snapshots of any number of indexes under one URL, by any number of machines.

    ``url``: a directory or an fsspec URL, ``storage_options`` in fsspec's form; ``base_path``: a folder below it.
    ``chunk_size`` (bytes, or a text such as ``"100mb"``): no object will be larger, longer segments go in pieces.
    ``compress``: what describes a snapshot is compressed (segments are so anyway). ``readonly``: nothing is written or
    removed. What is there already stays as it is, and is read whatever these say.
    """

    def __init__(
        self, url: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None, base_path: str = "",
        chunk_size: int | str | None = None, compress: bool = True, readonly: bool = False, store: Store | None = None,
    ) -> None:
        if store is None:
            from ..tiering.store import FsspecStore

            store = FsspecStore(_below(url, base_path), storage_options)
        self._store = store
        self._new = Blobs(store, blobs.checked_size(chunk_size))
        self._compress, self._readonly = compress, readonly
        self.url = store.url

    def __repr__(self) -> str:
        return f"Repository({self.url!r})"

    # Making

    @classmethod
    def from_dict(
        cls, body: Mapping[str, Any], *, storage_options: Mapping[str, Any] | None = None,
    ) -> Repository:
        """The repository that the body of OpenSearch's ``PUT _snapshot/NAME`` describes, of type ``s3`` or ``fs``."""
        return cls(**snapshot_body.repository(body, storage_options))

    def snapshot(
        self, index: Index, name: str | None = None, *, verify: bool = False, body: Mapping[str, Any] | None = None,
    ) -> SnapshotInfo:
        """Flush ``index`` and keep what it is then; writing goes on. Blobs that are here already are not copied.

        Without ``name`` it is the moment (UTC). ``verify``: what is here already is read, and what is damaged of it
        replaced, for all snapshots that have it. ``body``: OpenSearch's, which may not ask for more than this index.
        ConflictError if there is a snapshot of this name already.
        """
        self._writable()
        snapshot_body.check_snapshot(body, os.path.basename(index.path))
        names = _moments() if name is None else iter([name])
        name = next(names)
        while self._store.size(_key(name)) is not None:
            name = _next(names, name, self.url)
        with index.committed() as (places, directory, manifest):
            needed = {blob.sha256: blob for blob in blobs_of(manifest)}
            manifest = portable(manifest)
            with self._pending(needed) as pending:
                there = {blob: self._new.there(blob) for blob in needed.values()}
                missing = [(blob, form) for blob, forms in there.items() for form in self._wanted(blob, forms, verify)]
                for blob, form in missing:
                    self._new.put(blob, form, sent(places, blob, directory))
                for blob, form in missing:  # nobody shall find out later that the store has lost what it acknowledged
                    if not self._new.complete(blob, form):
                        raise self._not_kept(blobs.key_of(blob.sha256))
                info = SnapshotInfo(
                    name=name, index=os.path.basename(directory), created_ms=time.time_ns() // 1_000_000,
                    docs=sum(segment.live_docs for segment in manifest.segments),
                    bytes=sum(blob.size for blob in needed.values()), blobs=len(needed),
                    uploaded=len({blob for blob, _ in missing}))
                if self._store.size(pending) is None:
                    raise ConflictError("the snapshot took so long that its blobs may have been removed", path=name,
                                        expected=f"at most {PENDING_ENDS} s", fix="make it again")
                forms = {blob.sha256: form for blob, known in there.items()
                         if (form := (known or [self._new.form_of(blob)])[0]) != blobs.WHOLE}
                return self._record_it(_Record(info=info, manifest=manifest, forms=forms), names)

    def _wanted(self, blob: Blob, there: list[int], verify: bool) -> list[int]:
        """The forms in which a blob must be put."""
        if not there:
            return [self._new.form_of(blob)]
        return [form for form in there if verify and self._damage(blob, form) is not None]

    def _record_it(self, record: _Record, names: Iterator[str]) -> SnapshotInfo:
        while True:
            key = _key(record.info.name)
            if self._store.create(key, framed("snapshot", record, compress=self._compress)):
                break
            other = _next(names, record.info.name, self.url)
            record = msgspec.structs.replace(record, info=msgspec.structs.replace(record.info, name=other))
        if self._store.size(key) is None:
            raise self._not_kept(key)
        return record.info

    def _not_kept(self, key: str) -> OutageError:
        return OutageError("the store did not keep what it was given", path=f"{self.url}/{key}",
                           fix="try again, or use another store")

    def _writable(self) -> None:
        if self._readonly:
            raise ReadOnlyError("the repository is readonly", path=self.url, fix="open it without readonly=True")

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
        """All snapshots, the oldest first; those whose records cannot be read, which say why, before them."""
        found = [record.info if isinstance(record, _Record) else SnapshotInfo(name=name, problem=str(record))
                 for name, record in self._records().items()]
        return sorted(found, key=lambda info: (info.created_ms, info.name))

    def verify(self, name: str) -> SnapshotCheck:
        """Read every byte of a snapshot, and say what is missing or damaged. NotFoundError if there is none.

        `snapshot` replaces what is missing of the blobs that it needs; what is damaged too with ``verify=True``.
        """
        record = self._record(name)
        needed = {blob.sha256: blob for blob in blobs_of(record.manifest)}
        damages = {blob: self._damage(blob, record.forms.get(blob.sha256, blobs.WHOLE)) for blob in needed.values()}
        problems = [f"{blob.name}: {damage}" for blob, damage in damages.items() if damage is not None]
        return SnapshotCheck(name, len(needed), sum(blob.size for blob in needed.values()), problems)

    def _damage(self, blob: Blob, form: int) -> CorruptIndexError | None:
        reading = Blobs(self._store, forms={blob.sha256: form})
        try:
            if (problem := reading.problem(blob)) is None:
                for _ in verified(reading.pieces(blob), blob, self.url):
                    pass
        except CorruptIndexError as error:
            return error
        return problem

    def manifest(self, name: str) -> Manifest:
        """The manifest of a snapshot, whose blobs are named by their SHA-256 here. NotFoundError if there is none."""
        return self._record(name).manifest

    def searchable(self, name: str) -> tuple[Manifest, Places]:
        """The manifest of a snapshot, its segments cold, and where they are, for those who search it."""
        record = self._record(name)
        manifest = searched(record.manifest)
        return manifest, places_at(self._store, manifest, lambda blob: blobs.key_of(blob.sha256),
                                   Blobs(self._store, forms=record.forms))

    def _records(self) -> dict[str, _Record | CorruptIndexError | FormatError]:
        """What there is, or why it cannot be read."""
        found: dict[str, _Record | CorruptIndexError | FormatError] = {}
        for key in self._store.list("snapshots"):
            name = key.removeprefix("snapshots/").removesuffix(".json")
            data = self._store.get(key) if _NAME.fullmatch(name) else None
            if data is not None:
                try:
                    found[name] = _read(data, name)
                except (CorruptIndexError, FormatError) as error:
                    found[name] = error
        return found

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
        """Remove snapshots, and the blobs that no other one has; their SHA-256s. NotFoundError if one is not there.

        CorruptIndexError if another one cannot be read: these are removed then, but no blobs.
        """
        self._writable()
        for name in names:
            if self._store.size(_key(name)) is None:
                raise self._none(name)
        with self._alone() as since:
            for name in names:
                self._store.delete(_key(name))  # also one that is damaged
                if self._store.size(_key(name)) is not None:
                    raise OutageError("the store did not remove what it was told to", path=f"{self.url}/{_key(name)}",
                                      fix="try again")
            return self._remove_garbage(since)

    def expire(
        self, *, expire_after: str | float | None = None, min_count: int = 1, max_count: int | None = None,
        index: str | None = None, dry_run: bool = False,
    ) -> list[str]:
        """Remove snapshots by age (``"30d"``, or seconds) and number; `expired` says which. With ``dry_run`` none goes.

        ``index``: only those of the index of this name. Each index is counted by itself.
        """
        self._writable()
        age = seconds(expire_after, "expire_after")
        found = [info for info in self.snapshots() if info.problem is None]
        going: list[str] = []
        for one in sorted({info.index for info in found}):
            if index is None or index == one:
                going += expired([info for info in found if info.index == one], time.time_ns() // 1_000_000, age,
                                 min_count, max_count)
        if going and not dry_run:
            self.delete(*going)
        return going

    def collect_garbage(self) -> list[str]:
        """Remove blobs that neither a snapshot nor a running one has; their SHA-256s. ConflictError if others do so,
        CorruptIndexError if a snapshot cannot be read, so that nobody knows what it has."""
        self._writable()
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
        relied_on = self._relied_on()  # first: one that ends now is among the snapshots, which are read next
        needed: set[str] = set()
        for name, record in self._records().items():
            if not isinstance(record, _Record):
                raise CorruptIndexError(
                    "this snapshot cannot be read, so nobody knows which blobs it has, and none are removed", path=name,
                    found=str(record), fix=f"delete the snapshot {name}, then collect_garbage()") from record
            needed.update(record.objects())
        removed: dict[str, None] = {}
        for key in self._store.list("blobs"):
            sha256 = blobs.sha256_of(key)
            if sha256 is None or key in needed or sha256 in relied_on:
                continue
            if time.time() - since > REMOVING_ENDS:
                break
            self._store.delete(key)
            removed[sha256] = None
        self._store.sweep(age=PENDING_ENDS)
        return list(removed)

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

    def restore(
        self, name: str, path: str | os.PathLike[str], *, tier: str = HOT, tiers: Tiers | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        """Make an index at the directory ``path`` of a snapshot; sizes are checked before, and bytes while they come.

        ``tier``: where its segments go; with "cold" from store to store, and none of them onto this machine.
        ``body``: OpenSearch's, which may not ask for more than the index of the snapshot. What was broken off is begun
        anew by the same call. Raises IndexExistsError, NotFoundError, CorruptIndexError (nothing stays behind),
        SettingsError, UnsupportedError, StorageError.
        """
        self._restore(OS_FILES, name, os.path.abspath(os.fspath(path)), tier, tiers, body)

    def _restore(
        self, files: Files, name: str, directory: str, tier: str = HOT, tiers: Tiers | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        record = self._record(name)
        snapshot_body.check_restore(body, record.info.index)
        there = Blobs(self._store, forms=record.forms)
        restore(files, there, record.manifest, directory, tier=tier, tiers=tiers)


class Searchable:
    """`Source` of a snapshot that is searched where it is; it never changes, and must not be deleted meanwhile."""

    def __init__(self, repository: Repository, name: str) -> None:
        self.url = f"{repository.url}#{name}"
        self.manifest, self._places = repository.searchable(name)

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


def _below(url: str | os.PathLike[str], base_path: str) -> str:
    if not isinstance(url, str | os.PathLike) or not isinstance(base_path, str) or ".." in base_path.split("/"):
        raise InvalidNameError("not a place for snapshots", found=(url, base_path),
                               expected="a directory or a URL, and a folder below it")
    whole, folder = os.fspath(url), base_path.strip("/")
    return f"{whole.rstrip('/')}/{folder}" if folder and whole else whole


def _moments() -> Iterator[str]:
    """Names of a snapshot that was given none."""
    name = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    yield name
    for number in range(2, 1000):
        yield f"{name}-{number}"


def _next(names: Iterator[str], taken: str, url: str) -> str:
    """Another name for a snapshot; ConflictError if there is none, as when the caller gave it."""
    name = next(names, None)
    if name is None:
        raise ConflictError("there is a snapshot of this name already", path=taken, found=url,
                            fix="choose another name, or delete it")
    return name


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

"""Published indexes: editions of one index under one URL, written by one, read by any number. FORMAT.md draws it.

::

    published/manifest-<number>             an *edition*: the manifest of a commit, and which objects it is made of
    blobs/<sha256>-<number>                 a segment or a live mask, named after the edition it was sent for

An edition appears by one put that succeeds only where nothing is; before that it is nothing, after that it is whole.
Who publishes builds on the newest edition: takes the next number, names objects that it names, and sends the rest.
Three rules make this safe without locks, and without any clock that two machines would have to agree on.

*Names.* An object is first named by the edition it was sent for, whoever sent it, and after that only by successors of
editions that name it. So what the newest edition does not name, and was sent for it or one before, nobody will ever
name: it is garbage. What was sent for the next belongs to somebody who is about to publish, and is left alone; if that
one dies, who publishes the next instead finds it there.

*Terms.* Whoever takes over publishes the next number with a higher term. The writer before finds that number taken.

*Order.* Editions are removed in the order of their numbers, never the newest. So if edition N is still there, none
after it has gone: a number N + 1 that was free really was the next. A writer that slept for so long that its number
was taken and free again finds N gone, and takes its edition back; it could not have become the newest. (A reader
that slept as long between its list and its get may have read it: something whole, and corrected by the next refresh.)

An edition lists what it no longer names (``dropped``). When it is as old as the retention these objects go, and when
its successor is, the edition. Ages are taken from the clock of the store, or from our own as it passes.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import msgspec

from .. import metrics
from ..errors import (
    CorruptIndexError,
    IndexExistsError,
    IndexNotFoundError,
    OutageError,
    PublishFenced,
    ReaderExpired,
    StoreError,
)
from ..files import OS_FILES
from ..tiering import HOT, Span, Store
from .lock import Holder
from .manifest import Manifest
from .objects import HEADER, Blob, Objects, blobs_of, framed, places_at, portable, searched, sent, unframed
from .places import Places
from .restore import restore

if TYPE_CHECKING:
    from ..config import Tiers
    from .facade import Index

RETENTION: Final = 3600.0
"""Seconds for which what newer editions dropped is kept."""
REMOVING: Final = 10.0
"""Seconds of a publish after which it leaves the rest of what may be removed to the next one."""
LISTINGS: Final = 5
"""How often a list of objects that is out of date is asked for again."""

_EDITIONS: Final = "published"
_FILE = re.compile(rf"{_EDITIONS}/manifest-(\d{{16}})", re.ASCII)
_OBJECT = re.compile(r"[0-9a-f]{64}-(\d{1,19})", re.ASCII)
_FIX: Final = "publish the index again, with take_over=True"

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Edition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One published manifest. ``id`` is made at random, ``parent`` that of the edition before ("" for the first).

    ``writer``, an id made at random, publishes since ``since``; ``by`` says who that is. ``manifest`` has the number of
    the edition as its generation. ``blobs`` are the objects that it is made of, ``dropped`` those that it was the first
    not to need.
    """

    id: str
    parent: str
    term: Count
    writer: str
    by: str
    since: str
    published_ms: Count
    manifest: Manifest
    blobs: tuple[str, ...]
    dropped: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        return self.manifest.generation

    def objects(self) -> dict[str, str]:
        """Names of objects by SHA-256."""
        return {name[:64]: name for name in self.blobs}


class PublishInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One edition: its ``number``; the ``term`` of its writer, and who that is (``by``); ``published_ms`` since the
    epoch; its live ``docs``; ``bytes`` and number of its ``blobs``, and how many of these were sent for it
    (``uploaded``)."""

    number: int
    term: int
    by: str
    published_ms: int
    docs: int
    bytes: int
    blobs: int
    uploaded: int = 0


class Editions:
    """The editions in a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def numbers(self) -> list[int]:
        return [int(match[1]) for key in self.store.list(_EDITIONS) if (match := _FILE.fullmatch(key))]

    def get(self, number: int) -> Edition | None:
        key = _key(number)
        data = self.store.get(key)
        if data is None:
            return None
        path = f"{self.store.url}/{key}"
        edition: Edition = unframed(data, "published", Edition, path, _FIX)
        objects = edition.objects()
        lost = [blob.name for blob in blobs_of(edition.manifest) if blob.sha256 not in objects]
        wrong = [name for name in (*edition.blobs, *edition.dropped) if not _OBJECT.fullmatch(name)]
        if edition.number != number or lost or wrong:
            raise CorruptIndexError("the published manifest contradicts itself", path=path,
                                    found=[edition.number, *lost, *wrong], fix=_FIX)
        return edition

    def is_there(self, number: int) -> bool:
        return self.store.size(_key(number)) is not None

    def is_still(self, number: int, header: bytes) -> bool:
        """Whether the edition that begins with ``header``, its checksum in it, is there."""
        try:
            return self.store.read([Span(_key(number), 0, len(header))])[0] == header
        except CorruptIndexError:
            return False

    def newest(self, known: int = 0, *, surely: bool = False) -> Edition | None:
        """The newest edition, or None; ``known``: one with this number has been seen.

        A list that is out of date gives one that was the newest a moment ago, unless it has to be it ``surely``.
        """
        for turn in range(LISTINGS):
            number = max([known, *self.numbers()])
            if number == 0:
                return None
            found = self.get(number)
            if found is None:  # it had successors
                known = 0
                time.sleep(0.05 * turn)
                continue
            while surely and (after := self.get(found.number + 1)) is not None:
                found = after
            return found
        raise OutageError("the list of published manifests is out of date", path=self.store.url,
                          found=f"{_key(number)}, which is not there", fix="try again later")


class _Step:
    """An edition that will be removed. ``dropped`` None: not known yet; ``since``, of the monotonic clock, likewise."""

    def __init__(self, number: int, dropped: list[str] | None = None, since: float | None = None) -> None:
        self.number, self.dropped, self.since = number, dropped, since


class Publisher:
    """What publishes one open index at one URL. Safe to use from many threads.

    ``retention`` in seconds; ``last`` is our newest edition, None before the first, and after somebody took over.
    """

    def __init__(self, store: Store) -> None:
        self.retention = RETENTION
        self.last: Edition | None = None
        self._mutex = threading.RLock()
        self._writer = uuid.uuid4().hex
        self._holder = Holder.here()
        self._fence: Edition | None = None
        self._commit = -1  # the generation of the index's own manifest that ``last`` was made of
        self._sent: set[str] = set()  # objects that were sent, and that no edition names yet
        self._trail: deque[_Step] = deque()
        self._removed = 0  # the edition that was removed last
        self.use(store)

    def use(self, store: Store) -> None:
        """From now on reach the same place through ``store``."""
        self._store, self._editions = store, Editions(store)

    def publish(self, index: Index, *, take_over: bool = False, flush: bool = True) -> PublishInfo:
        """Make the newest commit of ``index`` the newest edition. PublishFenced, IndexExistsError, StoreError."""
        with self._mutex:  # before a commit is chosen: none may overtake a newer one
            with index.committed(flush=flush) as (places, directory, manifest):
                edition, uploaded = self._publish(places, directory, manifest, take_over)
            self._remove()
            return info_of(edition, uploaded)

    def lacks(self, manifest: Manifest, *, merged: bool) -> bool:
        """Whether operations of this commit, or its mapping or settings, are not published yet; or what it merged."""
        last = self.last
        if last is None or (merged and self._commit != manifest.generation):
            return True
        return (manifest.max_seq_no, manifest.mapping, manifest.settings) != (
            last.manifest.max_seq_no, last.manifest.mapping, last.manifest.settings)

    @property
    def fenced(self) -> bool:
        """Whether another writer is known to publish here."""
        return self._fence is not None

    # Publishing

    def _publish(self, places: Places, directory: str, manifest: Manifest, take_over: bool) -> tuple[Edition, int]:
        if self._fence is not None and not take_over:
            raise self._fenced(self._fence)
        self._fence = None
        if self.last is None:
            self._store.try_create()
        base = self._base(manifest, take_over)
        if base is not None and base is self.last and self._commit == manifest.generation:
            return base, 0
        uploaded = 0
        while True:
            edition, there = self._planned(base, manifest)
            uploaded += self._send(edition, there, places, manifest, directory)
            if self._store.create(_key(edition.number), framed("published", edition)):
                break
            # Somebody was first; or we were, by a call whose answer we never heard.
            base = self._editions.newest(edition.number, surely=True)
            if base is None or base.writer != self._writer:
                raise self._fenced(base)
        if not self._follows(edition, base):
            raise self._fenced(self._withdrawn(edition))
        if self.last is None or base is None or base.writer != self._writer:
            self._trail = deque(_Step(number) for number in self._editions.numbers() if number < edition.number)
        self._trail.append(_Step(edition.number, list(edition.dropped), time.monotonic()))
        self.last, self._commit, self._sent = edition, manifest.generation, set()
        metrics.PUBLISHED.labels(_name(directory)).add()
        metrics.PUBLISHED_BYTES.labels(_name(directory)).add(sum(
            blob.size for blob in _unique(edition.manifest) if edition.objects()[blob.sha256] not in there))
        return edition, uploaded

    def _base(self, manifest: Manifest, take_over: bool) -> Edition | None:
        """The newest edition, if we may build on it; None if there is none."""
        found = self.last
        if found is not None:
            after = self._editions.get(found.number + 1)
            if after is None:
                return found
            found = self._editions.newest(after.number, surely=True) or after
        else:
            found = self._editions.newest(surely=True)
        if found is None or found.writer == self._writer:
            return found
        if self.last is None and not _lineage(manifest) & _lineage(found.manifest):
            raise IndexExistsError(f"{found.by} publishes another index here", path=self._store.url,
                                   found=f"index {found.manifest.index_uuid}",
                                   expected=f"index {manifest.index_uuid}, or nothing", fix="choose another URL")
        if not take_over:
            raise self._fenced(found)
        return found

    def _planned(self, base: Edition | None, manifest: Manifest) -> tuple[Edition, set[str]]:
        """The edition after ``base``, and objects of it that are there already."""
        number = base.number + 1 if base is not None else 1
        ours = base is not None and base.writer == self._writer
        term = base.term + (not ours) if base is not None else 1
        named = base.objects() if base is not None else {}
        unnamed = set(self._sent)
        if self.last is None or not ours:
            listed = set(self._listed(number))
            named = {sha256: name for sha256, name in named.items() if name in listed}
            unnamed |= listed
        there = unnamed | set(named.values())
        objects = {blob.sha256: named.get(blob.sha256) or f"{blob.sha256}-{number}"
                   for blob in blobs_of(manifest)}
        if base is not None:
            unnamed |= set(base.blobs)
        edition = Edition(
            id=uuid.uuid4().hex, parent=base.id if base is not None else "", term=term, writer=self._writer,
            by=f"process {self._holder.pid} ({self._holder.command}) on {self._holder.host}",
            since=base.since if base is not None and ours else _now(), published_ms=time.time_ns() // 1_000_000,
            manifest=msgspec.structs.replace(portable(manifest), generation=number),
            blobs=tuple(sorted(objects.values())), dropped=tuple(sorted(unnamed - set(objects.values()))))
        return edition, there

    def _listed(self, number: int) -> Iterator[str]:
        """Objects that were sent for editions up to this one."""
        for key in self._store.list("blobs"):
            name = key.removeprefix("blobs/")
            match = _OBJECT.fullmatch(name)
            if match is not None and int(match[1]) <= number:
                yield name

    def _send(self, edition: Edition, there: set[str], places: Places, manifest: Manifest, directory: str) -> int:
        """Send what is not there; how many blobs these were. What an attempt that failed has sent is there."""
        objects, count = edition.objects(), 0
        for blob in _unique(manifest):
            name = objects[blob.sha256]
            if name not in there and name not in self._sent:
                self._store.put(f"blobs/{name}", sent(places, blob, directory))
                self._sent.add(name)
                count += 1
        return count

    def _follows(self, edition: Edition, base: Edition | None) -> bool:
        """Whether ``edition``, which is there now, came right after ``base``: see *order* above."""
        if base is None:
            return max([edition.number, *self._editions.numbers()]) == edition.number
        found = self._editions.get(base.number)
        return found is not None and found.id == base.id

    def _withdrawn(self, edition: Edition) -> Edition | None:
        """Take back an edition that came too late; the newest one."""
        found = self._editions.get(edition.number)
        if found is not None and found.id == edition.id:
            self._store.delete(_key(edition.number))
        return self._editions.newest()

    def _fenced(self, found: Edition | None) -> PublishFenced:
        before, self.last, self._fence = self.last, None, found
        if found is None:
            return PublishFenced("what was published here is gone", path=self._store.url, fix="publish it anew")
        what = "publishes here" if before is None else "has taken over here"
        return PublishFenced(
            f"{found.by} {what}, since {found.since}", path=self._store.url,
            found=f"edition {found.number} of term {found.term}",
            expected="no other writer" if before is None else f"edition {before.number}, ours",
            fix="if that one has ended, or shall, call publish(url, take_over=True)")

    # Removing

    def _remove(self) -> None:
        """Remove what is as old as the retention; whatever fails is tried again after the next publish."""
        ends = time.monotonic() + REMOVING
        try:
            while self._trail and time.monotonic() < ends and self._age(self._trail[0]) >= self.retention:
                step = self._trail[0]
                if step.dropped is None:
                    step.dropped = self._dropped_by(step)
                while step.dropped and time.monotonic() < ends:
                    self._store.delete(f"blobs/{step.dropped[-1]}")
                    step.dropped.pop()
                if step.dropped or len(self._trail) == 1 or self._age(self._trail[1]) < self.retention:
                    return
                if self._removed != step.number - 1 and self._editions.is_there(step.number - 1):
                    self._trail.appendleft(_Step(step.number - 1))  # a list that was out of date had left it out
                    continue
                self._store.delete(_key(step.number))
                self._removed = step.number
                self._trail.popleft()
        except StoreError as error:
            warnings.warn(f"quidditch: removing what is published no longer failed: {error}", RuntimeWarning,
                          stacklevel=4)

    def _age(self, step: _Step) -> float:
        now = time.monotonic()
        if step.since is None:
            assert self.last is not None
            ours, theirs = (self._store.modified(_key(number)) for number in (self.last.number, step.number))
            step.since = now if ours is None or theirs is None else now - (ours - theirs)
        return now - step.since

    def _dropped_by(self, step: _Step) -> list[str]:
        """What an edition of another writer dropped, unless it is one that came too late, which nobody follows."""
        edition, after = self._editions.get(step.number), self._editions.get(step.number + 1)
        assert self.last is not None
        if edition is None or after is None or after.parent != edition.id:
            return []
        return sorted(set(edition.dropped) - set(self.last.blobs))


class Published:
    """`Source` of a published index, which its writer goes on publishing."""

    def __init__(self, store: Store) -> None:
        self.url = store.url
        self._editions = Editions(store)
        self._store = cast(Store, _Expiring(store, self._editions))
        self._number = 0  # of the edition that we read
        self._header = b""
        self._next: Edition | None = None
        self._objects: dict[int, dict[str, str]] = {}

    def generation(self) -> int | None:
        ours, after = self._number, None
        if ours:
            after = self._editions.get(ours + 1)
            # As long as ours is there none after it has been removed: the next was not there because it is not yet.
            if after is None and self._editions.is_still(ours, self._header):
                return ours
        self._next = self._editions.newest(after.number if after is not None else 0)
        return None if self._next is None else self._next.number

    def hold(self) -> _Read:
        edition, self._next = self._next or self._editions.newest(), None
        if edition is None:
            raise IndexNotFoundError("nothing is published here", path=self.url,
                                     expected=f"objects {_EDITIONS}/manifest-<16 digits>",
                                     fix="check the URL; publish the index there; URL#name opens a snapshot")
        self._number, self._header = edition.number, framed("published", edition)[:HEADER]
        self._objects = {edition.number: edition.objects()}
        return _Read(searched(edition.manifest))

    def places(self, manifest: Manifest) -> Places:
        objects = self._objects[manifest.generation]
        return places_at(self._store, manifest, lambda blob: f"blobs/{objects[blob.sha256]}")


class _Read(msgspec.Struct, frozen=True):
    """`Holding` of an edition: nothing holds it."""

    manifest: Manifest

    def release(self) -> None:
        """There is nothing to let go."""


class _Expiring:
    """A store whose objects may go while they are read, because the index has moved on."""

    def __init__(self, inner: Store, editions: Editions) -> None:
        self._inner, self._editions = inner, editions

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        try:
            return self._inner.read(spans)
        except CorruptIndexError:
            newest = self._editions.newest()
            named = {f"blobs/{name}" for name in newest.blobs} if newest is not None else set()
            gone = sorted({span.key for span in spans} - named)
            if newest is None or not gone:
                raise
            raise ReaderExpired(
                "what this reader sees is not published any longer", path=f"{self._inner.url}/{gone[0]}",
                found=f"edition {newest.number}, which does not need it", expected="a reader that follows in time",
                fix="call refresh(), more often than the retention of publish(); of a reader make a new one") from None


def restore_published(store: Store, directory: str, *, tier: str = HOT, tiers: Tiers | None = None) -> bool:
    """Make an index of what is published in a store; False if nothing is. Errors: those of `restore.restore`."""
    edition = Editions(store).newest()
    if edition is None:
        return False
    objects = edition.objects()
    there = Objects(store, lambda blob: f"blobs/{objects[blob.sha256]}")
    restore(OS_FILES, there, edition.manifest, directory, tier=tier, tiers=tiers)
    return True


def newest(store: Store) -> PublishInfo | None:
    """What is published in a store."""
    found = Editions(store).newest()
    return None if found is None else info_of(found)


def info_of(edition: Edition, uploaded: int = 0) -> PublishInfo:
    return PublishInfo(
        number=edition.number, term=edition.term, by=edition.by, published_ms=edition.published_ms,
        docs=sum(segment.live_docs for segment in edition.manifest.segments),
        bytes=sum(blob.size for blob in _unique(edition.manifest)), blobs=len(edition.blobs), uploaded=uploaded)


def _unique(manifest: Manifest) -> list[Blob]:
    return list({blob.sha256: blob for blob in blobs_of(manifest)}.values())


def _lineage(manifest: Manifest) -> set[str]:
    """The index, and those that it was restored from."""
    return {manifest.index_uuid, *manifest.ancestors}


def _key(number: int) -> str:
    return f"{_EDITIONS}/manifest-{number:016d}"


def _name(directory: str) -> str:
    return directory.rpartition("/")[2]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

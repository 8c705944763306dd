"""Stores that fail by a script: segments move, merge, and are kept in snapshots meanwhile, and nothing may be lost.

``python -m tests.crash.stores --scripts 5000`` runs that many; one that breaks the promise is printed as the command
that tries it again. A script is a seed: what an index does (write, move, sweep, merge, search, snapshot, delete,
restore), and what befalls its store meanwhile: errors, throttling, silence, cut answers, short reads, stale lists, 403,
puts that are acknowledged and lost, puts that are done and denied; and at some call, or some step of the disk, the
process may die. Then the store is well again, the index is opened anew, and

- all documents that were acknowledged are found, as a dict in Python says that they must be;
- every blob that the manifest names is in its tier, whole, and nothing else is anywhere after a sweep;
- every snapshot that was acknowledged is there, whole, and any other is whole or not there;
- every error was one of ours, showed no credentials, and came after a bounded number of tries.

Everything is in this process: a disk that crashes (`tiering.crash`), a clock that is turned, a file system of fsspec
whose objects are in a dict. ``Remote`` runs the same scripts against a real server behind a proxy that fails.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import sys
import time
import traceback
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any, ClassVar, Final

import fsspec
from fsspec.spec import AbstractFileSystem

import quidditch_core as qc
from quidditch_core.config import Settings
from quidditch_core.errors import QuidditchError
from quidditch_core.files import TEMP
from quidditch_core.index import facade, snapshot
from quidditch_core.index import manifest as manifests
from quidditch_core.index.blobs import Blobs
from quidditch_core.index.snapshot import Repository
from quidditch_core.mapping import Mapping
from quidditch_core.tiering import cache as block_cache
from quidditch_core.tiering import store
from quidditch_core.tiering.testing import DAMAGES, Crashed, CrashFiles
from tests.crash.progress import shown
from tests.s3 import KEY, SECRET, Proxy

Body = dict[str, Any]

PATH, WARM = "/books", "/slower"
MAPPING: Final[Body] = {"properties": {
    "body": {"type": "text"}, "n": {"type": "integer"}, "tag": {"type": "keyword"}}}
SETTINGS: Final = Settings.from_dict({"index.refresh_interval": -1})
WORDS: Final = ("sea", "whale", "ship", "storm", "harpoon", "rope")
IDS: Final = [f"d{number}" for number in range(24)]
TIERS: Final = ("hot", "warm", "cold")


# --- the store -----------------------------------------------------------------------------------------------


class Faults:
    """What befalls the calls of a script: bursts of a kind of fault, and death."""

    KINDS: ClassVar = ("error", "throttle", "timeout", "cut", "denied", "short", "lost", "done", "stale")

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.rate = rng.choice((0.02, 0.05, 0.1, 0.3))
        self.longest = rng.choice((1, 3, 8, 40))
        self.kinds = rng.sample(self.KINDS, rng.randint(1, 4))
        self.dies_at = rng.randint(1, 60) if rng.random() < 0.3 else 0
        self.on = False
        self.calls = 0
        self.seen: Counter[str] = Counter()
        self._burst = ("", 0)

    def next(self) -> str:
        """What becomes of the next call: a kind, ``death``, or nothing."""
        if not self.on:
            return ""
        self.calls += 1
        if self.calls == self.dies_at:
            self.seen["death"] += 1
            return "death"
        kind, left = self._burst
        if not left and self._rng.random() < self.rate:
            kind, left = self._rng.choice(self.kinds), self._rng.randint(1, self.longest)
        self._burst = kind, max(0, left - 1)
        if left:
            self.seen[kind] += 1
        return kind if left else ""


class ReadTimeoutError(Exception):
    """As the clients of S3 call it."""


class ClientError(Exception):
    """As botocore's: the answer of the store."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.response = {"Error": {"Code": code}}


def fault(kind: str) -> Exception:
    """What s3fs raises then; the texts show the credentials, as those of some stores do."""
    said = f"for key {KEY} with secret {SECRET}"
    made: Exception
    if kind == "throttle":
        made = OSError(errno.EBUSY, f"Please reduce your request rate {said}")
        made.__cause__ = ClientError("SlowDown")
    elif kind == "timeout":
        made = ReadTimeoutError(f"Read timeout {said}")
    elif kind == "cut":
        made = ConnectionResetError(errno.ECONNRESET, f"Connection reset {said}")
    elif kind == "denied":
        made = PermissionError(f"Access Denied {said}")
        made.__cause__ = ClientError("AccessDenied")
    else:
        made = OSError(errno.EIO, f"We encountered an internal error {said}")
        made.__cause__ = ClientError("InternalError")
    return made


class Bucket:
    """Objects in memory, and what befalls those who ask for them; ``die`` ends the process that asks."""

    def __init__(self, faults: Faults, objects: dict[str, bytes], die: Callable[[], None]) -> None:
        self.faults, self.objects, self._die = faults, objects, die
        self.asked = 0
        self.dead = False
        self._before: dict[str, bytes] | None = None  # what a list that is out of date shows

    def settle(self) -> None:
        """So much time has passed that lists are up to date."""
        self._before = None

    def put(self, path: str, data: bytes, *, create: bool) -> None:
        kind = self._next()
        if kind not in ("", "done", "lost", "stale", "short"):
            raise fault(kind)
        if create and path in self.objects:
            lost = OSError(errno.EINVAL, None)
            lost.__cause__ = ClientError("PreconditionFailed")
            raise lost
        if kind != "lost":
            self._changing()
            self.objects[path] = data
        if kind == "done":
            raise fault("cut")

    def get(self, path: str) -> bytes:
        kind = self._next()
        if kind not in ("", "short", "lost", "stale"):
            raise fault(kind)
        data = self._there(path)
        return data[: len(data) // 2] if kind == "short" else data

    def ranges(self, spans: list[tuple[str, int, int]]) -> list[Any]:
        return [self._range(*span) for span in spans]

    def _range(self, path: str, start: int, end: int) -> Any:
        try:
            data = self.get(path)[start:end]
        except Exception as error:
            return error
        return data

    def size(self, path: str) -> int:
        kind = self._next()
        if kind not in ("", "short", "lost", "stale"):
            raise fault(kind)
        return len(self._there(path))

    def list(self, path: str) -> list[str]:
        kind = self._next()
        if kind not in ("", "short", "lost", "stale"):
            raise fault(kind)
        there = self._before if kind == "stale" and self._before is not None else self.objects
        return [key for key in there if key.startswith(f"{path}/")]

    def delete(self, path: str) -> None:
        kind = self._next()
        if kind not in ("", "done", "lost", "stale", "short"):
            raise fault(kind)
        if kind != "lost" and path in self.objects:
            self._changing()
            del self.objects[path]
        if kind == "done":
            raise fault("timeout")

    def _there(self, path: str) -> bytes:
        if path not in self.objects:
            raise FileNotFoundError(path)
        return self.objects[path]

    def _changing(self) -> None:
        if self._before is None:
            self._before = dict(self.objects)

    def _next(self) -> str:
        self.asked += 1
        kind = self.faults.next() if not self.dead else "death"
        if kind == "death":
            self.dead = True
            self._die()
        return kind


class ScriptedFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """``scripted://``: the bucket of the script that runs."""

    protocol = "scripted"
    cachable = False
    bucket: ClassVar[Bucket]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **more: Any) -> None:
        self.bucket.put(path, bytes(value), create=mode == "create")

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **more: Any) -> bytes:
        return self.bucket.get(path)[start:end]

    def cat_ranges(self, paths: Any, starts: Any, ends: Any, **more: Any) -> list[Any]:
        return self.bucket.ranges(list(zip(paths, starts, ends, strict=True)))

    def info(self, path: str, **more: Any) -> Body:
        return {"name": path, "size": self.bucket.size(path), "type": "file"}

    def find(self, path: str, **more: Any) -> list[str]:
        return self.bucket.list(path)

    def rm_file(self, path: str) -> None:
        self.bucket.delete(path)


fsspec.register_implementation("scripted", ScriptedFileSystem, clobber=True)


class Bounded(store.FsspecStore):
    """Counts what one call asks of the store."""

    asked: ClassVar[Callable[[], int]]
    most: ClassVar[int]
    """Requests of one try: who may have lost a create looks at what is there; clients have habits of their own."""

    def _retried(self, action: str, key: str, call: Callable[[Any], Any]) -> Any:
        before = Bounded.asked()
        try:
            return super()._retried(action, key, call)
        finally:
            assert Bounded.asked() - before <= self.most * store.ATTEMPTS, f"{action} {key} was tried too often"

    def _read_once(self, requests: Any, found: Any) -> Any:
        self.rounds += 1
        return super()._read_once(requests, found)

    def read(self, spans: Any) -> list[bytes]:
        self.rounds = 0
        try:
            return super().read(spans)
        finally:
            assert self.rounds <= store.ATTEMPTS, "read was tried too often"


class Clock:
    """`time` of who waits for stores: it goes on when somebody sleeps, and lists are up to date then."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def sleep(self, seconds: float) -> None:
        self.ahead += seconds
        if seconds:
            ScriptedFileSystem.bucket.settle()

    def time(self) -> float:
        return time.time() + self.ahead

    def time_ns(self) -> int:
        return time.time_ns() + int(self.ahead * 1e9)

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def gmtime(self) -> time.struct_time:
        return time.gmtime(self.time())

    def strftime(self, form: str, moment: time.struct_time) -> str:
        return time.strftime(form, moment)


@contextmanager
def scripted_time() -> Iterator[Clock]:
    """Nobody really waits; no cache keeps a fault away."""
    clock = Clock()
    usual = snapshot.time, store.time, store.PAUSE, block_cache.shared, store.FsspecStore
    snapshot.time, store.time, store.PAUSE = clock, clock, 0.0  # type: ignore[assignment,misc]
    block_cache.shared = lambda *_, **__: None  # type: ignore[assignment,return-value]
    store.FsspecStore = Bounded  # type: ignore[misc]
    try:
        yield clock
    finally:
        snapshot.time, store.time, store.PAUSE, block_cache.shared, store.FsspecStore = usual  # type: ignore[misc]


# --- what is right -------------------------------------------------------------------------------------------


def document(rng: Random) -> Body:
    return {"body": " ".join(rng.choices(WORDS, k=rng.randint(1, 5))), "n": rng.randrange(100),
            "tag": f"t{rng.randrange(3)}"}


def expected(docs: dict[str, Body]) -> list[Any]:
    """What `found` must be."""
    return [
        {id for id, doc in docs.items() if {"whale", "ship"} & set(doc["body"].split())},
        sorted(((-doc["n"], id, doc) for id, doc in docs.items()), key=lambda one: one[:2]),
        sum(doc["tag"] == "t1" for doc in docs.values()),
        Counter(doc["tag"] for doc in docs.values() if doc["n"] >= 30),
    ]


def found(index: Any) -> list[Any]:
    asked = [
        lambda: {hit.id for hit in index.search({"query": {"match": {"body": "whale ship"}}, "size": 100})},
        lambda: sorted(((-hit.source["n"], hit.id, hit.source) for hit in index.search(
            {"query": {"match_all": {}}, "sort": [{"n": "desc"}], "size": 100})), key=lambda one: one[:2]),
        lambda: index.count({"term": {"tag": "t1"}}),
        lambda: Counter({bucket["key"]: bucket["doc_count"] for bucket in index.search(
            {"query": {"range": {"n": {"gte": 30}}}, "size": 0,
             "aggs": {"tags": {"terms": {"field": "tag"}}}}).aggs["tags"]["buckets"]}),
    ]
    return [ask() for ask in asked]


# --- scripts -------------------------------------------------------------------------------------------------


class Broken(AssertionError):
    """A promise was not kept."""


@cache
def start(seed: int) -> tuple[CrashFiles, dict[str, bytes], dict[str, Body]]:
    """A disk, objects and documents to begin with: four segments, in one or several tiers."""
    rng, files, docs = Random(f"start {seed}"), CrashFiles(), dict[str, Body]()
    objects: dict[str, bytes] = {}
    ScriptedFileSystem.bucket = Bucket(Faults(rng), objects, lambda: None)
    Bounded.asked, Bounded.most = lambda: 0, 0
    index = facade._create(files, PATH, Mapping.from_dict(MAPPING), SETTINGS, background=False, tiers=tiers())
    for part in range(4):
        for id in rng.sample(IDS, 7):
            docs[id] = document(rng)
            index.put(id, docs[id])
        index.flush()
        if seed % 2:
            index.move(to=TIERS[(seed + part) % 3], segments=[index.segments()[-1].name])
    index.close()
    return files, objects, docs


def tiers(url: str = "scripted://store/cold", options: Body | None = None) -> qc.Tiers:
    return qc.Tiers(warm=WARM, cold=url, storage_options={"key": KEY, "secret": SECRET, **(options or {})})


@dataclass
class Trial:
    """One script, from beginning to end."""

    seed: int
    files: CrashFiles = field(init=False)
    dead: bool = field(default=False, init=False)
    faults: Faults = field(init=False)
    errors: Counter[str] = field(default_factory=Counter, init=False)

    def run(self) -> None:
        self.rng = Random(f"script {self.seed}")
        self.faults = Faults(Random(f"faults {self.seed}"))
        disk, objects, docs = start(self.rng.randrange(6))
        self.files, self.docs = disk.after_crash(0, "kill"), dict(docs)
        self.kept: dict[str, dict[str, Body]] = {}  # what snapshots hold that must be there
        self.maybe: dict[str, dict[str, Body]] = {}  # what those hold that may be
        self.number = 0
        self.restoring: dict[str, tuple[str, str, dict[str, Body]]] = {}
        """Snapshot, tier and documents of restores that were broken off, by path."""
        self.restored: set[str] = set()  # the UUIDs of those that were not
        with scripted_time() as self.clock, warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            self.reach(objects)
            try:
                self.story()
                self.audit()
            except (Exception, Crashed) as error:
                raise Broken(f"{self}: {error}") from error
        for warning in said:
            self.no_secret(str(warning.message))

    def __str__(self) -> str:
        return f"python -m tests.crash.stores --seed {self.seed} --scripts 1"

    # Where it happens

    def reach(self, objects: dict[str, bytes]) -> None:
        """Make the store."""
        self.url, self.options = "scripted://store", {"key": KEY, "secret": SECRET}
        self.bucket = ScriptedFileSystem.bucket = Bucket(self.faults, dict(objects), self.die)
        Bounded.asked, Bounded.most = lambda: self.bucket.asked, 2

    def objects(self) -> dict[str, bytes]:
        """All objects, by keys below the URL."""
        return {key.removeprefix("store/"): data for key, data in self.bucket.objects.items()}

    def die(self) -> None:
        self.files.crash()
        raise Crashed("as the script says")

    def repository(self) -> Repository:
        """Others may have put blobs into it in other forms."""
        made = Repository(f"{self.url}/backup", storage_options=self.options, compress=self.rng.random() < 0.5)
        made._new = Blobs(made._store, self.rng.choice((None, None, 1500)))  # less than users may ask for
        return made

    def opened(self, path: str = PATH) -> Any:
        return facade._open(self.files, path, background=False, tiers=tiers(f"{self.url}/cold", self.options))

    # What happens

    def story(self) -> None:
        self.index = self.opened()
        actions = [self.write, self.move, self.move, self.sweep, self.merge, self.search, self.take, self.remove,
                   self.restore, self.reopen]
        if self.rng.random() < 0.5:
            self.take()
        self.faults.on = True
        for _ in range(self.rng.randint(3, 8)):
            action = self.rng.choice(actions)
            if action != self.write and self.rng.random() < 0.1:
                self.files.crash(len(self.files.steps) + self.rng.randrange(25))
            try:
                action()
            except QuidditchError as error:
                self.errors[type(error).__name__] += 1
                self.no_secret("".join(traceback.format_exception(error)))
                assert self.index._closed or self.index._writer.failure is None, "a store's fault ended the writer"
            except Crashed:
                self.dead = True
                return
            self.files.crash(10**9)  # it did not come to that

    def write(self) -> None:
        for id in self.rng.sample(IDS, self.rng.randint(1, 5)):
            if self.rng.random() < 0.3:
                self.index.delete(id)
                self.docs.pop(id, None)
            elif self.rng.random() < 0.3 and id in self.docs:
                self.index.update(id, {"n": 7})
                self.docs[id] = {**self.docs[id], "n": 7}
            else:
                doc = document(self.rng)
                self.index.put(id, doc)
                self.docs[id] = doc
        if self.rng.random() < 0.7:
            self.index.flush()

    def move(self) -> None:
        names = [info.name for info in self.index.segments() if not info.in_memory]
        chosen = self.rng.sample(names, self.rng.randint(1, len(names))) if names else []
        self.index.move(to=self.rng.choice(TIERS), segments=chosen)

    def sweep(self) -> None:
        self.index._writer.swept = False
        self.index._maintenance.sweep()

    def merge(self) -> None:
        if self.rng.random() < 0.7:
            self.index.move(to="cold")
        self.index.merge(self.rng.randint(1, 2))

    def search(self) -> None:
        self.index.refresh()
        partial = self.index.search({"query": {"match_all": {}}, "size": 100, "allow_partial_search_results": True})
        ids = {hit.id for hit in partial}
        assert ids <= set(self.docs), "found what is not there"
        assert partial.unreached or ids == set(self.docs), "silently short"
        assert found(self.index) == expected(self.docs), "a wrong answer"

    def take(self) -> None:
        name = f"s{self.number}"
        self.number += 1
        self.maybe[name] = dict(self.docs)
        self.repository().snapshot(self.index, name)
        self.kept[name] = self.maybe.pop(name)

    def remove(self) -> None:
        there = sorted({**self.kept, **self.maybe})
        if not there or self.rng.random() < 0.2:
            self.repository().collect_garbage()
            return
        name = self.rng.choice(there)
        docs = self.kept.pop(name, None)
        if docs is not None:
            self.maybe[name] = docs
        self.repository().delete(name)
        del self.maybe[name]

    def restore(self) -> None:
        if not self.kept:
            return
        name, path = self.rng.choice(sorted(self.kept)), f"/restored-{self.number}"
        self.number += 1
        self.restoring[path] = name, self.rng.choice(TIERS), self.kept[name]
        try:
            self.restore_to(path)
        except QuidditchError:
            assert not manifests.generations(self.files, path), "half an index"
            raise

    def restore_to(self, path: str) -> None:
        name, tier, docs = self.restoring[path]
        self.repository()._restore(self.files, name, path, tier, tiers(f"{self.url}/cold", self.options))
        self.same(path, docs)
        del self.restoring[path]

    def reopen(self) -> None:
        with suppress(QuidditchError):
            self.index.close()
        self.index = self.opened()

    # What is left

    def same(self, path: str, docs: dict[str, Body]) -> None:
        was, self.faults.on = self.faults.on, False
        index = self.opened(path)
        self.restored.add(index._writer.manifest.index_uuid)
        assert found(index) == expected(docs), f"{path} is not what the snapshot was of"
        index.close()
        self.faults.on = was

    def audit(self) -> None:
        self.faults.on = self.bucket.dead = False
        if self.dead:
            self.files = self.files.after_crash(self.seed, self.rng.choice(DAMAGES))
        else:
            if not self.index._closed:
                if self.faults.seen["lost"] + self.faults.seen["stale"]:  # who is lied to sees no reason to look again
                    self.index._writer.swept = False
                self.index._maintenance.sweep()
                self.tidy(self.index)
            self.index.close()
        self.clock.sleep(8 * 86_400)
        self.audit_restores()
        self.audit_index()
        self.audit_snapshots()
        known = {*self.restored, manifests.load_newest(self.files, PATH).index_uuid}
        strange = [path for path in (*self.files.tree(), *self.objects()) if path.startswith((WARM, "cold/"))
                   and not any(f"/{uuid}/" in path for uuid in known)]
        assert not strange, f"left over of nobody: {strange}"
        temporary = [path for path in self.files.tree() if path.endswith(TEMP)]
        assert not temporary, f"left over: {temporary}"

    def audit_restores(self) -> None:
        """What was broken off is whole, or goes on when the same is asked for again, or anything else."""
        for path, (name, tier, docs) in list(self.restoring.items()):
            if manifests.generations(self.files, path):
                self.same(path, docs)
                continue
            if name not in self.kept:
                self.index = self.opened()
                self.take()
                self.index.close()
                name = max(self.kept, key=lambda one: int(one[1:]))
                self.restoring[path] = name, tier, self.kept[name]
            self.restore_to(path)

    def audit_index(self) -> None:
        index = self.opened()
        index._maintenance.sweep()
        index.refresh()
        assert found(index) == expected(self.docs), "documents are lost"
        self.tidy(index)
        index.move(to=self.rng.choice(TIERS))
        index.put("new", {"body": "whale", "n": 1, "tag": "t1"})
        index.merge()
        assert found(index) == expected({**self.docs, "new": {"body": "whale", "n": 1, "tag": "t1"}})
        report = index.check()
        assert report.ok, report.problems
        self.tidy(index)
        index.close()

    def tidy(self, index: Any) -> None:
        """Every blob of the manifest is in its tier, and whole; nothing else is anywhere."""
        manifest = manifests.load_newest(self.files, PATH)
        tree, objects = self.files.tree(), self.objects()
        places = {"hot": (tree, f"{PATH}/segments/"), "warm": (tree, f"{WARM}/"),
                  "cold": (objects, "cold/")}
        folder = {"hot": "", "warm": f"{manifest.index_uuid}/", "cold": f"{manifest.index_uuid}/"}
        where = {(tier, f"{places[tier][1]}{folder[tier]}{name}") for tier, name in manifest.blobs()}
        there = {(tier, path) for tier, (all, start) in places.items() for path in all if path.startswith(start)}
        there = {(tier, path) for tier, path in there if tier == "hot" or f"/{manifest.index_uuid}/" in path}
        assert there == where, f"left over {sorted(there - where)}, missing {sorted(where - there)}"
        for segment in manifest.segments:
            all, start = places[segment.tier]
            path = f"{start}{folder[segment.tier]}{segment.name}"
            assert hashlib.sha256(all[path]).hexdigest() == segment.sha256, f"{path} is not whole"

    def audit_snapshots(self) -> None:
        repository = self.repository()
        names = {info.name for info in repository.snapshots()}
        assert set(self.kept) <= names, f"snapshots are lost: {sorted(set(self.kept) - names)}"
        assert names <= {*self.kept, *self.maybe}, f"snapshots are back: {sorted(names)}"
        for name in sorted(names):
            check = repository.verify(name)
            assert check.ok, check.problems
        if names:
            name = self.rng.choice(sorted(names))
            repository._restore(self.files, name, "/last")
            self.same("/last", {**self.kept, **self.maybe}[name])
        repository.collect_garbage()
        needed = {f"snapshots/{name}.json" for name in names}
        needed |= {key for name in names for key in repository._record(name).objects()}
        there = {key.removeprefix("backup/") for key in self.objects() if key.startswith("backup/")}
        assert there == needed, f"left over {sorted(there - needed)}, missing {sorted(needed - there)}"

    def no_secret(self, text: str) -> None:
        assert SECRET not in text, "the secret is shown"
        assert KEY not in text, "the key is shown"


class Remote(Trial):
    """A script against a server of S3 at ``url``, behind a proxy. What dies is the disk, and never the server."""

    KINDS: ClassVar = {"error": (500, "InternalError"), "throttle": (503, "SlowDown"), "denied": (403, "AccessDenied"),
                       "cut": "cut", "short": "cut", "timeout": "drop", "lost": "lost", "done": "done"}

    def __init__(self, seed: int, url: str, options: Body, proxy: Proxy) -> None:
        super().__init__(seed)
        self._place, self._options, self._proxy = url, options, proxy

    def reach(self, objects: dict[str, bytes]) -> None:
        self.bucket = ScriptedFileSystem.bucket = Bucket(self.faults, {}, self.die)
        self.faults.dies_at = 0
        self.url, self.options = f"{self._place}/{uuid.uuid4().hex}", self._options
        self._proxy.plan = lambda asked: self.KINDS.get(self.faults.next())
        Bounded.asked, Bounded.most = lambda: len(self._proxy.asked), 6
        self._store = store.FsspecStore(self.url, self.options)
        for key, data in objects.items():
            self._store.put(key.removeprefix("store/"), [data])

    def objects(self) -> dict[str, bytes]:
        return {key: data for key in self._store.list() if (data := self._store.get(key)) is not None}


@dataclass
class Report:
    """What scripts did."""

    scripts: int = 0
    died: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        def counted(what: Counter[str]) -> str:
            return ", ".join(f"{name} {count:,}" for name, count in what.most_common())

        return "\n".join([f"{self.scripts:,} scripts, {self.died:,} deaths; {len(self.broken)} broken",
                          f"faults: {counted(self.faults)}", f"errors: {counted(self.errors)}", *self.broken])


def run(trials: Iterable[Trial], most: int = 5) -> Report:
    """Try them all; stop after some that are broken."""
    report = Report()
    for trial in trials:
        report.scripts += 1
        try:
            trial.run()
        except Broken as error:
            report.broken.append("".join(traceback.format_exception(error)) if most == 1 else str(error))
            if len(report.broken) == most:
                break
        report.died += trial.dead
        report.faults += trial.faults.seen
        report.errors += trial.errors
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description="scripts of faulty stores")
    parser.add_argument("--scripts", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="of the first script")
    given = parser.parse_args()
    started = time.monotonic()
    trials = (Trial(seed) for seed in range(given.seed, given.seed + given.scripts))
    report = run(shown(trials), most=1 if given.scripts == 1 else 5)
    print(f"{report}\nin {time.monotonic() - started:.0f} s")
    return bool(report.broken)


if __name__ == "__main__":
    sys.exit(main())

"""A disk that refuses: every call that an index makes to it fails once, or fails from then on.

``python -m tests.crash.disk`` lets each call of a short history fail, one after the other; with ``--every`` in every
way of `FAULTS`; ``--pairs N`` lets two calls fail in each of N random trials. What breaks the promise is printed as
the command that tries it again.

After the failure the history goes on, as a program would that reports errors and tries the next thing. Each call must
succeed, or raise a StorageError, which says that nothing has happened, or a WriterFailedError. Reads must go on. A
file of which a sync failed is never synced again, nor given a name. Then the process dies, or the power, on a disk
that works again: the index must open, hold everything that was acknowledged and nothing that was not asked for, pass
a check, and live on.
"""

from __future__ import annotations

import argparse
import errno
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import product
from random import Random
from typing import Any, Final, NamedTuple

from quidditch_core.config import Settings
from quidditch_core.errors import IndexNotFoundError, NotFoundError, StorageError, WriterFailedError
from quidditch_core.files import File, Mode
from quidditch_core.index import facade
from quidditch_core.index.check import check
from quidditch_core.mapping import Mapping
from quidditch_core.tiering.testing import DAMAGES, CrashFiles, Damage
from quidditch_core.translog.log import TornLogWarning
from tests.crash.pages import small_pages
from tests.crash.progress import shown

Body = dict[str, Any]

PATH: Final = "/index"
MAPPING: Final[Body] = {"dynamic": "strict", "properties": {"id": {"type": "keyword"}, "body": {"type": "text"},
                                                   "n": {"type": "integer"}}}
TYPED: Final = (StorageError, WriterFailedError)


class Broken(AssertionError):
    """The engine broke its promise."""


# --- faults ---------------------------------------------------------------------------------------------------


class Fault(NamedTuple):
    """The ``nth`` call of ``operation`` fails with the error ``number``; ``lasting``: all later ones, too."""

    operation: str
    nth: int
    number: int
    lasting: bool

    def __str__(self) -> str:
        return f"{self.operation},{self.nth},{errno.errorcode[self.number]}{',lasting' * self.lasting}"

    @classmethod
    def parse(cls, text: str) -> Fault:
        operation, nth, number, *lasting = text.split(",")
        return cls(operation, int(nth), getattr(errno, number), bool(lasting))


FAULTS: Final[list[tuple[str, int, bool]]] = [
    ("append", errno.ENOSPC, False), ("append", errno.ENOSPC, True), ("append", errno.EIO, False),
    ("pwrite", errno.ENOSPC, False), ("pwrite", errno.ENOSPC, True), ("pwrite", errno.EIO, False),
    ("fsync", errno.EIO, False), ("fsync", errno.EIO, True), ("fsync", errno.ENOSPC, False),
    ("sync_dir", errno.EIO, False), ("sync_dir", errno.EIO, True), ("truncate", errno.EIO, True),
    ("open", errno.EMFILE, False), ("open", errno.EMFILE, True), ("open", errno.ENOSPC, False),
    ("mkdir", errno.ENOSPC, True), ("rename", errno.EIO, False), ("rename", errno.EIO, True),
    ("unlink", errno.EIO, False), ("unlink", errno.EIO, True),
    ("pread", errno.EIO, False), ("pread", errno.EIO, True), ("map", errno.ENOMEM, True),
    ("lock", errno.ENOLCK, True), ("linked", errno.EIO, True), ("size", errno.EIO, True),
    ("listdir", errno.EIO, True), ("exists", errno.EIO, True), ("space", errno.EIO, True),
]
"""How disks fail: what, with which error, and whether for good. Of ``truncate`` and others one fault is enough."""

READING: Final = {"open", "pread", "map", "lock", "linked", "size", "listdir", "exists", "space"}
"""Operations without which nothing can be read."""


class Watched:
    """`Files` that sees to it that nobody trusts what a sync has failed of."""

    def __init__(self, inner: CrashFiles) -> None:
        self._inner = inner
        self._files: set[str] = set()  # of which a sync has failed
        self._directories: set[str] = set()
        self.trusted: list[str] = []  # what was done in spite of that

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def reopened(self) -> None:
        """A writer begins, who must sync directories again, since he builds on what he finds in them."""
        self._directories.clear()

    def open(self, path: str, mode: Mode) -> Any:
        if mode == "w":
            self._files.discard(path)  # it begins anew
        return _WatchedFile(self._inner.open(path, mode), self)

    def rename(self, old: str, new: str) -> None:
        if old in self._files:
            self.trusted.append(f"renamed to {new}: {old}")
        self._inner.rename(old, new)

    def sync_dir(self, path: str) -> None:
        self._sync(path, self._directories, lambda: self._inner.sync_dir(path))

    def sync_file(self, file: File) -> None:
        self._sync(file.path, self._files, file.fsync)

    def _sync(self, path: str, failed: set[str], sync: Callable[[], None]) -> None:
        if path in failed:
            self.trusted.append(f"synced again: {path}")
        try:
            sync()
        except StorageError:
            failed.add(path)
            raise


class _WatchedFile:
    """`File` of `Watched`."""

    def __init__(self, inner: File, files: Watched) -> None:
        self._inner, self._files = inner, files

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def fsync(self) -> None:
        self._files.sync_file(self._inner)


# --- what may be found ----------------------------------------------------------------------------------------


class State(NamedTuple):
    """One possibility of what has become of an id: its version, and the document, None if there is none."""

    version: int
    body: Body | None


NEVER: Final = State(0, None)
Change = Callable[[State], list[State]]
"""All that an operation can make of a state; nothing, if it would be refused."""


def put(body: Body) -> Change:
    # The version of a deleted document is forgotten at some time.
    return lambda old: [State(old.version + 1, body)] + [State(1, body)] * (old.body is None)


def update(part: Body) -> Change:
    return lambda old: [] if old.body is None else [State(old.version + 1, {**old.body, **part})]


def delete() -> Change:
    return lambda old: [State(old.version + 1, None)] + [State(1, None)] * (old.body is None)


@dataclass
class Model:
    """What may be found of each id."""

    states: dict[str, list[State]] = field(default_factory=dict)
    highest: int = -1  # seq_no that was acknowledged

    def copy(self) -> Model:
        return Model(dict(self.states), self.highest)

    def of(self, id: str) -> list[State]:
        return self.states.get(id, [NEVER])

    def happened(self, id: str, change: Change, result: Any) -> None:
        """An operation was acknowledged."""
        if result.seq_no <= self.highest:
            raise Broken(f"{id}: operation {result.seq_no} came after {self.highest}")
        self.highest = result.seq_no
        after = [new for old in self.of(id) for new in change(old) if new.version == result.version]
        if not after:
            raise Broken(f"{id}: version {result.version} came after one of {self.of(id)}")
        self.states[id] = after

    def refused(self, id: str) -> None:
        """There is no such document, says the engine."""
        self.states[id] = self._those(id, lambda old: old.body is None, "nothing to update")

    def failed(self, id: str, change: Change) -> None:
        """An operation raised: it has happened, or not."""
        self.states[id] = [*self.of(id), *(new for old in self.of(id) for new in change(old))]

    def found(self, id: str, document: Any, *, settle: bool) -> None:
        """``settle``: and so it is from now on."""
        if document is None:
            left = self._those(id, lambda old: old.body is None, None)
        else:
            there = State(document.version, document.source)
            left = self._those(id, lambda old: old == there, there)
        if settle:
            self.states[id] = left

    def _those(self, id: str, fit: Callable[[State], bool], found: object) -> list[State]:
        left = [state for state in self.of(id) if fit(state)]
        if not left:
            raise Broken(f"{id}: found {found}, which is none of {self.of(id)}")
        return left


# --- the history ----------------------------------------------------------------------------------------------


class History:
    """A program that uses an index on a disk that may fail, is told so, and goes on."""

    IDS: Final = ["a", "b", "c", "d", "e"]

    def __init__(self, disk: CrashFiles, durability: str, fault_reads: bool) -> None:
        self.files = Watched(disk)
        self.model = Model()
        self.created = False
        self.failures = 0
        self._settings = Settings.from_dict({"index.translog.durability": durability, "index.refresh_interval": "-1"})
        self._fault_reads = fault_reads  # whether it may be that nothing can be read
        self._index: Any = None

    def tell(self) -> None:
        self.begin()
        self.put("a", {"body": "sea"})
        self.bulk({"b": {"body": "sea whale", "n": 1}, "c": {"body": "ship", "n": 2}, "d": {"body": "storm"}})
        self.run(lambda index: index.flush())
        self.update("b", {"n": 5})
        self.delete("c")
        self.run(lambda index: index.put_mapping({"properties": {"extra": {"type": "keyword"}}}))
        self.run(lambda index: index.refresh())
        self.put("e", {"body": "new"})
        self.run(lambda index: index.flush())
        self.delete("d")
        self.put("a", {"body": "sea sea"})
        self.end()
        self.begin()
        self.put("c", {"body": "again"})
        self.update("e", {"n": 6})
        self.run(lambda index: index.merge())
        self.delete("b")
        self.put("d", {"body": "last"})
        self.bulk({"b": {"body": "whale"}, "e": {"body": "ship"}})
        self.update("d", {"n": 7})
        self.delete("a")

    def begin(self) -> None:
        self.files.reopened()
        with self._may_fail():
            self._index = self._opened()
            self.created = True

    def _opened(self) -> Any:
        with suppress(IndexNotFoundError):
            return facade._open(self.files, PATH, background=False)
        if self.created:
            raise Broken("the index has gone")
        return facade._create(self.files, PATH, Mapping.from_dict(MAPPING), self._settings, background=False)

    def put(self, id: str, body: Body) -> None:
        self._do({id: put(body)}, lambda index: [index.put(id, body)])

    def update(self, id: str, part: Body) -> None:
        self._do({id: update(part)}, lambda index: [index.update(id, part)])

    def delete(self, id: str) -> None:
        self._do({id: delete()}, lambda index: [index.delete(id)])

    def bulk(self, bodies: dict[str, Body]) -> None:
        docs = {id: {"id": id, **body} for id, body in bodies.items()}

        def call(index: Any) -> list[Any]:
            report = index.bulk(docs.values(), id="id")
            if report.failed:
                raise Broken(f"refused: {report}")
            return [index.get(id) for id in docs]

        self._do({id: put(body) for id, body in docs.items()}, call)

    def _do(self, changes: dict[str, Change], call: Callable[[Any], list[Any]]) -> None:
        """Operations on documents."""
        if self._index is None:
            return
        before = self.model
        self.model = before.copy()
        for id, change in changes.items():
            self.model.failed(id, change)
        with self._may_fail():
            try:
                results = call(self._index)
            except NotFoundError:
                results = []
            except StorageError:
                if len(changes) == 1:  # nothing has happened; of a bulk it may be so in part
                    self.model = before
                raise
            self.model = before
            for (id, change), result in zip(changes.items(), results, strict=False):
                self.model.happened(id, change, result)
            for id in changes if not results else ():
                self.model.refused(id)

    def run(self, call: Callable[[Any], Any]) -> None:
        """A call that changes no document."""
        if self._index is not None:
            with self._may_fail():
                call(self._index)

    def end(self) -> None:
        """Close the index; whatever it says, it is closed then, and can be opened again."""
        index, self._index = self._index, None
        if index is not None:
            with self._may_fail():
                index.close()

    @contextmanager
    def _may_fail(self) -> Iterator[None]:
        try:
            yield
        except TYPED:
            self.failures += 1
            if self._index is not None:
                with self._reading():
                    compare(self._index, self.model)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except StorageError as error:
            if not self._fault_reads:
                raise Broken(f"reading has become impossible: {error}") from error


def compare(index: Any, model: Model, *, settle: bool = False) -> None:
    """What ``get`` finds of every id is possible, and after a refresh searches find the same."""
    documents = {id: found for id in History.IDS if (found := index.get(id)) is not None}
    for id in History.IDS:
        model.found(id, documents.get(id), settle=settle)
    if settle:
        index.refresh()
        found = {hit.id: hit.source for hit in index.search({"query": {"match_all": {}}})}
        if found != {id: document.source for id, document in documents.items()}:
            raise Broken(f"a search finds {found}, by their ids there are {documents}")
    index.search({"query": {"match": {"body": "sea"}}})


# --- trials ---------------------------------------------------------------------------------------------------


class Trial(NamedTuple):
    """A history on a disk with faults, and what comes after it: the death of the process, or a power cut."""

    durability: str
    damage: Damage
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        faults = " ".join(map(str, self.faults))
        return f"python -m tests.crash.disk --durability {self.durability} --damage {self.damage} --faults {faults}"

    @small_pages()
    def run(self) -> bool:
        """Raises whatever shows that the promise is broken; whether anything failed at all."""
        disk = CrashFiles()
        for fault in self.faults:
            disk.fail(fault.operation, fault.nth, fault.number, lasting=fault.lasting)
        history = History(disk, self.durability, any(fault.operation in READING for fault in self.faults))
        history.tell()
        if history.files.trusted:
            raise Broken(f"after a failed sync {history.files.trusted}")
        live_on(disk.after_crash(0, self.damage), history)
        return history.failures > 0


def live_on(disk: CrashFiles, history: History) -> None:
    """The disk works again: the index opens with all that was acknowledged, and can be written and closed."""
    model = history.model.copy()
    after = History(disk, "request", False)
    after.created = history.created
    index = after._opened()
    compare(index, model, settle=True)
    result = index.put("a", {"body": "after"})
    model.happened("a", put({"body": "after"}), result)
    index.flush()
    compare(index, model, settle=True)
    index.close()
    report = check(PATH, files=disk)
    if not report.ok:
        raise Broken(f"after repair by opening: {report}")
    with facade._open(disk, PATH, background=False) as again:
        compare(again, model, settle=True)


@small_pages()
def calls() -> Counter[str]:
    """How often a history without faults calls each operation."""
    disk = CrashFiles()
    history = History(disk, "request", False)
    history.tell()
    if history.failures or history.files.trusted:
        raise Broken("the history does not go well without faults")
    return disk.counts


ENDS: Final[list[tuple[str, Damage]]] = [
    ("request", "kill"), ("request", "drop"), ("async", "kill"), ("request", "reorder")]
"""Durability, and what comes after. What a power cut may take under ``async`` is known to `simulate`."""


def singles(every: bool = False) -> Iterator[Trial]:
    """Each call fails in one way and comes to one end, taking turns; with ``every`` in all ways, to all ends."""
    counts = calls()
    ways: dict[str, list[tuple[int, bool]]] = {}
    for operation, number, lasting in FAULTS:
        ways.setdefault(operation, []).append((number, lasting))
    for operation, possible in ways.items():
        for nth in range(1, counts[operation] + 1):
            chosen = product(possible, ENDS) if every else [(possible[nth % len(possible)], ENDS[nth % len(ENDS)])]
            for (number, lasting), (durability, damage) in chosen:
                yield Trial(durability, damage, (Fault(operation, nth, number, lasting),))


def pairs(number: int, seed: int) -> Iterator[Trial]:
    """Two calls fail, at random."""
    counts, rng = calls(), Random(f"pairs {seed}")
    possible = [fault for fault in FAULTS if counts[fault[0]]]
    for _ in range(number):
        faults = [Fault(operation, rng.randint(1, counts[operation]), number, lasting)
                  for operation, number, lasting in rng.choices(possible, k=2)]
        yield Trial(*rng.choice(ENDS), tuple(faults))


@dataclass
class Report:
    """What was tried and what broke."""

    trials: int = 0
    without: int = 0  # in which nothing failed: the call was not made, or its error stayed inside
    seconds: float = 0.0
    broken: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join([*self.broken, (f"{self.trials:,} trials, {self.without:,} of them without an error; "
                                         f"{self.seconds:.0f} s, {len(self.broken)} broken")])


def run(trials: Iterable[Trial], *, stop_after: int = 10) -> Report:
    """Run trials, until so many of them broke the promise."""
    report, started = Report(), time.monotonic()
    for trial in trials:
        report.trials += 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warnings.simplefilter("ignore", TornLogWarning)
                warnings.filterwarnings("ignore", "quidditch: a merge in the background failed", RuntimeWarning)
                report.without += not trial.run()
        except Exception as error:  # whatever it is, it is what we look for
            report.broken.append(f"{trial}\n  {type(error).__name__}: {error}")
            print(f"broken: {trial}", file=sys.stderr, flush=True)  # the report is far away
            if len(report.broken) == stop_after:
                break
    report.seconds = time.monotonic() - started
    return report


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.disk", description=__doc__.split("\n\n")[0])
    parser.add_argument("--every", action="store_true", help="in every way, to every end")
    parser.add_argument("--pairs", type=int, default=0, help="random pairs of faults to try as well (0)")
    parser.add_argument("--seed", type=int, default=0, help="of the pairs (0)")
    parser.add_argument("--faults", nargs="+", type=Fault.parse, metavar="CALL,N,ERROR[,lasting]", help="these alone")
    parser.add_argument("--durability", choices=["request", "async"], default="request", help="for --faults")
    parser.add_argument("--damage", choices=DAMAGES, default="kill", help="for --faults")
    given = parser.parse_args(arguments)
    if given.faults:
        Trial(given.durability, given.damage, tuple(given.faults)).run()
        print("the promise is kept")
        return 0
    reports = [run(shown(singles(given.every)))]
    if given.pairs:
        reports.append(run(shown(pairs(given.pairs, given.seed))))
    print(*reports, sep="\n")
    return any(report.broken for report in reports)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

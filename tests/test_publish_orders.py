"""Publishing in any order of calls: writers that sleep, die and take over, readers that follow, lists out of date.

Some threads, of which one at a time may make one call to the store; a seed decides which, and what else happens. So
a writer may sleep between any two of its calls for as long as it takes others to publish and remove many editions.
``python -m tests.test_publish_orders --seeds 5000`` tries more.
"""

from __future__ import annotations

import argparse
import threading
import uuid
import warnings
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import pytest

import quidditch_core as qc
from quidditch_core import query as q
from quidditch_core.errors import OutageError, PublishFenced, ReaderExpired
from quidditch_core.files import OS_FILES
from quidditch_core.index import facade, publish
from quidditch_core.index.objects import HEADER
from quidditch_core.index.publish import Edition, Editions, Published, Publisher
from quidditch_core.tiering.store import FsspecStore
from quidditch_core.tiering.testing import Crashed, CrashFiles

MAPPING = qc.Mapping.from_dict({"properties": {"text": {"type": "text"}, "n": {"type": "integer"}}})
SETTINGS = qc.Settings.from_dict({"index.refresh_interval": -1})
WRITERS, READERS, TURNS = 3, 2, 5


class Turns:
    """Lets threads make calls one at a time."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.failed: list[BaseException] = []
        self.over = False
        self._changed = threading.Condition()
        self._alive: set[int] = set()
        self._waiting: set[int] = set()
        self._turn = -1
        self._calls = 0
        self._sleepy = [1.0] * (WRITERS + READERS)

    def start(self, me: int, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                self.failed.append(error)
            with self._changed:
                self._alive.discard(me)
                self._changed.notify_all()

        self._alive.add(me)
        threading.Thread(target=run, daemon=True).start()

    def call(self, me: int, call: Callable[[], Any]) -> Any:
        if self.over:
            return call()
        with self._changed:
            self._waiting.add(me)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._turn == me, 60)
            self._waiting.discard(me)
            dies, after = me < WRITERS and self.rng.random() < 0.01, self.rng.random() < 0.5
        try:
            if dies and not after:
                raise Crashed
            found = call()
            if dies:
                raise Crashed
            return found
        finally:
            with self._changed:
                self._turn = -1
                self._changed.notify_all()

    def run(self) -> None:
        """Until all threads have ended."""
        while True:
            with self._changed:
                assert self._changed.wait_for(lambda: self._turn < 0 and self._waiting == self._alive, 60)
                if not self._alive:
                    self.over = True
                    return
                if self._calls % 25 == 0:
                    self._sleepy = [self.rng.choice((0.002, 0.1, 1.0)) for _ in self._sleepy]
                self._calls += 1
                there = sorted(self._waiting)
                self._turn = self.rng.choices(there, [self._sleepy[me] for me in there])[0]
                self._changed.notify_all()


class Seen:
    """What there has been, as somebody sees it who sees all; holds it against what must be true after each call."""

    def __init__(self, store: FsspecStore) -> None:
        self.store = store
        self.genuine: dict[int, str] = {}
        self.states: dict[bytes, dict[str, Any]] = {}  # what an edition has, by its first bytes
        self.read = 0  # how often
        self.lists: dict[str, list[list[str]]] = {"published": [], "blobs": []}

    def created(self, edition: Edition) -> None:
        if edition.number == max(self.genuine, default=0) + 1:
            self.genuine[edition.number] = edition.id

    def changed(self) -> None:
        for prefix, lists in self.lists.items():
            lists.append(self.store.list(prefix))
        numbers = Editions(self.store).numbers()
        if self.genuine:
            assert max(numbers) == max(self.genuine), "the newest is never removed, and none comes after it by mistake"
            newest = Editions(self.store).get(max(numbers))
            assert newest is not None
            assert newest.id == self.genuine[newest.number]
            assert {f"blobs/{name}" for name in newest.blobs} <= set(self.lists["blobs"][-1]), "whole"


class Ordered:
    """The store of one thread."""

    def __init__(self, store: FsspecStore, turns: Turns, seen: Seen, me: int) -> None:
        self._store, self._turns, self._seen, self._me, self.url = store, turns, seen, me, store.url
        self.state: dict[str, Any] = {}  # of the index that is published

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)
        return lambda *args: self._turns.call(self._me, lambda: call(*args))

    def put(self, key: str, chunks: Any) -> None:
        data = b"".join(bytes(chunk) for chunk in chunks)
        self._turns.call(self._me, lambda: (self._store.put(key, [data]), self._seen.changed()))

    def delete(self, key: str) -> None:
        self._turns.call(self._me, lambda: (self._store.delete(key), self._seen.changed()))

    def create(self, key: str, data: Any) -> bool:
        self._seen.states[bytes(data[:HEADER])] = self.state

        def create() -> bool:
            made = self._store.create(key, data)
            if made:
                edition = publish.unframed(bytes(data), "published", Edition, key, "")
                self._seen.created(edition)
                self._seen.changed()
            return made

        made: bool = self._turns.call(self._me, create)
        return made

    def list(self, prefix: str = "") -> list[str]:
        def late() -> list[str]:
            known = self._seen.lists[prefix]
            now = self._store.list(prefix)
            if not known or self._turns.over or self._turns.rng.random() < 0.7:
                return now
            return known[-min(len(known), self._turns.rng.randrange(1, 8))] or now

        found: list[str] = self._turns.call(self._me, late)
        return found


def contents(index: Any) -> dict[str, Any]:
    return {hit.id: hit.source for hit in index.search(q.MatchAll(), size=1000)}


def trial(seed: int) -> tuple[int, int]:
    """One order of calls; how many editions came of it, and how often they were read."""
    store = FsspecStore(f"memory://{uuid.uuid4().hex}")
    turns, seen = Turns(seed), Seen(store)
    files = CrashFiles()
    with facade._create(files, "/books", MAPPING, SETTINGS, background=False) as index:
        for number in range(10):
            index.put(str(number), {"text": "first", "n": number})

    def write(me: int) -> Callable[[], None]:
        def work() -> None:
            rng = Random(seed * 100 + me)
            with facade._open(files.after_crash(0, "kill"), "/books", background=False) as index:
                ordered = Ordered(store, turns, seen, me)
                publisher = None
                for turn in range(TURNS):
                    index.put(str(rng.randrange(12)), {"text": f"writer{me}", "n": turn})
                    index.delete(str(rng.randrange(12)))
                    if rng.random() < 0.3:
                        index.merge()
                    index.refresh()
                    ordered.state = contents(index)
                    if publisher is None:
                        publisher = Publisher(ordered)  # type: ignore[arg-type]
                        publisher.retention = 0.0
                    try:
                        publisher.publish(index, take_over=rng.random() < 0.5)
                    except (PublishFenced, OutageError):
                        continue
                    except Crashed:
                        publisher = None
                        continue
                    last = publisher.last
                    assert last is not None
                    assert seen.genuine.get(last.number) == last.id, "who was told that it published has published"
        return work

    def read(me: int) -> Callable[[], None]:
        def work() -> None:
            before = 0
            while not seen.genuine:
                turns.call(me, lambda: None)
            source = reader = None
            for _ in range(TURNS * 2):
                with suppress(OutageError, ReaderExpired):
                    if reader is None:
                        source = Published(Ordered(store, turns, seen, me))  # type: ignore[arg-type]
                        reader = qc.Index(OS_FILES, store.url, source=source)
                    reader.refresh()
                    number = reader.stats()["generation"]
                    assert number >= before, "readers do not go back"
                    before = number
                    assert contents(reader) == seen.states[source._header]
                    seen.read += 1
            if reader is not None:
                readers.append(reader)
        return work

    readers: list[qc.Index] = []

    for me in range(WRITERS):
        turns.start(me, write(me))
    for me in range(WRITERS, WRITERS + READERS):
        turns.start(me, read(me))
    turns.run()
    if turns.failed:
        raise turns.failed[0]
    with facade._open(files.after_crash(0, "kill"), "/books", background=False) as index:
        last = Publisher(store)
        last.retention = 0.0
        for turn in range(2):
            index.put("last", {"text": "all", "n": turn})
            last.publish(index, take_over=True)
        [number] = Editions(store).numbers()
        newest = Editions(store).get(number)
        assert newest is not None
        assert {key.removeprefix("blobs/") for key in store.list("blobs")} == set(newest.blobs), "no garbage is left"
        readers.append(qc.Index(OS_FILES, store.url, source=Published(store)))
        for reader in readers:
            with reader:
                reader.refresh()
                assert contents(reader) == contents(index)
    return number, seen.read


@pytest.mark.parametrize("seed", range(12))
def test_any_order_of_calls(seed: int) -> None:
    editions, reads = trial(seed)
    assert editions > 2
    assert reads > 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    total = [0, 0]
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        try:
            total = [sum(pair) for pair in zip(total, trial(seed), strict=True)]
        except BaseException:
            print(f"seed {seed}")
            raise
    print(f"{arguments.seeds} orders, {total[0]} editions, read {total[1]} times")


if __name__ == "__main__":
    main()

"""Real ``kill -9``: a process that writes from four threads dies at a random moment; nothing it acknowledged is lost.

``python -m tests.crash.kill --rounds 1000 --seed 7`` kills that many times, in chains of rounds that go on with the
same index: so recoveries are killed as well, and what an earlier life deleted must stay deleted. A chain that fails
is printed as the command that tries it again, and its index is kept as the kill left it. The same seed gives the
same operations and the same moments, counted in acknowledgements; how the threads interleave is the machine's.

The process says in a pipe what it is about to do, and again, with the numbers it got, after the call has returned.
Each id belongs to one thread, so that what may be found of it is known exactly: what was acknowledged last, or the
one operation that was under way. One document is everybody's: a counter that all raise with ``if_seq_no``.

Bytes that were written survive the death of a process, synced or not: under ``async`` nothing may be lost either.
What a power cut takes is what ``simulate`` tests.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

import quidditch_core as qc
from quidditch_core import query
from quidditch_core.errors import ConflictError
from quidditch_core.translog.log import TornLogWarning
from tests.crash.processes import complaints

Body = dict[str, Any]

THREADS: Final = 4
IDS: Final = 12
"""Ids of each thread: few, so that they are replaced and deleted often."""
CHAIN: Final = 4
"""Kills of one index."""
ACKNOWLEDGEMENTS: Final = 250
"""Most of them before a kill."""
STOP_AFTER: Final = 5
"""Broken chains, each of which leaves its files."""
PATIENCE: Final = 60.0
"""Seconds without a sign of life after which a process is stuck."""
COUNTER: Final = "counter"
WORDS: Final = ("sea", "whale", "ship", "storm", "harpoon")

MAPPING: Final[Body] = {
    "dynamic": "strict",
    "properties": {"id": {"type": "keyword"}, "owner": {"type": "keyword"}, "body": {"type": "text"},
                   "stamp": {"type": "keyword"}, "part": {"type": "keyword"}, "n": {"type": "long"}},
}


def settings_of(seed: int) -> Body:
    """The settings of a chain: every other one ``request``; small limits, so that much happens in a short time."""
    rng = Random(f"settings {seed}")
    return {
        "index.translog.durability": ("request", "async")[seed % 2],
        "index.translog.sync_interval": "100ms",
        "index.translog.flush_threshold_size": rng.choice(["4kb", "32kb", "512mb"]),
        "indices.memory.index_buffer_size": rng.choice(["8kb", "64kb", "256mb"]),
        "index.refresh_interval": rng.choice(["10ms", "100ms", "-1"]),
    }


# --- the process that dies ------------------------------------------------------------------------------------


def live(directory: str, seed: str, pipe: int) -> None:
    """Open the index and write to it until the end, which comes from outside."""
    report = Reporter(pipe)
    report("opening")
    index = qc.open(directory)
    report("open", index.stats()["max_seq_no"])
    threads = [threading.Thread(target=Load(index, seed, number, report).run) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Reporter:
    """Lines of JSON in a pipe; a line is written whole or not at all, whenever the process dies."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __call__(self, *note: Any) -> None:
        line = json.dumps(note).encode() + b"\n"
        assert len(line) <= select.PIPE_BUF, "a longer write to a pipe is not atomic"
        os.write(self._descriptor, line)


class Load:
    """What one thread does: operations on its own ids, the counter, and what makes and removes files."""

    def __init__(self, index: Any, seed: str, thread: int, report: Reporter) -> None:
        self._index, self._report, self._thread = index, report, thread
        self._rng = Random(f"{seed} {thread}")
        self._stamps = (f"{seed} {thread} {number}" for number in range(1 << 30))
        self._ids = [f"{thread}-{number}" for number in range(IDS)]

    def run(self) -> None:
        weights = {self.put: 8, self.update: 4, self.delete: 4, self.bulk: 2, self.count: 4, self.look: 1,
                   self._index.refresh: 1, self._index.flush: 1, self.merge: 0.2}
        try:
            while True:
                self._rng.choices(list(weights), list(weights.values()))[0]()
        except BaseException as error:
            self._report("error", f"thread {self._thread}: {type(error).__name__}: {error}")
            raise

    def put(self) -> None:
        id = self._rng.choice(self._ids)
        body = self._body(id)
        self._begin("put", {id: body})
        self._end(self._index.put(id, body))

    def update(self) -> None:
        id, part = self._rng.choice(self._ids), {"part": next(self._stamps)}
        if self._index.get(id) is not None:
            self._begin("update", {id: part})
            self._end(self._index.update(id, part))

    def delete(self) -> None:
        id = self._rng.choice(self._ids)
        self._begin("delete", {id: {}})
        self._end(self._index.delete(id))

    def bulk(self) -> None:
        bodies = {id: self._body(id) for id in self._rng.sample(self._ids, 5)}
        self._begin("put", bodies)
        report = self._index.bulk(bodies.values(), id="id")
        assert report.indexed == len(bodies), report
        self._end(*map(self._index.get, bodies))

    def count(self) -> None:
        """Raise the counter by one; who is overtaken leaves it."""
        found = self._index.get(COUNTER)
        number = 1 if found is None else found.source["n"] + 1
        condition: Body = {"op_type": "create"} if found is None else {
            "if_seq_no": found.seq_no, "if_primary_term": found.primary_term}
        self._begin("count", {COUNTER: {"n": number}})
        try:
            self._end(self._index.put(COUNTER, {"n": number}, **condition))
        except ConflictError:
            self._end()

    def look(self) -> None:
        """A search after a refresh finds exactly the documents of this thread that ``get`` finds."""
        self._index.refresh()
        mine = {id for id in self._ids if self._index.get(id) is not None}
        found = {hit.id for hit in self._index.search({"query": {"term": {"owner": str(self._thread)}}, "size": 99})}
        assert found == mine, f"found {found}, expected {mine}"

    def merge(self) -> None:
        self._index.merge(self._rng.randint(1, 3))

    def _body(self, id: str) -> Body:
        words = " ".join(self._rng.choices(WORDS, k=self._rng.randint(1, 20)))
        return {"id": id, "owner": str(self._thread), "body": words, "stamp": next(self._stamps)}

    def _begin(self, kind: str, bodies: dict[str, Body]) -> None:
        self._report("begin", self._thread, kind, bodies)

    def _end(self, *results: Any) -> None:
        self._report("end", self._thread, {one.id: (one.seq_no, one.version) for one in results})


# --- what was promised ----------------------------------------------------------------------------------------


class Broken(AssertionError):
    """The engine broke its promise."""


class Entry(NamedTuple):
    """What is known of an id: its newest operation, and the document, None if that is deleted."""

    seq_no: int
    version: int
    body: Body | None


NOTHING: Final = Entry(-1, 0, None)


class Pending(NamedTuple):
    """An operation of which no acknowledgement has come."""

    kind: str
    bodies: dict[str, Body]


@dataclass
class Ledger:
    """What all lives of an index have said of it."""

    entries: dict[str, Entry] = field(default_factory=dict)
    pending: dict[int, Pending] = field(default_factory=dict)  # by thread
    seq_nos: set[int] = field(default_factory=set)
    unseen: Counter[str] = field(default_factory=Counter)  # deletes of nothing, which happened or not
    acknowledged: int = 0

    def hear(self, note: list[Any]) -> None:
        """A line of the process."""
        match note:
            case ["begin", thread, kind, bodies]:
                self.pending[thread] = Pending(kind, bodies)
            case ["end", thread, numbers]:
                kind, bodies = self.pending.pop(thread)
                for id, (seq_no, version) in numbers.items():
                    self._learn(id, Entry(seq_no, version, self._outcome(kind, id, bodies[id])))
                self.acknowledged += 1
            case ["open", max_seq_no]:
                if max_seq_no < max(self.seq_nos, default=-1):
                    raise Broken(f"opened at operation {max_seq_no}, after {max(self.seq_nos)} was acknowledged")
            case ["error", text]:
                raise Broken(text)

    def _outcome(self, kind: str, id: str, body: Body) -> Body | None:
        """The document after an operation on an id."""
        if kind == "update":
            return {**(self.entries.get(id, NOTHING).body or {}), **body}
        return body if kind in ("put", "count") else None

    def _learn(self, id: str, new: Entry) -> None:
        """An operation happened; of the counter they may be told in another order than they happened in."""
        old = self.entries.get(id, NOTHING)
        if new.seq_no in self.seq_nos:
            raise Broken(f"number {new.seq_no} was given twice, now to {id}")
        self.seq_nos.add(new.seq_no)
        if id == COUNTER:
            if new.body is None or new.version != new.body["n"]:
                raise Broken(f"raising the counter to {new.body} was version {new.version} of it")
            if new.seq_no < old.seq_no:
                return
        elif new.seq_no < old.seq_no:
            raise Broken(f"{id}: operation {new.seq_no} came after {old.seq_no}")
        else:
            steps = range(1, 2 + self.unseen.pop(id, 0))
            forgotten = old.body is None and new.version in steps  # a flush may forget the versions of what is deleted
            if new.version - old.version not in steps and not forgotten:
                raise Broken(f"{id}: version {new.version} came after {old}")
        self.entries[id] = new

    def settle(self, found: dict[str, Entry]) -> None:
        """What was found after the kill is allowed, and is what is true from now on."""
        waiting = {id: Pending(kind, {id: bodies[id]}) for kind, bodies in self.pending.values() for id in bodies}
        raised = [pending.bodies[COUNTER]["n"] for pending in self.pending.values() if pending.kind == "count"]
        self.pending.clear()
        for id in self.entries.keys() | waiting.keys() | found.keys():
            known, there = self.entries.get(id, NOTHING), found.get(id)
            if there is None and known.body is None:
                self.unseen[id] += id in waiting and waiting[id].kind == "delete"
                continue
            if there == known:
                continue
            if id == COUNTER:
                allowed = there is not None and there.body is not None and there.body["n"] in raised
            else:
                allowed = id in waiting and (None if there is None else there.body) == self._outcome(
                    waiting[id].kind, id, waiting[id].bodies[id])
            if not allowed:
                raise Broken(f"{id}: found {there}, acknowledged was {known}, under way {waiting.get(id)}")
            if there is None:
                self.entries[id] = Entry(known.seq_no, known.version + 1, None)
            else:
                self._learn(id, there)


# --- what is found afterwards ---------------------------------------------------------------------------------


def read_all(index: Any, ids: list[str]) -> dict[str, Entry]:
    """Every document, by its id and by searches, which must agree."""
    found = {id: Entry(got.seq_no, got.version, got.source) for id in ids if (got := index.get(id)) is not None}
    documents = {id: entry.body for id, entry in found.items()}
    everything = index.search({"query": {"match_all": {}}, "size": 1000, "track_total_hits": True})
    if {hit.id: hit.source for hit in everything} != documents or everything.total.value != len(documents):
        raise Broken(f"a search finds {everything.total} {sorted(hit.id for hit in everything)}, "
                     f"by their ids there are {sorted(documents)}")
    for id, body in documents.items():
        if body and "stamp" in body and [hit.id for hit in index.search(query.Term("stamp", body["stamp"]))] != [id]:
            raise Broken(f"{id} is not found by its own stamp: {body}")
    for word in WORDS:
        having = sum(word in body.get("body", "").split() for body in documents.values() if body)
        if index.count(query.Match("body", word)) != having:
            raise Broken(f"{index.count(query.Match('body', word))} documents are found for {word}, {having} have it")
    return found


def verify(directory: Path, ledger: Ledger) -> bool:
    """Open what a kill left, compare it with the ledger, write on; whether the log's end had to be cut."""
    ids = [f"{thread}-{number}" for thread in range(THREADS) for number in range(IDS)]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        index = qc.open(directory)
    with index:
        strange = [str(one.message) for one in warned if not issubclass(one.category, TornLogWarning)]
        if strange:
            raise Broken(f"opening warned: {strange}")
        ledger.settle(read_all(index, [*ids, COUNTER]))
        max_seq_no, highest = index.stats()["max_seq_no"], max(ledger.seq_nos, default=-1)
        if max_seq_no < highest:
            raise Broken(f"the newest operation is {max_seq_no}, but {highest} was acknowledged")
        if index.put("after", {"n": 0}).seq_no != max_seq_no + 1:
            raise Broken("the numbers of operations do not go on")
        index.merge()
        again = read_all(index, [*ids, COUNTER, "after"])
        del again["after"]
        ledger.settle(again)
        report = index.check()
        if not report.ok:
            raise Broken(str(report))
    return bool(warned)


# --- chains of lives ------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What was done and what broke."""

    kills: int = 0
    in_recovery: int = 0
    acknowledged: int = 0
    torn: int = 0
    seconds: float = 0.0
    broken: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join([*self.broken, (
            f"{self.kills} kills, {self.in_recovery} of them before the index was open; {self.acknowledged} "
            f"acknowledged calls, {self.torn} logs with a cut end; {self.seconds:.0f} s, {len(self.broken)} broken")])


def run(rounds: int, seed: int, directory: Path) -> Report:
    """``rounds`` kills, in chains of `CHAIN`, the first with ``seed``."""
    report, started = Report(), time.monotonic()
    while report.kills < rounds and len(report.broken) < STOP_AFTER:
        chain = directory / f"chain-{seed}"
        try:
            _chain(chain, seed, min(CHAIN, rounds - report.kills), report)
            shutil.rmtree(chain)
        except Exception as error:  # whatever it is, it is what we look for
            report.broken.append(f"python -m tests.crash.kill --rounds {CHAIN} --seed {seed}\n"
                                 f"  {type(error).__name__}: {error}\n  files: {chain}")
        seed += 1
    report.seconds = time.monotonic() - started
    return report


def _chain(chain: Path, seed: int, rounds: int, report: Report) -> None:
    index, copy = chain / "index", chain / "copy"
    qc.create(index, MAPPING, settings=settings_of(seed)).close()
    ledger, rng = Ledger(), Random(f"kills {seed}")
    for number in range(rounds):
        report.kills += 1
        opened = _life(index, f"{seed}.{number}", ledger, rng)
        report.in_recovery += not opened
        shutil.copytree(index, copy)  # so that the next life recovers, and may be killed in it
        report.torn += verify(copy, ledger)
        shutil.rmtree(copy)
    report.acknowledged += ledger.acknowledged


def _life(directory: Path, seed: str, ledger: Ledger, rng: Random) -> bool:
    """One process from its start to its violent end; whether it had opened the index by then."""
    early = rng.random() < 0.2
    target = ledger.acknowledged + (0 if early else rng.randint(1, ACKNOWLEDGEMENTS))
    delay = rng.uniform(0, 0.02) if early else rng.uniform(0, 0.003)
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "tests.crash.kill", "--child", str(directory), seed, str(writing)]
    process = subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.PIPE)
    os.close(writing)
    opened = False
    try:
        with open(reading, "rb") as pipe:
            for note in _notes(pipe):
                opened |= note[0] == "open"
                ledger.hear(note)
                if ledger.acknowledged >= target and process.returncode is None:
                    time.sleep(delay)
                    process.kill()
                    process.wait()
    finally:
        process.kill()
        said = complaints(process.communicate()[1].decode(errors="replace"))
    if said:
        raise Broken("\n".join(["the process said:", *said]))
    return opened


def _notes(pipe: Any) -> Iterator[list[Any]]:
    """The lines of a process until it is dead."""
    while select.select([pipe], [], [], PATIENCE)[0]:
        line = pipe.readline()
        if not line:
            return
        yield json.loads(line)
    raise Broken(f"no sign of life for {PATIENCE} s")


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--child"]:
        live(arguments[1], arguments[2], int(arguments[3]))
        return 0
    parser = argparse.ArgumentParser(prog="python -m tests.crash.kill", description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="kills (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the first chain (0)")
    given = parser.parse_args(arguments)
    directory = Path(tempfile.mkdtemp(prefix="quidditch-kill-"))
    report = run(given.rounds, given.seed, directory)
    print(report)
    with suppress(OSError):  # not empty: what is in it is evidence
        directory.rmdir()
    return bool(report.broken)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

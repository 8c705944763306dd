"""At most one writer: processes that pass an index around, holders that die, forks of a holder.

``python -m tests.crash.locks --rounds 5000 --seed 7`` tries each of the three that often:

- *turns*: three processes at once each take the index, raise a counter in it, and let it go by closing it or by
  ``kill -9``. Nobody is ever in it with another one, nobody waits for the dead, no raise is lost.
- *refusals*: while one process has the index, another is refused and told whom it waits for, and may read; when
  the holder is dead the index is free at once, with all that the holder had acknowledged.
- *forks*: a child of a process that has an index open can do nothing with it, by any call, and takes nothing from
  its parent: not the lock, not a byte, however it ends.

All processes are forks of one that has imported the engine and opened nothing, so that a round takes milliseconds.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any, Final

import quidditch_core as qc
from quidditch_core.errors import IndexClosedError, LockError
from tests.crash.processes import Child, Say
from tests.crash.progress import shown

SETTINGS: Final = {"index.refresh_interval": "10ms"}
TURNS: Final = 3
"""Processes that want the index at the same time."""
PATIENCE: Final = 60.0
"""Seconds that a process waits for the lock: longer than all others together can have it."""


class Broken(AssertionError):
    """There were two writers, or one was in the way of another that should not have been."""


# --- rounds ---------------------------------------------------------------------------------------------------


def turns(directory: str, rng: Random) -> None:
    """Three processes raise the counter, each once, and end well or badly."""
    with qc.open(directory) as index:
        before = _count(index)
    ends = [rng.choice(["close", "flush and die", "die"]) for _ in range(TURNS)]
    children = [Child(partial(_turn, directory, end)) for end in ends]
    said = [child.end() for child in children]
    for end, (lines, code) in zip(ends, said, strict=True):
        if len(lines) != 1 or not lines[0].isdigit() or code != (0 if end == "close" else -signal.SIGKILL):
            raise Broken(f"one that should {end} ended with {code} and said {lines}")
    raised = sorted(int(lines[0]) for lines, _ in said)
    with qc.open(directory) as index:
        if raised != [before + 1 + number for number in range(TURNS)] or _count(index) != before + TURNS:
            raise Broken(f"the counter was {before}, was raised to {raised}, and is {_count(index)}")


def _turn(directory: str, end: str, say: Say) -> None:
    index = qc.open(directory, lock_timeout=PATIENCE)
    inside = os.path.join(os.path.dirname(directory), "inside")
    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # two at once: FileExistsError
    number = _count(index) + 1
    index.put("counter", {"n": number})
    if end == "flush and die":
        index.flush()
    os.unlink(inside)
    say(str(number))
    if end == "close":
        index.close()
    else:
        os.kill(os.getpid(), signal.SIGKILL)


def _count(index: Any) -> int:
    found = index.get("counter")
    return 0 if found is None else int(found.source["n"])


def refusals(directory: str, rng: Random) -> None:
    """A holder is named; when it is killed, its index is free, and what it acknowledged is there."""
    with qc.open(directory) as index:
        before = _count(index)
    holder = Child(partial(_hold, directory, before + 1))
    if holder.line() != "holds":
        raise Broken(f"the holder could not hold it: {holder.end()}")
    try:
        with suppress(LockError):
            qc.open(directory).close()
            raise Broken("there were two writers")
        started = time.monotonic()
        try:
            qc.open(directory, lock_timeout=0.01).close()
        except LockError as error:
            if f"process {holder.pid} (" not in str(error):
                raise Broken(f"the holder is process {holder.pid}, not named in: {error}") from error
        if time.monotonic() - started < 0.01:
            raise Broken("nobody waited for the lock")
        with qc.open(directory, read_only=True) as reader:
            if _count(reader) != before:
                raise Broken(f"a reader sees {_count(reader)}, flushed was {before}")
    finally:
        time.sleep(rng.uniform(0, 0.002))
        holder.kill()
        said, code = holder.end()
    if said or code != -signal.SIGKILL:
        raise Broken(f"the holder ended with {code} and said {said}")
    with qc.open(directory) as index:  # without waiting
        if _count(index) != before + 1:
            raise Broken(f"the holder had raised the counter to {before + 1}, it is {_count(index)}")


def _hold(directory: str, number: int, say: Say) -> None:
    index = qc.open(directory)
    index.put("counter", {"n": number})
    say("holds")
    while True:
        signal.pause()


CALLS: Final[dict[str, Callable[[Any], object]]] = {
    "put": lambda index: index.put("x", {"n": 1}),
    "bulk": lambda index: index.bulk([{"n": 1}]),
    "update": lambda index: index.update("counter", {"n": -1}),
    "delete": lambda index: index.delete("counter"),
    "get": lambda index: index.get("counter"),
    "refresh": lambda index: index.refresh(),
    "flush": lambda index: index.flush(),
    "merge": lambda index: index.merge(),
    "search": lambda index: index.search(),
    "count": lambda index: index.count(),
    "explain": lambda index: index.explain({"match_all": {}}, "counter"),
    "reader": lambda index: index.reader(),
    "segments": lambda index: index.segments(),
    "stats": lambda index: index.stats(),
    "put_mapping": lambda index: index.put_mapping({"properties": {"x": {"type": "text"}}}),
    "put_settings": lambda index: index.put_settings({"index.refresh_interval": "1s"}),
    "mapping": lambda index: index.mapping,
    "settings": lambda index: index.settings,
    "__enter__": lambda index: index.__enter__().get("counter"),
}
"""Whatever one may ask of an index."""


def forks(directory: str, rng: Random) -> None:
    """A process opens the index and forks; the child is refused everything, and the parent goes on."""
    holder = Child(partial(_fork, directory, rng))
    said, code = holder.end()
    if said or code:
        raise Broken(f"it ended with {code}: {' '.join(said)}")


def _fork(directory: str, rng: Random, say: Say) -> None:
    index = qc.open(directory)
    number = _count(index) + 1
    index.put("counter", {"n": number})
    reader = index.reader()
    end = rng.choice(["exit", "close", "collect"])
    child = Child(partial(_misuse, directory, index, reader, end))
    index.put("counter", {"n": number + 1})  # with the child at it
    said, code = child.end()
    if said or code:
        raise Broken(f"the fork ended with {code}: {' '.join(said)}")
    index.flush()
    other = Child(lambda say: qc.open(directory).close())
    said, code = other.end()
    if not said or not said[0].startswith(f"LockError: {directory}: process {os.getpid()} "):
        raise Broken(f"after the fork had ended another process could write: {said}")
    if _count(index) != number + 1 or reader.count() > index.count():
        raise Broken(f"the counter is {_count(index)}, it was set to {number + 1}")
    index.close()
    with qc.open(directory) as again:
        if _count(again) != number + 1:
            raise Broken(f"the counter is {_count(again)}, it was set to {number + 1}")


def _misuse(directory: str, index: Any, reader: Any, end: str, say: Say) -> None:
    """What the child of a holder tries."""
    for name, call in [*CALLS.items(), ("a reader's search", lambda _: reader.search())]:
        try:
            call(index)
        except IndexClosedError as error:
            if "fork" not in str(error):
                raise Broken(f"{name} in a fork gives no reason: {error}") from error
        else:
            raise Broken(f"{name} is possible in a fork")
    with suppress(LockError):
        qc.open(directory)
        raise Broken("a fork could take the lock that its parent has")
    if end == "close":
        index.close()
        reader.close()
    elif end == "collect":
        del index, reader, call
        gc.collect()
    with suppress(LockError):
        qc.open(directory)
        raise Broken("a fork could take the lock from its parent")


# --- all of them ----------------------------------------------------------------------------------------------

KINDS: Final = {"turns": turns, "refusals": refusals, "forks": forks}


def run(kind: str, rounds: int, seed: int, directory: str) -> str:
    """``rounds`` of a kind on one index; empty if all went well, else what to try again and why."""
    index = os.path.join(directory, f"{kind}-index")
    said, code = Child(partial(_create, index)).end()  # which also compiles, so that nobody waits for that later
    if said or code:
        return f"the index could not be made: {said}"
    for number in shown(range(seed, seed + rounds)):
        try:
            KINDS[kind](index, Random(f"{kind} {number}"))
        except Exception as error:  # whatever it is, it is what we look for
            command = f"python -m tests.crash.locks --kind {kind} --rounds 1 --seed {number}"
            return f"{command}\n  {type(error).__name__}: {error}\n  files: {index}"
    return ""


def _create(directory: str, say: Say) -> None:
    with qc.create(directory, settings=SETTINGS) as index:
        index.put("other", {"n": 0})
        index.flush()
        index.search()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.locks", description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=50, help="of each kind (50)")
    parser.add_argument("--seed", type=int, default=0, help="of the first round (0)")
    parser.add_argument("--kind", choices=KINDS, help="one kind alone")
    given = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    broken = []
    for kind in [given.kind] if given.kind else KINDS:
        started = time.monotonic()
        broken.append(run(kind, given.rounds, given.seed, tempfile.mkdtemp(prefix="quidditch-locks-")))
        print(broken[-1] or f"{kind}: {given.rounds} rounds in {time.monotonic() - started:.1f} s", flush=True)
    return any(broken)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

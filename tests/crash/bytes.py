"""One wrong byte, anywhere: bits of each byte of each file of a tiny index are flipped, each file is cut everywhere.

``python -m tests.crash.bytes`` flips one bit of each byte, ``--bits 8`` all; ``--only NAME`` looks at the files whose
path has that in it. Each time the index is opened for writing and everything is read: all documents by their ids, and
a set of searches. Each question must get the right answer, or an error that says what is damaged. A signal ends only
the process in which that happened, and is seen.

The log may differ at its end: operations after the last one that it can prove to have been synced may be cut off,
because the same bytes are what a crash leaves. Then opening warns, and the answers are those of before the cut. A
log that is cut exactly between two batches is a shorter log; there nothing can be seen.
"""

from __future__ import annotations

import argparse
import bisect
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from quidditch_core.config import Settings
from quidditch_core.errors import CorruptIndexError, FormatError, IndexNotFoundError, QuidditchError
from quidditch_core.files import OS_FILES
from quidditch_core.index import facade
from quidditch_core.mapping import Mapping
from quidditch_core.translog.log import TornLogWarning
from tests.crash.pages import small_pages
from tests.crash.processes import Child, Say

Body = dict[str, Any]

CHUNK: Final = 100
"""Trials of one process."""
NAME: Final = "index"
"""Of its directory: answers have it in them."""
MEMORY: Final = "/dev/shm"
"""Where a sync costs nothing, on systems that have it."""

MAPPING: Final[Body] = {
    "dynamic": "strict",
    "properties": {"body": {"type": "text"}, "tag": {"type": "keyword"}, "n": {"type": "long"},
                   "price": {"type": "double"}},
}
IDS: Final = ["d0", "d1", "d2", "d3", "d4", "d5", "new", "absent"]


def open_index(path: Path) -> Any:
    return facade._open(OS_FILES, str(path), background=False)


# --- the index, and what it answers ---------------------------------------------------------------------------


def build(directory: Path) -> list[Path]:
    """Two segments, a live mask and a log; copies of all files, as a ``kill -9`` after each logged operation leaves
    them."""
    path = directory / "original" / NAME
    settings = Settings.from_dict({"index.refresh_interval": "-1"})
    index = facade._create(OS_FILES, str(path), Mapping.from_dict(MAPPING), settings, background=False)
    for number in range(6):
        index.put(f"d{number}", {"body": f"{'sea whale ' * (number % 3)}ship", "tag": ["a", "b"][: number % 3],
                                 "n": number, "price": number / 2})
    index._maintenance.flush()  # flush() would also merge
    index.delete("d1")
    index.put("d2", {"body": "storm", "n": -(2**40)})
    index._maintenance.flush()
    logged: list[Callable[[], Any]] = [
        lambda: index.put("d3", {"body": "a new whale"}),
        lambda: index.delete("d4"),
        lambda: index.update("d0", {"n": 50, "tag": "z"}),
        lambda: index.put("new", {"body": "sea sea", "price": 1.5}),
    ]
    copies = []
    for number, operation in enumerate([lambda: None, *logged]):
        operation()
        copies.append(directory / f"after-{number}" / NAME)
        shutil.copytree(path, copies[-1])
    return copies


SEARCHES: Final[list[Body]] = [
    {"query": {"match_all": {}}, "sort": [{"n": {"order": "desc", "missing": "_last"}}]},
    {"query": {"match_all": {}}, "sort": [{"price": "asc"}, {"tag": "asc"}]},
    {"query": {"match": {"body": "sea whale storm"}}, "highlight": {"fields": {"body": {}}}},
    {"query": {"match_phrase": {"body": "whale ship"}}},
    {"query": {"term": {"tag": "a"}}},
    {"query": {"prefix": {"tag": "z"}}},
    {"query": {"range": {"n": {"gte": 0, "lt": 60}}}},
    {"query": {"range": {"price": {"gt": 0.4}}}},
    {"query": {"bool": {"must": [{"exists": {"field": "price"}}], "must_not": [{"term": {"body": "storm"}}]}}},
    {"query": {"ids": {"values": ["d0", "d1", "d5"]}}},
]


def answers(index: Any) -> list[Any]:
    """What all questions are answered, ready for JSON; an error is None."""
    questions: list[Callable[[], Any]] = [
        lambda: index.count(),
        lambda: index.explain({"match": {"body": "ship"}}, "d5").to_dict(),
        *(lambda id=id: _document(index.get(id)) for id in IDS),
        *(lambda body=body: _hits(index.search(body)) for body in SEARCHES),
    ]
    return [_asked(question) for question in questions]


def _asked(question: Callable[[], Any]) -> Any:
    with suppress(CorruptIndexError, FormatError):
        return [question()]
    return None


def _document(found: Any) -> Any:
    return found and [found.source, found.seq_no, found.version]


def _hits(result: Any) -> Any:
    body = result.to_dict()
    del body["took"]
    return body


# --- trials ---------------------------------------------------------------------------------------------------


class Trial(NamedTuple):
    """A file, and what happens to it: ``flip`` the bits of ``mask`` at ``at``, ``cut`` it there, ``grow`` by so many
    bytes, or ``lose`` it."""

    file: str
    damage: str
    at: int
    mask: int = 0

    def apply(self, data: bytes) -> bytes:
        if self.damage == "cut":
            return data[: self.at]
        if self.damage in ("grow", "lose"):
            return data + bytes(self.at)
        return data[: self.at] + bytes([data[self.at] ^ self.mask]) + data[self.at + 1 :]


def trials(files: dict[str, bytes], bits: int) -> Iterator[Trial]:
    """Every trial; with fewer than eight bits, others for each byte."""
    for name, data in files.items():
        for at in range(len(data)):
            yield from (Trial(name, "flip", at, 1 << (at + bit) % 8) for bit in range(bits))
        yield from (Trial(name, "cut", length) for length in range(len(data)))
        yield from (Trial(name, "grow", length) for length in (1, 8, 64, 4096))
        yield Trial(name, "lose", 0)


class Case:
    """The undamaged index: its files, its answers, and those of before each operation that is in its log."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with small_pages():
            copies = build(directory)
        self.files = {str(file.relative_to(copies[-1])): file.read_bytes()
                      for file in sorted(copies[-1].rglob("*")) if file.is_file()}
        self.log = next(name for name in self.files if name.startswith("translog/"))
        self.manifest = next(name for name in self.files if name.startswith("manifest-"))
        self.ends = [len((copy / self.log).read_bytes().rstrip(b"\0")) for copy in copies]  # of the batches
        assert self.ends[-1] < len(self.files[self.log]), "no zeros at the end"
        self.states = []
        for copy in copies:
            with open_index(copy) as index:
                self.states.append(answers(index))
            shutil.rmtree(copy)
        assert all(answer is not None for state in self.states for answer in state)
        assert len({json.dumps(state) for state in self.states}) == len(self.states)

    def attempt(self, trial: Trial) -> str:
        """Do a trial; ``right``, ``error`` or ``cut``, or else a sentence about what is wrong."""
        place = Path(tempfile.mkdtemp(dir=self.directory))
        path = place / NAME
        try:
            for name, data in self.files.items():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(trial.apply(data) if name == trial.file else data)
            if trial.damage == "lose":
                (path / trial.file).unlink()
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                index = open_index(path)
                found = answers(index)
            torn = [str(one.message) for one in warned if issubclass(one.category, TornLogWarning)]
            if len(torn) != len(warned) or len(torn) != index.stats()["translog"]["torn"]:
                return f"strange warnings: {[str(one.message) for one in warned]}"
            return self._judge(trial, found, bool(torn))
        except (CorruptIndexError, FormatError) as error:
            where = os.path.dirname(trial.file) if trial.damage == "lose" else os.path.basename(trial.file)
            return "error" if where in str(error) else f"the error does not name {where}: {error}"
        except IndexNotFoundError:
            return "error" if trial == Trial(self.manifest, "lose", 0) else "the index is not found"
        except QuidditchError as error:
            return f"another error than one of damage: {type(error).__name__}: {error}"
        finally:
            shutil.rmtree(place)

    def _judge(self, trial: Trial, found: list[Any], warned: bool) -> str:
        """What to say of the answers of an index that could be opened."""
        if agree(found, self.states[-1]):
            return "error" if None in found else "right"
        if trial.file == self.log:
            # What may be left of it: nothing from the damaged batch on. After a flip that is the last batch: any
            # other is followed by one that proves that it was synced.
            kept = bisect.bisect_right(self.ends, trial.at) - 1
            seen = warned or (trial.damage == "cut" and trial.at == self.ends[kept])
            if seen and (trial.damage == "cut" or kept == len(self.ends) - 2) and found == self.states[kept]:
                return "cut"
        return "a wrong answer, silently"


def agree(found: Sequence[Any], right: Sequence[Any]) -> bool:
    """Whether all answers are right that are no errors."""
    return all(one is None or one == other for one, other in zip(found, right, strict=True))


# --- all of them ----------------------------------------------------------------------------------------------


def run(directory: Path, bits: int, only: str, jobs: int) -> bool:
    """Do all trials, tell how they ended; whether all ended well."""
    case, started = Case(directory), time.monotonic()
    every = list(trials({name: data for name, data in case.files.items() if only in name}, bits))
    counts: Counter[tuple[str, str, str]] = Counter()
    broken: list[str] = []
    waiting = [every[start : start + CHUNK] for start in range(0, len(every), CHUNK)]
    running: list[tuple[Child, list[Trial]]] = []
    while waiting or running:
        if waiting and len(running) < jobs:
            chunk = waiting.pop(0)
            running.append((Child(partial(_all, case, chunk)), chunk))
            continue
        child, chunk = running.pop(0)
        said, code = child.end()
        for trial, line in zip(chunk, said, strict=False):
            counts[trial.file, trial.damage, line if line in ("right", "error", "cut") else "BROKEN"] += 1
            if line not in ("right", "error", "cut"):
                broken.append(f"{trial}: {line}")
        if code:
            counts["", "", "BROKEN"] += 1
            broken.append(f"{chunk[len(said)] if len(said) < len(chunk) else chunk}: the process ended with {code}")
            waiting.insert(0, chunk[len(said) + 1 :])
    for (name, damage, outcome), number in sorted(counts.items()):
        print(f"{name:45} {damage:5} {outcome:6} {number:7,}")
    print(*broken[:20], sep="\n", end="\n" if broken else "")
    print(f"{len(every):,} trials in {time.monotonic() - started:.0f} s, {len(broken)} broken")
    return not broken


def _all(case: Case, chunk: list[Trial], say: Say) -> None:
    for trial in chunk:
        say(case.attempt(trial))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.bytes", description=__doc__.split("\n\n")[0])
    parser.add_argument("--bits", type=int, default=1, choices=range(1, 9), help="of each byte that are flipped (1)")
    parser.add_argument("--only", default="", help="part of the path of the files to damage")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes at a time")
    given = parser.parse_args(arguments)
    place = MEMORY if os.access(MEMORY, os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="quidditch-bytes-", dir=place))
    try:
        return not run(directory, given.bits, given.only, given.jobs)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

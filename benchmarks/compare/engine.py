"""What an engine must be able to do to take part. One file or folder in ``engines/`` for each."""

from __future__ import annotations

import resource
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from benchmarks.compare.workload import COMMANDS, KINDS, Command, Document, Query


class Unavailable(Exception):
    """The engine cannot take part; the message says why."""


class Answer(NamedTuple):
    """What a command found: the total if it was asked for, else the number of hits; and Lucene's scores, best first."""

    found: int
    scores: list[float]


class Engine(ABC):
    """One engine with one index in ``directory``, on one core.

    A time includes making the query from its words, as a caller would. What an engine has no way to do stays out
    of ``kinds`` and ``commands`` and is a dash in the report.
    """

    scored: ClassVar[bool] = True
    """Whether scores are Lucene's BM25; where not, only numbers of documents are compared."""
    kinds: ClassVar[Sequence[str]] = KINDS
    commands: ClassVar[Sequence[str]] = tuple(COMMANDS)
    deletes: ClassVar[bool] = True
    warm_seconds: ClassVar[float] = 0
    """How long to run the queries before anything is measured, for what is compiled while it runs."""
    clock: ClassVar[str] = "around the call in Python"
    settings: ClassVar[str] = ""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def check(cls) -> None:
        """Build what must be built. Raises :class:`Unavailable` where that fails."""
        return

    @property
    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    def create(self) -> None:
        """Make an empty index, with the text indexed with positions, and id and text stored."""

    def load(self, documents: Sequence[Document]) -> None:
        """Take documents over before the clock starts; then :meth:`add` is asked to index the same."""
        return

    @abstractmethod
    def add(self, documents: Sequence[Document]) -> None:
        """Index the documents and make them durable, as a segment of their own where there are such."""

    def delete(self, ids: Sequence[str]) -> None:
        """Delete documents and merge nothing. Not asked of engines whose ``deletes`` is False."""
        raise NotImplementedError

    @abstractmethod
    def merge(self) -> None:
        """Merge into as few segments as the engine can."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the index, which is then complete on disk."""

    @abstractmethod
    def open(self) -> None:
        """Open the index for searching."""

    def segments(self) -> int:
        """How many segments the open index has."""
        return 1

    @abstractmethod
    def run(self, query: Query, command: Command) -> Any:
        """Run one command; its result as the engine gives it. This is what is measured."""

    @abstractmethod
    def read(self, result: Any, command: Command) -> Answer:
        """What a result of :meth:`run` says."""

    def answer(self, query: Query, command: Command) -> Answer:
        return self.read(self.run(query, command), command)

    def measure(self, queries: Sequence[Query], command: Command) -> list[int]:
        """Nanoseconds of each query, one after another. Engines outside of this process override it."""
        times = []
        clock, run = time.perf_counter_ns, self.run
        for query in queries:
            started = clock()
            run(query, command)
            times.append(clock() - started)
        return times

    def cpu_seconds(self) -> float:
        """CPU time so far, of all threads."""
        return time.process_time()

    def peak_rss(self) -> int:
        """The most bytes that were resident."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def engine(name: str) -> type[Engine]:
    """The class ``Rival`` of ``engines/<name>``, or of a module named with dots. Raises :class:`Unavailable`."""
    try:
        found: type[Engine] = import_module(name if "." in name else f"benchmarks.compare.engines.{name}").Rival
    except ImportError as error:
        raise Unavailable(str(error)) from error
    found.check()
    return found

"""What an engine must be able to do to take part. One file in ``engines/`` for each."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import ClassVar, NamedTuple

from benchmarks.compare.workload import Command, Document, Query

DEPTH = 1000
"""How many of the best scores are compared."""


class Answer(NamedTuple):
    """How many documents match, and the best DEPTH scores, best first, in Lucene's scale."""

    found: int
    scores: list[float]


class Engine(ABC):
    """One engine with one index in ``directory``, on one core.

    ``scored`` is False where the scoring formula differs, so that only counts can be compared. A time includes
    making the query from its words, as a caller would.
    """

    scored: ClassVar[bool] = True
    settings: ClassVar[str] = ""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    def create(self) -> None:
        """Make an empty index, with the text indexed with positions, and id and text stored."""

    @abstractmethod
    def add(self, documents: Sequence[Document]) -> None:
        """Index the documents and make them durable."""

    @abstractmethod
    def merge(self) -> None:
        """Merge into as few segments as the engine can, and let go of the index."""

    @abstractmethod
    def open(self) -> None:
        """Open the index for searching."""

    @abstractmethod
    def run(self, query: Query, command: Command) -> int:
        """Run one command; how many documents it counted, or returned."""

    @abstractmethod
    def answer(self, query: Query) -> Answer:
        """What :meth:`run` finds."""

    def measure(self, queries: Sequence[Query], command: Command) -> list[int]:
        """Nanoseconds of each query, one after another. Engines outside of this process override it."""
        times = []
        clock, run = time.perf_counter_ns, self.run
        for query in queries:
            started = clock()
            run(query, command)
            times.append(clock() - started)
        return times


def engine(name: str, directory: Path) -> Engine:
    """The engine in ``engines/<name>.py``: its class ``Rival``."""
    try:
        module = import_module(f"benchmarks.compare.engines.{name}")
    except ModuleNotFoundError as error:
        raise SystemExit(f"engine {name!r}: {error}; see benchmarks/compare/engines/") from error
    made: Engine = module.Rival(directory)
    return made

"""Engines that are programs of their own: requests as lines on stdin, one line of reply each on stdout.

The words of a line are separated by tabs; in texts ``\\t``, ``\\n`` and ``\\\\`` stand for a tab, a line feed and a
backslash. A reply that begins with ``error`` says what went wrong, ``done`` is that of a request without result.

========================== =====================================================================
version                    the engine's version
create, add, merge, close  as in :class:`Engine`; ``add`` indexes the documents sent before it
document ID TEXT           no reply
delete ID ...
open, segments
question KIND TERM ...     no reply; questions are numbered from 0
answer COMMAND NUMBER      COUNT (``-`` if not asked for), tab, scores between spaces
measure COMMAND NUMBERS    nanoseconds between spaces: the program measures around its query
========================== =====================================================================
"""

from __future__ import annotations

import os
import subprocess
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from benchmarks.compare.engine import Answer, Engine
from benchmarks.compare.workload import Command, Document, Query

_TICKS = os.sysconf("SC_CLK_TCK")
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": " "})


class Outside(Engine):
    """The Python side; ``program`` is what to start. The process inherits the core that this one is pinned to."""

    clock: ClassVar[str] = "inside the program, around its query"
    score_scale: ClassVar[float] = 1.0
    """By what its scores are divided to be Lucene's."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._numbers: dict[Query, int] = {}
        self._process = subprocess.Popen(
            [*self.program(), str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            encoding="utf-8")

    @classmethod
    @abstractmethod
    def program(cls) -> list[str]:
        """Command and arguments; the directory is added."""

    def _tell(self, *words: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\t".join(words) + "\n")

    def _ask(self, *words: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._tell(*words)
        self._process.stdin.flush()
        reply = self._process.stdout.readline().rstrip("\n")
        if not reply or reply.startswith("error"):
            raise RuntimeError(f"{self.program()[0]}: {words[0]}: {reply or 'it ended'}")
        return reply

    @property
    def version(self) -> str:
        return self._ask("version")

    def create(self) -> None:
        self._ask("create")

    def load(self, documents: Sequence[Document]) -> None:
        for id, text in documents:
            self._tell("document", id, text.translate(_ESCAPES))
        self._ask("version")  # it has read them all

    def add(self, documents: Sequence[Document]) -> None:
        self._ask("add")

    def delete(self, ids: Sequence[str]) -> None:
        self._ask("delete", *ids)

    def merge(self) -> None:
        self._ask("merge")

    def close(self) -> None:
        self._ask("close")

    def open(self) -> None:
        self._ask("open")

    def segments(self) -> int:
        return int(self._ask("segments"))

    def run(self, query: Query, command: Command) -> str:
        return self._ask("answer", command.name, self._number(query))

    def read(self, result: str, command: Command) -> Answer:
        count, _, scores = result.partition("\t")
        values = [float(score) / self.score_scale for score in scores.split()]
        return Answer(int(count) if command.counts else len(values), values)

    def measure(self, queries: Sequence[Query], command: Command) -> list[int]:
        numbers = " ".join(map(self._number, queries))
        return [int(time) for time in self._ask("measure", command.name, numbers).split()]

    def _number(self, query: Query) -> str:
        number = self._numbers.get(query)
        if number is None:
            number = self._numbers[query] = len(self._numbers)
            self._tell("question", query.kind, *query.terms)
        return str(number)

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS  # utime and stime, of all threads

    def peak_rss(self) -> int:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

"""The second best document of TOP_10 is missing and the eleventh is there, as if pruning had lost one."""

from __future__ import annotations

from typing import Any

from benchmarks.compare.engine import Answer
from benchmarks.compare.engines import tantivy
from benchmarks.compare.workload import Command, Query


class Rival(tantivy.Rival):
    def run(self, query: Query, command: Command) -> Any:
        return super().run(query, _deeper(command))

    def read(self, result: Any, command: Command) -> Answer:
        _, scores = super().read(result, _deeper(command)) if command.name == "TOP_10" else (0, [])
        if not scores:
            return super().read(result, command)
        if len(scores) > command.k:
            del scores[1]
        return Answer(len(scores), scores)


def _deeper(command: Command) -> Command:
    return command._replace(k=command.k + 1) if command.name == "TOP_10" else command

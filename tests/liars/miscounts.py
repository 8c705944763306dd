"""Counts one too many where there are more than 20, and only when nothing but the count is asked."""

from __future__ import annotations

from benchmarks.compare.engine import Answer
from benchmarks.compare.engines import sqlite_fts5
from benchmarks.compare.workload import Command


class Rival(sqlite_fts5.Rival):
    def read(self, result: tuple[int, list[float]], command: Command) -> Answer:
        found, scores = super().read(result, command)
        return Answer(found + (command.name == "COUNT" and found > 20), scores)

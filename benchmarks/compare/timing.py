"""From the nanoseconds of every round to microseconds per query, and queries in groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

from benchmarks.compare.workload import KINDS, Query

FASTEST = ("native_tantivy", "lucene")
"""The rivals with pruning, compiled or warm: ours is measured against the faster of them, query by query."""
FETCH_ALONE = "FETCH_10 - TOP_10"

Row = list[float | None]
"""Microseconds of each query; None where an engine cannot be asked."""


class Timing:
    """What a run measured. ``best`` and ``typical``: engine -> command -> each query's least or median time.

    FETCH_ALONE is the difference of two commands, least from least.
    """

    def __init__(self, result: dict[str, Any], queries: Sequence[Query]) -> None:
        self.queries = queries
        self.engines = list(result["opened"])
        self.best = _reduced(result["times"], min)
        self.typical = _reduced(result["times"], median)
        self.rounds = {name: min((len(rounds) for rows in commands.values() for rounds in rows if rounds), default=0)
                       for name, commands in result["times"].items()}
        for times in (self.best, self.typical):
            for commands in times.values():
                if "FETCH_10" in commands and "TOP_10" in commands:
                    commands[FETCH_ALONE] = [
                        None if whole is None or search is None else max(whole - search, 0.0)
                        for whole, search in zip(commands["FETCH_10"], commands["TOP_10"], strict=True)]
        self.commands = list(next(iter(self.best.values()), {}))

    def groups(self, command: str) -> list[tuple[str, list[int]]]:
        """The numbers of the queries of each kind, then of all; fetching depends on no kind."""
        kinds = [] if command.startswith("FETCH") else list(KINDS)
        chosen = [(kind, [at for at, query in enumerate(self.queries) if query.kind == kind]) for kind in kinds]
        return [(kind, some) for kind, some in chosen if some] + [("all", list(range(len(self.queries))))]

    def faster(self, command: str, names: Iterable[str]) -> Row:
        """The least time of each query over several engines."""
        rows = [self.best[name][command] for name in names]
        return [min((time for time in times if time is not None), default=None) for times in zip(*rows, strict=True)]


def pairs(ours: Row, theirs: Row, chosen: Sequence[int]) -> list[tuple[float, float]]:
    """Both times of the chosen queries that both can be asked."""
    found = []
    for at in chosen:
        our, their = ours[at], theirs[at]
        if our is not None and their is not None:
            found.append((our, their))
    return found


def whole(row: Row, chosen: Sequence[int]) -> list[float]:
    """The times of the chosen queries, none if one is missing."""
    times = [time for at in chosen if (time := row[at]) is not None]
    return times if len(times) == len(chosen) else []


def _reduced(
    times: dict[str, dict[str, list[list[int]]]], reduce: Callable[[list[int]], float],
) -> dict[str, dict[str, Row]]:
    return {name: {command: [reduce(rounds) / 1e3 if rounds else None for rounds in rows]
                   for command, rows in commands.items()} for name, commands in times.items()}

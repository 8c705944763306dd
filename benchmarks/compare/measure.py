"""The workers take turns: build, agree on the answers, then rounds in which every engine runs every command."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any

from benchmarks.compare.workload import COMMANDS, Query, read_queries

RTOL = 1e-5
"""Relative distance allowed between two engines' scores: they sum float32 in different orders."""


class Process:
    """A worker from outside. A context manager: the process ends with it."""

    def __init__(self, name: str, directory: Path, core: int) -> None:
        self.name = name
        command = [sys.executable, "-m", "benchmarks.compare.worker", name, str(directory), str(core)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, do: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: the worker ended while asked to {do}")
        return json.loads(line)

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        self._process.communicate()


def build(
    names: Sequence[str], work: Path, core: int, corpus: Path, *, limit: int | None, raw: bool, commits: int,
) -> dict[str, dict[str, Any]]:
    """Build every engine's index, one process after the other; what it cost."""
    built = {}
    for name in names:
        with Process(name, work / name, core) as process:
            built[name] = process.ask("build", corpus=str(corpus), limit=limit, raw=raw, commits=commits)
    return built


def search(
    names: Sequence[str], work: Path, core: int, queries_path: Path, commands: Sequence[str], *, rounds: int,
    warmup: int, seed: int,
) -> dict[str, Any]:
    """Open every index, compare the answers, and measure.

    Returns ``opened`` by engine; ``differences``, sentences; ``times``: engine -> command -> for each query
    the nanoseconds of each round.
    """
    queries = read_queries(queries_path)
    rng = Random(seed)
    times: dict[str, dict[str, list[list[int]]]] = {
        name: {command: [[] for _ in queries] for command in commands} for name in names}
    with ExitStack() as stack:
        processes = [stack.enter_context(Process(name, work / name, core)) for name in names]
        opened = {process.name: process.ask("open", queries=str(queries_path)) for process in processes}
        answers = {process.name: process.ask("answer") for process in processes}
        differences = [
            difference for name in names[1:]
            for difference in compare(queries, answers[names[0]], answers[name], names[0], name,
                                      scored=opened[names[0]]["scored"] and opened[name]["scored"])]
        for number in range(warmup + rounds):
            for command in commands:
                order = rng.sample(range(len(queries)), len(queries))
                # Who begins rotates, so that none always finds the caches as the same neighbour left them.
                turn = number % len(processes)
                for process in processes[turn:] + processes[:turn]:
                    measured = process.ask("measure", command=command, order=order)
                    if number >= warmup:
                        for of_query, nanoseconds in zip(times[process.name][command], measured, strict=True):
                            of_query.append(nanoseconds)
    return {"opened": opened, "differences": differences, "times": times}


def compare(
    queries: Sequence[Query], ours: Sequence[Any], theirs: Sequence[Any], our_name: str, their_name: str, *,
    scored: bool,
) -> list[str]:
    """What two engines answer differently: counts, and position by position the scores."""
    found = []
    for query, (our_count, our_scores), (their_count, their_scores) in zip(queries, ours, theirs, strict=True):
        if our_count != their_count:
            found.append(f"{query}: {our_name} counts {our_count}, {their_name} {their_count}")
        elif scored:
            for rank, (our, their) in enumerate(zip_longest(our_scores, their_scores, fillvalue=math.nan), 1):
                if not math.isclose(our, their, rel_tol=RTOL):
                    found.append(f"{query}: at rank {rank} {our_name} scores {our}, {their_name} {their}")
                    break
    return found


def all_commands(names: str) -> list[str]:
    """Command names from a comma-separated list."""
    chosen = [name for name in names.split(",") if name]
    unknown = [name for name in chosen if name not in COMMANDS]
    if unknown:
        raise SystemExit(f"unknown command {unknown[0]}; known: {', '.join(COMMANDS)}")
    return chosen

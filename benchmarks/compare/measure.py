"""The workers take turns: build, agree on the answers, then rounds in which every engine runs every command."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any

from benchmarks.compare.engine import Unavailable
from benchmarks.compare.workload import COMMANDS, Query, read_queries

RTOL, ATOL = 1e-5, 2e-6
"""Distance allowed between two engines' scores. They sum float32 in different orders; and Lucene takes w / (1 + fc)
from a weight w, so that of a small score in a long document it keeps only what float32 has left below w, some 1e-6.
"""


class Process:
    """A worker from outside. A context manager: the process ends with it. Raises :class:`Unavailable`."""

    def __init__(self, name: str, directory: Path, core: int) -> None:
        self.name = name
        command = [sys.executable, "-m", "benchmarks.compare.worker", name, str(directory), str(core)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started = self._reply("start")
        if "unavailable" in started:
            self._process.communicate()
            raise Unavailable(started["unavailable"])
        self.deletes: bool = started["deletes"]

    def ask(self, do: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._reply(do)

    def _reply(self, do: str) -> Any:
        assert self._process.stdout is not None
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
    names: Sequence[str], work: Path, core: int, plan: dict[str, Any], rebuild: Collection[str],
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Build every engine's index that is not there, one process after the other.

    ``plan`` holds the arguments of :meth:`Worker.build`. Returns what each index cost, and why engines are skipped.
    """
    corpus = Path(plan["corpus"])
    made_of = {**plan, "corpus": corpus.name, "corpus_bytes": corpus.stat().st_size}
    built, skipped = {}, {}
    for name in names:
        directory, note = work / name, work / f"{name}.json"
        if name in rebuild:
            note.unlink(missing_ok=True)
        if note.exists():
            known = json.loads(note.read_text())
            if known["made_of"] != made_of:
                raise SystemExit(f"{note}: built from {known['made_of']}, asked for is {made_of}: "
                                 f"take another --work, or --rebuild {name}")
            built[name] = known
            continue
        for left in (directory, directory.with_name(f"{name}-warm")):
            shutil.rmtree(left, ignore_errors=True)
        try:
            with Process(name, directory, core) as process:
                if plan["deletes"] and not process.deletes:
                    raise Unavailable("it cannot delete documents")
                built[name] = {**process.ask("build", **plan), "made_of": made_of}
        except Unavailable as why:
            skipped[name] = str(why)
            continue
        note.write_text(json.dumps(built[name]))
    return built, skipped


def search(
    names: Sequence[str], work: Path, core: int, queries_path: Path, commands: Sequence[str], *, rounds: int,
    warmup: int, seed: int, patience: float,
) -> dict[str, Any]:
    """Open every index, compare the answers, and measure.

    An engine gets ``patience`` seconds for all rounds of a command; what does not finish has fewer rounds, but
    one. Returns ``opened`` by engine; ``skipped`` by engine, reasons; ``differences``, sentences; ``times``:
    engine -> command -> for each query the nanoseconds of each round, none where it cannot be asked.
    """
    queries = read_queries(queries_path)
    rng = Random(seed)
    opened: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    with ExitStack() as stack:
        processes = []
        for name in names:
            try:
                process = stack.enter_context(Process(name, work / name, core))
            except Unavailable as why:
                skipped[name] = str(why)
                continue
            processes.append(process)
            opened[name] = process.ask("open", queries=str(queries_path))
        asked = {name: {command: [number for number, query in enumerate(queries) if query.kind in can["kinds"]]
                        for command in commands if command in can["commands"]} for name, can in opened.items()}
        differences = _differences(processes, queries, asked, opened)
        times: dict[str, dict[str, list[list[int]]]] = {
            name: {command: [[] for _ in queries] for command in commands} for name in opened}
        for process in processes:
            opened[process.name]["warm_s"] = process.ask("warm", orders=asked[process.name])
        spent: dict[tuple[str, str], float] = defaultdict(float)
        for number in range(warmup + rounds):
            for command in commands:
                order = rng.sample(range(len(queries)), len(queries))
                # Who begins rotates, so that none always finds the caches as the same neighbour left them.
                turn = number % len(processes)
                for process in processes[turn:] + processes[:turn]:
                    allowed = set(asked[process.name].get(command, ()))
                    chosen = [at for at in order if at in allowed]
                    kept = times[process.name][command]
                    late = spent[process.name, command] > patience
                    if not chosen or (late and (number < warmup or kept[chosen[0]])):
                        continue
                    started = time.perf_counter()
                    measured = process.ask("measure", command=command, order=chosen)
                    spent[process.name, command] += time.perf_counter() - started
                    if number >= warmup:
                        for at, nanoseconds in zip(chosen, measured, strict=True):
                            kept[at].append(nanoseconds)
    return {"opened": opened, "skipped": skipped, "differences": differences, "times": times}


def _differences(
    processes: Sequence[Process], queries: Sequence[Query], asked: dict[str, dict[str, list[int]]],
    opened: dict[str, dict[str, Any]],
) -> list[str]:
    """What others answer differently from the first, to the very commands that are measured."""
    if not processes:
        return []
    first, *others = processes
    found = []
    for command, ours_asked in asked[first.name].items():
        ours = dict(zip(ours_asked, first.ask("answer", command=command, numbers=ours_asked), strict=True))
        for other in others:
            both = [number for number in asked[other.name].get(command, ()) if number in ours]
            theirs = other.ask("answer", command=command, numbers=both) if both else []
            scored = opened[first.name]["scored"] and opened[other.name]["scored"]
            found += compare([queries[at] for at in both], [ours[at] for at in both], theirs,
                             first.name, other.name, command, scored=scored)
    return found


def compare(
    queries: Sequence[Query], ours: Sequence[Any], theirs: Sequence[Any], our_name: str, their_name: str,
    command: str, *, scored: bool,
) -> list[str]:
    """What two engines answer differently: numbers of documents, and position by position the scores."""
    found = []
    for query, (our_count, our_scores), (their_count, their_scores) in zip(queries, ours, theirs, strict=True):
        if our_count != their_count:
            found.append(f"{command} {query}: {our_name} finds {our_count}, {their_name} {their_count}")
        elif scored:
            for rank, (our, their) in enumerate(zip_longest(our_scores, their_scores, fillvalue=math.nan), 1):
                if not math.isclose(our, their, rel_tol=RTOL, abs_tol=ATOL):
                    found.append(
                        f"{command} {query}: at rank {rank} {our_name} scores {our}, {their_name} {their}")
                    break
    return found


def all_commands(names: str) -> list[str]:
    """Command names from a comma-separated list."""
    chosen = [name for name in names.split(",") if name]
    unknown = [name for name in chosen if name not in COMMANDS]
    if unknown:
        raise SystemExit(f"unknown command {unknown[0]}; known: {', '.join(COMMANDS)}")
    return chosen

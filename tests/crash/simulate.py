"""Simulated crashes: a history of an index is broken off at every step, and what comes back must keep the promise.

``python -m tests.crash.simulate`` tries every step of a few histories, crashes within recovery, and every call to
the disk that may fail; ``--points N`` as many as that. What breaks the promise is printed as the command that
tries it again, such as ``python -m tests.crash.simulate --seed 3 --boundary 57 --damage tear``.

From top to bottom: the engine under test (the one place that knows how to put an index on a simulated disk),
histories, what was promised, how a history is told, what is found afterwards, trials, the command line.
"""

from __future__ import annotations

import argparse
import copy
import errno
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import chain, islice
from random import Random
from typing import Any, Final, NamedTuple

from quidditch_core.config import Settings
from quidditch_core.errors import IndexClosedError, IndexNotFoundError, StorageError, WriterFailedError
from quidditch_core.index import facade
from quidditch_core.index import manifest as manifests
from quidditch_core.mapping import Mapping
from quidditch_core.tiering.testing import DAMAGES, Crashed, CrashFiles, Damage
from quidditch_core.translog.log import TornLogWarning
from tests.crash.pages import small_pages
from tests.crash.progress import shown
from tests.naive import Missing, Oracle, fields_of
from tests.properties.pair import assert_found

Body = dict[str, Any]

# --- the engine ----------------------------------------------------------------------------------------------

PATH = "/books"
MAPPING: Body = {
    "dynamic": "strict",
    "properties": {"body": {"type": "text"}, "n": {"type": "integer"}, "tag": {"type": "keyword"}},
}
WINDOW, DURABILITY = "index.max_result_window", "index.translog.durability"
SETTINGS: Body = {WINDOW: 10_000, DURABILITY: "request"}


def create(files: CrashFiles) -> Any:
    settings = Settings.from_dict({"index.refresh_interval": -1})  # no thread that acts when it likes
    return facade._create(files, PATH, Mapping.from_dict(MAPPING), settings, background=False)


def open_index(files: CrashFiles, *, read_only: bool = False) -> Any:
    return facade._open(files, PATH, read_only, background=False)


def pages(seed: int) -> AbstractContextManager[None]:
    """In two of four histories the log is made longer than its batches."""
    return small_pages() if seed % 4 in (1, 2) else nullcontext()


# --- histories -----------------------------------------------------------------------------------------------

IDS = [f"k{number}" for number in range(8)]
NEW = "new"
"""An id that no history uses, for what comes after it."""

COMMITS = {"flush", "merge", "reopen"}
REQUESTS: list[Body] = [
    {"query": {"match": {"body": "sea whale"}}, "size": 20, "track_total_hits": True},
    {"query": {"bool": {"filter": [{"range": {"n": {"gte": 2}}}]}}, "sort": [{"n": "desc"}], "size": 20},
]


class Action(NamedTuple):
    """A method of Index and its arguments; or ``reopen``, or ``read``: hold the newest commit for reading."""

    kind: str
    arguments: tuple[Any, ...] = ()


def history(seed: int, parts: int = 4) -> list[Action]:
    """Operations and something that concerns the disk, ``parts`` times; the same for the same seed.

    With an odd seed most of it is under ``async``.
    """
    rng = Random(f"history {seed}")
    made = [_durability("async")] if seed % 2 else []
    for part, kind in enumerate(rng.sample(["flush", "merge", "reopen", "read"], parts)):
        made += [_operation(rng) for _ in range(rng.randint(1, 4))]
        if part == 0:
            made.append(Action("put_mapping", ({"properties": {f"extra{seed % 3}": {"type": "keyword"}}},)))
        if part == 1 and seed % 2:
            made += [_operation(rng), _durability("request"), _operation(rng), _durability("async"), _operation(rng)]
        if part == 2:
            made.append(Action("put_settings", ({WINDOW: 100 + seed % 7},)))
        if rng.random() < 0.3:
            made.append(Action("refresh"))
        made.append(Action(kind))
    return [*made, Action("flush"), *(Action("delete", (id,)) for id in IDS[:3]), Action("reopen")]


def _durability(value: str) -> Action:
    return Action("put_settings", ({DURABILITY: value},))


def _operation(rng: Random) -> Action:
    id, kind = rng.choice(IDS), rng.random()
    if kind < 0.5:
        return Action("put", (id, _document(rng)))
    if kind < 0.65:
        return Action("update", (id, {"n": rng.randrange(9)}))
    if kind < 0.85:
        return Action("delete", (id,))
    return Action("bulk", ([{"tag": key, **_document(rng)} for key in rng.sample(IDS, 3)],))


def _document(rng: Random) -> Body:
    words = rng.choices(["sea", "whale", "ship", "storm", "harpoon"], k=rng.randint(1, 6))
    return {"body": " ".join(words), "n": rng.randrange(9)}


# --- what was promised ---------------------------------------------------------------------------------------


class Content(NamedTuple):
    """All that an index knows, in a form that can be compared."""

    documents: dict[str, tuple[int, int, Body]]  # id -> seq_no, version, source
    fields: dict[str, str]
    settings: dict[str, Any]
    max_seq_no: int


@dataclass
class State:
    """What an index should know after some operation: documents and fields in the oracle, and settings."""

    oracle: Oracle
    settings: dict[str, Any]

    @cached_property
    def content(self) -> Content:
        documents = {id: (entry.seq_no, entry.version, self.oracle.versions[entry.seq_no].source)
                     for id, entry in self.oracle.entries.items() if not entry.deleted}
        fields = {name: one.kind for name, one in self.oracle.fields.items()}
        return Content(documents, fields, self.settings, self.oracle.next_seq_no - 1)

    def copy(self) -> State:
        oracle = copy.copy(self.oracle)
        oracle.entries, oracle.versions, oracle.fields = map(dict, (oracle.entries, oracle.versions, oracle.fields))
        return State(oracle, self.settings)


@dataclass
class Story:
    """What an index was asked and what it answered, up to now.

    ``states[k]`` is the state after k operations; changes of mapping and settings are operations, and those of a
    call that has not returned are included. ``durable``: operations that must survive, since a commit wrote
    them or they were acknowledged under ``request``. ``acknowledged``: (operations, steps of the disk), both up
    to then, for each call that returned.
    """

    files: CrashFiles
    states: list[State] = field(default_factory=lambda: [State(Oracle(MAPPING), SETTINGS)])
    created: bool = False
    durable: int = 0
    acknowledged: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)])

    @property
    def newest(self) -> int:
        return len(self.states) - 1

    def begin(self, action: Action) -> bool:
        """The action, operation by operation, on the oracle; False if the index would refuse it."""
        kind, arguments = action
        if kind == "bulk":
            for doc in arguments[0]:
                self._advance("put", doc["tag"], doc)
        elif kind in ("put", "update", "delete"):
            with suppress(Missing):
                self._advance(kind, *arguments)
                return True
            return False
        elif kind == "put_mapping":
            state, new = self.states[-1].copy(), dict(fields_of(arguments[0]["properties"]))
            if not new.keys() <= state.oracle.fields.keys():
                state.oracle.fields |= new
                state.oracle.next_seq_no += 1
            self.states.append(state)
        elif kind == "put_settings":
            state = self.states[-1].copy()
            state.settings = {**state.settings, **arguments[0]}
            state.oracle.next_seq_no += state.settings != self.states[-1].settings
            self.states.append(state)
        return True

    def _advance(self, verb: str, *arguments: Any) -> None:
        state = self.states[-1].copy()
        getattr(state.oracle, verb)(*arguments)
        self.states.append(state)

    def end(self, action: Action) -> None:
        """The call returned."""
        if action.kind in COMMITS:
            self.states[-1].oracle.forget_tombstones()
        if action.kind in COMMITS or self.states[-1].settings[DURABILITY] == "request":
            self.durable = self.newest
        self.acknowledged.append((self.newest, len(self.files.steps)))

    def fail(self) -> None:
        """The call was refused: it had its effect, or none except that it took its numbers."""
        without = self.states[self.acknowledged[-1][0]].copy()
        without.oracle.next_seq_no = self.states[-1].oracle.next_seq_no
        self.states.append(without)

    def survivors(self) -> range:
        """Which of the states may be found now after a crash.

        All that is durable is in them. Under ``async`` also what was acknowledged when the last fsync of the log
        began. What was done since is in them up to some operation, and not beyond.
        """
        last = max((at for at, step in enumerate(self.files.steps)
                    if step.operation == "fsync" and "/translog/" in step.path), default=0)
        synced = max(operations for operations, steps in self.acknowledged if steps <= last)
        return range(max(self.durable, synced), len(self.states))


# --- how a history is told -----------------------------------------------------------------------------------


def tell(actions: Sequence[Action], story: Story) -> None:
    """Do all actions on a new index and in its story, unless the disk crashes or refuses before the end."""
    files = story.files
    index: Any = None
    reader: Any = None
    read = committed = 0
    try:
        index = create(files)
        story.created = True
        for action in actions:
            if action.kind == "read":
                if reader is not None:
                    reader.close()
                reader, read = open_index(files, read_only=True), committed
            elif action.kind == "reopen":
                story.begin(action)
                index.close()
                index = open_index(files)
                story.end(action)
            else:
                perform(action, index, story)
            if action.kind in COMMITS:
                committed = story.newest
        if reader is not None:  # it still sees what it saw, after commits and merges
            compare(reader, story, [read])
            check_searches(reader, story.states[read])
    except (StorageError, WriterFailedError):
        story.fail()
        if index is not None:
            with suppress(StorageError, IndexClosedError):
                index.count()
        raise
    finally:
        for opened in (index, reader):  # ends their threads; on a machine that stands still it does nothing else
            if opened is not None:
                with suppress(Crashed, StorageError):
                    opened.close()


def perform(action: Action, index: Any, story: Story) -> None:
    """One action on the index and in its story."""
    if not story.begin(action):
        return
    if action.kind == "bulk":
        assert not index.bulk(action.arguments[0], id="tag").failed
    else:
        getattr(index, action.kind)(*action.arguments)
    story.end(action)


# --- what is found afterwards --------------------------------------------------------------------------------


class Broken(AssertionError):
    """The engine broke its promise."""


def verify(files: CrashFiles, story: Story, allowed: Sequence[int], draw: int) -> None:
    """What is on the disk must open as one of the ``allowed`` states, whole, and live on. Changes ``files``."""
    index = recover(files, story)
    try:
        found = compare(index, story, allowed)
        check_searches(index, story.states[found])
        compare_after(files, "reorder", draw, story, allowed)
        life = Story(files, [story.states[found].copy()], created=True)
        alive = sorted(story.states[found].content.documents)
        for action in [*(Action("put", (id, {"body": "sea", "n": 5})) for id in (*alive[:1], NEW)),
                       *(Action("delete", (id,)) for id in alive[1:2])]:
            perform(action, index, life)
        compare_after(files, "tear", draw, life, life.survivors())
        perform(Action("flush"), index, life)
        check_tidy(files)
    finally:
        index.close()
    compare_after(files, "drop", draw, life, [life.newest])


def compare_after(files: CrashFiles, damage: Damage, draw: int, story: Story, allowed: Sequence[int]) -> None:
    """Were there a crash now, it would come back in one of the ``allowed`` states."""
    index = recover(files.after_crash(draw, damage), story)
    found = compare(index, story, allowed)
    check_searches(index, story.states[found])
    index.close()


def recover(files: CrashFiles, story: Story) -> Any:
    """Open the index; create it if it was never there, as its user would."""
    try:
        return open_index(files)
    except IndexNotFoundError:
        if story.created:
            raise
        return create(files)


def compare(index: Any, story: Story, allowed: Sequence[int]) -> int:
    """Which of the ``allowed`` states an index is in."""
    content = content_of(index)
    for number in sorted(allowed, reverse=True):
        if story.states[number].content == content:
            return number
    states = "".join(f"\nstate {number}: {story.states[number].content}" for number in sorted(allowed))
    raise Broken(f"none of the states that may be\nfound: {content}{states}")


def check_searches(index: Any, state: State) -> None:
    """It answers as the oracle does."""
    with index.reader() as reader:
        layout = reader.layout()
        state.oracle.check_layout(layout)
        for request in REQUESTS:
            assert_found(reader.search(request), state.oracle.search(request, layout), request)


def content_of(index: Any) -> Content:
    documents = {id: (got.seq_no, got.version, got.source) for id in [*IDS, NEW] if (got := index.get(id)) is not None}
    if index.count() != len(documents):
        raise Broken(f"a search finds {index.count()} documents, there are {len(documents)} by their ids")
    fields = {name: one.type for name, one in index.mapping.fields.items()}
    settings = {WINDOW: index.settings.max_result_window, DURABILITY: index.settings.translog_durability.value}
    return Content(documents, fields, settings, index.stats()["max_seq_no"])


def check_tidy(files: CrashFiles) -> None:
    """After a commit that no reader holds back, the disk has what it names, and nothing else."""
    newest = manifests.load_newest(files, PATH)
    needed = {f"{PATH}/{manifests.file_name(newest.generation)}", f"{PATH}/write.lock",
              *(f"{PATH}/segments/{name}" for _, name in newest.blobs())}
    logs = {path for path in files.tree() if path.startswith(f"{PATH}/translog/")}
    there = files.tree().keys() - logs
    if there != needed:
        raise Broken(f"on disk but not needed: {sorted(there - needed)}; missing: {sorted(needed - there)}")
    if len([path for path in logs if "/torn-" not in path]) != 1:
        raise Broken(f"more than the current log is on disk: {sorted(logs)}")


# --- trials --------------------------------------------------------------------------------------------------

FAILURES: Final = {
    "append": errno.ENOSPC, "pwrite": errno.ENOSPC, "fsync": errno.EIO, "sync_dir": errno.EIO, "open": errno.EMFILE,
    "rename": errno.EIO, "unlink": errno.EIO, "mkdir": errno.ENOSPC, "truncate": errno.EIO, "pread": errno.EIO,
    "map": errno.ENOMEM, "lock": errno.ENOLCK, "linked": errno.EIO, "size": errno.EIO, "listdir": errno.EIO,
    "exists": errno.EIO, "space": errno.EIO,
}
"""How each operation of a disk fails."""

SHORT = 2
"""Parts of the histories in which every call may fail: they are told once for each of their calls."""


@dataclass(frozen=True)
class Trial:
    """A history of ``seed``, broken off before step ``boundary`` of the disk, and what ``damage`` leaves of it.

    ``draw`` varies the damage. ``recovery``: it crashes once more, before that step of the recovery. ``fails``
    in place of a boundary: (operation, n): the n-th such call fails, and with ``lasting`` all later ones.
    """

    seed: int
    boundary: int | None = None
    damage: Damage = "drop"
    draw: int = 0
    recovery: int | None = None
    fails: tuple[str, int] | None = None
    lasting: bool = False

    def __str__(self) -> str:
        parts = ["python -m tests.crash.simulate", f"--seed {self.seed}", f"--damage {self.damage}"]
        if self.boundary is not None:
            parts.append(f"--boundary {self.boundary}")
        if self.draw:
            parts.append(f"--draw {self.draw}")
        if self.recovery is not None:
            parts.append(f"--recovery {self.recovery}")
        if self.fails is not None:
            parts.append(f"--fails {self.fails[0]} {self.fails[1]}" + " --lasting" * self.lasting)
        return " ".join(parts)

    def run(self) -> None:
        """Raises whatever shows that the promise is broken."""
        with pages(self.seed):
            self._run()

    def _run(self) -> None:
        story = told(self.seed, self.boundary, self.fails, self.lasting)
        lottery = hash((self.seed, self.boundary, self.draw))  # of integers: the same in every process
        disk = story.files.after_crash(lottery, self.damage)
        if self.recovery is not None:
            disk.crash(self.recovery)
            with suppress(Exception, Crashed):
                recover(disk, story).close()
            disk = disk.after_crash(lottery + 1, self.damage)
        verify(disk, story, story.survivors(), lottery)


@lru_cache(maxsize=4)
def told(
    seed: int, boundary: int | None = None, fails: tuple[str, int] | None = None, lasting: bool = False,
) -> Story:
    """A history that was broken off, or refused, or (neither given) ended well."""
    story = Story(CrashFiles())
    if boundary is not None:
        story.files.crash(boundary)
    if fails is not None:
        story.files.fail(*fails, FAILURES[fails[0]], lasting=lasting)
    try:
        with pages(seed):
            tell(history(seed) if fails is None else history(seed, SHORT), story)
    except (Exception, Crashed) as error:
        # Of a program on a machine that stands still nobody will ever know what it raised.
        if not story.files.crashed and not (fails and isinstance(error, StorageError | WriterFailedError)):
            raise
    return story


def crashes(seed: int, draws: int = 1) -> Iterator[Trial]:
    """Every step of a history, with every damage."""
    for boundary in range(len(told(seed).files.steps) + 1):
        for draw in range(draws):
            yield from (Trial(seed, boundary, damage, draw) for damage in DAMAGES)


def crashes_in_recovery(seed: int, every: int = 1) -> Iterator[Trial]:
    """Every step of the recovery from every crash, or from one of ``every`` many."""
    for number, crash in enumerate(crashes(seed)):
        if number % every == 0:
            story = told(seed, crash.boundary)
            disk = story.files.after_crash(hash((seed, crash.boundary, 0)), crash.damage)
            recover(disk, story).close()
            for step in range(len(disk.steps)):
                yield Trial(seed, crash.boundary, crash.damage, recovery=step)


def failures(seed: int, damages: Sequence[Damage] = ("kill", "drop", "reorder")) -> Iterator[Trial]:
    """Every call of a short history fails, once or for good; then the process dies, or the power with it."""
    whole = Story(CrashFiles())
    with pages(seed):
        tell(history(seed, SHORT), whole)
    for operation in FAILURES:
        for nth in range(1, whole.files.counts[operation] + 1):
            for lasting in (False, True):
                for damage in damages:
                    yield Trial(seed, damage=damage, fails=(operation, nth), lasting=lasting)


# --- the command line ----------------------------------------------------------------------------------------


class Report(NamedTuple):
    """How trials went; ``broken``: those that broke the promise, and how."""

    trials: int
    seconds: float
    broken: list[tuple[Trial, Exception]]

    def __str__(self) -> str:
        lines = [f"{trial}\n  {type(error).__name__}: {error}" for trial, error in self.broken]
        return "\n".join([*lines, f"{self.trials} trials in {self.seconds:.1f} s, {len(self.broken)} broken"])


def run(trials: Iterator[Trial], *, stop_after: int = 5) -> Report:
    """Run trials, until so many of them broke the promise."""
    started = time.perf_counter()
    broken: list[tuple[Trial, Exception]] = []
    number = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TornLogWarning)  # of operations that nobody was promised
        warnings.simplefilter("ignore", RuntimeWarning)  # of a merge that the disk refused
        for trial in trials:
            number += 1
            try:
                trial.run()
            except Exception as error:  # whatever it is, it is what we look for
                broken.append((trial, error))
                print(f"broken: {trial}", file=sys.stderr, flush=True)  # the report is far away
                if len(broken) == stop_after:
                    break
    return Report(number, time.perf_counter() - started, broken)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tests.crash.simulate", description=__doc__.split("\n\n")[0])
    made.add_argument("--points", type=int, default=2_000, help="crashes to try (2000)")
    made.add_argument("--seed", type=int, default=0, help="history to try, or to begin with")
    made.add_argument("--boundary", type=int, help="try the crash before this step of the disk alone")
    made.add_argument("--damage", choices=DAMAGES, default="drop")
    made.add_argument("--draw", type=int, default=0, help="varies the damage")
    made.add_argument("--recovery", type=int, help="crash again, before this step of the recovery")
    made.add_argument("--fails", nargs=2, metavar=("OPERATION", "N"), help="try a failure of this call alone")
    made.add_argument("--lasting", action="store_true", help="and of all later ones")
    return made


def trial_of(given: argparse.Namespace) -> Trial | None:
    """The one trial that is asked for, if it is one."""
    if given.boundary is None and given.fails is None:
        return None
    fails = given.fails and (given.fails[0], int(given.fails[1]))
    return Trial(given.seed, given.boundary, given.damage, given.draw, given.recovery, fails, given.lasting)


def main(arguments: Sequence[str]) -> int:
    given = parser().parse_args(arguments)
    trial = trial_of(given)
    if trial is not None:
        story = told(trial.seed, trial.boundary, trial.fails, trial.lasting)
        print("the last steps of the disk:", *story.files.steps[-10:], sep="\n  ")
        trial.run()
        print("the promise is kept")
        return 0
    seeds = range(given.seed, sys.maxsize)
    again, fails = given.points // 20, given.points // 4
    broken = False
    for name, trials in (
        ("crashes", islice(chain.from_iterable(map(crashes, seeds)), given.points)),
        ("crashes in recovery", islice(chain.from_iterable(crashes_in_recovery(seed, 50) for seed in seeds), again)),
        ("failures", islice(chain.from_iterable(map(failures, seeds)), fails)),
    ):
        report = run(shown(trials))
        print(f"{name}: {report}", flush=True)
        broken = broken or bool(report.broken)
    return broken


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

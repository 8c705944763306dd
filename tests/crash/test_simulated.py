"""Every crash that the simulation knows, in short histories; and that the simulation sees broken promises.

``python -m tests.crash.simulate --points 100000`` goes on where these tests stop.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import chain

import pytest

from quidditch_core.files import Mode
from quidditch_core.tiering.crash import CrashFile, CrashFiles
from tests.crash import simulate
from tests.crash.simulate import Action, Broken, State, Story, Trial

REQUEST, ASYNC = 2, 3
"""Histories that between them have every kind of action."""


def test_every_crash() -> None:
    """At each step of the disk, with each damage: nothing that must be durable is lost, nothing else is found."""
    report = simulate.run(chain(simulate.crashes(REQUEST), simulate.crashes(ASYNC)))
    assert not report.broken, report
    assert report.trials >= 2_000
    kinds = {action.kind for seed in (REQUEST, ASYNC) for action in simulate.history(seed)}
    assert kinds >= {"put", "update", "delete", "put_mapping", "put_settings", "refresh", "flush", "merge", "reopen",
                     "read"}


def test_crashes_in_recovery() -> None:
    report = simulate.run(chain(simulate.crashes_in_recovery(REQUEST, 301), simulate.crashes_in_recovery(ASYNC, 301)))
    assert not report.broken, report
    assert report.trials >= 200


def test_every_failure() -> None:
    """Each call to the disk fails, once or for good: the errors are typed, and the index reopens whole."""
    report = simulate.run(simulate.failures(1, ("kill", "reorder")))
    assert not report.broken, report


# --- the simulation itself -----------------------------------------------------------------------------------


class CarelessFiles(CrashFiles):
    """A disk that says it has synced, and has not, where ``skipped`` (operation, pattern of paths) says so."""

    skipped = ("", "")

    def open(self, path: str, mode: Mode) -> CrashFile:
        file = super().open(path, mode)
        return CarelessFile(self, path, mode, file._node) if file._node is not None else file

    def sync_dir(self, path: str) -> None:
        if not self.skips("sync_dir", path):
            super().sync_dir(path)

    def skips(self, operation: str, path: str) -> bool:
        return operation == self.skipped[0] and fnmatchcase(path, self.skipped[1])


class CarelessFile(CrashFile):
    def fsync(self) -> None:
        assert isinstance(self._files, CarelessFiles)
        if not self._files.skips("fsync", self.path):
            super().fsync()


@pytest.fixture
def careless(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[CarelessFiles]]:
    monkeypatch.setattr(simulate, "CrashFiles", CarelessFiles)
    simulate.told.cache_clear()
    yield CarelessFiles
    simulate.told.cache_clear()


@pytest.mark.parametrize(("operation", "path"), [
    ("fsync", "*/segments/seg-*"), ("fsync", "*/segments/live-*"), ("fsync", "*/manifest-*"), ("fsync", "*/translog/*"),
    ("sync_dir", "/"), ("sync_dir", "/books"), ("sync_dir", "*/segments"), ("sync_dir", "*/translog"),
])
def test_a_sync_that_is_left_out_is_noticed(
    careless: type[CarelessFiles], monkeypatch: pytest.MonkeyPatch, operation: str, path: str,
) -> None:
    """Each of the engine's syncs is needed, and the simulation knows."""
    monkeypatch.setattr(careless, "skipped", (operation, path))
    trials = (trial for trial in simulate.crashes(REQUEST) if trial.damage in ("drop", "zero", "rename"))
    assert simulate.run(trials, stop_after=1).broken


@pytest.mark.parametrize("trial", [
    Trial(3, 57, "tear"), Trial(0, 0), Trial(1, 5, "kill", 2, recovery=7), Trial(1, damage="drop", fails=("fsync", 3)),
    Trial(4, damage="zero", fails=("append", 30), lasting=True),
])
def test_a_trial_says_how_to_repeat_it(trial: Trial) -> None:
    command = str(trial).split()
    assert command[:3] == ["python", "-m", "tests.crash.simulate"]
    assert simulate.trial_of(simulate.parser().parse_args(command[3:])) == trial


def test_histories_repeat() -> None:
    simulate.told.cache_clear()
    first = simulate.told(ASYNC)
    simulate.told.cache_clear()
    assert simulate.told(ASYNC).files.steps == first.files.steps
    assert simulate.history(ASYNC) == simulate.history(ASYNC) != simulate.history(REQUEST)


def test_a_state_that_must_not_be_is_named() -> None:
    story = Story(CrashFiles())
    index = simulate.create(story.files)
    simulate.perform(Action("put", ("k1", {"body": "sea", "n": 1})), index, story)
    index.refresh()
    assert simulate.compare(index, story, [0, 1]) == 1
    with pytest.raises(Broken, match="none of the states that may be"):
        simulate.compare(index, story, [0])
    index.close()


def put(story: Story, durability: str, *, synced: bool = False) -> None:
    """One operation, acknowledged; ``synced``: after an fsync of the log."""
    state = story.states[-1]
    story.states[-1] = State(state.oracle, {**state.settings, simulate.DURABILITY: durability})
    action = Action("put", ("k1", {"n": len(story.states)}))
    story.begin(action)
    log = story.files.open("/books/translog/a.log", "a")
    log.append(b"operation")
    if synced:
        log.fsync()
    story.end(action)


@pytest.fixture
def story() -> Story:
    files = CrashFiles()
    files.mkdir("/books")
    files.mkdir("/books/translog")
    return Story(files)


def test_what_request_promises(story: Story) -> None:
    assert story.survivors() == range(0, 1)
    put(story, "request", synced=True)
    put(story, "request", synced=True)
    assert story.survivors() == range(2, 3)
    story.begin(Action("bulk", ([{"tag": "k1"}, {"tag": "k2"}],)))  # it does not return
    assert story.survivors() == range(2, 5)


def test_what_async_promises(story: Story) -> None:
    put(story, "async")
    put(story, "async", synced=True)
    put(story, "async")
    assert story.survivors() == range(1, 4)  # the fsync began before the second was acknowledged
    put(story, "async", synced=True)
    assert story.survivors() == range(3, 5)
    story.end(Action("flush"))
    put(story, "async")
    assert story.survivors() == range(4, 6)

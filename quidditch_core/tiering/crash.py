"""A disk in memory that crashes: `CrashFiles`, the implementation of `files.Files` to test durability with.

It keeps two truths of everything: what programs see, and what has been forced to the medium. In between lie
*changes* that a power cut may undo, each for itself, exactly as the table in `files` allows.

Each call that changes the disk, or makes a change durable, is a *step*, numbered from 0: an open that creates or
empties, append, pwrite, truncate, fsync, rename, unlink, mkdir, sync_dir. `CrashFiles.crash` stops the machine before a
step; `CrashFiles.after_crash` is the disk that is found when it runs again. To try every crash, run a program
once to count its steps, then once for each of them::

    files = CrashFiles()
    files.crash(at=17)
    with suppress(Crashed):
        program(files)
    for damage in DAMAGES:
        check(files.after_crash(seed, damage))

=========  ============================================================================================
damage     what is left of changes that were not yet durable
=========  ============================================================================================
kill       all, still not durable: the process died, the machine did not
drop       nothing
reorder    any of them, and not others
tear       the first ones of each file, the last of these cut at any byte or sector; names mostly
zero       the length of each file, but zeros in some or all of its sectors; names mostly
rename     all bytes, but at least one name is as it was before: not created, not renamed, not removed
=========  ============================================================================================

What is durable, bytes or name, survives everything. So do parts of a sector that were durable before the sector
was written again: a disk which cannot promise that is beyond what the engine protects against.
"""

from __future__ import annotations

import copy
import errno
import mmap
import os
import random
import threading
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final, Generic, Literal, NamedTuple, TypeVar, get_args

from quidditch_core.errors import RequestError, StorageError
from quidditch_core.files import Bytes, Mode, storage_error

Damage = Literal["kill", "drop", "reorder", "tear", "zero", "rename"]
DAMAGES: Final[tuple[Damage, ...]] = get_args(Damage)
SECTOR: Final = 512
"""Bytes that a disk writes as a whole."""

OPERATIONS: Final = {
    "open": "open", "append": "write", "pwrite": "write", "pread": "read", "size": "read the size",
    "truncate": "truncate", "fsync": "sync", "map": "map", "lock": "lock", "linked": "look up", "rename": "rename",
    "unlink": "remove", "sync_dir": "sync the directory", "listdir": "list the directory", "exists": "look up",
    "mkdir": "create the directory", "space": "look up the space",
}
"""What `CrashFiles.fail` can let fail and `CrashFiles.counts` counts, with the words of its error."""


class Crashed(BaseException):
    """The machine has stopped. Not an Exception, so that no program goes on after it by accident."""


class Step(NamedTuple):
    """One call that mattered to the medium."""

    operation: str
    path: str

    def __str__(self) -> str:
        return f"{self.operation} {self.path}"


# --- changes and what becomes of them ------------------------------------------------------------------------

Fate = Literal["open", "durable", "doubtful"]
State = TypeVar("State", bytearray, "dict[str, Node]")


@dataclass(eq=False)
class Change(ABC, Generic[State]):
    """One change of the bytes of a file or the names of a directory; ``doubtful`` after a failed sync."""

    fate: Fate = field(default="open", init=False)

    @abstractmethod
    def apply(self, state: State) -> None:
        """Do it."""


@dataclass(eq=False)
class _Write(Change[bytearray]):
    offset: int
    data: bytes

    def apply(self, state: bytearray) -> None:
        if len(state) < self.offset:  # an earlier write was lost
            state.extend(bytes(self.offset - len(state)))
        state[self.offset : self.offset + len(self.data)] = self.data


@dataclass(eq=False)
class _Cut(Change[bytearray]):
    size: int

    def apply(self, state: bytearray) -> None:
        del state[self.size :]
        state.extend(bytes(self.size - len(state)))


@dataclass(eq=False)
class _Name(Change["dict[str, Node]"]):
    """``name`` leads to ``node`` from now on, or nowhere (None)."""

    name: str
    node: Node | None

    def apply(self, state: dict[str, Node]) -> None:
        if self.node is None:
            state.pop(self.name, None)
        else:
            state[self.name] = self.node


@dataclass(eq=False)
class _Move(Change["dict[str, Node]"]):
    old: str
    new: str
    node: Node

    def apply(self, state: dict[str, Node]) -> None:
        if state.get(self.old) is self.node:
            del state[self.old]
        state[self.new] = self.node


@dataclass(eq=False)
class _Kept(Generic[State]):
    """A file or directory: ``now`` is what programs see, ``durable`` with ``changes`` what the medium may have.

    ``changes`` are in order of time; durable ones are among them only behind doubtful ones.
    """

    now: State
    durable: State
    changes: list[Change[State]] = field(default_factory=list)

    def change(self, change: Change[State]) -> None:
        change.apply(self.now)
        self.changes.append(change)

    def sync(self) -> None:
        for change in self.changes:
            if change.fate == "open":
                change.fate = "durable"
        while self.changes and self.changes[0].fate == "durable":
            self.changes.pop(0).apply(self.durable)

    def doubt(self) -> None:
        """A sync has failed: what was to become durable by it may or may not, whatever a later one says."""
        for change in self.changes:
            if change.fate == "open":
                change.fate = "doubtful"

    def undecided(self) -> list[Change[State]]:
        return [change for change in self.changes if change.fate != "durable"]


@dataclass(eq=False)
class FileNode(_Kept[bytearray]):
    """A file, whatever its names. ``locks`` maps its openings to whether they share."""

    locks: dict[int, bool] = field(default_factory=dict)

    def after(self, damage: Damage, rng: random.Random) -> bytearray:
        """The bytes after a power cut."""
        undecided = self.undecided()
        left: dict[Change[bytearray], Change[bytearray] | None] = {}  # what becomes of them; None: lost
        if damage == "drop":
            left = dict.fromkeys(undecided)
        elif damage == "reorder":
            left = dict.fromkeys(_some(undecided, rng))
        elif damage == "tear" and undecided:
            last = rng.randrange(len(undecided))
            left = dict.fromkeys(undecided[last:]) | {undecided[last]: _torn(undecided[last], rng)}
        elif damage == "zero":
            left = {change: _zeroed(change, rng) for change in undecided}
        state = self.durable.copy()
        for change in self.changes:
            survivor = left.get(change, change)
            if survivor is not None:
                survivor.apply(state)
        return state


@dataclass(eq=False)
class DirectoryNode(_Kept["dict[str, Node]"]):
    """A directory."""

    def after(self, damage: Damage, rng: random.Random) -> dict[str, Node]:
        """The names after a power cut."""
        undecided = self.undecided()
        lost: list[Change[dict[str, Node]]] = []
        if damage == "drop":
            lost = undecided
        elif damage == "reorder" or (damage in ("tear", "zero") and rng.random() < 0.25):
            lost = _some(undecided, rng)
        elif damage == "rename" and undecided:
            lost = undecided if rng.random() < 0.5 else rng.sample(undecided, rng.randint(1, len(undecided)))
        state = self.durable.copy()
        for change in self.changes:
            if change not in lost:
                change.apply(state)
        return state


Node = FileNode | DirectoryNode


def _some(changes: list[Change[State]], rng: random.Random) -> list[Change[State]]:
    share = rng.choice((0.2, 0.5, 0.8))
    return [change for change in changes if rng.random() < share]


def _torn(change: Change[bytearray], rng: random.Random) -> Change[bytearray] | None:
    """The part of a write that reached the disk; a truncation did or did not."""
    if not isinstance(change, _Write):
        return rng.choice((change, None))
    end = rng.randint(0, len(change.data))
    if rng.random() < 0.5:
        end = max((change.offset + end) // SECTOR * SECTOR - change.offset, 0)
    return _Write(change.offset, change.data[:end]) if end else None


def _zeroed(change: Change[bytearray], rng: random.Random) -> Change[bytearray]:
    """A write that reached the disk as length, and not, or not everywhere, as bytes."""
    if not isinstance(change, _Write):
        return change
    end = change.offset + len(change.data)
    data, share = bytearray(change.data), rng.choice((0.3, 1.0))
    for sector in range(change.offset // SECTOR, -(-end // SECTOR)):
        if rng.random() < share:
            start, stop = max(sector * SECTOR, change.offset), min((sector + 1) * SECTOR, end)
            data[start - change.offset : stop - change.offset] = bytes(stop - start)
    return _Write(change.offset, bytes(data))


# --- the file system -----------------------------------------------------------------------------------------


@dataclass
class _Failure:
    """The ``left``-th call of ``operation`` on a path that fits ``pattern`` fails from now on."""

    operation: str
    left: int
    number: int
    pattern: str
    lasting: bool


class CrashFiles:
    """`Files` in memory. New, it holds the directory ``/`` alone; safe to use from many threads.

    ``counts``: calls of each operation, failed ones included. ``steps``: what happened to the medium, in order.
    ``disk``: what ``space`` answers, (total, free) bytes.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.disk = (1 << 40, 1 << 40)
        self.steps: list[Step] = []
        self._mutex = threading.RLock()
        self._root = DirectoryNode({}, {})
        self._crash_at = -1
        self._crashed = False
        self._failures: list[_Failure] = []

    @property
    def crashed(self) -> bool:
        """Whether the machine stands still."""
        return self._crashed

    # What happens to it

    def crash(self, at: int | None = None) -> None:
        """Stop the machine before step ``at``, or now: that call and all later ones raise `Crashed`."""
        with self._mutex:
            if at is None or at < len(self.steps):
                self._crashed = True
            else:
                self._crash_at = at

    def fail(
        self, operation: str, nth: int = 1, number: int = errno.EIO, *, path: str = "*", lasting: bool = False,
    ) -> None:
        """Let the ``nth`` next call (1: the next one) of ``operation`` fail with the error ``number``.

        Only calls whose path fits the pattern ``path`` count. ``lasting``: later ones fail as well, as on a disk
        that stays full. A write that fails leaves the first half of its bytes. After a failed fsync nobody
        knows which of the bytes are durable, not even after a later one that succeeds; names are as they were,
        since file systems write them through a journal, and stop for good when they cannot.

        Errors: RequestError for an operation that is not in `OPERATIONS`.
        """
        if operation not in OPERATIONS:
            raise RequestError("no such operation", path="operation", found=operation,
                               expected="one of " + ", ".join(OPERATIONS))
        with self._mutex:
            self._failures.append(_Failure(operation, nth, number, path, lasting))

    def after_crash(self, seed: int, damage: Damage) -> CrashFiles:
        """The disk that is found after a crash right now; this one is not changed.

        Nobody has a lock or an open file there. Equal arguments give equal disks.
        """
        rng = random.Random(seed)
        found = CrashFiles()
        with self._mutex:
            known: dict[Node, Node] = {}
            root = _copied(self._root, known) if damage == "kill" else _damaged(self._root, damage, rng, known)
        assert isinstance(root, DirectoryNode)
        found._root = root
        return found

    def tree(self) -> dict[str, bytes]:
        """All files as programs see them: path -> bytes."""
        with self._mutex:
            return dict(_files("", self._root))

    # Files

    def open(self, path: str, mode: Mode) -> CrashFile:
        with self._mutex:
            self._enter("open", path)
            directory, name = self._parent("open", path)
            node = directory.now.get(name) if name else directory
            if isinstance(node, DirectoryNode):
                raise refusal("open", path, errno.EISDIR)
            if node is None and mode in ("r", "u"):
                raise refusal("open", path, errno.ENOENT)
            if node is None:
                self._step("open", path)
                node = FileNode(bytearray(), bytearray())
                directory.change(_Name(name, node))
            elif mode == "w":
                self._step("open", path)
                node.change(_Cut(0))
            return CrashFile(self, path, mode, node)

    def rename(self, old: str, new: str) -> None:
        with self._mutex:
            self._enter("rename", old)
            source, name = self._parent("rename", old)
            target, new_name = self._parent("rename", new)
            node = source.now.get(name)
            if node is None:
                raise refusal("rename", old, errno.ENOENT)
            if source is not target:
                raise refusal("rename", old, errno.EXDEV)  # no more is promised: see `Files`
            if isinstance(target.now.get(new_name), DirectoryNode):
                raise refusal("rename", old, errno.EISDIR)
            self._step("rename", old)
            source.change(_Move(name, new_name, node))

    def unlink(self, path: str) -> None:
        with self._mutex:
            self._enter("unlink", path)
            directory, name = self._parent("unlink", path)
            node = directory.now.get(name) if name else directory
            if not isinstance(node, FileNode):
                raise refusal("unlink", path, errno.ENOENT if node is None else errno.EISDIR)
            self._step("unlink", path)
            directory.change(_Name(name, None))

    def sync_dir(self, path: str) -> None:
        with self._mutex:
            self._enter("sync_dir", path)
            directory = self._directory("sync_dir", path)
            self._step("sync_dir", path)
            directory.sync()

    def listdir(self, path: str) -> list[str]:
        with self._mutex:
            self._enter("listdir", path)
            return list(self._directory("listdir", path).now)

    def exists(self, path: str) -> bool:
        with self._mutex:
            self._enter("exists", path)
            return not isinstance(self._find(path), int)

    def space(self, path: str) -> tuple[int, int]:
        with self._mutex:
            self._enter("space", path)
            return self.disk

    def mkdir(self, path: str) -> None:
        with self._mutex:
            self._enter("mkdir", path)
            directory, name = self._parent("mkdir", path)
            node = directory.now.get(name) if name else directory
            if isinstance(node, FileNode):
                raise refusal("mkdir", path, errno.EEXIST)
            if node is None:
                self._step("mkdir", path)
                directory.change(_Name(name, DirectoryNode({}, {})))

    # Inside

    def _enter(self, operation: str, path: str, *, may_begin: bool = False) -> StorageError | None:
        """A call begins: count it, and raise what was planned for it, or return that if it ``may_begin``."""
        if self._crashed:
            raise Crashed(f"the machine has crashed: {operation} {path}")
        self.counts[operation] += 1
        for failure in self._failures:
            if failure.operation != operation or not fnmatchcase(path, failure.pattern):
                continue
            failure.left -= 1
            if failure.left == 0 or (failure.lasting and failure.left < 0):
                error = refusal(operation, path, failure.number)
                if may_begin:
                    return error
                raise error
        return None

    def _step(self, operation: str, path: str) -> None:
        """A call is about to change the medium: number it, and crash if its number has come."""
        if len(self.steps) == self._crash_at:
            self._crashed = True
            raise Crashed(f"the machine crashes before step {self._crash_at}: {operation} {path}")
        self.steps.append(Step(operation, path))

    def _find(self, path: str) -> Node | int:
        """What is at a path, or the number of the error."""
        node: Node = self._root
        for name in filter(None, os.path.abspath(path).split("/")):
            if not isinstance(node, DirectoryNode):
                return errno.ENOTDIR
            if name not in node.now:
                return errno.ENOENT
            node = node.now[name]
        return node

    def _directory(self, operation: str, path: str, at: str | None = None) -> DirectoryNode:
        """The directory ``at``, or else ``path``; errors name ``path``."""
        node = self._find(path if at is None else at)
        if not isinstance(node, DirectoryNode):
            raise refusal(operation, path, node if isinstance(node, int) else errno.ENOTDIR)
        return node

    def _parent(self, operation: str, path: str) -> tuple[DirectoryNode, str]:
        above, name = os.path.split(os.path.abspath(path))
        return self._directory(operation, path, above), name


class CrashFile:
    """`File` of `CrashFiles`."""

    __slots__ = ("__weakref__", "_files", "_mode", "_node", "path")

    def __init__(self, files: CrashFiles, path: str, mode: Mode, node: FileNode) -> None:
        self.path = path
        self._files = files
        self._mode = mode
        self._node: FileNode | None = node

    def append(self, data: Bytes) -> None:
        with self._files._mutex:
            failure = self._files._enter("append", self.path, may_begin=True)
            node, new = self._changeable("append", errno.EBADF), bytes(data)
            if failure is not None:
                new = new[: len(new) // 2]
            if new:
                self._files._step("append", self.path)
                node.change(_Write(len(node.now), new))
            if failure is not None:
                raise failure

    def pwrite(self, offset: int, data: Bytes) -> None:
        with self._files._mutex:
            failure = self._files._enter("pwrite", self.path, may_begin=True)
            node, new = self._changeable("pwrite", errno.EBADF), bytes(data)
            if self._mode != "u":
                raise refusal("pwrite", self.path, errno.EBADF)  # the system would append
            if failure is not None:
                new = new[: len(new) // 2]
            if new:
                self._files._step("pwrite", self.path)
                node.change(_Write(offset, new))
            if failure is not None:
                raise failure

    def pread(self, offset: int, size: int) -> bytes:
        with self._files._mutex:
            return bytes(self._opened("pread").now[offset : offset + size])

    def size(self) -> int:
        with self._files._mutex:
            return len(self._opened("size").now)

    def truncate(self, size: int) -> None:
        with self._files._mutex:
            self._files._enter("truncate", self.path)
            node = self._changeable("truncate", errno.EINVAL)
            self._files._step("truncate", self.path)
            node.change(_Cut(size))

    def fsync(self) -> None:
        with self._files._mutex:
            failure = self._files._enter("fsync", self.path, may_begin=True)
            node = self._still_open("fsync")
            if failure is not None:
                node.doubt()
                raise failure
            self._files._step("fsync", self.path)
            node.sync()

    def map(self) -> memoryview:
        """A copy, in a mapping of its own: an address that stays, pages that end where the system's end."""
        with self._files._mutex:
            node = self._opened("map")
            if not node.now:
                raise refusal("map", self.path, errno.EINVAL)
            pages = mmap.mmap(-1, len(node.now))
            pages[:] = bytes(node.now)
        return memoryview(pages).toreadonly()

    def lock(self, *, shared: bool) -> bool:
        with self._files._mutex:
            locks = self._opened("lock").locks
            if any(not (shared and other) for key, other in locks.items() if key != id(self)):
                return False
            locks[id(self)] = shared
            return True

    def linked(self) -> bool:
        with self._files._mutex:
            node = self._opened("linked")
            return self._files._find(self.path) is node

    def close(self) -> None:
        with self._files._mutex:
            if self._node is not None:
                self._node.locks.pop(id(self), None)
            self._node = None

    def __del__(self) -> None:
        self.close()

    def _opened(self, operation: str) -> FileNode:
        self._files._enter(operation, self.path)
        return self._still_open(operation)

    def _changeable(self, operation: str, number: int) -> FileNode:
        """The file; error ``number`` if it was opened to read."""
        node = self._still_open(operation)
        if self._mode == "r":
            raise refusal(operation, self.path, number)
        return node

    def _still_open(self, operation: str) -> FileNode:
        if self._node is None:
            raise refusal(operation, self.path, errno.EBADF)
        return self._node


def refusal(operation: str, path: str, number: int) -> StorageError:
    """The error of `files.OsFiles` when the system refuses ``operation`` with ``number``, cause included."""
    cause = OSError(number, os.strerror(number))
    error = storage_error(OPERATIONS[operation], path, cause)
    error.__cause__ = cause
    return error


def _damaged(node: Node, damage: Damage, rng: random.Random, known: dict[Node, Node]) -> Node:
    """What a power cut leaves of a node and all below it; on the medium there is nothing else."""
    if node not in known:
        if isinstance(node, FileNode):
            content = node.after(damage, rng)
            known[node] = FileNode(content, content.copy())
        else:
            names = {name: _damaged(below, damage, rng, known) for name, below in node.after(damage, rng).items()}
            known[node] = DirectoryNode(names, names.copy())
    return known[node]


def _copied(node: Node, known: dict[Node, Node]) -> Node:
    """The same with its changes, for the next process."""
    if node not in known:
        if isinstance(node, FileNode):
            known[node] = FileNode(node.now.copy(), node.durable.copy(), [copy.copy(c) for c in node.changes])
        else:
            made = known[node] = DirectoryNode({}, {})
            made.now = {name: _copied(below, known) for name, below in node.now.items()}
            made.durable = {name: _copied(below, known) for name, below in node.durable.items()}
            for change in map(copy.copy, node.changes):
                if isinstance(change, _Name | _Move) and change.node is not None:
                    change.node = _copied(change.node, known)
                made.changes.append(change)
    return known[node]


def _files(path: str, node: Node) -> list[tuple[str, bytes]]:
    if isinstance(node, FileNode):
        return [(path, bytes(node.now))]
    return [found for name, below in node.now.items() for found in _files(f"{path}/{name}", below)]

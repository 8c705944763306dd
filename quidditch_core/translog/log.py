"""The log on disk: append, group commit, rotate, trim, and the way back after a crash.

A log is a chain of files, the *generations*; only the newest is written. Appending gives a *ticket*, the
position of the operations in the whole log; they are durable once the log is synced up to it. Threads that
wait for that share a sync: the first is the leader and syncs what there is, the others wait for it, or for
the next leader, who syncs for all of them.

A sync that failed says nothing about what is on disk. Then the log is *failed*, for good: it is written and
synced no more. Recovery relies only on that part of the newest file which is known to be synced, and copies
the rest into a new file, because syncing the old one could succeed without having written it.
"""

from __future__ import annotations

import os
import re
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from quidditch_core.config import Durability
from quidditch_core.errors import IndexClosedError, StorageError, WriterFailedError
from quidditch_core.files import TEMP, File, Files

from .record import (
    FILE_HEADER,
    FILE_NAME,
    FileHeader,
    Operation,
    encode_batch,
    encode_file_header,
    file_name,
    groups,
    seed_of,
)
from .replay import PIECE, Replay

GATHER: Final = 0.002
"""Seconds that a leader waits at most for others; one alone never waits."""
RESERVE: Final = 256 << 10
"""Bytes by which a file is made longer than it must be, or as many as are in it if that is less, in whole pages."""
PAGE: Final = 4 << 10
MAX_SLEEP: Final = 60.0
"""Seconds after which the thread of a log that nobody has closed finds out that nobody has it any more."""
THREAD_NAME: Final = "quidditch-translog-sync"
_TORN = re.compile(r"torn-(\d{16})", re.ASCII)


class TornLogWarning(UserWarning):
    """The log did not end with a whole batch. The rest, never known to be synced, was cut off and kept."""


@dataclass(frozen=True, slots=True)
class TranslogStats:
    """``generation``: the one being written. ``generations``: files. ``size``: bytes in them.

    Since opening: ``operations`` and ``bytes`` appended; ``fsyncs`` for them; operations ``recovered``.
    ``torn``: ends that were cut off and are kept beside the log.
    """

    generation: int
    generations: int
    size: int
    operations: int
    bytes: int
    fsyncs: int
    recovered: int
    torn: int


class _Crowd:
    """The threads that want a sync, of which a leader gathers some before it begins.

    Without that the first sync would serve one thread, and all others would find it under way and queue. Half
    of the threads that write at the same time is the goal: then the other half work while the disk does. How
    many they are is estimated anew every few syncs. Used with ``lock`` held.
    """

    ROUND: Final = 8

    def __init__(self, lock: threading.Lock) -> None:
        self._arrived = threading.Condition(lock)
        self._queue = 0  # those whom the next sync serves
        self._goal = 1
        self._syncs = 0  # in this round
        self._arrivals: list[int] = []  # threads, in this round

    def join(self) -> None:
        self._queue += 1
        self._arrivals.append(threading.get_ident())
        if self._queue >= self._goal:
            self._arrived.notify()

    def gather(self) -> None:
        """Wait for the goal. Whoever has joined by then is served by the sync that follows."""
        self._syncs += 1
        if self._syncs == self.ROUND:
            # Threads that come one by one, as those of an idle pool may, are no crowd.
            together = len(self._arrivals) - self.ROUND + 1
            self._goal = max(1, min(len(set(self._arrivals)), together) // 2)
            self._syncs = 0
            self._arrivals.clear()
        if not self._arrived.wait_for(lambda: self._queue >= self._goal, GATHER):
            self._goal = self._queue
        self._queue = 0


class Translog:
    """The log of one index, in ``directory``, which exists. `recover` comes before everything else.

    Safe for many threads. ``uuid``: of the index, 32 hexadecimal digits. ``sync_interval``: seconds, for
    ``async`` only. ``clock``: seconds, monotonic. Without ``background`` no thread is started; then the
    owner calls `tick`.

    A StorageError means that nothing has changed, a WriterFailedError that what is on disk is unknown.
    """

    def __init__(
        self, files: Files, directory: str, *, uuid: str, durability: Durability, sync_interval: float,
        clock: Callable[[], float] = time.monotonic, background: bool = True,
    ) -> None:
        self._files = files
        self._directory = directory
        self._uuid = uuid
        self._clock = clock
        self._wake = threading.Event() if background else None
        self._thread: threading.Thread | None = None

        self._lock = threading.Lock()  # guards what follows
        self._changed = threading.Condition(self._lock)  # a sync has ended
        self._durability = durability
        self._interval = sync_interval
        self._due: float | None = None  # when a sync must start although nobody waits for it
        self._syncing = False  # there is a leader
        self._crowd = _Crowd(self._lock)
        self._failure: BaseException | None = None

        self._file: File | None = None  # the current generation; None before recovery and after close
        self._generation = 0
        self._seed = 0
        self._length = 0  # of the file, all whole batches
        self._size = 0  # of the file, with the zeros behind the batches
        self._synced = 0  # of the file
        self._base = 0  # position of the file in the log: ticket = base + offset
        self._durable = 0  # position up to which the log is synced

        self._older: dict[int, int] = {}  # generations before this one that are still there -> bytes
        self._highest = -1  # seq_no in the log
        self._torn: set[int] = set()  # generations whose end was cut off
        self._operations = self._bytes = self._fsyncs = self._recovered = 0

    @property
    def generation(self) -> int:
        """Number of the generation that is written."""
        return self._generation

    @property
    def size(self) -> int:
        """Bytes in all generations that are not trimmed."""
        return sum(self._older.values()) + self._size

    @property
    def torn(self) -> int:
        """How many ends were cut off by this and earlier recoveries, and are kept beside the log."""
        return len(self._torn)

    @property
    def is_open(self) -> bool:
        """Whether operations can be appended, as long as nothing has failed."""
        return self._file is not None

    @property
    def failed(self) -> bool:
        """Whether what is on disk is unknown, so that only opening the log anew helps."""
        return self._failure is not None

    def stats(self) -> TranslogStats:
        with self._changed:
            return TranslogStats(
                generation=self._generation, generations=len(self._older) + 1, size=self.size,
                operations=self._operations, bytes=self._bytes, fsyncs=self._fsyncs,
                recovered=self._recovered, torn=self.torn)

    # Append

    def append(self, operations: Sequence[Operation]) -> int:
        """Write operations at the end, not synced yet; returns their ticket.

        A StorageError leaves the log as it was. If that cannot be achieved, the log is failed.
        """
        with self._changed:
            file = self._current()
            start = self._length
            try:
                for group in groups(operations):
                    batch = encode_batch(group, self._length, self._synced, self._seed)
                    self._reserve(file, self._length + len(batch))
                    file.pwrite(self._length, batch)
                    self._length += len(batch)
            except BaseException:
                self._length = self._size = start
                with self._or_fail():
                    file.truncate(start)
                raise
            if self._length > start:
                self._highest = max(self._highest, operations[-1].seq_no)
                self._operations += len(operations)
                self._bytes += self._length - start
                if self._due is None and self._durability is Durability.ASYNC:
                    self._set_due(self._clock() + self._interval)
            return self._base + self._length

    def _reserve(self, file: File, end: int) -> None:
        """Make the file longer than its batches, up to ``end``, will be: a sync costs less if the length stays."""
        if end > self._size:
            self._size = end
            more = min(end, RESERVE) // PAGE * PAGE
            if more:
                with suppress(StorageError):  # if there is no room for the batch either, that will be said
                    file.truncate(end + more)
                    self._size += more

    def _current(self) -> File:
        if self._failure is not None:
            raise self._failed() from self._failure
        if self._file is None:
            raise IndexClosedError("the log is not open", path=self._directory, fix="open the index again")
        return self._file

    @contextmanager
    def _or_fail(self) -> Iterator[None]:
        """For steps after which, if they are interrupted, nobody knows what is on disk."""
        try:
            yield
        except StorageError as error:
            self._failure = error
            raise self._failed() from error
        except BaseException as error:
            self._failure = error
            raise

    def _failed(self) -> WriterFailedError:
        return WriterFailedError("writing the log failed, so that what is on disk is not known",
                                 path=self._directory, fix="close the index and open it again")

    # Sync

    def acknowledge(self, ticket: int) -> None:
        """Return when the operations up to ``ticket`` may be acknowledged: synced, or at once if ``async``.

        WriterFailedError if they must not be.
        """
        if self._durability is Durability.REQUEST:
            self.sync(ticket)
        elif self._failure is not None:
            raise self._failed() from self._failure

    def sync(self, ticket: int) -> None:
        """Return when everything up to ``ticket`` is on disk; WriterFailedError if a sync has failed."""
        if ticket > self._durable:
            with self._changed:
                self._sync(ticket)

    def tick(self) -> float | None:
        """Start the sync that is due; returns seconds until the next, None if no operation waits for one."""
        with self._changed:
            if self._due is None or self._file is None:
                return None
            if self._clock() >= self._due:
                self._sync(self._base + self._length)
            return None if self._due is None else max(self._due - self._clock(), 0.0)

    def _sync(self, ticket: int) -> None:
        self._crowd.join()
        while self._durable < ticket:
            file = self._current()
            if self._syncing:
                self._changed.wait()
            else:
                self._lead(file)

    def _lead(self, file: File) -> None:
        """Sync all that there is, for everybody. Others may append, and queue, meanwhile."""
        self._syncing = True
        try:
            self._crowd.gather()
            target, began = self._length, self._clock()
            self._lock.release()
            try:
                file.fsync()
            finally:
                self._lock.acquire()
            self._fsyncs += 1
            self._synced = target
            self._durable = self._base + target
            overtaken = self._length > target and self._durability is Durability.ASYNC
            self._due = began + self._interval if overtaken else None
        except StorageError as error:
            self._failure = error
            raise self._failed() from error
        finally:
            self._syncing = False
            self._changed.notify_all()

    def set_durability(self, durability: Durability, sync_interval: float) -> None:
        """Change both settings. With ``request``, what is not synced yet is when this returns."""
        with self._changed:
            self._current()
            self._durability, self._interval = durability, sync_interval
            end = self._base + self._length
            if durability is Durability.REQUEST:
                self._sync(end)
            elif self._durable < end:
                at_latest = self._clock() + sync_interval
                self._set_due(at_latest if self._due is None else min(self._due, at_latest))
            self._start_thread()

    def _set_due(self, due: float) -> None:
        self._due = due
        if self._wake is not None:
            self._wake.set()

    def _start_thread(self) -> None:
        if self._durability is Durability.ASYNC and self._wake is not None and self._thread is None:
            self._thread = threading.Thread(
                target=_sync_when_due, args=(weakref.ref(self), self._wake), name=THREAD_NAME, daemon=True)
            self._thread.start()

    # Generations

    def rotate(self) -> int:
        """Sync the current generation and start a new one; returns its number.

        A generation without operations goes on being the current one. After a StorageError it does, too.
        """
        with self._changed:
            self._current()
            while self._durable < self._base + self._length:  # others may append while we sync
                self._sync(self._base + self._length)
            old = self._current()
            if self._length > FILE_HEADER:
                number, size = self._generation, self._size
                header = FileHeader(self._uuid, number + 1, self._length, self._highest, FILE_HEADER)
                new = self._write(header, ())
                with self._or_fail():
                    self._publish(new, header)
                self._older[number] = size
                with suppress(StorageError):  # all of it is durable
                    old.close()
            return self._generation

    def trim(self, generation: int) -> None:
        """Remove the generations before ``generation``, whose operations a durable manifest has."""
        with self._changed:
            self._current()
            for number in sorted(self._older):
                if number < generation:
                    self._files.unlink(self._path(file_name(number)))
                    del self._older[number]

    def _write(self, header: FileHeader, pieces: Iterable[bytes]) -> File:
        """A new generation with ``pieces`` in it, under a temporary name and not synced."""
        new = self._files.open(self._path(file_name(header.generation) + TEMP), "w")
        try:
            new.append(encode_file_header(header))
            for piece in pieces:
                new.append(piece)
        except BaseException:
            with suppress(StorageError):
                new.close()
                self._files.unlink(new.path)
            raise
        return new

    def _publish(self, new: File, header: FileHeader) -> None:
        """Make what `_write` wrote durable, then its name, and append to it from now on."""
        try:
            new.fsync()
        finally:
            new.close()
        path = self._path(file_name(header.generation))
        self._files.rename(new.path, path)
        self._files.sync_dir(self._directory)
        self._use(self._files.open(path, "u"), header, header.born, header.born)

    def _use(self, file: File, header: FileHeader, length: int, size: int) -> None:
        """Append to ``file`` from now on. All there is, is synced; zeros follow up to ``size``."""
        self._durable = self._base + self._length
        self._base = self._durable - length
        self._file, self._length, self._synced, self._size = file, length, length, size
        self._generation, self._seed = header.generation, seed_of(encode_file_header(header))

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def close(self) -> None:
        """Sync and give the file back; closing twice is allowed.

        WriterFailedError if operations may be lost that were acknowledged, or were not synced before this.
        """
        try:
            with self._changed:
                end = self._base + self._length
                if self._file is not None and self._failure is None:
                    self._sync(end)
                elif self._file is not None and self._durability is Durability.ASYNC and self._durable < end:
                    raise self._failed() from self._failure
        finally:
            with self._changed:
                while self._syncing:
                    self._changed.wait()
                file, self._file = self._file, None
            if file is not None:
                file.close()
            if self._wake is not None and self._thread is not None:
                self._wake.set()
                self._thread.join()

    # Recover

    def recover(self, after: int) -> Iterator[Operation]:
        """Yield the operations with a seq_no above ``after``, in order; at the end the log is ready.

        ``after``: the highest seq_no in the manifest, whose name is durable or in the directory of the log.
        Nothing on disk changes before the last operation has been taken. What changes then, a crash may
        interrupt anywhere: the next recovery does it again.

        CorruptIndexError names file and offset; FormatError. A `TornLogWarning` if the end was not whole.
        """
        # What a process renamed before it died is perhaps not durable. All that follows builds on it.
        self._files.sync_dir(self._directory)
        names = self._files.listdir(self._directory)
        numbers = sorted(int(match[1]) for name in names if (match := FILE_NAME.fullmatch(name)))
        self._torn = {int(match[1]) for name in names if (match := _TORN.fullmatch(name))}
        warning = None
        with Replay(self._files, self._directory, self._uuid, numbers, after) as replay:
            for operation in replay.operations():
                if operation.seq_no > after:
                    self._recovered += 1
                    yield operation
            self._highest = replay.highest
            for name in names:
                if name.endswith(TEMP) and FILE_NAME.fullmatch(name.removesuffix(TEMP)):
                    self._files.unlink(self._path(name))
            if replay.generations:
                warning = self._keep_torn(replay)
                self._go_on(replay)
            else:
                first = FileHeader(self._uuid, 1, 0, after, FILE_HEADER)
                self._publish(self._write(first, ()), first)
        for number in numbers:
            if number not in self._older and number != self._generation:
                self._files.unlink(self._path(file_name(number)))
        with self._changed:
            self._start_thread()
        if warning is not None:
            warnings.warn(warning, TornLogWarning, stacklevel=2)

    def _keep_torn(self, replay: Replay) -> str | None:
        """Copy what follows the last whole batch into a file of its own; returns what to say about it."""
        newest = replay.generations[-1]
        start, stop = replay.end, replay.used
        if start == stop:
            return None
        number = newest.header.generation
        path = self._path(f"torn-{number:016d}")
        copy = self._files.open(path, "w")
        try:
            for offset in range(start, stop, PIECE):
                copy.append(newest.window.get(offset, min(PIECE, stop - offset)))
            copy.fsync()
        finally:
            copy.close()
        self._files.sync_dir(self._directory)
        self._torn.add(number)
        return (f"{newest.path}: the last {stop - start} bytes, from offset {start}, are no whole batch, as "
                f"after a crash; they are cut off and kept in {path}; up to {replay.highest}, all operations "
                "are there")

    def _go_on(self, replay: Replay) -> None:
        """Append to the newest generation if it is synced to its end, else to a new one with the rest."""
        newest = replay.generations[-1]
        self._older = {old.header.generation: old.window.size for old in replay.generations}
        if replay.synced == replay.end == replay.used:
            del self._older[newest.header.generation]
            self._use(self._files.open(newest.path, "u"), newest.header, replay.end, newest.window.size)
            return
        born = FILE_HEADER + replay.end - replay.synced
        header = FileHeader(self._uuid, newest.header.generation + 1, replay.synced, replay.highest, born)
        seed = seed_of(encode_file_header(header))
        self._publish(self._write(header, newest.moved(replay.synced, replay.end, seed)), header)


def _sync_when_due(log: weakref.ref[Translog], wake: threading.Event) -> None:
    """The thread of a log: lives until the log is closed, failed or gone."""
    while (alive := log()) is not None and alive.is_open:
        try:
            seconds = alive.tick()
        except (WriterFailedError, IndexClosedError):
            return  # who calls next is told
        del alive
        wake.wait(MAX_SLEEP if seconds is None else seconds)
        wake.clear()

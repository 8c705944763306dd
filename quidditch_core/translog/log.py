"""The log on disk: append, group commit, rotate, trim, and the way back after a crash.

A log is a chain of files, the *generations*; only the newest is written. Appending gives a *ticket*, the
position of the operations in the whole log; they are durable once the log is synced up to it. Threads that
wait for a sync at the same time share one: the first becomes the leader and syncs what there is, the others
wait for it, or for the next leader, who syncs for all of them.

A sync that failed says nothing about what is on disk. Then the log is *failed*, for this object and for ever:
it syncs and writes no more. Recovery trusts of the newest file only what is known to be synced, and copies
what follows into a new one, since a later sync of the same file could succeed without having written it.
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
from typing import Final, NamedTuple

from quidditch_core.config import Durability
from quidditch_core.errors import CorruptIndexError, IndexClosedError, StorageError, WriterFailedError
from quidditch_core.files import TEMP, File, Files

from .record import (
    BATCH_HEADER,
    FILE_HEADER,
    REPAIR,
    FileHeader,
    Operation,
    corrupt,
    decode_file_header,
    decode_operations,
    encode_batch,
    encode_file_header,
    groups,
    seed_of,
)
from .replay import PIECE, Window, batches, damage, judge, moved

_FILE = re.compile(r"translog-(\d{16})\.log", re.ASCII)
_TORN = re.compile(r"torn-(\d{16})", re.ASCII)
THREAD_NAME: Final = "quidditch-translog-sync"


class TornLogWarning(UserWarning):
    """The end of the log was not whole and was cut off; nothing that was known to be synced is lost."""


@dataclass(frozen=True, slots=True)
class TranslogStats:
    """``generation`` being written; ``generations``: files; ``size``: bytes in them.

    Since opening: ``operations`` and ``bytes`` appended, ``fsyncs`` of the log, operations ``recovered``.
    ``torn``: how many ends that were cut off are kept beside the log.
    """

    generation: int
    generations: int
    size: int
    operations: int
    bytes: int
    fsyncs: int
    recovered: int
    torn: int


class _Old(NamedTuple):
    """A generation as recovery finds it."""

    header: FileHeader
    file: File
    window: Window
    seed: int


def file_name(generation: int) -> str:
    return f"translog-{generation:016d}.log"


def torn_name(generation: int) -> str:
    return f"torn-{generation:016d}"


class Translog:
    """The log of one index in ``directory``, which must be there. `recover` before anything else.

    Safe for many threads. ``uuid``: of the index, 32 hexadecimal digits. ``sync_interval``: seconds, for
    ``async`` only. ``clock``: seconds, monotonic. Without ``background`` no thread is started: then the
    owner calls `tick`.

    StorageError comes from a call that changed nothing; WriterFailedError when what is on disk is unknown.
    """

    def __init__(
        self, files: Files, directory: str, *, uuid: str, durability: Durability, sync_interval: float,
        clock: Callable[[], float] = time.monotonic, background: bool = True,
    ) -> None:
        self._files = files
        self._directory = directory
        self._uuid = uuid
        self._durability = durability
        self._interval = sync_interval
        self._clock = clock
        self._wake = threading.Event() if background else None
        self._thread: threading.Thread | None = None

        self._changed = threading.Condition(threading.Lock())  # guards all that follows
        self._file: File | None = None  # None: not recovered yet, or closed
        self._failure: BaseException | None = None
        self._generation = 0
        self._seed = 0
        self._length = 0  # of the current file: up to here it consists of whole batches
        self._synced = 0  # of the current file
        self._sealed = True  # the current file says of itself that it is synced to its end
        self._base = 0  # position of the current file in the log: ticket = base + offset
        self._durable = 0  # position up to which the log is synced
        self._syncing = False  # a leader is at work
        self._due: float | None = None  # when the next sync must start; None: when somebody asks for it

        self._highest = -1  # seq_no in the log
        self._older: dict[int, int] = {}  # generations before the current one that are still there, to bytes
        self._torn = 0
        self._operations = self._bytes = self._fsyncs = self._recovered = 0

    # What it is

    @property
    def generation(self) -> int:
        """The one that is written."""
        return self._generation

    @property
    def size(self) -> int:
        """Bytes in all generations that are not trimmed."""
        return sum(self._older.values()) + self._length

    @property
    def torn(self) -> int:
        """How many ends of generations were cut off and are kept beside the log."""
        return self._torn

    @property
    def failed(self) -> bool:
        """Whether what is on disk is unknown, so that only opening the log anew helps."""
        return self._failure is not None

    def stats(self) -> TranslogStats:
        with self._changed:
            return TranslogStats(
                self._generation, len(self._older) + (self._file is not None), self.size, self._operations,
                self._bytes, self._fsyncs, self._recovered, self._torn)

    def _current(self) -> File:
        if self._failure is not None:
            raise self._failed()
        if self._file is None:
            raise IndexClosedError("the log is not open", path=self._directory, fix="open the index again")
        return self._file

    def _failed(self) -> WriterFailedError:
        error = WriterFailedError("an earlier write to the log failed, so that what is on disk is not known",
                                  path=self._directory, fix="close the index and open it again")
        error.__cause__ = self._failure
        return error

    # Write

    def append(self, operations: Sequence[Operation]) -> int:
        """Write operations at the end and return their ticket; they are not synced yet.

        After a StorageError the log is as before. If that could not be achieved, it is failed.
        """
        with self._changed:
            file = self._current()
            before = self._length
            try:
                for group in groups(operations):
                    batch = encode_batch(group, self._length, self._synced, self._seed)
                    file.append(batch)
                    self._length += len(batch)
            except BaseException:
                self._length = before
                self._cut_back(file)
                raise
            if self._length > before:
                self._sealed = False
                self._operations += len(operations)
                self._bytes += self._length - before
                self._highest = max(self._highest, operations[-1].seq_no)
                if self._durability is Durability.ASYNC and self._due is None:
                    self._set_due(self._clock() + self._interval)
            return self._base + self._length

    def _cut_back(self, file: File) -> None:
        """Remove what an append that failed may have written."""
        try:
            file.truncate(self._length)
        except BaseException as error:
            self._failure = error
            raise self._failed() from error

    # Sync

    def acknowledge(self, ticket: int) -> None:
        """Return when the operations of ``ticket`` may be acknowledged: synced, or at once if ``async``.

        WriterFailedError if they cannot be.
        """
        if self._durability is Durability.REQUEST:
            self.sync(ticket)
        elif self._failure is not None:
            raise self._failed()

    def sync(self, ticket: int) -> None:
        """Return when everything up to ``ticket`` is on disk; WriterFailedError if that failed, here or before."""
        if ticket <= self._durable:
            return
        with self._changed:
            self._sync(ticket)

    def tick(self) -> float | None:
        """Sync if it is time to; seconds until the next time, None if nothing waits for it."""
        with self._changed:
            if self._due is None or self._file is None:
                return None
            if self._due <= self._clock():
                self._sync(self._base + self._length)
            return None if self._due is None else max(0.0, self._due - self._clock())

    def _sync(self, ticket: int) -> None:
        while self._durable < ticket:
            file = self._current()
            if self._syncing:
                self._changed.wait()
            else:
                self._lead(file)

    def _lead(self, file: File) -> None:
        """Sync all that there is, for everybody; others may append meanwhile."""
        target = self._length
        due, self._due = self._due, None
        self._syncing = True
        self._changed.release()
        done = False
        try:
            file.fsync()
            done = True
        except StorageError as error:
            self._failure = error
            raise self._failed() from error
        finally:
            self._changed.acquire()
            self._syncing = False
            if done:
                self._fsyncs += 1
                self._synced = target
                self._durable = self._base + target
            elif self._due is None:
                self._due = due
            self._changed.notify_all()

    def _set_due(self, due: float | None) -> None:
        self._due = due
        if self._wake is not None:
            self._wake.set()

    def set_durability(self, durability: Durability, sync_interval: float) -> None:
        """Change the settings, at once. From ``async`` to ``request``: what waits is synced before it returns."""
        with self._changed:
            self._current()
            self._durability, self._interval = durability, sync_interval
            if durability is Durability.REQUEST:
                self._sync(self._base + self._length)
            elif self._durable < self._base + self._length:
                latest = self._clock() + sync_interval
                self._set_due(latest if self._due is None else min(self._due, latest))
        self._start_thread()

    def _start_thread(self) -> None:
        if self._durability is Durability.ASYNC and self._wake is not None and self._thread is None:
            wake = self._wake
            log = weakref.ref(self, lambda _: wake.set())
            self._thread = threading.Thread(target=_sync_when_due, args=(log, wake), name=THREAD_NAME, daemon=True)
            self._thread.start()

    # Generations

    def rotate(self) -> int:
        """Sync the current generation and start a new one; returns its number.

        A generation without operations stays the current one. After a StorageError nothing has changed.
        """
        with self._changed:
            self._current()
            while self._syncing or self._durable < self._base + self._length:
                if self._syncing:
                    self._changed.wait()
                else:
                    self._sync(self._base + self._length)
            old = self._current()
            if self._length == FILE_HEADER:
                return self._generation
            header = FileHeader(self._uuid, self._generation + 1, self._length, self._highest, FILE_HEADER)
            temp = self._write(header, ())
            try:
                file = self._publish(temp, header)
            except BaseException as error:
                self._failure = error
                raise self._failed() from error
            self._older[self._generation] = self._length
            self._use(file, header, FILE_HEADER, FILE_HEADER)
            old.close()
            return self._generation

    def trim(self, generation: int) -> None:
        """Remove generations older than ``generation``: their operations are in a manifest that is durable."""
        with self._changed:
            self._current()
            for old in sorted(self._older):
                if old < generation:
                    self._files.unlink(self._path(file_name(old)))
                    del self._older[old]

    def _write(self, header: FileHeader, pieces: Iterable[bytes]) -> File:
        """A new generation under a temporary name, not synced yet."""
        temp = self._path(file_name(header.generation) + TEMP)
        file = self._files.open(temp, "w")
        try:
            file.append(encode_file_header(header))
            for piece in pieces:
                file.append(piece)
        except BaseException:
            file.close()
            with suppress(StorageError):
                self._files.unlink(temp)
            raise
        return file

    def _publish(self, temp: File, header: FileHeader) -> File:
        """Make a new generation durable, then its name; the file is opened again under that name."""
        path = self._path(file_name(header.generation))
        try:
            temp.fsync()
        finally:
            temp.close()
        self._files.rename(temp.path, path)
        self._files.sync_dir(self._directory)
        return self._files.open(path, "a")

    def _use(self, file: File, header: FileHeader, length: int, synced: int) -> None:
        """Append to ``file`` from now on; all positions given out before are synced."""
        position = self._base + self._length
        self._file, self._generation, self._seed = file, header.generation, seed_of(encode_file_header(header))
        self._length, self._synced, self._sealed = length, synced, True
        self._base = position - length
        self._durable = position
        self._due = None

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def close(self) -> None:
        """Sync, and give the files back; closing twice is allowed. WriterFailedError if the sync failed."""
        try:
            with self._changed:
                if self._file is not None and self._failure is None:
                    self._sync(self._base + self._length)
                    self._seal(self._file)
        finally:
            with self._changed:
                while self._syncing:
                    self._changed.wait()
                file, self._file = self._file, None
                if file is not None:
                    file.close()
            if self._wake is not None:
                self._wake.set()
            if self._thread is not None:
                self._thread.join()

    def _seal(self, file: File) -> None:
        """Let the file say that it is synced to its end: from now on any damage to it is known as such."""
        if self._sealed:
            return
        with suppress(StorageError):  # all operations are durable, with or without it
            file.append(encode_batch((), self._length, self._synced, self._seed))
            file.fsync()

    # Recover

    def recover(self, after: int) -> Iterator[Operation]:
        """The operations with a seq_no above ``after``, in the order of the log; at the end the log is ready.

        ``after`` is of a manifest whose name is durable, unless it is in the directory of the log. Until the
        last operation has been taken, nothing on disk changes; what changes then may be interrupted by a
        crash at any point, and is done by the next recovery.

        CorruptIndexError names file and offset. A `TornLogWarning` comes when the end was not whole.
        """
        # What another process renamed or removed before it died may not be durable yet. We build on it.
        self._files.sync_dir(self._directory)
        names = self._files.listdir(self._directory)
        there = sorted(int(match[1]) for name in names if (match := _FILE.fullmatch(name)))
        self._torn = sum(1 for name in names if _TORN.fullmatch(name))
        needed: list[_Old] = []
        warning = None
        try:
            self._find_needed(needed, there, after)
            end = FILE_HEADER
            for old, successor in zip(needed, [*needed[1:], None], strict=True):
                stop = old.window.size if successor is None else successor.header.previous
                end = FILE_HEADER
                for batch in batches(old.window, FILE_HEADER, stop, old.seed):
                    end = batch.end
                    for operation in decode_operations(batch.payload, old.file.path, batch.offset):
                        self._highest = max(self._highest, operation.seq_no)
                        if operation.seq_no > after:
                            self._recovered += 1
                            yield operation
                    ...
            if needed:
                warning = self._continue(needed[-1], end, synced)
            else:
                ...
        finally:
            for old in needed:
                old.file.close()

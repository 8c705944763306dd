"""The single-writer lock: at most one process, and one Index in it, writes an index.

The lock is on the file ``write.lock``, by the operating system, so that it ends with the process that holds
it, however that dies. What is written in the file only tells others whom they wait for.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime

import msgspec

from quidditch_core.errors import IndexClosedError, LockError, StorageError, WriterFailedError
from quidditch_core.files import OS_FILES, File, Files

LOCK_FILE = "write.lock"
_POLL_SECONDS = 0.05
_SIGNING_POLLS = 5
_HOLDER_BYTES = 4096


class Holder(msgspec.Struct, frozen=True):
    """Who has the lock. ``command`` is the program alone: arguments may be secret."""

    pid: int
    host: str
    since: str
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command}) on {self.host} since {self.since}"

    @classmethod
    def here(cls) -> Holder:
        """This process, from now on."""
        program = os.path.basename(sys.argv[0] if sys.argv else "") or os.path.basename(sys.executable)
        return cls(os.getpid(), socket.gethostname(), datetime.now(UTC).isoformat(timespec="seconds"), program)


class WriterLock:
    """The right to write, from `acquire` to `release`, in the process that acquired it and no fork of it."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._owner = os.getpid()
        self._released = False

    @classmethod
    def acquire(cls, directory: str, timeout: float = 0, *, files: Files = OS_FILES) -> WriterLock:
        """Take the lock of the index in ``directory``, waiting up to ``timeout`` seconds for its holder.

        Errors: `LockError` names the holder; `StorageError` if the directory is missing or cannot be written.
        """
        deadline = time.monotonic() + timeout
        path = os.path.join(directory, LOCK_FILE)
        while (file := _try_lock(files, path)) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise LockError(
                    f"{_holder(files, path)} is writing this index", path=directory,
                    fix="close it there, wait for it with lock_timeout=..., or open with read_only=True; "
                    f"the lock ends with that process, so never remove {LOCK_FILE}",
                )
            time.sleep(min(_POLL_SECONDS, left))
        with suppress(StorageError):  # a courtesy: on a full disk the lock holds without it
            _sign(file)
        return cls(file)

    def assert_owner(self) -> None:
        """Raise `IndexClosedError` after `release`, or in a fork of the process that acquired the lock."""
        if self._owner != os.getpid():
            raise IndexClosedError(
                "the index was opened before this process was forked", path=self._file.path,
                found=f"process {os.getpid()}", expected=f"process {self._owner}",
                fix="open the index after the fork, or start processes by 'spawn'",
            )
        if self._released:
            raise IndexClosedError("the writer is closed", path=self._file.path, fix="open the index again")

    def assert_intact(self) -> None:
        """`assert_owner`, and the lock file is still the one we locked; for use before each commit."""
        self.assert_owner()
        if not self._file.linked():
            raise WriterFailedError(f"{LOCK_FILE} was removed, so that another writer may have this index",
                                    path=self._file.path, fix="reopen the index")

    def release(self) -> None:
        """Let the next writer in; releasing twice is allowed, and in a fork it releases nothing."""
        if self._released or self._owner != os.getpid():
            return
        self._released = True
        with suppress(StorageError):
            self._file.truncate(0)
        self._file.close()


def _try_lock(files: Files, path: str) -> File | None:
    while True:
        file = files.open(path, "a")
        try:
            if not file.lock(shared=False):
                file.close()
                return None
            if file.linked():
                return file
        except BaseException:
            file.close()  # now: whoever keeps the error must not keep the lock with it
            raise
        # Removed before we had it: others would lock another file of this name, so that one is the lock.
        file.close()


def _sign(file: File) -> None:
    file.truncate(0)
    file.append(msgspec.json.encode(Holder.here()) + b"\n")


def _holder(files: Files, path: str) -> str:
    """Who holds the lock, in words. Who has just got it may not have signed yet: give it a moment."""
    for _ in range(_SIGNING_POLLS):
        file = files.open(path, "r")
        try:
            return str(msgspec.json.decode(file.pread(0, _HOLDER_BYTES), type=Holder))
        except (msgspec.DecodeError, UnicodeDecodeError):
            time.sleep(_POLL_SECONDS)
        finally:
            file.close()
    return "a process that left no name"

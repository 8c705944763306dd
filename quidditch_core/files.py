"""Files and blobs: what the machines below ``index`` may ask of a disk.

`Files` is the whole of the operating system that translog, manifest and local tiers see, small enough that a
simulated disk which crashes at any step can stand in for it. `OsFiles` is the real one. `Blob` is the shape
in which a tier hands out an immutable byte string; a codec reads through it and never learns where it lies.

What is durable when (an implementation promises no more than this):

=====================  ==========================================================================
append, pwrite,        nothing until ``fsync`` returns: a crash may lose, tear or zero these bytes
truncate
fsync                  the bytes and the length of this file, but not its name
open that creates,     nothing until ``sync_dir`` of the directory that holds the name; a rename is
rename, unlink, mkdir  atomic, so that after a crash there is the old file or the new one
a failed fsync         unknown, for ever: the writer stops and never retries it
=====================  ==========================================================================
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Literal, NoReturn, Protocol

from quidditch_core.errors import StorageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PAGE_SIZE: Final = 1 << 16
"""Bytes that share one CRC-32 in a blob: the unit in which blobs are verified and fetched."""

TEMP: Final = ".tmp"
"""Suffix of a file that is being written; whoever lists a directory passes over such names."""

Mode = Literal["r", "w", "a", "u"]
Bytes = bytes | bytearray | memoryview

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_NAME_MAX = 255 - len(TEMP)


def is_name(name: str) -> bool:
    """Whether ``name`` may become a file in an index: it cannot leave its directory or pose as temporary."""
    return len(name) <= _NAME_MAX and _NAME.fullmatch(name) is not None and not name.endswith(TEMP)


class File(Protocol):
    """One open file. Closing it, or the death of its process, drops its lock."""

    path: str

    def append(self, data: Bytes) -> None:
        """Write all of ``data`` at the end. When it fails, part of it may be there."""

    def pwrite(self, offset: int, data: Bytes) -> None:
        """Write all of ``data`` at ``offset`` of a file opened to update. When it fails, part of it may be there."""

    def pread(self, offset: int, size: int) -> bytes:
        """Read ``size`` bytes at ``offset``; fewer only where the file ends."""

    def size(self) -> int:
        """Length in bytes."""

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes, or make it that long by zeros."""

    def fsync(self) -> None:
        """Return when bytes and length are durable. After an error nothing is known: never call it again."""

    def map(self) -> memoryview:
        """The whole file as read-only memory at an address that stays until the last view is gone.

        The file must not be empty, and must not be cut while a view lives.
        """

    def lock(self, *, shared: bool) -> bool:
        """Lock the file against its other openings, in any process; False, at once, if one is in the way."""

    def linked(self) -> bool:
        """Whether ``path`` still names this very file, not nothing and not another one."""

    def close(self) -> None:
        """Give the file back; closing twice is allowed."""


class Files(Protocol):
    """A place that holds directories of files; durability as in the table above. Errors: `StorageError`."""

    def open(self, path: str, mode: Mode) -> File:
        """Open to read (``r``), to write in place of any old file (``w``), to append, creating (``a``), or to update
        a file that is there (``u``)."""

    def rename(self, old: str, new: str) -> None:
        """Give ``old`` the name ``new``, atomically replacing what had it."""

    def unlink(self, path: str) -> None:
        """Remove a name; those who have the file open keep it."""

    def sync_dir(self, path: str) -> None:
        """Return when all names in this directory are durable."""

    def listdir(self, path: str) -> list[str]:
        """The names in a directory, in any order."""

    def exists(self, path: str) -> bool:
        """Whether a file or directory has this name."""

    def mkdir(self, path: str) -> None:
        """Create one directory; fine if it is there."""

    def space(self, path: str) -> tuple[int, int]:
        """Bytes of the disk that holds this directory, and how many of them are free for us."""


class Blob(Protocol):
    """A named immutable byte string, open for reading: one address range of its full length.

    Bytes may be touched, through ``view`` or from a kernel by ``address``, only after `need` has returned for
    them. The writer of a blob ends it with at least 64 bytes that no vector load starts in, so that such
    loads stay inside the range. Any array made over ``view`` keeps the range alive, even after `close`.
    """

    name: str
    size: int
    address: int
    view: memoryview

    def pread(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes, NOT verified: for the tail, whose own checksum the codec compares."""

    def set_checksums(self, crcs: NDArray[np.uint32], covered: int) -> None:
        """Say what pages must be: ``crcs[i]`` is the CRC-32 of the i-th `PAGE_SIZE` bytes of [0, covered).

        ``covered`` counts bytes; the last page may be short.
        """

    def need(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Return when all (offset, length) are present and verified; `CorruptIndexError` names a bad page."""

    def close(self) -> None:
        """Refuse `pread` and `need` now; memory goes with this object and all arrays over ``view``."""


def ensure_directory(files: Files, path: str) -> None:
    """Create ``path`` and what is missing above it, durably."""
    path = os.path.abspath(path)
    missing = []
    while not files.exists(path):
        missing.append(path)
        path = os.path.dirname(path)
    try:
        files.sync_dir(os.path.dirname(path))  # who made this one may have died before
    except StorageError as error:
        if error.errno not in (errno.EACCES, errno.EPERM):  # where we may not even look, we made nothing
            raise
    for directory in reversed(missing):
        files.mkdir(directory)
        files.sync_dir(os.path.dirname(directory))


_REMEDIES: Final = {
    errno.ENOSPC: "free space on this file system, then reopen the index",
    errno.EDQUOT: "raise the quota or free space, then reopen the index",
    errno.EACCES: "give this user access to it, or open the index with read_only=True",
    errno.EPERM: "give this user access to it, or open the index with read_only=True",
    errno.EROFS: "the file system is read-only: open the index with read_only=True",
    errno.EIO: "the device failed: check it, then restore from a snapshot or a replica",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit of open files",
    errno.ENOLCK: "keep the index on a file system that has file locks",
    errno.EOPNOTSUPP: "keep the index on a file system that has file locks",
    errno.ENOENT: "check the path, and that nothing else removes files of the index",
    errno.ENOTDIR: "give a path whose parents are directories",
    errno.EISDIR: "move it elsewhere: in an index all of this name are files",
    errno.EEXIST: "remove it first, if nothing refers to it any more",
    errno.EFBIG: "raise the limit of the file size (ulimit -f), then reopen the index",
}


def storage_error(action: str, path: str, cause: OSError) -> StorageError:
    """The `StorageError` for what the operating system said; ``errno`` is kept, the remedy depends on it."""
    number = cause.errno or 0
    name = errno.errorcode.get(number, "unknown error")
    error = StorageError(
        f"cannot {action}: {cause.strerror or cause} ({name})", path=path,
        fix=_REMEDIES.get(number, "see the system's log for the cause"),
    )
    error.errno, error.action = number, action
    return error


@contextmanager
def _asking_to(action: str, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        raise storage_error(action, path, cause) from cause


# A forked child shares the parent's open files, and with them the locks: it would keep a dead parent's lock.
_locked: weakref.WeakSet[OsFile] = weakref.WeakSet()


def _drop_inherited_locks() -> None:
    for file in list(_locked):
        file.close()


os.register_at_fork(after_in_child=_drop_inherited_locks)

_CLOSED: Final = 2**31 - 1  # no process has this descriptor: the system answers EBADF
_FLAGS: Final = {
    "r": os.O_RDONLY,
    "w": os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND,
    "a": os.O_RDWR | os.O_CREAT | os.O_APPEND,
    "u": os.O_RDWR,
}
# fdatasync also writes the length, as long as that is needed to read the data back.
_sync = getattr(os, "fdatasync", os.fsync)
_FULL_SYNC: Final[int | None] = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: fsync stops at the drive's cache


class OsFile:
    """`File` over a descriptor."""

    __slots__ = ("__weakref__", "_fd", "_owner", "path")

    def __init__(self, path: str, mode: Mode) -> None:
        self._fd = _CLOSED
        self._owner = 0  # the process whose lock is on the file
        self.path = path
        with _asking_to("open", path):
            self._fd = os.open(path, _FLAGS[mode] | os.O_CLOEXEC, 0o666)

    def append(self, data: Bytes) -> None:
        rest = memoryview(data)
        if rest.nbytes == 0:
            return
        rest = rest.cast("B")
        with _asking_to("write", self.path):
            while rest:
                rest = rest[os.write(self._fd, rest) :]

    def pwrite(self, offset: int, data: Bytes) -> None:
        rest = memoryview(data)
        if rest.nbytes == 0:
            return
        rest = rest.cast("B")
        try:
            while rest:
                written = os.pwrite(self._fd, rest, offset)
                rest, offset = rest[written:], offset + written
        except OSError as cause:  # without the context manager: every acknowledged write passes here
            raise storage_error("write", self.path, cause) from cause

    def pread(self, offset: int, size: int) -> bytes:
        with _asking_to("read", self.path):
            data = os.pread(self._fd, size, offset)
            while 0 < len(data) < size and (more := os.pread(self._fd, size - len(data), offset + len(data))):
                data += more
        return data

    def size(self) -> int:
        with _asking_to("read the size", self.path):
            return os.fstat(self._fd).st_size

    def truncate(self, size: int) -> None:
        with _asking_to("truncate", self.path):
            os.ftruncate(self._fd, size)

    def fsync(self) -> None:
        try:
            if _FULL_SYNC is None:
                _sync(self._fd)
            else:
                fcntl.fcntl(self._fd, _FULL_SYNC)
        except OSError as cause:
            raise storage_error("sync", self.path, cause) from cause

    def map(self) -> memoryview:
        with _asking_to("map", self.path):
            return memoryview(mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ))

    def lock(self, *, shared: bool) -> bool:
        with _asking_to("lock", self.path):
            try:
                fcntl.flock(self._fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        self._owner = os.getpid()
        _locked.add(self)
        return True

    def linked(self) -> bool:
        with _asking_to("look up", self.path):
            try:
                there = os.stat(self.path)
            except FileNotFoundError:
                return False
            return os.path.samestat(there, os.fstat(self._fd))

    def close(self) -> None:
        fd, self._fd = self._fd, _CLOSED
        if fd == _CLOSED:
            return
        _locked.discard(self)
        with _asking_to("close", self.path):
            try:
                if self._owner == os.getpid():
                    # Explicitly, because a child that has just been forked may still share the file.
                    fcntl.flock(fd, fcntl.LOCK_UN)
            finally:
                os.close(fd)

    def __reduce__(self) -> NoReturn:
        raise TypeError("an open file cannot be copied or pickled")  # two would close one descriptor

    def __del__(self) -> None:
        if _locked is not None:  # at the very end of the interpreter it may be, and the system closes the rest
            self.close()


class OsFiles:
    """`Files` of the operating system (POSIX)."""

    def open(self, path: str, mode: Mode) -> OsFile:
        return OsFile(path, mode)

    def rename(self, old: str, new: str) -> None:
        with _asking_to("rename", old):
            os.replace(old, new)

    def unlink(self, path: str) -> None:
        with _asking_to("remove", path):
            os.unlink(path)

    def sync_dir(self, path: str) -> None:
        with _asking_to("sync the directory", path):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def listdir(self, path: str) -> list[str]:
        with _asking_to("list the directory", path):
            return os.listdir(path)

    def exists(self, path: str) -> bool:
        with _asking_to("look up", path):
            try:
                os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                return False
        return True

    def space(self, path: str) -> tuple[int, int]:
        with _asking_to("look up the space", path):
            state = os.statvfs(path)
        # Blocks that are kept for root are neither used nor ours.
        return (state.f_blocks - state.f_bfree + state.f_bavail) * state.f_frsize, state.f_bavail * state.f_frsize

    def mkdir(self, path: str) -> None:
        with _asking_to("create the directory", path):
            try:
                os.mkdir(path)
            except FileExistsError:
                if not os.path.isdir(path):
                    raise


OS_FILES: Final = OsFiles()

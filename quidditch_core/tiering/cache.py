"""The block cache: pages of remote blobs on the local disk, shared by all processes of the machine.

It holds only what can be fetched again. LMDB keeps it, one environment a process; since LMDB has no checksums, each
value begins with one. Whoever deletes the directory, even while it is used, costs speed and nothing else.

::

    blocks/
    ├── guard      locked while somebody opens or closes
    ├── users      share-locked by every process that has the cache open
    ├── state      "clean" if the last of them closed it; anything else, and it is deleted, never opened
    └── data.mdb   LMDB: pages by key, and keys by age

The oldest pages go first; a page that was read since it was written gets one more round.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

BUDGET: Final = 10 << 30
"""Bytes of the cache where nobody says otherwise."""
_TOUCHED: Final = 1 << 16


def default_directory() -> str:
    """Where the cache of this user is: below XDG_CACHE_HOME, else below the home."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(home, "quidditch", "blocks")


class BlockCache:
    """Pages by key. Never raises: what goes wrong is a miss, and the cache of this process is then off."""

    def __init__(self, directory: str, budget: int = BUDGET) -> None:
        self.directory = directory
        self.budget = budget
        self._env: Any = None
        self._users = -1
        self._idle = threading.Condition()
        self._busy = 0  # calls that are using the environment
        self._touched: set[bytes] = set()
        self._off = False
        self.hits = self.misses = 0
        with suppress(OSError):
            self._open()

    @property
    def on(self) -> bool:
        return self._env is not None and not self._off

    def take(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The pages that are here, checked against their checksums."""
        found: dict[bytes, bytes] = {}
        if not self.on:
            return found
        bad: list[bytes] = []

        def read(reading: Any) -> None:
            for key in keys:
                value = reading.get(key, db=self._pages)
                if value is None:
                    continue
                data = bytes(value[12:])
                if zlib.crc32(data) == int.from_bytes(value[:4], "little"):
                    found[key] = data
                else:
                    bad.append(key)

        def drop(writing: Any) -> None:
            for key in bad:
                self._drop(writing, key)

        self._run(read)
        if bad:
            self._run(drop, write=True)
        if len(self._touched) < _TOUCHED:
            self._touched.update(found)
        self.hits += len(found)
        self.misses += len(keys) - len(found)
        return found

    def give(self, pages: Mapping[bytes, bytes]) -> None:
        """Keep pages; the oldest go where they do not fit."""

        def put(writing: Any) -> None:
            for key, data in pages.items():
                self._put(writing, key, data)
            self._evict(writing)

        self._run(put, write=True)

    def clear(self) -> None:
        """Remove all pages."""

        def drop(writing: Any) -> None:
            writing.drop(self._pages, delete=False)
            writing.drop(self._ages, delete=False)

        self._run(drop, write=True)

    def close(self) -> None:
        """Give the cache back, when no thread uses it; the last process to do so marks it as clean."""
        with self._idle:
            env, self._env = self._env, None
            users, self._users = self._users, -1
            self._idle.wait_for(lambda: not self._busy)
        if env is None:
            return
        with suppress(OSError), self._guard():
            os.close(users)
            env.sync(True)
            env.close()
            if self._alone():
                _write(os.path.join(self.directory, "state"), b"clean")

    # Inside

    def _open(self) -> None:
        try:
            import lmdb
        except ImportError:
            return
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        with self._guard():
            state = os.path.join(self.directory, "state")
            if self._alone() and _read(state) != b"clean":
                for name in ("data.mdb", "lock.mdb"):
                    with suppress(FileNotFoundError):
                        os.unlink(os.path.join(self.directory, name))
            _write(state, b"open")
            self._users = os.open(os.path.join(self.directory, "users"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._users, fcntl.LOCK_SH)
            try:
                self._env = lmdb.open(self.directory, map_size=self.budget + self.budget // 4 + (64 << 20), max_dbs=2,
                                      max_readers=512, sync=False, metasync=False, readahead=False, mode=0o600)
                self._pages = self._env.open_db(b"pages")
                self._ages = self._env.open_db(b"ages", integerkey=True)
                self._env.reader_check()
            except lmdb.Error:
                self._env = None

    @contextmanager
    def _guard(self) -> Iterator[None]:
        guard = os.open(os.path.join(self.directory, "guard"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(guard, fcntl.LOCK_EX)
            yield
        finally:
            os.close(guard)

    def _alone(self) -> bool:
        """Whether no process has the cache open."""
        users = os.open(os.path.join(self.directory, "users"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(users)
        return True

    def _run(self, work: Callable[[Any], None], *, write: bool = False) -> None:
        """``work`` in a transaction, if the cache is on, which stays open meanwhile; LMDB's errors turn it off."""
        with self._idle:
            env = self._env
            if env is None or self._off:
                return
            self._busy += 1
        import lmdb

        try:
            with env.begin(write=write, buffers=not write) as transaction:
                work(transaction)
        except (lmdb.Error, OSError):
            self._off = True
        finally:
            with self._idle:
                self._busy -= 1
                self._idle.notify_all()

    def _put(self, writing: Any, key: bytes, data: bytes) -> None:
        self._drop(writing, key)
        with writing.cursor(self._ages) as ages:
            age = int.from_bytes(ages.key(), "little") + 1 if ages.last() else 1
        number = age.to_bytes(8, "little")
        writing.put(number, key, db=self._ages)
        writing.put(key, zlib.crc32(data).to_bytes(4, "little") + number + data, db=self._pages)

    def _drop(self, writing: Any, key: bytes) -> None:
        old = writing.get(key, db=self._pages)
        if old is not None:
            writing.delete(bytes(old[4:12]), db=self._ages)
            writing.delete(key, db=self._pages)

    def _evict(self, writing: Any) -> None:
        spared = 0
        while self._size(writing) > self.budget:
            with writing.cursor(self._ages) as ages:
                if not ages.first():
                    return
                key = bytes(ages.value())
            data = writing.get(key, db=self._pages)
            self._drop(writing, key)
            if key in self._touched and data is not None and spared < 64:
                spared += 1
                self._put(writing, key, bytes(data[12:]))
            self._touched.discard(key)

    def _size(self, writing: Any) -> int:
        stat = writing.stat(self._pages)
        return int(stat["overflow_pages"] + stat["leaf_pages"] + stat["branch_pages"]) * int(stat["psize"])


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(16)
    except FileNotFoundError:
        return b""


_open: dict[str, BlockCache] = {}
_lock = threading.Lock()


def shared(directory: str | None = None, budget: int | None = None) -> BlockCache:
    """The cache of this process at ``directory``; the first who asks sets its budget."""
    directory = os.path.abspath(directory or default_directory())
    with _lock:
        found = _open.get(directory)
        if found is None:
            found = _open[directory] = BlockCache(directory, budget or BUDGET)
        return found


@atexit.register
def close_all() -> None:
    """Close the caches of this process."""
    with _lock:
        caches = list(_open.values())
        _open.clear()
    for cache in caches:
        cache.close()


def delete(directory: str | None = None) -> None:
    """Remove the cache's files. Processes that use them go on with what they have open."""
    directory = directory or default_directory()
    with _lock:
        found = _open.pop(os.path.abspath(directory), None)
    if found is not None:
        found.close()
    shutil.rmtree(directory, ignore_errors=True)


def _forget() -> None:
    """A forked child has its parent's environment, which it must not use."""
    global _lock
    _lock = threading.Lock()
    for cache in _open.values():
        if cache._users >= 0:
            os.close(cache._users)
        cache._env, cache._users = None, -1
        cache._idle, cache._busy = threading.Condition(), 0
    _open.clear()


os.register_at_fork(after_in_child=_forget)

"""At most one writer: across processes, within one, after kill -9 and after fork."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quidditch_core.errors import IndexClosedError, LockError, StorageError, WriterFailedError
from quidditch_core.index.lock import LOCK_FILE, WriterLock

HOLD = """
import sys
from quidditch_core.index.lock import WriterLock
lock = WriterLock.acquire(sys.argv[1])
print("held", flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(directory: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the lock; it releases it when it gets a line."""
    command = [sys.executable, "-c", HOLD, str(directory)]
    process = subprocess.Popen(command, env=environment, text=True, bufsize=1, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)
    try:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_acquire_and_release(tmp_path: Path) -> None:
    for _ in range(3):
        lock = WriterLock.acquire(str(tmp_path))
        lock.assert_owner()
        lock.assert_intact()
        lock.release()
        lock.release()
        with pytest.raises(IndexClosedError, match="closed"):
            lock.assert_owner()
    assert os.listdir(tmp_path) == [LOCK_FILE]  # it stays: removing it would be a race
    assert (tmp_path / LOCK_FILE).read_bytes() == b""


def test_twice_in_one_process(tmp_path: Path) -> None:
    lock = WriterLock.acquire(str(tmp_path))
    start = time.monotonic()
    with pytest.raises(LockError, match=f"process {os.getpid()} "):
        WriterLock.acquire(str(tmp_path))
    assert time.monotonic() - start < 2
    lock.assert_intact()
    lock.release()
    WriterLock.acquire(str(tmp_path)).release()


def test_a_lock_that_nobody_refers_to_is_free(tmp_path: Path) -> None:
    WriterLock.acquire(str(tmp_path))
    WriterLock.acquire(str(tmp_path)).release()


def test_another_process_is_named(tmp_path: Path, python_env: dict[str, str]) -> None:
    with holder(tmp_path, python_env) as other:
        start = time.monotonic()
        with pytest.raises(LockError) as error:
            WriterLock.acquire(str(tmp_path))
        assert time.monotonic() - start < 2
        text = str(error.value)
        assert text.startswith(f"{tmp_path}: process {other.pid} (")
        assert os.uname().nodename in text
        assert re.search(r"since 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", text)
        for advice in ("close it there", "lock_timeout", "read_only=True", "never remove write.lock"):
            assert advice in text


def test_kill_9_of_the_holder(tmp_path: Path, python_env: dict[str, str]) -> None:
    with holder(tmp_path, python_env) as other:
        other.kill()
        other.wait()
        assert str(other.pid).encode() in (tmp_path / LOCK_FILE).read_bytes()
        lock = WriterLock.acquire(str(tmp_path))
        assert str(other.pid).encode() not in (tmp_path / LOCK_FILE).read_bytes()
        lock.assert_intact()


def test_waiting(tmp_path: Path, python_env: dict[str, str]) -> None:
    with holder(tmp_path, python_env) as other:
        start = time.monotonic()
        with pytest.raises(LockError):
            WriterLock.acquire(str(tmp_path), timeout=0.3)
        assert 0.3 <= time.monotonic() - start < 2
        assert other.stdin
        timer = threading.Timer(0.2, other.stdin.write, ("go\n",))
        timer.start()
        lock = WriterLock.acquire(str(tmp_path), timeout=30)
        assert time.monotonic() - start < 10
        lock.release()
        timer.join()


@pytest.mark.parametrize("content", [b"", b"half a rec", b"\xff\x00" * 5000, b'{"pid": "x"}', b"[]"])
def test_a_holder_without_a_name(tmp_path: Path, content: bytes) -> None:
    lock = WriterLock.acquire(str(tmp_path))
    (tmp_path / LOCK_FILE).write_bytes(content)
    with pytest.raises(LockError, match="a process that left no name"):
        WriterLock.acquire(str(tmp_path))
    lock.release()


def test_a_full_disk_does_not_stand_in_the_way(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        lock = WriterLock.acquire(str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    lock.assert_intact()
    with pytest.raises(LockError, match="left no name"):
        WriterLock.acquire(str(tmp_path))
    lock.release()


def test_stale_content_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_bytes(b'{"pid": 1, "host": "elsewhere", "since": "2020", "command": "x"}')
    WriterLock.acquire(str(tmp_path)).release()


def test_exactly_one_of_many(tmp_path: Path, python_env: dict[str, str]) -> None:
    """Processes and threads that pass the lock around never have it at once, and each gets its turns."""
    script = """
import os, sys, threading
from quidditch_core.index.lock import WriterLock
def work():
    for _ in range(5):
        lock = WriterLock.acquire(sys.argv[1], timeout=60)
        inside = os.open(os.path.join(sys.argv[1], "inside"), os.O_CREAT | os.O_EXCL)
        os.close(inside)
        lock.assert_intact()
        os.unlink(os.path.join(sys.argv[1], "inside"))
        lock.release()
        os.write(1, b"turn\\n")
threads = [threading.Thread(target=work) for _ in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, env=python_env, text=True, stdout=pipe) for _ in range(3)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert outputs == ["turn\n" * 10] * 3
    assert [process.returncode for process in processes] == [0] * 3


def test_a_fork_has_no_writer(tmp_path: Path, python_env: dict[str, str]) -> None:
    """The child is refused, cannot take the lock, and cannot lose it for its parent, nor keep it after it."""
    script = """
import os, signal, sys
from quidditch_core.errors import IndexClosedError, LockError
from quidditch_core.index.lock import WriterLock
directory = sys.argv[1]
lock = WriterLock.acquire(directory)
child = os.fork()
if not child:
    for check in (lock.assert_owner, lock.assert_intact):
        try:
            check()
            os._exit(1)
        except IndexClosedError as error:
            assert "fork" in str(error) and str(os.getppid()) in str(error), error
    lock.release()
    try:
        WriterLock.acquire(directory)
        os._exit(2)
    except LockError as error:
        assert f"process {os.getppid()} " in str(error), error
    print("refused", flush=True)
    os._exit(0)
_, status = os.waitpid(child, 0)
assert status == 0, status
lock.assert_intact()

ready, tell = os.pipe()
child = os.fork()
if not child:
    os.write(tell, b"x")
    signal.pause()
os.read(ready, 1)
lock.release()
WriterLock.acquire(directory)
os.kill(child, signal.SIGKILL)
print("free", flush=True)
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, str(tmp_path)]
    done = subprocess.run(command, env=python_env, text=True, capture_output=True, timeout=60)
    assert (done.stdout, done.stderr) == ("refused\nfree\n", "")


def test_a_removed_lock_file_is_noticed(tmp_path: Path) -> None:
    lock = WriterLock.acquire(str(tmp_path))
    os.unlink(tmp_path / LOCK_FILE)
    with pytest.raises(WriterFailedError, match="was removed"):
        lock.assert_intact()
    other = WriterLock.acquire(str(tmp_path))
    lock.release()
    other.assert_intact()
    with pytest.raises(LockError):
        WriterLock.acquire(str(tmp_path))


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="ENOENT"):
        WriterLock.acquire(str(tmp_path / "missing"))


def test_read_only_directory() -> None:
    directory = tempfile.mkdtemp(prefix="quidditch-test-")  # where another user may look
    os.chmod(directory, 0o555)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        with pytest.raises(StorageError, match="read_only=True"):
            WriterLock.acquire(directory)
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(directory)

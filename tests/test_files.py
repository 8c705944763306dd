"""The operating system's files: what they do, and the errors they turn into. All on real files."""

from __future__ import annotations

import copy
import errno
import gc
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from quidditch_core.errors import QuidditchError, StorageError
from quidditch_core.files import OS_FILES, Files, ensure_directory, is_name, storage_error


def code(error: pytest.ExceptionInfo[StorageError]) -> int | None:
    assert isinstance(error.value.__cause__, OSError)
    assert error.value.fix
    return error.value.errno


@pytest.fixture
def foreign() -> Iterator[str]:
    """A directory that the current user, root or not, may read but not change."""
    directory = tempfile.mkdtemp(prefix="quidditch-test-")
    Path(directory, "there").write_bytes(b"x")
    os.chmod(directory, 0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield directory
    if root:
        os.seteuid(0)
    os.chmod(directory, 0o755)
    shutil.rmtree(directory)


def test_append_and_read(tmp_path: Path) -> None:
    files: Files = OS_FILES
    path = str(tmp_path / "a")
    file = files.open(path, "w")
    for data in (b"hello ", bytearray(b"wide "), memoryview(b"world"), b"", memoryview(np.zeros((0, 4)))):
        file.append(data)
    file.append(memoryview(np.arange(6, dtype="<u2").reshape(2, 3)))  # bytes of any array that is contiguous
    assert file.size() == 16 + 12
    assert file.pread(6, 10) == b"wide world"
    assert file.pread(20, 100) == np.arange(2, 6, dtype="<u2").tobytes()
    assert file.pread(28, 5) == b"" == file.pread(1000, 5)
    file.fsync()
    file.truncate(5)
    file.append(b"!")
    file.close()
    file.close()
    again = files.open(path, "a")
    again.append(b"?")
    assert again.pread(0, 99) == b"hello!?"
    assert files.open(path, "w").size() == 0


def test_update_in_place(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    with pytest.raises(StorageError, match="No such file"):
        OS_FILES.open(path, "u")
    OS_FILES.open(path, "w").append(b"0123456789")
    file = OS_FILES.open(path, "u")
    for offset, data in ((2, b"ab"), (8, bytearray(b"cdef")), (5, memoryview(b"x")), (1, b"")):
        file.pwrite(offset, data)
    assert file.pread(0, 99) == b"01ab4x67cdef"
    file.pwrite(0, memoryview(np.arange(2, dtype="<u2")))
    file.truncate(14)
    file.fsync()
    assert OS_FILES.open(path, "r").pread(0, 99) == b"\0\0\1\x004x67cdef\0\0"
    with pytest.raises(StorageError, match=r"cannot write: Bad file descriptor") as error:
        OS_FILES.open(path, "r").pwrite(0, b"x")
    assert error.value.path == path


def test_names(tmp_path: Path) -> None:
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    file = OS_FILES.open(a, "w")
    file.append(b"new")
    OS_FILES.open(b, "w").append(b"old")
    assert file.linked()
    OS_FILES.rename(a, b)
    OS_FILES.sync_dir(str(tmp_path))
    assert OS_FILES.open(b, "r").pread(0, 9) == b"new"
    assert not file.linked()  # it goes by the name it was opened with
    assert not OS_FILES.exists(a)
    assert OS_FILES.exists(b)
    assert not OS_FILES.exists(b + "/below a file")
    OS_FILES.open(a, "w")
    assert not file.linked()  # another file of that name
    assert sorted(OS_FILES.listdir(str(tmp_path))) == ["a", "b"]
    OS_FILES.unlink(b)
    assert OS_FILES.listdir(str(tmp_path)) == ["a"]
    assert file.pread(0, 9) == b"new"  # whoever has it open keeps it


def test_ensure_directory(tmp_path: Path) -> None:
    deep = str(tmp_path / "x" / "y" / "z")
    ensure_directory(OS_FILES, deep)
    ensure_directory(OS_FILES, deep)
    assert os.path.isdir(deep)
    OS_FILES.open(deep + "/file", "w")
    with pytest.raises(StorageError) as error:
        OS_FILES.mkdir(deep + "/file")
    assert code(error) == errno.EEXIST


def test_map_outlives_its_file(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    data = os.urandom(200_000)
    file = OS_FILES.open(path, "w")
    file.append(data)
    view = file.map()
    assert view.readonly
    array = np.frombuffer(view, np.uint8)
    file.close()
    OS_FILES.unlink(path)
    del view, file
    gc.collect()
    assert array.tobytes() == data


@pytest.mark.parametrize(("first", "second", "both"), [
    (True, True, True), (True, False, False), (False, True, False), (False, False, False),
])
def test_locks_within_one_process(tmp_path: Path, first: bool, second: bool, both: bool) -> None:
    path = str(tmp_path / "a")
    a, b = OS_FILES.open(path, "a"), OS_FILES.open(path, "r")
    assert a.lock(shared=first)
    assert b.lock(shared=second) == both
    a.close()
    assert b.lock(shared=second)


def test_lock_ends_with_the_last_reference(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    holder = OS_FILES.open(path, "a")
    assert holder.lock(shared=False)
    del holder
    gc.collect()
    assert OS_FILES.open(path, "r").lock(shared=False)


def test_fork_keeps_no_lock(tmp_path: Path, python_env: dict[str, str]) -> None:
    """A child that outlives its parent must not keep the parent's lock; nor drop it by closing."""
    path = str(tmp_path / "a")
    script = f"""
import os, time
from quidditch_core.files import OS_FILES
file = OS_FILES.open({path!r}, "a")
assert file.lock(shared=False)
ready, tell = os.pipe()
child = os.fork()
if not child:
    file.close()
    os.write(tell, b"x")
    time.sleep(60)
os.read(ready, 1)
print(child, flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", script]
    parent = subprocess.Popen(command, env=python_env, text=True, stdout=subprocess.PIPE)
    assert parent.stdout
    child = int(parent.stdout.readline())
    try:
        file = OS_FILES.open(path, "a")
        assert not file.lock(shared=False)
        parent.kill()
        parent.wait()
        os.kill(child, 0)  # alive
        assert file.lock(shared=False)
    finally:
        os.kill(child, signal.SIGKILL)
        parent.kill()
        parent.wait()
        parent.stdout.close()


def test_no_descriptor_leaks(tmp_path: Path) -> None:
    def count() -> int:
        gc.collect()
        return len(os.listdir("/dev/fd"))

    before = count()
    for i in range(50):
        file = OS_FILES.open(str(tmp_path / f"{i}"), "a")
        file.append(b"data")
        file.map()
        file.lock(shared=i % 2 == 0)
        OS_FILES.sync_dir(str(tmp_path))
    del file
    assert count() == before


def test_missing_file(tmp_path: Path) -> None:
    path = str(tmp_path / "nothing" / "here")
    for call in (
        lambda: OS_FILES.open(path, "r"), lambda: OS_FILES.open(path, "w"), lambda: OS_FILES.unlink(path),
        lambda: OS_FILES.rename(path, path + "2"), lambda: OS_FILES.sync_dir(path),
        lambda: OS_FILES.listdir(path), lambda: OS_FILES.mkdir(path),
    ):
        with pytest.raises(StorageError, match="ENOENT") as error:
            call()
        assert code(error) == errno.ENOENT
        assert error.value.path == path


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk() -> None:
    with pytest.raises(StorageError, match=r"/dev/full: cannot write: No space left.*free space") as error:
        OS_FILES.open("/dev/full", "a").append(b"x")
    assert code(error) == errno.ENOSPC


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs /proc")
def test_device_error() -> None:
    with pytest.raises(StorageError, match="the device failed") as error:
        OS_FILES.open("/proc/self/mem", "r").pread(0, 10)
    assert code(error) == errno.EIO


def test_too_many_open_files(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(StorageError, match="ulimit -n") as error:
            OS_FILES.open(str(tmp_path / "a"), "w")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert code(error) == errno.EMFILE


def test_no_permission(foreign: str) -> None:
    assert OS_FILES.open(f"{foreign}/there", "r").pread(0, 9) == b"x"
    for call in (
        lambda: OS_FILES.open(f"{foreign}/new", "a"), lambda: OS_FILES.mkdir(f"{foreign}/new"),
        lambda: OS_FILES.unlink(f"{foreign}/there"),
        lambda: OS_FILES.rename(f"{foreign}/there", f"{foreign}/x"),
    ):
        with pytest.raises(StorageError, match="read_only=True") as error:
            call()
        assert code(error) == errno.EACCES


def test_closed_file(tmp_path: Path) -> None:
    file = OS_FILES.open(str(tmp_path / "a"), "a")
    file.close()
    for call in (lambda: file.append(b"x"), lambda: file.pread(0, 1), file.fsync, file.size):
        with pytest.raises(StorageError) as error:
            call()
        assert code(error) == errno.EBADF


def test_an_open_file_has_no_copy(tmp_path: Path) -> None:
    """It would close the descriptor of the first, or of whatever has its number by then."""
    file = OS_FILES.open(str(tmp_path / "a"), "a")
    for call in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="an open file"):
            call(file)  # type: ignore[operator]
    file.append(b"x")
    file.close()


@pytest.mark.parametrize(("number", "remedy"), [
    (errno.ENOSPC, "free space"), (errno.EROFS, "read-only"), (errno.EACCES, "give this user access"),
    (errno.EIO, "the device failed"), (errno.ENOLCK, "file locks"), (errno.EXDEV, "system's log"),
])
def test_each_cause_has_its_remedy(number: int, remedy: str) -> None:
    error = storage_error("write", "/index/seg", OSError(number, os.strerror(number)))
    assert error.errno == number
    assert isinstance(error, QuidditchError)
    assert str(error).startswith("/index/seg: cannot write: " + os.strerror(number))
    assert remedy in str(error)
    assert errno.errorcode[number] in str(error)


@pytest.mark.parametrize("name", ["a", "0", "seg-1.live", "a..b", "x" * 251])
def test_good_names(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize("name", [
    "", ".", "..", "../a", "a/b", "a\\b", "/a", ".hidden", "-x", "_x", "A", "é", "a b", "a\n", "a\0", "x.tmp",
    "x" * 252, "٣",
])
def test_bad_names(name: str) -> None:
    assert not is_name(name)

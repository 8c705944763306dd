"""Stores that fail on purpose: they promise what real ones promise, and fail as they are told.

`FilesContract` runs on the real disk and on the one that crashes, `TierContract` on tiers of both: what the
simulation proves holds for the system that it stands for.
"""

from __future__ import annotations

import errno
import gc
import hashlib
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from quidditch_core.errors import RequestError, StorageError
from quidditch_core.files import OS_FILES, Files, Mode, ensure_directory
from quidditch_core.tiering import Tier
from quidditch_core.tiering.local import LocalTier
from quidditch_core.tiering.testing import (
    DAMAGES,
    CountingTier,
    Crashed,
    CrashFiles,
    Damage,
    Fault,
    FaultTier,
    LatencyTier,
    TierContract,
)

SEEDS = range(60)


# --- tiers ---------------------------------------------------------------------------------------------------


class TestLocalTier(TierContract):
    def make_tier(self, place: Path) -> Tier:
        return LocalTier(OS_FILES, str(place / "blobs"))


class TestTierOnASimulatedDisk(TierContract):
    @pytest.fixture(autouse=True)
    def disk(self) -> None:
        self.files = CrashFiles()

    def make_tier(self, place: Path) -> Tier:
        return LocalTier(self.files, "/blobs")


class TestTiersAroundATier(TierContract):
    def make_tier(self, place: Path) -> Tier:
        return CountingTier(LatencyTier(FaultTier(LocalTier(OS_FILES, str(place / "blobs"))), 0.0))


@pytest.fixture
def tier(tmp_path: Path) -> Tier:
    return LocalTier(OS_FILES, str(tmp_path / "blobs"))


def test_counting(tier: Tier) -> None:
    counting = CountingTier(tier)
    counting.write("a", [b"x" * 100, b"y" * 100])
    counting.sync()
    blob = counting.open("a")
    blob.set_checksums(np.array([zlib.crc32(b"x" * 100)], np.uint32), 100)
    blob.need(iter([(0, 10), (90, 10)]))
    blob.pread(150, 50)
    counting.delete("a")
    counting.list()
    assert counting.calls == {"write": 1, "sync": 1, "open": 1, "need": 1, "pread": 1, "delete": 1, "list": 1}
    assert counting.bytes == {"write": 200, "need": 20, "pread": 50}


def test_latency(tier: Tier) -> None:
    slept: list[float] = []
    slow = LatencyTier(tier, 0.5, 0.25, sleep=slept.append)
    slow.write("a", [b"x" * 100])
    slow.open("a").pread(0, 8)
    slow.sweep()
    assert slept == [0.5, 0.5, 0.5 + 8 * 0.25, 0.5]


def test_faults_by_script(tier: Tier) -> None:
    faulty = FaultTier(tier, Fault("open", 2, errno.EIO), Fault("write", name="seg-*", number=errno.ENOSPC),
                       Fault("sync", 2, lasting=True))
    faulty.write("live-1", [b"x"])
    with pytest.raises(StorageError, match="free space") as error:
        faulty.write("seg-1", [b"x", b"y"])
    assert error.value.errno == errno.ENOSPC
    assert faulty.list() == ["live-1"]
    faulty.write("seg-1", [b"x"])
    faulty.sync()
    for _ in range(3):
        with pytest.raises(StorageError, match="the device failed"):
            faulty.sync()
    faulty.open("seg-1")
    with pytest.raises(StorageError, match=r"cannot open.*as the script says"):
        faulty.open("seg-1")
    faulty.open("seg-1")
    assert faulty.failed == 5
    with pytest.raises(RequestError, match="no such operation"):
        Fault("explode")  # type: ignore[arg-type]


@pytest.mark.parametrize("operation", ["pread", "need"])
def test_faults_of_an_open_blob(tier: Tier, operation: Any) -> None:
    tier.write("a", [b"x" * 100])
    blob = FaultTier(tier, Fault(operation)).open("a")
    blob.set_checksums(np.array([zlib.crc32(b"x" * 100)], np.uint32), 100)
    calls: dict[str, Callable[[], object]] = {"pread": lambda: blob.pread(0, 1), "need": lambda: blob.need([(0, 1)])}
    with pytest.raises(StorageError):
        calls[operation]()
    calls[operation]()


# --- the simulated disk does what the real one does ------------------------------------------------------------


@pytest.fixture(params=["real", "simulated"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Files, str]:
    """A file system and an empty directory of it."""
    if request.param == "real":
        return OS_FILES, str(tmp_path)
    files = CrashFiles()
    ensure_directory(files, "/some/where")
    return files, "/some/where"


Disk = tuple[Files, str]


def test_bytes(disk: Disk) -> None:
    files, directory = disk
    file = files.open(f"{directory}/a", "w")
    for data in (b"hello ", bytearray(b"wide "), memoryview(b"world"), b"", memoryview(np.zeros((0, 4)))):
        file.append(data)
    file.append(memoryview(np.arange(6, dtype="<u2").reshape(2, 3)))
    assert file.size() == 28
    assert (file.pread(6, 10), file.pread(28, 5), file.pread(1000, 5)) == (b"wide world", b"", b"")
    assert file.pread(20, 100) == np.arange(2, 6, dtype="<u2").tobytes()
    file.fsync()
    file.truncate(5)
    file.append(b"!")
    file.truncate(8)
    file.close()
    file.close()
    again = files.open(f"{directory}/a", "a")
    again.append(b"?")
    assert again.pread(0, 99) == b"hello!\0\0?"
    assert files.open(f"{directory}/a", "r").size() == 9
    assert files.open(f"{directory}/a", "w").size() == 0
    assert again.size() == 0


def test_names(disk: Disk) -> None:
    files, directory = disk
    a, b = f"{directory}/a", f"{directory}/b"
    file = files.open(a, "w")
    file.append(b"new")
    old = files.open(b, "w")
    assert file.linked()
    files.rename(a, b)
    files.rename(b, b)
    files.sync_dir(directory)
    assert files.open(b, "r").pread(0, 9) == b"new"
    assert (file.linked(), old.linked()) == (False, False)
    assert (files.exists(a), files.exists(b), files.exists(f"{b}/below a file")) == (False, True, False)
    other = files.open(a, "a")
    assert (file.linked(), other.linked()) == (False, True)
    assert sorted(files.listdir(directory)) == ["a", "b"]
    files.unlink(b)
    assert files.listdir(directory) == ["a"]
    assert file.pread(0, 9) == b"new"
    files.mkdir(f"{directory}/sub")
    files.mkdir(f"{directory}/sub")
    ensure_directory(files, f"{directory}/sub/x/y")
    assert files.listdir(f"{directory}/sub") == ["x"]
    assert files.exists(f"{directory}/sub/../sub/x/y/")


def test_maps(disk: Disk) -> None:
    files, directory = disk
    file = files.open(f"{directory}/a", "w")
    data = os.urandom(200_000)
    file.append(data)
    view = file.map()
    assert view.readonly
    array = np.frombuffer(view, np.uint8)
    assert array.ctypes.data % 4096 == 0
    file.close()
    files.unlink(f"{directory}/a")
    del view, file
    gc.collect()
    assert array.tobytes() == data


@pytest.mark.parametrize(("first", "second", "both"), [
    (True, True, True), (True, False, False), (False, True, False), (False, False, False),
])
def test_locks(disk: Disk, first: bool, second: bool, both: bool) -> None:
    files, directory = disk
    a, b = files.open(f"{directory}/a", "a"), files.open(f"{directory}/a", "r")
    assert a.lock(shared=first)
    assert a.lock(shared=first)
    assert b.lock(shared=second) == both
    a.close()
    assert b.lock(shared=second)
    del b
    gc.collect()
    assert files.open(f"{directory}/a", "r").lock(shared=False)


def test_errors_are_the_same(tmp_path: Path) -> None:
    """Every refusal: the same type, errno, cause and words on both disks."""
    simulated = CrashFiles()
    ensure_directory(simulated, str(tmp_path))

    def refusals(files: Files) -> Iterator[Callable[[], object]]:
        there, missing, below = f"{tmp_path}/there", f"{tmp_path}/no/thing", f"{tmp_path}/there/below"
        file = files.open(there, "w")
        reading, closed = files.open(there, "r"), files.open(there, "a")
        closed.close()
        for path in (missing, below):
            for mode in get_args(Mode):
                yield partial(files.open, path, mode)
            yield from (partial(call, path) for call in (files.unlink, files.sync_dir, files.listdir, files.mkdir))
            yield partial(files.rename, path, path + "2")
        yield from (lambda: files.open(str(tmp_path), "a"), lambda: files.mkdir(there), lambda: files.sync_dir(there),
                    lambda: files.listdir(there), lambda: files.unlink(str(tmp_path)),
                    lambda: files.rename(there, str(tmp_path / "directory")))
        yield from (lambda: reading.append(b"x"), lambda: reading.truncate(0))
        yield from (lambda: closed.append(b"x"), lambda: closed.pread(0, 1), closed.fsync, closed.size, closed.linked,
                    lambda: closed.lock(shared=True))
        file.close()

    for files in (OS_FILES, simulated):
        files.mkdir(f"{tmp_path}/directory")
    pairs = zip(refusals(OS_FILES), refusals(simulated), strict=True)
    for number, (real, simulation) in enumerate(pairs):
        with pytest.raises(StorageError) as expected:
            real()
        with pytest.raises(StorageError) as found:
            simulation()
        assert isinstance(found.value.__cause__, OSError)
        assert (str(found.value), found.value.errno) == (str(expected.value), expected.value.errno), number


# --- crashes -------------------------------------------------------------------------------------------------


def after(files: CrashFiles, damage: Damage, path: str = "/a") -> set[bytes | None]:
    """What a file may be after a crash now; None: it may not be there."""
    return {files.after_crash(seed, damage).tree().get(path) for seed in SEEDS}


@pytest.fixture
def files() -> CrashFiles:
    """A disk with the file /a of ten durable bytes."""
    files = CrashFiles()
    file = files.open("/a", "w")
    file.append(b"0123456789")
    file.fsync()
    files.sync_dir("/")
    return files


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_durable_stays(files: CrashFiles, damage: Damage) -> None:
    assert after(files, damage) == {b"0123456789"}


def test_appends_may_be_lost_torn_or_zero(files: CrashFiles) -> None:
    file = files.open("/a", "a")
    file.append(b"a" * 600)
    file.append(b"b" * 600)
    base, both = b"0123456789", b"0123456789" + b"a" * 600 + b"b" * 600
    assert after(files, "drop") == {base}
    assert after(files, "kill") == after(files, "rename") == {both}
    assert after(files, "reorder") == {base, base + b"a" * 600, base + bytes(600) + b"b" * 600, both}
    torn = after(files, "tear")
    assert all(data is not None and both.startswith(data) for data in torn)
    lengths = {len(data) for data in torn if data}
    assert {10, 512, 610} <= lengths
    assert len(lengths) > 20
    zeroed = after(files, "zero")
    assert {len(data) for data in zeroed if data} == {1210}
    assert all(data and data.startswith(base) for data in zeroed)
    assert base + bytes(1200) in zeroed
    assert base + b"a" * 502 + bytes(512) + b"b" * 186 in zeroed


def test_truncations_may_be_lost(files: CrashFiles) -> None:
    files.open("/a", "w").append(b"new")
    assert after(files, "drop") == {b"0123456789"}
    assert after(files, "reorder") == {b"0123456789", b"", b"new3456789", b"new"}
    file = files.open("/a", "a")
    file.fsync()
    assert after(files, "drop") == after(files, "reorder") == {b"new"}


def test_names_may_be_lost(files: CrashFiles) -> None:
    new = files.open("/b.tmp", "w")
    new.append(b"new")
    new.fsync()
    assert after(files, "drop", "/b.tmp") == {None}
    assert after(files, "rename", "/b.tmp") == {None}
    files.rename("/b.tmp", "/a")
    for damage in ("drop", "reorder", "tear", "zero", "rename"):
        assert after(files, damage) <= {b"0123456789", b"new"}, damage
    assert after(files, "drop") == {b"0123456789"}
    assert after(files, "kill") == {b"new"}
    assert after(files, "rename", "/b.tmp") == {None, b"new"}
    files.sync_dir("/")
    assert {damage: after(files, damage) for damage in DAMAGES} == {damage: {b"new"} for damage in DAMAGES}
    files.unlink("/a")
    assert after(files, "rename") == after(files, "drop") == {b"new"}
    assert after(files, "reorder") == {b"new", None}


def test_a_directory_that_is_lost_takes_its_files(files: CrashFiles) -> None:
    files.mkdir("/d")
    files.open("/d/x", "w").fsync()
    files.sync_dir("/d")
    assert after(files, "drop", "/d/x") == {None}
    assert after(files, "reorder", "/d/x") == {None, b""}
    files.sync_dir("/")
    assert after(files, "drop", "/d/x") == {b""}


def test_after_a_kill_the_changes_are_still_not_durable(files: CrashFiles) -> None:
    files.open("/b.tmp", "w").append(b"new")
    files.rename("/b.tmp", "/b")
    alive = files.after_crash(0, "kill")
    assert alive.tree() == {"/a": b"0123456789", "/b": b"new"}
    assert alive.after_crash(0, "drop").tree() == {"/a": b"0123456789"}
    alive.sync_dir("/")
    assert alive.after_crash(0, "drop").tree() == {"/a": b"0123456789", "/b": b""}
    alive.open("/b", "r").fsync()
    assert alive.after_crash(0, "drop").tree() == {"/a": b"0123456789", "/b": b"new"}
    assert files.after_crash(0, "drop").tree() == {"/a": b"0123456789"}


def test_directories_that_a_dead_process_made_become_durable(files: CrashFiles) -> None:
    files.mkdir("/d")
    ensure_directory(files, "/d/e")
    assert files.after_crash(0, "drop").exists("/d/e")
    files.fail("sync_dir", number=errno.EACCES)  # a parent that we may not read: none of ours
    ensure_directory(files, "/d/e")
    files.fail("sync_dir")
    with pytest.raises(StorageError, match="the device failed"):
        ensure_directory(files, "/d/e")


def test_every_step_can_be_the_last() -> None:
    def program(files: CrashFiles) -> None:
        ensure_directory(files, "/d")
        file = files.open("/d/a", "w")
        file.append(b"x")
        file.fsync()
        files.open("/d/a", "r").pread(0, 1)
        files.rename("/d/a", "/d/b")
        files.sync_dir("/d")
        file.truncate(0)
        files.unlink("/d/b")

    whole = CrashFiles()
    program(whole)
    assert [str(step) for step in whole.steps] == [
        "sync_dir /", "mkdir /d", "sync_dir /", "open /d/a", "append /d/a", "fsync /d/a", "rename /d/a", "sync_dir /d",
        "truncate /d/a", "unlink /d/b"]
    assert whole.counts["open"] == 2
    for at in range(len(whole.steps)):
        files = CrashFiles()
        files.crash(at)
        with pytest.raises(Crashed, match=str(whole.steps[at])):
            program(files)
        assert files.steps == whole.steps[:at]
        assert files.crashed
        with pytest.raises(Crashed):
            files.exists("/")
    files = CrashFiles()
    files.crash(len(whole.steps))
    program(files)
    files.crash()
    with pytest.raises(Crashed):
        files.listdir("/")


def test_a_crash_drops_locks(files: CrashFiles) -> None:
    holder = files.open("/a", "r")
    assert holder.lock(shared=False)
    assert not files.open("/a", "r").lock(shared=True)
    assert files.after_crash(0, "kill").open("/a", "r").lock(shared=False)


def test_writes_in_place_may_be_lost_torn_or_zero(files: CrashFiles) -> None:
    file = files.open("/a", "a")
    file.append(bytes(1190))
    file.fsync()
    with pytest.raises(StorageError):
        file.pwrite(0, b"x")  # the system would append
    files.open("/a", "u").pwrite(10, b"a" * 1000)
    start, old, new = b"0123456789", bytes(1000), b"a" * 1000
    assert after(files, "drop") == {start + old + bytes(190)}
    assert after(files, "kill") == after(files, "rename") == {start + new + bytes(190)}
    assert after(files, "reorder") == {start + some + bytes(190) for some in (old, new)}
    torn = {data[10:1010].rstrip(b"\0") for data in after(files, "tear") if data}
    assert {b"", b"a" * 502} < torn
    assert all(new.startswith(part) for part in torn)
    assert start + b"a" * 502 + bytes(688) in after(files, "zero")
    with pytest.raises(StorageError):
        files.open("/b", "u")


def test_equal_seeds_give_equal_disks(files: CrashFiles) -> None:
    for number in range(20):
        files.open(f"/f{number}", "w").append(hashlib.sha512(bytes([number])).digest() * 20)
    for damage in DAMAGES:
        assert files.after_crash(5, damage).tree() == files.after_crash(5, damage).tree()
    assert files.after_crash(5, "tear").tree() != files.after_crash(6, "tear").tree()


# --- failures ------------------------------------------------------------------------------------------------


def test_failures_on_request(files: CrashFiles) -> None:
    files.fail("append", 2, errno.ENOSPC)
    file = files.open("/a", "a")
    file.append(b"ab")
    with pytest.raises(StorageError, match=r"cannot write: No space left.*free space") as error:
        file.append(b"cdef")
    assert isinstance(error.value.__cause__, OSError)
    assert error.value.errno == errno.ENOSPC
    assert file.pread(10, 99) == b"abcd"  # half of it went through
    file.append(b"g")
    files.fail("pread", path="*/b*")
    assert file.pread(14, 1) == b"g"
    with pytest.raises(StorageError, match="the device failed"):
        files.open("/b", "a").pread(0, 1)
    with pytest.raises(RequestError, match="no such operation"):
        files.fail("explode")


def test_lasting_failures(files: CrashFiles) -> None:
    files.fail("open", 2, errno.EROFS, lasting=True)
    files.open("/b", "w")
    for _ in range(3):
        with pytest.raises(StorageError, match="read-only"):
            files.open("/c", "w")
    assert not files.exists("/c")


@pytest.mark.parametrize("operation", [
    "open", "append", "pwrite", "pread", "size", "truncate", "fsync", "map", "lock", "linked", "rename", "unlink",
    "sync_dir", "listdir", "exists", "mkdir", "space",
])
def test_every_operation_can_fail(files: CrashFiles, operation: str) -> None:
    files.mkdir("/d")
    file = files.open("/a", "a")
    calls: dict[str, Callable[[], object]] = {
        "open": lambda: files.open("/b", "w"), "append": lambda: file.append(b"x"),
        "pwrite": lambda: files.open("/a", "u").pwrite(0, b"x"), "pread": lambda: file.pread(0, 1),
        "size": file.size, "truncate": lambda: file.truncate(3), "fsync": file.fsync, "map": file.map,
        "lock": lambda: file.lock(shared=True), "linked": file.linked, "rename": lambda: files.rename("/a", "/c"),
        "unlink": lambda: files.unlink("/c"), "sync_dir": lambda: files.sync_dir("/"),
        "listdir": lambda: files.listdir("/"), "exists": lambda: files.exists("/a"), "mkdir": lambda: files.mkdir("/e"),
        "space": lambda: files.space("/"),
    }
    if operation == "unlink":
        calls["rename"]()
    files.fail(operation, number=errno.EIO)
    with pytest.raises(StorageError) as error:
        calls[operation]()
    assert error.value.errno == errno.EIO
    calls[operation]()
    assert files.counts[operation] >= 2


def test_after_a_failed_fsync_nothing_is_known(files: CrashFiles) -> None:
    """The system may report success for pages that it has already given up: a retry proves nothing."""
    file = files.open("/a", "a")
    file.append(b"lost?")
    files.fail("fsync")
    with pytest.raises(StorageError):
        file.fsync()
    file.fsync()
    assert after(files, "drop") == {b"0123456789"}
    file.append(b"kept")
    file.fsync()
    assert after(files, "drop") == {b"0123456789" + bytes(5) + b"kept"}
    assert after(files, "reorder") == {b"0123456789" + bytes(5) + b"kept", b"0123456789lost?kept"}
    files.rename("/a", "/b")
    files.fail("sync_dir")
    with pytest.raises(StorageError):
        files.sync_dir("/")
    assert set(files.after_crash(0, "drop").tree()) == {"/a"}
    files.sync_dir("/")
    assert set(files.after_crash(0, "drop").tree()) == {"/b"}


def test_threads(files: CrashFiles) -> None:
    def write(number: int) -> None:
        for _ in range(50):
            file = files.open(f"/t{number}", "a")
            file.append(b"x" * number)
            file.fsync()
            files.sync_dir("/")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sizes = {path: len(data) for path, data in files.after_crash(0, "drop").tree().items()}
    assert sizes == {"/a": 10, "/t1": 50, "/t2": 100, "/t3": 150, "/t4": 200}
    assert files.counts["fsync"] == 1 + 200

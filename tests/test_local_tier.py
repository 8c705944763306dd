"""Blobs in a directory: written whole or not at all, and never a wrong byte handed out."""

from __future__ import annotations

import errno
import gc
import hashlib
import os
import resource
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from quidditch_core.errors import CorruptIndexError, IndexClosedError, InvalidNameError, StorageError
from quidditch_core.files import OS_FILES, PAGE_SIZE, Blob
from quidditch_core.tiering import Tier
from quidditch_core.tiering.local import LocalBlob, LocalTier

TAIL = 1000
COVERED = 3 * PAGE_SIZE + 12_345  # the last page is short


def page_crcs(data: bytes) -> NDArray[np.uint32]:
    pages = range(0, len(data), PAGE_SIZE)
    return np.array([zlib.crc32(data[page : page + PAGE_SIZE]) for page in pages], np.uint32)


@pytest.fixture
def tier(tmp_path: Path) -> Tier:
    return LocalTier(OS_FILES, str(tmp_path / "blobs"))


@pytest.fixture(scope="module")
def data() -> bytes:
    return np.random.default_rng(7).integers(0, 256, COVERED + TAIL, np.uint8).tobytes()


def opened(tier: Tier, data: bytes, size: int | None = None) -> Blob:
    blob = tier.open("seg-1", size)
    blob.set_checksums(page_crcs(data[:COVERED]), COVERED)
    return blob


def path_of(tmp_path: Path) -> Path:
    return tmp_path / "blobs" / "seg-1"


def test_write_and_open(tier: Tier, data: bytes) -> None:
    info = tier.write("seg-1", [data[:10], b"", bytearray(data[10:70_000]), memoryview(data)[70_000:]])
    tier.sync()
    assert (info.name, info.size, info.sha256) == ("seg-1", len(data), hashlib.sha256(data).hexdigest())
    blob = opened(tier, data, info.size)
    assert (blob.name, blob.size) == ("seg-1", len(data))
    assert blob.pread(COVERED, TAIL) == data[COVERED:]
    blob.need([(0, COVERED)])
    array = np.frombuffer(blob.view, np.uint8)
    assert array.tobytes() == data
    assert not array.flags.writeable
    assert blob.address == array.__array_interface__["data"][0]


def test_list_and_delete(tier: Tier, data: bytes) -> None:
    tier.sync()
    assert tier.list() == []
    assert tier.sweep() == 0
    for name in ("seg-2", "seg-10", "live-1"):
        tier.write(name, [b"x"])
    assert tier.list() == ["live-1", "seg-10", "seg-2"]
    tier.delete("seg-10")
    tier.delete("seg-10")
    assert tier.list() == ["live-1", "seg-2"]


@pytest.mark.parametrize("name", ["", "../up", "a/b", "/etc/passwd", "a.tmp", "UPPER"])
def test_bad_names_touch_nothing(tier: Tier, tmp_path: Path, name: str) -> None:
    for call in (lambda: tier.write(name, [b"x"]), lambda: tier.open(name), lambda: tier.delete(name)):
        with pytest.raises(InvalidNameError):
            call()
    assert os.listdir(tmp_path) == []


def test_a_blob_is_written_once(tier: Tier) -> None:
    tier.write("seg-1", [b"first"])
    with pytest.raises(StorageError, match="write a blob twice") as error:
        tier.write("seg-1", [b"second"])
    assert error.value.errno == errno.EEXIST
    assert tier.open("seg-1").pread(0, 5) == b"first"


def test_failed_write_leaves_nothing(tier: Tier, tmp_path: Path) -> None:
    """A real failure in the middle: the system lets no file grow past a limit."""
    def chunks() -> Iterator[bytes]:
        yield b"x" * 50_000
        assert os.listdir(tmp_path / "blobs") == ["seg-1.tmp"]
        assert tier.list() == []
        assert tier.sweep() == 0  # it is being written
        yield b"y" * 100_000

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(StorageError, match="ulimit -f") as error:
            tier.write("seg-1", chunks())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.errno == errno.EFBIG
    assert os.listdir(tmp_path / "blobs") == []

    with pytest.raises(ZeroDivisionError):
        tier.write("seg-1", (bytes([1 // n]) for n in (1, 0)))
    assert os.listdir(tmp_path / "blobs") == []
    tier.write("seg-1", [b"now it works"])


def test_sweep_removes_what_a_dead_writer_left(tier: Tier, tmp_path: Path) -> None:
    tier.write("seg-1", [b"x"])
    (tmp_path / "blobs" / "seg-2.tmp").write_bytes(b"half")
    assert tier.list() == ["seg-1"]
    assert tier.sweep() == 1
    assert os.listdir(tmp_path / "blobs") == ["seg-1"]
    tier.write("seg-2", [b"whole"])


def test_missing_empty_or_cut_file(tier: Tier, tmp_path: Path, data: bytes) -> None:
    with pytest.raises(CorruptIndexError, match="blob is missing"):
        tier.open("seg-1")
    tier.write("seg-1", [data])
    for size in (len(data) - 1, 1, 0):
        os.truncate(path_of(tmp_path), size)
        with pytest.raises(CorruptIndexError, match="wrong length") as error:
            tier.open("seg-1", len(data))
        assert str(path_of(tmp_path)) in str(error.value)
    with pytest.raises(CorruptIndexError, match="at least one"):
        tier.open("seg-1")


def test_pread_is_bounded(tier: Tier, data: bytes) -> None:
    tier.write("seg-1", [data])
    blob = tier.open("seg-1")
    assert blob.pread(len(data), 0) == b""
    for offset, size in ((-1, 2), (0, len(data) + 1), (len(data), 1), (5, -1), (2**63, 1)):
        with pytest.raises(CorruptIndexError, match="outside"):
            blob.pread(offset, size)


def test_file_cut_while_open(tier: Tier, tmp_path: Path, data: bytes) -> None:
    tier.write("seg-1", [data])
    blob = opened(tier, data)
    blob.need([(0, 1)])
    os.truncate(path_of(tmp_path), PAGE_SIZE + 5)
    with pytest.raises(CorruptIndexError, match=f"cut while open, offset {PAGE_SIZE}"):
        blob.need([(0, 2 * PAGE_SIZE)])


def test_ranges_outside_the_covered_part(tier: Tier, data: bytes) -> None:
    tier.write("seg-1", [data])
    blob = tier.open("seg-1")
    with pytest.raises(CorruptIndexError):
        blob.need([(0, 1)])  # nothing is verifiable before the codec has said how
    blob.set_checksums(page_crcs(data[:COVERED]), COVERED)
    blob.need([(COVERED, 0), (COVERED - 1, 1), (0, 0)])
    for offset, length in ((COVERED, 1), (0, COVERED + 1), (-1, 1), (1, -1), (0, 2**63), (2**64, 1)):
        with pytest.raises(CorruptIndexError, match="outside"):
            blob.need([(0, 1), (offset, length)])


def test_checksums_must_fit(tier: Tier, data: bytes) -> None:
    tier.write("seg-1", [data])
    blob = tier.open("seg-1")
    crcs = page_crcs(data[:COVERED])
    for wrong, covered in ((crcs[:-1], COVERED), (crcs, COVERED - PAGE_SIZE), (crcs, -1),
                           (page_crcs(data + bytes(PAGE_SIZE)), len(data) + PAGE_SIZE)):
        with pytest.raises(CorruptIndexError, match="checksums"):
            blob.set_checksums(wrong, covered)


def test_damage_is_found_in_its_page(tier: Tier, tmp_path: Path, data: bytes) -> None:
    """First, middle and last byte of every page; the other pages stay readable; nothing is found twice."""
    tier.write("seg-1", [data])
    pages = len(page_crcs(data[:COVERED]))
    for page in range(pages):
        start, end = page * PAGE_SIZE, min((page + 1) * PAGE_SIZE, COVERED)
        for offset in (start, (start + end) // 2, end - 1):
            with open(path_of(tmp_path), "r+b") as file:
                file.seek(offset)
                file.write(bytes([data[offset] ^ 1 << offset % 8]))
            blob = opened(tier, data, len(data))
            blob.need((other * PAGE_SIZE, 1) for other in range(pages) if other != page)
            for _ in range(2):
                with pytest.raises(CorruptIndexError) as error:
                    blob.need([(offset, 1)])
                text = str(error.value)
                assert f"page {page} " in text
                assert f"offset {start} " in text
                assert str(path_of(tmp_path)) in text
            with pytest.raises(CorruptIndexError, match=f"page {page} "):
                blob.need([(0, COVERED)])
            with open(path_of(tmp_path), "r+b") as file:
                file.seek(offset)
                file.write(data[offset : offset + 1])
            blob.need([(0, COVERED)])  # a page that failed is read again, not remembered as good or bad


def test_a_page_is_verified_once(tier: Tier, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    tier.write("seg-1", [data])
    blob = opened(tier, data)
    reads: list[int] = []
    pread = LocalBlob.pread

    def counted(self: LocalBlob, offset: int, size: int) -> bytes:
        reads.append(offset)
        return pread(self, offset, size)

    monkeypatch.setattr(LocalBlob, "pread", counted)
    blob.need([(PAGE_SIZE - 1, 2)])
    assert reads == [0, PAGE_SIZE]
    blob.need([(0, 2 * PAGE_SIZE), (5, 5)])
    assert len(reads) == 2
    blob.need([(0, COVERED)])
    assert reads[2:] == [2 * PAGE_SIZE, 3 * PAGE_SIZE]


def test_need_of_verified_pages_is_cheap(tier: Tier, data: bytes) -> None:
    tier.write("seg-1", [data])
    blob = opened(tier, data)
    ranges = [(100, 2 * PAGE_SIZE)]
    blob.need(ranges)
    best = 1.0
    for _ in range(50):
        start = time.perf_counter()
        for _ in range(100):
            blob.need(ranges)
        best = min(best, (time.perf_counter() - start) / 100)
    assert best < 2e-6  # measured 0.2 µs; the slack is for a busy machine


def test_arrays_outlive_blob_and_file(tier: Tier, data: bytes) -> None:
    tier.write("seg-1", [data])
    blob = opened(tier, data)
    blob.need([(0, COVERED)])
    view, array = blob.view, np.frombuffer(blob.view, np.uint8, 1000, 64)
    blob.close()
    blob.close()
    tier.delete("seg-1")
    gc.collect()
    assert bytes(view) == data
    assert array.tobytes() == data[64:1064]
    assert blob.view == data
    assert blob.address + 64 == array.__array_interface__["data"][0]
    for call in (lambda: blob.need([(0, 1)]), lambda: blob.pread(0, 1),
                 lambda: blob.set_checksums(np.zeros(0, np.uint32), 0)):
        with pytest.raises(IndexClosedError):
            call()


def test_no_descriptor_leaks(tier: Tier, data: bytes) -> None:
    def count() -> int:
        gc.collect()
        return len(os.listdir("/dev/fd"))

    tier.write("seg-1", [data])
    before = count()
    for closing in (True, False) * 10:
        blob = opened(tier, data)
        blob.need([(0, COVERED)])
        if closing:
            blob.close()
        del blob
        assert count() == before
    with pytest.raises(CorruptIndexError):
        tier.open("seg-1", 5)
    assert count() == before


def test_threads_share_a_blob(tier: Tier, data: bytes) -> None:
    tier.write("seg-1", [data])
    failures: list[BaseException] = []

    def search(blob: Blob, view: memoryview, seed: int) -> None:
        random = np.random.default_rng(seed)
        try:
            for _ in range(200):
                offset = int(random.integers(0, COVERED))
                end = int(random.integers(offset, COVERED))
                blob.need([(offset, end - offset)])
                assert view[offset:end] == data[offset:end]
        except IndexClosedError:
            closed.append(seed)
        except BaseException as error:
            failures.append(error)

    for closing in (False, True):
        closed: list[int] = []
        blob = opened(tier, data)
        threads = [threading.Thread(target=search, args=(blob, blob.view, seed)) for seed in range(4)]
        for thread in threads:
            thread.start()
        if closing:
            blob.close()
        for thread in threads:
            thread.join()
        assert not failures
        assert closing or not closed

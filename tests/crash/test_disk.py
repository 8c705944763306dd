"""Disks that refuse: each call of a history fails, and a real file system gets full or turns read-only.

More: ``python -m tests.crash.disk --pairs 10000``.
"""

from __future__ import annotations

import os
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import quidditch_core as qc
from quidditch_core import query
from quidditch_core.errors import DiskFullError, StorageError, WriterFailedError
from tests.crash import disk

TO_THE_LAST_BYTE = {f"cluster.routing.allocation.disk.watermark.{level}": "0b"
                    for level in ("low", "high", "flood_stage")}


def test_every_call_fails() -> None:
    report = disk.run(disk.singles())
    print(report)
    assert not report.broken, report
    assert report.trials > 500


def test_pairs_of_calls_fail() -> None:
    report = disk.run(disk.pairs(100, seed=0))
    print(report)
    assert not report.broken, report


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 3 MiB; skips where this process may not mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "quidditch-test", str(place)]
    try:
        refused = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if refused.returncode:
        pytest.skip(f"may not mount a file system: {refused.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)  # maps of closed readers may still be there


def document(number: int) -> dict[str, Any]:
    return {"id": f"d{number}", "body": f"sea word{number} {os.urandom(200).hex()}"}


def fill(index: Any) -> tuple[int, Exception]:
    """Bulk until the disk refuses; how many documents were acknowledged, and what it said."""
    acknowledged = 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "quidditch: ")
        while True:
            try:
                index.bulk((document(acknowledged + i) for i in range(100)), id="id")
            except (StorageError, WriterFailedError, DiskFullError) as error:
                return acknowledged, error
            acknowledged += 100


def check_whole(index: Any, acknowledged: int) -> None:
    """All acknowledged documents are there, by id and by search; of the batch that failed all or none."""
    index.refresh()
    assert index.count() in (acknowledged, acknowledged + 100)
    assert index.count(query.Match("body", "sea")) == index.count()
    for number in range(acknowledged):
        assert index.get(f"d{number}") is not None, number


@pytest.mark.parametrize("durability", ["request", "async"])
def test_a_full_disk(small_disk: Path, durability: str) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2 << 20))
    path = small_disk / "index"
    index = qc.create(path, settings={"index.translog.durability": durability, **TO_THE_LAST_BYTE})
    acknowledged, error = fill(index)
    assert acknowledged > 0
    if isinstance(error, StorageError):
        assert "ENOSPC" in str(error)
        assert "free space" in str(error)
    check_whole(index, acknowledged)
    with pytest.raises((StorageError, WriterFailedError, DiskFullError)):
        index.bulk(map(document, range(10**6, 10**6 + 10_000)), id="id")
    check_whole(index, acknowledged)
    ballast.unlink()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "quidditch: ")
        with suppress(StorageError, WriterFailedError):
            index.close()
    with qc.open(path) as again:
        check_whole(again, acknowledged)
        again.put("after", {"body": "sea"})
        again.flush()
        assert again.check().ok
    with qc.open(path) as again:
        assert again.get("after") is not None


def test_a_full_disk_that_is_made_room_on(small_disk: Path) -> None:
    """A log that could not grow is as it was before: the writer goes on, without being opened again."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2 << 20))
    with qc.create(small_disk / "index", settings=TO_THE_LAST_BYTE) as index:
        acknowledged, error = fill(index)
        assert isinstance(error, StorageError | DiskFullError)
        ballast.unlink()
        index.put("after", {"body": "sea"})
        index.flush()
        index.refresh()
        assert index.count() == acknowledged + 1


def test_a_disk_that_turns_read_only(small_disk: Path) -> None:
    path = small_disk / "index"
    with qc.create(path) as index:
        index.put("a", {"body": "sea"})
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StorageError, match="EROFS") as refused:
        qc.open(path)
    assert "read_only=True" in str(refused.value)
    with pytest.raises(StorageError, match="EROFS"):
        qc.create(small_disk / "other")
    with qc.open(path, read_only=True) as reader:
        assert reader.count(query.Match("body", "sea")) == 1
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    with qc.open(path) as index:
        assert index.put("b", {"body": "sea"}).seq_no == 1

"""Watermarks: the disk is watched, and a disk that is too full takes no more writes, but answers and recovers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import quidditch_core as qc
from quidditch_core import query as q
from quidditch_core.config import Settings
from quidditch_core.errors import DiskFullError
from quidditch_core.files import OsFiles
from quidditch_core.index.disk import DiskWatch, DiskWatermarkWarning
from quidditch_core.index.facade import _create
from quidditch_core.mapping import Mapping

GIB = 1 << 30


class Disk(OsFiles):
    """The real file system, on a disk as full as a test wants it."""

    def __init__(self) -> None:
        self.free = 50 * GIB

    def space(self, path: str) -> tuple[int, int]:
        assert super().space(path)[0] > 0
        return 100 * GIB, self.free


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def index(disk: Disk, tmp_path: Any) -> Iterator[Any]:
    made = _create(disk, str(tmp_path / "index"), Mapping(), Settings.from_dict({"refresh_interval": "-1"}))
    yield made
    made.close()


def test_flood_stage_refuses_writes_and_nothing_else(index: Any, disk: Disk) -> None:
    index.put("a", {"body": "whale"})
    index.refresh()
    disk.free = 4 * GIB
    index._disk._looked = -10.0
    with pytest.warns(DiskWatermarkWarning, match="flood_stage"), pytest.raises(DiskFullError, match="make space"):
        index.put("b", {"body": "whale"})
    for write in (lambda: index.delete("a"), lambda: index.update("a", {"n": 1}), lambda: index.bulk([{"n": 1}])):
        with pytest.raises(DiskFullError):
            write()
    assert index.count(q.Match("body", "whale")) == 1
    assert index.get("b") is None
    assert index.stats()["disk"]["level"] == "flood_stage"
    index.flush()
    disk.free = 50 * GIB
    index.put("b", {"body": "whale"})  # at once: a full disk is looked at each time
    index.refresh()
    assert index.count(q.Match("body", "whale")) == 2


def test_low_warns_once(index: Any, disk: Disk) -> None:
    disk.free = 12 * GIB
    index._disk._looked = -10.0
    with pytest.warns(DiskWatermarkWarning, match="low"):
        index.put("a", {})
    index.put("b", {})
    assert index.stats()["disk"]["level"] == "low"


def test_absolute_watermarks(disk: Disk, tmp_path: Any) -> None:
    marks = {"low": "30gb", "high": "20gb", "flood_stage": "10gb"}
    settings = Settings.from_dict({f"cluster.routing.allocation.disk.watermark.{k}": v for k, v in marks.items()})
    now = [0.0]
    watch = DiskWatch(disk, str(tmp_path), clock=lambda: now[0])
    for free, level in ((50, "ok"), (30, "low"), (20, "high")):
        disk.free = free * GIB
        now[0] += 1
        if level == "low":
            with pytest.warns(DiskWatermarkWarning):
                watch.check(settings)
        else:
            watch.check(settings)
        assert watch.level == level
    disk.free = 10 * GIB
    now[0] += 1
    with pytest.raises(DiskFullError):
        watch.check(settings)


def test_the_real_disk_is_looked_at(tmp_path: Any) -> None:
    with qc.create(tmp_path / "index") as index:
        index.put("a", {})
        disk = index.stats()["disk"]
        assert 0 < disk["free"] <= disk["total"]

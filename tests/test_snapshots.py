"""Snapshots: what they keep, what they share, and that neither a crash nor another machine harms one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import quidditch_core as qc
from quidditch_core import query as q
from quidditch_core.errors import (
    ConflictError,
    CorruptIndexError,
    FormatError,
    IndexExistsError,
    InvalidNameError,
    NotFoundError,
    ReadOnlyError,
    SettingsError,
    UnsupportedError,
)
from quidditch_core.files import OS_FILES
from quidditch_core.index import snapshot as module
from quidditch_core.index.snapshot import Repository, SnapshotInfo, expired
from quidditch_core.tiering import cache, remote
from quidditch_core.tiering.store import FsspecStore
from quidditch_core.tiering.testing import CountingStore, Crashed, DyingStore
from tests import s3

MAPPING = {"properties": {"text": {"type": "text"}, "n": {"type": "integer"}}}
MANUAL = {"index.refresh_interval": -1}


@pytest.fixture(autouse=True)
def _no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLE", 0.0)


@pytest.fixture(params=["directory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any]]:
    """URL and storage options of an empty repository."""
    if request.param == "directory":
        return str(tmp_path / "repository"), {}
    server = request.getfixturevalue("s3_server")
    return f"s3://{s3.BUCKET}/{tmp_path.name}", s3.options(server)


def filled(path: Path, count: int = 30) -> qc.Index:
    """Two segments, one of them with deleted documents, and an update in the log."""
    index = qc.create(path, MAPPING, settings=MANUAL)
    index.bulk([{"id": str(n), "text": f"word{n % 7} all", "n": n} for n in range(count)], id="id")
    index.flush()
    index.bulk([{"id": str(n), "text": "late all", "n": n} for n in range(count, count + 10)], id="id")
    index.delete("3")
    index.put("5", {"text": "anew all", "n": 500})
    return index


def contents(index: qc.Index) -> dict[str, Any]:
    return {hit.id: (hit.source, hit.score) for hit in index.search(q.Match("text", "all"), size=1000)}


def objects(store: Any) -> list[str]:
    return [key for key in store.list() if key.startswith("blobs/")]


def test_a_snapshot_is_what_was_written(place: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    url, options = place
    repository = Repository(url, storage_options=options)
    with filled(tmp_path / "books") as index:
        info = index.snapshot(url, name="monday", storage_options=options)
        assert (info.name, info.index, info.docs, info.uploaded) == ("monday", "books", 39, info.blobs)
        expected = contents(index)
        again = index.snapshot(url, name="tuesday", storage_options=options)
        assert (again.uploaded, again.blobs) == (0, info.blobs)
        index.put("new", {"text": "since then all", "n": 1})
        index.delete("6")
        later = index.snapshot(url, name="wednesday", storage_options=options)
        assert 0 < later.uploaded < later.blobs
        newest = contents(index)
        with pytest.raises(ConflictError, match="already"):
            index.snapshot(url, name="monday", storage_options=options)
    assert [each.name for each in repository.snapshots()] == ["monday", "tuesday", "wednesday"]
    assert repository.snapshots()[0] == info
    assert repository.verify("monday").ok
    with qc.restore(f"{url}#monday", tmp_path / "restored", storage_options=options) as restored:
        assert contents(restored) == expected
        assert restored.check().ok
        restored.put("mine", {"text": "all", "n": 2})
        assert restored.get("mine") is not None
        assert restored.delete("5").result == "deleted"
    with qc.open(tmp_path / "restored") as restored:
        assert len(contents(restored)) == 39
    with qc.restore(f"{url}#wednesday", tmp_path / "renamed", storage_options=options) as restored:
        assert contents(restored) == newest
    gone = repository.delete("wednesday")
    assert len(gone) == later.uploaded
    assert repository.verify("monday").ok
    assert repository.verify("tuesday").ok
    assert len(repository.delete("monday", "tuesday")) == info.blobs
    assert objects(repository._store) == []
    assert repository.snapshots() == []


def test_an_empty_index_and_a_read_only_one(tmp_path: Path) -> None:
    with qc.create(tmp_path / "empty", MAPPING, settings=MANUAL) as index:
        assert index.snapshot(tmp_path / "repository", name="nothing").blobs == 0
    with qc.restore(f"{tmp_path}/repository#nothing", tmp_path / "again") as index:
        assert index.count() == 0
    filled(tmp_path / "books").close()
    with qc.open(tmp_path / "books", read_only=True) as index:
        assert index.snapshot(tmp_path / "repository", name="some", base_path="deep/er").docs == 39
    assert [each.name for each in Repository(tmp_path / "repository").snapshots()] == ["nothing"]
    assert [each.name for each in Repository(tmp_path / "repository", base_path="deep/er").snapshots()] == ["some"]


def test_a_snapshot_is_searched_where_it_is(place: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    url, options = place
    with filled(tmp_path / "books", 2000) as index:
        index.snapshot(url, name="monday", storage_options=options)
        expected = contents(index)
        ordered = [hit.id for hit in index.search(q.Range("n", gte=1900), sort=["-n"], size=50)]
        phrases = index.count(q.MatchPhrase("text", "word3 all"))
    with qc.open(f"{url}#monday", read_only=True, storage_options=options) as there:
        assert contents(there) == expected
        assert [hit.id for hit in there.search(q.Range("n", gte=1900), sort=["-n"], size=50)] == ordered
        assert there.count(q.MatchPhrase("text", "word3 all")) == phrases
        assert {info.tier for info in there.segments()} == {"cold"}
        body = {"size": 0, "aggs": {"most": {"max": {"field": "n"}}}}
        assert there.search(body).aggs["most"]["value"] == 2009
        found = there.get("5")
        assert found is not None
        assert found.source["n"] == 500
        assert there.get("3") is None
        there.refresh()
        with pytest.raises(ReadOnlyError):
            there.put("1", {"text": "all"})
        for call in (there.check, lambda: there.snapshot(url, storage_options=options)):
            with pytest.raises(UnsupportedError):
                call()
    with pytest.raises(NotFoundError):
        qc.open(f"{url}#tuesday", read_only=True, storage_options=options)


def test_a_snapshot_opens_in_one_round_and_is_searched_in_three(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with filled(tmp_path / "books", 2000) as index:
        index.snapshot(tmp_path / "repository", name="monday")
        assert len(index.segments()) == 2
        expected = contents(index)
    far = CountingStore(FsspecStore(str(tmp_path / "repository")))
    memory = remote.Memory(remote.MEMORY.limit)
    monkeypatch.setattr(remote, "MEMORY", memory)
    source = module.Searchable(Repository("", store=far), "monday")
    with qc.Index(OS_FILES, source.url, source=source) as there:
        assert far.calls == {"get": 1, "read": 1}, "the snapshot, and tails and live masks together"
        far.calls.clear()
        assert contents(there) == expected
        assert {*far.calls} == {"read"}
        assert far.calls["read"] <= 3
        memory.empty()
        assert contents(there) == expected, "also when the memory was needed for something else"
    cache.delete()


def test_segments_of_all_tiers(tmp_path: Path) -> None:
    tiers = qc.Tiers(warm=str(tmp_path / "warm"), cold=f"file://{tmp_path}/cold")
    with qc.create(tmp_path / "books", MAPPING, settings=MANUAL, tiers=tiers) as index:
        for tier in ("cold", "warm", "hot"):
            index.bulk([{"id": f"{tier}{n}", "text": "all", "n": n} for n in range(20)], id="id")
            index.flush()
            if tier != "hot":
                index.move(to=tier, segments=[info.name for info in index.segments() if info.tier == "hot"])
        index.delete("cold3")
        index.refresh()
        expected = contents(index)
        assert {info.tier for info in index.segments()} == {"hot", "warm", "cold"}
        assert index.snapshot(tmp_path / "repository", name="all").docs == 59
    with qc.restore(f"{tmp_path}/repository#all", tmp_path / "restored") as restored:
        assert contents(restored) == expected
        assert {info.tier for info in restored.segments()} == {"hot"}
        assert restored.check().ok
        assert restored.delete("cold4").result == "deleted"


def test_writing_goes_on(tmp_path: Path) -> None:
    """Each snapshot is one moment of the index, however much is written, flushed and merged meanwhile."""
    stop = threading.Event()
    with qc.create(tmp_path / "books", MAPPING, settings={"index.refresh_interval": "50ms"}) as index:
        def write() -> None:
            number = 0
            while not stop.is_set():
                for text in ("left all", "right all"):  # pairs: a moment between operations has at most one alone
                    index.put(f"{text[0]}{number % 50}", {"text": text, "n": number})
                number += 1
                if number % 40 == 0:
                    index.merge()

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for turn in range(6):
                index.snapshot(tmp_path / "repository", name=f"turn-{turn}")
                time.sleep(0.05)
        finally:
            stop.set()
            writer.join()
    for turn in range(6):
        with qc.restore(f"{tmp_path}/repository#turn-{turn}", tmp_path / f"turn-{turn}") as restored:
            assert restored.check().ok
            left, right = ({hit.id[1:]: hit.source["n"] for hit in restored.search(q.Match("text", side), size=100)}
                           for side in ("left", "right"))
            different = {key for key in left if left[key] != right.get(key)}
            assert len(different) <= 1
    assert all(Repository(tmp_path / "repository").verify(f"turn-{turn}").ok for turn in range(6))


@pytest.mark.parametrize("after", [False, True])
def test_a_snapshot_that_stops_anywhere_is_not_there(tmp_path: Path, after: bool) -> None:
    store = FsspecStore(str(tmp_path / "repository"))
    with filled(tmp_path / "books") as index:
        Repository("", store=store).snapshot(index, "first")
        index.put("more", {"text": "all", "n": 1})
        for call in range(1, 100):
            try:
                Repository("", store=DyingStore(store, call, after=after)).snapshot(index, "second")
            except Crashed:
                there = [info.name for info in Repository("", store=store).snapshots()]
                if there == ["first", "second"]:  # all was done but for the last tidying
                    break
                assert there == ["first"]
            else:
                break
        assert call > 6
        assert all(Repository("", store=store).verify(name).ok for name in ("first", "second"))
        Repository("", store=store).snapshot(index, "third")
    whole = Repository("", store=store)
    whole.delete("first", "second", "third")
    for key in store.list("pending"):  # what dead ones relied on goes a week later
        data = store.get(key)
        assert data is not None
        store.put(key, [data.replace(b'"since":1', b'"since":-1')])
    whole.collect_garbage()
    assert objects(store) == []
    assert store.list() == []


@pytest.mark.parametrize("after", [False, True])
def test_removing_that_stops_anywhere_harms_nothing(
    tmp_path: Path, after: bool, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "WAIT", 0.0)
    store = FsspecStore(str(tmp_path / "repository"))
    with filled(tmp_path / "books") as index:
        for call in range(1, 60):
            for name in ("kept", "gone"):
                if store.size(f"snapshots/{name}.json") is None:
                    Repository("", store=store).snapshot(index, name)
                index.put(name, {"text": "all", "n": call})
            try:
                Repository("", store=DyingStore(store, call, after=after)).delete("gone")
                break
            except Crashed:
                assert Repository("", store=store).verify("kept").ok
            left = store.get("gc.json")
            if left is not None and b"a dead one" not in left:
                with pytest.raises(ConflictError, match="removes blobs"):
                    Repository("", store=store).snapshot(index, "meanwhile")
                with pytest.raises(ConflictError, match="removes blobs"):
                    Repository("", store=store).collect_garbage()
                store.put("gc.json", [b'{"since":1,"who":"a dead one"}'])
        assert call > 6


TURNS = """
import sys
import quidditch_core as qc
from quidditch_core.errors import ConflictError, NotFoundError
from quidditch_core.index import snapshot
snapshot.SETTLE = 0.0
path, url, who, turns = sys.argv[1:]
repository = qc.Repository(url)
with qc.open(path) as index:
    for turn in range(int(turns)):
        index.put("same", {"text": "all", "n": turn % 3})   # the same blobs come and go on both sides
        index.merge()
        index.snapshot(url, name=f"{who}-{turn}")
        if turn > 1:
            try:
                repository.delete(f"{who}-{turn - 2}")
            except ConflictError:
                pass
"""


def test_two_machines_do_not_harm_each_other(tmp_path: Path, python_env: dict[str, str]) -> None:
    """Two processes make and delete snapshots of equal indexes in one repository, all at once."""
    url = str(tmp_path / "repository")
    filled(tmp_path / "one").close()
    for name in ("a", "b"):
        with filled(tmp_path / "source") as source:
            source.snapshot(url, name=f"seed-{name}")
        qc.restore(f"{url}#seed-{name}", tmp_path / name).close()
        for file in sorted((tmp_path / "source").rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
    children = [subprocess.Popen([sys.executable, "-c", TURNS, str(tmp_path / name), url, name, "12"], env=python_env,
                                 stderr=subprocess.PIPE, text=True) for name in ("a", "b")]
    for child in children:
        _, said = child.communicate(timeout=120)
        assert child.returncode == 0, said
    repository = Repository(url)
    names = [info.name for info in repository.snapshots()]
    assert {"a-10", "a-11", "b-10", "b-11"} <= set(names)
    assert all(repository.verify(name).ok for name in names)


AGAIN = """
import sys
import quidditch_core as qc
with qc.open(sys.argv[1]) as index:
    print("go", flush=True)
    for n in range(10_000):
        index.put("x", {"text": "all", "n": n})
        index.snapshot(sys.argv[2], name=f"s{n}")
"""


def test_a_killed_snapshot_is_not_there(tmp_path: Path, python_env: dict[str, str]) -> None:
    url = str(tmp_path / "repository")
    rng = Random(1)
    filled(tmp_path / "books", 3000).close()
    for _ in range(5):
        child = subprocess.Popen([sys.executable, "-c", AGAIN, str(tmp_path / "books"), url], env=python_env,
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        with child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(rng.uniform(0, 0.4))
            child.send_signal(signal.SIGKILL)
        repository = Repository(url)
        for info in repository.snapshots():
            assert repository.verify(info.name).ok
        if repository.snapshots():
            repository.delete(*(info.name for info in repository.snapshots()))


def test_damage_is_noticed(tmp_path: Path) -> None:
    url = tmp_path / "repository"
    with filled(tmp_path / "books") as index:
        index.snapshot(url, name="monday")
    repository = Repository(url)
    blobs = sorted((url / "blobs").iterdir())
    largest = max(blobs, key=lambda path: path.stat().st_size)
    raw = largest.read_bytes()
    largest.write_bytes(raw[:100] + bytes([raw[100] ^ 1]) + raw[101:])
    assert len(repository.verify("monday").problems) == 1
    with pytest.raises(CorruptIndexError, match="not what the manifest says"):
        qc.restore(f"{url}#monday", tmp_path / "restored")
    assert not any(path.is_file() for path in (tmp_path / "restored").rglob("*"))
    for other in (raw[:-1], raw + b"x"):
        largest.write_bytes(other)
        assert len(repository.verify("monday").problems) == 1
        with pytest.raises(CorruptIndexError, match="missing or has a wrong length"):
            qc.restore(f"{url}#monday", tmp_path / "restored")
    largest.unlink()
    assert len(repository.verify("monday").problems) == 1
    record = url / "snapshots" / "monday.json"
    whole = record.read_bytes()
    for at in range(0, len(whole), 7):
        record.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises((CorruptIndexError, FormatError)):
            repository.snapshots()
        record.write_bytes(whole[:at])
        with pytest.raises(CorruptIndexError):
            repository.snapshots()
    with pytest.raises(CorruptIndexError):
        repository.collect_garbage()
    repository.delete("monday")
    assert repository.snapshots() == [] == list((url / "blobs").iterdir())


def test_damage_at_home_does_not_get_into_a_snapshot(tmp_path: Path) -> None:
    with filled(tmp_path / "books") as index:
        index.flush()
        segment = max((tmp_path / "books" / "segments").iterdir(), key=lambda path: path.stat().st_size)
        raw = segment.read_bytes()
        with segment.open("r+b") as file:
            file.seek(50)
            file.write(bytes([raw[50] ^ 255]))
        with pytest.raises(CorruptIndexError):
            index.snapshot(tmp_path / "repository", name="bad")
    assert Repository(tmp_path / "repository").snapshots() == []


infos = st.lists(st.integers(0, 100), max_size=12, unique=True).map(lambda days: [
    SnapshotInfo(name=f"d{day}", index="books", created_ms=day * 86_400_000, docs=1, bytes=1, blobs=1) for day in days])


@given(infos, st.none() | st.integers(0, 60), st.integers(0, 5), st.none() | st.integers(5, 9))
def test_retention(found: list[SnapshotInfo], days: int | None, min_count: int, max_count: int | None) -> None:
    now = 100 * 86_400_000
    going = expired(found, now, None if days is None else days * 86_400.0, min_count, max_count)
    staying = [info for info in found if info.name not in going]
    assert len(staying) >= min(min_count, len(found))
    newest = sorted(found, key=lambda info: -info.created_ms)
    assert {info.name for info in newest[:min_count]} & set(going) == set()
    if max_count is not None:
        assert len(staying) <= max_count
    for rank, info in enumerate(newest[min_count:], min_count):
        old = days is not None and 100 - info.created_ms // 86_400_000 > days
        assert (info.name in going) == (old or (max_count is not None and rank >= max_count))
    assert going == sorted(going, key=lambda name: int(name[1:]))


def test_expire(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository")
    with filled(tmp_path / "books") as index, filled(tmp_path / "films") as other:
        for number in range(4):
            index.put("x", {"text": "all", "n": number})
            repository.snapshot(index, f"b{number}")
        repository.snapshot(other, "f0")
    assert repository.expire(expire_after=0, min_count=1, dry_run=True) == ["b0", "b1", "b2"]
    assert len(repository.snapshots()) == 5
    assert repository.expire(max_count=3, index="books") == ["b0"]
    assert repository.expire(expire_after="1d") == []
    assert repository.expire(expire_after=0, min_count=1) == ["b1", "b2"]
    assert [info.name for info in repository.snapshots()] == ["b3", "f0"]
    assert all(repository.verify(name).ok for name in ("b3", "f0"))


def test_bad_input(tmp_path: Path) -> None:
    with filled(tmp_path / "books") as index:
        for name in ("", "Über", "../x", "a" * 201, "-x"):
            with pytest.raises(InvalidNameError):
                index.snapshot(tmp_path / "repository", name=name)
        info = index.snapshot(tmp_path / "repository")
        assert info.name[:2] == "20"
    repository = Repository(tmp_path / "repository")
    for call in (repository.verify, repository.delete, repository.manifest):
        with pytest.raises(NotFoundError, match="no such snapshot"):
            call("absent")
    with pytest.raises(NotFoundError):
        qc.restore(f"{tmp_path}/repository#absent", tmp_path / "restored")
    with pytest.raises(InvalidNameError, match="URL#name"):
        qc.restore(tmp_path / "repository", tmp_path / "restored")
    with pytest.raises(IndexExistsError):
        qc.restore(f"{tmp_path}/repository#{info.name}", tmp_path / "books")
    for arguments in ({"min_count": -1}, {"max_count": 0}, {"min_count": 3, "max_count": 2}, {"expire_after": "soon"}):
        with pytest.raises(SettingsError):
            repository.expire(**arguments)
    assert os.listdir(tmp_path / "repository" / "snapshots") == [f"{info.name}.json"]

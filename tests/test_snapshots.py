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


def noise(count: int) -> list[dict[str, Any]]:
    """Documents that hardly compress."""
    return [{"id": str(n), "text": f"all {Random(n).randbytes(40).hex()}", "n": n} for n in range(count)]


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


def test_a_killed_snapshot_is_not_there(
    place: tuple[str, dict[str, Any]], tmp_path: Path, python_env: dict[str, str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, options = place
    if options:
        for name, value in s3.environment(options["endpoint_url"]).items():
            monkeypatch.setenv(name, value)
    rng = Random(1)
    filled(tmp_path / "books", 3000).close()
    repository, found = Repository(url, storage_options=options), 0
    for _ in range(5):
        child = subprocess.Popen([sys.executable, "-c", AGAIN, str(tmp_path / "books"), url],
                                 env={**python_env, **os.environ}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                 text=True)
        with child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(rng.uniform(0, 1.5 if options else 0.4))
            child.send_signal(signal.SIGKILL)
        infos = repository.snapshots()
        found += len(infos)
        for info in infos:
            assert repository.verify(info.name).ok
        if infos:
            repository.delete(*(info.name for info in infos))
    assert found
    later = time.time() + 8 * 86_400
    monkeypatch.setattr("quidditch_core.index.snapshot.time.time", lambda: later)
    repository.collect_garbage()
    assert repository._store.list() == []
    assert not [path for path in (tmp_path / "repository").rglob("*") if path.is_file()]


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
        for damaged in (whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :], whole[:at]):
            record.write_bytes(damaged)
            with pytest.raises((CorruptIndexError, FormatError)):
                repository.verify("monday")
            assert [(info.name, info.index) for info in repository.snapshots()] == [("monday", "")]
            assert "monday" in str(repository.snapshots()[0].problem)


def test_one_damaged_record_does_not_hide_the_others(tmp_path: Path) -> None:
    url = tmp_path / "repository"
    repository = Repository(url)
    with filled(tmp_path / "books") as index:
        for name in ("monday", "tuesday", "wednesday"):
            repository.snapshot(index, name)
            index.put("more", {"text": name, "n": 1})
    blobs = {path.name for path in (url / "blobs").iterdir()}
    (url / "snapshots" / "monday.json").write_bytes(b"nothing that could be read")
    assert [(info.name, info.problem is None) for info in repository.snapshots()] == [
        ("monday", False), ("tuesday", True), ("wednesday", True)]
    assert repository.expire(expire_after=0, min_count=1, dry_run=True) == ["tuesday"], "it is not counted"
    for call in (repository.collect_garbage, lambda: repository.delete("tuesday")):
        with pytest.raises(CorruptIndexError, match="delete the snapshot monday"):
            call()
    assert {path.name for path in (url / "blobs").iterdir()} == blobs, "nobody knows which of them monday has"
    repository.delete("monday")
    assert repository.verify("wednesday").ok
    assert {path.name for path in (url / "blobs").iterdir()} < blobs
    repository.delete("wednesday")
    assert repository.snapshots() == [] == list((url / "blobs").iterdir())


def test_a_damaged_blob_is_replaced_by_a_snapshot_that_looks(tmp_path: Path) -> None:
    url = tmp_path / "repository"
    with filled(tmp_path / "books") as index:
        Repository(url, chunk_size="64kb").snapshot(index, "monday")
        for number, blob in enumerate(sorted((url / "blobs").iterdir())):
            raw = blob.read_bytes()
            if number:
                blob.write_bytes(raw[:20] + bytes([raw[20] ^ 1]) + raw[21:])
            else:
                blob.unlink()
        assert len(Repository(url).verify("monday").problems) == number + 1
        assert Repository(url).snapshot(index, "tuesday").uploaded == 1, "that which is missing"
        assert len(Repository(url).verify("monday").problems) == number
        assert Repository(url).snapshot(index, "wednesday", verify=True).uploaded == number
    assert all(Repository(url).verify(name).ok for name in ("monday", "tuesday", "wednesday"))


def test_what_a_kill_left_goes_a_week_later(tmp_path: Path) -> None:
    url = tmp_path / "repository"
    repository = Repository(url)
    with filled(tmp_path / "books") as index:
        repository.snapshot(index, "monday")
    left = url / "blobs" / f"{'0' * 64}-{'1' * 32}.tmp"
    left.write_bytes(b"half")
    probe = url / "probes" / f"{int(time.time() - 8 * 86_400)}-{'1' * 32}"
    probe.parent.mkdir(exist_ok=True)
    probe.write_bytes(b"1")
    repository.collect_garbage()
    assert (left.exists(), probe.exists()) == (True, False), "who writes it may be alive"
    os.utime(left, (time.time() - 8 * 86_400,) * 2)
    repository.collect_garbage()
    assert not left.exists()
    assert repository.verify("monday").ok


def test_blobs_in_pieces(place: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    """No object is larger than asked for; snapshots with other sizes share what there is, and nothing is left over."""
    url, options = place
    whole = Repository(url, storage_options=options)
    cut = Repository(url, storage_options=options, chunk_size="64kb", compress=False)
    with qc.create(tmp_path / "books", MAPPING, settings=MANUAL) as index:
        index.bulk(noise(3000), id="id")
        info = cut.snapshot(index, "cut")
        expected = contents(index)
        sizes = [whole._store.size(key) for key in objects(whole._store)]
        assert max(sizes) == 64 << 10
        assert len(sizes) > info.blobs
        assert cut.snapshot(index, "again").uploaded == 0
        assert whole.snapshot(index, "whole").uploaded == 1
        assert cut.snapshot(index, "both").uploaded == 0
    ordered = {"query": {"match": {"text": "all"}}, "sort": [{"n": "desc"}], "size": 20}
    for name in ("cut", "whole", "both"):
        assert whole.verify(name).ok
        with qc.open(f"{url}#{name}", read_only=True, storage_options=options) as there:
            assert contents(there) == expected
            assert [hit.source["n"] for hit in there.search(ordered)] == list(range(2999, 2979, -1))
        with qc.restore(f"{url}#{name}", tmp_path / name, storage_options=options) as restored:
            assert contents(restored) == expected
    whole.delete("cut", "again", "both")
    assert len(objects(whole._store)) == 1
    assert whole.verify("whole").ok
    whole.delete("whole")
    assert whole._store.list() == []


def test_a_piece_that_is_missing_or_damaged_is_noticed(tmp_path: Path) -> None:
    url = tmp_path / "repository"
    repository = Repository(url, chunk_size=64 << 10)
    with qc.create(tmp_path / "books", MAPPING, settings=MANUAL) as index:
        index.bulk(noise(3000), id="id")
        repository.snapshot(index, "cut")
        pieces = sorted((url / "blobs").iterdir())
        raw = pieces[1].read_bytes()
        for damaged in (None, raw[:-1], raw[:-1] + bytes([raw[-1] ^ 1])):
            pieces[1].unlink() if damaged is None else pieces[1].write_bytes(damaged)
            assert len(repository.verify("cut").problems) == 1
            with pytest.raises(CorruptIndexError):
                qc.restore(f"{url}#cut", tmp_path / "restored")
            assert not any(path.is_file() for path in (tmp_path / "restored").rglob("*"))
        repository.snapshot(index, "mended", verify=True)
    assert repository.verify("cut").ok


def test_what_describes_a_snapshot_is_compressed(tmp_path: Path) -> None:
    records = []
    with filled(tmp_path / "books") as index:
        for name, compress in (("plain", False), ("small", True)):
            Repository(tmp_path / "repository", compress=compress).snapshot(index, name)
            records.append((tmp_path / "repository" / "snapshots" / f"{name}.json").read_bytes())
    assert b'"manifest"' in records[0]
    assert b'"manifest"' not in records[1]
    assert len(records[1]) < len(records[0])
    assert all(Repository(tmp_path / "repository").verify(name).ok for name in ("plain", "small"))


@pytest.mark.parametrize("tier", ["warm", "cold"])
def test_an_index_is_restored_into_a_tier(tmp_path: Path, tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tiers = qc.Tiers(warm=str(tmp_path / "warm"), cold=f"file://{tmp_path}/cold")
    with filled(tmp_path / "books", 2000) as index:
        index.snapshot(tmp_path / "repository", name="monday")
        expected = contents(index)
    segments = sum(path.stat().st_size for path in (tmp_path / "repository" / "blobs").iterdir())
    with qc.restore(f"{tmp_path}/repository#monday", tmp_path / "restored", tier=tier, tiers=tiers) as restored:
        assert {info.tier for info in restored.segments()} == {tier}
        assert contents(restored) == expected
        there = sum(path.stat().st_size for path in (tmp_path / tier).rglob("*") if path.is_file())
        assert segments - 1000 < there <= segments
        restored.put("5", {"text": "all", "n": 1})
        assert restored.delete("6").result == "deleted"
        assert restored.check().ok
    with qc.open(tmp_path / "restored") as again:
        assert again.get("5").source["n"] == 1  # type: ignore[union-attr]
        again.move(to="hot")
        assert again.count() == 2009 - 1
    for bad in ({"tier": "cold"}, {"tier": "icy", "tiers": tiers}, {"tier": None}):
        with pytest.raises(SettingsError, match="no place"):
            qc.restore(f"{tmp_path}/repository#monday", tmp_path / "other", **bad)
    assert not (tmp_path / "other").exists()


AWAY = """
import sys
import quidditch_core as qc
tiers = qc.Tiers(warm=sys.argv[3] + "/warm", cold="file://" + sys.argv[3] + "/cold")
print("go", flush=True)
qc.Repository(sys.argv[1]).restore("monday", sys.argv[2], tier=sys.argv[4], tiers=tiers)
"""


def test_a_killed_restore_is_begun_anew(
    tmp_path: Path, python_env: dict[str, str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    url, rng, broken_off = str(tmp_path / "repository"), Random(2), 0
    with qc.create(tmp_path / "books", MAPPING, settings=MANUAL) as index:
        for part in range(8):
            index.bulk([{"id": f"{part}-{n}", "text": f"all {Random(n).randbytes(9).hex()}", "n": n}
                        for n in range(500)], id="id")
            index.flush()
        expected = index.count()
        index.snapshot(url, name="monday")
    for turn, tier in enumerate(("cold", "warm", "hot", "cold")):
        place = tmp_path / f"restored-{turn}"
        child = subprocess.Popen([sys.executable, "-c", AWAY, url, str(place), str(tmp_path), tier], env=python_env,
                                 stdout=subprocess.PIPE)
        with child:
            assert child.stdout is not None
            child.stdout.readline()
            until = time.monotonic() + 10
            while not place.exists() and time.monotonic() < until:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.05))
            child.send_signal(signal.SIGKILL)
        tiers = qc.Tiers(warm=str(tmp_path / "warm"), cold=f"file://{tmp_path}/cold")
        if any(place.glob("manifest-*[0-9]")):
            restored = qc.open(place, tiers=tiers)
        else:
            broken_off += 1
            restored = qc.restore(f"{url}#monday", place, tier=tier, tiers=tiers)
        with restored:
            assert restored.count() == expected
            uuid = restored._writer.manifest.index_uuid  # type: ignore[union-attr]
        for other in ("warm", "cold"):
            files = {path.parent.name for path in (tmp_path / other).rglob("*") if path.is_file()}
            assert files <= {uuid}, "of the dead one nothing is left"
            for path in sorted((tmp_path / other).rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
    assert broken_off


def test_snapshots_of_one_second_have_different_names(tmp_path: Path) -> None:
    with filled(tmp_path / "books") as index:
        names = [index.snapshot(tmp_path / "repository").name for _ in range(5)]
    assert len(set(names)) == 5
    assert names == [info.name for info in Repository(tmp_path / "repository").snapshots()]


def test_opensearchs_bodies(tmp_path: Path) -> None:
    from quidditch_core.index import snapshot_body

    assert snapshot_body.repository({"type": "s3", "settings": {
        "bucket": "backups", "region": "us-east-1", "base_path": "snapshots", "compress": True, "chunk_size": "100mb",
    }}, {"key": "k"}) == {
        "url": "s3://backups", "base_path": "snapshots", "chunk_size": "100mb", "compress": True, "readonly": False,
        "storage_options": {"key": "k", "client_kwargs": {"region_name": "us-east-1"}}}
    body = {"type": "fs", "settings": {"location": str(tmp_path / "repository"), "compress": "false"}}
    repository = Repository.from_dict(body)
    with filled(tmp_path / "books") as index:
        for number, asked in enumerate((
            {"indices": "*", "ignore_unavailable": True, "include_global_state": False},
            {"indices": ["boo*", "-films"]}, {"indices": "films,books", "ignore_unavailable": True},
            {"indices": "_all", "partial": False}, {},
        )):
            repository.snapshot(index, f"s{number}", body=asked)
        for asked, error in (
            ({"indices": "films,books"}, NotFoundError), ({"indices": "films*"}, NotFoundError),
            ({"indices": "*,-books"}, NotFoundError), ({"indices": 7}, SettingsError),
            ({"indexes": "*"}, SettingsError), ({"include_global_state": True}, UnsupportedError),
            ({"partial": True}, UnsupportedError),
            ({"metadata": {"by": "me"}}, UnsupportedError), ({"ignore_unavailable": "perhaps"}, SettingsError),
            ([], SettingsError),
        ):
            with pytest.raises(error):
                index.snapshot(tmp_path / "repository", name="bad", body=asked)
    for asked, error in (
        ({"rename_pattern": "(.+)"}, UnsupportedError), ({"index_settings": {}}, UnsupportedError),
        ({"storage_type": "remote_snapshot"}, UnsupportedError), ({"indices": "films"}, NotFoundError),
    ):
        with pytest.raises(error):
            qc.restore(f"{tmp_path}/repository#s0", tmp_path / "restored", body=asked)
    with qc.restore(f"{tmp_path}/repository#s0", tmp_path / "restored", body={"indices": "books"}) as restored:
        assert restored.count() == 40 - 1
    for settings, error in (
        ({"bucket": "b", "secret_key": s3.SECRET}, SettingsError), ({"bucket": ""}, SettingsError), ({}, SettingsError),
        ({"bucket": "b", "max_restore_bytes_per_sec": "1mb"}, UnsupportedError),
        ({"bucket": "b", "base_paht": "x"}, SettingsError), ({"bucket": "b", "chunk_size": "1kb"}, SettingsError),
    ):
        with pytest.raises(error) as caught:
            Repository.from_dict({"type": "s3", "settings": settings})
        assert s3.SECRET not in str(caught.value)
    with pytest.raises(UnsupportedError, match="one of s3, fs"):
        Repository.from_dict({"type": "hdfs", "settings": {}})


def test_a_readonly_repository(tmp_path: Path) -> None:
    with filled(tmp_path / "books") as index:
        index.snapshot(tmp_path / "repository", name="monday")
        repository = Repository(tmp_path / "repository", readonly=True)
        for call in (lambda: repository.snapshot(index), lambda: repository.delete("monday"), repository.expire,
                     repository.collect_garbage):
            with pytest.raises(ReadOnlyError):
                call()
    assert repository.verify("monday").ok
    repository.restore("monday", tmp_path / "restored")


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
    for place in ("", " ", 7, None):
        with pytest.raises(InvalidNameError):
            Repository(place)  # type: ignore[arg-type]
    with pytest.raises(InvalidNameError):
        Repository(tmp_path / "repository", base_path="../books")
    for size in (0, 1, "1kb", "much", True, 1.5):
        with pytest.raises(SettingsError):
            Repository(tmp_path / "repository", chunk_size=size)  # type: ignore[arg-type]
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


def test_what_is_published_is_restored_into_a_tier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tiers = qc.Tiers(cold=f"file://{tmp_path}/cold")
    with filled(tmp_path / "books") as index:
        index.publish(str(tmp_path / "published"))
        expected = contents(index)
    with qc.restore(str(tmp_path / "published"), tmp_path / "restored", tier="cold", tiers=tiers) as restored:
        assert {info.tier for info in restored.segments()} == {"cold"}
        assert contents(restored) == expected
        assert restored.check().ok
    with pytest.raises(SettingsError, match="no place"):
        qc.restore(str(tmp_path / "published"), tmp_path / "other", tier="cold")

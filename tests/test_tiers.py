"""Tiers: moves lose nothing, cold segments answer as hot ones do, and in few rounds; faults are told, not hidden."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import quidditch_core as qc
from quidditch_core import query as q
from quidditch_core.errors import (
    DeniedError,
    NotFoundError,
    OutageError,
    QueryError,
    SettingsError,
    StorageError,
    StoreError,
)
from quidditch_core.files import OsFile, OsFiles
from quidditch_core.index import facade
from quidditch_core.index import manifest as manifests
from quidditch_core.tiering import Span, cache, remote, store
from quidditch_core.tiering.policy import Move, Placed, moves
from quidditch_core.tiering.testing import CountingStore
from tests.s3 import BUCKET, SECRET, environment, options, proxied

MAPPING = {"properties": {
    "body": {"type": "text"}, "tag": {"type": "keyword"}, "year": {"type": "integer"}, "price": {"type": "double"},
    "when": {"type": "date"}}}
WORDS = ["sea", "whale", "ship", "storm", "harpoon", "rope", "sail", "mast", "deck", "captain"]
PARTS, DOCS = 3, 300


def document(part: int, at: int) -> dict[str, Any]:
    n = part * DOCS + at
    body = " ".join(WORDS[(n * k + k) % (4 + k)] for k in range(1, 7)) + f" word{n % 40}"
    return {"id": f"{part}-{at}", "body": body, "tag": [f"t{n % 7}", f"u{n % 3}"], "year": 1800 + n % 90,
            "price": n / 7, "when": f"2020-{n % 12 + 1:02}-{n % 28 + 1:02}"}


BODIES: list[dict[str, Any]] = [
    {"query": {"match": {"body": "whale"}}},
    {"query": {"match": {"body": {"query": "sea whale word7", "operator": "and"}}}},
    {"query": {"match_phrase": {"body": "sea whale"}}, "size": 20},
    {"query": {"match_phrase": {"body": {"query": "whale storm", "slop": 3}}}},
    {"query": {"bool": {"must": [{"match": {"body": "storm"}}], "filter": [{"term": {"tag": "t3"}}],
                        "must_not": [{"range": {"year": {"lt": 1830}}}]}}, "track_total_hits": True},
    {"query": {"prefix": {"body": "word1"}}, "sort": [{"year": "desc"}, "_doc"]},
    {"query": {"range": {"tag": {"gte": "t2", "lt": "t5"}}}, "sort": ["tag", "_doc"], "size": 7},
    {"query": {"terms": {"tag": ["u1", "t6", "nothing"]}}, "_source": ["year"]},
    {"query": {"match": {"body": "harpoon"}}, "highlight": {"fields": {"body": {}}}, "from": 5},
    {"query": {"ids": {"values": ["0-1", "2-7"]}}},
    {"query": {"exists": {"field": "price"}}, "_source": False, "sort": [{"price": "asc"}]},
    {"size": 0, "aggs": {"tags": {"terms": {"field": "tag"}, "aggs": {"p": {"avg": {"field": "price"}}}},
                         "years": {"histogram": {"field": "year", "interval": 20}},
                         "months": {"date_histogram": {"field": "when", "calendar_interval": "month"}},
                         "old": {"filter": {"match": {"body": "whale"}}, "aggs": {"m": {"max": {"field": "year"}}}}}},
]


def answers(index: Any) -> list[Any]:
    found = []
    for body in BODIES:
        one = index.search(body).to_dict()
        del one["took"]
        found.append(one)
    return [*found, index.count({"match": {"body": "whale"}}), index.count({"term": {"tag": "t1"}})]


def filled(index: Any) -> Any:
    for part in range(PARTS):
        index.bulk([document(part, at) for at in range(DOCS)], id="id")
        index.flush()
    return index


def names(index: Any) -> list[str]:
    return [info.name for info in index.segments()]


def tiers_of(index: Any) -> list[str]:
    return [info.tier for info in index.segments()]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(facade, "TIERING_INTERVAL", 0.0)
    yield
    cache.delete(str(tmp_path / "cache" / "quidditch" / "blocks"))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The stores that indexes open, which count, and fail while ``down``."""
    made: list[Any] = []

    class Fallible(CountingStore):
        down: Callable[[str, str], bool] = staticmethod(lambda call, key: False)  # type: ignore[assignment]

        def _count(self, name: str, requests: int = 0, size: int = 0) -> None:
            super()._count(name, requests, size)
            if self.down(name, ""):
                raise OutageError(f"cannot {name}: as the script says", path=self.url)

        def read(self, spans: Any) -> list[bytes]:
            if lost := {span.key for span in spans if self.down("read", span.key)}:
                error = OutageError("cannot read: as the script says", path=self.url)
                error.keys = tuple(lost)
                raise error
            return super().read(spans)

    real = store.FsspecStore

    def make(url: str, given: Any = None) -> Any:
        made.append(Fallible(real(url, given)))
        return made[-1]

    monkeypatch.setattr(store, "FsspecStore", make)
    return made


@pytest.fixture
def tiers(tmp_path: Path) -> qc.Tiers:
    return qc.Tiers(warm=str(tmp_path / "warm"), cold=f"memory://{uuid.uuid4().hex}")


@pytest.fixture
def index(tmp_path: Path, tiers: qc.Tiers, counted: list[Any]) -> Iterator[Any]:
    with filled(qc.create(tmp_path / "index", MAPPING, tiers=tiers)) as made:
        yield made


def emptied(index: Any, tmp_path: Path) -> Any:
    """The index opened again, with an empty block cache."""
    index.close()
    cache.delete(str(tmp_path / "cache" / "quidditch" / "blocks"))
    return qc.open(index.path)


# --- searching ---------------------------------------------------------------------------------------------


def test_cold_and_warm_segments_answer_as_hot_ones(index: Any, tmp_path: Path) -> None:
    expected = answers(index)
    index.move(to="cold", segments=names(index)[:2])
    assert tiers_of(index) == ["cold", "cold", "hot"]
    assert answers(index) == expected
    index.move(to="warm", segments=names(index)[2:])
    with emptied(index, tmp_path) as again:
        assert tiers_of(again) == ["cold", "cold", "warm"]
        for _ in range(2):
            assert answers(again) == expected
        assert again.get("0-7").source == document(0, 7)
        hit = again.search(q.Match("body", "whale")).hits[0]
        assert again.explain(q.Match("body", "whale"), hit.id).value == hit.score
        assert again.check().ok
        with qc.open(again.path, read_only=True) as other:
            assert answers(other) == expected
        again.move(to="hot")
        assert tiers_of(again) == ["hot"] * 3
        assert answers(again) == expected


def test_a_query_takes_few_rounds(index: Any, counted: list[Any], tmp_path: Path) -> None:
    """Opening asks for nothing; a term query, of whatever number of segments, for dictionary, postings, documents."""
    expected = answers(index)
    index.move(to="cold")
    for at, (body, rounds) in enumerate(zip(BODIES, (3, 3, 3, 3, 3, 3, 4, 3, 3, 3, 3, 3), strict=True)):
        with emptied(index, tmp_path) as index:
            far = counted[-1]
            assert {*far.calls} <= {"list"}, "opening reads nothing"
            far.calls.clear()
            found = index.search(body).to_dict()
            del found["took"]
            assert found == expected[at]
            assert far.calls["read"] <= rounds, (body, far.calls)
            assert {*far.calls} <= {"read", "list"}
            far.calls.clear()
            index.search(body).to_dict()
            assert far.calls["read"] == 0


def test_a_cold_segment_opens_in_one_round(index: Any, counted: list[Any]) -> None:
    from quidditch_core.codec.v1 import file
    from quidditch_core.index.places import COLD

    index.move(to="cold")
    places, entry = index._writer.places, index._writer.manifest.segments[0]
    counted[-1].calls.clear()
    blob = places.tier(COLD).open(entry.name, entry.size)
    segment = file.read(blob, entry.name, tail_offset=entry.tail_offset, tail_crc=entry.tail_crc)
    assert segment.docs == DOCS
    assert counted[-1].calls == {"read": 1}


def test_a_search_may_be_narrowed_to_tiers(index: Any, counted: list[Any]) -> None:
    index.move(to="cold", segments=names(index)[:1])
    index.move(to="warm", segments=names(index)[1:2])
    counted[-1].calls.clear()
    everything = {"query": {"match_all": {}}, "track_total_hits": True}
    assert index.search(everything, tiers=["hot", "warm"]).total.value == 2 * DOCS
    assert counted[-1].calls["read"] == 0
    assert index.search({**everything, "tiers": ["cold"]}).total.value == DOCS
    assert {hit.id.split("-")[0] for hit in index.search(everything, tiers=["warm"])} == {"1"}
    with pytest.raises(QueryError, match="hot, warm, cold"):
        index.search(tiers=["icy"])


def test_memory_is_bounded_while_searching(index: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = answers(index)
    index.move(to="cold")
    index.close()
    gc.collect()
    memory = remote.Memory(remote.MEMORY.limit)
    monkeypatch.setattr(remote, "MEMORY", memory)
    with qc.open(index.path) as index, qc.open(index.path, read_only=True) as other, index.reader() as pit:
        memory.limit = 150_000  # less than the three segments
        failed: list[BaseException] = []

        def search(reader: Any) -> None:
            try:
                assert answers(reader) == expected
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=search, args=(reader,)) for reader in (index, other, pit, index)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert memory.retired > 0
        assert memory.used <= memory.limit


def test_an_outage_is_an_error_or_named(index: Any, counted: list[Any], tmp_path: Path) -> None:
    index.move(to="cold", segments=names(index)[:2])
    lost = names(index)[0]
    with emptied(index, tmp_path) as index:
        counted[-1].down = lambda call, key: lost in key
        body = {"query": {"match": {"body": "whale"}}, "track_total_hits": True, "size": 2000}
        with pytest.raises(OutageError, match="as the script says") as caught:
            index.search(body)
        assert caught.value.blobs
        part = index.search(body, allow_partial_search_results=True)
        assert [name for name, _ in part.unreached] == [lost], "the other one answered in the same round"
        assert part.to_dict()["_shards"]["failures"][0]["segment"] == lost
        assert {hit.id.split("-")[0] for hit in part} == {"1", "2"}
        assert index.search(body, tiers=["hot"]).unreached == []
        for aggregated in BODIES[-1], BODIES[4]:
            assert index.search({**aggregated, "allow_partial_search_results": True}).unreached
        counted[-1].down = lambda call, key: False
        whole = index.search(body)
        assert (whole.unreached, len(whole)) == ([], whole.total.value)
        assert "failures" not in whole.to_dict()["_shards"]


def test_one_object_that_fails_costs_no_other(index: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store itself names what failed."""
    monkeypatch.setattr(store, "PAUSE", 0.0)
    index.move(to="cold")
    lost = names(index)[1]
    with emptied(index, tmp_path) as index:
        fs = index._writer.places.tier("cold").store.inner._filesystem()
        real = fs.cat_file

        def failing(path: str, *args: Any, **more: Any) -> bytes:
            if lost in path:
                raise OSError("as the script says")
            return bytes(real(path, *args, **more))

        monkeypatch.setattr(fs, "cat_file", failing)
        part = index.search({"query": {"match": {"body": "whale"}}, "size": 2000, "allow_partial_search_results": True})
        assert [name for name, _ in part.unreached] == [lost]
        assert {hit.id.split("-")[0] for hit in part} == {"0", "2"}


@pytest.mark.parametrize("wrong", ["s3://nowhere/x", "nosuchprotocol://x", "file:///proc/nothing/can/be/here"])
def test_a_wrong_cold_tier_shows_when_an_index_is_created(tmp_path: Path, s3_server: str, wrong: str) -> None:
    given = options(s3_server) if wrong.startswith("s3") else {}
    with pytest.raises((SettingsError, StorageError)):
        qc.create(tmp_path / "index", MAPPING, tiers=qc.Tiers(cold=wrong, storage_options=given))
    assert not (tmp_path / "index").exists()


def test_an_index_opens_and_is_written_during_an_outage(
    index: Any, counted: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    index.move(to="cold")
    index.close()
    cache.delete()
    real = store.FsspecStore
    monkeypatch.setattr(store, "FsspecStore", lambda url, given=None: _down(real(url, given)))
    with facade._open(OsFiles(), index.path, background=False) as index:
        assert index.put("0-1", {"body": "newer"}).result == "updated"
        assert index.delete("1-1").result == "deleted"
        index.put("new", {"body": "new"})
        with pytest.warns(RuntimeWarning, match="move in the background failed"):
            index.flush()
        assert index.get("0-1").source == {"body": "newer"}
        assert index.search(tiers=["hot"]).total.value == 2
        with pytest.raises(OutageError):
            index.get("0-2")
    monkeypatch.setattr(store, "FsspecStore", real)
    with qc.open(index.path) as index:
        assert index.count() == PARTS * DOCS
        assert index.get("1-1") is None
        index.merge()
        assert (tiers_of(index), index.count(), index.check().ok) == (["hot"], PARTS * DOCS, True)


def _down(made: Any) -> Any:
    made.down = lambda call, key: True
    return made


# --- writing and moving ------------------------------------------------------------------------------------


def test_documents_of_cold_segments_are_updated_and_deleted(index: Any, counted: list[Any], tmp_path: Path) -> None:
    index.move(to="cold")
    counted[-1].calls.clear()
    index.put("0-0", {"body": "replaced"})
    index.delete("1-1")
    index.bulk([{"id": "2-2", "body": "replaced"}, {"id": "new", "body": "replaced"}], id="id")
    index.flush()
    assert counted[-1].calls["read"] == 0, "ids are hot"
    index.update("2-3", {"year": 7})
    index.flush()
    with emptied(index, tmp_path) as index:
        assert index.count() == PARTS * DOCS
        assert index.count({"match": {"body": "replaced"}}) == 3
        assert index.get("2-3").source == {**document(2, 3), "year": 7}
        index.move(to="hot")
        index.merge()
        assert index.count() == PARTS * DOCS
        assert index.check().ok


def test_what_merges_in_the_cold_tier_is_compressed_best(index: Any) -> None:
    index.move(to="cold")
    index.delete("0-0")
    index.merge()
    assert tiers_of(index) == ["cold"]
    assert index._writer.holdings[0].segment.codec == "diagon_best_compression"
    assert index.count() == PARTS * DOCS - 1
    assert index.get("1-7").source == document(1, 7)
    tier = index._writer.places.tier("cold")
    assert tier.list() == names(index)


def test_moves_go_on_beside_searches_and_writes(index: Any) -> None:
    stop, failed = threading.Event(), list[BaseException]()
    written = [0]

    def search() -> None:
        while not stop.is_set():
            found = index.search(q.Match("body", "whale"), track_total_hits=True, size=3)
            if found.total.value < total:
                failed.append(AssertionError(found.total))

    def write() -> None:
        while not stop.is_set():
            index.put(f"more-{written[0]}", {"body": "other"})
            written[0] += 1

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    total = index.search(q.Match("body", "whale"), track_total_hits=True).total.value
    threads = [threading.Thread(target=guarded, args=(work,)) for work in (search, write)]
    for thread in threads:
        thread.start()
    for to in ("warm", "cold", "hot", "cold", "warm"):
        index.move(to=to)
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []
    index.refresh()
    assert index.count() == PARTS * DOCS + written[0] > PARTS * DOCS


def test_a_reader_keeps_the_source_of_a_move(index: Any) -> None:
    directory = Path(index.path) / "segments"
    moved = names(index)[0]
    with qc.open(index.path, read_only=True) as other:
        index.move(to="cold", segments=[moved])
        assert (directory / moved).exists(), "another process may read it"
        assert other.count() == PARTS * DOCS
        other.refresh()
        assert tiers_of(other)[0] == "cold"
    index.put("x", {"body": "x"})
    index.flush()
    assert not (directory / moved).exists()


def test_what_cannot_be_moved(index: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no place"):
        index.move(to="icy")
    with pytest.raises(SettingsError, match="nowhere"):
        index.move(older_than="1d")
    with pytest.raises(SettingsError, match="not an age"):
        index.move(to="cold", older_than="old")
    with pytest.raises(NotFoundError):
        index.move(to="cold", segments=["seg-7"])
    assert index.move(to="hot") == []
    assert index.move(to="cold", older_than="1d") == []
    with qc.create(tmp_path / "other") as other, pytest.raises(SettingsError, match="no place"):
        other.move(to="cold")


def test_two_indexes_share_a_bucket(index: Any, tiers: qc.Tiers, tmp_path: Path) -> None:
    index.move(to="cold")
    with qc.create(tmp_path / "other", MAPPING, tiers=tiers) as other:
        other.put("a", {"body": "alone"})
        other.move(to="cold")
        assert names(other) == names(index)[:1]
    with qc.open(tmp_path / "other") as other:
        assert (other.count(), index.count()) == (1, PARTS * DOCS)


def test_secrets_are_not_stored_or_shown(tmp_path: Path, s3_server: str) -> None:
    tiers = qc.Tiers(cold=f"s3://{BUCKET}/{uuid.uuid4().hex}", storage_options=options(s3_server))
    with qc.create(tmp_path / "index", MAPPING, tiers=tiers) as index:
        index.put("a", {"body": "a whale"})
        index.move(to="cold")
        assert index.search(q.Match("body", "whale")).hits[0].id == "a"
        shown = repr(index) + repr(index.stats()) + repr(tiers)
    on_disk = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert SECRET not in shown
    assert SECRET.encode() not in on_disk
    with pytest.raises(SettingsError) as refused:
        qc.Tiers(cold=f"s3://k:{SECRET}@bucket/x")
    assert SECRET not in str(refused.value)


# --- the policy --------------------------------------------------------------------------------------------

DAY = 86_400.0


def placed(name: str, tier: str, size: int, age: float, idle: float = 0) -> Placed:
    return Placed(name, tier, size, age * DAY, idle * DAY)


def test_the_policy_is_a_pure_function() -> None:
    both = {"warm": "/w", "cold": "memory://c"}
    young, old, older = placed("a", "hot", 10, 1), placed("b", "hot", 10, 10), placed("c", "warm", 10, 100)
    by_age = qc.Tiers(**both, after={"warm": "7d", "cold": "90d"})  # type: ignore[arg-type]
    assert moves([young, old, older], by_age) == [
        Move("c", "warm", "cold", 10, "older than 90d"), Move("b", "hot", "warm", 10, "older than 7d")]
    assert moves([placed("d", "hot", 1, 1000)], by_age)[0].to == "warm", "one tier at a time"
    assert moves([young, old], qc.Tiers(**both)) == []  # type: ignore[arg-type]
    assert [move.name for move in moves([young, old], qc.Tiers(**both, budgets={"hot": 15}))] == ["b"]  # type: ignore[arg-type]
    assert len(moves([young, old], qc.Tiers(**both, budgets={"hot": 1}))) == 2  # type: ignore[arg-type]
    full = moves([young, older], qc.Tiers(**both, after={"warm": "1d"}, budgets={"warm": 15}))  # type: ignore[arg-type]
    assert {(move.name, move.to) for move in full} == {("a", "warm"), ("c", "cold")}, "what arrives counts"
    idle = qc.Tiers(cold="memory://c", idle={"cold": "30d"})  # type: ignore[dict-item]
    assert [str(move) for move in moves([placed("x", "hot", 1024, 50, 40), placed("y", "hot", 1, 60, 2)], idle)] == [
        "x: hot -> cold, 1kb, not searched for 30d"]
    large = qc.Tiers(cold="memory://c", larger={"cold": "1kb"})  # type: ignore[dict-item]
    assert [move.name for move in moves([placed("x", "hot", 1024, 0), placed("y", "hot", 9, 0)], large)] == ["x"]
    assert [move.name for move in moves([young, old], qc.Tiers(**both), excess=5)] == ["b"]  # type: ignore[arg-type]
    assert moves([placed("z", "cold", 1, 9999)], by_age) == []


def test_rules_move_in_the_background_and_dry_runs_do_not(tmp_path: Path) -> None:
    with filled(qc.create(tmp_path / "index", MAPPING, tiers=qc.Tiers(cold=f"memory://{uuid.uuid4().hex}"))) as index:
        index.close()
    rules = qc.Tiers(cold=f"memory://{uuid.uuid4().hex}", budgets={"hot": "1b"})  # type: ignore[dict-item]
    with qc.open(index.path, tiers=rules) as index:
        wanted = index.move(dry_run=True)
        assert [move.reason for move in wanted] == ["hot holds more than 1b"] * PARTS
        assert tiers_of(index) == ["hot"] * PARTS
        index._wake()
        until = time.monotonic() + 20
        while set(tiers_of(index)) != {"cold"} and time.monotonic() < until:
            time.sleep(0.01)
        assert tiers_of(index) == ["cold"] * PARTS
    with qc.open(index.path) as index:
        assert index.move(dry_run=True) == [], "the rules were stored, and hold"
        assert index.count() == PARTS * DOCS


# --- faults in a move --------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is gone."""


class Steps:
    """Counts steps of disk and store; from the ``last`` on all of them fail, as after a kill."""

    def __init__(self, last: int) -> None:
        self.left = last

    def __call__(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


class SteppingFiles(OsFiles):
    def __init__(self, step: Steps) -> None:
        self.step = step

    def open(self, path: str, mode: Any) -> OsFile:
        if mode != "r":
            self.step()
        return super().open(path, mode)

    def rename(self, old: str, new: str) -> None:
        self.step()
        super().rename(old, new)

    def unlink(self, path: str) -> None:
        self.step()
        super().unlink(path)

    def sync_dir(self, path: str) -> None:
        self.step()
        super().sync_dir(path)


def stepping_store(step: Steps) -> type[store.FsspecStore]:
    class Stepping(store.FsspecStore):
        def put(self, key: str, chunks: Any) -> None:
            step()
            super().put(key, chunks)
            step()

        def read(self, spans: Any) -> list[bytes]:
            step()
            return super().read(spans)

        def delete(self, key: str) -> None:
            step()
            super().delete(key)
            step()

    return Stepping


@pytest.mark.parametrize(("start", "to"), [("hot", "cold"), ("cold", "hot"), ("hot", "warm")])
def test_a_move_that_is_killed_at_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str, to: str,
) -> None:
    def tiers_at(place: Path) -> qc.Tiers:
        return qc.Tiers(warm=str(place / "warm"), cold=f"file://{place}/cold")

    first = tmp_path / "first"
    with filled(qc.create(first / "index", MAPPING, tiers=tiers_at(first))) as index:
        index.delete("0-0")
        index.move(to=start)
        expected = answers(index)
    real, last, done = store.FsspecStore, 0, False
    while not done:
        place = tmp_path / f"{last}"
        shutil.copytree(first, place, symlinks=True)
        step = Steps(10**9)
        monkeypatch.setattr(store, "FsspecStore", stepping_store(step))
        index = facade._open(SteppingFiles(step), str(place / "index"), background=False, tiers=tiers_at(place))
        step.left = last
        try:
            index._maintenance.move([names(index)[1]], to)
            done = True
        except Killed:
            pass
        dead = tmp_path / f"{last}-dead"
        shutil.copytree(place, dead)
        monkeypatch.setattr(store, "FsspecStore", real)
        index._writer.write_lock.release()
        with qc.open(dead / "index", tiers=tiers_at(dead), read_only=True) as other:
            assert answers(other) == expected
        with qc.open(dead / "index", tiers=tiers_at(dead)) as again:
            again._maintenance.sweep()
            assert answers(again) == expected
            assert again.check().ok
            tidy(again, dead)
            again.move(to=to)
            assert answers(again) == expected
            tidy(again, dead)
        shutil.rmtree(place)
        shutil.rmtree(dead)
        last += 1
    assert last > 8


def tidy(index: Any, place: Path) -> None:
    """Each blob that the manifest names is in its tier, and nothing else is anywhere."""
    manifest = manifests.load_newest(OsFiles(), index.path)
    there = {("hot", path.name) for path in (place / "index" / "segments").iterdir()}
    there |= {(tier, path.name) for tier in ("warm", "cold") for path in (place / tier).glob("*/*")}
    assert there == set(manifest.blobs())


CHILD = """
import sys
import quidditch_core as qc
index = qc.open(sys.argv[1])
print("ready", flush=True)
for turn in range(1000):
    index.move(to=("cold", "hot", "warm")[turn % 3])
"""


@pytest.mark.parametrize("kind", ["directory", "s3"])
def test_a_process_that_is_killed_in_a_move(
    tmp_path: Path, python_env: dict[str, str], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    cold = f"file://{tmp_path}/cold"
    if kind == "s3":
        cold = f"s3://{BUCKET}/{uuid.uuid4().hex}"
        for name, value in environment(request.getfixturevalue("s3_server")).items():
            monkeypatch.setenv(name, value)
    place = qc.Tiers(warm=str(tmp_path / "warm"), cold=cold)
    with filled(qc.create(tmp_path / "index", MAPPING, tiers=place)) as index:
        expected = answers(index)
    for turn in range(5):
        child = subprocess.Popen([sys.executable, "-c", CHILD, index.path], stdout=subprocess.PIPE,
                                 env={**python_env, **os.environ})
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(0.02 + (0.06 if kind == "directory" else 0.3) * turn)
        child.kill()
        child.wait()
        child.stdout.close()
        assert child.returncode == -signal.SIGKILL
        with qc.open(index.path) as again:
            again._maintenance.sweep()
            assert answers(again) == expected
            if kind == "directory":
                tidy(again, tmp_path)
            else:
                mine = {name for tier, name in again._writer.manifest.blobs() if tier == "cold"}
                assert set(again._writer.places.tier("cold").list()) == mine


@pytest.mark.filterwarnings("ignore:.*in the background failed:RuntimeWarning")  # on a slow machine it is its minute
@pytest.mark.parametrize("fault", [(500, "InternalError"), (503, "SlowDown"), (403, "AccessDenied"), "cut"])
def test_a_store_that_fails_in_a_move(
    tmp_path: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch, fault: Any,
) -> None:
    """From any request on the store fails for good: the segment stays where it was, and the next try succeeds."""
    monkeypatch.setattr(store, "PAUSE", 0.001)
    with proxied(s3_server) as proxy:
        tiers = qc.Tiers(cold=f"s3://{BUCKET}/{uuid.uuid4().hex}", storage_options=options(proxy.url))
        with filled(qc.create(tmp_path / "index", MAPPING, tiers=tiers)) as index:
            index._maintenance.sweep()
            expected = answers(index)
            failures = 0
            for after in range(12):
                seen = len(proxy.asked)
                proxy.plan = lambda asked, limit=seen + after: fault if len(proxy.asked) > limit else None
                error = moved(index)
                if error is None:
                    break
                failures += 1
                assert SECRET not in str(error)
                assert isinstance(error, DeniedError) == (fault == (403, "AccessDenied"))
                assert tiers_of(index) == ["hot"] * PARTS
                assert answers(index) == expected
            proxy.plan = lambda asked: None
            assert failures >= 2
            index.move(to="cold")
            assert tiers_of(index) == ["cold"] * PARTS
            assert answers(index) == expected
            index._writer.swept = False
            index._maintenance.sweep()
            assert index._writer.places.tier("cold").list() == names(index)


def moved(index: Any) -> StoreError | None:
    try:
        index.move(to="cold", segments=names(index)[:1])
    except StoreError as error:
        return error
    return None


def test_what_cannot_be_deleted_now_is_swept_later(index: Any, counted: list[Any]) -> None:
    index.move(to="cold")
    counted[-1].down = lambda call, key: call == "delete"
    with pytest.warns(RuntimeWarning, match="not needed"):
        index.move(to="hot")
    assert tiers_of(index) == ["hot"] * PARTS
    counted[-1].down = lambda call, key: False
    assert len(index._writer.places.tier("cold").list()) > 0
    index._maintenance.sweep()
    assert index._writer.places.tier("cold").list() == []


def test_a_stale_listing_harms_nothing(index: Any, counted: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """It names what is gone, and does not name what is there."""
    far = None
    index.move(to="cold")
    far = counted[-1]
    before = far.inner.list()
    index.move(to="hot")
    monkeypatch.setattr(far.inner, "list", lambda prefix="": before)
    index._writer.swept = False
    index._maintenance.sweep()
    index.move(to="cold")
    monkeypatch.setattr(far.inner, "list", lambda prefix="": [])
    index._writer.swept = False
    index._maintenance.sweep()
    assert index.count() == PARTS * DOCS
    assert len(answers(index)) == len(BODIES) + 2


def test_what_a_move_left_is_used_or_replaced(index: Any, counted: list[Any]) -> None:
    expected = answers(index)
    tier, entry = index._writer.places.tier("cold"), index._writer.manifest.segments[0]
    whole = (Path(index.path) / "segments" / entry.name).read_bytes()
    for left in (whole, whole[:-1] + b"?", whole[:100]):
        tier.delete(entry.name)
        tier.write(entry.name, [left])
        index.move(to="cold", segments=[entry.name])
        assert counted[-1].inner.read([Span(tier.key(entry.name), 0, entry.size)]) == [whole]
        assert answers(index) == expected
        index.move(to="hot", segments=[entry.name])


def test_a_copy_that_is_not_the_original_is_not_published(index: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(index.path) / "segments" / names(index)[0]
    raw = bytearray(path.read_bytes())
    raw[5000] ^= 1
    os.chmod(path, 0o644)
    path.write_bytes(raw)
    with pytest.raises(qc.errors.CorruptIndexError, match="not those that were committed"):
        index.move(to="cold", segments=names(index)[:1])
    assert tiers_of(index) == ["hot"] * PARTS
    assert json.dumps(index._writer.places.tier("cold").list()) == "[]"

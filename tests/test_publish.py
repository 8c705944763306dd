"""Published indexes: what readers see, who may publish, what a publish that stops leaves, and what is removed when."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest

import quidditch_core as qc
from quidditch_core import metrics
from quidditch_core import query as q
from quidditch_core.errors import (
    CorruptIndexError,
    FormatError,
    IndexExistsError,
    IndexNotFoundError,
    InvalidNameError,
    OutageError,
    PublishFenced,
    QuidditchError,
    ReaderExpired,
    ReadOnlyError,
    SettingsError,
    UnsupportedError,
)
from quidditch_core.files import OS_FILES
from quidditch_core.index import facade, publish
from quidditch_core.index.publish import Edition, Editions, Published, Publisher, PublishInfo
from quidditch_core.tiering import cache, remote
from quidditch_core.tiering.store import FsspecStore
from quidditch_core.tiering.testing import DAMAGES, CountingStore, Crashed, CrashFiles, DyingStore
from tests import s3

MAPPING = {"properties": {"text": {"type": "text"}, "n": {"type": "integer"}}}
MANUAL = {"index.refresh_interval": -1}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    cache.delete(str(tmp_path / "cache" / "quidditch" / "blocks"))


@pytest.fixture(params=["directory", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any]]:
    """URL and storage options of a place where nothing is yet."""
    if request.param == "directory":
        return str(tmp_path / "live"), {}
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}", {}
    server = request.getfixturevalue("s3_server")
    return f"s3://{s3.BUCKET}/{uuid.uuid4().hex}", s3.options(server)


def filled(path: Path | str, count: int = 30) -> qc.Index:
    """Two segments, one of them with deleted documents."""
    index = qc.create(path, MAPPING, settings=MANUAL)
    index.bulk([{"id": str(n), "text": f"word{n % 7} all", "n": n} for n in range(count)], id="id")
    index.flush()
    index.bulk([{"id": str(n), "text": "late all", "n": n} for n in range(count, count + 10)], id="id")
    index.delete("3")
    index.put("5", {"text": "anew all", "n": 500})
    return index


def contents(index: Any) -> dict[str, Any]:
    return {hit.id: [hit.source, hit.score] for hit in index.search(q.Match("text", "all"), size=10_000)}


def objects(store: Any) -> set[str]:
    return {key.removeprefix("blobs/") for key in store.list("blobs")}


def published(store: Any) -> list[Edition]:
    editions = Editions(store)
    return [edition for number in editions.numbers() if (edition := editions.get(number)) is not None]


def there(store: Any) -> qc.Index:
    """A reader of what is published in ``store``."""
    return qc.Index(OS_FILES, store.url, source=Published(store))


def renewed(path: Path) -> qc.Index:
    """Another writer of the same index, as after a fail-over: on a copy of its directory."""
    copied = path.with_name(f"{path.name}-{uuid.uuid4().hex[:6]}")
    shutil.copytree(path, copied, ignore=shutil.ignore_patterns("write.lock"))
    return qc.open(copied)


# --- readers -------------------------------------------------------------------------------------------------


def test_readers_see_what_was_published(place: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    url, options = place
    with pytest.raises(IndexNotFoundError):
        qc.open(url, read_only=True, storage_options=options)
    with filled(tmp_path / "books", 200) as index:
        first = index.publish(url, storage_options=options)
        assert (first.number, first.term, first.docs, first.uploaded) == (1, 1, 209, first.blobs)
        with qc.open(url, read_only=True, storage_options=options) as reader, reader.reader() as pit:
            before = contents(index)
            assert contents(reader) == before
            assert reader.mapping == index.mapping
            assert reader.settings == index.settings
            assert {info.tier for info in reader.segments()} == {"cold"}
            index.delete("7")
            index.put("8", {"text": "again all", "n": 8, "extra": 1})
            index.put_settings({"max_result_window": 20_000})
            index.flush()
            reader.refresh()
            assert contents(reader) == before, "flushed is not published"
            second = index.publish(url)
            assert (second.number, second.term, second.docs) == (2, 1, 208)
            assert 0 < second.uploaded < second.blobs
            assert contents(reader) == before
            reader.refresh()
            assert contents(reader) == contents(index)
            assert contents(pit) == before
            assert reader.get("7") is None
            assert reader.get("8").source["extra"] == 1  # type: ignore[union-attr]
            assert "extra" in reader.mapping.fields
            assert reader.settings.max_result_window == 20_000
            index.merge()
            third = index.publish(url)
            assert (third.blobs, third.uploaded) == (1, 1)
            reader.refresh()
            assert contents(reader) == contents(index)
            assert reader.stats()["generation"] == 3
            again = index.publish(url)
            assert (again.number, again.uploaded) == (3, 0), "nothing is new"
            with pytest.raises(ReadOnlyError):
                reader.publish(url)
        assert qc.Repository(url, storage_options=options).published() == PublishInfo(
            **{**{name: getattr(third, name) for name in third.__struct_fields__}, "uploaded": 0})


def test_an_empty_index_and_one_that_never_flushed(tmp_path: Path) -> None:
    with qc.create(tmp_path / "books", MAPPING, settings=MANUAL) as index:
        assert index.publish(tmp_path / "live").docs == 0
        with qc.open(tmp_path / "live", read_only=True) as reader:
            assert reader.count() == 0
            index.put("1", {"text": "all", "n": 1})
            assert index.publish(tmp_path / "live").docs == 1
            reader.refresh()
            assert reader.count() == 1


def test_rounds(tmp_path: Path) -> None:
    """What is asked of the store, to open, to follow, to search and to publish."""
    far = CountingStore(FsspecStore(str(tmp_path / "live")))
    publisher = Publisher(far)
    with filled(tmp_path / "books", 2000) as index:
        publisher.publish(index)
        far.calls.clear()
        reader = there(far)
        assert far.calls == {"list": 1, "get": 1, "read": 1}, "which is the newest; it; all tails and live masks"
        far.calls.clear()
        assert contents(reader) == contents(index)
        assert {*far.calls} == {"read"}
        assert far.calls["read"] <= 3
        far.calls.clear()
        far.bytes = 0
        reader.refresh()
        assert far.calls == {"get": 1, "read": 1}, "the next is not there, ours is"
        assert far.bytes < 200
        index.delete("9")
        far.calls.clear()
        publisher.publish(index)
        assert far.calls == {"get": 2, "put": 1, "create": 1}, "is there a newer one; a live mask; and was there one"
        far.calls.clear()
        reader.refresh()
        assert far.calls == {"get": 2, "list": 1, "read": 1}
        assert contents(reader) == contents(index)
        for number in range(5):
            index.put("x", {"text": "all", "n": number})
            publisher.publish(index)
        far.calls.clear()
        reader.refresh()
        assert far.calls == {"get": 2, "list": 1, "read": 1}, "however many there were"
        assert contents(reader) == contents(index)
        reader.close()


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = remote.Memory(30_000)
    monkeypatch.setattr(remote, "MEMORY", memory)
    with filled(tmp_path / "books", 3000) as index:
        index.publish(tmp_path / "live")
        with qc.open(tmp_path / "live", read_only=True) as reader:
            for _ in range(3):
                assert contents(reader) == contents(index)
            assert memory.retired > 0


def test_segments_of_all_tiers(tmp_path: Path) -> None:
    tiers = qc.Tiers(warm=str(tmp_path / "warm"), cold=f"memory://{uuid.uuid4().hex}",
                     storage_options={"some": "secret-that-nobody-sees"})
    with qc.create(tmp_path / "books", MAPPING, settings=MANUAL, tiers=tiers) as index:
        for tier in ("cold", "warm", "hot"):
            index.bulk([{"id": f"{tier}{n}", "text": "all", "n": n} for n in range(20)], id="id")
            index.flush()
            if tier != "hot":
                index.move(to=tier, segments=[info.name for info in index.segments() if info.tier == "hot"])
        index.delete("cold3")
        info = index.publish(tmp_path / "live")
        assert (info.docs, info.blobs) == (59, 4)
        with qc.open(tmp_path / "live", read_only=True) as reader:
            assert contents(reader) == contents(index)
            index.move(to="cold")
            assert index.publish(tmp_path / "live").uploaded == 0, "the bytes are the same wherever they are"
            reader.refresh()
            assert contents(reader) == contents(index)
    for path in (tmp_path / "live").rglob("manifest-*"):
        assert b"secret" not in path.read_bytes()
        assert b"memory://" not in path.read_bytes()


FOLLOW = """
import json, sys, time
import quidditch_core as qc
from quidditch_core import query as q
url, options = sys.argv[1], json.loads(sys.argv[2])
seen = {}
reader = qc.open(url, read_only=True, storage_options=options)
print("go", flush=True)
while True:
    seen[reader.stats()["generation"]] = {
        hit.id: [hit.source, hit.score] for hit in reader.search(q.Match("text", "all"), size=10_000)}
    if reader.count(q.Term("text", "stop")):
        break
    reader.refresh()
print(json.dumps(seen))
"""


def test_a_reader_in_another_process_follows(
    place: tuple[str, dict[str, Any]], tmp_path: Path, python_env: dict[str, str],
) -> None:
    url, options = place
    if url.startswith("memory:"):
        pytest.skip("memory is of one process")
    rng, expected = Random(3), {}
    with filled(tmp_path / "books", 300) as index:
        index.publish(url, storage_options=options)
        expected["1"] = contents(index)
        with subprocess.Popen([sys.executable, "-c", FOLLOW, url, json.dumps(options)], env=python_env,
                              stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "go\n"
            for turn in range(30):
                for _ in range(5):
                    number = str(rng.randrange(300))
                    if rng.random() < 0.4:
                        index.delete(number)
                    else:
                        index.put(number, {"text": f"turn{turn} all", "n": turn})
                if turn % 7 == 6:
                    index.merge(rng.randrange(1, 3))
                if turn == 29:
                    index.put("stop", {"text": "stop", "n": 0})
                info = index.publish(url, retention=60)
                expected[str(info.number)] = contents(index)
            seen = json.loads(child.stdout.read())
    assert "31" in seen
    assert len(seen) > 3
    assert {number: seen[number] == expected[number] for number in seen} == dict.fromkeys(seen, True)


def test_where_the_index_is(tmp_path: Path) -> None:
    """A directory may be an index, or have one published in it; a URL has one published."""
    with filled(tmp_path / "books") as index:
        index.publish(f"file://{tmp_path}/live")
        with qc.open(tmp_path / "live", read_only=True) as reader:
            assert reader.count() == 39
        index.publish(tmp_path / "books")  # in itself: odd, and no harm
        index.snapshot(tmp_path / "live", name="beside")
        with qc.open(tmp_path / "books", read_only=True) as reader:
            assert {info.tier for info in reader.segments()} == {"hot"}
        assert index.check().ok
    with qc.open(f"{tmp_path}/live#beside", read_only=True) as reader:
        assert reader.count() == 39
    repository = qc.Repository(tmp_path / "live")
    repository.delete("beside")
    with qc.open(tmp_path / "live", read_only=True) as reader:
        assert len(contents(reader)) == 39, "removing snapshots leaves what is published"
    for call in (lambda: qc.open(f"file://{tmp_path}/live"), lambda: qc.create("memory://somewhere")):
        with pytest.raises(UnsupportedError, match="read_only"):
            call()
    with pytest.raises(IndexNotFoundError, match="nothing is published"):
        qc.open(f"file://{tmp_path}/elsewhere", read_only=True)
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(SettingsError):
        qc.open("nonsense://somewhere", read_only=True)
    with qc.open(tmp_path / "books") as index:
        for retention in (-1, "soon", True):
            with pytest.raises(SettingsError, match="retention"):
                index.publish(tmp_path / "live", retention=retention)
        with pytest.raises(SettingsError, match="credentials"):
            index.publish("s3://key:secret@bucket/live")
        nowhere: Any
        for nowhere in ("", " ", 5, None, b"live", "s3://bucket/live#monday"):
            with pytest.raises(InvalidNameError):
                index.publish(nowhere)
            if not isinstance(nowhere, str) or not nowhere.strip():
                with pytest.raises(InvalidNameError):
                    qc.open(nowhere, read_only=True)


def test_restoring_what_is_published(tmp_path: Path) -> None:
    """A fail-over without a snapshot; the restored index is of the same family, may take over, and be taken over."""
    with pytest.raises(InvalidNameError):
        qc.restore(tmp_path / "live", tmp_path / "restored")
    with filled(tmp_path / "books") as index:
        index.publish(tmp_path / "live")
        with qc.restore(tmp_path / "live", tmp_path / "restored") as restored:
            assert contents(restored) == contents(index)
            assert restored.check().ok
            restored.put("new", {"text": "all", "n": 1})
            with pytest.raises(PublishFenced):
                restored.publish(tmp_path / "live")
            info = restored.publish(tmp_path / "live", take_over=True)
            assert (info.number, info.term) == (2, 2)
            assert 0 < info.uploaded < info.blobs
            with pytest.raises(PublishFenced, match="taken over"):
                index.publish(tmp_path / "live")
            with qc.open(tmp_path / "live", read_only=True) as reader:
                assert contents(reader) == contents(restored)
            assert index.publish(tmp_path / "live", take_over=True).term == 3
        with qc.restore(tmp_path / "live", tmp_path / "third") as third:
            assert third.publish(tmp_path / "live", take_over=True).term == 4


# --- writers -------------------------------------------------------------------------------------------------


def test_one_writer_publishes(place: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    url, options = place
    with filled(tmp_path / "books") as first:
        first.publish(url, storage_options=options)
        with renewed(tmp_path / "books") as second:
            second.put("second", {"text": "all", "n": 2})
            with pytest.raises(PublishFenced, match=r"process \d+ .*publishes here, since 20") as refused:
                second.publish(url, storage_options=options)
            assert "take_over=True" in str(refused.value)
            info = second.publish(url, storage_options=options, take_over=True)
            assert (info.number, info.term) == (2, 2)
            assert info.uploaded < info.blobs, "what the first had sent is not sent again"
            first.put("first", {"text": "all", "n": 1})
            for _ in range(2):
                with pytest.raises(PublishFenced, match=r"process \d+"):
                    first.publish(url)
            assert first.get("first") is not None
            second.put("more", {"text": "all", "n": 3})
            assert second.publish(url).number == 3
            with qc.open(url, read_only=True, storage_options=options) as reader:
                assert contents(reader) == contents(second)
                back = first.publish(url, take_over=True)
                assert (back.number, back.term) == (4, 3)
                reader.refresh()
                assert contents(reader) == contents(first)
            with pytest.raises(PublishFenced, match="taken over"):
                second.publish(url)
    with qc.open(tmp_path / "books") as again:
        with pytest.raises(PublishFenced):
            again.publish(url, storage_options=options)
        assert again.publish(url, storage_options=options, take_over=True).term == 4
    with qc.create(tmp_path / "films", MAPPING) as other:
        for take_over in (False, True):
            with pytest.raises(IndexExistsError, match="another index"):
                other.publish(url, storage_options=options, take_over=take_over)


class Meeting:
    """A store where all who create something meet before they do."""

    def __init__(self, store: Any, barrier: threading.Barrier) -> None:
        self._store, self._barrier, self.url = store, barrier, store.url

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def create(self, key: str, data: bytes) -> bool:
        self._barrier.wait(30)
        made: bool = self._store.create(key, data)
        return made


def race(publisher: Publisher, index: qc.Index, won: list[Any], lost: list[BaseException]) -> None:
    try:
        won.append(publisher.publish(index, take_over=True, flush=False))
    except BaseException as error:
        lost.append(error)


@pytest.mark.parametrize(("where", "rounds"), [("directory", 10), ("s3", 2)])
def test_of_many_writers_that_race_for_a_number_one_wins(
    where: str, rounds: int, request: pytest.FixtureRequest, tmp_path: Path,
) -> None:
    """24 writers that all want to take over, each with the same number in mind."""
    url, options = str(tmp_path / "live"), {}
    if where == "s3":
        url, options = f"s3://{s3.BUCKET}/{uuid.uuid4().hex}", s3.options(request.getfixturevalue("s3_server"))
    writers = 24
    barrier = threading.Barrier(writers)
    clients = [FsspecStore(url, options) for _ in range(4)]
    stores = [clients[number % len(clients)] for number in range(writers)]
    with filled(tmp_path / "books") as index:
        Publisher(stores[0]).publish(index)
        for number in range(2, rounds + 2):
            racing = [Publisher(Meeting(one, barrier)) for one in stores]
            won: list[PublishInfo] = []
            lost: list[BaseException] = []

            threads = [threading.Thread(target=race, args=(publisher, index, won, lost)) for publisher in racing]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert [(info.number, info.term) for info in won] == [(number, number)], lost
            assert {type(error) for error in lost} == {PublishFenced}
            assert len(lost) == writers - 1
            newest = Editions(stores[0]).newest()
            assert newest is not None
            assert newest.number == number
            assert [p for p in racing if p.last is not None and p.last.id == newest.id] != []


def test_of_many_puts_of_an_edition_one_wins(s3_server: str) -> None:
    """24 writers, 10 rounds, a real server: what all of the above builds on."""
    url, options = f"s3://{s3.BUCKET}/{uuid.uuid4().hex}", s3.options(s3_server)
    clients = [FsspecStore(url, options) for _ in range(4)]
    barrier = threading.Barrier(24)

    def put(number: int, writer: int, won: list[int]) -> None:
        barrier.wait(30)
        if clients[writer % 4].create(f"published/manifest-{number:016d}", b"%d" % writer * 1000):
            won.append(writer)

    for one in clients:
        one.try_create()
    for number in range(1, 11):
        won: list[int] = []
        threads = [threading.Thread(target=put, args=(number, writer, won)) for writer in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert clients[0].get(f"published/manifest-{number:016d}") == b"%d" % won[0] * 1000


def test_a_store_that_overwrites_is_refused(tmp_path: Path) -> None:
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    class Careless(MemoryFileSystem):  # type: ignore[misc]
        protocol = "careless"
        store: ClassVar[dict[str, Any]] = {}

        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **more: Any) -> None:
            super().pipe_file(path, value)

    fsspec.register_implementation("careless", Careless, clobber=True)
    with filled(tmp_path / "books") as index:
        with pytest.raises(UnsupportedError, match="overwrites objects"):
            index.publish("careless://live")
        assert FsspecStore("careless://live").list() == []
        index.put("still", {"text": "writable", "n": 1})


# --- each flush ----------------------------------------------------------------------------------------------


def test_publishing_with_each_flush(tmp_path: Path) -> None:
    live, other = tmp_path / "live", tmp_path / "other"
    with filled(tmp_path / "books") as index:
        index.publish(live, on_flush=True)
        index.publish(other, on_flush=True)
        with qc.open(live, read_only=True) as reader, qc.open(other, read_only=True) as second:
            index.put("a", {"text": "all", "n": 1})
            index.flush()
            for each in (reader, second):
                each.refresh()
                assert each.count() == 40
            index.publish(other, on_flush=False)
            index.flush()
            index.delete("a")
            index.flush()
            for each in (reader, second):
                each.refresh()
            assert (reader.count(), second.count()) == (39, 40)
            assert reader.stats()["generation"] == 3, "a flush of nothing publishes nothing"
            index.put("b", {"text": "all", "n": 1})
    with qc.open(live, read_only=True) as reader:
        assert reader.get("b") is not None, "closing flushes"
    with qc.open(tmp_path / "books") as index:
        index.put("c", {"text": "all", "n": 1})
        index.flush()
        assert qc.Repository(live).published().number == 4, "nothing is stored of the wish"  # type: ignore[union-attr]


def test_flushes_in_the_background_are_published(tmp_path: Path) -> None:
    settings = {**MANUAL, "index.translog.flush_threshold_size": "64kb"}
    with qc.create(tmp_path / "books", MAPPING, settings=settings) as index:
        index.publish(tmp_path / "live", on_flush=True)
        for number in range(500):
            index.put(str(number), {"text": "all " * 50, "n": number})
        until = time.monotonic() + 20
        with qc.open(tmp_path / "live", read_only=True) as reader:
            while reader.count() < 300 and time.monotonic() < until:
                time.sleep(0.05)
                reader.refresh()
            assert reader.count() >= 300


def test_a_flush_that_cannot_publish_is_a_flush(tmp_path: Path) -> None:
    with filled(tmp_path / "books") as index:
        index.publish(tmp_path / "live", on_flush=True)
        with renewed(tmp_path / "books") as other:
            other.publish(tmp_path / "live", take_over=True)
        index.put("a", {"text": "all", "n": 1})
        with pytest.raises(PublishFenced):
            index.flush()
        index.put("b", {"text": "all", "n": 1})
        with pytest.raises(PublishFenced):
            index.close()
    with qc.open(tmp_path / "books") as index:
        assert index.get("a") is not None
        assert index.get("b") is not None
        assert index.stats()["translog"]["operations"] == 0


def test_publishes_are_counted(tmp_path: Path) -> None:
    with filled(tmp_path / "counted") as index:
        info = index.publish(tmp_path / "live")
        index.publish(tmp_path / "live")
    values = {(sample.name, *sample.labels.values()): sample.value for family in metrics.collect()
              for sample in family.samples}
    assert values["quidditch_publish_total", "counted"] == 1
    assert values["quidditch_publish_bytes_total", "counted"] == info.bytes


def test_many_threads_publish_one_index(tmp_path: Path) -> None:
    failed: list[BaseException] = []
    with filled(tmp_path / "books") as index:
        def work(number: int) -> None:
            try:
                for turn in range(6):
                    index.put(f"{number}-{turn}", {"text": "all", "n": turn})
                    index.publish(tmp_path / "live")
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        editions = published(FsspecStore(str(tmp_path / "live")))
        reached = [edition.manifest.max_seq_no for edition in editions]
        assert reached == sorted(reached), "no publish overtakes a newer one"
        with qc.open(tmp_path / "live", read_only=True) as reader:
            assert contents(reader) == contents(index)


# --- what is removed -----------------------------------------------------------------------------------------


def test_what_was_dropped_stays_for_the_retention(
    place: tuple[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, options = place
    store = FsspecStore(url, options)
    now = time.monotonic()
    monkeypatch.setattr(publish.time, "monotonic", lambda: now)
    with filled(tmp_path / "books", 300) as index:
        index.publish(url, storage_options=options)
        old = qc.open(url, read_only=True, storage_options=options)
        everything = objects(store)
        index.merge()
        now += 10
        index.publish(url)
        everything |= objects(store)
        now += 3599.0
        index.put("x", {"text": "all", "n": 1})
        index.publish(url)
        assert everything <= objects(store), "not old enough"
        assert contents(old)
        now += 2.0
        index.put("y", {"text": "all", "n": 1})
        index.publish(url)
        assert [edition.number for edition in published(store)] == [2, 3, 4]
        assert objects(store) == {name for edition in published(store) for name in edition.blobs}
        cache.shared().clear()
        remote.MEMORY.empty()
        with old.reader() as reader:
            with pytest.raises(ReaderExpired, match="refresh") as expired:
                contents(old)
            assert "edition 4" in str(expired.value)
            with pytest.raises(ReaderExpired):
                old.search(q.Match("text", "all"), allow_partial_search_results=True)
            old.refresh()
            assert contents(old) == contents(index)
            with pytest.raises(ReaderExpired, match="make a new one"):
                reader.search(q.Match("text", "all"))
        old.close()
        [segment] = [name for name in objects(store) if name in published(store)[-1].blobs][:1]
        store.delete(f"blobs/{segment}")
        cache.shared().clear()
        with pytest.raises(CorruptIndexError), qc.open(url, read_only=True, storage_options=options) as reader:
            contents(reader)


def test_what_others_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    """Also by writers that each publish once, which know nothing of one another; and by the clock of the store."""
    store = FsspecStore(str(tmp_path / "live"))
    with filled(tmp_path / "books") as index:
        for number in range(8):
            index.put("same", {"text": "all", "n": number})
            Publisher(store).publish(index, take_over=True)
        kept = objects(store)
        assert len(published(store)) == 8
        one = Publisher(store)
        one.retention = 100.0
        ages = {key: 1000.0 + 60 * at for at, key in enumerate(store.list("published"))}
        store.modified = lambda key: ages.get(key, 1000.0 + 60 * 8)  # type: ignore[method-assign]
        index.put("same", {"text": "all", "n": 100})
        one.publish(index, take_over=True)
        # What the 7th dropped goes with it, 120 s after it was dropped; what the 8th did stays, of 60 s ago.
        assert [edition.number for edition in published(store)] == [7, 8, 9]
        left = {name for edition in published(store) for name in (*edition.blobs, *edition.dropped)}
        assert objects(store) >= left - set(published(store)[0].dropped)
        assert objects(store) < kept | left
        assert contents(there(store)) == contents(index)


def test_clocks_may_be_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FsspecStore(str(tmp_path / "live"))
    real = time.time_ns
    with filled(tmp_path / "books") as index:
        for ahead in (0, 10 * 86_400, -10 * 86_400, 3 * 86_400):  # seconds
            monkeypatch.setattr(time, "time_ns", lambda ahead=ahead: real() + ahead * 10**9)
            monkeypatch.setattr(time, "time", lambda ahead=ahead: real() / 1e9 + ahead)
            before = objects(store)
            index.put("x", {"text": "all", "n": ahead})
            index.merge()
            Publisher(store).publish(index, take_over=True)
            assert before <= objects(store), "nothing is old yet"
            with qc.open(tmp_path / "live", read_only=True) as reader:
                assert contents(reader) == contents(index)
        assert [edition.number for edition in published(store)] == [1, 2, 3, 4]


def test_a_writer_about_to_take_over_keeps_what_it_has_sent(tmp_path: Path) -> None:
    """One that sends while another publishes, drops and removes all the time; it is told, or it wins and is whole."""
    store = FsspecStore(str(tmp_path / "live"))
    with filled(tmp_path / "books") as index:
        first = Publisher(store)
        first.retention = 0.0
        first.publish(index)
        with renewed(tmp_path / "books") as other:
            other.bulk([{"id": f"x{n}", "text": "all", "n": n} for n in range(50)], id="id")

            class Interrupted(CountingStore):
                def create(self, key: str, data: Any) -> bool:
                    if self.calls["create"] == 0:
                        for number in range(4):
                            index.put("busy", {"text": "all", "n": number})
                            index.merge()
                            first.publish(index)
                    return super().create(key, data)

            second = Publisher(Interrupted(store))
            with pytest.raises(PublishFenced):
                second.publish(other, take_over=True)
            index.put("busy", {"text": "all", "n": 9})
            first.publish(index)
            second.publish(other, take_over=True)
            assert contents(there(store)) == contents(other)
            with pytest.raises(PublishFenced):
                first.publish(index)
            other.put("y", {"text": "all", "n": 9})
            second.retention = 0.0
            second.publish(other)
            other.put("y", {"text": "all", "n": 10})
            second.publish(other)
            [newest] = published(store)
            assert objects(store) == set(newest.blobs), "what nobody will name has gone"
            assert contents(there(store)) == contents(other)


def test_what_a_writer_that_died_had_sent_is_found(tmp_path: Path) -> None:
    store = FsspecStore(f"memory://{uuid.uuid4().hex}")

    class Dead(CountingStore):
        def create(self, key: str, data: Any) -> bool:
            raise Crashed

    with filled(tmp_path / "books") as index:
        for number in (1, 2):
            with pytest.raises(Crashed):
                Publisher(Dead(store)).publish(index, take_over=True)
            assert len(published(store)) == number - 1
            info = Publisher(store).publish(index, take_over=True)
            assert (info.number, info.uploaded) == (number, 0)
            index.put("x", {"text": "all", "n": number})


def test_a_writer_that_slept_until_its_number_was_free_again(tmp_path: Path) -> None:
    store = FsspecStore(str(tmp_path / "live"))
    with filled(tmp_path / "books") as index, renewed(tmp_path / "books") as other:
        asleep, awake = Publisher(store), Publisher(store)
        awake.retention = 0.0
        asleep.publish(index)

        class Slow(CountingStore):
            def create(self, key: str, data: Any) -> bool:
                for number in range(3):
                    other.put("z", {"text": "all", "n": number})
                    awake.publish(other, take_over=True)
                assert [edition.number for edition in published(store)] == [4]
                return super().create(key, data)

        index.put("lost", {"text": "all", "n": 1})
        asleep.use(Slow(store))
        with pytest.raises(PublishFenced, match="taken over"):
            asleep.publish(index)
        assert [edition.number for edition in published(store)] == [4]
        assert contents(there(store)) == contents(other)
        with pytest.raises(PublishFenced):
            asleep.publish(index)


class Outdated(CountingStore):
    """A store whose lists are from some time ago."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.frozen: dict[str, list[str]] = {}

    def freeze(self) -> None:
        self.frozen = {prefix: self.inner.list(prefix) for prefix in ("published", "blobs")}

    def list(self, prefix: str = "") -> list[str]:
        return self.frozen[prefix] if prefix in self.frozen else super().list(prefix)


def test_a_list_that_is_out_of_date(tmp_path: Path) -> None:
    store = FsspecStore(str(tmp_path / "live"))
    behind = Outdated(store)
    with filled(tmp_path / "books") as index:
        behind.freeze()
        publisher = Publisher(store)
        publisher.publish(index)
        with pytest.raises(PublishFenced):
            Publisher(behind).publish(index, take_over=True)  # which it did not know it had to
        behind.freeze()
        for number in range(3):
            index.put("x", {"text": "all", "n": number})
            publisher.publish(index)
        with there(behind) as reader:
            assert reader.stats()["generation"] == 1, "a moment ago"
            reader.refresh()
            assert reader.stats()["generation"] in (2, 4)
        with renewed(tmp_path / "books") as other:
            second = Publisher(behind)
            info = second.publish(other, take_over=True)
            assert (info.number, info.term) == (5, 2)
            second.retention = 0.0
            other.put("y", {"text": "all", "n": 1})
            second.publish(other)
            assert [edition.number for edition in published(store)] == [6], "in order, also what no list has shown"
            with pytest.raises(OutageError, match="out of date"):
                there(behind)
            behind.frozen.clear()
            assert contents(there(behind)) == contents(other)


def test_bytes_that_come_back(tmp_path: Path) -> None:
    """The same segment, of the same name even, is another object when it was dropped meanwhile."""
    store = FsspecStore(str(tmp_path / "live"))
    with filled(tmp_path / "books") as index:
        index.flush()
        with renewed(tmp_path / "books") as other:
            publishers = Publisher(store), Publisher(store)
            for publisher in publishers:
                publisher.retention = 0.0
            publishers[0].publish(index)
            with there(store) as reader:
                index.merge()
                publishers[0].publish(index)
                assert len(published(store)[-1].blobs) == 1
                publishers[1].publish(other, take_over=True)
                reader.refresh()
                assert reader.stats()["generation"] == 3
                assert contents(reader) == contents(other)


def test_a_reader_that_opens_while_its_edition_goes(tmp_path: Path) -> None:
    """Between the list, the edition and its objects newer ones come and older ones go."""
    store = FsspecStore(str(tmp_path / "live"))
    with filled(tmp_path / "books") as index:
        publisher = Publisher(store)
        publisher.retention = 0.0
        publisher.publish(index)

        class Racing(CountingStore):
            def _count(self, name: str, requests: int = 0, size: int = 0) -> None:
                super()._count(name, requests, size)
                if self.calls[name] == 1 and name in ("get", "read"):
                    for number in range(2):
                        index.put("x", {"text": "all", "n": number})
                        index.merge()
                        publisher.publish(index)

        far = Racing(store)
        with there(far) as reader:
            assert far.calls["get"] > 1
            assert far.calls["read"] > 1
            assert contents(reader) == contents(index)
        with there(store) as reader:
            for number in range(3):
                index.put("x", {"text": "all", "n": number})
                index.merge()
                publisher.publish(index)
            cache.shared().clear()
            reader.refresh()
            assert contents(reader) == contents(index), "whatever went while it slept"


# --- what stops half-way -------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True])
def test_a_publish_that_stops_anywhere_is_not_there(tmp_path: Path, after: bool) -> None:
    """At every call to the store, before or after it did its work; the next one finds its way, and all garbage goes."""
    store = FsspecStore(f"memory://{uuid.uuid4().hex}")
    done = False
    with filled(tmp_path / "books") as index, warnings.catch_warnings():
        Publisher(store).publish(index)
        at = 0
        while not done:
            at += 1
            publisher = Publisher(DyingStore(store, at, after=after))
            publisher.retention = 0.0
            states, number = [contents(there(store))], published(store)[-1].number
            try:
                for turn in range(2):
                    index.put(str(at), {"text": f"turn{at} all", "n": turn})
                    index.delete(str(at - 1))
                    index.merge(1 + at % 3)
                    states.append(contents(index))
                    publisher.publish(index, take_over=True)
                done = True
            except Crashed:
                pass
            assert contents(there(store)) == states[published(store)[-1].number - number]
        assert at > 20
        last = Publisher(store)
        last.retention = 0.0
        for turn in range(2):
            index.put("last", {"text": "all", "n": turn})
            last.publish(index, take_over=True)
        [newest] = published(store)
        assert objects(store) == set(newest.blobs)
        assert contents(there(store)) == contents(index)
        assert index.check().ok


@pytest.mark.parametrize("after", [False, True])
def test_a_store_that_fails_once(tmp_path: Path, after: bool) -> None:
    """An error of the store is an error of publish, and nothing else: the same index publishes again."""
    store = FsspecStore(f"memory://{uuid.uuid4().hex}")
    with filled(tmp_path / "books") as index:
        at, failed = 0, 1
        while failed:
            at += 1
            failing = DyingStore(store, at, after=after, lasting=False,
                                 error=OutageError("it is out", path="x"))
            publisher = Publisher(failing)
            publisher.retention, failed = 0.0, 0
            for turn in range(3):
                index.put("x", {"text": "all", "n": at * 10 + turn})
                index.merge()
                with warnings.catch_warnings(record=True) as warned:
                    warnings.simplefilter("always")
                    try:
                        publisher.publish(index, take_over=turn == 0)
                    except OutageError:
                        failed += 1
                        publisher.publish(index, take_over=turn == 0)
                assert all("it is out" in str(one.message) for one in warned)
                failed += len(warned)
            assert contents(there(store)) == contents(index)
            assert failed <= 1
            index.put("x", {"text": "all", "n": -at})
            publisher.use(store)
            publisher.publish(index)
            numbers = [edition.number for edition in published(store)]
            assert numbers == [numbers[-1]], "what failed to go has gone"
        assert at > 15
        assert tidied(store, index) == set(published(store)[-1].blobs)


def tidied(store: Any, index: qc.Index) -> set[str]:
    """What objects there are after all that is garbage has gone."""
    last = Publisher(store)
    last.retention = 0.0
    for turn in range(2):
        index.put("last", {"text": "all", "n": turn})
        last.publish(index, take_over=True)
    return objects(store)


@pytest.mark.filterwarnings("ignore::quidditch_core.translog.log.TornLogWarning")
def test_what_is_published_is_never_ahead_of_the_index(tmp_path: Path) -> None:
    """The machine of the writer crashes before each step of its disk; what it finds has all that readers have seen."""
    def program(files: CrashFiles, store: FsspecStore) -> None:
        index = facade._create(files, "/books", qc.Mapping.from_dict(MAPPING), qc.Settings.from_dict(MANUAL),
                               background=False)
        publisher = Publisher(store)
        for number in range(3):
            index.put(str(number), {"text": "all", "n": number})
            index.delete(str(number - 2))
            publisher.publish(index)

    whole = CrashFiles()
    program(whole, FsspecStore(f"memory://{uuid.uuid4().hex}"))
    for step in range(0, len(whole.steps), 3):
        files, store = CrashFiles(), FsspecStore(f"memory://{uuid.uuid4().hex}")
        files.crash(step)
        with suppress(Crashed):
            program(files, store)
        seen = Editions(store).newest()
        for damage in DAMAGES if seen is not None else ():
            with facade._open(files.after_crash(step, damage), "/books", background=False) as found:
                committed = found._writer.manifest  # type: ignore[union-attr]
                assert committed.index_uuid == seen.manifest.index_uuid  # type: ignore[union-attr]
                assert committed.max_seq_no >= seen.manifest.max_seq_no  # type: ignore[union-attr]
                Publisher(store).publish(found, take_over=True)
                with there(store) as reader:
                    assert contents(reader) == contents(found)
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)


AGAIN = """
import json, sys
import quidditch_core as qc
path, url, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
with qc.open(path) as index:
    for turn in range(10_000):
        index.bulk([{"id": str(n), "text": "all", "n": index.stats()["max_seq_no"] + 1} for n in range(20)], id="id")
        index.merge(1 + turn % 3)
        print(index.publish(url, storage_options=options, take_over=turn == 0, retention=0).number, flush=True)
"""


def test_a_killed_publish_is_not_there(s3_server: str, tmp_path: Path, python_env: dict[str, str]) -> None:
    """kill -9 at any moment: each edition is a moment of the index, the same for all documents of a bulk."""
    url, options = f"s3://{s3.BUCKET}/{uuid.uuid4().hex}", s3.options(s3_server)
    store, rng, reached = FsspecStore(url, options), Random(1), 0
    qc.create(tmp_path / "books", MAPPING, settings=MANUAL).close()
    arguments = [sys.executable, "-c", AGAIN, str(tmp_path / "books"), url, json.dumps(options)]
    for _ in range(4):
        with subprocess.Popen(arguments, env=python_env, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            first = int(child.stdout.readline())
            assert first > reached
            time.sleep(rng.uniform(0, 0.3))
            child.send_signal(signal.SIGKILL)
            said = [first, *map(int, child.stdout.read().split())]
        newest = Editions(store).newest()
        assert newest is not None
        reached = newest.number
        assert reached in (said[-1], said[-1] + 1)
        with there(store) as reader:
            found = contents(reader)
            assert len(found) == 20
            assert len({source["n"] for source, _ in found.values()}) == 1
    with qc.open(tmp_path / "books") as index:
        assert tidied(store, index) == set(published(store)[-1].blobs)


def test_damage_is_noticed(tmp_path: Path) -> None:
    live = tmp_path / "live"
    with filled(tmp_path / "books") as index:
        index.publish(live)
        index.put("x", {"text": "all", "n": 1})
        index.publish(live)
    newest = live / "published" / "manifest-0000000000000002"
    whole = newest.read_bytes()
    for at in range(0, len(whole), 97):
        for other in (whole[:at], whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]):
            newest.write_bytes(other)
            with pytest.raises((CorruptIndexError, FormatError)):
                qc.open(live, read_only=True)
            with qc.open(tmp_path / "books") as index, pytest.raises((CorruptIndexError, FormatError)):
                index.publish(live, take_over=True)
    edition = Editions(FsspecStore(str(live))).get(1)
    assert edition is not None
    replace, manifest = publish.msgspec.structs.replace, edition.manifest
    for wrong in (
        replace(edition, blobs=edition.blobs[1:]),
        replace(edition, blobs=("../" + edition.blobs[0], *edition.blobs[1:])),
        replace(edition, dropped=("../../x",)),
        replace(edition, manifest=replace(manifest, generation=3)),
        replace(edition, manifest=replace(manifest, segments=(*manifest.segments, manifest.segments[0]))),
    ):
        newest.write_bytes(publish.framed("published", replace(
            wrong, manifest=replace(wrong.manifest, generation=wrong.number + 1))))
        with pytest.raises(CorruptIndexError, match="contradicts itself"):
            qc.open(live, read_only=True)
    newest.write_bytes(whole)
    blob = max((live / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    raw = blob.read_bytes()
    blob.write_bytes(raw[:100] + bytes([raw[100] ^ 1]) + raw[101:])
    with qc.open(live, read_only=True) as reader, pytest.raises(CorruptIndexError):
        contents(reader)


def test_an_index_that_is_damaged_at_home_is_not_published(tmp_path: Path) -> None:
    with filled(tmp_path / "books") as index:
        index.flush()
        segment = max((tmp_path / "books" / "segments").iterdir(), key=lambda path: path.stat().st_size)
        raw = segment.read_bytes()
        with segment.open("r+b") as file:
            file.seek(50)
            file.write(bytes([raw[50] ^ 255]))
        with pytest.raises(QuidditchError):
            index.publish(tmp_path / "live")
    assert qc.Repository(tmp_path / "live").published() is None

"""Blobs in stores, their pages in memory, and the block cache."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from quidditch_core.errors import CorruptIndexError
from quidditch_core.files import PAGE_SIZE
from quidditch_core.tiering import Tier, remote
from quidditch_core.tiering.cache import BlockCache
from quidditch_core.tiering.remote import Memory, RemoteBlob, RemoteTier, fetch
from quidditch_core.tiering.store import FsspecStore
from quidditch_core.tiering.testing import CountingStore, TierContract
from tests.s3 import BUCKET, options

PAGES = 40
DATA = np.random.default_rng(3).integers(0, 256, PAGES * PAGE_SIZE, np.uint8).tobytes()


class TestDirectory(TierContract):
    lazy = True

    def make_tier(self, place: Path) -> Tier:
        return RemoteTier(FsspecStore(f"file://{place}"), "an-index", "cold")


class TestMemory(TierContract):
    lazy = True

    def make_tier(self, place: Path) -> Tier:
        return RemoteTier(FsspecStore(f"memory://{place}"), "an-index", "cold")


class TestS3WithACache(TierContract):
    lazy = True

    @pytest.fixture(autouse=True)
    def server(self, s3_server: str, tmp_path: Path) -> Iterator[None]:
        self.url, self.cache = s3_server, BlockCache(str(tmp_path / "blocks"), 64 << 20)
        yield
        self.cache.close()

    def make_tier(self, place: Path) -> Tier:
        store = FsspecStore(f"s3://{BUCKET}{str(place).lower()}", options(self.url))
        return RemoteTier(store, "an-index", "cold", self.cache)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[BlockCache]:
    made = BlockCache(str(tmp_path / "blocks"), 64 << 20)
    assert made.on
    yield made
    made.close()


@pytest.fixture
def store() -> CountingStore:
    return CountingStore(FsspecStore(f"memory://{uuid.uuid4().hex}"))


def opened(store: CountingStore, cache: BlockCache | None = None, name: str = "seg-1") -> RemoteBlob:
    tier = RemoteTier(store, "i", "cold", cache)
    if store.size(f"i/{name}") is None:
        tier.write(name, [DATA])
    blob = tier.open(name, len(DATA))
    blob.set_checksums(np.array([zlib.crc32(DATA[at : at + PAGE_SIZE]) for at in range(0, len(DATA), PAGE_SIZE)],
                                np.uint32), len(DATA))
    store.calls.clear()
    store.requests = store.bytes = 0
    return blob


def shown(blob: RemoteBlob, page: int) -> bool:
    part = slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE)
    return bytes(blob.view[part]) == DATA[part]


def test_many_blobs_are_fetched_in_one_round(store: CountingStore) -> None:
    blobs = [opened(store, name=f"seg-{number}") for number in range(3)]
    fetch([(blob, [(PAGE_SIZE, 1), (30 * PAGE_SIZE, 2 * PAGE_SIZE)]) for blob in blobs])
    assert store.calls == {"read": 1}
    assert store.bytes == 9 * PAGE_SIZE
    assert all(shown(blob, page) for blob in blobs for page in (1, 30, 31))
    assert not shown(blobs[0], 2)
    fetch([(blob, [(PAGE_SIZE, PAGE_SIZE)]) for blob in blobs])
    assert store.calls == {"read": 1}


def test_what_the_cache_has_is_not_asked_for(store: CountingStore, cache: BlockCache) -> None:
    opened(store, cache).need([(0, 4 * PAGE_SIZE)])
    blob = opened(store, cache)
    blob.need([(0, 4 * PAGE_SIZE)])
    assert store.calls == {}
    blob.need([(0, 5 * PAGE_SIZE)])
    assert store.bytes == PAGE_SIZE
    assert all(shown(blob, page) for page in range(5))


def test_a_wrong_page_in_the_cache_is_fetched_again(store: CountingStore, cache: BlockCache) -> None:
    blob = opened(store, cache)
    cache.give({blob.cache_key(0): bytes(PAGE_SIZE), blob.cache_key(1): b"short"})
    with cache._env.begin(write=True, db=cache._pages) as writing:  # a bit that flipped
        writing.put(blob.cache_key(2), b"\0" * 12 + DATA[2 * PAGE_SIZE : 3 * PAGE_SIZE])
    blob.need([(0, 3 * PAGE_SIZE)])
    assert all(shown(blob, page) for page in range(3))


def test_a_wrong_page_in_the_store_is_damage(store: CountingStore, cache: BlockCache) -> None:
    blob = opened(store, cache)
    store.put("i/seg-1", [DATA[:100], b"\0", DATA[101:]])
    with pytest.raises(CorruptIndexError, match="page 0"):
        blob.need([(0, 1)])
    blob.need([(PAGE_SIZE, 1)])


def test_memory_is_bounded_by_retiring(store: CountingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(8 * PAGE_SIZE)
    monkeypatch.setattr(remote, "MEMORY", memory)
    first, second = opened(store), opened(store, name="seg-2")
    first.need([(0, 6 * PAGE_SIZE)])
    second.need([(0, 4 * PAGE_SIZE)])
    assert (first.retired, second.retired, memory.used) == (True, False, 4 * PAGE_SIZE)
    assert all(shown(first, page) for page in range(6)), "who uses it keeps it"
    again = first.fresh()
    again.need([(0, PAGE_SIZE)])
    assert shown(again, 0)
    del second, again
    gc.collect()
    assert memory.used == 0


def test_the_cache_keeps_its_budget(tmp_path: Path) -> None:
    cache = BlockCache(str(tmp_path / "small"), 4 << 20)
    page = bytes(PAGE_SIZE)
    for number in range(200):
        cache.give({b"%08d" % number: page})
        cache.take([b"%08d" % 0])
    kept = cache.take([b"%08d" % number for number in range(200)])
    assert 40 < len(kept) < 66
    assert b"%08d" % 199 in kept
    assert b"%08d" % 0 in kept, "what is read again and again stays"
    assert os.stat(tmp_path / "small" / "data.mdb").st_blocks * 512 < 8 << 20
    cache.close()


def test_a_clean_cache_is_used_again_and_an_unclean_one_deleted(tmp_path: Path) -> None:
    place = str(tmp_path / "blocks")
    cache = BlockCache(place)
    cache.give({b"k" * 20: b"data"})
    cache.close()
    cache = BlockCache(place)
    assert cache.take([b"k" * 20]) == {b"k" * 20: b"data"}
    cache.close()
    code = ("import os, signal, sys; from quidditch_core.tiering.cache import BlockCache; c = BlockCache(sys.argv[1]);"
            "c.give({b'x' * 20: b'y'}); assert c.take([b'k' * 20]); os.kill(os.getpid(), signal.SIGKILL)")
    killed = subprocess.run([sys.executable, "-c", code, place], check=False)
    assert killed.returncode == -signal.SIGKILL
    cache = BlockCache(place)
    assert cache.on
    assert cache.take([b"k" * 20, b"x" * 20]) == {}
    cache.close()


def test_the_cache_may_be_deleted_under_load(store: CountingStore, cache: BlockCache) -> None:
    failed: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(10):
                blob = opened(store, cache)
                blob.need([(0, len(DATA))])
                assert all(shown(blob, page) for page in range(PAGES))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    shutil.rmtree(cache.directory)
    for thread in threads:
        thread.join()
    assert failed == []


def test_the_cache_may_be_closed_under_load(tmp_path: Path) -> None:
    """As at the end of a process whose threads still search: LMDB's memory stays until they have let go of it."""
    pages = {b"%016d" % number: bytes(PAGE_SIZE) for number in range(20)}
    failed: list[BaseException] = []

    def use(cache: BlockCache, begun: threading.Event) -> None:
        try:
            while cache.on:
                cache.give(pages)
                begun.set()
                assert set(cache.take(list(pages)).values()) <= {bytes(PAGE_SIZE)}
        except BaseException as error:
            failed.append(error)

    for _ in range(15):
        cache, begun = BlockCache(str(tmp_path / "blocks")), threading.Event()
        threads = [threading.Thread(target=use, args=(cache, begun)) for _ in range(3)]
        for thread in threads:
            thread.start()
        begun.wait(10)
        cache.close()
        for thread in threads:
            thread.join()
    assert failed == []


def test_a_blob_may_go_while_another_is_counted(store: CountingStore) -> None:
    """The garbage collector may run wherever memory is allocated, and drop a blob."""
    memory = Memory(1 << 20)
    first, second = opened(store), opened(store)
    memory.grow(first, 5000)
    with memory._mutex:
        memory.drop(first)
    memory.grow(second, 100)
    assert memory.used == 100


def test_a_damaged_cache_file_costs_only_speed(store: CountingStore, tmp_path: Path) -> None:
    place = tmp_path / "blocks"
    cache = BlockCache(str(place))
    opened(store, cache).need([(0, len(DATA))])
    cache.close()
    raw = bytearray((place / "data.mdb").read_bytes())
    for at in range(9 * 4096 + 100, len(raw), 16 * 1024):
        raw[at] ^= 255
    (place / "data.mdb").write_bytes(raw)
    cache = BlockCache(str(place))
    blob = opened(store, cache)
    blob.need([(0, len(DATA))])
    assert all(shown(blob, page) for page in range(PAGES))
    cache.close()


def test_several_processes_share_a_cache(tmp_path: Path) -> None:
    place = str(tmp_path / "blocks")
    code = ("import sys; from quidditch_core.tiering.cache import BlockCache; c = BlockCache(sys.argv[1]);"
            "n = sys.argv[2].encode();\n"
            "for i in range(50): c.give({n + b'%016d' % i: bytes(65536)})\n"
            "assert len(c.take([n + b'%016d' % i for i in range(50)])) == 50; c.close()")
    running = [subprocess.Popen([sys.executable, "-c", code, place, f"p{n}"]) for n in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    cache = BlockCache(place)
    assert len(cache.take([b"p%d%016d" % (n, i) for n in range(3) for i in range(50)])) == 150
    cache.close()

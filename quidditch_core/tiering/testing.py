"""To test with: what a tier must promise, and tiers and a disk that count, dawdle, fail and crash.

Who writes a backend of his own subclasses `TierContract`, says how to make his tier, and runs pytest::

    class TestAttic(TierContract):
        def make_tier(self, place):
            return AtticTier(place)

`StoreContract` does the same for a store, that is for a URL that fsspec opens with a backend of yours.

The other tiers go around any tier: `CountingTier` for budgets of calls and bytes, `LatencyTier` for stores that
take their time, `FaultTier` for those that fail by a script. `CrashFiles` is a disk for whatever speaks to
`quidditch_core.files.Files`, and stops dead at any step. Nothing here needs pytest to be imported.
"""

from __future__ import annotations

import errno
import hashlib
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar, get_args

import numpy as np

from quidditch_core.errors import (
    CorruptIndexError,
    IndexClosedError,
    InvalidNameError,
    RequestError,
    StorageError,
    TruncatedError,
    UnsupportedError,
)
from quidditch_core.files import PAGE_SIZE, Blob, Bytes, storage_error
from quidditch_core.tiering import BlobInfo, Span, Store, Tier
from quidditch_core.tiering.crash import DAMAGES, Crashed, CrashFiles, Damage
from quidditch_core.tiering.store import coalesced

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DAMAGES", "CountingStore", "CountingTier", "CrashFiles", "Crashed", "Damage", "DyingStore", "Fault",
           "FaultTier", "LatencyTier", "Operation", "StoreContract", "TierContract"]

T = TypeVar("T")

Operation = Literal["write", "sync", "open", "delete", "list", "sweep", "pread", "need"]
"""What one may ask of a tier, and, the last two, of a blob that it opened."""


# --- tiers around tiers --------------------------------------------------------------------------------------


class _Around:
    """`Tier` that hands everything on to another one, after `_before` has seen it."""

    def __init__(self, inner: Tier) -> None:
        self.inner = inner
        self.name = inner.name

    def _before(self, operation: Operation, name: str, size: int) -> None:
        """``size`` counts the bytes that are asked for."""

    def write(self, name: str, chunks: Iterable[Bytes]) -> BlobInfo:
        self._before("write", name, 0)
        return self.inner.write(name, chunks)

    def sync(self) -> None:
        self._before("sync", "", 0)
        self.inner.sync()

    def open(self, name: str, expect_size: int | None = None) -> Blob:
        self._before("open", name, 0)
        return _BlobAround(self.inner.open(name, expect_size), self._before)

    def delete(self, name: str) -> None:
        self._before("delete", name, 0)
        self.inner.delete(name)

    def list(self) -> list[str]:
        self._before("list", "", 0)
        return self.inner.list()

    def sweep(self) -> int:
        self._before("sweep", "", 0)
        return self.inner.sweep()


class _BlobAround:
    """`Blob` of such a tier. What kernels read by ``address`` nobody sees: only what was needed for it."""

    def __init__(self, inner: Blob, before: Callable[[Operation, str, int], None]) -> None:
        self.name, self.size, self.address, self.view = inner.name, inner.size, inner.address, inner.view
        self._inner, self._before = inner, before

    def pread(self, offset: int, size: int) -> bytes:
        self._before("pread", self.name, size)
        return self._inner.pread(offset, size)

    def set_checksums(self, crcs: NDArray[np.uint32], covered: int) -> None:
        self._inner.set_checksums(crcs, covered)

    def need(self, ranges: Iterable[tuple[int, int]]) -> None:
        ranges = list(ranges)
        self._before("need", self.name, sum(length for _, length in ranges))
        self._inner.need(ranges)

    def close(self) -> None:
        self._inner.close()


class CountingTier(_Around):
    """Counts calls of each operation in ``calls``, and in ``bytes`` those written, read and needed."""

    def __init__(self, inner: Tier) -> None:
        super().__init__(inner)
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self._mutex = threading.Lock()

    def write(self, name: str, chunks: Iterable[Bytes]) -> BlobInfo:
        info = super().write(name, chunks)
        with self._mutex:
            self.bytes["write"] += info.size
        return info

    def _before(self, operation: Operation, name: str, size: int) -> None:
        with self._mutex:
            self.calls[operation] += 1
            if size:
                self.bytes[operation] += size


class LatencyTier(_Around):
    """Takes ``seconds`` for every call, and ``per_byte`` more for each byte read or needed."""

    def __init__(
        self, inner: Tier, seconds: float, per_byte: float = 0, *, sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(inner)
        self._seconds, self._per_byte, self._sleep = seconds, per_byte, sleep

    def _before(self, operation: Operation, name: str, size: int) -> None:
        self._sleep(self._seconds + size * self._per_byte)


@dataclass(frozen=True, slots=True)
class Fault:
    """The ``nth`` call (from 1) of ``operation`` on a blob whose name fits the pattern ``name`` fails.

    It fails with a StorageError of ``number``; ``lasting``: so do all later ones. A write fails half way, so
    that the tier underneath has to clean up.
    """

    operation: Operation
    nth: int = 1
    number: int = errno.EIO
    name: str = "*"
    lasting: bool = False

    def __post_init__(self) -> None:
        if self.operation not in get_args(Operation):
            raise RequestError("no such operation", path="operation", found=self.operation,
                               expected="one of " + ", ".join(get_args(Operation)))


class FaultTier(_Around):
    """Fails as the script says, and else does as the tier underneath. ``failed`` counts the failures."""

    def __init__(self, inner: Tier, *script: Fault) -> None:
        super().__init__(inner)
        self.failed = 0
        self._script = script
        self._seen: Counter[Fault] = Counter()
        self._mutex = threading.Lock()

    def write(self, name: str, chunks: Iterable[Bytes]) -> BlobInfo:
        error = self._due("write", name)
        return self.inner.write(name, chunks if error is None else _broken_off(chunks, error))

    def _before(self, operation: Operation, name: str, size: int) -> None:
        error = self._due(operation, name)
        if error is not None:
            raise error

    def _due(self, operation: Operation, name: str) -> StorageError | None:
        error = None
        with self._mutex:
            for fault in self._script:
                if fault.operation != operation or not fnmatchcase(name, fault.name):
                    continue
                self._seen[fault] += 1
                if self._seen[fault] == fault.nth or (fault.lasting and self._seen[fault] > fault.nth):
                    cause = OSError(fault.number, f"as the script says ({operation} number {self._seen[fault]})")
                    error = storage_error(operation, name or self.name, cause)
                    error.__cause__ = cause
            self.failed += error is not None
        return error


def _broken_off(chunks: Iterable[Bytes], error: StorageError) -> Iterator[Bytes]:
    whole = b"".join(chunks)
    yield whole[: len(whole) // 2]
    raise error


class CountingStore:
    """`Store` around another one: ``calls`` by name, ``requests`` that its reads became, and the ``bytes`` of them."""

    def __init__(self, inner: Store) -> None:
        self.inner, self.url = inner, inner.url
        self.calls: Counter[str] = Counter()
        self.requests = self.bytes = 0
        self._mutex = threading.Lock()

    def _count(self, name: str, requests: int = 0, size: int = 0) -> None:
        with self._mutex:
            self.calls[name] += 1
            self.requests += requests
            self.bytes += size

    def put(self, key: str, chunks: Iterable[Bytes]) -> None:
        self._count("put")
        self.inner.put(key, chunks)

    def create(self, key: str, data: Bytes) -> bool:
        self._count("create")
        return self.inner.create(key, data)

    def try_create(self) -> None:
        self._count("try_create")
        self.inner.try_create()

    def get(self, key: str) -> bytes | None:
        self._count("get")
        return self.inner.get(key)

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        asked = coalesced(spans)
        self._count("read", len(asked), sum(span.length for span in asked))
        return self.inner.read(spans)

    def size(self, key: str) -> int | None:
        self._count("size")
        return self.inner.size(key)

    def modified(self, key: str) -> float | None:
        self._count("modified")
        return self.inner.modified(key)

    def list(self, prefix: str = "") -> list[str]:
        self._count("list")
        return self.inner.list(prefix)

    def delete(self, key: str) -> None:
        self._count("delete")
        self.inner.delete(key)

    def reach(self) -> None:
        self._count("reach")
        self.inner.reach()

    def sweep(self, prefix: str = "", age: float = 0.0) -> int:
        self._count("sweep")
        return self.inner.sweep(prefix, age)


class DyingStore:
    """`Store` around another one, whose call number ``at`` (from 1) raises ``error``; ``lasting``: all later ones too.

    That call does nothing, or, with ``after``, its work, of which the caller never hears. ``calls`` counts them.
    """

    def __init__(
        self, inner: Store, at: int, *, after: bool = False, lasting: bool = True,
        error: BaseException | None = None,
    ) -> None:
        self.inner, self.url = inner, inner.url
        self.calls = 0
        self._at, self._after, self._lasting = at, after, lasting
        self._error = Crashed("the machine has crashed") if error is None else error

    def _call(self, call: Callable[[], T]) -> T:
        self.calls += 1
        if self.calls == self._at and self._after:
            call()
        if self.calls == self._at or (self._lasting and self.calls > self._at):
            raise self._error
        return call()

    def put(self, key: str, chunks: Iterable[Bytes]) -> None:
        self._call(lambda: self.inner.put(key, chunks))

    def create(self, key: str, data: Bytes) -> bool:
        return self._call(lambda: self.inner.create(key, data))

    def try_create(self) -> None:
        self._call(self.inner.try_create)

    def get(self, key: str) -> bytes | None:
        return self._call(lambda: self.inner.get(key))

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        return self._call(lambda: self.inner.read(spans))

    def size(self, key: str) -> int | None:
        return self._call(lambda: self.inner.size(key))

    def modified(self, key: str) -> float | None:
        return self._call(lambda: self.inner.modified(key))

    def list(self, prefix: str = "") -> list[str]:
        return self._call(lambda: self.inner.list(prefix))

    def delete(self, key: str) -> None:
        self._call(lambda: self.inner.delete(key))

    def reach(self) -> None:
        self._call(self.inner.reach)

    def sweep(self, prefix: str = "", age: float = 0.0) -> int:
        return self._call(lambda: self.inner.sweep(prefix, age))


# --- what a tier must promise --------------------------------------------------------------------------------

COVERED: Final = 3 * PAGE_SIZE + 12_345
TAIL: Final = 1_000


class TierContract:
    """Tests of everything that `Tier` and `Blob` promise. Subclass it as ``Test...`` and define `make_tier`."""

    lazy = False
    """Whether a blob is not looked at before it is read: what is wrong shows no earlier, and what was deleted cannot be
    read."""

    def make_tier(self, place: Path) -> Tier:
        """The tier of ``place``, an empty directory of this test's own, or a key to what takes its place.

        Called again with the same ``place`` it must give a tier that shows the same blobs.
        """
        raise NotImplementedError("say how to make the tier")

    def test_what_was_written_is_read(self, tmp_path: Path) -> None:
        tier, data = self.make_tier(tmp_path), _bytes()
        chunks: list[Bytes] = [data[:10], b"", bytearray(data[10:70_000]), memoryview(data)[70_000:]]
        info = tier.write("seg-1", iter(chunks))
        tier.sync()
        assert info == BlobInfo("seg-1", len(data), hashlib.sha256(data).hexdigest())
        blob = _opened(tier)
        assert (blob.name, blob.size) == ("seg-1", len(data))
        assert blob.pread(COVERED, TAIL) == data[COVERED:]
        assert blob.pread(0, 0) == b""
        blob.need([(0, COVERED)])
        assert bytes(blob.view[:COVERED]) == data[:COVERED]

    def test_a_blob_is_one_range_of_addresses(self, tmp_path: Path) -> None:
        blob = self.written(tmp_path)
        array = np.frombuffer(blob.view, np.uint8)
        assert array.ctypes.data == blob.address
        assert len(array) == blob.size
        assert blob.address % 64 == 0, "vector loads of aligned sections must be aligned"
        assert not array.flags.writeable

    def test_bytes_are_needed_before_use(self, tmp_path: Path) -> None:
        """In any order and number of ranges, also while other threads need the same ones."""
        blob, data = self.written(tmp_path), _bytes()
        ranges = [(PAGE_SIZE - 5, 10), (COVERED - 1, 1), (17, 0), (0, 1), (2 * PAGE_SIZE, PAGE_SIZE)]
        threads = [threading.Thread(target=blob.need, args=(iter(ranges),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for offset, length in ranges:
            assert bytes(blob.view[offset : offset + length]) == data[offset : offset + length]

    def test_ranges_outside_are_refused(self, tmp_path: Path) -> None:
        blob = self.written(tmp_path)
        for offset, size in ((blob.size, 1), (0, blob.size + 1), (-1, 1), (5, -1)):
            with _raises(CorruptIndexError):
                blob.pread(offset, size)
        for offset, size in ((COVERED, 1), (0, COVERED + 1), (-1, 1)):
            with _raises(CorruptIndexError):
                blob.need([(offset, size)])

    def test_a_wrong_page_is_never_handed_out(self, tmp_path: Path) -> None:
        blob, crcs = self.written(tmp_path), _checksums()
        crcs[1] ^= 1
        blob.set_checksums(crcs, COVERED)
        blob.need([(0, PAGE_SIZE), (2 * PAGE_SIZE, 1)])
        for _ in range(2):
            with _raises(CorruptIndexError):
                blob.need([(2 * PAGE_SIZE - 1, 2)])

    def test_checksums_must_fit(self, tmp_path: Path) -> None:
        blob = self.written(tmp_path)
        for crcs, covered in ((_checksums()[:-1], COVERED), (_checksums(), blob.size + 1), (_checksums(), -1)):
            with _raises(CorruptIndexError):
                blob.set_checksums(crcs, covered)

    def test_what_is_missing_or_of_another_size_is_damage(self, tmp_path: Path) -> None:
        tier = self.make_tier(tmp_path)
        tier.write("seg-1", [b"twelve bytes"])
        tier.write("seg-2", [])
        assert tier.open("seg-1", 12).size == 12
        for name, size in (("seg-2", None), ("seg-3", None)):
            with _raises(CorruptIndexError):
                tier.open(name, size)
        for name, size in (("seg-1", 11), ("seg-1", 13)) if not self.lazy else (("seg-1", 13), ("seg-3", 5)):
            with _raises(TruncatedError if self.lazy and name == "seg-1" else CorruptIndexError):
                blob = tier.open(name, size)
                blob.pread(0, blob.size)

    def test_names_cannot_lead_elsewhere(self, tmp_path: Path) -> None:
        tier = self.make_tier(tmp_path)
        for name in ("", "../up", "a/b", "/etc/passwd", ".hidden", "UPPER", "a.tmp", "x" * 252, "a\0b"):
            for call in (lambda name=name: tier.write(name, [b"x"]), lambda name=name: tier.open(name),
                         lambda name=name: tier.delete(name)):
                with _raises(InvalidNameError):
                    call()

    def test_a_blob_is_written_once(self, tmp_path: Path) -> None:
        tier = self.make_tier(tmp_path)
        tier.write("seg-1", [b"first"])
        with _raises(StorageError):
            tier.write("seg-1", [b"second"])
        assert tier.open("seg-1", 5).pread(0, 5) == b"first"

    def test_a_write_that_fails_leaves_nothing(self, tmp_path: Path) -> None:
        def chunks() -> Iterator[Bytes]:
            yield b"x" * 100_000
            raise KeyboardInterrupt

        tier = self.make_tier(tmp_path)
        with _raises(KeyboardInterrupt):
            tier.write("seg-1", chunks())
        assert tier.list() == []
        assert tier.sweep() == 0
        tier.write("seg-1", [b"whole"])
        assert tier.open("seg-1", 5).pread(0, 5) == b"whole"

    def test_complete_blobs_are_listed(self, tmp_path: Path) -> None:
        tier = self.make_tier(tmp_path)
        assert tier.list() == []
        tier.sync()
        for name in ("seg-2", "seg-10", "live-1"):
            tier.write(name, [b"x"])
        assert tier.list() == ["live-1", "seg-10", "seg-2"]
        tier.delete("seg-10")
        tier.delete("seg-10")
        assert tier.list() == ["live-1", "seg-2"]

    def test_sweeping_spares_what_is_complete_or_being_written(self, tmp_path: Path) -> None:
        tier = self.make_tier(tmp_path)
        tier.write("seg-1", [b"x"])

        def chunks() -> Iterator[Bytes]:
            yield b"before "
            assert tier.sweep() == 0
            assert tier.list() == ["seg-1"]
            yield b"after"

        tier.write("seg-2", chunks())
        assert tier.sweep() == 0
        assert tier.list() == ["seg-1", "seg-2"]
        assert tier.open("seg-2", 12).pread(0, 12) == b"before after"

    def test_what_was_synced_is_there_for_the_next_process(self, tmp_path: Path) -> None:
        tier = self.make_tier(tmp_path)
        tier.write("seg-1", [b"x" * 1000])
        tier.sync()
        again = self.make_tier(tmp_path)
        assert again.name == tier.name
        assert again.list() == ["seg-1"]
        assert again.open("seg-1", 1000).pread(998, 2) == b"xx"

    def test_an_open_blob_outlives_its_deletion(self, tmp_path: Path) -> None:
        tier = self.make_tier(tmp_path)
        tier.write("seg-1", [_bytes()])
        blob = _opened(tier)
        if self.lazy:
            blob.need([(0, COVERED)])
        tier.delete("seg-1")
        blob.need([(0, COVERED)])
        assert bytes(blob.view[:COVERED]) == _bytes()[:COVERED]

    def test_memory_outlives_the_blob(self, tmp_path: Path) -> None:
        def memory() -> NDArray[np.uint8]:
            blob = self.written(tmp_path)
            blob.need([(0, COVERED)])
            blob.close()
            blob.close()
            for call in (lambda: blob.pread(0, 1), lambda: blob.need([(0, 1)])):
                with _raises(IndexClosedError):
                    call()
            return np.frombuffer(blob.view, np.uint8)

        assert memory()[:COVERED].tobytes() == _bytes()[:COVERED]

    def written(self, place: Path) -> Blob:
        """A blob of several pages, open, its checksums set."""
        tier = self.make_tier(place)
        tier.write("seg-1", [_bytes()])
        tier.sync()
        return _opened(tier)


class StoreContract:
    """Tests of everything that `Store` promises. Subclass it as ``Test...`` and define `make_store`."""

    exclusive = True
    """Whether `Store.create` works; a store that overwrites must be refused."""

    def make_store(self, place: Path) -> Store:
        """The store of ``place``, an empty directory of this test's own, or a key to what takes its place."""
        raise NotImplementedError("say how to make the store")

    def test_objects_are_put_got_and_replaced(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        assert store.get("a/b-1") is None
        assert store.size("a/b-1") is None
        store.put("a/b-1", [b"one ", memoryview(b"object")])
        assert store.get("a/b-1") == b"one object"
        assert store.size("a/b-1") == 10
        store.put("a/b-1", [b"another"])
        assert self.make_store(tmp_path).get("a/b-1") == b"another"

    def test_spans_are_read_in_any_order(self, tmp_path: Path) -> None:
        store, data = self.make_store(tmp_path), _bytes()
        store.put("x", [data])
        store.put("y", [data[::-1]])
        spans = [Span("x", 200_000, 10), Span("y", 0, 5), Span("x", 0, 3), Span("x", 1, 4), Span("x", 0, 0),
                 Span("y", len(data) - 1, 1), Span("x", 0, len(data))]
        expected = [(data if key == "x" else data[::-1])[at : at + size] for key, at, size in spans]
        assert store.read(spans) == expected
        assert store.read([]) == []

    def test_what_is_missing_or_too_short_is_an_error(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        with _raises(CorruptIndexError):
            store.read([Span("nothing", 0, 1)])
        store.put("short", [b"12345"])
        with _raises(TruncatedError):
            store.read([Span("short", 3, 5)])

    def test_keys_are_listed(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        assert store.list() == []
        for key in ("m/2", "m/10", "s/x/y", "top"):
            store.put(key, [b"x"])
        assert store.list() == ["m/10", "m/2", "s/x/y", "top"]
        assert store.list("m") == ["m/10", "m/2"]
        assert store.list("none") == []
        store.delete("m/2")
        store.delete("m/2")
        assert store.list("m") == ["m/10"]

    def test_the_store_says_what_is_older(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        assert store.modified("m/1") is None
        store.put("m/1", [b"x"])
        store.put("m/2", [b"x"])
        first, second = store.modified("m/1"), store.modified("m/2")
        assert (first is None) == (second is None)
        assert first is None or second is None or first <= second

    def test_keys_cannot_lead_elsewhere(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        for key in ("", "../up", "a/../b", "/etc/passwd", "a//b", "a/", ".hidden", "UPPER", "a.tmp"):
            for call in (lambda key=key: store.put(key, [b"x"]), lambda key=key: store.get(key),
                         lambda key=key: store.delete(key), lambda key=key: store.create(key, b"x")):
                with _raises(InvalidNameError):
                    call()

    def test_one_of_many_creates_an_object(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        if not self.exclusive:
            for call in (lambda: store.create("m/1", b"x"), store.try_create):
                with _raises(UnsupportedError):
                    call()
            assert store.list() == []
            return
        store.try_create()
        assert store.list() == []
        won: list[int] = []

        def create(number: int) -> None:
            if store.create("m/1", b"%d" % number):
                won.append(number)

        threads = [threading.Thread(target=create, args=(number,)) for number in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert store.get("m/1") == b"%d" % won[0]
        assert not store.create("m/1", b"late")
        assert store.list() == ["m/1"]

    def test_a_put_that_fails_leaves_nothing(self, tmp_path: Path) -> None:
        def chunks() -> Iterator[Bytes]:
            yield b"x" * 100_000
            raise KeyboardInterrupt

        store = self.make_store(tmp_path)
        with _raises(KeyboardInterrupt):
            store.put("a", chunks())
        assert store.list() == []


def _bytes() -> bytes:
    return np.random.default_rng(7).integers(0, 256, COVERED + TAIL, np.uint8).tobytes()


def _checksums() -> NDArray[np.uint32]:
    data = _bytes()[:COVERED]
    return np.array([zlib.crc32(data[at : at + PAGE_SIZE]) for at in range(0, COVERED, PAGE_SIZE)], np.uint32)


def _opened(tier: Tier) -> Blob:
    blob = tier.open("seg-1", COVERED + TAIL)
    blob.set_checksums(_checksums(), COVERED)
    return blob


@contextmanager
def _raises(error: type[BaseException]) -> Iterator[None]:
    try:
        yield
    except error:
        return
    raise AssertionError(f"{error.__name__} was not raised")

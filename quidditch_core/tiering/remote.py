"""Blobs in a store: an open one is as much address space as it is long, filled page by page when it is needed.

Pages come from the block cache or from the store, many of them in one round, and are verified before they are shown.
They stay where they are as long as anything refers to them, so that no address that a search uses can lose its bytes.
Memory is bounded by *retiring* a blob: whoever opens it anew gets an empty one, and the memory goes with the last
search that uses the old one.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import sys
import threading
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from ..errors import CorruptIndexError, IndexClosedError, InvalidNameError, StoreError
from ..files import PAGE_SIZE, Bytes, is_name, storage_error
from ..segment import address
from . import BlobInfo, Span, SpanReader, Store
from .cache import BlockCache

if TYPE_CHECKING:
    from numpy.typing import NDArray

_REPAIR: Final = "restore the index from a snapshot or a replica"
_NORESERVE: Final = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


class Memory:
    """How much of all remote blobs is in memory. Past ``limit`` the blobs used longest ago are retired."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.retired = 0
        """How many blobs were retired so far."""
        self._mutex = threading.RLock()  # a blob may go, and be dropped, while one grows
        self._blobs: OrderedDict[int, weakref.ref[RemoteBlob]] = OrderedDict()

    def grow(self, blob: RemoteBlob, size: int) -> None:
        """Count ``size`` more bytes of a blob that is being used."""
        with self._mutex:
            self._blobs[id(blob)] = weakref.ref(blob)
            self._blobs.move_to_end(id(blob))
            if blob.retired:
                return
            blob.resident += size
            self.used += size
            while self.used > self.limit and self._blobs:
                self._retire()

    def empty(self) -> None:
        """Retire all blobs."""
        with self._mutex:
            while self._blobs:
                self._retire()

    def _retire(self) -> None:
        found = self._blobs.popitem(last=False)[1]()
        if found is not None and not found.retired:
            found.retired = True
            self.used -= found.resident
            self.retired += 1

    def drop(self, blob: RemoteBlob) -> None:
        """A blob that is going."""
        with self._mutex:
            self._blobs.pop(id(blob), None)
            if not blob.retired:
                blob.retired = True
                self.used -= blob.resident


MEMORY: Final = Memory(512 << 20)
"""Of this process."""


class RemoteTier:
    """`Tier` whose blobs are objects ``prefix/name`` of a store."""

    def __init__(self, store: Store, prefix: str, name: str, cache: BlockCache | None = None) -> None:
        self.name = name
        self.store = store
        self.reader: SpanReader = store
        """What open blobs read from."""
        self._prefix = prefix
        self._cache = cache

    def write(self, name: str, chunks: Iterable[Bytes]) -> BlobInfo:
        key = self.key(name)
        if self.store.size(key) is not None:
            raise storage_error("write a blob twice", f"{self.store.url}/{key}",
                                FileExistsError(errno.EEXIST, "File exists"))
        digest, size = hashlib.sha256(), 0

        def seen() -> Iterable[Bytes]:
            nonlocal size
            for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                yield chunk

        self.store.put(key, seen())
        return BlobInfo(name, size, digest.hexdigest())

    def sync(self) -> None:
        """Names are durable when a put returns."""

    def open(self, name: str, expect_size: int | None = None) -> RemoteBlob:
        """Open a blob; with ``expect_size`` without asking the store, so that damage shows when it is read."""
        key = self.key(name)
        size = self.store.size(key) if expect_size is None else expect_size
        if size is None:
            raise CorruptIndexError("blob is missing", path=f"{self.store.url}/{key}", fix=_REPAIR)
        if size == 0:
            raise CorruptIndexError("blob has a wrong length", path=f"{self.store.url}/{key}", found="0 bytes",
                                    expected="at least one byte", fix=_REPAIR)
        return RemoteBlob(name, size, self.reader, key, self._cache)

    def delete(self, name: str) -> None:
        self.store.delete(self.key(name))

    def list(self) -> list[str]:
        start = len(self._prefix) + 1
        return [name for key in self.store.list(self._prefix) if is_name(name := key[start:])]

    def sweep(self) -> int:
        return self.store.sweep(self._prefix)

    def key(self, name: str) -> str:
        if not is_name(name):
            raise InvalidNameError("not a blob name", path=self.store.url, found=name,
                                   expected="[a-z0-9][a-z0-9_.-]*, up to 251 characters, not ending in .tmp")
        return f"{self._prefix}/{name}"


class RemoteBlob:
    """`Blob` of a store."""

    def __init__(self, name: str, size: int, store: SpanReader, key: str, cache: BlockCache | None) -> None:
        self.name, self.size = name, size
        self.store, self.key, self.cache = store, key, cache
        self.memory = MEMORY
        self.retired = False
        self.resident = 0
        self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
        self._writable = memoryview(self._map)
        self.view = self._writable.toreadonly()
        self.address = address(np.frombuffer(self.view, np.uint8))
        self._identity = hashlib.sha256(f"{store.url}/{key}:{size}".encode()).digest()[:16]
        self._crcs: NDArray[np.uint32] = np.zeros(0, np.uint32)
        self._covered = 0
        self._present = bytearray()  # one byte a page
        self._closed = False

    def __del__(self) -> None:
        if hasattr(self, "_closed"):
            self.memory.drop(self)

    def fresh(self) -> RemoteBlob:
        """The same blob, with nothing of it in memory."""
        blob = RemoteBlob(self.name, self.size, self.store, self.key, self.cache)
        if self._covered:
            blob.set_checksums(self._crcs, self._covered)
        return blob

    def pread(self, offset: int, size: int) -> bytes:
        self._check()
        if not 0 <= offset <= offset + size <= self.size:
            raise self._outside(offset, size, self.size)
        return self.store.read([Span(self.key, offset, size)])[0] if size else b""

    def set_checksums(self, crcs: NDArray[np.uint32], covered: int) -> None:
        pages = -(-covered // PAGE_SIZE)
        if not 0 <= covered <= self.size or len(crcs) != pages:
            raise CorruptIndexError(f"page checksums do not fit a blob of {self.size} bytes", path=self._path,
                                    found=f"{len(crcs)} checksums for {covered} bytes",
                                    expected=f"one for each {PAGE_SIZE} bytes", fix=_REPAIR)
        self._crcs, self._covered, self._present = crcs.astype(np.uint32), covered, bytearray(pages)

    def need(self, ranges: Iterable[tuple[int, int]]) -> None:
        fetch([(self, ranges)])

    def missing(self, ranges: Iterable[tuple[int, int]]) -> list[int]:
        """The pages of ``ranges`` that are not here yet."""
        covered, present = self._covered, self._present
        pages: set[int] = set()
        for offset, length in ranges:
            if not 0 <= offset <= offset + length <= covered:
                self._check()
                raise self._outside(offset, length, covered)
            if length:
                first, end = offset // PAGE_SIZE, (offset + length - 1) // PAGE_SIZE + 1
                if present.find(0, first, end) >= 0:
                    pages.update(page for page in range(first, end) if not present[page])
        return sorted(pages)

    def cache_key(self, page: int) -> bytes:
        return self._identity + page.to_bytes(4, "big")

    def span(self, page: int, end: int) -> Span:
        """Pages ``page`` .. ``end`` - 1."""
        return Span(self.key, page * PAGE_SIZE, min(end * PAGE_SIZE, self._covered) - page * PAGE_SIZE)

    def fits(self, page: int, data: bytes) -> bool:
        return len(data) == self.span(page, page + 1).length and zlib.crc32(data) == self._crcs[page]

    def fill(self, page: int, data: bytes) -> None:
        """Show a page that fits."""
        start = page * PAGE_SIZE
        self._writable[start : start + len(data)] = data
        self._present[page] = 1

    def damaged(self, page: int, data: bytes) -> CorruptIndexError:
        return CorruptIndexError(f"page {page} at offset {page * PAGE_SIZE} fails its checksum", path=self._path,
                                 found=f"{zlib.crc32(data):08x}", expected=f"{int(self._crcs[page]):08x}", fix=_REPAIR)

    def close(self) -> None:
        self._closed, self._covered = True, 0

    @property
    def _path(self) -> str:
        return f"{self.store.url}/{self.key}"

    def _check(self) -> None:
        if self._closed:
            raise IndexClosedError("blob is closed", path=self.name, fix="open a new reader")

    def _outside(self, offset: int, length: int, end: int) -> CorruptIndexError:
        return CorruptIndexError(f"bytes {offset} to {offset + length} are outside what is stored", path=self._path,
                                 expected=f"offsets from 0 to {end}", fix=_REPAIR)


def fetch(wanted: Sequence[tuple[RemoteBlob, Iterable[tuple[int, int]]]]) -> None:
    """Make ranges of many blobs present and verified, by one round of requests for each store."""
    rest = [(blob, page) for blob, ranges in wanted for page in blob.missing(ranges)]
    if not rest:
        return
    rest = _from_caches(rest)
    stores: dict[int, list[tuple[RemoteBlob, int]]] = {}
    for blob, page in rest:
        stores.setdefault(id(blob.store), []).append((blob, page))
    for some in stores.values():
        _from_store(some)


def _from_caches(wanted: list[tuple[RemoteBlob, int]]) -> list[tuple[RemoteBlob, int]]:
    """Fill what the block caches have; the rest."""
    rest: list[tuple[RemoteBlob, int]] = []
    for cache in {blob.cache for blob, _ in wanted}:
        mine = [(blob, page) for blob, page in wanted if blob.cache is cache]
        found = {} if cache is None else cache.take([blob.cache_key(page) for blob, page in mine])
        filled: dict[RemoteBlob, int] = {}
        for blob, page in mine:
            data = found.get(blob.cache_key(page))
            if data is not None and blob.fits(page, data):
                blob.fill(page, data)
                filled[blob] = filled.get(blob, 0) + len(data)
            else:
                rest.append((blob, page))
        for blob, size in filled.items():
            blob.memory.grow(blob, size)
    return rest


def _from_store(wanted: list[tuple[RemoteBlob, int]]) -> None:
    spans = [blob.span(page, page + 1) for blob, page in wanted]
    try:
        parts = wanted[0][0].store.read(spans)
    except StoreError as error:
        error.blobs = tuple(sorted({blob.name for blob, _ in wanted if not error.keys or blob.key in error.keys}))
        raise
    pages: dict[BlockCache, dict[bytes, bytes]] = {}
    filled: dict[RemoteBlob, int] = {}
    for (blob, page), data in zip(wanted, parts, strict=True):
        if not blob.fits(page, data):
            raise blob.damaged(page, data)
        blob.fill(page, data)
        filled[blob] = filled.get(blob, 0) + len(data)
        if blob.cache is not None:
            pages.setdefault(blob.cache, {})[blob.cache_key(page)] = data
    for blob, size in filled.items():
        blob.memory.grow(blob, size)
    for cache, some in pages.items():
        cache.give(some)

"""Where blobs are kept: named immutable byte strings in a place. Knows bytes and names, never segments.

A tier hands out blobs in the shape of `quidditch_core.files.Blob`. ``local`` keeps them in a directory, ``remote`` in a
*store*: any place that fsspec can reach (``store``). A store has no blobs, only objects: bytes under a key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from quidditch_core.files import Blob, Bytes, is_name

HOT: Final = "hot"
"""Name of the tier at the index's own address; live masks are always there."""


class BlobInfo(msgspec.Struct, frozen=True):
    """What a manifest remembers of a blob: ``size`` in bytes, ``sha256`` in lower-case hex."""

    name: str
    size: int
    sha256: str


class Tier(Protocol):
    """A place that keeps blobs. Names are as in `quidditch_core.files.is_name`."""

    name: str

    def write(self, name: str, chunks: Iterable[Bytes]) -> BlobInfo:
        """Store a new blob; its bytes are durable on return, its name after `sync`."""

    def sync(self) -> None:
        """Return when all names are durable: call it before a manifest mentions a new blob."""

    def open(self, name: str, expect_size: int | None = None) -> Blob:
        """Open a blob; `CorruptIndexError` if it is missing, empty or not ``expect_size`` bytes long."""

    def delete(self, name: str) -> None:
        """Remove a blob; fine if it is gone. Those who have it open keep it."""

    def list(self) -> list[str]:
        """Names of all complete blobs, sorted."""

    def sweep(self) -> int:
        """Remove what unfinished writes of dead processes left; returns how many files that were."""


class Span(NamedTuple):
    """``length`` bytes at ``offset`` of the object ``key``."""

    key: str
    offset: int
    length: int


class SpanReader(Protocol):
    """What an open remote blob reads from: a `Store`, or a part of what it does."""

    @property
    def url(self) -> str: ...

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        """As `Store.read`."""


class Store(Protocol):
    """Objects under a URL. Keys are `is_key`: names joined by ``/``.

    Every call is tried again a few times, then raises `StoreError`: `OutageError`, `ThrottledError`,
    `SlowStoreError`, `TruncatedError` or `DeniedError`. No error, repr or log shows credentials.
    """

    url: str

    def put(self, key: str, chunks: Iterable[Bytes]) -> None:
        """Store an object whole, in place of any old one; durable, and seen by everybody, on return."""

    def create(self, key: str, data: Bytes) -> bool:
        """Store an object only if there is none, even if many try at once; whether it was this call that did.

        The store is probed before the first time: `UnsupportedError` if it would overwrite silently.
        """

    def try_create(self) -> None:
        """Do now, and once, what `create` does before the first time."""

    def get(self, key: str) -> bytes | None:
        """A whole object; None if there is none."""

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        """The bytes of many spans, in one round of parallel requests; near spans share one.

        `CorruptIndexError` if an object is missing or shorter. A `StoreError` has the ``keys`` of what failed.
        """

    def size(self, key: str) -> int | None:
        """Bytes of an object; None if there is none."""

    def modified(self, key: str) -> float | None:
        """When an object was stored, in seconds, by the clock of the store; None if not there, or not known."""

    def list(self, prefix: str = "") -> list[str]:
        """Sorted keys of all objects below ``prefix`` (``a/b`` lists ``a/b/...``); may be a little out of date."""

    def delete(self, key: str) -> None:
        """Remove an object; fine if it is gone."""

    def reach(self) -> None:
        """Write, read and remove an object: what is wrong with the URL or the credentials shows now."""

    def sweep(self, prefix: str = "", age: float = 0.0) -> int:
        """Remove what calls of dead processes left below ``prefix`` more than ``age`` seconds ago and no `list` shows:
        temporary files, parts of objects; and without a prefix what tried out the store. How many that were."""


def is_key(key: str) -> bool:
    """Whether ``key`` may name an object: it cannot leave its store."""
    return len(key) <= 900 and all(map(is_name, key.split("/")))

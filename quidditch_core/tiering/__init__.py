"""Where blobs are kept: named immutable byte strings in a place. Knows bytes and names, never segments.

A tier hands out blobs in the shape of `quidditch_core.files.Blob`. ``local`` keeps them in a directory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

import msgspec

from quidditch_core.files import Blob, Bytes

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

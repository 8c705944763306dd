"""Live masks as blobs: which documents of a segment are deleted, small, versioned, checksummed.

Layout, little-endian: magic ``QDLIVE`` u8 format u8 zero, u32 docs, u32 CRC-32 of docs and body, then the body,
a serialized roaring bitmap of the deleted documents.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptIndexError, FormatError
from ..segment import bitmap_of_mask, mask_of

MAGIC = b"QDLIVE"
FORMAT = 0
_HEADER = 16


def encode(live: NDArray[np.uint64], docs: int) -> bytes:
    """The blob of a live bitmap of ``docs`` documents."""
    from pyroaring import BitMap  # as long as nothing is deleted, nobody needs it

    deleted = BitMap(np.flatnonzero(~mask_of(live, docs)).astype(np.uint32))
    deleted.run_optimize()
    body = docs.to_bytes(4, "little") + deleted.serialize()
    return MAGIC + bytes([FORMAT, 0]) + body[:4] + zlib.crc32(body).to_bytes(4, "little") + body[4:]


def decode(data: bytes, docs: int, name: str) -> NDArray[np.uint64]:
    """The live bitmap in a blob; typed errors for damage and newer formats."""
    def corrupt(what: str, found: Any) -> CorruptIndexError:
        return CorruptIndexError(f"the live mask {what}", path=name, found=found,
                                 fix="restore the index from a snapshot")

    if len(data) < _HEADER or data[:6] != MAGIC:
        raise corrupt("has no header", data[:8])
    if data[6] > FORMAT:
        raise FormatError("the live mask was written by a newer version", path=name, found=f"format {data[6]}",
                          expected=f"format {FORMAT} or older", fix="upgrade quidditch-core")
    crc = int.from_bytes(data[12:16], "little")
    if data[7] or zlib.crc32(data[8:12] + data[16:]) != crc:
        raise corrupt("fails its checksum", f"{crc:08x}")
    if int.from_bytes(data[8:12], "little") != docs:
        raise corrupt("is of another segment", int.from_bytes(data[8:12], "little"))
    from pyroaring import BitMap

    deleted = np.fromiter(BitMap.deserialize(data[16:]), np.uint32)
    if deleted.size and int(deleted[-1]) >= docs:
        raise corrupt("names documents that are not there", int(deleted[-1]))
    mask = np.ones(docs, np.bool_)
    mask[deleted] = False
    return bitmap_of_mask(mask)

"""What the bytes of a log say after a crash: the whole batches, and the verdict on what follows them.

Pure functions over a `Window`, which only reads. The rule, for the newest generation: a batch that is not
whole is *damage* if any header in the file proves that it was synced; otherwise no operation in it or after
it can be proved to have been acknowledged, and the file ends before it. Earlier generations are synced to
their end, so that anything missing from them is damage. FORMAT.md has this as a table.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from .record import (
    BATCH_HEADER,
    BATCH_MAGIC,
    FILE_HEADER,
    BatchHeader,
    corrupt,
    decode_header,
    encode_header,
)

PIECE: Final = 1 << 20  # bytes of one read


class Window:
    """A file of ``size`` bytes seen through reads of large pieces. ``read(offset, size)`` may return less."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self.size = size
        self._read = read
        self._at = 0
        self._piece = memoryview(b"")

    def get(self, offset: int, size: int) -> memoryview:
        """``size`` bytes at ``offset``, fewer only where the file ends: nothing beyond is ever allocated."""
        start = offset - self._at
        if start < 0 or start + size > len(self._piece):
            wanted = min(max(size, PIECE), max(self.size - offset, 0))
            self._piece, self._at, start = memoryview(self._read(offset, wanted)), offset, 0
        return self._piece[start : start + size]


class Batch(NamedTuple):
    """A whole batch, in [offset, end) of its file."""

    offset: int
    end: int
    header: BatchHeader
    payload: memoryview


def batches(window: Window, start: int, stop: int, seed: int) -> Iterator[Batch]:
    """The whole batches one after the other from ``start``, up to ``stop`` or the first that is not whole."""
    offset = start
    while offset < stop:
        header = decode_header(window.get(offset, BATCH_HEADER), 0, offset, seed)
        if header is None:
            return
        payload_at = offset + BATCH_HEADER
        end = payload_at + header.length
        if end > stop:
            return
        payload = window.get(payload_at, header.length)
        if zlib.crc32(payload) != header.crc:
            return
        yield Batch(offset, end, header, payload)
        offset = end


def damage(path: str, offset: int, window: Window, why: str) -> Exception:
    """The error for a batch at ``offset`` that is not whole although it was synced, as ``why`` says."""
    return corrupt("damaged batch", path, offset, bytes(window.get(offset, BATCH_HEADER)),
                   f"a batch that fits its checksums: {why}")


def judge(window: Window, end: int, synced: int, seed: int, path: str) -> int:
    """Whether the newest generation may end at ``end``, where its whole batches do.

    ``synced``: what is known so far. Returns up to where the file is known to be synced, at most ``end``;
    CorruptIndexError if that is more.
    """
    if end < synced:
        raise damage(path, end, window, f"the log was synced up to {synced}")
    if end < window.size:
        for offset, header in headers(window, end, seed):
            if header.synced > end:
                raise damage(path, end, window, f"the log was synced up to {header.synced}, says offset {offset}")
            synced = max(synced, header.synced)
    return synced


def headers(window: Window, start: int, seed: int) -> Iterator[tuple[int, BatchHeader]]:
    """All headers of batches at or after ``start``, at any offset, whole batches or not."""
    while start <= window.size - BATCH_HEADER:
        piece = bytes(window.get(start, min(PIECE, window.size - start)))
        at = piece.find(BATCH_MAGIC)
        while 0 <= at <= len(piece) - BATCH_HEADER:
            header = decode_header(piece, at, start + at, seed)
            if header is not None:
                yield start + at, header
            at = piece.find(BATCH_MAGIC, at + 1)
        if len(piece) < BATCH_HEADER:
            return  # the file is shorter than it was
        start += len(piece) - BATCH_HEADER + 1


def moved(window: Window, start: int, end: int, seed: int, new_seed: int, path: str) -> Iterator[bytes]:
    """The batches in [start, end) as a new file has them right after its header, in pieces."""
    offset, piece = FILE_HEADER, bytearray()
    reached = start
    for batch in batches(window, start, end, seed):
        header = batch.header._replace(synced=FILE_HEADER)
        piece += encode_header(header, offset, new_seed)
        piece += batch.payload
        offset += batch.end - batch.offset
        reached = batch.end
        if len(piece) >= PIECE:
            yield bytes(piece)
            piece.clear()
    if reached != end:
        raise damage(path, reached, window, f"it was whole a moment ago, and the log goes on to {end}")
    yield bytes(piece)

"""What a log says after a crash: the operations in order, and the verdict on an end that is not whole.

It only reads. The rule, for the newest generation: a batch that is not whole is *damage* if any header in the
file proves that it was synced; otherwise nothing can prove that an operation in it, or after it, has been
acknowledged, and the log ends before it. Earlier generations were synced to their end, so that whatever they
lack is damage. FORMAT.md has this as a table.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, NamedTuple

from quidditch_core.errors import CorruptIndexError
from quidditch_core.files import File, Files

from .record import (
    BATCH_HEADER,
    BATCH_MAGIC,
    FILE_HEADER,
    REPAIR,
    BatchHeader,
    FileHeader,
    Operation,
    corrupt,
    decode_file_header,
    decode_header,
    decode_operations,
    encode_header,
    file_name,
    seed_of,
)

PIECE: Final = 1 << 20
"""Bytes of one read."""

# Batches in a range of bytes --------------------------------------------------------------------------------


class Window:
    """A file of ``size`` bytes seen through reads of large pieces; ``read(offset, size)`` may return less."""

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
        end = offset + BATCH_HEADER + header.length
        if end > stop:
            return
        payload = window.get(offset + BATCH_HEADER, header.length)
        if zlib.crc32(payload) != header.crc:
            return
        yield Batch(offset, end, header, payload)
        offset = end


def headers(window: Window, start: int, seed: int) -> Iterator[tuple[int, BatchHeader]]:
    """(offset, header) of all batches that begin at or after ``start``, whole or not, at any offset."""
    while start <= window.size - BATCH_HEADER:
        piece = bytes(window.get(start, min(PIECE, window.size - start)))
        if len(piece) < BATCH_HEADER:
            return  # the file is shorter than it was
        at = piece.find(BATCH_MAGIC)
        while at >= 0:
            header = decode_header(piece, at, start + at, seed)
            if header is not None:
                yield start + at, header
            at = piece.find(BATCH_MAGIC, at + 1)
        start += len(piece) - BATCH_HEADER + 1


def used(window: Window, start: int) -> int:
    """Where the zeros begin that the file ends with, not before ``start``."""
    end = start
    for offset in range(start, window.size, PIECE):
        piece = bytes(window.get(offset, min(PIECE, window.size - offset))).rstrip(b"\0")
        if piece:
            end = offset + len(piece)
    return end


def judge(window: Window, end: int, synced: int, seed: int, path: str) -> None:
    """Raise CorruptIndexError unless the newest generation may end at ``end``, where its whole batches do.

    ``synced``: up to where they say that it was. Headers behind the end may know more.
    """
    if end < synced:
        raise _damage(window, end, path, f"the log was synced up to offset {synced}")
    for offset, header in headers(window, end, seed):
        if header.synced > end:
            raise _damage(window, end, path,
                          f"the log was synced up to offset {header.synced}, says the header at {offset}")


def _damage(window: Window, offset: int, path: str, why: str) -> CorruptIndexError:
    return corrupt("damaged batch", path, offset, bytes(window.get(offset, BATCH_HEADER)),
                   f"a batch that fits its checksums: {why}")


# Generations ------------------------------------------------------------------------------------------------


class Generation:
    """One file of the log, open to be read."""

    def __init__(self, file: File, uuid: str, number: int) -> None:
        self.file = file
        self.path = file.path
        self.window = Window(file.pread, file.size())
        first = self.window.get(0, FILE_HEADER)
        self.header: FileHeader = decode_file_header(first, self.path, uuid, number)
        self.seed = seed_of(first)

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        return batches(self.window, start, stop, self.seed)

    def moved(self, start: int, stop: int, seed: int) -> Iterator[bytes]:
        """The batches in [start, stop) as a file with ``seed`` has them after its header, in pieces."""
        offset, end, piece = FILE_HEADER, start, bytearray()
        for batch in self.batches(start, stop):
            piece += encode_header(batch.header._replace(synced=FILE_HEADER), offset, seed)
            piece += batch.payload
            offset += batch.end - batch.offset
            end = batch.end
            if len(piece) >= PIECE:
                yield bytes(piece)
                piece.clear()
        if end != stop:
            raise _damage(self.window, end, self.path, f"whole batches up to offset {stop} were read before")
        if piece:
            yield bytes(piece)


class Replay:
    """The generations that hold operations above ``after``, oldest first, and what is in them.

    ``numbers``: of the generations that there are, ascending. After `operations`: the newest generation has
    whole batches up to ``end``, other bytes up to ``used``, then zeros, and was synced up to ``synced``; no
    operation has a seq_no above ``highest``. A context manager, which closes the files.
    """

    def __init__(self, files: Files, directory: str, uuid: str, numbers: list[int], after: int) -> None:
        self.generations: list[Generation] = []
        self.end = self.used = self.synced = FILE_HEADER
        try:
            self._find(files, directory, uuid, numbers, after)
        except BaseException:
            self.close()
            raise
        self.highest = self.generations[0].header.before if self.generations else after

    def _find(self, files: Files, directory: str, uuid: str, numbers: list[int], after: int) -> None:
        """From the newest back to the one that no operation above ``after`` precedes."""
        for number in reversed(numbers):
            if self.generations and self.generations[0].header.generation != number + 1:
                break
            file = files.open(os.path.join(directory, file_name(number)), "r")
            try:
                self.generations.insert(0, Generation(file, uuid, number))
            except BaseException:
                file.close()
                raise
            if self.generations[0].header.before <= after:
                return
        if self.generations:
            header = self.generations[0].header
            raise CorruptIndexError(
                f"a file of the log is missing: it had operations {after + 1} to {header.before}",
                path=os.path.join(directory, file_name(header.generation - 1)), found="no such file",
                expected=f"{header.previous} bytes", fix=REPAIR)

    def operations(self) -> Iterator[Operation]:
        """All operations of these generations, in order. CorruptIndexError when it comes to damage."""
        for older, newer in zip(self.generations, self.generations[1:], strict=False):
            stop = newer.header.previous
            yield from self._read(older, stop)
            if self.end != stop:
                raise _damage(older.window, self.end, older.path,
                              f"the log was synced up to offset {stop}, says the next file")
        if self.generations:
            newest = self.generations[-1]
            yield from self._read(newest, newest.window.size)
            judge(newest.window, self.end, self.synced, newest.seed, newest.path)
            self.used = used(newest.window, self.end)

    def _read(self, generation: Generation, stop: int) -> Iterator[Operation]:
        self.end, self.synced = FILE_HEADER, generation.header.born
        for batch in generation.batches(FILE_HEADER, stop):
            self.end = batch.end
            self.synced = max(self.synced, batch.header.synced)
            for operation in decode_operations(batch.payload, generation.path, batch.offset):
                self.highest = max(self.highest, operation.seq_no)
                yield operation

    def close(self) -> None:
        for generation in self.generations:
            generation.file.close()

    def __enter__(self) -> Replay:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

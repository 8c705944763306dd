"""A segment file read without trust: what its checksums say, and the segment in spite of what they say.

Opening a segment stops at the first wrong byte. Here all bytes are read (by ``pread``, so that a failing disk is an
error and not a signal), all checksums compared, and the segment is handed out anyway: kernels and readers bound
what they touch, whatever the bytes are. ``check`` reports what this finds, ``repair`` takes what is whole.

Where one byte is wrong, its checksum says which (``mend``); the SHA-256 in the manifest then proves that the file is
again what was written.
"""

from __future__ import annotations

import hashlib
import itertools
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..codec.v1 import file as codec
from ..errors import CorruptIndexError, FormatError, QuidditchError, StorageError, StoreError
from ..files import PAGE_SIZE, Blob
from ..result import Problem
from ..segment import Segment, address
from ..tiering import Tier
from .findings import shown
from .manifest import SegmentEntry
from .mend import Mend, mends, patched
from .places import COLD

STEP = 16 * PAGE_SIZE
"""Bytes of one read."""

_NAMED = 3  # sections of a damaged page; more are named by the first and the last in the file
_LOCATED = 16  # damaged pages in which the one wrong byte is looked for: each costs a walk over it
_COMBINATIONS = 64  # of candidates, when several pages are mended at once

Progress = Callable[[int], None]
"""Is told how many more bytes were read."""


class Suspect:
    """A `Blob` that hands out whatever could be read. Made by :func:`examine`, for the codec."""

    def __init__(self, name: str, memory: NDArray[np.uint8], unreadable: set[int], tail: bytes) -> None:
        self.name = name
        self.size = memory.size
        self.view = memory.data
        self.address = address(memory)
        self.crcs: NDArray[np.uint32] = np.zeros(0, np.uint32)
        self._memory = memory
        self._unreadable = unreadable
        self._tail = tail
        self._covered = 0

    def pread(self, offset: int, size: int) -> bytes:
        """The tail, whatever is asked for: nothing else is, and this is not quite the one in the file."""
        return self._tail

    def set_checksums(self, crcs: NDArray[np.uint32], covered: int) -> None:
        pages = -(-covered // PAGE_SIZE)
        if crcs.size != pages:
            raise CorruptIndexError("page checksums do not fit the file", path=self.name,
                                    found=f"{crcs.size} checksums", expected=f"{pages}")
        self.crcs, self._covered = crcs, covered

    def need(self, ranges: Iterable[tuple[int, int]]) -> None:
        for offset, length in ranges:
            if not 0 <= offset <= offset + length <= self._covered:
                raise CorruptIndexError("bytes outside the file are referred to", path=self.name,
                                        found=(offset, length), expected=f"within {self._covered} bytes")
            if self._unreadable and length:
                lost = self._unreadable.intersection(range(offset // PAGE_SIZE, (offset + length - 1) // PAGE_SIZE + 1))
                if lost:
                    raise CorruptIndexError("bytes cannot be read from the disk", path=self.name,
                                            found=f"page {min(lost)}")

    def close(self) -> None:
        return None


@dataclass
class Examination:
    """What one segment file holds. ``segment`` is None if its table of contents cannot be read.

    ``problems`` are those of the bytes; nothing has been asked yet about what they mean. ``ranges`` are the sections,
    ``damaged`` what fails its checksum: [start, stop) in the file. ``mended`` is what was put right in ``segment``.
    """

    name: str
    size: int = 0
    segment: Segment | None = None
    problems: list[Problem] = field(default_factory=list)
    mended: list[Mend] = field(default_factory=list)
    ranges: dict[str, tuple[int, int]] = field(default_factory=dict)
    damaged: list[tuple[int, int]] = field(default_factory=list)

    def intact(self, section: str) -> bool:
        """Whether all bytes of a section fit their checksums."""
        start, stop = self.ranges.get(section, (0, 0))
        return not any(start < end and begin < stop for begin, end in self.damaged)

    def sections_in(self, start: int, stop: int) -> str:
        """The sections that have bytes in [start, stop) of the file."""
        found = [name for name, (begin, end) in self.ranges.items() if start < end and begin < stop]
        return ", ".join(found) if len(found) <= _NAMED else f"{found[0]} to {found[-1]}"

    def complain(self, section: str, what: str, found: Any = None, expected: Any = None) -> None:
        self.problems.append(Problem(self.name, section, what, found, expected))


def examine(
    tier: Tier, name: str, entry: SegmentEntry | None = None, *, mend: bool = False,
    progress: Progress = lambda read: None,
) -> Examination:
    """Read a segment's file from end to end; ``entry`` is what a manifest says of it, if one does.

    With ``mend`` single wrong bytes are put right, in memory, if then the file is proved to be what was written
    (or, without an entry, if then all checksums fit).
    """
    found = Examination(name)
    try:
        blob = tier.open(name)
    except StoreError:
        raise  # that a store cannot be reached says nothing of what it holds
    except QuidditchError as error:
        found.complain("", error.message, shown(error.found), error.expected)
        return found
    try:
        _Reading(found, blob, entry, progress, tier.name != COLD).examine(mend)
    finally:
        blob.close()
    return found


class _Reading:
    """The work of :func:`examine` on one open file."""

    def __init__(
        self, found: Examination, blob: Blob, entry: SegmentEntry | None, progress: Progress, mapped: bool,
    ) -> None:
        self.found, self.blob, self.entry, self.progress = found, blob, entry, progress
        self.size = found.size = blob.size if entry is None else min(entry.size, blob.size)
        self.tail_offset = self.tail_crc = 0
        self.memory = np.frombuffer(blob.view, np.uint8)[: self.size] if mapped else np.zeros(self.size, np.uint8)
        self.mapped = mapped
        self.newer = False  # the footer says that a newer version wrote this
        self.unreadable: set[int] = set()
        self.expected: NDArray[np.uint32] = np.zeros(0, np.uint32)  # checksums of the pages
        self.explanations: list[list[Mend]] = []  # for each damage the single bytes that explain it

    def examine(self, mend: bool) -> None:
        entry, found = self.entry, self.found
        if entry is not None and self.blob.size != entry.size:
            found.complain("", "the file has a wrong length", f"{self.blob.size} bytes", f"{entry.size} bytes")
        placed = self._place_tail() and (entry is None or self.blob.size >= entry.size)
        crcs, digest = self._read()
        if placed:
            tail = self._tail()
            if tail is not None and self._open(tail, self.memory):
                self._compare(crcs)
                if mend and found.problems:
                    self._mend()
                if self.newer and not found.mended:
                    found.segment = None
        if entry is not None and digest is not None and digest != entry.sha256 and not found.problems:
            found.complain("", "the file is not the one that was committed", f"SHA-256 {digest}", entry.sha256)

    def _place_tail(self) -> bool:
        """Find out where the tail is and what its checksum must be: from the manifest, else from the footer."""
        entry = self.entry
        if entry is not None:
            self.tail_offset, self.tail_crc = entry.tail_offset, entry.tail_crc
        else:
            footer = self._pread(self.size - codec.FOOTER, codec.FOOTER) if self.size >= codec.FOOTER else b""
            if footer is None or footer[-8:] != codec.MAGIC:
                self.found.complain("footer", "the file does not end as a segment does", footer)
                return False
            self.tail_crc = int.from_bytes(footer[4:8], "little")
            self.tail_offset = int.from_bytes(footer[8:16], "little")
        if not 0 <= self.tail_offset <= self.size - codec.FOOTER:
            self.found.complain("footer", "the tail lies outside the file", self.tail_offset, f"below {self.size}")
            return False
        return True

    def _pread(self, offset: int, size: int) -> bytes | None:
        try:
            return self.blob.pread(offset, size)
        except StoreError:
            raise
        except (StorageError, CorruptIndexError) as error:
            self.found.complain("", error.message, f"offset {offset}")
            return None

    def _read(self) -> tuple[NDArray[np.uint32], str | None]:
        """Read it all: the CRC-32 of each page before the tail, and the SHA-256 (None: not all was readable)."""
        digest = hashlib.sha256()
        crcs: list[int] = []
        covered = self.tail_offset
        for start in range(0, self.size, STEP):
            stop = min(start + STEP, self.size)
            try:
                data = self.blob.pread(start, stop - start)
            except StoreError:
                raise
            except (StorageError, CorruptIndexError):
                data = self._read_pages(start, stop)
            digest.update(data)
            if not self.mapped:
                self.memory[start:stop] = np.frombuffer(data, np.uint8)
            view = memoryview(data)[: max(0, covered - start)]
            crcs += [zlib.crc32(view[at : at + PAGE_SIZE]) for at in range(0, len(view), PAGE_SIZE)]
            self.progress(len(data))
        return np.array(crcs, np.uint32), None if self.unreadable else digest.hexdigest()

    def _read_pages(self, start: int, stop: int) -> bytes:
        """The same bytes page by page; zeros stand for pages that cannot be read."""
        pages = []
        for at in range(start, stop, PAGE_SIZE):
            size = min(PAGE_SIZE, stop - at)
            data = self._pread(at, size)
            if data is None:
                self.unreadable.add(at // PAGE_SIZE)
            pages.append(bytes(size) if data is None else data)
        return b"".join(pages)

    def _footer(self, crc: int, size: int) -> bytes:
        return (codec.FORMAT.to_bytes(4, "little") + crc.to_bytes(4, "little")
                + self.tail_offset.to_bytes(8, "little") + size.to_bytes(8, "little") + codec.MAGIC)

    def _tail(self) -> bytes | None:
        """The tail, with one wrong byte put right if there is one; None if it cannot be read."""
        found = self.found
        size = self.size - codec.FOOTER - self.tail_offset
        tail, footer = self._pread(self.tail_offset, size), self._pread(self.size - codec.FOOTER, codec.FOOTER)
        if tail is None or footer is None:
            return None
        crc = zlib.crc32(tail)
        version = int.from_bytes(footer[:4], "little")
        right = self._footer(self.tail_crc, size)
        wrong = [at for at in range(codec.FOOTER) if footer[at] != right[at]]
        self.newer = version > codec.FORMAT and max(wrong) < 4 and crc == self.tail_crc
        if self.newer:
            found.complain("footer", "the segment was written by a newer version", f"format {version}",
                           f"format {codec.FORMAT} or older")
        elif wrong:
            found.complain("footer", "the footer is damaged", footer.hex(), right.hex())
        place = self.size - codec.FOOTER
        self.explanations += [[Mend(place + at, footer[at], right[at])] for at in wrong]
        if crc == self.tail_crc:
            return tail
        candidates = [one for one in mends(tail, self.tail_offset, crc, self.tail_crc)
                      if _contents(patched(tail, self.tail_offset, [one])) is not None]
        self.explanations.append(candidates)
        found.damaged.append((self.tail_offset, self.size))
        if candidates:
            tail = patched(tail, self.tail_offset, candidates[:1])
            self._note_ranges(tail)
        where, what = "", f"{crc:08x}"
        if candidates:
            what = str(candidates[0])
            where = found.sections_in(candidates[0].offset, candidates[0].offset + 1)
        found.complain(where or "tail", "the tail fails its checksum", what, f"{self.tail_crc:08x}")
        return tail

    def _note_ranges(self, tail: bytes) -> None:
        contents = _contents(tail)
        if contents is not None:
            self.found.ranges = {entry.name: (entry.offset, entry.offset + entry.length)
                                  for entry in contents.sections}

    def _open(self, tail: bytes, memory: NDArray[np.uint8]) -> bool:
        """Read the table of contents, by the codec: the tail is given a checksum that fits it."""
        crc = zlib.crc32(tail)
        suspect = Suspect(self.found.name, memory, self.unreadable, tail + self._footer(crc, len(tail)))
        self._note_ranges(tail)
        try:
            self.found.segment = codec.read(suspect, self.found.name, tail_offset=self.tail_offset, tail_crc=crc)
        except (CorruptIndexError, FormatError) as error:
            self.found.complain("tail", error.message, shown(error.found), error.expected)
            return False
        self.expected = suspect.crcs
        return True

    def _compare(self, crcs: NDArray[np.uint32]) -> None:
        """Say which pages are damaged, and if one byte explains it, which."""
        found = self.found
        bad = np.flatnonzero(crcs != self.expected)
        for page in bad.tolist():
            start = page * PAGE_SIZE
            stop = min(start + PAGE_SIZE, self.tail_offset)
            found.damaged.append((start, stop))
            candidates: list[Mend] = []
            if bad.size <= _LOCATED and page not in self.unreadable:
                data = self.memory[start:stop].tobytes()
                candidates = mends(data, start, int(crcs[page]), int(self.expected[page]))
            self.explanations.append(candidates)
            if page in self.unreadable:
                continue  # reading has complained
            where, what = found.sections_in(start, stop), f"{int(crcs[page]):08x}"
            if len(candidates) == 1:
                offset, what = candidates[0].offset, str(candidates[0])
                where = found.sections_in(offset, offset + 1) or "padding"
            found.complain(where, f"page {page} fails its checksum", what, f"{int(self.expected[page]):08x}")

    def _mend(self) -> None:
        """Put right what single bytes explain, if that makes the file what was written."""
        for chosen in itertools.islice(itertools.product(*self.explanations), _COMBINATIONS):
            memory = self.memory.copy()
            for one in chosen:
                memory[one.offset] = one.right
            if self.entry is not None and hashlib.sha256(memory.data).hexdigest() != self.entry.sha256:
                continue
            whole = memory[self.tail_offset : self.size - codec.FOOTER].tobytes()
            if chosen and self._open(whole, memory):
                self.found.mended = list(chosen)
                self.found.damaged.clear()
                return


def _contents(tail: bytes) -> codec.Contents | None:
    """The table of contents at the end of a tail, if it is one."""
    size = int.from_bytes(tail[-8:], "little")
    try:
        return msgspec.msgpack.decode(tail[max(len(tail) - 8 - size, 0) : -8], type=codec.Contents)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None

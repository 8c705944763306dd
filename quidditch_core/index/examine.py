"""A segment file read without trust: what its checksums say, and the segment in spite of what they say.

Opening a segment stops at the first wrong byte. Here all bytes are read (by ``pread``, so that a failing disk is an
error and not a signal), all checksums compared, and the segment is handed out anyway: kernels and readers bound
what they touch, whatever the bytes are. ``check`` reports what this finds, ``repair`` takes what is whole.

A CRC-32 not only sees a wrong byte, it says which one it is, if it is the only one (:func:`one_byte`). The SHA-256
in the manifest then proves that the file is again what was written.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import numpy as np
import zstandard
from numpy.typing import NDArray

from ..codec.v1 import file as codec
from ..codec.v1.stored import MAX_UNIT
from ..errors import CorruptIndexError, FormatError, QuidditchError, StorageError
from ..files import PAGE_SIZE, Blob
from ..result import Problem
from ..segment import Segment, address
from ..tiering import Tier
from .manifest import SegmentEntry

STEP = 16 * PAGE_SIZE
"""Bytes of one read."""

_LOCATED = 16  # damaged pages in which the one wrong byte is looked for: each costs a walk over it
_COMBINATIONS = 64  # of candidates, when several pages are mended at once

Progress = Callable[[int], None]
"""Is told how many more bytes were read."""


# --- one wrong byte ------------------------------------------------------------------------------------------

_TABLE = [zlib.crc32(bytes([value])) ^ zlib.crc32(b"\0") for value in range(256)]
_BY_TOP = [0] * 256
for _value, _crc in enumerate(_TABLE):
    _BY_TOP[_crc >> 24] = _value


def one_byte(size: int, difference: int) -> Iterator[tuple[int, int]]:
    """Every (offset, value) such that xor-ing the byte there changes the CRC-32 of ``size`` bytes by ``difference``.

    What a byte does to a checksum depends only on how many bytes follow it, one more of which is one more step of
    the same register; so walk that register backwards (the checksum is linear: Peterson and Brown, 1961).
    """
    for offset in range(size - 1, -1, -1):
        value = _BY_TOP[difference >> 24]
        if _TABLE[value] == difference:
            yield offset, value
        difference = ((difference ^ _TABLE[value]) << 8) & 0xFFFFFFFF | value


class Mend(NamedTuple):
    """A byte of a file that a checksum knows better."""

    offset: int
    found: int
    right: int

    def __str__(self) -> str:
        return f"byte {self.offset} is {self.found:#04x}, was {self.right:#04x}"


def mends(data: bytes, offset: int, found: int, expected: int) -> list[Mend]:
    """The single bytes of ``data``, which begins at ``offset`` of its file, that explain a wrong CRC-32."""
    return [Mend(offset + at, data[at], data[at] ^ value) for at, value in one_byte(len(data), found ^ expected)]


# --- a file ---------------------------------------------------------------------------------------------------


class Suspect:
    """A `Blob` that hands out whatever could be read. Made by :func:`examine`, for the codec."""

    def __init__(self, name: str, memory: NDArray[np.uint8], unreadable: set[int], tail: bytes) -> None:
        self.name = name
        self.size = memory.size
        self.view = memoryview(memory)
        self.address = address(memory)
        self.crcs: NDArray[np.uint32] = np.zeros(0, np.uint32)
        self._memory = memory
        self._unreadable = unreadable
        self._tail = tail
        self._covered = 0

    def pread(self, offset: int, size: int) -> bytes:
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

    ``problems`` are those of the bytes; nothing has been asked yet about what they mean.
    """

    name: str
    size: int = 0
    segment: Segment | None = None
    problems: list[Problem] = field(default_factory=list)
    mended: list[Mend] = field(default_factory=list)
    _ranges: dict[str, tuple[int, int]] = field(default_factory=dict)
    _damaged: list[tuple[int, int]] = field(default_factory=list)

    def intact(self, section: str) -> bool:
        """Whether all bytes of a section fit their checksums."""
        start, stop = self._ranges.get(section, (0, 0))
        return not any(start < end and begin < stop for begin, end in self._damaged)

    def sections_in(self, start: int, stop: int) -> str:
        """The sections that have bytes in [start, stop) of the file."""
        found = [name for name, (begin, end) in self._ranges.items() if start < end and begin < stop]
        return ", ".join(found)

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
    except QuidditchError as error:
        found.complain("", error.message, shown(error.found), error.expected)
        return found
    try:
        _Reading(found, blob, entry, progress).examine(mend)
    finally:
        blob.close()
    return found


def shown(value: Any) -> Any:
    """What an error found, as a problem shows it."""
    return str(value) if isinstance(value, str | int | tuple) else None


class _Reading:
    """The work of :func:`examine` on one open file."""

    def __init__(self, found: Examination, blob: Blob, entry: SegmentEntry | None, progress: Progress) -> None:
        self.found, self.blob, self.entry, self.progress = found, blob, entry, progress
        self.size = found.size = blob.size if entry is None else min(entry.size, blob.size)
        self.tail_offset = self.tail_crc = 0
        self.unreadable: set[int] = set()
        self.explanations: list[list[Mend]] = []  # for each damage the single bytes that explain it

    def examine(self, mend: bool) -> None:
        entry, found = self.entry, self.found
        if entry is not None and self.blob.size != entry.size:
            found.complain("", "the file has a wrong length", f"{self.blob.size} bytes", f"{entry.size} bytes")
        placed = self._place_tail() and (entry is None or self.blob.size >= entry.size)
        crcs, digest = self._read()
        if placed:
            tail = self._tail()
            if tail is not None and self._open(tail, np.frombuffer(self.blob.view, np.uint8)[: self.size]):
                self._compare(crcs)
                if mend and found.problems:
                    self._mend(tail)
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
            except (StorageError, CorruptIndexError):
                data = self._read_pages(start, stop)
            digest.update(data)
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
        if version > codec.FORMAT and footer[4:] == self._footer(self.tail_crc, size)[4:] and crc == self.tail_crc:
            found.complain("footer", "the segment was written by a newer version", f"format {version}",
                           f"format {codec.FORMAT} or older")
            return None
        right = self._footer(self.tail_crc, size)
        wrong = [at for at in range(codec.FOOTER) if footer[at] != right[at]]
        if wrong:
            place = self.size - codec.FOOTER
            found.complain("footer", "the footer is damaged", footer.hex(), right.hex())
            self.explanations.append([Mend(place + at, footer[at], right[at]) for at in wrong[:1]])
            if len(wrong) > 1:
                self.explanations.append([])
        if crc == self.tail_crc:
            return tail
        candidates = [one for one in mends(tail, self.tail_offset, crc, self.tail_crc)
                      if _contents(_patched(tail, self.tail_offset, [one])) is not None]
        self.explanations.append(candidates)
        found._damaged.append((self.tail_offset, self.size))
        if candidates:
            tail = _patched(tail, self.tail_offset, candidates[:1])
            self._note_ranges(tail)
        where = found.sections_in(candidates[0].offset, candidates[0].offset + 1) if candidates else ""
        found.complain(where or "tail", "the tail fails its checksum",
                       candidates[0] if candidates else f"{crc:08x}", f"{self.tail_crc:08x}")
        return tail

    def _note_ranges(self, tail: bytes) -> None:
        contents = _contents(tail)
        if contents is not None:
            self.found._ranges = {entry.name: (entry.offset, entry.offset + entry.length)
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
            found._damaged.append((start, stop))
            candidates: list[Mend] = []
            if bad.size <= _LOCATED and page not in self.unreadable:
                data = bytes(self.blob.view[start:stop])
                candidates = mends(data, start, int(crcs[page]), int(self.expected[page]))
            self.explanations.append(candidates)
            if page in self.unreadable:
                continue  # reading has complained
            where = found.sections_in(candidates[0].offset, candidates[0].offset + 1) if len(candidates) == 1 else ""
            found.complain(where or found.sections_in(start, stop), f"page {page} fails its checksum",
                           candidates[0] if len(candidates) == 1 else f"{int(crcs[page]):08x}",
                           f"{int(self.expected[page]):08x}")

    def _mend(self, tail: bytes) -> None:
        """Put right what single bytes explain, if that makes the file what was written."""
        for chosen in itertools.islice(itertools.product(*self.explanations), _COMBINATIONS):
            memory = np.array(np.frombuffer(self.blob.view, np.uint8)[: self.size])
            for one in chosen:
                memory[one.offset] = one.right
            if self.entry is not None and hashlib.sha256(memory).hexdigest() != self.entry.sha256:
                continue
            whole = memory[self.tail_offset : self.size - codec.FOOTER].tobytes()
            if chosen and self._open(whole, memory):
                self.found.mended = list(chosen)
                self.found._damaged.clear()
                return


def _patched(data: bytes, start: int, changes: Iterable[Mend]) -> bytes:
    changed = bytearray(data)
    for one in changes:
        changed[one.offset - start] = one.right
    return bytes(changed)


def _contents(tail: bytes) -> codec.Contents | None:
    """The table of contents at the end of a tail, if it is one."""
    size = int.from_bytes(tail[-8:], "little")
    try:
        return msgspec.msgpack.decode(tail[max(len(tail) - 8 - size, 0) : -8], type=codec.Contents)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


# --- sections --------------------------------------------------------------------------------------------------


class Cautious:
    """Reads whole sections of a segment whose sizes nobody has checked; what does not fit is complained about.

    ``complain(section, what, found, expected)`` is called once for each; then the result is None.
    """

    def __init__(self, segment: Segment, complain: Callable[[str, str, Any, Any], None]) -> None:
        self.segment = segment
        self._complain = complain

    def array(self, name: str, dtype: Any, count: int) -> NDArray[Any] | None:
        """A section that has to be ``count`` items of ``dtype``."""
        sections, item = self.segment.sections, np.dtype(dtype).itemsize
        if name not in sections:
            self._complain(name, "the section is missing", None, None)
            return None
        if sections.size(name) != count * item:
            self._complain(name, "the section has a wrong size", f"{sections.size(name)} bytes",
                           f"{count * item} bytes")
            return None
        return self._guarded(name, lambda: self.segment.array(name, dtype))

    def count(self, name: str) -> int | None:
        """How many integers a section of narrow integers holds."""
        if name not in self.segment.sections:
            self._complain(name, "the section is missing", None, None)
            return None
        size = self.segment.sections.size(name)
        section = self._guarded(name, lambda: self._verified(name))
        if section is None:
            return None
        _, width, base = section
        if (size != 8 if width == 0 else size % width) or not -(2**63) <= base < 2**63 or (width == 8 and base):
            self._complain(name, "no narrow integers", f"{size} bytes, width {width}, base {base}", None)
            return None
        return int.from_bytes(section.data.tobytes(), "little") if width == 0 else size // width

    def _verified(self, name: str) -> Any:
        self.segment.sections.need(name, 0, self.segment.sections.size(name))
        return self.segment.sections.section(name)

    def ints(self, name: str, count: int) -> NDArray[np.int64] | None:
        """A section that has to be ``count`` narrow integers."""
        there = self.count(name)
        if there is None:
            return None
        if there != count:
            self._complain(name, "the section has a wrong number of values", there, count)
            return None
        data, width, base = self.segment.sections.section(name)
        if width == 0:
            return np.broadcast_to(np.int64(base), (count,))
        most = int(data.view(f"<u{width}").max()) if width < 8 and data.size else 0
        if base + most >= 2**63:
            self._complain(name, "values beyond 64 bits", base + most, None)
            return None
        return self.segment.ints(name)

    def _guarded(self, name: str, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (CorruptIndexError, StorageError) as error:
            self._complain(name, error.message, shown(error.found), error.expected)
            return None


# --- stored documents ------------------------------------------------------------------------------------------


class Unit(NamedTuple):
    """A unit of stored documents: the number of the first, and all of them; or what is wrong with it."""

    first: int
    count: int
    documents: list[bytes] | None
    problem: str = ""


def units(
    segment: Segment, starts: NDArray[np.int64], firsts: NDArray[np.int64], *, strict: bool,
) -> Iterator[Unit]:
    """The units of a file. A frame knows its own length and checksum: where ``starts`` leads nowhere, it may still
    stand behind the one before, unless ``strict``.

    ``firsts`` ascends from 0 to the number of documents; ``starts`` has as many entries.
    """
    data = segment.sections.section("stored").data
    dictionary = None
    if "stored.dictionary" in segment.sections:
        raw = segment.sections.section("stored.dictionary").data.tobytes()
        dictionary = zstandard.ZstdCompressionDict(raw)
    decompressor = zstandard.ZstdDecompressor(dict_data=dictionary)
    behind = 0
    bounds = list(zip(firsts.tolist(), [*firsts.tolist()[1:], 0], starts.tolist(), [*starts.tolist()[1:], 0],
                      strict=True))[:-1]
    for first, last, start, stop in bounds:
        count = last - first
        tries = dict.fromkeys([start] if strict else [start, behind])
        unit = Unit(first, count, None, "lies outside the section")
        for at in tries:
            raw, end, problem = _frame(segment, decompressor, data, at)
            documents = None if raw is None else _split(raw, count)
            if documents is not None and (not strict or end == stop):
                unit, behind = Unit(first, count, documents), end
                break
            unit = Unit(first, count, None, problem or "does not fit its documents")
        yield unit


def _frame(
    segment: Segment, decompressor: zstandard.ZstdDecompressor, data: NDArray[np.uint8], start: int,
) -> tuple[bytes | None, int, str]:
    """The zstd frame at ``start``: its content, where it ends, and if there is none why."""
    if not 0 <= start < data.size:
        return None, start, "lies outside the section"
    try:
        size = zstandard.frame_content_size(data[start : start + 18].tobytes())
        if not 0 <= size <= MAX_UNIT:
            return None, start, "has an impossible size"
        most = size + (size >> 7) + 1024  # zstd's bound for what does not compress
        stop = min(data.size, start + most)
        segment.sections.need("stored", start, stop - start)
        frame = data[start:stop].tobytes()
        stream = decompressor.decompressobj()
        raw = stream.decompress(frame)
        if not stream.eof or len(raw) != size:
            return None, start, "ends too early"
        return raw, start + len(frame) - len(stream.unused_data), ""
    except (zstandard.ZstdError, CorruptIndexError) as error:
        return None, start, f"does not decompress ({error})"


def _split(raw: bytes, count: int) -> list[bytes] | None:
    if len(raw) < 4 * count:
        return None
    ends = np.frombuffer(raw, "<u4", count).astype(np.int64)
    body = raw[4 * count :]
    if count == 0 or int(ends[-1]) != len(body) or (np.diff(ends, prepend=0) < 0).any():
        return None
    return [body[start:end] for start, end in itertools.pairwise([0, *ends.tolist()])]


def base_name(path: str | None) -> str:
    """The file that an error is about."""
    return os.path.basename(path or "")

"""A segment as one blob: sections, page checksums, table of contents, footer. FORMAT.md draws it.

Nothing here knows where the blob lives: writing yields bytes, reading goes through the structural interface of
a blob (``files.Blob``).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from ...config import SortBy
from ...errors import CorruptIndexError, FormatError
from ...files import PAGE_SIZE, Blob, Bytes
from ...segment import MAX_DOCS, MAX_STEP, PADDING, FieldInfo, Section, Sections, Segment
from .coded import Coded, encode
from .stored import Learned, StoredCodec, compress

MAGIC = b"QDSEGMNT"
FORMAT = 0
ALIGN = 64
FOOTER = 32  # u32 format, u32 tail CRC, u64 tail offset, u64 tail size, magic

_IN_TAIL = ("terms.sparse/", "terms.first/", "terms.first.offset/", "stored.first", "column.min/", "column.max/")
_KINDS = frozenset({
    "postings", "positions", "norms", "exists", "terms", "terms.sparse", "terms.first", "terms.first.offset",
    "blocks.last", "blocks.offset", "blocks.width", "blocks.bound", "blocks.position",
    "column", "column.start", "column.min", "column.max", "ids", "ids.start", "ids.hash", "ids.doc", "seq_no",
    "version", "primary_term", "tail", "stored", "stored.start", "stored.first", "stored.dictionary"})
"""Sections that this version knows; it writes none that a reader may ignore."""
_RISING = frozenset({"ids.start", "seq_no", "version", "primary_term"})
"""Sections that may have a step."""
_CODED = frozenset({"ids", "ids.start", "ids.hash", "ids.doc", "seq_no", "version", "primary_term", "exists", "column",
                    "column.start"})
"""Sections that may be coded: no kernel keeps an address of theirs."""


def _kind(name: str) -> str:
    return name.partition("/")[0]


class SectionEntry(msgspec.Struct, frozen=True, array_like=True):
    """One section: bytes [offset, offset + length); number i is ``base + step * i`` + an unsigned of ``width`` bytes.

    It is coded if ``length`` is less than ``size``, its bytes as it is read. A reader may ignore a section that it does
    not know only if it is ``optional``.
    """

    name: str
    offset: int
    length: int
    size: int
    width: int = 1
    base: int = 0
    step: int = 0
    optional: bool = False


class Contents(msgspec.Struct, frozen=True, omit_defaults=True):
    """The table of contents, MessagePack."""

    docs: int
    fields: list[FieldInfo]
    sections: list[SectionEntry]
    checksums: int  # offset in the tail of the CRC-32 (u32) of each page before the tail
    stored: str
    codec: str
    sort: list[SortBy] = []


class Tail(msgspec.Struct, frozen=True):
    """What the manifest records of a written segment."""

    offset: int
    crc: int


def write(
    segment: Segment, codec: StoredCodec, done: Callable[[Tail], None], threads: int = 1,
    known: Learned | None = None,
) -> Iterator[Bytes]:
    """The bytes of ``segment`` as a file, in pieces; ``done`` is called with its tail at the end.

    Documents are compressed by ``threads`` threads, with a dictionary that is ``known`` if it suits.
    """
    done_already = segment.stored == "zstd" and segment.codec == codec.name
    compressed = segment.sections if done_already else compress(segment, codec, threads, known)
    pieces: list[tuple[str, Sections]] = [
        (name, segment.sections) for name in segment.sections.names() if not name.startswith("stored")]
    pieces += [(name, compressed) for name in compressed.names() if name.startswith("stored")]
    pages = _Pages()
    entries: list[SectionEntry] = []
    offset = 0

    def emit(name: str, sections: Sections) -> Iterator[Bytes]:
        nonlocal offset
        sections.need(name, 0, sections.size(name))
        data, width, base, step = sections.section(name)
        coded = encode(data, width, codec.coded) if codec.coded and width and _kind(name) in _CODED else None
        made = data.data if coded is None else memoryview(coded)
        entries.append(SectionEntry(name, offset, made.nbytes, data.size, width, base, step))
        pad = -made.nbytes % ALIGN
        offset += made.nbytes + pad
        yield made
        yield bytes(pad)

    for name, sections in pieces:
        for chunk in emit(name, sections) if not name.startswith(_IN_TAIL) else ():
            pages.add(chunk)
            yield chunk
    gap = bytes(PADDING)
    pages.add(gap)
    offset += PADDING
    yield gap
    tail_offset = offset
    tail: list[Bytes] = []
    for name, sections in pieces:
        if name.startswith(_IN_TAIL):
            tail += list(emit(name, sections))
    checksums = offset - tail_offset
    tail.append(pages.finish())
    contents = Contents(segment.docs, list(segment.fields.values()), entries, checksums, "zstd", codec.name,
                        list(segment.sort))
    table = msgspec.msgpack.encode(contents)
    tail.append(table)
    tail.append(len(table).to_bytes(8, "little"))
    raw = b"".join(tail)
    crc = zlib.crc32(raw)
    yield raw
    yield _footer(crc, tail_offset, len(raw))
    done(Tail(tail_offset, crc))


def _footer(crc: int, offset: int, size: int) -> bytes:
    return (FORMAT.to_bytes(4, "little") + crc.to_bytes(4, "little") + offset.to_bytes(8, "little")
            + size.to_bytes(8, "little") + MAGIC)


class _Pages:
    """CRC-32 of each page of a stream."""

    def __init__(self) -> None:
        self._crcs: list[int] = []
        self._crc = self._used = 0

    def add(self, data: Bytes) -> None:
        view = memoryview(data)
        while view:
            part = view[: PAGE_SIZE - self._used]
            self._crc = zlib.crc32(part, self._crc)
            self._used += len(part)
            view = view[len(part) :]
            if self._used == PAGE_SIZE:
                self._crcs.append(self._crc)
                self._crc = self._used = 0

    def finish(self) -> bytes:
        if self._used:
            self._crcs.append(self._crc)
        return np.array(self._crcs, np.uint32).tobytes()


class BlobSections:
    """The sections of a blob: those in the tail are verified already, the others page by page when needed."""

    def __init__(self, blob: Blob, entries: dict[str, SectionEntry], tail_offset: int, tail: bytes) -> None:
        self._blob = blob
        self._entries = entries
        self._tail_offset = tail_offset
        self._bytes = np.frombuffer(blob.view, np.uint8)
        self._tail = np.frombuffer(tail + bytes(PADDING), np.uint8)
        self._coded: dict[str, Coded] = {}

    def over(self, blob: Blob) -> BlobSections:
        """The same sections of the same bytes in another opening of the blob."""
        other = BlobSections.__new__(BlobSections)
        other._blob, other._bytes = blob, np.frombuffer(blob.view, np.uint8)
        other._entries, other._tail_offset, other._tail = self._entries, self._tail_offset, self._tail
        other._coded = {}
        return other

    def in_blob(self, name: str, ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Where (start, length) of a section are in the blob, but for those in the tail or outside of the section."""
        entry = self._entries.get(name)
        if entry is None or entry.offset >= self._tail_offset:
            return []
        if entry.length < entry.size:
            return [(entry.offset, entry.length)]
        return [(entry.offset + start, length) for start, length in ranges
                if 0 <= start <= start + length <= entry.length]

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def names(self) -> Any:
        return self._entries

    def size(self, name: str) -> int:
        entry = self._entries.get(name)
        return entry.size if entry else 0

    def lasting(self, name: str) -> bool:
        entry = self._entries[name]
        return entry.length == entry.size

    def part(self, name: str, ranges: Sequence[tuple[int, int]]) -> Section:
        entry = self._entries.get(name)
        if entry is None or entry.length == entry.size:
            self.need_all(name, ranges)
            return self.section(name)
        coded = self._coded.get(name)
        if coded is None:
            offset = entry.offset
            stored = self._bytes[offset : offset + entry.length]
            coded = self._coded.setdefault(name, Coded(
                f"{self._blob.name}:{name}", stored, entry.size, entry.width,
                lambda some: self._blob.need([(offset + start, length) for start, length in some])))
        return Section(coded.part(ranges), entry.width, entry.base, entry.step)

    def address(self, name: str) -> int:
        entry = self._entries[name]
        if entry.offset >= self._tail_offset:
            return int(self._tail.__array_interface__["data"][0]) + entry.offset - self._tail_offset
        return self._blob.address + entry.offset

    def need(self, name: str, start: int, length: int) -> None:
        self.need_all(name, ((start, length),))

    def need_all(self, name: str, ranges: Sequence[tuple[int, int]]) -> None:
        entry = self._entries.get(name)
        size = entry.size if entry else 0
        for start, length in ranges:
            if entry is None or start < 0 or length < 0 or start + length > size:
                raise CorruptIndexError("bytes outside a section are referred to", path=f"{self._blob.name}:{name}",
                                        found=(start, length), expected=f"within {size} bytes",
                                        fix="restore the segment from a snapshot")
        if entry is not None and entry.length < entry.size:
            self._blob.need([(entry.offset, entry.length)])
        elif entry is not None and entry.offset < self._tail_offset:
            at = entry.offset
            self._blob.need([(at + start, length) for start, length in ranges if length])

    def section(self, name: str) -> Section:
        entry = self._entries[name]
        if entry.length < entry.size:
            return self.part(name, [(0, entry.size)])
        if entry.offset >= self._tail_offset:
            at = entry.offset - self._tail_offset
            data = self._tail[at : at + entry.length]
        else:
            data = self._bytes[entry.offset : entry.offset + entry.length]
        return Section(data, entry.width, entry.base, entry.step)


def read(blob: Blob, key: str, *, tail_offset: int, tail_crc: int, tail: bytes | None = None) -> Segment:
    """The segment in a blob, whose tail is read (or given) and verified now and whose pages when they are needed."""
    size = blob.size - tail_offset
    if not 0 <= tail_offset <= blob.size - FOOTER:
        raise _damaged(blob, "the tail lies outside the file", tail_offset)
    data = blob.pread(tail_offset, size) if tail is None else tail
    if len(data) != size:
        raise _damaged(blob, "the tail has a wrong length", len(data))
    tail, footer = data[:-FOOTER], data[-FOOTER:]
    if footer[-8:] != MAGIC:
        raise _damaged(blob, "not a segment", footer[-8:])
    version = int.from_bytes(footer[:4], "little")
    if version > FORMAT:
        raise FormatError("the segment was written by a newer version", path=blob.name, found=f"format {version}",
                          expected=f"format {FORMAT} or older", fix="upgrade quidditch-core")
    if zlib.crc32(tail) != tail_crc or footer != _footer(tail_crc, tail_offset, len(tail)):
        raise _damaged(blob, "the tail fails its checksum", f"{zlib.crc32(tail):08x}")
    try:
        length = int.from_bytes(tail[-8:], "little")
        table = len(tail) - 8 - length
        contents = msgspec.msgpack.decode(tail[max(table, 0) : -8], type=Contents)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(blob, "the table of contents does not decode", str(error)) from error
    checksums = tail[contents.checksums : table]
    if len(checksums) % 4:
        raise _damaged(blob, "the page checksums are cut", len(checksums))
    blob.set_checksums(np.frombuffer(checksums, np.uint32), tail_offset)
    if not 0 <= contents.docs <= MAX_DOCS:
        raise _damaged(blob, "an impossible number of documents", contents.docs)
    end = tail_offset + len(tail)
    for entry in contents.sections:
        if entry.offset < 0 or entry.length < 0 or entry.offset + entry.length > end \
                or entry.offset < tail_offset < entry.offset + entry.length \
                or entry.width not in (0, 1, 2, 4, 8) or (entry.offset % ALIGN and entry.offset < tail_offset) \
                or not -(2**63) <= entry.base < 2**63 \
                or not 0 <= entry.step < (MAX_STEP if entry.name in _RISING else 1) \
                or not (entry.size == entry.length or (
                    0 <= entry.length < entry.size and entry.offset < tail_offset
                    and _kind(entry.name) in _CODED and entry.width)):
            raise _damaged(blob, "a section lies outside the file", entry)
        if _kind(entry.name) not in _KINDS and not entry.optional:
            raise FormatError("the segment has a section that this version does not know", path=blob.name,
                              found=entry.name, fix="upgrade quidditch-core")
    entries = {entry.name: entry for entry in contents.sections}
    if len(entries) != len(contents.sections):
        raise _damaged(blob, "a section is there twice", len(contents.sections))
    if contents.stored != "zstd":
        raise _damaged(blob, "documents are stored in an unknown way", contents.stored)
    for field in contents.fields:
        if not (0 <= field.doc_count <= contents.docs >= field.exists >= 0 <= field.terms <= field.sum_df + 1
                and 0 <= field.sum_df <= field.sum_ttf < 2**62 and field.doc_count <= max(field.sum_ttf, 0)
                and field.column in ("", "i64", "f64", "ord")):
            raise _damaged(blob, "a field counts what cannot be", field)
    return Segment(key, contents.docs, contents.fields, BlobSections(blob, entries, tail_offset, tail),
                   stored=contents.stored, codec=contents.codec, sort=contents.sort, owner=blob)


def _damaged(blob: Blob, what: str, found: Any) -> CorruptIndexError:
    return CorruptIndexError(what, path=blob.name, found=found, fix="restore the segment from a snapshot")

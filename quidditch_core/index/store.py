"""Between segments and blobs: writing a segment and its live mask, opening what a manifest names, copying to a tier.

Of a segment in the cold tier the ids, the numbers of its documents, and its tail stay in the hot tier, in a blob that
is itself a segment (*keys*): so a write finds the document that it replaces, and the index opens, without the store.
"""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..codec.v1 import file as segment_file
from ..codec.v1.stored import Learned, codec_named
from ..errors import CorruptIndexError, StorageError
from ..files import Blob, Bytes
from ..segment import RamSections, Section, Sections, Segment
from ..tiering import BlobInfo, Span, Tier
from . import live
from .manifest import KeysEntry, LiveEntry, SegmentEntry
from .places import COLD, Places

CHUNK = 8 << 20
"""Bytes of a blob that are copied at once."""

_KEYS = ("ids", "ids.start", "ids.hash", "ids.doc", "seq_no", "version", "primary_term")


class Layered:
    """Sections of which some are in another, nearer segment."""

    def __init__(self, near: Sections, far: Sections) -> None:
        self.near, self.far = near, far

    def _of(self, name: str) -> Sections:
        return self.near if name in self.near else self.far

    def __contains__(self, name: str) -> bool:
        return name in self.near or name in self.far

    def names(self) -> Iterable[str]:
        return self.far.names()

    def size(self, name: str) -> int:
        return self._of(name).size(name)

    def address(self, name: str) -> int:
        return self._of(name).address(name)

    def need(self, name: str, start: int, length: int) -> None:
        self._of(name).need(name, start, length)

    def need_all(self, name: str, ranges: Sequence[tuple[int, int]]) -> None:
        self._of(name).need_all(name, ranges)

    def section(self, name: str) -> Section:
        return self._of(name).section(name)

    def part(self, name: str, ranges: Sequence[tuple[int, int]]) -> Section:
        return self._of(name).part(name, ranges)

    def lasting(self, name: str) -> bool:
        return self._of(name).lasting(name)


def write_segment(
    places: Places, tier: str, name: str, segment: Segment, codec: str, keys: str = "", threads: int = 1,
    known: Learned | None = None,
) -> SegmentEntry:
    """Write ``segment`` as blob ``name``, durable but for its name; what the manifest will say of it.

    ``keys`` names the blob of its keys, which the cold tier needs; ``known`` is a dictionary for its documents.
    """
    tails: list[segment_file.Tail] = []
    info = places.tier(tier).write(
        name, segment_file.write(segment, codec_named(codec), tails.append, threads, known))
    numbers = segment.ints("seq_no", segment.docs)
    entry = SegmentEntry(
        name=name, tier=tier, size=info.size, tail_offset=tails[0].offset, tail_crc=tails[0].crc,
        sha256=info.sha256, docs=segment.docs, live_docs=segment.docs, min_seq_no=int(numbers.min()),
        max_seq_no=int(numbers.max()), created_ms=time.time_ns() // 1_000_000)
    if tier == COLD:
        tail = places.tier(COLD).open(name, info.size).pread(entry.tail_offset, entry.size - entry.tail_offset)
        entry = msgspec.structs.replace(entry, keys=write_keys(places, keys, segment, tail))
    return entry


def write_keys(places: Places, name: str, segment: Segment, tail: bytes) -> KeysEntry:
    """Write what stays hot of ``segment``, whose file ends with ``tail``."""
    sections = RamSections()
    for kind in _KEYS:
        segment.sections.need(kind, 0, segment.sections.size(kind))
        data, width, base, step = segment.sections.section(kind)
        sections.put(kind, data, base=base, width=width, step=step)
    sections.put("tail", tail)
    codec = codec_named("default")
    tails: list[segment_file.Tail] = []
    part = Segment(name, segment.docs, (), sections, stored="zstd", codec=codec.name)
    info = places.hot.write(name, segment_file.write(part, codec, tails.append))
    return KeysEntry(name=name, size=info.size, sha256=info.sha256, tail_offset=tails[0].offset, tail_crc=tails[0].crc)


def read_ahead(places: Places, entries: Sequence[SegmentEntry], masks: Sequence[LiveEntry]) -> dict[str, bytes]:
    """Of an index that is remote as a whole: tails of segments, and live masks, by the names of their blobs, in one
    round; of any other nothing."""
    if places.remote is None:
        return {}
    key = places.remote.key
    spans = {entry.name: Span(key(entry.name), entry.tail_offset, entry.size - entry.tail_offset) for entry in entries}
    spans |= {mask.name: Span(key(mask.name), 0, mask.size) for mask in masks}
    return dict(zip(spans, places.remote.reader.read(list(spans.values())), strict=True)) if spans else {}


def open_segment(places: Places, entry: SegmentEntry, tail: bytes | None = None) -> Segment:
    """The segment of a manifest entry; its tail is verified now, and read, from the hot tier if that has it, unless it
    is given."""
    keys = None
    if entry.keys is not None:
        near = places.hot.open(entry.keys.name, entry.keys.size)
        keys = segment_file.read(near, entry.keys.name, tail_offset=entry.keys.tail_offset,
                                 tail_crc=entry.keys.tail_crc)
        tail = keys.array("tail", np.uint8).tobytes()
    blob = places.tier(entry.tier).open(entry.name, entry.size)
    segment = segment_file.read(blob, entry.name, tail_offset=entry.tail_offset, tail_crc=entry.tail_crc, tail=tail)
    for found in filter(None, (segment, keys)):
        if found.docs != entry.docs:
            raise CorruptIndexError("segment and manifest disagree", path=found.key, found=f"{found.docs} documents",
                                    expected=f"{entry.docs} documents", fix="restore the index from a snapshot")
    if keys is not None:
        segment.sections = Layered(keys.sections, segment.sections)
    segment.remote = entry.tier == COLD
    segment.cache["used"] = time.perf_counter()
    return segment


def far_sections(segment: Segment) -> segment_file.BlobSections | None:
    """The sections of a segment that are in a remote blob; None if it has none."""
    sections = segment.sections.far if isinstance(segment.sections, Layered) else segment.sections
    return sections if segment.remote and isinstance(sections, segment_file.BlobSections) else None


def fresh(segment: Segment) -> Segment:
    """The segment, or, if its blob was retired to free memory, its successor, of which nothing is in memory yet."""
    while getattr(segment.owner, "retired", False):
        known: Segment | None = segment.cache.get("successor")
        if known is None:
            far = far_sections(segment)
            assert far is not None
            blob = segment.owner.fresh()  # type: ignore[attr-defined]
            sections: Sections = far.over(blob)
            if isinstance(segment.sections, Layered):
                sections = Layered(segment.sections.near, sections)
            made = Segment(segment.key, segment.docs, segment.fields.values(), sections, stored=segment.stored,
                           codec=segment.codec, sort=segment.sort, owner=blob)
            made.remote = True
            made.cache["used"] = segment.cache["used"]
            known = segment.cache.setdefault("successor", made)
        segment = known
    return segment


def copy(places: Places, entry: SegmentEntry, to: str, keys: str) -> SegmentEntry:
    """Copy a segment to another tier, verified there; its manifest entry then. Nothing refers to the copy yet.

    ``keys`` names the blob of its keys, which the cold tier needs. A whole copy that is there already is used.
    """
    source = places.tier(entry.tier).open(entry.name, entry.size)
    target = places.tier(to)
    try:
        _write(target, entry, source)
        verify(target, entry)
        if to == COLD:
            return msgspec.structs.replace(with_keys(places, entry, keys), tier=COLD)
        return msgspec.structs.replace(entry, tier=to, keys=None)
    finally:
        source.close()


def with_keys(places: Places, entry: SegmentEntry, name: str) -> SegmentEntry:
    """The entry with its keys, read from where the segment is and written as blob ``name``."""
    blob = places.tier(entry.tier).open(entry.name, entry.size)
    try:
        tail = blob.pread(entry.tail_offset, entry.size - entry.tail_offset)
    finally:
        blob.close()
    keys = write_keys(places, name, open_segment(places, entry), tail)
    return msgspec.structs.replace(entry, keys=keys)


def _write(target: Tier, entry: SegmentEntry, source: Blob) -> None:
    try:
        _checked(target.write(entry.name, _chunks(source)), entry)
    except StorageError as error:
        if error.errno != errno.EEXIST:
            raise
        try:
            verify(target, entry)  # what an earlier move left
        except (CorruptIndexError, StorageError):
            target.delete(entry.name)
            _checked(target.write(entry.name, _chunks(source)), entry)


def _checked(info: BlobInfo, entry: SegmentEntry) -> None:
    if (info.size, info.sha256) != (entry.size, entry.sha256):
        raise CorruptIndexError("the bytes read from a segment are not those that were committed", path=entry.name,
                                found=info.sha256, expected=entry.sha256, fix="run quidditch check")


def verify(tier: Tier, entry: SegmentEntry) -> None:
    """Read a blob as a whole and compare its checksum."""
    blob = tier.open(entry.name, entry.size)
    digest = hashlib.sha256()
    try:
        for chunk in _chunks(blob):
            digest.update(chunk)
    finally:
        blob.close()
    _checked(BlobInfo(entry.name, blob.size, digest.hexdigest()), entry)


def _chunks(blob: Blob) -> Iterator[Bytes]:
    for offset in range(0, blob.size, CHUNK):
        yield blob.pread(offset, min(CHUNK, blob.size - offset))


def discard(places: Places, *blobs: tuple[str, str]) -> None:
    """Remove blobs (tier, name) that nothing refers to; what cannot be removed now, a sweep will."""
    for tier, name in blobs:
        with suppress(StorageError):
            places.tier(tier).delete(name)


def write_live(tier: Tier, name: str, mask: NDArray[np.uint64], docs: int) -> LiveEntry:
    """Write a live mask as blob ``name``."""
    info = tier.write(name, [live.encode(mask, docs)])
    return LiveEntry(name=name, size=info.size, sha256=info.sha256)


def read_live(tier: Tier, entry: SegmentEntry, data: bytes | None = None) -> NDArray[np.uint64] | None:
    """The live mask of a manifest entry; None if all documents live. ``data``: its blob, if that was read."""
    if entry.live is None:
        return None
    if data is None:
        blob = tier.open(entry.live.name, entry.live.size)
        try:
            data = blob.pread(0, entry.live.size)
        finally:
            blob.close()
    mask = live.decode(data, entry.docs, entry.live.name)
    alive = int(np.bitwise_count(mask).sum())
    if alive != entry.live_docs:
        raise CorruptIndexError("live mask and manifest disagree", path=entry.live.name, found=f"{alive} live",
                                expected=f"{entry.live_docs} live", fix="restore the index from a snapshot")
    return mask

"""Between segments and blobs: writing a segment and its live mask to the hot tier, opening what a manifest names."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from ..codec.v1 import file as segment_file
from ..codec.v1.stored import codec_named
from ..errors import CorruptIndexError
from ..segment import Segment
from ..tiering import Tier
from . import live
from .manifest import LiveEntry, SegmentEntry


def write_segment(tier: Tier, name: str, segment: Segment, codec: str, threads: int = 1) -> SegmentEntry:
    """Write ``segment`` as blob ``name``, durable but for its name; what the manifest will say of it."""
    tails: list[segment_file.Tail] = []
    info = tier.write(name, segment_file.write(segment, codec_named(codec), tails.append, threads))
    numbers = segment.ints("seq_no", segment.docs)
    return SegmentEntry(
        name=name, tier=tier.name, size=info.size, tail_offset=tails[0].offset, tail_crc=tails[0].crc,
        sha256=info.sha256, docs=segment.docs, live_docs=segment.docs, min_seq_no=int(numbers.min()),
        max_seq_no=int(numbers.max()), created_ms=time.time_ns() // 1_000_000)


def open_segment(tier: Tier, entry: SegmentEntry) -> Segment:
    """The segment of a manifest entry; its tail is read and verified now."""
    blob = tier.open(entry.name, entry.size)
    segment = segment_file.read(blob, entry.name, tail_offset=entry.tail_offset, tail_crc=entry.tail_crc)
    if segment.docs != entry.docs:
        raise CorruptIndexError("segment and manifest disagree", path=entry.name, found=f"{segment.docs} documents",
                                expected=f"{entry.docs} documents", fix="restore the index from a snapshot")
    return segment


def write_live(tier: Tier, name: str, mask: NDArray[np.uint64], docs: int) -> LiveEntry:
    """Write a live mask as blob ``name``."""
    info = tier.write(name, [live.encode(mask, docs)])
    return LiveEntry(name=name, size=info.size, sha256=info.sha256)


def read_live(tier: Tier, entry: SegmentEntry) -> NDArray[np.uint64] | None:
    """The live mask of a manifest entry; None if all documents live."""
    if entry.live is None:
        return None
    blob = tier.open(entry.live.name, entry.live.size)
    try:
        mask = live.decode(blob.pread(0, entry.live.size), entry.docs, entry.live.name)
    finally:
        blob.close()
    alive = int(np.bitwise_count(mask).sum())
    if alive != entry.live_docs:
        raise CorruptIndexError("live mask and manifest disagree", path=entry.live.name, found=f"{alive} live",
                                expected=f"{entry.live_docs} live", fix="restore the index from a snapshot")
    return mask

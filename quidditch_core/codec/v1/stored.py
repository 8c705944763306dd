"""Stored documents: units of consecutive documents, compressed with a dictionary of their segment.

A raw unit is ``u32 offset`` of each document's end, then the documents. In memory a segment keeps its documents
in one uncompressed unit each; a file keeps them in zstd frames of about ``unit`` raw bytes, with checksums and
the raw size in each frame, so that a size is checked before memory is taken.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from ...errors import SettingsError
from ...segment import RamSections, Segment

MAX_UNIT = 1 << 30
"""Raw bytes of the largest unit that a reader accepts."""
DICTIONARY_MINIMUM = 1 << 20
"""Raw bytes of a segment below which no dictionary is trained."""
DICTIONARY_MAXIMUM = 110 << 10
_SAMPLE = 100  # training bytes for each byte of dictionary, as zstd's own trainer recommends
_TRIES = 3  # frames held back by a thread's cache of decoded units


@dataclass(frozen=True, slots=True)
class StoredCodec:
    """``unit``: raw bytes of a unit; ``level``: zstd's."""

    name: str
    unit: int
    level: int


CODECS = {
    "default": StoredCodec("default", 2 << 10, 3),
    "diagon_best_compression": StoredCodec("diagon_best_compression", 16 << 10, 12),
}


def codec_named(name: str) -> StoredCodec:
    codec = CODECS.get(name)
    if codec is None:
        raise SettingsError("unknown codec", path="index.codec", found=name, expected=" or ".join(CODECS))
    return codec


def write_raw(sections: RamSections, documents: list[bytes]) -> None:
    """The sections of a segment in memory: ``stored`` and ``stored.start``."""
    ends = np.cumsum(np.fromiter(map(len, documents), np.int64, len(documents)))
    sections.put("stored", b"".join(documents))
    sections.put_ints("stored.start", np.concatenate([np.zeros(1, np.int64), ends]))


def compress(documents: list[bytes], codec: StoredCodec) -> RamSections:
    """The sections of a file: ``stored``, ``stored.start``, ``stored.first`` and maybe ``stored.dictionary``."""
    sections = RamSections()
    dictionary = _train(documents)
    if dictionary is not None:
        sections.put("stored.dictionary", dictionary.as_bytes())
        dictionary.precompute_compress(level=codec.level)
    compressor = zstandard.ZstdCompressor(level=codec.level, dict_data=dictionary, write_checksum=True,
                                          write_content_size=True, write_dict_id=False)
    frames: list[bytes] = []
    firsts: list[int] = []
    unit: list[bytes] = []
    size = first = 0

    def close(next_first: int) -> None:
        nonlocal unit, size, first
        if unit:
            ends = np.cumsum([len(document) for document in unit], dtype=np.uint32)
            frames.append(compressor.compress(ends.tobytes() + b"".join(unit)))
            firsts.append(first)
        unit, size, first = [], 0, next_first

    for doc, document in enumerate(documents):
        if size + len(document) > codec.unit:
            close(doc)
        unit.append(document)
        size += len(document)
    close(len(documents))
    ends = np.cumsum(np.fromiter(map(len, frames), np.int64, len(frames)))
    sections.put("stored", b"".join(frames))
    sections.put_ints("stored.start", np.concatenate([np.zeros(1, np.int64), ends]))
    sections.put_ints("stored.first", np.array([*firsts, len(documents)], np.int64))
    return sections


def _train(documents: list[bytes]) -> zstandard.ZstdCompressionDict | None:
    total = sum(map(len, documents))
    if total < DICTIONARY_MINIMUM:
        return None
    size = min(DICTIONARY_MAXIMUM, total // 100)
    step = max(1, total // (size * _SAMPLE))
    samples: list[bytes | bytearray | memoryview] = [document for document in documents[::step] if len(document) >= 8]
    try:
        return zstandard.train_dictionary(size, samples, k=512, d=8, level=3)
    except zstandard.ZstdError:  # documents too few or too alike to learn from: frames do without
        return None


class StoredReader:
    """Reads the documents of one segment. Safe to share between threads: each keeps its own decompressor."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._local = threading.local()
        self._known: tuple[NDArray[Any], int, NDArray[Any], int, NDArray[np.uint8]] | None = None

    def read(self, doc: int) -> bytes:
        """The stored bytes of a document."""
        segment = self._segment
        if segment.stored == "raw":
            starts, base = segment.starts("stored.start", segment.docs, segment.sections.size("stored"))
            start, end = int(starts[doc]) + base, int(starts[doc + 1]) + base
            segment.sections.need("stored", start, end - start)
            return segment.sections.section("stored").data[start:end].tobytes()
        firsts, base, _, _, _ = self._table()
        unit = -1
        if 0 <= doc - base <= np.iinfo(firsts.dtype).max:
            # A number of another type than the array's would convert the whole array first.
            unit = int(firsts.searchsorted(firsts.dtype.type(doc - base), side="right")) - 1
        if not 0 <= unit < firsts.size - 1:
            raise segment.damaged("a document is in no stored unit", found=doc)
        first = firsts.item(unit) + base
        count = firsts.item(unit + 1) + base - first
        raw = self._unit(unit)
        at = doc - first
        if not 0 <= at < count or 4 * count + int.from_bytes(raw[4 * count - 4 : 4 * count], "little") != len(raw):
            raise segment.damaged("a stored unit does not hold what its number of documents says", found=count)
        start = int.from_bytes(raw[4 * at - 4 : 4 * at], "little") if at else 0
        end = int.from_bytes(raw[4 * at : 4 * at + 4], "little")
        if not start <= end <= len(raw) - 4 * count:
            raise segment.damaged("a stored document lies outside its unit", found=(start, end))
        return raw[4 * count + start : 4 * count + end]

    def _table(self) -> tuple[NDArray[Any], int, NDArray[Any], int, NDArray[np.uint8]]:
        """First document of each unit, and its base; where each begins, and its base; the units' bytes."""
        if self._known is None:
            sections = self._segment.sections
            firsts, base = self._segment.narrow("stored.first")
            starts, start = self._segment.starts("stored.start", firsts.size - 1, sections.size("stored"))
            self._known = firsts, base, starts, start, sections.section("stored").data
        return self._known

    def _unit(self, unit: int) -> bytes:
        recent: dict[int, bytes] | None = getattr(self._local, "units", None)
        if recent is None:
            self._local.decompressor = self._decompressor()
            recent = self._local.units = {}
        raw = recent.get(unit)
        if raw is None:
            _, _, starts, base, data = self._table()
            start, end = starts.item(unit) + base, starts.item(unit + 1) + base
            self._segment.sections.need("stored", start, end - start)
            frame = data[start:end].tobytes()
            raw = _decompress(self._local.decompressor, frame, self._segment)
            if len(recent) >= _TRIES:
                recent.pop(next(iter(recent)))
            recent[unit] = raw
        return raw

    def _decompressor(self) -> zstandard.ZstdDecompressor:
        dictionary = None
        if "stored.dictionary" in self._segment.sections:
            dictionary = zstandard.ZstdCompressionDict(self._segment.array("stored.dictionary", np.uint8).tobytes())
        return zstandard.ZstdDecompressor(dict_data=dictionary)


def _decompress(decompressor: zstandard.ZstdDecompressor, frame: bytes, segment: Segment) -> bytes:
    """One frame, never more than it says and never more than MAX_UNIT."""
    try:
        size = zstandard.frame_content_size(frame)
        if not 0 <= size <= MAX_UNIT:
            raise segment.damaged("a stored unit has an impossible size", found=size)
        return decompressor.decompress(frame)
    except zstandard.ZstdError as error:
        raise segment.damaged("a stored unit does not decompress", found=str(error)) from error


def reader(segment: Segment) -> StoredReader:
    """The segment's reader of stored documents; made once."""
    made: StoredReader | None = segment.cache.get("stored.reader")
    if made is None:
        made = segment.cache["stored.reader"] = StoredReader(segment)
    return made

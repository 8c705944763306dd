"""Stored documents: units of consecutive documents, compressed with one of their segment's dictionaries.

A raw unit is ``u32 offset`` of each document's end, then the documents. In memory a segment keeps its documents
as they are, one after another; a file keeps them in zstd frames of about ``unit`` raw bytes, with checksums, the raw
size in each frame, so that a size is checked before memory is taken, and the id of the dictionary that it needs. So
merging copies frames with their dictionaries, as long as these are few.
"""

from __future__ import annotations

import itertools
import struct
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
import numpy as np
import zstandard
from numpy.typing import NDArray

from ...errors import CorruptIndexError, SettingsError
from ...segment import RamSections, Segment, gathered, padded

MAX_UNIT = 1 << 30
"""Raw bytes of the largest unit that a reader accepts."""
DICTIONARIES = 8
"""Dictionaries of a segment, at most."""
DICTIONARY_MINIMUM = 1 << 20
"""Raw bytes of a segment below which no dictionary is trained."""
_SAMPLE = 20  # training bytes for each byte of dictionary: five times as many gain 1 % and cost five times the time
SAMPLED = 17 << 20
"""Raw bytes of which a dictionary is made, at most."""
_KEPT = 2 << 20  # bytes of decoded units that a reader keeps: some documents are asked for again and again
_SHARE = 256 << 10  # raw bytes that make another thread worth while
BATCH = 4 << 20
"""Raw bytes that are encoded at once."""

Dictionary = zstandard.ZstdCompressionDict


class StoredCodec(msgspec.Struct, frozen=True):
    """``unit``: raw bytes of a unit of documents; ``level``: zstd's; ``dictionary``: its bytes, at most.

    A dictionary is at most one byte of ``share`` of what it is made from. ``coded``: zstd's level for coded sections,
    0 if none is coded.
    """

    name: str
    unit: int
    level: int
    dictionary: int = 110 << 10
    share: int = 100
    coded: int = 0


CODECS = {
    "default": StoredCodec("default", 2 << 10, 3),
    "diagon_best_compression": StoredCodec("diagon_best_compression", 3 << 10, 16, dictionary=512 << 10, share=32,
                                           coded=12),
}


def codec_named(name: str) -> StoredCodec:
    codec = CODECS.get(name)
    if codec is None:
        raise SettingsError("unknown codec", path="index.codec", found=name, expected=" or ".join(CODECS))
    return codec


class Documents(NamedTuple):
    """Documents one after another, and int64 where each ends."""

    data: bytes | memoryview
    ends: NDArray[np.int64]


def write_raw(sections: RamSections, parts: Sequence[Documents]) -> None:
    """The sections of a segment in memory: ``stored`` and ``stored.start``."""
    sections.adopt("stored", gathered([part.data for part in parts]))
    sizes = [np.diff(part.ends, prepend=0) for part in parts]
    sections.put_ints("stored.start", np.cumsum(np.concatenate([np.zeros(1, np.int64), *sizes])))


def merge_raw(sources: Sequence[tuple[Segment, NDArray[np.int32]]]) -> RamSections:
    """The sections of the documents that live, for a segment in memory."""
    sections = RamSections()
    write_raw(sections, [part for segment, numbers in sources for part in documents(segment, numbers)])
    return sections


def compress(segment: Segment, codec: StoredCodec, threads: int = 1) -> RamSections:
    """The sections of a file: ``stored``, ``stored.start``, ``stored.first`` and maybe ``stored.dictionary/0``."""
    return merge([(segment, np.arange(segment.docs, dtype=np.int32))], codec, threads=threads)


def merge(
    sources: Sequence[tuple[Segment, NDArray[np.int32]]], codec: StoredCodec, pace: Callable[[], None] = lambda: None,
    threads: int = 1,
) -> RamSections:
    """The sections of the documents that live, ascending: a source's document d becomes numbers[d], unless it is -1.

    Units are copied where their documents all live, and their codec, size and dictionary are those of the result;
    others are encoded anew, by ``threads`` threads, whose number changes no byte.
    """
    copied = _copied(sources, codec)
    dictionaries = {id: one for at in copied for id, one in dictionaries_of(sources[at][0]).items()}
    main = next(iter(dictionaries.values()), None)
    if main is None:
        main = train(itertools.chain.from_iterable(
            documents(*source) for at, source in enumerate(sources) if at not in copied), codec)
        if main is not None:
            dictionaries[main.dict_id()] = main
    frames = Frames(codec, main, threads)
    for copying, group in itertools.groupby(enumerate(sources), lambda source: source[0] in copied):
        if copying:
            for _, (segment, numbers) in group:
                frames.copy(segment, numbers, pace)
        else:
            for part in _batches(itertools.chain.from_iterable(documents(*source) for _, source in group), BATCH):
                pace()
                frames.add(part)
    sections = RamSections()
    frames.write(sections, list(dictionaries.values()))
    return sections


def _copied(sources: Sequence[tuple[Segment, NDArray[np.int32]]], codec: StoredCodec) -> list[int]:
    """Which sources are copied unit by unit, the largest first; no more than have few dictionaries together."""
    fit = []
    for at, (segment, numbers) in enumerate(sources):
        if segment.stored == "zstd" and segment.codec == codec.name and segment.docs:
            live = int(np.count_nonzero(numbers >= 0))
            raw = _raw_unit(segment)
            if 2 * live >= segment.docs and 2 * raw >= codec.unit:
                fit.append((segment.sections.size("stored"), at))
    chosen: list[int] = []
    known: dict[int, bytes] = {}
    for _, at in sorted(fit, reverse=True):
        own = {id: one.as_bytes() for id, one in dictionaries_of(sources[at][0]).items()}
        if not own or any(known.get(id, data) != data for id, data in own.items()) \
                or len(known | own) > DICTIONARIES:
            continue
        known |= own
        chosen.append(at)
    return chosen


def _raw_unit(segment: Segment) -> int:
    """Raw bytes of a unit, by a few of them."""
    units = segment.narrow("stored.first")[0].size - 1
    starts, base, _ = segment.starts("stored.start", units, segment.sections.size("stored"))
    sizes = []
    for unit in range(0, units, max(1, units // 8)):
        start = int(starts[unit]) + base
        size = min(18, int(starts[unit + 1]) + base - start)
        segment.sections.need("stored", start, size)
        sizes.append(frame_size(segment, segment.sections.section("stored").data[start : start + size].tobytes()))
    return sum(sizes) // max(1, len(sizes))


def frame_size(segment: Segment, frame: bytes) -> int:
    """Raw bytes of a frame, as its beginning says; never more than MAX_UNIT."""
    try:
        size: int = zstandard.frame_content_size(frame)
    except zstandard.ZstdError as error:
        raise segment.damaged("a stored unit is none", found=str(error)) from error
    if not 0 <= size <= MAX_UNIT:
        raise segment.damaged("a stored unit has an impossible size", found=size)
    return size


def documents(segment: Segment, numbers: NDArray[np.int32]) -> Iterator[Documents]:
    """The documents that live (numbers[d] >= 0), a few megabytes at a time."""
    if segment.stored == "raw":
        starts, base, _ = segment.starts("stored.start", segment.docs, segment.sections.size("stored"))
        edges = starts.astype(np.int64) + base
        data = segment.sections.section("stored").data.data
        doc = 0
        while doc < segment.docs:
            stop = max(doc + 1, int(np.searchsorted(edges, edges[doc] + BATCH, "right")) - 1)
            part = Documents(data[edges[doc] : edges[stop]], edges[doc + 1 : stop + 1] - edges[doc])
            yield _living(part, numbers[doc:stop])
            doc = stop
        return
    stored = reader(segment)
    for first, part in stored.units():
        yield _living(part, numbers[first : first + part.ends.size])


def _living(part: Documents, numbers: NDArray[np.int32]) -> Documents:
    live = numbers >= 0
    if live.all():
        return part
    sizes = np.diff(part.ends, prepend=0)
    data = np.frombuffer(part.data, np.uint8)[np.repeat(live, sizes)]
    return Documents(data.tobytes(), np.cumsum(sizes[live]))


def gather(documents: Sequence[bytes]) -> Documents:
    return Documents(gathered(documents).data, np.cumsum(np.fromiter(map(len, documents), np.int64, len(documents))))


def joined(parts: Sequence[Documents]) -> Documents:
    if len(parts) == 1:
        return parts[0]
    starts = [0, *itertools.accumulate(len(part.data) for part in parts)]
    return Documents(b"".join(part.data for part in parts), np.concatenate(
        [np.zeros(0, np.int64), *(part.ends + start for part, start in zip(parts, starts[:-1], strict=True))]))


def _batches(parts: Iterator[Documents], size: int) -> Iterator[Documents]:
    """The same documents in parts of about ``size`` bytes."""
    waiting: list[Documents] = []
    held = 0
    for part in parts:
        waiting.append(part)
        held += len(part.data)
        if held >= size:
            yield joined(waiting)
            waiting, held = [], 0
    if waiting:
        yield joined(waiting)


def train(documents: Iterable[Documents], codec: StoredCodec) -> Dictionary | None:
    """A dictionary for documents that are to be encoded, by samples of the first megabytes; None if it is no use."""
    parts: list[Documents] = []
    total = 0
    for part in documents:
        parts.append(part)
        total += len(part.data)
        if total >= SAMPLED:
            break
    if total < DICTIONARY_MINIMUM:
        return None
    size = min(codec.dictionary, total // codec.share)
    step = max(1, total // (size * _SAMPLE))
    samples: list[bytes | bytearray | memoryview] = []
    for part in parts:
        starts = np.concatenate([np.zeros(1, np.int64), part.ends[:-1]])[::step].tolist()
        samples += [bytes(part.data[start:end]) for start, end in zip(starts, part.ends[::step].tolist(), strict=False)
                    if end - start >= 8]
    try:
        return zstandard.train_dictionary(size, samples, k=512, d=8, level=3, accel=5)
    except zstandard.ZstdError:  # documents too few or too alike to learn from: frames do without
        return None


class Encoded(NamedTuple):
    """Frames one after another, their sizes, the first document of each, and the document after the last."""

    data: bytes | memoryview
    sizes: NDArray[np.int64]
    firsts: NDArray[np.int64]
    stop: int


class Frames:
    """The frames of a segment to come."""

    def __init__(self, codec: StoredCodec, dictionary: Dictionary | None, threads: int) -> None:
        if dictionary is not None:
            dictionary.precompute_compress(level=codec.level)
        self.dictionary, self._codec, self._threads = dictionary, codec, threads
        self._parts: list[Encoded] = []

    @property
    def docs(self) -> int:
        return self._parts[-1].stop if self._parts else 0

    @property
    def memory(self) -> int:
        """Bytes held."""
        return sum(len(part.data) + 2 * part.sizes.nbytes for part in self._parts)

    def add(self, part: Documents) -> None:
        """Encode documents and keep them."""
        if part.ends.size:
            self.keep(self.encode(part, self.docs))

    def keep(self, part: Encoded) -> None:
        """Keep the documents that come next."""
        self._parts.append(part)

    def encode(self, part: Documents, doc: int) -> Encoded:
        """Encode documents, the first of them ``doc``, in units as large as they may be; one that is larger is alone.

        Several threads may do so at once.
        """
        stops = part.ends.tolist()
        edges = [0]  # first documents
        places = [0]  # and first bytes
        while edges[-1] < len(stops):
            last = max(edges[-1] + 1, bisect_right(stops, places[-1] + self._codec.unit, edges[-1]))
            edges.append(last)
            places.append(stops[last - 1])
        units = np.array(edges, np.int64)
        tables = memoryview((part.ends - np.repeat(places[:-1], np.diff(units))).astype("<u4").tobytes())
        data = memoryview(part.data)
        raw = [piece for doc, last, start, stop in zip(edges, edges[1:], places, places[1:], strict=False)
               for piece in (tables[4 * doc : 4 * last], data[start:stop])]
        starts = 4 * units + np.array(places, np.int64)
        segments = np.stack([starts[:-1], np.diff(starts)], axis=1)
        compressor = zstandard.ZstdCompressor(
            level=self._codec.level, dict_data=self.dictionary, write_checksum=True, write_content_size=True,
            write_dict_id=True)
        found = compressor.multi_compress_to_buffer(
            zstandard.BufferWithSegments(b"".join(raw), segments.tobytes()),
            threads=min(self._threads, 1 + data.nbytes // _SHARE))
        frames: list[Any] = [found[at] for at in range(len(found))]
        return Encoded(gathered(frames).data, np.fromiter(map(len, frames), np.int64, len(frames)),
                       doc + units[:-1], doc + len(stops))

    def read(self, doc: int) -> bytes:
        """A document that was added."""
        part = self._parts[bisect_right(self._parts, doc, key=lambda part: part.stop)]
        unit = int(part.firsts.searchsorted(doc, "right")) - 1
        start = int(part.sizes[:unit].sum())
        raw = zstandard.ZstdDecompressor(dict_data=self.dictionary).decompress(
            part.data[start : start + int(part.sizes[unit])])
        first = int(part.firsts[unit])
        last = int(part.firsts[unit + 1]) if unit + 1 < part.firsts.size else part.stop
        ends = [0, *np.frombuffer(raw, "<u4", last - first).tolist()]
        body = 4 * (last - first)
        return raw[body + ends[doc - first] : body + ends[doc - first + 1]]

    def copy(self, segment: Segment, numbers: NDArray[np.int32], pace: Callable[[], None]) -> None:
        """Copy the units of a segment, but for those with deleted documents."""
        firsts, first_base = segment.narrow("stored.first")
        edges = firsts.astype(np.int64) + first_base
        starts, base, _ = segment.starts("stored.start", edges.size - 1, segment.sections.size("stored"))
        places = starts.astype(np.int64) + base
        if edges.size < 2 or edges[0] != 0 or edges[-1] != segment.docs or (np.diff(edges) <= 0).any():
            raise segment.damaged("stored units do not follow each other")
        whole = np.diff(np.concatenate([[0], np.cumsum(numbers >= 0)])[edges]) == np.diff(edges)
        turns = np.flatnonzero(np.diff(whole)) + 1
        for begin, end in itertools.pairwise([0, *turns.tolist(), whole.size]):
            pace()
            start, stop = int(places[begin]), int(places[end])
            if whole[begin]:
                segment.sections.need("stored", start, stop - start)
                self._parts.append(Encoded(
                    segment.sections.section("stored").data[start:stop].data, np.diff(places[begin : end + 1]),
                    edges[begin:end] - edges[begin] + self.docs, self.docs + int(edges[end] - edges[begin])))
            else:
                stored = reader(segment)
                left = [_living(part, numbers[first : first + part.ends.size])
                        for first, part in stored.units(begin, end)]
                self.add(joined(left))

    def write(self, sections: RamSections, dictionaries: Sequence[Dictionary]) -> None:
        """The sections of all of it; ``dictionaries``: those that frames need."""
        for number, dictionary in enumerate(dictionaries):
            sections.put(f"stored.dictionary/{number}", dictionary.as_bytes())
        data = padded(sum(len(part.data) for part in self._parts))
        start = 0
        for at, part in enumerate(self._parts):
            stop = start + len(part.data)
            data[start:stop] = np.frombuffer(part.data, np.uint8)
            self._parts[at] = part._replace(data=data[start:stop].data)  # and what it was goes
            start = stop
        sections.adopt("stored", data)
        none = np.zeros(1, np.int64)
        sections.put_ints("stored.start", np.cumsum(np.concatenate([none, *(part.sizes for part in self._parts)])))
        sections.put_ints("stored.first", np.concatenate([*(part.firsts for part in self._parts), none + self.docs]))


class StoredReader:
    """Reads the documents of one segment. Safe to share between threads: each call has decompressors of its own."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._idle: list[FrameReader] = []
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._kept_bytes = 0
        self._keeping = threading.Lock()
        self._known: _Table | None = None

    def read(self, doc: int) -> bytes:
        """The stored bytes of a document."""
        return self.read_all([doc])[0]

    def read_all(self, docs: list[int]) -> list[bytes]:
        """The stored bytes of some documents; what is to be read of them is asked for at once."""
        segment = self._segment
        if not docs:
            return []
        if segment.stored == "raw":
            starts, base, _ = segment.starts("stored.start", segment.docs, segment.sections.size("stored"))
            edges = [(starts.item(doc) + base, starts.item(doc + 1) + base) for doc in docs]
            segment.sections.need_all("stored", [(start, end - start) for start, end in edges])
            data = segment.sections.section("stored").data
            return [data[start:end].tobytes() for start, end in edges]
        table = self._table()
        units = self._units_of(docs, table)
        decoded = self._decoded(units, table)
        firsts, base = table.firsts, table.base
        found = []
        for doc, unit in zip(docs, units, strict=True):
            raw = decoded[unit]
            first = firsts[unit]
            body = 4 * (firsts[unit + 1] - first)
            at = 4 * (doc - base - first)
            size = len(raw) - body
            if not 0 <= at < body or size < 0 or _END.unpack_from(raw, body - 4)[0] != size:
                raise segment.damaged("a stored unit does not hold what its number of documents says", found=body // 4)
            start, end = _EDGES.unpack_from(raw, at - 4) if at else (0, *_END.unpack_from(raw))
            if not start <= end <= size:
                raise segment.damaged("a stored document lies outside its unit", found=(start, end))
            found.append(raw[body + start : body + end])
        return found

    def places(self, docs: list[int]) -> list[tuple[int, int]]:
        """Where, in the stored bytes, what `read_all` of some documents reads is: (start, length)."""
        table = self._table()
        starts, base = table.starts, table.start
        return [(start := starts[unit] + base, starts[unit + 1] + base - start)
                for unit in sorted(set(self._units_of(docs, table))) if unit not in self._kept]

    def _units_of(self, docs: list[int], table: _Table) -> list[int]:
        """The unit that each document is in."""
        numbers, base = table.numbers, table.base
        least, most = min(docs) - base, max(docs) - base
        units: list[int] = []
        if least >= 0 and most <= table.most:
            # Numbers of another type than the array's would convert the whole array first.
            if least == most:
                units = [int(numbers.searchsorted(numbers.dtype.type(least), side="right")) - 1] * len(docs)
            else:
                wanted = np.array(docs, np.int64)
                wanted -= base
                units = (numbers.searchsorted(wanted.astype(numbers.dtype), side="right") - 1).tolist()
        if not units or min(units) < 0 or max(units) >= numbers.size - 1:
            raise self._segment.damaged("a document is in no stored unit", found=(least + base, most + base))
        return units

    def units(self, begin: int = 0, end: int | None = None) -> Iterator[tuple[int, Documents]]:
        """The first document and the documents of units ``begin`` .. ``end`` - 1, or all."""
        segment = self._segment
        firsts, base = segment.narrow("stored.first")
        edges = firsts.astype(np.int64) + base
        if edges.size < 1 or edges[0] != 0 or edges[-1] != segment.docs or (np.diff(edges) <= 0).any():
            raise segment.damaged("stored units do not follow each other")
        table, frames = self._table(), FrameReader(dictionaries_of(segment))
        for unit in range(begin, edges.size - 1 if end is None else end):
            first, count = int(edges[unit]), int(edges[unit + 1] - edges[unit])
            start, stop = table.starts[unit] + table.start, table.starts[unit + 1] + table.start
            segment.sections.need("stored", start, stop - start)
            raw = self._decompress(frames, table.data[start:stop])
            if len(raw) < 4 * count:
                raise segment.damaged("a stored unit does not hold what its number of documents says", found=count)
            ends = np.frombuffer(raw, "<u4", count).astype(np.int64)
            if 4 * count + int(ends[-1]) != len(raw) or (np.diff(ends, prepend=0) < 0).any():
                raise segment.damaged("a stored unit does not hold what its number of documents says", found=count)
            yield first, Documents(memoryview(raw)[4 * count :], ends)

    def _table(self) -> _Table:
        if self._known is None:
            sections = self._segment.sections
            firsts, base = self._segment.narrow("stored.first")
            starts, start, _ = self._segment.starts("stored.start", firsts.size - 1, sections.size("stored"))
            self._known = _Table(firsts, int(np.iinfo(firsts.dtype).max), firsts.data, base, starts.data, start,
                                 sections.section("stored").data.data)
        return self._known

    def _decoded(self, units: list[int], table: _Table) -> dict[int, bytes]:
        """The bytes of some units."""
        kept = self._kept
        decoded = {unit: raw for unit in units if (raw := kept.get(unit)) is not None}
        missing = [unit for unit in dict.fromkeys(units) if unit not in decoded]
        if missing:
            try:
                frames = self._idle.pop()
            except IndexError:
                frames = FrameReader(dictionaries_of(self._segment))
            starts, base, data = table.starts, table.start, table.data
            ranges = [(start := starts[unit] + base, starts[unit + 1] + base - start) for unit in missing]
            self._segment.sections.need_all("stored", ranges)
            for unit, (start, length) in zip(missing, ranges, strict=True):
                decoded[unit] = self._decompress(frames, data[start : start + length])
            self._idle.append(frames)
            self._keep({unit: decoded[unit] for unit in missing})
        return decoded

    def _keep(self, decoded: dict[int, bytes]) -> None:
        """Keep decoded units; those that came first go."""
        with self._keeping:
            kept = self._kept
            for unit, raw in decoded.items():
                if unit not in kept and len(raw) <= _KEPT:
                    kept[unit] = raw
                    self._kept_bytes += len(raw)
            while self._kept_bytes > _KEPT:
                self._kept_bytes -= len(kept.popitem(last=False)[1])

    def _decompress(self, frames: FrameReader, frame: memoryview) -> bytes:
        """One frame, never more than it says and never more than MAX_UNIT."""
        try:
            told = zstandard.get_frame_parameters(frame)
            if told.content_size > MAX_UNIT:
                raise self._segment.damaged("a stored unit has an impossible size", found=told.content_size)
            return frames.by_id(told.dict_id).decompress(frame)
        except (zstandard.ZstdError, KeyError) as error:
            raise self._segment.damaged("a stored unit does not decompress", found=str(error)) from error


class _Table(NamedTuple):
    """The first document of each unit as an array, whose numbers are ``most`` at most, and as plain numbers, and its
    base; where each unit begins, and its base; the bytes of all."""

    numbers: NDArray[Any]
    most: int
    firsts: memoryview
    base: int
    starts: memoryview
    start: int
    data: memoryview


_END = struct.Struct("<I")
_EDGES = struct.Struct("<II")


class FrameReader:
    """Decompressors for one thread at a time, one a dictionary."""

    def __init__(self, dictionaries: dict[int, Dictionary]) -> None:
        self._dictionaries = dictionaries
        self._made: dict[int, zstandard.ZstdDecompressor] = {}

    def of(self, frame: bytes) -> zstandard.ZstdDecompressor:
        """The decompressor for a frame; ZstdError if it is none, KeyError without its dictionary."""
        return self.by_id(zstandard.get_frame_parameters(frame).dict_id)

    def by_id(self, id: int) -> zstandard.ZstdDecompressor:
        """The decompressor for frames with a dictionary, or for 0 without one."""
        made = self._made.get(id)
        if made is None:
            made = self._made[id] = zstandard.ZstdDecompressor(dict_data=self._dictionaries[id] if id else None)
        return made


def dictionaries_of(segment: Segment) -> dict[int, Dictionary]:
    """The dictionaries of a segment by their ids."""
    known: dict[int, Dictionary] | None = segment.cache.get("stored.dictionaries")
    if known is None:
        known = {}
        for number in range(DICTIONARIES):
            if (name := f"stored.dictionary/{number}") in segment.sections:
                one = Dictionary(segment.array(name, np.uint8).tobytes())
                known[one.dict_id()] = one
        segment.cache["stored.dictionaries"] = known
    return known


def sound_dictionaries(segment: Segment) -> dict[int, Dictionary]:
    """Those dictionaries that are not damaged."""
    known: dict[int, Dictionary] = {}
    for number in range(DICTIONARIES):
        if (name := f"stored.dictionary/{number}") in segment.sections:
            with suppress(CorruptIndexError, zstandard.ZstdError):
                one = Dictionary(segment.array(name, np.uint8).tobytes())
                known[one.dict_id()] = one
    return known


def reader(segment: Segment) -> StoredReader:
    """The segment's reader of stored documents; made once."""
    made: StoredReader | None = segment.cache.get("stored.reader")
    if made is None:
        made = segment.cache["stored.reader"] = StoredReader(segment)
    return made

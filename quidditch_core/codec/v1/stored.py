"""Stored documents: units of consecutive documents, compressed with one of their segment's dictionaries.

A raw unit is ``u32 offset`` of each document's end, then the documents. In memory a segment keeps its documents
as they are, one after another; a file keeps them in zstd frames of about ``unit`` raw bytes, with checksums, the raw
size in each frame, so that a size is checked before memory is taken, and the id of the dictionary that it needs. So
merging copies frames with their dictionaries, as long as these are few.
"""

from __future__ import annotations

import itertools
import operator
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

_RUN = 8  # units in a row that are sooner copied than encoded with what is before and behind them
_WINDOW = 1 << 16  # documents whose order is looked at together
_UNITS = 64  # decoded units that are kept while documents are moved

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


class Learned(NamedTuple):
    """A dictionary that a segment has, and to what share of their size units become with it."""

    dictionary: Dictionary
    ratio: float


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
    moves = [_Move(*source) for source in sources]
    write_raw(sections, list(_in_order(moves, 0, sum(move.docs.size for move in moves))))
    return sections


def compress(
    segment: Segment, codec: StoredCodec, threads: int = 1, known: Learned | None = None,
) -> RamSections:
    """The sections of a file: ``stored``, ``stored.start``, ``stored.first`` and maybe ``stored.dictionary/0``."""
    return merge([(segment, np.arange(segment.docs, dtype=np.int32))], codec, threads=threads, known=known)


def merge(
    sources: Sequence[tuple[Segment, NDArray[np.int32]]], codec: StoredCodec, pace: Callable[[], None] = lambda: None,
    threads: int = 1, known: Learned | None = None,
) -> RamSections:
    """The sections of the documents that live: a source's document d becomes numbers[d], unless it is -1.

    Units are copied where their documents stay together, and their codec, size and dictionary are those of the result;
    others are encoded anew, by ``threads`` threads, whose number changes no byte. Where nothing is copied, ``known`` is
    used if it suits, so that a later merge copies.
    """
    copied = _copied(sources, codec)
    dictionaries = {id: one for at in copied for id, one in dictionaries_of(sources[at][0]).items()}
    main = next(iter(dictionaries.values()), None)
    moves = [_Move(*source) for source in sources]
    size = sum(move.docs.size for move in moves)
    if main is None:
        left = [move for at, move in enumerate(moves) if at not in copied]
        raw = sum(move.segment.sections.size("stored") for move in left if move.segment.stored == "raw")
        main = known.dictionary if suits(known, codec, raw, next(_in_order(left, 0, size), None)) and known \
            else train(_in_order(left, 0, size), codec)
        if main is not None:
            dictionaries[main.dict_id()] = main
    frames = Frames(codec, main, threads)
    for run in [*sorted((run for at in copied for run in _runs(*sources[at])), key=lambda run: run.start), None]:
        pace()
        for part in _in_order(moves, frames.docs, size if run is None else run.start):
            frames.add(part)
            pace()
        if run is not None:
            frames.copy(run)
    sections = RamSections()
    frames.write(sections, list(dictionaries.values()))
    return sections


class _Run(NamedTuple):
    """Units ``begin`` .. ``end`` - 1 of a segment, whose documents become ``start`` and those that follow it."""

    start: int
    segment: Segment
    begin: int
    end: int


def _runs(segment: Segment, numbers: NDArray[np.int32]) -> list[_Run]:
    """The units whose documents all live and stay together, where there are some in a row."""
    edges = unit_edges(segment)
    breaks = np.concatenate([[0], np.cumsum(np.diff(numbers) != 1)])
    starts, counts = numbers[edges[:-1]], np.diff(edges)
    whole = np.flatnonzero((starts >= 0) & (breaks[edges[1:] - 1] == breaks[edges[:-1]]))
    if not whole.size:
        return []
    apart = (np.diff(whole) > 1) | (np.diff(starts[whole]) != counts[whole[:-1]])
    firsts, lasts = whole[np.concatenate([[True], apart])], whole[np.concatenate([apart, [True]])]
    return [_Run(start, segment, begin, end) for start, begin, end in zip(
        starts[firsts].tolist(), firsts.tolist(), (lasts + 1).tolist(), strict=True) if end - begin >= _RUN]


class _Move:
    """The documents of a segment that live, in the order of their new numbers."""

    def __init__(self, segment: Segment, numbers: NDArray[np.int32]) -> None:
        self.segment = segment
        self.docs = np.flatnonzero(numbers >= 0)
        self.numbers = numbers[self.docs]
        if (self.numbers[1:] < self.numbers[:-1]).any():
            order = np.argsort(self.numbers)
            self.docs, self.numbers = self.docs[order], self.numbers[order]

    def between(self, start: int, stop: int) -> slice:
        """Which of them become start .. stop - 1."""
        first, last = np.searchsorted(self.numbers, [start, stop]).tolist()
        return slice(first, last)


def _in_order(moves: Sequence[_Move], start: int, stop: int) -> Iterator[Documents]:
    """The documents that become start .. stop - 1, a few megabytes at a time."""
    waiting: list[bytes | memoryview] = []
    held = 0
    for first in range(start, stop, _WINDOW):
        parts = [move.between(first, min(stop, first + _WINDOW)) for move in moves]
        readers = [_read(move.segment, move.docs[part]) for move, part in zip(moves, parts, strict=True)]
        numbers = np.concatenate([move.numbers[part] for move, part in zip(moves, parts, strict=True)])
        which = np.repeat(np.arange(len(moves)), [part.stop - part.start for part in parts])
        for at in which[np.argsort(numbers)].tolist():
            document = next(readers[at])
            waiting.append(document)
            held += len(document)
            if held >= BATCH:
                yield gather(waiting)
                waiting, held = [], 0
    if waiting:
        yield gather(waiting)


def _read(segment: Segment, docs: NDArray[np.int64]) -> Iterator[bytes | memoryview]:
    """The stored bytes of ``docs``, one after the other."""
    if not docs.size:
        return
    if segment.stored == "raw":
        starts, base, _ = segment.starts("stored.start", segment.docs, segment.sections.size("stored"))
        data = segment.sections.section("stored").data.data
        for start, end in zip((starts[docs].astype(np.int64) + base).tolist(),
                              (starts[docs + 1].astype(np.int64) + base).tolist(), strict=True):
            yield data[start:end]
        return
    edges, stored = unit_edges(segment), reader(segment)
    units = np.searchsorted(edges, docs, "right") - 1
    known: OrderedDict[int, list[memoryview]] = OrderedDict()
    for unit, at in zip(units.tolist(), (docs - edges[units]).tolist(), strict=True):
        found = known.get(unit)
        if found is None:
            found = known[unit] = stored.unit(unit)
            if len(known) > _UNITS:
                known.popitem(last=False)
        yield found[at]


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


def unit_edges(segment: Segment) -> NDArray[np.int64]:
    """The first document of each unit, and how many documents there are."""
    known: NDArray[np.int64] | None = segment.cache.get("stored.edges")
    if known is None:
        firsts, base = segment.narrow("stored.first")
        known = firsts.astype(np.int64) + base
        if known.size < 1 or known[0] != 0 or known[-1] != segment.docs or (np.diff(known) <= 0).any():
            raise segment.damaged("stored units do not follow each other")
        segment.cache["stored.edges"] = known
    return known


def frame_size(segment: Segment, frame: bytes) -> int:
    """Raw bytes of a frame, as its beginning says; never more than MAX_UNIT."""
    try:
        size: int = zstandard.frame_content_size(frame)
    except zstandard.ZstdError as error:
        raise segment.damaged("a stored unit is none", found=str(error)) from error
    if not 0 <= size <= MAX_UNIT:
        raise segment.damaged("a stored unit has an impossible size", found=size)
    return size


def gather(documents: Sequence[bytes | memoryview]) -> Documents:
    return Documents(gathered(documents).data, np.cumsum(np.fromiter(map(len, documents), np.int64, len(documents))))


def joined(parts: Sequence[Documents]) -> Documents:
    if len(parts) == 1:
        return parts[0]
    starts = [0, *itertools.accumulate(len(part.data) for part in parts)]
    return Documents(b"".join(part.data for part in parts), np.concatenate(
        [np.zeros(0, np.int64), *(part.ends + start for part, start in zip(parts, starts[:-1], strict=True))]))


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


_RATIO_UNITS = 64  # units by which a ratio is known
_TRIAL = 256 << 10  # raw bytes on which a dictionary is tried
_WORSE = 1.1  # how much larger units may become before a new dictionary is trained


def learned(segment: Segment, codec: StoredCodec) -> Learned | None:
    """The dictionary of the last unit of a segment, for other segments of this codec; None if there is none at hand."""
    if segment.remote or segment.stored != "zstd" or segment.codec != codec.name or not segment.docs:
        return None
    found: Learned | None = segment.cache.get("stored.learned")
    if found is None:
        units = unit_edges(segment).size - 1
        starts, base, _ = segment.starts("stored.start", units, segment.sections.size("stored"))
        packed = raw = 0
        last = 0
        for unit in range((units - 1) % max(1, units // _RATIO_UNITS), units, max(1, units // _RATIO_UNITS)):
            start, stop = starts.item(unit) + base, starts.item(unit + 1) + base
            segment.sections.need("stored", start, stop - start)
            frame = segment.sections.section("stored").data[start:stop].tobytes()
            packed, raw = packed + len(frame), raw + frame_size(segment, frame)
            last = zstandard.get_frame_parameters(frame).dict_id
        dictionary = dictionaries_of(segment).get(last)
        if dictionary is None or not raw:
            return None
        found = segment.cache["stored.learned"] = Learned(dictionary, packed / raw)
    return found


def suits(known: Learned | None, codec: StoredCodec, raw: int, part: Documents | None) -> bool:
    """Whether a dictionary does for ``raw`` bytes of documents, which begin with ``part``, what it did elsewhere."""
    if known is None or part is None or codec.share * len(known.dictionary) > raw:
        return False
    end = max(1, int(np.searchsorted(part.ends, _TRIAL)))
    size = int(part.ends[end - 1])
    trial = Frames(codec, known.dictionary, 1)
    trial.add(Documents(memoryview(part.data)[:size], part.ends[:end]))
    return trial.size <= _WORSE * known.ratio * (size + 4 * end)


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
    def size(self) -> int:
        """Bytes of all frames."""
        return sum(len(part.data) for part in self._parts)

    @property
    def memory(self) -> int:
        """Bytes held."""
        return self.size + sum(2 * part.sizes.nbytes for part in self._parts)

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

    def copy(self, run: _Run) -> None:
        """Add units as they are."""
        _, segment, begin, end = run
        edges = unit_edges(segment)[begin : end + 1]
        starts, base, _ = segment.starts("stored.start", segment.narrow("stored.first")[0].size - 1,
                                      segment.sections.size("stored"))
        places = starts[begin : end + 1].astype(np.int64) + base
        start, stop = int(places[0]), int(places[-1])
        segment.sections.need("stored", start, stop - start)
        self._parts.append(Encoded(segment.sections.section("stored").data[start:stop].data, np.diff(places),
                                    edges[:-1] - edges[0] + self.docs, self.docs + int(edges[-1] - edges[0])))

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

    def unit(self, unit: int) -> list[memoryview]:
        """The documents of a unit."""
        segment, table = self._segment, self._table()
        count = table.firsts[unit + 1] - table.firsts[unit]
        start, stop = table.starts[unit] + table.start, table.starts[unit + 1] + table.start
        segment.sections.need("stored", start, stop - start)
        frames = self._idle.pop() if self._idle else FrameReader(dictionaries_of(segment))
        raw = memoryview(self._decompress(frames, table.data[start:stop]))
        self._idle.append(frames)
        body = raw[4 * count :]
        ends = struct.unpack_from(f"<{count}I", raw) if len(raw) >= 4 * count else (-1,)
        if ends[-1] != len(body) or any(map(operator.gt, ends, ends[1:])):
            raise segment.damaged("a stored unit does not hold what its number of documents says", found=count)
        return [body[begin:end] for begin, end in zip((0, *ends), ends, strict=False)]

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

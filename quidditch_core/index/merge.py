"""Several segments become one without their deleted documents; and which segments are worth merging.

Which number a document gets is in the maps that ``order`` makes, and everything a segment has is moved by them.
Postings are gathered by term in chunks of bounded size, so memory does not grow with the number of postings of a
field; positions are moved as the bytes that they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..codec.v1 import stored as documents
from ..codec.v1.stored import StoredCodec
from ..config import SortBy
from ..segment import FieldInfo, RamSections, Segment, address, bit_count, full_bitmap, mask_of, padded, zeros
from . import bm25
from .builder import NUMBERS
from .columns import column_values, exists, write_column, write_exists
from .ids import merge_ids
from .inverted import Coded, FieldWriter
from .kernels.merge import (
    EACH,
    NO,
    S_BYTES,
    S_POSTINGS,
    S_SLOTS,
    S_TOKENS,
    SCRATCH_BYTES,
    WHOLE,
    arrange,
    take,
)
from .order import Map, ascends, numbered
from .postings import corrupt, fill, read_terms
from .strings import Interner, readable

CHUNK = 1 << 22
"""Postings that are gathered before they are encoded."""

_names = itertools.count(1)


class Source(NamedTuple):
    """A segment and the bitmap of its documents that live (None: all)."""

    segment: Segment
    live: NDArray[np.uint64] | None

    @property
    def live_docs(self) -> int:
        return self.segment.docs if self.live is None else bit_count(self.live)


class Merged(NamedTuple):
    """The new segment, and for each source the new number of each of its documents (int32, -1: deleted)."""

    segment: Segment
    maps: list[Map]


def merge(
    sources: Sequence[Source], pace: Callable[[], None] = lambda: None, codec: StoredCodec | None = None,
    threads: int = 1, sort: Sequence[SortBy] = (), known: documents.Learned | None = None,
) -> Merged:
    """Merge ``sources`` in this order into one segment in memory, its documents compressed by ``codec`` if it has one,
    and sorted by ``sort``. Where all is compressed anew, it is with a dictionary that is ``known`` if it suits.

    ``pace`` is called every few million postings or bytes; it may sleep, or raise to give the merge up.
    """
    masks = [mask_of(full_bitmap(segment.docs) if live is None else live, segment.docs) for segment, live in sources]
    maps = numbered([source.segment for source in sources], masks, sort)
    size = sum(int(mask.sum()) for mask in masks)
    sections = RamSections()
    names = sorted({name for source in sources for name in source.segment.fields})
    fields = []
    for number, name in enumerate(names):
        pace()
        fields.append(_merge_field(sections, number, name, sources, maps, size, pace))
    having = [(source.segment, numbers) for source, numbers in zip(sources, maps, strict=True)]
    merge_ids(sections, having)
    for name in NUMBERS:
        moved = np.empty(size, np.int64)
        for segment, numbers in having:
            moved[numbers[numbers >= 0]] = segment.rising(name, segment.docs).all()[numbers >= 0]
        sections.put_rising(name, moved)
    stored = documents.merge_raw(having) if codec is None else documents.merge(
        having, codec, pace, threads, known)
    for name in stored.names():
        sections.take(stored, name)
    return Merged(Segment(f"merged-{next(_names)}", size, fields, sections, stored="zstd" if codec else "raw",
                          codec=codec.name if codec else "", sort=sort), maps)


def _merge_field(
    sections: RamSections, number: int, name: str, sources: Sequence[Source], maps: Sequence[Map],
    size: int, pace: Callable[[], None],
) -> FieldInfo:
    having = [(source.segment, numbers) for source, numbers in zip(sources, maps, strict=True)
              if name in source.segment.fields]
    infos = [segment.fields[name] for segment, _ in having]
    newest = infos[-1]
    present = np.concatenate([_present(segment, name, numbers) for segment, numbers in having])
    count = write_exists(sections, name, present, size)
    indexed = any(info.indexed for info in infos)
    column = next((info.column for info in infos if info.column), "")
    result = FieldInfo(number, name, newest.type, newest.analyzer, exists=count)
    ranks: dict[str, NDArray[np.int64]] = {}
    if indexed:
        result, ranks = _merge_postings(sections, result, having, size, pace)
    several = False
    if column:
        several = _merge_column(sections, name, having, column, ranks, size)
    return msgspec.structs.replace(result, column=column, multi_valued=several)


def _present(segment: Segment, name: str, numbers: Map) -> NDArray[np.int32]:
    found = numbers[mask_of(exists(segment, name), segment.docs)]
    return found[found >= 0]


def _merge_column(
    sections: RamSections, name: str, having: Sequence[tuple[Segment, Map]], kind: str,
    ranks: dict[str, NDArray[np.int64]], size: int,
) -> bool:
    """``ranks``: the new ordinal of each term, -1 if it has none, by the key of the segment."""
    all_docs: list[NDArray[np.int32]] = []
    all_codes: list[NDArray[np.int64]] = []
    for segment, numbers in having:
        info = segment.fields[name]
        if not info.column or not info.exists:
            continue
        old_docs, codes = column_values(segment, name)
        docs = numbers[old_docs]
        kept = docs >= 0
        docs, codes = docs[kept], codes[kept]
        if kind == "ord":
            if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < info.terms:
                raise corrupt(segment, name, "column's ordinals")
            codes = ranks[segment.key][codes]
        all_docs.append(docs)
        all_codes.append(codes)
    return write_column(sections, name, np.concatenate([*all_docs, np.zeros(0, np.int32)]),
                        np.concatenate([*all_codes, np.zeros(0, np.int64)]), size, distinct=kind == "ord")


@dataclass
class _Input:
    """One source of a field's postings: its terms' rows, and which merged term each is."""

    segment: Segment
    numbers: Map
    rows: NDArray[np.int64]
    terms: NDArray[np.int64]
    live: NDArray[np.int64]  # [terms, S_SLOTS]: what each term has in documents that live
    whole: bool  # whether all documents live


def _merge_postings(
    sections: RamSections, info: FieldInfo, having: Sequence[tuple[Segment, Map]], size: int,
    pace: Callable[[], None],
) -> tuple[FieldInfo, dict[str, NDArray[np.int64]]]:
    name = info.name
    inputs: list[_Input] = []
    interner = Interner()
    indexed = [(segment, numbers) for segment, numbers in having if segment.fields[name].indexed]
    for segment, numbers in indexed:
        text, ends, rows = read_terms(segment, name, 0, segment.fields[name].terms)
        numbers_of_terms = interner.intern(*readable(text, ends)).astype(np.int64)
        inputs.append(_Input(segment, numbers, rows, numbers_of_terms, np.zeros((rows.shape[0], S_SLOTS), np.int64),
                             bool((numbers >= 0).all())))
    vocabulary = interner.ordered(np.arange(len(interner), dtype=np.uint32))
    order = np.empty(vocabulary.size, np.int64)
    order[vocabulary] = np.arange(vocabulary.size)
    flags = [segment.fields[name] for segment, _ in indexed]
    freqs, positions = any(f.freqs for f in flags), all(f.positions for f in flags)
    totals = np.zeros((vocabulary.size, S_SLOTS), np.int64)
    for source in inputs:
        source.terms = order[source.terms]
        if (np.diff(source.terms) <= 0).any():
            raise corrupt(source.segment, name, "dictionary's order")
        _need_all(source.segment, name)
        _count(source, name, positions)
        totals[source.terms] += source.live
    kept = np.flatnonzero(totals[:, S_POSTINGS])
    rank = np.full(vocabulary.size, -1, np.int64)
    rank[kept] = np.arange(kept.size)
    has_norms = all(f.norms for f in flags)
    norms = np.zeros(size, np.uint8) if has_norms else None
    if norms is not None:
        for segment, numbers in indexed:
            live = numbers >= 0
            norms[numbers[live]] = segment.array(f"norms/{name}", np.uint8, segment.docs)[live]
    doc_count = _with_terms(inputs, name) if norms is None else int((norms > 0).sum())
    tokens = int(totals[:, S_TOKENS].sum())
    avgdl = bm25.average_length(tokens, doc_count)
    room = _Room(int(totals[:, S_BYTES].sum()) if positions else None)
    writer = FieldWriter(freqs=freqs, positions=positions, norms=norms, avgdl=avgdl, coded=room.positions)
    room.in_order = ascends([numbers for _, numbers in indexed])
    for chunk in _chunks(totals[:, S_POSTINGS], kept):
        pace()
        _append(writer, name, inputs, interner.spell(vocabulary[chunk]), chunk, totals[chunk], room)
    writer.finish(sections, name)
    merged = FieldInfo(
        info.number, name, info.type, info.analyzer, indexed=True, freqs=freqs, positions=positions,
        norms=has_norms, exists=info.exists, doc_count=doc_count, sum_ttf=tokens, sum_df=writer.sum_df,
        terms=writer.terms, bound_avgdl=float(avgdl) if has_norms else 0.0,
        bound_k1=float(bm25.K1) if has_norms else 0.0, bound_b=float(bm25.B) if has_norms else 0.0)
    return merged, {source.segment.key: rank[source.terms] for source in inputs}


def _count(source: _Input, name: str, positions: bool) -> None:
    """Find out what each term of a source has in documents that live; the dictionary knows where all do."""
    segment, rows = source.segment, source.rows
    if source.whole:
        source.live = np.ascontiguousarray(rows[:, [1, 2, 7]])
    else:
        _take(source, name, slice(0, source.terms.size), source.live, None, None, None, None,
              EACH if positions else NO)
    # However damaged a dictionary is, it cannot ask for endless memory.
    sections = segment.sections
    text = sections.size(f"positions/{name}")
    room = 64 * sections.size(f"postings/{name}") + 32 * sections.size(f"blocks.last/{name}") + rows.shape[0]
    limits = {S_POSTINGS: room} | ({S_TOKENS: text, S_BYTES: text} if segment.fields[name].positions else {})
    for slot, most in limits.items():
        counts = source.live[:, slot]
        if counts.size and not (counts.min() >= 0 and counts.max() <= most and counts.sum() <= most):
            raise corrupt(segment, name, "frequencies")


def _with_terms(inputs: list[_Input], name: str) -> int:
    """Live documents with at least one term; a field with norms knows without reading its postings."""
    having = (mask_of(fill(source.segment, name, source.rows), source.segment.docs) for source in inputs)
    return sum(int((mask & (source.numbers >= 0)).sum()) for mask, source in zip(having, inputs, strict=True))


def _chunks(postings: NDArray[np.int64], kept: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """``kept`` terms in runs of about CHUNK postings."""
    if not kept.size:
        return []
    runs = np.cumsum(postings[kept]) // CHUNK
    return np.split(kept, np.flatnonzero(np.diff(runs)) + 1)


class _Room:
    """Memory for a chunk of postings, used again by the next; and for the ``positions`` of all, in bytes.

    ``in_order``: the sources' documents come in order, so that nobody asks where the positions of each one are.
    """

    def __init__(self, positions: int | None) -> None:
        self.positions = None if positions is None else padded(positions)
        self.in_order = True
        self._used = 0
        self._parts = np.zeros((3, 0), np.uint32)

    def take(self, postings: int) -> NDArray[np.uint32]:
        """Documents, frequencies and sizes of positions to be filled."""
        if self._parts.shape[1] < postings:
            self._parts = zeros(3 * postings, np.uint32).reshape(3, postings)
        return self._parts[:, :postings]

    def coded(self, places: NDArray[np.int64]) -> Coded | None:
        """Positions to be filled, those of each term from ``places`` on."""
        if self.positions is None:
            return None
        begin, self._used = self._used, self._used + int(places[-1])
        return Coded(self.positions[begin : self._used], places)


def _append(
    writer: FieldWriter, name: str, inputs: list[_Input], spelt: tuple[NDArray[np.uint8], NDArray[np.int64]],
    chunk: NDArray[np.int64], totals: NDArray[np.int64], room: _Room,
) -> None:
    """Gather the terms of ``chunk`` from all inputs, a slot behind the other, and encode them."""
    edges = np.zeros((chunk.size + 1, S_SLOTS), np.int64)
    np.cumsum(totals, axis=0, out=edges[1:])
    starts = np.ascontiguousarray(edges[:, S_POSTINGS])
    docs, freqs, sizes = room.take(int(starts[-1]))
    positions = room.coded(np.ascontiguousarray(edges[:, S_BYTES]))
    slots = edges[:-1].copy()
    for source in inputs:
        part = slice(int(np.searchsorted(source.terms, chunk[0])), int(np.searchsorted(source.terms, chunk[-1] + 1)))
        at = np.searchsorted(chunk, source.terms[part])
        live = source.live[part, S_POSTINGS] > 0
        own = slots[np.where(live, at, 0)]  # a term without live postings writes nothing, so its slot does not matter
        expected = own + source.live[part]
        how = NO if positions is None else WHOLE if room.in_order and source.whole else EACH
        _take(source, name, part, own, docs, freqs, None if room.in_order else sizes, positions, how)
        if (own != expected)[:, : S_TOKENS + 1 if positions is None else S_SLOTS].any():
            raise corrupt(source.segment, name, "frequencies")
        slots[at[live]] = own[live]
    if not room.in_order:
        _arrange(starts, docs, freqs, sizes, positions)
    writer.append(*spelt, docs, freqs, starts, positions)


def _arrange(
    starts: NDArray[np.int64], docs: NDArray[np.uint32], freqs: NDArray[np.uint32], sizes: NDArray[np.uint32],
    positions: Coded | None,
) -> None:
    """Sort the postings of each term by document."""
    places = starts if positions is None else positions.places
    scratch = padded(28 * int(np.diff(starts).max()) + (0 if positions is None else int(np.diff(places).max())))
    arrange(address(starts), starts.size - 1, address(docs), address(freqs), 0 if positions is None else address(sizes),
            0 if positions is None else address(positions.data), address(places), address(scratch))


def _take(
    source: _Input, name: str, part: slice, slots: NDArray[np.int64], docs: NDArray[np.uint32] | None,
    freqs: NDArray[np.uint32] | None, sizes: NDArray[np.uint32] | None, positions: Coded | None, how: int,
) -> None:
    rows = source.rows[part]
    scratch = np.zeros(SCRATCH_BYTES, np.uint8)
    status = take(
        source.segment.descriptor(name).address, address(rows), rows.shape[0], address(source.numbers),
        address(scratch), address(slots), 0 if docs is None else address(docs), 0 if freqs is None else address(freqs),
        0 if sizes is None else address(sizes), 0 if positions is None else address(positions.data), how)
    if status < 0:
        raise corrupt(source.segment, name, "postings")


def _need_all(segment: Segment, name: str) -> None:
    for kind in ("postings", "positions", "norms", "blocks.last", "blocks.offset", "blocks.width", "blocks.bound",
                 "blocks.position"):
        if (section := f"{kind}/{name}") in segment.sections:
            segment.sections.need(section, 0, segment.sections.size(section))


# --- policy ------------------------------------------------------------------------------------------------

SEGMENTS_PER_TIER = 10
FLOOR_BYTES = 2 << 20
MAX_MERGED_BYTES = 5 << 30
MAX_DELETED = 0.25
"""Share of all bytes that deleted documents may have."""
MAX_GROWTH = 1.5
SLACK_BYTES = 64 << 20


class Candidate(NamedTuple):
    """What the policy sees of a segment: its ``bytes``, and those of its ``live`` documents, pro rata."""

    position: int
    bytes: int
    live: int


def bloated(candidates: Sequence[Candidate]) -> bool:
    """Whether the segments take more of the disk than is promised for their live documents."""
    total, live = sum(candidate.bytes for candidate in candidates), sum(candidate.live for candidate in candidates)
    return total > MAX_GROWTH * live + SLACK_BYTES


def level(size: int, floor: int = FLOOR_BYTES) -> int:
    """0 below ``floor``; then one more for each factor of SEGMENTS_PER_TIER."""
    found = 0
    while size >= floor:
        size //= SEGMENTS_PER_TIER
        found += 1
    return found


def select(candidates: Sequence[Candidate], floor: int = FLOOR_BYTES) -> list[int]:
    """Positions of adjacent segments to merge now, or none: a pure function.

    Adjacent, because a segment's position breaks ties. While deleted documents take too large a share of all bytes,
    the segment with the largest is rewritten alone. Else SEGMENTS_PER_TIER segments of one level become one of a higher
    level, with what smaller ones lie before and between them, the lowest level first (Lucene: LogMergePolicy); and
    those that larger ones shut in, to which nothing will be added, become one. So a byte is written about once a level.
    Segments of half of MAX_MERGED_BYTES stay as they are.
    """
    total, live = sum(candidate.bytes for candidate in candidates), sum(candidate.live for candidate in candidates)
    if total - live > MAX_DELETED * total:
        return [max(candidates, key=lambda one: (one.bytes - one.live) / max(one.bytes, 1)).position]
    runs = [list(run) for settled, run in itertools.groupby(
        candidates, lambda one: 2 * one.live >= MAX_MERGED_BYTES) if not settled]
    found = [(wanted, group) for run in runs for wanted in {level(one.live, floor) for one in run}
             if (group := _ripe(run, wanted, floor, last=run is runs[-1]))]
    return [one.position for one in min(found, key=lambda one: one[0])[1]] if found else []


def _ripe(run: Sequence[Candidate], wanted: int, floor: int, *, last: bool) -> Sequence[Candidate]:
    """Neighbours up to the level ``wanted`` that have enough of it, or to which nothing will be added any more."""
    levels = [level(one.live, floor) for one in run]
    for higher, part in itertools.groupby(range(len(run)), lambda at: levels[at] > wanted):
        at = list(part)
        own = [one for one in at if levels[one] == wanted]
        complete = len(at) > 1 and not (last and at[-1] == len(run) - 1)
        if higher or (len(own) < SEGMENTS_PER_TIER and not complete):
            continue
        first = end = at[0]
        stop = at[-1] + 1 if complete else own[SEGMENTS_PER_TIER - 1] + 1
        size = 0
        while end < stop and size + run[end].live <= MAX_MERGED_BYTES:
            size += run[end].live
            end += 1
        return run[first:end]
    return []

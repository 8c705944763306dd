"""Here is a term, give me its postings: the calls into the dictionary and posting kernels.

Each call first makes the bytes it will read present and verified (:meth:`Segment.sections.need`), then hands
addresses to a kernel; a kernel that reports damage becomes a :class:`CorruptIndexError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptIndexError
from ..segment import BLOCK, DICTIONARY_BLOCK, Segment, TermInfo, address, bitmap_words
from .kernels import terms as kernels

_CACHED_TERMS = 16384  # rows kept per segment; a row is smaller than the lookup that it saves

def corrupt(segment: Segment, field: str, what: str) -> CorruptIndexError:
    return CorruptIndexError(f"the {what} contradict themselves", path=f"{segment.key}:{field}",
                             fix="restore the segment from a snapshot")


def find(segment: Segment, field: str, term: bytes) -> TermInfo | None:
    """The row of ``term``, or None."""
    key = (field, term)
    cache = segment.cache
    if key in cache:
        found: TermInfo | None = cache[key]
        return found
    info, _ = _seek(segment, field, term)
    rows = cache.setdefault("term rows", [])
    if len(rows) < _CACHED_TERMS:
        rows.append(key)
        cache[key] = info
    return info


def _seek(segment: Segment, field: str, term: bytes) -> tuple[TermInfo | None, int]:
    """The row of ``term`` if it is there, and the ordinal of the first term not before it."""
    description = segment.fields.get(field)
    if description is None or not description.indexed or not description.terms:
        return None, 0
    descriptor = segment.descriptor(field)
    text = np.frombuffer(term + bytes(8), np.uint8)
    block = kernels.dictionary_block(descriptor.address, address(text), len(term))
    if block == -1:
        return None, 0
    if block < 0:
        raise corrupt(segment, field, "dictionary's blocks")
    _need_dictionary(segment, field, block, block + 1)
    row = np.zeros(8, np.int64)
    buffer = np.empty(kernels.SCRATCH_BYTES, np.uint8)
    found = kernels.dictionary_find(descriptor.address, block, address(text), len(term), address(buffer), address(row))
    if found < 0 or (found and int(row[1]) > segment.docs):
        raise corrupt(segment, field, "dictionary's terms")
    return (TermInfo(*row.tolist()) if found else None), int(row[0])


def _need_dictionary(segment: Segment, field: str, start: int, stop: int) -> None:
    sparse = segment.array(f"terms.sparse/{field}", np.uint64)
    size = segment.sections.size(f"terms/{field}")
    begin, end = int(sparse[start]), int(sparse[stop]) if stop < sparse.size else size
    segment.sections.need(f"terms/{field}", begin, end - begin)


def need(segment: Segment, field: str, info: TermInfo, *, positions: bool = False) -> None:
    """Make a term's postings (and positions) readable."""
    if not _headers_are_here(segment, field):
        for section, start, length in ranges(segment, field, info, positions=positions):
            segment.sections.need(section, start, length)
        return
    if info.df > 1:
        segment.sections.need(f"postings/{field}", info.postings, info.postings_size)
    if positions:
        segment.sections.need(f"positions/{field}", info.positions, info.positions_size)


def _headers_are_here(segment: Segment, field: str) -> bool:
    """Make all block headers and norms of a field readable, once; False in a remote segment, where it would cost."""
    known: bool | None = segment.cache.get(("headers", field))
    if known is None:
        known = not segment.remote
        if known:
            for kind in ("norms", *[kind for kind, _ in (*_HEADERS, *_POSITION_HEADERS)]):
                if size := segment.sections.size(f"{kind}/{field}"):
                    segment.sections.need(f"{kind}/{field}", 0, size)
        segment.cache["headers", field] = known
    return known


_HEADERS = (("blocks.last", 4), ("blocks.offset", 4), ("blocks.width", 2), ("blocks.bound", 1))
_POSITION_HEADERS = (("blocks.position", 12),)


def ranges(
    segment: Segment, field: str, info: TermInfo, *, positions: bool = False,
) -> list[tuple[str, int, int]]:
    """What a term's postings (and positions) are read from: (section, start, length)."""
    found: list[tuple[str, int, int]] = []
    if info.df > 1:
        found.append((f"postings/{field}", info.postings, info.postings_size))
    if positions:
        found.append((f"positions/{field}", info.positions, info.positions_size))
    blocks = -(-info.df // BLOCK)
    if info.df >= BLOCK:
        for kind, size in (*_HEADERS, *(_POSITION_HEADERS if positions else ())):
            if segment.sections.size(f"{kind}/{field}"):
                found.append((f"{kind}/{field}", size * info.headers, size * blocks))
    norms = segment.sections.size(f"norms/{field}")
    if norms:
        found.append((f"norms/{field}", 0, norms))
    return found


def ranges_of(segment: Segment, field: str, rows: NDArray[np.int64]) -> list[tuple[str, int, int]]:
    """What the postings of neighbouring terms are read from."""
    several = rows[rows[:, 1] > 1]
    if not several.size:
        return []
    start = int(several[:, 3].min())
    found = [(f"postings/{field}", start, int((several[:, 3] + several[:, 4]).max()) - start)]
    blocked = several[several[:, 1] >= BLOCK]
    if blocked.size:
        first = int(blocked[:, 5].min())
        blocks = int((blocked[:, 5] - -blocked[:, 1] // BLOCK).max()) - first
        found += [(f"{kind}/{field}", size * first, size * blocks) for kind, size in _HEADERS
                  if segment.sections.size(f"{kind}/{field}")]
    return found


def rank(segment: Segment, field: str, term: bytes) -> int:
    """Number of terms before ``term``."""
    return _seek(segment, field, term)[1]


def prefix_range(segment: Segment, field: str, prefix: bytes) -> tuple[int, int]:
    """The ordinals [start, stop) of the terms that begin with ``prefix``."""
    info = segment.fields.get(field)
    count = info.terms if info else 0
    after = prefix.rstrip(b"\xff")
    stop = rank(segment, field, after[:-1] + bytes([after[-1] + 1])) if after else count
    return rank(segment, field, prefix), stop


def read_terms(
    segment: Segment, field: str, start: int, stop: int,
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Terms start .. stop - 1: their bytes one after another, where each ends, and their rows int64 [n, 8]."""
    descriptor = segment.descriptor(field)
    count = max(0, stop - start)
    rows, ends = np.zeros((count, 8), np.int64), np.zeros(count, np.int64)
    if not count:
        return np.zeros(0, np.uint8), ends, rows
    _need_dictionary(segment, field, start // DICTIONARY_BLOCK, -(-stop // DICTIONARY_BLOCK))
    buffer = np.empty(kernels.SCRATCH_BYTES, np.uint8)
    texts: list[NDArray[np.uint8]] = []
    done = used = 0
    size = max(kernels.MAX_TERM, 16 * count)
    while done < count:
        text = np.empty(size, np.uint8)
        read = kernels.dictionary_read(descriptor.address, start + done, stop, address(buffer),
                                       address(rows[done:]), address(text), size, address(ends[done:]))
        if read <= 0:
            raise corrupt(segment, field, "dictionary's terms")
        length = int(ends[done + read - 1])
        ends[done : done + read] += used
        texts.append(text[:length])
        used += length
        done += read
    if int(rows[:, 1].max()) > segment.docs:
        raise corrupt(segment, field, "dictionary's document counts")
    return np.concatenate(texts), ends, rows


def term_at(segment: Segment, field: str, ordinal: int) -> bytes:
    """The bytes of one term."""
    if not 0 <= ordinal < segment.fields[field].terms:
        raise corrupt(segment, field, "column's ordinals")
    cache = segment.cache.setdefault(("terms", field), {})
    block = ordinal // DICTIONARY_BLOCK
    terms: list[bytes] | None = cache.get(block)
    if terms is None:
        start = block * DICTIONARY_BLOCK
        stop = min(start + DICTIONARY_BLOCK, segment.fields[field].terms)
        terms = split_terms(*read_terms(segment, field, start, stop)[:2])
        if len(cache) >= _CACHED_TERMS:
            cache.clear()
        cache[block] = terms
    return terms[ordinal - block * DICTIONARY_BLOCK]


def split_terms(text: NDArray[np.uint8], ends: NDArray[np.int64]) -> list[bytes]:
    """Terms as a list of bytes."""
    data, stops = text.tobytes(), ends.tolist()
    return [data[start:stop] for start, stop in zip([0, *stops[:-1]], stops, strict=True)] if stops else []


def read(segment: Segment, field: str, info: TermInfo) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """A term's documents and frequencies, uint32 [df] each."""
    need(segment, field, info)
    row = np.array(info, np.int64)
    size = min(info.df, segment.docs)
    docs, freqs = np.empty(size, np.uint32), np.empty(size, np.uint32)
    buffer = np.empty(1024, np.uint8)
    if kernels.postings_read(segment.descriptor(field).address, address(row), address(buffer), address(docs),
                             address(freqs), size) != info.df:
        raise corrupt(segment, field, "postings")
    return docs, freqs


def fill(segment: Segment, field: str, infos: Iterable[Sequence[int]] | NDArray[np.int64]) -> NDArray[np.uint64]:
    """Bitmap of the documents that hold any of the terms with these rows."""
    bitmap = np.zeros(bitmap_words(segment.docs), np.uint64)
    rows = np.ascontiguousarray(infos if isinstance(infos, np.ndarray) else list(infos), np.int64).reshape(-1, 8)
    if rows.size:
        for section, start, length in ranges_of(segment, field, rows):
            segment.sections.need(section, start, length)
        buffer = np.empty(1024, np.uint8)
        if kernels.postings_fill(segment.descriptor(field).address, address(rows), rows.shape[0], address(buffer),
                                 address(bitmap)) < 0:
            raise corrupt(segment, field, "postings")
    return bitmap

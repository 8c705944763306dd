"""From ids to documents: sorted 32-bit hashes with the document of each, verified against the id itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DocumentError
from ..segment import RamSections, Segment, address, gathered
from .kernels import ids as kernels
from .strings import joined, spelt

MAX_ID_BYTES = 512
MANY = 64
"""Ids that are worth a kernel."""


def id_bytes(id: Any) -> bytes:
    """An id as UTF-8; a typed error if it is not a string of 1 to 512 bytes."""
    if not isinstance(id, str):
        raise DocumentError("not an id", path="_id", found=id, expected="a string", fix="use str(id)")
    try:
        data = id.encode()
    except UnicodeEncodeError:
        raise DocumentError("not an id", path="_id", found=id, expected="text without lone surrogates") from None
    if not 0 < len(data) <= MAX_ID_BYTES:
        raise DocumentError("an id is too long or empty", path="_id", found=id,
                            expected=f"1 to {MAX_ID_BYTES} bytes of UTF-8")
    return data


def wide_hash(id: bytes) -> int:
    """Signed 64-bit hash of an id."""
    return int.from_bytes(blake2b(id, digest_size=8).digest(), "little", signed=True)


def id_hash(id: bytes) -> int:
    """The hash of an id that the format has: the low 32 bits of the wide one."""
    return wide_hash(id) & 0xFFFFFFFF


def id_hashes(keys: Sequence[bytes]) -> NDArray[np.uint32]:
    """The hashes of many ids."""
    if len(keys) < MANY:
        return np.array([id_hash(key) for key in keys], np.uint32)
    data, ends = joined(keys)
    wide, scratch = np.empty(len(keys), np.uint64), np.empty(kernels.SCRATCH_BYTES, np.uint8)
    kernels.hash_ids(address(data), address(ends), ends.size, address(kernels.ORDER), address(scratch), address(wide))
    return wide.astype(np.uint32)


def write_ids(sections: RamSections, ids: list[bytes], hashes: NDArray[np.uint32]) -> None:
    """Write ``ids`` (document order), whose hashes are known, and their index."""
    ends = np.cumsum(np.fromiter(map(len, ids), np.int64, len(ids)))
    _write(sections, b"".join(ids), ends, hashes)


def merge_ids(sections: RamSections, sources: Sequence[tuple[Segment, NDArray[np.int32]]]) -> None:
    """Write the ids of the documents that live: a source's document d becomes numbers[d], unless it is -1."""
    parts, sizes, places, hashes = [], [], [], []
    for segment, numbers in sources:
        live = numbers >= 0
        text = segment.array("ids", np.uint8)
        segment.starts("ids.start", segment.docs, text.size)
        each = np.diff(segment.ints("ids.start", segment.docs + 1))
        parts.append(text if live.all() else text[np.repeat(live, each)])
        sizes.append(each[live])
        places.append(numbers[live])
        docs = segment.array("ids.doc", np.uint32, segment.docs)
        if segment.docs and int(docs.max()) >= segment.docs:
            raise segment.damaged("ids.doc names a document that is not there", found=int(docs.max()))
        by_doc = np.zeros(segment.docs, np.uint32)
        by_doc[docs] = _index(segment)
        hashes.append(by_doc[live])
    data, ends = gathered([part.data for part in parts]), np.cumsum(np.concatenate(sizes))
    order = np.concatenate(places)
    by_number = np.empty(order.size, np.uint32)
    by_number[order] = np.concatenate(hashes)
    if (order[1:] < order[:-1]).any():
        numbers_ = np.empty(order.size, np.uint32)
        numbers_[order] = np.arange(order.size, dtype=np.uint32)
        data, ends = spelt(numbers_, data, ends)
    _write(sections, data, ends, by_number)


def _write(
    sections: RamSections, data: NDArray[np.uint8] | bytes, ends: NDArray[np.int64], hashes: NDArray[np.uint32],
) -> None:
    sections.put("ids", data)
    sections.put_rising("ids.start", np.concatenate([np.zeros(1, np.int64), ends]))
    order = np.argsort(hashes, kind="stable")
    sections.put("ids.hash", hashes[order])
    sections.put("ids.doc", order.astype(np.uint32))


WHOLE = 4 << 20
"""Bytes of ids up to which all of them are made readable when the first is asked for."""


def id_of(segment: Segment, doc: int) -> bytes:
    """The id of a document."""
    starts, base, step, data = _table(segment)
    start, end = starts[doc] + base + step * doc, starts[doc + 1] + base + step * (doc + 1)
    if data is None:
        data = segment.sections.part("ids", [(start, end - start)]).data.data
    return bytes(data[start:end])


def _table(segment: Segment) -> tuple[memoryview, int, int, memoryview | None]:
    """Starts, their base and step, and the bytes of the ids if all of them are readable."""
    table: tuple[memoryview, int, int, memoryview | None] | None = segment.cache.get("ids.table")
    if table is None:
        sections = segment.sections
        size = sections.size("ids")
        starts, base, step = segment.starts("ids.start", segment.docs, size)
        whole = size <= WHOLE and (not size or sections.lasting("ids"))
        table = starts.data, base, step, sections.part("ids", [(0, size)]).data.data if whole else None
        if sections.lasting("ids.start"):
            segment.cache["ids.table"] = table
    return table


def ids_of(segment: Segment, docs: list[int]) -> list[str]:
    """The ids of some documents."""
    starts, base, step, data = _table(segment)
    ranges = [(starts[doc] + base + step * doc, starts[doc + 1] + base + step * (doc + 1)) for doc in docs]
    if data is None:
        data = segment.sections.part("ids", [(begin, end - begin) for begin, end in ranges]).data.data
    try:
        return [str(data[begin:end], "utf-8") for begin, end in ranges]
    except UnicodeDecodeError as error:
        raise segment.damaged("an id that is not UTF-8", found=error.object) from None


def all_ids(segment: Segment) -> list[bytes]:
    """Every id, by document."""
    data = segment.array("ids", np.uint8).tobytes()
    segment.starts("ids.start", segment.docs, len(data))
    starts = segment.ints("ids.start", segment.docs + 1).tolist()
    return [data[start:end] for start, end in pairwise(starts)]


def find(segment: Segment, id: bytes, hash: int) -> Iterator[int]:
    """Documents with this id, ascending; several if all but one are deleted."""
    if segment.docs == 0:
        return
    hashes = _index(segment)
    at = int(hashes.searchsorted(np.uint32(hash)))
    docs = segment.array("ids.doc", np.uint32, segment.docs)
    while at < hashes.size and hashes[at] == hash:
        doc = int(docs[at])
        if doc >= segment.docs:
            raise segment.damaged("ids.doc names a document that is not there", found=doc)
        if id_of(segment, doc) == id:
            yield doc
        at += 1


def candidates(segment: Segment, hashes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Which of many hashes this segment has at all."""
    index = _index(segment)
    at = index.searchsorted(hashes)
    found: NDArray[np.bool_] = index[np.minimum(at, index.size - 1)] == hashes
    return found


def _index(segment: Segment) -> NDArray[np.uint32]:
    index: NDArray[np.uint32] | None = segment.cache.get("ids.hash")
    if index is None:
        index = segment.array("ids.hash", np.uint32, segment.docs)
        if segment.sections.lasting("ids.hash"):
            segment.cache["ids.hash"] = index
    return index

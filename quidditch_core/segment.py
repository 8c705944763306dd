"""The waist: what a segment is, wherever its bytes are, and the address layout that kernels read.

A segment is immutable: documents 0 .. docs-1, a table of fields, and named *sections* of bytes. Analysis and
builder stand above the waist and make sections; the codec and the tiers below carry them; kernels read them.
A section is the same bytes in RAM and in a file (``codec/FORMAT.md`` draws each one), so a segment in RAM and
one in a mapped file differ only in who answers for the bytes: :class:`RamSections` or the codec's sections over
a blob, which verify what they hand out.

This module is also the one place where Python turns buffers into addresses.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from .errors import MISSING, CorruptIndexError

if TYPE_CHECKING:
    from .config import SortBy

BLOCK = 128
"""Postings in a block; a term with fewer has no block headers."""
SUB_BLOCK = 32
"""Postings between two entry points into a term's positions."""
DICTIONARY_BLOCK = 16
"""Terms in a front-coded block of a dictionary."""
GRANULE = 8192
"""Rows of a column that share one minimum and maximum."""
PADDING = 64
"""Readable bytes after every section, so that a wide load never leaves the mapping."""
MAX_DOCS = 2**31 - 2**8
MAX_STEP = 2**31
"""What integers that rise evenly rise by is less."""

HAS_FREQS, HAS_POSITIONS = 1, 2

U8 = NDArray[np.uint8]


class FieldInfo(msgspec.Struct, frozen=True):
    """One row of a segment's field table.

    ``doc_count`` documents have at least one term, ``sum_ttf`` is the number of tokens, ``sum_df`` the number of
    postings: the statistics that BM25 needs. ``column`` is ``i64``, ``f64``, ``ord`` or empty. The block bounds
    were computed with ``bound_avgdl``, ``bound_k1`` and ``bound_b``.
    """

    number: int
    name: str
    type: str
    analyzer: str = ""
    indexed: bool = False
    freqs: bool = False
    positions: bool = False
    norms: bool = False
    column: str = ""
    multi_valued: bool = False
    exists: int = 0
    doc_count: int = 0
    sum_ttf: int = 0
    sum_df: int = 0
    terms: int = 0
    bound_avgdl: float = 0.0
    bound_k1: float = 0.0
    bound_b: float = 0.0


class Section(NamedTuple):
    """Bytes of one section, and for integers how to read number i: ``base + step * i + unsigned(width)``."""

    data: U8
    width: int = 1
    base: int = 0
    step: int = 0


class Ints(NamedTuple):
    """Integers of a section as they are stored: number i is ``base + step * i + values[i]``."""

    values: NDArray[Any]
    base: int
    step: int

    def at(self, i: int) -> int:
        """Number i."""
        value: int = self.values.item(i)
        return value + self.base + self.step * i

    def take(self, at: NDArray[Any]) -> NDArray[np.int64]:
        """Some of the numbers."""
        found: NDArray[np.int64] = self.values[at].astype(np.int64) + self.base
        if self.step:
            found += self.step * at.astype(np.int64)
        return found

    def all(self) -> NDArray[np.int64]:
        """All numbers."""
        found: NDArray[np.int64] = self.values.astype(np.int64) + self.base
        if self.step:
            found += self.step * np.arange(found.size)
        return found


class Sections(Protocol):
    """Who answers for a segment's bytes. ``need`` makes bytes readable (verified, present) or raises; ``need_all``
    does so for several ranges, each (start, length), at once, and ``part`` gives the section as well.

    A section that is not ``lasting`` is decoded for whoever asks: it is read through ``part`` or ``section`` each time,
    and not kept. ``address`` is for those that are.
    """

    def __contains__(self, name: str) -> bool: ...
    def names(self) -> Iterable[str]: ...
    def size(self, name: str) -> int: ...
    def address(self, name: str) -> int: ...
    def need(self, name: str, start: int, length: int) -> None: ...
    def need_all(self, name: str, ranges: Sequence[tuple[int, int]]) -> None: ...
    def section(self, name: str) -> Section: ...
    def part(self, name: str, ranges: Sequence[tuple[int, int]]) -> Section: ...
    def lasting(self, name: str) -> bool: ...


class TermInfo(NamedTuple):
    """Where a term's postings are: one row of a dictionary, eight int64 in the kernels' layout.

    ``postings`` is a byte offset into the field's postings; for a term of one document it is the document.
    ``headers`` is the first row in the block headers, meaningful from 128 postings on.
    """

    ordinal: int
    df: int
    ttf: int
    postings: int
    postings_size: int
    headers: int
    positions: int
    positions_size: int


class RamSections:
    """Sections that live in this process's memory."""

    def __init__(self) -> None:
        self._sections: dict[str, Section] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._sections

    def names(self) -> Iterable[str]:
        return self._sections

    def size(self, name: str) -> int:
        section = self._sections.get(name)
        return section.data.size if section else 0

    def address(self, name: str) -> int:
        return address(self._sections[name].data)

    def need(self, name: str, start: int, length: int) -> None:
        return None

    def need_all(self, name: str, ranges: Sequence[tuple[int, int]]) -> None:
        return None

    def section(self, name: str) -> Section:
        return self._sections[name]

    def part(self, name: str, ranges: Sequence[tuple[int, int]]) -> Section:
        return self._sections[name]

    def lasting(self, name: str) -> bool:
        return True

    def put(
        self, name: str, values: NDArray[Any] | bytes, *, base: int = 0, width: int | None = None, step: int = 0,
    ) -> None:
        """Add a section. An array keeps its item size as width; the bytes are copied behind padding."""
        raw = np.frombuffer(values, np.uint8) if isinstance(values, bytes) else \
            np.ascontiguousarray(values).view(np.uint8).reshape(-1)
        data = padded(raw.size)
        data[:] = raw
        item = 1 if isinstance(values, bytes) else values.dtype.itemsize
        self._sections[name] = Section(data, item if width is None else width, base, step)

    def adopt(self, name: str, data: U8, *, width: int = 1) -> None:
        """Add a section of bytes that nobody changes any more and that has :data:`PADDING` readable bytes behind."""
        self._sections[name] = Section(data, width)

    def take(self, other: RamSections, name: str) -> None:
        """Share a section of another's."""
        self._sections[name] = other._sections[name]

    def put_ints(self, name: str, values: NDArray[np.int64]) -> None:
        """Add a section of integers, each stored as its distance from the least, in 0, 1, 2, 4 or 8 bytes."""
        narrow, base, width = narrowed(values)
        self.put(name, narrow, base=base, width=width)

    def put_rising(self, name: str, values: NDArray[np.int64]) -> None:
        """Add a section of integers that may rise evenly: less ``step`` for each before, if that takes fewer bytes."""
        narrow, base, width = narrowed(values)
        step = 0 if values.size < 2 else (int(values[-1]) - int(values[0])) // (values.size - 1)
        if width and 0 < step < MAX_STEP and width < 8:
            flat = narrowed(values - step * np.arange(values.size))
            if flat[2] < width:
                self.put(name, flat[0], base=flat[1], width=flat[2], step=step)
                return
        self.put(name, narrow, base=base, width=width)


class Segment:
    """Documents 0 .. ``docs`` - 1 and everything known about them. Immutable, safe to share between threads.

    ``key`` names the segment for its lifetime. ``stored`` says how units of stored documents are coded:
    ``raw`` or ``zstd``, then by which codec. ``sort`` is what its documents are sorted by, if anything.
    """

    def __init__(
        self, key: str, docs: int, fields: Iterable[FieldInfo], sections: Sections, *, stored: str = "raw",
        codec: str = "", sort: Sequence[SortBy] = (), owner: object = None,
    ) -> None:
        self.key = key
        self.docs = docs
        self.fields = {field.name: field for field in fields}
        self.sections = sections
        self.stored = stored
        self.codec = codec
        self.sort = tuple(sort)
        self.remote = False  # whether its bytes are far away, so that as few as possible are to be needed
        self.owner = owner  # keeps a blob's mapping alive as long as the segment
        self.cache: dict[Any, Any] = {}  # what readers derive from the bytes: term rows, descriptors, arrays
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes of all sections."""
        known: int | None = self.cache.get("size")
        if known is None:
            known = self.cache["size"] = sum(self.sections.size(name) for name in self.sections.names())
        return known

    def ints(self, name: str, count: int) -> NDArray[np.int64]:
        """The ``count`` integers of a section, widened to int64 and cached."""
        values = self.cache.get(name)
        if values is None:
            values = self.cache[name] = self.rising(name, count).all()
        result: NDArray[np.int64] = values
        return result

    def rising(self, name: str, count: int) -> Ints:
        """The ``count`` integers of a section, which may have a step."""
        values, base = self.narrow(name, count)
        return Ints(values, base, self.sections.part(name, ()).step)

    def narrow(
        self, name: str, count: int | None = None, ranges: Sequence[tuple[int, int]] | None = None,
    ) -> tuple[NDArray[Any], int]:
        """The integers of a section as stored (read-only, unsigned) and the base to add.

        Any other number of them than ``count`` is damage; without it, more than one a document. ``ranges`` of bytes are
        what will be read of a section that is not lasting.
        """
        if ranges is None or name not in self.sections or self.sections.lasting(name):
            ranges = [(0, self.sections.size(name))]
        data, width, base, _ = self.sections.part(name, ranges)
        found = int.from_bytes(data.tobytes()[:8], "little") if width == 0 else data.size // width
        if (data.size != 8 if width == 0 else data.size % width) or (found > self.docs + 1 if count is None
                                                                     else found != count):
            raise self.damaged(f"{name} has a wrong size", found=f"{found} integers in {data.size} bytes",
                               expected=f"{self.docs + 1 if count is None else count} integers")
        if width == 0:
            return np.broadcast_to(np.uint8(0), (found,)), base
        return data.view(np.int64 if width == 8 else f"<u{width}"), base

    def starts(self, name: str, rows: int, end: int) -> Ints:
        """A section that says where each of ``rows`` begins, and that the last ends at ``end``."""
        known: Ints | None = self.cache.get(("starts", name))
        if known is not None:
            return known
        found = self.rising(name, rows + 1)
        if ("ascends", name) not in self.cache:
            values = found.all() if found.step else found.values
            if found.at(0) != 0 or found.at(rows) != end or (values[1:] < values[:-1]).any():
                raise self.damaged(f"{name} does not ascend from 0 to the end", expected=f"{end} at the end")
            self.cache["ascends", name] = True
        if self.sections.lasting(name):
            self.cache[("starts", name)] = found
        return found

    def array(self, name: str, dtype: Any, count: int | None = None) -> NDArray[Any]:
        """A section as a read-only array of ``dtype``; any other number of items than ``count`` is damage."""
        size = self.sections.size(name)
        item = np.dtype(dtype).itemsize
        if size % item or (count is not None and size != count * item):
            raise self.damaged(f"{name} has a wrong size", found=f"{size} bytes",
                               expected=f"{count} times {item} bytes" if count is not None else None)
        return self.sections.part(name, [(0, size)]).data.view(dtype)

    def text(self, data: bytes) -> str:
        """An id or a term as text."""
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise self.damaged("text that is not UTF-8", found=data) from None

    def damaged(self, what: str, *, found: Any = MISSING, expected: str | None = None) -> CorruptIndexError:
        """The error for bytes of this segment that contradict themselves."""
        return CorruptIndexError(what, path=self.key, found=found, expected=expected,
                                 fix="restore the segment from a snapshot")

    def descriptor(self, field: str) -> FieldDescriptor:
        """What kernels are told about an indexed field; made once."""
        made = self.cache.get(("descriptor", field))
        if made is None:
            made = self.cache[("descriptor", field)] = FieldDescriptor(self, self.fields[field])
        result: FieldDescriptor = made
        return result


# Slots of a field descriptor, an int64 array. Kernel files import these numbers.
F_DOCS, F_FLAGS = 0, 1
F_POSTINGS, F_POSTINGS_SIZE = 2, 3
F_LAST_DOCS, F_OFFSETS, F_WIDTHS, F_BOUNDS, F_BLOCKS = 4, 5, 6, 7, 8
F_POSITIONS, F_POSITIONS_SIZE, F_ENTRIES = 9, 10, 11
F_NORMS = 12
F_TERMS, F_TERMS_SIZE, F_SPARSE, F_SPARSE_BLOCKS, F_FIRST_OFFSETS, F_FIRST, F_FIRST_SIZE, F_TERM_COUNT = range(13, 21)
F_SLOTS = 21


class FieldDescriptor:
    """Addresses and sizes of one indexed field: int64 [F_SLOTS], and its own address."""

    def __init__(self, segment: Segment, field: FieldInfo) -> None:
        sections, name = segment.sections, field.name
        slots = self.slots = np.zeros(F_SLOTS, np.int64)
        self.address = address(slots)
        self.owner = segment

        def at(slot: int, kind: str, count_slot: int | None = None, item: int = 1, whole: bool = False) -> None:
            section = f"{kind}/{name}"
            if section in sections:
                size = sections.size(section)
                if whole:
                    sections.need(section, 0, size)
                slots[slot] = sections.address(section)
                if count_slot is not None:
                    slots[count_slot] = size // item

        slots[F_DOCS] = segment.docs
        slots[F_FLAGS] = field.freqs * HAS_FREQS | field.positions * HAS_POSITIONS
        slots[F_TERM_COUNT] = field.terms
        at(F_POSTINGS, "postings", F_POSTINGS_SIZE)
        at(F_LAST_DOCS, "blocks.last", F_BLOCKS, 4)
        at(F_OFFSETS, "blocks.offset")
        at(F_WIDTHS, "blocks.width")
        if field.norms:
            at(F_BOUNDS, "blocks.bound")
            at(F_NORMS, "norms")
        if field.positions:
            at(F_POSITIONS, "positions", F_POSITIONS_SIZE)
            at(F_ENTRIES, "blocks.position")
        at(F_TERMS, "terms", F_TERMS_SIZE)
        at(F_SPARSE, "terms.sparse", F_SPARSE_BLOCKS, 8, whole=True)
        at(F_FIRST_OFFSETS, "terms.first.offset", whole=True)
        at(F_FIRST, "terms.first", F_FIRST_SIZE, whole=True)
        self._check(sections, name, segment.docs, field)

    def _check(self, sections: Sections, name: str, docs: int, field: FieldInfo) -> None:
        """Sizes that kernels rely on agree with each other, whatever the bytes say."""
        blocks = int(self.slots[F_BLOCKS])
        want = {"blocks.offset": 4 * blocks, "blocks.width": 2 * blocks, "blocks.last": 4 * blocks}
        if field.positions:
            want |= {"blocks.position": 12 * blocks}
        if field.norms:
            want |= {"norms": docs, "blocks.bound": blocks}
        dictionary = -(-field.terms // DICTIONARY_BLOCK)
        want |= {"terms.sparse": 8 * dictionary, "terms.first.offset": 4 * (dictionary + 1)}
        for kind, size in want.items():
            if sections.size(f"{kind}/{name}") != size:
                raise CorruptIndexError("a section has the wrong size", path=f"{kind}/{name}",
                                        found=sections.size(f"{kind}/{name}"), expected=f"{size} bytes",
                                        fix="restore the segment from a snapshot")


# --- buffers -----------------------------------------------------------------------------------------------


def address(array: NDArray[Any]) -> int:
    """Address of a contiguous array's first byte; valid while the array lives."""
    return int(array.__array_interface__["data"][0])


def padded(size: int) -> U8:
    """A new byte array with :data:`PADDING` readable bytes behind it."""
    return zeros(size + PADDING)[:size]


def zeros(size: int, dtype: Any = np.uint8) -> NDArray[Any]:
    """A new array. One that is large has pages of its own, which go back to the system with it.

    malloc keeps up to 64 MiB of what numpy lets go, once it has seen large arrays come and go.
    """
    length = size * np.dtype(dtype).itemsize
    if length < _PAGES or not hasattr(mmap, "MAP_ANONYMOUS"):
        return np.zeros(size, dtype)
    memory = mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if length >= _LARGE_PAGES and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without large pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype)


def release(array: NDArray[Any], count: int) -> None:
    """Give back the pages of the first ``count`` items of an array of :func:`zeros`, which nobody reads any more."""
    memory = getattr(array.base, "obj", None)
    if isinstance(memory, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        end = count * array.itemsize // mmap.PAGESIZE * mmap.PAGESIZE
        if end:
            memory.madvise(mmap.MADV_DONTNEED, 0, end)


_PAGES = 1 << 17
_LARGE_PAGES = 4 << 20
_JOINED = 1024
_JOINED_BYTES = 1 << 16


def gathered(parts: Sequence[bytes | memoryview]) -> U8:
    """Bytes one after another, with :data:`PADDING` readable bytes behind them.

    Small ones are joined some at a time: memory that is used again is quicker than memory that is new.
    """
    size = sum(map(len, parts))
    data = padded(size)
    at = 0
    step = _JOINED if size < _JOINED_BYTES * len(parts) else 1
    for start in range(0, len(parts), step):
        some = np.frombuffer(parts[start] if step == 1 else b"".join(parts[start : start + step]), np.uint8)
        data[at : at + some.size] = some
        at += some.size
    return data


def narrowed(values: NDArray[np.int64]) -> tuple[NDArray[Any], int, int]:
    """``values`` as distances from their least value in the fewest bytes: (array, base, width).

    Width 0 means that all are equal; the array then holds their number as one int64.
    """
    values = np.ascontiguousarray(values, np.int64)
    if values.size == 0:
        return values, 0, 8
    low, high = int(values.min()), int(values.max())
    span = high - low
    if span == 0:
        return np.array([values.size], np.int64), low, 0
    for width in (1, 2, 4):
        if span < 1 << (8 * width):
            return (values - low).astype(f"<u{width}"), low, width
    return values, 0, 8


def bitmap_words(docs: int) -> int:
    """Number of uint64 words in a bitmap of ``docs`` bits (one spare word lets kernels read ahead)."""
    return docs // 64 + 1


def bitmap_of(docs: NDArray[Any], size: int) -> NDArray[np.uint64]:
    """Bitmap uint64 [bitmap_words(size)] with the bits ``docs`` set."""
    bits = np.zeros(bitmap_words(size) * 64, np.bool_)
    bits[docs] = True
    return np.packbits(bits, bitorder="little").view(np.uint64)


def bitmap_of_mask(mask: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Bitmap of a boolean array of one entry a document."""
    bits = np.zeros(bitmap_words(mask.size) * 64, np.bool_)
    bits[: mask.size] = mask
    return np.packbits(bits, bitorder="little").view(np.uint64)


def full_bitmap(size: int) -> NDArray[np.uint64]:
    """Bitmap with the first ``size`` bits set."""
    words = np.zeros(bitmap_words(size), np.uint64)
    words[: size // 64] = np.uint64(0xFFFFFFFFFFFFFFFF)
    words[size // 64] = np.uint64((1 << (size % 64)) - 1)
    return words


def mask_of(bitmap: NDArray[np.uint64], size: int) -> NDArray[np.bool_]:
    """Boolean array of ``size`` entries from a bitmap."""
    return np.unpackbits(bitmap.view(np.uint8), bitorder="little", count=size).view(np.bool_)


def docs_of(bitmap: NDArray[np.uint64], size: int) -> NDArray[np.uint32]:
    """The documents whose bits are set, ascending, uint32."""
    return np.flatnonzero(mask_of(bitmap, size)).astype(np.uint32)


def bit_count(bitmap: NDArray[np.uint64]) -> int:
    """Number of set bits."""
    return int(np.bitwise_count(bitmap).sum())


def view(address: int, count: int, dtype: Any) -> NDArray[Any]:
    """``count`` items at an address as a writable array: how the NumPy references of kernels see memory."""
    kind = np.dtype(dtype)
    if count <= 0:
        return np.zeros(0, kind)
    raw = (ctypes.c_uint8 * (count * kind.itemsize)).from_address(address)
    return np.frombuffer(raw, kind)

"""Coded sections: integers (or bytes) in granules, each in the coding that makes it smallest.

A granule decodes when it is first needed, to where it lies in the section as kernels read it. What is decoded is kept
in memory of a bounded size (:data:`KEPT`); whoever reads it meanwhile keeps it as long as he does.
"""

from __future__ import annotations

import itertools
import struct
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

from ...errors import CorruptIndexError
from ...segment import GRANULE, PADDING, U8, address, zeros
from .kernels import DECIMAL, DELTA, DOUBLE_DELTA, HEADER, LEVEL, MOST, PLANES, TABLE, XOR, decode

LEAST = 512
"""Bytes below which a section is not worth coding."""
_ENTRIES = 1 << 12
"""Different values of a granule up to which a table of them is tried."""
_DIGITS = 9
"""Digits behind the point that are tried."""
_TRIED = 2
"""Codings whose bits are fewest, of which the planes are compressed as well."""

Words = NDArray[np.uint64]


# --- encoding ----------------------------------------------------------------------------------------------


def encode(data: U8, width: int, level: int) -> bytes | None:
    """A section of integers of ``width`` bytes in granules, by zstd's ``level``; None if it is no smaller."""
    if data.size < LEAST:
        return None
    kind = np.dtype(np.int64 if width == 8 else f"<u{width}")
    values = data.view(kind)
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=False, write_content_size=True)
    granules = [_smallest(values[at : at + GRANULE].astype(np.int64), compressor, 8 * width)
                for at in range(0, values.size, GRANULE)]
    made = b"".join([*granules, np.fromiter(map(len, granules), "<u4", len(granules)).tobytes()])
    return made if len(made) < data.size else None


class _Coding(NamedTuple):
    """Numbers that stand for values, and the three of the header; ``table``: the values of a table."""

    transform: int
    start: int
    pace: int
    least: int
    words: Words
    bits: int
    table: bytes = b""

    @property
    def size(self) -> int:
        return HEADER + len(self.table) + (self.words.size * self.bits + 7) // 8


def _smallest(values: NDArray[np.int64], compressor: zstandard.ZstdCompressor, most: int) -> bytes:
    codings = sorted(_codings(values, most), key=lambda coding: coding.size)
    best = codings[0]
    made = _header(best, best.bits) + _stream(best.words, best.bits)
    for coding in codings[:_TRIED] + [one for one in codings[_TRIED:] if one.transform == LEVEL]:
        width = (coding.bits + 7) // 8
        frame = compressor.compress(_planes(coding.words, width))
        if HEADER + len(coding.table) + len(frame) < len(made):
            made = _header(coding, PLANES + width) + frame
    return made


def _header(coding: _Coding, bits: int) -> bytes:
    return struct.pack("<BBqqq", coding.transform, bits, coding.start, coding.pace, coding.least) + coding.table


def _codings(values: NDArray[np.int64], most: int) -> Iterator[_Coding]:
    """All codings of a granule. Differences are taken modulo 2^64, so that they always exist."""
    least = int(values.min())
    yield _coding(LEVEL, 0, *_divided(values - np.int64(least), least))
    if values.size < 3:
        return
    steps = np.diff(values)
    least = int(steps.min())
    yield _coding(DELTA, _wrapped(int(values[0]) - least), *_divided(_behind(steps - np.int64(least), 1), least))
    turns = np.diff(steps)
    least = int(turns.min())
    first, pace = int(values[0]), int(steps[0])  # the first two numbers are 0
    yield _coding(DOUBLE_DELTA, _wrapped(first - pace + least), _wrapped(pace - 2 * least), least,
                  _behind(turns - np.int64(least), 2))
    if most == 64:
        flips = (values[1:] ^ values[:-1]).view(np.uint64)
        every = int(np.bitwise_or.reduce(flips))
        shift = (every & -every).bit_length() - 1 if every else 0
        yield _coding(XOR, int(values[0]), 0, shift, _behind((flips >> np.uint64(shift)).view(np.int64), 1))
        digits, decimals = _decimals(values)
        if decimals is not None:
            least = int(decimals.min())
            yield _coding(DECIMAL, 0, digits, least, decimals - np.int64(least))
    different = np.unique(values)
    if 1 < different.size <= min(_ENTRIES, values.size // 4):
        places = np.searchsorted(different, values)
        yield _coding(TABLE, different.size, 0, 0, places, different.astype("<i8").tobytes())


def _coding(
    transform: int, start: int, pace: int, least: int, numbers: NDArray[np.int64], table: bytes = b"",
) -> _Coding:
    words = numbers.view(np.uint64)
    return _Coding(transform, start, pace, least, words, int(words.max()).bit_length(), table)


def _divided(numbers: NDArray[np.int64], least: int) -> tuple[int, int, NDArray[np.int64]]:
    """What divides all numbers, ``least``, and the quotients."""
    words = numbers.view(np.uint64)
    divisor = int(np.gcd.reduce(words))
    if not 1 < divisor < 2**63:
        return 1, least, numbers
    return divisor, least, (words // np.uint64(divisor)).view(np.int64)


def _decimals(values: NDArray[np.int64]) -> tuple[int, NDArray[np.int64] | None]:
    """The digits behind the point of codes of doubles, and the doubles without a point; None if they are none."""
    with np.errstate(all="ignore"):
        numbers = (values ^ ((values >> 63) & np.int64(MOST))).view(np.float64)
        for digits in range(_DIGITS + 1):
            scaled = np.rint(numbers * 10.0**digits)
            if not (np.abs(scaled) < 2**53).all():
                break
            found = scaled.astype(np.int64)
            again = (found.astype(np.float64) / 10.0**digits).view(np.int64)
            if (again == numbers.view(np.int64)).all():
                return digits, found
    return 0, None


def _behind(numbers: NDArray[np.int64], zeros_: int) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(zeros_, np.int64), numbers])


def _wrapped(value: int) -> int:
    """An integer modulo 2^64, as an int64."""
    return (value + 2**63) % 2**64 - 2**63


def _stream(words: Words, bits: int) -> bytes:
    wide = np.unpackbits(words.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    return np.packbits(wide[:, :bits], bitorder="little").tobytes()


def _planes(words: Words, width: int) -> bytes:
    return words.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width].T.tobytes()


# --- decoding ----------------------------------------------------------------------------------------------


class _Decoded:
    """A section as kernels read it, which of its granules are there, and whether all are."""

    def __init__(self, size: int, granules: int) -> None:
        self.data = zeros(size + PADDING)[:size]
        self.there = bytearray(granules)
        self.whole = False


class Kept:
    """Coded sections of the process of which granules are decoded; those used longest ago go beyond ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._lock = threading.Lock()
        self._clock = itertools.count(1)
        self._held: dict[int, tuple[weakref.ref[Coded], int]] = {}

    def now(self) -> int:
        """A number that is greater at every call."""
        return next(self._clock)

    def add(self, section: Coded, decoded: _Decoded, size: int) -> None:
        """Count ``size`` more bytes of a section, unless these have gone already."""
        with self._lock:
            key = id(section)
            for other in [other for other, (owner, _) in self._held.items() if owner() is None]:
                self.used -= self._held.pop(other)[1]
            if section.decoded is not decoded:
                return
            self.used += size
            self._held[key] = weakref.ref(section), self._held.get(key, (None, 0))[1] + size
            while self.used > self.limit and len(self._held) > 1:
                oldest = min((other for other in self._held if other != key), key=self._last_use)
                owner, freed = self._held.pop(oldest)
                self.used -= freed
                gone = owner()
                if gone is not None:
                    gone.decoded = None

    def _last_use(self, key: int) -> int:
        section = self._held[key][0]()
        return 0 if section is None else section.last_use


KEPT = Kept(128 << 20)


class Coded:
    """One coded section of an open blob: ``stored``, its bytes as they lie there, are ``size`` bytes decoded.

    ``need`` makes some of the stored bytes, (start, length), readable. ``name`` is for errors.
    """

    def __init__(
        self, name: str, stored: U8, size: int, width: int, need: Callable[[Sequence[tuple[int, int]]], None],
    ) -> None:
        self._name, self._stored, self._width, self._need = name, stored, width, need
        self._count = size // width
        self._places: list[int] | None = None
        self._decoding = threading.Lock()
        self.size = size
        self.last_use = 0
        self.decoded: _Decoded | None = None

    def part(self, ranges: Sequence[tuple[int, int]]) -> U8:
        """The section, decoded where its bytes are in ``ranges``, (start, length)."""
        self.last_use = KEPT.now()
        decoded = self.decoded
        if decoded is None:
            granules = len(self._directory()) - 1
            decoded = self.decoded = _Decoded(self.size, granules)
        if decoded.whole:
            return decoded.data
        there, granule = decoded.there, GRANULE * self._width
        missing = []
        for start, length in ranges:
            if start < 0 or length < 0 or start + length > self.size:
                raise self._damaged("bytes outside a section are referred to", (start, length))
            last = (start + length - 1) // granule if length else -1
            missing += [at for at in range(start // granule, last + 1) if not there[at]]
        if missing:
            with self._decoding:  # nobody may write again what another thread has begun to read
                self._decode(decoded, sorted({at for at in missing if not there[at]}))
        return decoded.data

    def _decode(self, decoded: _Decoded, missing: list[int]) -> None:
        places = self._directory()
        self._need([(places[at], places[at + 1] - places[at]) for at in missing])
        bytes_ = 0
        for at in missing:
            first = at * GRANULE
            count = min(GRANULE, self._count - first)
            self._decode_one(places[at], places[at + 1], count, decoded.data[first * self._width :])
            decoded.there[at] = 1
            bytes_ += count * self._width
        decoded.whole = 0 not in decoded.there
        KEPT.add(self, decoded, bytes_)

    def _decode_one(self, start: int, stop: int, count: int, out: U8) -> None:
        data = self._stored[start:stop]
        planes = np.zeros(0, np.uint8)
        if data.size >= HEADER and int(data[1]) >= PLANES:
            table = 8 * int.from_bytes(data[2:10].tobytes(), "little", signed=True) if int(data[0]) == TABLE else 0
            planes = self._decompressed(data[HEADER + table :] if 0 <= table <= data.size - HEADER else data[:0],
                                        (int(data[1]) - PLANES) * count)
        if decode(address(data), data.size, address(planes), planes.size, count, self._width, address(out)) < 0:
            raise self._damaged("a granule does not decode", (start, stop))

    def _decompressed(self, frame: U8, size: int) -> U8:
        """A zstd frame of exactly ``size`` bytes."""
        try:
            raw = frame.tobytes()
            if not 0 <= size <= 8 * GRANULE or zstandard.frame_content_size(raw) != size:
                raise self._damaged("a granule has a wrong size", size)
            found = np.frombuffer(zstandard.ZstdDecompressor().decompress(raw), np.uint8)
        except zstandard.ZstdError as error:
            raise self._damaged("a granule does not decompress", str(error)) from error
        if found.size != size:
            raise self._damaged("a granule has a wrong size", found.size)
        return found

    def _directory(self) -> list[int]:
        """Where each granule starts in the stored bytes, and where the last ends."""
        if self._places is None:
            granules = -(-self._count // GRANULE)
            end = self._stored.size - 4 * granules
            if end < HEADER * granules or self._count * self._width != self.size:
                raise self._damaged("a coded section has a wrong size", self._stored.size)
            self._need([(end, 4 * granules)])
            lengths = self._stored[end:].view("<u4")
            places = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
            if places[-1] != end or (lengths < HEADER).any():
                raise self._damaged("the granules of a section do not fill it", int(places[-1]))
            self._places = places.tolist()
        return self._places

    def _damaged(self, what: str, found: Any) -> CorruptIndexError:
        return CorruptIndexError(what, path=self._name, found=found, fix="restore the segment from a snapshot")

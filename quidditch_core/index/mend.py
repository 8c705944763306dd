"""One wrong byte can be found again: a CRC-32 that does not fit says which byte it is, if it is the only one.

What a byte contributes to a CRC depends only on how many bytes follow it, and the checksum of a difference is the
difference of the checksums (Peterson and Brown, 1961). So :func:`one_byte` walks the register backwards, over each
place in turn, to see whether one byte there explains the difference. Where a SHA-256 is known it has the last word.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from ..errors import CorruptIndexError, FormatError
from . import live
from . import manifest as manifests
from .manifest import Manifest, SegmentEntry

_TABLE = [zlib.crc32(bytes([value])) ^ zlib.crc32(b"\0") for value in range(256)]
_BY_TOP = [0] * 256
for _value, _crc in enumerate(_TABLE):
    _BY_TOP[_crc >> 24] = _value


class Mend(NamedTuple):
    """A byte of a file that a checksum knows better."""

    offset: int
    found: int
    right: int

    def __str__(self) -> str:
        return f"byte {self.offset} is {self.found:#04x} and was {self.right:#04x}"


def one_byte(size: int, difference: int) -> Iterator[tuple[int, int]]:
    """Every (offset, value) such that xor-ing the byte there changes the CRC-32 of ``size`` bytes by ``difference``."""
    for offset in range(size - 1, -1, -1):
        value = _BY_TOP[difference >> 24]
        if value and _TABLE[value] == difference:
            yield offset, value
        difference = ((difference ^ _TABLE[value]) << 8) & 0xFFFFFFFF | value


def mends(data: bytes, offset: int, found: int, expected: int) -> list[Mend]:
    """The single bytes of ``data``, which begins at ``offset`` of its file, that explain a wrong CRC-32."""
    return [Mend(offset + at, data[at], data[at] ^ value) for at, value in one_byte(len(data), found ^ expected)]


def patched(data: bytes, start: int, changes: Iterable[Mend]) -> bytes:
    """``data``, which begins at ``start`` of its file, with these bytes put right."""
    changed = bytearray(data)
    for one in changes:
        changed[one.offset - start] = one.right
    return bytes(changed)


def difference(found: bytes, right: bytes) -> Mend | None:
    """The one byte in which two byte strings of the same length differ, if it is one."""
    if len(found) != len(right):
        return None
    places = [at for at, (a, b) in enumerate(zip(found, right, strict=True)) if a != b]
    return Mend(places[0], found[places[0]], right[places[0]]) if len(places) == 1 else None


_HEADER = len(b"quidditch-manifest 0 000000000000 00000000\n")
_MASK_HEADER = 16


def mended_manifest(data: bytes, path: str) -> tuple[Manifest, Mend] | None:
    """The manifest whose file differs from ``data`` in one byte, of the header or of the JSON."""
    header, payload = data[:_HEADER], data[_HEADER:]
    start = b"quidditch-manifest %d %012d " % (manifests.FORMAT, len(payload))
    found = zlib.crc32(payload, zlib.crc32(start))
    payloads = [payload]
    with suppress(ValueError):  # then the wrong byte is in the header
        wanted = int(header[len(start) : -1], 16)
        payloads += [patched(payload, 0, [one]) for one in mends(payload, 0, found, wanted)]
    for candidate in payloads:
        whole = b"%b%08x\n%b" % (start, zlib.crc32(candidate, zlib.crc32(start)), candidate)
        change = difference(data, whole)
        if change is not None:
            try:
                return manifests.decode(whole, path), change
            except (CorruptIndexError, FormatError):
                continue
    return None


def mended_mask(data: bytes, entry: SegmentEntry) -> tuple[bytes, Mend] | None:
    """The live mask of an entry, if its file differs from ``data`` in one byte; its SHA-256 proves it."""
    assert entry.live is not None
    if len(data) != entry.live.size or len(data) < _MASK_HEADER:
        return None
    crc = int.from_bytes(data[12:16], "little")
    checked = data[8:12] + data[16:]
    bodies = [checked, *(patched(checked, 0, [one]) for one in mends(checked, 0, zlib.crc32(checked), crc))]
    for body in bodies:
        whole = live.MAGIC + bytes([live.FORMAT, 0]) + body[:4] + zlib.crc32(body).to_bytes(4, "little") + body[4:]
        change = difference(data, whole)
        if change is not None and hashlib.sha256(whole).hexdigest() == entry.live.sha256:
            return whole, change
    return None

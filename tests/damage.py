"""Bytes of an index on disk, changed on purpose: with all checksums left as they were, or made to fit again."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from quidditch_core.codec.v1 import file as codec
from quidditch_core.files import PAGE_SIZE
from quidditch_core.index import manifest as manifests
from quidditch_core.index.manifest import Manifest

FOOTER = codec.FOOTER


def newest(path: Path) -> Path:
    """The file of the newest manifest."""
    return max(path.glob("manifest-*"))


def read_manifest(path: Path) -> Manifest:
    file = newest(path)
    return manifests.decode(file.read_bytes(), str(file))


def write_manifest(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the newest manifest's JSON; its checksum fits again."""
    file = newest(path)
    body = msgspec.json.decode(file.read_bytes().partition(b"\n")[2])
    change(body)
    payload = msgspec.json.encode(body)
    start = b"quidditch-manifest %d %012d " % (manifests.FORMAT, len(payload))
    file.write_bytes(b"%b%08x\n%b" % (start, zlib.crc32(payload, zlib.crc32(start)), payload))


def blob(path: Path, name: str) -> Path:
    return path / "segments" / name


def contents(file: Path) -> codec.Contents:
    """The table of contents of a segment's file."""
    data = file.read_bytes()[:-FOOTER]
    size = int.from_bytes(data[-8:], "little")
    return msgspec.msgpack.decode(data[-8 - size : -8], type=codec.Contents)


def places(file: Path) -> dict[str, tuple[int, int]]:
    """Where each section of a segment begins and ends."""
    return {entry.name: (entry.offset, entry.offset + entry.length) for entry in contents(file).sections}


def flip(file: Path, offset: int, value: int = 0x40) -> None:
    """Xor one byte of a file."""
    data = bytearray(file.read_bytes())
    data[offset] ^= value
    file.write_bytes(data)


def wipe(file: Path, start: int, stop: int) -> None:
    """Overwrite bytes as a lost sector would."""
    data = bytearray(file.read_bytes())
    data[start:stop] = bytes((7 * at + 1) & 0xFF for at in range(stop - start))
    file.write_bytes(data)


def reseal(path: Path) -> None:
    """Make all checksums fit what the segments hold now, so that only their meaning can give damage away."""

    def change(body: dict[str, Any]) -> None:
        for entry in body["segments"]:
            file = blob(path, entry["name"])
            data = sealed(file.read_bytes(), entry["tail_offset"])
            file.write_bytes(data)
            entry["tail_crc"] = int.from_bytes(data[-FOOTER + 4 : -FOOTER + 8], "little")
            entry["sha256"] = hashlib.sha256(data).hexdigest()

    write_manifest(path, change)


def sealed(data: bytes, tail_offset: int) -> bytes:
    """A segment's bytes with page checksums, tail checksum and footer that fit."""
    body, tail = data[:tail_offset], bytearray(data[tail_offset:-FOOTER])
    size = int.from_bytes(tail[-8:], "little")
    pages = np.array([zlib.crc32(body[at : at + PAGE_SIZE]) for at in range(0, len(body), PAGE_SIZE)], np.uint32)
    end = len(tail) - 8 - size
    if end - pages.nbytes >= 0:
        tail[end - pages.nbytes : end] = pages.tobytes()
    footer = bytearray(data[-FOOTER:])
    footer[4:8] = zlib.crc32(tail).to_bytes(4, "little")
    return body + bytes(tail) + bytes(footer)

"""The blobs of a commit as objects of a store, for snapshots and published manifests: sent, searched, restored."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from ..errors import CorruptIndexError, FormatError, IndexExistsError
from ..files import OS_FILES, Bytes, Files, ensure_directory
from ..tiering import HOT, Span, Store
from ..tiering.local import LocalTier
from .manifest import SEGMENTS_DIRECTORY, LiveEntry, Manifest, SegmentEntry, commit, contradiction
from .places import COLD, Places

FORMAT: Final = 0
PIECE: Final = 8 << 20
"""Bytes of a blob that are held at a time."""
ANCESTORS: Final = 64
"""How many of the indexes that it was restored from an index knows."""

Blob = LiveEntry | SegmentEntry


def blobs_of(manifest: Manifest) -> Iterator[Blob]:
    """What somebody needs who has nothing else: segments, and their live masks."""
    for segment in manifest.segments:
        yield segment
        if segment.live is not None:
            yield segment.live


def portable(manifest: Manifest) -> Manifest:
    """The manifest without what is true of its own machine only."""
    return _in_tier(msgspec.structs.replace(manifest, tiers={}), HOT)


def searched(manifest: Manifest) -> Manifest:
    """The manifest for those who search its blobs where they are."""
    return _in_tier(manifest, COLD)


def _in_tier(manifest: Manifest, tier: str) -> Manifest:
    return msgspec.structs.replace(manifest, segments=tuple(
        msgspec.structs.replace(segment, tier=tier, keys=None) for segment in manifest.segments))


def places_at(store: Store, manifest: Manifest, key_of: Callable[[Blob], str]) -> Places:
    """Where the blobs of a manifest are, for those who search them there."""
    from ..config import Tiers
    from ..tiering.cache import shared
    from ..tiering.remote import RemoteTier

    keys = {blob.name: key_of(blob) for blob in blobs_of(manifest)}

    class Blobs(RemoteTier):
        def key(self, name: str) -> str:
            return keys[name]

    return Places(OS_FILES, "", manifest.index_uuid, Tiers(), Blobs(store, "blobs", HOT, shared()))


def sent(places: Places, blob: Blob, where: str) -> Iterator[Bytes]:
    """The bytes of a blob, from whichever tier has it."""
    return verified(_pieces(places, blob), blob, where)


def _pieces(places: Places, blob: Blob) -> Iterator[bytes]:
    tier = places.tier(blob.tier if isinstance(blob, SegmentEntry) else HOT)
    opened = tier.open(blob.name, blob.size)
    try:
        for offset in range(0, blob.size, PIECE):
            yield opened.pread(offset, min(PIECE, blob.size - offset))
    finally:
        opened.close()


def received(store: Store, key: str, blob: Blob) -> Iterator[Bytes]:
    """The bytes of the object ``key``, which is the blob."""
    return verified((piece for offset in range(0, blob.size, PIECE)
                     for piece in store.read([Span(key, offset, min(PIECE, blob.size - offset))])), blob, store.url)


def verified(pieces: Iterator[bytes], blob: Blob, where: str) -> Iterator[Bytes]:
    """``pieces`` but for the last until it is known that they are the blob: who stores them stores no other."""
    digest = hashlib.sha256()
    held: bytes | None = None
    for piece in pieces:
        digest.update(piece)
        if held is not None:
            yield held
        held = piece
    if digest.hexdigest() != blob.sha256:
        raise CorruptIndexError("a blob is not what the manifest says", path=f"{where}: {blob.name}",
                                found=digest.hexdigest(), expected=blob.sha256,
                                fix="restore the index from another snapshot or a replica")
    if held is not None:
        yield held


def restore(files: Files, store: Store, manifest: Manifest, key_of: Callable[[Blob], str], directory: str) -> None:
    """Make an index of a commit in a store: sizes are checked before, and bytes while they come.

    Raises IndexExistsError, CorruptIndexError (nothing stays behind), StorageError.
    """
    segments = os.path.join(directory, SEGMENTS_DIRECTORY)
    there = {*files.listdir(directory)} if files.exists(directory) else set()
    if there - {SEGMENTS_DIRECTORY} or (there and files.listdir(segments)):
        raise IndexExistsError("the directory is not empty", path=directory, fix="choose another path")
    blobs = list(blobs_of(manifest))
    for blob in blobs:
        check_size(store, key_of(blob), blob)
    ensure_directory(files, directory)
    tier = LocalTier(files, segments)
    written: list[str] = []
    try:
        for blob in blobs:
            tier.write(blob.name, received(store, key_of(blob), blob))
            written.append(blob.name)
        tier.sync()
    except BaseException:
        for gone in written:
            tier.delete(gone)
        raise
    commit(files, directory, msgspec.structs.replace(
        manifest, index_uuid=uuid.uuid4().hex, primary_term=manifest.primary_term + 1, log_generation=1,
        ancestors=(*manifest.ancestors, manifest.index_uuid)[-ANCESTORS:]))


def check_size(store: Store, key: str, blob: Blob) -> None:
    size = store.size(key)
    if size != blob.size:
        raise CorruptIndexError("a blob of the snapshot is missing or has a wrong length", path=key,
                                found="nothing" if size is None else f"{size} bytes",
                                expected=f"{blob.size} bytes", fix="restore another snapshot")


# An object of ours: a header as a manifest has it, then JSON

_HEADER = re.compile(rb"(quidditch-([a-z]+) (\d+) (\d{12}) )([0-9a-f]{8})\n")
HEADER: Final = 64
"""Bytes at the start of such an object, its checksum among them."""
_NOUNS: Final[Mapping[str, str]] = {"snapshot": "snapshot", "published": "published manifest"}


def framed(kind: str, record: msgspec.Struct) -> bytes:
    payload = msgspec.json.encode(record)
    start = b"quidditch-%b %d %012d " % (kind.encode(), FORMAT, len(payload))
    return b"%b%08x\n%b" % (start, zlib.crc32(payload, zlib.crc32(start)), payload)


def unframed(data: bytes, kind: str, type: Any, path: str, fix: str) -> Any:
    """The record in ``data``; CorruptIndexError for any damage, FormatError if it is a newer one.

    The record has a ``manifest``, which does not contradict itself.
    """
    header = _HEADER.match(data)
    payload = data[header.end() :] if header is not None else b""
    if header is None or header[2] != kind.encode() or len(payload) != int(header[4]) or b"%08x" % zlib.crc32(
            payload, zlib.crc32(header[1])) != header[5]:
        raise CorruptIndexError(f"the {_NOUNS[kind]} is damaged", path=path, found=f"{len(data)} bytes",
                                expected="a header with the length and checksum of what follows", fix=fix)
    if int(header[3]) > FORMAT:
        raise FormatError(f"{_NOUNS[kind]} of a newer format", path=path, found=int(header[3]),
                          expected=f"at most {FORMAT}", fix="install a newer version of quidditch-core")
    record = decoded(payload, type, path, fix)
    problem = contradiction(record.manifest)
    if problem is not None:
        raise CorruptIndexError(f"the {_NOUNS[kind]} contradicts itself", path=path, found=problem, fix=fix)
    return record


def decoded(data: bytes, type: Any, path: str, fix: str) -> Any:
    try:
        return msgspec.json.decode(data, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptIndexError("an object is damaged", path=path, found=data[:80], expected=str(error),
                                fix=fix) from error

"""The blobs of a commit as objects of a store, for snapshots and published manifests: sent, searched, read."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from ..errors import CorruptIndexError, FormatError
from ..files import OS_FILES, Bytes
from ..tiering import HOT, Span, SpanReader, Store
from .manifest import MAX_BYTES, LiveEntry, Manifest, SegmentEntry, contradiction
from .places import COLD, Places

FORMAT: Final = 0
PIECE: Final = 8 << 20
"""Bytes of a blob that are held at a time."""

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


def places_at(
    store: Store, manifest: Manifest, key_of: Callable[[Blob], str], reader: SpanReader | None = None,
) -> Places:
    """Where the blobs of a manifest are, for those who search them there; ``reader`` reads them, if not the store."""
    from ..config import Tiers
    from ..tiering.cache import shared
    from ..tiering.remote import RemoteTier

    keys = {blob.name: key_of(blob) for blob in blobs_of(manifest)}

    class Blobs(RemoteTier):
        def key(self, name: str) -> str:
            return keys[name]

    there = Blobs(store, "blobs", HOT, shared())
    there.reader = reader or store
    return Places(OS_FILES, "", manifest.index_uuid, Tiers(), there)


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


class Objects:
    """Blobs in a store, each of them a whole object, whose key ``key_of`` says."""

    def __init__(self, store: Store, key_of: Callable[[Blob], str]) -> None:
        self.url = store.url
        self._store, self._key_of = store, key_of

    def problem(self, blob: Blob) -> CorruptIndexError | None:
        """An error that says what is missing of a blob; by what the store says of sizes."""
        return missing(self._store, self._key_of(blob), blob.size)

    def pieces(self, blob: Blob) -> Iterator[bytes]:
        """The bytes of a blob, in order."""
        key = self._key_of(blob)
        for offset in range(0, blob.size, PIECE):
            yield from self._store.read([Span(key, offset, min(PIECE, blob.size - offset))])


def missing(store: Store, key: str, size: int) -> CorruptIndexError | None:
    """An error if an object is not there, or not as long as it must be."""
    found = store.size(key)
    if found == size:
        return None
    return CorruptIndexError("a blob of the snapshot is missing or has a wrong length", path=key,
                             found="nothing" if found is None else f"{found} bytes", expected=f"{size} bytes",
                             fix="restore another snapshot")


# An object of ours: a header as a manifest has it, then JSON, which may be compressed

_HEADER = re.compile(rb"(quidditch-([a-z]+) (\d+) (\d{12}) )([0-9a-f]{8})\n")
HEADER: Final = 64
"""Bytes at the start of such an object, its checksum among them."""
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_NOUNS: Final[Mapping[str, str]] = {"snapshot": "snapshot", "published": "published manifest"}


def framed(kind: str, record: msgspec.Struct, *, compress: bool = False) -> bytes:
    payload = msgspec.json.encode(record)
    if compress:
        import zstandard

        payload = zstandard.ZstdCompressor(level=9).compress(payload)
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
    record = decoded(_plain(payload, path, fix), type, path, fix)
    problem = contradiction(record.manifest)
    if problem is not None:
        raise CorruptIndexError(f"the {_NOUNS[kind]} contradicts itself", path=path, found=problem, fix=fix)
    return record


def _plain(payload: bytes, path: str, fix: str) -> bytes:
    """The JSON; how long it will be is looked at before it is decompressed."""
    if not payload.startswith(_ZSTD):
        return payload
    import zstandard

    try:
        if zstandard.get_frame_parameters(payload).content_size <= MAX_BYTES:
            return zstandard.ZstdDecompressor().decompress(payload)
    except zstandard.ZstdError:
        pass
    raise CorruptIndexError("an object is damaged", path=path, found=payload[:80],
                            expected=f"JSON of at most {MAX_BYTES} bytes, compressed", fix=fix)


def decoded(data: bytes, type: Any, path: str, fix: str) -> Any:
    try:
        return msgspec.json.decode(data, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptIndexError("an object is damaged", path=path, found=data[:80], expected=str(error),
                                fix=fix) from error

"""The manifest: the commit point. One small file says which blobs are the index, and up to which operation.

::

    manifest-0000000000000042        generation, 16 digits
    ┌───────────────────────────────────────────────────┬──────────────────────────┐
    │ quidditch-manifest 0 000000001234 89abcdef \\n      │ JSON, 1234 bytes         │
    └────────────────────┬─┬────────────┬───────────────┴──────────────────────────┘
                  format ┘ └ length     └ CRC-32 of the header up to here, then of the JSON

The header keeps its shape in every format, so that an older library can tell a newer file from a damaged one.
The highest generation is the index. It is published by rename, so that a damaged one is damage, not an
unfinished commit: it is an error, never a reason to fall back to its predecessor.

Readers, in any process, hold a shared lock on their manifest file; the writer removes an old manifest only
under an exclusive one. This is all that keeps a blob alive: it goes once no manifest left names it.
"""

from __future__ import annotations

import errno
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Annotated, Any, Final

import msgspec

from quidditch_core.errors import (
    CorruptIndexError,
    FormatError,
    IndexClosedError,
    IndexNotFoundError,
    StorageError,
    WriterFailedError,
)
from quidditch_core.files import TEMP, File, Files, is_name
from quidditch_core.tiering import HOT, Tier

SEGMENTS_DIRECTORY: Final = "segments"
TRANSLOG_DIRECTORY: Final = "translog"
FORMAT: Final = 0
MAX_BYTES: Final = 256 << 20  # of a manifest; more is damage, and is not read into memory
MAX_DOCS: Final = 2**31 - 2**8  # of a segment

_FILE = re.compile(r"manifest-(\d{16})", re.ASCII)
_BLOB = re.compile(r"(?:seg|live|keys)-\d+", re.ASCII)  # what else lies among the blobs is not ours to remove
_HEADER = re.compile(rb"(quidditch-manifest (\d+) (\d{12}) )([0-9a-f]{8})\n")
_HEADER_MAX = 64
_REPAIR = "restore the index from a snapshot or a replica"

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
SeqNo = Annotated[int, msgspec.Meta(ge=-1, le=2**63 - 1)]
Crc = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class LiveEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The live mask of a segment: a blob in the hot tier."""

    name: str
    size: Count
    sha256: Sha256


class KeysEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What of a segment in a remote tier stays in the hot one: a blob, itself a segment, of its ids and numbers."""

    name: str
    size: Count
    tail_offset: Count
    tail_crc: Crc
    sha256: Sha256


class SegmentEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One segment: enough to open it with one read, and to verify what was read.

    ``name`` of its blob in ``tier``; ``size`` and ``tail_offset`` in bytes; ``tail_crc`` CRC-32 of the tail.
    ``live_docs`` of its ``docs`` are not deleted; without ``live`` all are. ``created_ms`` since the epoch.
    """

    name: str
    tier: str
    size: Count
    tail_offset: Count
    tail_crc: Crc
    sha256: Sha256
    docs: Count
    live_docs: Count
    min_seq_no: SeqNo
    max_seq_no: SeqNo
    created_ms: Count
    live: LiveEntry | None = None
    keys: KeysEntry | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The state of an index at one commit; immutable, the next one is made by `msgspec.structs.replace`.

    ``max_seq_no`` is N: exactly the operations up to N are in ``segments`` (-1: none). ``segments`` are in
    the order that breaks ties between equal scores. ``log_generation`` is the log's that begins after N, so that
    a log that is gone is missed. ``next_blob`` numbers the blob to be written next, so
    that no name is ever used twice. ``tiers`` is `config.Tiers` without its secrets. ``ancestors`` are the uuids
    of the indexes that this one was restored from, the oldest first. Times are milliseconds since the epoch.
    """

    generation: Count
    index_uuid: str
    mapping: dict[str, Any]
    mapping_version: Count
    settings: dict[str, Any]
    primary_term: Count
    max_seq_no: SeqNo
    next_blob: Count
    log_generation: Count
    created_ms: Count
    committed_ms: Count
    tiers: dict[str, Any] = {}
    ancestors: tuple[str, ...] = ()
    segments: tuple[SegmentEntry, ...] = ()

    def blobs(self) -> Iterator[tuple[str, str]]:
        """(tier, name) of every blob that this commit is made of."""
        for segment in self.segments:
            yield segment.tier, segment.name
            if segment.live is not None:
                yield HOT, segment.live.name
            if segment.keys is not None:
                yield HOT, segment.keys.name


def file_name(generation: int) -> str:
    return f"manifest-{generation:016d}"


def generations(files: Files, directory: str) -> list[int]:
    """Generations that have a manifest here, ascending; empty if there is no such directory."""
    if not files.exists(directory):
        return []
    return sorted(int(match[1]) for entry in files.listdir(directory) if (match := _FILE.fullmatch(entry)))


def encode(manifest: Manifest) -> bytes:
    payload = msgspec.json.encode(manifest)
    start = b"quidditch-manifest %d %012d " % (FORMAT, len(payload))
    return b"%b%08x\n%b" % (start, zlib.crc32(payload, zlib.crc32(start)), payload)


def decode(data: bytes, path: str) -> Manifest:
    """The manifest in ``data``; `CorruptIndexError` for any damage, `FormatError` if it is a newer one."""

    def corrupt(what: str, offset: int, found: object, expected: str) -> CorruptIndexError:
        return CorruptIndexError(f"{what} at offset {offset}", path=path, found=found, expected=expected,
                                 fix=_REPAIR)

    header = _HEADER.match(data[:_HEADER_MAX])
    if header is None:
        raise corrupt("not a manifest header", 0, data[:_HEADER_MAX], "'quidditch-manifest' and 3 numbers")
    start, version, length, crc = header.groups()
    offset = header.end()
    payload = data[offset:]
    if len(payload) != int(length):
        raise corrupt("wrong length of the JSON", offset, f"{len(payload)} bytes", f"{int(length)} bytes")
    found = b"%08x" % zlib.crc32(payload, zlib.crc32(start))
    if found != crc:
        raise corrupt("checksum does not fit header and JSON", 0, found.decode(), crc.decode())
    if int(version) > FORMAT:
        raise FormatError("manifest of a newer format", path=path, found=int(version),
                          expected=f"at most {FORMAT}", fix="install a newer version of quidditch-core")
    try:
        manifest = msgspec.json.decode(payload, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise corrupt(f"wrong JSON: {error}", offset, payload[:80], "the fields of format 0") from error
    problem = contradiction(manifest)
    if file_name(manifest.generation) != os.path.basename(path):
        problem = f"generation {manifest.generation} in a file of another name"
    if problem:
        raise corrupt(problem, offset, file_name(manifest.generation), "a manifest that agrees with itself")
    return manifest


def contradiction(manifest: Manifest) -> str | None:
    """What no writer writes, although every field has its type. No name becomes a path before this."""
    blobs = list(manifest.blobs())
    for tier, name in blobs:
        if not is_name(name) or not is_name(tier):
            return f"{name!r} in {tier!r} is not a blob name"
    if len(set(blobs)) != len(blobs):
        return "a blob is named twice"
    for segment in manifest.segments:
        if segment.tail_offset >= segment.size or (
                segment.keys is not None and segment.keys.tail_offset >= segment.keys.size):
            return f"segment {segment.name!r} ends before its tail"
        if segment.docs > MAX_DOCS or segment.live_docs > segment.docs:
            return f"segment {segment.name!r} counts {segment.live_docs} live of {segment.docs} documents"
        if segment.live is None and segment.live_docs != segment.docs:
            return f"segment {segment.name!r} has deleted documents but no live mask"
        if segment.min_seq_no > segment.max_seq_no or segment.max_seq_no > manifest.max_seq_no:
            return f"segment {segment.name!r} holds operation {segment.max_seq_no}, which is not committed"
    return None


def commit(files: Files, directory: str, manifest: Manifest) -> None:
    """Publish: temp -> fsync -> rename -> fsync directory. Durable on return.

    The blobs it names must be durable before, names included (`Tier.sync`). After an error the outcome is
    unknown: the writer must refuse further writes.
    """
    path = os.path.join(directory, file_name(manifest.generation))
    if files.exists(path):
        raise WriterFailedError("another writer has committed this generation", path=path,
                                fix="reopen the index; never remove write.lock while the index is in use")
    temp = path + TEMP
    try:
        file = files.open(temp, "w")
        try:
            file.append(encode(manifest))
            file.fsync()
        finally:
            file.close()
        files.rename(temp, path)
    except BaseException:
        with suppress(StorageError):
            files.unlink(temp)
        raise
    files.sync_dir(directory)


def load_newest(files: Files, directory: str) -> Manifest:
    """The newest commit, for the writer; a reader that goes on to open blobs needs `hold`."""
    with hold(files, directory) as held:
        return held.manifest


class Hold:
    """A commit that cannot go away: its manifest, and so its blobs, stay until `release`.

    A context manager. The lock ends with the process, and is not inherited by a fork.
    """

    def __init__(self, manifest: Manifest, file: File) -> None:
        self.manifest = manifest
        self._file = file

    def release(self) -> None:
        self._file.close()

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.release()


def hold(files: Files, directory: str, generation: int | None = None) -> Hold:
    """Hold the newest commit, or the one of ``generation``.

    Errors: `IndexNotFoundError`; `IndexClosedError` if ``generation`` has gone; those of `decode`.
    """
    if generation is not None:
        held = _try_hold(files, directory, generation)
        if held is None:
            raise IndexClosedError(f"commit {generation} has been superseded and removed", path=directory,
                                   fix="open a new reader")
        return held
    lost = -1
    while True:
        there = generations(files, directory)
        if not there:
            raise IndexNotFoundError("no index here", path=directory, expected="a file manifest-<16 digits>",
                                     fix="check the path, or create the index")
        if there[-1] == lost:
            raise CorruptIndexError("the newest manifest is listed but cannot be held",
                                    path=os.path.join(directory, file_name(lost)), fix=_REPAIR)
        # A writer may publish a successor and remove this one under our hands; then the successor is newest.
        held = _try_hold(files, directory, there[-1])
        if held is not None:
            return held
        lost = there[-1]


def _try_hold(files: Files, directory: str, generation: int) -> Hold | None:
    """None if the manifest is gone, or going: the writer has it locked."""
    path = os.path.join(directory, file_name(generation))
    try:
        file = files.open(path, "r")
    except StorageError as error:
        if error.errno != errno.ENOENT:
            raise
        return None
    try:
        if file.lock(shared=True) and file.linked():
            return Hold(_read(file), file)
    except BaseException:
        file.close()
        raise
    file.close()
    return None


def _read(file: File) -> Manifest:
    size = file.size()
    if size > MAX_BYTES:
        raise CorruptIndexError("too long for a manifest", path=file.path, found=f"{size} bytes",
                                expected=f"at most {MAX_BYTES} bytes", fix=_REPAIR)
    return decode(file.pread(0, size), file.path)


class Garbage(msgspec.Struct, frozen=True):
    """What a collection removed: generations, and (tier, name) of blobs."""

    generations: tuple[int, ...]
    blobs: tuple[tuple[str, str], ...]


def collect_garbage(files: Files, directory: str, tiers: Iterable[Tier], current: Manifest) -> Garbage:
    """Remove older commits that no reader holds, and the blobs that only they named.

    For a running writer, after `commit` of ``current``: blobs that no manifest names yet are left alone.
    """
    dropped, kept, everything_known = _drop_old(files, directory, current)
    orphans = {blob for manifest in dropped.values() if manifest for blob in manifest.blobs()} - kept
    return Garbage(tuple(dropped), _delete(tiers, orphans if everything_known else set()))


def sweep(files: Files, directory: str, tiers: Iterable[Tier], current: Manifest) -> Garbage:
    """Remove everything that ``current`` and the commits held by readers do not need.

    For a writer that has just taken the lock, when nothing of its own is unpublished and the name of ``current``
    is durable: this is where blobs and temporary files of a crashed writer go.
    """
    tiers = list(tiers)
    dropped, kept, everything_known = _drop_old(files, directory, current)
    for entry in files.listdir(directory):
        if entry.endswith(TEMP) and _FILE.fullmatch(entry.removesuffix(TEMP)):
            files.unlink(os.path.join(directory, entry))
    for tier in tiers:
        tier.sweep()
    there = {(tier.name, name) for tier in tiers for name in tier.list() if _BLOB.fullmatch(name)}
    return Garbage(tuple(dropped), _delete(tiers, there - kept if everything_known else set()))


def _drop_old(
    files: Files, directory: str, current: Manifest,
) -> tuple[dict[int, Manifest | None], set[tuple[str, str]], bool]:
    """Unlink manifests older than ``current`` that nobody holds.

    Returns these (None: unreadable), the blobs that the others name, and whether all others could be read.
    """
    dropped: dict[int, Manifest | None] = {}
    kept, everything_known = set(current.blobs()), True
    for generation in generations(files, directory):
        if generation == current.generation:
            continue
        file = files.open(os.path.join(directory, file_name(generation)), "r")
        try:
            manifest: Manifest | None
            try:
                manifest = _read(file)
            except (CorruptIndexError, FormatError):
                manifest = None
            # Unlinking while locked: a reader that comes now finds it locked, or no longer linked.
            if generation < current.generation and file.lock(shared=False):
                files.unlink(file.path)
                dropped[generation] = manifest
            elif manifest is None:
                everything_known = False
            else:
                kept.update(manifest.blobs())
        finally:
            file.close()
    return dropped, kept, everything_known


def _delete(tiers: Iterable[Tier], orphans: set[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    deleted = []
    for tier in tiers:
        for name in sorted(name for place, name in orphans if place == tier.name):
            tier.delete(name)
            deleted.append((tier.name, name))
    return tuple(deleted)

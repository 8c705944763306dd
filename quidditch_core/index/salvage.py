"""What can still be read of a damaged index: its commits, the documents of its segments, the operations of its log.

Nothing here decides anything and nothing is written; ``repair`` does both. Single wrong bytes are put right on the
way where a checksum proves it (``mend``).
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptIndexError, FormatError, QuidditchError, StorageError
from ..files import PAGE_SIZE, Files
from ..result import Documents
from ..segment import GRANULE, Section, Sections, Segment, mask_of, padded
from ..tiering import Tier
from ..translog.record import (
    BATCH_HEADER,
    FILE_HEADER,
    FILE_NAME,
    BatchHeader,
    Operation,
    decode_header,
    decode_operations,
    seed_of,
)
from ..translog.replay import Window, headers
from . import live as masks
from . import manifest as manifests
from .examine import Examination, Progress, examine
from .findings import Cautious, is_utf8
from .ids import MAX_ID_BYTES, id_hash
from .manifest import Manifest, SegmentEntry
from .mend import Mend, mended_manifest, mended_mask, mends, patched
from .units import units

DELETED, LIVE, UNKNOWN = 0, 1, 2
"""What is known of a document; UNKNOWN: nothing says whether it lives."""


# --- commits ---------------------------------------------------------------------------------------------------


@dataclass
class Commits:
    """The manifests that can be read, the newest first; ``newest`` is the number of the newest file of all."""

    newest: int
    manifests: list[Manifest] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)

    def entry(self, name: str) -> SegmentEntry | None:
        """What the newest manifest that knows a segment says of it."""
        entries = (entry for manifest in self.manifests for entry in manifest.segments)
        return next((entry for entry in entries if entry.name == name), None)


def read_commits(files: Files, directory: str) -> Commits:
    """Every manifest in a directory."""
    generations = manifests.generations(files, directory)
    commits = Commits(max(generations, default=0))
    for generation in reversed(generations):
        name = manifests.file_name(generation)
        data = _read(files, os.path.join(directory, name))
        if data is None or len(data) > manifests.MAX_BYTES:
            continue
        try:
            commits.manifests.append(manifests.decode(data, name))
        except (CorruptIndexError, FormatError):
            mended = mended_manifest(data, name)
            if mended is not None:
                commits.manifests.append(mended[0])
                commits.mended.append(f"{name}: {mended[1]}")
    return commits


def _read(files: Files, path: str) -> bytes | None:
    """A file, with zeros where the disk fails; None if it cannot be opened."""
    try:
        file = files.open(path, "r")
    except StorageError:
        return None
    pieces = []
    try:
        size = file.size()
        for start in range(0, size, PAGE_SIZE):
            length = min(PAGE_SIZE, size - start)
            try:
                pieces.append(file.pread(start, length))
            except StorageError:
                pieces.append(bytes(length))
    finally:
        file.close()
    return b"".join(pieces)


# --- segments --------------------------------------------------------------------------------------------------


class _Legible:
    """The sections of a segment, with zeros where a granule of a coded one does not decode."""

    def __init__(self, sections: Sections) -> None:
        self._sections = sections
        self.size, self.names, self.lasting = sections.size, sections.names, sections.lasting
        self.need, self.need_all, self.address = sections.need, sections.need_all, sections.address

    def __contains__(self, name: str) -> bool:
        return name in self._sections

    def section(self, name: str) -> Section:
        return self.part(name, [(0, self.size(name))])

    def part(self, name: str, ranges: Sequence[tuple[int, int]]) -> Section:
        if self.lasting(name):
            return self._sections.part(name, ranges)
        found = self._sections.part(name, ())
        data = padded(found.data.size)
        for start in range(0, data.size, GRANULE * found.width):
            size = min(GRANULE * found.width, data.size - start)
            with suppress(CorruptIndexError, StorageError):
                data[start : start + size] = self._sections.part(name, [(start, size)]).data[start : start + size]
        return found._replace(data=data)


class Source:
    """A segment whose documents can be read, at least some of them.

    ``state`` int8 [docs]: DELETED, LIVE or UNKNOWN. ``ids``: None where an id cannot be trusted. ``seq_no`` int64
    [docs], -1 where it is lost. ``entry`` is what a manifest says of the segment, if one does.
    """

    def __init__(self, examination: Examination, entry: SegmentEntry | None, state: NDArray[np.int8]) -> None:
        assert examination.segment is not None
        self.name, self.entry, self.segment, self.state = examination.name, entry, examination.segment, state
        self.docs = self.segment.docs
        self._cautious = Cautious(self.segment, _ignore)
        self.ids = self._read_ids(examination)
        seq_no = self._cautious.ints("seq_no", self.docs)
        self.seq_no = np.full(self.docs, -1, np.int64) if seq_no is None else seq_no

    def _read_ids(self, examination: Examination) -> list[bytes | None]:
        """Ids whose bytes fit their checksums, or whose hashes are those that the segment has stored for them."""
        ids: list[bytes | None] = [None] * self.docs
        segment = self.segment
        size = segment.sections.size("ids")
        legible = Cautious(Segment(segment.key, segment.docs, (), _Legible(segment.sections)), _ignore)
        starts = legible.ints("ids.start", self.docs + 1)
        data = legible.array("ids", np.uint8, size)
        if starts is None or data is None:
            return ids
        placed = examination.intact("ids.start")
        trusted = placed and examination.intact("ids")
        hashes = self._stored_hashes(legible)
        paired = examination.intact("ids.hash") and examination.intact("ids.doc")
        known: set[int] = set() if paired or not placed else set(hashes.values())
        raw = data.tobytes()
        for doc, (start, stop) in enumerate(pairwise(starts.tolist())):
            id = raw[max(start, 0) : stop]
            if 0 < stop - start == len(id) <= MAX_ID_BYTES and is_utf8(id) and (
                    trusted or hashes.get(doc) == (hash := id_hash(id)) or hash in known):
                ids[doc] = id
        return ids

    def _stored_hashes(self, legible: Cautious) -> dict[int, int]:
        """The hash of each document's id, as the segment has it."""
        hashes = legible.array("ids.hash", np.uint32, self.docs)
        docs = legible.array("ids.doc", np.uint32, self.docs)
        return {} if hashes is None or docs is None else dict(zip(docs.tolist(), hashes.tolist(), strict=True))

    def documents(self) -> Iterator[tuple[int, int, list[bytes] | None, str]]:
        """(first, count, sources or None, why none) of each unit of stored documents, in order."""
        count = self._cautious.count("stored.first")
        if count is None or "stored" not in self.segment.sections or not 0 < count <= self.docs + 1:
            yield 0, self.docs, None, "where the units of documents are cannot be read"
            return
        firsts, starts = self._cautious.ints("stored.first", count), self._cautious.ints("stored.start", count)
        if firsts is None or (np.diff(firsts) < 0).any() or (int(firsts[0]), int(firsts[-1])) != (0, self.docs):
            yield 0, self.docs, None, "which documents are in which unit cannot be read"
            return
        places = np.full(count, -1, np.int64) if starts is None else starts
        for unit in units(self.segment, places, firsts, strict=False):
            yield unit.first, unit.docs, unit.documents, f"a unit of documents {unit.problem}"


def _ignore(section: str, what: str, found: Any, expected: Any) -> None:
    """Whoever wants to know what is wrong checks the index; here only what is right matters."""


def read_segment(
    tier: Tier, hot: Tier, name: str, entry: SegmentEntry | None, mended: list[str], progress: Progress,
) -> Source | str:
    """The segment of this name in ``tier``, its live mask in ``hot``, or why nothing of it can be read.

    What was put right is added to ``mended``. StoreError if it is in a store that cannot be reached.
    """
    found = examine(tier, name, entry, mend=True, progress=progress)
    mended += [f"{name}: {one}" for one in found.mended]
    segment = found.segment
    if segment is None or segment.sections.size("ids.hash") != 4 * segment.docs:
        return found.problems[0].what if found.problems else "its number of documents is in doubt"
    return Source(found, entry, _state(hot, entry, segment.docs, mended))


def _state(tier: Tier, entry: SegmentEntry | None, docs: int, mended: list[str]) -> NDArray[np.int8]:
    """Which documents live, as far as a live mask says so."""
    if entry is None or entry.docs != docs:
        return np.full(docs, UNKNOWN, np.int8)
    if entry.live is None:
        return np.full(docs, LIVE, np.int8)
    name = entry.live.name
    try:
        blob = tier.open(name)
        data = blob.pread(0, blob.size)
        blob.close()
        try:
            mask = masks.decode(data, docs, name)
        except (CorruptIndexError, FormatError):
            found = mended_mask(data, entry)
            if found is None:
                raise
            mask = masks.decode(found[0], docs, name)
            mended.append(f"{name}: {found[1]}")
    except QuidditchError:
        return np.full(docs, UNKNOWN, np.int8)
    return mask_of(mask, docs).astype(np.int8)


# --- the log ---------------------------------------------------------------------------------------------------


class Log:
    """The operations of all batches that are whole, in order, whatever is between them. Iterate as often as needed.

    ``after``: the operations up to this one are in segments; None: nobody knows which. ``mended`` and ``unknown``
    are those of the last iteration.
    """

    def __init__(self, files: Files, directory: str, after: int | None) -> None:
        self._files, self._directory, self._after = files, directory, after
        names = files.listdir(directory) if files.exists(directory) else []
        self._names = sorted(name for name in names if FILE_NAME.fullmatch(name))
        self.mended: list[str] = []
        self.unknown: list[Documents] = []

    def __iter__(self) -> Iterator[Operation]:
        self.mended, self.unknown = [], []
        last = self._after
        for name in self._names:
            data = _read(self._files, os.path.join(self._directory, name))
            if data is None:
                self._doubt(None, f"{name} cannot be read")
                continue
            for operation in self._operations(name, data):
                if last is not None and operation.seq_no > last + 1:
                    self._doubt(operation.seq_no - last - 1, f"operations {last + 1} to {operation.seq_no - 1} are not "
                                "in the log; what they wrote or deleted is not known")
                if last is None or operation.seq_no > last:
                    last = operation.seq_no
                    yield operation

    def _doubt(self, count: int | None, why: str) -> None:
        self.unknown.append(Documents("translog", 0, 0, count, (), why))

    def _operations(self, name: str, data: bytes) -> Iterator[Operation]:
        window = Window(lambda offset, size: data[offset : offset + size], len(data))
        seed = _seed(data, window)
        at, used = FILE_HEADER, len(data.rstrip(b"\0"))
        while at < used:
            batch = self._batch(name, data, at, seed)
            if batch is None:
                following = next((offset for offset, _ in headers(window, at + 1, seed)), len(data))
                self._doubt(None, f"bytes {at} to {following - 1} of {name} are no whole batch of operations")
                at = following
            else:
                operations, at = batch
                yield from operations

    def _batch(self, name: str, data: bytes, at: int, seed: int) -> tuple[list[Operation], int] | None:
        """The operations of the batch at an offset, and where it ends; one wrong byte is put right."""
        start = at + BATCH_HEADER
        header, change = decode_header(data[at:start], 0, at, seed), None
        if header is None:
            header, change = _mended_header(data[at:start], at, seed)
        if header is None or start + header.length > len(data):
            return None
        end = start + header.length
        payload = data[start:end]
        found = zlib.crc32(payload)
        bodies: list[tuple[bytes, Mend | None]] = [(payload, change)]
        if found != header.crc:
            bodies = [(patched(payload, start, [one]), one) for one in mends(payload, start, found, header.crc)]
        for body, change in bodies:
            try:
                operations = decode_operations(body, name, at)
            except CorruptIndexError:
                continue
            if change is not None:
                self.mended.append(f"{name}: {change}")
            return operations, end
        return None


def _seed(data: bytes, window: Window) -> int:
    """Where the checksums of a file start from, though its header may be damaged, or the checksum in it."""
    first = data[:FILE_HEADER]
    for seed in (seed_of(first), zlib.crc32(first[:-4])):
        if next(headers(window, FILE_HEADER, seed), None) is not None:
            return seed
    return seed_of(first)


def _mended_header(raw: bytes, at: int, seed: int) -> tuple[BatchHeader | None, Mend | None]:
    """The header of a batch that differs from ``raw``, at ``at`` of its file, in one byte."""
    if len(raw) == BATCH_HEADER:
        for place in range(BATCH_HEADER):
            for value in range(256):
                one = Mend(at + place, raw[place], value)
                header = decode_header(patched(raw, at, [one]), 0, at, seed)
                if header is not None:
                    return header, one
    return None, None

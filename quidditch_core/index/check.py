"""Is everything in the index what it has to be? All files of the newest commit, the log, and what a live index shows.

Nothing is changed, and nothing stops the writer. Every byte is read from the disk and compared with its checksum,
then everything is held against everything else (``verify``). All problems are reported, not only the first.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..config import Settings, Tiers
from ..errors import (
    CorruptIndexError,
    FormatError,
    IndexNotFoundError,
    InvalidNameError,
    QuidditchError,
    RequestError,
    StorageError,
)
from ..files import OS_FILES, Files
from ..mapping import Mapping
from ..result import CheckReport, Problem
from ..segment import Segment, bit_count, bitmap_words, full_bitmap, mask_of
from ..tiering import HOT
from ..tiering.local import LocalTier
from ..translog.record import FILE_NAME, Index
from ..translog.replay import Replay
from . import ids, store
from . import manifest as manifests
from .examine import examine
from .findings import Findings
from .manifest import SEGMENTS_DIRECTORY, TRANSLOG_DIRECTORY, Hold, KeysEntry, Manifest, SegmentEntry
from .places import Places, places_of
from .verify import Numbers, is_object, verify
from .view import View

Bitmap = NDArray[np.uint64]

Progress = Callable[[int, int], None]
"""Is told how many bytes were read, and how many there are."""


def check(path: str | os.PathLike[str], *, progress: Progress | None = None, files: Files = OS_FILES) -> CheckReport:
    """Check the newest commit of the index at ``path``, and its log, while it may be open and written elsewhere.

    Raises IndexNotFoundError if there is nothing, and for nothing else that is wrong with the index.
    """
    return check_index(files, located(path), progress=progress)


def located(path: Any) -> str:
    """The directory that ``path`` means."""
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str) or "\0" in os.fspath(path):
        raise InvalidNameError("not a path", found=path, expected="a directory as str or path object")
    return os.path.abspath(path)


def check_index(
    files: Files, directory: str, view: View | None = None, *, progress: Progress | None = None,
    tiers: Tiers | None = None,
) -> CheckReport:
    """:func:`check`, and that a view of the index agrees with it and with itself."""
    started = time.perf_counter()
    work = _Check(files, directory, progress, tiers)
    work.commit()
    if view is not None:
        work.view(view)
    return CheckReport(directory, work.segments, work.docs, work.read, work.problems,
                       (time.perf_counter() - started) * 1000)


class _Part(NamedTuple):
    """One segment of a whole: its documents, and which of them live."""

    segment: Segment
    numbers: Numbers
    live: Bitmap


class _Check:
    """One check: what was read so far, and what was found."""

    def __init__(
        self, files: Files, directory: str, progress: Progress | None, tiers: Tiers | None = None,
    ) -> None:
        self._tiers = tiers
        self._places: Places | None = None
        self.files, self.directory = files, directory
        self.tier = LocalTier(files, os.path.join(directory, SEGMENTS_DIRECTORY))
        self.problems: list[Problem] = []
        self.segments = self.docs = self.read = self.total = 0
        self._progress = progress
        self._known: dict[str, tuple[Segment, Numbers]] = {}  # segments whose content has been verified, by name

    # A commit

    def commit(self) -> None:
        """The newest commit; if its manifest is damaged, the segments that are there."""
        hold = self._hold()
        if hold is None:
            names = [name for name in self.tier.list() if name.startswith("seg-")]
            self.total = sum(self._size(name) for name in names)
            for name in names:
                self._segment(name, None, None)
            return
        with hold:
            manifest = hold.manifest
            self._places = places_of(self.files, self.directory, manifest, self._tiers)
            self.total = sum(entry.size + (entry.live.size if entry.live else 0) for entry in manifest.segments)
            mapping = self._manifest(manifest)
            parts = [self._entry(entry, mapping) for entry in manifest.segments]
            self._unique([part for part in parts if part is not None])
            self._log(manifest)

    def _hold(self) -> Hold | None:
        generations = manifests.generations(self.files, self.directory)
        if not generations and not self.tier.list():
            raise IndexNotFoundError("no index here", path=self.directory, expected="a file manifest-<16 digits>",
                                     fix="check the path")
        findings = Findings(manifests.file_name(generations[-1]) if generations else "manifest")
        try:
            return manifests.hold(self.files, self.directory)
        except IndexNotFoundError:
            findings.add("", "there are segments, but no manifest")
        except (CorruptIndexError, FormatError, StorageError) as error:
            findings.error("", error)
        self.problems += findings.problems
        return None

    def _size(self, name: str) -> int:
        try:
            blob = self.tier.open(name)
        except QuidditchError:
            return 0
        blob.close()
        return blob.size

    def _manifest(self, manifest: Manifest) -> Mapping | None:
        """What a manifest says beyond what decoding it has checked."""
        findings = Findings(manifests.file_name(manifest.generation))
        numbers = [int(name.rpartition("-")[2]) for _, name in manifest.blobs() if name.rpartition("-")[2].isdecimal()]
        most = max(numbers, default=-1)
        findings.holds(most < manifest.next_blob, "", "the next blob would take a name that is there",
                       manifest.next_blob, f"more than {most}")
        mapping = None
        try:
            mapping = Mapping.from_dict(manifest.mapping)
            Settings.from_dict(manifest.settings)
        except RequestError as error:
            findings.error("mapping" if mapping is None else "settings", error)
        self.problems += findings.problems
        return mapping

    def _entry(self, entry: SegmentEntry, mapping: Mapping | None) -> _Part | None:
        """One segment of a commit and its live mask."""
        live = self._live(entry)
        assert self._places is not None
        if entry.tier not in self._places.names:
            self.problems.append(Problem(entry.name, "", "the segment is in a tier that is not known", entry.tier, HOT))
            return None
        if entry.keys is not None:
            found = examine(self.tier, entry.keys.name, _entry_of(entry.keys, entry), progress=self._advance)
            self.problems += found.problems
        known = self._segment(entry.name, entry, mapping)
        return None if known is None or live is None else _Part(*known, live)

    def _segment(
        self, name: str, entry: SegmentEntry | None, mapping: Mapping | None,
    ) -> tuple[Segment, Numbers] | None:
        """One segment file: its bytes, then what they say."""
        self.segments += 1
        tier = self.tier if entry is None or self._places is None else self._places.tier(entry.tier)
        found = examine(tier, name, entry, progress=self._advance)
        self.problems += found.problems
        segment = found.segment
        if segment is None:
            return None
        self.docs += segment.docs
        findings = Findings(name)
        numbers = verify(segment, findings)
        if entry is not None:
            findings.same("tail", "segment and manifest disagree on the number of documents", segment.docs, entry.docs)
            if numbers is not None and segment.docs:
                findings.same("seq_no", "segment and manifest disagree on the least and greatest sequence number",
                              (int(numbers.seq_no.min()), int(numbers.seq_no.max())),
                              (entry.min_seq_no, entry.max_seq_no))
        if mapping is not None:
            for field in segment.fields.values():
                mapped = mapping.fields.get(field.name)
                findings.same("tail", f"segment and mapping disagree on the type of {field.name!r}", field.type,
                              None if mapped is None else mapped.type)
        self.problems += findings.problems
        if numbers is None:
            return None
        self._known[name] = segment, numbers
        return segment, numbers

    def _live(self, entry: SegmentEntry) -> Bitmap | None:
        """The live mask of a segment; None if it is damaged."""
        if entry.live is None:
            return full_bitmap(entry.docs)
        findings = Findings(entry.live.name)
        mask = None
        try:
            blob = self.tier.open(entry.live.name)
            data = blob.pread(0, blob.size)
            blob.close()
            self._advance(blob.size)
            findings.same("", "the file has a wrong length", f"{blob.size} bytes", f"{entry.live.size} bytes")
            findings.same("", "the file is not the one that was committed", hashlib.sha256(data).hexdigest(),
                          entry.live.sha256)
            mask = store.read_live(self.tier, entry)
        except (CorruptIndexError, FormatError, StorageError) as error:
            findings.error("", error)
        self.problems += findings.problems
        return mask

    def _advance(self, read: int) -> None:
        self.read += read
        if self._progress is not None:
            self._progress(self.read, max(self.total, self.read))

    # Many segments as one

    def _unique(self, parts: list[_Part]) -> None:
        """No id lives twice, and no operation made two documents."""
        if not parts:
            return
        sizes = [part.segment.docs for part in parts]
        bases = np.concatenate([[0], np.cumsum(sizes)])
        seq_no = np.concatenate([part.numbers.seq_no for part in parts])
        hashes = np.concatenate([part.numbers.hashes for part in parts])
        lives = np.concatenate([mask_of(part.live, part.segment.docs) for part in parts])

        def place(row: int) -> tuple[_Part, int]:
            number = int(np.searchsorted(bases, row, side="right")) - 1
            return parts[number], row - int(bases[number])

        for again in _repeated(seq_no, np.arange(seq_no.size)):
            part, doc = place(again[1])
            other, before = place(again[0])
            self.problems.append(Problem(
                part.segment.key, "seq_no", "an operation made two documents",
                f"operation {seq_no[again[1]]}: document {doc} here, document {before} of {other.segment.key}"))
        for again in _repeated(hashes, np.flatnonzero(lives)):
            (other, before), (part, doc) = place(again[0]), place(again[1])
            id = ids.id_of(part.segment, doc)
            if ids.id_of(other.segment, before) == id:
                self.problems.append(Problem(
                    part.segment.key, "ids", "an id lives twice",
                    f"{id!r}: document {doc} here, document {before} of {other.segment.key}"))

    # A view

    def view(self, view: View) -> None:
        """What a live index shows: segments that are in memory only, masks that no manifest has yet."""
        parts = []
        for leaf in view.leaves:
            segment, findings = leaf.segment, Findings(leaf.segment.key)
            known = self._known.get(segment.key)
            if known is None:
                self.segments += leaf.in_memory
                self.docs += segment.docs if leaf.in_memory else 0
                numbers = verify(segment, findings)
            else:
                numbers = known[1]
            if leaf.live is not None and findings.same(
                    "live", "the live mask has a wrong size", leaf.live.size, bitmap_words(segment.docs)):
                beyond = leaf.live & ~full_bitmap(segment.docs)
                findings.same("live", "documents live that are not there", bit_count(beyond), 0)
            if numbers is not None and not any(problem.section == "live" for problem in findings.problems):
                parts.append(_Part(segment, numbers, leaf.accepted))
            self.problems += findings.problems
        count, told = len(self.problems), set(map(str, self.problems))
        self._unique(parts)
        self.problems[count:] = [problem for problem in self.problems[count:] if str(problem) not in told]

    # The log

    def _log(self, manifest: Manifest) -> None:
        """The log can be replayed: batches are whole, documents are JSON. What was taken back has left gaps."""
        directory = os.path.join(self.directory, TRANSLOG_DIRECTORY)
        if not self.files.exists(directory):
            return
        findings = Findings(TRANSLOG_DIRECTORY)
        try:
            names = self.files.listdir(directory)
            numbers = sorted(int(match[1]) for name in names if (match := FILE_NAME.fullmatch(name)))
            last = manifest.max_seq_no
            with Replay(self.files, directory, manifest.index_uuid, numbers, last) as replay:
                for operation in replay.operations():
                    if operation.seq_no <= last:
                        continue
                    last = operation.seq_no
                    if isinstance(operation, Index) and not is_object(operation.source):
                        findings.add("", "a source is not a JSON object", f"operation {last}")
        except (CorruptIndexError, FormatError, StorageError) as error:
            newer = self._newer(manifest)
            if newer is not None:
                self._log(newer)
                return
            if error.path and os.path.basename(error.path) != TRANSLOG_DIRECTORY:
                findings.segment += f"/{os.path.basename(error.path)}"
            findings.error("", error)
        self.problems += findings.problems

    def _newer(self, manifest: Manifest) -> Manifest | None:
        """The commit of a writer that flushed meanwhile: it has what the log has no more."""
        try:
            newest = manifests.load_newest(self.files, self.directory)
        except (CorruptIndexError, FormatError, StorageError, IndexNotFoundError):
            return None
        return newest if newest.generation > manifest.generation else None


def _entry_of(keys: KeysEntry, entry: SegmentEntry) -> SegmentEntry:
    return msgspec.structs.replace(entry, name=keys.name, tier=HOT, size=keys.size, tail_offset=keys.tail_offset,
                                   tail_crc=keys.tail_crc, sha256=keys.sha256, keys=None)


def _repeated(values: NDArray[np.int64], rows: NDArray[np.int64]) -> Iterable[tuple[int, int]]:
    """Pairs of ``rows`` that have equal values and are neighbours in their order."""
    order = rows[np.argsort(values[rows], kind="stable")]
    same = np.flatnonzero(values[order[1:]] == values[order[:-1]])
    return [(int(order[at]), int(order[at + 1])) for at in same]

"""An index out of a snapshot or of what is published: its segments are copied to the tier they are to live in.

While it goes on there is a file ``restoring`` in the new directory, which names the new index. So whoever restores
there again, after a kill, first removes what the dead one left, in whatever tier.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final, Protocol

import msgspec

from ..config import Tiers
from ..errors import CorruptIndexError, IndexExistsError, OutageError, SettingsError, StorageError
from ..files import TEMP, Files, ensure_directory
from ..tiering import HOT, Tier
from . import manifest as manifests
from . import store
from .manifest import SEGMENTS_DIRECTORY, Manifest
from .objects import Blob, verified
from .places import COLD, Places

MARK: Final = "restoring"
ANCESTORS: Final = 64
"""How many of the indexes that it was restored from an index knows."""
_LONGEST: Final = 4096


class Kept(Protocol):
    """Where the blobs are: `blobs.Blobs` or `objects.Objects`."""

    url: str

    def problem(self, blob: Blob) -> CorruptIndexError | None: ...

    def pieces(self, blob: Blob) -> Iterator[bytes]: ...


def restore(
    files: Files, there: Kept, manifest: Manifest, directory: str, *, tier: str = HOT,
    tiers: Tiers | None = None,
) -> None:
    """Make an index at ``directory`` of a manifest whose blobs are elsewhere, its segments in ``tier``.

    SettingsError for a tier that has no place, IndexExistsError, CorruptIndexError, StorageError; nothing stays behind.
    """
    tiers = tiers or Tiers()
    if tier not in tiers.names:
        raise SettingsError("this tier has no place", path="tier", found=tier,
                            expected="one of " + ", ".join(tiers.names), fix="give it one with tiers=qc.Tiers(...)")
    _clear(files, directory, manifest, tiers)
    for entry in manifest.segments:
        for blob in (entry, entry.live):
            if blob is not None and (problem := there.problem(blob)) is not None:
                raise problem
    places = Places(files, directory, uuid.uuid4().hex, tiers)
    written: list[tuple[Tier, str]] = []
    _mark(files, directory, places)
    try:
        made = msgspec.structs.replace(
            manifest, index_uuid=places.index_uuid, primary_term=manifest.primary_term + 1, log_generation=1,
            ancestors=(*manifest.ancestors, manifest.index_uuid)[-ANCESTORS:],
            tiers=tiers.to_dict() if tiers.names[1:] else {})
        segments = []
        for entry in manifest.segments:
            if entry.live is not None:
                _copy(there, entry.live, places.hot, written)
            _copy(there, entry, places.tier(tier), written)
            entry = msgspec.structs.replace(entry, tier=tier)
            if tier == COLD:
                store.verify(places.tier(COLD), entry)
                keys = f"keys-{made.next_blob:012d}"
                written.append((places.hot, keys))
                entry = store.with_keys(places, entry, keys)
                made = msgspec.structs.replace(made, next_blob=made.next_blob + 1)
            segments.append(entry)
        for one in places.local:
            one.sync()
        made = msgspec.structs.replace(made, segments=tuple(segments))
    except BaseException:
        with suppress(StorageError):  # else the mark stays
            _empty(places, written)
            files.unlink(os.path.join(directory, MARK))
        raise
    manifests.commit(files, directory, made)
    files.unlink(os.path.join(directory, MARK))


def _copy(
    there: Kept, blob: Blob, target: Tier, written: list[tuple[Tier, str]],
) -> None:
    written.append((target, blob.name))
    target.write(blob.name, verified(there.pieces(blob), blob, there.url))


def _empty(places: Places, blobs: Iterable[tuple[Tier, str]]) -> None:
    """Remove blobs, and see that nothing is left of the index that was to be."""
    for tier, name in blobs:
        tier.delete(name)
    for tier in places.all:
        tier.sync()
        if left := tier.list():
            raise OutageError("a tier did not remove what it was told to", path=tier.name, found=left, fix="try again")


def _mark(files: Files, directory: str, places: Places) -> None:
    ensure_directory(files, directory)
    path = os.path.join(directory, MARK)
    file = files.open(path + TEMP, "w")
    try:
        file.append(places.index_uuid.encode())
        file.fsync()
    finally:
        file.close()
    files.rename(path + TEMP, path)
    files.sync_dir(directory)


def _clear(files: Files, directory: str, manifest: Manifest, tiers: Tiers) -> None:
    """See that nothing is at ``directory``, but what a restore left that was broken off, which is removed."""
    there = {*files.listdir(directory)} if files.exists(directory) else set()
    segments = os.path.join(directory, SEGMENTS_DIRECTORY)
    left = there & {MARK, MARK + TEMP}
    if there - left - {SEGMENTS_DIRECTORY} or (not left and there and files.listdir(segments)):
        raise IndexExistsError("the directory is not empty", path=directory, fix="choose another path")
    if MARK in left:
        path = os.path.join(directory, MARK)
        file = files.open(path, "r")
        try:
            left_by = file.pread(0, _LONGEST).decode("ascii", "replace")
        finally:
            file.close()
        if not left_by.isalnum():
            raise IndexExistsError("the directory is not empty", path=path, found=left_by, fix="choose another path")
        places = Places(files, directory, left_by, tiers)
        for tier in places.all:
            tier.sweep()
        names = {name for _, name in manifest.blobs()}
        _empty(places, [(tier, name) for tier in places.all for name in names.union(tier.list())])
    for name in left:
        files.unlink(os.path.join(directory, name))

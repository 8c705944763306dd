"""The tiers of one index: which blobs are where."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..config import Tiers
from ..errors import RequestError, SettingsError
from ..files import Files
from ..tiering import HOT, Tier
from ..tiering.local import LocalTier
from .manifest import SEGMENTS_DIRECTORY, Hold, Manifest, generations, hold

if TYPE_CHECKING:
    from ..tiering.remote import RemoteTier

WARM: Final = "warm"
COLD: Final = "cold"


class Places:
    """Tiers by name; one for all of an index that is ``remote`` as a whole.

    Those of other indexes may share the warm directory and the cold URL: each has its own folder.
    """

    def __init__(
        self, files: Files, directory: str, index_uuid: str, tiers: Tiers, remote: RemoteTier | None = None,
    ) -> None:
        self.tiers = tiers
        self.remote = remote
        self._files = files
        self.index_uuid = index_uuid
        self.hot: Tier = remote or LocalTier(files, os.path.join(directory, SEGMENTS_DIRECTORY))
        self._made: dict[str, Tier] = {HOT: self.hot} if remote is None else {HOT: remote, COLD: remote}

    def tier(self, name: str) -> Tier:
        """The tier of this name; SettingsError if it has no place."""
        found = self._made.get(name)
        if found is None:
            if name not in self.tiers.names:
                raise SettingsError("this tier has no place", path="tiers", found=name,
                                    expected="one of " + ", ".join(self.tiers.names),
                                    fix=f"open the index with tiers=qc.Tiers({name}=...)")
            found = self._made[name] = self._warm() if name == WARM else self._cold()
        return found

    @property
    def names(self) -> tuple[str, ...]:
        return self.tiers.names

    @property
    def local(self) -> list[Tier]:
        """The tiers of this machine."""
        return [self.tier(name) for name in self.names if name != COLD]

    @property
    def all(self) -> list[Tier]:
        return [self.tier(name) for name in self.names]

    def _warm(self) -> Tier:
        assert self.tiers.warm is not None
        directory = self.tiers.warm.removeprefix("file://")
        return LocalTier(self._files, os.path.join(directory, self.index_uuid), WARM)

    def _cold(self) -> Tier:
        from ..tiering.cache import shared
        from ..tiering.remote import MEMORY, RemoteTier
        from ..tiering.store import FsspecStore

        assert self.tiers.cold is not None
        MEMORY.limit = self.tiers.memory
        return RemoteTier(FsspecStore(self.tiers.cold, self.tiers.storage_options), self.index_uuid, COLD,
                          shared(budget=self.tiers.cache))


class Source(Protocol):
    """Where a reader finds commits."""

    def generation(self) -> int | None:
        """The newest commit's; None if none is there at the moment."""

    def hold(self) -> Holding:
        """The newest commit, which stays until it is released."""

    def places(self, manifest: Manifest) -> Places:
        """Where its blobs are."""


class Holding(Protocol):
    """A commit that a reader uses: `manifest.Hold`, or one that needs no lock."""

    @property
    def manifest(self) -> Manifest: ...

    def release(self) -> None: ...


class Directory:
    """`Source` of an index in a directory, which its writer goes on writing."""

    def __init__(self, files: Files, directory: str, tiers: Tiers | None) -> None:
        self._files, self._directory, self._tiers = files, directory, tiers
        self._places: Places | None = None

    def generation(self) -> int | None:
        found = generations(self._files, self._directory)
        return found[-1] if found else None

    def hold(self) -> Hold:
        return hold(self._files, self._directory)

    def places(self, manifest: Manifest) -> Places:
        places = places_of(self._files, self._directory, manifest, self._tiers)
        if self._places is None or (self._tiers is None and self._places.tiers != places.tiers):
            self._places = places
        return self._places


def places_of(files: Files, directory: str, manifest: Manifest, tiers: Tiers | None = None) -> Places:
    """Where the blobs of a commit are; ``tiers``, if given, takes the place of what the commit says."""
    return Places(files, directory, manifest.index_uuid, stored(manifest.tiers) if tiers is None else tiers)


def stored(body: Mapping[str, Any]) -> Tiers:
    """The tiers that a manifest names; of what a newer version may have added nothing is lost but its effect."""
    known = {"warm", "cold", "budgets", "after", "idle", "larger", "memory", "cache"}
    try:
        return Tiers(**{name: value for name, value in body.items() if name in known})
    except RequestError:
        return Tiers(warm=body.get("warm"), cold=body.get("cold"))

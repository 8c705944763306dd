"""The tiers of one index: which blobs are where."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from ..config import Tiers
from ..errors import RequestError, SettingsError
from ..files import Files
from ..tiering import HOT, Tier
from ..tiering.local import LocalTier
from .manifest import SEGMENTS_DIRECTORY, Manifest

WARM: Final = "warm"
COLD: Final = "cold"


class Places:
    """Tiers by name. Those of other indexes may share the warm directory and the cold URL: each has its own folder."""

    def __init__(self, files: Files, directory: str, index_uuid: str, tiers: Tiers) -> None:
        self.tiers = tiers
        self._files = files
        self._uuid = index_uuid
        self.hot = LocalTier(files, os.path.join(directory, SEGMENTS_DIRECTORY))
        self._made: dict[str, Tier] = {HOT: self.hot}

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
        return LocalTier(self._files, os.path.join(directory, self._uuid), WARM)

    def _cold(self) -> Tier:
        from ..tiering.cache import shared
        from ..tiering.remote import MEMORY, RemoteTier
        from ..tiering.store import FsspecStore

        assert self.tiers.cold is not None
        MEMORY.limit = self.tiers.memory
        return RemoteTier(FsspecStore(self.tiers.cold, self.tiers.storage_options), self._uuid, COLD,
                          shared(budget=self.tiers.cache))


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

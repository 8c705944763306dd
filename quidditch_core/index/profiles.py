"""Term profiles: made at a term's first scored use in a segment, kept within a budget, and bound to a view.

A profile costs one pass over the postings (about what one exhaustive query costs) and saves most of the work of every
later one. It belongs to a segment; what changes between views, average length and deletions, only loosens its bounds
until making it again pays.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from ..segment import Segment, TermInfo, address, bitmap_words
from . import postings
from .budget import Budget
from .kernels import descriptor
from .kernels import profile as kernel

LEAST = 256
"""Documents from which on a term has a profile; two blocks are decoded faster than they are looked up."""
DENSE = 32
"""A term in more than one of so many documents has a bitmap."""
BUDGET = Budget(256 << 20)
"""For all profiles of the process."""
DRIFT = 1.25
"""How far the average length may move before a profile is made again."""
FORGIVEN = 1000
"""Documents that may be deleted before a profile is made again."""

_CLAUSE = struct.Struct(f"<{descriptor.K_SLOTS}q")


class Profile:
    """Arrays of one term in one segment; see ``kernels/profile``. ``dead`` documents were deleted at the time."""

    __slots__ = ("avgdl", "bitmap", "dead", "floors", "ranges", "ranks", "size")

    def __init__(self, docs: int, df: int, avgdl: np.float32, dead: int) -> None:
        self.avgdl = avgdl
        self.dead = dead
        self.ranges = np.zeros(kernel.ranges_of(docs) + 64, np.uint8)
        self.floors = np.zeros(9, np.float32)
        dense = df * DENSE > docs
        # A spare vector behind the bitmap, since kernels read whole ones.
        self.bitmap: NDArray[np.uint64] | None = np.zeros(bitmap_words(docs) + 8, np.uint64) if dense else None
        self.ranks: NDArray[np.uint32] | None = np.zeros(docs // 512 + 2, np.uint32) if dense else None
        self.size = sum(array.nbytes for array in (self.ranges, self.bitmap, self.ranks) if array is not None)

    def floors_after(self, deleted: int) -> NDArray[np.float32]:
        """The floors when ``deleted`` more documents are gone: those of as many ranks further down."""
        if not deleted:
            return self.floors
        ranks = np.array(kernel.RANKS)
        at = np.searchsorted(ranks, ranks + deleted)
        return np.append(np.append(self.floors[:8], 0)[at], self.floors[8]).astype(np.float32)


def profile_of(
    segment: Segment, field: str, term: bytes, info: TermInfo, factors: NDArray[np.float32], avgdl: np.float32,
    live: NDArray[np.uint64] | None, dead: int,
) -> Profile | None:
    """The profile of a term whose postings are readable; None for one of few documents."""
    if info.df < LEAST:
        return None
    known: Profile | None = segment.cache.get(("profile", field, term))
    if known is not None:
        drift = float(avgdl / known.avgdl)
        if 1 / DRIFT <= drift <= DRIFT and 0 <= dead - known.dead <= FORGIVEN:
            return known
    made = Profile(segment.docs, info.df, avgdl, dead)
    clause = np.array([descriptor.POSTINGS, segment.descriptor(field).address, _bits(np.float32(1)), address(factors),
                       0, 0, 0, *info, *[0] * 9], np.int64)
    scratch = np.empty(kernel.scratch_bytes(segment.docs), np.uint8)
    if kernel.profile(address(clause), 0 if live is None else address(live), segment.docs, address(scratch),
                      address(made.ranges), address(made.floors), _address(made.bitmap), _address(made.ranks)) < 0:
        raise postings.corrupt(segment, field, "postings")
    BUDGET.hold(segment, ("profile", field, term), made, made.size)
    return made


def clause_of(
    segment: Segment, field: str, info: TermInfo, weight: np.float32, factors: NDArray[np.float32],
    avgdl: np.float32, profile: Profile | None, dead: int,
) -> tuple[bytes, object]:
    """A term's clause for kernels, and what must live as long as it is used."""
    slots = [descriptor.POSTINGS, segment.descriptor(field).address, _bits(weight), address(factors), 0, 0, 0, *info]
    if profile is None:
        return _CLAUSE.pack(*slots, *[0] * 9), factors
    drift = float(avgdl / profile.avgdl)
    rise = np.float32(drift * (1 + 2**-20)) if drift > 1 else np.float32(1)
    fall = np.float32(drift * (1 - 2**-20)) if drift < 1 else np.float32(1)
    floors = profile.floors_after(dead - profile.dead)
    slots += [_address(profile.bitmap), _address(profile.ranks), address(profile.ranges),
              _bits(profile.floors[8]), address(floors), _bits(rise), _bits(fall), 0, 0]
    return _CLAUSE.pack(*slots), (factors, profile, floors)


def weighted(clause: bytes, weight: np.float32, offset: int = 0) -> bytes:
    """The clause with another weight, and a place in a phrase."""
    at, place = 8 * descriptor.K_WEIGHT, 8 * descriptor.K_OFFSET
    return b"".join((clause[:at], _bits(weight).to_bytes(8, "little"), clause[at + 8 : place],
                     offset.to_bytes(8, "little", signed=True), clause[place + 8 :]))


def _bits(value: np.float32) -> int:
    return int(np.float32(value).view(np.uint32))


def _address(array: NDArray[np.uint64] | NDArray[np.uint32] | None) -> int:
    return 0 if array is None else address(array)

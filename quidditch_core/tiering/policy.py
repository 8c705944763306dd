"""What should move where, and why: a pure function of segments, time and rules."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ..config import Tiers, format_bytes, format_time


class Placed(msgspec.Struct, frozen=True):
    """A blob as the policy sees it: its ``age`` in seconds, and how long it has been ``idle``."""

    name: str
    tier: str
    bytes: int
    age: float
    idle: float


class Move(msgspec.Struct, frozen=True):
    """One blob from a tier to the next, and why."""

    name: str
    source: str
    to: str
    bytes: int
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.source} -> {self.to}, {format_bytes(self.bytes)}, {self.reason}"


def moves(placed: Iterable[Placed], tiers: Tiers, excess: int = 0) -> list[Move]:
    """The moves that ``tiers`` asks for, the oldest blob first; each goes at most one tier on.

    ``excess`` are bytes that the disk of the hot tier has too many.
    """
    blobs = sorted(placed, key=lambda blob: (-blob.age, blob.name))
    after = dict(zip(tiers.names, tiers.names[1:], strict=False))
    chosen: dict[str, Move] = {}
    for blob in blobs:
        to = after.get(blob.tier)
        if to is not None and (why := _due(blob, to, tiers)) is not None:
            chosen[blob.name] = Move(blob.name, blob.tier, to, blob.bytes, why)
    for tier, to in after.items():
        staying = [blob for blob in blobs if blob.tier == tier and blob.name not in chosen]
        arriving = sum(move.bytes for move in chosen.values() if move.to == tier)
        used = sum(blob.bytes for blob in staying) + arriving
        limits = []
        if tier in tiers.budgets:
            limits.append((tiers.budgets[tier], f"{tier} holds more than {format_bytes(tiers.budgets[tier])}"))
        if tier == tiers.names[0] and excess > 0:
            leaving = sum(move.bytes for move in chosen.values() if move.source == tier)
            limits.append((used + leaving - excess, "the disk is past the high watermark"))
        for limit, why in limits:
            for blob in staying:
                if used <= limit:
                    break
                if blob.name not in chosen:
                    used -= blob.bytes
                    chosen[blob.name] = Move(blob.name, tier, to, blob.bytes, why)
    return list(chosen.values())


def _due(blob: Placed, to: str, tiers: Tiers) -> str | None:
    if to in tiers.after and blob.age >= tiers.after[to]:
        return f"older than {format_time(tiers.after[to])}"
    if to in tiers.idle and blob.idle >= tiers.idle[to]:
        return f"not searched for {format_time(tiers.idle[to])}"
    if to in tiers.larger and blob.bytes >= tiers.larger[to]:
        return f"not smaller than {format_bytes(tiers.larger[to])}"
    return None

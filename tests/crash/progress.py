"""How far a long run has come, so that one that is broken off has said what it tried."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
EVERY = 60.0
"""Seconds."""


def shown(trials: Iterable[T]) -> Iterator[T]:
    """``trials``; the number of those that are over is printed every minute."""
    started = said = time.monotonic()
    for number, trial in enumerate(trials):
        now = time.monotonic()
        if now - said >= EVERY:
            said = now
            print(f"{number:,} so far, in {now - started:.0f} s", file=sys.stderr, flush=True)
        yield trial

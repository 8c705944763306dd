"""Pages of hits: what a search has found, before anything of it is read."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, NamedTuple

import msgspec
import numpy as np

from ..dsl import SearchRequest
from ..result import Hit
from .best import Found
from .fetch import fetch
from .view import View


class Row(NamedTuple):
    """One hit: which segment, which document, its score (None if nothing was scored) and its sort values."""

    leaf: int
    doc: int
    score: float | np.float32 | None
    sort: list[Any] | None


class Page(msgspec.Struct, frozen=True):
    """The rows asked for, how many documents match in all, the best score (None if sorted by keys), and how it was
    found."""

    rows: list[Row]
    found: int
    max_score: float | None
    view: View
    request: SearchRequest
    path: str = "exhaustive"

    def __len__(self) -> int:
        return len(self.rows)

    def make(self) -> list[Hit]:
        return fetch(self.rows, self.view, self.request)


class BestPage(msgspec.Struct, frozen=True):
    """A page as the kernels found it, with the keys of all hits before it; rows are made when someone asks."""

    best: Found
    found: int
    view: View
    request: SearchRequest

    @property
    def path(self) -> str:
        return self.best.path

    def __len__(self) -> int:
        return max(0, len(self.best) - self.request.from_)

    @property
    def max_score(self) -> float | None:
        return _scores(self.best.keys[:1])[0] if self.best and not self.request.sort else None

    @property
    def rows(self) -> list[Row]:
        keys = self.best.keys[self.request.from_ :]
        bases, show_sort = self.view.bases, bool(self.request.sort)
        numbers = [0xFFFFFFFF - (key & 0xFFFFFFFF) for key in keys]
        leaves = [bisect_right(bases, number) - 1 for number in numbers] if len(bases) > 2 else [0] * len(numbers)
        return [Row(leaf, number - bases[leaf], score, [score] if show_sort else None)
                for number, leaf, score in zip(numbers, leaves, _scores(keys), strict=True)]

    def make(self) -> list[Hit]:
        return fetch(self.rows, self.view, self.request)


def _scores(keys: memoryview) -> list[float]:
    """The scores in keys of the kernels: their upper halves."""
    scores: list[float] = keys.cast("B").cast("f").tolist()[1::2]  # type: ignore[assignment]
    return scores

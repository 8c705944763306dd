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
        rows = self.rows
        return fetch([row.leaf for row in rows], [row.doc for row in rows],
                     [None if row.score is None else float(row.score) for row in rows], [row.sort for row in rows],
                     self.view, self.request)


class BestPage(msgspec.Struct, frozen=True):
    """A page as the kernels found it, with the keys of all hits before it; hits are made when someone asks."""

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

    def make(self) -> list[Hit]:
        keys = self.best.keys[self.request.from_ :]
        bases = self.view.bases
        docs = [0xFFFFFFFF - (key & 0xFFFFFFFF) for key in keys]
        leaves = [0] * len(docs)
        if len(bases) > 2:
            leaves = [bisect_right(bases, number) - 1 for number in docs]
            docs = [number - bases[leaf] for number, leaf in zip(docs, leaves, strict=True)]
        scores = _scores(keys)
        return fetch(leaves, docs, scores, [[score] for score in scores] if self.request.sort else [None] * len(docs),
                     self.view, self.request)


def _scores(keys: memoryview) -> list[float]:
    """The scores in keys of the kernels: their upper halves."""
    scores: list[float] = keys.cast("B").cast("f").tolist()[1::2]  # type: ignore[assignment]
    return scores

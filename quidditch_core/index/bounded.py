"""The best documents by a scoring function that says what it can make of a score at most.

The best by the query's own score are scored first, ever more of them, until no other document can be among the hits.
"""

from __future__ import annotations

import numpy as np

from ..dsl import SearchRequest
from ..errors import QueryError
from ..scoring import Scorer
from . import functions
from .best import prepare
from .page import Page, Row
from .plan import ScorePlan
from .view import View

FIRST, GROWTH = 16, 8
"""Documents tried first for each hit asked for, and how many times more are tried next."""
MOST = 4
"""One document in so many: beyond that all are scored."""


def best(plan: ScorePlan, scorer: Scorer, view: View, request: SearchRequest, *, show_sort: bool) -> Page | None:
    """The page of a request that sorts by score; None where trying all documents is no worse."""
    inner = prepare(plan.plan, view)
    if inner is None:
        return None
    bases = np.asarray(view.bases, np.int64)
    size = request.from_ + request.size
    limit = FIRST * size
    while limit * MOST <= view.bases[-1]:
        found = inner.best(limit)
        if found is None:
            return None
        keys = np.asarray(found.keys)
        numbers = 0xFFFFFFFF - (keys & 0xFFFFFFFF)
        own = keys.view(np.float32)[1::2]
        made = np.empty(keys.size, np.float32)
        for at, leaf in enumerate(view.leaves):
            mine = np.flatnonzero((numbers >= bases[at]) & (numbers < bases[at + 1]))
            docs = (numbers[mine] - bases[at]).astype(np.uint32)
            order = np.argsort(docs)
            mine, docs = mine[order], docs[order]
            made[mine] = functions.combined(plan, leaf.segment, docs, own[mine], [None])
        order = np.lexsort((numbers, -made))[:size]
        if keys.size < limit or (made[order[-1]] > _bound(scorer, own[-1], plan.boost)):
            _check(scorer, plan, own[order], made[order])
            number = 0 if request.track_total_hits is False else inner.number()
            if number is None:
                return None
            chosen = order[request.from_ :]
            leaves = (np.searchsorted(bases, numbers[chosen], side="right") - 1).tolist()
            rows = [Row(leaf, number - view.bases[leaf], score, [float(score)] if show_sort else None)
                    for leaf, number, score in zip(leaves, numbers[chosen].tolist(), made[chosen], strict=True)]
            most = float(made[order[0]]) if order.size and not show_sort else None
            return Page(rows, number, most, view, request, "bounded")
        limit *= GROWTH
    return None


def _bound(scorer: Scorer, score: np.float32, boost: np.float32) -> np.float32:
    """The most that a document of this score or less can get; rounded as scores are, so that no score is above it."""
    assert scorer.upper_bound is not None
    return np.float32(scorer.upper_bound(float(score))) * boost


def _check(scorer: Scorer, plan: ScorePlan, own: functions.F32, made: functions.F32) -> None:
    for score, result in zip(own, made, strict=True):
        bound = _bound(scorer, score, plan.boost)
        if not result <= bound:
            raise QueryError(f"the scorer {scorer.name} gave more than its upper bound", path=plan.path,
                             found=f"{float(result)} of a document whose own score is {float(score)}",
                             expected=f"at most {float(bound)}")

"""Bitmaps of filters that are asked for again and again.

A filter is kept at its second use in a segment, as in Lucene's query cache: most filters are used once, and a bitmap
has the same size however few documents it names.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

from ..segment import Segment
from .budget import Budget
from .plan import CodesPlan, ConstantPlan, ExistsPlan, Plan, PrefixPlan, TermPlan, TermRangePlan, TermsPlan

BUDGET = Budget(128 << 20)
REMEMBERED = 4096
"""Filters of a segment whose first use is remembered."""


def known(plan: Plan, segment: Segment) -> NDArray[np.uint64] | None:
    """The bitmap of a filter that was kept; nobody may write to it."""
    found: NDArray[np.uint64] | None = segment.cache.get(("filter", _key(plan)))
    return found


def used(plan: Plan, segment: Segment, bitmap: NDArray[np.uint64]) -> None:
    """Say that a filter was used, and what its bitmap is."""
    key = _key(plan)
    if key is None:
        return
    seen: set[Hashable] = segment.cache.setdefault("filters seen", set())
    again = key in seen
    if len(seen) >= REMEMBERED:
        seen.clear()
    seen.add(key)
    if again:
        bitmap.flags.writeable = False
        BUDGET.hold(segment, ("filter", key), bitmap, bitmap.nbytes)


def _key(plan: Plan) -> Hashable:
    """What a plan matches, whatever it scores; None for plans that are not worth keeping or not alike by value."""
    if isinstance(plan, ConstantPlan):
        return _key(plan.plan)
    if isinstance(plan, TermPlan):
        return "term", plan.field, plan.term
    if isinstance(plan, TermsPlan):
        return "terms", plan.field, plan.terms
    if isinstance(plan, TermRangePlan):
        return "range", plan.field, plan.low, plan.high
    if isinstance(plan, PrefixPlan):
        return "prefix", plan.field, plan.prefix
    if isinstance(plan, CodesPlan):
        return "codes", plan.field, plan.ranges
    if isinstance(plan, ExistsPlan):
        return "exists", plan.fields
    return None

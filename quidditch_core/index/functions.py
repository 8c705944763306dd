"""Scores that functions make: of a scorer, of the value of a field, of several combined.

Whatever the query's own scores, all documents that match it are scored, a block after the other. Modes, modifiers and
the order of rounding are OpenSearch's: functions count in float64, the last step rounds to float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import QueryError
from ..segment import Segment
from . import columns
from .plan import FunctionPlan, ScorePlan

BLOCK = 8192
"""Documents whose values are gathered at a time: they stay in the cache."""

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

_MODIFIERS: dict[str, Callable[[F64], F64]] = {
    "none": lambda x: x, "log": np.log10, "log1p": lambda x: np.log10(x + 1), "log2p": lambda x: np.log10(x + 2),
    "ln": np.log, "ln1p": np.log1p, "ln2p": lambda x: np.log1p(x + 1), "square": np.square, "sqrt": np.sqrt,
    "reciprocal": lambda x: 1 / x,
}
_COMBINED: dict[str, Callable[[F64, F64], F64]] = {
    "multiply": np.multiply, "replace": lambda score, factor: factor, "sum": np.add, "max": np.maximum,
    "min": np.minimum, "avg": lambda score, factor: (factor + score) / 2,
}


def combined(
    plan: ScorePlan, segment: Segment, docs: NDArray[np.uint32], scores: F32, members: Sequence[Mask | None],
) -> F32:
    """The scores of ``docs``, of their ``scores`` by the query; ``members``: whom each function is for (None: all)."""
    out = np.empty(docs.size, np.float32)
    for start in range(0, docs.size, BLOCK):
        part = slice(start, start + BLOCK)
        inside = [None if mask is None else mask[part] for mask in members]
        factor = _factor(plan, segment, docs[part], scores[part], inside)
        with np.errstate(all="ignore"):
            both = _COMBINED[plan.boost_mode](scores[part].astype(np.float64), np.minimum(factor, plan.max_boost))
            out[part] = both.astype(np.float32) * plan.boost + np.float32(0)
    bad = ~((out >= 0) & np.isfinite(out))
    if bad.any():
        raise QueryError("the functions gave a bad score", path=plan.path, found=out[bad][0].item(),
                         expected="a finite float32, 0 or more")
    return out


def _factor(
    plan: ScorePlan, segment: Segment, docs: NDArray[np.uint32], scores: F32, members: Sequence[Mask | None],
) -> F64:
    """What the functions make together, float64 [n]; 1 where none applies."""
    if len(plan.functions) == 1 and members[0] is None and plan.functions[0].weight == 1:
        return value(plan.functions[0], segment, docs, scores)  # what every mode makes of it
    mode = plan.score_mode
    total = np.full(docs.size, {"max": -np.inf, "min": np.inf, "sum": 0, "avg": 0}.get(mode, 1), np.float64)
    weights = np.zeros(docs.size)
    applied = np.zeros(docs.size, np.bool_)
    for function, mask in zip(plan.functions, members, strict=True):
        chosen = np.ones(docs.size, np.bool_) if mask is None else mask
        if mode == "first":
            chosen = chosen & ~applied
        at = np.flatnonzero(chosen)
        with np.errstate(all="ignore"):
            values = value(function, segment, docs[at], scores[at]) * function.weight
            match mode:
                case "multiply":
                    total[at] *= values
                case "first":
                    total[at] = values
                case "max":
                    total[at] = np.maximum(total[at], values)
                case "min":
                    total[at] = np.minimum(total[at], values)
                case _:
                    total[at] += values
        weights[at] += function.weight
        applied[at] = True
    if mode in ("sum", "avg"):
        applied &= weights != 0
    if mode == "avg":
        total[applied] /= weights[applied]
    total[~applied] = 1
    return total


def value(function: FunctionPlan, segment: Segment, docs: NDArray[np.uint32], scores: F32) -> F64:
    """What one function gives to each document, before its weight."""
    if function.scorer is not None:
        given = [_column(segment, docs, field, integer=each.integer, default=each.default, path=function.path,
                         fix=f"give the parameter {each.name} a default")
                 for field, each in zip(function.fields, function.scorer.parameters, strict=True)]
        try:
            return function.scorer.scores(scores, given).astype(np.float64)
        except QueryError as error:
            raise QueryError(error.message, path=function.path, found=error.found, expected=error.expected) from None
    if function.field_value is not None:
        of = function.field_value
        found = _column(segment, docs, function.fields[0], integer=False, default=of.missing, path=function.path,
                        fix="give a value for missing")
        made = _MODIFIERS[of.modifier](found * of.factor)
        if not (made >= 0).all():
            raise QueryError("a field_value_factor gave a negative score", path=function.path,
                             found=made[~(made >= 0)][0].item(), expected="0 or more",
                             fix="choose another modifier, or filter documents")
        return made
    return np.ones(docs.size)


def _column(
    segment: Segment, docs: NDArray[np.uint32], field: str, *, integer: bool, default: float | None, path: str,
    fix: str,
) -> NDArray[Any]:
    """The least value of each document, int64 or float64."""
    codes, present = columns.sort_codes(segment, field, docs, greatest=False)
    floats = field in segment.fields and segment.fields[field].column == "f64"
    found: NDArray[Any] = columns.code_floats(codes) if floats else codes if integer else codes.astype(np.float64)
    if not present.all():
        if default is None:
            raise QueryError(f"a document has no value of {field}", path=path, expected="a value in each", fix=fix)
        found = np.where(present, found, default)
    return found

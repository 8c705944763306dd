"""Why a document scores what it scores: the plan, walked for one document, adding up to its score."""

from __future__ import annotations

import numpy as np

from ..result import Explanation
from ..segment import Segment
from . import bm25, functions
from .execute import bitmap, phrase_frequency, term_frequency
from .plan import AllPlan, BoolPlan, FunctionPlan, NothingPlan, PhrasePlan, Plan, ScorePlan, TermPlan
from .view import View


def explain(plan: Plan, view: View, segment: Segment, doc: int) -> Explanation:
    """The explanation tree; its ``value`` is the score that a search gives, its ``match`` says if it matches."""
    found = _Explainer(view, segment, doc).explain(plan)
    return found if found is not None else Explanation(0.0, f"{_describe(plan)} does not match", (), False)


class _Explainer:
    def __init__(self, view: View, segment: Segment, doc: int) -> None:
        self._view, self._segment, self._doc = view, segment, doc

    def explain(self, plan: Plan) -> Explanation | None:
        """None if the document does not match."""
        if isinstance(plan, BoolPlan):
            return self._bool(plan)
        if isinstance(plan, TermPlan):
            freq = np.float32(term_frequency(self._segment, plan.field, plan.term, self._doc))
            return self._bm25(plan, freq) if freq else None
        if isinstance(plan, PhrasePlan):
            freq = phrase_frequency(plan, self._segment, self._doc)
            return self._bm25(plan, freq) if freq else None
        if isinstance(plan, ScorePlan):
            return self._functions(plan)
        if not self._matches(plan):
            return None
        return Explanation(float(plan.score), f"constant score of {_describe(plan)}")  # type: ignore[attr-defined]

    def _matches(self, plan: Plan) -> bool:
        word = int(bitmap(plan, self._segment)[self._doc >> 6])
        return bool(word >> (self._doc & 63) & 1)

    def _bm25(self, plan: TermPlan | PhrasePlan, freq: np.float32) -> Explanation:
        statistics = self._view.statistics(plan.field)
        info = self._segment.fields[plan.field]
        norm = 1
        if info.norms:
            norm = int(self._segment.array(f"norms/{plan.field}", np.uint8, self._segment.docs)[self._doc])
        value = bm25.score(plan.weight, freq, plan.factors[norm])
        length = int(bm25.LENGTHS[norm])
        return Explanation(float(value), f"BM25 of {_describe(plan)}: weight - weight / (1 + freq * factor)", (
            Explanation(float(plan.weight), "weight = boost * idf", (
                Explanation(float(plan.boost), "boost"),
                Explanation(float(plan.idf), f"idf of {statistics.doc_count} documents that have the field"))),
            Explanation(float(freq), "freq, occurrences in the document"),
            Explanation(float(plan.factors[norm]), "factor = 1 / (k1 * (1 - b + b * length / average))", (
                Explanation(float(bm25.K1), "k1"), Explanation(float(bm25.B), "b"),
                Explanation(float(length), "length of the field, to the precision of one byte"),
                Explanation(float(statistics.average_length), "average length")))))

    def _functions(self, plan: ScorePlan) -> Explanation | None:
        inner = self.explain(plan.plan)
        if inner is None:
            return None
        docs, scores = np.array([self._doc], np.uint32), np.array([inner.value], np.float32)
        applies = [each.filter is None or self._matches(each.filter) for each in plan.functions]
        score = functions.combined(plan, self._segment, docs, scores, [np.array([each]) for each in applies])[0]
        if plan.min_score is not None and score < np.float32(plan.min_score):
            return None
        details = [inner]
        for each, is_for in zip(plan.functions, applies, strict=True):
            if is_for:
                value = functions.value(each, self._segment, docs, scores)[0]
                weight = "" if each.weight == 1 else f", then times the weight {each.weight:g}"
                details.append(Explanation(float(value), _describe_function(each) + weight))
        limit = "" if plan.max_boost > _FLOAT32_MAX / 2 else f", at most {plan.max_boost:g}"
        details.append(Explanation(float(plan.boost), "boost"))
        made = f"the functions' {plan.score_mode}" if len(plan.functions) > 1 else "the function's"
        return Explanation(float(score), f"{plan.boost_mode} of the query's score and {made}{limit}, times boost",
                           tuple(details))

    def _bool(self, plan: BoolPlan) -> Explanation | None:
        must = [self.explain(clause) for clause in plan.must]
        should = [found for clause in plan.should if (found := self.explain(clause)) is not None]
        if (any(found is None for found in must) or len(should) < plan.minimum
                or any(self.explain(clause) is not None for clause in plan.must_not)
                or any(self.explain(clause) is None for clause in plan.filter)):
            return None
        required = [found for found in must if found is not None]
        sums = [np.float32(sum(np.float64(each.value) for each in group)) for group in (required, should)]
        value = np.float32(sums[0] + sums[1])
        details = [Explanation(float(total), f"sum of {name} clauses, rounded once", tuple(group))
                   for name, total, group in zip(("must", "should"), sums, (required, should), strict=True) if group]
        details += [Explanation(0.0, f"filter {_describe(clause)} matches, without a score") for clause in plan.filter]
        return Explanation(float(value), "sum of the clauses' scores", tuple(details))


_FLOAT32_MAX = float(np.finfo(np.float32).max)


def _describe_function(function: FunctionPlan) -> str:
    if function.scorer is not None:
        return f"scorer {function.scorer.name}({', '.join(('score', *function.fields))})"
    if function.field_value is not None:
        of = function.field_value
        return f"{of.modifier}({of.factor:g} * {of.field})"
    return "1"


def _describe(plan: Plan) -> str:
    match plan:
        case TermPlan():
            return f"{plan.field}:{plan.term.decode(errors='replace')}"
        case PhrasePlan():
            words = " ".join(term.decode(errors="replace") for term, _ in plan.terms)
            return f'{plan.field}:"{words}"' + (f"~{plan.slop}" if plan.slop else "")
        case AllPlan():
            return "every document"
        case NothingPlan():
            return "a clause that no document of the index matches"
    return type(plan).__name__.removesuffix("Plan").lower()

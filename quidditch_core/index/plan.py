"""From a query, which knows words, to a plan, which knows one view's terms, weights and codes.

Three stages have three words: a *query* is what was asked; a *plan* is bound to a view's mapping and statistics;
*executing* a plan visits one segment. Matching nothing is a plan too, so a misspelt field costs nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from .. import query as q
from ..analysis import get_analyzer
from ..errors import QueryError, nearest
from ..mapping import BadValue, FieldType
from . import bm25
from .columns import float_codes
from .ids import id_hash
from .view import View

if TYPE_CHECKING:
    from ..scoring import Scorer

ONE = np.float32(1)


class Plan(msgspec.Struct, frozen=True):
    """Base of all plans. Each says which documents match; those that score say how much."""


class NothingPlan(Plan, frozen=True):
    """No document."""


class AllPlan(Plan, frozen=True):
    """Every document, with one score."""

    score: np.float32 = ONE


class TermPlan(Plan, frozen=True, eq=False):
    """Documents that hold a term, scored by BM25; ``factors`` float32 [256] by norm."""

    field: str
    term: bytes
    boost: np.float32
    idf: np.float32
    factors: NDArray[np.float32]

    @property
    def weight(self) -> np.float32:
        return self.boost * self.idf


class PhrasePlan(Plan, frozen=True, eq=False):
    """Documents that hold terms at offsets (or near them), scored by BM25 on the phrase's frequency."""

    field: str
    terms: tuple[tuple[bytes, int], ...]
    slop: int
    boost: np.float32
    idf: np.float32
    factors: NDArray[np.float32]

    @property
    def weight(self) -> np.float32:
        return self.boost * self.idf


class TermsPlan(Plan, frozen=True):
    """Documents that hold any of some terms; one score."""

    field: str
    terms: tuple[bytes, ...]
    score: np.float32 = ONE


class TermRangePlan(Plan, frozen=True):
    """Documents with a term in [low, high); None does not bound. One score."""

    field: str
    low: bytes | None
    high: bytes | None
    score: np.float32 = ONE


class PrefixPlan(Plan, frozen=True):
    """Documents with a term that begins with ``prefix``; one score."""

    field: str
    prefix: bytes
    score: np.float32 = ONE


class CodesPlan(Plan, frozen=True):
    """Documents with a column code in any of some closed ranges; one score."""

    field: str
    ranges: tuple[tuple[int, int], ...]
    score: np.float32 = ONE


class ExistsPlan(Plan, frozen=True):
    """Documents that have any of some fields; one score."""

    fields: tuple[str, ...]
    score: np.float32 = ONE


class IdsPlan(Plan, frozen=True):
    """Documents with some ids (and their hashes); one score."""

    ids: tuple[tuple[bytes, int], ...]
    score: np.float32 = ONE


class ConstantPlan(Plan, frozen=True):
    """The documents of another plan, with one score."""

    plan: Plan
    score: np.float32 = ONE


class BoolPlan(Plan, frozen=True):
    """All of ``must`` and ``filter``, none of ``must_not``, at least ``minimum`` of ``should``."""

    must: tuple[Plan, ...] = ()
    should: tuple[Plan, ...] = ()
    must_not: tuple[Plan, ...] = ()
    filter: tuple[Plan, ...] = ()
    minimum: int = 0


class FunctionPlan(msgspec.Struct, frozen=True, eq=False):
    """One function of a score: ``scorer`` of ``fields``, or ``field_value`` of the only one, or 1; times ``weight``."""

    scorer: Scorer | None
    field_value: q.FieldValue | None
    fields: tuple[str, ...]
    weight: float
    filter: Plan | None
    path: str


class ScorePlan(Plan, frozen=True, eq=False):
    """The documents of another plan, scored by functions, then times ``boost``."""

    plan: Plan
    functions: tuple[FunctionPlan, ...]
    score_mode: str
    boost_mode: str
    max_boost: float
    min_score: float | None
    boost: np.float32
    path: str

    @property
    def bounded(self) -> Scorer | None:
        """The scorer that alone makes the score, if it says how great that can be."""
        function = self.functions[0]
        scorer = function.scorer
        if (scorer is None or scorer.upper_bound is None or len(self.functions) > 1 or self.boost_mode != "replace"
                or self.max_boost != math.inf or self.min_score is not None or function.filter is not None
                or function.weight != 1):
            return None
        return scorer


def plan(query: q.Query, view: View) -> Plan:
    """Bind ``query`` to ``view``. Raises QueryError where a value does not fit its field."""
    return _Planner(view).plan(query, ONE, "query")


class _Planner:
    def __init__(self, view: View) -> None:
        self._view = view
        self._words_planned = 0
        self._path = "query"  # JSON path of the query that is being planned, for errors

    def plan(self, query: q.Query, boost: np.float32, path: str) -> Plan:
        """The plan of ``query``, which stands at ``path`` of the body that it is or could be written as."""
        name = _NAMES.get(type(query))
        self._path = f"{path}.{name}" if name else path
        make = _MAKERS.get(type(query))
        if make is None:
            raise QueryError("not a query that this version can run", found=type(query).__name__,
                             expected="one of " + ", ".join(kind.__name__ for kind in _MAKERS))
        own = getattr(query, "boost", 1.0)
        return make(self, query, boost if own == 1.0 else boost * np.float32(own))

    # Terms

    def _field(self, name: str, *, searched: bool = True) -> FieldType | None:
        field = self._view.mapping.fields.get(name)
        if field is not None and searched and not field.index and not (field.is_numeric and field.doc_values):
            raise QueryError("the field is not indexed", path=f"{self._path}.{name}",
                             expected='a field without "index": false',
                             fix="search another field, or index this one under another name")
        return field

    def _native(self, field: FieldType, value: Any) -> Any:
        try:
            return field.parse(value)
        except BadValue as error:
            raise QueryError(f"not a value of this {field.type} field", path=f"{self._path}.{field.name}",
                             found=value, expected=error.expected) from None

    def _scored_term(self, field: str, term: bytes, boost: np.float32) -> Plan:
        plans = self._view.plans
        known: Plan | None = plans.get((field, term))
        if known is None:
            statistics = self._view.statistics(field)
            df = self._view.document_frequency(field, term)
            known = NothingPlan() if df == 0 else TermPlan(
                field, term, ONE, bm25.idf(df, statistics.doc_count), statistics.factors)
            if len(plans) < _CACHED_PLANS:
                plans[(field, term)] = known
        if boost is ONE or not isinstance(known, TermPlan):
            return known
        return TermPlan(field, term, boost, known.idf, known.factors)

    def _term(self, query: q.Term, boost: np.float32) -> Plan:
        field = self._field(query.field)
        if field is None:
            return NothingPlan()
        if field.is_numeric:
            return self._equal(field, (query.value,), boost)
        return self._scored_term(field.name, str(self._native(field, query.value)).encode(), boost)

    def _terms(self, query: q.Terms, boost: np.float32) -> Plan:
        field = self._field(query.field)
        if field is None or not query.values:
            return NothingPlan()
        if field.is_numeric:
            return self._equal(field, query.values, boost)
        terms = {str(self._native(field, value)).encode() for value in query.values}
        return TermsPlan(field.name, tuple(sorted(terms)), boost)

    def _equal(self, field: FieldType, values: Iterable[Any], boost: np.float32) -> Plan:
        ranges = []
        for value in values:
            interval = self._interval(field, {"gte": value, "lte": value})
            if interval is not None:
                ranges.append(interval)
        return CodesPlan(field.name, tuple(sorted(set(ranges))), boost) if ranges else NothingPlan()

    def _interval(self, field: FieldType, bounds: dict[str, Any]) -> tuple[int, int] | None:
        try:
            interval = field.interval(**bounds)
        except BadValue as error:
            given = {name: bound for name, bound in bounds.items() if bound is not None}
            raise QueryError(f"not a value of this {field.type} field", path=f"{self._path}.{field.name}",
                             found=next(iter(given.values()), None), expected=error.expected) from None
        if interval is None:
            return None
        if field.is_float:
            low, high = float_codes([interval[0], interval[1]]).tolist()
            return int(low), int(high)
        return int(interval[0]), int(interval[1])

    def _range(self, query: q.Range, boost: np.float32) -> Plan:
        field = self._field(query.field)
        if field is None:
            return NothingPlan()
        bounds = {name: getattr(query, name) for name in ("gt", "gte", "lt", "lte")}
        if all(bound is None for bound in bounds.values()):
            return ExistsPlan((field.name,), boost)
        if field.is_numeric:
            if query.format is not None:
                bounds["format"] = query.format
            interval = self._interval(field, bounds)
            return NothingPlan() if interval is None else CodesPlan(field.name, (interval,), boost)
        terms = {name: str(self._native(field, bound)).encode() for name, bound in bounds.items()
                 if bound is not None}
        # The least string after s is s + "\0", which turns every bound into a half-open one.
        low = terms.get("gte", terms["gt"] + b"\0" if "gt" in terms else None)
        high = terms.get("lt", terms["lte"] + b"\0" if "lte" in terms else None)
        return TermRangePlan(field.name, low, high, boost)

    def _prefix(self, query: q.Prefix, boost: np.float32) -> Plan:
        field = self._field(query.field)
        if field is None:
            return NothingPlan()
        if field.is_numeric:
            raise QueryError("prefix needs a text or keyword field", path=f"{self._path}.{field.name}",
                             found=field.type,
                             fix="use range")
        return PrefixPlan(field.name, query.value.encode(), boost)

    def _ids(self, query: q.Ids, boost: np.float32) -> Plan:
        ids = [value.encode() for value in dict.fromkeys(query.values)]
        return IdsPlan(tuple((id, id_hash(id)) for id in ids), boost) if ids else NothingPlan()

    def _exists(self, query: q.Exists, boost: np.float32) -> Plan:
        fields = self._view.mapping.fields
        if query.field in fields:
            return ExistsPlan((query.field,), boost)
        below = tuple(name for name in fields if name.startswith(query.field + "."))
        return ExistsPlan(below, boost) if below else NothingPlan()

    # Text

    def _words(self, field: FieldType, text: str) -> list[tuple[bytes, int]]:
        if not field.is_text:
            return [(str(self._native(field, text)).encode(), 0)]
        words = [(term.encode(), position) for term, position in _terms_of(field, text)]
        self._words_planned += len(words)
        if self._words_planned > q.MAX_CLAUSES:  # Lucene: IndexSearcher.TooManyClauses counts each word
            raise QueryError("the texts of the query have too many words", path=field.name,
                             found=self._words_planned, expected=f"at most {q.MAX_CLAUSES} in all",
                             fix="search for the words that matter")
        return words

    def _match(self, query: q.Match, boost: np.float32) -> Plan:
        field = self._field(query.field)
        if field is None:
            return NothingPlan()
        if field.is_numeric:
            return self._equal(field, (query.text,), boost)
        words = [word for word, _ in self._words(field, query.text)]
        required = query.operator == "and"
        minimum = _minimum(query.minimum_should_match, len(words), default=1)
        if len(words) == 1:  # OpenSearch: a minimum is of clauses, and one term is none
            return self._scored_term(field.name, words[0], boost)
        if not words or (not required and minimum > len(words)):
            return NothingPlan()
        minimum = max(1, minimum)
        name = field.name
        if (required or minimum <= 1) and len(set(words)) < len(words):
            clauses = tuple([self._scored_term(name, word, boost * np.float32(times))
                             for word, times in Counter(words).items()])
        else:
            clauses = tuple([self._scored_term(name, word, boost) for word in words])
        return BoolPlan(must=clauses) if required else BoolPlan(should=clauses, minimum=minimum)

    def _phrase(self, query: q.MatchPhrase, boost: np.float32) -> Plan:
        field = self._field(query.field)
        if field is None:
            return NothingPlan()
        if field.is_numeric:
            return self._equal(field, (query.text,), boost)
        words = self._words(field, query.text)
        if len(words) < 2:
            return self._scored_term(field.name, words[0][0], boost) if words else NothingPlan()
        statistics = self._view.statistics(field.name)
        frequencies = [self._view.document_frequency(field.name, word) for word, _ in words]
        if not all(frequencies):
            return NothingPlan()
        idf = np.float32(math.fsum(float(bm25.idf(df, statistics.doc_count)) for df in frequencies))
        first = words[0][1]
        terms = tuple((word, position - first) for word, position in words)
        return PhrasePlan(field.name, terms, query.slop, boost, idf, statistics.factors)

    # Boolean

    def _bool(self, query: q.Bool, boost: np.float32) -> Plan:
        if not (query.must or query.should or query.must_not or query.filter):
            return AllPlan(boost)
        minimum = _minimum(query.minimum_should_match, len(query.should),
                           default=0 if query.must or query.filter or not query.should else 1)
        if query.should and not query.must and not query.filter:
            minimum = max(1, minimum)
        path = f"{self._path}.bool"
        return BoolPlan(
            must=self._clauses(query.must, boost, f"{path}.must", merge=True),
            should=self._clauses(query.should, boost, f"{path}.should", merge=minimum <= 1),
            must_not=self._clauses(query.must_not, ONE, f"{path}.must_not", merge=False),
            filter=self._clauses(query.filter, ONE, f"{path}.filter", merge=False), minimum=minimum)

    def _constant(self, query: q.ConstantScore, boost: np.float32) -> Plan:
        return ConstantPlan(self.plan(query.filter, ONE, f"{self._path}.constant_score.filter"), boost)

    def _script_score(self, query: q.ScriptScore, boost: np.float32) -> Plan:
        path = f"{self._path}.script_score"
        inner = self.plan(query.query, ONE, f"{path}.query")
        function = self._function(q.Function(query.scorer), path)
        return ScorePlan(inner, (function,), "multiply", "replace", math.inf, query.min_score, boost, path)

    def _function_score(self, query: q.FunctionScore, boost: np.float32) -> Plan:
        path = f"{self._path}.function_score"
        inner = self.plan(query.query, boost, f"{path}.query")
        functions = tuple(self._function(each, f"{path}.functions[{i}]") for i, each in enumerate(query.functions))
        return ScorePlan(inner, functions, query.score_mode, query.boost_mode, query.max_boost, query.min_score, ONE,
                         path)

    def _function(self, function: q.Function, path: str) -> FunctionPlan:
        accept = None if function.filter is None else self.plan(function.filter, ONE, f"{path}.filter")
        if isinstance(function.value, q.FieldValue):
            path = f"{path}.field_value_factor"
            field = self._scoring_field(function.value.field, f"{path}.field", integer=False)
            return FunctionPlan(None, function.value, (field,), function.weight, accept, path)
        if function.value is None:
            return FunctionPlan(None, None, (), function.weight, accept, path)
        from ..scoring import scorer_named

        path = path if path.endswith("script_score") else f"{path}.script_score"
        scorer = scorer_named(function.value, f"{path}.script.source")
        fields = tuple(self._scoring_field(each.name, f"{path}.script.source", integer=each.integer)
                       for each in scorer.parameters)
        return FunctionPlan(scorer, None, fields, function.weight, accept, path)

    def _scoring_field(self, name: str, path: str, *, integer: bool) -> str:
        fields = self._view.mapping.fields
        field = fields.get(name) or fields.get(name.replace("__", "."))
        if field is None:
            known = {each.name for each in fields.values() if each.is_numeric and each.column}
            raise QueryError("no such field to score by", path=path, found=name, expected="a field of the mapping",
                             fix=nearest(name, known) if known else None)
        if not field.is_numeric or not field.column:
            raise QueryError("the field has no numbers to score by", path=path, found=f"{field.name}, {field.type}",
                             expected="a number, date or boolean with doc_values")
        if integer and field.is_float:
            raise QueryError("the field does not hold integers", path=path, found=f"{field.name}, {field.type}",
                             expected="an integer, date or boolean", fix=f"annotate the parameter {name} as a float")
        return field.name

    def _clauses(
        self, clauses: tuple[q.Query, ...], boost: np.float32, path: str, *, merge: bool,
    ) -> tuple[Plan, ...]:
        """Plans of clauses; with ``merge``, repeated terms become one whose boosts add (Lucene)."""
        plans: list[Plan] = []
        terms: dict[tuple[str, bytes], list[TermPlan]] = {}
        for number, clause in enumerate(clauses):
            at = f"{path}[{number}]"
            words_before = self._words_planned
            alone = self.plan(clause, ONE, at) if merge and isinstance(clause, _MAY_BE_TERM) else None
            if isinstance(alone, TermPlan):
                terms.setdefault((alone.field, alone.term), []).append(alone)
            else:
                self._words_planned = words_before
                plans.append(self.plan(clause, boost, at))
        for same in terms.values():
            first = same[0]
            total = np.float32(math.fsum(float(each.boost) for each in same))
            plans.append(TermPlan(first.field, first.term, boost * total, first.idf, first.factors))
        return tuple(plans)


_MAKERS: dict[type[q.Query], Callable[[_Planner, Any, np.float32], Plan]] = {
    q.MatchAll: lambda planner, query, boost: AllPlan(boost),
    q.MatchNone: lambda planner, query, boost: NothingPlan(),
    q.Match: _Planner._match,
    q.MatchPhrase: _Planner._phrase,
    q.Term: _Planner._term,
    q.Terms: _Planner._terms,
    q.Range: _Planner._range,
    q.Prefix: _Planner._prefix,
    q.Ids: _Planner._ids,
    q.Exists: _Planner._exists,
    q.Bool: _Planner._bool,
    q.ConstantScore: _Planner._constant,
    q.ScriptScore: _Planner._script_score,
    q.FunctionScore: _Planner._function_score,
}
_CACHED_PLANS = 16384
_MAY_BE_TERM = (q.Term, q.Match, q.MatchPhrase)
_NAMES: dict[type[q.Query], str] = {
    q.Match: "match", q.MatchPhrase: "match_phrase", q.Term: "term", q.Terms: "terms", q.Range: "range",
    q.Prefix: "prefix"}


def _terms_of(field: FieldType, text: str) -> list[tuple[str, int]]:
    return get_analyzer(field.search_analyzer or "standard").terms(text)


def _minimum(given: int | None, clauses: int, *, default: int) -> int:
    if given is None:
        return default
    return given if given >= 0 else max(0, clauses + given)

"""What to look for: frozen queries that compose with ``&``, ``|`` and ``~``.

Pure data. A query knows neither the mapping nor the index: ``dsl`` translates it from and to OpenSearch
bodies, the planner binds it to segments. Construction validates, so that a query which exists is well-formed
and within the limits below; what is wrong raises ``QueryError`` with ``Class.attribute`` as its path.

::

    Term("tag", "novel") & Match("body", "sea whale") & ~Exists("withdrawn")
    Prefix("isbn", "978") | Ids(["b1", "b2"])

Equality is that of the parts, as in Python: ``Term("n", 1) == Term("n", 1.0) == Term("n", True)``.
"""

from __future__ import annotations

import datetime
import math
import numbers
from collections.abc import Iterable
from typing import Any, TypeAlias

import msgspec

from quidditch_core.errors import QueryError

Value: TypeAlias = "str | int | float | bool"

MAX_CLAUSES = 1024
"""Leaf queries in one tree, as Lucene's IndexSearcher.maxClauseCount."""
MAX_DEPTH = 20
"""Nested queries, the leaf included."""
MAX_TERMS = 65_536
"""Values of one Terms or Ids query, as OpenSearch's index.max_terms_count."""

SCORE_MODES = ("multiply", "sum", "avg", "first", "max", "min")
BOOST_MODES = ("multiply", "replace", "sum", "avg", "max", "min")
MODIFIERS = ("none", "log", "log1p", "log2p", "ln", "ln1p", "ln2p", "square", "sqrt", "reciprocal")

_OPERATORS = frozenset({"or", "and"})
_FLOAT32_MAX = 3.4028234663852886e38
_INT32_MAX = 2**31 - 1
_DOUBLE_BITS = 1024


class Query(msgspec.Struct, frozen=True):
    """Base of all queries. ``a & b``: both; ``a | b``: at least one; ``~a``: all documents but those of a."""

    @property
    def children(self) -> tuple[Query, ...]:
        """The queries that this one holds."""
        return ()

    @property
    def depth(self) -> int:
        """Levels of nested queries, this one included."""
        return 1 + max((child.depth for child in self.children), default=0)

    @property
    def leaves(self) -> int:
        """Queries in this tree that hold no other."""
        return sum(child.leaves for child in self.children) or 1

    def __and__(self, other: Query) -> Bool:
        left, right = _conjunction(self), _conjunction(_operand(other, "&"))
        return Bool(
            must=left.must + right.must,
            must_not=left.must_not + right.must_not,
            filter=left.filter + right.filter,
        )

    def __or__(self, other: Query) -> Bool:
        return Bool(should=_alternatives(self) + _alternatives(_operand(other, "|")))

    def __invert__(self) -> Bool:
        return Bool(must_not=(self,))

    def __bool__(self) -> bool:
        # `a and b` would silently search for b alone.
        raise QueryError(
            "a query is neither true nor false",
            fix="combine queries with &, | and ~; test for None with 'is None'",
        )

    def __repr__(self) -> str:
        """As it would be written: attributes that have their default are left out."""
        parts = []
        for name, default in defaults(type(self)).items():
            value = getattr(self, name)
            if default is msgspec.NODEFAULT:
                parts.append(repr(value))
            elif value != default:
                parts.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(parts)})"


def defaults(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The attributes of a query class, and what each is if it is not given (``msgspec.NODEFAULT``: it must be)."""
    names, last = kind.__struct_fields__, kind.__struct_defaults__
    return dict(zip(names, (*[msgspec.NODEFAULT] * (len(names) - len(last)), *last), strict=True))


# Fields that are given by keyword stand in classes of their own, as msgspec wants it.


class _Boosted(Query, frozen=True, kw_only=True):
    boost: float = 1.0


class MatchAll(_Boosted, frozen=True):
    """Every document; each scores ``boost``."""


    def __post_init__(self) -> None:
        _set(self, "boost", _boost(self))


class MatchNone(Query, frozen=True):
    """No document."""


class _MatchOptions(_Boosted, frozen=True, kw_only=True):
    operator: str = "or"
    minimum_should_match: int | None = None


class Match(_MatchOptions, frozen=True):
    """Documents whose ``field`` holds the words of ``text``, which the field's search analyzer finds.

    ``operator``: ``or`` (any word) or ``and`` (all). ``minimum_should_match``: how many of the words at
    least; negative: how many may be missing. Numbers and booleans are taken as JSON writes them.
    """

    field: str
    text: str

    def __post_init__(self) -> None:
        if (_usual(self, self.text) and self.minimum_should_match is None
                and type(self.operator) is str and self.operator in _OPERATORS):
            return
        _check_field(self, self.field)
        _set(self, "text", _text(self, "text", self.text))
        if not isinstance(self.operator, str) or self.operator.lower() not in _OPERATORS:
            raise _wrong(self, "operator", "unknown operator", self.operator, "'or' or 'and'")
        _set(self, "operator", self.operator.lower())
        _check_minimum(self, self.minimum_should_match)
        _set(self, "boost", _boost(self))


class _MatchPhraseOptions(_Boosted, frozen=True, kw_only=True):
    slop: int = 0


class MatchPhrase(_MatchPhraseOptions, frozen=True):
    """Documents whose ``field`` holds the words of ``text`` in this order.

    ``slop``: how many positions the words may be moved in all (two to swap neighbours), as in Lucene.
    """

    field: str
    text: str

    def __post_init__(self) -> None:
        if _usual(self, self.text) and type(self.slop) is int and 0 <= self.slop <= _INT32_MAX:
            return
        _check_field(self, self.field)
        _set(self, "text", _text(self, "text", self.text))
        if not _is_int(self.slop) or not 0 <= self.slop <= _INT32_MAX:
            raise _wrong(self, "slop", "bad slop", self.slop, "an integer, 0 or more")
        _set(self, "boost", _boost(self))


class Term(_Boosted, frozen=True):
    """Documents whose ``field`` holds exactly ``value``, which is not analysed."""

    field: str
    value: Value

    def __post_init__(self) -> None:
        if _usual(self, self.value):
            return
        _check_field(self, self.field)
        if isinstance(self.value, (list, tuple, set, frozenset)):
            raise _wrong(self, "value", "a term is one value", self.value, "a scalar", "use terms instead")
        _set(self, "value", _scalar(self, "value", self.value))
        _set(self, "boost", _boost(self))


class Terms(_Boosted, frozen=True):
    """Documents whose ``field`` holds at least one of ``values``; each scores ``boost``."""

    field: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        _check_field(self, self.field)
        values = _listed(self, "values", self.values)
        _set(self, "values", tuple(_scalar(self, f"values[{i}]", value) for i, value in enumerate(values)))
        _set(self, "boost", _boost(self))


class _RangeOptions(_Boosted, frozen=True, kw_only=True):
    gt: Value | None = None
    gte: Value | None = None
    lt: Value | None = None
    lte: Value | None = None
    format: str | None = None


class Range(_RangeOptions, frozen=True):
    """Documents with a value of ``field`` between the bounds; without any bound, those that have the field.

    ``gt``/``lt`` exclude the bound, ``gte``/``lte`` include it. ``format``: how date bounds are written,
    where it is not the field's own format.
    """

    field: str

    def __post_init__(self) -> None:
        _check_field(self, self.field)
        for name in ("gt", "gte", "lt", "lte"):
            bound = getattr(self, name)
            if bound is not None:
                _set(self, name, _scalar(self, name, bound))
        for one, other in (("gt", "gte"), ("lt", "lte")):
            found = getattr(self, one)
            if found is not None and getattr(self, other) is not None:
                raise _wrong(self, one, f"both {one} and {other} are given", found, "one of the two")
        if self.format is not None:
            _check_string(self, "format", self.format)
        _set(self, "boost", _boost(self))


class Prefix(_Boosted, frozen=True):
    """Documents with a term in ``field`` that begins with ``value``, which is not analysed."""

    field: str
    value: str

    def __post_init__(self) -> None:
        _check_field(self, self.field)
        _set(self, "value", _text(self, "value", self.value))
        _set(self, "boost", _boost(self))


class Ids(_Boosted, frozen=True):
    """The documents with these ids, as far as they exist."""

    values: tuple[str, ...]

    def __post_init__(self) -> None:
        values = (self.values,) if isinstance(self.values, str) else _listed(self, "values", self.values)
        ids = []
        for i, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
                raise _wrong(self, f"values[{i}]", "not an id", value, "a string that is not empty")
            ids.append(_text(self, f"values[{i}]", value))
        _set(self, "values", tuple(ids))
        _set(self, "boost", _boost(self))


class Exists(_Boosted, frozen=True):
    """Documents that have a value in ``field``; an empty string is one."""

    field: str

    def __post_init__(self) -> None:
        _check_field(self, self.field)
        _set(self, "boost", _boost(self))


class _BoolOptions(_Boosted, frozen=True, kw_only=True):
    minimum_should_match: int | None = None


class Bool(_BoolOptions, frozen=True):
    """Documents that match all of ``must`` and ``filter``, none of ``must_not`` and enough of ``should``.

    ``must`` and ``should`` score; ``filter`` and ``must_not`` do not. ``minimum_should_match`` says how many
    should clauses are enough (default 0 beside must or filter, else 1; negative: how many may be missing).
    Without any clause it is MatchAll.
    """

    must: tuple[Query, ...] = ()
    should: tuple[Query, ...] = ()
    must_not: tuple[Query, ...] = ()
    filter: tuple[Query, ...] = ()

    def __post_init__(self) -> None:
        for name in ("must", "should", "must_not", "filter"):
            _set(self, name, _clauses(self, name, getattr(self, name)))
        _check_minimum(self, self.minimum_should_match)
        _set(self, "boost", _boost(self))
        _check_size(self)

    @property
    def children(self) -> tuple[Query, ...]:
        return self.must + self.should + self.must_not + self.filter


class ConstantScore(_Boosted, frozen=True):
    """The documents of ``filter``; each scores ``boost``."""

    filter: Query

    def __post_init__(self) -> None:
        if not isinstance(self.filter, Query):
            raise _not_a_query(self, "filter", self.filter)
        _set(self, "boost", _boost(self))
        _check_size(self)

    @property
    def children(self) -> tuple[Query, ...]:
        return (self.filter,)


class _FieldValueOptions(msgspec.Struct, frozen=True, kw_only=True):
    factor: float = 1.0
    modifier: str = "none"
    missing: float | None = None


class FieldValue(_FieldValueOptions, frozen=True):
    """A function of ``FunctionScore``: the (least) value of a numeric field, times ``factor``, then ``modifier``.

    ``modifier``: none, log, log1p, log2p (to base 10), ln, ln1p, ln2p, square, sqrt or reciprocal. ``missing``: the
    value of documents without one, which are an error without it.
    """

    field: str

    def __post_init__(self) -> None:
        _check_field(self, self.field)
        _set(self, "factor", _finite(self, "factor", self.factor))
        _set(self, "modifier", _choice(self, "modifier", self.modifier, MODIFIERS))
        if self.missing is not None:
            _set(self, "missing", _finite(self, "missing", self.missing))


class _FunctionOptions(msgspec.Struct, frozen=True, kw_only=True):
    weight: float = 1.0
    filter: Query | None = None


class Function(_FunctionOptions, frozen=True):
    """One function of ``FunctionScore``: a scorer (or its name) or a FieldValue (None: 1), times ``weight``.

    ``filter``: the documents that it is for.
    """

    value: str | FieldValue | None = None

    def __post_init__(self) -> None:
        if self.value is not None and not isinstance(self.value, FieldValue):
            _set(self, "value", _scorer(self, "value", self.value))
        _set(self, "weight", _finite(self, "weight", self.weight))
        if self.filter is not None and not isinstance(self.filter, Query):
            raise _not_a_query(self, "filter", self.filter)


class _ScriptScoreOptions(_Boosted, frozen=True, kw_only=True):
    min_score: float | None = None


class ScriptScore(_ScriptScoreOptions, frozen=True):
    """The documents of ``query``, scored by a function that ``@qc.scorer`` registered (or its name).

    Documents that score less than ``min_score`` do not match.
    """

    query: Query
    scorer: str

    def __post_init__(self) -> None:
        if not isinstance(self.query, Query):
            raise _not_a_query(self, "query", self.query)
        _set(self, "scorer", _scorer(self, "scorer", self.scorer))
        if self.min_score is not None:
            _set(self, "min_score", _finite(self, "min_score", self.min_score))
        _set(self, "boost", _boost(self))
        _check_size(self)

    @property
    def children(self) -> tuple[Query, ...]:
        return (self.query,)


class _FunctionScoreOptions(_Boosted, frozen=True, kw_only=True):
    score_mode: str = "multiply"
    boost_mode: str = "multiply"
    max_boost: float = _FLOAT32_MAX
    min_score: float | None = None


class FunctionScore(_FunctionScoreOptions, frozen=True):
    """The documents of ``query``, whose score is combined with ``functions``: scorers, FieldValues or Functions.

    ``score_mode`` makes one number of several functions (1 where none applies): multiply, sum, avg, first, max or min.
    ``boost_mode`` makes one score of that, at most ``max_boost``, and of the query's: multiply, replace, sum, avg, max
    or min. Documents that score less than ``min_score`` do not match.
    """

    query: Query
    functions: tuple[Function, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.query, Query):
            raise _not_a_query(self, "query", self.query)
        given: Any = self.functions
        listed = given if isinstance(given, (list, tuple)) else (given,)
        if not 1 <= len(listed) <= MAX_CLAUSES:
            raise _wrong(self, "functions", "not a number of functions", len(listed), f"1 to {MAX_CLAUSES}")
        functions = tuple(each if isinstance(each, Function) else Function(each) for each in listed)
        _set(self, "functions", functions)
        _set(self, "score_mode", _choice(self, "score_mode", self.score_mode, SCORE_MODES))
        _set(self, "boost_mode", _choice(self, "boost_mode", self.boost_mode, BOOST_MODES))
        _set(self, "max_boost", _finite(self, "max_boost", self.max_boost))
        if self.min_score is not None:
            _set(self, "min_score", _finite(self, "min_score", self.min_score))
        _set(self, "boost", _boost(self))
        _check_size(self)

    @property
    def children(self) -> tuple[Query, ...]:
        return (self.query, *(each.filter for each in self.functions if each.filter is not None))


# Composition. A Bool is taken apart only where its clauses mean and score the same one level up.


def _operand(query: Any, operator: str) -> Query:
    if not isinstance(query, Query):
        raise QueryError(
            f"the operand of {operator} is not a query", found=query, expected="a Query",
            fix="dsl.parse_query turns a dict into one" if isinstance(query, dict) else None,
        )
    return query


def _plain(query: Query) -> Bool | None:
    """The query as a Bool whose own boost and minimum_should_match change nothing, or None."""
    if isinstance(query, Bool) and query.boost == 1.0 and query.minimum_should_match is None:
        return query
    return None


def _conjunction(query: Query) -> Bool:
    plain = _plain(query)
    if plain is not None and not plain.should and (plain.must or plain.filter or plain.must_not):
        return plain
    return Bool(must=(query,))


def _alternatives(query: Query) -> tuple[Query, ...]:
    plain = _plain(query)
    if plain is not None and plain.should and not (plain.must or plain.filter or plain.must_not):
        return plain.should
    return (query,)


# Validation. Each check takes the query that is being built, so that the error can name it.


def _set(query: Any, name: str, value: Any) -> None:
    msgspec.structs.force_setattr(query, name, value)


def _wrong(
    query: Any, name: str, message: str, found: Any, expected: str, fix: str | None = None
) -> QueryError:
    return QueryError(message, path=f"{type(query).__name__}.{name}", found=found, expected=expected, fix=fix)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_string(query: Any, name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise _wrong(query, name, "not a string", value, "a string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise _wrong(
                query, name, "a lone surrogate is not text", value, "text that UTF-8 can hold",
                f"look at character {error.start}",
            ) from None


def _usual(query: Any, value: Any) -> bool:
    """Whether the field, a value, and the boost are as most are, and need no closer look."""
    field, boost = query.field, query.boost
    return (type(value) is str and value.isascii() and type(field) is str and field.isascii() and field != ""
            and type(boost) is float and 0.0 < boost <= _FLOAT32_MAX)


def _check_field(query: Any, name: Any) -> None:
    _check_string(query, "field", name)
    if not name:
        raise _wrong(query, "field", "no field name", name, "a string that is not empty")


def _scalar(query: Query, name: str, value: Any) -> Value:
    """The value as one of Python's own scalars: NumPy's numbers and dates are converted, NaN is refused."""
    if isinstance(value, str):
        _check_string(query, name, value)
        return str.__str__(value)  # not an enum's own name
    if isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        number = int(value)
        if number.bit_length() > _DOUBLE_BITS:
            found = f"{number.bit_length()} bits"
            raise _wrong(query, name, "the number is too large", found, f"at most {_DOUBLE_BITS} bits")
        return number
    if isinstance(value, numbers.Real):
        try:
            real = float(value)
        except OverflowError:
            real = math.inf
        if not math.isfinite(real):
            raise _wrong(query, name, "not a finite number", value, "a number that a float64 can hold")
        return real
    if isinstance(value, datetime.date):
        return value.isoformat()
    raise _wrong(query, name, "not a single value", value, "a string, number, boolean or date")


def _text(query: Query, name: str, value: Any) -> str:
    scalar = _scalar(query, name, value)
    if isinstance(scalar, bool):
        return "true" if scalar else "false"
    return str(scalar)


def _boost(query: Any) -> float:
    boost = query.boost
    real = isinstance(boost, numbers.Real) and not isinstance(boost, bool)
    if not real or not 0 <= boost <= _FLOAT32_MAX:
        raise _wrong(query, "boost", "bad boost", boost, "a finite float32, 0 or more")
    return float(boost) + 0.0  # no negative zero: it would sort below zero


def _finite(query: Any, name: str, value: Any) -> float:
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not -_FLOAT32_MAX <= value <= _FLOAT32_MAX:
        raise _wrong(query, name, "not a finite number", value, "a finite float32")
    return float(value)


def _choice(query: Any, name: str, value: Any, known: tuple[str, ...]) -> str:
    lower = value.lower() if isinstance(value, str) else value
    if not isinstance(lower, str) or lower not in known:
        raise _wrong(query, name, f"unknown {name}", value, " or ".join(known))
    return lower


def _scorer(query: Any, name: str, value: Any) -> str:
    """The name of a scorer, which is all that a query holds of it."""
    found = value if isinstance(value, (str, type)) else getattr(value, "name", None)
    if not isinstance(found, str) or not found:
        raise _wrong(query, name, "not a scorer", value, "a function that @qc.scorer registered, or its name")
    _check_string(query, name, found)
    return found


def _check_minimum(query: Query, value: Any) -> None:
    if value is not None and not (_is_int(value) and abs(value) <= _INT32_MAX):
        raise _wrong(query, "minimum_should_match", "not a count", value, "an integer or None")


def _listed(query: Query, name: str, values: Any) -> tuple[Any, ...]:
    if isinstance(values, (str, bytes, dict)) or not isinstance(values, Iterable):
        raise _wrong(query, name, "not a list", values, "a list of values")
    listed = tuple(values)
    if len(listed) > MAX_TERMS:
        raise _wrong(query, name, "too many values", len(listed), f"at most {MAX_TERMS}")
    return listed


def _not_a_query(query: Any, name: str, value: Any) -> QueryError:
    fix = "dsl.parse_query turns a dict into one" if isinstance(value, dict) else None
    return _wrong(query, name, "not a query", value, "a Query", fix)


def _clauses(query: Query, name: str, value: Any) -> tuple[Query, ...]:
    if isinstance(value, Query):
        return (value,)
    if not isinstance(value, (list, tuple)):
        raise _wrong(query, name, "not a list of queries", value, "a Query or a list of them")
    for i, clause in enumerate(value):
        if not isinstance(clause, Query):
            raise _not_a_query(query, f"{name}[{i}]", clause)
    return tuple(value)


def _check_size(query: Query) -> None:
    """Bounds at construction: nothing that walks a query can then run away."""
    depth = query.depth
    leaves = query.leaves
    if depth > MAX_DEPTH:
        raise QueryError("queries are nested too deep", found=depth, expected=f"at most {MAX_DEPTH} levels")
    if leaves > MAX_CLAUSES:
        raise QueryError(
            "too many clauses", found=leaves, expected=f"at most {MAX_CLAUSES}", fix="use terms or ids"
        )

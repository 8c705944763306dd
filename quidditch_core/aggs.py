"""What to sum up: frozen aggregations that nest.

Pure data, as queries are: ``dsl`` translates them from and to OpenSearch bodies, ``index.aggregate`` computes them.
Construction validates; what is wrong raises ``QueryError`` with ``Class.attribute`` as its path.

::

    index.search(aggs={"tags": Terms("tag", size=5, aggs={"price": Avg("price")}),
                       "months": DateHistogram("added", calendar_interval="month")})

Those that make buckets take ``aggs``, a dict of names and aggregations, which see the documents of one bucket each.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import re
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final, TypeAlias

from quidditch_core.dates import BadFormat, date_format, parse_offset
from quidditch_core.errors import QueryError, UnsupportedError
from quidditch_core.query import MAX_DEPTH, Query, Value

Named: TypeAlias = "tuple[tuple[str, Aggregation], ...]"

MAX_AGGS: Final = 1_024
"""Aggregations of one request."""
MAX_BUCKETS: Final = 65_535
"""Buckets of one answer, as OpenSearch's search.max_buckets."""
CALENDAR: Final = {
    "minute": "minute", "1m": "minute", "hour": "hour", "1h": "hour", "day": "day", "1d": "day", "week": "week",
    "1w": "week", "month": "month", "1M": "month", "quarter": "quarter", "1q": "quarter", "year": "year", "1y": "year",
}
_UNITS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_INT32_MAX: Final = 2**31 - 1
_INT64_MAX: Final = 2**63 - 1


def milliseconds(text: str) -> int | None:
    """The length of ``90m``, ``12h``, ``-1d``, in ms; None where it is not of this form."""
    match = re.fullmatch(r"([+-]?[0-9]{1,15})(ms|[smhd])", text)
    return int(match[1]) * _UNITS[match[2]] if match else None


class Aggregation:
    """Base of all aggregations."""

    __slots__ = ()

    @property
    def inner(self) -> Named:
        """The names and aggregations inside of this one."""
        return getattr(self, "aggs", ())

    def __repr__(self) -> str:
        """As it would be written: attributes that have their default are left out."""
        parts = []
        for attribute in dataclasses.fields(self):  # type: ignore[arg-type]  # every aggregation is a dataclass
            value = getattr(self, attribute.name)
            if attribute.name == "aggs":
                value = dict(value)
            if attribute.default is dataclasses.MISSING:
                parts.append(repr(value))
            elif value != attribute.default and value != {}:
                parts.append(f"{attribute.name}={value!r}")
        return f"{type(self).__name__}({', '.join(parts)})"


# Buckets ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class Terms(Aggregation):
    """A bucket for each of the ``size`` values of ``field`` that most documents have.

    ``order``: ``{"_count": "desc"}``, ``_key``, or a metric inside of this (``"price"``, ``"stats.max"``), one or a
    list; ties are in the order of keys. ``min_doc_count``: buckets with fewer are left out; 0 shows also values that no
    document found has. ``missing``: the value that documents without one count for. All counts are exact.
    """

    field: str
    _: KW_ONLY
    size: int = 10
    order: tuple[tuple[str, str], ...] = (("_count", "desc"),)
    min_doc_count: int = 1
    missing: Value | None = None
    aggs: Named = ()

    def __post_init__(self) -> None:
        _check_field(self)
        _check_integer(self, "size", 1)
        _check_integer(self, "min_doc_count", 0)
        _check_missing(self)
        _set_aggs(self)
        _set_order(self)


@dataclass(frozen=True, slots=True, repr=False)
class Histogram(Aggregation):
    """Buckets of equal width for the values of a numeric ``field``, each with its least value as key.

    Empty buckets between others are shown unless ``min_doc_count`` is 1 or more; ``extended_bounds`` (least, greatest)
    shows them beyond. ``offset`` moves all keys; ``keyed`` answers with a dict; ``order`` as of Terms.
    """

    field: str
    interval: float
    _: KW_ONLY
    offset: float = 0.0
    min_doc_count: int = 0
    missing: Value | None = None
    keyed: bool = False
    order: tuple[tuple[str, str], ...] = (("_key", "asc"),)
    extended_bounds: tuple[Value, Value] | None = None
    aggs: Named = ()

    def __post_init__(self) -> None:
        _check_field(self)
        for name in ("interval", "offset"):
            _set(self, name, _real(self, name))
        if self.interval <= 0:
            raise _wrong(self, "interval", "not an interval", self.interval, "a number above 0")
        _check_integer(self, "min_doc_count", 0)
        _check_missing(self)
        _check_boolean(self, "keyed")
        _set_bounds(self)
        if self.extended_bounds is not None:
            for bound in self.extended_bounds:
                if isinstance(bound, bool | str):
                    raise _wrong(self, "extended_bounds", "not a number", bound, "two numbers")
        _set_aggs(self)
        _set_order(self)


@dataclass(frozen=True, slots=True, repr=False)
class DateHistogram(Aggregation):
    """Buckets of time for a date ``field``, each with its first moment (ms since 1970) as key.

    Either ``calendar_interval`` (minute, hour, day, week, month, quarter, year) or ``fixed_interval`` (``90m``,
    ``30d``). ``time_zone``: an offset such as ``+01:00``, on whose clock buckets begin. ``offset``: a length such as
    ``+6h`` by which they begin later. ``format``: how ``key_as_string`` is written. The rest as of Histogram.
    """

    field: str
    _: KW_ONLY
    calendar_interval: str | None = None
    fixed_interval: str | None = None
    time_zone: str | None = None
    offset: str = "0ms"
    format: str | None = None
    min_doc_count: int = 0
    missing: Value | None = None
    keyed: bool = False
    order: tuple[tuple[str, str], ...] = (("_key", "asc"),)
    extended_bounds: tuple[Value, Value] | None = None
    aggs: Named = ()

    def __post_init__(self) -> None:
        _check_field(self)
        if (self.calendar_interval is None) == (self.fixed_interval is None):
            raise QueryError("not one interval", path="DateHistogram", found=self.calendar_interval or "none",
                             expected="either calendar_interval or fixed_interval")
        if self.calendar_interval is not None and self.calendar_interval not in CALENDAR:
            raise _wrong(self, "calendar_interval", "not a unit of the calendar", self.calendar_interval,
                         "one of " + ", ".join(dict.fromkeys(CALENDAR.values())), "fixed_interval takes any length")
        if self.fixed_interval is not None:
            _check_string(self, "fixed_interval")
            if not 0 < (milliseconds(self.fixed_interval) or 0) <= _INT64_MAX:
                raise _wrong(self, "fixed_interval", "not a length of time", self.fixed_interval,
                             "a number above 0 and ms, s, m, h or d, such as 12h",
                             "calendar_interval takes weeks, months, quarters and years")
        if self.time_zone is not None:
            _check_string(self, "time_zone")
            if parse_offset(self.time_zone) is None:
                raise UnsupportedError("a time zone by name is not supported by this version",
                                       path="DateHistogram.time_zone", found=self.time_zone,
                                       fix="supported: UTC and offsets such as +01:00")
        _check_string(self, "offset")
        length = milliseconds(self.offset)
        if length is None or abs(length) > _INT64_MAX:
            raise _wrong(self, "offset", "not a length of time", self.offset, "a length such as +6h or -30m")
        _check_format(self)
        _check_integer(self, "min_doc_count", 0)
        _check_missing(self)
        _check_boolean(self, "keyed")
        _set_bounds(self)
        _set_aggs(self)
        _set_order(self)


@dataclass(frozen=True, slots=True)
class Bounds:
    """One bucket of Range or DateRange: values from ``from_`` to below ``to``; None does not bound."""

    from_: Value | None = None
    to: Value | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Range(Aggregation):
    """A bucket for each of some ranges of a numeric ``field``; they may overlap.

    ``ranges``: Bounds, pairs such as ``(None, 10)``, or OpenSearch's ``{"from": 10, "to": 20, "key": "cheap"}``.
    """

    field: str
    ranges: tuple[Bounds, ...]
    _: KW_ONLY
    keyed: bool = False
    aggs: Named = ()

    def __post_init__(self) -> None:
        _check_field(self)
        _set_ranges(self, dates=False)
        _check_boolean(self, "keyed")
        _set_aggs(self)


@dataclass(frozen=True, slots=True, repr=False)
class DateRange(Aggregation):
    """A bucket for each of some ranges of a date ``field``. Bounds may be date math: ``now-7d/d``.

    ``format``: how bounds are read and written, where it is not the field's own.
    """

    field: str
    ranges: tuple[Bounds, ...]
    _: KW_ONLY
    format: str | None = None
    keyed: bool = False
    aggs: Named = ()

    def __post_init__(self) -> None:
        _check_field(self)
        _set_ranges(self, dates=True)
        _check_format(self)
        _check_boolean(self, "keyed")
        _set_aggs(self)


@dataclass(frozen=True, slots=True, repr=False)
class Filter(Aggregation):
    """One bucket: the documents that ``filter``, a query, finds."""

    filter: Query
    _: KW_ONLY
    aggs: Named = ()

    def __post_init__(self) -> None:
        _check_query(self, "filter", self.filter)
        _set_aggs(self)


@dataclass(frozen=True, slots=True, repr=False)
class Filters(Aggregation):
    """A bucket for each of some queries: a dict of names, or a list. ``other_bucket_key`` adds one for all the rest."""

    filters: tuple[tuple[str | None, Query], ...]
    _: KW_ONLY
    other_bucket_key: str | None = None
    aggs: Named = ()

    def __post_init__(self) -> None:
        given: Any = self.filters
        entries: list[tuple[str | None, Any]]
        if isinstance(given, Mapping):
            entries = list(given.items())
        elif isinstance(given, tuple) and all(isinstance(each, tuple) and len(each) == 2 for each in given):
            entries = list(given)
        elif isinstance(given, list | tuple):
            entries = [(None, each) for each in given]
        else:
            raise _wrong(self, "filters", "not queries", given, "a dict of queries, or a list of them")
        if not entries or len(entries) > MAX_AGGS:
            raise _wrong(self, "filters", "too few or too many queries", len(entries), f"1 to {MAX_AGGS}")
        for number, (name, query) in enumerate(entries):
            _check_query(self, f"filters[{number}]" if name is None else f"filters.{name}", query)
            if name is not None:
                _check_name(self, "filters", name)
        _set(self, "filters", tuple(entries))
        if self.other_bucket_key is not None:
            _check_string(self, "other_bucket_key")
        _set_aggs(self)


@dataclass(frozen=True, slots=True, repr=False)
class Missing(Aggregation):
    """One bucket: the documents without a value in ``field``."""

    field: str
    _: KW_ONLY
    aggs: Named = ()

    def __post_init__(self) -> None:
        _check_field(self)
        _set_aggs(self)


# Metrics ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class Metric(Aggregation):
    """Base of the metrics, which look at all values of ``field``.

    ``missing``: the value that documents without one count for.
    """

    field: str
    _: KW_ONLY
    missing: Value | None = None

    def __post_init__(self) -> None:
        _check_field(self)
        _check_missing(self)


@dataclass(frozen=True, slots=True, repr=False)
class Min(Metric):
    """The least value of a numeric field."""


@dataclass(frozen=True, slots=True, repr=False)
class Max(Metric):
    """The greatest value of a numeric field."""


@dataclass(frozen=True, slots=True, repr=False)
class Sum(Metric):
    """The sum of the values of a numeric field."""


@dataclass(frozen=True, slots=True, repr=False)
class Avg(Metric):
    """The mean of the values of a numeric field."""


@dataclass(frozen=True, slots=True, repr=False)
class Stats(Metric):
    """Number, least, greatest, mean and sum of the values of a numeric field."""


@dataclass(frozen=True, slots=True, repr=False)
class ValueCount(Metric):
    """How many values there are."""


@dataclass(frozen=True, slots=True, repr=False)
class Cardinality(Metric):
    """How many different values there are, exactly. It takes memory for each of them."""


@dataclass(frozen=True, slots=True, repr=False)
class Percentiles(Metric):
    """The values below which ``percents`` of all values lie, exactly; between two values, in proportion.

    It takes eight bytes of memory for each value. ``keyed`` False answers with a list.
    """

    percents: tuple[float, ...] = (1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0)
    keyed: bool = True

    def __post_init__(self) -> None:
        _check_field(self)
        _check_missing(self)
        _check_boolean(self, "keyed")
        given: Any = self.percents
        if not isinstance(given, list | tuple) or not 1 <= len(given) <= MAX_AGGS:
            raise _wrong(self, "percents", "not percentages", given, "a list of numbers from 0 to 100")
        for percent in given:
            if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= 100:
                raise _wrong(self, "percents", "not a percentage", percent, "a number from 0 to 100")
        _set(self, "percents", tuple(float(percent) for percent in given))


# Validation -------------------------------------------------------------------------------------------------


def named(value: Any, path: str = "aggs") -> Named:
    """A dict of names and aggregations as pairs, checked: names, depth and number."""
    entries = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(entries, list | tuple) or not all(isinstance(each, tuple) and len(each) == 2 for each in entries):
        raise QueryError("not aggregations", path=path, found=value, expected="a dict of names and aggregations")
    for name, agg in entries:
        if not isinstance(name, str) or not name or any(letter in "[]>" for letter in name):
            raise QueryError("not a name of an aggregation", path=path, found=name,
                             expected="a string that is not empty, without [, ] and >")
        if not isinstance(agg, Aggregation):
            raise QueryError("not an aggregation", path=f"{path}.{name}", found=agg, expected="an Aggregation",
                             fix="dsl.parse_aggs turns a dict into one" if isinstance(agg, dict) else None)
    pairs = tuple((name, agg) for name, agg in entries)
    total = 0
    for _, agg in pairs:
        total += 1 + _count(agg.inner)
        if total > MAX_AGGS:
            raise QueryError("too many aggregations", path=path, expected=f"at most {MAX_AGGS} in all")
    if _depth(pairs) > MAX_DEPTH:
        raise QueryError("aggregations are nested too deep", path=path, expected=f"at most {MAX_DEPTH} levels")
    return pairs


def _depth(pairs: Named) -> int:
    return max((1 + _depth(agg.inner) for _, agg in pairs), default=0)


def _count(pairs: Named) -> int:
    return sum(1 + _count(agg.inner) for _, agg in pairs)


def _set(agg: Aggregation, name: str, value: Any) -> None:
    object.__setattr__(agg, name, value)


def _wrong(
    agg: Aggregation, name: str, message: str, found: Any, expected: str, fix: str | None = None,
) -> QueryError:
    return QueryError(message, path=f"{type(agg).__name__}.{name}", found=found, expected=expected, fix=fix)


def _check_string(agg: Aggregation, name: str) -> None:
    value = getattr(agg, name)
    if not isinstance(value, str):
        raise _wrong(agg, name, "not a string", value, "a string")


def _check_field(agg: Any) -> None:
    _check_string(agg, "field")
    if not agg.field:
        raise _wrong(agg, "field", "no field name", agg.field, "a string that is not empty")


def _check_integer(agg: Aggregation, name: str, least: int) -> None:
    value = getattr(agg, name)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _INT32_MAX:
        raise _wrong(agg, name, "not a count", value, f"an integer, {least} or more")


def _check_boolean(agg: Aggregation, name: str) -> None:
    value = getattr(agg, name)
    if not isinstance(value, bool):
        raise _wrong(agg, name, "not a boolean", value, "true or false")


def _real(agg: Aggregation, name: str) -> float:
    value = getattr(agg, name)
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise _wrong(agg, name, "not a number", value, "a finite number")
    return float(value) + 0.0


def _check_missing(agg: Any) -> None:
    if agg.missing is not None and not isinstance(agg.missing, str | int | float | bool):
        raise _wrong(agg, "missing", "bad missing value", agg.missing, "a value of the field")


def _check_format(agg: Any) -> None:
    if agg.format is None:
        return
    _check_string(agg, "format")
    try:
        date_format(agg.format)
    except BadFormat as error:
        raise _wrong(agg, "format", "not a date format", agg.format, "a date format", str(error)) from None


def _check_query(agg: Aggregation, name: str, query: Any) -> None:
    if not isinstance(query, Query):
        raise _wrong(agg, name, "not a query", query, "a Query",
                     "dsl.parse_query turns a dict into one" if isinstance(query, dict) else None)


def _check_name(agg: Aggregation, name: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise _wrong(agg, name, "not a name", value, "a string that is not empty")


def _set_aggs(agg: Any) -> None:
    _set(agg, "aggs", named(agg.aggs, f"{type(agg).__name__}.aggs"))


def _set_order(agg: Any) -> None:
    given: Any = agg.order
    if isinstance(given, Mapping):
        given = [given]
    if not isinstance(given, list | tuple) or not given:
        raise _wrong(agg, "order", "not an order", given, 'an order such as {"_count": "desc"}, or a list of them')
    keys: list[tuple[str, str]] = []
    for entry in given:
        if isinstance(entry, Mapping) and len(entry) == 1:
            entry = next(iter(entry.items()))
        if not isinstance(entry, tuple) or len(entry) != 2 or not all(isinstance(part, str) for part in entry):
            raise _wrong(agg, "order", "not an order", entry, 'an order such as {"_count": "desc"}')
        key, direction = entry[0], entry[1].lower()
        if direction not in ("asc", "desc"):
            raise _wrong(agg, "order", "not a direction", entry[1], "asc or desc")
        if key not in ("_count", "_key"):
            _check_metric(agg, key)
        keys.append((key, direction))
    _set(agg, "order", tuple(keys))


VALUES_OF: Final[dict[type[Aggregation], tuple[str, ...]]] = {
    Min: ("value",), Max: ("value",), Sum: ("value",), Avg: ("value",), ValueCount: ("value",),
    Cardinality: ("value",), Stats: ("count", "min", "max", "avg", "sum"),
}
"""What buckets can be ordered by: metric -> the numbers in its answer."""


def _check_metric(agg: Any, key: str) -> None:
    """An order names a metric inside of the aggregation, and which of its numbers."""
    name, _, value = key.partition(".")
    metric = dict(agg.aggs).get(name)
    known = VALUES_OF.get(type(metric)) if metric is not None else None
    if known is None or (value or "value") not in known:
        metrics = [each for each, inside in agg.aggs if type(inside) in VALUES_OF]
        raise _wrong(agg, "order", "nothing to order by", key, "_count, _key or a metric inside of this",
                     "use one of " + ", ".join(metrics) if metrics else None)


def _set_bounds(agg: Any) -> None:
    given: Any = agg.extended_bounds
    if given is None:
        return
    if isinstance(given, Mapping):
        if set(given) != {"min", "max"}:
            raise _wrong(agg, "extended_bounds", "not two bounds", given, '{"min": ..., "max": ...}')
        given = (given["min"], given["max"])
    if not isinstance(given, list | tuple) or len(given) != 2:
        raise _wrong(agg, "extended_bounds", "not two bounds", given, "the least and the greatest")
    for bound in given:
        if not isinstance(bound, str | int | float) or (isinstance(bound, float) and not math.isfinite(bound)):
            raise _wrong(agg, "extended_bounds", "not a bound", bound, "a number or a date")
    _set(agg, "extended_bounds", tuple(given))


def _set_ranges(agg: Any, *, dates: bool) -> None:
    given: Any = agg.ranges
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise _wrong(agg, "ranges", "not a list", given, "a list of ranges")
    ranges = []
    for number, entry in enumerate(given):
        at = f"ranges[{number}]"
        if number >= MAX_AGGS:
            raise _wrong(agg, "ranges", "too many ranges", number + 1, f"at most {MAX_AGGS}")
        if isinstance(entry, Mapping):
            unknown = set(entry) - {"from", "to", "key"}
            if unknown:
                raise _wrong(agg, at, "unknown key of a range", sorted(map(str, unknown))[0], "from, to and key")
            entry = Bounds(entry.get("from"), entry.get("to"), entry.get("key"))
        elif isinstance(entry, list | tuple) and len(entry) == 2:
            entry = Bounds(*entry)
        if not isinstance(entry, Bounds):
            raise _wrong(agg, at, "not a range", entry, '{"from": ..., "to": ..., "key": ...}')
        for name, bound in (("from", entry.from_), ("to", entry.to)):
            number_ = isinstance(bound, int | float) and not isinstance(bound, bool) and math.isfinite(bound)
            if bound is not None and not number_ and not (dates and isinstance(bound, str)):
                raise _wrong(agg, f"{at}.{name}", "not a bound", bound, "a date" if dates else "a finite number")
        if entry.key is not None and not isinstance(entry.key, str):
            raise _wrong(agg, f"{at}.key", "not a string", entry.key, "a string")
        ranges.append(entry)
    if not ranges:
        raise _wrong(agg, "ranges", "no ranges", given, "at least one")
    _set(agg, "ranges", tuple(ranges))

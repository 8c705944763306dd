"""From matching documents to the answer of aggregations.

All segments take each level together: what is in a bucket is counted in every segment and added up by key, the buckets
of the answer are chosen, and only their documents go on to the aggregations inside. So every count is exact, and
nothing is summed up for buckets that are not shown (save what they are ordered by).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import aggs as a
from ..dates import DateFormat, date_format
from ..errors import QueryError, UnsupportedError
from ..mapping import BadValue, FieldType
from ..query import Query
from ..segment import Segment, bit_count, full_bitmap
from . import columns
from .buckets import (
    Clock,
    Counted,
    IntervalKeys,
    Ints,
    Keys,
    Lookup,
    NumberIntervals,
    NumberKeys,
    Scope,
    TermKeys,
    TimeIntervals,
    values_of,
)
from .columns import Bitmap
from .execute import bitmap
from .plan import AllPlan, Plan, plan
from .view import View

Answer = dict[str, Any]


def aggregate(aggs: a.Named, matching: Plan, view: View) -> tuple[Answer, int]:
    """The answer to ``aggs`` about the live documents that match, and how many these are."""
    nodes = [_bind(name, agg, view, f"aggs.{name}") for name, agg in aggs]
    scopes = []
    for leaf in view.leaves:
        docs = None if isinstance(matching, AllPlan) else bitmap(matching, leaf.segment)
        if leaf.live is not None:
            docs = leaf.live if docs is None else docs & leaf.live
        scopes.append(Scope(leaf.segment, docs))
    [answer] = _Run().answers(nodes, scopes, 1)
    return answer, sum(int(scope.per_bucket(1)[0]) for scope in scopes)


# --- binding -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Node:
    """An aggregation bound to the mapping; ``field`` is None where the mapping has none of this name."""

    name: str
    agg: a.Aggregation
    path: str
    field: FieldType | None
    inner: list[_Node]
    missing: Any = None  # as a code, or a string for keywords
    bitmaps: list[Callable[[Segment], Bitmap]] = dataclasses.field(default_factory=list)
    labels: list[Answer] = dataclasses.field(default_factory=list)  # what the bucket of each bitmap is called
    form: DateFormat | None = None


_NAMES: dict[type[a.Aggregation], str] = {
    a.Terms: "terms", a.Histogram: "histogram", a.DateHistogram: "date_histogram", a.Range: "range",
    a.DateRange: "date_range", a.Filter: "filter", a.Filters: "filters", a.Missing: "missing", a.Min: "min",
    a.Max: "max", a.Sum: "sum", a.Avg: "avg", a.Stats: "stats", a.ValueCount: "value_count",
    a.Cardinality: "cardinality", a.Percentiles: "percentiles",
}
_OF_ANY = (a.Terms, a.Missing, a.ValueCount, a.Cardinality)
_OF_DATES = (a.DateHistogram, a.DateRange)


def _bind(name: str, agg: a.Aggregation, view: View, path: str) -> _Node:
    at = f"{path}.{_NAMES[type(agg)]}"
    found = _field_of(agg, view, at)
    inner = [_bind(each, inside, view, f"{path}.aggs.{each}") for each, inside in agg.inner]
    node = _Node(name, agg, at, found, inner)
    missing = getattr(agg, "missing", None)
    if missing is not None:
        if found is None:
            raise QueryError("missing needs a field of the mapping", path=f"{at}.missing", found=missing)
        node.missing = _missing_code(found, missing, f"{at}.missing")
    if found is not None and found.type == "date":
        node.form = date_format(getattr(agg, "format", None) or found.format)
    match agg:
        case a.Filter():
            node.bitmaps, node.labels = [_matches(agg.filter, view, at)], [{}]
        case a.Filters():
            for number, (key, query) in enumerate(agg.filters):
                place = f"{at}.filters[{number}]" if key is None else f"{at}.filters.{key}"
                node.bitmaps.append(_matches(query, view, place))
                node.labels.append({"key": key})
            if agg.other_bucket_key is not None:
                node.bitmaps.append(_others(list(node.bitmaps)))
                node.labels.append({"key": None if agg.filters[0][0] is None else agg.other_bucket_key})
        case a.Missing():
            node.bitmaps, node.labels = [lambda segment: ~columns.exists(segment, agg.field)], [{}]
        case a.Range() | a.DateRange():
            _bind_ranges(node, agg)
        case a.DateHistogram():
            _check_zone(node, agg)
    return node


def _field_of(agg: a.Aggregation, view: View, at: str) -> FieldType | None:
    name = getattr(agg, "field", None)
    found = view.mapping.fields.get(name) if name is not None else None
    if found is None or isinstance(agg, a.Missing):
        return found
    path = f"{at}.field"
    if not found.column:
        raise QueryError("the field has no column to aggregate", path=path, found=found.type,
                         expected="a keyword, number, date or boolean with doc_values",
                         fix="use a keyword sub-field" if found.is_text else "index it with doc_values")
    if isinstance(agg, _OF_DATES) and found.type != "date":
        raise QueryError(f"{name} is no date field", path=path, found=found.type, expected="a date field",
                         fix="use histogram or range")
    if not isinstance(agg, _OF_ANY) and not found.is_numeric:
        raise QueryError(f"{name} has no numbers", path=path, found=found.type, expected="a number, date or boolean")
    return found


def _missing_code(found: FieldType, value: Any, path: str) -> Any:
    try:
        native = found.parse(value)
    except BadValue as error:
        raise QueryError("the value for missing does not fit the field", path=path, found=value,
                         expected=error.expected) from None
    return int(columns.float_codes(native)) if found.is_float else native


def _matches(query: Query, view: View, at: str) -> Callable[[Segment], Bitmap]:
    try:
        bound = plan(query, view)
    except QueryError as error:
        path = at + (error.path or "").removeprefix("query")
        raise QueryError(error.message, path=path, found=error.found, expected=error.expected, fix=error.fix) from None
    return lambda segment: bitmap(bound, segment)


def _others(bitmaps: list[Callable[[Segment], Bitmap]]) -> Callable[[Segment], Bitmap]:
    def rest(segment: Segment) -> Bitmap:
        found = full_bitmap(segment.docs)
        for each in bitmaps:
            found = found & ~each(segment)
        return found
    return rest


def _bind_ranges(node: _Node, agg: a.Range | a.DateRange) -> None:
    rows = []
    for number, one in enumerate(agg.ranges):
        low, high = (None if bound is None else _bound(node, bound, f"{node.path}.ranges[{number}].{side}")
                     for side, bound in (("from", one.from_), ("to", one.to)))
        ends: list[str] = []
        shown: Answer = {}
        for side, end in (("from", low), ("to", high)):
            text = "*" if end is None else _java(end)
            if end is not None:
                shown[side] = end
                if isinstance(agg, a.DateRange) and node.form is not None:
                    text = shown[f"{side}_as_string"] = node.form.print(int(end))
            ends.append(text)
        label = {"key": "-".join(ends) if one.key is None else one.key, **shown}
        codes = None
        if node.field is not None:
            if isinstance(agg, a.DateRange):
                codes = node.field.interval(gte=_date(low), lt=_date(high), format="epoch_millis")
            else:
                codes = node.field.interval(gte=low, lt=high)
        rows.append((-np.inf if low is None else low, np.inf if high is None else high, label, codes))
    rows.sort(key=lambda row: row[:2])
    for _, _, label, codes in rows:
        node.labels.append(label)
        node.bitmaps.append(_inside(node.field, codes))


def _date(bound: float | None) -> int | None:
    return None if bound is None else int(bound)


def _bound(node: _Node, value: Any, path: str) -> float:
    agg = node.agg
    if isinstance(agg, a.Range):
        return float(value)
    if node.field is None:
        return float(value) if not isinstance(value, str) else 0.0
    try:
        return float(node.field.parse(value, format=agg.format))  # type: ignore[attr-defined]
    except BadValue as error:
        raise QueryError("not a date", path=path, found=value, expected=error.expected) from None


def _inside(found: FieldType | None, interval: tuple[int | float, int | float] | None) -> Callable[[Segment], Bitmap]:
    if found is None or interval is None:
        return lambda segment: np.zeros(segment.docs // 64 + 1, np.uint64)
    low, high = columns.float_codes(interval).tolist() if found.is_float else interval
    return lambda segment: columns.in_range(segment, found.name, int(low), int(high))


def _java(number: float) -> str:
    """A float64 as Java writes it, which OpenSearch does in keys of ranges."""
    if number == 0 or 1e-3 <= abs(number) < 1e7 or not np.isfinite(number):
        return np.format_float_positional(number, trim="0") if np.isfinite(number) else str(number)
    digits, exponent = np.format_float_scientific(number, trim="0").split("e")
    return f"{digits}E{int(exponent)}"


def _check_zone(node: _Node, agg: a.DateHistogram) -> None:
    if node.form is None or not Clock(agg).zone:
        return
    if re.search(r"Z$|\+0000", node.form.print(0)) and not node.form.spec.startswith("strict_date_optional_time"):
        raise UnsupportedError("a time zone is not supported with this format by this version",
                               path=f"{node.path}.format", found=node.form.spec,
                               fix="supported: strict_date_optional_time, and formats without a zone")


# --- running -----------------------------------------------------------------------------------------------


class _Buckets(NamedTuple):
    """Buckets of an answer in its order: which bucket of the level above each is in, its key, its documents."""

    above: Ints
    keys: Ints
    counts: Ints


class _Run:
    """One request: how many buckets its answer has so far."""

    def __init__(self) -> None:
        self._made = 0

    def answers(self, nodes: Sequence[_Node], scopes: list[Scope], size: int) -> list[Answer]:
        """The answers to some aggregations, for each of ``size`` buckets of the level above."""
        found: list[Answer] = [{} for _ in range(size)]
        for node in nodes:
            for answer, part in zip(found, self._answers(node, scopes, size), strict=True):
                answer[node.name] = part
        return found

    def _answers(self, node: _Node, scopes: list[Scope], size: int) -> list[Answer]:
        match node.agg:
            case a.Terms():
                return self._terms(node, node.agg, scopes, size)
            case a.Histogram() | a.DateHistogram():
                return self._intervals(node, node.agg, scopes, size)
            case a.Filter() | a.Missing():
                return [bucket for [bucket] in self._by_bitmaps(node, scopes, size)]
            case a.Filters() | a.Range() | a.DateRange():
                return [_shown(node, buckets) for buckets in self._by_bitmaps(node, scopes, size)]
        return _metric(node, scopes, size)

    def _make(self, node: _Node, buckets: int) -> None:
        self._made += buckets
        if self._made > a.MAX_BUCKETS:
            raise QueryError("the answer has too many buckets", path=node.path, found=self._made,
                             expected=f"at most {a.MAX_BUCKETS} in all",
                             fix="ask for wider intervals, a smaller size, or fewer documents")

    # Buckets that are bitmaps

    def _by_bitmaps(self, node: _Node, scopes: list[Scope], size: int) -> list[list[Answer]]:
        """The buckets of each bucket above."""
        number = len(node.bitmaps)
        self._make(node, number * size)
        if all(scope.whole for scope in scopes) and size == 1:
            row = []
            for make, label in zip(node.bitmaps, node.labels, strict=True):
                parts = []
                for scope in scopes:
                    matching = make(scope.segment) & scope.documents
                    parts.append(Scope(scope.segment, matching))
                count = sum(int(part.per_bucket(1)[0]) for part in parts)
                inside = self.answers(node.inner, parts, 1)[0] if node.inner else {}
                row.append({**label, "doc_count": count, **inside})
            return [row]
        counts = np.zeros(size * number, np.int64)
        below = []
        for scope in scopes:
            docs, buckets = scope.pairs
            chosen = []
            for at, make in enumerate(node.bitmaps):
                inside_ = columns.has(make(scope.segment), docs)
                chosen.append((docs[inside_], buckets[inside_] * number + at))
            pairs = np.concatenate([each for each, _ in chosen]), np.concatenate([each for _, each in chosen])
            counts += np.bincount(pairs[1], minlength=counts.size)
            below.append(Scope(scope.segment, pairs=pairs))
        inner = self.answers(node.inner, below, counts.size) if node.inner else [{}] * counts.size
        rows: list[list[Answer]] = []
        for above in range(size):
            rows.append([{**label, "doc_count": int(counts[above * number + at]), **inner[above * number + at]}
                         for at, label in enumerate(node.labels)])
        return rows

    # Buckets that are keys

    def _terms(self, node: _Node, agg: a.Terms, scopes: list[Scope], size: int) -> list[Answer]:
        keys: Keys | None = None
        if node.field is None:
            found = _NOTHING
        else:
            keys = (TermKeys if node.field.is_keyword else NumberKeys)(node.field, node.missing, *(
                [scopes] if node.field.is_keyword else []))
            found = keys.counted(scopes, everything=agg.min_doc_count == 0)
            if agg.min_doc_count == 0:
                found = _everywhere(found, size, node)
            elif agg.min_doc_count > 1:
                found = _only(found, found.counts >= agg.min_doc_count)
        totals = np.bincount(found.buckets, found.counts, size).astype(np.int64)
        chosen = self._ordered(node, agg.order, keys, scopes, found, size, agg.size)
        self._make(node, chosen.keys.size)
        shown = np.bincount(chosen.above, chosen.counts, size).astype(np.int64)
        label = _label(node, keys)
        buckets = self._filled(node, keys, scopes, chosen, [label(key) for key in chosen.keys.tolist()], size)
        return [{"doc_count_error_upper_bound": 0, "sum_other_doc_count": rest, "buckets": buckets[above]}
                for above, rest in enumerate((totals - shown).tolist())]

    def _intervals(
        self, node: _Node, agg: a.Histogram | a.DateHistogram, scopes: list[Scope], size: int,
    ) -> list[Answer]:
        if node.field is None:
            return [{"buckets": {} if agg.keyed else []} for _ in range(size)]
        keys: IntervalKeys = (NumberIntervals(node.field, node.missing, agg) if isinstance(agg, a.Histogram)
                              else TimeIntervals(node.field, node.missing, agg))
        found = keys.counted(scopes)
        if agg.min_doc_count == 0:
            found = self._gaps_filled(node, found, size, _bounds(node, agg, keys))
        elif agg.min_doc_count > 1:
            found = _only(found, found.counts >= agg.min_doc_count)
        self._make(node, found.keys.size)
        chosen = self._ordered(node, agg.order, keys, scopes, found, size, found.keys.size)
        labels = self._interval_labels(node, agg, keys.start_of(chosen.keys).tolist())
        buckets = self._filled(node, keys, scopes, chosen, labels, size)
        if agg.keyed:
            return [{"buckets": {str(bucket.get("key_as_string", bucket["key"])): bucket for bucket in row}}
                    for row in buckets]
        return [{"buckets": row} for row in buckets]

    def _interval_labels(self, node: _Node, agg: a.Histogram | a.DateHistogram, starts: list[Any]) -> list[Answer]:
        if isinstance(agg, a.DateHistogram):
            show = _moment_printer(node, agg)
            return [{"key_as_string": show(start), "key": start} for start in starts]
        if node.form is not None:
            return [{"key_as_string": node.form.print(int(start)), "key": start} for start in starts]
        return [{"key": start} for start in starts]

    def _gaps_filled(self, node: _Node, found: Counted, size: int, bounds: tuple[int, int] | None) -> Counted:
        """With the empty buckets between others, and out to ``bounds``."""
        firsts = np.full(size, 2**62 if bounds is None else bounds[0], np.int64)
        lasts = np.full(size, -(2**62) if bounds is None else bounds[1], np.int64)
        np.minimum.at(firsts, found.buckets, found.keys)
        np.maximum.at(lasts, found.buckets, found.keys)
        counts = [max(0, last - first + 1) for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True)]
        if self._made + sum(counts) > a.MAX_BUCKETS:
            self._make(node, sum(counts))
        above = np.repeat(np.arange(size), counts)
        begins = np.cumsum([0, *counts])[:-1]
        keys = np.arange(above.size) - begins[above] + firsts[above]
        filled = np.zeros(above.size, np.int64)
        filled[begins[found.buckets] + found.keys - firsts[found.buckets]] = found.counts
        return Counted(above, keys, filled)

    def _ordered(
        self, node: _Node, order: tuple[tuple[str, str], ...], keys: Keys | None, scopes: list[Scope], found: Counted,
        size: int, limit: int,
    ) -> _Buckets:
        """The first ``limit`` buckets of each bucket above, in order."""
        if size == 1 and order[0] == ("_count", "desc") and found.keys.size > 4 * limit:
            least = np.partition(found.counts, found.counts.size - limit)[found.counts.size - limit]
            found = _only(found, found.counts >= least)
        columns_: list[NDArray[Any]] = [found.keys]
        for key, direction in reversed(order):
            descending = direction == "desc"
            if key == "_key":
                columns_.append(~found.keys if descending else found.keys)
            elif key == "_count":
                columns_.append(-found.counts if descending else found.counts)
            else:
                assert keys is not None or not found.keys.size
                values = self._metric_of(node, key, keys, scopes, found)
                columns_ += [-values if descending else values, np.isnan(values)]
        at = np.lexsort([*columns_, found.buckets])
        above = found.buckets[at]
        begins = np.searchsorted(above, np.arange(size))
        at = at[np.arange(at.size) - begins[above] < limit]
        return _Buckets(found.buckets[at], found.keys[at], found.counts[at])

    def _metric_of(
        self, node: _Node, key: str, keys: Keys | None, scopes: list[Scope], found: Counted,
    ) -> NDArray[np.float64]:
        """What buckets are ordered by: a number of a metric inside of them; nan where there is none."""
        name, _, value = key.partition(".")
        metric = next(inside for inside in node.inner if inside.name == name)
        if keys is None:
            return np.zeros(0)
        answers = _metric(metric, _below(keys, scopes, _Buckets(*found)), found.keys.size)
        numbers = [answer[value or "value"] for answer in answers]
        return np.array([np.nan if number is None else number for number in numbers], np.float64)

    def _filled(
        self, node: _Node, keys: Keys | None, scopes: list[Scope], chosen: _Buckets, labels: list[Answer], size: int,
    ) -> list[list[Answer]]:
        """The buckets of each bucket above, with what is inside of them."""
        inner: list[Answer] = [{}] * len(labels)
        if node.inner and labels and keys is not None:
            inner = self.answers(node.inner, _below(keys, scopes, chosen), len(labels))
        rows: list[list[Answer]] = [[] for _ in range(size)]
        for above, label, count, inside in zip(chosen.above.tolist(), labels, chosen.counts.tolist(), inner,
                                               strict=True):
            rows[above].append({**label, "doc_count": count, **inside})
        return rows


_NOTHING = Counted(*(np.zeros(0, np.int64) for _ in range(3)))


def _below(keys: Keys, scopes: list[Scope], chosen: _Buckets) -> list[Scope]:
    """The documents of the chosen buckets, each with the place of its bucket among them."""
    different = np.unique(chosen.keys)
    rank = Lookup(different)
    place = Lookup(chosen.above * max(1, different.size) + rank(chosen.keys))
    below = []
    for scope in scopes:
        docs, buckets, found = keys.assigned(scope)
        ranks = rank(found)
        at = np.where(ranks >= 0, place(buckets * max(1, different.size) + ranks), -1)
        kept = at >= 0
        below.append(Scope(scope.segment, pairs=(docs[kept], at[kept])))
    return below


def _only(found: Counted, kept: NDArray[np.bool_]) -> Counted:
    return Counted(found.buckets[kept], found.keys[kept], found.counts[kept])


def _everywhere(found: Counted, size: int, node: _Node) -> Counted:
    """Every key in every bucket above, with counts of 0."""
    keys = np.unique(found.keys)
    if keys.size * size > _MOST_EMPTY:
        raise QueryError("too many empty buckets", path=f"{node.path}.min_doc_count", found=keys.size * size,
                         expected=f"at most {_MOST_EMPTY}", fix="ask for min_doc_count 1")
    counts = np.zeros(keys.size * size, np.int64)
    np.add.at(counts, found.buckets * keys.size + np.searchsorted(keys, found.keys), found.counts)
    return Counted(np.repeat(np.arange(size), keys.size), np.tile(keys, size), counts)


_MOST_EMPTY = 1 << 24


def _bounds(node: _Node, agg: a.Histogram | a.DateHistogram, keys: IntervalKeys) -> tuple[int, int] | None:
    """The keys of extended_bounds."""
    if agg.extended_bounds is None:
        return None
    assert node.field is not None
    if isinstance(keys, NumberIntervals):
        low, high = keys.key_of_number(np.array(agg.extended_bounds, np.float64)).tolist()
    else:
        moments = []
        for side, bound in zip(("min", "max"), agg.extended_bounds, strict=True):
            try:
                moments.append(int(node.field.parse(bound, format=getattr(agg, "format", None))))
            except BadValue as error:
                raise QueryError("not a date", path=f"{node.path}.extended_bounds.{side}", found=bound,
                                 expected=error.expected) from None
        low, high = keys.key_of(np.array(moments, np.int64)).tolist()
    if low > high:
        raise QueryError("the bounds are the wrong way round", path=f"{node.path}.extended_bounds",
                         found=agg.extended_bounds, expected="the least, then the greatest")
    return low, high


def _shown(node: _Node, buckets: list[Answer]) -> Answer:
    """Buckets as a list, or under their keys."""
    keyed = node.labels[0].get("key") is not None if isinstance(node.agg, a.Filters) else node.agg.keyed  # type: ignore[attr-defined]
    if keyed:
        return {"buckets": {bucket.pop("key"): bucket for bucket in buckets}}
    if isinstance(node.agg, a.Filters):
        for bucket in buckets:
            bucket.pop("key")
    return {"buckets": buckets}


def _label(node: _Node, keys: Keys | None) -> Callable[[int], Answer]:
    """How a bucket of terms is called."""
    if isinstance(keys, TermKeys):
        term = keys.term
        return lambda key: {"key": term(key)}
    found = node.field
    if found is not None and found.is_float:
        return lambda key: {"key": float(columns.code_floats([key])[0])}
    if found is not None and found.type == "boolean":
        return lambda key: {"key": key, "key_as_string": "true" if key else "false"}
    form = node.form
    if form is not None:
        return lambda key: {"key": key, "key_as_string": form.print(key)}
    return lambda key: {"key": key}


def _moment_printer(node: _Node, agg: a.DateHistogram) -> Callable[[int], str]:
    assert node.form is not None
    form, zone = node.form, Clock(agg).zone
    first = form.spec.partition("||")[0].strip()
    if not zone or first in ("epoch_millis", "epoch_second"):
        return form.print
    if first != "strict_date_optional_time":
        return lambda moment: form.print(moment + zone)
    minutes = abs(zone) // 60_000
    name = f"{'-' if zone < 0 else '+'}{minutes // 60:02d}:{minutes % 60:02d}"
    return lambda moment: form.print(moment + zone).removesuffix("Z") + name


# --- metrics -----------------------------------------------------------------------------------------------


class _Numbers(NamedTuple):
    """For each bucket: how many values, the least, the greatest, and their sum."""

    counts: Ints
    least: NDArray[np.float64]
    most: NDArray[np.float64]
    sums: NDArray[np.float64]


def _metric(node: _Node, scopes: list[Scope], size: int) -> list[Answer]:
    agg = node.agg
    if isinstance(agg, a.ValueCount):
        return [{"value": count} for count in _value_counts(node, scopes, size).tolist()]
    if isinstance(agg, a.Cardinality):
        return [{"value": count} for count in _different(node, scopes, size).tolist()]
    if isinstance(agg, a.Percentiles):
        return _percentiles(node, agg, scopes, size)
    numbers = _numbers(node, scopes, size)
    show = _number_printer(node)
    answers = []
    for count, least, most, total in zip(*(column.tolist() for column in numbers), strict=True):
        known: Answer = {"count": count, "min": least if count else None, "max": most if count else None,
                         "avg": total / count if count else None, "sum": total}
        if isinstance(agg, a.Stats):
            if show is not None and count:
                known |= {f"{name}_as_string": show(known[name]) for name in ("min", "max", "avg", "sum")}
            answers.append(known)
        else:
            value = known[_NAMES[type(agg)]]
            answers.append({"value": value})
            if show is not None and value is not None and count:
                answers[-1]["value_as_string"] = show(value)
    return answers


def _number_printer(node: _Node) -> Callable[[float], str] | None:
    if node.field is None:
        return None
    if node.field.type == "boolean":
        return lambda value: "true" if int(value) else "false"
    form = node.form
    return None if form is None else lambda value: form.print(int(value))


def _code(node: _Node) -> int | None:
    """The code that documents without a value count for; that of a keyword is of no matter but to cardinality."""
    return -1 if isinstance(node.missing, str) else node.missing


def _value_counts(node: _Node, scopes: list[Scope], size: int) -> Ints:
    counts = np.zeros(size, np.int64)
    for scope in scopes if node.field is not None else ():
        assert node.field is not None
        if scope.whole and size == 1 and node.missing is None:
            column = columns.column(scope.segment, node.field.name)
            if column is not None:
                rows = column.rows(scope.bitmap)
                counts[0] += column.size if rows is None else bit_count(rows)
        else:
            counts += np.bincount(values_of(scope, node.field.name, _code(node)).buckets, minlength=size)
    return counts


def _different(node: _Node, scopes: list[Scope], size: int) -> Ints:
    if node.field is None:
        return np.zeros(size, np.int64)
    keys = TermKeys(node.field, node.missing, scopes) if node.field.is_keyword else NumberKeys(node.field, node.missing)
    return np.bincount(keys.counted(scopes).buckets, minlength=size)


def _numbers(node: _Node, scopes: list[Scope], size: int) -> _Numbers:
    found = _Numbers(np.zeros(size, np.int64), np.full(size, np.inf), np.full(size, -np.inf), np.zeros(size))
    if node.field is None:
        return found
    for scope in scopes:
        column = columns.column(scope.segment, node.field.name)
        if scope.whole and size == 1 and (node.missing is None or (column is not None and column.everywhere)):
            if column is None:
                continue
            part = _summary(node, column, scope.bitmap)
            if part.size:
                least, most = _floats(node.field, np.array([part.least, part.most], np.int64)).tolist()
                found.counts[0] += part.size
                found.least[0], found.most[0] = min(found.least[0], least), max(found.most[0], most)
                found.sums[0] += part.sum
            continue
        values = values_of(scope, node.field.name, node.missing)
        numbers = _floats(node.field, values.codes)
        np.add(found.counts, np.bincount(values.buckets, minlength=size), out=found.counts)
        np.minimum.at(found.least, values.buckets, numbers)
        np.maximum.at(found.most, values.buckets, numbers)
        np.add(found.sums, np.bincount(values.buckets, numbers, size), out=found.sums)
    return found


def _summary(node: _Node, column: columns.Column, docs: Bitmap | None) -> columns.Summary:
    if docs is None and isinstance(node.agg, a.Min | a.Max):  # the granules know
        least, most = column.bounds
        return columns.Summary(1, int(least.min()), int(most.max()), 0.0)
    return columns.summary(column, docs)


def _floats(found: FieldType, codes: Ints) -> NDArray[np.float64]:
    return columns.code_floats(codes) if found.is_float else codes.astype(np.float64)


def _percentiles(node: _Node, agg: a.Percentiles, scopes: list[Scope], size: int) -> list[Answer]:
    parts = []
    if node.field is not None:
        parts = [values_of(scope, node.field.name, node.missing) for scope in scopes]
    buckets = np.concatenate([part.buckets for part in parts]) if parts else np.zeros(0, np.int64)
    codes = np.concatenate([part.codes for part in parts]) if parts else np.zeros(0, np.int64)
    order = np.argsort(codes) if size == 1 else np.lexsort((codes, buckets))
    codes = codes[order]
    counts = np.bincount(buckets, minlength=size)
    ends = np.cumsum(counts)
    show = _number_printer(node)
    answers: list[Answer] = []
    for count, end in zip(counts.tolist(), ends.tolist(), strict=True):
        values: list[float | None] = [None] * len(agg.percents)
        if count:
            assert node.field is not None
            places = np.array(agg.percents) / 100 * (count - 1)
            below = np.floor(places).astype(np.int64)
            above = np.minimum(below + 1, count - 1)
            low, high = (_floats(node.field, codes[end - count + at]) for at in (below, above))
            values = (low + (high - low) * (places - below)).tolist()
        shown: list[Answer] = [{"key": percent, "value": value}
                               for percent, value in zip(agg.percents, values, strict=True)]
        if show is not None and count:
            for each in shown:
                each["value_as_string"] = show(each["value"])
        if not agg.keyed:
            answers.append({"values": shown})
            continue
        flat: Answer = {}
        for each in shown:
            flat[_java(each["key"])] = each["value"]
            if "value_as_string" in each:
                flat[f"{_java(each['key'])}_as_string"] = each["value_as_string"]
        answers.append({"values": flat})
    return answers

"""The aggregations of a request: OpenSearch's objects <-> dataclasses of ``aggs``. Half of ``dsl``, imported late."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from quidditch_core import aggs as a
from quidditch_core.dsl import (
    _ALWAYS,
    _boolean,
    _build,
    _check_keys,
    _check_string_keys,
    _dict,
    _join,
    _numbered,
    _only_entry,
    _required,
    _rest,
    _unsupported,
    parse_query,
    query_to_dict,
)
from quidditch_core.errors import QueryError, nearest
from quidditch_core.query import MAX_DEPTH


@dataclass(frozen=True, slots=True)
class _AggForm:
    """``{name: {key: value, ...}}``, whose keys are attributes; those ``without_effect`` change no exact answer."""

    type: Callable[..., a.Aggregation]
    keys: tuple[str, ...]
    later: tuple[str, ...] = ()
    without_effect: tuple[str, ...] = ()


_METRIC, _LATER_METRIC = ("field", "missing"), ("script", "format", "value_type")
_HISTOGRAM = ("field", "offset", "min_doc_count", "missing", "keyed", "order", "extended_bounds")
_AGGS: dict[str, _AggForm] = {
    "terms": _AggForm(
        a.Terms, ("field", "size", "order", "min_doc_count", "missing"),
        ("include", "exclude", "script", "format", "value_type", "show_term_doc_count_error"),
        ("shard_size", "shard_min_doc_count", "execution_hint", "collect_mode"),
    ),
    "histogram": _AggForm(a.Histogram, (*_HISTOGRAM, "interval"), ("hard_bounds", "script", "format")),
    "date_histogram": _AggForm(
        a.DateHistogram, (*_HISTOGRAM, "calendar_interval", "fixed_interval", "time_zone", "format"),
        ("interval", "hard_bounds", "script"),
    ),
    "range": _AggForm(a.Range, ("field", "ranges", "keyed"), ("script", "missing", "format")),
    "date_range": _AggForm(a.DateRange, ("field", "ranges", "format", "keyed"), ("time_zone", "missing", "script")),
    "missing": _AggForm(a.Missing, ("field",)),
    "min": _AggForm(a.Min, _METRIC, _LATER_METRIC),
    "max": _AggForm(a.Max, _METRIC, _LATER_METRIC),
    "sum": _AggForm(a.Sum, _METRIC, _LATER_METRIC),
    "avg": _AggForm(a.Avg, _METRIC, _LATER_METRIC),
    "stats": _AggForm(a.Stats, _METRIC, _LATER_METRIC),
    "value_count": _AggForm(a.ValueCount, _METRIC, _LATER_METRIC),
    "cardinality": _AggForm(
        a.Cardinality, _METRIC, ("script", "rehash"), ("precision_threshold", "execution_hint")
    ),
    "percentiles": _AggForm(
        a.Percentiles, (*_METRIC, "percents", "keyed"), ("script", "format"), ("tdigest", "hdr", "compression")
    ),
}  # fmt: skip
_AGG_NAMES = tuple(sorted((*_AGGS, "filter", "filters")))
_LATER_AGGS = frozenset({
    "adjacency_matrix", "auto_date_histogram", "avg_bucket", "bucket_count_thresholds", "bucket_script",
    "bucket_selector", "bucket_sort", "children", "composite", "cumulative_sum", "derivative",
    "diversified_sampler", "extended_stats", "extended_stats_bucket", "geo_bounds", "geo_centroid",
    "geo_distance", "geohash_grid", "geohex_grid", "geotile_grid", "global", "ip_range", "matrix_stats",
    "max_bucket", "median_absolute_deviation", "min_bucket", "moving_avg", "moving_fn", "multi_terms", "nested",
    "parent", "percentile_ranks", "percentiles_bucket", "rare_terms", "reverse_nested", "sampler",
    "scripted_metric", "serial_diff", "significant_terms", "significant_text", "stats_bucket", "sum_bucket",
    "top_hits", "variable_width_histogram", "weighted_avg",
})  # fmt: skip


def parse(body: Any, path: str) -> a.Named:
    """The aggregations that OpenSearch's object of names means; an Aggregation is taken as it is, at any depth.

    ``path`` begins the JSON path of errors. Raises QueryError, UnsupportedError.
    """
    return a.named(_AggParser().parse(body, path, 1), path)


class _AggParser:
    """One walk over one object. It counts aggregations: dicts that share parts can mean millions of them."""

    def __init__(self) -> None:
        self.parsed = 0

    def parse(self, body: Any, path: str, depth: int) -> dict[str, a.Aggregation]:
        _dict(body, path, 'names and aggregations such as {"tags": {"terms": {"field": "tag"}}}')
        _check_string_keys(body, path)
        if depth > MAX_DEPTH:
            raise QueryError("aggregations are nested too deep", path=path, expected=f"at most {MAX_DEPTH} levels")
        return {name: self._one(content, _join(path, name), depth) for name, content in body.items()}

    def _one(self, content: Any, at: str, depth: int) -> a.Aggregation:
        self.parsed += 1
        if self.parsed > a.MAX_AGGS:
            raise QueryError("too many aggregations", path=at, expected=f"at most {a.MAX_AGGS} in all")
        if isinstance(content, a.Aggregation):
            return content
        _dict(content, at, 'an aggregation such as {"terms": {"field": "tag"}}')
        inside = [name for name in ("aggs", "aggregations") if name in content]
        if len(inside) > 1:
            raise QueryError("both aggs and aggregations are given", path=at, expected="one of them")
        if "meta" in content:
            raise _unsupported("meta", _join(at, "meta"), ("aggs",))
        name, spec = _only_entry(
            _rest(content, *inside), at, "aggregation", '{"terms": {"field": "tag"}}', "give each a name"
        )
        here = _join(at, name)
        if name not in _AGG_NAMES:
            if name in _LATER_AGGS:
                raise _unsupported(f"the {name} aggregation", here, _AGG_NAMES)
            raise QueryError("unknown aggregation", path=here, found=name, fix=nearest(name, _AGG_NAMES))
        given = self._spec(name, spec, here)
        for key in inside:
            if name in _AGGS and issubclass(_AGGS[name].type, a.Metric):  # type: ignore[arg-type]
                fix = "put it beside the metric"
                raise QueryError("a metric holds no aggregations", path=_join(at, key), fix=fix)
            given["aggs"] = self.parse(content[key], _join(at, key), depth + 1)
        names = {"aggs": inside[0]} if inside else {}
        make: Callable[..., a.Aggregation] = a.Filter if name == "filter" else a.Filters
        return _build(_AGGS[name].type if name in _AGGS else make, here, names, **given)

    def _spec(self, name: str, spec: Any, at: str) -> dict[str, Any]:
        """The attributes that a specification gives."""
        if name == "filter":
            return {"filter": parse_query(spec, at)}
        _dict(spec, at, '{"field": "name"}' if name != "filters" else '{"filters": {"name": {...}}}')
        if name == "filters":
            return _filters(spec, at)
        form = _AGGS[name]
        _check_keys(
            _rest(spec, *form.without_effect), at, f"{name} aggregation", form.keys, dict.fromkeys(form.later, _ALWAYS)
        )
        required = {"histogram": ("field", "interval"), "range": ("field", "ranges"), "date_range": ("field", "ranges")}
        for key in required.get(name, ("field",)):
            _required(spec, at, key)
        return {key: value for key, value in spec.items() if key in form.keys}


def _filters(spec: dict[str, Any], at: str) -> dict[str, Any]:
    _check_keys(spec, at, "filters aggregation", ("filters", "other_bucket", "other_bucket_key"), {})
    content = _required(spec, at, "filters")
    at_filters = _join(at, "filters")
    given: dict[str, Any] = {}
    if isinstance(content, dict):
        _check_string_keys(content, at_filters)
        given["filters"] = {name: parse_query(body, _join(at_filters, name)) for name, body in content.items()}
    else:
        given["filters"] = [parse_query(body, place) for body, place in _numbered(content, at_filters)]
    if "other_bucket_key" in spec:
        given["other_bucket_key"] = spec["other_bucket_key"]
    if "other_bucket" in spec:
        _boolean(spec["other_bucket"], _join(at, "other_bucket"))
        if spec["other_bucket"]:
            given.setdefault("other_bucket_key", "_other_")
    return given


def to_dict(aggs: a.Named) -> dict[str, Any]:
    """OpenSearch's object that means ``aggs``, in its shortest form; ``parse`` gives them back."""
    return {name: _agg_to_dict(agg) for name, agg in aggs}


def _agg_to_dict(agg: a.Aggregation) -> dict[str, Any]:
    inside = {"aggs": to_dict(agg.inner)} if agg.inner else {}
    if isinstance(agg, a.Filter):
        return {"filter": query_to_dict(agg.filter), **inside}
    if isinstance(agg, a.Filters):
        queries = [(name, query_to_dict(query)) for name, query in agg.filters]
        content: Any = [body for _, body in queries] if queries[0][0] is None else dict(queries)
        other = {} if agg.other_bucket_key is None else {"other_bucket_key": agg.other_bucket_key}
        return {"filters": {"filters": content, **other}, **inside}
    name = next(name for name, form in _AGGS.items() if form.type is type(agg))
    body: dict[str, Any] = {}
    for attribute in dataclasses.fields(agg):  # type: ignore[arg-type]  # every aggregation is a dataclass
        value = getattr(agg, attribute.name)
        if attribute.name != "aggs" and value != attribute.default:
            body[attribute.name] = _agg_value(attribute.name, value)
    return {name: body, **inside}


def _agg_value(name: str, value: Any) -> Any:
    match name:
        case "order":
            keys = [{key: direction} for key, direction in value]
            return keys[0] if len(keys) == 1 else keys
        case "extended_bounds":
            return {"min": value[0], "max": value[1]}
        case "percents":
            return list(value)
        case "ranges":
            return [
                {key: part for key, part in (("key", one.key), ("from", one.from_), ("to", one.to)) if part is not None}
                for one in value
            ]
    return value

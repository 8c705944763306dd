"""Aggregations: what they are made of, what OpenSearch would answer, and that the oracle answers the same."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import quidditch_core as qc
from quidditch_core import aggs, dsl, errors
from quidditch_core import query as q
from tests.properties.pair import Pair
from tests.properties.strategies import pick

Body = dict[str, Any]
MANUAL = {"index.refresh_interval": -1}
MAPPING: Body = {
    "properties": {
        "key": {"type": "keyword"},
        "tag": {"type": "keyword"},
        "n": {"type": "integer"},
        "big": {"type": "long"},
        "x": {"type": "double"},
        "f": {"type": "float"},
        "day": {"type": "date"},
        "ok": {"type": "boolean"},
        "text": {"type": "text"},
        "bare": {"type": "keyword", "doc_values": False},
    }
}
VALUES: dict[str, list[Any]] = {
    "tag": ["red", "green", "blue", "", "dark red", "ré", "\U0001f40b"],
    "n": [-7, -3, -1, 0, 1, 2, 3, 10, 11],
    "big": [-(2**62), -1, 0, 1, 2**40, 2**53 + 1],
    "x": [-7.25, -0.5, 0.0, 0.1, 0.25, 0.3, 3.0, 12.5],
    "f": [-0.5, 0.0, 0.1, 0.25, 3.0],
    "day": ["1969-12-31T23:59:59.999Z", "1970-01-01T00:00:00Z", "1970-01-04T23:30:00Z", "1970-02-28T12:00:00Z",
            "1970-03-01T00:30:00+01:00", "1972-02-29T00:00:00Z"],
    "ok": [True, False],
}
NUMBERS = [name for name in VALUES if name != "tag"]


# --- requests ----------------------------------------------------------------------------------------------


def spec(name: str, field: st.SearchStrategy[str], **options: Any) -> st.SearchStrategy[Body]:
    """``{name: {"field": ..., options}}``, some with a value for missing."""
    def of(chosen: str) -> st.SearchStrategy[Body]:
        without = chosen == "absent" or name in ("missing", "range", "date_range")
        missing = {} if without else {"missing": pick(VALUES[chosen])}
        given_ = {key: value(chosen) if callable(value) else value for key, value in options.items()}
        needed = {key: given_.pop(key) for key in ("interval", "ranges", "calendar_interval", "fixed_interval")
                  if key in given_}
        return st.fixed_dictionaries({"field": st.just(chosen), **needed}, optional={**given_, **missing})
    return field.flatmap(of).map(lambda body: {name: body})


def bounds(chosen: str) -> st.SearchStrategy[list[Body]]:
    values = [value for value in VALUES[chosen] if isinstance(value, str) or abs(value) < 1e7]
    one = st.fixed_dictionaries({}, optional={"from": pick(values), "to": pick(values), "key": pick(["a", "b", "c"])})
    return st.lists(one, min_size=1, max_size=4, unique_by=lambda entry: json.dumps(entry))


DIRECTIONS = pick(["asc", "desc"])
orders = st.builds(lambda key, direction: {key: direction}, pick(["_count", "_key"]), DIRECTIONS)
numeric = pick([*NUMBERS, "absent"])
metrics = st.one_of(
    spec("min", numeric), spec("max", numeric), spec("sum", numeric), spec("avg", numeric), spec("stats", numeric),
    spec("value_count", pick([*VALUES, "absent"])), spec("cardinality", pick([*VALUES, "absent"])),
    spec("percentiles", numeric, percents=st.lists(pick([0, 10, 50, 99.9, 100]), min_size=1, max_size=3, unique=True)),
)
terms = spec("terms", pick([*VALUES, "absent"]), size=st.integers(1, 5), min_doc_count=st.integers(0, 2), order=orders)
INTERVALS = {"n": [1, 5, 2.5], "big": [2**54], "x": [0.1, 0.25, 3], "f": [0.1, 1], "ok": [1], "day": [86_400_000 * 30]}
histograms = spec(
    "histogram", pick([*INTERVALS]), interval=lambda chosen: pick(INTERVALS[chosen]), offset=pick([0.5, -1, 100]),
    min_doc_count=st.integers(0, 2), keyed=st.just(True), order=orders)
extended = spec("histogram", pick(["n", "x"]), interval=pick([2, 5]),
                extended_bounds=st.just({"min": -20, "max": 17.5}))
dated: Body = {"time_zone": pick(["+01:00", "-09:30", "+00:00"]), "offset": pick(["+6h", "-1d", "30m"]),
               "min_doc_count": st.integers(0, 1), "keyed": st.just(True),
               "extended_bounds": st.just({"min": "1969-11-30", "max": "1970-01-02"})}
UNITS = pick(["day", "week", "month", "1q", "year"])
calendars = spec("date_histogram", st.just("day"), calendar_interval=UNITS, **dated)
fixed = spec("date_histogram", st.just("day"), fixed_interval=pick(["12h", "36h", "20d"]), **dated)
ranges = spec("range", pick(["n", "big", "x", "f"]), ranges=bounds, keyed=st.just(False))
date_ranges = spec("date_range", st.just("day"), ranges=bounds)
queries = pick([{"term": {"tag": "red"}}, {"range": {"n": {"gte": 0}}}, {"match_none": {}}, {"exists": {"field": "x"}}])
buckets = st.one_of(
    terms, terms, histograms, extended, calendars, fixed, ranges, date_ranges,
    spec("missing", pick([*VALUES, "absent"])), queries.map(lambda query: {"filter": query}),
    st.builds(lambda some, other: {"filters": {"filters": some, "other_bucket": other}},
              st.one_of(st.lists(queries, min_size=1, max_size=3),
                        st.dictionaries(pick(["a", "b"]), queries, min_size=1)), st.booleans()))


def named(inside: st.SearchStrategy[Body], most: int) -> st.SearchStrategy[Body]:
    return st.dictionaries(pick(["p", "q", "r"]), inside, min_size=1, max_size=most)


def nest(inside: st.SearchStrategy[Body]) -> st.SearchStrategy[Body]:
    return st.builds(lambda outer, inner: {**outer, "aggs": inner}, buckets, named(st.one_of(inside, metrics), 2))


by_metric = st.builds(
    lambda field, value, direction, size: {
        "terms": {"field": field, "size": size, "order": [{f"m{value}": direction}, {"_key": "asc"}]},
        "aggs": {"m": {"stats" if value else "avg": {"field": "x"}}}},
    pick(["tag", "n"]), pick(["", ".max", ".count"]), DIRECTIONS, st.integers(1, 4))
aggregations = named(st.one_of(buckets, metrics, nest(buckets), nest(nest(buckets)), by_metric), 3)
quarters = {"1q": "quarter"}


def several(values: list[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(pick(values), pick(values), st.lists(pick(values), max_size=3))


documents = st.fixed_dictionaries({}, optional={name: several(values) for name, values in VALUES.items()})
single = st.fixed_dictionaries({}, optional={name: pick(values) for name, values in VALUES.items()})


def as_the_oracle_says(body: Any) -> Any:
    """The oracle knows only the long names of calendar intervals."""
    if isinstance(body, dict):
        return {key: quarters.get(value, value) if key == "calendar_interval" else as_the_oracle_says(value)
                for key, value in body.items()}
    return body


def assert_same(found: Any, expected: Any, at: str = "aggs") -> None:
    """Equal, but for the last digits of floats."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), at
        assert list(found) == list(expected) or set(found) == set(expected), (at, found, expected)
        for key, value in expected.items():
            assert_same(found[key], value, f"{at}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), (at, found, expected)
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(one, other, f"{at}[{number}]")
    elif isinstance(expected, float) and isinstance(found, float):
        assert math.isclose(found, expected, rel_tol=1e-12, abs_tol=1e-9), (at, found, expected)
    else:
        assert (type(found), found) == (type(expected), expected), at


@given(st.lists(st.lists(documents, max_size=6) | st.lists(single, max_size=6), min_size=1, max_size=3),
       st.sets(st.integers(0, 17), max_size=4), st.lists(aggregations, min_size=3, max_size=6),
       st.one_of(st.just({"match_all": {}}), queries))
def test_answers_equal_the_oracles(
    segments: list[list[Body]], deleted: set[int], requests: list[Body], query: Body,
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        pair = Pair(Path(directory) / "index", MAPPING)
        number = 0
        for segment in segments:
            for doc in segment:
                pair.put(f"k{number}", doc)
                number += 1
            pair.refresh()
        for gone in deleted:
            if gone < number:
                pair.delete(f"k{gone}")
        pair.refresh()
        for request in requests:
            with pair.index.reader() as reader:
                layout = reader.layout()
                expected = pair.oracle.search({"query": query, "size": 0, "aggs": as_the_oracle_says(request)}, layout)
                result = reader.search({"query": query, "size": 0, "aggs": request})
            assert_same(result.aggs, expected.aggs)
            assert (result.total.value, result.total.relation) == expected.total
            assert result.to_dict()["aggregations"] == result.aggs
            json.dumps(result.aggs)
        pair.close()


LARGE: Body = {
    "t": {"terms": {"field": "tag", "size": 3}, "aggs": {"m": {"sum": {"field": "x"}}}},
    "n": {"terms": {"field": "n", "size": 3, "order": {"_key": "desc"}}},
    "h": {"histogram": {"field": "x", "interval": 0.7}},
    "b": {"histogram": {"field": "big", "interval": 1e9}},
    "d": {"date_histogram": {"field": "day", "calendar_interval": "month"}},
    "w": {"date_histogram": {"field": "day", "fixed_interval": "90m", "time_zone": "+02:00", "min_doc_count": 1}},
    "s": {"stats": {"field": "x"}},
    "i": {"stats": {"field": "big"}},
    "lo": {"min": {"field": "day"}},
    "c": {"cardinality": {"field": "n"}},
    "r": {"range": {"field": "n", "ranges": [{"to": 100}, {"from": 50, "to": 5000}]},
          "aggs": {"p": {"percentiles": {"field": "x"}}}},
    "f": {"filter": {"range": {"day": {"gte": "1970-01-03"}}}, "aggs": {"n": {"value_count": {"field": "tag"}}}},
}


@pytest.mark.parametrize("ordered", [True, False])
def test_where_granules_end(tmp_path: Path, ordered: bool) -> None:
    """Three granules of 8,192 rows, the last of one; with and without order, gaps and deletes."""
    rng = Random(1)
    pair = Pair(tmp_path / "index", MAPPING)
    docs = []
    for number in range(2 * 8192 + 1):
        at = number if ordered else rng.randrange(16_385)
        doc = {"key": str(number), "tag": f"t{int(rng.expovariate(0.1))}", "n": at, "x": at / 7 - 100,
               "big": at * 3_000_000_007, "day": at * 600_000}
        if not ordered and rng.random() < 0.1:
            del doc[rng.choice(["tag", "n", "x", "day"])]
        docs.append(doc)
    pair.bulk(docs)
    pair.refresh()
    for query in ({"match_all": {}}, {"range": {"n": {"gte": 4000, "lt": 12_345}}}, {"term": {"tag": "t1"}}):
        check_large(pair, query)
    for number in rng.sample(range(16_385), 700):
        pair.delete(str(number))
    pair.refresh()
    check_large(pair, {"match_all": {}})
    pair.close()


def check_large(pair: Pair, query: Body) -> None:
    with pair.index.reader() as reader:
        layout = reader.layout()
        expected = pair.oracle.search({"query": query, "size": 0, "aggs": LARGE}, layout).aggs
        assert_same(reader.search({"query": query, "size": 0, "aggs": LARGE}).aggs, expected)
        for key in ("n", "-n", "x", {"day": {"order": "desc", "missing": "_first"}}, "-tag"):
            request = {"query": query, "size": 30, "sort": [key], "track_total_hits": True}
            sought = pair.oracle.search(request, layout)
            found = reader.search(request)
            assert [hit.id for hit in found] == sought.ids, key
            assert found.total.value == sought.total[0]


# --- what OpenSearch answers -------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_index: Callable[..., Any]) -> Any:
    made = tmp_index(MAPPING, settings=MANUAL)
    made.bulk([
        {"id": "1", "tag": ["a", "b"], "n": 1, "x": 1.5, "day": "2024-01-31", "ok": True},
        {"id": "2", "tag": "b", "n": 7, "x": 10, "day": "2024-03-01T12:00:00Z", "ok": False},
        {"id": "3", "tag": "c", "n": 7},
    ], id="id")
    made.refresh()
    return made


def answer(index: Any, body: Body) -> Any:
    return index.search(size=0, aggs={"it": body}).aggs["it"]


def test_the_forms_of_answers(index: Any) -> None:
    assert answer(index, {"terms": {"field": "tag", "size": 1}}) == {
        "doc_count_error_upper_bound": 0, "sum_other_doc_count": 2, "buckets": [{"key": "b", "doc_count": 2}]}
    assert answer(index, {"terms": {"field": "ok"}})["buckets"] == [
        {"key": 0, "key_as_string": "false", "doc_count": 1}, {"key": 1, "key_as_string": "true", "doc_count": 1}]
    months = {"date_histogram": {"field": "day", "calendar_interval": "month", "format": "yyyy-MM"}}
    assert answer(index, months) == {"buckets": [
        {"key_as_string": "2024-01", "key": 1704067200000, "doc_count": 1},
        {"key_as_string": "2024-02", "key": 1706745600000, "doc_count": 0},
        {"key_as_string": "2024-03", "key": 1709251200000, "doc_count": 1}]}
    assert answer(index, {"histogram": {"field": "n", "interval": 5}}) == {
        "buckets": [{"key": 0.0, "doc_count": 1}, {"key": 5.0, "doc_count": 2}]}
    assert answer(index, {"range": {"field": "x", "ranges": [{"from": 2, "to": 1e9}, {"to": 2}]}}) == {"buckets": [
        {"key": "*-2.0", "to": 2.0, "doc_count": 1}, {"key": "2.0-1.0E9", "from": 2.0, "to": 1e9, "doc_count": 1}]}
    february = {"date_range": {"field": "day", "format": "MM-yyyy", "keyed": True, "ranges": [{"from": "02-2024"}]}}
    assert answer(index, february) == {"buckets": {
        "02-2024-*": {"from": 1706745600000.0, "from_as_string": "02-2024", "doc_count": 1}}}
    assert answer(index, {"filters": {"filters": {"b": {"term": {"tag": "b"}}}, "other_bucket_key": "rest"}}) == {
        "buckets": {"b": {"doc_count": 2}, "rest": {"doc_count": 1}}}
    assert answer(index, {"missing": {"field": "x"}}) == {"doc_count": 1}
    assert answer(index, {"max": {"field": "day"}}) == {
        "value": 1709294400000.0, "value_as_string": "2024-03-01T12:00:00.000Z"}
    assert answer(index, {"stats": {"field": "x"}}) == {"count": 2, "min": 1.5, "max": 10.0, "avg": 5.75, "sum": 11.5}
    assert answer(index, {"avg": {"field": "absent"}}) == {"value": None}
    assert answer(index, {"sum": {"field": "absent"}}) == {"value": 0.0}
    assert answer(index, {"percentiles": {"field": "n", "percents": [50], "keyed": False}}) == {
        "values": [{"key": 50.0, "value": 7.0}]}


def test_a_response_has_hits_and_aggregations(index: Any) -> None:
    body = {"query": {"term": {"tag": "b"}}, "size": 1, "aggregations": {"c": {"value_count": {"field": "tag"}}}}
    result = index.search(body)
    assert result.aggs == {"c": {"value": 3}}
    response = result.to_dict()
    assert len(response["hits"]["hits"]) == 1
    assert response["hits"]["total"] == {"value": 2, "relation": "eq"}
    assert response["aggregations"] == {"c": {"value": 3}}
    assert index.search(body, aggs={}).aggs is None
    assert "aggregations" not in index.search(q.MatchAll()).to_dict()


def test_objects_and_bodies_are_one(index: Any) -> None:
    made = {"tags": aggs.Terms("tag", order={"n.max": "desc"}, aggs={"n": aggs.Stats("n")})}
    body = {"tags": {"terms": {"field": "tag", "order": {"n.max": "desc"}}, "aggs": {"n": {"stats": {"field": "n"}}}}}
    assert dsl.parse_aggs(body) == dsl.parse_aggs(made) == tuple(made.items())
    assert index.search(aggs=made).aggs == index.search(aggs=body).aggs == index.search({"aggs": made}).aggs
    assert [bucket["key"] for bucket in index.search(aggs=made).aggs["tags"]["buckets"]] == ["b", "c", "a"]
    assert repr(made["tags"]) == "Terms('tag', order=(('n.max', 'desc'),), aggs={'n': Stats('n')})"
    assert hash(made["tags"]) == hash(dsl.parse_aggs(body)[0][1])


@given(aggregations)
def test_bodies_survive_the_round_trip(body: Body) -> None:
    parsed = dsl.parse_aggs(body)
    assert dsl.parse_aggs(dsl.aggs_to_dict(parsed)) == parsed
    assert dsl.parse_aggs(json.loads(json.dumps(dsl.aggs_to_dict(parsed)))) == parsed


def test_what_changes_no_exact_answer_is_taken(index: Any) -> None:
    plain = answer(index, {"terms": {"field": "tag"}})
    assert plain == answer(index, {"terms": {"field": "tag", "shard_size": 100, "execution_hint": "map",
                                             "collect_mode": "breadth_first"}})
    assert answer(index, {"cardinality": {"field": "tag", "precision_threshold": 100}}) == {"value": 3}


def test_sums_of_integers_are_exact(tmp_index: Callable[..., Any]) -> None:
    made = tmp_index(MAPPING, settings=MANUAL)
    made.bulk([{"big": value} for value in (2**62, 2**62, 2**62, -(2**62), 5)])
    made.refresh()
    found = answer(made, {"stats": {"field": "big"}})
    assert found["sum"] == float(2**63 + 5)
    assert found["min"] == float(-(2**62))


def test_numbers_far_apart(tmp_index: Callable[..., Any]) -> None:
    made = tmp_index(MAPPING, settings=MANUAL)
    made.bulk([{"x": value, "big": code} for value, code in ((-1e300, -(2**63)), (0.5, 0), (1e300, 2**63 - 1))])
    made.refresh()
    found = answer(made, {"histogram": {"field": "x", "interval": 1, "min_doc_count": 1}})["buckets"]
    assert [bucket["key"] for bucket in found] == [-1e300, 0.0, 1e300]
    found = answer(made, {"histogram": {"field": "big", "interval": 10, "min_doc_count": 1}})["buckets"]
    assert [bucket["doc_count"] for bucket in found] == [1, 1, 1]
    assert answer(made, {"max": {"field": "big"}})["value"] == float(2**63)


def test_every_bucket_counts_towards_the_limit(tmp_index: Callable[..., Any]) -> None:
    made = tmp_index(MAPPING, settings=MANUAL)
    made.bulk([{"n": number, "tag": f"{number % 300}", "x": number % 7 * 0.5} for number in (*range(600), 10**6)])
    made.refresh()
    with pytest.raises(errors.QueryError, match=r"too many buckets.*at most 65535") as caught:
        answer(made, {"histogram": {"field": "n", "interval": 1}})
    assert caught.value.path == "aggs.it.histogram"
    assert len(answer(made, {"histogram": {"field": "n", "interval": 1, "min_doc_count": 1}})["buckets"]) == 601
    with pytest.raises(errors.QueryError, match="too many buckets"):
        answer(made, {"histogram": {"field": "x", "interval": 1e-9}})
    inside = {"h": {"histogram": {"field": "n", "interval": 2000}}}
    with pytest.raises(errors.QueryError, match="too many buckets") as caught:
        answer(made, {"terms": {"field": "tag", "size": 300}, "aggs": {"r": {"terms": {"field": "tag"}, "aggs": {
            "z": {"histogram": {"field": "n", "interval": 1, "extended_bounds": {"min": 0, "max": 300}}}}}}})
    assert caught.value.path == "aggs.it.aggs.r.aggs.z.histogram"
    assert len(answer(made, {"terms": {"field": "tag", "size": 300}, "aggs": inside})["buckets"]) == 300


# --- what is wrong -----------------------------------------------------------------------------------------

WRONG: list[tuple[Any, str]] = [
    ([], "aggs"),
    ({"a": []}, "aggs.a"),
    ({"a": {}}, "aggs.a"),
    ({"a": {"terms": {"field": "tag"}, "max": {"field": "n"}}}, "aggs.a"),
    ({"a": {"trems": {"field": "tag"}}}, "aggs.a.trems"),
    ({"a[0]": {"terms": {"field": "tag"}}}, "aggs"),
    ({"a": {"terms": {}}}, "aggs.a.terms"),
    ({"a": {"terms": {"field": "tag", "size": 0}}}, "aggs.a.terms.size"),
    ({"a": {"terms": {"field": "tag", "sise": 1}}}, "aggs.a.terms.sise"),
    ({"a": {"terms": {"field": "tag", "order": {"_count": "up"}}}}, "aggs.a.terms.order"),
    ({"a": {"terms": {"field": "tag", "order": {"m": "asc"}}}}, "aggs.a.terms.order"),
    ({"a": {"terms": {"field": "n", "missing": "x"}}}, "aggs.a.terms.missing"),
    ({"a": {"terms": {"field": "text"}}}, "aggs.a.terms.field"),
    ({"a": {"terms": {"field": "bare"}}}, "aggs.a.terms.field"),
    ({"a": {"terms": {"field": "absent", "missing": 1}}}, "aggs.a.terms.missing"),
    ({"a": {"histogram": {"field": "n"}}}, "aggs.a.histogram"),
    ({"a": {"histogram": {"field": "n", "interval": 0}}}, "aggs.a.histogram.interval"),
    ({"a": {"histogram": {"field": "tag", "interval": 1}}}, "aggs.a.histogram.field"),
    ({"a": {"histogram": {"field": "n", "interval": 1, "extended_bounds": {"min": 5, "max": 1}}}},
     "aggs.a.histogram.extended_bounds"),
    ({"a": {"date_histogram": {"field": "day"}}}, "aggs.a.date_histogram"),
    ({"a": {"date_histogram": {"field": "day", "calendar_interval": "2d"}}}, "aggs.a.date_histogram.calendar_interval"),
    ({"a": {"date_histogram": {"field": "day", "fixed_interval": "1M"}}}, "aggs.a.date_histogram.fixed_interval"),
    ({"a": {"date_histogram": {"field": "n", "fixed_interval": "1d"}}}, "aggs.a.date_histogram.field"),
    ({"a": {"date_histogram": {"field": "day", "fixed_interval": "1d", "extended_bounds": {"min": "x", "max": 1}}}},
     "aggs.a.date_histogram.extended_bounds.min"),
    ({"a": {"range": {"field": "n"}}}, "aggs.a.range"),
    ({"a": {"range": {"field": "n", "ranges": [{"from": "x"}]}}}, "aggs.a.range.ranges[0].from"),
    ({"a": {"range": {"field": "n", "ranges": [{"form": 1}]}}}, "aggs.a.range.ranges[0]"),
    ({"a": {"date_range": {"field": "day", "ranges": [{"from": "soon"}]}}}, "aggs.a.date_range.ranges[0].from"),
    ({"a": {"filter": {"trem": {}}}}, "aggs.a.filter.trem"),
    ({"a": {"filter": {"term": {"n": "soon"}}}}, "aggs.a.filter.term.n"),
    ({"a": {"filters": {"filters": {"x": {"range": {"n": {"gte": "y"}}}}}}}, "aggs.a.filters.filters.x.range.n"),
    ({"a": {"avg": {"field": "tag"}}}, "aggs.a.avg.field"),
    ({"a": {"avg": {"field": "n"}, "aggs": {}}}, "aggs.a.aggs"),
    ({"a": {"percentiles": {"field": "n", "percents": [101]}}}, "aggs.a.percentiles.percents"),
    ({"a": {"terms": {"field": "tag"}, "aggs": {"b": {"avg": {"field": "text"}}}}}, "aggs.a.aggs.b.avg.field"),
    ({"a": {"missing": {"field": "none"}, "aggs": {"b": {"sum": {"field": ""}}}}}, "aggs.a.aggs.b.sum.field"),
]


@pytest.mark.parametrize(("body", "path"), WRONG, ids=[str(at) for at in range(len(WRONG))])
def test_errors_have_paths(index: Any, body: Any, path: str) -> None:
    with pytest.raises(errors.QueryError) as caught:
        index.search({"size": 0, "aggs": body})
    assert caught.value.path == path, caught.value


LATER: list[tuple[Body, str]] = [
    ({"a": {"composite": {}}}, "aggs.a.composite"),
    ({"a": {"terms": {"field": "tag", "include": "a.*"}}}, "aggs.a.terms.include"),
    ({"a": {"date_histogram": {"field": "day", "interval": "day"}}}, "aggs.a.date_histogram.interval"),
    ({"a": {"date_histogram": {"field": "day", "fixed_interval": "1d", "time_zone": "Europe/Berlin"}}},
     "aggs.a.date_histogram.time_zone"),
    ({"a": {"terms": {"field": "tag"}, "meta": {}}}, "aggs.a.meta"),
    ({"a": {"terms": {"field": "tag"}, "aggs": {"b": {"top_hits": {}}}}}, "aggs.a.aggs.b.top_hits"),
]


@pytest.mark.parametrize(("body", "path"), LATER)
def test_what_comes_later_says_what_there_is(index: Any, body: Body, path: str) -> None:
    with pytest.raises(errors.UnsupportedError, match="supported: ") as caught:
        index.search({"aggs": body})
    assert caught.value.path == path


def test_depth_and_number_are_bounded() -> None:
    body: Body = {"a": {"terms": {"field": "tag"}}}
    for _ in range(19):
        body = {"a": {"terms": {"field": "tag"}, "aggs": body}}
    assert dsl.parse_aggs(body)
    with pytest.raises(errors.QueryError, match="nested too deep"):
        dsl.parse_aggs({"a": {"terms": {"field": "tag"}, "aggs": body}})
    body["a"]["aggs"] = body
    with pytest.raises(errors.QueryError, match="nested too deep"):
        dsl.parse_aggs(body)
    with pytest.raises(errors.QueryError, match="too many aggregations"):
        dsl.parse_aggs({str(number): {"max": {"field": "n"}} for number in range(1025)})


def test_only_aggregations_are_taken() -> None:
    with pytest.raises(errors.QueryError, match=r"dsl\.parse_aggs turns a dict into one"):
        aggs.Terms("tag", aggs={"a": {"max": {"field": "n"}}})  # type: ignore[arg-type]
    with pytest.raises(errors.QueryError, match="not a query"):
        aggs.Filter({"term": {"tag": "a"}})  # type: ignore[arg-type]


def test_old_readers_answer_as_before(index: Any) -> None:
    with index.reader() as reader:
        before = reader.search(size=0, aggs={"t": aggs.Terms("tag")}).aggs
        index.delete("1")
        index.refresh()
        assert reader.search(size=0, aggs={"t": aggs.Terms("tag")}).aggs == before
    after = index.search(size=0, aggs={"t": aggs.Terms("tag")}).aggs
    assert [bucket["key"] for bucket in after["t"]["buckets"]] == ["b", "c"]
    assert isinstance(index, qc.Index)

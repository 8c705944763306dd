"""Request bodies: the forms that OpenSearch accepts, and errors that lead to what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quidditch_core import query as q
from quidditch_core.dsl import (
    HighlightOptions,
    SearchRequest,
    SortKey,
    SourceFilter,
    parse_body,
    parse_highlight,
    parse_query,
    parse_sort,
    parse_source,
    query_to_dict,
)
from quidditch_core.errors import QueryError, RequestError, UnsupportedError

FORMS: list[tuple[dict[str, Any], q.Query]] = [
    ({"match_all": {}}, q.MatchAll()),
    ({"match_all": {"boost": 2}}, q.MatchAll(boost=2.0)),
    ({"match_none": {}}, q.MatchNone()),
    ({"match": {"title": "sea whale"}}, q.Match("title", "sea whale")),
    ({"match": {"title": {"query": "sea"}}}, q.Match("title", "sea")),
    ({"match": {"year": 1851}}, q.Match("year", "1851")),
    (
        {"match": {"t": {"query": "a b", "operator": "AND", "minimum_should_match": "-1", "boost": 2}}},
        q.Match("t", "a b", operator="and", minimum_should_match=-1, boost=2.0),
    ),
    ({"match": {"t": {"query": "a", "lenient": False, "zero_terms_query": "NONE"}}}, q.Match("t", "a")),
    ({"match_phrase": {"t": "a b"}}, q.MatchPhrase("t", "a b")),
    ({"match_phrase": {"t": {"query": "a b", "slop": 2}}}, q.MatchPhrase("t", "a b", slop=2)),
    ({"term": {"n": 3}}, q.Term("n", 3)),
    ({"term": {"tag": {"value": "x", "boost": 0.5}}}, q.Term("tag", "x", boost=0.5)),
    ({"terms": {"tag": ["x", "y"]}}, q.Terms("tag", ("x", "y"))),
    ({"terms": {"tag": [], "boost": 3}}, q.Terms("tag", (), boost=3.0)),
    ({"terms": {"boost": [1]}}, q.Terms("boost", (1,))),
    ({"range": {"n": {"gte": 1, "lt": 5, "boost": 2}}}, q.Range("n", gte=1, lt=5, boost=2.0)),
    ({"range": {"d": {"gt": "2024", "lte": None, "format": "yyyy"}}}, q.Range("d", gt="2024", format="yyyy")),
    ({"range": {"n": {}}}, q.Range("n")),
    ({"prefix": {"tag": "no"}}, q.Prefix("tag", "no")),
    ({"prefix": {"tag": {"value": "no", "case_insensitive": False}}}, q.Prefix("tag", "no")),
    ({"ids": {"values": ["a", 1]}}, q.Ids(("a", "1"))),
    ({"ids": {"values": "a"}}, q.Ids(("a",))),
    ({"exists": {"field": "n"}}, q.Exists("n")),
    (
        {"constant_score": {"filter": {"term": {"n": 1}}, "boost": 2}},
        q.ConstantScore(q.Term("n", 1), boost=2.0),
    ),
    ({"bool": {}}, q.Bool()),
    ({"bool": {"must": {"term": {"n": 1}}}}, q.Bool(must=(q.Term("n", 1),))),
    (
        {"bool": {"should": [{"term": {"n": 1}}, q.Term("n", 2)], "minimum_should_match": 1}},
        q.Bool(should=(q.Term("n", 1), q.Term("n", 2)), minimum_should_match=1),
    ),
    ({"bool": {"filter": [], "must_not": [{"exists": {"field": "n"}}]}}, q.Bool(must_not=(q.Exists("n"),))),
    ({"bool": {"adjust_pure_negative": True, "boost": 2}}, q.Bool(boost=2.0)),
]


@pytest.mark.parametrize(("body", "query"), FORMS)
def test_forms_of_queries(body: dict[str, Any], query: q.Query) -> None:
    assert parse_query(body) == query


WRONG: list[tuple[str, Any]] = [
    ("query", "match"),
    ("query", []),
    ("query", {}),
    ("query", None),
    ("query", {3: {}}),
    ("query", {"match": {"t": "a"}, "term": {"t": "a"}}),
    ("query.mach", {"mach": {"t": "a"}}),
    ("query.match", {"match": "a"}),
    ("query.match", {"match": {}}),
    ("query.match", {"match": {"t": "a", "u": "b"}}),
    ("query.match.t", {"match": {"t": None}}),
    ("query.match.t", {"match": {"t": {"boost": 2}}}),
    ("query.match.t.query", {"match": {"t": {"query": ["a"]}}}),
    ("query.match.t.qurey", {"match": {"t": {"qurey": "a"}}}),
    ("query.match.t.boost", {"match": {"t": {"query": "a", "boost": "high"}}}),
    ("query.match.t.operator", {"match": {"t": {"query": "a", "operator": "xor"}}}),
    ("query.match.t.minimum_should_match", {"match": {"t": {"query": "a", "minimum_should_match": "two"}}}),
    ("query.match.t.minimum_should_match", {"match": {"t": {"query": "a", "minimum_should_match": 1.5}}}),
    ("query.match_phrase.t.slop", {"match_phrase": {"t": {"query": "a", "slop": -1}}}),
    ("query.term.t", {"term": {"t": [1, 2]}}),
    ("query.term.t.value", {"term": {"t": {"value": float("nan")}}}),
    ("query.term.''", {"term": {"": 1}}),
    ("query.terms.t", {"terms": {"t": "a"}}),
    ("query.terms.t[1]", {"terms": {"t": ["a", {}]}}),
    ("query.terms.boost", {"terms": {"t": ["a"], "boost": -1}}),
    ("query.terms", {"terms": {"t": ["a"], "u": ["b"]}}),
    ("query.range.n", {"range": {"n": 5}}),
    ("query.range.n.gt", {"range": {"n": {"gt": 1, "gte": 2}}}),
    ("query.range.n.lte", {"range": {"n": {"lte": [1]}}}),
    ("query.range.n.gtt", {"range": {"n": {"gtt": 1}}}),
    ("query.ids", {"ids": {}}),
    ("query.ids.values[1]", {"ids": {"values": ["a", ""]}}),
    ("query.exists.field", {"exists": {"field": 3}}),
    ("query.constant_score", {"constant_score": {}}),
    ("query.constant_score.filter.trem", {"constant_score": {"filter": {"trem": {}}}}),
    ("query.bool.must", {"bool": {"must": "a"}}),
    ("query.bool.must[1].match.title", {"bool": {"must": [{"term": {"n": 1}}, {"match": {"title": None}}]}}),
    ("query.bool.filter.term.n", {"bool": {"filter": {"term": {"n": None}}}}),
    ("query.bool.musst", {"bool": {"musst": []}}),
    ("query.bool.minimum_should_match", {"bool": {"minimum_should_match": True}}),
]


@pytest.mark.parametrize(("path", "body"), WRONG)
def test_a_wrong_query_is_named_with_its_path(path: str, body: Any) -> None:
    with pytest.raises(QueryError) as caught:
        parse_query(body)
    assert caught.value.path == path
    assert str(caught.value).startswith(path + ": ")


def test_errors_name_the_nearest_known_name() -> None:
    with pytest.raises(QueryError, match="did you mean 'match_phrase'"):
        parse_query({"match_phrse": {"t": "a"}})
    with pytest.raises(QueryError, match="did you mean 'must_not'"):
        parse_query({"bool": {"mustNot": []}})
    with pytest.raises(QueryError, match=r'write {"query": {"match": \.\.\.}}'):
        parse_body({"match": {"t": "a"}})


LATER: list[tuple[str, dict[str, Any]]] = [
    ("query.multi_match", {"query": {"multi_match": {"query": "a", "fields": ["t"]}}}),
    ("query.bool.must[0].wildcard", {"query": {"bool": {"must": [{"wildcard": {"t": "a*"}}]}}}),
    ("query.match.t.fuzziness", {"query": {"match": {"t": {"query": "a", "fuzziness": "AUTO"}}}}),
    ("query.match.t.lenient", {"query": {"match": {"t": {"query": "a", "lenient": True}}}}),
    ("query.match.t._name", {"query": {"match": {"t": {"query": "a", "_name": "x"}}}}),
    ("query.bool.minimum_should_match", {"query": {"bool": {"minimum_should_match": "75%"}}}),
    ("query.bool.minimum_should_match", {"query": {"bool": {"minimum_should_match": "2<-25% 9<-3"}}}),
    ("query.term.t.case_insensitive", {"query": {"term": {"t": {"value": "a", "case_insensitive": True}}}}),
    ("query.terms.t", {"query": {"terms": {"t": {"index": "i", "id": "1", "path": "p"}}}}),
    ("query.range.n.from", {"query": {"range": {"n": {"from": 1}}}}),
    ("query.range.n.time_zone", {"query": {"range": {"n": {"gte": "now", "time_zone": "+01:00"}}}}),
    ("query.bool._name", {"query": {"bool": {"_name": "x"}}}),
    ("aggs.by_tag.composite", {"aggs": {"by_tag": {"composite": {"sources": []}}}}),
    ("knn", {"knn": {}}),
    ("search_after", {"search_after": [1]}),
    ("explain", {"explain": True}),
    ("sort.n.unmapped_type", {"sort": {"n": {"unmapped_type": "long"}}}),
    ("sort[1].n.mode", {"sort": ["_score", {"n": {"order": "asc", "mode": "avg"}}]}),
    ("sort[0]._script", {"sort": [{"_script": {}}]}),
    ("highlight.fields.t.type", {"highlight": {"fields": {"t": {"type": "plain"}}}}),
    ("highlight.fields[0].t.highlight_query", {"highlight": {"fields": [{"t": {"highlight_query": {}}}]}}),
]


@pytest.mark.parametrize(("path", "body"), LATER)
def test_what_comes_later_says_what_there_is(path: str, body: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match=r"not supported by this version.*supported: ") as caught:
        parse_body(body)
    assert caught.value.path == path


def test_asking_for_what_happens_anyway_is_supported() -> None:
    assert parse_body({"explain": False, "profile": False, "aggs": {}, "version": False}) == SearchRequest()
    assert parse_highlight({"type": "unified", "fields": {"t": {}}}) == parse_highlight("t")


# Limits.


def nested(levels: int) -> dict[str, Any]:
    body: dict[str, Any] = {"term": {"n": 1}}
    for _ in range(levels - 1):
        body = {"bool": {"must": [body]}}
    return body


def test_depth_is_bounded() -> None:
    assert parse_query(nested(20)).depth == 20
    for levels in (21, 100_000):
        with pytest.raises(QueryError, match="nested too deep"):
            parse_query(nested(levels))


def test_a_query_that_contains_itself_is_too_deep() -> None:
    body: dict[str, Any] = {"bool": {"must": []}}
    body["bool"]["must"].append(body)
    with pytest.raises(QueryError, match="nested too deep"):
        parse_query(body)


def test_clauses_are_counted_before_they_are_built() -> None:
    parse_query({"bool": {"should": [{"term": {"n": 1}}] * 1024}})
    with pytest.raises(QueryError, match="too many clauses") as caught:
        parse_query({"bool": {"should": [{"term": {"n": 1}}] * 1_000_000}})
    assert caught.value.path == "query.bool.should[1024].term"
    shared: dict[str, Any] = {"bool": {}}
    for _ in range(19):  # half a million empty queries in twenty dicts
        shared = {"bool": {"must": [shared, shared]}}
    with pytest.raises(QueryError, match="too many clauses"):
        parse_query(shared)


def test_terms_are_bounded() -> None:
    with pytest.raises(QueryError, match="too many values"):
        parse_query({"terms": {"n": [1] * 65_537}})


def test_paths_stay_readable() -> None:
    with pytest.raises(QueryError) as caught:
        parse_query({"match": {"x" * 10_000: None}})
    assert len(str(caught.value)) < 400
    with pytest.raises(QueryError) as caught:
        parse_query({"match": {"a\ud800\x1b\n": None}})
    str(caught.value).encode()
    assert str(caught.value).isprintable()


# Bodies.


def test_an_empty_body_asks_for_everything() -> None:
    assert parse_body({}) == SearchRequest(q.MatchAll(), size=10, from_=0, track_total_hits=10_000)


def test_a_whole_body() -> None:
    request = parse_body(
        {
            "query": {"match": {"t": "a"}},
            "size": 5,
            "from": 10,
            "sort": ["-year", "_score"],
            "_source": ["t*"],
            "highlight": {"fields": {"t": {}}},
            "track_total_hits": False,
        }
    )
    assert request == SearchRequest(
        q.Match("t", "a"),
        size=5,
        from_=10,
        sort=(SortKey("year", "desc"), SortKey("_score")),
        source=SourceFilter(includes=("t*",)),
        highlight=parse_highlight(["t"]),
        track_total_hits=False,
    )


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (None, []),
        (None, {1: 2}),
        ("sized", {"sized": 3}),
        ("size", {"size": True}),
        ("size", {"size": -1}),
        ("size", {"size": "10"}),
        ("size", {"size": None}),
        ("size", {"size": 2**40}),
        ("from", {"from": 1.5}),
        ("track_total_hits", {"track_total_hits": "yes"}),
        ("track_total_hits", {"track_total_hits": -1}),
        ("sort", {"sort": 3}),
        ("sort[0]", {"sort": [None]}),
        ("sort[0]", {"sort": ["-"]}),
        ("sort[0].n", {"sort": [{"n": 3}]}),
        ("sort[0].n.order", {"sort": [{"n": "up"}]}),
        ("sort[0].n.missing", {"sort": [{"n": {"missing": [1]}}]}),
        ("sort[0]._score.missing", {"sort": [{"_score": {"missing": 1}}]}),
        ("sort[0].n.mode", {"sort": [{"n": {"mode": "most"}}]}),
        ("_source", {"_source": 3}),
        ("_source[1]", {"_source": ["a", 3]}),
        ("_source.exclude", {"_source": {"exclude": {}}}),
        ("_source.only", {"_source": {"only": []}}),
        ("_source", {"_source": {"include": [], "includes": []}}),
        ("highlight", {"highlight": 3}),
        ("highlight", {"highlight": {}}),
        ("highlight.fields", {"highlight": {"fields": "t"}}),
        ("highlight.fields.t", {"highlight": {"fields": {"t": 3}}}),
        ("highlight.fields.t.fragment_size", {"highlight": {"fields": {"t": {"fragment_size": -1}}}}),
        ("highlight.number_of_fragments", {"highlight": {"fields": {}, "number_of_fragments": True}}),
        ("highlight.order", {"highlight": {"fields": {}, "order": "best"}}),
        ("highlight.pre_tags", {"highlight": {"fields": {}, "pre_tags": [], "post_tags": []}}),
        ("highlight.post_tags[0]", {"highlight": {"fields": {}, "pre_tags": ["a"], "post_tags": [1]}}),
        ("highlight", {"highlight": {"fields": {}, "pre_tags": ["a"]}}),
        ("highlight.fragmentsize", {"highlight": {"fields": {}, "fragmentsize": 3}}),
    ],
)
def test_a_wrong_body_is_named_with_its_path(path: str | None, body: Any) -> None:
    with pytest.raises(QueryError) as caught:
        parse_body(body)
    assert caught.value.path == path


# Sort, source, highlight.


@pytest.mark.parametrize(
    ("value", "keys"),
    [
        (None, ()),
        ([], ()),
        ("year", (SortKey("year", "asc", "_last", "min"),)),
        ("-year", (SortKey("year", "desc", "_last", "max"),)),
        ("_score", (SortKey("_score", "desc"),)),
        ("-_score", (SortKey("_score", "asc"),)),
        ("_doc", (SortKey("_doc", "asc"),)),
        ({"_score": "desc"}, (SortKey("_score", "desc"),)),
        (
            {"a": "ASC", "b": {"order": "desc", "missing": "_first"}},
            (SortKey("a"), SortKey("b", "desc", "_first")),
        ),
        ([{"a": {"mode": "max", "missing": 7}}, SortKey("b")], (SortKey("a", None, 7, "max"), SortKey("b"))),
        ({"-odd": "asc"}, (SortKey("-odd"),)),
        ({"a": {}}, (SortKey("a"),)),
    ],
)
def test_forms_of_sort(value: Any, keys: tuple[SortKey, ...]) -> None:
    assert parse_sort(value) == keys


def test_sort_keys_are_bounded() -> None:
    with pytest.raises(QueryError, match="too many sort keys"):
        parse_sort(["a"] * 65)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (True, SourceFilter()),
        (False, SourceFilter(enabled=False)),
        ("a.*", SourceFilter(includes=("a.*",))),
        (["a", "b"], SourceFilter(includes=("a", "b"))),
        ({"includes": "a", "excludes": ["a.b"]}, SourceFilter(includes=("a",), excludes=("a.b",))),
        ({"exclude": ["b"]}, SourceFilter(excludes=("b",))),
        (SourceFilter(), SourceFilter()),
    ],
)
def test_forms_of_source(value: Any, wanted: SourceFilter) -> None:
    assert parse_source(value) == wanted


def test_fields_inherit_highlight_options() -> None:
    request = parse_highlight(
        {
            "pre_tags": ["<b>", "<i>"],
            "post_tags": "</b>",
            "fragment_size": 50,
            "encoder": "html",
            "fields": [{"a": {}}, {"b": {"fragment_size": 0, "order": "score"}}],
        }
    )
    assert request is not None
    inherited = HighlightOptions(pre_tag="<b>", post_tag="</b>", fragment_size=50, encoder="html")
    assert request.options == request.fields[0].options == inherited
    assert [field.field for field in request.fields] == ["a", "b"]
    assert request.fields[1].options.fragment_size == 0
    assert request.fields[1].options.order == "score"
    assert request.fields[1].options.pre_tag == "<b>"


def test_no_highlight() -> None:
    assert parse_highlight(None) is None
    assert parse_highlight(False) is None


# Any query survives the way to a dict and back; any garbage gives a typed error.

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
names = st.one_of(texts.filter(bool), st.sampled_from(["boost", "query", "value", "_name", "a.b"]))
values = st.one_of(texts, st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False))
bounds = st.one_of(st.none(), values)
boosts = st.one_of(st.just(1.0), st.floats(0, 3e38))
minimums = st.one_of(st.none(), st.integers(-3, 5))
leaves = st.one_of(
    st.builds(q.MatchAll, boost=boosts),
    st.builds(q.MatchNone),
    st.builds(
        q.Match,
        names,
        texts,
        operator=st.sampled_from(["or", "and"]),
        minimum_should_match=minimums,
        boost=boosts,
    ),
    st.builds(q.MatchPhrase, names, texts, slop=st.integers(0, 9), boost=boosts),
    st.builds(q.Term, names, values, boost=boosts),
    st.builds(q.Terms, names.filter("boost".__ne__), st.lists(values, max_size=3), boost=boosts),
    st.builds(q.Range, names, gt=bounds, lte=bounds, format=st.one_of(st.none(), texts), boost=boosts),
    st.builds(q.Range, names, gte=bounds, lt=bounds, boost=boosts),
    st.builds(q.Prefix, names, texts, boost=boosts),
    st.builds(q.Ids, st.lists(texts.filter(bool), max_size=3), boost=boosts),
    st.builds(q.Exists, names, boost=boosts),
)


def compound(children: st.SearchStrategy[q.Query]) -> st.SearchStrategy[q.Query]:
    clauses = st.lists(children, max_size=2)
    groups = dict.fromkeys(("must", "should", "must_not", "filter"), clauses)
    return st.one_of(
        st.builds(q.ConstantScore, children, boost=boosts),
        st.builds(q.Bool, **groups, minimum_should_match=minimums, boost=boosts),
    )


queries = st.recursive(leaves, compound, max_leaves=12)


@given(queries)
def test_a_query_survives_its_dict_form(query: q.Query) -> None:
    assert parse_query(query_to_dict(query)) == query


def test_terms_on_a_field_named_boost_keep_their_meaning() -> None:
    body = query_to_dict(q.Terms("boost", (1,), boost=2.0))
    assert parse_query(body) == q.ConstantScore(q.Terms("boost", (1,)), boost=2.0)


words = st.sampled_from([
    "query", "match", "term", "terms", "range", "ids", "exists", "bool", "must", "should", "filter", "values",
    "field", "boost", "gte", "t", "constant_score", "minimum_should_match", "size", "from", "sort", "_score",
    "order", "_source", "excludes", "highlight", "fields",
])
garbage = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(), words, st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=10,
)
bodies = st.dictionaries(words, garbage, max_size=4)


def outcome(parse: Callable[[Any], Any], body: Any) -> Any:
    try:
        return parse(body)
    except RequestError as error:
        return error


@given(st.one_of(garbage, bodies, bodies.map(lambda body: {"query": body})))
def test_garbage_gives_a_request_or_a_typed_error(body: Any) -> None:
    assert isinstance(outcome(parse_body, body), (SearchRequest, RequestError))


@given(queries, st.data())
def test_a_damaged_query_gives_a_query_or_a_typed_error(query: q.Query, data: st.DataObject) -> None:
    body: Any = query_to_dict(query)
    node, steps = body, data.draw(st.integers(1, 4))
    for _ in range(steps):
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            break
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], (dict, list)) or not node[key] or steps == 1:
            node[key] = data.draw(garbage)
            break
        node = node[key]
    answer = outcome(parse_query, body)
    assert isinstance(answer, q.Query) or (isinstance(answer, RequestError) and answer.path)

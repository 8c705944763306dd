"""Scoring functions: compiled ones equal the Python they were written in, and say at once what they cannot be."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quidditch_core as qc
from quidditch_core import dsl
from quidditch_core import query as q
from quidditch_core.errors import QueryError, RequestError, ScorerError, UnsupportedError
from quidditch_core.scoring import scorer_named
from tests import naive
from tests.naive import Oracle

WEIGHT = 1.5
STEPS = (0.5, 1.0, 2.0)
CHANGING = [1.0]


def damped(value: float, by: float = 3.0) -> float:
    return sqrt(value * by) if value > 0 else 0.0


@qc.scorer
def boosted(score, popularity=2.5):  # type: ignore[no-untyped-def]
    return score * (1 + popularity / 100)


@qc.scorer
def recent(score, added: int = 0, author__age=30):  # type: ignore[no-untyped-def]
    total = 0.0
    for step in STEPS:
        total += step * damped(author__age)
    return score + (added // 86_400_000 % 7) * WEIGHT + max(total, 1.0)


@qc.scorer(name="constant")
def of_nothing(score):  # type: ignore[no-untyped-def]
    return 3 if score > 0 else 0


naive.SCORERS.update({each.name: each.function for each in (boosted, recent, of_nothing)})

MAPPING = {"properties": {
    "body": {"type": "text"}, "tag": {"type": "keyword"}, "popularity": {"type": "double"}, "n": {"type": "integer"},
    "added": {"type": "date"}, "author": {"properties": {"age": {"type": "long"}}},
}}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[qc.Index, Oracle]]:
    """300 documents, in three segments and with some deleted, and the oracle of the same."""
    oracle = Oracle(MAPPING)
    random = np.random.default_rng(3)
    with qc.create(tmp_path_factory.mktemp("scoring") / "index", MAPPING, settings={"refresh_interval": "-1"}) as index:
        for number in range(300):
            doc: dict[str, Any] = {
                "body": " ".join(random.choice(["sea", "ship", "whale"], random.integers(0, 9))), "n": number,
                "tag": ["odd", "even"][number % 2]}
            if number % 3:
                doc["popularity"] = [round(float(x), 2) for x in random.exponential(50, random.integers(1, 3))]
            if number % 5:
                doc |= {"added": f"2024-01-{number % 28 + 1:02}", "author": {"age": int(random.integers(1, 99))}}
            index.put(str(number), doc)
            oracle.put(str(number), doc)
            if number in (100, 220):
                index.flush()
        for number in range(0, 300, 7):
            index.delete(str(number))
            oracle.delete(str(number))
        index.refresh()
        yield index, oracle


QUERIES = [{"match": {"body": "sea whale"}}, {"match_all": {}}, {"term": {"tag": "odd"}}, {"match_none": {}},
           {"bool": {"must": [{"match": {"body": "ship"}}], "filter": [{"range": {"n": {"gte": 40}}}]}}]
SCRIPTS = [{"script": {"source": name}} for name in ("boosted", "recent", "constant")]
quarters = st.integers(0, 40).map(lambda n: n / 4)


def optional(**given: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=given)


def joined(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(*parts).map(lambda dicts: {key: value for each in dicts for key, value in each.items()})


values = st.one_of(
    st.sampled_from(SCRIPTS).map(lambda script: {"script_score": script}),
    joined(st.just({"field": "popularity", "missing": 4}), optional(
        factor=quarters, modifier=st.sampled_from(["none", "square", "sqrt"]))).map(
            lambda spec: {"field_value_factor": spec}),
    quarters.map(lambda weight: {"weight": weight}))
functions = joined(values, optional(weight=quarters, filter=st.sampled_from(QUERIES)))
scored = st.one_of(
    joined(st.fixed_dictionaries({"query": st.sampled_from(QUERIES)}), st.sampled_from(SCRIPTS),
           optional(min_score=quarters, boost=quarters)).map(lambda spec: {"script_score": spec}),
    joined(st.fixed_dictionaries({"query": st.sampled_from(QUERIES), "functions": st.lists(functions, min_size=1,
                                                                                           max_size=3)}),
           optional(score_mode=st.sampled_from(q.SCORE_MODES), boost_mode=st.sampled_from(q.BOOST_MODES),
                    max_boost=quarters, min_score=quarters, boost=quarters)).map(
                        lambda spec: {"function_score": spec}))
queries = st.one_of(scored, scored.map(
    lambda query: {"bool": {"must": [query], "should": [QUERIES[0]], "must_not": [{"term": {"n": 8}}]}}))


@given(queries, st.sampled_from([1, 7, 400]))
def test_compiled_scores_equal_plain_python(both: tuple[qc.Index, Oracle], query: dict[str, Any], size: int) -> None:
    index, oracle = both
    body = {"query": query, "size": size, "track_total_hits": True}
    with index.reader() as reader:
        expected = oracle.search(body, reader.layout())
        found = reader.search(body)
        assert ([hit.id for hit in found], [hit.score for hit in found]) == (expected.ids, expected.scores)
        assert found.total.value == reader.count(query) == expected.total[0]  # type: ignore[index]
        assert dsl.query_to_dict(dsl.parse_query(dsl.query_to_dict(dsl.parse_query(query)))) == dsl.query_to_dict(
            dsl.parse_query(query))
        for hit in found.hits[:2]:
            assert reader.explain(query, hit.id).value == hit.score


@pytest.mark.parametrize("modifier", q.MODIFIERS)
def test_every_modifier(both: tuple[qc.Index, Oracle], modifier: str) -> None:
    index, oracle = both
    spec = {"field": "popularity", "missing": 7, "factor": 30, "modifier": modifier}
    body = {"query": {"function_score": {"query": QUERIES[0], "functions": [{"field_value_factor": spec}]}}}
    with index.reader() as reader:
        expected = oracle.search(body, reader.layout())
        assert [hit.score for hit in reader.search(body)] == pytest.approx(expected.scores, rel=1e-6)


def test_the_scorer_that_a_query_gets_is_its_name() -> None:
    query = q.ScriptScore(q.MatchAll(), boosted)  # type: ignore[arg-type]
    assert query == q.ScriptScore(q.MatchAll(), "boosted")
    assert q.FunctionScore(q.MatchAll(), boosted) == q.FunctionScore(  # type: ignore[arg-type]
        q.MatchAll(), [q.Function("boosted")])  # type: ignore[arg-type]
    assert boosted(2.0, popularity=50) == 3.0


def test_a_filter_of_scores_sees_the_least_score(both: tuple[qc.Index, Oracle]) -> None:
    index, oracle = both
    few = {"script_score": {"query": QUERIES[1], "script": {"source": "boosted"}, "min_score": 1.5}}
    body = {"query": {"bool": {"filter": [few]}}, "size": 300}
    with index.reader() as reader:
        expected = oracle.search({"query": few, "size": 300}, reader.layout())
        assert {hit.id for hit in reader.search(body)} == set(expected.ids)
        assert 0 < len(expected.ids) < 200
        assert {hit.id for hit in reader.search({"query": few, "size": 300, "sort": "n"})} == set(expected.ids)


# --- definitions -----------------------------------------------------------------------------------------------


def unknown_name(score):  # type: ignore[no-untyped-def]
    return score * popularty  # type: ignore[name-defined]  # noqa: F821


def changing_global(score):  # type: ignore[no-untyped-def]
    return score * CHANGING[0]


def a_string(score):  # type: ignore[no-untyped-def]
    return "much"


def nothing_at_times(score):  # type: ignore[no-untyped-def]
    return score if score > 1 else None


def raising(score):  # type: ignore[no-untyped-def]
    if score > 1:
        raise ValueError
    return score


def a_list(score):  # type: ignore[no-untyped-def]
    return max([score, 1.0])


def no_attribute(score):  # type: ignore[no-untyped-def]
    return score.length


def opening(score):  # type: ignore[no-untyped-def]
    return score if open("secrets") else 0.0


def recursive(score):  # type: ignore[no-untyped-def]
    return recursive(score - 1) if score > 1 else score


def beyond_a_tuple(score):  # type: ignore[no-untyped-def]
    return STEPS[int(score)]


def no_score(popularity):  # type: ignore[no-untyped-def]
    return popularity


def text_default(score, popularity="many"):  # type: ignore[no-untyped-def]
    return score


def of_a_text(score, body: str):  # type: ignore[no-untyped-def]
    return score


def many(score, *fields):  # type: ignore[no-untyped-def]
    return score


@pytest.mark.parametrize(("function", "message"), [
    (unknown_name, "popularty"),
    (changing_global, "CHANGING"),
    (a_string, "no number but"),
    (nothing_at_times, "no number but"),
    (raising, "raises an error"),
    (a_list, "makes a list"),
    (no_attribute, "length"),
    (opening, "open"),
    (recursive, "calls itself"),
    (beyond_a_tuple, "may raise an error"),
    (no_score, "first parameter"),
    (text_default, "text_default.popularity"),
    (of_a_text, "of_a_text.body"),
    (many, "parameters are not plain"),
    (len, "not a Python function"),
])
def test_what_is_wrong_is_said_at_definition(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(ScorerError, match=message):
        qc.scorer(function)
    with pytest.raises(QueryError, match="no such scorer"):
        scorer_named(function.__name__, "query")


def test_variables_around_a_function_are_refused() -> None:
    factor = 2.0

    def closure(score):  # type: ignore[no-untyped-def]
        return score * factor

    with pytest.raises(ScorerError, match="factor"):
        qc.scorer(closure)


def test_another_module_cannot_take_a_name() -> None:
    space: dict[str, Any] = {"__name__": "another"}
    exec("def boosted(score): return score", space)
    with pytest.raises(ScorerError, match="another module"):
        qc.scorer(space["boosted"])
    assert qc.scorer(name="another_boosted")(space["boosted"]).name == "another_boosted"


def test_the_cache_knows_what_a_function_calls(tmp_path: Path, python_env: dict[str, str]) -> None:
    """Two programs that differ in a number that a function of the scorer uses."""
    program = ("import numpy as np, quidditch_core as qc\nW = {}\ndef inner(x): return x * W\n"
               "def f(score): return inner(score)\nprint(qc.scorer(f).scores(np.ones(1, np.float32), [])[0])")
    env = python_env | {"XDG_CACHE_HOME": str(tmp_path)}
    said = [subprocess.run([sys.executable, "-c", program.format(weight)], env=env, capture_output=True, text=True,
                           check=True).stdout for weight in (2.0, 2.0, 3.0)]
    assert said == ["2.0\n", "2.0\n", "3.0\n"]
    assert len(list(tmp_path.rglob("*.image"))) == 2


@pytest.mark.parametrize(("setup", "said"), [
    ("import importlib.util as u; old = u.find_spec; u.find_spec = lambda n: None if n == 'numba' else old(n)",
     "quidditch-core[jit]"),
    ("import os; os.environ['QUIDDITCH_KERNELS'] = 'numpy'", "2.0"),
])
def test_without_numba(setup: str, said: str, python_env: dict[str, str]) -> None:
    program = (f"{setup}\nimport numpy as np, quidditch_core as qc\ndef f(score, n: int): return score * n\n"
               "try: print(qc.scorer(f).scores(np.ones(1, np.float32), [np.array([2])])[0])\n"
               "except qc.errors.ScorerError as error: print(error)")
    done = subprocess.run([sys.executable, "-c", program], env=python_env, capture_output=True, text=True, check=True)
    assert said in done.stdout


# --- at the query ----------------------------------------------------------------------------------------------


@qc.scorer
def negative(score, n):  # type: ignore[no-untyped-def]
    return 100 - n


@qc.scorer
def infinite(score, n):  # type: ignore[no-untyped-def]
    return score / n * math.exp(n * 100)


@qc.scorer
def whole(score, popularity: int):  # type: ignore[no-untyped-def]
    return score


@qc.scorer
def elsewhere(score, nothing):  # type: ignore[no-untyped-def]
    return score


@qc.scorer
def of_tags(score, tag):  # type: ignore[no-untyped-def]
    return score


@qc.scorer
def needy(score, author__age):  # type: ignore[no-untyped-def]
    return score + author__age


@pytest.mark.parametrize(("name", "message"), [
    ("negative", "bad score; found -"), ("infinite", "bad score"), ("whole", "does not hold integers"),
    ("elsewhere", "no such field"), ("of_tags", "no numbers"), ("needy", "no value of author.age"),
    ("bosted", "did you mean 'boosted'"), ("doc['n'].value * 2", "requests carry no code"),
])
def test_what_a_query_cannot_score(both: tuple[qc.Index, Oracle], name: str, message: str) -> None:
    with pytest.raises(QueryError, match=message) as caught:
        both[0].search({"query": {"script_score": {"query": {"match_all": {}}, "script": {"source": name}}}})
    assert (caught.value.path or "").startswith("query.script_score")


def test_what_filters_leave_out_is_not_scored(both: tuple[qc.Index, Oracle]) -> None:
    few = q.Bool(must=[q.ScriptScore(q.MatchAll(), "needy")], filter=[q.Exists("author.age")])  # type: ignore[arg-type]
    assert len(both[0].search(few)) == 10
    deleted = q.Ids(["0", "7"])  # document 0 has no age
    assert len(both[0].search(q.ScriptScore(deleted, "needy"))) == 0


S = {"script": {"source": "boosted"}}


@pytest.mark.parametrize(("path", "query", "error"), [
    ("query.script_score", {"script_score": {"script": {"source": "boosted"}}}, QueryError),
    ("query.script_score.script", {"script_score": {"query": {"match_all": {}}, "script": {}}}, QueryError),
    ("query.script_score.script.params",
     {"script_score": {"query": {"match_all": {}}, "script": {"source": "boosted", "params": {"a": 1}}}},
     UnsupportedError),
    ("query.script_score.script.source", {"script_score": {"query": {"match_all": {}}, "script": ""}}, QueryError),
    ("query.script_score.min_score", {"script_score": {"query": {"match_all": {}}, **S, "min_score": "x"}}, QueryError),
    ("query.function_score", {"function_score": {}}, QueryError),
    ("query.function_score.gauss", {"function_score": {"gauss": {}}}, UnsupportedError),
    ("query.function_score.functions[0].random_score", {"function_score": {"functions": [{"random_score": {}}]}},
     UnsupportedError),
    ("query.function_score.functions[1]", {"function_score": {"functions": [{"weight": 1}, {}]}}, QueryError),
    ("query.function_score.functions", {"function_score": {"functions": []}}, QueryError),
    ("query.function_score.weight", {"function_score": {"functions": [], "weight": 1}}, QueryError),
    ("query.function_score.boost_mode", {"function_score": {"weight": 2, "boost_mode": "most"}}, QueryError),
    ("query.function_score.field_value_factor.modifier",
     {"function_score": {"field_value_factor": {"field": "n", "modifier": "cube"}}}, QueryError),
    ("query.function_score.functions[0].filter.trem",
     {"function_score": {"functions": [{"weight": 1, "filter": {"trem": {}}}]}}, QueryError),
])
def test_bodies_that_are_refused(path: str, query: dict[str, Any], error: type[RequestError]) -> None:
    with pytest.raises(error) as caught:
        dsl.parse_body({"query": query})
    assert caught.value.path == path


# --- bounds ----------------------------------------------------------------------------------------------------


def within_double(score, quality):  # type: ignore[no-untyped-def]
    return score * (1 + quality)


bounded = qc.scorer(name="bounded", upper_bound=lambda score: 2 * score)(within_double)
unbounded = qc.scorer(name="unbounded")(within_double)
lying = qc.scorer(name="lying", upper_bound=lambda score: 1.1 * score)(within_double)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[qc.Index]:
    """20,000 documents of many lengths in three segments, 5 % deleted."""
    random = np.random.default_rng(5)
    mapping = {"properties": {"body": {"type": "text"}, "quality": {"type": "double"}, "n": {"type": "integer"}}}
    words = np.array(["sea", "ship", "whale", "rope", "sail", "wind"])
    chance = np.array([0.4, 0.3, 0.15, 0.08, 0.05, 0.02])
    with qc.create(tmp_path_factory.mktemp("bounded") / "index", mapping, settings={"refresh_interval": "-1"}) as index:
        for first in (0, 9_000, 15_000):
            index.bulk(({"id": str(n), "body": " ".join(random.choice(words, random.integers(1, 30), p=chance)),
                         "quality": float(random.random()), "n": n} for n in range(first, first + 5_000)), id="id")
            index.flush()
        for n in range(0, 20_000, 20):
            index.delete(str(n))
        index.refresh()
        yield index


INNER = [
    q.Match("body", "wind rope"), q.Match("body", "sail wind", operator="and"), q.Term("body", "whale"),
    q.Match("body", "sea ship whale"), q.MatchPhrase("body", "sea ship"), q.Match("body", "nowhere"),
    q.Match("body", "wind sail") & q.Range("n", gte=3_000), q.MatchAll(), q.Bool(filter=[q.Term("body", "wind")]),
]


@given(st.sampled_from(INNER), st.sampled_from([1, 3, 10, 50, 200]), st.sampled_from([0, 0, 4]),
       st.sampled_from([1.0, 0.3]), st.booleans())
def test_a_bound_changes_no_answer(
    many: qc.Index, inner: q.Query, size: int, from_: int, boost: float, total: bool,
) -> None:
    results = [many.search(q.ScriptScore(inner, name, boost=boost), size=size, from_=from_, track_total_hits=total)
               for name in ("bounded", "unbounded")]
    assert [(hit.id, hit.score) for hit in results[0]] == [(hit.id, hit.score) for hit in results[1]]
    assert results[0].total == results[1].total
    assert results[0].max_score == results[1].max_score


def test_a_bound_leaves_documents_out(many: qc.Index) -> None:
    found = many.search(q.ScriptScore(q.Match("body", "wind rope"), bounded), size=3, profile=True)  # type: ignore[arg-type]
    assert found.profile is not None
    assert found.profile.path == "bounded"


def test_a_bound_that_does_not_hold_is_noticed(many: qc.Index) -> None:
    with pytest.raises(QueryError, match="more than its upper bound"):
        many.search(q.ScriptScore(q.Match("body", "wind rope"), lying), size=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("bound", [3, lambda score: -score, lambda score: "much", lambda score: math.inf])
def test_what_is_no_bound(bound: Any) -> None:
    with pytest.raises(ScorerError, match="bound"):
        qc.scorer(name="unbound", upper_bound=bound)(within_double)

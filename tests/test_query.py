"""Queries: what they accept, what they refuse and how they combine."""

from __future__ import annotations

import copy
import datetime
import enum
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from quidditch_core import query as q
from quidditch_core.errors import QueryError

tag, body, c = q.Term("tag", "a"), q.Match("body", "b"), q.Exists("c")


def test_a_conjunction_is_one_bool() -> None:
    assert tag & body & c == q.Bool(must=(tag, body, c))
    assert tag & (body & c) == q.Bool(must=(tag, body, c))


def test_an_alternative_is_one_bool() -> None:
    assert tag | body | c == q.Bool(should=(tag, body, c))
    assert tag | (body | c) == q.Bool(should=(tag, body, c))


def test_a_negation_joins_the_conjunction() -> None:
    assert ~tag == q.Bool(must_not=(tag,))
    assert tag & ~body & ~c == q.Bool(must=(tag,), must_not=(body, c))
    assert ~tag & ~body == q.Bool(must_not=(tag, body))


def test_filters_join_the_conjunction() -> None:
    assert tag & q.Bool(filter=(body,)) == q.Bool(must=(tag,), filter=(body,))


@pytest.mark.parametrize(
    "kept",
    [
        q.Bool(must=(tag, body), boost=2.0),
        q.Bool(must=(tag,), should=(body,)),
        q.Bool(must=(tag,), minimum_should_match=1),
        q.Bool(),
        q.Bool(should=(tag, body)),
        q.MatchNone(),
    ],
)
def test_and_keeps_whole_what_means_something_else_in_parts(kept: q.Query) -> None:
    assert kept & c == q.Bool(must=(kept, c))


@pytest.mark.parametrize(
    "kept",
    [
        q.Bool(should=(tag, body), boost=2.0),
        q.Bool(should=(tag, body), minimum_should_match=2),
        q.Bool(must=(tag,), should=(body,)),
        q.Bool(must_not=(tag,)),
        q.Bool(),
    ],
)
def test_or_keeps_whole_what_means_something_else_in_parts(kept: q.Query) -> None:
    assert kept | c == q.Bool(should=(kept, c))


def test_a_query_is_a_value() -> None:
    query = (tag & ~body) | q.Terms("n", [1, 2])
    assert hash(query) == hash(copy.deepcopy(query))
    assert pickle.loads(pickle.dumps(query)) == query
    with pytest.raises(AttributeError):
        tag.boost = 2.0


def test_repr_is_how_it_would_be_written() -> None:
    query = q.Bool(must=(q.Match("body", "sea whale", operator="and"),), filter=(q.Range("year", gte=1850),))
    text = "Bool(must=(Match('body', 'sea whale', operator='and'),), filter=(Range('year', gte=1850),))"
    assert repr(query) == text
    assert eval(text, vars(q)) == query


def test_lists_become_tuples_and_one_clause_is_enough() -> None:
    assert q.Terms("n", [1, 2]).values == (1, 2)
    assert q.Ids(["a", 2]).values == ("a", "2")
    assert q.Ids("a").values == ("a",)
    assert q.Bool(must=tag, filter=[body, c]) == q.Bool(must=(tag,), filter=(body, c))


def test_nothing_to_find_is_a_query_too() -> None:
    assert q.Terms("n", ()).values == ()
    assert q.Ids(()).values == ()


def test_foreign_scalars_become_our_own() -> None:
    value: Any
    for value, plain in [
        (np.int64(7), 7),
        (np.float32(0.5), 0.5),
        (np.str_("x"), "x"),
        (enum.Enum("Tag", {"A": "x"}, type=str).A, "x"),
        (datetime.date(2024, 2, 29), "2024-02-29"),
        (datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC), "2024-02-29T12:00:00+00:00"),
    ]:
        assert q.Term("f", value).value == plain
        assert type(q.Term("f", value).value) is type(plain)
        assert q.Match("f", value).text == str(plain)


def test_text_is_written_as_in_json() -> None:
    assert q.Match("f", True).text == "true"
    assert q.MatchPhrase("f", 7).text == "7"
    assert q.Prefix("f", 1.5).value == "1.5"


def test_operator_is_lower_case() -> None:
    assert q.Match("f", "x", operator="AND").operator == "and"


def test_a_boost_has_no_negative_zero() -> None:
    assert math.copysign(1.0, q.MatchAll(boost=-0.0).boost) == 1.0


WRONG: list[tuple[str, Callable[[], Any]]] = [
    ("Term.field", lambda: q.Term(3, "x")),
    ("Term.field", lambda: q.Term("", "x")),
    ("Exists.field", lambda: q.Exists(None)),
    ("Exists.field", lambda: q.Exists("\ud800")),
    ("Term.value", lambda: q.Term("f", None)),
    ("Term.value", lambda: q.Term("f", [1])),
    ("Term.value", lambda: q.Term("f", float("nan"))),
    ("Term.value", lambda: q.Term("f", -math.inf)),
    ("Term.value", lambda: q.Term("f", 10**10_000)),
    ("Term.value", lambda: q.Term("f", b"bytes")),
    ("Match.text", lambda: q.Match("f", {"query": "x"})),
    ("Match.operator", lambda: q.Match("f", "x", operator="xor")),
    ("Match.minimum_should_match", lambda: q.Match("f", "x", minimum_should_match="2")),
    ("Match.minimum_should_match", lambda: q.Match("f", "x", minimum_should_match=True)),
    ("MatchPhrase.slop", lambda: q.MatchPhrase("f", "x", slop=-1)),
    ("MatchPhrase.slop", lambda: q.MatchPhrase("f", "x", slop=1.0)),
    ("MatchAll.boost", lambda: q.MatchAll(boost=-0.5)),
    ("MatchAll.boost", lambda: q.MatchAll(boost=math.nan)),
    ("MatchAll.boost", lambda: q.MatchAll(boost=1e39)),
    ("MatchAll.boost", lambda: q.MatchAll(boost=True)),
    ("MatchAll.boost", lambda: q.MatchAll(boost="2")),
    ("Terms.values", lambda: q.Terms("f", "abc")),
    ("Terms.values[1]", lambda: q.Terms("f", ["a", None])),
    ("Terms.values", lambda: q.Terms("f", range(65_537))),
    ("Ids.values[0]", lambda: q.Ids([""])),
    ("Ids.values[0]", lambda: q.Ids([1.5])),
    ("Range.gt", lambda: q.Range("f", gt=1, gte=2)),
    ("Range.lt", lambda: q.Range("f", lt=1, lte=2)),
    ("Range.lte", lambda: q.Range("f", lte=[1])),
    ("Range.format", lambda: q.Range("f", format=3)),
    ("Bool.must[1]", lambda: q.Bool(must=[tag, {"match_all": {}}])),
    ("Bool.should", lambda: q.Bool(should="abc")),
    ("ConstantScore.filter", lambda: q.ConstantScore({"match_all": {}})),
]


@pytest.mark.parametrize(("path", "build"), WRONG)
def test_what_is_wrong_is_named(path: str, build: Callable[[], Any]) -> None:
    with pytest.raises(QueryError) as caught:
        build()
    assert caught.value.path == path
    assert caught.value.expected


@pytest.mark.parametrize("build", [lambda: tag & {"match_all": {}}, lambda: tag | None, lambda: tag and body])
def test_operators_refuse_what_is_no_query(build: Callable[[], Any]) -> None:
    with pytest.raises(QueryError):
        build()


def test_depth_is_bounded_while_building() -> None:
    query: q.Query = tag
    for _ in range(q.MAX_DEPTH - 1):
        query = ~query
    assert query.depth == q.MAX_DEPTH
    with pytest.raises(QueryError, match="nested too deep"):
        assert ~query
    with pytest.raises(QueryError, match="nested too deep"):
        q.ConstantScore(query)


def test_clauses_are_bounded_while_building() -> None:
    query = q.Bool(should=(tag,) * q.MAX_CLAUSES)
    assert query.leaves == q.MAX_CLAUSES
    with pytest.raises(QueryError, match="too many clauses"):
        assert query | body
    doubled: q.Query = tag
    for _ in range(10):
        doubled = q.Bool(must=(doubled, doubled))
    with pytest.raises(QueryError, match="too many clauses"):
        q.Bool(must=(doubled, doubled))

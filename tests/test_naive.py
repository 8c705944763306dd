"""The oracle is right: answers worked out by hand, or stated by the documentation of Lucene and OpenSearch.

``tests/rivals`` compares it with Lucene and tantivy on random input.
"""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import naive
from tests.naive import Conflict, Found, Missing, Oracle, Written, decoded_length, merged, native

MAPPING = {
    "properties": {
        "body": {"type": "text", "analyzer": "whitespace"},
        "title": {"type": "text", "fields": {"raw": {"type": "keyword", "ignore_above": 5}}},
        "tag": {"type": "keyword"},
        "n": {"type": "integer"},
        "day": {"type": "date"},
        "ok": {"type": "boolean", "null_value": False},
        "author": {"properties": {"name": {"type": "keyword"}, "age": {"type": "long"}}},
    }
}


def oracle(*documents: Any) -> Oracle:
    """Documents d0, d1, ...; a string is a body."""
    made = Oracle(MAPPING)
    for number, document in enumerate(documents):
        made.put(f"d{number}", {"body": document} if isinstance(document, str) else document)
    return made


def search(made: Oracle, query: Any = None, **body: Any) -> Found:
    return made.search({"query": query or {"match_all": {}}, **body}, made.fresh_layout())


def ids(made: Oracle, query: Any = None, **body: Any) -> str:
    """The ids found, in order, without their d."""
    return "".join(id[1:] for id in search(made, query, **body).ids)


def test_it_shares_no_code_with_the_engine() -> None:
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(Path(naive.__file__).read_text()))
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module or ""] if isinstance(node, ast.ImportFrom)
            else []
        )
    }  # fmt: skip
    assert "quidditch_core" not in imported


# Values


def test_lengths_are_exact_up_to_40_then_keep_four_bits() -> None:
    assert [decoded_length(n) for n in range(41)] == list(range(41))
    assert [decoded_length(n) for n in (41, 42, 55, 56, 59, 60, 1000)] == [40, 42, 54, 56, 56, 60, 984]


@pytest.mark.parametrize(
    ("kind", "given", "kept"),
    [
        ("integer", "7", 7),
        ("integer", 7.9, 7),
        ("integer", "-7.9", -7),
        ("float", 0.1, 0.10000000149011612),
        ("boolean", "", 0),
        ("boolean", "true", 1),
        ("date", "1970-01-01T00:00:01.500Z", 1500),
        ("date", "1970-01-02", 86_400_000),
        ("date", 12, 12),
        ("keyword", True, "true"),
    ],
)
def test_native_values(kind: str, given: Any, kept: Any) -> None:
    assert native(kind, given) == kept


# Writes


def test_every_write_takes_a_seq_no_and_a_version() -> None:
    made = Oracle(MAPPING)
    assert made.put("a", {"n": 1}) == Written("a", 0, 1, "created")
    assert made.put("a", {"n": 2}) == Written("a", 1, 2, "updated")
    assert made.delete("a") == Written("a", 2, 3, "deleted")
    assert made.get("a") is None
    assert made.delete("a") == Written("a", 3, 4, "not_found")
    assert made.put("a", {"n": 3}, op_type="create") == Written("a", 4, 5, "created")
    assert made.current() == {("a", 4)}


def test_without_its_tombstone_an_id_begins_anew() -> None:
    made = oracle("x")
    made.delete("d0")
    made.forget_tombstones()
    assert made.put("d0", {}) == Written("d0", 2, 1, "created")


def test_conditions() -> None:
    made = oracle("x")
    with pytest.raises(Conflict):
        made.put("d0", {}, op_type="create")
    with pytest.raises(Conflict):
        made.put("d0", {}, if_seq_no=1, if_primary_term=1)
    with pytest.raises(Conflict):
        made.delete("d0", if_seq_no=0, if_primary_term=2)
    with pytest.raises(Conflict):
        made.put("absent", {}, if_seq_no=0, if_primary_term=1)
    assert made.put("d0", {}, if_seq_no=0, if_primary_term=1).seq_no == 1
    assert made.delete("d0", if_seq_no=1, if_primary_term=1).result == "deleted"
    with pytest.raises(Conflict):
        made.put("d0", {}, if_seq_no=2, if_primary_term=1)  # a tombstone does not count


def test_updates_merge_objects_and_replace_the_rest() -> None:
    old = {"a": {"b": 1, "c": [1, 2]}, "d": 1}
    assert merged(old, {"a": {"c": [3]}, "d": {"e": 1}}) == {"a": {"b": 1, "c": [3]}, "d": {"e": 1}}
    assert old == {"a": {"b": 1, "c": [1, 2]}, "d": 1}


def test_updates() -> None:
    made = oracle({"n": 1})
    assert made.update("d0", {"n": 1}) == Written("d0", 0, 1, "noop")
    assert made.update("d0", {"n": 1.0}).result == "updated"  # another value to JSON
    assert made.update("new", {"n": 5}, upsert={"n": 6}) == Written("new", 2, 1, "created")
    got = made.get("new")
    assert got is not None
    assert got.source == {"n": 6}
    with pytest.raises(Missing):
        made.update("absent", {})


def test_layouts_must_hold_exactly_the_current_documents() -> None:
    made = oracle("x", "y")
    made.put("d0", {})
    made.check_layout([[("d0", 0, False), ("d1", 1, True)], [("d0", 2, True)]])
    for wrong in (
        [[("d0", 0, True), ("d1", 1, True)]],
        [[("d1", 1, True)]],
        [[("d1", 1, True), ("d0", 2, True)], [("d0", 2, True)]],
        [[("d1", 0, False), ("d1", 1, True), ("d0", 2, True)]],
    ):
        with pytest.raises(AssertionError):
            made.check_layout(wrong)


# Scores


def test_the_smallest_score() -> None:
    found = search(oracle("a"), {"term": {"body": "a"}})
    assert float(found.scores[0] or 0) == pytest.approx(math.log(1 + 0.5 / 1.5) / 2.2, rel=1e-6)


def test_replaced_documents_count_in_statistics_until_they_are_merged_away() -> None:
    made = oracle("a", "b")
    made.put("d0", {"body": "a"})
    query = {"query": {"term": {"body": "a"}}}
    before = made.search(query, [[("d0", 0, False), ("d1", 1, True)], [("d0", 2, True)]])
    after = made.search(query, [[("d1", 1, True), ("d0", 2, True)]])
    assert before.ids == after.ids == ["d0"]
    assert float(before.scores[0] or 0) == pytest.approx(math.log(1 + 1.5 / 2.5) / 2.2, rel=1e-6)
    assert float(after.scores[0] or 0) == pytest.approx(math.log(1 + 1.5 / 1.5) / 2.2, rel=1e-6)


def test_ties_break_by_place() -> None:
    made = oracle("a", "a", "a")
    layout = [[("d2", 2, True)], [("d0", 0, True), ("d1", 1, True)]]
    assert made.search({"query": {"term": {"body": "a"}}}, layout).ids == ["d2", "d0", "d1"]


def test_a_repeated_word_weighs_as_much_as_a_boosted_one() -> None:
    made = oracle("a b", "a c", "b")
    repeated = search(made, {"match": {"body": "a b a"}})
    boosted = search(
        made, {"bool": {"should": [{"term": {"body": {"value": "a", "boost": 2}}}, {"term": {"body": "b"}}]}}
    )
    assert repeated.scores == boosted.scores


def test_filters_do_not_score() -> None:
    made = oracle("a b", "b")
    assert search(made, {"bool": {"filter": [{"term": {"body": "b"}}]}}).scores == [np.float32(0)] * 2
    assert search(made, {"bool": {"must_not": [{"term": {"body": "a"}}]}}).scores == [np.float32(0)]
    assert search(made, {"bool": {}}).scores == [np.float32(1)] * 2
    scored = search(made, {"constant_score": {"filter": {"term": {"body": "b"}}, "boost": 3}})
    assert scored.scores == [np.float32(3)] * 2


# Queries


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"match": {"body": "a c"}}, "012"),
        ({"match": {"body": {"query": "a c", "operator": "and"}}}, "0"),
        ({"match": {"body": {"query": "a b c", "minimum_should_match": 2}}}, "01"),
        ({"match": {"body": {"query": "a b c", "minimum_should_match": -1}}}, "01"),
        ({"match": {"body": {"query": "a b c", "minimum_should_match": -5}}}, "012"),
        ({"match": {"body": {"query": "a b c", "minimum_should_match": 4}}}, ""),
        ({"match": {"body": " "}}, ""),
        ({"match": {"tag": "x y"}}, "3"),
        ({"term": {"tag": "x y"}}, "3"),
        ({"term": {"n": 3}}, "3"),
        ({"term": {"n": "3"}}, "3"),
        ({"term": {"n": 3.5}}, ""),
        ({"terms": {"tag": ["x y", "z"]}}, "3"),
        ({"range": {"n": {"gt": 2.5, "lte": 4}}}, "3"),
        ({"range": {"n": {"gt": 7}}}, ""),
        ({"range": {"tag": {"gte": "x", "lt": "y"}}}, "3"),
        ({"prefix": {"tag": "x"}}, "3"),
        ({"ids": {"values": ["d2", "d0", "d9"]}}, "02"),
        ({"exists": {"field": "body"}}, "0124"),
        ({"exists": {"field": "author"}}, "4"),
        ({"exists": {"field": "title.raw"}}, ""),
        ({"exists": {"field": "ok"}}, "4"),
        ({"term": {"author.name": "ann"}}, "4"),
        ({"match": {"title": "ABC"}}, "4"),
        ({"term": {"absent": 1}}, ""),
        ({"match_none": {}}, ""),
        ({"bool": {"must": {"term": {"body": "a"}}, "must_not": {"term": {"body": "c"}}}}, "1"),
        ({"bool": {"filter": {"term": {"body": "c"}}, "should": {"term": {"body": "a"}}}}, "02"),
        (
            {"bool": {"filter": {"term": {"body": "c"}}, "should": {"term": {"body": "a"}},
                      "minimum_should_match": 1}},
            "0",
        ),
        ({"bool": {"should": [{"term": {"body": "c"}}], "minimum_should_match": -1}}, "02"),
    ],
)  # fmt: skip
def test_which_documents_match(query: Any, found: str) -> None:
    made = oracle(
        "a b c",
        "a b",
        "c",
        {"tag": ["x y", "q"], "n": [3, 7]},
        {"body": "", "author": [{"name": "ann"}, {"age": 4}], "title": "Abc defg", "ok": None},
    )
    assert "".join(sorted(ids(made, query))) == found
    assert made.count(query, made.fresh_layout()) == len(found)


def frequency(text: Any, phrase: str, slop: int) -> float:
    """How often the phrase is in the text."""
    words = phrase.split()
    made = oracle({"body": text})
    [document] = made.versions.values()
    here = document.positions["body"]
    if not all(word in here for word in words):
        return 0.0
    found = [(word, here[word]) for word in words]
    return float(naive.sloppy_frequency(found, slop) if slop else naive.exact_frequency(found))


@pytest.mark.parametrize(
    ("text", "phrase", "slop", "expected"),
    [
        ("a b a b", "a b", 0, 2),
        ("a b a b", "b a", 0, 1),
        ("a a a", "a a", 0, 2),
        (["a", "b"], "a b", 0, 0),
        (["a", "b"], "a b", 99, 0),
        (["a", "b"], "a b", 100, 1 / 101),
        ("x a b a y", "a b", 2, 1 + 1 / 3),  # SloppyPhraseMatcher's own example
        ("b a", "a b", 1, 0),
        ("b a", "a b", 2, 1 / 3),  # to swap two words takes two moves
        ("a x b", "a b", 1, 1 / 2),
        ("a", "a a", 5, 0),
        ("a a", "a a", 5, 1),
        ("a x a", "a a", 1, 1 / 2),
    ],
)
def test_phrase_frequencies(text: Any, phrase: str, slop: int, expected: float) -> None:
    assert frequency(text, phrase, slop) == pytest.approx(expected)


# Order, pages, totals, sources


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        (["n"], "2013"),
        (["-n"], "0213"),
        ([{"n": "desc"}], "0213"),
        ([{"n": {"order": "desc", "mode": "min"}}], "1023"),
        ([{"n": {"missing": "_first"}}], "3201"),
        ([{"n": {"order": "desc", "missing": "_first"}}], "3021"),
        ([{"n": {"missing": 4}}], "2031"),
        (["tag", "-n"], "1023"),
        (["_doc"], "0123"),
        ([{"_doc": "desc"}], "3210"),
    ],
)
def test_sorting(sort: Any, order: str) -> None:
    made = oracle({"n": [3, 9], "tag": "b"}, {"n": 5, "tag": "a"}, {"n": [1, 8]}, {})
    assert ids(made, sort=sort) == order


def test_sorted_hits_have_a_score_only_if_they_sort_by_it() -> None:
    made = oracle("a", "a b")
    by_n = search(made, {"term": {"body": "a"}}, sort=["n"])
    assert (by_n.scores, by_n.sort) == ([None, None], [[None], [None]])
    by_score = search(made, {"term": {"body": "a"}}, sort=["n", "_score"])
    assert by_score.ids == ["d0", "d1"]
    assert by_score.sort == [[None, float(score or 0)] for score in by_score.scores]


def test_pages_and_totals() -> None:
    made = oracle(*"aaaaa")
    assert ids(made, size=2, **{"from": 3}) == "34"
    assert (search(made).max_score, search(made, size=0).max_score) == (np.float32(1), None)
    assert search(made).total == (5, "eq")
    assert search(made, track_total_hits=True, size=0).total == (5, "eq")
    assert search(made, track_total_hits=4).total == (4, "gte")
    assert search(made, track_total_hits=False).total is None


@pytest.mark.parametrize(
    ("wanted", "left"),
    [
        (True, {"tag": "x", "author": {"name": "ann", "age": 3}}),
        (False, None),
        ("author.n*", {"author": {"name": "ann"}}),
        (["author", "n"], {"author": {"name": "ann", "age": 3}}),
        ({"excludes": ["*.age"]}, {"tag": "x", "author": {"name": "ann"}}),
        ({"includes": ["author"], "excludes": ["author.name"]}, {"author": {"age": 3}}),
        ({"includes": ["author"], "excludes": ["author.*"]}, {"author": {}}),
        ({"includes": ["author.*"], "excludes": ["author.name", "*.age"]}, {}),
        ("absent", {}),
    ],
)
def test_source_filtering(wanted: Any, left: Any) -> None:
    made = oracle({"tag": "x", "author": {"name": "ann", "age": 3}})
    assert search(made, _source=wanted).sources == [left]

"""Explanations add up: the value is the score of the search, to the bit, and matches where it matches."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from quidditch_core import query as q
from quidditch_core.errors import NotFoundError

WORDS = ["sea", "whale", "ship", "captain", "storm", "harbour", "mast", "sail"]

QUERIES = [
    q.Match("body", "whale"),
    q.Match("body", "whale sea storm sea"),
    q.Match("body", "whale ship", operator="and", boost=2.5),
    q.Match("body", "whale ship mast sail", minimum_should_match=3),
    q.MatchPhrase("body", "sea ship"),
    q.MatchPhrase("body", "ship sea mast", slop=5, boost=0.3),
    q.Term("tag", "odd", boost=3),
    q.Range("n", gte=10, lt=40),
    q.ConstantScore(q.Match("body", "mast"), boost=1.7),
    q.Bool(must=(q.Match("body", "sail"),), should=(q.Term("tag", "odd"), q.MatchPhrase("body", "sea sea")),
           filter=(q.Range("n", gte=5),), must_not=(q.Term("n", 17),), boost=0.7),
    q.Match("body", "whale") | q.Match("raw", "sea"),
    q.MatchAll(boost=2),
    q.Exists("tag"),
]


@pytest.fixture
def index(tmp_index: Callable[..., Any]) -> Any:
    """200 documents in three segments, some deleted, one field without norms."""
    made = tmp_index({"properties": {
        "body": {"type": "text"}, "raw": {"type": "text", "norms": False}, "tag": {"type": "keyword"},
        "n": {"type": "integer"}}}, settings={"refresh_interval": "-1"})
    random = Random(7)
    for n in range(200):
        text = " ".join(random.choices(WORDS, k=random.randint(0, 30)))
        doc: dict[str, Any] = {"body": text, "raw": text, "n": n}
        made.put(str(n), doc | ({"tag": "odd"} if n % 2 else {}))
        if n in (60, 130):
            made.flush()
    for n in range(0, 200, 9):
        made.delete(str(n))
    made.refresh()
    return made


@pytest.mark.parametrize("query", QUERIES, ids=repr)
def test_explanations_add_up(index: Any, query: q.Query) -> None:
    found = {hit.id: hit.score for hit in index.search(query, size=200).hits}
    assert found
    for n in range(200):
        if n % 9 == 0:
            continue
        explanation = index.explain(query, str(n))
        assert explanation.match == (str(n) in found)
        assert explanation.value == found.get(str(n), 0.0)


def test_a_deleted_document_is_not_there(index: Any) -> None:
    with pytest.raises(NotFoundError):
        index.explain(q.MatchAll(), "9")


@pytest.mark.parametrize("query", QUERIES, ids=repr)
def test_merging_keeps_hits_and_their_order(index: Any, query: q.Query) -> None:
    """After a merge statistics lose the deleted documents, so scores move; what matches does not."""
    before = index.count(query)
    index.merge()
    assert index.count(query) == before == index.search(query, track_total_hits=True).total.value
    assert len(index.segments()) == 1
    for hit in index.search(query, size=5).hits:
        assert index.explain(query, hit.id).value == hit.score


def test_many_refreshes_leave_few_segments(tmp_index: Callable[..., Any]) -> None:
    index = tmp_index({"properties": {"body": {"type": "text"}}}, settings={"refresh_interval": "-1"})
    for n in range(300):
        index.put(str(n), {"body": f"sea {n}"})
        index.refresh()
    assert len(index.segments()) <= 30
    assert index.count(q.Match("body", "sea")) == 300

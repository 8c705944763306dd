"""Results: OpenSearch's response form, and tables in which documents stay text."""

from __future__ import annotations

import copy
import html.parser
import json
import pickle
from typing import Any

import numpy as np
import pytest

from quidditch_core.errors import DocumentError
from quidditch_core.result import (
    BulkFailure,
    BulkReport,
    Document,
    Explanation,
    Hit,
    SearchResult,
    Total,
    WriteResult,
)


def result(*hits: Hit, **attributes: Any) -> SearchResult:
    return SearchResult(**{"total": Total(len(hits)), "hits": list(hits), "index": "books", **attributes})


def test_the_response_form() -> None:
    hit = Hit("b1", 1.5, b'{"title":"Sea"}', highlight={"title": ["<em>Sea</em>"]})
    answer = result(hit, max_score=1.5, took_ms=2.9)
    assert answer.to_dict() == {
        "took": 2,
        "timed_out": False,
        "_shards": {"total": 1, "successful": 1, "skipped": 0, "failed": 0},
        "hits": {
            "total": {"value": 1, "relation": "eq"},
            "max_score": 1.5,
            "hits": [
                {
                    "_index": "books",
                    "_id": "b1",
                    "_score": 1.5,
                    "_source": {"title": "Sea"},
                    "highlight": {"title": ["<em>Sea</em>"]},
                }
            ],
        },
    }
    assert list(answer.to_dict()["hits"]["hits"][0]) == ["_index", "_id", "_score", "_source", "highlight"]


def test_keys_are_left_out_as_in_opensearch() -> None:
    body = result(Hit("b1", sort=[7, None]), total=None).to_dict()
    assert body["hits"] == {
        "max_score": None,
        "hits": [{"_index": "books", "_id": "b1", "_score": None, "sort": [7, None]}],
    }
    assert "highlight" not in Hit("b1", highlight={}).to_dict()
    assert "_source" in Hit("b1", source=b"{}").to_dict()
    assert "aggregations" not in body
    assert result(aggs={}).to_dict()["aggregations"] == {}


def test_the_response_is_json() -> None:
    score = np.float32(0.1)
    body = result(Hit("b1", score), max_score=score).to_dict()
    assert json.loads(json.dumps(body)) == body


def test_a_result_is_a_sequence_of_hits() -> None:
    hits = [Hit(f"b{i}") for i in range(3)]
    answer = result(*hits)
    assert len(answer) == 3
    assert list(answer) == hits
    assert answer[0] is hits[0]
    assert answer[1:] == hits[1:]


def test_sources_are_decoded_when_looked_at() -> None:
    hit = Hit("b1", source=b"not json")
    assert repr(hit) == "Hit('b1', score=None)"
    hit = Hit("b1", source=b'{"n":123456789012345678901234567890,"x":1.0}')
    assert hit.source == {"n": 123456789012345678901234567890, "x": 1.0}
    assert hit.source is hit.source
    assert Hit("b1").source is None
    assert Document("b1", b"{}", 1, 1, 1).source == {}


NASTY = "<script>alert(1)</script> & <em>x</em> </em> <em> \x1b[31m\u202e\n"


class Tags(html.parser.HTMLParser):
    """The start and end tags of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert not attrs
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self.tags.append("/" + tag)

    def handle_data(self, data: str) -> None:
        self.text += data


OURS = {"p", "table", "thead", "tbody", "tr", "th", "td", "mark"}


@pytest.mark.parametrize("tags", [("<em>", "</em>"), ("<script>", "</script>"), ("", ""), ("&", "&amp;")])
def test_documents_cannot_put_markup_into_a_notebook(tags: tuple[str, str]) -> None:
    hits = [
        Hit(NASTY, 1.0, {"<b>": NASTY}),
        Hit("b2", None, {}, sort=[NASTY], highlight={"t": [f"{NASTY}<em>sea</em>"]}),
        Hit("b3", source=json.dumps({"t": NASTY}).encode()),
    ]
    page = Tags(result(*hits, pre_tag=tags[0], post_tag=tags[1])._repr_html_())
    assert {tag.removeprefix("/") for tag in page.tags} <= OURS
    for name in OURS:
        assert page.tags.count(name) == page.tags.count("/" + name)
    assert "<script>alert(1)</script>" in page.text or tags[0] == "<script>"


def test_highlights_are_marked_in_a_notebook() -> None:
    page = result(Hit("b1", 1.0, {}, highlight={"t": ["the <em>sea</em> & all"]}))._repr_html_()
    assert "the <mark>sea</mark> &amp; all" in page


def test_the_terminal_gets_printable_lines() -> None:
    hits = [Hit(NASTY, 1.0, {"t": NASTY * 100}, sort=[NASTY]) for _ in range(12)]
    text = repr(result(*hits, total=Total(10_000, "gte")))
    lines = text.split("\n")
    assert lines[0] == "12 of at least 10,000 hits in 0.00 ms"
    assert len(lines) == 1 + 1 + 10 + 1
    assert all(line.isprintable() and len(line) < 300 for line in lines)


def test_an_empty_result_is_one_line() -> None:
    assert repr(result(total=None)) == "0 hits in 0.00 ms"
    assert Tags(result()._repr_html_()).tags == ["p", "/p"]


def test_a_bulk_report_names_what_failed() -> None:
    error = DocumentError("not a number", path="year", found="MDCCC", expected="a long")
    lines = str(BulkReport(1234, [BulkFailure(7, "b7", error)] * 12, took_ms=56.0)).split("\n")
    assert lines[0] == "1,234 documents indexed, 12 failed, in 56 ms"
    assert lines[1].startswith("  document 7 (b7): year: not a number")
    assert lines[11:] == ["  ... and 2 more"]


def test_an_explanation_is_a_tree() -> None:
    tree = Explanation(2.0, "sum of:", (Explanation(1.5, "weight(title:sea)", (Explanation(1.0, "idf"),)),))
    assert str(tree) == "2 = sum of:\n  1.5 = weight(title:sea)\n    1 = idf"
    assert tree.to_dict() == {
        "value": 2.0,
        "description": "sum of:",
        "details": [
            {
                "value": 1.5,
                "description": "weight(title:sea)",
                "details": [{"value": 1.0, "description": "idf", "details": []}],
            }
        ],
    }


def test_small_values_say_what_they_are() -> None:
    assert WriteResult("b1", 3, 1, 1, "created").seq_no == 3
    assert repr(Document("b1", {"n": 7}, 3, 1, 1)) == "Document('b1', {\"n\": 7}, seq_no=3, version=1)"
    assert str(Total(10_000, "gte")) == "at least 10,000"


class _Lazy:
    """Hits that belong to an index."""

    max_score = 1.5

    def __len__(self) -> int:
        return 1

    def make(self) -> list[Hit]:
        return [Hit("b1", 1.5)]

    def __reduce__(self) -> Any:
        raise AssertionError("what belongs to the index is not copied")


def test_copies_have_hits_and_nothing_of_the_index() -> None:
    for copied in (copy.copy, copy.deepcopy, lambda answer: pickle.loads(pickle.dumps(answer))):
        answer = copied(SearchResult(Total(1), _Lazy(), took_ms=2.0, index="books"))
        assert (answer.max_score, answer.index, answer.total) == (1.5, "books", Total(1))
        assert [(hit.id, hit.score) for hit in answer] == [("b1", 1.5)]


def test_two_threads_may_be_the_first_to_look() -> None:
    class Slow(_Lazy):
        @property
        def max_score(self) -> float:  # type: ignore[override]
            if not self.nested:
                self.nested = True
                assert len(answer.hits) == 1  # as by a thread that comes between
            return 1.5

        nested = False

    answer = SearchResult(Total(1), Slow())
    assert [hit.id for hit in answer.hits] == ["b1"]

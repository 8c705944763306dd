"""Documents in bulk against the same documents one by one: the same segments, numbers, mappings and errors."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import CO_GENERATOR
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import quidditch_core as qc
from quidditch_core.index import facade, incoming
from quidditch_core.mapping import Mapping

Body = dict[str, Any]

MAPPING: Body = {"properties": {
    "key": {"type": "keyword"},
    "title": {"type": "text", "analyzer": "english", "fields": {"raw": {"type": "keyword", "ignore_above": 6}}},
    "body": {"type": "text", "position_increment_gap": 3},
    "plain": {"type": "text", "analyzer": "keyword"},
    "unindexed": {"type": "text", "index": False},
    "tag": {"type": "keyword", "null_value": "none"},
    "count": {"type": "integer"},
    "small": {"type": "byte", "coerce": False},
    "price": {"type": "float"},
    "exact": {"type": "double", "index": False, "doc_values": False},
    "flag": {"type": "boolean"},
    "day": {"type": "date"},
    "month": {"type": "date", "format": "yyyy-MM||epoch_second"},
    "author": {"properties": {"name": {"type": "text"}, "born": {"type": "long"}}},
    "loose": {"dynamic": "false", "properties": {"known": {"type": "keyword"}}},
    "strict": {"dynamic": "strict", "properties": {"known": {"type": "keyword"}}},
    "off": {"type": "object", "enabled": False},
}}

WORDS = st.sampled_from(["whale", "WHALE", "Whales", "sea", "the", "İstanbul", "ΣΟΦΟΣ", "don't", "鯨", "running",
                         "antidisestablishmentarianism", "x\u0301y", "🐋", "a_b", "", "  ", "3.14"])
TEXTS = st.lists(WORDS, max_size=6).map(" ".join)
DAYS = st.sampled_from(["2024-02-29", "2024-01-31T10:20:30Z", "1969-12-31T23:59:59.999Z", "0000-03-01", "2023", "17",
                        "2024-01-31T10:20:30+02:00"])
AUTHORS = st.fixed_dictionaries({}, optional={
    "name": TEXTS | st.lists(TEXTS, max_size=2), "born": st.integers(1800, 2000)}) | st.none()
GOOD: dict[str, st.SearchStrategy[Any]] = {
    "title": TEXTS, "body": TEXTS | st.lists(TEXTS, max_size=3), "plain": TEXTS, "unindexed": TEXTS,
    "tag": WORDS | st.none() | st.lists(WORDS, max_size=3),
    "count": st.integers(-5, 5) | st.integers(-(2**31), 2**31 - 1),
    "small": st.integers(-128, 127),
    "price": st.floats(width=32, allow_nan=False, allow_infinity=False) | st.integers(0, 9),
    "exact": st.floats(allow_nan=False, allow_infinity=False), "flag": st.booleans(), "day": DAYS,
    "month": st.sampled_from(["2024-01", "1700000000"]),
    "author": AUTHORS | st.lists(AUTHORS, max_size=3),
    "loose": st.fixed_dictionaries({}, optional={"known": WORDS, "other": st.integers() | TEXTS}),
    "strict": st.fixed_dictionaries({}, optional={"known": WORDS}),
    "off": st.fixed_dictionaries({}, optional={"any": st.lists(st.integers(0, 3))}),
}
ODD: list[tuple[str, Any]] = [
    ("count", "7"), ("count", 1.5), ("count", "x"), ("count", 2**40), ("count", True), ("small", "7"), ("small", 300),
    ("price", "1e3"), ("price", 1e300), ("price", "x"), ("exact", 10**400), ("flag", "true"), ("flag", "yes"),
    ("day", 1.5), ("day", "2023-02-29"), ("day", "2024-01-31T10:20:60Z"), ("title", 5), ("title", ["a", ["b", None]]),
    ("title", {"x": 1}), ("tag", "é" * 20_000), ("tag", 1), ("author", [{"name": "x"}, 7]),
    ("author", [[{"name": "x"}]]),
    ("author.name", "dotted"), ("author", "x"), ("strict", {"other": 1}), ("loose", {"a.known": 1}), ("new", 5),
    ("new", "text"), ("fresh", None), ("_id", "x"), ("key", ""), ("key", 7), ("key", "x" * 600), ("key", None),
    ("key", "again"), ("key", "again"), ("body", "\ud800"), ("off", {"deep": "x"}), ("", 1), ("loose", {"_id": "x"}),
    ("_id", None), ("title", []), ("count", [1, [2, [3]]]), ("month", "2024-13"),
]


@st.composite
def corpora(draw: st.DrawFn) -> list[Body]:
    """Documents of a few shapes, most of them usual, with distinct ids but where an odd one says otherwise."""
    shapes = draw(st.lists(st.sets(st.sampled_from(sorted(GOOD)), max_size=5), min_size=1, max_size=3))
    patterns = [draw(st.fixed_dictionaries({name: GOOD[name] for name in shape})) for shape in shapes for _ in "ab"]
    docs = [{"key": f"d{number}", **draw(st.sampled_from(patterns))} for number in range(draw(st.integers(1, 80)))]
    for name, value in draw(st.lists(st.sampled_from(ODD), max_size=3)):
        docs[draw(st.integers(0, len(docs) - 1))][name] = value
    return docs


def sections(index: Any) -> Any:
    """Everything that the writer's segments hold, but how numbers in the stored documents are written."""
    held = []
    for holding in index._writer.holdings:
        segment = holding.segment
        parts = {name: (part.data.tobytes(), part.width, part.base) for name in segment.sections.names()
                 if not name.startswith("stored") for part in [segment.sections.section(name)]}
        live = None if holding.live is None else holding.live.tolist()
        held.append((segment.docs, sorted(segment.fields.items()), parts, live))
    return held


@contextmanager
def indexes() -> Iterator[tuple[Any, Any]]:
    with tempfile.TemporaryDirectory() as directory, \
            qc.create(Path(directory, "a"), MAPPING, settings={"index.refresh_interval": -1}) as one, \
            qc.create(Path(directory, "b"), MAPPING, settings={"index.refresh_interval": -1}) as other:
        yield one, other


def found(document: Any) -> Any:
    return document and (document.id, document.source, document.seq_no, document.version, document.primary_term)


def as_json(doc: Body) -> bytes | None:
    try:
        return json.dumps(doc, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return None


@given(corpora(), st.booleans(), st.integers(1, 3))
@example([{"key": f"d{number}", "title": "whale", "new": number} for number in range(50)], False, 2)
@example([{"key": f"d{number % 7}", "title": "whale"} for number in range(50)], True, 2)
def test_bulk_is_one_by_one(docs: list[Body], encode: bool, rounds: int) -> None:
    given_docs: list[Any] = docs
    if encode:
        encoded = [as_json(doc) for doc in docs]
        given_docs = [doc if source is None else source for doc, source in zip(docs, encoded, strict=True)]
    with indexes() as (bulk, single):
        for _ in range(rounds):
            report = bulk.bulk(given_docs, id="key")
            errors = []
            for position, doc in enumerate(given_docs):
                try:
                    body = incoming.decoded(doc)[1]
                    key = incoming.id_of(body, "key").decode()
                    single.put(key, doc)
                except qc.errors.RequestError as error:
                    errors.append((position, str(error)))
            assert [(failure.position, str(failure.error)) for failure in report.failed] == errors
            assert report.indexed == len(docs) - len(errors)
            assert bulk.mapping == single.mapping
            for doc in docs:
                if isinstance(key := doc.get("key"), str) and 0 < len(key) < 500:
                    assert found(bulk.get(key)) == found(single.get(key))
            bulk.refresh()
            single.refresh()
            assert sections(bulk) == sections(single)


def test_the_usual_is_read_all_at_once(tmp_path: Path) -> None:
    """Whatever the property test shows would be shown by the slow way, too, if there were no other."""
    docs = [{"key": str(number), "title": "whale", "body": ["a", "b"], "count": number, "price": 1.5, "flag": True,
             "day": "2024-01-31T10:20:30Z", "author": [{"name": "x"}, {"name": "y"}], "tag": None}
            for number in range(100)]
    read = incoming.read(docs, "key", Mapping.from_dict(MAPPING))
    assert read is not None
    assert read.keys == [b"%d" % number for number in range(100)]
    assert [json.loads(source) for source in read.sources] == docs
    assert {column.field.name for column in read.columns} == {
        "key", "title", "title.raw", "body", "count", "price", "flag", "day", "author.name", "tag"}
    with qc.create(tmp_path / "i", MAPPING, settings={"index.refresh_interval": -1}) as index:
        failed: list[Any] = []
        assert index._bulk(docs, 0, "key", failed, singly=False) == 0
        docs[60]["count"] = "x"
        assert 0 < index._bulk(docs, 0, "key", failed, singly=False) <= facade.FEW
        assert [failure.position for failure in failed] == [60]


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"x", 10**30])
def test_what_json_lacks_is_refused_in_bulk(tmp_path: Path, value: Any) -> None:
    with qc.create(tmp_path / "i", MAPPING, settings={"index.refresh_interval": -1}) as index:
        docs: list[Any] = [{"key": str(number), "off": {"x": 1}} for number in range(40)]
        docs[20]["off"] = {"x": value}
        report = index.bulk(docs, id="key")
        if value == 10**30:
            assert not report.failed
            assert index.get("20").source == docs[20]
        else:
            assert [failure.position for failure in report.failed] == [20]
        assert index.get("39") is not None


class Interrupt:
    """Raises KeyboardInterrupt at the ``at``-th call of a function of the package, as Ctrl-C may anywhere.

    Not of a generator: what is raised while one is closed is lost.
    """

    def __init__(self, at: int) -> None:
        self._left = at

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and "/quidditch_core/index/" in code.co_filename and not code.co_flags & CO_GENERATOR:
            self._left -= 1
            if self._left == 0:
                raise KeyboardInterrupt

    def __enter__(self) -> None:
        sys.setprofile(self)

    def __exit__(self, *error: Any) -> None:
        sys.setprofile(None)


@pytest.mark.parametrize("first", range(0, 60, 6))
def test_a_bulk_that_is_interrupted_is_there_whole_or_not_at_all(first: int) -> None:
    docs: list[Any] = [{"key": f"d{number % 45}", "title": "Whales at sea", "tag": ["x", "y"], "count": number,
                        "author": {"name": "Herman"}} for number in range(40)]
    before = [{"key": f"d{number}", "title": "before"} for number in range(0, 40, 3)]
    interrupted = 0
    for at in range(first, first + 240, 61):
        with indexes() as (index, expected):
            index.bulk(before, id="key")
            if at % 2:
                index.refresh()
            try:
                with Interrupt(at):
                    index.bulk(docs, id="key")
            except KeyboardInterrupt:
                interrupted += 1
            there = [index.get(doc["key"]) for doc in docs]
            done = [found is not None and found.source == doc for found, doc in zip(there, docs, strict=True)]
            assert all(done) or not any(done)
            index.put("after", {"title": "after"})
            index.refresh()
            expected.bulk([*before, *(docs if all(done) else []), {"key": "after"}], id="key")
            expected.refresh()
            for word in ("before", "whale", "after"):
                wanted = expected.count({"match": {"title": word}}) + (word == "after")
                assert index.count({"match": {"title": word}}) == wanted, (at, word)
            assert index.count({"term": {"tag": "y"}}) == expected.count({"term": {"tag": "y"}})
    assert interrupted


def test_a_build_that_is_interrupted_can_be_done_again() -> None:
    docs: list[Any] = [{"key": f"d{number}", "title": "Ωhales at sea", "tag": ["x", "y"], "count": number, "price": 1.5}
                       for number in range(40)]
    interrupted = 0
    for at in range(1, 200, 5):
        with indexes() as (index, expected):
            for one in (index, expected):
                one.bulk(docs, id="key")
            try:
                with Interrupt(at):
                    index.refresh()
            except KeyboardInterrupt:
                interrupted += 1
            index.refresh()
            expected.refresh()
            assert sections(index) == sections(expected)
    assert interrupted > 10

"""Filtering _source and finding values in it: what OpenSearch keeps, drops and finds."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quidditch_core.dsl import SourceFilter, parse_source
from quidditch_core.index.source import filter_source, values_at, wildcard_match

BOOK: dict[str, Any] = {
    "title": "Moby-Dick",
    "author": {"name": "Melville", "born": {"year": 1819, "place": "New York"}},
    "editions": [{"year": 1851, "notes": ["a", "b"]}, {"year": 1892}],
    "tags": ["sea", "whale"],
    "stock.count": 3,
    "none": None,
    "empty": {},
}


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        (True, BOOK),
        (False, {}),
        ("title", {"title": "Moby-Dick"}),
        ("missing", {}),
        ("none", {"none": None}),
        ("author", {"author": BOOK["author"]}),
        ("author.name", {"author": {"name": "Melville"}}),
        ("author.*", {"author": BOOK["author"]}),
        ("author.born.*", {"author": {"born": BOOK["author"]["born"]}}),
        ("*.year", {"author": {"born": {"year": 1819}}, "editions": [{"year": 1851}, {"year": 1892}]}),
        ("editions.year", {"editions": [{"year": 1851}, {"year": 1892}]}),
        ("editions.notes", {"editions": [{"notes": ["a", "b"]}]}),
        ("tags", {"tags": ["sea", "whale"]}),
        ("tags.deeper", {}),
        ("stock", {"stock.count": 3}),
        ("stock.count", {"stock.count": 3}),
        ("t*", {"title": "Moby-Dick", "tags": ["sea", "whale"]}),
        (["title", "tags"], {"title": "Moby-Dick", "tags": ["sea", "whale"]}),
        ({"includes": "author", "excludes": "author.born"}, {"author": {"name": "Melville"}}),
        (
            {"includes": "author", "excludes": "*.year"},
            {"author": {"name": "Melville", "born": {"place": "New York"}}},
        ),
        ({"includes": ["author", "empty"], "excludes": ["author.*", "empty.x"]}, {"author": {}, "empty": {}}),
        ({"includes": "author.name", "excludes": "author"}, {}),
        (
            {"excludes": ["author", "e*", "t*"]},
            {"stock.count": 3, "none": None},
        ),
        (
            {"excludes": ["*.year", "*.notes", "author", "stock"]},
            {"title": "Moby-Dick", "editions": [], "tags": ["sea", "whale"], "none": None, "empty": {}},
        ),
    ],
)
def test_what_is_kept(wanted: Any, kept: Any) -> None:
    filtered = filter_source(BOOK, parse_source(wanted))
    assert filtered == kept
    assert [key for key in BOOK if key in kept] == list(filtered)


def test_the_source_is_not_changed() -> None:
    before = repr(BOOK)
    filter_source(BOOK, SourceFilter(includes=("author", "editions"), excludes=("*.year",)))
    assert repr(BOOK) == before


def test_a_pattern_with_many_stars_is_cheap() -> None:
    assert filter_source({"a" * 20_000: 1}, SourceFilter(includes=("a*" * 200 + "b",))) == {}


def test_arrays_of_arrays() -> None:
    source = {"a": [[{"b": 1, "c": 2}], [], 3, [4]]}
    assert filter_source(source, SourceFilter(includes=("a.b",))) == {"a": [[{"b": 1}]]}
    assert filter_source(source, SourceFilter(excludes=("a.b",))) == {"a": [[{"c": 2}], 3, [4]]}


keys = st.sampled_from(["a", "b", "ab", "a.b"])
trees = st.recursive(
    st.integers(0, 9),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(keys, inner, max_size=3)),
)
patterns = st.lists(st.text("ab.*", min_size=1, max_size=4), max_size=2).map(tuple)


def leaves(node: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(node, dict):
        below = [(f"{path}.{key}" if path else key, value) for key, value in node.items()]
        return [leaf for inner, value in below for leaf in leaves(value, inner)]
    if isinstance(node, list):
        return [leaf for value in node for leaf in leaves(value, path)]
    return [(path, node)]


@given(st.dictionaries(keys, trees, max_size=3), patterns, patterns)
def test_leaves_that_are_kept_are_those_whose_path_says_so(
    source: dict[str, Any], includes: tuple[str, ...], excludes: tuple[str, ...]
) -> None:
    """An object is named with everything below it, so a leaf is in a set if a beginning of its path is."""

    def named(path: str, chosen: tuple[str, ...]) -> bool:
        steps = path.split(".")
        beginnings = [".".join(steps[: i + 1]) for i in range(len(steps))]
        return any(
            re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), beginning)
            for pattern in chosen
            for beginning in beginnings
        )

    expected = [
        (path, value)
        for path, value in leaves(source)
        if (not includes or named(path, includes)) and not named(path, excludes)
    ]
    assert leaves(filter_source(source, SourceFilter(includes=includes, excludes=excludes))) == expected


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("title", ["Moby-Dick"]),
        ("author.name", ["Melville"]),
        ("author.born.year", [1819]),
        ("author", []),
        ("editions.year", [1851, 1892]),
        ("editions.notes", ["a", "b"]),
        ("tags", ["sea", "whale"]),
        ("stock.count", [3]),
        ("none", []),
        ("tit", []),
        ("title.x", []),
    ],
)
def test_values_of_a_field(path: str, values: list[Any]) -> None:
    assert values_at(BOOK, path) == values


@given(st.text("ab.*", max_size=6), st.text("ab.", max_size=8))
def test_wildcards(pattern: str, name: str) -> None:
    expected = re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), name) is not None
    assert wildcard_match(pattern, name) == expected

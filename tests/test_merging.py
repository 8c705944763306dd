"""A merged segment is, section by section, the one that its documents would have made in that order."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import quidditch_core as qc
from quidditch_core.config import Settings, SortBy
from quidditch_core.index.builder import Builder
from quidditch_core.index.findings import Findings
from quidditch_core.index.merge import Source, merge
from quidditch_core.index.verify import verify
from quidditch_core.mapping import Mapping
from quidditch_core.segment import Segment, bitmap_of

MAPPING: dict[str, Any] = {"properties": {
    "body": {"type": "text"}, "tag": {"type": "keyword"}, "n": {"type": "integer"}, "x": {"type": "double"}}}
ORDERS: list[tuple[SortBy, ...]] = [
    (),
    (SortBy("n", False, False, False),),
    (SortBy("tag", True, True, True), SortBy("x", False, False, False)),
]


def documents(count: int) -> list[dict[str, Any]]:
    rng = Random(count)
    made = []
    for number in range(count):
        words = ["all"] * rng.choice([1, 1, 2]) + [f"w{rng.randrange(40)}" for _ in range(rng.randrange(300))]
        rng.shuffle(words)
        made.append({"body": " ".join(words), "n": number % 17, "x": rng.random()})
        if number % 3:
            made[-1]["tag"] = [f"t{rng.randrange(9)}" for _ in range(rng.randrange(1, 3))]
    return made


def built(docs: list[tuple[int, dict[str, Any]]]) -> Segment:
    """A segment of numbered documents."""
    mapping, builder = Mapping.from_dict(MAPPING), Builder(None, 1)
    for number, doc in docs:
        values, mapping = mapping.parse_document(doc)
        kept = builder.add(b"id%d" % number, json.dumps(doc).encode(), values, mapping, seq_no=number, version=1,
                           primary_term=1)
        builder.keep(kept + 1)
    return builder.build()


def place(doc: dict[str, Any], sort: tuple[SortBy, ...]) -> list[Any]:
    """What a document sorts by, in plain Python; descending keys are these tests' ``tag`` alone."""
    keys: list[Any] = []
    for by in sort:
        found = doc.get(by.field)
        value = (max if by.greatest else min)(found) if isinstance(found, list) else found
        at = 0 if value is None and by.missing_first else 2 if value is None else 1
        if by.descending:
            assert by.field == "tag"
            keys.append((at, -int(value[1:]) if value else 0))
        else:
            keys.append((at, value or 0))
    return keys


@pytest.mark.parametrize("sort", ORDERS)
@pytest.mark.parametrize("gone", [0.0, 0.1])
def test_a_merged_segment_is_that_of_its_documents_in_order(sort: tuple[SortBy, ...], gone: float) -> None:
    rng = Random(3)
    numbered = list(enumerate(documents(700)))
    parts = [numbered[:300], numbered[300:310], numbered[310:]]
    kept = [[rng.random() >= gone for _ in part] for part in parts]
    sources = [Source(built(part), bitmap_of(np.flatnonzero(alive), len(part)) if gone else None)
               for part, alive in zip(parts, kept, strict=True)]
    merged = merge(sources, sort=sort)
    living = [one for part, alive in zip(parts, kept, strict=True) for one, is_alive in zip(part, alive, strict=True)
              if is_alive]
    expected = built(sorted(living, key=lambda one: place(one[1], sort)))
    assert merged.segment.sort == sort
    assert sorted(merged.segment.sections.names()) == sorted(expected.sections.names())
    for name in expected.sections.names():
        ours, theirs = merged.segment.sections.section(name), expected.sections.section(name)
        assert (ours.data.tobytes(), ours.width, ours.base) == (theirs.data.tobytes(), theirs.width, theirs.base), name
    assert list(merged.segment.fields.values()) == list(expected.fields.values())


def test_a_segment_that_is_not_sorted_as_it_says_is_found() -> None:
    segment = built(list(enumerate(documents(50))))
    for sort, sound in (((), True), ((SortBy("n", False, False, False),), False)):
        findings = Findings(segment.key)
        verify(Segment("s", segment.docs, segment.fields.values(), segment.sections, sort=sort), findings)
        assert sound == (not findings.problems)
    assert "not sorted" in findings.problems[0].what


@pytest.mark.parametrize(("settings", "says"), [
    ({"index.sort.field": "absent"}, "no such field"),
    ({"index.sort.field": "body"}, "no column"),
    ({"index.sort.field": ["n", "n"]}, "named twice"),
    ({"index.sort.field": "n", "index.sort.order": ["asc", "desc"]}, "do not go together"),
    ({"index.sort.order": "desc"}, "do not go together"),
    ({"index.sort.field": "n", "index.sort.order": "down"}, "does not fit"),
    ({"index.sort.field": "n", "index.sort.missing": "0"}, "does not fit"),
    ({"index.sort.field": "n", "index.sort.mode": "sum"}, "does not fit"),
    ({"index.sort.field": 7}, "does not fit"),
])
def test_a_sort_that_cannot_be(tmp_path: Path, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(qc.errors.SettingsError, match=says):
        qc.create(tmp_path / "index", MAPPING, settings=settings)
    assert not (tmp_path / "index").exists()


def test_the_sort_is_kept_and_cannot_change(tmp_path: Path) -> None:
    asked = {"index": {"sort": {"field": ["tag", "n"], "order": ["desc", "asc"], "missing": ["_first", "_last"]}}}
    with qc.create(tmp_path / "index", MAPPING, settings=asked) as index:
        index.put("a", {"n": 1})
    with qc.open(tmp_path / "index") as index:
        assert index.settings.sort == (SortBy("tag", True, True, True), SortBy("n", False, False, False))
        assert index.settings.to_dict()["index"]["sort"] == asked["index"]["sort"]
        assert Settings.from_dict(index.settings.to_dict()) == index.settings
        for change in ({"sort.field": ["n", "tag"]}, {"sort.missing": None}, {"sort.order": ["asc", "asc"]}):
            with pytest.raises(qc.errors.SettingsError, match="fixed when the index is created"):
                index.put_settings(change)


def test_how_a_sorted_search_found_its_hits(tmp_path: Path) -> None:
    settings = {"index.sort.field": "n", "index.sort.order": "desc"}
    with qc.create(tmp_path / "index", MAPPING, settings=settings) as index:
        index.bulk([{"id": str(number), **doc} for number, doc in enumerate(documents(300))], id="id")
        index.refresh()
        for sort, path in ((["-n"], "sorted"), (["-n", "_doc"], "sorted"), (["_doc"], "sorted"), (["n"], "exhaustive"),
                           ([{"n": {"order": "desc", "missing": "_first"}}], "exhaustive"),
                           ([{"n": {"order": "desc", "mode": "min"}}], "exhaustive"), (["-n", "x"], "exhaustive")):
            found = index.search({"query": {"match": {"body": "all"}}, "sort": sort, "track_total_hits": 20,
                                  "profile": True})
            assert found.profile.path == path
            assert (found.total.value, found.total.relation) == (20, "gte")

"""An index that is sorted answers as the oracle does for the documents in that order, whatever happened to it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, run_state_machine_as_test

from tests.properties import strategies as some
from tests.properties.pair import Body, Pair
from tests.properties.test_engine import SHORT, History

SORTED_BY = ["tag", "n", "big", "x", "f", "day", "ok", "obj.name", "obj.n", "title.raw", "key"]
key = st.builds(
    lambda name, order, missing, mode: {name: {"order": order, "missing": missing, "mode": mode}},
    some.pick(SORTED_BY), some.pick(["asc", "desc"]), some.pick(["_last", "_first"]), some.pick(["min", "max"]))
sorts = st.lists(key, min_size=1, max_size=3, unique_by=lambda one: next(iter(one)))


def settings_of(sort: list[Body]) -> Body:
    """The settings of an index that is sorted by these keys of a request."""
    parts: Body = {"index.sort.field": [next(iter(one)) for one in sort]}
    for name in ("order", "missing", "mode"):
        parts[f"index.sort.{name}"] = [next(iter(one.values()))[name] for one in sort]
    return parts


def asked(requests: list[Body], sort: list[Body]) -> list[Body]:
    """The same requests, sorted as the index is, and by its first key alone."""
    tail: list[Any] = ["_doc"]
    return [*requests, *({**request, "sort": keys} for request in requests
                         for keys in (sort, sort[:1], sort + tail))]


class SortedHistory(History):
    sort: list[Body]

    @initialize(documents=st.lists(some.documents, max_size=12), sort=sorts)
    def begin(self, documents: list[Body], sort: list[Body]) -> None:
        self.pair.close()
        self.sort = sort
        self.pair = Pair(self.directory / "sorted", some.MAPPING, settings_of(sort))
        self.bulk(documents, None)
        self.pair.refresh()

    def check(self, requests: list[Body]) -> None:
        self.pair.check_order(self.sort)
        super().check(asked(requests, self.sort))


def test_any_history_of_a_sorted_index() -> None:
    how = settings(max_examples=25, stateful_step_count=15) if SHORT else settings()
    run_state_machine_as_test(SortedHistory, settings=how)


@settings(max_examples=25 if SHORT else settings().max_examples)
@given(
    segments=st.lists(st.lists(some.documents, min_size=1, max_size=8), min_size=1, max_size=4),
    requests=st.lists(some.requests, min_size=3, max_size=8), sort=sorts, seed=st.integers(0, 2**16),
)
def test_any_corpus_in_any_order(
    segments: list[list[Body]], requests: list[Body], sort: list[Body], seed: int,
) -> None:
    """Segments with deleted documents, on disk and in memory, merged and not."""
    rng = Random(seed)
    with tempfile.TemporaryDirectory() as directory:
        pair = Pair(Path(directory) / "index", some.MAPPING, settings_of(sort))
        ids: list[str] = []
        for documents in segments:
            for doc in documents:
                ids.append(f"k{pair.oracle.next_seq_no}")
                pair.put(ids[-1], doc)
            pair.refresh()
            if rng.random() < 0.6:
                pair.flush()
        for id in ids:
            if rng.random() < 0.2:
                pair.delete(id)
        pair.refresh()
        for merged in (False, True):
            if merged:
                pair.merge(1)
            pair.check_layout()
            pair.check_order(sort)
            for request in asked(requests, sort):
                pair.check(request)
        pair.reopen()
        pair.check_order(sort)
        pair.close()


LONG: Body = {"properties": {
    "key": {"type": "keyword"}, "body": {"type": "text", "analyzer": "whitespace"}, "n": {"type": "integer"},
    "tag": {"type": "keyword"}}}


def test_long_lists_of_postings_are_put_into_order(tmp_path: Path) -> None:
    """Blocks of postings and positions, several runs of them, windows of documents, early ends."""
    rng = Random(7)
    sort: list[Body] = [{"n": {"order": "desc", "missing": "_last", "mode": "max"}},
                        {"tag": {"order": "asc", "missing": "_first", "mode": "min"}}]
    pair = Pair(tmp_path / "index", LONG, settings_of(sort))
    for start in range(0, 6000, 2000):
        docs: list[Body] = []
        for number in range(start, start + 2000):
            words = ["all"] * rng.choice([1, 2, 3]) + ["half"] * rng.choice([0, 0, 1, 2])
            words += ["rare"] * (number % 97 == 5)
            rng.shuffle(words)
            docs.append({"key": f"k{number}", "body": " ".join(words), "n": rng.randrange(500)})
            if number % 7:
                docs[-1]["tag"] = f"t{number % 13}"
        pair.bulk(docs)
        pair.flush()
    requests: list[Body] = [
        {"query": query, "size": size, "track_total_hits": track, "sort": keys}
        for query in ({"match_all": {}}, {"term": {"body": "half"}}, {"match": {"body": "half rare"}},
                      {"match_phrase": {"body": "half all"}}, {"range": {"n": {"lt": 250}}},
                      {"bool": {"must": [{"term": {"body": "all"}}], "filter": [{"term": {"tag": "t3"}}]}})
        for size, track in ((10, False), (20, 100), (500, True))
        for keys in (["_score"], [sort[0]], sort, ["_doc"])]

    def ask() -> None:
        pair.check_layout()
        pair.check_order(sort)
        for request in requests:
            pair.check(request)

    for number in rng.sample(range(6000), 300):
        pair.delete(f"k{number}")
    pair.refresh()
    ask()
    pair.merge(1)
    ask()
    report = pair.index.check()
    assert report.ok, str(report)
    pair.close()

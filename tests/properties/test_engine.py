"""After any history of writes, refreshes, flushes, merges and reopenings, searches answer as the oracle."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.properties import strategies as some
from tests.properties.pair import Body, Pair, assert_found
from tests.rivals import cases

SHORT = settings.get_current_profile_name() == "ci"


class History(RuleBasedStateMachine):
    """What users do to an index, in any order; each step's answer is compared, and now and then a search."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="quidditch-history-"))
        self.pair = Pair(self.directory / "index", some.MAPPING)
        self.reader: Any = None
        self.seen: list[tuple[Body, Any]] = []  # what the open reader answered, and must answer for ever

    def teardown(self) -> None:
        report = self.pair.index.check()
        assert report.ok, str(report)
        if self.reader is not None:
            self.reader.close()
        self.pair.close()
        shutil.rmtree(self.directory)

    @initialize(documents=st.lists(some.documents, max_size=12))
    def begin(self, documents: list[Body]) -> None:
        self.bulk(documents, None)
        self.pair.refresh()

    @rule(id=some.ids, doc=some.documents)
    def put(self, id: str, doc: Body) -> None:
        self.pair.put(id, doc)

    @rule(id=some.ids, doc=some.documents)
    def create(self, id: str, doc: Body) -> None:
        self.pair.put(id, doc, op_type="create")

    @rule(id=some.ids, doc=some.documents, off=st.sampled_from([0, 0, 0, 1]))
    def put_if(self, id: str, doc: Body, off: int) -> None:
        self.pair.put(id, doc, **self.condition(id, off))

    @rule(id=some.ids, doc=some.bad_documents)
    def put_bad(self, id: str, doc: Body) -> None:
        self.pair.refuse(id, doc)

    @rule(id=some.ids, partial=some.documents, upsert=st.one_of(st.none(), some.documents))
    def update(self, id: str, partial: Body, upsert: Body | None) -> None:
        self.pair.update(id, partial, upsert=upsert)

    @rule(id=some.ids)
    def update_with_what_it_holds(self, id: str) -> None:
        held = self.pair.oracle.get(id)
        self.pair.update(id, held.source if held else {})

    @rule(id=some.ids)
    def delete(self, id: str) -> None:
        self.pair.delete(id)

    @rule(id=some.ids, off=st.sampled_from([0, 0, 0, 1]))
    def delete_if(self, id: str, off: int) -> None:
        self.pair.delete(id, **self.condition(id, off))

    @rule(documents=st.lists(some.documents, max_size=8), bad=st.one_of(st.none(), some.bad_documents))
    def bulk(self, documents: list[Body], bad: Body | None) -> None:
        """Ids repeat within a bulk; a bad document in the middle fails alone."""
        at = len(documents) // 2
        every = [*documents[:at], *([bad] if bad else []), *documents[at:]]
        keyed = [{"key": f"k{(7 * position) % 16}", **doc} for position, doc in enumerate(every)]
        self.pair.bulk(keyed, (at,) if bad else ())

    @rule(requests=st.lists(some.requests, min_size=1, max_size=3))
    def refresh(self, requests: list[Body]) -> None:
        self.pair.refresh()
        self.check(requests)

    @rule(requests=st.lists(some.requests, min_size=1, max_size=3))
    def flush(self, requests: list[Body]) -> None:
        self.pair.flush()
        self.check(requests)

    @rule(max_segments=st.integers(1, 2), requests=st.lists(some.requests, min_size=1, max_size=3))
    def merge(self, max_segments: int, requests: list[Body]) -> None:
        self.pair.merge(max_segments)
        self.check(requests)

    @precondition(lambda self: self.reader is None)
    @rule(requests=st.lists(some.requests, min_size=1, max_size=3))
    def reopen(self, requests: list[Body]) -> None:
        self.pair.reopen()
        self.check(requests)

    @rule(id=some.ids)
    def get(self, id: str) -> None:
        self.pair.check_get(id)

    @rule(request=some.requests)
    def search(self, request: Body) -> None:
        """At any time: what was written since the last refresh does not show."""
        self.check([request])

    @precondition(lambda self: self.reader is None)
    @rule(requests=st.lists(some.requests, min_size=1, max_size=3))
    def open_reader(self, requests: list[Body]) -> None:
        self.reader = self.pair.index.reader()
        layout = self.reader.layout()
        self.seen = [(request, self.pair.oracle.search(request, layout)) for request in requests]

    @precondition(lambda self: self.reader is not None)
    @rule()
    def close_reader(self) -> None:
        """A reader sees what there was when it was opened, whatever was written and merged since."""
        for request, expected in self.seen:
            assert_found(self.reader.search(request), expected, request)
        self.reader.close()
        self.reader = None

    def check(self, requests: list[Body]) -> None:
        self.pair.check_layout()
        for request in requests:
            self.pair.check(request)

    def condition(self, id: str, off: int) -> Body:
        held = self.pair.oracle.get(id)
        return {"if_seq_no": (held.seq_no if held else 0) + off, "if_primary_term": 1}


def test_any_history() -> None:
    how = settings(max_examples=25, stateful_step_count=30) if SHORT else settings()
    run_state_machine_as_test(History, settings=how)


def test_two_thousand_short_histories() -> None:
    """What goes wrong after few steps is found by many beginnings."""
    run_state_machine_as_test(History, settings=settings(max_examples=2000, stateful_step_count=5))


@settings(max_examples=30 if SHORT else settings().max_examples)
@given(
    segments=st.lists(st.lists(some.documents, min_size=1, max_size=8), min_size=1, max_size=4),
    requests=st.lists(some.requests, min_size=5, max_size=15),
    kept=st.booleans(),
)
def test_any_corpus(segments: list[list[Body]], requests: list[Body], kept: bool) -> None:
    """Several segments, on disk or in memory, searched as one."""
    with tempfile.TemporaryDirectory() as directory:
        pair = Pair(Path(directory) / "index", some.MAPPING)
        for documents in segments:
            for doc in documents:
                pair.put(f"k{pair.oracle.next_seq_no}", doc)
            pair.refresh()
            if kept:
                pair.flush()
        pair.check_layout()
        for request in requests:
            pair.check(request)
        pair.close()


@pytest.mark.parametrize("seed", range(4 if SHORT else 40))
def test_longer_corpora(tmp_path: Path, seed: int) -> None:
    """Terms with several blocks of postings and positions, in several segments, with deleted documents."""
    rng = Random(seed)
    pair = Pair(tmp_path / "index", cases.MAPPING)
    for number, document in enumerate(cases.random_documents(rng, 900)):
        pair.put(f"k{number if rng.random() < 0.9 else rng.randrange(900)}", document)
        if rng.random() < 0.005:
            pair.refresh()
        if rng.random() < 0.003:
            pair.flush()
    for number in rng.sample(range(900), 90):
        pair.delete(f"k{number}")
    pair.refresh()
    pair.check_layout()
    ask = cases.random_questions(rng)
    for make in (ask.leaf, ask.flat, ask.nested):
        for _ in range(20):
            pair.check({"query": make(), "size": rng.choice([1, 10, 1000])})
    pair.close()


LONG: Body = {
    "properties": {
        "key": {"type": "keyword"},
        "body": {"type": "text", "analyzer": "whitespace"},
        "n": {"type": "integer"},
        "tag": {"type": "keyword"},
    }
}
LONG_REQUESTS: list[Body] = [
    {"query": {"term": {"body": "all"}}, "size": 20},
    {"query": {"term": {"body": "half"}}, "size": 300, "track_total_hits": True},
    {"query": {"match": {"body": "all half rare absent"}}, "size": 20},
    {"query": {"match": {"body": {"query": "all half third", "operator": "and"}}}, "size": 20},
    {"query": {"match": {"body": {"query": "half third rare", "minimum_should_match": 2}}}, "size": 20},
    {"query": {"match_phrase": {"body": "half third"}}, "size": 20},
    {"query": {"match_phrase": {"body": {"query": "third all half", "slop": 4}}}, "size": 20},
    {"query": {"match_phrase": {"body": {"query": "all all", "slop": 2}}}, "size": 20},
    {"query": {"range": {"n": {"gte": 3, "lt": 50}}}, "sort": ["-n"], "size": 20},
    {"query": {"prefix": {"tag": "t1"}}, "sort": ["tag", "n"], "size": 20, "track_total_hits": 5},
    {
        "query": {
            "bool": {
                "must": [{"term": {"body": "all"}}],
                "should": [{"term": {"body": "rare"}}, {"term": {"tag": "t1"}}],
                "filter": [{"range": {"n": {"gte": 10}}}],
                "must_not": [{"term": {"body": "third"}}],
            }
        },
        "from": 5,
        "size": 10,
    },
    {"query": {"match_all": {}}, "from": 120, "size": 20},
]


def long_document(rng: Random, number: int) -> Body:
    """``all`` is in every document, so that its postings end where the documents do."""
    words = ["all"] * rng.choice([1, 1, 2, 3])
    words += ["half"] * rng.choice([0, 0, 1, 2])
    words += ["third"] * (number % 3 == 0) + ["rare"] * (number % 97 == 5)
    rng.shuffle(words)
    return {"key": str(number), "body": " ".join(words), "n": number % 100, "tag": f"t{number % 13}"}


@pytest.mark.parametrize("n", [127, 128, 129, 255, 256, 257, 4095, 4096, 4097])
def test_where_blocks_end(tmp_path: Path, n: int) -> None:
    """Postings come in blocks of 128, kernels work in windows of 4096: one less, as many, one more."""
    rng = Random(n)
    pair = Pair(tmp_path / "index", LONG)
    pair.bulk([long_document(rng, number) for number in range(n)])
    pair.refresh()
    for request in LONG_REQUESTS:
        pair.check(request)
    for number in rng.sample(range(n), n // 10):
        pair.delete(str(number))
    pair.bulk([long_document(rng, number) for number in rng.sample(range(n), n // 20)])
    pair.refresh()
    pair.check_layout()
    for request in LONG_REQUESTS:
        pair.check(request)
    pair.merge(1)
    pair.check_layout()
    for request in LONG_REQUESTS:
        pair.check(request)
    pair.close()

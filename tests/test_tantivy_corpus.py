"""20,000 documents and 200 queries from a search engine's log: tantivy finds and scores the same.

The corpus is made by ``make_perf_corpus.py`` of the ``--corpora`` directory, once (it takes half a minute), and
kept in pytest's cache. We get the text as it is; tantivy, which has no such tokenizer, gets the words that our
``standard`` analyzer finds in it. Needs orjson and numba, as that script does.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

import quidditch_core as qc
from quidditch_core.analysis import get_analyzer
from tests.rivals.cases import Body
from tests.rivals.test_tantivy import K1_PLUS_1, translate

tantivy = pytest.importorskip("tantivy")

DOCUMENTS = 20_000
DELETED, UPDATED = DOCUMENTS // 10, DOCUMENTS // 20
RTOL = 1e-5  # float32 sums in another order
Texts = dict[int, str]  # what the index should hold, in the order of indexing


@pytest.fixture(scope="module")
def texts(corpora: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Texts:
    for needed in ("orjson", "numba"):
        pytest.importorskip(needed, reason=f"making the corpus needs {needed}")
    script = corpora / "make_perf_corpus.py"
    cache = getattr(request.config, "cache", None)
    place = cache.mkdir("perf-corpus") if cache is not None else tmp_path_factory.mktemp("perf-corpus")
    made = place / f"{DOCUMENTS}-{hashlib.sha256(script.read_bytes()).hexdigest()[:12]}.jsonl"
    if not made.exists():
        fresh = tmp_path_factory.mktemp("make") / "perf.jsonl"
        command = [sys.executable, str(script), "--n", str(DOCUMENTS), "--out", str(fresh)]
        subprocess.run(command, check=True, capture_output=True, timeout=600)
        made.write_bytes(fresh.read_bytes())
    documents = map(json.loads, made.read_text().splitlines())
    found = {number: f"{document['title']}\n{document['text']}" for number, document in enumerate(documents)}
    # tantivy counts documents without a word among those that have the field, so there are none here.
    return {number: text for number, text in found.items() if words(text)}


@pytest.fixture(scope="module")
def queries(corpora: Path) -> list[Body]:
    lines = (corpora / "perf.queries.jsonl").read_text().splitlines()
    bodies = [body(**json.loads(line)) for line in lines]
    assert len(bodies) == 200
    return bodies


def body(kind: str, terms: list[str], **_: Any) -> Body:
    text = " ".join(terms)
    if kind == "term":
        return {"term": {"body": {"value": text}}}
    if kind == "phrase":
        return {"match_phrase": {"body": {"query": text}}}
    return {"match": {"body": {"query": text, "operator": {"intersection": "and", "union": "or"}[kind]}}}


def words(text: str) -> str:
    return " ".join(term for term, _ in get_analyzer("standard").terms(text))


class Tantivy:
    """tantivy's index of some texts."""

    def __init__(self, texts: Texts) -> None:
        builder = tantivy.SchemaBuilder()
        builder.add_text_field("id", stored=True, tokenizer_name="raw", index_option="basic")
        builder.add_text_field("body", tokenizer_name="whitespace")
        self.schema = builder.build()
        self.index = tantivy.Index(self.schema)
        self.writer = self.index.writer(heap_size=500_000_000, num_threads=1)
        for number, text in texts.items():
            self.put(number, text)
        self.commit()

    def put(self, number: int, text: str) -> None:
        self.writer.add_document(tantivy.Document(id=str(number), body=words(text)))

    def delete(self, number: int) -> None:
        self.writer.delete_documents_by_term("id", str(number))

    def commit(self) -> None:
        self.writer.commit()
        self.index.reload()

    def answer(self, query: Body) -> tuple[int, list[tuple[float, str]]]:
        """How many match; score and id of the best ten."""
        searcher = self.index.searcher()
        found = searcher.search(translate(self.schema, query), limit=10, count=True)
        best = [(score / K1_PLUS_1, searcher.doc(address)["id"][0]) for score, address in found.hits]
        return found.count, best


@pytest.fixture(scope="module")
def pair(texts: Texts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[qc.Index, Tantivy]]:
    mapping = {"dynamic": "strict", "properties": {
        "id": {"type": "keyword", "index": False, "doc_values": False}, "body": {"type": "text"}}}
    directory = tmp_path_factory.mktemp("quidditch") / "index"
    with qc.create(directory, mapping, settings={"index.refresh_interval": -1}) as index:
        report = index.bulk(({"id": str(number), "body": text} for number, text in texts.items()), id="id")
        assert (report.indexed, report.failed) == (len(texts), [])
        index.refresh()
        yield index, Tantivy(texts)


def assert_same(index: qc.Index, rival: Tantivy, queries: list[Body]) -> None:
    found = 0
    for query in queries:
        count, best = rival.answer(query)
        result = index.search({"query": query}, track_total_hits=True)
        assert result.total is not None
        assert (result.total.value, index.count(query)) == (count, count), query
        scores = [hit.score for hit in result.hits]
        assert scores == pytest.approx([score for score, _ in best], rel=RTOL), query
        # Documents of the last score may be others; those clearly above it must be among tantivy's.
        clear = {hit.id for hit in result.hits if len(best) < 10 or (hit.score or 0) > best[-1][0] * (1 + 2 * RTOL)}
        assert clear <= {id for _, id in best}, query
        found += len(best)
    assert found > 3 * len(queries), "the corpus hardly answers the queries"


def test_counts_and_scores(pair: tuple[qc.Index, Tantivy], queries: list[Body]) -> None:
    assert_same(*pair, queries)


def test_after_deletes_and_updates(pair: tuple[qc.Index, Tantivy], texts: Texts, queries: list[Body]) -> None:
    """First with the deleted documents still in the statistics, as in Lucene; then merged away."""
    index, rival = pair
    rng = Random(1)
    chosen = rng.sample(sorted(texts), DELETED + UPDATED)
    left = dict(texts)
    for number in chosen[:DELETED]:
        assert index.delete(str(number)).result == "deleted"
        rival.delete(number)
        del left[number]
    for number in chosen[DELETED:]:
        text = f"{left.pop(number)}\n{texts[rng.choice(chosen)]}"
        left[number] = text  # at the end, where an update puts it
        assert index.put(str(number), {"body": text}).result == "updated"
        rival.delete(number)
        rival.put(number, text)
    index.refresh()
    rival.commit()
    assert_same(index, rival, queries)

    index.merge()
    assert [(segment.docs, segment.deleted) for segment in index.segments()] == [(len(left), 0)]
    assert_same(index, Tantivy(left), queries)

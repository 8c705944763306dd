"""How well the best hits fit what people judged relevant: nDCG@10 on four collections, equal to the rivals'.

All engines get the words that our ``standard`` analyzer finds, so that only ranking is compared. Gains are
linear in the grade and the ideal ranking knows all judged documents, as trec_eval's ``ndcg_cut_10`` does it;
queries with no relevant document are left out.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log2
from pathlib import Path

import pytest
import zstandard

import quidditch_core as qc
from quidditch_core.analysis import get_analyzer
from tests.rivals.cases import Body, Case
from tests.rivals.lucene import Lucene, LuceneUnavailable

TOLERANCE = 0.002
LEAST = {"cranfield": 0.33, "cisi": 0.32, "med": 0.65, "npl": 0.34}
"""A ranking that is worse is a mistake, even if all engines make it."""


@dataclass(frozen=True)
class Collection:
    """Texts as words, by position; queries likewise; grades by query and document."""

    ids: list[str]
    texts: list[str]
    queries: dict[str, str]
    grades: dict[str, dict[str, int]]

    @property
    def bodies(self) -> list[Body]:
        return [{"match": {"body": {"query": text}}} for text in self.queries.values()]

    def ndcg(self, rankings: Sequence[Sequence[int]]) -> float:
        """Mean nDCG@10 of one ranking of document positions a query."""
        values = [ndcg([self.ids[at] for at in ranking], self.grades[query])
                  for query, ranking in zip(self.queries, rankings, strict=True)]
        return sum(values) / len(values)


def ndcg(ranking: Sequence[str], grades: dict[str, int], k: int = 10) -> float:
    """Normalised discounted cumulated gain (Järvelin and Kekäläinen 2002), with linear gain."""
    def dcg(gains: Sequence[int]) -> float:
        return sum(gain / log2(rank + 1) for rank, gain in enumerate(gains[:k], 1))

    return dcg([grades.get(id, 0) for id in ranking]) / dcg(sorted(grades.values(), reverse=True))


def test_ndcg() -> None:
    grades = {"a": 3, "b": 2, "c": 0}
    assert ndcg(["a", "b"], grades) == 1
    assert ndcg(["c", "x", "a"], grades) == pytest.approx((3 / 2) / (3 + 2 / log2(3)))
    assert ndcg(["x"] * 10 + ["a"], grades) == 0


@pytest.fixture(scope="module", params=LEAST)
def collection(request: pytest.FixtureRequest, corpora: Path) -> Collection:
    return load(corpora, request.param)


def load(corpora: Path, name: str) -> Collection:
    grades: dict[str, dict[str, int]] = {}
    for line in (corpora / f"{name}.qrels").read_text().splitlines():
        query, _, document, grade = line.split()
        if int(grade) > 0:
            grades.setdefault(query, {})[document] = int(grade)
    lines = [line.split("\t", 1) for line in (corpora / f"{name}.queries.tsv").read_text().splitlines()]
    queries = {query: words(text) for query, text in lines if query in grades}
    assert len(queries) == len(grades)
    with zstandard.open(corpora / f"{name}.jsonl.zst", "rb") as stream:
        documents = [json.loads(line) for line in io.TextIOWrapper(stream, "utf-8")]
    texts = [words(f"{document['title']}\n{document['text']}") for document in documents]
    # Documents without a word count for tantivy's statistics, not for ours and Lucene's; nobody finds them.
    full = [at for at, text in enumerate(texts) if text]
    return Collection([documents[at]["id"] for at in full], [texts[at] for at in full], queries, grades)


def words(text: str) -> str:
    return " ".join(term for term, _ in get_analyzer("standard").terms(text))


@pytest.fixture(scope="module")
def ours(collection: Collection, tmp_path_factory: pytest.TempPathFactory) -> float:
    mapping = {"dynamic": "strict", "properties": {"body": {"type": "text", "analyzer": "whitespace"}}}
    directory = tmp_path_factory.mktemp("quidditch") / "index"
    with qc.create(directory, mapping, settings={"index.refresh_interval": -1}) as index:
        for at, text in enumerate(collection.texts):
            index.put(str(at), {"body": text})
        index.refresh()
        results = [index.search({"query": query}, source=False) for query in collection.bodies]
    return collection.ndcg([[int(hit.id) for hit in result.hits] for result in results])


def test_ranking_is_good(ours: float, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["collection"]
    assert ours > LEAST[name]


def test_tantivy_ranks_as_well(collection: Collection, ours: float) -> None:
    from tests.rivals.test_tantivy import translate

    tantivy = pytest.importorskip("tantivy")
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("number", stored=True)
    builder.add_text_field("body", tokenizer_name="whitespace")
    schema = builder.build()
    index = tantivy.Index(schema)
    writer = index.writer(num_threads=1)
    for number, text in enumerate(collection.texts):
        writer.add_document(tantivy.Document(number=number, body=text))
    writer.commit()
    index.reload()
    searcher = index.searcher()
    results = [searcher.search(translate(schema, query), limit=10) for query in collection.bodies]
    rankings = [[searcher.doc(address)["number"][0] for _, address in result.hits] for result in results]
    assert collection.ndcg(rankings) == pytest.approx(ours, abs=TOLERANCE)


@pytest.fixture(scope="module")
def lucene() -> Iterator[Lucene]:
    try:
        with Lucene() as running:
            yield running
    except LuceneUnavailable as missing:
        pytest.skip(str(missing))


@pytest.mark.lucene
def test_lucene_ranks_as_well(collection: Collection, ours: float, lucene: Lucene) -> None:
    documents: list[Body] = [{"body": [text]} for text in collection.texts]
    answers = lucene.answer(Case([documents], collection.bodies))
    assert collection.ndcg([answer.ids for answer in answers]) == pytest.approx(ours, abs=TOLERANCE)

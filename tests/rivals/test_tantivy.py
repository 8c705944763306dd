"""tantivy answers as we do, but for float rounding: it sums in another order and keeps the factor k1 + 1.

It counts documents without the field in N, so every document here has one. Slop means something else to it,
and is left out. Its ``parse_query`` collapses repeated words, so queries are built.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.rivals.cases import (
    Answer,
    Body,
    Case,
    Engine,
    Questions,
    random_questions,
    random_text,
    real_questions,
    real_texts,
)
from tests.rivals.engines import each_engine

tantivy = pytest.importorskip("tantivy")

K1_PLUS_1 = 2.2
TINY = 1e-6  # w - w/(1 + x) leaves few digits where x is small; tantivy computes w·x/(1 + x)
OCCUR = {"must": tantivy.Occur.Must, "should": tantivy.Occur.Should, "must_not": tantivy.Occur.MustNot}


def ask_tantivy(case: Case) -> list[dict[int, float]]:
    """The score of every matching document, by number, for each query."""
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("number", stored=True)
    builder.add_text_field("body", tokenizer_name="whitespace")
    schema = builder.build()
    index = tantivy.Index(schema)
    writer = index.writer(num_threads=1)
    for number, document in enumerate(case.segments[0]):
        writer.add_document(tantivy.Document(number=number, body=document["body"]))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    searcher = index.searcher()
    answers = []
    for query in case.queries:
        result = searcher.search(translate(schema, query), limit=case.size, count=True)
        assert result.count == len(result.hits)
        numbers = [searcher.doc(address)["number"][0] for _, address in result.hits]
        scores = [score / K1_PLUS_1 for score, _ in result.hits]
        answers.append(dict(zip(numbers, scores, strict=True)))
    return answers


def translate(schema: Any, query: Body) -> Any:
    [(kind, spec)] = query.items()
    if kind == "bool":
        clauses = [
            (OCCUR[occur], translate(schema, clause)) for occur in OCCUR for clause in spec.get(occur, [])
        ]
        built = tantivy.Query.boolean_query(clauses, spec.get("minimum_should_match"))
        return boosted(built, spec)
    options = spec["body"]
    if kind == "term":
        built = tantivy.Query.term_query(schema, "body", options["value"])
    elif kind == "match_phrase":
        built = tantivy.Query.phrase_query(schema, "body", options["query"].split())
    else:
        occur = OCCUR["must" if options.get("operator") == "and" else "should"]
        words = options["query"].split()
        built = tantivy.Query.boolean_query(
            [(occur, tantivy.Query.term_query(schema, "body", word)) for word in words]
        )
    return boosted(built, options)


def boosted(query: Any, options: Body) -> Any:
    return tantivy.Query.boost_query(query, options["boost"]) if "boost" in options else query


def questions(rng: Random, ask: Questions, n: int) -> list[Body]:
    """Queries that mean the same to tantivy: no tags, no slop, minimum_should_match in bools only."""

    def term() -> Body:
        return {"term": {"body": {"value": ask.text(1, 1), **ask.boost()}}}

    def match() -> Body:
        operator = rng.choice(["or", "and"])
        return {"match": {"body": {"query": ask.text(1, 6), "operator": operator, **ask.boost()}}}

    def phrase() -> Body:
        words = ask.text(2, 4)
        return {"match_phrase": {"body": {"query": words, **ask.boost()}}} if " " in words else term()

    def clauses(least: int) -> list[Body]:
        return [rng.choice([term, match, phrase])() for _ in range(rng.randint(least, 3))]

    def bool_() -> Body:
        spec: Body = {"must": clauses(0), "should": clauses(1), "must_not": clauses(0)[:1]}
        if rng.random() < 0.3:
            spec["minimum_should_match"] = rng.randint(1, len(spec["should"]))
        return {"bool": {**spec, **ask.boost()}}

    return [rng.choice([term, match, phrase, bool_, bool_])() for _ in range(n)]


def assert_close(case: Case, engine: Engine) -> None:
    answers: list[Answer] = engine(case)
    for query, ours, theirs in zip(case.queries, answers, ask_tantivy(case), strict=True):
        assert ours.count == len(theirs), query
        scores = {id: float(score) for id, score in zip(ours.ids, ours.scores, strict=True)}
        assert scores == pytest.approx(theirs, rel=1e-5, abs=TINY), query


@each_engine
@pytest.mark.parametrize("seed", range(6))
def test_random_text(engine: Engine, seed: int) -> None:
    rng = Random(seed)
    documents: list[Body] = [{"body": random_text(rng, 1, rng.choice([3, 12, 60, 300]))} for _ in range(80)]
    assert_close(Case([documents], questions(rng, random_questions(rng), 80)), engine)


@each_engine
@pytest.mark.parametrize("name", ["cranfield", "reuters"])
def test_real_text(engine: Engine, name: str, corpora: Path) -> None:
    texts = real_texts(corpora, name, 300)
    rng = Random(1)
    queries = questions(rng, real_questions(rng, texts), 80)
    assert_close(Case([[{"body": text} for text in texts]], queries), engine)

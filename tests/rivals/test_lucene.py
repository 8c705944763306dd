"""Lucene's answers are ours: the same documents in the same order, scores equal to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest

from tests.rivals.cases import (
    Body,
    Case,
    Engine,
    random_documents,
    random_questions,
    real_questions,
    real_texts,
)
from tests.rivals.engines import each_engine, oracle
from tests.rivals.lucene import Lucene, LuceneUnavailable

pytestmark = pytest.mark.lucene


@pytest.fixture(scope="module")
def lucene() -> Iterator[Lucene]:
    try:
        with Lucene() as running:
            yield running
    except LuceneUnavailable as missing:
        pytest.skip(str(missing))


def assert_equal(case: Case, engine: Engine, lucene: Lucene) -> None:
    for query, ours, theirs in zip(case.queries, engine(case), lucene.answer(case), strict=True):
        assert ours.count == theirs.count, query
        assert ours.ids == theirs.ids, query
        assert ours.bits == theirs.bits, query


@each_engine
@pytest.mark.parametrize("seed", range(8))
def test_phrases(engine: Engine, lucene: Lucene, seed: int) -> None:
    rng = Random(seed)
    ask = random_questions(rng)
    assert_equal(Case([random_documents(rng, 60)], [ask.phrase() for _ in range(60)]), engine, lucene)


@each_engine
@pytest.mark.parametrize("seed", range(8))
def test_terms_matches_and_flat_bools(engine: Engine, lucene: Lucene, seed: int) -> None:
    rng = Random(seed)
    ask = random_questions(rng)
    queries = [ask.leaf() for _ in range(30)] + [ask.flat() for _ in range(60)]
    assert_equal(Case([random_documents(rng, 80)], queries), engine, lucene)


@pytest.mark.parametrize("seed", range(4))
def test_segments_share_statistics_and_count_their_deleted(lucene: Lucene, seed: int) -> None:
    rng = Random(seed)
    ask = random_questions(rng)
    segments = [random_documents(rng, rng.randint(5, 40)) for _ in range(4)]
    starts = np.cumsum([0, *map(len, segments)])
    # The first document of each stays: Lucene drops a segment that is deleted as a whole.
    deleted = [one for one in rng.sample(range(starts[-1]), 12) if one not in starts]
    queries = [ask.leaf() for _ in range(20)] + [ask.flat() for _ in range(20)]
    assert_equal(Case(segments, queries, deleted), oracle, lucene)


@each_engine
@pytest.mark.parametrize("seed", range(4))
def test_nested_bools(engine: Engine, lucene: Lucene, seed: int) -> None:
    """Lucene flattens some nested bools and so rounds elsewhere: the last bit of a score may differ."""
    rng = Random(seed)
    ask = random_questions(rng)
    case = Case([random_documents(rng, 80)], [ask.nested() for _ in range(80)])
    for query, ours, theirs in zip(case.queries, engine(case), lucene.answer(case), strict=True):
        assert ours.count == theirs.count, query
        assert sorted(ours.ids) == sorted(theirs.ids), query
        expected = dict(zip(theirs.ids, theirs.scores, strict=True))
        for id, score in zip(ours.ids, ours.scores, strict=True):
            assert score == pytest.approx(expected[id], rel=1e-6), query


@each_engine
@pytest.mark.parametrize("name", ["cranfield", "reuters"])
def test_real_text(engine: Engine, lucene: Lucene, name: str, corpora: Path) -> None:
    texts = real_texts(corpora, name, 300)
    documents: list[Body] = [{"body": [text]} for text in texts]
    ask = real_questions(Random(1), texts)
    queries = [ask.leaf() for _ in range(40)] + [ask.flat() for _ in range(40)]
    assert_equal(Case([documents], queries), engine, lucene)

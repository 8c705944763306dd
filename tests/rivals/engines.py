"""Who answers the cases on our side."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quidditch_core as qc
from tests.naive import Layout, Oracle
from tests.rivals.cases import MAPPING, Answer, Body, Case, Engine


def oracle(case: Case) -> list[Answer]:
    naive = Oracle(MAPPING)
    layout: Layout = []
    for segment in case.segments:
        layout.append([])
        for document in segment:
            written = naive.put(str(naive.next_seq_no), document)
            live = written.seq_no not in case.deleted
            layout[-1].append((written.id, written.seq_no, live))
    answers = []
    for query in case.queries:
        found = naive.search({"query": query, "size": case.size, "track_total_hits": True}, layout)
        assert found.total is not None
        scores = [score for score in found.scores if score is not None]
        answers.append(Answer(found.total[0], [int(id) for id in found.ids], scores))
    return answers


def quidditch(case: Case) -> list[Answer]:
    assert len(case.segments) == 1, "where the engine keeps its segments is its own business"
    assert not case.deleted
    with (
        tempfile.TemporaryDirectory() as directory,
        qc.create(Path(directory) / "index", MAPPING, settings={"index.refresh_interval": -1}) as index,
    ):
        for number, document in enumerate(case.segments[0]):
            index.put(str(number), document)
        index.refresh()
        index.merge(max_segments=1)
        return [_ask(index, query, case.size) for query in case.queries]


def _ask(index: Any, query: Body, size: int) -> Answer:
    result = index.search({"query": query}, size=size, track_total_hits=True)
    assert index.count(query) == result.total.value
    ids = [int(hit.id) for hit in result.hits]
    return Answer(result.total.value, ids, [np.float32(hit.score) for hit in result.hits])


ENGINES: list[Engine] = [oracle, quidditch]
each_engine = pytest.mark.parametrize("engine", ENGINES, ids=["oracle", "quidditch"])

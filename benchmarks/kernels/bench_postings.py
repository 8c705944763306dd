"""Kernels over postings, called by address: decoding blocks, union, intersection, phrase."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import quidditch_core as qc
from benchmarks.conftest import word
from quidditch_core.index import bm25, postings
from quidditch_core.index.kernels import boolean, descriptor, phrase, terms
from quidditch_core.segment import Segment, TermInfo, address, bitmap_words

FIELD = "text"
K = 10


@pytest.fixture(scope="session")
def segment(index: qc.Index) -> Segment:
    with index.reader() as reader:
        [leaf] = reader.view.leaves
        return leaf.segment


def row(segment: Segment, rank: int) -> TermInfo:
    """A term's row, its postings and positions readable."""
    info = postings.find(segment, FIELD, word(rank).encode())
    assert info is not None
    postings.need(segment, FIELD, info, positions=True)
    return info


def bench_find(benchmark: Any, segment: Segment) -> None:
    """Look one term up in its block of the dictionary."""
    field = segment.descriptor(FIELD).address
    text = np.frombuffer(word(5_000).encode() + bytes(8), np.uint8)
    size = text.size - 8
    scratch, found = np.zeros(terms.SCRATCH_BYTES, np.uint8), np.zeros(8, np.int64)
    block = terms.dictionary_block(field, address(text), size)
    assert benchmark(terms.dictionary_find, field, block, address(text), size, address(scratch), address(found)) == 1


@pytest.mark.parametrize("rank", [0, 100])
def bench_decode(benchmark: Any, segment: Segment, rank: int) -> None:
    """All blocks of 128 documents and frequencies of one term; ``extra_info`` says how many postings."""
    info = row(segment, rank)
    numbers = np.array(info, np.int64)
    docs, freqs, scratch = np.empty(info.df, np.uint32), np.empty(info.df, np.uint32), np.empty(1024, np.uint8)
    benchmark.extra_info["postings"] = info.df
    assert benchmark(terms.postings_read, segment.descriptor(FIELD).address, address(numbers), address(scratch),
                     address(docs), address(freqs), info.df) == info.df


def bench_fill(benchmark: Any, segment: Segment) -> None:
    """One term's documents into a bitmap."""
    numbers = np.array(row(segment, 0), np.int64)
    bitmap, scratch = np.zeros(bitmap_words(segment.docs), np.uint64), np.empty(1024, np.uint8)
    assert benchmark(terms.postings_fill, segment.descriptor(FIELD).address, address(numbers), 1, address(scratch),
                     address(bitmap)) == 0


def boolean_query(segment: Segment, ranks: tuple[int, ...], *, required: bool) -> tuple[Any, ...]:
    """A descriptor for the K best of some terms, and everything that it points to."""
    info = segment.fields[FIELD]
    factors = bm25.factors(bm25.average_length(info.sum_ttf, info.doc_count))
    field = segment.descriptor(FIELD)
    query = np.zeros(descriptor.Q_SLOTS + descriptor.K_SLOTS * len(ranks), np.int64)
    query[descriptor.Q_REQUIRED if required else descriptor.Q_OPTIONAL] = len(ranks)
    query[descriptor.Q_MINIMUM] = not required
    query[[descriptor.Q_DOCS, descriptor.Q_MODE, descriptor.Q_LIMIT]] = segment.docs, descriptor.TOP, K
    for number, rank in enumerate(ranks):
        found = row(segment, rank)
        weight = int(np.float32(bm25.idf(found.df, info.doc_count)).view(np.uint32))
        clause = query[descriptor.Q_SLOTS + descriptor.K_SLOTS * number :][: descriptor.K_SLOTS]
        clause[[descriptor.K_KIND, descriptor.K_FIELD, descriptor.K_WEIGHT, descriptor.K_TABLE]] = (
            descriptor.POSTINGS, field.address, weight, address(factors))
        clause[descriptor.K_TERM : descriptor.K_TERM + len(found)] = found
    return query, field, factors


@pytest.mark.parametrize("required", [False, True], ids=["union", "intersection"])
@pytest.mark.parametrize("ranks", [(0, 1), (3, 1000), (500, 1000), (0, 10, 100, 1000)], ids=str)
def bench_boolean(benchmark: Any, segment: Segment, ranks: tuple[int, ...], required: bool) -> None:
    """The ten best documents of terms by their frequency ranks."""
    query, *_keep = boolean_query(segment, ranks, required=required)
    scratch, out = np.zeros(boolean.scratch_bytes(len(ranks)), np.uint8), np.empty(2 + K, np.int64)
    assert benchmark(boolean.boolean, address(query), address(scratch), address(out)) == 0
    benchmark.extra_info["found"] = int(out[1])


@pytest.mark.parametrize("slop", [0, 2])
def bench_phrase(benchmark: Any, segment: Segment, slop: int) -> None:
    """Two frequent words side by side, or near each other."""
    rows = [row(segment, rank) for rank in (1, 2)]
    limit = min(info.df for info in rows)
    query = np.zeros(phrase.P_SLOTS + phrase.R_SLOTS * len(rows), np.int64)
    query[[phrase.P_TERMS, phrase.P_SLOP, phrase.P_FIELD, phrase.P_LIMIT]] = (
        len(rows), slop, segment.descriptor(FIELD).address, limit)
    for offset, info in enumerate(rows):
        words = query[phrase.P_SLOTS + phrase.R_SLOTS * offset :][: phrase.R_SLOTS]
        words[[phrase.R_OFFSET, phrase.R_GROUP]] = offset, -1
        words[phrase.R_TERM :] = info
    scratch = np.zeros(phrase.scratch_bytes(len(rows)), np.uint8)
    docs, freqs, written = np.empty(limit, np.uint32), np.empty(limit, np.float32), np.zeros(1, np.int64)
    assert benchmark(phrase.phrase, address(query), address(scratch), address(docs), address(freqs),
                     address(written)) == 0
    benchmark.extra_info["found"] = int(written[0])

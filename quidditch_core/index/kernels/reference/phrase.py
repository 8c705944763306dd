"""Phrases over whole position lists: exact ones by intersection, sloppy ones word by word.

The sloppy walk follows Lucene's SloppyPhraseMatcher with a queue, one document at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quidditch_core.segment import view

from ..phrase import P_FIELD, P_LIMIT, P_SLOP, P_SLOTS, P_TERMS, R_GROUP, R_OFFSET, R_SLOTS, R_TERM
from .blocks import (
    Field,
    Ints,
    common,
    corrupt_if_damaged,
    look_up,
    read_field,
    read_positions,
    read_postings,
    read_row,
)

APART = 1 << 34
"""Between the positions of one document and of the next, where all stand in one array."""


@dataclass
class Word:
    """A word of the phrase: its place there, its repeat group, and its positions document by document."""

    offset: int
    group: int
    docs: Ints
    freqs: Ints
    positions: Ints

    @staticmethod
    def read(field: Field, address: int) -> Word:
        slots = view(address, R_SLOTS, np.int64).tolist()
        term = read_row(address + 8 * R_TERM)
        docs, freqs = read_postings(field, term)
        return Word(slots[R_OFFSET], slots[R_GROUP], docs, freqs, read_positions(field, term, freqs))

    def only(self, docs: Ints) -> Word:
        """The same for a subset of the documents."""
        _, kept = look_up(self.docs, docs)
        positions = self.positions[np.repeat(kept, self.freqs)]
        return Word(self.offset, self.group, self.docs[kept], self.freqs[kept], positions)


@corrupt_if_damaged
def phrase(query: int, scratch: int, out_docs: int, out_freqs: int, found: int) -> int:
    """Documents and frequencies of a phrase; found[0] is their number."""
    slots = view(query, P_SLOTS, np.int64).tolist()
    field = read_field(slots[P_FIELD])
    words = [Word.read(field, query + 8 * (P_SLOTS + R_SLOTS * i)) for i in range(slots[P_TERMS])]
    docs = common(word.docs for word in words)
    words = [word.only(docs) for word in words]
    slop = slots[P_SLOP]
    freqs = sloppy_frequencies(words, docs, slop) if slop else exact_frequencies(words, docs)
    hits = np.flatnonzero(freqs > 0)[: slots[P_LIMIT]]
    view(out_docs, hits.size, np.uint32)[:] = docs[hits]
    view(out_freqs, hits.size, np.float32)[:] = freqs[hits]
    view(found, 1, np.int64)[0] = hits.size
    return 0


def exact_frequencies(words: list[Word], docs: Ints) -> NDArray[np.float32]:
    """In how many places of each document all words stand at their offsets."""
    first, *others = words
    owner = np.repeat(np.arange(docs.size), first.freqs)
    starts = owner * APART + first.positions - first.offset
    together = np.ones(starts.size, np.bool_)
    for word in others:
        places = np.repeat(np.arange(docs.size), word.freqs) * APART + word.positions
        together &= np.isin(starts + word.offset, places)
    return np.bincount(owner[together], minlength=docs.size).astype(np.float32)


def sloppy_frequencies(words: list[Word], docs: Ints, slop: int) -> NDArray[np.float32]:
    ends = [np.cumsum(word.freqs).tolist() for word in words]
    freqs = np.zeros(docs.size, np.float32)
    for i in range(docs.size):
        lists = [word.positions[end[i] - int(word.freqs[i]) : end[i]].tolist()
                 for word, end in zip(words, ends, strict=True)]
        freqs[i] = sloppy_frequency(words, lists, slop)
    return freqs


class Exhausted(Exception):
    """A walker has no position left."""


class Walker:
    """One word on its way through its positions in one document."""

    def __init__(self, order: int, word: Word, positions: list[int]) -> None:
        self.order, self.offset, self.group = order, word.offset, word.group
        self.left = iter(positions)
        self.step()

    def step(self) -> None:
        position = next(self.left, None)
        if position is None:
            raise Exhausted
        self.position = position
        self.key = position - self.offset, self.offset, self.order

    @property
    def place(self) -> int:
        """Where the phrase would begin if this word stood where it belongs."""
        return self.key[0]


def sloppy_frequency(words: list[Word], positions: list[list[int]], slop: int) -> np.float32:
    """Sum of 1 / (1 + length) over the matches of length ``slop`` or less in one document."""
    total = np.float32(0)
    matched = None  # length of the match that is being narrowed
    try:
        walkers = [Walker(i, word, left) for i, (word, left) in enumerate(zip(words, positions, strict=True))]
        for walker in walkers:
            keep_apart(walker, walkers)
        while True:
            leftmost, second = sorted(walkers, key=lambda walker: walker.key)[:2]
            limit = second.place
            while leftmost.place <= limit:
                length = max(walker.place for walker in walkers) - leftmost.place
                matched = length if matched is None else min(matched, length)
                leftmost.step()
                keep_apart(leftmost, walkers)
            total += weight(matched, slop)
            matched = None
    except Exhausted:
        return total + weight(matched, slop)


def weight(length: int | None, slop: int) -> np.float32:
    if length is None or length > slop:
        return np.float32(0)
    return np.float32(1) / (np.float32(1) + np.float32(length))


def keep_apart(walker: Walker, walkers: list[Walker]) -> None:
    """Words of one repeat group never share a position: of two that do, the one further left steps on."""
    while walker.group >= 0:
        rivals = [other for other in walkers if other is not walker
                  and (other.group, other.position) == (walker.group, walker.position)]
        if not rivals:
            return
        walker = min(rivals[0], walker, key=lambda one: one.key[:2])
        walker.step()

"""One inverted field of a segment, held against itself: dictionary, postings, positions, norms, statistics.

Everything is decoded, by the kernels that merging uses, and in the end encoded anew: what comes out must be the bytes
that are there, so that nothing can hide in a width, an offset or an entry point.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptIndexError, StorageError
from ..segment import DICTIONARY_BLOCK, FieldInfo, RamSections, Segment, address
from . import bm25
from .findings import Cautious, Findings, is_utf8
from .inverted import FieldWriter
from .kernels.merge import SCRATCH_BYTES, gather
from .postings import read_terms, split_terms

CHUNK = 1 << 22
"""Tokens that are decoded at once."""

_LONGEST = 2.0**40  # tokens of an average document

Mask = NDArray[np.bool_]


class PostingsCheck:
    """The checks of one inverted field; ``present`` says which documents have it.

    :meth:`run` gives the ordinals and documents of all postings of a keyword, None if anything is wrong.
    """

    def __init__(self, segment: Segment, findings: Findings, info: FieldInfo, present: Mask) -> None:
        self.segment, self.findings, self.info, self.present = segment, findings, info, present
        self.cautious, self.docs = Cautious(segment, findings.add), segment.docs
        self.before = len(findings.problems)
        self.has_term = np.zeros(self.docs, np.bool_)
        self.lengths = np.zeros(self.docs, np.int64)
        self.ordinals: list[NDArray[np.int64]] = []
        self.found: list[NDArray[np.uint32]] = []

    @property
    def clean(self) -> bool:
        return len(self.findings.problems) == self.before

    def at(self, kind: str) -> str:
        return f"{kind}/{self.info.name}"

    def run(self) -> tuple[NDArray[np.int64], NDArray[np.uint32]] | None:
        info, find = self.info, self.findings
        norms = self.cautious.array(self.at("norms"), np.uint8, self.docs) if info.norms else None
        try:
            descriptor = self.segment.descriptor(info.name)
        except (CorruptIndexError, StorageError) as error:
            find.error(error.path if error.path and "/" in error.path else self.at("blocks.last"), error)
            return None
        dictionary = self._dictionary()
        if dictionary is None:
            return None
        text, ends, rows = dictionary
        self._sparse(text, ends)
        self._rows(rows)
        writer = self._writer(norms)
        for kind in ("postings", "positions") if info.positions else ("postings",):
            with find.reading(self.at(kind)):
                self.segment.sections.need(self.at(kind), 0, self.segment.sections.size(self.at(kind)))
        if not self.clean:
            return None
        for first, last in _chunks(rows[:, 2]):
            self._decode(descriptor.address, text, ends, rows, first, last, writer)
        self._sums(rows, norms)
        if not self.clean:
            return None
        self._compare(writer)
        return np.concatenate([*self.ordinals, np.zeros(0, np.int64)]), \
            np.concatenate([*self.found, np.zeros(0, np.uint32)])

    # Dictionary

    def _dictionary(self) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]] | None:
        name, terms = self.info.name, self.info.terms
        if not self.findings.holds(terms >= 0, "tail", f"the number of terms of {name!r} is impossible", terms):
            return None
        try:
            return read_terms(self.segment, name, 0, terms)
        except (CorruptIndexError, StorageError):
            pass  # now see where
        lost = []
        for start in range(0, terms, DICTIONARY_BLOCK):
            try:
                read_terms(self.segment, name, start, min(start + DICTIONARY_BLOCK, terms))
            except (CorruptIndexError, StorageError):
                lost.append(start)
        self.findings.add(self.at("terms"), "a block of the dictionary cannot be read",
                          f"terms {lost[0]} to {min(lost[0] + DICTIONARY_BLOCK, terms) - 1}" if lost else None, None,
                          max(1, len(lost)))
        return None

    def _sparse(self, text: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        """Terms ascend and are text, and the sparse index has every sixteenth."""
        find = self.findings
        terms = split_terms(text, ends)
        wrong = np.fromiter((a >= b for a, b in pairwise(terms)), np.bool_, max(0, len(terms) - 1))
        find.none(self.at("terms"), "the terms do not ascend", wrong, lambda i: repr(terms[i + 1]), "a later one")
        wrong = np.fromiter((not is_utf8(term) for term in terms), np.bool_, len(terms))
        find.none(self.at("terms"), "a term is not UTF-8", wrong, lambda i: repr(terms[i]))
        with find.reading(self.at("terms.first")):
            offsets = self.segment.array(self.at("terms.first.offset"), np.uint32).astype(np.int64)
            firsts = self.segment.array(self.at("terms.first"), np.uint8).tobytes()
            heads = [firsts[start:end] for start, end in pairwise(offsets.tolist())]
            expected = terms[::DICTIONARY_BLOCK]
            differs = np.fromiter((a != b for a, b in zip(heads, expected, strict=True)), np.bool_, len(heads))
            find.none(self.at("terms.first"), "the sparse index has another term than its block", differs,
                      lambda i: repr(heads[i]), "the block's first")

    def _rows(self, rows: NDArray[np.int64]) -> None:
        """Counts are possible, and what belongs to a term begins where that of the term before ended."""
        find, info, sections = self.findings, self.info, self.segment.sections
        df, ttf = rows[:, 1], rows[:, 2]
        alone = df == 1
        term = self._term
        find.none(self.at("terms"), "a term is in an impossible number of documents", (df < 1) | (df > self.docs), term,
                  f"1 to {self.docs}")
        find.none(self.at("terms"), "a term has an impossible number of tokens",
                  (ttf < df) if info.freqs else (ttf != df), term)
        find.none(self.at("terms"), "a term's only document is not there",
                  alone & ((rows[:, 3] < 0) | (rows[:, 3] >= self.docs)), term, f"below {self.docs}")
        blocks = np.where(df >= 128, -(-df // 128), 0)
        headers = sections.size(self.at("blocks.last")) // 4
        chains = [("postings", rows[:, 3], np.where(alone, 0, rows[:, 4]), sections.size(self.at("postings")), ~alone),
                  ("blocks.last", rows[:, 5], blocks, headers, df >= 128)]
        if info.positions:
            chains.append(("positions", rows[:, 6], rows[:, 7], sections.size(self.at("positions")), df > 0))
        for kind, begins, sizes, total, matters in chains:
            stops = np.cumsum(sizes)
            find.none(self.at("terms"), f"a term's {kind} do not begin where those of the term before end",
                      matters & (begins != stops - sizes), term)
            find.same(self.at("terms"), f"the terms do not account for all of {self.at(kind)}",
                      int(stops[-1]) if stops.size else 0, total)

    def _term(self, ordinal: int) -> str:
        try:
            text, ends, _ = read_terms(self.segment, self.info.name, ordinal, ordinal + 1)
            return repr(split_terms(text, ends)[0])
        except (CorruptIndexError, StorageError):
            return f"term {ordinal}"

    # Postings

    def _writer(self, norms: NDArray[np.uint8] | None) -> FieldWriter:
        """What encodes the postings anew, with the average length that the bounds were computed for."""
        info = self.info
        avgdl = info.bound_avgdl if info.norms else 1.0
        if not 0 < avgdl < _LONGEST:
            self.findings.add("tail", f"the bounds of {info.name!r} assume an impossible length", avgdl)
            avgdl = 1.0
        return FieldWriter(freqs=info.freqs, positions=info.positions, norms=norms, avgdl=np.float32(avgdl))

    def _decode(
        self, field: int, text: NDArray[np.uint8], ends: NDArray[np.int64], rows: NDArray[np.int64], first: int,
        last: int, writer: FieldWriter,
    ) -> None:
        """The postings of the terms first .. last - 1: counted, read, checked, encoded anew."""
        find, info = self.findings, self.info
        part = np.ascontiguousarray(rows[first:last])
        counts, tokens = _gather(field, part, self.docs)
        lost = counts < 0
        find.none(self.at("postings"), "the postings of a term do not decode", lost, lambda i: self._term(first + i))
        find.none(self.at("postings"), "a term has another number of tokens than the dictionary says",
                  ~lost & (tokens != part[:, 2]), lambda i: self._term(first + i))
        if lost.any():
            return
        total = int(tokens.sum())
        if info.positions and not 0 <= total <= self.segment.sections.size(self.at("positions")):
            find.add(self.at("postings"), "there are more tokens than positions", total)
            return
        starts, places = (np.concatenate([np.zeros(1, np.int64), np.cumsum(of)]) for of in (counts, tokens))
        docs, freqs = np.empty(starts[-1], np.uint32), np.empty(starts[-1], np.uint32)
        positions = np.empty(total, np.uint32) if info.positions else None
        read, _ = _gather(field, part, self.docs, starts, places, docs, freqs, positions)
        if not find.none(self.at("positions"), "the positions of a term do not decode", read < 0,
                         lambda i: self._term(first + i)):
            return
        if not self._ascending(first, starts, docs, freqs, positions):
            return
        self.has_term[docs] = True
        self.lengths += np.bincount(docs, freqs, self.docs).astype(np.int64)
        if info.column == "ord":
            self.ordinals.append(np.repeat(np.arange(first, last), counts))
            self.found.append(docs)
        base = int(ends[first - 1]) if first else 0
        if self.clean:
            writer.append(text[base : int(ends[last - 1])], ends[first:last] - base, docs, freqs, starts, positions)

    def _ascending(
        self, first: int, starts: NDArray[np.int64], docs: NDArray[np.uint32], freqs: NDArray[np.uint32],
        positions: NDArray[np.uint32] | None,
    ) -> bool:
        """Whether documents and positions ascend and frequencies are some: what encoding them relies on."""
        find = self.findings
        inside = np.ones(max(docs.size - 1, 0), np.bool_)
        inside[starts[1:-1] - 1] = False  # from one term to the next
        good = find.none(self.at("postings"), "the documents of a term do not ascend", inside & (docs[1:] <= docs[:-1]),
                         lambda at: self._term(first + int(np.searchsorted(starts, at, side="right")) - 1))
        good &= find.none(self.at("postings"), "a document holds a term no times", freqs == 0,
                          lambda at: f"document {docs[at]}")
        if positions is not None and positions.size:
            bounds = np.cumsum(freqs, dtype=np.int64)[:-1]
            inside = np.ones(positions.size - 1, np.bool_)
            inside[bounds[(bounds > 0) & (bounds < positions.size)] - 1] = False  # from one document to the next
            good &= find.none(self.at("positions"), "the positions in a document do not ascend",
                              inside & (positions[1:] < positions[:-1]),
                              lambda at: f"document {docs[int(np.searchsorted(bounds, at, side='right'))]}")
        return good

    def _sums(self, rows: NDArray[np.int64], norms: NDArray[np.uint8] | None) -> None:
        """Statistics, norms and presence are those of the postings."""
        find, info = self.findings, self.info
        if not self.clean:
            return
        name = info.name
        find.same("tail", f"sum_df of {name!r} is wrong", info.sum_df, int(rows[:, 1].sum()))
        find.same("tail", f"sum_ttf of {name!r} is wrong", info.sum_ttf, int(rows[:, 2].sum()))
        find.same("tail", f"doc_count of {name!r} is wrong", info.doc_count, int(self.has_term.sum()))
        exact = info.type == "keyword"
        find.none(self.at("exists"), "presence and postings of a document disagree",
                  (self.has_term != self.present) if exact else (self.has_term & ~self.present),
                  "document {}".format)
        if norms is not None:
            expected = bm25.encode_lengths(self.lengths)
            find.none(self.at("norms"), "a norm is not the length of its document", norms != expected,
                      lambda doc: f"{norms[doc]} of document {doc}", "the number of its tokens, encoded")

    def _compare(self, writer: FieldWriter) -> None:
        """Encoding what was decoded gives the bytes that are there; and the bounds bound."""
        find, sections = self.findings, self.segment.sections
        ram = RamSections()
        writer.finish(ram, self.info.name)
        for section in ram.names():
            ours, theirs = ram.section(section).data, sections.section(section).data
            if section == self.at("blocks.bound"):
                self._bounds(section, theirs, ours)
            elif find.same(section, "the section has a wrong size", theirs.size, ours.size):
                find.none(section, "a byte is not what its content is encoded to", theirs != ours, "offset {}".format)

    def _bounds(self, section: str, stored: NDArray[np.uint8], exact: NDArray[np.uint8]) -> None:
        info = self.info
        if (info.bound_k1, info.bound_b) == (float(bm25.K1), float(bm25.B)):
            self.findings.none(section, "a block scores more than its bound", stored < exact,
                               lambda block: f"{stored[block]} / 255 of block {block}",
                               "the greatest score in the block")


def _gather(
    field: int, rows: NDArray[np.int64], docs: int, starts: NDArray[np.int64] | None = None,
    places: NDArray[np.int64] | None = None, out: NDArray[np.uint32] | None = None,
    freqs: NDArray[np.uint32] | None = None, positions: NDArray[np.uint32] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Postings and tokens of each term, -1 where they do not decode; with ``out`` they are read as well."""
    def one(first: int, last: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        slots = np.zeros(last - first, np.int64) if starts is None else starts[first:last].copy()
        tokens = np.zeros(last - first, np.int64) if places is None else places[first:last].copy()
        status = gather(field, address(rows[first:]), last - first, address(numbers), address(scratch), address(slots),
                        address(tokens), 0 if out is None else address(out), 0 if freqs is None else address(freqs),
                        0 if positions is None else address(positions))
        return slots, tokens, status

    numbers, scratch = np.arange(docs, dtype=np.int32), np.zeros(SCRATCH_BYTES, np.uint8)
    slots, tokens, status = one(0, rows.shape[0])
    if status >= 0:
        return slots, tokens
    parts = [one(i, i + 1) for i in range(rows.shape[0])]
    counts = np.array([-1 if status < 0 else int(slots[0]) for slots, _, status in parts], np.int64)
    return counts, np.array([int(tokens[0]) for _, tokens, _ in parts], np.int64)


def _chunks(tokens: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Runs of terms of about CHUNK tokens."""
    if tokens.size:
        cuts = np.flatnonzero(np.diff(np.cumsum(tokens) // CHUNK)) + 1
        yield from pairwise([0, *cuts.tolist(), tokens.size])



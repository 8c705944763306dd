"""From documents to a segment in memory.

Documents arrive one by one; their values wait in plain lists until about a megabyte of text can be tokenized in
one call. Tokens become numbers of raw terms; when the segment is built every distinct raw term goes through the
analyzer's maps once, terms are sorted, and a counting sort turns the token stream into postings.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..analysis import Analyzer, get_analyzer
from ..codec.v1.stored import write_raw
from ..mapping import FieldType, Mapping
from ..segment import FieldInfo, RamSections, Segment, address
from . import bm25
from .columns import float_codes, write_column, write_exists
from .ids import write_ids
from .inverted import FieldWriter, Interner, joined
from .kernels import build as kernels

CHUNK = 1 << 20
"""Bytes of text that are tokenized at once."""

DROPPED = 0xFFFFFFFF
_names = itertools.count(1)


class Collector(Protocol):
    """Gathers one field's values and writes its sections."""

    def add(self, doc: int, values: list[Any]) -> None: ...
    def undo(self, doc: int) -> None: ...
    def finish(self, sections: RamSections, number: int, size: int) -> FieldInfo: ...


class Builder:
    """Collects documents; :meth:`build` makes them a segment. Not thread-safe: the writer owns it.

    An interrupt (Ctrl-C) may break :meth:`add` off anywhere. So a document counts only once it is kept, and what
    was not kept is undone before anything else is done.
    """

    def __init__(self) -> None:
        self._collectors: dict[str, Collector] = {}
        self._documents: list[tuple[bytes, bytes, tuple[int, int, int]]] = []
        self._kept = 0
        self._adding = False
        self._source_bytes = 0

    @property
    def docs(self) -> int:
        return self._kept

    @property
    def memory(self) -> int:
        """Bytes held, near enough to bound memory by: the source, its tokens at twice that, and per-document lists."""
        return 3 * self._source_bytes + 300 * self._kept

    def add(
        self, id: bytes, source: bytes, values: dict[str, list[Any]], mapping: Mapping, *, seq_no: int, version: int,
        primary_term: int,
    ) -> int:
        """Add one parsed document, for :meth:`keep` to confirm; its number in the segment to come."""
        self._undo()
        self._adding = True
        doc = self._kept
        self._documents.append((id, source, (seq_no, version, primary_term)))
        self._source_bytes += len(source)
        for name, found in values.items():
            collector = self._collectors.get(name)
            if collector is None:
                collector = self._collectors[name] = _collector(mapping.fields[name])
            collector.add(doc, found)
        return doc

    def keep(self, doc: int) -> None:
        """Keep the document that was added last; doing it twice is allowed."""
        self._kept, self._adding = doc + 1, False

    def _undo(self) -> None:
        if self._adding:
            del self._documents[self._kept :]
            for collector in self._collectors.values():
                collector.undo(self._kept)
            self._adding = False

    def source(self, doc: int) -> bytes:
        return self._documents[doc][1]

    def build(self) -> Segment:
        """The segment of all documents kept so far."""
        self._undo()
        sections = RamSections()
        size = self._kept
        fields = [collector.finish(sections, number, size)
                  for number, (_, collector) in enumerate(sorted(self._collectors.items()))]
        numbers = np.array([numbers for _, _, numbers in self._documents], np.int64).reshape(-1, 3)
        write_documents(sections, [id for id, _, _ in self._documents],
                        [source for _, source, _ in self._documents], numbers)
        return Segment(f"ram-{next(_names)}", size, fields, sections)


NUMBERS = ("seq_no", "version", "primary_term")
"""Sections of the numbers of each document's operation."""


def write_documents(sections: RamSections, ids: list[bytes], sources: list[bytes], numbers: NDArray[np.int64]) -> None:
    """What every document has beside its fields; ``numbers`` int64 [docs, 3]: seq_no, version, primary term."""
    write_ids(sections, ids)
    write_raw(sections, sources)
    for column, name in enumerate(NUMBERS):
        sections.put_ints(name, numbers[:, column])


def _collector(field: FieldType) -> Collector:
    if field.is_text:
        return TextCollector(field)
    if field.is_keyword:
        return KeywordCollector(field)
    return NumberCollector(field)


class TextCollector:
    """Analysed values of one field."""

    def __init__(self, field: FieldType) -> None:
        self._field = field
        self._analyzer: Analyzer = get_analyzer(field.analyzer or "standard")
        self._interner = Interner()
        self._values: list[bytes] = []
        self._value_docs: list[int] = []
        self._docs_seen: list[int] = []
        self._waiting = 0
        self._tokens: list[tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32]]] = []

    def add(self, doc: int, values: list[Any]) -> None:
        if self._waiting >= CHUNK:
            self._tokenize()
        self._docs_seen.append(doc)
        if not self._field.index:
            return
        for value in values:
            data = value.encode()
            self._values.append(data)
            self._value_docs.append(doc)
            self._waiting += len(data)

    def undo(self, doc: int) -> None:
        del self._docs_seen[bisect_left(self._docs_seen, doc) :]
        _forget(doc, self._value_docs, self._values)

    def _tokenize(self) -> None:
        """Turn the values that wait into tokens: their numbers of raw terms, documents and positions."""
        if not self._values:
            return
        data, ends = joined(self._values)
        starts, sizes, values = self._analyzer.tokenizer.split(data, ends)
        value_docs = np.array(self._value_docs, np.int64)
        counts = np.bincount(values, minlength=ends.size)
        # Positions run on through a document's values, with a gap between two (Lucene: position increment gap).
        before = np.cumsum(counts + self._field.position_increment_gap) - counts - self._field.position_increment_gap
        first_of_doc = np.searchsorted(value_docs, value_docs)
        base = before - before[first_of_doc]
        first_token = np.cumsum(counts) - counts
        positions = np.arange(values.size) - first_token[values] + base[values]
        tokens = (self._interner.intern(data, np.ascontiguousarray(starts), np.ascontiguousarray(sizes)),
                  value_docs[values].astype(np.uint32), positions.astype(np.uint32))
        # One step, so that an interrupt comes before or after it.
        self._tokens, self._values, self._value_docs, self._waiting = [*self._tokens, tokens], [], [], 0

    def finish(self, sections: RamSections, number: int, size: int) -> FieldInfo:
        self._tokenize()
        field, name = self._field, self._field.name
        exists = write_exists(sections, name, np.array(self._docs_seen, np.int64), size)
        if not field.index:
            return FieldInfo(number, name, field.type, exists=exists)
        ids, docs, positions = (_concatenated([part[i] for part in self._tokens]) for i in range(3))
        terms, ranks = _ranked(self._interner.strings(), self._analyzer)
        token_ranks = ranks[ids] if ids.size else ids
        kept = token_ranks != DROPPED
        lengths = np.bincount(docs[kept], minlength=size)
        doc_count, tokens = int((lengths > 0).sum()), int(kept.sum())
        avgdl = bm25.average_length(tokens, doc_count)
        norms = bm25.encode_lengths(lengths) if field.norms else None
        writer = FieldWriter(freqs=True, positions=True, norms=norms, avgdl=avgdl)
        _write_sorted(writer, terms, token_ranks, docs, positions, tokens)
        writer.finish(sections, name)
        return FieldInfo(
            number, name, field.type, self._analyzer.hash, indexed=True, freqs=True, positions=True,
            norms=field.norms, exists=exists, doc_count=doc_count, sum_ttf=tokens, sum_df=writer.sum_df,
            terms=writer.terms, bound_avgdl=float(avgdl), bound_k1=float(bm25.K1), bound_b=float(bm25.B))


class KeywordCollector:
    """Values of one field that are terms as they stand."""

    def __init__(self, field: FieldType) -> None:
        self._field = field
        self._values: list[bytes] = []
        self._docs: list[int] = []

    def add(self, doc: int, values: list[Any]) -> None:
        for value in values:
            data = value.encode()
            self._values.append(data)
            self._docs.append(doc)

    def undo(self, doc: int) -> None:
        _forget(doc, self._docs, self._values)

    def finish(self, sections: RamSections, number: int, size: int) -> FieldInfo:
        field, name = self._field, self._field.name
        docs = np.array(self._docs, np.int64)
        exists = write_exists(sections, name, docs, size)
        interner = Interner()
        data, ends = joined(self._values)
        sizes = np.diff(ends, prepend=0)
        ids = interner.intern(data, ends - sizes, sizes)
        terms, ranks = _ranked(interner.strings(), None)
        codes = ranks[ids].astype(np.int64) if ids.size else np.zeros(0, np.int64)
        several = False
        if field.doc_values:
            several = write_column(sections, name, docs, codes, size, distinct=True)
        # The dictionary gives ordinals their terms, so a column needs it even where nothing is searched.
        pairs = np.unique(docs * max(len(terms), 1) + codes)
        unique_docs, unique_codes = np.divmod(pairs, max(len(terms), 1))
        writer = FieldWriter(freqs=False, positions=False, norms=None, avgdl=np.float32(1))
        _write_sorted(writer, terms, unique_codes.astype(np.uint32), unique_docs.astype(np.uint32), None, pairs.size)
        writer.finish(sections, name)
        return FieldInfo(
            number, name, field.type, indexed=True, column="ord" if field.doc_values else "",
            multi_valued=several, exists=exists, doc_count=exists, sum_ttf=writer.sum_df, sum_df=writer.sum_df,
            terms=writer.terms)


class NumberCollector:
    """Values of one field that live in a column only."""

    def __init__(self, field: FieldType) -> None:
        self._field = field
        self._values: list[Any] = []
        self._docs: list[int] = []

    def add(self, doc: int, values: list[Any]) -> None:
        self._values.extend(values)
        self._docs.extend([doc] * len(values))

    def undo(self, doc: int) -> None:
        _forget(doc, self._docs, self._values)

    def finish(self, sections: RamSections, number: int, size: int) -> FieldInfo:
        field, name = self._field, self._field.name
        docs = np.array(self._docs, np.int64)
        exists = write_exists(sections, name, docs, size)
        kind = field.column or ("f64" if field.is_float else "i64")
        stored = field.index or field.doc_values
        several = False
        if stored:
            codes = float_codes(self._values) if kind == "f64" else np.array(self._values, np.int64)
            several = write_column(sections, name, docs, codes, size, distinct=False)
        return FieldInfo(number, name, field.type, column=kind if stored else "", multi_valued=several,
                         exists=exists)


def _forget(doc: int, docs: list[int], values: list[Any]) -> None:
    """Drop the values from ``doc`` on; a value whose document was not noted any more is one of them."""
    del docs[bisect_left(docs, doc) :]
    del values[len(docs) :]


def _concatenated(parts: list[NDArray[np.uint32]]) -> NDArray[np.uint32]:
    return np.concatenate(parts) if parts else np.zeros(0, np.uint32)


def _ranked(raw: list[bytes], analyzer: Analyzer | None) -> tuple[list[bytes], NDArray[np.uint32]]:
    """The sorted distinct terms, and the rank of each raw term's term (DROPPED if a map removed it)."""
    if analyzer is None:
        terms: list[bytes | None] = list(raw)
    else:
        mapped = [analyzer.map_term(term.decode()) for term in raw]
        terms = [None if term is None else term.encode() for term in mapped]
    ordered = sorted({term for term in terms if term is not None})
    rank: dict[bytes | None, int] = {term: number for number, term in enumerate(ordered)}
    rank[None] = DROPPED
    return ordered, np.fromiter((rank[term] for term in terms), np.uint32, len(terms))


def _write_sorted(
    writer: FieldWriter, terms: list[bytes], ranks: NDArray[np.uint32], docs: NDArray[np.uint32],
    positions: NDArray[np.uint32] | None, kept: int,
) -> None:
    """Sort the token stream by term (documents and positions stay in order) and append it to ``writer``."""
    counts = np.bincount(ranks[ranks != DROPPED], minlength=len(terms))
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    slots = starts.copy()
    docs = np.ascontiguousarray(docs)
    ranks = np.ascontiguousarray(ranks)
    sorted_docs = np.empty(kept, np.uint32)
    sorted_positions = None if positions is None else np.empty(kept, np.uint32)
    kernels.scatter(address(ranks), address(docs), 0 if positions is None else address(positions), ranks.size,
                    address(slots), address(sorted_docs), 0 if sorted_positions is None else address(sorted_positions))
    freqs = np.empty(kept, np.uint32)
    posting_starts = np.empty(len(terms) + 1, np.int64)
    postings = kernels.group(address(sorted_docs), address(starts), len(terms), address(sorted_docs),
                             address(freqs), address(posting_starts))
    text, ends = joined(terms)
    writer.append(text, ends, sorted_docs[:postings], freqs[:postings], posting_starts, sorted_positions)

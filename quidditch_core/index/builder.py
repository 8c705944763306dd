"""From documents to a segment in memory.

Documents arrive one by one, or in batches as columns of values. The tokens of a text become numbers of distinct
strings as it comes; when the segment is built, what an analyzer's maps change goes through them once, terms are
sorted, and a counting sort turns the stream of tokens into postings.
"""

from __future__ import annotations

import itertools
import threading
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..analysis import Analyzer, get_analyzer
from ..analysis.tokenizers import Tokenizer
from ..codec.v1.sources import Sources
from ..codec.v1.stored import Learned, StoredCodec
from ..documents import Column
from ..mapping import FieldType, Mapping
from ..segment import FieldInfo, RamSections, Segment, address, release, zeros
from . import bm25
from .columns import float_codes, write_column, write_exists
from .ids import id_hashes, write_ids
from .inverted import Encoded, FieldWriter
from .kernels import tokens as kernels
from .slices import begin, each
from .strings import Interner, joined

if TYPE_CHECKING:
    from concurrent.futures import Future

CHUNK = 1 << 18
"""Bytes of values that wait for the kernels."""
JOBS = 4
"""Batches whose values other threads turn into tokens at once."""
BLOCK_TOKENS = 1 << 21
"""Tokens whose numbers are kept in one piece of memory, at most."""
RUN = 1 << 18
"""Tokens that are encoded at once."""
MANY = 10_000
"""Ids whose hashes are worth another thread."""
DROPPED = kernels.DROPPED
DOCUMENT_BYTES = 300
"""What a document takes beside its source and its values: objects, entries of dictionaries, numbers."""
TERM_BYTES = 120
"""What sorting and encoding take for a distinct string."""
MEASURED_BYTES = 1 << 19
"""Bytes of sources between two measurements of what collectors hold."""
_names = itertools.count(1)


class Collector(Protocol):
    """Gathers a field's values and writes its sections; ``memory``: bytes held, and what that will take beside them."""

    @property
    def memory(self) -> int: ...
    def add(self, doc: int, values: list[Any]) -> None: ...
    def extend(self, docs: NDArray[np.uint32], values: Any) -> None: ...
    def undo(self, doc: int) -> None: ...
    def finish(self, sections: RamSections, number: int, size: int, threads: int) -> FieldInfo: ...


class Builder:
    """Collects documents; :meth:`build` makes them a segment. Not thread-safe: the writer owns it.

    An interrupt (Ctrl-C) may break :meth:`add` or :meth:`extend` off anywhere. So documents count only once they are
    kept, and what was not kept is undone before anything else is done. Documents are compressed by ``codec`` if it has
    one, with a dictionary that is ``known`` if it suits, and the segment is built, by ``threads`` threads.
    """

    def __init__(
        self, codec: StoredCodec | None, threads: int, known: Callable[[], Learned | None] = lambda: None,
    ) -> None:
        self._threads = threads
        self._collectors: dict[str, Collector] = {}
        self._ids: list[bytes] = []
        self._sources = Sources(codec, threads, begin, known)
        self._numbers = tuple(array("q") for _ in NUMBERS)
        self._kept = 0
        self._adding = False
        self._source_bytes = 0
        self._measured = (0, 0)  # bytes of sources when all were last asked what they hold, and their answer

    @property
    def docs(self) -> int:
        return self._kept

    @property
    def memory(self) -> int:
        """Bytes held, and what :meth:`build` will take beside them; near enough between two measurements."""
        before, held = self._measured
        return DOCUMENT_BYTES * self._kept + held + 5 * (self._source_bytes - before)

    def _measure(self) -> None:
        held = sum(collector.memory for collector in self._collectors.values())
        self._measured = self._source_bytes, held + self._sources.memory

    def add(
        self, id: bytes, source: bytes, values: dict[str, list[Any]], mapping: Mapping, *, seq_no: int, version: int,
        primary_term: int,
    ) -> int:
        """Add one parsed document, for :meth:`keep` to confirm; its number in the segment to come."""
        self._undo()
        self._adding = True
        doc = self._kept
        self._ids.append(id)
        self._sources.add(source)
        for numbers, number in zip(self._numbers, (seq_no, version, primary_term), strict=True):
            numbers.append(number)
        self._source_bytes += len(source)
        for name, found in values.items():
            collector = self._collectors.get(name)
            if collector is None:
                collector = self._collectors[name] = _collector(mapping.fields[name], self._threads)
            collector.add(doc, found)
        return doc

    def extend(
        self, ids: Sequence[bytes], sources: Sequence[bytes], columns: Sequence[Column], *, seq_no: int,
        versions: Sequence[int], primary_term: int,
    ) -> int:
        """Add documents whose seq_nos follow each other, for :meth:`keep` to confirm; the number of the first."""
        self._undo()
        self._adding = True
        first, count = self._kept, len(ids)
        self._ids += ids
        self._sources.extend(sources)
        for numbers, added in zip(self._numbers, (range(seq_no, seq_no + count), versions,
                                                  itertools.repeat(primary_term, count)), strict=True):
            numbers.extend(added)
        self._source_bytes += sum(map(len, sources))
        all_docs = np.arange(first, first + count, dtype=np.uint32)
        for column in columns:
            collector = self._collectors.get(column.field.name)
            if collector is None:
                collector = self._collectors[column.field.name] = _collector(column.field, self._threads)
            collector.extend(all_docs if column.rows is None else all_docs[column.rows], column.values)
        return first

    def keep(self, docs: int) -> None:
        """Keep what was added last, up to ``docs`` documents in all; doing it twice is allowed."""
        self._kept, self._adding = docs, False
        if self._source_bytes - self._measured[0] >= MEASURED_BYTES:
            self._sources.settle()
            self._measure()

    def _undo(self) -> None:
        if self._adding:
            del self._ids[self._kept :]
            self._sources.undo(self._kept)
            for numbers in self._numbers:
                del numbers[self._kept :]
            for collector in self._collectors.values():
                collector.undo(self._kept)
            self._adding = False

    def source(self, doc: int) -> bytes:
        return self._sources.read(doc)

    def numbers(self, doc: int) -> tuple[int, ...]:
        """seq_no, version and primary term of a document."""
        return tuple(numbers[doc] for numbers in self._numbers)

    def build(self) -> Segment:
        """The segment of all documents kept so far, the same to the bit for any number of threads.

        An interrupt may break it off; then it can be called again.
        """
        self._undo()
        sections = RamSections()
        size = self._kept
        self._sources.settle(last=True)
        hashes = begin(id_hashes, self._ids) if self._threads > 1 and size >= MANY else None
        fields = [collector.finish(sections, number, size, self._threads)
                  for number, (_, collector) in enumerate(sorted(self._collectors.items()))]
        numbers = np.stack([np.frombuffer(part, np.int64) if size else np.zeros(0, np.int64)
                            for part in self._numbers], axis=1)
        write_ids(sections, self._ids, id_hashes(self._ids) if hashes is None else hashes.result())
        for column, name in enumerate(NUMBERS):
            sections.put_rising(name, numbers[:, column])
        codec = self._sources.write(sections)
        return Segment(f"ram-{next(_names)}", size, fields, sections, stored="zstd" if codec else "raw", codec=codec)


NUMBERS = ("seq_no", "version", "primary_term")
"""Sections of the numbers of each document's operation."""


def _collector(field: FieldType, threads: int) -> Collector:
    if not (field.index or field.doc_values) or (field.is_text and not field.index):
        return PresenceCollector(field)
    if field.is_text:
        return TextCollector(field, threads)
    if field.is_keyword:
        return KeywordCollector(field, threads)
    return NumberCollector(field)


class _Tokens(NamedTuple):
    """Tokens of some values: the number of each one's string; how many each value has, and its document."""

    ids: NDArray[np.uint32]
    counts: NDArray[np.uint32]
    docs: NDArray[np.uint32]

    @property
    def memory(self) -> int:
        """Bytes held, and what sorting and encoding take: eight a token, or twelve."""
        room = kernels.WIDE - int(self.docs[-1]).bit_length()
        return (4 if int(self.counts.max()) >> room else 3) * self.ids.nbytes + self.counts.nbytes + self.docs.nbytes


class _Sorted(NamedTuple):
    """Tokens by the rank of their strings, as the kernels have them with this shift; where each rank's begin; how many
    each document has."""

    tokens: NDArray[Any]
    shift: int
    starts: NDArray[np.int64]
    lengths: NDArray[np.uint32]


class _Job(NamedTuple):
    """Values that another thread turns into tokens."""

    docs: NDArray[np.uint32]
    values: list[bytes]
    bytes: int
    made: Future[_Tokens]


class _Stream:
    """A field's values as tokens. Those of single documents wait until it is worth a call.

    With several ``threads`` the values of a batch become tokens while the next batch is read.
    """

    def __init__(self, tokenizer: Tokenizer, threads: int, *, fold: bool) -> None:
        self._tokenizer, self._threads = tokenizer, threads
        self.interner = Interner(fold=fold)
        self._lock = threading.Lock()  # held by who makes tokens
        self._jobs: list[_Job] = []
        self._parts: list[_Tokens] = []
        self._values: list[bytes] = []
        self._docs: list[int] = []
        self._waiting = self._memory = self._blocks = 0
        self._block = np.empty(0, np.uint32)

    @property
    def memory(self) -> int:
        waiting = self._waiting + sum(job.bytes for job in self._jobs)
        return (self._memory + 4 * waiting + 200 * len(self._values) + self.interner.memory
                + TERM_BYTES * len(self.interner))

    def add(self, doc: int, values: list[str]) -> None:
        if self._waiting >= CHUNK:
            self.settle()
        for value in values:
            data = value.encode()
            self._values.append(data)
            self._docs.append(doc)
            self._waiting += len(data)

    def extend(self, docs: NDArray[np.uint32], values: list[bytes]) -> None:
        """Values of documents that come after those that wait."""
        size = sum(map(len, values))
        if self._threads > 1 and size >= CHUNK and not self._values:
            self._finish_jobs(JOBS - 1)
            self._jobs = [*self._jobs, _Job(docs, values, size, begin(self._tokens, docs, values))]
        elif values:
            self.settle()
            self._take(self._tokens(docs, values))

    def undo(self, doc: int) -> None:
        self._finish_jobs(0)
        _forget(doc, self._docs, self._values)
        self._parts = [part for part in self._parts if part.docs[0] < doc]
        self._memory = sum(part.memory for part in self._parts)

    def settle(self) -> None:
        """Turn the values that wait into tokens."""
        self._finish_jobs(0)
        if self._values:
            part = self._tokens(np.array(self._docs, np.uint32), self._values)
            self._take(part, settled=True)

    def _finish_jobs(self, most: int) -> None:
        """Take what other threads make, until ``most`` jobs are left. Where one failed, this thread tries again."""
        while len(self._jobs) > most:
            job = self._jobs[0]
            part = job.made.result() if job.made.exception() is None else self._tokens(job.docs, job.values)
            self._take(part, jobs=1)

    def _take(self, part: _Tokens, *, jobs: int = 0, settled: bool = False) -> None:
        parts, memory, left = [*self._parts, part], self._memory + part.memory, self._jobs[jobs:]
        # One step, so that an interrupt comes before or after it.
        if settled:
            self._parts, self._memory, self._values, self._docs, self._waiting = parts, memory, [], [], 0
        else:
            self._parts, self._memory, self._jobs = parts, memory, left

    def _tokens(self, docs: NDArray[np.uint32], values: list[bytes]) -> _Tokens:
        data, ends = joined(values)
        spans, counts = self._tokenizer.split(data, ends)
        with self._lock:
            return _Tokens(self.interner.intern(data, spans, self._room(spans.size)), counts, docs)

    def _room(self, tokens: int) -> NDArray[np.uint32]:
        """Memory for numbers of tokens: in large pieces, of which the kernel gives large pages."""
        if self._block.size < tokens:
            self._block = zeros(max(tokens, min(self._blocks, BLOCK_TOKENS)), np.uint32)
            self._blocks = 2 * self._block.size
        room, self._block = self._block[:tokens], self._block[tokens:]
        return room

    @property
    def docs(self) -> NDArray[np.uint32]:
        """The document of each value."""
        return _concatenated([part.docs for part in self._parts])

    @property
    def ids(self) -> NDArray[np.uint32]:
        """The number of each token's string."""
        return _concatenated([part.ids for part in self._parts])

    @property
    def size(self) -> int:
        """Tokens in all."""
        return sum(part.ids.size for part in self._parts)

    def totals(self) -> list[NDArray[np.int64]]:
        """How many tokens each string has, in each of the groups in which threads sort them."""

        def tally(group: list[_Tokens]) -> NDArray[np.int64]:
            totals = np.zeros(len(self.interner), np.int64)
            for part in group:
                kernels.tally(address(part.ids), part.ids.size, address(totals))
            return totals

        return each(tally, self._groups())

    def _groups(self) -> list[list[_Tokens]]:
        """The parts in order, for each thread as many tokens."""
        count = min(self._threads, 1 + self.size // BLOCK_TOKENS)
        edges = itertools.accumulate([part.ids.size for part in self._parts], initial=0)
        groups: list[list[_Tokens]] = [[] for _ in range(count)]
        for edge, part in zip(edges, self._parts, strict=False):
            groups[edge * count // (self.size + 1)].append(part)
        return groups

    def sort(self, ranks: NDArray[np.uint32], totals: list[NDArray[np.int64]], size: int, gap: int) -> _Sorted:
        """The tokens by the rank of their strings; ``totals``: those of each rank, in each group."""
        edges = np.cumsum(np.array(totals), axis=0)
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(edges[-1])])
        slots = starts[:-1] + edges - totals  # where the tokens of each group begin
        lengths = np.zeros(size, np.uint32)
        shift = max(1, (size - 1).bit_length())
        if self._longest(gap) >> (kernels.WIDE - shift):
            shift = kernels.WIDE
        tokens = zeros(int(starts[-1]), np.uint64 if shift == kernels.WIDE else np.uint32)

        def place(number: int) -> None:
            for part in groups[number]:
                kernels.place(address(part.ids), address(part.counts), address(part.docs), part.docs.size, gap,
                              address(ranks), address(slots[number]), address(lengths), address(tokens), shift)

        groups = self._groups()
        each(place, range(len(groups)))
        return _Sorted(tokens, shift, starts, lengths)

    def _longest(self, gap: int) -> int:
        """Positions of a document, at most."""
        return max((int(np.bincount(part.docs - part.docs[0], part.counts + np.uint64(gap)).max())
                    for part in self._parts), default=0)


class PresenceCollector:
    """A field that is neither searched nor sorted by: which documents have it."""

    def __init__(self, field: FieldType) -> None:
        self._field = field
        self._docs = array("I")

    @property
    def memory(self) -> int:
        return 4 * len(self._docs)

    def add(self, doc: int, values: list[Any]) -> None:
        self._docs.append(doc)

    def extend(self, docs: NDArray[np.uint32], values: Any) -> None:
        self._docs.frombytes(docs.tobytes())

    def undo(self, doc: int) -> None:
        del self._docs[bisect_left(self._docs, doc) :]

    def finish(self, sections: RamSections, number: int, size: int, threads: int) -> FieldInfo:
        docs = np.array(self._docs, np.uint32)
        return FieldInfo(number, self._field.name, self._field.type,
                         exists=write_exists(sections, self._field.name, docs, size))


class TextCollector:
    """Analysed values of one field."""

    def __init__(self, field: FieldType, threads: int) -> None:
        self._field = field
        self._analyzer: Analyzer = get_analyzer(field.analyzer or "standard")
        self._stream = _Stream(self._analyzer.tokenizer, threads, fold=self._analyzer.folds)

    @property
    def memory(self) -> int:
        return self._stream.memory

    def add(self, doc: int, values: list[Any]) -> None:
        self._stream.add(doc, values)

    def extend(self, docs: NDArray[np.uint32], values: list[bytes]) -> None:
        self._stream.extend(docs, values)

    def undo(self, doc: int) -> None:
        self._stream.undo(doc)

    def finish(self, sections: RamSections, number: int, size: int, threads: int) -> FieldInfo:
        field, name, stream = self._field, self._field.name, self._stream
        stream.settle()
        exists = write_exists(sections, name, stream.docs, size)
        totals = stream.totals()
        terms = _mapped(stream.interner, self._analyzer)
        ordered, ranks, totals = _ranked(stream.interner, terms, totals)
        gap = field.position_increment_gap
        found = stream.sort(ranks, totals, size, gap)
        doc_count = int(np.count_nonzero(found.lengths))
        avgdl = bm25.average_length(found.tokens.size, doc_count)
        norms = bm25.encode_lengths(found.lengths) if field.norms else None
        writer = FieldWriter(freqs=True, positions=True, norms=norms, avgdl=avgdl)
        _write_sorted(writer, stream.interner, ordered, found, positions=True, threads=threads)
        tokens = found.tokens.size
        del found
        writer.finish(sections, name)
        return FieldInfo(
            number, name, field.type, self._analyzer.hash, indexed=True, freqs=True, positions=True,
            norms=field.norms, exists=exists, doc_count=doc_count, sum_ttf=tokens, sum_df=writer.sum_df,
            terms=writer.terms, bound_avgdl=float(avgdl), bound_k1=float(bm25.K1), bound_b=float(bm25.B))


class KeywordCollector:
    """Values of one field that are terms as they stand."""

    def __init__(self, field: FieldType, threads: int) -> None:
        self._field = field
        self._stream = _Stream(get_analyzer("keyword").tokenizer, threads, fold=False)

    @property
    def memory(self) -> int:
        return self._stream.memory + (12 * self._stream.size if self._field.doc_values else 0)

    def add(self, doc: int, values: list[Any]) -> None:
        self._stream.add(doc, values)

    def extend(self, docs: NDArray[np.uint32], values: list[bytes]) -> None:
        self._stream.extend(docs, values)

    def undo(self, doc: int) -> None:
        self._stream.undo(doc)

    def finish(self, sections: RamSections, number: int, size: int, threads: int) -> FieldInfo:
        field, name, stream = self._field, self._field.name, self._stream
        stream.settle()
        docs = stream.docs
        exists = write_exists(sections, name, docs, size)
        every = np.arange(len(stream.interner), dtype=np.uint32)
        ordered, ranks, totals = _ranked(stream.interner, every, stream.totals())
        several = False
        if field.doc_values:
            several = write_column(sections, name, docs, ranks[stream.ids].astype(np.int64), size, distinct=True)
        # The dictionary gives ordinals their terms, so a column needs it even where nothing is searched.
        writer = FieldWriter(freqs=False, positions=False, norms=None, avgdl=np.float32(1))
        _write_sorted(writer, stream.interner, ordered, stream.sort(ranks, totals, size, 0), positions=False,
                      threads=threads)
        writer.finish(sections, name)
        return FieldInfo(
            number, name, field.type, indexed=True, column="ord" if field.doc_values else "",
            multi_valued=several, exists=exists, doc_count=exists, sum_ttf=writer.sum_df, sum_df=writer.sum_df,
            terms=writer.terms)


class NumberCollector:
    """Values of one field that live in a column only."""

    def __init__(self, field: FieldType) -> None:
        self._field = field
        self._kind = field.column or ("f64" if field.is_float else "i64")
        self._parts: list[tuple[NDArray[np.uint32], NDArray[np.int64]]] = []
        self._values: list[Any] = []
        self._docs: list[int] = []

    @property
    def memory(self) -> int:
        return 100 * len(self._docs) + 3 * sum(docs.nbytes + codes.nbytes for docs, codes in self._parts)

    def add(self, doc: int, values: list[Any]) -> None:
        self._values.extend(values)
        self._docs.extend([doc] * len(values))

    def extend(self, docs: NDArray[np.uint32], values: Any) -> None:
        self._settle()
        if docs.size:
            self._parts = [*self._parts, (docs, self._codes(values))]

    def undo(self, doc: int) -> None:
        _forget(doc, self._docs, self._values)
        self._parts = [part for part in self._parts if part[0][0] < doc]

    def _settle(self) -> None:
        if self._docs:
            part = np.array(self._docs, np.uint32), self._codes(self._values)
            self._parts, self._docs, self._values = [*self._parts, part], [], []

    def _codes(self, values: Any) -> NDArray[np.int64]:
        return float_codes(values) if self._kind == "f64" else np.array(values, np.int64)

    def finish(self, sections: RamSections, number: int, size: int, threads: int) -> FieldInfo:
        field, name = self._field, self._field.name
        self._settle()
        docs = _concatenated([docs for docs, _ in self._parts])
        exists = write_exists(sections, name, docs, size)
        stored = field.index or field.doc_values
        several = False
        if stored:
            codes = np.concatenate([np.zeros(0, np.int64), *(codes for _, codes in self._parts)])
            several = write_column(sections, name, docs, codes, size, distinct=False)
        return FieldInfo(number, name, field.type, column=self._kind if stored else "", multi_valued=several,
                         exists=exists)


def _forget(doc: int, docs: list[int], values: list[Any]) -> None:
    """Drop the values from ``doc`` on; a value whose document was not noted any more is one of them."""
    del docs[bisect_left(docs, doc) :]
    del values[len(docs) :]


def _concatenated(parts: list[NDArray[np.uint32]]) -> NDArray[np.uint32]:
    return np.concatenate(parts) if parts else np.zeros(0, np.uint32)


def _mapped(interner: Interner, analyzer: Analyzer) -> NDArray[np.uint32]:
    """The number of what the analyzer makes of each string (DROPPED: nothing); it may be a new one."""
    terms = np.arange(len(interner), dtype=np.uint32)
    if not analyzer.maps:
        return terms
    changing = interner.beyond_ascii() if analyzer.folds and analyzer.keeps_ascii else terms.copy()
    mapped = [analyzer.map_term(raw.decode()) for raw in interner.strings(changing)]
    kept = np.array([term is not None for term in mapped], np.bool_)
    terms[changing[~kept]] = DROPPED
    terms[changing[kept]] = interner.numbers([term.encode() for term in mapped if term is not None])
    return terms


def _ranked(
    interner: Interner, terms: NDArray[np.uint32], totals: list[NDArray[np.int64]],
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], list[NDArray[np.int64]]]:
    """The numbers of the terms that occur, sorted; each string's rank among them; the tokens of each rank.

    ``terms``: the term of each string. ``totals``: its tokens, in each group.
    """
    occurs = (terms != DROPPED) & (np.sum(totals, axis=0) > 0)
    present = np.zeros(len(interner), np.bool_)
    present[terms[occurs]] = True
    ordered = interner.ordered(np.flatnonzero(present).astype(np.uint32))
    rank = np.full(len(interner) + 1, DROPPED, np.uint32)
    rank[ordered] = np.arange(ordered.size, dtype=np.uint32)
    ranks = np.where(occurs, rank[np.where(occurs, terms, 0)], np.uint32(DROPPED))
    by_rank = [np.bincount(ranks[occurs], part[occurs], ordered.size).astype(np.int64) for part in totals]
    return ordered, ranks, by_rank


def _write_sorted(
    writer: FieldWriter, interner: Interner, ordered: NDArray[np.uint32], found: _Sorted, *, positions: bool,
    threads: int,
) -> None:
    """Append terms and their sorted tokens to ``writer``, some terms at a time, by ``threads`` threads."""
    tokens, shift, starts, _ = found
    edges = np.searchsorted(starts, np.arange(RUN, int(starts[-1]), RUN)).tolist()
    runs = list(itertools.pairwise(sorted({0, *edges, ordered.size})))

    def encoded(run: tuple[int, int]) -> Encoded:
        begin, end = run
        at = starts[begin : end + 1]
        count = int(at[-1] - at[0])
        docs, freqs = np.empty(count, np.uint32), np.empty(count, np.uint32)
        places = np.empty(count, np.uint32) if positions else None
        posting_starts = np.empty(end - begin + 1, np.int64)
        postings = kernels.group(address(tokens), address(at), end - begin, address(docs), address(freqs),
                                 0 if places is None else address(places), address(posting_starts), shift)
        text, ends = interner.spell(ordered[begin:end])
        return writer.encode(text, ends, docs[:postings], freqs[:postings], posting_starts, places)

    for first in range(0, len(runs), threads):
        for part in each(encoded, runs[first : first + threads]):
            writer.keep(part)
        release(tokens, int(starts[runs[min(first + threads, len(runs)) - 1][1]]))

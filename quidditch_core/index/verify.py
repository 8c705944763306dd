"""What a segment says, held against everything else that it says.

Every section is read whole, by NumPy and the kernels, never document by document where it can be helped. Nothing is
taken for granted but that sections lie where their table says: sizes come first, then what each section says, then
what they say of each other. Here are the documents and the columns; ``verify_postings`` has the inverted fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..codec.v1.stored import reader
from ..fields import FLOAT_TYPES, INTEGER_RANGES
from ..segment import GRANULE, FieldInfo, Segment, bitmap_words
from .columns import code_floats, float_codes
from .findings import Cautious, Findings, is_utf8
from .ids import MAX_ID_BYTES, all_ids, wide_hash
from .order import numbered
from .units import Unit, units
from .verify_postings import Mask, PostingsCheck

Postings = tuple[NDArray[np.int64], NDArray[np.uint32]]


class Numbers(NamedTuple):
    """Of each document of a segment the hash of its id and its sequence number; int64."""

    hashes: NDArray[np.int64]
    seq_no: NDArray[np.int64]


def verify(segment: Segment, findings: Findings) -> Numbers | None:
    """Add every contradiction in a segment to ``findings``; the numbers of its documents if they can be read."""
    return _Verification(segment, findings).run()


class _Verification:
    """The checks of one segment. Each leaves what later ones need, or None where it found too much wrong."""

    def __init__(self, segment: Segment, findings: Findings) -> None:
        self.segment, self.findings, self.docs = segment, findings, segment.docs
        self.cautious = Cautious(segment, findings.add)

    def run(self) -> Numbers | None:
        docs, find = self.docs, self.findings
        # The one section of documents that cannot be narrow: no number of documents is believed without it.
        hashes = self.cautious.array("ids.hash", np.uint32, docs) if docs >= 0 else None
        if hashes is None:
            find.add("tail", "the number of documents is in doubt, so that nothing else was checked", docs)
            return None
        found = self._ids(hashes)
        seq_no = self._numbers()
        self._stored()
        for number, info in enumerate(self.segment.fields.values()):
            find.same("tail", f"the field {info.name!r} has a wrong number", info.number, number)
            self._field(info)
        if self.segment.sort and not find.problems:  # keys are compared by what was found sound
            places, = numbered([self.segment], [np.ones(docs, np.bool_)], self.segment.sort)
            find.none("tail", "the documents are not sorted as the segment says", places != np.arange(docs),
                      "document {}".format)
        return None if found is None or seq_no is None else Numbers(found, seq_no)

    # Documents

    def _ids(self, hashes: NDArray[np.uint32]) -> NDArray[np.int64] | None:
        find, docs, sections = self.findings, self.docs, self.segment.sections
        order = self.cautious.array("ids.doc", np.uint32, docs)
        starts = self.cautious.ints("ids.start", docs + 1)
        computed = None
        if starts is not None and self._partition("ids.start", starts, sections.size("ids")):
            find.none("ids.start", "an id has an impossible length",
                      (np.diff(starts) < 1) | (np.diff(starts) > MAX_ID_BYTES), "document {}".format,
                      f"1 to {MAX_ID_BYTES} bytes")
            with find.reading("ids"):
                ids = all_ids(self.segment)
                computed = np.fromiter(map(wide_hash, ids), np.int64, docs)
                wrong = np.fromiter((not is_utf8(id) for id in ids), np.bool_, docs)
                find.none("ids", "an id is not UTF-8", wrong, lambda doc: f"document {doc}: {ids[doc]!r}")
        find.none("ids.hash", "the hashes of ids do not ascend", hashes[1:] < hashes[:-1], "entry {}".format)
        if order is None:
            return computed
        seen = np.bincount(order[order < docs], minlength=docs)
        if not find.none("ids.doc", "a document does not occur exactly once", seen != 1, "document {}".format):
            return computed
        find.none("ids.doc", "equal hashes are not in the order of documents",
                  (hashes[1:] == hashes[:-1]) & (order[1:] < order[:-1]), "entry {}".format)
        if computed is not None:
            find.none("ids.hash", "a hash is not that of its document's id", (computed[order] & 0xFFFFFFFF) != hashes,
                      lambda i: f"document {order[i]}")
        return computed

    def _partition(self, section: str, starts: NDArray[np.int64], size: int) -> bool:
        """Whether ``starts`` cut ``size`` things in order."""
        find = self.findings
        ascending = find.none(section, "the starts do not ascend", starts[1:] < starts[:-1], "entry {}".format)
        return find.same(section, "the starts begin or end at a wrong place", (int(starts[0]), int(starts[-1])),
                         (0, size)) and ascending

    def _numbers(self) -> NDArray[np.int64] | None:
        find, docs = self.findings, self.docs
        seq_no = self.cautious.ints("seq_no", docs)
        for name, least, values in (("seq_no", 0, seq_no), ("version", 1, self.cautious.ints("version", docs)),
                                    ("primary_term", 1, self.cautious.ints("primary_term", docs))):
            if values is not None:
                find.none(name, "a number is too low", values < least, "document {}".format, f"{least} or more")
        return seq_no

    def _stored(self) -> None:
        find = self.findings
        broken: list[Unit] = []
        bad: list[int] = []
        sections = self.segment.sections
        if "stored" not in sections:
            find.add("stored", "the section is missing")
            return
        parts = self._raw_units() if self.segment.stored == "raw" else self._zstd_units()
        for unit in parts:
            if unit.documents is None:
                broken.append(unit)
            else:
                bad += [unit.first + at for at, source in enumerate(unit.documents) if not is_object(source)]
        if broken:
            first = broken[0]
            find.add("stored", "a unit of documents cannot be read",
                     f"documents {first.first} to {first.first + first.docs - 1}: {first.problem}", None, len(broken))
        if bad:
            find.add("stored", "a source is not a JSON object", f"document {bad[0]}", None, len(bad))

    def _raw_units(self) -> Iterator[Unit]:
        starts = self.cautious.ints("stored.start", self.docs + 1)
        if starts is not None and self._partition("stored.start", starts, self.segment.sections.size("stored")):
            stored = reader(self.segment)
            yield from (Unit(doc, 1, [stored.read(doc)]) for doc in range(self.docs))

    def _zstd_units(self) -> Iterator[Unit]:
        count = self.cautious.count("stored.first")
        if count is None or not self.findings.holds(0 < count <= self.docs + 1, "stored.first",
                                                    "an impossible number of units", count - 1):
            return
        firsts, starts = self.cautious.ints("stored.first", count), self.cautious.ints("stored.start", count)
        if firsts is None or starts is None or not self._partition("stored.first", firsts, self.docs):
            return
        if self._partition("stored.start", starts, self.segment.sections.size("stored")):
            yield from units(self.segment, starts, firsts, strict=True)

    # Fields

    def _field(self, info: FieldInfo) -> None:
        find = self.findings
        kind = {"keyword": "ord", "text": ""}.get(info.type, "f64" if info.type in FLOAT_TYPES else "i64")
        if info.column not in ("", kind) or (info.column == "ord" and not info.indexed):
            find.add("tail", f"the field {info.name!r} has an impossible column", info.column)
            return
        present = self._exists(info)
        if present is None:
            return
        postings = PostingsCheck(self.segment, find, info, present).run() if info.indexed else None
        if info.column:
            self._column(info, present, postings)

    def _exists(self, info: FieldInfo) -> Mask | None:
        find, name = self.findings, f"exists/{info.name}"
        if info.exists == self.docs:
            return np.ones(self.docs, np.bool_)
        words = self.cautious.array(name, np.uint64, bitmap_words(self.docs))
        if words is None:
            return None
        bits = np.unpackbits(words.view(np.uint8), bitorder="little").view(np.bool_)
        find.same(name, "the number of documents that have the field is wrong", int(bits.sum()), info.exists)
        find.none(name, "a bit is set beyond the last document", bits[self.docs :], lambda bit: self.docs + bit)
        return bits[: self.docs]

    def _column(self, info: FieldInfo, present: Mask, postings: Postings | None) -> None:
        find, name, docs = self.findings, info.name, self.docs
        starts = None
        if info.multi_valued:
            starts = self.cautious.ints(f"column.start/{name}", docs + 1)
            if starts is None or not self._partition(f"column.start/{name}", starts, max(int(starts[-1]), 0)):
                return
        count = docs if starts is None else int(starts[-1])
        granules = -(-count // GRANULE)
        least = self.cautious.array(f"column.min/{name}", np.int64, granules) if granules else None
        most = self.cautious.array(f"column.max/{name}", np.int64, granules) if granules else None
        codes = self.cautious.ints(f"column/{name}", count)
        if codes is None or (granules and (least is None or most is None)):
            return
        if granules:
            edges = np.arange(0, count, GRANULE)
            for kind, stored, reduce in (("min", least, np.minimum), ("max", most, np.maximum)):
                find.none(f"column.{kind}/{name}", f"a granule has another {kind}imum",
                          reduce.reduceat(codes, edges) != stored, "granule {}".format)
        if starts is not None:
            self._several(info, present, starts, codes)
        elif not present.all():
            filler = int(codes[present].min()) if present.any() else 0
            find.none(f"column/{name}", "a document without the field has a value", (codes != filler) & ~present,
                      "document {}".format, f"code {filler}, the least")
        self._codes(info, codes)
        if info.column == "ord" and postings is not None:
            owners = np.flatnonzero(present) if starts is None else np.repeat(np.arange(docs), np.diff(starts))
            self._ordinals(info, owners, codes[present] if starts is None else codes, postings)

    def _several(self, info: FieldInfo, present: Mask, starts: NDArray[np.int64], codes: NDArray[np.int64]) -> None:
        find, name = self.findings, info.name
        find.none(f"column.start/{name}", "values and presence of a document disagree",
                  (np.diff(starts) > 0) != present, "document {}".format)
        falling = codes[1:] <= codes[:-1] if info.column == "ord" else codes[1:] < codes[:-1]
        falling[starts[(starts > 0) & (starts < codes.size)] - 1] = False  # from one document to the next
        find.none(f"column/{name}", "the values of a document do not ascend", falling,
                  lambda at: f"document {int(np.searchsorted(starts, at, side='right')) - 1}")

    def _codes(self, info: FieldInfo, codes: NDArray[np.int64]) -> None:
        """Codes are those of values that the field can have."""
        if info.column == "f64":
            with np.errstate(invalid="ignore"):
                values = code_floats(codes)
                wrong = ~np.isfinite(values) | (float_codes(values) != codes)
            expected = "a finite number"
        else:
            low, high = (0, info.terms - 1) if info.column == "ord" else (0, 1) if info.type == "boolean" \
                else INTEGER_RANGES.get(info.type, (-(2**63), 2**63 - 1))
            wrong = (codes < low) | (codes > high)
            if info.column == "ord" and not info.exists:
                wrong[:] = False  # nothing has a value, and all hold 0
            expected = f"{low} to {high}"
        self.findings.none(f"column/{info.name}", f"a code is no {info.type}", wrong, lambda at: int(codes[at]),
                           expected)

    def _ordinals(
        self, info: FieldInfo, docs: NDArray[np.int64], codes: NDArray[np.int64], postings: Postings,
    ) -> None:
        """The column of a keyword says the same as its postings."""
        terms, found = postings
        if not self.findings.same(f"column/{info.name}", "column and postings differ in number", docs.size, found.size):
            return
        order = np.lexsort((docs, codes))
        self.findings.none(f"column/{info.name}", "an ordinal is not among the postings",
                           (codes[order] != terms) | (docs[order] != found), lambda at: f"document {docs[order[at]]}")


def is_object(source: bytes) -> bool:
    """Whether these bytes are one JSON object."""
    try:
        return isinstance(msgspec.json.decode(source), dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False

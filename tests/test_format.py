"""codec/FORMAT.md on trial: a reader made from that document alone recovers everything that an index holds.

The reader is plain Python: struct, zlib, zstandard, and msgspec as a decoder of JSON and MessagePack. It shares no
code with the engine, accepts nothing that the document does not say, and accounts for every byte of a file.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import struct
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard

import quidditch_core as qc

# --- the reader --------------------------------------------------------------------------------------------

Posting = tuple[int, int, tuple[int, ...]]
"""Document, frequency, positions."""


class Bytes:
    """Bytes that are read from the front."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        part = self.data[self.at : self.at + size]
        assert len(part) == size
        self.at += size
        return part

    def varint(self) -> int:
        value = shift = 0
        while True:
            [byte] = self.take(1)
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    @property
    def done(self) -> bool:
        return self.at == len(self.data)


def array(data: bytes, item: str) -> list[int]:
    return [value for [value] in struct.iter_unpack("<" + item, data)]


def stream(data: bytes, count: int, bits: int) -> list[int]:
    """Numbers from the lowest bit of the first byte on; nothing may be left but zeros that fill the last byte."""
    assert len(data) == (count * bits + 7) // 8
    number = int.from_bytes(data, "little")
    assert number >> (count * bits) == 0
    return [number >> (i * bits) & ((1 << bits) - 1) for i in range(count)]


def vertical(data: bytes, bits: int) -> list[int]:
    """The 128 values of a full block, of 8 lanes that alternate word by word."""
    words = (bits + 1) // 2
    assert len(data) == 32 * words
    values = [0] * 128
    for lane in range(8):
        own = b"".join(data[4 * (8 * word + lane) :][:4] for word in range(words))
        assert not any(own[2 * bits :])
        for row, value in enumerate(stream(own[: 2 * bits], 16, bits)):
            values[8 * row + lane] = value
    return values


def read_manifest(path: Path) -> dict[str, Any]:
    header, _, payload = path.read_bytes().partition(b"\n")
    name, version, size, crc = header.split(b" ")
    assert (name, version, size) == (b"quidditch-manifest", b"0", b"%012d" % len(payload))
    assert b"%08x" % zlib.crc32(header.removesuffix(crc) + payload) == crc
    manifest: dict[str, Any] = msgspec.json.decode(payload)
    assert path.name == f"manifest-{manifest['generation']:016d}"
    return manifest


def read_live(data: bytes) -> tuple[int, set[int]]:
    """Documents of the segment, and those that are deleted."""
    assert data[:8] == b"QDLIVE\0\0"
    docs, crc = struct.unpack_from("<II", data, 8)
    assert zlib.crc32(data[8:12] + data[16:]) == crc
    return docs, roaring(Bytes(data[16:]))


def roaring(data: Bytes) -> set[int]:
    """A Roaring bitmap in the portable format."""
    cookie, more = struct.unpack("<HH", data.take(4))
    with_runs = cookie == 12347
    assert with_runs or (cookie, more) == (12346, 0)
    count = more + 1 if with_runs else struct.unpack("<I", data.take(4))[0]
    runs = int.from_bytes(data.take((count + 7) // 8), "little") if with_runs else 0
    heads = [struct.unpack("<HH", data.take(4)) for _ in range(count)]
    if not with_runs or count >= 4:
        data.take(4 * count)  # where each container starts
    found: set[int] = set()
    for i, (key, less_one) in enumerate(heads):
        if runs >> i & 1:
            pairs = [struct.unpack("<HH", data.take(4)) for _ in range(struct.unpack("<H", data.take(2))[0])]
            low = [value for start, more in pairs for value in range(start, start + more + 1)]
        elif less_one < 4096:
            low = array(data.take(2 * (less_one + 1)), "H")
        else:
            bits = int.from_bytes(data.take(8192), "little")
            low = [value for value in range(1 << 16) if bits >> value & 1]
        assert len(low) == less_one + 1
        found |= {key << 16 | value for value in low}
    assert data.done
    return found


class SegmentFile:
    """One segment file, checked whole when it is opened."""

    def __init__(self, data: bytes, *, tail_offset: int, tail_crc: int) -> None:
        version, crc, offset, size, magic = struct.unpack("<IIQQ8s", data[-32:])
        assert (version, crc, offset, magic) == (0, tail_crc, tail_offset, b"QDSEGMNT")
        assert offset + size + 32 == len(data)
        tail = data[offset:-32]
        assert zlib.crc32(tail) == crc
        length = int.from_bytes(tail[-8:], "little")
        self.contents: dict[str, Any] = msgspec.msgpack.decode(tail[-8 - length : -8])
        start = self.contents["checksums"]
        pages = [data[at : min(at + 65536, offset)] for at in range(0, offset, 65536)]
        assert array(tail[start : -8 - length], "I") == [zlib.crc32(page) for page in pages]

        self.docs: int = self.contents["docs"]
        self.fields = {field["name"]: field for field in self.contents["fields"]}
        self.entries = {entry[0]: entry for entry in self.contents["sections"]}
        self.raw = {name: data[at : at + size] for name, at, size, *_ in self.contents["sections"]}
        self.optional = {name for name, *_, optional in self.contents["sections"] if optional}
        self.tail_kinds = {name.partition("/")[0] for name, at, *_ in self.contents["sections"] if at >= offset}
        self.used: set[str] = set()
        self._check_that_nothing_else_is_there(data, offset, offset + start)

    def _check_that_nothing_else_is_there(self, data: bytes, tail: int, tail_sections_end: int) -> None:
        assert tail % 64 == 0
        at = 0
        for _, offset, length, *_ in sorted(self.contents["sections"], key=lambda entry: entry[1:3]):
            if at == tail - 64:
                assert data[at:tail] == bytes(64)
                at = tail
            assert offset == at
            at = offset + (length + 63) // 64 * 64
            assert data[offset + length : at] == bytes(at - offset - length)
        assert at == tail_sections_end

    def bytes(self, name: str) -> bytes:
        self.used.add(name)
        return self.raw[name]

    def narrow(self, name: str) -> list[int]:
        data, [_, _, _, width, base, _] = self.bytes(name), self.entries[name]
        if width == 0:
            [count] = array(data, "Q")
            return [base] * count
        if width == 8:
            assert base == 0
            return array(data, "q")
        values = array(data, {1: "B", 2: "H", 4: "I"}[width])
        assert not values or min(values) == 0
        assert max(values, default=0) >= 1 << (4 * width if width > 1 else 0)  # in the fewest bytes
        return [base + value for value in values]

    # Documents

    def ids(self) -> list[str]:
        data, starts = self.bytes("ids"), self.narrow("ids.start")
        assert (len(starts), starts[-1]) == (self.docs + 1, len(data))
        return [data[a:b].decode() for a, b in pairwise(starts)]

    def sources(self) -> list[bytes]:
        data, starts, firsts = self.bytes("stored"), self.narrow("stored.start"), self.narrow("stored.first")
        assert (firsts[-1], starts[-1], len(firsts)) == (self.docs, len(data), len(starts))
        trained = None
        if "stored.dictionary" in self.raw:
            trained = zstandard.ZstdCompressionDict(self.bytes("stored.dictionary"))
        decompressor = zstandard.ZstdDecompressor(dict_data=trained)
        found = []
        for unit in range(len(firsts) - 1):
            frame = data[starts[unit] : starts[unit + 1]]
            parameters = zstandard.get_frame_parameters(frame)
            assert parameters.has_checksum
            assert parameters.content_size <= 1 << 30
            raw = Bytes(decompressor.decompress(frame))
            ends = array(raw.take(4 * (firsts[unit + 1] - firsts[unit])), "I")
            found += [raw.take(b - a) for a, b in pairwise([0, *ends])]
            assert raw.done
        return found

    def numbers(self) -> list[tuple[int, int, int]]:
        """Sequence number, version and primary term of each document."""
        return list(zip(*map(self.narrow, ("seq_no", "version", "primary_term")), strict=True))

    def docs_of_id(self, id: str) -> list[int]:
        digest = hashlib.blake2b(id.encode(), digest_size=8).digest()
        hashes, docs = array(self.bytes("ids.hash"), "q"), array(self.bytes("ids.doc"), "I")
        assert len(hashes) == len(docs) == self.docs
        assert hashes == sorted(hashes)
        known = self.ids()
        pairs = zip(hashes, docs, strict=True)
        return [doc for hash, doc in pairs if [hash] == array(digest, "q") and known[doc] == id]

    def exists(self, field: str) -> set[int]:
        if f"exists/{field}" not in self.raw:
            return set(range(self.docs))
        words = array(self.bytes(f"exists/{field}"), "Q")
        assert len(words) == self.docs // 64 + 1
        return {doc for doc in range(64 * len(words)) if words[doc // 64] >> (doc % 64) & 1}

    # Postings

    def terms(self, field: str) -> dict[bytes, list[Posting]]:
        """The postings of every term; what the dictionary says of a term is checked on the way."""
        info = self.fields[field]
        data, sparse = self.bytes(f"terms/{field}"), array(self.bytes(f"terms.sparse/{field}"), "Q")
        first, offsets = self.bytes(f"terms.first/{field}"), array(self.bytes(f"terms.first.offset/{field}"), "I")
        assert len(sparse) == (info["terms"] + 15) // 16
        assert (len(offsets), offsets[-1]) == (len(sparse) + 1, len(first))
        found: dict[bytes, list[Posting]] = {}
        at = [0, 0, 0]
        for number, (start, end) in enumerate(zip(sparse, [*sparse[1:], len(data)], strict=True)):
            block = Bytes(data[start:end])
            assert [block.varint() for _ in range(3)] == at
            term = b""
            for i in range(min(16, info["terms"] - 16 * number)):
                shared, suffix = block.varint(), block.varint()
                assert i > 0 or shared == 0
                before, term = term, term[:shared] + block.take(suffix)
                assert i == 0 or (before < term and before[: shared + 1] != term[: shared + 1])
                if i == 0:
                    assert term == first[offsets[number] : offsets[number + 1]]
                df = block.varint()
                ttf = df + (block.varint() if info["freqs"] else 0)
                size = block.varint()
                positions_size = block.varint() if info["positions"] else 0
                pairs = [(size, ttf)] if df == 1 else self._pairs(field, df, size, at)
                positions = self._positions(field, pairs, positions_size, at)
                found[term] = [(doc, freq, at) for (doc, freq), at in zip(pairs, positions, strict=True)]
                assert (len(pairs), sum(freq for _, freq in pairs)) == (df, ttf)
                at[0] += size if df > 1 else 0
                at[1] += (df + 127) // 128 if df >= 128 else 0
                at[2] += positions_size
            assert block.done
        assert list(found) == sorted(found)
        assert len(self.bytes(f"postings/{field}")) == at[0]
        sizes = {"last": 4, "offset": 4, "width": 2}
        if info["norms"]:
            sizes |= {"bound": 4}
        if info["positions"]:
            sizes |= {"position": 8, "subposition": 12}
            assert len(self.bytes(f"positions/{field}")) == at[2]
        for kind, size in sizes.items():
            assert len(self.bytes(f"blocks.{kind}/{field}")) == size * at[1]
        return found

    def _pairs(self, field: str, df: int, size: int, at: list[int]) -> list[tuple[int, int]]:
        """Documents and frequencies of a term with df > 1."""
        data = Bytes(self.bytes(f"postings/{field}")[at[0] : at[0] + size])
        lasts, offsets = (array(self.bytes(f"blocks.{kind}/{field}"), "I") for kind in ("last", "offset"))
        widths = self.bytes(f"blocks.width/{field}")
        pairs: list[tuple[int, int]] = []
        doc = -1
        for block in range((df + 127) // 128):
            count, header = min(128, df - 128 * block), at[1] + block
            if df < 128:
                doc_bits, freq_bits = data.take(2)
            else:
                assert data.at == 32 * offsets[header]
                doc_bits, freq_bits = widths[2 * header : 2 * header + 2]
            columns = []
            for bits in (doc_bits, freq_bits):
                if count == 128:
                    values = vertical(data.take(32 * ((bits + 1) // 2)), bits)
                else:
                    values = stream(data.take((count * bits + 7) // 8), count, bits)
                assert max(values).bit_length() == bits
                columns.append(values)
            for distance, less_one in zip(*columns, strict=True):
                doc += distance + 1
                pairs.append((doc, less_one + 1))
            assert df < 128 or doc == lasts[header]
        assert data.done
        return pairs

    def _positions(
        self, field: str, pairs: list[tuple[int, int]], size: int, at: list[int],
    ) -> list[tuple[int, ...]]:
        """The positions of each posting of one term; entry points are checked on the way."""
        if not self.fields[field]["positions"]:
            return [()] * len(pairs)
        data = Bytes(self.bytes(f"positions/{field}")[at[2] : at[2] + size])
        bases = array(self.bytes(f"blocks.position/{field}"), "Q")
        subs = array(self.bytes(f"blocks.subposition/{field}"), "I")
        found = []
        for i, (_, freq) in enumerate(pairs):
            header, within = at[1] + i // 128, i % 128
            if len(pairs) >= 128 and within == 0:
                assert data.at == bases[header]
            elif len(pairs) >= 128 and within % 32 == 0:
                assert data.at == bases[header] + subs[3 * header + within // 32 - 1]
            position, positions = 0, []
            for _ in range(freq):
                position += data.varint()
                positions.append(position)
            found.append(tuple(positions))
        if len(pairs) >= 128:
            there = (len(pairs) - 1) % 128 // 32
            header = at[1] + (len(pairs) - 1) // 128
            assert not any(subs[3 * header + there : 3 * header + 3])
        assert data.done
        return found

    # Columns

    def column(self, field: str) -> list[list[int]]:
        """The codes of each document."""
        codes = self.narrow(f"column/{field}")
        parts = [codes[i : i + 8192] for i in range(0, len(codes), 8192)]
        assert array(self.bytes(f"column.min/{field}"), "q") == list(map(min, parts))
        assert array(self.bytes(f"column.max/{field}"), "q") == list(map(max, parts))
        there = self.exists(field)
        if self.fields[field]["multi_valued"]:
            starts = self.narrow(f"column.start/{field}")
            assert (len(starts), starts[-1]) == (self.docs + 1, len(codes))
            return [codes[a:b] for a, b in pairwise(starts)]
        assert len(codes) == self.docs
        assert all(codes[doc] == min(codes) for doc in range(self.docs) if doc not in there)
        return [[codes[doc]] if doc in there else [] for doc in range(self.docs)]


def number_of_code(code: int) -> float:
    [value] = struct.unpack("<d", struct.pack("<q", code if code >= 0 else code ^ (2**63 - 1)))
    return float(value)


def length_of_norm(code: int) -> int:
    e = code - 24
    if code < 24:
        return code
    return 24 + e if e < 8 else 24 + ((8 + (e & 7)) << ((e >> 3) - 1))


def f32(value: float) -> float:
    """Rounded to a single: + - * / of singles, computed as doubles and rounded, are those of singles."""
    [rounded] = struct.unpack("<f", struct.pack("<f", value))
    return float(rounded)


# --- an index, and what must be found in it ----------------------------------------------------------------

MAPPING = {
    "dynamic": False,
    "properties": {
        "body": {"type": "text", "analyzer": "whitespace"},
        "note": {"type": "text", "analyzer": "english", "norms": False},
        "tag": {"type": "keyword"},
        "same": {"type": "long"},
        "byte": {"type": "long"},
        "short": {"type": "integer"},
        "wide": {"type": "long"},
        "widest": {"type": "long"},
        "rare": {"type": "integer"},
        "prices": {"type": "double"},
        "flag": {"type": "boolean"},
        "when": {"type": "date"},
        "plain": {"type": "text", "index": False},
    }
}
STOPPED = {"the", "and", "of"}
DAY = 86_400_000


def document(i: int) -> dict[str, Any]:
    """Document i of 300: terms with 1, 2, 127, 128, 129 and 300 postings, columns of every width."""
    words = ["all"] * (1 + i % 5) + [f"only{i:03d}"]
    words += [f"first{n}" for n in (127, 128, 129) if i < n]
    words += ["third"] * (i % 3 == 0) + ["three"] * (i in (3, 4, 9)) + ["three"] * (i == 4)
    if i == 7:
        words += ["often"] * 1000 + ["größe"]
    doc: dict[str, Any] = {
        "body": " ".join(words), "same": 7, "byte": i % 200 - 100, "short": 300 * i, "wide": -70_000 * i,
        "widest": (2**63 - 1, -(2**63), i)[i % 3], "flag": i % 2 == 0, "when": f"1970-01-{i % 28 + 1:02d}",
        "plain": "not searched",
    }
    if i % 4 == 0:
        doc["body"] = [doc["body"], "", "third all"]  # several values
    if i % 10:
        doc["note"] = "the storm and the ship" if i % 2 else ""
    if i % 7:
        doc["tag"] = ["sea", "novel", "sea"] if i % 2 else f"tag{i % 20}"
        doc["prices"] = [0.5 * i, -1.25, -0.0] if i % 3 else 1e300
    if i in (5, 200):
        doc["rare"] = i
    return doc


DOCUMENTS = {f"ü{i}" if i % 50 == 0 else f"doc-{i}": document(i) for i in range(300)}
DELETED = ("doc-3", "doc-77", "doc-78", "doc-299")
REPLACED = "doc-5"


@pytest.fixture(scope="module")
def flushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of two segments, the first with a live mask."""
    path = tmp_path_factory.mktemp("format") / "index"
    with qc.create(path, MAPPING, settings={"refresh_interval": "-1"}) as index:
        assert index.bulk(({"id": id, **doc} for id, doc in DOCUMENTS.items()), id="id").failed == []
        index.flush()
        for id in DELETED:
            index.delete(id)
        index.put(REPLACED, b'{ "body": "all anew" }')
        index.flush()
        assert len(index.segments()) == 2
    return path


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same documents in one segment."""
    path = tmp_path_factory.mktemp("format") / "index"
    with qc.create(path, MAPPING, settings={"codec": "diagon_best_compression"}) as index:
        items = list(DOCUMENTS.items())
        for part in (items[:150], items[150:]):
            index.bulk(({"id": id, **doc} for id, doc in part), id="id")
            index.flush()
        index.delete(DELETED[0])
        index.merge(1)
    return path


@pytest.fixture(params=["flushed", "merged"])
def segment(request: pytest.FixtureRequest) -> SegmentFile:
    """The segment that has almost all documents, written by a flush and by a merge."""
    return open_segments(request.getfixturevalue(request.param))[0]


def newest(path: Path) -> dict[str, Any]:
    return read_manifest(max(path.glob("manifest-*")))


def open_segments(path: Path) -> list[SegmentFile]:
    found = []
    for entry in newest(path)["segments"]:
        data = (path / "segments" / entry["name"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["size"], entry["sha256"])
        file = SegmentFile(data, tail_offset=entry["tail_offset"], tail_crc=entry["tail_crc"])
        assert file.docs == entry["docs"]
        found.append(file)
    return found


def sources(segment: SegmentFile) -> list[dict[str, Any]]:
    return [msgspec.json.decode(source) for source in segment.sources()]


def values(doc: dict[str, Any], field: str) -> list[Any]:
    value = doc.get(field, [])
    return value if isinstance(value, list) else [value]


def positions_of(doc: dict[str, Any], field: str) -> dict[bytes, list[int]]:
    """The terms of a text field, by whitespace and without stop words, and where each stands."""
    found: dict[bytes, list[int]] = defaultdict(list)
    base = 0
    for value in values(doc, field):
        for i, word in enumerate(value.split()):
            if field != "note" or word not in STOPPED:
                found[word.encode()].append(base + i)
        base += len(value.split()) + 100
    return found


def lengths(segment: SegmentFile, field: str) -> list[int]:
    return [sum(map(len, positions_of(doc, field).values())) for doc in sources(segment)]


# --- the trial ---------------------------------------------------------------------------------------------


def test_the_manifest(flushed: Path) -> None:
    manifest = newest(flushed)
    entry = manifest["segments"][0]
    assert set(manifest) == documented_keys("## manifest-*", 0)
    assert set(entry) == documented_keys("## manifest-*", 1)
    assert [segment["name"] for segment in manifest["segments"]] == ["seg-000000000000", "seg-000000000001"]
    assert (manifest["generation"], manifest["max_seq_no"], manifest["next_blob"]) == (3, 304, 3)
    assert (entry["docs"], entry["live_docs"]) == (300, 295)
    assert (entry["min_seq_no"], entry["max_seq_no"]) == (0, 299)
    assert manifest["segments"][1]["live"] is None
    files = {str(file.relative_to(flushed)) for file in flushed.rglob("*") if file.is_file()}
    assert files == {
        "write.lock", "manifest-0000000000000003", "segments/seg-000000000000", "segments/seg-000000000001",
        "segments/live-000000000002",
    }


def test_the_live_mask(flushed: Path) -> None:
    entry = newest(flushed)["segments"][0]["live"]
    data = (flushed / "segments" / entry["name"]).read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["size"], entry["sha256"])
    docs, deleted = read_live(data)
    ids = open_segments(flushed)[0].ids()
    assert docs == 300
    assert {ids[doc] for doc in deleted} == {*DELETED, REPLACED}


def test_live_masks_of_every_kind_of_container(tmp_path: Path) -> None:
    gone = {*range(0, 9000, 2), *range(66_000, 66_100), 131_080}
    with qc.create(tmp_path / "index", {"properties": {"n": {"type": "long"}}}) as index:
        index.bulk(({"n": n} for n in range(131_100)), id="n")
        index.flush()
        for n in gone:
            index.delete(str(n))
    entry = newest(tmp_path / "index")["segments"][0]["live"]
    docs, deleted = read_live((tmp_path / "index" / "segments" / entry["name"]).read_bytes())
    assert (docs, deleted) == (131_100, gone)


def test_the_lock_names_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "index"
    with qc.create(path):
        holder = msgspec.json.decode((path / "write.lock").read_bytes())
        assert list(holder) == ["pid", "host", "since", "command"]
        assert holder["pid"] == os.getpid()
    assert (path / "write.lock").read_bytes() == b""


def test_documents(segment: SegmentFile) -> None:
    ids = segment.ids()
    expected = {id: {"id": id, **doc} for id, doc in DOCUMENTS.items() if segment.docs == 300 or id != DELETED[0]}
    assert dict(zip(ids, sources(segment), strict=True)) == expected
    assert list(expected) == ids
    everything = list(DOCUMENTS)
    assert segment.numbers() == [(everything.index(id), 1, 1) for id in ids]
    for doc, id in enumerate(ids):
        assert segment.docs_of_id(id) == [doc]
    assert segment.docs_of_id("nobody") == []


def test_a_source_is_stored_as_it_was_given(flushed: Path) -> None:
    [_, second] = open_segments(flushed)
    assert second.sources() == [b'{ "body": "all anew" }']
    assert (second.ids(), second.numbers()) == ([REPLACED], [(304, 2, 1)])


@pytest.mark.parametrize("field", ["body", "note"])
def test_postings_and_positions(segment: SegmentFile, field: str) -> None:
    expected: dict[bytes, list[Posting]] = defaultdict(list)
    for doc, source in enumerate(sources(segment)):
        for term, positions in positions_of(source, field).items():
            expected[term].append((doc, len(positions), tuple(positions)))
    assert segment.terms(field) == expected
    info = segment.fields[field]
    assert info["terms"] == len(expected)
    assert info["sum_df"] == sum(map(len, expected.values()))
    assert info["sum_ttf"] == sum(lengths(segment, field))
    assert info["doc_count"] == sum(length > 0 for length in lengths(segment, field))
    assert info["exists"] == len(segment.exists(field)) == sum(field in doc for doc in sources(segment))


def test_the_index_has_the_terms_that_matter(segment: SegmentFile) -> None:
    sizes = {term: len(postings) for term, postings in segment.terms("body").items()}
    less = int(segment.docs < 300)
    assert [sizes[b"first%d" % n] for n in (127, 128, 129)] == [127 - less, 128 - less, 129 - less]
    assert sizes[b"all"] == segment.docs
    assert sizes["größe".encode()] == 1


def test_norms(segment: SegmentFile) -> None:
    norms = segment.bytes("norms/body")
    true_lengths = lengths(segment, "body")
    assert len(norms) == segment.docs
    for norm, length in zip(norms, true_lengths, strict=True):
        assert length_of_norm(norm) <= length < length_of_norm(norm + 1)
        assert length > 40 or length_of_norm(norm) == length
    assert max(true_lengths) > 1000
    assert "norms/note" not in segment.raw


def test_bounds(segment: SegmentFile) -> None:
    info = segment.fields["body"]
    norms = segment.bytes("norms/body")
    k1, b, avgdl = info["bound_k1"], info["bound_b"], info["bound_avgdl"]
    assert (k1, b, avgdl) == (f32(1.2), 0.75, f32(info["sum_ttf"] / info["doc_count"]))

    def score(doc: int, freq: int) -> float:
        c = f32(1 / f32(k1 * f32(f32(1 - b) + f32(f32(b * length_of_norm(norms[doc])) / avgdl))))
        return f32(1 - f32(1 / f32(1 + f32(freq * c))))

    blocks = [postings[i : i + 128] for postings in segment.terms("body").values() if len(postings) >= 128
              for i in range(0, len(postings), 128)]
    found = struct.unpack(f"<{len(blocks)}f", segment.bytes("blocks.bound/body"))
    assert list(found) == [max(score(doc, freq) for doc, freq, _ in block) for block in blocks]


def test_keywords(segment: SegmentFile) -> None:
    terms = segment.terms("tag")
    ordinals = segment.column("tag")
    names = [term.decode() for term in terms]
    for doc, source in enumerate(sources(segment)):
        tags = sorted(set(values(source, "tag")))
        assert [names[ordinal] for ordinal in ordinals[doc]] == tags
        assert [term.decode() for term, postings in terms.items() if (doc, 1, ()) in postings] == tags
    assert segment.fields["tag"]["multi_valued"]


@pytest.mark.parametrize("field", ["same", "byte", "short", "wide", "widest", "rare", "flag", "when"])
def test_columns_of_integers(segment: SegmentFile, field: str) -> None:
    expected = [[int(value) if field != "when" else (int(value[-2:]) - 1) * DAY for value in values(doc, field)]
                for doc in sources(segment)]
    assert segment.column(field) == expected
    width = {"same": 0, "byte": 1, "short": 4, "wide": 4, "widest": 8, "rare": 1, "flag": 1, "when": 4}[field]
    assert segment.entries[f"column/{field}"][3] == width


def test_columns_of_doubles(segment: SegmentFile) -> None:
    expected = [sorted(value + 0.0 for value in values(doc, "prices")) for doc in sources(segment)]
    found = [list(map(number_of_code, codes)) for codes in segment.column("prices")]
    assert found == expected
    assert not any(value == 0 and math.copysign(1, value) < 0 for codes in found for value in codes)


def test_every_section_is_in_the_document_and_was_read(segment: SegmentFile) -> None:
    for field, info in segment.fields.items():
        segment.exists(field)
        if info["indexed"]:
            segment.terms(field)
        if info["column"]:
            segment.column(field)
        if info["norms"]:
            segment.bytes(f"norms/{field}")
            segment.bytes(f"blocks.bound/{field}")
    segment.numbers(), segment.sources(), segment.docs_of_id("")
    assert segment.used == set(segment.raw)
    kinds = dict(section_kinds())
    there = {name.partition("/")[0] for name in segment.raw}
    assert there <= set(kinds)
    assert set(kinds) - there == {"stored.dictionary"}
    assert {kind for kind in there if kinds[kind]} == segment.tail_kinds
    assert {name.partition("/")[0] for name in segment.optional} == {"blocks.bound"}
    assert segment.contents["stored"] == "zstd"
    assert set(segment.contents) == documented_keys("## seg-*", 0)
    assert set(segment.fields["body"]) == documented_keys("## seg-*", 1)
    assert [field["number"] for field in segment.contents["fields"]] == list(range(len(segment.fields)))
    assert segment.fields["plain"]["exists"] == segment.docs
    assert not segment.fields["plain"]["indexed"]


def test_frames_with_a_dictionary(tmp_path: Path) -> None:
    words = [hashlib.md5(b"%d" % i).hexdigest()[:8] for i in range(4000)]
    docs = [{"note": " ".join(words[(i * 17 + j * j) % 4000] for j in range(12))} for i in range(11_000)]
    with qc.create(tmp_path / "index", {"dynamic": False}, settings={"refresh_interval": "-1"}) as index:
        index.bulk(docs)
    [segment] = open_segments(tmp_path / "index")
    assert 0 < len(segment.bytes("stored.dictionary")) <= sum(map(len, segment.sources())) / 100
    assert sources(segment) == docs


def test_many_pages_granules_and_wide_blocks(tmp_path: Path) -> None:
    """Larger than what is above: several pages and granules, and full blocks whose numbers cross words."""
    words = {n: n * 7919 % 61 + 1 for n in range(20_000) if n * n % 97 < 2}
    mapping = {"dynamic": False, "properties": {"n": {"type": "long"}, "text": {"type": "text"}}}
    with qc.create(tmp_path / "index", mapping) as index:
        index.bulk(({"id": n, "n": n * n, "text": "x " * words.get(n, 0)} for n in range(20_000)), id="id")
    [segment] = open_segments(tmp_path / "index")
    assert segment.column("n") == [[n * n] for n in range(20_000)]
    assert len(segment.bytes("column.min/n")) == 3 * 8
    assert segment.terms("text") == {b"x": [(n, freq, tuple(range(freq))) for n, freq in words.items()]}
    assert max(segment.bytes("blocks.width/text")) > 6
    assert newest(tmp_path / "index")["segments"][0]["tail_offset"] > 5 * 65536


def test_the_examples_of_the_document(tmp_path: Path) -> None:
    [postings], [positions] = (examples(kind) for kind in ("postings", "positions"))
    with qc.create(tmp_path / "index", {"properties": {"a": {"type": "text"}, "b": {"type": "text"}}}) as index:
        for i in range(10):
            index.put(str(i), {"a": "x " * {3: 1, 4: 2, 9: 1}.get(i, 0)})
        for places in ({0, 7}, {2, 300}):
            index.put(None, {"b": " ".join("x" if i in places else "y" for i in range(301))})
    [segment] = open_segments(tmp_path / "index")
    assert segment.bytes("postings/a") == postings
    assert segment.terms("a") == {b"x": [(3, 1, (0,)), (4, 2, (0, 1)), (9, 1, (0,))]}
    assert segment.bytes("positions/b").startswith(positions)
    assert segment.terms("b")[b"x"] == [(10, 2, (0, 7)), (11, 2, (2, 300))]


# --- the document ------------------------------------------------------------------------------------------


def text() -> str:
    return (Path(qc.__file__).parent / "codec" / "FORMAT.md").read_text()


def tables(section: str) -> Iterator[list[list[str]]]:
    """The tables of a section, without their heads: rows of cells."""
    part = text().partition(f"\n{section}\n")[2].partition("\n## ")[0]
    for table in re.findall(r"(?:^\|.*\|\n)+", part, re.MULTILINE):
        yield [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def documented_keys(section: str, table: int) -> set[str]:
    return {key for row in list(tables(section))[table] for key in re.findall(r"`(\w+)`", row[0])}


def section_kinds() -> Iterator[tuple[str, bool]]:
    """Every kind of section, and whether it is in the tail."""
    for kinds, _, tail, *_ in list(tables("## seg-*"))[2]:
        for kind in re.findall(r"`([\w.]+)`", kinds):
            yield kind, tail == "yes"


def examples(kind: str) -> list[bytes]:
    return [bytes.fromhex(line) for line in re.findall(rf"^{kind}: ([0-9a-f ]+)$", text(), re.MULTILINE)]


def test_the_document_names_each_thing_once() -> None:
    repeated = [kind for kind, n in Counter(kind for kind, _ in section_kinds()).items() if n > 1]
    assert repeated == []

"""A reader of index files made from codec/FORMAT.md alone, for ``test_format.py``.

Plain Python: struct, zlib, zstandard, and msgspec as a decoder of JSON and MessagePack. It shares no code
with the engine, accepts nothing that the document does not say, and accounts for every byte of a segment.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import zstandard

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


def decoded(data: bytes, size: int, width: int) -> bytes:
    """A section as it is read."""
    if len(data) == size:
        return data
    assert size % width == 0
    granules = (size // width + 8191) // 8192
    lengths = array(data[len(data) - 4 * granules :], "I")
    coded = Bytes(data[: len(data) - 4 * granules])
    found = b""
    for at, length in enumerate(lengths):
        found += granule(coded.take(length), min(8192, size // width - 8192 * at), width)
    assert coded.done
    return found


def granule(data: bytes, count: int, width: int) -> bytes:
    transform, bits, value, pace, least = struct.unpack_from("<BBqqq", data)
    body = data[26:]
    table = []
    if transform == 4:
        table, body = array(body[: 8 * value], "q"), body[8 * value :]
    if bits < 128:
        numbers = stream(body, count, bits)
    else:
        planes = zstandard.ZstdDecompressor().decompress(body, allow_extra_data=False)
        assert len(planes) == (bits - 128) * count
        numbers = [int.from_bytes(planes[i::count], "little") for i in range(count)]
    values = []
    for number in numbers:
        if transform == 0:
            value = least + pace * number
        elif transform == 1:
            value += least + pace * number
        elif transform == 2:
            pace += least + number
            value += pace
        elif transform == 3:
            value ^= number << least
        elif transform == 4:
            value = table[number]
        else:
            assert (transform, width) == (5, 8)
            [value] = struct.unpack("<q", struct.pack("<d", (least + number) / 10**pace))
            value = value if value >= 0 else value ^ (2**63 - 1)
        values.append(value % 2 ** (8 * width))
    return b"".join(value.to_bytes(width, "little") for value in values)


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
        self.raw = {name: decoded(data[at : at + length], size, width)
                    for name, at, length, size, width, *_ in self.contents["sections"]}
        self.optional = {name for name, *_, optional in self.contents["sections"] if optional}
        self.tail_kinds = {name.partition("/")[0] for name, at, *_ in self.contents["sections"] if at >= offset}
        self.used: set[str] = set()
        self._check_that_nothing_else_is_there(data, offset, offset + start)

    def _check_that_nothing_else_is_there(self, data: bytes, tail: int, tail_sections_end: int) -> None:
        assert tail % 64 == 0
        at = 0
        for _, offset, length, size, *_ in sorted(self.contents["sections"], key=lambda entry: entry[1:3]):
            assert length == size or (length < size and offset < tail)
            if at == tail - 64:
                assert data[at:tail] == bytes(64)
                at = tail
            assert offset == at
            at = offset + (length + 63) // 64 * 64
            assert data[offset + length : at] == bytes(at - offset - length)
        assert at == tail_sections_end

    def section(self, name: str) -> bytes:
        self.used.add(name)
        return self.raw[name]

    def narrow(self, name: str) -> list[int]:
        data, [_, _, _, _, width, base, step, _] = self.section(name), self.entries[name]
        assert step == 0 or (name in ("ids.start", "seq_no", "version", "primary_term") and width < 8)
        if width == 0:
            [count] = array(data, "Q")
            return [base + step * i for i in range(count)]
        if width == 8:
            assert base == 0
            return array(data, "q")
        values = array(data, {1: "B", 2: "H", 4: "I"}[width])
        assert not values or min(values) == 0
        assert max(values, default=0) >= 1 << (4 * width if width > 1 else 0)  # in the fewest bytes
        return [base + step * i + value for i, value in enumerate(values)]

    # Documents

    def ids(self) -> list[str]:
        data, starts = self.section("ids"), self.narrow("ids.start")
        assert (len(starts), starts[-1]) == (self.docs + 1, len(data))
        return [data[a:b].decode() for a, b in pairwise(starts)]

    def sources(self) -> list[bytes]:
        data, starts, firsts = self.section("stored"), self.narrow("stored.start"), self.narrow("stored.first")
        assert (firsts[-1], starts[-1], len(firsts)) == (self.docs, len(data), len(starts))
        trained = [zstandard.ZstdCompressionDict(self.section(f"stored.dictionary/{number}"))
                   for number in range(8) if f"stored.dictionary/{number}" in self.raw]
        known = {one.dict_id(): zstandard.ZstdDecompressor(dict_data=one) for one in trained}
        assert len(known) == len(trained)
        assert 0 not in known
        known[0] = zstandard.ZstdDecompressor()
        found = []
        for unit in range(len(firsts) - 1):
            frame = data[starts[unit] : starts[unit + 1]]
            parameters = zstandard.get_frame_parameters(frame)
            assert parameters.has_checksum
            assert parameters.content_size <= 1 << 30
            raw = Bytes(known[parameters.dict_id].decompress(frame))
            ends = array(raw.take(4 * (firsts[unit + 1] - firsts[unit])), "I")
            found += [raw.take(b - a) for a, b in pairwise([0, *ends])]
            assert raw.done
        return found

    def numbers(self) -> list[tuple[int, int, int]]:
        """Sequence number, version and primary term of each document."""
        return list(zip(*map(self.narrow, ("seq_no", "version", "primary_term")), strict=True))

    def docs_of_id(self, id: str) -> list[int]:
        digest = hashlib.blake2b(id.encode(), digest_size=8).digest()
        hashes, docs = array(self.section("ids.hash"), "I"), array(self.section("ids.doc"), "I")
        assert len(hashes) == len(docs) == self.docs
        assert hashes == sorted(hashes)
        known = self.ids()
        pairs = zip(hashes, docs, strict=True)
        return [doc for hash, doc in pairs if [hash] == array(digest[:4], "I") and known[doc] == id]

    def exists(self, field: str) -> set[int]:
        if f"exists/{field}" not in self.raw:
            return set(range(self.docs))
        words = array(self.section(f"exists/{field}"), "Q")
        assert len(words) == self.docs // 64 + 1
        return {doc for doc in range(64 * len(words)) if words[doc // 64] >> (doc % 64) & 1}

    # Postings

    def terms(self, field: str) -> dict[bytes, list[Posting]]:
        """The postings of every term; what the dictionary says of a term is checked on the way."""
        info = self.fields[field]
        data, sparse = self.section(f"terms/{field}"), array(self.section(f"terms.sparse/{field}"), "Q")
        first, offsets = self.section(f"terms.first/{field}"), array(self.section(f"terms.first.offset/{field}"), "I")
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
        assert len(self.section(f"postings/{field}")) == at[0]
        sizes = {"last": 4, "offset": 4, "width": 2}
        if info["norms"]:
            sizes |= {"bound": 1}
        if info["positions"]:
            sizes |= {"position": 12}
            assert len(self.section(f"positions/{field}")) == at[2]
        for kind, size in sizes.items():
            assert len(self.section(f"blocks.{kind}/{field}")) == size * at[1]
        return found

    def _pairs(self, field: str, df: int, size: int, at: list[int]) -> list[tuple[int, int]]:
        """Documents and frequencies of a term with df > 1."""
        data = Bytes(self.section(f"postings/{field}")[at[0] : at[0] + size])
        lasts, offsets = (array(self.section(f"blocks.{kind}/{field}"), "I") for kind in ("last", "offset"))
        widths = self.section(f"blocks.width/{field}")
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
        data = Bytes(self.section(f"positions/{field}")[at[2] : at[2] + size])
        entries = list(struct.iter_unpack("<IHHHH", self.section(f"blocks.position/{field}")))
        bases = [low + (high << 32) for low, high, *_ in entries]
        subs = [sub for entry in entries for sub in entry[2:]]
        found = []
        for i, (_, freq) in enumerate(pairs):
            header, within = at[1] + i // 128, i % 128
            if len(pairs) >= 128 and within == 0:
                assert data.at == bases[header]
            elif len(pairs) >= 128 and within % 32 == 0:
                assert min(data.at - bases[header], 0xFFFF) == subs[3 * header + within // 32 - 1]
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
        assert array(self.section(f"column.min/{field}"), "q") == list(map(min, parts))
        assert array(self.section(f"column.max/{field}"), "q") == list(map(max, parts))
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

"""Coded sections: what comes back from them, what of them is kept, and what damage does to them.

Whatever a section holds, kernel, NumPy reference and the reader made from FORMAT.md decode it to the same bytes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_kernels import fenced

import quidditch_core as qc
from quidditch_core.codec.v1 import coded as coding
from quidditch_core.codec.v1 import reference
from quidditch_core.codec.v1.coded import Coded, Kept, encode
from quidditch_core.codec.v1.kernels import (
    CORRUPT,
    DECIMAL,
    DELTA,
    DOUBLE_DELTA,
    HEADER,
    LEVEL,
    PLANES,
    TABLE,
    XOR,
    decode,
)
from quidditch_core.errors import CorruptIndexError
from quidditch_core.index.columns import float_codes
from quidditch_core.segment import GRANULE, address
from tests import damage, format_reader

I64 = NDArray[np.int64]
EXTREMES = [-(2**63), -(2**63) + 1, -1, 0, 1, 2**62, 2**63 - 1]
NUMBERS = [math.nan, -math.nan, 0.0, -0.0, math.inf, -math.inf, 5e-324, 1.7e308, -1.5, 0.1, 0.2, 0.3]
FLOATS = float_codes(NUMBERS).tolist()


@st.composite
def integers(draw: Any) -> I64:
    """Values that codings are made for, and values that they are not."""
    size = draw(st.sampled_from([1, 2, 3, 4, 63, 64, 65, 1000]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    match draw(st.sampled_from(["few", "drawn", "ramp", "turns", "runs", "near", "wide", "floats", "prices"])):
        case "few":
            found = rng.choice(np.array(draw(st.lists(st.sampled_from(EXTREMES), min_size=1, max_size=4))), size)
        case "drawn":
            some = draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=8))
            found = np.resize(np.array(some, np.int64), size)
        case "ramp":
            first, step = draw(st.integers(-(2**63), 2**63 - 1)), draw(st.integers(-(2**40), 2**40))
            found = np.array([(first + step * i + 2**63) % 2**64 - 2**63 for i in range(size)], np.int64)
        case "turns":
            found = np.cumsum(np.cumsum(rng.integers(-3, 4, size)))
        case "runs":
            found = np.repeat(rng.integers(-(2**62), 2**62, size), rng.integers(1, 9, size))[:size]
        case "near":
            found = draw(st.integers(-(2**62), 2**62)) + rng.integers(0, draw(st.integers(1, 2**40)), size)
        case "wide":
            found = rng.integers(-(2**63), 2**63 - 1, size, endpoint=True)
        case "prices":
            found = float_codes(np.round(rng.normal(0, 1000, size), draw(st.integers(0, 12))))
        case _:
            found = float_codes(rng.choice(np.array(NUMBERS), size) * rng.choice([1.0, 1.0, rng.random()]))
    return np.ascontiguousarray(found, np.int64)


def decoded(granule: bytes, count: int, width: int) -> list[bytes]:
    """A granule by the kernel, by its reference and by the document; each reads nothing beyond what it may."""
    header = np.frombuffer(granule, np.uint8)
    planes = b""
    if header[1] >= PLANES:
        table = 8 * int.from_bytes(granule[2:10], "little", signed=True) if header[0] == TABLE else 0
        planes = coding.zstandard.ZstdDecompressor().decompress(granule[HEADER + table :])
    stored, more = fenced(header), fenced(np.frombuffer(planes + b"\0", np.uint8))
    found = []
    for read in (decode, reference.decode):
        out = np.zeros(count * width, np.uint8)
        assert read(address(stored), stored.size, address(more), len(planes), count, width, address(out)) == 0
        found.append(out.tobytes())
    return [*found, format_reader.granule(granule, count, width)]


@settings(deadline=None, max_examples=60)
@given(integers(), st.sampled_from([1, 2, 4, 8]))
@example(np.array(EXTREMES * 40, np.int64), 8)
@example(np.array(FLOATS * 20, np.int64), 8)
@example(np.full(GRANULE, -(2**63), np.int64), 8)
@example(np.arange(GRANULE, dtype=np.int64) * 3 - 7, 8)
@example(float_codes(np.arange(-500, 3000) / 100), 8)
@example(float_codes([0.1 + 0.2, 1e300, -1e-9]), 8)
def test_every_coding_gives_back_what_it_was_given(values: I64, width: int) -> None:
    if width < 8:
        values = values & ((1 << 8 * width) - 1)
    expected = values.astype(f"<u{width}" if width < 8 else "<i8").tobytes()
    compressor = coding.zstandard.ZstdCompressor(level=3, write_content_size=True)
    tried = set()
    for one in coding._codings(values, 8 * width):
        tried.add(one.transform)
        places = coding._planes(one.words, (one.bits + 7) // 8)
        for granule in (coding._header(one, one.bits) + coding._stream(one.words, one.bits),
                        coding._header(one, PLANES + (one.bits + 7) // 8) + compressor.compress(places)):
            assert decoded(granule, values.size, width) == [expected] * 3
    assert {LEVEL} <= tried <= {LEVEL, DELTA, DOUBLE_DELTA, XOR, TABLE, DECIMAL}
    assert values.size < 3 or ({DELTA, DOUBLE_DELTA} <= tried and (XOR in tried) == (width == 8))


@pytest.mark.parametrize(("values", "transform"), [
    (np.arange(12_000) % 200 + 2**50, LEVEL), (np.arange(20_000) * 7 + np.arange(20_000) % 3, DELTA),
    (np.cumsum(np.arange(20_000) * 5 + np.arange(20_000) % 2), DOUBLE_DELTA),
    (np.tile([-(2**63), 2**63 - 1, 12345, 77], 5000), TABLE),
    (float_codes(np.arange(20_000) ** 2 % 9973 / 100), DECIMAL),
])
def test_the_smallest_coding_is_taken(values: I64, transform: int) -> None:
    rng = np.random.default_rng(1)
    if transform in (LEVEL, TABLE):
        values = rng.permutation(values)
    made = encode(values.view(np.uint8), 8, 3)
    assert made is not None
    assert made[0] == transform
    assert len(made) < values.nbytes / 4


def test_what_cannot_be_smaller_is_left_alone() -> None:
    noise = np.random.default_rng(1).integers(-(2**63), 2**63 - 1, 20_000)
    assert encode(noise.view(np.uint8), 8, 3) is None
    assert encode(np.zeros(100, np.uint8), 1, 3) is None


class Stored:
    """A section as a file has it, with an unreadable page behind; ``asked``: the bytes that were needed."""

    def __init__(self, values: NDArray[Any]) -> None:
        self.raw = values.view(np.uint8)
        made = encode(self.raw, values.itemsize, 3)
        assert made is not None
        self.data = fenced(np.frombuffer(made, np.uint8))
        self.width = values.itemsize
        self.asked = 0

    def open(self) -> Coded:
        return Coded("a section", self.data, self.raw.size, self.width, self._need)

    def _need(self, ranges: Any) -> None:
        for start, length in ranges:
            assert 0 <= start <= start + length <= self.data.size
            self.asked += length


def test_only_what_is_needed_is_decoded() -> None:
    stored = Stored(np.arange(10 * GRANULE + 17, dtype=np.int64) ** 2)
    section = stored.open()
    middle = (8 * GRANULE * 3 + 5, 8 * GRANULE)  # the fourth granule, and the beginning of the fifth
    found = section.part([middle, (stored.raw.size - 1, 1)])
    assert section.decoded is not None
    assert list(section.decoded.there) == [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1]
    assert found[middle[0] : sum(middle)].tolist() == stored.raw[middle[0] : sum(middle)].tolist()
    before = stored.asked
    section.part([middle])
    assert stored.asked == before < stored.data.size / 2
    assert section.part([(0, stored.raw.size)]).tobytes() == stored.raw.tobytes()
    with pytest.raises(CorruptIndexError, match="outside"):
        stored.open().part([(stored.raw.size, 1)])


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 8 * 4 * GRANULE
    kept = Kept(2 * size)
    monkeypatch.setattr(coding, "KEPT", kept)
    stored = [Stored(np.arange(4 * GRANULE, dtype=np.int64) + i) for i in range(4)]
    sections = [one.open() for one in stored]
    arrays = []
    for turn in (0, 1, 2, 3, 0, 3):
        arrays.append((turn, sections[turn].part([(0, size)])))
        assert kept.used <= 2 * size
    assert [section.decoded is not None for section in sections] == [True, False, False, True]
    for turn, array in arrays:  # who reads one keeps it
        assert array.tobytes() == stored[turn].raw.tobytes()
    del sections[0], sections[-1]
    sections[0].part([(0, size)])
    assert kept.used == size


def test_damaged_bytes_are_an_error_or_other_numbers() -> None:
    rng = random.Random(5)
    rows = np.random.default_rng(5)
    for values in (np.arange(3000), np.cumsum(rows.integers(0, 9, 3000)), rows.choice(EXTREMES, 3000),
                   rows.integers(0, 50, 3000).astype(np.uint8), float_codes(np.sin(np.arange(3000) / 50))):
        good = Stored(values)
        for _ in range(150):
            bad = Stored(values)
            for _ in range(rng.choice((1, 1, 3))):
                at = rng.choice((rng.randrange(good.data.size), rng.randrange(HEADER)))
                bad.data[at] = rng.randrange(256)
            with suppress(CorruptIndexError):
                assert bad.open().part([(0, bad.raw.size)]).size == good.raw.size


@pytest.mark.parametrize("change", [
    lambda granule: granule[: HEADER - 1], lambda granule: bytes([6]) + granule[1:],
    lambda granule: bytes([DECIMAL]) + granule[1:10] + b"\x17" + granule[11:],
    lambda granule: granule[:1] + bytes([65]) + granule[2:], lambda granule: granule[:1] + bytes([137]) + granule[2:],
    lambda granule: bytes([TABLE]) + granule[1:2] + (2**60).to_bytes(8, "little") + granule[10:],
    lambda granule: bytes([TABLE]) + granule[1:2] + bytes(8) + granule[10:],
    lambda granule: granule[:1] + bytes([3]) + granule[2:HEADER],
])
def test_kernel_and_reference_refuse_the_same(change: Any) -> None:
    granule = change(coding._smallest(np.arange(100) % 7, coding.zstandard.ZstdCompressor(), 64))
    stored, out = fenced(np.frombuffer(granule, np.uint8)), np.zeros(800, np.uint8)
    for read in (decode, reference.decode):
        assert read(address(stored), stored.size, 0, 0, 100, 8, address(out)) == CORRUPT


# --- an index of either codec ------------------------------------------------------------------------------

MAPPING = {"properties": {
    "body": {"type": "text"}, "tag": {"type": "keyword"}, "tags": {"type": "keyword"}, "when": {"type": "date"},
    "price": {"type": "double"}, "n": {"type": "long"}, "rare": {"type": "integer"}, "some": {"type": "integer"}}}
WORDS = [f"word{i}" for i in range(200)]


def documents(seed: int, count: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(seed)
    for i in range(count):
        doc = {"id": f"{rng.getrandbits(64):x}" if i % 2 else f"doc-{i}",
               "body": " ".join(rng.choices(WORDS, range(200, 0, -1), k=rng.randrange(1, 12))),
               "tag": f"tag{int(rng.expovariate(0.3))}", "when": 1_600_000_000_000 + 1000 * i + rng.randrange(900),
               "price": round(rng.gammavariate(2, 10), 2), "n": rng.choice((i, -i, 2**63 - 1, -(2**63), 7))}
        if i % 50 == 0:
            doc["rare"] = i
        if i % 3:
            doc["some"] = [rng.randrange(100) for _ in range(rng.randrange(1, 4))]
            doc["tags"] = rng.sample(["red", "green", "blue", "black"], rng.randrange(1, 4))
        yield doc


REQUESTS: list[dict[str, Any]] = [
    {"query": {"match": {"body": "word3 word77"}}},
    {"query": {"match_phrase": {"body": "word0 word1"}}},
    {"query": {"range": {"when": {"gte": 1_600_004_000_000, "lt": 1_600_005_000_000}}}, "sort": [{"when": "desc"}]},
    {"query": {"range": {"n": {"gte": 7, "lte": 9000}}}, "sort": [{"price": "asc"}, {"n": "asc"}]},
    {"query": {"range": {"price": {"gt": 50.5}}}, "sort": [{"some": {"order": "asc", "mode": "min"}}]},
    {"query": {"match_all": {}}, "sort": [{"when": "asc"}], "from": 40},
    {"query": {"term": {"tag": "tag5"}}, "sort": [{"rare": "desc"}]},
    {"query": {"exists": {"field": "rare"}}, "sort": ["tag", "n"]},
    {"query": {"ids": {"values": ["doc-0", "doc-2", "doc-11998", "doc-3"]}}},
    {"size": 0, "aggs": {"tags": {"terms": {"field": "tags"}, "aggs": {"most": {"max": {"field": "price"}}}},
                         "prices": {"stats": {"field": "price"}},
                         "some": {"histogram": {"field": "some", "interval": 9}},
                         "days": {"date_histogram": {"field": "when", "fixed_interval": "1h"}}}},
]


def answers(index: Any) -> list[Any]:
    found = []
    for body in REQUESTS:
        answer = index.search({"track_total_hits": True, **body}).to_dict()
        found.append((answer["hits"], answer.get("aggregations")))
    return found


CODED = {"ids", "ids.start", "ids.hash", "ids.doc", "exists", "column", "column.start"}


def coded_kinds(path: Path) -> set[str]:
    entry = damage.read_manifest(path).segments[0]
    return {part.name.partition("/")[0] for part in damage.contents(damage.blob(path, entry.name)).sections
            if part.length < part.size}


def test_a_change_of_the_codec_takes_effect_at_the_next_merge_and_changes_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "index"
    docs = list(documents(3, 14_000))
    with qc.create(path, MAPPING, settings={"refresh_interval": -1}) as index:
        index.bulk(docs[:10_000], id="id")
        index.flush()
        size = index.segments()[0].bytes
        for codec, part in (("diagon_best_compression", docs[10_000:12_000]), ("default", docs[12_000:])):
            before = coded_kinds(path)
            index.put_settings({"index.codec": codec})
            assert coded_kinds(path) == before
            index.bulk(part, id="id")
            index.flush()
            expected = answers(index)
            index.merge(max_segments=1)
            assert answers(index) == expected
            assert index.check().problems == []
            small = codec != "default"
            assert coded_kinds(path) - {"seq_no"} == (CODED if small else set())
            assert (index.segments()[0].bytes < size) == small
    with qc.open(path, read_only=True) as index:
        assert index.get(docs[3]["id"]).source["n"] == docs[3]["n"]


def test_both_codecs_give_the_same_answers(tmp_path: Path) -> None:
    found = []
    for codec in ("default", "diagon_best_compression"):
        path = tmp_path / codec / "index"
        with qc.create(path, MAPPING, settings={"index.codec": codec, "refresh_interval": -1}) as index:
            index.bulk(documents(8, 12_000), id="id")
            index.flush()
        with qc.open(path, read_only=True) as index:
            found.append(answers(index))
            assert answers(index) == found[-1]
    assert found[0] == found[1]
    assert coded_kinds(path) == CODED


def test_damage_to_coded_sections_is_found_and_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "index"
    with qc.create(path, MAPPING, settings={"index.codec": "diagon_best_compression", "refresh_interval": -1}) as index:
        index.bulk(documents(1, 3000), id="id")
        index.flush()
    [entry] = damage.read_manifest(path).segments
    file, manifest = damage.blob(path, entry.name), damage.newest(path)
    good, committed = file.read_bytes(), manifest.read_bytes()
    rng = random.Random(2)
    sections = [part for part in damage.contents(file).sections if part.length < part.size]
    assert len(sections) > 10
    for part in sections:
        for at in (0, 1, part.length - 2, rng.randrange(part.length)):
            damage.flip(file, part.offset + at, 1 << rng.randrange(8))
            damage.reseal(path)
            with qc.open(path, read_only=True) as index:
                problems = index.check().problems
                assert problems or part.name.startswith("column/"), (part.name, at)  # any number may be in a column
                for body in REQUESTS:
                    try:
                        index.search(body).to_dict()
                    except CorruptIndexError:
                        assert problems
            file.write_bytes(good)
            manifest.write_bytes(committed)

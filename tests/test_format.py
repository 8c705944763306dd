"""codec/FORMAT.md on trial: a reader made from that document alone recovers everything that an index holds."""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import quidditch_core as qc
from tests.format_reader import (
    Posting,
    SegmentFile,
    f32,
    length_of_norm,
    number_of_code,
    read_live,
    read_manifest,
)

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
        "segments/live-000000000002", "translog/translog-0000000000000003.log",
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


@pytest.mark.parametrize(("name", "at"), [("seg-000000000000", -32), ("live-000000000002", 6)])
def test_a_newer_format_is_refused_by_name(flushed: Path, tmp_path: Path, name: str, at: int) -> None:
    path = tmp_path / "index"
    shutil.copytree(flushed, path)
    data = bytearray((path / "segments" / name).read_bytes())
    assert data[at] == 0
    data[at] = 1
    (path / "segments" / name).write_bytes(data)
    with pytest.raises(qc.errors.FormatError, match=r"format 1.*upgrade"):
        qc.open(path, read_only=True)


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
    norms = segment.section("norms/body")
    true_lengths = lengths(segment, "body")
    assert len(norms) == segment.docs
    for norm, length in zip(norms, true_lengths, strict=True):
        assert length_of_norm(norm) <= length < length_of_norm(norm + 1)
        assert length > 40 or length_of_norm(norm) == length
    assert max(true_lengths) > 1000
    assert "norms/note" not in segment.raw


def test_bounds(segment: SegmentFile) -> None:
    info = segment.fields["body"]
    norms = segment.section("norms/body")
    k1, b, avgdl = info["bound_k1"], info["bound_b"], info["bound_avgdl"]
    assert (k1, b, avgdl) == (f32(1.2), 0.75, f32(info["sum_ttf"] / info["doc_count"]))

    def score(doc: int, freq: int) -> float:
        c = f32(1 / f32(k1 * f32(f32(1 - b) + f32(f32(b * length_of_norm(norms[doc])) / avgdl))))
        return f32(1 - f32(1 / f32(1 + f32(freq * c))))

    blocks = [postings[i : i + 128] for postings in segment.terms("body").values() if len(postings) >= 128
              for i in range(0, len(postings), 128)]
    found = list(segment.section("blocks.bound/body"))
    assert found == [math.ceil(255 * max(score(doc, freq) for doc, freq, _ in block)) for block in blocks]


def test_positions_beyond_the_reach_of_an_entry(tmp_path: Path) -> None:
    """A block of 128 postings whose positions take more than 65,535 bytes, so that not all of its entries are known."""
    texts = [" ".join(["all"] * (70_000 if i == 40 else 1) + [f"end{i % 3}"]) for i in range(300)]
    with qc.create(tmp_path / "index", {"properties": {"body": {"type": "text"}}}) as index:
        index.bulk(({"id": str(i), "body": text} for i, text in enumerate(texts)), id="id")
        index.flush()
        for i in range(3):
            assert index.count({"match_phrase": {"body": f"all end{i}"}}) == 100
            assert index.count({"match_phrase": {"body": {"query": f"all all end{i}", "slop": 1}}}) == (i == 1)
        assert index.check().problems == []
    postings = open_segments(tmp_path / "index")[0].terms("body")[b"all"]
    assert [positions for _, _, positions in postings] == [tuple(range(70_000 if i == 40 else 1)) for i in range(300)]


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
    assert segment.entries[f"column/{field}"][4] == width


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
            segment.section(f"norms/{field}")
            segment.section(f"blocks.bound/{field}")
    segment.numbers(), segment.sources(), segment.docs_of_id("")
    assert segment.used == set(segment.raw)
    kinds = dict(section_kinds())
    there = {name.partition("/")[0] for name in segment.raw}
    assert there <= set(kinds)
    assert set(kinds) - there == {"stored.dictionary"}
    assert {kind for kind in there if kinds[kind]} == segment.tail_kinds
    assert {name.partition("/")[0] for name in segment.optional} == set()
    assert segment.contents["stored"] == "zstd"
    assert set(segment.contents) == documented_keys("## seg-*", 0) - {"sort"}  # nothing sorts these
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
    assert 0 < len(segment.section("stored.dictionary/0")) <= sum(map(len, segment.sources())) / 100
    assert sources(segment) == docs


def test_many_pages_granules_and_wide_blocks(tmp_path: Path) -> None:
    """Larger than what is above: several pages and granules, and full blocks whose numbers cross words."""
    words = {n: n * 7919 % 61 + 1 for n in range(20_000) if n * n % 97 < 2}
    mapping = {"dynamic": False, "properties": {"n": {"type": "long"}, "text": {"type": "text"}}}
    with qc.create(tmp_path / "index", mapping) as index:
        index.bulk(({"id": n, "n": n * n, "text": "x " * words.get(n, 0)} for n in range(20_000)), id="id")
    [segment] = open_segments(tmp_path / "index")
    assert segment.column("n") == [[n * n] for n in range(20_000)]
    assert len(segment.section("column.min/n")) == 3 * 8
    assert segment.terms("text") == {b"x": [(n, freq, tuple(range(freq))) for n, freq in words.items()]}
    assert max(segment.section("blocks.width/text")) > 6
    assert newest(tmp_path / "index")["segments"][0]["tail_offset"] > 5 * 65536


def test_the_examples_of_the_document(tmp_path: Path) -> None:
    [postings], [positions] = (examples(kind) for kind in ("postings", "positions"))
    with qc.create(tmp_path / "index", {"properties": {"a": {"type": "text"}, "b": {"type": "text"}}}) as index:
        for i in range(10):
            index.put(str(i), {"a": "x " * {3: 1, 4: 2, 9: 1}.get(i, 0)})
        for places in ({0, 7}, {2, 300}):
            index.put(None, {"b": " ".join("x" if i in places else "y" for i in range(301))})
    [segment] = open_segments(tmp_path / "index")
    assert segment.section("postings/a") == postings
    assert segment.terms("a") == {b"x": [(3, 1, (0,)), (4, 2, (0, 1)), (9, 1, (0,))]}
    assert segment.section("positions/b").startswith(positions)
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

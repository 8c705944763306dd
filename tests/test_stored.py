"""Stored documents: encoding them, and merging them by copying what need not change."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import quidditch_core as qc
from quidditch_core.codec.v1 import sources, stored
from quidditch_core.codec.v1.sources import Sources
from quidditch_core.codec.v1.stored import CODECS, StoredCodec
from quidditch_core.index.slices import begin
from quidditch_core.segment import RamSections, Segment

DEFAULT, BEST = CODECS["default"], CODECS["diagon_best_compression"]
keys = itertools.count()


def words(seed: int, count: int) -> list[bytes]:
    """Documents that a dictionary helps with; those of another seed need another one."""
    known = [hashlib.md5(b"%d %d" % (seed, i)).hexdigest()[:8] for i in range(4_000)]
    return [f"{seed}: {' '.join(known[(i * 17 + j * j) % 4_000] for j in range(12))}".encode() for i in range(count)]


def raw(documents: list[bytes]) -> Segment:
    sections = RamSections()
    stored.write_raw(sections, [stored.gather(documents)])
    return Segment(f"raw-{next(keys)}", len(documents), [], sections)


def encoded(documents: list[bytes], codec: StoredCodec = DEFAULT) -> Segment:
    return whole(len(documents), stored.compress(raw(documents), codec), codec)


def whole(docs: int, sections: RamSections, codec: StoredCodec = DEFAULT) -> Segment:
    return Segment(f"zstd-{next(keys)}", docs, [], sections, stored="zstd", codec=codec.name)


def read(segment: Segment) -> list[bytes]:
    reader = stored.reader(segment)
    one_by_one = [reader.read(doc) for doc in range(segment.docs)]
    together: list[bytes] = []
    for unit in range(stored.unit_edges(segment).size - 1):
        together += map(bytes, reader.unit(unit))
    assert one_by_one == together
    return one_by_one


def all_of(segment: Segment, after: int = 0) -> tuple[Segment, NDArray[np.int32]]:
    return segment, np.arange(after, after + segment.docs, dtype=np.int32)


def frames(segment: Segment) -> list[bytes]:
    units = segment.narrow("stored.first")[0].size - 1
    starts, base, _ = segment.starts("stored.start", units, segment.sections.size("stored"))
    data = segment.sections.section("stored").data
    return [data[int(a) + base : int(b) + base].tobytes() for a, b in itertools.pairwise(starts)]


@given(st.lists(st.binary(max_size=30) | st.just(b"x" * 3_000), max_size=40), st.booleans(), st.data())
def test_whatever_is_encoded_and_merged_is_read_back(
    documents: list[bytes], compressed: bool, data: st.DataObject,
) -> None:
    cut = data.draw(st.integers(0, len(documents)))
    live = np.array([data.draw(st.booleans()) for _ in documents], np.bool_)
    kept = [document for document, alive in zip(documents, live.tolist(), strict=True) if alive]
    numbers = np.where(live, np.cumsum(live) - 1, -1).astype(np.int32)
    parts = [encoded(part) if compressed else raw(part) for part in (documents[:cut], documents[cut:])]
    sources = [(parts[0], numbers[:cut]), (parts[1], numbers[cut:])]
    assert read(whole(len(kept), stored.merge(sources, DEFAULT))) == kept
    sections = stored.merge_raw(sources)
    segment = Segment("r", len(kept), [], sections)
    assert [stored.reader(segment).read(doc) for doc in range(len(kept))] == kept


@pytest.mark.parametrize("kept", [0, 5_000, 1 << 20])
def test_pages_are_read_in_any_order(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "_KEPT", kept)
    documents = words(1, 3_000)
    rng = random.Random(kept)
    for segment in (raw(documents), encoded(documents)):
        reader = stored.reader(segment)
        assert reader.read_all([]) == []
        for size in (1, 2, 10, 300) * 5:
            page = [rng.randrange(len(documents)) for _ in range(size)]
            assert reader.read_all(page) == [documents[doc] for doc in page]
        assert sum(map(len, reader._kept.values())) == reader._kept_bytes <= kept
    for doc in (-1, len(documents)):
        with pytest.raises(qc.errors.CorruptIndexError):
            reader.read_all([0, doc])
        with pytest.raises(qc.errors.CorruptIndexError):
            reader.read(doc)


def test_frames_are_copied_with_their_dictionaries() -> None:
    documents = [words(1, 11_000), words(2, 11_000)]
    one, other = map(encoded, documents)
    merged = whole(22_000, stored.merge([all_of(one), all_of(other, 11_000)], DEFAULT))
    assert frames(merged) == frames(one) + frames(other)
    assert len(stored.dictionaries_of(merged)) == 2
    assert read(merged) == documents[0] + documents[1]


def test_only_units_with_deleted_documents_are_encoded_anew() -> None:
    documents = words(1, 11_000)
    one = encoded(documents)
    gone = {0, 5_000, 5_001, 10_999}
    numbers = np.array([-1 if doc in gone else doc - sum(g < doc for g in gone) for doc in range(11_000)], np.int32)
    merged = whole(11_000 - len(gone), stored.merge([(one, numbers)], DEFAULT))
    before, after = frames(one), frames(merged)
    assert len(set(before) - set(after)) in (3, 4)
    assert len(set(after) - set(before)) in (3, 4)
    assert read(merged) == [document for doc, document in enumerate(documents) if doc not in gone]


def test_another_codec_encodes_everything() -> None:
    documents = words(1, 11_000)
    one = encoded(documents)
    merged = whole(11_000, stored.merge([all_of(one)], BEST), BEST)
    assert not set(frames(one)) & set(frames(merged))
    assert 4 * len(frames(merged)) < 3 * len(frames(one))
    assert merged.sections.size("stored") < one.sections.size("stored")
    assert read(merged) == documents


def test_small_units_are_joined() -> None:
    documents = [[b"%d" % number] for number in range(50)]
    merged = whole(50, stored.merge([all_of(encoded(part), at) for at, part in enumerate(documents)], DEFAULT))
    assert len(frames(merged)) == 1
    assert read(merged) == [b"%d" % number for number in range(50)]


def test_there_are_few_dictionaries() -> None:
    documents = [words(seed, 11_000) for seed in range(stored.DICTIONARIES + 2)]
    parts = list(map(encoded, documents))
    merged = whole(len(parts) * 11_000, stored.merge(
        [all_of(part, at * 11_000) for at, part in enumerate(parts)], DEFAULT))
    assert len(stored.dictionaries_of(merged)) == stored.DICTIONARIES
    copied = [set(frames(part)) <= set(frames(merged)) for part in parts]
    assert copied.count(True) == stored.DICTIONARIES
    assert stored.reader(merged).read(3 * 11_000 + 7) == documents[3][7]
    assert read(merged) == [document for part in documents for document in part]


def test_what_needs_no_dictionary_does_not_stop_the_rest() -> None:
    large, small = words(1, 11_000), words(2, 100)
    one, other = encoded(large), encoded(small)
    assert not stored.dictionaries_of(other)
    merged = whole(11_100, stored.merge([all_of(other), all_of(one, 100)], DEFAULT))
    assert frames(merged)[-len(frames(one)) :] == frames(one)
    assert {zstandard.get_frame_parameters(frame).dict_id for frame in frames(merged)} == set(
        stored.dictionaries_of(one))
    assert read(merged) == small + large


def test_a_frame_without_its_dictionary_is_damage() -> None:
    one = encoded(words(1, 11_000))
    sections = RamSections()
    for name in ("stored", "stored.start", "stored.first"):
        sections.take(one.sections, name)
    with pytest.raises(qc.errors.CorruptIndexError, match="does not decompress"):
        stored.reader(whole(11_000, sections)).read(0)


def test_a_change_of_codec_takes_effect_at_the_next_merge(tmp_path: Path) -> None:
    documents = [{"key": str(number), "text": document.decode()} for number, document in enumerate(words(1, 22_000))]
    with qc.create(tmp_path / "index", settings={"index.refresh_interval": -1}) as index:
        for half in (documents[:11_000], documents[11_000:]):
            index.bulk(half, id="key")
            index.flush()
        before = sum(segment.bytes for segment in index.segments())
        assert [holding.segment.codec for holding in index._writer.holdings] == ["default", "default"]
        index.put_settings({"index.codec": "diagon_best_compression"})
        index.merge(max_segments=1)
        [merged] = index._writer.holdings
        assert merged.segment.codec == "diagon_best_compression"
        assert index.segments()[0].bytes < before
        assert index.get("12345").source == documents[12_345]
        assert index.search({"query": {"match": {"text": documents[5]["text"].split()[1]}}}).total.value > 0


class Failing:
    """Has other threads do something, every second time without success."""

    def __init__(self) -> None:
        self.begun = 0

    def __call__(self, work: Callable[..., Any], *given: Any) -> Future[Any]:
        self.begun += 1
        if self.begun % 2:
            return begin(work, *given)
        failed: Future[Any] = Future()
        failed.set_exception(MemoryError("no room"))
        return failed


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("batches", [[1] * 9_000, [3_000] * 3, [1, 2_500, 1, 1, 3_000, 10, 3_487]])
def test_sources_are_compressed_as_they_come(
    batches: list[int], threads: int, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whole batches and single documents; some are taken back, threads fail, and an interrupt comes after any step of
    compressing."""
    monkeypatch.setattr(sources, "SAMPLED", stored.DICTIONARY_MINIMUM + 10_000)
    monkeypatch.setattr(sources, "BATCH", 100_000)
    monkeypatch.setattr(sources, "JOINED", 5_000)
    documents = [document * 2 for document in words(3, 9_000)]
    failing = Failing()
    made = Sources(DEFAULT, threads, failing)
    done = 0

    def broken(frames: stored.Frames, part: stored.Encoded) -> None:
        keep(frames, part)
        raise KeyboardInterrupt

    keep = stored.Frames.keep
    for number, count in enumerate(batches):
        for wanted in (count // 2, count):
            made.undo(done)
            (made.extend if count > 1 else lambda some: made.add(some[0]))(documents[done : done + max(1, wanted)])
        done += count
        if count > 1 or number % 500 == 0:
            with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
                patch.setattr(stored.Frames, "keep", broken)
                made.settle()
            assert [made.read(doc) for doc in range(0, done, 7)] == documents[:done:7]
        made.settle()
    for _ in range(2):
        sections = RamSections()
        assert made.write(sections) == DEFAULT.name
        segment = whole(len(documents), sections)
        assert stored.dictionaries_of(segment)
        assert read(segment) == documents == [made.read(doc) for doc in range(len(documents))]
        assert made.memory < 0.6 * sum(map(len, documents))
    assert bool(failing.begun) == (threads > 1)


def test_a_dictionary_is_used_again_while_it_suits() -> None:
    documents = [words(1, 30_000), words(1, 31_000)[1_000:], words(2, 30_000)]
    first = encoded(documents[0])
    known = stored.learned(first, DEFAULT)
    assert known is not None
    assert stored.learned(first, BEST) is None
    like, unlike = (whole(30_000, stored.compress(raw(part), DEFAULT, known=known)) for part in documents[1:])
    assert list(stored.dictionaries_of(like)) == list(stored.dictionaries_of(first)) == [known.dictionary.dict_id()]
    assert list(stored.dictionaries_of(unlike)) != list(stored.dictionaries_of(first))
    few = whole(100, stored.compress(raw(documents[1][:100]), DEFAULT, known=known))
    assert not stored.dictionaries_of(few)
    merged = whole(60_000, stored.merge([all_of(first), all_of(like, 30_000)], DEFAULT))
    assert frames(merged) == frames(first) + frames(like)
    assert len(stored.dictionaries_of(merged)) == 1
    assert read(like) == documents[1]


def test_units_that_stay_together_are_copied_to_another_place() -> None:
    """The later source comes first, and the last of its documents after the first source."""
    documents = [words(1, 30_000), words(1, 31_000)[1_000:]]
    one, other = map(encoded, documents)
    moved = np.arange(30_000, dtype=np.int32)
    moved[29_900:] += 30_000
    numbers = np.arange(29_900, 59_900, dtype=np.int32)
    merged = whole(60_000, stored.merge([(one, numbers), (other, moved)], DEFAULT))
    assert len(set(frames(merged)) - set(frames(one)) - set(frames(other))) <= 2
    assert read(merged) == documents[1][:29_900] + documents[0] + documents[1][29_900:]


@given(st.lists(st.binary(max_size=30) | st.just(b"x" * 3_000), max_size=40), st.booleans(), st.randoms())
def test_documents_are_read_back_in_any_order(documents: list[bytes], compressed: bool, rng: random.Random) -> None:
    order = list(range(len(documents)))
    rng.shuffle(order)
    cut = rng.randrange(len(documents) + 1)
    parts = [encoded(part) if compressed else raw(part) for part in (documents[:cut], documents[cut:])]
    numbers = np.array(order, np.int32)
    sources = [(parts[0], numbers[:cut]), (parts[1], numbers[cut:])]
    expected = [document for _, document in sorted(zip(order, documents, strict=True))]
    assert read(whole(len(documents), stored.merge(sources, DEFAULT))) == expected
    segment = Segment("r", len(documents), [], stored.merge_raw(sources))
    assert [stored.reader(segment).read(doc) for doc in range(len(documents))] == expected

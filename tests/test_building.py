"""The kernels that turn strings and tokens into postings, against their references and against plain Python."""

from __future__ import annotations

import functools
from concurrent.futures import Future
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import quidditch_core as qc
from quidditch_core.analysis.tokenizers import whole
from quidditch_core.codec.v1 import sources
from quidditch_core.index import builder
from quidditch_core.index.kernels import ids as hashes
from quidditch_core.index.kernels import strings, tokens
from quidditch_core.index.slices import begin
from quidditch_core.index.strings import Interner, joined
from quidditch_core.jit import Kernel
from quidditch_core.segment import address

PATHS = ("compiled", "reference")
WALL = 0xA5
STRINGS = st.binary(max_size=20) | st.binary(max_size=2) | st.binary(min_size=7, max_size=9) | st.sampled_from(
    [b"a", b"a\0", b"a\0\0", b"whale", b"WHALE", b"Whales at sea", b"whales AT sea", b"whales at see", b"\xc0\x80A"])


@functools.cache
def function(kernel: Kernel, path: str) -> Any:
    return kernel.compiled() if path == "compiled" else kernel.referenced()


def call(kernel: Kernel, path: str, *arguments: Any) -> int:
    return int(function(kernel, path)(*(address(a) if isinstance(a, np.ndarray) else int(a) for a in arguments)))


def walled(size: int, dtype: Any, room: int = 0) -> NDArray[Any]:
    """Zeros with a wall behind them, and ``room`` bytes before it that may be written."""
    bytes_ = size * np.dtype(dtype).itemsize
    raw = np.zeros(bytes_ + room + 64, np.uint8)
    raw[bytes_ + room :] = WALL
    return raw[:bytes_].view(dtype)


def stands(array: NDArray[Any]) -> bool:
    base: Any = array.base if array.base is not None else array
    return bool((base[-64:] == WALL).all())


@given(st.lists(STRINGS, max_size=80), st.integers(0, 3), st.booleans())
def test_intern_and_rehash(words: list[bytes], begin: int, fold: bool) -> None:
    words = [b""] * begin + words  # tokens before ``begin`` are not looked at
    data, ends_of = joined(words)
    spans = whole(ends_of)
    first_seen: dict[bytes, int] = {}
    expected = [first_seen.setdefault(word.lower() if fold else word, len(first_seen)) for word in words[begin:]]
    traces = []
    for path in PATHS:
        ids, ends, trace = walled(len(words), np.uint32), walled(100, np.int64), []
        scratch, state = walled(strings.SCRATCH_BYTES, np.uint8), walled(strings.I_SLOTS, np.int64)
        state[strings.I_ENDS], state[strings.I_SCRATCH], state[strings.I_FOLD] = (
            address(ends), address(scratch), fold * strings.FOLD)
        arena, table = walled(8, np.uint8, 8), walled(4 * strings.ENTRY, np.uint8)
        done = begin
        while True:  # grow whatever may be full, as long as something is
            mask = table.size // strings.ENTRY - 1
            state[strings.I_MASK], state[strings.I_TABLE] = mask, address(table)
            state[strings.I_ARENA], state[strings.I_ARENA_SIZE] = address(arena), arena.size
            state[strings.I_MAX_TERMS] = min(100, mask)
            done = call(strings.intern, path, state, data, spans, done, len(words), ids)
            used = int(state[strings.I_USED])
            trace += [done, table.tobytes(), ends.tolist(), arena.tobytes()[:used], state[:2].tolist()]
            assert all(map(stands, (ids, ends, scratch, state, arena, table)))
            if done >= len(words):
                break
            larger = walled(2 * table.size, np.uint8)
            assert call(strings.rehash, path, table, mask + 1, larger, 2 * mask + 1) == 0
            arena_before, arena, table = arena, walled(2 * arena.size, np.uint8, 8), larger
            arena[: arena_before.size] = arena_before
        assert ids[begin:].tolist() == expected
        known, bounds = arena.tobytes(), pairwise([0, *ends[: len(first_seen)].tolist()])
        assert [known[start:end] for start, end in bounds] == list(first_seen)
        traces.append(trace)
    assert traces[0] == traces[1]


@given(st.lists(STRINGS, unique=True, max_size=60), st.data())
def test_strings_are_sorted_and_spelt(words: list[bytes], data: st.DataObject) -> None:
    arena, ends = joined(words)
    numbers = np.array(data.draw(st.permutations(range(len(words)))), np.uint32)
    for path in PATHS:
        keys, text, stops = walled(len(words), np.uint64), walled(int(arena.size), np.uint8, 8), walled(
            len(words), np.int64)
        flags, scratch = walled(len(words), np.uint8), walled(len(words), np.uint32)
        assert call(strings.prefixes, path, numbers, len(words), ends, arena, keys) == 0
        assert keys.tolist() == [int.from_bytes(words[n][:8].ljust(8, b"\0"), "big") for n in numbers.tolist()]
        order = np.argsort(keys, kind="stable")
        ordered, sorted_keys = numbers[order], keys[order]
        assert call(strings.settle, path, ordered, sorted_keys, len(words), ends, arena, scratch) == 0
        assert [words[n] for n in ordered.tolist()] == sorted(words)
        assert call(strings.spell, path, numbers, len(words), ends, arena, text, stops) == sum(map(len, words))
        assert text.tobytes() == b"".join(words[n] for n in numbers.tolist())
        assert np.diff(stops, prepend=0).tolist() == [len(words[n]) for n in numbers.tolist()]
        assert call(strings.beyond_ascii, path, len(words), ends, arena, flags) == sum(flags.tolist())
        assert flags.tolist() == [not word.isascii() for word in words]
        assert all(map(stands, (keys, text, stops, flags, scratch)))


@given(st.lists(st.lists(STRINGS, max_size=300), max_size=4), st.booleans())
def test_an_interner_grows(batches: list[list[bytes]], fold: bool) -> None:
    interner, seen = Interner(fold=fold), dict[bytes, int]()
    for words in [*batches, [b"%d" % number for number in range(2_000)], [bytes(5_000)]]:
        expected = [seen.setdefault(word.lower() if fold else word, len(seen)) for word in words]
        assert interner.numbers(words).tolist() == expected
    assert interner.strings() == list(seen)
    assert len(interner) == len(seen)
    ordered = interner.ordered(np.arange(len(seen), dtype=np.uint32))
    assert interner.strings(ordered) == sorted(seen)
    assert interner.memory < 300_000


@given(st.lists(st.binary(min_size=1, max_size=300) | st.sampled_from([bytes(n) for n in (7, 8, 127, 128, 129, 512)])))
def test_hashes_of_ids_are_those_of_hashlib(keys: list[bytes]) -> None:
    data, ends = joined(keys)
    scratch = np.empty(hashes.SCRATCH_BYTES, np.uint8)
    for path in PATHS:
        found = walled(len(keys), np.uint64)
        assert call(hashes.hash_ids, path, data, ends, len(keys), hashes.ORDER, scratch, found) == 0
        assert found.astype("<u8").tobytes() == b"".join([blake2b(key, digest_size=8).digest() for key in keys])
        assert stands(found)


Value = tuple[int, list[int]]
"""A document and the numbers of its tokens' strings."""


@given(st.lists(st.tuples(st.integers(0, 5), st.lists(st.integers(0, 5), max_size=8)), max_size=20),
       st.integers(0, 100), st.lists(st.sampled_from([0, 1, 2, tokens.DROPPED]), min_size=6, max_size=6),
       st.booleans(), st.sampled_from([3, 20, tokens.WIDE]))
def test_tokens_are_sorted_and_folded(
    values: list[Value], gap: int, ranks: list[int], with_positions: bool, shift: int,
) -> None:
    values.sort(key=lambda value: value[0])
    expected: list[list[tuple[int, int]]] = [[], [], []]
    lengths = [0] * 6
    place, previous = 0, -1
    for doc, ids in values:
        place = place if doc == previous else 0
        previous = doc
        for number in ids:
            if ranks[number] != tokens.DROPPED:
                expected[ranks[number]].append((doc, place))
                lengths[doc] += 1
            place += 1
        place += gap
    starts = np.cumsum([0, *map(len, expected)])
    stream = np.array([number for _, ids in values for number in ids], np.uint32)
    counts, docs = np.array([len(ids) for _, ids in values], np.uint32), np.array([d for d, _ in values], np.uint32)
    for path in PATHS:
        totals, slots, found = walled(6, np.int64), starts[:3].copy(), walled(6, np.uint32)
        out = walled(int(starts[-1]), np.uint64 if shift == tokens.WIDE else np.uint32)
        assert call(tokens.tally, path, stream, stream.size, totals) == 0
        assert totals.tolist() == [stream.tolist().count(number) for number in range(6)]
        assert call(tokens.place, path, stream, counts, docs, len(values), gap, np.array(ranks, np.uint32), slots,
                    found, out, shift) == 0
        assert slots.tolist() == starts[1:].tolist()
        assert found.tolist() == lengths
        assert out.tolist() == [doc | position << shift for term in expected for doc, position in term]
        size = int(starts[-1] - starts[1])  # from the second term on
        folded = [walled(size, np.uint32) for _ in range(3)]
        begins = walled(3, np.int64)
        postings = call(tokens.group, path, out, starts[1:].copy(), 2, *folded[:2],
                        folded[2] if with_positions else 0, begins, shift)
        by_doc = [sorted({doc for doc, _ in term}) for term in expected[1:]]
        assert begins.tolist() == [0, len(by_doc[0]), len(by_doc[0]) + len(by_doc[1])]
        assert folded[0][:postings].tolist() == by_doc[0] + by_doc[1]
        assert folded[1][:postings].tolist() == [
            sum(d == doc for d, _ in term) for term, some in zip(expected[1:], by_doc, strict=True) for doc in some]
        assert folded[2].tolist() == [
            position * with_positions for term in expected[1:] for _, position in term]
        assert all(map(stands, (totals, found, out, *folded, begins)))


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_done_with_nothing(path: str) -> None:
    none = np.zeros(1, np.int64)
    assert call(tokens.tally, path, none, 0, none) == 0
    assert call(tokens.place, path, none, none, none, 0, 1, none, none, none, none, 3) == 0
    assert call(tokens.group, path, none, none, 0, none, none, 0, none, 3) == 0
    assert call(strings.spell, path, none, 0, none, none, none, none) == 0
    assert not none.any()

MAPPING = {"properties": {"id": {"type": "keyword", "index": False, "doc_values": False}, "text": {"type": "text"},
                          "tag": {"type": "keyword"}}}
WORDS = [f"w{number}" for number in range(3_000)]


def test_threads_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough tokens for several runs of the encoder, groups of the sort and batches that other threads analyse, enough
    sources for several shares of the compressor."""
    monkeypatch.setattr(builder, "BLOCK_TOKENS", 1 << 16)
    monkeypatch.setattr(builder, "MANY", 1_000)
    rng = Random(7)
    docs = [{"text": " ".join(rng.choices(WORDS, k=30)), "tag": rng.choice(WORDS)} for _ in range(20_000)]
    files = set()
    for threads in (1, 2, 5):
        with qc.create(tmp_path / str(threads), MAPPING, settings={
                "index.refresh_interval": -1, "thread_pool.write.size": threads}) as index:
            index.bulk(({"id": str(at), **doc} for at, doc in enumerate(docs)), id="id")
            index.flush()
            found = list((tmp_path / str(threads) / "segments").glob("seg-*"))
            assert len(found) == 1
            files.add(found[0].read_bytes())
    assert len(files) == 1


def test_values_without_tokens_come_last(tmp_path: Path) -> None:
    with qc.create(tmp_path / "index", MAPPING, settings={"index.refresh_interval": -1}) as index:
        for text in ("a whale", "", ""):
            index.bulk([{"id": text, "text": text}] if text else [{"id": "none", "text": text}], id="id")
        index.refresh()
        assert [hit.id for hit in index.search(qc.query.Match("text", "whale")).hits] == ["a whale"]
        assert index.count(qc.query.Exists("text")) == 2


def test_what_threads_fail_to_analyse_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads run out of memory, and interrupts come while their work is awaited: nothing is lost."""
    monkeypatch.setattr(builder, "CHUNK", 1)
    begun = 0

    def failing(work: Any, *given: Any) -> Future[Any]:
        nonlocal begun
        begun += 1
        failed: Future[Any] = Future()
        if begun % 3:
            return begin(work, *given)
        failed.set_exception(MemoryError("no room"))
        return failed

    monkeypatch.setattr(builder, "begin", failing)
    rng = Random(9)
    texts = [" ".join(rng.choices(WORDS, k=5)) for _ in range(2_000)]
    settings = {"index.refresh_interval": -1, "thread_pool.write.size": 2}
    with qc.create(tmp_path / "index", MAPPING, settings=settings) as index:
        take = builder._Stream._take

        def broken(stream: Any, part: Any, **given: Any) -> None:
            raise KeyboardInterrupt

        def again(docs: list[Any]) -> None:
            for _ in range(10):
                index.bulk(docs, id="id")

        for number, at in enumerate(range(0, len(texts), 50)):
            docs = [{"id": str(doc), "text": texts[doc], "tag": texts[doc][:2]} for doc in range(at, at + 50)]
            if number % 4 == 3:
                monkeypatch.setattr(builder._Stream, "_take", broken)
                with pytest.raises(KeyboardInterrupt):
                    again(docs)
                monkeypatch.setattr(builder._Stream, "_take", take)
            assert not index.bulk(docs, id="id").failed
            if number % 5 == 0:
                index.put(str(at), docs[0])
        index.refresh()
        assert begun > 50
        assert index.count() == len(texts)
        for word in WORDS[::100]:
            found = {hit.id for hit in index.search(qc.query.Term("text", word), size=100).hits}
            assert found == {str(doc) for doc, text in enumerate(texts) if word in text.split()}


def test_tokens_are_narrow_or_wide(tmp_path: Path) -> None:
    """Positions that leave no room for a document in four bytes, and the same words in the other order."""
    far = {"properties": {"text": {"type": "text", "position_increment_gap": 1 << 24}}}
    with qc.create(tmp_path / "far", far, settings={"index.refresh_interval": -1}) as index:
        for doc in range(5):
            index.put(str(doc), {"text": ["white whale", "grey sea"] * (1 + 50 * (doc == 2))})
        index.refresh()
        for phrase, slop, hits in (("grey sea", 0, 5), ("sea grey", 0, 0), ("whale grey", 1 << 24, 5),
                                   ("sea white", 1 << 24, 1), ("sea white", (1 << 24) - 1, 0)):
            assert index.search(qc.query.MatchPhrase("text", phrase, slop=slop)).total.value == hits, phrase


@pytest.mark.parametrize("codec", ["default", "diagon_best_compression"])
def test_a_buffer_is_compressed_as_it_fills_up(codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SAMPLED", 1 << 20)
    monkeypatch.setattr(sources, "BATCH", 1 << 18)
    rng = Random(11)
    docs = {str(at): {"id": str(at), "text": " ".join(rng.choices(WORDS, k=40)), "tag": str(at % 7)}
            for at in range(12_000)}

    def same(index: Any) -> None:
        some = list(docs)[::97]
        assert [index.get(id).source for id in some] == [docs[id] for id in some]
        assert index.get("3") is None

    with qc.create(tmp_path / "index", MAPPING, settings={"index.refresh_interval": -1, "index.codec": codec}) as index:
        index.bulk(list(docs.values())[:9_000], id="id")
        docs["97"] = {"id": "97", "text": "another", "tag": "7"}
        index.put("97", docs["97"])
        index.delete("3")
        del docs["3"]
        for start in range(8_999, 11_999, 250):  # segments in memory are merged
            index.bulk(list(docs.values())[start : start + 250], id="id")
            index.refresh()
            assert index.search(qc.query.Term("tag", "7")).total.value == 1
        assert {holding.segment.stored for holding in index._writer.holdings} == {"raw", "zstd"}
        same(index)
        assert index.count() == len(docs)
        assert index.check().ok
        index.flush()
        same(index)
        assert index.check().ok
    with qc.open(tmp_path / "index") as index:
        same(index)


def test_the_last_part_of_a_bulk_may_have_no_tokens(tmp_path: Path) -> None:
    with qc.create(tmp_path / "index", {"properties": {"body": {"type": "text"}}}) as index:
        for body in ("a whale", ""):
            index.bulk([{"id": body or "none", "body": body}], id="id")
        index.refresh()
        assert index.count({"match": {"body": "whale"}}) == 1
        assert index.count({"exists": {"field": "body"}}) == 2

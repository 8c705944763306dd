"""What an index takes of the disk: at rest at most 1.5 times what its documents need, and a little; more only while
a flush or a merge is being written, and for the log.

The pure policy first, on segments that are numbers; then real files, with a slack that is small as the index is.
"""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import quidditch_core as qc
from quidditch_core.index import merge
from quidditch_core.index.facade import _create, _open
from quidditch_core.index.merge import (
    FLOOR_BYTES,
    MAX_DELETED,
    MAX_MERGED_BYTES,
    SEGMENTS_PER_TIER,
    Candidate,
    level,
    select,
)
from quidditch_core.mapping import Mapping
from quidditch_core.tiering.testing import CrashFiles

# --- the policy ----------------------------------------------------------------------------------------------

sizes = st.one_of(st.integers(0, 2 * FLOOR_BYTES), st.integers(0, 2 * MAX_MERGED_BYTES))


@st.composite
def segments(draw: st.DrawFn) -> list[tuple[int, int]]:
    """(bytes, those of live documents) of segments side by side."""
    whole = draw(st.lists(sizes, max_size=40))
    return [(size, size * draw(st.sampled_from([100, 100, 99, 76, 75, 67, 50, 1, 0])) // 100) for size in whole]


def merged(found: list[tuple[int, int]], chosen: list[int]) -> list[tuple[int, int]]:
    live = sum(found[at][1] for at in chosen)
    return [*found[: chosen[0]], (live, live), *found[chosen[-1] + 1 :]]


def candidates(found: list[tuple[int, int]]) -> list[Candidate]:
    return [Candidate(at, size, live) for at, (size, live) in enumerate(found)]


@given(segments())
def test_merging_as_asked_ends_within_the_bound(found: list[tuple[int, int]]) -> None:
    """However the segments are, and whatever is deleted in them."""
    most = 2 * len(found)
    while chosen := select(candidates(found)):
        assert chosen == list(range(chosen[0], chosen[-1] + 1))
        dead = sum(found[at][0] - found[at][1] for at in chosen)
        assert len(chosen) > 1 or dead > 0, "a merge that changes nothing"
        found = merged(found, chosen)
        most -= 1
        assert most >= 0, "it goes on for ever"
    total, live = sum(size for size, _ in found), sum(live for _, live in found)
    assert total <= live / (1 - MAX_DELETED) < 1.5 * live or total == live == 0
    assert not merge.bloated(candidates(found))
    assert_few([live for _, live in found])


def assert_few(found: list[int]) -> None:
    """Nine segments of each level, and one between each two of them, in each stretch that may still be merged."""
    for settled, stretch in itertools.groupby(found, lambda live: 2 * live >= MAX_MERGED_BYTES):
        sizes = list(stretch)
        assert settled or len(sizes) <= 2 * SEGMENTS_PER_TIER * len(set(map(level, sizes)))


FLUSHES = {
    "equal": lambda rng: 3 << 20, "tiny": lambda rng: 16 << 10, "any": lambda rng: rng.randint(1, 256 << 20),
    "of any magnitude": lambda rng: int(2 ** rng.uniform(10, 28)),
    "large and small in turn": lambda rng: rng.choice([64 << 20, 4 << 10])}


@pytest.mark.parametrize("flushes", FLUSHES)
def test_a_byte_is_written_about_once_a_level(flushes: str) -> None:
    rng = Random(3)
    found: list[int] = []
    written = 0
    for count in range(1, 2_001):
        found.append(FLUSHES[flushes](rng))
        while chosen := select([Candidate(at, live, live) for at, live in enumerate(found)]):
            size = sum(found[at] for at in chosen)
            assert size <= MAX_MERGED_BYTES
            written += size
            found[chosen[0] : chosen[-1] + 1] = [size]
        assert_few(found)
        assert written <= (level(sum(found)) + 1) * sum(found) + count * FLOOR_BYTES / (SEGMENTS_PER_TIER - 1)


@given(st.integers(1, 10 * MAX_MERGED_BYTES), st.integers(0, 10 * MAX_MERGED_BYTES))
def test_what_is_bloated_can_be_made_smaller(size: int, live: int) -> None:
    found = [Candidate(0, size, min(size, live))]
    assert merge.bloated(found) == (size > 1.5 * min(size, live) + (64 << 20))
    if merge.bloated(found):
        assert select(found) == [0]


@given(st.integers(0, 2**32))
def test_merges_write_in_proportion_to_what_is_flushed(seed: int) -> None:
    """Updates at random, in flushes of any size: what is reclaimed pays for what is rewritten."""
    rng = Random(seed)
    found, written, flushed = [(100 << 20, 100 << 20)], 0, 0
    for _ in range(60):
        new = rng.randint(1, 20) << 20
        total = sum(live for _, live in found)
        found = [(size, live - live * new // (2 * total)) for size, live in found]
        found = [*((size, live) for size, live in found if live), (new, new)]
        flushed += new
        while chosen := select(candidates(found)):
            written += sum(found[at][1] for at in chosen)
            found = merged(found, chosen)
    assert written <= 12 * (flushed + (100 << 20))


# --- real files ----------------------------------------------------------------------------------------------

MAPPING = {"properties": {"body": {"type": "text"}, "n": {"type": "integer"}, "tag": {"type": "keyword"}}}
DOCS = 2_000
SLACK = 128 << 10
LOG = 64 << 10
WORDS = [f"word{number}" for number in range(2_000)]


class Sizes(NamedTuple):
    """Bytes on disk of the log, and of everything else."""

    log: int
    rest: int


def sizes_of(path: Path) -> Sizes:
    log = rest = 0
    for file in path.rglob("*"):
        with suppress(FileNotFoundError):  # it was there a moment ago
            size = file.stat().st_size if file.is_file() else 0
            log, rest = (log + size, rest) if file.parent.name == "translog" else (log, rest + size)
    return Sizes(log, rest)


@contextmanager
def watched(path: Path) -> Iterator[list[Sizes]]:
    """The sizes, again and again while the block runs."""
    seen, stop = [sizes_of(path)], threading.Event()

    def watch() -> None:
        while not stop.wait(0.001):
            seen.append(sizes_of(path))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def document(rng: Random) -> dict[str, Any]:
    return {"body": " ".join(rng.choices(WORDS, k=40)), "n": rng.randrange(1_000), "tag": rng.choice(WORDS)}


def filled(path: Path, rng: Random, **settings: Any) -> Any:
    index = qc.create(path, MAPPING, settings={"index.refresh_interval": "20ms", "index.translog.durability": "async",
                                               **settings})
    index.bulk(({"id": str(number), **document(rng)} for number in range(DOCS)), id="id")
    return index


def needed(path: Path) -> int:
    """Bytes without anything that was deleted."""
    with qc.open(path) as index:
        index.merge()
    return sizes_of(path).rest


def updates(index: Any, rng: Random) -> None:
    """A twentieth of the documents again, one in ten of them deleted and put anew."""
    for number in rng.sample(range(DOCS), DOCS // 20):
        if rng.random() < 0.1:
            index.delete(str(number))
        index.put(str(number), {"id": str(number), **document(rng)})
    if rng.random() < 0.5:
        index.flush()


@pytest.mark.parametrize("reader", [False, True])
def test_the_same_documents_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: bool) -> None:
    """Three times as much as there is, in many flushes, by hand and by the log's threshold."""
    monkeypatch.setattr(merge, "SLACK_BYTES", SLACK)
    rng, path = Random(f"again {reader}"), tmp_path / "index"
    index = filled(path, rng, **{"index.translog.flush_threshold_size": f"{LOG}b"})
    index.flush()
    with watched(path) as seen:
        for _ in range(60):
            updates(index, rng)
            if reader:
                with index.reader() as held:
                    assert held.count() <= DOCS
        index.flush()
    assert index.count() == DOCS
    index.close()
    rest = sizes_of(path)
    live = needed(path)
    assert rest.log < 1_000
    assert rest.rest <= 1.5 * live + SLACK
    peak, flush, running = max(one.rest for one in seen), 2 * LOG, live
    assert len(seen) > 100
    assert peak <= 1.5 * live + SLACK + flush + running
    assert max(one.log for one in seen) <= 2 * LOG + 8_192  # with what it is made longer by


def test_most_of_it_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound holds when a flush returns, though none of the work is done in the background."""
    monkeypatch.setattr(merge, "SLACK_BYTES", SLACK)
    rng, path = Random("deleted"), tmp_path / "index"
    filled(path, rng).close()
    with qc.open(path) as index:
        monkeypatch.setattr(index, "_workers", [])
        monkeypatch.setattr(index, "_maintain", lambda: None)
        for number in range(DOCS * 9 // 10):
            index.delete(str(number))
        before = sizes_of(path).rest
        index.flush()
        rest = sizes_of(path).rest
        index.merge()
        live = sizes_of(path).rest
    assert before > 4 * live
    assert rest <= 1.5 * live + SLACK


def test_deletes_that_no_flush_has_written_cause_no_merge(tmp_path: Path) -> None:
    """Such a merge would keep what they deleted."""
    rng, path = Random("unflushed"), tmp_path / "index"
    with filled(path, rng, **{"index.refresh_interval": "-1"}) as index:
        index.flush()
        index.delete("0")
        index.flush()
        for number in range(1, DOCS // 2):
            index.delete(str(number))
        index.refresh()
        before = os.listdir(path / "segments")
        assert not index._maintenance.merge_once()
        assert os.listdir(path / "segments") == before
        index.flush()
        while index._maintenance.merge_once():
            pass
        assert [info.deleted for info in index.segments()] == [0]


def test_a_disk_without_room_for_a_merge_has_room_for_a_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "SLACK_BYTES", 0)
    files = CrashFiles()
    settings = qc.Settings.from_dict({"index.refresh_interval": -1})
    index = _create(files, "/index", Mapping.from_dict(MAPPING), settings, background=False)
    for number in range(40):
        index.put(str(number), {"body": "sea whale", "n": number})
    index.flush()
    for number in range(39):
        index.delete(str(number))
    files.fail("open", number=errno.ENOSPC, path="*/segments/seg-*")
    with pytest.warns(RuntimeWarning, match="a merge after a flush failed: .*No space left"):
        index._maintenance.flush()
    with _open(files.after_crash(0, "drop"), "/index", background=False) as again:
        assert [again.get(str(number)) is None for number in range(40)] == [True] * 39 + [False]
    assert [info.deleted for info in index.segments()] == [39]
    index._maintenance.flush()
    assert [info.deleted for info in index.segments()] == [0]
    index.close()

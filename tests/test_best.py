"""Pruned search equals exhaustive search, to the bit: random corpora, many segments, deletes, filters, every k.

The exhaustive side is ``execute.top``, segment by segment, which the oracle and the rivals hold to account. Both
ways of the kernels run: compiled, and their NumPy references.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quidditch_core as qc
from quidditch_core import query as q
from quidditch_core.index import best, execute, profiles, slices
from quidditch_core.index import view as view_module
from quidditch_core.index.kernels import count, intersection, profile, union
from quidditch_core.index.plan import plan
from quidditch_core.index.view import View


@qc.scorer
def best_of(score, n: int = 0):  # type: ignore[no-untyped-def]
    return score + n


KERNELS = (union.union, intersection.intersection, count.count_union, profile.profile)
DEPTHS = (1, 2, 10, 37, 100, 1000, 3000, 100_000)
MAPPING = {"properties": {"text": {"type": "text"}, "title": {"type": "text"}, "tag": {"type": "keyword"},
                          "n": {"type": "long"}}}


def vocabulary(size: int) -> list[str]:
    """Words in order of frequency, none of them alike."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [letters[i % 26] + letters[i // 26 % 26] + letters[i // 676] for i in range(size)]


def write(path: Path, seed: int, *, segments: tuple[int, ...], deleted: float, slices: int = 1) -> Any:
    """An index of random texts whose words are as unequal as real ones, with phrases that recur."""
    rng = random.Random(seed)
    words = vocabulary(600)
    weights = [1 / (rank + 1.5) for rank in range(len(words))]
    phrases = [rng.choices(words, weights, k=rng.randint(2, 4)) for _ in range(30)]
    index = qc.create(path, MAPPING, settings={
        "index.refresh_interval": -1, "index.search.concurrent.max_slice_count": slices})
    number = 0
    for size in segments:
        docs = []
        for _ in range(size):
            length = 1 + int(rng.expovariate(1 / rng.choice((3, 12, 60))))
            text = rng.choices(words, weights, k=length)
            if rng.random() < 0.3:
                text[rng.randrange(length) :] = rng.choice(phrases) * rng.randint(1, 3)
            docs.append({"key": str(number), "text": " ".join(text), "title": " ".join(text[:3]),
                         "tag": rng.choice("abc"), "n": rng.randrange(100)})
            number += 1
        assert not index.bulk(docs, id="key").failed
        index.flush()
    for key in range(number):
        if rng.random() < deleted:
            index.delete(str(key))
    index.refresh()
    return index


def exhaustive(query: q.Query, view: View, limit: int) -> tuple[list[tuple[float, int]], int]:
    """(score, number in the view) of the best live documents, and how many match."""
    bound = plan(query, view)
    hits: list[tuple[float, int]] = []
    found = 0
    for base, leaf in zip(view.bases, view.leaves, strict=False):
        part = execute.top(bound, leaf.segment, leaf.live, limit)
        hits += [(float(score), base + int(doc)) for doc, score in zip(part.docs, part.scores, strict=True)]
        found += execute.count(bound, leaf.segment, leaf.live)
    return sorted(hits, key=lambda hit: (-hit[0], hit[1]))[:limit], found


def pruned(query: q.Query, view: View, limit: int) -> tuple[list[tuple[float, int]], int]:
    ready = best.prepare(plan(query, view), view)
    assert ready is not None, query
    alone = ready.best(limit)
    found = ready.number()
    assert alone is not None
    keys = np.array(alone.keys)
    both, number = ready.best_and_number(limit)
    assert both is not None
    assert (both.keys.tolist(), number) == (keys.tolist(), found)
    assert len(alone) == keys.size
    assert found is not None
    scores = (keys >> 32).astype(np.int32).view(np.float32)
    numbers = 0xFFFFFFFF - (keys & 0xFFFFFFFF)
    return list(zip(map(float, scores), map(int, numbers), strict=True)), found


def queries(rng: random.Random, texts: list[str]) -> Iterator[q.Query]:
    """Queries of every shape that the kernels run."""
    words = vocabulary(600)

    def some(count: int) -> str:
        """Frequent and rare words, or neighbours in a document."""
        if rng.random() < 0.5:
            return " ".join(words[min(599, int(rng.expovariate(1 / 60)))] for _ in range(count))
        text = rng.choice(texts).split()
        at = rng.randrange(len(text))
        return " ".join(text[at : at + count])

    def term() -> q.Query:
        return q.Match("text", some(1), boost=rng.choice((1.0, 1.0, 0.25, 3.5)))

    while True:
        yield q.Match("text", some(1))
        yield q.Match("text", some(rng.randint(2, 6)))
        yield q.Match("text", some(rng.randint(2, 4)), operator="and")
        yield q.MatchPhrase("text", some(rng.randint(2, 4)), boost=rng.choice((1.0, 2.0)))
        yield q.Bool(should=tuple(term() for _ in range(rng.randint(2, 5))))
        yield q.Bool(should=(q.Match("title", some(1)), term()))
        yield q.Bool(must=tuple(term() for _ in range(rng.randint(1, 3))), should=(term(), term()))
        narrow: q.Query = q.Range("n", gte=rng.randrange(100), lt=rng.randrange(100))
        if rng.random() < 0.5:
            narrow = q.Term("tag", "a")
        yield q.Bool(should=(term(), term()), minimum_should_match=1, filter=(narrow,))
        yield q.Bool(must=(term(), term()), must_not=(q.Term("tag", "b"),))
        yield q.Bool(must=(q.MatchPhrase("text", some(2)),), filter=(narrow,))
        yield q.Bool(must=(q.Match("text", some(3), operator=rng.choice(("or", "and"))),), filter=(narrow,))


@pytest.fixture(params=["compiled", "referenced"])
def path_of_kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which way the kernels of this module run; profiles that the other way made are forgotten."""
    for kernel in KERNELS:
        monkeypatch.setattr(kernel, "call", getattr(kernel, request.param)())
    name: str = request.param
    return name


@pytest.mark.parametrize(("segments", "deleted"), [((3000,), 0.0), ((3000,), 0.1), ((900, 20, 1500, 300, 1), 0.05)])
def test_pruned_is_exhaustive(
    tmp_path: Path, path_of_kernels: str, segments: tuple[int, ...], deleted: float,
) -> None:
    with write(tmp_path / "index", 7, segments=segments, deleted=deleted) as index, index.reader() as reader:
        view = reader.view
        texts = [hit.source["text"] for hit in index.search(size=200).hits]
        rng = random.Random(len(segments) + int(100 * deleted))
        asked = 0
        for query in queries(rng, texts):
            if best.prepare(plan(query, view), view) is None:  # a word that no document holds
                continue
            limit = rng.choice(DEPTHS)
            assert pruned(query, view, limit) == exhaustive(query, view, limit), (query, limit)
            asked += 1
            if asked == (1500 if path_of_kernels == "compiled" else 150):
                break


@pytest.mark.usefixtures("compiled")
def test_long_lists_without_bitmaps(tmp_path: Path) -> None:
    """Lists of many blocks, alike in length and not, are joined or looked up; counted, and cleared again."""
    rng = random.Random(5)
    words = vocabulary(160)
    weights = [1 / (rank + 40) for rank in range(len(words))]
    settings = {"index.refresh_interval": -1}
    with qc.create(tmp_path / "index", {"properties": {"text": {"type": "text"}, "n": {"type": "integer"}}},
                   settings=settings) as index:
        texts = [" ".join(rng.choices(words, weights, k=4)) for _ in range(40_000)]
        index.bulk([{"text": text, "n": rng.randrange(10)} for text in texts])
        index.refresh()
        index.merge(max_segments=1)
        with index.reader() as reader:
            view = reader.view
            for asked in range(300):
                some = " ".join(rng.choice(words) for _ in range(rng.randint(2, 3)))
                near = " ".join(rng.choice(texts).split()[1:])
                query: q.Query = (
                    q.Match("text", some, operator="and"), q.Match("text", some), q.MatchPhrase("text", near),
                    q.Bool(must=(q.Match("text", near, operator="and"),), filter=(q.Range("n", lt=4),)),
                    q.Bool(must=(q.Match("text", some, operator="and"),), should=(q.Match("text", rng.choice(words)),)),
                    q.Bool(should=(q.Match("text", some),), must_not=(q.Term("n", 3),), minimum_should_match=1),
                )[asked % 6]
                if best.prepare(plan(query, view), view) is not None:
                    limit = rng.choice(DEPTHS)
                    assert pruned(query, view, limit) == exhaustive(query, view, limit), (query, limit)


def test_several_threads_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "COST", 0)
    segments = (900, 20, 1500, 300, 1)
    with write(tmp_path / "index", 7, segments=segments, deleted=0.05, slices=3) as index, index.reader() as reader:
        view = reader.view
        assert sorted(map(len, slices.groups(view))) == [1, 1, 3]
        texts = [hit.source["text"] for hit in index.search(size=200).hits]
        rng = random.Random(8)
        for query, _ in zip(queries(rng, texts), range(400), strict=False):
            if best.prepare(plan(query, view), view) is not None:
                limit = rng.choice(DEPTHS)
                assert pruned(query, view, limit) == exhaustive(query, view, limit), (query, limit)
        half = q.ScriptScore(q.Match("text", "a b"), best_of.name) | q.Prefix("text", "a")
        found = index.search(half, size=50, profile=True)
        assert [(hit.score, hit.id) for hit in found] == [
            (score, ids[number]) for ids in [[id for leaf in reader.layout() for id, _, _ in leaf]]
            for score, number in exhaustive(half, view, 50)[0]]
        work = index.search(q.Match("text", " ".join(vocabulary(3))), profile=True).profile
        assert work is not None
        assert work.path == "union"
        assert work.postings


def test_a_forked_child_has_threads_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "COST", 0)
    write(tmp_path / "index", 7, segments=(50, 60), deleted=0.0, slices=2).close()
    common = q.Match("text", vocabulary(1)[0])
    with qc.open(tmp_path / "index", read_only=True) as index:
        expected = index.count(common)
        assert index.search(common, track_total_hits=True).total.value == expected > 0
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            with qc.open(tmp_path / "index", read_only=True) as again:
                os._exit(again.search(common, track_total_hits=True).total.value != expected)
        assert os.waitpid(child, 0)[1] == 0


def test_equal_scores_come_in_order_however_their_sums_are_rounded(tmp_path: Path, path_of_kernels: str) -> None:
    """A bound in float64 that is below a score in float32 leaves out no document that has this score."""
    with qc.create(tmp_path / "index", MAPPING, settings={"index.refresh_interval": -1}) as index:
        index.bulk([{"text": "sea whale", "title": "sea"} for _ in range(9000)])
        index.flush()
        with index.reader() as reader:
            for step in range(60 if path_of_kernels == "compiled" else 3):
                query = q.Match("title", "sea", boost=0.001 + step / 700) | q.Match("text", "whale", boost=7 + step / 9)
                assert pruned(query, reader.view, 3) == exhaustive(query, reader.view, 3), query


def test_what_a_thread_raises_reaches_the_search() -> None:
    with pytest.raises(ZeroDivisionError):
        slices.each(lambda number: 1 // number, [1, 0, 2])
    with pytest.raises(ZeroDivisionError):
        slices.each(lambda number: 1 // number, [0, 1, 2])
    assert slices.each(lambda number: -number, [1, 2, 3]) == [-1, -2, -3]


def test_a_profile_outlives_deletions_and_growth(tmp_path: Path) -> None:
    """Profiles are made once; later views, with other average lengths and fewer live documents, use them."""
    rng = random.Random(3)
    with write(tmp_path / "index", 11, segments=(4000,), deleted=0.0) as index:
        texts = [hit.source["text"] for hit in index.search(size=200).hits]
        living = {str(key) for key in range(4000)}
        for step in range(6):
            with index.reader() as reader:
                view = reader.view
                for _, query in zip(range(120), queries(rng, texts), strict=False):
                    if best.prepare(plan(query, view), view) is not None:
                        limit = rng.choice(DEPTHS)
                        assert pruned(query, view, limit) == exhaustive(query, view, limit), (step, query, limit)
            best_ids = [hit.id for hit in index.search(q.Match("text", " ".join(vocabulary(3))), size=5 * 4**step)]
            for id in best_ids:  # the very documents that the floors were made from
                if id in living:
                    index.delete(id)
                    living.remove(id)
            index.bulk([{"key": f"{step}-{i}", "text": "zzz " * 40 * step} for i in range(200)], id="key")
            index.refresh()


def test_profiles_keep_to_their_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with write(tmp_path / "index", 5, segments=(3000,), deleted=0.0) as index, index.reader() as reader:
        words = vocabulary(40)
        expected = [exhaustive(q.Match("text", f"{a} {b}"), reader.view, 10) for a, b in pairwise(words)]
        monkeypatch.setattr(profiles.BUDGET, "limit", 3000)
        evicted = profiles.BUDGET.evictions
        for _ in range(2):
            assert [pruned(q.Match("text", f"{a} {b}"), reader.view, 10) for a, b in pairwise(words)] == expected
        assert profiles.BUDGET.evictions > evicted
        assert profiles.BUDGET.used <= 3000


def test_filters_are_kept_at_their_second_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with write(tmp_path / "index", 6, segments=(1000, 800), deleted=0.1) as index:
        made = []
        bitmap = execute.bitmap
        monkeypatch.setattr(execute, "bitmap", lambda plan, segment: made.append(plan) or bitmap(plan, segment))
        for narrow in (q.Term("tag", "a"), q.Terms("tag", ["a", "c"]), q.Range("n", gte=10, lt=50),
                       q.Prefix("tag", "b"), q.Exists("n"), q.Range("tag", gte="b")):
            answers, calls = [], []
            for absent in "wxyz":  # another query each time, which finds the same
                made.clear()
                either = (q.Match("text", "aaa"), q.Term("text", absent))
                result = index.search(q.Bool(should=either, minimum_should_match=1, filter=(narrow,)), size=50)
                answers.append([hit.id for hit in result.hits])
                calls.append(len(made))
            assert answers.count(answers[0]) == 4
            assert answers[0]
            assert calls[:2] == [2, 2], narrow
            assert calls[2:] == [0, 0], narrow


def test_a_thousand_clauses(tmp_path: Path) -> None:
    with write(tmp_path / "index", 9, segments=(500, 700), deleted=0.02) as index, index.reader() as reader:
        query = q.Bool(should=tuple(q.Term("text", word, boost=1 + i / 7) for i, word in enumerate(vocabulary(600))))
        for limit in (1, 10, 2000):
            assert pruned(query, reader.view, limit) == exhaustive(query, reader.view, limit)


@pytest.mark.usefixtures("compiled")
def test_work_is_saved(tmp_path: Path) -> None:
    """A frequent and a rare word: most of the frequent one's blocks stay packed."""
    index = qc.create(tmp_path / "index", MAPPING, settings={"index.refresh_interval": -1})
    rng = random.Random(2)
    with index:
        index.bulk([{"key": str(i), "text": "often " * rng.randint(1, 9) + "x " * rng.randint(0, 20)
                     + ("seldom" if i % 5000 == 17 else "")} for i in range(40_000)], id="key")
        index.merge()
        with index.reader() as reader:
            ready = best.prepared(q.Match("text", "often seldom"), reader.view)
            assert isinstance(ready, best.Prepared)
            found = ready.best(5)
            assert found is not None
            assert found.path == "union"
            blocks, postings, ranges = found.work
            assert 0 < blocks < 100  # of 313
            assert 0 < postings <= 128 * blocks
            assert 0 < ranges < 160


def test_equal_queries_that_differ_find_what_they_ask_for(tmp_path: Path) -> None:
    """What is remembered of a query is not taken for another: 1, 1.0 and True are equal in Python."""
    with qc.create(tmp_path / "index", MAPPING, settings={"index.refresh_interval": -1}) as index:
        index.bulk([{"tag": tag} for tag in ("1", "1.0", "true", "true", "1.0", "1.0")])
        index.refresh()
        right = {"1": 1, "1.0": 3, "true": 2}
        values: list[tuple[Any, str]] = [(1, "1"), (True, "true"), (1.0, "1.0"), ("1", "1"), ("true", "true")]
        for _ in range(3):
            random.Random(1).shuffle(values)
            for value, tag in values:
                query = q.Term("tag", value)
                alternatives = q.Bool(should=(query, q.Match("tag", "absent")))
                body: dict[str, Any] = {"query": {"term": {"tag": value}}, "track_total_hits": True}
                assert index.count(query) == index.count(alternatives) == right[tag]
                assert index.search(query, track_total_hits=True).total == qc.result.Total(right[tag])
                assert index.search(body).total.value == index.search(body, size=1).total.value == right[tag]
        for _ in range(2):
            assert index.search(q.Term("tag", 1.0), track_total_hits=1, size=0).total.relation == "gte"
            assert index.search(q.Term("tag", 1.0), track_total_hits=True, size=0).total.relation == "eq"
            for track in (1, True):
                asked = {"query": {"match": {"tag": "1.0"}}, "track_total_hits": track, "size": 0}
                assert index.search(asked).total.relation == ("eq" if track is True else "gte")
            for size in (np.int64(1), 1, True, 1.0):
                asked = {"query": {"match": {"tag": "1.0"}}, "size": size}
                if type(size) is int:
                    assert len(index.search(asked)) == 1
                elif not isinstance(size, np.int64):
                    with pytest.raises(qc.errors.QueryError):
                        index.search(asked)


def test_a_minimum_of_nothing_is_never_reached(tmp_path: Path) -> None:
    with write(tmp_path / "index", 6, segments=(300,), deleted=0.0) as index:
        one, two = vocabulary(2)
        for clause in (q.Match("text", one), q.Match("text", f"{one} {two}"), q.MatchPhrase("text", f"{one} {two}")):
            assert index.count(q.Bool(must=(clause,)))
            assert index.count(q.Bool(must=(clause,), minimum_should_match=1)) == 0


def test_remembered_queries_hold_few_bitmaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with write(tmp_path / "index", 6, segments=(1000, 800), deleted=0.1) as index, index.reader() as reader:
        monkeypatch.setattr("quidditch_core.index.view._PREPARED", 10 * 1800 // 8)
        for _ in range(2):
            for n in range(50):
                query = q.Bool(must=(q.Match("text", " ".join(vocabulary(3))),), filter=(q.Range("n", gte=n),))
                assert reader.count(query) == exhaustive(query, reader.view, 1)[1]
                assert len(reader.view.prepared) <= 10


def test_a_body_that_changes_is_another(tmp_path: Path) -> None:
    with write(tmp_path / "index", 6, segments=(300,), deleted=0.0) as index:
        body: dict[str, Any] = {"query": {"match": {"text": vocabulary(1)[0]}}, "size": 3}
        assert len(index.search(body)) == len(index.search(body)) == 3
        body["size"] = 2
        assert len(index.search(body)) == 2
        body["query"]["match"]["text"] = "nowhere"
        assert len(index.search(body)) == 0
        body["query"]["match"]["text"] = {"query": body}  # itself, without end
        with pytest.raises(qc.errors.QueryError):
            index.search(body)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machine code from the first call on: references save no work."""
    for kernel in KERNELS:
        monkeypatch.setattr(kernel, "call", kernel.compiled())


@pytest.mark.usefixtures("compiled")
def test_a_profile_says_how_a_search_went(tmp_path: Path) -> None:
    with write(tmp_path / "index", 4, segments=(2000, 1500), deleted=0.0) as index:
        common, rare = vocabulary(600)[0], vocabulary(600)[300]
        plain = index.search(q.Match("text", f"{common} {rare}"))
        told = index.search(q.Match("text", f"{common} {rare}"), profile=True)
        assert [hit.id for hit in told.hits] == [hit.id for hit in plain.hits]
        assert plain.profile is None
        assert told.profile.path == "union"
        assert told.profile.segments == 2
        assert 0 < told.profile.ranges <= 8 + 8  # whole vectors of them
        assert told.profile.ranges_total == 8 + 6
        assert told.profile.found == told.total.value
        assert "union over 2 segments" in str(told.profile)
        query, = told.to_dict()["profile"]["shards"][0]["searches"][0]["query"]
        assert query["type"] == "union"
        assert query["breakdown"]["ranges_count"] == told.profile.ranges
        assert query["time_in_nanos"] > 0
        assert index.search(q.Match("text", common), profile=True, sort="n").profile.path == "exhaustive"
        by_body = index.search({"query": {"match_phrase": {"text": f"{common} {common}"}}, "profile": True})
        assert by_body.profile.path == "phrase"


def test_a_profile_tells_the_granules_that_a_range_reads(tmp_path: Path) -> None:
    with qc.create(tmp_path / "index", MAPPING, settings={"index.refresh_interval": -1}) as index:
        index.bulk([{"text": "a", "n": n} for n in range(40_000)])
        index.merge()
        term = q.Term("text", "a")
        for low, high, read in ((0, 39_999, 0), (100, 200, 1), (8_000, 30_000, 2), (50_000, 60_000, 0)):
            narrow = q.Range("n", gte=low, lte=high)
            for query in (q.Bool(must=(term,), filter=(narrow,)), narrow, q.ConstantScore(~narrow)):
                told = index.search(query, profile=True).profile
                assert (told.granules, told.granules_total) == (read, 5), query
                assert f"granules  {read} of 5 read" in str(told) == repr(told)
                assert f"granules  {read} of 5 read" in told._repr_html_()
        told = index.search(term, profile=True).profile
        assert told.granules is None
        assert "granules" not in str(told)


def test_damaged_bytes_end_in_an_error() -> None:
    """In a child process, since the failure that this looks for is a crash."""
    for first in (0, 500):
        command = [sys.executable, __file__, str(first), "500"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]


def damage(first: int, trials: int) -> None:
    """Search a segment in memory with wrong bytes in it: an answer or CorruptIndexError, nothing else."""
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        index = write(Path(directory) / "index", 1, segments=(2500,), deleted=0.0)
        index.merge()
        view = index.reader().view
        segment = view.leaves[0].segment
        names = [name for name in segment.sections.names() if name.split("/")[0] in (
            "postings", "positions", "blocks.last", "blocks.offset", "blocks.width", "blocks.position")
            and name.endswith("/text")]
        copies = {name: segment.sections.section(name).data.copy() for name in names}
        for seed in range(first, first + trials):
            rng = random.Random(seed)
            name = rng.choice(names)
            data = copies[name]
            spoiled = _Spoiled(segment.sections, name, data, rng)
            hurt = type(segment)(segment.key, segment.docs, segment.fields.values(), spoiled, stored=segment.stored)
            leaf = type(view.leaves[0])(hurt)
            other = View([leaf], view.mapping, view.settings, view.name)
            for query, _ in zip(queries(rng, ["aaa baa caa daa"]), range(20), strict=False):
                try:
                    ready = best.prepared(query, other)
                    if isinstance(ready, best.Prepared):
                        ready.best(10)
                        ready.number()
                except qc.errors.CorruptIndexError:
                    pass
        index.close()


class _Spoiled:
    """The sections of a segment, one of them with a few wrong bytes."""

    def __init__(self, sections: Any, name: str, data: Any, rng: random.Random) -> None:
        self._sections, self._name = sections, name
        whole = np.zeros(data.size + 64, np.uint8)
        whole[: data.size] = data
        for _ in range(rng.choice((1, 1, 5, 200))):
            whole[rng.randrange(data.size)] = rng.randrange(256)
        self._data = whole[: data.size]

    def __contains__(self, name: str) -> bool:
        return name in self._sections

    def names(self) -> Any:
        return self._sections.names()

    def size(self, name: str) -> int:
        return int(self._sections.size(name))

    def need(self, name: str, start: int, length: int) -> None:
        self._sections.need(name, start, length)

    def need_all(self, name: str, ranges: Any) -> None:
        self._sections.need_all(name, ranges)

    def address(self, name: str) -> int:
        return self._data.__array_interface__["data"][0] if name == self._name else self._sections.address(name)

    def section(self, name: str) -> Any:
        found = self._sections.section(name)
        return found._replace(data=self._data) if name == self._name else found

    def part(self, name: str, ranges: Any) -> Any:
        return self.section(name)

    def lasting(self, name: str) -> bool:
        return True


if __name__ == "__main__":
    damage(int(sys.argv[1]), int(sys.argv[2]))


def test_scores_that_float32_hardly_holds(tmp_path: Path) -> None:
    """Bounds would be lost among numbers without all their bits, or become infinite: the exhaustive way holds."""
    with write(tmp_path / "index", 3, segments=(2000,), deleted=0.0) as index, index.reader() as reader:
        common, other, rare = (vocabulary(600)[at] for at in (0, 1, 200))
        for boost in (1e-45, 1e-38, 1e37):
            for query in (
                q.Match("text", common, boost=boost), q.MatchPhrase("text", f"{common} {other}", boost=boost),
                q.Bool(must=(q.Match("text", common, boost=boost), q.Match("text", other))),
                q.Bool(should=(q.Match("text", rare, boost=boost), q.Match("text", other, boost=boost))),
            ):
                best_ones, found = exhaustive(query, reader.view, 2000)
                result = index.search(query, size=2000, source=False, track_total_hits=True)
                assert result.total.value == len(result) == found > 0
                assert [hit.score for hit in result] == [score for score, _ in best_ones]


def test_what_is_remembered_of_queries_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_module, "_PREPARED", 200_000)
    words = vocabulary(600)
    with write(tmp_path / "index", 3, segments=(300, 200), deleted=0.0) as index, index.reader() as reader:
        for word in words[:100]:
            reader.search(q.Match("text", word))
        assert len(reader.view.prepared) == 100
        for start in range(100):
            reader.search(q.Match("text", " ".join(words[start : start + 100])))
        assert len(reader.view.prepared) < 10

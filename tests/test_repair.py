"""Repairing an index: whatever is whole is in the new one, and what is not is named."""

from __future__ import annotations

import hashlib
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import quidditch_core as qc
from quidditch_core.errors import IndexExistsError, IndexNotFoundError, InvalidNameError, LockError, OutageError
from quidditch_core.index.check import check
from quidditch_core.index.mend import one_byte
from quidditch_core.index.repair import repair
from quidditch_core.result import RepairReport
from tests import damage
from tests.test_check import DELETED, SETTINGS, SOME, build, entries, first

Documents = dict[str, dict[str, Any]]


def read(path: Path) -> Documents:
    """All documents of an index, by opening it."""
    with qc.open(path) as index:
        return {hit.id: hit.source for hit in index.search(size=1000)}


def files(path: Path) -> dict[str, str]:
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in path.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Documents]]:
    """What a killed writer leaves, with more in its log than in ``test_check``; and what must come back."""
    path = tmp_path_factory.mktemp("repair") / "books"
    index = build(path)
    index.delete("doc-8")
    index.put_mapping({"properties": {"later": {"type": "long"}}})
    index.put("doc-9", {"body": "again", "later": 7})
    index.put_settings({"max_result_window": 5000})
    copy = path.with_name("copy")
    shutil.copytree(path, copy)
    (copy / "write.lock").unlink()
    opened = Path(shutil.copytree(copy, path.with_name("opened")))
    yield copy, read(opened)
    index.close()


@pytest.fixture
def index(whole: tuple[Path, Documents], tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole[0], tmp_path / "books"))


@pytest.fixture
def good(whole: tuple[Path, Documents]) -> Documents:
    return whole[1]


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "new"


def unit(file: Path, number: int) -> tuple[int, int, list[int]]:
    """Where a stored unit begins and ends in the file, and its documents."""
    places = damage.places(file)
    data = file.read_bytes()
    table = {entry.name: entry for entry in damage.contents(file).sections}

    def ints(name: str) -> list[int]:
        entry = table[name]
        raw = np.frombuffer(data[slice(*places[name])], f"<u{entry.width}")
        return [int(value) + entry.base for value in raw]

    starts, firsts, base = ints("stored.start"), ints("stored.first"), places["stored"][0]
    return base + starts[number], base + starts[number + 1], list(range(firsts[number], firsts[number + 1]))


# --- nothing is lost -------------------------------------------------------------------------------------------


def test_a_whole_index(index: Path, good: Documents, to: Path) -> None:
    before = files(index)
    report = repair(index, to)
    assert (report.salvaged, report.lost, report.unknown, report.mended) == (len(good), [], [], [])
    assert report.mapping == damage.newest(index).name
    assert files(index) == before
    assert read(to) == good
    with qc.open(to) as repaired, qc.open(index) as old:
        assert repaired.mapping == old.mapping
        assert repaired.settings == old.settings
        assert repaired.settings.max_result_window == 5000
        assert repaired.search({"query": {"match": {"body": "again"}}})[0].id == "doc-9"
    assert check(to).ok


def test_any_one_wrong_byte(index: Path, good: Documents, to: Path) -> None:
    """In whatever file, at whatever place: no document is lost, none is doubtful."""
    rng = Random(5)
    trials: list[tuple[Path, int]] = []
    for file in sorted(file for file in index.rglob("*") if file.is_file()):
        size = file.stat().st_size
        places = {0, 6, size - 1, *(rng.randrange(size) for _ in range(4))}
        if file.name.startswith("seg-"):
            places |= {rng.randrange(*place) for place in damage.places(file).values() if place[0] < place[1]}
        trials += [(file, at) for at in sorted(places)]
    for file, at in rng.sample(trials, 35):
        content = file.read_bytes()
        damage.flip(file, at, rng.randrange(1, 256))
        report = repair(index, to)
        assert (report.lost, report.unknown) == ([], []), (file.name, at, report)
        assert report.mended or file.name.startswith("translog"), (file.name, at)
        assert read(to) == good, (file.name, at)
        shutil.rmtree(to)
        file.write_bytes(content)


def test_one_wrong_byte_in_several_pages(tmp_path: Path, to: Path) -> None:
    rng = Random(1)
    with qc.create(tmp_path / "books", settings=SETTINGS) as index:
        for number in range(60):
            index.put(str(number), {"noise": rng.randbytes(4000).hex()})
    file = next((tmp_path / "books" / "segments").iterdir())
    assert file.stat().st_size > 4 * 65536
    for page in range(4):
        damage.flip(file, 65536 * page + rng.randrange(65536))
    report = repair(tmp_path / "books", to)
    assert len(report.mended) == 4
    assert (report.salvaged, report.lost) == (60, [])


def test_a_mask_that_is_gone_where_documents_were_only_replaced(tmp_path: Path, to: Path) -> None:
    """The numbers tell: as many lived as were not replaced."""
    with qc.create(tmp_path / "books", settings=SETTINGS) as index:
        for round in range(2):
            for number in range(10, 20 - 5 * round):
                index.put(str(number), {"round": round})
            index.flush()
    next((tmp_path / "books" / "segments").glob("live-*")).unlink()
    report = repair(tmp_path / "books", to)
    assert (report.salvaged, report.lost, report.unknown) == (10, [], [])
    assert {id: doc["round"] for id, doc in read(to).items()} == {str(n): int(n < 15) for n in range(10, 20)}


# --- something is lost -----------------------------------------------------------------------------------------


def test_a_lost_unit(index: Path, good: Documents, to: Path) -> None:
    """All other documents come back, and those of the unit are named, but the deleted ones."""
    file = first(index)
    start, stop, docs = unit(file, 1)
    damage.wipe(file, start + 8, stop - 8)
    report = repair(index, to)
    ids = [id for number, id in enumerate(SOME) if number in docs]
    gone = {id for id in ids if id in good and id not in ("doc-5", "doc-8", "doc-9")}
    assert {id for lost in report.lost for id in lost.ids} == gone
    assert report.lost_docs == len(gone)
    assert all(lost.segment == file.name and "does not decompress" in lost.why for lost in report.lost)
    assert read(to) == {id: doc for id, doc in good.items() if id not in gone}
    assert f"{len(gone)} lost" in str(report)


def test_lost_ids(index: Path, good: Documents, to: Path) -> None:
    """A document without its id is kept under another, which says where it was."""
    start, _ = damage.places(first(index))["ids"]
    damage.wipe(first(index), start + 20, start + 60)
    report = repair(index, to)
    found = read(to)
    strangers = {id: doc for id, doc in found.items() if id.startswith("lost+found/")}
    assert strangers
    assert {id for unknown in report.unknown for id in unknown.ids} == set(strangers)
    assert {id: doc for id, doc in found.items() if id not in strangers}.items() <= good.items()
    missing = [doc for id, doc in good.items() if id not in found]
    assert all(doc in strangers.values() for doc in missing)
    assert report.lost == []


def test_lost_ids_of_a_coded_section(tmp_path: Path, to: Path) -> None:
    """Only the granule that is damaged is lost."""
    docs = {f"{Random(n).getrandbits(64):016x}": {"n": n} for n in range(2000)}
    index = tmp_path / "coded"
    with qc.create(index, settings={"codec": "diagon_best_compression"}) as opened:
        opened.bulk(({"id": id, **doc} for id, doc in docs.items()), id="id")
        opened.flush()
    start, stop = damage.places(first(index))["ids"]
    assert stop - start < 16 * 2000
    damage.wipe(first(index), start + 40, start + 80)
    repair(index, to)
    with qc.open(to) as opened:
        found = {hit.id: hit.source for hit in opened.search(size=3000)}
    strangers = {id for id in found if id.startswith("lost+found/")}
    assert len(found) == 2000
    assert 8192 // 16 <= len(strangers) <= 8192 // 16 + 1
    assert {doc["n"] for doc in found.values()} == set(range(2000))
    assert all(found[id]["n"] == docs[id]["n"] for id in found.keys() - strangers)


def test_a_mask_that_is_gone(index: Path, good: Documents, to: Path) -> None:
    """What was deleted may have lived: it is salvaged, and said to be doubtful."""
    next(index.glob("segments/live-*")).unlink()
    report = repair(index, to)
    assert report.lost == []
    assert set(read(to)) == {*good, *DELETED}
    doubtful = {id for unknown in report.unknown for id in unknown.ids}
    assert set(DELETED) <= doubtful
    assert "doc-5" not in doubtful  # replaced, by a segment whose mask is there


def test_a_segment_that_is_gone(index: Path, good: Documents, to: Path) -> None:
    name = entries(index)[0].name
    first(index).unlink()
    report = repair(index, to)
    [lost] = report.lost
    live = entries(index)[0].live_docs
    assert (lost.segment, lost.start, lost.stop, lost.count, lost.ids) == (name, 0, 150, live, ())
    assert set(read(to)) == {"doc-5", "doc-9", "logged"}


def test_damage_of_any_size(index: Path, good: Documents, to: Path) -> None:
    """What is salvaged is as it was, and together with what is lost it is all there was."""
    rng = Random(3)
    file = first(index)
    content = file.read_bytes()
    for _ in range(12):
        start = rng.randrange(len(content))
        damage.wipe(file, start, min(start + rng.choice([2, 9, 60, 512, 4096]), len(content)))
        report = repair(index, to)
        found = read(to)
        strangers = {id for id in found if id.startswith("lost+found/")}
        lost = {id for documents in report.lost for id in documents.ids}
        assert {id: doc for id, doc in found.items() if id not in strangers}.items() <= good.items()
        assert lost.isdisjoint(found)
        assert report.salvaged == len(found)
        if not strangers and all(documents.ids for documents in report.lost):
            assert {*found, *lost} == set(good)
        shutil.rmtree(to)
        file.write_bytes(content)


def test_documents_that_a_mapping_refuses(index: Path, to: Path) -> None:
    report = repair(index, to, mapping={"properties": {"flag": {"type": "date"}}})
    assert report.mapping == "the caller"
    assert report.salvaged == len(read(to))
    assert report.lost
    assert all("the mapping refuses it: flag" in lost.why for lost in report.lost if lost.segment != "translog")


# --- manifests -------------------------------------------------------------------------------------------------


def test_no_manifest(index: Path, good: Documents, to: Path) -> None:
    """Types and analyzers are made up from the segments; nobody knows what was deleted."""
    damage.wipe(damage.newest(index), 0, 400)
    report = repair(index, to)
    assert report.mapping == "the fields of the segments"
    assert set(read(to)) == {*good, *DELETED}
    assert any(unknown.segment == damage.newest(index).name for unknown in report.unknown)
    assert set(DELETED) <= {id for unknown in report.unknown for id in unknown.ids}
    with qc.open(to) as repaired:
        assert repaired.mapping.fields["note"].analyzer == "english"
        assert repaired.search({"query": {"match": {"note": "storms"}}}).total.value > 10
        assert repaired.mapping.fields["prices"].type == "double"


def test_multi_fields_without_a_manifest(tmp_path: Path, to: Path) -> None:
    with qc.create(tmp_path / "books", settings=SETTINGS) as index:
        index.put("a", {"title": "The Sea", "author": {"name": "Jack", "born": 1876}})
        mapping = index.mapping
    damage.newest(tmp_path / "books").unlink()
    assert repair(tmp_path / "books", to).salvaged == 1
    with qc.open(to) as repaired:
        assert set(repaired.mapping.fields) == set(mapping.fields)
        assert repaired.count({"term": {"author.name.keyword": "Jack"}}) == 1
    with pytest.raises(IndexNotFoundError):
        repair(tmp_path / "nowhere", tmp_path / "other")


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[Path]:
    """An index whose first commit a reader holds: documents 0 to 9, then 5 to 14 anew, 0 deleted, all merged."""
    path = tmp_path / "followed"
    with qc.create(path, settings=SETTINGS) as index:
        for number in range(10):
            index.put(str(number), {"round": 0, "noise": Random(number).randbytes(900).hex()})
        index.flush()
        with qc.open(path, read_only=True):
            for number in range(5, 15):
                index.put(str(number), {"round": 1, "noise": Random(-number).randbytes(900).hex()})
            index.delete("0")
            index.merge(1)
            yield Path(shutil.copytree(path, tmp_path / "copy"))


def rounds(path: Path) -> dict[str, int]:
    return {id: doc["round"] for id, doc in read(path).items()}


NOW = {str(number): int(number >= 5) for number in range(1, 15)}


def test_an_older_manifest(followed: Path, to: Path) -> None:
    """The newest is lost: its segment is there all the same; only what was deleted since is not known."""
    shutil.rmtree(followed / "translog")
    damage.wipe(damage.newest(followed), 0, 200)
    report = repair(followed, to)
    assert report.mapping == min(followed.glob("manifest-*")).name
    assert rounds(to) == {**NOW, "0": 0}
    assert "what was deleted after operation 9 is not known" in str(report)


def test_a_copy_elsewhere(followed: Path, to: Path) -> None:
    """A unit of the merged segment is lost, and one of its sources still has the same document."""
    file = first(followed)
    start, stop, docs = unit(file, 0)
    assert docs
    damage.wipe(file, start + 8, stop - 8)
    report = repair(followed, to)
    assert rounds(to) == {id: round for id, round in NOW.items() if id not in {i for d in report.lost for i in d.ids}}
    assert "1" in read(to)


def test_a_segment_that_an_older_commit_has_parts_of(followed: Path, to: Path) -> None:
    [entry] = entries(followed)
    damage.blob(followed, entry.name).unlink()
    report = repair(followed, to)
    assert rounds(to) == dict.fromkeys(map(str, range(10)), 0)
    [lost] = report.lost
    assert (lost.segment, lost.count, lost.why) == (entry.name, 14, "blob is missing")
    assert {id for unknown in report.unknown for id in unknown.ids} == set(map(str, range(10)))


# --- the log ---------------------------------------------------------------------------------------------------


def test_a_log_that_is_damaged(index: Path, good: Documents, to: Path) -> None:
    """The operations behind a lost batch are not lost, and those in it are numbered."""
    [log] = index.glob("translog/translog-*")
    at = log.read_bytes().index(b"not flushed")
    damage.wipe(log, at, at + 8)
    report = repair(index, to)
    expected = {**good}
    del expected["logged"]
    assert read(to) == expected
    assert "operations 154 to 154 are not in the log" in str(report)


def test_a_log_that_is_longer_than_its_batches(index: Path, good: Documents, to: Path) -> None:
    [log] = index.glob("translog/translog-*")
    log.write_bytes(log.read_bytes() + bytes(5_000))
    assert check(index).ok
    report = repair(index, to)
    assert (report.lost, report.unknown, report.mended) == ([], [], [])
    assert read(to) == good


def test_a_log_that_is_older_than_the_segments(tmp_path: Path, to: Path) -> None:
    """Without a manifest nobody knows where the log begins; what is newer counts all the same."""
    path = tmp_path / "books"
    with qc.create(path, settings=SETTINGS) as index:
        index.put("a", {"n": 1})
        index.put("b", {"n": 1})
        log = shutil.copytree(path / "translog", tmp_path / "log")
        index.flush()
        index.put("a", {"n": 2})
        index.delete("b")
    damage.newest(path).unlink()
    shutil.rmtree(path / "translog")
    shutil.copytree(log, path / "translog")
    repair(path, to)
    assert read(to) == {"a": {"n": 2}, "b": {"n": 1}}


# --- the way it is done ----------------------------------------------------------------------------------------


def test_where_it_may_go(index: Path, to: Path) -> None:
    for target in (index, index / "within", index.parent):
        with pytest.raises(InvalidNameError):
            repair(index, target)
    to.mkdir()
    (to / "something").touch()
    with pytest.raises(IndexExistsError):
        repair(index, to)
    (to / "something").unlink()
    to.with_name("new.partial").mkdir()
    with pytest.raises(IndexExistsError, match="broken off"):
        repair(index, to)
    to.with_name("new.partial").rmdir()
    assert repair(index, to).salvaged == len(read(to))


def test_a_writer_is_in_the_way(tmp_path: Path, to: Path) -> None:
    with qc.create(tmp_path / "books", settings=SETTINGS) as index:
        index.put("a", {"n": 1})
        with pytest.raises(LockError, match="is writing this index"):
            repair(tmp_path / "books", to)
    assert repair(tmp_path / "books", to).salvaged == 1


def test_nothing_is_written_without_consent(index: Path, good: Documents, to: Path) -> None:
    asked: list[RepairReport] = []

    def no(report: RepairReport) -> bool:
        asked.append(report)
        return False

    seen: list[tuple[int, int]] = []
    report = repair(index, to, confirm=no, progress=lambda done, total: seen.append((done, total)))
    assert (asked[0].salvaged, report.salvaged) == (len(good), len(good))
    assert not to.exists()
    assert seen[-1][0] == seen[-1][1] == sum(entry.size for entry in entries(index))


def test_the_command(index: Path, tmp_path: Path) -> None:
    app = pytest.importorskip("quidditch_core.cli").app
    run = pytest.importorskip("typer.testing").CliRunner().invoke
    start, stop, _ = unit(first(index), 0)
    damage.wipe(first(index), start + 8, stop - 8)
    declined = run(app, ["repair", str(index)], input="n\n")
    assert declined.exit_code == 1
    assert not index.with_name("books.repaired").exists()
    done = run(app, ["repair", str(index), "--yes"])
    assert done.exit_code == 0, done.output
    assert "lost: seg-000000000000:" in done.output
    assert check(index.with_name("books.repaired")).ok
    assert run(app, ["repair", str(index), "--to", str(tmp_path / "new"), "--yes"]).exit_code == 0
    again = run(app, ["repair", str(index), "--yes"])
    assert again.exit_code == 1
    assert "there is something already" in again.output


def test_one_byte_is_found_from_a_checksum() -> None:
    rng = Random(2)
    for size in (1, 2, 50, 3000):
        data = bytearray(rng.randbytes(size))
        before = zlib.crc32(data)
        at, value = rng.randrange(size), rng.randrange(1, 256)
        data[at] ^= value
        assert (at, value) in set(one_byte(size, before ^ zlib.crc32(data)))
    assert list(one_byte(50, 0)) == []


# --- tiers -----------------------------------------------------------------------------------------------------


@pytest.fixture
def tiered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index with a segment in each tier, deleted documents in each, and more in its log."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tiers = qc.Tiers(warm=str(tmp_path / "warm"), cold=f"file://{tmp_path}/cold")
    index = qc.create(tmp_path / "books", {"properties": {"n": {"type": "integer"}}}, tiers=tiers,
                      settings={"index.refresh_interval": -1})
    for tier in ("cold", "warm", "hot"):
        index.bulk([{"id": f"{tier}-{n}", "n": n} for n in range(40)], id="id")
        index.flush()
        index.move(to=tier, segments=[index.segments()[-1].name])
    for tier in ("cold", "warm", "hot"):
        index.delete(f"{tier}-7")
    index.flush()
    index.put("cold-8", {"n": 800})
    copy = Path(shutil.copytree(tmp_path / "books", tmp_path / "copy"))
    index.close()
    return copy


def test_segments_of_all_tiers_are_repaired(tiered: Path, to: Path) -> None:
    good = {id: {"id": id, "n": n} for tier in ("hot", "warm", "cold") for n in range(40) if n != 7
            for id in [f"{tier}-{n}"]}
    good["cold-8"] = {"n": 800}
    report = repair(tiered, to)
    assert (report.salvaged, report.lost, report.unknown) == (len(good), [], [])
    assert read(to) == good
    with qc.open(to) as repaired:
        assert {info.tier for info in repaired.segments()} == {"hot"}


@pytest.mark.parametrize("tier", ["warm", "cold"])
def test_damage_in_another_tier(tiered: Path, to: Path, tmp_path: Path, tier: str) -> None:
    """One wrong byte is put right; of a segment that is cut or gone what is lost is said."""
    file = next(path for path in (tmp_path / tier).rglob("seg-*"))
    raw = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(raw[:3000] + bytes([raw[3000] ^ 8]) + raw[3001:])
    report = repair(tiered, to)
    assert (report.salvaged, report.lost) == (117, [])
    assert [file.name in one for one in report.mended] == [True]
    shutil.rmtree(to)
    file.unlink()
    report = repair(tiered, to)
    assert report.salvaged == 117 - 39 + (tier == "cold")
    assert [(one.segment, one.count) for one in report.lost] == [(file.name, 39)]


def test_a_store_that_does_not_answer_is_not_damage(
    tiered: Path, to: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    from quidditch_core.tiering import store

    def down(self: Any, *_: Any) -> Any:
        raise OutageError("as the script says")

    for call in ("list", "size", "read"):
        with monkeypatch.context() as patch:
            patch.setattr(store.FsspecStore, call, down)
            with pytest.raises(OutageError):
                repair(tiered, to)
            if call != "list":
                with pytest.raises(OutageError):
                    check(tiered)
        assert not to.exists()

"""Checking an index: a whole one has no problems; any damage is found, named, and does no harm to who looks."""

from __future__ import annotations

import dataclasses
import errno
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quidditch_core as qc
from quidditch_core.errors import IndexNotFoundError, InvalidNameError, StorageError
from quidditch_core.files import OS_FILES, OsFile, storage_error
from quidditch_core.index import facade
from quidditch_core.index.check import check, check_index
from quidditch_core.index.findings import Findings
from quidditch_core.index.manifest import SegmentEntry
from quidditch_core.index.verify import verify
from quidditch_core.index.view import View
from quidditch_core.result import CheckReport
from quidditch_core.segment import RamSections, Segment
from quidditch_core.tiering.testing import CrashFiles
from tests import damage
from tests.properties import strategies as some
from tests.test_format import DOCUMENTS, MAPPING

SETTINGS = {"refresh_interval": -1}
DELETED = ("doc-3", "doc-77", "doc-78")
SOME = dict(list(DOCUMENTS.items())[:150])


def build(path: Path) -> Any:
    """An open index: a segment with a live mask, a second one, and operations in the log."""
    index = qc.create(path, MAPPING, settings=SETTINGS)
    assert not index.bulk(({"id": id, **doc} for id, doc in SOME.items()), id="id").failed
    index.flush()
    for id in DELETED:
        index.delete(id)
    index.put("doc-5", {"body": "all anew", "tag": "sea"})
    index.flush()
    index.put("logged", {"body": "not flushed"})
    return index


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What a killed writer leaves: an index whose last operation is in the log only."""
    path = tmp_path_factory.mktemp("check") / "books"
    index = build(path)
    copy = path.with_name("copy")
    shutil.copytree(path, copy)
    yield copy
    index.close()


@pytest.fixture
def index(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "books"))


def entries(index: Path) -> tuple[SegmentEntry, ...]:
    return damage.read_manifest(index).segments


def first(index: Path) -> Path:
    """The file of the first segment."""
    return damage.blob(index, entries(index)[0].name)


def named(report: CheckReport) -> set[tuple[str, str]]:
    return {(problem.segment, section) for problem in report.problems for section in problem.section.split(", ")}


def whats(report: CheckReport) -> str:
    return "\n".join(map(str, report.problems))


# --- what is whole ---------------------------------------------------------------------------------------------


def test_a_whole_index_has_no_problems(whole: Path) -> None:
    report = check(whole)
    assert report.ok, report
    assert (report.segments, report.docs) == (2, 151)
    sizes = [entry.size + (entry.live.size if entry.live else 0) for entry in entries(whole)]
    assert report.bytes == sum(sizes)
    assert "no problems" in str(report)


def test_a_live_index(tmp_path: Path) -> None:
    """Buffer, segments in memory, deletes that no manifest has; then merged, then read by somebody else."""
    with build(tmp_path / "books") as index:
        assert index.check().ok
        index.delete("doc-9")
        index.refresh()
        index.put("buffered", {"body": "waits"})
        report = index.check()
        assert report.ok, report
        assert report.segments == 3
        with qc.open(index.path, read_only=True) as reader:
            index.merge(1)
            assert reader.check().ok  # of the commit that there is now, and of the view that is older
            assert index.check().ok


def test_while_it_is_written(tmp_path: Path) -> None:
    """Flushes, merges and rotations of the log in the middle of a check are no damage."""
    rng = Random(4)
    with qc.create(tmp_path / "books", some.MAPPING, settings=SETTINGS) as index:
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                for _ in range(20):
                    index.put(f"k{rng.randrange(60)}", {"body": "the sea " * rng.randrange(9), "n": rng.randrange(9)})
                    index.delete(f"k{rng.randrange(60)}")
                rng.choice([index.refresh, index.flush, index.flush, index.merge])()

        writer = threading.Thread(target=write)
        writer.start()
        try:
            while writer.is_alive() and index.stats()["generation"] < 30:
                for report in (index.check(), check(tmp_path / "books")):
                    assert report.ok, report
            assert writer.is_alive()
        finally:
            stop.set()
            writer.join()


def test_an_empty_index(tmp_path: Path) -> None:
    with qc.create(tmp_path / "empty", settings=SETTINGS) as index:
        assert index.check().ok
    assert check(tmp_path / "empty").ok


def test_progress_goes_to_the_end(whole: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = check(whole, progress=lambda read, total: seen.append((read, total)))
    assert [read for read, _ in seen] == sorted(read for read, _ in seen)
    assert seen[-1] == (report.bytes, report.bytes)


def test_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(IndexNotFoundError):
        check(tmp_path)
    with pytest.raises(InvalidNameError):
        check(7)  # type: ignore[arg-type]


operations = st.lists(
    st.one_of(
        st.tuples(st.just("put"), some.ids, some.documents),
        st.tuples(st.just("delete"), some.ids),
        st.tuples(st.sampled_from(["refresh", "flush", "merge"])),
    ),
    min_size=5, max_size=60)


@settings(max_examples=30 if settings.get_current_profile_name() == "ci" else settings().max_examples)
@given(history=operations)
def test_after_any_history(history: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        with qc.create(f"{directory}/books", some.MAPPING, settings=SETTINGS) as index:
            for verb, *arguments in history:
                getattr(index, verb)(*arguments)
            report = index.check()
            assert report.ok, report
        report = check(f"{directory}/books")
        assert report.ok, report


# --- one wrong byte --------------------------------------------------------------------------------------------


def test_every_section_of_every_segment(index: Path) -> None:
    """The first byte and the last: found, and named by segment and section."""
    for entry in entries(index):
        file = damage.blob(index, entry.name)
        good = file.read_bytes()
        for section, (start, stop) in damage.places(file).items():
            for at in sorted({start, stop - 1} if stop > start else ()):
                damage.flip(file, at)
                report = check(index)
                assert (entry.name, section) in named(report), (entry.name, section, at, report)
                assert any(f"byte {at} is" in str(problem.found) for problem in report.problems)
                file.write_bytes(good)
    assert check(index).ok


def test_what_is_in_no_section(index: Path) -> None:
    """Padding, page checksums, table of contents, footer."""
    file, entry = first(index), entries(index)[0]
    good = file.read_bytes()
    contents = damage.contents(file)
    places = {
        entry.tail_offset - 1: "padding",
        entry.tail_offset + contents.checksums: "tail",
        len(good) - damage.FOOTER - 8: "tail",
        len(good) - damage.FOOTER - 20: "tail",
        len(good) - damage.FOOTER + 4: "footer",
        len(good) - 1: "footer",
    }
    for at, section in places.items():
        damage.flip(file, at)
        report = check(index)
        assert (entry.name, section) in named(report), (at, report)
        file.write_bytes(good)
    damage.flip(file, len(good) - damage.FOOTER, 1)
    assert "newer version" in whats(check(index))


@pytest.mark.parametrize("pattern", ["manifest-*", "segments/live-*", "translog/translog-*"])
def test_other_files(index: Path, pattern: str) -> None:
    [file] = index.glob(pattern)
    good = file.read_bytes()
    # The last batch of a log may always be one that was being written, so it proves nothing.
    for at in range(0, 60 if pattern.startswith("translog") else len(good), 1 + len(good) // 40):
        damage.flip(file, at)
        report = check(index)
        assert any(problem.segment.endswith(file.name) for problem in report.problems), (at, report)
        file.write_bytes(good)


# --- files -----------------------------------------------------------------------------------------------------


def test_files_that_are_missing_cut_or_too_long(index: Path) -> None:
    file, name = first(index), entries(index)[0].name
    live = next(index.glob("segments/live-*"))
    good = file.read_bytes()
    for size in (0, 1, 31, 32, len(good) // 2, len(good) - 1):
        file.write_bytes(good[:size])
        assert any(problem.segment == name for problem in check(index).problems), size
    file.write_bytes(good + b"more")
    report = check(index)
    assert "wrong length" in whats(report)
    assert len(report.problems) == 1
    file.unlink()
    live.unlink()
    assert {problem.segment for problem in check(index).problems} == {name, live.name}


def test_a_damaged_manifest_hides_no_damaged_segment(index: Path) -> None:
    segment, manifest = first(index), damage.newest(index)
    damage.wipe(manifest, 60, 90)
    damage.wipe(segment, 100, 200)
    assert {problem.segment for problem in check(index).problems} == {manifest.name, segment.name}
    damage.newest(index).unlink()
    assert "no manifest" in whats(check(index))


def test_a_disk_that_fails(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be read is a problem, and what can be read is checked all the same."""
    read = OsFile.pread
    file = first(index)

    def failing(self: OsFile, offset: int, size: int) -> bytes:
        if self.path.endswith(file.name) and offset < 100 < offset + size:
            raise storage_error("read", self.path, OSError(errno.EIO, "as the test says"))
        return read(self, offset, size)

    monkeypatch.setattr(OsFile, "pread", failing)
    report = check(index)
    assert "EIO" in whats(report)
    assert {problem.segment for problem in report.problems} == {file.name}


def test_all_problems_are_reported(index: Path) -> None:
    """Lost sectors in both segments, and a live mask: each is named, and so is what they mean."""
    names = [entry.name for entry in entries(index)]
    for name in names:
        start, stop = damage.places(damage.blob(index, name))["stored"]
        damage.wipe(damage.blob(index, name), start + 20, min(start + 40, stop))
    live = next(index.glob("segments/live-*"))
    damage.wipe(live, 20, 24)
    report = check(index)
    assert {problem.segment for problem in report.problems} == {*names, live.name}
    assert whats(report).count("a unit of documents cannot be read") == 2
    assert f"{len(report.problems)} problems" in str(report)


# --- contradictions: all checksums fit, and yet something is wrong ----------------------------------------------

STRICT = ("blocks.last", "blocks.offset", "blocks.width", "blocks.position", "norms", "postings", "terms.sparse",
          "terms.first", "terms.first.offset", "exists", "ids", "ids.start", "ids.hash", "ids.doc",
          "stored", "stored.start", "stored.first", "column.min", "column.max", "column.start")
"""Sections of which no byte can be another one without a contradiction."""


def test_bytes_that_contradict_others(index: Path) -> None:
    rng = Random(7)
    file, manifest = first(index), damage.newest(index)
    good, committed = file.read_bytes(), manifest.read_bytes()
    for section, (start, stop) in damage.places(file).items():
        if section.partition("/")[0] in STRICT and stop > start:
            damage.flip(file, rng.randrange(start, stop), 1 << rng.randrange(8))
            damage.reseal(index)
            report = check(index)
            assert any(problem.segment == file.name for problem in report.problems), section
            frames = "doesn't match checksum"  # zstd's words; pages fit theirs
            assert "checksum" not in whats(report).replace(frames, "")
            file.write_bytes(good)
            manifest.write_bytes(committed)


@pytest.mark.parametrize("where", ["sections", "tail"])
def test_no_bytes_do_harm(index: Path, where: str) -> None:
    """Anything may be found or not; nothing but a report comes of it, and no warning."""
    rng = Random(11)
    file, manifest = first(index), damage.newest(index)
    good, committed = file.read_bytes(), manifest.read_bytes()
    tail = entries(index)[0].tail_offset
    for _ in range(40):
        low, high = (0, tail) if where == "sections" else (tail, len(good) - damage.FOOTER)
        for _ in range(rng.choice([1, 1, 3])):
            damage.flip(file, rng.randrange(low, high), rng.randrange(1, 256))
        damage.reseal(index)
        assert isinstance(check(index), CheckReport)
        file.write_bytes(good)
        manifest.write_bytes(committed)


def lie(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(body: dict[str, Any]) -> None:
        for key in path[:-1]:
            body = body[key]
        body[path[-1]] = value

    return change


@pytest.mark.parametrize(("change", "what"), [
    (lie("segments", 0, "min_seq_no", value=1), "least and greatest sequence number"),
    (lie("segments", 0, "sha256", value="0" * 64), "not the one that was committed"),
    (lie("segments", 0, "live_docs", value=140), "live mask and manifest disagree"),
    (lie("segments", 0, "tail_crc", value=7), "tail fails its checksum"),
    (lie("segments", 0, "tail_offset", value=64), "tail"),
    (lie("segments", 0, "tier", value="cold"), "tier that is not known"),
    (lie("segments", 1, "docs", value=2), "has deleted documents but no live mask"),
    (lie("segments", 0, "docs", value=151), "segment and manifest disagree on the number of documents"),
    (lie("mapping", "properties", "short", "type", value="long"), "disagree on the type of 'short'"),
    (lie("mapping", "properties", "short", "type", value="int"), "unknown field type"),
    (lie("settings", "index", "codec", value="best"), "the value does not fit"),
    (lie("next_blob", value=1), "a name that is there"),
    (lie("index_uuid", value="0" * 32), "log of another index"),
])
def test_a_manifest_that_lies(index: Path, change: Callable[[dict[str, Any]], None], what: str) -> None:
    damage.write_manifest(index, change)
    assert what in whats(check(index))


def test_an_id_that_lives_twice(index: Path) -> None:
    """A segment named a second time: each of its documents contradicts itself, and says so."""
    shutil.copy(damage.blob(index, entries(index)[1].name), damage.blob(index, "seg-000000000900"))

    def change(body: dict[str, Any]) -> None:
        body["segments"].append({**body["segments"][1], "name": "seg-000000000900"})
        body["next_blob"] = 901

    damage.write_manifest(index, change)
    report = check(index)
    assert {problem.what for problem in report.problems} == {"an id lives twice", "an operation made two documents"}
    assert "doc-5" in whats(report)


# --- segments in memory ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def refreshed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segment]:
    with qc.create(tmp_path_factory.mktemp("memory") / "books", MAPPING, settings=SETTINGS) as index:
        index.bulk(({"id": id, **doc} for id, doc in SOME.items()), id="id")
        index.refresh()
        [leaf] = index.reader().view.leaves
        yield leaf.segment


@pytest.fixture
def segment(refreshed: Segment) -> Segment:
    """A copy that may be changed."""
    sections = RamSections()
    for name in refreshed.sections.names():
        data, width, base, step = refreshed.sections.section(name)
        sections.put(name, data.tobytes(), width=width, base=base, step=step)
    return Segment("ram", refreshed.docs, refreshed.fields.values(), sections)


def test_a_segment_in_memory(segment: Segment) -> None:
    assert verified(segment) == ""


def verified(segment: Segment) -> str:
    """What is wrong with a segment, as text."""
    findings = Findings("ram")
    verify(segment, findings)
    return "\n".join(map(str, findings.problems))


@pytest.mark.parametrize(("section", "dtype", "change", "what"), [
    ("norms/body", "u1", lambda norm: norm + 1, "a norm is not the length of its document"),
    ("blocks.bound/body", "u1", lambda bound: bound - 1, "a block scores more than its bound"),
    ("blocks.bound/body", "u1", lambda bound: bound + 1, ""),
    ("exists/tag", "u8", lambda word: word ^ 1, "the number of documents that have the field is wrong"),
    ("column/tag", "u1", lambda code: code + 1, "an ordinal is not among the postings"),
    ("column.min/short", "i8", lambda least: least - 1, "a granule has another minimum"),
    ("column.start/prices", "u2", lambda start: start + 1, "the starts begin or end at a wrong place"),
    ("terms.first/tag", "u1", lambda letter: letter + 1, "the sparse index has another term than its block"),
    ("stored", "u1", lambda brace: ord("["), "a source is not a JSON object"),
    ("ids", "u1", lambda letter: 0xFF, "an id is not UTF-8"),
    ("ids.hash", "u4", lambda hash: hash - 1, "a hash is not that of its document's id"),
    ("ids.doc", "u4", lambda doc: 150, "a document does not occur exactly once"),
    ("positions/body", "u1", lambda position: position | 0x80, "positions"),
])
def test_a_value_that_contradicts_others(
    segment: Segment, section: str, dtype: str, change: Callable[[Any], Any], what: str,
) -> None:
    values = segment.sections.section(section).data
    values = values[: values.size - values.size % np.dtype(dtype).itemsize].view(dtype)
    values[0] = change(values[0])
    found = verified(segment)
    assert what in found if what else found == ""


@pytest.mark.parametrize(("field", "change", "what"), [
    ("body", {"sum_df": 7}, "sum_df of 'body' is wrong"),
    ("body", {"sum_ttf": 7}, "sum_ttf of 'body' is wrong"),
    ("body", {"doc_count": 7}, "doc_count of 'body' is wrong"),
    ("body", {"exists": 149}, "the section is missing"),
    ("body", {"terms": 7}, "wrong size"),
    ("body", {"terms": -1}, "wrong size"),
    ("body", {"number": 99}, "the field 'body' has a wrong number"),
    ("body", {"norms": False}, ""),
    ("body", {"bound_avgdl": 0.0}, "assume an impossible length"),
    ("body", {"column": "ord"}, "an impossible column"),
    ("note", {"norms": True}, "the section is missing"),
    ("tag", {"exists": 150, "doc_count": 150}, "presence and postings of a document disagree"),
    ("tag", {"multi_valued": False}, "a wrong number of values"),
    ("flag", {"column": "text"}, "an impossible column"),
    ("flag", {"column": "f64"}, "an impossible column"),
    ("flag", {"column": ""}, ""),
    ("prices", {"type": "long", "column": "i64"}, ""),
    ("wide", {"type": "short"}, "a code is no short"),
])
def test_a_field_that_counts_wrong(segment: Segment, field: str, change: dict[str, Any], what: str) -> None:
    fields = {**segment.fields, field: msgspec.structs.replace(segment.fields[field], **change)}
    found = verified(Segment(segment.key, segment.docs, fields.values(), segment.sections))
    assert what in found if what else found == ""


def test_a_live_mask_in_memory(tmp_path: Path) -> None:
    with build(tmp_path / "books") as index:
        view = index.reader().view
        words = np.full_like(view.leaves[0].accepted, 2**64 - 1)
        broken = View([dataclasses.replace(view.leaves[0], live=words), *view.leaves[1:]], view.mapping, view.settings,
                      view.name)
        report = check_index(OS_FILES, index.path, broken)
        assert "documents live that are not there" in whats(report)
        index.refresh()
        both = View([*view.leaves, view.leaves[0]], view.mapping, view.settings, view.name)
        assert "an id lives twice" in whats(check_index(OS_FILES, index.path, both))


# --- the command -----------------------------------------------------------------------------------------------


def test_the_command(index: Path) -> None:
    app = pytest.importorskip("quidditch_core.cli").app
    run = pytest.importorskip("typer.testing").CliRunner().invoke
    good = run(app, ["check", str(index)])
    assert good.exit_code == 0
    assert "2 segments, 151 documents" in good.output
    start, _ = damage.places(first(index))["norms/body"]
    damage.flip(first(index), start)
    bad = run(app, ["check", str(index)])
    assert bad.exit_code == 1
    assert f"{first(index).name}, norms/body: page 0 fails its checksum" in bad.output
    assert run(app, ["check", str(index / "nowhere")]).exit_code == 1


def test_what_the_log_could_not_take_leaves_no_problem() -> None:
    files = CrashFiles()
    index = facade._create(files, "/books", qc.Mapping.from_dict({}), qc.Settings.from_dict(SETTINGS), background=False)
    index.put("kept", {"n": 1})
    files.fail("pwrite", number=errno.ENOSPC, path="*/translog/*")
    with pytest.raises(StorageError):
        index.bulk([{"n": 2}, {"n": 3}])
    index.put("after", {"n": 4})
    assert index.check().problems == []
    with facade._open(files.after_crash(0, "kill"), "/books", background=False) as again:
        assert again.check().problems == []
        again.refresh()
        assert (again.count(), again.get("after").source) == (2, {"n": 4})  # type: ignore[union-attr]

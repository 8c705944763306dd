"""The commit point: what it promises to writers, readers and whoever damages its file."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quidditch_core.errors import (
    CorruptIndexError,
    FormatError,
    IndexClosedError,
    IndexNotFoundError,
    StorageError,
    WriterFailedError,
)
from quidditch_core.files import OS_FILES, File, Mode, OsFiles
from quidditch_core.index import manifest as m
from quidditch_core.index.manifest import LiveEntry, Manifest, SegmentEntry
from quidditch_core.tiering.local import LocalTier

replace = msgspec.structs.replace
SHA = "0123456789abcdef" * 4


def segment(name: str, **changes: Any) -> SegmentEntry:
    entry = SegmentEntry(name=name, tier="hot", size=5000, tail_offset=4096, tail_crc=0xFFFFFFFF, sha256=SHA,
                         docs=10, live_docs=10, min_seq_no=0, max_seq_no=9, created_ms=1_700_000_000_000)
    return replace(entry, **changes)


def manifest(generation: int = 1, *segments: SegmentEntry, **changes: Any) -> Manifest:
    made = Manifest(generation=generation, index_uuid="5b8c2f5e",
                    mapping={"properties": {"é": {"type": "text"}}}, mapping_version=1, settings={},
                    primary_term=1, max_seq_no=9, next_blob=7, log_generation=3, created_ms=1, committed_ms=2,
                    segments=segments)
    return replace(made, **changes)


def commit(directory: Path, made: Manifest) -> None:
    m.commit(OS_FILES, str(directory), made)


def load(directory: Path) -> Manifest:
    return m.load_newest(OS_FILES, str(directory))


class FaultyFiles(OsFiles):
    """Real files that record every change, and refuse the n-th."""

    def __init__(self, fail_at: int = 0) -> None:
        self.calls: list[str] = []
        self.fail_at = fail_at

    def step(self, call: str, path: str) -> None:
        self.calls.append(f"{call} {os.path.basename(path)}")
        if len(self.calls) == self.fail_at:
            raise StorageError("cannot go on", path=path)

    def open(self, path: str, mode: Mode) -> Any:
        self.step(f"open-{mode}", path)
        return FaultyFile(self, super().open(path, mode))

    def rename(self, old: str, new: str) -> None:
        self.step("rename", new)
        super().rename(old, new)

    def sync_dir(self, path: str) -> None:
        self.step("sync_dir", path)
        super().sync_dir(path)


class FaultyFile:
    def __init__(self, files: FaultyFiles, file: File) -> None:
        self._files = files
        self._file = file

    def append(self, data: bytes) -> None:
        self._files.step("append", self._file.path)
        self._file.append(data)

    def fsync(self) -> None:
        self._files.step("fsync", self._file.path)
        self._file.fsync()

    def close(self) -> None:
        self._file.close()


def test_round_trip(tmp_path: Path) -> None:
    made = manifest(
        42, segment("seg-1", live_docs=7, live=LiveEntry(name="live-6", size=64, sha256=SHA)),
        segment("seg-3", tier="cold", docs=m.MAX_DOCS, live_docs=m.MAX_DOCS), max_seq_no=2**62,
        settings={"index": {"codec": "default"}},
    )
    commit(tmp_path, made)
    assert os.listdir(tmp_path) == ["manifest-0000000000000042"]
    assert load(tmp_path) == made
    assert list(made.blobs()) == [("hot", "seg-1"), ("hot", "live-6"), ("cold", "seg-3")]
    assert manifest().segments == ()


def test_newest_wins_and_strays_are_ignored(tmp_path: Path) -> None:
    for generation in (9, 10, 11):
        commit(tmp_path, manifest(generation))
    strays = ("manifest-0000000000000012.tmp", "manifest-12", "manifest-00000000000000120", "manifest-x",
              "notes.txt", "xmanifest-0000000000000099", "manifest-٠٠٠٠٠٠٠٠٠٠٠٠٠٠٩٩", "segments")
    for stray in strays:
        (tmp_path / stray).write_bytes(b"stray")
    assert load(tmp_path).generation == 11
    assert m.generations(OS_FILES, str(tmp_path)) == [9, 10, 11]


def test_no_index(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(IndexNotFoundError, match="no index here"):
            load(directory)


def test_commit_in_order(tmp_path: Path) -> None:
    files = FaultyFiles()
    m.commit(files, str(tmp_path), manifest(1))
    name = "manifest-0000000000000001"
    assert files.calls == [f"open-w {name}.tmp", f"append {name}.tmp", f"fsync {name}.tmp", f"rename {name}",
                           f"sync_dir {tmp_path.name}"]


@pytest.mark.parametrize("fail_at", [1, 2, 3, 4, 5])
def test_commit_that_fails(tmp_path: Path, fail_at: int) -> None:
    commit(tmp_path, manifest(1))
    with pytest.raises(StorageError):
        m.commit(FaultyFiles(fail_at), str(tmp_path), manifest(2))
    assert load(tmp_path).generation == (2 if fail_at == 5 else 1)
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


def test_a_generation_is_committed_once(tmp_path: Path) -> None:
    commit(tmp_path, manifest(1))
    with pytest.raises(WriterFailedError, match="another writer"):
        commit(tmp_path, manifest(1, segment("seg-1")))
    assert load(tmp_path) == manifest(1)


SMALL = manifest(3, segment("seg-1", live_docs=9, live=LiveEntry(name="live-2", size=64, sha256=SHA)))


def test_every_bit_flip_is_found(tmp_path: Path) -> None:
    path = tmp_path / m.file_name(3)
    data = m.encode(SMALL)
    assert m.decode(data, str(path)) == SMALL
    for i in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[i] ^= 1 << bit
            with pytest.raises(CorruptIndexError, match="offset") as error:
                m.decode(bytes(damaged), str(path))
            assert error.value.path == str(path)


def test_every_truncation_and_extension_is_found(tmp_path: Path) -> None:
    """On disk; and the intact predecessor is never taken instead."""
    commit(tmp_path, manifest(2))
    commit(tmp_path, SMALL)
    path = tmp_path / m.file_name(3)
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(CorruptIndexError, match=m.file_name(3)):
            load(tmp_path)
    for more in (b"\0", b" ", b"\n", bytes(5000)):
        path.write_bytes(data + more)
        with pytest.raises(CorruptIndexError):
            load(tmp_path)
    path.write_bytes(data)
    assert load(tmp_path) == SMALL


def test_too_long_a_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / m.file_name(3)
    path.write_bytes(m.encode(SMALL))
    os.truncate(path, 1 << 40)  # sparse
    with pytest.raises(CorruptIndexError, match="too long"):
        load(tmp_path)


def sealed(payload: bytes, version: int = m.FORMAT) -> bytes:
    """A file whose checksum fits, whatever is in it."""
    start = b"quidditch-manifest %d %012d " % (version, len(payload))
    return start + b"%08x\n" % zlib.crc32(payload, zlib.crc32(start)) + payload


def test_newer_format(tmp_path: Path) -> None:
    (tmp_path / m.file_name(3)).write_bytes(sealed(b"\x93whatever comes", m.FORMAT + 1))
    with pytest.raises(FormatError, match="install a newer version"):
        load(tmp_path)


def edited(edit: Callable[[Any], object]) -> bytes:
    fields = msgspec.json.decode(msgspec.json.encode(SMALL))
    edit(fields)
    return msgspec.json.encode(fields)


@pytest.mark.parametrize("payload", [
    b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, m.encode(SMALL),
    edited(lambda f: f.pop("index_uuid")),
    edited(lambda f: f.update(unknown=1)),
    edited(lambda f: f.update(generation="3")),
    edited(lambda f: f.update(generation=4)),
    edited(lambda f: f.update(generation=-3)),
    edited(lambda f: f.update(max_seq_no=-2)),
    edited(lambda f: f.update(max_seq_no=8)),
    edited(lambda f: f.update(max_seq_no=1.5)),
    edited(lambda f: f.update(mapping=[])),
    edited(lambda f: f.update(segments=f["segments"] * 2)),
    edited(lambda f: f["segments"][0].update(name="../../etc/passwd")),
    edited(lambda f: f["segments"][0].update(name="seg-1.tmp")),
    edited(lambda f: f["segments"][0].update(name="live-2")),
    edited(lambda f: f["segments"][0].update(tier="s3://bucket")),
    edited(lambda f: f["segments"][0].update(size=4096)),
    edited(lambda f: f["segments"][0].update(size=2**64)),
    edited(lambda f: f["segments"][0].update(tail_crc=2**32)),
    edited(lambda f: f["segments"][0].update(sha256=SHA[1:])),
    edited(lambda f: f["segments"][0].update(sha256=SHA + "\n")),
    edited(lambda f: f["segments"][0].update(sha256=SHA.upper())),
    edited(lambda f: f["segments"][0].update(docs=2**31)),
    edited(lambda f: f["segments"][0].update(live_docs=11)),
    edited(lambda f: f["segments"][0].update(live=None)),
    edited(lambda f: f["segments"][0].update(min_seq_no=10)),
    edited(lambda f: f["segments"][0]["live"].update(name="/live")),
    edited(lambda f: f["segments"][0]["live"].update(size=-1)),
])
def test_wrong_content_under_a_fitting_checksum(payload: bytes) -> None:
    with pytest.raises(CorruptIndexError, match="offset"):
        m.decode(sealed(payload), m.file_name(3))


# Readers and garbage


@pytest.fixture
def tier(tmp_path: Path) -> LocalTier:
    return LocalTier(OS_FILES, str(tmp_path / "segments"))


def history(directory: Path, tier: LocalTier) -> Manifest:
    """Three commits: seg-1 is in all, seg-2 in the first, live-2 in the second, seg-3 from the second on."""
    for name in ("seg-1", "seg-2", "seg-3", "live-2"):
        tier.write(name, [b"x"])
    live = LiveEntry(name="live-2", size=1, sha256=SHA)
    commit(directory, manifest(1, segment("seg-1"), segment("seg-2")))
    commit(directory, manifest(2, segment("seg-1", live=live, live_docs=9), segment("seg-3")))
    newest = manifest(3, segment("seg-1"), segment("seg-3"))
    commit(directory, newest)
    return newest


def left(directory: Path) -> list[int]:
    return m.generations(OS_FILES, str(directory))


def test_garbage_without_readers(tmp_path: Path, tier: LocalTier) -> None:
    newest = history(tmp_path, tier)
    tier.write("seg-4", [b"not yet published"])
    garbage = m.collect_garbage(OS_FILES, str(tmp_path), [tier], newest)
    assert garbage == m.Garbage((1, 2), (("hot", "live-2"), ("hot", "seg-2")))
    assert tier.list() == ["seg-1", "seg-3", "seg-4"]
    assert left(tmp_path) == [3]
    assert m.collect_garbage(OS_FILES, str(tmp_path), [tier], newest) == m.Garbage((), ())


def test_held_commits_keep_their_blobs(tmp_path: Path, tier: LocalTier) -> None:
    newest = history(tmp_path, tier)
    first = m.hold(OS_FILES, str(tmp_path), 1)
    second, again = (m.hold(OS_FILES, str(tmp_path), 2) for _ in range(2))
    assert first.manifest.generation == 1
    assert m.collect_garbage(OS_FILES, str(tmp_path), [tier], newest) == m.Garbage((), ())
    second.release()
    assert m.collect_garbage(OS_FILES, str(tmp_path), [tier], newest) == m.Garbage((), ())
    again.release()
    again.release()
    assert m.collect_garbage(OS_FILES, str(tmp_path), [tier], newest).blobs == (("hot", "live-2"),)
    assert left(tmp_path) == [1, 3]
    with first:
        pass
    assert m.collect_garbage(OS_FILES, str(tmp_path), [tier], newest).blobs == (("hot", "seg-2"),)
    with pytest.raises(IndexClosedError, match="open a new reader"):
        m.hold(OS_FILES, str(tmp_path), 1)


def test_a_move_frees_the_source_tier_only(tmp_path: Path, tier: LocalTier) -> None:
    cold = LocalTier(OS_FILES, str(tmp_path / "cold"), "cold")
    for place in (tier, cold):
        place.write("seg-1", [b"x"])
    commit(tmp_path, manifest(1, segment("seg-1")))
    moved = manifest(2, segment("seg-1", tier="cold"))
    commit(tmp_path, moved)
    assert m.collect_garbage(OS_FILES, str(tmp_path), [tier, cold], moved).blobs == (("hot", "seg-1"),)
    assert (tier.list(), cold.list()) == ([], ["seg-1"])


def test_sweep_after_a_crash(tmp_path: Path, tier: LocalTier) -> None:
    """Temporary files, unpublished blobs, and blobs whose manifest went before the crash."""
    newest = history(tmp_path, tier)
    tier.write("seg-9", [b"never published"])
    (tmp_path / "segments" / "seg-8.tmp").write_bytes(b"half")
    (tmp_path / (m.file_name(4) + ".tmp")).write_bytes(b"half")
    (tmp_path / "notes.tmp").write_bytes(b"not ours")
    os.unlink(tmp_path / m.file_name(1))
    with m.hold(OS_FILES, str(tmp_path), 2):
        garbage = m.sweep(OS_FILES, str(tmp_path), [tier], newest)
        assert garbage == m.Garbage((), (("hot", "seg-2"), ("hot", "seg-9")))
    assert sorted(os.listdir(tmp_path)) == [m.file_name(2), m.file_name(3), "notes.tmp", "segments"]
    assert sorted(os.listdir(tmp_path / "segments")) == ["live-2", "seg-1", "seg-3"]
    m.sweep(OS_FILES, str(tmp_path), [tier], newest)
    assert tier.list() == ["seg-1", "seg-3"]


@pytest.mark.parametrize("collect", [m.collect_garbage, m.sweep])
def test_a_damaged_old_manifest(tmp_path: Path, tier: LocalTier, collect: Callable[..., m.Garbage]) -> None:
    """Held, we do not know what it needs, so nothing goes; not held, nobody needs it."""
    newest = history(tmp_path, tier)
    held = m.hold(OS_FILES, str(tmp_path), 1)
    (tmp_path / m.file_name(1)).write_bytes(b"damage")
    everything = tier.list()
    assert collect(OS_FILES, str(tmp_path), [tier], newest) == m.Garbage((2,), ())
    assert tier.list() == everything
    held.release()
    assert collect(OS_FILES, str(tmp_path), [tier], newest).generations == (1,)
    assert tier.list() == (["seg-1", "seg-3"] if collect is m.sweep else everything)
    assert load(tmp_path) == newest


@contextmanager
def child(script: str, environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], env=environment, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_reader_in_another_process(tmp_path: Path, tier: LocalTier, python_env: dict[str, str]) -> None:
    """It holds its commit until it dies, even by kill -9."""
    script = """
import sys
from quidditch_core.files import OS_FILES
from quidditch_core.index.manifest import hold
held = hold(OS_FILES, sys.argv[1])
print(held.manifest.generation, flush=True)
sys.stdin.read()
"""
    live = LiveEntry(name="live-2", size=1, sha256=SHA)
    for name in ("seg-1", "seg-2", "live-2"):
        tier.write(name, [b"x"])
    commit(tmp_path, manifest(1, segment("seg-1", live=live, live_docs=9)))
    newest = manifest(2, segment("seg-2"))
    with child(script, python_env, str(tmp_path)) as reader:
        assert reader.stdout
        assert reader.stdout.readline() == "1\n"
        commit(tmp_path, newest)
        assert m.collect_garbage(OS_FILES, str(tmp_path), [tier], newest) == m.Garbage((), ())
        assert tier.list() == ["live-2", "seg-1", "seg-2"]
        reader.kill()
        reader.wait()
        garbage = m.collect_garbage(OS_FILES, str(tmp_path), [tier], newest)
        assert garbage == m.Garbage((1,), (("hot", "live-2"), ("hot", "seg-1")))


def test_readers_race_a_writer(tmp_path: Path, tier: LocalTier, python_env: dict[str, str]) -> None:
    """While a writer publishes and removes as fast as it can, whoever holds a commit finds all its blobs."""
    script = """
import os, sys
from quidditch_core.files import OS_FILES
from quidditch_core.index.manifest import hold
from quidditch_core.tiering.local import LocalTier
directory, seen, commits = sys.argv[1], -1, 0
tier = LocalTier(OS_FILES, os.path.join(directory, "segments"))
while not os.path.exists(os.path.join(directory, "stop")):
    with hold(OS_FILES, directory) as held:
        generation = held.manifest.generation
        assert generation >= seen, (generation, seen)
        for _ in range(2):
            for _, name in held.manifest.blobs():
                assert tier.open(name).pread(0, len(name)) == name.encode(), name
        commits += generation > seen
        seen = generation
        if commits == 1:
            print("reading", flush=True)
print("whole" if commits > 1 else "only one commit", flush=True)
"""
    failures: list[BaseException] = []

    def read_here() -> None:
        try:
            while not (tmp_path / "stop").exists():
                with m.hold(OS_FILES, str(tmp_path)) as held:
                    for _, name in held.manifest.blobs():
                        tier.open(name)
        except BaseException as error:
            failures.append(error)

    def publish(generation: int) -> Manifest:
        names = [f"seg-{generation + i}" for i in range(2)]
        if generation == 1:
            tier.write(names[0], [names[0].encode()])
        tier.write(names[1], [names[1].encode()])
        tier.sync()
        made = manifest(generation, *map(segment, names))
        commit(tmp_path, made)
        return made

    publish(1)
    thread = threading.Thread(target=read_here)
    thread.start()
    removed = 0
    with child(script, python_env, str(tmp_path)) as one, child(script, python_env, str(tmp_path)) as two:
        for reader in (one, two):
            assert reader.stdout
            assert reader.stdout.readline() == "reading\n"
        for generation in range(2, 200):
            newest = publish(generation)
            removed += len(m.collect_garbage(OS_FILES, str(tmp_path), [tier], newest).generations)
        (tmp_path / "stop").touch()
        outputs = [reader.communicate(timeout=60)[0] for reader in (one, two)]
    thread.join()
    assert [output.split("\n")[-2] for output in outputs] == ["whole"] * 2
    assert not failures
    assert removed > 0
    m.collect_garbage(OS_FILES, str(tmp_path), [tier], newest)
    assert left(tmp_path) == [199]
    assert tier.list() == ["seg-199", "seg-200"]


def test_a_manifest_that_is_listed_but_cannot_be_held(tmp_path: Path) -> None:
    """As when a foreign process locks it: an error, not a loop."""
    commit(tmp_path, manifest(1))
    foreign = OS_FILES.open(str(tmp_path / m.file_name(1)), "r")
    assert foreign.lock(shared=False)
    with pytest.raises(CorruptIndexError, match="cannot be held"):
        load(tmp_path)
    foreign.close()
    assert load(tmp_path) == manifest(1)

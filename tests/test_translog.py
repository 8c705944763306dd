"""The log: what it promises of every byte, call, crash and thread.

Most tests run on the simulated disk, whose damage is that of real ones; an oracle that shares no code with
the log says which operations a damaged file must give back. The histories that crash everywhere are at the
end, with a machine that does anything in any order.
"""

from __future__ import annotations

import errno
import gc
import struct
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from quidditch_core.config import Durability
from quidditch_core.errors import (
    CorruptIndexError,
    FormatError,
    IndexClosedError,
    QuidditchError,
    RequestError,
    StorageError,
    WriterFailedError,
)
from quidditch_core.files import OS_FILES, Files, Mode, OsFile, OsFiles
from quidditch_core.tiering.crash import DAMAGES, Crashed, CrashFiles
from quidditch_core.translog import log as log_module
from quidditch_core.translog import record, replay
from quidditch_core.translog.log import THREAD_NAME, TornLogWarning, Translog, _Crowd
from quidditch_core.translog.record import ChangeMapping, ChangeSettings, Delete, Index, Operation, file_name

pytestmark = pytest.mark.usefixtures("page")
UUID = "0123456789abcdef" * 2
LOG = "/log"
FIRST = f"{LOG}/translog-0000000000000001.log"
REQUEST, ASYNC = Durability.REQUEST, Durability.ASYNC


@pytest.fixture(params=[log_module.PAGE, 16], ids=["", "reserve"])
def page(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Small logs end with their last batch; with tiny pages zeros follow in them, too."""
    size: int = request.param
    monkeypatch.setattr(log_module, "PAGE", size)
    return size


def operation(seq_no: int) -> Operation:
    """Some operation with this number; each kind has its turn."""
    id = f"k{seq_no % 5}"
    if seq_no % 7 == 3:
        return Delete(seq_no, 1, 2, id)
    if seq_no % 11 == 5:
        return ChangeMapping(seq_no, 1, {"properties": {f"f{seq_no}": {"type": "keyword"}}})
    if seq_no % 11 == 6:
        return ChangeSettings(seq_no, 1, {"index": {"refresh_interval": "-1"}})
    return Index(seq_no, 1, seq_no + 1, id, b'{"n":%d}' % seq_no)


def operations(start: int, stop: int) -> list[Operation]:
    return [operation(seq_no) for seq_no in range(start, stop)]


def seq_nos(found: Iterable[Operation]) -> list[int]:
    return [operation.seq_no for operation in found]


def disk(content: dict[str, bytes] | None = None) -> CrashFiles:
    """A disk with the directory of the log, and files in it, all durable."""
    files = CrashFiles()
    files.mkdir(LOG)
    for path, data in (content or {}).items():
        file = files.open(path, "w")
        file.append(data)
        file.fsync()
    files.sync_dir("/")
    files.sync_dir(LOG)
    return files


def written(files: CrashFiles) -> dict[str, bytes]:
    """What is in all files, without the zeros at their end."""
    return {path: data.rstrip(b"\0") for path, data in files.tree().items()}


class Opened(NamedTuple):
    log: Translog
    found: list[Operation]
    torn: bool  # it warned


def translog(files: Files, directory: str = LOG, *, durability: Durability = REQUEST, **more: Any) -> Translog:
    arguments: dict[str, Any] = {"uuid": UUID, "sync_interval": 5.0, "background": False, **more}
    return Translog(files, directory, durability=durability, **arguments)


def reopen(files: Files, after: int = -1, **more: Any) -> Opened:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        log = translog(files, **more)
        found = list(log.recover(after))
    assert all(one.category is TornLogWarning for one in warned)
    return Opened(log, found, bool(warned))


def put(log: Translog, *seq_no: int) -> int:
    return log.append([operation(number) for number in seq_no])


class HookedFiles(OsFiles):
    """Real files; ``appended`` is called after each batch, ``syncing`` before each sync, which are counted."""

    def __init__(self) -> None:
        self.fsyncs = 0
        self.appended: Callable[[], Any] = lambda: None
        self.syncing: Callable[[], Any] = lambda: None

    def open(self, path: str, mode: Mode) -> OsFile:
        files = self

        class HookedFile(OsFile):
            def pwrite(self, offset: int, data: Any) -> None:
                super().pwrite(offset, data)
                files.appended()

            def fsync(self) -> None:
                files.fsyncs += 1
                files.syncing()
                super().fsync()

        return HookedFile(path, mode)


# One life ---------------------------------------------------------------------------------------------------


def test_what_was_appended_comes_back_in_order() -> None:
    files = disk()
    log, found, _ = reopen(files)
    assert found == []
    assert log.generation == 1
    tickets = [put(log, 0), put(log, 1, 2, 3), log.append([]), put(log, 4)]
    assert tickets == sorted(tickets)
    assert tickets[1] == tickets[2]
    log.sync(tickets[-1])
    log.close()
    for after in range(-1, 6):
        log, found, torn = reopen(files, after)
        assert found == operations(after + 1, 5)
        assert not torn
        log.close()


def test_who_writes_nothing_changes_nothing() -> None:
    files = disk()
    for number in range(3):
        log, _, _ = reopen(files, number - 1)
        put(log, number)
        log.rotate()
        log.close()
        before = files.tree()
        for _ in range(3):
            log, found, _ = reopen(files, number - 1)
            assert seq_nos(found) == [number]
            log.close()
        assert files.tree() == before
        log, found, _ = reopen(files, number)
        assert found == []
        assert len(files.tree()) == 1


def test_generations() -> None:
    files = disk()
    log, _, _ = reopen(files)
    assert log.rotate() == 1  # nothing in it
    put(log, 0, 1)
    assert log.rotate() == log.generation == 2
    put(log, 2)
    assert log.rotate() == 3
    ticket = put(log, 3, 4)
    assert log.size == sum(map(len, files.tree().values()))
    stats = log.stats()
    assert (stats.generation, stats.generations, stats.operations, stats.torn) == (3, 3, 5, 0)
    assert sum(map(len, written(files).values())) == stats.bytes + 3 * record.FILE_HEADER
    assert stats.fsyncs == 2
    log.sync(ticket)
    assert log.stats().fsyncs == 3
    log.trim(3)
    assert [path[-7:] for path in files.tree()] == ["003.log"]
    assert log.size == sum(map(len, files.tree().values()))
    log.trim(3)
    log.sync(ticket)
    log.close()
    log, found, _ = reopen(files, 2)
    assert seq_nos(found) == [3, 4]
    assert (log.generation, log.stats().recovered) == (4, 2)
    assert put(log, 5) > 0
    assert log.rotate() == 5


def test_a_recovered_log_takes_over_what_was_not_synced() -> None:
    files = disk()
    log, _, _ = reopen(files)
    log.sync(put(log, 0))
    put(log, 1)
    put(log, 2, 3)
    for generation in (2, 3, 4):
        files = files.after_crash(0, "kill")
        log, found, torn = reopen(files)
        assert seq_nos(found) == [0, 1, 2, 3]
        assert (log.generation, torn) == (generation, False) if generation == 2 else (2, False)
    files = files.after_crash(0, "drop")  # recovery has made all of it durable
    assert seq_nos(reopen(files).found) == [0, 1, 2, 3]


def test_generations_that_the_manifest_has_go_unread() -> None:
    """A crash may bring back the names that a trim removed, some and not others."""
    files = disk()
    log, _, _ = reopen(files)
    for seq_no in range(4):
        put(log, seq_no)
        log.rotate()
    put(log, 4)
    log.rotate()
    log.close()
    content = files.tree()
    first, second, _, fourth, *later = sorted(content)
    assert seq_nos(reopen(disk(content)).found) == [0, 1, 2, 3, 4]
    files = disk({path: data for path, data in content.items() if path != second} | {first: b"rubbish"})
    log, found, _ = reopen(files, 2)
    assert seq_nos(found) == [3, 4]
    assert sorted(files.tree()) == [fourth, *later]
    with pytest.raises(CorruptIndexError, match=f"{second}.* is missing: it had operations 1 to 1"):
        reopen(disk({path: data for path, data in content.items() if path != second}), 0)
    with pytest.raises(CorruptIndexError, match=f"{fourth}.* is missing"):
        reopen(disk({path: data for path, data in content.items() if path != fourth}), 2)


def test_use_before_recovery_and_after_close() -> None:
    log = translog(disk())
    uses: list[Callable[[], Any]] = [
        lambda: put(log, 0), log.rotate, lambda: log.trim(1), lambda: log.set_durability(ASYNC, 1.0)]
    for use in uses:
        with pytest.raises(IndexClosedError, match="not open"):
            use()
    assert list(log.recover(-1)) == []
    ticket = put(log, 0)
    log.close()
    log.close()
    log.sync(ticket)
    log.acknowledge(ticket)
    assert log.tick() is None
    for use in uses:
        with pytest.raises(IndexClosedError, match="not open"):
            use()


# Operations as bytes ----------------------------------------------------------------------------------------

numbers = st.integers(0, 2**63 - 1)
bodies = st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.text(max_size=5) | st.integers(-9, 9))
any_operation: st.SearchStrategy[Operation] = st.one_of(
    st.builds(Index, numbers, numbers, numbers, st.text(max_size=9), st.binary(max_size=40)),
    st.builds(Delete, numbers, numbers, numbers, st.text(max_size=9)),
    st.builds(ChangeMapping, numbers, numbers, bodies), st.builds(ChangeSettings, numbers, numbers, bodies))


@hypothesis.given(st.lists(any_operation, min_size=1, max_size=6), numbers, st.integers(0, 2**32 - 1))
def test_operations_survive_the_bytes(given: list[Operation], offset: int, seed: int) -> None:
    batch = bytes(record.encode_batch(given, offset, 7, seed))
    header = record.decode_header(batch, 0, offset, seed)
    assert header == (len(batch) - record.BATCH_HEADER, 7, zlib.crc32(batch[record.BATCH_HEADER :]))
    assert record.decode_operations(batch[record.BATCH_HEADER :], "log", offset) == given
    assert record.decode_header(batch, 0, offset ^ 1, seed) is None
    assert record.decode_header(batch, 0, offset, seed ^ 1) is None
    assert record.decode_header(batch[:23], 0, offset, seed) is None


HUGE = b"\xff\xff\xff\xff"


@pytest.mark.parametrize("payload", [
    b"\xdd" + HUGE, b"\x91\x96\x00\x00\x00\x00\xa0\xc6" + HUGE, b"\x91\x96\x00\x00\x00\x00\xdb" + HUGE,
    b"\x91\x94\x02\x00\x00\xdf" + HUGE, b"\x91\x94\x02\x00\x00\x81\xa0\xdd" + HUGE,
    b"\x91\x94\x02\x00\x00\x81\xa0" + b"\x91" * 100_000, b"\x91\x95\x01\x00\x00\x00\xa1\xff",
    b"\x91\x95\x01\xff\x00\x00\xa0", b"\x91\x95\x09\x00\x00\x00\xa0", b"\x91\x94\x01\x00\x00\x00",
    b"\x90\x00", b"\xc0", b"\x91\xc0", b"\xc1",
])
def test_impossible_operations_are_corrupt(payload: bytes) -> None:
    with pytest.raises(CorruptIndexError, match=r"wrong operations: .* at offset 99") as error:
        record.decode_operations(payload, "some.log", 99)
    assert error.value.path == "some.log"


@hypothesis.given(st.lists(any_operation, min_size=1, max_size=4), st.data())
def test_no_bytes_crash_the_decoder(given: list[Operation], data: st.DataObject) -> None:
    payload = bytearray(record.encode_batch(given, 0, 0, 0)[record.BATCH_HEADER :])
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    with suppress(CorruptIndexError):
        record.decode_operations(payload, "log", 0)


def test_large_appends_become_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "GROUP_BYTES", 100)
    many: list[Operation] = [Index(i, 1, 1, str(i), b"x" * size) for i, size in enumerate([60, 60, 10, 500, 0, 40])]
    many.append(Delete(6, 1, 1, "6"))
    assert [len(group) for group in record.groups(many)] == [1, 2, 1, 3]
    files = disk()
    log, _, _ = reopen(files)
    put_one = log.append(many[:1])
    log.append(many[1:])
    assert files.counts["pwrite"] == 1 + 3
    files.fail("pwrite", 2, errno.ENOSPC)
    with pytest.raises(StorageError):  # the first of its batches goes as well
        log.append(many)
    more = operations(7, 9)
    log.append(more)
    log.sync(put_one)
    assert reopen(files).found == [*many, *more]


def test_an_operation_may_be_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "MAX_PAYLOAD", 100)
    files = disk()
    log, _, _ = reopen(files)
    put(log, 0)
    with pytest.raises(RequestError, match="too large for the log"):
        log.append([Index(1, 1, 1, "x", b"x" * 100)])
    put(log, 1)
    assert seq_nos(reopen(files).found) == [0, 1]


# A reader of its own, after FORMAT.md -----------------------------------------------------------------------


class Plain(NamedTuple):
    """A batch as the oracle sees it: [offset, end) and what it says was synced."""

    offset: int
    end: int
    synced: int
    seq_nos: list[int]


def plain_batches(data: bytes) -> list[Plain]:
    magic, version, uuid, generation, _previous, _before, born, crc = struct.unpack("<8sI16sQQqQI", data[:64])
    assert magic == b"\xf5Qlog\r\n\xff"
    assert (version, uuid.hex()) == (0, UUID)
    assert generation > 0
    assert born >= 64
    assert crc == zlib.crc32(data[:60])
    found, offset = [], 64
    while any(data[offset:]):
        magic, length, synced, payload_crc, header_crc = struct.unpack("<4sIQII", data[offset : offset + 24])
        payload = data[offset + 24 : offset + 24 + length]
        assert magic == b"\xf5QB\xff"
        assert header_crc == zlib.crc32(data[offset : offset + 20], zlib.crc32(struct.pack("<Q", offset), crc))
        assert payload_crc == zlib.crc32(payload)
        assert synced <= offset
        decoded = msgspec.msgpack.decode(payload) if payload else []
        found.append(Plain(offset, offset + 24 + length, synced, [one[1] for one in decoded]))
        offset += 24 + length
    return found


def unsynced() -> bytes:
    files = disk()
    log, _, _ = reopen(files)
    for batch in ((0,), (1, 2), (3,), (4, 5)):
        put(log, *batch)
    return files.tree()[FIRST]


def synced_each() -> bytes:
    files = disk()
    log, _, _ = reopen(files)
    for batch in ((0,), (1, 2), (3,), (4, 5)):
        log.sync(put(log, *batch))
    return files.tree()[FIRST]


def synced_once() -> bytes:
    files = disk()
    log, _, _ = reopen(files)
    put(log, 0)
    log.sync(put(log, 1, 2))
    put(log, 3)
    put(log, 4, 5)
    return files.tree()[FIRST]


def taken_over() -> bytes:
    """The second generation, into which a recovery has put three batches; one came later."""
    files = disk({FIRST: synced_once()})
    log, _, _ = reopen(files)
    put(log, 6)
    return files.tree()[FIRST.replace("1.log", "2.log")]


def test_format_md_is_enough_to_read_a_log() -> None:
    for make in (unsynced, synced_each, synced_once):
        assert [n for batch in plain_batches(make()) for n in batch.seq_nos] == [0, 1, 2, 3, 4, 5]
    offsets = [batch.offset for batch in plain_batches(unsynced())]
    assert [batch.synced for batch in plain_batches(unsynced())] == [64] * 4
    assert [batch.synced for batch in plain_batches(synced_each())] == offsets
    assert [batch.synced for batch in plain_batches(synced_once())] == [64, 64, offsets[2], offsets[2]]
    assert [batch.seq_nos for batch in plain_batches(taken_over())] == [[3], [4, 5], [6]]


# Every byte of a file ---------------------------------------------------------------------------------------


def expect(data: bytes, known: int, end: int, before: Sequence[Plain]) -> None:
    """Of a damaged first generation only ``before`` is whole, up to ``end``; what is left says ``known``."""
    if known > end:
        with pytest.raises(CorruptIndexError, match=f"at offset {end}; .*synced up to offset {known}") as error:
            reopen(disk({FIRST: data}))
        assert error.value.path == FIRST
        return
    files = disk({FIRST: data})
    left = [number for batch in before for number in batch.seq_nos]
    log, found, torn = reopen(files)
    assert found == [operation(number) for number in left]
    assert torn == any(data[end:])
    assert (log.torn, log.stats().torn) == (torn, torn)
    log.sync(put(log, 100))
    files = files.after_crash(0, "drop")
    if torn:
        assert files.tree()[f"{LOG}/torn-0000000000000001"] == data[end:].rstrip(b"\0")
    log, found, again = reopen(files)
    assert seq_nos(found) == [*left, 100]
    assert not again
    assert log.torn == torn


@pytest.mark.parametrize("piece", [64, 1 << 20])
@pytest.mark.parametrize("make", [unsynced, synced_each, synced_once])
def test_cut_at_every_length(make: Callable[[], bytes], piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "PIECE", piece)
    monkeypatch.setattr(log_module, "PIECE", piece)
    data = make()
    batches = plain_batches(data)
    for length in range(len(data)):
        if length < 64:
            with pytest.raises(CorruptIndexError, match="damaged header at offset 0"):
                reopen(disk({FIRST: data[:length]}))
            continue
        whole = [batch for batch in batches if batch.end <= length]
        end = whole[-1].end if whole else 64
        expect(data[:length], 64, end, whole)  # a header speaks only of what is before it


@pytest.mark.parametrize("piece", [64, 1 << 20])
@pytest.mark.parametrize("make", [unsynced, synced_each, synced_once])
def test_flip_every_bit(make: Callable[[], bytes], piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "PIECE", piece)
    data = make()
    batches = plain_batches(data)
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            if position < 64:
                with pytest.raises(CorruptIndexError, match="damaged header at offset 0"):
                    reopen(disk({FIRST: bytes(flipped)}))
                continue
            if position >= batches[-1].end:
                expect(bytes(flipped), 64, batches[-1].end, batches)
                continue
            hit = next(i for i, batch in enumerate(batches) if position < batch.end)
            end, in_header = batches[hit].offset, position < batches[hit].offset + 24
            claims = [batch.synced for i, batch in enumerate(batches) if i != hit or not in_header]
            known = next((claim for claim in claims[hit:] if claim > end), 64)
            expect(bytes(flipped), known, end, batches[:hit])


@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"\xf5QB\xff"])
def test_rubbish_of_every_length_behind_the_end(fill: bytes) -> None:
    data = synced_each()
    batches = plain_batches(data)
    for length in range(1, 80):
        rubbish = (fill * 80)[:length]
        expect(data + rubbish, 64, batches[-1].end, batches)


@pytest.mark.parametrize("make", [unsynced, synced_each, synced_once])
def test_any_bytes_zeroed(make: Callable[[], bytes]) -> None:
    """A crash may leave zeros anywhere in what was not synced, whatever follows them."""
    data = make()
    batches = plain_batches(data)
    for start in range(64, len(data), 5):
        for stop in range(start + 1, len(data) + 1, 7):
            zeroed = data[:start] + bytes(stop - start) + data[stop:]
            whole = [batch for batch in batches if batch.end <= start or data[: batch.end] == zeroed[: batch.end]]
            end = whole[-1].end if whole else 64
            headers = [b for b in batches if data[b.offset : b.offset + 24] == zeroed[b.offset : b.offset + 24]]
            later = [batch.synced for batch in headers if batch.offset >= end and batch.synced > end]
            known = later[0] if later else 64
            expect(zeroed, known, end, whole)


def test_every_byte_of_what_a_recovery_wrote() -> None:
    """It was synced before it got its name, so that all damage to it is known to be damage."""
    first, data = synced_once(), taken_over()
    second = FIRST.replace("1.log", "2.log")
    last, end = plain_batches(data)[-1][:2]
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 16
        files = disk({FIRST: first, second: bytes(flipped)})
        if position < last:
            with pytest.raises(CorruptIndexError, match=r"0002\.log: .* at offset"):
                reopen(files)
        else:
            assert seq_nos(reopen(files).found) == [0, 1, 2, 3, 4, 5, 6][: 7 if position >= end else 6]
        if position < last:
            with pytest.raises(CorruptIndexError, match=r"0002\.log: .* at offset"):
                reopen(disk({FIRST: first, second: data[:position]}))


def test_every_byte_of_an_older_generation() -> None:
    files = disk()
    log, _, _ = reopen(files)
    for seq_no in range(4):
        put(log, seq_no)
    log.rotate()
    put(log, 4)
    content = files.tree()
    first, second = sorted(content)
    for position in range(plain_batches(content[first])[-1].end):
        flipped = bytearray(content[first])
        flipped[position] ^= 1 << position % 8
        for damaged in (bytes(flipped), content[first][:position]):
            with pytest.raises(CorruptIndexError, match=r"0001\.log: .* at offset"):
                reopen(disk({first: damaged, second: content[second]}))
            assert seq_nos(reopen(disk({first: damaged, second: content[second]}), 3).found) == [4]
    longer = {first: content[first] + b"left by an append that failed", second: content[second]}
    assert seq_nos(reopen(disk(longer)).found) == [0, 1, 2, 3, 4]


def test_a_document_may_look_like_a_log() -> None:
    """Bytes of a log, even of this one, are no batches where they do not belong."""
    data = synced_each()
    files = disk()
    log, _, _ = reopen(files)
    log.append([Index(0, 1, 1, "a log", data + b"!")])
    size = plain_batches(files.tree()[FIRST])[0].end
    for cut in (1, 30, len(data)):
        found = reopen(disk({FIRST: files.tree()[FIRST][: size - cut]}))
        assert (found.found, found.torn) == ([], True)


def test_a_successor_that_cuts_a_batch() -> None:
    first = synced_once()
    end, stop = plain_batches(first)[1].end, plain_batches(first)[2].end - 1
    header = record.FileHeader(UUID, 2, stop, 5, 64)
    log = translog(disk({FIRST: first, FIRST.replace("1.log", "2.log"): record.encode_file_header(header)}))
    found = log.recover(-1)
    assert seq_nos(islice(found, 3)) == [0, 1, 2]
    with pytest.raises(CorruptIndexError, match=rf"0001\.log: damaged batch at offset {end}; .*up to offset {stop}"):
        next(found)


def test_what_a_crash_left_is_removed_and_what_is_not_ours_stays() -> None:
    foreign = {f"{LOG}/notes.txt": b"", f"{LOG}/translog-7.log": b"", f"{LOG}/translog-0000000000000001.log.old": b""}
    files = disk({f"{LOG}/translog-0000000000000009.log.tmp": b"begun", **foreign})
    log, found, _ = reopen(files)
    assert (found, log.generation) == ([], 1)
    assert files.tree().keys() == {FIRST, *foreign}


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"uuid": UUID[::-1]}, CorruptIndexError, f"another index at offset 0; found '{UUID[::-1]}'; expected {UUID}"),
    ({"generation": 7}, CorruptIndexError, "another generation at offset 0; found 7; expected 1"),
    ({"before": 5}, CorruptIndexError, r"translog-0{16}\.log: a file of the log is missing: it had operations 0 to 5"),
    ({"born": 1_000_000}, CorruptIndexError, "damaged batch at offset .* synced up to offset 1000000"),
])
def test_headers_that_are_whole_but_wrong(change: dict[str, Any], error: type[Exception], message: str) -> None:
    header = record.FileHeader(UUID, 1, 0, -1, 64)._replace(**change)
    with pytest.raises(error, match=message):
        reopen(disk({FIRST: record.encode_file_header(header)}))


def test_a_newer_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "FORMAT", 1)
    data = synced_each()
    monkeypatch.undo()
    with pytest.raises(FormatError, match="newer format; found 1; expected at most 0; install"):
        reopen(disk({FIRST: data}))
    other = b"not a log, but" + bytes(46)
    with pytest.raises(CorruptIndexError, match="not a log at offset 0"):
        reopen(disk({FIRST: other + zlib.crc32(other).to_bytes(4, "little")}))


def test_a_file_that_shrinks_or_lies_under_our_hands() -> None:
    data = synced_once()
    for shown in range(len(data)):
        window = replay.Window(lambda offset, size, shown=shown: data[:shown][offset : offset + size], len(data))
        seed = record.seed_of(data)
        end = max([64, *(batch.end for batch in replay.batches(window, 64, len(data), seed))])
        assert end <= max(shown, 64)
        replay.judge(window, max(end, 200), 64, seed, "log")


# Errors of the disk -----------------------------------------------------------------------------------------


def test_a_failed_append_leaves_nothing_behind() -> None:
    files = disk()
    log, _, _ = reopen(files)
    put(log, 0)
    for number in (errno.ENOSPC, errno.EIO):
        before = written(files)
        files.fail("pwrite", 1, number)
        with pytest.raises(StorageError) as error:
            put(log, 1)
        assert error.value.errno == number
        assert written(files) == before
        assert not log.failed
    log.sync(put(log, 1))
    assert seq_nos(reopen(files.after_crash(0, "drop")).found) == [0, 1]


def test_most_syncs_need_not_write_the_length() -> None:
    files = disk()
    log, _, _ = reopen(files)
    lengths = set()
    for seq_no in range(500):
        log.append([Index(seq_no, 1, 1, "k", b"x" * 1_000)])
        data = files.tree()[FIRST]
        assert log.size == len(data) <= len(data.rstrip(b"\0")) + log_module.RESERVE
        lengths.add(len(data))
    assert len(lengths) < 20
    ticket = put(log, 500)
    log.sync(ticket)
    found = reopen(files.after_crash(0, "drop"))
    assert (seq_nos(found.found), found.torn) == (list(range(501)), False)
    assert found.log.generation == 2  # the last batch was not known to be synced


def test_what_was_reserved_is_used_by_the_next_process(page: int) -> None:
    files = disk()
    log, _, _ = reopen(files)
    files.open(FIRST, "u").truncate(64 + page)
    before = len(files.tree()[FIRST])
    log, found, torn = reopen(files)
    assert (found, torn, log.generation, log.size) == ([], False, 1, before)
    log.sync(log.append([Delete(0, 1, 1, "k")]))
    assert seq_nos(reopen(files.after_crash(0, "drop")).found) == [0]


def test_a_disk_that_cannot_reserve_is_written_all_the_same() -> None:
    files = disk()
    log, _, _ = reopen(files)
    files.fail("truncate", 1, errno.EFBIG, lasting=True)
    for seq_no in range(100):
        log.sync(log.append([Index(seq_no, 1, 1, "k", b"x" * 100)]))
    assert len(files.tree()[FIRST]) == len(written(files)[FIRST])
    assert seq_nos(reopen(files.after_crash(0, "drop")).found) == list(range(100))


def test_a_failed_append_that_cannot_be_cut_back_ends_it() -> None:
    files = disk()
    log, _, _ = reopen(files)
    log.sync(put(log, 0))
    files.fail("pwrite", 1, errno.ENOSPC)
    files.fail("truncate", 1)
    with pytest.raises(WriterFailedError, match="close the index and open it again") as error:
        put(log, 1)
    assert isinstance(error.value.__cause__, StorageError)
    assert isinstance(error.value.__cause__.__context__, StorageError)
    assert log.failed
    with pytest.raises(WriterFailedError):
        put(log, 1)
    log.close()
    log, found, torn = reopen(files)
    assert (seq_nos(found), torn) == ([0], True)


def test_a_failed_sync_is_never_tried_again() -> None:
    files = disk()
    log, _, _ = reopen(files)
    first = put(log, 0)
    log.sync(first)
    ticket = put(log, 1)
    files.fail("fsync", 1)
    uses: list[Callable[[], Any]] = [
        lambda: log.sync(ticket), lambda: log.acknowledge(ticket), lambda: put(log, 2), log.rotate,
        lambda: log.trim(1), lambda: log.set_durability(ASYNC, 1.0)]
    syncs = files.counts["fsync"] + 1
    for use in uses:
        with pytest.raises(WriterFailedError) as error:
            use()
        assert isinstance(error.value.__cause__, StorageError)
        assert error.value.__cause__.errno == errno.EIO
    log.sync(first)
    log.close()
    assert files.counts["fsync"] == syncs
    # What the failed sync was about is gone for good, says this disk, or not. Recovery writes it once more.
    for damage in DAMAGES:
        for seed in range(20):
            found = files.after_crash(seed, damage)
            log, before, _ = reopen(found)
            log.sync(put(log, 2))
            assert seq_nos(reopen(found.after_crash(seed, "drop")).found) == [*seq_nos(before), 2]


def test_close_says_what_async_has_lost() -> None:
    files = disk()
    log, _, _ = reopen(files, durability=ASYNC)
    log.acknowledge(put(log, 0))
    files.fail("fsync", 1)
    with pytest.raises(WriterFailedError):
        log.close()
    log.close()
    log, _, _ = reopen(files, durability=ASYNC)
    ticket = put(log, 1)
    files.fail("fsync", 1)
    with pytest.raises(WriterFailedError):
        log.sync(ticket)
    with pytest.raises(WriterFailedError):
        log.acknowledge(ticket)
    with pytest.raises(WriterFailedError):
        log.close()


def test_an_interrupt_is_not_a_failure(tmp_path: Path) -> None:
    def interrupt() -> None:
        files.appended = files.syncing = lambda: None
        raise KeyboardInterrupt

    files = HookedFiles()
    log, _, _ = reopen(files, directory=str(tmp_path))
    put(log, 0)
    files.appended = interrupt
    with pytest.raises(KeyboardInterrupt):
        put(log, 1)
    ticket = put(log, 1)
    files.syncing = interrupt
    with pytest.raises(KeyboardInterrupt):
        log.sync(ticket)
    log.sync(ticket)
    assert not log.failed
    assert seq_nos(reopen(files, directory=str(tmp_path)).found) == [0, 1]


def test_a_rotation_that_fails() -> None:
    files = disk()
    log, _, _ = reopen(files)
    log.sync(put(log, 0))
    for operation_, number in (("open", errno.EMFILE), ("append", errno.ENOSPC)):
        before = files.tree()
        files.fail(operation_, 1, number, path="*.tmp")
        with pytest.raises(StorageError):
            log.rotate()
        assert (files.tree(), log.generation, log.failed) == (before, 1, False)
    assert log.rotate() == 2
    for operation_, path in (("fsync", "*.tmp"), ("rename", "*.tmp"), ("sync_dir", LOG)):
        files = disk()
        log, _, _ = reopen(files)
        log.sync(put(log, 0))
        files.fail(operation_, path=path)
        with pytest.raises(WriterFailedError):
            log.rotate()
        with pytest.raises(WriterFailedError):
            put(log, 1)
        for damage in DAMAGES:
            assert seq_nos(reopen(files.after_crash(0, damage)).found) == [0]


# Time -------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_async_syncs_start_every_interval() -> None:
    files, clock = disk(), Clock()
    log, _, _ = reopen(files, durability=ASYNC, sync_interval=5.0, clock=clock)
    assert log.tick() is None
    log.acknowledge(put(log, 0))
    assert log.stats().fsyncs == 0
    clock.now += 2
    log.acknowledge(put(log, 1))
    assert log.tick() == 3.0
    clock.now += 3
    assert log.tick() is None
    assert log.stats().fsyncs == 1
    clock.now += 60  # nothing to do
    assert log.tick() is None
    assert log.stats().fsyncs == 1
    log.acknowledge(put(log, 2))
    assert log.tick() == 5.0
    assert seq_nos(reopen(files.after_crash(0, "drop")).found) == [0, 1]
    log.sync(put(log, 3))  # somebody asks for it
    assert log.tick() is None


def test_what_is_appended_during_a_sync_waits_for_the_next(tmp_path: Path) -> None:
    def during() -> None:
        files.syncing = lambda: None
        clock.now += 2
        put(log, 1)
        clock.now += 1

    files, clock = HookedFiles(), Clock()
    log, _, _ = reopen(files, directory=str(tmp_path), durability=ASYNC, clock=clock)
    first = put(log, 0)
    files.syncing = during
    clock.now += 5
    assert log.tick() == 2.0  # five after the sync began
    assert log._durable == first
    put(log, 2)
    clock.now += 2
    assert (log.tick(), log.stats().fsyncs) == (None, 2)
    data = (tmp_path / file_name(1)).read_bytes()
    assert [batch.synced for batch in plain_batches(data)] == [64, 64, plain_batches(data)[1].offset]


def test_durability_changes_at_run_time() -> None:
    files, clock = disk(), Clock()
    log, _, _ = reopen(files, clock=clock)
    log.sync(put(log, 0))
    log.set_durability(ASYNC, 10.0)
    assert log.tick() is None
    log.acknowledge(put(log, 1))
    assert (log.tick(), log.stats().fsyncs) == (10.0, 1)
    clock.now += 1
    log.set_durability(ASYNC, 2.0)
    assert log.tick() == 2.0
    log.set_durability(ASYNC, 100.0)
    assert log.tick() == 2.0
    log.set_durability(REQUEST, 100.0)
    assert (log.tick(), log.stats().fsyncs) == (None, 2)
    log.acknowledge(put(log, 2))
    assert log.stats().fsyncs == 3
    ticket = put(log, 3)  # not acknowledged yet
    log.set_durability(ASYNC, 4.0)
    assert log.tick() == 4.0
    log.acknowledge(ticket)
    assert log.stats().fsyncs == 3


def sync_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(5_000):
        if condition():
            return
        threading.Event().wait(0.001)
    pytest.fail("it did not happen")


def test_the_thread_of_an_async_log(tmp_path: Path) -> None:
    log = translog(OS_FILES, str(tmp_path), background=True)
    list(log.recover(-1))
    assert sync_threads() == []
    log.set_durability(ASYNC, 0.01)
    assert len(sync_threads()) == 1
    for seq_no in range(3):
        before = log.stats().fsyncs
        put(log, seq_no)
        wait_until(lambda before=before: log.stats().fsyncs == before + 1)
    log.close()
    assert sync_threads() == []
    log = translog(OS_FILES, str(tmp_path), durability=ASYNC, sync_interval=60.0, background=True)
    assert seq_nos(log.recover(-1)) == [0, 1, 2]
    assert len(sync_threads()) == 1
    log.close()
    assert sync_threads() == []


def test_the_thread_ends_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "MAX_SLEEP", 0.01)
    log = translog(OS_FILES, str(tmp_path), durability=ASYNC, background=True)
    list(log.recover(-1))
    thread, = sync_threads()
    del log
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


def test_the_thread_of_a_log_that_failed_tells_the_next_caller() -> None:
    files = disk()
    log, _, _ = reopen(files, durability=ASYNC, sync_interval=0.01, background=True)
    thread, = sync_threads()
    files.fail("fsync", 1)
    ticket = put(log, 0)
    thread.join(5)
    assert not thread.is_alive()
    with pytest.raises(WriterFailedError):
        log.acknowledge(ticket)
    with pytest.raises(WriterFailedError):
        log.close()


# Threads ----------------------------------------------------------------------------------------------------


def run(*targets: Callable[[], Any]) -> list[BaseException]:
    """Call all of them at once; returns what they raised."""
    raised: list[BaseException] = []

    def guarded(target: Callable[[], Any]) -> None:
        try:
            target()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return raised


def test_many_threads_share_their_syncs(tmp_path: Path) -> None:
    files = HookedFiles()
    log, _, _ = reopen(files, directory=str(tmp_path))
    files.syncing = lambda: threading.Event().wait(0.0005)
    numbers, each, threads = count(), 25, 32
    lock = threading.Lock()

    def write() -> None:
        for _ in range(each):
            with lock:
                ticket = put(log, next(numbers))
            log.sync(ticket)
            assert log._durable >= ticket

    assert run(*[write] * threads) == []
    assert log.stats().operations == threads * each
    assert log.stats().fsyncs <= threads * each * 0.2  # 0.06 when nothing else keeps the machine busy
    log.close()
    assert seq_nos(reopen(OS_FILES, directory=str(tmp_path)).found) == list(range(threads * each))


def test_the_next_leader_syncs_for_all_that_queue(tmp_path: Path) -> None:
    files = HookedFiles()
    log, _, _ = reopen(files, directory=str(tmp_path))
    began, go_on = threading.Event(), threading.Event()
    files.syncing = lambda: (began.set(), go_on.wait())
    start = files.fsyncs

    def later(seq_no: int) -> None:
        began.wait()
        log.sync(put(log, seq_no))

    def opener() -> None:
        wait_until(lambda: log._crowd._queue == 8)
        go_on.set()

    assert run(lambda: log.sync(put(log, 0)), opener, *[lambda i=i: later(i) for i in range(1, 9)]) == []
    assert files.fsyncs - start == 2


def test_all_that_wait_for_a_failed_sync_are_told(tmp_path: Path) -> None:
    def fail() -> None:
        wait_until(lambda: log._crowd._queue == 7)  # the leader is the eighth
        raise broken

    files, broken = HookedFiles(), StorageError("it broke")
    log, _, _ = reopen(files, directory=str(tmp_path))
    log.sync(put(log, 0))
    files.syncing = fail
    start = files.fsyncs
    tickets = [put(log, seq_no) for seq_no in range(1, 9)]
    raised = run(*[lambda ticket=ticket: log.sync(ticket) for ticket in tickets])
    assert len(raised) == 8
    assert all(isinstance(error, WriterFailedError) and error.__cause__ is broken for error in raised)
    assert files.fsyncs - start == 1


def test_a_leader_gathers_a_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "GATHER", 60.0)
    log, _, _ = reopen(disk())
    log._crowd._goal = 3
    assert run(*[lambda i=i: log.sync(put(log, i)) for i in range(3)]) == []
    assert log.stats().fsyncs == 1


def test_a_writer_alone_never_waits_for_a_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "GATHER", 60.0)
    log, _, _ = reopen(disk())
    for seq_no in range(50):
        log.sync(put(log, seq_no))
    threads = [ThreadPoolExecutor(1) for _ in range(16)]  # that take turns
    for seq_no in range(50, 100):
        threads[seq_no % 16].submit(lambda seq_no=seq_no: log.sync(put(log, seq_no))).result(10)
    for thread in threads:
        thread.shutdown()


def test_a_leader_waits_only_once_for_a_crowd_that_went_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "GATHER", 0.1)
    log, _, _ = reopen(disk())
    log._crowd._goal = 16
    began = time.perf_counter()
    for seq_no in range(_Crowd.ROUND - 1):
        log.sync(put(log, seq_no))
    assert 0.1 <= time.perf_counter() - began < 0.3


def test_rotation_beside_writers(tmp_path: Path) -> None:
    log = translog(OS_FILES, str(tmp_path))
    list(log.recover(-1))
    numbers, lock, stop = count(), threading.Lock(), threading.Event()

    def write() -> None:
        for _ in range(50):
            with lock:
                ticket = put(log, next(numbers))
            log.sync(ticket)

    def rotate() -> None:
        while not stop.is_set():
            log.rotate()
            log.stats()
            stop.wait(0.001)

    def writers() -> None:
        try:
            assert run(*[write] * 4) == []
        finally:
            stop.set()

    assert run(rotate, writers) == []
    assert log.generation > 1
    log.close()
    assert seq_nos(reopen(OS_FILES, directory=str(tmp_path)).found) == list(range(200))


# Crashes everywhere -----------------------------------------------------------------------------------------


class Story:
    """What happened to a log: operations 0 to ``appended`` - 1 in it, ``acknowledged`` of them, ``committed``."""

    def __init__(self, files: CrashFiles) -> None:
        self.files = files
        self.appended = self.acknowledged = self.committed = 0

    def open(self) -> Opened:
        return reopen(self.files, self.committed - 1)

    def put(self, log: Translog, number: int = 1) -> int:
        """An append that crashes or fails may have happened."""
        start = self.appended
        self.appended += number
        return put(log, *range(start, start + number))

    def sync(self, log: Translog, ticket: int) -> None:
        now = self.appended
        log.sync(ticket)
        self.acknowledged = now

    def commit(self, log: Translog) -> None:
        now = self.appended
        generation = log.rotate()
        self.acknowledged = self.committed = now  # the manifest
        log.trim(generation)

    def check(self, files: CrashFiles) -> Opened:
        """After a crash: all that was acknowledged is there, and nothing but a prefix."""
        opened = reopen(files, self.committed - 1)
        found = opened.found
        stop = self.committed + len(found)
        assert found == operations(self.committed, stop)
        assert self.acknowledged <= stop <= self.appended
        return opened


def history(story: Story) -> None:
    log, _, _ = story.open()
    story.sync(log, story.put(log))
    story.put(log, 2)
    story.sync(log, story.put(log))
    story.put(log)
    story.put(log, 3)
    story.commit(log)
    story.put(log)
    story.sync(log, story.put(log))
    log.rotate()
    story.acknowledged = story.appended
    story.put(log, 2)
    log.close()
    story.acknowledged = story.appended
    log, _, _ = story.open()
    story.put(log, 60)
    story.put(log)
    story.commit(log)
    story.put(log)
    story.put(log)
    log, _, _ = story.open()  # the process was killed, the machine was not
    story.sync(log, story.put(log))
    story.put(log, 2)
    log.close()


def told(at: int | None) -> Story:
    story = Story(disk())
    if at is not None:
        story.files.crash(at=at)
    with suppress(Crashed):
        history(story)
    return story


def steps_of_history() -> range:
    return range(len(disk().steps), len(told(None).files.steps) + 1)


@pytest.mark.parametrize("damage", DAMAGES)
def test_crash_at_every_step(damage: Any) -> None:
    for at in steps_of_history():
        story = told(at)
        for draw in range(1 if damage in ("kill", "drop") else 5):
            files = story.files.after_crash(draw, damage)
            log = story.check(files).log
            # It lives on, and what it recovered is durable now.
            log.sync(put(log, 1_000))
            again = reopen(files.after_crash(draw, "drop"), story.committed - 1)
            assert seq_nos(again.found)[-1] == 1_000
            assert story.acknowledged < story.committed + len(again.found)


@pytest.mark.parametrize("second", DAMAGES)
def test_crash_in_recovery(second: Any) -> None:
    rng = Random(f"crash in recovery {second}")
    for at in steps_of_history():
        first = rng.choice(DAMAGES)
        story = told(at)
        found = story.files.after_crash(at, first)
        for step in count():
            files = found.after_crash(0, "kill")
            files.crash(at=step)
            with suppress(Crashed):
                story.check(files)
            if not files.crashed:
                break
            third = files.after_crash(rng.randrange(1_000), second)
            torn = reopen(third.after_crash(0, "kill"), story.committed - 1)
            assert torn.log.torn <= 1
            story.check(third)


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("operation_", [
    "append", "pwrite", "truncate", "fsync", "open", "rename", "unlink", "sync_dir", "listdir", "pread", "size"])
def test_every_call_may_fail(operation_: str, lasting: bool) -> None:
    """A typed error, and nothing acknowledged is lost, whether or not the machine crashes then."""
    number = errno.ENOSPC if operation_ in ("append", "pwrite") else errno.EIO
    for nth in count(1):
        story = Story(disk())
        if operation_ == "truncate":  # needed only after another failure
            story.files.fail("pwrite", nth, errno.ENOSPC)
            story.files.fail("truncate", 1, number, lasting=lasting)
        else:
            story.files.fail(operation_, nth, number, lasting=lasting)
        try:
            history(story)
        except (StorageError, WriterFailedError) as error:
            cause = error if isinstance(error, StorageError) else error.__cause__
            assert isinstance(cause, StorageError)
        else:
            break
        for damage in DAMAGES:
            story.check(story.files.after_crash(nth, damage))
    assert nth > 1


def test_syncs_that_fail_are_believed_to_be_lost() -> None:
    """Even if a later sync of the same file says that all is well."""
    for nth in range(1, 12):
        for damage in DAMAGES:
            story = Story(disk())
            story.files.fail("fsync", nth, path="*.log")
            with suppress(WriterFailedError):
                history(story)
            files = story.files.after_crash(0, "kill")  # this process ends, the next one starts
            opened = story.check(files)
            opened.log.sync(put(opened.log, 1_000))
            for draw in range(5):
                found = reopen(files.after_crash(draw, damage), story.committed - 1)
                assert found.found == [*opened.found, operation(1_000)]


class Machine(RuleBasedStateMachine):
    """A log beside the list of its operations. ``durable`` of them have been acknowledged under `request`."""

    @initialize(durability=st.sampled_from(Durability))
    def create(self, durability: Durability) -> None:
        self.files = disk()
        self.clock = Clock()
        self.model: list[Operation] = []
        self.durable = self.committed = 0
        self.durability = durability
        self.tickets: list[tuple[int, int]] = []
        self.torn = 0
        self.start()

    def start(self) -> None:
        self.log, found, _ = reopen(self.files, self.committed - 1, durability=self.durability, clock=self.clock)
        number = self.committed + len(found)
        assert found == self.model[self.committed : number]
        assert self.durable <= number
        del self.model[number:]
        self.tickets = []
        assert self.log.torn >= self.torn
        self.torn = self.log.torn

    @contextmanager
    def trying(self) -> Iterator[None]:
        """What fails ends this process; the next one goes on."""
        try:
            yield
        except QuidditchError:
            with suppress(QuidditchError):
                self.log.close()
            self.files = self.files.after_crash(0, "kill")
            self.start()

    @rule(number=st.integers(1, 4))
    def append(self, number: int) -> None:
        new = operations(len(self.model), len(self.model) + number)
        self.model += new
        with self.trying():
            self.tickets.append((self.log.append(new), len(self.model)))

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        ticket, number = data.draw(st.sampled_from(self.tickets))
        with self.trying():
            self.log.acknowledge(ticket)
            if self.durability is REQUEST:
                self.durable = max(self.durable, number)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def sync(self, data: st.DataObject) -> None:
        ticket, number = data.draw(st.sampled_from(self.tickets))
        with self.trying():
            self.log.sync(ticket)
            self.durable = max(self.durable, number)

    @rule(seconds=st.sampled_from([1.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        with self.trying():
            rest = self.log.tick()
            if self.durability is ASYNC and rest is None:
                self.durable = len(self.model)
            assert rest is None or 0 < rest <= 5.0

    @rule(durability=st.sampled_from(Durability))
    def change(self, durability: Durability) -> None:
        self.durability = durability
        with self.trying():
            self.log.set_durability(durability, 5.0)
            if durability is REQUEST:
                self.durable = len(self.model)

    @rule(trim=st.booleans())
    def rotate(self, trim: bool) -> None:
        with self.trying():
            generation = self.log.rotate()
            self.durable = len(self.model)
            if trim:
                self.committed = len(self.model)
                self.log.trim(generation)

    @rule()
    def close(self) -> None:
        with self.trying():
            self.log.close()
            self.durable = len(self.model)
            self.start()

    @rule(damage=st.sampled_from(DAMAGES), draw=st.integers(0, 99))
    def crash(self, damage: Any, draw: int) -> None:
        self.files = self.files.after_crash(draw, damage)
        self.start()

    @rule(within=st.integers(0, 12), damage=st.sampled_from(DAMAGES), draw=st.integers(0, 99))
    def crash_in_recovery(self, within: int, damage: Any, draw: int) -> None:
        files = self.files.after_crash(draw, damage)
        files.crash(at=within)
        with suppress(Crashed):
            reopen(files, self.committed - 1)
        self.files = files.after_crash(draw, damage)
        self.start()

    @rule(operation_=st.sampled_from(["append", "pwrite", "truncate", "fsync", "rename", "sync_dir"]))
    def fail_soon(self, operation_: str) -> None:
        self.files.fail(operation_, 1)

    @invariant()
    def the_size_is_known(self) -> None:
        if not self.log.failed:
            sizes = [len(data) for path, data in self.files.tree().items() if path.endswith(".log")]
            assert self.log.size == sum(sizes)


def test_any_history() -> None:
    run_state_machine_as_test(Machine, settings=hypothesis.settings(stateful_step_count=30))

"""Stores: what all of them promise, and what becomes of their faults."""

from __future__ import annotations

import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quidditch_core.errors import (
    DeniedError,
    OutageError,
    QuidditchError,
    SettingsError,
    SlowStoreError,
    StoreError,
    ThrottledError,
    TruncatedError,
)
from quidditch_core.tiering import Span, Store, store
from quidditch_core.tiering.store import FsspecStore, coalesced
from quidditch_core.tiering.testing import StoreContract
from tests.s3 import BUCKET, KEY, SECRET, Asked, Proxy, options, proxied


class TestDirectory(StoreContract):
    def make_store(self, place: Path) -> Store:
        return FsspecStore(f"file://{place}/store")


class TestPath(StoreContract):
    def make_store(self, place: Path) -> Store:
        return FsspecStore(str(place / "store"))


class TestMemory(StoreContract):
    def make_store(self, place: Path) -> Store:
        return FsspecStore(f"memory://{place}")


class TestS3(StoreContract):
    @pytest.fixture(autouse=True)
    def server(self, s3_server: str) -> None:
        self.url = s3_server

    def make_store(self, place: Path) -> Store:
        return FsspecStore(f"s3://{BUCKET}{str(place).lower()}", options(self.url))


class TestOverwriting(StoreContract):
    """A store that takes no notice of the condition."""

    exclusive = False

    def test_it_will_do_for_one_writer(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path)
        store.reach()
        assert store.list() == []

    def make_store(self, place: Path) -> Store:
        import fsspec
        from fsspec.implementations.memory import MemoryFileSystem

        class Heedless(MemoryFileSystem):  # type: ignore[misc]
            protocol = "heedless"

            def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **more: Any) -> None:
                super().pipe_file(path, value)

        fsspec.register_implementation("heedless", Heedless, clobber=True)
        return FsspecStore(f"heedless://{place}")


def test_requests_are_coalesced_and_cut() -> None:
    near, far = store.NEAR, 10 * store.NEAR
    assert coalesced([Span("a", 0, 10), Span("a", 10 + near, 5), Span("a", far, 1), Span("b", 0, 1)]) == [
        Span("a", 0, 15 + near), Span("a", far, 1), Span("b", 0, 1)]
    assert coalesced([Span("a", 5, 2 * store.LARGEST + 1)]) == [
        Span("a", 5, store.LARGEST), Span("a", 5 + store.LARGEST, store.LARGEST), Span("a", 5 + 2 * store.LARGEST, 1)]


def test_a_large_object_goes_in_parts(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "WHOLE", 24 << 20)  # S3 takes parts of 5 MiB and more
    there = FsspecStore(f"s3://{BUCKET}/{uuid.uuid4().hex}", options(s3_server))
    data = bytes(range(256)) * (30 << 12)
    there.put("large", [data[at : at + (1 << 20)] for at in range(0, len(data), 1 << 20)])
    assert there.size("large") == len(data)
    assert there.read([Span("large", (25 << 20) - 3, 6)]) == [data[(25 << 20) - 3 : (25 << 20) + 3]]

    def broken() -> Iterator[bytes]:
        yield data
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        there.put("broken", broken())
    assert there.list() == ["large"]


def test_each_part_of_a_large_object_is_tried_again(
    far: FsspecStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "WHOLE", 24 << 20)
    data = bytes(range(256)) * (30 << 12)
    left = [(500, "InternalError"), "drop", (503, "SlowDown")]
    proxy.plan = lambda asked: left.pop() if left and "uploadId" in asked.path else None
    far.put("large", [data])
    assert left == []
    assert far.size("large") == len(data)
    proxy.plan = lambda asked: (500, "InternalError") if "partNumber" in asked.path else None
    before = len(proxy.asked)
    with pytest.raises(OutageError) as caught:
        far.put("other", [data])
    assert sum("partNumber" in asked.path for asked in proxy.asked[before:]) == store.ATTEMPTS
    assert SECRET not in str(caught.value)
    proxy.plan = lambda asked: None
    assert far.list() == ["large", "x"]
    assert far.sweep() == 0, "it has been aborted"


def test_parts_that_a_dead_process_left_are_swept(s3_server: str, request: pytest.FixtureRequest) -> None:
    there = FsspecStore(f"s3://{BUCKET}/{uuid.uuid4().hex}", options(s3_server))
    there.put("x", [b"1"])
    fs, key = there._filesystem(), there._path("dead").partition("/")[2]
    for _ in range(2):
        made = fs.call_s3("create_multipart_upload", Bucket=BUCKET, Key=key)
        fs.call_s3("upload_part", Bucket=BUCKET, Key=key, PartNumber=1, UploadId=made["UploadId"], Body=b"1" * 100)
    time.sleep(1.1)  # S3 tells whole seconds
    if request.config.getoption("--s3-real"):  # moto says that all began in 2010
        assert there.sweep(age=3600) == 0
    assert there.sweep() == 2
    assert there.sweep() == 0
    assert there.list() == ["x"]


@pytest.fixture
def proxy(s3_server: str) -> Iterator[Proxy]:
    with proxied(s3_server) as made:
        yield made


@pytest.fixture
def far(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> FsspecStore:
    monkeypatch.setattr(store, "PAUSE", 0.01)
    made = FsspecStore(f"s3://{BUCKET}/{uuid.uuid4().hex}", options(
        proxy.url, config_kwargs={"read_timeout": 1, "retries": {"max_attempts": 0}}))
    made.put("x", [b"0123456789"])
    return made


FAULTS: list[tuple[Any, type[StoreError]]] = [
    ((500, "InternalError"), OutageError), ((502, "BadGateway"), OutageError),
    ((503, "SlowDown"), ThrottledError), ("hang", SlowStoreError), ("cut", TruncatedError),
]


@pytest.mark.parametrize(("fault", "error"), FAULTS)
def test_a_fault_that_passes_is_not_noticed(far: FsspecStore, proxy: Proxy, fault: Any, error: type[Any]) -> None:
    left = [fault] if fault == "hang" else [fault, fault]
    proxy.plan = lambda asked: left.pop() if left else None
    assert far.read([Span("x", 2, 3)]) == [b"234"]
    assert left == []


@pytest.mark.parametrize(("fault", "error"), [*FAULTS[:3], FAULTS[4]])
def test_a_fault_that_stays_is_a_typed_error(far: FsspecStore, proxy: Proxy, fault: Any, error: type[Any]) -> None:
    proxy.plan = lambda asked: fault
    before = len(proxy.asked)
    with pytest.raises(error) as caught:
        far.read([Span("x", 2, 3)])
    assert f"{far.url}/x" in str(caught.value)
    assert len(proxy.asked) - before == store.ATTEMPTS, "tries are bounded"
    with pytest.raises(error):
        far.get("x")
    if fault != "cut":
        for call in (lambda: far.put("y", [b"1"]), lambda: far.size("x"), lambda: far.list(), lambda: far.delete("x")):
            with pytest.raises(StoreError):
                call()
    proxy.plan = lambda asked: None
    assert far.get("x") == b"0123456789"


def test_a_store_that_is_slow_for_ever(far: FsspecStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "ATTEMPTS", 1)
    proxy.plan = lambda asked: "hang"
    with pytest.raises(SlowStoreError):
        far.read([Span("x", 0, 1)])


def test_denied_is_not_tried_again(far: FsspecStore, proxy: Proxy) -> None:
    proxy.plan = lambda asked: (403, "AccessDenied")
    before = len(proxy.asked)
    with pytest.raises(DeniedError):
        far.read([Span("x", 0, 1)])
    assert len(proxy.asked) == before + 1


@pytest.mark.parametrize(("status", "code", "won"), [
    (412, "PreconditionFailed", False), (409, "ConditionalRequestConflict", True)])
def test_a_create_that_lost_is_known_by_its_code(
    far: FsspecStore, proxy: Proxy, status: int, code: str, won: bool,
) -> None:
    """Whatever the store says beside it. A conflict that may pass is tried again."""
    assert far.create("first", b"so that the probe is over")
    left = [(status, code)]
    proxy.plan = lambda asked: left.pop() if left and asked.method == "PUT" else None
    assert far.create("m-1", b"mine") == won
    assert left == []


def test_a_bucket_that_is_not_there(far: FsspecStore, proxy: Proxy, s3_server: str) -> None:
    nowhere = FsspecStore("s3://nowhere/x", options(proxy.url))
    for call in (lambda: nowhere.put("y", [b"1"]), lambda: nowhere.create("y", b"1"), lambda: nowhere.get("y"),
                 lambda: nowhere.size("y"), nowhere.list, lambda: nowhere.read([Span("y", 0, 1)])):
        with pytest.raises(OutageError, match="make the bucket"):
            call()


@pytest.mark.s3_real
@pytest.mark.parametrize("wrong", ["key", "secret"])
def test_wrong_credentials_are_refused(s3_server: str, wrong: str) -> None:
    stranger = FsspecStore(f"s3://{BUCKET}/{uuid.uuid4().hex}", options(s3_server, **{wrong: "not-the-right-one"}))
    for call in (lambda: stranger.put("y", [b"1"]), lambda: stranger.create("y", b"1"), lambda: stranger.get("y"),
                 lambda: stranger.size("y"), stranger.list, lambda: stranger.delete("y"),
                 lambda: stranger.read([Span("y", 0, 1)])):
        with pytest.raises(DeniedError) as caught:
            call()
        shown = "".join(traceback.format_exception(caught.value))
        assert not [word for word in ("not-the-right-one", KEY, SECRET) if word in shown]


def test_nobody_listens() -> None:
    nowhere = FsspecStore(f"s3://{BUCKET}/x", options("http://127.0.0.1:9"))
    with pytest.raises(OutageError):
        nowhere.get("x")


def test_a_create_whose_answer_was_lost_was_ours(far: FsspecStore, proxy: Proxy) -> None:
    """The object is stored, the answer is not heard: trying again must not say that somebody else was first."""
    assert far.create("first", b"so that the probe is over")
    lost = threading.Event()

    def plan(asked: Asked) -> Any:
        if asked.method == "PUT" and asked.path.endswith("/m-1") and not lost.is_set():
            lost.set()
            return "cut"
        return None

    proxy.plan = plan
    assert far.create("m-1", b"mine")
    assert not far.create("m-1", b"another's")
    assert far.get("m-1") == b"mine"


def test_secrets_are_not_shown(far: FsspecStore, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="quidditch_core")
    proxy.plan = lambda asked: (403, f"AccessDenied {SECRET} {KEY}")
    shown = [repr(far), str(far)]
    try:
        far.get("x")
    except QuidditchError as error:
        shown += [str(error), repr(error), "".join(traceback.format_exception(error))]
    with pytest.raises(SettingsError) as refused:
        FsspecStore(f"s3://name:{SECRET}@{BUCKET}/x")
    shown += [str(refused.value), caplog.text]
    assert not [text for text in shown if SECRET in text or KEY in text]

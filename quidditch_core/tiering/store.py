"""Stores over fsspec: S3, a directory, memory, or whatever else has a URL that fsspec knows.

What differs between stores is here and nowhere else: how a conditional put says that it lost, what their errors are
called, how a directory is made to keep what it was given.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

from ..errors import (
    CorruptIndexError,
    DeniedError,
    InvalidNameError,
    OutageError,
    QuidditchError,
    SettingsError,
    SlowStoreError,
    StorageError,
    StoreError,
    ThrottledError,
    TruncatedError,
    UnsupportedError,
)
from ..files import OS_FILES, TEMP, Bytes, ensure_directory
from . import Span, is_key

T = TypeVar("T")

ATTEMPTS: Final = 4
"""How often a call is tried."""
PAUSE: Final = 0.1
"""Seconds before the second time; each further pause is three times as long, give or take a half."""
NEAR: Final = 64 << 10
"""Bytes between two spans up to which one request reads both."""
LARGEST: Final = 8 << 20
"""Bytes of one request; longer spans are read by several at once."""
WHOLE: Final = 64 << 20
"""Bytes of an object up to which it is put by one call; a longer one goes in parts."""

PROBES: Final = "probes"
"""Where objects are that only try out what the store can do."""

NO_BUCKET: Final = "NoSuchBucket"

_SECRETS: Final = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
_SLOW: Final = {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 0}}


class FsspecStore:
    """`Store` at a URL of fsspec. ``options`` are its storage options, which may hold secrets."""

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self.url = checked_url(url)
        self._options = dict(options or {})
        self._hidden = [str(value) for value in _leaves(self._options) if len(str(value)) >= 4]
        self._fs: Any = None
        self._root = ""
        self._local = False
        self._exclusive: bool | None = None
        self._writing: set[str] = set()  # paths that `sweep` must spare
        self._mutex = threading.Lock()
        self._process = os.getpid()

    def __repr__(self) -> str:
        return f"FsspecStore({self.url!r})"

    # Objects

    def put(self, key: str, chunks: Iterable[Bytes]) -> None:
        path = self._path(key)
        if self._local:
            self._write_file(path, chunks, os.replace)
            return
        rest = iter(chunks)
        held = bytearray()
        for chunk in rest:
            held += chunk
            if len(held) > WHOLE:
                self._put_parts(path, held, rest)
                return
        data = bytes(held)
        self._retried("put", key, lambda fs: fs.pipe_file(path, data))

    def create(self, key: str, data: Bytes) -> bool:
        self._path(key)
        self.try_create()
        return self._create(key, bytes(data))

    def try_create(self) -> None:
        self._filesystem()
        if not self._is_exclusive():
            raise UnsupportedError(
                "this store overwrites objects that it was told to create only if they are not there", path=self.url,
                expected="a store that heeds `If-None-Match: *`",
                fix="use another store for what several processes write")

    def get(self, key: str) -> bytes | None:
        path = self._path(key)
        try:
            found: bytes = self._retried("get", key, lambda fs: fs.cat_file(path))
        except FileNotFoundError:
            return None
        return found

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        requests = coalesced(spans)
        found: dict[Span, bytes] = {}
        pause = PAUSE
        for attempt in range(1, ATTEMPTS + 1):
            missing = [request for request in requests if request not in found]
            fault = self._read_once(missing, found)
            if fault is None:
                break
            if attempt == ATTEMPTS or fault.lasting:
                fault.keys = tuple(sorted({request.key for request in requests if request not in found}))
                raise fault from None
            pause = _rest(pause)
        return _cut(spans, requests, found)

    def _read_once(self, requests: Sequence[Span], found: dict[Span, bytes]) -> StoreError | None:
        """One round; what could not be read is not in ``found`` afterwards, and the last error is returned."""
        fs = self._filesystem()
        paths = [self._path(request.key) for request in requests]
        starts = [request.offset for request in requests]
        ends = [request.offset + request.length for request in requests]
        try:
            parts = fs.cat_ranges(paths, starts, ends, on_error="return")
        except Exception as error:
            return self._fault("read", requests[0].key, error)
        fault: StoreError | None = None
        for request, part in zip(requests, parts, strict=True):
            if isinstance(part, FileNotFoundError) and _code(part) != NO_BUCKET:
                raise self.missing(request.key)
            if isinstance(part, BaseException):
                if not isinstance(part, Exception):
                    raise part
                fault = self._fault("read", request.key, part)
            elif len(part) != request.length:
                fault = TruncatedError("the store sent fewer bytes than were asked for",
                                       path=f"{self.url}/{request.key}", found=f"{len(part)} bytes",
                                       expected=f"{request.length} bytes at {request.offset}",
                                       fix="see whether the object was cut, and restore it from a snapshot")
            else:
                found[request] = bytes(part)
        return fault

    def size(self, key: str) -> int | None:
        path = self._path(key)
        try:
            return int(self._retried("look up", key, lambda fs: fs.info(path))["size"])
        except FileNotFoundError:
            return None

    def modified(self, key: str) -> float | None:
        path = self._path(key)

        def read(fs: Any) -> float | None:
            try:
                return float(fs.modified(path).timestamp())
            except NotImplementedError:
                return None

        try:
            return self._retried("look up", key, read)
        except FileNotFoundError:
            return None

    def list(self, prefix: str = "") -> list[str]:
        path = self._path(prefix) if prefix else self._base()
        try:
            found = self._retried("list", prefix, lambda fs: fs.find(path))
        except FileNotFoundError:
            return []
        start = len(self._base().rstrip("/")) + 1
        return sorted(key for each in found if is_key(key := str(each)[start:]))

    def delete(self, key: str) -> None:
        path = self._path(key)
        with suppress(FileNotFoundError):
            self._retried("delete", key, lambda fs: fs.rm_file(path))

    def sweep(self, prefix: str = "", age: float = 0.0) -> int:
        now = time.time()
        removed = 0
        if not prefix:
            for key in self.list(PROBES):
                if now - int(key.removeprefix(f"{PROBES}/").partition("-")[0]) > age:
                    self.delete(key)
                    removed += 1
        base = f"{self._base()}/{prefix}".rstrip("/")
        if self._local:
            for directory, _, names in os.walk(base):
                for name in names:
                    path = os.path.join(directory, name)
                    if name.endswith(TEMP) and path not in self._writing:
                        with suppress(FileNotFoundError):  # another one sweeps as well
                            if now - os.stat(path).st_mtime > age:
                                os.unlink(path)
                                removed += 1
        elif hasattr(self._filesystem(), "list_multipart_uploads"):
            removed += self._retried("sweep", prefix, lambda fs: _end_uploads(fs, base, now - age, self._writing))
        return removed

    def missing(self, key: str) -> CorruptIndexError:
        return CorruptIndexError("an object is missing", path=f"{self.url}/{key}",
                                 fix="restore the index from a snapshot or a replica")

    # Conditional puts

    def _is_exclusive(self) -> bool:
        """Whether a second create of one key fails; tried out once, with an object that is removed again."""
        with self._mutex:
            if self._exclusive is None:
                with self._tried(self._create) as key:
                    self._exclusive = not self._create(key, b"2")
            return self._exclusive

    def reach(self) -> None:
        with self._tried(lambda key, data: self.put(key, [data])):
            pass

    @contextmanager
    def _tried(self, put: Callable[[str, bytes], object]) -> Iterator[str]:
        """A new object that only this call knows; it goes afterwards, and if it cannot, by `sweep`."""
        key = f"{PROBES}/{int(time.time())}-{uuid.uuid4().hex}"
        try:
            put(key, b"1")
            if self.get(key) != b"1":
                raise OutageError("the store did not keep what it was given", path=f"{self.url}/{key}",
                                  fix="try again, or use another store")
            yield key
        except BaseException:
            with suppress(StorageError):
                self.delete(key)
            raise
        self.delete(key)

    def _create(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        if self._local:
            try:
                self._write_file(path, [data], _link)
            except FileExistsError:
                return False
            return True
        tried = False  # whether one that failed may have been stored all the same: then it is ours

        def attempt(fs: Any) -> None:
            nonlocal tried
            try:
                fs.pipe_file(path, data, mode="create")
            except OSError as error:
                if _lost(error):
                    if not (tried and fs.cat_file(path) == data):
                        raise FileExistsError(errno.EEXIST, "File exists") from None
                    return
                tried |= _code(error) != "ConditionalRequestConflict"
                raise
            except Exception:
                tried = True
                raise

        try:
            self._retried("create", key, attempt)
        except FileExistsError:
            return False
        return True

    # Inside

    def _filesystem(self) -> Any:
        if self._process != os.getpid():  # a forked child has none of the threads that fsspec's clients need
            self._fs, self._process = None, os.getpid()
        if self._fs is None:
            with self._mutex:
                if self._fs is None:
                    self._open()
        return self._fs

    def _open(self) -> None:
        try:
            import fsspec
        except ImportError:
            raise UnsupportedError("stores need fsspec", path=self.url,
                                   fix="pip install 'quidditch-core[s3]'") from None
        protocol = self.url.partition("://")[0] if "://" in self.url else "file"
        options = dict(self._options)
        if protocol in ("s3", "s3a"):
            options["config_kwargs"] = {**_SLOW, **options.get("config_kwargs", {})}
            options.setdefault("use_listings_cache", False)
            options.setdefault("skip_instance_cache", True)
        try:
            fs, root = fsspec.core.url_to_fs(self.url, **options)
        except Exception as error:
            raise SettingsError("fsspec cannot open this store", path=self.url, found=self._scrubbed(error),
                                fix="check the URL, storage_options, and that the package for it is installed"
                                ) from None
        if hasattr(fs, "retries"):
            fs.retries = 1  # whoever tries again is `_retried`
        self._root, self._local = root.rstrip("/"), protocol in ("file", "local")
        self._fs = fs

    def _base(self) -> str:
        self._filesystem()
        return self._root

    def _path(self, key: str) -> str:
        if not is_key(key):
            raise InvalidNameError("not a key", path=self.url, found=key,
                                   expected="names of [a-z0-9][a-z0-9_.-]*, joined by /")
        return f"{self._base()}/{key}"

    def _retried(self, action: str, key: str, call: Callable[[Any], T]) -> T:
        """``call``, again after faults that may pass. FileNotFoundError and FileExistsError go through."""
        pause = PAUSE
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return call(self._filesystem())
            except (FileExistsError, SettingsError, UnsupportedError):
                raise
            except Exception as error:
                if isinstance(error, FileNotFoundError) and _code(error) != NO_BUCKET:
                    raise
                fault = self._fault(action, key, error)
            if attempt == ATTEMPTS or fault.lasting:
                break
            pause = _rest(pause)
        raise fault

    def _put_parts(self, path: str, held: bytearray, rest: Iterable[Bytes]) -> None:
        """An object in parts, of which nothing is seen until the last is there."""
        self._writing.add(path)
        try:
            file = self._filesystem().open(path, "wb", block_size=WHOLE // 4, autocommit=False)
            if hasattr(file, "_call_s3"):  # each request for itself: nobody keeps the parts to try all of it again
                once = file._call_s3
                file._call_s3 = lambda *given, **named: self._retried("put", path, lambda _: once(*given, **named))
            try:
                for chunk in itertools.chain([held], rest):
                    file.write(bytes(chunk))
                file.close()
                file.commit()
            except BaseException:
                with suppress(Exception):
                    file.discard()
                file.closed = True  # else it would be completed when it is collected
                raise
        except QuidditchError:
            raise  # of who made the chunks
        except Exception as error:
            raise self._fault("put", path, error) from None
        finally:
            self._writing.discard(path)

    def _write_file(self, path: str, chunks: Iterable[Bytes], publish: Callable[[str, str], object]) -> None:
        """Write a local file as a disk is written: temporary, synced, named, and the name synced."""
        directory = os.path.dirname(path)
        ensure_directory(OS_FILES, directory)
        temp = f"{path}-{uuid.uuid4().hex}{TEMP}"
        self._writing.add(temp)
        file = OS_FILES.open(temp, "w")
        try:
            for chunk in chunks:
                file.append(chunk)
            file.fsync()
            publish(temp, path)
        finally:
            file.close()
            with suppress(FileNotFoundError):
                os.unlink(temp)
            self._writing.discard(temp)
        OS_FILES.sync_dir(directory)

    def _fault(self, action: str, key: str, error: Exception) -> StoreError:
        """The typed error for what a store's client raised."""
        kinds = " ".join(kind.__name__ for kind in type(error).__mro__)
        code = _code(error)
        text = self._scrubbed(error)
        if code and code not in text:
            text = f"{code}: {text}" if error.args and error.args[-1] else code  # some stores send no more than a code
        kind: type[StoreError] = OutageError
        fix = "check that the store can be reached, and try again"
        lasting = code == NO_BUCKET
        if lasting:
            fix = "make the bucket, or correct the URL"
        elif isinstance(error, PermissionError) or "AccessDenied" in text or "NoCredentials" in kinds:
            kind, fix = DeniedError, "check the credentials, in storage_options or in the environment"
            lasting = True
        elif any(word in text for word in ("SlowDown", "reduce your request rate", "Throttl", "TooManyRequests")) \
                or error.args[:1] == (errno.EBUSY,):
            kind, fix = ThrottledError, "try again later, or ask the store for a higher limit"
        elif "Timeout" in kinds:
            kind, fix = SlowStoreError, "try again, or raise the timeouts in storage_options"
        elif "Payload" in kinds or "IncompleteRead" in kinds:
            kind, fix = TruncatedError, "try again"
        fault = kind(f"cannot {action}: {type(error).__name__}", path=f"{self.url}/{key}", found=text, fix=fix)
        fault.lasting = lasting
        fault.errno = getattr(error, "errno", None) or errno.EIO
        fault.action = action
        return fault

    def _scrubbed(self, error: BaseException) -> str:
        text = str(error)
        for secret in [*self._hidden, *filter(None, map(os.environ.get, _SECRETS))]:
            text = text.replace(secret, "***")
        return text


def checked_url(url: str) -> str:
    """``url`` without a slash at its end; SettingsError, which does not show it, if it holds credentials."""
    if not url.strip():
        raise InvalidNameError("not a store", path="url", found=url, expected="a directory or a URL of fsspec")
    host = url.partition("://")[2].partition("/")[0]
    if "@" in host:
        raise SettingsError("credentials do not belong into a URL", path="url",
                            expected="storage_options, or the environment",
                            fix="pass them there: URLs are stored and shown")
    return url.rstrip("/") or url


def coalesced(spans: Sequence[Span]) -> list[Span]:
    """Requests that cover ``spans``: near ones together, long ones in pieces."""
    requests: list[Span] = []
    for key, offset, length in sorted(set(spans)):
        last = requests[-1] if requests else None
        if last is not None and last.key == key and offset <= last.offset + last.length + NEAR:
            requests[-1] = Span(key, last.offset, max(last.length, offset + length - last.offset))
        else:
            requests.append(Span(key, offset, length))
    return [Span(key, offset + at, min(LARGEST, length - at)) for key, offset, length in requests
            for at in range(0, length, LARGEST)]


def _cut(spans: Sequence[Span], requests: Sequence[Span], found: Mapping[Span, bytes]) -> list[bytes]:
    """Each span's bytes out of those of the requests, which are sorted."""
    import bisect

    parts = []
    for key, offset, length in spans:
        at = bisect.bisect_right(requests, (key, offset, 2**63)) - 1 if length else 0
        pieces, place, end = [], offset, offset + length
        while place < end:
            request = requests[at]
            data = found[request]
            pieces.append(data[place - request.offset : end - request.offset])
            place, at = min(end, request.offset + request.length), at + 1
        parts.append(pieces[0] if len(pieces) == 1 else b"".join(pieces))
    return parts


def _lost(error: OSError) -> bool:
    """Whether this is how a store says that the object is there already. s3fs makes EINVAL of HTTP's 412."""
    return isinstance(error, FileExistsError) or error.errno == errno.EEXIST or _code(error) in (
        "PreconditionFailed", "412")


def _code(error: BaseException | None) -> str:
    """The code of S3's answer that an error came from, such as ``SlowDown``; empty if there is none."""
    while error is not None:
        answer = getattr(error, "response", None)
        if isinstance(answer, Mapping):
            return str(answer.get("Error", {}).get("Code", ""))
        error = error.__cause__
    return ""


def _end_uploads(fs: Any, base: str, before: float, spared: Collection[str]) -> int:
    """Abort the uploads to S3 below ``base`` that began before a moment and never ended; how many there were."""
    bucket, _, prefix = base.partition("/")
    ended = 0
    more: dict[str, str] = {}
    while True:
        answer = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/" if prefix else "", **more)
        for upload in answer.get("Uploads", ()):
            if upload["Initiated"].timestamp() < before and f"{bucket}/{upload['Key']}" not in spared:
                with suppress(FileNotFoundError):
                    fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
                    ended += 1
        if not answer.get("IsTruncated"):
            return ended
        more = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}


def _link(temp: str, path: str) -> None:
    os.link(temp, path)


def _rest(pause: float) -> float:
    time.sleep(pause * random.uniform(0.5, 1.5))
    return pause * 3


def _leaves(options: Any) -> Iterable[Any]:
    if isinstance(options, Mapping):
        for value in options.values():
            yield from _leaves(value)
    elif isinstance(options, str):
        yield options

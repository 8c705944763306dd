"""The blobs of a repository: each is one object, or, where a repository has a chunk size, several no larger than that.

::

    blobs/<sha256>                          a whole blob
    blobs/<sha256>.<chunk size>.<number>    a piece of it; all but the last are as long as the chunk size

Several snapshots may have one blob, and need not have it in the same form: each says in its record in which it has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from ..errors import CorruptIndexError, SettingsError, StoreError
from ..files import PAGE_SIZE, Bytes
from ..tiering import Span, Store
from .objects import PIECE, Blob, missing

WHOLE: Final = 0
"""The form of a blob that is one object; any other is the size of its pieces."""
MOST: Final = 1_000_000
"""Pieces of a blob."""

_KEY: Final = re.compile(r"blobs/([0-9a-f]{64})(?:\.[0-9]+\.[0-9]{6})?", re.ASCII)


class Blobs:
    """Blobs in ``store``; new ones go in pieces if they are larger than ``chunk_size``. ``url`` and `read` are as those
    of a `Store` in which every blob was whole, the forms being those of ``forms``: SHA-256 -> form."""

    def __init__(self, store: Store, chunk_size: int | None = None, forms: Mapping[str, int] | None = None) -> None:
        self.url = store.url
        self._store = store
        self._chunk_size = chunk_size
        self._forms = {key_of(sha256): form for sha256, form in (forms or {}).items()}

    def form_of(self, blob: Blob) -> int:
        """The form in which a new blob is put."""
        if self._chunk_size is None or blob.size <= self._chunk_size:
            return WHOLE
        if blob.size > self._chunk_size * MOST:
            raise SettingsError("a segment would be in too many pieces", path="chunk_size", found=self._chunk_size,
                                expected=f"at least {-(-blob.size // MOST)} bytes", fix="choose larger chunks")
        return self._chunk_size

    def there(self, blob: Blob) -> list[int]:
        """The forms in which a blob is there with all its bytes, right or wrong; that of new ones comes first."""
        return [form for form in dict.fromkeys((self.form_of(blob), WHOLE)) if self.complete(blob, form)]

    def complete(self, blob: Blob, form: int) -> bool:
        return self.problem(blob, form) is None

    def problem(self, blob: Blob, form: int | None = None) -> CorruptIndexError | None:
        """An error that says what is missing of a blob; by what the store says of sizes."""
        form = self._forms.get(key_of(blob.sha256), WHOLE) if form is None else form
        for key, size in objects(blob, form):
            if (problem := missing(self._store, key, size)) is not None:
                return problem
        return None

    def put(self, blob: Blob, form: int, pieces: Iterable[Bytes]) -> None:
        """Store a blob. The last object is whole or not there, so one whose ``pieces`` fail is never complete."""
        rest = _Bytes(pieces)
        for key, size in objects(blob, form):
            self._store.put(key, rest.next(size))

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        """As `Store.read`; an error names the keys of whole blobs."""
        wanted: list[Span] = []
        counts = []
        for span in spans:
            parts = list(self._parts(span))
            wanted += parts
            counts.append(len(parts))
        try:
            found = iter(self._store.read(wanted))
        except StoreError as error:
            error.keys = tuple(sorted({key.partition(".")[0] for key in error.keys}))
            raise
        return [b"".join(next(found) for _ in range(count)) for count in counts]

    def pieces(self, blob: Blob) -> Iterator[bytes]:
        """The bytes of a blob, in order."""
        for offset in range(0, blob.size, PIECE):
            yield from self.read([Span(key_of(blob.sha256), offset, min(PIECE, blob.size - offset))])

    def _parts(self, span: Span) -> Iterator[Span]:
        form = self._forms.get(span.key, WHOLE)
        if form == WHOLE:
            yield span
            return
        offset, end = span.offset, span.offset + span.length
        while offset < end:
            number, at = divmod(offset, form)
            length = min(form - at, end - offset)
            yield Span(_piece_key(span.key, form, number), at, length)
            offset += length


def key_of(sha256: str) -> str:
    """The key of a whole blob."""
    return f"blobs/{sha256}"


def sha256_of(key: str) -> str | None:
    """The SHA-256 of the blob that an object is, or is a piece of; None if it is something else."""
    found = _KEY.fullmatch(key)
    return found[1] if found is not None else None


def objects(blob: Blob, form: int) -> Iterator[tuple[str, int]]:
    """Keys and sizes of the objects that are a blob."""
    if form == WHOLE:
        yield key_of(blob.sha256), blob.size
        return
    for number in range(-(-blob.size // form)):
        yield _piece_key(key_of(blob.sha256), form, number), min(form, blob.size - number * form)


def _piece_key(key: str, form: int, number: int) -> str:
    return f"{key}.{form}.{number:06d}"


def checked_size(value: object) -> int | None:
    """A chunk size, as a number of bytes or a text such as ``"100mb"``. SettingsError if it is none."""
    from ..config import Bytes as Size

    if value is None:
        return None
    size = value if isinstance(value, int) and not isinstance(value, bool) else Size().read(value)
    if not isinstance(size, int) or not PAGE_SIZE <= size <= 5 << 40:
        raise SettingsError("not a size of objects", path="chunk_size", found=value,
                            expected='bytes, or a text like "100mb", from 64kb to 5tb')
    return size


class _Bytes:
    """Chunks of any size, handed on as pieces of given sizes."""

    def __init__(self, chunks: Iterable[Bytes]) -> None:
        self._chunks = iter(chunks)
        self._left = memoryview(b"")

    def next(self, size: int) -> Iterator[Bytes]:
        while size:
            if not self._left:
                chunk = next(self._chunks, None)
                if chunk is None:
                    return  # too short: it will not be complete
                self._left = memoryview(chunk)
            part = self._left[:size]
            self._left, size = self._left[len(part) :], size - len(part)
            yield part

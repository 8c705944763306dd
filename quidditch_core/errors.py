"""Every error that Quidditch raises on purpose.

::

    QuidditchError
    ├── RequestError (ValueError)     the caller's input; nothing was changed
    │   ├── QueryError                a request body or query, with its JSON path
    │   ├── MappingError              a mapping, or a change that an existing mapping forbids
    │   ├── SettingsError             an unknown or ill-typed setting
    │   ├── DocumentError             one document; names field, value and expected type
    │   ├── InvalidNameError          an index path, field or id that is not allowed
    │   ├── ScorerError               a scoring function that cannot be compiled
    │   └── UnsupportedError          known to OpenSearch, not to this version
    ├── ConflictError                 if_seq_no, if_primary_term or op_type="create" did not hold
    ├── NotFoundError (LookupError)   update or explain of a document that is not there
    ├── StateError                    the index cannot do this now
    │   ├── IndexNotFoundError        nothing at this path
    │   ├── IndexExistsError          create() on a path that has an index
    │   ├── IndexClosedError          use after close(), or after fork
    │   ├── ReadOnlyError             a write through a read-only index
    │   ├── LockError                 another writer holds the index
    │   ├── PublishFenced             another writer publishes at this URL
    │   ├── ReaderExpired             what a reader of a published index needs has been removed since
    │   ├── WriterFailedError         an earlier write to disk failed; reopen to go on
    │   └── DiskFullError             the disk is past the flood-stage watermark
    ├── CorruptIndexError             bytes on disk that fail their checksum or their bounds
    ├── FormatError                   written by a newer version
    └── StorageError (OSError)        the operating system refused a read or write
        └── StoreError                a store over a network failed, after it was tried again
            ├── OutageError           it cannot be reached, or answers with errors
            ├── ThrottledError        it asks for fewer requests
            ├── SlowStoreError        it did not answer in time
            ├── TruncatedError        it sent fewer bytes than it should have
            └── DeniedError           it refuses these credentials

A message says where, what was found, what was expected and what to do; the same parts are attributes, so
that a program need not parse the text.
"""

from __future__ import annotations

import reprlib
from typing import Any


class _Short(reprlib.Repr):
    """Short texts of any values. Never an error itself: who reports a bad value must be able to show it."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 80
        self.maxlevel = 3

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write integers of more than 4,300 digits.
        return super().repr_int(x, level) if x.bit_length() <= 1024 else f"an integer of {x.bit_length()} bits"

    def repr_bytes(self, x: bytes, level: int) -> str:
        return self.repr_instance(x[: self.maxother], level)


_short = _Short()

MISSING: Any = type("Missing", (), {"__repr__": lambda self: "nothing", "__slots__": ()})()


class QuidditchError(Exception):
    """Base of all errors here.

    ``path`` is a JSON path, field name or file; ``found`` the offending value; ``expected`` and ``fix`` are
    sentences without a final stop. All but the message are optional.
    """

    def __init__(
        self, message: str, *, path: str | None = None, found: Any = MISSING, expected: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.message, self.path, self.found, self.expected, self.fix = message, path, found, expected, fix
        text = f"{path}: {message}" if path else message
        if found is not MISSING:
            text += f"; found {_short.repr(found)}"
        if expected:
            text += f"; expected {expected}"
        if fix:
            text += f"; {fix}"
        super().__init__(text.encode("utf-8", "backslashreplace").decode())  # surrogates cannot be printed


class RequestError(QuidditchError, ValueError):
    """The caller's input was wrong; nothing was changed."""


class QueryError(RequestError):
    """A request body or query is wrong; ``path`` is its JSON path, as ``query.bool.must[0].match``."""


class MappingError(RequestError):
    """A mapping is wrong, or a change to it would make existing documents unreadable."""


class SettingsError(RequestError):
    """A setting is unknown, ill-typed, or cannot change on a live index."""


class DocumentError(RequestError):
    """One document does not fit the mapping; ``path`` is the field."""


class InvalidNameError(RequestError):
    """A path, field name or id is not allowed."""


class ScorerError(RequestError):
    """A scoring function cannot be compiled; ``path`` is its name."""


class UnsupportedError(RequestError):
    """OpenSearch knows this; this version of Quidditch does not yet."""


class ConflictError(QuidditchError):
    """A conditional write met another version of the document; nothing was changed."""


class NotFoundError(QuidditchError, LookupError):
    """The document that a call needs is not there."""


class StateError(QuidditchError):
    """The index cannot do this in its present state."""


class IndexNotFoundError(StateError):
    """There is no index at this path."""


class IndexExistsError(StateError):
    """``create`` was given a path that already holds an index."""


class IndexClosedError(StateError):
    """The index, reader or process that this call needs is gone."""


class ReadOnlyError(StateError):
    """A write through an index that was opened with ``read_only=True``."""


class LockError(StateError):
    """Another writer holds the index; the message says which."""


class PublishFenced(StateError):
    """Another writer publishes at this URL; the message says which, and since when."""


class ReaderExpired(StateError):
    """A published index has moved on, and what this reader of it needs is not kept any longer."""


class WriterFailedError(StateError):
    """An earlier write to disk failed, so that this writer refuses more; reopen the index."""


class DiskFullError(StateError):
    """The disk is fuller than ``cluster.routing.allocation.disk.watermark.flood_stage`` allows writes."""


class CorruptIndexError(QuidditchError):
    """Bytes on disk fail their checksum or their bounds; the message names file and offset."""


class FormatError(QuidditchError):
    """The index was written by a newer version of Quidditch."""


class StorageError(QuidditchError, OSError):
    """The operating system refused a read or a write; ``__cause__`` is its OSError.

    ``action`` is what was asked of it: ``read``, ``write``, ``sync`` and so on.
    """

    action = ""


class StoreError(StorageError):
    """A store (S3 or what takes its place) failed, after it was tried again; ``path`` is what was asked for.

    ``blobs`` names those that could not be read, as ``index.segments()`` does, where any are known; ``keys`` their
    objects. ``lasting``: it was not tried again, as nothing but a change of the store or of what it was told will help.
    """

    blobs: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    lasting = False


class OutageError(StoreError):
    """The store cannot be reached, or answers with errors of its own."""


class ThrottledError(StoreError):
    """The store asks for fewer requests."""


class SlowStoreError(StoreError):
    """The store did not answer in time."""


class TruncatedError(StoreError):
    """The store sent fewer bytes than it should have."""


class DeniedError(StoreError):
    """The store refuses these credentials."""


def nearest(name: str, known: list[str] | tuple[str, ...] | set[str] | frozenset[str]) -> str:
    """A remedy for a misspelt name: ``did you mean 'x'?``, or the list of what is known."""
    import difflib

    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else "use one of " + ", ".join(sorted(known))

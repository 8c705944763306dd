"""Operations and batches of them as bytes, and the header of a log file; pure functions, no I/O.

FORMAT.md draws the bytes. A *batch* is what one append writes: a checksummed header and the operations. The
checksum of its header starts from the *seed* of its file and from its own offset there, so that a batch of
another file, or of another place, is never taken for one of this.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from quidditch_core.errors import CorruptIndexError, FormatError, RequestError

FORMAT: Final = 0
MAX_PAYLOAD: Final = 1 << 30  # bytes of the operations of one batch
GROUP_BYTES: Final = 16 << 20  # of documents that share a batch: a replay holds one batch in memory
REPAIR: Final = "restore the index from a snapshot or a replica"

# Operations -------------------------------------------------------------------------------------------------

_Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Index(msgspec.Struct, array_like=True, tag=0, frozen=True, gc=False):
    """A document was put; ``source`` is its JSON as stored."""

    seq_no: _Number
    primary_term: _Number
    version: _Number
    id: str
    source: bytes


class Delete(msgspec.Struct, array_like=True, tag=1, frozen=True, gc=False):
    """A document was deleted, or found not to be there."""

    seq_no: _Number
    primary_term: _Number
    version: _Number
    id: str


class ChangeMapping(msgspec.Struct, array_like=True, tag=2, frozen=True):
    """The mapping became ``mapping``, in its dict form."""

    seq_no: _Number
    primary_term: _Number
    mapping: dict[str, Any]


class ChangeSettings(msgspec.Struct, array_like=True, tag=3, frozen=True):
    """The settings became ``settings``, in their dict form."""

    seq_no: _Number
    primary_term: _Number
    settings: dict[str, Any]


Operation = Index | Delete | ChangeMapping | ChangeSettings

_SOURCE: Final = attrgetter("source")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Operation])


def corrupt(what: str, path: str, offset: int, found: object, expected: str) -> CorruptIndexError:
    """The error for wrong bytes at ``offset`` of the file ``path``."""
    return CorruptIndexError(f"{what} at offset {offset}", path=path, found=found, expected=expected,
                             fix=REPAIR)


def decode_operations(payload: bytes | memoryview, path: str, offset: int) -> list[Operation]:
    """The operations of a batch; ``path`` and ``offset`` say in an error where they are.

    No size in the payload is believed beyond the payload's own length.
    """
    try:
        return _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise corrupt(f"wrong operations: {error}", path, offset, bytes(payload[:80]),
                      "operations of format 0") from error


# Batches ----------------------------------------------------------------------------------------------------

BATCH_MAGIC: Final = b"\xf5QB\xff"  # its first and last bytes are in no UTF-8 text
_BATCH: Final = struct.Struct("<4sIQII")
_CHECKED: Final = struct.Struct("<Q4sIQI")  # the offset, then the header up to its own checksum
BATCH_HEADER: Final = _BATCH.size


class BatchHeader(NamedTuple):
    """``length`` and ``crc`` of the payload; ``synced``: the file was known durable up to here, in bytes."""

    length: int
    synced: int
    crc: int


def encode_header(header: BatchHeader, offset: int, seed: int) -> bytes:
    """The header of the batch that begins at ``offset`` of the file with ``seed``."""
    checked = _CHECKED.pack(offset, BATCH_MAGIC, header.length, header.synced, header.crc)
    return checked[8:] + zlib.crc32(checked, seed).to_bytes(4, "little")


def decode_header(data: bytes | memoryview, at: int, offset: int, seed: int) -> BatchHeader | None:
    """The header at ``data[at:]``, which is at ``offset`` of its file; None if these bytes are none."""
    if len(data) - at < BATCH_HEADER:
        return None
    magic, length, synced, crc, own_crc = _BATCH.unpack_from(data, at)
    if magic != BATCH_MAGIC or zlib.crc32(_CHECKED.pack(offset, magic, length, synced, crc), seed) != own_crc:
        return None
    return BatchHeader(length, synced, crc)


def encode_batch(operations: Sequence[Operation], offset: int, synced: int, seed: int) -> bytearray:
    """One batch, to be written at ``offset`` of a file that is synced up to ``synced``."""
    batch = bytearray(BATCH_HEADER)
    _encoder.encode_into(operations, batch, BATCH_HEADER)
    length = len(batch) - BATCH_HEADER
    if length > MAX_PAYLOAD:
        raise RequestError("the operation is too large for the log", found=f"{length} bytes",
                           expected=f"at most {MAX_PAYLOAD} bytes", fix="split the document")
    crc = zlib.crc32(memoryview(batch)[BATCH_HEADER:])
    batch[:BATCH_HEADER] = encode_header(BatchHeader(length, synced, crc), offset, seed)
    return batch


def groups(operations: Sequence[Operation]) -> Iterator[Sequence[Operation]]:
    """``operations`` in order, in as few batches as `GROUP_BYTES` allows."""
    if operations and _are_few(operations):
        yield operations
        return
    start, size = 0, 0
    for i, operation in enumerate(operations):
        if isinstance(operation, Index):
            if size + len(operation.source) > GROUP_BYTES and i > start:
                yield operations[start:i]
                start, size = i, 0
            size += len(operation.source)
    if start < len(operations):
        yield operations[start:]


def _are_few(operations: Sequence[Operation]) -> bool:
    """Whether these are documents, with no more bytes than one batch takes."""
    try:
        return sum(map(len, map(_SOURCE, operations))) <= GROUP_BYTES
    except AttributeError:  # others have no source
        return False


# Files ------------------------------------------------------------------------------------------------------

FILE_NAME: Final = re.compile(r"translog-(\d{16})\.log", re.ASCII)
FILE_MAGIC: Final = b"\xf5Qlog\r\n\xff"
_FILE: Final = struct.Struct("<8sI16sQQqQI")
FILE_HEADER: Final = _FILE.size


class FileHeader(NamedTuple):
    """What a generation says of itself and of the one before it.

    ``previous``: bytes of the generation before that count, 0 if this one has no need of it. ``before``: no
    operation in earlier generations has a higher seq_no. ``born``: the file was durable up to here, in
    bytes, before it got its name. ``uuid`` of the index, 32 hexadecimal digits.
    """

    uuid: str
    generation: int
    previous: int
    before: int
    born: int


def file_name(generation: int) -> str:
    return f"translog-{generation:016d}.log"


def encode_file_header(header: FileHeader) -> bytes:
    uuid, *numbers = header
    data = _FILE.pack(FILE_MAGIC, FORMAT, bytes.fromhex(uuid), *numbers, 0)[:-4]
    return data + zlib.crc32(data).to_bytes(4, "little")


def decode_file_header(data: bytes | memoryview, path: str, uuid: str, generation: int) -> FileHeader:
    """The header in ``data``; FormatError if it is a newer one, CorruptIndexError if it is not this one."""
    data = bytes(data[:FILE_HEADER])
    if len(data) < FILE_HEADER or zlib.crc32(data[:-4]) != seed_of(data):
        raise corrupt("damaged header", path, 0, data, f"{FILE_HEADER} bytes that fit their checksum")
    magic, version, found, *numbers, _ = _FILE.unpack(data)
    if magic != FILE_MAGIC:
        raise corrupt("not a log", path, 0, magic, repr(FILE_MAGIC))
    if version > FORMAT:
        raise FormatError("log of a newer format", path=path, found=version, expected=f"at most {FORMAT}",
                          fix="install a newer version of quidditch-core")
    header = FileHeader(found.hex(), *numbers)
    if header.uuid != uuid:
        raise corrupt("log of another index", path, 0, header.uuid, uuid)
    if header.generation != generation:
        raise corrupt("log of another generation", path, 0, header.generation, str(generation))
    return header


def seed_of(header: bytes | memoryview) -> int:
    """Where the checksums of a file's batches start from: the checksum of its header."""
    return int.from_bytes(header[FILE_HEADER - 4 : FILE_HEADER], "little")

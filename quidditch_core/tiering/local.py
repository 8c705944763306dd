"""Blobs in a local directory: written whole, mapped into memory, verified page by page before use."""

from __future__ import annotations

import errno
import hashlib
import os
import zlib
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from quidditch_core.errors import CorruptIndexError, IndexClosedError, InvalidNameError, StorageError
from quidditch_core.files import PAGE_SIZE, TEMP, Bytes, File, Files, ensure_directory, is_name, storage_error
from quidditch_core.segment import address
from quidditch_core.tiering import HOT, BlobInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

_REPAIR = "restore the index from a snapshot or a replica"


class LocalTier:
    """`Tier` in a directory that holds nothing else; the directory appears with the first blob."""

    def __init__(self, files: Files, directory: str, name: str = HOT) -> None:
        self.name = name
        self._files = files
        self._directory = directory
        self._made = False  # whether the directory is known to be there, durably
        self._writing: set[str] = set()

    def write(self, name: str, chunks: Iterable[Bytes]) -> BlobInfo:
        path = self._path(name)
        temp = path + TEMP
        if not self._made:
            ensure_directory(self._files, self._directory)
            self._made = True
        if self._files.exists(path):
            raise storage_error("write a blob twice", path, FileExistsError(errno.EEXIST, "File exists"))
        self._writing.add(name + TEMP)
        try:
            size, digest = self._write(temp, chunks)
            self._files.rename(temp, path)
        except BaseException:
            with suppress(StorageError):
                self._files.unlink(temp)
            raise
        finally:
            self._writing.discard(name + TEMP)
        return BlobInfo(name, size, digest)

    def _write(self, temp: str, chunks: Iterable[Bytes]) -> tuple[int, str]:
        digest = hashlib.sha256()
        file = self._files.open(temp, "w")
        try:
            for chunk in chunks:
                file.append(chunk)
                digest.update(chunk)
            file.fsync()
            return file.size(), digest.hexdigest()
        finally:
            file.close()

    def sync(self) -> None:
        if self._files.exists(self._directory):
            self._files.sync_dir(self._directory)

    def open(self, name: str, expect_size: int | None = None) -> LocalBlob:
        path = self._path(name)
        try:
            file = self._files.open(path, "r")
        except StorageError as error:
            if error.errno != errno.ENOENT:
                raise
            raise CorruptIndexError("blob is missing", path=path, fix=_REPAIR) from error
        size = file.size()
        if size == 0 or (expect_size is not None and size != expect_size):
            expected = "at least one" if expect_size is None else str(expect_size)
            raise CorruptIndexError("blob has a wrong length", path=path, found=f"{size} bytes",
                                    expected=f"{expected} bytes", fix=_REPAIR)
        return LocalBlob(name, file)

    def delete(self, name: str) -> None:
        try:
            self._files.unlink(self._path(name))
        except StorageError as error:
            if error.errno != errno.ENOENT:
                raise

    def list(self) -> list[str]:
        return sorted(filter(is_name, self._entries()))

    def sweep(self) -> int:
        left = [entry for entry in self._entries() if entry.endswith(TEMP) and entry not in self._writing]
        for entry in left:
            self._files.unlink(os.path.join(self._directory, entry))
        return len(left)

    def _entries(self) -> Iterable[str]:
        return self._files.listdir(self._directory) if self._files.exists(self._directory) else ()

    def _path(self, name: str) -> str:
        if not is_name(name):
            raise InvalidNameError("not a blob name", path=self._directory, found=name,
                                   expected="[a-z0-9][a-z0-9_.-]*, up to 251 characters, not ending in .tmp")
        return os.path.join(self._directory, name)


class LocalBlob:
    """`Blob` over a mapped file.

    Pages are verified on bytes that ``pread`` returned, because an I/O error there is an exception and in
    the map a signal; the map shows the same page cache. Threads that race verify a page twice, no more.
    """

    __slots__ = ("_covered", "_crcs", "_file", "_verified", "address", "name", "size", "view")

    def __init__(self, name: str, file: File) -> None:
        self.name = name
        self.view = file.map()
        self.size = self.view.nbytes
        self.address = address(np.frombuffer(self.view, np.uint8))
        self._file: File | None = file
        self._crcs: NDArray[np.uint32] = np.zeros(0, np.uint32)
        self._covered = 0
        self._verified = bytearray()  # one byte a page: 0 not yet, 1 verified

    def pread(self, offset: int, size: int) -> bytes:
        file = self._open_file()
        if not 0 <= offset <= offset + size <= self.size:
            raise self._outside(offset, size, self.size)
        data = file.pread(offset, size)
        if len(data) != size:
            raise CorruptIndexError(f"file was cut while open, offset {offset}", path=file.path,
                                    found=f"{len(data)} bytes", expected=f"{size} bytes", fix=_REPAIR)
        return data

    def set_checksums(self, crcs: NDArray[np.uint32], covered: int) -> None:
        file = self._open_file()
        pages = -(-covered // PAGE_SIZE)
        if not 0 <= covered <= self.size or len(crcs) != pages:
            raise CorruptIndexError(f"page checksums do not fit a blob of {self.size} bytes", path=file.path,
                                    found=f"{len(crcs)} checksums for {covered} bytes",
                                    expected=f"one for each {PAGE_SIZE} bytes", fix=_REPAIR)
        self._crcs, self._covered, self._verified = crcs.astype(np.uint32), covered, bytearray(pages)

    def need(self, ranges: Iterable[tuple[int, int]]) -> None:
        covered, unverified = self._covered, self._verified.find
        for offset, length in ranges:
            end = offset + length
            if not 0 <= offset <= end <= covered:
                self._open_file()
                raise self._outside(offset, length, covered)
            if length and unverified(0, offset // PAGE_SIZE, (end - 1) // PAGE_SIZE + 1) >= 0:
                self._verify(offset // PAGE_SIZE, (end - 1) // PAGE_SIZE + 1)

    def _verify(self, first: int, end: int) -> None:
        file, covered, verified, crcs = self._open_file(), self._covered, self._verified, self._crcs
        for page in range(first, end):
            if verified[page]:
                continue
            start = page * PAGE_SIZE
            found = zlib.crc32(self.pread(start, min(PAGE_SIZE, covered - start)))
            expected = int(crcs[page])
            if found != expected:
                raise CorruptIndexError(f"page {page} at offset {start} fails its checksum", path=file.path,
                                        found=f"{found:08x}", expected=f"{expected:08x}", fix=_REPAIR)
            verified[page] = 1

    def close(self) -> None:
        # The descriptor goes with its last user, which may be a thread inside need() right now. View and
        # address stay: no address that somebody still has may dangle while this object is there.
        self._file, self._covered = None, 0

    def _open_file(self) -> File:
        if self._file is None:
            raise IndexClosedError("blob is closed", path=self.name, fix="open a new reader")
        return self._file

    def _outside(self, offset: int, length: int, end: int) -> CorruptIndexError:
        return CorruptIndexError(f"bytes {offset} to {offset + length} are outside what is stored",
                                 path=self.name, expected=f"offsets from 0 to {end}", fix=_REPAIR)

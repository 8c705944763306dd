"""An image: machine code that is ready to run wherever it is mapped, and what must hold for it to be run.

Images ship with the package, one for each kind of processor, and fill the private cache. One file is ::

    code        position-independent, padded to a page
    manifest    JSON, see Manifest
    trailer     u64 size of the code, u64 size of the manifest, SHA-256 of all that precedes, the magic

Loading one takes a read, a hash and a mapping: no compiler, no linker and nothing that they depend on. The few
functions of the C library that code may call are reached through *slots*, 8 bytes each, at ``slots_at(code size)``
behind the code, which the loader fills in.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import struct
from collections.abc import Callable

import msgspec

MAGIC = b"QUIDDITCH IMAGE1"
PAGE = 65536
"""The largest page that a supported processor has."""
_TRAILER = struct.Struct("<QQ32s16s")
_MAP_FIXED = 0x10
_FAILED = ctypes.c_void_p(-1).value


class Entry(msgspec.Struct, frozen=True):
    """A kernel of an image: where it begins, how many int64 it takes, and the sources it was made of."""

    at: int
    arity: int
    files: tuple[str, ...] = ()


class Manifest(msgspec.Struct, frozen=True):
    """What an image holds and what it was made for.

    ``key`` is the cache key, empty in an image that ships. ``files`` are the SHA-256 of the sources, by their path in
    the package. ``imports`` are the C functions of the slots.
    """

    abi: int
    cpu: str
    maker: str
    key: str = ""
    files: dict[str, str] = {}
    imports: tuple[str, ...] = ()
    kernels: dict[str, Entry] = {}


class Damaged(Exception):
    """The bytes are no whole image."""


def slots_at(size: int) -> int:
    """Distance from the start of ``size`` bytes of code to its slots."""
    return -(-size // PAGE) * PAGE


def pack(code: bytes, manifest: Manifest) -> bytes:
    """The bytes of the file."""
    code += bytes(-len(code) % mmap.PAGESIZE)
    told = msgspec.json.encode(manifest)
    body = code + told
    sizes = struct.pack("<QQ", len(code), len(told))
    return body + sizes + hashlib.sha256(body + sizes).digest() + MAGIC


class Image:
    """The verified bytes of a file; raises :class:`Damaged` where they are not what :func:`pack` made."""

    def __init__(self, data: bytes) -> None:
        if len(data) < _TRAILER.size:
            raise Damaged(f"{len(data)} bytes are too few")
        code, told, digest, magic = _TRAILER.unpack_from(data, len(data) - _TRAILER.size)
        if magic != MAGIC or code + told + _TRAILER.size != len(data):
            raise Damaged("its end is not that of an image")
        if hashlib.sha256(memoryview(data)[: code + told + 16]).digest() != digest:
            raise Damaged("its checksum does not match")
        self.code = memoryview(data)[:code]
        try:
            self.manifest = msgspec.json.decode(data[code : code + told], type=Manifest)
        except msgspec.MsgspecError as error:
            raise Damaged(f"its manifest is another's: {error}") from None

    def map(self, path: str | os.PathLike[str]) -> int:
        """Copy the code to memory, let it run, and return where it begins. It stays for the life of the process.

        Systems that let no memory become code may still map the file at ``path``. Raises OSError if not even that.
        """
        libc = ctypes.CDLL(None, use_errno=True)
        size, slots = len(self.code), slots_at(len(self.code))
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        base = libc.mmap(None, slots + 8 * len(self.manifest.imports), mmap.PROT_READ | mmap.PROT_WRITE, private, -1, 0)
        if base in (None, _FAILED):
            raise OSError(ctypes.get_errno(), "no memory for machine code")
        code = self.code.tobytes()
        ctypes.memmove(base, code, size)
        for number, name in enumerate(self.manifest.imports):
            function = ctypes.cast(getattr(libc, name), ctypes.c_void_p)
            ctypes.c_void_p.from_address(base + slots + 8 * number).value = function.value
        runs = mmap.PROT_READ | mmap.PROT_EXEC
        if libc.mprotect(ctypes.c_void_p(base), ctypes.c_size_t(size), runs):
            with open(path, "rb") as file:
                mapped = libc.mmap(base, size, runs, mmap.MAP_PRIVATE | _MAP_FIXED, file.fileno(), 0)
            if mapped != base or ctypes.string_at(base, size) != code:
                raise OSError(ctypes.get_errno(), "the system does not let memory become code")
        return int(base)


def function(base: int, entry: Entry) -> Callable[..., int]:
    """The kernel ``entry`` of the image that was mapped at ``base``; calling it releases the GIL."""
    return ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * entry.arity)(base + entry.at)

"""An image: machine code that is ready to run wherever it is mapped, and what must hold for it to be run.

Images ship with the package, one for each kind of processor, and fill the private cache. One file is ::

    code        position-independent, padded to a page
    manifest    JSON, see Manifest
    trailer     u64 size of the code, u64 size of the manifest, SHA-256 of all that precedes, the magic

Loading one takes a read, a hash and a mapping: no compiler, no linker and nothing that they depend on. The few
functions of the C library and of Python's stable ABI that code may call are reached through *slots*, 8 bytes each, at
``slots_at(code size)`` behind the code, which the loader fills in.

Each kernel is there twice: as a C function of int64, and as a builtin function of Python around that, which costs a
tenth of a call through ctypes.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import mmap
import os
import struct
import sys
from collections.abc import Callable
from typing import Any

import msgspec

MAGIC = b"QUIDDITCH IMAGE1"
PAGE = 65536
"""The largest page that a supported processor has."""
_TRAILER = struct.Struct("<QQ32s16s")
_MAP_FIXED = 0x10
_FAILED = ctypes.c_void_p(-1).value
_METH_FASTCALL = 0x80
OF_PYTHON = "python."
PYTHON = frozenset(OF_PYTHON + name for name in (
    "PyLong_AsUnsignedLongLongMask", "PyLong_FromLongLong", "PyErr_Occurred", "PyErr_BadArgument", "PyEval_SaveThread",
    "PyEval_RestoreThread"))
"""What builtin functions call: part of the stable ABI. The prefix tells these calls from any that a kernel makes, which
may not, since it does not hold the GIL."""


def python_name(name: str) -> str:
    """The symbol of the builtin function of a kernel."""
    return f"{name}.python"


class Entry(msgspec.Struct, frozen=True):
    """A kernel of an image: where it begins, how many int64 it takes, the sources it was made of, and where its builtin
    function begins (0: there is none)."""

    at: int
    arity: int
    files: tuple[str, ...] = ()
    python_at: int = 0


class Manifest(msgspec.Struct, frozen=True):
    """What an image holds and what it was made for.

    ``key`` is the cache key, empty in an image that ships. ``files`` are the SHA-256 of the sources, by their path in
    the package. ``imports`` are the functions of the slots.
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
            if name not in PYTHON or _has_stable_abi():
                found = ctypes.cast(getattr(libc, name.removeprefix(OF_PYTHON)), ctypes.c_void_p)
                ctypes.c_void_p.from_address(base + slots + 8 * number).value = found.value
        runs = mmap.PROT_READ | mmap.PROT_EXEC
        if libc.mprotect(ctypes.c_void_p(base), ctypes.c_size_t(size), runs):
            with open(path, "rb") as file:
                mapped = libc.mmap(base, size, runs, mmap.MAP_PRIVATE | _MAP_FIXED, file.fileno(), 0)
            if mapped != base or ctypes.string_at(base, size) != code:
                raise OSError(ctypes.get_errno(), "the system does not let memory become code")
        return int(base)


class _Method(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = (("name", ctypes.c_char_p), ("code", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p))


_methods: list[_Method] = []  # builtin functions refer to them for ever


def function(base: int, entry: Entry) -> Callable[..., int]:
    """The kernel ``entry`` of the image that was mapped at ``base``; calling it releases the GIL."""
    if not entry.python_at or not _has_stable_abi():
        return ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * entry.arity)(base + entry.at)
    method = _Method(b"kernel", base + entry.python_at, _METH_FASTCALL, None)
    _methods.append(method)
    make: Any = ctypes.pythonapi.PyCFunction_NewEx
    make.restype, make.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    made: Callable[..., int] = make(ctypes.byref(method), None, None)
    return made


@functools.cache
def _has_stable_abi() -> bool:
    """Whether this is a Python whose functions machine code can find."""
    here = ctypes.CDLL(None)
    return sys.implementation.name == "cpython" and all(
        hasattr(here, name.removeprefix(OF_PYTHON)) for name in PYTHON)

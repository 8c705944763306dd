"""The one door to compiled code, and the only file that knows Numba.

A kernel is a Python function over int64 values (addresses and numbers) that returns an int64. It allocates
nothing, raises nothing and touches no Python object, so Numba can turn it into plain object code that runs
without Numba: the first call compiles it (or finds the object in a private cache), loads it through
``llvmlite.binding`` and from then on calls it by address through ctypes, which releases the GIL.

``@kernel`` marks an entry, ``@helper`` a function that kernels call. Both decorators only remember the
function: importing a kernel file imports neither Numba nor llvmlite. Memory is read and written by ``load_*``
and ``store_*``, which exist only in compiled code.

Every kernel names its NumPy reference, a function of the same signature that reads and writes the same
addresses. ``QUIDDITCH_KERNELS=numpy`` calls the references instead; the tests compare both.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib
import inspect
import os
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

ABI = 1
"""Number of the calling convention and of the descriptors; part of every cache key."""

_lock = threading.RLock()
_engines: list[Any] = []  # execution engines own the machine code, so they live as long as the process


class Primitive:
    """A name that means something only inside compiled code, such as ``load_u32``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: Any) -> Any:
        raise TypeError(f"{self.name} exists only inside a compiled kernel")


load_u8, load_u16, load_u32, load_i32 = map(Primitive, ("load_u8", "load_u16", "load_u32", "load_i32"))
load_u64, load_i64, load_f32, load_f64 = map(Primitive, ("load_u64", "load_i64", "load_f32", "load_f64"))
store_u8, store_u16, store_u32, store_i32 = map(Primitive, ("store_u8", "store_u16", "store_u32", "store_i32"))
store_u64, store_i64, store_f32, store_f64 = map(Primitive, ("store_u64", "store_i64", "store_f32", "store_f64"))
f32_bits, bits_f32 = Primitive("f32_bits"), Primitive("bits_f32")
popcount, ctz = Primitive("popcount"), Primitive("ctz")


class Helper:
    """A function that is compiled into the kernels that call it."""

    def __init__(self, function: types.FunctionType, inline: bool = False) -> None:
        self.function = function
        self.inline = inline

    def __call__(self, *args: Any) -> Any:
        raise TypeError(f"{self.function.__name__} exists only inside a compiled kernel")


class Kernel:
    """An entry point: ``kernel(*int64) -> int64``. ``reference`` is ``module:function``."""

    def __init__(self, function: types.FunctionType, reference: str) -> None:
        self.function = function
        self.reference = reference
        self.arity = len(inspect.signature(function).parameters)
        self.name = f"{function.__module__.removeprefix('quidditch_core.')}.{function.__name__}"
        self._call: Callable[..., int] | None = None
        self._machine: Callable[..., int] | None = None
        self.__doc__ = function.__doc__

    def __call__(self, *args: int) -> int:
        call = self._call
        if call is None:
            call = self.prepare()
        return call(*args)

    def prepare(self) -> Callable[..., int]:
        """Load or compile the machine code now (``quidditch warmup`` does it for every kernel)."""
        with _lock:
            if self._call is None:
                self._call = self.compiled() if enabled() else self.referenced()
            return self._call

    def compiled(self) -> Callable[..., int]:
        """The machine code as a function of ``arity`` int64; loaded once, for code is never unloaded."""
        with _lock:
            if self._machine is None:
                code, symbol = _object_code(self)
                prototype = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * self.arity)
                self._machine = prototype(_load(code, symbol))
            return self._machine

    def referenced(self) -> Callable[..., int]:
        """The NumPy reference."""
        module, _, name = self.reference.partition(":")
        function: Callable[..., int] = getattr(importlib.import_module(module), name)
        return function


def kernel(reference: str) -> Callable[[Callable[..., int]], Kernel]:
    """Mark a function as a kernel whose NumPy reference is ``module:function``.

    Its module may import only NumPy, this module, the layout in ``segment`` and other kernel files.
    """
    def mark(function: Callable[..., int]) -> Kernel:
        assert isinstance(function, types.FunctionType)
        return Kernel(function, reference)
    return mark


def helper(function: Callable[..., Any]) -> Helper:
    """Mark ``function`` as callable from kernels."""
    assert isinstance(function, types.FunctionType)
    return Helper(function)


def inline_helper(function: Callable[..., Any]) -> Helper:
    """Like :func:`helper`, always inlined; for bodies of a few instructions."""
    assert isinstance(function, types.FunctionType)
    return Helper(function, inline=True)


def enabled() -> bool:
    """False when ``QUIDDITCH_KERNELS=numpy`` asks for the NumPy references."""
    return os.environ.get("QUIDDITCH_KERNELS", "") != "numpy"


# --- compiling -------------------------------------------------------------------------------------------


def _sources(root: Helper | Kernel, seen: dict[str, str]) -> dict[str, str]:
    """Qualified name -> source, of ``root`` and everything it calls: what a cached object depends on."""
    function = root.function
    name = f"{function.__module__}.{function.__qualname__}"
    if name in seen:
        return seen
    parts = [inspect.getsource(function)]
    seen[name] = ""
    for used in sorted(_names(function.__code__)):
        value = function.__globals__.get(used)
        if isinstance(value, Helper):
            _sources(value, seen)
        elif isinstance(value, int | float):
            parts.append(f"{used}={value!r}")
    seen[name] = "\n".join(parts)
    return seen


def _names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            names |= _names(const)
    return names


def _key(entry: Kernel) -> str:
    import llvmlite
    import llvmlite.binding as llvm
    import numpy

    digest = hashlib.sha256(repr((ABI, sys.version_info[:2], llvmlite.__version__, _numba_version(),
                                  numpy.__version__)).encode())
    digest.update(repr((llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())).encode())
    for file in (Path(__file__), Path(__file__).with_name("simd.py")):
        digest.update(file.read_bytes())
    for name, source in sorted(_sources(entry, {}).items()):
        digest.update(name.encode() + b"\0" + source.encode() + b"\0")
    return digest.hexdigest()[:32]


def _numba_version() -> str:
    from importlib.metadata import version

    return version("numba")


def _cache_dir() -> Path | None:
    """A directory of ours that nobody else can write to, or None."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache"))
    if not base.is_absolute():
        return None
    path = base / "quidditch" / "kernels"
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        state = path.stat()
        if state.st_uid != os.getuid():
            return None
        if state.st_mode & 0o077:
            path.chmod(0o700)
    except OSError:
        return None
    return path


_MAGIC = b"QDKERNEL1\n"


def _read_cached(path: Path) -> tuple[bytes, str] | None:
    """The object and its symbol if the file is whole; a damaged file is deleted."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    head = len(_MAGIC)
    if data[:head] == _MAGIC and hashlib.sha256(data[head + 32:]).digest() == data[head:head + 32]:
        symbol, _, code = data[head + 32:].partition(b"\0")
        return code, symbol.decode()
    with contextlib.suppress(OSError):
        path.unlink()
    return None


def _write_cached(path: Path, code: bytes, symbol: str) -> None:
    body = symbol.encode() + b"\0" + code
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    with contextlib.suppress(OSError):  # a full or read-only cache costs time, never an answer
        temporary.write_bytes(_MAGIC + hashlib.sha256(body).digest() + body)
        temporary.replace(path)


def _object_code(entry: Kernel) -> tuple[bytes, str]:
    directory = _cache_dir()
    path = directory / f"{entry.name}-{_key(entry)}.o" if directory else None
    if path is not None and (cached := _read_cached(path)) is not None:
        return cached
    _announce(cached=path is not None)
    code, symbol = _compile(entry)
    if path is not None:
        _write_cached(path, code, symbol)
    return code, symbol


_announced = False


def _announce(cached: bool) -> None:
    global _announced
    if not _announced:
        _announced = True
        after = ("once on this machine; `quidditch warmup` does it ahead of time" if cached
                 else "in every process, since no private cache directory is usable")
        print(f"quidditch: compiling kernels for this CPU ({after})", file=sys.stderr, flush=True)


def _compile(entry: Kernel) -> tuple[bytes, str]:
    from numba import cfunc
    from numba import types as nbt

    signature = nbt.int64(*[nbt.int64] * entry.arity)
    compiled: Any = cfunc(signature, error_model="numpy")(_bind(entry.function, {}))
    return compiled._library.serialize_using_object_code()[2][0], compiled.native_name


def _bind(function: types.FunctionType, done: dict[int, Any]) -> types.FunctionType:
    """A copy of ``function`` whose globals hold Numba's counterparts of our helpers and primitives."""
    from numba import njit

    bound = dict(function.__globals__)
    for name in _names(function.__code__):
        value = bound.get(name)
        if isinstance(value, Primitive):
            bound[name] = _primitives()[value.name]
        elif isinstance(value, Helper):
            if id(value) not in done:
                done[id(value)] = njit(nogil=True, error_model="numpy", forceinline=value.inline)(
                    _bind(value.function, done))
            bound[name] = done[id(value)]
    return types.FunctionType(function.__code__, bound, function.__name__, function.__defaults__)


_primitive_table: dict[str, Any] = {}


def _primitives() -> dict[str, Any]:
    """The loads, stores and bit operations as Numba intrinsics (portable LLVM IR)."""
    if _primitive_table:
        return _primitive_table
    from llvmlite import ir
    from numba import types as nbt
    from numba.extending import intrinsic

    from .simd import intrinsics

    _primitive_table.update(intrinsics())

    def load(width: int, signed: bool, result: Any, floating: Any = None) -> Any:
        @intrinsic
        def primitive(typingctx: Any, address: Any) -> Any:
            def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                kind = floating or ir.IntType(width)
                value = builder.load(builder.inttoptr(args[0], kind.as_pointer()))
                value.align = 1
                if floating or width == 64:
                    return value
                return (builder.sext if signed else builder.zext)(value, ir.IntType(64))
            return result(nbt.int64), build
        return primitive

    def store(width: int, argument: Any, floating: Any = None) -> Any:
        @intrinsic
        def primitive(typingctx: Any, address: Any, value: Any) -> Any:
            def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                kind = floating or ir.IntType(width)
                cast = args[1]
                if not floating and width < 64:
                    cast = builder.trunc(cast, kind)
                builder.store(cast, builder.inttoptr(args[0], kind.as_pointer()), align=1)
                return context.get_dummy_value()
            return nbt.void(nbt.int64, argument), build
        return primitive

    def unary(result: Any, argument: Any, emit: Callable[[Any, Any], Any]) -> Any:
        @intrinsic
        def primitive(typingctx: Any, value: Any) -> Any:
            def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                return emit(builder, args[0])
            return result(argument), build
        return primitive

    i64, single, double = ir.IntType(64), ir.FloatType(), ir.DoubleType()
    for width in (8, 16, 32):
        _primitive_table[f"load_u{width}"] = load(width, False, nbt.int64)
        _primitive_table[f"store_u{width}"] = store(width, nbt.int64)
    _primitive_table["load_i32"] = load(32, True, nbt.int64)
    _primitive_table["store_i32"] = store(32, nbt.int64)
    _primitive_table["load_u64"] = load(64, False, nbt.uint64)
    _primitive_table["store_u64"] = store(64, nbt.uint64)
    _primitive_table["load_i64"] = load(64, True, nbt.int64)
    _primitive_table["store_i64"] = store(64, nbt.int64)
    _primitive_table["load_f32"] = load(32, False, nbt.float32, single)
    _primitive_table["store_f32"] = store(32, nbt.float32, single)
    _primitive_table["load_f64"] = load(64, False, nbt.float64, double)
    _primitive_table["store_f64"] = store(64, nbt.float64, double)
    _primitive_table["f32_bits"] = unary(
        nbt.int64, nbt.float32, lambda b, v: b.zext(b.bitcast(v, ir.IntType(32)), i64))
    _primitive_table["bits_f32"] = unary(
        nbt.float32, nbt.int64, lambda b, v: b.bitcast(b.trunc(v, ir.IntType(32)), single))
    _primitive_table["popcount"] = unary(nbt.int64, nbt.uint64, lambda b, v: b.ctpop(v))
    _primitive_table["ctz"] = unary(
        nbt.int64, nbt.uint64, lambda b, v: b.cttz(v, ir.Constant(ir.IntType(1), 0)))
    return _primitive_table


# --- loading ---------------------------------------------------------------------------------------------

# Numba's objects mention its runtime even where no code path of ours can reach it (nothing allocates or raises).
_RUNTIME = ("numba_gil_ensure", "numba_gil_release", "numba_unpickle", "NRT_Free", "NRT_Allocate", "NRT_incref",
            "NRT_decref", "NRT_MemInfo_call_dtor", "numba_do_raise")


def _load(code: bytes, symbol: str) -> int:
    """Link one object into the process; the address of its entry."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    if not _engines:
        for name in _RUNTIME:
            if not llvm.address_of_symbol(name):
                llvm.add_symbol(name, ctypes.cast(_unreachable, ctypes.c_void_p).value or 0)
    machine = llvm.Target.from_default_triple().create_target_machine()
    module = llvm.parse_assembly("")
    module.triple = llvm.get_default_triple()
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    address = engine.get_function_address(symbol)
    if not address:
        raise RuntimeError(f"kernel object lacks its symbol {symbol}")
    return int(address)


_unreachable = ctypes.CFUNCTYPE(None)(os.abort)


def compile_seconds(entry: Kernel) -> float:
    """Seconds that compiling ``entry`` takes on this machine, leaving the cache alone."""
    started = time.perf_counter()
    _compile(entry)
    return time.perf_counter() - started

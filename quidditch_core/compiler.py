"""From kernels to images: the only file that knows Numba, and with ``simd`` the only one that knows LLVM.

Numba turns each kernel into optimised LLVM IR; the IR of all of them is joined, each gets an entry that takes and
returns nothing but int64, and LLVM emits one position-independent object, which ``linker`` makes flat. None of it is
needed in a process that finds its kernels in an image.

``python -m quidditch_core.compiler images`` makes the images that ship, beside the sources; ``... keep NAME`` puts a
kernel of the package into the cache.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from . import jit
from .image import OF_PYTHON, Entry, Manifest, pack, python_name
from .linker import link

HOST = "host"
_BY_LLVM = {"aarch64": "generic"}
"""Levels that LLVM calls by another name."""


def compile_kernels(entries: Iterable[jit.Kernel], cpu: str = HOST, key: str = "", sources: bool = False) -> bytes:
    """The image of ``entries`` for ``cpu``, one of ``jit.LEVELS`` or the processor that this runs on.

    For another processor than this, Numba's own settings must say so too: see :func:`main`.
    """
    import llvmlite.binding as llvm
    import numba

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = "" if cpu != HOST else llvm.get_host_cpu_features().flatten()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name() if cpu == HOST else _BY_LLVM.get(cpu, cpu), features=features, opt=3,
        reloc="pic", codemodel="small")
    entries = list(entries)
    whole = llvm.parse_assembly("")
    whole.triple, whole.data_layout = machine.triple, str(machine.target_data)
    for entry in entries:
        ir, name = _optimised(entry)
        whole.link_in(llvm.parse_assembly(ir))
        whole.link_in(llvm.parse_assembly(_entry(entry, name)))
    wanted = {name for entry in entries for name in (entry.name, python_name(entry.name))}
    for function in whole.functions:
        if not function.is_declaration and function.name not in wanted:
            function.linkage = llvm.Linkage.internal
    for variable in whole.global_variables:
        variable.linkage = llvm.Linkage.internal
    with llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()) as builder:
        passes = llvm.create_new_module_pass_manager()
        passes.add_global_dead_code_eliminate_pass()
        passes.run(whole, builder)
    linked = link(machine.emit_object(whole))
    made_of = {entry.name: tuple(sorted(files_of(entry))) if sources else () for entry in entries}
    return pack(linked.code, Manifest(
        abi=jit.ABI, cpu=cpu, maker=f"numba {numba.__version__}", key=key, imports=linked.imports,
        files={file: jit.digest(file) for file in sorted({file for files in made_of.values() for file in files})},
        kernels={entry.name: Entry(linked.symbols[entry.name], entry.arity, made_of[entry.name],
                                   linked.symbols[python_name(entry.name)])
                 for entry in entries}))


# --- Numba -----------------------------------------------------------------------------------------------------

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_helpers: dict[int, tuple[jit.Helper, Any]] = {}  # compiled once for all kernels that call them


def _optimised(entry: jit.Kernel) -> tuple[str, str]:
    """The LLVM IR of a kernel and the name that Numba gave it."""
    from numba import njit
    from numba import types as nbt

    signature = nbt.int64(*[nbt.int64] * entry.arity)
    compiled: Any = njit(signature, **_OPTIONS)(_bind(entry.function))
    return compiled.inspect_llvm(signature.args), compiled.overloads[signature.args].fndesc.llvm_func_name


def _entry(entry: jit.Kernel, name: str) -> str:
    """IR of the functions that C and Python see. Numba's own returns a status, always 0, and its value by address.

    Python's is a METH_FASTCALL of the stable ABI: it takes ints, lets go of the GIL, and returns an int.
    """
    parameters = "".join(f", i64 %a{i}" for i in range(entry.arity))
    arguments = "".join(f"""
  %p{i} = getelementptr ptr, ptr %args, i64 {i}
  %o{i} = load ptr, ptr %p{i}
  %a{i} = call i64 @"{OF_PYTHON}PyLong_AsUnsignedLongLongMask"(ptr %o{i})""" for i in range(entry.arity))
    return f"""
declare i32 @"{name}"(ptr, ptr{", i64" * entry.arity})
declare i64 @"{OF_PYTHON}PyLong_AsUnsignedLongLongMask"(ptr)
declare ptr @"{OF_PYTHON}PyLong_FromLongLong"(i64)
declare ptr @"{OF_PYTHON}PyErr_Occurred"()
declare i32 @"{OF_PYTHON}PyErr_BadArgument"()
declare ptr @"{OF_PYTHON}PyEval_SaveThread"()
declare void @"{OF_PYTHON}PyEval_RestoreThread"(ptr)

define i64 @"{entry.name}"({parameters[2:]}) {{
  %result = alloca i64
  %error = alloca ptr
  store i64 0, ptr %result
  store ptr null, ptr %error
  %status = call i32 @"{name}"(ptr %result, ptr %error{parameters})
  %value = load i64, ptr %result
  ret i64 %value
}}

define ptr @"{python_name(entry.name)}"(ptr %self, ptr %args, i64 %count) {{
  %fits = icmp eq i64 %count, {entry.arity}
  br i1 %fits, label %read, label %misfit
misfit:
  %bad = call i32 @"{OF_PYTHON}PyErr_BadArgument"()
  ret ptr null
read:{arguments}
  %raised = call ptr @"{OF_PYTHON}PyErr_Occurred"()
  %sound = icmp eq ptr %raised, null
  br i1 %sound, label %run, label %failed
failed:
  ret ptr null
run:
  %thread = call ptr @"{OF_PYTHON}PyEval_SaveThread"()
  %value = call i64 @"{entry.name}"({parameters[2:]})
  call void @"{OF_PYTHON}PyEval_RestoreThread"(ptr %thread)
  %result = call ptr @"{OF_PYTHON}PyLong_FromLongLong"(i64 %value)
  ret ptr %result
}}
"""


def _bind(function: types.FunctionType) -> types.FunctionType:
    """A copy of ``function`` whose globals hold Numba's counterparts of our helpers and primitives."""
    from numba import njit

    bound = dict(function.__globals__)
    for name in jit.names(function.__code__):
        value = bound.get(name)
        if isinstance(value, jit.Primitive):
            bound[name] = _primitives()[value.name]
        elif isinstance(value, jit.Helper):
            if id(value) not in _helpers:
                compiled = njit(forceinline=value.inline, **_OPTIONS)(_bind(value.function))
                _helpers[id(value)] = value, compiled
            bound[name] = _helpers[id(value)][1]
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


# --- what an image was made of ---------------------------------------------------------------------------------


def files_of(entry: jit.Kernel) -> set[str]:
    """The sources of the package that a kernel's code depends on, by their path in the package."""
    found = {f"{name}.py" for name in ("jit", "simd", "compiler", "linker", "image")}
    missing = [entry.function.__module__]
    while missing:
        module = missing.pop()
        file = module.partition(".")[2].replace(".", "/") + ".py"
        path = Path(jit.PACKAGE, file)
        if path.is_file() and file not in found:
            found.add(file)
            missing += _imported(path.read_text(), module)
    return found


def _imported(source: str, module: str) -> list[str]:
    """The modules of the package that ``source`` imports when it is imported."""
    top = __package__ or ""
    names = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.startswith(f"{top}.")]


# --- the command -----------------------------------------------------------------------------------------------


def images() -> None:
    """Make an image for every level of this kind of machine, each in a process of its own. SystemExit if one fails."""
    levels = [level for level, (machine, _) in jit.LEVELS.items() if machine == os.uname().machine]
    made = [subprocess.Popen([sys.executable, "-m", __spec__.name, "image", level], env=_environment(level))
            for level in levels]
    failed = [level for level, process in zip(levels, made, strict=True) if process.wait()]
    if failed or not levels:
        raise SystemExit(f"no image for {', '.join(failed) or os.uname().machine}")


def _environment(level: str) -> dict[str, str]:
    """Ours, with Numba told which processor to compile for, and nothing else."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    path = os.pathsep.join([os.path.dirname(jit.PACKAGE), *filter(None, sys.path)])
    return ours | {"PYTHONPATH": path, "NUMBA_CPU_NAME": _BY_LLVM.get(level, level), "NUMBA_CPU_FEATURES": ""}


def image(level: str) -> None:
    """Make the image for one of ``jit.LEVELS``, unless there is one of the same sources."""
    for source in Path(jit.PACKAGE).rglob("*.py"):  # before kernels are imported, so that an edit meanwhile is noticed
        jit.digest(source.relative_to(jit.PACKAGE).as_posix())
    path = Path(jit.shipped_image(level))
    path.parent.mkdir(exist_ok=True)
    entries = jit.every_kernel()
    if not all(jit.ships(entry, str(path)) for entry in entries):
        jit.write(path, compile_kernels(entries, level, sources=True))


def main(command: str, *arguments: str) -> None:
    """What child processes are asked to do."""
    if command == "keep":
        for name in [name for name in os.environ if name.startswith("NUMBA_")]:
            del os.environ[name]
        for name in arguments:
            jit.kernel_named(name).jitted()
    elif command == "image":
        image(*arguments)
    else:
        images()


if __name__ == "__main__":
    main(*sys.argv[1:])

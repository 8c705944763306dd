"""The one door to compiled code.

A kernel is a Python function over int64 values (addresses and numbers) that returns an int64. It allocates
nothing, raises nothing and touches no Python object, so it can be compiled to plain machine code that is called
without the GIL. The code of a kernel comes from the first of these that has it:

1. an image that ships with the package (``_kernels``), for this kind of processor and of these very sources;
2. the private cache, ``$XDG_CACHE_HOME/quidditch/kernels``;
3. Numba, which fills the cache. Meanwhile, the kernel's NumPy reference answers.

``@kernel`` marks an entry, ``@helper`` a function that kernels call. Both decorators only remember the
function: importing a kernel file imports no compiler. Memory is read and written by ``load_*``
and ``store_*``, which exist only in compiled code.

Every kernel names its NumPy reference, a function of the same signature that reads and writes the same
addresses. ``QUIDDITCH_KERNELS=numpy`` calls the references and nothing else, ``QUIDDITCH_KERNELS=compiled`` waits for
the compiler and never calls them; the tests compare all.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import os
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # pathlib too: a first answer does without what it imports
    import subprocess
    from pathlib import Path

    from .image import Entry, Image

ABI = 4
"""Number of the calling convention and of the descriptors; part of every image and cache key."""
PACKAGE = os.path.dirname(os.path.abspath(__file__))
SHIPPED = os.path.join(PACKAGE, "_kernels")
PATIENCE = 1.0
"""Seconds that the reference of a kernel may take in all while the kernel is compiled; then callers wait."""


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


Bulk = bool | Callable[..., bool]


class Kernel:
    """An entry point: ``kernel(*int64) -> int64``. ``reference`` is ``module:function``.

    ``bulk`` says, for all calls or by their arguments, which jobs a reference would take minutes for: their callers
    wait for the compiler.
    """

    def __init__(self, function: types.FunctionType, reference: str, bulk: Bulk = False) -> None:
        self.function = function
        self.reference = reference
        self.bulk = bulk
        self.arity = function.__code__.co_argcount
        self.name = f"{function.__module__.removeprefix('quidditch_core.')}.{function.__name__}"
        self.__doc__ = function.__doc__
        self.call: Callable[..., int] = self._begin
        """The kernel without a detour: the machine code itself as soon as it is at hand."""
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._patience = PATIENCE

    def __call__(self, *args: int) -> int:
        return self.call(*args)

    def prepare(self) -> None:
        """Load or compile the machine code now (``quidditch warmup`` does it for every kernel)."""
        with self._lock:
            if self.call == self._begin:
                self.call = self.compiled() if enabled() else self.referenced()

    def compiled(self) -> Callable[..., int]:
        """The machine code, wherever it is from."""
        return self.shipped() or self.jitted()

    def shipped(self, level: str = "") -> Callable[..., int] | None:
        """The machine code that was installed with the package, if it was made of these sources."""
        return _from_shipped(self, [level] if level else levels())

    def jitted(self) -> Callable[..., int]:
        """The machine code from the cache or the compiler."""
        return _from_cache(self) or _from_compiler(self)

    def referenced(self) -> Callable[..., int]:
        """The NumPy reference."""
        module, _, name = self.reference.partition(":")
        function: Callable[..., int] = getattr(importlib.import_module(module), name)
        return function

    def _begin(self, *args: int) -> int:
        """A call before the machine code is at hand."""
        with self._lock:
            if self.call == self._begin:
                found = self._settled(self.bulk(*args) if callable(self.bulk) else self.bulk)
                if found is not None:
                    self.call = found
            call = self._referenced_for_now if self.call == self._begin else self.call
        return call(*args)

    def _settled(self, bulk: bool) -> Callable[..., int] | None:
        """What answers from now on; None if that is still being compiled, and the job need not wait for it."""
        if not enabled():
            return self.referenced()
        found = self.shipped() or _from_cache(self)
        if found is not None:
            return found
        if not _can_compile(self):
            return self.referenced()
        if not self._compiles_aside():
            return _from_compiler(self)
        if self._child is None:
            self._child = _start_compiler(self)
        if not bulk and self._patience > 0 and self._child.poll() is None:
            return None
        with _told_if_slow():
            failed = self._child.wait()
        if failed:
            _say(f"compiling {self.name} failed, NumPy does its work from now on; "
                 "`quidditch warmup` tells what is wrong")
            return self.referenced()
        return self.jitted()

    def _compiles_aside(self) -> bool:
        """Whether another process compiles: it can import only kernels of the package, and needs a Python."""
        python = os.path.basename(sys.executable or "").startswith("python") and not hasattr(sys, "frozen")
        return (python and self.function.__module__.startswith("quidditch_core.") and _cache_dir() is not None
                and os.environ.get("QUIDDITCH_KERNELS") != "compiled")

    def _referenced_for_now(self, *args: int) -> int:
        started = time.perf_counter()
        try:
            return self.referenced()(*args)
        finally:
            self._patience -= time.perf_counter() - started


def kernel(reference: str, *, bulk: Bulk = False) -> Callable[[Callable[..., int]], Kernel]:
    """Mark a function as a kernel whose NumPy reference is ``module:function``.

    ``bulk`` kernels write segments: their work has no bound that a reference could meet (see :class:`Kernel`). Its
    module may import only NumPy, this module, ``simd``, the layout in ``segment`` and other kernel files.
    """
    def mark(function: Callable[..., int]) -> Kernel:
        assert isinstance(function, types.FunctionType)
        return Kernel(function, reference, bulk)
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


def every_kernel() -> list[Kernel]:
    """The kernels of the package, in the order of their names."""
    from pathlib import Path

    found: dict[str, Kernel] = {}
    for path in sorted(Path(PACKAGE).rglob("*.py")):
        if b"\n@kernel(" in path.read_bytes():
            name = ".".join(path.relative_to(os.path.dirname(PACKAGE)).with_suffix("").parts)
            values = vars(importlib.import_module(name)).values()
            found |= {value.name: value for value in values if isinstance(value, Kernel)}
    return [found[name] for name in sorted(found)]


def kernel_named(name: str) -> Kernel:
    """The kernel of the package with that ``name``."""
    module, _, function = name.rpartition(".")
    found = getattr(importlib.import_module(f"quidditch_core.{module}"), function)
    assert isinstance(found, Kernel)
    return found


_said: set[str] = set()


def _say(message: str) -> None:
    """Tell once, where progress is told."""
    if message not in _said:
        _said.add(message)
        print(f"quidditch: {message}", file=sys.stderr, flush=True)


# --- this processor --------------------------------------------------------------------------------------------

LEVELS = {
    "x86-64-v3": ("x86_64", "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3 abm avx avx2 bmi1 bmi2 f16c fma movbe xsave"),
    "x86-64-v2": ("x86_64", "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"),
    "aarch64": ("aarch64", "fp asimd"),
}
"""The processors that images ship for, best first: their machine and the features they must have."""


@functools.cache
def _processor() -> dict[str, str]:
    """What the kernel tells about the first processor; empty where it tells nothing."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            lines = file.read(16384).partition("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def levels() -> list[str]:
    """The levels of this processor, best first."""
    machine, told = os.uname().machine, _processor()
    has = set((told.get("flags") or told.get("Features") or "").split())
    return [level for level, (kind, needed) in LEVELS.items() if kind == machine and has.issuperset(needed.split())]


# --- the images that ship --------------------------------------------------------------------------------------


@functools.cache
def digest(file: str) -> str:
    """SHA-256 of a source of the package, given by its path in the package; empty if there is none."""
    try:
        with open(os.path.join(PACKAGE, file), "rb") as source:
            return hashlib.sha256(source.read()).hexdigest()
    except OSError:
        return ""


def shipped_image(level: str) -> str:
    """Where the image for a level is, if there is one."""
    return os.path.join(SHIPPED, f"{level}.image")


@functools.cache
def _image_for(level: str) -> Image | None:
    path = shipped_image(level)
    image = _read(path)
    if isinstance(image, str):
        _say(f"{path} is not used, for {image}; reinstall quidditch-core")
        return None
    return image if image is not None and image.manifest.cpu == level else None


@functools.cache
def _code_for(level: str) -> int | None:
    image = _image_for(level)
    return _mapped(image, shipped_image(level)) if image else None


def _from_shipped(entry: Kernel, wanted: list[str]) -> Callable[..., int] | None:
    from .image import function

    for level in wanted:
        image = _image_for(level)
        made = image and _made_of_this(entry, image)
        base = _code_for(level) if made else None
        if made and base is not None:
            return function(base, made)
    return None


def _made_of_this(entry: Kernel, image: Image) -> Entry | None:
    """The kernel in an image that ships, if its sources are still the same."""
    made = image.manifest.kernels.get(entry.name)
    if made is None or made.arity != entry.arity or image.manifest.abi != ABI:
        return None
    return made if all(digest(file) == image.manifest.files[file] for file in made.files) else None


def ships(entry: Kernel, path: str) -> bool:
    """Whether the image at ``path`` holds the kernel as its sources are now."""
    image = _read(path)
    return image is not None and not isinstance(image, str) and _made_of_this(entry, image) is not None


def _read(path: str | Path) -> Image | str | None:
    """The image in a file; what is wrong with it; or None if there is none."""
    from .image import Damaged, Image

    try:
        with open(path, "rb") as file:
            return Image(file.read())
    except FileNotFoundError:
        return None
    except (OSError, Damaged) as error:
        return str(error)


def _mapped(image: Image, path: str | Path) -> int | None:
    try:
        return image.map(path)
    except OSError as error:
        _say(f"machine code cannot be loaded, NumPy does its work: {error}")
        return None


# --- the cache -------------------------------------------------------------------------------------------------


def names(code: types.CodeType) -> set[str]:
    """The global names that a function and those inside it use."""
    found = set(code.co_names)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            found |= names(const)
    return found


def _meaning(function: types.FunctionType, seen: dict[str, str]) -> dict[str, str]:
    """Name -> what it does, of ``function`` and everything it calls: all that its machine code depends on."""
    name = f"{function.__module__}.{function.__qualname__}"
    if name not in seen:
        seen[name] = ""
        parts = [_instructions(function.__code__), repr(function.__defaults__)]
        for used in sorted(names(function.__code__) & function.__globals__.keys()):
            value = function.__globals__[used]
            if isinstance(value, Helper):
                parts.append(f"{used}={value.function.__module__}.{value.function.__qualname__} {value.inline}")
                _meaning(value.function, seen)
            elif isinstance(value, Primitive):
                parts.append(f"{used}={value.name}")
            elif isinstance(value, int | float | str | bytes | tuple | None):
                parts.append(f"{used}={value!r}")
            elif not isinstance(value, types.ModuleType | type):
                raise TypeError(f"{name} uses {used}, a {type(value).__name__}: kernels know numbers, helpers, loads "
                                "and stores, and modules")
        seen[name] = "\n".join(parts)
    return seen


def _instructions(code: types.CodeType) -> str:
    consts = [_instructions(const) if isinstance(const, types.CodeType) else repr(const) for const in code.co_consts]
    return repr((code.co_code, consts, code.co_names, code.co_varnames, code.co_freevars))


def _key(entry: Kernel) -> str:
    told = _processor()
    about = [told.get(field) for field in ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part",
                                           "CPU variant", "Features")]
    made = hashlib.sha256(repr((ABI, sys.version_info[:2], _versions(), os.uname().machine, about)).encode())
    for file in ("jit.py", "simd.py", "compiler.py", "linker.py", "image.py"):
        made.update(digest(file).encode())
    for name, meaning in sorted(_meaning(entry.function, {}).items()):
        made.update(name.encode() + b"\0" + meaning.encode() + b"\0")
    return made.hexdigest()[:32]


@functools.cache
def _versions() -> tuple[str, ...]:
    from importlib.metadata import version

    return tuple(version(name) for name in ("numba", "llvmlite", "numpy"))


def _cache_dir() -> Path | None:
    """A directory of ours that nobody else can write to, or None."""
    from pathlib import Path

    base = Path(os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache"))
    if not base.is_absolute():
        return None
    path = base / "quidditch" / "kernels"
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        state = path.stat()
        if state.st_uid != os.getuid() or not os.access(path, os.W_OK | os.X_OK):
            return None
        if state.st_mode & 0o077:
            path.chmod(0o700)
    except OSError:
        return None
    return path


def _place(entry: Kernel) -> Path | None:
    """Where the cache keeps the image of a kernel."""
    directory = _cache_dir()
    return directory / f"{entry.name}-{_key(entry)}.image" if directory else None


def _from_cache(entry: Kernel) -> Callable[..., int] | None:
    if not _has_numba():
        return None
    path = _place(entry)
    return None if path is None else _loaded(entry, path)


def _loaded(entry: Kernel, path: Path) -> Callable[..., int] | None:
    """The kernel in a file of the cache; a file that is not what it says is deleted."""
    from .image import function

    image = _read(path)
    if image is None:
        return None
    if isinstance(image, str) or image.manifest.key != _key(entry):
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    base = _mapped(image, path)
    return entry.referenced() if base is None else function(base, image.manifest.kernels[entry.name])


def write(path: Path, data: bytes) -> None:
    """Put a whole file in place at once."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


# --- compiling -------------------------------------------------------------------------------------------------


@functools.cache
def _has_numba() -> bool:
    from importlib.util import find_spec

    return find_spec("numba") is not None


def _can_compile(entry: Kernel) -> bool:
    if not _has_numba():
        _say("no machine code fits this processor and Numba is not installed, so NumPy does its work, slowly: "
             "pip install 'quidditch-core[jit]'")
    elif os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        _say("NUMBA_DISABLE_JIT forbids compiling, so NumPy does the work of the kernels")
    else:
        return True
    return False


def _from_compiler(entry: Kernel) -> Callable[..., int]:
    """Compile in this process, into the cache if there is one."""
    from .compiler import compile_kernels
    from .image import Image, function

    path = _place(entry)
    if path is None:
        _say("no private cache directory is usable, so every process compiles anew")
    with _told_if_slow(), _alone(path):
        found = None if path is None else _loaded(entry, path)  # by another process, while this one waited
        if found is not None:
            return found
        data = compile_kernels([entry], key=_key(entry))
    if path is not None:
        with contextlib.suppress(OSError):  # a full or read-only cache costs time, never an answer
            write(path, data)
    image = Image(data)
    base = _mapped(image, path or os.devnull)
    return entry.referenced() if base is None else function(base, image.manifest.kernels[entry.name])


@contextlib.contextmanager
def _alone(path: Path | None) -> Iterator[None]:
    """Held by one process of those that compile the same kernel; the others wait."""
    if path is None:
        yield
        return
    import fcntl

    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            file = stack.enter_context(path.with_suffix(".lock").open("wb"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _start_compiler(entry: Kernel) -> subprocess.Popen[bytes]:
    """A process that compiles ``entry`` into the cache, and goes on to its end if this one ends before."""
    import atexit
    import subprocess

    _say("compiling kernels for this processor, once; until then NumPy answers queries "
         "(`quidditch warmup` does it ahead of time)")
    program = (f"import sys; sys.path[:] = {sys.path!r}; from quidditch_core.compiler import main; "
               f"main('keep', {entry.name!r})")
    nowhere = subprocess.DEVNULL
    child = subprocess.Popen([sys.executable, "-c", program], stdin=nowhere, stdout=nowhere, stderr=nowhere)
    atexit.register(_leave, child)
    return child


def _leave(child: subprocess.Popen[bytes]) -> None:
    """Let a child go on alone, which Popen would warn about."""
    if child.poll() is None:
        child.returncode = 0


@contextlib.contextmanager
def _told_if_slow() -> Iterator[None]:
    """Says what is going on if it takes more than a second."""
    timer = threading.Timer(1.0, _say, ["compiling kernels for this processor, once "
                                        "(`quidditch warmup` does it ahead of time)"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()

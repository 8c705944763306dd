"""Compiling kernels: the cache and what may be wrong with it, the key, the GIL, and the primitives.

The kernels below are as small as they can be; those of the engine have their own tests.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import struct
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from quidditch_core import compiler, jit
from quidditch_core.jit import (
    Kernel,
    bits_f32,
    ctz,
    f32_bits,
    helper,
    inline_helper,
    kernel,
    load_f32,
    load_f64,
    load_i32,
    load_i64,
    load_u8,
    load_u16,
    load_u32,
    load_u64,
    popcount,
    store_f32,
    store_f64,
    store_i32,
    store_i64,
    store_u8,
    store_u16,
    store_u32,
    store_u64,
)
from quidditch_core.segment import address, view

THREE = 3


@helper
def triple(value: int) -> int:
    return THREE * value


@inline_helper
def one_more(value: int) -> int:
    return value + 1


@kernel(f"{__name__}:toy_in_python")
def toy(a: int, b: int) -> int:
    """3 a + b + 1."""
    return one_more(triple(a) + b)


def toy_in_python(a: int, b: int) -> int:
    return 3 * a + b + 1


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory of our own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(jit, "_said", set())
    return tmp_path / "cache" / "quidditch" / "kernels"


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that were compiled and not found in the cache."""
    names: list[str] = []
    compile_kernels = compiler.compile_kernels

    def noted(entries: list[Kernel], **options: Any) -> bytes:
        names.extend(entry.name for entry in entries)
        return compile_kernels(entries, **options)

    monkeypatch.setattr(compiler, "compile_kernels", noted)
    return names


def fresh(entry: Kernel) -> Kernel:
    """The same kernel, not loaded yet."""
    return Kernel(entry.function, entry.reference)


# --- calling -----------------------------------------------------------------------------------------------


def test_compiled_and_reference_agree(cache: Path) -> None:
    entry = fresh(toy)
    assert entry.arity == 2
    assert entry.compiled()(5, -9) == entry.referenced()(5, -9) == entry(5, -9) == 7


def test_reference_on_request(cache: Path, monkeypatch: pytest.MonkeyPatch, compilations: list[str]) -> None:
    monkeypatch.setenv("QUIDDITCH_KERNELS", "numpy")
    entry = fresh(toy)
    assert entry(5, -9) == 7
    entry.prepare()
    assert entry.call is toy_in_python
    assert compilations == []
    assert not cache.exists()


def test_threads_that_call_first_compile_once(cache: Path, compilations: list[str]) -> None:
    entry = fresh(toy)
    answers: list[int] = []
    threads = [threading.Thread(target=lambda i=i: answers.append(entry(i, 0))) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [1, 4, 7, 10]
    assert compilations == [entry.name]


def test_nothing_but_kernels_can_call_helpers_and_primitives() -> None:
    for name, only_inside in (("triple", triple), ("load_u8", load_u8)):
        with pytest.raises(TypeError, match=name):
            only_inside(1)


# --- the cache ---------------------------------------------------------------------------------------------

TOY_PROGRAM = """
import sys
from quidditch_core.jit import kernel

@kernel("toy:nothing")
def square(a):
    return a * a

def report():
    print(square(12), sorted({"numba", "llvmlite"} & sys.modules.keys()))
"""


def test_the_second_process_needs_no_numba(tmp_path: Path, python_env: dict[str, str]) -> None:
    (tmp_path / "toy.py").write_text(TOY_PROGRAM)
    env = python_env | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    first, second = (
        subprocess.run([sys.executable, "-c", "import toy; toy.report()"], env=env, cwd=tmp_path, text=True,
                       capture_output=True, check=True)
        for _ in range(2)
    )
    assert first.stdout.split(maxsplit=1) == ["144", "['llvmlite', 'numba']\n"]
    assert second.stdout.split(maxsplit=1) == ["144", "[]\n"]
    assert second.stderr == ""


def test_importing_kernels_imports_no_compiler(python_env: dict[str, str]) -> None:
    program = """
import importlib, pkgutil, sys
from quidditch_core.index import kernels
for module in pkgutil.walk_packages(kernels.__path__, kernels.__name__ + "."):
    importlib.import_module(module.name)
print({"numba", "llvmlite"} & sys.modules.keys())
"""
    child = subprocess.run([sys.executable, "-c", program], env=python_env, text=True, capture_output=True,
                           check=True)
    assert child.stdout == "set()\n"


def entries(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.image"))


def test_a_cached_kernel_is_not_compiled_again(cache: Path, compilations: list[str]) -> None:
    assert fresh(toy)(1, 1) == 5
    assert fresh(toy)(1, 1) == 5
    assert compilations == [toy.name]
    assert [path.name for path in entries(cache)] == [f"{toy.name}-{jit._key(toy)}.image"]


def test_a_long_compilation_says_what_it_is(cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    compile_kernels = compiler.compile_kernels

    def slow(entries: list[Kernel], **options: Any) -> bytes:
        time.sleep(1.2)
        return compile_kernels(entries, **options)

    assert fresh(toy)(1, 1) == 5
    said_by_a_quick_one = capfd.readouterr().err
    monkeypatch.setattr(compiler, "compile_kernels", slow)
    for entry in (fresh(divide), fresh(bits)):
        entry.prepare()
    assert capfd.readouterr().err.count("`quidditch warmup` does it ahead of time") == 1
    assert "every process" not in said_by_a_quick_one


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]


@pytest.mark.parametrize("damage", [
    lambda data: b"",
    lambda data: data[:5],
    lambda data: data[:30],
    lambda data: data[: len(data) // 2],
    lambda data: data[:-1],
    lambda data: data + b"\0",
    lambda data: flipped(data, 0),
    lambda data: flipped(data, 20),
    lambda data: flipped(data, 50),
    lambda data: flipped(data, len(data) // 2),
    lambda data: flipped(data, len(data) - 1),
    lambda data: bytes(len(data)),
], ids=["empty", "in the magic", "in the hash", "half", "one byte less", "one byte more", "magic flipped",
        "code flipped", "more code flipped", "the middle flipped", "last flipped", "zeros"])
def test_a_damaged_entry_is_made_again(cache: Path, compilations: list[str], damage: Any) -> None:
    assert fresh(toy)(2, 2) == 9
    path, = entries(cache)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert jit._from_cache(toy) is None
    assert not path.exists()
    assert fresh(toy)(2, 2) == 9
    assert compilations == [toy.name] * 2
    assert jit._from_cache(toy) is not None
    assert fresh(toy)(2, 2) == 9
    assert compilations == [toy.name] * 2


def a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("")
    return tmp_path / "file"


@pytest.mark.parametrize(("variable", "place"), [
    ("XDG_CACHE_HOME", a_file),
    ("XDG_CACHE_HOME", lambda tmp_path: a_file(tmp_path) / "below"),
    ("XDG_CACHE_HOME", lambda _: "/proc/nowhere"),
    ("HOME", a_file),
    ("HOME", lambda _: "/proc/nowhere"),
])
def test_without_a_usable_directory_it_compiles_every_time(
    cache: Path, tmp_path: Path, compilations: list[str], monkeypatch: pytest.MonkeyPatch, capfd: Any,
    variable: str, place: Any,
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv(variable, str(place(tmp_path)))
    assert fresh(toy)(3, 3) == fresh(toy)(3, 3) == 13
    assert compilations == [toy.name] * 2
    assert capfd.readouterr().err.count("every process compiles anew") == 1


def test_a_directory_of_somebody_else_is_not_used(
    cache: Path, compilations: list[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert fresh(toy)(4, 4) == 17
    owner = cache.stat().st_uid
    monkeypatch.setattr("os.getuid", lambda: owner + 1)
    assert fresh(toy)(4, 4) == 17
    assert compilations == [toy.name] * 2


def test_nobody_else_can_write_to_the_directory(cache: Path) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    assert fresh(toy)(5, 5) == 21
    assert cache.stat().st_mode & 0o077 == 0


def test_an_entry_under_the_name_of_another_is_not_it(cache: Path, compilations: list[str]) -> None:
    assert fresh(toy)(2, 2) == 9
    assert fresh(divide)(9, 2) == 4
    for path, other in itertools.permutations(entries(cache)):
        path.with_suffix(".moved").write_bytes(other.read_bytes())
    for path in cache.glob("*.moved"):
        path.replace(path.with_suffix(".image"))
    assert fresh(toy)(2, 2) == 9
    assert fresh(divide)(9, 2) == 4
    assert compilations == [toy.name, divide.name] * 2


def test_processes_that_start_together_compile_once(tmp_path: Path, python_env: dict[str, str]) -> None:
    (tmp_path / "toy.py").write_text(TOY_PROGRAM)
    env = python_env | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    children = [subprocess.Popen([sys.executable, "-c", "import toy; toy.report()"], env=env, cwd=tmp_path, text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
    said = [child.communicate()[0].split(maxsplit=1) for child in children]
    assert [answer for answer, _ in said] == ["144"] * 4
    assert [child.returncode for child in children] == [0] * 4
    assert len(entries(tmp_path / "cache" / "quidditch" / "kernels")) == 1


def test_an_entry_that_cannot_be_written_costs_no_answer(
    cache: Path, compilations: list[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert fresh(toy)(6, 6) == 25
    assert entries(cache) == []


# --- the key -----------------------------------------------------------------------------------------------

FAR = """
from quidditch_core.jit import helper
STEP = {step}

@helper
def far(a):
    return a {sign} STEP

def unrelated():
    return {unrelated}
"""
NEAR = """
from quidditch_core.jit import helper, kernel
from far_{number} import far

@helper
def between(a):
    return far(a)

@kernel("nowhere:near")
def near(a):
    return between(a)
"""


@pytest.fixture
def key_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``key_of(step, sign, unrelated)``: the key of a kernel that calls a helper of another module."""
    numbers = itertools.count()

    def load(path: Path, name: str, source: str) -> ModuleType:
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def key(*, step: int = 1, sign: str = "+", unrelated: int = 0) -> str:
        number = next(numbers)
        far = load(tmp_path / f"far_{number}.py", "far", FAR.format(step=step, sign=sign, unrelated=unrelated))
        monkeypatch.setitem(sys.modules, f"far_{number}", far)
        near: Any = load(tmp_path / f"near_{number}.py", "near", NEAR.format(number=number))
        return jit._key(near.near)

    return key


def test_the_key_is_that_of_everything_that_is_compiled(key_of: Any) -> None:
    key = key_of()
    assert key_of() == key
    assert key_of(unrelated=1) == key
    assert key_of(sign="-") != key
    assert key_of(step=2) != key


def test_the_key_is_that_of_the_compiler_and_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {jit._key(toy)}
    for name, other in (
        ("ABI", jit.ABI + 1),
        ("_versions", lambda: ("0", "0", "0")),
        ("_processor", lambda: {"flags": "fpu"}),
        ("digest", lambda file: "0" if file == "simd.py" else ""),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(jit, name, other)
            keys.add(jit._key(toy))
    assert len(keys) == 5


def test_what_a_key_cannot_tell_is_no_kernel() -> None:
    """A global that is neither number nor helper could change unseen."""
    globals_ = {"triple": [], "one_more": one_more, "__name__": __name__}
    function = types.FunctionType(toy.function.__code__, globals_)
    with pytest.raises(TypeError, match="toy uses triple, a list"):
        jit._key(Kernel(function, "nowhere:toy"))


# --- what kernels can do -----------------------------------------------------------------------------------


@kernel(f"{__name__}:nothing")
def wait(flag: int, turns: int, most: int) -> int:
    """Count up in memory until ``flag`` is set: 1, or 0 if it is not set in time."""
    for turn in range(most):
        store_i64(turns, turn)  # may be the flag, for all that the compiler knows, so it is read every time
        if load_u8(flag) != 0:
            return 1
    return 0


def test_threads_run_while_a_kernel_does() -> None:
    wait.prepare()
    flag, turns = np.zeros(1, np.uint8), np.zeros(2, np.int64)
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda i=i: answers.append(wait(address(flag), address(turns[i:]), 10**10)))
        for i in range(2)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while not turns.all() and time.monotonic() < deadline:  # both count, and this thread looks on
        time.sleep(0.001)
    flag[0] = 1
    for thread in threads:
        thread.join()
    assert turns.all()
    assert answers == [1, 1]


@kernel(f"{__name__}:nothing")
def copy(source: int, target: int) -> int:
    """One value of each kind, from odd addresses to odd addresses."""
    store_u8(target, load_u8(source))
    store_u16(target + 1, load_u16(source + 1))
    store_u32(target + 3, load_u32(source + 3))
    store_i32(target + 7, load_i32(source + 7))
    store_u64(target + 11, load_u64(source + 11))
    store_i64(target + 19, load_i64(source + 19))
    store_f32(target + 27, load_f32(source + 27))
    store_f64(target + 31, load_f64(source + 31))
    return 39


@pytest.mark.parametrize("values", [
    (0, 0, 0, 0, 0, 0, 0.0, 0.0),
    (255, 2**16 - 1, 2**32 - 1, -1, 2**64 - 1, -1, -0.0, -0.0),
    (128, 2**15, 2**31, -(2**31), 2**63, -(2**63), math.inf, -math.inf),
    (127, 12345, 1234567890, 2**31 - 1, 2**63 - 1, 2**63 - 1, 0.1, math.pi),
])
def test_every_load_and_store(values: tuple[Any, ...]) -> None:
    data = struct.pack("<BHIiQqfd", *values)
    source, target = np.frombuffer(data, np.uint8), np.zeros(len(data) + 1, np.uint8)
    assert copy(address(source), address(target)) == len(data)
    assert target.tobytes() == data + b"\0"


@kernel(f"{__name__}:nothing")
def widen(source: int, out: int) -> int:
    """What loads make of eight set bits, and stores of too many."""
    store_i64(out, load_u8(source))
    store_i64(out + 8, load_u16(source))
    store_i64(out + 16, load_u32(source))
    store_i64(out + 24, load_i32(source))
    store_i64(out + 32, load_i64(source))
    store_i64(out + 40, -1)
    store_u8(out + 40, 0x1FE)
    store_u16(out + 42, 0x1FFFE)
    store_u32(out + 44, 0x1FFFFFFFE)
    return 0


def test_loads_widen_and_stores_narrow() -> None:
    source, out = np.full(8, 255, np.uint8), np.zeros(6, np.int64)
    widen(address(source), address(out))
    assert out[:5].tolist() == [255, 2**16 - 1, 2**32 - 1, -1, -1]
    assert out.tobytes()[40:] == bytes.fromhex("feff feff feffffff")


@kernel(f"{__name__}:nothing")
def bits(source: int, out: int) -> int:
    word = load_u64(source)
    store_i64(out, popcount(word))
    store_i64(out + 8, ctz(word))
    store_i64(out + 16, f32_bits(load_f32(source + 8)))
    store_f32(out + 24, bits_f32(load_u32(source + 8)))
    return 0


@pytest.mark.parametrize("word", [0, 1, 2**63, 2**64 - 1, 0b101000])
@pytest.mark.parametrize("single", [0.0, -0.0, 1.5, -3e38])
def test_bits(word: int, single: float) -> None:
    source = np.frombuffer(struct.pack("<Qf", word, single) + bytes(4), np.uint8)
    out = np.zeros(4, np.int64)
    bits(address(source), address(out))
    unsigned, = struct.unpack("<I", struct.pack("<f", single))
    low = (word & -word).bit_length() - 1 if word else 64
    assert out[:3].tolist() == [word.bit_count(), low, unsigned]
    assert out.tobytes()[24:28] == struct.pack("<f", single)


@kernel(f"{__name__}:nothing")
def divide(a: int, b: int) -> int:
    return a // b


def test_nothing_is_raised() -> None:
    """Kernels have no way to raise: dividing by zero gives a number, and the process lives."""
    assert divide(7, 2) == 3
    assert isinstance(divide(7, 0), int)


def nothing(*_: int) -> int:
    """The reference of kernels that are only compiled here."""
    raise AssertionError


def test_view_sees_the_same_memory() -> None:
    memory = np.arange(10, dtype=np.uint32)
    seen = view(address(memory) + 8, 3, np.uint32)
    seen[1] = 99
    assert memory.tolist() == [0, 1, 2, 99, 4, 5, 6, 7, 8, 9]
    assert view(0, 0, np.int64).size == 0

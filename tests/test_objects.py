"""The code that ships: images, the linker that makes them, and what answers while nothing is compiled.

Damage is tried in child processes, so that a crash is a failed test. The children work on copies of the package.
"""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from test_package import HEAVY

from quidditch_core import compiler, jit, linker
from quidditch_core.image import MAGIC, Damaged, Entry, Image, Manifest, function, pack, slots_at
from quidditch_core.jit import Kernel, kernel, load_f64, load_i64, store_f64, store_i64
from quidditch_core.segment import address

FIRST_HIT = """
import json, sys
import quidditch_core as qc
with qc.open(sys.argv[1], read_only=True) as index:
    hits = index.search({"query": {"match": {"body": "whale sea"}}, "size": 3})
    print(json.dumps([[hit.id, hit.score] for hit in hits]))
print(json.dumps(sorted(sys.modules)))
"""
NO_NUMBA = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "numba" else found(name, *rest)
sys.modules["numba"] = sys.modules["llvmlite"] = None
"""


@kernel(f"{__name__}:sum_in_python")
def squares(numbers: int, count: int) -> int:
    """The sum of squares."""
    total = 0
    for i in range(count):
        total += load_i64(numbers + 8 * i) ** 2
    return total


@kernel(f"{__name__}:sum_in_python")
def zeros(numbers: int, count: int) -> int:
    """A loop that becomes a call of memset."""
    for i in range(count):
        store_i64(numbers + 8 * i, 0)
    return count


@kernel(f"{__name__}:sum_in_python")
def root(at: int) -> int:
    """A function of the C library."""
    store_f64(at, np.log(load_f64(at)))
    return 1


def sum_in_python(numbers: int, count: int) -> int:
    raise AssertionError


@pytest.fixture(scope="module")
def toy_image() -> bytes:
    return compiler.compile_kernels([squares], key="toy")


# --- images ------------------------------------------------------------------------------------------------


def called(data: bytes, entry: Kernel, path: Path, *arguments: int) -> int:
    image = Image(data)
    return function(image.map(path), image.manifest.kernels[entry.name])(*arguments)


def test_an_image_runs_without_what_made_it(toy_image: bytes, tmp_path: Path) -> None:
    numbers = np.arange(10)
    assert called(toy_image, squares, tmp_path, address(numbers), 10) == 285


def test_the_c_library_is_reached_through_slots(tmp_path: Path) -> None:
    data = compiler.compile_kernels([zeros, root])
    numbers, number = np.arange(10), np.array([np.e])
    assert "log" in Image(data).manifest.imports
    assert called(data, zeros, tmp_path, address(numbers), 9) == 9
    assert numbers.tolist() == [0] * 9 + [9]
    assert called(data, root, tmp_path, address(number)) == 1
    assert number[0] == pytest.approx(1)


def test_kernels_are_builtin_functions_that_check_what_they_get(toy_image: bytes, tmp_path: Path) -> None:
    image = Image(toy_image)
    base, entry = image.map(tmp_path), image.manifest.kernels[squares.name]
    numbers = np.arange(4)
    run = function(base, entry)
    through_ctypes = function(base, Entry(entry.at, entry.arity))
    assert type(run) is type(len)
    assert type(through_ctypes) is not type(len)
    assert run(address(numbers), 4) == run(address(numbers), np.int64(4)) == through_ctypes(address(numbers), 4) == 14
    assert run(address(numbers) - 2**64, 4) == 14  # an address is 64 bits, whatever its sign
    for wrong in ((), (1,), (1, 2, 3), (address(numbers), "4"), (None, 0), (address(numbers), 4.0)):
        with pytest.raises(TypeError):
            run(*wrong)


def test_every_byte_of_an_image_counts(toy_image: bytes) -> None:
    rng = random.Random(1)
    places = {*range(len(toy_image) - 80, len(toy_image)), *rng.sample(range(len(toy_image)), 400)}
    for at in places:
        damaged = bytearray(toy_image)
        damaged[at] ^= 1 << rng.randrange(8)
        with pytest.raises(Damaged):
            Image(bytes(damaged))
    for size in {0, 1, 15, 16, 71, 72, 73, *rng.sample(range(len(toy_image)), 100)}:
        with pytest.raises(Damaged):
            Image(toy_image[:size])
    with pytest.raises(Damaged):
        Image(toy_image + b"\0")
    with pytest.raises(Damaged):
        Image(toy_image + toy_image[-72:])


def test_a_manifest_of_another_make_is_damage() -> None:
    whole = pack(b"\xc3", Manifest(abi=1, cpu="host", maker="test"))
    assert Image(whole).manifest.cpu == "host"
    with pytest.raises(Damaged):
        Image(pack(b"\xc3", {"abi": "one"}))  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform != "linux", reason="a switch of Linux")
def test_where_memory_may_not_become_code_the_file_is_mapped(
    toy_image: bytes, tmp_path: Path, python_env: dict[str, str],
) -> None:
    (tmp_path / "toy.image").write_bytes(toy_image)
    program = f"""
import ctypes, sys
from pathlib import Path
import numpy as np
from quidditch_core.image import Image, function
from quidditch_core.segment import address
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
    raise SystemExit("no such switch")
path, numbers = Path({str(tmp_path / "toy.image")!r}), np.arange(4)
image = Image(path.read_bytes())
print(function(image.map(path), image.manifest.kernels[{squares.name!r}])(address(numbers), 4))
try:
    image.map(Path("/dev/null"))
except OSError as error:
    print(error)
"""
    child = subprocess.run([sys.executable, "-c", program], env=python_env, text=True, capture_output=True)
    if "no such switch" in child.stderr:
        pytest.skip("this kernel has no PR_SET_MDWE")
    assert child.stdout.splitlines()[0] == "14", child.stderr
    assert "become code" in child.stdout.splitlines()[1]


# --- the linker --------------------------------------------------------------------------------------------


def emitted(ir: str, triple: str) -> bytes:
    """The object of some LLVM IR for any machine."""
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = llvm.parse_assembly(ir)
    target = llvm.Target.from_triple(triple).create_target_machine(opt=2, reloc="pic", codemodel="small")
    module.triple, module.data_layout = triple, str(target.target_data)
    return target.emit_object(module)


SOME_IR = """
@table = internal constant [4 x i64] [i64 11, i64 22, i64 33, i64 44]
declare double @log(double)
define internal i64 @inner(i64 %i) noinline {
  %p = getelementptr [4 x i64], ptr @table, i64 0, i64 %i
  %v = load i64, ptr %p
  ret i64 %v
}
define i64 @outer(i64 %i) {
  %a = call i64 @inner(i64 %i)
  %d = sitofp i64 %a to double
  %l = call double @log(double %d)
  %m = fmul double %l, 1.2345678901e3
  %r = fptosi double %m to i64
  ret i64 %r
}
"""


@pytest.mark.parametrize("triple", ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"])
def test_linking_leaves_nothing_open(triple: str) -> None:
    data = emitted(SOME_IR, triple)
    linked = linker.link(data)
    assert linked.imports == ("log",)
    assert "outer" in linked.symbols
    assert np.array([11, 22, 33, 44]).tobytes() in linked.code
    if platform.machine() == triple.partition("-")[0]:
        manifest = Manifest(abi=0, cpu="", maker="", imports=linked.imports,
                            kernels={"outer": Entry(linked.symbols["outer"], 1)})
        image = Image(pack(linked.code, manifest))
        outer = function(image.map(Path()), image.manifest.kernels["outer"])
        assert [outer(i) for i in range(4)] == [int(np.log(n) * 1.2345678901e3) for n in (11, 22, 33, 44)]


def test_instructions_of_aarch64_are_patched_as_its_manual_says() -> None:
    """ADRP, ADD, LDR of 8 bytes and BL, the words that a linker would write."""
    def patched(kind: int, word: int, at: int, goal: int) -> int:
        code = bytearray(at + 4)
        code[at:] = word.to_bytes(4, "little")
        linker._AARCH64[kind](code, at, goal)
        return int.from_bytes(code[at:], "little")

    assert patched(275, 0x90000000, 0x10, 0x5008) == 0xB0000020  # adrp x0, +5 pages
    assert patched(277, 0x91000000, 0x10, 0x5008) == 0x91002000  # add x0, x0, #8
    assert patched(286, 0xF9400000, 0x10, 0x5010) == 0xF9400800  # ldr x0, [x0, #16]
    assert patched(283, 0x94000000, 0x100, 0x10) == 0x97FFFFC4  # bl -0xf0
    with pytest.raises(linker.NotFlat, match="aligned"):
        patched(286, 0xF9400000, 0x10, 0x5011)
    with pytest.raises(linker.NotFlat, match="reach"):
        patched(283, 0x94000000, 0, 1 << 28)


@pytest.mark.parametrize(("ir", "reason"), [
    ("@state = global i64 0\ndefine i64 @f() {\n %v = load i64, ptr @state\n ret i64 %v\n}", "writable"),
    ("declare i64 @PyErr_Occurred()\ndefine i64 @f() {\n %v = call i64 @PyErr_Occurred()\n ret i64 %v\n}",
     "PyErr_Occurred"),
    ("@table = constant [1 x ptr] [ptr @f]\ndefine i64 @f() {\n ret i64 0\n}", "writable|relocation"),
])
def test_what_no_image_can_hold_is_refused(ir: str, reason: str) -> None:
    with pytest.raises(linker.NotFlat, match=reason):
        linker.link(emitted(ir, "x86_64-unknown-linux-gnu"))


def test_something_else_is_no_object() -> None:
    with pytest.raises(linker.NotFlat):
        linker.link(b"MZ" + bytes(100))


def test_slots_stay_behind_the_code() -> None:
    assert [slots_at(size) for size in (1, 65536, 65537)] == [65536, 65536, 131072]
    assert len(MAGIC) == 16


# --- a package with images of its own ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import quidditch_core as qc

    path = tmp_path_factory.mktemp("index") / "books"
    with qc.create(path, {"properties": {"body": {"type": "text"}}}) as index:
        for i in range(300):
            doing = "swims in the sea" if i % 3 else "sleeps"
            index.put(str(i), {"body": f"the {'white ' * (i % 5)}whale {doing} {i}"})
        index.flush()
    return path


class Copy:
    """A copy of the package, where children run; with images of these sources, if there are any."""

    def __init__(self, path: Path, index: Path) -> None:
        self.package = path / "quidditch_core"
        self.images = self.package / "_kernels"
        self.index = index
        shutil.copytree(jit.PACKAGE, self.package, ignore=shutil.ignore_patterns("__pycache__"))
        self.env = {name: value for name, value in os.environ.items() if name != "QUIDDITCH_KERNELS"} | {
            "PYTHONPATH": str(path), "XDG_CACHE_HOME": str(path / "cache")}

    def run(self, program: str = FIRST_HIT, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", program, str(self.index)], env=self.env | env, text=True,
                              capture_output=True, cwd=self.package.parent, timeout=300)

    def edit(self, file: str) -> None:
        path = self.package / file
        path.write_text(path.read_text() + "\n# edited\n")


@pytest.fixture
def package(tmp_path: Path, index: Path) -> Copy:
    level = next(iter(jit.levels()), None)
    if level is None or not all(jit.ships(entry, jit.shipped_image(level)) for entry in jit.every_kernel()):
        message = "there is no image of the sources as they are: make kernels"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return Copy(tmp_path, index)


@pytest.fixture
def bare(tmp_path: Path, index: Path) -> Copy:
    """A package without images."""
    copy = Copy(tmp_path, index)
    shutil.rmtree(copy.images, ignore_errors=True)
    return copy


@pytest.fixture(scope="module")
def right(index: Path, python_env: dict[str, str]) -> list[Any]:
    """What NumPy answers."""
    done = subprocess.run([sys.executable, "-c", FIRST_HIT, str(index)], text=True, capture_output=True, check=True,
                          env=python_env | {"QUIDDITCH_KERNELS": "numpy"})
    answer: list[Any] = json.loads(done.stdout.splitlines()[0])
    assert len(answer) == 3
    return answer


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[0])


def loaded(done: subprocess.CompletedProcess[str]) -> set[str]:
    """The modules that were imported."""
    return set(json.loads(done.stdout.splitlines()[1]))


def test_a_first_answer_needs_no_compiler_and_says_nothing(package: Copy, right: list[Any]) -> None:
    done = package.run()
    assert answer(done) == right
    assert done.stderr == ""
    assert HEAVY & loaded(done) == set()
    assert not (package.package.parent / "cache").exists()


def test_it_works_where_numba_cannot_be_imported(package: Copy, right: list[Any]) -> None:
    done = package.run(NO_NUMBA + FIRST_HIT)
    assert answer(done) == right
    assert done.stderr == ""


@pytest.mark.parametrize("level", jit.levels())
def test_images_of_every_level_answer(package: Copy, right: list[Any], level: str) -> None:
    for path in package.images.glob("*.image"):
        if path.stem != level:
            path.unlink()
    done = package.run()
    assert answer(done) == right
    assert done.stderr == ""


def test_an_edited_kernel_is_not_answered_by_the_old_code(package: Copy, right: list[Any]) -> None:
    package.edit("index/kernels/union.py")
    program = """
from quidditch_core import jit
print({entry.name: entry.shipped() is not None for entry in jit.every_kernel()})
"""
    shipped: dict[str, bool] = msgspec.json.decode(
        package.run(program).stdout.replace("'", '"').replace("True", "true").replace("False", "false"))
    assert shipped["analysis.scan.scan"]
    assert not shipped["index.kernels.union.union"]
    assert answer(package.run()) == right
    package.edit("jit.py")
    assert "true" not in package.run(program).stdout.lower()


def test_damaged_images_are_not_used(package: Copy, right: list[Any]) -> None:
    """Flips and cuts, all over both files: no crash, no wrong answer, and it is said."""
    rng = random.Random(2)
    whole = {path: path.read_bytes() for path in package.images.glob("*.image")}
    for trial in range(24):
        for path, data in whole.items():
            damaged = bytearray(data)
            if trial % 3:
                damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            else:
                del damaged[rng.randrange(len(data)):]
            path.write_bytes(damaged)
        done = package.run(NO_NUMBA + FIRST_HIT)
        assert answer(done) == right
        assert done.stderr.count("is not used") == len(jit.levels())


# --- while nothing is compiled -----------------------------------------------------------------------------


def test_numpy_answers_until_kernels_are_compiled(bare: Copy, right: list[Any]) -> None:
    started = time.monotonic()
    first = bare.run()
    took = time.monotonic() - started
    assert answer(first) == right
    assert first.stderr.count("\n") == 1
    assert "quidditch warmup" in first.stderr
    assert HEAVY & loaded(first) == set()
    assert took < 20  # compiling takes longer, and the process did not wait for it; benchmarks measure it
    cache = bare.package.parent / "cache" / "quidditch" / "kernels"
    deadline = time.monotonic() + 240
    while (done := bare.run()).stderr != "":
        assert answer(done) == right
        assert time.monotonic() < deadline
    assert answer(done) == right
    assert list(cache.glob("*.image"))
    assert HEAVY & loaded(done) == set()


def test_without_numba_numpy_answers_and_it_is_said(bare: Copy, right: list[Any]) -> None:
    done = bare.run(NO_NUMBA + FIRST_HIT)
    assert answer(done) == right
    assert done.stderr.count("pip install 'quidditch-core[jit]'") == 1


def test_a_processor_that_no_image_is_for(package: Copy, right: list[Any]) -> None:
    other = "from quidditch_core import jit; jit._processor = lambda: {'flags': 'fpu'}\n"
    assert answer(package.run(other + FIRST_HIT, QUIDDITCH_KERNELS="numpy")) == right
    assert package.run(other + "print(jit.levels(), jit.kernel_named('analysis.scan.scan').shipped())"
                       ).stdout == "[] None\n"


def test_writing_waits_for_the_compiler(bare: Copy) -> None:
    program = """
import sys
import quidditch_core as qc
with qc.create(sys.argv[1] + "-new", {"properties": {"body": {"type": "text"}}}) as index:
    index.bulk([{"body": f"the whale {i}"} for i in range(50)])
    index.refresh()
    print(index.count({"match": {"body": "whale"}}))
"""
    bare.index = bare.package.parent / "index"
    done = bare.run(program)
    assert done.stdout == "50\n", done.stderr


def test_interrupting_leaves_nothing_behind(bare: Copy) -> None:
    """A process that is stopped while its kernels are compiled ends at once."""
    heed = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell may have it ignored
    child = subprocess.Popen([sys.executable, "-c", heed + FIRST_HIT + "import time; time.sleep(60)", str(bare.index)],
                             env=bare.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline()
        started = time.monotonic()
        child.send_signal(signal.SIGINT)
        try:
            _, said = child.communicate(timeout=30)
        finally:
            child.kill()
    assert "KeyboardInterrupt" in said
    assert time.monotonic() - started < 5

"""The architecture as a test: which file may import which. docs/architecture.md says why.

Reads the sources, imports none of them, and sees imports inside functions as well, since a late import is
still a dependency.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "quidditch_core"
VOCABULARY = {
    "aggs", "aggs_dsl", "config", "dates", "documents", "dsl", "errors", "fields", "files", "mapping", "metrics",
    "query", "result", "segment",
}
MACHINES = {"index", "codec", "tiering", "translog", "analysis"}
COMPILERS = {"numba", "llvmlite"}
COMPILED = {"jit", "simd", "image", "linker", "compiler", "scoring"}  # the door to compiled code, and what is behind it
KNOW_COMPILERS = {"compiler", "simd"}
KERNEL_MARKS = {"kernel", "helper", "inline_helper"}  # whoever uses these from jit is a kernel file
ABOVE = {"quidditch_server", "quidditch_operator"}
HTTP = {"aiohttp", "fastapi", "flask", "http", "httpx", "kopf", "kubernetes", "requests", "socketserver",
        "starlette", "urllib3", "uvicorn"}
CODE_IN_DATA = {"dill", "cloudpickle", "marshal", "pickle", "shelve"}


@dataclass(frozen=True)
class Import:
    """One edge: ``file`` at ``line`` imports the module ``target``, or ``name`` from it."""

    file: Path
    line: int
    target: str
    name: str = ""

    @property
    def inside(self) -> tuple[str, ...]:
        """Where in our package the target is: ("codec", "v1"); () for the package itself."""
        return tuple(self.target.split(".")[1:])

    @property
    def top(self) -> str:
        return self.target.partition(".")[0]


def read_imports(root: Path, file: Path) -> Iterator[Import]:
    """All imports of one file: relative ones resolved, ``from package import module`` seen as the module."""
    package = [PACKAGE, *file.relative_to(root).parent.parts]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*parts, *filter(None, [node.module])])
            for alias in node.names:
                target = f"{base}.{alias.name}"
                yield Import(file, node.lineno, target if is_module(root, target) else base, alias.name)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            name = node.args[0] if node.args else None
            if isinstance(name, ast.Constant):
                yield Import(file, node.lineno, str(name.value))


def is_module(root: Path, target: str) -> bool:
    """Whether a dotted name of our package is a module (and not a function or class in one)."""
    top, *inner = target.split(".")
    path = root.joinpath(*inner)
    return top == PACKAGE and bool(inner) and (path.with_suffix(".py").is_file() or path.is_dir())


def is_kernel_file(root: Path, file: Path) -> bool:
    """Kernel files live in a folder (or are a file) named kernels, or mark functions with ``@kernel``.

    The NumPy references beside them are ordinary Python.
    """
    relative = file.relative_to(root)
    if "reference" in relative.parts:
        return False
    if "kernels" in relative.with_suffix("").parts:
        return True
    return relative.stem not in COMPILED and any(
        ast.unparse(mark).rpartition(".")[2] in KERNEL_MARKS
        for definition in ast.walk(ast.parse(file.read_text())) if isinstance(definition, ast.FunctionDef)
        for mark in definition.decorator_list
    )


def violations(root: Path) -> list[str]:
    """What in the package at ``root`` breaks the layout, as ``file:line: reason``."""
    strangers = {path.stem for path in root.glob("*.py")} - VOCABULARY - {"__init__", "cli", *COMPILED}
    return [f"{name}.py: no root module that this test knows" for name in sorted(strangers)] + [
        f"{found.file.relative_to(root)}:{found.line}: {reason}"
        for file in sorted(root.rglob("*.py"))
        for found in read_imports(root, file)
        for reason in judge(root, found)
    ]


def judge(root: Path, found: Import) -> Iterator[str]:
    """The rules, from those for everybody to those for one kind of file."""
    place = found.file.relative_to(root).with_suffix("").parts
    home = place[0]  # the machine or root module that the importing file belongs to
    ours = found.top == PACKAGE
    goal = found.inside[0] if ours and found.inside else None  # the same for the imported one

    if found.top in ABOVE | HTTP or found.target.startswith("urllib.request"):
        yield f"imports {found.target}: the engine knows no server, operator or HTTP"
    if found.top in CODE_IN_DATA:
        yield f"imports {found.target}: data must never be able to run code"
    if found.top in COMPILERS and place not in {(name,) for name in KNOW_COMPILERS}:
        yield f"imports {found.target}: only compiler.py and simd.py know the compiler"
    if ours and goal is None and home not in {"__init__", "cli"}:
        yield "imports the public face: it stands above everything else"
    if ours and goal == "cli":
        yield "imports the command line"

    if home in MACHINES and goal in MACHINES and home not in {goal, "index"}:
        yield f"{home} imports {goal}: machines below index do not know each other"
    if home in VOCABULARY | COMPILED and goal in MACHINES:
        yield f"{home} imports {goal}: vocabulary knows no machine"
    if home in VOCABULARY and goal in COMPILED:
        yield f"{home} imports {goal}: vocabulary is data"

    if is_kernel_file(root, found.file) and found.top not in {"__future__", "numpy", "typing"}:
        target = root.joinpath(*found.inside)
        file = target / "__init__.py" if target.is_dir() else target.with_suffix(".py")
        layout = goal == "segment" and found.name.isupper()
        if not ours or not (goal in COMPILED or layout or (file.is_file() and is_kernel_file(root, file))):
            yield (f"imports {found.target}: kernel files import numpy, jit, constants of the address layout "
                   "from segment, and other kernel files")


def test_the_tree_keeps_its_layout(root: Path) -> None:
    assert violations(root / PACKAGE) == []


def test_every_folder_is_a_machine(root: Path) -> None:
    folders = {path.parent.name for path in (root / PACKAGE).glob("*/*.py")}
    assert folders <= MACHINES


@pytest.mark.parametrize(("file", "source", "reason"), [
    ("index/writer.py", "import requests", "no server, operator or HTTP"),
    ("index/writer.py", "from http.client import HTTPConnection", "no server, operator or HTTP"),
    ("index/writer.py", "def late():\n    from quidditch_server import app", "no server, operator or HTTP"),
    ("translog/log.py", "import pickle", "run code"),
    ("index/plan.py", "import numba", "know the compiler"),
    ("jit.py", "import numba", "know the compiler"),
    ("index/plan.py", "from llvmlite import ir", "know the compiler"),
    ("index/plan.py", "def late():\n    import llvmlite.binding", "know the compiler"),
    ("index/plan.py", "import importlib\nimportlib.import_module('numba')", "know the compiler"),
    ("index/plan.py", "from quidditch_core import Index", "the public face"),
    ("codec/reader.py", "from quidditch_core.index import reader", "codec imports index"),
    ("codec/v1/reader.py", "from ...tiering import local", "codec imports tiering"),
    ("codec/v1/reader.py", "from quidditch_core import analysis", "codec imports analysis"),
    ("translog/log.py", "import quidditch_core.codec.v1", "translog imports codec"),
    ("tiering/policy.py", "from quidditch_core.translog.log import Log", "tiering imports translog"),
    ("analysis/chain.py", "from quidditch_core.index.builder import Builder", "analysis imports index"),
    ("segment.py", "from quidditch_core.codec import v1", "vocabulary knows no machine"),
    ("query.py", "from quidditch_core.jit import enabled", "vocabulary is data"),
    ("jit.py", "from quidditch_core.index import plan", "vocabulary knows no machine"),
    ("helpers.py", "", "no root module that this test knows"),
    ("index/plan.py", "from quidditch_core.cli import main", "the command line"),
    ("index/kernels/term.py", "import math", "kernel files import"),
    ("index/kernels/term.py", "from quidditch_core.segment import address", "kernel files import"),
    ("index/kernels/term.py", "from quidditch_core.index import plan", "kernel files import"),
    ("analysis/kernels.py", "from quidditch_core.errors import QueryError", "kernel files import"),
    ("analysis/words.py", "import os\nfrom quidditch_core.jit import kernel\n@kernel\ndef f(): ...",
     "kernel files import"),
])
def test_a_violation_is_seen(tmp_path: Path, file: str, source: str, reason: str) -> None:
    write(tmp_path, {file: source})
    seen = violations(tmp_path)
    assert any(line.startswith(file) and reason in line for line in seen), seen


def test_what_is_allowed_is_not_reported(tmp_path: Path) -> None:
    write(tmp_path, {
        "__init__.py": "from quidditch_core.index.facade import Index\nfrom quidditch_core import errors",
        "cli.py": "import quidditch_core as qc\nfrom quidditch_core import jit",
        "jit.py": "from quidditch_core.errors import StateError",
        "compiler.py": "import numba\nfrom quidditch_core import jit",
        "segment.py": "import numpy as np\nfrom quidditch_core.errors import CorruptIndexError",
        "index/plan.py": "from quidditch_core.codec import v1\nfrom quidditch_core.analysis import chain\n"
                         "from quidditch_core.jit import enabled\nfrom .kernels import term\nimport os",
        "index/kernels/term.py": "import numpy as np\nfrom quidditch_core.jit import kernel\n"
                                 "from quidditch_core.segment import BLOCK, F_DOCS\n"
                                 "from quidditch_core.codec.v1.kernels.blocks import decode\n"
                                 "from quidditch_core.index.kernels import heap",
        "index/kernels/heap.py": "from ...jit import helper",
        "index/facade.py": "from quidditch_core.index import plan",
        "codec/v1/kernels/blocks.py": "from __future__ import annotations\nfrom quidditch_core import jit",
        "codec/v1/reader.py": "from quidditch_core import segment\nfrom .kernels import blocks\nimport zlib",
    })
    assert violations(tmp_path) == []


def write(root: Path, tree: dict[str, str]) -> None:
    """A package of ``tree``, and the modules that its imports are about."""
    defaults = ("errors.py", "jit.py", "segment.py", "index/plan.py", "index/reader.py", "index/builder.py",
                "codec/v1/__init__.py", "tiering/local.py", "translog/log.py", "analysis/chain.py",
                "index/facade.py")
    for name, source in (dict.fromkeys(defaults, "") | tree).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)


def test_the_tour_names_files_that_exist(root: Path) -> None:
    tour = (root / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`([\w/]+(?:\.py|\.md|/))`", tour))
    assert len(named) > 20
    places = (root, root / PACKAGE)
    assert {name for name in named if not any((place / name).exists() for place in places)} == set()

"""Every example runs, says what it promises and leaves nothing behind; the demo reads sources rightly."""

from __future__ import annotations

import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
DEMO = EXAMPLES / "01_python_docs.py"

SAYS = {
    "02_crud.py": (
        "created: moby is version 1", "found before refresh: 0", "found after refresh: 1", "refused: moby",
        "refused: copies", "deleted: None",
    ),
    "03_queries.py": (
        "<em>Whale</em>", "3 books of the sea, newest first: ['The Sea-Wolf'", "'hits': {'total'",
    ),
    "04_json_lines.py": (
        "2 indexed, 1 failed", "line 2, a-2: price", "kettles: ['tin kettle']", "by Brown & Co: ['tea pot']",
        "added in April: ['tea pot']",
    ),
    "05_readers.py": (
        "the reader still finds 100; the index finds 100", "'note number 7'", "another process finds 100",
        "refused:",
    ),
    "06_tiers.py": (
        "tiers: ['cold', 'hot', 'hot', 'hot']", "'2023-0'", "corrected: put right | documents: 2000",
        "hot -> warm because hot holds more than 40000b",
    ),
}


def run(example: Path, *args: object, env: dict[str, str], code: int = 0) -> str:
    done = subprocess.run([sys.executable, example, *map(str, args)], env=env, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {DEMO.name, *SAYS}


@pytest.mark.parametrize("name", SAYS)
def test_example(name: str, python_env: dict[str, str], tmp_path: Path) -> None:
    output = run(EXAMPLES / name, env={**python_env, "TMPDIR": str(tmp_path)})
    for expected in SAYS[name]:
        assert expected in output, output
    assert list(tmp_path.iterdir()) == []


def test_the_readme_runs(root: Path, python_env: dict[str, str], tmp_path: Path) -> None:
    text = (root / "README.md").read_text()
    [program] = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=python_env, capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "<em>Whale</em>" in done.stdout
    assert done.stdout.endswith("1 ['Emma']\n")


class TestDemo:
    """The whole demo, small; then its parts."""

    def test_indexes_searches_and_reuses(self, tmp_path: Path, python_env: dict[str, str]) -> None:
        options = ("--index", tmp_path / "demo", "--limit", 1500)
        first = run(DEMO, *options, env=python_env)
        assert re.search(r"^1,500 objects indexed in [\d.]+ s", first, re.MULTILINE), first
        assert re.search(r"^1,500 documents in \d+ segments?, [\d.]+ MB on disk", first, re.MULTILINE), first
        for question in ("parse a date string", "read csv file", "current working directory", "http server"):
            timing = rf"{question}.*: [\d,]+ found in [\d.]+ ms \(first time [\d.]+ ms\)"
            assert re.search(timing, first), first
        assert "make demo Q=" in first

        again = run(DEMO, *options, "--kind", "class", "argument", "parser", env=python_env)
        assert again.startswith("index reused")
        [best] = re.findall(r"^  1 +[\d.]+  (\S+)\(.* (\S+):\d+$", again, re.MULTILINE)
        assert best == ("argparse.ArgumentParser", "argparse.py")
        assert "**argument**" in again.lower() or "**pars" in again.lower()

        anew = run(DEMO, *options, "--rebuild", '"argument parser"', env=python_env)
        assert anew.startswith("1,500 objects indexed")

    def test_a_damaged_index_is_made_anew(self, tmp_path: Path, python_env: dict[str, str]) -> None:
        options = ("--index", tmp_path / "demo", "--limit", 50, "abc")
        run(DEMO, *options, env=python_env)
        for file in (tmp_path / "demo").rglob("*"):
            if file.is_file():
                file.unlink()
        assert run(DEMO, *options, env=python_env).startswith("50 objects indexed")

    def test_nothing_to_find(self, tmp_path: Path, python_env: dict[str, str]) -> None:
        output = run(DEMO, "--index", tmp_path / "demo", "--limit", 50, "xyzzy", env=python_env)
        assert "**xyzzy**: 0 found" in output


@pytest.fixture(scope="module")
def demo() -> types.ModuleType:
    """The demo as a module (its name is none)."""
    module = types.ModuleType("demo")
    module.__file__ = str(DEMO)
    exec(compile(DEMO.read_text(), DEMO, "exec", dont_inherit=True), module.__dict__)
    return module


@pytest.mark.parametrize(("name", "words"), [
    ("parse_date", "parse date"),
    ("email.utils.parsedate_to_datetime", "email utils parsedate to datetime"),
    ("csv.DictReader", "csv Dict Reader"),
    ("http.server.HTTPServer", "http server HTTP Server"),
    ("SHA256", "SHA 256"),
    ("__init__", "init"),
    ("größe_Über", "größe Über"),
    ("_", ""),
])
def test_names_become_words(demo: types.ModuleType, name: str, words: str) -> None:
    assert demo.split_words(name) == words


SOURCE = '''\
"""About
    the module."""
import os

if os.name == "nt":
    def path(): "Windows."
else:
    def path(name: str = "x", /, *rest, key=(1, 2), **more) -> "Path": "Posix."

async def fetch(url): ...

class Box(dict):
    """A box."""
    def __init__(self, size=1): "Make it."
    def __len__(self): ...
    def _hidden(self): ...
    def open(self):
        def local(): "Not seen."
    class Lid: ...

try:
    import fast
except ImportError:
    def fallback(): ...
'''


def test_extraction(demo: types.ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "pack" / "__init__.py"
    file.parent.mkdir()
    file.write_text(SOURCE)
    found = {doc["qualname"]: doc for doc in demo.extract(tmp_path, file)}
    assert list(found) == [
        "pack", "pack.path", "pack.fetch", "pack.Box", "pack.Box.__init__", "pack.Box.open", "pack.Box.Lid",
        "pack.fallback",
    ]
    assert found["pack.path"] == {
        "name": "path", "qualname": "pack.path", "words": "pack path", "module": "pack", "package": "pack",
        "kind": "function", "signature": "(name: str='x', /, *rest, key=(1, 2), **more) -> 'Path'",
        "docstring": "Posix.", "file": "pack/__init__.py", "line": 8,
    }
    assert found["pack"]["docstring"] == "About\nthe module."
    assert (found["pack"]["kind"], found["pack"]["line"], found["pack"]["signature"]) == ("module", 1, "")
    assert (found["pack.Box"]["kind"], found["pack.Box"]["signature"]) == ("class", "(size=1)")
    assert found["pack.Box.Lid"]["docstring"] is None


@pytest.mark.parametrize("content", [
    b"def broken(:", b"x = 1\0", b"# -*- coding: no-such-coding -*-\n", b"s = '\xff'", b"(" * 500,
    b"x = " + b"-" * 20_000 + b"1",
])
def test_what_does_not_parse_is_skipped(demo: types.ModuleType, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bad.py"
    file.write_bytes(content)
    assert demo.extract(tmp_path, file) is None


def test_a_file_that_is_gone_is_skipped(demo: types.ModuleType, tmp_path: Path) -> None:
    assert demo.extract(tmp_path, tmp_path / "gone.py") is None


def test_other_encodings_and_warnings_are_fine(demo: types.ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "old.py"
    file.write_bytes(b"# -*- coding: latin-1 -*-\n'Caf\xe9 \\d'\nx = '\\d'\n")
    [module] = demo.extract(tmp_path, file)
    assert module["docstring"] == "Café \\d"


def test_tests_and_copies_are_not_sources(demo: types.ModuleType, tmp_path: Path) -> None:
    for name in ("b.py", "a.py", "pkg/c.py", "pkg/tests/t.py", "test/t.py", "pip/_vendor/v.py",
                 "pkg-1.0.dist-info/d.py", "pkg/data.txt", "site-packages/s.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "dangling.py").symlink_to(tmp_path / "nowhere.py")
    found = [str(path.relative_to(tmp_path)) for path in demo.sources(tmp_path)]
    assert found == ["a.py", "b.py", "pkg/c.py"]


def test_snippets_are_one_printable_line(demo: types.ModuleType) -> None:
    start, end = demo.MARKS
    assert demo.snippet(f"a \x1b[31m\n  {start}hit{end}\tb") == "a [31m **hit** b"

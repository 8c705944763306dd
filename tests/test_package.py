"""What people install: light to import, exactly the documented names, typed, and a wheel that builds."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from test_layout import PACKAGE, read_imports

HEAVY = {"numba", "llvmlite", "s3fs", "fsspec", "lmdb", "pandas", "pyarrow", "tqdm", "typer"}
# Numba pins its own llvmlite, so that no second pin of ours can be right.
COMES_WITH = {"llvmlite": "numba", "prometheus_client": "prometheus-client"}


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    """``["numba>=0.61"]`` -> ``{"numba"}``."""
    return {re.split(r"[^\w-]", line)[0] for line in requirements}


def test_importing_is_light(python_env: dict[str, str]) -> None:
    program = "import json, sys, quidditch_core; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], env=python_env, capture_output=True, text=True,
                          check=True)
    assert HEAVY & set(json.loads(done.stdout)) == set()
    assert done.stderr == ""


def test_the_names_are_the_documented_ones(root: Path) -> None:
    import quidditch_core as qc

    section = (root / "README.md").read_text().partition("## The public names")[2].partition("\n## ")[0]
    documented = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.*?) \|", section, re.MULTILINE))))
    assert sorted(qc.__all__) == list(qc.__all__)
    assert set(qc.__all__) == documented
    for name in qc.__all__:
        assert inspect.getdoc(getattr(qc, name)), f"{name} says nothing about itself"


def test_what_is_imported_is_what_is_declared(root: Path, project: dict[str, Any]) -> None:
    base = root / PACKAGE
    imported = {found.top for file in base.rglob("*.py") for found in read_imports(base, file)}
    imported -= sys.stdlib_module_names | {PACKAGE}
    needed = {COMES_WITH.get(name, name) for name in imported}
    core = names(project["dependencies"])
    extras = {name for extra in project["optional-dependencies"].values() for name in names(extra)}
    assert needed <= core | extras
    assert core <= needed, "declared, but nothing imports it"


def test_the_extra_all_has_what_users_need(project: dict[str, Any]) -> None:
    extras = project["optional-dependencies"]
    assert set(extras) == {"s3", "arrow", "cli", "jit", "metrics", "dev", "bench", "all"}
    assert extras["all"] == ["quidditch-core[arrow,cli,jit,metrics,s3]"]


@pytest.mark.skipif(find_spec("hatchling") is None, reason="building without a network needs hatchling here")
def test_the_wheel(root: Path, tmp_path: Path, project: dict[str, Any]) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps",
         "--no-build-isolation", "--wheel-dir", tmp_path, root],
        check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    name = f"quidditch_core-{project['version']}"
    assert wheel.name.startswith(f"{name}-py3-none-")  # for one platform where it carries compiled kernels
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
        info = f"{name}.dist-info"
        metadata = archive.read(f"{info}/METADATA").decode()
        commands = archive.read(f"{info}/entry_points.txt").decode()
    sources = {str(path.relative_to(root)) for path in (root / PACKAGE).rglob("*.py")}
    assert sources | {f"{PACKAGE}/py.typed"} <= inside
    assert {name.partition("/")[0] for name in inside} == {PACKAGE, info}
    assert "License-Expression: Apache-2.0" in metadata
    assert f"{info}/licenses/LICENSE" in inside
    assert "quidditch = quidditch_core.cli:main" in commands


class TestCommand:
    """The command ``quidditch``."""

    @pytest.fixture(autouse=True)
    def _needs_typer(self) -> None:
        pytest.importorskip("typer")

    def run(self, env: dict[str, str], *args: object) -> subprocess.CompletedProcess[str]:
        program = "from quidditch_core.cli import main; main()"
        return subprocess.run([sys.executable, "-c", program, *map(str, args)], env=env, capture_output=True,
                              text=True, timeout=300)

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        import quidditch_core as qc

        path = tmp_path / "books"
        mapping = {"properties": {"title": {"type": "text"}, "year": {"type": "integer"}}}
        with qc.create(path, mapping) as index:
            index.put("moby", {"title": "Moby Dick", "year": 1851})
            index.put("emma", {"title": "Emma", "year": 1815})
            index.flush()
        return path

    def test_search_by_words_and_by_body(self, path: Path, python_env: dict[str, str]) -> None:
        words = self.run(python_env, "search", path, "dick", "--json")
        body = self.run(python_env, "search", path, '{"query": {"range": {"year": {"lt": 1820}}}}', "--json")
        assert [hit["_id"] for hit in json.loads(words.stdout)["hits"]["hits"]] == ["moby"]
        assert [hit["_id"] for hit in json.loads(body.stdout)["hits"]["hits"]] == ["emma"]
        assert "moby" in self.run(python_env, "search", path, "dick").stdout

    def test_stats(self, path: Path, python_env: dict[str, str]) -> None:
        assert isinstance(json.loads(self.run(python_env, "stats", path).stdout), dict)

    def test_warmup_prepares_kernels(self, python_env: dict[str, str]) -> None:
        done = self.run(python_env, "warmup")
        assert re.search(r"^[1-9]\d* kernels ready in \d", done.stdout, re.MULTILINE), done.stderr

    @pytest.mark.parametrize(("args", "message"), [
        (("search", "nowhere", "words"), "nowhere"),
        (("stats", "nowhere"), "nowhere"),
    ])
    def test_an_error_is_one_line(self, args: tuple[str, ...], message: str, python_env: dict[str, str],
                                  tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        done = self.run(python_env, *args)
        assert done.returncode == 1
        assert done.stderr.startswith("quidditch: ")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1

    def test_a_body_that_is_not_json(self, path: Path, python_env: dict[str, str]) -> None:
        done = self.run(python_env, "search", path, "{query: 1}")
        assert done.returncode == 1
        assert "not JSON" in done.stderr

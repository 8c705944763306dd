"""The commands behind the figures of the documentation can be run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted({name for page in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"))
                  for name in re.findall(r"python -m (benchmarks(?:\.\w+)*)", page.read_text())})


@pytest.mark.parametrize("module", MODULES)
def test_a_benchmark_of_the_documentation_starts(module: str, python_env: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=False,
                          cwd=ROOT, env=python_env)
    if missing := re.search(r"ModuleNotFoundError: No module named '(\w+)'", done.stderr):
        assert missing[1] not in ("quidditch_core", "benchmarks", "tests"), done.stderr
        pytest.skip(f"needs {missing[1]}, of the extra bench")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage:")


def test_there_are_such_commands() -> None:
    assert len(MODULES) >= 8

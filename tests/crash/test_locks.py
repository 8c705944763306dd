"""Second writers, dead holders, forks, fifty of each. More: ``python -m tests.crash.locks --rounds 5000``."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.crash.processes import complaints

ROUNDS = {"turns": 17, "refusals": 50, "forks": 50}  # a round of turns has three writers


@pytest.mark.parametrize("kind", ROUNDS)
def test_one_writer_at_a_time(kind: str, python_env: dict[str, str]) -> None:
    """In a process of its own: forks need a parent without threads."""
    command = [sys.executable, "-m", "tests.crash.locks", "--kind", kind, "--rounds", str(ROUNDS[kind])]
    done = subprocess.run(command, env=python_env, text=True, capture_output=True, timeout=300)
    print(done.stdout, done.stderr)
    assert (done.returncode, complaints(done.stderr)) == (0, []), done.stdout + done.stderr

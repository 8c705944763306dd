"""One bit of every byte of every file, and every length. All bits: ``python -m tests.crash.bytes --bits 8``."""

from __future__ import annotations

import subprocess
import sys

from tests.crash.processes import complaints


def test_no_damage_gives_a_wrong_answer(python_env: dict[str, str]) -> None:
    """In a process of its own: its forks need a parent without threads."""
    command = [sys.executable, "-m", "tests.crash.bytes"]
    done = subprocess.run(command, env=python_env, text=True, capture_output=True, timeout=300)
    print(done.stdout, done.stderr)
    assert (done.returncode, complaints(done.stderr)) == (0, []), done.stdout + done.stderr
    assert all(kind in done.stdout for kind in ("manifest-", "segments/seg-", "segments/live-", "translog/"))

"""Forks that run one function and tell what becomes of them, which is how tests see a signal; what processes say."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from typing import NoReturn

Say = Callable[[str], None]


def complaints(stderr: str) -> list[str]:
    """What a process wrote to stderr, but for the news that it compiles, which the first on a machine has."""
    return [line for line in stderr.splitlines() if not line.startswith("quidditch: compiling kernels")]


class Child:
    """A fork of this process that runs ``task(say)``, where ``say`` sends a line, and ends without tidying up."""

    def __init__(self, task: Callable[[Say], None]) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            _run(task, writing)
        os.close(writing)
        self._pipe = open(reading)  # noqa: SIM115  (closed by `end`)

    def line(self) -> str:
        """The next line it says, empty once it is dead."""
        return self._pipe.readline().rstrip("\n")

    def end(self) -> tuple[list[str], int]:
        """What else it says until its end, and its exit code, negative if a signal was its end."""
        with self._pipe:
            said = self._pipe.read().splitlines()
        return said, os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def _run(task: Callable[[Say], None], pipe: int) -> NoReturn:
    code = 1
    try:
        task(partial(_say, pipe))
        code = 0
    except BaseException as error:  # the parent is told, whatever it is
        _say(pipe, f"{type(error).__name__}: {error}")
    finally:
        os._exit(code)


def _say(pipe: int, text: str) -> None:
    os.write(pipe, text.replace("\n", " ").encode() + b"\n")

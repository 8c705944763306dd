"""Which process this is, without asking the system each time."""

from __future__ import annotations

import os

number = os.getpid()


def _after_fork() -> None:
    global number
    number = os.getpid()


os.register_at_fork(after_in_child=_after_fork)

"""One search by several threads: the segments of a view in groups of about as many documents each.

Threads pay only where a search takes long, and in kernels, which let go of the GIL.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from .view import View

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

COST = 500_000
"""Postings of a search below which one thread is as quick: handing work over costs some 50 us, and threads share no
threshold."""

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


def groups(view: View) -> list[list[int]]:
    """The leaves of ``view`` for each thread that a search may use; one group where the settings ask for none."""
    count = min(view.settings.search_slices, len(view.leaves))
    if count < 2:
        return [list(range(len(view.leaves)))]
    made: list[list[int]] = [[] for _ in range(count)]
    sizes = [0] * count
    for at in sorted(range(len(view.leaves)), key=lambda at: -view.leaves[at].segment.docs):
        least = sizes.index(min(sizes))
        made[least].append(at)
        sizes[least] += view.leaves[at].segment.docs
    return [sorted(group) for group in made]


def each(work: Callable[[_Given], _Made], given: Sequence[_Given]) -> list[_Made]:
    """``work`` of each, in order; all but the first by other threads. What one of them raises is raised here."""
    others = [_pool().submit(work, one) for one in given[1:]]
    try:
        first = work(given[0])
    finally:
        for other in others:
            other.exception()  # all have ended before what they read may go
    return [first, *(other.result() for other in others)]


def begin(work: Callable[..., _Made], *given: Any) -> Future[_Made]:
    """``work`` of ``given``, by another thread."""
    return _pool().submit(work, *given)


_lock = threading.Lock()
_made: list[Any] = []


def _forget() -> None:
    """In a forked child the threads are not there, and one that is not may hold the lock."""
    global _lock
    _lock = threading.Lock()
    _made.clear()


os.register_at_fork(after_in_child=_forget)


def _pool() -> Executor:
    with _lock:
        if not _made:
            from concurrent.futures import ThreadPoolExecutor

            from ..config import MAX_SLICES

            _made.append(ThreadPoolExecutor(MAX_SLICES, "quidditch-search"))
        executor: Executor = _made[0]
        return executor

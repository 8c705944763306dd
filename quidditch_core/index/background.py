"""The threads of an index: one that refreshes every ``refresh_interval``, one that merges when woken."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Worker(Generic[T]):
    """A thread that runs ``task(owner)`` each time it is woken, or ``interval(owner)`` seconds have passed.

    It holds its owner weakly, so an index that nobody holds can go. ``interval`` is asked anew each time; 0 or
    less: only when woken. A task that raises ends the thread, with the traceback of threading.excepthook.
    """

    def __init__(
        self, name: str, owner: T, task: Callable[[T], None], interval: Callable[[T], float] | None = None,
    ) -> None:
        self._owner = weakref.ref(owner)
        self._task, self._interval = task, interval
        self._wake = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=f"quidditch-{name}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Run the task soon; with an interval, look at it again."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread; returns when it has."""
        self._stopped = True
        self._wake.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped:
            seconds = 0.0
            if self._interval is not None:
                owner = self._owner()
                if owner is None:
                    return
                seconds = self._interval(owner)
                del owner
            woken = self._wake.wait(seconds if seconds > 0 else 60.0)
            self._wake.clear()
            owner = self._owner()
            if owner is None or self._stopped:
                return
            due = woken if self._interval is None else not woken and seconds > 0
            if due:
                self._task(owner)
            del owner

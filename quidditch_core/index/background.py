"""The thread that refreshes an index every ``refresh_interval``."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable


class Refresher:
    """Calls ``refresh`` on its owner every ``interval()`` seconds, as long as the owner lives.

    ``interval`` is asked anew each time, so that a changed setting takes effect; 0 or less pauses.
    """

    def __init__(self, owner: object, refresh: Callable[[object], None], interval: Callable[[object], float]) -> None:
        self._owner = weakref.ref(owner)
        self._refresh, self._interval = refresh, interval
        self._wake = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread unless it runs."""
        if self._thread is None and not self._stopped:
            self._thread = threading.Thread(target=self._run, name="quidditch-refresh", daemon=True)
            self._thread.start()

    def changed(self) -> None:
        """The interval may have changed."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread; returns when it has."""
        self._stopped = True
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped:
            owner = self._owner()
            if owner is None:
                return
            seconds = self._interval(owner)
            del owner  # so that an index nobody holds can go while we sleep
            woken = self._wake.wait(seconds if seconds > 0 else 60.0)
            self._wake.clear()
            owner = self._owner()
            if owner is None or self._stopped:
                return
            if not woken and seconds > 0:
                self._refresh(owner)
            del owner

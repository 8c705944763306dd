"""What is derived from segments and kept for later queries, within a number of bytes."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

from ..segment import Segment


class Budget:
    """Keeps values in their segments' caches; the first that came go when they are more than ``limit`` bytes.

    ``evictions`` counts those that went, so that whoever else refers to one can let go of it, too.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.evictions = 0
        self.used = 0
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[weakref.ref[Segment], Hashable], int] = OrderedDict()

    def hold(self, segment: Segment, key: Hashable, value: Any, size: int) -> None:
        """Keep ``value`` of ``size`` bytes as ``segment.cache[key]``."""
        with self._lock:
            place = weakref.ref(segment), key
            self.used += size - self._held.pop(place, 0)
            self._held[place] = size
            segment.cache[key] = value
            while self.used > self.limit and len(self._held) > 1:
                (owner, old), freed = self._held.popitem(last=False)
                self.used -= freed
                self.evictions += 1
                alive = owner()
                if alive is not None:
                    alive.cache.pop(old, None)

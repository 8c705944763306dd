"""How full the disk is, held against the watermarks: warn at low, move at high, refuse writes at flood stage."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Final

from ..config import Settings
from ..errors import DiskFullError
from ..files import Files

INTERVAL: Final = 1.0
"""Seconds for which a look at the disk is good enough."""

OK, LOW, HIGH, FLOOD = "ok", "low", "high", "flood_stage"


class DiskWatermarkWarning(UserWarning):
    """The disk is past the low watermark."""


class DiskWatch:
    """Looks at the disk of one index now and then. ``level`` is what it saw last."""

    def __init__(self, files: Files, directory: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._files, self._directory, self._clock = files, directory, clock
        self._looked = -INTERVAL
        self.total = self.free = 0
        self.level = OK

    def check(self, settings: Settings) -> None:
        """Raise DiskFullError past flood stage; warn once each time that the low watermark is passed."""
        if self._clock() - self._looked >= INTERVAL:
            self._look(settings)
        if self.level == FLOOD:
            self._look(settings)  # so that space made a moment ago counts
        if self.level == FLOOD:
            raise DiskFullError(
                "the disk is too full for more writes", path=self._directory,
                found=f"{self.free} of {self.total} bytes free",
                expected="less in use than cluster.routing.allocation.disk.watermark.flood_stage",
                fix="make space; searches go on, and so do writes once there is space")

    def excess(self, settings: Settings) -> int:
        """Bytes to remove so that the disk is below the high watermark again; 0 if it is."""
        self._look(settings)
        if self.level not in (HIGH, FLOOD):
            return 0
        mark = settings.disk_watermark_high
        free = mark.free if mark.free is not None else int(self.total * (100 - (mark.percent or 0)) / 100)
        return max(1, free - self.free)

    def _look(self, settings: Settings) -> None:
        self._looked = self._clock()
        self.total, self.free = self._files.space(self._directory)
        before, self.level = self.level, OK
        for level, mark in ((FLOOD, settings.disk_watermark_flood_stage), (HIGH, settings.disk_watermark_high),
                            (LOW, settings.disk_watermark_low)):
            if mark.reached(total=self.total, free=self.free):
                self.level = level
                break
        if before == OK and self.level != OK:
            warnings.warn(f"quidditch: the disk of {self._directory} is past the {self.level} watermark: "
                          f"{self.free} of {self.total} bytes free", DiskWatermarkWarning, stacklevel=2)

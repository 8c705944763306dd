"""Problems as they are found, and the reading of sections whose sizes nobody has checked, which finds some."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptIndexError, FormatError, QuidditchError, StorageError
from ..result import Problem
from ..segment import Segment


def is_utf8(data: bytes) -> bool:
    """Whether these bytes are text."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def shown(value: Any) -> Any:
    """What an error found, as a problem shows it."""
    return str(value) if isinstance(value, str | int | tuple) else None


class Findings:
    """The problems of one file, as they are found."""

    def __init__(self, segment: str) -> None:
        self.segment = segment
        self.problems: list[Problem] = []

    def add(self, section: str, what: str, found: Any = None, expected: Any = None, count: int = 1) -> None:
        self.problems.append(Problem(self.segment, section, what, found, expected, count))

    def same(self, section: str, what: str, found: Any, expected: Any) -> bool:
        """Whether ``found`` is what was expected; a problem if not."""
        return self.holds(found == expected, section, what, found, expected)

    def holds(self, fact: bool, section: str, what: str, found: Any = None, expected: Any = None) -> bool:
        """Whether ``fact`` is true; a problem if not."""
        if not fact:
            self.add(section, what, found, expected)
        return fact

    def none(
        self, section: str, what: str, wrong: Any, found: Callable[[int], Any], expected: Any = None,
    ) -> bool:
        """Whether nothing in the boolean array ``wrong`` is set; a problem that shows the first if not."""
        places = np.flatnonzero(wrong)
        if places.size:
            self.add(section, what, found(int(places[0])), expected, int(places.size))
        return not places.size

    @contextmanager
    def reading(self, section: str) -> Iterator[None]:
        """An error of ours while a section is read is a problem of that section."""
        try:
            yield
        except (CorruptIndexError, FormatError, StorageError) as error:
            self.error(section, error)

    def error(self, section: str, error: QuidditchError) -> None:
        self.add(section, error.message, shown(error.found), error.expected)


class Cautious:
    """Reads whole sections of a segment whose sizes nobody has checked; what does not fit is complained about.

    ``complain(section, what, found, expected)`` is called once for each; then the result is None.
    """

    def __init__(self, segment: Segment, complain: Callable[[str, str, Any, Any], None]) -> None:
        self.segment = segment
        self._complain = complain

    def array(self, name: str, dtype: Any, count: int) -> NDArray[Any] | None:
        """A section that has to be ``count`` items of ``dtype``."""
        sections, item = self.segment.sections, np.dtype(dtype).itemsize
        if name not in sections:
            self._complain(name, "the section is missing", None, None)
            return None
        if sections.size(name) != count * item:
            self._complain(name, "the section has a wrong size", f"{sections.size(name)} bytes",
                           f"{count * item} bytes")
            return None
        found: NDArray[Any] | None = self._guarded(name, lambda: self.segment.array(name, dtype, count))
        return found

    def count(self, name: str) -> int | None:
        """How many integers a section of narrow integers holds."""
        if name not in self.segment.sections:
            self._complain(name, "the section is missing", None, None)
            return None
        size = self.segment.sections.size(name)
        section = self._guarded(name, lambda: self._verified(name))
        if section is None:
            return None
        _, width, base, _ = section
        if (size != 8 if width == 0 else size % width) or not -(2**63) <= base < 2**63 or (width == 8 and base):
            self._complain(name, "no narrow integers", f"{size} bytes, width {width}, base {base}", None)
            return None
        return int.from_bytes(section.data.tobytes(), "little") if width == 0 else size // width

    def _verified(self, name: str) -> Any:
        return self.segment.sections.part(name, [(0, self.segment.sections.size(name))])

    def ints(self, name: str, count: int) -> NDArray[np.int64] | None:
        """A section that has to be ``count`` narrow integers."""
        there = self.count(name)
        if there is None:
            return None
        if there != count:
            self._complain(name, "the section has a wrong number of values", there, count)
            return None
        data, width, base, step = self.segment.sections.section(name)
        if width == 0 and not step:
            return np.broadcast_to(np.int64(base), (count,))
        most = int(data.view(f"<u{width}").max()) if 0 < width < 8 and data.size else 0
        if base + most + step * count >= 2**63:
            self._complain(name, "values beyond 64 bits", base + most, None)
            return None
        return self.segment.ints(name, count)

    def _guarded(self, name: str, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (CorruptIndexError, StorageError) as error:
            self._complain(name, error.message, shown(error.found), error.expected)
            return None

"""The stored documents of a segment file, unit by unit, whatever has happened to some of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

from ..codec.v1.stored import MAX_UNIT, FrameReader, sound_dictionaries
from ..errors import CorruptIndexError
from ..segment import Segment


class Unit(NamedTuple):
    """A unit of stored documents: the number of the first, and all of them; or what is wrong with it."""

    first: int
    docs: int
    documents: list[bytes] | None
    problem: str = ""


def units(
    segment: Segment, starts: NDArray[np.int64], firsts: NDArray[np.int64], *, strict: bool,
) -> Iterator[Unit]:
    """The units of a file, whose section ``stored`` is there.

    ``firsts`` ascends from 0 to the number of documents; ``starts`` has as many entries. A frame knows its own
    length and checksum: where ``starts`` leads nowhere it may still stand behind the one before, unless ``strict``.
    """
    frames = _Frames(segment)
    behind = 0
    for (first, last), (start, stop) in zip(itertools.pairwise(firsts.tolist()), itertools.pairwise(starts.tolist()),
                                            strict=True):
        found, problem = None, ""
        for at, end in [(start, stop)] if strict else [(start, stop), (start, None), (behind, None)]:
            found, behind, why = frames.read(at, end)
            problem = problem or why
            if found is not None and (not strict or behind == stop):
                break
        documents = None if found is None else _split(found, last - first)
        yield Unit(first, last - first, documents, "" if documents is not None else problem or "contradicts itself")


class _Frames:
    """The zstd frames of a segment, by where they start."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._data = segment.sections.section("stored").data
        self._reader = FrameReader(sound_dictionaries(segment))

    def read(self, start: int, stop: int | None) -> tuple[bytes | None, int, str]:
        """The content of the frame, where it ends, and if there is none why; it ends at ``stop`` at the latest."""
        data = self._data
        if not 0 <= start < data.size or (stop is not None and not start < stop <= data.size):
            return None, start, "lies outside the section"
        try:
            self._segment.sections.need("stored", start, min(18, data.size - start))  # zstd's longest header
            size = zstandard.frame_content_size(data[start : start + 18].tobytes())
            if not 0 <= size <= MAX_UNIT:
                return None, start, "has an impossible size"
            if stop is None:
                stop = min(data.size, start + size + (size >> 7) + 1024)  # what does not compress grows by less
            self._segment.sections.need("stored", start, stop - start)
            stream = self._reader.of(data[start : start + 18].tobytes()).decompressobj()
            raw = stream.decompress(data[start:stop].tobytes())
        except KeyError:
            return None, start, "needs a dictionary that is damaged"
        except (zstandard.ZstdError, CorruptIndexError) as error:
            return None, start, f"does not decompress ({error})"
        if not stream.eof or len(raw) != size:
            return None, start, "ends too early"
        return raw, stop - len(stream.unused_data), ""


def _split(raw: bytes, count: int) -> list[bytes] | None:
    if len(raw) < 4 * count:
        return None
    ends = np.frombuffer(raw, "<u4", count).astype(np.int64)
    body = raw[4 * count :]
    if count == 0 or int(ends[-1]) != len(body) or (np.diff(ends, prepend=0) < 0).any():
        return None
    return [body[start:end] for start, end in itertools.pairwise([0, *ends.tolist()])]

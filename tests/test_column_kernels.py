"""The kernels of columns against their NumPy references: every width, random rows, and bounds that do not hold.

What the kernels read ends where an unreadable page begins, so that a read too far is a crash.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_kernels import fenced

from quidditch_core.index.kernels import columns as kernels
from quidditch_core.index.kernels.blocks import CORRUPT
from quidditch_core.segment import GRANULE, address, bitmap_of, bitmap_words

WIDTHS = (0, 1, 2, 4, 8)
SIZES = (1, 63, 64, 65, 1000, GRANULE, GRANULE + 1, 20_000)
DEEPEST = 500


class Rows:
    """A random column: its integers as they are stored, its codes, and some of its rows."""

    def __init__(self, width: int, size: int, rng: np.random.Generator) -> None:
        self.width, self.size = width, size
        spread = int(rng.choice([1, 7, 200, 256**width // 2 or 1]))
        drawn = rng.integers(0, max(1, min(spread, 2**62)), size)
        if width == 8:
            drawn -= spread // 2
        if rng.random() < 0.5:
            drawn.sort()
        stored = drawn.astype(np.int64 if width == 8 else f"<u{width or 1}")
        self.integers = stored.astype(np.int64) if width else np.zeros(size, np.int64)
        self.base = int(rng.integers(-(2**40), 2**40))
        self.codes = self.integers + self.base
        self._kept = fenced(stored[: 1 if width == 0 else size])
        self.values = address(self._kept)
        chosen = np.flatnonzero(rng.random(size) < rng.choice([0.0, 0.02, 0.5, 1.0]))
        self._bitmap = fenced(bitmap_of(chosen, size))
        self.bitmap = 0 if rng.random() < 0.3 else address(self._bitmap)
        granules = np.arange(0, size, GRANULE)
        self.least, self.most = np.minimum.reduceat(self.codes, granules), np.maximum.reduceat(self.codes, granules)

    @property
    def column(self) -> tuple[int, int, int, int]:
        return self.values, self.width, self.base, self.size

    def shaken(self, rng: np.random.Generator) -> None:
        """Bounds that are not those of the values."""
        self.least = self.least + rng.integers(-9, 10, self.least.size)
        self.most = self.most + rng.integers(-9, 10, self.most.size)


def both(kernel: Any, *args: Any) -> tuple[int, int]:
    """What machine code and reference return; arguments that are arrays are outputs, a copy for each."""
    answers = []
    for run, at in ((kernel.compiled(), 0), (kernel.referenced(), 1)):
        answers.append(run(*(address(each[at]) if isinstance(each, tuple) else int(each) for each in args)))
    return answers[0], answers[1]


def outputs(size: int, kind: Any = np.int64) -> tuple[NDArray[Any], NDArray[Any]]:
    return np.zeros(size, kind), np.zeros(size, kind)


@pytest.fixture(params=WIDTHS)
def columns(request: pytest.FixtureRequest) -> list[tuple[Rows, np.random.Generator]]:
    rng = np.random.default_rng(request.param)
    return [(Rows(request.param, size, rng), rng) for size in SIZES for _ in range(4)]


Columns = list[tuple[Rows, np.random.Generator]]


@pytest.mark.parametrize("damaged", [False, True])
def test_ranges(columns: Columns, damaged: bool) -> None:
    for rows, rng in columns:
        if damaged:
            rows.shaken(rng)
        ends = [*rng.choice(rows.codes, 4).tolist(), rows.base - 1, rows.base, 2**63 - 1, -(2**63)]
        for low, high in map(sorted, zip(ends, ends[::-1], strict=True)):
            found = outputs(bitmap_words(rows.size), np.uint64)
            seen, judged = both(
                kernels.in_range, *rows.column, low, high, address(rows.least), address(rows.most), found)
            assert seen == judged
            assert found[0].tolist() == found[1].tolist()
            if not damaged:
                right = bitmap_of(np.flatnonzero((rows.codes >= low) & (rows.codes <= high)), rows.size)
                assert found[0].tolist() == right.tolist()


def test_rows_of_documents_and_back(columns: Columns) -> None:
    for rows, rng in columns:
        docs = int(rng.integers(1, rows.size + 1))
        starts = np.sort(rng.integers(0, rows.size + 1, docs - 1))
        edges = np.concatenate([[0], starts, [rows.size]])
        for width in (4, 8):
            stored = fenced(edges.astype(np.int64 if width == 8 else "<u4"))
            chosen = fenced(bitmap_of(np.flatnonzero(rng.random(rows.size) < 0.1), rows.size))
            found = outputs(bitmap_words(docs), np.uint64)
            assert both(kernels.with_any, address(stored), width, 0, docs, address(chosen), found) == (0, 0)
            assert found[0].tolist() == found[1].tolist()
            back = outputs(bitmap_words(rows.size), np.uint64)
            assert both(kernels.rows_of, address(stored), width, 0, docs, address(found[0]), back) == (0, 0)
            assert back[0].tolist() == back[1].tolist()


def test_counts(columns: Columns) -> None:
    for rows, rng in columns:
        size = int(rng.choice([1, 5, 300]))
        for tables in (1, 4):
            found = outputs(4 * (size + 1), np.uint32)
            assert both(kernels.count_integers, rows.values, rows.width, rows.size, rows.bitmap, found, size,
                        4 * (size + 1) if tables > 1 else 0) == (0, 0)
            sums = [table.reshape(4, size + 1).sum(axis=0).tolist() for table in found]
            assert sums[0] == sums[1]


def test_buckets(columns: Columns) -> None:
    corrupt = 0
    for rows, rng in columns:
        edges = np.unique(np.concatenate([[rows.codes.min()], rng.choice(rows.codes, 3)]))
        for last in (int(rows.codes.max()), int(np.median(rows.codes))):  # the second leaves some outside
            found = outputs(edges.size)
            seen, judged = both(
                kernels.count_between, *rows.column, rows.bitmap, address(edges), edges.size, last, found)
            assert seen == judged
            corrupt += seen == CORRUPT
            if seen != CORRUPT:
                assert found[0].tolist() == found[1].tolist()
    assert corrupt or rows.width == 0


def test_sums(columns: Columns) -> None:
    for rows, _ in columns:
        found = outputs(kernels.S_SLOTS)
        assert both(kernels.sum_codes, *rows.column, rows.bitmap, found) == (0, 0)
        assert found[0].tolist() == found[1].tolist()
        assert both(kernels.sum_numbers, *rows.column, rows.bitmap, found) == (0, 0)
        assert found[0][: kernels.S_SUM].tolist() == found[1][: kernels.S_SUM].tolist()
        seen, judged = (slots[kernels.S_SUM :].view(np.float64) for slots in found)
        assert math.isclose(seen.sum(), judged.sum(), rel_tol=1e-9, abs_tol=1e-300)


@pytest.mark.parametrize("damaged", [False, True])
def test_first_rows(columns: Columns, damaged: bool) -> None:
    for rows, rng in columns:
        if damaged:
            rows.shaken(rng)
        flip = int(rng.choice([0, -1]))
        bounds = rows.least if flip == 0 else ~rows.most
        order = np.argsort(bounds, kind="stable")
        bounds, granules = bounds[order], order.astype(np.int64)
        limit = int(rng.integers(1, DEEPEST))
        keys, found = outputs(limit), outputs(limit)
        seen, judged = both(kernels.first_rows, *rows.column, rows.bitmap, flip, address(granules), address(bounds),
                            granules.size, limit, keys, found)
        if damaged:
            assert 0 <= seen <= limit
            assert (rows.codes[found[0][:seen]] ^ flip).tolist() == keys[0][:seen].tolist()
        else:
            assert seen == judged
            assert keys[0].tolist() == keys[1].tolist()
            assert found[0].tolist() == found[1].tolist()

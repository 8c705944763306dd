"""Small logs that end as large ones do: with zeros, which the next batches will take the place of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from quidditch_core.translog import log


@contextmanager
def small_pages(size: int = 64) -> Iterator[None]:
    """The log grows by pages of ``size`` bytes, not of 4 KiB."""
    usual = log.PAGE
    log.PAGE = size  # type: ignore[misc]
    try:
        yield
    finally:
        log.PAGE = usual  # type: ignore[misc]

"""Kernels over text: tokens of values, and numbers for distinct strings."""

from __future__ import annotations

from typing import Any

import pytest

from quidditch_core.analysis import get_analyzer
from quidditch_core.index.strings import Interner, joined


@pytest.fixture(scope="session")
def texts(documents: list[dict[str, Any]]) -> tuple[Any, Any]:
    return joined([document["text"].encode() for document in documents[:1_000]])


@pytest.mark.parametrize("analyzer", ["standard", "whitespace"])
def bench_tokenize(benchmark: Any, texts: tuple[Any, Any], analyzer: str) -> None:
    """1,000 texts; ``extra_info`` says how many bytes."""
    data, ends = texts
    benchmark.extra_info["bytes"] = int(data.size)
    benchmark(get_analyzer(analyzer).tokenizer.split, data, ends)


def bench_intern(benchmark: Any, texts: tuple[Any, Any]) -> None:
    """The tokens of 1,000 texts, all seen before."""
    data, ends = texts
    spans, _ = get_analyzer("standard").tokenizer.split(data, ends)
    interner = Interner(fold=True)
    benchmark.extra_info["tokens"] = int(spans.size)
    benchmark(interner.intern, data, spans)

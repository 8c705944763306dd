"""Makes ``tests/golden/lucene_tokens.json``: what Lucene answers, for machines without Java.

Holds the tokens of the hard texts under each analyzer, and for each block of code points a digest of where
the standard tokenizer's tokens are when each code point stands in each of the places. Run it from the
checkout: ``python -m tests.lucene.golden``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import numpy as np

from tests.lucene import GOLDEN, VERSION, texts, tokens

ANALYZERS = ("standard", "simple", "whitespace", "keyword", "english")


def digest(spans: Iterable[tuple[int, int]]) -> str:
    """Eight hexadecimal digits for the starts and ends of tokens."""
    return hashlib.sha256(np.array(list(spans), "<i4").tobytes()).hexdigest()[:8]


def main() -> None:
    several = [*texts.HARD, *texts.random_texts(1, short=300, long=0)]
    blocks = [*map(texts.block_text, texts.ASSIGNED_BLOCKS)]
    golden = {
        "lucene": VERSION,
        "texts": several,
        "tokens": {name: tokens(name, several) for name in ANALYZERS},
        "lengths": [digest((start, end) for _, _, start, end in found)
                    for found in tokens("standard", texts.LENGTHS)],
        "blocks": [digest((start, end) for _, _, start, end in found)
                   for found in tokens("standard", blocks)],
    }
    GOLDEN.parent.mkdir(exist_ok=True)
    lines = (f"{json.dumps(key)}:{json.dumps(value, separators=(',', ':'))}" for key, value in golden.items())
    GOLDEN.write_text("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
    main()

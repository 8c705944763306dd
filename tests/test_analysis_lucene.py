"""Analysis against Lucene itself, on more than the golden file holds. Needs Java; runs with ``--lucene``."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quidditch_core.analysis import ANALYZERS, automaton, get_analyzer, porter
from tests import lucene
from tests.lucene import texts

pytestmark = pytest.mark.lucene

CORPORA = ("cisi", "cranfield", "debian", "gitlog", "med", "npl", "reuters")


@pytest.fixture(scope="module", autouse=True)
def jars() -> list[Path]:
    try:
        return lucene.jars()
    except lucene.Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def assigned() -> list[int]:
    """The code points that this Java knows, without surrogates."""
    ends = lucene.java("Tokens.java", "assigned")[0]
    runs = itertools.pairwise([*ends, 0x10FFFF] if len(ends) % 2 else ends)
    known = [range(a + 1, b + 1) for a, b in itertools.islice(runs, 0, None, 2)]
    return [c for run in known for c in run if not 0xD800 <= c <= 0xDFFF]


def differences(name: str, several: list[str]) -> Iterator[str]:
    """Texts whose tokens are not those of Lucene."""
    analyzer = get_analyzer(name)
    for text, expected in zip(several, lucene.tokens(name, several), strict=True):
        if [list(token) for token in analyzer.tokens(text)] != expected:
            yield text


@pytest.mark.parametrize("name", ANALYZERS)
def test_hard_texts(name: str) -> None:
    several = [*texts.HARD, *texts.LENGTHS, *texts.random_texts(2, short=20_000, long=2_000)]
    assert [*differences(name, several)] == []


@pytest.mark.parametrize("name", ["standard", "simple", "whitespace"])
def test_every_code_point(name: str, assigned: list[int]) -> None:
    """The standard tokenizer has Unicode 12.1 built in; the others must agree on what this Java knows."""
    if name == "standard":
        blocks = [*range(0, 0x34000, texts.BLOCK), 0xE0000, 0xF0000, 0x10F000]
        several = [texts.block_text(first) for first in blocks]
    else:
        several = [" ".join(f"{c} a{c}a" for c in map(chr, assigned[at:at + texts.BLOCK]))
                   for at in range(0, len(assigned), texts.BLOCK)]
    assert [text[:20] for text in differences(name, several)] == []


def test_lower_case(assigned: list[int]) -> None:
    known = {*assigned}
    ours: list[list[int]] = automaton.tables()["lowercase"].tolist()
    [theirs] = lucene.java("Tokens.java", "lowercase")
    assert [pair for pair in ours if pair[0] in known] == theirs


def test_stemming_of_random_words() -> None:
    source = random.Random(3)
    endings = ["s", "es", "ed", "ing", "eed", "y", "sion", "tion", "rion", "e", "ll",
               *porter._STEP_2, *porter._STEP_3, *porter._STEP_4]
    words = ["".join(source.choices("aeiouybcdlstwxz", k=source.randint(0, 6)))
             + "".join(source.choices(endings, k=source.randint(0, 2))) for _ in range(200_000)]
    lines = [" ".join(words[at:at + 100]) for at in range(0, len(words), 100)]
    assert [*differences("english", lines)] == []


@pytest.mark.parametrize("name", ["standard", "english"])
@pytest.mark.parametrize("corpus", CORPORA)
def test_real_text(corpus: str, name: str, corpora: Path) -> None:
    import zstandard

    path = corpora / f"{corpus}.jsonl.zst"
    if not path.exists():
        pytest.skip(f"there is no {path}")
    with zstandard.open(path, "rt", encoding="utf-8") as lines:
        documents: list[dict[str, Any]] = [json.loads(line) for line in itertools.islice(lines, 20_000)]
    several = [f"{document['title']}\n{document['text']}" for document in documents]
    assert len([*differences(name, several)]) == 0

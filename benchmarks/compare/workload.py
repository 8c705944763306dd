"""What all engines are given: documents, which of them to delete, queries, and search-benchmark-game's commands."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

KINDS = ("term", "intersection", "union", "phrase")

# Words that every tokenizer finds, and finds whole: tantivy's default drops those of 40 bytes and more.
_WORD = re.compile(r"[a-z0-9]{1,39}")


class Document(NamedTuple):
    """One text to index and store."""

    id: str
    text: str


class Query(NamedTuple):
    """Words to look for: all of them (intersection), any (union), side by side (phrase), or the only one (term)."""

    kind: str
    terms: tuple[str, ...]

    def __str__(self) -> str:
        text = " ".join(self.terms)
        return {"intersection": "+" + text.replace(" ", " +"), "phrase": f'"{text}"'}.get(self.kind, text)


class Command(NamedTuple):
    """The best ``k`` documents; if ``counts``, how many match; if ``fetches``, id and text of the ``k`` as well.

    Without ``counts`` no engine is asked for a total.
    """

    name: str
    k: int
    counts: bool
    fetches: bool = False


COMMANDS = {
    command.name: command
    for command in (
        Command("TOP_10", 10, False), Command("TOP_100", 100, False), Command("TOP_1000", 1000, False),
        Command("COUNT", 0, True), Command("TOP_10_COUNT", 10, True), Command("FETCH_10", 10, False, True),
    )
}


def read_documents(path: Path, limit: int | None, *, raw: bool) -> list[Document]:
    """The first ``limit`` documents of JSON lines with id, title and text: title and text are one text.

    Unless ``raw``, a text becomes its lower-case ASCII words with single spaces between, so that engines whose
    tokenizers differ index the same terms; documents without such words are left out.
    """
    documents = []
    with path.open("rb") as lines:
        for line in itertools.islice(lines, limit):
            found = json.loads(line)
            text = f"{found['title']}\n{found['text']}"
            if not raw:
                text = " ".join(_WORD.findall(text.lower()))
            if text:
                documents.append(Document(found["id"], text))
    return documents


def deleted(documents: Sequence[Document], share: float) -> list[str]:
    """The ids of a random ``share`` of the documents, the same for every engine."""
    chosen = Random(5).sample(range(len(documents)), round(share * len(documents)))
    return [documents[at].id for at in chosen]


def read_queries(path: Path) -> list[Query]:
    """JSON lines with kind and terms."""
    queries = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        found = json.loads(line)
        if found["kind"] not in KINDS:
            known = ", ".join(KINDS)
            raise SystemExit(f"{path}:{number}: queries of kind {found['kind']!r} are unknown; known: {known}")
        queries.append(Query(found["kind"], tuple(found["terms"])))
    return queries

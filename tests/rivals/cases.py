"""Questions for rivals: documents and queries, random but seeded, or from real text.

Real text comes from ``--corpora``, a directory with JSON lines files (``.jsonl.zst``) whose documents have a
``text``; it is read, never copied.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import zstandard

Body = dict[str, Any]

MAPPING: Body = {
    "dynamic": "strict",
    "properties": {"body": {"type": "text", "analyzer": "whitespace"}, "tags": {"type": "keyword"}},
}
WORDS = [f"{letter}{letter}" for letter in "abcdefghijklmnopqrst"]
WEIGHTS = [1 / rank for rank in range(1, len(WORDS) + 1)]
TAGS = ["red", "green", "blue", "black"]
LENGTHS = [3, 12, 12, 60, 300]  # beyond 40 a length is stored rounded
BOOSTS = [0.1, 0.5, 1.0, 2.0, 3.7]


@dataclass(frozen=True)
class Case:
    """Documents by segment, numbered through from 0; the numbers of those deleted afterwards; queries."""

    segments: list[list[Body]]
    queries: list[Body]
    deleted: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(len(segment) for segment in self.segments)


@dataclass(frozen=True)
class Answer:
    """To one query: how many documents match; the numbers of all of them, best first, and their scores."""

    count: int
    ids: list[int]
    scores: list[np.float32]

    @property
    def bits(self) -> list[int]:
        return [int(score.view(np.int32)) for score in self.scores]


Engine = Callable[[Case], list[Answer]]


def random_documents(rng: Random, n: int) -> list[Body]:
    """Short texts of few words, so that phrases, repeats and ties happen; some long, empty or missing."""
    documents: list[Body] = []
    for _ in range(n):
        values = [random_text(rng, 1, rng.choice(LENGTHS)) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
        if rng.random() < 0.1:
            values[rng.randrange(len(values))] = ""
        document: Body = {"body": values} if rng.random() < 0.95 else {}
        if rng.random() < 0.8:
            document["tags"] = rng.choices(TAGS, [8, 4, 2, 1], k=rng.choice([1, 1, 2, 3]))
        documents.append(document)
    return documents


def random_text(rng: Random, least: int, most: int) -> str:
    return " ".join(rng.choices(WORDS, WEIGHTS, k=rng.randint(least, most)))


class Questions:
    """Random queries over the words that ``text`` draws: a call returns a few words."""

    def __init__(self, rng: Random, text: Callable[[int, int], str]) -> None:
        self.rng, self.text = rng, text

    def leaf(self) -> Body:
        return self.rng.choice([self.term, self.term, self.match, self.phrase])()

    def term(self) -> Body:
        if self.rng.random() < 0.2:
            return {"term": {"tags": {"value": self.rng.choice([*TAGS, "absent"]), **self.boost()}}}
        return {"term": {"body": {"value": self.text(1, 1), **self.boost()}}}

    def match(self) -> Body:
        text = self.text(1, 6)
        n = len(text.split())
        if len(set(text.split())) == 1 and n > 1:
            return self.match()  # Lucene makes "a a" the term a with boost 2, and merges that with others
        options: Body = {"query": text, **self.boost()}
        how = self.rng.random()
        if how < 0.3:
            options["operator"] = "and"
        elif how < 0.6 and n > 1:
            options["minimum_should_match"] = self.rng.randint(-n, n - 1)
        return {"match": {"body": options}}

    def phrase(self, slops: tuple[int, ...] = (0, 0, 1, 2, 3, 5, 10)) -> Body:
        slop = self.rng.choice(slops)
        return {"match_phrase": {"body": {"query": self.text(2, 4), "slop": slop, **self.boost()}}}

    def flat(self) -> Body:
        """A bool that Lucene's rewriting leaves alone, but for repeated terms: so scores equal to the bit.

        Where Lucene moves clauses between groups it rounds at another place; ``nested`` does not avoid that.
        """
        rng = self.rng
        spec: Body = {}
        if rng.random() < 0.5:
            spec["must"] = [self.leaf() for _ in range(rng.randint(1, 3))]
        if rng.random() < 0.7 or not spec:
            words = [self.text(1, 1) for _ in range(rng.randint(1, 5))]
            spec["should"] = [{"term": {"body": {"value": word, **self.boost()}}} for word in words]
            if rng.random() < 0.4:
                spec["should"].append(self.phrase())
            distinct = {json.dumps(clause) for clause in spec["should"]}
            if rng.random() < 0.3 and len(distinct) > 2:
                spec["minimum_should_match"] = rng.choice([1, 2, -1] if "must" not in spec else [1])
        if rng.random() < 0.2:
            spec["filter"] = [{"term": {"tags": {"value": rng.choice(TAGS)}}}]
        if rng.random() < 0.2:
            spec["must_not"] = [self.term()]
        return {"bool": {**spec, **self.boost()}}

    def nested(self, depth: int = 3) -> Body:
        rng = self.rng
        if depth == 0 or rng.random() < 0.3:
            return self.leaf()
        if rng.random() < 0.1:
            return {"constant_score": {"filter": self.nested(depth - 1), **self.boost()}}
        spec: Body = {}
        for occur, chance in [("must", 0.4), ("should", 0.7), ("filter", 0.2), ("must_not", 0.2)]:
            if rng.random() < chance:
                spec[occur] = [self.nested(depth - 1) for _ in range(rng.randint(1, 3))]
        if len(spec.get("should", [])) > 1 and rng.random() < 0.3:
            spec["minimum_should_match"] = rng.randint(1, len(spec["should"]))
        return {"bool": {**spec, **self.boost()}}

    def boost(self) -> Body:
        return {"boost": self.rng.choice(BOOSTS)} if self.rng.random() < 0.3 else {}


def random_questions(rng: Random) -> Questions:
    return Questions(rng, lambda least, most: random_text(rng, least, most))


def real_texts(corpora: Path, name: str, n: int) -> list[str]:
    """The first n texts of a corpus as lower-case ASCII words with single spaces between."""
    texts: list[str] = []
    with zstandard.open(corpora / f"{name}.jsonl.zst", "rb") as stream:
        for line in io.TextIOWrapper(stream, "utf-8"):
            words = re.findall(r"[a-z0-9]+", json.loads(line)["text"].lower())
            if words:
                texts.append(" ".join(words))
            if len(texts) == n:
                break
    return texts


def real_questions(rng: Random, texts: list[str]) -> Questions:
    """Words that stand in a row in one of the texts, sometimes shuffled: phrases that occur."""

    def text(least: int, most: int) -> str:
        words = rng.choice(texts).split()
        n = min(rng.randint(least, most), len(words))
        start = rng.randrange(len(words) - n + 1)
        some = words[start : start + n]
        if rng.random() < 0.3:
            rng.shuffle(some)
        return " ".join(some)

    return Questions(rng, text)

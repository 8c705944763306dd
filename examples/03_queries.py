"""One question in two forms: an OpenSearch body, and Python objects that compose with ``&``, ``|``, ``~``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import quidditch_core as qc
from quidditch_core import query as q

BOOKS = [
    {"id": "moby", "title": "Moby Dick; or, The Whale", "tag": ["novel", "sea"], "year": 1851},
    {"id": "sea", "title": "The Sea Around Us", "tag": ["science", "sea"], "year": 1951},
    {"id": "emma", "title": "Emma", "tag": "novel", "year": 1815},
    {"id": "leagues", "title": "20,000 Leagues under the Sea", "tag": ["novel", "sea"], "year": 1870},
    {"id": "wolf", "title": "The Sea-Wolf", "tag": ["novel", "sea"], "year": 1904},
]

MAPPING = {
    "properties": {
        "id": {"type": "keyword"},
        "title": {"type": "text", "analyzer": "english"},
        "tag": {"type": "keyword"},
        "year": {"type": "integer"},
    }
}

with tempfile.TemporaryDirectory() as folder, qc.create(Path(folder) / "books", MAPPING) as index:
    index.bulk(BOOKS, id="id")
    index.refresh()

    body = {
        "query": {
            "bool": {
                "must": [{"match": {"title": "sea whale"}}],
                "filter": [{"term": {"tag": "novel"}}, {"range": {"year": {"lt": 1900}}}],
            }
        },
        "highlight": {"fields": {"title": {}}},
    }
    # A filter decides what is found, never what it scores.
    novels = (q.Term("tag", "novel"), q.Range("year", lt=1900))
    query = q.Bool(must=(q.Match("title", "sea whale"),), filter=novels)

    from_body = index.search(body)
    from_objects = index.search(query, highlight={"fields": {"title": {}}})
    assert [(h.id, h.score) for h in from_body.hits] == [(h.id, h.score) for h in from_objects.hits]
    for hit in from_body.hits:
        print(f"{hit.score:.3f}  {hit.highlight['title'][0]} ({hit.source['year']})")

    # The operators read as they look, and newest first is a sort like any other.
    query = (q.Match("title", "sea") | q.Term("tag", "sea")) & ~q.Term("tag", "science")
    newest = index.search(query, sort=["-year"], source=["title", "year"])
    titles = [hit.source["title"] for hit in newest.hits]
    print(f"{newest.total.value} books of the sea, newest first: {titles}")

    print(index.explain(q.Match("title", "whale"), "moby"))
    print(index.search(body).to_dict())

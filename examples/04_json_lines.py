"""Load JSON lines: the bytes go in as they are, what does not fit is reported, the rest goes on."""

from __future__ import annotations

import tempfile
from pathlib import Path

import quidditch_core as qc

LINES = """\
{"sku": "a-1", "name": "tin kettle", "price": 12.5, "added": "2024-03-01"}
{"sku": "a-2", "name": "copper kettle", "price": "cheap", "added": "2024-03-02"}
{"sku": "a-3", "name": "tea pot", "price": 31, "added": "2024-04-15", "maker": {"name": "Brown & Co"}}
"""

with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "products.jsonl"
    file.write_text(LINES)

    # Fields that the mapping does not name are added as they appear: strings as text and as name.keyword.
    mapping = {"properties": {"sku": {"type": "keyword"}, "price": {"type": "float"}}}
    with qc.create(Path(folder) / "products", mapping) as index, file.open("rb") as lines:
        report = index.bulk(lines, id="sku")
        print(f"{report.indexed} indexed, {len(report.failed)} failed")
        for failure in report.failed:
            print(f"line {failure.position + 1}, {failure.id}: {failure.error}")

        index.refresh()
        for text, query in (
            ("kettles", {"match": {"name": "kettle"}}),
            ("made by Brown & Co", {"term": {"maker.name.keyword": "Brown & Co"}}),
            ("added in April", {"range": {"added": {"gte": "2024-04-01", "lt": "2024-05-01"}}}),
        ):
            print(f"{text}: {[hit.source['name'] for hit in index.search({'query': query}).hits]}")

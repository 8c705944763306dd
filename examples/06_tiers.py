"""Old segments move to a cheaper place and stay searchable. Here it is a directory; it could be s3://bucket/prefix."""

from __future__ import annotations

import tempfile
from pathlib import Path

import quidditch_core as qc
from quidditch_core import query as q

with tempfile.TemporaryDirectory() as folder:
    place = Path(folder)
    tiers = qc.Tiers(warm=str(place / "warm"), cold=f"file://{place}/cold")
    mapping = {"properties": {"text": {"type": "text"}, "year": {"type": "integer"}}}
    with qc.create(place / "log", mapping, tiers=tiers) as index:
        for year in range(2020, 2024):
            entries = ({"id": f"{year}-{i}", "text": f"entry {i} of {year}", "year": year} for i in range(500))
            index.bulk(entries, id="id")
            index.flush()

        oldest = index.segments()[0].name
        index.move(to="cold", segments=[oldest])
        print("tiers:", [segment.tier for segment in index.segments()])

        newest_first = index.search(q.Match("text", "entry 7"), sort=["-year"], size=4)
        print("found:", [hit.id for hit in newest_first])

        index.put("2020-7", {"text": "put right", "year": 2020})  # what it replaces is in a cold segment
        index.refresh()
        print("corrected:", index.get("2020-7").source["text"], "| documents:", index.count())

    rules = qc.Tiers(warm=tiers.warm, cold=tiers.cold, budgets={"hot": 40_000})
    with qc.open(place / "log", tiers=rules) as index:
        print("the rules would move:")
        for move in index.move(dry_run=True):
            print(" ", move.source, "->", move.to, "because", move.reason)

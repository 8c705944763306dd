"""Merging: the live postings of one source, a term at a time."""

from __future__ import annotations

import numpy as np

from quidditch_core.segment import F_DOCS, view

from .blocks import corrupt_if_damaged, read_field, read_positions, read_postings, read_row


@corrupt_if_damaged
def gather(
    field_: int, rows: int, count: int, map_: int, scratch: int, posting_slots: int, position_slots: int,
    docs: int, freqs: int, positions: int,
) -> int:
    """Count, or write to their slots, the live postings of ``count`` terms of one segment."""
    field = read_field(field_)
    numbers = view(map_, field[F_DOCS], np.int32)
    slots, places = view(posting_slots, count, np.int64), view(position_slots, count, np.int64)
    for t in range(count):
        term = read_row(rows + 64 * t)
        found, counts = read_postings(field, term)
        new = numbers[found]
        live = new >= 0
        kept = counts[live]
        tokens = int(kept.sum())
        slot, place = int(slots[t]), int(places[t])
        if docs:
            view(docs + 4 * slot, kept.size, np.uint32)[:] = new[live]
            view(freqs + 4 * slot, kept.size, np.uint32)[:] = kept
            if positions:
                whole = read_positions(field, term, counts)
                view(positions + 4 * place, tokens, np.uint32)[:] = whole[np.repeat(live, counts)]
        slots[t] += kept.size
        places[t] += tokens
    return 0

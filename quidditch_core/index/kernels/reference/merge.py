"""Merging: the live postings of one source, a term at a time; and the order of a term's postings."""

from __future__ import annotations

import numpy as np

from quidditch_core.segment import F_DOCS, F_POSITIONS, F_POSITIONS_SIZE, view

from ..merge import EACH, S_SLOTS
from .blocks import corrupt_if_damaged, cut, read_field, read_positions, read_postings, read_row, require


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


@corrupt_if_damaged
def take(
    field_: int, rows: int, count: int, map_: int, scratch: int, slots: int, docs: int, freqs: int, sizes: int,
    positions: int, with_positions: int,
) -> int:
    """Count, or write to their slots, the live postings of ``count`` terms, and the bytes of their positions."""
    field = read_field(field_)
    numbers = view(map_, field[F_DOCS], np.int32)
    places = view(slots, S_SLOTS * count, np.int64).reshape(count, S_SLOTS)
    for t in range(count):
        term = read_row(rows + 64 * t)
        found, counts = read_postings(field, term)
        new = numbers[found]
        live = new >= 0
        data, lengths = np.zeros(0, np.uint8), np.zeros(found.size, np.int64)
        if with_positions:
            data = cut(field, F_POSITIONS, F_POSITIONS_SIZE, term.positions, term.positions_size)
            ends = np.flatnonzero(data < 128) + 1
            require(ends.size == counts.sum() and (ends[-1] if ends.size else 0) == data.size)
            lengths = np.diff(np.concatenate([[0], ends])[np.concatenate([[0], np.cumsum(counts)])])
            data = data[np.repeat(live, lengths)]
        kept = counts[live]
        slot, _, place = places[t].tolist()
        if docs:
            view(docs + 4 * slot, kept.size, np.uint32)[:] = new[live]
            view(freqs + 4 * slot, kept.size, np.uint32)[:] = kept
            if sizes and with_positions == EACH:
                view(sizes + 4 * slot, kept.size, np.uint32)[:] = lengths[live]
            if with_positions:
                view(positions + place, data.size, np.uint8)[:] = data
        places[t] += kept.size, int(kept.sum()), data.size
    return 0


def arrange(
    starts: int, terms: int, docs: int, freqs: int, sizes: int, positions: int, places: int, scratch: int,
) -> int:
    """Put the postings of each term into the order of documents."""
    edges, begins = view(starts, terms + 1, np.int64).tolist(), view(places, terms, np.int64).tolist()
    for t in range(terms):
        first, count = edges[t], edges[t + 1] - edges[t]
        found = view(docs + 4 * first, count, np.uint32)
        order = np.argsort(found, kind="stable")
        if sizes:
            lengths = view(sizes + 4 * first, count, np.uint32)
            data = view(positions + begins[t], int(lengths.sum()), np.uint8)
            stops = np.cumsum(lengths, dtype=np.int64)
            parts = np.split(data.copy(), stops[:-1])
            data[:] = np.concatenate([data[:0], *(parts[i] for i in order)])
            lengths[:] = lengths[order]
        counts = view(freqs + 4 * first, count, np.uint32)
        found[:], counts[:] = found[order], counts[order]
    return 0

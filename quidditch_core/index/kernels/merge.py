"""Merging: postings of one source, renumbered, into the slots of their merged terms."""

from __future__ import annotations

from quidditch_core.index.kernels.blocks import (
    C_DOC,
    CORRUPT,
    CURSOR_BYTES,
    END,
    T_DF,
    cursor_freq,
    cursor_next,
    cursor_open,
    has_headers,
)
from quidditch_core.index.kernels.phrase import STATE_BYTES, next_position, seek_positions
from quidditch_core.jit import kernel, load_i32, load_i64, store_i64, store_u32

SCRATCH_BYTES = STATE_BYTES
COUNT, FILL = 0, 1


@kernel("quidditch_core.index.kernels.reference:gather", bulk=True)
def gather(
    field: int, rows: int, count: int, map_: int, scratch: int,
    posting_slots: int, position_slots: int, docs: int, freqs: int, positions: int,
) -> int:
    """Visit the live postings of ``count`` terms of one segment.

    ``map_`` int32 [docs] gives each document's new number, negative if it is deleted. With ``docs`` 0 only the
    slots are counted up; else documents, frequencies and (unless 0) positions go to the slots, which move on.
    Slots are int64 [count]. Returns 0 or CORRUPT.
    """
    state = scratch
    for t in range(count):
        row = rows + 64 * t
        if load_i64(row + 8 * T_DF) >= 128 and not has_headers(row, field):
            return CORRUPT
        if cursor_open(state, field, row) < 0:
            return CORRUPT
        slot = load_i64(posting_slots + 8 * t)
        place = load_i64(position_slots + 8 * t)
        while load_i64(state + 8 * C_DOC) != END:
            doc = load_i32(map_ + 4 * load_i64(state + 8 * C_DOC))
            if doc >= 0:
                freq = cursor_freq(state)
                if docs != 0:
                    store_u32(docs + 4 * slot, doc)
                    store_u32(freqs + 4 * slot, freq)
                    if positions != 0:
                        if seek_positions(state) < 0:
                            return CORRUPT
                        for i in range(freq):
                            position = next_position(state + CURSOR_BYTES)
                            if position < 0 or position == END:
                                return CORRUPT
                            store_u32(positions + 4 * (place + i), position)
                slot += 1
                place += freq
            if cursor_next(state) < 0:
                return CORRUPT
        store_i64(posting_slots + 8 * t, slot)
        store_i64(position_slots + 8 * t, place)
    return 0

"""Phrases: documents that hold several terms, and how often they stand together.

Exact phrases count the places where every term stands at its offset. Sloppy phrases sum 1 / (1 + length) over
matches whose length is at most ``slop``, as Lucene's SloppyPhraseMatcher finds them: the term that stands
leftmost (positions less query offsets) moves right until it passes the next one; the shortest spread seen on
the way is the length of a match. Two query positions with the same term never share a place in the document.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quidditch_core.index.kernels.blocks import (
    C_BLOCK,
    C_DOC,
    C_FIELD,
    C_FREQS,
    C_INDEX,
    C_POSITION,
    C_POSITION_AT,
    C_POSITION_BLOCK,
    C_TERM,
    CORRUPT,
    CURSOR_BYTES,
    END,
    T_DF,
    T_HEADERS,
    T_POSITIONS,
    T_POSITIONS_SIZE,
    cursor_advance,
    cursor_freq,
    cursor_next,
    cursor_open,
    entry_point,
    has_headers,
)
from quidditch_core.jit import (
    helper,
    inline_helper,
    kernel,
    load_i64,
    load_u8,
    load_u32,
    store_f32,
    store_i64,
    store_u32,
)
from quidditch_core.segment import F_POSITIONS, F_POSITIONS_SIZE

# Phrase descriptor: int64 slots, then the terms in query order.
P_TERMS, P_SLOP, P_FIELD, P_LIMIT = range(4)
P_SLOTS = 4
# Phrase term: offset in the phrase, number of its repeat group (-1: none), then a term row.
R_OFFSET, R_GROUP, R_TERM = 0, 1, 2
R_SLOTS = 10

# Behind each cursor: where its position stream stands.
W_LEFT, W_AT, W_END, W_CURRENT = 0, 1, 2, 3
WALK_BYTES = 8 * 4
STATE_BYTES = CURSOR_BYTES + WALK_BYTES


def scratch_bytes(terms: int) -> int:
    """Bytes of scratch that :func:`phrase` needs."""
    return terms * STATE_BYTES


@helper
def seek_positions(state: int) -> int:
    """Place the walk of a cursor on the positions of its present document; CORRUPT or 0."""
    cursor = state
    walk = state + CURSOR_BYTES
    field = load_i64(cursor + 8 * C_FIELD)
    term = load_i64(cursor + 8 * C_TERM)
    block = load_i64(cursor + 8 * C_BLOCK)
    index = load_i64(cursor + 8 * C_INDEX)
    start = load_i64(term + 8 * T_POSITIONS)
    end = start + load_i64(term + 8 * T_POSITIONS_SIZE)
    if start < 0 or end < start or end > load_i64(field + 8 * F_POSITIONS_SIZE):
        return CORRUPT
    base = load_i64(field + 8 * F_POSITIONS)
    known_block = load_i64(cursor + 8 * C_POSITION_BLOCK)
    known_index = load_i64(cursor + 8 * C_POSITION)
    at = load_i64(cursor + 8 * C_POSITION_AT)
    fresh = known_block != block or known_index > index
    if load_i64(term + 8 * T_DF) >= 128:
        sub = index >> 5
        if fresh or sub > known_index >> 5:
            point = entry_point(field, load_i64(term + 8 * T_HEADERS) + block, index)
            if point < 0:
                return CORRUPT
            if fresh or point & 127 > known_index:
                at = start + (point >> 7)
                known_index = point & 127
    elif fresh:
        at = start
        known_index = 0
    if at < start or at > end:
        return CORRUPT
    skip = 0
    for i in range(known_index, index):
        skip += load_u32(cursor + C_FREQS + 4 * i)
    while skip > 0:
        if at >= end:
            return CORRUPT
        if load_u8(base + at) < 128:
            skip -= 1
        at += 1
    store_i64(cursor + 8 * C_POSITION_BLOCK, block)
    store_i64(cursor + 8 * C_POSITION, index)
    store_i64(cursor + 8 * C_POSITION_AT, at)
    store_i64(walk + 8 * W_LEFT, cursor_freq(cursor))
    store_i64(walk + 8 * W_AT, base + at)
    store_i64(walk + 8 * W_END, base + end)
    store_i64(walk + 8 * W_CURRENT, -1)
    return 0


@helper
def next_position(walk: int) -> int:
    """The next position of the document, END when there is none, or CORRUPT."""
    left = load_i64(walk + 8 * W_LEFT)
    if left == 0:
        store_i64(walk + 8 * W_CURRENT, END)
        return END
    at = load_i64(walk + 8 * W_AT)
    end = load_i64(walk + 8 * W_END)
    value = 0
    shift = 0
    while True:
        if at >= end or shift > 28:
            return CORRUPT
        byte = load_u8(at)
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    current = load_i64(walk + 8 * W_CURRENT)
    value = value if current < 0 else current + value
    store_i64(walk + 8 * W_AT, at)
    store_i64(walk + 8 * W_LEFT, left - 1)
    store_i64(walk + 8 * W_CURRENT, value)
    return value


@inline_helper
def walk_of(states: int, i: int) -> int:
    return states + STATE_BYTES * i + CURSOR_BYTES


@inline_helper
def place(states: int, terms: int, i: int) -> int:
    """Position of term i less its offset in the phrase."""
    return (load_i64(walk_of(states, i) + 8 * W_CURRENT)
            - load_i64(terms + 8 * R_SLOTS * i + 8 * R_OFFSET))


@helper
def exact_frequency(states: int, terms: int, count: int) -> int:
    """Number of places where all terms stand at their offsets; CORRUPT if the bytes are."""
    found = 0
    first_offset = load_i64(terms + 8 * R_OFFSET)
    while True:
        position = next_position(walk_of(states, 0))
        if position < 0:
            return CORRUPT
        if position == END:
            return found
        matched = True
        for i in range(1, count):
            wanted = position - first_offset + load_i64(terms + 8 * R_SLOTS * i + 8 * R_OFFSET)
            walk = walk_of(states, i)
            current = load_i64(walk + 8 * W_CURRENT)
            while current < wanted:
                current = next_position(walk)
                if current < 0:
                    return CORRUPT
            if current == END:
                return found
            if current != wanted:
                matched = False
                break
        if matched:
            found += 1


@helper
def least(states: int, terms: int, count: int, skip: int) -> int:
    """The term that stands leftmost; ties by offset, then by order. ``skip`` is left out."""
    best = -1
    best_place = 0
    for i in range(count):
        if i == skip:
            continue
        here = place(states, terms, i)
        if best >= 0:
            if here > best_place:
                continue
            if (here == best_place and load_i64(terms + 8 * R_SLOTS * i + 8 * R_OFFSET)
                    >= load_i64(terms + 8 * R_SLOTS * best + 8 * R_OFFSET)):
                continue
        best = i
        best_place = here
    return best


@helper
def collision(states: int, terms: int, count: int, i: int) -> int:
    """Another term of i's repeat group that stands on i's place in the document, or -1."""
    group = load_i64(terms + 8 * R_SLOTS * i + 8 * R_GROUP)
    if group < 0:
        return -1
    current = load_i64(walk_of(states, i) + 8 * W_CURRENT)
    for k in range(count):
        if (k != i and load_i64(terms + 8 * R_SLOTS * k + 8 * R_GROUP) == group
                and load_i64(walk_of(states, k) + 8 * W_CURRENT) == current):
            return k
    return -1


@helper
def resolve(states: int, terms: int, count: int, i: int) -> int:
    """Move colliding repeats apart, always the lesser one; END when one runs out, CORRUPT, or 0."""
    while True:
        k = collision(states, terms, count, i)
        if k < 0:
            return 0
        here, there = place(states, terms, i), place(states, terms, k)
        if there < here or (there == here and load_i64(terms + 8 * R_SLOTS * k + 8 * R_OFFSET)
                            < load_i64(terms + 8 * R_SLOTS * i + 8 * R_OFFSET)):
            i = k
        position = next_position(walk_of(states, i))
        if position == END or position < 0:
            return position


@helper
def rightmost(states: int, terms: int, count: int) -> int:
    end = place(states, terms, 0)
    for i in range(1, count):
        end = max(end, place(states, terms, i))
    return end


@helper
def sloppy_frequency(states: int, terms: int, count: int, slop: int) -> Any:
    """Sum of 1 / (1 + length) over matches; negative if the bytes are corrupt."""
    total = np.float32(0.0)
    for i in range(count):
        if next_position(walk_of(states, i)) < 0:
            return np.float32(-1.0)
    for i in range(count):
        status = resolve(states, terms, count, i)
        if status < 0:
            return np.float32(-1.0)
        if status == END:
            return total
    while True:
        mover = least(states, terms, count, -1)
        next_place = place(states, terms, least(states, terms, count, mover))
        length = rightmost(states, terms, count) - place(states, terms, mover)
        running = True
        while True:
            position = next_position(walk_of(states, mover))
            if position < 0:
                return np.float32(-1.0)
            if position == END:
                running = False
                break
            status = resolve(states, terms, count, mover)
            if status < 0:
                return np.float32(-1.0)
            if status == END:
                running = False
                break
            here = place(states, terms, mover)
            if here > next_place:
                break
            length = min(length, rightmost(states, terms, count) - here)
        if length <= slop:
            total += np.float32(1.0) / (np.float32(1.0) + np.float32(length))
        if not running:
            return total


@kernel("quidditch_core.index.kernels.reference:phrase")
def phrase(query: int, scratch: int, out_docs: int, out_freqs: int, found: int) -> int:
    """Documents and frequencies of a phrase; found[0] is their number. Returns 0 or CORRUPT.

    ``query``: int64 [P_SLOTS + R_SLOTS * terms]; ``out_docs`` uint32 and ``out_freqs`` float32 hold LIMIT each.
    """
    count = load_i64(query + 8 * P_TERMS)
    slop = load_i64(query + 8 * P_SLOP)
    field = load_i64(query + 8 * P_FIELD)
    limit = load_i64(query + 8 * P_LIMIT)
    terms = query + 8 * P_SLOTS
    states = scratch
    written = 0
    rarest = 0
    for i in range(count):
        term = terms + 8 * R_SLOTS * i + 8 * R_TERM
        if load_i64(term + 8 * T_DF) >= 128 and not has_headers(term, field):
            return CORRUPT
        if cursor_open(states + STATE_BYTES * i, field, term) < 0:
            return CORRUPT
        if load_i64(term + 8 * T_DF) < load_i64(terms + 8 * R_SLOTS * rarest + 8 * (R_TERM + T_DF)):
            rarest = i
    lead = states + STATE_BYTES * rarest
    while load_i64(lead + 8 * C_DOC) != END and written < limit:
        doc = load_i64(lead + 8 * C_DOC)
        together = True
        for i in range(count):
            cursor = states + STATE_BYTES * i
            if cursor_advance(cursor, doc) < 0:
                return CORRUPT
            if load_i64(cursor + 8 * C_DOC) != doc:
                together = False
                if cursor_advance(lead, load_i64(cursor + 8 * C_DOC)) < 0:
                    return CORRUPT
                break
        if not together:
            continue
        for i in range(count):
            if seek_positions(states + STATE_BYTES * i) < 0:
                return CORRUPT
        freq = np.float32(0.0)
        if slop == 0:
            exact = exact_frequency(states, terms, count)
            if exact < 0:
                return CORRUPT
            freq = np.float32(exact)
        else:
            freq = sloppy_frequency(states, terms, count, slop)
            if freq < np.float32(0.0):
                return CORRUPT
        if freq > np.float32(0.0):
            store_u32(out_docs + 4 * written, doc)
            store_f32(out_freqs + 4 * written, freq)
            written += 1
        if cursor_next(lead) < 0:
            return CORRUPT
    store_i64(found, written)
    return 0

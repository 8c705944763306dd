"""Required and optional clauses, window by window: every scored query that is not a phrase.

For each window of 4096 documents the clauses add their scores into float64 cells, which is exact for a few
float32, so the order of visiting cannot change a result; a document's required and optional sums are then
rounded once each and added in float32 (DESIGN: scoring). This is the exhaustive evaluation that every pruned
path must equal.

A clause is either a term's postings, scored by BM25, or a list of documents with scores (or one score for all)
that another part of the query produced.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quidditch_core.index.kernels.blocks import (
    C_BLOCK,
    C_COUNT,
    C_DOC,
    C_DOCS,
    C_FREQS,
    C_INDEX,
    CORRUPT,
    CURSOR_BYTES,
    END,
    T_DF,
    cursor_advance,
    cursor_load,
    cursor_open,
    has_headers,
)
from quidditch_core.index.kernels.descriptor import (
    COUNT,
    FIRST,
    K_COUNT,
    K_FIELD,
    K_KIND,
    K_LIST,
    K_SCORES,
    K_SLOTS,
    K_TABLE,
    K_TERM,
    K_WEIGHT,
    LIST,
    POSTINGS,
    Q_ACCEPT,
    Q_DOCS,
    Q_LIMIT,
    Q_MINIMUM,
    Q_MODE,
    Q_OPTIONAL,
    Q_REQUIRED,
    Q_SLOTS,
    TOP,
)
from quidditch_core.jit import (
    bits_f32,
    ctz,
    f32_bits,
    helper,
    inline_helper,
    kernel,
    load_f32,
    load_f64,
    load_i64,
    load_u8,
    load_u32,
    load_u64,
    store_f32,
    store_f64,
    store_i64,
    store_u32,
    store_u64,
)
from quidditch_core.segment import F_NORMS

WINDOW = 4096

# Output: int64 [0] hits written, [1] hits found; keys or documents from byte 16.
OUT_HEADER = 16

# Scratch: float64 sums and uint32 counters per window cell, a bitmap of touched cells, then a cursor a clause.
S_REQUIRED = 0
S_OPTIONAL = S_REQUIRED + 8 * WINDOW
S_COUNTS = S_OPTIONAL + 8 * WINDOW
S_TOUCHED = S_COUNTS + 8 * WINDOW
S_CURSORS = S_TOUCHED + 8 * (WINDOW // 64)


def scratch_bytes(clauses: int) -> int:
    """Zeroed bytes of scratch that :func:`boolean` needs; it leaves the window part zeroed."""
    return S_CURSORS + clauses * CURSOR_BYTES


@inline_helper
def clause_doc(clause: int, cursor: int) -> int:
    """The document a clause stands on, or END."""
    if load_i64(clause + 8 * K_KIND) == POSTINGS:
        return load_i64(cursor + 8 * C_DOC)
    index = load_i64(cursor + 8 * C_INDEX)
    if index >= load_i64(clause + 8 * K_COUNT):
        return END
    return load_u32(load_i64(clause + 8 * K_LIST) + 4 * index)


@helper
def clause_advance(clause: int, cursor: int, target: int) -> int:
    if load_i64(clause + 8 * K_KIND) == POSTINGS:
        return cursor_advance(cursor, target)
    low = load_i64(cursor + 8 * C_INDEX)
    high = load_i64(clause + 8 * K_COUNT)
    docs = load_i64(clause + 8 * K_LIST)
    step = 1
    while low + step < high and load_u32(docs + 4 * (low + step)) < target:
        low += step
        step <<= 1
    high = min(high, low + step)
    while low < high:
        middle = (low + high) >> 1
        if load_u32(docs + 4 * middle) < target:
            low = middle + 1
        else:
            high = middle
    store_i64(cursor + 8 * C_INDEX, low)
    return 0


@inline_helper
def add(scratch: int, sums: int, cell: int, score: Any, before: int, step: int) -> None:
    """Add ``score`` to a cell whose required counter is at least ``before``; counters grow by ``step``."""
    counts = load_u64(scratch + S_COUNTS + 8 * cell)
    if np.int64(counts & np.uint64(0xFFFFFFFF)) >= before:
        store_u64(scratch + S_COUNTS + 8 * cell, counts + np.uint64(step))
        store_f64(scratch + sums + 8 * cell, load_f64(scratch + sums + 8 * cell) + np.float64(score))
        word = scratch + S_TOUCHED + 8 * (cell >> 6)
        store_u64(word, load_u64(word) | (np.uint64(1) << np.uint64(cell & 63)))


@helper
def add_window(
    clause: int, cursor: int, base: int, end: int, scratch: int, sums: int, before: int, step: int,
) -> int:
    """Add a clause's scores in [base, end) to the window's cells; CORRUPT or 0."""
    if load_i64(clause + 8 * K_KIND) == LIST:
        index = load_i64(cursor + 8 * C_INDEX)
        count = load_i64(clause + 8 * K_COUNT)
        docs = load_i64(clause + 8 * K_LIST)
        scores = load_i64(clause + 8 * K_SCORES)
        score = bits_f32(load_i64(clause + 8 * K_WEIGHT))
        while index < count:
            doc = load_u32(docs + 4 * index)
            if doc >= end:
                break
            if scores != 0:
                score = load_f32(scores + 4 * index)
            add(scratch, sums, doc - base, score, before, step)
            index += 1
        store_i64(cursor + 8 * C_INDEX, index)
        return 0
    weight = bits_f32(load_i64(clause + 8 * K_WEIGHT))
    table = load_i64(clause + 8 * K_TABLE)
    norms = load_i64(load_i64(clause + 8 * K_FIELD) + 8 * F_NORMS)
    one = np.float32(1.0)
    inverse = load_f32(table + 4)
    while load_i64(cursor + 8 * C_DOC) < end:
        index = load_i64(cursor + 8 * C_INDEX)
        count = load_i64(cursor + 8 * C_COUNT)
        while index < count:
            doc = load_u32(cursor + C_DOCS + 4 * index)
            if doc >= end:
                break
            if norms != 0:
                inverse = load_f32(table + 4 * load_u8(norms + doc))
            freq = np.float32(load_u32(cursor + C_FREQS + 4 * index))
            add(scratch, sums, doc - base, weight - weight / (one + freq * inverse), before, step)
            index += 1
        if index < count:
            store_i64(cursor + 8 * C_INDEX, index)
            store_i64(cursor + 8 * C_DOC, load_u32(cursor + C_DOCS + 4 * index))
        elif cursor_load(cursor, load_i64(cursor + 8 * C_BLOCK) + 1) < 0:
            return CORRUPT
    return 0


@helper
def heap_down(heap: int, count: int, at: int) -> None:
    """Restore the order of a heap of int64 keys, least first, below ``at``."""
    key = load_i64(heap + 8 * at)
    child = 2 * at + 1
    while child < count:
        if child + 1 < count and load_i64(heap + 8 * child + 8) < load_i64(heap + 8 * child):
            child += 1
        if load_i64(heap + 8 * child) >= key:
            break
        store_i64(heap + 8 * at, load_i64(heap + 8 * child))
        at = child
        child = 2 * at + 1
    store_i64(heap + 8 * at, key)


@helper
def heap_push(heap: int, count: int, limit: int, key: int) -> int:
    """Keep the ``limit`` greatest keys; the new count."""
    if count < limit:
        at = count
        while at > 0:
            parent = (at - 1) >> 1
            if load_i64(heap + 8 * parent) <= key:
                break
            store_i64(heap + 8 * at, load_i64(heap + 8 * parent))
            at = parent
        store_i64(heap + 8 * at, key)
        return count + 1
    if limit > 0 and key > load_i64(heap):
        store_i64(heap, key)
        heap_down(heap, limit, 0)
    return count


@helper
def heap_sort(heap: int, count: int) -> None:
    """Turn the heap into keys in descending order."""
    while count > 1:
        count -= 1
        least = load_i64(heap)
        store_i64(heap, load_i64(heap + 8 * count))
        store_i64(heap + 8 * count, least)
        heap_down(heap, count, 0)


@kernel("quidditch_core.index.kernels.reference:boolean")
def boolean(query: int, scratch: int, out: int) -> int:
    """Hits of a query descriptor, into ``out``. Returns 0 or CORRUPT.

    ``query``: int64 [Q_SLOTS + K_SLOTS * clauses]; ``scratch``: :func:`scratch_bytes` bytes, the window part
    zeroed. Mode TOP writes keys int64 (score bits << 32 | 2^32 - 1 - doc), best first; ALL writes pairs of
    uint32 document and float32 score in document order; LIMIT bounds both. FIRST writes what ALL does, stops soon
    after, and has found what it has written.
    """
    required = load_i64(query + 8 * Q_REQUIRED)
    optional = load_i64(query + 8 * Q_OPTIONAL)
    minimum = load_i64(query + 8 * Q_MINIMUM)
    accept = load_i64(query + 8 * Q_ACCEPT)
    docs = load_i64(query + 8 * Q_DOCS)
    mode = load_i64(query + 8 * Q_MODE)
    limit = load_i64(query + 8 * Q_LIMIT)
    clauses = query + 8 * Q_SLOTS
    cursors = scratch + S_CURSORS
    results = out + OUT_HEADER
    written = 0
    found = 0
    status = 0
    for i in range(required + optional):
        clause = clauses + 8 * K_SLOTS * i
        cursor = cursors + CURSOR_BYTES * i
        if load_i64(clause + 8 * K_KIND) == LIST:
            store_i64(cursor + 8 * C_INDEX, 0)
        else:
            term = clause + 8 * K_TERM
            field = load_i64(clause + 8 * K_FIELD)
            if load_i64(term + 8 * T_DF) >= 128 and not has_headers(term, field):
                return CORRUPT
            if cursor_open(cursor, field, term) < 0:
                return CORRUPT
    while status == 0:
        # The next document that can match decides the next window.
        target = 0
        if required > 0:
            for i in range(required):
                target = max(target, clause_doc(clauses + 8 * K_SLOTS * i, cursors + CURSOR_BYTES * i))
        else:
            target = END
            for i in range(optional):
                target = min(target, clause_doc(clauses + 8 * K_SLOTS * i, cursors + CURSOR_BYTES * i))
        if target >= docs:
            break
        base = target & -WINDOW
        end = min(base + WINDOW, docs)
        for i in range(required + optional):
            clause = clauses + 8 * K_SLOTS * i
            cursor = cursors + CURSOR_BYTES * i
            if i < required:
                if clause_advance(clause, cursor, target) < 0:
                    status = CORRUPT
                    break
                status = add_window(clause, cursor, base, end, scratch, S_REQUIRED, i, 1)
            else:
                if clause_advance(clause, cursor, base) < 0:
                    status = CORRUPT
                    break
                status = add_window(clause, cursor, base, end, scratch, S_OPTIONAL, required, 1 << 32)
            if status < 0:
                break
        for w in range(WINDOW // 64):
            bits = load_u64(scratch + S_TOUCHED + 8 * w)
            if bits == np.uint64(0):
                continue
            store_u64(scratch + S_TOUCHED + 8 * w, np.uint64(0))
            accepted = bits
            if accept != 0:
                accepted = load_u64(accept + 8 * ((base >> 6) + w))
            while bits != np.uint64(0):
                bit = ctz(bits)
                bits = bits & (bits - np.uint64(1))
                cell = 64 * w + bit
                counts = load_u64(scratch + S_COUNTS + 8 * cell)
                store_u64(scratch + S_COUNTS + 8 * cell, np.uint64(0))
                first = np.float32(load_f64(scratch + S_REQUIRED + 8 * cell))
                second = np.float32(load_f64(scratch + S_OPTIONAL + 8 * cell))
                store_f64(scratch + S_REQUIRED + 8 * cell, 0.0)
                store_f64(scratch + S_OPTIONAL + 8 * cell, 0.0)
                if (np.int64(counts & np.uint64(0xFFFFFFFF)) != required
                        or np.int64(counts >> np.uint64(32)) < minimum
                        or ((accepted >> np.uint64(bit)) & np.uint64(1)) == np.uint64(0)):
                    continue
                found += 1
                score = first + second
                if mode == TOP:
                    key = (f32_bits(score) << 32) | (0xFFFFFFFF - (base + cell))
                    written = heap_push(results, written, limit, key)
                elif mode != COUNT and written < limit:
                    store_u32(results + 8 * written, base + cell)
                    store_f32(results + 8 * written + 4, score)
                    written += 1
        if mode == FIRST and written >= limit:
            break
    if mode == TOP:
        heap_sort(results, written)
    store_i64(out, written)
    store_i64(out + 8, written if mode == FIRST else found)
    return status

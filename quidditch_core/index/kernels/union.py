"""The best documents that hold any of some terms, without looking at most of them.

Profiles say what each term can score at most in each range of 256 documents, so a few vector operations say it of
the whole query. Ranges that cannot beat the floor are never decoded. The most promising ranges come first, to raise
the floor; the others follow in document order, alone where few of them are left and sixteen together where many are.

Within a window terms add their scores into cells, those that can score most first. A document gets a cell when what
it scores and what lesser terms can add may beat the floor, so the least terms give none (MAXSCORE), and loses it when
that has become impossible. When few cells are left, the terms that are left are asked about their documents. Cells are
float64, in which sums of a few float32 are exact, so a document's score does not depend on the order of its terms.

Lists of few postings are merged document by document instead, since bounding every range of a large segment takes
longer than that.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quidditch_core.index.kernels.blocks import CORRUPT
from quidditch_core.index.kernels.collector import (
    O_BLOCKS,
    O_COUNT,
    O_FLOOR,
    O_FOUND,
    O_POSTINGS,
    O_RANGES,
    begin,
    finish,
    floor_score,
    key_of,
    push,
    select,
)
from quidditch_core.index.kernels.descriptor import (
    BOTH,
    K_FLOORS,
    K_LOWER,
    K_SLOTS,
    Q_ACCEPT,
    Q_BASE,
    Q_DOCS,
    Q_FILTERED,
    Q_FLOORS,
    Q_MODE,
    Q_NEXT,
    Q_OPTIONAL,
    Q_SLOTS,
)
from quidditch_core.index.kernels.lists import (
    L_BLOCK,
    L_BLOCKS,
    L_CLAUSE,
    L_COUNT,
    L_DF,
    L_DOC_BUFFER,
    L_INDEX,
    L_MOST,
    L_RANGES,
    L_SCORE_BUFFER,
    L_UNIT,
    L_WEIGHT,
    LIST_BYTES,
    RANGE_SHIFT,
    block_last,
    find_block,
    freq_at,
    has_doc,
    list_open,
    load_block,
    load_scores,
    lower_bound,
    posting_of,
    score_of,
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
    store_u8,
    store_u32,
    store_u64,
)
from quidditch_core.simd import f8x_add, f8x_at_least, f8x_load, f8x_mul, f8x_splat, f8x_store, u8x_float, u8x_widen

WINDOW = 4096
TOGETHER = WINDOW >> RANGE_SHIFT  # ranges of a window
FIRST = 16  # ranges that are searched before all others
FEW = 1024  # postings that are merged sooner than ranges are bounded
MERGEABLE = 16  # lists that may be
PROBE = 16  # postings that can be added in the time of one probe
UNTOUCHED = 1 << 63  # -0.0: what a cell holds before anything is added to it

# Scratch: cells, touched cells, the lists, and then by number of clauses and ranges.
S_CELLS = 0
S_TOUCHED = 8 * WINDOW
S_LISTS = S_TOUCHED + 4 * WINDOW + 64  # one more may be written than is counted


def scratch_bytes(clauses: int, docs: int) -> int:
    """Bytes of scratch for a query of ``clauses`` on a segment; its cells hold -0.0 and are left so."""
    ranges = ((docs + 255) // 256 + 7) // 8 * 8
    return S_LISTS + clauses * (LIST_BYTES + 16 + ranges) + 12 * ranges + 64


@helper
def open_sparse(state: int, row: int, ranges: int) -> int:
    """Give a list without a profile a row of ranges: its postings are few. CORRUPT or 0."""
    for r in range(0, ranges, 8):
        store_u64(row + r, np.uint64(0))
    most = np.float32(0.0)
    for block in range(load_i64(state + 8 * L_BLOCKS)):
        count = load_block(state, block)
        if count < 0 or load_scores(state) < 0:
            return CORRUPT
        for i in range(count):
            most = max(most, load_f32(state + L_SCORE_BUFFER + 4 * i))
    most = max(most, np.float32(1e-30))
    scale = np.float32(254.0) / most
    for block in range(load_i64(state + 8 * L_BLOCKS)):
        count = load_block(state, block)
        if count < 0 or load_scores(state) < 0:
            return CORRUPT
        for i in range(count):
            at = row + (load_u32(state + L_DOC_BUFFER + 4 * i) >> RANGE_SHIFT)
            step = np.int64(load_f32(state + L_SCORE_BUFFER + 4 * i) * scale) + 1
            store_u8(at, max(load_u8(at), step))
    store_i64(state + 8 * L_RANGES, row)
    store_f32(state + 8 * L_MOST, most)
    store_f32(state + 8 * L_UNIT, most * np.float32(1.0 / 254.0) * np.float32(1.0 + 2.0**-20))
    return 0


@inline_helper
def floor_of(state: int, limit: int) -> int:
    """The floor that a list's profile promises: LIMIT documents score as much. -1 if it promises none."""
    clause = load_i64(state + 8 * L_CLAUSE)
    floors = load_i64(clause + 8 * K_FLOORS)
    if floors == 0 or limit > 2000:
        return -1
    i = 0
    bound = 10
    while bound < limit:
        i += 1
        bound = 10 * (1 if i % 3 == 0 else 2 if i % 3 == 1 else 5) * (1 if i < 3 else 10 if i < 6 else 100)
    lower = (load_f32(floors + 4 * i) * bits_f32(load_i64(clause + 8 * K_LOWER))
             * bits_f32(load_i64(state + 8 * L_WEIGHT)) * np.float32(1.0 - 2.0**-20))
    return (f32_bits(lower) << 32) - 1 if lower > np.float32(0.0) else -1


@helper
def add_postings(
    state: int, base: int, end: int, cells: int, touched: int, count: int, least: Any, out: int,
) -> int:
    """Add a list's scores in [base, end) to the cells; how many cells are touched now, or CORRUPT.

    A cell that nothing was added to is touched only by a score of at least ``least``.
    """
    untouched = count == 0
    block = find_block(state, max(0, load_i64(state + 8 * L_BLOCK)), base)
    blocks = load_i64(state + 8 * L_BLOCKS)
    while block < blocks:
        if block > 0 and block_last(state, block - 1) + 1 >= end:
            break
        size = load_block(state, block)
        if size < 0 or load_scores(state) < 0:
            return CORRUPT
        docs = state + L_DOC_BUFFER
        low = lower_bound(docs, size, base) if load_u32(docs) < base else 0
        last = load_u32(docs + 4 * (size - 1))
        high = size if last < end else lower_bound(docs, size, end)
        if untouched and least > 0.0:
            wanted = f8x_splat(np.float32(least) * np.float32(1.0 - 2.0**-20))
            for j in range(low & -8, high, 8):
                bits = np.uint64(f8x_at_least(f8x_load(state + L_SCORE_BUFFER + 4 * j), wanted))
                while bits != np.uint64(0):
                    i = j + ctz(bits)
                    bits = bits & (bits - np.uint64(1))
                    if low <= i < high:
                        cell = load_u32(docs + 4 * i) - base
                        store_u32(touched + 4 * count, cell)
                        count += 1 if load_u64(cells + 8 * cell) == UNTOUCHED else 0
                        store_f64(cells + 8 * cell, np.float64(load_f32(state + L_SCORE_BUFFER + 4 * i)))
            low = high
        for i in range(low, high):
            cell = load_u32(docs + 4 * i) - base
            at = cells + 8 * cell
            score = np.float64(load_f32(state + L_SCORE_BUFFER + 4 * i))
            new = load_u64(at) == UNTOUCHED
            hopeful = score >= least
            store_u32(touched + 4 * count, cell)
            store_f64(at, load_f64(at) + score if hopeful or not new else -0.0)
            count += 1 if hopeful and new else 0
        store_i64(out + 8 * O_BLOCKS, load_i64(out + 8 * O_BLOCKS) + 1)
        store_i64(out + 8 * O_POSTINGS, load_i64(out + 8 * O_POSTINGS) + high - low)
        if last + 1 >= end:
            break
        block += 1
    return count


@helper
def keep(cells: int, touched: int, count: int, least: Any) -> int:
    """Keep the touched cells that hold ``least`` or more, and clear the others; how many are kept."""
    kept = 0
    for i in range(count):
        cell = load_u32(touched + 4 * i)
        score = load_f64(cells + 8 * cell)
        store_u32(touched + 4 * kept, cell)
        store_f64(cells + 8 * cell, score if score >= least else -0.0)
        kept += 1 if score >= least else 0
    return kept


@helper
def keep_accepted(cells: int, touched: int, count: int, base: int, accept: int) -> int:
    """Keep the touched cells of accepted documents, and clear the others; how many are kept."""
    kept = 0
    for i in range(count):
        cell = load_u32(touched + 4 * i)
        store_u32(touched + 4 * kept, cell)
        if has_doc(accept, base + cell):
            kept += 1
        else:
            store_u64(cells + 8 * cell, UNTOUCHED)
    return kept


@inline_helper
def unrounded(floor: Any) -> Any:
    """The least float64 that may become ``floor`` when it is rounded to float32, or one below it."""
    return np.float64(floor) * (1.0 - 2.0**-23)


@helper
def search_window(
    lists: int, bounds: int, count: int, first: int, last: int, query: int, totals: int, scratch: int, out: int,
) -> int:
    """Search the ranges first .. last - 1; CORRUPT or 0.

    ``lists``: addresses of the lists, those that can score least first; ``bounds``: float64 for each.
    """
    docs = load_i64(query + 8 * Q_DOCS)
    accept = load_i64(query + 8 * Q_ACCEPT)
    number = load_i64(query + 8 * Q_BASE)
    base = first << RANGE_SHIFT
    end = min(last << RANGE_SHIFT, docs)
    floor = unrounded(floor_score(out))
    # What the lists up to each can add together, and the first without which the floor is out of reach.
    sum_ = 0.0
    essential = count
    for i in range(count):
        state = load_i64(lists + 8 * i)
        ranges = load_i64(state + 8 * L_RANGES)
        most = 0
        for r in range(first, last):
            most = max(most, load_u8(ranges + r))
        sum_ += np.float64(most) * np.float64(load_f32(state + 8 * L_UNIT))
        store_f64(bounds + 8 * i, sum_)
        if essential == count and sum_ >= floor and sum_ > 0.0:
            essential = i
    if essential == count:
        return 0
    store_i64(out + 8 * O_RANGES, load_i64(out + 8 * O_RANGES) + last - first)
    cells = scratch + S_CELLS
    touched = scratch + S_TOUCHED
    found = 0
    left = count
    while left > 0:
        state = load_i64(lists + 8 * (left - 1))
        rest = load_f64(bounds + 8 * left - 16) if left > 1 else 0.0
        if load_f64(bounds + 8 * left - 8) > rest:
            if left <= essential and found * PROBE * docs < load_i64(state + 8 * L_DF) * (end - base):
                break
            found = add_postings(state, base, end, cells, touched, found, floor - rest, out)
            if found < 0:
                return CORRUPT
        left -= 1
        if left == essential and accept != 0:
            found = keep_accepted(cells, touched, found, base, accept)
        if left <= essential and left < count - 1:
            found = keep(cells, touched, found, floor - rest)
    for i in range(found):
        cell = load_u32(touched + 4 * i)
        doc = base + cell
        score = load_f64(cells + 8 * cell)
        store_u64(cells + 8 * cell, UNTOUCHED)
        if load_f32(totals + 4 * (doc >> RANGE_SHIFT)) < np.float32(0.0):
            continue
        if left > 0:
            floor = unrounded(floor_score(out))
            for j in range(left - 1, -1, -1):
                if score + load_f64(bounds + 8 * j) < floor:
                    break
                state = load_i64(lists + 8 * j)
                if load_u8(load_i64(state + 8 * L_RANGES) + (doc >> RANGE_SHIFT)) == 0:
                    continue
                posting = posting_of(state, doc)
                if posting == CORRUPT:
                    return CORRUPT
                if posting >= 0:
                    freq = freq_at(state, posting)
                    if freq == CORRUPT:
                        return CORRUPT
                    score += np.float64(score_of(state, doc, freq))
        push(out, key_of(np.float32(score), number + doc))
    return 0


@helper
def search_one(state: int, query: int, out: int) -> int:
    """The best documents of a single list, block by block; CORRUPT or 0."""
    accept = load_i64(query + 8 * Q_ACCEPT)
    number = load_i64(query + 8 * Q_BASE)
    ranges = load_i64(state + 8 * L_RANGES)
    unit = load_f32(state + 8 * L_UNIT)
    floor = floor_score(out)
    least = np.int64(floor / unit) if unit > np.float32(0.0) and floor > np.float32(0.0) else 0
    first = 0
    for block in range(load_i64(state + 8 * L_BLOCKS)):
        if ranges != 0:
            last = block_last(state, block) >> RANGE_SHIFT
            most = 0
            for r in range(first, last + 1):
                most = max(most, load_u8(ranges + r))
            first = last  # the next block may begin in the same range
            if most < least:
                continue
        count = load_block(state, block)
        if count < 0 or load_scores(state) < 0:
            return CORRUPT
        store_i64(out + 8 * O_BLOCKS, load_i64(out + 8 * O_BLOCKS) + 1)
        store_i64(out + 8 * O_POSTINGS, load_i64(out + 8 * O_POSTINGS) + count)
        wanted = f8x_splat(floor)
        for i in range(0, count, 8):
            bits = np.uint64(f8x_at_least(f8x_load(state + L_SCORE_BUFFER + 4 * i), wanted))
            while bits != np.uint64(0):
                at = i + ctz(bits)
                bits = bits & (bits - np.uint64(1))
                if at < count:
                    doc = load_u32(state + L_DOC_BUFFER + 4 * at)
                    if accept == 0 or has_doc(accept, doc):
                        push(out, key_of(load_f32(state + L_SCORE_BUFFER + 4 * at), number + doc))
        raised = floor_score(out)
        if raised > floor:
            floor = raised
            least = np.int64(floor / unit)
    return 0


@helper
def enter_block(state: int, block: int) -> int:
    """Stand on the first posting of a block; CORRUPT or 0."""
    if load_block(state, block) < 0 or load_scores(state) < 0:
        return CORRUPT
    store_i64(state + 8 * L_INDEX, 0)
    return 0


@helper
def merge_lists(lists: int, count: int, query: int, out: int) -> int:
    """Score every document of some lists, in order; FOUND counts them. CORRUPT or 0."""
    accept = load_i64(query + 8 * Q_ACCEPT)
    number = load_i64(query + 8 * Q_BASE)
    found = 0
    for i in range(count):
        state = load_i64(lists + 8 * i)
        if enter_block(state, 0) < 0:
            return CORRUPT
        store_i64(out + 8 * O_BLOCKS, load_i64(out + 8 * O_BLOCKS) + load_i64(state + 8 * L_BLOCKS))
        store_i64(out + 8 * O_POSTINGS, load_i64(out + 8 * O_POSTINGS) + load_i64(state + 8 * L_DF))
    while count > 0:
        doc = 1 << 40
        for i in range(count):
            state = load_i64(lists + 8 * i)
            doc = min(doc, load_u32(state + L_DOC_BUFFER + 4 * load_i64(state + 8 * L_INDEX)))
        score = 0.0
        for i in range(count - 1, -1, -1):
            state = load_i64(lists + 8 * i)
            index = load_i64(state + 8 * L_INDEX)
            if load_u32(state + L_DOC_BUFFER + 4 * index) != doc:
                continue
            score += np.float64(load_f32(state + L_SCORE_BUFFER + 4 * index))
            store_i64(state + 8 * L_INDEX, index + 1)
            if index + 1 == load_i64(state + 8 * L_COUNT):
                block = load_i64(state + 8 * L_BLOCK) + 1
                if block < load_i64(state + 8 * L_BLOCKS):
                    if enter_block(state, block) < 0:
                        return CORRUPT
                else:
                    count -= 1
                    store_i64(lists + 8 * i, load_i64(lists + 8 * count))
        if accept == 0 or has_doc(accept, doc):
            found += 1
            push(out, key_of(np.float32(score), number + doc))
    store_i64(out + 8 * O_FOUND, load_i64(out + 8 * O_FOUND) + found)
    return 0


@helper
def search_ranges(lists: int, bounds: int, count: int, query: int, totals: int, scratch: int, out: int) -> int:
    """Bound every range, then search those that matter; CORRUPT or 0."""
    docs = load_i64(query + 8 * Q_DOCS)
    accept = load_i64(query + 8 * Q_ACCEPT)
    ranges = (((docs + 255) >> RANGE_SHIFT) + 7) & -8
    margin = f8x_splat(np.float32(1.0 + 2.0**-12))  # float32 sums of up to 1,024 bounds
    for r in range(0, ranges, 8):
        total = f8x_splat(np.float32(0.0))
        for i in range(count):
            state = load_i64(lists + 8 * i)
            unit = f8x_splat(load_f32(state + 8 * L_UNIT))
            total = f8x_add(total, f8x_mul(unit, u8x_float(u8x_widen(load_i64(state + 8 * L_RANGES) + r))))
        f8x_store(totals + 4 * r, f8x_mul(total, margin))
    if accept != 0 and load_i64(query + 8 * Q_FILTERED) != 0:
        words = (docs >> 6) + 1
        for r in range(ranges):
            some = np.uint64(0)
            for word in range(4 * r, min(4 * r + 4, words)):
                some = some | load_u64(accept + 8 * word)
            if some == np.uint64(0):
                store_f32(totals + 4 * r, np.float32(-1.0))
    # The best ranges first.
    keys = totals + 4 * ranges
    floor = max(floor_score(out), np.float32(1e-45))
    found = 0
    for r in range(0, ranges, 8):
        bits = np.uint64(f8x_at_least(f8x_load(totals + 4 * r), f8x_splat(floor)))
        while bits != np.uint64(0):
            at = r + ctz(bits)
            bits = bits & (bits - np.uint64(1))
            store_i64(keys + 8 * found, (f32_bits(load_f32(totals + 4 * at)) << 32) | at)
            found += 1
    if found > 2 * FIRST:
        select(keys, found, FIRST)
        for i in range(FIRST):
            r = load_i64(keys + 8 * i) & 0xFFFFFFFF
            if search_window(lists, bounds, count, r, r + 1, query, totals, scratch, out) < 0:
                return CORRUPT
            store_f32(totals + 4 * r, np.float32(-1.0))
    # Then the others in order.
    for window in range(0, ranges, TOGETHER):
        stop = min(window + TOGETHER, ranges)
        wanted = f8x_splat(max(floor_score(out), np.float32(1e-45)))
        bits = np.uint64(f8x_at_least(f8x_load(totals + 4 * window), wanted))
        if stop > window + 8:
            bits |= np.uint64(f8x_at_least(f8x_load(totals + 4 * window + 32), wanted)) << np.uint64(8)
        if bits == np.uint64(0):
            continue
        alive = 0
        left = bits
        while left != np.uint64(0):
            left = left & (left - np.uint64(1))
            alive += 1
        if 3 * alive >= stop - window:
            if search_window(lists, bounds, count, window, stop, query, totals, scratch, out) < 0:
                return CORRUPT
            continue
        while bits != np.uint64(0):
            r = window + ctz(bits)
            bits = bits & (bits - np.uint64(1))
            if (load_f32(totals + 4 * r) >= floor_score(out)
                    and search_window(lists, bounds, count, r, r + 1, query, totals, scratch, out) < 0):
                return CORRUPT
    return 0


@kernel("quidditch_core.index.kernels.reference:union")
def union(query: int, scratch: int, out: int, limit: int) -> int:
    """The best LIMIT hits of optional terms, over all segments of the query, as sorted keys; their number or CORRUPT.

    ``query``: descriptors as in the head of this file; ``scratch``: :func:`scratch_bytes`, for the largest segment;
    ``out``: a collector of ``limit`` hits.
    """
    begin(out, limit)
    while query != 0:
        count = load_i64(query + 8 * Q_OPTIONAL)
        docs = load_i64(query + 8 * Q_DOCS)
        ranges = (((docs + 255) >> RANGE_SHIFT) + 7) & -8
        states = scratch + S_LISTS
        lists = states + LIST_BYTES * count
        bounds = lists + 8 * count
        rows = bounds + 8 * count
        totals = (rows + ranges * count + 63) & -64
        postings = 0
        for i in range(count):
            state = states + LIST_BYTES * i
            if list_open(state, query + 8 * Q_SLOTS + 8 * K_SLOTS * i) < 0:
                return CORRUPT
            store_i64(lists + 8 * i, state)
            postings += load_i64(state + 8 * L_DF)
            if load_i64(query + 8 * Q_FLOORS) != 0:
                store_i64(out + 8 * O_FLOOR, max(load_i64(out + 8 * O_FLOOR), floor_of(state, limit)))
        both = load_i64(query + 8 * Q_MODE) == BOTH
        if count == 1 and not both:
            if search_one(states, query, out) < 0:
                return CORRUPT
        elif both or (postings <= FEW and count <= MERGEABLE):
            if merge_lists(lists, count, query, out) < 0:
                return CORRUPT
        else:
            for i in range(count):
                state = states + LIST_BYTES * i
                if load_i64(state + 8 * L_RANGES) == 0 and open_sparse(state, rows + ranges * i, ranges) < 0:
                    return CORRUPT
                at = i
                while at > 0 and load_f32(load_i64(lists + 8 * at - 8) + 8 * L_MOST) > load_f32(state + 8 * L_MOST):
                    store_i64(lists + 8 * at, load_i64(lists + 8 * at - 8))
                    at -= 1
                store_i64(lists + 8 * at, state)
            if search_ranges(lists, bounds, count, query, totals, scratch, out) < 0:
                return CORRUPT
        behind = load_i64(query + 8 * Q_NEXT)
        query = query + behind if behind > 0 else 0
    finish(out)
    return load_i64(out + 8 * O_COUNT)

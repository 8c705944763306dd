"""The best documents that hold all of some terms, and phrases among them.

The rarest term leads: its blocks are decoded, and its documents are asked for in the other lists, the rarest first. A
list that is not much longer there is joined with them block by block instead. Profiles say in which ranges of 256
documents all terms occur and what they can score there, so that most of the lead's documents are dropped before
anything else is read: range by range, or for a short lead document by document. If even the rarest term is frequent,
all have bitmaps, and the ranges are intersected word by word instead.

A phrase is an intersection whose documents must also hold the terms at their offsets. Its frequency is at most that
of its rarest word, which bounds its score.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quidditch_core.index.kernels.blocks import (
    CORRUPT,
    END,
    T_HEADERS,
    T_POSITIONS,
    T_POSITIONS_SIZE,
    entry_point,
)
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
    COUNT,
    K_FIELD,
    K_OFFSET,
    K_SLOTS,
    K_TERM,
    Q_ACCEPT,
    Q_BASE,
    Q_DOCS,
    Q_FILTERED,
    Q_MODE,
    Q_NEXT,
    Q_OPTIONAL,
    Q_PHRASE,
    Q_REQUIRED,
    Q_SLOTS,
    TOP,
)
from quidditch_core.index.kernels.lists import (
    L_BITMAP,
    L_BLOCK,
    L_BLOCKS,
    L_CLAUSE,
    L_DF,
    L_DOC_BUFFER,
    L_FREQ_BUFFER,
    L_RANGES,
    L_RANKS,
    L_UNIT,
    LIST_BYTES,
    RANGE_SHIFT,
    block_last,
    bound_at,
    find_block,
    freq_at,
    has_doc,
    list_open,
    load_block,
    load_freqs,
    posting_of,
    rank,
    score_of,
)
from quidditch_core.index.kernels.phrase import W_AT, W_CURRENT, W_END, W_LEFT, next_position
from quidditch_core.index.kernels.union import FIRST, S_LISTS, open_sparse
from quidditch_core.jit import (
    ctz,
    f32_bits,
    helper,
    kernel,
    load_f32,
    load_i64,
    load_u8,
    load_u32,
    load_u64,
    popcount,
    store_f32,
    store_i64,
    store_u8,
)
from quidditch_core.segment import F_POSITIONS, F_POSITIONS_SIZE
from quidditch_core.simd import (
    f8x_add,
    f8x_min,
    f8x_mul,
    f8x_positive,
    f8x_splat,
    f8x_store,
    u8x_float,
    u8x_widen,
)

# Behind a walk through one document's positions (phrase.py): the posting, the term's place in the phrase, and the last
# posting whose positions were sought, with where they begin.
W_POSTING, W_OFFSET, W_SOUGHT, W_SOUGHT_AT = 4, 5, 6, 7
WALK_BYTES = 8 * 8
UNSOUGHT = -2
SHORT = 12  # a lead of fewer documents than a segment has ranges, divided by this, is short

LOOK_UP = 8  # postings that are joined in the time of one look-up
WINDOW = 1 << 18

S_CANDIDATES = S_LISTS  # int64 [128]: documents, then their places in the lead's block
S_PLACES = S_CANDIDATES + 8 * 128
S_SLOTS = S_PLACES + 8 * 128  # uint8 [WINDOW]: which candidate a document is, by its last bits
S_STATES = S_SLOTS + WINDOW


def scratch_bytes(clauses: int, docs: int) -> int:
    """Bytes of scratch for a query of ``clauses`` on a segment."""
    ranges = ((docs + 255) // 256 + 7) // 8 * 8
    return S_STATES + clauses * (LIST_BYTES + 8 + WALK_BYTES + 8 * 128 + ranges) + 12 * ranges + 64


@helper
def bound_ranges(lists: int, required: int, count: int, query: int, totals: int) -> None:
    """What a document of each range can score at most; -1 where no document can match."""
    docs = load_i64(query + 8 * Q_DOCS)
    accept = load_i64(query + 8 * Q_ACCEPT)
    ranges = (((docs + 255) >> RANGE_SHIFT) + 7) & -8
    zero = f8x_splat(np.float32(0.0))
    huge = f8x_splat(np.float32(3e38))
    nothing = f8x_splat(np.float32(-1.0))
    margin = f8x_splat(np.float32(1.0 + 2.0**-12))
    together = load_i64(query + 8 * Q_PHRASE) == 0
    for r in range(0, ranges, 8):
        total = zero
        least = huge
        for i in range(count):
            state = load_i64(lists + 8 * i)
            unit = f8x_splat(load_f32(state + 8 * L_UNIT))
            bound = f8x_mul(unit, u8x_float(u8x_widen(load_i64(state + 8 * L_RANGES) + r)))
            total = f8x_add(total, bound)
            if i < required:
                least = f8x_min(least, bound)
        most = f8x_mul(total if together else least, margin)
        f8x_store(totals + 4 * r, f8x_positive(least, most, nothing))
    if accept != 0 and load_i64(query + 8 * Q_FILTERED) != 0:
        words = (docs >> 6) + 1
        for r in range(ranges):
            some = np.uint64(0)
            for word in range(4 * r, min(4 * r + 4, words)):
                some = some | load_u64(accept + 8 * word)
            if some == np.uint64(0):
                store_f32(totals + 4 * r, np.float32(-1.0))


@helper
def bound_of(lists: int, required: int, count: int, doc: int, query: int) -> Any:
    """What one document can score at most; -1 if it cannot match."""
    total = np.float32(0.0)
    least = np.float32(3e38)
    for i in range(count):
        bound = bound_at(load_i64(lists + 8 * i), doc)
        total += bound
        if i < required:
            if bound <= np.float32(0.0):
                return np.float32(-1.0)
            least = min(least, bound)
    most = total if load_i64(query + 8 * Q_PHRASE) == 0 else least
    return most * np.float32(1.0 + 2.0**-12)


@helper
def skip_positions(at: int, end: int, count: int) -> int:
    """The address behind ``count`` varints, eight bytes at a time; CORRUPT if they do not end in time."""
    high = np.uint64(0x8080808080808080)
    while count > 0 and at + 8 <= end:
        inside = popcount(~load_u64(at) & high)
        if inside > count:
            break
        count -= inside
        at += 8
    if count == 0:
        # The last of them ended somewhere in these eight bytes, or exactly at their end.
        while load_u8(at - 1) >= 128:
            at -= 1
        return at
    while count > 0:
        if at >= end:
            return CORRUPT
        if load_u8(at) < 128:
            count -= 1
        at += 1
    return at


@helper
def seek(state: int, walk: int, doc: int) -> int:
    """Place a walk on the positions of its posting, that of ``doc``; the posting's frequency, or CORRUPT."""
    posting = load_i64(walk + 8 * W_POSTING)
    if posting == UNSOUGHT:
        posting = rank(load_i64(state + 8 * L_BITMAP), load_i64(state + 8 * L_RANKS), doc)
    clause = load_i64(state + 8 * L_CLAUSE)
    field = load_i64(clause + 8 * K_FIELD)
    term = clause + 8 * K_TERM
    block = posting >> 7
    index = posting & 127
    if load_freqs(state, block) < 0:
        return CORRUPT
    start = load_i64(term + 8 * T_POSITIONS)
    end = start + load_i64(term + 8 * T_POSITIONS_SIZE)
    base = load_i64(field + 8 * F_POSITIONS)
    if base == 0 or start < 0 or end < start or end > load_i64(field + 8 * F_POSITIONS_SIZE):
        return CORRUPT
    sought = load_i64(walk + 8 * W_SOUGHT)
    known = sought & 127
    if sought >> 7 == block and known <= index and index - known <= index & 31:
        at = load_i64(walk + 8 * W_SOUGHT_AT)
    else:
        point = 0
        if load_i64(state + 8 * L_DF) >= 128:
            point = entry_point(field, load_i64(term + 8 * T_HEADERS) + block, index)
            if point < 0:
                return CORRUPT
        if sought >> 7 == block and point & 127 <= known <= index:
            at = load_i64(walk + 8 * W_SOUGHT_AT)
        else:
            known = point & 127
            at = start + (point >> 7)
            if at > end:
                return CORRUPT
            at += base
    skip = 0
    for i in range(known, index):
        skip += load_u32(state + L_FREQ_BUFFER + 4 * i)
    if skip > 0:
        at = skip_positions(at, base + end, skip)
        if at < 0:
            return CORRUPT
    store_i64(walk + 8 * W_SOUGHT, posting)
    store_i64(walk + 8 * W_SOUGHT_AT, at)
    freq = load_u32(state + L_FREQ_BUFFER + 4 * index)
    store_i64(walk + 8 * W_LEFT, freq)
    store_i64(walk + 8 * W_AT, at)
    store_i64(walk + 8 * W_END, base + end)
    store_i64(walk + 8 * W_CURRENT, -1)
    return freq


@helper
def phrase_frequency(lists: int, walks: int, count: int, doc: int) -> int:
    """Number of places where all terms stand at their offsets; CORRUPT if the bytes are.

    A term's positions are sought when all terms before it have matched once.
    """
    found = 0
    while True:
        position = next_position(walks)
        if position == END or position < 0:
            return found if position == END else CORRUPT
        start = position - load_i64(walks + 8 * W_OFFSET)
        if start < 0:
            continue
        matched = True
        for i in range(1, count):
            walk = walks + WALK_BYTES * i
            wanted = start + load_i64(walk + 8 * W_OFFSET)
            current = load_i64(walk + 8 * W_CURRENT)
            if current == UNSOUGHT:
                if seek(load_i64(lists + 8 * i), walk, doc) < 0:
                    return CORRUPT
                current = -1
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
def hit(lists: int, walks: int, required: int, count: int, doc: int, query: int, totals: int, out: int) -> int:
    """Score a document that holds all required terms, at the postings in ``walks``; CORRUPT or 0."""
    mode = load_i64(query + 8 * Q_MODE)
    state = load_i64(lists)
    if load_i64(query + 8 * Q_PHRASE) != 0:
        if mode == TOP and load_i64(out + 8 * O_FLOOR) >= 0:
            most = freq_at(state, load_i64(walks + 8 * W_POSTING))
            if most < 0:
                return CORRUPT
            if score_of(state, doc, most) < floor_score(out):
                return 0
        if seek(state, walks, doc) < 0:
            return CORRUPT
        for i in range(1, required):
            store_i64(walks + WALK_BYTES * i + 8 * W_CURRENT, UNSOUGHT)
        freq = phrase_frequency(lists, walks, required, doc)
        if freq <= 0:
            return freq
        store_i64(out + 8 * O_FOUND, load_i64(out + 8 * O_FOUND) + 1)
        if mode != COUNT:
            push(out, key_of(score_of(state, doc, freq), load_i64(query + 8 * Q_BASE) + doc))
        return 0
    store_i64(out + 8 * O_FOUND, load_i64(out + 8 * O_FOUND) + 1)
    if mode == COUNT:
        return 0
    floor = np.float64(floor_score(out))
    left = np.float64(load_f32(totals + 4 * (doc >> RANGE_SHIFT)) if totals != 0
                      else bound_of(lists, required, count, doc, query))
    must = 0.0
    for i in range(required):
        state = load_i64(lists + 8 * i)
        posting = load_i64(walks + WALK_BYTES * i + 8 * W_POSTING)
        if posting == UNSOUGHT:
            posting = rank(load_i64(state + 8 * L_BITMAP), load_i64(state + 8 * L_RANKS), doc)
        freq = freq_at(state, posting)
        if freq < 0:
            return CORRUPT
        must += np.float64(score_of(state, doc, freq))
        if i + 1 < count:
            left -= np.float64(bound_at(state, doc))
            if must + left < floor:
                return 0
    should = 0.0
    for i in range(required, count):
        state = load_i64(lists + 8 * i)
        if bound_at(state, doc) <= np.float32(0.0):
            continue
        posting = posting_of(state, doc)
        if posting == CORRUPT:
            return CORRUPT
        if posting >= 0:
            freq = freq_at(state, posting)
            if freq < 0:
                return CORRUPT
            should += np.float64(score_of(state, doc, freq))
    push(out, key_of(np.float32(must) + np.float32(should), load_i64(query + 8 * Q_BASE) + doc))
    return 0


@helper
def search_bitmaps(
    lists: int, walks: int, required: int, count: int, r: int, query: int, totals: int, out: int,
) -> int:
    """Search one range in which every required term has a bitmap; CORRUPT or 0."""
    docs = load_i64(query + 8 * Q_DOCS)
    accept = load_i64(query + 8 * Q_ACCEPT)
    mode = load_i64(query + 8 * Q_MODE)
    phrase = load_i64(query + 8 * Q_PHRASE) != 0
    counting = mode == COUNT and not phrase
    for word in range(4 * r, min(4 * r + 4, (docs >> 6) + 1)):
        bits = load_u64(load_i64(load_i64(lists) + 8 * L_BITMAP) + 8 * word)
        for i in range(1, required):
            bits = bits & load_u64(load_i64(load_i64(lists + 8 * i) + 8 * L_BITMAP) + 8 * word)
        if accept != 0:
            bits = bits & load_u64(accept + 8 * word)
        if counting:
            store_i64(out + 8 * O_FOUND, load_i64(out + 8 * O_FOUND) + popcount(bits))
            continue
        while bits != np.uint64(0):
            doc = 64 * word + ctz(bits)
            bits = bits & (bits - np.uint64(1))
            for i in range(required):
                state = load_i64(lists + 8 * i)
                posting = UNSOUGHT
                if i == 0 and phrase:
                    posting = rank(load_i64(state + 8 * L_BITMAP), load_i64(state + 8 * L_RANKS), doc)
                store_i64(walks + WALK_BYTES * i + 8 * W_POSTING, posting)
            if hit(lists, walks, required, count, doc, query, totals, out) < 0:
                return CORRUPT
    store_i64(out + 8 * O_RANGES, load_i64(out + 8 * O_RANGES) + 1)
    return 0


@helper
def search_all_bitmaps(
    lists: int, walks: int, required: int, count: int, query: int, totals: int, out: int,
) -> int:
    """Range by range, the best first; CORRUPT or 0."""
    docs = load_i64(query + 8 * Q_DOCS)
    ranges = (((docs + 255) >> RANGE_SHIFT) + 7) & -8
    keys = totals + 4 * ranges
    pruned = load_i64(query + 8 * Q_MODE) == TOP
    if pruned:
        found = 0
        for r in range(ranges):
            if load_f32(totals + 4 * r) > np.float32(0.0):
                store_i64(keys + 8 * found, (f32_bits(load_f32(totals + 4 * r)) << 32) | r)
                found += 1
        if found > 2 * FIRST:
            select(keys, found, FIRST)
            for i in range(FIRST):
                r = load_i64(keys + 8 * i) & 0xFFFFFFFF
                if search_bitmaps(lists, walks, required, count, r, query, totals, out) < 0:
                    return CORRUPT
                store_f32(totals + 4 * r, np.float32(-1.0))
    floor = floor_score(out) if pruned else np.float32(0.0)
    for r in range(ranges):
        if load_f32(totals + 4 * r) >= max(floor, np.float32(0.0)):
            if search_bitmaps(lists, walks, required, count, r, query, totals, out) < 0:
                return CORRUPT
            if pruned:
                floor = floor_score(out)
    return 0


@helper
def look_up(state: int, docs: int, places: int, found: int, postings: int) -> int:
    """Keep those of ``found`` candidates that the list holds, each looked for by itself; their number or CORRUPT.

    ``postings``: int64 [128], gets the number of the posting of each, by its place in the lead's block.
    """
    kept = 0
    for i in range(found):
        doc = load_i64(docs + 8 * i)
        place = load_i64(places + 8 * i)
        posting = posting_of(state, doc)
        if posting == CORRUPT:
            return CORRUPT
        store_i64(docs + 8 * kept, doc)
        store_i64(places + 8 * kept, place)
        store_i64(postings + 8 * place, posting)
        kept += 1 if posting >= 0 else 0
    return kept


@helper
def join(state: int, first: int, end: int, docs: int, places: int, found: int, postings: int, slots: int) -> int:
    """As ``look_up``, by way of all documents of the blocks ``first`` to ``end``.

    Each candidate notes itself in the slot of its document. Slots are never cleared, so what one says is verified.
    """
    for i in range(found):
        store_u8(slots + (load_i64(docs + 8 * i) & (WINDOW - 1)), i)
    kept = 0
    for block in range(first, end):
        size = load_block(state, block)
        if size < 0:
            return CORRUPT
        for i in range(size):
            doc = load_u32(state + L_DOC_BUFFER + 4 * i)
            at = load_u8(slots + (doc & (WINDOW - 1)))
            if at < found and load_i64(docs + 8 * at) == doc:
                place = load_i64(places + 8 * at)
                store_i64(docs + 8 * kept, doc)
                store_i64(places + 8 * kept, place)
                store_i64(postings + 8 * place, 128 * block + i)
                kept += 1
    return kept


@helper
def keep_held(state: int, scratch: int, found: int, postings: int) -> int:
    """``look_up`` or ``join``, whichever is sooner."""
    docs = scratch + S_CANDIDATES
    first = load_i64(docs)
    last = load_i64(docs + 8 * (found - 1))
    blocks = load_i64(state + 8 * L_BLOCKS)
    block = find_block(state, max(0, load_i64(state + 8 * L_BLOCK)), first)
    behind = block + (LOOK_UP * found >> 7)
    if last - first >= WINDOW or (behind < blocks and block_last(state, behind) < last):
        return look_up(state, docs, scratch + S_PLACES, found, postings)
    end = min(find_block(state, block, last) + 1, blocks)
    return join(state, block, end, docs, scratch + S_PLACES, found, postings, scratch + S_SLOTS)


@helper
def search_lead(
    lists: int, walks: int, joined: int, required: int, count: int, query: int, totals: int, scratch: int, out: int,
) -> int:
    """Follow the rarest required term; CORRUPT or 0."""
    accept = load_i64(query + 8 * Q_ACCEPT)
    pruned = load_i64(query + 8 * Q_MODE) == TOP
    docs = scratch + S_CANDIDATES
    places = scratch + S_PLACES
    lead = load_i64(lists)
    first = 0
    for block in range(load_i64(lead + 8 * L_BLOCKS)):
        floor = max(floor_score(out) if pruned else np.float32(0.0), np.float32(0.0))
        if totals != 0:
            last = block_last(lead, block) >> RANGE_SHIFT
            hopeless = last - first < 16
            if hopeless:
                for r in range(first, last + 1):
                    if load_f32(totals + 4 * r) >= floor:
                        hopeless = False
                        break
            first = last
            if hopeless:
                continue
        size = load_block(lead, block)
        if size < 0:
            return CORRUPT
        store_i64(out + 8 * O_BLOCKS, load_i64(out + 8 * O_BLOCKS) + 1)
        store_i64(out + 8 * O_POSTINGS, load_i64(out + 8 * O_POSTINGS) + size)
        found = 0
        for i in range(size):
            doc = load_u32(lead + L_DOC_BUFFER + 4 * i)
            store_i64(docs + 8 * found, doc)
            store_i64(places + 8 * found, i)
            most = load_f32(totals + 4 * (doc >> RANGE_SHIFT)) if totals != 0 else bound_of(
                lists, required, count, doc, query)
            found += 1 if most >= floor else 0
        if accept != 0:
            kept = 0
            for i in range(found):
                doc = load_i64(docs + 8 * i)
                store_i64(docs + 8 * kept, doc)
                store_i64(places + 8 * kept, load_i64(places + 8 * i))
                kept += 1 if has_doc(accept, doc) else 0
            found = kept
        for j in range(1, required):
            bitmap = load_i64(load_i64(lists + 8 * j) + 8 * L_BITMAP)
            if bitmap == 0 or found == 0:
                continue
            kept = 0
            for i in range(found):
                doc = load_i64(docs + 8 * i)
                store_i64(docs + 8 * kept, doc)
                store_i64(places + 8 * kept, load_i64(places + 8 * i))
                kept += 1 if has_doc(bitmap, doc) else 0
            found = kept
        for j in range(1, required):
            state = load_i64(lists + 8 * j)
            if load_i64(state + 8 * L_BITMAP) == 0 and found > 0:
                found = keep_held(state, scratch, found, joined + 8 * 128 * j)
                if found < 0:
                    return CORRUPT
        for i in range(found):
            place = load_i64(places + 8 * i)
            store_i64(walks + 8 * W_POSTING, 128 * block + place)
            for j in range(1, required):
                bitmap = load_i64(load_i64(lists + 8 * j) + 8 * L_BITMAP)
                store_i64(walks + WALK_BYTES * j + 8 * W_POSTING,
                          load_i64(joined + 8 * 128 * j + 8 * place) if bitmap == 0 else UNSOUGHT)
            if hit(lists, walks, required, count, load_i64(docs + 8 * i), query, totals, out) < 0:
                return CORRUPT
    return 0


@kernel("quidditch_core.index.kernels.reference:intersection")
def intersection(query: int, scratch: int, out: int, limit: int) -> int:
    """The best LIMIT hits of required terms (and optional ones, or a phrase), over all segments of the query.

    Parameters and result as of ``union``; ``out`` counts all hits in FOUND in modes COUNT and BOTH.
    """
    begin(out, limit)
    mode = load_i64(query + 8 * Q_MODE)
    while query != 0:
        required = load_i64(query + 8 * Q_REQUIRED)
        count = required + load_i64(query + 8 * Q_OPTIONAL)
        docs = load_i64(query + 8 * Q_DOCS)
        ranges = (((docs + 255) >> RANGE_SHIFT) + 7) & -8
        states = scratch + S_STATES
        lists = states + LIST_BYTES * count
        walks = lists + 8 * count
        joined = walks + WALK_BYTES * count
        rows = joined + 8 * 128 * count
        totals = (rows + ranges * count + 63) & -64
        for i in range(count):
            state = states + LIST_BYTES * i
            if list_open(state, query + 8 * Q_SLOTS + 8 * K_SLOTS * i) < 0:
                return CORRUPT
            at = i
            if i < required:
                while at > 0 and load_i64(load_i64(lists + 8 * at - 8) + 8 * L_DF) > load_i64(state + 8 * L_DF):
                    store_i64(lists + 8 * at, load_i64(lists + 8 * at - 8))
                    at -= 1
            store_i64(lists + 8 * at, state)
        for i in range(required):
            clause = load_i64(load_i64(lists + 8 * i) + 8 * L_CLAUSE)
            store_i64(walks + WALK_BYTES * i + 8 * W_OFFSET, load_i64(clause + 8 * K_OFFSET))
            store_i64(walks + WALK_BYTES * i + 8 * W_SOUGHT, -1)
        lead = load_i64(lists)
        if SHORT * load_i64(lead + 8 * L_DF) <= ranges and load_i64(lead + 8 * L_BITMAP) == 0:
            totals = 0
        else:
            for i in range(count):
                state = states + LIST_BYTES * i
                if load_i64(state + 8 * L_RANGES) == 0 and open_sparse(state, rows + ranges * i, ranges) < 0:
                    return CORRUPT
            bound_ranges(lists, required, count, query, totals)
        if load_i64(lead + 8 * L_BITMAP) != 0:
            status = search_all_bitmaps(lists, walks, required, count, query, totals, out)
        else:
            status = search_lead(lists, walks, joined, required, count, query, totals, scratch, out)
        if status < 0:
            return CORRUPT
        behind = load_i64(query + 8 * Q_NEXT)
        query = query + behind if behind > 0 else 0
    if mode != COUNT:
        finish(out)
    return load_i64(out + 8 * O_COUNT)

"""From tokens to postings, a whole call at a time.

The encoder finds the width and the place of every block first; then all full blocks of one width are packed
together, and all tails bit by bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quidditch_core.segment import BLOCK, SUB_BLOCK, view

from ..blocks import ENTRY_BYTES, FAR
from ..build import (
    E_BLOCKS,
    E_BOUND,
    E_CODED,
    E_DOCS,
    E_ENTRIES,
    E_FREQS,
    E_HAS_FREQS,
    E_LAST,
    E_NORMS,
    E_OFFSET,
    E_OUT,
    E_OUT_USED,
    E_PLACES,
    E_POS_OUT,
    E_POS_USED,
    E_POSITIONS,
    E_ROWS,
    E_SLOTS,
    E_STARTS,
    E_TABLE,
    E_TERMS,
    E_WIDTH,
)
from .blocks import Bytes, Ints, vertical_bytes

# --- encoding ----------------------------------------------------------------------------------------------


def exclusive_sum(values: Any) -> Ints:
    """Where each of several things begins if they lie one behind the other, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(values, dtype=np.int64)])


def bit_length(values: Any) -> Ints:
    """Number of bits of integers below 2^53."""
    return np.frexp(np.asarray(values, np.float64))[1].astype(np.int64)


def per_block(reduce: np.ufunc, values: NDArray[Any], begin: Ints) -> NDArray[Any]:
    """One value a block; each block ends where the next begins."""
    return reduce.reduceat(values, begin) if begin.size else values[:0]


def encode(job: int) -> int:
    """Encode the postings of sorted terms behind what the buffers hold, and fill the terms' rows."""
    slots = view(job, E_SLOTS, np.int64)
    at = slots.tolist()
    starts = view(at[E_STARTS], at[E_TERMS] + 1, np.int64)
    docs = view(at[E_DOCS], int(starts[-1]), np.uint32)[starts[0] :].astype(np.int64)
    freqs = view(at[E_FREQS], int(starts[-1]), np.uint32)[starts[0] :].astype(np.int64)
    starts = starts - starts[0]
    df = np.diff(starts)

    # The blocks of all terms, in the order in which they will lie; ``first_block`` of each term.
    first_block = exclusive_sum(-(-df // BLOCK))
    term = np.repeat(np.arange(df.size), np.diff(first_block))
    begin = starts[term] + BLOCK * (np.arange(term.size) - first_block[term])
    count = np.minimum(BLOCK, starts[term + 1] - begin)
    full, headed, packed = count == BLOCK, df[term] >= BLOCK, df[term] > 1

    previous = np.concatenate([[-1], docs[:-1]])[: docs.size]
    previous[starts[:-1][df > 0]] = -1
    gaps, extra = docs - previous - 1, (freqs - 1) * (at[E_HAS_FREQS] != 0)
    doc_width = bit_length(per_block(np.bitwise_or, gaps, begin))
    freq_width = bit_length(per_block(np.bitwise_or, extra, begin))
    doc_size = np.where(full, vertical_bytes(doc_width), -(-count * doc_width // 8))
    freq_size = np.where(full, vertical_bytes(freq_width), -(-count * freq_width // 8))
    lead = np.where(headed, 0, 2)  # the widths, where no header has them
    place = exclusive_sum(np.where(packed, lead + doc_size + freq_size, 0))

    image = np.zeros(place[-1], np.uint8)
    unheaded = packed & ~headed
    image[place[:-1][unheaded]] = doc_width[unheaded]
    image[place[:-1][unheaded] + 1] = freq_width[unheaded]
    tail = packed & ~full
    doc_place = place[:-1] + lead
    for values, width, to in (gaps, doc_width, doc_place), (extra, freq_width, doc_place + doc_size):
        pack_vertical(image, to[full], values, begin[full], width[full])
        pack_tails(image, to[tail], values, begin[tail], width[tail], count[tail])
    view(at[E_OUT] + at[E_OUT_USED], image.size, np.uint8)[:] = image

    term_place = place[first_block]
    append(at, E_LAST, 4, docs[begin + count - 1][headed], "<u4")
    append(at, E_OFFSET, 4, (place[:-1] - term_place[term])[headed] // 32, "<u4")
    append(at, E_WIDTH, 2, np.stack([doc_width, freq_width], axis=1)[headed], "u1")
    if at[E_NORMS]:
        bounds = per_block(np.maximum, idf_free_scores(at, docs, freqs), begin)[headed]
        append(at, E_BOUND, 1, np.ceil(bounds.astype(np.float64) * 255), "u1")

    token = exclusive_sum(freqs)  # first token of each posting
    position_at = np.zeros(starts.size, np.int64)
    if at[E_POSITIONS] or at[E_CODED]:
        points = (coded_places if at[E_CODED] else encode_positions)(at, token)[token]  # first byte of each posting's
        position_at = points[starts]
        append_entry_points(at, points[:-1] - np.repeat(position_at[:-1], df), begin[headed], count[headed])

    rows = view(at[E_ROWS], 8 * df.size, np.int64).reshape(-1, 8)
    header = at[E_BLOCKS] + exclusive_sum(headed)[first_block]
    rows[:, 1] = df
    rows[:, 2] = np.diff(token[starts])
    rows[:, 3] = at[E_OUT_USED] + term_place[:-1]
    rows[:, 4] = np.diff(term_place)
    rows[df == 1, 4] = docs[starts[:-1][df == 1]]
    rows[:, 5] = header[:-1]
    rows[:, 6] = at[E_POS_USED] + position_at[:-1]
    rows[:, 7] = np.diff(position_at)
    slots[E_OUT_USED] += image.size
    slots[E_BLOCKS] = header[-1]
    slots[E_POS_USED] += position_at[-1]
    return 0


def append(at: list[int], slot: int, row_bytes: int, values: NDArray[Any], dtype: str) -> None:
    """Write rows of a column of block headers behind those that it has."""
    view(at[slot] + row_bytes * at[E_BLOCKS], values.size, dtype)[:] = values.reshape(-1)


def pack_vertical(image: Bytes, to: Ints, values: Ints, begin: Ints, width: Ints) -> None:
    """Full blocks: value i goes to lane i % 8, row i // 8."""
    for bits in np.unique(width[width > 0]).tolist():
        chosen = np.flatnonzero(width == bits)
        size = vertical_bytes(bits)
        rows = values[begin[chosen][:, None] + np.arange(BLOCK)].reshape(-1, 16, 8)
        words = np.zeros((chosen.size, size // 32 + 1, 8), np.int64)
        for row in range(16):
            word, shift = divmod(row * bits, 32)
            wide = rows[:, row].astype(np.uint64) << np.uint64(shift)
            words[:, word] |= (wide & np.uint64(0xFFFFFFFF)).astype(np.int64)
            words[:, word + 1] |= (wide >> np.uint64(32)).astype(np.int64)
        lanes = words[:, :-1].astype("<u4").reshape(chosen.size, -1)
        image[to[chosen][:, None] + np.arange(size)] = lanes.view(np.uint8)


def pack_tails(image: Bytes, to: Ints, values: Ints, begin: Ints, width: Ints, count: Ints) -> None:
    """Streams of bits, least significant first; a value lies in at most five bytes."""
    tail = np.repeat(np.arange(count.size), count)
    i = np.arange(tail.size) - exclusive_sum(count)[tail]
    bit = i * width[tail]
    byte = to[tail] + bit // 8
    wide = values[begin[tail] + i] << bit % 8
    for k in range(5):
        part = (wide >> 8 * k & 255).astype(np.uint8)
        some = np.flatnonzero(part)
        np.bitwise_or.at(image, byte[some] + k, part[some])


def idf_free_scores(at: list[int], docs: Ints, freqs: Ints) -> NDArray[np.float32]:
    """What BM25 gives each posting at a weight of one."""
    norms = view(at[E_NORMS], int(docs.max(initial=-1)) + 1, np.uint8)[docs]
    one = np.float32(1)
    scores: NDArray[np.float32] = one - one / (
        one + freqs.astype(np.float32) * view(at[E_TABLE], 256, np.float32)[norms])
    return scores


def encode_positions(at: list[int], token: Ints) -> Ints:
    """Write the distances between positions as varints; the place of each token's, and the end."""
    positions = view(at[E_POSITIONS], int(token[-1]), np.uint32).astype(np.int64)
    previous = np.concatenate([[0], positions[:-1]])[: positions.size]
    previous[token[:-1]] = 0  # every document begins anew
    distances = positions - previous
    lengths = np.maximum(1, -(-bit_length(distances) // 7))
    place = exclusive_sum(lengths)
    out = view(at[E_POS_OUT] + at[E_POS_USED], int(place[-1]), np.uint8)
    for k in range(int(lengths.max(initial=0))):
        some = np.flatnonzero(lengths > k)
        out[place[some] + k] = distances[some] >> 7 * k & 127 | (lengths[some] > k + 1) * 128
    return place


def coded_places(at: list[int], token: Ints) -> Ints:
    """The place of each token's position, where they are encoded already, and the end."""
    size = int(view(at[E_PLACES], at[E_TERMS] + 1, np.int64)[-1])
    ends = np.flatnonzero(view(at[E_CODED], size, np.uint8) < 128) + 1
    assert ends.size == token[-1]
    return np.concatenate([[0], ends])


def append_entry_points(at: list[int], points: Ints, begin: Ints, count: Ints) -> None:
    """Where in a term's positions the postings 0, 32, 64 and 96 of its blocks begin, as far as they exist."""
    entries = view(at[E_ENTRIES] + ENTRY_BYTES * at[E_BLOCKS], ENTRY_BYTES * begin.size // 2, "<u2").reshape(-1, 6)
    entries[:] = 0
    for k in range(3):
        entries[:, k] = points[begin] >> 16 * k & 0xFFFF
    for k in range(1, 4):
        some = np.flatnonzero(count > SUB_BLOCK * k)
        entries[some, k + 2] = np.minimum(points[begin[some] + SUB_BLOCK * k] - points[begin[some]], FAR)

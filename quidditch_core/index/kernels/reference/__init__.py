"""Every kernel once more, in NumPy and plain Python: same arguments, same memory, same answers.

Tests hold the compiled kernels against these functions, and the library calls them where nothing is
compiled. They restate what a kernel computes, not how: a kernel goes through its input once, these take a
whole term or a whole call as arrays. So they look at all bytes of a term, and return CORRUPT also for damage
that a kernel jumps over; scratch memory they leave alone.
"""

from __future__ import annotations

from .boolean import boolean
from .build import encode
from .columns import (
    count_between,
    count_integers,
    first_rows,
    in_range,
    rows_of,
    sum_codes,
    sum_numbers,
    with_any,
)
from .ids import hash_ids
from .merge import arrange, gather, take
from .phrase import phrase
from .search import count_union, intersection, profile, union
from .strings import beyond_ascii, intern, prefixes, rehash, settle, spell
from .terms import (
    dictionary_block,
    dictionary_find,
    dictionary_read,
    dictionary_write,
    postings_fill,
    postings_read,
)
from .tokens import group, place, tally

__all__ = [
    "arrange",
    "beyond_ascii",
    "boolean",
    "count_between",
    "count_integers",
    "count_union",
    "dictionary_block",
    "dictionary_find",
    "dictionary_read",
    "dictionary_write",
    "encode",
    "first_rows",
    "gather",
    "group",
    "hash_ids",
    "in_range",
    "intern",
    "intersection",
    "phrase",
    "place",
    "postings_fill",
    "postings_read",
    "prefixes",
    "profile",
    "rehash",
    "rows_of",
    "settle",
    "spell",
    "sum_codes",
    "sum_numbers",
    "take",
    "tally",
    "union",
    "with_any",
]

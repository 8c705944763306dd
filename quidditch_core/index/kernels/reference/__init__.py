"""Every kernel once more, in NumPy and plain Python: same arguments, same memory, same answers.

Tests hold the compiled kernels against these functions, and the library calls them where nothing is
compiled. They restate what a kernel computes, not how: a kernel goes through its input once, these take a
whole term or a whole call as arrays. So they look at all bytes of a term, and return CORRUPT also for damage
that a kernel jumps over; scratch memory they leave alone.
"""

from __future__ import annotations

from .boolean import boolean
from .build import encode, group, intern, rehash, scatter
from .merge import gather
from .phrase import phrase
from .search import count_union, intersection, profile, union
from .terms import (
    dictionary_block,
    dictionary_find,
    dictionary_read,
    dictionary_write,
    postings_fill,
    postings_read,
)

__all__ = [
    "boolean",
    "count_union",
    "dictionary_block",
    "dictionary_find",
    "dictionary_read",
    "dictionary_write",
    "encode",
    "gather",
    "group",
    "intern",
    "intersection",
    "phrase",
    "postings_fill",
    "postings_read",
    "profile",
    "rehash",
    "scatter",
    "union",
]

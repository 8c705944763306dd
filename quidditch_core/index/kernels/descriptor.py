"""A query as kernels read it: int64 slots on one segment, then its clauses, required ones first.

``boolean`` reads any clauses. ``union``, ``intersection`` and ``count`` read terms, and descriptors of several segments
one behind the other.
"""

from __future__ import annotations

Q_REQUIRED, Q_OPTIONAL, Q_MINIMUM, Q_ACCEPT, Q_DOCS, Q_MODE, Q_LIMIT = range(7)
# How many bytes on the next segment's descriptor begins (0: there is none), and which number this segment's first
# document has in the view.
Q_BASE, Q_NEXT = 7, 8
# Whether the required terms are a phrase, the floors of profiles hold, and ACCEPT may leave whole ranges out.
Q_PHRASE, Q_FLOORS, Q_FILTERED = 9, 10, 11
Q_SLOTS = 16

TOP, ALL, COUNT, BOTH, FIRST = range(5)
"""Modes: the best LIMIT hits; all hits with their scores; their number; the best and their number; the first LIMIT."""

# A clause: postings of a term, scored by BM25, or a list of documents, LIST and SCORES being addresses of uint32
# documents and float32 scores (0: WEIGHT for all).
K_KIND, K_FIELD, K_WEIGHT, K_TABLE, K_LIST, K_SCORES, K_COUNT, K_TERM = range(8)
# A term's clause may have a profile (see ``profile``). RAISE and LOWER bring its bounds to the statistics of the view.
K_BITMAP, K_RANKS, K_RANGES, K_TOP, K_FLOORS, K_RAISE, K_LOWER = range(15, 22)
# The term's place in a phrase.
K_OFFSET = 22
K_SLOTS = 24
POSTINGS, LIST = 0, 1

"""Which number each document gets in the segment that is made of some others: the maps of a merge.

Without a sort, documents keep their order: the segments in order, the documents of each in order. With one, they are
sorted by the keys of the index sort, stably. Whatever moves documents goes by these maps, so that another order of them
is another map and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import Settings, SortBy
from ..errors import SettingsError
from ..mapping import Mapping
from ..segment import Segment
from . import columns
from .postings import corrupt, read_terms
from .strings import Interner, readable

Map = NDArray[np.int32]
"""For each document of a source its new number, -1 if it has none."""
Mask = NDArray[np.bool_]


def numbered(segments: Sequence[Segment], live: Sequence[Mask], sort: Sequence[SortBy]) -> list[Map]:
    """The maps of ``segments``, of which the documents in ``live`` are kept, sorted by ``sort`` if any."""
    docs = [np.flatnonzero(mask) for mask in live]
    size = sum(part.size for part in docs)
    places = _places(segments, docs, sort) if sort and size else np.arange(size, dtype=np.int32)
    maps = []
    start = 0
    for mask, part in zip(live, docs, strict=True):
        numbers = np.full(mask.size, -1, np.int32)
        numbers[part] = places[start : start + part.size]
        maps.append(numbers)
        start += part.size
    return maps


def ascends(maps: Sequence[Map]) -> bool:
    """Whether documents keep their order."""
    last = -1
    for numbers in maps:
        kept = numbers[numbers >= 0]
        if kept.size:
            if kept[0] < last or (kept[1:] < kept[:-1]).any():
                return False
            last = int(kept[-1])
    return True


def check_sort(settings: Settings, mapping: Mapping) -> None:
    """SettingsError unless every field of the index sort has a column."""
    for by in settings.sort:
        field = mapping.fields.get(by.field)
        if field is None:
            raise SettingsError("no such field to sort the index by", path="index.sort.field", found=by.field,
                                expected="a field of the mapping", fix="add it to the mapping")
        if not field.column:
            raise SettingsError("the field has no column to sort the index by", path="index.sort.field",
                                found=f"{by.field}, {field.type}",
                                expected="a keyword, number, date or boolean with doc_values",
                                fix="sort by a keyword sub-field" if field.is_text else "map it with doc_values")


def _places(segments: Sequence[Segment], docs: Sequence[NDArray[np.int64]], sort: Sequence[SortBy]) -> Map:
    """The place of each of ``docs``, those of one segment after another's, when all are sorted."""
    keys: list[NDArray[Any]] = []
    for by in reversed(sort):
        codes, present = _codes(segments, docs, by)
        keys.append(np.where(present, ~codes if by.descending else codes, 0))
        if not present.all():
            keys.append(np.where(present, 0, -1 if by.missing_first else 1).astype(np.int8))
    order = np.argsort(keys[0], kind="stable") if len(keys) == 1 else np.lexsort(keys)
    places = np.empty(order.size, np.int32)
    places[order] = np.arange(order.size, dtype=np.int32)
    return places


def _codes(segments: Sequence[Segment], docs: Sequence[NDArray[np.int64]], by: SortBy) -> tuple[NDArray[Any], Mask]:
    """Codes that compare as the values of a key do, in all segments, and which of ``docs`` have one."""
    found = [columns.sort_codes(segment, by.field, part, greatest=by.greatest)
             for segment, part in zip(segments, docs, strict=True)]
    codes = [np.where(present, codes, 0) for codes, present in found]
    if any((info := segment.fields.get(by.field)) is not None and info.column == "ord" for segment in segments):
        codes = [rank[ordinals] if rank.size else ordinals for rank, ordinals in zip(
            _ranks(segments, by.field, codes), codes, strict=True)]
    return np.concatenate(codes), np.concatenate([present for _, present in found])


def _ranks(segments: Sequence[Segment], name: str, codes: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """For each segment the rank of each of its terms among those of all; ``codes``: the ordinals that will be asked."""
    interner = Interner()
    numbers = []
    for segment, ordinals in zip(segments, codes, strict=True):
        info = segment.fields.get(name)
        terms = info.terms if info is not None and info.indexed else 0
        if ordinals.size and terms and not 0 <= int(ordinals.min()) <= int(ordinals.max()) < terms:
            raise corrupt(segment, name, "column's ordinals")
        numbers.append(interner.intern(*readable(*read_terms(segment, name, 0, terms)[:2])) if terms
                       else np.zeros(0, np.uint32))
    ordered = interner.ordered(np.arange(len(interner), dtype=np.uint32))
    ranks = np.empty(ordered.size, np.int64)
    ranks[ordered] = np.arange(ordered.size)
    return [ranks[part] for part in numbers]

"""From rows to hits: ids, sources and highlights, read only where the request asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from .. import query as q
from ..analysis import get_analyzer
from ..codec.v1.stored import reader
from ..dsl import HighlightRequest, SearchRequest
from ..errors import QueryError
from ..mapping import FieldType, Mapping
from ..result import Hit
from .ids import ids_of
from .source import filter_source, wildcard_match
from .view import View

if TYPE_CHECKING:
    from .highlight import Phrase, Target


def fetch(
    leaves: list[int], docs: list[int], scores: Sequence[float | None], sorts: Sequence[list[Any] | None], view: View,
    request: SearchRequest,
) -> list[Hit]:
    """The hits of a page: for each its segment, document, score and sort values. Without source and highlight no stored
    unit is read."""
    wanted = request.source
    ids, stored = _read(leaves, docs, view, stored=wanted.enabled or request.highlight is not None)
    if request.highlight is None and (wanted.everything or not wanted.enabled):
        return list(map(Hit, ids, scores, stored, sorts))
    highlighter = None
    if request.highlight is not None:
        from .highlight import Highlighter

        highlighter = Highlighter(targets(request.query, request.highlight, view.mapping))
    hits = []
    for id, score, sort, document in zip(ids, scores, sorts, stored, strict=True):
        assert document is not None
        decoded: dict[str, Any] = msgspec.json.decode(document)
        source = None if not wanted.enabled else document if wanted.everything else filter_source(decoded, wanted)
        hits.append(Hit(id, score, source, sort, None if highlighter is None else highlighter.highlight(decoded)))
    return hits


def _read(
    leaves: list[int], docs: list[int], view: View, *, stored: bool,
) -> tuple[list[str], list[bytes] | list[None]]:
    """The id of each document, and its stored bytes if they are asked for."""
    if len(set(leaves)) == 1:
        segment = view.leaves[leaves[0]].segment
        return ids_of(segment, docs), reader(segment).read_all(docs) if stored else [None] * len(docs)
    by_leaf: dict[int, list[int]] = {}
    for at, leaf in enumerate(leaves):
        by_leaf.setdefault(leaf, []).append(at)
    if stored and view.cold:
        from .prefetch import prefetch_stored

        prefetch_stored(view, leaves, docs)
    ids, sources = [""] * len(docs), [b""] * len(docs)
    for leaf, places in by_leaf.items():
        segment = view.leaves[leaf].segment
        own = [docs[at] for at in places]
        for at, id in zip(places, ids_of(segment, own), strict=True):
            ids[at] = id
        if stored:
            for at, source in zip(places, reader(segment).read_all(own), strict=True):
                sources[at] = source
    return ids, sources if stored else [None] * len(docs)


class _Sought:
    """What a query looks for in one field."""

    def __init__(self) -> None:
        self.terms: set[str] = set()
        self.phrases: list[Phrase] = []
        self.prefixes: set[str] = set()


def targets(query: q.Query, request: HighlightRequest, mapping: Mapping) -> list[Target]:
    """The fields to highlight, with what ``query`` looks for in each. must_not clauses look for nothing."""
    from .highlight import Target

    sought: dict[str, _Sought] = {}
    _gather(query, mapping, sought)
    found = []
    for number, wanted in enumerate(request.fields):
        names = [name for name in mapping.fields if wildcard_match(wanted.field, name)]
        if not names and "*" not in wanted.field and wanted.field not in mapping.objects:
            raise QueryError("no such field to highlight", path=f"highlight.fields[{number}]", found=wanted.field,
                             expected="a field of the mapping, or a pattern with *")
        for name in names:
            field = mapping.fields[name]
            if field.is_numeric:
                continue
            own = [sought[name]] if name in sought else []
            if not wanted.options.require_field_match:
                own = list(sought.values())
            if "*" in wanted.field and not own:
                continue
            analyzer = get_analyzer(field.analyzer or "keyword")
            found.append(Target(
                name, _source_path(name, mapping), analyzer.tokens,
                frozenset().union(*(each.terms for each in own)), [p for each in own for p in each.phrases],
                frozenset().union(*(each.prefixes for each in own)), wanted.options))
    return found


def _source_path(name: str, mapping: Mapping) -> str:
    """A multi-field has its values under its parent's path."""
    parent = name.rpartition(".")[0]
    return parent if parent in mapping.fields else name


def _gather(query: q.Query, mapping: Mapping, sought: dict[str, _Sought]) -> None:
    if isinstance(query, q.Bool):
        for clause in (*query.must, *query.should, *query.filter):
            _gather(clause, mapping, sought)
        return
    if isinstance(query, q.ConstantScore):
        _gather(query.filter, mapping, sought)
        return
    if isinstance(query, q.ScriptScore | q.FunctionScore):
        _gather(query.query, mapping, sought)
        return
    field = mapping.fields.get(getattr(query, "field", ""))
    if field is None:
        return
    own = sought.setdefault(field.name, _Sought())
    match query:
        case q.Match():
            own.terms |= {term for term, _ in _words(field, query.text)}
        case q.MatchPhrase():
            words = _words(field, query.text)
            if len(words) == 1:
                own.terms.add(words[0][0])
            elif words:
                slots: list[str | None] = [None] * (words[-1][1] - words[0][1] + 1)
                for term, position in words:
                    slots[position - words[0][1]] = term
                own.phrases.append((tuple(slots), query.slop))
        case q.Term():
            own.terms.add(str(query.value))
        case q.Terms():
            own.terms |= {str(value) for value in query.values}
        case q.Prefix():
            own.prefixes.add(query.value)


def _words(field: FieldType, text: str) -> list[tuple[str, int]]:
    return get_analyzer(field.search_analyzer or "standard").terms(text) if field.is_text else [(text, 0)]

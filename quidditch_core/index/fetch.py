"""From rows to hits: ids, sources and highlights, read only where the request asks for them."""

from __future__ import annotations

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
    from .page import Row


def fetch(rows: list[Row], view: View, request: SearchRequest) -> list[Hit]:
    """The hits of ``rows``. Without source and highlight no stored unit is read."""
    wanted = request.source
    highlighter = None
    if request.highlight is not None:
        from .highlight import Highlighter

        highlighter = Highlighter(targets(request.query, request.highlight, view.mapping))
    hits = []
    for (leaf, doc, score, sort), id in zip(rows, _ids(rows, view), strict=True):
        segment = view.leaves[leaf].segment
        source: bytes | dict[str, Any] | None = None
        marked = None
        if wanted.enabled or highlighter is not None:
            stored = reader(segment).read(doc)
            source = stored if wanted.enabled else None
            if highlighter is not None or (wanted.enabled and not wanted.everything):
                decoded: dict[str, Any] = msgspec.json.decode(stored)
                if highlighter is not None:
                    marked = highlighter.highlight(decoded)
                if wanted.enabled and not wanted.everything:
                    source = filter_source(decoded, wanted)
        hits.append(Hit(id, None if score is None else float(score), source, sort, marked))
    return hits


def _ids(rows: list[Row], view: View) -> list[str]:
    """The id of each row."""
    by_leaf: dict[int, list[int]] = {}
    for at, row in enumerate(rows):
        by_leaf.setdefault(row.leaf, []).append(at)
    found = [""] * len(rows)
    for leaf, places in by_leaf.items():
        ids = ids_of(view.leaves[leaf].segment, [rows[at].doc for at in places])
        for at, id in zip(places, ids, strict=True):
            found[at] = id
    return found


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

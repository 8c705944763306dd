"""OpenSearch request bodies <-> queries and requests.

Pure data in, pure data out: nothing here knows the mapping, so a field that does not exist is no error (it
matches nothing), and limits that are settings of an index (``max_result_window``) are checked by its reader.

Every error is a ``QueryError`` with the JSON path of what is wrong. What OpenSearch knows and this version
does not is an ``UnsupportedError``, unless it asks for what happens anyway (``"lenient": false``). The parts
of a request that Python callers give as arguments (sort, source, highlight) go through the same functions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec.structs import force_setattr

from quidditch_core import query as q
from quidditch_core.errors import QueryError, UnsupportedError, nearest
from quidditch_core.query import MAX_CLAUSES, MAX_DEPTH, Query, Value

if TYPE_CHECKING:
    from quidditch_core import aggs as a

_Built = TypeVar("_Built")

_INT32_MAX = 2**31 - 1
_MAX_PATTERNS = 1024  # source patterns, highlighted fields
_MAX_SORT_KEYS = 64

_ALWAYS: Any = object()
"""Marks a parameter that has no value which asks for what happens anyway."""


# The request.


class SortKey(msgspec.Struct, frozen=True):
    """One key to sort by: a field, ``_score`` or ``_doc``.

    ``missing``: ``_last``, ``_first`` or the value that stands for none. ``mode``: which value of several
    counts, ``min`` (default when ascending) or ``max``.
    """

    field: str
    order: str | None = None
    missing: Value = "_last"
    mode: str | None = None

    def __post_init__(self) -> None:
        _check_name(self.field, "SortKey.field", "a field name, _score or _doc")
        order = "desc" if self.field == "_score" else "asc"
        if self.order is not None:
            order = _one_of(self.order, "SortKey.order", ("asc", "desc"))
        mode = "min" if order == "asc" else "max"
        if self.mode is not None:
            mode = _one_of(self.mode, "SortKey.mode", ("min", "max"), later=("sum", "avg", "median"))
        if isinstance(self.missing, float) and self.missing != self.missing:
            raise QueryError("not a number", path="SortKey.missing", found=self.missing, expected="a value")
        if not isinstance(self.missing, (str, int, float, bool)):
            raise QueryError(
                "bad missing value", path="SortKey.missing", found=self.missing,
                expected="_last, _first or a value of the field",
            )
        force_setattr(self, "order", order)
        force_setattr(self, "mode", mode)

    @property
    def descending(self) -> bool:
        return self.order == "desc"


class SourceFilter(msgspec.Struct, frozen=True):
    """Which parts of ``_source`` a hit carries: dotted paths in which ``*`` stands for any characters.

    Without includes everything is included; an exclude beats an include; a path that names an object means
    all of it. ``index.source`` applies it.
    """

    enabled: bool = True
    includes: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _boolean(self.enabled, "SourceFilter.enabled")
        for name in ("includes", "excludes"):
            force_setattr(self, name, _patterns(getattr(self, name), f"SourceFilter.{name}"))

    @property
    def everything(self) -> bool:
        return self.enabled and not self.includes and not self.excludes


class HighlightOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How one field is highlighted; names and defaults are those of OpenSearch's unified highlighter.

    Sizes are characters. ``fragment_size`` 0 never splits a sentence, ``number_of_fragments`` 0 gives whole
    values. ``order``: ``none`` (as in the document) or ``score``. ``encoder``: ``default`` or ``html``.
    """

    pre_tag: str = "<em>"
    post_tag: str = "</em>"
    fragment_size: int = 100
    number_of_fragments: int = 5
    no_match_size: int = 0
    order: str = "none"
    encoder: str = "default"
    require_field_match: bool = True

    def __post_init__(self) -> None:
        for name in ("fragment_size", "number_of_fragments", "no_match_size"):
            _count(getattr(self, name), f"HighlightOptions.{name}")
        for name in ("pre_tag", "post_tag"):
            _string(getattr(self, name), f"HighlightOptions.{name}")
        _boolean(self.require_field_match, "HighlightOptions.require_field_match")
        force_setattr(self, "order", _one_of(self.order, "HighlightOptions.order", ("none", "score")))
        encoder = _one_of(self.encoder, "HighlightOptions.encoder", ("default", "html"))
        force_setattr(self, "encoder", encoder)


class HighlightField(msgspec.Struct, frozen=True):
    """A field to highlight, or a pattern with ``*``, and how."""

    field: str
    options: HighlightOptions = msgspec.field(default_factory=HighlightOptions)


class HighlightRequest(msgspec.Struct, frozen=True):
    """The fields to highlight; ``options`` are those that a field inherits."""

    fields: tuple[HighlightField, ...]
    options: HighlightOptions = msgspec.field(default_factory=HighlightOptions)


class SearchRequest(msgspec.Struct, frozen=True):
    """A search: what to look for, which of it to return, in which order and form.

    ``track_total_hits``: True counts exactly, False not at all, an integer up to that many. ``tiers``: only segments in
    these (none: in all). ``partial``: segments whose tier cannot be reached are left out, and named.
    """

    query: Query = msgspec.field(default_factory=lambda: _ALL)
    size: int = 10
    from_: int = 0
    sort: tuple[SortKey, ...] = ()
    source: SourceFilter = msgspec.field(default_factory=lambda: _WHOLE)
    highlight: HighlightRequest | None = None
    track_total_hits: bool | int = 10_000
    aggs: a.Named = ()
    profile: bool = False
    tiers: tuple[str, ...] = ()
    partial: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.query, Query):
            raise QueryError("not a query", path="query", found=self.query, expected="a Query")
        _count(self.size, "size")
        _count(self.from_, "from")
        if not isinstance(self.track_total_hits, bool):
            _count(self.track_total_hits, "track_total_hits", "true, false or an integer, 0 or more")
        if self.aggs:
            from quidditch_core.aggs import named

            force_setattr(self, "aggs", named(self.aggs))
        _boolean(self.profile, "profile")
        _boolean(self.partial, "allow_partial_search_results")
        given: Any = self.tiers
        if isinstance(given, str):
            given = given.split(",")
        if not isinstance(given, list | tuple) or not all(tier in TIERS for tier in given):
            raise QueryError("not tiers", path="tiers", found=self.tiers, expected="a list of " + ", ".join(TIERS))
        force_setattr(self, "tiers", tuple(given))


TIERS = ("hot", "warm", "cold")
_BODY = ("query", "size", "from", "sort", "_source", "highlight", "track_total_hits", "aggs", "aggregations", "profile",
         "tiers", "allow_partial_search_results")
_LATER_BODY: dict[str, Any] = {
    "explain": False, "version": False, "seq_no_primary_term": False,
    "track_scores": False, "include_named_queries_score": False, "verbose_pipeline": False,
    "terminate_after": 0,
    **dict.fromkeys((
        "knn", "collapse", "suggest", "rescore", "search_after", "min_score", "post_filter", "script_fields",
        "docvalue_fields", "stored_fields", "fields", "timeout", "indices_boost", "slice", "stats", "ext",
        "pit", "derived", "runtime_mappings", "search_pipeline",
    ), _ALWAYS),
}  # fmt: skip


def parse_body(body: Any) -> SearchRequest:
    """The request that an OpenSearch search body asks for. Raises QueryError, UnsupportedError."""
    _dict(body, "", 'a search body such as {"query": {"match_all": {}}}')
    _check_string_keys(body, "")
    for name in body:
        if name not in _LATER_BODY and (name in _SUPPORTED or name in _LATER_QUERIES):
            raise QueryError(
                'a query outside of "query"', path=name, found=body[name], expected="a search body",
                fix=f'write {{"query": {{"{name}": ...}}}}',
            )
    _check_keys(body, "", "search body", _BODY, _LATER_BODY)
    given: dict[str, Any] = {name: body[name] for name in ("size", "track_total_hits", "profile") if name in body}
    for name, attribute in (("from", "from_"), ("tiers", "tiers"), ("allow_partial_search_results", "partial")):
        if name in body:
            given[attribute] = body[name]
    if "query" in body:
        given["query"] = parse_query(body["query"])
    if "sort" in body:
        given["sort"] = parse_sort(body["sort"])
    if "_source" in body:
        given["source"] = parse_source(body["_source"])
    if "highlight" in body:
        given["highlight"] = parse_highlight(body["highlight"])
    names = [name for name in ("aggs", "aggregations") if name in body]
    if len(names) > 1:
        raise QueryError("both aggs and aggregations are given", path="aggregations", expected="one of them")
    for name in names:
        given["aggs"] = parse_aggs(body[name], name)
    return SearchRequest(**given)


# Queries. The five that look for something in one field share their form, and a table.


class _FieldForm(msgspec.Struct, frozen=True):
    """``{name: {field: {key: value, ...}}}``, or ``{name: {field: value}}`` with the value of ``short``."""

    type: type[Query]
    keys: dict[str, str]  # JSON key -> attribute
    short: str | None
    later: dict[str, Any]


_FIELD_FORMS = {
    "match": _FieldForm(
        q.Match,
        {
            "query": "text", "operator": "operator", "minimum_should_match": "minimum_should_match",
            "boost": "boost",
        },
        "query",
        {
            "lenient": False, "prefix_length": 0, "max_expansions": 50, "fuzzy_transpositions": True,
            "zero_terms_query": "none", "auto_generate_synonyms_phrase_query": True,
            "analyzer": _ALWAYS, "fuzziness": _ALWAYS, "fuzzy_rewrite": _ALWAYS, "cutoff_frequency": _ALWAYS,
        },
    ),
    "match_phrase": _FieldForm(
        q.MatchPhrase,
        {"query": "text", "slop": "slop", "boost": "boost"},
        "query",
        {"zero_terms_query": "none", "analyzer": _ALWAYS},
    ),
    "term": _FieldForm(
        q.Term, {"value": "value", "boost": "boost"}, "value", {"case_insensitive": False}
    ),
    "range": _FieldForm(
        q.Range,
        {name: name for name in ("gt", "gte", "lt", "lte", "format", "boost")},
        None,
        dict.fromkeys(("from", "to", "include_lower", "include_upper", "time_zone", "relation"), _ALWAYS),
    ),
    "prefix": _FieldForm(
        q.Prefix,
        {"value": "value", "boost": "boost"},
        "value",
        {"case_insensitive": False, "rewrite": "constant_score"},
    ),
}  # fmt: skip

_LATER_QUERIES = frozenset({
    "boosting", "combined_fields", "dis_max", "distance_feature", "fuzzy",
    "geo_bounding_box", "geo_distance", "geo_polygon", "geo_shape", "has_child", "has_parent", "hybrid",
    "intervals", "knn", "match_bool_prefix", "match_phrase_prefix", "more_like_this", "multi_match", "nested",
    "neural", "neural_sparse", "parent_id", "percolate", "pinned", "query_string", "rank_feature", "regexp",
    "script", "simple_query_string", "span_containing", "span_first", "span_multi",
    "span_near", "span_not", "span_or", "span_term", "span_within", "template", "terms_set", "wildcard",
    "wrapper", "xy_shape",
})  # fmt: skip


def parse_query(body: Any, path: str = "query") -> Query:
    """The query that an OpenSearch query clause means; a Query is taken as it is, also inside of a body.

    ``path`` begins the JSON path of errors. Raises QueryError, UnsupportedError.
    """
    return _QueryParser().parse(body, path, 1)


class _QueryParser:
    """One walk over one clause. It counts leaves: dicts that share parts can mean millions of them."""

    def __init__(self) -> None:
        self.leaves = 0

    def parse(self, body: Any, path: str, depth: int) -> Query:
        if isinstance(body, Query):
            self._count_leaves(body.leaves, path)
            return body
        if depth > MAX_DEPTH:
            raise QueryError("queries are nested too deep", path=path, expected=f"at most {MAX_DEPTH} levels")
        example = 'one query such as {"match": {"title": "whale"}}'
        name, content = _only_entry(body, path, "query", example, "combine queries with bool")
        at = _join(path, name)
        if name in _FIELD_FORMS:
            self._count_leaves(1, at)
            return _parse_field_form(_FIELD_FORMS[name], content, at)
        if name in _QUERIES:
            return _QUERIES[name](self, content, at, depth)
        if name in _LATER_QUERIES:
            raise _unsupported(f"the {name} query", at, _SUPPORTED)
        raise QueryError("unknown query", path=at, found=name, fix=nearest(name, _SUPPORTED))

    def match_all(self, content: Any, at: str, depth: int) -> Query:
        return self._plain(q.MatchAll, content, at)

    def match_none(self, content: Any, at: str, depth: int) -> Query:
        self._plain(q.MatchAll, content, at)  # it takes a boost, which means nothing
        return q.MatchNone()

    def terms(self, content: Any, at: str, depth: int) -> Query:
        self._count_leaves(1, at)
        example = '{"field": ["value", ...]}'
        _dict(content, at, example)
        _check_string_keys(content, at)
        # "boost" may be the field as well: a list tells.
        lists = {name: value for name, value in content.items() if name != "boost" or _is_list(value)}
        for name in ("_name", "value_type"):
            if name in lists and not _is_list(lists[name]):
                raise _unsupported(f"{name} in terms", _join(at, name), ("one field", "boost"))
        field, values = _only_entry(lists, at, "field", example, "combine fields with bool")
        at_field = _join(at, field)
        if isinstance(values, dict):
            raise _unsupported("a terms lookup", at_field, ("a list of values",))
        boost = content["boost"] if "boost" in content and "boost" not in lists else 1.0
        if not _is_list(values):
            fix = "use term for one value"
            raise QueryError("not a list", path=at_field, found=values, expected="a list", fix=fix)
        return _build(q.Terms, at, {"field": field, "values": field}, field, values, boost=boost)

    def ids(self, content: Any, at: str, depth: int) -> Query:
        self._count_leaves(1, at)
        _dict(content, at, '{"values": ["id", ...]}')
        _check_keys(content, at, "ids query", ("values", "boost"), _LATER_NAME)
        return _build(q.Ids, at, {}, _required(content, at, "values"), **_rest(content, "values"))

    def exists(self, content: Any, at: str, depth: int) -> Query:
        self._count_leaves(1, at)
        _dict(content, at, '{"field": "name"}')
        _check_keys(content, at, "exists query", ("field", "boost"), _LATER_NAME)
        return _build(q.Exists, at, {}, _required(content, at, "field"), **_rest(content, "field"))

    def constant_score(self, content: Any, at: str, depth: int) -> Query:
        _dict(content, at, '{"filter": {...}}')
        _check_keys(content, at, "constant_score query", ("filter", "boost"), _LATER_NAME)
        inner = self.parse(_required(content, at, "filter"), _join(at, "filter"), depth + 1)
        return _build(q.ConstantScore, at, {}, inner, **_rest(content, "filter"))

    def script_score(self, content: Any, at: str, depth: int) -> Query:
        _dict(content, at, '{"query": {...}, "script": {"source": "name of a scorer"}}')
        _check_keys(content, at, "script_score query", ("query", "script", "min_score", "boost"), _LATER_NAME)
        inner = self.parse(_required(content, at, "query"), _join(at, "query"), depth + 1)
        name = _script(_required(content, at, "script"), _join(at, "script"))
        return _build(q.ScriptScore, at, {"scorer": "script.source"}, inner, name, **_rest(content, "query", "script"))

    def function_score(self, content: Any, at: str, depth: int) -> Query:
        _dict(content, at, '{"query": {...}, "functions": [...]}')
        own = ("script_score", "field_value_factor", "weight")
        options = ("score_mode", "boost_mode", "max_boost", "min_score", "boost")
        _check_keys(content, at, "function_score query", ("query", "functions", *own, *options),
                    {**_LATER_NAME, **_LATER_FUNCTIONS})
        inner: Query = q.MatchAll()
        if "query" in content:
            inner = self.parse(content["query"], _join(at, "query"), depth + 1)
        if "functions" in content:
            for name in own:
                if name in content:
                    raise QueryError(f"both functions and {name} are given", path=_join(at, name), found=content[name],
                                     expected="functions, or a single function")
            functions = [self._function(each, place, depth)
                         for each, place in _numbered(content["functions"], _join(at, "functions"))]
        else:
            functions = [self._function({name: content[name] for name in own if name in content}, at, depth)]
        given = {name: content[name] for name in options if name in content}
        return _build(q.FunctionScore, at, {}, inner, functions, **given)

    def _function(self, content: Any, at: str, depth: int) -> q.Function:
        _dict(content, at, '{"script_score": {...}}, {"field_value_factor": {...}} or {"weight": 2}')
        kinds = ("script_score", "field_value_factor")
        _check_keys(content, at, "function", (*kinds, "weight", "filter"), _LATER_FUNCTIONS)
        found = [name for name in kinds if name in content]
        if len(found) > 1 or not (found or "weight" in content):
            raise QueryError("not one function", path=at, found=", ".join(content) or "none",
                             expected="script_score, field_value_factor or a weight alone")
        given: dict[str, Any] = {"weight": content["weight"]} if "weight" in content else {}
        if "filter" in content:
            given["filter"] = self.parse(content["filter"], _join(at, "filter"), depth + 1)
        value: Any = None
        for name in found:
            spec, place = content[name], _join(at, name)
            if name == "script_score":
                _dict(spec, place, '{"script": {"source": "name of a scorer"}}')
                _check_keys(spec, place, "script_score function", ("script",), {})
                value = _script(_required(spec, place, "script"), _join(place, "script"))
            else:
                _dict(spec, place, '{"field": "name"}')
                _check_keys(spec, place, "field_value_factor", ("field", "factor", "modifier", "missing"), {})
                value = _build(q.FieldValue, place, {}, _required(spec, place, "field"), **_rest(spec, "field"))
        return _build(q.Function, at, {"value": "script_score.script.source"}, value, **given)

    def bool_(self, content: Any, at: str, depth: int) -> Query:
        _dict(content, at, '{"must": [...], "filter": [...], ...}')
        occurs = ("must", "should", "must_not", "filter")
        later = {**_LATER_NAME, "adjust_pure_negative": True}
        _check_keys(content, at, "bool query", (*occurs, "minimum_should_match", "boost"), later)
        given: dict[str, Any] = {}
        for occur in occurs:
            if occur in content:
                given[occur] = self._clauses(content[occur], _join(at, occur), depth + 1)
        if not any(given.values()):
            self._count_leaves(1, at)
        if "minimum_should_match" in content:
            minimum = content["minimum_should_match"]
            given["minimum_should_match"] = _minimum(minimum, _join(at, "minimum_should_match"))
        if "boost" in content:
            given["boost"] = content["boost"]
        return _build(q.Bool, at, {}, **given)

    def _clauses(self, content: Any, at: str, depth: int) -> tuple[Query, ...]:
        if isinstance(content, (dict, Query)):
            return (self.parse(content, at, depth),)
        if not _is_list(content):
            expected = "a query or a list of them"
            raise QueryError("not a list of queries", path=at, found=content, expected=expected)
        return tuple(self.parse(clause, f"{at}[{i}]", depth) for i, clause in enumerate(content))

    def _plain(self, kind: type[q.MatchAll], content: Any, at: str) -> Query:
        self._count_leaves(1, at)
        _dict(content, at, "{}")
        _check_keys(content, at, "query", ("boost",), _LATER_NAME)
        return _build(kind, at, {}, **content)

    def _count_leaves(self, n: int, path: str) -> None:
        self.leaves += n
        if self.leaves > MAX_CLAUSES:
            expected = f"at most {MAX_CLAUSES} in all"
            raise QueryError("too many clauses", path=path, expected=expected, fix="use terms or ids")


_LATER_NAME = {"_name": _ALWAYS}
_LATER_FUNCTIONS = dict.fromkeys(("random_score", "gauss", "exp", "linear"), _ALWAYS)


def _script(content: Any, at: str) -> Any:
    """The name of a scorer, which is all that a script can be here."""
    if isinstance(content, str):
        return content
    _dict(content, at, '{"source": "name of a scorer"}')
    _check_keys(content, at, "script", ("source",), dict.fromkeys(("id", "lang", "params", "options"), _ALWAYS))
    return _string(_required(content, at, "source"), _join(at, "source"))

_QUERIES: dict[str, Callable[[_QueryParser, Any, str, int], Query]] = {
    "match_all": _QueryParser.match_all,
    "match_none": _QueryParser.match_none,
    "terms": _QueryParser.terms,
    "ids": _QueryParser.ids,
    "exists": _QueryParser.exists,
    "constant_score": _QueryParser.constant_score,
    "script_score": _QueryParser.script_score,
    "function_score": _QueryParser.function_score,
    "bool": _QueryParser.bool_,
}
_SUPPORTED = tuple(sorted((*_QUERIES, *_FIELD_FORMS)))


def _parse_field_form(form: _FieldForm, content: Any, at: str) -> Query:
    example = '{"field": ' + ('"value"}' if form.short else '{"gte": 1}}')
    field, spec = _only_entry(content, at, "field", example, "combine fields with bool")
    at = _join(at, field)
    if not isinstance(spec, dict):
        if form.short is None:
            raise QueryError("no bounds", path=at, found=spec, expected='bounds such as {"gte": 1, "lt": 5}')
        attribute = form.keys[form.short]
        return _build(form.type, at, {"field": "", attribute: ""}, **{"field": field, attribute: spec})
    _check_keys(spec, at, "query", tuple(form.keys), {**form.later, **_LATER_NAME})
    if form.short is not None:
        _required(spec, at, form.short)
    given = {form.keys[name]: value for name, value in spec.items() if name in form.keys}
    if "minimum_should_match" in given:
        minimum = given["minimum_should_match"]
        given["minimum_should_match"] = _minimum(minimum, _join(at, "minimum_should_match"))
    names = {"field": "", **{attribute: name for name, attribute in form.keys.items()}}
    return _build(form.type, at, names, field, **given)


def query_to_dict(query: Query) -> dict[str, Any]:
    """The OpenSearch clause that means ``query``, in its shortest form; ``parse_query`` gives it back.

    One exception gives back an equivalent: Terms with a boost on a field that is named ``boost``.
    """
    own = getattr(query, "boost", 1.0)
    boost = {} if own == 1.0 else {"boost": own}
    match query:
        case q.MatchAll():
            return {"match_all": boost}
        case q.MatchNone():
            return {"match_none": {}}
        case q.Terms(field="boost") if boost:
            return {"constant_score": {"filter": {"terms": {"boost": list(query.values)}}, **boost}}
        case q.Terms():
            return {"terms": {query.field: list(query.values), **boost}}
        case q.Ids():
            return {"ids": {"values": list(query.values), **boost}}
        case q.Exists():
            return {"exists": {"field": query.field, **boost}}
        case q.ConstantScore():
            return {"constant_score": {"filter": query_to_dict(query.filter), **boost}}
        case q.ScriptScore():
            least = {} if query.min_score is None else {"min_score": query.min_score}
            script = {"source": query.scorer}
            return {"script_score": {"query": query_to_dict(query.query), "script": script, **least, **boost}}
        case q.FunctionScore():
            options = _given(query, ("score_mode", "boost_mode", "max_boost", "min_score"))
            functions = [_function_to_dict(each) for each in query.functions]
            return {"function_score": {"query": query_to_dict(query.query), "functions": functions, **options, **boost}}
        case q.Bool():
            body: dict[str, Any] = {
                occur: [query_to_dict(clause) for clause in getattr(query, occur)]
                for occur in ("must", "should", "must_not", "filter")
                if getattr(query, occur)
            }
            if query.minimum_should_match is not None:
                body["minimum_should_match"] = query.minimum_should_match
            return {"bool": body | boost}
    for name, form in _FIELD_FORMS.items():
        if isinstance(query, form.type):
            return {name: {query.field: _field_form_content(form, query)}}  # type: ignore[attr-defined]
    raise QueryError("not a query", found=query, expected="a Query")


def _function_to_dict(function: q.Function) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if isinstance(function.value, q.FieldValue):
        body["field_value_factor"] = _given(function.value, ("field", "factor", "modifier", "missing"))
    elif function.value is not None:
        body["script_score"] = {"script": {"source": function.value}}
    if function.weight != 1.0 or not body:
        body["weight"] = function.weight
    return body | ({} if function.filter is None else {"filter": query_to_dict(function.filter)})


def _given(part: msgspec.Struct, names: tuple[str, ...]) -> dict[str, Any]:
    """Those of the attributes that have not their default."""
    defaults = q.defaults(type(part))
    return {name: getattr(part, name) for name in names if getattr(part, name) != defaults[name]}


def _field_form_content(form: _FieldForm, query: Query) -> Any:
    defaults = q.defaults(form.type)
    content = {name: getattr(query, attribute) for name, attribute in form.keys.items()}
    content = {name: value for name, value in content.items() if value != defaults[form.keys[name]]}
    return content[form.short] if form.short is not None and len(content) == 1 else content


def _minimum(value: Any, at: str) -> Any:
    """``minimum_should_match`` as an integer where it is written as a string."""
    if not isinstance(value, str):
        return value
    if re.fullmatch(r"\s*[+-]?[0-9]{1,10}\s*", value):
        return int(value)
    if re.search("[0-9]", value) and re.fullmatch(r"[\s0-9<%+-]*", value):
        raise _unsupported("a percentage or combination", at, ("an integer",))
    raise QueryError("not a count", path=at, found=value, expected="an integer")


# Sort, source, highlight.

_LATER_SORT = dict.fromkeys(
    ("unmapped_type", "numeric_type", "nested", "nested_path", "nested_filter", "format"), _ALWAYS
)


def parse_sort(value: Any, path: str = "sort") -> tuple[SortKey, ...]:
    """Sort keys from a name, ``"-name"``, an object or SortKey, or a list of them; None: by score."""
    if value is None:
        return ()
    if not _is_list(value):
        return _sort_keys(value, path)
    keys = tuple(key for i, entry in enumerate(value) for key in _sort_keys(entry, f"{path}[{i}]"))
    if len(keys) > _MAX_SORT_KEYS:
        expected = f"at most {_MAX_SORT_KEYS}"
        raise QueryError("too many sort keys", path=path, found=len(keys), expected=expected)
    return keys


def _sort_keys(entry: Any, at: str) -> tuple[SortKey, ...]:
    if isinstance(entry, SortKey):
        return (entry,)
    if isinstance(entry, str):
        name = entry.removeprefix("-")
        order = None
        if name != entry:
            order = "asc" if name == "_score" else "desc"
        return (_sort_key(name, {} if order is None else {"order": order}, at),)
    _dict(entry, at, 'a field name, "-field" or {"field": "desc"}')
    _check_string_keys(entry, at)
    keys = []
    for name, content in entry.items():
        spec = {"order": content} if isinstance(content, str) else content
        keys.append(_sort_key(name, spec, _join(at, name)))
    return tuple(keys)


def _sort_key(name: str, spec: Any, at: str) -> SortKey:
    if name in ("_geo_distance", "_script", "_shard_doc"):
        raise _unsupported(f"sorting by {name}", at, ("fields", "_score", "_doc"))
    _dict(spec, at, '"asc", "desc" or {"order": ..., "missing": ..., "mode": ...}')
    known = ("order",) if name in ("_score", "_doc") else ("order", "missing", "mode")
    _check_keys(spec, at, "sort key", known, _LATER_SORT)
    return _build(SortKey, at, {"field": ""}, name, **spec)


def parse_source(value: Any, path: str = "_source") -> SourceFilter:
    """A source filter from ``true``, ``false``, a pattern, a list of patterns or includes and excludes."""
    if isinstance(value, SourceFilter):
        return value
    if isinstance(value, bool):
        return SourceFilter(enabled=value)
    if isinstance(value, str) or _is_list(value):
        return SourceFilter(includes=_patterns(value, path))
    _dict(value, path, 'true, false, a pattern, a list of them or {"includes": [...], "excludes": [...]}')
    _check_keys(value, path, "source filter", ("includes", "excludes", "include", "exclude"), {})
    given: dict[str, Any] = {}
    for name in ("includes", "excludes"):
        names = [key for key in (name, name[:-1]) if key in value]
        if len(names) > 1:
            raise QueryError(f"both {names[0]} and {names[1]} are given", path=path, expected=names[0])
        given[name] = _patterns(value[names[0]], _join(path, names[0])) if names else ()
    return SourceFilter(**given)


def _patterns(value: Any, at: str) -> tuple[str, ...]:
    entries = [value] if isinstance(value, str) else value
    if not _is_list(entries):
        raise QueryError("not a pattern", path=at, found=value, expected="a string or a list of strings")
    if len(entries) > _MAX_PATTERNS:
        expected = f"at most {_MAX_PATTERNS}"
        raise QueryError("too many patterns", path=at, found=len(entries), expected=expected)
    return tuple(
        _string(entry, at if isinstance(value, str) else f"{at}[{i}]") for i, entry in enumerate(entries)
    )


_LATER_HIGHLIGHT: dict[str, Any] = {
    "type": "unified", "boundary_scanner": "sentence", "tags_schema": "default", "force_source": False,
    **dict.fromkeys((
        "boundary_chars", "boundary_max_scan", "boundary_scanner_locale", "fragmenter", "fragment_offset",
        "highlight_query", "highlight_filter", "matched_fields", "max_analyzer_offset", "options",
        "phrase_limit",
    ), _ALWAYS),
}  # fmt: skip
_HIGHLIGHT_FIELD = (
    "pre_tags", "post_tags", "fragment_size", "number_of_fragments", "no_match_size", "order",
    "require_field_match",
)  # fmt: skip


def parse_highlight(value: Any, path: str = "highlight") -> HighlightRequest | None:
    """A highlight request from OpenSearch's object; from a field name or a list of them; None for none."""
    if value is None or value is False or isinstance(value, HighlightRequest):
        return value or None
    if isinstance(value, str) or _is_list(value):
        value = {"fields": [{name: {}} for name in _patterns(value, path)]}
    _dict(value, path, 'field names or {"fields": {"title": {}}}')
    _check_keys(value, path, "highlight", ("fields", "encoder", *_HIGHLIGHT_FIELD), _LATER_HIGHLIGHT)
    options = _highlight_options({}, _rest(value, "fields"), path)
    inherited = {name: getattr(options, name) for name in HighlightOptions.__struct_fields__}
    at_fields = _join(path, "fields")
    entries = _required(value, path, "fields")
    entries = [(entries, at_fields)] if isinstance(entries, dict) else _numbered(entries, at_fields)
    highlighted = []
    for entry, at in entries:
        _dict(entry, at, '{"field": {}}')
        _check_string_keys(entry, at)
        for name, spec in entry.items():
            at_field = _join(at, name)
            _check_name(name, at_field, "a field name")
            _dict(spec, at_field, '{} or options such as {"fragment_size": 80}')
            _check_keys(spec, at_field, "highlight field", _HIGHLIGHT_FIELD, _LATER_HIGHLIGHT)
            highlighted.append(HighlightField(name, _highlight_options(inherited, spec, at_field)))
    if len(highlighted) > _MAX_PATTERNS:
        found = len(highlighted)
        raise QueryError("too many fields", path=at_fields, found=found, expected=f"at most {_MAX_PATTERNS}")
    return HighlightRequest(tuple(highlighted), options)


def _highlight_options(inherited: dict[str, Any], spec: dict[str, Any], at: str) -> HighlightOptions:
    given = {name: value for name, value in spec.items() if name in HighlightOptions.__struct_fields__}
    if "pre_tags" in spec and "post_tags" not in spec:
        raise QueryError("pre_tags without post_tags", path=at, expected="both", fix='add "post_tags"')
    for name in ("pre_tags", "post_tags"):
        if name in spec:
            tags = _patterns(spec[name], _join(at, name))
            if not tags:
                raise QueryError("no tag", path=_join(at, name), expected="a tag or a list of tags")
            given[name[:-1]] = tags[0]  # as the unified highlighter: the first tag is for all matches
    return _build(HighlightOptions, at, {}, **(inherited | given))


# Aggregations: what they are is imported when a request has some.


def parse_aggs(body: Any, path: str = "aggs") -> a.Named:
    """The aggregations that OpenSearch's object of names means; an Aggregation is taken as it is, at any depth.

    ``path`` begins the JSON path of errors. Raises QueryError, UnsupportedError.
    """
    from quidditch_core.aggs_dsl import parse

    return parse(body, path)


def aggs_to_dict(aggs: a.Named) -> dict[str, Any]:
    """OpenSearch's object that means ``aggs``, in its shortest form; ``parse_aggs`` gives them back."""
    from quidditch_core.aggs_dsl import to_dict

    return to_dict(aggs)


# Checks. Each names the JSON path of what it refuses.


def _build(
    make: Callable[..., _Built], path: str, names: Mapping[str, str], /, *args: Any, **given: Any
) -> _Built:
    """Call a validating constructor; its error gets the JSON path. ``names``: attribute -> key ("": here)."""
    try:
        return make(*args, **given)
    except (QueryError, UnsupportedError) as error:
        attribute = (error.path or "").partition(".")[2]
        name, bracket, index = attribute.partition("[")
        name = names.get(name, name)
        at = (_join(path, name) if name else path) + bracket + index
        raise type(error)(
            error.message, path=at, found=error.found, expected=error.expected, fix=error.fix
        ) from None


def _unsupported(what: str, path: str, supported: tuple[str, ...]) -> UnsupportedError:
    return UnsupportedError(
        f"{what} is not supported by this version", path=path, fix="supported: " + ", ".join(supported)
    )


def _join(path: str, key: str) -> str:
    shown = key if key.isprintable() and key else ascii(key)
    if len(shown) > 100:
        shown = shown[:97] + "..."
    return f"{path}.{shown}" if path else shown


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _numbered(value: Any, at: str) -> list[tuple[Any, str]]:
    if not _is_list(value):
        raise QueryError("not a list", path=at, found=value, expected="an object or a list of objects")
    return [(entry, f"{at}[{i}]") for i, entry in enumerate(value)]


def _dict(value: Any, path: str, expected: str) -> None:
    if not isinstance(value, dict):
        raise QueryError("not an object", path=path or None, found=value, expected=expected)


def _check_string_keys(body: dict[Any, Any], path: str) -> None:
    for key in body:
        if not isinstance(key, str):
            raise QueryError("a key is not a string", path=path or None, found=key, expected="string keys")


def _check_keys(
    body: dict[Any, Any], path: str, what: str, known: tuple[str, ...], later: Mapping[str, Any]
) -> None:
    """Refuse keys that mean nothing here, and those of later versions unless they ask for the default."""
    _check_string_keys(body, path)
    for key, value in body.items():
        if key in known:
            continue
        if key not in later:
            at = _join(path, key)
            raise QueryError(f"unknown key of a {what}", path=at, found=key, fix=nearest(key, known))
        default = later[key]
        value = value.lower() if isinstance(value, str) else value
        if type(value) is not type(default) or value != default:
            raise _unsupported(f"{key} in a {what}", _join(path, key), known)


def _only_entry(body: Any, path: str, what: str, expected: str, fix: str) -> tuple[str, Any]:
    _dict(body, path, expected)
    _check_string_keys(body, path)
    if len(body) != 1:
        found = f"{len(body)} keys" + (": " + ", ".join(list(body)[:5]) if body else "")
        remedy = fix if body else None
        raise QueryError(f"not one {what}", path=path, found=found, expected=expected, fix=remedy)
    ((key, value),) = body.items()
    return key, value


def _required(body: dict[str, Any], path: str, key: str) -> Any:
    if key not in body:
        raise QueryError(f"no {key}", path=path, found=body, expected=f'the key "{key}"')
    return body[key]


def _rest(body: dict[str, Any], *without: str) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key not in without}


def _string(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise QueryError("not a string", path=path, found=value, expected="a string")
    return value


def _check_name(value: Any, path: str, expected: str) -> None:
    if not _string(value, path):
        raise QueryError("no field name", path=path, found=value, expected=expected)


def _boolean(value: Any, path: str) -> None:
    if not isinstance(value, bool):
        raise QueryError("not a boolean", path=path, found=value, expected="true or false")


def _count(value: Any, path: str, expected: str = "an integer, 0 or more") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _INT32_MAX:
        raise QueryError("not a count", path=path, found=value, expected=expected)


def _one_of(value: Any, path: str, known: tuple[str, ...], later: tuple[str, ...] = ()) -> str:
    name = value.lower() if isinstance(value, str) else value
    if isinstance(name, str) and name in later:
        raise _unsupported(f"{path.rpartition('.')[2]} {name!r}", path, known)
    if not isinstance(name, str) or name not in known:
        raise QueryError("unknown value", path=path, found=value, expected=" or ".join(known))
    return name


_ALL: Query = q.MatchAll()
_WHOLE: SourceFilter = SourceFilter()

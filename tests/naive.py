"""The oracle: what the engine must answer, in plain Python that is meant to be obviously right.

It imports nothing of ``quidditch_core`` and is written from the same sources as the engine, not from the
engine: Lucene for scores, OpenSearch for everything around them. It keeps documents in a dict, looks at every
one of them for every query, and computes in ``numpy.float32`` scalars wherever Lucene computes in float.
Being slow is its one liberty.

One thing it cannot know is where the engine put a document, and two answers depend on that: ties break by
(segment, doc), and a deleted or replaced document counts in the statistics until a merge drops it. So a
search takes the *layout*, what ``Reader.layout()`` reports: a list of segments, each a list of its documents
in doc order as ``(id, seq_no, live)``. The oracle keeps every version it ever saw under its seq_no and works
the rest out itself; ``check_layout`` asserts that the live entries are exactly its own current documents.

From top to bottom: words (analysis, values), documents, writes, statistics, queries, phrases, search, aggregations.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Any

import numpy as np

F32 = np.float32
ZERO, ONE = F32(0), F32(1)
K1, B = F32(1.2), F32(0.75)
POSITION_GAP = 100
PRIMARY_TERM = 1

Body = dict[str, Any]
Layout = list[list[tuple[str, int, bool]]]
Scorer = Callable[["Stored"], "F32 | None"]  # the score of a document, None if it does not match


class Conflict(Exception):
    """``if_seq_no``, ``if_primary_term`` or ``op_type="create"`` did not hold."""


class Missing(Exception):
    """An update of a document that is not there."""


# ------------------------------------------------------------------------------------------------- words

ANALYZERS: dict[str, Callable[[str], list[str]]] = {
    "standard": lambda text: re.findall(r"[a-z0-9]+", text.lower()),  # tests use ASCII words only
    "simple": lambda text: re.findall(r"[a-z]+", text.lower()),
    "whitespace": str.split,
    "keyword": lambda text: [text] if text else [],
}
INTEGERS = {"long", "integer", "short", "byte"}
CONSTANT = INTEGERS | {"double", "float", "date", "boolean"}  # a term on these scores its boost


def native(kind: str, value: Any) -> Any:
    """A JSON value as the field keeps it: str, int (date: ms since the epoch; boolean: 0 or 1) or float."""
    if kind in ("text", "keyword"):
        return value if isinstance(value, str) else json.dumps(value)
    if kind == "boolean":
        return {True: 1, False: 0, "true": 1, "false": 0, "": 0}[value]
    if kind == "date" and isinstance(value, str) and not value.isdigit():
        moment = datetime.fromisoformat(value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1000)
    if kind == "double":
        return float(value)
    if kind == "float":
        return float(F32(value))
    return int(float(value)) if isinstance(value, str) and "." in value else int(value)


def bound(kind: str, value: Any) -> Any:
    """A value in a query: as ``native``, but 1.5 stays 1.5 on an integer field, where it equals nothing."""
    if kind in INTEGERS:
        number = Fraction(str(value))
        return int(number) if number.denominator == 1 else number
    return native(kind, value)


def strictly_equal(a: Any, b: Any) -> bool:
    """Equality of JSON values: 1, 1.0 and true are three different values, the order of keys is none."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def decoded_length(length: int) -> int:
    """A length after its trip through one byte (Lucene SmallFloat.intToByte4): exact up to 40, then 4 bits.

    Lengths below 24 are stored as they are; above, the excess over 24 keeps its four highest bits.
    """
    if length < 24:
        return length
    excess = length - 24
    dropped = max(0, excess.bit_length() - 4)
    return 24 + (excess >> dropped << dropped)


# --------------------------------------------------------------------------------------------- documents


@dataclass
class Field:
    """One leaf of the mapping, under its full path; a multi-field reads the path of its parent."""

    kind: str
    reads: str
    analyzer: str = "standard"
    search_analyzer: str = "standard"
    ignore_above: int | None = None
    null_value: Any = None


def fields_of(properties: Body, prefix: str = "") -> Iterator[tuple[str, Field]]:
    """Every leaf below ``properties``, multi-fields after their parent."""
    for name, spec in properties.items():
        path = prefix + name
        if "properties" in spec or spec.get("type") == "object":
            yield from fields_of(spec.get("properties", {}), path + ".")
            continue
        for suffix, one in [("", spec), *(("." + sub, s) for sub, s in spec.get("fields", {}).items())]:
            analyzer = one.get("analyzer", "standard")
            yield (
                path + suffix,
                Field(
                    one["type"], path, analyzer, one.get("search_analyzer", analyzer),
                    one.get("ignore_above"), one.get("null_value"),
                ),
            )


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of every scalar in a document; lists are transparent at every level."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from leaves(below, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for below in value:
            yield from leaves(below, path)
    else:
        yield path, value


class Stored:
    """One version of one document, analysed.

    ``values[field]``: the native values; ``positions[field][term]``: where the term is, for text and keyword;
    ``length[field]``: number of tokens. A field without a value is absent from ``values``, one without a
    token from ``positions``.
    """

    def __init__(self, id: str, seq_no: int, source: Body, fields: dict[str, Field]) -> None:
        self.id, self.seq_no, self.source = id, seq_no, source
        self.values: dict[str, list[Any]] = {}
        self.positions: dict[str, dict[str, list[int]]] = {}
        self.length: dict[str, int] = {}
        scalars = list(leaves(source))
        for name, f in fields.items():
            given = [f.null_value if value is None else value for path, value in scalars if path == f.reads]
            values = [native(f.kind, value) for value in given if value is not None]
            if f.kind == "keyword" and f.ignore_above is not None:
                values = [value for value in values if len(value) <= f.ignore_above]
            if values:
                self.values[name] = values
            if f.kind == "text":
                self._add_text(name, values, ANALYZERS[f.analyzer])
            elif f.kind == "keyword" and values:
                self.positions[name] = {value: [0] for value in values}
                self.length[name] = len(self.positions[name])

    def _add_text(self, name: str, values: list[str], analyze: Callable[[str], list[str]]) -> None:
        at = 0
        for value in values:
            for token in analyze(value):
                self.positions.setdefault(name, {}).setdefault(token, []).append(at)
                self.length[name] = self.length.get(name, 0) + 1
                at += 1
            at += POSITION_GAP


# ------------------------------------------------------------------------------------------------ writes


@dataclass(frozen=True)
class Written:
    """What a write answers."""

    id: str
    seq_no: int
    version: int
    result: str


@dataclass
class Got:
    """What ``get`` answers."""

    id: str
    source: Body
    seq_no: int
    version: int


@dataclass
class Found:
    """What ``search`` answers; the lists run parallel, one element a hit."""

    ids: list[str]
    scores: list[F32 | None]
    sort: list[list[Any] | None]
    sources: list[Body | None]
    total: tuple[int, str] | None
    max_score: F32 | None
    aggs: Body | None = None


@dataclass
class Entry:
    """The newest operation on an id: a document, or the tombstone of one."""

    seq_no: int
    version: int
    deleted: bool = False


@dataclass
class Oracle:
    """An index, as a dict. ``mapping`` is an OpenSearch mapping and must name every field."""

    mapping: Body
    next_seq_no: int = 0
    entries: dict[str, Entry] = field(default_factory=dict)
    versions: dict[int, Stored] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fields = dict(fields_of(self.mapping.get("properties", {})))

    def put(
        self, id: str, doc: Body, *, if_seq_no: int | None = None, if_primary_term: int | None = None,
        op_type: str = "index",
    ) -> Written:
        entry = self._checked(id, if_seq_no, if_primary_term)
        exists = entry is not None and not entry.deleted
        if op_type == "create" and exists:
            raise Conflict(f"{id} exists")
        version = entry.version + 1 if entry else 1
        new = Entry(self._take_seq_no(), version)
        self.entries[id] = new
        self.versions[new.seq_no] = Stored(id, new.seq_no, copy.deepcopy(doc), self.fields)
        return Written(id, new.seq_no, version, "updated" if exists else "created")

    def update(
        self, id: str, partial: Body, *, upsert: Body | None = None, if_seq_no: int | None = None,
        if_primary_term: int | None = None,
    ) -> Written:
        """Objects merge at every depth, everything else replaces; a merge that changes nothing is a noop."""
        entry = self._checked(id, if_seq_no, if_primary_term)
        if entry is None or entry.deleted:
            if upsert is None:
                raise Missing(id)
            return self.put(id, upsert)
        old = self.versions[entry.seq_no].source
        new = merged(old, partial)
        if strictly_equal(old, new):
            return Written(id, entry.seq_no, entry.version, "noop")
        return self.put(id, new)

    def delete(
        self, id: str, *, if_seq_no: int | None = None, if_primary_term: int | None = None
    ) -> Written:
        """Takes a seq_no and a version even where there is nothing to delete, as OpenSearch does."""
        entry = self._checked(id, if_seq_no, if_primary_term)
        exists = entry is not None and not entry.deleted
        version = entry.version + 1 if entry else 1
        self.entries[id] = Entry(self._take_seq_no(), version, deleted=True)
        return Written(id, self.entries[id].seq_no, version, "deleted" if exists else "not_found")

    def get(self, id: str) -> Got | None:
        entry = self.entries.get(id)
        if entry is None or entry.deleted:
            return None
        return Got(id, copy.deepcopy(self.versions[entry.seq_no].source), entry.seq_no, entry.version)

    def forget_tombstones(self) -> None:
        """After this a deleted id is as if it had never been: its next version is 1."""
        self.entries = {id: entry for id, entry in self.entries.items() if not entry.deleted}

    def current(self) -> set[tuple[str, int]]:
        return {(id, entry.seq_no) for id, entry in self.entries.items() if not entry.deleted}

    def fresh_layout(self) -> Layout:
        """The layout of an index that holds the current documents in one segment, in order of writing."""
        return [sorted(((id, seq_no, True) for id, seq_no in self.current()), key=lambda entry: entry[1])]

    def check_layout(self, layout: Layout) -> None:
        """After a refresh: the live documents are exactly the current ones, each version is in one place."""
        everything = [(id, seq_no) for segment in layout for id, seq_no, _ in segment]
        live = [(id, seq_no) for segment in layout for id, seq_no, alive in segment if alive]
        assert len(set(everything)) == len(everything), "a version of a document is in two places"
        assert len(set(live)) == len(live)
        assert set(live) == self.current(), (
            f"live but not current: {set(live) - self.current()}; missing: {self.current() - set(live)}"
        )
        for id, seq_no in everything:
            owner = self.versions[seq_no].id
            assert owner == id, f"seq_no {seq_no} belongs to {owner}, not to {id}"

    def search(self, body: Body, layout: Layout) -> Found:
        return _search(self, body, layout)

    def count(self, query: Body, layout: Layout) -> int:
        return sum(1 for _ in _matches(self, query, layout))

    def _checked(self, id: str, if_seq_no: int | None, if_primary_term: int | None) -> Entry | None:
        entry = self.entries.get(id)
        if if_seq_no is not None:
            here = None if entry is None or entry.deleted else (entry.seq_no, PRIMARY_TERM)
            if here != (if_seq_no, if_primary_term):
                raise Conflict(f"{id} is at {here}, not at {(if_seq_no, if_primary_term)}")
        return entry

    def _take_seq_no(self) -> int:
        self.next_seq_no += 1
        return self.next_seq_no - 1


def merged(old: Body, partial: Body) -> Body:
    result = dict(old)
    for key, value in partial.items():
        both = isinstance(value, dict) and isinstance(old.get(key), dict)
        result[key] = merged(old[key], value) if both else copy.deepcopy(value)
    return result


# -------------------------------------------------------------------------------------------- statistics


class Corpus:
    """What a search counts over: every document of the layout, the deleted ones too."""

    def __init__(self, documents: list[Stored], fields: dict[str, Field]) -> None:
        self.documents, self.fields = documents, fields
        self._averages: dict[str, tuple[int, F32]] = {}

    def docs_with(self, name: str, term: str) -> int:
        return sum(term in document.positions.get(name, ()) for document in self.documents)

    def size_and_average(self, name: str) -> tuple[int, F32]:
        """How many documents have a term in the field, and how many terms those have on average."""
        if name not in self._averages:
            lengths = [document.length[name] for document in self.documents if name in document.length]
            average = F32(sum(lengths) / len(lengths)) if lengths else ZERO
            self._averages[name] = len(lengths), average
        return self._averages[name]

    def idf(self, name: str, term: str) -> F32:
        size, _ = self.size_and_average(name)
        df = self.docs_with(name, term)
        return F32(math.log(1 + (size - df + 0.5) / (df + 0.5)))

    def length_factor(self, name: str, document: Stored) -> F32:
        """1 / (k1 · (1 - b + b · length / average)); a keyword field has no lengths, so each is 1."""
        _, average = self.size_and_average(name)
        length = 1 if self.fields[name].kind == "keyword" else decoded_length(document.length[name])
        return ONE / (K1 * ((ONE - B) + B * F32(length) / average))


def bm25(weight: F32, frequency: F32, factor: F32) -> F32:
    return weight - weight / (ONE + frequency * factor)


# ----------------------------------------------------------------------------------------------- queries
#
# A query compiles to a function from a document to its score, or None. ``boost`` is what the queries around
# it multiply to. Where Lucene defines one query by another, so does this: match is a bool of terms.


def compile_query(query: Body, corpus: Corpus, boost: F32 = ONE) -> Scorer:
    [(name, spec)] = query.items()
    return QUERIES[name](spec, corpus, boost)


def named_field(spec: Body, key: str) -> tuple[str, Body]:
    """``{"f": value}`` and ``{"f": {key: value, ...}}`` alike, as the field and the long form."""
    [(name, options)] = ((k, v) for k, v in spec.items() if k != "boost")
    options = options if isinstance(options, dict) else {key: options}
    return name, {"boost": spec.get("boost", 1.0), **options}


def own_boost(spec: Body, boost: F32) -> F32:
    return boost * F32(spec.get("boost", 1.0))


def constant(score: F32, matches: Callable[[Stored], bool]) -> Scorer:
    return lambda document: score if matches(document) else None


def any_of(name: str, corpus: Corpus, test: Callable[[Any], bool]) -> Callable[[Stored], bool]:
    """Whether a document has a term (text, keyword) or value (the rest) in the field that passes the test."""
    in_terms = name in corpus.fields and corpus.fields[name].kind not in CONSTANT

    def matches(document: Stored) -> bool:
        having: Any = document.positions if in_terms else document.values
        return any(test(value) for value in having.get(name, ()))

    return matches


def match_all(spec: Body, corpus: Corpus, boost: F32) -> Scorer:
    return constant(own_boost(spec, boost), lambda document: True)


def match_none(spec: Body, corpus: Corpus, boost: F32) -> Scorer:
    return lambda document: None


def term(spec: Body, corpus: Corpus, boost: F32) -> Scorer:
    name, options = named_field(spec, "value")
    if name not in corpus.fields:
        return match_none({}, corpus, boost)
    kind = corpus.fields[name].kind
    value, boost = bound(kind, options["value"]), own_boost(options, boost)
    if kind in CONSTANT:
        return constant(boost, any_of(name, corpus, lambda each: each == value))
    weight = boost * corpus.idf(name, value)

    def score(document: Stored) -> F32 | None:
        places = document.positions.get(name, {}).get(value, [])
        return bm25(weight, F32(len(places)), corpus.length_factor(name, document)) if places else None

    return score


def terms(spec: Body, corpus: Corpus, boost: F32) -> Scorer:
    name, options = named_field(spec, "values")
    if name not in corpus.fields:
        return match_none({}, corpus, boost)
    values = [bound(corpus.fields[name].kind, value) for value in options["values"]]
    return constant(own_boost(options, boost), any_of(name, corpus, lambda each: each in values))


def range_(spec: Body, corpus: Corpus, boost: F32) -> Scorer:
    name, options = named_field(spec, "gte")
    if name not in corpus.fields:
        return match_none({}, corpus, boost)
    limits = {
        op: bound(corpus.fields[name].kind, options[op])
        for op in ("gt", "gte", "lt", "lte")
        if options.get(op) is not None
    }

    def inside(value: Any) -> bool:
        return (
            ("gt" not in limits or value > limits["gt"])
            and ("gte" not in limits or value >= limits["gte"])
            and ("lt" not in limits or value < limits["lt"])
            and ("lte" not in limits or value <= limits["lte"])
        )

    return constant(own_boost(options, boost), any_of(name, corpus, inside))


def prefix(spec: Body, corpus: Corpus, boost: F32) -> Scorer:
    name, options = named_field(spec, "value")
    start = options["value"]
    return constant(own_boost(options, boost), any_of(name, corpus, lambda each: each.startswith(start)))


def ids(spec: Body, corpus: Corpus, boost: F32) -> Scorer:
    return constant(own_boost(spec, boost), lambda document: document.id in spec["values"])


def exists(spec: Body, corpus: Corpus, boost: F32) -> Scorer:
    name = spec["field"]
    below = [one for one in corpus.fields if one == name or one.startswith(name + ".")]
    if name in corpus.fields:
        below = [name]  # a field, not an object: its multi-fields do not count
    return constant(own_boost(spec, boost), lambda document: any(one in document.values for one in below))


def constant_score(spec: Body, corpus: Corpus, boost: F32) -> Scorer:
    inner = compile_query(spec["filter"], corpus)
    return constant(own_boost(spec, boost), lambda document: inner(document) is not None)


def script_score(spec: Body, corpus: Corpus, boost: F32) -> Scorer:
    inner, function = compile_query(spec["query"], corpus), function_value({"script_score": spec}, corpus)
    boost, least = own_boost(spec, boost), F32(spec.get("min_score", 0))

    def score(document: Stored) -> F32 | None:
        before = inner(document)
        after = None if before is None else F32(function(document, float(before))) * boost
        return after if after is not None and after >= least else None

    return score


def function_score(spec: Body, corpus: Corpus, boost: F32) -> Scorer:
    inner = compile_query(spec["query"], corpus, own_boost(spec, boost))
    most, least = spec.get("max_boost", math.inf), F32(spec.get("min_score", 0))
    functions = [
        (compile_query(each.get("filter", {"match_all": {}}), corpus), function_value(each, corpus), each)
        for each in spec["functions"]
    ]

    def score(document: Stored) -> F32 | None:
        before = inner(document)
        if before is None:
            return None
        pairs = [
            (each.get("weight", 1), value(document, float(before)) * each.get("weight", 1))
            for is_for, value, each in functions
            if is_for(document) is not None
        ]
        values, weights = [value for _, value in pairs], sum(weight for weight, _ in pairs)
        factor = 1.0
        if values:
            match spec.get("score_mode", "multiply"):
                case "multiply":
                    factor = math.prod(values)
                case "first":
                    factor = values[0]
                case "max":
                    factor = max(values)
                case "min":
                    factor = min(values)
                case mode if weights:
                    factor = sum(values) / (weights if mode == "avg" else 1)
        factor, old = min(factor, most), float(before)
        after = F32({
            "multiply": old * factor, "replace": factor, "sum": old + factor, "avg": (factor + old) / 2,
            "max": max(old, factor), "min": min(old, factor),
        }[spec.get("boost_mode", "multiply")])
        return after if after >= least else None

    return score


SCORERS: dict[str, Callable[..., Any]] = {}
"""The plain functions behind the names of scorers."""

MODIFIERS: dict[str, Callable[[float], float]] = {
    "none": lambda x: x, "log": math.log10, "log1p": lambda x: math.log10(x + 1),
    "log2p": lambda x: math.log10(x + 2), "ln": math.log, "ln1p": math.log1p, "ln2p": lambda x: math.log1p(x + 1),
    "square": lambda x: x * x, "sqrt": math.sqrt, "reciprocal": lambda x: 1 / x,
}


def function_value(spec: Body, corpus: Corpus) -> Callable[[Stored, float], float]:
    """What a function of function_score gives to a document with a score."""
    def least(document: Stored, name: str, default: Any) -> Any:
        return min(document.values.get(name, [default]))

    if "script_score" in spec:
        function = SCORERS[spec["script_score"]["script"]["source"]]
        parameters = list(inspect.signature(function).parameters.values())[1:]
        return lambda document, score: float(F32(function(
            score, *(least(document, each.name.replace("__", "."), each.default) for each in parameters))))
    if "field_value_factor" in spec:
        of = spec["field_value_factor"]
        return lambda document, score: MODIFIERS[of.get("modifier", "none")](
            float(least(document, of["field"], of.get("missing"))) * of.get("factor", 1))
    return lambda document, score: 1.0


def match(spec: Body, corpus: Corpus, boost: F32) -> Scorer:
    return compile_query(match_as_bool(spec, corpus), corpus, boost)


def match_as_bool(spec: Body, corpus: Corpus) -> Body:
    """match, as the bool of terms, the single term, or the match_none that it stands for."""
    name, options = named_field(spec, "query")
    own = options["boost"]
    words = search_words(name, options["query"], corpus)
    required = options.get("operator", "or").lower() == "and"
    minimum = options.get("minimum_should_match")
    if not words:
        return {"match_none": {}}
    if len(words) == 1:  # no bool, so nothing that a minimum could be of
        return {"term": {name: {"value": words[0], "boost": own}}}
    if not required and minimum is not None and int(minimum) > len(words):
        return {"match_none": {}}
    clauses = [{"term": {name: {"value": word}}} for word in words]
    if required:
        return {"bool": {"must": clauses, "boost": own}}
    at_least = 1 if minimum is None else minimum
    return {"bool": {"should": clauses, "boost": own, "minimum_should_match": at_least}}


def search_words(name: str, text: Any, corpus: Corpus) -> list[Any]:
    """What a match looks for: tokens on a text field, the whole value on any other, nothing if unmapped."""
    if name not in corpus.fields:
        return []
    f = corpus.fields[name]
    return list(ANALYZERS[f.search_analyzer](str(text))) if f.kind == "text" else [text]


def bool_(spec: Body, corpus: Corpus, boost: F32) -> Scorer:
    boost = own_boost(spec, boost)
    given = {occur: listed(spec.get(occur, [])) for occur in ("must", "should", "must_not", "filter")}
    if not any(given.values()):
        return match_all({}, corpus, boost)
    default = 0 if given["must"] or given["filter"] else 1 if given["should"] else 0
    minimum = spec.get("minimum_should_match", default)
    minimum = int(minimum) if int(minimum) >= 0 else max(0, len(given["should"]) + int(minimum))
    if given["should"] and not given["must"] and not given["filter"]:
        minimum = max(1, minimum)

    musts = merge_repeated(given["must"], corpus)
    shoulds = merge_repeated(given["should"], corpus) if minimum <= 1 else given["should"]
    must = [compile_query(clause, corpus, boost) for clause in musts]
    should = [compile_query(clause, corpus, boost) for clause in shoulds]
    must_not = [compile_query(clause, corpus) for clause in given["must_not"]]
    filters = [compile_query(clause, corpus) for clause in given["filter"]]

    def score(document: Stored) -> F32 | None:
        required = [scorer(document) for scorer in must]
        optional = [score for scorer in should if (score := scorer(document)) is not None]
        matches = (
            all(score is not None for score in required)
            and all(scorer(document) is not None for scorer in filters)
            and not any(scorer(document) is not None for scorer in must_not)
            and len(optional) >= minimum
        )
        return group_sum([s for s in required if s is not None]) + group_sum(optional) if matches else None

    return score


def group_sum(scores: list[F32]) -> F32:
    """The sum in double precision, rounded once."""
    return F32(sum(float(score) for score in scores))


def listed(one_or_many: Any) -> list[Any]:
    return one_or_many if isinstance(one_or_many, list) else [one_or_many]


def merge_repeated(clauses: list[Body], corpus: Corpus) -> list[Body]:
    """Clauses that look for the same term in the same field become one: their boosts add, rounded once.

    A match of one word is a term. (Lucene BooleanQuery.rewrite.)
    """
    boosts: dict[tuple[str, Any], float] = {}
    others: list[Body] = []
    for clause in clauses:
        plain = as_term(clause, corpus)
        if plain is None:
            others.append(clause)
        else:
            name, value, boost = plain
            boosts[name, value] = boosts.get((name, value), 0.0) + float(F32(boost))
    once: list[Body] = [
        {"term": {name: {"value": value, "boost": boost}}} for (name, value), boost in boosts.items()
    ]
    return once + others


def as_term(clause: Body, corpus: Corpus) -> tuple[str, Any, float] | None:
    """(field, term, boost) of a clause that is a scoring term query, else None."""
    if "match" in clause:
        clause = match_as_bool(clause["match"], corpus)
    if "match_phrase" in clause:
        name, options = named_field(clause["match_phrase"], "query")
        words = search_words(name, options["query"], corpus)
        if len(words) == 1:
            clause = {"term": {name: {"value": words[0], "boost": options["boost"]}}}
    if "term" not in clause:
        return None
    name, options = named_field(clause["term"], "value")
    if name not in corpus.fields or corpus.fields[name].kind in CONSTANT:
        return None
    return name, bound(corpus.fields[name].kind, options["value"]), options["boost"]


# ----------------------------------------------------------------------------------------------- phrases


def match_phrase(spec: Body, corpus: Corpus, boost: F32) -> Scorer:
    name, options = named_field(spec, "query")
    slop = int(options.get("slop", 0))
    words = search_words(name, options["query"], corpus)
    if not words:
        return match_none({}, corpus, boost)
    if len(words) == 1:
        return term({name: {"value": words[0], "boost": options["boost"]}}, corpus, boost)
    idf = F32(sum(float(corpus.idf(name, word)) for word in words))
    weight = own_boost(options, boost) * idf

    def score(document: Stored) -> F32 | None:
        here = document.positions.get(name, {})
        if not all(word in here for word in words):
            return None
        phrase = [(word, here[word]) for word in words]
        frequency = sloppy_frequency(phrase, slop) if slop else exact_frequency(phrase)
        return bm25(weight, frequency, corpus.length_factor(name, document)) if frequency else None

    return score


def exact_frequency(phrase: list[tuple[str, list[int]]]) -> F32:
    """How often the words stand in a row. ``phrase``: each word with its places in the document."""
    starts = phrase[0][1]
    return F32(
        sum(all(start + offset in places for offset, (_, places) in enumerate(phrase)) for start in starts)
    )


@dataclass(eq=False)
class Runner:
    """One word of a phrase on its way through the places it has in a document.

    ``position`` is the place where the phrase would begin if this word stood right: equal for all the words
    where the phrase matches exactly.
    """

    offset: int
    places: list[int]
    at: int
    twins: list[Runner]  # the runners of the same word, itself among them, by offset

    @property
    def place(self) -> int:
        return self.places[self.at]

    @property
    def position(self) -> int:
        return self.place - self.offset

    @property
    def rank(self) -> tuple[int, int]:
        return self.position, self.offset


class Exhausted(Exception):
    """A runner has no further place."""


def sloppy_frequency(phrase: list[tuple[str, list[int]]], slop: int) -> F32:
    """The sum of 1 / (1 + width) over the matches no wider than ``slop`` (Lucene SloppyPhraseMatcher).

    The runner that is furthest back moves on, and while it is still the furthest back the match becomes
    narrower; when it overtakes the next one, the narrowest width it passed is that of one match. The width is
    the distance to ``front``, the furthest position that any runner reached. Not every combination of places
    is visited; which ones are is part of the definition.
    """
    words: dict[str, list[Runner]] = {}
    runners = []
    for offset, (word, places) in enumerate(phrase):
        twins = words.setdefault(word, [])
        if len(twins) >= len(places):
            return ZERO  # the word repeats in the phrase more often than in the document
        # Twins never share a place, so each starts one later than the one before.
        twins.append(Runner(offset, places, len(twins), twins))
        runners.append(twins[-1])
    front = max(runner.position for runner in runners)

    def advance(runner: Runner) -> None:
        nonlocal front
        if runner.at + 1 == len(runner.places):
            raise Exhausted
        runner.at += 1
        front = max(front, runner.position)

    def part_from_twins(runner: Runner) -> None:
        """If the runner stepped on a twin, the one of the two that is further back moves on, and so on."""
        while twin := next((t for t in runner.twins if t is not runner and t.place == runner.place), None):
            runner = min(runner, twin, key=lambda one: one.rank)
            advance(runner)

    frequency = ZERO
    while True:
        last, second = sorted(runners, key=lambda one: one.rank)[:2]
        limit = second.position  # stays, even if parting from twins moves the second on
        width = front - last.position
        try:
            while True:
                advance(last)
                part_from_twins(last)
                if last.position > limit:
                    break
                width = min(width, front - last.position)
        except Exhausted:
            return frequency + ONE / F32(1 + width) if width <= slop else frequency
        if width <= slop:
            frequency = frequency + ONE / F32(1 + width)


QUERIES: dict[str, Callable[[Body, Corpus, F32], Scorer]] = {
    "match_all": match_all,
    "match_none": match_none,
    "match": match,
    "match_phrase": match_phrase,
    "term": term,
    "terms": terms,
    "range": range_,
    "prefix": prefix,
    "ids": ids,
    "exists": exists,
    "bool": bool_,
    "constant_score": constant_score,
    "script_score": script_score,
    "function_score": function_score,
}


# ------------------------------------------------------------------------------------------------ search


@dataclass
class Hit:
    document: Stored
    score: F32
    order: int  # where the document is: counts through all segments of the layout


def _matches(oracle: Oracle, query: Body, layout: Layout) -> Iterator[Hit]:
    entries = [entry for segment in layout for entry in segment]
    corpus = Corpus([oracle.versions[seq_no] for _, seq_no, _ in entries], oracle.fields)
    score_of = compile_query(query, corpus)
    for order, (document, (_, _, live)) in enumerate(zip(corpus.documents, entries, strict=True)):
        score = score_of(document) if live else None
        if score is not None:
            yield Hit(document, score, order)


def _search(oracle: Oracle, body: Body, layout: Layout) -> Found:
    hits = list(_matches(oracle, body.get("query", {"match_all": {}}), layout))
    keys = [SortKey.parse(key, oracle.fields) for key in listed(body.get("sort") or ["_score"])]
    for key in reversed(keys):  # stable, from the least important key on; the order of the layout breaks ties
        hits.sort(key=key.rank, reverse=key.descending)
    by_score = any(key.name == "_score" for key in keys)
    start = body.get("from", 0)
    page = hits[start : start + body.get("size", 10)]
    return Found(
        ids=[hit.document.id for hit in page],
        scores=[hit.score if by_score else None for hit in page],
        sort=[[key.value(hit) for key in keys] if body.get("sort") else None for hit in page],
        sources=[filter_source(hit.document.source, body.get("_source", True)) for hit in page],
        total=total(len(hits), body.get("track_total_hits", 10_000)),
        max_score=hits[0].score if hits and body.get("size", 10) and not body.get("sort") else None,
        aggs=aggregations(oracle, body["aggs"], [hit.document for hit in hits], layout) if "aggs" in body else None,
    )


def total(matched: int, track: bool | int) -> tuple[int, str] | None:
    if track is False:
        return None
    return (matched, "eq") if track is True or matched <= track else (track, "gte")


@dataclass(frozen=True)
class SortKey:
    name: str
    descending: bool
    mode: str
    missing: Any

    @staticmethod
    def parse(key: Any, fields: dict[str, Field]) -> SortKey:
        if isinstance(key, str):
            name, order = (key[1:], "desc") if key.startswith("-") else (key, None)
            options: Body = {"order": order} if order else {}
        else:
            [(name, options)] = key.items()
            options = options if isinstance(options, dict) else {"order": options}
        descending = options.get("order", "desc" if name == "_score" else "asc") == "desc"
        missing = options.get("missing", "_last")
        if missing not in ("_first", "_last"):
            missing = native(fields[name].kind, missing)
        return SortKey(name, descending, options.get("mode", "max" if descending else "min"), missing)

    def value(self, hit: Hit) -> Any:
        """What the hit sorts by; None if it has nothing."""
        if self.name in ("_score", "_doc"):
            return float(hit.score) if self.name == "_score" else hit.order
        values = hit.document.values.get(self.name)
        if values:
            return (min if self.mode == "min" else max)(values)
        return None if self.missing in ("_first", "_last") else self.missing

    def rank(self, hit: Hit) -> tuple[int, Any]:
        """Sorts in the key's own direction, so that "last" is the greatest of an ascending key only."""
        value = self.value(hit)
        if value is not None:
            return 0, value
        at_end = (self.missing == "_last") != self.descending
        return (1 if at_end else -1), 0


def filter_source(source: Body, wanted: Any) -> Body | None:
    """``_source``: true, false, patterns, or includes and excludes (OpenSearch XContentMapValues.filter)."""
    if wanted is False:
        return None
    if wanted is True:
        return source
    options = wanted if isinstance(wanted, dict) else {"includes": wanted}
    includes, excludes = listed(options.get("includes", [])), listed(options.get("excludes", []))

    def hit(path: str, patterns: list[str]) -> bool:
        """A pattern that hits an object hits all that is in it."""
        parts = path.split(".")
        above = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
        return any(fnmatchcase(one, pattern) for one in above for pattern in patterns)

    def may_hit_below(path: str, patterns: list[str]) -> bool:
        heads = [(pattern.split("*")[0], "*" in pattern) for pattern in patterns]
        return any(head.startswith(path + ".") or (open and path.startswith(head)) for head, open in heads)

    def keep(value: Any, path: str) -> list[Any]:
        """What is left of the value, in a list that is empty if nothing is.

        An object or array that is itself included stays, even empty; an empty object in an array does not.
        """
        if hit(path, excludes):
            return []
        included = not includes or hit(path, includes)
        if included and not may_hit_below(path, excludes):
            return [value]
        if isinstance(value, dict):
            kept = {key: left[0] for key, below in value.items() if (left := keep(below, f"{path}.{key}"))}
            return [kept] if kept or included else []
        if isinstance(value, list):
            items = [left for item in value for left in keep(item, path) if left not in ({}, [])]
            return [items] if items or included else []
        return [value] if included else []

    return {key: left[0] for key, below in source.items() if (left := keep(below, key))}


# ------------------------------------------------------------------------------------------ aggregations


def aggregations(oracle: Oracle, aggs: Body, documents: list[Stored], layout: Layout) -> Body:
    """The answers to ``aggs`` about some documents."""
    everyone = [oracle.versions[seq_no] for segment in layout for _, seq_no, _ in segment]
    corpus = Corpus(everyone, oracle.fields)
    return answers(aggs, documents, corpus)


def answers(aggs: Body, documents: list[Stored], corpus: Corpus) -> Body:
    return {name: answer(body, documents, corpus) for name, body in aggs.items()}


def answer(body: Body, documents: list[Stored], corpus: Corpus) -> Body:
    inner = body.get("aggs", {})
    [(name, spec)] = ((name, spec) for name, spec in body.items() if name != "aggs")
    if name in METRICS:
        return METRICS[name](spec, documents, corpus)
    return BUCKETS[name](spec, lambda some: {"doc_count": len(some), **answers(inner, some, corpus)}, documents, corpus)


def values_of(document: Stored, spec: Body, corpus: Corpus) -> list[Any]:
    """The values that an aggregation sees, ascending; a keyword's are distinct."""
    field_ = corpus.fields.get(spec["field"])
    if field_ is None:
        return []
    values = document.values.get(spec["field"], [])
    if not values and "missing" in spec:
        values = [native(field_.kind, spec["missing"])]
    return sorted(set(values)) if field_.kind == "keyword" else sorted(values)


def kind_of(spec: Body, corpus: Corpus) -> str:
    return corpus.fields[spec["field"]].kind if spec["field"] in corpus.fields else ""


Inside = Callable[[list[Stored]], Body]


def ordered(buckets: list[tuple[Any, Body]], order: Any) -> list[tuple[Any, Body]]:
    """Pairs of key and bucket; ties in the order of keys, buckets without the number last."""
    buckets = sorted(buckets, key=lambda pair: pair[0])
    for entry in reversed(listed(order)):
        [(by, direction)] = entry.items()

        def number(pair: tuple[Any, Body], by: str = by) -> Any:
            if by in ("_key", "_count"):
                return pair[0] if by == "_key" else pair[1]["doc_count"]
            name, _, value = by.partition(".")
            return pair[1][name][value or "value"]

        known = [pair for pair in buckets if number(pair) is not None]
        known.sort(key=number, reverse=direction == "desc")
        buckets = known + [pair for pair in buckets if number(pair) is None]
    return buckets


def terms_buckets(spec: Body, inside: Inside, documents: list[Stored], corpus: Corpus) -> Body:
    minimum = spec.get("min_doc_count", 1)
    found: dict[Any, list[Stored]] = {}
    if minimum == 0:
        found = {value: [] for document in corpus.documents for value in values_of(document, spec, corpus)}
    for document in documents:
        for value in set(values_of(document, spec, corpus)):
            found.setdefault(value, []).append(document)
    buckets = ordered([(value, inside(some)) for value, some in found.items() if len(some) >= minimum],
                      spec.get("order", {"_count": "desc"}))
    size = spec.get("size", 10)
    return {
        "doc_count_error_upper_bound": 0,
        "sum_other_doc_count": sum(bucket["doc_count"] for _, bucket in buckets[size:]),
        "buckets": [term_key(value, kind_of(spec, corpus)) | bucket for value, bucket in buckets[:size]],
    }


def term_key(value: Any, kind: str) -> Body:
    if kind == "date":
        return {"key": value, "key_as_string": iso(value)}
    return {"key": value, "key_as_string": str(value == 1).lower()} if kind == "boolean" else {"key": value}


def iso(ms: float) -> str:
    moment = datetime(1970, 1, 1) + timedelta(milliseconds=int(ms))
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def intervals(
    spec: Body, inside: Inside, documents: list[Stored], corpus: Corpus, start: Callable[[Any], Any],
    after: Callable[[Any], Any], bounds: list[Any],
) -> list[tuple[Any, Body]]:
    """Buckets between ``start`` of a value and ``after`` it; those of ``bounds`` and all between are there."""
    found: dict[Any, list[Stored]] = {}
    for document in documents:
        for key in {start(value) for value in values_of(document, spec, corpus)}:
            found.setdefault(key, []).append(document)
    minimum = spec.get("min_doc_count", 0)
    if minimum == 0:
        ends = [*found, *map(start, bounds)]
        key = min(ends, default=0)
        while ends and key < max(ends):
            found.setdefault(key, [])
            key = after(key)
        found |= {key: [] for key in ends if key not in found}
    return ordered([(key, inside(some)) for key, some in found.items() if len(some) >= minimum],
                   spec.get("order", {"_key": "asc"}))


def histogram(spec: Body, inside: Inside, documents: list[Stored], corpus: Corpus) -> Body:
    interval, offset = float(spec["interval"]), float(spec.get("offset", 0))
    bounds = spec.get("extended_bounds")
    numbers = intervals(spec, inside, documents, corpus, lambda value: math.floor((value - offset) / interval),
                        lambda number: number + 1, [bounds["min"], bounds["max"]] if bounds else [])
    buckets = []
    for number, bucket in numbers:
        key = number * interval + offset
        text = {"key_as_string": iso(key)} if kind_of(spec, corpus) == "date" else {}
        buckets.append(text | {"key": key} | bucket)
    return keyed(spec, buckets)


def keyed(spec: Body, buckets: list[Body]) -> Body:
    if spec.get("keyed"):
        return {"buckets": {str(bucket.get("key_as_string", bucket["key"])): bucket for bucket in buckets}}
    return {"buckets": buckets}


UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def length(text: str) -> int:
    [(number, unit)] = re.findall(r"^([+-]?\d+)(ms|[smhd])$", text)
    return int(number) * UNITS[unit]


def date_histogram(spec: Body, inside: Inside, documents: list[Stored], corpus: Corpus) -> Body:
    zone = spec.get("time_zone", "+00:00")
    ahead = (1 if zone[0] == "+" else -1) * (length(zone[1:3] + "h") + length(zone[4:6] + "m"))
    shift = ahead - length(spec.get("offset", "0ms"))

    def civil(ms: int) -> datetime:
        return datetime(1970, 1, 1) + timedelta(milliseconds=ms)

    def moment(at: datetime) -> int:
        return (at - datetime(1970, 1, 1)) // timedelta(milliseconds=1)

    unit = spec.get("calendar_interval")
    if unit in ("month", "quarter", "year"):
        months = {"month": 1, "quarter": 3, "year": 12}[unit]

        def start(ms: int) -> int:
            local = civil(ms + shift)
            return moment(datetime(local.year, (local.month - 1) // months * months + 1, 1)) - shift

        def after(ms: int) -> int:
            local = civil(ms + shift)
            number = local.year * 12 + local.month - 1 + months
            return moment(datetime(number // 12, number % 12 + 1, 1)) - shift
    else:
        days = {"minute": "1m", "hour": "1h", "day": "1d", "week": "7d"}
        step = length(spec["fixed_interval"] if unit is None else days[unit])
        monday = length("-3d") if unit == "week" else 0

        def start(ms: int) -> int:
            return (ms + shift - monday) // step * step + monday - shift

        def after(ms: int) -> int:
            return ms + step

    ends = spec.get("extended_bounds")
    bounds = [native("date", ends["min"]), native("date", ends["max"])] if ends else []
    name = "Z" if ahead == 0 else zone
    return keyed(spec, [{"key_as_string": iso(key + ahead)[:-1] + name, "key": key} | bucket for key, bucket in
                        intervals(spec, inside, documents, corpus, start, after, bounds)])


def ranges(spec: Body, inside: Inside, documents: list[Stored], corpus: Corpus) -> Body:
    kind = kind_of(spec, corpus)
    buckets = []
    for entry in spec["ranges"]:
        low, high = (None if entry.get(end) is None else native("date", entry[end]) if kind == "date"
                     else float(entry[end]) for end in ("from", "to"))

        def inside_of(value: Any, low: Any = low, high: Any = high) -> bool:
            if kind == "float":
                low, high = (None if end is None else float(F32(end)) for end in (low, high))
            return (low is None or value >= low) and (high is None or value < high)

        some = [document for document in documents if any(map(inside_of, values_of(document, spec, corpus)))]
        shown: Body = {}
        texts = []
        for end, value in (("from", low), ("to", high)):
            if value is not None:
                shown[end] = float(value)
                if kind == "date":
                    shown[f"{end}_as_string"] = iso(value)
            texts.append("*" if value is None else iso(value) if kind == "date" else str(float(value)))
        order = (-math.inf if low is None else low, math.inf if high is None else high)
        buckets.append((order, {"key": entry.get("key", "-".join(texts)), **shown} | inside(some)))
    buckets.sort(key=lambda pair: pair[0])
    if spec.get("keyed"):
        return {"buckets": {bucket["key"]: {k: v for k, v in bucket.items() if k != "key"} for _, bucket in buckets}}
    return {"buckets": [bucket for _, bucket in buckets]}


def filter_(spec: Body, inside: Inside, documents: list[Stored], corpus: Corpus) -> Body:
    matches = compile_query(spec, corpus)
    return inside([document for document in documents if matches(document) is not None])


def filters(spec: Body, inside: Inside, documents: list[Stored], corpus: Corpus) -> Body:
    queries = spec["filters"]
    matches = [compile_query(query, corpus) for query in (queries.values() if isinstance(queries, dict) else queries)]
    found = [inside([document for document in documents if match(document) is not None]) for match in matches]
    if spec.get("other_bucket"):
        found.append(inside([document for document in documents if all(match(document) is None for match in matches)]))
    return {"buckets": dict(zip([*queries, "_other_"], found, strict=False)) if isinstance(queries, dict) else found}


def missing_bucket(spec: Body, inside: Inside, documents: list[Stored], corpus: Corpus) -> Body:
    return inside([document for document in documents if not document.values.get(spec["field"])])


def all_values(spec: Body, documents: list[Stored], corpus: Corpus) -> list[Any]:
    return [value for document in documents for value in values_of(document, spec, corpus)]


def stats(spec: Body, documents: list[Stored], corpus: Corpus) -> Body:
    values = [float(value) for value in all_values(spec, documents, corpus)]
    found: Body = {"count": len(values), "min": min(values, default=None), "max": max(values, default=None),
                   "avg": math.fsum(values) / len(values) if values else None, "sum": math.fsum(values)}
    kind = kind_of(spec, corpus)
    if values and kind in ("date", "boolean"):
        for name in ("min", "max", "avg", "sum"):
            found[f"{name}_as_string"] = iso(found[name]) if kind == "date" else str(int(found[name]) != 0).lower()
    return found


def metric(name: str) -> Callable[[Body, list[Stored], Corpus], Body]:
    def one(spec: Body, documents: list[Stored], corpus: Corpus) -> Body:
        found = stats(spec, documents, corpus)
        text = {"value_as_string": found[f"{name}_as_string"]} if f"{name}_as_string" in found else {}
        return {"value": found[name], **text}
    return one


def percentiles(spec: Body, documents: list[Stored], corpus: Corpus) -> Body:
    values = sorted(map(float, all_values(spec, documents, corpus)))
    found: Body = {}
    for percent in spec.get("percents", [1, 5, 25, 50, 75, 95, 99]):
        value = None
        if values:
            place = Fraction(percent) / 100 * (len(values) - 1)
            low, high = values[math.floor(place)], values[math.ceil(place)]
            value = low + (high - low) * float(place % 1)
        found[str(float(percent))] = value
        if values and kind_of(spec, corpus) == "date":
            found[f"{float(percent)}_as_string"] = iso(value)
        if values and kind_of(spec, corpus) == "boolean":
            found[f"{float(percent)}_as_string"] = str(int(value) != 0).lower()
    return {"values": found}


BUCKETS: dict[str, Callable[[Body, Inside, list[Stored], Corpus], Body]] = {
    "terms": terms_buckets, "histogram": histogram, "date_histogram": date_histogram, "range": ranges,
    "date_range": ranges, "filter": filter_, "filters": filters, "missing": missing_bucket,
}
METRICS: dict[str, Callable[[Body, list[Stored], Corpus], Body]] = {
    "stats": stats, "percentiles": percentiles, **{name: metric(name) for name in ("min", "max", "avg", "sum")},
    "value_count": lambda spec, documents, corpus: {"value": len(all_values(spec, documents, corpus))},
    "cardinality": lambda spec, documents, corpus: {"value": len(set(all_values(spec, documents, corpus)))},
}

"""Documents and requests for one mapping, small enough that words repeat, phrases occur and scores tie."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Body = dict[str, Any]
Bodies = st.SearchStrategy[Body]

MAPPING: Body = {
    "dynamic": "strict",
    "properties": {
        "key": {"type": "keyword"},
        "title": {"type": "text", "fields": {"raw": {"type": "keyword", "ignore_above": 12}}},
        "body": {"type": "text", "analyzer": "whitespace"},
        "tag": {"type": "keyword"},
        "n": {"type": "integer"},
        "big": {"type": "long", "null_value": -1},
        "x": {"type": "double"},
        "f": {"type": "float"},
        "day": {"type": "date"},
        "ok": {"type": "boolean"},
        "obj": {
            "properties": {"name": {"type": "keyword"}, "note": {"type": "text"}, "n": {"type": "short"}}
        },
    },
}

ZIPF = ["the"] * 6 + ["sea"] * 3 + ["whale", "ship"] * 2 + ["captain", "white", "moby"]
TITLES = [*ZIPF, "The", "SEA", "Whale", "m0by"]
TAGS = ["red", "green", "blue", "", "dark red", "ré", "\U0001f40b"]
NUMBERS = [-3, -1, 0, 1, 2, 3, 2**31 - 1, -(2**31)]
BIG = [-(2**63), -1, 0, 1, 2**53, 2**53 + 1, 2**63 - 1]
REALS = [-1e300, -0.5, 0.0, 0.1, 0.25, 3.0, 1e300]
FLOATS = [-0.5, 0.0, 0.1, 0.25, 3.0, 16777217.0]
MOMENTS = [
    "1969-12-31T23:59:59.999Z",
    "1970-01-01T00:00:00.000Z",
    "2020-02-29T12:00:00Z",
    "2020-03-01T01:00:00+01:00",
    0,
    1,
    1_582_977_600_000,
]
BOOSTS = [0.1, 0.5, 1.0, 2.0, 3.7]
FIELDS = [*MAPPING["properties"], "obj.name", "obj.note", "obj.n", "title.raw", "absent"]
SORTABLE = ["tag", "n", "big", "x", "f", "day", "ok", "obj.name", "obj.n", "title.raw", "key"]

ids = st.integers(0, 15).map("k{}".format)


def pick(values: list[Any]) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


def weighted(*choices: tuple[int, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """``one_of`` would flatten nested choices, and so give the largest family the most weight."""
    every = [strategy for weight, strategy in choices for _ in range(weight)]
    return st.integers(0, len(every) - 1).flatmap(lambda n: every[n])


def words(of: list[str], least: int, most: int) -> st.SearchStrategy[str]:
    return st.lists(pick(of), min_size=least, max_size=most).map(" ".join)


def one_or_many(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return weighted((6, values), (3, st.lists(values, max_size=3)), (1, st.none()))


# ------------------------------------------------------------------------------------------- documents

titles = words(TITLES, 0, 4)
bodies = weighted((1, words(ZIPF, 0, 2)), (4, words(ZIPF, 3, 12)), (1, words(ZIPF, 30, 60)))
objects = st.fixed_dictionaries(
    {},
    optional={
        "name": one_or_many(pick(TAGS)),
        "note": one_or_many(titles),
        "n": one_or_many(pick([-1, 0, 1, 300])),
    },
)
documents: Bodies = st.fixed_dictionaries(
    {"body": one_or_many(bodies)},
    optional={
        "title": one_or_many(titles),
        "tag": one_or_many(pick(TAGS)),
        "n": one_or_many(pick([*NUMBERS, "2", 1.0])),
        "big": one_or_many(pick(BIG)),
        "x": one_or_many(pick(REALS)),
        "f": one_or_many(pick(FLOATS)),
        "day": one_or_many(pick(MOMENTS)),
        "ok": one_or_many(pick([True, False, "true", "false"])),
        "obj": st.one_of(objects, st.lists(objects, max_size=2)),
    },
)
bad_documents: Bodies = pick(
    [
        {"n": "three"},
        {"n": 2**31},
        {"title": "the sea", "day": "not a day"},
        {"ok": 2},
        {"unmapped": 1},
        {"obj": "flat"},
        {"x": {"y": 1}},
    ]
)


# --------------------------------------------------------------------------------------------- queries


def clause(kind: str, field: st.SearchStrategy[str], options: Bodies) -> Bodies:
    """``{kind: {field: {...}}}``, now and then with a boost."""
    return st.builds(
        lambda name, given, boost: {kind: {name: {**given, **boost}}}, field, options, boosts
    )


boosts: Bodies = weighted((3, st.just({})), (1, st.fixed_dictionaries({"boost": pick(BOOSTS)})))
texts = pick([*["body"] * 6, "title", "obj.note"])
values: dict[str, list[Any]] = {
    "tag": TAGS,
    "title.raw": ["the", "the sea", "SEA"],
    "n": NUMBERS,
    "big": BIG,
    "x": REALS,
    "f": FLOATS,
    "day": MOMENTS,
    "obj.n": [-1, 0, 1, 300],
    "obj.name": TAGS,
}
any_value = pick([*values]).flatmap(lambda name: st.tuples(st.just(name), pick(values[name])))


def bounds(name: str) -> Bodies:
    """One or two bounds of a range; fractions on integer fields too."""
    bound = pick([*values[name], 0.5, -1.5] if name in ("n", "big") else values[name])
    lower = st.one_of(st.just({}), st.builds(lambda op, v: {op: v}, pick(["gt", "gte"]), bound))
    upper = st.one_of(st.just({}), st.builds(lambda op, v: {op: v}, pick(["lt", "lte"]), bound))
    return st.builds(lambda low, high: low | high or {"gte": values[name][0]}, lower, upper)


match_options: Bodies = st.one_of(
    st.fixed_dictionaries({"query": words(TITLES, 0, 5)}),
    st.fixed_dictionaries({"query": words(ZIPF, 1, 5), "operator": pick(["or", "and", "AND"])}),
    st.fixed_dictionaries({"query": words(ZIPF, 1, 5), "minimum_should_match": st.integers(-3, 6)}),
)
phrases: Bodies = clause(
    "match_phrase",
    texts,
    st.fixed_dictionaries({"query": words(ZIPF, 1, 3)}, optional={"slop": st.integers(0, 8)}),
)
terms_of_text: Bodies = clause("term", texts, st.fixed_dictionaries({"value": pick(ZIPF)}))
scoring = weighted((1, terms_of_text), (1, clause("match", texts, match_options)), (1, phrases))
constants: Bodies = st.one_of(
    any_value.map(lambda pair: {"term": {pair[0]: pair[1]}}),
    pick([*values]).flatmap(
        lambda name: st.builds(
            lambda some, boost: {"terms": {name: some, **boost}},
            st.lists(pick(values[name]), max_size=4),
            boosts,
        )
    ),
    pick([*values]).flatmap(lambda name: clause("range", st.just(name), bounds(name))),
    clause(
        "prefix",
        pick(["title", "body", "tag", "title.raw"]),
        st.fixed_dictionaries({"value": pick(["", "t", "th", "whale", "d", "r", "zz"])}),
    ),
    st.builds(lambda some, boost: {"ids": {"values": some, **boost}}, st.lists(ids, max_size=6), boosts),
    st.builds(lambda name, boost: {"exists": {"field": name, **boost}}, pick(FIELDS), boosts),
    st.builds(lambda boost: {"match_all": boost}, boosts),
    st.builds(lambda text: {"match": {"tag": text}}, pick(TAGS)),
    st.just({"match_none": {}}),
)
leaves: Bodies = weighted((2, scoring), (1, constants))


def compound(inner: Bodies) -> Bodies:
    some = st.lists(inner, min_size=1, max_size=3)
    bools = st.builds(
        lambda clauses, minimum, boost: {
            "bool": {**clauses, **(minimum if clauses.get("should") else {}), **boost}
        },
        st.fixed_dictionaries({}, optional={"must": some, "should": some, "filter": some, "must_not": some}),
        st.one_of(st.just({}), st.fixed_dictionaries({"minimum_should_match": st.integers(-2, 3)})),
        boosts,
    )
    constant = st.builds(
        lambda query, boost: {"constant_score": {"filter": query, **boost}}, inner, boosts
    )
    unions = st.lists(scoring, min_size=2, max_size=6).map(lambda many: {"bool": {"should": many}})
    return weighted((4, bools), (3, unions), (1, constant))


queries: Bodies = weighted(
    (3, leaves), (3, compound(leaves)), (1, compound(weighted((1, leaves), (1, compound(leaves)))))
)


# -------------------------------------------------------------------------------------------- requests


def sort_key(name: str) -> st.SearchStrategy[Any]:
    missing = pick(["_first", "_last", *([] if name == "ok" else values.get(name, ["sea"])[:2])])
    options = st.fixed_dictionaries(
        {}, optional={"order": pick(["asc", "desc"]), "missing": missing, "mode": pick(["min", "max"])}
    )
    return st.one_of(
        pick([name, f"-{name}", {name: "asc"}, {name: "desc"}]), options.map(lambda given: {name: given})
    )


sort_keys = st.one_of(pick(SORTABLE).flatmap(sort_key), pick(["_score", "_doc", {"_score": "asc"}]))
sources = pick(
    [
        False,
        "title",
        ["obj.*", "n"],
        "*.name",
        {"includes": ["obj", "t*"], "excludes": ["obj.name"]},
        {"excludes": ["body", "title"]},
    ]
)
requests: Bodies = st.fixed_dictionaries(
    {"query": queries},
    optional={
        "size": st.integers(0, 20),
        "from": st.integers(0, 5),
        "sort": st.lists(sort_keys, min_size=1, max_size=3),
        "_source": sources,
        "track_total_hits": st.one_of(st.booleans(), st.integers(1, 8)),
    },
)

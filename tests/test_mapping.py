"""Mappings: their dict form, merging, and how documents and query values are read by them."""

from __future__ import annotations

import datetime as dt
import json
import math
import operator
import struct
from contextlib import suppress
from enum import IntEnum, StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quidditch_core.errors import DocumentError, MappingError, QuidditchError, UnsupportedError
from quidditch_core.mapping import ANALYZERS, BadValue, FieldType, Mapping

BOOKS: dict[str, Any] = {
    "properties": {
        "title": {"type": "text", "analyzer": "english", "fields": {"raw": {"type": "keyword"}}},
        "tag": {"type": "keyword", "ignore_above": 5, "null_value": "none"},
        "pages": {"type": "integer"},
        "score": {"type": "double"},
        "rating": {"type": "float"},
        "level": {"type": "byte", "coerce": False},
        "sold": {"type": "boolean"},
        "at": {"type": "date"},
        "day": {"type": "date", "format": "dd/MM/yyyy||epoch_second"},
        "author": {"properties": {"name": {"type": "keyword"}, "born": {"type": "long"}}},
        "raw": {"type": "object", "enabled": False},
        "extra": {"type": "object", "dynamic": True},
    },
    "dynamic": "strict",
}
books = Mapping.from_dict(BOOKS)


def only(kind: str, **parameters: Any) -> Mapping:
    """A mapping of one field, ``f``."""
    return Mapping.from_dict({"properties": {"f": {"type": kind, **parameters}}})


def read(mapping: Mapping, doc: Any) -> dict[str, list[Any]]:
    """The values of a document that adds no fields."""
    parsed = mapping.parse_document(doc)
    assert parsed.mapping is mapping
    return parsed.values


# The dict form ----------------------------------------------------------------------------------------------


def test_fields_by_full_path() -> None:
    assert set(books.fields) == {
        "title", "title.raw", "tag", "pages", "score", "rating", "level", "sold", "at", "day", "author.name",
        "author.born",
    }
    assert books.objects == {"author", "raw", "extra"}
    assert books.dynamic == "strict"
    assert Mapping().dynamic == "true"
    with pytest.raises(TypeError):
        books.fields["new"] = books.fields["tag"]  # type: ignore[index]


def test_defaults_and_properties() -> None:
    text, keyword, date, rating = (books.fields[name] for name in ("title", "title.raw", "at", "rating"))
    assert (text.analyzer, text.search_analyzer, text.norms) == ("english", "english", True)
    assert (text.is_text, text.inverted, text.column, text.doc_values) == (True, True, None, False)
    assert (keyword.is_keyword, keyword.inverted, keyword.column, keyword.norms) == (True, True, "ord", False)
    assert (date.is_numeric, date.inverted, date.column) == (True, False, "i64")
    assert (rating.is_numeric, rating.column, books.fields["sold"].column) == (True, "f64", "i64")
    assert FieldType("t", "text").analyzer == "standard"
    assert FieldType("t", "text", search_analyzer="simple").analyzer == "standard"
    hidden = only("keyword", index=False, doc_values="false").fields["f"]
    assert (hidden.inverted, hidden.column) == (False, None)


def test_to_dict_says_what_is_not_default() -> None:
    assert Mapping.from_dict({}).to_dict() == {}
    body = {"properties": {
        "t": {"type": "text", "analyzer": "standard", "search_analyzer": "standard", "norms": True},
        "s": {"type": "text", "store": False, "index_options": "positions"},
        "k": {"type": "keyword", "index": True, "similarity": "BM25", "copy_to": []},
        "d": {"type": "date", "format": "strict_date_optional_time||epoch_millis"},
        "o.p": {"type": "long", "doc_values": False},
        "e": {"type": "object", "properties": {}},
    }}
    assert Mapping.from_dict(body).to_dict() == {"properties": {
        "t": {"type": "text"}, "s": {"type": "text"}, "k": {"type": "keyword"}, "d": {"type": "date"},
        "o": {"properties": {"p": {"type": "long", "doc_values": False}}}, "e": {"type": "object"},
    }}
    assert Mapping.from_dict({"mappings": BOOKS}) == books != BOOKS
    assert repr(Mapping.from_dict({"dynamic": False})) == "Mapping.from_dict({'dynamic': 'false'})"


names = st.text(alphabet="abcde_", min_size=1, max_size=3).filter(lambda name: not name.startswith("_"))
flags = st.booleans()
leaves = st.one_of(
    st.fixed_dictionaries({"type": st.just("text")}, optional={
        "analyzer": st.sampled_from(ANALYZERS), "search_analyzer": st.sampled_from(ANALYZERS), "index": flags,
        "norms": flags, "position_increment_gap": st.integers(0, 1000)}),
    st.fixed_dictionaries({"type": st.just("keyword")}, optional={
        "ignore_above": st.integers(0, 9), "null_value": st.text(max_size=3), "index": flags,
        "doc_values": flags}),
    st.fixed_dictionaries({"type": st.sampled_from(["byte", "short", "integer", "long", "float", "double"])},
                          optional={"coerce": flags, "null_value": st.integers(-9, 9), "index": flags}),
    st.fixed_dictionaries({"type": st.just("boolean")}, optional={"null_value": flags, "doc_values": flags}),
    st.fixed_dictionaries({"type": st.just("date")}, optional={
        "format": st.sampled_from(["yyyy-MM-dd", "epoch_second||basic_date"]), "index": flags}),
)
fields = leaves | st.builds(lambda leaf, multi: {**leaf, "fields": multi}, leaves,
                            st.dictionaries(names, leaves, min_size=1, max_size=2))
objects = st.recursive(
    st.fixed_dictionaries({"properties": st.dictionaries(names, fields, max_size=3)},
                          optional={"dynamic": st.sampled_from([True, False, "strict"])}),
    lambda inner: st.fixed_dictionaries(
        {"properties": st.dictionaries(names, fields | inner, max_size=3)},
        optional={"dynamic": st.sampled_from(["true", "false", "strict"])}),
    max_leaves=4,
)
mappings = objects.map(Mapping.from_dict)


@given(mappings)
def test_dict_form_round_trips(mapping: Mapping) -> None:
    body = mapping.to_dict()
    assert Mapping.from_dict(json.loads(json.dumps(body))) == mapping
    assert mapping.merge(body) is mapping
    assert Mapping().merge(mapping).fields == mapping.fields


@pytest.mark.parametrize(("properties", "path", "says"), [
    ({"f": {"type": "txt"}}, "properties.f.type", "did you mean 'text'"),
    ({"f": {"type": 3}}, "properties.f.type", "found 3"),
    ({"f": {"type": "object", "properties": {"g": {"type": "longer"}}}}, "properties.f.properties.g.type",
     "did you mean 'long'"),
    ({"f": {}}, "properties.f.type", "has no type"),
    ({"f": "text"}, "properties.f", "expected an object"),
    ({"f": {"type": "text", "analyser": "english"}}, "properties.f.analyser", "did you mean 'analyzer'"),
    ({"f": {"type": "text", "analyzer": "englisch"}}, "properties.f.analyzer", "did you mean 'english'"),
    ({"f": {"type": "text", "analyzer": None}}, "properties.f.analyzer", "one of english"),
    ({"f": {"type": "text", "doc_values": True}}, "properties.f.doc_values", "unknown parameter of a text"),
    ({"f": {"type": "text", "norms": "yes"}}, "properties.f.norms", "expected true or false"),
    ({"f": {"type": "long", "index": 1}}, "properties.f.index", "expected true or false"),
    ({"f": {"type": "long", "analyzer": "english"}}, "properties.f.analyzer", "unknown parameter of a long"),
    ({"f": {"type": "keyword", "ignore_above": -1}}, "properties.f.ignore_above", "expected an integer"),
    ({"f": {"type": "date", "format": "yyyy-MM-ddTHH"}}, "properties.f.format", "unknown date format"),
    ({"f": {"type": "date", "format": 5}}, "properties.f.format", "expected a string"),
    ({"f": {"type": "byte", "null_value": 300}}, "properties.f.null_value", "expected an integer from -128"),
    ({"f": {"type": "long", "null_value": [1]}}, "properties.f.null_value", "a string, number or boolean"),
    ({"f": {"type": "date", "null_value": "soon"}}, "properties.f.null_value", "expected a date"),
    ({"f": {"type": "text", "fields": {"a.b": {"type": "keyword"}}}}, "properties.f.fields.a.b", "a dot"),
    ({"f": {"type": "text", "fields": {"a": {"type": "object"}}}}, "properties.f.fields.a.type", "unknown"),
    ({"f": {"type": "text", "fields": {"a": {"type": "text", "fields": {}}}}}, "properties.f.fields.a.fields",
     "cannot have multi-fields"),
    ({"f": {"properties": {}, "analyzer": "x"}}, "properties.f.analyzer", "unknown parameter of an object"),
    ({"f": {"properties": []}}, "properties.f.properties", "expected an object"),
    ({"f": {"dynamic": "maybe"}}, "properties.f.dynamic", "true, false or"),
    ({"": {"type": "text"}}, "properties.", "blank"),
    ({" ": {"type": "text"}}, "properties. ", "blank"),
    ({".a": {"type": "text"}}, "properties..a", "blank"),
    ({"a.": {"type": "text"}}, "properties.a.", "blank"),
    ({"a..b": {"type": "text"}}, "properties.a..b", "blank"),
    ({"\ud800": {"type": "text"}}, "properties.\\ud800", "surrogates"),
    ({"x" * 600: {"type": "text"}}, "properties." + "x" * 512, "longer than 512 bytes"),
    ({"_id": {"type": "text"}}, "properties._id", "metadata field"),
    ({1: {"type": "text"}}, "properties", "a key is not a string"),
    ({"a": {"type": "text"}, "a.b": {"type": "text"}}, "properties.a.b.type", "found 'object'"),
])
def test_bad_mappings_name_the_place(properties: Any, path: str, says: str) -> None:
    with pytest.raises(MappingError) as caught:
        Mapping.from_dict({"properties": properties})
    assert caught.value.path == path
    assert says in str(caught.value)


@pytest.mark.parametrize(("body", "says"), [
    (None, "expected an object"),
    ([], "expected an object"),
    ({"title": {"type": "text"}}, 'put fields under "properties"'),
    ({"propertys": 1}, "did you mean 'properties'"),
    ({"mappings": {}, "settings": {}}, "pass settings apart"),
    ({"mappings": {"title": {"type": "text"}}}, "mappings.title"),
    ({"date_detection": "perhaps"}, "date_detection"),
])
def test_bad_roots(body: Any, says: str) -> None:
    with pytest.raises(MappingError) as caught:
        Mapping.from_dict(body)
    assert says in str(caught.value)


@pytest.mark.parametrize(("body", "path"), [
    ({"properties": {"f": {"type": "nested"}}}, "properties.f.type"),
    ({"properties": {"f": {"type": "geo_point"}}}, "properties.f.type"),
    ({"properties": {"f": {"type": "text", "copy_to": "all"}}}, "properties.f.copy_to"),
    ({"properties": {"f": {"type": "text", "similarity": "boolean"}}}, "properties.f.similarity"),
    ({"properties": {"f": {"type": "text", "index_options": "offsets"}}}, "properties.f.index_options"),
    ({"properties": {"f": {"type": "text", "analyzer": "french"}}}, "properties.f.analyzer"),
    ({"properties": {"f": {"type": "keyword", "normalizer": "lowercase"}}}, "properties.f.normalizer"),
    ({"properties": {"f": {"type": "long", "ignore_malformed": True}}}, "properties.f.ignore_malformed"),
    ({"properties": {"f": {"type": "date", "format": "week_date"}}}, "properties.f.format"),
    ({"dynamic": "strict_allow_templates"}, "dynamic"),
    ({"dynamic_templates": [{}]}, "dynamic_templates"),
    ({"_source": {"enabled": False}}, "_source"),
    ({"_meta": {"version": 1}}, "_meta"),
])
def test_what_later_versions_will_do(body: dict[str, Any], path: str) -> None:
    with pytest.raises(UnsupportedError, match="not supported by this version") as caught:
        Mapping.from_dict(body)
    assert caught.value.path == path


def test_bounds() -> None:
    Mapping.from_dict({"properties": {f"f{i}": {"type": "long"} for i in range(1_000)}})
    with pytest.raises(MappingError, match="found 1001; expected at most 1000"):
        Mapping.from_dict({"properties": {f"f{i}": {"type": "long"} for i in range(1_001)}})
    deepest = {"properties": {".".join("o" * 20 + "f"): {"type": "long"}}}
    assert len(Mapping.from_dict(deepest).objects) == 20
    with pytest.raises(MappingError, match="more than 20 deep"):
        Mapping.from_dict({"properties": {".".join("o" * 21 + "f"): {"type": "long"}}})
    loop: dict[str, Any] = {}
    loop["properties"] = {"o": loop}
    with pytest.raises(MappingError, match="more than 20 deep"):
        Mapping.from_dict(loop)


# Merging ----------------------------------------------------------------------------------------------------


def test_fields_are_added() -> None:
    grown = books.merge({"properties": {
        "isbn": {"type": "keyword"},
        "author.died": {"type": "date"},
        "title": {"type": "text", "analyzer": "english", "fields": {"exact": {"type": "text"}}},
        "new": {"properties": {"inner": {"type": "long"}}},
    }})
    assert set(grown.fields) - set(books.fields) == {"isbn", "author.died", "title.exact", "new.inner"}
    assert "title.raw" in grown.fields
    assert grown.dynamic == "strict"
    assert "isbn" not in books.fields


def test_what_may_change() -> None:
    changed = books.merge({"dynamic": False, "properties": {
        "tag": {"type": "keyword", "ignore_above": 9},
        "title": {"type": "text", "analyzer": "english", "search_analyzer": "simple"},
        "author": {"dynamic": "strict"},
    }})
    assert changed.dynamic == "false"
    assert (changed.fields["tag"].ignore_above, changed.fields["tag"].null_value) == (9, None)
    assert changed.fields["title"].search_analyzer == "simple"
    assert changed.merge({"properties": {}}) is changed
    assert Mapping(date_detection=False).merge({"properties": {}}).date_detection is False
    assert Mapping(date_detection=False).merge({"date_detection": True}).date_detection is True


@pytest.mark.parametrize(("properties", "path"), [
    ({"pages": {"type": "long"}}, "properties.pages.type"),
    ({"title": {"type": "text"}}, "properties.title.analyzer"),
    ({"title": {"type": "text", "analyzer": "english", "norms": False}}, "properties.title.norms"),
    ({"title": {"type": "text", "analyzer": "english", "fields": {"raw": {"type": "text"}}}},
     "properties.title.fields.raw.type"),
    ({"day": {"type": "date"}}, "properties.day.format"),
    ({"pages": {"type": "integer", "doc_values": False}}, "properties.pages.doc_values"),
    ({"author": {"type": "keyword"}}, "properties.author.type"),
    ({"author": {"properties": {"name": {"type": "text"}}}}, "properties.author.properties.name.type"),
    ({"author": {"enabled": False}}, "properties.author.enabled"),
    ({"pages.of": {"type": "long"}}, "properties.pages.type"),
])
def test_what_may_not_change(properties: dict[str, Any], path: str) -> None:
    with pytest.raises(MappingError, match="cannot change") as caught:
        books.merge({"properties": properties})
    assert caught.value.path == path


# Documents --------------------------------------------------------------------------------------------------


def test_a_document() -> None:
    assert read(books, {
        "title": "Moby Dick", "tag": ["sea", None, "whales of old", "x"], "pages": "635.9", "score": 4,
        "rating": 0.1, "level": 7.0, "sold": "true", "at": "1851-10-18", "day": "18/10/1851",
        "author": [{"name": "Melville"}, {"name": ["Herman", ["H."]], "born": 1819}, None],
        "raw": {1: object()},
    }) == {
        "title": ["Moby Dick"], "title.raw": ["Moby Dick"], "tag": ["sea", "none", "x"], "pages": [635],
        "score": [4.0], "rating": [struct.unpack("<f", struct.pack("<f", 0.1))[0]], "level": [7], "sold": [1],
        "at": [-3730233600000], "day": [-3730233600000], "author.name": ["Melville", "Herman", "H."],
        "author.born": [1819],
    }


def test_absent_values() -> None:
    assert read(books, {"title": None, "pages": [], "author": None, "at": [None, []]}) == {}
    assert read(books, {"tag": None}) == {"tag": ["none"]}
    assert read(books, {"tag": []}) == {}
    blank = {"title": [""], "title.raw": [""], "sold": [0]}
    assert read(books, {"title": "", "pages": "", "sold": ""}) == blank
    assert read(only("long", null_value="7"), {"f": [None, "", 1]}) == {"f": [7, 7, 1]}
    assert read(only("double", null_value=2), {"f": [None, "", 1]}) == {"f": [2.0, 2.0, 1.0]}
    assert read(only("date", null_value="1970-01-02"), {"f": None}) == {"f": [86_400_000]}


def test_dots_are_objects() -> None:
    both = {"author.name": ["M"], "author.born": [1]}
    assert read(books, {"author.name": "M", "author": {"born": 1}}) == both
    assert read(books, {"raw.anything.goes": object()}) == {}
    deep = Mapping.from_dict({"properties": {"a.b.c": {"type": "long"}}})
    assert read(deep, {"a.b": {"c": 1}, "a": {"b.c": 2}, "a.b.c": 3}) == {"a.b.c": [1, 2, 3]}


def test_scalars_as_text() -> None:
    class Colour(StrEnum):
        RED = "red"

    assert read(only("keyword"), {"f": [1, True, 1.5, 10**30, Colour.RED]}) == {
        "f": ["1", "true", "1.5", "1" + "0" * 30, "red"]}
    assert read(only("text"), {"f": ("a", "é", 2)}) == {"f": ["a", "é", "2"]}


def test_numbers() -> None:
    class Size(IntEnum):
        BIG = 9

    assert read(only("long"), {"f": ["12", " 1"[1:], "1e3", "-2.9", 2.9, -(2**63), 2**63 - 1, Size.BIG]}) == {
        "f": [12, 1, 1000, -2, 2, -(2**63), 2**63 - 1, 9]}
    assert read(only("long"), {"f": ["9223372036854775807.5"]}) == {"f": [2**63 - 1]}
    assert read(only("double"), {"f": ["1e-3", 2**60, "-0", -0.0, ".5", "5."]}) == {
        "f": [0.001, float(2**60), 0.0, 0.0, 0.5, 5.0]}
    assert math.copysign(1, read(only("double"), {"f": -0.0})["f"][0]) == 1
    assert read(only("byte", coerce=False), {"f": [5.0, -128]}) == {"f": [5, -128]}


def test_dates() -> None:
    noon = dt.datetime(2024, 2, 29, 12, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    expected = 1_709_164_800_000
    assert read(only("date"), {"f": [
        "2024-02-29", dt.date(2024, 2, 29), dt.datetime(2024, 2, 29), noon, expected, float(expected),
        str(expected), "2024-02-29T01:00+01:00", 2024,
    ]}) == {"f": [expected, expected, expected, expected + 36_000_000, expected, expected, expected, expected,
                  1_704_067_200_000]}
    assert read(only("date", format="epoch_second"), {"f": [1, 1.5]}) == {"f": [1_000, 1_500]}


def test_ignore_above_counts_utf16_units() -> None:
    assert read(only("keyword", ignore_above=4), {"f": ["four", "fives", "ééé", "\U0001f40b" * 2]}) == {
        "f": ["four", "ééé", "\U0001f40b" * 2]}
    assert read(only("keyword", ignore_above=3), {"f": "\U0001f40b" * 2}) == {}
    assert read(only("keyword"), {"f": "a" * 32_766}) == {"f": ["a" * 32_766]}
    assert read(only("keyword", ignore_above=10), {"f": "a" * 40_000}) == {}
    assert read(only("text"), {"f": "a" * 40_000}) == {"f": ["a" * 40_000]}


@pytest.mark.parametrize(("doc", "path", "says"), [
    ({"pages": "many"}, "pages", "found 'many'; expected an integer from -2147483648 to 2147483647"),
    ({"pages": 2**31}, "pages", "an integer from -2147483648 to 2147483647"),
    ({"pages": True}, "pages", "an integer from"),
    ({"pages": math.nan}, "pages", "an integer from"),
    ({"pages": "1_000"}, "pages", "an integer from"),
    ({"pages": "٣"}, "pages", "an integer from"),
    ({"pages": "1e9999"}, "pages", "an integer from"),
    ({"pages": "9" * 5_000}, "pages", "an integer from"),
    ({"pages": b"1"}, "pages", "an integer from"),
    ({"pages": [1, {"a": 1}]}, "pages", "an integer from"),
    ({"pages": {"a": 1}}, "pages", "an integer from"),
    ({"level": "7"}, "level", "coerce is false"),
    ({"level": 7.5}, "level", "without a fraction"),
    ({"score": math.inf}, "score", "a finite number"),
    ({"score": "NaN"}, "score", "a finite number"),
    ({"score": 10**400}, "score", "a finite number"),
    ({"score": "1e400"}, "score", "a finite number"),
    ({"rating": 1e39}, "rating", "a finite 32-bit number"),
    ({"sold": 1}, "sold", "true or false"),
    ({"sold": "yes"}, "sold", "true or false"),
    ({"at": "yesterday"}, "at", "a date in the format 'strict_date_optional_time||epoch_millis'"),
    ({"at": "now"}, "at", "a date in the format"),
    ({"at": True}, "at", "a date in the format"),
    ({"at": math.nan}, "at", "a date in the format"),
    ({"at": 2**64}, "at", "a date in the format"),
    ({"day": "1851-10-18"}, "day", "a date in the format 'dd/MM/yyyy||epoch_second'"),
    ({"title": {"raw": "x"}}, "title", "a string"),
    ({"title.raw": "x"}, "title", "a string"),
    ({"title": "\ud800"}, "title", "without lone surrogates"),
    ({"title": b"bytes"}, "title", "a string"),
    ({"title": math.nan}, "title", "a string"),
    ({"title": "a" * 32_767}, "title.raw", "at most 32766 UTF-8 bytes"),
    ({"title": "é" * 16_384}, "title.raw", "at most 32766 UTF-8 bytes"),
    ({"author": "Melville"}, "author", "expected an object"),
    ({"author": [{"name": "a"}, 5]}, "author", "expected an object"),
    ({"author": {"nam": "M"}}, "author.nam", "did you mean 'name'"),
    ({"titel": "x"}, "titel", "did you mean 'title'"),
    ({"titel": None}, "titel", "did you mean 'title'"),
    ({"\ud800": 1}, "\\ud800", "dynamic is strict"),
    ({1: 2}, None, "a field name is not a string"),
    ({"author": {1: 2}}, "author", "a field name is not a string"),
    ({"_id": "x"}, "_id", "metadata field"),
    ([], None, "expected an object"),
    (None, None, "expected an object"),
    ("{}", None, "expected an object"),
])
def test_bad_documents_name_the_field(doc: Any, path: str | None, says: str) -> None:
    with pytest.raises(DocumentError) as caught:
        books.parse_document(doc)
    assert caught.value.path == path
    assert says in str(caught.value)
    assert len(str(caught.value)) < 1_000


def test_nested_arrays_are_bounded() -> None:
    value: Any = 1
    for _ in range(20):
        value = [value]
    assert read(only("long"), {"f": value}) == {"f": [1]}
    for _ in range(50_000):
        value = [value]
    with pytest.raises(DocumentError, match="more than 20 deep"):
        only("long").parse_document({"f": value})
    with pytest.raises(DocumentError, match="more than 20 deep"):
        Mapping().parse_document({"f": value})


# Dynamic mapping --------------------------------------------------------------------------------------------


def test_new_fields_get_opensearchs_types() -> None:
    empty = Mapping()
    doc = {
        "name": "Moby", "n": 1, "x": 1.5, "on": True, "at": "2024-01-31", "then": "2024-01-31T10:00:00Z",
        "year": "2024", "month": "2024-01", "when": dt.datetime(2024, 1, 1), "o": {"p": {"q": 1}, "e": {}},
        "tags": [None, ["a"], "b"], "list": [{"k": 1}, {"l": "x"}], "d.o.t": 1, "nothing": None,
        "none": [None],
    }
    parsed = empty.parse_document(doc)
    words = {"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 256}}}
    assert parsed.mapping.to_dict() == {"properties": {
        "name": words, "n": {"type": "long"}, "x": {"type": "float"}, "on": {"type": "boolean"},
        "at": {"type": "date"}, "then": {"type": "date"}, "year": words, "month": words,
        "when": {"type": "date"},
        "o": {"properties": {"p": {"properties": {"q": {"type": "long"}}}, "e": {"type": "object"}}},
        "tags": words, "list": {"properties": {"k": {"type": "long"}, "l": words}},
        "d": {"properties": {"o": {"properties": {"t": {"type": "long"}}}}},
    }}
    assert parsed.values["tags"] == parsed.values["tags.keyword"] == ["a", "b"]
    assert parsed.values["d.o.t"] == [1]
    assert empty == Mapping()
    again = parsed.mapping.parse_document(doc)
    assert again.mapping is parsed.mapping
    assert again.values == parsed.values


def test_first_come_types_hold() -> None:
    grown = Mapping().parse_document({"n": 1, "at": "2024-01-31"}).mapping
    assert read(grown, {"n": 1.9}) == {"n": [1]}
    for doc in ({"n": "one"}, {"at": "tomorrow"}, {"n": {"m": 1}}):
        with pytest.raises(DocumentError, match="does not fit the mapping"):
            grown.parse_document(doc)
    with pytest.raises(DocumentError, match="found 'one'"):
        Mapping().parse_document({"a": [{"n": 1}, {"n": "one"}]})
    with pytest.raises(DocumentError, match="expected an object"):
        Mapping().parse_document({"a": [{"n": 1}, 5]})


def test_dynamic_per_object() -> None:
    mapping = Mapping.from_dict({"dynamic": False, "properties": {
        "open": {"dynamic": True, "properties": {"shut": {"dynamic": "strict", "properties": {}}}},
        "off": {"enabled": False},
    }})
    doc = {"unseen": 1, "open": {"seen": 1, "deep": {"er": True}}, "off": {"x": 1}}
    grown = mapping.parse_document(doc).mapping
    assert set(grown.fields) == {"open.seen", "open.deep.er"}
    assert read(mapping, {"unseen": {"x": {1: object()}}, "off": 5}) == {}
    with pytest.raises(DocumentError, match=r"open\.shut\.x: .*dynamic is strict; .*put_mapping"):
        mapping.parse_document({"open": {"new": 1, "shut": {"x": 1}}})


def test_date_detection_can_be_off() -> None:
    mapping = Mapping.from_dict({"date_detection": False})
    assert mapping.parse_document({"at": "2024-01-31"}).mapping.fields["at"].type == "text"
    assert Mapping.from_dict(mapping.to_dict()) == mapping


@pytest.mark.parametrize(("doc", "says"), [
    ({"": 1}, "blank"), ({"a.": 1}, "blank"), ({".": 1}, "blank"), ({"a": {" ": 1}}, "blank"),
    ({"x" * 600: 1}, "512 bytes"), ({"\ud800": 1}, "surrogates"), ({"_source": 1}, "metadata field"),
    ({"a": {1, 2}}, "not a JSON value"), ({"a": b"x"}, "not a JSON value"), ({"a": {2: 1}}, "are strings"),
    ({"a": 1e300}, "32-bit"), ({"a": math.inf}, "32-bit"), ({"a": 2**63}, "an integer from"),
    ({".".join("a" * 30): 1}, "more than 20 deep"),
    ({f"f{i}": i for i in range(1_001)}, "at most 1000"),
])
def test_documents_that_no_mapping_takes(doc: Any, says: str) -> None:
    with pytest.raises(DocumentError) as caught:
        Mapping().parse_document(doc)
    assert says in str(caught.value)


def test_endless_documents() -> None:
    loop: dict[str, Any] = {}
    loop["a"] = loop
    with pytest.raises(DocumentError, match="more than 20 deep"):
        Mapping().parse_document(loop)


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["2024-01-31", "true", "", "12", "1.5", "\ud800", "18/10/1851", 2**63, 2024])
)
keys = st.text(max_size=4) | st.sampled_from(
    ["title", "tag", "pages", "author", "name", "at", "extra", "raw", "a", "b", "author.name", "extra.x",
     "a.b", "", ".", "_id"]
)
json_values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3)
                           | st.dictionaries(keys, inner, max_size=4), max_leaves=12)
documents = st.dictionaries(keys, json_values, max_size=6)


@given(documents, st.sampled_from([Mapping(), books, Mapping.from_dict({**BOOKS, "dynamic": True})]))
def test_any_document_is_read_or_refused(doc: dict[str, Any], mapping: Mapping) -> None:
    before = mapping.to_dict()
    with suppress(DocumentError):
        parsed = mapping.parse_document(doc)
        grown = parsed.mapping
        assert set(mapping.fields) <= set(grown.fields)
        assert set(parsed.values) <= set(grown.fields)
        assert Mapping.from_dict(grown.to_dict()) == grown
        again = grown.parse_document(doc)
        assert again.mapping is grown
        assert again.values == parsed.values
        for name, natives in parsed.values.items():
            field = grown.fields[name]
            kind = str if not field.is_numeric else float if field.is_float else int
            assert natives
            assert {type(native) for native in natives} == {kind}
    assert mapping.to_dict() == before


@given(mappings, documents)
def test_any_document_on_any_mapping(mapping: Mapping, doc: dict[str, Any]) -> None:
    with suppress(DocumentError):
        mapping.parse_document(doc)


@given(json_values)
def test_any_body_is_a_mapping_or_refused(body: Any) -> None:
    for field in (body, {"type": body}, {"type": "text", "fields": body}):
        with suppress(QuidditchError):
            Mapping.from_dict({"properties": {"f": field}})
    for wrapped in (body, {"properties": body}):
        with suppress(QuidditchError):
            Mapping.from_dict(wrapped)


# Values of queries ------------------------------------------------------------------------------------------

INTEGER, LONG, DOUBLE, FLOAT = (FieldType("f", kind) for kind in ("byte", "long", "double", "float"))
BOOLEAN, DATE, KEYWORD = (FieldType("f", kind) for kind in ("boolean", "date", "keyword"))


def test_query_values() -> None:
    assert INTEGER.parse("12") == 12
    assert INTEGER.parse(12.0) == 12
    assert DOUBLE.parse("1.5") == 1.5
    assert FLOAT.parse(0.1) == pytest.approx(0.1, rel=1e-7)
    assert FLOAT.parse(0.1) != 0.1
    assert BOOLEAN.parse("true") == 1
    assert KEYWORD.parse(5) == "5"
    assert DATE.parse("2024-01-31||/M", now_ms=0) == 1_704_067_200_000
    assert DATE.parse("now-1s", now_ms=1_000) == 0
    assert DATE.parse("2024-01-31", round_up=True) == 1_706_745_599_999
    assert DATE.parse("31.01.2024", format="dd.MM.yyyy") == 1_706_659_200_000
    assert DATE.parse("2024-01-31", time_zone="+01:00") == 1_706_659_200_000 - 3_600_000
    assert DATE.parse(dt.date(2024, 1, 31), round_up=True) == 1_706_745_599_999
    assert DATE.parse("now") > 1_700_000_000_000


@pytest.mark.parametrize(("field", "value"), [
    (INTEGER, 1.5), (INTEGER, 128), (INTEGER, "x"), (INTEGER, None), (INTEGER, True), (DOUBLE, math.nan),
    (BOOLEAN, 1), (KEYWORD, None), (KEYWORD, "\ud800"), (KEYWORD, []), (DATE, "soon"), (DATE, None),
    (DATE, {}),
])
def test_bad_query_values(field: FieldType, value: Any) -> None:
    with pytest.raises(BadValue, match="expected"):
        field.parse(value)


def test_bad_query_dates() -> None:
    with pytest.raises(BadValue, match="offset from UTC"):
        DATE.parse("2024-01-31", time_zone="Europe/Paris")
    with pytest.raises(BadValue, match="known date format"):
        DATE.parse("2024-01-31", format="nonsense")


@pytest.mark.parametrize(("field", "bounds", "interval"), [
    (INTEGER, {}, (-128, 127)),
    (INTEGER, {"gt": 1, "lt": 3}, (2, 2)),
    (INTEGER, {"gt": 1, "lt": 2}, None),
    (INTEGER, {"gte": 1.5, "lte": 3.5}, (2, 3)),
    (INTEGER, {"gt": 1.5, "lt": 3.5}, (2, 3)),
    (INTEGER, {"gt": -1.5, "lt": "-0.5"}, (-1, -1)),
    (INTEGER, {"gte": 1.5, "lte": 1.5}, None),
    (INTEGER, {"gte": -1e30, "lte": 1e30}, (-128, 127)),
    (INTEGER, {"gt": 127}, None),
    (INTEGER, {"gte": 3, "gt": 3, "lte": 9, "lt": 8}, (4, 7)),
    (LONG, {"gt": 2**63 - 1}, None),
    (LONG, {"gte": "9223372036854775806.5"}, (2**63 - 1, 2**63 - 1)),
    (DOUBLE, {"gte": 1, "lte": 2}, (1.0, 2.0)),
    (DOUBLE, {"gt": 1, "lt": math.nextafter(1, 2)}, None),
    (DOUBLE, {"gt": 0}, (5e-324, math.inf)),
    (DOUBLE, {"lte": 10**400}, (-math.inf, math.inf)),
    (FLOAT, {"gte": 0.1, "lte": 0.1}, (FLOAT.parse(0.1), FLOAT.parse(0.1))),
    (FLOAT, {"lt": 1e39}, (-math.inf, math.nextafter(math.inf, 0))),
    (BOOLEAN, {"gte": "true"}, (1, 1)),
    (BOOLEAN, {"gt": True}, None),
    (DATE, {"gte": "2024-01-31", "lte": "2024-01-31"}, (1_706_659_200_000, 1_706_745_599_999)),
    (DATE, {"gt": "2024-01-31", "lt": "2024-02-02"}, (1_706_745_600_000, 1_706_831_999_999)),
    (DATE, {"gte": "now/d", "lt": "now", "now_ms": 86_400_005}, (86_400_000, 86_400_004)),
])
def test_intervals(field: FieldType, bounds: dict[str, Any], interval: Any) -> None:
    assert field.interval(**bounds) == interval


HOLDS = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}


@given(st.sampled_from([INTEGER, FLOAT, DOUBLE]), st.integers(-128, 127),
       st.dictionaries(st.sampled_from(sorted(HOLDS)), st.floats(-300, 300) | st.integers(-200, 200)))
def test_intervals_mean_the_comparisons(field: FieldType, value: int, bounds: dict[str, Any]) -> None:
    interval = field.interval(**bounds)
    inside = interval is not None and interval[0] <= value <= interval[1]
    assert inside == all(
        HOLDS[name](value, FLOAT.parse(bound) if field is FLOAT else bound) for name, bound in bounds.items()
    )


@pytest.mark.parametrize("bounds", [
    {"gte": "x"}, {"lt": math.nan}, {"gt": []}, {"lte": True}, {"gt": math.inf},
])
def test_bad_bounds(bounds: dict[str, Any]) -> None:
    for field in (INTEGER, FLOAT, DOUBLE, DATE):
        with pytest.raises(BadValue):
            field.interval(**bounds)


def test_values_as_json_shows_them() -> None:
    assert DATE.format_value(1_706_659_200_000) == "2024-01-31T00:00:00.000Z"
    assert FieldType("d", "date", format="dd/MM/yyyy||epoch_millis").format_value(0) == "01/01/1970"
    assert BOOLEAN.format_value(1) is True
    assert KEYWORD.format_value("x") == "x"
    assert DOUBLE.format_value(1.5) == 1.5

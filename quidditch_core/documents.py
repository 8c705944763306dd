"""A document against a mapping: dict in, native values by field out.

``compile_parser`` turns a mapping into closures, one per field, because this runs once per value indexed.
They know the mapping only; at a field that it lacks and may gain they stop with ``NewField``, and
``discover`` tells which fields the document adds. ``Mapping.parse_document`` puts the two together.

``compile_reader`` does the same for many documents at once, a column of values a field, as long as nothing about
them is unusual: where it is, the answer is None, and the documents are read one by one.
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quidditch_core import dates
from quidditch_core.errors import DocumentError, nearest
from quidditch_core.fields import (
    INTEGER_RANGES,
    MAX_DEPTH,
    MAX_NAME_BYTES,
    MAX_TERM_BYTES,
    METADATA_NAMES,
    BadValue,
    Dynamic,
    FieldType,
    Native,
    ObjectField,
    join,
    name_problem,
    to_boolean,
    to_date,
    to_float,
    to_integer,
    to_text,
)

Values = dict[str, list[Any]]
"""Full field path -> native values in document order; absent fields have no entry."""
Parser = Callable[[Any, Values], None]
"""(JSON value, values so far): adds to the values, or raises DocumentError or NewField."""
Converter = Callable[[Any], Native | None]
"""Scalar or None -> native value, None to leave it out; raises BadValue."""


_ARRAY: Final = (list, tuple)
_MAX_GAPS: Final = 2_000_000_000
"""Positions that the gaps between a field's values may take; with the words of a document less than 2^31."""


class NewField(Exception):
    """Internal: the document has a field that a dynamic mapping does not have yet."""


# Known fields -----------------------------------------------------------------------------------------------


def compile_parser(root: ObjectField) -> Parser:
    """The parser of whole documents under a mapping's root."""
    return _object_parser(root, "true")


def _object_parser(node: ObjectField, inherited: Dynamic) -> Parser:
    if not node.enabled:
        return lambda value, values: None
    path, dynamic = node.name, node.dynamic or inherited
    parsers: dict[str, Parser] = {
        name: _object_parser(child, dynamic) if isinstance(child, ObjectField) else _leaf_parser(child)
        for name, child in node.properties.items()
    }
    find = parsers.get

    def unknown(name: Any, value: Any, values: Values) -> None:
        if not isinstance(name, str):
            raise DocumentError("a field name is not a string", path=path or None, found=name,
                                expected="a string")
        head, dot, rest = name.partition(".")
        if dot:  # {"a.b": 1} means {"a": {"b": 1}}
            value = {rest: value}
            if head in parsers:
                parsers[head](value, values)
                return
        if not path and head in METADATA_NAMES:
            raise DocumentError("this is a metadata field, which documents cannot hold", path=head,
                                fix="rename the field")
        if dynamic == "strict":
            raise DocumentError(
                "the mapping has no such field and its dynamic is strict", path=_where(path, name),
                found=value, fix=nearest(name, set(parsers)) if parsers else "add it with put_mapping",
            )
        if dynamic == "true" and _first(value, _where(path, name)) is not None:
            raise NewField

    def parse(value: Any, values: Values) -> None:
        if isinstance(value, dict):
            for name, item in value.items():
                parser = find(name)
                if parser is not None:
                    parser(item, values)
                else:
                    unknown(name, item, values)
        elif isinstance(value, _ARRAY) and path:
            for item in _flatten(value, path):
                if item is not None and not isinstance(item, dict):
                    raise _misfit(item)
                parse(item, values)
        elif value is not None or not path:
            raise _misfit(value)

    def _misfit(value: Any) -> DocumentError:
        return DocumentError("the value does not fit the mapping", path=path or None, found=value,
                             expected="an object")

    return parse


def _leaf_parser(field: FieldType) -> Parser:
    name, convert = field.name, converter(field)
    most = 1 + _MAX_GAPS // max(1, field.position_increment_gap)
    others = tuple(_leaf_parser(other) for other in field.fields)

    def parse(value: Any, values: Values) -> None:
        if isinstance(value, _ARRAY):
            for item in _flatten(value, name):
                parse(item, values)
            return
        try:
            native = convert(value)
        except BadValue as error:
            raise DocumentError(
                "the value does not fit the mapping", path=name, found=value, expected=error.expected
            ) from None
        if native is not None:
            if name in values:
                if len(values[name]) >= most:
                    raise DocumentError("too many values for the field's position_increment_gap", path=name,
                                        expected=f"at most {most}", fix="give the field a smaller gap")
                values[name].append(native)
            else:
                values[name] = [native]
        for other in others:
            other(value, values)

    return parse


def _flatten(value: Any, path: str) -> list[Any]:
    """The items of an array, of its arrays, and so on, in order."""
    items = value
    for _ in range(MAX_DEPTH):
        if not any(isinstance(item, _ARRAY) for item in items):
            return list(items)
        items = [part for item in items for part in (item if isinstance(item, _ARRAY) else (item,))]
    raise DocumentError(f"arrays are nested more than {MAX_DEPTH} deep", path=path, fix="flatten the array")


def _where(parent: str, name: Any) -> str:
    """The path of a field that may have any name, fit for a message."""
    path = join(parent, name) if isinstance(name, str) else parent
    return path[:MAX_NAME_BYTES].encode("utf-8", "backslashreplace").decode()


def _first(value: Any, path: str) -> Any:
    """The value that decides a new field's type: itself, or the first not null of an array; or None."""
    if isinstance(value, _ARRAY):
        return next((item for item in _flatten(value, path) if item is not None), None)
    return value


# Scalars ----------------------------------------------------------------------------------------------------


def converter(field: FieldType) -> Converter:
    """From a scalar of a document to the native value of a field, null_value and ignore_above applied."""
    absent = None if field.null_value is None else _converters(field, None)(field.null_value)
    return _converters(field, absent)


def _converters(field: FieldType, absent: Native | None) -> Converter:
    if field.type == "text":
        return _keyword(None, None) if field.analyzer == "keyword" else _text  # there a value is one term, too
    if field.type == "keyword":
        return _keyword(field.ignore_above, absent)
    if field.type == "boolean":
        return lambda value: absent if value is None else to_boolean(value)
    if field.type == "date":
        return _date(field.format, absent)
    if field.type in INTEGER_RANGES:
        return _integer(*field.bounds, field.coerce, absent)
    return _float(field.type == "float", field.coerce, absent)


def _text(value: Any) -> Native | None:
    if type(value) is str and value.isascii():
        return value
    return None if value is None else to_text(value)


def _keyword(ignore_above: int | None, absent: Native | None) -> Converter:
    limit = MAX_TERM_BYTES if ignore_above is None else min(ignore_above, MAX_TERM_BYTES)

    def convert(value: Any) -> Native | None:
        if type(value) is str and value.isascii() and len(value) <= limit:
            return value
        if value is None:
            return absent
        text = to_text(value)
        if ignore_above is not None and len(text.encode("utf-16-le")) > 2 * ignore_above:
            return None
        if len(text.encode()) > MAX_TERM_BYTES:
            raise BadValue(f"at most {MAX_TERM_BYTES} UTF-8 bytes (ignore_above leaves longer ones out)")
        return text

    return convert


def _integer(low: int, high: int, coerce: bool, absent: Native | None) -> Converter:
    def convert(value: Any) -> Native | None:
        if type(value) is int and low <= value <= high:
            return value
        if value is None or _is_blank(value, coerce, f"an integer from {low} to {high}"):
            return absent
        return to_integer(value, low, high, truncate=coerce)

    return convert


def _float(single: bool, coerce: bool, absent: Native | None) -> Converter:
    finite = math.isfinite

    def convert(value: Any) -> Native | None:
        if type(value) is float and not single and finite(value):
            return value + 0.0
        if value is None or _is_blank(value, coerce, "a finite number"):
            return absent
        return to_float(value, single=single)

    return convert


def _is_blank(value: Any, coerce: bool, expected: str) -> bool:
    """An empty string stands for no number, as in OpenSearch; without coerce no string stands for one."""
    if not isinstance(value, str):
        return False
    if not coerce:
        raise BadValue(f"{expected} and not a string, as coerce is false")
    return not value


def _date(format: str, absent: Native | None) -> Converter:
    read = dates.date_format(format).read

    def convert(value: Any) -> Native | None:
        if type(value) is str:
            found = read(value)
            if found is not None:
                return found
        return absent if value is None else to_date(value, format)

    return convert


# Unknown fields ---------------------------------------------------------------------------------------------


def discover(doc: Mapping[Any, Any], root: ObjectField, *, date_detection: bool) -> dict[str, Any]:
    """The properties, in OpenSearch's form, that a document adds to a mapping; ``{}`` if none.

    The first value of a field decides its type, in the order of the document. DocumentError for names,
    depths and values that no mapping can take.
    """
    added: dict[str, Any] = {}
    _discover(doc, root, root.dynamic or "true", date_detection, added, 1)
    return added


def _discover(
    doc: Mapping[Any, Any], node: ObjectField, dynamic: Dynamic, date_detection: bool, added: dict[str, Any],
    depth: int,
) -> None:
    if not node.enabled:
        return
    for key, item in doc.items():
        name, value = key, item
        if isinstance(key, str) and "." in key:
            name, _, rest = key.partition(".")
            value = {rest: item}
        known = node.properties.get(name)
        if isinstance(known, FieldType) or (known is None and dynamic != "true"):
            continue
        path = _where(node.name, name)
        first = _first(value, path)
        if first is None:
            continue
        if known is None:
            problem = name_problem(name, node.name)
            if problem is not None:
                raise DocumentError(f"no mapping can have this field: {problem}", path=path, found=item)
            if not isinstance(first, dict):
                added.setdefault(name, _infer(first, path, date_detection))
                continue
            if depth > MAX_DEPTH:
                raise DocumentError(f"objects are nested more than {MAX_DEPTH} deep", path=path)
            known = ObjectField(join(node.name, name))
            added.setdefault(name, {"properties": {}})
        inner: dict[str, Any] = added.get(name, {}).get("properties", {})
        for part in _flatten(value if isinstance(value, _ARRAY) else (value,), path):
            if isinstance(part, dict):
                _discover(part, known, known.dynamic or dynamic, date_detection, inner, depth + 1)
        if inner:
            added.setdefault(name, {"properties": inner})


def _infer(value: Any, path: str, date_detection: bool) -> dict[str, Any]:
    """The field that a first value makes, by OpenSearch's rules of dynamic mapping."""
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, int):
        return {"type": "long"}
    if isinstance(value, float):
        return {"type": "float"}
    if isinstance(value, dt.date):
        return {"type": "date"}
    if isinstance(value, str):
        if date_detection and _looks_like_date(value):
            return {"type": "date"}
        return {"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 256}}}
    raise DocumentError("this is not a JSON value", path=path, found=value,
                        expected="null, a boolean, number, string, array or object")


_ISO: Final = dates.date_format("strict_date_optional_time")


def _looks_like_date(text: str) -> bool:
    """At least a whole day: a year alone, or year and month, is too often something else."""
    return len(text) >= len("2024-01-31") and _ISO.read(text) is not None


# Many documents ---------------------------------------------------------------------------------------------


class Column(NamedTuple):
    """One field of many documents: its values, UTF-8 in a list or numbers in an array, and the row of each.

    Rows are numbers of documents, ascending, several times where a document has several values. None: each document
    has one value.
    """

    field: FieldType
    rows: NDArray[np.int64] | None
    values: Any


class Table(NamedTuple):
    """What many documents hold. ``whole``: nothing else is in them, and all of it is JSON of one level."""

    columns: list[Column]
    whole: bool


Reader = Callable[[Sequence[dict[str, Any]]], Table | None]
"""Documents -> their columns, or None if one of them is to be read by itself."""


class _Unusual(Exception):
    """Documents are to be read one by one."""


class _Absent:
    """The type of what stands for a field that a document lacks."""


_ABSENT: Final = _Absent()
_NOTHING: Final = frozenset({_Absent, type(None)})
_SCALARS: Final = frozenset({str, int, float, bool, *_NOTHING})


def compile_reader(root: ObjectField) -> Reader:
    """The reader of many whole documents under a mapping's root."""
    read = _object_reader(root, "true")

    def reader(docs: Sequence[dict[str, Any]]) -> Table | None:
        columns: list[Column] = []
        try:
            whole = read(docs, None, columns)
        except (_Unusual, BadValue, OverflowError, UnicodeEncodeError):
            return None
        return Table(columns, whole)

    return reader


_ObjectReader = Callable[[Sequence[dict[str, Any]], NDArray[np.int64] | None, list[Column]], bool]


def _object_reader(node: ObjectField, inherited: Dynamic) -> _ObjectReader:
    dynamic = node.dynamic or inherited
    if not node.enabled:
        return lambda docs, rows, columns: False
    leaves = [(name, _leaf_reader(child)) for name, child in node.properties.items() if isinstance(child, FieldType)]
    objects = [(name, _object_reader(child, dynamic)) for name, child in node.properties.items()
               if isinstance(child, ObjectField)]
    known = {*node.properties}
    path = node.name

    def read(docs: Sequence[dict[str, Any]], rows: NDArray[np.int64] | None, columns: list[Column]) -> bool:
        whole = True
        keys = 0
        for name, leaf in leaves:
            keys += leaf(_values_of(docs, name), rows, columns)
        for name, inner in objects:
            values = _values_of(docs, name)
            keys += len(values) - values.count(_ABSENT)
            values, kinds, within = _flat(values, rows)
            if not kinds <= _OBJECTS:
                raise _Unusual
            if kinds != {dict}:
                some = np.flatnonzero(np.fromiter((type(value) is dict for value in values), np.bool_, len(values)))
                values = [values[row] for row in some.tolist()]
                within = some if within is None else within[some]
            if values:
                whole &= inner(values, within, columns)
        if sum(map(len, docs)) != keys:
            if dynamic != "false":
                raise _Unusual
            for name in set().union(*docs) - known:
                if type(name) is not str or "." in name or (not path and name in METADATA_NAMES):
                    raise _Unusual
            whole = False
        return whole

    return read


_OBJECTS: Final = frozenset({dict, *_NOTHING})


def _values_of(docs: Sequence[dict[str, Any]], name: str) -> list[Any]:
    """The value of a key in each document, _ABSENT where it is not there."""
    try:
        return list(map(itemgetter(name), docs))
    except KeyError:
        return [doc.get(name, _ABSENT) for doc in docs]


def _flat(
    values: list[Any], rows: NDArray[np.int64] | None,
) -> tuple[list[Any], set[type], NDArray[np.int64] | None]:
    """Values with arrays replaced by their items, the types of the values, and the row of each."""
    kinds = set(map(type, values))
    if list not in kinds:
        return values, kinds, rows
    lists = [value if type(value) is list else (value,) for value in values]
    counts = np.fromiter(map(len, lists), np.int64, len(lists))
    items = list(itertools.chain.from_iterable(lists))
    return items, set(map(type, items)), np.repeat(np.arange(counts.size) if rows is None else rows, counts)


def _leaf_reader(field: FieldType) -> Callable[[list[Any], NDArray[np.int64] | None, list[Column]], int]:
    """Reads a field's value in each document; the number of documents that have the key."""
    read = _column_reader(field)
    others = tuple(_column_reader(other) for other in field.fields)
    most = 1 + min(_MAX_GAPS // max(1, other.position_increment_gap) for other in (field, *field.fields))

    def leaf(values: list[Any], rows: NDArray[np.int64] | None, columns: list[Column]) -> int:
        count = len(values)
        given = values
        values, kinds, rows = _flat(values, rows)
        if _Absent in kinds:
            count -= given.count(_ABSENT)
        if not kinds <= _SCALARS or (rows is not None and len(values) > most):
            raise _Unusual
        if _Absent in kinds:
            kept = np.flatnonzero(np.fromiter((value is not _ABSENT for value in values), np.bool_, len(values)))
            values = [values[row] for row in kept.tolist()]
            rows = kept if rows is None else rows[kept]
            kinds.discard(_Absent)
        for each in (read, *others):
            column = each(values, kinds, rows)
            if column is not None:
                columns.append(column)
        return count

    return leaf


_ColumnReader = Callable[[list[Any], set[type], NDArray[np.int64] | None], Column | None]


def _column_reader(field: FieldType) -> _ColumnReader:
    convert = converter(field)
    quick = _quick(field)
    numeric = field.is_numeric
    kind = np.float64 if field.is_float else np.int64

    def read(values: list[Any], kinds: set[type], rows: NDArray[np.int64] | None) -> Column | None:
        found = quick(values, kinds)
        if found is None:
            natives = [convert(value) for value in values]
            if None in natives:
                kept = np.flatnonzero(np.fromiter((native is not None for native in natives), np.bool_, len(natives)))
                natives = [natives[row] for row in kept.tolist()]
                rows = kept if rows is None else rows[kept]
            found = np.array(natives, kind) if numeric else natives
        if not numeric:
            found = list(map(str.encode, found))
        return Column(field, rows, found) if len(found) else None

    return read


def _quick(field: FieldType) -> Callable[[list[Any], set[type]], Any]:
    """The native values of values of one type, all of them; None if they must be converted one by one."""
    if field.type == "text" and field.analyzer != "keyword":
        return lambda values, kinds: values if kinds == {str} else None
    if field.is_float:
        return lambda values, kinds: _floats(values, field.type == "float") if kinds == {float} else None
    if field.type == "date":
        form = dates.date_format(field.format)
        return lambda values, kinds: form.read_many(values) if kinds == {str} else None
    if field.type == "boolean":
        return lambda values, kinds: np.array(values, np.int64) if kinds == {bool} else None
    if field.is_numeric:
        low, high = field.bounds
        return lambda values, kinds: (_integers(values, low, high) if kinds == {int} else None)
    # A code point is at most four bytes of UTF-8 and two units of UTF-16.
    limit = MAX_TERM_BYTES // 4 if field.ignore_above is None else min(field.ignore_above // 2, MAX_TERM_BYTES // 4)
    return lambda values, kinds: values if kinds == {str} and max(map(len, values)) <= limit else None


def _integers(values: list[Any], low: int, high: int) -> NDArray[np.int64] | None:
    found = np.array(values, np.int64)
    return found if low <= int(found.min()) and int(found.max()) <= high else None


def _floats(values: list[Any], single: bool) -> NDArray[np.float64] | None:
    found = np.array(values, np.float64)
    if single:
        with np.errstate(over="ignore"):
            found = found.astype(np.float32).astype(np.float64)
    return found + 0.0 if np.isfinite(found).all() else None

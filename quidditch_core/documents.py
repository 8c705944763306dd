"""A document against a mapping: dict in, native values by field out.

``compile_parser`` turns a mapping into closures, one per field, because this runs once per value indexed.
They know the mapping only; at a field that it lacks and may gain they stop with ``NewField``, and
``discover`` tells which fields the document adds. ``Mapping.parse_document`` puts the two together.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

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

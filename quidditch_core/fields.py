"""The nodes of a mapping: ``FieldType`` (a leaf), ``ObjectField`` (an inner node), and values of each type.

A JSON value becomes a *native* value: str for text and keyword; int for the integers, dates (ms since the
epoch, UTC) and booleans (0 or 1); float for double and float. What does not fit raises ``BadValue``, which
says only what was expected; the caller knows the document or query and raises the error that names it.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec
from msgspec.structs import force_setattr

from quidditch_core.dates import (
    DEFAULT_FORMAT,
    INT64_MAX,
    INT64_MIN,
    BadFormat,
    date_format,
    evaluate,
    from_datetime,
    parse_offset,
)

INTEGER_RANGES: Final[Mapping[str, tuple[int, int]]] = {
    "byte": (-(2**7), 2**7 - 1),
    "short": (-(2**15), 2**15 - 1),
    "integer": (-(2**31), 2**31 - 1),
    "long": (INT64_MIN, INT64_MAX),
}
FLOAT_TYPES: Final = frozenset({"double", "float"})
FIELD_TYPES: Final = frozenset({"text", "keyword", "date", "boolean", *INTEGER_RANGES, *FLOAT_TYPES})

MAX_DEPTH: Final = 20
"""Objects within objects, and arrays within arrays (OpenSearch: index.mapping.depth.limit)."""
MAX_FIELDS: Final = 1_000
"""Fields, multi-fields and objects of one mapping (OpenSearch: index.mapping.total_fields.limit)."""
MAX_NAME_BYTES: Final = 512
"""UTF-8 bytes of a field's full path."""
MAX_TERM_BYTES: Final = 32_766
"""UTF-8 bytes of a keyword (Lucene: IndexWriter.MAX_TERM_LENGTH)."""

METADATA_NAMES: Final = frozenset(
    {
        "_id", "_index", "_source", "_seq_no", "_primary_term", "_version", "_routing", "_field_names",
        "_ignored", "_score", "_doc", "_shard_doc", "_tier", "_nested_path", "_size",
    }
)

Dynamic = Literal["true", "false", "strict"]
Native = int | float | str


class BadValue(ValueError):
    """A value that its field type does not take; ``expected`` says what it takes."""

    def __init__(self, expected: str) -> None:
        self.expected = expected
        super().__init__(f"expected {expected}")


# Values -----------------------------------------------------------------------------------------------------

_INTEGER = re.compile(r"[+-]?[0-9]{1,400}")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]{1,400}(?:\.[0-9]{0,400})?|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,4})?")
_FLOAT32 = struct.Struct("<f")
_MAX_BITS: Final = 8_192
"""Integers beyond this have no sensible text (and Python may refuse to make it)."""


def to_text(value: Any) -> str:
    """A string as it is, a number or boolean as JSON writes it; never one that UTF-8 cannot encode."""
    if isinstance(value, str):
        text = str.__str__(value)
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise BadValue("text without lone surrogates") from None
        return text
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value.bit_length() <= _MAX_BITS:
        return int.__repr__(value)
    if isinstance(value, float) and math.isfinite(value):
        return float.__repr__(value)
    raise BadValue("a string")


def to_number(value: Any, expected: str = "a number") -> int | float | Decimal:
    """A finite number, exact: from a number or from a string in JSON's or Java's notation."""
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, str):
        if _INTEGER.fullmatch(value):
            return int(value)
        if _DECIMAL.fullmatch(value):
            number = Decimal(str.__str__(value))
            if number.adjusted() <= 400:  # so that int() of it stays small
                return number
    raise BadValue(expected)


def to_integer(value: Any, low: int, high: int, *, truncate: bool) -> int:
    """An integer from ``low`` to ``high``; ``truncate`` cuts fractions off, as OpenSearch's coerce does."""
    expected = f"an integer from {low} to {high}"
    number = to_number(value, expected)
    whole = int(number)
    if whole != number and not truncate:
        raise BadValue(expected + " without a fraction")
    if not low <= whole <= high:
        raise BadValue(expected)
    return whole


def to_float(value: Any, *, single: bool) -> float:
    """A finite float64, rounded to a float32 if ``single``; -0.0 becomes 0.0, so that equal is equal."""
    expected = "a finite 32-bit number" if single else "a finite number"
    try:
        number = float(to_number(value, expected))
        if single:
            number = round_to_float32(number)
    except OverflowError:
        raise BadValue(expected) from None
    if not math.isfinite(number):
        raise BadValue(expected)
    return number + 0.0


def round_to_float32(number: float) -> float:
    """The nearest float32 as a float; OverflowError beyond its range."""
    rounded: float = _FLOAT32.unpack(_FLOAT32.pack(number))[0]
    return rounded


def to_boolean(value: Any) -> int:
    """0 or 1 from true, false, "true", "false" or "" (false)."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str) and value in ("true", "false", ""):
        return int(value == "true")
    raise BadValue('true or false, or one of the strings "true", "false", ""')


def date_text(value: Any) -> str | None:
    """The text that a date format shall read: OpenSearch reads numbers through their digits."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bool):
        return None
    if isinstance(value, int) and INT64_MIN <= value <= INT64_MAX:
        return int.__repr__(value)
    if isinstance(value, float) and math.isfinite(value):
        whole = value.is_integer() and abs(value) < 2**63
        return int.__repr__(int(value)) if whole else float.__repr__(value)
    return None


def to_date(value: Any, format: str) -> int:
    """Milliseconds since the epoch of a date in a document: no date math."""
    if isinstance(value, dt.date):
        return from_datetime(value)
    text = date_text(value)
    found = None if text is None else date_format(format).read(text)
    if found is None:
        raise BadValue(f"a date in the format {format!r}")
    return found


# Nodes ------------------------------------------------------------------------------------------------------


class FieldType(msgspec.Struct, frozen=True):
    """One field of a mapping: how its values are read, indexed and kept in columns.

    ``name`` is the full path ("author.name", "title.keyword"); ``fields`` are its multi-fields. Only text
    has an analyzer (default: standard; ``search_analyzer``: the same) and norms; it alone has no doc values.
    ``ignore_above`` counts UTF-16 units, as OpenSearch does.
    """

    name: str
    type: str
    index: bool = True
    doc_values: bool = True
    analyzer: str | None = None
    search_analyzer: str | None = None
    norms: bool = True
    ignore_above: int | None = None
    null_value: str | int | float | bool | None = None
    format: str = DEFAULT_FORMAT
    coerce: bool = True
    position_increment_gap: int = 100
    fields: tuple[FieldType, ...] = ()

    def __post_init__(self) -> None:
        text = self.type == "text"
        if text and self.analyzer is None:
            force_setattr(self, "analyzer", "standard")
        if text and self.search_analyzer is None:
            force_setattr(self, "search_analyzer", self.analyzer)
        force_setattr(self, "norms", self.norms and text)
        force_setattr(self, "doc_values", self.doc_values and not text)

    @property
    def is_text(self) -> bool:
        """Analysed: one value is many terms."""
        return self.type == "text"

    @property
    def is_keyword(self) -> bool:
        """One value is one term."""
        return self.type == "keyword"

    @property
    def is_numeric(self) -> bool:
        """Native values are int or float: the integers, double, float, date and boolean."""
        return not (self.is_text or self.is_keyword)

    @property
    def is_float(self) -> bool:
        """Native values are float."""
        return self.type in FLOAT_TYPES

    @property
    def inverted(self) -> bool:
        """The field has a dictionary of terms and postings."""
        return self.index and not self.is_numeric

    @property
    def column(self) -> Literal["i64", "f64", "ord"] | None:
        """Kind of the column kept for sorting, ranges and aggregations; None without doc values."""
        if not self.doc_values or self.is_text:
            return None
        if self.is_keyword:
            return "ord"
        return "f64" if self.is_float else "i64"

    @property
    def bounds(self) -> tuple[int, int]:
        """Smallest and largest native value of a numeric type that is not a float."""
        return (0, 1) if self.type == "boolean" else INTEGER_RANGES.get(self.type, (INT64_MIN, INT64_MAX))

    def parse(
        self, value: Any, *, round_up: bool = False, now_ms: int | None = None, format: str | None = None,
        time_zone: str | None = None,
    ) -> Native:
        """The native value of a value in a query, or ``BadValue``.

        Integers must be whole: ``interval`` gives fractions and out-of-range bounds their meaning. The other
        arguments are for dates: date math is understood, ``now`` is ``now_ms`` (default: the clock),
        ``round_up`` is for ``gt`` and ``lte``, ``format`` and ``time_zone`` (an offset) replace the field's.
        """
        if self.type == "date":
            return self._parse_date(value, round_up, now_ms, format, time_zone)
        if not self.is_numeric:
            return to_text(value)
        if self.type == "boolean":
            return to_boolean(value)
        if self.is_float:
            return to_float(value, single=self.type == "float")
        return to_integer(value, *self.bounds, truncate=False)

    def interval(
        self, *, gt: Any = None, gte: Any = None, lt: Any = None, lte: Any = None, now_ms: int | None = None,
        format: str | None = None, time_zone: str | None = None,
    ) -> tuple[int | float, int | float] | None:
        """The closed interval of native values that a range asks of a numeric field; None: no value is in it.

        Bounds of None do not bound. Fractions and values beyond the type are taken at their word:
        ``gte: 1.5`` on an integer is 2, ``lte: 1e30`` on a byte is 127. A term is the range ``gte`` = ``lte``
        = value, so that a date without a time means the whole day.
        """
        low, high = (-math.inf, math.inf) if self.is_float else self.bounds

        def bound(value: Any, up: bool) -> int | float:
            """The least native value not below ``value``, or with ``up`` the greatest not above it."""
            if self.is_float:
                return self._float_bound(value)
            if self.type == "date":
                return self._parse_date(value, up, now_ms, format, time_zone)
            if self.type == "boolean":
                return to_boolean(value)
            return math.floor(to_number(value)) if up else math.ceil(to_number(value))

        def beside(value: int | float, step: int) -> int | float:
            return math.nextafter(value, step * math.inf) if self.is_float else value + step

        if gte is not None:
            low = max(low, bound(gte, False))
        if gt is not None:
            low = max(low, beside(bound(gt, True), 1))
        if lte is not None:
            high = min(high, bound(lte, True))
        if lt is not None:
            high = min(high, beside(bound(lt, False), -1))
        return (low, high) if low <= high else None

    def format_value(self, native: Native) -> str | int | float | bool:
        """A native value as JSON shows it: dates in the field's first format, booleans as true and false."""
        if self.type == "date":
            return date_format(self.format).print(int(native))
        return bool(native) if self.type == "boolean" else native

    def _float_bound(self, value: Any) -> float:
        number = to_number(value)
        try:
            return (round_to_float32(float(number)) if self.type == "float" else float(number)) + 0.0
        except OverflowError:
            return math.inf if number > 0 else -math.inf

    def _parse_date(
        self, value: Any, round_up: bool, now_ms: int | None, format: str | None, time_zone: str | None
    ) -> int:
        if isinstance(value, dt.date):
            return from_datetime(value, round_up)
        offset = 0 if time_zone is None else parse_offset(time_zone)
        if offset is None:
            raise BadValue(f"a time zone as an offset from UTC, like +01:00, in place of {time_zone!r}")
        spec = self.format if format is None else format
        try:
            form = date_format(spec)
        except BadFormat as error:
            raise BadValue(f"a known date format ({error})") from None
        now = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        text = date_text(value)
        found = None if text is None else evaluate(text, form, now_ms=now, round_up=round_up, offset=offset)
        if found is None:
            raise BadValue(f"a date in the format {spec!r} or date math like now-7d/d")
        return found


@dataclass(frozen=True, slots=True)
class ObjectField:
    """An inner node of a mapping; the root has the empty name. ``dynamic`` None inherits from the parent."""

    name: str = ""
    properties: Mapping[str, Node] = field(default_factory=dict, hash=False)
    dynamic: Dynamic | None = None
    enabled: bool = True

    def walk(self) -> Iterator[Node]:
        """Every node below this one, parents first, multi-fields after their field."""
        for node in self.properties.values():
            yield node
            if isinstance(node, ObjectField):
                yield from node.walk()
            else:
                yield from node.fields


Node = FieldType | ObjectField


def join(parent: str, name: str) -> str:
    """The full path of a field within an object."""
    return f"{parent}.{name}" if parent else name


def name_problem(name: Any, parent: str = "") -> str | None:
    """What is wrong with a field's own name (a part between dots), or None."""
    if not isinstance(name, str):
        return "field names are strings"
    if not name or name.isspace():
        return "a field name, or a part of it between dots, is blank"
    try:
        size = len(join(parent, name).encode())
    except UnicodeEncodeError:
        return "a field name holds lone surrogates"
    if size > MAX_NAME_BYTES:
        return f"a field's full path is longer than {MAX_NAME_BYTES} bytes"
    if not parent and name in METADATA_NAMES:
        return f"{name} is a metadata field"
    return None
